//! Prepared statements of sessions that share server connections: each means what it would mean on one of its own,
//! whatever has failed, been skipped, or been closed behind its back.

use std::thread;
use std::time::Duration;

use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, console, limited, login};
use crate::raw::{
    COPY_DONE, FLUSH, RawClient, SYNC, bind, bind_binary, bind_portal, close, close_portal, copy_data, describe,
    execute, execute_portal, parse, query, run_unnamed,
};

/// A client, and through Trunkline another one that leaves its own statements on every server connection whenever it can.
struct Player<'a> {
    cluster: &'a Cluster,
    client: RawClient,
    other: Option<RawClient>,
    answers: Vec<Vec<String>>,
}

impl Player<'_> {
    /// Asks for so many ReadyForQuery, and keeps what came.
    fn ask(&mut self, messages: &[&[u8]], readies: usize) {
        if let Some(other) = &mut self.other
            && self.answers.last().and_then(|answer| answer.last()).is_none_or(|status| status == "I")
        {
            for _ in 0..2 {
                other.ask(&[&parse("", "select 'of another'"), &bind("", &[]), &execute(), SYNC], 1);
                for shared in SHARED {
                    // It is told the same whatever the client has done to its own statement of the same text.
                    let row = format!("row {}", &shared[shared.len() - 2..shared.len() - 1]);
                    assert_eq!(other.ask(&[&run(shared)], 1), ["2", &row, "SELECT 1", "I"]);
                }
            }
        }
        self.answers.push(self.client.ask(messages, readies));
    }

    /// Somebody else does this, and every node has it.
    fn elsewhere(&mut self, sql: &str) {
        elsewhere(self.cluster, sql);
    }

    fn query(&mut self, sql: &str) {
        self.ask(&[&query(sql)], 1);
    }
}

/// Plays the same part to the primary, and through Trunkline with one server connection, alone and
/// not, with one that holds no more than one statement, and with some on every node.
fn same_answers(play: impl Fn(&mut Player<'_>) + Send + 'static) {
    limited(move || {
        let cluster = cluster();
        let narrow = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let tight = "[pool]\nsize = 1\nprepared_statements = 1\n[routing]\nreads = 'primary'";
        let tight = Proxy::start(&cluster, tight);
        let wide = Proxy::start(&cluster, "[pool]\nsize = 2").with_both_replicas(&cluster);
        let expected = played(&cluster, cluster.node(0).port(), &play, false);
        for (proxy, is_shared) in [(&narrow, false), (&narrow, true), (&tight, true), (&wide, true)] {
            let answers = played(&cluster, proxy.port(), &play, is_shared);
            for (number, (answer, expected)) in answers.iter().zip(&expected).enumerate() {
                assert_eq!(answer, expected, "question {number}");
            }
        }
    });
}

fn played(cluster: &Cluster, port: u16, play: impl Fn(&mut Player<'_>), is_shared: bool) -> Vec<Vec<String>> {
    elsewhere(cluster, "drop table if exists t; create table t (a int)");
    let other = is_shared.then(|| {
        let mut other = RawClient::connect(port, &[]);
        for shared in SHARED {
            other.ask(&[&parse(shared, shared), SYNC], 1);
        }
        other
    });
    let mut player = Player { cluster, client: RawClient::connect(port, &[]), other, answers: Vec::new() };
    play(&mut player);
    player.answers
}

fn elsewhere(cluster: &Cluster, sql: &str) {
    cluster.node(0).sql(sql).unwrap();
    for replica in &cluster.nodes()[1..] {
        replica.catch_up(cluster.node(0)).unwrap();
    }
}

/// Statements that the other one has prepared too, each by its text as its name.
const SHARED: [&str; 2] = ["select 'a'", "select 'b'"];

/// What fails first in a batch, so that the rest is skipped.
fn bad() -> Vec<u8> {
    bind("nobody", &[])
}

/// Bind, Execute and Sync of a statement.
fn run(statement: &str) -> Vec<u8> {
    [&bind(statement, &[])[..], &execute(), SYNC].concat()
}

#[test]
fn behind_a_skipped_parse_the_unnamed_statement_is_the_clients_own_or_none() {
    same_answers(|player| {
        player.ask(&[&bad(), &parse("", "select 1"), SYNC, &run("")], 2);
        player.ask(&[&parse("", "select 'own'"), SYNC], 1);
        player.ask(&[&bad(), &parse("", "select 2"), SYNC, &run(""), &run("")], 3);
        player.ask(&[&bad(), &close(""), SYNC, &run("")], 2);
        // A Query within the batch is skipped too, and drops nothing.
        player.ask(&[&bad(), &query("select 3"), SYNC, &run("")], 2);
        player.ask(&[&bad(), &describe(""), SYNC, &describe(""), SYNC], 2);
    });
}

#[test]
fn behind_a_failed_parse_there_is_no_unnamed_statement() {
    same_answers(|player| {
        player.ask(&[&parse("", "select 'own'"), SYNC], 1);
        player.ask(&[&parse("", "selekt"), SYNC, &run(""), &run("")], 3);
        player.ask(&[&parse("", "select 'own'"), SYNC, &parse("", "select nothing from nowhere"), SYNC, &run("")], 3);
        player.ask(&[&parse("", "select 'own'"), SYNC, &close(""), SYNC, &run("")], 3);
    });
}

#[test]
fn a_query_drops_the_unnamed_statement_for_good() {
    same_answers(|player| {
        player.ask(&[&parse("", "select 'own'"), SYNC, &query("select 1"), &run("")], 3);
        player.ask(&[&parse("", "select 'own'"), SYNC], 1);
        player.query("selekt");
        // A failed batch does not bring it back.
        player.ask(&[&bad(), &parse("", "select 2"), SYNC], 1);
        player.ask(&[&run("")], 1);
        player.ask(&[&parse("", "select 'own'"), SYNC], 1);
        player.query("begin");
        player.ask(&[&run("")], 1);
        player.query("rollback");
    });
}

#[test]
fn the_unnamed_statement_outlives_what_we_ask_of_its_server_connection() {
    same_answers(|player| {
        player.ask(&[&parse("", "select 'own'"), SYNC], 1);
        player.ask(&[&parse("set", "set work_mem = '7MB'"), &bind("set", &[]), &execute(), SYNC], 1);
        player.ask(&[&run(""), &run("")], 2);
        player.ask(&[&parse("show", "show work_mem"), &bind("show", &[]), &execute(), SYNC], 1);
        player.ask(&[&run("")], 1);
        player.ask(&[&parse("", "select 'own'"), SYNC, &run("set"), &run(""), &run("show"), &run("")], 5);
    });
}

#[test]
fn a_name_whose_parse_failed_or_was_skipped_is_nobodys() {
    same_answers(|player| {
        player.ask(&[&bad(), &parse("a", "select 1"), SYNC, &run("a")], 2);
        player.ask(&[&run("a")], 1);
        player.ask(&[&parse("a", "selekt"), SYNC, &describe("a"), SYNC, &run("a")], 3);
        // Another's statement of the same text is on the server connection.
        player.ask(&[&parse("a", "select 1"), SYNC], 1);
        player.ask(&[&bad(), &parse("b", "select 1"), SYNC, &run("b"), &run("a")], 3);
        player.ask(&[&bad(), &close("a"), SYNC, &run("a")], 2);
        player.ask(&[&bad(), &close("a"), &parse("a", "select 2"), SYNC, &run("a")], 2);
        player.ask(&[&close("a"), &parse("a", "select 2"), SYNC, &run("a")], 2);
        player.ask(&[&parse("a", "select 3"), SYNC, &parse("a", "select 4"), SYNC, &run("a")], 3);
        player.ask(&[&close("a"), SYNC, &parse("a", "select 5"), SYNC, &run("a"), &close("a"), SYNC, &run("a")], 5);
    });
}

#[test]
fn a_statement_that_a_server_connection_should_get_in_a_skipped_batch_is_there_in_the_next() {
    same_answers(|player| {
        player.ask(&[&parse("a", "select 'a', 1"), SYNC], 1);
        player.ask(&[&parse("b", "insert into t values (1)"), SYNC], 1);
        for _ in 0..6 {
            player.ask(&[&bad(), &bind("a", &[]), &bind("b", &[]), SYNC, &run("a"), &run("b"), &run("a")], 4);
        }
        player.query("begin");
        player.ask(&[&run("b"), &bad(), &bind("a", &[]), SYNC, &run("a")], 3);
        player.query("rollback");
    });
}

#[test]
fn statements_that_make_room_for_one_another_are_not_lost_when_a_batch_is_skipped() {
    limited(|| {
        let cluster = cluster();
        let extra = "[pool]\nsize = 1\nprepared_statements = 2\n[routing]\nreads = 'primary'";
        let proxy = Proxy::start(&cluster, extra);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let names = ["a", "b", "c", "d"];
        for name in names {
            client.ask(&[&parse(name, &format!("select '{name}'")), SYNC], 1);
        }
        for round in 0..40 {
            let [one, two, three] = [0, 1, 3].map(|step| names[(round / 3 + round * step) % 4]);
            let batches = [&bad(), &bind(one, &[])[..], &bind(two, &[]), &parse("x", "selekt"), SYNC];
            let told = client.ask(&[&batches.concat(), &run(three), &run(one), &run(two)], 4);
            let rows: Vec<_> = told.iter().filter(|word| word.starts_with("row ")).collect();
            assert_eq!(rows, [&format!("row {three}"), &format!("row {one}"), &format!("row {two}")], "{told:?}");
        }
    });
}

#[test]
fn what_a_clients_own_name_says_reaches_no_statement_of_ours() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut owner, mut thief) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        owner.ask(&[&parse("a", "select 'secret'"), SYNC], 1);
        let told = thief.query("select name from pg_prepared_statements where statement = 'select ''secret'''");
        let name = told[1].strip_prefix("row ").unwrap().to_owned();
        for message in [bind(&name, &[]), describe(&name)] {
            assert!(thief.ask(&[&message, SYNC], 1)[0].starts_with("26000"));
        }
        assert_eq!(thief.ask(&[&close(&name), SYNC], 1), ["3", "I"]);
        assert!(owner.ask(&[&run("a")], 1).contains(&"row secret".to_owned()));
        thief.query(&format!("deallocate {name}"));
        assert!(owner.ask(&[&run("a")], 1).contains(&"row secret".to_owned()));
    });
}

#[test]
fn a_client_that_deallocates_all_takes_nobody_elses_statements() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        other.ask(&[&parse("b", SHARED[1]), SYNC], 1);
        for _ in 0..2 {
            one.ask(&[&parse("a", SHARED[0]), SYNC], 1);
            assert_eq!(one.query("deallocate all"), ["DEALLOCATE ALL", "I"]);
            assert!(one.ask(&[&run("a")], 1)[0].starts_with("26000"));
            let ours = one.query("select count(*) from pg_prepared_statements where name like 'tl\\_%'");
            assert!(ours.contains(&"row 2".to_owned()), "{ours:?}");
        }
        assert!(proxy.metric("trunkline_statements_total", "target=\"none\"") >= 2.0);
    });
}

/// Every way to send a statement that closes names, and what is asked behind it.
fn closes(sql: &'static str) {
    same_answers(move |player| {
        let unnamed = [&parse("", sql)[..], &bind("", &[]), &execute()].concat();
        let anew = [&parse("a", "select 'anew'")[..], &bind("a", &[]), &execute()].concat();
        let again = [&parse("b", SHARED[1])[..], &bind("b", &[]), &execute()].concat();
        let stories: [(&[&[u8]], usize); 12] = [
            (&[&query(sql)], 1),
            (&[&query(sql), &run("a"), &run("b"), &query(sql), &query(sql), &run("a")], 6),
            (&[&query(sql), &anew, SYNC, &run("a"), &again, SYNC, &run("b")], 5),
            (&[&unnamed, SYNC], 1),
            (&[&unnamed, SYNC, &run("a"), &run("b"), &run("")], 4),
            (&[&unnamed, &bind("b", &[]), &execute(), &bind("a", &[]), &execute(), SYNC, &run("a")], 2),
            (&[&unnamed, &anew, SYNC, &run("a"), &run("b")], 3),
            (&[&unnamed, &again, &anew, SYNC, &run("b"), &run("a")], 3),
            (&[&unnamed, &parse("c", SHARED[0]), SYNC, &run("c"), &run("a"), &anew, SYNC], 4),
            (&[&bad(), &unnamed, SYNC, &run("a"), &run("b")], 3),
            (&[&parse("d", sql), SYNC, &run("d"), &run("a"), &run("d"), &anew, SYNC], 5),
            (&[&query(&format!("select 1/0; {sql}")), &run("a"), &close("a"), SYNC, &again, SYNC, &run("a")], 5),
        ];
        for (messages, readies) in stories {
            for is_inside in [false, true] {
                player.ask(&[&parse("a", SHARED[0]), SYNC], 1);
                player.ask(&[&parse("b", SHARED[1]), SYNC], 1);
                if is_inside {
                    player.query("begin");
                }
                player.ask(messages, readies);
                if is_inside {
                    player.query("rollback");
                }
                for _ in 0..3 {
                    player.ask(&[&run("a")], 1);
                    player.ask(&[&run("b"), &run("c")], 2);
                }
                player.query("deallocate all");
            }
        }
    });
}

#[test]
fn behind_deallocate_names_mean_what_they_would() {
    closes("deallocate a");
}

#[test]
fn behind_deallocate_all_names_mean_what_they_would() {
    closes("deallocate all");
}

#[test]
fn behind_discard_all_names_mean_what_they_would() {
    closes("discard all");
}

#[test]
fn behind_discard_plans_names_mean_what_they_would() {
    closes("discard plans");
}

#[test]
fn a_deallocate_among_other_statements_of_a_query_closes_the_name() {
    same_answers(|player| {
        for sql in ["deallocate a; select 1", "select 1; deallocate a; deallocate b", "select 1/0; deallocate a"] {
            for begin in ["select 0", "begin"] {
                player.ask(&[&parse("a", SHARED[0]), SYNC], 1);
                player.ask(&[&parse("b", SHARED[1]), SYNC], 1);
                player.query(begin);
                player.ask(&[&query(sql), &run("a"), &run("b"), &query("select 2")], 4);
                player.query("rollback");
                player.query("prepare a as select 3");
                player.ask(&[&run("a"), &run("b")], 2);
                player.query("deallocate all");
            }
        }
    });
}

#[test]
fn what_is_deallocated_right_behind_its_execute_by_sql_is_gone() {
    same_answers(|player| {
        for begin in ["select 0", "begin"] {
            for is_batch in [false, true] {
                player.ask(&[&parse("a", SHARED[0]), SYNC], 1);
                player.query(begin);
                match is_batch {
                    false => player.ask(&[&query("execute a"), &query("deallocate a")], 2),
                    true => player.ask(&[&run_unnamed("execute a"), &run_unnamed("deallocate a"), SYNC], 1),
                }
                player.query("prepare a as select 3");
                player.query("execute a");
                player.query("rollback");
                player.query("execute a");
                player.query("deallocate all");
            }
        }
    });
}

#[test]
fn a_close_takes_what_was_prepared_by_sql_and_its_name_is_taken() {
    same_answers(|player| {
        player.query("prepare a as select 'by sql'");
        player.ask(&[&run("a")], 1);
        player.ask(&[&parse("a", SHARED[0]), SYNC], 1);
        player.query("execute a");
        player.ask(&[&close("a"), SYNC], 1);
        player.query("execute a");
        player.ask(&[&parse("a", SHARED[0]), SYNC], 1);
        player.ask(&[&run("a")], 1);
    });
}

#[test]
fn what_is_prepared_through_the_protocol_is_executed_by_sql() {
    same_answers(|player| {
        player.ask(&[&parse("a", "select 'own', 1"), SYNC], 1);
        player.ask(&[&parse("b", "insert into t values ($1) returning a"), SYNC], 1);
        for _ in 0..2 {
            player.query("execute a");
            player.ask(&[&run("a")], 1);
            player.query("execute b (7)");
            player.query("select a from t");
        }
        for sql in ["begin", "execute a", "execute b (8)", "commit", "select 1; execute a; execute b (9)"] {
            player.query(sql);
        }
        player.ask(&[&parse("", "execute a"), &bind("", &[]), &execute(), SYNC], 1);
        player.ask(&[&parse("e", "execute a"), SYNC, &run("e"), &describe("e"), SYNC, &run("e")], 4);
        player.query("prepare a as select 2");
        player.query("execute a");
        for sql in ["begin", "selekt", "execute b (1)", "rollback", "execute nothing", "deallocate a", "execute a"] {
            player.query(sql);
        }
        player.ask(&[&run("a")], 1);
        player.ask(&[&parse("a", "select 3"), SYNC, &query("execute a"), &close("a"), SYNC, &query("execute a")], 4);
        player.ask(&[&parse("a", "select 4"), SYNC, &query("execute a; deallocate a"), &query("execute a")], 3);
        player.ask(&[&parse("x", "selekt"), SYNC, &query("execute x")], 2);
        player.ask(&[&parse("a", "select 5"), SYNC, &query("execute a"), &query("deallocate all"), &run("a")], 4);
        player.query("prepare a as select 6");
        player.query("execute a");
    });
}

#[test]
fn what_is_prepared_by_sql_is_bound_by_its_name() {
    same_answers(|player| {
        player.query("prepare p as select 'own', count(*) from t");
        player.query("prepare w as insert into t values (1)");
        player.ask(&[&parse("p", "select 4"), SYNC], 1);
        for _ in 0..10 {
            player.ask(&[&describe("p"), SYNC, &run("p"), &run("w")], 3);
            // What it has written is seen.
            player.query("select count(*) from t");
        }
        player.ask(&[&close("p"), SYNC, &run("p")], 2);
        player.query("execute p");
    });
}

/// Names of 62 to 65 bytes of these letters.
fn long_names(letter: &str) -> Vec<String> {
    let most = "n".repeat(60);
    [letter.to_owned(), format!("{letter}1"), format!("{letter}12"), format!("{letter}13")]
        .map(|end| most.clone() + &end)
        .into()
}

#[test]
fn a_name_of_a_statement_is_cut_where_postgresql_cuts_it() {
    same_answers(|player| {
        for letter in ["no", "nné"] {
            let names = long_names(letter);
            for (given, called) in names.iter().flat_map(|given| names.iter().map(move |called| (given, called))) {
                // What a message names is cut in the midst of a letter, what SQL names is not.
                let by_sql = [format!("execute \"{called}\""), format!("deallocate \"{called}\"")];
                for close_by_sql in [false, true] {
                    player.ask(&[&parse(given, SHARED[0]), SYNC, &run(called), &describe(called), SYNC], 3);
                    player.ask(&[&parse(called, SHARED[1]), SYNC], 1);
                    player.query(&by_sql[0]);
                    player.ask(&[&bind(called, &[b"1"]), &execute(), SYNC], 1);
                    match close_by_sql {
                        false => player.ask(&[&close(called), SYNC], 1),
                        true => player.query(&by_sql[1]),
                    }
                    player.ask(&[&run(given), &run(called)], 2);
                    player.query("deallocate all");
                }
                player.query(&format!("prepare \"{given}\" as select 'by sql'"));
                player.ask(&[&run(called), &parse(called, SHARED[1]), SYNC, &describe(called), SYNC], 3);
                player.ask(&[&close(called), SYNC, &run(given)], 2);
                player.query(&format!("execute \"{given}\""));
                player.ask(&[&parse("", &by_sql[0]), SYNC, &run("")], 2);
                player.ask(&[&parse("d", &by_sql[1]), SYNC, &run("d"), &run("d")], 3);
                player.query("deallocate all");
            }
        }
    });
}

#[test]
fn a_name_of_a_portal_is_cut_where_postgresql_cuts_it() {
    same_answers(|player| {
        let names = long_names("no");
        player.ask(&[&parse("a", "select 'own'"), SYNC, &parse("w", "insert into t values (1)"), SYNC], 2);
        for (given, called) in names.iter().flat_map(|given| names.iter().map(move |called| (given, called))) {
            player.query("begin");
            player.ask(&[&bind_portal(given, "a"), &execute_portal(called, 1), SYNC], 1);
            player.query("rollback");
            player.query("begin");
            player.ask(&[&bind_portal(given, "a"), &bind_portal(called, "a"), SYNC], 1);
            player.query("rollback");
            player.query("begin");
            player.ask(&[&bind_portal(given, "a"), SYNC, &query(&format!("fetch {called}"))], 2);
            player.query("rollback");
            player.query("begin");
            player.query(&format!("declare {given} cursor for select 'of sql'"));
            player.ask(&[&execute_portal(called, 1), SYNC], 1);
            player.query("rollback");
            // Another one of the same name has written, and that is seen.
            let others = [bind_portal(given, "a"), close_portal(called), bind_portal(called, "w")].concat();
            player.ask(&[&others, &execute_portal(given, 0), SYNC], 1);
            player.query("select count(*) from t");
        }
    });
}

#[test]
fn an_unnamed_statement_whose_columns_were_told_is_held_to_them() {
    same_answers(|player| {
        player.ask(&[&parse("", "select * from t where true"), &describe(""), SYNC], 1);
        player.ask(&[&run(""), &run("")], 2);
        for change in ["add b text default 'new'", "drop b", "alter a type text", "alter a type int using a::int"] {
            player.elsewhere(&format!("insert into t values (1); alter table t {change}"));
            player.ask(&[&run(""), &describe(""), SYNC, &run("")], 3);
        }
        player.elsewhere("alter table t add c int");
        player.query("begin");
        player.ask(&[&run("")], 1);
        player.query("rollback");
        player.ask(&[&parse("", "select * from t where true"), &describe(""), SYNC, &run("")], 2);
        player.ask(&[&run("")], 1);
        player.query("select 1");
        player.ask(&[&run("")], 1);
    });
}

#[test]
fn one_text_under_two_names_is_two_statements_where_columns_change_between() {
    same_answers(|player| {
        player.ask(&[&parse("a", "select * from t"), SYNC, &run("a")], 2);
        player.elsewhere("alter table t add b text default 'new'; insert into t values (1)");
        player.ask(&[&parse("b", "select * from t"), SYNC, &run("b")], 2);
        for name in ["a", "b", "a", "b"] {
            player.ask(&[&run(name)], 1);
        }
    });
}

/// What is asked of statements `s` and `i`, prepared before a table has changed.
fn uses_of_changed(player: &mut Player<'_>) {
    for _ in 0..3 {
        player.ask(&[&run("s")], 1);
        player.ask(&[&describe("s"), SYNC], 1);
        player.ask(&[&run("s"), &run("i"), &query("select 1"), &run("s")], 4);
    }
    player.query("begin");
    player.ask(&[&run("i")], 1);
    player.ask(&[&bind("s", &[]), &execute(), &bind("s", &[]), &execute(), SYNC, &run("s")], 2);
    player.query("rollback");
    player.query("begin read only");
    player.ask(&[&run("s"), &run("s")], 2);
    player.query("commit");
}

/// Statements are prepared and used, then after each of these changes; and prepared anew in the end.
fn changes(describes: bool, all: &'static [&'static str]) {
    same_answers(move |player| {
        player.elsewhere("drop table if exists u; create table u (a int); insert into u values (1)");
        let prepare = |player: &mut Player<'_>| {
            let of_client = if describes { describe("s") } else { Vec::new() };
            player.ask(&[&parse("s", "select * from u order by a"), &of_client, SYNC], 1);
            player.ask(&[&parse("i", "insert into u values (2)"), SYNC], 1);
        };
        prepare(player);
        uses_of_changed(player);
        for change in all {
            player.elsewhere(change);
            uses_of_changed(player);
        }
        player.ask(&[&close("s"), &close("i"), SYNC], 1);
        prepare(player);
        uses_of_changed(player);
    });
}

#[test]
fn a_statement_prepared_before_its_columns_changed_is_refused_as_it_would_be() {
    changes(true, &["alter table u add b int default 7", "alter table u add c text"]);
}

#[test]
fn the_same_for_a_client_that_never_asked_for_its_columns() {
    changes(false, &["alter table u alter a type bigint"]);
}

#[test]
fn columns_that_are_changed_back_serve_again() {
    changes(true, &["alter table u add b int", "alter table u drop b", "alter table u add b int default 3"]);
}

#[test]
fn what_cannot_change_what_is_told_goes_on() {
    changes(true, &["create index on u (a)", "analyze u", "alter table u alter a set default 4"]);
}

#[test]
fn what_was_prepared_behind_a_change_of_what_names_mean_is_looked_at_behind_it_elsewhere() {
    limited(|| {
        let cluster = cluster();
        let sql = "create schema t1; create table t1.items as select 7 as a; create table items as select 'x' as b";
        cluster.node(0).sql(sql).unwrap();
        for ahead in ["set local search_path = t1", "create temp table items on commit drop as select 7 as a"] {
            let proxy = Proxy::start(&cluster, "[pool]\nsize = 2\n[routing]\nreads = 'primary'");
            let (mut client, mut other) =
                (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
            client.query("begin");
            client.query(ahead);
            client.ask(&[&parse("s", "select * from items"), SYNC], 1);
            client.query("commit");
            // The one that has it is taken.
            other.query("begin");
            let unit = [&run_unnamed("begin")[..], &run_unnamed(ahead), &bind("s", &[]), &execute()].concat();
            let told = client.ask(&[&unit, &run_unnamed("commit"), SYNC], 1);
            let expected = ["2", "row 7", "SELECT 1", "1", "2", "COMMIT", "I"];
            assert_eq!(told[told.len() - expected.len()..], expected, "{ahead}: {told:?}");
            assert_eq!(client.ask(&[&run("s")], 1), ["0A000 cached plan must not change result type", "I"], "{ahead}");
        }
    });
}

#[test]
fn a_fetch_or_an_execute_that_is_prepared_answers_with_the_columns_of_what_has_the_name_by_then() {
    same_answers(|player| {
        for (number, select) in ["select 1 as a", "select 'x' as b, 2 as c"].into_iter().enumerate() {
            player.query("begin");
            player.query(&format!("declare c cursor for {select}"));
            player.query(&format!("prepare p as {select}"));
            for (name, text) in [("f", "fetch 100 from c"), ("e", "execute p")] {
                if number == 0 {
                    player.ask(&[&parse(name, text), &describe(name), SYNC], 1);
                }
                player.ask(&[&run(name)], 1);
            }
            player.query("deallocate p");
            player.query("commit");
        }
    });
}

#[test]
fn parameters_keep_the_types_that_were_found_for_them() {
    same_answers(|player| {
        player.elsewhere("drop table if exists u; create table u (a real)");
        player.ask(&[&parse("i", "insert into u values ($1)"), &describe("i"), SYNC], 1);
        player.ask(&[&parse("s", "select a from u where a > $1 order by a"), SYNC], 1);
        player.ask(&[&parse("n", "delete from u where a = $1"), SYNC], 1);
        let run = |name: &str, value: f32| [&bind_binary(name, &[&value.to_be_bytes()])[..], &execute(), SYNC].concat();
        for change in ["create index on u (a)", "alter table u alter a type bigint", "alter table u alter a type text"]
        {
            player.ask(&[&run("i", 1.5), &run("i", 3.0), &run("s", 1.0), &run("n", 3.0)], 4);
            player.elsewhere(change);
            player.ask(&[&run("i", 2.5)], 1);
            player.query("begin");
            player.ask(&[&describe("i"), SYNC, &run("i", 4.0), &run("n", 4.0)], 3);
            player.query("commit");
            player.query("select * from u order by a");
        }
        player.ask(&[&close("i"), &parse("i", "insert into u values ($1)"), &describe("i"), SYNC], 1);
        player.ask(&[&run("i", 5.5), &run("n", 5.5)], 2);
    });
}

#[test]
fn a_parameter_of_a_type_that_is_gone_is_told_of() {
    same_answers(|player| {
        player.elsewhere("drop table if exists u; drop type if exists mood; create type mood as enum ('fine')");
        player.elsewhere("create table u (a mood)");
        player.ask(&[&parse("i", "insert into u values ($1)"), SYNC], 1);
        player.ask(&[&bind("i", &[b"fine"]), &execute(), SYNC], 1);
        player.elsewhere("drop table u; drop type mood; create type mood as enum ('fine'); create table u (a mood)");
        player.ask(&[&bind("i", &[b"fine"]), &execute(), SYNC, &query("select * from u")], 2);
        // The number of the type that is gone is each time another.
        for word in player.answers.last_mut().unwrap() {
            word.truncate(word.trim_end_matches(char::is_numeric).len());
        }
        player.ask(&[&close("i"), &parse("i", "insert into u values ($1)"), SYNC], 1);
        player.ask(&[&bind("i", &[b"fine"]), &execute(), SYNC], 1);
        player.query("drop table u");
    });
}

#[test]
fn what_others_prepared_before_a_change_is_no_trouble_to_who_prepares_after_it() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table u (a int); insert into u values (1)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 3\n[routing]\nreads = 'primary'");
        // In transactions at the same time, three clients meet all three server connections.
        let everywhere = |clients: &mut [RawClient], expected: &[&str]| {
            for is_inside in [true, false] {
                for _ in 0..3 {
                    for client in &mut *clients {
                        if is_inside {
                            client.query("begin");
                        }
                        let told = client.ask(&[&run("s")], 1);
                        assert_eq!(told[..told.len() - 1], *expected);
                    }
                    for client in &mut *clients {
                        client.query("rollback");
                    }
                }
            }
        };
        let prepared = || {
            let mut clients = [(); 3].map(|()| RawClient::connect(proxy.port(), &[]));
            for client in &mut clients {
                client.ask(&[&parse("s", "select * from u"), SYNC], 1);
            }
            clients
        };
        let changed = ["0A000 cached plan must not change result type"];
        let mut before = prepared();
        everywhere(&mut before, &["2", "row 1", "SELECT 1"]);
        cluster.node(0).sql("alter table u add b int").unwrap();
        everywhere(&mut before, &changed);
        let mut after = prepared();
        everywhere(&mut after, &["2", "row 1", "SELECT 1"]);
        everywhere(&mut before, &changed);
        everywhere(&mut after, &["2", "row 1", "SELECT 1"]);
        cluster.node(0).sql("alter table u drop b").unwrap();
        everywhere(&mut before, &["2", "row 1", "SELECT 1"]);
        everywhere(&mut after, &changed);
        // PostgreSQL itself says it only where the server connection has the statement from before the change.
        assert!(proxy.metric("trunkline_errors_sent_total", "sqlstate=\"0A000\"") > 0.0);
    });
}

#[test]
fn what_waits_for_a_sync_is_no_others_server_connection() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        one.send(&[&bad(), &query("select 1")]);
        one.until(b'E');
        other.send(&[&query("select 2")]);
        thread::sleep(Duration::from_millis(200));
        assert_eq!(one.ask(&[SYNC], 1), ["I"]);
        assert!(other.until(b'Z').contains(&"row 2".to_owned()));
    });
}

#[test]
fn a_sync_by_itself_is_answered_while_no_server_connection_is_free() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        one.query("begin; insert into t values (1)");
        for _ in 0..3 {
            assert_eq!(other.ask(&[SYNC], 1), ["I"]);
        }
        assert_eq!(
            other.ask(&[SYNC, &run_unnamed("select 7"), SYNC, SYNC], 3),
            ["I", "1", "2", "row 7", "SELECT 1", "I", "I"]
        );
        one.query("commit");
        other.ask(&[&run_unnamed("insert into t values (2)"), SYNC, SYNC], 2);
        assert_eq!(other.query("select count(*) from t"), ["T", "row 2", "SELECT 1", "I"]);
    });
}

#[test]
fn a_flush_by_itself_asks_for_no_server_connection_and_is_answered_by_nothing() {
    limited(|| {
        let cluster = cluster();
        for mode in ["transaction", "session"] {
            let extra = format!("[pool]\nmode = '{mode}'\nsize = 1\nqueue_timeout = '2s'");
            let proxy = Proxy::start(&cluster, &extra);
            let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
            one.query("begin");
            other.send(&[FLUSH]);
            thread::sleep(Duration::from_millis(2500));
            drop(one);
            assert_eq!(other.query("select 7"), ["T", "row 7", "SELECT 1", "I"], "{mode}");
        }
    });
}

#[test]
fn one_of_several_statements_that_is_wrong_by_now_costs_the_others_nothing() {
    same_answers(|player| {
        player.elsewhere("create table if not exists w (a int)");
        for name in ["a", "b", "c"] {
            let table = if name == "b" { "w" } else { "t" };
            player.ask(&[&parse(name, &format!("select '{name}', count(*) from {table}")), SYNC], 1);
        }
        player.elsewhere("drop table w");
        for _ in 0..4 {
            let all = ["a", "b", "c"].map(|name| [bind(name, &[]), execute()].concat()).concat();
            player.ask(&[&all, SYNC], 1);
            player.ask(&[&run("c"), &run("a")], 2);
        }
    });
}

#[test]
fn what_comes_in_one_write_with_a_reset_meets_what_its_client_began_with() {
    limited(|| {
        let cluster = cluster();
        let sql =
            "create schema app; create table app.here as select 'app' as a; create table here as select 'public' as a";
        cluster.node(0).sql(sql).unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let primary = Proxy::start(&cluster, "[routing]\nreads = 'primary'");
        let replicas = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        for port in [cluster.node(0).port(), primary.port(), replicas.port()] {
            let mut client = RawClient::connect(port, &[("search_path", "app")]);
            for reset in ["discard all", "reset all", "reset search_path", "set search_path to default"] {
                client.query("set search_path = public");
                let read = "select a from here";
                let told = client.ask(&[&query(reset), &parse("", read), &bind("", &[]), &execute(), SYNC], 2);
                assert!(told.contains(&"row app".to_owned()), "{reset}: {told:?}");
                let write = "insert into here values ('app') returning tableoid = 'app.here'::regclass";
                let told = client.ask(&[&query("set search_path = public"), &query(reset), &query(write)], 3);
                assert!(told.contains(&"row t".to_owned()), "{reset}: {told:?}");
                client.query("set search_path = public");
                let reset = [run_unnamed(reset), SYNC.to_vec()].concat();
                let told = client.ask(&[&reset, &query(read)], 2);
                assert!(told.contains(&"row app".to_owned()), "{told:?}");
            }
        }
        assert_eq!(cluster.node(0).sql("select count(*) from public.here").unwrap(), "1", "nothing went astray");
    });
}

/// The answers to these scripts of a client that came with a search_path and a role.
fn behind_a_reset(port: u16) -> Vec<(String, Vec<String>)> {
    let came_with = [("search_path", "app"), ("role", "first"), ("application_name", "came"), ("log_statement", "ddl")];
    let mut client = RawClient::connect(port, &came_with);
    let who = "select a || current_user from here order by 1";
    let mut told = Vec::new();
    for reset in
        ["reset all", "reset search_path", "set search_path to default", "reset role", "set local role to default"]
    {
        for script in [
            format!("{reset}; {who}; select 2"),
            format!("{reset}; insert into here values (current_user) returning tableoid = 'app.here'::regclass"),
            format!("select 'ä'; {reset} /* as it was */ ; {who}; select 1 / 0"),
            format!("begin; set search_path = public; {reset}; {who}; rollback; {who}"),
            format!("begin; {reset}; {who}; commit; {who}"),
            format!("begin; {reset}; savepoint s; set search_path = public; rollback to s; {who}; commit; {who}"),
            format!("begin; savepoint s; {reset}; select 1 / 0"),
            format!("rollback to s; {who}; commit; {who}"),
            format!(
                "begin isolation level read committed; {reset}; set transaction isolation level serializable; {who}; commit"
            ),
            format!("begin; {reset}; {reset}; set local search_path = public; {who}; commit; {who}"),
            format!("{reset} -- and no more"),
        ] {
            for before in ["set search_path = public", "set role second", "set application_name = 'other'"] {
                client.query(before);
            }
            told.push((script.clone(), client.query(&script)));
            told.push((script, client.query("show search_path")));
        }
        client.query("rollback");
        let run = run_unnamed;
        for reset in [reset, "discard all"] {
            client.query("set search_path = public");
            let whole = [run(reset), run(who), run(who)].concat();
            told.push((format!("{reset} in a batch"), client.ask(&[&whole, SYNC], 1)));
            client.query("set role second; begin; set search_path = public");
            told.push((format!("{reset} in a transaction"), client.ask(&[&run(reset), &run(who), SYNC], 1)));
            told.push((format!("{reset} behind it"), client.query("rollback")));
            told.push((format!("{reset} behind it"), client.query(who)));
            client.query("set search_path = public");
            let undone = [run(reset), run("select 1 / 0")].concat();
            // What the server reports between is told, and corrected with the next answer.
            let rows = |mut told: Vec<String>| {
                told.retain(|told| told.starts_with("row") || told.starts_with("22012"));
                told
            };
            told.push((format!("{reset} before what fails"), rows(client.ask(&[&undone, SYNC], 1))));
            told.push((format!("{reset} before what fails, behind it"), rows(client.query(who))));
        }
        client.query("set search_path = public; set role second");
        let at_once = [query("begin"), query("set local search_path to default"), query(who), query("rollback")];
        let at_once: Vec<&[u8]> = at_once.iter().map(Vec::as_slice).collect();
        told.push(("in one write".to_owned(), client.ask(&at_once, 4)));
        told.push(("of a superuser's".to_owned(), client.query("reset all; select current_user")));
        told.push(("of a superuser's, behind it".to_owned(), client.query("show log_statement")));
    }
    told
}

#[test]
fn what_stands_behind_a_reset_in_its_string_or_batch_meets_what_its_client_began_with() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create role first; create role second; grant first, second to bench").unwrap();
        primary.sql("create schema app; create table app.here as select 'app' as a").unwrap();
        primary.sql("create table here as select 'public' as a").unwrap();
        primary.sql("grant all on schema app to first, second; grant all on app.here, here to first, second").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
        let expected = behind_a_reset(primary.port());
        for config in ["[routing]\nreads = 'primary'", "[pool]\nsize = 1", "[pool]\nmode = 'session'"] {
            primary.sql("delete from app.here where a <> 'app'; delete from here where a <> 'public'").unwrap();
            let proxy = Proxy::start(&cluster, config);
            let told = behind_a_reset(proxy.port());
            for (told, expected) in told.iter().zip(&expected) {
                assert_eq!(told, expected, "{config}");
            }
            let mut other = RawClient::connect(proxy.port(), &[]);
            assert_eq!(
                other.query("select current_user || current_setting('search_path')")[1],
                "row bench\"$user\", public"
            );
        }
    });
}

/// The answers to these scripts of a superuser who came with what others may not set, and acts as another role.
fn behind_another_role(port: u16) -> Vec<(String, Vec<String>)> {
    let mut told = Vec::new();
    let settings = [("log_statement", "ddl"), ("work_mem", "5MB"), ("search_path", "app")];
    let mut client = RawClient::connect(port, &settings);
    let shown = ["show log_statement", "show search_path", "select current_user || session_user"];
    for script in [
        "set role second; reset all; show search_path; reset role",
        "select set_config('role', 'second', false); reset all; select current_user; reset role",
        "begin; set local role second; reset all; show search_path; commit",
        "set session authorization second; reset all; select session_user; reset session authorization",
        "set work_mem = '6MB'; reset sort_mem; show work_mem",
        "set sort_mem = '6MB'",
        "show work_mem",
        "reset work_mem",
        "show sort_mem",
    ] {
        told.push((script.to_owned(), client.query(script)));
        told.extend(shown.map(|sql| (format!("{sql} behind {script}"), client.query(sql))));
    }
    for sql in ["begin", "set local role second", "reset all", "show search_path", "commit", "show log_statement"] {
        told.push((sql.to_owned(), client.query(sql)));
    }
    let run = run_unnamed;
    let batch = ["set role second", "reset all", "select current_user", "reset role"].map(run).concat();
    told.push(("in a batch".to_owned(), client.ask(&[&batch, SYNC], 1)));
    told.extend(shown.map(|sql| (format!("{sql} behind a batch"), client.query(sql))));
    let mut client = RawClient::connect(port, &[("session_authorization", "second")]);
    client.ask(&[&run("discard all"), &run("select 1 / 0"), SYNC], 1);
    told.push(("undone behind DISCARD ALL".to_owned(), client.query("select current_user || session_user")));
    told
}

#[test]
fn a_reset_under_another_role_asks_nobody_and_its_settings_are_there_again_behind_it() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role second; grant second to bench; create schema app").unwrap();
        cluster.node(0).sql("grant usage on schema app to second").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let expected = behind_another_role(cluster.node(0).port());
        for config in ["[routing]\nreads = 'primary'", "[pool]\nsize = 1", "[pool]\nmode = 'session'"] {
            let proxy = Proxy::start(&cluster, config);
            for (told, expected) in behind_another_role(proxy.port()).iter().zip(&expected) {
                assert_eq!(told, expected, "{config}");
            }
            let mut other = RawClient::connect(proxy.port(), &[]);
            assert_eq!(other.query("select current_user || current_setting('work_mem')")[1], "row bench4MB");
        }
    });
}

#[test]
fn a_statement_of_twenty_thousand_parameters_is_run_wherever_it_comes_to() {
    limited(|| {
        const PARAMETERS: usize = 20_000;
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 2");
        let rows: Vec<_> = (1..=PARAMETERS).map(|number| format!("(${number})")).collect();
        let insert = format!("insert into t values {}", rows.join(","));
        let values = vec![&b"7"[..]; PARAMETERS];
        let mut client = RawClient::connect(proxy.port(), &[]);
        let told = client.ask(&[&parse("a", &insert), &describe("a"), SYNC], 1);
        assert!(told.iter().all(|told| !told.starts_with("08P01")), "{told:?}");
        let insert = [bind("a", &values), execute()].concat();
        let mut holder = RawClient::connect(proxy.port(), &[]);
        for is_held in [false, true] {
            // The connection that knows the statement is another's for as long as this lasts.
            if is_held {
                holder.query("begin; insert into t values (0)");
            }
            let told = client.ask(&[&insert, SYNC], 1);
            assert!(told.contains(&format!("INSERT 0 {PARAMETERS}")), "{told:?}");
        }
    });
}

#[test]
fn an_error_behind_a_reset_is_told_where_it_stands() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        for port in [cluster.node(0).port(), proxy.port()] {
            let mut config = login(port, "bench", "bench");
            let mut client = config.options("-c search_path=app").connect(postgres::NoTls).unwrap();
            let error = client.batch_execute("select 'ä'; reset search_path; select typo").unwrap_err();
            let position = error.as_db_error().and_then(|error| error.position());
            assert_eq!(position, Some(&postgres::error::ErrorPosition::Original(39)), "{error:?}");
            client.batch_execute("begin read only; select 1").unwrap();
            let error = client.batch_execute("select 1; reset search_path; select typo").unwrap_err();
            let position = error.as_db_error().and_then(|error| error.position());
            assert_eq!(position, Some(&postgres::error::ErrorPosition::Original(37)), "{error:?}");
        }
    });
}

#[test]
fn a_copy_in_one_string_with_a_reset_comes_to_its_end() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        for mode in ["transaction", "session"] {
            let proxy = Proxy::start(&cluster, &format!("[pool]\nmode = '{mode}'"));
            let mut client = RawClient::connect(proxy.port(), &[("application_name", "copies"), ("work_mem", "5MB")]);
            for text in [
                "reset all; copy t from stdin",
                "copy t from stdin; reset work_mem",
                "begin; reset all; copy t from stdin; commit",
            ] {
                client.send(&[&query(text)]);
                client.until(b'G');
                client.send(&[&copy_data(b"1\n"), COPY_DONE]);
                let told = client.until(b'Z');
                assert_eq!(told.last().unwrap(), "I", "{mode}, {text}: {told:?}");
                assert_eq!(client.query("show work_mem")[1], "row 5MB", "{mode}, {text}");
            }
        }
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "6");
    });
}

#[test]
fn what_is_bound_in_one_read_and_executed_in_another_is_seen() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut client, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        let slow = [run_unnamed("select pg_sleep(0.2)"), SYNC.to_vec()].concat();
        // The second batch is bound while the first one runs, and executed behind its end.
        client.send(&[&slow, &parse("", "set role ada"), &bind("", &[])]);
        client.until(b'Z');
        client.ask(&[&execute(), SYNC], 1);
        assert_eq!(other.query("select current_user")[1], "row bench", "it is nobody else's");
        assert_eq!(client.query("select current_user")[1], "row ada");
    });
}

#[test]
fn what_trunkline_cannot_read_leaves_its_session_what_it_would_and_others_nothing() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\nqueue_timeout = '300ms'\n[routing]\nreads = 'primary'");
        let state =
            ["current_user", "coalesce(current_setting('app.tenant', true), '')", "current_setting('work_mem')"]
                .map(|one| format!("select {one}"))
                .map(|sql| query(&sql))
                .concat();
        let rows =
            |told: Vec<String>| -> Vec<String> { told.into_iter().filter(|words| words.starts_with("row")).collect() };
        // In this encoding the letter is two bytes of two letters: nothing but ASCII is looked at.
        let mut client = RawClient::connect(proxy.port(), &[("client_encoding", "LATIN1")]);
        for set in ["set role ada", "set app.tenant = 'one'", "select set_config('work_mem', '5MB', false)"] {
            let told = client.query(&format!("{set} /* é */"));
            assert_eq!(told.last().unwrap(), "I", "{told:?}");
        }
        let mut other = RawClient::connect(proxy.port(), &[]);
        assert_eq!(rows(other.ask(&[&state], 3)), ["row bench", "row ", "row 4MB"]);
        assert_eq!(rows(client.ask(&[&state], 3)), ["row ada", "row one", "row 5MB"]);
        // What keeps its server connection keeps it.
        client.query("create temp table größe (a int)");
        assert_eq!(client.query("select count(*) from größe")[1], "row 0");
        assert!(other.query("select 1")[0].starts_with("53300"), "the only connection is taken");
    });
}

#[test]
fn a_batch_that_a_replica_refuses_before_its_sync_is_answered_by_the_primary() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let asks = [parse("", "select nosuch from t"), describe(""), FLUSH.to_vec()].concat();
        for begins in ["begin read only", "select 1"] {
            client.query(begins);
            client.send(&[&asks]);
            let told = client.until(b'E');
            assert!(told.last().is_some_and(|told| told.starts_with("42703")), "{begins}: {told:?}");
            client.ask(&[SYNC], 1);
            client.query("rollback");
            assert!(client.query("select 1").contains(&"row 1".to_owned()));
        }
        // The answer of what stands before it is on its way.
        let read = [run_unnamed("select 2"), SYNC.to_vec()].concat();
        client.send(&[&read, &asks]);
        assert!(client.until(b'Z').contains(&"row 2".to_owned()));
        let told = client.until(b'E');
        assert!(told.last().is_some_and(|told| told.starts_with("42703")), "{told:?}");
        client.ask(&[SYNC], 1);
        assert!(client.query("select 1").contains(&"row 1".to_owned()));
    });
}

#[test]
fn a_timed_read_on_the_primary_is_described_first_and_executed_then() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::before(&cluster, &[cluster.node(0).address()], "[limits]\nquery_timeout = '5s'");
        let mut client = RawClient::connect(proxy.port(), &[]);
        for _ in 0..2 {
            client.send(&[&parse("", "select 7"), &describe(""), FLUSH]);
            client.until(b'T');
            let told = client.ask(&[&bind("", &[]), &execute(), SYNC, &query("select 8")], 2);
            assert!(["row 7", "row 8"].iter().all(|row| told.contains(&(*row).to_owned())), "{told:?}");
        }
    });
}

#[test]
fn a_pipelined_transaction_on_a_replica_is_not_torn_apart_by_a_refusal() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for begin in ["begin isolation level repeatable read read only", "begin read only"] {
            // What a replica refuses may be run at the primary, but not outside of its transaction, nor in another one.
            let told =
                client.ask(&[&query(begin), &query("select 1"), &query("select nosuch from t"), &query("commit")], 4);
            let states: Vec<&str> = told.iter().map(String::as_str).filter(|told| told.len() == 1).collect();
            assert_eq!(states, ["T", "T", "T", "E", "I"], "row description, then states: {told:?}");
            assert!(told.contains(&"ROLLBACK".to_owned()), "{told:?}");
            assert!(
                !told.iter().any(|told| told.starts_with("25")),
                "no transaction begins twice or is not there: {told:?}"
            );
        }
    });
}

#[test]
fn what_is_closed_between_transactions_needs_no_node() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']");
        let mut client = RawClient::connect(proxy.port(), &[]);
        assert_eq!(client.ask(&[&parse("a", "select 1"), SYNC], 1), ["1", "I"]);
        let mut console = console(&proxy);
        console.simple_query("PAUSE").unwrap();
        assert_eq!(client.ask(&[&close("a"), &close("b"), SYNC], 1), ["3", "3", "I"]);
        client.send(&[&close("b"), FLUSH]);
        assert_eq!(client.until(b'3'), ["3"]);
        console.simple_query("RESUME").unwrap();
        let runs = [parse("a", "select 2"), bind("a", &[]), execute(), SYNC.to_vec()].concat();
        assert_eq!(client.ask(&[&runs], 1), ["1", "2", "row 2", "SELECT 1", "I"]);
        // What SQL has prepared is on its server connections, too.
        client.query("prepare c as select 3");
        console.simple_query("PAUSE").unwrap();
        assert_eq!(client.ask(&[SYNC], 1), ["I"]);
        console.simple_query("RESUME").unwrap();
        assert_eq!(client.ask(&[&close("c"), SYNC], 1), ["3", "I"]);
        assert!(client.query("execute c").iter().any(|told| told.starts_with("26000")));
    });
}
