//! What code that is not looked into statement by statement leaves behind in its session, as far as its words tell.

use std::sync::Arc;

use super::functions::{Class, class_of};
use super::session_change::SessionChange;
use super::settings::setting_name;
use super::statement::{Name, Part, Pin, Statement};
use super::words::{Quoting, Token, has_literal, is_block, runs_text, tokens, writes_rows_only};

/// What a function, procedure or block may leave in the session that runs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Settings that it changes for the session, by name.
    pub settings: Vec<Arc<str>>,
    /// What else it may leave.
    pub doubt: Doubt,
    /// It makes, locks or sets something that it does not name, however much more is in doubt.
    pub leaves_unnamed: bool,
    /// Functions, by name, of which nothing is known yet: they may change settings, too.
    pub unknown: Vec<Arc<str>>,
    /// It asks for the current value of a sequence.
    pub asks_sequence: bool,
    /// It changes how literals are read, if only until its transaction ends.
    pub reads_otherwise: bool,
    /// It opens a cursor, which its transaction may go on to read.
    pub opens_cursor: bool,
}

/// How much of what code leaves is not known: each includes the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Everything is known.
    #[default]
    None,
    /// It runs what cannot be looked into.
    Opaque,
    /// It makes, locks or sets something that it does not name.
    Unnamed,
    /// It keeps something in its session that the node does not show, and that nothing but the session's end takes away.
    Kept,
}

impl Leftovers {
    /// Nothing is known but that there may be something.
    pub fn doubtful(doubt: Doubt) -> Self {
        Self { doubt, leaves_unnamed: doubt == Doubt::Unnamed, ..Self::default() }
    }

    /// It leaves nothing, and asks for nothing of what is in its session.
    pub fn is_none(&self) -> bool {
        self.is_clean() && !self.asks_sequence && !self.reads_otherwise && !self.opens_cursor
    }

    /// It leaves nothing.
    pub fn is_clean(&self) -> bool {
        self.settings.is_empty() && self.doubt == Doubt::None
    }

    /// It asks for the current value of a sequence, or may.
    pub fn may_ask_sequence(&self) -> bool {
        self.asks_sequence || self.doubt != Doubt::None
    }

    /// Literals behind it are read otherwise, or may be.
    pub fn may_read_otherwise(&self) -> bool {
        self.reads_otherwise || self.doubt != Doubt::None
    }

    /// What the other one leaves, too; answers whether that is more.
    pub fn join(&mut self, other: &Self) -> bool {
        let size = |left: &Self| {
            let Self { settings, doubt, leaves_unnamed, unknown, asks_sequence, reads_otherwise, opens_cursor } = left;
            let asks = (*asks_sequence, *reads_otherwise, *opens_cursor);
            (settings.len(), *doubt, *leaves_unnamed, unknown.len(), asks)
        };
        let before = size(self);
        self.doubt(other.doubt);
        self.leaves_unnamed |= other.leaves_unnamed;
        self.asks_sequence |= other.asks_sequence;
        self.reads_otherwise |= other.reads_otherwise;
        self.opens_cursor |= other.opens_cursor;
        other.settings.iter().for_each(|name| self.sets(name));
        other.unknown.iter().for_each(|name| self.calls_unknown(name));
        before != size(self)
    }

    /// It calls a function of which nothing is known.
    pub fn calls_unknown(&mut self, name: &Arc<str>) {
        self.doubt(Doubt::Opaque);
        if !self.unknown.contains(name) {
            self.unknown.push(Arc::clone(name));
        }
    }

    /// It is known no better than this.
    pub fn doubt(&mut self, doubt: Doubt) {
        self.doubt = self.doubt.max(doubt);
        self.leaves_unnamed |= doubt == Doubt::Unnamed;
    }

    /// What statements in SQL leave.
    pub fn of_statement(statement: &Statement) -> Self {
        let mut left = Self::default();
        if statement.parts.iter().any(writes_settings) {
            left.doubt(Doubt::Unnamed);
        }
        for change in statement.parts.iter().flat_map(|part| &part.session) {
            match change {
                SessionChange::Setting { name, .. } if change.is_local() => {
                    left.reads_otherwise |= decides_literals(name)
                }
                SessionChange::Setting { name, .. } => left.sets(name),
                SessionChange::Pin(Pin::Sequence) => left.asks_sequence = true,
                SessionChange::Pin(Pin::State) => left.doubt(Doubt::Kept),
                SessionChange::Ask => {}
                _ => left.doubt(Doubt::Unnamed),
            }
        }
        left
    }

    /// What a body leaves, by its words. What its functions leave is not in it.
    pub fn of_body(text: &str, quoting: Quoting) -> Self {
        let mut left = Self::default();
        let tokens = tokens(text, quoting);
        (0..tokens.len()).for_each(|at| left.token(&tokens, at, quoting));
        if left.doubt != Doubt::None && quoting == Quoting::Sql {
            // What it runs may stand in its strings.
            left.join(&Self::of_body(text, Quoting::None));
        }
        left
    }

    /// Where code may leave what it does not name, the statement that runs it may: as a string that is a setting's name or
    /// holds a SET. Settings of users' own are not listed by the node.
    pub fn named_in(mut self: Box<Self>, text: &[u8]) -> Box<Self> {
        if self.doubt == Doubt::None {
            return self;
        }
        let keeps = |literal: &[u8]| {
            let literal = String::from_utf8_lossy(literal);
            Self::of_body(&literal, Quoting::None).doubt == Doubt::Kept
        };
        if has_literal(text, keeps) {
            self.doubt(Doubt::Kept);
        }
        let text = String::from_utf8_lossy(text);
        let named = Self::of_body(&text, Quoting::None);
        named.settings.iter().for_each(|name| self.sets(name));
        for at in tokens(&text, Quoting::None).windows(5) {
            if let [Token::Other, Token::Word(first), Token::Dot, Token::Word(second), Token::Other] = at {
                self.sets(&format!("{first}.{second}").into());
            }
        }
        self
    }

    /// It changes this setting for the session. The state of random() is never read back.
    pub fn sets(&mut self, name: &Arc<str>) {
        if **name == *"seed" {
            self.doubt(Doubt::Kept);
            return;
        }
        self.reads_otherwise |= decides_literals(name);
        if !self.settings.contains(name) {
            self.settings.push(Arc::clone(name));
        }
    }

    /// It does this up to the end of its transaction, which takes back no state of random().
    fn sets_locally(&mut self, local: &Self) {
        self.reads_otherwise |= local.may_read_otherwise();
        if local.doubt == Doubt::Kept {
            self.doubt(Doubt::Kept);
        }
    }

    fn token(&mut self, tokens: &[Token<'_>], at: usize, quoting: Quoting) {
        let Some(Token::Word(word)) = tokens.get(at) else { return };
        let opens = tokens.get(at + 1) == Some(&Token::Open);
        let is_attribute = at.checked_sub(1).and_then(|before| tokens.get(before)) == Some(&Token::Dot);
        match &**word {
            "set" | "reset" if begins_command(tokens, at) => self.command(tokens.get(at + 1..).unwrap_or_default()),
            "open" if begins_command(tokens, at) => self.opens_cursor = true,
            "set_config" if opens => self.call(tokens.get(at + 2..).unwrap_or_default()),
            "deallocate" | "discard" | "listen" | "load" | "prepare" | "unlisten" if begins_command(tokens, at) => {
                self.doubt(Doubt::Unnamed);
            }
            "execute" if !writes_rows_only(tokens.get(at + 1..).unwrap_or_default()) => self.doubt(Doubt::Opaque),
            word if quoting == Quoting::None && runs_text(word) => self.doubt(Doubt::Opaque),
            "do" if is_block(tokens.get(at + 1..).unwrap_or_default()) => self.doubt(Doubt::Opaque),
            "pg_temp" | "temp" | "temporary" | "pg_settings" => self.doubt(Doubt::Unnamed),
            _ if opens || is_attribute => match class_of(&Name { schema: None, name: Arc::clone(word) }) {
                Some(Class::AdvisoryLock) => self.doubt(Doubt::Unnamed),
                Some(Class::SessionState) => self.doubt(Doubt::Kept),
                Some(Class::SequenceOfSession) => self.asks_sequence = true,
                _ => {}
            },
            _ => {}
        }
    }

    /// What stands behind SET or RESET.
    fn command(&mut self, tokens: &[Token<'_>]) {
        let (first, rest) = match tokens {
            [Token::Word(scope), Token::Word(name), rest @ ..] if **scope == *"session" => (name, rest),
            [Token::Word(scope), rest @ ..] if **scope == *"local" => {
                let mut local = Self::default();
                local.command(rest);
                self.sets_locally(&local);
                return;
            }
            [Token::Word(name), rest @ ..] => (name, rest),
            _ => return,
        };
        let name: Arc<str> = match (&**first, rest) {
            ("transaction" | "constraints", _) => return,
            ("authorization", _) => "session_authorization".into(),
            ("names", _) => "client_encoding".into(),
            ("schema", _) => "search_path".into(),
            ("time", [Token::Word(zone), ..]) if **zone == *"zone" => "timezone".into(),
            ("xml", _) => "xmloption".into(),
            ("all" | "characteristics", _) => {
                self.doubt(Doubt::Unnamed);
                return;
            }
            (_, [Token::Dot, Token::Word(second), ..]) => setting_name(&format!("{first}.{second}")).into(),
            _ => setting_name(first).into(),
        };
        self.sets(&name);
    }

    /// What stands behind `set_config(`.
    fn call(&mut self, tokens: &[Token<'_>]) {
        let mut depth = 1_usize;
        let end = tokens.iter().position(|token| {
            match token {
                Token::Open => depth += 1,
                Token::Close => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let arguments = tokens.get(..end.unwrap_or(tokens.len())).unwrap_or_default();
        if let [arguments @ .., Token::Comma, Token::Word(is_local)] = arguments
            && **is_local == *"true"
        {
            let mut local = Self::default();
            local.named_setting(arguments);
            self.sets_locally(&local);
            return;
        }
        self.named_setting(arguments);
    }

    /// The first argument of `set_config`.
    fn named_setting(&mut self, arguments: &[Token<'_>]) {
        match arguments {
            [Token::String(name), Token::Comma, ..] => self.sets(&setting_name(name).into()),
            // In another language's string the quotes are tokens of their own.
            [Token::Other, Token::Word(first), Token::Dot, Token::Word(second), Token::Other, ..] => {
                self.sets(&format!("{first}.{second}").into());
            }
            [Token::Other, Token::Word(name), Token::Other, ..] => self.sets(&setting_name(name).into()),
            _ => self.doubt(Doubt::Unnamed),
        }
    }
}

/// How literals are read depends on this setting: what is prepared keeps what it has made of its own.
pub fn decides_literals(name: &str) -> bool {
    let is_reported = REPORTED_FOR_LITERALS.iter().any(|reported| reported.eq_ignore_ascii_case(name));
    is_reported || UNREPORTED_FOR_LITERALS.contains(&name)
}

/// Such settings, of those that a server reports.
pub const REPORTED_FOR_LITERALS: [&str; 5] =
    ["DateStyle", "TimeZone", "IntervalStyle", "standard_conforming_strings", "client_encoding"];

/// Such settings, of those that it does not.
pub const UNREPORTED_FOR_LITERALS: [&str; 5] =
    ["array_nulls", "backslash_quote", "lc_monetary", "transform_null_equals", "xmloption"];

/// It may be an UPDATE of the view of all settings, which sets them.
pub fn writes_settings(part: &Part) -> bool {
    part.needs_primary.is_some() && part.tables.iter().any(|table| &*table.name == "pg_settings")
}

/// A word here is the first one of a statement, not part of one (UPDATE … SET).
fn begins_command(tokens: &[Token<'_>], at: usize) -> bool {
    match at.checked_sub(1).and_then(|before| tokens.get(before)) {
        Some(Token::Word(before)) => matches!(&**before, "begin" | "then" | "else" | "loop" | "atomic"),
        Some(Token::Dot | Token::Comma | Token::Open | Token::Close) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{ParseSettings, classify};

    fn left(text: &str) -> (Vec<Arc<str>>, Doubt) {
        let left = Leftovers::of_body(text, Quoting::Sql);
        (left.settings, left.doubt)
    }

    #[test]
    fn settings_that_a_body_changes_are_named() {
        for (text, name) in [
            ("BEGIN SET work_mem = '2MB'; END", "work_mem"),
            ("begin if a then set session Work_Mem to 1; end if; end", "work_mem"),
            ("begin x := 1; SET app.tenant = 'a'; end", "app.tenant"),
            ("begin perform set_config('App.Tenant', f(a, true), false); end", "app.tenant"),
            ("begin perform set_config('App.Ä', 'x', false); end", "app.Ä"),
            ("begin perform pg_catalog.set_config('app.tenant', x, is_local); end", "app.tenant"),
            ("begin SET TIME ZONE 'UTC'; end", "timezone"),
            ("begin set role eve; end", "role"),
            ("begin set session authorization eve; end", "session_authorization"),
            ("begin reset work_mem; end", "work_mem"),
        ] {
            assert_eq!(left(text), (vec![name.into()], Doubt::None), "{text}");
        }
    }

    #[test]
    fn settings_that_a_statement_names_for_code_that_does_not_are_found() {
        let named = |text: &str| Box::new(Leftovers::doubtful(Doubt::Opaque)).named_in(text.as_bytes()).settings;
        assert_eq!(named("CALL put('App.Tenant', 'x')"), ["app.tenant".into()]);
        assert_eq!(named("SELECT run('set app.tenant = 9')"), ["app.tenant".into()]);
        assert_eq!(named("SELECT f(a.b, 'c') FROM s.t AS a"), Vec::<Arc<str>>::new());
        let known = Box::new(Leftovers::default()).named_in(b"SELECT f('a.b')");
        assert_eq!(known.settings, Vec::<Arc<str>>::new());
    }

    #[test]
    fn a_body_that_seeds_random_is_known() {
        for text in [
            "BEGIN SET seed = 0.5; END",
            "BEGIN SET LOCAL Seed TO 0.5; END",
            "BEGIN PERFORM set_config('Seed', '0.5', false); END",
            "BEGIN PERFORM set_config('seed', '0.5', true); END",
            "BEGIN EXECUTE 'SET seed = 0.5'; END",
        ] {
            assert_eq!(left(text), (vec![], Doubt::Kept), "{text}");
        }
        assert_eq!(left("BEGIN UPDATE \"t\" SET seed = 0.5; END"), (vec![], Doubt::None));
        let of_sql = |text: &str| Leftovers::of_statement(&classify(text, &ParseSettings::default())).doubt;
        assert_eq!(of_sql("SELECT setseed(0.5)"), Doubt::Kept);
        assert_eq!(of_sql("SELECT set_config('seed', '0.5', true)"), Doubt::Kept);
        let named = |text: &str| Box::new(Leftovers::doubtful(Doubt::Opaque)).named_in(text.as_bytes()).doubt;
        assert_eq!(named("SELECT run('SET seed TO 0.5')"), Doubt::Kept);
        assert_eq!(named("UPDATE \"t\" SET seed = 0.5"), Doubt::Opaque);
    }

    #[test]
    fn a_body_that_opens_a_cursor_is_known() {
        for text in ["BEGIN OPEN c FOR SELECT 1; RETURN c; END", "begin if a then open c for execute b; end if; end"] {
            assert!(Leftovers::of_body(text, Quoting::Sql).opens_cursor, "{text}");
        }
        assert!(!Leftovers::of_body("BEGIN SELECT open INTO x FROM t; END", Quoting::Sql).opens_cursor);
    }

    #[test]
    fn a_body_that_asks_for_a_sequence_is_known() {
        for text in ["BEGIN RETURN currval('s'); END", "BEGIN x := pg_catalog.lastval(); END"] {
            let left = Leftovers::of_body(text, Quoting::Sql);
            assert!(left.is_clean() && left.may_ask_sequence(), "{text}");
        }
        assert!(!Leftovers::of_body("BEGIN RETURN nextval('s'); END", Quoting::Sql).may_ask_sequence());
    }

    #[test]
    fn what_a_body_only_uses_is_not_left() {
        for text in [
            "BEGIN UPDATE t SET work_mem = 1 WHERE a = 2; END",
            "BEGIN INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2; END",
            "BEGIN UPDATE t SET (a, b) = (1, 2); END",
            "BEGIN SET LOCAL work_mem = 1; PERFORM set_config('a.b', c, true); END",
            "BEGIN PERFORM pg_advisory_xact_lock(1); RETURN nextval('s'); END",
            "BEGIN x := 'set work_mem = 1'; -- listen\n RETURN x; END",
        ] {
            assert_eq!(left(text), (vec![], Doubt::None), "{text}");
        }
    }

    #[test]
    fn what_a_body_does_not_name_must_be_looked_for() {
        for text in [
            "BEGIN CREATE TEMP TABLE t (); END",
            "BEGIN PERFORM pg_advisory_lock(1); END",
            "BEGIN PERFORM (1).pg_advisory_lock; END",
            "BEGIN PERFORM set_config(name, 'a', false); END",
            "BEGIN LISTEN a; END",
            "BEGIN RESET ALL; END",
        ] {
            assert_eq!(left(text).1, Doubt::Unnamed, "{text}");
        }
        assert_eq!(left("BEGIN EXECUTE q; END").1, Doubt::Opaque);
        assert_eq!(left("BEGIN EXECUTE format('INSERT INTO %I VALUES ($1.*)', t) USING NEW; END").1, Doubt::None);
        assert_eq!(left("BEGIN EXECUTE 'INSERT INTO t SELECT set_config(b, c, false)'; END").1, Doubt::Unnamed);
        assert_eq!(left("BEGIN EXECUTE 'CREATE TEMP TABLE ' || name; END").1, Doubt::Unnamed);
        let dynamic = left("BEGIN EXECUTE 'SET app.tenant = ' || quote_literal(a); END");
        assert_eq!(dynamic, (vec!["app.tenant".into()], Doubt::Opaque));
        let block = left("BEGIN DO $x$ BEGIN SET app.tenant = 'a'; END $x$; END");
        assert_eq!(block, (vec!["app.tenant".into()], Doubt::Opaque));
        assert_eq!(left("BEGIN INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING; END").1, Doubt::None);
        let other = Leftovers::of_body("plpy.execute(\"select set_config('a.b', 'c', false)\")", Quoting::None);
        let expected = Leftovers { settings: vec!["a.b".into()], doubt: Doubt::Opaque, ..Leftovers::default() };
        assert_eq!(other, expected);
    }
}
