//! What proves that a CancelRequest may cancel: a process number and a secret.

use std::fmt;

/// A process number and a secret, as BackendKeyData gives them; the secret is never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// The number; ours for clients, the server process's for nodes.
    pub process_id: u32,
    /// The secret: 4 bytes in protocol 3.0.
    pub secret: Box<[u8]>,
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelKey({}, …)", self.process_id)
    }
}
