//! How many clients there are: in all, of each user, of each database. Outlives every reload.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::metrics::Limit;

/// How many clients there are. Those of the console, and those who came to cancel, are not counted.
#[derive(Debug, Default)]
pub struct Census(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    users: HashMap<Arc<str>, usize>,
    databases: HashMap<Arc<str>, usize>,
    pairs: HashMap<Pair, usize>,
}

/// Database and user; of all that are of the same there is one.
type Pair = Arc<(Arc<str>, Arc<str>)>;

/// A client that is counted, until this is dropped.
#[derive(Debug)]
pub struct Seat {
    census: Arc<Census>,
    /// Database and user, once it has proved who it is.
    of: Option<Pair>,
}

impl Census {
    /// One more client; None: there are as many as there may be.
    pub fn sit(self: &Arc<Self>, most: usize) -> Option<Seat> {
        let mut counts = self.0.lock();
        if counts.all >= most {
            return None;
        }
        counts.all += 1;
        Some(Seat { census: Arc::clone(self), of: None })
    }

    /// How many there are.
    pub fn now(&self) -> usize {
        self.0.lock().all
    }

    /// A client is there for this database.
    pub fn has_database(&self, database: &Arc<str>) -> bool {
        self.0.lock().databases.contains_key(database)
    }

    /// The databases that clients are there for.
    pub fn databases(&self) -> Vec<Arc<str>> {
        self.0.lock().databases.keys().cloned().collect()
    }

    /// A client of this user is there for this database.
    pub fn has(&self, database: &Arc<str>, user: &Arc<str>) -> bool {
        self.0.lock().pairs.contains_key(&(Arc::clone(database), Arc::clone(user)))
    }
}

impl Seat {
    /// It is a client of this database and this user, each with the most that there may be of it.
    pub fn settle(
        &mut self,
        (database, most_of_database): (&Arc<str>, Option<usize>),
        (user, most_of_user): (&Arc<str>, Option<usize>),
    ) -> Result<(), Limit> {
        let mut counts = self.census.0.lock();
        let is_full = |count: Option<&usize>, most: Option<usize>| most.is_some_and(|most| count >= Some(&most));
        if is_full(counts.databases.get(database), most_of_database) {
            return Err(Limit::DatabaseClients);
        }
        if is_full(counts.users.get(user), most_of_user) {
            return Err(Limit::UserClients);
        }
        let names = (Arc::clone(database), Arc::clone(user));
        let pair = counts.pairs.get_key_value(&names).map_or_else(|| Arc::new(names), |(pair, _)| Arc::clone(pair));
        *counts.databases.entry(Arc::clone(database)).or_default() += 1;
        *counts.users.entry(Arc::clone(user)).or_default() += 1;
        *counts.pairs.entry(Arc::clone(&pair)).or_default() += 1;
        self.of = Some(pair);
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.census.0.lock();
        counts.all = counts.all.saturating_sub(1);
        let Some(pair) = self.of.take() else { return };
        one_less(&mut counts.databases, &pair.0);
        one_less(&mut counts.users, &pair.1);
        one_less(&mut counts.pairs, &pair);
    }
}

/// Nobody is remembered who is not there.
fn one_less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    let Some(count) = counts.get_mut(key) else { return };
    *count = count.saturating_sub(1);
    if *count == 0 {
        counts.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_counts_who_is_there_and_forgets_who_has_left() {
        let census = Arc::new(Census::default());
        let (shop, blog): (Arc<str>, Arc<str>) = ("shop".into(), "blog".into());
        let (ada, bob): (Arc<str>, Arc<str>) = ("ada".into(), "bob".into());
        let mut first = census.sit(3).unwrap();
        first.settle((&shop, Some(2)), (&ada, Some(1))).unwrap();
        let mut second = census.sit(3).unwrap();
        assert_eq!(second.settle((&blog, None), (&ada, Some(1))), Err(Limit::UserClients));
        second.settle((&shop, Some(2)), (&bob, None)).unwrap();
        let mut third = census.sit(3).unwrap();
        assert_eq!(third.settle((&shop, Some(2)), (&bob, None)), Err(Limit::DatabaseClients));
        assert!(census.sit(3).is_none());
        assert!(census.has(&shop, &ada) && !census.has(&blog, &ada));
        drop(first);
        assert!(!census.has(&shop, &ada));
        third.settle((&shop, Some(2)), (&ada, Some(1))).unwrap();
        drop((second, third));
        let counts = census.0.lock();
        assert!(counts.all == 0 && counts.users.is_empty() && counts.databases.is_empty() && counts.pairs.is_empty());
    }
}
