//! A connection's stream of bytes: a socket, or TLS over one. One type for both, so that the plain way costs a look at
//! which it is and no more.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::outbox::{self, Mark};
use super::tls::{Encryption, Tls};
use crate::auth::certificate;
use crate::auth::tls::{ALPN, ClientTls};

/// A socket, or TLS over one.
#[derive(Debug)]
pub enum Stream {
    /// A socket.
    Plain(Socket),
    /// TLS over a socket.
    Tls(Box<Tls>),
}

/// A socket that is watched by a reactor.
#[derive(Debug)]
pub struct Socket {
    /// Before the socket itself: what is still to be sent goes out before it is closed.
    mark: Mark,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    /// A socket in the file system.
    Unix(UnixStream),
}

/// A socket that no reactor watches: on its way from one thread to another, or a second handle.
#[derive(Debug)]
pub enum Unwatched {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A socket in the file system.
    Unix(std::os::unix::net::UnixStream),
}

/// How a client has begun to speak TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It has asked for it in PostgreSQL's protocol.
    Asked,
    /// With TLS's own first byte: it must say inside what it wants to speak.
    Direct,
}

impl Stream {
    /// TLS as a server, over a plain stream; `early` is what came on it already.
    pub async fn accept(self, tls: &ClientTls, beginning: Beginning, early: &[u8]) -> io::Result<Self> {
        let Self::Plain(socket) = self else { return Err(io::Error::other("TLS within TLS")) };
        let tls = Tls::accept(socket, tls.config(), early).await?;
        if beginning == Beginning::Direct && tls.protocol() != Some(ALPN) {
            let why = "direct TLS connection request without ALPN protocol negotiation extension";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Self::Tls(Box::new(tls)))
    }

    /// TLS as a client of the server of this name, over a plain stream.
    pub async fn connect(self, config: &Arc<rustls::ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let Self::Plain(socket) = self else { return Err(io::Error::other("TLS within TLS")) };
        Ok(Self::Tls(Box::new(Tls::connect(socket, config, name).await?)))
    }

    /// By what the reactor has heard, something can be read, or the other side has closed. Asks nobody, and whoever waits
    /// for bytes is still woken.
    #[inline]
    pub fn may_have_spoken(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.may_have_spoken(),
            Self::Tls(tls) => tls.may_have_spoken(),
        }
    }

    /// Nothing has come, neither bytes nor the end. Costs no system call when nothing has. Call it between exchanges
    /// only: whoever waits for bytes is not woken any more.
    pub fn is_quiet(&mut self) -> bool {
        if !self.may_have_spoken() {
            return true;
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut byte = [0; 1];
        Pin::new(self).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Like a write, but it may go out a little later, with what others of this thread send ([`outbox`]): for what needs no
    /// proof of having been sent. Should the socket not take it then, the task is woken and the stream [is
    /// late](Self::is_late); if it is broken, reading tells.
    #[inline]
    pub fn poll_post(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_post(cx, bytes),
            Self::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    /// Something that was posted waits for room: flush it before anything else is done.
    #[inline]
    pub fn is_late(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_late(),
            Self::Tls(_) => false,
        }
    }

    /// A write has begun that is not done: the next one must begin with the same bytes, and nothing else can be said.
    pub fn is_within_write(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.is_within_write(),
        }
    }

    /// Last words, written if that can be done at once: whoever hears them knows that it is over, and if they do not go out,
    /// nothing is lost.
    pub fn leave_with(&mut self, words: &[u8]) {
        let mut context = Context::from_waker(Waker::noop());
        let _ = Pin::new(self).poll_write(&mut context, words);
    }

    /// From now on the present reactor watches it.
    pub fn adopt(self) -> io::Result<Self> {
        match self {
            Self::Plain(socket) => Ok(Self::Plain(socket.unwatched()?.watched()?)),
            Self::Tls(mut tls) => {
                tls.adopt()?;
                Ok(Self::Tls(tls))
            }
        }
    }

    /// A second handle to the socket: shutting it down ends the first.
    pub fn second_handle(&self) -> io::Result<Unwatched> {
        self.socket().second_handle()
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.socket(),
        }
    }

    /// Where the other side is; None: on this machine's file system. Of a connection that has been reset it cannot be said.
    pub fn origin(&self) -> io::Result<Option<IpAddr>> {
        match &self.socket().kind {
            Kind::Tcp(stream) => stream.peer_addr().map(|address| Some(address.ip())),
            Kind::Unix(_) => Ok(None),
        }
    }

    /// The connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// How it is encrypted, if it is.
    pub fn encryption(&self) -> Option<Encryption> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.encryption(),
        }
    }

    /// The common name of the certificate that the other side has shown, and that was verified.
    pub fn peer_name(&self) -> Option<String> {
        certificate::common_name(self.peer_certificate()?)
    }

    /// The whole subject of that certificate.
    pub fn peer_distinguished_name(&self) -> Option<String> {
        certificate::distinguished_name(self.peer_certificate()?)
    }

    /// What SCRAM is bound to on the client's side: the certificate that the server has shown.
    pub fn peer_end_point(&self) -> Option<Box<[u8]>> {
        certificate::end_point(self.peer_certificate()?)
    }

    /// The certificate that the other side has shown.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.peer_certificate().map(|certificate| &**certificate),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(Kind::Tcp(stream).into())
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Plain(Kind::Unix(stream).into())
    }
}

impl From<Kind> for Socket {
    fn from(kind: Kind) -> Self {
        Self { mark: Mark::default(), kind }
    }
}

impl Socket {
    #[inline]
    pub(super) fn may_have_spoken(&self) -> bool {
        let is_there = match &self.kind {
            Kind::Tcp(stream) => stream.try_io(Interest::READABLE, || Ok(())),
            Kind::Unix(stream) => stream.try_io(Interest::READABLE, || Ok(())),
        };
        is_there.is_ok()
    }

    /// The other side has closed, whatever of it has not been read: over TLS a goodbye stands before the end.
    pub fn has_ended(&self) -> bool {
        let mut watched = [PollFd::new(self, PollFlags::RDHUP)];
        // It does not wait.
        let told = poll(&mut watched, Some(&Timespec::default()));
        told.is_ok_and(|count| count > 0)
    }

    /// Takes it away from its reactor.
    pub fn unwatched(mut self) -> io::Result<Unwatched> {
        if self.mark.settle().is_some() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        match self.kind {
            Kind::Tcp(stream) => stream.into_std().map(Unwatched::Tcp),
            Kind::Unix(stream) => stream.into_std().map(Unwatched::Unix),
        }
    }

    /// Something that was posted has not been taken; see [`Stream::is_late`].
    #[inline]
    fn is_late(&self) -> bool {
        self.mark.is_late()
    }

    /// See [`Stream::poll_post`].
    #[inline]
    fn poll_post(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.mark.post(self.as_fd().as_raw_fd(), bytes, cx.waker()) {
            true => Poll::Ready(Ok(bytes.len())),
            false => Pin::new(self).poll_write(cx, bytes),
        }
    }

    /// What was posted is in the socket.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(mut rest) = self.mark.settle() else { return Poll::Ready(Ok(())) };
        while !rest.is_empty() {
            match self.kind.poll_write(cx, &rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => drop(rest.drain(..written?)),
                Poll::Pending => {
                    self.mark.keep(self.as_fd().as_raw_fd(), rest);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A second handle.
    pub(super) fn second_handle(&self) -> io::Result<Unwatched> {
        let handle = SockRef::from(self).try_clone()?;
        Ok(match self.kind {
            Kind::Tcp(_) => Unwatched::Tcp(handle.into()),
            Kind::Unix(_) => Unwatched::Unix(handle.into()),
        })
    }

    /// The other side's address; None on a socket in the file system, and where the other side is gone.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(stream) => stream.peer_addr().ok(),
            Kind::Unix(_) => None,
        }
    }

    /// The operating system's number of the user on the other side of a socket in the file system.
    pub fn peer_uid(&self) -> Option<u32> {
        match &self.kind {
            Kind::Tcp(_) => None,
            Kind::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
        }
    }

    /// Our own address; None on a socket in the file system.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(stream) => stream.local_addr().ok(),
            Kind::Unix(_) => None,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(stream) => stream.as_fd(),
            Kind::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsFd for Unwatched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Unwatched {
    /// From now on the present reactor watches it.
    pub fn watched(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(|stream| Kind::Tcp(stream).into()),
            Self::Unix(stream) => UnixStream::from_std(stream).map(|stream| Kind::Unix(stream).into()),
        }
    }

    /// Ends the connection, for every handle.
    pub fn end(&self) {
        // An error means that it has ended already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl From<std::net::TcpStream> for Unwatched {
    fn from(stream: std::net::TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<std::os::unix::net::UnixStream> for Unwatched {
    fn from(stream: std::os::unix::net::UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl Kind {
    /// Almost always the socket takes it: only where it does not, a waker is left.
    #[inline]
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        };
        match (written, self) {
            (Err(error), Self::Tcp(stream)) if error.kind() == io::ErrorKind::WouldBlock => {
                Pin::new(stream).poll_write(cx, bytes)
            }
            (Err(error), Self::Unix(stream)) if error.kind() == io::ErrorKind::WouldBlock => {
                Pin::new(stream).poll_write(cx, bytes)
            }
            (written, _) => Poll::Ready(written),
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        outbox::heed();
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_read(cx, out),
            Kind::Unix(stream) => Pin::new(stream).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        outbox::heed();
        if socket.mark.may_have_posted() {
            ready!(socket.poll_settled(cx))?;
        }
        socket.kind.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_settled(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        ready!(socket.poll_settled(cx))?;
        match &mut socket.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, out),
            Self::Tls(tls) => tls.poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    /// Only what was posted waits to be sent; see [`Tls`] for the other kind.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => tls.poll_shutdown(cx),
        }
    }
}
