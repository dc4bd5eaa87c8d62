//! Bytes between a client and the node that serves it, both ways at once, looking only at what can change a state.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::answer::Stop;
use super::conversation::Client;
use super::farewell::Farewell;
use super::gate::Gate;
use super::gathering::{body_of, peek};
use super::held_lease::{HeldLease, Written};
use super::last_words::answered_before_goodbye;
use super::parser::LONG;
use super::worker::Buffers;
use crate::config::PoolMode;
use crate::metrics::Violator;
use crate::net::Stream;
use crate::routing::Intent;
use crate::session::End;
use crate::wire::backend::TransactionStatus;
use crate::wire::{SqlState, frontend};

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
    /// What comes next asks for Trunkline's own settings, and the lease is kept.
    Wishes,
    /// What was read last has been cancelled: what comes next must not be hit by that.
    Cancelled,
    /// The node that is held may not be what it was any more, and something would begin there.
    Unbelieved,
    /// The lease is kept, but nothing is under way, and clients are asked to leave.
    Drained,
    /// The lease is kept, but nothing is under way, and another configuration is in force.
    Outdated,
    /// The batch that keeps the lease has only prepared, and nothing follows, and somebody wants that it ends.
    Prepared,
}

/// What has happened to one direction in a turn.
pub(super) enum Turn {
    /// Something moved.
    Moved,
    /// Nothing to do, or nothing can move now.
    Still,
    /// Relaying stops.
    Stop(Relayed),
}

/// Bytes that may wait for a node, or a client, that does not read: beyond, nothing more of the client is looked at.
pub(super) const MOST_WAITING: usize = 64 * 1024;

/// Replies that may be owed: beyond, some must come before more is asked for. What is owed is looked through at many a step,
/// so no pipeline may make it long. It is more than a node keeps back, who sends its replies by 8 kB, each at least 5 bytes
/// long, and one in two at least has one: no open batch waits here for its own Sync.
const MOST_OWED: usize = 4096;

/// Bytes of units on their way together that are kept, to be run again.
const MOST_KEPT: usize = 64 * 1024;

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
            held.told.is_half = !buffers.to_client.is_empty() || held.passing.to_client > 0;
        }
        if polled.is_pending() {
            buffers.rest();
        }
        polled
    }

    fn relay(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<Result<Relayed, Farewell>> {
        loop {
            self.end_refused_batch(buffers);
            self.write_node(cx, buffers);
            self.write_client(cx, buffers)?;
            if let Some(done) = self.done(buffers) {
                return Poll::Ready(Ok(done));
            }
            let mut moved = false;
            match self.read_node(cx, buffers)? {
                Turn::Moved => {
                    if let Some(done) = self.done(buffers) {
                        return Poll::Ready(Ok(done));
                    }
                    moved = true;
                }
                Turn::Still => {}
                Turn::Stop(relayed) => return Poll::Ready(Ok(relayed)),
            }
            match self.read_client(cx, buffers)? {
                Turn::Moved => moved = true,
                Turn::Still => {}
                Turn::Stop(relayed) => return Poll::Ready(Ok(relayed)),
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
        let is_refused = self.held.as_ref().is_some_and(|held| held.ending.refused.is_some());
        if is_refused && self.session.batch_is_open() && self.session.all_answered() {
            self.session.end_batch(&mut buffers.to_node);
        }
    }

    /// Everything that was sent is answered and has reached the client.
    fn done(&self, buffers: &Buffers) -> Option<Relayed> {
        let Some(held) = &self.held else { return Some(Relayed::Idle) };
        if !self.session.all_answered() || !buffers.to_node.is_empty() || held.passing.to_node > 0 {
            return None;
        }
        if let Some(code) = held.ending.refused.filter(|_| !self.session.batch_is_open()) {
            return Some(Relayed::Refused(code));
        }
        let has_left = buffers.to_client.is_empty() && held.passing.to_client == 0 && buffers.from_node.is_empty();
        if !has_left {
            return None;
        }
        if self.session.may_release() {
            return Some(Relayed::Idle);
        }
        if self.session.has_only_prepared() && buffers.input.is_empty() && self.is_to_end_batch() {
            return Some(Relayed::Prepared);
        }
        if self.worker.is_draining() && self.session.is_idle() && buffers.input.is_empty() {
            return Some(Relayed::Drained);
        }
        if self.is_outdated() && self.session.is_idle() && !self.has_looked_at_reload() {
            return Some(Relayed::Outdated);
        }
        self.done_by_mode()
    }

    /// A batch that has only prepared is to end where it is: the program stops, another configuration is in force, or it keeps a
    /// server connection from others without use. In a transaction that ends for none of them.
    #[cold]
    fn is_to_end_batch(&self) -> bool {
        // Whose lease goes back by itself most likely runs at once what it has prepared; else it is told soon to let go.
        let is_wanted = self.worker.is_draining() && self.session.keeps_lease()
            || self.is_outdated() && !self.has_looked_at_reload()
            || self.place.card.is_to_let_go();
        is_wanted && self.session.status() == TransactionStatus::Idle
    }

    /// Everything is answered and the lease is kept: what the pool's mode wants of that.
    pub(super) fn done_by_mode(&self) -> Option<Relayed> {
        match self.mode {
            PoolMode::Statement if self.session.status() != TransactionStatus::Idle => Some(Relayed::InBlock),
            PoolMode::Transaction | PoolMode::Statement => {
                let wants_it = || self.session.wants_look() || self.session.wants_to_go_on();
                (self.session.is_idle() && wants_it()).then_some(Relayed::Touched)
            }
            PoolMode::Session => {
                (self.session.is_kept_by_mode() && self.session.is_idle() && self.session.has_touched())
                    .then_some(Relayed::Touched)
            }
        }
    }

    fn write_node(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) {
        let Some(held) = &mut self.held else { return };
        let is_something = !buffers.to_node.is_empty();
        let in_transaction = self.session.status() == TransactionStatus::Open;
        let commits = is_something && (in_transaction || !held.is_read) && self.session.commit_is_under_way();
        let is_begun = held.has_begun && in_transaction;
        let has_written = held.written != Written::Nothing;
        let is_first = is_something && !has_written && !is_begun && !held.is_read;
        let only_begins = is_first && held.at_hand && self.session.only_begins();
        // A goodbye that has come before a write or a COMMIT is sent proves that it was not done; written to a socket that
        // the node has closed, it would make the system throw the goodbye away. It is read first; the reactor tells of it.
        if ((is_first && !only_begins) || commits) && held.lease.connection().has_spoken() {
            return;
        }
        // Of a write or a COMMIT it must be known whether it was sent; a read and a BEGIN are run again anyway, and what is done
        // within a transaction is undone with it.
        let may_be_late = held.is_read || only_begins || (in_transaction && (has_written || is_begun) && !commits);
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
                    held.has_begun |= only_begins;
                    if !only_begins {
                        held.written = Written::Now;
                    }
                    take_off(&mut buffers.to_node, count);
                }
                unfinished => {
                    // With TLS, whole records of it may be out already.
                    if stream.is_within_write() && !only_begins {
                        held.written = Written::Now;
                    }
                    if unfinished.is_pending() {
                        break;
                    }
                    // What the node has still said is read next: it may be a farewell.
                    buffers.to_node.clear();
                }
            }
        }
    }

    fn write_client(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Result<(), Farewell> {
        while !buffers.to_client.is_empty() {
            match write(cx, &mut self.stream, &buffers.to_client)? {
                Some(count) => {
                    self.worker.metrics.sent_to_client(count);
                    self.tally.count(|totals| totals.add_sent(count));
                    take_off(&mut buffers.to_client, count);
                }
                None => {
                    if let Some(held) = &mut self.held {
                        held.is_measured = false; // what it takes from now on is its client's doing
                    }
                    self.ends_time_of_answered();
                    break;
                }
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
        if held.ending.ends_session && held.passing.to_client == 0 {
            return Err(Farewell::EndedByNode);
        }
        if held.ending.farewell.is_some() {
            return Ok(Turn::Stop(Relayed::NodeLost(held.ending.farewell)));
        }
        if !held.ending.has_last_words && !std::mem::take(&mut held.has_more) {
            let connection = held.lease.connection();
            match buffers.from_node.poll_fill(cx, &mut connection.stream) {
                Poll::Pending => return Ok(Turn::Still),
                Poll::Ready(Ok(0) | Err(_)) => return Ok(Turn::Stop(Relayed::NodeLost(None))),
                Poll::Ready(Ok(_)) => {}
            }
        }
        // What a node says between its last whole answer and its goodbye is looked at by itself: it is half an answer,
        // which nobody has been shown then, and what it answers can be run again.
        let whole =
            if held.ending.has_last_words { None } else { answered_before_goodbye(buffers.from_node.filled(), held) };
        held.ending.has_last_words = whole.is_some();
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
        let is_over = |held: &HeldLease| {
            held.ending.refused.is_some() || held.ending.farewell.is_some() || held.ending.has_last_words
        };
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
            if held.passing.to_node > 0 {
                let there = held.passing.to_node.min(buffers.input.len());
                buffers.to_node.extend_from_slice(buffers.input.filled().get(..there).unwrap_or_default());
                buffers.input.consume(there);
                held.passing.to_node -= there;
                if held.passing.to_node == 0 && self.session.batch_is_open() {
                    held.flush_part(&mut buffers.to_node);
                }
                moved |= there > 0;
            }
            let holds_back = self.log.as_ref().is_some_and(|log| log.holds_back());
            let waits = buffers.to_node.len().max(buffers.to_client.len()) >= MOST_WAITING;
            if waits || holds_back || self.session.owes_at_least(MOST_OWED) {
                return Ok(Some(if moved { Turn::Moved } else { Turn::Still }));
            }
            self.drop_rest(buffers);
            // It was looked at before the COPY ahead of it asked for its data: now it is out of place, and is told so.
            if self.session.copies_in() && self.session.gathered.size > 0 {
                self.session.gathered.clear();
            }
            if self.session.gathered.end.is_none() {
                let surveyed = match self.survey_next(buffers) {
                    Ok(surveyed) => surveyed,
                    Err(farewell) => self.wait_to_say(farewell, buffers)?,
                };
                match surveyed {
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
            if self.session.gathered.size == 0 {
                return Ok(Surveyed::Nothing);
            }
            self.cut_unfinished(&buffers.input);
            return Ok(if self.session.gathered.end.is_some() { Surveyed::Message } else { Surveyed::Nothing });
        };
        let there = rest.get(..header.size.min(rest.len())).unwrap_or_default();
        if self.waits_to_read_settings()
            || self.session.must_wait(header.tag, body_of(there))
            || self.waits_for_an_end(header.tag)
        {
            return self.must_wait(header.tag);
        }
        if self.stands_behind_an_end(header.tag) {
            self.session.cut_batch();
            return Ok(Surveyed::Message);
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
            // What a COPY that has failed leaves behind it.
            frontend::COPY_DONE | frontend::COPY_FAIL if self.session.gathered.size == 0 && !self.may_want_data() => {
                buffers.input.consume(header.size);
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

    /// What comes next is not looked at before more is answered. A COPY that waits for its data is not before it has that: in
    /// PostgreSQL's words.
    #[cold]
    fn must_wait(&self, tag: u8) -> Result<Surveyed, Farewell> {
        match self.session.is_out_of_place(tag) {
            true => Err(Farewell::violation(&format!("unexpected message type 0x{tag:02X} during COPY from stdin"))),
            false => Ok(Surveyed::Doubtful),
        }
    }

    /// What comes next cannot be understood, and ends the session: as with PostgreSQL, once all before it is answered. What the
    /// node waits for from the client does not come.
    #[cold]
    fn wait_to_say(&mut self, farewell: Farewell, buffers: &mut Buffers) -> Result<Surveyed, Farewell> {
        if self.session.gathered.size > 0 {
            self.session.cut_batch();
            return Ok(Surveyed::Message);
        }
        let is_half_told = self.held.as_ref().is_some_and(|held| held.passing.to_client > 0);
        let is_told = buffers.to_client.is_empty() && !is_half_told;
        let is_answered = self.session.all_answered() || self.session.copies_in();
        if is_answered && is_told && buffers.to_node.is_empty() {
            return Err(farewell);
        }
        // The last replies to a batch without its Sync come when they are asked for.
        let is_to_ask = !is_answered && self.session.owes_only_open_batch();
        if is_to_ask && !std::mem::replace(&mut self.session.gathered.is_flushed, true) {
            frontend::put_bare(&mut buffers.to_node, frontend::FLUSH);
            return Ok(Surveyed::Passed);
        }
        Ok(Surveyed::Doubtful)
    }

    /// Everything is answered, and settings are read back as soon as the client has the answers: what comes next is looked at
    /// by them.
    fn waits_to_read_settings(&self) -> bool {
        let has_unread = self.session.has_touched() || self.session.has_discarded();
        has_unread && self.session.all_answered() && (self.session.may_release() || self.done_by_mode().is_some())
    }

    /// On a replica, what comes behind the end of a transaction that is not answered is looked at when it is.
    fn waits_for_an_end(&self, tag: u8) -> bool {
        let is_behind = match self.session.batch_is_open() {
            true => names_statement(tag),
            false => self.session.status() != TransactionStatus::Idle && !self.session.copies_in(),
        };
        is_behind && self.session.gathered.size == 0 && self.is_on_replica() && self.session.awaits_end()
    }

    /// On a replica, the end of a transaction is the last that is sent of its batch before it is answered: what stands behind
    /// it is in no transaction, and may have to go elsewhere.
    fn stands_behind_an_end(&self, tag: u8) -> bool {
        self.session.gathered.has_ended()
            && names_statement(tag)
            && self.is_on_replica()
            && (self.session.status() != TransactionStatus::Idle || self.session.owes_begin())
    }

    fn is_on_replica(&self) -> bool {
        self.held.as_ref().is_some_and(HeldLease::is_on_replica)
    }

    /// What an earlier part of the batch has bound on a replica is executed there, wherever the rest of the batch must go:
    /// no other node has that portal.
    fn cut_behind_execute(&mut self) {
        let gathered = &mut self.session.gathered;
        if gathered.intent.is_some() || gathered.executes == 0 {
            return;
        }
        if self.is_on_replica() && self.session.batch_is_open() {
            self.session.gathered.end.get_or_insert(End::Flush);
        }
    }

    /// Translates what has been gathered for the held node.
    fn send_next(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        if let Some(held) = &mut self.held {
            // Units that are on their way together, and of which nothing is answered, can be run again together.
            let is_first = !self.session.awaits_replies();
            let size = buffers.kept.len() + self.session.gathered.size;
            // The Sync ahead of the end of a COPY is eaten by that: what is kept would end more often than it is answered.
            let ends_copy = self.session.gathered.end == Some(End::StrayCopy);
            if is_first || ends_copy || self.session.status() != TransactionStatus::Idle || size > MOST_KEPT {
                let can_move = held.is_on_replica() && is_first && self.session.can_begin_anew();
                held.at_hand = can_move && !self.session.batch_is_open();
                buffers.keep_nothing();
            }
            held.is_read &= self.session.intent().is_none_or(Intent::is_proven);
            // What the node has told since the last answer, as a notification, is of no unit's.
            if is_first && !self.session.batch_is_open() {
                held.told.forwarded &= held.passing.to_client > 0;
                held.written = held.written.min(Written::Before);
            }
            // What may write by itself is the first again, also behind a read that is not written yet: a goodbye that has come
            // since is read before it.
            let may_write = self.session.status() != TransactionStatus::Open
                && !self.session.intent().is_some_and(Intent::is_proven);
            if held.written == Written::Before && may_write {
                held.written = Written::Nothing;
            }
        }
        // Nothing answers a Flush by itself behind what is answered.
        let asks_nothing = self.session.gathered.asks_nothing();
        self.time_next();
        self.send_unit(buffers)?;
        if asks_nothing && self.session.all_answered() {
            match self.session.batch_is_open() {
                true => self.rests_in_batch(),
                false => self.place.card.rests(self.session.status() != TransactionStatus::Idle, Instant::now()),
            }
        }
        Ok(())
    }
}

/// What was found at the front of the input.
enum Surveyed {
    /// Nothing whole.
    Nothing,
    /// A message that has been gathered.
    Message,
    /// Copy data that has gone its way, or something that nobody wants.
    Passed,
    /// A message that can't be understood before more has been answered, or its text is parsed; or not at all.
    Doubtful,
    /// The client says goodbye: once all it has asked for is done.
    Goodbye,
}

/// A message of this type runs a statement, or speaks of one.
fn names_statement(tag: u8) -> bool {
    matches!(
        tag,
        frontend::QUERY
            | frontend::PARSE
            | frontend::BIND
            | frontend::DESCRIBE
            | frontend::EXECUTE
            | frontend::FUNCTION_CALL
    )
}

/// So many bytes are written. A buffer that is empty by that begins at its front again, so that it need not grow for what comes
/// next.
#[inline]
fn take_off(buffer: &mut BytesMut, count: usize) {
    match count == buffer.len() {
        true => buffer.clear(),
        false => buffer.advance(count),
    }
}

/// Writes what the client takes now; None: nothing.
fn write(cx: &mut Context<'_>, stream: &mut Stream, bytes: &[u8]) -> io::Result<Option<usize>> {
    match stream.poll_post(cx, bytes) {
        Poll::Pending => Ok(None),
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(result) => result.map(Some),
    }
}
