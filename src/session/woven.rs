//! What is put back goes on to what the client came with: RESET leads to what the server connection began with, which
//! for most sessions is something else. So behind it, in the same string or batch, stand SETs of ours, whose answers
//! nobody sees. They are undone where it is undone, and what comes behind meets what PostgreSQL would have it meet.

use bytes::BytesMut;

use super::owed::Owed;
use super::settings::{precedence, sql_to_set};
use super::transaction::Ended;
use super::{Dialect, Session};
use crate::sql::{
    ParseSettings, Part, SessionChange, Statement, TransactionControl, ends_of_statements, is_anybodys, is_identity,
};
use crate::wire::backend::TransactionStatus;
use crate::wire::error_response;
use crate::wire::frontend;

/// What of ours stands in a client's query string: SETs, and what is to be done ahead of it.
#[derive(Debug, Default)]
pub struct Woven {
    /// The first that is answered stands ahead of all.
    is_ahead: bool,
    /// Behind which of its statements they stand, and how many.
    behind: Vec<(usize, usize)>,
    /// How many of them are answered next.
    pending: usize,
    /// Where they begin in the client's own text, and how long they are: both in characters.
    places: Vec<(usize, usize)>,
}

impl Woven {
    /// A statement of ours stands ahead of the client's.
    pub(super) fn stands_ahead(&mut self, text: &str) {
        self.places.insert(0, (0, text.chars().count()));
        (self.is_ahead, self.pending) = (true, 1);
    }

    /// That is not done yet.
    pub(super) fn is_ahead(&self) -> bool {
        self.is_ahead
    }

    /// A statement of the client's is done: what stands behind it is next.
    pub(super) fn stands_behind(&mut self, part: usize) {
        self.pending = self.behind.iter().find(|(behind, _)| *behind == part).map_or(0, |(_, count)| *count);
    }

    /// What is answered now is ours.
    pub(super) fn is_next(&mut self) -> bool {
        let is_ours = self.pending > 0;
        self.pending -= usize::from(is_ours);
        self.is_ahead = false;
        is_ours
    }

    /// None of ours is under way behind what is done.
    pub(super) fn is_done(&self) -> bool {
        self.pending == 0
    }

    /// A position in what was sent, counted from 1, as one in the client's own text.
    fn own_position(&self, position: usize) -> usize {
        let mut own = position;
        for &(begin, length) in &self.places {
            if own > begin {
                own = own.saturating_sub(length).max(begin);
            }
        }
        own
    }
}

impl Session {
    /// The text of a Query with SETs of ours in it, if this statement needs some. DISCARD ALL, which stands alone, goes on
    /// when the session is idle.
    pub(super) fn weave(&self, statement: &Statement, body: &[u8]) -> Option<(String, Woven)> {
        if self.startup.is_empty() || !puts_back(statement) || statement.discards_all() {
            return None;
        }
        // Elsewhere SET LOCAL does nothing.
        let is_block = statement.only().is_none() || self.stands_in_block();
        let manner = self.manner(statement, is_block, self.dialect.encoding_is_utf8);
        let of_part = |part| self.goes_on_behind_part(part, manner);
        let sets: Vec<_> = statement.parts.iter().map(of_part).collect();
        if sets.iter().all(Vec::is_empty) {
            return None;
        }
        let text = std::str::from_utf8(frontend::query_text(body).ok()?).ok()?;
        let Dialect { standard_conforming_strings, encoding_is_utf8 } = self.dialect;
        let settings = ParseSettings { standard_conforming_strings, encoding_is_utf8, ..ParseSettings::default() };
        let ends = ends_of_statements(text, &settings);
        debug_assert_eq!(ends.len(), sets.len(), "each statement of a string has a part");
        let (mut whole, mut woven, mut begin) = (String::with_capacity(text.len() + 64), Woven::default(), 0);
        for (part, (end, sets)) in ends.into_iter().zip(sets).enumerate().filter(|(_, (_, sets))| !sets.is_empty()) {
            whole.push_str(text.get(begin..end)?);
            // On a line of its own: a comment may stand at the end of the string.
            let inserted = format!("\n;{}", sets.join(";"));
            woven.places.push((text.get(..end)?.chars().count(), inserted.chars().count()));
            woven.behind.push((part, sets.len()));
            whole.push_str(&inserted);
            begin = end;
        }
        whole.push_str(text.get(begin..)?);
        Some((whole, woven))
    }

    /// What is to be set behind an Execute of this statement: a batch is a transaction of its own, where SET LOCAL counts.
    pub(super) fn goes_on_behind(&self, statement: &Statement) -> Vec<String> {
        if self.startup.is_empty() || !puts_back(statement) {
            return Vec::new();
        }
        // What stands before it in the batch may have changed the encoding.
        let manner = self.manner(statement, true, false);
        statement.parts.iter().flat_map(|part| self.goes_on_behind_part(part, manner)).collect()
    }

    fn manner(&self, statement: &Statement, is_block: bool, in_utf8: bool) -> Manner {
        let before = self.owed.iter().filter_map(Owed::statement);
        let becomes_somebody_else = before.chain([statement]).any(sets_identity);
        Manner {
            is_block,
            // A database without an encoding takes bytes as they are, and knows no letters.
            in_utf8: in_utf8 || self.reported.get("server_encoding") == Some("SQL_ASCII"),
            by_anybody: becomes_somebody_else || self.may_be_somebody_else(),
        }
    }

    /// The SETs that take what this part puts back on to what the client came with.
    fn goes_on_behind_part(&self, part: &Part, manner: Manner) -> Vec<String> {
        let counts = |change: &&SessionChange| change.puts_back() && (manner.is_block || !change.is_local());
        let goes_on = |change: &SessionChange| {
            let set = if change.is_local() { "SET LOCAL" } else { "SET" };
            self.goes_on(set, |own| change.changes_setting(own), manner)
        };
        part.session.iter().filter(counts).flat_map(goes_on).collect()
    }

    /// The session may act as another role than that of its login.
    pub(super) fn may_be_somebody_else(&self) -> bool {
        let touches_identity = self.touched.iter().any(|name| is_identity(name));
        let acts = touches_identity || self.acts_as_another || self.code_may_act_as_another();
        acts || self.settings.has_identity() || self.startup.has_identity()
    }

    /// What is sent now stands in a transaction block, if all that is under way is done.
    fn stands_in_block(&self) -> bool {
        let control = |statement: &Statement| {
            statement.parts.iter().rev().find_map(|part| match part.transaction {
                TransactionControl::Begin(_) => Some(true),
                TransactionControl::Commit { chain } | TransactionControl::Rollback { chain } => Some(chain),
                TransactionControl::Prepare => Some(false),
                _ => None,
            })
        };
        self.owed.iter().rev().filter_map(Owed::statement).find_map(control).unwrap_or(match self.transaction.ended() {
            Ended::Yes | Ended::Followed => false,
            Ended::Chained => true,
            // A BEGIN may have been answered before its ReadyForQuery.
            Ended::No => self.transaction.status() != TransactionStatus::Idle || self.transaction.modes().is_some(),
        })
    }

    /// What the client came with of what is put back. RESET ALL asks nobody whether they may: what somebody else than who has
    /// logged in may not set is left to when the session is idle.
    fn goes_on(&self, set: &str, is_put_back: impl Fn(&str) -> bool, manner: Manner) -> Vec<String> {
        let may_set = |name: &str| !manner.by_anybody || is_identity(name) || is_anybodys(name);
        let own = self.startup.iter().filter(|(name, _)| is_put_back(name) && may_set(name));
        let mut own: Vec<_> = own.collect();
        own.sort_by_key(|(name, _)| precedence(name));
        own.into_iter().map(|(name, value)| sql_to_set(set, name, value, manner.in_utf8)).collect()
    }

    /// An error or a notice about a Query in which something of ours stands, with the position that it has in the client's own
    /// text.
    pub(super) fn unwoven(&mut self, tag: u8, body: &[u8]) -> Option<BytesMut> {
        let woven = self.owed.woven()?;
        error_response::with_position(tag, body, |position| woven.own_position(position))
    }
}

/// How what is put back goes on.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// It stands in a transaction block.
    is_block: bool,
    /// The server connection takes what it is sent for UTF-8, or for bytes.
    in_utf8: bool,
    /// Whoever the session is then must have the right to set it.
    by_anybody: bool,
}

/// Behind it the session may be somebody else.
fn sets_identity(statement: &Statement) -> bool {
    let changes = statement.parts.iter().flat_map(|part| &part.session);
    changes.filter_map(SessionChange::sets).any(|name| is_identity(name))
}

/// Something is put back by it.
fn puts_back(statement: &Statement) -> bool {
    let mut changes = statement.parts.iter().flat_map(|part| &part.session);
    changes.any(SessionChange::puts_back)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::reply::Reply;
    use crate::session::story::Story;
    use crate::sql::classify_bytes;

    fn story() -> Story {
        Story::begin_with(&[("search_path", "app, public"), ("role", "ada"), ("my.name", "Zoë")])
    }

    fn woven(story: &Story, text: &str) -> String {
        let statement = classify_bytes(text.as_bytes(), &ParseSettings::default());
        story.session.weave(&statement, format!("{text}\0").as_bytes()).map(|(text, _)| text).unwrap_or_default()
    }

    const PATH: &str = "\n;SET \"search_path\" TO 'app','public'";

    #[test]
    fn what_is_put_back_goes_on_behind_its_own_statement() {
        let story = story();
        for (text, expected) in [
            ("reset search_path", format!("reset search_path{PATH}")),
            ("reset search_path -- so it is", format!("reset search_path -- so it is{PATH}")),
            ("select 'ä'; reset search_path ; select 2;", format!("select 'ä'; reset search_path {PATH}; select 2;")),
            ("set search_path to default;;", format!("set search_path to default{PATH};;")),
            ("reset role;select 1", "reset role\n;SET \"role\" TO 'ada';select 1".to_owned()),
            (
                "reset all",
                format!("reset all\n;SET \"my\".\"name\" TO 'Zoë'{};", &PATH[1..]).trim_end_matches(';').to_owned(),
            ),
            (
                "begin; set local my.name to default",
                "begin; set local my.name to default\n;SET LOCAL \"my\".\"name\" TO 'Zoë'".to_owned(),
            ),
            ("set local my.name to default", String::new()),
            ("reset work_mem; set search_path = x", String::new()),
            ("discard all", String::new()),
        ] {
            assert_eq!(woven(&story, text), expected, "{text}");
        }
    }

    #[test]
    fn in_an_encoding_of_its_own_a_value_is_sent_in_letters_that_all_have() {
        let mut story = story();
        story.session.told(vec![("client_encoding".into(), "LATIN1".into())].into());
        assert_eq!(woven(&story, "reset my.name"), "reset my.name\n;SET \"my\".\"name\" TO E'Zo\\U000000eb'");
    }

    #[test]
    fn in_a_database_without_an_encoding_it_is_sent_as_it_came() {
        let mut story = story();
        let encodings = ["client_encoding", "server_encoding"].map(|name| (name.into(), "SQL_ASCII".into()));
        story.session.told(encodings.to_vec().into());
        assert_eq!(woven(&story, "reset my.name"), "reset my.name\n;SET \"my\".\"name\" TO 'Zoë'");
    }

    #[test]
    fn whoever_may_not_set_it_is_not_made_to() {
        let begin = || {
            let settings = [("auto_explain.log_min_duration", "0"), ("log_statement", "ddl"), ("search_path", "app")];
            Story::begin_with(&settings)
        };
        let anybodys = "\n;SET \"search_path\" TO 'app'";
        let all = "\n;SET \"auto_explain\".\"log_min_duration\" TO '0';SET \"log_statement\" TO 'ddl';";
        assert_eq!(woven(&begin(), "reset all"), format!("reset all{all}{}", &anybodys[2..]));
        for before in ["set role bob", "set session authorization bob", "select set_config('role', 'bob', false)"] {
            let text = format!("{before}; reset all");
            assert_eq!(woven(&begin(), &text), format!("{text}{anybodys}"));
        }
        let mut local = begin();
        for (text, tag) in [("begin", "BEGIN"), ("set local role bob", "SET")] {
            local.send(b'Q', format!("{text}\0").as_bytes());
            local.hear(b'C', format!("{tag}\0").as_bytes());
            local.hear(b'Z', b"T");
        }
        assert_eq!(woven(&local, "reset all"), format!("reset all{anybodys}"));
        let mut batch = begin();
        for (text, sent) in [("set role bob", "E"), ("reset all", "ECPBEC")] {
            batch.parse("", text);
            batch.bind("");
            assert_eq!(batch.execute(), sent, "{text}");
        }
    }

    #[test]
    fn set_local_goes_on_where_a_block_is_open_by_then() {
        const LOCAL: &str = "set local search_path to default";
        let mut begun = story();
        begun.parse("", "begin");
        begun.bind("");
        begun.execute();
        begun.hear_all("12");
        begun.hear(b'C', b"BEGIN\0");
        assert_eq!(woven(&begun, LOCAL), format!("{LOCAL}\n;SET LOCAL{}", &PATH[5..]));
        for is_answered in [true, false] {
            let mut ended = story();
            ended.send(b'Q', b"begin\0");
            if is_answered {
                ended.hear(b'C', b"BEGIN\0");
                ended.hear(b'Z', b"T");
            }
            assert!(!woven(&ended, LOCAL).is_empty());
            ended.send(b'Q', b"commit\0");
            assert_eq!(woven(&ended, LOCAL), "");
        }
    }

    #[test]
    fn nobody_is_told_of_it_and_an_error_stands_where_it_stood() {
        let mut story = story();
        story.send(b'Q', "select 'ä'; reset search_path; select typo\0".as_bytes());
        for (tag, told) in [("SELECT 1\0", Reply::Forward), ("RESET\0", Reply::Forward), ("SET\0", Reply::Hide)] {
            assert_eq!(story.hear(b'C', tag.as_bytes()), told, "{tag}");
        }
        let there = "select 'ä'; reset search_path; select typo".chars().count() - 3;
        let sent = there + PATH.chars().count();
        for (position, expected) in [(there, sent), (8, 8), (29, 29 + PATH.chars().count() - 2)] {
            let body = |position: usize| format!("SERROR\0C42703\0M?\0P{position}\0\0");
            let Reply::Refused(_, Some(told)) = story.hear(b'E', body(expected).as_bytes()) else { panic!("as it is") };
            assert_eq!(told.get(5..).unwrap(), body(position).as_bytes(), "{position}");
        }
        story.hear_all("Z");
        assert!(story.session.is_idle());
    }

    #[test]
    fn in_a_batch_it_is_executed_behind_it() {
        let mut story = story();
        story.parse("", "reset search_path");
        story.bind("");
        assert_eq!(story.execute(), "ECPBEC");
        story.sync();
        story.hear_all("12");
        assert_eq!(story.hear(b'C', b"RESET\0"), Reply::Forward);
        for (tag, body) in [(b'3', ""), (b'1', ""), (b'2', ""), (b'C', "SET\0"), (b'3', "")] {
            assert_eq!(story.hear(tag, body.as_bytes()), Reply::Hide);
        }
        story.hear_all("Z");
        assert!(story.session.is_idle());
    }
}
