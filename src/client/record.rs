//! What the log says of clients: who has logged in, who leaves, who is turned away, with what it is told, and what is lost.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::{info, warn};

use super::card::{Card, ClientReport, Doing};
use super::farewell::Farewell;
use super::handshake::FULL;
use super::server::Server;
use super::worker::Worker;
use crate::complaints::Complaints;
use crate::metrics::Loss;
use crate::wire::SqlState;
use crate::wire::error_response::ErrorFields;

/// It has logged in; said where `log.connections` asks for it.
pub(super) fn has_logged_in(card: &Card, server: &Server) {
    if server.logs_connections {
        let (id, client, user, database) = whose(card);
        info!(id, client, user = &*user, database = &*database, "a client has logged in");
    }
}

/// It leaves, is cut off, or is turned away. Who had not logged in is not said to have left.
pub(super) fn ends(card: &Card, server: &Server, worker: &Worker, farewell: &Farewell) {
    match farewell {
        Farewell::Told { code: SqlState::ADMIN_SHUTDOWN, message, .. }
            if worker.sends_all_away() && card.has_logged_in() =>
        {
            sent_away(card, server, message);
        }
        Farewell::Told { code, message, .. } => turned_away(card, server, worker, (*code, message)),
        Farewell::Quoted { code, fields } => {
            let told = String::from_utf8_lossy(ErrorFields::read(fields).message);
            turned_away(card, server, worker, (*code, &told));
        }
        Farewell::Left | Farewell::Lost(_) if server.logs_connections && card.has_logged_in() => {
            let (id, client, user, database) = whose(card);
            info!(id, client, user = &*user, database = &*database, why = %farewell, "a client has left");
        }
        Farewell::Torn | Farewell::EndedByNode if server.logs_connections => {
            let (id, client, user, database) = whose(card);
            info!(id, client, user = &*user, database = &*database, why = %farewell, "a client was cut off");
        }
        _ => {}
    }
}

/// The program stops, and there may be thousands of them: who has nothing under way is said where `log.connections` asks for it.
fn sent_away(card: &Card, server: &Server, told: &str) {
    let has_something = matches!(card.doing(), Doing::Active | Doing::InTransaction | Doing::Waiting);
    if server.logs_connections || has_something {
        let (id, client, user, database) = whose(card);
        info!(id, client, user = &*user, database = &*database, told, "a client was sent away");
    }
}

fn turned_away(card: &Card, server: &Server, worker: &Worker, (code, told): (SqlState, &str)) {
    // Whoever else comes is told the same.
    let is_everybodys = match code {
        // A limit of its own, or of its pool, is no other client's.
        SqlState::TOO_MANY_CONNECTIONS => told.starts_with(FULL),
        SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN => worker.is_closed() || worker.sends_all_away(),
        _ => false,
    };
    let shared = (is_everybodys && !card.has_logged_in()).then_some((&server.complaints, told));
    say(shared, |times| {
        let (id, client, user, database) = whose(card);
        let (user, database, code) = (&*user, &*database, code.as_str());
        info!(id, client, user, database, code, told, times, "a client was turned away");
    });
}

/// What it had under way is lost with its node. Where nobody knows whether it was done, somebody has to look: each of those is
/// said. Of the others there are as many as there are clients, when a node dies.
pub(super) fn loses(card: &Card, server: &Server, lost_on: Option<Arc<str>>, outcome: Loss) {
    let node = lost_on.or_else(|| card.report().node).unwrap_or_default();
    let (node, code) = (&*node, outcome.code());
    let reason = format!("{code} {node}");
    let shared = match outcome {
        Loss::Unknown => None,
        Loss::RolledBack | Loss::CutShort | Loss::ReplayDiffered => Some((&server.losses, &*reason)),
    };
    say(shared, |times| {
        let (id, client, user, database) = whose(card);
        let (user, database) = (&*user, &*database);
        warn!(id, client, user, database, node, outcome = code, times, "a transaction was lost with its node");
    });
}

/// Says it each time, or, where others have met the same reason, now and then, with how often they have.
fn say(shared: Option<(&Mutex<Complaints>, &str)>, line: impl FnOnce(Option<u64>)) {
    let times = shared.map(|(complaints, reason)| complaints.lock().meet(reason, Instant::now()));
    if times != Some(None) {
        line(times.flatten());
    }
}

/// Its number, address, user and database; empty what is not known, as the address of one that comes by a socket of this
/// machine. Texts of a client are logged as strings, never by their Display: so a newline in one begins no line of the log.
fn whose(card: &Card) -> (u64, String, Arc<str>, Arc<str>) {
    let ClientReport { id, peer, identity, .. } = card.report();
    let address = peer.map(|peer| peer.to_string()).unwrap_or_default();
    let (user, database) = identity.map(|identity| (identity.user, identity.database)).unwrap_or_default();
    (id.0, address, user, database)
}
