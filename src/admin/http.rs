//! The HTTP server: limits, paths and methods; [`super::views`] says what the answers hold.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::Guard;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::AdminState;
use super::views::{Readiness, Topology};
use crate::client::Pause;
use crate::complaints::{Complaints, Repeats};
use crate::net::timers::{sleep, timeout};
use crate::topology::View;

/// Answer requests until `shutdown` is done, then finish those begun: that takes no longer than one request may.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: impl Future<Output = ()>) {
    serve_within(&LIMITS, listener, state, shutdown).await;
}

/// What clients of the admin listener may take.
#[derive(Debug)]
pub(super) struct Limits {
    /// Those beyond wait in the kernel's queue: with one request each of at most `time`, the wait has an end.
    pub(super) connections: usize,
    /// For one connection from accept to close.
    pub(super) time: Duration,
}

/// A scrape takes milliseconds and comes every few seconds: who needs more does not read, or does not write.
const LIMITS: Limits = Limits { connections: 64, time: Duration::from_secs(5) };

pub(super) async fn serve_within(
    limits: &Limits,
    listener: TcpListener,
    state: Arc<AdminState>,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    let mut complaints = Complaints::new(Repeats::EachMinute);
    loop {
        // Dropping `accept` loses no connection, dropping `join_next` no result, and `shutdown` is only borrowed.
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(timeout(limits.time, serve_connection(stream, Arc::clone(&state))));
                }
                Err(problem) => {
                    if let Some(times) = complaints.meet(&problem.to_string(), Instant::now()) {
                        warn!(%problem, times, "the admin listener cannot accept a connection");
                    }
                    sleep(PAUSE_AFTER_FAILED_ACCEPT).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Bytes of a request's head; browsers behind proxies send 2 KiB. It is also the least that hyper reads into.
const MOST_HEAD: usize = 8 * 1024;

/// Without file descriptors accept fails at once and for a while: long enough not to spin, short enough to recover.
const PAUSE_AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// One request per connection: so that one deadline covers a slow writer, a slow reader and an idle one.
async fn serve_connection(stream: TcpStream, state: Arc<AdminState>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&state, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(MOST_HEAD);
    if let Err(problem) = http.serve_connection(TokioIo::new(stream), service).await {
        debug!(%problem, "an admin request was not served");
    }
}

pub(super) type Answer = Response<Full<Bytes>>;

fn answer(state: &AdminState, method: &Method, path: &str) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        return method_not_allowed();
    }
    match path {
        "/" => text(StatusCode::OK, PLAIN, INDEX.to_owned()),
        "/metrics" => text(StatusCode::OK, prometheus::TEXT_FORMAT, state.metrics.render()),
        "/live" => live(state.metrics.most_silent(Instant::now())),
        "/ready" => ready(state, &published(state)),
        "/topology" => topology(state),
        _ => match path.strip_prefix("/ready/") {
            Some(name) => cluster_ready(state, name),
            None => text(StatusCode::NOT_FOUND, PLAIN, format!("no such path\n\n{INDEX}")),
        },
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

const INDEX: &str = "Trunkline
/metrics     counts for Prometheus
/live        200 while the process is there and its workers turn, 503 when one hangs
/ready       200 while a cluster has a primary or a replica that takes reads, 503 otherwise and while stopping
/ready/NAME  the same of the cluster of this name
/topology    clusters, their nodes, roles, positions and lag, as JSON
";

/// A worker computes for no longer than milliseconds, or is preempted: one that is silent for so long serves its clients no
/// more. Restarting costs all clients, so a machine that stands still for a moment must not be taken for it.
const HANGS: Duration = Duration::from_secs(30);

/// By the worker that has been silent for longest.
pub(super) fn live(most_silent: Option<(usize, Duration)>) -> Answer {
    match most_silent {
        Some((worker, silence)) if silence >= HANGS => {
            let why = format!("worker {worker} hangs: no sign of life for {} s\n", silence.as_secs());
            text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, why)
        }
        _ => text(StatusCode::OK, PLAIN, "ok\n".to_owned()),
    }
}

fn ready(state: &AdminState, views: &[Guard<Arc<View>>]) -> Answer {
    let views = views.iter().map(|view| &***view);
    let held_back = (databases(state, Pause::is_paused), databases(state, Pause::is_disabled));
    let readiness = Readiness::of(views, state.draining.load(Ordering::Relaxed), held_back);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &readiness)
}

/// Names of clusters are letters, digits, `_`, `-` and `.`: nothing that a path would escape.
fn cluster_ready(state: &AdminState, name: &str) -> Answer {
    let mut views = published(state);
    views.retain(|view| *view.cluster == *name);
    if views.is_empty() {
        return text(StatusCode::NOT_FOUND, PLAIN, "no cluster of this name is configured\n".to_owned());
    }
    ready(state, &views)
}

fn topology(state: &AdminState) -> Answer {
    let views = published(state);
    json(StatusCode::OK, &Topology::of(views.iter().map(|view| &***view), Instant::now()))
}

/// Names of the databases that are held back like this.
fn databases(state: &AdminState, are_held_back: impl Fn(&Pause) -> bool) -> Vec<String> {
    let pauses = state.pauses.load();
    pauses.iter().filter(|(_, pause)| are_held_back(pause)).map(|(name, _)| name.to_string()).collect()
}

fn published(state: &AdminState) -> Vec<Guard<Arc<View>>> {
    state.views.load().iter().map(|view| view.load()).collect()
}

fn method_not_allowed() -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n".to_owned());
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let text_of = serde_json::to_string_pretty(body).expect("the views have text keys and serialise without fail");
    text(status, "application/json", text_of + "\n")
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        // What it says is true for a moment; a cache in between would keep a load balancer on a dead Trunkline.
        .header(CACHE_CONTROL, "no-store")
        .body(Full::new(Bytes::from(body)))
        .expect("the status and the headers are constants")
}
