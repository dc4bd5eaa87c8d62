//! A session's search path as its picture has it, kept until one of the two changes.

use std::sync::Arc;

use crate::catalog::{Path, Picture};
use crate::session::{Session, Settings};
use crate::sql::MemoKey;

/// The last path that was resolved.
#[derive(Debug, Default)]
pub(super) struct LastPath(Option<(u32, Settings, Arc<Resolved>)>);

/// A path, and the key under which verdicts by it are noted.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) path: Path,
    pub(super) key: Option<MemoKey>,
}

impl LastPath {
    /// Where the session's names are looked for.
    pub(super) fn resolve(&mut self, picture: &Picture, session: &Session) -> Arc<Resolved> {
        if let Some((id, settings, resolved)) = &self.0
            && *id == picture.id()
            && *settings == session.settings
        {
            return Arc::clone(resolved);
        }
        let path = picture.path(session.settings.get("search_path"), &session.identity.user, session.role());
        let key = picture.number(&path).map(|number| MemoKey::new(picture.id(), number));
        let resolved = Arc::new(Resolved { path, key });
        self.0 = Some((picture.id(), session.settings.clone(), Arc::clone(&resolved)));
        resolved
    }
}
