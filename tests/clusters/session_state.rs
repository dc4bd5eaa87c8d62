//! State that a client has left on a server connection: kept for it, and seen by nobody else.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use postgres::{Client, NoTls};

use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, eventually, limited, login};
use crate::raw::{
    COPY_DONE, FLUSH, RawClient, SYNC, TERMINATE, bind, close, copy_data, execute, parse, query, run_unnamed,
};

/// One server connection per node, so that every client's statements meet on it.
const SHARED: &str = "[pool]\nsize = 1";

#[test]
fn a_setting_is_kept_over_transactions_and_never_leaks() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut plain = proxy.client();
        let usual = shown(&mut plain, "work_mem");
        let mut tuned = proxy.client();
        tuned.batch_execute("set work_mem = '7MB'").unwrap();
        for round in 0..20 {
            assert_eq!(shown(&mut tuned, "work_mem"), "7MB", "round {round}");
            assert_eq!(shown(&mut plain, "work_mem"), usual, "round {round}");
        }
        tuned.batch_execute("reset work_mem").unwrap();
        assert_eq!(shown(&mut tuned, "work_mem"), usual);
    });
}

#[test]
fn what_code_has_deallocated_is_missed_by_nobody_else() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{SHARED}\n[routing]\nreads = 'primary'"));
        let (mut one, mut other) = (proxy.client(), proxy.client());
        for deallocate in ["deallocate s", "deallocate all"] {
            one.batch_execute("prepare s as select 1").unwrap();
            one.batch_execute(&format!("do $$ begin execute '{deallocate}'; end $$")).unwrap();
            other.batch_execute("create table if not exists t (a int); insert into t values (1)").unwrap();
            other.batch_execute("prepare s as select 2; execute s; deallocate s").unwrap();
            let missed = one.batch_execute("execute s").unwrap_err();
            assert_eq!(missed.code().unwrap().code(), "26000", "{deallocate}");
        }
    });
}

#[test]
fn a_name_that_only_looks_like_ours_is_the_clients_own() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{SHARED}\n[routing]\nreads = 'primary'"));
        let told = |port| {
            let mut client = RawClient::login(port, "bench", &[]);
            let mut told = client.query("prepare tl_x as select 'A'");
            told.extend(client.ask(&[&bind("tl_x", &[]), &execute(), SYNC], 1));
            told.extend(client.ask(&[&close("tl_x"), SYNC], 1));
            told.extend(client.query("execute tl_x"));
            told.extend(client.ask(&[&bind("tl_x", &[]), SYNC], 1));
            told
        };
        assert_eq!(told(proxy.port()), told(cluster.node(0).port()));
        let mut other = proxy.client();
        assert!(other.batch_execute("execute tl_x").is_err());
        other.batch_execute("prepare tl_x as select 2; execute tl_x").unwrap();
    });
}

#[test]
fn why_what_is_executed_by_sql_cannot_be_prepared_is_told() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{SHARED}\n[routing]\nreads = 'primary'"));
        let told = |port| {
            let mut client = RawClient::login(port, "bench", &[]);
            client.query("create table gone (a int)");
            client.ask(&[&parse("a", "select * from gone"), SYNC], 1);
            let mut told = client.query("begin");
            told.extend(client.query("drop table gone"));
            told.extend(client.query("execute a"));
            told.extend(client.query("execute a"));
            told.extend(client.query("rollback"));
            client.query("drop table gone");
            told.extend(client.query("execute a"));
            told
        };
        let (through, direct) = (told(proxy.port()), told(cluster.node(0).port()));
        assert_eq!(through, direct);
        assert!(through.iter().any(|message| message.contains("42P01")), "{through:?}");
    });
}

#[test]
fn a_session_gets_rid_of_a_role_that_is_none_any_more() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{SHARED}\n[routing]\nreads = 'primary'"));
        for cure in ["reset role", "discard all", "set role none", "set role other"] {
            cluster.node(0).sql("create role passing; create role other; grant passing, other to bench").unwrap();
            let (mut client, mut witness) = (proxy.client(), proxy.client());
            client.batch_execute("set work_mem = '7MB'; set role passing").unwrap();
            assert_eq!(shown(&mut witness, "role"), "none");
            cluster.node(0).sql("drop role passing").unwrap();
            assert!(client.batch_execute("select 1").is_err(), "the role cannot be taken up any more");
            client.batch_execute(cure).unwrap_or_else(|error| panic!("{cure}: {error:?}"));
            let role = if cure.ends_with("other") { "other" } else { "none" };
            assert_eq!(shown(&mut client, "role"), role, "{cure}");
            let kept = if cure == "discard all" { shown(&mut witness, "work_mem") } else { "7MB".to_owned() };
            assert_eq!(shown(&mut client, "work_mem"), kept, "{cure}");
            assert_eq!(shown(&mut witness, "role"), "none", "{cure}");
            drop(client);
            cluster.node(0).sql("drop role other").unwrap();
        }
    });
}

#[test]
fn a_copy_asks_for_its_data_without_a_sync() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut client = RawClient::login(proxy.port(), "bench", &[]);
        client.query("create table copied (a int)");
        client.send(&[&run_unnamed("copy copied from stdin")]);
        client.until(b'G');
        let told = client.ask(&[&copy_data(b"1\n2\n"), COPY_DONE, SYNC], 1);
        assert!(told.iter().any(|message| message.contains("COPY 2")), "{told:?}");
        assert!(client.query("select count(*) from copied").iter().any(|message| message.contains('2')));
        // Nor where it was prepared before, and something else comes first.
        client.ask(&[&parse("copies", "copy copied from stdin"), SYNC], 1);
        client.send(&[&run_unnamed("begin"), &bind("copies", &[]), &execute()]);
        client.until(b'G');
        let told = client.ask(&[&copy_data(b"3\n"), COPY_DONE, &run_unnamed("commit"), SYNC], 1);
        assert!(told.iter().any(|message| message.contains("COPY 1")), "{told:?}");
    });
}

#[test]
fn a_copy_in_a_transaction_on_a_replica_asks_for_its_data_without_a_sync() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table copied (a int); create table barred (a int)").unwrap();
        let rules = "[[rule]]\nname = 'no'\ntable = 'barred'\nrefuse = 'no copies'\nsqlstate = 'ZZ042'";
        let routing = "[routing]\ntransactions = 'optimistic'\nfreshness_wait = '1s'";
        let proxy = Proxy::ruled(&cluster, rules, "", &format!("{SHARED}\n{routing}"));
        let mut client = RawClient::login(proxy.port(), "bench", &[]);
        let barred = run_unnamed("copy barred from stdin");
        // Outside of a transaction, too, what is refused is told so.
        client.send(&[&barred]);
        assert_eq!(client.until(b'E'), ["ZZ042 no copies"]);
        client.ask(&[&copy_data(b"0\n"), COPY_DONE, SYNC], 1);
        let copy = run_unnamed("copy copied from stdin");
        let read_only = "25006 cannot execute COPY FROM in a read-only transaction";
        for (begin, copy, last) in
            [("begin", &copy, "G"), ("begin read only", &copy, read_only), ("begin", &barred, "ZZ042 no copies")]
        {
            eventually("a replica has the transaction", Duration::from_secs(10), || {
                client.query("rollback");
                client.query(begin);
                client.query("select pg_is_in_recovery()").contains(&"row t".to_owned())
            });
            client.send(&[copy]);
            let told = client.until(if last == "G" { b'G' } else { b'E' });
            assert_eq!(told.last().unwrap(), last, "{begin}");
            let told = client.ask(&[&copy_data(b"1\n"), COPY_DONE, SYNC], 1);
            assert_eq!(told.contains(&"COPY 1".to_owned()), last == "G", "{begin}: {told:?}");
            client.query(if last == "G" { "commit" } else { "rollback" });
            // Its data may have come with it.
            client.query(begin);
            client.query("select pg_is_in_recovery()");
            let told = client.ask(&[copy, &copy_data(b"2\n"), COPY_DONE, SYNC], 1);
            assert_eq!(told.contains(&"COPY 1".to_owned()), last == "G", "{begin}: {told:?}");
            assert!(told.iter().any(|words| words == last), "{begin}: {told:?}");
            assert_eq!(client.query("commit").len(), 2, "{begin}: nothing else is still to be told");
        }
        assert_eq!(cluster.node(0).sql("select array_agg(a order by a) from copied").unwrap(), "{1,2}");
    });
}

#[test]
fn who_gives_up_the_role_of_its_login_gives_up_nobody_elses() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role owner; grant owner to bench; alter role bench set role = owner").unwrap();
        let proxy = Proxy::start(&cluster, &format!("{SHARED}\n[routing]\nreads = 'primary'"));
        let (mut one, mut other) = (proxy.client(), proxy.client());
        let mut direct = login(cluster.node(0).port(), "bench", "bench").connect(NoTls).unwrap();
        let who = "select current_user::text";
        assert_eq!((first_value(&mut one, who), first_value(&mut other, who)), ("owner".into(), "owner".into()));
        for give_up in
            ["set role none", "set session authorization bench", "discard all", "reset session authorization"]
        {
            one.batch_execute(give_up).unwrap();
            direct.batch_execute(give_up).unwrap();
            let told = first_value(&mut direct, who);
            for round in 0..2 {
                assert_eq!(first_value(&mut other, who), "owner", "{give_up}, {round}");
                assert_eq!(first_value(&mut one, who), told, "{give_up}, {round}");
            }
            assert_eq!(first_value(&mut proxy.client(), who), "owner", "{give_up}");
            one.batch_execute("reset role").unwrap();
            direct.batch_execute("reset role").unwrap();
            assert_eq!(first_value(&mut other, who), "owner", "{give_up}");
            assert_eq!(first_value(&mut one, who), "owner", "{give_up}, and back");
        }
    });
}

#[test]
fn what_reset_all_leaves_as_it_is_stays() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role first; create role second").unwrap();
        let proxy = Proxy::start(&cluster, &format!("{SHARED}\n[routing]\nreads = 'primary'"));
        let mut client = RawClient::connect(proxy.port(), &[("role", "first"), ("search_path", "app")]);
        let mut other = RawClient::connect(proxy.port(), &[]);
        client.query("set role second");
        client.query("set search_path = elsewhere");
        client.query("reset all");
        for _ in 0..2 {
            assert_eq!(other.query("select current_user")[1], "row bench");
            assert_eq!(client.query("select current_user")[1], "row second");
            assert_eq!(client.query("show search_path")[1], "row app");
        }
    });
}

#[test]
fn a_setting_of_megabytes_is_kept_as_any_other() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let (mut owner, mut other) = (proxy.client(), proxy.client());
        owner.batch_execute("select set_config('app.document', repeat('ä', 1500000), false)").unwrap();
        for round in 0..3 {
            let seen = first_value(&mut other, "select coalesce(current_setting('app.document', true), '')");
            assert_eq!(seen, "", "round {round}");
            let size = first_value(&mut owner, "select octet_length(current_setting('app.document'))::text");
            assert_eq!(size, "3000000", "round {round}");
        }
    });
}

/// `ISO` leaves the order of day and month as it is.
#[test]
fn a_datestyle_without_an_order_has_the_servers_and_not_the_last_sessions() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{SHARED}\n[routing]\nreads = 'primary'"));
        let mut other = RawClient::connect(proxy.port(), &[]);
        let mut client = RawClient::connect(proxy.port(), &[("DateStyle", "ISO")]);
        for style in ["ISO, DMY", "German", "SQL, DMY"] {
            other.query(&format!("set datestyle = '{style}'"));
            assert_eq!(client.query("select '01/02/2024'::date")[1], "row 2024-01-02", "behind {style}");
            // By a login, too, of which nothing is known before.
            other.query("select '01/02/2024'::date");
            let mut late = RawClient::connect(proxy.port(), &[("DateStyle", "ISO"), ("application_name", style)]);
            assert_eq!(late.query("show datestyle")[1], "row ISO, MDY", "behind {style}");
            late.send(&[TERMINATE]);
        }
        client.query("set datestyle = 'DMY'");
        assert_eq!(client.query("show datestyle")[1], "row ISO, DMY");
        other.query("select 1");
        assert_eq!(client.query("select '01/02/2024'::date")[1], "row 2024-02-01");
        client.query("reset datestyle");
        let shown = client.query("show datestyle");
        assert!(shown.contains(&"row ISO, MDY".to_owned()), "{shown:?}");
    });
}

#[test]
fn what_a_session_takes_along_is_not_read_in_the_encoding_of_the_session_before() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{SHARED}\n[routing]\nreads = 'primary'"));
        let bytes =
            |client: &mut RawClient| client.query("select octet_length(current_setting('app.tenant'))")[1].clone();
        let mut other = RawClient::connect(proxy.port(), &[("client_encoding", "LATIN1"), ("app.tenant", "Zoë")]);
        let mut client = RawClient::connect(proxy.port(), &[("app.tenant", "Zoë")]);
        for round in 0..3 {
            assert_eq!(bytes(&mut other), "row 4", "round {round}");
            assert_eq!(bytes(&mut client), "row 4", "round {round}");
            // What the other one sends itself is read as it says: these are two letters.
            assert_eq!(other.query("select octet_length('ë')")[1], "row 4", "round {round}");
            let mut late = RawClient::connect(proxy.port(), &[("app.tenant", &format!("Zoë {round}"))]);
            assert_eq!(bytes(&mut late), "row 6", "round {round}");
            late.send(&[TERMINATE]);
        }
        assert_eq!(other.query("show client_encoding")[1], "row LATIN1");
        client.query("set app.tenant = 'Zoé'");
        other.query("set app.tenant = 'Zoe'");
        assert_eq!(client.query("show app.tenant")[1], "row Zoé");
        assert_eq!(bytes(&mut other), "row 3");
        assert_eq!(other.query("reset app.tenant"), ["RESET", "I"]);
        assert_eq!(bytes(&mut other), "row 4", "what it came with");
        assert_eq!(other.query("show client_encoding")[1], "row LATIN1");
        // Code that nobody has looked into may have left any encoding.
        client.query("do $$ begin execute 'set client_' || 'encoding = latin1'; end $$");
        let mut late = RawClient::connect(proxy.port(), &[("app.tenant", "ë")]);
        assert_eq!(bytes(&mut late), "row 2");
    });
}

#[test]
fn a_setting_of_a_transaction_ends_with_it() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut client = proxy.client();
        let usual = shown(&mut client, "work_mem");
        client.batch_execute("begin; set local work_mem = '9MB'; commit").unwrap();
        assert_eq!(shown(&mut client, "work_mem"), usual);
        client.batch_execute("begin; set work_mem = '9MB'; rollback").unwrap();
        assert_eq!(shown(&mut client, "work_mem"), usual);
        client.batch_execute("begin; set work_mem = '9MB'; commit").unwrap();
        assert_eq!(shown(&mut client, "work_mem"), "9MB");
    });
}

#[test]
fn a_clients_name_follows_it_to_the_server() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut one = proxy.client_config().application_name("one").connect(NoTls).unwrap();
        let mut two = proxy.client_config().application_name("two").connect(NoTls).unwrap();
        for _ in 0..10 {
            assert_eq!(shown(&mut one, "application_name"), "one");
            assert_eq!(shown(&mut two, "application_name"), "two");
        }
    });
}

#[test]
fn who_listens_knows_its_own_notifications_by_their_sender() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 2");
        let mut listener = RawClient::connect(proxy.port(), &[]);
        let mut other = RawClient::connect(proxy.port(), &[]);
        listener.query("listen news");
        let own = format!("notified by {} news=mine", listener.process_id());
        let told = listener.query("notify news, 'mine'");
        assert!(told.contains(&own), "{own}: {told:?}");
        // Another's comes while it asks for nothing, and is not taken for one of its own.
        other.query("notify news, 'its'");
        let told = listener.until(b'A').pop().unwrap();
        assert!(told.ends_with(" news=its") && !told.contains(&format!(" {} ", listener.process_id())), "{told}");
    });
}

/// The server connection is one that another session has had for itself and that DISCARD ALL has made clean.
#[test]
fn who_listens_on_a_connection_that_was_cleaned_knows_its_own_notifications_too() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\nmode = 'session'");
        for _ in 0..2 {
            let mut listener = RawClient::connect(proxy.port(), &[]);
            listener.query("listen news");
            let own = format!("notified by {} news=mine", listener.process_id());
            let told = listener.query("notify news, 'mine'");
            assert!(told.contains(&own), "{own}: {told:?}");
            listener.send(&[TERMINATE]);
        }
    });
}

/// Trunkline asks the server something of its own behind these statements, on the connection that the listener keeps.
#[test]
fn who_listens_hears_what_comes_while_trunkline_asks_something_of_its_own() {
    const LAST: usize = 300;
    limited(|| {
        let cluster = cluster();
        for (mode, sql) in [
            ("transaction", "do $$ begin null; end $$"),
            ("transaction", "begin; listen more; commit"),
            ("session", "set work_mem = '7MB'"),
        ] {
            let proxy = Proxy::start(&cluster, &format!("[pool]\nsize = 2\nmode = '{mode}'"));
            let mut listener = RawClient::connect(proxy.port(), &[]);
            listener.query("listen news");
            let mut other = proxy.client();
            let notifier = thread::spawn(move || {
                (0..=LAST).for_each(|number| other.batch_execute(&format!("notify news, '{number}'")).unwrap());
            });
            let mut heard = Vec::new();
            while !notifier.is_finished() {
                heard.extend(listener.query(sql));
            }
            notifier.join().unwrap();
            heard.extend(listener.query(sql));
            heard.extend(listener.query("select 1"));
            let numbers = heard.iter().filter_map(|words| words.split_once(" news=")?.1.parse().ok());
            let heard: Vec<usize> = numbers.collect();
            let wanted: Vec<usize> = (0..=LAST).collect();
            assert_eq!(heard, wanted, "{sql} in mode {mode}");
        }
    });
}

#[test]
fn a_cancel_that_comes_too_late_does_nothing_where_trunkline_asks_something_of_its_own() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        for first in ["select 1", "create temp table mine (a int)"] {
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query(first);
            for round in 0..200 {
                for (sql, tag) in [("do $$ begin null; end $$", "DO"), ("set work_mem = '7MB'", "SET")] {
                    assert_eq!(client.query(sql), [tag, "I"], "round {round} behind {first}");
                    client.canceller()();
                }
            }
            client.send(&[TERMINATE]);
        }
    });
}

#[test]
fn what_runs_on_a_kept_server_connection_can_be_cancelled_behind_what_trunkline_asks_there() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("create temp table mine (a int)");
        client.query("do $$ begin null; end $$");
        let cancel = client.canceller();
        let cancelling = thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            cancel();
        });
        let told = client.query("select count(*), pg_sleep(20) from mine");
        assert!(told.contains(&"57014 canceling statement due to user request".to_owned()), "{told:?}");
        cancelling.join().unwrap();
    });
}

/// With so many locks it takes the server longer to tell what the session has than the session gives its statements.
#[test]
fn a_short_statement_timeout_does_not_end_a_session_whose_remains_take_longer_to_find() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("select count(pg_advisory_lock(number)) from generate_series(1, 5000) as number");
        // What Trunkline asks of a SERIALIZABLE session is a transaction block, which fails as a whole.
        for (isolation, memory) in [("read committed", "7MB"), ("serializable", "9MB")] {
            client.query(&format!("set default_transaction_isolation = '{isolation}'"));
            client.query("set statement_timeout = '4ms'");
            for _ in 0..5 {
                let told =
                    client.query(&format!("do $$ begin perform set_config('work_mem', '{memory}', false); end $$"));
                assert_eq!(told.last().unwrap(), "I", "{told:?}");
            }
            client.query("set statement_timeout = '20s'");
            assert_eq!(client.query("show work_mem")[1], format!("row {memory}"));
        }
        assert_eq!(client.query("select count(*) from pg_locks where locktype = 'advisory'")[1], "row 5000");
    });
}

#[test]
fn reset_goes_back_to_what_the_client_came_with_wherever_it_stands() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let came_with =
            [("application_name", "mine"), ("search_path", "\"Two words\", public"), ("app.tenant", "it's")];
        let mut client = RawClient::connect(proxy.port(), &came_with);
        let shown = |client: &mut RawClient, setting: &str| client.query(&format!("show {setting}"))[1].clone();
        let expect = |client: &mut RawClient, when: &str| {
            assert_eq!(shown(client, "application_name"), "row mine", "{when}");
            assert_eq!(shown(client, "search_path"), "row \"Two words\", public", "{when}");
            assert_eq!(shown(client, "app.tenant"), "row it's", "{when}");
        };
        // Nothing has changed for the client, so it is told nothing.
        assert_eq!(client.query("reset all"), ["RESET", "I"]);
        expect(&mut client, "at rest");
        client.query("set search_path = pg_catalog");
        client.query("begin");
        assert_eq!(client.query("reset all"), ["RESET", "T"]);
        expect(&mut client, "in a transaction");
        assert_eq!(client.query("rollback"), ["ROLLBACK", "I"]);
        assert_eq!(shown(&mut client, "search_path"), "row pg_catalog", "undone");
        client.query("begin");
        client.query("reset search_path");
        assert_eq!(client.query("set transaction isolation level serializable"), ["SET", "T"]);
        client.query("commit");
        expect(&mut client, "committed");
        client.query("create temp table here (a int)");
        client.query("reset all");
        expect(&mut client, "on a server connection that it keeps");
        client.query("set application_name = 'other'");
        assert_eq!(client.query("discard all"), ["DISCARD ALL", "application_name=mine", "I"]);
        expect(&mut client, "after DISCARD ALL");
        assert_eq!(client.query("set application_name = 'other'"), ["SET", "application_name=other", "I"]);
        assert_eq!(client.query("set application_name to default"), ["SET", "application_name=mine", "I"]);
        expect(&mut client, "one by one");
        client.query("set search_path = pg_catalog");
        client.query("set application_name = 'other'");
        client.query("begin");
        client.query("set local search_path to default");
        assert_eq!(client.query("set local application_name to default"), ["SET", "application_name=mine", "T"]);
        expect(&mut client, "for a transaction");
        assert_eq!(client.query("commit"), ["COMMIT", "application_name=other", "I"]);
        assert_eq!(shown(&mut client, "search_path"), "row pg_catalog", "behind that transaction");
        client.query("begin; savepoint s; set local search_path to default; rollback to s");
        assert_eq!(shown(&mut client, "search_path"), "row pg_catalog", "undone in a string");
        client.query("rollback");
        client.query("begin; set local search_path to default; commit; select 1 / 0");
        assert_eq!(shown(&mut client, "search_path"), "row pg_catalog", "behind it in a string");
        client.query("set application_name to default");
        assert_eq!(client.query("begin; reset search_path; commit; select 1 / 0").last().unwrap(), "I");
        expect(&mut client, "committed before what fails");
        client.query("set search_path = pg_catalog");
        client.query("begin; reset search_path; rollback; select 1 / 0");
        assert_eq!(shown(&mut client, "search_path"), "row pg_catalog", "undone before what fails");
    });
}

#[test]
fn what_code_puts_back_goes_back_to_what_the_client_came_with() {
    limited(|| {
        let cluster = cluster();
        let code = "create function puts_back() returns int language plpgsql as $$ begin reset work_mem; return 1; end $$; \
            create function sets() returns int language plpgsql as $$ begin set work_mem = '7MB'; return 1; end $$; \
            create function runs(what text) returns int language plpgsql as $$ begin execute what; return 1; end $$";
        cluster.node(0).sql(code).unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        for config in [SHARED, "[pool]\nmode = 'session'"] {
            let proxy = Proxy::start(&cluster, config);
            let mut other = RawClient::connect(proxy.port(), &[("work_mem", "8MB")]);
            for port in [cluster.node(0).port(), proxy.port()] {
                let mut client = RawClient::connect(port, &[("work_mem", "9MB"), ("DateStyle", "German")]);
                for (script, expected) in [
                    ("select puts_back()", "9MB"),
                    ("select set_config('work_mem', null, false)", "9MB"),
                    ("select set_config('work_mem', null, false) where false", "5MB"),
                    ("do $$ begin reset work_mem; end $$", "9MB"),
                    ("do $$ begin execute 'reset ' || 'work_mem'; end $$", "9MB"),
                    ("select runs('reset work_mem')", "9MB"),
                    ("select runs('reset all')", "9MB"),
                    ("select sets()", "7MB"),
                    ("select set_config('work_mem', '4MB', false)", "4MB"),
                    ("begin; select puts_back(); rollback", "5MB"),
                ] {
                    // A server connection that stays the session's is not looked at for what made-up text has done.
                    if config != SHARED && (script.contains("execute") || script.contains("runs")) {
                        continue;
                    }
                    client.query("set work_mem = '5MB'; set datestyle = 'SQL, DMY'");
                    client.query(script);
                    let shown = client.query("show work_mem");
                    assert!(shown.contains(&format!("row {expected}")), "{config}, {script}: {shown:?}");
                    assert_eq!(other.query("show work_mem")[1], "row 8MB", "{config}, {script}");
                    let style = if script.contains("reset all") { "row German, DMY" } else { "row SQL, DMY" };
                    assert!(client.query("show datestyle").contains(&style.to_owned()), "{config}, {script}");
                }
            }
        }
    });
}

/// A table of the same name in two schemas, each with the name of its own.
fn two_schemas(cluster: &Cluster) {
    cluster.node(0).sql("create schema tenant; create table t as select 'public' as a").unwrap();
    cluster.node(0).sql("create table tenant.t as select 'tenant' as a; create table tenant.own (a int)").unwrap();
    cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
}

#[test]
fn what_is_set_in_one_write_with_a_read_that_the_replica_refuses_is_kept_and_never_leaks() {
    limited(|| {
        let cluster = cluster();
        two_schemas(&cluster);
        let proxy = Proxy::start(&cluster, SHARED).with_both_replicas(&cluster);
        let mut other = RawClient::connect(proxy.port(), &[]);
        for order in
            [["set search_path = tenant", "select typo from t"], ["select * from own", "set search_path = tenant"]]
        {
            let mut client = RawClient::connect(proxy.port(), &[]);
            let told = client.ask(&[&query(order[0]), &query(order[1])], 2);
            let refused = if order[0].starts_with("set") { "42703" } else { "42P01" };
            assert!(told.iter().any(|told| told.starts_with(refused)), "{order:?}: {told:?}");
            for round in 0..10 {
                assert_eq!(other.query("select a from t")[1], "row public", "{order:?}, round {round}");
                assert_eq!(client.query("select a from t")[1], "row tenant", "{order:?}, round {round}");
            }
        }
    });
}

#[test]
fn what_is_set_in_one_write_with_a_begin_goes_with_the_transaction_where_it_moves() {
    limited(|| {
        let cluster = cluster();
        two_schemas(&cluster);
        let proxy = Proxy::start(&cluster, SHARED).with_both_replicas(&cluster);
        let mut other = RawClient::connect(proxy.port(), &[]);
        let mut client = RawClient::connect(proxy.port(), &[]);
        assert_eq!(
            client.ask(&[&query("set search_path = tenant"), &query("begin read only")], 2).last().unwrap(),
            "T"
        );
        assert_eq!(client.query("select pg_is_in_recovery() from pg_current_wal_lsn()")[1], "row f");
        assert_eq!(client.query("select a from t")[1], "row tenant");
        assert_eq!(client.query("commit"), ["COMMIT", "I"]);
        for round in 0..10 {
            assert_eq!(other.query("select a from t")[1], "row public", "round {round}");
            assert_eq!(client.query("select a from t")[1], "row tenant", "round {round}");
        }
    });
}

#[test]
fn what_a_transaction_has_committed_on_its_replica_is_not_lost_where_the_next_cannot_go_on_there() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED).with_both_replicas(&cluster);
        for (end, is_committed) in [("commit and chain", true), ("rollback and chain", false)] {
            let mut client = RawClient::connect(proxy.port(), &[]);
            for sql in ["begin read only", "set work_mem = '7MB'", end] {
                assert_eq!(client.query(sql).last().unwrap(), "T", "{end}: {sql}");
            }
            client.send(&[&query("select pg_current_wal_lsn()")]);
            if is_committed {
                let told = client.until_end();
                assert!(told[0].starts_with("0A000 the session is bound to a replica"), "{told:?}");
            } else {
                assert_eq!(client.until(b'Z').last().unwrap(), "E");
                assert_eq!(client.query("rollback"), ["ROLLBACK", "I"]);
                assert_eq!(client.query("show work_mem"), RawClient::connect(proxy.port(), &[]).query("show work_mem"));
            }
        }
    });
}

/// Of these messages, the last row of the answer.
fn last_row(client: &mut RawClient, messages: &[Vec<u8>], readies: usize) -> String {
    let messages: Vec<_> = messages.iter().map(Vec::as_slice).collect();
    let told = client.ask(&messages, readies);
    told.iter().rfind(|told| told.starts_with("row ")).unwrap_or_else(|| panic!("{told:?}")).clone()
}

fn run(statement: &str) -> Vec<u8> {
    [bind(statement, &[]), execute()].concat()
}

fn parse_and_run(statement: &str) -> Vec<u8> {
    [parse("", statement), run("")].concat()
}

#[test]
fn a_statement_prepared_behind_a_setting_that_is_on_its_way_is_nobody_elses() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{SHARED}\n[routing]\nreads = 'primary'"));
        const DATE: &str = "select '01/02/2020'::date";
        const NULLS: &str = "select (null::int = null) is true";
        let (day_first, null_equals) = ("set datestyle = 'ISO, DMY'", "set local transform_null_equals = on");
        let sync = || SYNC.to_vec();
        let ways = [
            (
                "one batch",
                DATE,
                vec![parse_and_run(day_first), parse("a", DATE), run("a"), sync()],
                1,
                "row 2020-02-01",
            ),
            (
                "two batches",
                DATE,
                vec![parse_and_run(day_first), sync(), parse("a", DATE), run("a"), sync()],
                2,
                "row 2020-02-01",
            ),
            ("behind a query", DATE, vec![query(day_first), parse("a", DATE), run("a"), sync()], 2, "row 2020-02-01"),
            (
                "in a transaction",
                NULLS,
                vec![query("begin"), query(null_equals), parse("a", NULLS), run("a"), sync(), query("commit")],
                4,
                "row t",
            ),
        ];
        for (way, text, messages, readies, expected) in ways {
            let mut other = RawClient::connect(proxy.port(), &[]);
            let before = last_row(&mut other, &[parse("b", text), run("b"), sync()], 1);
            assert_ne!(before, expected, "{way}");
            let mut client = RawClient::connect(proxy.port(), &[]);
            assert_eq!(last_row(&mut client, &messages, readies), expected, "{way}");
            assert_eq!(last_row(&mut other, &[run("b"), sync()], 1), before, "{way}");
            // What is in force now, a statement that is prepared by it has as anybody's.
            let now = last_row(&mut client, &[parse("c", text), run("c"), sync()], 1);
            assert_eq!(now, if text == DATE { expected } else { "row f" }, "{way}");
            assert_eq!(last_row(&mut other, &[run("b"), sync()], 1), before, "{way}");
        }
    });
}

#[test]
fn a_statement_prepared_behind_the_end_of_a_transaction_that_is_on_its_way_is_read_by_what_that_leaves() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{SHARED}\n[routing]\nreads = 'primary'"));
        const DATE: &str = "select '01/02/2020'::date";
        let ends = |end: &str| {
            [
                (vec![parse_and_run(end), parse("a", DATE), run("a"), SYNC.to_vec()], 1),
                (vec![query(end), parse("a", DATE), run("a"), SYNC.to_vec()], 2),
            ]
        };
        for (messages, readies) in ends("rollback").into_iter().chain(ends("commit")) {
            let mut other = RawClient::connect(proxy.port(), &[("DateStyle", "ISO, DMY")]);
            let prepared = [parse("b", DATE), run("b"), SYNC.to_vec()];
            assert_eq!(last_row(&mut other, &prepared, 1), "row 2020-02-01");
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query("begin");
            client.query("set local datestyle = 'ISO, DMY'");
            assert_eq!(last_row(&mut client, &messages, readies), "row 2020-01-02");
            assert_eq!(last_row(&mut other, &[run("b"), SYNC.to_vec()], 1), "row 2020-02-01");
        }
    });
}

#[test]
fn what_fails_behind_a_flush_undoes_what_stands_before_it() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED).with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let usual = client.query("show work_mem");
        for fails in ["insert into nowhere values (1)", "select 1 / 0", "set nothing_known = 1"] {
            let set = [run_unnamed("set work_mem = '7MB'"), FLUSH.to_vec()].concat();
            let rest = [run_unnamed(fails), SYNC.to_vec()].concat();
            let answer = client.ask(&[&set, &rest], 1);
            assert_eq!(answer.last().unwrap(), "I", "{fails}: {answer:?}");
            assert_eq!(client.query("show work_mem"), usual, "{fails}");
            client.send(&[&set]);
            client.until(b'C');
            client.ask(&[&rest], 1);
            assert_eq!(client.query("show work_mem"), usual, "{fails}");
        }
    });
}

#[test]
fn what_follows_an_error_on_a_replica_up_to_its_sync_is_dropped_wherever_it_would_run() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table kept (a int)").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, SHARED).with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for dropped in ["insert into kept values (1)", "create temp table t (a int)", "no sql", "select * from kept"] {
            let fails = [run_unnamed("select 1 / 0"), FLUSH.to_vec()].concat();
            let rest = [run_unnamed(dropped), SYNC.to_vec()].concat();
            for pause in [false, true] {
                let mut told = Vec::new();
                if pause {
                    client.send(&[&fails]);
                    told = client.until(b'E');
                    told.extend(client.ask(&[&rest], 1));
                } else {
                    told.extend(client.ask(&[&fails, &rest], 1));
                }
                assert_eq!(told, ["1", "22012 division by zero", "I"], "{dropped}");
                assert_eq!(client.query("select count(*) from kept")[1], "row 0", "{dropped}");
            }
        }
    });
}

#[test]
fn a_failed_transaction_on_a_replica_says_so_whatever_is_asked() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED).with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("begin read only");
        client.query("select 1 / 0");
        for sql in ["select pg_listening_channels()", "listen news", "select nextval('nothing')", "create table t ()"] {
            let aborted = "25P02 current transaction is aborted, commands ignored until end of transaction block";
            assert_eq!(client.query(sql), [aborted, "E"], "{sql}");
        }
        assert_eq!(client.query("rollback"), ["ROLLBACK", "I"]);
        assert_eq!(client.query("create table t ()"), ["CREATE TABLE", "I"]);
    });
}

#[test]
fn an_error_speaks_of_the_clients_name_for_a_statement() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for name in ["mine", ""] {
            client.ask(&[&parse(name, "select $1::int"), SYNC], 1);
            let answer = client.ask(&[&bind(name, &[]), &execute(), SYNC], 1);
            let wanted =
                format!("08P01 bind message supplies 0 parameters, but prepared statement \"{name}\" requires 1");
            assert_eq!(answer, [wanted, "I".to_owned()]);
        }
    });
}

#[test]
fn a_temporary_table_stays_with_its_client() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 2");
        let mut owner = proxy.client();
        owner.batch_execute("create temp table mine (a int); insert into mine values (1)").unwrap();
        let mut other = proxy.client();
        let mut servers = BTreeSet::new();
        for _ in 0..20 {
            let row = owner.query_one("select a, pg_backend_pid() from mine", &[]).unwrap();
            servers.insert(row.get::<_, i32>(1));
            assert_eq!(other.batch_execute("select a from mine").unwrap_err().code().unwrap().code(), "42P01");
        }
        assert_eq!(servers.len(), 1);
    });
}

#[test]
fn prepared_statements_run_on_every_node() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut client = proxy.client();
        let read = client.prepare("select inet_server_port(), $1::int + 1").unwrap();
        let write = client.prepare("insert into t values ($1) returning inet_server_port()").unwrap();
        let mut seen = BTreeSet::new();
        for round in 0..60 {
            if round % 20 == 0 {
                let port: i32 = client.query_one(&write, &[&round]).unwrap().get(0);
                assert_eq!(port, i32::from(cluster.node(0).port()));
            }
            let row = client.query_one(&read, &[&round]).unwrap();
            assert_eq!(row.get::<_, i32>(1), round + 1);
            seen.insert(row.get::<_, i32>(0));
        }
        for replica in &cluster.nodes()[1..] {
            assert!(seen.contains(&i32::from(replica.port())));
        }
    });
}

#[test]
fn a_statement_that_is_prepared_again_on_another_server_connection_is_counted_once_for_each() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED).with_both_replicas(&cluster);
        let mut client = proxy.client();
        let replays = || proxy.metric("trunkline_prepared_replays_total", "");
        let read = client.prepare("select inet_server_port(), $1::int").unwrap();
        assert_eq!(replays(), 0.0, "its client has prepared it");
        let mut seen = BTreeSet::new();
        for _ in 0..60 {
            seen.insert(client.query_one(&read, &[&1]).unwrap().get::<_, i32>(0));
        }
        assert!(seen.len() >= 2, "{seen:?}");
        let made_again = replays();
        assert!((1.0..=2.0).contains(&made_again), "{made_again} on {seen:?}");
        for _ in 0..20 {
            client.query_one(&read, &[&1]).unwrap();
        }
        assert_eq!(replays(), made_again, "they are there now");
    });
}

#[test]
fn the_same_name_means_another_statement_to_another_client() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        // Both clients name their first statement alike.
        let (mut one, mut two) = (proxy.client(), proxy.client());
        let of_one = one.prepare("select 'one'").unwrap();
        let of_two = two.prepare("select 2").unwrap();
        for _ in 0..20 {
            assert_eq!(one.query_one(&of_one, &[]).unwrap().get::<_, String>(0), "one");
            assert_eq!(two.query_one(&of_two, &[]).unwrap().get::<_, i32>(0), 2);
        }
    });
}

#[test]
fn sql_prepared_statements_are_kept() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let (mut one, mut two) = (proxy.client(), proxy.client());
        one.batch_execute("prepare p as select 'one'").unwrap();
        two.batch_execute("prepare p as select 'two'").unwrap();
        for _ in 0..10 {
            for (client, expected) in [(&mut one, "one"), (&mut two, "two")] {
                assert_eq!(first_value(client, "execute p"), expected);
            }
        }
    });
}

/// As libpq's PQexecPrepared may.
#[test]
fn what_was_prepared_by_sql_and_is_bound_by_its_name_leaves_to_others_nothing_of_what_it_does() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 2\n[routing]\nreads = 'primary'");
        let mut one = RawClient::connect(proxy.port(), &[]);
        let mut two = RawClient::connect(proxy.port(), &[]);
        one.query("prepare s(text) as select set_config('app.tenant', $1, false)");
        for tenant in ["a", "b"] {
            let row = format!("row {tenant}");
            let told = one.ask(&[&bind("s", &[tenant.as_bytes()]), &execute(), SYNC], 1);
            assert_eq!(told, ["2", &row, "SELECT 1", "I"]);
            for _ in 0..5 {
                assert_ne!(two.query("select current_setting('app.tenant', true)")[1], row);
                assert_eq!(one.query("select current_setting('app.tenant', true)")[1], row);
            }
        }
        // Also in the same write as its PREPARE.
        let prepare = query("prepare l(int) as select pg_advisory_lock($1)");
        let told = one.ask(&[&prepare, &bind("l", &[b"7"]), &execute(), SYNC], 2);
        assert_eq!(told, ["PREPARE", "I", "2", "row ", "SELECT 1", "I"]);
        for _ in 0..5 {
            let holder = two.query("select pid from pg_locks where locktype = 'advisory'")[1].clone();
            assert_ne!(two.query("select pg_backend_pid()")[1], holder);
            assert_eq!(one.query("select pg_backend_pid()")[1], holder);
        }
        assert_eq!(one.query("select pg_advisory_unlock(7)")[1], "row t");
    });
}

#[test]
fn an_open_transaction_of_a_client_that_left_is_rolled_back() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut leaving = proxy.client();
        leaving.batch_execute("begin; insert into t values (1)").unwrap();
        drop(leaving);
        let mut next = proxy.client();
        next.batch_execute("insert into t values (2)").unwrap();
        assert_eq!(cluster.node(0).sql("select string_agg(a::text, ',') from t").unwrap(), "2");
    });
}

#[test]
fn an_unnamed_statement_outlives_what_trunkline_itself_asks_on_its_server_connection() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let mut other = RawClient::connect(proxy.port(), &[("work_mem", "7MB")]);
        for round in 0..10 {
            client.ask(&[&parse("", "select 42"), SYNC], 1);
            // Settings are read back behind this, and made anew for each of the two before what they send next.
            client.ask(&[&parse("set", "select set_config('jit', 'off', false)"), SYNC], 1);
            client.ask(&[&bind("set", &[]), &execute(), SYNC], 1);
            client.ask(&[&close("set"), SYNC], 1);
            for _ in 0..3 {
                let answer = client.ask(&[&bind("", &[]), &execute(), SYNC], 1);
                assert!(answer.contains(&"row 42".to_owned()), "{round}: {answer:?}");
                other.query("select 1");
            }
            client.query("reset jit");
        }
    });
}

#[test]
fn a_connection_whose_transactions_are_serializable_serves_others_on_a_replica_too() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED).with_both_replicas(&cluster);
        let serializable = "set session characteristics as transaction isolation level serializable";
        let mut client = proxy.client();
        for _ in 0..4 {
            client.batch_execute(serializable).unwrap();
            assert_eq!(first_value(&mut client, "show transaction isolation level"), "serializable");
            client.batch_execute("select pg_advisory_unlock_all(); close all; unlisten *; reset all").unwrap();
            for _ in 0..3 {
                assert_eq!(first_value(&mut client, "show transaction isolation level"), "read committed");
            }
        }
        client.batch_execute(serializable).unwrap();
        for _ in 0..3 {
            assert_eq!(first_value(&mut proxy.client(), "show transaction isolation level"), "read committed");
        }
    });
}

/// How a client prepares a statement and runs it.
struct Script {
    prepares: Vec<u8>,
    runs: Vec<u8>,
    /// How the text begins that a server connection then waits with.
    text: &'static str,
    /// What it answers in the end.
    answer: &'static str,
}

impl Script {
    fn by_sql() -> Self {
        let (prepares, runs) = (query("prepare s as select count(*) from t"), query("execute s"));
        Self { prepares, runs, text: "prepare s ", answer: "row 0" }
    }

    fn by_protocol() -> Self {
        let insert = "insert into t values ($1) returning (select count(*) from t)";
        let prepares = [&parse("s", insert)[..], SYNC].concat();
        let runs = [&bind("s", &[b"1"])[..], &execute(), SYNC].concat();
        Self { prepares, runs, text: "insert into t ", answer: "row 0" }
    }
}

/// The statement of the script is to be prepared on another server connection, and its table is locked.
fn locked_out(
    script: Script,
    rules: &'static str,
    extra: &str,
    end: impl Fn(&mut RawClient, &dyn Fn(u32)) + Send + 'static,
) {
    let extra = extra.to_owned();
    limited(move || {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create table t (a int)").unwrap();
        let extra = format!("[pool]\nsize = 2\n{extra}\n[routing]\nreads = 'primary'");
        let proxy = Proxy::ruled(&cluster, rules, "", &extra);
        let (mut client, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        client.ask(&[&script.prepares], 1);
        // The one that has it is taken.
        other.query("begin");
        let mut owner = login(primary.port(), "bench", "bench").connect(NoTls).unwrap();
        owner.batch_execute("begin; lock table t in access exclusive mode").unwrap();
        let waiting = |wanted: u32| {
            let sql = format!(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ilike '%{}%'",
                script.text
            );
            eventually(&format!("{wanted} wait"), Duration::from_secs(10), || {
                primary.sql(&sql).unwrap() == wanted.to_string()
            });
        };
        client.send(&[&script.runs]);
        end(&mut client, &waiting);
        waiting(0);
        owner.batch_execute("rollback").unwrap();
        let answer = client.ask(&[&script.runs], 1);
        assert!(answer.contains(&script.answer.to_owned()), "{answer:?}");
    });
}

#[test]
fn what_is_prepared_anew_and_waits_for_a_lock_can_be_cancelled() {
    for script in [Script::by_sql, Script::by_protocol] {
        locked_out(script(), "", "", |client, waiting| {
            waiting(1);
            client.canceller()();
            assert_eq!(client.until(b'Z'), ["57014 canceling statement due to user request", "I"]);
        });
    }
}

#[test]
fn what_is_prepared_anew_and_waits_for_a_lock_for_long_ends_and_leaves_no_process_behind() {
    locked_out(Script::by_sql(), "", "queue_timeout = '1s'", |client, _| {
        let answer = client.until(b'Z');
        assert!(answer[0].starts_with("57014 canceling statement: what the session has prepared"), "{answer:?}");
    });
}

#[test]
fn what_is_prepared_anew_for_a_read_is_within_the_time_that_its_rule_gives_it() {
    let rules = "[[rule]]\nname = 'quick'\nuser = 'bench'\ntimeout = '2s'";
    locked_out(Script::by_sql(), rules, "", |client, waiting| {
        waiting(1);
        assert_eq!(client.until(b'Z'), ["57014 canceling statement due to the timeout of its rule", "I"]);
    });
}

fn shown(client: &mut Client, setting: &str) -> String {
    first_value(client, &format!("show {setting}"))
}

fn first_value(client: &mut Client, sql: &str) -> String {
    let answers = client.simple_query(sql).unwrap();
    let value = answers.iter().find_map(|answer| match answer {
        postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    value.unwrap().to_owned()
}
