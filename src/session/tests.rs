//! What a session does, told as stories. [`Driver`] plays the engine and the clock, and checks the
//! rules of `op` at every step; `exhaustive` then visits every state that there is, and `lifecycle`
//! keeps `docs/LIFECYCLE.md` true.

mod exhaustive;
mod greeting;
mod lifecycle;

use std::num::NonZeroU32;

use super::*;
use Flow::{ToBackend, ToClient};
use Side::{Backend, Client};

const KEY: SessionKey = SessionKey::new(7, 3);
const LIMITS: SessionLimits = SessionLimits {
    connect: Duration::from_secs(5),
    client_idle: Duration::from_secs(100),
    server_idle: Duration::from_secs(120),
    half_closed: Duration::from_secs(30),
    attempts_max: 3,
};

/// An engine and a clock of the simplest kind.
#[derive(Clone, Debug)]
struct Driver {
    session: Session,
    now: Time,
    /// Asked for and not ended.
    flying: Vec<Slot>,
    /// Asked to end early.
    cancelled: Vec<Slot>,
    /// Held in the engine, by flow.
    held: [u32; 2],
    /// What was asked for since somebody last looked.
    asked: Vec<Op>,
    /// Whether the session wants to be dialled.
    wants_dial: bool,
    close: Option<[CloseHow; 2]>,
    report: Option<Report>,
    /// What each side's peer has acknowledged.
    acknowledged: u32,
}

impl Driver {
    /// A client has just come.
    fn open() -> Self {
        let now = Time::from_micros(1_000_000_000);
        let mut ops = Ops::new();
        let (session, step) = Session::open(KEY, now, &mut ops);
        let mut driver = Self {
            session,
            now,
            flying: Vec::new(),
            cancelled: Vec::new(),
            held: [0; 2],
            asked: Vec::new(),
            wants_dial: false,
            close: None,
            report: None,
            acknowledged: 0,
        };
        driver.follow(step, ops);
        driver
    }

    /// A client has come and the first server is being dialled.
    fn dialled() -> Self {
        let mut driver = Self::open();
        driver.dial();
        driver
    }

    /// Both sides are connected, and what that took is forgotten.
    fn relaying() -> Self {
        let mut driver = Self::dialled();
        driver.ends(Slot::Connect, Outcome::Done);
        driver.asked.clear();
        driver
    }

    fn dial(&mut self) {
        assert!(std::mem::take(&mut self.wants_dial), "it does not want to be dialled");
        let mut ops = Ops::new();
        let address = "192.0.2.1:443".parse().unwrap();
        self.session.dial(address, None, self.now, &LIMITS, &mut ops);
        self.follow(Step::Continue, ops);
    }

    /// An operation that is in flight ends.
    fn ends(&mut self, slot: Slot, outcome: Outcome) {
        assert!(self.flies(slot), "{slot:?} is not in flight: {:?}", self.flying);
        self.flying.retain(|other| *other != slot);
        self.cancelled.retain(|other| *other != slot);
        match (slot, outcome) {
            (Slot::Pull(flow), Outcome::Moved(bytes)) => self.held[flow.index()] = bytes.get(),
            (Slot::Push(flow), Outcome::Moved(bytes)) => self.held[flow.index()] -= bytes.get(),
            _ => {}
        }
        let mut ops = Ops::new();
        let step = self.session.on_completion(slot, outcome, self.now, &LIMITS, &mut ops);
        self.follow(step, ops);
    }

    fn pulls(&mut self, flow: Flow, bytes: u32) {
        self.ends(Slot::Pull(flow), moved(bytes));
    }

    fn pushes(&mut self, flow: Flow, bytes: u32) {
        self.ends(Slot::Push(flow), moved(bytes));
    }

    /// Bytes go all the way from one side to the other.
    fn carries(&mut self, flow: Flow, bytes: u32) {
        self.pulls(flow, bytes);
        self.pushes(flow, bytes);
    }

    fn meets_end(&mut self, flow: Flow) {
        self.ends(Slot::Pull(flow), Outcome::EndOfStream);
    }

    fn breaks(&mut self, side: Side, errno: Errno) {
        let mut ops = Ops::new();
        let step = self.session.on_broken(side, errno, self.now, &mut ops);
        self.follow(step, ops);
    }

    /// Time passes, and the timer is looked at once, at the end of it.
    fn waits(&mut self, time: Duration) {
        self.now = self.now + time;
        let mut ops = Ops::new();
        let step = self.session.on_deadline(self.now, &LIMITS, |_| self.acknowledged, &mut ops);
        self.follow(step, ops);
    }

    fn is_told_to_end(&mut self, reason: CloseReason) {
        let mut ops = Ops::new();
        self.session.begin_close(reason, &mut ops);
        self.follow(Step::Continue, ops);
    }

    fn is_abandoned(&mut self) {
        self.wants_dial = false;
        let mut ops = Ops::new();
        self.session.abandon(&mut ops);
        self.follow(Step::Continue, ops);
    }

    /// Ends everything that was cancelled, and the close.
    fn joins(&mut self) -> Report {
        for slot in self.cancelled.clone() {
            self.ends(slot, Outcome::Cancelled);
        }
        self.ends(Slot::Close, Outcome::Done);
        self.report.expect("a session that has closed reports")
    }

    /// Does what the session says, by the rules of `op`.
    fn follow(&mut self, step: Step, ops: Ops) {
        for op in &ops {
            self.take(op);
        }
        self.asked.extend(ops);
        match step {
            Step::Continue => {}
            Step::Dial { .. } => self.wants_dial = true,
            Step::Finished(report) => self.report = Some(report),
        }
    }

    fn take(&mut self, op: &Op) {
        assert_eq!(self.close, None, "{op:?} after the close");
        match *op {
            Op::Connect { .. } | Op::Attach { .. } => self.takes_off(Slot::Connect),
            Op::Pull { flow, .. } => {
                assert_eq!(self.held[flow.index()], 0, "{op:?} while bytes are held");
                self.takes_off(Slot::Pull(flow));
            }
            Op::Push { flow, .. } => {
                assert!(self.held[flow.index()] > 0, "{op:?} with nothing held");
                self.takes_off(Slot::Push(flow));
            }
            Op::Greet { .. } => {
                self.takes_off(Slot::Pull(ToBackend));
            }
            Op::Skip { bytes, .. } => {
                assert!(bytes <= self.held[ToBackend.index()], "skips what is not held");
                self.held[ToBackend.index()] -= bytes;
            }
            Op::Discard { flow, .. } => {
                assert!(!self.flies(Slot::Push(flow)), "{op:?} while it is being pushed");
                assert!(self.held[flow.index()] > 0, "{op:?} with nothing held");
                self.held[flow.index()] = 0;
            }
            Op::Shutdown { side, .. } => {
                let flow = side.other().outbound();
                assert!(!self.flies(Slot::Push(flow)), "{op:?} before the last byte");
                assert_eq!(self.held[flow.index()], 0, "{op:?} before the last byte");
            }
            Op::Cancel { slot, .. } => {
                assert!(self.flies(slot), "{op:?} of nothing");
                self.cancelled.push(slot);
            }
            Op::Close { client, backend, .. } => {
                assert!(self.flying.is_empty(), "closed with {:?} in flight", self.flying);
                self.close = Some([client, backend]);
                self.flying.push(Slot::Close);
            }
        }
    }

    fn takes_off(&mut self, slot: Slot) {
        assert!(!self.flies(slot), "a second operation in {slot:?}");
        self.flying.push(slot);
    }

    fn flies(&self, slot: Slot) -> bool {
        self.flying.contains(&slot)
    }

    /// What was asked for since this was last called.
    fn asked(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.asked)
    }

    fn closes(&self) -> [CloseHow; 2] {
        self.close.expect("it has not asked for its close")
    }
}

fn moved(bytes: u32) -> Outcome {
    Outcome::Moved(NonZeroU32::new(bytes).unwrap())
}

const fn pull(flow: Flow) -> Op {
    Op::Pull { session: KEY, flow }
}

const fn push(flow: Flow) -> Op {
    Op::Push { session: KEY, flow }
}

const fn discard(flow: Flow) -> Op {
    Op::Discard { session: KEY, flow }
}

const fn shutdown(side: Side) -> Op {
    Op::Shutdown { session: KEY, side }
}

const fn cancel(slot: Slot) -> Op {
    Op::Cancel { session: KEY, slot }
}

const fn close(client: CloseHow, backend: CloseHow) -> Op {
    Op::Close { session: KEY, client, backend }
}

const RESET: Outcome = Outcome::Failed(Errno::ECONNRESET);
const BROKEN_PIPE: Outcome = Outcome::Failed(Errno::EPIPE);
const REFUSED: Outcome = Outcome::Failed(Errno::ECONNREFUSED);

// Bytes.

#[test]
fn bytes_go_both_ways_at_once_and_are_counted() {
    let mut session = Driver::relaying();
    session.pulls(ToBackend, 100);
    session.pulls(ToClient, 7);
    assert_eq!(session.asked(), [push(ToBackend), push(ToClient)]);
    session.pushes(ToClient, 7);
    session.pushes(ToBackend, 60);
    session.pushes(ToBackend, 40);
    assert_eq!(session.asked(), [pull(ToClient), push(ToBackend), pull(ToBackend)]);
    session.meets_end(ToBackend);
    session.meets_end(ToClient);
    assert_eq!(session.joins().bytes, [100, 7]);
}

#[test]
fn nothing_is_pulled_while_the_sink_does_not_take_what_is_held() {
    let mut session = Driver::relaying();
    session.pulls(ToBackend, 100);
    session.pushes(ToBackend, 1);
    assert_eq!(session.asked(), [push(ToBackend), push(ToBackend)]);
    assert!(!session.flies(Slot::Pull(ToBackend)));
}

// Half-close.

#[test]
fn a_client_that_ends_its_stream_still_gets_the_whole_answer() {
    let mut session = Driver::relaying();
    session.carries(ToBackend, 10);
    session.meets_end(ToBackend);
    assert_eq!(session.asked().last(), Some(&shutdown(Backend)));
    session.carries(ToClient, 1000);
    session.waits(LIMITS.half_closed - Duration::from_secs(1));
    session.carries(ToClient, 1000);
    session.asked();
    session.meets_end(ToClient);
    // The close ends the client's direction: a shutdown before it would say nothing more.
    assert_eq!(session.asked(), [close(CloseHow::Orderly, CloseHow::Orderly)]);
    let report = session.joins();
    assert_eq!((report.reason, report.bytes), (CloseReason::Completed, [10, 2000]));
}

#[test]
fn a_server_that_ends_its_stream_still_gets_all_that_the_client_sends() {
    let mut session = Driver::relaying();
    session.meets_end(ToClient);
    assert_eq!(session.asked(), [shutdown(Client)]);
    session.carries(ToBackend, 5000);
    session.meets_end(ToBackend);
    assert_eq!(session.closes(), [CloseHow::Orderly; 2]);
    assert_eq!(session.joins().bytes, [5000, 0]);
}

#[test]
fn a_fin_is_passed_on_after_the_last_byte() {
    let mut session = Driver::relaying();
    session.pulls(ToBackend, 10);
    session.pushes(ToBackend, 4);
    session.pushes(ToBackend, 6);
    session.meets_end(ToBackend);
    let all = [push(ToBackend), push(ToBackend), pull(ToBackend), shutdown(Backend)];
    assert_eq!(session.asked(), all);
}

// Before the server is there.

#[test]
fn early_bytes_are_held_until_a_server_is_connected() {
    let mut session = Driver::dialled();
    session.asked();
    session.pulls(ToBackend, 300);
    assert_eq!(session.asked(), [], "neither pushed to nobody nor pulled on");
    session.ends(Slot::Connect, Outcome::Done);
    assert_eq!(session.asked(), [push(ToBackend), pull(ToClient)]);
}

#[test]
fn a_client_that_ends_its_stream_before_there_is_a_server_is_served_all_the_same() {
    let mut session = Driver::dialled();
    session.meets_end(ToBackend);
    session.asked();
    session.ends(Slot::Connect, Outcome::Done);
    assert_eq!(session.asked(), [shutdown(Backend), pull(ToClient)]);
    session.carries(ToClient, 20);
    session.meets_end(ToClient);
    assert_eq!(session.joins().reason, CloseReason::Completed);
}

#[test]
fn another_attempt_carries_the_early_bytes() {
    let mut session = Driver::dialled();
    session.pulls(ToBackend, 300);
    session.ends(Slot::Connect, REFUSED);
    session.dial();
    session.asked();
    session.ends(Slot::Connect, Outcome::Done);
    assert_eq!(session.asked(), [push(ToBackend), pull(ToClient)]);
    session.pushes(ToBackend, 300);
    session.is_told_to_end(CloseReason::Stopped);
    let report = session.joins();
    assert_eq!((report.attempts, report.bytes), (2, [300, 0]));
}

#[test]
fn there_is_no_other_attempt_once_a_byte_may_have_reached_a_server() {
    for outcome in [RESET, Outcome::Failed(Errno::ETIMEDOUT)] {
        let mut session = Driver::relaying();
        session.pulls(ToBackend, 300);
        session.ends(Slot::Push(ToBackend), outcome);
        assert!(!session.wants_dial);
        assert_eq!(session.joins().attempts, 1);
    }
}

#[test]
fn a_client_that_goes_away_before_there_is_a_server_ends_the_attempt() {
    let mut session = Driver::dialled();
    session.asked();
    session.ends(Slot::Pull(ToBackend), RESET);
    assert_eq!(session.asked(), [cancel(Slot::Connect)]);
    // Too late: the server is there, and is told at once.
    session.ends(Slot::Connect, Outcome::Done);
    assert_eq!(session.asked(), [close(CloseHow::Reset, CloseHow::Reset)]);
    session.ends(Slot::Close, Outcome::Done);
    assert_eq!(session.report.unwrap().reason, CloseReason::ClientReset);
}

// Attempts.

#[test]
fn an_attempt_that_takes_too_long_is_cancelled_and_another_is_made() {
    let mut session = Driver::dialled();
    session.asked();
    session.waits(LIMITS.connect - Duration::from_micros(1));
    assert_eq!(session.asked(), []);
    session.waits(Duration::from_micros(1));
    assert_eq!(session.asked(), [cancel(Slot::Connect)]);
    assert!(!session.wants_dial, "not before the first attempt is over");
    session.ends(Slot::Connect, Outcome::Cancelled);
    session.dial();
    assert!(session.flies(Slot::Connect));
}

#[test]
fn an_attempt_that_succeeds_as_it_is_given_up_is_good() {
    let mut session = Driver::dialled();
    session.waits(LIMITS.connect);
    session.ends(Slot::Connect, Outcome::Done);
    assert!(session.flies(Slot::Pull(ToClient)) && !session.wants_dial);
}

#[test]
fn the_last_attempt_gives_the_reason() {
    let ends = [
        (REFUSED, CloseReason::ConnectRefused),
        (Outcome::Failed(Errno::ETIMEDOUT), CloseReason::ConnectTimeout),
        (Outcome::Failed(Errno::EHOSTUNREACH), CloseReason::ConnectFailed),
        (Outcome::Failed(Errno::EADDRNOTAVAIL), CloseReason::NoPort),
        (Outcome::Failed(Errno::EMFILE), CloseReason::NoResources),
    ];
    for (outcome, reason) in ends {
        let mut session = Driver::dialled();
        for _ in 1..LIMITS.attempts_max {
            session.ends(Slot::Connect, Outcome::Failed(Errno::ENETUNREACH));
            session.dial();
        }
        session.ends(Slot::Connect, outcome);
        assert!(!session.wants_dial, "no attempt is left");
        let report = session.joins();
        assert_eq!((report.reason, report.attempts), (reason, LIMITS.attempts_max));
        assert_eq!(report.connect_time, None);
    }
}

#[test]
fn giving_up_before_the_first_attempt_is_for_want_of_a_server() {
    let mut session = Driver::open();
    session.is_abandoned();
    assert_eq!(session.joins().reason, CloseReason::NoServer);
}

#[test]
fn giving_up_after_an_attempt_is_for_what_that_came_to() {
    let mut session = Driver::dialled();
    session.ends(Slot::Connect, REFUSED);
    session.is_abandoned();
    assert_eq!(session.joins().reason, CloseReason::ConnectRefused);
}

#[test]
fn a_pause_between_attempts_ends_at_its_time() {
    let mut session = Driver::dialled();
    session.ends(Slot::Connect, REFUSED);
    session.wants_dial = false;
    session.session.pause(session.now + Duration::from_millis(250));
    session.waits(Duration::from_millis(249));
    assert!(!session.wants_dial);
    session.waits(Duration::from_millis(1));
    session.dial();
}

// The end.

#[test]
fn a_reset_ends_both_sides_with_a_reset() {
    let ends = [
        (Slot::Pull(ToBackend), CloseReason::ClientReset),
        (Slot::Pull(ToClient), CloseReason::ServerReset),
    ];
    for (slot, reason) in ends {
        let mut session = Driver::relaying();
        session.ends(slot, RESET);
        let report = session.joins();
        assert_eq!(session.closes(), [CloseHow::Reset; 2]);
        assert_eq!(report.reason, reason);
    }
}

#[test]
fn a_dead_connection_is_told_from_a_reset() {
    let dead = Outcome::Failed(Errno::ETIMEDOUT);
    let ends = [
        (Slot::Pull(ToBackend), CloseReason::ClientFailed),
        (Slot::Pull(ToClient), CloseReason::ServerFailed),
    ];
    for (slot, reason) in ends {
        let mut session = Driver::relaying();
        session.ends(slot, dead);
        assert_eq!(session.joins().reason, reason);
    }
}

#[test]
fn a_reset_that_no_operation_met_ends_the_session_too() {
    for (side, reason) in [(Client, CloseReason::ClientReset), (Backend, CloseReason::ServerReset)]
    {
        let mut session = Driver::relaying();
        // Nothing is in flight on that side: its bytes wait for the other.
        session.pulls(side.outbound(), 100);
        session.breaks(side, Errno::ECONNRESET);
        assert_eq!(session.joins().reason, reason);
        assert_eq!(session.closes(), [CloseHow::Reset; 2], "the other's stream is cut");
    }
}

#[test]
fn the_first_cause_is_the_one_reported() {
    let mut session = Driver::relaying();
    session.ends(Slot::Pull(ToClient), RESET);
    session.is_told_to_end(CloseReason::Stopped);
    session.ends(Slot::Pull(ToBackend), RESET);
    assert_eq!(session.joins().reason, CloseReason::ServerReset);
}

#[test]
fn the_close_waits_for_all_that_is_in_flight() {
    let mut session = Driver::relaying();
    session.pulls(ToBackend, 10);
    session.asked();
    session.is_told_to_end(CloseReason::Drained);
    assert_eq!(session.asked(), [cancel(Slot::Push(ToBackend)), cancel(Slot::Pull(ToClient))]);
    session.ends(Slot::Pull(ToClient), moved(5));
    assert_eq!(session.asked(), [], "the push is still out");
    // It had come to something before the cancellation: that counts as delivered.
    session.pushes(ToBackend, 4);
    assert_eq!(session.asked(), [close(CloseHow::Reset, CloseHow::Reset)]);
    session.ends(Slot::Close, Outcome::Done);
    let report = session.report.unwrap();
    assert_eq!((report.reason, report.bytes), (CloseReason::Drained, [4, 0]));
}

#[test]
fn drain_and_stop_end_a_session_wherever_it_is() {
    let mut waiting = Driver::dialled();
    waiting.ends(Slot::Connect, REFUSED);
    let mut giving_up = Driver::dialled();
    giving_up.waits(LIMITS.connect);
    for mut session in [waiting, Driver::dialled(), giving_up, Driver::relaying()] {
        session.is_told_to_end(CloseReason::Stopped);
        session.cancelled.dedup();
        assert_eq!(session.joins().reason, CloseReason::Stopped);
    }
}

// A side that closed while bytes were on their way to it.

/// The client has sent a request and closed its socket; the server's answer meets a reset. What the
/// client sent before is still whole, and the server has yet to end its stream.
fn client_gone() -> Driver {
    let mut session = Driver::relaying();
    session.pulls(ToBackend, 50);
    session.pulls(ToClient, 100);
    session.asked();
    session.ends(Slot::Push(ToClient), BROKEN_PIPE);
    session
}

#[test]
fn what_a_side_sent_before_it_closed_is_delivered_to_its_end() {
    let mut session = client_gone();
    assert_eq!(session.asked(), [discard(ToClient), pull(ToClient)]);
    session.pushes(ToBackend, 20);
    session.pushes(ToBackend, 30);
    session.meets_end(ToBackend);
    let asked = [push(ToBackend), pull(ToBackend), shutdown(Backend)];
    assert_eq!(session.asked(), asked, "the server gets every byte and the FIN");
    session.pulls(ToClient, 7);
    assert_eq!(session.asked(), [discard(ToClient), pull(ToClient)]);
    session.meets_end(ToClient);
    assert_eq!(session.closes(), [CloseHow::Reset, CloseHow::Orderly]);
    let report = session.joins();
    assert_eq!(report.reason, CloseReason::ClientGone);
    assert_eq!((report.bytes, report.bytes_discarded), ([50, 0], [0, 107]));
}

#[test]
fn a_source_that_sends_into_the_void_is_ended_after_a_time() {
    let mut session = client_gone();
    session.pushes(ToBackend, 50);
    session.meets_end(ToBackend);
    session.waits(LINGER - Duration::from_micros(1));
    assert!(!session.session.is_closing());
    session.pulls(ToClient, 10);
    session.waits(Duration::from_micros(1));
    let report = session.joins();
    assert_eq!(report.reason, CloseReason::ClientGone);
    assert_eq!(session.closes(), [CloseHow::Reset; 2], "its stream was cut");
}

#[test]
fn a_source_that_sends_too_much_into_the_void_is_ended_at_once() {
    let mut session = client_gone();
    session.pushes(ToBackend, 50);
    session.meets_end(ToBackend);
    session.pulls(ToClient, 1024 * 1024);
    assert_eq!(session.joins().reason, CloseReason::ClientGone);
    assert_eq!(session.closes(), [CloseHow::Reset; 2]);
}

#[test]
fn what_is_sent_into_the_void_does_not_count_while_the_other_direction_is_delivered() {
    let mut session = client_gone();
    session.pulls(ToClient, 2 * 1024 * 1024);
    session.waits(LINGER * 2);
    assert!(!session.session.is_closing());
    session.pushes(ToBackend, 50);
    session.meets_end(ToBackend);
    assert_eq!(session.joins().bytes, [50, 0]);
}

#[test]
fn a_side_found_gone_without_an_operation_cuts_its_direction_alone() {
    let mut session = Driver::relaying();
    session.pulls(ToBackend, 50);
    session.asked();
    session.breaks(Client, Errno::EPIPE);
    assert_eq!(session.asked(), [], "the pull that cuts is in flight already");
    session.pushes(ToBackend, 50);
    session.meets_end(ToBackend);
    session.pulls(ToClient, 9);
    session.meets_end(ToClient);
    let report = session.joins();
    assert_eq!((report.bytes, report.bytes_discarded), ([50, 0], [0, 9]));
}

/// Once they met in one turn: bytes for a side were pulled, and with them came word that the side
/// was gone. The push was already asked for.
#[test]
fn a_side_found_gone_while_bytes_are_pushed_to_it_is_told_by_the_push() {
    let mut session = Driver::relaying();
    session.pulls(ToClient, 100);
    session.breaks(Client, Errno::EPIPE);
    session.asked();
    session.ends(Slot::Push(ToClient), BROKEN_PIPE);
    assert_eq!(session.asked(), [discard(ToClient), pull(ToClient)]);
}

#[test]
fn when_both_sides_are_gone_nobody_is_told_that_all_is_well() {
    let mut session = Driver::relaying();
    session.pulls(ToBackend, 50);
    session.pulls(ToClient, 50);
    session.ends(Slot::Push(ToClient), BROKEN_PIPE);
    session.ends(Slot::Push(ToBackend), BROKEN_PIPE);
    session.meets_end(ToBackend);
    session.meets_end(ToClient);
    assert_eq!(session.closes(), [CloseHow::Reset; 2]);
    assert_eq!(session.joins().reason, CloseReason::ClientGone, "the first to go");
}

// Timers.

#[test]
fn each_side_has_an_idle_timer_of_its_own() {
    let mut session = Driver::relaying();
    session.waits(LIMITS.client_idle - Duration::from_secs(1));
    session.carries(ToBackend, 1);
    session.waits(LIMITS.client_idle - Duration::from_secs(1));
    session.pulls(ToBackend, 1);
    assert!(!session.session.is_closing());
    // The server does not take it: the server is idle, the client is not.
    session.waits(LIMITS.server_idle);
    session.waits(LIMITS.server_idle - Duration::from_secs(1));
    assert!(!session.session.is_closing());
    session.waits(Duration::from_secs(1));
    assert_eq!(session.joins().reason, CloseReason::ServerIdle);

    let mut session = Driver::relaying();
    session.waits(LIMITS.client_idle);
    assert_eq!(session.joins().reason, CloseReason::ClientIdle);
}

#[test]
fn bytes_that_come_and_bytes_that_go_keep_a_side_awake() {
    let mut session = Driver::relaying();
    for _ in 0..5 {
        session.waits(LIMITS.client_idle - Duration::from_secs(1));
        session.carries(ToClient, 1);
    }
    assert!(!session.session.is_closing());
    assert_eq!(session.session.deadline(&LIMITS), Some(session.now + LIMITS.client_idle));
}

#[test]
fn a_half_closed_session_without_a_byte_is_ended_and_an_open_one_is_not() {
    let mut session = Driver::relaying();
    session.waits(LIMITS.half_closed);
    assert!(!session.session.is_closing());
    session.meets_end(ToBackend);
    session.waits(LIMITS.half_closed - Duration::from_micros(1));
    session.carries(ToClient, 1);
    session.waits(LIMITS.half_closed - Duration::from_micros(1));
    assert!(!session.session.is_closing());
    session.waits(Duration::from_micros(1));
    assert_eq!(session.joins().reason, CloseReason::HalfClosed);
    assert_eq!(session.closes(), [CloseHow::Reset; 2]);
}

#[test]
fn the_time_of_a_half_closed_session_begins_when_a_side_is_found_gone() {
    let mut session = Driver::relaying();
    session.waits(LIMITS.half_closed * 2);
    session.breaks(Client, Errno::EPIPE);
    assert_eq!(session.session.deadline(&LIMITS), Some(session.now + LIMITS.half_closed));
}

#[test]
fn a_sink_that_acknowledges_more_is_not_idle_and_a_stuck_one_is_ended_by_the_second_look() {
    let mut driver = Driver::relaying();
    driver.meets_end(ToBackend);
    driver.pulls(ToClient, 100);
    for _ in 0..5 {
        driver.waits(LIMITS.half_closed);
        assert!(!driver.session.is_closing(), "bytes move");
        driver.acknowledged += 1;
    }
    driver.waits(LIMITS.half_closed);
    assert!(!driver.session.is_closing(), "more has been acknowledged since the last look");
    driver.waits(LIMITS.half_closed);
    assert!(driver.session.is_closing());
    assert_eq!(driver.joins().reason, CloseReason::HalfClosed);
}

#[test]
fn a_sink_is_looked_at_anew_after_a_push() {
    let mut driver = Driver::relaying();
    driver.meets_end(ToBackend);
    driver.pulls(ToClient, 100);
    driver.waits(LIMITS.half_closed);
    driver.pushes(ToClient, 1);
    driver.waits(LIMITS.half_closed);
    assert!(!driver.session.is_closing(), "a push has ended meanwhile");
}
