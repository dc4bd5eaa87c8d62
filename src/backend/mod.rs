//! Server connections: pools of them per (node, database, user), leased to sessions and returned only clean.

pub mod cancel;
pub mod connect;
pub mod connection;
pub mod endpoint;
pub mod exchange;
pub mod gate;
pub mod lease;
pub mod pool;
pub mod pools;
pub mod slots;

pub use connect::{ConnectClass, ConnectError, Login, Target, connect};
pub use connection::Connection;
pub use endpoint::Endpoint;
pub use gate::{Gate, Hold, HoldCause};
pub use lease::Lease;
pub use pool::{LeaseError, Pool, PoolSettings};
pub use pools::{PoolKey, Pools};
