//! The narrow waist: operations go down to an engine, completions come up from it. Data only.
//!
//! A session speaks only these words and an engine understands only these words; neither knows
//! the other. Nothing here does anything: no descriptors, no clock, no system call.
//!
//! The rules, which `session` keeps and every engine may rely on:
//!
//! 1. At most one operation per [`Slot`] of a session is in flight.
//! 2. A [`Op::Pull`] or [`Op::Greet`] is asked for only when the flow holds nothing; a [`Op::Push`],
//!    [`Op::Discard`] or [`Op::Skip`] only when it holds something.
//! 3. [`Op::Close`] is asked for once, last, and only with nothing else in flight.
//!
//! And those which every engine keeps and a session may rely on:
//!
//! 4. Every operation that has a slot completes exactly once, be it cancelled or not.
//! 5. A completion never comes for a key after the completion of its `Close`.
//! 6. A `Connect` or `Attach` that does not complete with `Done` leaves no backend socket behind.
//! 7. Would-block does not exist up here: the engine parks the operation.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::{Add, Sub};
use std::time::Duration;

use nix::errno::Errno;

/// A moment on the monotonic clock: microseconds since an arbitrary start, the same for all
/// threads of a process. Only an engine reads the clock, when a turn begins and when it is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The moment `micros` microseconds after the start of the clock.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start of the clock.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to here; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// One of the two peers of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Side {
    /// The agent that connected to us.
    Client = 0,
    /// The upstream server that we connected to.
    Backend = 1,
}

impl Side {
    /// Both sides, in index order.
    pub const ALL: [Self; 2] = [Self::Client, Self::Backend];

    /// The peer across the session.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }

    /// The flow that reads from this side.
    pub const fn outbound(self) -> Flow {
        match self {
            Self::Client => Flow::ToBackend,
            Self::Backend => Flow::ToClient,
        }
    }

    /// For tables with one entry a side.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// One direction of a session, named after where its bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Flow {
    /// From the client to the backend.
    ToBackend = 0,
    /// From the backend to the client.
    ToClient = 1,
}

impl Flow {
    /// Both flows, in index order.
    pub const ALL: [Self; 2] = [Self::ToBackend, Self::ToClient];

    /// The side that this flow reads from.
    pub const fn source(self) -> Side {
        match self {
            Self::ToBackend => Side::Client,
            Self::ToClient => Side::Backend,
        }
    }

    /// The side that this flow writes to.
    pub const fn sink(self) -> Side {
        self.source().other()
    }

    /// The opposite direction.
    pub const fn other(self) -> Self {
        match self {
            Self::ToBackend => Self::ToClient,
            Self::ToClient => Self::ToBackend,
        }
    }

    /// For tables with one entry a flow.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Names a session of one worker. The generation tells a session from an earlier one in the same
/// place, so that a late completion or timer for the earlier one is recognised and dropped.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey {
    index: u32,
    generation: u32,
}

impl SessionKey {
    /// Indices stay below this (24 bits), so that an engine can pack index, generation and its own
    /// eight bits into the 64 bits that the kernel hands back.
    pub const INDEX_LIMIT: u32 = 1 << 24;

    /// # Panics
    /// If `index` reaches [`Self::INDEX_LIMIT`].
    pub const fn new(index: u32, generation: u32) -> Self {
        assert!(index < Self::INDEX_LIMIT);
        Self { index, generation }
    }

    /// The place in the worker's table.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// How many sessions had this place before (wrapping).
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// Packs the key and eight bits of the engine's own into one word.
    pub const fn pack(self, tag: u8) -> u64 {
        (tag as u64) << 56 | (self.index as u64) << 32 | self.generation as u64
    }

    /// The key and the tag of a word made by [`Self::pack`].
    #[expect(clippy::cast_possible_truncation, reason = "takes the word apart by its bits")]
    pub const fn unpack(word: u64) -> (Self, u8) {
        let index = (word >> 32) as u32 & (Self::INDEX_LIMIT - 1);
        (Self { index, generation: word as u32 }, (word >> 56) as u8)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.index, self.generation)
    }
}

/// Which listener of the configuration a connection came through; the same number in each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u16);

/// An accepted socket that has no session yet. Only the engine that made it knows what it stands
/// for; it must be given back by `Engine::adopt` or `Engine::refuse`.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an accepted socket is adopted or refused, else it leaks"]
pub struct AcceptedSocket(u32);

impl AcceptedSocket {
    /// For engines: wraps a number that means something to the engine.
    pub const fn from_engine(number: u32) -> Self {
        Self(number)
    }

    /// For engines: the number given to [`Self::from_engine`].
    pub const fn into_engine(self) -> u32 {
        self.0
    }
}

/// A connection to a server that was made before a session asked for one. Only the engine that made it
/// knows what it stands for; it is given to a session by [`Op::Attach`] or ended by
/// `Engine::discard_spare`, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare(u32);

impl Spare {
    /// For engines: wraps a number that means something to the engine.
    pub const fn from_engine(number: u32) -> Self {
        Self(number)
    }

    /// For engines: the number given to [`Self::from_engine`].
    pub const fn into_engine(self) -> u32 {
        self.0
    }
}

/// How a spare connection fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpareState {
    /// The server has not answered yet.
    Connecting,
    /// Connected, and nothing has come from the server.
    Ready,
    /// The server has ended its stream, or has begun to speak.
    Ended,
    /// It could not be made, or was reset.
    Failed,
}

/// What a session asks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes the backend's socket and connects it. `source` is bound first (address and port) when
    /// given; otherwise the kernel chooses both. Completes with `Done`, `Failed` or `Cancelled`.
    Connect { session: SessionKey, address: SocketAddr, source: Option<SocketAddr> },
    /// Makes a spare connection the backend's. Completes in the connect's slot, with `Done` or `Failed`.
    Attach { session: SessionKey, spare: Spare },
    /// Moves bytes from the flow's source into the engine's keeping. Completes with `Moved`,
    /// `EndOfStream`, `Failed` or `Cancelled` (nothing was taken then).
    Pull { session: SessionKey, flow: Flow },
    /// A [`Op::Pull`] from the client whose bytes can be looked at before they go on, which is what
    /// `Engine::greeting` is for. What it brings stands behind what an earlier one has brought.
    Greet { session: SessionKey },
    /// Throws away the first bytes that a [`Op::Greet`] brought: they were for the relay. Has no
    /// completion.
    Skip { session: SessionKey, bytes: u32 },
    /// Moves held bytes to the flow's sink; fewer than held is usual. Completes with `Moved`,
    /// `Failed` or `Cancelled` (what was moved before is reported as `Moved` instead).
    Push { session: SessionKey, flow: Flow },
    /// Throws away what the flow holds. Has no completion.
    Discard { session: SessionKey, flow: Flow },
    /// Shuts the writing half of a side down (FIN). Has no completion: what can fail here fails
    /// again, and is seen, in the next operation on that side.
    Shutdown { session: SessionKey, side: Side },
    /// Asks the operation in a slot to end early. It completes as `Cancelled`, or with what it had
    /// come to. Finds nothing when the completion is already on its way up; that is no error.
    Cancel { session: SessionKey, slot: Slot },
    /// Ends both sockets and gives back what the session held. A side that has no socket is
    /// skipped. Completes with `Done`, after which the engine has forgotten the key.
    Close { session: SessionKey, client: CloseHow, backend: CloseHow },
}

/// How one side's socket is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseHow {
    /// close(2): a FIN, unless one was sent before.
    Orderly,
    /// `SO_LINGER {1, 0}` before close(2): a RST, so that the peer sees that something was lost.
    Reset,
}

/// Where an operation with a completion is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    Connect,
    Pull(Flow),
    Push(Flow),
    Close,
}

/// How an operation ended. "Would block" cannot be mistaken for a byte count, nor the end of a
/// stream for "nothing yet": neither is a number here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded and has no count.
    Done,
    /// This many bytes were moved.
    Moved(NonZeroU32),
    /// The source has ended its stream (FIN); nothing was moved.
    EndOfStream,
    /// The kernel refused, for this reason; nothing was moved.
    Failed(Errno),
    /// It was cancelled before it had any effect.
    Cancelled,
}

/// What came back from the kernel.
#[derive(Debug)]
pub enum Completion {
    /// A connection came in.
    Accepted { listener: ListenerId, socket: AcceptedSocket, peer: SocketAddr },
    /// accept(2) failed in a way that would only repeat itself: for want of something (EMFILE,
    /// ENFILE, ENOMEM, ENOBUFS), or because it is forbidden. The listener is no longer accepting;
    /// whoever owns it says when to try again.
    AcceptFailed { listener: ListenerId, errno: Errno },
    /// An operation ended.
    Ended { session: SessionKey, slot: Slot, outcome: Outcome },
    /// A side failed (reset, time-out) while no operation that would have told so was in flight on
    /// it. At most once a side.
    Broken { session: SessionKey, side: Side, errno: Errno },
    /// Another thread has left a message and rung the bell.
    Woken,
}

/// A version of the PROXY protocol (proxy-protocol.txt of HAProxy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text (section 2.1).
    V1,
    /// Binary (section 2.2).
    V2,
}

/// How bytes travel from one socket to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Path {
    /// Through a buffer of ours.
    Copied = 0,
    /// Through a pipe, by splice(2), without touching user memory.
    Spliced = 1,
}

impl Path {
    /// Both paths, in index order.
    pub const ALL: [Self; 2] = [Self::Copied, Self::Spliced];

    /// For tables with one entry a path.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Whether an engine may splice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SpliceMode {
    /// Each direction starts by copying, is spliced while it carries bulk, and goes back.
    #[default]
    Auto,
    /// Splice whenever a pipe can be had.
    Always,
    /// Copy, always.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_packing_with_every_bit_set() {
        let key = SessionKey::new(SessionKey::INDEX_LIMIT - 1, u32::MAX);
        assert_eq!(SessionKey::unpack(key.pack(0xa5)), (key, 0xa5));
        let first = SessionKey::new(0, 0);
        assert_eq!(SessionKey::unpack(first.pack(0)), (first, 0));
    }

    #[test]
    fn time_never_wraps() {
        assert_eq!(Time::default() - Duration::from_secs(1), Time::default());
        assert_eq!(Time::from_micros(5).since(Time::from_micros(9)), Duration::ZERO);
    }
}
