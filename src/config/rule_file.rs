//! Rule files: `[[rule]]` tables into the [`RuleSet`] that routing asks. `rules/README.md` is their manual.

use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::routing::rules::{Rule, Share};
use crate::routing::{RuleSet, Transactions};

use super::document::{Document, Item, Table};
use super::name;
use super::problem::{Place, Problem};
use super::{rule_action, rule_conditions};

/// A rule, and where it stands.
struct Draft {
    rule: Rule,
    file: PathBuf,
    place: Place,
    name_place: Place,
}

/// The rules of all files, in order. `groups` are the names of the groups that a rule may send to, and `transactions` says what of a
/// transaction it may send on.
pub(super) fn read_all(
    files: &[(PathBuf, String)],
    groups: Vec<Arc<str>>,
    transactions: Transactions,
    problems: &mut Vec<Problem>,
) -> RuleSet {
    let mut drafts = Vec::new();
    let mut found = Vec::new();
    let names: Vec<&str> = groups.iter().map(|name| &**name).collect();
    for (path, text) in files {
        let document = Document::parse(path, text);
        read_file(&document, &names, transactions, &mut drafts);
        found.extend(document.into_problems());
    }
    check_names(&drafts, &mut found);
    check_order(&drafts, &mut found);
    found.sort_by_key(|problem| files.iter().position(|(path, _)| *path == problem.file));
    problems.append(&mut found);
    let number = number_of(files);
    RuleSet::new(drafts.into_iter().map(|draft| draft.rule).collect(), groups, number)
}

/// Rules that read alike are alike: what was found out with the ones holds for the others. Never 0, which is no rules'.
fn number_of(files: &[(PathBuf, String)]) -> u64 {
    let texts: Vec<&str> = files.iter().map(|(_, text)| &**text).collect();
    FixedState::with_seed(0).hash_one(texts).max(1)
}

fn read_file(document: &Document<'_>, groups: &[&str], transactions: Transactions, drafts: &mut Vec<Draft>) {
    let root = document.root();
    let tables = root.required_tables("rule");
    drafts.extend(tables.into_iter().filter_map(|table| read_rule(table, groups, transactions)));
    root.finish();
}

/// None after a problem that leaves nothing to compare with other rules.
fn read_rule(table: Table<'_>, groups: &[&str], transactions: Transactions) -> Option<Draft> {
    let name = name::required_label(&table, "name", "reasons and metrics name the rule");
    let place = table.place();
    let name_place = table.get("name").map_or(place, |item| item.place());
    let when = rule_conditions::read(&table);
    let logs = table.flag("log", false);
    let action = rule_action::read(&table, when.as_ref(), groups, transactions);
    let share = table.get("share").map_or(Some(Share::ALL), |item| share(&item));
    let is_shadow = table.flag("shadow", false);
    let file = table.file().to_path_buf();
    table.finish();

    let (when, action, share) = (when?, action?, share?);
    let rule = Rule { name, when, action, share, is_shadow, logs, counts: Arc::default() };
    Some(Draft { rule, file, place, name_place })
}

/// "10%", or "0.5%".
fn share(item: &Item<'_>) -> Option<Share> {
    const EXPECTED: &str = "a share between \"0.01%\" and \"100%\"";
    let number = item.text_as(EXPECTED)?.strip_suffix('%').map(str::trim_end);
    let (whole, fraction) = number.map(|number| number.split_once('.').unwrap_or((number, "0"))).unwrap_or_default();
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let hundredths =
        format!("{fraction:0<2}").parse::<u32>().ok().filter(|_| is_number(fraction) && fraction.len() <= 2);
    let whole = whole.parse::<u32>().ok().filter(|percent| *percent <= 100 && is_number(whole));
    let share = whole.zip(hundredths).and_then(|(whole, hundredths)| Share::of_ten_thousand(whole * 100 + hundredths));
    if share.is_none() {
        item.wrong(EXPECTED, None);
    }
    share
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
    let end = drafts.iter().position(|draft| draft.rule.when.is_empty() && draft.rule.hides(&draft.rule));
    let reachable = end.map_or(drafts.len(), |end| end + 1);
    if let Some(end) = drafts.get(reachable.saturating_sub(1)).filter(|_| reachable < drafts.len()) {
        let what = format!("{:?} has no condition: rules after it can never match", end.rule.name);
        problems.push(end.problem(end.place, "rule", what));
    }
    for (position, draft) in drafts.iter().enumerate().take(reachable) {
        if let Some(earlier) = drafts.iter().take(position).find(|earlier| earlier.rule.hides(&draft.rule)) {
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
