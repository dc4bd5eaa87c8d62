//! What is on its way and may yet fail or be skipped, of what later messages rely on.
//!
//! Whoever relies on a statement, its name or the unnamed one, finds it as everything sent before leaves it. In the same
//! batch that is certain: after an error both are skipped. Of an earlier batch it is certain only when it has been
//! answered; until then the message that relies on it waits, and nobody has to guess. So it stays true that
//! - the node never runs what another session has left as the unnamed statement,
//! - a name means what PostgreSQL would have it mean, also behind what failed or was skipped,
//! - [`Known`](super::Known) names what the server connection has.

use super::Session;
use super::changing::Change;
use super::owed::{Moment, OwedReplies};
use super::prepared::Prepared;
use crate::sql::SessionChange;
use crate::wire::frontend::{self, Bind, Parse, Target};

/// The latest of each kind that is on its way.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Of what makes or drops the unnamed statement on the server connection.
    unnamed: Option<Moment>,
    /// Of Queries that may close names: how far one comes is not known before.
    query: Option<Moment>,
    /// Of what changes settings, or puts them back.
    pub(super) settings: Option<Change>,
    /// Of code that may change how literals are read by what is prepared behind it.
    pub(super) by_code: bool,
    /// Of what closes all statements, in a batch.
    none_left: Option<Moment>,
}

impl Doubts {
    /// The unnamed statement is made or dropped now.
    pub(super) fn unnamed_changes(&mut self, now: Moment) {
        self.unnamed = Some(now);
    }

    /// A Query drops the unnamed statement: for certain, unless it stands in a batch and is skipped with it.
    pub(super) fn query_drops_unnamed(&mut self, owed: &OwedReplies, in_batch: bool) {
        let now = owed.moment();
        let may_be_skipped = |before: Moment| !owed.is_settled(before) && !owed.is_doubtful(before);
        self.unnamed = (in_batch || self.unnamed.is_some_and(may_be_skipped)).then_some(now);
    }

    /// A Query that may close names is sent now.
    pub(super) fn query_closes_names(&mut self, now: Moment) {
        self.query = Some(now);
    }

    /// All statements are closed now, in a batch.
    pub(super) fn none_will_be_left(&mut self, now: Moment) {
        self.none_left = Some(now);
    }

    /// What closes all of them may be on its way.
    pub(super) fn may_none_be_left(&self, owed: &OwedReplies) -> bool {
        self.none_left.is_some_and(|moment| !owed.is_settled(moment))
    }

    /// There are none.
    pub(super) fn are_none(&self) -> bool {
        self.unnamed.is_none()
            && self.query.is_none()
            && self.none_left.is_none()
            && self.settings.is_none()
            && !self.by_code
    }

    /// Literals may be read otherwise behind what is on its way.
    pub(super) fn read_otherwise(&self) -> bool {
        self.settings.is_some_and(|change| change.reads_otherwise())
    }
}

impl Session {
    /// What this message means is not certain before more has been answered, or it [is out of place](Self::is_out_of_place): it
    /// must not be looked at before.
    pub fn must_wait(&self, tag: u8, body: &[u8]) -> bool {
        if self.owed.is_empty() {
            return false;
        }
        let waits = self.flow.copy_in || self.settings_are_under_way() || self.has_discarded() && !self.flow.batch_open;
        if waits && begins_something(tag) && !self.flow.skipping {
            return true;
        }
        match tag {
            frontend::BIND => Bind::read(body).is_ok_and(|bind| self.use_is_doubtful(bind.statement.kept())),
            frontend::DESCRIBE => frontend::target_fields(body)
                .is_ok_and(|(target, name)| target == Target::Statement && self.use_is_doubtful(name.kept())),
            frontend::PARSE => {
                Parse::read(body).is_ok_and(|parse| !parse.name.is_empty() && self.name_is_doubtful(parse.name.kept()))
            }
            frontend::QUERY => {
                (self.closing_query_is_under_way() || self.names.are_doubtful(&self.owed)) && may_name_statements(body)
            }
            _ => false,
        }
    }

    /// The node waits for copy data, and this is neither that nor its end.
    pub fn is_out_of_place(&self, tag: u8) -> bool {
        self.flow.copy_in && begins_something(tag)
    }

    fn use_is_doubtful(&self, name: &[u8]) -> bool {
        let prepared = if name.is_empty() {
            if self.doubts.unnamed.is_some_and(|moment| self.owed.is_doubtful(moment)) {
                return true;
            }
            self.unnamed.as_ref().map(|(prepared, _)| prepared)
        } else {
            if self.name_is_doubtful(name) {
                return true;
            }
            let prepared = self.names.get(name);
            if prepared.is_some_and(|prepared| self.owed.is_in_doubt(prepared.id)) {
                return true;
            }
            prepared
        };
        prepared.is_some_and(|prepared| self.names_a_doubtful_one(prepared))
    }

    /// It is a DEALLOCATE or an EXECUTE of a name that is in doubt.
    fn names_a_doubtful_one(&self, prepared: &Prepared) -> bool {
        prepared.statement.parts.iter().flat_map(|part| &part.session).any(|change| match change {
            SessionChange::Deallocate(name) | SessionChange::Execute(name) => self.name_is_doubtful(name.as_bytes()),
            _ => false,
        })
    }

    fn name_is_doubtful(&self, name: &[u8]) -> bool {
        self.closing_query_is_under_way() || self.names.is_doubtful(name, &self.owed)
    }

    fn closing_query_is_under_way(&self) -> bool {
        self.doubts.query.is_some_and(|moment| !self.owed.is_settled(moment))
    }
}

/// It does not only end what has been sent before, or the conversation.
fn begins_something(tag: u8) -> bool {
    const COPY: [u8; 3] = [frontend::COPY_DATA, frontend::COPY_DONE, frontend::COPY_FAIL];
    !COPY.contains(&tag) && !matches!(tag, frontend::SYNC | frontend::FLUSH | frontend::TERMINATE)
}

/// A PREPARE, an EXECUTE or a DEALLOCATE may be in this text: what it means depends on names.
fn may_name_statements(text: &[u8]) -> bool {
    if text.len() > LONGEST_SEARCHED {
        return true;
    }
    let holds = |word: &[u8]| text.windows(word.len()).any(|there| there.eq_ignore_ascii_case(word));
    holds(b"deallocate") || holds(b"prepare") || holds(b"execute")
}

/// Bytes of a text that are looked through, on each turn while it waits. A longer one waits whether it names any or not, no longer
/// than until what stands before it is answered.
const LONGEST_SEARCHED: usize = 8 * 1024;

/// A change that closes names of prepared statements.
pub(super) fn closes_names(change: &SessionChange) -> bool {
    matches!(change, SessionChange::Deallocate(_) | SessionChange::DeallocateAll | SessionChange::DiscardAll)
}

#[cfg(test)]
mod tests {
    use crate::session::known::UnnamedId;
    use crate::session::reply::Reply;
    use crate::session::sequences::Drawn;
    use crate::session::story::Story;
    use crate::session::{Known, SessionId};

    #[test]
    fn an_unnamed_statement_of_another_batch_is_waited_for() {
        let mut story = Story::begin();
        story.known.unnamed = Some(UnnamedId(SessionId(2), 1));
        story.bind("nobody");
        story.parse("", "select 1");
        assert_eq!(story.bind(""), "B", "in its own batch it is certain");
        story.sync();
        assert!(story.must_wait_to_bind(""));
        story.hear_all("EZ");
        // Skipped: another's may be there, and the session has none.
        assert_eq!(story.bind(""), "CB");
    }

    #[test]
    fn the_unnamed_statement_outlives_what_is_skipped_and_no_query() {
        let mut story = Story::begin();
        story.parse("", "select 1");
        story.sync();
        story.hear_all("1Z");
        for skipped in [b'Q', b'C', b'P'] {
            story.bind("nobody");
            match skipped {
                b'Q' => story.send(b'Q', b"select 2\0"),
                b'C' => story.send(b'C', b"S\0"),
                _ => story.parse("", "select 2"),
            };
            story.sync();
            assert!(story.must_wait_to_bind(""));
            story.hear_all("EZ");
            assert_eq!(story.bind(""), "B", "the node still has it");
            story.sync();
            story.hear_all("2Z");
        }
        story.send(b'Q', b"selekt\0");
        assert_eq!(story.bind(""), "CB", "a Query is certain to drop it");
        story.sync();
        story.hear_all("EZ3EZ");
        story.bind("nobody");
        story.sync();
        story.hear_all("EZ");
        assert_eq!(story.bind(""), "CB", "nothing brings it back");
    }

    #[test]
    fn a_failed_parse_leaves_no_unnamed_statement() {
        let mut story = Story::begin();
        story.parse("", "select 1");
        story.sync();
        story.hear_all("1Z");
        story.parse("", "selekt");
        story.sync();
        story.hear_all("EZ");
        assert_eq!(story.bind(""), "CB");
    }

    #[test]
    fn a_node_that_skips_keeps_its_session_until_the_sync() {
        let mut story = Story::begin();
        story.bind("nobody");
        story.send(b'Q', b"select 1\0");
        story.hear_all("E");
        assert!(story.session.all_answered() && !story.session.may_release());
        story.sync();
        story.hear_all("Z");
        assert!(story.session.may_release());
    }

    #[test]
    fn a_function_call_ends_its_batch() {
        let mut story = Story::begin();
        story.parse("", "select 1");
        story.send(b'F', &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert!(!story.session.batch_is_open());
        story.hear_all("1VZ");
        assert!(story.session.may_release());
    }

    #[test]
    fn a_name_of_another_batch_is_waited_for() {
        let mut story = Story::begin();
        story.bind("nobody");
        story.parse("a", "select 1");
        story.sync();
        assert!(story.must_wait_to_bind("a") && story.session.must_wait(b'P', b"a\0select 2\0\0\0"));
        assert!(!story.must_wait_to_bind("b"));
        story.hear_all("EZ");
        assert!(story.session.names.get(b"a").is_none());
        // Nor does the server connection have it.
        assert_eq!(story.parse("b", "select 1"), "P");
        story.sync();
        story.hear_all("1nZ");
        assert_eq!(story.bind("b"), "B");
        story.send(b'C', b"Sb\0");
        story.sync();
        assert!(story.must_wait_to_bind("b"));
        story.hear_all("EZ");
        assert_eq!(story.bind("b"), "B", "a skipped Close closes nothing");
    }

    #[test]
    fn what_a_server_connection_should_get_in_a_skipped_batch_it_gets_in_the_next() {
        let mut story = Story::begin();
        story.parse("a", "select 1");
        story.sync();
        story.hear_all("1nZ");
        story.known = Known::default();
        story.bind("nobody");
        assert_eq!(story.bind("a"), "PB");
        story.sync();
        assert!(story.must_wait_to_bind("a"));
        story.hear_all("EZ");
        assert_eq!(story.bind("a"), "PB");
        story.sync();
        story.hear_all("12Z");
        assert_eq!(story.bind("a"), "B");
    }

    #[test]
    fn what_is_parsed_behind_deallocate_all_is_known_and_nothing_else() {
        let mut story = Story::begin();
        for (name, text) in [("a", "select 1"), ("b", "select 2")] {
            story.parse(name, text);
            story.sync();
            story.hear_all("1nZ");
        }
        story.parse("", "deallocate all");
        story.bind("");
        story.execute();
        assert_eq!(story.parse("a", "select 1"), "CP");
        assert_eq!(story.bind("a"), "DB");
        story.sync();
        story.hear_all("12C31n2Z");
        assert_eq!(story.bind("a"), "B");
        assert!(story.session.names.get(b"b").is_none());
        assert_eq!(story.parse("b", "select 2"), "P");
    }

    #[test]
    fn names_behind_a_query_that_may_close_them_wait_for_it() {
        let mut story = Story::begin();
        story.parse("a", "select 1");
        story.sync();
        story.hear_all("1nZ");
        assert_eq!(story.send(b'Q', b"deallocate a\0"), "CPQ");
        assert!(story.must_wait_to_bind("a") && story.session.must_wait(b'Q', b"Deallocate a\0"));
        assert!(!story.session.must_wait(b'Q', b"select 1\0"), "it names none");
        story.hear_all("31");
        story.hear(b'C', b"DEALLOCATE\0");
        story.hear_all("Z");
        assert_eq!(story.bind("a"), "B", "there is none, and the node says so");
        story.sync();
        story.hear_all("EZ");
        assert_eq!(story.parse("b", "select 1"), "CP", "ours has stayed");
    }

    #[test]
    fn a_long_query_behind_one_that_may_close_names_is_not_looked_through() {
        let mut story = Story::begin();
        story.send(b'Q', b"deallocate a\0");
        let text = |length: usize| format!("{:length$}\0", "select 1", length = length - 1).into_bytes();
        assert!(!story.session.must_wait(b'Q', &text(super::LONGEST_SEARCHED)));
        assert!(story.session.must_wait(b'Q', &text(super::LONGEST_SEARCHED + 1)));
        story.hear_all("EZ");
        assert!(!story.session.must_wait(b'Q', &text(super::LONGEST_SEARCHED + 1)));
    }

    #[test]
    fn a_portal_outlives_the_end_of_the_batch_before_its_own() {
        let mut story = Story::begin();
        story.parse("", "select 1");
        story.bind("");
        story.execute();
        story.sync();
        story.parse("", "set role ada");
        story.bind("");
        story.hear_all("12CZ");
        story.execute();
        story.sync();
        story.hear_all("12CZ");
        assert!(story.session.has_touched(), "it has been seen what was executed");
        story.bind("");
        story.sync();
        story.hear_all("2Z");
        assert!(story.session.portals.is_empty(), "its own batch is over");
    }

    #[test]
    fn another_sessions_sequences_are_discarded_within_a_batch_and_stay_in_doubt_where_that_is_skipped() {
        let mut story = Story::begin();
        story.known.drawn = Drawn::unknown();
        story.bind("nobody");
        assert_eq!(story.discard_sequences(), "CPBEC");
        story.sync();
        story.hear_all("EZ");
        story.parse("", "select 1");
        assert_eq!(story.discard_sequences(), "CPBEC", "they are still another's");
        story.bind("");
        story.sync();
        story.hear_all("1");
        story.hear_discarded();
        story.hear_all("2Z");
        assert_eq!(story.discard_sequences(), "", "nobody has drawn since");
    }

    #[test]
    fn what_cancels_a_batch_of_ours_is_nothing_that_the_client_has_asked_for() {
        let mut story = Story::begin();
        story.parse("", "call p()");
        story.sync();
        story.hear_all("1Z");
        story.known.drawn = Drawn::unknown();
        assert_eq!(story.discard_sequences_apart(), "CPBECS");
        story.bind("");
        story.execute();
        story.sync();
        for (tag, body) in [(b'3', ""), (b'1', ""), (b'2', ""), (b'E', "SERROR\0C57014\0M?\0\0"), (b'Z', "I")] {
            assert_eq!(story.hear(tag, body.as_bytes()), Reply::Hide);
        }
        story.hear_all("2CZ");
        assert!(story.session.is_idle());
        assert_eq!(story.discard_sequences_apart(), "CPBECS", "they are still another's");
    }

    #[test]
    fn nothing_is_discarded_in_what_the_node_skips() {
        let mut story = Story::begin();
        story.known.drawn = Drawn::unknown();
        assert_eq!(story.discard_sequences(), "CPBEC");
        story.bind("nobody");
        story.hear_discarded();
        // Another has drawn there meanwhile, for all that is known.
        story.known.drawn = Drawn::unknown();
        story.hear_all("E");
        assert_eq!(story.discard_sequences(), "", "the rest of the batch comes only now");
        story.bind("nobody");
        story.sync();
        story.hear_all("Z");
        assert!(story.session.is_idle());
    }

    #[test]
    fn before_what_may_commit_another_sessions_sequences_are_discarded_in_a_batch_of_ours() {
        let mut story = Story::begin();
        story.parse("", "call p()");
        story.sync();
        story.hear_all("1Z");
        story.known.drawn = Drawn::unknown();
        assert_eq!(story.discard_sequences_apart(), "CPBECS");
        assert_eq!(story.bind(""), "B", "the unnamed statement is still there");
        story.execute();
        story.sync();
        story.hear_discarded();
        assert_eq!(story.hear(b'Z', b"I"), Reply::Hide);
        story.hear_all("2CZ");
        assert!(story.session.is_idle());
        story.known.drawn = Drawn::unknown();
        story.bind("");
        assert_eq!(story.discard_sequences_apart(), "CPBEC", "its batch has begun");
        story.sync();
        story.hear_all("2312C3Z");
        story.send(b'Q', b"begin\0");
        story.hear(b'C', b"BEGIN\0");
        story.hear(b'Z', b"T");
        story.known.drawn = Drawn::unknown();
        assert_eq!(story.discard_sequences_apart(), "CPBEC", "in a transaction it cannot commit");
    }
}
