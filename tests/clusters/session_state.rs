//! State that a client has left on a server connection: kept for it, and seen by nobody else.

use std::collections::BTreeSet;

use postgres::Client;

use crate::fixture::{Proxy, cluster, limited};
use crate::raw::{RawClient, SYNC, TERMINATE, bind, close, execute, parse};

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
        let mut one = proxy.client_config().application_name("one").connect(postgres::NoTls).unwrap();
        let mut two = proxy.client_config().application_name("two").connect(postgres::NoTls).unwrap();
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
