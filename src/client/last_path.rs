//! A session's search path as its picture has it, kept until one of the two changes.

use std::sync::Arc;

use super::server::{Database, Server};
use crate::catalog::{Path, Picture};
use crate::session::{Session, Settings};
use crate::sql::MemoKey;

/// PostgreSQL's own comes first where the session's names are looked for, as far as what was known last can tell; where nothing
/// was, what the session has set or has been told, or what was read of its role and its database at a login.
#[cold]
pub(super) fn own_first(last: Option<&Picture>, session: &Session, server: &Server, database: &Database) -> bool {
    if let Some(picture) = last {
        return path_of(picture, session).own_first();
    }
    match session.search_path() {
        Some(path) => !names_own(path),
        None => login_has_own_first(&session.identity.user, server, database),
    }
}

/// The same of a session of this user that has set and been told nothing.
pub fn login_has_own_first(user: &Arc<str>, server: &Server, database: &Database) -> bool {
    let login = (server.cluster(database).number, Arc::clone(&database.server_name), Arc::clone(user));
    let sets_it = |set: Arc<str>| set.split_once("search_path=").is_some_and(|(_, paths)| names_own(paths));
    !server.welcomes.defaults_of(&login).is_some_and(sets_it)
}

/// A path that names PostgreSQL's own schema may name it behind others.
fn names_own(path: &str) -> bool {
    path.to_ascii_lowercase().contains("pg_catalog")
}

/// The last path that was resolved.
#[derive(Debug, Default)]
pub(super) struct LastPath(Option<(u32, Settings, Resolved)>);

/// A path, and the key under which verdicts by it are noted.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) path: Path,
    pub(super) key: Option<MemoKey>,
}

impl LastPath {
    /// Where the session's names are looked for.
    pub(super) fn resolve(&mut self, picture: &Picture, session: &Session) -> &Resolved {
        let is_the_same =
            |(id, settings, _): &(u32, Settings, Resolved)| *id == picture.id() && *settings == session.settings;
        if !self.0.as_ref().is_some_and(is_the_same) {
            self.0 = None;
        }
        let look = || (picture.id(), session.settings.clone(), Self::look(picture, session));
        let (_, _, resolved) = self.0.get_or_insert_with(look);
        resolved
    }

    fn look(picture: &Picture, session: &Session) -> Resolved {
        let path = path_of(picture, session);
        let key = picture.number(&path).map(|number| MemoKey::new(picture.id(), number));
        Resolved { path, key }
    }
}

fn path_of(picture: &Picture, session: &Session) -> Path {
    picture.path(session.settings.get("search_path"), &session.identity.user, session.role())
}
