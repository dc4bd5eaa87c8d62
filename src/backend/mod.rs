//! Server connections: making them and logging in.

pub mod connect;

pub use connect::{ConnectClass, ConnectError, Login, Target, connect};
