//! What a client is told of the server at login: the settings that a real server connection reported.

use std::sync::Arc;

use dashmap::DashMap;

use super::server::Stamp;
use crate::backend::LoginKey;
use crate::session::{ReportedAtLogin, Settings};

/// What was reported, by cluster, database, user and the settings asked for.
#[derive(Debug, Default)]
pub struct Welcomes {
    told: DashMap<Key, Welcome>,
    /// What a role and a database have by ALTER … SET, as it was read last.
    defaults: DashMap<LoginKey, Arc<str>>,
}

/// What was reported, and the settings it was reported for: shared by all who ask for the same.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// Names and values.
    pub reported: ReportedAtLogin,
    /// The settings.
    pub settings: Settings,
    /// How far the catalogs were that it was reported by.
    pub stamp: Stamp,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    cluster: usize,
    database: Arc<str>,
    user: Arc<str>,
    settings: Vec<(Arc<str>, Arc<str>)>,
}

/// Different settings remembered; beyond, all are forgotten: an application has a handful.
const MOST: usize = 4096;

impl Welcomes {
    /// What was reported to a client that asked for the same.
    pub fn get(&self, cluster: usize, database: &Arc<str>, user: &Arc<str>, settings: &Settings) -> Option<Welcome> {
        self.told.get(&key(cluster, database, user, settings)).map(|welcome| welcome.clone())
    }

    /// What was reported to some client of this user that did not ask for any of these settings itself.
    pub fn of_user(&self, cluster: usize, database: &str, user: &str, unset: &[&str]) -> Option<ReportedAtLogin> {
        let fits = |key: &Key| {
            (key.cluster, &*key.database, &*key.user) == (cluster, database, user)
                && !key.settings.iter().any(|(name, _)| unset.contains(&&**name))
        };
        self.told.iter().find(|told| fits(told.key())).map(|told| Arc::clone(&told.value().reported))
    }

    /// Remembers what was reported.
    pub fn put(&self, cluster: usize, database: &Arc<str>, user: &Arc<str>, welcome: &Welcome) {
        if self.told.len() >= MOST {
            self.told.clear();
        }
        self.told.insert(key(cluster, database, user, &welcome.settings), welcome.clone());
    }

    /// This database may report something else from now on, or be gone.
    pub fn forget_database(&self, cluster: usize, database: &str) {
        self.told.retain(|key, _| key.cluster != cluster || *key.database != *database);
    }

    /// What this user and this database have by ALTER … SET, as it was read last.
    pub fn defaults_of(&self, login: &LoginKey) -> Option<Arc<str>> {
        self.defaults.get(login).map(|defaults| Arc::clone(defaults.value()))
    }

    /// These are the defaults of this user in this database now, as the primary has them. Answers whether there were others
    /// before: what was reported by those is forgotten.
    pub fn have_changed(&self, login: LoginKey, defaults: Arc<str>) -> bool {
        if self.defaults.len() >= MOST {
            self.defaults.clear();
        }
        let (cluster, database, user) = login.clone();
        let has_changed = self.defaults.insert(login, Arc::clone(&defaults)).is_some_and(|before| before != defaults);
        if has_changed {
            self.told.retain(|key, _| (key.cluster, &key.database, &key.user) != (cluster, &database, &user));
        }
        has_changed
    }
}

fn key(cluster: usize, database: &Arc<str>, user: &Arc<str>, settings: &Settings) -> Key {
    let settings = settings.iter().map(|(name, value)| (Arc::clone(name), Arc::clone(value))).collect();
    Key { cluster, database: Arc::clone(database), user: Arc::clone(user), settings }
}

/// What the client is told, from what a server connection reported: to it, Trunkline is the primary.
pub fn as_primary(parameters: Vec<(Box<str>, Box<str>)>) -> ReportedAtLogin {
    let as_primary = |(name, value): (Box<str>, Box<str>)| match &*name {
        "in_hot_standby" => (name, "off".into()),
        _ => (name, value),
    };
    Arc::new(parameters.into_iter().map(as_primary).collect())
}
