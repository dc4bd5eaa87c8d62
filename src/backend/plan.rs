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

/// The database that stands for every other name.
const ANY: &str = "*";

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
        self.databases.get(name).or_else(|| self.databases.get(ANY)).copied().unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_goes_before_its_database_and_that_before_what_stands_for_all() {
        let share = |size, max_connections| Share { size, max_connections };
        let default = PoolSettings {
            size: 20,
            min_size: 0,
            reserve_size: 0,
            reserve_timeout: Duration::ZERO,
            of_database: None,
            of_user: None,
            workers: 1,
            connect_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            lifetime: Duration::ZERO,
        };
        let plan = Plan {
            default,
            databases: [("shop".into(), share(Some(7), Some(70))), ("*".into(), share(Some(9), None))].into(),
            users: [("ada".into(), share(Some(5), Some(50))), ("bob".into(), share(None, None))].into(),
        };
        let of = |database, user| {
            let settings = plan.of_names(database, user);
            (settings.size, settings.of_database, settings.of_user, settings.bounds().is_limited)
        };
        assert_eq!(of("shop", "ada"), (5, Some(70), Some(50), true));
        assert_eq!(of("shop", "bob"), (7, Some(70), None, true));
        assert_eq!(of("blog", "bob"), (9, None, None, false));
        let plan = Plan { databases: HashMap::new(), ..plan.clone() };
        assert_eq!(plan.of_names("blog", "eve").size, 20);
    }
}
