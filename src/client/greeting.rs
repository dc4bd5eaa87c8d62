//! A client's first packets: TLS, requests to cancel, and at last what it wants to begin.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use tokio::io::AsyncWriteExt;

use super::card::Card;
use super::farewell::Farewell;
use super::server::Server;
use super::worker::Worker;
use crate::auth::{ClientTls, TlsMode};
use crate::metrics::{CancelOutcome, Refusal};
use crate::net::{Beginning, ReadBuffer, Stream};
use crate::wire::startup::{Packet, Startup, StartupError};
use crate::wire::{ProxyHeader, SqlState};

/// The first byte of TLS's own handshake; as the first of a length it would be a packet of 360 MB.
const TLS_HANDSHAKE: u8 = 0x16;

/// The startup message, and where the client is, which its card tells from then on; the stream is TLS by now, if the client
/// wanted it, and is taken where the client is to be told nothing more.
pub async fn read_startup(
    place: &mut Option<Stream>,
    buffer: &mut ReadBuffer,
    card: &Card,
    server: &Server,
    worker: &Worker,
) -> Result<(Startup, Option<IpAddr>), Farewell> {
    let tls = server.tls.clone();
    let mut has_asked_for_gss = false;
    let origin = find_origin(place.as_mut().ok_or(Farewell::Left)?, buffer, card, server).await?;
    loop {
        let stream = place.as_mut().ok_or(Farewell::Left)?;
        match read_packet(stream, buffer).await? {
            First::Packet(Packet::Startup(startup)) => {
                let is_safe = stream.is_encrypted() || origin.is_none();
                if tls.as_ref().is_some_and(|tls| tls.mode() >= TlsMode::Require) && !is_safe {
                    worker.metrics.client_refused(Refusal::Tls);
                    let message = "connections without TLS are not accepted";
                    return Err(Farewell::told(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message));
                }
                return Ok((startup, origin));
            }
            First::Packet(Packet::Cancel(key)) => {
                use crate::backend::cancel::CancelOutcome as Outcome;
                worker.metrics.cancelled(match server.cancel_keys.cancel(&key).await {
                    Outcome::Sent => CancelOutcome::Forwarded,
                    Outcome::Waiting => CancelOutcome::Waiting,
                    Outcome::Idle => CancelOutcome::Idle,
                    Outcome::Unknown => CancelOutcome::UnknownKey,
                    Outcome::Failed => CancelOutcome::Failed,
                });
                return Err(Farewell::Cancel);
            }
            First::Packet(Packet::SslRequest) => {
                // Bytes that came along would have been sent in the open, by the client or by somebody in between.
                if !buffer.is_empty() || stream.is_encrypted() {
                    return Err(Farewell::NotPostgres);
                }
                let accepted = tls.as_ref().filter(|_| origin.is_some());
                stream.write_all(if accepted.is_some() { b"S" } else { b"N" }).await?;
                if let Some(tls) = accepted {
                    let begun = begin_tls(place, tls, Beginning::Asked, buffer).await;
                    begun.map_err(|error| without_tls(&error, origin, server, worker))?;
                }
            }
            First::Packet(Packet::GssEncRequest) => {
                if !buffer.is_empty() || has_asked_for_gss {
                    return Err(Farewell::NotPostgres);
                }
                has_asked_for_gss = true;
                stream.write_all(b"N").await?;
            }
            First::Tls => match &tls {
                Some(tls) if !stream.is_encrypted() && origin.is_some() => {
                    let begun = begin_tls(place, tls, Beginning::Direct, buffer).await;
                    begun.map_err(|error| without_tls(&error, origin, server, worker))?;
                }
                _ => return Err(Farewell::NotPostgres),
            },
        }
    }
}

/// Where the client is; None: on this machine's file system. A load balancer that is configured as one says so itself,
/// in front of everything else.
async fn find_origin(
    stream: &mut Stream,
    buffer: &mut ReadBuffer,
    card: &Card,
    server: &Server,
) -> Result<Option<IpAddr>, Farewell> {
    let Some(address) = stream.origin()? else { return Ok(None) };
    if !server.proxies.iter().any(|network| network.contains(address)) {
        return Ok(Some(address));
    }
    loop {
        match ProxyHeader::read(buffer.filled()) {
            Ok(Some((header, size))) => {
                buffer.consume(size);
                return Ok(Some(match header {
                    ProxyHeader::Local => address,
                    ProxyHeader::Client(client) => {
                        card.comes_from(client);
                        client
                    }
                }));
            }
            Ok(None) => {}
            Err(_) => return Err(Farewell::NotPostgres),
        }
        if buffer.fill(stream).await? == 0 {
            return Err(Farewell::Left);
        }
    }
}

/// What a client may begin with.
enum First {
    Packet(Packet),
    /// TLS's own handshake.
    Tls,
}

async fn read_packet(stream: &mut Stream, buffer: &mut ReadBuffer) -> Result<First, Farewell> {
    loop {
        if buffer.filled().first() == Some(&TLS_HANDSHAKE) {
            return Ok(First::Tls);
        }
        match Packet::read(buffer.filled()) {
            Ok(Some((packet, size))) => {
                buffer.consume(size);
                return Ok(First::Packet(packet));
            }
            Ok(None) => {}
            Err(error @ StartupError::Version { .. }) => {
                return Err(Farewell::told(SqlState::FEATURE_NOT_SUPPORTED, error.to_string()));
            }
            Err(StartupError::Length) => return Err(Farewell::NotPostgres),
            Err(error @ StartupError::Layout) => return Err(Farewell::violation(&error.to_string())),
        }
        if buffer.fill(stream).await? == 0 {
            return Err(Farewell::Left);
        }
    }
}

async fn begin_tls(
    place: &mut Option<Stream>,
    tls: &ClientTls,
    beginning: Beginning,
    buffer: &mut ReadBuffer,
) -> io::Result<()> {
    let stream = place.take().ok_or(io::ErrorKind::NotConnected)?;
    *place = Some(stream.accept(tls, beginning, buffer.filled()).await?);
    buffer.consume(usize::MAX);
    Ok(())
}

/// The handshake has failed: it is counted, and said now and then.
fn without_tls(error: &io::Error, from: Option<IpAddr>, server: &Server, worker: &Worker) -> Farewell {
    worker.metrics.client_refused(Refusal::Tls);
    // Whoever looks for open ports meets it by the thousand.
    let why = error.to_string();
    let said = server.tls_complaints.lock().meet(&why, Instant::now());
    if let Some(times) = said {
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        tracing::info!(why, from, times, "a client's TLS handshake failed; for this reason it is said once a minute");
    }
    Farewell::Left
}
