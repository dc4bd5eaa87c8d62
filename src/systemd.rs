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
    tell(&[NotifyState::Stopping, NotifyState::Custom(&extended_by(limit))]);
}

/// As systemd reads it, which takes 64 bits; the crate's own state has room for little more than an hour.
fn extended_by(limit: Duration) -> String {
    /// For what is done beside waiting.
    const BESIDE: Duration = Duration::from_secs(5);
    format!("EXTEND_TIMEOUT_USEC={}", (limit + BESIDE).as_micros())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_may_last_for_longer_than_an_hour() {
        assert_eq!(extended_by(Duration::from_secs(30)), "EXTEND_TIMEOUT_USEC=35000000");
        assert_eq!(extended_by(Duration::from_secs(24 * 3600)), "EXTEND_TIMEOUT_USEC=86405000000");
    }
}
