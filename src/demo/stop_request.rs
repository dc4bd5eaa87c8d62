//! Ctrl-C and SIGTERM as a wish to end in order, so that nothing stays behind.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody asked for the end.
#[derive(Clone, Debug)]
pub(super) struct StopRequest(Arc<AtomicBool>);

impl StopRequest {
    /// Takes the signals from now on; they no longer end the process by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        let request = Self(Arc::new(AtomicBool::new(false)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let made = Arc::clone(&request.0);
        thread::spawn(move || {
            runtime.block_on(async move {
                // Both wait for the same thing: a signal that is not taken by one is none of the other's.
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            made.store(true, Ordering::Relaxed);
        });
        Ok(request)
    }

    /// Somebody asked.
    pub(super) fn was_made(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
