//! What is learnt of nodes: results of probes, light samples, and doubts. [`crate::monitor`] gathers them.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::authority::Word;
use super::lsn::{Lsn, Timeline};
use super::view::{NodeId, Sample};

/// Something learnt of one node.
#[derive(Clone, Debug)]
pub enum Event {
    /// A probe answered or failed.
    Probe {
        /// The node that was asked.
        node: NodeId,
        /// When we began to ask.
        begun: Instant,
        /// What it said, or why it said nothing.
        result: Result<ProbeReport, ProbeFailure>,
    },
    /// A position alone, asked for between two probes over a connection that a probe has answered on.
    Sample {
        /// The node that was asked.
        node: NodeId,
        /// Its position.
        sample: Sample,
        /// Up to where its log was flushed by the same answer; None: it is in recovery.
        flush_lsn: Option<Lsn>,
    },
    /// The monitor's connection to a node had ended by itself, and a new one was made: whatever the node says of its
    /// postmaster, its processes may have been started again (a crash of one of them does that).
    Reconnected {
        /// The node.
        node: NodeId,
    },
    /// The address of a node leads to another server now, and the one that it led to goes on.
    Moved {
        /// The node.
        node: NodeId,
        /// How often that has been so, whoever watched it then.
        moves: u32,
    },
    /// A session met something strange on a node. It decides nothing; it asks for an early probe.
    Doubt {
        /// The node in doubt.
        node: NodeId,
        /// What the session met.
        cause: Doubt,
    },
    /// The authority beside the nodes has been asked.
    Word(Word),
}

/// What made a session doubt a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The connection ended without a word, or could not be made.
    Lost,
    /// 57P01, 57P02 or 57P03: it stops, crashed or starts.
    Stopping,
    /// 25006 from a node believed to be the primary.
    ReadOnly,
    /// `in_hot_standby` changed in a ParameterStatus: a promotion.
    Promoted,
}

impl Doubt {
    /// The doubt as a word in logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Stopping => "stopping",
            Self::ReadOnly => "read_only",
            Self::Promoted => "promoted",
        }
    }
}

/// Which database system a node belongs to: made once by initdb, shared by a primary and its physical replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// When a postmaster started, in microseconds of the node's own clock: only ever compared for equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostmasterStart(pub i64);

/// What a node said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// Its database system.
    pub system: SystemId,
    /// Tells a node that went on running from one that was started again.
    pub postmaster_start: PostmasterStart,
    /// `server_version_num`.
    pub server_version: u32,
    /// Somebody has announced that it is about to be stopped.
    pub is_leaving: bool,
    /// What it says it is.
    pub role: ReportedRole,
}

impl ProbeReport {
    /// Which server says so, from one start to the next.
    pub fn server(&self) -> (SystemId, PostmasterStart) {
        (self.system, self.postmaster_start)
    }
}

/// What a node says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportedRole {
    /// It is out of recovery.
    Primary {
        /// From `pg_walfile_name(pg_current_wal_insert_lsn())`.
        timeline: Timeline,
        /// The insert position less an empty page's header: what sessions must have seen, as a commit with
        /// `synchronous_commit = off` is acknowledged before it is flushed.
        insert_lsn: Lsn,
        /// Up to where the log is flushed: no replica can have more of it.
        flush_lsn: Lsn,
        /// Standbys that stream from it; every walsender without a logical slot when the monitor's role may not see their
        /// state.
        streaming_standbys: u32,
    },
    /// It is in recovery.
    Replica {
        /// The history it follows, as far as it can be seen.
        timeline: SeenTimeline,
        /// Up to where it shows changes to readers; None before it has replayed anything.
        replay_lsn: Option<Lsn>,
        /// Up to where it has the log.
        receive_lsn: Option<Lsn>,
        /// Its connection to an upstream node.
        receiver: Receiver,
        /// An operator holds replay.
        is_replay_paused: bool,
    },
}

/// How much is known of the history that a replica follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenTimeline {
    /// `received_tli` of its walreceiver.
    Exact(Timeline),
    /// From its control file, which lags a promotion by up to a restartpoint.
    AtLeast(Timeline),
    /// The node would not tell.
    Unknown,
}

impl SeenTimeline {
    /// The highest timeline that this proves to exist.
    pub fn proven(self) -> Option<Timeline> {
        match self {
            Self::Exact(timeline) | Self::AtLeast(timeline) => Some(timeline),
            Self::Unknown => None,
        }
    }
}

/// A replica's connection to an upstream node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// No walreceiver runs.
    Absent,
    /// One runs; the monitor's role may see no more (it lacks pg_monitor).
    Hidden,
    /// One runs, and this is what it says.
    Seen {
        /// Its status is `streaming`; a frozen one says so too.
        is_streaming: bool,
        /// `host:port` it is connected to, as its own configuration names it.
        sender: Option<Arc<str>>,
    },
}

/// Why a probe brought no report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeFailure {
    /// Nothing listens there, or the host cannot be reached.
    Refused,
    /// Its name has no address, in these words.
    Unresolved(Arc<str>),
    /// No answer in time.
    Timeout,
    /// 57P03: it starts, recovers or shuts down.
    Starting,
    /// 53300: it lives, and is full.
    TooManyConnections,
    /// It does not let the monitor in, and says so in these words.
    Authentication(Arc<str>),
    /// It said something that is no answer.
    Protocol(Arc<str>),
    /// The connection ended in the middle.
    Lost,
    /// We have no means to ask it, or cannot find out where it is, in these words.
    NotAsked(Arc<str>),
}

impl ProbeFailure {
    /// The failure as a word in logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unresolved(_) => "unresolved",
            Self::Timeout => "timeout",
            Self::Starting => "starting",
            Self::TooManyConnections => "too_many_connections",
            Self::Authentication(_) => "authentication",
            Self::Protocol(_) => "protocol",
            Self::Lost => "lost",
            Self::NotAsked(_) => "not_asked",
        }
    }
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refuses connections"),
            Self::Unresolved(words) => write!(f, "has a name without an address: {words}"),
            Self::Timeout => f.write_str("does not answer in time"),
            Self::Starting => f.write_str("is starting or stopping (57P03)"),
            Self::TooManyConnections => f.write_str("has no free connection for the monitor (53300)"),
            Self::Authentication(words) => write!(f, "does not let the monitor log in: {words}"),
            Self::Protocol(words) => write!(f, "gives an answer that is not understood: {words}"),
            Self::Lost => f.write_str("closed the monitor's connection"),
            Self::NotAsked(words) => write!(f, "could not be asked from here: {words}"),
        }
    }
}
