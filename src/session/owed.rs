//! Replies that a node still owes, in the order it will give them.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::known::UnnamedId;
use super::mirrored::Mirror;
use super::prepared::{Prepared, StatementId};
use super::woven::Woven;
use crate::sql::{Kind, Part, Statement};
use crate::wire::SqlState;

/// What a reply answers.
#[derive(Debug)]
pub enum Owed {
    /// A Query: several results and one ReadyForQuery.
    Query {
        /// What it is.
        statement: Arc<Statement>,
        /// How many of its statements are done.
        completed: usize,
        /// What of ours stands in it.
        woven: Option<Box<Woven>>,
    },
    /// A Parse.
    Parse {
        /// The client's name; empty for the unnamed statement, and for ours.
        name: Box<[u8]>,
        /// What is prepared.
        prepared: Arc<Prepared>,
        /// Its place among the session's unnamed statements, if it is one.
        unnamed: Option<UnnamedId>,
        /// Whether the client asked for it or we did.
        by: Asker,
    },
    /// A Parse of a client's name that is taken: the node says so, or what else is wrong.
    ParseTaken(Box<[u8]>),
    /// A Parse of ours that leaves nothing that is of interest behind its batch.
    OurParse,
    /// A Bind; of a statement of ours, with the name that the client has sent where [not all of it](crate::wire::frontend::Name::is_cut) is kept.
    Bind(Option<Box<[u8]>>),
    /// A Bind or Describe of a statement whose columns have changed: the node is made to fail, and the client is told why.
    Stale,
    /// What is refused by us: the node is made to fail in its place, and the client is told this.
    Refused(SqlState, Box<str>),
    /// A Describe of a statement of which the client is shown the parameters only: its columns have changed.
    DescribeParameters,
    /// A Describe of a statement or portal.
    Describe {
        /// The named statement whose columns it tells.
        of: Option<Arc<Prepared>>,
        /// Whether the client asked for it or we did.
        by: Asker,
    },
    /// A Describe of the unnamed statement: what it tells is promised, but says nothing of any statement of ours.
    DescribeUnnamed(Arc<Prepared>),
    /// An Execute of this statement; None if the portal is not one that we have seen bound (a cursor of SQL).
    Execute(Option<Arc<Statement>>),
    /// A Close of a client's statement of this name.
    CloseStatement(Box<[u8]>),
    /// A Close of a portal.
    ClosePortal,
    /// A Close that we asked for, to make room or to prepare anew.
    CloseOurs(StatementId),
    /// A Close of a reserved name, which may not be there.
    OurClose,
    /// A Parse of a client's statement under the client's own name, so that EXECUTE by SQL finds it.
    Mirror(Mirror),
    /// A Close of what is there under a client's own name by our doing, or of nothing.
    CloseMirror(Arc<str>),
    /// A Close of the unnamed statement that we asked for, so that nobody meets another session's.
    CloseUnnamed,
    /// Nothing: so many CopyDone or CopyFail that were sent before the node had asked for data. They are here to mark their
    /// place among the Syncs.
    CopyEnd(u32),
    /// DISCARD SEQUENCES, which we asked for, so that currval answers nobody else's value.
    DiscardSequences {
        /// For a statement that asks for one of them, not for one that draws.
        is_asked: bool,
    },
    /// A Bind of ours, within a client's batch.
    OurBind,
    /// An Execute of ours that discards sequences, within a client's batch.
    OurDiscard,
    /// An Execute of ours that sets something, within a client's batch.
    OurSet,
    /// A Sync.
    Sync(Asker),
    /// A FunctionCall.
    FunctionCall,
}

/// Who asked for a reply: ours are not shown to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The client.
    Client,
    /// Trunkline.
    Us,
}

impl Owed {
    /// Who asked for it.
    pub fn asker(&self) -> Asker {
        match self {
            Self::Parse { by, .. } | Self::Describe { by, .. } | Self::Sync(by) => *by,
            Self::OurParse
            | Self::Mirror(_)
            | Self::CloseMirror(_)
            | Self::OurClose
            | Self::CloseUnnamed
            | Self::CloseOurs(_)
            | Self::CopyEnd(_)
            | Self::OurBind
            | Self::OurDiscard
            | Self::OurSet
            | Self::DiscardSequences { .. } => Asker::Us,
            _ => Asker::Client,
        }
    }

    /// The client's statement that it runs, if that is known.
    pub fn statement(&self) -> Option<&Statement> {
        self.shared_statement().map(|statement| &**statement)
    }

    /// The same, to be kept.
    pub fn shared_statement(&self) -> Option<&Arc<Statement>> {
        match self {
            Self::Query { statement, .. } | Self::Execute(Some(statement)) => Some(statement),
            _ => None,
        }
    }

    /// What it has still to do of the client's statement.
    pub fn undone(&self) -> &[Part] {
        match self {
            Self::Query { statement, completed, .. } => statement.parts.get(*completed..).unwrap_or_default(),
            Self::Execute(Some(statement)) => &statement.parts,
            _ => &[],
        }
    }

    /// What of it is done next sets something, of the client's or of ours.
    pub fn sets(&self) -> bool {
        let sets = |part: &Part| part.session.iter().any(|change| change.sets().is_some());
        match self {
            Self::Query { woven: Some(_), .. } | Self::OurSet => true,
            Self::Query { statement, completed, .. } => statement.parts.get(*completed).is_some_and(sets),
            Self::Execute(Some(statement)) => statement.parts.iter().any(sets),
            _ => false,
        }
    }

    /// Whoever waits for it waits for no more than that something is closed, or for nothing.
    fn only_closes(&self) -> bool {
        matches!(self, Self::CloseStatement(_) | Self::ClosePortal | Self::Sync(_)) || self.asker() == Asker::Us
    }

    /// It gives or drops the unnamed statement.
    pub fn changes_unnamed(&self) -> bool {
        match self {
            Self::Parse { unnamed, .. } => unnamed.is_some(),
            Self::CloseStatement(name) => name.is_empty(),
            Self::Query { .. } | Self::DiscardSequences { .. } | Self::CloseUnnamed => true,
            _ => false,
        }
    }

    /// What it does to a named statement of ours on the server connection: makes it (true) or closes it.
    pub fn makes_or_closes(&self) -> Option<(StatementId, bool)> {
        match self {
            Self::Parse { prepared, unnamed: None, .. } => Some((prepared.id, true)),
            Self::CloseOurs(id) => Some((*id, false)),
            _ => None,
        }
    }

    /// It runs a statement of the client's.
    fn runs(&self) -> bool {
        matches!(self, Self::Query { .. } | Self::Execute(_) | Self::FunctionCall)
    }

    /// Its reply ends with ReadyForQuery.
    pub fn ends_with_ready(&self) -> bool {
        matches!(self, Self::Query { .. } | Self::Sync(_) | Self::FunctionCall | Self::DiscardSequences { .. })
    }
}

/// The queue of what is owed.
#[derive(Debug, Default)]
pub struct OwedReplies {
    queue: VecDeque<Owed>,
    /// Named statements of ours that it makes or closes.
    making: HashMap<StatementId, Making>,
    /// Something of that, or the end of a COPY, is among it, or was since it was empty last.
    has_rare: bool,
    /// How many were ever owed.
    count: u64,
    /// When what may end a transaction was sent last.
    last_end: Option<Moment>,
    /// What has been sent that prepares by SQL, and may not be answered yet.
    preparing: VecDeque<(Moment, Arc<Statement>)>,
    /// How many of them were Syncs.
    batch: u64,
    /// Statements answered, or skipped behind an error, since they were last asked for.
    run: u32,
    /// Of the batch at the front.
    answered: Answered,
    /// Syncs that a COPY eats as it comes to them: where it fails before, they are answered after all.
    eaten: u32,
}

/// What has been answered of a batch.
#[derive(Clone, Copy, Debug, Default)]
struct Answered {
    /// Something else than Closes.
    is_begun: bool,
    done: Done,
}

/// What the answered part of a batch has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Done {
    /// Nothing, or plain reads.
    #[default]
    Nothing,
    /// It has begun a transaction, and no more.
    Begun,
    /// What its end commits, and is undone without it.
    Undoable,
    /// Something may stand already: it commits by itself.
    Standing,
}

impl Done {
    /// What this statement has done within a batch, which is no plain read.
    pub fn by(statement: &Statement) -> Self {
        let commits = |part: &Part| {
            part.commits_inside || matches!(part.kind, Kind::Commit | Kind::PrepareTransaction | Kind::Unparsed)
        };
        if statement.parts.iter().any(commits) {
            Self::Standing
        } else if statement.parts.iter().all(|part| part.kind == Kind::Begin) {
            Self::Begun
        } else {
            Self::Undoable
        }
    }
}

/// What is on its way of a named statement of ours.
#[derive(Clone, Copy, Debug)]
struct Making {
    /// How often it is made or closed.
    count: usize,
    /// The last makes it, and does not close it.
    will_be: bool,
    /// When that was sent.
    sent: Moment,
}

/// When something was sent, among all that is ever owed to a session.
///
/// After an error the node skips up to the next Sync. So what was sent is certain for whatever stands in the same batch
/// behind it: they are done both, or skipped both. For the batches behind it is in doubt until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    number: u64,
    batch: u64,
}

impl Moment {
    /// It is among the first so many.
    pub fn is_before(self, count: u64) -> bool {
        self.number < count
    }
}

impl OwedReplies {
    /// Behind the statement that has just been done more is run by what has been sent.
    pub fn runs_more(&self) -> bool {
        match self.queue.front() {
            Some(Owed::Query { statement, completed, .. }) => {
                *completed < statement.parts.len() || self.queue.iter().skip(1).any(Owed::runs)
            }
            _ => self.queue.iter().any(Owed::runs),
        }
    }

    /// One more is owed.
    pub fn push(&mut self, owed: Owed) {
        self.count += 1;
        self.batch += u64::from(matches!(owed, Owed::Sync(_)));
        self.queue.push_back(owed);
    }

    /// One more is owed, which makes (true) or closes a named statement of ours.
    #[cold]
    pub fn push_making(&mut self, (id, will_be): (StatementId, bool), owed: Owed) {
        let making = Making { count: 0, will_be, sent: self.moment() };
        let count = self.making.get(&id).map_or(0, |before| before.count);
        self.making.insert(id, Making { count: count + 1, ..making });
        self.has_rare = true;
        self.push(owed);
    }

    fn makes_less(&mut self, id: StatementId) {
        let Some(making) = self.making.get_mut(&id) else { return };
        making.count -= 1;
        if making.count == 0 {
            self.making.remove(&id);
        }
    }

    #[inline]
    fn pop_front(&mut self) -> Option<Owed> {
        if self.has_rare {
            self.first_leaves();
        }
        self.queue.pop_front()
    }

    #[cold]
    fn first_leaves(&mut self) {
        if let Some((id, _)) = self.queue.front().and_then(Owed::makes_or_closes) {
            self.makes_less(id);
        }
    }

    /// Whether this statement of ours will be on the server connection; None: nothing on its way makes or closes it.
    pub fn will_have(&self, id: StatementId) -> Option<bool> {
        self.making.get(&id).map(|making| making.will_be)
    }

    /// It is made or closed by what may yet be skipped.
    pub fn is_in_doubt(&self, id: StatementId) -> bool {
        self.making.get(&id).is_some_and(|making| self.is_doubtful(making.sent))
    }

    /// What is sent next ends a transaction, for all that is known of it.
    pub fn expect_end(&mut self) {
        self.last_end = Some(self.moment());
    }

    /// This is sent next, as a Query or within a batch: if it prepares by SQL, what comes behind it may mean that.
    pub fn may_prepare(&mut self, statement: &Arc<Statement>, is_query: bool) {
        if statement.prepares_by_name() {
            // What was sent first is answered first.
            while self.preparing.front().is_some_and(|(sent, _)| self.is_settled(*sent)) {
                self.preparing.pop_front();
            }
            // A Query that fails does not take along what is sent behind it: it is in no batch with that.
            let batch = if is_query { u64::MAX } else { self.batch };
            self.preparing.push_back((Moment { batch, ..self.moment() }, Arc::clone(statement)));
        }
    }

    /// What prepares by SQL and is not answered yet, newest first.
    pub fn preparing(&self) -> impl Iterator<Item = &Arc<Statement>> {
        let is_under_way = |(sent, _): &&(Moment, Arc<Statement>)| !self.is_settled(*sent);
        self.preparing.iter().rev().filter(is_under_way).map(|(_, statement)| statement)
    }

    /// The same, of the batch that is sent now: what stands behind it is done with it, or skipped.
    pub fn preparing_in_batch(&self) -> impl Iterator<Item = &Arc<Statement>> {
        let is_in_it = |(sent, _): &&(Moment, Arc<Statement>)| sent.batch == self.batch && !self.is_settled(*sent);
        self.preparing.iter().rev().filter(is_in_it).map(|(_, statement)| statement)
    }

    /// What may end a transaction is not answered yet.
    pub fn has_an_end(&self) -> bool {
        self.last_end.is_some_and(|moment| !self.is_settled(moment))
    }

    /// When the next that is owed will have been sent.
    pub fn moment(&self) -> Moment {
        Moment { number: self.count, batch: self.batch }
    }

    /// It has been answered, or skipped.
    pub fn is_settled(&self, moment: Moment) -> bool {
        moment.is_before(self.settled()) || self.queue.is_empty()
    }

    /// How many have been answered, or skipped.
    pub fn settled(&self) -> u64 {
        self.count - u64::try_from(self.queue.len()).unwrap_or(0)
    }

    /// It may yet fail or be skipped, and what is sent now not with it.
    pub fn is_doubtful(&self, moment: Moment) -> bool {
        moment.batch != self.batch && !self.is_settled(moment)
    }

    /// The Sync of its batch has been sent, and is not answered.
    pub fn batch_is_under_way(&self, moment: Moment) -> bool {
        if moment.batch >= self.batch {
            return false;
        }
        let syncs = self.queue.iter().filter(|owed| matches!(owed, Owed::Sync(_))).count();
        let answered = self.batch - u64::try_from(syncs).unwrap_or(0);
        answered <= moment.batch
    }

    /// All that the client waits for is that statements and portals are closed.
    pub fn are_only_closes(&self) -> bool {
        !self.answered.is_begun && !self.queue.is_empty() && self.queue.iter().all(Owed::only_closes)
    }

    /// The next to be answered.
    pub fn front(&self) -> Option<&Owed> {
        self.queue.front()
    }

    /// The next to be answered, to note progress.
    pub fn front_mut(&mut self) -> Option<&mut Owed> {
        self.queue.front_mut()
    }

    /// What of ours stands in the Query that is answered next.
    #[inline]
    pub fn woven(&mut self) -> Option<&mut Woven> {
        match self.queue.front_mut() {
            Some(Owed::Query { woven, .. }) => woven.as_deref_mut(),
            _ => None,
        }
    }

    /// The next has been answered.
    pub fn pop(&mut self) -> Option<Owed> {
        let answered = self.pop_front();
        match &answered {
            Some(Owed::Sync(_) | Owed::DiscardSequences { .. }) => self.answered = Answered::default(),
            Some(Owed::Query { .. } | Owed::FunctionCall) => {
                self.run += 1;
                self.answered = Answered::default();
            }
            Some(Owed::Execute(_)) => {
                self.run += 1;
                self.answered.is_begun = true;
            }
            Some(other) => self.answered.is_begun = self.answered.is_begun || !other.only_closes(),
            None => {}
        }
        if self.has_rare {
            self.look_for_rare();
        }
        answered
    }

    /// What was sent behind what has been answered, and has no reply, has been taken.
    #[cold]
    fn look_for_rare(&mut self) {
        while matches!(self.queue.front(), Some(Owed::CopyEnd(_))) {
            self.queue.pop_front();
        }
        self.has_rare = !self.queue.is_empty();
    }

    /// How many statements have been answered, or skipped behind an error, since this was asked last.
    #[inline]
    pub fn take_run(&mut self) -> u32 {
        std::mem::take(&mut self.run)
    }

    /// A CopyDone or CopyFail has been sent while something is owed that may turn out to be a COPY.
    pub fn mark_copy_end(&mut self) {
        match self.queue.back_mut() {
            None => {}
            // However many come, they have no reply that could be waited for.
            Some(Owed::CopyEnd(count)) => *count = count.saturating_add(1),
            Some(_) => {
                self.has_rare = true;
                self.push(Owed::CopyEnd(1));
            }
        }
    }

    /// Nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How much is owed.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// All of it.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Owed> {
        self.queue.iter()
    }

    /// The server connection has lost all named statements: what is to be closed and is not made before finds nothing, and
    /// nothing is there if it is skipped.
    pub fn forget_closes(&mut self) {
        let (mut made, mut finding_nothing) = (HashSet::new(), Vec::new());
        for owed in &mut self.queue {
            match owed.makes_or_closes() {
                Some((id, true)) => {
                    made.insert(id);
                }
                Some((id, false)) if !made.contains(&id) => {
                    *owed = Owed::OurClose;
                    finding_nothing.push(id);
                }
                _ => {}
            }
        }
        finding_nothing.into_iter().for_each(|id| self.makes_less(id));
    }

    /// After an error in a batch the node skips everything up to Sync, also a Query. Answers what it skips; false if
    /// the Sync has not been sent yet.
    pub fn skip_to_sync(&mut self, mut skipped: impl FnMut(Owed)) -> bool {
        if self.answered.done != Done::Standing {
            self.answered.done = Done::Nothing; // it is undone
        }
        while let Some(front) = self.queue.front() {
            if matches!(front, Owed::Sync(_)) {
                return true;
            }
            if let Some(owed) = self.pop_front() {
                self.run += u32::from(owed.runs());
                self.answered.is_begun = true;
                skipped(owed);
            }
        }
        false
    }

    /// A COPY FROM STDIN begins: it eats the Syncs that were sent right behind it. Answers whether it goes on: false
    /// if the end of its data has been sent too.
    pub fn copy_begins(&mut self) -> bool {
        loop {
            match self.queue.get_mut(1) {
                Some(Owed::Sync(Asker::Client)) => {
                    self.queue.remove(1);
                    self.eats_sync();
                }
                Some(Owed::CopyEnd(count @ 2..)) => {
                    *count -= 1;
                    return false;
                }
                Some(Owed::CopyEnd(_)) => {
                    self.queue.remove(1);
                    return false;
                }
                _ => return true,
            }
        }
    }

    /// A Sync has been sent while the node reads copy data.
    pub fn eats_sync(&mut self) {
        self.eaten += 1;
    }

    /// A COPY has come to its end and to all Syncs before it.
    pub fn is_not_exceeded(&mut self) {
        self.eaten = 0;
    }

    /// A COPY has failed, and nobody knows which Syncs it had come to: more may be answered than is owed.
    pub fn may_be_exceeded(&self) -> bool {
        self.eaten > 0
    }

    /// An error has answered what is at the front, though not for the last time.
    pub fn has_failed(&mut self) {
        self.answered.is_begun = true;
    }

    /// What has just been answered of a batch has done this.
    pub fn has_done(&mut self, done: Done) {
        self.answered.done = self.answered.done.max(done);
    }

    /// What the batch that is answered next has done so far.
    pub fn done(&self) -> Done {
        self.answered.done
    }

    /// What is sent next goes to another server connection, where nothing has been answered.
    pub fn goes_elsewhere(&mut self) {
        self.is_not_exceeded();
        self.answered = Answered::default();
    }

    /// A ReadyForQuery has come. Where it cannot be meant for what is at the front, it is for a Sync that a failed COPY had
    /// not come to: that is owed again.
    pub fn owes_for_ready(&mut self) {
        let is_due = match self.queue.front() {
            Some(Owed::Query { completed, .. }) => *completed > 0 || self.answered.is_begun,
            front => front.is_some_and(Owed::ends_with_ready),
        };
        if self.eaten > 0 && !is_due {
            self.eaten -= 1;
            self.queue.push_front(Owed::Sync(Asker::Client));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_copies_finds_the_end_that_was_sent_for_it() {
        let mut owed = OwedReplies::default();
        owed.mark_copy_end();
        assert!(owed.is_empty(), "nothing may turn out to be a COPY");
        owed.push(Owed::Execute(None));
        (0..3).for_each(|_| owed.mark_copy_end());
        owed.push(Owed::Sync(Asker::Client));
        assert_eq!(owed.len(), 3, "ends have no reply, and are counted together");
        assert_eq!([(); 4].map(|()| owed.copy_begins()), [false, false, false, true]);
        assert!(owed.may_be_exceeded(), "the last has eaten the Sync");
    }
}
