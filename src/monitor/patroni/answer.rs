//! What Patroni's `/cluster` answers, and how several answers become one word. Fields of Patroni 2 to 4.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// One answer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Answer {
    #[serde(default, deserialize_with = "those_understood")]
    pub(super) members: Vec<Member>,
    #[serde(default)]
    pub(super) pause: bool,
    pub(super) scheduled_switchover: Option<Scheduled>,
}

/// A member as Patroni lists it. What is not named here is better known from the node itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    #[serde(default)]
    role: String,
    api_url: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    /// As they stand in the member's own configuration, whatever that is. Only `noloadbalance` matters here: `nostream` and
    /// `replicatefrom` show in what a node says itself.
    #[serde(default)]
    tags: Value,
}

/// A switchover that an operator has ordered for later.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Scheduled {
    pub(super) at: String,
}

/// What a member leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// The cluster, as its primary.
    Cluster,
    /// A standby cluster.
    StandbyCluster,
    /// Nothing.
    Nothing,
}

impl Answer {
    /// Reads a body; the error says what is wrong with it.
    pub(super) fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// Who leads, by its own name.
    pub(super) fn leader(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.leads() != Leads::Nothing)
    }
}

impl Member {
    /// `host:port` of its PostgreSQL.
    pub(super) fn address(&self) -> Option<String> {
        let host = self.host.as_deref().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        let port = self.port.unwrap_or(POSTGRESQL_PORT);
        Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    }

    /// `host:port` of its REST API, and whether it is asked over TLS.
    pub(super) fn api(&self) -> Option<(&str, bool)> {
        let (scheme, rest) = self.api_url.as_deref()?.split_once("://")?;
        let is_https = scheme == "https";
        let address = rest.split('/').next().filter(|address| address.contains(':'))?;
        (is_https || scheme == "http").then_some((address, is_https))
    }

    /// `master` is what Patroni said before version 4 in some answers.
    pub(super) fn leads(&self) -> Leads {
        match self.role.as_str() {
            "leader" | "master" | "primary" => Leads::Cluster,
            "standby_leader" => Leads::StandbyCluster,
            _ => Leads::Nothing,
        }
    }

    /// An operator wants no reads on it.
    pub(super) fn is_without_reads(&self) -> bool {
        self.tags.get("noloadbalance").is_some_and(is_true)
    }
}

impl Scheduled {
    /// When, in seconds since 1970.
    pub(super) fn at_seconds(&self) -> Option<f64> {
        seconds_since_1970(&self.at)
    }
}

/// The members that are understood: one that is not costs nobody else its place. Where none is, the answer is wrong.
fn those_understood<'de, D: Deserializer<'de>>(answer: D) -> Result<Vec<Member>, D::Error> {
    let mut understood = Vec::new();
    let mut problem = None;
    for listed in Vec::<Value>::deserialize(answer)? {
        match Member::deserialize(listed) {
            Ok(member) => understood.push(member),
            Err(error) => problem = Some(error),
        }
    }
    match problem {
        Some(problem) if understood.is_empty() => Err(D::Error::custom(problem)),
        _ => Ok(understood),
    }
}

/// By Python's rules, as Patroni itself reads a tag: the text "false" is true.
fn is_true(tag: &Value) -> bool {
    match tag {
        Value::Null => false,
        Value::Bool(is_set) => *is_set,
        Value::Number(number) => number.as_f64().is_some_and(|number| number.abs() > 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
    }
}

/// The answer that most members give, by who they say leads; None if there is no such answer. One without members is no
/// answer: so Patroni says right after its store was away.
pub(super) fn agreed(answers: &[Answer]) -> Option<&Answer> {
    let answers: Vec<&Answer> = answers.iter().filter(|answer| !answer.members.is_empty()).collect();
    let leader = |answer: &Answer| answer.leader().map(|member| member.name.clone());
    let votes = |candidate: &Answer| answers.iter().filter(|answer| leader(answer) == leader(candidate)).count();
    let best = answers.iter().copied().max_by_key(|answer| votes(answer))?;
    let is_contested = answers.iter().any(|other| leader(other) != leader(best) && votes(other) == votes(best));
    (!is_contested).then_some(best)
}

/// A moment as Patroni writes it: `2026-01-31T12:30:00.5+02:00`.
fn seconds_since_1970(text: &str) -> Option<f64> {
    let (date, time) = text.split_once(['T', ' '])?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let zone_at = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = time.split_at_checked(zone_at)?;
    let mut clock = clock.splitn(3, ':');
    let (hours, minutes) = (clock.next()?.parse::<i64>().ok()?, clock.next()?.parse::<i64>().ok()?);
    let seconds: f64 = clock.next().unwrap_or("0").parse().ok()?;
    let days = days_since_1970(year, month, day)?;
    let whole = i32::try_from(days).ok().map(f64::from)? * 86_400.0;
    let of_day = i32::try_from(hours * 3600 + minutes * 60).ok().map(f64::from)?;
    Some(whole + of_day + seconds - offset_seconds(zone)?)
}

/// The seconds by which a zone is ahead.
fn offset_seconds(zone: &str) -> Option<f64> {
    let (sign, rest) = match zone.split_at_checked(1) {
        None | Some(("Z", _)) => return Some(0.0),
        Some(("+", rest)) => (1.0, rest),
        Some((_, rest)) => (-1.0, rest),
    };
    let (hours, minutes) = rest.split_once(':').unwrap_or((rest, "0"));
    Some(sign * (f64::from(hours.parse::<u16>().ok()?) * 3600.0 + f64::from(minutes.parse::<u16>().ok()?) * 60.0))
}

/// Days of the Gregorian calendar, counted in years that begin in March, so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    Some(365 * year + year / 4 - year / 100 + year / 400 + day_of_year - DAYS_TO_1970)
}

/// From the first of March of year 0 to the first of January 1970.
const DAYS_TO_1970: i64 = 719_468;
const POSTGRESQL_PORT: u16 = 5432;

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION_3: &[u8] = br#"{"members": [
        {"name": "pg0", "role": "leader", "state": "running", "api_url": "http://127.0.0.1:8008/patroni",
         "host": "127.0.0.1", "port": 5432, "timeline": 2, "tags": {"clonefrom": true}},
        {"name": "pg1", "role": "replica", "state": "streaming", "api_url": "http://127.0.0.1:8009/patroni",
         "host": "127.0.0.1", "port": 5433, "timeline": 2, "lag": 0, "tags": {"noloadbalance": true, "replicatefrom": "pg0"}},
        {"name": "pg2", "role": "sync_standby", "state": "stopped", "host": "DB3.example", "lag": "unknown"}],
        "pause": true, "scheduled_switchover": {"at": "2026-01-31T12:30:00+00:00", "from": "pg0"}}"#;

    #[test]
    fn an_answer_tells_leader_addresses_tags_pause_and_what_is_scheduled() {
        let answer = Answer::read(VERSION_3).unwrap();
        assert_eq!(answer.leader().unwrap().name, "pg0");
        let addresses: Vec<_> = answer.members.iter().map(|member| member.address().unwrap()).collect();
        assert_eq!(addresses, ["127.0.0.1:5432", "127.0.0.1:5433", "db3.example:5432"]);
        let without: Vec<_> = answer.members.iter().map(Member::is_without_reads).collect();
        assert_eq!(without, [false, true, false]);
        assert_eq!(answer.members[1].api(), Some(("127.0.0.1:8009", false)));
        assert!(answer.pause);
        assert_eq!(answer.scheduled_switchover.unwrap().at_seconds(), Some(1_769_862_600.0));
    }

    #[test]
    fn what_is_not_known_does_no_harm_and_what_is_wrong_is_an_error() {
        let newer = br#"{"members": [{"name": "a", "role": "quorum_standby", "receive_lag": "unknown", "new": [1]}],
            "scope": "main", "new": {}}"#;
        let answer = Answer::read(newer).unwrap();
        assert_eq!((answer.leader(), answer.members[0].address()), (None, None));
        assert!(Answer::read(b"{\"members\": 5}").is_err());
        assert!(Answer::read(b"<html>").is_err());
    }

    #[test]
    fn a_tag_is_true_where_patroni_takes_it_for_true() {
        let is_without_reads = |tags: &str| {
            let body = format!(r#"{{"members": [{{"name": "a", "role": "replica", "tags": {tags}}}]}}"#);
            Answer::read(body.as_bytes()).unwrap().members[0].is_without_reads()
        };
        for value in ["true", "1", "0.5", r#""true""#, r#""false""#, "[0]"] {
            assert!(is_without_reads(&format!(r#"{{"noloadbalance": {value}}}"#)), "{value}");
        }
        for value in ["false", "0", "0.0", "null", r#""""#, "[]", "{}"] {
            assert!(!is_without_reads(&format!(r#"{{"noloadbalance": {value}}}"#)), "{value}");
        }
        for tags in ["null", "{}", "[]", "5"] {
            assert!(!is_without_reads(tags), "{tags}");
        }
    }

    #[test]
    fn a_member_that_is_not_understood_costs_no_other_its_place() {
        let strange = br#"{"members": [{"name": "a", "role": "leader"}, {"name": "b", "port": "high"}, 7]}"#;
        let answer = Answer::read(strange).unwrap();
        assert_eq!((answer.members.len(), &*answer.leader().unwrap().name), (1, "a"));
        assert!(Answer::read(br#"{"members": [{"name": "b", "port": "high"}]}"#).is_err());
        assert_eq!(Answer::read(br#"{"members": []}"#).unwrap(), Answer::default());
    }

    #[test]
    fn a_standby_leader_leads_no_primary() {
        let answer = Answer::read(br#"{"members": [{"name": "a", "role": "standby_leader"}]}"#).unwrap();
        assert_eq!(answer.leader().unwrap().leads(), Leads::StandbyCluster);
    }

    #[test]
    fn a_member_that_says_otherwise_is_outvoted_and_a_tie_says_nothing() {
        let says = |leader: &str| Answer {
            members: vec![Member { name: leader.to_owned(), role: "leader".to_owned(), ..Member::default() }],
            ..Answer::default()
        };
        let leads = |answers: &[Answer]| agreed(answers).map(|answer| answer.leader().unwrap().name.clone());
        assert_eq!(leads(&[says("a"), says("b"), says("b")]), Some("b".to_owned()));
        assert_eq!(leads(&[says("a"), says("b")]), None);
        assert_eq!(leads(&[Answer::default(), says("a")]), Some("a".to_owned()));
        assert_eq!(leads(&[Answer::default()]), None);
    }

    #[test]
    fn moments_are_read_with_their_zone() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0.0),
            ("2000-02-29T12:00:00.25+00:00", 951_825_600.25),
            ("2026-01-31T14:30:00+02:00", 1_769_862_600.0),
            ("2026-01-31 07:00:00-05:30", 1_769_862_600.0),
        ] {
            assert_eq!(seconds_since_1970(text), Some(seconds), "{text}");
        }
        for text in ["", "tomorrow", "2026-13-01T00:00:00Z", "2026-01-31T"] {
            assert_eq!(seconds_since_1970(text), None, "{text}");
        }
    }
}
