//! Carries operations to the kernel and brings completions back.
//!
//! [`Engine`] has three implementations: `epoll` on mio, `uring` on io-uring, and the simulated
//! kernel of the tests. An engine owns every descriptor, buffer and pipe of its worker's sessions;
//! what is above it counts bytes and holds keys.

mod buffers;
pub mod epoll;
mod gather;
mod listeners;
mod passed;
mod pipes;
mod readiness;
mod spares;
pub mod uring;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use crate::op::{
    AcceptedSocket, Completion, Flow, ListenerId, Op, Path, SessionKey, Side, Spare, SpareState,
    SpliceMode, Time,
};
use crate::sys::{process, socket};

pub use crate::sys::socket::Link;

/// The kernel, as a worker sees it.
pub trait Engine {
    /// Serves a listening, nonblocking socket from now on. Accepts nothing until
    /// [`Engine::accepting`] says so.
    fn listen(&mut self, listener: ListenerId, socket: OwnedFd) -> io::Result<()>;

    /// Starts or pauses accepting; the kernel's queue holds connections meanwhile. A few that were
    /// already accepted may still come up after a pause.
    fn accepting(&mut self, listener: ListenerId, on: bool);

    /// Closes this worker's reference to a listening socket. The caller has drained its queue by
    /// accepting until none came. Unknown listeners are ignored.
    fn unlisten(&mut self, listener: ListenerId);

    /// Gives an accepted socket to a session, as its client side. The key is new to the engine.
    fn adopt(&mut self, socket: AcceptedSocket, session: SessionKey);

    /// Ends an accepted socket with a reset: there is no room for it.
    fn refuse(&mut self, socket: AcceptedSocket);

    /// Takes connected pairs that other threads pass through this socket, from now on.
    fn receive(&mut self, _passage: OwnedFd) {}

    /// Gives both of its sockets to a session: the pair that was passed under this number. The key is
    /// new to the engine. False if there is none, or no room for it: nothing was adopted.
    fn adopt_pair(&mut self, _number: u64, _session: SessionKey) -> bool {
        false
    }

    /// Ends the pair that was passed under this number with resets.
    fn refuse_pair(&mut self, _number: u64) {}

    /// Whether other threads may still pass pairs.
    fn awaits_pairs(&self) -> bool {
        false
    }

    /// Begins a connection to a server that no session has asked for. It is not told how that fares.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and connect(2).
    fn prepare(
        &mut self,
        _address: SocketAddr,
        _source: Option<SocketAddr>,
    ) -> Result<Spare, Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// How a spare connection fares.
    fn spare_state(&self, _spare: Spare) -> SpareState {
        SpareState::Failed
    }

    /// Ends a spare connection that nobody has taken.
    fn discard_spare(&mut self, _spare: Spare) {}

    /// Takes an operation. Never fails, never blocks, never calls back: what goes wrong is a
    /// completion too.
    fn submit(&mut self, op: Op);

    /// What goes to the server before anything else, in the moment in which the next connect succeeds; at
    /// most as much as an empty socket takes at once. Holds until then, or until something else is said.
    fn introduce(&mut self, session: SessionKey, bytes: Option<Vec<u8>>);

    /// The address of ours at which the client has connected.
    fn destination(&self, session: SessionKey) -> Option<SocketAddr>;

    /// What the last [`Op::Greet`] of a session brought and nobody has skipped yet.
    fn greeting(&self, session: SessionKey) -> &[u8];

    /// Appends what has completed to `completions`, waiting for at least one thing to happen until
    /// `until` (for ever when `None`). The sockets are looked at in any case; nothing is waited for if
    /// something is at hand, or if `until` is not after the time returned last. Returns the time after
    /// the wait: the only clock that a worker has. `completions` may stay empty.
    fn wait(&mut self, until: Option<Time>, completions: &mut Vec<Completion>) -> io::Result<Time>;

    /// Appends what operations have completed with since, without a look at the sockets.
    fn at_hand(&mut self, _completions: &mut Vec<Completion>) {}

    /// What time it is now. For the length of a turn alone, which begins with the time that
    /// [`Engine::wait`] returned: the kernel maps its clock into every process (vdso(7)), so that this is
    /// no system call.
    fn now(&self) -> Time {
        Time::from_micros(process::monotonic_micros())
    }

    /// Bytes that a side's peer has acknowledged so far, modulo 2^32: what a push that waits for room
    /// does not tell. Zero where there is no socket.
    fn acknowledged(&mut self, session: SessionKey, side: Side) -> u32;

    /// How a side's connection has fared; `None` where there is no socket.
    fn link(&mut self, _session: SessionKey, _side: Side) -> Option<Link> {
        None
    }

    /// What it has done so far and holds now.
    fn stats(&self) -> EngineStats;
}

/// The bounds an engine works within; all memory and descriptors follow from them.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// Sessions alive at one time; keys' indices stay below it. No more connections are taken from
    /// the listeners' queues than this, those included that have no session yet.
    pub sessions_max: u32,
    /// Pipes that exist at one time, two descriptors each. None means that all is copied.
    pub pipes_max: u32,
    /// Bytes asked for each pipe (`F_SETPIPE_SZ`); the kernel may grant less.
    pub pipe_bytes: u32,
    /// When to splice.
    pub splice: SpliceMode,
    /// How long events may gather before they are looked at; zero is not at all.
    pub latency_budget: Duration,
}

/// Counts since the start, and gauges. One writer: the engine's own thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Bytes delivered to the sink, by flow and path: `bytes[flow.index()][path.index()]`.
    pub bytes: [[u64; 2]; 2],
    /// Bytes taken from a source and thrown away, because their sink had gone.
    pub bytes_discarded: u64,
    /// Pipes that exist.
    pub pipes_open: u64,
    /// Pipes with bytes inside.
    pub pipes_used: u64,
    /// Times a flow wanted to splice and copied, because no pipe could be had.
    pub pipes_missed: u64,
    /// Pipes given up because the kernel granted less than [`PIPE_BYTES_USEFUL`].
    pub pipes_small: u64,
    /// Copy buffers with bytes inside.
    pub buffers_used: u64,
    /// Times a flow had to wait because no buffer was free (ENOBUFS with a ring).
    pub buffers_missed: u64,
    /// Completions dropped because their session was gone (io_uring only).
    pub completions_stale: u64,
    /// Times the completion queue overflowed (io_uring only).
    pub queue_overflows: u64,
}

/// Sends what a server is to know first over a connection that has just been made: its socket is empty,
/// and takes all of it.
///
/// # Errors
/// Those of send(2); ENOBUFS where not all was taken, after which the connection is of no use.
fn say_first(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    match socket::send(socket, bytes) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(Errno::ENOBUFS),
        Err(errno) => Err(errno),
    }
}

/// A pipe that holds less does not pay: past `fs.pipe-user-pages-soft` an ordinary user is given
/// pipes of two pages (pipe(7)).
pub const PIPE_BYTES_USEFUL: u32 = 64 * 1024;

impl EngineStats {
    /// Bytes delivered by one path in one direction.
    pub const fn bytes_by(&self, flow: Flow, path: Path) -> u64 {
        self.bytes[flow.index()][path.index()]
    }
}
