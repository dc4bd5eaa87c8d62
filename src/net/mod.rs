//! Sockets: streams plain or with TLS, buffers to read into, listeners and keepalive; what a worker waits with, and what blocks
//! apart from it.

pub mod apart;
pub mod buffer;
pub mod descriptors;
pub mod listener;
pub mod lookout;
pub mod outbox;
pub mod stream;
pub mod timers;
pub mod tls;

pub use buffer::{ReadBuffer, SIZE as BUFFER_SIZE};
pub use lookout::{Lookout, Watch};
pub use stream::{Beginning, Socket, Stream, Unwatched};
pub use tls::Encryption;
