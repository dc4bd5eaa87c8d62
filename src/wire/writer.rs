//! Length-prefixed writes: builds messages into a buffer.

use bytes::{BufMut, BytesMut};

/// Appends messages to a buffer.
#[derive(Debug)]
pub struct Writer<'a>(&'a mut BytesMut);

impl<'a> Writer<'a> {
    /// Appends to the end of `buffer`.
    pub fn new(buffer: &'a mut BytesMut) -> Self {
        Self(buffer)
    }

    /// One message: its tag, its length, and the body that `write` makes.
    pub fn message(&mut self, tag: u8, write: impl FnOnce(&mut BytesMut)) {
        self.0.put_u8(tag);
        self.counted(write);
    }

    /// Bytes behind their number, which does not count itself.
    pub fn value(&mut self, bytes: &[u8]) {
        self.0.put_u32(u32::try_from(bytes.len()).expect("values we build are far below 4 GiB"));
        self.0.put_slice(bytes);
    }

    /// A body behind its length, without a tag, as startup packets have it.
    pub fn counted(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let start = self.0.len();
        self.0.put_u32(0);
        write(self.0);
        let length = u32::try_from(self.0.len() - start).expect("messages we build are far below 4 GiB");
        if let Some(field) = self.0.get_mut(start..start + 4) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// Appends a NUL-terminated text. A NUL inside would end it early, so it is left out.
pub fn put_cstr(buffer: &mut BytesMut, text: &[u8]) {
    if text.contains(&0) {
        buffer.extend(text.iter().filter(|&&byte| byte != 0));
    } else {
        buffer.extend_from_slice(text);
    }
    buffer.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_its_own_length_field() {
        let mut buffer = BytesMut::new();
        Writer::new(&mut buffer).message(b'Q', |body| put_cstr(body, b"x"));
        assert_eq!(&buffer[..], b"Q\0\0\0\x06x\0");
    }
}
