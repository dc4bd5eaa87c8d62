//! What functions, procedures and blocks leave in a session: kept for it as if it had done that itself, also on other server
//! connections; and what holds a session on its server connection lets go of it when it is over.

use std::time::Duration;

use postgres::{Client, SimpleQueryMessage};

use crate::fixture::{Proxy, cluster, console, eventually, limited};
use crate::raw::{RawClient, SYNC, TERMINATE, bind, execute, function_call, parse, query, run_unnamed};

const FUNCTIONS: &str = "
    create function sets_by_set(value text) returns text language plpgsql as
        $$ begin set work_mem = '2MB'; return current_setting('work_mem'); end $$;
    create function sets_by_name(value text) returns text language plpgsql as
        $$ begin perform set_config('app.tenant', value, false); return value; end $$;
    create function sets_in_sql(value text) returns text language sql as
        $$ select set_config('app.tenant', value, false) $$;
    create function sets_in_atomic(value text) returns text language sql
        begin atomic select set_config('app.tenant', value, false); end;
    create function sets_by_text(code text) returns void language plpgsql as $$ begin execute code; end $$;
    create function sets_by_others(value text) returns text language plpgsql as
        $$ begin return sets_by_name(value); end $$;
    create procedure sets_in_procedure(value text) language plpgsql as
        $$ begin perform set_config('app.tenant', value, false); end $$;
    create procedure sets_what_it_is_told(name text, value text) language plpgsql as
        $$ begin perform set_config(name, value, false); end $$;
    create function tunes() returns trigger language plpgsql as
        $$ begin perform set_config('app.tenant', new.value, false); return new; end $$;
    create table tuned (value text);
    create trigger tunes before insert on tuned for each row execute function tunes();
    create function fails(value text) returns text language plpgsql as
        $$ begin set work_mem = '2MB'; perform 1 / 0; return value; end $$;
    create function makes_temporary() returns void language plpgsql as
        $$ begin create temp table made (a int); insert into made values (42); end $$;
    create function locks() returns void language plpgsql as $$ begin perform pg_advisory_lock(77); end $$;
    create function listens() returns void language plpgsql as $$ begin listen news; end $$;
    create extension tablefunc;
    create function turned(text) returns setof tablefunc_crosstab_2 language c stable strict as
        '$libdir/tablefunc', 'crosstab';
    create table kept (value text);
    create table defaulted (a int, value text default sets_by_name('default'));
    create view tuning as select set_config('work_mem', '9MB', false) as value;
    create table parted (value text) partition by list (value);
    create table part partition of parted default;
    create trigger tunes before insert on part for each row execute function tunes();
    create table listed (a int primary key);
    create table listing (value text, a int references listed on delete cascade);
    create function tunes_by_old() returns trigger language plpgsql as
        $$ begin perform set_config('app.tenant', old.value, false); return old; end $$;
    create trigger tunes before delete on listing for each row execute function tunes_by_old();
    insert into listed values (1); insert into listing values ('cascade', 1);
    create function adds_and_sets(state int, n int) returns int language plpgsql as
        $$ begin perform set_config('app.tenant', n::text, false); return state + n; end $$;
    create aggregate running(int) (sfunc = adds_and_sets, stype = int, initcond = '0');
    create aggregate locking(bigint) (sfunc = int8pl, stype = bigint, initcond = '0', finalfunc = pg_try_advisory_lock);";

/// Others work while the client does: what it asks next is answered on another server connection than before.
struct Scene {
    proxy: Proxy,
    client: Client,
    others: Vec<Client>,
}

impl Scene {
    fn begin(proxy: Proxy) -> Self {
        let client = proxy.client();
        let others = (0..3).map(|_| proxy.client()).collect();
        Self { proxy, client, others }
    }

    fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap();
    }

    /// The setting, asked while so many others hold server connections, of the primary and of replicas: the same everywhere.
    fn shown(&mut self, setting: &str) -> String {
        let mut seen = Vec::new();
        for (busy, of) in
            [(0, " from one for update"), (1, " from one for update"), (3, " from one for update"), (0, "")]
        {
            for other in self.others.iter_mut().take(busy) {
                other.batch_execute("begin; select pg_current_xact_id()").unwrap();
            }
            let asked = self.client.query_one(&format!("select current_setting('{setting}', true){of}"), &[]).unwrap();
            seen.push(asked.get::<_, Option<String>>(0).unwrap_or_default());
            for other in self.others.iter_mut().take(busy) {
                other.batch_execute("rollback").unwrap();
            }
        }
        assert!(seen.iter().all(|value| *value == seen[0]), "{setting}: {seen:?}");
        seen.remove(0)
    }

    /// So many server connections are held by their sessions, as soon as it is found out.
    fn holds(&self, wanted: usize, what: &str) {
        eventually(&format!("{wanted} held: {what}"), Duration::from_secs(5), || {
            let page = self.proxy.page("/metrics");
            let leased =
                |line: &&str| line.starts_with("trunkline_pool_connections{") && line.contains("state=\"leased\"");
            let counts = page.lines().filter(leased).filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
            counts.sum::<usize>() == wanted
        });
    }
}

fn scene() -> (trunkline::demo::cluster::Cluster, Scene) {
    let cluster = cluster();
    let primary = cluster.node(0);
    primary.sql(FUNCTIONS).unwrap();
    primary.sql("create table one as select 1 as a").unwrap();
    for replica in &cluster.nodes()[1..] {
        replica.catch_up(primary).unwrap();
    }
    let proxy = Proxy::start(&cluster, "[pool]\nsize = 4").with_both_replicas(&cluster);
    (cluster, Scene::begin(proxy))
}

#[test]
fn settings_that_code_changes_are_the_sessions_on_every_connection() {
    limited(|| {
        let (_cluster, mut scene) = scene();
        for (number, (sql, setting, expected)) in [
            ("select sets_by_set('')", "work_mem", "2MB"),
            ("set work_mem = '3MB'", "work_mem", "3MB"),
            ("do $$ begin set work_mem = '5MB'; end $$", "work_mem", "5MB"),
            ("do $$ begin execute 'set ' || 'work' || '_mem = ''6MB'''; end $$", "work_mem", "6MB"),
            ("select sets_by_text('set work_mem = ''7MB''')", "work_mem", "7MB"),
            ("select sets_by_name('one')", "app.tenant", "one"),
            ("select sets_in_sql('two')", "app.tenant", "two"),
            ("select sets_in_atomic('three')", "app.tenant", "three"),
            ("select sets_by_others('four')", "app.tenant", "four"),
            ("call sets_in_procedure('five')", "app.tenant", "five"),
            ("insert into tuned values ('six')", "app.tenant", "six"),
            ("do $$ begin perform sets_by_others('do'); end $$", "app.tenant", "do"),
            ("begin; select sets_by_name('seven'); commit", "app.tenant", "seven"),
            ("begin; select sets_by_name('eight'); rollback", "app.tenant", "seven"),
            ("prepare p as select sets_by_name('nine')", "app.tenant", "seven"),
            ("execute p", "app.tenant", "nine"),
            ("select sets_by_text('set role postgres; set statement_timeout = 12345')", "statement_timeout", "12345ms"),
            ("update pg_settings set setting = '4321' where name = 'statement_timeout'", "statement_timeout", "4321ms"),
            (
                "select sets_by_text('update pg_settings set setting = 5 where name = ''lock_timeout''')",
                "lock_timeout",
                "5ms",
            ),
            ("select sets_by_text('set app.tenant = ' || 'eleven')", "app.tenant", "eleven"),
            ("call sets_what_it_is_told('app.tenant', 'twelve')", "app.tenant", "twelve"),
            ("set datestyle = 'German'", "datestyle", "German, DMY"),
            ("select sets_by_text('set datestyle = ''Postgres, MDY''')", "DateStyle", "Postgres, MDY"),
            ("set datestyle = 'SQL'", "datestyle", "SQL, MDY"),
            ("select sets_by_text('reset statement_timeout')", "statement_timeout", "0"),
            // Under a write, too, and by what the write itself runs.
            ("insert into kept select sets_by_text('set app.tenant = thirteen')::text", "app.tenant", "thirteen"),
            ("insert into kept select value from tuning", "work_mem", "9MB"),
            ("insert into defaulted values (1)", "app.tenant", "default"),
            ("insert into parted values ('part')", "app.tenant", "part"),
            ("delete from listed", "app.tenant", "cascade"),
            ("prepare q as select sets_by_text($1)", "app.tenant", "cascade"),
            ("execute q('set app.tenant = fourteen')", "app.tenant", "fourteen"),
            ("prepare r as select set_config('work_mem', '8MB', false)", "work_mem", "9MB"),
            ("execute r", "work_mem", "8MB"),
            ("select * from turned($$select 'r', 'c', set_config('work_mem', '10MB', false)$$)", "work_mem", "10MB"),
            (
                "select * from crosstab($$select 'r', 'c', set_config('work_mem', '11MB', false)$$) as (r text, c text)",
                "work_mem",
                "11MB",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            scene.run(sql);
            assert_eq!(scene.shown(setting), expected, "{number}: {sql}");
        }
        // By the extended protocol, too.
        scene.client.query("select sets_by_name($1)", &[&"ten"]).unwrap();
        assert_eq!(scene.shown("app.tenant"), "ten");
        scene.run("select sets_by_set('')");
        scene.run("set work_mem = '3MB'");
        scene.client.batch_execute("select fails('')").unwrap_err();
        assert_eq!(scene.shown("work_mem"), "3MB", "the error has undone it");
        assert_ne!(first_value(&mut scene.others[0], "show work_mem"), "3MB", "another session's");
        assert_ne!(first_value(&mut scene.others[0], "show lock_timeout"), "5ms", "another session's");
        scene.run("insert into kept select sets_by_text('set app.tenant = mine')::text");
        let tenant = "select coalesce(current_setting('app.tenant', true), '') from one for update";
        assert_eq!(first_value(&mut scene.others[0], tenant), "", "another session's");
        // What a transaction is told of itself is nobody's afterwards.
        scene.run("begin; set transaction read only; select sets_by_text('select 1'); commit");
        scene.run("set transaction_read_only = on");
        scene.run("begin isolation level repeatable read; select sets_by_text('select 1'); commit");
        scene.run("insert into tuned values ('last')");
        scene.holds(0, "everything is done");
    });
}

#[test]
fn what_code_leaves_besides_settings_stays_with_its_session() {
    limited(|| {
        let (_cluster, mut scene) = scene();
        scene.run("select makes_temporary()");
        scene.shown("work_mem");
        assert_eq!(first_value(&mut scene.client, "select a::text from made"), "42");
        scene.others[0].batch_execute("select * from made").unwrap_err();
        scene.holds(1, "everything is done");
        scene.run("drop table made");
        scene.shown("work_mem");
        scene.holds(0, "nothing temporary is left");
        scene.run("select locks()");
        scene.holds(1, "everything is done");
        let taken = "select pg_try_advisory_lock(77)::text";
        assert_eq!(first_value(&mut scene.others[0], taken), "false");
        assert_eq!(first_value(&mut scene.client, "select pg_advisory_unlock(77)::text"), "true");
        assert_eq!(first_value(&mut scene.others[0], taken), "true");
        scene.holds(1, "the other one's");
        assert_eq!(first_value(&mut scene.others[0], "select pg_advisory_unlock(77)::text"), "true");
        scene.holds(0, "everything is done");
        scene.run("select listens()");
        scene.holds(1, "everything is done");
        scene.run("unlisten news");
        scene.holds(0, "everything is done");
    });
}

#[test]
fn what_an_aggregates_steps_leave_is_their_sessions_alone() {
    limited(|| {
        let (_cluster, mut scene) = scene();
        let is_known = || scene.proxy.metric("trunkline_catalog_current", "") > 0.0;
        eventually("its catalogs are known", Duration::from_secs(10), is_known);
        let tenant = "select coalesce(current_setting('app.tenant', true), '') from one for update";
        scene.run("select running(15)");
        assert_eq!(first_value(&mut scene.others[0], tenant), "", "another session's");
        assert_eq!(scene.shown("app.tenant"), "15");
        scene.holds(0, "everything is done");
        scene.run("select locking(77)");
        scene.holds(1, "a lock of an aggregate's last step");
        assert_eq!(first_value(&mut scene.others[0], "select pg_try_advisory_lock(77)::text"), "false");
        assert_eq!(first_value(&mut scene.client, "select pg_advisory_unlock(77)::text"), "true");
        scene.holds(0, "everything is done");
    });
}

#[test]
fn a_session_is_held_no_longer_than_what_holds_it() {
    limited(|| {
        let (_cluster, mut scene) = scene();
        for (number, (sql, pinned)) in [
            ("create temp table t (a int)", 1),
            ("create temp table u (a int)", 1),
            ("drop table t", 1),
            ("drop table u", 0),
            ("begin; create temp table t (a int) on commit drop; insert into t values (1); commit", 0),
            ("begin; create temp table t (a int); rollback", 0),
            ("begin; create temp table t (a int); commit", 1),
            ("discard temp", 0),
            ("listen a; listen b", 1),
            ("unlisten a", 1),
            ("unlisten *", 0),
            ("begin; listen a; rollback", 0),
            ("select pg_advisory_lock(1), pg_advisory_lock(2)", 1),
            ("select pg_advisory_unlock(1)", 1),
            ("select pg_advisory_unlock_all()", 0),
            ("begin; declare c cursor with hold for select 1; commit", 1),
            ("close c", 0),
            ("prepare l as select pg_try_advisory_lock(4)", 0),
            ("explain execute l", 0),
            ("execute l", 1),
            ("select pg_advisory_unlock(4)", 0),
            ("execute l", 1),
            ("select pg_advisory_unlock(4)", 0),
            ("set search_path = pg_temp, public; create table hidden (a int)", 1),
            ("drop table hidden", 0),
            ("reset search_path", 0),
            ("create temp table t (a int); listen a; select pg_advisory_lock(3)", 1),
            ("discard all", 0),
        ]
        .into_iter()
        .enumerate()
        {
            scene.run(sql);
            scene.holds(pinned, &format!("{number}: {sql}"));
        }
    });
}

#[test]
fn what_is_undone_with_the_batch_or_the_transaction_that_it_stands_in_holds_nobody() {
    limited(|| {
        let (_cluster, mut scene) = scene();
        let mut client = RawClient::connect(scene.proxy.port(), &[]);
        let temporary = run_unnamed("create temp table x (a int) on commit drop");
        for (number, (batch, end, pinned)) in [
            ([run_unnamed("begin"), temporary].concat(), "commit", 0),
            ([run_unnamed("begin"), run_unnamed("create temp table y (a int)")].concat(), "rollback", 0),
            ([run_unnamed("listen news"), run_unnamed("select 1 / 0")].concat(), "select 1", 0),
            (run_unnamed("listen news"), "select 1", 1),
            (run_unnamed("unlisten news"), "select 1", 0),
        ]
        .into_iter()
        .enumerate()
        {
            client.ask(&[&batch, SYNC], 1);
            client.query(end);
            scene.holds(pinned, &format!("{number}"));
        }
        client.query("select 1 / 0; select pg_advisory_lock(1)");
        scene.holds(0, "a lock that was not reached");
        client.query("select pg_advisory_lock(1)");
        scene.holds(1, "a lock");
        scene.run("set lock_timeout = '100ms'");
        assert!(scene.client.batch_execute("select pg_advisory_lock(1)").is_err());
        scene.holds(1, "a lock that was waited for in vain");
    });
}

#[test]
fn who_calls_a_function_that_keeps_something_by_the_configuration_keeps_the_server_connection() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create function keeps(a int) returns int stable language sql return a").unwrap();
        let mut scene = Scene::begin(Proxy::start(&cluster, "[routing]\nsession_functions = ['keeps']"));
        let is_known = || scene.proxy.metric("trunkline_catalog_current", "") > 0.0;
        eventually("its catalogs are known", Duration::from_secs(10), is_known);
        scene.run("select 1");
        scene.holds(0, "anything else");
        scene.run("select keeps(1)");
        scene.holds(1, "what it keeps");
        scene.run("discard all");
        scene.run("select 2");
        scene.holds(1, "nothing is known to end it");
    });
}

#[test]
fn what_begins_to_hold_a_session_is_counted_once() {
    limited(|| {
        let (_cluster, mut scene) = scene();
        for (number, (sql, pin, times)) in [
            ("create temp table t (a int)", "temporary", 1.0),
            ("insert into t values (1)", "temporary", 1.0),
            ("begin; create temp table u (a int); commit", "temporary", 1.0),
            ("drop table t, u", "temporary", 1.0),
            ("create temp table t (a int)", "temporary", 2.0),
            ("begin; listen news; rollback", "listen", 0.0),
            ("begin; listen news; commit", "listen", 1.0),
            ("discard all", "listen", 1.0),
            ("listen news", "listen", 2.0),
            ("unlisten news", "listen", 2.0),
            ("select locks()", "advisory_lock", 1.0),
            ("select pg_advisory_unlock_all()", "advisory_lock", 1.0),
            ("select pg_try_advisory_lock(4)", "advisory_lock", 2.0),
            ("begin; declare c cursor with hold for select 1; commit", "hold_cursor", 1.0),
            ("discard all", "temporary", 2.0),
        ]
        .into_iter()
        .enumerate()
        {
            scene.run(sql);
            let counted = || scene.proxy.metric("trunkline_pins_total", &format!("pin=\"{pin}\""));
            eventually(&format!("{number}: {sql}: {times}"), Duration::from_secs(5), || counted() == times);
        }
        scene.holds(0, "everything is done");
        assert_eq!(scene.proxy.metric("trunkline_pins_total", ""), 7.0);
    });
}

fn first_value(client: &mut Client, sql: &str) -> String {
    client.query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn reads_that_need_the_primary_and_run_no_code_are_not_asked_about() {
    limited(|| {
        let cluster = cluster();
        let sql = "create unlogged table plain (a int); create view of_plain as select * from plain;
            create view of_activity as select count(*) as n from pg_stat_activity; create sequence s;
            create view of_sequence as select last_value from s";
        cluster.node(0).sql(sql).unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        for name in ["plain", "of_plain", "of_activity", "s", "of_sequence", "no_such_table"] {
            client.query(&format!("select * from {name}"));
        }
        let looks = "select count(*) from pg_stat_activity where query like '%pg_listening_channels%' and pid <> pg_backend_pid()";
        assert_eq!(cluster.node(0).sql(looks).unwrap(), "0");
    });
}

#[test]
fn what_a_view_an_operator_or_a_cast_leaves_is_its_sessions_and_nobody_elses() {
    limited(|| {
        let cluster = cluster();
        let sql = "create sequence s;
            create view numbered as select nextval('s') as number;
            create view tuned as select set_config('work_mem', '2MB', false) as value;
            create view locked as select pg_advisory_lock(77)::text as value;
            create type pair as (a int, b int);
            create function tunes(pair, pair) returns bool language plpgsql as
                $$ begin perform set_config('work_mem', '3MB', false); return true; end $$;
            create operator === (leftarg = pair, rightarg = pair, function = tunes);";
        cluster.node(0).sql(sql).unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\nqueue_timeout = '500ms'");
        let mut one = RawClient::connect(proxy.port(), &[]);
        let mut other = RawClient::connect(proxy.port(), &[]);
        let work_mem = |client: &mut RawClient| client.query("select current_setting('work_mem') from s")[1].clone();
        let batch = |sql: &str| [run_unnamed(sql), SYNC.to_vec()].concat();
        for (sql, left) in
            [("select * from tuned", "row 2MB"), ("select row(1, 2)::pair === row(1, 2)::pair", "row 3MB")]
        {
            one.query("set work_mem = '7MB'");
            one.query(sql);
            assert_eq!(work_mem(&mut other), "row 4MB", "{sql}");
            assert_eq!(work_mem(&mut one), left);
            one.query("set work_mem = '7MB'");
            one.ask(&[&batch(sql)], 1);
            assert_eq!(work_mem(&mut other), "row 4MB", "{sql}");
            assert_eq!(work_mem(&mut one), left);
        }
        one.query("reset work_mem");
        for sql in [query("select * from numbered"), batch("select * from numbered")] {
            one.ask(&[&sql], 1);
            let told = other.query("select lastval()");
            assert!(told.iter().any(|words| words.starts_with("55000")), "another's number: {told:?}");
        }
        // The lock is held as long as the session is, which keeps the only connection to the primary.
        one.query("select * from locked");
        let told = other.query("select pg_advisory_unlock(77)");
        assert!(told.iter().any(|words| words.starts_with("53300")), "{told:?}");
        assert_eq!(one.query("select pg_advisory_unlock(77)")[1], "row t");
    });
}

#[test]
fn what_event_triggers_leave_is_its_sessions_and_nobody_elses() {
    limited(|| {
        let cluster = cluster();
        cluster
            .node(0)
            .sql(
                "create function notes() returns event_trigger language plpgsql as
                    $$ begin perform set_config('work_mem', '9MB', false); create temp table own (a int); end $$;
                create event trigger notes on ddl_command_end when tag in ('CREATE VIEW') execute function notes();",
            )
            .unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 2\n[routing]\nreads = 'primary'");
        let (mut client, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        client.query("create view made as select 1");
        for _ in 0..3 {
            assert_eq!(other.query("show work_mem")[1], "row 4MB");
            assert_eq!(other.query("select to_regclass('own')")[1], "row null");
            assert_eq!(client.query("show work_mem")[1], "row 9MB");
            assert_eq!(client.query("select to_regclass('own')")[1], "row own");
        }
    });
}

#[test]
fn what_code_deallocates_is_prepared_again_for_other_sessions() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut client, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        for name in ["one", "two"] {
            other.ask(&[&parse(name, &format!("select '{name}'")), SYNC], 1);
        }
        let mut has_both = || {
            for name in ["one", "two", "one"] {
                let answer = other.ask(&[&bind(name, &[]), &execute(), SYNC], 1);
                assert!(answer.contains(&format!("row {name}")), "{answer:?}");
            }
        };
        client.query("do $$ begin deallocate all; end $$");
        has_both();
        // Some are made behind it.
        client.send(&[&query("do $$ begin deallocate all; end $$"), &parse("three", "select 'three'"), SYNC]);
        (0..2).for_each(|_| drop(client.until(b'Z')));
        has_both();
        let answer = client.ask(&[&bind("three", &[]), &execute(), SYNC], 1);
        assert!(answer.contains(&"row three".to_owned()), "{answer:?}");
    });
}

#[test]
fn while_nothing_is_known_of_a_database_what_its_views_leave_is_nobody_elses() {
    limited(|| {
        let cluster = cluster();
        let sql = "create sequence s;
            create view numbered as select nextval('s') as number;
            create view tuned as select set_config('work_mem', '2MB', false) as value;
            create role watch login password 'watch' in role pg_monitor;
            revoke connect on database bench from public";
        cluster.node(0).sql(sql).unwrap();
        let elsewhere = "monitor = { user = 'watch', password = 'watch', database = 'postgres' }";
        let proxy = Proxy::ruled(&cluster, "", elsewhere, "[pool]\nsize = 1");
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        let batch = |sql: &str| [run_unnamed(sql), SYNC.to_vec()].concat();
        for message in [query("select * from tuned"), batch("select * from tuned")] {
            one.ask(&[&message], 1);
            assert_eq!(other.query("select current_setting('work_mem') from s")[1], "row 4MB");
        }
        for message in [query("select * from numbered"), batch("select * from numbered")] {
            one.ask(&[&message], 1);
            let told = other.query("select lastval() from s");
            assert!(told.iter().any(|words| words.starts_with("55000")), "another's number: {told:?}");
        }
    });
}

#[test]
fn what_a_block_within_a_trigger_leaves_is_its_sessions_and_nobody_elses() {
    limited(|| {
        let cluster = cluster();
        let sql = "create table t (a int);
            create function notes() returns trigger language plpgsql as $f$ begin
                do $x$ begin perform set_config('work_mem', '9MB', false); end $x$; return new; end $f$;
            create trigger notes before insert on t for each row execute function notes()";
        cluster.node(0).sql(sql).unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut client, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        client.query("insert into t values (1)");
        assert_eq!(other.query("show work_mem")[1], "row 4MB");
        assert_eq!(client.query("show work_mem")[1], "row 9MB");
    });
}

#[test]
fn what_code_prepares_goes_with_the_session_that_had_the_connection_for_itself() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\nmode = 'session'");
        for _ in 0..3 {
            let mut client = RawClient::connect(proxy.port(), &[]);
            let prepares = client.query("do $$ begin execute 'prepare p as select 42'; end $$");
            assert_eq!(prepares, ["DO", "I"]);
            assert_eq!(client.query("execute p")[1], "row 42");
            client.send(&[TERMINATE]);
        }
    });
}

/// A literal that means the time is made that time by the Parse.
#[test]
fn the_time_of_a_prepared_literal_is_never_another_sessions() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        for (name, literal) in ["'now'", "E'now'", "$$now$$", "$a$now$a$"].iter().enumerate() {
            let name = name.to_string();
            let told = |client: &mut RawClient, is_new: bool| {
                let sql = format!("select {literal}::timestamptz::text");
                let parse = if is_new { parse(&name, &sql) } else { Vec::new() };
                client
                    .ask(&[&parse, &bind(&name, &[]), &execute(), SYNC], 1)
                    .into_iter()
                    .find(|words| words.starts_with("row"))
            };
            let first = told(&mut one, true);
            assert_ne!(told(&mut other, true), first, "{literal}");
            assert_eq!(told(&mut one, false), first, "{literal}");
        }
    });
}

#[test]
fn what_the_checks_policies_and_rules_of_a_write_leave_is_its_sessions_and_nobody_elses() {
    limited(|| {
        let cluster = cluster();
        let sql = "create function notes(value text) returns bool language plpgsql as
                $$ begin perform set_config('app.tenant', value, false); return true; end $$;
            create function noted() returns trigger language plpgsql as $$ begin return new; end $$;
            create table checked (t text check (notes(t)));
            create domain noting as text check (notes(value));
            create table of_domain (t noting);
            create table of_domains (t noting[]);
            create table under_policy (t text);
            alter table under_policy enable row level security;
            alter table under_policy force row level security;
            create policy p on under_policy for insert with check (notes(t));
            create table ruled (t text);
            create rule r as on insert to ruled do also select notes(new.t);
            create table passed_on (t text);
            create rule r as on insert to passed_on do instead insert into checked values (new.t);
            create table triggering (t text);
            create trigger t before insert on triggering for each row when (notes(new.t)) execute function noted();
            create role guest login password 'guest';
            grant all on all tables in schema public to guest";
        cluster.node(0).sql(sql).unwrap();
        let proxy = Proxy::start(
            &cluster,
            "[pool]\nsize = 1\n[routing]\nreads = 'primary'\n[[user]]\nname = 'guest'\npassword = 'guest'",
        );
        let guest = || RawClient::login(proxy.port(), "guest", &[]);
        let (mut one, mut other) = (guest(), guest());
        let tenant = |client: &mut RawClient| {
            client.query("select coalesce(current_setting('app.tenant', true), '')")[1].clone()
        };
        for (table, value) in [
            ("checked", "'a'"),
            ("of_domain", "'b'"),
            ("of_domains", "array['c']"),
            ("under_policy", "'d'"),
            ("ruled", "'e'"),
            ("passed_on", "'f'"),
            ("triggering", "'g'"),
        ] {
            let letter = value.trim_start_matches("array[").trim_end_matches(']').replace('\'', "");
            let told = one.query(&format!("insert into {table} values ({value})"));
            assert!(told.iter().any(|words| words == "INSERT 0 1" || words == "INSERT 0 0"), "{table}: {told:?}");
            assert_eq!(tenant(&mut other), "row ", "{table}");
            assert_eq!(tenant(&mut one), format!("row {letter}"), "{table}");
        }
    });
}

#[test]
fn a_setting_that_a_function_call_message_leaves_is_nobody_elses() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        let set_config = cluster.node(0).sql("select 'set_config'::regproc::oid").unwrap().trim().parse().unwrap();
        one.ask(&[&function_call(set_config, &["app.tenant", "a", "f"])], 1);
        let told = other.ask(&[&query("begin"), &query("select current_setting('app.tenant', true)")], 2);
        assert!(told.iter().any(|words| words == "row null" || words == "row "), "{told:?}");
    });
}

#[test]
fn a_temporary_table_by_the_path_of_a_role_is_its_sessions_and_nobody_elses() {
    limited(|| {
        let cluster = cluster();
        let sql = "create role guest login password 'guest'; grant all on schema public to guest;
            alter role guest set search_path = pg_temp, public";
        cluster.node(0).sql(sql).unwrap();
        let user = "[pool]\nsize = 2\n[routing]\nreads = 'primary'\n[[user]]\nname = 'guest'\npassword = 'guest'";
        let proxy = Proxy::start(&cluster, user);
        let (mut one, mut other) =
            (RawClient::login(proxy.port(), "guest", &[]), RawClient::login(proxy.port(), "guest", &[]));
        let mut third = RawClient::connect(proxy.port(), &[]);
        assert_eq!(one.query("create table secrets as select 42 as a").first().unwrap(), "SELECT 1");
        assert_eq!(other.query("select to_regclass('secrets')")[1], "row null");
        assert_eq!(one.query("select a from secrets")[1], "row 42");
        third.query("select set_config('search_path', 'PG_TEMP, public', false)");
        assert_eq!(third.query("create table own as select 43 as a").first().unwrap(), "SELECT 1");
        assert_eq!(RawClient::connect(proxy.port(), &[]).query("select to_regclass('own')")[1], "row null");
        assert_eq!(third.query("select a from own")[1], "row 43");
    });
}

/// What nothing shows and nothing but the session's end takes away.
#[test]
fn what_is_kept_in_a_server_connection_keeps_its_session_there() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create extension dblink").unwrap();
        let seeds = "create function seeds() returns void language plpgsql as $$ begin perform setseed(0.5); end $$";
        cluster.node(0).sql(seeds).unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 2\n[routing]\nreads = 'primary'");
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        let to = format!("host=127.0.0.1 port={} user=bench password=bench dbname=bench", cluster.node(0).port());
        assert_eq!(one.query(&format!("select dblink_connect('{to}')"))[1], "row OK");
        let ask = "select * from dblink('select 42') as t(a int)";
        for _ in 0..3 {
            let told = other.query(ask);
            assert!(told.iter().any(|words| words.starts_with("08003")), "another's connection: {told:?}");
            assert_eq!(one.query(ask)[1], "row 42");
        }
        let process = |client: &mut RawClient| client.query("select pg_backend_pid()")[1].clone();
        let mine = process(&mut one);
        one.query("discard all");
        assert_eq!(process(&mut one), mine);
        drop(one);
        other.query("select seeds()");
        let mine = process(&mut other);
        let mut third = RawClient::connect(proxy.port(), &[]);
        for _ in 0..3 {
            assert_ne!(process(&mut third), mine);
            assert_eq!(process(&mut other), mine);
        }
        drop((other, third));
        // A backup is begun and ended in one session.
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        one.query("select pg_backup_start('a', true)");
        for _ in 0..3 {
            assert!(other.query("select * from pg_backup_stop()").iter().any(|words| words.starts_with("55000")));
        }
        assert!(one.query("select labelfile like '%LABEL: a%' from pg_backup_stop(false)")[1] == "row t");
    });
}

#[test]
fn what_has_waited_is_judged_by_the_catalogs_as_they_are_when_it_runs() {
    limited(|| {
        let cluster = cluster();
        let late = |body: &str| {
            format!("create or replace function late() returns text stable language plpgsql as $$ begin {body} end $$")
        };
        cluster.node(0).sql(&late("return 'before';")).unwrap();
        cluster.node(0).sql("create role deployer superuser login password 'deployer'").unwrap();
        let extra = "[admin]\nusers = ['bench']\n[pool]\nsize = 1\n[routing]\nreads = 'primary'\n\
            [[user]]\nname = 'deployer'\npassword = 'deployer'";
        let proxy = Proxy::start(&cluster, extra);
        let mut deployer = RawClient::login(proxy.port(), "deployer", &[]);
        let [mut other, mut client, mut batch] = [0; 3].map(|_| RawClient::connect(proxy.port(), &[]));
        client.query("select late()");
        other.query("begin");
        client.send(&[&query("select late()")]);
        batch.send(&[&parse("", "select late()"), &bind("", &[])]);
        let mut console = console(&proxy);
        eventually("it waits", Duration::from_secs(5), || {
            let pools = console.simple_query("show pools").unwrap();
            pools.iter().any(|row| matches!(row, SimpleQueryMessage::Row(row) if row.get("cl_waiting") == Some("1")))
        });
        let told = deployer.query(&late("perform set_config('work_mem', '1GB', false); return 'after';"));
        assert_eq!(told[0], "CREATE FUNCTION", "{told:?}");
        other.query("commit");
        assert_eq!(client.until(b'Z')[1], "row after");
        assert_ne!(other.query("show work_mem")[1], "row 1GB", "that is another session's");
        assert_eq!(client.query("show work_mem")[1], "row 1GB");
        let told = batch.ask(&[&execute(), SYNC], 1);
        assert!(told.contains(&"row after".to_owned()), "{told:?}");
        assert_ne!(other.query("show work_mem")[1], "row 1GB", "that is another session's");
    });
}

#[test]
fn a_seed_of_random_is_nobody_elses() {
    limited(|| {
        let cluster = cluster();
        let sql = "create function seeds() returns void language plpgsql as
                $$ begin perform set_config('seed', '0.5', true); end $$;
            create function seeds_in_sql() returns void language sql as 'select setseed(0.5)';
            create function seeds_in_atomic() returns text language sql
                begin atomic select set_config('seed', '0.5', false); end;
            create function runs(code text) returns void language plpgsql as $$ begin execute code; end $$";
        cluster.node(0).sql(sql).unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 2\n[routing]\nreads = 'primary'");
        let process = |client: &mut RawClient| client.query("select pg_backend_pid()")[1].clone();
        for sql in [
            "set seed to 0.5",
            "begin; set local seed to 0.5; rollback",
            "select set_config('seed', '0.5', false)",
            "select set_config('seed', '0.5', true), 1 / (random() * 0)::int",
            "do $$ begin set seed = 0.5; end $$",
            "do $$ begin perform setseed(0.5); perform 1 / 0; end $$",
            "select seeds()",
            "select seeds_in_sql()",
            "select seeds_in_atomic()",
            "select runs('set seed = 0.5')",
        ] {
            let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
            one.query(sql);
            one.query("discard all");
            let mine = process(&mut one);
            for _ in 0..2 {
                assert_ne!(process(&mut other), mine, "{sql}");
                assert_eq!(process(&mut one), mine, "{sql}");
            }
            one.send(&[TERMINATE]);
            other.query("begin");
            let mut third = RawClient::connect(proxy.port(), &[]);
            assert_ne!(process(&mut third), mine, "{sql}");
        }
    });
}

#[test]
fn what_is_kept_goes_with_the_session_that_had_the_connection_for_itself() {
    limited(|| {
        let cluster = cluster();
        let sql = "create function seeds() returns void language plpgsql as $$ begin perform setseed(0.5); end $$";
        cluster.node(0).sql(sql).unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\nmode = 'session'");
        let mut last = None;
        for sql in ["select setseed(0.5)", "set seed to 0.5", "select seeds()", "select 1"] {
            let mut client = RawClient::connect(proxy.port(), &[]);
            let mine = Some(client.query("select pg_backend_pid()")[1].clone());
            assert_ne!(mine, last, "before {sql}");
            last = mine;
            client.query(sql);
            client.send(&[TERMINATE]);
        }
    });
}

/// A node takes no other temp_buffers on a server connection on which temporary tables have been used.
#[test]
fn temp_buffers_are_set_whoever_has_used_temporary_tables_before() {
    limited(|| {
        let cluster = cluster();
        let sql = "create function sizes() returns void language plpgsql as
                $$ begin perform set_config('temp_buffers', '24MB', false); end $$;
            create function uses() returns void language plpgsql as
                $$ begin create temp table t (a int); insert into t values (1); drop table t; end $$";
        cluster.node(0).sql(sql).unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        let shown = |client: &mut RawClient| client.query("show temp_buffers")[1].clone();
        for uses in [
            "begin; create temp table t (a int) on commit drop; insert into t values (1); commit",
            "create temp table t as select a, 1 / (3 - a) from generate_series(1, 3) as a",
            "do $$ begin create temp table t (a int); insert into t values (1); drop table t; end $$",
            "select uses()",
        ] {
            for (sets, size) in [("set temp_buffers to '16MB'", "row 16MB"), ("select sizes()", "row 24MB")] {
                one.query(uses);
                other.query(sets);
                assert_eq!(shown(&mut other), size, "{uses}");
                one.query(uses);
                assert_eq!(shown(&mut other), size, "{uses}");
                assert_eq!(other.query("select current_setting('temp_buffers')")[1], size, "{uses}");
                assert_eq!(shown(&mut one), "row 8MB", "{uses}");
                other.query("reset temp_buffers");
            }
            one.query(uses);
            assert_eq!(other.query("begin; set local temp_buffers to '16MB'").last().unwrap(), "T", "{uses}");
            assert_eq!(shown(&mut other), "row 16MB", "{uses}");
            other.query("commit");
            one.query(uses);
            let mut came = RawClient::connect(proxy.port(), &[("temp_buffers", "32MB")]);
            assert_eq!(shown(&mut came), "row 32MB", "{uses}");
        }
        // Its own use is its own.
        other.query("create temp table t as select 1 as a");
        other.query("select a from t");
        assert!(other.query("set temp_buffers to '16MB'").iter().any(|words| words.starts_with("22023")));
    });
}
