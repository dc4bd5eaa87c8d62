//! A unit on its way to a node: the lease is made the session's, the messages translated, the decision remembered.

use std::time::{Duration, Instant};

use super::acquire::{Acquired, Refusal, target};
use super::alarm::Alarm;
use super::conversation::Client;
use super::farewell::Farewell;
use super::gathering::violation;
use super::held_lease::{Counting, Ending, HeldLease, Passing, Timing, Told, Written};
use super::release::stop_statement;
use super::worker::Buffers;
use crate::backend::exchange::ExchangeError;
use crate::backend::{Connection, Lease};
use crate::config::PoolMode;
use crate::metrics::Retry;
use crate::net::timers;
use crate::routing::{Intent, Reason, safety};
use crate::session::replay::Sent;
use crate::session::translate::messages;
use crate::session::{End, Held, Settings, TransactionLog, may_be_taken_elsewhere};
use crate::topology::{NodeId, Role};
use crate::wire::backend::TransactionStatus;
use crate::wire::error_response::{put_notice, put_warning};
use crate::wire::{SqlState, frontend};

/// A unit whose server connections cannot be made its session's in time is told so in the end.
const MOST_WAITS: usize = 2;

/// So is one for which new server connections end again and again before they are its session's.
const MOST_UNPREPARED: usize = 4;

/// Why a statement could not be looked at on a server connection.
enum Unverified {
    /// A cancel or a timeout of the session's met it: that is the unit's answer, and the server connection is whole.
    Cut(Refusal),
    /// The server connection is none any more, or not the session's.
    Failed(ExchangeError),
}

impl Client {
    /// The unit goes on its way on a new lease.
    pub(super) async fn begin(
        &mut self,
        mut acquired: Acquired,
        is_read: bool,
        buffers: &mut Buffers,
    ) -> Result<(), Farewell> {
        if self.session.cannot_use(&acquired.lease.connection().known) {
            return Ok(()); // closes it, and the unit is started on another
        }
        let due = self.due_if_timed(is_read);
        if is_past(due) {
            return self.refuse_late(acquired.lease, buffers).await;
        }
        let node = acquired.lease.node();
        if self.was_refused_by_replica(&acquired) {
            self.give_back(acquired.lease, Instant::now());
            return self.leave_replica(node, buffers).await;
        }
        if let Err(error) = self.make_ours(&mut acquired.lease, due).await {
            if self.is_refused_by_replica(acquired.role, &error) {
                self.note_refusal(acquired.lease, error);
                return self.leave_replica(node, buffers).await;
            }
            return self.replay_failed(acquired.lease, error, due, buffers).await;
        }
        let Some(is_read) = self.go_by(&mut acquired, is_read, buffers).await? else {
            self.give_back(acquired.lease, Instant::now());
            return Ok(()); // what it is now is started elsewhere
        };
        let due = self.due_if_timed(is_read);
        let is_read = match self.verify(&mut acquired, is_read, due, buffers).await {
            Ok(Some(is_read)) => is_read,
            Ok(None) => {
                self.give_back(acquired.lease, Instant::now());
                return Ok(()); // the same
            }
            Err(Unverified::Cut(refusal)) => {
                self.cancellable.runs_nothing();
                self.give_back(acquired.lease, Instant::now());
                return self.refuse(refusal, buffers).await;
            }
            Err(Unverified::Failed(error)) => return self.replay_failed(acquired.lease, error, due, buffers).await,
        };
        if is_past(due) {
            return self.refuse_late(acquired.lease, buffers).await;
        }
        if acquired.is_unbelieved() {
            self.give_back(acquired.lease, Instant::now());
            return Ok(()); // and it waits without one
        }
        if let Some(sql) = self.session.beginning(Held::of(acquired.role)) {
            let deadline = self.latest_to_prepare(due);
            match acquired.lease.connection().query(&sql, deadline).await {
                Ok(_) => {}
                Err(ExchangeError::Refused { code, .. }) if self.session.has_failed_anew(code) => {}
                Err(error) => return self.replay_failed(acquired.lease, error, due, buffers).await,
            }
            if acquired.is_unbelieved() {
                self.cancellable.runs_nothing();
                return Ok(()); // closes it: the transaction is begun elsewhere
            }
            self.session.has_begun();
        }
        if self.session.shows_wishes() {
            self.session.hide_wishes(&mut acquired.lease.connection().known);
        }
        self.set_out(acquired, is_read, Instant::now(), buffers)
    }

    /// See [`Self::due`]. None, too, where no timer of ours may end what the unit does.
    fn due_if_timed(&mut self, is_read: bool) -> Option<Instant> {
        if self.may_be_timed(is_read) { self.due() } else { None }
    }

    /// The time of the unit is over before it is sent: the lease that it would have had goes back.
    async fn refuse_late(&mut self, lease: Lease, buffers: &mut Buffers) -> Result<(), Farewell> {
        self.give_back(lease, Instant::now());
        self.refuse(self.runs_out_of_time(), buffers).await
    }

    /// By when a server connection must have taken up what the session has, for a unit that is to be answered by then.
    fn latest_to_prepare(&self, due: Option<Instant>) -> tokio::time::Instant {
        let latest = tokio::time::Instant::now() + self.server.queue_timeout;
        due.map_or(latest, |due| latest.min(due.into()))
    }

    /// The unit goes on its way on a lease whose settings are the session's.
    pub(super) fn set_out(
        &mut self,
        acquired: Acquired,
        is_read: bool,
        begun: Instant,
        buffers: &mut Buffers,
    ) -> Result<(), Farewell> {
        let Acquired { mut lease, role, reason, may_lack } = acquired;
        if self.losses.unprepared.0 > 0 {
            self.losses.unprepared = (0, None);
        }
        let is_measured = is_read && !self.session.gathered.begins;
        let may_be_timed = self.may_be_timed(is_read);
        let timeout = self.session.intent().and_then(Intent::timeout).filter(|_| may_be_timed);
        let is_timed = may_be_timed && (timeout.is_some() || self.server.limits.query_timeout.is_some());
        let keeps_to_its_nodes = self.session.intent().is_some_and(Intent::keeps_to_its_nodes);
        let terms = self.session.intent().and_then(Intent::terms).filter(|_| is_measured);
        let asks_less = terms.is_some_and(|terms| {
            let own = self.own_consistency();
            terms.consistency_in(own) < own
        });
        // What ends with a Flush goes on: it is timed with what ends it.
        let ends_here = !self.session.gathered.goes_on();
        if timeout.is_none() || !ends_here {
            self.losses.due = None;
        }
        self.turn = self.worker.turn();
        if is_read && role == Role::Replica && self.cluster().balance.sticky {
            self.stays_with = Some(lease.node());
        }
        self.cancellable.runs_on(lease.connection());
        buffers.keep_nothing();
        if self.mode == PoolMode::Session {
            self.session.keep_lease();
        }
        if matches!(reason, Reason::UnknownRelation | Reason::UnknownFunction) {
            self.database.catalog.missed(begun);
        }
        self.session.served_on(Held::of(role));
        self.place.card.runs_on(lease.pool().address(), begun, is_timed && ends_here);
        self.tally.count(|totals| totals.assignments += 1);
        self.held = Some(HeldLease {
            lease,
            role,
            may_lack,
            asks_less,
            keeps_to_its_nodes,
            begun,
            reason,
            written: Written::Nothing,
            has_begun: false,
            only_cleans: false,
            // What was cut off stands in the input still, and comes behind it again.
            at_hand: ends_here || self.session.gathered.end == Some(End::Cut),
            is_read,
            is_measured,
            has_more: false,
            is_in_midst: false,
            passing: Passing::default(),
            told: Told::default(),
            timing: Timing { is_timed, timeout, alarm: None },
            counting: Counting { transaction: Some(begun), ..Counting::default() },
            ending: Ending::default(),
            emptied: None,
        });
        if ends_here {
            self.set_alarm();
        }
        self.send_unit(buffers)
    }

    /// What has been gathered is a read by the proof, and in no transaction: it may be cancelled when a time is over. Where
    /// its intent has been set aside, `is_read` says what it was found to be.
    pub(super) fn may_be_timed(&self, is_read: bool) -> bool {
        let is_proven = match self.session.intent() {
            Some(Intent::Kept { .. }) => true,
            // What a replica has refused is no read, however it reads.
            Some(Intent::Read { .. }) => is_read || self.mode == PoolMode::Session,
            _ => is_read,
        };
        is_proven && !self.session.gathered.begins && self.session.status() == TransactionStatus::Idle
    }

    /// What has been gathered goes on on the lease that is held. It is timed as it would be on one of its own where nothing
    /// is under way; what goes on with a batch only as long as all of that may be timed.
    pub(super) fn time_next(&mut self) {
        let intent = self.session.intent();
        let may_be_timed = self.may_be_timed(intent.is_some_and(Intent::is_proven));
        let goes_on = self.session.awaits_replies() || self.session.batch_is_open();
        let timeout = intent.and_then(Intent::timeout).filter(|_| may_be_timed);
        let (is_whole, has_limit) = (intent.is_none(), self.server.limits.query_timeout.is_some());
        let ends_here = !self.session.gathered.goes_on();
        let Some(held) = &mut self.held else { return };
        if goes_on {
            held.timing.is_timed &= may_be_timed || is_whole;
            held.timing.timeout = held.timing.timeout.filter(|_| held.timing.is_timed);
        } else {
            held.timing.is_timed = may_be_timed && (has_limit || timeout.is_some());
            held.timing.timeout = timeout;
            held.timing.alarm = None;
        }
        let is_timed = held.timing.is_timed && ends_here;
        self.begin_due();
        self.place.card.goes_on(is_timed.then(Instant::now));
        if is_timed {
            self.set_alarm();
        }
    }

    /// What stands there of a time is of what has gone before, unless what has been gathered has waited already.
    #[inline]
    pub(super) fn begin_due(&mut self) {
        if !std::mem::take(&mut self.losses.is_due_ahead) {
            self.losses.due = None;
        }
    }

    /// The read is whole now, and its time begins, if its rule gives it one and it has not begun before.
    pub(super) fn set_alarm(&mut self) {
        let Some(held) = &mut self.held else { return };
        if let Some(timeout) = held.timing.timeout.take() {
            let due = *self.losses.due.get_or_insert_with(|| Instant::now() + timeout);
            held.timing.alarm = Some(Alarm::set(due, &self.place.card, &self.worker.metrics));
        }
    }

    /// Translates what has been gathered. Its messages are kept while it may have to be run again.
    pub(super) fn send_unit(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        self.remember_decision(buffers);
        let size = self.session.gathered.size;
        if self.counted > 0 || !self.session.gathered.rulings.is_empty() {
            self.count_rulings();
        }
        match &self.held {
            Some(held) if held.role == Role::Primary => self.session.goes_to_primary(),
            Some(_) => self.session.goes_to_replica(),
            None => {}
        }
        self.note_for_replay(buffers);
        let may_be_skipped = self.session.may_be_skipped(buffers.input.filled());
        let Some(held) = &mut self.held else { return Ok(()) };
        if may_be_skipped {
            // Of what is kept, more would end than is answered.
            held.at_hand = false;
            buffers.keep_nothing();
        }
        if self.session.gathered.needs_own_sequences() && held.role == Role::Primary {
            self.session.forget_foreign_sequences(&mut held.lease.connection().known, &mut buffers.to_node);
        }
        let unit = buffers.input.filled().get(..size).unwrap_or_default();
        let mut last = None;
        for message in messages(unit) {
            let known = &mut held.lease.connection().known;
            let before = buffers.to_node.len();
            self.session
                .translate(message, known, self.server.prepared_statements, &mut buffers.to_node)
                .map_err(|_| violation(message.tag))?;
            match buffers.to_node.len() > before {
                true => held.passing.to_node = message.missing,
                false => self.dropping = message.missing,
            }
            last = Some(message.tag);
        }
        // What comes behind it may wait for the answers, and copy data that is stray asks for none.
        let is_cut = self.session.gathered.goes_on() && last != Some(frontend::FLUSH);
        if is_cut && held.passing.to_node == 0 {
            held.flush_part(&mut buffers.to_node);
        }
        if held.at_hand && self.session.gathered.missing == 0 {
            buffers.kept.extend_from_slice(unit);
            if matches!(self.session.gathered.end, Some(End::Query | End::Sync | End::FunctionCall)) {
                buffers.kept_ends.push_back(buffers.kept.len());
            }
        } else {
            held.at_hand = false;
        }
        let preparing = self.session.take_preparing();
        if !preparing.is_nothing() {
            self.tally.count(|totals| totals.add_preparing(preparing));
            if preparing.remade > 0 {
                self.worker.metrics.prepared_replayed(preparing.remade);
            }
        }
        buffers.input.consume(size);
        self.session.gathered.clear();
        Ok(())
    }

    /// Counts what the unit runs, where and why. What only prepares or describes is no statement yet.
    fn remember_decision(&mut self, buffers: &mut Buffers) {
        let Some(held) = &mut self.held else { return };
        let is_first = held.counting.units == 0;
        if !is_first && self.mode != PoolMode::Session {
            held.reason = match (self.session.pin(), self.session.intent()) {
                (Some(pin), _) => pin.into(),
                (None, Some(intent)) => intent.reason(),
                // Where each message goes on as it comes, an Execute says nothing: its Bind has told why before.
                (None, None) => held.reason,
            };
        }
        let runs = self.session.gathered.executes;
        if runs == 0 || self.session.is_skipping() {
            return;
        }
        held.counting.units = held.counting.units.saturating_add(1);
        let first = self.session.gathered.first.as_ref().filter(|statement| is_first && !statement.is_plain_read());
        held.only_cleans = self.session.gathered.end == Some(End::Query)
            && !self.session.gathered.hides_code
            && first.is_some_and(|first| first.only_cleans());
        let let_through = held.counting.let_through.take();
        let now = if is_first { held.begun } else { let_through.unwrap_or_else(Instant::now) };
        held.counting.transaction = held.counting.transaction.or(Some(now));
        held.counting.asked = held.counting.asked.or(Some(now));
        held.counting.shape = None;
        self.worker.metrics.statements_routed(target(held.role), held.reason.index(), runs);
        self.tally.count(|totals| totals.queries += u64::from(runs));
        self.remember_shape(is_first, now, buffers);
    }

    /// Counts the decision by the shape of the unit's first statement; and tells the client, if it wants to know.
    fn remember_shape(&mut self, is_first: bool, now: Instant, buffers: &mut Buffers) {
        let Some(held) = &mut self.held else { return };
        let Some(statement) = &self.session.gathered.first else { return };
        let (session, reason) = (&self.session, held.reason);
        let unit = || buffers.input.filled().get(..session.gathered.size).unwrap_or_default();
        let text = || match (session.text_of_unit(unit()), statement.is_unread()) {
            (text, true) => crate::sql::redacted_unread(&text),
            (text, false) => crate::sql::redacted(&text),
        };
        let decision = (target(held.role), reason);
        let key = self.worker.shapes.borrow_mut().made(statement, held.lease.pool().address(), decision, now, text);
        held.counting.shape = is_first.then_some(key);
        if self.session.wishes().notices {
            let rule = session.gathered.deciding_ruling().and_then(|ruled| ruled.rule(&self.server.rules));
            let by = rule.map(|rule| format!(", rule {}", rule.name)).unwrap_or_default();
            let node = held.lease.pool().address();
            let words = reason.words();
            let told = format!("routed to {} {node}: {}{by} ({words})", target(held.role).code(), reason.code());
            put_notice(&mut buffers.to_client, SqlState::SUCCESSFUL_COMPLETION, &told);
        }
        if is_first && reason == Reason::Stale {
            let told = "there is no primary: a replica answers that may lack the last that this session must see";
            put_warning(&mut buffers.to_client, SqlState::WARNING, told, "failover.stale_reads allows it");
        }
    }

    /// Makes the server connection's settings and SQL-prepared statements the session's.
    async fn make_ours(&mut self, lease: &mut Lease, due: Option<Instant>) -> Result<(), ExchangeError> {
        let connection = lease.connection();
        let mut settings = self.session.settings.clone();
        let mut sql = self.session.replay(&settings, &connection.known);
        let strange = self.session.strange_statements(&connection.known);
        let missing = self.session.missing_prepares(&connection.known);
        if sql.is_none() && strange.is_empty() && missing.is_empty() {
            return Ok(());
        }
        // What is replayed may wait for a lock.
        self.cancellable.runs_on(connection);
        let deadline = self.latest_to_prepare(due);
        if sql.as_deref().into_iter().chain(strange.iter().map(|name| &**name)).any(|sql| connection.misreads(sql)) {
            connection.turn_to_utf8(deadline).await?;
            sql = self.session.replay(&settings, &connection.known);
        }
        if !strange.is_empty() {
            connection.close_statements(&strange, deadline).await?;
            connection.known.have_no_sql(&strange);
        }
        if let Some(sql) = sql.map(|sql| self.session.guarded_on(&connection.known, sql)) {
            self.worker.metrics.parameters_replayed(1);
            if let Err(refused) = connection.query(&sql, deadline).await {
                settings = Box::pin(self.replay_otherwise(connection, refused, deadline)).await?;
            }
        }
        let mut refused = Vec::new();
        for prepare in missing {
            self.worker.metrics.prepared_replayed(1);
            // What cannot be prepared here any more will be missed by EXECUTE, in the node's own words.
            match connection.query(&prepare, deadline).await {
                Ok(_) => {}
                Err(ExchangeError::Refused { code, .. }) if !is_cut_short(code) => refused.push(prepare),
                Err(error) => return Err(error),
            }
        }
        self.session.replayed(&mut connection.known, settings, &refused);
        Ok(())
    }

    /// The session's settings have been refused. Answers what the server connection has taken in their place: the same, of which what
    /// not anybody may set is set by somebody else, or those that the unit keeps.
    async fn replay_otherwise(
        &mut self,
        connection: &mut Connection,
        mut refused: ExchangeError,
        deadline: tokio::time::Instant,
    ) -> Result<Settings, ExchangeError> {
        let same = if lacks_right(&refused) { self.session.settings.by_the_other() } else { None };
        for settings in same.into_iter().chain(self.session.settings_it_keeps()) {
            match &refused {
                ExchangeError::Refused { code, answer, .. } if !is_cut_short(*code) => {
                    if answer.status != TransactionStatus::Idle {
                        connection.query("ROLLBACK", deadline).await?;
                    }
                }
                _ => break,
            }
            let Some(sql) = self.session.replay(&settings, &connection.known) else { return Ok(settings) };
            match connection.query(&self.session.guarded_on(&connection.known, sql), deadline).await {
                Ok(_) => {
                    if settings == self.session.settings {
                        self.session.settings.clone_from(&settings); // so it is tried first from now on
                    }
                    return Ok(settings);
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// No change of the catalogs has been acknowledged since the unit was looked at.
    #[inline]
    pub(super) fn is_judged_now(&self) -> bool {
        self.session.gathered.judged_at == self.database.catalog.changes()
    }

    /// The client is told where the server connection reports otherwise than it has been told, and what may be read otherwise
    /// by that, or because the catalogs have changed while it waited, is looked at again. Answers whether it is a read; None:
    /// it cannot be served there, as it is read now.
    async fn go_by(
        &mut self,
        acquired: &mut Acquired,
        is_read: bool,
        buffers: &mut Buffers,
    ) -> Result<Option<bool>, Farewell> {
        let (known, held) = (&mut acquired.lease.connection().known, Held::of(acquired.role));
        let is_told = self.session.is_told(known, held);
        if is_told && self.is_judged_now() {
            return Ok(Some(is_read));
        }
        let is_read_otherwise =
            !is_told && self.session.goes_by(known, held, &mut buffers.to_client) || !self.is_judged_now();
        if !buffers.to_client.is_empty() {
            self.flush(buffers).await?;
        }
        if !is_read_otherwise {
            return Ok(Some(is_read));
        }
        self.session.gathered.clear();
        self.survey_whole(buffers).await?;
        Ok(self.is_read_on(acquired.role, is_read))
    }

    /// Whether what has been gathered is a read, as it is now; None: it cannot be served on a node of this role.
    fn is_read_on(&self, role: Role, is_read: bool) -> Option<bool> {
        let intent = self.intent();
        let fits = matches!(intent, Intent::Read { .. }) || role == Role::Primary && intent.needs_primary();
        // What a replica has refused is no read, however it reads.
        (fits && self.session.gathered.end.is_some()).then_some(is_read && intent.is_proven())
    }

    /// Statements whose columns are not known to be the same there are prepared anew on the server connection. Where that
    /// proves nothing, for something runs ahead of one in the unit, the unit ends there. Answers like [`Self::go_by`].
    async fn verify(
        &mut self,
        acquired: &mut Acquired,
        is_read: bool,
        due: Option<Instant>,
        buffers: &Buffers,
    ) -> Result<Option<bool>, Unverified> {
        let connection = acquired.lease.connection();
        if !self.session.must_verify(&connection.known) {
            return Ok(Some(is_read));
        }
        self.cancellable.runs_on(connection);
        let (messages, asked) = self.session.verification(&mut connection.known, self.server.prepared_statements);
        self.worker.metrics.prepared_replayed(asked.len());
        self.tally.count(|totals| totals.server_parses += asked.len() as u64);
        let deadline = self.latest_to_prepare(due);
        let (described, cut) = match connection.describe(&messages, deadline).await {
            Ok(described) => (described, None),
            // One of them is wrong by now: whoever uses it is told so then.
            Err(ExchangeError::Refused { code, message, answer, .. }) => {
                (answer.described, is_cut_short(code).then_some(Refusal { code, message }))
            }
            Err(error) => return Err(Unverified::Failed(error)),
        };
        self.session.verified(&mut connection.known, &asked, described.parsed, &described.told);
        if let Some(refusal) = cut {
            return Err(Unverified::Cut(refusal));
        }
        let unit = buffers.input.filled().get(..self.session.gathered.size).unwrap_or_default();
        match self.session.cut_ahead_of_changed(&asked, &connection.known, unit) {
            true => Ok(self.is_read_on(acquired.role, is_read)),
            false => Ok(Some(is_read)),
        }
    }

    /// What the session has set a replica does not take, and the primary may: a role that was just created, a time zone of its
    /// system. Where there is no primary, what the replica says is all there is.
    fn is_refused_by_replica(&self, role: Role, error: &ExchangeError) -> bool {
        let ExchangeError::Refused { code, .. } = error else { return false };
        may_be_taken_elsewhere(*code) && self.may_be_left_to_primary(role)
    }

    /// The same, as it has said just now: it is not asked again.
    fn was_refused_by_replica(&self, acquired: &Acquired) -> bool {
        let (node, settings) = (acquired.lease.node(), &self.session.settings);
        !self.refused.are_none()
            && self.refused.were_refused_by(node, settings, Instant::now())
            && acquired.lease.known().settings != *settings
            && self.may_be_left_to_primary(acquired.role)
    }

    fn may_be_left_to_primary(&self, role: Role) -> bool {
        role != Role::Primary && self.cluster().view.load().primary.is_some()
    }

    /// This replica has refused what the session has set.
    fn note_refusal(&mut self, lease: Lease, refused: ExchangeError) {
        self.refused.note(&self.session.settings, lease.node(), Instant::now());
        self.cancellable.runs_nothing();
        // What has been tried is undone, unless its transaction is open still: then it is closed. So it is where it may be what
        // others have set that could not be put back: whoever came next would be refused, too.
        let may_not_put_back =
            lacks_right(&refused) && self.session.settings.puts_back_by_right(&lease.known().settings);
        if let ExchangeError::Refused { answer, .. } = refused
            && answer.status == TransactionStatus::Idle
            && !may_not_put_back
        {
            self.give_back(lease, Instant::now());
        }
        self.worker.metrics.retried(Retry::ReplicaError);
    }

    /// The unit is started elsewhere than at this replica, and nothing of it has been run: at the primary, and only what that
    /// refuses is told, or, where its rule refuses what its nodes cannot take, at another of those.
    async fn leave_replica(&mut self, node: NodeId, buffers: &mut Buffers) -> Result<(), Farewell> {
        if !self.session.intent().is_some_and(Intent::keeps_to_its_nodes) {
            let (safe, reason) = (safety::of_nothing(), Reason::Retried);
            self.session.gathered.join(Intent::Kept { safe, reason, timeout: None });
        } else if self.losses.on.contains(&node) {
            return self.refuse(Refusal::by_rule(), buffers).await; // it was the only one
        } else {
            self.losses.on.push(node);
        }
        Ok(())
    }

    async fn replay_failed(
        &mut self,
        mut lease: Lease,
        error: ExchangeError,
        due: Option<Instant>,
        buffers: &mut Buffers,
    ) -> Result<(), Farewell> {
        self.cancellable.runs_nothing();
        match error {
            ExchangeError::Refused { code, message, .. }
                if self.session.placeholder_removed(code, &message, &mut buffers.to_client) =>
            {
                Ok(())
            }
            ExchangeError::Refused { code, message, .. } => self.refuse(Refusal { code, message }, buffers).await,
            // It waits for a lock, or the node stands still.
            ExchangeError::Timeout => {
                self.losses.on.push(lease.node());
                tokio::task::spawn_local(stop_statement(lease));
                if self.stream.socket().has_ended() {
                    return Err(Farewell::Left); // nobody is there to whom it could be run again
                }
                if is_past(due) {
                    return self.refuse(self.runs_out_of_time(), buffers).await;
                }
                if self.losses.on.len() < MOST_WAITS {
                    self.worker.metrics.retried(Retry::NotSent);
                    return Ok(());
                }
                let message = "canceling statement: what the session has prepared or set was not taken up by a server \
                               connection within pool.queue_timeout";
                self.refuse(Refusal { code: SqlState::QUERY_CANCELED, message: message.to_owned() }, buffers).await
            }
            // Nothing of the client's has been sent. Those that end behind the first were there before; but where new ones
            // end, too, it is what they take up that ends them.
            _ => {
                let (count, last) = &mut self.losses.unprepared;
                if last.is_none_or(|last| lease.connection().opened > last) {
                    (*count, *last) = (*count + 1, Some(Instant::now()));
                }
                let count = *count;
                self.session.freshness.lost(lease.node(), Instant::now());
                drop(lease);
                if count >= MOST_UNPREPARED {
                    let message = format!(
                        "{count} server connections were lost, one after the other, while they took up what the session \
                         has prepared or set"
                    );
                    return self.refuse(Refusal { code: SqlState::CONNECTION_FAILURE, message }, buffers).await;
                }
                self.worker.metrics.retried(Retry::NotSent);
                timers::sleep(Duration::from_millis(1)).await;
                Ok(())
            }
        }
    }

    /// Notes what is about to be sent, if its transaction may be replayed.
    fn note_for_replay(&mut self, buffers: &Buffers) {
        if self.server.replay.is_none() && self.log.is_none() {
            return;
        }
        let limit = self.server.replay.unwrap_or_default();
        let log = self.log.get_or_insert_with(|| Box::new(TransactionLog::new(limit)));
        let gathered = &self.session.gathered;
        // Copy data is not kept; and what commits before the BEGIN that it comes with is not done again.
        let copies = gathered.end == Some(End::StrayCopy) && self.session.awaits_replies();
        let messages = buffers.input.filled().get(..gathered.size).unwrap_or_default();
        let may_be_skipped = self.session.may_be_skipped(messages);
        if gathered.missing > 0 || copies || gathered.begins && gathered.commits || may_be_skipped {
            return log.spoil();
        }
        let is_first = self.session.is_idle();
        let was_empty = log.is_empty();
        let ends_unit = matches!(gathered.end, Some(End::Query | End::Sync | End::FunctionCall));
        log.sent(Sent { messages, begins: gathered.begins, is_first, ends_unit });
        if was_empty && !log.is_empty() {
            self.session.note_begin();
        }
        if !log.is_empty() {
            self.session.note_names();
        }
    }
}

/// Whoever the session is there may not do it.
fn lacks_right(error: &ExchangeError) -> bool {
    matches!(error, ExchangeError::Refused { code: SqlState::INSUFFICIENT_PRIVILEGE, .. })
}

/// It was not refused for what it says: it was cancelled, or has waited for a lock for too long.
fn is_cut_short(code: SqlState) -> bool {
    code == SqlState::QUERY_CANCELED || code == SqlState::LOCK_NOT_AVAILABLE
}

/// This moment has come.
fn is_past(due: Option<Instant>) -> bool {
    due.is_some_and(|due| due <= Instant::now())
}
