//! The conditions of a rule: what it matches on.

use std::net::IpAddr;

use regex::Regex;

use crate::routing::rules::{Conditions, Hours, MINUTES_OF_A_DAY, NamePattern, Network, Pattern, TagPattern};
use crate::sql::Kind;

use super::document::{Item, Table, nearest};
use super::name;

/// The conditions of a rule; None after a problem.
pub(super) fn read(table: &Table<'_>) -> Option<Conditions> {
    // All are read before any is given up, so that every problem is found.
    let users = patterns(table, "user", Blank::Refused);
    let databases = patterns(table, "database", Blank::Refused);
    let application_names = patterns(table, "application_name", Blank::Meant);
    let addresses = values(table, "address", network);
    let kinds = values(table, "kind", kind);
    let tables = values(table, "table", name_pattern);
    let functions = values(table, "function", name_pattern);
    let tags = values(table, "tag", |item| Some(TagPattern { key: "tag".into(), value: Pattern(item.text()?.into()) }));
    let comments = values(table, "comment", comment);
    let unfiltered = table.get("where").map_or(Some(false), |item| no_where(&item));
    let fingerprints = values(table, "fingerprint", fingerprint);
    let text = table.get("text").map(|item| regex(&item)).transpose();
    let hours = values(table, "time", hours);
    let in_transaction = table.get("transaction").map(|item| item.flag().ok_or(())).transpose();
    Some(Conditions {
        users: users?,
        databases: databases?,
        application_names: application_names?,
        addresses: addresses?,
        kinds: kinds?,
        tables: tables?,
        functions: functions?,
        tags: tags?,
        comments: comments?,
        unfiltered: unfiltered?,
        fingerprints: fingerprints?,
        text: text.ok()?,
        hours: hours?,
        in_transaction: in_transaction.ok()?,
    })
}

/// Whether an empty text is a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blank {
    Meant,
    Refused,
}

fn patterns(table: &Table<'_>, key: &'static str, blank: Blank) -> Option<Vec<Pattern>> {
    values(table, key, |item| {
        let text = item.text()?;
        if text.is_empty() && blank == Blank::Refused {
            item.problem("an empty name matches nothing", None);
            return None;
        }
        Some(Pattern(text.into()))
    })
}

/// The values of a condition, none if it is not written; None after a problem.
fn values<T>(table: &Table<'_>, key: &'static str, read: impl Fn(&Item<'_>) -> Option<T>) -> Option<Vec<T>> {
    let Some(condition) = table.get(key) else { return Some(Vec::new()) };
    let items = condition.one_or_list();
    if items.is_empty() {
        condition.problem("the list is empty: leave it out to match every statement", None);
        return None;
    }
    let values: Vec<Option<T>> = items.iter().map(read).collect();
    values.into_iter().collect()
}

fn kind(item: &Item<'_>) -> Option<Kind> {
    let text = item.text()?;
    let kind = Kind::from_name(text);
    if kind.is_none() {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        let hint = nearest(text, &names).unwrap_or_else(|| format!("kinds are: {}", names.join(", ")));
        item.problem(format!("there is no kind of statement {text:?}"), Some(hint));
    }
    kind
}

fn name_pattern(item: &Item<'_>) -> Option<NamePattern> {
    let (schema, name) = name::pattern(item, "\"name\" or \"schema.name\"")?;
    Some(NamePattern { schema: schema.map(|schema| Pattern(schema.into())), name: Pattern(name.into()) })
}

fn regex(item: &Item<'_>) -> Result<Regex, ()> {
    let text = item.text().ok_or(())?;
    Regex::new(text).map_err(|error| {
        let (byte, what) = syntax_error(text).unwrap_or_else(|| (0, error.to_string()));
        item.problem_at(byte, format!("not a regular expression: {what}"), None);
    })
}

/// Where and why a regular expression is none; None if only its compiled size is wrong.
fn syntax_error(text: &str) -> Option<(usize, String)> {
    match regex_syntax::parse(text).err()? {
        regex_syntax::Error::Parse(error) => Some((error.span().start.offset, error.kind().to_string())),
        regex_syntax::Error::Translate(error) => Some((error.span().start.offset, error.kind().to_string())),
        _ => None,
    }
}

/// `10.0.0.0/8`, or one address.
fn network(item: &Item<'_>) -> Option<Network> {
    let text = item.text()?;
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let address = address.parse::<IpAddr>().ok();
    let prefix = match (prefix, address) {
        ("", Some(address)) if !text.contains('/') => Some(if address.is_ipv4() { 32 } else { 128 }),
        (prefix, _) => prefix.parse().ok(),
    };
    let network = address.zip(prefix).and_then(|(address, prefix)| Network::new(address, prefix));
    if network.is_none() {
        item.wrong("an address or a network as in \"10.0.0.0/8\"", None);
    }
    network
}

/// `key=value`, as sqlcommenter writes a pair in a comment.
fn comment(item: &Item<'_>) -> Option<TagPattern> {
    let pair = item.text()?.split_once('=').filter(|(key, _)| !key.is_empty());
    if pair.is_none() {
        item.wrong("\"key=value\" as in \"route=/reports/*\"", None);
    }
    pair.map(|(key, value)| TagPattern { key: key.into(), value: Pattern(value.into()) })
}

fn no_where(item: &Item<'_>) -> Option<bool> {
    match item.flag()? {
        false => Some(true),
        true => {
            item.problem("only where = false is a condition: an UPDATE or DELETE that has no WHERE", None);
            None
        }
    }
}

/// Sixteen hexadecimal digits.
fn fingerprint(item: &Item<'_>) -> Option<u64> {
    const DIGITS: usize = 16;
    let text = item.text()?;
    let print = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == DIGITS && !text.starts_with('+'));
    if print.is_none() {
        item.wrong("a fingerprint: 16 hexadecimal digits", Some("`trunkline explain` shows it".to_owned()));
    }
    print
}

/// `22:00-06:00`, in UTC.
fn hours(item: &Item<'_>) -> Option<Hours> {
    let text = item.text()?;
    let hours = text.split_once('-').and_then(|(start, end)| Some(Hours { start: minute(start)?, end: minute(end)? }));
    let hours = hours.filter(|hours| hours.start < MINUTES_OF_A_DAY);
    match hours {
        None => item.wrong("a part of the day in UTC as in \"22:00-06:00\"", None),
        Some(hours) if hours.start == hours.end => {
            item.problem("it begins where it ends: it is never, or always", None);
            return None;
        }
        Some(_) => {}
    }
    hours
}

/// Minutes since midnight; 24:00 is the end of the day.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let is_clock =
        hour.len() == 2 && minute.len() == 2 && (hour.bytes().chain(minute.bytes())).all(|b| b.is_ascii_digit());
    let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
    let minutes = hour * 60 + minute;
    (is_clock && minute < 60 && minutes <= MINUTES_OF_A_DAY).then_some(minutes)
}
