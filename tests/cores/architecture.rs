//! The shape of `src/`: a module names only lower ranks, and the pure ranks touch nothing outside the program.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by rank, as in DESIGN: those of one rank do not name each other.
const RANKS: &[&[&str]] = &[
    &["wire", "sql", "auth", "topology", "units", "complaints", "broken"],
    &["balancing", "catalog"],
    &["routing"],
    &["session"],
    &["config", "memory", "metrics", "net"],
    &["backend", "systemd"],
    &["client", "monitor", "catalogs", "handover"],
    &["admin"],
    &["reload", "drain", "entrance"],
    &["app", "demo", "explain", "init"],
    // The command line chooses among them; nothing but main knows it.
    &["cli"],
    &["main"],
];

/// Ranks below this one are pure.
const FIRST_SHELL_RANK: usize = 4;

/// What a pure module does not say: sockets, files, clocks, randomness, waiting.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os::unix::net",
    "std::fs",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "rand::",
    "async fn",
    "async move",
    ".await",
];

#[test]
fn a_module_names_only_lower_ranks() {
    let arrows: Vec<String> = sources().iter().flat_map(forbidden_arrows).collect();
    assert!(arrows.is_empty(), "not allowed:\n{}", arrows.join("\n"));
}

#[test]
fn pure_ranks_touch_nothing_outside_the_program() {
    let uses: Vec<String> = sources()
        .iter()
        .filter(|source| rank_of(&source.module).is_some_and(|rank| rank < FIRST_SHELL_RANK))
        .flat_map(|source| {
            let said = IMPURE.iter().filter(|word| says(&source.code, word));
            said.map(|word| format!("{} says {word}", source.path.display())).collect::<Vec<_>>()
        })
        .collect();
    assert!(uses.is_empty(), "not allowed:\n{}", uses.join("\n"));
}

/// Where the system has no thread left, asking a runtime for one panics: see `net/apart.rs`.
#[test]
fn nothing_blocks_on_a_thread_of_a_runtime() {
    let asks = |source: &Source| {
        ["spawn_blocking", "block_in_place", "lookup_host", "tokio::fs"].iter().any(|word| says(&source.code, word))
    };
    let names: Vec<PathBuf> = sources().into_iter().filter(asks).map(|source| source.path).collect();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn two_files_alone_may_tell_the_system_of_memory() {
    let unsafe_files = sources().into_iter().filter(|source| source.code.contains("unsafe"));
    let mut names: Vec<_> = unsafe_files.map(|source| source.path).collect();
    names.sort();
    let ends_with = |name: &PathBuf, end: &str| name.ends_with(end);
    assert!(
        matches!(&*names, [one, two] if ends_with(one, "src/memory.rs") && ends_with(two, "src/net/outbox.rs")),
        "{names:?}"
    );
}

#[test]
fn every_module_has_a_rank() {
    let unranked: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|source| source.module != "lib" && rank_of(&source.module).is_none())
        .map(|source| source.path)
        .collect();
    assert!(unranked.is_empty(), "no rank: {unranked:?}");
}

#[test]
fn grouped_and_nested_imports_are_seen() {
    let code = code_only("use crate::{admin::Page, wire::{self, Frame}};\nfn f() { crate::net::listen() }");
    assert_eq!(named_modules(&code), ["admin", "wire", "net"]);
}

#[test]
fn comments_strings_and_test_modules_are_not_code() {
    let code = code_only(
        "// crate::a::b\n/* crate::b /* crate::c */ */ let s = \"crate::d \\\" // crate::e\"; let r = r#\"\"crate::f\"#; \
         let c = '\"'; let l: &'static str = x; crate::g::h();\n#[cfg(test)]\nmod tests { fn f() { crate::i::j() } }\ncrate::k::l();",
    );
    assert_eq!(named_modules(&code), ["g", "k"]);
}

/// A file of `src/`, with the module of the first level that it belongs to.
struct Source {
    path: PathBuf,
    module: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 10, "src/ was not read");
    files.into_iter().map(|path| read(&root, path)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !holds_only_tests(&path) {
            files.push(path);
        }
    }
}

/// `tests.rs` beside a module is declared behind `#[cfg(test)]`.
fn holds_only_tests(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests") || path.iter().any(|part| part == "tests")
}

fn read(root: &Path, path: PathBuf) -> Source {
    let relative = path.strip_prefix(root).unwrap();
    let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
    Source { module, code: code_only(&fs::read_to_string(&path).unwrap()), path }
}

fn rank_of(module: &str) -> Option<usize> {
    RANKS.iter().position(|modules| modules.contains(&module))
}

fn forbidden_arrows(source: &Source) -> Vec<String> {
    // The crate's root only declares; it is below everything that it names.
    let Some(own) = rank_of(&source.module) else { return Vec::new() };
    named_modules(&source.code)
        .into_iter()
        .filter(|named| *named != source.module)
        .filter(|named| rank_of(named).is_none_or(|rank| rank >= own))
        .map(|named| format!("{} names crate::{named}", source.path.display()))
        .collect()
}

/// The first step of every path from the crate's root; the program's own file names the library as `trunkline`.
fn named_modules(code: &str) -> Vec<String> {
    let mut named = Vec::new();
    for start in ["crate::", "trunkline::"] {
        for (at, _) in code.match_indices(start) {
            if begins_a_word(code, at) {
                named.extend(first_steps(&code[at + start.len()..]));
            }
        }
    }
    named
}

/// `a::b` gives a; `{a::b, c::{d, e}}` gives a and c.
fn first_steps(path: &str) -> Vec<String> {
    let Some(group) = path.trim_start().strip_prefix('{') else { return first_word(path).into_iter().collect() };
    let mut steps: Vec<String> = first_word(group).into_iter().collect();
    let mut depth = 1;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => steps.extend(first_word(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    steps
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

fn says(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| word.starts_with('.') || begins_a_word(code, at))
}

fn begins_a_word(code: &str, at: usize) -> bool {
    !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// The text without comments, literals and test modules.
fn code_only(text: &str) -> String {
    without_test_items(&without_comments_and_literals(text))
}

fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        match uncoded_length(rest, code.chars().next_back()) {
            Some(length) => {
                code.push(' ');
                rest = &rest[length..];
            }
            None => {
                code.push(character);
                rest = &rest[character.len_utf8()..];
            }
        }
    }
    code
}

/// How long the comment or literal is that begins here, if one does.
fn uncoded_length(rest: &str, before: Option<char>) -> Option<usize> {
    let in_a_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    if let Some(hashes) = rest.strip_prefix('r').filter(|_| !in_a_word) {
        let fence = hashes.len() - hashes.trim_start_matches('#').len();
        if hashes[fence..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(fence));
            let body = fence + 2;
            return Some(rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len()));
        }
    }
    match rest.chars().next()? {
        '"' => Some(quoted_length(rest, '"')),
        '\'' if is_character(rest) => Some(quoted_length(rest, '\'')),
        _ => None,
    }
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// A lifetime has no closing quote behind its first character.
fn is_character(rest: &str) -> bool {
    let mut characters = rest.chars().skip(1);
    characters.next() == Some('\\') || characters.next() == Some('\'')
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + character.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// Cuts each item behind `#[cfg(test)]`: up to its closing brace, or its semicolon.
fn without_test_items(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        rest = &rest[item_length(rest)..];
    }
    kept + rest
}

fn item_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, character) in code.char_indices() {
        match character {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}
