//! A TCP connection over io_uring or over readiness: what the agents need and no more.
//!
//! Neither kind may be dropped while an operation is under way: tokio-uring does not cancel, the
//! kernel would go on writing into the buffer. `abort` shuts the socket down, which completes
//! every operation; then the operation is awaited and the stream dropped.

pub(crate) mod epoll;
#[cfg_attr(target_env = "musl", path = "without_uring.rs")]
pub(crate) mod uring;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// How the agents' sockets are driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IoKind {
    /// tokio-uring.
    Uring,
    /// Plain tokio, on epoll.
    Tokio,
}

impl IoKind {
    /// The name as typed.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Tokio => "tokio",
        }
    }
}

/// Bytes that stay where they are until they are written.
pub(crate) trait Bytes: uring::IoBuf + AsRef<[u8]> {}
impl Bytes for &'static [u8] {}
impl Bytes for Vec<u8> {}

/// One connection of one agent, used by one task at a time.
pub(crate) trait Stream: Sized + 'static {
    /// Begins a connection on a prepared socket.
    fn dial(socket: Socket, to: SocketAddr) -> io::Result<Self>;

    /// Ends when the connection stands or has failed.
    fn connected(self: &Rc<Self>) -> impl Future<Output = io::Result<()>>;

    /// Reads once into an empty buffer with capacity; an empty buffer back is end of stream.
    fn read(self: Rc<Self>, buffer: Vec<u8>) -> impl Future<Output = (io::Result<()>, Vec<u8>)>;

    /// Writes all.
    fn write_all<B: Bytes>(self: &Rc<Self>, bytes: B) -> impl Future<Output = io::Result<()>>;

    /// Shuts the direction towards the peer.
    fn finish(&self) -> io::Result<()>;

    /// Shuts both directions, so that every operation under way completes.
    fn abort(&self);
}

/// A socket as the agents make it: TCP_NODELAY set, bound to `source` if there is one.
///
/// The port is chosen at connect (IP_BIND_ADDRESS_NO_PORT), when the kernel knows the target and
/// can use one port towards several targets.
pub(crate) fn socket(to: SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}
