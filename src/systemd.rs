//! The service manager is told what the program does, where it has started it with `Type=notify`: when clients are served,
//! while the configuration is read anew, that it stops, and, with `WatchdogSec=`, that its threads turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

use crate::metrics::Metrics;
use crate::net::timers;

/// Clients are served, by the configuration as it was read last.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read anew; [`ready`] says when that is done.
pub fn reloading() {
    // Since when, it wants to know with `Type=notify-reload`.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "what time it is cannot be found out for the service manager"),
    }
}

/// The program stops, and may take so long for it.
pub fn stopping(limit: Duration) {
    /// For what is done beside waiting.
    const BESIDE: Duration = Duration::from_secs(5);
    let limit = u32::try_from((limit + BESIDE).as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(limit)]);
}

/// The main process is another one from now on, which tells all that is to be told.
pub fn is_succeeded_by(process: u32) {
    tell(&[NotifyState::MainPid(process)]);
}

/// Gives the sign of life that is asked for, if it is, for as long as all workers turn. Does not return then.
pub async fn keep_watchdog(metrics: Arc<Metrics>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut interval = timers::interval((limit / 3).max(Duration::from_millis(1)));
    loop {
        interval.tick().await;
        match metrics.most_silent(Instant::now()) {
            Some((worker, silence)) if silence >= limit => {
                warn!(worker, seconds = silence.as_secs(), "a worker hangs: the watchdog gets no sign of life");
            }
            _ => tell(&[NotifyState::Watchdog]),
        }
    }
}

/// Without a service manager, nothing is done.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager cannot be told");
    }
}
