//! One load thread: its share of the agents, each an async task, and their measurements.
//!
//! Every thread has its own descriptor table (so that RLIMIT_NOFILE counts per thread), its own
//! runtime and its own recorder. A descriptor number of one table means nothing, or a stranger, in
//! another: a thread may wake the main thread's runtime, whose eventfd is older than the split, but
//! the main thread must never wake a load thread's. It leaves a flag, which the heartbeat sees.

mod link;

use crate::agent::{Act, Event, Lane, Phase, Way};
use crate::clock::{Clock, MILLISECOND, Nanos};
use crate::failure::Failure;
use crate::io::epoll::EpollStream;
use crate::io::uring::{self, UringStream};
use crate::io::{IoKind, Stream};
use crate::pacer::Pacer;
use crate::payload::Library;
use crate::plan::{LaneId, Plan};
use crate::recorder::{Interval, Micros, Recorder};
use crate::tls::Trust;
use link::Link;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// How often a thread measures its own lateness.
const HEARTBEAT: Nanos = 5 * MILLISECOND;
/// A reply of the intake fits; longer ones take several reads.
const READ_BUFFER: usize = 1024;
/// What a server says in its part of a handshake fits.
const READ_BUFFER_TLS: usize = 4096;

/// What a thread is to do.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// Which of the threads this is.
    pub(crate) thread: u32,
    /// How many there are.
    pub(crate) threads: u32,
    /// What all agents do.
    pub(crate) plan: Arc<Plan>,
    /// The shared clock.
    pub(crate) clock: Clock,
    /// Where the agents connect to.
    pub(crate) target: SocketAddr,
    /// Source addresses, given out to agents in turn; empty lets the kernel choose.
    pub(crate) sources: Arc<[IpAddr]>,
    /// How sockets are driven.
    pub(crate) io: IoKind,
    /// What opens a tunnel through a proxy, when the agents use one.
    pub(crate) tunnel: Option<Arc<[u8]>>,
    /// Whom the agents trust, when they speak TLS.
    pub(crate) trust: Option<Arc<Trust>>,
    /// How long an agent waits for one exchange.
    pub(crate) timeout: Nanos,
    /// How long exchanges under way at the end may still take.
    pub(crate) grace: Nanos,
    /// The requests.
    pub(crate) library: &'static Library,
    /// Set by the main thread to end the run early.
    pub(crate) stop: Arc<AtomicBool>,
}

/// What a thread tells the main thread.
#[derive(Debug)]
pub(crate) enum Message {
    /// The last second.
    Progress(Box<Progress>),
    /// All is over; these are the measurements and this thread's processor time.
    Finished(Box<Recorder>, Duration),
    /// The thread could not begin.
    Failed(String),
}

/// The last second of one thread.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The thread.
    pub(crate) thread: u32,
    /// How it stands now.
    pub(crate) standing: Standing,
    /// Exchanges of the second.
    pub(crate) interval: Interval,
}

/// How a thread, or all of them, stand at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// Agents that have begun.
    pub(crate) agents: u64,
    /// Connections open.
    pub(crate) open: u64,
    /// Lanes by where they stand.
    pub(crate) phases: [u64; Phase::COUNT],
    /// Failed exchanges by kind so far, warm-up included.
    pub(crate) failures: [u64; Failure::COUNT],
    /// The greater of the thread's send lag and loop lag at p99 so far.
    pub(crate) lag_p99_us: u64,
}

impl Standing {
    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.agents += other.agents;
        self.open += other.open;
        for (mine, theirs) in self.phases.iter_mut().zip(other.phases) {
            *mine += theirs;
        }
        for (mine, theirs) in self.failures.iter_mut().zip(other.failures) {
            *mine += theirs;
        }
        self.lag_p99_us = self.lag_p99_us.max(other.lag_p99_us);
    }
}

/// The thread's body: runs its share of the plan, then reports.
pub(crate) fn run(orders: Orders, out: mpsc::UnboundedSender<Message>) {
    // The main thread may have gone already; then nobody wants the answer.
    let _ = match run_on(orders, &out) {
        Ok(recorder) => out.send(Message::Finished(Box::new(recorder), processor_time())),
        Err(why) => out.send(Message::Failed(why)),
    };
}

fn run_on(orders: Orders, out: &mpsc::UnboundedSender<Message>) -> Result<Recorder, String> {
    // Signals are the main thread's: a handler here would write to a number of its table.
    let split = nix::sys::signal::SigSet::all()
        .thread_block()
        .and_then(|()| nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES));
    split.map_err(|errno| format!("a thread cannot have its own descriptor table: {errno}"))?;
    match orders.io {
        IoKind::Uring => {
            let runtime = uring::runtime().map_err(|error| format!("io_uring: {error}"))?;
            runtime.block_on(load::<UringStream>(orders, out))
        }
        IoKind::Tokio => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| format!("tokio runtime: {error}"))?;
            let tasks = tokio::task::LocalSet::new();
            tasks.block_on(&runtime, load::<EpollStream>(orders, out))
        }
    }
}

/// What the tasks of one thread share.
struct Shared<S> {
    orders: Orders,
    pacer: Pacer,
    record: RefCell<Recorder>,
    phases: Cell<[u64; Phase::COUNT]>,
    seats: Vec<Seat<S>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    left: Cell<usize>,
    all_left: Notify,
    stopped: Notify,
}

/// One lane and its connection, within reach of the end of the run.
struct Seat<S> {
    lane: RefCell<Lane>,
    source: Option<IpAddr>,
    stream: RefCell<Option<Rc<S>>>,
}

async fn load<S: Stream>(
    orders: Orders,
    out: &mpsc::UnboundedSender<Message>,
) -> Result<Recorder, String> {
    let shared = Rc::new(seat_all::<S>(orders)?);
    let pacing = Rc::clone(&shared);
    let pacer = tokio::task::spawn_local(async move { pacing.pacer.run().await });
    let beating = Rc::clone(&shared);
    let heart = tokio::task::spawn_local(async move { beating.beat().await });
    for place in 0..shared.seats.len() {
        tokio::task::spawn_local(attend(Rc::clone(&shared), place));
    }
    let clock = shared.orders.clock;
    let at = |moment| tokio::time::sleep_until(clock.instant(moment).into());
    let mut last = shared.orders.plan.end() + shared.orders.grace;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    while shared.left.get() > 0 {
        tokio::select! {
            () = shared.all_left.notified() => {}
            _ = second.tick() => shared.tell(out),
            () = shared.stopped.notified() => {
                last = last.min(clock.now() + shared.orders.grace.min(1000 * MILLISECOND));
            }
            () = at(last) => break,
        }
    }
    shared.cut_all();
    // Every socket is shut down now, so every operation completes and every task ends.
    while shared.left.get() > 0 {
        tokio::select! {
            () = shared.all_left.notified() => {}
            () = at(last + 5000 * MILLISECOND) => {
                return Err(format!("{} agents did not end", shared.left.get()));
            }
        }
    }
    pacer.abort();
    heart.abort();
    shared.tell(out);
    Ok(shared.record.borrow().clone())
}

fn seat_all<S>(orders: Orders) -> Result<Shared<S>, String> {
    let ids: Vec<LaneId> = orders.plan.lanes(orders.thread, orders.threads).collect();
    let mut record = Recorder::new(orders.plan.window());
    let way = Way { has_proxy: orders.tunnel.is_some(), has_tls: orders.trust.is_some() };
    let seats = ids.iter().map(|&id| {
        let lane = Lane::new(&orders.plan, id, way, orders.timeout, orders.library);
        record.agents_due += u64::from(lane.agent_is_due());
        let sources = &orders.sources;
        let source = sources.get(id.agent as usize % sources.len().max(1)).copied();
        Seat { lane: RefCell::new(lane), source, stream: RefCell::new(None) }
    });
    let seats: Vec<_> = seats.collect();
    let mut phases = [0; Phase::COUNT];
    phases[Phase::Waiting.index()] = seats.len() as u64;
    let pacer =
        Pacer::new(orders.clock, seats.len() + 1).map_err(|error| format!("timer: {error}"))?;
    Ok(Shared {
        orders,
        pacer,
        record: RefCell::new(record),
        phases: Cell::new(phases),
        buffers: RefCell::new(Vec::new()),
        left: Cell::new(seats.len()),
        all_left: Notify::new(),
        stopped: Notify::new(),
        seats,
    })
}

impl<S: Stream> Shared<S> {
    fn tell(&self, out: &mpsc::UnboundedSender<Message>) {
        let mut record = self.record.borrow_mut();
        let interval = record.take_interval();
        let lag = |of: &Micros| of.value_at_quantile(0.99);
        let standing = Standing {
            agents: record.agents_begun,
            open: record.open,
            phases: self.phases.get(),
            failures: record.failures(),
            lag_p99_us: lag(&record.send_lag).max(lag(&record.loop_lag)),
        };
        let thread = self.orders.thread;
        // The main thread may have gone already; then nobody wants the news.
        let progress = Box::new(Progress { thread, standing, interval });
        let _ = out.send(Message::Progress(progress));
    }

    /// Measures this thread's own lateness while the plan lasts, and sees to it that the run ends
    /// early when it should. Missed beats count, each with its own age.
    async fn beat(&self) {
        let sleeper = place_number(self.seats.len());
        let end = self.orders.plan.end();
        let mut due = HEARTBEAT;
        loop {
            self.pacer.until(sleeper, due).await;
            if self.orders.stop.load(Relaxed) {
                self.end_now();
                self.stopped.notify_one();
                return;
            }
            let now = self.orders.clock.now();
            if now < due {
                // Woken for good: the run is over.
                return;
            }
            while due <= now {
                if due < end {
                    self.record.borrow_mut().beat(due, now);
                }
                due += HEARTBEAT;
            }
        }
    }

    /// The plan ends here; exchanges under way may still finish.
    fn end_now(&self) {
        let now = self.orders.clock.now();
        for seat in &self.seats {
            seat.lane.borrow_mut().end_at(now);
        }
        self.record.borrow_mut().end_at(now);
        self.pacer.stop();
    }

    /// Counts what is not finished, and shuts down every connection.
    fn cut_all(&self) {
        let now = self.orders.clock.now();
        let mut record = self.record.borrow_mut();
        for seat in &self.seats {
            seat.lane.borrow_mut().cut(now, &mut record);
            if let Some(stream) = &*seat.stream.borrow() {
                stream.abort();
            }
        }
        self.pacer.stop();
    }
}

/// The task of one lane: does what the lane asks, and tells it what came of it.
async fn attend<S: Stream>(shared: Rc<Shared<S>>, place: usize) {
    let seat = &shared.seats[place];
    let clock = shared.orders.clock;
    let mut link: Option<Link<S>> = None;
    let mut event = Event::Begin;
    loop {
        let act = {
            let record = &mut shared.record.borrow_mut();
            let lane = &mut seat.lane.borrow_mut();
            let before = lane.phase();
            let act = lane.step(clock.now(), &event, record);
            shared.moved(before, lane.phase());
            act
        };
        if let Event::Bytes(buffer) = event {
            shared.give_back(buffer);
        }
        event = match (act, &mut link) {
            (Act::Wait { until }, None) => {
                shared.pacer.until(place_number(place), until).await;
                Event::Due
            }
            (Act::Wait { until }, Some(link)) => link.idle(&shared, place, until).await,
            (Act::Connect { deadline, abortive }, _) => {
                match link::connect(&shared, seat, deadline, abortive).await {
                    Ok(connected) => {
                        link = Some(connected);
                        Event::Connected
                    }
                    Err(event) => event,
                }
            }
            (Act::Ignore { until }, _) => {
                shared.pacer.until(place_number(place), until).await;
                Event::Due
            }
            (Act::Finish, Some(link)) => link.finish(),
            (Act::Tunnel { deadline }, Some(link)) => link.tunnel(&shared, deadline).await,
            (Act::Handshake { deadline }, Some(link)) => link.shake(&shared, deadline).await,
            (Act::Send { request, deadline }, Some(link)) => {
                link.send(&shared, request, deadline).await
            }
            (Act::Receive { deadline }, Some(link)) => link.receive(&shared, deadline).await,
            (Act::Close, _) => {
                link::hang_up(&shared, seat, link.take()).await;
                Event::Closed
            }
            (Act::End, _) => break,
            (act, None) => unreachable!("{act:?} without a connection"),
        };
    }
    link::hang_up(&shared, seat, link.take()).await;
    shared.left.set(shared.left.get() - 1);
    if shared.left.get() == 0 {
        shared.all_left.notify_one();
    }
}

fn place_number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

impl<S> Shared<S> {
    /// A lane stands elsewhere now.
    fn moved(&self, from: Phase, to: Phase) {
        let mut phases = self.phases.get();
        // A lane that was cut at the end has moved without a step.
        phases[from.index()] = phases[from.index()].saturating_sub(1);
        phases[to.index()] += 1;
        self.phases.set(phases);
    }

    fn buffer(&self) -> Vec<u8> {
        let size = if self.orders.trust.is_some() { READ_BUFFER_TLS } else { READ_BUFFER };
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(size))
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.buffers.borrow_mut().push(buffer);
    }

    /// Awaits `doing` up to a deadline; none when that passed first.
    async fn within<F: Future>(&self, doing: F, deadline: Nanos) -> Option<F::Output> {
        let deadline = self.orders.clock.instant(deadline);
        tokio::time::timeout_at(deadline.into(), doing).await.ok()
    }
}

/// Processor time that the calling thread has used.
fn processor_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    nix::time::clock_gettime(clock).map(Duration::from).unwrap_or_default()
}
