//! What a node says at last, on a connection that it closes.

use super::held_lease::HeldLease;
use crate::session::tells_of_death;
use crate::wire::{ErrorFields, Header, backend, frame};

/// How many bytes are whole answers, where the node says its last words and something stands between these and those. Costs
/// one look at the last bytes where it does not: they come last, and their fields end with zeros.
pub(super) fn answered_before_goodbye(filled: &[u8], held: &HeldLease) -> Option<usize> {
    if !filled.ends_with(&[0, 0]) {
        return None;
    }
    let last_words = LastWords::find(filled, held.passing.to_client)?;
    (0 < last_words.answered && last_words.answered < last_words.begin).then_some(last_words.answered)
}

/// What a fenced node has said counts if its goodbye is there: all of it came before the fence, which takes nothing any
/// more, and the node has ended this session in good order. What it answered before that was done, and what it did not
/// answer was not.
#[cold]
pub(super) fn ends_with_goodbye(filled: &[u8], held: &HeldLease) -> bool {
    let found = LastWords::find(filled, held.passing.to_client);
    found.is_some_and(|last_words| last_words.word == LastWord::Goodbye)
}

/// Where a node says its last words.
struct LastWords {
    word: LastWord,
    /// So many bytes are whole answers.
    answered: usize,
    /// They begin there.
    begin: usize,
}

impl LastWords {
    /// The first so many bytes belong to a message that began before.
    fn find(filled: &[u8], passing: usize) -> Option<Self> {
        let (mut at, mut answered) = (passing, 0);
        while let Some(header) = Header::peek(filled.get(at..)?).ok()? {
            if let Some(word) = last_word(filled.get(at..)?) {
                return Some(Self { word, answered, begin: at });
            }
            at += header.size;
            if header.tag == backend::READY_FOR_QUERY {
                answered = at;
            }
        }
        None
    }
}

/// What a node says before it closes a connection, where nothing stands before it: its goodbye, or a warning that it dies.
#[cold]
fn last_word(bytes: &[u8]) -> Option<LastWord> {
    let header = Header::peek(bytes).ok()??;
    let is_error = header.tag == backend::ERROR_RESPONSE;
    if !is_error && header.tag != backend::NOTICE_RESPONSE {
        return None;
    }
    let fields = ErrorFields::read(bytes.get(frame::HEADER..header.size)?);
    match is_error {
        true => fields.ends_connection().then_some(LastWord::Goodbye),
        false => tells_of_death(fields.code).then_some(LastWord::Death),
    }
}

/// How a node ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastWord {
    /// In good order: what it has not answered, it has not done.
    Goodbye,
    /// It is torn down, and what it was doing is not known.
    Death,
}
