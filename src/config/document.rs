//! A TOML file as its readers want it: values that know their places, keys that remember being asked for, and one list
//! of everything that is wrong. What a setting means is left to the readers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::elsewhere::called_here;
use super::problem::{Place, Problem};
use crate::units;

/// One file, parsed as far as it goes.
pub(super) struct Document<'d> {
    file: &'d Path,
    text: &'d str,
    tree: Spanned<DeTable<'d>>,
    /// Its syntax is broken somewhere: what seems absent may only be unread.
    is_broken: bool,
    /// From this line on, values are not what they seem: a bracket that nobody closes has swallowed them.
    swallowed_from: Option<usize>,
    problems: RefCell<Vec<Problem>>,
}

/// A table of a document, or an absent one, which reads as if it were empty.
pub(super) struct Table<'d> {
    document: &'d Document<'d>,
    entries: Option<&'d DeTable<'d>>,
    path: String,
    span: Range<usize>,
    asked: RefCell<Vec<&'static str>>,
}

/// A value of a document.
#[derive(Clone)]
pub(super) struct Item<'d> {
    document: &'d Document<'d>,
    path: String,
    span: Range<usize>,
    value: &'d DeValue<'d>,
}

/// Values of which no two may be the same.
pub(super) struct Distinct {
    seen: HashMap<String, Place>,
}

impl<'d> Document<'d> {
    /// Parses a text; what is wrong with its syntax is among the problems.
    pub(super) fn parse(file: &'d Path, text: &'d str) -> Self {
        let (tree, errors) = DeTable::parse_recoverable(text);
        let is_broken = !errors.is_empty();
        let mut document = Self { file, text, tree, is_broken, swallowed_from: None, problems: RefCell::default() };
        document.report_syntax(&errors);
        document
    }

    /// One problem a line. After a bracket that nobody closes the parser finds fault with every line that follows: of
    /// those only the first says where to look.
    fn report_syntax(&mut self, errors: &[toml::de::Error]) {
        let mut errors: Vec<(usize, &str)> = errors
            .iter()
            .map(|error| (error.span().map_or(self.text.len(), |span| span.start), error.message()))
            .collect();
        errors.sort_by_key(|(start, _)| *start);
        let is_unclosed = errors.iter().any(|(_, message)| UNCLOSED.iter().any(|start| message.starts_with(start)));
        let mut last_line = 0;
        for (start, message) in errors {
            let line = self.place(start).line;
            if line == last_line {
                continue;
            }
            last_line = line;
            let is_echo = is_unclosed && message.starts_with(ECHO_OF_UNCLOSED);
            let hint = match message {
                _ if is_echo => Some("is a bracket before it not closed?"),
                // A word that begins as true or false do.
                _ if message.starts_with(NO_BOOLEAN) => Some("a word stands in quotes"),
                _ => None,
            };
            let hint = hint.map(str::to_owned);
            self.report(start, "", format!("not valid TOML: {message}"), hint);
            if is_echo {
                self.swallowed_from = Some(line);
                return;
            }
        }
    }

    /// The whole of it.
    pub(super) fn root(&'d self) -> Table<'d> {
        Table::new(self, Some(self.tree.get_ref()), String::new(), 0..0)
    }

    /// The file, as the user named it.
    pub(super) fn file(&self) -> &'d Path {
        self.file
    }

    /// The problems found so far. Where the syntax is broken, other problems of the same line are only its echo; and a
    /// swallowed value may be a password, which no message may show.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let problems = self.problems.into_inner();
        let is_syntax = |problem: &Problem| problem.path.is_empty();
        let line = |problem: &Problem| problem.place.map_or(0, |place| place.line);
        let broken: Vec<usize> = problems.iter().filter(|problem| is_syntax(problem)).map(line).collect();
        let is_echo = |line: usize| broken.contains(&line) || self.swallowed_from.is_some_and(|first| line >= first);
        problems.into_iter().filter(|problem| is_syntax(problem) || !is_echo(line(problem))).collect()
    }

    fn place(&self, byte: usize) -> Place {
        Place::of(self.text, byte)
    }

    fn report(&self, byte: usize, path: &str, what: String, hint: Option<String>) {
        let place = Some(self.place(byte));
        let problem = Problem { file: self.file.to_path_buf(), place, path: path.to_owned(), what, hint };
        self.problems.borrow_mut().push(problem);
    }
}

impl<'d> Table<'d> {
    fn new(document: &'d Document<'d>, entries: Option<&'d DeTable<'d>>, path: String, span: Range<usize>) -> Self {
        Self { document, entries, path, span, asked: RefCell::default() }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Item<'d>> {
        if !self.asked.borrow().contains(&key) {
            self.asked.borrow_mut().push(key);
        }
        let value = self.entries?.get(key)?;
        Some(Item { document: self.document, path: self.path_of(key), span: value.span(), value: value.get_ref() })
    }

    /// The value of a key; a problem if it is not there.
    pub(super) fn require(&self, key: &'static str, why: &str) -> Option<Item<'d>> {
        let item = self.get(key);
        if item.is_none() {
            self.missing(key, why);
        }
        item
    }

    /// Reports that a key is not there, unless a syntax error may have hidden it.
    pub(super) fn missing(&self, key: &str, why: &str) {
        if !self.document.is_broken {
            self.document.report(self.span.start, &self.path_of(key), format!("missing: {why}"), None);
        }
    }

    /// Where the table begins.
    pub(super) fn place(&self) -> Place {
        self.document.place(self.span.start)
    }

    /// The file it stands in.
    pub(super) fn file(&self) -> &'d Path {
        self.document.file()
    }

    /// The table `[key]`; an absent one when it is not written.
    pub(super) fn section(&self, key: &'static str) -> Self {
        let absent = || Self::new(self.document, None, self.path_of(key), self.span.clone());
        self.get(key).map_or_else(absent, |item| item.table().unwrap_or_else(absent))
    }

    /// The table `[key]`, if it is written.
    pub(super) fn written_section(&self, key: &'static str) -> Option<Self> {
        self.get(key)?.table()
    }

    /// The tables `[[key]]`, possibly none.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Self> {
        self.get(key).map(|item| item.tables()).unwrap_or_default()
    }

    /// The tables `[[key]]`; a problem if there is none.
    pub(super) fn required_tables(&self, key: &'static str) -> Vec<Self> {
        let item = self.require(key, &format!("at least one [[{key}]] is needed"));
        item.map(|item| item.tables()).unwrap_or_default()
    }

    /// A whole number; `default` when it is not written.
    pub(super) fn count(&self, key: &'static str, default: usize, bounds: RangeInclusive<usize>) -> usize {
        self.get(key).and_then(|item| item.count(&bounds)).unwrap_or(default)
    }

    /// A duration; `default` when it is not written.
    pub(super) fn duration(&self, key: &'static str, default: Duration, bounds: RangeInclusive<Duration>) -> Duration {
        self.get(key).and_then(|item| item.duration(default, &bounds)).unwrap_or(default)
    }

    /// A duration without which something is off; none unless it is written. `example` shows in messages how one is written.
    pub(super) fn optional_duration(
        &self,
        key: &'static str,
        example: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let item = self.get(key)?;
        if item.as_str().and_then(units::duration) == Some(Duration::ZERO) {
            item.problem("0 does not turn it off", Some("leave it out".to_owned()));
            return None;
        }
        item.duration(example, &bounds)
    }

    /// A size in bytes; `default` when it is not written.
    pub(super) fn size(&self, key: &'static str, default: usize, bounds: RangeInclusive<usize>) -> usize {
        self.get(key).and_then(|item| item.size(default, &bounds)).unwrap_or(default)
    }

    /// Yes or no; `default` when it is not written.
    pub(super) fn flag(&self, key: &'static str, default: bool) -> bool {
        self.get(key).and_then(|item| item.flag()).unwrap_or(default)
    }

    /// One of some words; `default` when it is not written.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        self.get(key).and_then(|item| item.choice(words)).unwrap_or(default)
    }

    /// Reports every key that nobody has asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for key in self.entries.into_iter().flat_map(DeTable::keys) {
            let name: &str = key.get_ref();
            if !asked.contains(&name) {
                let of_others = called_here(name).map(|here| format!("what is called so elsewhere is {here}"));
                let hint = of_others.or_else(|| nearest(name, &asked));
                let hint = hint.unwrap_or_else(|| format!("known here: {}", asked.join(", ")));
                self.document.report(key.span().start, &self.path_of(name), "unknown key".to_owned(), Some(hint));
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'d> Item<'d> {
    /// Reports a problem of this value.
    pub(super) fn problem(&self, what: impl Into<String>, hint: Option<String>) {
        self.document.report(self.span.start, &self.path, what.into(), hint);
    }

    /// Reports a reference to something that is not there, unless a syntax error may have hidden it.
    pub(super) fn dangling(&self, what: impl Into<String>, hint: Option<String>) {
        if !self.document.is_broken {
            self.problem(what, hint);
        }
    }

    /// Reports a problem at one byte of this text, as exactly as its quoting allows.
    pub(super) fn problem_at(&self, byte: usize, what: impl Into<String>, hint: Option<String>) {
        let raw = self.document.text.get(self.span.clone()).unwrap_or_default();
        let quote = raw.bytes().take_while(|byte| matches!(byte, b'"' | b'\'')).count().min(3);
        let is_verbatim = self.as_str().is_some_and(|text| raw.get(quote..).is_some_and(|rest| rest.starts_with(text)));
        let start = if is_verbatim { self.span.start + quote + byte } else { self.span.start };
        self.document.report(start, &self.path, what.into(), hint);
    }

    /// Where the value begins.
    pub(super) fn place(&self) -> Place {
        self.document.place(self.span.start)
    }

    /// A text.
    pub(super) fn text(&self) -> Option<&'d str> {
        self.text_as("a string")
    }

    /// A text; `expected` says in messages what kind.
    pub(super) fn text_as(&self, expected: &str) -> Option<&'d str> {
        let text = self.as_str();
        if text.is_none() {
            self.wrong(expected, None);
        }
        text
    }

    /// A text that no message may show.
    pub(super) fn secret_text(&self) -> Option<&'d str> {
        let text = self.as_str();
        if text.is_none() {
            self.problem(format!("expected a string, found {}", kind_of(self.value)), None);
        }
        text
    }

    /// Whether it is a list at all.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    /// The values of a list; `of` says in messages what they are.
    pub(super) fn list(&self, of: &str) -> Vec<Self> {
        let DeValue::Array(values) = self.value else {
            let hint = self.as_str().map(|text| format!("write [{text:?}]"));
            self.wrong(&format!("a list of {of}"), hint);
            return Vec::new();
        };
        values.iter().map(|value| Self { span: value.span(), value: value.get_ref(), ..self.clone() }).collect()
    }

    /// The same, where no message may show what is found.
    pub(super) fn secret_list(&self, of: &str) -> Vec<Self> {
        if !self.is_list() {
            let hint = "write a list, as in [\"...\"]".to_owned();
            self.problem(format!("expected a list of {of}, found {}", kind_of(self.value)), Some(hint));
            return Vec::new();
        }
        self.list(of)
    }

    /// The values of a list, or one value that stands for a list of one.
    pub(super) fn one_or_list(&self) -> Vec<Self> {
        match self.value {
            DeValue::Array(_) => self.list("strings"),
            _ => vec![self.clone()],
        }
    }

    fn tables(&self) -> Vec<Table<'d>> {
        let hint = || Some(format!("write [[{}]]", self.path));
        match self.value {
            DeValue::Array(values) if values.is_empty() => self.problem("the list is empty", hint()),
            DeValue::Array(_) => return self.list("tables").iter().filter_map(Item::table).collect(),
            DeValue::Table(_) => {
                self.problem("expected a list of tables, found one table", hint());
                return self.table().into_iter().collect();
            }
            _ => self.wrong("a list of tables", hint()),
        }
        Vec::new()
    }

    /// A table.
    pub(super) fn table(&self) -> Option<Table<'d>> {
        let DeValue::Table(entries) = self.value else {
            let is_list = matches!(self.value, DeValue::Array(_));
            self.wrong("a table", is_list.then(|| format!("write [{}], once", self.path)));
            return None;
        };
        Some(Table::new(self.document, Some(entries), self.path.clone(), self.span.clone()))
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let expected = any_of(&names);
        let text = self.text_as(&expected)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            self.wrong(&expected, nearest(text, &names));
        }
        found
    }

    /// Yes or no.
    pub(super) fn flag(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.wrong("true or false", None);
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn count(&self, bounds: &RangeInclusive<usize>) -> Option<usize> {
        let number = match self.value {
            DeValue::Integer(integer) => usize::from_str_radix(integer.as_str(), integer.radix()).ok(),
            _ => None,
        };
        let expected = || format!("a whole number between {} and {}", bounds.start(), bounds.end());
        self.bounded(number, bounds, expected, None)
    }

    /// A duration within bounds; `example` shows in messages how one is written.
    pub(super) fn duration(&self, example: Duration, bounds: &RangeInclusive<Duration>) -> Option<Duration> {
        let expected = || {
            let [low, high] = [bounds.start(), bounds.end()].map(|bound| units::show_duration(*bound));
            format!("a duration between {low} and {high}")
        };
        let duration = self.as_str().and_then(units::duration);
        let hint =
            || format!("a whole number and {}, as in {:?}", units::DURATION_UNITS, units::show_duration(example));
        self.bounded(duration, bounds, expected, duration.is_none().then(hint))
    }

    fn size(&self, example: usize, bounds: &RangeInclusive<usize>) -> Option<usize> {
        let expected = || {
            let [low, high] = [bounds.start(), bounds.end()].map(|bound| units::show_size(*bound));
            format!("a size between {low} and {high}")
        };
        let size = self.as_str().and_then(units::size);
        let hint = || format!("a whole number and {}, as in {:?}", units::SIZE_UNITS, units::show_size(example));
        self.bounded(size, bounds, expected, size.is_none().then(hint))
    }

    fn bounded<T: PartialOrd>(
        &self,
        value: Option<T>,
        bounds: &RangeInclusive<T>,
        expected: impl Fn() -> String,
        hint: Option<String>,
    ) -> Option<T> {
        let value = value.filter(|value| bounds.contains(value));
        if value.is_none() {
            self.wrong(&expected(), hint);
        }
        value
    }

    /// Reports what was expected beside what is there.
    pub(super) fn wrong(&self, expected: &str, hint: Option<String>) {
        self.problem(format!("expected {expected}, found {}", show(self.value)), hint);
    }

    /// The text, if it is one.
    pub(super) fn as_str(&self) -> Option<&'d str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }
}

impl Distinct {
    /// Nothing seen yet.
    pub(super) fn new() -> Self {
        Self { seen: HashMap::new() }
    }

    /// Whether it is the first of its kind; a problem if not.
    pub(super) fn admit(&mut self, key: &str, item: &Item<'_>) -> bool {
        if key.is_empty() {
            return true;
        }
        if let Some(first) = self.seen.get(key) {
            item.problem(format!("{key:?} is already given on line {}", first.line), None);
            return false;
        }
        self.seen.insert(key.to_owned(), item.place());
        true
    }
}

/// How the parser says that the text ends within brackets.
const UNCLOSED: [&str; 2] = ["unclosed array", "unclosed inline table"];

/// How it says that a value begins as `true` or `false`, and is neither.
const NO_BOOLEAN: &str = "invalid boolean";

/// How it says that a line within brackets does not belong there.
const ECHO_OF_UNCLOSED: &str = "missing comma between";

/// "did you mean …", if one of the words is close.
pub(super) fn nearest(name: &str, words: &[&str]) -> Option<String> {
    let folded = name.to_lowercase();
    let distance = |word: &str| strsim::damerau_levenshtein(&folded, &word.to_lowercase());
    let closest = words.iter().min_by_key(|word| distance(word))?;
    // A third of the word wrong is a slip; more is another word.
    let slip = 1.max(name.chars().count() / 3);
    (distance(closest) <= slip).then(|| format!("did you mean {closest:?}?"))
}

/// `"a", "b" or "c"`.
fn any_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn show(value: &DeValue<'_>) -> String {
    /// Longer texts are cut in messages: a problem is one line.
    const SHOWN: usize = 60;
    match value {
        DeValue::String(text) if text.chars().count() > SHOWN => {
            format!("{:?}…", text.chars().take(SHOWN).collect::<String>())
        }
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        other => kind_of(other).to_owned(),
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::Problems;
    use super::*;

    fn problems(text: &str, read: impl FnOnce(&Table<'_>)) -> Vec<String> {
        let document = Document::parse(Path::new("t.toml"), text);
        let root = document.root();
        read(&root);
        root.finish();
        let problems = Problems::collect(document.into_problems());
        problems.iter().flat_map(Problems::iter).map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_key_is_reported_with_the_one_that_was_meant() {
        let found = problems("siez = 1\nzebra = 2", |root| {
            root.get("size");
            root.get("mode");
        });
        assert_eq!(
            found,
            [
                "t.toml:1:1: siez: unknown key (did you mean \"size\"?)",
                "t.toml:2:1: zebra: unknown key (known here: size, mode)"
            ]
        );
    }

    #[test]
    fn every_syntax_error_is_reported_and_what_they_may_have_hidden_is_not() {
        let found = problems("a = \nb = [1,, 2]\nc = 5", |root| {
            root.require("a", "it is needed");
            root.require("d", "it is needed");
            root.get("b");
            root.get("c").unwrap().text();
        });
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].starts_with("t.toml:1:5: not valid TOML: "), "{}", found[0]);
        assert!(found[1].starts_with("t.toml:2:8: not valid TOML: "), "{}", found[1]);
        assert_eq!(found[2], "t.toml:3:5: c: expected a string, found 5");
    }

    #[test]
    fn a_number_outside_its_bounds_is_named_with_them() {
        let read = |root: &Table<'_>| assert_eq!(root.count("size", 20, 1..=9), 20);
        for value in ["0", "10", "-1", "\"many\"", "1.5", "99999999999999999999"] {
            let shown = format!("t.toml:1:8: size: expected a whole number between 1 and 9, found {value}");
            assert_eq!(problems(&format!("size = {value}"), read), [shown]);
        }
    }

    #[test]
    fn a_place_in_a_text_is_exact_unless_escapes_are_in_the_way() {
        let at_two = |root: &Table<'_>| root.get("text").unwrap().problem_at(2, "here", None);
        assert_eq!(problems("text = 'abc'", at_two), ["t.toml:1:11: text: here"]);
        assert_eq!(problems("text = '''abc'''", at_two), ["t.toml:1:13: text: here"]);
        assert_eq!(problems("text = \"\\tabc\"", at_two), ["t.toml:1:8: text: here"]);
    }

    #[test]
    fn one_table_where_a_list_is_meant_is_read_all_the_same() {
        let found = problems("[user]\nname = 1", |root| {
            let users = root.tables("user");
            users[0].get("name").unwrap().text();
        });
        assert_eq!(
            found,
            [
                "t.toml:1:1: user: expected a list of tables, found one table (write [[user]])",
                "t.toml:2:8: user.name: expected a string, found 1"
            ]
        );
    }

    #[test]
    fn only_a_close_word_is_suggested() {
        assert_eq!(nearest("trasnaction", &["session", "transaction"]), Some("did you mean \"transaction\"?".into()));
        assert_eq!(nearest("Session", &["session"]), Some("did you mean \"session\"?".into()));
        assert_eq!(nearest("tls", &["pool", "log"]), None);
    }
}
