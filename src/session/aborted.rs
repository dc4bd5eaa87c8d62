//! A transaction that was lost with its node: only its end is accepted, and we answer in the node's place.

use bytes::BytesMut;

use super::Session;
use crate::sql::{Statement, TransactionControl};
use crate::wire::SqlState;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error_response::{Severity, put_error};
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::reader::Truncated;

/// How much the client knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aborted {
    /// It has not been told yet: the next statement is.
    NotTold,
    /// It has been told.
    Told,
    /// It has been told, and a statement that ends the transaction is being prepared or bound.
    Ending,
}

/// What the client is told, once.
pub const LOST: &str = "the transaction was lost with its server connection; please try it again";

const FAILED: &str = "current transaction is aborted, commands ignored until end of transaction block";

impl Session {
    /// We answer in the node's place: the transaction is lost, or an error of ours is being skipped.
    pub fn answers_alone(&self) -> bool {
        self.transaction.aborted.is_some() || self.flow.skipping
    }

    /// The transaction cannot go on where it is: it is lost, and the client is told with this message.
    pub fn abort_transaction(&mut self, code: SqlState, message: &str, out: &mut BytesMut) {
        put_error(out, Severity::Error, code, message, None);
        while self.owed.pop().is_some() {}
        self.portals.clear();
        self.transaction.status = TransactionStatus::Failed;
        self.transaction.aborted = Some(Aborted::Told);
        self.flow.batch_open = false;
    }

    /// The unit that met the abort has ended so: the client gets its ReadyForQuery, now or at its Sync.
    pub fn end_aborted_unit(&mut self, end: Option<super::End>, out: &mut BytesMut) {
        match end {
            Some(super::End::Flush) | None => self.flow.skipping = true,
            Some(_) => backend::put_ready(out, self.transaction.status),
        }
    }

    /// Answers one message in the node's place.
    pub fn answer_alone(
        &mut self,
        tag: u8,
        body: &[u8],
        classify: &mut dyn FnMut(&[u8]) -> std::sync::Arc<Statement>,
        out: &mut BytesMut,
    ) -> Result<(), Truncated> {
        if self.flow.skipping {
            if tag == frontend::SYNC {
                self.flow.skipping = false;
                backend::put_ready(out, self.transaction.status);
            }
            return Ok(());
        }
        match tag {
            frontend::QUERY => {
                let statement = classify(frontend::query_text(body)?);
                if ends_transaction(&statement) {
                    self.end_aborted(out);
                } else {
                    self.refuse(out);
                }
                backend::put_ready(out, self.transaction.status);
            }
            frontend::PARSE => {
                let statement = classify(Parse::read(body)?.text);
                if ends_transaction(&statement) {
                    self.transaction.aborted = Some(Aborted::Ending);
                    backend::put_bare(out, backend::PARSE_COMPLETE);
                } else {
                    self.refuse_batch(out);
                }
            }
            frontend::BIND if self.binds_the_end(Bind::read(body)?.statement) => {
                self.transaction.aborted = Some(Aborted::Ending);
                backend::put_bare(out, backend::BIND_COMPLETE);
            }
            frontend::DESCRIBE if self.transaction.aborted == Some(Aborted::Ending) => {
                if frontend::target_fields(body)?.0 == Target::Statement {
                    backend::put_no_parameters(out);
                }
                backend::put_bare(out, backend::NO_DATA);
            }
            frontend::EXECUTE if self.transaction.aborted == Some(Aborted::Ending) => self.end_aborted(out),
            frontend::CLOSE => backend::put_bare(out, backend::CLOSE_COMPLETE),
            frontend::SYNC => backend::put_ready(out, self.transaction.status),
            frontend::FUNCTION_CALL => {
                self.refuse(out);
                backend::put_ready(out, self.transaction.status);
            }
            frontend::FLUSH | frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => {}
            _ => self.refuse_batch(out),
        }
        Ok(())
    }

    fn binds_the_end(&self, name: &[u8]) -> bool {
        if name.is_empty() {
            return self.transaction.aborted == Some(Aborted::Ending);
        }
        self.names.get(name).is_some_and(|prepared| ends_transaction(&prepared.statement))
    }

    fn end_aborted(&mut self, out: &mut BytesMut) {
        backend::put_command_complete(out, "ROLLBACK");
        self.transaction.status = TransactionStatus::Idle;
        self.transaction.aborted = None;
    }

    fn refuse_batch(&mut self, out: &mut BytesMut) {
        self.refuse(out);
        self.flow.skipping = true;
    }

    fn refuse(&mut self, out: &mut BytesMut) {
        let (code, message) = match self.transaction.aborted {
            Some(Aborted::NotTold) => (SqlState::SERIALIZATION_FAILURE, LOST),
            _ => (SqlState::IN_FAILED_SQL_TRANSACTION, FAILED),
        };
        self.transaction.aborted = Some(Aborted::Told);
        put_error(out, Severity::Error, code, message, None);
    }
}

fn ends_transaction(statement: &Statement) -> bool {
    matches!(
        statement.only().map(|part| &part.transaction),
        Some(
            TransactionControl::Commit { chain: false }
                | TransactionControl::Rollback { chain: false }
                | TransactionControl::Prepare
        )
    )
}
