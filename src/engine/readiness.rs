//! One direction's bytes, moved by direct calls: a pull or a push is attempted, and either has an
//! outcome or would block. Both engines use this; only how they wait for readiness differs.
//!
//! The rules of splicing (from the scars of HAProxy, h2o and sozu), asserted where they apply:
//!
//! - R1 "Nothing to read" is believed only of an empty pipe: EAGAIN also means that the pipe has no
//!   free slot, and slots are counted in fragments, not bytes.
//! - R2 A pipe is filled only when it is empty, so R1 always holds here.
//! - R3 What was pulled is pushed at once. A short send has filled its sink; a short splice may also
//!   have met a signal (a stop and its continuation, a debugger, the freezer: `splice_to_socket()`
//!   looks between its steps), after which no edge would come. So only EAGAIN says that it is full.
//! - R4 A short count is never the end of a stream. Zero is, unless an urgent byte stands there.
//! - R5 Where a socket was spliced from or to, or a receive was taken back, the end of its stream is
//!   believed only if a FIN was received. The kernel tells of a reset once, and not always to the one
//!   who reads: splice(2) to a socket writes a pipe in several steps, and when one fails after another
//!   has succeeded the error is lost (`splice_to_socket()`). A reset then looks like the end of the
//!   stream to whoever reads next. Every other call that takes the error away says so to the session.

use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;

use crate::op::{Flow, Outcome, Path, SpliceMode};
use crate::sys::pages::Pages;
use crate::sys::pipe::Pipe;
use crate::sys::socket;

use super::EngineStats;
use super::buffers::Buffers;
use super::pipes::Pipes;

/// A pull of so many bytes speaks for bulk: HAProxy and our own measurements find splicing to pay
/// from about here.
const BULK_PULL_BYTES: u32 = 16 * 1024;
/// So many of them running, and the direction is spliced.
const BULK_PULLS: i8 = 3;
/// A pull of fewer bytes speaks against: below a page the kernel copies anyway (HAProxy's limit).
const SMALL_PULL_BYTES: u32 = 4 * 1024;
/// So many of those running, and the direction is copied again.
const SMALL_PULLS: i8 = 8;

/// What a worker's flows share.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) mode: SpliceMode,
    pub(super) pipes: Pipes,
    pub(super) buffers: Buffers,
    pub(super) stats: EngineStats,
}

/// What an engine believes of a socket. Wrong only on the side of "ready".
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The end of the stream, an error or an urgent byte was signalled: a short read does not mean
    /// that the queue is empty, since no further edge may come.
    pub(super) suspect: bool,
    /// Nothing was read since readiness was last signalled.
    pub(super) fresh: bool,
    /// Somebody may have been told of a reset without a word to us: R5.
    pub(super) in_doubt: bool,
    /// Bytes taken out of it, modulo 2^32.
    pub(super) taken: u32,
}

impl Readiness {
    /// So many bytes were taken out of it.
    pub(super) const fn note_taken(&mut self, bytes: NonZeroU32) {
        self.taken = self.taken.wrapping_add(bytes.get());
    }

    /// What it means that there is nothing to read from it, and never will be: R5.
    pub(super) fn end(&self, socket: BorrowedFd<'_>) -> Outcome {
        if self.in_doubt && socket::was_reset(socket, self.taken) {
            return Outcome::Failed(Errno::ECONNRESET);
        }
        Outcome::EndOfStream
    }
}

/// How an attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Ended(Outcome),
    WouldBlock,
}

/// What a flow holds.
#[derive(Debug, Default)]
enum Store {
    #[default]
    Empty,
    Buffer {
        pages: Pages,
        from: u32,
        to: u32,
    },
    Pipe {
        pipe: Pipe,
        held: u32,
    },
}

/// One direction as an engine keeps it.
#[derive(Debug, Default)]
pub(super) struct FlowState {
    store: Store,
    policy: PathPolicy,
    /// What is pulled next will be looked at, so it must not go through a pipe.
    in_sight: bool,
}

impl FlowState {
    /// The path that the next pull should take.
    pub(super) const fn path(&self, mode: SpliceMode) -> Path {
        if self.in_sight { Path::Copied } else { self.policy.path(mode) }
    }

    /// Whether what is pulled next will be looked at.
    pub(super) const fn keep_in_sight(&mut self, on: bool) {
        self.in_sight = on;
    }

    pub(super) const fn is_in_sight(&self) -> bool {
        self.in_sight
    }

    /// Whether there are bytes to push.
    pub(super) const fn is_holding(&self) -> bool {
        !matches!(self.store, Store::Empty)
    }

    /// What is held, where it can be looked at.
    pub(super) fn in_sight(&self) -> &[u8] {
        match &self.store {
            Store::Buffer { pages, from, to } => &pages[*from as usize..*to as usize],
            Store::Empty | Store::Pipe { .. } => &[],
        }
    }

    /// Throws away the first bytes of what is held.
    pub(super) fn skip(&mut self, bytes: u32, means: &mut Means) {
        means.stats.bytes_discarded += u64::from(bytes);
        self.take(bytes, means);
    }

    /// Another path than these attempts has brought so many bytes.
    pub(super) const fn note_pulled(&mut self, bytes: u32) {
        self.policy.on_pulled(bytes);
    }

    /// Reads what the source has.
    pub(super) fn pull(
        &mut self,
        source: BorrowedFd<'_>,
        ready: &mut Readiness,
        means: &mut Means,
    ) -> Attempt {
        let may_pull = self.in_sight || matches!(self.store, Store::Empty);
        assert!(may_pull, "R2: pulled into an empty store only");
        if self.path(means.mode) == Path::Spliced
            && let Some(pipe) = means.pipes.borrow()
        {
            return self.pull_into_pipe(pipe, source, ready, means);
        }
        self.pull_into_buffer(source, ready, means)
    }

    fn pull_into_pipe(
        &mut self,
        pipe: Pipe,
        source: BorrowedFd<'_>,
        ready: &mut Readiness,
        means: &mut Means,
    ) -> Attempt {
        let room = pipe.bytes as usize;
        ready.in_doubt = true;
        match again(|| socket::splice_in(source, pipe.writer.as_fd(), room)) {
            Ok(bytes) => match moved(bytes) {
                Some(bytes) => {
                    ready.fresh = false;
                    ready.note_taken(bytes);
                    self.policy.on_pulled(bytes.get());
                    self.store = Store::Pipe { pipe, held: bytes.get() };
                    Attempt::Ended(Outcome::Moved(bytes))
                }
                // The end, or an urgent byte with the end behind it: only recv(2) tells.
                None => {
                    means.pipes.give_back(pipe, 0);
                    self.pull_into_buffer(source, ready, means)
                }
            },
            Err(Errno::EAGAIN) => {
                means.pipes.give_back(pipe, 0);
                if ready.fresh || ready.suspect {
                    // Said to be readable, and an empty pipe takes nothing: splice stops at an
                    // urgent byte, recv does not. One that came along with the bytes before it
                    // was signalled with them, and will not be again.
                    return self.pull_into_buffer(source, ready, means);
                }
                ready.readable = false;
                Attempt::WouldBlock
            }
            Err(errno) => {
                means.pipes.give_back(pipe, 0);
                Attempt::Ended(Outcome::Failed(errno))
            }
        }
    }

    fn pull_into_buffer(
        &mut self,
        source: BorrowedFd<'_>,
        ready: &mut Readiness,
        means: &mut Means,
    ) -> Attempt {
        // What is in sight already stays before what comes.
        let (mut pages, from, before) = match std::mem::take(&mut self.store) {
            Store::Buffer { pages, from, to } => (pages, from, to),
            _ => match means.buffers.borrow() {
                Some(pages) => (pages, 0, 0),
                None => return Attempt::Ended(Outcome::Failed(Errno::ENOMEM)),
            },
        };
        let room = means.buffers.room() - before as usize;
        let result = again(|| socket::recv(source, &mut pages[before as usize..][..room]));
        if let Ok(bytes) = result
            && let Some(bytes) = moved(bytes)
        {
            // A short read has emptied the queue, and what comes later is signalled again.
            ready.readable = ready.suspect || bytes.get() as usize == room;
            ready.fresh = false;
            ready.note_taken(bytes);
            self.policy.on_pulled(bytes.get());
            self.store = Store::Buffer { pages, from, to: before + bytes.get() };
            return Attempt::Ended(Outcome::Moved(bytes));
        }
        if before > 0 {
            self.store = Store::Buffer { pages, from, to: before };
        } else {
            means.buffers.give_back(pages);
        }
        match result {
            Ok(_) => Attempt::Ended(ready.end(source)),
            Err(Errno::EAGAIN) => {
                ready.readable = false;
                Attempt::WouldBlock
            }
            Err(errno) => Attempt::Ended(Outcome::Failed(errno)),
        }
    }

    /// Writes what the sink takes.
    pub(super) fn push(
        &mut self,
        flow: Flow,
        sink: BorrowedFd<'_>,
        ready: &mut Readiness,
        means: &mut Means,
    ) -> Attempt {
        let (result, held, path) = match &self.store {
            Store::Empty => unreachable!("pushed with nothing held (op rule 2)"),
            Store::Buffer { pages, from, to } => {
                let bytes = &pages[*from as usize..*to as usize];
                (again(|| socket::send(sink, bytes)), to - from, Path::Copied)
            }
            Store::Pipe { pipe, held } => {
                // Exactly what is inside: asked for more, the kernel may hold the last segment.
                let all = *held as usize;
                ready.in_doubt = true;
                let out = || socket::splice_out(pipe.reader.as_fd(), sink, all);
                (again(out), *held, Path::Spliced)
            }
        };
        match result.map(moved) {
            Ok(Some(bytes)) => {
                ready.writable = bytes.get() == held || path == Path::Spliced; // R3
                means.stats.bytes[flow.index()][path.index()] += u64::from(bytes.get());
                self.take(bytes.get(), means);
                Attempt::Ended(Outcome::Moved(bytes))
            }
            Ok(None) | Err(Errno::EAGAIN) => {
                ready.writable = false;
                Attempt::WouldBlock
            }
            Err(errno) => Attempt::Ended(Outcome::Failed(errno)),
        }
    }

    /// Takes `bytes` out of the store, which gives up what it has borrowed when it is empty.
    fn take(&mut self, bytes: u32, means: &mut Means) {
        let left = match &mut self.store {
            Store::Empty => 0,
            Store::Buffer { from, to, .. } => {
                *from += bytes;
                *to - *from
            }
            Store::Pipe { held, .. } => {
                *held -= bytes;
                *held
            }
        };
        if left == 0 {
            self.empty(means);
        }
    }

    /// Throws away what is held, and says how much that was.
    pub(super) fn discard(&mut self, means: &mut Means) -> u32 {
        let held = match &self.store {
            Store::Empty => 0,
            Store::Buffer { from, to, .. } => to - from,
            Store::Pipe { held, .. } => *held,
        };
        means.stats.bytes_discarded += u64::from(held);
        self.empty(means);
        held
    }

    fn empty(&mut self, means: &mut Means) {
        match std::mem::take(&mut self.store) {
            Store::Empty => {}
            Store::Buffer { pages, .. } => means.buffers.give_back(pages),
            Store::Pipe { pipe, held } => means.pipes.give_back(pipe, held),
        }
    }
}

/// Splice or copy, decided anew after each pull, with a memory so that it does not flap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PathPolicy {
    splicing: bool,
    /// Pulls in a row that spoke for the other path.
    against: i8,
}

impl PathPolicy {
    pub(super) const fn path(self, mode: SpliceMode) -> Path {
        match mode {
            SpliceMode::Always => Path::Spliced,
            SpliceMode::Never => Path::Copied,
            SpliceMode::Auto if self.splicing => Path::Spliced,
            SpliceMode::Auto => Path::Copied,
        }
    }

    pub(super) const fn on_pulled(&mut self, bytes: u32) {
        let (speaks_against, limit) = if self.splicing {
            (bytes < SMALL_PULL_BYTES, SMALL_PULLS)
        } else {
            (bytes >= BULK_PULL_BYTES, BULK_PULLS)
        };
        self.against = if speaks_against { self.against + 1 } else { 0 };
        if self.against >= limit {
            *self = Self { splicing: !self.splicing, against: 0 };
        }
    }
}

/// A count that cannot be zero, or the end.
fn moved(bytes: usize) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(bytes).expect("no call moves more than a pipe or a buffer holds"))
}

fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};
    use std::os::fd::{AsRawFd as _, OwnedFd};
    use std::time::Duration;

    use nix::sys::socket::MsgFlags;

    use super::*;

    #[test]
    fn bulk_is_spliced_after_a_few_pulls_and_copied_again_after_many_small_ones() {
        let mut policy = PathPolicy::default();
        for _ in 0..BULK_PULLS {
            assert_eq!(policy.path(SpliceMode::Auto), Path::Copied);
            policy.on_pulled(BULK_PULL_BYTES);
        }
        for _ in 0..SMALL_PULLS {
            assert_eq!(policy.path(SpliceMode::Auto), Path::Spliced);
            policy.on_pulled(100);
        }
        assert_eq!(policy.path(SpliceMode::Auto), Path::Copied);
    }

    #[test]
    fn what_is_neither_changes_nothing() {
        let mut policy = PathPolicy::default();
        for _ in 0..100 {
            policy.on_pulled(BULK_PULL_BYTES);
            policy.on_pulled(BULK_PULL_BYTES - 1);
        }
        assert_eq!(policy, PathPolicy::default());
    }

    /// Both were there when readiness was signalled, once, as an edge-triggered poll does.
    #[test]
    fn an_urgent_byte_that_came_with_the_bytes_before_it_is_pulled_too() {
        let listener = socket::listening(SocketAddr::from(([127, 0, 0, 1], 0)), 1).unwrap();
        let client = TcpStream::connect(socket::local_address(listener.as_fd()).unwrap()).unwrap();
        nix::sys::socket::send(client.as_raw_fd(), b"plain", MsgFlags::empty()).unwrap();
        nix::sys::socket::send(client.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
        socket::wait_readable(listener.as_fd(), Duration::from_secs(10)).unwrap();
        let (source, _) = socket::accept(listener.as_fd()).unwrap();
        let mut means = Means {
            mode: SpliceMode::Always,
            pipes: Pipes::new(1, super::super::PIPE_BYTES_USEFUL),
            buffers: Buffers::default(),
            stats: EngineStats::default(),
        };
        let mut ready = Readiness {
            readable: true,
            suspect: true,
            fresh: true,
            writable: true,
            ..Readiness::default()
        };
        let mut flow = FlowState::default();
        for bytes in [5, 1] {
            let pulled = flow.pull(source.as_fd(), &mut ready, &mut means);
            let moved = Outcome::Moved(NonZeroU32::new(bytes).unwrap());
            assert_eq!(pulled, Attempt::Ended(moved));
            assert_eq!(flow.discard(&mut means), bytes);
        }
        assert_eq!(flow.pull(source.as_fd(), &mut ready, &mut means), Attempt::WouldBlock);
    }

    /// R5. The peer vanishes without a word, so that the first bytes of a splice are answered by a
    /// reset before the last are written.
    #[test]
    fn a_reset_that_splice_has_swallowed_is_no_end_of_the_stream() {
        let (sink, peer) = connected();
        let mut means = Means {
            mode: SpliceMode::Always,
            pipes: Pipes::new(1, 4 * super::super::PIPE_BYTES_USEFUL),
            buffers: Buffers::default(),
            stats: EngineStats::default(),
        };
        nix::sys::socket::send(peer.as_raw_fd(), b"answer", MsgFlags::empty()).unwrap();
        let mut ready = Readiness { readable: true, writable: true, ..Readiness::default() };
        let mut backward = FlowState::default();
        socket::wait_readable(sink.as_fd(), Duration::from_secs(10)).unwrap();
        let pulled = backward.pull(sink.as_fd(), &mut ready, &mut means);
        assert_eq!(pulled, Attempt::Ended(Outcome::Moved(NonZeroU32::new(6).unwrap())));
        backward.discard(&mut means);
        if let Err(errno) = socket::vanish(peer) {
            assert_eq!(errno, Errno::EPERM, "only root may let a socket vanish");
            return;
        }
        // More than the sixteen slots that one step of a splice takes: bytes that lie side by side in
        // memory are one slot, so others are sent in between.
        let (source, feeder) = connected();
        let (_keeps, apart) = connected();
        for _ in 0..60 {
            nix::sys::socket::send(feeder.as_raw_fd(), &[1; 4000], MsgFlags::empty()).unwrap();
            nix::sys::socket::send(apart.as_raw_fd(), &[1; 100], MsgFlags::empty()).unwrap();
        }
        let mut forward = FlowState::default();
        let mut source_ready = Readiness { readable: true, ..Readiness::default() };
        socket::wait_readable(source.as_fd(), Duration::from_secs(10)).unwrap();
        let pulled = forward.pull(source.as_fd(), &mut source_ready, &mut means);
        let Attempt::Ended(Outcome::Moved(held)) = pulled else { panic!("{pulled:?}") };
        let pushed = forward.push(Flow::ToBackend, sink.as_fd(), &mut ready, &mut means);
        let Attempt::Ended(Outcome::Moved(moved)) = pushed else { panic!("{pushed:?}") };
        assert!(moved < held, "the splice of {held} bytes was not interrupted");
        ready.readable = true;
        let end = backward.pull(sink.as_fd(), &mut ready, &mut means);
        assert_eq!(end, Attempt::Ended(Outcome::Failed(Errno::ECONNRESET)));
        forward.discard(&mut means);
    }

    /// Both ends of a connection.
    fn connected() -> (OwnedFd, TcpStream) {
        use nix::sys::socket::{setsockopt, sockopt};
        let listener = socket::listening(SocketAddr::from(([127, 0, 0, 1], 0)), 1).unwrap();
        // Room for all that is sent, from the start.
        setsockopt(&listener, sockopt::RcvBuf, &(512 * 1024)).unwrap();
        let client = TcpStream::connect(socket::local_address(listener.as_fd()).unwrap()).unwrap();
        socket::wait_readable(listener.as_fd(), Duration::from_secs(10)).unwrap();
        (socket::accept(listener.as_fd()).unwrap().0, client)
    }

    #[test]
    fn always_and_never_mean_it() {
        for policy in
            [PathPolicy { splicing: true, against: 0 }, PathPolicy { splicing: false, against: 0 }]
        {
            assert_eq!(policy.path(SpliceMode::Always), Path::Spliced);
            assert_eq!(policy.path(SpliceMode::Never), Path::Copied);
        }
    }
}
