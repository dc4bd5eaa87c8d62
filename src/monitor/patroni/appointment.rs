//! A switchover that an operator has scheduled, and what later answers of Patroni say of it.

use std::time::{Duration, Instant};

use crate::topology::{Lock, NodeId};

/// It has been prepared for.
#[derive(Debug)]
pub(super) struct Appointment {
    /// The moment, as Patroni writes it.
    pub(super) at: String,
    /// The same moment here.
    pub(super) moment: Instant,
    /// Who led when it was prepared for.
    pub(super) leader: NodeId,
}

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is to come, or under way.
    Stands,
    /// It will not be done, or Patroni has given it up at its moment: nobody was fit to lead.
    CalledOff,
    /// Another node leads.
    Done,
}

impl Appointment {
    /// By an answer that was asked for at `begun`: what is scheduled now, and who holds the lock. What is scheduled stays so in a
    /// switchover until the next leader holds the lock; while nobody does, nothing is known.
    pub(super) fn fate(&self, scheduled: Option<&str>, lock: Lock, begun: Instant) -> Fate {
        let is_scheduled = scheduled == Some(&*self.at);
        // An answer of about the moment itself may be from before or after it.
        let is_to_come = begun + MARGIN < self.moment;
        let is_past = begun >= self.moment + MARGIN;
        match lock {
            _ if is_to_come && !is_scheduled => Fate::CalledOff,
            Lock::Primary(node) if is_past && node != self.leader => Fate::Done,
            Lock::Primary(_) if is_past && !is_scheduled => Fate::CalledOff,
            _ => Fate::Stands,
        }
    }
}

/// Between two clocks, and between an answer's making and its coming.
const MARGIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "2026-01-31T12:30:00+00:00";
    const LEADER: Lock = Lock::Primary(NodeId(0));
    const OTHER: Lock = Lock::Primary(NodeId(1));
    const SECOND: Duration = Duration::from_secs(1);

    /// What becomes of it by an answer that was asked for so many seconds before or after the moment.
    fn fate(seconds: i32, scheduled: Option<&str>, lock: Lock) -> Fate {
        let moment = Instant::now() + 60 * SECOND;
        let appointment = Appointment { at: AT.to_owned(), moment, leader: NodeId(0) };
        let apart = seconds.unsigned_abs() * SECOND;
        let begun = if seconds < 0 { moment - apart } else { moment + apart };
        appointment.fate(scheduled, lock, begun)
    }

    #[test]
    fn before_its_moment_it_stands_as_long_as_it_is_scheduled() {
        assert_eq!(fate(-5, Some(AT), LEADER), Fate::Stands);
        assert_eq!(fate(-5, None, LEADER), Fate::CalledOff);
        assert_eq!(fate(-5, Some("2026-01-31T13:00:00+00:00"), LEADER), Fate::CalledOff);
        assert_eq!(fate(-5, None, Lock::Nobody), Fate::CalledOff);
    }

    #[test]
    fn what_is_gone_after_its_moment_while_the_leader_still_leads_has_been_given_up() {
        assert_eq!(fate(3, Some(AT), LEADER), Fate::Stands);
        assert_eq!(fate(3, None, LEADER), Fate::CalledOff);
    }

    #[test]
    fn a_switchover_under_way_or_done_is_not_called_off() {
        for lock in [LEADER, OTHER, Lock::Nobody] {
            assert_eq!(fate(0, None, lock), Fate::Stands, "about its moment nobody can tell");
        }
        assert_eq!(fate(3, Some(AT), Lock::Nobody), Fate::Stands);
        assert_eq!(fate(3, None, Lock::Nobody), Fate::Stands);
        assert_eq!(fate(3, Some(AT), OTHER), Fate::Done);
        assert_eq!(fate(3, None, OTHER), Fate::Done);
    }
}
