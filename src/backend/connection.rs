//! One logged-in connection to a node.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use super::cancel::CancelTarget;
use super::exchange::{self, Answer, Described, ExchangeError};
use super::gate::Pass;
use super::slots::Slot;
use crate::net::{Stream, timers};
use crate::session::Known;
use crate::session::settings::{CLIENT_ENCODING, TO_UTF8, UTF8};
use crate::topology::NodeId;
use crate::wire::frontend;

/// One logged-in connection to a node. Dropping it closes it and frees its slot in the pool.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub stream: Stream,
    /// What it has, of what sessions may need.
    pub known: Known,
    /// The node it goes to.
    pub node: NodeId,
    /// What the node reported of its settings at login.
    pub parameters: Arc<[(Box<str>, Box<str>)]>,
    /// What cancels a statement on it.
    pub cancel_target: Arc<CancelTarget>,
    /// Its place at the node's gate.
    pub pass: Pass,
    /// When its opening began: its node lets it in later.
    pub opened: Instant,
    /// From when its age is counted.
    pub ages_from: Instant,
    /// When it last came back to its pool.
    pub returned: Instant,
    /// The worker whose reactor watches the socket.
    pub worker: usize,
    /// Its slot in the pool.
    pub slot: Slot,
    /// A query of ours has been sent on it, and not all of its answer read: whatever comes is for nobody.
    pub awaits_answer: bool,
}

impl Connection {
    /// Moves the socket to this worker's reactor, if it is watched by another's. Call on that worker.
    pub fn adopt(self: Box<Self>, worker: usize) -> io::Result<Box<Self>> {
        if self.worker == worker {
            return Ok(self);
        }
        let mut adopted = *self;
        adopted.stream = adopted.stream.adopt()?;
        adopted.worker = worker;
        Ok(Box::new(adopted))
    }

    /// A query of ours, see [`exchange::query`]. It drops the unnamed statement, as every Query does. Where it is dropped in
    /// the middle, or fails, no query of ours follows, and its pool does not take the connection back.
    pub async fn query(&mut self, sql: &str, deadline: tokio::time::Instant) -> Result<Answer, ExchangeError> {
        self.known.unnamed_is_gone();
        self.begin_exchange()?;
        let answer = exchange::query(&mut self.stream, sql, deadline).await;
        self.end_exchange(&answer);
        answer
    }

    /// Nothing comes any more of what was sent before, see [`exchange::regain_step`].
    pub async fn regain_step(&mut self, deadline: tokio::time::Instant) -> Result<(Answer, usize), ExchangeError> {
        self.known.unnamed_is_gone();
        self.begin_exchange()?;
        let answer = exchange::regain_step(&mut self.stream, deadline).await;
        self.awaits_answer = answer.is_err();
        if let Ok((answer, _)) = &answer {
            self.hear(answer);
        }
        answer
    }

    /// It would not take this for UTF-8: a Query is read whole in the encoding that it meets, also one that sets another.
    pub fn misreads(&self, sql: &str) -> bool {
        if sql.is_ascii() {
            return false;
        }
        let at_login =
            || self.parameters.iter().find(|(name, _)| **name == *CLIENT_ENCODING).map(|(_, value)| &**value);
        let encoding = self.known.settings.get(CLIENT_ENCODING).or_else(at_login);
        self.known.unseen.is_some() || encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(UTF8))
    }

    /// Has it take what it is sent for UTF-8, until it is made somebody's.
    pub async fn turn_to_utf8(&mut self, deadline: tokio::time::Instant) -> Result<(), ExchangeError> {
        self.query(TO_UTF8, deadline).await?;
        self.known.is_in_utf8();
        Ok(())
    }

    /// What came with the answer to us of settings counts for whoever is served next.
    fn hear(&mut self, answer: &Answer) {
        for (name, value) in &answer.parameters {
            let legible = Some(&**value).filter(|value| !value.contains(char::REPLACEMENT_CHARACTER));
            self.known.reports_now(name, legible);
        }
    }

    /// Messages of ours, see [`exchange::describe`]; the same holds of them.
    pub async fn describe(
        &mut self,
        messages: &[u8],
        deadline: tokio::time::Instant,
    ) -> Result<Described, ExchangeError> {
        self.begin_exchange()?;
        let answer = exchange::describe(&mut self.stream, messages, deadline).await;
        self.end_exchange(&answer);
        answer.map(|answer| answer.described)
    }

    /// Nothing is prepared under these names any more, whether it was or not.
    pub async fn close_statements(
        &mut self,
        names: &[Arc<str>],
        deadline: tokio::time::Instant,
    ) -> Result<(), ExchangeError> {
        let mut messages = BytesMut::new();
        for name in names {
            frontend::put_target(&mut messages, frontend::CLOSE, frontend::Target::Statement, name.as_bytes());
        }
        frontend::put_bare(&mut messages, frontend::SYNC);
        self.describe(&messages, deadline).await.map(drop)
    }

    /// An answer is awaited from now on, until whoever sends has read it.
    fn begin_exchange(&mut self) -> Result<(), ExchangeError> {
        if std::mem::replace(&mut self.awaits_answer, true) { Err(ExchangeError::Unanswered) } else { Ok(()) }
    }

    /// Nothing is awaited any more if the whole answer has come, and what it tells is noted.
    fn end_exchange(&mut self, answer: &Result<Answer, ExchangeError>) {
        self.awaits_answer = answer.as_ref().is_err_and(|error| !error.is_answer());
        match answer {
            Ok(answer) => self.hear(answer),
            Err(ExchangeError::Refused { answer, .. }) => self.hear(answer),
            Err(_) => {}
        }
    }

    /// Nothing has come while it was idle: neither its end nor a message that nobody would read. Costs no system call
    /// when nothing has.
    pub fn is_quiet(&mut self) -> bool {
        self.stream.is_quiet()
    }

    /// It has said something that has not been read, or has ended. Asks the system, also where the reactor has not heard
    /// of it yet.
    pub fn has_spoken(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        let looked = socket2::SockRef::from(self.stream.socket()).peek(&mut byte);
        !looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Tells the node that it is over, so that it does not log a lost connection.
    pub fn say_goodbye(&mut self) {
        self.stream.leave_with(&frontend::GOODBYE);
    }

    /// Waits until the node has closed it, but not beyond the deadline: a server process closes it as the last thing it
    /// does. Call on this worker.
    pub async fn until_closed(self: Box<Self>, worker: usize, deadline: tokio::time::Instant) {
        let Ok(mut connection) = self.adopt(worker) else { return };
        let stream = &mut connection.stream;
        let closed = async { while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {} };
        // Dropping the wait closes the connection: nobody reads from it again.
        let _ = timers::timeout_at(deadline, closed).await;
    }

    /// A cancel is on its way to it, or may be for ever: see [`CancelTarget::is_being_cancelled`].
    pub fn is_being_cancelled(&self) -> bool {
        self.cancel_target.is_being_cancelled()
    }
}
