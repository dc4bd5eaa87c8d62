//! Bounds-checked reads from a message's body.

/// What is left of a body.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

/// The body ends before what it must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message is too short or not terminated")]
pub struct Truncated;

impl<'a> Reader<'a> {
    /// Reads from the beginning of a body.
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// The bytes not read yet.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Everything has been read.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        let (&first, rest) = self.0.split_first().ok_or(Truncated)?;
        self.0 = rest;
        Ok(first)
    }

    /// Two bytes, big-endian.
    pub fn i16(&mut self) -> Result<i16, Truncated> {
        let (&bytes, rest) = self.0.split_first_chunk().ok_or(Truncated)?;
        self.0 = rest;
        Ok(i16::from_be_bytes(bytes))
    }

    /// Four bytes, big-endian.
    pub fn i32(&mut self) -> Result<i32, Truncated> {
        let (&bytes, rest) = self.0.split_first_chunk().ok_or(Truncated)?;
        self.0 = rest;
        Ok(i32::from_be_bytes(bytes))
    }

    /// This many bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Up to the next NUL, which is eaten.
    #[inline]
    pub fn cstr(&mut self) -> Result<&'a [u8], Truncated> {
        // Most names are empty.
        if let Some((&0, rest)) = self.0.split_first() {
            self.0 = rest;
            return Ok(b"");
        }
        let end = memchr::memchr(0, self.0).ok_or(Truncated)?;
        let text = self.bytes(end)?;
        self.u8()?;
        Ok(text)
    }

    /// Up to the next NUL, as text; what is not UTF-8 is replaced (names and settings only, never data).
    pub fn text(&mut self) -> Result<std::borrow::Cow<'a, str>, Truncated> {
        Ok(String::from_utf8_lossy(self.cstr()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stop_at_the_end() {
        let mut reader = Reader::new(b"ab\0\x00\x01\x00\x00\x00\x02x");
        assert_eq!(reader.cstr(), Ok(&b"ab"[..]));
        assert_eq!(reader.i16(), Ok(1));
        assert_eq!(reader.i32(), Ok(2));
        assert_eq!(reader.cstr(), Err(Truncated));
        assert_eq!(reader.bytes(2), Err(Truncated));
        assert_eq!(reader.u8(), Ok(b'x'));
        assert_eq!(reader.u8(), Err(Truncated));
    }
}
