//! The relay under test: one real worker on a thread with its own descriptor table.

use std::cell::Cell;
use std::fs;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use fanin::backend::Member;
use fanin::backend::board::{Board, Room};
use fanin::backend::choose::Algorithm;
use fanin::engine::epoll::Epoll;
use fanin::engine::uring::{self, Uring};
use fanin::engine::{Engine, EngineLimits};
use fanin::gate::Quota;
use fanin::metrics::{Asked, Counters, Counts, RequestLine, SessionRecord};
use fanin::op::{Flow, ListenerId, SpliceMode, Time};
use fanin::session::{CloseReason, SessionLimits};
use fanin::sys::process::{self, Bell};
use fanin::sys::{passage, socket};
use fanin::worker::plan::{Backend, Names, Plan, Route, Source, SpareLimits};
use fanin::worker::queue::Queue;
use fanin::worker::{Command, Setup, Tunnel, Worker};

use super::oracle::Total;
use super::{PATIENCE, await_some, await_within, peers};

/// How soon after the last peer has left everything must be back where it was.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);
const RECORDS_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    Epoll,
    Uring,
}

/// On what a test runs.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub engine: EngineKind,
    pub splice: SpliceMode,
}

impl Variant {
    /// Whether this host can run it; says so loudly where it cannot.
    pub fn can_run(self) -> bool {
        if self.engine == EngineKind::Epoll {
            return true;
        }
        let Err(unfit) = uring::probe() else { return true };
        let required = std::env::var_os("FANIN_TEST_REQUIRE_URING").is_some_and(|it| it == "1");
        assert!(!required, "FANIN_TEST_REQUIRE_URING=1, and {unfit}");
        // Not by a macro: what a macro prints is shown of failed tests only.
        let _ = writeln!(io::stderr(), "SKIPPED ON IO_URING: {unfit}");
        false
    }

    /// Whether bulk is spliced.
    pub fn splices(self) -> bool {
        self.splice != SpliceMode::Never
    }
}

/// What a relay is told.
#[derive(Clone, Debug)]
pub struct Options {
    pub servers: Vec<SocketAddr>,
    pub limits: SessionLimits,
    pub sessions_max: u32,
    pub pipes_max: u32,
    pub pipe_bytes: u32,
    /// Of the clients' sockets in the relay.
    pub socket_bytes: Option<usize>,
    pub latency_budget: Duration,
    pub spare: Option<SpareLimits>,
}

impl Options {
    /// Time-outs that nothing reaches unless it hangs.
    pub fn to(server: SocketAddr) -> Self {
        Self {
            servers: vec![server],
            limits: SessionLimits {
                connect: PATIENCE,
                client_idle: PATIENCE * 2,
                server_idle: PATIENCE * 2,
                half_closed: PATIENCE * 2,
                attempts_max: 1,
            },
            sessions_max: 4096,
            pipes_max: 256,
            pipe_bytes: 256 * 1024,
            socket_bytes: None,
            latency_budget: Duration::ZERO,
            spare: None,
        }
    }

    fn plan(&self) -> Plan {
        let member = |(place, &address): (usize, &SocketAddr)| Member {
            board: Arc::new(Board::new(format!("test/{place}"))),
            addresses: vec![address],
            weight: 1,
            backup: false,
            room: Room::default(),
            slow_start: Duration::ZERO,
            introduce: None,
        };
        Plan {
            routes: vec![Route {
                backend: 0,
                limits: self.limits,
                quota: Arc::new(Quota::new(u32::MAX)),
                traffic: Arc::default(),
                rules: Arc::default(),
                names: Names::default(),
            }],
            listening: 1,
            backends: vec![Backend {
                queue: Arc::new(Queue::new(Duration::ZERO, 1)),
                drain_moved: false,
                members: self.servers.iter().enumerate().map(member).collect(),
                algorithm: Algorithm::default(),
                redispatch: true,
                source: Source::default(),
                spare: self.spare,
            }],
        }
    }
}

/// A relay that runs.
pub struct Relay {
    pub address: SocketAddr,
    /// Of its first server.
    pub board: Arc<Board>,
    counters: Arc<Counters>,
    records: rtrb::Consumer<SessionRecord>,
    ended: Vec<SessionRecord>,
    mailbox: Sender<Command>,
    bell: Arc<Bell>,
    /// Through which pairs of connections are passed, and how many were.
    passage: OwnedFd,
    passed: Cell<u64>,
    /// This table's reference to the listening socket.
    listener: Option<OwnedFd>,
    thread: i32,
    descriptors: usize,
    handle: Option<JoinHandle<io::Result<()>>>,
}

impl Relay {
    #[track_caller]
    pub fn start(variant: Variant, options: &Options) -> Self {
        let listener = socket::listening("127.0.0.1:0".parse().unwrap(), 4096).unwrap();
        if let Some(bytes) = options.socket_bytes {
            peers::shrink(&listener, bytes);
        }
        let address = socket::local_address(listener.as_fd()).unwrap();
        let bell = Arc::new(Bell::new().unwrap());
        let counters = Arc::new(Counters::default());
        let (mailbox, mail) = mpsc::channel();
        let (producer, records) = rtrb::RingBuffer::new(RECORDS_MAX);
        let plan = options.plan();
        let board = Arc::clone(&plan.backends[0].members[0].board);
        let setup = Setup {
            index: 0,
            workers: 1,
            sessions_max: options.sessions_max,
            spares_max: options.sessions_max,
            plan: Arc::new(plan),
            quota: Arc::new(Quota::new(u32::MAX)),
            counters: Arc::clone(&counters),
            mailbox: mail,
            records: producer,
            seed: 1,
        };
        let limits = EngineLimits {
            sessions_max: options.sessions_max,
            pipes_max: options.pipes_max,
            pipe_bytes: options.pipe_bytes,
            splice: variant.splice,
            latency_budget: options.latency_budget,
        };
        let (ready, told) = mpsc::channel();
        let (passage, far_end) = passage::open().unwrap();
        let (heard, numbers) = (Arc::clone(&bell), [listener.as_raw_fd(), far_end.as_raw_fd()]);
        let work = move || work(variant.engine, limits, setup, heard, numbers, &ready);
        let handle = Builder::new().name("worker".into()).spawn(work).unwrap();
        let thread = told.recv_timeout(PATIENCE).expect("the worker starts");
        Self {
            address,
            board,
            counters,
            records,
            ended: Vec::new(),
            mailbox,
            bell,
            passage,
            passed: Cell::default(),
            listener: Some(listener),
            thread,
            descriptors: descriptors_of(thread),
            handle: Some(handle),
        }
    }

    /// The worker's counts as of its last turn.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Bytes delivered so far, both ways.
    pub fn bytes(&self) -> u64 {
        self.counts().engine.bytes().total()
    }

    pub fn tell(&self, command: Command) {
        self.mailbox.send(command).unwrap();
        self.bell.ring();
    }

    /// Has the worker relay a client's connection to a server's, both of which were made here.
    pub fn join(&self, client: TcpStream, server: TcpStream) {
        let number = self.passed.get();
        self.passed.set(number + 1);
        let tunnel = Tunnel {
            number,
            listener: ListenerId(0),
            client: client.peer_addr().unwrap(),
            address: server.peer_addr().unwrap(),
            ticket: None,
            opened: Time::from_micros(process::monotonic_micros()),
            attempts: 1,
            asked: Box::new(Asked::Request(RequestLine::default())),
        };
        for socket in [&client, &server] {
            socket.set_nonblocking(true).unwrap();
        }
        passage::pass(self.passage.as_fd(), number, [client.as_fd(), server.as_fd()]).unwrap();
        self.tell(Command::Join(Box::new(tunnel)));
    }

    /// Gives up this table's reference, so that the worker's is the last.
    pub fn unlisten(&mut self) {
        self.listener = None;
    }

    /// Descriptors in the worker's table.
    pub fn descriptors(&self) -> usize {
        descriptors_of(self.thread)
    }

    /// Time that the worker's thread has spent on a processor.
    pub fn cpu_time(&self) -> Duration {
        let path = format!("/proc/self/task/{}/schedstat", self.thread);
        let text = fs::read_to_string(path).unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }

    /// Times that the worker's thread has gone to sleep.
    pub fn sleeps(&self) -> u64 {
        let path = format!("/proc/self/task/{}/status", self.thread);
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse().unwrap()
    }

    /// The records of sessions that have ended, once there are `count`.
    #[track_caller]
    pub fn await_ended(&mut self, count: usize) -> &[SessionRecord] {
        await_some(&format!("{count} sessions have ended"), || {
            self.read_records();
            (self.ended.len() >= count).then_some(())
        });
        &self.ended
    }

    /// Sessions that ended so.
    #[track_caller]
    pub fn ended(&mut self, reason: CloseReason) -> usize {
        self.read_records();
        self.ended.iter().filter(|record| record.report.reason == reason).count()
    }

    fn read_records(&mut self) {
        while let Ok(record) = self.records.pop() {
            self.ended.push(record);
        }
    }

    /// Waits until the relay is as empty as it was at the start.
    #[track_caller]
    pub fn await_settled(&mut self) {
        let mut left = String::new();
        let what = |left: &str| format!("the relay is empty again: {left}");
        let deadline = std::time::Instant::now() + SETTLED_WITHIN;
        await_some("the relay settles", || {
            let engine = self.counts().engine;
            let sessions = self.counts().sessions;
            let pooled = engine.pipes_open as usize * 2;
            let descriptors = self.descriptors() as i64 - (self.descriptors + pooled) as i64;
            let (pipes, buffers) = (engine.pipes_used, engine.buffers_used);
            left = format!(
                "{sessions} sessions, {pipes} pipes, {buffers} buffers, {descriptors} descriptors"
            );
            let empty = (sessions, pipes, buffers, descriptors) == (0, 0, 0, 0);
            assert!(empty || std::time::Instant::now() < deadline, "{}", what(&left));
            empty.then_some(())
        });
    }

    /// Ends the relay, and sees to it that nothing is left and the counts are right. `total` is what
    /// the peers sent and got.
    #[track_caller]
    pub fn finish(mut self, total: Total) {
        self.await_settled();
        // A place is free a moment before the record of who had it is written.
        let begun = self.counts().sessions_total;
        self.await_ended(begun as usize);
        let counts = self.counts();
        self.check_counts(&counts, total);
        assert!(!has_kernel_workers(self.thread), "the ring runs kernel workers");
        self.unlisten();
        self.tell(Command::Stop);
        let handle = self.handle.take().unwrap();
        await_within(PATIENCE, "the worker ends", || handle.is_finished().then_some(()));
        handle.join().expect("the worker does not panic").expect("its engine does not fail");
    }

    #[track_caller]
    fn check_counts(&self, counts: &Counts, total: Total) {
        let ended: u64 = counts.ended.iter().sum();
        let came = counts.accepted + self.passed.get();
        assert_eq!(came, ended + counts.refused, "accepted and ended");
        assert_eq!((counts.sessions_total, ended), (ended, self.ended.len() as u64));
        assert_eq!((counts.records_dropped, counts.refused), (0, 0));
        let engine = counts.engine;
        assert_eq!((engine.completions_stale, engine.queue_overflows), (0, 0));
        let delivered = [engine.bytes_to_backend.total(), engine.bytes_to_client.total()];
        for flow in Flow::ALL.map(Flow::index) {
            let told: u64 = self.ended.iter().map(|record| record.report.bytes[flow]).sum();
            assert_eq!(told, delivered[flow], "the records and the engine count alike");
            let (sent, got) = (total.sent[flow], total.got[flow]);
            assert!(
                got <= delivered[flow] && delivered[flow] <= sent,
                "flow {flow}: {got} bytes arrived, {} were counted, {sent} were sent",
                delivered[flow]
            );
        }
        let sent: u64 = total.sent.iter().sum();
        assert!(engine.bytes().total() + engine.bytes_discarded <= sent, "more than was sent");
        let completed = counts.ended[CloseReason::Completed.index()];
        if completed == ended {
            assert_eq!(engine.bytes().total(), sent, "bytes in are bytes out");
            assert_eq!((engine.bytes_discarded, total.got), (0, total.sent));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // After a failed test: the worker may be gone already.
        if let Some(handle) = self.handle.take() {
            let _ = self.mailbox.send(Command::Stop);
            self.bell.ring();
            let _ = handle.join();
        }
    }
}

/// The life of the worker's thread, as `supervisor/thread.rs` has it.
fn work(
    kind: EngineKind,
    limits: EngineLimits,
    setup: Setup,
    bell: Arc<Bell>,
    numbers: [RawFd; 2],
    ready: &Sender<i32>,
) -> io::Result<()> {
    process::block_signals()?;
    process::own_descriptor_table(&[numbers[0], numbers[1], bell.as_raw_fd()])?;
    let sockets = numbers.map(process::inherited);
    match kind {
        EngineKind::Epoll => serve(Epoll::new(limits, bell)?, setup, sockets, ready),
        EngineKind::Uring => serve(Uring::new(limits, bell)?, setup, sockets, ready),
    }
}

fn serve<E: Engine>(
    mut engine: E,
    setup: Setup,
    [listener, passage]: [OwnedFd; 2],
    ready: &Sender<i32>,
) -> io::Result<()> {
    engine.listen(ListenerId(0), listener)?;
    engine.receive(passage);
    let worker = Worker::new(engine, setup);
    ready.send(nix::unistd::gettid().as_raw()).unwrap();
    worker.run()
}

fn descriptors_of(thread: i32) -> usize {
    let path = format!("/proc/self/task/{thread}/fd");
    fs::read_dir(path).map_or(0, Iterator::count)
}

/// Whether the kernel keeps threads to run a ring's requests.
fn has_kernel_workers(thread: i32) -> bool {
    let name = format!("iou-wrk-{thread}");
    let tasks = fs::read_dir("/proc/self/task").unwrap().map_while(Result::ok);
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.into_iter().any(|comm| comm.trim() == name)
}
