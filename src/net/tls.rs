//! A TLS connection over a socket: encrypts and decrypts where a plain socket copies, and polls like one.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::num::NonZeroU8;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::crypto::ring::ALL_CIPHER_SUITES;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection, SupportedCipherSuite};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Socket;

/// A TLS connection over a socket.
///
/// What was written is in the socket when the write is done, so nothing has to be flushed: a write that could not be
/// finished stays [`Poll::Pending`], and the next one must begin with the same bytes.
#[derive(Debug)]
pub struct Tls {
    socket: Socket,
    connection: Connection,
    /// Bytes that have been encrypted and not been reported as written.
    claimed: usize,
    /// Bytes that have been decrypted and not been read.
    decrypted: usize,
}

/// How a stream is encrypted, in one byte, for each client's card has it: the place of its suite among all that there are,
/// and one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encryption(NonZeroU8);

impl Encryption {
    fn of(suite: SupportedCipherSuite) -> Option<Self> {
        let place = ALL_CIPHER_SUITES.iter().position(|known| *known == suite)?;
        NonZeroU8::MIN.checked_add(u8::try_from(place).ok()?).map(Self)
    }
}

/// As PgBouncer shows it: `TLSv1.3/TLS_AES_256_GCM_SHA384`.
impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(suite) = ALL_CIPHER_SUITES.get(usize::from(self.0.get() - 1)) else { return Ok(()) };
        let version = if suite.tls13().is_some() { "TLSv1.3" } else { "TLSv1.2" };
        // rustls puts the version into the names of the suites that only TLS 1.3 has.
        write!(f, "{version}/{}", suite.suite().as_str().unwrap_or("unknown").replace("TLS13_", "TLS_"))
    }
}

/// Bytes encrypted at once: some records of TLS, so that the socket is written to in one go.
const MOST_AT_ONCE: usize = 64 * 1024;

impl Tls {
    /// Shakes hands with a client. What came from it already, beyond what is plain, is `early`.
    pub(super) async fn accept(socket: Socket, config: &Arc<ServerConfig>, early: &[u8]) -> io::Result<Self> {
        let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        let mut tls = Self::new(socket, connection.into());
        tls.take(early)?;
        tls.handshake().await?;
        Ok(tls)
    }

    /// Shakes hands with a node of this name.
    pub(super) async fn connect(
        socket: Socket,
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut tls = Self::new(socket, connection.into());
        tls.handshake().await?;
        Ok(tls)
    }

    fn new(socket: Socket, connection: Connection) -> Self {
        Self { socket, connection, claimed: 0, decrypted: 0 }
    }

    /// The socket.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// From now on the present reactor watches the socket.
    pub(super) fn adopt(&mut self) -> io::Result<()> {
        self.socket = self.socket.second_handle()?.watched()?;
        Ok(())
    }

    /// The certificate that the other side has shown.
    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.connection.peer_certificates()?.first()
    }

    /// What both sides have agreed to speak inside.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// How it is encrypted; None: nothing has been agreed on.
    pub(super) fn encryption(&self) -> Option<Encryption> {
        self.connection.negotiated_cipher_suite().and_then(Encryption::of)
    }

    async fn handshake(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_handshake(cx)).await
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Takes bytes that somebody else has read from the socket.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.connection.read_tls(&mut bytes)?;
            self.process()?;
        }
        Ok(())
    }

    /// Reads from the socket and decrypts. 0: the other side has closed.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut socket = Blocking { socket: &mut self.socket, cx };
        match self.connection.read_tls(&mut socket) {
            Ok(count) => {
                if let Err(error) = self.process() {
                    // The other side is told why, if it takes it at once.
                    let _ = self.poll_send(cx);
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn process(&mut self) -> io::Result<()> {
        let state =
            self.connection.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.decrypted = state.plaintext_bytes_to_read();
        Ok(())
    }

    /// Writes everything that is encrypted to the socket.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            let mut socket = Blocking { socket: &mut self.socket, cx };
            match self.connection.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Something can be read, or the other side has closed.
    pub(super) fn may_have_spoken(&self) -> bool {
        self.decrypted > 0 || self.socket.may_have_spoken()
    }

    /// Reads what is decrypted; the socket is asked only when nothing is. A side that closes without TLS's own goodbye
    /// has closed all the same: PostgreSQL's protocol has one of its own.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        while self.decrypted == 0 {
            let count = ready!(self.poll_receive(cx))?;
            if self.connection.wants_write() {
                // An answer to what TLS itself has said; what does not go out now goes with the next write.
                let _ = self.poll_send(cx)?;
            }
            if count == 0 && self.decrypted == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let count = self.connection.reader().read(out.initialize_unfilled())?;
        out.advance(count);
        self.decrypted = self.decrypted.saturating_sub(count);
        Poll::Ready(Ok(()))
    }

    /// Encrypts the first bytes and writes them. See [`Tls`] for what pending means.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.claimed == 0 {
            ready!(self.poll_send(cx))?;
            let first = bytes.get(..MOST_AT_ONCE).unwrap_or(bytes);
            self.claimed = self.connection.writer().write(first)?;
        }
        ready!(self.poll_send(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.claimed).min(bytes.len())))
    }

    /// A write is pending of which something has been encrypted.
    pub(super) fn is_within_write(&self) -> bool {
        self.claimed > 0
    }

    /// Says goodbye and closes the sending direction.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.send_close_notify();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // So that the other side does not log a lost connection; if it does not go out, nothing is lost.
        self.connection.send_close_notify();
        let _ = self.poll_send(&mut Context::from_waker(std::task::Waker::noop()));
    }
}

/// A socket as rustls wants it: what would have to wait is an error.
struct Blocking<'a, 'cx, 'w> {
    socket: &'a mut Socket,
    cx: &'cx mut Context<'w>,
}

impl Read for Blocking<'_, '_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut out = ReadBuf::new(out);
        match Pin::new(&mut *self.socket).poll_read(self.cx, &mut out) {
            Poll::Ready(result) => result.map(|()| out.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Blocking<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        wait_not(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        wait_not(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait_not<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
