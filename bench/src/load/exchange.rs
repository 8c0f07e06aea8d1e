//! Request and answer, over kept connections or one connection each.

use std::collections::VecDeque;
use std::io::ErrorKind::{NotConnected, WouldBlock};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::SockRef;

use super::{LATENCY_MAX, Meter, Outcome, Phase, connect, histogram, latency};
use crate::cli;
use crate::clock::{SECOND, float};
use crate::error::Error;
use crate::http;
use crate::scenario::{Kind, Work};
use crate::stream::{Buffers, CHUNK_BYTES};

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
    /// With a web proxy, until its answer is there as far as it is looked at.
    asking: Option<Asking>,
}

/// What a web proxy is asked, and what it has answered so far.
struct Asking {
    unsent: Vec<u8>,
    answer: Vec<u8>,
}

struct Load<'a> {
    work: &'a Work,
    targets: &'a [SocketAddr],
    destinations: &'a [SocketAddr],
    meter: Meter,
    poll: Poll,
    buffers: Buffers,
    lanes: Vec<Lane>,
    exchanges: u64,
    failures: u64,
    connects: usize,
    /// Lanes to begin anew, each connection being one of many.
    failed: Vec<usize>,
    seconds: Vec<[u64; 2]>,
    /// When all connections were reset.
    outage: Option<u64>,
    /// Clients answered since, and when the last of them was.
    answered: usize,
    recovered: Option<u64>,
    latencies: Histogram<u64>,
    lateness: Histogram<u64>,
}

pub(super) fn run(arguments: &cli::Load, meter: Meter) -> Result<Outcome, Error> {
    let work = &arguments.work;
    let mut load = Load::new(arguments, meter)?;
    let waits = Error::at("load");
    match work.kind {
        Kind::Idle => {
            load.open(work.connections / 4)?;
            load.exchange_once().map_err(Error::at("load"))?;
            load.meter.quarter = Some(load.meter.pids.read());
            load.open(work.connections - work.connections / 4)?;
            load.exchange_once().and_then(|()| load.rest()).map_err(waits)
        }
        Kind::Storm => {
            load.open(work.connections)?;
            load.exchange_once().and_then(|()| load.exchange_until_shut()).map_err(waits)
        }
        kind if kind.is_churn() => load.exchange_until_shut().map_err(waits),
        _ => {
            load.open(work.connections)?;
            load.exchange_until_shut().map_err(waits)
        }
    }
}

impl<'a> Load<'a> {
    fn new(arguments: &'a cli::Load, meter: Meter) -> Result<Self, Error> {
        let work = &arguments.work;
        let mut lanes = Vec::new();
        if work.kind.is_churn() {
            lanes.resize_with(work.connections, || Lane::new(None));
        }
        let poll = Poll::new().map_err(Error::at("epoll"))?;
        Ok(Self {
            work,
            targets: &arguments.target,
            destinations: &arguments.destination,
            meter,
            poll,
            buffers: Buffers::new(),
            lanes,
            exchanges: 0,
            failures: 0,
            connects: 0,
            failed: Vec::new(),
            seconds: Vec::new(),
            outage: None,
            answered: 0,
            recovered: None,
            latencies: histogram()?,
            lateness: histogram()?,
        })
    }

    fn exchange_until_shut(&mut self) -> std::io::Result<Outcome> {
        let mut events = Events::with_capacity(1024);
        let paced = self.work.kind == Kind::Paced;
        let timer = if paced { Some(self.timer()?) } else { None };
        let origin = self.meter.begin();
        if !paced && self.work.kind != Kind::Storm {
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
                Phase::Opens if self.work.kind == Kind::Storm => self.come_again(),
                Phase::Opens => self.forget(),
                Phase::Shuts => return Ok(self.outcome()),
            }
            if self.recovered.is_some() {
                return Ok(self.outcome());
            }
            for event in &events {
                match (&timer, event.token()) {
                    // A read arms it again.
                    (Some(timer), TIMER) => timer.wait()?,
                    (_, Token(lane)) => self.turn(lane, Some(event)),
                }
            }
            for lane in std::mem::take(&mut self.failed) {
                // After an outage from then on: the client has waited since.
                self.begin(lane, self.outage.unwrap_or(now));
            }
            while paced && origin + due * SECOND / self.work.rate_per_s <= now {
                let count = self.lanes.len() as u64;
                let lane = usize::try_from(due % count).unwrap_or(0);
                self.due(lane, origin + due * SECOND / self.work.rate_per_s);
                due += 1;
            }
        }
    }

    /// All connections are gone, as after an outage of the network, and all clients come again at once.
    fn come_again(&mut self) {
        self.forget();
        let now = self.meter.clock.now();
        self.outage = Some(now);
        for lane in &mut self.lanes {
            if let Some(stream) = lane.stream.take() {
                // Reset, so that no port waits and the relay hears of each.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
        for lane in 0..self.lanes.len() {
            self.begin(lane, now);
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
        let connects = self.work.kind.is_churn() || self.outage.is_some();
        if connects {
            let target = self.targets[self.connects % self.targets.len()];
            if self.work.kind.is_of_web_proxies() {
                let to = self.destinations[self.connects % self.destinations.len()];
                let unsent = http::question(self.work, to);
                lane.asking = Some(Asking { unsent, answer: Vec::new() });
            }
            self.connects += 1;
            match TcpStream::connect(target) {
                Ok(stream) => lane.stream = Some(stream),
                Err(_) => return self.fail(index),
            }
        }
        // On loopback a connect is often done when the call returns, so send without waiting.
        self.turn(index, None);
        let lane = &mut self.lanes[index];
        if connects && let Some(stream) = &mut lane.stream {
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

    /// Asks the web proxy, and hears it out as far as its answer is its own; true when it is.
    fn ask(&mut self, index: usize, readable: bool) -> std::io::Result<bool> {
        let lane = &mut self.lanes[index];
        let (Some(stream), Some(asking)) = (&mut lane.stream, &mut lane.asking) else {
            return Ok(true);
        };
        let would_block =
            |error: &std::io::Error| matches!(error.kind(), WouldBlock | NotConnected);
        if !asking.unsent.is_empty() {
            match stream.write(&asking.unsent) {
                Ok(bytes) => asking.unsent.drain(..bytes),
                Err(error) if would_block(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
        }
        let forward = self.work.kind == Kind::Forward;
        if forward && asking.unsent.is_empty() && lane.unsent > 0 {
            lane.unsent -= self.buffers.send(stream, lane.unsent)?;
        }
        let mut piece = [0; 1024];
        let mut ended = false;
        while readable && !ended {
            match stream.read(&mut piece) {
                Ok(0) => ended = true,
                Ok(bytes) => asking.answer.extend_from_slice(&piece[..bytes]),
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(error),
            }
        }
        let cut_short = || Err(std::io::ErrorKind::UnexpectedEof.into());
        let Some(head) = http::head_bytes(&asking.answer) else {
            return if ended { cut_short() } else { Ok(false) };
        };
        if !http::is_well(&asking.answer) {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        // A tunnel says nothing more before it is asked; an answer that is forwarded has a body.
        let body = asking.answer.len() - head;
        lane.unreceived = lane.unreceived.saturating_sub(body);
        if !forward || lane.unreceived == 0 {
            lane.asking = None;
            return Ok(true);
        }
        asking.answer.truncate(head);
        if ended { cut_short() } else { Ok(false) }
    }

    /// Sends and receives what can be. Edge triggered: an answer received whole leaves nothing to
    /// read, and a part of it that filled no receive is followed by another event.
    fn turn(&mut self, index: usize, event: Option<&Event>) {
        if self.lanes[index].asking.is_some() {
            match self.ask(index, event.is_some_and(Event::is_readable)) {
                Ok(true) if self.lanes[index].unreceived == 0 => return self.complete(index),
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => return self.fail(index),
            }
        }
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
        loop {
            match self.buffers.discard(stream) {
                Ok(None) => return,
                Ok(Some(bytes)) if bytes > 0 && bytes <= lane.unreceived => {
                    lane.unreceived -= bytes;
                    if lane.unreceived == 0 {
                        return self.complete(index);
                    }
                    // One that was full may have left something, of which no event tells.
                    if bytes < CHUNK_BYTES {
                        return;
                    }
                }
                // The end, or more than was asked for, or an error.
                Ok(Some(_)) | Err(_) => return self.fail(index),
            }
        }
    }

    fn complete(&mut self, index: usize) {
        let now = self.meter.clock.now();
        self.exchanges += 1;
        self.note(now, 0);
        let lane = &mut self.lanes[index];
        if let Some(due) = lane.due.take() {
            self.latencies.saturating_record(now.saturating_sub(due).clamp(1, LATENCY_MAX));
        }
        match self.work.kind {
            Kind::Saturated => self.begin(index, now),
            Kind::Churn | Kind::Tunnel | Kind::Forward => {
                lane.stream = None;
                self.begin(index, self.meter.clock.now());
            }
            Kind::Storm if self.outage.is_some() => {
                self.answered += 1;
                if self.answered == self.lanes.len() {
                    self.recovered = Some(now);
                }
            }
            Kind::Storm => {}
            Kind::Paced => {
                if let Some(due) = lane.waiting.pop_front() {
                    self.lateness.saturating_record(now.saturating_sub(due).clamp(1, LATENCY_MAX));
                    self.begin(index, due);
                }
            }
            Kind::Idle | Kind::BulkUp | Kind::BulkDown | Kind::BulkBoth => {}
        }
    }

    /// Counts what completed (0) or failed (1) in its second.
    fn note(&mut self, now: u64, what: usize) {
        if !self.work.kind.is_churn() {
            return;
        }
        if let Some(second) = self.meter.second(now) {
            self.seconds.resize(self.seconds.len().max(second + 1), [0; 2]);
            self.seconds[second][what] += 1;
        }
    }

    /// Counted and reported. A kept connection is not made again, but after an outage.
    fn fail(&mut self, index: usize) {
        self.failures += 1;
        self.note(self.meter.clock.now(), 1);
        self.lanes[index] = Lane::new(None);
        if self.work.kind.is_churn() || self.outage.is_some() {
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
            seconds: self.seconds.clone(),
            recovered_s: self.outage.zip(self.recovered).map(|(from, to)| float(to - from) / 1e9),
            lateness_p99_us: paced.then(|| float(self.lateness.value_at_quantile(0.99)) / 1e3),
            ..self.meter.outcome()
        }
    }
}

impl Lane {
    fn new(stream: Option<TcpStream>) -> Self {
        let waiting = VecDeque::new();
        Self { stream, due: None, waiting, unsent: 0, unreceived: 0, asking: None }
    }
}

fn wait(poll: &mut Poll, events: &mut Events) -> std::io::Result<()> {
    match poll.poll(events, Some(PATIENCE)) {
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}
