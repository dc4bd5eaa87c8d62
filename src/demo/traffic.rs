//! Clients that read and write through Trunkline, and check every answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::client::{Client, ClientError, Rows};
use super::node::{Node, NodeError};
use crate::wire::SqlState;

/// Running clients.
pub(super) struct Traffic {
    clients: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    report: Mutex<Report>,
    is_over: AtomicBool,
}

/// What the clients have seen so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Clients that began.
    pub(super) clients: u32,
    /// Statements by the port of the server that answered.
    pub(super) statements: BTreeMap<u16, u64>,
    /// Reads answered.
    pub(super) reads: u64,
    /// Writes acknowledged.
    pub(super) writes: u64,
    /// The longest that one write took.
    pub(super) longest_write: Duration,
    /// Writes that the lost primary left without an answer; reported as such (08007), never repeated for the client.
    pub(super) unknown: u64,
    /// Transactions that the lost primary took along (40001), to be run again by their client.
    pub(super) aborted: u64,
    /// Reads that did not see their own session's last write.
    pub(super) stale: u64,
    /// Writes that a node in recovery says it has done.
    pub(super) misrouted: u64,
    /// Errors that no client should see.
    pub(super) errors: Vec<String>,
    /// Connections lost.
    pub(super) lost: u64,
}

impl Traffic {
    /// Makes the table past Trunkline, then starts the clients; each logs in before this returns.
    pub(super) fn start(port: u16, primary: &Node, clients: u32) -> Result<Self, super::DemoError> {
        make_table(primary, clients)?;
        let report = Report { clients, ..Report::default() };
        let shared = Arc::new(Shared { report: Mutex::new(report), is_over: AtomicBool::new(false) });
        let clients = (0..clients)
            .map(|id| {
                let session = Session { client: Client::connect(port, "bench", "bench", "bench")?, id, count: 0 };
                let shared = Arc::clone(&shared);
                Ok(thread::spawn(move || session.run(&shared)))
            })
            .collect::<Result<_, ClientError>>()?;
        Ok(Self { clients, shared })
    }

    /// What was seen so far.
    pub(super) fn report(&self) -> Report {
        self.shared.report().clone()
    }

    /// Lets the clients finish what they do, and says what they saw.
    pub(super) fn end(self) -> Report {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for client in self.clients {
            if client.join().is_err() {
                self.shared.report().errors.push("a client of the demo ended in a panic".into());
            }
        }
        self.shared.report().clone()
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Report {
    /// What must never happen and did.
    pub(super) fn broken_promises(&self) -> Vec<String> {
        let counted = [
            (self.stale, "reads older than their session's own write"),
            (self.misrouted, "writes answered by a replica"),
            (self.lost, "clients that lost their connection"),
            (u64::from(self.reads == 0), "no read was answered"),
            (u64::from(self.writes == 0), "no write was acknowledged"),
        ];
        let counted = counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} × {what}"));
        counted.chain(self.errors.iter().map(|error| format!("an error that no client should see: {error}"))).collect()
    }

    /// All of it in a few lines.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} clients: {} reads, {} writes; the longest write took {:.2} s\n\
             connections lost {}, stale reads {}, errors {}; commits cut off by the crash: {} of unknown outcome (08007), {} to be run again (40001)",
            self.clients,
            self.reads,
            self.writes,
            self.longest_write.as_secs_f64(),
            self.lost,
            self.stale,
            self.errors.len(),
            self.unknown,
            self.aborted,
        )
    }
}

/// One client, with a row of its own that it counts up.
struct Session {
    client: Client,
    id: u32,
    count: u64,
}

/// How a statement ended that was not answered.
enum Ended {
    /// Nothing is wrong: go on.
    Expected,
    /// This client can't go on.
    Finished,
}

impl Session {
    fn run(mut self, shared: &Shared) {
        let mut turn = u64::from(self.id);
        while !shared.is_over.load(Ordering::Relaxed) {
            turn += 1;
            let ended = match turn % 8 {
                0 => self.write(shared),
                4 => self.write_in_transaction(shared),
                _ => self.read(shared),
            };
            if matches!(ended, Err(Ended::Finished)) {
                return;
            }
            thread::sleep(PAUSE);
        }
    }

    fn read(&mut self, shared: &Shared) -> Result<(), Ended> {
        let text = format!("select inet_server_port(), pg_is_in_recovery(), n from counters where id = {}", self.id);
        let rows = self.ask(&text, shared)?;
        let seen = value(&rows, 2);
        let mut report = shared.report();
        report.reads += 1;
        report.count(&rows);
        // Reads run on the primary too, while no replica is fresh enough: that costs, and breaks nothing.
        report.stale += u64::from(seen != Some(self.count));
        Ok(())
    }

    fn write(&mut self, shared: &Shared) -> Result<(), Ended> {
        let text = self.update();
        self.timed(shared, |session| session.ask(&text, shared))
    }

    fn write_in_transaction(&mut self, shared: &Shared) -> Result<(), Ended> {
        let text = self.update();
        self.timed(shared, |session| {
            session.ask("begin", shared)?;
            let rows = session.ask(&text, shared)?;
            session.ask("commit", shared)?;
            Ok(rows)
        })
    }

    fn update(&self) -> String {
        format!(
            "update counters set n = {} where id = {} returning inet_server_port(), pg_is_in_recovery(), n",
            self.count + 1,
            self.id
        )
    }

    fn timed(&mut self, shared: &Shared, write: impl FnOnce(&mut Self) -> Result<Rows, Ended>) -> Result<(), Ended> {
        let begun = Instant::now();
        let rows = write(self)?;
        self.count += 1;
        let mut report = shared.report();
        report.writes += 1;
        report.longest_write = report.longest_write.max(begun.elapsed());
        report.misrouted += u64::from(in_recovery(&rows));
        report.count(&rows);
        Ok(())
    }

    fn ask(&mut self, text: &str, shared: &Shared) -> Result<Rows, Ended> {
        let problem = match self.client.query(text) {
            Ok(rows) => return Ok(rows),
            Err(problem) => problem,
        };
        match problem {
            ClientError::Refused { code: SqlState::SERIALIZATION_FAILURE, .. } => {
                shared.report().aborted += 1;
                self.roll_back(shared)
            }
            ClientError::Refused { code: SqlState::TRANSACTION_RESOLUTION_UNKNOWN, .. } => {
                shared.report().unknown += 1;
                self.find_out(shared)
            }
            ClientError::Refused { .. } => {
                shared.report().errors.push(problem.to_string());
                self.roll_back(shared)
            }
            _ => {
                let mut report = shared.report();
                report.lost += 1;
                report.errors.push(problem.to_string());
                Err(Ended::Finished)
            }
        }
    }

    fn roll_back(&mut self, shared: &Shared) -> Result<Rows, Ended> {
        if let Err(problem) = self.client.query("rollback") {
            shared.report().errors.push(problem.to_string());
        }
        Err(Ended::Expected)
    }

    /// After an unknown outcome a client looks for itself: the write is there, or it is not.
    fn find_out(&mut self, shared: &Shared) -> Result<Rows, Ended> {
        match self.look_for_own_write() {
            Ok(rows) if value(&rows, 2) == Some(self.count + 1) => self.count += 1,
            Ok(rows) if value(&rows, 2) == Some(self.count) => {}
            Ok(rows) => shared.report().errors.push(format!("{rows:?} where {} was acknowledged", self.count)),
            Err(problem) => shared.report().errors.push(problem.to_string()),
        }
        Err(Ended::Expected)
    }

    /// A row lock makes it the primary's answer: while no primary is known, this waits for the new one. As long as the
    /// dying primary still takes statements, it may take this one along too.
    fn look_for_own_write(&mut self) -> Result<Rows, ClientError> {
        let text = format!("select 0, false, n from counters where id = {} for update", self.id);
        let deadline = Instant::now() + DYING;
        loop {
            match self.client.query(&text) {
                Err(ClientError::Refused { code: SqlState::TRANSACTION_RESOLUTION_UNKNOWN, .. })
                    if Instant::now() < deadline => {}
                answer => return answer,
            }
        }
    }
}

impl Report {
    fn count(&mut self, rows: &Rows) {
        if let Some(port) = value(rows, 0).and_then(|port| u16::try_from(port).ok()) {
            *self.statements.entry(port).or_default() += 1;
        }
    }
}

fn value(rows: &Rows, column: usize) -> Option<u64> {
    rows.first()?.get(column)?.as_ref()?.parse().ok()
}

fn in_recovery(rows: &Rows) -> bool {
    rows.first().and_then(|row| row.get(1)?.as_deref()) == Some("t")
}

fn make_table(primary: &Node, clients: u32) -> Result<(), NodeError> {
    primary.sql(&format!(
        "create table counters (id int primary key, n bigint not null); \
         insert into counters select id, 0 from generate_series(0, {}) id; \
         grant all on counters to bench",
        clients.saturating_sub(1)
    ))?;
    Ok(())
}

/// A killed primary's last server connections are gone long before.
const DYING: Duration = Duration::from_secs(5);
/// A person's machine has other things to do.
const PAUSE: Duration = Duration::from_millis(2);
