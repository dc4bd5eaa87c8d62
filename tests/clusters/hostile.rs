//! Clients that mean no good: their connections end in bounded time and memory, and a healthy client beside them is
//! served as ever.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres::NoTls;
use trunkline::wire::{CancelKey, startup};

use crate::fixture::{Proxy, cluster, eventually, limited};
use crate::raw::{RawClient, SYNC, bind, execute, parse};
use crate::record::is_logged;

/// Logins may take this long.
const SHORT_LOGINS: &str = "max_clients = 400\n[limits]\nlogin_timeout = '1s'\nbuffer_bytes = '1MB'";

/// Answers that a healthy client waits for at least.
const FEW: u32 = 50;

/// A client that asks and asks; it tells its longest wait when it is stopped.
struct Healthy {
    stop: Arc<AtomicBool>,
    asks: JoinHandle<(u32, Duration)>,
}

impl Healthy {
    fn beside(proxy: &Proxy) -> Self {
        let (mut client, stop) = (proxy.client(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let asks = thread::spawn(move || {
            let (mut count, mut longest) = (0, Duration::ZERO);
            // An attack may be over before it is noticed: what comes right behind it counts too.
            while !stopped.load(Ordering::Relaxed) || count < FEW {
                let asked = Instant::now();
                let one: i32 = client.query_one("select 1", &[]).unwrap().get(0);
                assert_eq!(one, 1);
                longest = longest.max(asked.elapsed());
                count += 1;
            }
            (count, longest)
        });
        Self { stop, asks }
    }

    fn was_served(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (_, longest) = self.asks.join().unwrap();
        assert!(longest < Duration::from_secs(2), "an answer took {longest:?}");
    }
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// How long it takes until the connection is over, whatever is said before.
fn end_of(mut stream: TcpStream) -> Duration {
    let begun = Instant::now();
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return begun.elapsed(),
            Ok(_) => {}
            Err(error) => match error.kind() {
                std::io::ErrorKind::WouldBlock => panic!("still open after {:?}", begun.elapsed()),
                _ => return begun.elapsed(),
            },
        }
    }
}

fn startup_message() -> Vec<u8> {
    let mut out = BytesMut::new();
    startup::put_startup(&mut out, [("user", "bench"), ("database", "bench")]);
    out.to_vec()
}

#[test]
fn garbage_ends_at_once_and_is_not_answered_at_length() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHORT_LOGINS);
        let healthy = Healthy::beside(&proxy);
        let mut seed = 1_u32;
        for round in 0..300_usize {
            let bytes: Vec<u8> = (0..=round)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    seed.to_be_bytes()[0]
                })
                .collect();
            let mut stream = connect(&proxy);
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            assert!(end_of(stream) < Duration::from_secs(5), "{bytes:?}");
        }
        for first in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x7f\xff\xff\xff\x00\x03\x00\x00",
            b"\x00\x00\x00\x08\x04\xd2\x16\x2fsmuggled behind a request for TLS",
        ] {
            let mut stream = connect(&proxy);
            stream.write_all(first).unwrap();
            assert!(end_of(stream) < Duration::from_secs(5), "{first:?}");
        }
        healthy.was_served();
    });
}

#[test]
fn a_login_that_does_not_come_to_its_end_is_ended() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHORT_LOGINS);
        let healthy = Healthy::beside(&proxy);
        let before = proxy.resident_megabytes();
        let message = startup_message();
        let mut open: Vec<TcpStream> = (0..200).map(|_| connect(&proxy)).collect();
        // Silent, half a startup, a startup without what follows, and one byte at a time.
        for (index, stream) in open.iter_mut().enumerate() {
            let part = match index % 4 {
                0 => &[][..],
                1 => &message[..message.len() / 2],
                2 => &message[..],
                _ => &message[..1],
            };
            stream.write_all(part).unwrap();
        }
        let mut slow = connect(&proxy);
        let dripping = thread::spawn(move || {
            let begun = Instant::now();
            for byte in message.iter().cycle() {
                thread::sleep(Duration::from_millis(50));
                if slow.write_all(&[*byte]).is_err() || begun.elapsed() > Duration::from_secs(8) {
                    break;
                }
            }
            begun.elapsed()
        });
        let longest = open.into_iter().map(end_of).max().unwrap();
        assert!(longest < Duration::from_secs(4), "{longest:?}");
        assert!(dripping.join().unwrap() < Duration::from_secs(4));
        // Who has said who he is, is told.
        let mut late = connect(&proxy);
        late.write_all(&startup_message()).unwrap();
        let mut told = Vec::new();
        late.read_to_end(&mut told).unwrap();
        assert!(String::from_utf8_lossy(&told).contains("C57014\0Mcanceling authentication due to timeout\0"));
        assert!(proxy.resident_megabytes() < before + 40, "{} MB", proxy.resident_megabytes());
        healthy.was_served();
    });
}

#[test]
fn one_client_too_many_is_told_so_and_those_that_are_there_stay() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "max_clients = 40\n[limits]\nlogin_timeout = '2s'");
        let healthy = Healthy::beside(&proxy);
        let flood: Vec<TcpStream> = (0..300).map(|_| connect(&proxy)).collect();
        let refused = proxy.client_config().connect(NoTls).err().unwrap();
        assert_eq!(refused.code().map(|code| code.code()), Some("53300"), "{refused}");
        is_logged(&proxy, &["WARN", "turned away", "too many clients", "times=1"]);
        assert_eq!(proxy.log().matches("before it said who it is").count(), 1, "{}", proxy.log());
        drop(flood);
        eventually("there is room again", Duration::from_secs(10), || proxy.client_config().connect(NoTls).is_ok());
        healthy.was_served();
    });
}

/// How many file descriptors the program may have from now on.
pub(crate) fn limit_descriptors(proxy: &Proxy, count: usize) {
    let arguments = ["--pid".to_owned(), proxy.pid().to_string(), format!("--nofile={count}:")];
    assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
}

#[test]
fn whom_there_is_no_file_descriptor_for_is_logged_together_with_others() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let healthy = Healthy::beside(&proxy);
        let mut admin = String::new();
        proxy.rewrite(|file| file["admin"]["listen"].as_str().unwrap().clone_into(&mut admin));
        let of_process = |name: &str| format!("/proc/{}/{name}", proxy.pid());
        let limits = std::fs::read_to_string(of_process("limits")).unwrap();
        let before = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let before = before.split_whitespace().next().unwrap().parse().unwrap();
        let is_open = |number: &usize| std::fs::symlink_metadata(of_process(&format!("fd/{number}"))).is_ok();
        limit_descriptors(&proxy, (0..).find(|number| !is_open(number)).unwrap());
        let crowd: Vec<TcpStream> =
            (0..20).flat_map(|_| [connect(&proxy), TcpStream::connect(&admin).unwrap()]).collect();
        let told = ["a client could not be accepted", "the admin listener cannot accept a connection"];
        told.iter().for_each(|told| is_logged(&proxy, &["WARN", told, "times=1"]));
        thread::sleep(Duration::from_secs(1));
        limit_descriptors(&proxy, before);
        for told in told {
            assert_eq!(proxy.log().matches(told).count(), 1, "{}", proxy.log());
        }
        drop(crowd);
        eventually("there is room again", Duration::from_secs(10), || proxy.client_config().connect(NoTls).is_ok());
        healthy.was_served();
    });
}

#[test]
fn announced_lengths_are_not_believed_before_the_bytes_are_there() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHORT_LOGINS);
        let healthy = Healthy::beside(&proxy);
        let before = proxy.resident_megabytes();
        let announced: Vec<TcpStream> = (0..100)
            .map(|_| {
                let mut stream = connect(&proxy);
                stream.write_all(&startup_message()).unwrap();
                // A password message of a gigabyte.
                stream.write_all(b"p\x3f\xff\xff\xff").unwrap();
                stream.write_all(&[b'x'; 1000]).unwrap();
                stream
            })
            .collect();
        announced.into_iter().for_each(|stream| assert!(end_of(stream) < Duration::from_secs(4)));
        assert!(proxy.resident_megabytes() < before + 40, "{} MB", proxy.resident_megabytes());
        healthy.was_served();
    });
}

#[test]
fn whoever_guesses_cancel_keys_cancels_nobody() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut busy = proxy.client();
        let busy = thread::spawn(move || busy.query_one("select pg_sleep(3), 7", &[]).map(|row| row.get::<_, i32>(1)));
        for guess in 0..500_u32 {
            let mut packet = BytesMut::new();
            // As PostgreSQL's keys, longer than any and without a secret at all.
            let secret: &[u8] = match guess % 3 {
                0 => &[0, 0, 0, 0],
                1 => &[7; 256],
                _ => &[],
            };
            startup::put_cancel(&mut packet, &CancelKey { process_id: guess, secret: secret.into() });
            let mut stream = connect(&proxy);
            stream.write_all(&packet).unwrap();
            end_of(stream);
        }
        assert!(proxy.metric("trunkline_cancels_total", "unknown_key") >= 300.0);
        assert_eq!(busy.join().unwrap().unwrap(), 7);
    });
}

/// Each of its messages ends where a read into the buffer may end, so that no part of one is ever left over.
#[test]
fn of_a_batch_without_an_end_no_more_is_kept_than_the_buffer_holds() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[limits]\nbuffer_bytes = '64kB'");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let empty = parse("", "select ''").len();
        let message = parse("", &format!("select '{}'", "x".repeat(4096 - empty)));
        for _ in 0..64 {
            client.send(&[&message]);
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(client.until(b'1'), ["1"], "what has come is on its way");
        let told = client.ask(&[&bind("", &[]), &execute(), SYNC], 1);
        assert_eq!(told[told.len() - 2..], ["SELECT 1", "I"]);
    });
}
