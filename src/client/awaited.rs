//! Whom a login waits for that is not its client: what it is counted as where its time is over meanwhile.

use std::cell::Cell;

use crate::metrics::LoginFailure;

/// Whom a login waits for.
#[derive(Debug, Default)]
pub struct Awaited(Cell<Option<LoginFailure>>);

impl Awaited {
    /// It waits for somebody else: where no answer comes, it fails for this cause.
    pub(super) fn waits(&self, without_answer: LoginFailure) {
        self.0.set(Some(without_answer));
    }

    /// It has the answer, and waits for its client again, if for anybody.
    pub(super) fn goes_on(&self) {
        self.0.set(None);
    }

    /// Why it fails whose time is over now.
    pub(super) fn cause(&self) -> LoginFailure {
        self.0.get().unwrap_or(LoginFailure::Timeout)
    }
}
