//! How pools keep their connections: by default, and where a database or a user has it otherwise.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use super::pools::PoolKey;
use super::slots::Bounds;

/// How every pool keeps its connections.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where nothing else is said.
    pub default: PoolSettings,
    /// What databases have otherwise, by the names that clients ask for.
    pub databases: HashMap<Arc<str>, Share>,
    /// What users have otherwise; they go before databases.
    pub users: HashMap<Arc<str>, Share>,
}

/// What one database or one user has otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Most connections of each of its pools.
    pub size: Option<usize>,
    /// Most connections of all its pools at a node together.
    pub max_connections: Option<usize>,
}

/// How a pool keeps its connections.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Most connections.
    pub size: usize,
    /// So many are kept open while a client is there.
    pub min_size: usize,
    /// So many more for those who have waited.
    pub reserve_size: usize,
    /// So long.
    pub reserve_timeout: Duration,
    /// Most connections of the database at the node; None: as many as its pools may have.
    pub of_database: Option<usize>,
    /// Most connections of the user at the node; None: as many as its pools may have.
    pub of_user: Option<usize>,
    /// Workers that lease from it.
    pub workers: usize,
    /// How long opening one may take.
    pub connect_timeout: Duration,
    /// An idle one is closed after this.
    pub idle_timeout: Duration,
    /// One is closed at this age, once idle.
    pub lifetime: Duration,
}

impl Plan {
    /// The settings of this pool.
    pub fn of(&self, key: &PoolKey) -> PoolSettings {
        self.of_names(&key.database, &key.user)
    }

    /// The settings of a pool of this database and user.
    pub fn of_names(&self, database: &str, user: &str) -> PoolSettings {
        let (database, user) = (self.of_database(database), self.of_user(user));
        PoolSettings {
            size: user.size.or(database.size).unwrap_or(self.default.size),
            of_database: database.max_connections,
            of_user: user.max_connections,
            ..self.default.clone()
        }
    }

    /// What this database has otherwise.
    pub fn of_database(&self, name: &str) -> Share {
        self.databases.get(name).copied().unwrap_or_default()
    }

    /// What this user has otherwise.
    pub fn of_user(&self, name: &str) -> Share {
        self.users.get(name).copied().unwrap_or_default()
    }
}

impl PoolSettings {
    /// How many there may be.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            size: self.size,
            reserve: self.reserve_size,
            reserve_timeout: self.reserve_timeout,
            is_limited: self.of_database.is_some() || self.of_user.is_some(),
        }
    }
}
