//! What blocks, on a thread of its own. Not on one of the runtime's: where the system has no thread left, asking for those panics,
//! and they are waited for when the program ends.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;

use tokio::sync::{Semaphore, oneshot};

thread_local! {
    /// Names are looked up so many at once for each thread: as many connections as begin together must not become as many threads
    /// where no name server answers, and those of the workers are not in the way of the monitor's.
    static LOOKUPS: Arc<Semaphore> = Arc::new(Semaphore::new(512));
}

/// Does this on a thread of its own, to its end, whether anybody waits for it or not. Err: the system has no thread for it, or it
/// has panicked.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tell, told) = oneshot::channel();
    // Nobody may be waiting any more.
    thread::Builder::new().name("apart".to_owned()).spawn(move || drop(tell.send(work())))?;
    told.await.map_err(io::Error::other)
}

/// What this `host:port` stands for. Cancel-safe: what is dropped is an answer that nobody waits for any more.
pub async fn look_up(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(known) = address.parse::<SocketAddr>() {
        return Ok(vec![known]);
    }
    let place = LOOKUPS.with(Arc::clone).acquire_owned().await.map_err(io::Error::other)?;
    let name = address.to_owned();
    let found = run(move || {
        // It goes with the work, which may take longer than anybody waits.
        let _place = place;
        name.to_socket_addrs().map(Iterator::collect::<Vec<_>>)
    });
    found.await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_done_apart_is_answered_and_what_panics_there_is_an_error() {
        assert_eq!(run(|| 7).await.unwrap(), 7);
        let panicked = run(|| assert_eq!(1, 2, "as it is meant to"));
        assert!(panicked.await.is_err());
    }

    #[tokio::test]
    async fn an_address_is_looked_up_and_numbers_stand_for_themselves() {
        let numbers = "127.0.0.1:5432".parse::<SocketAddr>().unwrap();
        assert_eq!(look_up("127.0.0.1:5432").await.unwrap(), [numbers]);
        assert!(look_up("localhost:5432").await.unwrap().iter().all(|found| found.ip().is_loopback()));
        assert!(look_up("no port").await.is_err());
    }
}
