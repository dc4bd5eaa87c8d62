//! Cancels a read when the time is over that a rule gives it. Never set for anything but a read.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::server::Server;
use crate::backend::cancel::Cancellable;
use crate::net::timers;

/// Goes off once; not at all if it is dropped before.
#[derive(Debug)]
pub(super) struct Alarm(JoinHandle<()>);

impl Alarm {
    /// Cancels what the session runs after this time.
    ///
    /// The cancel is counted on its server connection before it is sent: where the alarm is dropped then, the connection is
    /// closed instead of lent again.
    pub(super) fn set(after: Duration, server: &Arc<Server>, cancellable: &Arc<Cancellable>) -> Self {
        let (server, cancellable) = (Arc::clone(server), Arc::clone(cancellable));
        Self(tokio::task::spawn_local(async move {
            timers::sleep(after).await;
            server.cancel_keys.cancel(cancellable.key()).await;
        }))
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}
