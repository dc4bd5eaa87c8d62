//! The session machine between clients and server connections that they share, both simulated: whatever is sent, in
//! whatever order things happen, each client is told what a server connection of its own would have told it.
//!
//! `TRUNKLINE_SESSION_CASES` says how many histories are tried (a few seconds' worth unless it is set).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use trunkline::routing::{Reads, RuleSet};
use trunkline::session::columns::Told;
use trunkline::session::translate::Message;
use trunkline::session::{Held, Identity, Known, Reply, Session, SessionId, Settings, Surroundings};
use trunkline::sql::{ParseSettings, Statement, classify_bytes};
use trunkline::wire::frontend::{self, Bind, Name, Parse, Target};
use trunkline::wire::{ErrorFields, Header, frame};

const SESSIONS: usize = 3;
const CONNECTIONS: usize = 2;

/// Statements that a server connection may hold: so few that they make room for one another.
const LIMIT: usize = 2;

/// A name of so many bytes that the end is not kept.
macro_rules! long {
    ($before:literal, $end:literal, $behind:literal) => {
        concat!($before, "b23456789_123456789_123456789_123456789_123456789_123456789_123", $end, $behind)
    };
}

/// What clients prepare and ask.
const TEXTS: [&str; 12] = [
    "select 1",
    "select 2",
    "select * from t",
    "selekt",
    "deallocate a",
    "deallocate all",
    "discard all",
    "begin",
    "rollback",
    "select * from t where true",
    "insert into t values ($1)",
    long!("deallocate ", "_of_sql", ""),
];

/// Those whose columns change.
const CHANGING: usize = 2;
const CHANGING_TOO: usize = 9;

/// The one whose parameter is of another type then.
const INSERT: usize = 10;

/// Several statements in one Query.
const SEVERAL: [&str; 3] = [
    "select 1; deallocate a",
    long!("deallocate a; deallocate ", "_of_several", "; select 2"),
    "deallocate all; selekt",
];

/// The fourth is never given, and the last is kept as the third is.
const NAMES: [&str; 5] = ["", "a", long!("", "", ""), "nobody", long!("", "_long", "")];

/// One group of messages of a client.
#[derive(Clone, Copy, Debug)]
enum Say {
    Parse(usize, usize),
    BindAndExecute(usize),
    Bind(usize),
    Describe(usize),
    Close(usize),
    Query(usize),
    Several(usize),
    Flush,
    Sync,
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A client sends this.
    Send(usize, Vec<Say>),
    /// Trunkline takes what a session's client has sent.
    Take(usize),
    /// A server connection runs so many messages.
    Run(usize, usize),
    /// Trunkline takes so many replies for a session.
    Hear(usize, usize),
    /// Once nothing is under way, the table gets other columns.
    Alter(u32),
}

fn say() -> impl Strategy<Value = Say> {
    let name = || prop_oneof![4 => Just(0_usize), 4 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(4)];
    prop_oneof![
        // The unnamed statement is parsed anew elsewhere, with whatever columns it has by then; and of two names that a
        // session gives to one text in a unit, before and after a change, both have the columns of the later. It is the
        // same with the types of parameters.
        4 => (prop::sample::select(vec![0_usize, 1, 2, 4]), 0..TEXTS.len()).prop_map(|(name, text)| match (name, text) {
            (0, CHANGING | CHANGING_TOO) => Say::Parse(0, 0),
            (1, CHANGING_TOO) => Say::Parse(1, CHANGING),
            (2 | 4, CHANGING) => Say::Parse(name, CHANGING_TOO),
            (0 | 2 | 4, INSERT) => Say::Parse(name, 0),
            _ => Say::Parse(name, text),
        }),
        6 => name().prop_map(Say::BindAndExecute),
        2 => name().prop_map(Say::Bind),
        2 => name().prop_map(Say::Describe),
        2 => name().prop_map(Say::Close),
        1 => (0..TEXTS.len()).prop_map(Say::Query),
        1 => (0..SEVERAL.len()).prop_map(Say::Several),
        1 => Just(Say::Flush),
        6 => Just(Say::Sync),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SESSIONS, prop::collection::vec(say(), 1..6)).prop_map(|(session, says)| Step::Send(session, says)),
        6 => (0..SESSIONS).prop_map(Step::Take),
        4 => (0..CONNECTIONS, 1..8_usize).prop_map(|(connection, count)| Step::Run(connection, count)),
        4 => (0..SESSIONS, 1..8_usize).prop_map(|(session, count)| Step::Hear(session, count)),
        1 => (0..2_u32).prop_map(Step::Alter),
    ]
}

#[test]
fn every_client_is_told_what_a_connection_of_its_own_would_tell() {
    let cases = std::env::var("TRUNKLINE_SESSION_CASES").map_or(20_000, |text| text.parse().unwrap());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let histories = prop::collection::vec(step(), 1..60);
    let outcome = runner.run(&histories, |steps| {
        let mut world = World::new();
        steps.iter().for_each(|step| world.take(step));
        world.end();
        for client in &world.clients {
            prop_assert_eq!(&client.told, &client.expected);
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// PostgreSQL as far as prepared statements go.
#[derive(Default)]
struct Server {
    named: BTreeMap<Vec<u8>, Plan>,
    unnamed: Option<Plan>,
    portal: Option<Plan>,
    status: Status,
    skips: bool,
    input: VecDeque<Vec<u8>>,
    /// What has not been flushed yet.
    held_back: Vec<(u8, Vec<u8>)>,
    output: VecDeque<(u8, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Idle,
    Open,
    Failed,
}

#[derive(Clone, Debug)]
struct Plan {
    text: String,
    columns: Option<u32>,
    /// The type of its parameter.
    parameter: Option<u8>,
}

/// An error's SQLSTATE and words.
type Failure = (&'static str, String);

impl Server {
    fn run(&mut self, version: u32) {
        let Some(message) = self.input.pop_front() else { return };
        let (tag, body) = (message[0], &message[frame::HEADER..]);
        if self.skips && tag != b'S' {
            return;
        }
        let done = match tag {
            b'P' => self.parse(Parse::read(body).unwrap(), version),
            b'B' => self.bind(Bind::read(body).unwrap().statement, version),
            b'D' => self.describe(frontend::target_fields(body).unwrap().1, version),
            b'E' => self.execute(),
            b'C' => {
                let (target, name) = frontend::target_fields(body).unwrap();
                assert_eq!(target, Target::Statement);
                if name.is_empty() {
                    self.unnamed = None;
                }
                self.named.remove(name.kept());
                self.tell(b'3', "");
                Ok(())
            }
            b'H' => {
                self.flush();
                Ok(())
            }
            b'S' => {
                self.skips = false;
                self.ready();
                Ok(())
            }
            b'Q' => {
                let text = String::from_utf8(frontend::query_text(body).unwrap().to_vec()).unwrap();
                if let Err(failure) = self.query(&text, version) {
                    self.fail(failure);
                }
                self.ready();
                Ok(())
            }
            _ => panic!("an unexpected message {}", char::from(tag)),
        };
        if let Err(failure) = done {
            self.fail(failure);
            self.skips = true;
        }
    }

    fn tell(&mut self, tag: u8, body: &str) {
        self.held_back.push((tag, body.as_bytes().to_vec()));
    }

    fn flush(&mut self) {
        self.output.extend(self.held_back.drain(..));
    }

    fn fail(&mut self, (code, words): Failure) {
        if self.status == Status::Open {
            self.status = Status::Failed;
        }
        self.tell(b'E', &format!("SERROR\0C{code}\0M{words}\0\0"));
        self.flush();
    }

    fn ready(&mut self) {
        if self.status == Status::Idle {
            self.portal = None;
        }
        self.tell(
            b'Z',
            match self.status {
                Status::Idle => "I",
                Status::Open => "T",
                Status::Failed => "E",
            },
        );
        self.flush();
    }

    fn plan(&self, text: &str, version: u32) -> Result<Plan, Failure> {
        if text.starts_with("selekt") {
            return Err(("42601", "syntax error".to_owned()));
        }
        if self.status == Status::Failed && !matches!(text, "" | "rollback") {
            return Err(aborted());
        }
        let parameter = text.contains("$1").then(|| 20 + u8::try_from(version).unwrap());
        Ok(Plan { text: text.to_owned(), columns: columns(text, version), parameter })
    }

    /// A name that is too long is cut where SQL is read, and its client is told so.
    fn warn(&mut self, texts: &str) {
        let names = texts.split("; ").filter_map(|text| text.strip_prefix("deallocate "));
        for name in names.map(|name| Name(name.as_bytes())).filter(|name| name.is_cut()) {
            let (sent, kept) = (text(name.0), text(name.kept()));
            self.tell(b'N', &format!("SNOTICE\0C42622\0Midentifier \"{sent}\" will be truncated to \"{kept}\"\0\0"));
        }
    }

    fn parse(&mut self, parse: Parse<'_>, version: u32) -> Result<(), Failure> {
        if parse.name.is_empty() {
            self.unnamed = None;
        }
        let query = std::str::from_utf8(parse.text).unwrap();
        self.warn(query);
        let mut plan = self.plan(query, version)?;
        if let [_, 1, _, _, _, given] = parse.types {
            plan.parameter = Some(*given);
        }
        if parse.name.is_empty() {
            self.unnamed = Some(plan);
        } else if self.named.contains_key(parse.name.kept()) {
            return Err(("42P05", format!("prepared statement \"{}\" already exists", text(parse.name.0))));
        } else {
            self.named.insert(parse.name.kept().to_vec(), plan);
        }
        self.tell(b'1', "");
        Ok(())
    }

    fn find(&self, name: Name<'_>) -> Result<Plan, Failure> {
        match if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name.kept()) } {
            Some(plan) => Ok(plan.clone()),
            None if name.is_empty() => Err(("26000", "unnamed prepared statement does not exist".to_owned())),
            None => Err(("26000", format!("prepared statement \"{}\" does not exist", text(name.0)))),
        }
    }

    fn bind(&mut self, name: Name<'_>, version: u32) -> Result<(), Failure> {
        let plan = self.find(name)?;
        if self.status == Status::Failed && plan.text != "rollback" {
            return Err(aborted());
        }
        plan.revalidate(version)?;
        self.portal = Some(plan);
        self.tell(b'2', "");
        Ok(())
    }

    fn describe(&mut self, name: Name<'_>, version: u32) -> Result<(), Failure> {
        let plan = self.find(name)?;
        if self.status == Status::Failed && plan.columns.is_some() {
            return Err(aborted());
        }
        let parameter = plan.parameter.map(|parameter| format!("\0\u{1}\0\0\0{}", char::from(parameter)));
        self.tell(b't', parameter.as_deref().unwrap_or("\0\0"));
        plan.revalidate(version)?;
        match plan.columns {
            // One column, whose type is its version.
            Some(version) => {
                let body = format!(
                    "\0\u{1}c\0\0\0\0\0\0\0\0\0\0{}\0\0\0\0\0\0\0\0",
                    char::from(u8::try_from(version).unwrap())
                );
                self.tell(b'T', &body);
            }
            None => self.tell(b'n', ""),
        }
        Ok(())
    }

    fn execute(&mut self) -> Result<(), Failure> {
        match self.portal.take() {
            Some(Plan { text, parameter: Some(parameter), .. }) => self.do_it(&format!("{text} of {parameter}")),
            Some(plan) => self.do_it(&plan.text),
            None => Err(("34000", "portal \"\" does not exist".to_owned())),
        }
    }

    fn query(&mut self, texts: &str, version: u32) -> Result<(), Failure> {
        self.unnamed = None;
        self.warn(texts);
        let texts: Vec<&str> = texts.split("; ").collect();
        if texts.contains(&"selekt") {
            return Err(("42601", "syntax error".to_owned()));
        }
        for text in texts {
            let plan = self.plan(text, version)?;
            if let Some(version) = plan.columns {
                self.tell(b'T', &version.to_string());
            }
            self.do_it(text)?;
        }
        Ok(())
    }

    fn do_it(&mut self, statement: &str) -> Result<(), Failure> {
        if self.status == Status::Failed && statement != "rollback" {
            return Err(aborted());
        }
        let tag = match statement.to_ascii_lowercase().as_str() {
            "begin" => {
                self.status = Status::Open;
                "BEGIN"
            }
            "rollback" => {
                self.status = Status::Idle;
                "ROLLBACK"
            }
            "deallocate all" => {
                self.named.clear();
                "DEALLOCATE ALL"
            }
            "discard all" if self.status == Status::Open => {
                return Err(("25001", "DISCARD ALL cannot run inside a transaction block".to_owned()));
            }
            "discard all" => {
                self.named.clear();
                "DISCARD ALL"
            }
            other => match other.strip_prefix("deallocate ") {
                Some(name) => {
                    let name = Name(name.as_bytes()).kept();
                    let (gone, name) = (self.named.remove(name), text(name));
                    gone.ok_or_else(|| ("26000", format!("prepared statement \"{name}\" does not exist")))?;
                    "DEALLOCATE"
                }
                None => {
                    self.tell(b'D', other);
                    "SELECT 1"
                }
            },
        };
        self.tell(b'C', &format!("{tag}\0"));
        Ok(())
    }
}

impl Plan {
    fn revalidate(&self, version: u32) -> Result<(), Failure> {
        match columns(&self.text, version) == self.columns {
            true => Ok(()),
            false => Err(("0A000", "cached plan must not change result type".to_owned())),
        }
    }
}

fn columns(text: &str, version: u32) -> Option<u32> {
    match text.starts_with("select * from t") {
        true => Some(10 + version),
        false => text.starts_with("select").then_some(1),
    }
}

fn aborted() -> Failure {
    ("25P02", "current transaction is aborted, commands ignored until end of transaction block".to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A client, its session in Trunkline, and the server connection that it would have of its own.
struct Client {
    session: Session,
    input: VecDeque<Vec<u8>>,
    lease: Option<usize>,
    told: Vec<String>,
    own: Server,
    expected: Vec<String>,
}

struct Connection {
    server: Server,
    known: Known,
    is_leased: bool,
}

struct World {
    clients: Vec<Client>,
    connections: Vec<Connection>,
    version: u32,
}

impl World {
    fn new() -> Self {
        let clients = (0..SESSIONS).map(|number| {
            let identity = Identity { user: "u".into(), database: "d".into(), address: None };
            let id = SessionId(u64::try_from(number).unwrap());
            let mut session = Session::new(id, identity, Settings::default());
            session.told(Arc::default());
            Client {
                session,
                input: VecDeque::new(),
                lease: None,
                told: Vec::new(),
                own: Server::default(),
                expected: Vec::new(),
            }
        });
        let connection = |_| Connection { server: Server::default(), known: Known::default(), is_leased: false };
        Self { clients: clients.collect(), connections: (0..CONNECTIONS).map(connection).collect(), version: 0 }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Send(client, says) => says.iter().flat_map(messages).for_each(|message| self.send(*client, message)),
            Step::Take(client) => self.serve(*client),
            Step::Run(connection, count) => self.run(*connection, *count),
            Step::Hear(client, count) => (0..*count).for_each(|_| self.hear(*client)),
            Step::Alter(version) => {
                self.settle();
                let is_quiet =
                    self.clients.iter().all(|client| client.input.is_empty() && !client.session.batch_is_open());
                if is_quiet {
                    self.version = *version;
                }
            }
        }
    }

    fn send(&mut self, number: usize, message: Vec<u8>) {
        let client = &mut self.clients[number];
        // What the unnamed statement takes and answers is not known elsewhere if nobody has asked for it, and in a failed
        // transaction it cannot be parsed anew to be asked.
        let describes_unnamed = message[0] == b'D' && message[frame::HEADER..] == *b"S\0";
        if client.own.status == Status::Failed && describes_unnamed {
            return;
        }
        client.own.input.push_back(message.clone());
        client.own.run(self.version);
        client.expected.extend(client.own.output.drain(..).map(|(tag, body)| words(tag, &body)));
        client.input.push_back(message);
    }

    /// As the client's task does: gathers, leases, translates.
    fn serve(&mut self, number: usize) {
        loop {
            let free = self.connections.iter().position(|connection| !connection.is_leased);
            let client = &mut self.clients[number];
            let held = if client.lease.is_some() { Held::Primary } else { Held::Nothing };
            let surveyed = client.gathered_messages();
            if client.session.gathered.end.is_none() {
                let Some(message) = client.input.get(surveyed) else { return };
                if client.session.must_wait(message[0], &message[frame::HEADER..]) {
                    return;
                }
                let message = message.clone();
                survey(&mut client.session, &message, held);
                if held == Held::Nothing {
                    continue;
                }
            }
            if client.lease.is_none() {
                let Some(free) = free else { return };
                client.lease = Some(free);
                self.connections[free].is_leased = true;
                self.verify(number, free);
            }
            let client = &mut self.clients[number];
            let connection = &mut self.connections[client.lease.unwrap()];
            if held == Held::Primary && !client.may_go(connection) {
                return;
            }
            client.translate(connection);
        }
    }

    /// A server connection that is about to serve a session's unit is asked at once.
    fn verify(&mut self, number: usize, connection: usize) {
        let (client, connection) = (&mut self.clients[number], &mut self.connections[connection]);
        if !client.session.must_verify(&connection.known) {
            return;
        }
        let (messages, asked) = client.session.verification(&mut connection.known, LIMIT);
        connection.server.input.extend(split(&messages));
        while !connection.server.input.is_empty() {
            connection.server.run(self.version);
        }
        let parsed = connection.server.output.iter().filter(|(tag, _)| *tag == b'1').count();
        let (mut told, mut types) = (Vec::new(), Box::default());
        for (tag, body) in connection.server.output.drain(..) {
            match tag {
                b't' => types = body.into(),
                b'T' | b'n' => told.push(Told { types: std::mem::take(&mut types), tag, columns: body.into() }),
                _ => {}
            }
        }
        client.session.verified(&mut connection.known, &asked, parsed, &told);
    }

    fn run(&mut self, number: usize, count: usize) {
        (0..count).for_each(|_| self.connections[number].server.run(self.version));
    }

    fn hear(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some(lease) = client.lease else { return };
        let connection = &mut self.connections[lease];
        let Some((tag, body)) = connection.server.output.pop_front() else { return };
        let reply =
            if tag == b'D' { Reply::Forward } else { client.session.reply(tag, &body, &mut connection.known).unwrap() };
        client.session.shown();
        match reply {
            Reply::Forward | Reply::Refused(..) => client.told.push(words(tag, &body)),
            Reply::Replace(bytes) | Reply::Stale(bytes) => {
                client.told.push(words(bytes[0], &bytes[frame::HEADER..]));
            }
            Reply::Hide => {}
            other => panic!("{other:?}"),
        }
        if client.session.may_release() && client.session.all_answered() {
            // A Flush may still be on its way, which nobody notices.
            let is_clean = connection.server.input.iter().all(|message| message[0] == b'H');
            assert!(is_clean && connection.server.output.is_empty());
            client.lease = None;
            connection.is_leased = false;
        }
    }

    /// Everything goes on as far as it can without the clients.
    fn settle(&mut self) {
        let mut moved = true;
        while moved {
            let before = self.clients.iter().map(|client| client.input.len()).sum::<usize>();
            (0..SESSIONS).for_each(|client| self.serve(client));
            let after = self.clients.iter().map(|client| client.input.len()).sum::<usize>();
            let is_pending = |it: &Connection| !it.server.input.is_empty() || !it.server.output.is_empty();
            moved = before != after || self.connections.iter().any(is_pending);
            (0..CONNECTIONS).for_each(|connection| self.run(connection, 100));
            (0..SESSIONS).for_each(|client| (0..100).for_each(|_| self.hear(client)));
            moved |= self.connections.iter().any(is_pending);
        }
    }

    /// All batches and transactions are ended, and everything is answered.
    fn end(&mut self) {
        for client in 0..SESSIONS {
            for message in [&Say::Sync, &Say::Query(8)].into_iter().flat_map(messages) {
                self.send(client, message);
            }
        }
        self.settle();
        for client in &self.clients {
            assert!(client.lease.is_none() && client.input.is_empty(), "{:?}", client.told);
        }
    }
}

impl Client {
    /// How many messages at the front of the input have been surveyed.
    fn gathered_messages(&self) -> usize {
        let (mut size, mut count) = (0, 0);
        while size < self.session.gathered.size {
            size += self.input[count].len();
            count += 1;
        }
        count
    }

    fn may_go(&mut self, connection: &mut Connection) -> bool {
        if self.session.must_verify(&connection.known) {
            let mut out = BytesMut::new();
            self.session.verify(&mut connection.known, LIMIT, &mut out);
            connection.server.input.extend(split(&out));
            return false;
        }
        !self.session.is_verifying()
    }

    fn translate(&mut self, connection: &mut Connection) {
        let mut out = BytesMut::new();
        for _ in 0..self.gathered_messages() {
            let message = self.input.pop_front().unwrap();
            let message = Message { tag: message[0], body: &message[frame::HEADER..], whole: &message, missing: 0 };
            self.session.translate(message, &mut connection.known, LIMIT, &mut out).unwrap();
        }
        self.session.gathered.clear();
        connection.server.input.extend(split(&out));
    }
}

fn survey(session: &mut Session, message: &[u8], held: Held) {
    thread_local! {
        static CACHE: RefCell<HashMap<Vec<u8>, Arc<Statement>>> = RefCell::default();
    }
    let mut classify = |text: &[u8]| {
        let new = || Arc::new(classify_bytes(text, &ParseSettings::default()));
        CACHE.with_borrow_mut(|cache| Arc::clone(cache.entry(text.to_vec()).or_insert_with(new)))
    };
    let rules = RuleSet::default();
    let mut around = Surroundings { reads: Reads::Primary, ..Surroundings::plain(&mut classify, &rules, held) };
    session.survey(message[0], message.len(), &message[frame::HEADER..], &mut around).unwrap();
}

fn messages(say: &Say) -> Vec<Vec<u8>> {
    let mut out = BytesMut::new();
    let put_target = |out: &mut BytesMut, tag, name: usize| {
        frontend::put_target(out, tag, Target::Statement, NAMES[name].as_bytes());
    };
    let put_bind = |out: &mut BytesMut, name: usize| {
        let bind = Bind { portal: Name(b""), statement: Name(NAMES[name].as_bytes()), rest: &[0; 6] };
        frontend::put_bind(out, bind, 0);
    };
    match *say {
        Say::Parse(name, text) => {
            let parse = Parse { name: Name(NAMES[name].as_bytes()), text: TEXTS[text].as_bytes(), types: &[0, 0] };
            frontend::put_parse(&mut out, parse);
        }
        Say::BindAndExecute(name) => {
            put_bind(&mut out, name);
            out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
        }
        Say::Bind(name) => put_bind(&mut out, name),
        Say::Describe(name) => put_target(&mut out, b'D', name),
        Say::Close(name) => put_target(&mut out, b'C', name),
        Say::Query(text) => frontend::put_query(&mut out, TEXTS[text]),
        Say::Several(text) => frontend::put_query(&mut out, SEVERAL[text]),
        Say::Flush => frontend::put_bare(&mut out, b'H'),
        Say::Sync => frontend::put_bare(&mut out, b'S'),
    }
    split(&out)
}

fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(header) = Header::peek(bytes).unwrap() {
        let (message, rest) = bytes.split_at(header.size);
        messages.push(message.to_vec());
        bytes = rest;
    }
    messages
}

fn words(tag: u8, body: &[u8]) -> String {
    match tag {
        b'E' => {
            let fields = ErrorFields::read(body);
            format!("{} {}", fields.code.as_str(), text(fields.message))
        }
        b'C' | b'D' | b'Z' | b'T' => format!("{}{}", char::from(tag), text(body)),
        _ => char::from(tag).to_string(),
    }
}
