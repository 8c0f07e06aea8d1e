//! What lies beyond the fake kernel: listen queues, peers, servers that are up or down.

use std::collections::VecDeque;
use std::net::SocketAddr;

use fanin::op::{AcceptedSocket, CloseHow, Completion, ListenerId};
use nix::errno::Errno;

use crate::faults::{Fault, Faults, Random};
use crate::socket::Socket;
use crate::workload::{self, SECOND, Traffic};

/// More clients of one worker than this would not be told apart by their ports.
const CLIENTS_MAX: u64 = 6000;

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) traffic: Traffic,
    worker: u16,
    span: (u64, u64),
    listeners: Vec<Listener>,
    sockets: Vec<Peer>,
    clients: u64,
    /// Servers that are down, until when, and whether they swallow connects or refuse them.
    down: Vec<(SocketAddr, u64, bool)>,
}

#[derive(Debug)]
struct Peer {
    socket: Socket,
    listener: ListenerId,
    address: SocketAddr,
    /// It came up as accepted, and was not taken yet.
    loose: bool,
}

#[derive(Debug, Default)]
struct Listener {
    accepting: bool,
    ended: bool,
    /// Numbers of sockets that wait to be accepted.
    queue: VecDeque<usize>,
}

impl Network {
    /// Connections come in from the first to the last moment of `span`.
    pub(crate) fn new(worker: u16, listeners: usize, traffic: Traffic, span: (u64, u64)) -> Self {
        Self {
            traffic,
            worker,
            span,
            listeners: (0..listeners).map(|_| Listener::default()).collect(),
            sockets: Vec::new(),
            clients: 0,
            down: Vec::new(),
        }
    }

    /// When connections come, and where to.
    pub(crate) fn arrivals(
        &self,
        random: &mut Random,
        faults: &mut Faults,
    ) -> Vec<(u64, ListenerId)> {
        let (first, last) = self.span;
        let listeners = self.listeners.len();
        let mut arrivals = Vec::new();
        for _ in 0..self.traffic.arrivals {
            let at = random.range(first, last);
            let listener = u16::try_from(random.index(listeners)).expect("few listeners");
            let mut count = 1;
            if faults.strikes(Fault::Burst, random) {
                count = if random.chance(20_000) { 1200 } else { random.spread(60) };
            }
            if arrivals.len() as u64 + count < CLIENTS_MAX {
                arrivals.extend((0..count).map(|_| (at, ListenerId(listener))));
            }
        }
        arrivals
    }

    pub(crate) fn socket(&mut self, number: usize) -> &mut Socket {
        &mut self.sockets[number].socket
    }

    pub(crate) fn identity(&self, number: usize) -> (ListenerId, SocketAddr) {
        (self.sockets[number].listener, self.sockets[number].address)
    }

    /// Every socket whose peer may still do something.
    pub(crate) fn calm(&mut self) -> Vec<usize> {
        self.down.clear();
        let alive = |number: &usize| {
            let socket = &self.sockets[*number].socket;
            socket.closed.is_none()
        };
        (0..self.sockets.len()).filter(alive).collect()
    }

    // Clients.

    pub(crate) fn arrive(
        &mut self,
        listener: ListenerId,
        calm: bool,
        random: &mut Random,
        faults: &mut Faults,
    ) -> usize {
        let number = self.client(listener, calm, random, faults);
        let to = &mut self.listeners[usize::from(listener.0)];
        if to.ended {
            // Refused: nobody listens there any more.
            self.sockets[number].socket.close(CloseHow::Reset);
        } else {
            to.queue.push_back(number);
        }
        number
    }

    fn client(
        &mut self,
        listener: ListenerId,
        calm: bool,
        random: &mut Random,
        faults: &mut Faults,
    ) -> usize {
        let socket = if calm {
            workload::calm_peer(random, &self.traffic)
        } else {
            workload::peer(random, faults, &self.traffic)
        };
        let address = workload::client(self.worker, self.clients);
        self.clients += 1;
        self.sockets.push(Peer { socket, listener, address, loose: false });
        self.sockets.len() - 1
    }

    /// Listeners that accept, and have somebody to.
    pub(crate) fn accepting(&self) -> Vec<ListenerId> {
        let ready = |listener: &Listener| listener.accepting && !listener.queue.is_empty();
        let ids = (0..).map(ListenerId);
        ids.zip(&self.listeners).filter(|(_, to)| ready(to)).map(|(id, _)| id).collect()
    }

    pub(crate) fn is_accepting(&self, listener: ListenerId) -> bool {
        self.listeners[usize::from(listener.0)].accepting
    }

    /// Listeners that accept nothing, and have not been given up.
    pub(crate) fn paused(&self) -> u64 {
        let paused = |listener: &&Listener| !listener.accepting && !listener.ended;
        self.listeners.iter().filter(paused).count() as u64
    }

    pub(crate) fn all_accepting(&self) -> bool {
        self.listeners.iter().all(|listener| listener.accepting)
    }

    pub(crate) fn set_accepting(&mut self, listener: ListenerId, on: bool) {
        let to = &mut self.listeners[usize::from(listener.0)];
        to.accepting = on && !to.ended;
    }

    pub(crate) fn accept(&mut self, listener: ListenerId) -> Option<Completion> {
        let number = self.listeners[usize::from(listener.0)].queue.pop_front()?;
        Some(self.hand_over(number))
    }

    fn hand_over(&mut self, number: usize) -> Completion {
        self.sockets[number].loose = true;
        let (listener, peer) = self.identity(number);
        let socket = AcceptedSocket::from_engine(u32::try_from(number).expect("few sockets"));
        Completion::Accepted { listener, socket, peer }
    }

    /// Closes the listener. Returns how many it would have accepted next, were it not closed.
    pub(crate) fn unlisten(&mut self, listener: ListenerId) -> usize {
        let to = &mut self.listeners[usize::from(listener.0)];
        let lost = if to.accepting { to.queue.len() } else { 0 };
        to.ended = true;
        to.accepting = false;
        lost
    }

    /// One that the kernel accepted just as the listener was closed.
    pub(crate) fn arrive_late(
        &mut self,
        listener: ListenerId,
        calm: bool,
        random: &mut Random,
        faults: &mut Faults,
    ) -> Completion {
        let number = self.client(listener, calm, random, faults);
        self.hand_over(number)
    }

    /// The number of an accepted socket, which is now somebody's.
    pub(crate) fn take(&mut self, socket: AcceptedSocket) -> usize {
        let number = socket.into_engine() as usize;
        let loose = std::mem::take(&mut self.sockets[number].loose);
        assert!(loose, "socket {number} was taken twice");
        number
    }

    // Servers.

    pub(crate) fn connect(
        &mut self,
        calm: bool,
        random: &mut Random,
        faults: &mut Faults,
    ) -> usize {
        let socket = if calm {
            workload::calm_peer(random, &self.traffic)
        } else {
            workload::peer(random, faults, &self.traffic)
        };
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        self.sockets.push(Peer { socket, listener: ListenerId(0), address, loose: false });
        self.sockets.len() - 1
    }

    /// What becomes of a connect: an errno, zero, or nothing ever.
    pub(crate) fn fate(
        &mut self,
        now: u64,
        address: SocketAddr,
        random: &mut Random,
        faults: &mut Faults,
    ) -> Option<i32> {
        const FATES: [(Fault, Errno); 7] = [
            (Fault::ConnectRefused, Errno::ECONNREFUSED),
            (Fault::ConnectTimedOut, Errno::ETIMEDOUT),
            (Fault::ConnectUnreachable, Errno::EHOSTUNREACH),
            (Fault::ConnectNoAddress, Errno::EADDRNOTAVAIL),
            (Fault::ConnectAddressInUse, Errno::EADDRINUSE),
            (Fault::ConnectNoDescriptor, Errno::EMFILE),
            (Fault::ConnectNoMemory, Errno::ENOMEM),
        ];
        if faults.strikes(Fault::ServerDown, random) {
            let until = now + random.spread(20 * SECOND);
            self.down.push((address, until, random.chance(500_000)));
        }
        self.down.retain(|(_, until, _)| *until > now);
        if let Some((.., swallows)) = self.down.iter().find(|(down, ..)| *down == address) {
            return (!swallows).then_some(Errno::ECONNREFUSED as i32);
        }
        if faults.strikes(Fault::ConnectBlackHole, random) {
            return None;
        }
        let errno = FATES.iter().find(|(fault, _)| faults.strikes(*fault, random));
        Some(errno.map_or(0, |(_, errno)| *errno as i32))
    }
}
