//! What a node answers: how much of it goes on to the client as it is, and what is put in the place of the rest.

use std::time::Instant;

use bytes::BytesMut;

use super::acquire::target;
use super::conversation::Client;
use super::gathering::body_of;
use super::held_lease::HeldLease;
use super::last_words::ends_with_goodbye;
use super::loss::{Losses, is_kept_from_primary};
use super::relay::Relayed;
use super::worker::Buffers;
use crate::catalog::Change;
use crate::session::replay::Differs;
use crate::session::{Reply, Session, TransactionLog, matters};
use crate::wire::backend::TransactionStatus;
use crate::wire::error_response::{Severity, put_error};
use crate::wire::{ErrorFields, Header, SqlState, backend};

/// A message that matters and is larger than this is looked at by its beginning only.
const LARGEST_LOOKED_AT: usize = 64 * 1024;

/// The same of an error or a notice: other words may take its place, and it must be whole for that.
const LARGEST_REPLACED: usize = 1024 * 1024;

/// So much of it is a beginning: PostgreSQL writes severity and code first.
const BEGINNING: usize = 1024;

/// Why looking has stopped.
pub(super) enum Stop {
    /// For a reason of the conversation.
    Relayed(Relayed),
    /// The node has lost the beat.
    OutOfStep,
}

/// How far the bytes that came from a node are looked at.
struct Walk {
    /// So many of them are.
    at: usize,
    /// Where the run of bytes begins that go on as they are.
    run: usize,
    /// Some do not; those before the run have been put where they go.
    has_gaps: bool,
    /// The client has been shown before what is answered now: a transaction is run again.
    is_muted: bool,
    /// A statement is done.
    is_done: bool,
    /// A unit is answered, be it one of Trunkline's own.
    is_answered: bool,
    /// So many of the client's are,
    answered: usize,
    /// and the last message ends one.
    ends_answered: bool,
}

impl Walk {
    /// What goes on as it is, so far, is put there; the next `size` bytes do not.
    #[cold]
    fn leave_out(&mut self, filled: &[u8], size: usize, out: &mut BytesMut) {
        out.extend_from_slice(filled.get(self.run..self.at).unwrap_or_default());
        (self.run, self.has_gaps) = (self.at + size, true);
    }

    /// As much as is there of the message that begins here.
    fn message<'a>(&self, filled: &'a [u8], header: Header) -> &'a [u8] {
        let rest = filled.get(self.at..).unwrap_or_default();
        rest.get(..header.size).unwrap_or(rest)
    }

    /// A message has been looked at; so many bytes of it are there.
    fn passes(&mut self, tag: u8, there: usize) {
        self.at += there;
        self.ends_answered = tag == backend::READY_FOR_QUERY;
    }
}

impl Client {
    /// Looks at what came from the node, but not beyond so many bytes. Answers how many at the front go on as they are; where
    /// some do not, what does has been put into `to_client` and 0 is answered.
    pub(super) fn look(&mut self, buffers: &mut Buffers, most: usize) -> Result<usize, Stop> {
        let Some(held) = &mut self.held else { return Ok(0) };
        // Before anything is taken from the message that may be on its way: what has been cut short must be known.
        if held.lease.connection().pass.is_severed() && !ends_with_goodbye(buffers.from_node.filled(), held) {
            return Err(Stop::Relayed(Relayed::NodeLost(None)));
        }
        let Buffers { from_node, to_client, .. } = buffers;
        let filled = from_node.filled();
        let filled = filled.get(..most).unwrap_or(filled);
        let at = held.passing.to_client.min(filled.len());
        held.passing.to_client -= at;
        let is_muted = match held.passing.is_aside {
            true => self.log.as_ref().is_some_and(|log| log.is_muted()),
            false => shown(&mut self.log, filled.get(..at).unwrap_or_default()),
        };
        held.passing.is_aside &= held.passing.to_client > 0;
        let run = if is_muted { at } else { 0 };
        let has_gaps = is_muted;
        let mut walk =
            Walk { at, run, has_gaps, is_muted, is_done: false, is_answered: false, answered: 0, ends_answered: false };
        while self.look_at_next(&mut walk, filled, to_client)? {}
        Ok(self.looked(&walk, buffers))
    }

    /// Looks at the next message that matters, and at those before it that do not. False: it is not to be looked at yet.
    #[inline]
    fn look_at_next(&mut self, walk: &mut Walk, filled: &[u8], out: &mut BytesMut) -> Result<bool, Stop> {
        let Some(held) = &mut self.held else { return Ok(false) };
        let (header, message) = loop {
            let rest = filled.get(walk.at..).unwrap_or_default();
            let Some(header) = Header::peek(rest).map_err(|_| Stop::OutOfStep)? else { return Ok(false) };
            let message = walk.message(filled, header);
            if matters(header.tag) {
                break (header, message);
            }
            held.passing.to_client = header.size - message.len();
            if shown(&mut self.log, message) {
                walk.run = walk.at + message.len();
            }
            walk.passes(header.tag, message.len());
        };
        let is_whole = message.len() == header.size;
        // What is for us is not passed on, and so it must be whole.
        if !is_whole
            && (header.size <= largest_awaited(header.tag)
                || message.len() < BEGINNING
                || self.session.awaits_for_itself())
        {
            return Ok(false);
        }
        // What has been answered before it is passed on first: then only what has failed may be run again.
        if header.tag == backend::ERROR_RESPONSE && walk.answered > 0 && held.is_on_replica() {
            held.has_more = true;
            return Ok(false);
        }
        let body = body_of(message);
        let known = &mut held.lease.connection().known;
        // The client is told nothing of what the replica says: if it is so elsewhere, it is told there.
        let reply = match header.tag == backend::PARAMETER_STATUS && held.ending.refused.is_some() {
            true => known.hears(body),
            false => self.session.reply(header.tag, body, known).map_err(|_| Stop::OutOfStep)?,
        };
        let is_usual = matches!(reply, Reply::Forward) && header.tag != backend::ERROR_RESPONSE;
        if is_usual && self.log.is_none() && held.ending.refused.is_none() {
            // Most messages: they go on as they are.
            walk.is_done |= header.tag == backend::COMMAND_COMPLETE;
            held.passing.to_client = header.size - message.len();
            walk.passes(header.tag, message.len());
            walk.is_answered |= walk.ends_answered;
            walk.answered += usize::from(walk.ends_answered);
            return Ok(true);
        }
        self.look_closely(walk, header, reply, filled, out)
    }

    /// Looks at a message that does not just go on. False: it is looked at once what stands before it has gone on.
    #[cold]
    #[inline(never)]
    fn look_closely(
        &mut self,
        walk: &mut Walk,
        header: Header,
        reply: Reply,
        filled: &[u8],
        out: &mut BytesMut,
    ) -> Result<bool, Stop> {
        let Some(held) = &mut self.held else { return Ok(false) };
        let log = &mut self.log;
        let message = walk.message(filled, header);
        let is_whole = message.len() == header.size;
        let reply = if is_whole { reply } else { reply.of_beginning() };
        let body = body_of(message);
        // Within a transaction that may be replayed nothing counts before its COMMIT.
        let counts = self.session.status() != TransactionStatus::Open
            || body.starts_with(b"COMMIT")
            || body.starts_with(b"PREPARE TRANSACTION")
            || log.as_ref().is_none_or(|log| log.is_empty());
        walk.is_done |= header.tag == backend::COMMAND_COMPLETE && counts;
        let is_ready = header.tag == backend::READY_FOR_QUERY;
        walk.is_answered |= is_ready;
        walk.answered += usize::from(is_ready && !matches!(reply, Reply::Hide));
        match &reply {
            Reply::Forward | Reply::Refused(_, None) if tells_of_its_unit(header.tag) => {
                shown(log, message);
            }
            Reply::Replace(bytes) | Reply::Stale(bytes) | Reply::Refused(_, Some(bytes)) => {
                shown(log, bytes);
            }
            _ => {}
        }
        // The node thinks that its user has cancelled it.
        let overdue = self.place.card.overdue().filter(|_| {
            header.tag == backend::ERROR_RESPONSE
                && is_whole
                && ErrorFields::read(body).code == SqlState::QUERY_CANCELED
        });
        let is_over = self.session.status() == TransactionStatus::Idle;
        if is_ready && !matches!(reply, Reply::Hide) && answered_again(log, is_over).is_err() {
            return Err(Stop::Relayed(Relayed::ReplayDiffers));
        }
        match reply {
            // What is in force now the client is told, whatever it has heard of it before.
            Reply::Forward | Reply::Replace(_) | Reply::Refused(..) | Reply::WorkerEnds(_) | Reply::Stale(_)
                if walk.is_muted && header.tag != backend::PARAMETER_STATUS =>
            {
                walk.leave_out(filled, message.len(), out);
            }
            Reply::Forward if held.ending.refused.is_none() && overdue.is_none() => {}
            Reply::Forward => {
                walk.leave_out(filled, message.len(), out);
                if let Some(by) = overdue.filter(|_| held.ending.refused.is_none()) {
                    put_error(out, Severity::Error, SqlState::QUERY_CANCELED, by.words(), None);
                    self.worker.metrics.error_sent(SqlState::QUERY_CANCELED.as_str());
                }
            }
            Reply::Hide => walk.leave_out(filled, message.len(), out),
            Reply::Replace(bytes) => {
                walk.leave_out(filled, message.len(), out);
                out.extend_from_slice(&bytes);
            }
            Reply::Stale(bytes) => {
                walk.leave_out(filled, message.len(), out);
                if refuses(held, &self.session, &self.losses, SqlState::FEATURE_NOT_SUPPORTED) {
                    out.clear();
                } else {
                    out.extend_from_slice(&bytes);
                    self.worker.metrics.error_sent(ErrorFields::read(body_of(&bytes)).code.as_str());
                }
            }
            Reply::Refused(code, told) => {
                if refuses(held, &self.session, &self.losses, code) {
                    walk.leave_out(filled, message.len(), out);
                    out.clear();
                } else if let Some(told) = told {
                    walk.leave_out(filled, message.len(), out);
                    out.extend_from_slice(&told);
                }
            }
            // On each node at most once: a function may have raised it.
            Reply::WorkerEnds(code) => {
                let is_new = self.losses.on.len() < self.pools.len().max(2);
                if held.is_unseen_read() && !walk.is_answered && is_new {
                    out.clear();
                    return Err(Stop::Relayed(Relayed::NodeLost(Some(code))));
                }
            }
            Reply::NodeDies => {
                // With its warning a node sends what it has said so far, which is half an answer: a read of which
                // nothing has been shown is run again as a whole.
                if held.is_unseen_read() && !walk.is_answered {
                    out.clear();
                    return Err(Stop::Relayed(Relayed::NodeLost(None)));
                }
                walk.leave_out(filled, message.len(), out);
            }
            Reply::SessionEnds => held.ending.ends_session = true,
            Reply::NodeEnds(code) => {
                // What the node has done before its goodbye counts and goes to the client first. Where it has done
                // nothing yet, nothing is shown, and the unit can be run again.
                if held.told.forwarded || walk.is_answered || (walk.is_done && !held.is_read) {
                    held.ending.farewell = Some(code);
                    return Ok(false);
                }
                out.clear();
                return Err(Stop::Relayed(Relayed::NodeLost(Some(code))));
            }
        }
        held.passing.to_client = header.size - message.len();
        held.passing.is_aside = held.passing.to_client > 0 && !tells_of_its_unit(header.tag);
        walk.passes(header.tag, message.len());
        if is_ready {
            walk.is_muted = self.log.as_ref().is_some_and(|log| log.is_muted());
        }
        Ok(true)
    }

    /// Everything that may be looked at now has been. Answers how many bytes at the front go on as they are.
    fn looked(&mut self, walk: &Walk, buffers: &mut Buffers) -> usize {
        match self.session.take_catalog_change() {
            Change::None => {}
            change => self.catalogs_changed(change),
        }
        let Some(held) = &mut self.held else { return 0 };
        if held.ending.refused.is_some() {
            buffers.from_node.consume(walk.at);
            buffers.to_client.clear();
            if buffers.from_node.is_full() {
                buffers.from_node.grow();
            }
            return 0;
        }
        if self.session.has_written(walk.answered > 0) {
            self.server.cluster(&self.database).last_write.wrote(Instant::now());
        }
        self.session.shown();
        let mut passing = walk.at;
        if walk.has_gaps {
            let run = buffers.from_node.filled().get(walk.run..walk.at).unwrap_or_default();
            buffers.to_client.extend_from_slice(run);
            held.told.forwarded |= !buffers.to_client.is_empty();
            buffers.from_node.consume(walk.at);
            passing = 0;
        }
        held.told.forwarded |= passing > 0;
        held.told.has_shown |= held.told.forwarded;
        for _ in 0..walk.answered {
            buffers.first_is_answered();
        }
        if walk.answered > 0 && self.session.keeps_lease() {
            self.goes_on_holding();
        }
        if !walk.ends_answered && self.session.all_answered() {
            self.rests_in_batch();
        }
        let Some(held) = &mut self.held else { return 0 };
        // What is under way now is another unit, of which nothing has been forwarded.
        held.told.forwarded &= !walk.ends_answered;
        if buffers.from_node.is_full() && passing == 0 {
            buffers.from_node.grow();
        }
        passing
    }

    /// What the client is told waits until it takes that. Where a whole answer does, nothing is left to be cancelled.
    #[cold]
    pub(super) fn ends_time_of_answered(&mut self) {
        if let Some(held) = self.held.as_mut().filter(|held| held.timing.is_timed && self.session.is_idle()) {
            held.timing.alarm = None;
            self.place.card.is_answered(Instant::now());
        }
    }

    /// What the node says is not looked at before the client has taken what it was told last. It may be the whole answer, where
    /// nothing of it has gone on yet: no time goes on behind that.
    #[cold]
    pub(super) fn ends_time_of_unheard(&mut self) {
        if let Some(held) = self.held.as_mut().filter(|held| held.timing.is_timed && !held.told.forwarded)
            && held.lease.connection().has_spoken()
        {
            held.timing.alarm = None;
            self.place.card.is_answered(Instant::now());
        }
    }

    /// All that was sent is answered, and the last of it by no ReadyForQuery: if a batch is open, nothing runs until its client
    /// goes on. What it has done, it holds as a transaction does.
    #[cold]
    pub(super) fn rests_in_batch(&mut self) {
        if !self.session.batch_is_open() {
            return; // the node has told something of itself
        }
        let (is_open, now) = (self.session.status() != TransactionStatus::Idle, Instant::now());
        match self.session.has_only_prepared() {
            true if self.session.keeps_lease() => self.place.card.rests(is_open, now),
            true => self.place.card.has_prepared(now),
            false => self.place.card.rests(true, now),
        }
    }

    /// Units are answered, and the lease does not go back: they are counted now.
    fn goes_on_holding(&mut self) {
        let Some(held) = &mut self.held else { return };
        let (is_open, now) = (self.session.status() != TransactionStatus::Idle, Instant::now());
        let took = held.took(now);
        self.worker.metrics.statements_finished(target(held.role), took, self.session.take_run());
        self.tally.count(|totals| totals.query_time += took);
        // The time of what is under way still begins here: before, the node had something else to do.
        held.counting.asked = (!self.session.all_answered()).then_some(now);
        if self.session.all_answered() {
            self.place.card.rests(is_open, now);
            held.emptied = None;
            // No time goes on behind the answer.
            held.timing.alarm = None;
            if !is_open {
                self.transaction_ended(now);
            }
            self.session.take_new_pins().iter().for_each(|pin| self.worker.metrics.pinned(pin));
        }
    }
}

/// A message of this kind is looked at as a whole up to this size.
fn largest_awaited(tag: u8) -> usize {
    match tag {
        backend::ERROR_RESPONSE | backend::NOTICE_RESPONSE => LARGEST_REPLACED,
        _ => LARGEST_LOOKED_AT,
    }
}

/// A replica refuses with this what another node may answer in its place. False: the client is told.
fn refuses(held: &mut HeldLease, session: &Session, losses: &Losses, code: SqlState) -> bool {
    let is_within = session.status() != TransactionStatus::Idle;
    // A transaction would go on at the primary; and who has it for the second time is the last that its rule gives.
    let must_stay = is_kept_from_primary(held, code) && (is_within || losses.on.contains(&held.lease.node()));
    let may_move = held.is_unseen_read() && held.is_on_replica() && session.can_be_run_elsewhere() && !must_stay;
    if may_move {
        held.ending.refused = Some(code);
        held.ending.is_refused_within = is_within;
    }
    may_move
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
