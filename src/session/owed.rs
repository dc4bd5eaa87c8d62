//! Replies that a node still owes, in the order it will give them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::known::UnnamedId;
use super::prepared::{Prepared, StatementId};
use crate::sql::Statement;

/// What a reply answers.
#[derive(Debug)]
pub enum Owed {
    /// A Query: several results and one ReadyForQuery.
    Query {
        /// What it is.
        statement: Arc<Statement>,
        /// How many of its statements are done.
        completed: usize,
    },
    /// A Parse.
    Parse {
        /// The client's name; empty for the unnamed statement.
        name: Box<[u8]>,
        /// What is prepared.
        prepared: Arc<Prepared>,
        /// Its place among the session's unnamed statements, if it is one.
        unnamed: Option<UnnamedId>,
        /// Whether the client asked for it or we did.
        by: Asker,
        /// The server connection does not have it yet: false when the client's name is taken and the node will say so.
        is_new: bool,
    },
    /// A Bind.
    Bind,
    /// A Describe of a statement or portal.
    Describe,
    /// An Execute of this statement; None if the portal is not one that we have seen bound (a cursor of SQL).
    Execute(Option<Arc<Statement>>),
    /// A Close of a client's statement of this name.
    CloseStatement(Box<[u8]>),
    /// A Close of a portal.
    ClosePortal,
    /// A Close that we asked for, to make room or to prepare anew.
    CloseOurs(StatementId),
    /// A Close of the unnamed statement that we asked for, so that nobody meets another session's.
    CloseUnnamed,
    /// Nothing: a CopyDone or CopyFail that was sent before the node had asked for data. It is here to mark its place
    /// among the Syncs.
    CopyEnd,
    /// DISCARD SEQUENCES, which we asked for, so that currval answers nobody else's value.
    DiscardSequences,
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
            Self::Parse { by, .. } | Self::Sync(by) => *by,
            Self::CloseOurs(_) | Self::CloseUnnamed | Self::CopyEnd | Self::DiscardSequences => Asker::Us,
            _ => Asker::Client,
        }
    }

    /// Its reply ends with ReadyForQuery.
    pub fn ends_with_ready(&self) -> bool {
        matches!(self, Self::Query { .. } | Self::Sync(_) | Self::FunctionCall | Self::DiscardSequences)
    }
}

/// The queue of what is owed.
#[derive(Debug, Default)]
pub struct OwedReplies(VecDeque<Owed>);

impl OwedReplies {
    /// One more is owed.
    pub fn push(&mut self, owed: Owed) {
        self.0.push_back(owed);
    }

    /// The next to be answered.
    pub fn front(&self) -> Option<&Owed> {
        self.0.front()
    }

    /// The next to be answered, to note progress.
    pub fn front_mut(&mut self) -> Option<&mut Owed> {
        self.0.front_mut()
    }

    /// The next has been answered.
    pub fn pop(&mut self) -> Option<Owed> {
        let answered = self.0.pop_front();
        while matches!(self.0.front(), Some(Owed::CopyEnd)) {
            self.0.pop_front();
        }
        answered
    }

    /// A CopyDone or CopyFail has been sent while something is owed that may turn out to be a COPY.
    pub fn mark_copy_end(&mut self) {
        if !self.0.is_empty() {
            self.0.push_back(Owed::CopyEnd);
        }
    }

    /// Nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much is owed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of it.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Owed> {
        self.0.iter()
    }

    /// After an error in a batch the node skips everything up to Sync, also a Query. Answers what it skips; false if
    /// the Sync has not been sent yet.
    pub fn skip_to_sync(&mut self, mut skipped: impl FnMut(Owed)) -> bool {
        while let Some(front) = self.0.front() {
            if matches!(front, Owed::Sync(_)) {
                return true;
            }
            if let Some(owed) = self.0.pop_front() {
                skipped(owed);
            }
        }
        false
    }

    /// A COPY FROM STDIN begins: it eats the Syncs that were sent right behind it. Answers whether it goes on: false
    /// if the end of its data has been sent too.
    pub fn copy_begins(&mut self) -> bool {
        loop {
            match self.0.get(1) {
                Some(Owed::Sync(Asker::Client)) => drop(self.0.remove(1)),
                Some(Owed::CopyEnd) => {
                    self.0.remove(1);
                    return false;
                }
                _ => return true,
            }
        }
    }
}
