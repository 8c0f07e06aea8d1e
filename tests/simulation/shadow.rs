//! The shadow of one session: what it was told and has asked for.

use std::net::SocketAddr;
use std::time::Duration;

use fanin::metrics::SessionRecord;
use fanin::op::{Flow, ListenerId, SessionKey, Side, Slot};
use fanin::session::{CloseReason, SessionLimits};
use fanin::worker::plan::{Plan, Route};
use nix::errno::Errno;

use crate::workload::{SECOND, server_of};

/// As in `session`: how long and how much a source may send into the void.
const LINGER: u64 = 2 * SECOND;
pub(crate) const LINGER_BYTES_MAX: u64 = 1024 * 1024;
/// As in `worker`: how long a session is at rest before it is told to leave.
const REST_MIN: u64 = SECOND;
/// As in `worker`: the longest pause between two attempts at one server.
const PAUSE_MAX: u64 = 2 * SECOND;

/// Where a session's search for a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dial {
    Waiting {
        since: u64,
    },
    /// Its time is up at some moment between these two (they differ when the plan changed in the
    /// turn that asked for it).
    Connecting {
        first: u64,
        last: u64,
    },
    GivingUp,
    Connected,
}

#[derive(Debug)]
pub(crate) struct Shadow {
    pub(crate) key: SessionKey,
    pub(crate) listener: ListenerId,
    pub(crate) client: SocketAddr,
    /// Asked for and not delivered, by [`slot_index`].
    pub(crate) flying: [bool; 6],
    /// Delivered in this turn.
    pub(crate) landed: [bool; 6],
    pub(crate) flows: [ShadowFlow; 2],
    pub(crate) dial: Dial,
    /// Between attempts that are over, at most in a queue.
    pub(crate) waited: u64,
    pub(crate) attempts: u16,
    /// The attempt under way or made last.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) source: Option<SocketAddr>,
    pub(crate) ports_tried: u32,
    /// At which the kernel's choice of a port has failed.
    pub(crate) addresses_tried: usize,
    /// The worker tries the same address from another port, unknown to the session.
    pub(crate) port_retry: bool,
    /// Who failed last, and why.
    pub(crate) failed: Option<(SocketAddr, CloseReason)>,
    /// There has been a plan without it since.
    pub(crate) failed_left: bool,
    /// Takes a place at the server of `address`.
    pub(crate) at_server: bool,
    pub(crate) connected: bool,
    /// When a byte last moved, as far as the worker can know.
    pub(crate) active: u64,
    /// Where bytes went last.
    pub(crate) delivered: Option<Flow>,
    /// As in `session`.
    pub(crate) acknowledged: [Option<u64>; 2],
    /// When a peer last took something of what a push was waiting with.
    pub(crate) taken: u64,
    /// The first direction whose sink closed.
    pub(crate) cut: Option<Flow>,
    pub(crate) linger_by: Option<u64>,
    /// What was first told that ends it.
    pub(crate) cause: Option<CloseReason>,
    /// The turn in which it was first seen to end.
    pub(crate) closing: Option<u64>,
    /// Why it may end then, if it was not told of a cause.
    pub(crate) excuses: Vec<CloseReason>,
    pub(crate) close_asked: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShadowFlow {
    pub(crate) pulled: u64,
    pub(crate) held: u64,
    pub(crate) pushed: u64,
    pub(crate) discarded: u64,
    /// Its end of stream was delivered.
    pub(crate) ended: bool,
    /// The FIN was passed on.
    pub(crate) fin: bool,
    /// Its sink has closed.
    pub(crate) cut: bool,
}

pub(crate) const fn slot_index(slot: Slot) -> usize {
    match slot {
        Slot::Connect => 0,
        Slot::Pull(flow) => 1 + flow.index(),
        Slot::Push(flow) => 3 + flow.index(),
        Slot::Close => 5,
    }
}

impl Shadow {
    pub(crate) fn new(key: SessionKey, listener: ListenerId, client: SocketAddr, now: u64) -> Self {
        Self {
            key,
            listener,
            client,
            flying: [false; 6],
            landed: [false; 6],
            flows: [ShadowFlow::default(); 2],
            dial: Dial::Waiting { since: now },
            waited: 0,
            attempts: 0,
            address: None,
            source: None,
            ports_tried: 0,
            addresses_tried: 0,
            port_retry: false,
            failed: None,
            failed_left: false,
            at_server: false,
            connected: false,
            active: now,
            delivered: None,
            acknowledged: [None; 2],
            taken: 0,
            cut: None,
            linger_by: None,
            cause: None,
            closing: None,
            excuses: Vec::new(),
            close_asked: false,
        }
    }

    /// What an event has led to: the end of both directions, or to all that is left being a source
    /// whose sink has closed.
    pub(crate) fn settle(&mut self, now: u64) {
        if self.is_dying() || !self.connected {
            return;
        }
        if self.is_complete() {
            self.cause = Some(CloseReason::Completed);
        }
        let Some(cut) = self.cut else { return };
        if !self.flows[cut.other().index()].is_over() {
            return;
        }
        // What a cut direction holds is thrown away at once.
        let state = &self.flows[cut.index()];
        if state.ended || state.discarded + state.held > LINGER_BYTES_MAX {
            self.cause = Some(gone(cut.sink()));
        } else {
            self.linger_by.get_or_insert(now + LINGER);
        }
    }

    /// The reason if no server can take it.
    pub(crate) fn reason_unserved(&self) -> CloseReason {
        self.failed.map_or(CloseReason::NoServer, |(_, why)| why)
    }

    pub(crate) fn is_flying(&self, slot: Slot) -> bool {
        self.flying[slot_index(slot)]
    }

    pub(crate) fn takes_off(&mut self, slot: Slot) {
        let key = self.key;
        assert!(!self.is_flying(slot), "{key:?}: a second operation in {slot:?}");
        assert!(!self.close_asked, "{key:?}: {slot:?} after the close");
        self.flying[slot_index(slot)] = true;
    }

    /// Whether it is established at the server of this board.
    pub(crate) fn is_at(&self, board: usize) -> bool {
        self.connected && self.address.is_some_and(|at| usize::from(server_of(at)) == board)
    }

    /// Whether it has been at rest for so long that it may be told to leave: see `worker/leaving.rs`.
    pub(crate) fn rests(&self, now: u64) -> bool {
        let still = |flow: &ShadowFlow| flow.held == 0 && !flow.ended && !flow.cut;
        self.connected
            && self.flows.iter().all(still)
            && self.delivered != Some(Flow::ToBackend)
            && self.active + REST_MIN <= now
    }

    pub(crate) fn is_dying(&self) -> bool {
        self.cause.is_some() || self.closing.is_some()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.connected && self.flows.iter().all(ShadowFlow::is_whole)
    }

    /// The reasons that time alone gives for an end at `now`.
    pub(crate) fn overdue(&self, now: u64, limits: &SessionLimits) -> Vec<CloseReason> {
        let mut reasons = Vec::new();
        if !self.connected {
            return reasons;
        }
        let idle = [
            (CloseReason::ClientIdle, Side::Client, micros(limits.client_idle)),
            (CloseReason::ServerIdle, Side::Backend, micros(limits.server_idle)),
        ];
        for (why, side, limit) in idle {
            // A source that is not read from, because its sink takes nothing, is not idle.
            let held_up = self.is_flying(Slot::Push(side.outbound()));
            let is_sink = self.is_flying(Slot::Push(side.other().outbound()));
            if (!held_up || is_sink) && self.active + limit <= now {
                reasons.push(why);
            }
        }
        let half_closed = self.flows.iter().any(|flow| flow.cut || flow.ended);
        let last = self.active + micros(limits.half_closed);
        if half_closed && last <= now {
            reasons.push(CloseReason::HalfClosed);
        }
        if let (Some(by), Some(cut)) = (self.linger_by, self.cut)
            && by <= now
        {
            reasons.push(gone(cut.sink()));
        }
        reasons
    }

    /// A session that only its time is up for has not moved a byte for as long as the shortest of its
    /// limits: neither did an operation, nor did a peer take what was pushed to it before.
    pub(crate) fn check_truly_overdue(&self, now: u64, limits: &SessionLimits) {
        let idle = |why: &CloseReason| {
            matches!(
                why,
                CloseReason::ClientIdle | CloseReason::ServerIdle | CloseReason::HalfClosed
            )
        };
        if self.excuses.is_empty() || !self.excuses.iter().all(idle) {
            return;
        }
        let limit = limits.client_idle.min(limits.server_idle).min(limits.half_closed);
        assert!(
            self.taken + micros(limit) <= now,
            "{:?}: ended by {:?} at {now}, and bytes were taken at {}",
            self.key,
            self.excuses,
            self.taken
        );
    }

    /// Nothing is forgotten and nothing overdue.
    pub(crate) fn check_progress(
        &self,
        now: u64,
        replaced_at: u64,
        (late_max, waits_max): (u64, u64),
        limits: &SessionLimits,
    ) {
        let key = self.key;
        if self.cause.is_some() {
            assert!(self.closing.is_some(), "{key:?} goes on in spite of {:?}", self.cause);
        }
        if self.closing.is_some() {
            assert!(self.flying.contains(&true), "{key:?} waits for nothing in its end");
            assert!(
                self.close_asked || self.flying.iter().take(5).any(|flying| *flying),
                "{key:?} does not close"
            );
            return;
        }
        match self.dial {
            Dial::Waiting { since } => {
                let last = since + PAUSE_MAX + waits_max + late_max;
                assert!(now < last, "{key:?} was never dialled again");
            }
            Dial::Connecting { last, .. } => {
                assert!(self.is_flying(Slot::Connect), "{key:?} connects to nobody");
                assert!(now < last + late_max, "{key:?} connects for ever");
            }
            Dial::GivingUp => assert!(self.is_flying(Slot::Connect), "{key:?} gave up nothing"),
            // A new plan may put deadlines into the past.
            Dial::Connected if now < replaced_at + late_max => {}
            Dial::Connected => {
                let overdue = self.overdue(now.saturating_sub(late_max), limits);
                assert!(overdue.is_empty(), "{key:?} goes on in spite of {overdue:?}: {self:?}");
            }
        }
        for flow in Flow::ALL {
            let state = &self.flows[flow.index()];
            let moves = self.is_flying(Slot::Pull(flow)) || self.is_flying(Slot::Push(flow));
            let waits = match flow.source() {
                Side::Client => !self.connected && (state.held > 0 || state.ended),
                Side::Backend => !self.connected,
            };
            let over = self.connected && state.ended && (state.fin || state.cut);
            assert!(moves || waits || over, "{key:?}: {flow:?} is forgotten: {self:?}");
        }
    }

    pub(crate) fn check_record(&self, record: &SessionRecord) {
        let report = &record.report;
        let key = self.key;
        assert_eq!(record.listener, self.listener, "{key:?}");
        match self.cause {
            Some(cause) if report.reason == cause => {}
            cause => assert!(
                self.excuses.contains(&report.reason),
                "{key:?} ended by {cause:?} or {:?}, not by {:?}",
                self.excuses,
                report.reason
            ),
        }
        assert_eq!(report.attempts, self.attempts, "{key:?}");
        assert_eq!(report.bytes, self.flows.map(|flow| flow.pushed), "{key:?}");
        assert_eq!(report.bytes_discarded, self.flows.map(|flow| flow.discarded), "{key:?}");
        assert!(report.connect_time.is_none() || self.connected, "{key:?}");
        assert!(report.total_time >= report.connect_time.unwrap_or_default(), "{key:?}");
        // Where it is, or where it failed last, unless that server has been taken away.
        assert!(!self.at_server || record.server.is_some(), "{key:?}: at no server");
        assert!(
            record.server.is_none() || self.attempts > 0,
            "{key:?}: at a server without trying"
        );
    }
}

impl ShadowFlow {
    /// Its source has said all it had to say, and nothing of it is left.
    pub(crate) const fn is_over(&self) -> bool {
        self.ended && (self.cut || self.is_whole())
    }

    /// Every byte was passed on, and the end was seen.
    pub(crate) const fn is_whole(&self) -> bool {
        self.ended && !self.cut && self.held == 0 && self.pushed == self.pulled
    }
}

pub(crate) fn route(plan: &Plan, listener: ListenerId) -> &Route {
    &plan.routes[usize::from(listener.0)]
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("durations are short")
}

pub(crate) const fn gone(side: Side) -> CloseReason {
    match side {
        Side::Client => CloseReason::ClientGone,
        Side::Backend => CloseReason::ServerGone,
    }
}

pub(crate) const fn reason_of_failure(side: Side, errno: Errno) -> CloseReason {
    match (side, errno) {
        (Side::Client, Errno::ECONNRESET) => CloseReason::ClientReset,
        (Side::Backend, Errno::ECONNRESET) => CloseReason::ServerReset,
        (side, Errno::EPIPE) => gone(side),
        (Side::Client, _) => CloseReason::ClientFailed,
        (Side::Backend, _) => CloseReason::ServerFailed,
    }
}

pub(crate) const fn reason_of_connect(errno: Errno) -> CloseReason {
    match errno {
        Errno::ECONNREFUSED => CloseReason::ConnectRefused,
        Errno::ETIMEDOUT => CloseReason::ConnectTimeout,
        Errno::EADDRNOTAVAIL | Errno::EADDRINUSE => CloseReason::NoPort,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::ENOSPC => {
            CloseReason::NoResources
        }
        _ => CloseReason::ConnectFailed,
    }
}
