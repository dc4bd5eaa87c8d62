//! The certificates that we show to others, and whether they are about to end.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::auth::NotAfter;

/// A file of ours: a certificate, and those between it and the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Who sees it.
    pub shown_to: ShownTo,
    /// When the first of them ends.
    pub ends: NotAfter,
}

/// Who sees a certificate of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShownTo {
    /// `tls.certificate`.
    Clients,
    /// `cluster.tls.certificate`, of the cluster of this name.
    Nodes(Arc<str>),
    /// `cluster.patroni_tls.certificate`, of the cluster of this name.
    Patroni(Arc<str>),
}

/// How much longer a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Long enough.
    Good,
    /// For less than 14 days.
    EndsSoon,
    /// Not any more.
    Ended,
}

/// From so long before its end on it is said: whoever renews it by hand has time, and what renews it by itself, mostly a month
/// before, has failed.
const NOTICE: Duration = Duration::from_secs(14 * 24 * 3600);

impl Certificate {
    /// Where it stands at this moment.
    pub fn validity(&self, now: SystemTime) -> Validity {
        let since_1970 = |moment: SystemTime| {
            let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        match self.ends.seconds() {
            end if end < since_1970(now) => Validity::Ended,
            end if end < since_1970(now + NOTICE) => Validity::EndsSoon,
            _ => Validity::Good,
        }
    }
}

impl ShownTo {
    /// The word for it in metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Nodes(_) => "nodes",
            Self::Patroni(_) => "patroni",
        }
    }

    /// The cluster's name; empty where it is for clients, who may go to any.
    pub fn cluster(&self) -> &str {
        match self {
            Self::Clients => "",
            Self::Nodes(cluster) | Self::Patroni(cluster) => cluster,
        }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shown_to {
            ShownTo::Clients => f.write_str("the certificate for clients"),
            ShownTo::Nodes(cluster) => write!(f, "the certificate for nodes of cluster \"{cluster}\""),
            ShownTo::Patroni(cluster) => write!(f, "the certificate for Patroni of cluster \"{cluster}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fortnight_before_its_end_it_ends_soon() {
        const UTC_TIME: u8 = 0x17;
        let ends = NotAfter::read(UTC_TIME, b"700131000000Z").unwrap();
        let certificate = Certificate { shown_to: ShownTo::Clients, ends };
        let after_days = |days: u64| certificate.validity(UNIX_EPOCH + Duration::from_secs(days * 24 * 3600));
        assert_eq!(after_days(16), Validity::Good);
        assert_eq!(after_days(17), Validity::EndsSoon);
        assert_eq!(after_days(30), Validity::EndsSoon, "its last second");
        assert_eq!(after_days(31), Validity::Ended);
    }
}
