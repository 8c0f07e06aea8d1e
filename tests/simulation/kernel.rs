//! The fake kernel: an [`Engine`] with a virtual clock, whose every choice comes from the seed.
//!
//! What has completed is brought up in the order in which it completed, as both real engines do.
//! Everything else is chance: when an operation is looked at, how much it moves, how many
//! completions are brought up in one turn.

mod operations;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::Sender;

use fanin::backend::board::Board;
use fanin::engine::{Engine, EngineStats};
use fanin::op::{
    AcceptedSocket, CloseHow, Completion, ListenerId, Op, Outcome, SessionKey, Side, Slot, Time,
};
use fanin::session::CloseReason;
use fanin::worker::Command;
use fanin::worker::plan::Plan;
use nix::errno::Errno;

use crate::checker::Checker;
use crate::faults::{Fault, Faults, Random};
use crate::network::Network;
use crate::socket::Effects;
use crate::workload::{Mail, SECOND};

/// No cancellation or close takes longer, so that a worker has no reason to lose its patience.
const TEARDOWN_MAX: u64 = SECOND / 4;
/// How many keys that are no more may still be heard of.
const STALE_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct SimEngine {
    pub(crate) checker: Checker,
    pub(crate) faults: Faults,
    pub(crate) network: Network,
    random: Random,
    now: u64,
    /// By time, then in the order in which they were foreseen.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    foreseen: u64,
    /// Completed, not brought up yet.
    ready: VecDeque<Completion>,
    conns: Vec<Option<Conn>>,
    /// Keys that are no more.
    stale: VecDeque<SessionKey>,
    serial: u64,
    mailbox: Option<Sender<Command>>,
    mail: Vec<Mail>,
    /// Sent since the bell was last heard.
    unheard: Vec<Mail>,
    plans: Vec<Arc<Plan>>,
    boards: Vec<Arc<Board>>,
    is_calm: bool,
    paused: bool,
    /// Nothing is left to happen.
    pub(crate) is_stuck: bool,
    /// What happened, for people; kept only in a replay.
    pub(crate) log: Option<Vec<String>>,
}

/// What an adopted session has here.
#[derive(Debug)]
struct Conn {
    key: SessionKey,
    /// By side: its number in the network.
    sockets: [Option<usize>; 2],
    in_flight: [Option<Flight>; 6],
    held: [Held; 2],
    told_broken: [bool; 2],
    closing: bool,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    serial: u64,
    parked: bool,
    cancelled: bool,
}

/// Bytes of the source's stream that were taken and not passed on.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    first: u64,
    bytes: u64,
}

/// Sockets by their number, operations by the index of their session, slot and serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Arrive(ListenerId),
    Act(usize),
    Read(usize),
    AnswerReset(usize),
    /// Looks whether a socket has an error that nobody was told.
    Watch(usize),
    Try(usize, Slot, u64),
    /// The errno, or zero.
    Connected(usize, u64, i32),
    Cancel(usize, Slot, u64),
    Closed(usize),
    Mail(usize),
    /// A wait ends for nothing, so that the world can act.
    Pause,
}

impl SimEngine {
    pub(crate) fn new(
        checker: Checker,
        network: Network,
        (plans, boards): (Vec<Arc<Plan>>, Vec<Arc<Board>>),
        mailbox: Sender<Command>,
        mail: Vec<(u64, Mail)>,
        (mut random, mut faults): (Random, Faults),
        (start, calm_at): (u64, u64),
    ) -> Self {
        let arrivals = network.arrivals(&mut random, &mut faults);
        let mut engine = Self {
            checker,
            faults,
            network,
            random,
            now: start,
            events: BinaryHeap::new(),
            foreseen: 0,
            ready: VecDeque::new(),
            conns: Vec::new(),
            stale: VecDeque::new(),
            serial: 0,
            mailbox: Some(mailbox),
            mail: mail.iter().map(|(_, mail)| *mail).collect(),
            unheard: Vec::new(),
            plans,
            boards,
            is_calm: false,
            paused: false,
            is_stuck: false,
            log: None,
        };
        engine.foresee(calm_at, Event::Pause);
        for (at, listener) in arrivals {
            engine.foresee(at, Event::Arrive(listener));
        }
        for (index, (at, _)) in mail.iter().enumerate() {
            engine.foresee(*at, Event::Mail(index));
        }
        engine
    }

    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    /// From now on nothing goes wrong, and peers come to their end.
    pub(crate) fn calm(&mut self) {
        self.is_calm = true;
        self.faults.calm();
        for socket in self.network.calm() {
            let effects = self.network.socket(socket).calm();
            self.apply(socket, effects);
            self.foresee(self.now, Event::Watch(socket));
        }
    }

    pub(crate) const fn is_calm(&self) -> bool {
        self.is_calm
    }

    /// The supervisor speaks.
    pub(crate) fn send(&mut self, mail: Mail) {
        let Some(mailbox) = &self.mailbox else { return };
        let command = match mail {
            Mail::Replace(plan) => Command::Replace(Arc::clone(&self.plans[plan])),
            Mail::Drain { grace } => Command::Drain { grace },
            Mail::Expel(board) => {
                let server = Arc::clone(&self.boards[board]);
                Command::Expel { server, reason: CloseReason::ServerDown }
            }
            Mail::Shed(board, sessions) => {
                let left = Arc::new(AtomicU32::new(sessions));
                Command::Shed { server: Arc::clone(&self.boards[board]), sessions, left }
            }
            Mail::Stop => Command::Stop,
            Mail::Gone => {
                self.mailbox = None;
                self.unheard.push(mail);
                return self.ready.push_back(Completion::Woken);
            }
        };
        // A worker that is over reads no mail.
        let _ = mailbox.send(command);
        self.unheard.push(mail);
        self.ready.push_back(Completion::Woken);
    }

    fn foresee(&mut self, at: u64, event: Event) {
        self.foreseen += 1;
        self.events.push(Reverse((at.max(self.now), self.foreseen, event)));
    }

    /// How long it takes until somebody looks at something.
    fn delay(&mut self) -> u64 {
        if self.faults.strikes(Fault::SlowOp, &mut self.random) {
            return self.random.spread(5 * SECOND);
        }
        self.random.below(200)
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>14} {}", self.now, line()));
        }
    }

    // Time.

    fn happen(&mut self) {
        while let Some(&Reverse((at, ..))) = self.events.peek()
            && at <= self.now
        {
            let Some(Reverse((_, _, event))) = self.events.pop() else { return };
            match event {
                Event::Arrive(listener) => {
                    let socket = self.network.arrive(
                        listener,
                        self.is_calm,
                        &mut self.random,
                        &mut self.faults,
                    );
                    self.foresee(self.now, Event::Act(socket));
                }
                Event::Act(socket) => {
                    let effects = self.network.socket(socket).wake_up();
                    self.apply(socket, effects);
                }
                Event::Read(socket) => {
                    let before = self.network.socket(socket).acknowledged();
                    let effects = self.network.socket(socket).read();
                    let socket_now = self.network.socket(socket);
                    if let Some((key, side)) =
                        socket_now.owner.filter(|_| socket_now.acknowledged() > before)
                    {
                        self.checker.on_taken(key, side, self.now);
                    }
                    self.apply(socket, effects);
                }
                Event::AnswerReset(socket) => {
                    let effects = self.network.socket(socket).answer_reset();
                    self.apply(socket, effects);
                }
                Event::Watch(socket) => self.watch(socket),
                Event::Try(index, slot, serial) => self.attempt(index, slot, serial),
                Event::Connected(index, serial, errno) => self.connected(index, serial, errno),
                Event::Cancel(index, slot, serial) => {
                    if self.is_in_flight(index, slot, serial) {
                        self.complete(index, slot, Outcome::Cancelled);
                    }
                }
                Event::Closed(index) => self.closed(index),
                Event::Mail(index) => self.send(self.mail[index]),
                Event::Pause => self.paused = true,
            }
        }
    }

    /// What a socket's doings lead to.
    fn apply(&mut self, socket: usize, effects: Effects) {
        if effects.wake {
            self.unpark(socket);
        }
        if effects.failed && !self.faults.strikes(Fault::Unwatched, &mut self.random) {
            let at = self.now + self.delay();
            self.foresee(at, Event::Watch(socket));
        }
        if let Some(micros) = effects.act_in {
            self.foresee(self.now + micros, Event::Act(socket));
        }
        if let Some(micros) = effects.read_in {
            self.foresee(self.now + micros, Event::Read(socket));
        }
        if effects.answer_reset {
            let at = self.now + self.delay();
            self.foresee(at, Event::AnswerReset(socket));
        }
        if effects.poke {
            let effects = self.network.socket(socket).act();
            self.apply(socket, effects);
        }
    }

    // What is brought up.

    fn accept(&mut self) {
        for listener in self.network.accepting() {
            if self.faults.strikes(Fault::AcceptFails, &mut self.random) {
                let all = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS];
                let errno = self.random.pick(&all);
                self.network.set_accepting(listener, false);
                self.ready.push_back(Completion::AcceptFailed { listener, errno });
                continue;
            }
            let small = self.faults.strikes(Fault::SmallBatch, &mut self.random);
            for _ in 0..if small { 1 } else { usize::MAX } {
                let Some(accepted) = self.network.accept(listener) else { break };
                self.ready.push_back(accepted);
            }
        }
    }

    fn bring_up(&mut self, completions: &mut Vec<Completion>) {
        self.checker.begin_turn(self.now);
        let mut count = self.ready.len();
        if count > 1 && self.faults.strikes(Fault::SmallBatch, &mut self.random) {
            count = 1 + self.random.index(count);
            // A wait that brings nobody up has found nobody: a drain relies on it. And that nothing
            // is accepted any more is told at once.
            let accepted = |one: &Completion| matches!(one, Completion::Accepted { .. });
            let failed = |one: &Completion| matches!(one, Completion::AcceptFailed { .. });
            let first = self.ready.iter().position(accepted);
            let last = self.ready.iter().rposition(failed);
            count = count.max(first.max(last).map_or(0, |at| at + 1));
        }
        for completion in self.ready.drain(..count).collect::<Vec<_>>() {
            self.note(|| format!("up   {completion:?}"));
            match completion {
                Completion::Accepted { listener, .. } => self.checker.on_accepted(listener),
                Completion::AcceptFailed { .. } => self.checker.totals.accept_failures += 1,
                Completion::Ended { session, slot, outcome } => {
                    if self.checker.is_session(session) {
                        self.checker.on_ended(session, slot, outcome);
                    }
                }
                Completion::Broken { session, side, errno } => {
                    if self.checker.is_session(session) {
                        self.checker.on_broken(session, side, errno);
                    }
                }
                Completion::Woken => {
                    for mail in std::mem::take(&mut self.unheard) {
                        self.checker.on_mail(mail, &self.plans);
                    }
                }
            }
            completions.push(completion);
        }
    }
}

impl Engine for SimEngine {
    fn listen(&mut self, _: ListenerId, _: OwnedFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn accepting(&mut self, listener: ListenerId, on: bool) {
        self.note(|| format!("down accepting {listener:?} {on}"));
        self.network.set_accepting(listener, on);
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.note(|| format!("down unlisten {listener:?}"));
        let lost = self.network.unlisten(listener);
        self.checker.on_unlisten(lost);
        if self.faults.strikes(Fault::AcceptedLate, &mut self.random) {
            let calm = self.is_calm;
            let late = self.network.arrive_late(listener, calm, &mut self.random, &mut self.faults);
            self.ready.push_back(late);
        }
    }

    fn adopt(&mut self, socket: AcceptedSocket, session: SessionKey) {
        let number = self.network.take(socket);
        let (listener, client) = self.network.identity(number);
        self.note(|| format!("down adopt {client} as {session:?}"));
        self.checker.on_adopted(session, listener, client);
        self.network.socket(number).owner = Some((session, Side::Client));
        if self.conns.len() <= session.index() {
            self.conns.resize_with(session.index() + 1, || None);
        }
        assert!(self.conns[session.index()].is_none(), "{session:?}: the place is taken");
        self.conns[session.index()] = Some(Conn {
            key: session,
            sockets: [Some(number), None],
            in_flight: [None; 6],
            held: [Held::default(); 2],
            told_broken: [false; 2],
            closing: false,
        });
        self.foresee(self.now, Event::Watch(number));
    }

    fn introduce(&mut self, _: SessionKey, bytes: Option<Vec<u8>>) {
        assert_eq!(bytes, None, "no server of the simulation wants to know whose a connection is");
    }

    fn destination(&self, _: SessionKey) -> Option<SocketAddr> {
        None
    }

    fn greeting(&self, _: SessionKey) -> &[u8] {
        unreachable!("no listener of the simulation asks for a greeting")
    }

    fn refuse(&mut self, socket: AcceptedSocket) {
        let number = self.network.take(socket);
        self.network.socket(number).close(CloseHow::Reset);
        self.checker.on_refused(self.network.identity(number).0);
    }

    fn submit(&mut self, op: Op) {
        self.note(|| format!("down {op:?}"));
        self.checker.on_submit(&op);
        self.carry_out(op);
    }

    fn wait(&mut self, until: Option<Time>, completions: &mut Vec<Completion>) -> io::Result<Time> {
        let until = until.map(Time::as_micros);
        let idle = self.checker.is_idle() && self.network.all_accepting();
        assert!(!idle || until.is_none(), "nobody is there, and the worker would wake for a timer");
        self.now += self.random.below(30);
        loop {
            self.happen();
            self.accept();
            let spurious = std::mem::take(&mut self.paused)
                || self.faults.strikes(Fault::SpuriousWake, &mut self.random);
            if !self.ready.is_empty() || spurious || until.is_some_and(|until| until <= self.now) {
                break;
            }
            let next = self.events.peek().map(|Reverse((at, ..))| *at);
            let Some(at) = next.into_iter().chain(until).min() else {
                self.is_stuck = true;
                break;
            };
            self.now = self.now.max(at);
        }
        if self.faults.strikes(Fault::LateWake, &mut self.random) {
            self.now += self.random.spread(SECOND / 20);
        }
        if self.faults.strikes(Fault::ClockJump, &mut self.random) {
            self.now += self.random.spread(300 * SECOND);
        }
        self.checker.on_woken(self.now, until.map_or(0, |until| self.now.saturating_sub(until)));
        // What came in the meantime came before the look.
        self.happen();
        self.accept();
        if self.faults.strikes(Fault::EmptyMailbox, &mut self.random) {
            self.ready.push_back(Completion::Woken);
        }
        self.bring_up(completions);
        Ok(Time::from_micros(self.now))
    }

    fn now(&self) -> Time {
        Time::from_micros(self.now)
    }

    fn acknowledged(&mut self, session: SessionKey, side: Side) -> u32 {
        let conn = self.conns[session.index()].as_ref().expect("it was asked of a session");
        assert_eq!(conn.key, session, "a question about a session that is no more");
        let socket = conn.sockets[side.index()];
        let bytes = socket.map_or(0, |number| self.network.socket(number).acknowledged());
        self.note(|| format!("down acknowledged {session:?} {side:?}: {bytes}"));
        self.checker.on_looked(session, side, bytes);
        u32::try_from(bytes).expect("streams are short")
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}
