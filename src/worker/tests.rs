//! What the simulation does not tell by itself: who comes first, who waits, what a new plan leaves
//! alone. [`Hand`] is an engine that does nothing but what a test says.

use std::collections::HashSet;
use std::sync::mpsc::{Sender, channel};

use nix::errno::Errno;

use super::*;
use crate::backend::Member;
use crate::backend::board::{Board, Room};
use crate::backend::choose::Algorithm;
use crate::engine::EngineStats;
use crate::gate::rules::Rules;
use crate::op::{Flow, Outcome, Side};
use crate::worker::plan::{Backend, Names, Route, Source};
use crate::worker::queue::Queue;

const FIRST: ListenerId = ListenerId(0);
const SECOND: ListenerId = ListenerId(1);
const LIMITS: SessionLimits = SessionLimits {
    connect: Duration::from_secs(5),
    client_idle: Duration::from_secs(120),
    server_idle: Duration::from_secs(120),
    half_closed: Duration::from_secs(30),
    attempts_max: 3,
};

/// An engine worked by hand.
#[derive(Debug, Default)]
struct Hand {
    now: Time,
    coming: Vec<Completion>,
    ops: Vec<Op>,
    /// By listener.
    accepting: [bool; 2],
    unlistened: Vec<ListenerId>,
    /// Numbers of sockets, in the order in which they were adopted.
    adopted: Vec<u32>,
    refused: Vec<u32>,
    /// What the next greeting is.
    greeting: Vec<u8>,
    /// What the server is told first at the next connect.
    introduction: Option<Vec<u8>>,
}

impl Engine for Hand {
    fn listen(&mut self, _: ListenerId, _: std::os::fd::OwnedFd) -> io::Result<()> {
        Ok(())
    }

    fn accepting(&mut self, listener: ListenerId, on: bool) {
        self.accepting[usize::from(listener.0)] = on;
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.unlistened.push(listener);
    }

    fn adopt(&mut self, socket: AcceptedSocket, _: SessionKey) {
        self.adopted.push(socket.into_engine());
    }

    fn refuse(&mut self, socket: AcceptedSocket) {
        self.refused.push(socket.into_engine());
    }

    fn submit(&mut self, op: Op) {
        self.ops.push(op);
    }

    fn introduce(&mut self, _: SessionKey, bytes: Option<Vec<u8>>) {
        self.introduction = bytes;
    }

    fn destination(&self, _: SessionKey) -> Option<SocketAddr> {
        Some("10.0.0.1:3834".parse().expect("an address"))
    }

    fn greeting(&self, _: SessionKey) -> &[u8] {
        &self.greeting
    }

    fn wait(&mut self, _: Option<Time>, completions: &mut Vec<Completion>) -> io::Result<Time> {
        completions.append(&mut self.coming);
        Ok(self.now)
    }

    fn now(&self) -> Time {
        self.now
    }

    fn acknowledged(&mut self, _: SessionKey, _: Side) -> u32 {
        0
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}

/// A worker on an engine worked by hand.
struct Bench {
    worker: Worker<Hand>,
    mailbox: Sender<Command>,
    records: rtrb::Consumer<SessionRecord>,
    quota: Arc<Quota>,
    plan: Plan,
    clients: u32,
}

impl Bench {
    /// Two listeners with `places` each, in front of servers of these names.
    fn new(places: [u32; 2], servers: &[&str]) -> Self {
        let routes = places.map(|limit| Route {
            backend: 0,
            limits: LIMITS,
            quota: Arc::new(Quota::new(limit)),
            traffic: Arc::default(),
            rules: Arc::default(),
            names: Names::default(),
        });
        let members = (1..).zip(servers).map(|(last, name)| member(name, last)).collect();
        let backend = Backend {
            members,
            algorithm: Algorithm::default(),
            redispatch: true,
            queue: Arc::new(Queue::new(Duration::ZERO, 1)),
            drain_moved: false,
            source: Source::default(),
            spare: None,
        };
        Self::with(Plan { routes: routes.into(), listening: 2, backends: vec![backend] })
    }

    fn with(plan: Plan) -> Self {
        let (mailbox, receiver) = channel();
        let (producer, records) = rtrb::RingBuffer::new(64);
        let quota = Arc::new(Quota::new(2000));
        let setup = Setup {
            index: 0,
            workers: 1,
            sessions_max: 2000,
            spares_max: 16,
            plan: Arc::new(plan.clone()),
            quota: Arc::clone(&quota),
            counters: Arc::default(),
            mailbox: receiver,
            records: producer,
            seed: 1,
        };
        let hand = Hand { now: Time::from_micros(1_000_000), ..Hand::default() };
        Self { worker: Worker::new(hand, setup), mailbox, records, quota, plan, clients: 0 }
    }

    fn hand(&mut self) -> &mut Hand {
        self.worker.engine_mut()
    }

    /// A client comes; its socket has the returned number.
    fn comes(&mut self, listener: ListenerId) -> u32 {
        let number = self.clients;
        self.clients += 1;
        let peer = SocketAddr::from(([10, 0, 0, 1], 1024 + u16::try_from(number).unwrap()));
        let socket = AcceptedSocket::from_engine(number);
        self.hand().coming.push(Completion::Accepted { listener, socket, peer });
        number
    }

    fn ends(&mut self, session: SessionKey, slot: Slot, outcome: Outcome) {
        self.hand().coming.push(Completion::Ended { session, slot, outcome });
    }

    fn turn(&mut self) -> Turn {
        self.worker.turn().unwrap()
    }

    /// A turn at a later time.
    fn later(&mut self, time: Duration) -> Turn {
        self.hand().now = self.hand().now + time;
        self.turn()
    }

    fn tell(&mut self, command: Command) {
        self.mailbox.send(command).unwrap();
        self.hand().coming.push(Completion::Woken);
    }

    fn ops(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.hand().ops)
    }

    /// The keys and addresses of the connects that were asked for since somebody last looked.
    fn connects(&mut self) -> Vec<(SessionKey, SocketAddr, Option<u16>)> {
        let connect = |op| match op {
            Op::Connect { session, address, source } => {
                Some((session, address, source.map(|source| source.port())))
            }
            _ => None,
        };
        self.ops().into_iter().filter_map(connect).collect()
    }

    /// A client comes and is connected to its server.
    fn serves(&mut self, listener: ListenerId) -> SessionKey {
        self.comes(listener);
        self.turn();
        let (session, ..) = self.connects()[0];
        self.ends(session, Slot::Connect, Outcome::Done);
        self.turn();
        self.ops();
        session
    }

    /// Its client resets, and it is closed.
    fn resets(&mut self, session: SessionKey) {
        self.ends(session, Slot::Pull(Flow::ToBackend), Outcome::Failed(Errno::ECONNRESET));
        self.ends(session, Slot::Pull(Flow::ToClient), Outcome::Cancelled);
        self.turn();
        self.ends(session, Slot::Close, Outcome::Done);
        self.turn();
    }
}

fn member(name: &str, last: u8) -> Member {
    Member {
        board: Arc::new(Board::new(name.into())),
        addresses: vec![SocketAddr::from(([192, 0, 2, last], 443))],
        weight: 1,
        backup: false,
        room: Room::default(),
        slow_start: Duration::ZERO,
        introduce: None,
    }
}

const REFUSED: Outcome = Outcome::Failed(Errno::ECONNREFUSED);

// Places.

#[test]
fn a_listener_without_places_pauses_and_goes_on_when_one_comes_free() {
    let mut bench = Bench::new([1, 1], &["a"]);
    let session = bench.serves(FIRST);
    assert_eq!(bench.hand().accepting, [true, true]);
    bench.comes(FIRST);
    bench.turn();
    assert_eq!(bench.hand().accepting, [false, true], "only the one that is full");
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.hand().accepting, [false, true]);
    bench.resets(session);
    assert_eq!(bench.hand().adopted, [0, 1], "who waited has the place");
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.hand().accepting, [false, true], "it is taken again");
    let (session, ..) = bench.connects()[0];
    bench.ends(session, Slot::Connect, Outcome::Done);
    bench.turn();
    bench.resets(session);
    bench.later(Duration::from_millis(16));
    assert_eq!(bench.hand().accepting, [true, true]);
    assert_eq!(bench.quota.taken(), 0);
}

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let mut bench = Bench::new([2, 1], &["a"]);
    let sessions = [bench.serves(FIRST), bench.serves(FIRST)];
    let other = bench.serves(SECOND);
    for listener in [FIRST, SECOND, FIRST] {
        bench.comes(listener);
    }
    bench.turn();
    assert_eq!(bench.hand().adopted, [0, 1, 2]);
    bench.resets(other);
    assert_eq!(bench.hand().adopted, [0, 1, 2, 4], "the first of the second listener");
    // Somebody who comes now is not served before those who wait.
    bench.comes(FIRST);
    sessions.into_iter().for_each(|session| bench.resets(session));
    assert_eq!(bench.hand().adopted, [0, 1, 2, 4, 3, 5]);
    assert!(bench.hand().refused.is_empty());
}

#[test]
fn so_many_wait_and_no_more() {
    let mut bench = Bench::new([1, 1], &["a"]);
    bench.serves(FIRST);
    let last = (0..=WAITING_MAX).map(|_| bench.comes(FIRST)).last().unwrap();
    bench.turn();
    assert_eq!(bench.hand().refused, [last]);
}

#[test]
fn a_kernel_without_descriptors_is_left_alone_for_a_while() {
    let mut bench = Bench::new([9, 9], &["a"]);
    bench.hand().accepting = [false, true];
    let failed = Completion::AcceptFailed { listener: FIRST, errno: Errno::EMFILE };
    bench.hand().coming.push(failed);
    bench.turn();
    bench.later(Duration::from_millis(99));
    assert_eq!(bench.hand().accepting, [false, true]);
    bench.later(Duration::from_millis(1));
    assert_eq!(bench.hand().accepting, [true, true]);
}

// A new plan.

#[test]
fn a_new_plan_leaves_sessions_alone_and_takes_new_ones_elsewhere() {
    let mut bench = Bench::new([9, 9], &["a"]);
    let session = bench.serves(FIRST);
    let before = Arc::clone(&bench.plan.backends[0].members[0].board);
    let mut plan = bench.plan.clone();
    plan.backends[0].members = vec![member("b", 2)];
    bench.tell(Command::Replace(Arc::new(plan)));
    bench.turn();
    assert_eq!(bench.ops(), [], "nobody is disturbed");
    assert_eq!(before.sessions(), 1);
    bench.comes(FIRST);
    bench.turn();
    assert_eq!(bench.connects()[0].1, "192.0.2.2:443".parse().unwrap());
    bench.resets(session);
    assert_eq!(before.sessions(), 0);
    let record = bench.records.pop().unwrap();
    assert_eq!(record.server.unwrap().name(), "a");
}

#[test]
fn deadlines_of_a_new_plan_hold_for_sessions_that_exist() {
    let mut bench = Bench::new([9, 9], &["a"]);
    let session = bench.serves(FIRST);
    let mut plan = bench.plan.clone();
    plan.routes[0].limits.server_idle = Duration::from_secs(3);
    bench.tell(Command::Replace(Arc::new(plan)));
    bench.turn();
    bench.later(Duration::from_millis(2900));
    assert_eq!(bench.ops(), []);
    bench.later(Duration::from_millis(116));
    let cancel = Op::Cancel { session, slot: Slot::Pull(Flow::ToBackend) };
    assert_eq!(bench.ops().first(), Some(&cancel));
}

#[test]
fn a_new_range_of_ports_holds_at_once_and_the_old_one_until_its_last_session() {
    let mut bench = Bench::new([9, 9], &["a"]);
    let mut plan = bench.plan.clone();
    plan.backends[0].source.ports = Some(10_240..=10_241);
    bench = Bench::with(plan.clone());
    bench.comes(FIRST);
    bench.turn();
    let connects = bench.connects();
    assert_eq!(connects[0].2, Some(10_240));
    plan.backends[0].source.ports = Some(20_480..=20_481);
    bench.tell(Command::Replace(Arc::new(plan.clone())));
    bench.comes(FIRST);
    bench.turn();
    assert_eq!(bench.connects()[0].2, Some(20_480));
    plan.backends[0].source.ports = Some(10_240..=10_241);
    bench.tell(Command::Replace(Arc::new(plan)));
    bench.comes(FIRST);
    bench.turn();
    assert_eq!(bench.connects()[0].2, Some(10_241), "10240 is still in use");
}

/// Sources of the connects that each of so many clients makes while each fails like this.
fn sources_tried(bench: &mut Bench, failure: Outcome) -> Vec<Option<SocketAddr>> {
    bench.comes(FIRST);
    bench.turn();
    let mut tried = Vec::new();
    loop {
        let connects: Vec<_> = bench
            .ops()
            .into_iter()
            .filter_map(|op| match op {
                Op::Connect { session, source, .. } => Some((session, source)),
                _ => None,
            })
            .collect();
        let Some(&(session, source)) = connects.first() else { return tried };
        tried.push(source);
        bench.ends(session, Slot::Connect, failure);
        bench.turn();
    }
}

#[test]
fn every_source_address_is_tried_and_none_but_those_configured() {
    let addresses: Vec<std::net::IpAddr> =
        ["198.51.100.1", "198.51.100.2", "2001:db8::1"].map(|text| text.parse().unwrap()).into();
    let mut plan = Bench::new([9, 9], &["a"]).plan.clone();
    plan.backends[0].source = Source { addresses: addresses.clone(), ports: None };
    let taken = Outcome::Failed(Errno::EADDRNOTAVAIL);
    let mut tried = sources_tried(&mut Bench::with(plan.clone()), taken);
    tried.sort();
    let at = |address: usize| Some(SocketAddr::new(addresses[address], 0));
    assert_eq!(tried, [at(0), at(1)], "the server is IPv4");

    // Two ports of ours at each address, and then a port of the kernel's choice at each.
    plan.backends[0].source.ports = Some(10_240..=10_241);
    let tried = sources_tried(&mut Bench::with(plan), taken);
    let ours = tried.iter().flatten().filter(|source| source.port() > 0).count();
    let kernels: HashSet<_> = tried.iter().flatten().filter(|source| source.port() == 0).collect();
    assert_eq!((ours, kernels.len()), (8, 2), "{tried:?}");
    assert!(tried.iter().flatten().all(|source| addresses[..2].contains(&source.ip())));
    assert_eq!(tried[0].unwrap().ip(), tried[2].unwrap().ip(), "they take turns: {tried:?}");
    assert_ne!(tried[0].unwrap().ip(), tried[1].unwrap().ip());
}

// Attempts.

#[test]
fn without_redispatch_a_session_stays_with_its_server_also_after_a_pause() {
    let mut bench = Bench::new([9, 9], &["a", "b"]);
    let mut plan = bench.plan.clone();
    plan.backends[0].redispatch = false;
    bench = Bench::with(plan);
    bench.comes(FIRST);
    bench.turn();
    let (session, first, _) = bench.connects()[0];
    for _ in 1..LIMITS.attempts_max {
        bench.ends(session, Slot::Connect, REFUSED);
        bench.turn();
        assert_eq!(bench.connects(), [], "not at once");
        bench.later(Duration::from_secs(2));
        assert_eq!(bench.connects(), [(session, first, None)]);
    }
}

#[test]
fn what_came_during_a_stall_counts_before_any_deadline_but_not_for_ever() {
    let mut bench = Bench::new([9, 9], &["a"]);
    let session = bench.serves(FIRST);
    bench.ops();
    let moved = Outcome::Moved(std::num::NonZeroU32::MIN);
    let is_cancel = |op: &Op| matches!(op, Op::Cancel { .. });
    // A byte has come, and is passed on in the turn after: then both sides have moved.
    bench.ends(session, Slot::Pull(Flow::ToBackend), moved);
    bench.later(LIMITS.client_idle * 2);
    bench.ends(session, Slot::Push(Flow::ToBackend), moved);
    bench.turn();
    bench.turn();
    assert!(!bench.ops().iter().any(is_cancel), "it was not idle");
    // Others keep the worker busy.
    for late in [LIMITS.client_idle * 2, CATCH_UP_MAX] {
        assert!(!bench.ops().iter().any(is_cancel));
        bench.hand().coming.push(Completion::Woken);
        bench.later(late);
    }
    assert!(bench.ops().iter().any(is_cancel), "it was idle");
}

#[test]
fn a_session_that_waits_for_a_server_which_is_taken_away_goes_to_another() {
    let mut bench = Bench::new([9, 9], &["a"]);
    let mut plan = bench.plan.clone();
    plan.backends[0].redispatch = false;
    bench = Bench::with(plan.clone());
    bench.comes(FIRST);
    bench.turn();
    let (session, ..) = bench.connects()[0];
    bench.ends(session, Slot::Connect, REFUSED);
    plan.backends[0].members = vec![member("b", 2)];
    bench.turn();
    bench.tell(Command::Replace(Arc::new(plan)));
    bench.later(Duration::from_secs(2));
    // So late that what came is heard first.
    bench.turn();
    assert_eq!(bench.connects()[0].1, "192.0.2.2:443".parse().unwrap());
}

// The end.

#[test]
fn a_drain_takes_whoever_is_in_the_queue_and_then_no_more() {
    let mut bench = Bench::new([9, 9], &["a"]);
    bench.tell(Command::Drain { grace: Duration::from_secs(30) });
    bench.turn();
    for _ in 0..3 {
        bench.comes(FIRST);
        assert_eq!(bench.turn(), Turn::More);
    }
    assert_eq!(bench.hand().unlistened, []);
    bench.turn();
    assert_eq!(bench.hand().unlistened, [FIRST, SECOND]);
    assert_eq!(bench.hand().adopted, [0, 1, 2]);
}

#[test]
fn a_drain_ends_although_connections_never_stop_coming() {
    let mut bench = Bench::new([2000, 9], &["a"]);
    bench.tell(Command::Drain { grace: Duration::from_secs(30) });
    let start = bench.hand().now;
    while bench.hand().unlistened.is_empty() {
        bench.comes(FIRST);
        bench.later(Duration::from_millis(10));
        assert!(bench.hand().now.since(start) <= ending::UNLISTEN_MAX + Duration::from_millis(20));
    }
}

#[test]
fn nobody_is_let_in_after_a_stop() {
    let mut bench = Bench::new([9, 9], &["a"]);
    bench.serves(FIRST);
    bench.tell(Command::Stop);
    let late = bench.comes(FIRST);
    assert_eq!(bench.turn(), Turn::More);
    assert_eq!(bench.hand().refused, [late]);
}

#[test]
fn a_stop_waits_for_an_engine_that_answers_and_not_for_one_that_does_not() {
    let mut bench = Bench::new([9, 9], &["a"]);
    let session = bench.serves(FIRST);
    bench.tell(Command::Stop);
    bench.turn();
    bench.ends(session, Slot::Pull(Flow::ToClient), Outcome::Cancelled);
    assert_eq!(
        bench.later(ending::STOP_PATIENCE * 100),
        Turn::More,
        "the process was stopped meanwhile"
    );
    assert_eq!(bench.later(ending::STOP_PATIENCE - Duration::from_millis(1)), Turn::More);
    assert_eq!(bench.later(Duration::from_millis(1)), Turn::Over);
}

// The ramp.

#[test]
fn a_ramp_holds_a_crowd_in_the_queue_after_a_start_and_after_an_outage() {
    let mut plan = Bench::new([100, 100], &["a"]).plan;
    plan.routes[0].rules = Arc::new(Rules { ramp: Some(10), ..Rules::default() });
    let mut bench = Bench::with(plan);
    bench.turn();
    for _ in 0..5 {
        bench.comes(FIRST);
    }
    bench.turn();
    assert_eq!((bench.hand().adopted.len(), bench.hand().accepting[0]), (1, false));
    bench.later(Duration::from_millis(100));
    assert_eq!(bench.hand().adopted.len(), 2, "ten a second");
    assert!(bench.hand().refused.is_empty());
    // When the ramp is over whoever comes is let in.
    bench.later(Duration::from_secs(51));
    bench.later(Duration::from_millis(20));
    assert_eq!((bench.hand().adopted.len(), bench.hand().accepting[0]), (5, true));

    // One finds no server, however often it tries, and gives up.
    bench.ops();
    bench.comes(FIRST);
    bench.turn();
    let (session, ..) = bench.connects()[0];
    for _ in 0..LIMITS.attempts_max {
        bench.ends(session, Slot::Connect, REFUSED);
        bench.turn();
        bench.later(Duration::from_secs(3));
    }
    bench.ends(session, Slot::Pull(Flow::ToBackend), Outcome::Cancelled);
    bench.turn();
    bench.ends(session, Slot::Close, Outcome::Done);
    bench.turn();
    let record = bench.records.pop().unwrap();
    assert_eq!(record.report.reason, CloseReason::ConnectRefused);
    assert_eq!(bench.hand().adopted.len(), 6);
    bench.ops();
    // The next one is connected, and from then on the crowd waits again.
    bench.serves(FIRST);
    let there = bench.hand().adopted.len();
    for _ in 0..5 {
        bench.comes(FIRST);
    }
    bench.turn();
    assert_eq!((bench.hand().adopted.len() - there, bench.hand().accepting[0]), (1, false));
}
