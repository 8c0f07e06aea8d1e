//! Request and answer, over kept connections or one connection each.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::{LATENCY_MAX, Meter, Outcome, Phase, connect, histogram, latency};
use crate::clock::{SECOND, float};
use crate::error::Error;
use crate::scenario::{Kind, Work};
use crate::stream::Buffers;

/// Longest wait, so that the window opens and shuts in time.
const PATIENCE: Duration = Duration::from_millis(5);
/// Longest time from the first request of each idle connection to the last answer.
const FIRST_EXCHANGES_MAX: u64 = 10 * SECOND;
const TIMER: Token = Token(usize::MAX);

/// One client: a kept connection, or one after the other.
struct Lane {
    stream: Option<TcpStream>,
    /// When the exchange under way was due; nothing between two.
    due: Option<u64>,
    /// When exchanges fell due that wait for the one under way.
    waiting: VecDeque<u64>,
    unsent: usize,
    unreceived: usize,
}

struct Load<'a> {
    work: &'a Work,
    targets: &'a [SocketAddr],
    meter: Meter,
    poll: Poll,
    buffers: Buffers,
    lanes: Vec<Lane>,
    exchanges: u64,
    failures: u64,
    connects: usize,
    /// Lanes to begin anew, each connection being one of many.
    failed: Vec<usize>,
    latencies: Histogram<u64>,
    lateness: Histogram<u64>,
}

pub(super) fn run(work: &Work, targets: &[SocketAddr], meter: Meter) -> Result<Outcome, Error> {
    let mut load = Load::new(work, targets, meter)?;
    let waits = Error::at("load");
    match work.kind {
        Kind::Idle => {
            load.open(work.connections / 4)?;
            load.exchange_once().map_err(Error::at("load"))?;
            load.meter.quarter = Some(load.meter.pids.read());
            load.open(work.connections - work.connections / 4)?;
            load.exchange_once().and_then(|()| load.rest()).map_err(waits)
        }
        Kind::Churn => load.exchange_until_shut().map_err(waits),
        _ => {
            load.open(work.connections)?;
            load.exchange_until_shut().map_err(waits)
        }
    }
}

impl<'a> Load<'a> {
    fn new(work: &'a Work, targets: &'a [SocketAddr], meter: Meter) -> Result<Self, Error> {
        let mut lanes = Vec::new();
        if work.kind == Kind::Churn {
            lanes.resize_with(work.connections, || Lane::new(None));
        }
        let poll = Poll::new().map_err(Error::at("epoll"))?;
        Ok(Self {
            work,
            targets,
            meter,
            poll,
            buffers: Buffers::new(),
            lanes,
            exchanges: 0,
            failures: 0,
            connects: 0,
            failed: Vec::new(),
            latencies: histogram()?,
            lateness: histogram()?,
        })
    }

    fn exchange_until_shut(&mut self) -> std::io::Result<Outcome> {
        let mut events = Events::with_capacity(1024);
        let paced = self.work.kind == Kind::Paced;
        let timer = if paced { Some(self.timer()?) } else { None };
        let origin = self.meter.begin();
        if !paced {
            for lane in 0..self.lanes.len() {
                self.begin(lane, origin);
            }
        }
        let mut due = 0;
        loop {
            wait(&mut self.poll, &mut events)?;
            let now = self.meter.clock.now();
            match self.meter.phase(now) {
                Phase::Same => {}
                Phase::Opens => self.forget(),
                Phase::Shuts => return Ok(self.outcome()),
            }
            for event in &events {
                match (&timer, event.token()) {
                    // A read arms it again.
                    (Some(timer), TIMER) => timer.wait()?,
                    (_, Token(lane)) => self.turn(lane, Some(event)),
                }
            }
            for lane in std::mem::take(&mut self.failed) {
                self.begin(lane, now);
            }
            while paced && origin + due * SECOND / self.work.rate_per_s <= now {
                let count = self.lanes.len() as u64;
                let lane = usize::try_from(due % count).unwrap_or(0);
                self.due(lane, origin + due * SECOND / self.work.rate_per_s);
                due += 1;
            }
        }
    }

    /// Makes further connections that are kept.
    fn open(&mut self, count: usize) -> Result<(), Error> {
        for mut stream in connect(count, self.targets)? {
            let token = Token(self.lanes.len());
            let both = Interest::READABLE | Interest::WRITABLE;
            let registered = self.poll.registry().register(&mut stream, token, both);
            registered.map_err(Error::at("epoll"))?;
            self.lanes.push(Lane::new(Some(stream)));
        }
        Ok(())
    }

    /// Every connection that has had none has one exchange.
    fn exchange_once(&mut self) -> std::io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let begun = self.meter.clock.now();
        let done = usize::try_from(self.exchanges + self.failures).unwrap_or(usize::MAX);
        for lane in done..self.lanes.len() {
            self.begin(lane, begun);
        }
        while self.exchanges + self.failures < self.lanes.len() as u64
            && self.meter.clock.now() < begun + FIRST_EXCHANGES_MAX
        {
            wait(&mut self.poll, &mut events)?;
            for event in &events {
                self.turn(event.token().0, Some(event));
            }
        }
        Ok(())
    }

    /// Silence until the window has shut.
    fn rest(&mut self) -> std::io::Result<Outcome> {
        self.meter.begin();
        loop {
            std::thread::park_timeout(PATIENCE);
            if self.meter.phase(self.meter.clock.now()) == Phase::Shuts {
                return Ok(self.outcome());
            }
        }
    }

    /// Rings each time that an exchange falls due.
    fn timer(&self) -> std::io::Result<TimerFd> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let every = Duration::from_nanos(SECOND / self.work.rate_per_s);
        timer.set(Expiration::Interval(every.into()), TimerSetTimeFlags::empty())?;
        let number = timer.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&number), TIMER, Interest::READABLE)?;
        Ok(timer)
    }

    fn due(&mut self, lane: usize, due: u64) {
        if self.lanes[lane].due.is_some() {
            self.lanes[lane].waiting.push_back(due);
            return;
        }
        let late = self.meter.clock.now().saturating_sub(due);
        self.lateness.saturating_record(late.clamp(1, LATENCY_MAX));
        self.begin(lane, due);
    }

    /// Begins an exchange that was due at `due`.
    fn begin(&mut self, index: usize, due: u64) {
        let lane = &mut self.lanes[index];
        lane.due = Some(due);
        (lane.unsent, lane.unreceived) = (self.work.request_bytes, self.work.response_bytes);
        if self.work.kind == Kind::Churn {
            let target = self.targets[self.connects % self.targets.len()];
            self.connects += 1;
            match TcpStream::connect(target) {
                Ok(stream) => lane.stream = Some(stream),
                Err(_) => return self.fail(index),
            }
        }
        // On loopback a connect is often done when the call returns, so send without waiting.
        self.turn(index, None);
        let lane = &mut self.lanes[index];
        if self.work.kind == Kind::Churn
            && let Some(stream) = &mut lane.stream
        {
            let interest = if lane.unsent > 0 {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            if self.poll.registry().register(stream, Token(index), interest).is_err() {
                self.fail(index);
            }
        }
    }

    /// Sends and receives what can be. Edge triggered: an answer received whole leaves nothing to
    /// read, and a part of it is followed by another event.
    fn turn(&mut self, index: usize, event: Option<&Event>) {
        let lane = &mut self.lanes[index];
        let Some(stream) = &mut lane.stream else { return };
        if lane.unsent > 0 {
            match self.buffers.send(stream, lane.unsent) {
                Ok(bytes) => lane.unsent -= bytes,
                Err(_) => return self.fail(index),
            }
        }
        if !event.is_some_and(Event::is_readable) {
            return;
        }
        match self.buffers.discard(stream) {
            Ok(None) => {}
            Ok(Some(bytes)) if bytes > 0 && bytes <= lane.unreceived => {
                lane.unreceived -= bytes;
                if lane.unreceived == 0 {
                    self.complete(index);
                }
            }
            // The end, or more than was asked for, or an error.
            Ok(Some(_)) | Err(_) => self.fail(index),
        }
    }

    fn complete(&mut self, index: usize) {
        let now = self.meter.clock.now();
        self.exchanges += 1;
        let lane = &mut self.lanes[index];
        if let Some(due) = lane.due.take() {
            self.latencies.saturating_record(now.saturating_sub(due).clamp(1, LATENCY_MAX));
        }
        match self.work.kind {
            Kind::Saturated => self.begin(index, now),
            Kind::Churn => {
                lane.stream = None;
                self.begin(index, self.meter.clock.now());
            }
            Kind::Paced => {
                if let Some(due) = lane.waiting.pop_front() {
                    self.lateness.saturating_record(now.saturating_sub(due).clamp(1, LATENCY_MAX));
                    self.begin(index, due);
                }
            }
            Kind::Idle | Kind::BulkUp | Kind::BulkDown | Kind::BulkBoth => {}
        }
    }

    /// Counted and reported. A kept connection is not made again.
    fn fail(&mut self, index: usize) {
        self.failures += 1;
        self.lanes[index] = Lane::new(None);
        if self.work.kind == Kind::Churn {
            self.failed.push(index);
        }
    }

    /// The window opens: what was before does not count.
    fn forget(&mut self) {
        self.exchanges = 0;
        self.latencies.reset();
        self.lateness.reset();
    }

    fn outcome(&self) -> Outcome {
        let paced = self.work.kind == Kind::Paced;
        Outcome {
            exchanges: self.exchanges,
            failures: self.failures,
            sessions: self.lanes.iter().filter(|lane| lane.stream.is_some()).count() as u64,
            latency_us: latency(&self.latencies),
            lateness_p99_us: paced.then(|| float(self.lateness.value_at_quantile(0.99)) / 1e3),
            ..self.meter.outcome()
        }
    }
}

impl Lane {
    fn new(stream: Option<TcpStream>) -> Self {
        Self { stream, due: None, waiting: VecDeque::new(), unsent: 0, unreceived: 0 }
    }
}

fn wait(poll: &mut Poll, events: &mut Events) -> std::io::Result<()> {
    match poll.poll(events, Some(PATIENCE)) {
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}
