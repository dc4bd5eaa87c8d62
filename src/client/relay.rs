//! Bytes between a client and the node that serves it, both ways at once, looking only at what can change a state.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::acquire::target;
use super::conversation::{Client, HeldLease};
use super::farewell::Farewell;
use super::gathering::{body_of, peek};
use super::parser::LONG;
use super::worker::Buffers;
use crate::catalog::Change;
use crate::config::PoolMode;
use crate::metrics::{Target, Violator};
use crate::net::Stream;
use crate::routing::{Consistency, Intent, Reason};
use crate::session::replay::Differs;
use crate::session::{End, Reply, TransactionLog, matters, tells_of_death};
use crate::topology::Role;
use crate::wire::backend::TransactionStatus;
use crate::wire::error_response::{Severity, put_error};
use crate::wire::{ErrorFields, Header, SqlState, backend, frame, frontend};

/// Why relaying has stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Relayed {
    /// Everything is answered, and the lease may go back.
    Idle,
    /// The next unit cannot run on the replica that is held.
    Elsewhere,
    /// A replica has refused the unit; nothing of its answer has been forwarded.
    Refused(SqlState),
    /// The node is gone, with this SQLSTATE if it said goodbye.
    NodeLost(Option<SqlState>),
    /// A transaction that is run again is answered otherwise than before.
    ReplayDiffers,
    /// Everything is answered, the lease is kept, and settings may have to be read, or put where the session began.
    Touched,
    /// A transaction block is open that the pool's mode does not allow.
    InBlock,
    /// The lease is gone with a batch or a transaction that could not go on; what the client is told of that is in its buffer.
    Failed,
    /// What comes next needs databases for itself.
    Empties,
    /// The lease is kept, but nothing is under way, and clients are asked to leave.
    Drained,
}

/// What has happened to one direction in a turn.
enum Turn {
    /// Something moved.
    Moved,
    /// Nothing to do, or nothing can move now.
    Still,
    /// Relaying stops.
    Stop(Relayed),
}

/// Bytes for the node that may wait while it does not read: beyond, the client is not read either.
const MOST_WAITING: usize = 64 * 1024;

/// Bytes of units on their way together that are kept, to be run again.
const MOST_KEPT: usize = 64 * 1024;

/// A message that matters and is larger than this is looked at by its beginning only.
const LARGEST_LOOKED_AT: usize = 64 * 1024;

impl Client {
    /// Relays until the lease is no longer needed, or cannot serve. Cancel-safe: all progress is in `self` and `buffers`.
    ///
    /// Both sides are written to before they are read from: so what a step makes possible comes behind it, and only what
    /// was read needs another turn.
    #[inline]
    pub(super) fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
    ) -> Poll<Result<Relayed, Farewell>> {
        let polled = self.relay(cx, buffers);
        if let Some(held) = &mut self.held {
            held.is_in_midst = !buffers.to_node.is_empty() || !buffers.from_node.is_empty();
            held.is_half_told = !buffers.to_client.is_empty() || held.passing_to_client > 0;
        }
        polled
    }

    fn relay(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<Result<Relayed, Farewell>> {
        loop {
            self.end_refused_batch(buffers);
            self.write_node(cx, buffers);
            self.write_client(cx, buffers)?;
            let mut moved = false;
            for step in [Self::read_node, Self::read_client] {
                if let Some(done) = self.done(buffers) {
                    return Poll::Ready(Ok(done));
                }
                match step(self, cx, buffers)? {
                    Turn::Moved => moved = true,
                    Turn::Still => {}
                    Turn::Stop(relayed) => return Poll::Ready(Ok(relayed)),
                }
            }
            if let Some(done) = self.done(buffers) {
                return Poll::Ready(Ok(done));
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// A batch of which the client has not sent the Sync was refused, and is to be run elsewhere: here it ends.
    #[inline]
    fn end_refused_batch(&mut self, buffers: &mut Buffers) {
        let is_refused = self.held.as_ref().is_some_and(|held| held.refused.is_some());
        if is_refused && self.session.batch_is_open() && self.session.all_answered() {
            self.session.end_batch(&mut buffers.to_node);
        }
    }

    /// Everything that was sent is answered and has reached the client.
    fn done(&self, buffers: &Buffers) -> Option<Relayed> {
        let Some(held) = &self.held else { return Some(Relayed::Idle) };
        if !self.session.all_answered() || !buffers.to_node.is_empty() || held.passing_to_node > 0 {
            return None;
        }
        if let Some(code) = held.refused.filter(|_| !self.session.batch_is_open()) {
            return Some(Relayed::Refused(code));
        }
        let has_left = buffers.to_client.is_empty() && held.passing_to_client == 0 && buffers.from_node.is_empty();
        if !has_left {
            return None;
        }
        if self.session.may_release() {
            return Some(Relayed::Idle);
        }
        if self.worker.is_draining() && self.session.is_idle() && buffers.input.is_empty() {
            return Some(Relayed::Drained);
        }
        self.done_by_mode()
    }

    /// Everything is answered and the lease is kept: what the pool's mode wants of that.
    fn done_by_mode(&self) -> Option<Relayed> {
        match self.mode {
            PoolMode::Transaction | PoolMode::Session if self.session.has_reset_in_transaction() => {
                Some(Relayed::Touched)
            }
            PoolMode::Transaction => {
                let wants_it = self.session.wants_look() || self.session.has_reset();
                (wants_it && self.session.is_idle()).then_some(Relayed::Touched)
            }
            PoolMode::Session => {
                (self.session.is_kept_by_mode() && self.session.is_idle() && self.session.has_touched())
                    .then_some(Relayed::Touched)
            }
            PoolMode::Statement => (self.session.status() != TransactionStatus::Idle).then_some(Relayed::InBlock),
        }
    }

    fn write_node(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) {
        let Some(held) = &mut self.held else { return };
        let is_something = !buffers.to_node.is_empty();
        let in_transaction = self.session.status() == TransactionStatus::Open;
        let commits = is_something && (in_transaction || !held.is_read) && self.session.commit_is_under_way();
        // A goodbye that has come before a write or a COMMIT is sent proves that it was not done; written to a socket that
        // the node has closed, it would make the system throw the goodbye away. It is read first; the reactor tells of it.
        if is_something && ((!held.sent && !held.is_read) || commits) && held.lease.connection().has_spoken() {
            return;
        }
        // Of a write or a COMMIT it must be known whether it was sent; a read is run again anyway, and what is done within a
        // transaction is undone with it.
        let may_be_late = held.is_read || (held.sent && in_transaction && !commits);
        let stream = &mut held.lease.connection().stream;
        if stream.is_late() && Pin::new(&mut *stream).poll_flush(cx).is_pending() {
            return;
        }
        while !buffers.to_node.is_empty() {
            let written = match may_be_late {
                true => stream.poll_post(cx, &buffers.to_node),
                false => Pin::new(&mut *stream).poll_write(cx, &buffers.to_node),
            };
            match written {
                Poll::Ready(Ok(count)) if count > 0 => {
                    held.sent = true;
                    buffers.to_node.advance(count);
                }
                Poll::Pending => break,
                // What the node has still said is read next: it may be a farewell.
                Poll::Ready(_) => buffers.to_node.clear(),
            }
        }
    }

    fn write_client(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Result<(), Farewell> {
        while !buffers.to_client.is_empty() {
            match write(cx, &mut self.stream, &buffers.to_client)? {
                Some(count) => {
                    self.worker.metrics.sent_to_client(count);
                    self.tally.count(|totals| totals.add_sent(count));
                    buffers.to_client.advance(count);
                }
                None => break,
            }
        }
        Ok(())
    }

    /// Reads from the node and passes on to the client, as long as the client takes it.
    fn read_node(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Result<Turn, Farewell> {
        if !buffers.to_client.is_empty() {
            return Ok(Turn::Still);
        }
        let Some(held) = &mut self.held else { return Ok(Turn::Still) };
        if held.farewell.is_some() {
            return Ok(Turn::Stop(Relayed::NodeLost(held.farewell)));
        }
        if !held.has_last_words && !std::mem::take(&mut held.has_more) {
            let connection = held.lease.connection();
            match buffers.from_node.poll_fill(cx, &mut connection.stream) {
                Poll::Pending => return Ok(Turn::Still),
                Poll::Ready(Ok(0) | Err(_)) => return Ok(Turn::Stop(Relayed::NodeLost(None))),
                Poll::Ready(Ok(_)) => {}
            }
        }
        // What a node says between its last whole answer and its goodbye is looked at by itself: it is half an answer,
        // which nobody has been shown then, and what it answers can be run again.
        let whole = if held.has_last_words { None } else { answered_before_goodbye(buffers.from_node.filled(), held) };
        held.has_last_words = whole.is_some();
        let looked = match self.look(buffers, whole.unwrap_or(usize::MAX)) {
            Ok(looked) => looked,
            Err(Stop::Relayed(relayed)) => return Ok(Turn::Stop(relayed)),
            Err(Stop::OutOfStep) => {
                self.worker.metrics.protocol_violated(Violator::Node);
                return Ok(Turn::Stop(Relayed::NodeLost(None)));
            }
        };
        self.pass_on(looked, cx, buffers)?;
        Ok(Turn::Moved)
    }

    /// Looks at what came from the node, but not beyond so many bytes. Answers how many at the front go on as they are; where
    /// some do not, what does has been put into `to_client` and 0 is answered.
    fn look(&mut self, buffers: &mut Buffers, most: usize) -> Result<usize, Stop> {
        let Some(held) = &mut self.held else { return Ok(0) };
        // Before anything is taken from the message that may be on its way: what has been cut short must be known.
        if held.lease.connection().pass.is_severed() && !ends_with_goodbye(buffers.from_node.filled(), held) {
            return Err(Stop::Relayed(Relayed::NodeLost(None)));
        }
        let filled = buffers.from_node.filled();
        let filled = filled.get(..most).unwrap_or(filled);
        let mut at = held.passing_to_client.min(filled.len());
        held.passing_to_client -= at;
        let log = &mut self.log;
        // A transaction that is run again: the client has these answers already.
        let mut is_muted = shown(log, filled.get(..at).unwrap_or_default());
        // Where the run of bytes begins that go on as they are.
        let mut run = if is_muted { at } else { 0 };
        let mut has_gaps = is_muted;
        let (mut is_done, mut is_answered) = (false, false);
        // Units answered in these bytes, and whether the last message of them ends one.
        let (mut answered, mut ends_answered) = (0, false);
        while let Some(header) = Header::peek(filled.get(at..).unwrap_or_default()).map_err(|_| Stop::OutOfStep)? {
            let rest = filled.get(at..).unwrap_or_default();
            let is_whole = rest.len() >= header.size;
            if !matters(header.tag) {
                let there = header.size.min(rest.len());
                held.passing_to_client = header.size - there;
                if shown(log, rest.get(..there).unwrap_or_default()) {
                    run = at + there;
                }
                at += there;
                ends_answered = false;
                continue;
            }
            // What is for us is not passed on, and so it must be whole.
            if !is_whole && (header.size <= LARGEST_LOOKED_AT || self.session.awaits_for_itself()) {
                break;
            }
            // What has been answered before it is passed on first: then only what has failed may be run again.
            if header.tag == backend::ERROR_RESPONSE && answered > 0 && held.role != Role::Primary {
                held.has_more = true;
                break;
            }
            let there = header.size.min(rest.len());
            let body = rest.get(frame::HEADER..there).unwrap_or_default();
            let connection = held.lease.connection();
            let known = &mut connection.known;
            // The client is told nothing of what the replica says: if it is so elsewhere, it is told there.
            let reply = match header.tag == backend::PARAMETER_STATUS && held.refused.is_some() {
                true => known.hears(body),
                false => self.session.reply(header.tag, body, known).map_err(|_| Stop::OutOfStep)?,
            };
            let next = at + there;
            if matches!(reply, Reply::Forward)
                && log.is_none()
                && held.refused.is_none()
                && header.tag != backend::ERROR_RESPONSE
            {
                // Most messages: they go on as they are.
                is_done |= header.tag == backend::COMMAND_COMPLETE;
                ends_answered = header.tag == backend::READY_FOR_QUERY;
                is_answered |= ends_answered;
                answered += usize::from(ends_answered);
                held.passing_to_client = header.size - there;
                at = next;
                continue;
            }
            unusual();
            // Within a transaction that may be replayed nothing counts before its COMMIT.
            let counts = self.session.status() != TransactionStatus::Open
                || body.starts_with(b"COMMIT")
                || body.starts_with(b"PREPARE TRANSACTION")
                || log.as_ref().is_none_or(|log| log.is_empty());
            is_done |= header.tag == backend::COMMAND_COMPLETE && counts;
            let is_ready = header.tag == backend::READY_FOR_QUERY;
            is_answered |= is_ready;
            answered += usize::from(is_ready && !matches!(reply, Reply::Hide));
            match &reply {
                Reply::Forward | Reply::Refused(_) if tells_of_its_unit(header.tag) => {
                    shown(log, rest.get(..there).unwrap_or_default());
                }
                Reply::Replace(bytes) | Reply::Stale(bytes) => {
                    shown(log, bytes);
                }
                _ => {}
            }
            // The node thinks that its user has cancelled it.
            let is_cancelled = header.tag == backend::ERROR_RESPONSE
                && self.place.card.is_overdue()
                && ErrorFields::read(body).code == SqlState::QUERY_CANCELED;
            let is_over = self.session.status() == TransactionStatus::Idle;
            if is_ready && !matches!(reply, Reply::Hide) && answered_again(log, is_over).is_err() {
                return Err(Stop::Relayed(Relayed::ReplayDiffers));
            }
            match reply {
                // What is in force now the client is told, whatever it has heard of it before.
                Reply::Forward | Reply::Replace(_) | Reply::Refused(_) | Reply::WorkerEnds(_) | Reply::Stale(_)
                    if is_muted && header.tag != backend::PARAMETER_STATUS =>
                {
                    put_run(filled, run, at, &mut buffers.to_client);
                    (run, has_gaps) = (next, true);
                }
                Reply::Forward if held.refused.is_none() && !is_cancelled => {}
                Reply::Forward if is_cancelled => {
                    put_run(filled, run, at, &mut buffers.to_client);
                    let words = "canceling statement due to query_timeout";
                    put_error(&mut buffers.to_client, Severity::Error, SqlState::QUERY_CANCELED, words, None);
                    (run, has_gaps) = (next, true);
                }
                Reply::Forward | Reply::Hide => {
                    put_run(filled, run, at, &mut buffers.to_client);
                    (run, has_gaps) = (next, true);
                }
                Reply::Replace(bytes) => {
                    put_run(filled, run, at, &mut buffers.to_client);
                    buffers.to_client.extend_from_slice(&bytes);
                    (run, has_gaps) = (next, true);
                }
                Reply::Stale(bytes) => {
                    put_run(filled, run, at, &mut buffers.to_client);
                    if held.is_unseen_read() && held.role != Role::Primary && self.session.can_be_run_elsewhere() {
                        held.refused = Some(SqlState::FEATURE_NOT_SUPPORTED);
                        buffers.to_client.clear();
                    } else {
                        buffers.to_client.extend_from_slice(&bytes);
                    }
                    (run, has_gaps) = (next, true);
                }
                Reply::Refused(code) => {
                    if held.is_unseen_read() && held.role != Role::Primary && self.session.can_be_run_elsewhere() {
                        held.refused = Some(code);
                        buffers.to_client.clear();
                        (run, has_gaps) = (next, true);
                    }
                }
                // On each node at most once: a function may have raised it.
                Reply::WorkerEnds(code) => {
                    let is_new = self.lost_on.len() < self.pools.len().max(2);
                    if held.is_unseen_read() && !is_answered && is_new {
                        buffers.to_client.clear();
                        return Err(Stop::Relayed(Relayed::NodeLost(Some(code))));
                    }
                }
                Reply::NodeDies => {
                    // With its warning a node sends what it has said so far, which is half an answer: a read of which
                    // nothing has been shown is run again as a whole.
                    if held.is_unseen_read() && !is_answered {
                        buffers.to_client.clear();
                        return Err(Stop::Relayed(Relayed::NodeLost(None)));
                    }
                    put_run(filled, run, at, &mut buffers.to_client);
                    (run, has_gaps) = (next, true);
                }
                Reply::NodeEnds(code) => {
                    // What the node has done before its goodbye counts and goes to the client first. Where it has done
                    // nothing yet, nothing is shown, and the unit can be run again.
                    if held.forwarded || is_answered || (is_done && !held.is_read) {
                        held.farewell = Some(code);
                        break;
                    }
                    buffers.to_client.clear();
                    return Err(Stop::Relayed(Relayed::NodeLost(Some(code))));
                }
            }
            held.passing_to_client = header.size - there;
            ends_answered = is_ready;
            at = next;
            if is_ready {
                is_muted = log.as_ref().is_some_and(|log| log.is_muted());
            }
        }
        match self.session.take_catalog_change() {
            Change::None => {}
            change => self.server.catalogs_changed(&self.database, change),
        }
        if held.refused.is_some() {
            buffers.from_node.consume(at);
            buffers.to_client.clear();
            return Ok(0);
        }
        if answered > 0 && self.session.has_written() {
            self.server.cluster(&self.database).last_write.wrote(Instant::now());
        }
        self.session.shown();
        if has_gaps {
            put_run(filled, run, at, &mut buffers.to_client);
            held.forwarded |= !buffers.to_client.is_empty();
            buffers.from_node.consume(at);
            at = 0;
        }
        held.forwarded |= at > 0;
        held.has_shown |= held.forwarded;
        for _ in 0..answered {
            buffers.first_is_answered();
        }
        if answered > 0 && self.session.keeps_lease() {
            let (is_open, now) = (self.session.status() != TransactionStatus::Idle, Instant::now());
            // Where the lease goes back it is counted then.
            let took = held.took(now);
            self.worker.metrics.statements_finished(target(held.role), took, self.session.take_run());
            self.tally.count(|totals| totals.query_time += took);
            // The time of what is under way still begins here: before, the node had something else to do.
            held.asked = (!self.session.all_answered()).then_some(now);
            if self.session.all_answered() {
                self.place.card.rests(is_open, now);
                held.emptied = None;
                self.session.take_new_pins().iter().for_each(|pin| self.worker.metrics.pinned(pin));
            }
        }
        // What is under way now is another unit, of which nothing has been forwarded.
        held.forwarded &= !ends_answered;
        if buffers.from_node.is_full() && at == 0 {
            buffers.from_node.grow();
        }
        Ok(at)
    }

    /// Writes the first bytes from the node to the client; what it does not take now waits in `to_client`.
    fn pass_on(&mut self, count: usize, cx: &mut Context<'_>, buffers: &mut Buffers) -> Result<(), Farewell> {
        if count == 0 {
            return Ok(());
        }
        let bytes = buffers.from_node.filled().get(..count).unwrap_or_default();
        let written = write(cx, &mut self.stream, bytes)?.unwrap_or(0);
        self.worker.metrics.sent_to_client(written);
        self.tally.count(|totals| totals.add_sent(written));
        buffers.to_client.extend_from_slice(bytes.get(written..).unwrap_or_default());
        buffers.from_node.consume(count);
        Ok(())
    }

    /// Takes what the client sends while its lease is held.
    fn read_client(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Result<Turn, Farewell> {
        if self.poll_parsed(cx).is_pending() {
            return Ok(Turn::Still);
        }
        let turn = self.read_and_take(cx, buffers)?;
        // Who tells that the text is parsed wakes the task from now on.
        Ok(if self.is_parsing() && self.poll_parsed(cx).is_ready() { Turn::Moved } else { turn })
    }

    #[inline]
    fn read_and_take(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Result<Turn, Farewell> {
        // What a node that has said goodbye has not been sent can go elsewhere.
        let is_over = |held: &HeldLease| held.refused.is_some() || held.farewell.is_some() || held.has_last_words;
        if buffers.to_node.len() >= MOST_WAITING || self.held.as_ref().is_none_or(is_over) {
            return Ok(Turn::Still);
        }
        if let Some(turn) = self.take_messages(buffers)? {
            return Ok(turn);
        }
        if buffers.input.is_full() {
            let limit = self.server.limits.buffer_bytes;
            if buffers.input.capacity() >= limit {
                return Ok(Turn::Still);
            }
            buffers.input.grow();
        }
        match self.poll_client(cx, &mut buffers.input) {
            Poll::Pending => Ok(Turn::Still),
            Poll::Ready(Ok(0)) => Err(Farewell::Left),
            Poll::Ready(Err(error)) => Err(error.into()),
            Poll::Ready(Ok(_)) => Ok(self.take_messages(buffers)?.unwrap_or_else(|| {
                self.place.card.stirs(Instant::now());
                Turn::Moved
            })),
        }
    }

    /// Sends on what is whole in the input, as far as the held node may have it. None: more must be read first.
    fn take_messages(&mut self, buffers: &mut Buffers) -> Result<Option<Turn>, Farewell> {
        let mut moved = false;
        loop {
            let Some(held) = &mut self.held else { return Ok(Some(Turn::Still)) };
            if held.passing_to_node > 0 {
                let there = held.passing_to_node.min(buffers.input.len());
                buffers.to_node.extend_from_slice(buffers.input.filled().get(..there).unwrap_or_default());
                buffers.input.consume(there);
                held.passing_to_node -= there;
                if held.passing_to_node == 0 && self.session.batch_is_open() {
                    held.flush_part(&mut buffers.to_node);
                }
                moved |= there > 0;
            }
            let holds_back = self.log.as_ref().is_some_and(|log| log.holds_back());
            if buffers.to_node.len() >= MOST_WAITING || holds_back {
                return Ok(Some(if moved { Turn::Moved } else { Turn::Still }));
            }
            self.drop_rest(buffers);
            if self.session.gathered.end.is_none() {
                match self.survey_next(buffers)? {
                    Surveyed::Nothing => break,
                    Surveyed::Message => {}
                    Surveyed::Doubtful => return Ok(Some(if moved { Turn::Moved } else { Turn::Still })),
                    Surveyed::Passed => {
                        moved = true;
                        continue;
                    }
                    Surveyed::Goodbye
                        if self.session.all_answered()
                            && buffers.to_client.is_empty()
                            && buffers.to_node.is_empty() =>
                    {
                        return Err(Farewell::Left);
                    }
                    // Nothing more will come of it, and what it holds would be held for ever.
                    Surveyed::Goodbye if self.session.awaits_client() && buffers.to_node.is_empty() => {
                        return Err(Farewell::Left);
                    }
                    Surveyed::Goodbye => return Ok(Some(if moved { Turn::Moved } else { Turn::Still })),
                }
            }
            match self.gate(buffers)? {
                Gate::Open => {
                    self.send_next(buffers)?;
                    moved = true;
                }
                // What has been let through before it is still to be written.
                Gate::Closed(Turn::Still) if moved => return Ok(Some(Turn::Moved)),
                Gate::Closed(turn) => return Ok(Some(turn)),
                Gate::More => {}
            }
        }
        Ok(moved.then_some(Turn::Moved))
    }

    /// Looks at the next message from the client.
    fn survey_next(&mut self, buffers: &mut Buffers) -> Result<Surveyed, Farewell> {
        let rest = buffers.input.filled().get(self.session.gathered.size..).unwrap_or_default();
        let Some(header) = peek(rest)? else {
            if buffers.input.len() < self.server.limits.buffer_bytes {
                return Ok(Surveyed::Nothing);
            }
            self.session.cut_batch();
            return Ok(Surveyed::Message);
        };
        let there = rest.get(..header.size.min(rest.len())).unwrap_or_default();
        if self.waits_to_read_settings() || self.session.must_wait(header.tag, body_of(there)) {
            return Ok(Surveyed::Doubtful);
        }
        let Some(message) = rest.get(..header.size) else {
            return Ok(match self.survey_partial(header, buffers)? {
                false => Surveyed::Nothing,
                true if self.session.gathered.end.is_some() => Surveyed::Message,
                true => Surveyed::Passed,
            });
        };
        match header.tag {
            frontend::COPY_DATA if self.session.gathered.size == 0 => {
                self.pass_copy_data(header, buffers);
                Ok(Surveyed::Passed)
            }
            frontend::TERMINATE => Ok(Surveyed::Goodbye),
            _ if header.size >= LONG && self.must_parse_apart(header.tag, body_of(message))? => Ok(Surveyed::Doubtful),
            _ => {
                self.survey_message(header, message, 0)?;
                self.cut_behind_execute();
                Ok(Surveyed::Message)
            }
        }
    }

    /// Everything is answered, and settings are read back as soon as the client has the answers: what comes next is looked at
    /// by them.
    fn waits_to_read_settings(&self) -> bool {
        let has_unread = self.session.has_touched() || self.session.has_reset();
        has_unread && self.session.all_answered() && (self.session.may_release() || self.done_by_mode().is_some())
    }

    /// What an earlier part of the batch has bound on a replica is executed there, wherever the rest of the batch must go:
    /// no other node has that portal.
    fn cut_behind_execute(&mut self) {
        let gathered = &mut self.session.gathered;
        if gathered.intent.is_some() || gathered.executes == 0 {
            return;
        }
        let is_on_replica = self.held.as_ref().is_some_and(|held| held.role != Role::Primary);
        if is_on_replica && self.session.batch_is_open() {
            self.session.gathered.end.get_or_insert(End::Flush);
        }
    }

    /// Whether what has been gathered may go to the node that is held, and is known there by the columns it was told with.
    fn gate(&mut self, buffers: &mut Buffers) -> Result<Gate, Farewell> {
        let gate = self.gate_by_intent(buffers)?;
        let (Gate::Open, Some(held)) = (&gate, &mut self.held) else { return Ok(gate) };
        // Inside a transaction it is refused anyway, and behind an error it is not run.
        let is_run = self.session.status() == TransactionStatus::Idle && !self.session.is_skipping();
        if !self.session.gathered.empties.is_empty() && is_run {
            return Ok(Gate::Closed(Turn::Stop(Relayed::Empties)));
        }
        let known = &mut held.lease.connection().known;
        if self.session.must_verify(known) {
            self.session.verify(known, self.server.prepared_statements, &mut buffers.to_node);
            return Ok(Gate::Closed(Turn::Moved));
        }
        Ok(if self.session.is_verifying() { Gate::Closed(Turn::Still) } else { gate })
    }

    /// Whether what has been gathered may go to the node that is held.
    fn gate_by_intent(&mut self, buffers: &mut Buffers) -> Result<Gate, Farewell> {
        let Some(held) = &self.held else { return Ok(Gate::More) };
        // A notice comes with it, which may not stand in the middle of another message.
        if held.passing_to_client > 0 && self.session.wishes().notices {
            return Ok(Gate::Closed(Turn::Still));
        }
        // The time of what runs would run for this, too, and a cancel may be on its way: once it is answered, the lease goes
        // back, and this goes elsewhere.
        let is_open = self.session.batch_is_open();
        if held.is_timed && !is_open && (!self.session.all_answered() || self.session.may_release()) {
            return Ok(Gate::Closed(Turn::Still));
        }
        // Whatever it is, only its Sync goes there, which ends the batch.
        if self.session.is_skipping() {
            return Ok(Gate::Open);
        }
        if let Some(Intent::Refuse { .. }) = self.session.intent()
            && (self.session.all_answered() || self.session.owes_only_open_batch())
            && held.passing_to_client == 0
        {
            return self.refuse_here(buffers);
        }
        if self.session.gathered.asks_wishes && !self.session.keeps_lease() && !self.session.batch_is_open() {
            // What it asks for is put on a server connection before: it waits until this one has gone back.
            return Ok(Gate::Closed(Turn::Still));
        }
        if held.role == Role::Primary {
            if self.session.gathered.needs_own_sequences() && self.waits_to_discard_sequences() {
                return Ok(Gate::Closed(Turn::Still));
            }
            return Ok(if matches!(self.session.intent(), Some(Intent::Refuse { .. })) {
                Gate::Closed(Turn::Still)
            } else {
                Gate::Open
            });
        }
        let Some(end) = self.session.gathered.end else { return Ok(Gate::More) };
        let in_transaction = self.session.status() != TransactionStatus::Idle;
        if self.server.optimistic && !self.session.all_answered() && self.session.awaits_begin() {
            self.session.gathered.clear(); // to be looked at again when it is answered
            return Ok(Gate::Closed(Turn::Still));
        }
        // Each read of its own must have seen everything up to its own beginning.
        let is_strong =
            self.own_consistency() == Consistency::Strong && !in_transaction && !self.session.batch_is_open();
        // Nor may one that must be fresh be read behind one that need not.
        let is_stale = held.may_lack
            && self.own_consistency() != Consistency::Eventual
            && !in_transaction
            && !self.session.batch_is_open();
        let fits = match self.session.intent() {
            None => true,
            // The node says that the transaction is aborted, whatever it is.
            Some(_) if self.session.only_fails() => true,
            Some(_) if is_strong || self.session.must_leave_replica() => false,
            Some(Intent::Read { terms: None, .. }) => !is_stale,
            // A COMMIT may be on its way: what comes behind it is not in the transaction.
            Some(_) if in_transaction && (self.session.can_begin_anew() || self.session.ends_before_all_else()) => {
                false
            }
            Some(_) => in_transaction && self.session.all_answered() && !self.session.gathered.is_wrong_on_replica,
        };
        if fits || matches!(end, End::StrayCopy) {
            return Ok(Gate::Open);
        }
        if !self.session.all_answered() {
            return Ok(Gate::Closed(Turn::Still));
        }
        if self.session.batch_is_open() {
            // The batch goes on at the primary: here it ends.
            self.session.end_batch(&mut buffers.to_node);
            return Ok(Gate::Closed(Turn::Moved));
        }
        Ok(Gate::Closed(Turn::Stop(Relayed::Elsewhere)))
    }

    /// What the unit asks for is another's on the server connection, and nothing can be discarded there before all is answered.
    fn waits_to_discard_sequences(&mut self) -> bool {
        let Some(held) = &mut self.held else { return false };
        self.session.meets_foreign_sequences(&held.lease.connection().known)
            && !self.session.discards_in_batch()
            && !self.session.all_answered()
    }

    /// A statement is refused on a lease that is held: its batch and its transaction cannot go on.
    fn refuse_here(&mut self, buffers: &mut Buffers) -> Result<Gate, Farewell> {
        let Some(Intent::Refuse { message, sqlstate, .. }) = self.session.intent().cloned() else {
            return Ok(Gate::More);
        };
        let Some(end) = self.session.gathered.end else { return Ok(Gate::More) };
        let code = SqlState::from_bytes(sqlstate.as_bytes()).unwrap_or(SqlState::INSUFFICIENT_PRIVILEGE);
        self.take_unit_off(buffers);
        self.session.gathered.clear();
        self.worker.metrics.statement_routed(Target::None, Reason::Refused.index());
        if self.session.is_idle() {
            self.worker.metrics.error_sent(code.as_str());
            self.session.refuse_unit(code, &message, end, &mut buffers.to_client);
            return Ok(Gate::Closed(Turn::Moved));
        }
        if self.session.status() == TransactionStatus::Idle {
            // What of the batch has been sent must not be committed by its Sync: only closing the connection undoes it.
            if self.session.has_touched() || self.session.pin().is_some() || self.session.is_kept_by_mode() {
                return Err(Farewell::told(code, message.to_string()));
            }
            self.session.fail_batch(code, &message, end, &mut buffers.to_client);
        } else if self.session.has_touched_for_good() {
            return Err(Farewell::told(code, message.to_string()));
        } else {
            self.session.abort_transaction(code, &message, &mut buffers.to_client);
            self.session.end_aborted_unit(Some(end), &mut buffers.to_client);
        }
        if let Some(held) = self.held.take() {
            self.was_served_by(&held, Instant::now());
        }
        self.worker.metrics.error_sent(code.as_str());
        self.cancellable.runs_nothing();
        buffers.forget_node();
        if let Some(log) = &mut self.log {
            log.clear();
        }
        // Without a lease nothing is relayed.
        Ok(Gate::Closed(Turn::Stop(Relayed::Failed)))
    }

    /// Translates what has been gathered for the held node.
    fn send_next(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        if let Some(held) = &mut self.held {
            // Units that are on their way together, and of which nothing is answered, can be run again together.
            let is_first = !self.session.awaits_replies();
            let size = buffers.kept.len() + self.session.gathered.size;
            if is_first || self.session.status() != TransactionStatus::Idle || size > MOST_KEPT {
                let can_move = held.role != Role::Primary && is_first && self.session.can_begin_anew();
                held.at_hand = can_move && !self.session.batch_is_open();
                buffers.keep_nothing();
            }
            held.is_read &= matches!(self.session.intent(), None | Some(Intent::Read { .. }));
            let ends_here = !matches!(self.session.gathered.end, Some(End::Flush | End::StrayCopy));
            let is_timed = held.is_timed && held.is_read && ends_here;
            self.place.card.goes_on(is_timed.then(Instant::now));
        }
        self.send_unit(buffers)
    }
}

/// Why looking has stopped.
enum Stop {
    /// For a reason of the conversation.
    Relayed(Relayed),
    /// The node has lost the beat.
    OutOfStep,
}

/// What was found at the front of the input.
enum Surveyed {
    /// Nothing whole.
    Nothing,
    /// A message that has been gathered.
    Message,
    /// Copy data that has gone its way, or something that nobody wants.
    Passed,
    /// A message that can't be understood before more has been answered, or its text is parsed.
    Doubtful,
    /// The client says goodbye: once all it has asked for is done.
    Goodbye,
}

/// Whether what has been gathered may go on.
enum Gate {
    /// It may.
    Open,
    /// Not now, or not here.
    Closed(Turn),
    /// The unit must be whole first.
    More,
}

/// What a node says before it closes a connection, where nothing stands before it: its goodbye, or a warning that it dies.
#[cold]
fn last_word(bytes: &[u8]) -> Option<LastWord> {
    let header = Header::peek(bytes).ok()??;
    let is_error = header.tag == backend::ERROR_RESPONSE;
    if !is_error && header.tag != backend::NOTICE_RESPONSE {
        return None;
    }
    let fields = ErrorFields::read(bytes.get(frame::HEADER..header.size)?);
    match is_error {
        true => fields.ends_connection().then_some(LastWord::Goodbye),
        false => tells_of_death(fields.code).then_some(LastWord::Death),
    }
}

/// How a node ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastWord {
    /// In good order: what it has not answered, it has not done.
    Goodbye,
    /// It is torn down, and what it was doing is not known.
    Death,
}

/// Tells the compiler that the way that leads here is rarely taken.
#[cold]
#[inline(never)]
fn unusual() {}

/// How many bytes are whole answers, where the node says its last words and something stands between these and those. Costs
/// one look at the last bytes where it does not: they come last, and their fields end with zeros.
fn answered_before_goodbye(filled: &[u8], held: &HeldLease) -> Option<usize> {
    if !filled.ends_with(&[0, 0]) {
        return None;
    }
    let last_words = LastWords::find(filled, held.passing_to_client)?;
    (0 < last_words.answered && last_words.answered < last_words.begin).then_some(last_words.answered)
}

/// What a fenced node has said counts if its goodbye is there: all of it came before the fence, which takes nothing any
/// more, and the node has ended this session in good order. What it answered before that was done, and what it did not
/// answer was not.
#[cold]
fn ends_with_goodbye(filled: &[u8], held: &HeldLease) -> bool {
    let found = LastWords::find(filled, held.passing_to_client);
    found.is_some_and(|last_words| last_words.word == LastWord::Goodbye)
}

/// Where a node says its last words.
struct LastWords {
    word: LastWord,
    /// So many bytes are whole answers.
    answered: usize,
    /// They begin there.
    begin: usize,
}

impl LastWords {
    /// The first so many bytes belong to a message that began before.
    fn find(filled: &[u8], passing: usize) -> Option<Self> {
        let (mut at, mut answered) = (passing, 0);
        while let Some(header) = Header::peek(filled.get(at..)?).ok()? {
            if let Some(word) = last_word(filled.get(at..)?) {
                return Some(Self { word, answered, begin: at });
            }
            at += header.size;
            if header.tag == backend::READY_FOR_QUERY {
                answered = at;
            }
        }
        None
    }
}

/// Notes what the client is shown; true: it has been shown that before.
#[inline]
fn shown(log: &mut Option<Box<TransactionLog>>, bytes: &[u8]) -> bool {
    log.as_mut().is_some_and(|log| noted_as_shown(log, bytes))
}

#[cold]
fn noted_as_shown(log: &mut TransactionLog, bytes: &[u8]) -> bool {
    log.shown(bytes);
    log.is_muted()
}

/// What a node says of itself at any time belongs to no unit's answer.
fn tells_of_its_unit(tag: u8) -> bool {
    !matches!(tag, backend::NOTICE_RESPONSE | backend::PARAMETER_STATUS)
}

fn answered_again(log: &mut Option<Box<TransactionLog>>, is_over: bool) -> Result<(), Differs> {
    log.as_mut().map_or(Ok(()), |log| log.answered(is_over))
}

#[cold]
fn put_run(filled: &[u8], from: usize, to: usize, out: &mut BytesMut) {
    out.extend_from_slice(filled.get(from..to).unwrap_or_default());
}

/// Writes what the client takes now; None: nothing.
fn write(cx: &mut Context<'_>, stream: &mut Stream, bytes: &[u8]) -> io::Result<Option<usize>> {
    match stream.poll_post(cx, bytes) {
        Poll::Pending => Ok(None),
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(result) => result.map(Some),
    }
}
