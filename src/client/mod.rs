//! One task per client: handshake, conversation, relay. The task owns its lease and polls both sockets itself. Whoever has
//! nothing to say for a while has none.

pub mod acquire;
mod alarm;
pub mod attempts;
pub mod auth_query;
pub mod authentication;
pub mod card;
pub mod census;
pub mod console;
pub mod conversation;
pub mod directory;
mod dispatch;
mod emptied;
pub mod farewell;
pub mod fleet;
mod gathering;
pub mod greeting;
pub mod handshake;
pub mod host_names;
mod last_path;
mod loss;
mod memory;
mod newest_view;
pub mod parked;
mod parser;
pub mod pause;
pub mod peer;
pub mod places;
mod record;
pub mod relay;
mod release;
pub mod replication;
mod rulings;
pub mod server;
pub mod shapes;
pub mod startup_settings;
pub mod tally;
pub mod visit;
pub mod welcome;
pub mod worker;

pub use census::Census;
pub use fleet::Fleet;
pub use pause::{NotPaused, Pause, Paused, Pauses, Scope};
pub use server::{AnyDatabase, Cluster, Database, DatabaseCatalog, Server, User};
pub use worker::{Report, Whom, Worker};
