//! What the workers are told and whom they meet: plans, quotas, mail, and the peers' scripts, all
//! from the seed.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use fanin::backend::Member;
use fanin::backend::board::{Board, Room};
use fanin::backend::choose::Algorithm;
use fanin::gate::Quota;
use fanin::session::SessionLimits;
use fanin::worker::plan::{Backend, Names, Plan, Route, Source};
use fanin::worker::queue::Queue;

use crate::faults::{Fault, Faults, Random};
use crate::socket::{Act, Reading, Socket};

pub(crate) const SECOND: u64 = 1_000_000;

/// Everything about one run that is known before it begins.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) workers: u16,
    pub(crate) sessions_max: u32,
    pub(crate) quota: Arc<Quota>,
    /// By listener.
    pub(crate) quotas: Vec<Arc<Quota>>,
    /// The first, and those that replace it.
    pub(crate) plans: Vec<Arc<Plan>>,
    pub(crate) boards: Vec<Arc<Board>>,
    pub(crate) records_max: usize,
    /// Microseconds on the clock when it all begins.
    pub(crate) start: u64,
    /// From then on nothing goes wrong any more, and peers come to their end.
    pub(crate) calm_at: u64,
    pub(crate) ending: Ending,
    pub(crate) traffic: Traffic,
}

/// How a run ends once all is calm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Drain,
    Stop,
    MailboxGone,
}

/// What the supervisor does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mail {
    /// Index into [`Scenario::plans`].
    Replace(usize),
    Drain {
        grace: Duration,
    },
    /// The established sessions of the server of this board end.
    Expel(usize),
    /// So many sessions of the server of this board leave it at rest.
    Shed(usize, u32),
    Stop,
    /// It goes away.
    Gone,
}

/// The sizes of things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// Connections to each worker.
    pub(crate) arrivals: u64,
    /// Bytes that one operation moves at most.
    pub(crate) move_max: u64,
    /// Bytes that one act sends at most.
    pub(crate) send_max: u64,
    /// Unread bytes that fit between us and a peer.
    pub(crate) window: u64,
}

impl Scenario {
    pub(crate) fn new(random: &mut Random, faults: &mut Faults) -> Self {
        let listeners = random.range(1, 2);
        let backends = random.range(1, 2);
        let quotas: Vec<_> =
            (0..listeners).map(|_| Arc::new(Quota::new(places(random, 40)))).collect();
        let boards: Vec<_> = (0..6).map(|n| Arc::new(Board::new(format!("b/{n}")))).collect();
        let first = plan(random, &quotas, &boards, backends);
        let mut plans = vec![Arc::new(first)];
        while faults.strikes(Fault::Replace, random) && plans.len() < 6 {
            let next = another(random, &plans[0], &boards);
            plans.push(Arc::new(next));
        }
        let start = random.spread(100 * 86_400 * SECOND);
        let move_max = random.pick(&[3, 100, 1448, 16_384, 65_536]);
        Self {
            workers: if random.chance(300_000) { 2 } else { 1 },
            sessions_max: places(random, 60),
            quota: Arc::new(Quota::new(places(random, 60))),
            quotas,
            plans,
            boards,
            records_max: if faults.strikes(Fault::RecordsFull, random) { 2 } else { 4096 },
            start,
            calm_at: start + random.range(20, 150) * SECOND,
            ending: random.pick(&[Ending::Drain, Ending::Stop, Ending::MailboxGone]),
            traffic: Traffic {
                arrivals: random.range(10, 200),
                move_max,
                send_max: (move_max * 40).min(600_000),
                window: move_max * random.range(1, 6),
            },
        }
    }

    /// The process's, then those of the listeners.
    pub(crate) fn all_quotas(&self) -> impl Iterator<Item = &Quota> {
        std::iter::once(&self.quota).chain(&self.quotas).map(|quota| &**quota)
    }

    /// The places to wait in, of every plan.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.plans.iter().flat_map(|plan| &plan.backends).map(|backend| &*backend.queue)
    }

    /// What is wanted of the sessions of some server.
    pub(crate) fn departure(&self, random: &mut Random, faults: &mut Faults) -> Option<Mail> {
        let board = random.index(self.boards.len());
        if faults.strikes(Fault::Expel, random) {
            return Some(Mail::Expel(board));
        }
        let sessions = u32::try_from(random.below(8)).expect("few");
        faults.strikes(Fault::Shed, random).then_some(Mail::Shed(board, sessions))
    }

    /// The mail of one worker, with the moment of each.
    pub(crate) fn mail(&self, random: &mut Random, faults: &mut Faults) -> Vec<(u64, Mail)> {
        let span = self.calm_at - self.start;
        let mut mail = Vec::new();
        for plan in 1..self.plans.len() {
            mail.push((self.start + random.below(span), Mail::Replace(plan)));
        }
        if faults.strikes(Fault::Drain, random) {
            let grace = Duration::from_micros(random.spread(40 * SECOND));
            mail.push((self.start + random.below(span), Mail::Drain { grace }));
        }
        if faults.strikes(Fault::Stop, random) {
            mail.push((self.start + random.below(span), Mail::Stop));
        }
        if faults.strikes(Fault::MailboxGone, random) {
            mail.push((self.start + random.below(span), Mail::Gone));
        }
        mail
    }
}

const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::RoundRobin,
    Algorithm::LeastConnections,
    Algorithm::Source,
    Algorithm::First,
    Algorithm::Random,
];

/// A number of places: usually few enough to run out of.
fn places(random: &mut Random, last: u64) -> u32 {
    let places = if random.chance(500_000) { random.range(1, last) } else { 10_000 };
    u32::try_from(places).expect("places are few")
}

fn plan(random: &mut Random, quotas: &[Arc<Quota>], boards: &[Arc<Board>], backends: u64) -> Plan {
    let routes = quotas
        .iter()
        .map(|quota| Route {
            backend: random.index(usize::try_from(backends).expect("few")),
            limits: limits(random),
            quota: Arc::clone(quota),
            traffic: Arc::default(),
            rules: Arc::default(),
            names: Names::default(),
        })
        .collect();
    let mut first_board = 0;
    let more = u16::try_from(random.spread(60)).expect("few ports");
    // The same in every plan: how often a connect is tried again depends on them.
    let addresses = sources(random);
    let backends = (0..backends)
        .map(|_| {
            let servers = random.range(1, 3);
            let members = (0..servers).map(|n| member(random, boards, first_board + n)).collect();
            first_board += servers;
            Backend {
                members,
                algorithm: random.pick(&ALGORITHMS),
                redispatch: random.chance(600_000),
                queue: Arc::new(queue(random)),
                drain_moved: random.chance(500_000),
                source: Source { addresses: addresses.clone(), ports: ports(random, more) },
                spare: None,
            }
        })
        .collect();
    let listening = u16::try_from(quotas.len()).expect("few");
    Plan { routes, listening, backends }
}

/// A plan with other servers, weights and limits for the same listeners.
fn another(random: &mut Random, before: &Plan, boards: &[Arc<Board>]) -> Plan {
    let mut plan = before.clone();
    for route in &mut plan.routes {
        route.limits = limits(random);
        route.backend = random.index(plan.backends.len());
    }
    let half = boards.len() as u64 / 2;
    for (first_board, backend) in (0..).step_by(boards.len() / 2).zip(&mut plan.backends) {
        let servers = random.range(1, half);
        backend.members = (0..servers).map(|n| member(random, boards, first_board + n)).collect();
        backend.redispatch = random.chance(600_000);
        if random.chance(300_000) {
            backend.queue = Arc::new(queue(random));
        }
        // A name may lose one of its addresses.
        for member in backend.members.iter_mut().filter(|_| random.chance(300_000)) {
            member.addresses.truncate(1);
        }
        if let Some(range) = &backend.source.ports {
            let more = range.end() - range.start();
            backend.source.ports = ports(random, more);
        }
    }
    plan
}

/// Often none, and usually short of places or of patience.
fn queue(random: &mut Random) -> Queue {
    let patience = if random.chance(400_000) { 0 } else { random.spread(10 * SECOND) };
    Queue::new(Duration::from_micros(patience), places(random, 6))
}

fn limits(random: &mut Random) -> SessionLimits {
    let mut up_to = |seconds| Duration::from_micros(100_000 + random.spread(seconds * SECOND));
    let (connect, client_idle, server_idle) = (up_to(5), up_to(60), up_to(60));
    let half_closed = up_to(30);
    let attempts_max = u16::try_from(random.range(1, 4)).expect("few");
    SessionLimits { connect, client_idle, server_idle, half_closed, attempts_max }
}

/// Server `n`: always the same board and addresses, so that a plan may take it up again.
fn member(random: &mut Random, boards: &[Arc<Board>], n: u64) -> Member {
    let number = u8::try_from(n).expect("few servers");
    let loopback = n % 4 == 3;
    let ip = |last| if loopback { [127, 0, 0, last] } else { [192, 0, 2, last] };
    let address = |last| SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip(last))), 443);
    let mut addresses = vec![address(10 + number)];
    if n % 3 == 1 {
        addresses.push(address(100 + number));
    }
    Member {
        board: Arc::clone(&boards[usize::from(number) % boards.len()]),
        addresses,
        weight: random.pick(&[1, 1, 1, 2, 5, 0]),
        backup: random.chance(150_000),
        room: Room {
            sessions: random.chance(250_000).then(|| places(random, 8)),
            connecting: random.chance(150_000).then(|| places(random, 3)),
        },
        slow_start: Duration::ZERO,
        introduce: None,
    }
}

/// Which server has an address.
pub(crate) fn server_of(address: SocketAddr) -> u8 {
    let IpAddr::V4(ip) = address.ip() else { unreachable!("all servers are IPv4") };
    let [.., last] = ip.octets();
    if last >= 100 { last - 100 } else { last - 10 }
}

/// None, or one of two ranges that do not overlap.
fn ports(random: &mut Random, more: u16) -> Option<RangeInclusive<u16>> {
    let first = random.pick(&[10_240, 20_480]);
    random.chance(500_000).then(|| first..=first + more)
}

/// No address, one or two, and perhaps one from which no server can be connected to.
fn sources(random: &mut Random) -> Vec<IpAddr> {
    let count = random.pick(&[0, 0, 1, 2]);
    let mut addresses: Vec<IpAddr> =
        (0..count).map(|last| Ipv4Addr::new(198, 51, 100, last).into()).collect();
    if random.chance(100_000) {
        addresses.push(Ipv6Addr::LOCALHOST.into());
    }
    addresses
}

/// The peer at the far end of a new connection.
pub(crate) fn peer(random: &mut Random, faults: &mut Faults, traffic: &Traffic) -> Socket {
    let mut script = VecDeque::new();
    for _ in 0..random.below(7) {
        script.push_back(match random.below(8) {
            0..4 => Act::Send(random.spread(traffic.send_max)),
            4 => Act::Wait(random.spread(20 * SECOND)),
            5 => Act::Wait(random.spread(50_000)),
            6 => Act::AwaitBytes(random.spread(traffic.send_max)),
            _ => Act::Read(Reading::Eagerly),
        });
    }
    if faults.strikes(Fault::PeerStalls, random) {
        let at = random.index(script.len() + 1);
        script.insert(at, Act::Read(Reading::NotAtAll));
    }
    let reading = if faults.strikes(Fault::PeerReadsSlowly, random) {
        let bytes = 1 + traffic.window / random.range(1, 4);
        Reading::Slowly { bytes, every: random.spread(3 * SECOND) }
    } else {
        Reading::Eagerly
    };
    finish(&mut script, random, faults);
    Socket::new(script, reading, traffic.window)
}

fn finish(script: &mut VecDeque<Act>, random: &mut Random, faults: &mut Faults) {
    if faults.strikes(Fault::PeerSilent, random) {
        return;
    }
    if faults.strikes(Fault::PeerResets, random) {
        script.push_back(Act::Reset);
    } else if faults.strikes(Fault::PeerFails, random) {
        script.push_back(Act::Fail);
    } else if faults.strikes(Fault::PeerCloses, random) {
        script.push_back(Act::Close);
    } else if random.chance(300_000) {
        script.push_back(Act::AwaitEnd);
        script.push_back(Act::Close);
    } else {
        script.push_back(Act::End);
    }
    // One that has ended its stream may yet go away before it has read the other.
    if random.chance(200_000) {
        script.push_back(Act::Wait(random.spread(SECOND)));
        script.push_back(if random.chance(500_000) { Act::Reset } else { Act::Close });
    }
}

/// The peer when all is calm: says something and ends.
pub(crate) fn calm_peer(random: &mut Random, traffic: &Traffic) -> Socket {
    let script = [Act::Send(random.spread(traffic.send_max)), Act::End];
    Socket::new(script.into(), Reading::Eagerly, traffic.window)
}

/// Who the `n`th client of a worker is; no two are alike.
pub(crate) fn client(worker: u16, n: u64) -> SocketAddr {
    let [high, low] = worker.to_be_bytes();
    let port = u16::try_from(1024 + n).expect("clients are few");
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, high, low, 1)), port)
}
