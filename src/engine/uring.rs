//! The engine on io_uring.
//!
//! Small traffic is copied by the ring alone: a multishot receive a socket, buffers that the kernel
//! picks, one send in flight a flow. An exchange over a kept connection costs no system call but
//! `io_uring_enter`, and one of those serves all sessions of a turn.
//!
//! Bulk is spliced. `IORING_OP_SPLICE` always runs on a kernel worker thread
//! (`__io_splice_prep` forces it), so the ring only waits for readiness here and splice(2) is called
//! directly, as the epoll engine does. The same direct path serves a flow that finds the ring's
//! buffers used up: slow readers may hold them all, and must not starve their neighbours.
//!
//! A session's sockets are closed when none of its requests is in the kernel any more: a request
//! holds a reference to its file, so that close(2) alone would not even send the FIN.

mod close;
mod connecting;
mod greeting;
mod inbox;
mod listening;
mod probe;
mod state;
mod unheard;
mod watching;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc::{POLLIN, POLLRDHUP};

use crate::op::{
    AcceptedSocket, Completion, Flow, ListenerId, Op, Outcome, Path, SessionKey, Side, Slot, Spare,
    SpareState, Time,
};
use crate::sys::process::{self, Bell};
use crate::sys::ring::{Answer, Patience, Ring};
use crate::sys::socket;

use super::buffers::Buffers;
use super::gather::Gather;
use super::listeners::Listeners;
use super::passed::Passed;
use super::pipes::Pipes;
use super::readiness::{Attempt, Means};
use super::spares::Spares;
use super::{Engine, EngineLimits, EngineStats, Link};

use inbox::Links;
pub use probe::{Unfit, probe};
use state::{Held, Kind, Peer, Receive, SessionState};
use unheard::Unheard;

/// Received buffers that a side may have waiting while its flow does not pull; then the receive is
/// ended, the kernel's window closes, and the sender waits.
const INBOX_MAX: u16 = 4;
/// With fewer free buffers than this, flows are served by direct calls instead.
const BUFFERS_LOW: u16 = 64;

const NOBODY: SessionKey = SessionKey::new(0, 0);

/// The engine.
#[derive(Debug)]
pub struct Uring {
    ring: Ring,
    bell: Arc<Bell>,
    listeners: Listeners,
    passed: Passed,
    spares: Spares,
    unheard: Unheard,
    /// Sessions whose descriptors are closed with the next submission.
    leaving: u32,
    sessions: Vec<SessionState>,
    links: Links,
    means: Means,
    done: Vec<Completion>,
    answers: Vec<Answer>,
    gather: Gather,
    /// The time that was told last.
    told: Time,
}

impl Uring {
    /// An engine of the calling thread; `bell` wakes it.
    ///
    /// # Errors
    /// As [`probe`] would say.
    pub fn new(limits: EngineLimits, bell: Arc<Bell>) -> io::Result<Self> {
        let mut ring = Ring::new()?;
        ring.poll_all(bell.as_fd(), POLLIN, Kind::Bell.word(NOBODY, Side::Client));
        Ok(Self {
            ring,
            bell,
            listeners: Listeners::new(limits.sessions_max),
            passed: Passed::default(),
            spares: Spares::default(),
            unheard: Unheard::default(),
            leaving: 0,
            sessions: Vec::new(),
            links: Links::default(),
            means: Means {
                mode: limits.splice,
                pipes: Pipes::new(limits.pipes_max, limits.pipe_bytes),
                buffers: Buffers::default(),
                stats: EngineStats::default(),
            },
            done: Vec::new(),
            answers: Vec::new(),
            gather: Gather::new(limits.latency_budget),
            told: Time::default(),
        })
    }

    /// The state of a session that is new here.
    fn begin(&mut self, key: SessionKey) -> &mut SessionState {
        if key.index() >= self.sessions.len() {
            self.sessions.resize_with(key.index() + 1, SessionState::default);
        }
        let state = &mut self.sessions[key.index()];
        state.generation = key.generation();
        state.introduction = None;
        state
    }

    fn complete(&mut self, session: SessionKey, slot: Slot, outcome: Outcome) {
        self.done.push(Completion::Ended { session, slot, outcome });
    }

    /// Gives a parked pull what there is, or sees to it that something will come.
    fn try_pull(&mut self, key: SessionKey, flow: Flow) {
        let session = &mut self.sessions[key.index()];
        let direction = &mut session.flows[flow.index()];
        let source = &mut session.sides[flow.source().index()];
        if !direction.pulling {
            return;
        }
        let outcome = if let Some((buffer, bytes)) = source.inbox.pop(&mut self.links) {
            direction.held = Some(Held { buffer, from: 0, to: bytes.get() });
            direction.state.note_pulled(bytes.get());
            Outcome::Moved(bytes)
        } else if let Some(end) = source.end.take() {
            end
        } else {
            return self.fetch(key, flow);
        };
        direction.pulling = false;
        self.complete(key, Slot::Pull(flow), outcome);
    }

    /// Nothing is at hand for a parked pull: receives by the path that is due.
    fn fetch(&mut self, key: SessionKey, flow: Flow) {
        let side = flow.source();
        let session = &mut self.sessions[key.index()];
        let source = &mut session.sides[side.index()];
        let direction = &mut session.flows[flow.index()];
        let Some(socket) = &source.socket else { return };
        let splice = direction.state.path(self.means.mode) == Path::Spliced;
        let direct =
            splice || direction.state.is_in_sight() || self.ring.buffers_free() < BUFFERS_LOW;
        match source.receive {
            Receive::Idle if !direct => self.fetch_by_ring(key, flow),
            // Direct calls would overtake what the ring has received.
            Receive::Armed if splice => self.end_receive(key, side),
            Receive::Armed | Receive::Cancelling => {}
            Receive::Idle if source.polling_in => {}
            Receive::Idle => {
                let fd = socket.as_fd();
                if source.ready.readable
                    && let Attempt::Ended(outcome) =
                        direction.state.pull(fd, &mut source.ready, &mut self.means)
                {
                    direction.pulling = false;
                    self.complete(key, Slot::Pull(flow), outcome);
                    return self.watch_unread(key, side);
                }
                source.polling_in = true;
                session.in_flight += 1;
                self.ring.poll(fd, POLLIN | POLLRDHUP, Kind::PollIn.word(key, side));
            }
        }
    }

    /// Has the ring receive all that comes. Before there is a server, what is there already is read at
    /// once, so that the connect can know that it will be followed by bytes.
    fn fetch_by_ring(&mut self, key: SessionKey, flow: Flow) {
        let side = flow.source();
        let session = &mut self.sessions[key.index()];
        let first = session.sides[Side::Backend.index()].socket.is_none();
        let direction = &mut session.flows[flow.index()];
        let source = &mut session.sides[side.index()];
        let Some(socket) = &source.socket else { return };
        let fd = socket.as_fd();
        let attempt = if first {
            direction.state.pull(fd, &mut source.ready, &mut self.means)
        } else {
            Attempt::WouldBlock
        };
        if let Attempt::Ended(outcome) = attempt {
            direction.pulling = false;
            self.complete(key, Slot::Pull(flow), outcome);
            if !matches!(outcome, Outcome::Moved(_)) {
                return self.watch_unread(key, side);
            }
        }
        let session = &mut self.sessions[key.index()];
        let source = &mut session.sides[side.index()];
        let Some(socket) = &source.socket else { return };
        source.receive = Receive::Armed;
        session.in_flight += 1;
        self.ring.recv_all(socket.as_fd(), Kind::Recv.word(key, side));
    }

    /// Has the ring receive no more; the receive's last answer says when that is so.
    fn end_receive(&mut self, key: SessionKey, side: Side) {
        let peer = &mut self.sessions[key.index()].sides[side.index()];
        peer.receive = Receive::Cancelling;
        peer.ready.in_doubt = true;
        let target = Kind::Recv.word(key, side);
        self.ring.cancel(target, Kind::Other.word(key, side));
    }

    /// A cancellation found nothing. That of a receive is repeated until the receive has ended: the kernel
    /// does not find one that it has queued to run again (ENOENT; `io_req_task_queue()`, where a socket
    /// became readable as it was to be waited for, and `IOU_REQUEUE` after 32 receives in a row), and it
    /// goes on.
    fn on_cancel_missed(&mut self, key: SessionKey, side: Side) {
        let session = self.sessions.get(key.index());
        let session = session.filter(|session| session.generation == key.generation());
        let cancelling =
            |session: &SessionState| session.sides[side.index()].receive == Receive::Cancelling;
        if session.is_some_and(cancelling) {
            self.end_receive(key, side);
        }
    }

    /// Carries a parked push on, by the path that holds its bytes.
    fn try_push(&mut self, key: SessionKey, flow: Flow) {
        let session = &mut self.sessions[key.index()];
        let direction = &mut session.flows[flow.index()];
        let sink = &mut session.sides[flow.sink().index()];
        let Some(socket) = &sink.socket else { return };
        if !direction.pushing || direction.sending {
            return;
        }
        if !sink.ready.writable {
            return self.await_room(key, flow);
        }
        let fd = socket.as_fd();
        if let Some(Held { buffer, from, to }) = direction.held {
            direction.sending = true;
            session.in_flight += 1;
            return self.ring.send(fd, buffer, from, to, Kind::Send.word(key, flow.sink()));
        }
        match direction.state.push(flow, fd, &mut sink.ready, &mut self.means) {
            Attempt::Ended(outcome) => {
                direction.pushing = false;
                self.complete(key, Slot::Push(flow), outcome);
            }
            Attempt::WouldBlock => self.await_room(key, flow),
        }
    }

    fn cancel(&mut self, key: SessionKey, slot: Slot) {
        let session = &mut self.sessions[key.index()];
        match slot {
            Slot::Connect if session.connecting => {
                let target = Kind::Connect.word(key, Side::Backend);
                self.ring.cancel(target, Kind::Other.word(key, Side::Backend));
            }
            Slot::Pull(flow) => {
                if std::mem::take(&mut session.flows[flow.index()].pulling) {
                    self.complete(key, slot, Outcome::Cancelled);
                }
            }
            Slot::Push(flow) => {
                let direction = &mut session.flows[flow.index()];
                // A send never waits: it is answered with what it came to.
                if std::mem::take(&mut direction.pushing) && !direction.sending {
                    self.complete(key, slot, Outcome::Cancelled);
                }
            }
            Slot::Connect | Slot::Close => {}
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        let (key, tag) = SessionKey::unpack(answer.word);
        let side = Side::ALL[usize::from(tag & 1)];
        match Kind::of(tag) {
            Kind::Listener => return self.on_listener(key.index(), answer),
            Kind::Bell => return self.on_bell(answer),
            Kind::Other => return self.on_cancel_missed(key, side),
            _ => {}
        }
        let session = self.sessions.get_mut(key.index());
        let Some(session) = session.filter(|session| session.generation == key.generation()) else {
            // Cannot be, since a close waits for all answers; a buffer would be lost for good.
            self.means.stats.completions_stale += 1;
            if let Some(buffer) = answer.buffer {
                self.ring.give_back(buffer);
            }
            return;
        };
        if !answer.more {
            session.in_flight -= 1;
        }
        match Kind::of(tag) {
            Kind::Recv => self.on_received(key, side, answer),
            Kind::Send => self.on_sent(key, side.other().outbound(), answer.result),
            Kind::PollIn => self.on_readable(key, side),
            Kind::Watch => self.on_watched(key, side, answer),
            _ => self.on_connected(key, answer.result),
        }
        self.finish_close(key);
    }

    fn on_received(&mut self, key: SessionKey, side: Side, answer: Answer) {
        let peer = &mut self.sessions[key.index()].sides[side.index()];
        if !answer.more {
            // Whatever the reason, it is armed again when the flow pulls and nothing is left.
            peer.receive = Receive::Idle;
        }
        match (answer.result.map(NonZeroU32::new), answer.buffer) {
            (Ok(Some(bytes)), Some(buffer)) => {
                peer.ready.note_taken(bytes);
                peer.inbox.push(buffer, bytes, &mut self.links);
                if answer.more {
                    self.note_bytes(key, side);
                }
            }
            (other, unused) => {
                if let Some(buffer) = unused {
                    self.ring.give_back(buffer);
                }
                match other {
                    Ok(_) => {
                        let end = |socket: &OwnedFd| peer.ready.end(socket.as_fd());
                        peer.end = peer.socket.as_ref().map(end);
                    }
                    Err(Errno::ENOBUFS) => self.means.stats.buffers_missed += 1,
                    Err(Errno::ECANCELED) => {}
                    Err(errno) => peer.end = Some(Outcome::Failed(errno)),
                }
            }
        }
        let session = &mut self.sessions[key.index()];
        // The direct path may follow, and does not know what the ring has seen.
        session.sides[side.index()].ready.readable = true;
        if session.closing.is_some() {
            return;
        }
        self.try_pull(key, side.outbound());
        self.mind_what_is_not_pulled(key, side);
    }

    /// The flow does not pull: bounds what waits for it, and tells of a failure that no pull tells.
    fn mind_what_is_not_pulled(&mut self, key: SessionKey, side: Side) {
        let session = &mut self.sessions[key.index()];
        let peer = &mut session.sides[side.index()];
        if let Some(Outcome::Failed(errno)) = peer.end
            && !session.flows[side.outbound().index()].pulling
        {
            peer.end = None;
            self.done.push(Completion::Broken { session: key, side, errno });
        } else if peer.receive == Receive::Armed && peer.inbox.len() >= INBOX_MAX {
            self.end_receive(key, side);
        } else {
            self.watch_unread(key, side);
        }
    }

    fn on_sent(&mut self, key: SessionKey, flow: Flow, result: Result<u32, Errno>) {
        let session = &mut self.sessions[key.index()];
        let direction = &mut session.flows[flow.index()];
        let ready = &mut session.sides[flow.sink().index()].ready;
        direction.sending = false;
        let outcome = match result.map(NonZeroU32::new) {
            Ok(Some(bytes)) => {
                self.means.stats.bytes[flow.index()][Path::Copied.index()] +=
                    u64::from(bytes.get());
                ready.writable = false;
                if let Some(held) = &mut direction.held {
                    held.from += bytes.get();
                    if held.from == held.to {
                        ready.writable = true;
                        self.ring.give_back(held.buffer);
                        direction.held = None;
                    }
                }
                Outcome::Moved(bytes)
            }
            Ok(None) | Err(Errno::EAGAIN) => {
                ready.writable = false;
                if direction.pushing {
                    return self.try_push(key, flow);
                }
                Outcome::Cancelled
            }
            Err(errno) => Outcome::Failed(errno),
        };
        direction.pushing = false;
        self.complete(key, Slot::Push(flow), outcome);
    }

    fn on_readable(&mut self, key: SessionKey, side: Side) {
        let session = &mut self.sessions[key.index()];
        let peer = &mut session.sides[side.index()];
        peer.polling_in = false;
        peer.ready.readable = true;
        peer.ready.fresh = true;
        if session.closing.is_some() {
            return;
        }
        self.try_pull(key, side.outbound());
        self.watch_unread(key, side);
    }

    /// Looks at what has come back, `at_once` or when it pays. How much that was, and whether it rested
    /// before.
    fn look(&mut self, until: Option<Time>, at_once: bool) -> io::Result<(usize, bool)> {
        let is_busy = !self.done.is_empty() || self.listeners.has_backlog(self.leaving);
        let may_rest = !at_once && !is_busy && self.gather.is_dense();
        let pause = if may_rest { self.gather.pause(now(), until) } else { None };
        let patience = match (pause, until) {
            (Some(pause), _) => Patience::Rest(pause),
            (None, _) if is_busy => Patience::None,
            (None, until) => Patience::Answer(until.map(|until| until.since(now()))),
        };
        let found = self.enter(patience)?;
        Ok((found, pause.is_some()))
    }

    /// Submits, waits and hears what has come back: so many answers.
    fn enter(&mut self, patience: Patience) -> io::Result<usize> {
        let mut answers = std::mem::take(&mut self.answers);
        // Whoever was stopped and goes on is told of an interruption first.
        if !self.ring.enter(patience, &mut answers)? && answers.is_empty() {
            self.ring.enter(Patience::None, &mut answers)?;
        }
        for _ in 0..std::mem::take(&mut self.leaving) {
            self.listeners.leave();
        }
        let found = answers.len();
        for answer in answers.drain(..) {
            self.on_answer(answer);
        }
        self.answers = answers;
        self.listeners.accept(&mut self.done);
        Ok(found)
    }
}

impl Engine for Uring {
    fn listen(&mut self, listener: ListenerId, socket: OwnedFd) -> io::Result<()> {
        self.listeners.add(listener, socket);
        self.poll_listener(usize::from(listener.0));
        Ok(())
    }

    fn accepting(&mut self, listener: ListenerId, on: bool) {
        self.listeners.accepting(listener, on);
    }

    fn unlisten(&mut self, listener: ListenerId) {
        let target = Kind::Listener.word(SessionKey::new(listener.0.into(), 0), Side::Client);
        self.ring.cancel(target, Kind::Other.word(NOBODY, Side::Client));
        self.listeners.remove(listener);
    }

    fn adopt(&mut self, socket: AcceptedSocket, session: SessionKey) {
        let socket = self.listeners.take(socket);
        self.begin(session).sides[Side::Client.index()] = Peer::of(socket);
    }

    fn refuse(&mut self, socket: AcceptedSocket) {
        let socket = self.listeners.take(socket);
        self.listeners.leave();
        socket::reset_on_close(socket.as_fd());
    }

    fn receive(&mut self, passage: OwnedFd) {
        self.passed.open(passage);
    }

    fn adopt_pair(&mut self, number: u64, session: SessionKey) -> bool {
        let pair = self.passed.enter(number, &mut self.listeners);
        pair.map(|pair| self.begin(session).sides = pair.map(Peer::of)).is_some()
    }

    fn awaits_pairs(&self) -> bool {
        self.passed.is_open()
    }

    fn refuse_pair(&mut self, number: u64) {
        self.passed.refuse(number);
    }

    fn prepare(&mut self, address: SocketAddr, source: Option<SocketAddr>) -> Result<Spare, Errno> {
        self.spares.prepare(address, source)
    }

    fn spare_state(&self, spare: Spare) -> SpareState {
        self.spares.state(spare)
    }

    fn discard_spare(&mut self, spare: Spare) {
        self.spares.discard(spare);
    }

    fn submit(&mut self, op: Op) {
        match op {
            Op::Connect { session, address, source } => self.connect(session, address, source),
            Op::Attach { session, spare } => self.attach(session, spare),
            Op::Pull { session, flow } => self.pull(session, flow, false),
            Op::Greet { session } => self.pull(session, Flow::ToBackend, true),
            Op::Skip { session, bytes } => self.skip(session, bytes),
            Op::Push { session, flow } => {
                self.sessions[session.index()].flows[flow.index()].pushing = true;
                self.try_push(session, flow);
            }
            Op::Discard { session, flow } => self.discard(session, flow),
            Op::Shutdown { session, side } => {
                if let Some(socket) = &self.sessions[session.index()].sides[side.index()].socket {
                    // A connection that is gone says so in its next operation.
                    let _ = socket::shutdown_write(socket.as_fd());
                }
            }
            Op::Cancel { session, slot } => self.cancel(session, slot),
            Op::Close { session, client, backend } => self.begin_close(session, [client, backend]),
        }
    }

    fn introduce(&mut self, session: SessionKey, bytes: Option<Vec<u8>>) {
        self.sessions[session.index()].introduction = bytes.map(Vec::into_boxed_slice);
    }

    fn destination(&self, session: SessionKey) -> Option<SocketAddr> {
        let client = &self.sessions[session.index()].sides[Side::Client.index()];
        socket::local_address(client.socket.as_ref()?.as_fd()).ok()
    }

    fn greeting(&self, session: SessionKey) -> &[u8] {
        self.in_sight(session)
    }

    fn wait(&mut self, until: Option<Time>, completions: &mut Vec<Completion>) -> io::Result<Time> {
        // Who asks for a moment that is past wants to know what is there now.
        let at_once = until.is_some_and(|until| until <= self.told);
        let until = until.into_iter().chain(self.unheard.next()).min();
        let (found, rested) = self.look(until, at_once)?;
        self.told = now();
        self.gather.note(self.told, found, rested);
        completions.append(&mut self.done);
        self.find_unheard();
        Ok(self.told)
    }

    fn at_hand(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.done);
    }

    fn acknowledged(&mut self, session: SessionKey, side: Side) -> u32 {
        let socket = &self.sessions[session.index()].sides[side.index()].socket;
        socket.as_ref().and_then(|socket| socket::acknowledged(socket.as_fd())).unwrap_or_default()
    }

    fn link(&mut self, session: SessionKey, side: Side) -> Option<Link> {
        let socket = &self.sessions[session.index()].sides[side.index()].socket;
        socket.as_ref().and_then(|socket| socket::link(socket.as_fd()))
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            pipes_open: self.means.pipes.open(),
            pipes_used: self.means.pipes.used(),
            pipes_missed: self.means.pipes.missed,
            pipes_small: self.means.pipes.small,
            buffers_used: self.means.buffers.used() + self.ring.buffers_lent(),
            queue_overflows: self.ring.overflows(),
            ..self.means.stats
        }
    }
}

fn now() -> Time {
    Time::from_micros(process::monotonic_micros())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::op::CloseHow;

    /// An engine with one listener and a client, who has just connected.
    fn engine_with_a_client() -> (Uring, TcpStream, Vec<Completion>) {
        let limits = EngineLimits {
            sessions_max: 1,
            pipes_max: 0,
            pipe_bytes: 0,
            splice: crate::op::SpliceMode::Never,
            latency_budget: Duration::ZERO,
        };
        let mut engine = Uring::new(limits, Arc::new(Bell::new().unwrap())).unwrap();
        let socket = socket::listening(SocketAddr::from(([127, 0, 0, 1], 0)), 16).unwrap();
        let address = socket::local_address(socket.as_fd()).unwrap();
        engine.listen(ListenerId(0), socket).unwrap();
        engine.accepting(ListenerId(0), true);
        let mut completions = Vec::new();
        // Asks for the accept: the connection that follows comes by deferred work alone.
        engine.wait(Some(Time::default()), &mut completions).unwrap();
        let client = TcpStream::connect(address).unwrap();
        engine.wait(Some(Time::default()), &mut completions).unwrap();
        (engine, client, completions)
    }

    /// A drain looks at its listeners in this way, and so does a turn that has work at hand.
    #[test]
    fn a_look_without_waiting_sees_what_has_come() {
        let (_engine, _client, completions) = engine_with_a_client();
        assert!(matches!(completions[..], [Completion::Accepted { .. }]), "{completions:?}");
    }

    /// One with a session that waits for its client's bytes.
    fn engine_with_a_session() -> (Uring, TcpStream, SessionKey) {
        let (mut engine, client, mut completions) = engine_with_a_client();
        let Some(Completion::Accepted { socket, .. }) = completions.pop() else { panic!() };
        let session = SessionKey::new(0, 0);
        engine.adopt(socket, session);
        engine.submit(Op::Pull { session, flow: Flow::ToBackend });
        engine.wait(Some(Time::default()), &mut completions).unwrap();
        assert_eq!(engine.sessions[0].sides[0].receive, Receive::Armed);
        (engine, client, session)
    }

    /// What comes within five seconds.
    fn next(engine: &mut Uring) -> Completion {
        let (mut completions, deadline) = (Vec::new(), now() + Duration::from_secs(5));
        while completions.is_empty() && now() < deadline {
            engine.wait(Some(deadline), &mut completions).unwrap();
        }
        engine.done.extend(completions.drain(1..));
        completions.pop().expect("a completion")
    }

    fn reset(client: TcpStream) {
        socket::reset_on_close(client.as_fd());
        drop(client);
    }

    #[test]
    fn a_reset_that_comes_with_bytes_is_heard() {
        let (mut engine, mut client, _) = engine_with_a_session();
        client.write_all(b"bytes").unwrap();
        reset(client);
        let bytes = next(&mut engine);
        assert!(matches!(bytes, Completion::Ended { outcome: Outcome::Moved(_), .. }), "{bytes:?}");
        let end = next(&mut engine);
        assert!(matches!(end, Completion::Broken { errno: Errno::ECONNRESET, .. }), "{end:?}");
    }

    /// What the kernel has taken the waking for and does not tell.
    #[test]
    fn a_reset_that_the_ring_keeps_to_itself_is_found() {
        let (mut engine, client, session) = engine_with_a_session();
        let look = |engine: &mut Uring| {
            engine.told = engine.told + Duration::from_secs(1);
            engine.find_unheard();
            engine.sessions[0].sides[0].receive
        };
        engine.note_bytes(session, Side::Client);
        reset(client);
        engine.find_unheard();
        assert!(engine.sessions[0].sides[0].has_stirred, "not yet");
        assert_eq!(look(&mut engine), Receive::Armed, "bytes have come since");
        engine.note_bytes(session, Side::Client);
        assert_eq!(look(&mut engine), Receive::Armed, "and again");
        assert_eq!(look(&mut engine), Receive::Cancelling);
    }

    #[test]
    fn a_side_that_is_there_is_asked_for_once() {
        let (mut engine, _client, session) = engine_with_a_session();
        engine.note_bytes(session, Side::Client);
        for _ in 0..2 {
            engine.told = engine.told + Duration::from_secs(1);
            engine.find_unheard();
        }
        assert_eq!(engine.sessions[0].sides[0].receive, Receive::Armed);
        assert_eq!(engine.unheard.next(), None, "nothing is left to look at");
    }

    /// Else its session would never be closed, and its client never hear the end.
    #[test]
    fn a_receive_whose_cancellation_found_nothing_is_cancelled_again() {
        let (mut engine, _client, session) = engine_with_a_session();
        // The kernel has looked for it while it was queued to run.
        engine.sessions[0].sides[0].receive = Receive::Cancelling;
        let word = Kind::Other.word(session, Side::Client);
        let result = Err(Errno::ENOENT);
        engine.on_answer(Answer { word, result, buffer: None, more: false });
        engine.submit(Op::Cancel { session, slot: Slot::Pull(Flow::ToBackend) });
        let how = CloseHow::Orderly;
        engine.submit(Op::Close { session, client: how, backend: how });
        let ended = |it: &Completion| matches!(it, Completion::Ended { slot: Slot::Close, .. });
        assert!(!ended(&next(&mut engine)) && ended(&next(&mut engine)));
    }
}
