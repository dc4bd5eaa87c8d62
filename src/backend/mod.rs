//! Server connections: pools of them per (node, database, user), leased to sessions and returned only clean.

pub mod absence;
pub mod cancel;
pub mod connect;
pub mod connection;
pub mod endpoint;
pub mod exchange;
pub mod gate;
pub mod hashing;
pub mod last_write;
pub mod lease;
pub mod plan;
pub mod pool;
pub mod pools;
pub mod quota;
pub mod slots;
pub mod strays;

pub use absence::{Absence, Away};
pub use connect::{ConnectClass, ConnectError, Login, Target, connect};
pub use connection::Connection;
pub use endpoint::Endpoint;
pub use gate::{Gate, Hold, Holder, Shown};
pub use last_write::LastWrite;
pub use lease::Lease;
pub use plan::{Plan, PoolSettings, Share};
pub use pool::{LeaseError, Pool};
pub use pools::{LoginKey, PoolKey, Pools};
pub use slots::{Crowd, Grant, Place, Taken};
pub use strays::Strays;
