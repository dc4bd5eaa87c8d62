//! The commands that change something, and who may give them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::command::{Command, Unknown};
use super::table::Table;
use super::wish::{Wish, Withdrawn};
use super::{Desk, Shutdown, explain, show};
use crate::client::acquire::CANCELED;
use crate::client::console::Right;
use crate::client::farewell::Farewell;
use crate::client::pause::Cause;
use crate::client::server::IsAsked;
use crate::client::{Killed, NotPaused, Scope, Whom};
use crate::net::timers;
use crate::topology::{NodeId, View};
use crate::wire::SqlState;

/// What a command answers.
#[derive(Debug)]
pub(super) enum Answer {
    /// Rows.
    Rows(Table),
    /// It is done.
    Done {
        /// The word for it; empty: nothing was asked.
        tag: &'static str,
        /// What there is to be said about it.
        notice: Option<String>,
    },
}

/// Who gives a command.
#[derive(Clone, Debug)]
pub(super) struct Giver {
    pub(super) user: Arc<str>,
    /// The address, or empty for a socket of this machine.
    pub(super) from: String,
}

/// Why a command is not done.
#[derive(Debug)]
pub(super) enum Undone {
    /// By a mistake of whoever gives it, who goes on.
    Mistaken(Mistake),
    /// Because its session is over.
    Over(Farewell),
}

/// What is wrong with a command.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) code: SqlState,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Mistake {
    pub(super) fn new(code: SqlState, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// Somebody has named something else than one of these.
    fn naming(self, known: &[&str]) -> Self {
        self.hint(format!("there is: {}", known.join(", ")))
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<Mistake> for Undone {
    fn from(mistake: Mistake) -> Self {
        Self::Mistaken(mistake)
    }
}

impl From<Unknown> for Mistake {
    fn from(unknown: Unknown) -> Self {
        Self::new(SqlState::SYNTAX_ERROR, unknown.message).hint(unknown.hint)
    }
}

impl Command {
    /// What is ordered once the client has been told that it is done: it may end the client, too.
    pub(super) fn stop_after(&self) -> Option<Shutdown> {
        match self {
            Self::Shutdown(how) => Some(*how),
            _ => None,
        }
    }

    /// It shows something, and changes nothing.
    pub(super) fn has_rows(&self) -> bool {
        matches!(self, Self::Show(_) | Self::ExplainRoute(_) | Self::One)
    }

    /// It may wait for long, and can be left undone meanwhile.
    fn can_be_given_up(&self) -> bool {
        matches!(self, Self::Pause(_) | Self::WaitClose(_) | Self::Drain(_, true) | Self::Switchover(..))
    }

    fn changes(&self) -> bool {
        !self.has_rows() && !matches!(self, Self::Courtesy(_) | Self::Empty)
    }
}

/// Does what a command asks, if who gives it may by the configuration in force, and as long as it is wanted: what waits is given
/// up otherwise. What changes something is logged with what has become of it.
pub(super) async fn answer(
    command: &Command,
    giver: &Giver,
    desk: &Arc<Desk>,
    wish: Wish<'_>,
) -> Result<Answer, Undone> {
    let answered = answer_if_allowed(command, giver, desk, wish).await;
    if command.changes() {
        say_outcome(command, giver, &answered);
    }
    answered
}

fn say_outcome(command: &Command, giver: &Giver, answered: &Result<Answer, Undone>) {
    let (command, user, from) = (command.to_string(), &*giver.user, &giver.from);
    match answered {
        Ok(Answer::Done { notice, .. }) => {
            info!(command, user, from, notice = notice.as_deref(), "a command of the console is done");
        }
        // It was said when it was given up.
        Err(Undone::Mistaken(Mistake { code: SqlState::QUERY_CANCELED, .. })) => {}
        Err(Undone::Mistaken(Mistake { code, message, .. })) => {
            warn!(command, user, from, code = code.as_str(), error = message, "a command of the console is not done");
        }
        Ok(Answer::Rows(_)) | Err(Undone::Over(_)) => {}
    }
}

async fn answer_if_allowed(
    command: &Command,
    giver: &Giver,
    desk: &Arc<Desk>,
    wish: Wish<'_>,
) -> Result<Answer, Undone> {
    if wish.card.is_ended() {
        return Err(Undone::Over(Farewell::sent_away()));
    }
    let Some(right) = desk.in_force.load().console_right(&giver.user) else {
        let message = "terminating connection: its user may not use the console any more";
        return Err(Undone::Over(Farewell::told(SqlState::ADMIN_SHUTDOWN, message)));
    };
    if command.changes() {
        if right != Right::Change {
            let message = "only users of the console may change something, and you are one of its stats_users";
            return Err(Mistake::new(SqlState::INSUFFICIENT_PRIVILEGE, message).into());
        }
        // These are about clients and connections of this process alone, which no other knows.
        let is_of_here =
            matches!(command, Command::KillClient(_) | Command::WaitClose(_)) || command.stop_after().is_some();
        if desk.others.have_taken_over() && !is_of_here {
            let message = "another process serves now; connect anew";
            return Err(Mistake::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).into());
        }
        let said = command.to_string();
        info!(command = said, user = &*giver.user, from = giver.from, "a command was given at the console");
    }
    let is_asked = IsAsked::default();
    let mut done = Box::pin(obey(command, giver, desk, &is_asked));
    if !command.can_be_given_up() {
        return done.await.map_err(Undone::from);
    }
    loop {
        tokio::select! {
            // What is done is told, whoever wants it no more.
            biased;
            answer = &mut done => return answer.map_err(Undone::from),
            // Dropping the command undoes what it has begun, and what of it stays is said.
            withdrawn = wish.is_withdrawn() => match (is_asked.load(Ordering::Relaxed), withdrawn) {
                (false, _) => return Err(given_up(command, withdrawn)),
                // Patroni does what it was asked for: that cannot be cancelled any more.
                (true, Withdrawn::Cancelled) => {}
                (true, Withdrawn::Left) => return Err(Undone::Over(Farewell::Left)),
                (true, Withdrawn::Ended) => return Err(Undone::Over(Farewell::sent_away())),
            },
        }
    }
}

fn given_up(command: &Command, withdrawn: Withdrawn) -> Undone {
    info!(command = command.to_string(), ?withdrawn, "a command was given up");
    let mistake = match command {
        _ if withdrawn == Withdrawn::Ended => return Undone::Over(Farewell::sent_away()),
        Command::Drain(node, _) => {
            let message = format!("{CANCELED}: {node} stays drained, and what runs there goes on");
            Mistake::new(SqlState::QUERY_CANCELED, message).hint("ATTACH puts it back")
        }
        _ => Mistake::new(SqlState::QUERY_CANCELED, CANCELED),
    };
    mistake.into()
}

async fn obey(command: &Command, giver: &Giver, desk: &Arc<Desk>, is_asked: &IsAsked) -> Result<Answer, Mistake> {
    let server = desk.in_force.load_full();
    match command {
        Command::Show(subject) => Ok(Answer::Rows(show::show(*subject, desk).await)),
        Command::ExplainRoute(sql) => Ok(Answer::Rows(explain::explain(sql, &giver.user, &server))),
        Command::One => {
            let mut table = Table::new("#?column?");
            table.row([1_u64.into()]);
            Ok(Answer::Rows(table))
        }
        Command::Courtesy(tag) => done(tag),
        Command::Empty => done(""),
        Command::Reload => reload(desk).await,
        Command::Pause(name) => {
            let scope = scope(desk, name.as_ref())?;
            match server.pause(&scope, Instant::now() + server.pause_timeout).await {
                Ok(()) => done("PAUSE"),
                Err(cause) => Err(not_paused(cause)),
            }
        }
        Command::Resume(name) => match server.resume(&paused_scope(desk, name.as_ref())?) {
            true => done("RESUME"),
            false => Err(Mistake::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "nothing of it is paused")),
        },
        Command::Enable(name, enable) => {
            scope(desk, Some(name))?;
            let pause = server.pauses.of(name);
            match enable {
                true => drop(pause.end(Cause::Disabled)),
                false => drop(pause.begin(Cause::Disabled)),
            }
            done(if *enable { "ENABLE" } else { "DISABLE" })
        }
        Command::Kill(name) => kill(desk, name.as_ref()).await,
        Command::KillClient(id) => match desk.fleet.kill(&Whom::Session(*id)).await {
            Killed { clients: 0, silent: 0 } => {
                Err(Mistake::new(SqlState::UNDEFINED_OBJECT, format!("there is no client {id}")))
            }
            Killed { clients: 0, silent } => {
                let message = format!("no worker that answers has a client {id}; {}", unheard(silent));
                Err(Mistake::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message))
            }
            _ => done("KILL_CLIENT"),
        },
        Command::Reconnect(name) => {
            let scope = scope(desk, name.as_ref())?;
            server.reconnect(&scope);
            done("RECONNECT")
        }
        Command::WaitClose(name) => wait_close(desk, name.as_ref()).await,
        Command::Drain(node, true) => drain(desk, node).await,
        Command::Drain(node, false) => {
            let (cluster, id) = find_node(desk, node)?;
            match server.clusters.get(cluster).is_some_and(|cluster| (cluster.set_drained)(id, false)) {
                true => done("ATTACH"),
                false => {
                    Err(Mistake::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("{node} is not drained")))
                }
            }
        }
        Command::Switchover(cluster, to) => switch_over(desk, cluster.as_ref(), to.clone(), is_asked).await,
        // Once the client has been answered: see [`Command::stop_after`].
        Command::Shutdown(_) => done("SHUTDOWN"),
        Command::ForgetShapes => {
            desk.fleet.forget_shapes();
            done("FORGET")
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is what each command answers")]
fn done(tag: &'static str) -> Result<Answer, Mistake> {
    Ok(Answer::Done { tag, notice: None })
}

fn scope(desk: &Desk, name: Option<&Arc<str>>) -> Result<Scope, Mistake> {
    let Some(name) = name else { return Ok(Scope::All) };
    let server = desk.in_force.load();
    if server.databases.contains_key(name) {
        return Ok(Scope::Database(Arc::clone(name)));
    }
    let mut known: Vec<&str> = server.databases.keys().map(|name| &**name).collect();
    known.sort_unstable();
    let mistake = Mistake::new(SqlState::INVALID_CATALOG_NAME, format!("there is no database \"{name}\""));
    Err(mistake.naming(&known))
}

/// The same for RESUME: a database that was paused before it was taken out of the configuration is known by that.
fn paused_scope(desk: &Desk, name: Option<&Arc<str>>) -> Result<Scope, Mistake> {
    match name {
        Some(name) if desk.in_force.load().pauses.is_paused(name) => Ok(Scope::Database(Arc::clone(name))),
        name => scope(desk, name),
    }
}

fn not_paused(cause: NotPaused) -> Mistake {
    let mistake = Mistake::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("not paused: {cause}"));
    match cause {
        NotPaused::Busy { .. } => {
            mistake.hint("SHOW CLIENTS names who holds them; failover.pause_timeout is how long PAUSE waits")
        }
        NotPaused::Resumed => mistake,
    }
}

async fn reload(desk: &Desk) -> Result<Answer, Mistake> {
    let (sender, answer) = oneshot::channel();
    // Where nobody takes it, nobody answers either.
    let _ = desk.reloads.send(sender);
    match answer.await {
        Ok(Ok(remarks)) => {
            Ok(Answer::Done { tag: "RELOAD", notice: (!remarks.is_empty()).then(|| remarks.join("\n")) })
        }
        Ok(Err(problems)) => {
            let message = format!("the configuration is wrong, and the old one stays in force:\n{problems}");
            Err(Mistake::new(SqlState::CONFIG_FILE_ERROR, message))
        }
        Err(_) => Err(Mistake::new(SqlState::CANNOT_CONNECT_NOW, "the program is stopping")),
    }
}

/// As PgBouncer does: what comes next waits for RESUME.
async fn kill(desk: &Desk, name: Option<&Arc<str>>) -> Result<Answer, Mistake> {
    let scope = scope(desk, name)?;
    let whom = name.map_or(Whom::Served, |name| Whom::Database(Arc::clone(name)));
    let server = desk.in_force.load_full();
    server.hold(&scope);
    let killed = desk.fleet.kill(&whom).await;
    server.reconnect(&scope);
    let mut notice = format!("{} clients were sent away; RESUME lets others go on", killed.clients);
    if killed.silent > 0 {
        notice = format!("{notice}; {}", unheard(killed.silent));
    }
    Ok(Answer::Done { tag: "KILL", notice: Some(notice) })
}

/// What there is to be said of workers that have not answered KILL.
fn unheard(silent: usize) -> String {
    format!("{silent} workers hang and do not answer: their clients are sent away as soon as they turn again")
}

/// Returns when what RECONNECT, a reload or a fence has left to be closed is closed.
async fn wait_close(desk: &Desk, name: Option<&Arc<str>>) -> Result<Answer, Mistake> {
    let scope = scope(desk, name)?;
    let server = desk.in_force.load_full();
    let deadline = Instant::now() + server.pause_timeout;
    loop {
        let left = server.leaving(&scope);
        if left == 0 {
            return done("WAIT_CLOSE");
        }
        if Instant::now() >= deadline {
            let message = format!("{left} server connections that are to be closed are still in use");
            let hint = "SHOW SERVERS has 1 for close_needed there; failover.pause_timeout is how long WAIT_CLOSE waits";
            return Err(Mistake::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint(hint));
        }
        timers::sleep(LOOK).await;
    }
}

/// So often a command looks whether what it waits for has come.
const LOOK: Duration = Duration::from_millis(5);

fn find_node(desk: &Desk, address: &str) -> Result<(usize, NodeId), Mistake> {
    let server = desk.in_force.load();
    for (number, cluster) in server.clusters.iter().enumerate() {
        if let Some(id) = node_at(&cluster.view.load(), address, &(cluster.drained)()) {
            return Ok((number, id));
        }
    }
    Err(Mistake::new(SqlState::UNDEFINED_OBJECT, format!("there is no node {address}")).hint("SHOW NODES names them"))
}

/// Of those that are shown, or that an operator has drained: as long as it is, ATTACH must find it.
fn node_at(view: &View, address: &str, drained: &[Arc<str>]) -> Option<NodeId> {
    let mut nodes = view.nodes.iter().filter(|node| !node.is_forgotten || drained.contains(&node.address));
    nodes.find(|node| *node.address == *address).map(|node| node.id)
}

/// New statements wait, open transactions may end, and Patroni promotes another; returns when it has.
async fn switch_over(
    desk: &Desk,
    name: Option<&Arc<str>>,
    to: Option<Arc<str>>,
    is_asked: &IsAsked,
) -> Result<Answer, Mistake> {
    let server = desk.in_force.load_full();
    let cluster = match (name, &*server.clusters) {
        (None, [only]) => Ok(only),
        (None, _) => Err("which cluster is to switch over must be said".to_owned()),
        (Some(name), clusters) => {
            let meant = clusters.iter().find(|cluster| cluster.name == *name);
            meant.ok_or_else(|| format!("there is no cluster \"{name}\""))
        }
    };
    let cluster = cluster.map_err(|message| {
        let known: Vec<&str> = server.clusters.iter().map(|cluster| &*cluster.name).collect();
        Mistake::new(SqlState::UNDEFINED_OBJECT, message).naming(&known)
    })?;
    match (cluster.switch_over)(to, Arc::clone(is_asked)).await {
        Ok(words) => Ok(Answer::Done { tag: "SWITCHOVER", notice: Some(words) }),
        Err(why) => Err(Mistake::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, why)),
    }
}

/// No new read goes there; returns when the last lease has come back, or says how many are left.
async fn drain(desk: &Desk, address: &str) -> Result<Answer, Mistake> {
    let (number, id) = find_node(desk, address)?;
    let server = desk.in_force.load_full();
    let Some(cluster) = server.clusters.get(number) else { return done("DRAIN") };
    if cluster.view.load().primary == Some(id) {
        let message = format!("{address} is the primary: what must go there could go nowhere else");
        return Err(Mistake::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint("switch over first"));
    }
    (cluster.set_drained)(id, true);
    let deadline = Instant::now() + server.pause_timeout;
    let leases = || cluster.gate(id).map_or(0, |gate| gate.leases());
    while leases() > 0 && Instant::now() < deadline {
        timers::sleep(LOOK).await;
    }
    server.pools.reconnect(|key| key.cluster == cluster.number && key.node == id, Instant::now());
    let left = leases();
    let notice = (left > 0).then(|| format!("{left} server connections are still in use there; no new one will be"));
    Ok(Answer::Done { tag: "DRAIN", notice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_shown_any_more_is_known_as_long_as_it_is_drained() {
        let mut view = View::unknown("c", &["a:1".into(), "b:1".into()]);
        let (shown, forgotten) = (Some(view.nodes[0].id), Some(view.nodes[1].id));
        view.nodes[1].is_forgotten = true;
        assert_eq!((node_at(&view, "a:1", &[]), node_at(&view, "b:1", &[])), (shown, None));
        assert_eq!(node_at(&view, "b:1", &["b:1".into()]), forgotten);
        assert_eq!(node_at(&view, "b:1", &["a:1".into()]), None);
    }
}
