//! Where a message begins and ends: one tag byte, four bytes of length that count themselves and the body.

/// Bytes before a message's body: the tag and the length.
pub const HEADER: usize = 5;

/// PostgreSQL's own limit on a message (1 GiB less one); a larger announced length is an attack or a lost beat.
const LARGEST_BODY: u32 = 0x3FFF_FFFF;

/// The first five bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub tag: u8,
    /// The whole message's bytes, tag and length included: at least [`HEADER`].
    pub size: usize,
}

/// The bytes cannot be a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The announced length is shorter than the length field itself, or beyond any real message.
    #[error("invalid message length")]
    Length,
}

impl Header {
    /// The header at the front of `bytes`; None until five bytes are there.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        if !(4..=LARGEST_BODY).contains(&length) {
            return Err(FrameError::Length);
        }
        let length = usize::try_from(length).map_err(|_| FrameError::Length)?;
        Ok(Some(Self { tag, size: length + 1 }))
    }

    /// Bytes of the body.
    pub fn body_size(self) -> usize {
        self.size - HEADER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_five_bytes() {
        assert_eq!(Header::peek(b"Q\0\0\0"), Ok(None));
        assert_eq!(Header::peek(b"Q\0\0\0\x04"), Ok(Some(Header { tag: b'Q', size: 5 })));
        assert_eq!(Header::peek(b"Q\0\0\x01\x00rest").unwrap().unwrap().body_size(), 252);
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for length in [0u32, 3, 0x4000_0000, 0xFFFF_FFFF] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(Header::peek(&bytes), Err(FrameError::Length));
        }
    }
}
