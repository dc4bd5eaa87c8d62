//! What rules make of statements: `rules/*.toml` with `tests/golden/rules/*.txt`, and every example of `rules/README.md`.
//!
//! A line is `user=ada app=shop: select 1  =>  verdict`. `UPDATE_GOLDEN=1` writes the verdicts of the golden files anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use trunkline::config;
use trunkline::routing::rules::Sender;
use trunkline::routing::terms::{Nodes, Otherwise};
use trunkline::routing::{
    Catalog, Consistency, Defaults, Facts, InTransaction, Intent, Reads, RuleSet, Ruling, Terms, Weighed, weigh,
};
use trunkline::session::translate::Message;
use trunkline::session::{End, Held, Identity, Known, Session, SessionId, Settings, Surroundings};
use trunkline::sql::{Cache, ParseSettings, PreparedNames, classify, classify_bytes};
use trunkline::units;
use trunkline::wire::SqlState;
use trunkline::wire::backend::TransactionStatus;

#[test]
fn every_rule_file_does_what_its_golden_file_says() {
    let files = files_in("rules", "toml");
    assert!(files.len() >= 6, "{files:?}");
    let mut wrong = Vec::new();
    for path in files {
        let rules = load(&fs::read_to_string(&path).unwrap());
        let golden = Path::new("tests/golden/rules").join(path.file_stem().unwrap()).with_extension("txt");
        let written = fs::read_to_string(&golden).unwrap_or_else(|_| panic!("{} is missing", golden.display()));
        let judged: String = written.lines().map(|line| judge(line, &rules) + "\n").collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &judged).unwrap();
        }
        let differing = written.lines().zip(judged.lines()).filter(|(written, judged)| written != judged);
        wrong.extend(differing.map(|(written, judged)| format!("{}\n- {written}\n+ {judged}", golden.display())));
        for rule in rules.rules() {
            let decides = format!(" by {}", rule.name);
            assert!(judged.lines().any(|line| line.ends_with(&decides)), "no line for {} of {path:?}", rule.name);
        }
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 accepts these:\n{}", wrong.join("\n"));
}

#[test]
fn every_example_of_the_manual_does_what_it_says() {
    let manual = fs::read_to_string("rules/README.md").unwrap();
    let mut rules = RuleSet::default();
    let (mut examples, mut lines) = (0, 0);
    for (language, block) in blocks(&manual) {
        match language {
            "toml" if block.contains("[[rule]]") => {
                rules = load(block);
                examples += 1;
            }
            "sql" => {
                for line in block.lines().filter(|line| !line.is_empty()) {
                    assert_eq!(judge(line, &rules), line);
                    lines += 1;
                }
            }
            _ => {}
        }
    }
    assert!(examples >= 9 && lines >= 30, "{examples} examples with {lines} lines were found");
}

#[test]
fn a_fingerprint_is_found_however_long_the_first_text_of_its_shape_is() {
    let sql = "select count(*) from big where note = 'x'";
    let print = trunkline::sql::fingerprint(sql, &ParseSettings::default()).unwrap();
    let rules = load(&format!("[[rule]]\nname = 'print'\nfingerprint = '{print:016x}'\nrefuse = 'no'"));
    let mut cache = Cache::new(8 << 20);
    let settings = ParseSettings { max_bytes: 1 << 20, ..ParseSettings::default() };
    for text in [sql.replace('x', &"x".repeat(200_000)), sql.to_owned()] {
        let line = Line::read("user=ada: select 1  =>  ?").unwrap();
        let statement = cache.get(text.as_bytes(), &settings);
        let shown = show(&line.weigh(&statement, &text, &rules), &rules);
        assert!(shown.contains("print"), "{}: {shown}", text.len());
    }
}

#[test]
fn what_was_noted_of_a_statement_gives_the_same_verdict_as_a_fresh_look() {
    let mut cache = Cache::new(1 << 20);
    let (mut compared, mut passed_over) = (0, 0);
    for path in files_in("rules", "toml") {
        let rules = load(&fs::read_to_string(&path).unwrap());
        let golden = Path::new("tests/golden/rules").join(path.file_stem().unwrap()).with_extension("txt");
        for line in fs::read_to_string(golden).unwrap().lines().filter_map(Line::read) {
            // The statements of one shape share what was noted, whatever their literals are.
            for text in [line.sql.to_owned(), line.sql.replace('1', "2"), line.sql.to_owned()] {
                let cached = cache.get(text.as_bytes(), &ParseSettings::default());
                let fresh = classify(&text, &ParseSettings::default());
                let [noted, looked] =
                    [&*cached, &fresh].map(|statement| show(&line.weigh(statement, &text, &rules), &rules));
                assert_eq!(noted, looked, "{text}");
                compared += 1;
                if rules.pass_over(&rules.standing(&line.sender()), &cached) {
                    assert!(line.weigh(&fresh, &text, &rules).ruling.is_empty(), "{text}");
                    passed_over += 1;
                }
            }
        }
    }
    assert!(compared > 50 && passed_over > 5, "{passed_over} of {compared}");
}

#[test]
fn a_tag_and_a_comment_in_one_rule_must_both_be_there() {
    let rules = load("[[rule]]\nname = 'x'\ntag = 'nightly*'\ncomment = 'controller=reports'\nto = 'primary'");
    let is_met = |line: &str| judge(line, &rules).ends_with("by x");
    assert!(is_met("user=shop: /* trunkline: tag=nightly-2 */ SELECT 1 /*controller='reports'*/"));
    assert!(!is_met("user=shop: /* trunkline: tag=nightly-2 */ SELECT 1"));
    assert!(!is_met("user=shop: SELECT 1 /*controller='reports'*/"));
}

#[test]
fn a_share_is_kept_to_and_each_rule_draws_for_itself() {
    let rules = load(
        "[[rule]]\nname = 'a'\nshare = '50%'\nto = 'group:reports'\n\
         [[rule]]\nname = 'b'\nshare = '50%'\nto = 'primary'",
    );
    let statement = classify("select 1", &ParseSettings::default());
    let standing = rules.standing(&Sender::default());
    let mut counts = [0; 3];
    for draw in 0..10_000_u64 {
        let prepared = PreparedNames::default();
        let draw = draw.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let facts = Facts { draw, ..facts(&standing, &prepared) };
        counts[weigh(&statement, "select 1", &facts, &rules).ruling.rule.unwrap_or(2)] += 1_i32;
    }
    let off = |count: i32, wanted: i32| (count - wanted).abs();
    assert!(off(counts[0], 5000) < 200 && off(counts[1], 2500) < 200 && off(counts[2], 2500) < 200, "{counts:?}");
}

#[test]
fn a_reloaded_rule_goes_on_counting() {
    let text = "[[rule]]\nname = 'a'\nto = 'primary'";
    let former = load(text);
    former.rules()[0].count_match();
    let present = load(&text.replace("primary", "replicas")).counting_on(&former);
    present.rules()[0].count_match();
    assert_eq!(present.rules()[0].counts.matched(), 2);
}

#[test]
fn what_execute_runs_is_judged_by_rules_too() {
    let print = trunkline::sql::fingerprint("select 3 + 4", &ParseSettings::default()).unwrap();
    let rules = load(&format!(
        "[[rule]]\nname = 'table'\ntable = 'stock'\nto = 'primary'\n\
         [[rule]]\nname = 'kind'\nkind = 'delete'\nrefuse = 'no'\n\
         [[rule]]\nname = 'text'\ntext = '^select 7'\nconsistency = 'strong'\n\
         [[rule]]\nname = 'print'\nfingerprint = '{print:016x}'\nto = 'group:reports'"
    ));
    for (inner, execute, expected) in [
        ("select n from stock where id = $1", "execute p(1)", "primary (rule) by table"),
        ("select n from stock", "explain analyze execute p", "primary (rule) by table"),
        ("select n from stock", "execute p /* trunkline: replica */", "replicas (hint) by table"),
        ("delete from orders", "execute p", "refused 42501: no by kind"),
        ("select 7", "execute p", "replicas consistency=strong (rule) by text"),
        ("select 1 + 2", "execute p", "reports (rule) by print"),
        ("select 1", "execute p", "replicas (read)"),
        ("delete from orders", "explain execute p", "primary (writes)"),
        ("delete from orders", "explain (analyze) execute p", "refused 42501: no by kind"),
    ] {
        let mut client = Client::new(&rules);
        client.query(&format!("prepare p as {inner}"));
        assert_eq!(client.routed(execute), expected, "{inner}: {execute}");
    }
    // Also before its PREPARE is answered.
    let refused = "refused 42501: no by kind";
    for before in ["", "deallocate p; "] {
        let mut client = Client::new(&rules);
        client.query("prepare p as select 1");
        assert_eq!(client.routed(&format!("{before}prepare p as delete from orders; execute p")), refused);
    }
    let mut client = Client::new(&rules);
    client.sent("prepare p as delete from orders");
    assert_eq!(client.routed("execute p"), refused);
}

#[test]
fn what_execute_runs_goes_by_the_hints_and_comments_beside_the_execute() {
    let rules = load(
        "[[rule]]\nname = 'tag'\ntable = 'stock'\ntag = 'nightly'\nto = 'group:reports'\n\
         [[rule]]\nname = 'strong'\ntable = 'stock'\nconsistency = 'strong'\nmax_lag = '5s'\ntimeout = '9s'",
    );
    let select = "select n from stock";
    let mut client = Client::new(&rules);
    client.query(&format!("prepare p as {select} /* trunkline: tag=nightly */"));
    for comment in [
        "",
        "/* trunkline: replica */",
        "/* trunkline: max_lag=1s */",
        "/* trunkline: primary */",
        "/* trunkline: tag=nightly */",
        "",
    ] {
        // The same as of the statement itself, again and again: of what is run, nothing is noted that its comments have decided.
        let itself = client.routed(&format!("{select} {comment}"));
        assert_eq!(client.routed(&format!("execute p {comment}")), itself);
        let is_of = if comment.contains("tag") { "by tag" } else { "by strong" };
        assert!(itself.ends_with(is_of), "{itself}");
    }
    assert_eq!(
        client.routed("execute p /* trunkline: replica */"),
        "replicas max_lag=5s timeout=9s consistency=strong (hint) by strong"
    );
}

#[test]
fn an_execute_that_rules_match_too_goes_by_the_stricter_and_names_the_rule_that_made_it_so() {
    for (rules, inner, expected) in [
        (
            "name = 'a'\nkind = 'execute'\nrefuse = 'a'\n[[rule]]\nname = 'b'\nkind = 'delete'\nrefuse = 'b'",
            "delete from orders",
            "refused 42501: a by a",
        ),
        (
            "name = 'a'\nkind = 'execute'\nto = 'primary'\n[[rule]]\nname = 'b'\nkind = 'delete'\nrefuse = 'b'",
            "delete from orders",
            "refused 42501: b by b",
        ),
        (
            "name = 'a'\nkind = 'execute'\nmax_lag = '1s'\n[[rule]]\nname = 'b'\ntable = 'stock'\nmax_lag = '5s'\ntimeout = '2s'",
            "select n from stock",
            "replicas max_lag=1s timeout=2s (rule) by a",
        ),
        (
            "name = 'a'\nkind = 'execute'\nconsistency = 'eventual'",
            "select 1",
            "replicas consistency=eventual (rule) by a",
        ),
        (
            "name = 'b'\ntable = 'stock'\nto = 'primary'\n[[rule]]\nname = 'rest'\nlog = true",
            "select n from stock",
            "primary (rule) by b",
        ),
        (
            "name = 'b'\nkind = 'delete'\nlog = true\n[[rule]]\nname = 'rest'\nlog = true",
            "delete from orders",
            "primary (writes) by b",
        ),
        (
            "name = 'c'\nkind = 'execute'\nshadow = true\nto = 'primary'\n\
          [[rule]]\nname = 'd'\ntable = 'stock'\nshadow = true\nmax_lag = '1s'\n\
          [[rule]]\nname = 'b'\ntable = 'stock'\nmax_lag = '5s'",
            "select n from stock",
            "replicas max_lag=5s (rule) would change by c would change by d by b",
        ),
        ("name = 'b'\nkind = 'delete'\nwhere = false\nrefuse = 'b'", "delete from orders", "refused 42501: b by b"),
        (
            "name = 'b'\nkind = 'delete'\nwhere = false\nrefuse = 'b'",
            "delete from orders where true",
            "primary (writes)",
        ),
    ] {
        let rules = load(&format!("[[rule]]\n{rules}"));
        let mut client = Client::new(&rules);
        client.query(&format!("prepare p as {inner}"));
        assert_eq!(client.routed("execute p"), expected, "{inner}");
    }
}

#[test]
fn a_rule_that_relaxes_does_so_for_an_execute_unless_something_else_stands_beside_it() {
    let rules = load(
        "[[rule]]\nname = 'window'\ntable = 'stock'\nconsistency = 'eventual'\n\
         [[rule]]\nname = 'away'\ntable = 'sales'\nto = 'replicas'",
    );
    let mut client = Client::new(&rules);
    client.query("prepare p as select n from stock");
    client.query("prepare q as select n from sales");
    for (sql, consistency) in [
        ("execute p", Consistency::Eventual),
        ("execute p; execute p", Consistency::Eventual),
        ("execute p; select 1", Consistency::Session),
        ("execute p; execute q", Consistency::Session),
    ] {
        client.routed(sql);
        let intent = client.session.intent().unwrap();
        assert_eq!(intent.consistency_in(Consistency::Session), consistency, "{sql}");
    }
    client.reads = Reads::Primary;
    assert_eq!(client.routed("execute q"), "replicas (rule) by away");
    assert_eq!(client.routed("execute p"), "primary (reads_primary) by window");
    assert_eq!(client.routed("execute q; select 1"), "primary (reads_primary) by away");
}

#[test]
fn what_an_execute_of_the_protocol_runs_is_judged_when_it_is_bound() {
    let rules = load("[[rule]]\nname = 'table'\ntable = 'stock'\nto = 'primary'");
    for (text, is_free) in [("execute p", false), ("insert into orders values (1)", true)] {
        let mut client = Client::new(&rules);
        client.query("prepare p as select n from stock");
        client.survey(b'P', format!("\0{text}\0\0\0").as_bytes());
        let bind = &[0; 8];
        assert_eq!(client.session.survey_plain(b'B', 13, bind, Some(&rules)).unwrap(), is_free, "{text}");
        if !is_free {
            assert_eq!(client.survey(b'B', bind).rule, Some(0));
        }
    }
}

#[test]
fn what_stands_behind_a_begin_in_its_batch_is_in_a_transaction() {
    let rules = load("[[rule]]\nname = 'within'\ntransaction = true\nlog = true");
    let mut client = Client::new(&rules);
    for (text, rule) in [
        ("select 1", None),
        ("begin", None),
        ("select 1", Some(0)),
        ("rollback to a", Some(0)),
        ("commit and chain", Some(0)),
        ("commit", Some(0)),
        ("insert into t values (1)", None),
    ] {
        assert_eq!(client.run(text).rule, rule, "{text}");
    }
    client.sent("begin");
    assert_eq!(client.survey(b'Q', b"select 1\0").rule, Some(0), "it is on its way");
    client.session.gathered.clear();
    client.session.reply(b'C', b"BEGIN\0", &mut client.known).unwrap();
    assert_eq!(client.survey(b'Q', b"select 1\0").rule, Some(0));
    client.session.gathered.clear();
    client.session.reply(b'Z', b"T", &mut client.known).unwrap();
    client.sent("rollback");
    assert_eq!(client.survey(b'Q', b"select 1\0").rule, None, "its end is");
}

#[test]
fn what_is_refused_behind_a_begin_in_its_batch_leaves_a_transaction_that_has_failed() {
    let rules = load("[[rule]]\nname = 'no'\nwhere = false\nrefuse = 'all of it?'");
    for (ahead, status) in [
        (&["begin read only", "select 1"][..], TransactionStatus::Failed),
        (&["begin", "commit"], TransactionStatus::Idle),
        (&["select 1"], TransactionStatus::Idle),
    ] {
        let mut client = Client::new(&rules);
        for text in ahead.iter().chain(&["delete from t", "begin"]) {
            client.run(text);
        }
        let mut out = BytesMut::new();
        client.session.refuse_unit(SqlState::INSUFFICIENT_PRIVILEGE, "all of it?", End::Sync, &mut out);
        assert_eq!(client.session.status(), status, "{ahead:?}");
        assert_eq!(client.session.answers_alone(), status == TransactionStatus::Failed, "{ahead:?}");
    }
}

/// A session whose statements these rules judge.
struct Client<'a> {
    session: Session,
    known: Known,
    rules: &'a RuleSet,
    reads: Reads,
}

impl<'a> Client<'a> {
    fn new(rules: &'a RuleSet) -> Self {
        let identity = Identity { user: "ada".into(), database: "bench".into(), address: None };
        let session = Session::new(SessionId(1), identity, Settings::default());
        Self { session, known: Known::default(), rules, reads: Reads::Replicas }
    }

    /// Where it would be sent.
    fn routed(&mut self, sql: &str) -> String {
        self.session.gathered.clear();
        let ruling = self.survey(b'Q', format!("{sql}\0").as_bytes());
        show(&Weighed { intent: self.session.intent().unwrap().clone(), ruling }, self.rules)
    }

    /// What rules have to do with one more message.
    fn survey(&mut self, tag: u8, body: &[u8]) -> Ruling {
        let before = self.session.gathered.rulings.len();
        let mut classify = |text: &[u8]| Arc::new(classify_bytes(text, &ParseSettings::default()));
        let mut around = Surroundings::plain(&mut classify, self.rules, Held::Nothing);
        around.reads = self.reads;
        self.session.survey(tag, body.len() + 5, body, &mut around).unwrap();
        self.session.gathered.rulings.get(before).map(|ruled| ruled.ruling.clone()).unwrap_or_default()
    }

    /// One more statement of its batch: what rules have to do with its Bind.
    fn run(&mut self, text: &str) -> Ruling {
        self.survey(b'P', format!("\0{text}\0\0\0").as_bytes());
        let ruling = self.survey(b'B', &[0; 8]);
        self.survey(b'E', &[0; 5]);
        ruling
    }

    /// It is sent, and done.
    fn query(&mut self, sql: &str) {
        self.sent(sql);
        self.session.reply(b'C', b"PREPARE\0", &mut self.known).unwrap();
        self.session.reply(b'Z', b"I", &mut self.known).unwrap();
    }

    /// It is sent.
    fn sent(&mut self, sql: &str) {
        self.routed(sql);
        let body = format!("{sql}\0");
        let whole = [&b"Q"[..], &(u32::try_from(body.len()).unwrap() + 4).to_be_bytes(), body.as_bytes()].concat();
        let message = Message { tag: b'Q', body: body.as_bytes(), whole: &whole, missing: 0 };
        self.session.translate(message, &mut self.known, 500, &mut BytesMut::new()).unwrap();
        self.session.gathered.clear();
    }
}

/// A line of a golden file.
struct Line<'a> {
    /// With what stands before it in the line.
    written: &'a str,
    sql: &'a str,
    user: &'a str,
    database: &'a str,
    application: &'a str,
    address: Option<&'a str>,
    time: &'a str,
    transaction: InTransaction,
}

impl<'a> Line<'a> {
    /// None for a comment or an empty line.
    fn read(line: &'a str) -> Option<Self> {
        if line.is_empty() || line.starts_with("--") || line.starts_with('#') {
            return None;
        }
        let written = line.split(ARROW).next().unwrap().trim_end();
        let (who, sql) = written.split_once(": ").unwrap_or_else(|| panic!("who sends it? {line}"));
        let mut read = Self {
            written,
            sql,
            user: "",
            database: "bench",
            application: "",
            address: None,
            time: "12:00",
            transaction: InTransaction::No,
        };
        for word in who.split(' ') {
            match word.split_once('=').unwrap_or_else(|| panic!("{word:?} in {line}")) {
                ("user", user) => read.user = user,
                ("database", database) => read.database = database,
                ("app", application) => read.application = application,
                ("from", address) => read.address = Some(address),
                ("at", time) => read.time = time,
                ("in", "transaction") => read.transaction = InTransaction::ReadWrite,
                _ => panic!("{word:?} in {line}"),
            }
        }
        Some(read)
    }

    fn sender(&self) -> Sender<'a> {
        Sender {
            user: self.user,
            database: self.database,
            application_name: self.application,
            address: self.address.map(|address| address.parse().unwrap()),
        }
    }

    fn weigh(&self, statement: &trunkline::sql::Statement, text: &str, rules: &RuleSet) -> Weighed {
        let (standing, prepared) = (rules.standing(&self.sender()), PreparedNames::default());
        let (hours, minutes) = self.time.split_once(':').unwrap();
        let minute = hours.parse::<u16>().unwrap() * 60 + minutes.parse::<u16>().unwrap();
        let is_within = self.transaction != InTransaction::No;
        let facts = Facts { minute, transaction: self.transaction, is_within, ..facts(&standing, &prepared) };
        weigh(statement, text, &facts, rules)
    }
}

#[test]
fn a_read_that_is_kept_on_the_primary_is_known_as_one_and_keeps_the_time_of_its_rule() {
    let rules = load(
        "[[rule]]\nname = 'quick'\nuser = 'ada'\ntimeout = '5s'\n\
         [[rule]]\nname = 'slow'\nuser = 'bob'\ntimeout = '9s'\nto = 'replicas'\n\
         [[rule]]\nname = 'kept'\nuser = 'eve'\nto = 'primary'",
    );
    let prepared = PreparedNames::default();
    let intent = |user, sql: &str, transaction| {
        let sender = Sender { user, database: "bench", application_name: "", address: None };
        let standing = rules.standing(&sender);
        let facts = Facts { reads: Reads::Primary, transaction, ..facts(&standing, &prepared) };
        weigh(&classify(sql, &ParseSettings::default()), sql, &facts, &rules).intent
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (user, sql, timeout) in [
        ("ada", "select 1", seconds(5)),
        ("bob", "/* trunkline: primary */ select 1", seconds(9)),
        ("eve", "select 1", None),
        ("somebody", "select 1", None),
    ] {
        let intent = intent(user, sql, InTransaction::No);
        assert!(intent.needs_primary() && intent.is_proven() && intent.timeout() == timeout, "{user}: {intent:?}");
    }
    for (sql, transaction) in [("insert into t values (1)", InTransaction::No), ("select 1", InTransaction::ReadWrite)]
    {
        let intent = intent("ada", sql, transaction);
        assert!(!intent.is_proven() && intent.timeout().is_none(), "{sql}: {intent:?}");
    }
    // Of what travels together the shortest time counts, and none where anything may write.
    let read = |user| intent(user, "select 1", InTransaction::No);
    let hinted = intent("bob", "/* trunkline: replica */ select 1", InTransaction::No);
    assert!(matches!(hinted, Intent::Read { .. }), "{hinted:?}");
    let both = hinted.and(read("ada"));
    assert!(both.needs_primary() && both.timeout() == seconds(5), "{both:?}");
    let written = read("ada").and(intent("ada", "insert into t values (1)", InTransaction::No));
    assert!(!written.is_proven() && written.timeout().is_none(), "{written:?}");
}

#[test]
fn a_rule_that_refuses_keeps_from_the_primary_what_a_hint_moves_and_what_travels_with_it() {
    let rules = load(
        "[[rule]]\nname = 'strict'\ntable = 'a'\nto = 'group:reports'\nfallback = ['replicas', 'refuse']\n\
         [[rule]]\nname = 'near'\ntable = 'b'\nto = 'zone:b'\n[[rule]]\nname = 'quick'\ntable = 'c'\ntimeout = '5s'",
    );
    let mut client = Client::new(&rules);
    let strict = "reports else replicas else refused";
    for (batch, expected) in [
        (&["select 1 from a"][..], format!("{strict} (rule) by strict")),
        (&["select 1 from a /* trunkline: replica */"], "replicas else refused (hint) by strict".to_owned()),
        (&["select 1 from a /* trunkline: primary */"], "primary (hint) by strict".to_owned()),
        (&["select 1 from b /* trunkline: replica */"], "replicas (hint) by near".to_owned()),
        (&["select 1 from b", "select 1 from a"], "zone:b else refused (rule) by strict".to_owned()),
        (&["select 1 from a", "select 1 from b"], format!("{strict} (rule) by near")),
        (&["select 1 from c", "select 1 from a"], format!("{strict} timeout=5s (rule) by strict")),
        (&["select 1 from d", "select 1 from a"], format!("{strict} (rule) by strict")),
    ] {
        client.session.gathered.clear();
        let rulings: Vec<Ruling> = batch.iter().map(|text| client.run(text)).collect();
        let intent = client.session.intent().unwrap().clone();
        let ruling = rulings.last().unwrap().clone();
        assert_eq!(show(&Weighed { intent, ruling }, &rules), expected, "{batch:?}");
    }
}

#[test]
fn what_must_have_seen_more_than_its_optimistic_transaction_goes_on_at_the_primary() {
    let rules = load(
        "[[rule]]\nname = 'exact'\nuser = 'ada'\nconsistency = 'strong'\n\n[[rule]]\nname = 'near'\nuser = 'bob'\nmax_lag = '1s'\n\n\
         [[rule]]\nname = 'any'\nuser = 'eve'\nconsistency = 'eventual'",
    );
    for (user, sql, stays) in [
        ("ada", "select 1", false),
        ("bob", "select 1", false),
        ("eve", "select 1", true),
        ("somebody", "select 1", true),
        ("somebody", "/* trunkline: consistency=strong */ select 1", false),
        ("somebody", "/* trunkline: max_lag=1s */ select 1", false),
        ("ada", "/* trunkline: consistency=eventual */ select 1", true),
    ] {
        let line = format!("user={user}: {sql}");
        let mut read = Line::read(&line).unwrap_or_else(|| panic!("{line}"));
        read.transaction = InTransaction::Optimistic;
        let weighed = read.weigh(&classify(sql, &ParseSettings::default()), sql, &rules);
        assert_eq!(matches!(weighed.intent, Intent::Read { .. }), stays, "{line}: {:?}", weighed.intent);
    }
}

fn facts<'a>(standing: &'a trunkline::routing::Standing, prepared: &'a PreparedNames) -> Facts<'a> {
    Facts {
        standing,
        minute: 0,
        draw: 0,
        heeds_hints: true,
        reads: Reads::Replicas,
        transaction: InTransaction::No,
        is_within: false,
        optimistic: false,
        defaults: Defaults::default(),
        prepared,
        catalog: Catalog::NotAsked,
    }
}

fn judge(line: &str, rules: &RuleSet) -> String {
    let Some(read) = Line::read(line) else { return line.to_owned() };
    let statement = classify(read.sql, &ParseSettings::default());
    format!("{}{ARROW}{}", read.written, show(&read.weigh(&statement, read.sql, rules), rules))
}

fn show(weighed: &Weighed, rules: &RuleSet) -> String {
    let reason = weighed.intent.reason().code();
    let mut shown = match &weighed.intent {
        Intent::Primary(_) | Intent::Kept { .. } => format!("primary ({reason})"),
        Intent::Refuse { message, sqlstate, .. } => format!("refused {sqlstate}: {message}"),
        Intent::Read { terms, .. } => {
            format!("{} ({reason})", terms.as_deref().map_or("replicas".to_owned(), show_terms))
        }
    };
    for (number, would_change) in &weighed.ruling.shadows {
        let word = if *would_change { "would change by" } else { "would not change by" };
        shown += &format!(" {word} {}", rules.rules()[*number].name);
    }
    if let Some(number) = weighed.ruling.rule {
        shown += &format!(" by {}", rules.rules()[number].name);
    }
    shown
}

fn show_terms(terms: &Terms) -> String {
    let nodes = |nodes: &Nodes| match nodes {
        Nodes::Replicas => "replicas".to_owned(),
        Nodes::Any => "any".to_owned(),
        Nodes::Group(name) => name.to_string(),
    };
    let mut choices: Vec<String> = terms.choices.iter().map(nodes).collect();
    if terms.otherwise == Otherwise::Refuse {
        choices.push("refused".to_owned());
    }
    let mut shown = if choices.is_empty() { "replicas".to_owned() } else { choices.join(" else ") };
    let durations = [("max_lag", terms.max_lag), ("timeout", terms.timeout)];
    for (name, duration) in durations.into_iter().filter_map(|(name, duration)| Some((name, duration?))) {
        shown += &format!(" {name}={}", units::show_duration(duration));
    }
    if let Some(consistency) = terms.consistency {
        shown += &format!(" consistency={}", format!("{consistency:?}").to_lowercase());
    }
    if let Some(strategy) = terms.strategy {
        shown += &format!(" balance={strategy:?}");
    }
    shown
}

/// The rules of this text, in a configuration with the groups, tags and zones that the examples speak of.
fn load(rules: &str) -> RuleSet {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string("tests/golden/config/reference.toml").unwrap();
    let nodes = "[[cluster.group]]\nname = \"reports\"\nnodes = [\"127.0.0.1:15434\"]\n\n\
                 [[cluster.node]]\naddress = \"127.0.0.1:15433\"\nzone = \"a\"\ntags = [\"big\"]\n\n\
                 [[cluster.node]]\naddress = \"127.0.0.1:15434\"\nzone = \"b\"\n\n[cluster.monitor]";
    let text = text.replace("[cluster.monitor]", nodes).replace("rules       = []", "rules = [\"rules.toml\"]");
    let path = folder.path().join("trunkline.toml");
    fs::write(&path, text).unwrap();
    fs::write(folder.path().join("rules.toml"), rules).unwrap();
    let loaded = config::load(&path).unwrap_or_else(|problems| panic!("{rules}\n{problems}"));
    Arc::try_unwrap(loaded.routing.rules).unwrap()
}

/// The fenced blocks of a page, with their languages.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let fenced = page.split("\n```").skip(1).step_by(2);
    fenced.filter_map(|block| block.split_once('\n')).collect()
}

fn files_in(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

const ARROW: &str = "  =>  ";
