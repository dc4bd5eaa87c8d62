//! The endpoints over a real loopback socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::AdminState;
use super::http::{Limits, live, serve_within};
use crate::metrics::{Metrics, Target};
use crate::net::timers;
use crate::topology::{Cause, Lsn, NodeId, NodeState, Role, Sample, Timeline, View};

/// Less patient than the real ones, so that a test can see them at work.
const LIMITS: Limits = Limits { connections: 8, time: Duration::from_millis(500) };

/// A served state; dropped, it stops.
struct Admin {
    address: std::net::SocketAddr,
    state: Arc<AdminState>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Admin {
    async fn start(views: Vec<View>) -> Self {
        let views = views.into_iter().map(|view| Arc::new(ArcSwap::from_pointee(view))).collect();
        let state = Arc::new(AdminState {
            metrics: Arc::new(Metrics::new(1, &["read"])),
            views: ArcSwap::from_pointee(views),
            pauses: ArcSwap::default(),
            draining: AtomicBool::new(false),
            reloads: 0.into(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { drop(stopped.await) };
        let served = tokio::spawn(serve_within(&LIMITS, listener, Arc::clone(&state), shutdown));
        Self { address, state, stop, served }
    }

    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// Status and body of a GET.
    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn get_json(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.get(path).await;
        (status, serde_json::from_str(&body).unwrap())
    }
}

fn healthy() -> View {
    let mut view = View::unknown("main", &["a:5432".into(), "b:5433".into()]);
    view.epoch = 7;
    view.primary = Some(NodeId(0));
    view.no_primary_because = None;
    view.nodes[0].role = Role::Primary;
    view.nodes[0].state = NodeState::Up;
    view.nodes[0].why = "holds the highest timeline".into();
    view.nodes[1].role = Role::Replica;
    view.nodes[1].state = NodeState::Up;
    view.nodes[1].takes_reads = true;
    view.nodes[1].position = Some(Sample { begun: Instant::now(), lsn: Lsn(0x16B_3748), timeline: Some(Timeline(2)) });
    view.nodes[1].lag_bytes = Some(56);
    view.nodes[1].lag = Some(Duration::from_millis(250));
    view.nodes[1].why = "streams from a:5432".into();
    view
}

#[tokio::test]
async fn live_says_ok_and_the_index_names_every_path() {
    let admin = Admin::start(vec![healthy()]).await;
    assert_eq!(admin.get("/live").await, (200, "ok\n".to_owned()));
    let (status, index) = admin.get("/").await;
    assert_eq!(status, 200);
    for path in ["/metrics", "/live", "/ready", "/topology"] {
        assert!(index.contains(path));
        assert_eq!(admin.get(path).await.0, 200, "{path}");
    }
}

#[test]
fn a_worker_that_hangs_is_told_from_one_that_was_preempted() {
    let after = |seconds| live(Some((1, Duration::from_secs(seconds)))).status().as_u16();
    assert_eq!([0, 29, 30, 3600].map(after), [200, 200, 503, 503]);
}

#[tokio::test]
async fn metrics_are_shown_in_prometheus_text_format() {
    let admin = Admin::start(vec![]).await;
    admin.state.metrics.worker(0).statement_routed(Target::Replica, 0);
    let answer = admin.send("GET /metrics?ignored=1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4\r\n"), "{answer}");
    assert!(answer.contains("trunkline_statements_total{target=\"replica\",reason=\"read\"} 1\n"), "{answer}");
}

#[tokio::test]
async fn a_cluster_is_ready_with_a_primary_or_a_readable_replica() {
    let admin = Admin::start(vec![healthy()]).await;
    assert_eq!(admin.get_json("/ready").await.0, 200);

    let mut view = healthy();
    view.primary = None;
    view.no_primary_because = Some(Cause::Unclaimed.because("a:5432 does not answer"));
    admin.state.views.load()[0].store(Arc::new(view.clone()));
    let (status, body) = admin.get_json("/ready").await;
    assert_eq!(status, 200);
    assert_eq!(body["clusters"][0]["why"], "reads only, no primary: a:5432 does not answer");

    view.nodes[1].takes_reads = false;
    admin.state.views.load()[0].store(Arc::new(view));
    let (status, body) = admin.get_json("/ready").await;
    assert_eq!(status, 503);
    let why = "no replica takes reads, and no primary: a:5432 does not answer";
    let expected = json!({
        "ready": false, "draining": false, "paused": [], "disabled": [],
        "clusters": [{ "name": "main", "ready": false, "why": why }],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn one_unusable_cluster_does_not_take_the_others_away() {
    let lost = |name: &str| View::unknown(name, &["c:5432".into()]);
    let admin = Admin::start(vec![healthy(), lost("other")]).await;
    let (status, body) = admin.get_json("/ready").await;
    assert_eq!((status, &body["ready"]), (200, &json!(true)));
    assert_eq!((&body["clusters"][0]["ready"], &body["clusters"][1]["ready"]), (&json!(true), &json!(false)));

    admin.state.views.load()[0].store(Arc::new(lost("main")));
    let (status, body) = admin.get_json("/ready").await;
    assert_eq!((status, &body["ready"]), (503, &json!(false)));
}

#[tokio::test]
async fn each_cluster_is_asked_for_by_its_name() {
    let admin = Admin::start(vec![healthy(), View::unknown("other", &["c:5432".into()])]).await;
    let (status, body) = admin.get_json("/ready/main").await;
    let expected = json!({
        "ready": true, "draining": false, "paused": [], "disabled": [],
        "clusters": [{ "name": "main", "ready": true, "why": null }],
    });
    assert_eq!((status, body), (200, expected));
    let (status, body) = admin.get_json("/ready/other").await;
    assert_eq!((status, &body["clusters"][0]["name"]), (503, &json!("other")));
    for unknown in ["/ready/third", "/ready/", "/ready/main/"] {
        let expected = (404, "no cluster of this name is configured\n".to_owned());
        assert_eq!(admin.get(unknown).await, expected, "{unknown}");
    }
    admin.state.draining.store(true, Ordering::Relaxed);
    assert_eq!(admin.get("/ready/main").await.0, 503);
}

#[tokio::test]
async fn who_is_draining_is_live_and_not_ready() {
    let admin = Admin::start(vec![healthy()]).await;
    admin.state.draining.store(true, Ordering::Relaxed);
    let (status, body) = admin.get_json("/ready").await;
    assert_eq!((status, &body["draining"]), (503, &json!(true)));
    assert_eq!(admin.get("/live").await.0, 200);
}

#[tokio::test]
async fn topology_shows_what_routing_sees() {
    let admin = Admin::start(vec![healthy()]).await;
    let (status, mut body) = admin.get_json("/topology").await;
    let age = body["clusters"][0]["nodes"][1]["position_age_seconds"].take();
    assert!(age.as_f64().is_some_and(|seconds| (0.0..60.0).contains(&seconds)), "{age}");
    assert_eq!(status, 200);
    let expected = json!({ "clusters": [{
        "name": "main", "epoch": 7, "primary": "a:5432", "no_primary_because": null,
        "nodes": [
            {
                "address": "a:5432", "role": "primary", "state": "up", "timeline": null, "replay_position": null,
                "position_age_seconds": null, "lag_bytes": null, "lag_seconds": null, "takes_reads": false,
                "why": "holds the highest timeline",
            },
            {
                "address": "b:5433", "role": "replica", "state": "up", "timeline": 2, "replay_position": "0/16B3748",
                "position_age_seconds": null, "lag_bytes": 56, "lag_seconds": 0.25, "takes_reads": true,
                "why": "streams from a:5432",
            },
        ],
    }]});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_node_that_is_forgotten_is_not_shown() {
    let mut view = healthy();
    view.nodes[1].is_forgotten = true;
    let admin = Admin::start(vec![view]).await;
    let (_, body) = admin.get_json("/topology").await;
    assert_eq!(body["clusters"][0]["nodes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let admin = Admin::start(vec![]).await;
    assert_eq!(admin.get("/etc/passwd").await.0, 404);
    let answer = admin.send("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    let answer = admin.send("HEAD /live HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn what_is_not_http_and_what_is_too_large_is_turned_away() {
    let admin = Admin::start(vec![]).await;
    let answer = admin.send("\0\0\0\x08\x04\u{d2}\x16/\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let mut stream = TcpStream::connect(admin.address).await.unwrap();
    let head = format!("GET /live HTTP/1.1\r\nHost: x\r\nLong: {}", "x".repeat(9000));
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
    assert_eq!(admin.get("/live").await.0, 200);
}

#[tokio::test]
async fn those_who_say_nothing_give_way_after_a_while() {
    let admin = Admin::start(vec![]).await;
    let mut silent = Vec::new();
    for _ in 0..LIMITS.connections {
        silent.push(TcpStream::connect(admin.address).await.unwrap());
    }
    let begun = Instant::now();
    assert_eq!(admin.get("/live").await.0, 200);
    let waited = begun.elapsed();
    assert!(waited >= LIMITS.time / 2, "{waited:?}");
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_stop_ends_serving_and_frees_the_port() {
    let admin = Admin::start(vec![]).await;
    assert_eq!(admin.get("/live").await.0, 200);
    admin.stop.send(()).unwrap();
    timers::timeout(Duration::from_secs(3), admin.served).await.unwrap().unwrap();
    assert!(TcpStream::connect(admin.address).await.is_err());
}
