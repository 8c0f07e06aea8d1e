//! The engine on epoll, by mio: edge-triggered readiness turned into completions.
//!
//! Each socket is registered once, for both directions; what was signalled is remembered, and an
//! operation is attempted as soon as its socket is believed ready. One turn costs one
//! `epoll_wait(2)` for all sessions, and an exchange a `recv(2)` and a `send(2)`.

mod connecting;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use nix::errno::Errno;

use crate::op::{
    AcceptedSocket, CloseHow, Completion, Flow, ListenerId, Op, Outcome, SessionKey, Side, Slot,
    Spare, SpareState, Time,
};
use crate::sys::process::{self, Bell};
use crate::sys::socket;

use super::buffers::Buffers;
use super::gather::Gather;
use super::listeners::Listeners;
use super::passed::Passed;
use super::pipes::Pipes;
use super::readiness::{Attempt, FlowState, Means, Readiness};
use super::spares::Spares;
use super::{Engine, EngineLimits, EngineStats, Link};

/// Events taken from one poll. Few enough that the buffers of one turn stay in cache.
const EVENTS_MAX: usize = 128;

const TAG_CLIENT: u8 = 0;
const TAG_BACKEND: u8 = 1;
const TAG_LISTENER: u8 = 2;
const TAG_BELL: u8 = 3;

/// The engine.
#[derive(Debug)]
pub struct Epoll {
    poll: Poll,
    events: Events,
    bell: Arc<Bell>,
    listeners: Listeners,
    passed: Passed,
    spares: Spares,
    sessions: Vec<SessionState>,
    means: Means,
    /// What has completed since the last wait.
    done: Vec<Completion>,
    gather: Gather,
    /// The time that was told last.
    told: Time,
}

/// A session's sockets and what it has asked for.
#[derive(Debug, Default)]
struct SessionState {
    generation: u32,
    sides: [Peer; 2],
    flows: [Direction; 2],
    connecting: bool,
    /// See [`socket::port_to_doubt`].
    port_to_doubt: Option<NonZeroU16>,
    /// See [`Engine::introduce`].
    introduction: Option<Box<[u8]>>,
}

#[derive(Debug, Default)]
struct Peer {
    socket: Option<OwnedFd>,
    ready: Readiness,
    /// Whether epoll tells of it.
    signalled: bool,
}

impl Peer {
    /// A connection that is there: nothing is known of it, so that everything is tried once.
    fn of(socket: OwnedFd) -> Self {
        let ready = Readiness { readable: true, writable: true, ..Default::default() };
        Self { socket: Some(socket), ready, signalled: false }
    }

    /// Gives a connect up. Whoever has answered it meanwhile sees a reset, not an empty stream.
    fn abandon(&mut self) {
        if let Some(socket) = std::mem::take(self).socket {
            socket::reset_on_close(socket.as_fd());
        }
    }
}

#[derive(Debug, Default)]
struct Direction {
    state: FlowState,
    /// A pull waits for the source to be readable.
    pulling: bool,
    /// A push waits for the sink to be writable.
    pushing: bool,
}

impl Epoll {
    /// An engine of the calling thread; `bell` wakes it.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new(limits: EngineLimits, bell: Arc<Bell>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let token = token(SessionKey::new(0, 0), TAG_BELL);
        poll.registry().register(&mut SourceFd(&bell.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            bell,
            listeners: Listeners::new(limits.sessions_max),
            passed: Passed::default(),
            spares: Spares::default(),
            sessions: Vec::new(),
            means: Means {
                mode: limits.splice,
                pipes: Pipes::new(limits.pipes_max, limits.pipe_bytes),
                buffers: Buffers::default(),
                stats: EngineStats::default(),
            },
            done: Vec::new(),
            gather: Gather::new(limits.latency_budget),
            told: Time::default(),
        })
    }

    fn session(&mut self, key: SessionKey) -> &mut SessionState {
        if key.index() >= self.sessions.len() {
            self.sessions.resize_with(key.index() + 1, SessionState::default);
        }
        let session = &mut self.sessions[key.index()];
        debug_assert_eq!(session.generation, key.generation());
        session
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

    /// Tries the pull that a flow has asked for; it stays parked if it would block.
    fn pull(&mut self, key: SessionKey, flow: Flow, in_sight: bool) {
        let session = self.session(key);
        let signalled = session.sides[flow.source().index()].signalled;
        let direction = &mut session.flows[flow.index()];
        direction.pulling = true;
        direction.state.keep_in_sight(in_sight);
        self.try_pull(key, flow);
        if !signalled {
            self.begin_signals(key, flow.source());
        }
    }

    /// Has epoll tell of a client, after the first look at what it sent: what was there then needs no
    /// signal, and the connect to the server knows that it will be followed by bytes.
    fn begin_signals(&mut self, key: SessionKey, side: Side) {
        let peer = &mut self.sessions[key.index()].sides[side.index()];
        let Some(socket) = &peer.socket else { return };
        peer.signalled = true;
        if let Err(errno) = register(self.poll.registry(), socket, key, side) {
            // Nothing will ever be signalled for it (ENOMEM, or fs.epoll.max_user_watches).
            self.done.push(Completion::Broken { session: key, side, errno });
        }
    }

    fn try_pull(&mut self, key: SessionKey, flow: Flow) {
        let session = &mut self.sessions[key.index()];
        let direction = &mut session.flows[flow.index()];
        let source = &mut session.sides[flow.source().index()];
        let Some(socket) = &source.socket else { return };
        if !direction.pulling || !source.ready.readable {
            return;
        }
        let attempt = direction.state.pull(socket.as_fd(), &mut source.ready, &mut self.means);
        if let Attempt::Ended(outcome) = attempt {
            direction.pulling = false;
            self.complete(key, Slot::Pull(flow), outcome);
        }
    }

    fn try_push(&mut self, key: SessionKey, flow: Flow) {
        let session = &mut self.sessions[key.index()];
        let direction = &mut session.flows[flow.index()];
        let sink = &mut session.sides[flow.sink().index()];
        let Some(socket) = &sink.socket else { return };
        if !direction.pushing || !sink.ready.writable {
            return;
        }
        let attempt = direction.state.push(flow, socket.as_fd(), &mut sink.ready, &mut self.means);
        if let Attempt::Ended(outcome) = attempt {
            direction.pushing = false;
            self.complete(key, Slot::Push(flow), outcome);
        }
    }

    fn cancel(&mut self, key: SessionKey, slot: Slot) {
        let session = self.session(key);
        let found = match slot {
            Slot::Connect => {
                let found = std::mem::take(&mut session.connecting);
                if found {
                    session.sides[Side::Backend.index()].abandon();
                }
                found
            }
            Slot::Pull(flow) => std::mem::take(&mut session.flows[flow.index()].pulling),
            Slot::Push(flow) => std::mem::take(&mut session.flows[flow.index()].pushing),
            Slot::Close => false,
        };
        if found {
            self.complete(key, slot, Outcome::Cancelled);
        }
    }

    fn close(&mut self, key: SessionKey, how: [CloseHow; 2]) {
        let session = &mut self.sessions[key.index()];
        for flow in Flow::ALL {
            let direction = &mut session.flows[flow.index()];
            assert!(!direction.pulling && !direction.pushing, "closed with an operation in flight");
            direction.state.discard(&mut self.means);
        }
        for (peer, how) in session.sides.iter().zip(how) {
            if let (Some(socket), CloseHow::Reset) = (&peer.socket, how) {
                socket::reset_on_close(socket.as_fd());
            }
        }
        let generation = session.generation.wrapping_add(1);
        *session = SessionState { generation, ..SessionState::default() };
        self.listeners.leave();
        self.complete(key, Slot::Close, Outcome::Done);
    }

    fn on_side_event(&mut self, key: SessionKey, side: Side, event: &Signal) {
        let Some(session) = self.sessions.get_mut(key.index()) else { return };
        if session.generation != key.generation() {
            self.means.stats.completions_stale += 1;
            return;
        }
        let ready = &mut session.sides[side.index()].ready;
        if event.readable {
            ready.readable = true;
            ready.fresh = true;
        }
        ready.writable |= event.writable;
        ready.suspect |= event.suspect;
        if session.connecting && side == Side::Backend {
            if event.writable {
                self.finish_connect(key, event.error);
            }
            return;
        }
        let before = self.done.len();
        self.try_pull(key, side.outbound());
        self.try_push(key, side.other().outbound());
        let told = self.done[before..].iter().any(|completion| {
            matches!(completion, Completion::Ended { outcome: Outcome::Failed(_), .. })
        });
        if event.error && !told {
            self.tell_broken(key, side);
        }
    }

    /// A side has failed, and no operation has said so.
    fn tell_broken(&mut self, key: SessionKey, side: Side) {
        let Some(socket) = &self.sessions[key.index()].sides[side.index()].socket else { return };
        if let Some(errno) = socket::take_error(socket.as_fd()) {
            self.done.push(Completion::Broken { session: key, side, errno });
        }
    }

    /// How long it may wait for something to happen.
    fn patience(&self, until: Option<Time>) -> Option<Duration> {
        if self.listeners.has_backlog(0) || !self.done.is_empty() {
            return Some(Duration::ZERO);
        }
        // mio rounds up to milliseconds, so that the wait never ends just before `until`.
        until.map(|until| until.since(now()))
    }

    /// Looks at the sockets, `at_once` or when it pays. How many had something to tell, and whether it
    /// rested before.
    fn look(&mut self, until: Option<Time>, at_once: bool) -> io::Result<(usize, bool)> {
        let idle = !at_once && self.done.is_empty() && !self.listeners.has_backlog(0);
        let may_rest = idle && self.gather.is_dense();
        let pause = if may_rest { self.gather.pause(now(), until) } else { None };
        if let Some(pause) = pause {
            process::rest(pause);
        }
        let found = self.poll(if pause.is_some() { Some(Time::default()) } else { until })?;
        Ok((found, pause.is_some()))
    }

    /// Looks at the sockets, waiting until `until` at the longest, and says how many had something to
    /// tell.
    fn poll(&mut self, until: Option<Time>) -> io::Result<usize> {
        let mut patience = self.patience(until);
        loop {
            match self.poll.poll(&mut self.events, patience) {
                // Whoever was stopped and goes on is told this first; what came is there all the same.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    patience = Some(Duration::ZERO);
                }
                polled => break polled?,
            }
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let found = events.iter().count();
        for event in &events {
            let (key, tag) = SessionKey::unpack(event.token().0 as u64);
            match tag {
                TAG_CLIENT => self.on_side_event(key, Side::Client, &Signal::from(event)),
                TAG_BACKEND => self.on_side_event(key, Side::Backend, &Signal::from(event)),
                TAG_LISTENER => self.listeners.on_ready(key.index()),
                _ => {
                    self.bell.clear();
                    self.done.push(Completion::Woken);
                }
            }
        }
        self.events = events;
        self.listeners.accept(&mut self.done);
        Ok(found)
    }
}

impl Engine for Epoll {
    fn listen(&mut self, listener: ListenerId, socket: OwnedFd) -> io::Result<()> {
        let token = token(SessionKey::new(listener.0.into(), 0), TAG_LISTENER);
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        self.listeners.add(listener, socket);
        Ok(())
    }

    fn accepting(&mut self, listener: ListenerId, on: bool) {
        self.listeners.accepting(listener, on);
    }

    fn unlisten(&mut self, listener: ListenerId) {
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
            Op::Skip { session, bytes } => {
                let direction = &mut self.sessions[session.index()].flows[Flow::ToBackend.index()];
                direction.state.skip(bytes, &mut self.means);
            }
            Op::Push { session, flow } => {
                self.session(session).flows[flow.index()].pushing = true;
                self.try_push(session, flow);
            }
            Op::Discard { session, flow } => {
                self.sessions[session.index()].flows[flow.index()].state.discard(&mut self.means);
            }
            Op::Shutdown { session, side } => {
                if let Some(socket) = &self.session(session).sides[side.index()].socket {
                    // A connection that is gone says so in its next operation.
                    let _ = socket::shutdown_write(socket.as_fd());
                }
            }
            Op::Cancel { session, slot } => self.cancel(session, slot),
            Op::Close { session, client, backend } => self.close(session, [client, backend]),
        }
    }

    fn introduce(&mut self, session: SessionKey, bytes: Option<Vec<u8>>) {
        self.session(session).introduction = bytes.map(Vec::into_boxed_slice);
    }

    fn destination(&self, session: SessionKey) -> Option<SocketAddr> {
        let client = &self.sessions[session.index()].sides[Side::Client.index()];
        socket::local_address(client.socket.as_ref()?.as_fd()).ok()
    }

    fn greeting(&self, session: SessionKey) -> &[u8] {
        self.sessions[session.index()].flows[Flow::ToBackend.index()].state.in_sight()
    }

    fn wait(&mut self, until: Option<Time>, completions: &mut Vec<Completion>) -> io::Result<Time> {
        // Who asks for a moment that is past wants to know what is there now.
        let at_once = until.is_some_and(|until| until <= self.told);
        let (found, rested) = self.look(until, at_once)?;
        self.told = now();
        self.gather.note(self.told, found, rested);
        completions.append(&mut self.done);
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
            buffers_used: self.means.buffers.used(),
            buffers_missed: self.means.buffers.missed,
            ..self.means.stats
        }
    }
}

/// What an event says about a socket.
#[derive(Clone, Copy, Debug)]
struct Signal {
    readable: bool,
    writable: bool,
    suspect: bool,
    error: bool,
}

impl From<&Event> for Signal {
    fn from(event: &Event) -> Self {
        let error = event.is_error();
        let ended = event.is_read_closed() || error;
        Self {
            readable: event.is_readable() || ended || event.is_priority(),
            writable: event.is_writable() || event.is_write_closed() || error,
            suspect: ended || event.is_priority(),
            error,
        }
    }
}

fn register(
    registry: &Registry,
    socket: &OwnedFd,
    key: SessionKey,
    side: Side,
) -> Result<(), Errno> {
    let tag = if side == Side::Client { TAG_CLIENT } else { TAG_BACKEND };
    let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
    let registered =
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token(key, tag), interest);
    registered.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

const fn token(key: SessionKey, tag: u8) -> Token {
    #[expect(clippy::cast_possible_truncation, reason = "Linux on 64 bits: the crate requires it")]
    Token(key.pack(tag) as usize)
}

fn now() -> Time {
    Time::from_micros(process::monotonic_micros())
}
