//! The cores, each run for some rounds: `instructions.rs` counts their instructions, `cores.rs` measures their time.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use trunkline::balancing::Balance;
use trunkline::catalog::{FunctionLists, Inventory, Path, Picture, RelationKind, RelationRow};
use trunkline::routing::place::Circumstances;
use trunkline::routing::{Catalog, Freshness, Intent, Reads, RuleSet, place};
use trunkline::session::translate::Message;
use trunkline::session::{Held, Identity, Known, Session, SessionId, Settings, Surroundings, matters};
use trunkline::sql::{Cache, MemoKey, ParseSettings, Statement, classify};
use trunkline::topology::{NodeId, NodeState, Role, View};
use trunkline::wire::{Header, frame};

/// A core, run this many rounds.
type Scenario = (&'static str, fn(usize));

pub(super) const SCENARIOS: &[Scenario] = &[
    // To classify a text,
    ("parse", parse),
    ("cached_text", cached_text),
    ("cached_shape", cached_shape),
    // to decide on a node,
    ("place", placement),
    // to walk over messages,
    ("frames", frames),
    // and to relay a statement and its answer.
    ("simple_read", simple_read),
    ("noted_read", noted_read),
    ("extended_read", extended_read),
    ("prepared_read", prepared_read),
];

const TEXT: &str = "SELECT id, customer, total, status, made FROM orders o JOIN customers c ON c.id = o.customer \
                    WHERE o.customer = 4242 AND o.status = 'open' AND o.made > '2024-01-01' AND o.total > 100.50 \
                    ORDER BY made DESC, id LIMIT 10 OFFSET 20";

fn parse(rounds: usize) {
    for _ in 0..rounds {
        black_box(classify(black_box(TEXT), &ParseSettings::default()));
    }
}

fn cached_text(rounds: usize) {
    let (mut cache, settings) = (Cache::new(CACHE), ParseSettings::default());
    for _ in 0..rounds {
        black_box(cache.get(black_box(TEXT.as_bytes()), &settings));
    }
}

/// Every text is new, and all have one shape.
fn cached_shape(rounds: usize) {
    let (mut cache, settings) = (Cache::new(CACHE), ParseSettings::default());
    let mut text = TEXT.to_owned().into_bytes();
    let at = TEXT.find("4242").expect("it stands there");
    for round in 0..rounds {
        let digits = format!("{:04}", 1000 + round % 9000);
        text.get_mut(at..at + 4).expect("it is that long").copy_from_slice(digits.as_bytes());
        black_box(cache.get(black_box(&text), &settings));
    }
}

/// A hundred rows of a result, walked over by their headers.
fn frames(rounds: usize) {
    let mut rows = BytesMut::new();
    for _ in 0..100 {
        rows.extend_from_slice(b"D\0\0\0\x26\0\x01\0\0\0\x1c0123456789012345678901234567");
    }
    for _ in 0..rounds {
        let mut rest: &[u8] = black_box(&rows);
        while let Some(header) = Header::peek(rest).expect("they are well formed") {
            assert!(!matters(header.tag));
            rest = rest.get(header.size..).unwrap_or_default();
        }
    }
}

/// A read among two fresh replicas.
fn placement(rounds: usize) {
    let intent = read();
    let now = Instant::now();
    let view = view(now);
    let (freshness, balance) = (Freshness::default(), Balance::default());
    for round in 0..rounds {
        let circumstances = Circumstances {
            reads: Reads::Replicas,
            freshness: Some(&freshness),
            group: &|_| None,
            balance: &balance,
            leases: &|node| usize::from(node.0),
            latency: &|_| None,
            stays_with: None,
            excluded: &[],
            may_wait: true,
            turn: round as u64,
            now,
        };
        black_box(place(black_box(&intent), &view, &circumstances));
    }
}

/// A Query and its answer, through the session's machine; the catalogs are not asked.
fn simple_read(rounds: usize) {
    let query = message(b'Q', b"SELECT abalance FROM pgbench_accounts WHERE aid = 4711;\0");
    converse(rounds, &NOT_ASKED, &[query], &[ROW_DESCRIPTION, ROW, SELECTED, READY]);
}

/// The same where the catalogs are known, and what they mean for the statement is noted beside it: most reads.
fn noted_read(rounds: usize) {
    let text = b"SELECT abalance FROM pgbench_accounts WHERE aid = 4711;\0";
    note(text.strip_suffix(b"\0").unwrap_or_default());
    let query = message(b'Q', text);
    converse(rounds, &pictured(), &[query], &[ROW_DESCRIPTION, ROW, SELECTED, READY]);
}

/// Parse, Bind, Describe, Execute and Sync of the unnamed statement, and their answers.
fn extended_read(rounds: usize) {
    let text = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1;";
    note(text);
    let messages = [
        message(b'P', &[b"\0", &text[..], b"\0\0\0"].concat()),
        message(b'B', b"\0\0\0\0\0\x01\0\0\0\x044711\0\0"),
        message(b'D', b"P\0"),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ];
    converse(rounds, &pictured(), &messages, &[PARSED, BOUND, ROW_DESCRIPTION, ROW, SELECTED, READY]);
}

/// Bind, Describe, Execute and Sync of a statement that is prepared already, and their answers.
fn prepared_read(rounds: usize) {
    let text = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1;";
    note(text);
    let parse = message(b'P', &[b"p0\0", &text[..], b"\0\0\0"].concat());
    let bind = message(b'B', b"\0p0\0\0\0\0\x01\0\0\0\x044711\0\0");
    let describe = message(b'D', b"P\0");
    let execute = message(b'E', b"\0\0\0\0\0");
    let sync = message(b'S', b"");
    let (mut session, mut known, catalog) = (session(), Known::default(), pictured());
    prepare(&mut session, &mut known, &[parse, sync.clone()]);
    let messages = [bind, describe, execute, sync];
    for _ in 0..rounds {
        let replies = &[BOUND, ROW_DESCRIPTION, ROW, SELECTED, READY];
        run(&mut session, &mut known, &catalog, &messages, replies);
    }
}

const PARSED: &[u8] = b"1\0\0\0\x04";
const BOUND: &[u8] = b"2\0\0\0\x04";
const SELECTED: &[u8] = b"C\0\0\0\x0dSELECT 1\0";
const ROW_DESCRIPTION: &[u8] = b"T\0\0\0\x21\0\x01abalance\0\0\0\x40\0\0\x03\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
const ROW: &[u8] = b"D\0\0\0\x0b\0\x01\0\0\0\x010";
const READY: &[u8] = b"Z\0\0\0\x05I";
/// Bytes.
const CACHE: usize = 32 << 20;

fn converse(rounds: usize, catalog: &Catalog<'_>, messages: &[Vec<u8>], replies: &[&[u8]]) {
    let mut session = session();
    let mut known = Known::default();
    for _ in 0..rounds {
        run(&mut session, &mut known, catalog, messages, replies);
    }
}

thread_local! {
    static CACHED: RefCell<Cache> = RefCell::new(Cache::new(CACHE));
    static RULES: RuleSet = RuleSet::default();
}

/// One unit: surveyed, translated, answered, released.
fn run(session: &mut Session, known: &mut Known, catalog: &Catalog<'_>, messages: &[Vec<u8>], replies: &[&[u8]]) {
    for whole in messages {
        survey(session, catalog, whole);
    }
    black_box(session.intent());
    session.served_on(Held::Replica);
    let mut out = BytesMut::with_capacity(256);
    for whole in messages {
        let (tag, body) = parts(whole);
        let message = Message { tag, body, whole, missing: 0 };
        session.translate(message, known, 500, &mut out).expect("it is well formed");
    }
    session.gathered.clear();
    for reply in replies {
        let (tag, body) = parts(reply);
        if matters(tag) {
            black_box(session.reply(tag, body, known).is_ok());
        }
    }
    assert!(session.may_release());
    let now = Instant::now();
    session.served_by(NodeId(1), false, now, now);
    black_box(out);
}

/// The same for a unit that prepares; whatever is asked of the node, by the client or beside it, is answered.
fn prepare(session: &mut Session, known: &mut Known, messages: &[Vec<u8>]) {
    let mut out = BytesMut::new();
    for whole in messages {
        survey(session, &NOT_ASKED, whole);
        let (tag, body) = parts(whole);
        session.translate(Message { tag, body, whole, missing: 0 }, known, 500, &mut out).expect("it is well formed");
    }
    session.gathered.clear();
    while let Ok(Some(header)) = Header::peek(&out) {
        let replies: &[&[u8]] = match header.tag {
            b'C' => &[b"3\0\0\0\x04"],
            b'P' => &[b"1\0\0\0\x04"],
            b'D' => &[b"t\0\0\0\x0a\0\x01\0\0\0\x17", ROW_DESCRIPTION],
            _ => &[READY],
        };
        for (tag, body) in replies.iter().map(|reply| parts(reply)) {
            session.reply(tag, body, known).expect("it is in step");
        }
        out.advance(header.size);
    }
    assert!(session.may_release());
}

fn classified(text: &[u8]) -> Arc<Statement> {
    CACHED.with_borrow_mut(|cache| cache.get(text, &ParseSettings::default()))
}

/// As a worker surveys what comes: the short ways first.
fn survey(session: &mut Session, catalog: &Catalog<'_>, whole: &[u8]) {
    RULES.with(|rules| {
        let (tag, body) = parts(whole);
        if session.survey_plain(tag, whole.len(), body, Some(rules)).expect("it is well formed") {
            return;
        }
        if tag == b'Q' && matches!(catalog, Catalog::Known { .. }) {
            let statement = classified(body.strip_suffix(b"\0").unwrap_or_default());
            assert!(session.is_free_of(rules, &statement), "there are no rules");
            assert!(session.survey_read(whole.len(), statement, catalog).is_none(), "it is noted");
            return;
        }
        survey_closely(session, catalog, whole);
    });
}

fn survey_closely(session: &mut Session, catalog: &Catalog<'_>, whole: &[u8]) {
    RULES.with(|rules| {
        let mut classify = classified;
        let mut around = Surroundings::plain(&mut classify, rules, Held::Nothing);
        around.catalog = *catalog;
        let (tag, body) = parts(whole);
        session.survey(tag, whole.len(), body, &mut around).expect("it is well formed");
    });
}

const NOT_ASKED: Catalog<'static> = Catalog::NotAsked;

/// A picture of pgbench's table, and where `public` is looked into.
static PICTURED: LazyLock<(Picture, Path)> = LazyLock::new(|| {
    let relation = RelationRow {
        oid: 20000,
        schema: 2200,
        name: "pgbench_accounts".into(),
        kind: RelationKind::Stored,
        is_unlogged: false,
        has_policies: false,
        binds_owner: false,
        owner: 10,
        row_type: 20002,
        of_type: 0,
        is_invoker: false,
    };
    let inventory = Inventory {
        schemas: vec![(11, "pg_catalog".into()), (2200, "public".into())],
        relations: vec![relation],
        server_path: Some("public".into()),
        ..Inventory::default()
    };
    let picture = Picture::draw(inventory, &FunctionLists::default(), 1, 0, 0);
    let path = picture.path(None, "bench", "bench");
    (picture, path)
});

/// The catalogs as they are known, with a place for notes.
fn pictured() -> Catalog<'static> {
    let (picture, path) = &*PICTURED;
    Catalog::Known { picture, path, key: picture.number(path).map(|number| MemoKey::new(picture.id(), number)) }
}

/// The statement is asked for once: what the catalogs mean for it is noted.
fn note(text: &[u8]) {
    let mut session = session();
    survey_closely(&mut session, &pictured(), &message(b'Q', &[text, b"\0"].concat()));
    assert!(matches!(session.intent(), Some(Intent::Read { .. })), "it is a read");
}

fn parts(message: &[u8]) -> (u8, &[u8]) {
    (message.first().copied().unwrap_or_default(), message.get(frame::HEADER..).unwrap_or_default())
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("it is short");
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

fn session() -> Session {
    let identity = Identity { user: "bench".into(), database: "bench".into(), address: None };
    Session::new(SessionId(1), identity, Settings::default())
}

fn read() -> Intent {
    let mut session = session();
    survey(&mut session, &NOT_ASKED, &message(b'Q', b"select 1\0"));
    session.intent().cloned().expect("it has a statement")
}

/// A primary and two replicas that take reads.
fn view(now: Instant) -> View {
    let addresses: Vec<Arc<str>> = ["a:5432", "b:5432", "c:5432"].map(Arc::from).to_vec();
    let mut view = View::unknown("main", &addresses);
    view.primary = Some(NodeId(0));
    view.primary_until = Some(now + Duration::from_secs(3600));
    for node in &mut view.nodes {
        node.state = NodeState::Up;
        node.role = if node.id == NodeId(0) { Role::Primary } else { Role::Replica };
        node.takes_reads = node.role == Role::Replica;
        node.reads_since = now.checked_sub(Duration::from_secs(60));
    }
    view
}
