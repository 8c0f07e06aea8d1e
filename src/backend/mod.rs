//! Where a session goes. PURE, but for [`board`], whose counts the workers share.
//!
//! [`Backends`] is one worker's view: its own turns, its own opinion of each server's health. A
//! reload gives it a new list; a server that stays keeps its board, its turn and its record, and
//! one that was taken away is remembered until its last session has ended.

pub mod backoff;
pub mod board;
pub mod choose;
pub mod dice;
mod health;
pub mod histogram;
pub mod ports;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::op::ProxyVersion;

use board::{Admin, Board, RAMP_FULL, Room};
use choose::{Algorithm, Turn};
use health::Health;

/// One server in the list of a backend, as all workers are told of it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who it is: members with the same board are the same server.
    pub board: Arc<Board>,
    /// Where it is. Sessions take turns among its addresses; without one it gets none.
    pub addresses: Vec<SocketAddr>,
    pub weight: u16,
    pub backup: bool,
    /// Sessions that it takes from the process.
    pub room: Room,
    /// How long it takes to grow into its share after it came back; zero has it at once.
    pub slow_start: Duration,
    /// The PROXY header with which it is told whose a connection is.
    pub introduce: Option<ProxyVersion>,
}

/// Names a server of one worker. A session may remember one that was taken away meanwhile: like a
/// session's key it has a generation, so that it is not taken for the next one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerId {
    index: u16,
    generation: u16,
}

/// A server that has taken a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub server: ServerId,
    pub address: SocketAddr,
}

/// Who asks for a server, and how it is to be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub algorithm: Algorithm,
    pub client: IpAddr,
    /// Thirty-two bits of chance.
    pub lot: u32,
    /// Microseconds on the worker's clock.
    pub now: u64,
}

/// All backends as one worker sees them.
#[derive(Debug, Default)]
pub struct Backends {
    servers: Vec<Server>,
    /// For each backend of the configuration, its servers and their turns, in the same order.
    pools: Vec<Pool>,
}

#[derive(Debug)]
struct Server {
    member: Member,
    /// How many servers had this place before (wrapping).
    generation: u16,
    health: Health,
    next_address: usize,
    /// For [`Algorithm::Source`].
    identity: u64,
    /// Sessions of this worker, being connected or established.
    sessions: u32,
}

#[derive(Debug, Default)]
struct Pool {
    servers: Vec<ServerId>,
    turns: Vec<Turn>,
    /// Where the search for the least loaded begins.
    start: usize,
}

impl Backends {
    /// Takes over a new list. What stays, stays as it was.
    pub fn replace(&mut self, backends: &[Vec<Member>]) {
        let before = std::mem::take(&mut self.pools);
        for members in backends {
            let mut pool = Pool::default();
            for member in members {
                let id = self.place(member, backends);
                let credit = before.iter().find_map(|old| old.credit(id)).unwrap_or(0);
                pool.servers.push(id);
                pool.turns.push(Turn { weight: u32::from(member.weight) * RAMP_FULL, credit });
            }
            self.pools.push(pool);
        }
    }

    /// Chooses a server of backend `backend` and takes a place at it. `avoid` was tried and failed:
    /// it is chosen only if there is no other.
    pub fn choose(
        &mut self,
        backend: usize,
        avoid: Option<ServerId>,
        call: &Call,
    ) -> Option<Choice> {
        // Each row gives up one wish more: a healthy one, not tried before, among the regular
        // ones; then a backup; then a doubtful one; then the one that failed.
        const WISHES: [(bool, bool, bool); 6] = [
            (true, true, false),
            (true, true, true),
            (false, true, false),
            (false, true, true),
            (false, false, false),
            (false, false, true),
        ];
        let pool = self.pools.get_mut(backend)?;
        pool.weigh(&self.servers, call.now);
        for (healthy, fresh, backup) in WISHES {
            let may = |servers: &[Server], id: ServerId| {
                let server = &servers[usize::from(id.index)];
                server.member.backup == backup
                    && !server.member.addresses.is_empty()
                    && (!healthy
                        || (!server.member.board.is_down() && server.health.is_good(call.now)))
                    && (!fresh || avoid != Some(id))
                    && server.has_room()
            };
            // Another worker may take the last place between the look and the grasp.
            for _ in 0..pool.servers.len() {
                let eligible = |id: ServerId| may(&self.servers, id);
                let Some(index) = pool.pick(&self.servers, eligible, call) else { break };
                let id = pool.servers[index];
                let server = &mut self.servers[usize::from(id.index)];
                if server.member.board.acquire(server.member.room) {
                    server.sessions += 1;
                    server.health.on_trial(call.now);
                    return Some(Choice { server: id, address: server.next_address() });
                }
            }
        }
        None
    }

    /// Takes a place at the server of backend `backend` that was chosen before; at another if it is
    /// no longer one of them.
    pub fn choose_again(&mut self, backend: usize, id: ServerId, call: &Call) -> Option<Choice> {
        let is_there = self.pools.get(backend)?.servers.contains(&id);
        let member = &self.server(id).member;
        if !is_there || member.addresses.is_empty() || member.board.admin() != Admin::Ready {
            return self.choose(backend, None, call);
        }
        let server = self.server(id);
        let entered = server.member.board.acquire(server.member.room);
        entered.then(|| {
            server.sessions += 1;
            Choice { server: id, address: server.next_address() }
        })
    }

    /// The session's connect succeeded; it took so long. A connection that was there before it was
    /// asked for took no time, and says nothing of how the server fares now.
    pub fn on_connected(&mut self, id: ServerId, took: Option<Duration>) {
        let server = self.server(id);
        if took.is_some() {
            server.health.on_success();
        }
        server.member.board.established(took);
    }

    /// Whether a session that came now would be given to a server that nothing is known against, as
    /// far as this thread knows.
    pub fn is_up(&self, backend: usize, now: u64) -> bool {
        let up = |id: &ServerId| {
            let Server { member, health, .. } = &self.servers[usize::from(id.index)];
            member.takes_sessions() && !member.board.is_down() && health.is_good(now)
        };
        self.pools.get(backend).is_some_and(|pool| pool.servers.iter().any(up))
    }

    /// The session's connect failed for a reason that is the server's; its place is given back.
    pub fn on_connect_failed(&mut self, id: ServerId, now: u64, random: u32) {
        let server = self.server(id);
        server.health.on_failure(now, random);
        server.member.board.release_failed();
        server.sessions -= 1;
    }

    /// The session never came to the server, for a reason that is not the server's; its place is
    /// given back.
    pub fn release_unconnected(&mut self, id: ServerId) {
        let server = self.server(id);
        server.member.board.release_unconnected();
        server.sessions -= 1;
    }

    /// The session was connected, and has ended; its place is given back.
    pub fn release(&mut self, id: ServerId) {
        let server = self.server(id);
        server.member.board.release();
        server.sessions -= 1;
    }

    /// Whether a server that may have been taken away meanwhile takes sessions at this address.
    pub fn is_in_service(&self, id: ServerId, address: SocketAddr) -> bool {
        let server = self.servers.get(usize::from(id.index));
        server.filter(|server| server.generation == id.generation).is_some_and(|server| {
            let Server { member, .. } = server;
            member.takes_sessions()
                && !member.board.is_down()
                && member.addresses.contains(&address)
        })
    }

    /// Whether a server of a backend takes sessions, if it has room.
    pub fn takes_sessions(&self, backend: usize) -> bool {
        let Some(pool) = self.pools.get(backend) else { return false };
        let takes = |id: &ServerId| self.servers[usize::from(id.index)].member.takes_sessions();
        pool.servers.iter().any(takes)
    }

    /// Where a server is; nowhere, if it was taken away meanwhile.
    pub fn addresses(&self, id: ServerId) -> &[SocketAddr] {
        let server = self.servers.get(usize::from(id.index));
        match server.filter(|server| server.generation == id.generation) {
            Some(server) => &server.member.addresses,
            None => &[],
        }
    }

    /// The public record of a server that may have been taken away meanwhile.
    pub fn known(&self, id: ServerId) -> Option<&Arc<Board>> {
        let server = self.servers.get(usize::from(id.index))?;
        (server.generation == id.generation).then_some(&server.member.board)
    }

    /// The PROXY header that a server wants.
    pub fn introduction(&self, id: ServerId) -> Option<ProxyVersion> {
        self.servers[usize::from(id.index)].member.introduce
    }

    /// The public record of a server.
    pub fn board(&self, id: ServerId) -> &Arc<Board> {
        &self.servers[usize::from(id.index)].member.board
    }

    fn server(&mut self, id: ServerId) -> &mut Server {
        &mut self.servers[usize::from(id.index)]
    }

    /// Finds the server that this member is, or a place for a new one: that of a server which has
    /// no session and is not in the new list, else one at the end.
    fn place(&mut self, member: &Member, backends: &[Vec<Member>]) -> ServerId {
        let is =
            |server: &Server, member: &Member| Arc::ptr_eq(&server.member.board, &member.board);
        let gone = |server: &Server| {
            server.sessions == 0 && !backends.iter().flatten().any(|member| is(server, member))
        };
        let index = if let Some(index) = self.servers.iter().position(|old| is(old, member)) {
            self.servers[index].member = member.clone();
            index
        } else if let Some(index) = self.servers.iter().position(gone) {
            let generation = self.servers[index].generation.wrapping_add(1);
            self.servers[index] = Server { generation, ..Server::new(member.clone()) };
            index
        } else {
            self.servers.push(Server::new(member.clone()));
            self.servers.len() - 1
        };
        let generation = self.servers[index].generation;
        let index = u16::try_from(index).expect("the configuration bounds the servers");
        ServerId { index, generation }
    }
}

impl Pool {
    /// Takes over what an administrator wants. A server that is to get nothing has no weight: that is
    /// no wish that could be given up.
    fn weigh(&mut self, servers: &[Server], now: u64) {
        for (id, turn) in self.servers.iter().zip(&mut self.turns) {
            let Member { board, weight, slow_start, .. } = &servers[usize::from(id.index)].member;
            turn.weight = match board.admin() {
                Admin::Ready => u32::from(board.weight(*weight)) * board.ramp(*slow_start, now),
                Admin::Drain | Admin::Maint => 0,
            };
        }
    }

    /// One of those that may be chosen, as the call wants it.
    fn pick(
        &mut self,
        servers: &[Server],
        may: impl Fn(ServerId) -> bool,
        call: &Call,
    ) -> Option<usize> {
        let Self { servers: ids, turns, start } = self;
        let may = |index: usize| may(ids[index]);
        let server = |index: usize| &servers[usize::from(ids[index].index)];
        let sessions = |index: usize| server(index).member.board.sessions();
        match call.algorithm {
            Algorithm::RoundRobin => choose::round_robin(turns, may),
            Algorithm::LeastConnections => choose::least(turns, may, sessions, start),
            Algorithm::Source => {
                choose::source(turns, may, |index| server(index).identity, call.client)
            }
            Algorithm::First => choose::first(turns, may),
            Algorithm::Random => choose::random(turns, may, sessions, call.lot),
        }
    }

    fn credit(&self, id: ServerId) -> Option<i64> {
        let index = self.servers.iter().position(|&other| other == id)?;
        Some(self.turns[index].credit)
    }
}

impl Member {
    /// Whether it is in service and somewhere, however it fares.
    fn takes_sessions(&self) -> bool {
        self.board.admin() == Admin::Ready
            && self.board.weight(self.weight) > 0
            && !self.addresses.is_empty()
    }
}

impl Server {
    fn new(member: Member) -> Self {
        let (health, identity) = (Health::default(), choose::identity(member.board.name()));
        Self { member, generation: 0, health, next_address: 0, identity, sessions: 0 }
    }

    fn has_room(&self) -> bool {
        self.member.board.has_room(self.member.room)
    }

    fn next_address(&mut self) -> SocketAddr {
        let address = self.member.addresses[self.next_address % self.member.addresses.len()];
        self.next_address = self.next_address.wrapping_add(1);
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call = Call {
        algorithm: Algorithm::RoundRobin,
        client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        lot: 0,
        now: 0,
    };

    fn member(name: &str) -> Member {
        Member {
            board: Arc::new(Board::new(name.into())),
            addresses: vec!["192.0.2.1:443".parse().unwrap()],
            weight: 1,
            backup: false,
            room: Room::default(),
            slow_start: Duration::ZERO,
            introduce: None,
        }
    }

    fn backends(members: &[&Member]) -> Backends {
        let mut backends = Backends::default();
        backends.replace(&[members.iter().copied().cloned().collect()]);
        backends
    }

    /// The names of the next `n` servers chosen, each released at once.
    fn order(backends: &mut Backends, n: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..n {
            let Some(choice) = backends.choose(0, None, &CALL) else { break };
            names.push(backends.board(choice.server).name().to_owned());
            backends.release_unconnected(choice.server);
        }
        names
    }

    #[test]
    fn a_failed_server_is_avoided_while_there_is_another() {
        let (a, b) = (member("a"), member("b"));
        let mut backends = backends(&[&a, &b]);
        let first = backends.choose(0, None, &CALL).unwrap();
        backends.on_connect_failed(first.server, 0, 0);
        for _ in 0..3 {
            let next = backends.choose(0, Some(first.server), &CALL).unwrap();
            assert_ne!(next.server, first.server);
        }
    }

    #[test]
    fn the_only_server_is_tried_again_even_when_it_is_doubtful() {
        let a = member("a");
        let mut backends = backends(&[&a]);
        for _ in 0..10 {
            let choice = backends.choose(0, None, &CALL).unwrap();
            backends.on_connect_failed(choice.server, 0, 0);
        }
        let choice = backends.choose(0, None, &CALL).unwrap();
        assert!(backends.choose(0, Some(choice.server), &CALL).is_some());
    }

    #[test]
    fn a_server_that_checks_have_found_down_is_the_last_resort() {
        let (a, b) = (member("a"), member("b"));
        let mut backends = backends(&[&a, &b]);
        a.board.judge(false, 0);
        assert_eq!(order(&mut backends, 3), ["b", "b", "b"]);
        b.board.judge(false, 0);
        let mut both = order(&mut backends, 2);
        both.sort_unstable();
        assert_eq!(both, ["a", "b"], "a check may be wrong");
        a.board.judge(true, 0);
        assert_eq!(order(&mut backends, 2), ["a", "a"]);
    }

    #[test]
    fn a_backup_serves_only_while_no_other_can() {
        let (a, mut b) = (member("a"), member("b"));
        b.backup = true;
        let mut backends = backends(&[&a, &b]);
        assert_eq!(order(&mut backends, 3), ["a", "a", "a"]);
        for _ in 0..3 {
            let choice = backends.choose(0, None, &CALL).unwrap();
            backends.on_connect_failed(choice.server, 0, 0);
        }
        assert_eq!(order(&mut backends, 2), ["b", "b"]);
    }

    #[test]
    fn a_server_at_its_maxconn_is_passed_over_and_all_full_is_no_choice() {
        let (mut a, mut b) = (member("a"), member("b"));
        (a.room.sessions, b.room.sessions) = (Some(1), Some(2));
        let mut backends = backends(&[&a, &b]);
        let taken: Vec<_> = (0..3).filter_map(|_| backends.choose(0, None, &CALL)).collect();
        assert_eq!((a.board.sessions(), b.board.sessions()), (1, 2));
        assert_eq!(backends.choose(0, None, &CALL), None);
        backends.release_unconnected(taken[0].server);
        assert!(backends.choose(0, None, &CALL).is_some());
    }

    #[test]
    fn a_server_whose_name_nobody_has_answered_for_is_passed_over() {
        let (mut a, mut b) = (member("a"), member("b"));
        a.addresses.clear();
        let mut backends = backends(&[&a, &b]);
        assert_eq!(order(&mut backends, 2), ["b", "b"]);
        let on_b = backends.choose(0, None, &CALL).unwrap().server;
        b.addresses.clear();
        backends.replace(&[vec![a, b]]);
        assert_eq!(backends.choose(0, None, &CALL), None);
        assert_eq!(backends.choose_again(0, on_b, &CALL), None);
    }

    #[test]
    fn a_reload_keeps_who_stays_and_forgets_who_goes_when_its_sessions_have_ended() {
        let (a, b, c) = (member("a"), member("b"), member("c"));
        let mut backends = backends(&[&a, &b]);
        let on_a = backends.choose(0, None, &CALL).unwrap();
        backends.replace(&[vec![b.clone(), c.clone()]]);
        assert_eq!(backends.board(on_a.server).name(), "a");
        assert_eq!(backends.servers.len(), 3);
        backends.release_unconnected(on_a.server);
        let names = order(&mut backends, 4);
        assert!(names.iter().all(|name| name == "b" || name == "c"), "{names:?}");
        let d = member("d");
        backends.replace(&[vec![b, c, d]]);
        assert_eq!(backends.servers.len(), 3, "the place of a is used again");
        for _ in 0..3 {
            let again = backends.choose_again(0, on_a.server, &CALL).unwrap();
            assert_ne!(again.server, on_a.server, "a is not taken for the one in its place");
            backends.release_unconnected(again.server);
        }
    }

    #[test]
    fn a_server_of_a_later_backend_keeps_its_place_when_an_earlier_one_grows() {
        let (a, b, c) = (member("a"), member("b"), member("c"));
        let mut backends = Backends::default();
        backends.replace(&[vec![a.clone()], vec![b.clone()]]);
        backends.replace(&[vec![a, c], vec![b]]);
        assert_eq!(backends.servers.len(), 3);
        let choice = backends.choose(1, None, &CALL).unwrap();
        assert_eq!(backends.board(choice.server).name(), "b");
    }

    #[test]
    fn each_algorithm_keeps_off_servers_that_are_down_full_or_backups() {
        for algorithm in [
            Algorithm::RoundRobin,
            Algorithm::LeastConnections,
            Algorithm::Source,
            Algorithm::First,
            Algorithm::Random,
        ] {
            let (down, mut full, mut backup, good) =
                (member("down"), member("full"), member("backup"), member("good"));
            down.board.judge(false, 0);
            full.room.sessions = Some(1);
            assert!(full.board.acquire(full.room));
            backup.backup = true;
            let mut backends = backends(&[&down, &full, &backup, &good]);
            for lot in 0..20 {
                let call = Call { algorithm, lot: 0x1234_5678_u32.wrapping_mul(lot), ..CALL };
                let choice = backends.choose(0, None, &call).unwrap();
                assert_eq!(backends.board(choice.server).name(), "good", "{algorithm:?}");
                let other = backends.choose(0, Some(choice.server), &call).unwrap();
                assert_eq!(backends.board(other.server).name(), "backup", "{algorithm:?}");
                backends.release_unconnected(choice.server);
                backends.release_unconnected(other.server);
            }
        }
    }

    #[test]
    fn least_connections_counts_those_of_other_workers() {
        let (a, b) = (member("a"), member("b"));
        let mut backends = backends(&[&a, &b]);
        for _ in 0..5 {
            assert!(a.board.acquire(Room::default()), "another worker's");
        }
        let call = Call { algorithm: Algorithm::LeastConnections, ..CALL };
        for _ in 0..5 {
            let choice = backends.choose(0, None, &call).unwrap();
            assert_eq!(backends.board(choice.server).name(), "b");
        }
    }

    #[test]
    fn an_administrator_takes_a_server_out_and_brings_it_back_and_weighs_it() {
        let (a, b) = (member("a"), member("b"));
        let mut backends = backends(&[&a, &b]);
        for admin in [Admin::Drain, Admin::Maint] {
            a.board.administer(admin, 0);
            assert_eq!(order(&mut backends, 4), ["b"; 4]);
        }
        b.board.administer(Admin::Drain, 0);
        assert_eq!(backends.choose(0, None, &CALL), None, "not even as the last resort");
        a.board.administer(Admin::Ready, 0);
        b.board.administer(Admin::Ready, 0);
        a.board.reweigh(Some(3));
        let names = order(&mut backends, 8);
        assert_eq!(names.iter().filter(|name| *name == "a").count(), 6, "{names:?}");
        a.board.reweigh(Some(0));
        assert_eq!(order(&mut backends, 2), ["b"; 2]);
        a.board.reweigh(None);
        assert_eq!(order(&mut backends, 8).iter().filter(|name| *name == "a").count(), 4);
    }
}
