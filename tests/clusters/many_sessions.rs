//! Many sessions over few server connections: each changes its settings, roles, search_path and prepared statements at
//! random, some vanish in the middle, and nobody ever meets anything but what it has left itself.
//!
//! `TRUNKLINE_RUN_SECONDS` says for how long, `TRUNKLINE_SESSIONS` how many; a tenth as many server connections, at least 10.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, SimpleQueryMessage, Statement};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::fixture::{Proxy, cluster, eventually, limited_to, number};
use crate::raw::{RawClient, bind, execute, parse, query};

#[test]
fn nothing_leaks_and_nothing_is_lost_among_many_sessions_on_few_connections() {
    let seconds = Duration::from_secs(number("TRUNKLINE_RUN_SECONDS", 8));
    let sessions = number("TRUNKLINE_SESSIONS", 40);
    limited_to(seconds + Duration::from_secs(50), move || {
        let cluster = cluster();
        cluster.node(0).sql(&objects()).unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
        }
        let size = (sessions / 10).max(10);
        let proxy = Arc::new(Proxy::start(&cluster, &format!("[pool]\nsize = {size}")));
        let until = Instant::now() + seconds;
        let threads: Vec<_> = (0..sessions)
            .map(|id| {
                let proxy = Arc::clone(&proxy);
                thread::spawn(move || live(&proxy, id, until))
            })
            .collect();
        // By then everything has grown that grows at all.
        thread::sleep(seconds / 4);
        let early = proxy.resident_megabytes();
        let steps: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        println!("{} steps of {sessions} sessions, the slowest {:?}", steps.iter().sum::<u64>(), steps.iter().min());
        assert!(steps.iter().all(|count| *count > 0), "{steps:?}");
        eventually("nothing is left of them", Duration::from_secs(10), || {
            proxy.metric("trunkline_clients", "") + proxy.metric("trunkline_pool_connections", "state=\"leased\"")
                == 0.0
        });
        let late = proxy.resident_megabytes();
        println!("{early} MB resident after a quarter of the time, {late} MB at its end");
        assert!(seconds < Duration::from_secs(60) || late <= early + early / 4, "{early} MB, then {late} MB");
    });
}

/// Roles to become, and schemas that are told by the table in them.
fn objects() -> String {
    let each = (1..4).map(|number| {
        format!(
            "create role r{number}; create schema s{number}; create table s{number}.who as select 's{number}' as name; \
             grant usage on schema s{number} to public; grant select on s{number}.who to public;"
        )
    });
    each.collect()
}

/// Sessions one after another until the time is over; answers how many steps they took.
fn live(proxy: &Proxy, id: u64, until: Instant) -> u64 {
    let mut random = StdRng::seed_from_u64(id);
    let mut steps = 0;
    while Instant::now() < until {
        let mut session = Session::begin(proxy, random.random());
        for _ in 0..random.random_range(20..120) {
            session.step();
            steps += 1;
            if Instant::now() >= until {
                break;
            }
        }
        if random.random_ratio(1, 3) {
            vanish(proxy, &mut random);
        }
    }
    steps
}

/// A client that leaves as much as it can, and is gone in the middle of something.
fn vanish(proxy: &Proxy, random: &mut StdRng) {
    let mut client = RawClient::connect(proxy.port(), &[]);
    let settings = "set work_mem = '1MB'; set my.own = 'leaked'; set search_path = s3; set role r3";
    client.query(&format!("begin; {settings}"));
    let unnamed = [&parse("", "select 'leaked'")[..], &bind("", &[]), &execute()].concat();
    match random.random_range(0..4) {
        0 => client.send(&[&unnamed]),
        1 => client.send(&[&parse("p", "select 'leaked'"), &query("prepare p as select 'leaked'")]),
        2 => client.send(&[&query("commit"), &query("select pg_sleep(0.01)")]),
        _ => client.send(&[b"Q\0\0\0\x40select"]),
    }
}

/// A session, and what it must find.
struct Session {
    client: Client,
    random: StdRng,
    work_mem: Option<u32>,
    own: Option<u32>,
    search_path: Option<u32>,
    role: Option<u32>,
    by_sql: BTreeMap<String, u32>,
    by_protocol: Vec<(Statement, i32)>,
}

impl Session {
    fn begin(proxy: &Proxy, seed: u64) -> Self {
        let mut session = Self {
            client: proxy.client(),
            random: StdRng::seed_from_u64(seed),
            work_mem: None,
            own: None,
            search_path: None,
            role: None,
            by_sql: BTreeMap::new(),
            by_protocol: Vec::new(),
        };
        session.look();
        session
    }

    fn step(&mut self) {
        let value = self.random.random_range(1..4);
        match self.random.random_range(0..15) {
            0 => {
                self.work_mem = Some(value);
                self.run(&format!("set work_mem = '{value}MB'"));
            }
            1 => {
                self.own = Some(value);
                self.run(&format!("select set_config('my.own', '{value}', false)"));
            }
            2 => {
                self.search_path = Some(value);
                self.run(&format!("set search_path = s{value}"));
            }
            3 => {
                self.role = Some(value);
                self.run(&format!("set role r{value}"));
            }
            4 => self.reset(value),
            5 => self.run("begin; set my.own = 'undone'; set search_path = s3; rollback"),
            6 => self.run("begin; set local work_mem = '9MB'; set local role r2; commit"),
            7 => {
                let name = format!("p{value}");
                if self.by_sql.insert(name.clone(), value).is_none() {
                    self.run(&format!("prepare {name} as select {value}"));
                }
            }
            8 => {
                if let Some((name, _)) = self.by_sql.pop_first() {
                    self.run(&format!("deallocate {name}"));
                }
            }
            9 if self.by_protocol.len() < 5 => {
                let added = i32::try_from(value).unwrap();
                let prepared = self.client.prepare(&format!("select $1::int + {added}")).unwrap();
                self.by_protocol.push((prepared, added));
            }
            10 => self.by_protocol.clear(),
            11 => self.try_what_fails(),
            _ => self.look(),
        }
        if self.random.random_ratio(1, 3) {
            self.look();
        }
    }

    fn reset(&mut self, value: u32) {
        match value {
            1 => {
                self.own = None;
                self.run("reset my.own");
            }
            2 => {
                self.role = None;
                self.run("reset role");
            }
            _ => {
                (self.work_mem, self.own, self.search_path) = (None, None, None);
                self.run("reset all");
            }
        }
    }

    /// An error leaves everything as it was.
    fn try_what_fails(&mut self) {
        let failed = self.client.batch_execute("begin; set my.own = 'undone'; set role r1; select 1/0").unwrap_err();
        assert_eq!(failed.code().unwrap().code(), "22012");
        self.run("rollback");
        let unknown = self.client.batch_execute("execute nobody").unwrap_err();
        assert_eq!(unknown.code().unwrap().code(), "26000");
    }

    /// Everything that the session has must be there, and nothing else.
    fn look(&mut self) {
        let megabytes = |value: &u32| format!("{value}MB");
        assert_eq!(self.asked("show work_mem"), self.work_mem.as_ref().map_or("4MB".to_owned(), megabytes));
        let own = self.asked("select coalesce(current_setting('my.own', true), '')");
        assert_eq!(own, self.own.map(|value| value.to_string()).unwrap_or_default());
        let role = self.role.map_or("bench".to_owned(), |role| format!("r{role}"));
        assert_eq!(self.asked("select current_user"), role);
        if let Some(schema) = self.search_path {
            assert_eq!(self.asked("select name from who"), format!("s{schema}"));
        } else {
            assert!(self.client.batch_execute("select name from who").is_err());
        }
        for (name, value) in self.by_sql.clone() {
            assert_eq!(self.asked(&format!("execute {name}")), value.to_string());
        }
        for (statement, added) in &self.by_protocol {
            let given = self.random.random_range(0..1000);
            let sum: i32 = self.client.query_one(statement, &[&given]).unwrap().get(0);
            assert_eq!(sum, given + added);
        }
    }

    fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    fn asked(&mut self, sql: &str) -> String {
        let answer = self.client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        row.unwrap().to_owned()
    }
}
