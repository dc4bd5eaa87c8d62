//! Follows messages as their bytes go by, without keeping any.

use super::frame::{FrameError, HEADER, Header};

/// Where a stream of messages stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    head: [u8; HEADER],
    /// Bytes of `head` that have come.
    known: usize,
    /// Bytes of the present message that have not come.
    missing: usize,
}

impl Progress {
    /// These bytes go by; `begins` is told the tag of each message whose header is whole with them.
    pub fn pass(&mut self, mut bytes: &[u8], mut begins: impl FnMut(u8)) -> Result<(), FrameError> {
        while let Some(&first) = bytes.first() {
            if self.missing > 0 {
                let count = self.missing.min(bytes.len());
                self.missing -= count;
                bytes = bytes.get(count..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(self.known) {
                *place = first;
                self.known += 1;
                bytes = bytes.get(1..).unwrap_or_default();
            }
            if self.known == HEADER
                && let Some(header) = Header::peek(&self.head)?
            {
                (self.known, self.missing) = (0, header.body_size());
                begins(header.tag);
            }
        }
        Ok(())
    }

    /// The last byte was the end of a message, or there was none yet.
    pub fn is_between(&self) -> bool {
        self.known == 0 && self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_tells_the_same_tags() {
        let bytes = b"Q\0\0\0\x06x\0S\0\0\0\x04d\0\0\0\x09abcdeX\0\0\0\x04";
        for size in 1..=bytes.len() {
            let (mut progress, mut tags) = (Progress::default(), Vec::new());
            bytes.chunks(size).for_each(|chunk| progress.pass(chunk, |tag| tags.push(tag)).unwrap());
            assert_eq!(tags, b"QSdX", "{size}");
            assert!(progress.is_between());
        }
    }

    #[test]
    fn it_is_known_whether_a_message_is_whole() {
        let mut progress = Progress::default();
        for (part, is_between) in
            [(&b"d\0\0"[..], false), (b"\0\x06", false), (b"a", false), (b"b", true), (b"c", false)]
        {
            progress.pass(part, |_| {}).unwrap();
            assert_eq!(progress.is_between(), is_between, "{part:?}");
        }
        assert_eq!(Progress::default().pass(b"d\0\0\0\0", |_| {}), Err(FrameError::Length));
    }
}
