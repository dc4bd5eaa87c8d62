//! What the monitor asks a node, and how it reads the answers. Works for roles with and without pg_monitor.

use std::str::FromStr;
use std::sync::Arc;

use super::line::Row;
use crate::topology::{Lsn, PostmasterStart, ProbeReport, Receiver, ReportedRole, SeenTimeline, SystemId, Timeline};

/// The name under which [`PROBE`] is prepared.
pub(super) const PROBE_NAME: &str = "probe";
/// The name under which [`SAMPLE`] is prepared.
pub(super) const SAMPLE_NAME: &str = "sample";

/// Everything about a node. Functions that fail in or out of recovery stand behind CASE; columns that a role without
/// pg_monitor may not see are NULL for it. Every column says again whether it is in recovery, as a promotion may come
/// between two of them; the first column decides how the others are read. Who only takes the log, as pg_receivewal, replays
/// nothing, and a subscriber reads a logical slot: neither is a standby. The last column is the announcement of
/// `patroni/before_stop`: a superuser holds an advisory lock while the node is about to be stopped.
pub(super) const PROBE: &str = "\
SELECT pg_is_in_recovery(), \
(SELECT system_identifier FROM pg_control_system()), \
(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, \
current_setting('server_version_num'), \
CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END, \
CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END, \
CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END, \
(SELECT count(*) FROM pg_stat_replication WHERE (state = 'streaming' AND replay_lsn IS NOT NULL OR state IS NULL) \
AND pid NOT IN (SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL)), \
pg_last_wal_replay_lsn(), \
pg_last_wal_receive_lsn(), \
CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END, \
receiver.pid IS NOT NULL, \
receiver.status, \
receiver.received_tli, \
receiver.sender_host, \
receiver.sender_port, \
CASE WHEN pg_is_in_recovery() THEN \
(SELECT greatest(timeline_id, min_recovery_end_timeline) FROM pg_control_checkpoint(), pg_control_recovery()) END, \
CASE WHEN NOT pg_try_advisory_xact_lock_shared(1953655660, 1) THEN EXISTS \
(SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) JOIN pg_roles ON pg_roles.oid = usesysid \
WHERE locktype = 'advisory' AND classid = 1953655660 AND objid = 1 AND objsubid = 2 AND granted AND mode = 'ExclusiveLock' \
AND rolsuper) END \
FROM (SELECT 1) AS one LEFT JOIN pg_stat_wal_receiver AS receiver ON true";

/// A node's position, and whether it still is what the last probe saw. The file's name comes before the position: see
/// [`Lsn::without_header`].
pub(super) const SAMPLE: &str = "\
SELECT pg_is_in_recovery(), \
CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END, \
CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END, \
CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END, \
pg_last_wal_replay_lsn()";

/// A position as a light sample brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) lsn: Lsn,
    pub(super) timeline: Option<Timeline>,
    /// Up to where the log is flushed; None: it is in recovery.
    pub(super) flush_lsn: Option<Lsn>,
}

/// Reads the row of [`PROBE`]; the error names the column that makes no sense.
pub(super) fn read_report(row: &Row) -> Result<ProbeReport, &'static str> {
    let column = |at: usize| row.get(at).and_then(Option::as_deref);
    let role = if boolean(column(0)).ok_or("pg_is_in_recovery")? { replica(&column)? } else { primary(&column)? };
    Ok(ProbeReport {
        system: SystemId(number::<i64>(column(1)).ok_or("system_identifier")?.cast_unsigned()),
        postmaster_start: PostmasterStart(number(column(2)).ok_or("pg_postmaster_start_time")?),
        server_version: number(column(3)).ok_or("server_version_num")?,
        is_leaving: boolean(column(17)).unwrap_or(false),
        role,
    })
}

fn primary<'a>(column: &impl Fn(usize) -> Option<&'a str>) -> Result<ReportedRole, &'static str> {
    let insert_lsn = number::<Lsn>(column(5)).ok_or("pg_current_wal_insert_lsn")?;
    let file = column(4).ok_or("pg_walfile_name")?;
    Ok(ReportedRole::Primary {
        timeline: walfile_timeline(file).ok_or("pg_walfile_name")?,
        insert_lsn: insert_lsn.without_header(file),
        flush_lsn: number(column(6)).ok_or("pg_current_wal_flush_lsn")?,
        streaming_standbys: number(column(7)).ok_or("pg_stat_replication")?,
    })
}

fn replica<'a>(column: &impl Fn(usize) -> Option<&'a str>) -> Result<ReportedRole, &'static str> {
    let receiver = receiver(column);
    let received = number(column(13)).map(Timeline);
    let at_least = received.max(number(column(16)).map(Timeline));
    let timeline = match (&receiver, received, at_least) {
        (Receiver::Seen { is_streaming: true, .. }, Some(received), _) => SeenTimeline::Exact(received),
        (_, _, Some(least)) => SeenTimeline::AtLeast(least),
        (_, _, None) => SeenTimeline::Unknown,
    };
    Ok(ReportedRole::Replica {
        timeline,
        replay_lsn: number(column(8)),
        receive_lsn: number(column(9)),
        receiver,
        is_replay_paused: boolean(column(10)).unwrap_or(false),
    })
}

fn receiver<'a>(column: &impl Fn(usize) -> Option<&'a str>) -> Receiver {
    match (boolean(column(11)), column(12)) {
        (Some(true), Some(status)) => {
            Receiver::Seen { is_streaming: status == "streaming", sender: sender(column(14), column(15)) }
        }
        (Some(true), None) => Receiver::Hidden,
        _ => Receiver::Absent,
    }
}

/// `host:port` as configuration writes it.
fn sender(host: Option<&str>, port: Option<&str>) -> Option<Arc<str>> {
    let (host, port) = (host?, port?);
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }.into())
}

/// Reads the row of [`SAMPLE`].
pub(super) fn read_position(row: &Row) -> Option<Position> {
    let column = |at: usize| row.get(at).and_then(Option::as_deref);
    if boolean(column(0))? {
        return Some(Position { lsn: number(column(4))?, timeline: None, flush_lsn: None });
    }
    let file = column(1)?;
    let lsn = number::<Lsn>(column(2))?.without_header(file);
    Some(Position { lsn, timeline: Some(walfile_timeline(file)?), flush_lsn: Some(number(column(3))?) })
}

/// The name of a file of the log begins with its timeline in eight hexadecimal digits.
fn walfile_timeline(name: &str) -> Option<Timeline> {
    u32::from_str_radix(name.get(..8)?, 16).ok().map(Timeline)
}

fn number<T: FromStr>(text: Option<&str>) -> Option<T> {
    text?.parse().ok()
}

fn boolean(text: Option<&str>) -> Option<bool> {
    match text? {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        text.split('|').map(|column| (!column.is_empty()).then(|| column.to_owned())).collect()
    }

    fn role(text: &str) -> ReportedRole {
        read_report(&row(text)).unwrap().role
    }

    #[test]
    fn the_timeline_of_a_primary_is_in_the_name_of_its_file() {
        let report =
            read_report(&row("f|-7|5|150020|0000000A0000000000000001|0/2000018|0/1FFFF00|2|0/1||||||||")).unwrap();
        assert_eq!(report.system, SystemId(0xFFFF_FFFF_FFFF_FFF9));
        let (timeline, insert_lsn, flush_lsn) = (Timeline(10), Lsn(0x200_0000), Lsn(0x1FF_FF00));
        assert_eq!(report.role, ReportedRole::Primary { timeline, insert_lsn, flush_lsn, streaming_standbys: 2 });
    }

    #[test]
    fn a_node_that_is_about_to_be_stopped_says_so() {
        let leaves = |text: &str| read_report(&row(text)).unwrap().is_leaving;
        assert!(leaves("f|7|5|150020|000000010000000000000001|0/2000028|0/2000028|0||||||||||t"));
        assert!(!leaves("f|7|5|150020|000000010000000000000001|0/2000028|0/2000028|0||||||||||f"));
        assert!(!leaves("f|7|5|150020|000000010000000000000001|0/2000028|0/2000028|0||||||||||"));
    }

    #[test]
    fn a_replica_tells_whom_it_streams_from() {
        let ReportedRole::Replica { timeline, receiver, is_replay_paused, .. } =
            role("t|7|5|150020||||0|0/3000148|0/3000148|t|t|streaming|2|::1|5432|1")
        else {
            panic!("a replica")
        };
        assert_eq!(timeline, SeenTimeline::Exact(Timeline(2)));
        assert_eq!(receiver, Receiver::Seen { is_streaming: true, sender: Some("[::1]:5432".into()) });
        assert!(is_replay_paused);
    }

    #[test]
    fn without_pg_monitor_a_timeline_is_only_a_lower_bound() {
        let ReportedRole::Replica { timeline, receiver, .. } = role("t|7|5|150020||||0|0/3000148|0/3000148|f|t|||||3")
        else {
            panic!("a replica")
        };
        assert_eq!((timeline, receiver), (SeenTimeline::AtLeast(Timeline(3)), Receiver::Hidden));
    }

    #[test]
    fn an_answer_that_makes_no_sense_names_its_column() {
        assert_eq!(read_report(&row("t|x|5|150020||||||||||||")), Err("system_identifier"));
        assert_eq!(read_report(&row("")), Err("pg_is_in_recovery"));
        assert_eq!(read_report(&row("f|7|5|150020||0/2000018|0/2000000|2|0/1||||||||")), Err("pg_walfile_name"));
        let unflushed = row("f|7|5|150020|000000010000000000000001|0/2000018||2|0/1||||||||");
        assert_eq!(read_report(&unflushed), Err("pg_current_wal_flush_lsn"));
    }

    #[test]
    fn a_position_has_the_timeline_of_a_primary_only() {
        let (lsn, timeline, flush_lsn) = (Lsn(0x200_0000), Some(Timeline(2)), Some(Lsn(0x1FF_FF00)));
        let primary = Position { lsn, timeline, flush_lsn };
        assert_eq!(read_position(&row("f|000000020000000000000001|0/2000018|0/1FFFF00|0/1")), Some(primary));
        let replica = Position { lsn: Lsn(0x200_0018), timeline: None, flush_lsn: None };
        assert_eq!(read_position(&row("t||||0/2000018")), Some(replica));
        assert_eq!(read_position(&row("t||||")), None);
        assert_eq!(read_position(&row("f|000000020000000000000001|0/2000018||0/1")), None);
    }
}
