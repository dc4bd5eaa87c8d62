//! A crowd: thousands of clients on few server connections. A few of them work, the others cost little, and all are served.
//!
//! `TRUNKLINE_CLIENTS` says how many there are (one in twenty works), `TRUNKLINE_RUN_SECONDS` for how long. Memory is
//! looked at from a thousand clients on, where `TRUNKLINE_PROGRAM` names a release build.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use trunkline::auth::{NodeTls, SaltedPassword, Secret, TlsMode, TlsTexts, TlsVersion};
use trunkline::backend::{Endpoint, Target, connect};
use trunkline::net::Stream;
use trunkline::wire::{ErrorFields, Header, backend, frame, frontend};

use crate::certificates::Authority;
use crate::fixture::{Proxy, cluster, limited_to, number};

#[test]
fn thousands_of_clients_on_few_connections_are_all_served() {
    crowd(false, 6 * 1024);
}

#[test]
fn thousands_of_clients_with_tls_are_all_served() {
    crowd(true, 24 * 1024);
}

/// They come, a twentieth of them works for a while, and at last each is served once more. An idle one may cost so many bytes.
fn crowd(encrypted: bool, most_bytes: u64) {
    let (clients, seconds) = (number("TRUNKLINE_CLIENTS", 300), number("TRUNKLINE_RUN_SECONDS", 3));
    limited_to(Duration::from_secs(50 + seconds + clients / 20), move || {
        let cluster = cluster();
        cluster.node(0).sql("create table work as select id, 0 as times from generate_series(0, 1023) id").unwrap();
        cluster.node(0).sql("alter table work add primary key (id)").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
        }
        let mut settings = format!("max_clients = {}\n[pool]\nsize = 6\n", clients + 10);
        if encrypted {
            let (certificate, key) = Authority::new(cluster.folder().join("tls")).sign("server");
            settings += &format!("[tls]\nmode = 'require'\ncertificate = {certificate:?}\nkey = {key:?}\n");
        }
        let proxy = Proxy::start(&cluster, &settings);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            drop(come(&proxy, encrypted, 20).await);
            let before = proxy.proportional_bytes();
            let mut crowd = come(&proxy, encrypted, clients).await;
            // Buffers go back within a second.
            trunkline::net::timers::sleep(Duration::from_secs(2)).await;
            let each = proxy.proportional_bytes().saturating_sub(before) / clients;
            println!("{clients} clients, {each} bytes for each idle one");
            let is_measured = clients >= 1000 && std::env::var_os("TRUNKLINE_PROGRAM").is_some();
            assert!(!is_measured || each <= most_bytes, "{each}");

            let until = Instant::now() + Duration::from_secs(seconds);
            let idle = crowd.split_off(crowd.len() / 20);
            let mut working = JoinSet::new();
            for (id, mut client) in crowd.into_iter().enumerate() {
                working.spawn(async move {
                    let mut rounds = 0_u64;
                    while Instant::now() < until {
                        rounds += 1;
                        client.ask(&format!("update work set times = {rounds} where id = {id}")).await;
                        let read = client.ask(&format!("select times from work where id = {id}")).await;
                        assert_eq!(read, Some(rounds.to_string()), "its own write");
                    }
                    rounds
                });
            }
            let rounds = working.join_all().await;
            println!(
                "{} rounds of a write and a read, the fewest {:?}",
                rounds.iter().sum::<u64>(),
                rounds.iter().min()
            );
            assert!(rounds.iter().all(|rounds| *rounds > 0));
            for mut client in idle {
                assert_eq!(client.ask("select 1").await.as_deref(), Some("1"));
            }
        });
    });
}

/// So many clients, each of which has been served once.
async fn come(proxy: &Proxy, encrypted: bool, clients: u64) -> Vec<Client> {
    let mode = if encrypted { TlsMode::Require } else { TlsMode::Off };
    let tls = NodeTls::new(mode, TlsVersion::V1_2, TlsTexts::default()).unwrap();
    let endpoint = Endpoint::new(format!("127.0.0.1:{}", proxy.port()).into(), Arc::new(ArcSwap::from_pointee(tls)));
    let (first, salted) = Client::come(&endpoint, None).await;
    let (mut crowd, mut coming) = (vec![first], JoinSet::new());
    let door = Arc::new(Semaphore::new(32));
    for _ in 1..clients {
        let (endpoint, salted, door) = (endpoint.clone(), salted.clone(), Arc::clone(&door));
        coming.spawn(async move {
            let _place = door.acquire().await.unwrap();
            let (mut client, _) = Client::come(&endpoint, salted).await;
            assert_eq!(client.ask("select 1").await.as_deref(), Some("1"));
            client
        });
    }
    crowd.extend(coming.join_all().await);
    crowd
}

struct Client {
    stream: Stream,
    unread: BytesMut,
}

impl Client {
    async fn come(endpoint: &Endpoint, salted_password: Option<SaltedPassword>) -> (Self, Option<SaltedPassword>) {
        let target = Target {
            endpoint: endpoint.clone(),
            user: "bench".into(),
            database: "bench".into(),
            password: Some(Secret::new("bench".to_owned())),
            salted_password,
            parameters: Vec::new(),
        };
        let login = connect(&target, tokio::time::Instant::now() + Duration::from_secs(30)).await.unwrap();
        // Ours probes nodes often; thousands of such probes at once fill the kernel's queues.
        SockRef::from(login.stream.socket()).set_keepalive(false).unwrap();
        (Self { stream: login.stream, unread: BytesMut::new() }, login.salted_password)
    }

    /// The first value of what a query answers; panics on an error.
    async fn ask(&mut self, text: &str) -> Option<String> {
        let mut out = BytesMut::new();
        frontend::put_query(&mut out, text);
        self.stream.write_all(&out).await.unwrap();
        let mut value = None;
        loop {
            while let Some(header) = Header::peek(&self.unread).unwrap().filter(|it| it.size <= self.unread.len()) {
                let message = self.unread.split_to(header.size);
                let body = &message[frame::HEADER..];
                match header.tag {
                    backend::DATA_ROW => value = Some(String::from_utf8(body[6..].to_vec()).unwrap()),
                    backend::ERROR_RESPONSE => {
                        panic!("{text}: {}", String::from_utf8_lossy(ErrorFields::read(body).message))
                    }
                    backend::READY_FOR_QUERY => return value,
                    _ => {}
                }
            }
            assert_ne!(self.stream.read_buf(&mut self.unread).await.unwrap(), 0, "{text}: the connection ended");
        }
    }
}
