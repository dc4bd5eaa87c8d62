//! What is stored of a user: a plain password or a SCRAM-SHA-256 verifier; zeroed on drop, redacted when shown.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// A plain password or a SCRAM-SHA-256 verifier.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// A secret as it stands in the configuration.
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
