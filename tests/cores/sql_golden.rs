//! Golden files of what statements are: `tests/golden/sql/*.txt`, one statement a line with its verdict.
//! `UPDATE_GOLDEN=1` writes the verdicts anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use trunkline::sql::{ParseSettings, Statement, classify};

#[test]
fn statements_are_judged_as_in_the_golden_files() {
    let mut wrong = Vec::new();
    for path in golden_files() {
        let written = fs::read_to_string(&path).unwrap();
        let judged: String = written.lines().map(|line| judge(line) + "\n").collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &judged).unwrap();
        }
        let differing = written.lines().zip(judged.lines()).filter(|(written, judged)| written != judged);
        wrong.extend(differing.map(|(written, judged)| format!("- {written}\n+ {judged}")));
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 accepts these:\n{}", wrong.join("\n"));
}

#[test]
fn every_reason_has_a_golden_line() {
    let seen: BTreeSet<String> = golden_files()
        .iter()
        .flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| Some(line.split_once(ARROW)?.1.split_whitespace().nth(1)?.to_owned()))
        .collect();
    // too_large is no matter of a line's text, and the raw parser makes nothing that is not known.
    let reasons = [
        "writes",
        "locks_rows",
        "locks_table",
        "changes_schema",
        "function",
        "unknown_function",
        "relation",
        "temporary",
        "notifications",
        "copy_in",
        "copy_file",
        "hold_cursor",
        "unknown_name",
        "procedural",
        "maintenance",
        "two_phase",
        "node_setting",
        "loads_library",
        "unparsed",
    ];
    for reason in reasons {
        assert!(seen.contains(reason), "no golden line has the reason {reason}");
    }
}

/// Every statement of the golden files.
pub(crate) fn statements() -> Vec<String> {
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().filter_map(sql_of).collect::<Vec<_>>();
    golden_files().iter().flat_map(lines).collect()
}

/// The statement of a line, if it has one.
fn sql_of(line: &str) -> Option<String> {
    let is_statement = !line.is_empty() && !line.starts_with('#');
    is_statement.then(|| line.split(ARROW).next().unwrap().trim_end().replace("\\n", "\n"))
}

/// The line with the verdict that its statement gets now. Comments and empty lines stay as they are.
fn judge(line: &str) -> String {
    let Some(sql) = sql_of(line) else {
        return line.to_owned();
    };
    let verdict = verdict(&classify(&sql, &ParseSettings::default()));
    format!("{}{ARROW}{verdict}", sql.replace('\n', "\\n"))
}

fn verdict(statement: &Statement) -> String {
    let mut verdict = match statement.needs_primary() {
        Some(why) => format!("primary {}", why.code()),
        None => "safe".to_owned(),
    };
    for change in statement.parts.iter().flat_map(|part| &part.session) {
        verdict += &format!(" {}", change_in_short(change));
    }
    verdict
}

/// A session change without the text that it carries.
fn change_in_short(change: &trunkline::sql::SessionChange) -> String {
    use trunkline::sql::SessionChange::*;
    match change {
        Prepare { name, needs_primary, .. } => {
            format!("Prepare({name}, {})", needs_primary.as_ref().map_or("safe", |why| why.code()))
        }
        Setting { name, .. } => {
            let verb = if change.puts_back() { "Reset" } else { "Set" };
            let scope = if change.is_local() { "Local" } else { "" };
            format!("{verb}{scope}({name})")
        }
        Execute(name) => format!("Execute({name})"),
        Deallocate(name) => format!("Deallocate({name})"),
        Pin(pin) => format!("Pin({pin:?})"),
        other => format!("{other:?}"),
    }
}

fn golden_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sql");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

const ARROW: &str = "  =>  ";
