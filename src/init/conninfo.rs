//! What `primary_conninfo` says of where a standby's upstream is. Its other words, a password among them, are dropped.

use std::collections::BTreeMap;

use super::place::{Place, USUAL_PORT, without_brackets};
use super::url;

/// Every host that it names, in its order; none where it is not understood.
pub(super) fn places(text: &str) -> Vec<Place> {
    let keywords = match url::keywords(text) {
        Ok(keywords) => Some(keywords),
        Err(_) => keywords(text),
    };
    let Some(keywords) = keywords else { return Vec::new() };
    let hosts = keywords.get("host").or_else(|| keywords.get("hostaddr"));
    let ports = keywords.get("port").map(String::as_str).unwrap_or_default();
    hosts.and_then(|hosts| places_of(hosts, ports).ok()).unwrap_or_default()
}

/// Hosts and ports as lists with commas: one port is that of all hosts, and none is the usual one. The error says which of
/// the two is wrong.
pub(super) fn places_of(hosts: &str, ports: &str) -> Result<Vec<Place>, WrongPart> {
    let hosts: Vec<&str> = hosts.split(',').map(without_brackets).collect();
    let ports: Vec<u16> = ports.split(',').map(port).collect::<Option<_>>().ok_or(WrongPart::Port)?;
    let port_of = |at: usize| match ports.as_slice() {
        [all] => Some(*all),
        each => each.get(at).copied(),
    };
    if ports.len() > 1 && ports.len() != hosts.len() {
        return Err(WrongPart::Count);
    }
    let place = |(at, host): (usize, &&str)| Place::new(host, port_of(at)?);
    hosts.iter().enumerate().map(place).collect::<Option<_>>().ok_or(WrongPart::Host)
}

/// What is wrong with hosts and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrongPart {
    /// A host.
    Host,
    /// A port.
    Port,
    /// There are several ports, and not one for each host.
    Count,
}

fn port(text: &str) -> Option<u16> {
    if text.is_empty() { Some(USUAL_PORT) } else { text.parse().ok().filter(|port| *port != 0) }
}

/// `name = value` and `name='it\'s'` with spaces between them, as libpq reads them.
fn keywords(text: &str) -> Option<BTreeMap<String, String>> {
    let mut keywords = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, behind) = rest.split_once('=')?;
        let (value, behind) = value(behind.trim_start())?;
        keywords.insert(name.trim_end().to_owned(), value);
        rest = behind.trim_start();
    }
    Some(keywords)
}

/// The value that begins here, and what stands behind it; None where its quote is not closed.
fn value(text: &str) -> Option<(String, &str)> {
    let (text, is_quoted) = text.strip_prefix('\'').map_or((text, false), |rest| (rest, true));
    let mut value = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => value.extend(characters.next()),
            '\'' if is_quoted => return Some((value, characters.as_str())),
            _ if character.is_ascii_whitespace() && !is_quoted => return Some((value, characters.as_str())),
            _ => value.push(character),
        }
    }
    (!is_quoted).then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        places(text).iter().map(Place::to_string).collect()
    }

    #[test]
    fn hosts_are_found_among_quoted_values() {
        assert_eq!(found("host=db1 port=5433 user=replicator password='a b\\' host=no'"), ["db1:5433"]);
        assert_eq!(found("user = 'x'  host = 'db1,db2' "), ["db1:5432", "db2:5432"]);
        assert_eq!(found("host=db1,/run/pg port=1,2"), ["db1:1", "/run/pg:2"]);
        assert_eq!(found("hostaddr=::1"), ["[::1]:5432"]);
        assert_eq!(found("postgres://replicator:x@db1:5433,db2/"), ["db1:5433", "db2:5432"]);
    }

    #[test]
    fn what_is_not_understood_names_nobody() {
        for text in ["", "user=x", "host", "host='db1", "host=db1 port=x", "host=db1,db2 port=1,2,3", "host='a b'"] {
            assert!(found(text).is_empty(), "{text}");
        }
    }
}
