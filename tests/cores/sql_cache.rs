//! What the cache answers is what a parse answers, whatever the literals are.

use proptest::prelude::*;
use trunkline::sql::{Cache, ParseSettings, classify};

#[test]
fn a_known_text_is_not_parsed_again() {
    let mut cache = Cache::new(1 << 20);
    let settings = ParseSettings::default();
    let first = cache.get(b"SELECT * FROM t WHERE a = 1", &settings);
    let second = cache.get(b"SELECT * FROM t WHERE a = 1", &settings);
    assert_eq!(first, second);
    assert_eq!((cache.counters().text_hits, cache.counters().misses), (1, 1));
}

#[test]
fn another_literal_is_found_by_its_shape_and_not_kept_by_its_text() {
    let mut cache = Cache::new(1 << 20);
    let settings = ParseSettings::default();
    cache.get(b"SELECT * FROM t WHERE a = 1 AND b = 'x'", &settings);
    let bytes = cache.bytes();
    cache.get(b"SELECT * FROM t WHERE a = 22 AND b = 'it''s'", &settings);
    assert_eq!((cache.counters().shape_hits, cache.counters().misses), (1, 1));
    assert_eq!(cache.bytes(), bytes);
}

#[test]
fn a_literal_that_decides_is_looked_at_each_time() {
    let mut cache = Cache::new(1 << 20);
    let settings = ParseSettings::default();
    let pairs = [
        ("SELECT current_setting('work_mem')", "SELECT current_setting('port')"),
        ("SELECT set_config('work_mem', '1', false)", "SELECT set_config('role', 'x', false)"),
        ("SET transaction_read_only = 1", "SET transaction_read_only = 0"),
        ("EXPLAIN (ANALYZE 0) DELETE FROM t", "EXPLAIN (ANALYZE 1) DELETE FROM t"),
        ("PREPARE p AS SELECT 1", "PREPARE p AS SELECT 2"),
        ("COPY t TO ''", "COPY t TO '/x'"),
        ("SELECT 1::float(5)", "SELECT 1::float(60)"),
        ("SELECT a FROM t LIMIT 1", "SELECT a FROM t LIMIT 1.5"),
        ("SELECT 'x'::regclass", "SELECT 'y'::regclass"),
    ];
    for (one, other) in pairs {
        assert_eq!(*cache.get(one.as_bytes(), &settings), classify(one, &settings));
        assert_eq!(*cache.get(other.as_bytes(), &settings), classify(other, &settings), "{other}");
    }
    assert_eq!(cache.counters().shape_hits, 0);
}

#[test]
fn a_backslash_is_read_as_the_session_reads_it() {
    let mut cache = Cache::new(1 << 20);
    let conforming = ParseSettings::default();
    let escaping = ParseSettings { standard_conforming_strings: false, ..conforming };
    let text = r"SELECT 'a\'; DELETE FROM t; --'";
    assert!(cache.get(text.as_bytes(), &conforming).needs_primary().is_some());
    assert!(cache.get(text.as_bytes(), &escaping).needs_primary().is_none());
    let text = r"SELECT 'a\', 'b; DELETE FROM t; --'";
    assert!(cache.get(text.as_bytes(), &escaping).needs_primary().is_some());
    assert!(cache.get(text.as_bytes(), &conforming).needs_primary().is_none());
}

#[test]
fn text_that_is_no_utf8_is_not_looked_at() {
    let mut cache = Cache::new(1 << 20);
    let settings = ParseSettings::default();
    let latin1 = ParseSettings { encoding_is_utf8: false, ..settings };
    assert!(cache.get(b"SELECT 'abc'", &settings).needs_primary().is_none());
    assert!(cache.get(b"SELECT 'a\xe9c'", &settings).needs_primary().is_some());
    assert!(cache.get("SELECT 'é'".as_bytes(), &settings).needs_primary().is_none());
    assert!(cache.get("SELECT 'é'".as_bytes(), &latin1).needs_primary().is_some());
    assert!(cache.get(b"SELECT 'a\0c'", &settings).needs_primary().is_some());
}

#[test]
fn it_stays_within_its_bytes_and_keeps_what_is_used() {
    let mut cache = Cache::new(1 << 16);
    let settings = ParseSettings::default();
    for number in 0..10_000 {
        cache.get(format!("SELECT a{number} FROM t WHERE a = 5").as_bytes(), &settings);
        cache.get(b"SELECT hot", &settings);
        assert!(cache.bytes() <= 1 << 16);
    }
    assert_eq!(cache.counters().misses, 10_001);
}

#[test]
fn cached_statements_equal_fresh_ones_over_the_golden_files() {
    let mut cache = Cache::new(1 << 22);
    let settings = ParseSettings::default();
    let statements = crate::sql_golden::statements();
    for round in 0..2 {
        for sql in &statements {
            for variant in [sql.clone(), with_other_literals(sql, round)] {
                let cached = cache.get(variant.as_bytes(), &settings);
                assert_eq!(*cached, classify(&variant, &settings), "{variant}");
            }
        }
    }
    assert!(cache.counters().shape_hits > 200);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn pieces_of_sql_in_any_order_are_cached_as_what_they_are(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 1..12),
        seeds in prop::collection::vec(0_u64..1000, 3),
    ) {
        let mut cache = Cache::new(1 << 20);
        let text = pieces.concat();
        for settings in [
            ParseSettings::default(),
            ParseSettings { standard_conforming_strings: false, ..ParseSettings::default() },
        ] {
            cache.get(text.as_bytes(), &settings);
            for seed in &seeds {
                let variant = with_other_literals(&text, *seed);
                let cached = cache.get(variant.as_bytes(), &settings);
                prop_assert_eq!(&*cached, &classify(&variant, &settings), "{} as {}", text, variant);
            }
        }
    }
}

/// What a scanner may stumble over, and enough of a statement around it.
const PIECES: &[&str] = &[
    "SELECT ",
    "SELECT 1",
    " FROM t",
    " WHERE a = ",
    "nextval(",
    "current_setting(",
    ")",
    "(",
    ", ",
    "; ",
    "DELETE FROM t",
    "'a'",
    "'it''s'",
    "''",
    "'",
    "E'\\''",
    "e'x'",
    "'\\'",
    "'\\\\'",
    "U&'x'",
    "u&\"a\"",
    "B'01'",
    "x'1f'",
    "N'n'",
    "$$a$$",
    "$x$'$x$",
    "$1",
    "$",
    "1",
    "12.5",
    ".5",
    "5.",
    "1e5",
    "1e",
    "1E-3",
    "0x1f",
    "1_000",
    "99999999999",
    "2147483648",
    "..",
    ".",
    "-",
    "--",
    "-- c\n",
    "/*",
    "*/",
    "/* c */",
    "/* /* */ */",
    "\"q\"",
    "\"",
    "\"\"",
    "a",
    "a1",
    "é",
    "'é'",
    "\n",
    " ",
    "::",
    "float(",
    "interval ",
    "date ",
    "+",
    "@-",
    "%",
    "\\",
    "LIMIT ",
    "IN (",
    "regclass",
    "::regclass",
    "::numeric(",
    "FOR UPDATE",
];

/// The text with other literals of the same kinds, as PostgreSQL's own scanner finds them.
fn with_other_literals(text: &str, seed: u64) -> String {
    use pg_query::protobuf::Token;
    let Ok(scanned) = pg_query::scan(text) else {
        return text.to_owned();
    };
    let mut other = String::new();
    let mut end = 0;
    for (token, salt) in scanned.tokens.iter().zip(seed..) {
        let (from, to) = (usize::try_from(token.start).unwrap(), usize::try_from(token.end).unwrap());
        let literal = match (token.token(), text.as_bytes()[from]) {
            (Token::Iconst, b'0'..=b'9') => INTEGERS[usize::try_from(salt).unwrap() % INTEGERS.len()],
            (Token::Fconst, _) => FLOATS[usize::try_from(salt).unwrap() % FLOATS.len()],
            (Token::Sconst, b'\'') if !text[from..to].contains('\n') => {
                STRINGS[usize::try_from(salt).unwrap() % STRINGS.len()]
            }
            _ => continue,
        };
        other += &text[end..from];
        other += literal;
        end = to;
    }
    other + &text[end..]
}

const INTEGERS: &[&str] = &["0", "1", "7", "60", "2147483647", "007"];
const FLOATS: &[&str] = &["2147483648", "1.5", ".5", "5.", "1e5", "1.5E-3", "99999999999999999999"];
const STRINGS: &[&str] = &["''", "'x'", "'it''s'", "'; DELETE FROM t; --'", "'/*'", "'port'", "'é'", "'a\"b$$'"];
