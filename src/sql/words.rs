//! The words of a function's body in a language that is not parsed: enough to see what it names, never what it means.

use std::sync::Arc;

use super::statement::{Argument, Call, Kind, Name, NeedsPrimary, Part, Statement};
use super::{answers_alike, effects, functions, relations, setting_name};

/// What the words of a body tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Everything it may name, as a statement: unquoted words that could be relations, functions or types are all.
    pub statement: Statement,
    /// It makes statements out of strings: nothing is known of them.
    pub is_dynamic: bool,
    /// One of its words begins a statement that changes the catalogs.
    pub changes_catalog: bool,
    /// In PL/pgSQL none of its own statements can do more than read, whatever its functions do.
    pub only_reads: bool,
}

/// How much of a language's strings is code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quoting {
    /// As in SQL and PL/pgSQL: what is in quotes is data.
    #[default]
    Sql,
    /// Any other language: SQL comes in its strings, so quotes say nothing.
    None,
}

/// Reads the words of a body.
pub fn body(text: &str, quoting: Quoting) -> Body {
    let mut reader = Reader { does_more: may_hide_words(text), quoting, ..Reader::default() };
    let tokens = tokens(text, quoting);
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        reader.token(before, token, tokens.get(at + 1..).unwrap_or_default());
    }
    reader.finish()
}

/// What a body is made of, in order.
pub(super) fn tokens(text: &str, quoting: Quoting) -> Vec<Token<'_>> {
    let mut scanner = Scanner { rest: text, quoting };
    std::iter::from_fn(|| scanner.next()).collect()
}

/// The text behind the first place where this word, in small letters, stands by itself: not in quotes, nor in a comment.
pub(super) fn behind_keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let mut scanner = Scanner { rest: text, quoting: Quoting::Sql };
    loop {
        let first = scanner.find_next()?;
        let token = scanner.token(first);
        if first != '"' && matches!(token, Token::Word(word) if *word == *keyword) {
            return Some(scanner.rest);
        }
    }
}

/// One of the literals of this text is meant, as it is written there.
#[cold]
pub fn has_literal(text: &[u8], is_meant: impl Fn(&[u8]) -> bool) -> bool {
    let text = String::from_utf8_lossy(text);
    let is_one =
        |token: &Token<'_>| matches!(token, Token::String(inner) | Token::Quoted(inner) if is_meant(inner.as_bytes()));
    tokens(&text, Quoting::Sql).iter().any(is_one)
}

/// This text may have a literal: in quotes, or between two dollars.
#[inline]
pub fn may_have_literal(text: &[u8]) -> bool {
    let is_parameter = |at: usize| text.get(at + 1).is_some_and(u8::is_ascii_digit);
    memchr::memchr2_iter(b'\'', b'$', text).any(|at| text.get(at) == Some(&b'\'') || !is_parameter(at))
}

#[derive(Default)]
struct Reader {
    quoting: Quoting,
    tables: Vec<Name>,
    functions: Vec<Name>,
    calls: Vec<Call>,
    operators: Vec<Name>,
    attributes: Vec<Arc<str>>,
    needs_primary: Option<NeedsPrimary>,
    is_dynamic: bool,
    changes_catalog: bool,
    does_more: bool,
}

impl Reader {
    fn token(&mut self, before: Option<&Token<'_>>, token: &Token<'_>, after: &[Token<'_>]) {
        match token {
            Token::Word(word) => {
                self.word(before, word, after);
                // Where a character is one byte, the server may fold this one too.
                let folded = word.to_lowercase();
                if *folded != **word && !word.is_ascii() {
                    self.word(before, &folded.into(), after);
                }
            }
            Token::Operator(symbol) => add(&mut self.operators, Name { schema: None, name: (*symbol).into() }),
            _ => {}
        }
    }

    fn word(&mut self, before: Option<&Token<'_>>, word: &Arc<str>, after: &[Token<'_>]) {
        let is_foreign = self.quoting == Quoting::None;
        self.is_dynamic |= &**word == "execute" || is_foreign && (runs_text(word) || &**word == "cursor");
        let may_change = match &**word {
            "execute" => !writes_rows_only(after),
            "do" => is_block(after),
            word => CHANGES_CATALOG.contains(&word),
        };
        self.changes_catalog |= may_change;
        self.does_more |= DOES_MORE.binary_search(&&**word).is_ok();
        let name = Name { schema: None, name: Arc::clone(word) };
        if let Some((Token::Open, arguments)) = after.split_first() {
            self.call(&name, arguments);
        } else if before == Some(&Token::Dot) && functions::attribute_needs_primary(word) {
            self.needs_primary.get_or_insert(NeedsPrimary::Function(Arc::clone(word)));
        } else if after.first() != Some(&Token::Dot)
            && relations::differs_between_nodes(&name.name)
            && !NAMES_NO_RELATION.contains(&&**word)
        {
            self.needs_primary.get_or_insert(NeedsPrimary::Relation(Arc::clone(word)));
        }
        if before == Some(&Token::Dot) && !self.attributes.contains(word) {
            self.attributes.push(Arc::clone(word));
        }
        add(&mut self.tables, name);
    }

    fn call(&mut self, name: &Name, arguments: &[Token<'_>]) {
        use functions::Class;
        match functions::class_of(name) {
            Some(Class::Safe | Class::NamesObject) | None => {}
            Some(Class::ReadsSetting) if reads_alike(arguments) => {}
            Some(_) => {
                self.needs_primary.get_or_insert(NeedsPrimary::Function(Arc::clone(&name.name)));
            }
        }
        add(&mut self.functions, name.clone());
        let call = Call { name: name.clone(), arguments: None };
        if !self.calls.contains(&call) {
            self.calls.push(call);
        }
    }

    fn finish(self) -> Body {
        let part = Part {
            needs_primary: self.needs_primary,
            types: self.tables.as_slice().into(),
            tables: self.tables.into(),
            functions: self.functions.into(),
            calls: self.calls.into(),
            operators: self.operators.into(),
            attributes: self.attributes.into(),
            applies: true,
            sorts: true,
            changes_catalog: self.changes_catalog,
            ..effects::harmless(Kind::Other)
        };
        Body {
            statement: Statement::new(Box::new([part]), false),
            is_dynamic: self.is_dynamic,
            changes_catalog: self.changes_catalog,
            only_reads: !self.does_more,
        }
    }
}

/// Words of PL/pgSQL's GET DIAGNOSTICS and types of PostgreSQL's own, which are no relations.
const NAMES_NO_RELATION: [&str; 8] = [
    "pg_context",
    "pg_datatype_name",
    "pg_exception_context",
    "pg_exception_detail",
    "pg_exception_hint",
    "pg_lsn",
    "pg_routine_oid",
    "pg_snapshot",
];

/// The setting that is asked for is named, and every node answers alike.
fn reads_alike(arguments: &[Token<'_>]) -> bool {
    matches!(arguments, [Token::String(name), Token::Comma | Token::Close, ..]
        if answers_alike(&setting_name(name)))
}

/// In PL/Perl, PL/Tcl or PL/R it runs a statement that is given as text. PL/Python calls that `execute`.
pub(super) fn runs_text(word: &str) -> bool {
    word.starts_with("spi_") || word == "spi"
}

/// What stands behind a DO is a block, which may be anything, and not what ON CONFLICT does.
pub(super) fn is_block(after: &[Token<'_>]) -> bool {
    !matches!(after.first(), Some(Token::Word(does)) if matches!(&**does, "nothing" | "update"))
}

/// What stands behind an EXECUTE is one INSERT, UPDATE or DELETE that calls nothing, or the format of one in which only quoted
/// names and values are missing: as triggers have it that choose a partition.
pub(super) fn writes_rows_only(after: &[Token<'_>]) -> bool {
    /// What an opening parenthesis may stand behind, beside the name of the table and an operator.
    const NO_CALLS: [&str; 8] = ["and", "from", "in", "not", "or", "select", "values", "where"];
    let text = match after {
        [Token::String(_), Token::Operator(_), ..] => return false,
        [Token::String(text), ..] => text,
        [Token::Word(call), Token::Open, Token::String(text), Token::Comma, ..] if **call == *"format" => text,
        _ => return false,
    };
    // A string is put in as it is.
    let is_one = !text.contains(';') && !text.contains("%s") && !text.contains("$s");
    let words = tokens(text, Quoting::Sql);
    let writes =
        matches!(words.first(), Some(Token::Word(first)) if matches!(&**first, "insert" | "update" | "delete"));
    let is_word = |at: usize, word: &str| matches!(words.get(at), Some(Token::Word(there)) if **there == *word);
    let calls = (1..words.len()).any(|at| match (words.get(at - 1), words.get(at)) {
        (Some(Token::Word(before)), Some(Token::Open)) => {
            let names_table = at >= 2 && is_word(at - 2, "into")
                || at >= 4 && words.get(at - 2) == Some(&Token::Dot) && is_word(at - 4, "into");
            !names_table && !NO_CALLS.contains(&&**before)
        }
        _ => false,
    });
    is_one && writes && !calls
}

/// Words that begin statements which change catalogs; as a column's name they only cost a second look.
const CHANGES_CATALOG: &[&str] =
    &["alter", "comment", "create", "drop", "grant", "import", "reassign", "refresh", "revoke", "security"];

/// Words that begin what PL/pgSQL can run of SQL and is no query, or that make a query lock rows. As a column's name they
/// only cost a replica. Sorted.
const DOES_MORE: &[&str] = &[
    "abort",
    "alter",
    "analyse",
    "analyze",
    "call",
    "checkpoint",
    "cluster",
    "comment",
    "commit",
    "copy",
    "create",
    "deallocate",
    "delete",
    "discard",
    "do",
    "drop",
    "execute",
    "explain",
    "grant",
    "import",
    "insert",
    "listen",
    "load",
    "lock",
    "merge",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "release",
    "reset",
    "revoke",
    "rollback",
    "savepoint",
    "security",
    "set",
    "share",
    "show",
    "start",
    "truncate",
    "unlisten",
    "update",
    "vacuum",
];

/// Words may be hidden in it, as it may be read otherwise than here: by backslashes where standard_conforming_strings is
/// off, or in names with Unicode escapes.
fn may_hide_words(text: &str) -> bool {
    text.contains("\\'") || text.contains("&\"")
}

fn add(names: &mut Vec<Name>, name: Name) {
    if !names.contains(&name) {
        names.push(name);
    }
}

/// One piece of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name or keyword, folded unless quoted.
    Word(Arc<str>),
    /// A run of operator characters.
    Operator(&'a str),
    /// What is in quotes, as it is written; not where backslashes may mean something.
    String(&'a str),
    /// The same of an escape string and of what is between dollars.
    Quoted(&'a str),
    /// `(`.
    Open,
    /// `)`.
    Close,
    /// `,`.
    Comma,
    /// `.`.
    Dot,
    /// Anything else that is not a space or a comment.
    Other,
}

struct Scanner<'a> {
    rest: &'a str,
    quoting: Quoting,
}

impl<'a> Scanner<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        let first = self.find_next()?;
        Some(self.token(first))
    }

    /// What the next token begins with.
    fn find_next(&mut self) -> Option<char> {
        loop {
            // Any other space is a letter to PostgreSQL.
            self.rest = self.rest.trim_ascii_start();
            let first = self.rest.chars().next()?;
            if !(self.quoting == Quoting::Sql && self.skip_comment()) {
                return Some(first);
            }
        }
    }

    fn token(&mut self, first: char) -> Token<'a> {
        match first {
            '(' => self.one(first, Token::Open),
            ')' => self.one(first, Token::Close),
            ',' => self.one(first, Token::Comma),
            '.' => self.one(first, Token::Dot),
            '"' if self.quoting == Quoting::Sql => self.quoted_name(),
            '\'' if self.quoting == Quoting::Sql => self.string(),
            '$' if self.quoting == Quoting::Sql => self.dollar(),
            _ if is_name_start(first) => self.name(),
            _ if is_operator(first) => self.operator(),
            _ => self.one(first, Token::Other),
        }
    }

    fn one(&mut self, first: char, token: Token<'a>) -> Token<'a> {
        self.skip(first.len_utf8());
        token
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// A comment ends it.
    fn operator(&mut self) -> Token<'a> {
        let length = self.rest.find(|c| !is_operator(c)).unwrap_or(self.rest.len());
        let symbol = self.rest.get(..length).unwrap_or_default();
        let comment = ["--", "/*"].iter().filter_map(|opening| symbol.find(opening)).min();
        let symbol = match comment {
            Some(at) if self.quoting == Quoting::Sql => symbol.get(..at).unwrap_or_default(),
            _ => symbol,
        };
        let symbol = match self.quoting {
            Quoting::Sql => without_signs(symbol),
            Quoting::None => symbol,
        };
        self.skip(symbol.len());
        Token::Operator(symbol)
    }

    fn skip_comment(&mut self) -> bool {
        if self.rest.starts_with("--") {
            self.skip(self.rest.find(['\n', '\r']).unwrap_or(self.rest.len()));
            return true;
        }
        if !self.rest.starts_with("/*") {
            return false;
        }
        let mut depth = 0_usize;
        loop {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
            } else {
                self.skip(self.rest.chars().next().map_or(0, char::len_utf8));
            }
            if depth == 0 || self.rest.is_empty() {
                return true;
            }
        }
    }

    fn name(&mut self) -> Token<'a> {
        let word = self.take_while(|c| is_name_start(c) || c.is_ascii_digit() || c == '$');
        // An escape string: a backslash may hide its end, so it is read as such.
        if self.quoting == Quoting::Sql && word.eq_ignore_ascii_case("e") && self.rest.starts_with('\'') {
            return self.escape_string();
        }
        // In UTF-8 PostgreSQL folds no other letters.
        Token::Word(clipped(&word.to_ascii_lowercase()).into())
    }

    fn quoted_name(&mut self) -> Token<'a> {
        let mut name = String::new();
        self.skip(1);
        loop {
            name.push_str(self.take_while(|c| c != '"'));
            if !self.rest.starts_with("\"\"") {
                break;
            }
            name.push('"');
            self.skip(2);
        }
        self.skip(1);
        Token::Word(clipped(&name).into())
    }

    fn string(&mut self) -> Token<'a> {
        self.skip(1);
        let text = self.take_while(|c| c != '\'');
        self.skip(1);
        Token::String(text)
    }

    fn escape_string(&mut self) -> Token<'a> {
        self.skip(1);
        let inner = self.rest;
        while let Some(c) = self.rest.chars().next() {
            let length = inner.len() - self.rest.len();
            self.skip(c.len_utf8());
            match c {
                '\'' => return Token::Quoted(inner.get(..length).unwrap_or_default()),
                '\\' => self.skip(self.rest.chars().next().map_or(0, char::len_utf8)),
                _ => {}
            }
        }
        Token::Quoted(inner)
    }

    /// A parameter, or a string between two equal tags.
    fn dollar(&mut self) -> Token<'a> {
        let after = self.rest.get(1..).unwrap_or_default();
        let tag = after.find(|c: char| !is_name_start(c) && !c.is_ascii_digit()).unwrap_or(after.len());
        if !after.get(tag..).is_some_and(|rest| rest.starts_with('$')) {
            self.skip(1 + tag.max(1));
            return Token::Other;
        }
        let tag = self.rest.get(..tag + 2).unwrap_or_default();
        self.skip(tag.len());
        let (inner, after) = self.rest.split_once(tag).unwrap_or((self.rest, ""));
        self.rest = after;
        Token::Quoted(inner)
    }
}

/// As much of a name as PostgreSQL looks at.
fn clipped(name: &str) -> &str {
    /// Bytes.
    const LONGEST: usize = 63;
    let end = (0..=name.len().min(LONGEST)).rev().find(|&end| name.is_char_boundary(end));
    name.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_' || !c.is_ascii()
}

/// As PostgreSQL splits what operators are written with: a sign at the end belongs to what follows, unless the operator has
/// one of the characters that SQL's own do not begin with.
fn without_signs(symbol: &str) -> &str {
    if symbol.contains(['~', '!', '@', '#', '%', '^', '&', '|', '`', '?']) {
        return symbol;
    }
    let bare = symbol.trim_end_matches(['+', '-']);
    symbol.get(..bare.len().max(1)).unwrap_or(symbol)
}

fn is_operator(c: char) -> bool {
    "~!@#^&|`?+-*/%<>=".contains(c)
}

/// An argument of which nothing is known.
impl Default for Argument {
    fn default() -> Self {
        Self::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[Name]) -> Vec<&str> {
        names.iter().map(|name| &*name.name).collect()
    }

    #[test]
    fn strings_and_comments_of_sql_hold_no_names() {
        let body = body("a -- b\n/* c /* d */ e */ 'f''g' E'h\\'i' $x$ j $x$ \"K\" $1 l(", Quoting::Sql);
        assert_eq!(names(&body.statement.parts[0].tables), ["a", "K", "l"]);
        assert_eq!(names(&body.statement.parts[0].functions), ["l"]);
    }

    #[test]
    fn strings_of_other_languages_may_be_sql() {
        let body = body("plpy.execute('select nextval(\\'s\\')')", Quoting::None);
        assert!(body.is_dynamic);
        assert_eq!(body.statement.needs_primary(), Some(&NeedsPrimary::Function("nextval".into())));
    }

    #[test]
    fn words_that_change_catalogs_are_seen() {
        assert!(body("BEGIN CREATE TABLE t (); END", Quoting::Sql).changes_catalog);
        assert!(!body("BEGIN RETURN count(*) FROM created; END", Quoting::Sql).changes_catalog);
        assert!(body("begin do $x$ begin drop table t; end $x$; end", Quoting::Sql).changes_catalog);
        assert!(body("begin do language plpgsql 'begin drop table t; end'; end", Quoting::Sql).changes_catalog);
        for (text, changes) in [
            ("begin execute format('INSERT INTO %I.%I VALUES ($1.*)', s, t) using new; end", false),
            ("begin execute format('delete from %I where a = $1', t) using b; end", false),
            ("begin execute 'insert into s.t (a) values ($1)' using a; end", false),
            ("begin execute 'insert into ' || t || ' values (1)'; end", true),
            ("begin execute format('insert into %I %s', t, a); end", true),
            ("begin execute format('insert into %I %2$s', t, a); end", true),
            ("begin execute format('insert into %I select %I()', t, a); end", true),
            ("begin execute 'insert into t select f()'; end", true),
            ("begin execute 'insert into t values (1); drop table t'; end", true),
            ("begin execute format('%s into t', a); end", true),
            ("begin execute 'create table ' || t; end", true),
            ("begin execute text; end", true),
            ("begin execute 'select f()'; end", true),
        ] {
            assert_eq!(body(text, Quoting::Sql).changes_catalog, changes, "{text}");
        }
        let upsert = "begin insert into t values (1) on conflict (a) where a > 1 do update set a = 2; end";
        assert!(!body(upsert, Quoting::Sql).changes_catalog);
    }

    #[test]
    fn words_that_do_more_than_read_are_seen() {
        assert!(DOES_MORE.is_sorted());
        let only_reads = |text| body(text, Quoting::Sql).only_reads;
        assert!(only_reads("DECLARE n int; BEGIN SELECT count(*) INTO n FROM t; RETURN n; -- delete\nEND"));
        assert!(only_reads("BEGIN PERFORM f('insert'); RAISE NOTICE 'update %', now(); END"));
        for text in [
            "BEGIN Insert INTO t VALUES (1); END",
            "BEGIN WITH d AS (DELETE FROM t RETURNING a) SELECT a INTO x FROM d; END",
            "BEGIN PERFORM 1 FROM t FOR NO KEY UPDATE; END",
            "BEGIN PERFORM 1 FROM t FOR KEY SHARE; END",
            "BEGIN FOR r IN EXECUTE q LOOP END LOOP; END",
            "BEGIN SET LOCAL x.y = 1; END",
            "BEGIN x := 'a\\'' ; INSERT INTO t VALUES (1); --'; END",
            "BEGIN PERFORM U&\"\\0066\"(); END",
            "BEGIN v := a ||-- it's joined\n b; INSERT INTO t VALUES (v); RETURN v; END",
            "BEGIN v := a +/* it's */ b; INSERT INTO t VALUES (v); RETURN v; END",
        ] {
            assert!(!only_reads(text), "{text}");
        }
    }

    #[test]
    fn a_setting_that_nodes_do_not_answer_alike_needs_the_primary() {
        let needs = |text: &str| body(text, Quoting::Sql).statement.needs_primary().is_some();
        assert!(!needs("BEGIN RETURN current_setting('work_mem'); END"));
        assert!(!needs("BEGIN RETURN current_setting('App.tenant', true); END"));
        for argument in ["'transaction_read_only'", "'in_hot_standby', true", "name", "'a' || b", "E'port'"] {
            assert!(needs(&format!("BEGIN RETURN current_setting({argument}); END")), "{argument}");
        }
    }

    #[test]
    fn letters_that_only_some_encodings_fold_are_looked_for_in_both_ways() {
        let body = body("BEGIN PERFORM Записать(); PERFORM WRITES(); END", Quoting::Sql);
        assert_eq!(names(&body.statement.parts[0].functions), ["Записать", "записать", "writes"]);
    }

    #[test]
    fn names_are_cut_and_told_apart_where_postgres_does() {
        let long = "я".repeat(40);
        let body = body(&format!("f\u{a0}(); a{}(); \"{long}\"(); -- g(\rh()", "x".repeat(80)), Quoting::Sql);
        let cut = [format!("a{}", "x".repeat(62)), "я".repeat(31)];
        assert_eq!(names(&body.statement.parts[0].functions), ["f\u{a0}", &cut[0], &cut[1], "h"]);
    }

    #[test]
    fn a_function_that_is_called_like_a_column_is_seen() {
        let needs = |text: &str| body(text, Quoting::Sql).statement.needs_primary().is_some();
        assert!(needs("BEGIN RETURN ('s').nextval; END"));
        assert!(needs("BEGIN RETURN ('transaction_read_only').current_setting; END"));
        assert!(needs("BEGIN PERFORM x.pg_advisory_lock FROM generate_series(1, 1) AS x; END"));
        assert!(!needs("BEGIN RETURN (SELECT c.name || c.system || (c.id).text FROM customers AS c); END"));
    }

    #[test]
    fn other_languages_have_words_of_their_own_for_running_text() {
        for text in
            ["my $r = spi_exec_query($_[0]);", "spi_exec $q", "pg.spi.exec(q)", "plpy.cursor(q)", "plpy.execute(q)"]
        {
            assert!(body(text, Quoting::None).is_dynamic, "{text}");
        }
        assert!(!body("return $_[0] + 1;", Quoting::None).is_dynamic);
        assert!(!body("DECLARE c CURSOR FOR SELECT spi_id FROM t; BEGIN OPEN c; END", Quoting::Sql).is_dynamic);
    }

    #[test]
    fn what_diagnostics_are_called_is_no_relation() {
        let needs = |text: &str| body(text, Quoting::Sql).statement.needs_primary().is_some();
        assert!(!needs("BEGIN GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT; END"));
        assert!(!needs("DECLARE at pg_lsn; BEGIN RETURN at; END"));
        assert!(needs("BEGIN PERFORM 1 FROM pg_stat_activity; END"));
    }

    #[test]
    fn no_text_is_read_beyond_its_end() {
        for text in ["'", "\"", "$", "$a", "$a$", "/*", "--", "e'", "e'\\", "/*/", "é", "$é$"] {
            body(text, Quoting::Sql);
            body(text, Quoting::None);
        }
    }
}
