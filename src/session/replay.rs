//! What a transaction has asked, and a checksum of what it was answered, so that it can be run again on another node.

use sha2::{Digest as _, Sha256};

/// The units of one transaction, from its BEGIN on, as the client sent them.
#[derive(Debug)]
pub struct TransactionLog {
    bytes: Vec<u8>,
    units: Vec<Unit>,
    /// Units of these that the present node has answered.
    answered: usize,
    /// Bytes at the end of `bytes` that the present node has not been sent: it is sent them again.
    unsent: usize,
    /// Of what the client has been, or would have been, shown of the present unit.
    shown: Sha256,
    limit: usize,
    is_spoilt: bool,
}

/// Messages that go to the node.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// As the client sent them.
    pub messages: &'a [u8],
    /// A BEGIN is among them.
    pub begins: bool,
    /// Nothing that was sent before them is still to be answered.
    pub is_first: bool,
    /// The last of them makes a unit whole.
    pub ends_unit: bool,
}

/// Messages up to a Query, a Sync or a FunctionCall.
#[derive(Clone, Debug)]
struct Unit {
    /// Where it ends in the log's bytes.
    end: usize,
    /// The checksum of its answer, once the client has it.
    checksum: Option<[u8; 32]>,
}

/// Run again, a unit is answered otherwise: the transaction cannot go on as if nothing had happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differs;

impl TransactionLog {
    /// A log of no transaction yet, of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            units: Vec::new(),
            answered: 0,
            unsent: 0,
            shown: Sha256::new(),
            limit,
            is_spoilt: false,
        }
    }

    /// No transaction is in it.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty() && self.bytes.is_empty()
    }

    /// Messages go to the node. Where no transaction is in the log, they are noted only if one begins with them, and
    /// nothing before them is still to be answered.
    pub fn sent(&mut self, sent: Sent<'_>) {
        if self.unsent > 0 {
            self.unsent = self.unsent.saturating_sub(sent.messages.len());
            return;
        }
        if self.is_spoilt || (self.is_empty() && !(sent.begins && sent.is_first)) {
            return;
        }
        if self.bytes.len() + self.units.len() * size_of::<Unit>() + sent.messages.len() > self.limit {
            return self.spoil();
        }
        self.bytes.extend_from_slice(sent.messages);
        if sent.ends_unit {
            self.units.push(Unit { end: self.bytes.len(), checksum: None });
        }
    }

    /// The client is shown this, or would be if it had not been before.
    pub fn shown(&mut self, bytes: &[u8]) {
        if !self.is_empty() {
            self.shown.update(bytes);
        }
    }

    /// The front unit is answered as a whole; `is_over`: no transaction is open any more.
    pub fn answered(&mut self, is_over: bool) -> Result<(), Differs> {
        if self.is_empty() {
            self.is_spoilt &= !is_over;
            return Ok(());
        }
        let checksum: [u8; 32] = std::mem::replace(&mut self.shown, Sha256::new()).finalize().into();
        let Some(unit) = self.units.get_mut(self.answered) else {
            if is_over {
                self.clear();
            }
            return Ok(());
        };
        self.answered += 1;
        if *unit.checksum.get_or_insert(checksum) != checksum {
            return Err(Differs);
        }
        if is_over {
            // What is under way behind it in the same write is not noted.
            self.clear();
        }
        Ok(())
    }

    /// The transaction cannot be run again, whatever comes: too large, or it does what cannot be done twice.
    pub fn spoil(&mut self) {
        self.clear();
        self.is_spoilt = true;
    }

    /// No transaction is open, and none is under way.
    pub fn clear(&mut self) {
        let (limit, mut bytes) = (self.limit, std::mem::take(&mut self.bytes));
        bytes.clear();
        bytes.shrink_to(KEPT);
        *self = Self { bytes, ..Self::new(limit) };
    }

    /// The node is lost: everything it has been sent since BEGIN, to be sent to another one; what it has not been sent yet
    /// follows in the client's input. None: it cannot be.
    pub fn begin_again(&mut self) -> Option<Vec<u8>> {
        if self.is_spoilt || self.is_empty() {
            return None;
        }
        let sent = self.bytes.len() - self.unsent.min(self.bytes.len());
        self.answered = 0;
        self.unsent = self.bytes.len();
        self.shown = Sha256::new();
        Some(self.bytes.get(..sent)?.to_vec())
    }

    /// The client has the answer of the front unit already.
    pub fn is_muted(&self) -> bool {
        self.units.get(self.answered).is_some_and(|unit| unit.checksum.is_some())
    }

    /// Nothing more may be sent now: what the client has seen must be seen to be the same first.
    pub fn holds_back(&self) -> bool {
        self.is_muted() && self.bytes.len() - self.unsent.min(self.bytes.len()) >= self.end_of_seen()
    }

    /// Bytes that are to be sent again, of units whose answers the client has.
    pub fn unsent_of_seen(&self) -> usize {
        self.end_of_seen().saturating_sub(self.bytes.len() - self.unsent.min(self.bytes.len()))
    }

    fn end_of_seen(&self) -> usize {
        self.units.iter().rfind(|unit| unit.checksum.is_some()).map_or(0, |unit| unit.end)
    }
}

/// Room that is kept from one transaction to the next; bytes.
const KEPT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn send(log: &mut TransactionLog, messages: &[u8]) {
        let begins = messages.starts_with(b"BEGIN");
        log.sent(Sent { messages, begins, is_first: true, ends_unit: true });
    }

    fn log_of(units: &[(&[u8], &[u8])]) -> TransactionLog {
        let mut log = TransactionLog::new(1000);
        for (messages, answer) in units {
            send(&mut log, messages);
            log.shown(answer);
            log.answered(false).unwrap();
        }
        log
    }

    #[test]
    fn what_is_answered_alike_is_silent_and_the_rest_follows_only_then() {
        let mut log = log_of(&[(b"BEGIN", b"ok"), (b"INSERT", b"one")]);
        send(&mut log, b"UPDATE");
        assert_eq!(log.begin_again().unwrap(), b"BEGININSERTUPDATE");
        for (messages, holds_back) in [(&b"BEGIN"[..], false), (b"INSERT", true)] {
            assert!(!log.holds_back());
            send(&mut log, messages);
            assert_eq!(log.holds_back(), holds_back);
        }
        log.shown(b"ok");
        log.answered(false).unwrap();
        assert!(log.is_muted() && log.holds_back());
        log.shown(b"one");
        log.answered(false).unwrap();
        assert!(!log.is_muted() && !log.holds_back());
        send(&mut log, b"UPDATE");
        log.shown(b"new");
        log.answered(false).unwrap();
        send(&mut log, b"COMMIT");
        log.answered(true).unwrap();
        assert!(log.is_empty() && log.begin_again().is_none());
    }

    #[test]
    fn another_answer_than_before_is_an_error() {
        let mut log = log_of(&[(b"BEGIN", b"ok"), (b"SELECT", b"1")]);
        log.begin_again().unwrap();
        send(&mut log, b"BEGIN");
        send(&mut log, b"SELECT");
        log.shown(b"ok");
        log.answered(false).unwrap();
        log.shown(b"2");
        assert_eq!(log.answered(false), Err(Differs));
    }

    #[test]
    fn only_a_transaction_is_noted_and_one_that_is_too_large_is_not() {
        let mut log = TransactionLog::new(10);
        send(&mut log, b"SELECT");
        log.answered(true).unwrap();
        assert!(log.is_empty());
        send(&mut log, b"BEGIN");
        log.answered(false).unwrap();
        send(&mut log, b"INSERT");
        assert!(log.begin_again().is_none());
        send(&mut log, b"COMMIT");
        log.answered(true).unwrap();
        send(&mut log, b"BEGIN");
        assert!(log.begin_again().is_some());
    }

    #[test]
    fn a_node_that_is_lost_while_it_runs_the_transaction_again_is_sent_nothing_twice() {
        let mut log = log_of(&[(b"BEGIN", b"ok"), (b"INSERT", b"one")]);
        assert_eq!(log.begin_again().unwrap(), b"BEGININSERT");
        send(&mut log, b"BEGIN");
        // INSERT still waits in the input.
        assert_eq!(log.begin_again().unwrap(), b"BEGIN");
        assert_eq!(log.unsent_of_seen(), 11);
    }

    #[test]
    fn what_follows_a_commit_in_the_same_write_is_not_noted() {
        let mut log = TransactionLog::new(1000);
        send(&mut log, b"BEGIN");
        send(&mut log, b"COMMIT");
        send(&mut log, b"BEGIN2");
        log.answered(false).unwrap();
        log.answered(true).unwrap();
        assert_eq!(log.begin_again(), None);
    }
}
