//! Patterns that names, addresses and times of the day are compared with.

use std::fmt;
use std::net::IpAddr;

use crate::sql::Name;

/// A name with `*` for any run of characters; compared exactly otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub Box<str>);

/// A table or function, with or without its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    /// The schema must be written so in the statement; None: any, or none.
    pub schema: Option<Pattern>,
    /// The table or function.
    pub name: Pattern,
}

/// A key of a comment, and what its value must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPattern {
    /// The key, exactly.
    pub key: Box<str>,
    /// Its value.
    pub value: Pattern,
}

/// Addresses that begin alike: `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address; bits beyond the prefix are zero.
    pub address: IpAddr,
    /// How many bits must agree.
    pub prefix: u8,
}

/// A part of the day in minutes since midnight UTC, from `start` up to and without `end`; it may span midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// Its first minute.
    pub start: u16,
    /// The first minute after it.
    pub end: u16,
}

/// Minutes of a day.
pub const MINUTES_OF_A_DAY: u16 = 24 * 60;

impl Pattern {
    /// `*` stands for any run of characters, also an empty one.
    pub fn matches(&self, name: &str) -> bool {
        let mut pieces = self.0.split('*');
        let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let mut pieces = pieces.peekable();
        if pieces.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                return rest.ends_with(piece);
            }
            match rest.find(piece) {
                Some(at) => rest = rest.get(at + piece.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        true
    }

    /// Matches every name that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        // A star of `other` can only be taken up by one of ours, which then takes whatever stands for it.
        self.matches(&other.0)
    }
}

impl NamePattern {
    /// Whether the name, as it is written, is one of these.
    pub fn matches(&self, name: &Name) -> bool {
        self.name.matches(&name.name)
            && self.schema.as_ref().is_none_or(|schema| name.schema.as_ref().is_some_and(|s| schema.matches(s)))
    }

    /// Matches every name that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        let schema = self.schema.as_ref();
        self.name.covers(&other.name)
            && schema.is_none_or(|wide| other.schema.as_ref().is_some_and(|schema| wide.covers(schema)))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(out, "{}.", schema.0)?;
        }
        out.write_str(&self.name.0)
    }
}

impl TagPattern {
    /// Matches every tag that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        self.key == other.key && self.value.covers(&other.value)
    }
}

impl Network {
    /// None if the prefix is longer than an address. An IPv4 network that is written as an IPv6 one is meant as the former.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        if let (IpAddr::V4(address), 96..=128, true) = (address.to_canonical(), prefix, address.is_ipv6()) {
            return Self::new(address.into(), prefix - 96);
        }
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= longest).then(|| Self { address: masked(address, prefix), prefix })
    }

    /// Whether the address is one of these. An IPv4 address that comes as an IPv6 one is meant as the former.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }

    /// Contains every address that `other` contains.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

impl Hours {
    /// Whether the minute of the day is in it.
    pub fn contains(self, minute: u16) -> bool {
        if self.start < self.end {
            (self.start..self.end).contains(&minute)
        } else {
            minute >= self.start || minute < self.end
        }
    }

    /// Contains every minute that `other` contains.
    pub fn covers(&self, other: &Self) -> bool {
        (0..MINUTES_OF_A_DAY).all(|minute| !other.contains(minute) || self.contains(minute))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        let matches = |pattern: &str, name| Pattern(pattern.into()).matches(name);
        assert!(matches("orders", "orders"));
        assert!(!matches("orders", "orders2"));
        assert!(matches("report*", "report_daily"));
        assert!(matches("*_log", "audit_log"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(!matches("a*b*c", "a-c"));
        assert!(!matches("ab*ba", "aba"));
        assert!(matches("*", ""));
    }

    #[test]
    fn a_name_pattern_covers_its_own_in_every_schema_it_allows() {
        let table = |schema: Option<&str>, name: &str| NamePattern {
            schema: schema.map(|schema| Pattern(schema.into())),
            name: Pattern(name.into()),
        };
        assert!(table(None, "audit*").covers(&table(Some("log"), "audit_2024")));
        assert!(!table(Some("log"), "audit").covers(&table(None, "audit")));
        assert!(table(Some("l*"), "audit").covers(&table(Some("log"), "audit")));
    }

    #[test]
    fn a_network_contains_what_begins_like_it() {
        let network = |address: &str, prefix| Network::new(address.parse().unwrap(), prefix).unwrap();
        let ten = network("10.1.2.3", 8);
        assert!(ten.contains("10.200.0.1".parse().unwrap()) && ten.contains("::ffff:10.0.0.1".parse().unwrap()));
        let mapped = Network::new("::ffff:10.9.8.7".parse().unwrap(), 104).unwrap();
        assert_eq!(mapped, Network::new("10.0.0.0".parse().unwrap(), 8).unwrap());
        assert!(!ten.contains("11.0.0.1".parse().unwrap()) && !ten.contains("::1".parse().unwrap()));
        assert!(network("0.0.0.0", 0).contains("255.1.1.1".parse().unwrap()));
        assert!(network("fe80::", 10).contains("fe80::1".parse().unwrap()));
        assert!(ten.covers(&network("10.7.0.0", 16)) && !network("10.7.0.0", 16).covers(&ten));
        assert_eq!(Network::new("10.0.0.0".parse().unwrap(), 33), None);
    }

    #[test]
    fn hours_may_span_midnight() {
        let night = Hours { start: 22 * 60, end: 6 * 60 };
        assert!(night.contains(23 * 60) && night.contains(0) && !night.contains(6 * 60));
        let small_hours = Hours { start: 0, end: 60 };
        assert!(!small_hours.contains(60) && night.covers(&small_hours) && !small_hours.covers(&night));
    }
}
