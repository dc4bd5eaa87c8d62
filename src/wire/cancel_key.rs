//! What proves that a CancelRequest may cancel: a process number and a secret.

use std::fmt;

use subtle::ConstantTimeEq;

/// Bytes of a secret in protocol 3.0.
pub const SHORT_SECRET: usize = 4;

/// Bytes of ours from protocol 3.2 on, as PostgreSQL has them; it allows 256.
pub const LONG_SECRET: usize = 32;

/// A process number and a secret, as BackendKeyData gives them; the secret is never shown.
#[derive(Clone)]
pub struct CancelKey {
    /// The number; ours for clients, the server process's for nodes.
    pub process_id: u32,
    /// The secret: [`SHORT_SECRET`] bytes in protocol 3.0, up to 256 since 3.2.
    pub secret: Box<[u8]>,
}

/// How long a comparison takes tells nothing of the secret.
impl PartialEq for CancelKey {
    fn eq(&self, other: &Self) -> bool {
        self.process_id == other.process_id && bool::from(self.secret.ct_eq(&other.secret))
    }
}

impl Eq for CancelKey {}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelKey({}, …)", self.process_id)
    }
}
