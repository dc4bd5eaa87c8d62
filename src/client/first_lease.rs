//! The lease at login, for what a client must be told then: at any node that answers.

use std::collections::VecDeque;
use std::time::Instant;

use super::acquire::{RETRY_PAUSE, limit};
use super::card::Card;
use super::farewell::Farewell;
use super::handshake::Admitted;
use super::patience::{Patience, await_resume_to_log_in};
use super::server::Server;
use super::unserved::Unserved;
use super::worker::Worker;
use crate::backend::{ConnectClass, ConnectError, Lease, LeaseError};
use crate::metrics::{Limit, LoginFailure};
use crate::net::timers;
use crate::topology::View;
use crate::wire::SqlState;

/// A lease at any node that answers, for what a client must be told at login. While the database is paused it waits, as
/// statements do.
pub(super) async fn any_node(
    admitted: &Admitted,
    card: &Card,
    server: &Server,
    worker: &Worker,
) -> Result<Lease, Unserved> {
    let mut deadline = Instant::now() + server.hold;
    let (cluster, pause) = (server.cluster(&admitted.database), &admitted.database.pause);
    let mut patience = Patience::of(server);
    let mut changed = cluster.changed.clone();
    loop {
        if pause.is_paused() {
            await_resume_to_log_in(pause, &mut patience, card, worker).await?;
            deadline = Instant::now() + server.hold;
        }
        changed.mark_unchanged();
        let failure = match try_nodes(admitted, &cluster.view.load_full(), deadline, server, worker).await? {
            Ok(lease) if !pause.is_paused() => return Ok(lease),
            // A pause has begun meanwhile, and may count on it that nobody has one.
            Ok(lease) => {
                lease.give_back(Instant::now());
                continue;
            }
            Err(failure) => failure,
        };
        let next = (Instant::now() + RETRY_PAUSE).min(deadline);
        let _ = timers::timeout_at(next.into(), changed.changed()).await;
        if Instant::now() >= deadline && !pause.is_paused() {
            return Err(nobody_serves(failure, worker));
        }
    }
}

/// A lease at the first node that gives one; or what the last one has said, if another attempt may succeed.
async fn try_nodes(
    admitted: &Admitted,
    view: &View,
    deadline: Instant,
    server: &Server,
    worker: &Worker,
) -> Result<Result<Lease, Option<LeaseError>>, Unserved> {
    let (user, password) = (&admitted.identity.user, admitted.user.server_password.as_ref());
    let mut nodes = view.primary().into_iter().chain(view.readable_replicas()).peekable();
    let (mut crowded, mut last) = (VecDeque::new(), None);
    loop {
        let (node, pool) = match nodes.next() {
            Some(node) => {
                let Some(pool) = server.pool(&admitted.database, user, node, password) else { continue };
                if pool.is_crowded(Instant::now()) {
                    // Where others queue it is asked only if no other can.
                    crowded.push_back((node, pool));
                    continue;
                }
                (node, pool)
            }
            None => match crowded.pop_front() {
                Some(next) => next,
                None => return Ok(Err(last)),
            },
        };
        pool.settle(view);
        let deadline = deadline.min(Instant::now() + server.queue_timeout);
        let mut leased = match nodes.peek().is_some() || !crowded.is_empty() {
            true => pool.lease_or_elsewhere(worker.number, deadline).await,
            false => pool.lease(worker.number, deadline).await,
        };
        if let Err(LeaseError::Connect(error)) = &leased
            && pool.relearn(error, password)
        {
            leased = pool.lease(worker.number, deadline).await;
        }
        match leased {
            Ok(lease) => return Ok(Ok(lease)),
            // Whom the primary lets in, a replica may not yet know; in a standby cluster there is nobody who knows better than the
            // last.
            Err(LeaseError::Connect(error))
                if is_denied(&error)
                    && (view.primary == Some(node.id)
                        || view.is_standby && nodes.peek().is_none() && crowded.is_empty()) =>
            {
                server.cluster(&admitted.database).doubt_password(user);
                return Err(denied(&error));
            }
            Err(error) => last = Some(error),
        }
    }
}

fn is_denied(error: &ConnectError) -> bool {
    error.class() == ConnectClass::Denied
}

/// A node does not let the client's role in.
fn denied(error: &ConnectError) -> Unserved {
    let (code, message) = error.denial();
    let cause = match code {
        SqlState::INVALID_CATALOG_NAME => LoginFailure::UnknownDatabase,
        _ => LoginFailure::NodeRefused,
    };
    let farewell = match error.denial_in_full() {
        Some(fields) => Farewell::Quoted { code, fields },
        None => Farewell::told(code, message),
    };
    Unserved::by(cause, farewell)
}

/// What a client is told that no node has served in time.
fn nobody_serves(failure: Option<LeaseError>, worker: &Worker) -> Unserved {
    if let Some(LeaseError::Connect(error)) = &failure
        && is_denied(error)
    {
        // What a replica says alone may not be true of its primary, and counts only because nobody else says anything.
        return Unserved::by(LoginFailure::NoNode, denied(error).farewell);
    }
    let is_full = match &failure {
        Some(LeaseError::Full(crowd)) => Some(limit(*crowd)),
        Some(LeaseError::Connect(error)) if error.class() == ConnectClass::Full => Some(Limit::NodeConnections),
        _ => None,
    };
    let because = failure.map_or_else(|| "no node can serve".to_owned(), |error| error.to_string());
    match is_full {
        Some(limit) => {
            worker.metrics.limit_met(limit);
            Farewell::told(SqlState::TOO_MANY_CONNECTIONS, because).into()
        }
        None => Unserved::by(LoginFailure::NoNode, Farewell::told(SqlState::CANNOT_CONNECT_NOW, because)),
    }
}
