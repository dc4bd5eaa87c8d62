//! One request to Patroni's REST API, over a connection of its own and within a deadline.

use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::backend::endpoint::server_name;
use crate::config::PatroniUrl;
use crate::net::Stream;
use crate::net::timers::timeout_at;

/// An API, and whom to trust where it is asked over TLS.
#[derive(Clone, Debug)]
pub(super) struct Api {
    pub(super) url: PatroniUrl,
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("no answer in time")]
    Timeout,
    #[error("cannot be connected to: {0}")]
    Connect(#[from] std::io::Error),
    #[error("its URL begins with https://, and nothing says whom to trust there: see [cluster.patroni_tls]")]
    Untrusted,
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error("does not speak HTTP: {0}")]
    Protocol(#[from] hyper::Error),
    #[error("its answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the request cannot be written: {0}")]
    Request(#[from] hyper::http::Error),
}

/// Status and body of GET.
pub(super) async fn get(api: &Api, path: &str, deadline: Instant) -> Result<(StatusCode, Bytes), HttpError> {
    request(api, Method::GET, path, String::new(), deadline).await
}

/// Status and body of POST with a body of JSON.
pub(super) async fn post(
    api: &Api,
    path: &str,
    body: String,
    deadline: Instant,
) -> Result<(StatusCode, Bytes), HttpError> {
    request(api, Method::POST, path, body, deadline).await
}

async fn request(
    api: &Api,
    method: Method,
    path: &str,
    body: String,
    deadline: Instant,
) -> Result<(StatusCode, Bytes), HttpError> {
    let mut request = Request::builder().method(method).uri(path).header(HOST, &*api.url.address);
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(login) = api.url.login.as_ref().and_then(crate::auth::Secret::plain) {
        request = request.header(AUTHORIZATION, format!("Basic {login}"));
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    match timeout_at(deadline, exchange(api, request)).await {
        Ok(result) => result,
        Err(_) => Err(HttpError::Timeout),
    }
}

/// Not cancel-safe: dropped halfway, whether the request was done is not known. A GET does not mind.
async fn exchange(api: &Api, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), HttpError> {
    let stream = connect(api).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_BODY).collect().await.map_err(HttpError::Body)?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection carries the answer: it ends only with an error, or when the answer has been given.
        ended = connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error.into()),
        }
    }
}

async fn connect(api: &Api) -> Result<Stream, HttpError> {
    let tls = match &api.tls {
        _ if !api.url.is_https => None,
        None => return Err(HttpError::Untrusted),
        Some(tls) => Some((tls, server_name(&api.url.address).map_err(HttpError::Tls)?)),
    };
    let stream = Stream::from(TcpStream::connect(&*api.url.address).await?);
    match tls {
        None => Ok(stream),
        Some((tls, name)) => stream.connect(tls, name).await.map_err(HttpError::Tls),
    }
}

impl HttpError {
    /// Nothing was asked: whatever the request is, another API may be sent it.
    pub(super) fn is_before_request(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Untrusted | Self::Tls(_))
    }
}

/// A cluster of a hundred members needs 50 kB.
const LARGEST_BODY: usize = 1024 * 1024;
