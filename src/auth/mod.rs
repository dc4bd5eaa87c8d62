//! Authentication exchanges as machines: message in, step out. Pure: nonces and salts are given, sockets are elsewhere.
//!
//! To verify a client: [`Secret::verifier`] or [`Verifier::mock`], then [`ScramServer`], which alone makes [`Authenticated`].
//! To log in to a node: [`ServerLogin`], which drives [`ScramClient`] or [`md5_response`] as the node asks.

pub mod certificate;
pub mod error;
pub mod hba;
pub mod login;
pub mod md5;
mod not_after;
pub mod percent;
pub mod saslprep;
pub mod scram_client;
pub mod scram_keys;
mod scram_message;
pub mod scram_server;
pub mod secret;
pub mod throttle;
pub mod tls;
pub mod userlist;
pub mod verifier;

pub use error::AuthError;
pub use login::{LoginStep, ServerLogin};
pub use md5::{md5_answer, md5_response, md5_stored};
pub use not_after::NotAfter;
pub use scram_client::ScramClient;
pub use scram_keys::{ClientKey, Key, SaltedPassword};
pub use scram_server::{Authenticated, ScramServer};
pub use secret::{ScramKeys, Secret, SecretProblem};
pub use throttle::Throttle;
pub use tls::{ClientTls, NodeTls, TlsMode, TlsProblem, TlsTexts, TlsVersion};
pub use verifier::Verifier;

/// The SASL mechanism that is offered to clients and used with nodes.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// The same, bound to the server's certificate: offered and used over TLS.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
