//! A database that whoever keeps a connection to it must leave for a time.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::net::timers::timeout_at;

/// Shared by the one who keeps a connection, and those who want it gone.
#[derive(Debug, Default)]
pub struct Absence(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    /// How many want it.
    wanted: usize,
    /// Its connection is to be another one: it leaves once, and may come back at once.
    is_to_leave: bool,
    /// Keepers that have left, and stay away while somebody wants it. There is one; where another takes over, for a moment two.
    away: usize,
}

/// While it lives, the keeper stays away.
#[derive(Debug)]
#[must_use = "dropping it lets the keeper come back"]
pub struct Away(Arc<Absence>);

/// While it lives, a keeper has left.
struct Left<'a>(&'a Absence);

impl Absence {
    /// The keeper is wanted away from now on.
    pub fn begin(self: &Arc<Self>) -> Away {
        self.0.send_modify(|state| state.wanted += 1);
        Away(Arc::clone(self))
    }

    /// The keeper opens another connection from now on, as soon as it can.
    pub fn renew(&self) {
        self.0.send_modify(|state| state.is_to_leave |= !state.is_away());
    }

    /// For the keeper: waits until it is to leave. Cancel-safe: it changes nothing.
    pub async fn wanted(&self) {
        // Its sender is in `self`: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|state| state.wanted > 0 || state.is_to_leave).await;
    }

    /// For the keeper: it has left. Waits until it may come back. Dropping this in the middle is what the keeper's own end
    /// does: whoever comes after it has not left yet.
    pub async fn stay_away(&self) {
        let _left = Left::begin(self);
        // As above.
        let _ = self.0.subscribe().wait_for(|state| state.wanted == 0).await;
    }
}

impl State {
    fn is_away(&self) -> bool {
        self.away > 0
    }
}

impl<'a> Left<'a> {
    fn begin(absence: &'a Absence) -> Self {
        absence.0.send_modify(|state| {
            state.away += 1;
            state.is_to_leave = false;
        });
        Self(absence)
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| state.away = state.away.saturating_sub(1));
    }
}

impl Away {
    /// Waits until the keeper has left, but not beyond the deadline: there may be none.
    pub async fn begun(&self, deadline: Instant) {
        let mut state = self.0.0.subscribe();
        // Cancel-safe: it changes nothing.
        let _ = timeout_at(deadline, state.wait_for(State::is_away)).await;
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| state.wanted = state.wanted.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_keeper_is_away_as_long_as_anybody_wants_it() {
        let absence = Arc::new(Absence::default());
        let keeper = tokio::spawn({
            let absence = Arc::clone(&absence);
            async move {
                absence.wanted().await;
                absence.stay_away().await;
            }
        });
        let soon = || Instant::now() + Duration::from_secs(1);
        let (one, other) = (absence.begin(), absence.begin());
        one.begun(soon()).await;
        assert!(absence.0.borrow().is_away());
        drop(one);
        tokio::task::yield_now().await;
        assert!(!keeper.is_finished() && absence.0.borrow().is_away());
        drop(other);
        keeper.await.unwrap();
        assert!(!absence.0.borrow().is_away());
    }

    #[tokio::test]
    async fn who_is_to_have_another_connection_leaves_once() {
        let absence = Arc::new(Absence::default());
        let is_wanted = || async { timeout_at(Instant::now(), absence.wanted()).await.is_ok() };
        absence.renew();
        assert!(is_wanted().await);
        absence.stay_away().await;
        assert!(!is_wanted().await);
        // Whoever is away has none.
        let away = absence.begin();
        let mut stays = std::pin::pin!(absence.stay_away());
        assert!(timeout_at(Instant::now(), &mut stays).await.is_err());
        absence.renew();
        drop(away);
        stays.await;
        assert!(!is_wanted().await);
    }

    #[tokio::test]
    async fn a_keeper_that_ends_while_it_is_away_is_not_taken_for_the_next_one() {
        let absence = Arc::new(Absence::default());
        let away = absence.begin();
        let keeper = tokio::spawn({
            let absence = Arc::clone(&absence);
            async move { absence.stay_away().await }
        });
        away.begun(Instant::now() + Duration::from_secs(1)).await;
        assert!(absence.0.borrow().is_away());
        keeper.abort();
        assert!(keeper.await.unwrap_err().is_cancelled());
        assert!(!absence.0.borrow().is_away());
        drop(away);
        // The next one has a connection: it is told to open another.
        absence.renew();
        assert!(timeout_at(Instant::now(), absence.wanted()).await.is_ok());
    }

    #[tokio::test]
    async fn where_nobody_keeps_a_connection_nobody_is_waited_for_longer_than_wanted() {
        let absence = Arc::new(Absence::default());
        absence.begin().begun(Instant::now() + Duration::from_millis(1)).await;
        assert!(!absence.0.borrow().is_away());
    }
}
