//! What comes from a client, looked at message by message until a unit is whole; and what is dropped, or answered in
//! a node's place.

use std::sync::Arc;
use std::time::Instant;

use super::conversation::Client;
use super::farewell::Farewell;
use super::last_path;
use super::mode::refused_block;
use super::parser::{self, LONG};
use super::relay::MOST_WAITING;
use super::rulings::minute_of_the_day;
use super::worker::Buffers;
use crate::config::PoolMode;
use crate::metrics::Limit;
use crate::net::ReadBuffer;
use crate::routing::{Catalog, Intent, Reads};
use crate::session::{End, Held, Surroundings};
use crate::sql::Statement;
use crate::wire::frontend::Bind;
use crate::wire::{FrameError, Header, SqlState, backend, frame, frontend};

/// A batch for the primary that is longer than this is not collected whole before it is sent: what few batches exceed, so
/// that a batch that can be run again as a whole mostly stays one.
const LONG_PIPELINE: usize = 256 * 1024;

impl Client {
    pub(super) async fn read_more(&mut self, input: &mut ReadBuffer) -> Result<(), Farewell> {
        match self.session.status() {
            backend::TransactionStatus::Idle => self.place.card.idles(Instant::now()),
            _ => self.place.card.rests(true, Instant::now()),
        }
        if input.is_full() {
            input.grow();
        }
        // Cancel-safe: what was read is in the buffer.
        match std::future::poll_fn(|cx| self.poll_client(cx, input)).await? {
            0 => Err(Farewell::Left),
            _ => Ok(()),
        }
    }

    /// Looks at whole messages until the unit is whole, or a text must be parsed apart. Without a lease only.
    pub(super) fn survey(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        let changes = self.database.catalog.changes();
        if self.session.gathered.judged_at != changes {
            self.judges_at(changes);
        }
        match self.survey_unit(buffers) {
            // What stands before a message that cannot be understood is answered first.
            Err(_) if self.session.gathered.size > 0 => {
                self.session.cut_batch();
                Ok(())
            }
            surveyed => surveyed,
        }
    }

    /// The catalogs have changed. What has come of a unit before is looked at again, unless that would have another of its texts
    /// parsed than the one that is; a whole one is when it has a lease.
    #[cold]
    fn judges_at(&mut self, changes: u64) {
        let is_parsed_apart = self.apart.is_some();
        let gathered = &mut self.session.gathered;
        if gathered.end.is_some() || gathered.size > 0 && is_parsed_apart {
            return;
        }
        // What stands there before its first message tells where it goes because a replica has refused it.
        if gathered.size > 0 {
            gathered.clear();
        }
        gathered.judged_at = changes;
    }

    #[inline]
    fn survey_unit(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        while self.session.gathered.end.is_none() {
            let rest = buffers.input.filled().get(self.session.gathered.size..).unwrap_or_default();
            let Some(header) = peek(rest)? else {
                self.cut_unfinished(&buffers.input);
                return Ok(());
            };
            if let Some(message) = rest.get(..header.size) {
                if header.size >= LONG && self.must_parse_apart(header.tag, body_of(message))? {
                    return Ok(());
                }
                self.survey_message(header, message, 0)?;
                self.cut_long_pipeline();
            } else if !self.survey_partial(header, buffers)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// No more has come than what has been gathered, which has no end. It is sent where no more may be kept, or none comes
    /// before it is answered: COPY FROM STDIN asks for its data without a Sync, and whoever waits for that has sent none.
    #[cold]
    pub(super) fn cut_unfinished(&mut self, input: &ReadBuffer) {
        if input.len() >= self.server.limits.buffer_bytes {
            self.session.cut_batch();
        } else if self.session.gathered.takes_data() {
            self.session.gathered.end.get_or_insert(End::Flush);
        }
    }

    /// What needs the primary needs it whatever follows: the first statements of a long batch run, and may fail, while the
    /// client still sends the rest.
    fn cut_long_pipeline(&mut self) {
        let gathered = &mut self.session.gathered;
        if gathered.size >= LONG_PIPELINE && gathered.intent.as_ref().is_some_and(Intent::needs_primary) {
            gathered.end.get_or_insert(End::Flush);
        }
    }

    /// Drops what has come of a message that nobody wants.
    pub(super) fn drop_rest(&mut self, buffers: &mut Buffers) {
        let there = self.dropping.min(buffers.input.len());
        buffers.input.consume(there);
        self.dropping -= there;
    }

    /// Takes the unit off the input; what has not come of it is dropped as it comes.
    pub(super) fn take_unit_off(&mut self, buffers: &mut Buffers) {
        self.count_rulings();
        buffers.input.consume(self.session.gathered.size);
        self.dropping = self.session.gathered.missing;
    }

    /// Looks at a message of which `missing` bytes have not come yet.
    pub(super) fn survey_message(&mut self, header: Header, message: &[u8], missing: usize) -> Result<(), Farewell> {
        let body = body_of(message);
        if missing == 0 {
            let free_of = self.held.is_none().then_some(&*self.server.rules);
            if self.session.survey_plain(header.tag, header.size, body, free_of).map_err(|_| violation(header.tag))? {
                return Ok(());
            }
        }
        let mut classified = None;
        if missing == 0 && header.tag == frontend::QUERY && self.held.is_none() {
            let text = frontend::query_text(body).map_err(|_| violation(header.tag))?;
            let statement = parser::classify(&mut self.apart, text, self.session.dialect(), &self.worker);
            match self.survey_read(header.size, statement) {
                None => return Ok(()),
                statement => classified = statement,
            }
        }
        self.survey_closely(header, body, missing, classified)
    }

    /// The same, with all that may decide where it goes. A Query may be `classified` already.
    #[inline(never)]
    fn survey_closely(
        &mut self,
        header: Header,
        body: &[u8],
        missing: usize,
        mut classified: Option<Arc<Statement>>,
    ) -> Result<(), Farewell> {
        let held = self.held.as_ref().map_or(Held::Nothing, |held| Held::of(held.role));
        let known = self.database.catalog.look();
        let resolved = known.picture().map(|picture| self.paths.resolve(picture, &self.session));
        let catalog = match (known.picture(), resolved) {
            (Some(picture), Some(resolved)) => Catalog::Known { picture, path: &resolved.path, key: resolved.key },
            _ => {
                let last = known.last().map(|picture| &**picture);
                let own_first = last_path::own_first(last, &self.session, &self.server, &self.database);
                Catalog::Unknown { last, own_first, lists: &self.server.functions }
            }
        };
        let (worker, dialect, apart) = (&self.worker, self.session.dialect(), &mut self.apart);
        let mut around = Surroundings {
            classify: &mut |text| classified.take().unwrap_or_else(|| parser::classify(apart, text, dialect, worker)),
            rules: &self.server.rules,
            reads: self.server.reads,
            held,
            catalog,
            heeds_hints: self.server.hints,
            minute: if self.server.rules.looks_at_time() { minute_of_the_day() } else { 0 },
            draw: if self.server.rules.draws() { rand::random() } else { 0 },
            optimistic: self.server.optimistic,
        };
        match missing {
            0 => self.session.survey(header.tag, header.size, body, &mut around),
            _ => self.session.survey_beginning(header.tag, body, missing, &mut around),
        }
        .map_err(|_| violation(header.tag))?;
        if self.mode == PoolMode::Statement && self.session.gathered.begins {
            self.refuse_block();
        }
        Ok(())
    }

    /// Looks at a Query that is a plain read, and of which the catalog has noted what it means: most messages. Without a
    /// lease, and where no rule has a part in it, only. What it is not, it gives back.
    fn survey_read(&mut self, size: usize, statement: Arc<Statement>) -> Option<Arc<Statement>> {
        let is_free = statement.is_plain_read() && self.session.is_free_of(&self.server.rules, &statement);
        if !is_free || self.server.reads == Reads::Primary {
            return Some(statement);
        }
        let known = self.database.catalog.look();
        let Some(picture) = known.picture() else { return Some(statement) };
        let path = self.paths.resolve(picture, &self.session);
        let catalog = Catalog::Known { picture, path: &path.path, key: path.key };
        self.session.survey_read(size, statement, &catalog)
    }

    /// What has been gathered begins a transaction, which the pool's mode does not allow.
    #[cold]
    fn refuse_block(&mut self) {
        if !matches!(self.session.intent(), Some(Intent::Refuse { .. })) {
            self.worker.metrics.limit_met(Limit::StatementMode);
            self.session.gathered.join(refused_block());
        }
    }

    /// A message that is too large to wait for goes on as it comes: the unit starts with what is there of it, which is what it names
    /// at least. Answers false if there must be more of it first.
    pub(super) fn survey_partial(&mut self, header: Header, buffers: &mut Buffers) -> Result<bool, Farewell> {
        if !frontend::is_known(header.tag) {
            return Err(violation(header.tag));
        }
        let limit = self.server.limits.buffer_bytes;
        if header.tag == frontend::COPY_DATA && self.session.gathered.size == 0 {
            self.pass_copy_data(header, buffers);
            return Ok(true);
        }
        if header.size <= limit && buffers.input.len() < limit {
            return Ok(false);
        }
        if self.session.gathered.size > 0 {
            self.session.cut_batch();
            return Ok(true);
        }
        let missing = header.size.saturating_sub(buffers.input.len());
        if self.held.is_some() && self.session.answers_alone() {
            buffers.input.consume(usize::MAX);
            self.dropping = missing;
            return Ok(true);
        }
        if !matches!(header.tag, frontend::QUERY | frontend::BIND | frontend::FUNCTION_CALL) {
            let message = format!("message of {} bytes is larger than limits.buffer_bytes ({limit})", header.size);
            return Err(Farewell::told(SqlState::PROGRAM_LIMIT_EXCEEDED, message));
        }
        let there = body_of(buffers.input.filled());
        let is_nameless = match header.tag {
            frontend::BIND => Bind::read(there).is_err(),
            frontend::FUNCTION_CALL => frontend::called_function(there).is_err(),
            _ => false,
        };
        if is_nameless && buffers.input.len() < limit {
            return Ok(false);
        }
        self.survey_message(header, buffers.input.filled(), missing)?;
        Ok(true)
    }

    /// Copy data at the front of the input, whole or not, goes to the node if it may want it, and nowhere else.
    pub(super) fn pass_copy_data(&mut self, header: Header, buffers: &mut Buffers) {
        let there = header.size.min(buffers.input.len());
        let missing = header.size - there;
        let is_wanted = self.may_want_data();
        match &mut self.held {
            Some(held) if is_wanted => {
                if let Some(log) = &mut self.log {
                    log.spoil();
                }
                // Without it, its COPY is not to be run again.
                held.at_hand = false;
                buffers.keep_nothing();
                buffers.to_node.extend_from_slice(buffers.input.filled().get(..there).unwrap_or_default());
                held.passing.to_node = missing;
            }
            _ => self.dropping = missing,
        }
        buffers.input.consume(there);
    }

    /// The node may want copy data, or its end: a COPY is under way, or what is may turn out to be one.
    pub(super) fn may_want_data(&self) -> bool {
        !self.session.answers_alone() && (self.session.copies_in() || self.session.awaits_replies())
    }

    pub(super) fn drop_unit(&mut self, buffers: &mut Buffers) {
        self.take_unit_off(buffers);
        self.session.gathered.clear();
    }

    /// Answers in the node's place until the lost transaction or the skipped batch has ended.
    pub(super) async fn answer_alone(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        loop {
            self.drop_rest(buffers);
            let header = peek(buffers.input.filled())?;
            if let Some(header) = header.filter(|header| !frontend::is_known(header.tag)) {
                return Err(violation(header.tag));
            }
            self.cut_large(buffers)?;
            let Some(header) = peek(buffers.input.filled())?.filter(|header| header.size <= buffers.input.len()) else {
                self.flush(buffers).await?;
                return self.read_more(&mut buffers.input).await;
            };
            if header.tag == frontend::TERMINATE {
                return Err(Farewell::Left);
            }
            let (worker, dialect) = (&self.worker, self.session.dialect());
            let message = buffers.input.filled().get(frame::HEADER..header.size).unwrap_or_default();
            if self.session.ends_and_goes_on(header.tag, message, &mut |text| worker.classify(text, dialect)) {
                return self.flush(buffers).await;
            }
            let told = self
                .session
                .answer_alone(header.tag, message, &mut |text| worker.classify(text, dialect), &mut buffers.to_client)
                .map_err(|_| violation(header.tag))?;
            self.count_told(told);
            buffers.input.consume(header.size);
            self.counted = self.counted.saturating_sub(header.size);
            if !self.session.answers_alone() {
                return self.flush(buffers).await;
            }
            if buffers.to_client.len() >= MOST_WAITING {
                self.flush(buffers).await?;
            }
        }
    }

    /// Of a message that is too large to be waited for, only that it was there is of interest: it becomes a Query of any kind
    /// or Sync's forerunner without effect.
    fn cut_large(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        let limit = self.server.limits.buffer_bytes;
        let Some(header) = peek(buffers.input.filled())?.filter(|header| header.size > limit) else { return Ok(()) };
        self.dropping = header.size.saturating_sub(buffers.input.len());
        buffers.input.consume(header.size);
        let body: &[u8] = if header.tag == frontend::QUERY { b"select\0" } else { b"\0\0" };
        let (worker, dialect) = (&self.worker, self.session.dialect());
        let told = self
            .session
            .answer_alone(header.tag, body, &mut |text| worker.classify(text, dialect), &mut buffers.to_client)
            .map_err(|_| violation(header.tag))?;
        self.count_told(told);
        Ok(())
    }

    /// Counts the error that the client has been told in the node's place, if it has.
    fn count_told(&self, told: Option<SqlState>) {
        told.into_iter().for_each(|code| self.worker.metrics.error_sent(code.as_str()));
    }
}

/// The header at the front of what came from the client.
#[inline]
pub(super) fn peek(bytes: &[u8]) -> Result<Option<Header>, Farewell> {
    match Header::peek(bytes) {
        Ok(Some(header)) if header.size > frontend::SMALL && !frontend::may_be_large(header.tag) => {
            Err(bad_header(header.tag, FrameError::Length))
        }
        Ok(header) => Ok(header),
        Err(error) => Err(bad_header(bytes.first().copied().unwrap_or_default(), error)),
    }
}

#[cold]
fn bad_header(tag: u8, error: FrameError) -> Farewell {
    match frontend::is_known(tag) {
        true => Farewell::violation(&error.to_string()),
        false => violation(tag),
    }
}

/// What stands behind a message's header.
#[inline]
pub(super) fn body_of(message: &[u8]) -> &[u8] {
    message.get(frame::HEADER..).unwrap_or_default()
}

/// A message with this tag cannot be understood: in PostgreSQL's words.
#[cold]
pub(super) fn violation(tag: u8) -> Farewell {
    match frontend::is_known(tag) {
        true => Farewell::violation("invalid message format"),
        false => Farewell::violation(&format!("invalid frontend message type {tag}")),
    }
}
