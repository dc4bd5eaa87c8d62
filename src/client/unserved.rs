//! A login that no node serves: what its client is told, and what it is counted as once it is sure to fail.

use super::farewell::Farewell;
use super::worker::Worker;
use crate::metrics::LoginFailure;

/// Why no node serves a login.
pub(super) struct Unserved {
    /// What its client is told.
    pub(super) farewell: Farewell,
    /// None: what it has met is counted already, or is nobody's failure.
    cause: Option<LoginFailure>,
}

impl Unserved {
    /// For this cause.
    pub(super) fn by(cause: LoginFailure, farewell: Farewell) -> Self {
        Self { farewell, cause: Some(cause) }
    }

    /// A node has answered, and does not let this client in.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self.cause, Some(LoginFailure::NodeRefused | LoginFailure::UnknownDatabase))
    }

    /// The login fails for it: that is counted. Answers what the client is told.
    pub(super) fn counted(self, worker: &Worker) -> Farewell {
        self.cause.into_iter().for_each(|cause| worker.metrics.login_failed(cause));
        self.farewell
    }
}

impl From<Farewell> for Unserved {
    fn from(farewell: Farewell) -> Self {
        Self { farewell, cause: None }
    }
}
