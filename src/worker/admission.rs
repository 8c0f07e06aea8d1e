//! Who is let in: places in the process and in each listener, and when to listen again. PURE, but
//! for [`Quota`], whose count the workers share.
//!
//! Nobody is turned away while there is a queue to wait in: when places run out accepting pauses,
//! and the kernel's queue holds the rest.

use std::sync::Arc;
use std::time::Duration;

use crate::gate::Quota;
use crate::op::{ListenerId, Time};

use super::plan::Way;
use super::ramp::Ramp;

/// How long accepting pauses when the kernel lacks descriptors or memory for another socket.
const PAUSE_FOR_KERNEL: Duration = Duration::from_millis(100);
/// How soon a worker that found a shared quota used up looks again: another worker's session may
/// have ended, and nobody tells.
const PAUSE_FOR_QUOTA: Duration = Duration::from_millis(16);

/// The gate of one worker.
#[derive(Debug)]
pub struct Admission {
    process: Arc<Quota>,
    listeners: Vec<Listener>,
    /// Places in this worker's table that are free.
    free: u32,
}

#[derive(Debug)]
struct Listener {
    quota: Arc<Quota>,
    state: State,
    ramp: Option<Ramp>,
    /// The ways on which sessions found no server, and none has been connected since.
    out: Vec<Way>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Accepting,
    /// Until then at least.
    Paused(Time),
    /// For good.
    Ended,
}

impl Admission {
    /// A gate for `places` sessions of this worker.
    pub const fn new(process: Arc<Quota>, places: u32) -> Self {
        Self { process, listeners: Vec::new(), free: places }
    }

    /// Adds the next listener; its number is the count of those before it.
    pub fn add(&mut self, quota: Arc<Quota>) {
        let (state, ramp, out) = (State::Accepting, None, Vec::new());
        self.listeners.push(Listener { quota, state, ramp, out });
    }

    /// The pace at which a listener begins. Another pace than before begins with the next outage.
    pub(super) fn set_ramp(&mut self, listener: ListenerId, ramp: Option<Ramp>) {
        let gate = &mut self.listeners[usize::from(listener.0)];
        if let (Some(before), Some(now)) = (gate.ramp, ramp)
            && !now.differs(before)
        {
            return;
        }
        gate.ramp = ramp;
    }

    /// Sessions of this listener that go this way find no server.
    pub(super) fn note_outage(&mut self, listener: ListenerId, way: Way) {
        let out = &mut self.listeners[usize::from(listener.0)].out;
        if !out.contains(&way) {
            out.push(way);
        }
    }

    /// A session of this listener was connected that goes this way. After its outage the ramp begins
    /// anew.
    pub(super) fn note_connected(&mut self, listener: ListenerId, way: Way, ramp: Option<Ramp>) {
        let gate = &mut self.listeners[usize::from(listener.0)];
        if let Some(place) = gate.out.iter().position(|out| *out == way) {
            gate.out.swap_remove(place);
            gate.ramp = ramp;
        }
    }

    /// Whether sessions of the listener find no server, whatever way they go.
    pub(super) fn is_out(&self, listener: ListenerId) -> bool {
        !self.listeners[usize::from(listener.0)].out.is_empty()
    }

    /// Whether the process and this worker have a place for anybody.
    pub fn has_room(&self) -> bool {
        self.free > 0 && self.process.has_room()
    }

    /// Takes a place for a connection that came through `listener`. When there is none, the
    /// listener is paused.
    pub fn enter(&mut self, listener: ListenerId, now: Time) -> bool {
        let gate = &mut self.listeners[usize::from(listener.0)];
        if self.free > 0
            && self.process.has_room()
            && gate.quota.has_room()
            && let Some(ramp) = &mut gate.ramp
            && let Err(next) = ramp.admit(now)
        {
            if gate.state != State::Ended {
                gate.state = State::Paused(next);
            }
            return false;
        }
        let entered = self.free > 0 && {
            let through = self.process.acquire();
            if through && !gate.quota.acquire() {
                self.process.release();
                false
            } else {
                through
            }
        };
        if entered {
            self.free -= 1;
        } else if gate.state != State::Ended {
            gate.state = State::Paused(now + PAUSE_FOR_QUOTA);
        }
        entered
    }

    /// Takes a place in the table for a session that holds its places in the process and in its
    /// listener already. There is one.
    pub(super) const fn enter_held(&mut self) {
        self.free -= 1;
    }

    /// Gives back places that are held in the process and in a listener, and none in the table.
    pub(super) fn give_back(&self, listener: ListenerId) {
        self.process.release();
        self.listeners[usize::from(listener.0)].quota.release();
    }

    /// A session that came through `listener` has ended.
    pub fn leave(&mut self, listener: ListenerId) {
        self.free += 1;
        self.give_back(listener);
    }

    /// The kernel could not accept.
    pub fn on_accept_failed(&mut self, listener: ListenerId, now: Time) {
        let gate = &mut self.listeners[usize::from(listener.0)];
        if gate.state != State::Ended {
            gate.state = State::Paused(now + PAUSE_FOR_KERNEL);
        }
    }

    /// Listeners that are paused.
    pub fn paused(&self) -> usize {
        self.listeners.iter().filter(|gate| matches!(gate.state, State::Paused(_))).count()
    }

    /// The listener accepts no more.
    pub fn end(&mut self, listener: ListenerId) {
        self.listeners[usize::from(listener.0)].state = State::Ended;
    }

    /// Looks at each listener whose pause is over: one with room, and without connections that
    /// `waits` says are waiting in user space already, is accepting again and is returned; the
    /// others pause on.
    pub fn resume(
        &mut self,
        now: Time,
        waits: impl Fn(ListenerId) -> bool,
    ) -> impl Iterator<Item = ListenerId> {
        let room = self.has_room();
        self.listeners.iter_mut().zip((0u16..).map(ListenerId)).filter_map(move |(gate, id)| {
            if !matches!(gate.state, State::Paused(until) if until <= now) {
                return None;
            }
            if !room || !gate.quota.has_room() || waits(id) {
                gate.state = State::Paused(now + PAUSE_FOR_QUOTA);
                return None;
            }
            gate.state = State::Accepting;
            Some(id)
        })
    }

    /// When a pause ends.
    pub fn next(&self) -> Option<Time> {
        let until = |gate: &Listener| match gate.state {
            State::Paused(until) => Some(until),
            _ => None,
        };
        self.listeners.iter().filter_map(until).min()
    }

    /// Whether a listener is paused now.
    pub fn is_paused(&self, listener: ListenerId) -> bool {
        matches!(self.listeners[usize::from(listener.0)].state, State::Paused(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: ListenerId = ListenerId(0);
    const SECOND: ListenerId = ListenerId(1);

    fn admission(process: u32, listeners: [u32; 2], places: u32) -> Admission {
        let mut admission = Admission::new(Arc::new(Quota::new(process)), places);
        for limit in listeners {
            admission.add(Arc::new(Quota::new(limit)));
        }
        admission
    }

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    #[test]
    fn each_of_the_three_limits_pauses_and_gives_back_what_it_took() {
        for (process, listeners, places) in [(2, [9, 9], 9), (9, [2, 9], 9), (9, [9, 9], 2)] {
            let mut admission = admission(process, listeners, places);
            assert!(admission.enter(FIRST, at(0)) && admission.enter(FIRST, at(0)));
            assert!(!admission.enter(FIRST, at(0)) && admission.is_paused(FIRST));
            admission.leave(FIRST);
            assert!(admission.enter(FIRST, at(0)), "{process} {listeners:?} {places}");
            admission.leave(FIRST);
            admission.leave(FIRST);
            assert_eq!(admission.process.taken(), 0);
            assert_eq!(admission.listeners[0].quota.taken(), 0);
            assert_eq!(admission.free, places);
        }
    }

    #[test]
    fn one_full_listener_does_not_stop_the_other() {
        let mut admission = admission(9, [0, 9], 9);
        assert!(!admission.enter(FIRST, at(0)));
        assert!(admission.enter(SECOND, at(0)) && !admission.is_paused(SECOND));
    }

    #[test]
    fn a_pause_ends_at_its_time_and_not_before() {
        let mut admission = admission(9, [9, 9], 9);
        admission.on_accept_failed(SECOND, at(1000));
        assert_eq!(admission.next(), Some(at(1100)));
        assert_eq!(admission.resume(at(1099), |_| false).count(), 0);
        assert_eq!(admission.resume(at(1100), |_| false).collect::<Vec<_>>(), [SECOND]);
        assert_eq!(admission.next(), None);
    }

    #[test]
    fn a_full_gate_stays_shut_however_often_one_looks() {
        let mut admission = admission(1, [9, 9], 9);
        assert!(admission.enter(FIRST, at(0)) && !admission.enter(FIRST, at(0)));
        assert_eq!(admission.resume(at(1000), |_| false).count(), 0);
        admission.leave(FIRST);
        assert_eq!(admission.resume(at(2000), |_| true).count(), 0, "others wait already");
        assert_eq!(admission.resume(at(3000), |_| false).collect::<Vec<_>>(), [FIRST]);
    }

    #[test]
    fn an_ended_listener_never_resumes() {
        let mut admission = admission(0, [9, 9], 9);
        admission.end(FIRST);
        admission.on_accept_failed(FIRST, at(0));
        assert!(!admission.enter(FIRST, at(0)));
        assert_eq!(admission.resume(at(10_000), |_| false).count(), 0);
    }
}
