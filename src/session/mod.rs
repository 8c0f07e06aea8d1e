//! One relayed pair of connections. PURE: no descriptor, no clock, no randomness, no system call;
//! time comes in with each event and operations go out through [`Ops`].
//!
//! ```text
//! Dialing ──connected──▶ Relaying ──both directions over──▶ Closing ──all joined──▶ Finished
//!    │                      │                                 ▲
//!    └─ attempts used up ───┴── reset, idle, drain, stop ─────┘
//! ```
//!
//! Whoever owns a session calls `on_*` with what happened and does what the returned [`Step`] says.
//! [`Closing`](Phase::Closing) is a join and the only way out: it cancels what is in flight, waits
//! until nothing is, then asks for the one `Close`. The first cause of an end is the one reported.

mod close;
mod deadlines;
mod flow;
pub mod greeting;
pub mod hello;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use nix::errno::Errno;

pub use close::{CloseReason, Report};
use flow::{FlowState, Sink, Stage};
use greeting::Expects;

use crate::op::{CloseHow, Flow, Op, Outcome, SessionKey, Side, Slot, Spare, Time};

/// Operations on their way to the engine: the worker's one list, reused.
pub type Ops = Vec<Op>;

/// How long a session may stay in each of its waits, and how often it may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// For one attempt to connect.
    pub connect: Duration,
    /// Without a byte on the client's connection.
    pub client_idle: Duration,
    /// Without a byte on the server's connection.
    pub server_idle: Duration,
    /// Without a byte in either direction after one has ended.
    pub half_closed: Duration,
    /// Attempts to connect, the first included.
    pub attempts_max: u16,
}

/// How long, and how much, a source may go on sending after its sink has closed and it has been
/// sent everything. gunicorn's bounds (2 s, 64 KiB) with more room for a full socket buffer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: u64 = 1024 * 1024;

/// What the owner does next.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Nothing; mind [`Session::deadline`].
    Continue,
    /// Choose a server and call [`Session::dial`], or [`Session::pause`] before another attempt,
    /// or [`Session::abandon`]. `failed` is why the attempt before this one came to nothing.
    Dial { failed: Option<Errno> },
    /// Forget the session; the engine already has.
    Finished(Report),
}

/// How a session that goes on stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Since the client came, and since a byte last moved.
    pub age: Duration,
    pub idle: Duration,
    /// Until it is ended if nothing happens; `None` where it is not.
    pub left: Option<Duration>,
    /// Bytes delivered, and taken from a source and not delivered yet; by [`Flow::index`].
    pub bytes: [u64; 2],
    pub held: [u32; 2],
    /// A word for what it does.
    pub state: &'static str,
}

/// Where a session stands. All before `Relaying` is the drawing's Dialing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client's first bytes are looked at, and must have come at `until`.
    Greeting {
        until: Time,
        expects: Expects,
    },
    /// Between attempts; the next is due at `until`.
    Waiting {
        until: Time,
    },
    /// An attempt is under way and is given up at `until`.
    Connecting {
        until: Time,
    },
    /// The attempt took too long and its cancellation is on its way.
    GivingUp,
    Relaying,
    /// `connecting`: an attempt is still to join. `asked`: so has the one `Close` been.
    Closing {
        connecting: bool,
        asked: bool,
    },
}

/// One relayed pair.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Session {
    key: SessionKey,
    phase: Phase,
    attempts: u16,
    reason: Option<CloseReason>,
    flows: [FlowState; 2],
    /// When a byte last moved.
    active: Time,
    /// Where bytes were delivered last, and when the client first got one.
    delivered: Option<Flow>,
    /// In microseconds from the start; 71 minutes at most.
    answered: Option<NonZeroU32>,
    opened: Time,
    connected: Option<Time>,
    /// The first direction whose sink closed, if one has.
    cut: Option<Flow>,
    /// Set when all that is left is a source that goes on sending into the void.
    linger_until: Option<Time>,
    /// Why the last attempt failed.
    failed: Option<Errno>,
    /// What each side's peer had acknowledged when its push was last found waiting too long; none
    /// since it moved.
    acknowledged: [Option<u32>; 2],
}

// Capacity planning rests on this (design target: 512 B of user memory for an idle session).
const _: () = assert!(size_of::<Session>() <= 208);

impl Session {
    /// A session for a client that has just been adopted. Its first bytes are asked for at once,
    /// so that they can go out as the connect completes.
    pub fn open(key: SessionKey, now: Time, ops: &mut Ops) -> (Self, Step) {
        let mut session = Self::new(key, Phase::Waiting { until: now }, now);
        session.flows[Flow::ToBackend.index()].proceed(key, Sink::Dialled, ops);
        (session, Step::Dial { failed: None })
    }

    /// A session both of whose sides are connected: its client came at `opened`, and so many attempts
    /// were made to connect its server.
    pub fn joined(key: SessionKey, opened: Time, attempts: u16, now: Time, ops: &mut Ops) -> Self {
        let mut session = Self::new(key, Phase::Relaying, now);
        session.opened = opened;
        session.attempts = attempts;
        session.connected = Some(now);
        for flow in &mut session.flows {
            flow.proceed(key, Sink::Connected, ops);
        }
        session
    }

    fn new(key: SessionKey, phase: Phase, now: Time) -> Self {
        Self {
            key,
            phase,
            attempts: 0,
            reason: None,
            flows: Flow::ALL.map(FlowState::new),
            active: now,
            delivered: None,
            answered: None,
            opened: now,
            connected: None,
            cut: None,
            linger_until: None,
            failed: None,
            acknowledged: [None; 2],
        }
    }

    /// Makes the next attempt, at this address.
    pub fn dial(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
        now: Time,
        limits: &SessionLimits,
        ops: &mut Ops,
    ) {
        self.begin_attempt(now, limits);
        ops.push(Op::Connect { session: self.key, address, source });
    }

    /// Makes the next attempt, with a connection that is there already.
    pub fn attach(&mut self, spare: Spare, now: Time, limits: &SessionLimits, ops: &mut Ops) {
        self.begin_attempt(now, limits);
        ops.push(Op::Attach { session: self.key, spare });
    }

    fn begin_attempt(&mut self, now: Time, limits: &SessionLimits) {
        assert!(matches!(self.phase, Phase::Waiting { .. }));
        self.attempts += 1;
        self.phase = Phase::Connecting { until: now + limits.connect };
    }

    /// Waits until `until` before it asks to be dialled again.
    pub fn pause(&mut self, until: Time) {
        assert!(matches!(self.phase, Phase::Waiting { .. }));
        self.phase = Phase::Waiting { until };
    }

    /// Gives up finding a server: ends with the reason of the last attempt, or with `NoServer`.
    pub fn abandon(&mut self, ops: &mut Ops) {
        assert!(matches!(self.phase, Phase::Waiting { .. }));
        let reason = self.failed.map_or(CloseReason::NoServer, CloseReason::of_connect);
        self.begin_close(reason, ops);
    }

    /// Ends the session from outside. Without effect when it is already ending: the first cause
    /// stands.
    pub fn begin_close(&mut self, reason: CloseReason, ops: &mut Ops) {
        if self.is_closing() {
            return;
        }
        let connecting = matches!(self.phase, Phase::Connecting { .. } | Phase::GivingUp);
        self.reason = Some(reason);
        self.phase = Phase::Closing { connecting, asked: false };
        if connecting {
            ops.push(Op::Cancel { session: self.key, slot: Slot::Connect });
        }
        for flow in &self.flows {
            flow.cancel(self.key, ops);
        }
        self.join(ops);
    }

    /// An operation of this session has ended.
    pub fn on_completion(
        &mut self,
        slot: Slot,
        outcome: Outcome,
        now: Time,
        limits: &SessionLimits,
        ops: &mut Ops,
    ) -> Step {
        let step = match slot {
            Slot::Connect => self.on_connected(outcome, now, limits, ops),
            Slot::Pull(flow) => self.on_pulled(flow, outcome, now, ops),
            Slot::Push(flow) => self.on_pushed(flow, outcome, now, ops),
            Slot::Close => {
                assert!(matches!(self.phase, Phase::Closing { asked: true, .. }));
                return Step::Finished(self.report(now));
            }
        };
        self.check_invariants();
        step
    }

    /// A side failed while nothing was in flight that would have told so.
    pub fn on_broken(&mut self, side: Side, errno: Errno, now: Time, ops: &mut Ops) -> Step {
        if errno == Errno::EPIPE && self.phase == Phase::Relaying {
            let towards = side.other().outbound();
            self.on_sink_gone(towards, now, ops);
            self.proceed(towards, now, ops);
        } else {
            self.begin_close(CloseReason::of_broken(side, errno), ops);
        }
        self.check_invariants();
        Step::Continue
    }

    /// The moment of [`Session::deadline`] may have come. `acknowledged` tells how much a
    /// side's peer has acknowledged; it is asked only of a side whose push has waited for too long.
    pub fn on_deadline(
        &mut self,
        now: Time,
        limits: &SessionLimits,
        acknowledged: impl FnMut(Side) -> u32,
        ops: &mut Ops,
    ) -> Step {
        if !self.is_due(now, limits) {
            return Step::Continue;
        }
        match self.phase {
            Phase::Greeting { expects, .. } => self.give_greeting_up(expects, now, ops),
            Phase::Waiting { .. } => return Step::Dial { failed: self.failed },
            Phase::Connecting { .. } => {
                // The attempt ends where every attempt does, when its cancellation comes back.
                self.phase = Phase::GivingUp;
                ops.push(Op::Cancel { session: self.key, slot: Slot::Connect });
            }
            Phase::Relaying => {
                self.look_at_sinks(now, acknowledged);
                if self.is_due(now, limits) {
                    let reason = self.overdue(now, limits);
                    self.begin_close(reason, ops);
                }
            }
            Phase::GivingUp | Phase::Closing { .. } => {}
        }
        Step::Continue
    }

    /// Attempts to connect so far.
    pub const fn attempts(&self) -> u16 {
        self.attempts
    }

    /// Whether an attempt to connect is under way and not being given up.
    pub const fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. })
    }

    /// Since when nothing is under way: nobody has ended, nothing is held, and what was delivered last,
    /// if anything was, went to the client. Where one side asks and the other answers, as agents and
    /// servers do, that is the time between an answer and the next request.
    pub fn rests_since(&self) -> Option<Time> {
        let still = |flow: &FlowState| flow.stage() == Stage::Open && !flow.holds();
        let rests = self.phase == Phase::Relaying
            && self.cut.is_none()
            && self.delivered != Some(Flow::ToBackend)
            && self.flows.iter().all(still);
        rests.then_some(self.active)
    }

    /// Whether it is connected to its server, and not ending.
    pub fn is_relaying(&self) -> bool {
        self.phase == Phase::Relaying
    }

    /// Whether it is ending otherwise than whole.
    pub fn fails(&self) -> bool {
        self.reason.is_some_and(|reason| reason != CloseReason::Completed)
    }

    /// Whether the end has begun.
    pub const fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    fn on_connected(
        &mut self,
        outcome: Outcome,
        now: Time,
        limits: &SessionLimits,
        ops: &mut Ops,
    ) -> Step {
        let gave_up = match &mut self.phase {
            Phase::Connecting { .. } => false,
            Phase::GivingUp => true,
            Phase::Closing { connecting, .. } if *connecting => {
                *connecting = false;
                self.join(ops);
                return Step::Continue;
            }
            phase => unreachable!("a connect completed while {phase:?}"),
        };
        match outcome {
            // Also when it was just being given up: the server is there after all.
            Outcome::Done => {
                self.phase = Phase::Relaying;
                self.connected = Some(now);
                self.active = now;
                for flow in &mut self.flows {
                    flow.proceed(self.key, Sink::Connected, ops);
                }
                Step::Continue
            }
            // A cancelled attempt may report the error that it had come to; what counts is that
            // its time was up.
            Outcome::Failed(errno) if !gave_up => self.on_attempt_failed(errno, now, limits, ops),
            Outcome::Failed(_) | Outcome::Cancelled => {
                self.on_attempt_failed(Errno::ETIMEDOUT, now, limits, ops)
            }
            Outcome::Moved(_) | Outcome::EndOfStream => unreachable!("a connect moves no bytes"),
        }
    }

    fn on_attempt_failed(
        &mut self,
        errno: Errno,
        now: Time,
        limits: &SessionLimits,
        ops: &mut Ops,
    ) -> Step {
        self.failed = Some(errno);
        self.phase = Phase::Waiting { until: now };
        if self.attempts >= limits.attempts_max {
            self.abandon(ops);
            return Step::Continue;
        }
        Step::Dial { failed: Some(errno) }
    }

    fn on_pulled(&mut self, flow: Flow, outcome: Outcome, now: Time, ops: &mut Ops) -> Step {
        let key = self.key;
        let closing = self.is_closing();
        let state = &mut self.flows[flow.index()];
        if closing {
            state.end_pull();
            self.join(ops);
            return Step::Continue;
        }
        match outcome {
            Outcome::Moved(bytes) => {
                state.on_pulled(bytes, key, ops);
                self.active = now;
            }
            Outcome::EndOfStream => {
                state.on_end_of_stream();
                self.active = now;
            }
            Outcome::Failed(errno) => {
                state.end_pull();
                self.begin_close(CloseReason::of_broken(flow.source(), errno), ops);
                return Step::Continue;
            }
            Outcome::Cancelled | Outcome::Done => {
                unreachable!("a pull is cancelled only when closing, and always has a result")
            }
        }
        self.proceed(flow, now, ops);
        Step::Continue
    }

    fn on_pushed(&mut self, flow: Flow, outcome: Outcome, now: Time, ops: &mut Ops) -> Step {
        let closing = self.is_closing();
        let state = &mut self.flows[flow.index()];
        if closing {
            match outcome {
                Outcome::Moved(bytes) => state.on_pushed(bytes),
                _ => state.end_push(),
            }
            self.join(ops);
            return Step::Continue;
        }
        match outcome {
            Outcome::Moved(bytes) => {
                state.on_pushed(bytes);
                self.active = now;
                self.delivered = Some(flow);
                if flow == Flow::ToClient && self.answered.is_none() {
                    let since = u32::try_from(now.since(self.opened).as_micros());
                    // None at all is not the same as at once.
                    self.answered = NonZeroU32::new(since.unwrap_or(u32::MAX).max(1));
                }
                self.acknowledged[flow.sink().index()] = None;
            }
            // The sink closed in order and then answered our bytes with a reset: tcp_reset() turns
            // that into EPIPE for a socket in CLOSE_WAIT. What it sent before is still whole.
            Outcome::Failed(Errno::EPIPE) => {
                state.end_push();
                self.on_sink_gone(flow, now, ops);
            }
            Outcome::Failed(errno) => {
                state.end_push();
                self.begin_close(CloseReason::of_broken(flow.sink(), errno), ops);
                return Step::Continue;
            }
            Outcome::Cancelled | Outcome::Done | Outcome::EndOfStream => {
                unreachable!("a push is cancelled only when closing, and always has a result")
            }
        }
        self.proceed(flow, now, ops);
        Step::Continue
    }

    /// Moves one direction on, and ends the session when nothing is left to do.
    fn proceed(&mut self, flow: Flow, now: Time, ops: &mut Ops) {
        let connected = self.phase == Phase::Relaying;
        let sink = if !connected && flow.sink() == Side::Backend {
            Sink::Dialled
        } else if self.cut.is_none() && self.flows[flow.other().index()].is_over() {
            Sink::ClosedNext
        } else {
            Sink::Connected
        };
        self.flows[flow.index()].proceed(self.key, sink, ops);
        match self.cut {
            None if self.flows.iter().all(FlowState::is_over) => {
                self.begin_close(CloseReason::Completed, ops);
            }
            None => {}
            Some(cut) => self.linger(cut, now, ops),
        }
    }

    /// A side has closed in order and takes no more; what it sent before is still whole.
    fn on_sink_gone(&mut self, flow: Flow, now: Time, ops: &mut Ops) {
        if self.flows[flow.index()].cut(self.key, ops) {
            self.cut.get_or_insert(flow);
            // The other direction has `half_closed` from now, however long nothing moved before.
            self.active = now;
        }
    }

    /// One direction was cut: its sink closed. The other is delivered to its end first; then the
    /// source of the cut one may finish what it is sending, within bounds, before it learns of it.
    fn linger(&mut self, cut: Flow, now: Time, ops: &mut Ops) {
        if !self.flows[cut.other().index()].is_over() {
            return;
        }
        let state = &self.flows[cut.index()];
        if state.is_over() || state.discarded() > LINGER_BYTES_MAX {
            self.begin_close(gone(cut.sink()), ops);
        } else if self.linger_until.is_none() {
            self.linger_until = Some(now + LINGER);
        }
    }

    /// Asks for the close once nothing else is in flight. Every path to the end comes here.
    fn join(&mut self, ops: &mut Ops) {
        let Phase::Closing { connecting: false, asked: false } = self.phase else { return };
        if self.flows.iter().any(FlowState::in_flight) {
            return;
        }
        self.phase = Phase::Closing { connecting: false, asked: true };
        let [client, backend] = self.close_how();
        ops.push(Op::Close { session: self.key, client, backend });
    }

    fn close_how(&self) -> [CloseHow; 2] {
        let how = self.reason.expect("a session that closes has a reason").how();
        let mut each = [how; 2];
        if let Some(cut) = self.cut
            && !self.flows[cut.other().index()].is_cut()
            && self.flows.iter().all(FlowState::is_over)
        {
            // Everything was delivered to this side, and it has said all it had to say: a reset
            // could only destroy what it has not read yet.
            each[cut.source().index()] = CloseHow::Orderly;
        }
        each
    }

    /// How it stands at `now`.
    pub fn progress(&self, now: Time, limits: &SessionLimits) -> Progress {
        Progress {
            age: now.since(self.opened),
            idle: now.since(self.active),
            left: self.deadline(limits).map(|deadline| deadline.since(now)),
            bytes: Flow::ALL.map(|flow| self.flows[flow.index()].delivered()),
            held: Flow::ALL.map(|flow| self.flows[flow.index()].held()),
            state: match self.phase {
                Phase::Greeting { .. } => "greeting",
                Phase::Waiting { .. } => "waiting",
                Phase::Connecting { .. } | Phase::GivingUp => "connecting",
                Phase::Relaying => "relaying",
                Phase::Closing { .. } => "closing",
            },
        }
    }

    fn report(&self, now: Time) -> Report {
        Report {
            reason: self.reason.expect("a finished session has a reason"),
            bytes: Flow::ALL.map(|flow| self.flows[flow.index()].delivered()),
            bytes_discarded: Flow::ALL.map(|flow| self.flows[flow.index()].discarded()),
            attempts: self.attempts,
            connect_time: self.connected.map(|connected| connected.since(self.opened)),
            first_byte: self.answered.map(|since| Duration::from_micros(since.get().into())),
            last_byte: self.delivered.map(|_| self.active.since(self.opened)),
            total_time: now.since(self.opened),
        }
    }

    fn check_invariants(&self) {
        for flow in &self.flows {
            flow.check_invariants();
        }
        debug_assert_eq!(self.reason.is_some(), self.is_closing());
    }
}

/// The reason when a side closed with bytes still on their way to it.
const fn gone(side: Side) -> CloseReason {
    match side {
        Side::Client => CloseReason::ClientGone,
        Side::Backend => CloseReason::ServerGone,
    }
}
