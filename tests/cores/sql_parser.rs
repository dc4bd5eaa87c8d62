//! What a hostile text must not do: crash, take long, or touch standard error. And what a standby must never get.

use std::time::{Duration, Instant};

use trunkline::sql::{Kind, NeedsPrimary, ParseSettings, classify, classify_bytes};

#[test]
fn no_depth_crashes_the_parser() {
    let deep = 20_000;
    let texts = [
        format!("SELECT {}1{}", "(".repeat(deep), ")".repeat(deep)),
        format!("SELECT {}", "(".repeat(deep)),
        format!("SELECT 1{}", "+1".repeat(deep)),
        format!("SELECT {}1", "- ".repeat(deep)),
        format!("SELECT {}true", "NOT ".repeat(deep)),
        format!("SELECT {}", "ARRAY[".repeat(deep)),
        format!("SELECT {}", "CASE WHEN ".repeat(deep / 2)),
        format!("SELECT * FROM {}", "(".repeat(deep)),
        format!("SELECT * FROM t{}", " JOIN t ON a".repeat(deep / 2)),
        format!("SELECT 1{}", "::a".repeat(deep)),
        format!("SELECT {}1{}", "f(".repeat(deep), ")".repeat(deep)),
        format!("SELECT 1{}", " UNION SELECT 1".repeat(deep / 3)),
        "EXPLAIN ".repeat(deep / 2),
    ];
    for text in texts {
        let statement = classify(&text, &ParseSettings::default());
        assert_eq!(statement.only().unwrap().kind, Kind::Unparsed, "{}", &text[..40]);
    }
}

#[test]
fn wide_is_not_deep() {
    for text in [
        format!("SELECT 1 WHERE a = 1{}", " OR a = 1".repeat(1000)),
        format!("SELECT 1 WHERE a IN (1{})", ", 1".repeat(10_000)),
        format!("VALUES (1){}", ", (1)".repeat(10_000)),
    ] {
        assert_eq!(classify(&text, &ParseSettings::default()).needs_primary(), None, "{}", &text[..40]);
    }
}

#[test]
fn nested_comment_openings_take_no_seconds() {
    let begun = Instant::now();
    for opening in ["/*", "/*/", "/*+", "+/*"] {
        classify(&opening.repeat(40_000), &ParseSettings::default());
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn many_names_and_tags_take_no_seconds() {
    let begun = Instant::now();
    let names = |count: usize, before: &str| -> String { (0..count).map(|name| format!(", {before}{name}")).collect() };
    let most = ParseSettings { max_bytes: usize::MAX, ..ParseSettings::default() };
    assert_eq!(classify(&format!("SELECT x.a{}", names(1000, "x.a")), &most).needs_primary(), None);
    for text in [
        format!("SELECT * FROM a{}", names(30_000, "b")),
        format!("SELECT x.a{}", names(30_000, "x.a")),
        format!("SELECT * FROM a WHERE true{}", (0..20_000).map(|f| format!(" AND f{f}(1)")).collect::<String>()),
        format!(
            "WITH a AS (SELECT 1){} SELECT 1",
            (0..10_000).map(|c| format!(", c{c} AS (TABLE d{c})")).collect::<String>()
        ),
    ] {
        classify(&text, &most);
    }
    let statement = classify(&format!("SELECT * FROM a{}", names(30_000, "b")), &most);
    assert_eq!(statement.needs_primary(), Some(&NeedsPrimary::TooLarge));
    assert!(!statement.is_plain_read());
    let statement = classify(&format!("PREPARE p AS SELECT * FROM a{}", names(30_000, "b")), &most);
    assert_eq!(statement.needs_primary(), Some(&NeedsPrimary::TooLarge));
    let statement = classify(&format!("LOCK a{}", names(30_000, "b")), &most);
    assert_eq!(statement.needs_primary(), Some(&NeedsPrimary::LocksTable));
    let statement = classify(&format!("SELECT x.a{}", names(30_000, "x.a")), &most);
    assert_eq!(statement.needs_primary(), Some(&NeedsPrimary::TooLarge));
    let statement = classify(&format!("SELECT 1 /*a:b{}*/", ",a:b".repeat(200_000)), &most);
    assert_eq!(statement.needs_primary(), None);
    // Were each gone through for each, it would be minutes; two seconds are usual, and others may be at work here.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_banner_of_stars_is_read() {
    let text = format!("/*{}\n{}*/ SELECT 1 --{}\n", "*".repeat(500), "=".repeat(500), "=-".repeat(500));
    assert_eq!(classify(&text, &ParseSettings::default()).needs_primary(), None);
}

#[test]
fn what_is_too_large_is_not_looked_at() {
    let settings = ParseSettings { max_bytes: 8, ..ParseSettings::default() };
    assert_eq!(classify("SELECT 1", &settings).needs_primary(), None);
    assert_eq!(classify("SELECT 12", &settings).needs_primary(), Some(&NeedsPrimary::TooLarge));
    assert_eq!(classify_bytes(&[0xFF; 9], &settings).needs_primary(), Some(&NeedsPrimary::TooLarge));
    assert_eq!(classify_bytes(&[0xFF; 8], &settings).needs_primary(), Some(&NeedsPrimary::Unparsed));
    assert_eq!(classify_bytes(b"SELECT\0", &settings).needs_primary(), Some(&NeedsPrimary::Unparsed));
}

#[test]
#[cfg(target_os = "linux")]
fn parsing_leaves_standard_error_alone() {
    // Where DEBUG is not defined, libpg_query points it at a pipe for the length of each parse: with several threads, log lines
    // get lost, and it can stay lost. Its own header defines it.
    let standard_error = || std::fs::read_link("/proc/self/fd/2").unwrap();
    let before = standard_error();
    std::thread::scope(|scope| {
        let parsing = scope.spawn(|| (0..5_000).for_each(|_| drop(classify("SELECT 1", &ParseSettings::default()))));
        while !parsing.is_finished() {
            assert_eq!(standard_error(), before, "libpg_query was compiled without DEBUG");
        }
    });
}

#[test]
fn the_effects_of_two_statements_are_those_of_each() {
    let settings = ParseSettings::default();
    let statements = crate::sql_golden::statements();
    for (one, other) in statements.iter().zip(statements.iter().skip(7)) {
        let (left, right) = (classify(one, &settings), classify(other, &settings));
        let is_readable = [&left, &right].iter().all(|side| side.parts.iter().all(|part| part.kind != Kind::Unparsed));
        if !is_readable {
            continue;
        }
        let both = classify(&format!("{one}\n;{other}"), &settings);
        let parts: Vec<_> = left.parts.iter().chain(&right.parts).cloned().collect();
        assert_eq!(*both.parts, *parts, "{one};{other}");
    }
}

#[test]
fn relations_are_listed_without_the_names_of_with_queries() {
    let tables = |sql: &str| {
        let statement = classify(sql, &ParseSettings::default());
        let names = statement.only().unwrap().tables.iter().map(|name| name.name.to_string()).collect::<Vec<_>>();
        names.join(" ")
    };
    assert_eq!(tables("WITH a AS (SELECT * FROM b) SELECT * FROM a, c, b"), "b c");
    assert_eq!(
        tables("WITH a AS (SELECT * FROM a) SELECT * FROM a"),
        "a",
        "not recursive: its own query means the table"
    );
    assert_eq!(tables("WITH RECURSIVE a AS (SELECT * FROM a) SELECT * FROM a"), "");
    assert_eq!(tables("WITH a AS (SELECT 1), b AS (SELECT * FROM a, c) SELECT * FROM s.a, b"), "c a");
    assert_eq!(tables("SELECT (WITH a AS (SELECT 1) SELECT 1 FROM a) FROM a"), "a", "out of scope");
    assert_eq!(tables("WITH a AS (SELECT 1) INSERT INTO a SELECT * FROM a"), "a", "a target is a table");
    assert_eq!(tables("SELECT * FROM a x FOR UPDATE OF x"), "a");
    assert_eq!(tables("DROP TABLE a, s.b"), "a b");
    assert_eq!(tables("COPY a FROM STDIN"), "a");
}

#[test]
fn operators_types_and_attributes_are_listed() {
    let sql = "SELECT a.b, (c).d, x <~ y, z::s.t, e BETWEEN 1 AND 2, f IN (SELECT 1) FROM g JOIN h USING (i) ORDER BY j USING @@";
    let statement = classify(sql, &ParseSettings::default());
    let part = statement.only().unwrap();
    let names =
        |names: &[trunkline::sql::Name]| names.iter().map(|name| name.name.to_string()).collect::<Vec<_>>().join(" ");
    assert_eq!(names(&part.operators), "<~ < <= > >= = @@");
    assert_eq!(names(&part.types), "t");
    assert_eq!(part.attributes.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "d"]);
}
