//! What the client has been told of the settings that a server reports by itself, and what its server connections report.

use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use hashbrown::HashSet;
use parking_lot::Mutex;

use super::known::Known;
use super::{Held, Reply, Session};
use crate::wire::backend;

/// A setting that no server reports, and that we ask for at login beside those that it does: a role or a database may
/// have another value than PostgreSQL itself.
pub const NEVER_REPORTED: &str = "default_transaction_isolation";

/// The names of all that is told of a server at a login, of those that it reports.
pub fn names_told<'a>(reported: impl Iterator<Item = &'a str>) -> Vec<Arc<str>> {
    reported.chain([NEVER_REPORTED]).map(Into::into).collect()
}

/// Names and values of the ParameterStatus messages of a login, and of [`NEVER_REPORTED`]; shared by all who were told the
/// same. A pointer of one word, for thousands of parked sessions have it.
pub type ReportedAtLogin = Arc<Vec<(Box<str>, Box<str>)>>;

/// What the client has been told, at login and since.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    at_login: Option<ReportedAtLogin>,
    since: Option<ReportedAtLogin>,
    /// What it was when the session was idle last, where something has been told since.
    when_idle: Option<ReportedAtLogin>,
    /// What a server connection to the primary reports that reports the same.
    same_on_primary: Reports,
    /// The same of a replica.
    same_on_replica: Reports,
}

/// What a server connection reports now; of all that report the same there is one copy, so that they are equal at a glance.
#[derive(Clone, Debug, Default)]
pub struct Reports(Option<ReportedAtLogin>);

impl Reported {
    /// What a client is told at login.
    pub fn new(at_login: ReportedAtLogin) -> Self {
        Self { at_login: Some(Arc::clone(&at_login)), since: Some(at_login), ..Self::default() }
    }

    /// What the client was told at login, if it has been told nothing since.
    pub fn if_unchanged(&self) -> Option<&ReportedAtLogin> {
        let (at_login, since) = self.at_login.as_ref().zip(self.since.as_ref())?;
        Arc::ptr_eq(at_login, since).then_some(at_login)
    }

    /// The value of this setting.
    pub fn get(&self, name: &str) -> Option<&str> {
        value(self.since.as_ref(), name)
    }

    /// The value of this setting at login.
    pub fn at_login(&self, name: &str) -> Option<&str> {
        value(self.at_login.as_ref(), name)
    }

    /// The node has reported another value: as long as the session is not idle, its transaction may be what has set it.
    pub fn change(&mut self, name: &str, value: &str) {
        if self.get(name) == Some(value) {
            return;
        }
        if self.when_idle.is_none() {
            self.when_idle.clone_from(&self.since);
        }
        self.put(name, value);
    }

    /// The server has another value, whatever becomes of a transaction: the client would have been told so at its login, too,
    /// unless it has set its own since.
    pub fn correct(&mut self, name: &str, value: &str) {
        if self.get(name) == self.at_login(name) {
            self.at_login = Some(one_copy(with(self.at_login.as_deref(), name, value)));
        }
        self.put(name, value);
    }

    fn put(&mut self, name: &str, value: &str) {
        let changed = with(self.since.as_deref(), name, value);
        self.since = match &self.at_login {
            Some(at_login) if **at_login == changed => Some(Arc::clone(at_login)),
            _ => Some(one_copy(changed)),
        };
        self.is_other_than_reported();
    }

    /// No transaction is open that could take back what has been reported.
    #[inline]
    pub fn settle(&mut self) {
        if self.when_idle.is_some() {
            self.when_idle = None;
        }
    }

    /// Something has been told since the session was idle last: the end of its transaction may take it back.
    pub fn is_unsettled(&self) -> bool {
        self.when_idle.is_some()
    }

    /// The transaction is undone, and no node says so: it is what it was before. Answers what the client has been told
    /// otherwise.
    pub fn take_back(&mut self) -> Vec<(Box<str>, Box<str>)> {
        let Some(before) = self.when_idle.take() else { return Vec::new() };
        let undone = before.iter().filter(|(name, value)| self.get(name) != Some(value)).cloned().collect();
        self.since = Some(before);
        self.is_other_than_reported();
        undone
    }

    /// What server connections report must be looked at again.
    fn is_other_than_reported(&mut self) {
        (self.same_on_primary, self.same_on_replica) = (Reports::default(), Reports::default());
    }

    /// What is known to be the same where the session is served.
    #[inline]
    fn same_on(&self, held: Held) -> &Reports {
        if held == Held::Replica { &self.same_on_replica } else { &self.same_on_primary }
    }

    /// They are the same there.
    fn is_same_on(&mut self, held: Held, reports: Reports) {
        match held {
            Held::Replica => self.same_on_replica = reports,
            _ => self.same_on_primary = reports,
        }
    }
}

impl Reports {
    /// What was reported at the login of a server connection.
    pub fn new(at_login: &[(Box<str>, Box<str>)]) -> Self {
        Self(Some(one_copy(at_login.iter().filter(|(name, _)| is_of_session(name)).cloned().collect())))
    }

    /// Another value has been reported.
    pub fn change(&mut self, name: &str, value: &str) {
        if is_of_session(name) && self::value(self.0.as_ref(), name) != Some(value) {
            self.0 = Some(one_copy(with(self.0.as_deref(), name, value)));
        }
    }

    /// What it reports of this cannot be read.
    pub fn forget(&mut self, name: &str) {
        if value(self.0.as_ref(), name).is_some() {
            let others = self.iter().filter(|(known, _)| **known != *name).cloned().collect();
            self.0 = Some(one_copy(others));
        }
    }

    /// They are the same copy.
    #[inline]
    fn is(&self, other: &Self) -> bool {
        self.0.as_ref().map(Arc::as_ptr) == other.0.as_ref().map(Arc::as_ptr)
    }

    fn iter(&self) -> impl Iterator<Item = &(Box<str>, Box<str>)> {
        self.0.iter().flat_map(|all| all.iter())
    }
}

impl Known {
    /// A ParameterStatus has come that the client is not to be shown.
    #[cold]
    pub fn hears(&mut self, body: &[u8]) -> Reply {
        if let Ok((name, value)) = backend::parameter_status_fields(body)
            && let Ok(name) = std::str::from_utf8(name)
        {
            self.reports_now(name, std::str::from_utf8(value).ok());
        }
        Reply::Hide
    }

    /// The server connection reports this; None: in letters of another encoding.
    pub fn reports_now(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.reports.change(name, value),
            None => self.reports.forget(name),
        }
    }
}

impl Session {
    /// The client has been told what this server connection reports. One look, where it has been found out before.
    #[inline]
    pub fn is_told(&self, known: &Known, held: Held) -> bool {
        self.reported.same_on(held).is(&known.reports)
    }

    /// What this server connection reports, whose settings are the session's, is in force from now on, and the client is told
    /// where it has been told otherwise: by another connection, of another node, or before its node was configured anew.
    /// Answers whether what the client sends may be read otherwise than before.
    #[cold]
    pub fn goes_by(&mut self, known: &mut Known, held: Held, out: &mut BytesMut) -> bool {
        if self.reported.same_on(held).0 == known.reports.0 {
            // Two copies of the same, of which one is enough.
            known.reports = self.reported.same_on(held).clone();
            return false;
        }
        let is_new = |(name, value): &&(Box<str>, Box<str>)| {
            self.reported.get(name) != Some(value) && !(held == Held::Replica && is_of_replica(name, value))
        };
        let news: Vec<_> = known.reports.iter().filter(is_new).cloned().collect();
        for (name, value) in &news {
            backend::put_parameter_status(out, name, value);
            self.reported.correct(name, value);
        }
        self.reported.is_same_on(held, known.reports.clone());
        if news.is_empty() {
            return false;
        }
        let before = (self.reading, self.dialect, self.defaults);
        self.read_anew();
        before != (self.reading, self.dialect, self.defaults)
    }
}

/// It tells of the session rather than of the node that serves it: that is not the client's business, or does not change.
fn is_of_session(name: &str) -> bool {
    !matches!(name, "in_hot_standby" | "server_version")
}

/// A replica may be configured so, which does not count for transactions that it does not serve.
fn is_of_replica(name: &str, value: &str) -> bool {
    name == "default_transaction_read_only" && value == "on"
}

/// The copy that all have who report this.
fn one_copy(reported: Vec<(Box<str>, Box<str>)>) -> ReportedAtLogin {
    static COPIES: LazyLock<Mutex<HashSet<ReportedAtLogin>>> = LazyLock::new(Mutex::default);
    let mut copies = COPIES.lock();
    if let Some(copy) = copies.get(&reported) {
        return Arc::clone(copy);
    }
    if copies.len() >= MOST_COPIES {
        copies.clear();
    }
    let copy = Arc::new(reported);
    copies.insert(Arc::clone(&copy));
    copy
}

/// Beyond, all are forgotten, and those who have them compare once more. A copy has one or two kilobytes, and most servers
/// report a handful: more where each client sets a name of its own.
const MOST_COPIES: usize = 1024;

/// These with this value, which stands where the one before stood.
fn with(reported: Option<&Vec<(Box<str>, Box<str>)>>, name: &str, value: &str) -> Vec<(Box<str>, Box<str>)> {
    let mut changed = reported.cloned().unwrap_or_default();
    match changed.iter_mut().find(|(there, _)| **there == *name) {
        Some((_, place)) => *place = value.into(),
        None => changed.push((name.into(), value.into())),
    }
    changed
}

fn value<'a>(reported: Option<&'a ReportedAtLogin>, name: &str) -> Option<&'a str> {
    reported?.iter().find(|(reported, _)| **reported == *name).map(|(_, value)| &**value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::story::Story;
    use crate::wire::{Header, frame};

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
        pairs.iter().map(|&(name, value)| (name.into(), value.into())).collect()
    }

    const USUAL: [(&str, &str); 4] = [
        ("application_name", ""),
        ("DateStyle", "ISO, MDY"),
        ("default_transaction_read_only", "off"),
        ("in_hot_standby", "off"),
    ];

    /// A client that has been told the usual.
    fn told() -> Story {
        let mut story = Story::begin();
        story.session.told(Arc::new(pairs(&USUAL)));
        story
    }

    /// A server connection that reports the usual but for this.
    fn reports(name: &str, value: &str) -> Known {
        let mut known = Known::of(1, &pairs(&USUAL));
        known.reports.change(name, value);
        known
    }

    /// What the client is told, as `name=value`, and whether what it sends may be read otherwise.
    fn goes_by(story: &mut Story, known: &Known, held: Held) -> (Vec<String>, bool) {
        let reports = known.reports.clone();
        let mut known = Known::default();
        known.reports = reports;
        let (mut out, mut told) = (BytesMut::new(), Vec::new());
        let is_read_otherwise = story.session.goes_by(&mut known, held, &mut out);
        assert!(story.session.is_told(&known, held), "it is found out once");
        let mut rest = &out[..];
        while let Some(header) = Header::peek(rest).unwrap() {
            let (name, value) = backend::parameter_status_fields(&rest[frame::HEADER..header.size]).unwrap();
            told.push(format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
            rest = &rest[header.size..];
        }
        (told, is_read_otherwise)
    }

    #[test]
    fn what_reports_the_same_is_one_copy_also_when_it_has_reported_otherwise_between() {
        let (one, mut other) = (reports("in_hot_standby", "on"), reports("DateStyle", "German, DMY"));
        assert!(!one.reports.is(&other.reports));
        other.hears(b"DateStyle\0ISO, MDY\0");
        assert!(one.reports.is(&other.reports));
    }

    #[test]
    fn of_what_cannot_be_read_the_client_is_told_nothing() {
        let (mut story, mut known) = (told(), reports("DateStyle", "German, DMY"));
        known.hears(b"application_name\0caf\xe9\0");
        assert_eq!(goes_by(&mut story, &known, Held::Primary), (vec!["DateStyle=German, DMY".into()], true));
    }

    #[test]
    fn two_copies_of_the_same_become_one() {
        let (mut story, mut known) = (told(), reports("in_hot_standby", "on"));
        goes_by(&mut story, &known, Held::Primary);
        known.reports = Reports(known.reports.0.map(|all| Arc::new((*all).clone())));
        assert!(!story.session.is_told(&known, Held::Primary));
        assert!(!story.session.goes_by(&mut known, Held::Primary, &mut BytesMut::new()));
        assert!(story.session.is_told(&known, Held::Primary));
    }

    #[test]
    fn the_client_is_told_what_differs_once_and_whether_that_decides_how_it_is_read() {
        let mut story = told();
        let usual = reports("in_hot_standby", "on");
        assert!(!story.session.is_told(&usual, Held::Primary), "nobody has looked");
        assert_eq!(goes_by(&mut story, &usual, Held::Primary), (vec![], false));
        let named = reports("application_name", "a");
        assert_eq!(goes_by(&mut story, &named, Held::Primary), (vec!["application_name=a".into()], false));
        let german = reports("DateStyle", "German, DMY");
        let told = vec!["application_name=".into(), "DateStyle=German, DMY".into()];
        assert_eq!(goes_by(&mut story, &german, Held::Replica), (told, true));
        assert!(!story.session.is_told(&usual, Held::Primary), "it has been told otherwise since");
        assert_eq!(goes_by(&mut story, &usual, Held::Primary), (vec!["DateStyle=ISO, MDY".into()], true));
        assert!(story.session.reported.if_unchanged().is_some(), "it takes no more room than at its login");
    }

    #[test]
    fn a_replica_makes_no_session_read_only_and_ends_that_one_is() {
        let (mut story, name) = (told(), "default_transaction_read_only");
        let (on, off) = (reports(name, "on"), reports(name, "off"));
        assert_eq!(goes_by(&mut story, &on, Held::Replica), (vec![], false));
        assert_eq!(goes_by(&mut story, &on, Held::Primary), (vec![format!("{name}=on")], true));
        assert_eq!(goes_by(&mut story, &off, Held::Replica), (vec![format!("{name}=off")], true));
    }

    #[test]
    fn a_transaction_that_moves_to_the_primary_writes_where_one_that_begins_there_would() {
        // By itself as the server has it, which before 14 does not tell.
        for (text, access) in [("begin", "READ COMMITTED"), ("begin read only", "READ ONLY")] {
            let (mut story, name) = (told(), "default_transaction_read_only");
            goes_by(&mut story, &reports(name, "on"), Held::Primary);
            story.send(b'Q', format!("{text}\0").as_bytes());
            story.hear(b'C', b"BEGIN\0");
            story.hear(b'Z', b"T");
            story.session.begin_anew();
            goes_by(&mut story, &reports(name, "off"), Held::Primary);
            let begins = story.session.beginning(Held::Primary).unwrap();
            assert!(begins.ends_with(access), "{text}: {begins}");
        }
    }
}
