//! Authentication exchanges as machines: message in, step out.

pub mod secret;

pub use secret::Secret;
