//! Minor versions and options of the protocol: what each client is told, and the cancel key that it gets.

use std::process::Command;
use std::thread;
use std::time::Duration;

use trunkline::wire::CancelKey;

use crate::authentication::PYTHON;
use crate::fixture::{Proxy, cluster, limited};
use crate::raw::{RawClient, cancel, query, startup_packet};

/// Nobody has to prove anything, so that a startup packet is a whole login.
const TRUST: &str = "[auth]\nhba = [\"host all all 127.0.0.0/8 trust\"]";

const WHO: [(&str, &str); 2] = [("user", "bench"), ("database", "bench")];

fn login(port: u16, minor: u16, options: &[(&str, &str)]) -> (RawClient, Vec<(u8, Vec<u8>)>) {
    RawClient::begin(port, &startup_packet(minor, &[&WHO, options].concat()))
}

/// The body of the NegotiateProtocolVersion among these messages, which must be the first.
fn negotiated(told: &[(u8, Vec<u8>)]) -> Option<&[u8]> {
    assert!(told.iter().skip(1).all(|(tag, _)| *tag != b'v'));
    told.first().filter(|(tag, _)| *tag == b'v').map(|(_, body)| &**body)
}

#[test]
fn each_minor_version_is_answered_as_postgresql_18_answers_it() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, TRUST);
        let told = |minor, options: &[(&str, &str)]| {
            let (client, told) = login(proxy.port(), minor, options);
            (negotiated(&told).map(<[u8]>::to_vec), client.key().secret.len())
        };
        assert_eq!(told(0, &[]), (None, 4));
        assert_eq!(told(1, &[]), (None, 4));
        assert_eq!(told(2, &[]), (None, 32));
        assert_eq!(told(3, &[]), (Some(b"\0\x03\0\x02\0\0\0\0".to_vec()), 32));
        assert_eq!(told(9999, &[]), (Some(b"\0\x03\0\x02\0\0\0\0".to_vec()), 32));
        let options = [("_pq_.first", "1"), ("_pq_.second", "")];
        let both = b"\0\0\0\x02_pq_.first\0_pq_.second\0";
        assert_eq!(told(0, &options), (Some([b"\0\x03\0\0", &both[..]].concat()), 4));
        assert_eq!(told(2, &options), (Some([b"\0\x03\0\x02", &both[..]].concat()), 32));
        assert_eq!(told(7, &options), (Some([b"\0\x03\0\x02", &both[..]].concat()), 32));
    });
}

#[test]
fn a_cancel_finds_its_session_by_a_key_of_either_length_and_by_no_part_of_it() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, TRUST);
        for minor in [0, 2] {
            let (mut client, _) = login(proxy.port(), minor, &[]);
            client.send(&[&query("select pg_sleep(20)")]);
            thread::sleep(Duration::from_millis(300));
            let key = client.key().clone();
            let (process_id, length) = (key.process_id, key.secret.len());
            let wrong: [Box<[u8]>; 4] = [
                key.secret[..length - 1].into(),
                key.secret[..1].into(),
                [&*key.secret, &[0]].concat().into(),
                key.secret.iter().map(|byte| !byte).collect(),
            ];
            for secret in wrong {
                cancel(proxy.port(), &CancelKey { process_id, secret });
            }
            assert_eq!(proxy.metric("trunkline_cancels_total", "forwarded"), f64::from(minor / 2));
            cancel(proxy.port(), &key);
            let answer = client.until(b'Z');
            assert!(answer.contains(&"57014 canceling statement due to user request".to_owned()), "{answer:?}");
            assert_eq!(client.query("select 1")[1], "row 1");
        }
    });
}

#[test]
fn the_console_speaks_every_minor_version_too() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{TRUST}\n[admin]\nusers = [\"bench\"]"));
        for minor in [0, 2, 3] {
            let who = [("user", "bench"), ("database", "trunkline")];
            let (mut client, told) = RawClient::begin(proxy.port(), &startup_packet(minor, &who));
            assert_eq!(negotiated(&told).is_some(), minor == 3);
            assert_eq!(client.query("show version").last().unwrap(), "I");
        }
    });
}

#[test]
fn a_libpq_that_insists_on_3_2_gets_it_and_cancels() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let script = format!(
            "import psycopg, threading\n\
             with psycopg.connect('host=127.0.0.1 port={} user=bench password=bench dbname=bench \\\n\
                 min_protocol_version=3.2 max_protocol_version=latest') as client:\n    \
                 threading.Timer(0.3, client.cancel_safe).start()\n    \
                 try:\n        client.execute('select pg_sleep(20)')\n    \
                 except psycopg.errors.QueryCanceled:\n        print('cancelled')\n",
            proxy.port()
        );
        let output = Command::new(PYTHON).args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "cancelled\n", "{output:?}");
    });
}
