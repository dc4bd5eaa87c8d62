//! Sockets: buffers to read into, listeners and keepalive.

pub mod buffer;
pub mod listener;

pub use buffer::ReadBuffer;
