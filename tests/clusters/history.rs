//! What sessions were told, and a checker that knows what they must never be told.

use std::collections::BTreeMap;

/// What one session did, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Its own register was set to this, and that was acknowledged.
    Wrote(i64),
    /// The same, with an outcome that is not known.
    MayHaveWritten(i64),
    /// Its own register was read.
    Read(i64),
    /// The ledger had so many entries, of which so many were acknowledged to anybody before the question.
    Counted { entries: i64, acknowledged_before: i64 },
    /// All accounts together.
    Sum(i64),
    /// An entry of the ledger, by its unique number, and what was said of it.
    Entered(i64, Fate),
}

/// What a session was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was acknowledged.
    Done,
    /// It failed.
    Refused,
    /// Nobody knows.
    InDoubt,
}

/// What a cluster promises to its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Each sees its own writes and does not go back in time.
    Session,
    /// Each sees what was acknowledged to anybody.
    Strong,
}

/// Every breach of the promise, in words; `ledger` is what the ledger holds in the end, `total` what all accounts hold
/// together at any time.
pub(crate) fn breaches(sessions: &[Vec<Told>], ledger: &[i64], total: i64, promise: Promise) -> Vec<String> {
    let mut breaches = Vec::new();
    for (session, told) in sessions.iter().enumerate() {
        let words = of_session(told, total, promise);
        breaches.extend(words.into_iter().map(|words| format!("session {session}: {words}")));
    }
    breaches.extend(of_ledger(sessions, ledger));
    breaches
}

fn of_session(told: &[Told], total: i64, promise: Promise) -> Vec<String> {
    let (mut written, mut seen, mut counted) = (0, 0, 0);
    let mut breaches = Vec::new();
    for event in told {
        match *event {
            Told::Wrote(value) => (written, seen) = (value, value),
            Told::MayHaveWritten(_) | Told::Entered(..) => {}
            Told::Read(value) if value < written => breaches.push(format!("reads {value} after it wrote {written}")),
            Told::Read(value) if value < seen => breaches.push(format!("reads {value} after it read {seen}")),
            Told::Read(value) => seen = value,
            Told::Counted { entries, .. } if entries < counted => {
                breaches.push(format!("counts {entries} entries after {counted}"));
            }
            Told::Counted { entries, acknowledged_before }
                if promise == Promise::Strong && entries < acknowledged_before =>
            {
                breaches.push(format!("counts {entries} entries of {acknowledged_before} that were acknowledged"));
            }
            Told::Counted { entries, .. } => counted = entries,
            Told::Sum(sum) if sum != total => breaches.push(format!("sees {sum} on all accounts instead of {total}")),
            Told::Sum(_) => {}
        }
    }
    breaches
}

/// Nothing acknowledged is lost, nothing is there twice, nothing that was refused is there.
fn of_ledger(sessions: &[Vec<Told>], ledger: &[i64]) -> Vec<String> {
    let mut there = BTreeMap::<i64, usize>::new();
    for number in ledger {
        *there.entry(*number).or_default() += 1;
    }
    let mut breaches = Vec::new();
    for event in sessions.iter().flatten() {
        let Told::Entered(number, fate) = event else { continue };
        let count = there.remove(number).unwrap_or(0);
        let is_so = match fate {
            Fate::Done => count == 1,
            Fate::Refused => count == 0,
            Fate::InDoubt => count <= 1,
        };
        if !is_so {
            breaches.push(format!("entry {number}, told {fate:?}, is there {count} times"));
        }
    }
    breaches.extend(there.keys().map(|number| format!("entry {number} was made by nobody")));
    breaches
}

#[test]
fn the_checker_finds_each_breach_and_nothing_else() {
    let found = |told: &[Told], ledger: &[i64], promise| breaches(&[told.to_vec()], ledger, 100, promise).len();
    let counted = |entries, acknowledged_before| Told::Counted { entries, acknowledged_before };
    let good = [
        Told::Wrote(1),
        Told::Read(1),
        Told::MayHaveWritten(2),
        Told::Read(2),
        Told::Sum(100),
        counted(1, 1),
        counted(3, 2),
        Told::Entered(1, Fate::Done),
        Told::Entered(2, Fate::InDoubt),
        Told::Entered(3, Fate::Refused),
    ];
    assert_eq!(found(&good, &[1], Promise::Strong), 0);
    assert_eq!(found(&good, &[1, 2], Promise::Strong), 0);
    assert_eq!(found(&good, &[], Promise::Session), 1, "a lost write");
    assert_eq!(found(&good, &[1, 1], Promise::Session), 1, "a write done twice");
    assert_eq!(found(&good, &[1, 3], Promise::Session), 1, "a refused write that is there");
    assert_eq!(found(&good, &[1, 4], Promise::Session), 1, "an entry that nobody made");
    for stale in [
        &[Told::Wrote(2), Told::Read(1)][..],
        &[Told::MayHaveWritten(2), Told::Read(2), Told::Read(1)],
        &[counted(2, 0), counted(1, 0)],
        &[Told::Sum(99)],
    ] {
        assert_eq!(found(stale, &[], Promise::Session), 1, "{stale:?}");
    }
    assert_eq!(found(&[counted(1, 2)], &[], Promise::Session), 0);
    assert_eq!(found(&[counted(1, 2)], &[], Promise::Strong), 1);
}
