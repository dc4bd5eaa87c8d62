//! Bytes read from a socket and not used yet.
//!
//! A buffer has memory only while something is in it: what is read next goes where the thread has read and used something
//! just now, which the processor's first cache still holds.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::Stream;

/// A buffer that is filled at its end and used from its beginning.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    /// Empty: nothing is in it.
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

/// The size a buffer begins with, and goes back to when it is idle: several small results or statements in one read.
pub const SIZE: usize = 16 * 1024;

/// Memory of [`SIZE`] kept by each thread: as many buffers as have something in them at once.
const MOST_SPARE: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// What has been used last, for something to be read.
#[inline]
fn take() -> Box<[u8]> {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| vec![0; SIZE].into())
}

/// Everything in it has been used.
#[inline]
fn put(bytes: Box<[u8]>) {
    // A thread that is ending reads no more.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < MOST_SPARE {
            spare.push(bytes);
        }
    });
}

impl ReadBuffer {
    /// What has been read and not used.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Bytes read and not used.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Everything has been used.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// These bytes have been used.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.give_back();
        }
    }

    /// Nothing is in it: others may have its memory, if it is not a large one, which the same buffer may need again.
    #[inline]
    fn give_back(&mut self) {
        if self.bytes.len() == SIZE {
            put(std::mem::take(&mut self.bytes));
        }
    }

    /// Bytes that can be there at once.
    pub fn capacity(&self) -> usize {
        self.bytes.len().max(SIZE)
    }

    /// Not one more byte can be read until some are used, or it grows.
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity()
    }

    /// Twice the room.
    pub fn grow(&mut self) {
        let mut larger = vec![0; self.capacity() * 2];
        if let Some(front) = larger.get_mut(..self.len()) {
            front.copy_from_slice(self.filled());
        }
        (self.end, self.start) = (self.len(), 0);
        self.bytes = larger.into();
    }

    /// These bytes stand before all others again.
    pub fn put_front(&mut self, bytes: &[u8]) {
        let mut whole = bytes.to_vec();
        whole.extend_from_slice(self.filled());
        self.start = 0;
        self.end = whole.len();
        whole.resize(whole.len().max(self.capacity()), 0);
        self.bytes = whole.into();
    }

    /// Back to the size it began with, if nothing is in it.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.bytes.len() > SIZE {
            *self = Self::default();
        }
    }

    /// Reads what is there. 0: the other side has closed, or the buffer [`is_full`](Self::is_full).
    #[inline]
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<usize>> {
        if self.bytes.is_empty() {
            self.bytes = take();
        } else if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.end, self.start) = (self.len(), 0);
        }
        let mut free = ReadBuf::new(self.bytes.get_mut(self.end..).unwrap_or_default());
        let read = Pin::new(stream).poll_read(cx, &mut free);
        let count = free.filled().len();
        self.end += count;
        if self.is_empty() {
            self.give_back();
        }
        ready!(read)?;
        Poll::Ready(Ok(count))
    }

    /// Reads what is there, waiting until something is. Cancel-safe: what was read is in the buffer.
    pub async fn fill(&mut self, stream: &mut Stream) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, stream)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(bytes: &[u8]) -> ReadBuffer {
        let mut buffer = ReadBuffer { bytes: take(), ..ReadBuffer::default() };
        buffer.bytes[..bytes.len()].copy_from_slice(bytes);
        buffer.end = bytes.len();
        buffer
    }

    #[test]
    fn growing_keeps_what_is_there() {
        let mut buffer = holding(b"used kept");
        buffer.consume(5);
        buffer.grow();
        assert_eq!(buffer.filled(), b"kept");
        assert_eq!(buffer.capacity(), 2 * SIZE);
        buffer.shrink();
        assert_eq!(buffer.filled(), b"kept");
        buffer.consume(99);
        buffer.shrink();
        assert_eq!(buffer.capacity(), SIZE);
    }
}
