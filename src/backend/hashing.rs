//! Password hashing away from the threads that serve: how long it takes, whoever has the role may choose.

use tokio::sync::Semaphore;

use crate::net::apart;

/// So many at once: a crowd that comes with passwords must not take every core.
static PLACES: Semaphore = Semaphore::const_new(4);

/// Does this on a thread of its own; None: that could not be done.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let place = PLACES.acquire().await.ok()?;
    // The place goes with the work: who does not wait for it any more gives no place away.
    let work = move || {
        let _place = place;
        work()
    };
    apart::run(work).await.ok()
}
