//! A new connection to a server: TCP from an address of ours, TLS where it is asked for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::backend::backoff;
use crate::backend::board::{Board, Handshake};
use crate::sys::socket;

use super::Forwarder;
use super::body::Upload;
use super::head::HEAD_BYTES_MAX;
use super::kept::Connection;
use super::plan::{Backend, Manner, Secure};
use super::wire::{Line, Wire};

/// What an answer's head and pieces are read into; the smallest that hyper takes is 8 KiB.
const BUFFER_BYTES_MAX: usize = 4 * HEAD_BYTES_MAX;

/// Why there is no connection. No byte of a request has been sent.
#[derive(Debug)]
pub(super) enum NotConnected {
    Tcp(Errno),
    /// In words for the log.
    Tls(String),
}

/// Connects to one of these addresses, at least one, with the limits of a backend: beginning with any, then
/// each in its turn.
///
/// # Errors
/// How many attempts were made, and why the last came to nothing.
pub(super) async fn any(
    forwarder: &Forwarder,
    backend: &Backend,
    addresses: &[SocketAddr],
) -> Result<(TcpStream, SocketAddr, u16), (u16, Errno)> {
    let counters = &forwarder.counters;
    let first = forwarder.roll() as usize % addresses.len().max(1);
    let mut failed = Errno::ETIMEDOUT;
    let in_turn = addresses.iter().cycle().skip(first);
    for (attempt, &address) in (1..=backend.attempts_max).zip(in_turn) {
        if usize::from(attempt) > addresses.len() {
            sleep(backoff::again(attempt.into(), forwarder.roll())).await;
        }
        counters.connect_attempts.add(1);
        let source = backend.source_for(address, forwarder.roll());
        let connected = timeout(backend.connect, open(address, source)).await;
        match connected.unwrap_or(Err(Errno::ETIMEDOUT)) {
            Ok(stream) => return Ok((stream, address, attempt)),
            Err(errno) => failed = errno,
        }
        counters.connect_failures.add(1);
    }
    Err((backend.attempts_max, failed))
}

/// Begins HTTP over a connection without TLS, for one request.
pub(super) async fn alone(stream: TcpStream) -> Result<(SendRequest<Upload>, Rc<Line>), Errno> {
    let line = Line::new(stream);
    let sender = speak(Wire::new(Rc::clone(&line))).await.map_err(|_| Errno::ECONNRESET)?;
    Ok((sender, line))
}

/// Connects, and shakes hands where that is the manner.
pub(super) async fn dial(
    board: &Arc<Board>,
    address: SocketAddr,
    source: Option<IpAddr>,
    manner: &Manner,
) -> Result<Connection, NotConnected> {
    let line = Line::new(open(address, source).await.map_err(NotConnected::Tcp)?);
    let wire = Wire::new(Rc::clone(&line));
    let sender = match &manner.secure {
        None => speak(wire).await,
        Some(secure) => match shake_hands(wire, secure).await {
            Ok((stream, how)) => {
                board.shook_hands(how);
                speak(stream).await
            }
            Err(why) => {
                board.shook_hands(Handshake::Failed);
                return Err(NotConnected::Tls(why));
            }
        },
    };
    let sender = sender.map_err(|_| NotConnected::Tcp(Errno::ECONNRESET))?;
    Ok(Connection { sender, line, board: Arc::clone(board), address, manner: manner.clone() })
}

/// Connects, from this address if there is one.
///
/// # Errors
/// Those of connect(2).
pub(super) async fn open(address: SocketAddr, source: Option<IpAddr>) -> Result<TcpStream, Errno> {
    let errno = |error: io::Error| error.raw_os_error().map_or(Errno::ECONNRESET, Errno::from_raw);
    let source = source.map(|ip| SocketAddr::new(ip, 0));
    let socket = TcpSocket::from_std_stream(socket::outbound(&address, source)?.into());
    let stream = socket.connect(address).await.map_err(errno)?;
    if socket::has_met_itself(stream.as_fd(), socket::port_to_doubt(&address, source)) {
        return Err(Errno::ECONNREFUSED);
    }
    Ok(stream)
}

async fn shake_hands(
    wire: Wire,
    secure: &Secure,
) -> Result<(tokio_rustls::client::TlsStream<Wire>, Handshake), String> {
    let connector = TlsConnector::from(Arc::clone(&secure.config));
    let stream = connector.connect(secure.name.clone(), wire).await.map_err(|error| why(&error))?;
    let how = match stream.get_ref().1.handshake_kind() {
        Some(HandshakeKind::Resumed) => Handshake::Resumed,
        _ => Handshake::Full,
    };
    Ok((stream, how))
}

/// What an error of a handshake means, and what to do about it.
fn why(error: &io::Error) -> String {
    use rustls::{CertificateError as Bad, Error};
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let remedy = match tls {
        Some(Error::InvalidCertificate(Bad::UnknownIssuer)) => {
            "no authority that is trusted here has signed it: name the file of the one that has, \
             tls = { ca = \"FILE\" }"
        }
        Some(Error::InvalidCertificate(
            Bad::NotValidForName | Bad::NotValidForNameContext { .. },
        )) => "it is for another name: name that one, tls = { sni = \"NAME\" }",
        Some(Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
            "renew it, or set this host's clock"
        }
        Some(Error::InvalidMessage(_)) => "does it speak TLS on this port? else tls = false",
        Some(_) => "its TLS and this relay's have to agree; TLS 1.2 and 1.3 are spoken here",
        None => "it ended the connection in the middle; its own log says why",
    };
    format!("TLS: {error}; {remedy}")
}

/// Begins HTTP over a connection, which then lives for itself until both ends are done with it.
async fn speak<S>(stream: S) -> hyper::Result<SendRequest<Upload>>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    // How it ended is told to whoever waits for an answer on it.
    spawn_local(async move { drop(connection.await) });
    Ok(sender)
}
