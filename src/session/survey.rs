//! What comes from the client, message by message: what it is, where it may go, whether it makes the unit whole.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use super::done::deallocates_all;
use super::gathered::End;
use super::prepared::{Prepared, Reading};
use super::{Held, Identity, Session, Surroundings, anew};
use crate::catalog::{Change, FIRST_OWN, Path};
use crate::routing::{Catalog, Facts, InTransaction, Intent, Reads, Reason, RuleSet, Sender, safety, weigh};
use crate::sql::{CopyDirection, Draws, Isolation, Part, SessionChange, Statement, TransactionControl, query_of};
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{self, Bind, Name, Parse, Target};
use crate::wire::reader::Truncated;
use crate::wire::{Header, frame};

impl Session {
    /// Looks at one whole message that runs nothing which is not known already, if it is one. Answers whether it is; any
    /// other is for [`Self::survey`]. Without a lease, where these rules have no part in it (`free_of`), a Bind may be one.
    #[inline]
    pub fn survey_plain(
        &mut self,
        tag: u8,
        size: usize,
        body: &[u8],
        free_of: Option<&RuleSet>,
    ) -> Result<bool, Truncated> {
        if tag == frontend::QUERY {
            return Ok(false);
        }
        self.gathered.has_more = true;
        match tag {
            frontend::BIND => {
                let Some(rules) = free_of else { return Ok(false) };
                let bind = Bind::read(body)?;
                let parsed =
                    self.gathered_statement(bind.statement.kept()).filter(|prepared| self.has_joined(prepared));
                let is_free = |prepared: &Arc<Prepared>| {
                    let statement = &prepared.statement;
                    // They may have a part in what an EXECUTE runs.
                    self.is_free_of(rules, statement) && (statement.is_plain_read() || !statement.executes_by_name())
                };
                let Some(prepared) = parsed.filter(is_free) else { return Ok(false) };
                self.uses(bind.statement.kept(), &prepared);
                if !bind.portal.is_empty() {
                    self.gathered.bind();
                }
            }
            frontend::PARSE => return Ok(false),
            frontend::DESCRIBE if frontend::target_fields(body)?.0 == Target::Statement => return Ok(false),
            frontend::DESCRIBE => {}
            frontend::CLOSE => self.survey_close(frontend::target_fields(body)?),
            frontend::EXECUTE => {
                self.gathered.executes += 1;
                // A portal with a limit on rows may be gone on with.
                if !body.ends_with(&[0; 4]) {
                    self.gathered.bind();
                }
            }
            // To the server such a Flush is an error without a ReadyForQuery, behind which it reads nothing up to the next Sync.
            frontend::SYNC | frontend::FLUSH if !body.is_empty() => return Err(Truncated),
            frontend::SYNC => self.gathered.end = Some(End::Sync),
            frontend::FLUSH => self.cut_batch(),
            frontend::FUNCTION_CALL => self.survey_function_call(),
            frontend::TERMINATE => self.gathered.end = Some(End::Terminate),
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => self.gathered.end = Some(End::StrayCopy),
            _ => return Err(Truncated),
        }
        self.gathered.size += size;
        Ok(true)
    }

    /// Looks at one whole message: what it is, where it may go, whether it makes the unit whole.
    pub fn survey(
        &mut self,
        tag: u8,
        size: usize,
        body: &[u8],
        around: &mut Surroundings<'_>,
    ) -> Result<(), Truncated> {
        self.gathered.has_more = true;
        match tag {
            frontend::QUERY => self.survey_query(frontend::query_text(body)?, around),
            frontend::PARSE => self.survey_parse(Parse::read(body)?, around),
            frontend::BIND => {
                let bind = Bind::read(body)?;
                self.survey_bind(bind.statement.kept(), Some(bind.rest), around);
                if !bind.portal.is_empty() {
                    self.gathered.bind();
                }
            }
            frontend::DESCRIBE => match frontend::target_fields(body)? {
                (Target::Statement, name) => self.survey_bind(name.kept(), None, around),
                (Target::Portal, _) => {}
            },
            _ => return self.survey_plain(tag, size, body, None).map(drop),
        }
        self.gathered.size += size;
        Ok(())
    }

    /// Looks at the beginning of a message that is too large to be waited for: a Query, a Bind or a FunctionCall. `missing` bytes of
    /// it have not come yet.
    pub fn survey_beginning(
        &mut self,
        tag: u8,
        body: &[u8],
        missing: usize,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Truncated> {
        self.gathered.has_more = true;
        match tag {
            frontend::QUERY => self.survey_statement(Arc::new(crate::sql::too_large()), b"", around),
            frontend::BIND => {
                let bind = Bind::read(body)?;
                self.survey_bind(bind.statement.kept(), Some(bind.rest), around);
                self.gathered.bind();
                self.cut_batch();
            }
            frontend::FUNCTION_CALL => self.survey_function_call(),
            _ => return Err(Truncated),
        }
        self.gathered.size += frame::HEADER + body.len();
        self.gathered.missing = missing;
        Ok(())
    }

    #[cold]
    fn survey_function_call(&mut self) {
        self.gathered.executes += 1;
        self.gathered.join(Intent::Primary(Reason::FunctionCall));
        // A large object that it opens is open where it was called.
        self.gathered.bind();
        self.gathered.end = Some(End::FunctionCall);
    }

    /// The batch goes on behind this part of it, as behind a Flush.
    pub fn cut_batch(&mut self) {
        self.gathered.end = Some(End::Flush);
        self.keep_batch_whole();
    }

    /// What a batch sets before its Flush is undone if it fails behind it, and what comes there may need the primary.
    fn keep_batch_whole(&mut self) {
        let is_read = matches!(self.gathered.intent, Some(Intent::Read { .. }));
        if is_read && self.gathered.changes_session && self.transaction.status() == TransactionStatus::Idle {
            self.gathered.intent = Some(Intent::Primary(Reason::Transaction));
        }
    }

    fn survey_query(&mut self, text: &[u8], around: &mut Surroundings<'_>) {
        let statement = (around.classify)(text);
        self.survey_statement(statement, text, around);
    }

    /// Looks at a whole Query that is this statement, if it is a plain read of which the catalog has noted what it means:
    /// without a lease, where no rule has a part in it and reads may go to replicas. Any other it gives back, for
    /// [`Self::survey`].
    #[inline]
    pub fn survey_read(
        &mut self,
        size: usize,
        statement: Arc<Statement>,
        catalog: &Catalog<'_>,
    ) -> Option<Arc<Statement>> {
        let Some(intent) = self.plain_intent(&statement, Held::Nothing, catalog) else { return Some(statement) };
        self.gathered.first.get_or_insert_with(|| Arc::clone(&statement));
        self.gathered.join(intent);
        self.gathered.size += size;
        self.gathers_query(statement);
        None
    }

    fn gathers_query(&mut self, statement: Arc<Statement>) {
        self.gathered.executes += 1;
        self.gathered.unnamed = Some(None);
        self.gathered.queries.push_back(statement);
        self.gathered.end = Some(End::Query);
    }

    fn survey_statement(&mut self, statement: Arc<Statement>, text: &[u8], around: &Surroundings<'_>) {
        self.join(&statement, text, true, around);
        if !statement.is_plain_read() && around.held == Held::Nothing && deallocates_all(&statement) {
            self.gathered.may_need_no_node();
        }
        self.gathers_query(statement);
    }

    fn survey_parse(&mut self, parse: Parse<'_>, around: &mut Surroundings<'_>) {
        let reading = self.reading_to_prepare();
        let prepared = match &self.unnamed {
            Some((prepared, _))
                if parse.name.is_empty()
                    && prepared.is(parse.text, parse.types)
                    && prepared.reading == reading
                    && prepared.is_anybodys() =>
            {
                match prepared.has_told() {
                    false => Arc::clone(prepared),
                    true => Arc::new(prepared.untold(reading)),
                }
            }
            _ => {
                let by = self.parse_of_its_own(parse.text);
                let mut statement = (around.classify)(parse.text);
                if parse.declared().any(|oid| oid >= FIRST_OWN) {
                    statement = declaring(&statement, &parse);
                }
                Arc::new(Prepared::new(parse.text, parse.types, statement, reading, by))
            }
        };
        self.join(&Arc::clone(&prepared.statement), parse.text, false, around);
        if parse.name.is_empty() {
            self.gathered.unnamed = Some(Some(Arc::clone(&prepared)));
        } else {
            self.gathered.names.insert(parse.name.kept().into(), Some(Arc::clone(&prepared)));
        }
        self.gathered.parsed.push_back(prepared);
    }

    /// A Bind with these values, or a Describe.
    fn survey_bind(&mut self, name: &[u8], values: Option<&[u8]>, around: &Surroundings<'_>) {
        match self.gathered_statement(name) {
            Some(prepared) => {
                // Where there are no rows, what is to be described cannot have changed.
                if values.is_some() || !prepared.answers_no_rows() {
                    self.uses(name, &prepared);
                }
                let is_inside = around.held == Held::Replica && self.transaction.status() != TransactionStatus::Idle;
                if (is_inside || self.gathered.begins) && values.is_some_and(anew::mentions_clock) {
                    self.gathered.bind();
                }
                if !prepared.statement.is_plain_read() && values.is_some() {
                    let takes_data = |part: &Part| part.copy == CopyDirection::In;
                    self.gathered.binds_copy_in |= prepared.statement.parts.iter().any(takes_data);
                    if prepared.statement.ends_transaction() {
                        self.gathered.ends_behind = Some(self.gathered.executes);
                    }
                }
                self.join(&prepared.statement, &prepared.text, values.is_some(), around)
            }
            None => self.survey_bind_of_sql(name, values.is_some(), around),
        }
    }

    /// A Bind or a Describe of what was prepared by SQL, if anything was: what it leaves is looked for as with EXECUTE.
    #[cold]
    fn survey_bind_of_sql(&mut self, name: &[u8], is_run: bool, around: &Surroundings<'_>) {
        let given: SmallVec<[_; 1]> =
            self.given_by_sql(name).map(|(statement, text)| (Arc::clone(statement), Arc::clone(text))).collect();
        let before = self.gathered.rulings.len();
        for (statement, text) in &given {
            self.join(statement, query_of(text).as_bytes(), is_run, around);
            self.gathered.rulings.truncate(before + 1); // one of them is run
        }
        self.gathered.join(Intent::Primary(Reason::UnknownName));
    }

    /// The unit has been joined by this statement when its Parse was looked at, and nothing that counts has changed since:
    /// names mean what they meant, and without a lease no reply can have come. Behind a BEGIN its values count, too.
    fn has_joined(&self, prepared: &Arc<Prepared>) -> bool {
        !self.catalog.path_is_uncertain
            && !self.gathered.begins
            && self.gathered.parsed.back().is_some_and(|last| Arc::ptr_eq(last, prepared))
    }

    /// The unit uses this statement, of which there is something that the client may rely on.
    fn uses(&mut self, name: &[u8], prepared: &Arc<Prepared>) {
        if !prepared.is_promised() {
            return;
        }
        if name.is_empty() {
            if self.gathered.unnamed.is_none() {
                self.gathered.uses.push(Arc::clone(prepared));
            }
            return;
        }
        let prepared = self.read_as_now(name, Arc::clone(prepared));
        self.gathered.uses.push(prepared);
    }

    /// The statement of this name as the session reads literals now.
    pub(super) fn read_as_now(&mut self, name: &[u8], prepared: Arc<Prepared>) -> Arc<Prepared> {
        if self.is_read_so_now(prepared.reading) {
            return prepared;
        }
        self.reread(name, &prepared, self.reading)
    }

    pub(super) fn reread(&mut self, name: &[u8], prepared: &Prepared, reading: Reading) -> Arc<Prepared> {
        let reread = Arc::new(prepared.reread(reading));
        self.names.rekey(name, &reread);
        reread
    }

    fn survey_close(&mut self, (target, name): (Target, Name<'_>)) {
        match target {
            Target::Statement if name.is_empty() => self.gathered.unnamed = Some(None),
            Target::Statement => {
                self.gathered.names.insert(name.kept().into(), None);
            }
            Target::Portal => {}
        }
    }

    /// The statement of this name as the unit so far leaves it.
    fn gathered_statement(&self, name: &[u8]) -> Option<Arc<Prepared>> {
        if name.is_empty() {
            return match &self.gathered.unnamed {
                Some(unnamed) => unnamed.clone(),
                None => self.unnamed.as_ref().map(|(prepared, _)| Arc::clone(prepared)),
            };
        }
        self.gathered_name(name).cloned()
    }

    /// The same, of a statement that is named.
    pub(super) fn gathered_name(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        match self.gathered.names.get(name) {
            Some(prepared) => prepared.as_ref(),
            None => self.names.get(name),
        }
    }

    /// The text of the first statement of the unit that is gathered, whose messages are these; empty if it has none.
    pub fn text_of_unit<'a>(&'a self, messages: &'a [u8]) -> Cow<'a, [u8]> {
        let Ok(Some(header)) = Header::peek(messages) else { return Cow::default() };
        let body = messages.get(frame::HEADER..header.size).unwrap_or_default();
        let named = |name: Name<'_>| {
            let name = name.kept();
            let prepared = match name.is_empty() {
                true => self.gathered_statement(name),
                false => self.names.get(name).cloned().or_else(|| self.gathered_statement(name)),
            };
            match prepared {
                Some(prepared) => Cow::Owned(prepared.text.to_vec()),
                None => {
                    let given = self.given_by_sql(name).next();
                    Cow::Owned(given.map(|(_, text)| text.as_bytes().to_vec()).unwrap_or_default())
                }
            }
        };
        match header.tag {
            frontend::QUERY => frontend::query_text(body).map_or_else(|_| Cow::default(), Cow::Borrowed),
            frontend::PARSE => Parse::read(body).map_or_else(|_| Cow::default(), |parse| Cow::Borrowed(parse.text)),
            frontend::BIND => Bind::read(body).map_or_else(|_| Cow::default(), |bind| named(bind.statement)),
            frontend::DESCRIBE => {
                frontend::target_fields(body).map_or_else(|_| Cow::default(), |(_, name)| named(name))
            }
            _ => Cow::default(),
        }
    }

    /// One more statement in the unit, which is to be run, or only prepared or described.
    fn join(&mut self, statement: &Arc<Statement>, text: &[u8], is_run: bool, around: &Surroundings<'_>) {
        let is_simple = self.is_free_of(around.rules, statement) && around.reads != Reads::Primary;
        if is_simple && let Some(intent) = self.plain_intent(statement, around.held, &around.catalog) {
            self.gathered.first.get_or_insert_with(|| Arc::clone(statement));
            self.gathered.join(intent);
            return;
        }
        // What each EXECUTE in it runs does what it would do by itself.
        let mut executed = SmallVec::new();
        if !statement.is_plain_read() {
            self.gathered.may_prepare(statement);
            executed = self.executed_by_sql(statement);
        }
        self.catalog.path_is_uncertain |=
            statement.changes_path() || executed.iter().flatten().any(|inner| inner.changes_path());
        let any = Path::any();
        let catalog = match around.catalog {
            Catalog::Known { picture, .. } if self.catalog.path_is_uncertain => {
                Catalog::Known { picture, path: &any, key: None }
            }
            Catalog::Unknown { last, lists, .. } if self.catalog.path_is_uncertain => {
                Catalog::Unknown { last, own_first: false, lists }
            }
            catalog => catalog,
        };
        self.meets(statement, text, &catalog, around.held);
        if !executed.is_empty() {
            self.meets_executed(&executed, text, &catalog, around.held);
        }
        let is_left = around.held == Held::Replica && self.is_left_by(statement);
        let transaction = if is_left { InTransaction::No } else { self.in_transaction(around.held) };
        let is_within = around.rules.looks_at_transactions() && self.stands_in().is_some();
        let facts = Facts {
            standing: &self.standing,
            heeds_hints: around.heeds_hints,
            minute: around.minute,
            // One draw for all messages of a unit: a Bind goes where its Parse went.
            draw: *self.gathered.draw.get_or_insert(around.draw),
            reads: around.reads,
            transaction,
            is_within,
            optimistic: around.optimistic,
            defaults: self.defaults,
            prepared: &self.sql_prepared,
            catalog,
        };
        let words = if around.rules.looks_at_texts() { String::from_utf8_lossy(text) } else { "".into() };
        let mut weighed = weigh(statement, &words, &facts, around.rules);
        if !executed.is_empty() && !around.rules.is_empty() {
            let run = self.may_run(statement.run_names()).known.into_iter();
            let run = run.map(|(inner, text)| (inner, text.query()));
            weighed = weighed.with_executed(run, statement, &facts, around.rules);
        }
        self.gathered.commits |= statement.parts.iter().any(|part| {
            part.commits_inside
                || matches!(part.transaction, TransactionControl::Commit { .. } | TransactionControl::Prepare)
        });
        if !statement.is_plain_read() {
            self.note_begins(statement);
            if is_run && (statement.begins_transaction() || statement.ends_transaction()) {
                self.gathered.control = Some((self.gathered.executes, Arc::clone(statement)));
            }
            let changes = statement.parts.iter().any(|part| !part.session.is_empty());
            self.gathered.changes_session |= changes || self.gathered.begins;
            self.executes_by_sql |= !executed.is_empty();
            self.expect_change(statement, false);
            self.gathered.empties.extend(statement.parts.iter().filter_map(|part| part.empties.clone()));
        }
        if statement.parts.iter().any(|part| part.session.contains(&SessionChange::Ask)) {
            self.gathered.asks_wishes();
        }
        self.note_bonds(statement, text, around.held);
        if self.gathered.first.is_none() {
            self.gathered.first = Some(Arc::clone(statement));
        }
        let is_refused_before = self.is_refused();
        let reason = weighed.intent.reason();
        self.gathered.join(weighed.intent);
        let is_refused = !is_refused_before && self.is_refused();
        if is_refused {
            self.note_refusal();
        }
        // What is only prepared or described is bound yet, unless it is refused; behind what is refused nothing is run.
        if !weighed.ruling.is_empty() && !is_refused_before && (is_run || is_refused) {
            self.gathered.is_ruled(statement, reason, weighed.ruling);
        }
    }

    #[cold]
    fn meets_executed(&mut self, executed: &[Option<Arc<Statement>>], text: &[u8], catalog: &Catalog<'_>, held: Held) {
        executed.iter().flatten().for_each(|inner| self.meets(inner, text, catalog, held));
    }

    /// The unit runs this statement, by itself or by an EXECUTE.
    #[inline]
    fn meets(&mut self, statement: &Statement, text: &[u8], catalog: &Catalog<'_>, held: Held) {
        let change = safety::change_by(statement, catalog);
        self.gathered.catalog_change.join(change);
        if change > Change::Suspected {
            self.makes_temporary_first = match catalog {
                Catalog::Known { picture, .. } | Catalog::Unknown { last: Some(picture), .. } => {
                    picture.makes_temporary_first(&self.identity.user)
                }
                // A look tells.
                Catalog::Unknown { last: None, .. } => true,
                Catalog::NotAsked => false,
            };
        }
        let hides_code = safety::hides_code(statement, catalog);
        self.gathered.leaves(safety::leftovers(statement, catalog, hides_code).map(|left| left.named_in(text)));
        if held == Held::Replica {
            self.gathered.is_wrong_on_replica |= safety::is_wrong_on_replica(statement, catalog);
        }
        if hides_code {
            self.gathered.hides_code = true;
            self.gathered.draws(Draws::Maybe);
        }
        if safety::runs_unseen(statement, catalog) {
            self.gathered.runs_unseen = true;
            self.gathered.draws(Draws::Maybe);
        }
        if !statement.is_plain_read() {
            self.gathered.draws(safety::draws(statement, catalog));
            if statement.parts.iter().any(|part| !part.session.is_empty()) {
                self.gathered.does_to_session(statement);
            }
        }
    }

    /// What [`weigh`] says of a plain read outside of transactions, where no rule and no hint has a part in it, reads may go
    /// to replicas, and the catalog has noted its part: most statements. None: it takes the long way.
    #[inline]
    fn plain_intent(&self, statement: &Statement, held: Held, catalog: &Catalog<'_>) -> Option<Intent> {
        let is_plain = statement.is_plain_read()
            && statement.remarks.is_none()
            && self.transaction.status() == TransactionStatus::Idle
            && !self.gathered.begins
            && (held != Held::Replica || self.owed.is_empty())
            && !self.catalog.path_is_uncertain
            && self.defaults.isolation != Isolation::Serializable;
        if !is_plain {
            return None;
        }
        Some(match safety::prove_by_note(statement, catalog)? {
            Ok(safe) => Intent::Read { safe, reason: Reason::Read, terms: None },
            Err(reason) => Intent::Primary(reason),
        })
    }

    /// A rule refuses what is looked at now: with it fails the transaction that its batch has begun ahead of it.
    #[cold]
    fn note_refusal(&mut self) {
        if self.transaction.status() == TransactionStatus::Idle || self.has_ended_in_batch() {
            self.gathered.refused_in = self.stands_in();
        }
    }

    fn is_refused(&self) -> bool {
        matches!(self.gathered.intent, Some(Intent::Refuse { .. }))
    }

    /// No rule has a part in the statement, if the session sends it now. False if that has not been found out yet.
    #[inline]
    pub fn is_free_of(&mut self, rules: &RuleSet, statement: &Statement) -> bool {
        self.stand_before(rules);
        rules.pass_over(&self.standing, statement)
    }

    /// Finds out anew which rules may match what the session sends, if that has changed.
    #[inline]
    fn stand_before(&mut self, rules: &RuleSet) {
        if !rules.is_empty() && !self.standing.is_settled(rules) {
            self.stand_anew(rules);
        }
    }

    #[inline(never)]
    fn stand_anew(&mut self, rules: &RuleSet) {
        // What the node reports is newer than what is read back when the session is idle.
        let application_name = self.reported.get("application_name");
        let application_name = application_name.or(self.settings.get("application_name")).unwrap_or_default();
        if !self.standing.is_of(rules, application_name) {
            let Identity { user, database, address } = &self.identity;
            self.standing = rules.standing(&Sender { user, database, application_name, address: *address });
        }
    }
}

/// The statement with parameters of the types that this Parse declares, of those that may have code of users.
#[cold]
fn declaring(statement: &Statement, parse: &Parse<'_>) -> Arc<Statement> {
    let mut types: Vec<u32> = parse.declared().filter(|oid| *oid >= FIRST_OWN).collect();
    types.sort_unstable();
    types.dedup();
    Arc::new(statement.declaring(types.into()))
}
