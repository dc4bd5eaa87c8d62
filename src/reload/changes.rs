//! What a reload cannot change.

use crate::config::Config;

/// Sockets and threads are made once: of those settings the running ones stay. Answers which differ, and count only after a
/// restart.
pub(super) fn keep_what_is_made_once(running: &Config, wanted: &mut Config) -> Vec<&'static str> {
    let checks = [
        ("listen", running.listen != wanted.listen || running.listen_sockets != wanted.listen_sockets),
        ("admin.listen", running.admin_listen != wanted.admin_listen),
        ("workers", running.workers != wanted.workers),
        ("io_uring", running.io_uring != wanted.io_uring),
        ("log.format", running.log.json != wanted.log.json),
    ];
    wanted.listen.clone_from(&running.listen);
    wanted.listen_sockets.clone_from(&running.listen_sockets);
    wanted.admin_listen = running.admin_listen;
    wanted.workers = running.workers;
    wanted.io_uring = running.io_uring;
    wanted.log.json = running.log.json;
    checks.into_iter().filter(|(_, differs)| *differs).map(|(setting, _)| setting).collect()
}
