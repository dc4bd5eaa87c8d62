//! What a reload cannot change.

use crate::config::Config;

/// Settings that differ and count only after a restart: sockets and threads are made once.
pub(super) fn need_restart(before: &Config, now: &Config) -> Vec<&'static str> {
    let checks = [
        ("listen", before.listen != now.listen || before.listen_sockets != now.listen_sockets),
        ("admin.listen", before.admin_listen != now.admin_listen),
        ("workers", before.workers != now.workers),
        ("io_uring", before.io_uring != now.io_uring),
        ("log.format", before.log.json != now.log.json),
    ];
    checks.into_iter().filter(|(_, differs)| *differs).map(|(setting, _)| setting).collect()
}
