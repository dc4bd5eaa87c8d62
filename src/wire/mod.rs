//! The PostgreSQL protocol, version 3, as bytes in both directions. Never panics on any input.

pub mod backend;
pub mod cancel_key;
pub mod error_response;
pub mod frame;
pub mod frontend;
pub mod progress;
pub mod proxy_header;
pub mod reader;
pub mod replication;
pub mod sqlstate;
pub mod startup;
pub mod writer;

pub use cancel_key::CancelKey;
pub use error_response::{ErrorFields, Severity};
pub use frame::{FrameError, Header};
pub use progress::Progress;
pub use proxy_header::ProxyHeader;
pub use reader::Reader;
pub use replication::Replication;
pub use sqlstate::SqlState;
pub use writer::Writer;
