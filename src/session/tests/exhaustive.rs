//! Every state that a session can be in, and everything that can happen to it there.
//!
//! Not a sample: starting from a session just opened, each event that is possible is tried in each
//! state found, until no new state is found. Two states are the same when they differ only in
//! counts that decide nothing, and in times other than whose timer is next. So every interleaving of completions, failures,
//! deadlines and commands has been tried, of whatever length.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::*;

/// More than may be sent into the void.
const TOO_MUCH: u32 = 2 * 1024 * 1024;

const MOMENT: Duration = Duration::from_micros(1);

/// A session and what its peers have done so far.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) driver: Driver,
    /// By side: its FIN has arrived, whether or not it was read.
    finished: [bool; 2],
    /// By side: an error has arrived and was told, so that there is no other.
    failed: [bool; 2],
    /// By flow: its end was read while the session still cared.
    ended: [bool; 2],
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The owner finds a server, waits first, or finds none.
    Dial,
    Pause,
    Abandon,
    /// The owner ends it.
    Stop,
    Ends(Slot, Outcome),
    Broken(Side, Errno),
    /// The same, as late as its deadline allows.
    EndsLate(Slot, Outcome),
    Deadline,
    /// The same, while a sink that has no room has acknowledged more.
    DeadlineWhileMoving,
}

impl World {
    fn start() -> Self {
        let driver = Driver::open();
        Self { driver, finished: [false; 2], failed: [false; 2], ended: [false; 2] }
    }

    /// All that may happen now, by the rules of `op` and of TCP.
    fn possible(&self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.driver.report.is_some() {
            return events;
        }
        if self.driver.wants_dial {
            return vec![Event::Dial, Event::Pause, Event::Abandon];
        }
        if !self.driver.session.is_closing() {
            events.push(Event::Stop);
        }
        if let Some(deadline) = self.driver.session.deadline(&LIMITS) {
            events.push(Event::Deadline);
            let pushes = |slot: &Slot| matches!(slot, Slot::Push(_));
            if self.driver.flying.iter().any(pushes) {
                events.push(Event::DeadlineWhileMoving);
            }
            if self.driver.session.phase == Phase::Relaying
                && deadline.since(self.driver.now) > MOMENT
            {
                let late = |&slot: &Slot| Event::EndsLate(slot, moved(2));
                let pulls = self.driver.flying.iter().filter(|slot| matches!(slot, Slot::Pull(_)));
                events.extend(pulls.map(late));
            }
        }
        for &slot in &self.driver.flying {
            events.extend(self.outcomes(slot).into_iter().map(|end| Event::Ends(slot, end)));
            if slot != Slot::Close && self.driver.cancelled.contains(&slot) {
                events.push(Event::Ends(slot, Outcome::Cancelled));
            }
        }
        for side in Side::ALL {
            let connected = side == Client || self.driver.session.phase == Phase::Relaying;
            let watched = [Slot::Pull(side.outbound()), Slot::Push(side.other().outbound())];
            let told = watched.iter().any(|slot| self.driver.flies(*slot));
            if connected && !told && !self.failed[side.index()] {
                let finished = self.finished[side.index()];
                let errno = if finished { Errno::EPIPE } else { Errno::ECONNRESET };
                events.push(Event::Broken(side, errno));
            }
        }
        events
    }

    fn outcomes(&self, slot: Slot) -> Vec<Outcome> {
        match slot {
            Slot::Connect => vec![Outcome::Done, REFUSED],
            Slot::Close => vec![Outcome::Done],
            Slot::Pull(flow) => {
                let side = flow.source().index();
                let cut = self.driver.session.flows[flow.index()].is_cut();
                let mut all = vec![moved(if cut { TOO_MUCH } else { 2 }), Outcome::EndOfStream];
                if cut {
                    all.push(moved(2));
                }
                if !self.failed[side] && !self.finished[side] {
                    all.push(RESET);
                }
                all
            }
            Slot::Push(flow) => {
                let side = flow.sink().index();
                let held = self.driver.held[flow.index()];
                let mut all = vec![moved(held)];
                if held > 1 {
                    all.push(moved(1));
                }
                if !self.failed[side] || self.finished[side] {
                    all.push(BROKEN_PIPE);
                }
                if !self.failed[side] && !self.finished[side] {
                    all.push(RESET);
                }
                all
            }
        }
    }

    fn meet(&mut self, event: Event) {
        let cared = !self.driver.session.is_closing();
        match event {
            Event::Dial => self.driver.dial(),
            Event::Pause => {
                self.driver.wants_dial = false;
                self.driver.session.pause(self.driver.now + Duration::from_millis(250));
            }
            Event::Abandon => self.driver.is_abandoned(),
            Event::Stop => self.driver.is_told_to_end(CloseReason::Stopped),
            Event::Broken(side, errno) => {
                self.failed[side.index()] = true;
                self.driver.breaks(side, errno);
            }
            Event::EndsLate(slot, outcome) => {
                let deadline = self.driver.session.deadline(&LIMITS).unwrap();
                self.driver.waits(deadline.since(self.driver.now) - MOMENT);
                self.driver.ends(slot, outcome);
            }
            Event::Deadline | Event::DeadlineWhileMoving => {
                self.driver.acknowledged += u32::from(event == Event::DeadlineWhileMoving);
                let deadline = self.driver.session.deadline(&LIMITS).unwrap();
                self.driver.waits(deadline.since(self.driver.now));
            }
            Event::Ends(slot, outcome) => {
                match (slot, outcome) {
                    (Slot::Pull(flow), Outcome::EndOfStream) => {
                        self.finished[flow.source().index()] = true;
                        self.ended[flow.index()] = cared;
                    }
                    (Slot::Push(flow), BROKEN_PIPE) => {
                        self.finished[flow.sink().index()] = true;
                        self.failed[flow.sink().index()] = true;
                    }
                    (Slot::Pull(flow), RESET) => self.failed[flow.source().index()] = true,
                    (Slot::Push(flow), RESET) => self.failed[flow.sink().index()] = true,
                    _ => {}
                }
                self.driver.ends(slot, outcome);
            }
        }
    }

    /// What makes two states different.
    fn essence(&self) -> String {
        let session = &self.driver.session;
        let flows = session.flows.map(|flow| {
            let much = flow.discarded() > LINGER_BYTES_MAX;
            (flow.stage(), flow.is_cut(), flow.in_flight(), much)
        });
        let next = match session.phase {
            Phase::Relaying => session.deadline(&LIMITS).map(|at| session.overdue(at, &LIMITS)),
            _ => None,
        };
        let phase = match session.phase {
            Phase::Waiting { .. } => "waiting".into(),
            Phase::Connecting { .. } => "connecting".into(),
            other => format!("{other:?}"),
        };
        let (mut flying, mut cancelled) =
            (self.driver.flying.clone(), self.driver.cancelled.clone());
        flying.sort_unstable();
        cancelled.sort_unstable();
        format!(
            "{phase} {next:?} {flows:?} {:?} {:?} {:?} {:?} {} {:?} {:?} {:?} {:?}",
            session.attempts,
            session.reason,
            session.cut,
            (session.linger_until.is_some(), session.acknowledged.map(|seen| seen.is_some())),
            self.driver.wants_dial,
            (flying, cancelled),
            self.driver.held,
            (self.finished, self.failed, self.ended),
            (self.driver.close, self.driver.report.is_some()),
        )
    }

    /// What holds everywhere.
    fn check(&self) {
        let session = &self.driver.session;
        if self.driver.report.is_some() {
            return;
        }
        if session.is_closing() {
            assert!(!self.driver.flying.is_empty(), "its end waits for nothing: {self:?}");
            if let Some(how) = self.driver.close {
                self.check_close(how);
            }
            return;
        }
        let gives_up = session.phase == Phase::GivingUp;
        let exit = session.deadline(&LIMITS).is_some() || self.driver.wants_dial;
        assert!(exit || gives_up && self.driver.flies(Slot::Connect), "no way out: {self:?}");
        for flow in Flow::ALL {
            let connected = session.phase == Phase::Relaying;
            let state = &session.flows[flow.index()];
            let waits = !connected && (flow == ToClient || !state.in_flight());
            let lives = state.in_flight() || state.is_over() || waits;
            assert!(lives, "{flow:?} is forgotten: {self:?}");
        }
    }

    /// A clean close is for whoever got a whole stream, and only for them.
    fn check_close(&self, how: [CloseHow; 2]) {
        let session = &self.driver.session;
        for side in Side::ALL {
            let flow = side.other().outbound().index();
            let whole =
                self.ended[flow] && !session.flows[flow].is_cut() && self.driver.held[flow] == 0;
            let orderly = how[side.index()] == CloseHow::Orderly;
            assert!(whole || !orderly, "{side:?} takes a cut stream for a whole one: {self:?}");
            let complete = session.reason == Some(CloseReason::Completed);
            assert!(!complete || orderly, "a whole session is reset: {self:?}");
        }
    }

    /// Lets nothing happen but the passing of time and the ends of what was cancelled.
    fn wind_down(mut self) {
        for _ in 0..20 {
            if self.driver.report.is_some() {
                return;
            }
            let event = if self.driver.wants_dial {
                Event::Dial
            } else if self.driver.close.is_some() {
                Event::Ends(Slot::Close, Outcome::Done)
            } else if let Some(slot) = self.driver.cancelled.first() {
                Event::Ends(*slot, Outcome::Cancelled)
            } else {
                Event::Deadline
            };
            self.meet(event);
        }
        panic!("time alone does not end it: {self:?}");
    }
}

/// Visits every state, and shows each step to `seen`: before, what happened, after.
pub(super) fn explore(mut seen: impl FnMut(&World, Event, &World)) -> usize {
    let mut known = HashSet::new();
    let mut ahead = VecDeque::from([World::start()]);
    while let Some(world) = ahead.pop_front() {
        if !known.insert(world.essence()) {
            continue;
        }
        world.check();
        world.clone().wind_down();
        for event in world.possible() {
            let mut next = world.clone();
            next.driver.asked.clear();
            next.meet(event);
            seen(&world, event, &next);
            ahead.push_back(next);
        }
    }
    known.len()
}

#[test]
fn every_state_keeps_the_rules_and_has_a_way_out() {
    let mut reasons = BTreeMap::new();
    let states = explore(|_, _, after| {
        if let Some(report) = after.driver.report {
            *reasons.entry(report.reason).or_insert(0) += 1;
        }
    });
    assert!(states > 1000, "only {states} states were found");
    // What the owner's errors and commands are called is told elsewhere.
    let elsewhere = [
        CloseReason::ClientFailed,
        CloseReason::ServerFailed,
        CloseReason::ConnectFailed,
        CloseReason::NoPort,
        CloseReason::NoResources,
        CloseReason::BadGreeting,
        CloseReason::GreetingTimeout,
        CloseReason::SourceLimit,
        CloseReason::QueueTimeout,
        CloseReason::QueueFull,
        CloseReason::ServerDown,
        CloseReason::Rebalanced,
        CloseReason::ShutDown,
        CloseReason::BadRequest,
        CloseReason::TlsFailed,
        CloseReason::LoginFailed,
        CloseReason::DestinationDenied,
        CloseReason::Drained,
    ];
    for reason in CloseReason::ALL {
        let found = reasons.contains_key(&reason);
        assert_eq!(found, !elsewhere.contains(&reason), "{reason}: {reasons:?}");
    }
}
