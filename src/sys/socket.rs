//! TCP sockets, IPv4 and IPv6.

use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{
    self, AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage,
    setsockopt, sockopt,
};
use serde::Serialize;

pub use nix::sys::socket::Shutdown;

/// A socket that shares its address with the other workers' (`SO_REUSEPORT`), and does not listen
/// yet: nobody is led to it.
///
/// # Errors
/// As socket(2) and bind(2) say: EADDRINUSE, EACCES, EADDRNOTAVAIL, EMFILE.
pub fn shared(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = tcp(&address)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// Whether others may share the address of a socket that somebody else has bound.
pub fn is_shared(socket: BorrowedFd<'_>) -> bool {
    socket::getsockopt(&socket, sockopt::ReusePort).unwrap_or(false)
}

/// Makes a socket that somebody else has opened nonblocking.
///
/// # Errors
/// EBADF.
pub fn unblock(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    fcntl(socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// Has a bound socket listen; one that does gets another backlog. What accepted sockets inherit is
/// set here, once, instead of on each of them: `TCP_NODELAY` (a relay passes on what it has),
/// `SO_OOBINLINE` (an urgent byte stays in its place in the stream) and `TCP_NOTSENT_LOWAT` (see
/// [`UNSENT_BYTES_MAX`]).
///
/// # Errors
/// As listen(2) says: EADDRINUSE.
pub fn listen(socket: &OwnedFd, backlog: u32) -> Result<(), Errno> {
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::OobInline, &true)?;
    bound_unsent(socket)?;
    // The kernel caps it at net.core.somaxconn; nix knows the highest that listen(2) takes.
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let backlog = Backlog::new(backlog).unwrap_or(Backlog::MAXALLOWABLE);
    socket::listen(socket, backlog)
}

/// A socket that shares its address and listens: [`shared`] and [`listen`].
///
/// # Errors
/// As those say.
pub fn listening(address: SocketAddr, backlog: u32) -> Result<OwnedFd, Errno> {
    let socket = shared(address)?;
    listen(&socket, backlog)?;
    Ok(socket)
}

/// Whether `address` could be bound by someone who does not share: EADDRINUSE tells that another
/// program, or another instance of this one, is serving it. `SO_REUSEADDR` is set so that mere
/// TIME_WAIT leftovers do not count; a listener does all the same.
///
/// # Errors
/// As bind(2) says.
pub fn bind_alone(address: SocketAddr) -> Result<(), Errno> {
    let socket = tcp(&address)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
}

/// Takes a connection out of a listener's queue: a nonblocking socket and its peer's address.
///
/// # Errors
/// EAGAIN when the queue is empty; else as accept(2) says.
pub fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, SocketAddr), Errno> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut bytes = socklen::<libc::sockaddr_storage>();
    // SAFETY: `address` has room for `bytes` bytes, and both live through the call.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            address.as_mut_ptr().cast(),
            &raw mut bytes,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the kernel wrote an address of `bytes` bytes there; the rest was zeroed.
    let address = unsafe { SockaddrStorage::from_raw(address.as_ptr().cast(), Some(bytes)) };
    let address = address.and_then(|address| to_std(&address)).ok_or(Errno::EAFNOSUPPORT)?;
    Ok((socket, address))
}

/// Whether an error of accept(2) is about one connection, which was gone before it was taken
/// (accept(2) lists these), so that the next can be accepted at once. Any other would only come
/// again, be it for want of something or because a filter forbids it.
pub const fn is_of_one_connection(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNABORTED
            | Errno::ECONNRESET
            | Errno::EINTR
            | Errno::EPROTO
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ETIMEDOUT
    )
}

/// A nonblocking socket that can be connected to `address`, bound to `source` when one is given.
/// `SO_REUSEADDR` lets an explicit source port be used again while an earlier pair with it is in
/// TIME_WAIT towards the same peer; a source port of 0 is chosen by connect(2), which can share
/// ports between destinations where bind(2) cannot.
///
/// # Errors
/// EMFILE, ENFILE, ENOBUFS, ENOMEM; with a source also EADDRINUSE, EADDRNOTAVAIL, EACCES.
pub fn outbound(address: &SocketAddr, source: Option<SocketAddr>) -> Result<OwnedFd, Errno> {
    let socket = tcp(address)?;
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(&socket, sockopt::OobInline, &true)?;
    bound_unsent(&socket)?;
    if let Some(source) = source {
        if source.port() == 0 {
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        } else {
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        }
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(source))?;
    }
    Ok(socket)
}

/// Before a connect that will be followed by bytes at once: the acknowledgement of the server's SYN
/// waits for them and goes with them, a packet less (`tcp_rcv_synsent_state_process()` of a socket
/// whose `TCP_QUICKACK` is off; HAProxy's `tcp-smart-connect`). Without bytes it would come 200 ms
/// late.
///
/// # Errors
/// As setsockopt(2) says.
pub fn acknowledge_with_bytes(socket: &OwnedFd) -> Result<(), Errno> {
    set_tcp(socket, libc::TCP_QUICKACK, 0)
}

/// Begins to connect. On a nonblocking socket EINPROGRESS is the usual answer.
///
/// # Errors
/// As connect(2) says.
pub fn connect(socket: BorrowedFd<'_>, address: &SocketAddr) -> Result<(), Errno> {
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(*address))
}

/// The port at which a connect to `address` could meet the very socket that makes it: one of this
/// host where nobody listens, which the kernel chooses as the source port too (TCP's simultaneous
/// open). What the relay binds itself can be that port only if it is told so, and no ephemeral range
/// reaches below 1024: for most servers there is nothing to doubt, and nothing to ask.
pub fn port_to_doubt(address: &SocketAddr, source: Option<SocketAddr>) -> Option<NonZeroU16> {
    let port = NonZeroU16::new(address.port())?;
    let possible = match source.and_then(|source| NonZeroU16::new(source.port())) {
        Some(bound) => bound == port,
        None => port.get() >= 1024,
    };
    possible.then_some(port)
}

/// Whether a connected socket is its own peer; `doubted` is what [`port_to_doubt`] said.
pub fn has_met_itself(socket: BorrowedFd<'_>, doubted: Option<NonZeroU16>) -> bool {
    let Some(port) = doubted else { return false };
    let local = local_address(socket).ok().filter(|local| local.port() == port.get());
    local.is_some_and(|local| peer_address(socket) == Ok(local))
}

/// Takes the socket's pending error away from it, if there is one.
pub fn take_error(socket: BorrowedFd<'_>) -> Option<Errno> {
    match socket::getsockopt(&socket, sockopt::SocketError) {
        Ok(0) => None,
        Ok(raw) => Some(Errno::from_raw(raw)),
        Err(errno) => Some(errno),
    }
}

/// Ends the writing half: a FIN after what was written.
///
/// # Errors
/// ENOTCONN when the connection is gone already.
pub fn shutdown_write(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    socket::shutdown(socket.as_raw_fd(), Shutdown::Write)
}

/// Has a listening socket listen no more; it stays bound. What waits in its queue is reset
/// (`inet_shutdown` of Linux).
///
/// # Errors
/// As shutdown(2) says, but for a socket that does not listen.
pub fn deafen(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    match socket::shutdown(socket.as_raw_fd(), Shutdown::Read) {
        Err(Errno::ENOTCONN) => Ok(()),
        done => done,
    }
}

/// Makes the coming close(2) send a RST instead of a FIN, and drop what is unsent. Where a filter
/// bars the option the connection is dissolved at once, which sends the RST too.
pub fn reset_on_close(socket: BorrowedFd<'_>) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    if setsockopt(&socket, sockopt::Linger, &at_once).is_err() {
        dissolve(socket);
    }
}

/// connect(2) to no address: the connection is dissolved. It fails only where there is none.
fn dissolve(socket: BorrowedFd<'_>) {
    // SAFETY: an all-zero sockaddr is a valid one; its family is AF_UNSPEC.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: `nowhere` is as long as is said, and lives through the call.
    unsafe {
        libc::connect(socket.as_raw_fd(), &raw const nowhere, socklen::<libc::sockaddr>());
    }
}

/// How a connection stands, as poll(2) tells it without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// connect(2) has not come to anything yet: `tcp_poll()` reports nothing at all then.
    Connecting,
    /// There, and nothing has come in.
    Quiet,
    /// There are bytes to read, or the peer has ended its stream.
    Stirred,
    /// It could not be made, or was reset.
    Failed,
}

/// How a connection stands. An ended stream is readable, too.
pub fn standing(socket: BorrowedFd<'_>) -> Standing {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let asked = PollFlags::POLLIN | PollFlags::POLLOUT;
    let mut polled = [PollFd::new(socket, asked)];
    // What a signal keeps from looking is looked at the next time.
    if poll(&mut polled, PollTimeout::ZERO).is_err() {
        return Standing::Connecting;
    }
    let told = polled[0].revents().unwrap_or(PollFlags::empty());
    if told.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
        Standing::Failed
    } else if told.contains(PollFlags::POLLIN) {
        Standing::Stirred
    } else if told.contains(PollFlags::POLLOUT) {
        Standing::Quiet
    } else {
        Standing::Connecting
    }
}

/// Whether each of these connections has failed or is over in both directions: one poll(2) for all.
pub fn have_failed<'a>(sockets: impl Iterator<Item = BorrowedFd<'a>>) -> Vec<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polled: Vec<_> = sockets.map(|it| PollFd::new(it, PollFlags::empty())).collect();
    // What a signal keeps from looking has told nothing.
    let _ = poll(&mut polled, PollTimeout::ZERO);
    polled.iter().map(|it| it.revents().is_some_and(|told| !told.is_empty())).collect()
}

/// Whether nothing has come in, neither bytes nor the end of the stream nor an error.
pub fn is_quiet(socket: BorrowedFd<'_>) -> bool {
    let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    socket::recv(socket.as_raw_fd(), &mut [0], look) == Err(Errno::EAGAIN)
}

/// Reads what is there; 0 is the end of the stream.
///
/// # Errors
/// EAGAIN when nothing is there; else as recv(2) says.
pub fn recv(socket: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize, Errno> {
    socket::recv(socket.as_raw_fd(), into, MsgFlags::empty())
}

/// Writes what fits. Never raises SIGPIPE.
///
/// # Errors
/// EAGAIN when nothing fits; else as send(2) says.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    socket::send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)
}

/// Moves up to `bytes` bytes from a socket into a pipe. 0 is the end of the stream, *or* an urgent
/// byte at the head of a stream that has ended behind it: only [`recv`] tells which.
///
/// # Errors
/// EAGAIN when the socket has nothing, when the pipe has no free slot, or at an urgent byte.
pub fn splice_in(
    socket: BorrowedFd<'_>,
    pipe: BorrowedFd<'_>,
    bytes: usize,
) -> Result<usize, Errno> {
    splice(socket, None, pipe, None, bytes, SPLICE)
}

/// Moves up to `bytes` bytes from a pipe to a socket. `bytes` must be exactly what is in the pipe:
/// asked for more, the kernel may hold back the last segment for bytes that never come.
///
/// # Errors
/// EAGAIN when the socket takes nothing; else as send(2) says.
pub fn splice_out(
    pipe: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    bytes: usize,
) -> Result<usize, Errno> {
    splice(pipe, None, socket, None, bytes, SPLICE)
}

/// `SPLICE_F_NONBLOCK` is for the pipe's end; the socket's own `O_NONBLOCK` is for the other.
/// Never `SPLICE_F_MORE`: it holds a partial segment back for up to 200 ms.
const SPLICE: SpliceFFlags = SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);

/// The address that a socket is bound to.
///
/// # Errors
/// As getsockname(2) says.
pub fn local_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    let address: SockaddrStorage = socket::getsockname(socket.as_raw_fd())?;
    to_std(&address).ok_or(Errno::EAFNOSUPPORT)
}

/// The address of a socket's peer.
///
/// # Errors
/// ENOTCONN when the connection is gone already.
pub fn peer_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    let address: SockaddrStorage = socket::getpeername(socket.as_raw_fd())?;
    to_std(&address).ok_or(Errno::EAFNOSUPPORT)
}

/// Waits until `fd` is readable or `timeout` is over, to the nanosecond; for an epoll descriptor
/// that means until it has an event to give.
///
/// # Errors
/// EINTR, ENOMEM.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: std::time::Duration) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, ppoll};
    let mut polled = [PollFd::new(fd, PollFlags::POLLIN)];
    ppoll(&mut polled, Some(timeout.into()), None)?;
    Ok(())
}

/// Bytes written to a connected TCP socket that its peer has acknowledged, modulo 2^32
/// (`tcpi_bytes_acked` of `TCP_INFO`, Linux 4.1). It only ever grows, unlike the send queue, which new
/// bytes fill as old ones leave. `None` if the socket has no connection.
pub fn acknowledged(socket: BorrowedFd<'_>) -> Option<u32> {
    #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32")]
    tcp_info(socket).map(|info| info.tcpi_bytes_acked as u32)
}

/// Whether a connection from which nothing more can be read was reset, and not ended by the peer's FIN.
/// For when the error has been told to somebody else: `taken` bytes were read from it, modulo 2^32, and
/// everything that came. Told by `TCP_INFO` (tcp(7)): a reset leaves the state `TCP_CLOSE`, and a FIN
/// takes a sequence number, so that it counts as a byte in `tcpi_bytes_received` (Linux 4.1).
pub fn was_reset(socket: BorrowedFd<'_>, taken: u32) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32")]
    tcp_info(socket).is_some_and(|info| {
        info.tcpi_state == TCP_CLOSE && info.tcpi_bytes_received as u32 == taken
    })
}

/// How a connection fared, as the kernel knows it (`TCP_INFO` of tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The smoothed round trip.
    pub rtt_micros: u32,
    /// Segments sent again, all in all.
    pub resent: u32,
    /// Segments sent and not acknowledged.
    pub unacknowledged: u32,
}

/// How a connection fared; `None` if the socket has none.
pub fn link(socket: BorrowedFd<'_>) -> Option<Link> {
    tcp_info(socket).map(|info| Link {
        rtt_micros: info.tcpi_rtt,
        resent: info.tcpi_total_retrans,
        unacknowledged: info.tcpi_unacked,
    })
}

/// What the kernel knows of a connection: `TCP_INFO` of tcp(7).
fn tcp_info(socket: BorrowedFd<'_>) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut bytes = socklen::<libc::tcp_info>();
    // SAFETY: `info` has room for `bytes` bytes, and both live through the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    // SAFETY: it was zeroed, which is a valid tcp_info, and the kernel writes no other kind.
    (result == 0).then(|| unsafe { info.assume_init() })
}

/// `TCP_CLOSE` of the kernel's tcp_states.h.
const TCP_CLOSE: u8 = 7;

/// Ends a connection without a word to its peer (`TCP_REPAIR`, Linux 3.5).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN.
#[cfg(test)]
pub fn vanish(stream: std::net::TcpStream) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: the value lives through the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            socklen::<libc::c_int>(),
        )
    };
    Errno::result(result).map(drop)
}

/// A connected pair of nonblocking stream sockets.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socket::socketpair(AddressFamily::Unix, SockType::Stream, None, FLAGS)
}

/// Bytes that a socket may hold beyond what its peer's window has room for. The kernel's own bound is
/// `tcp_wmem`, 4 MiB, and it says "writable" again only when a third of that is free: a slow reader
/// that takes 40 s for it looks dead all the while to whoever counts bytes (found by the soak, as
/// time-outs of readers that were at work), and thousands of them take gigabytes. What is on its way
/// to the peer does not count, so that no throughput is lost on a long path.
pub const UNSENT_BYTES_MAX: u32 = 512 * 1024;

/// Sets `TCP_NOTSENT_LOWAT` (tcp(7), Linux 3.12), which accepted sockets inherit.
fn bound_unsent(socket: &OwnedFd) -> Result<(), Errno> {
    set_tcp(socket, libc::TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
}

/// Sets an option of tcp(7) that nix does not know.
fn set_tcp(socket: &OwnedFd, option: libc::c_int, value: u32) -> Result<(), Errno> {
    // SAFETY: the value lives through the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            socklen::<u32>(),
        )
    };
    Errno::result(result).map(drop)
}

const FLAGS: SockFlag = SockFlag::SOCK_NONBLOCK.union(SockFlag::SOCK_CLOEXEC);

fn tcp(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    socket::socket(family, SockType::Stream, FLAGS, None)
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4(SocketAddrV4::from(*v4)));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddr::V6(SocketAddrV6::from(*v6)))
}

#[expect(clippy::cast_possible_truncation, reason = "the largest address is 128 bytes")]
const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use std::os::fd::AsFd as _;

    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn an_accepted_socket_inherits_what_its_listener_was_given() {
        let listener = listening(loopback(), 16).unwrap();
        let address = local_address(listener.as_fd()).unwrap();
        assert_eq!(accept(listener.as_fd()).unwrap_err(), Errno::EAGAIN);
        let client = TcpStream::connect(address).unwrap();
        let (accepted, peer) = accept(listener.as_fd()).unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert_eq!(peer_address(accepted.as_fd()).unwrap(), peer);
        assert!(socket::getsockopt(&accepted, sockopt::TcpNoDelay).unwrap());
        assert!(socket::getsockopt(&accepted, sockopt::OobInline).unwrap());
    }

    #[test]
    fn ipv6_works_like_ipv4() {
        let listener = listening("[::1]:0".parse().unwrap(), 16).unwrap();
        let address = local_address(listener.as_fd()).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (_accepted, peer) = accept(listener.as_fd()).unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }

    #[test]
    fn a_second_instance_is_detected_though_the_port_is_shared() {
        let first = listening(loopback(), 16).unwrap();
        let address = local_address(first.as_fd()).unwrap();
        listening(address, 16).expect("workers share the port");
        assert_eq!(bind_alone(address), Err(Errno::EADDRINUSE));
        drop(first);
        assert_eq!(bind_alone(address), Ok(()));
    }

    #[test]
    fn a_connection_can_be_dissolved_without_any_option() {
        use std::io::Read as _;
        let listener = listening(loopback(), 16).unwrap();
        let address = local_address(listener.as_fd()).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (accepted, _) = accept(listener.as_fd()).unwrap();
        dissolve(accepted.as_fd());
        drop(accepted);
        let error = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_socket_that_met_itself_is_recognised() {
        let address = std::net::TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
        let doubted = port_to_doubt(&address, None);
        assert_eq!(doubted, port_to_doubt(&address, Some(address)));
        let other = SocketAddr::from(([127, 0, 0, 1], address.port() ^ 1));
        assert_eq!(port_to_doubt(&address, Some(other)), None);
        let itself = outbound(&address, Some(address)).unwrap();
        assert_eq!(connect(itself.as_fd(), &address), Err(Errno::EINPROGRESS));
        assert_eq!(peer_address(itself.as_fd()), Ok(address));
        assert!(has_met_itself(itself.as_fd(), doubted));
        let listener = listening(loopback(), 16).unwrap();
        let address = local_address(listener.as_fd()).unwrap();
        let client = TcpStream::connect(address).unwrap();
        assert!(!has_met_itself(client.as_fd(), port_to_doubt(&address, None)));
    }

    #[test]
    fn an_outbound_socket_keeps_the_source_it_was_given() {
        let listener = listening(loopback(), 16).unwrap();
        let address = local_address(listener.as_fd()).unwrap();
        let probe = outbound(&address, Some(loopback())).unwrap();
        assert_eq!(local_address(probe.as_fd()).unwrap().port(), 0);
        let source = std::net::TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
        let bound = outbound(&address, Some(source)).unwrap();
        assert_eq!(local_address(bound.as_fd()).unwrap(), source);
    }
}
