//! Rule files: `[[rule]]` tables into the [`RuleSet`] that routing asks. `rules/README.md` is their manual.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex::Regex;

use crate::routing::RuleSet;
use crate::routing::rules::{Action, Pattern, Rule, TablePattern};
use crate::sql::Kind;

use super::document::{Document, Item, Table, nearest};
use super::name;
use super::problem::{Place, Problem};

/// The SQLSTATE of a refusal that names none: insufficient privilege.
const REFUSED: &str = "42501";

/// A rule, and where it stands.
struct Draft {
    rule: Rule,
    file: PathBuf,
    place: Place,
    name_place: Place,
}

/// The rules of all files, in order. `groups` are the names of the groups that a rule may send to.
pub(super) fn read_all(files: &[(PathBuf, String)], groups: &[&str], problems: &mut Vec<Problem>) -> RuleSet {
    let mut drafts = Vec::new();
    let mut found = Vec::new();
    for (path, text) in files {
        let document = Document::parse(path, text);
        read_file(&document, groups, &mut drafts);
        found.extend(document.into_problems());
    }
    check_names(&drafts, &mut found);
    check_order(&drafts, &mut found);
    found.sort_by_key(|problem| files.iter().position(|(path, _)| *path == problem.file));
    problems.append(&mut found);
    RuleSet { rules: drafts.into_iter().map(|draft| draft.rule).collect() }
}

fn read_file(document: &Document<'_>, groups: &[&str], drafts: &mut Vec<Draft>) {
    let root = document.root();
    let tables = root.required_tables("rule");
    drafts.extend(tables.into_iter().filter_map(|table| read_rule(table, groups)));
    root.finish();
}

/// None after a problem that leaves nothing to compare with other rules.
fn read_rule(table: Table<'_>, groups: &[&str]) -> Option<Draft> {
    let name = name::required_label(&table, "name", "reasons and metrics name the rule");
    let place = table.place();
    let name_place = table.get("name").map_or(place, |item| item.place());
    let conditions = [
        patterns(&table, "user", Blank::Refused),
        patterns(&table, "database", Blank::Refused),
        patterns(&table, "application_name", Blank::Meant),
    ];
    let kinds = values(&table, "kind", kind);
    let tables = values(&table, "table", table_pattern);
    let text = table.get("text").map(|item| regex(&item)).transpose();
    let action = action(&table, kinds.as_deref().unwrap_or_default(), groups);
    let file = table.file().to_path_buf();
    table.finish();

    let [users, databases, application_names] = conditions;
    let rule = Rule {
        name,
        users: users?,
        databases: databases?,
        application_names: application_names?,
        kinds: kinds?,
        tables: tables?,
        text: text.ok()?,
        action: action?,
    };
    Some(Draft { rule, file, place, name_place })
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

fn table_pattern(item: &Item<'_>) -> Option<TablePattern> {
    let text = item.text()?;
    let mut names = text.split('.').map(|name| (!name.is_empty()).then(|| Pattern(name.into())));
    let pattern = match (names.next().flatten(), names.next(), names.next()) {
        (Some(name), None, _) => Some(TablePattern { schema: None, name }),
        (Some(schema), Some(Some(name)), None) => Some(TablePattern { schema: Some(schema), name }),
        _ => None,
    };
    if pattern.is_none() {
        item.wrong("\"table\" or \"schema.table\"", None);
    }
    pattern
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

fn action(table: &Table<'_>, kinds: &[Kind], groups: &[&str]) -> Option<Action> {
    let (to, refuse, sqlstate) = (table.get("to"), table.get("refuse"), table.get("sqlstate"));
    match (to, refuse) {
        (Some(to), None) => {
            if let Some(sqlstate) = sqlstate {
                sqlstate.problem("a SQLSTATE belongs to a rule that refuses", None);
            }
            target(&to, kinds, groups)
        }
        (None, Some(refuse)) => {
            let sqlstate = sqlstate.map_or_else(|| Some(REFUSED.into()), |item| read_sqlstate(&item));
            let message = refuse.text().filter(|text| !text.trim().is_empty());
            if message.is_none() && refuse.text().is_some() {
                refuse.problem("the message is empty: say why, the client will read it", None);
            }
            Some(Action::Refuse { message: message?.into(), sqlstate: sqlstate? })
        }
        (Some(_), Some(refuse)) => {
            refuse.problem("a rule either sends (to) or refuses (refuse)", Some("keep one of them".to_owned()));
            None
        }
        (None, None) => {
            table.missing("to", "a rule says where to send (to) or that it refuses (refuse)");
            None
        }
    }
}

fn target(item: &Item<'_>, kinds: &[Kind], groups: &[&str]) -> Option<Action> {
    const EXPECTED: &str = "\"primary\", \"replicas\" or \"group:NAME\"";
    let text = item.text_as(EXPECTED)?;
    let action = match text.split_once(':') {
        None if text == "primary" => return Some(Action::Primary),
        None if text == "replicas" => Action::Replicas,
        Some(("group", name)) => Action::Group(group(item, name, groups)?),
        _ => {
            let bare_group = groups.contains(&text).then(|| format!("did you mean \"group:{text}\"?"));
            item.wrong(EXPECTED, bare_group.or_else(|| nearest(text, &["primary", "replicas"])));
            return None;
        }
    };
    if let Some(kind) = kinds.iter().find(|kind| never_reads(**kind)) {
        let kind = kind.name();
        item.problem(format!("{kind} never runs on a replica: a rule can only move reads"), None);
        return None;
    }
    Some(action)
}

/// No statement of the kind can run on a replica, whatever it says.
fn never_reads(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Insert
            | Kind::Update
            | Kind::Delete
            | Kind::Merge
            | Kind::Truncate
            | Kind::Ddl
            | Kind::Maintenance
            | Kind::Call
            | Kind::Do
            | Kind::Listen
            | Kind::Notify
            | Kind::Lock
    )
}

fn group(item: &Item<'_>, name: &str, groups: &[&str]) -> Option<Arc<str>> {
    let is_known = groups.contains(&name);
    if !is_known {
        let hint = match groups {
            [] => Some("groups are made by [[cluster.group]]".to_owned()),
            _ => nearest(name, groups).or_else(|| Some(format!("there is: {}", groups.join(", ")))),
        };
        item.problem(format!("no cluster has a group {name:?}"), hint);
    }
    is_known.then(|| name.into())
}

fn read_sqlstate(item: &Item<'_>) -> Option<Arc<str>> {
    const EXPECTED: &str = "a SQLSTATE of five digits and capital letters as in \"42501\"";
    let text = item.text_as(EXPECTED)?;
    let is_sqlstate = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    if !is_sqlstate {
        item.wrong(EXPECTED, None);
        return None;
    }
    if matches!(text.get(..2), Some("00" | "01" | "02")) {
        item.problem(format!("{text} is not an error: classes 00, 01 and 02 are success, warning and no data"), None);
        return None;
    }
    Some(text.into())
}

fn check_names(drafts: &[Draft], problems: &mut Vec<Problem>) {
    for (position, draft) in drafts.iter().enumerate() {
        let earlier = drafts.iter().take(position).find(|earlier| earlier.rule.name == draft.rule.name);
        if let Some(earlier) = earlier.filter(|earlier| !earlier.rule.name.is_empty()) {
            let what = format!("{:?} is already the name of {}", draft.rule.name, earlier.whereabouts());
            problems.push(draft.problem(draft.name_place, "rule.name", what));
        }
    }
}

fn check_order(drafts: &[Draft], problems: &mut Vec<Problem>) {
    let end = drafts.iter().position(|draft| draft.rule.has_no_condition());
    let reachable = end.map_or(drafts.len(), |end| end + 1);
    if let Some(end) = drafts.get(reachable.saturating_sub(1)).filter(|_| reachable < drafts.len()) {
        let what = format!("{:?} has no condition: rules after it can never match", end.rule.name);
        problems.push(end.problem(end.place, "rule", what));
    }
    for (position, draft) in drafts.iter().enumerate().take(reachable) {
        if let Some(earlier) = drafts.iter().take(position).find(|earlier| earlier.rule.covers(&draft.rule)) {
            let what = format!(
                "{:?} can never match: {:?} ({}) matches all that it does",
                draft.rule.name,
                earlier.rule.name,
                earlier.whereabouts()
            );
            problems.push(draft.problem(draft.place, "rule", what));
        }
    }
}

impl Draft {
    fn problem(&self, place: Place, path: &str, what: String) -> Problem {
        Problem { file: self.file.clone(), place: Some(place), path: path.to_owned(), what, hint: None }
    }

    fn whereabouts(&self) -> String {
        format!("the rule at {}:{}", show_file(&self.file), self.place.line)
    }
}

fn show_file(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
