//! Operations, from being asked for to being complete.

use fanin::op::{CloseHow, Completion, Flow, Op, Outcome, SessionKey, Side, Slot};
use nix::errno::Errno;

use super::{Conn, Event, Flight, Held, STALE_MAX, SimEngine, TEARDOWN_MAX};
use crate::faults::{Fault, Sight};
use crate::shadow::slot_index;
use crate::socket::Act;
use crate::workload::SECOND;

impl SimEngine {
    pub(super) fn carry_out(&mut self, op: Op) {
        match op {
            Op::Connect { session, address, .. } => {
                let serial = self.take_off(session, Slot::Connect);
                let fate = self.network.fate(self.now, address, &mut self.random, &mut self.faults);
                let slow = self.random.chance(200_000);
                let delay = if slow { self.random.spread(SECOND) } else { self.delay() };
                if let Some(errno) = fate {
                    let event = Event::Connected(session.index(), serial, errno);
                    self.foresee(self.now + delay, event);
                }
            }
            Op::Pull { session, flow } => self.foresee_try(session, Slot::Pull(flow)),
            Op::Push { session, flow } => self.foresee_try(session, Slot::Push(flow)),
            Op::Discard { session, flow } => {
                let held = &mut self.conn(session.index()).held[flow.index()];
                assert!(held.bytes > 0, "{session:?}: {flow:?} holds nothing");
                held.bytes = 0;
            }
            Op::Shutdown { session, side } => {
                let socket = self.conn(session.index()).sockets[side.index()];
                let socket = socket.expect("it is connected");
                let effects = self.network.socket(socket).end();
                self.apply(socket, effects);
            }
            Op::Attach { .. } => unreachable!("no backend of the simulation has spare connections"),
            Op::Greet { .. } | Op::Skip { .. } => {
                unreachable!("no listener of the simulation asks for a greeting")
            }
            Op::Cancel { session, slot } => self.cancel(session, slot),
            Op::Close { session, client, backend } => self.close(session, [client, backend]),
        }
    }

    fn conn(&mut self, index: usize) -> &mut Conn {
        self.conns[index].as_mut().expect("an operation is of a session that is there")
    }

    pub(super) fn is_in_flight(&self, index: usize, slot: Slot, serial: u64) -> bool {
        let conn = self.conns.get(index).and_then(Option::as_ref);
        let flight = conn.and_then(|conn| conn.in_flight[slot_index(slot)]);
        flight.is_some_and(|flight| flight.serial == serial)
    }

    fn take_off(&mut self, key: SessionKey, slot: Slot) -> u64 {
        self.serial += 1;
        let serial = self.serial;
        let conn = self.conn(key.index());
        assert_eq!(conn.key, key, "{slot:?} for a session that is no more");
        conn.in_flight[slot_index(slot)] = Some(Flight { serial, parked: false, cancelled: false });
        serial
    }

    pub(super) fn complete(&mut self, index: usize, slot: Slot, outcome: Outcome) {
        let conn = self.conn(index);
        let session = conn.key;
        let flight = conn.in_flight[slot_index(slot)].take();
        let sockets = conn.sockets;
        if flight.is_some_and(|flight| flight.cancelled) && outcome != Outcome::Cancelled {
            self.faults.seen.sight(Sight::CompletedThoughCancelled);
        }
        self.ready.push_back(Completion::Ended { session, slot, outcome });
        for socket in sockets.into_iter().flatten() {
            if self.network.socket(socket).has_error() {
                let at = self.now + self.delay();
                self.foresee(at, Event::Watch(socket));
            }
        }
        self.say_something_stale();
    }

    /// A completion or a failure of a session that is no more: the worker must not care.
    fn say_something_stale(&mut self) {
        if self.stale.is_empty() {
            return;
        }
        let session = self.stale[self.random.index(self.stale.len())];
        if self.faults.strikes(Fault::StaleEnded, &mut self.random) {
            let flow = self.random.pick(&Flow::ALL);
            let slots = [Slot::Connect, Slot::Pull(flow), Slot::Push(flow), Slot::Close];
            let slot = self.random.pick(&slots);
            let failed = Outcome::Failed(Errno::ECONNRESET);
            let ends = [Outcome::Done, Outcome::EndOfStream, failed, Outcome::Cancelled];
            let outcome = self.random.pick(&ends);
            self.ready.push_back(Completion::Ended { session, slot, outcome });
        }
        if self.faults.strikes(Fault::StaleBroken, &mut self.random) {
            let side = self.random.pick(&Side::ALL);
            let errno = self.random.pick(&[Errno::ECONNRESET, Errno::EPIPE]);
            self.ready.push_back(Completion::Broken { session, side, errno });
        }
    }

    pub(super) fn unpark(&mut self, socket: usize) {
        let Some((key, side)) = self.network.socket(socket).owner else { return };
        for slot in slots_of(side) {
            let Some(conn) = self.conns[key.index()].as_mut().filter(|conn| conn.key == key) else {
                return;
            };
            if let Some(flight) = conn.in_flight[slot_index(slot)].as_mut().filter(|f| f.parked) {
                flight.parked = false;
                let serial = flight.serial;
                let at = self.now + self.delay();
                self.foresee(at, Event::Try(key.index(), slot, serial));
            }
        }
    }

    pub(super) fn attempt(&mut self, index: usize, slot: Slot, serial: u64) {
        if !self.is_in_flight(index, slot, serial) {
            return;
        }
        let outcome = match slot {
            Slot::Pull(flow) => self.pull(index, flow),
            Slot::Push(flow) => self.push(index, flow),
            Slot::Connect | Slot::Close => unreachable!("{slot:?} is never parked"),
        };
        match outcome {
            Some(outcome) => self.complete(index, slot, outcome),
            None => {
                let flight = self.conn(index).in_flight[slot_index(slot)].as_mut();
                flight.expect("it was in flight a moment ago").parked = true;
            }
        }
    }

    fn pull(&mut self, index: usize, flow: Flow) -> Option<Outcome> {
        let socket = self.conn(index).sockets[flow.source().index()].expect("it is connected");
        if self.faults.strikes(Fault::EndAtOp, &mut self.random) {
            let effects = self.network.socket(socket).interrupt(Act::End);
            self.apply(socket, effects);
        }
        self.disturb(socket);
        let bytes_max = self.bytes_max();
        let from = self.network.socket(socket);
        let first = from.taken;
        let outcome = from.pull(bytes_max)?;
        if let Outcome::Moved(bytes) = outcome {
            self.conn(index).held[flow.index()] = Held { first, bytes: u64::from(bytes.get()) };
        }
        Some(outcome)
    }

    fn push(&mut self, index: usize, flow: Flow) -> Option<Outcome> {
        let socket = self.conn(index).sockets[flow.sink().index()].expect("it is connected");
        self.disturb(socket);
        let held = self.conn(index).held[flow.index()];
        let bytes_max = self.bytes_max().min(held.bytes);
        let to = self.network.socket(socket);
        let next = to.sent;
        let (outcome, effects) = to.push(bytes_max)?;
        if let Outcome::Moved(bytes) = outcome {
            assert_eq!(held.first, next, "bytes of {flow:?} were lost, repeated or swapped");
            let bytes = u64::from(bytes.get());
            self.conn(index).held[flow.index()] =
                Held { first: held.first + bytes, bytes: held.bytes - bytes };
        }
        self.apply(socket, effects);
        Some(outcome)
    }

    fn bytes_max(&mut self) -> u64 {
        let most = self.network.traffic.move_max;
        if self.faults.strikes(Fault::ShortMove, &mut self.random) {
            return self.random.range(1, most);
        }
        most
    }

    /// The peer, or the network, fails just now.
    fn disturb(&mut self, socket: usize) {
        let act = if self.faults.strikes(Fault::ResetAtOp, &mut self.random) {
            Act::Reset
        } else if self.faults.strikes(Fault::FailAtOp, &mut self.random) {
            Act::Fail
        } else {
            return;
        };
        let effects = self.network.socket(socket).interrupt(act);
        self.apply(socket, effects);
    }

    pub(super) fn connected(&mut self, index: usize, serial: u64, errno: i32) {
        if !self.is_in_flight(index, Slot::Connect, serial) {
            return;
        }
        if errno != 0 {
            let outcome = Outcome::Failed(Errno::from_raw(errno));
            return self.complete(index, Slot::Connect, outcome);
        }
        let key = self.conn(index).key;
        let socket = self.network.connect(self.is_calm, &mut self.random, &mut self.faults);
        self.network.socket(socket).owner = Some((key, Side::Backend));
        self.conn(index).sockets[Side::Backend.index()] = Some(socket);
        self.foresee(self.now, Event::Act(socket));
        self.complete(index, Slot::Connect, Outcome::Done);
    }

    pub(super) fn watch(&mut self, socket: usize) {
        let Some((key, side)) = self.network.socket(socket).owner else { return };
        let Some(conn) = self.conns[key.index()].as_mut().filter(|conn| conn.key == key) else {
            return;
        };
        let busy = slots_of(side).iter().any(|slot| conn.in_flight[slot_index(*slot)].is_some());
        if busy || conn.closing || conn.told_broken[side.index()] {
            return;
        }
        if let Some(errno) = self.network.socket(socket).take_error() {
            conn.told_broken[side.index()] = true;
            self.ready.push_back(Completion::Broken { session: key, side, errno });
        }
    }

    fn close(&mut self, key: SessionKey, how: [CloseHow; 2]) {
        let conn = self.conn(key.index());
        assert!(conn.in_flight[..5].iter().all(Option::is_none), "{key:?}: closed while in use");
        conn.closing = true;
        for (socket, how) in conn.sockets.into_iter().zip(how) {
            let Some(socket) = socket else { continue };
            let socket = self.network.socket(socket);
            // A close(2) with bytes unread is a reset in any case (RFC 2525 section 2.17).
            let unread = socket.taken < socket.arrived || !socket.peer_ended;
            assert!(how == CloseHow::Reset || !unread, "{key:?}: an orderly close would reset");
            socket.close(how);
        }
        let slow = self.faults.strikes(Fault::SlowClose, &mut self.random);
        let delay = if slow { self.random.spread(TEARDOWN_MAX) } else { self.random.below(50) };
        self.foresee(self.now + delay, Event::Closed(key.index()));
    }

    pub(super) fn closed(&mut self, index: usize) {
        let key = self.conn(index).key;
        self.complete(index, Slot::Close, Outcome::Done);
        self.conns[index] = None;
        self.stale.push_back(key);
        if self.stale.len() > STALE_MAX {
            self.stale.pop_front();
        }
    }

    fn foresee_try(&mut self, session: SessionKey, slot: Slot) {
        let serial = self.take_off(session, slot);
        let at = self.now + self.delay();
        self.foresee(at, Event::Try(session.index(), slot, serial));
    }

    fn cancel(&mut self, session: SessionKey, slot: Slot) {
        let flight = &mut self.conn(session.index()).in_flight[slot_index(slot)];
        let Some(flight) = flight else {
            self.faults.seen.sight(Sight::CancelFoundNothing);
            return;
        };
        flight.cancelled = true;
        let serial = flight.serial;
        let late = self.faults.strikes(Fault::LateCancel, &mut self.random);
        let delay = if late { self.random.spread(TEARDOWN_MAX) } else { 0 };
        self.foresee(self.now + delay, Event::Cancel(session.index(), slot, serial));
        if late && slot == Slot::Connect && self.random.chance(500_000) {
            self.foresee(self.now, Event::Connected(session.index(), serial, 0));
        }
    }
}

/// The operations that an error of a side's socket ends.
const fn slots_of(side: Side) -> [Slot; 2] {
    [Slot::Pull(side.outbound()), Slot::Push(side.other().outbound())]
}
