//! The near end: one thread, epoll through mio, edge triggered. It measures: it alone knows when
//! the window opens and shuts, and reads the accounts at those moments.

mod exchange;
mod flood;

use std::net::{SocketAddr, TcpStream as Blocking};
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use serde::{Deserialize, Serialize};

use crate::account::{Usage, machine_busy_s, soft_interrupt_threads, soft_interrupt_threads_s};
use crate::cli;
use crate::clock::{Clock, MILLISECOND, SECOND, float};
use crate::error::Error;

/// How long the first connections may take, each.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest recorded latency, in nanoseconds; longer ones count as this.
const LATENCY_MAX: u64 = 60 * SECOND;

/// What one load saw.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Outcome {
    /// Length of the window as it was.
    pub(crate) window_s: f64,
    /// Exchanges completed in the window.
    pub(crate) exchanges: u64,
    /// Bytes of bulk streams in the window, both ways.
    pub(crate) bytes: u64,
    /// Connections that failed or ended early, at any time.
    pub(crate) failures: u64,
    /// Sessions kept open.
    pub(crate) sessions: u64,
    /// Latencies in microseconds, from when an exchange was due.
    pub(crate) latency_us: Option<Latency>,
    /// How late exchanges were begun, p99, in microseconds, where they fall due by the clock.
    pub(crate) lateness_p99_us: Option<f64>,
    /// Exchanges and failures of each second of the window, where each has its own connection.
    #[serde(default)]
    pub(crate) seconds: Vec<[u64; 2]>,
    /// From the outage until each client had been answered again (kind storm only).
    #[serde(default)]
    pub(crate) recovered_s: Option<f64>,
    /// What each worker of a fanin has accepted.
    #[serde(default)]
    pub(crate) accepted_by_worker: Vec<u64>,
    /// What the relay used in the window; nothing on the direct path.
    pub(crate) relay: Option<Usage>,
    /// What the relay holds at the window's end more than before the first connection.
    pub(crate) relay_grown: Option<Usage>,
    /// What it holds more than when the first quarter of the sessions rested (kind idle only).
    pub(crate) relay_grown_later: Option<Usage>,
    pub(crate) server: Usage,
    pub(crate) load: Usage,
    /// What the kernel's soft interrupt threads used, for whomever.
    pub(crate) soft_interrupts_s: f64,
    /// What all CPUs worked for anyone, strangers included.
    pub(crate) machine_s: f64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Loads the target and prints the outcome as one line of JSON.
///
/// # Errors
/// When connections cannot be made or waited for.
pub(crate) fn load(arguments: &cli::Load) -> Result<(), Error> {
    let meter = Meter::new(arguments);
    let outcome = if arguments.work.kind.is_bulk() {
        flood::run(&arguments.work, &arguments.target, meter)?
    } else {
        exchange::run(arguments, meter)?
    };
    println!("{}", serde_json::to_string(&outcome).map_err(Error::at("outcome"))?);
    Ok(())
}

/// Opens and shuts the window.
struct Meter {
    clock: Clock,
    pids: Pids,
    base: Reading,
    /// When the first quarter of the sessions rested.
    quarter: Option<Reading>,
    opened: Option<(u64, Reading)>,
    opens: u64,
    shuts: u64,
    warmup: u64,
    window: u64,
}

#[derive(Debug)]
struct Pids {
    relay: Option<i32>,
    server: i32,
    load: i32,
    soft_interrupts: Vec<i32>,
}

#[derive(Clone, Debug)]
struct Reading {
    relay: Option<Usage>,
    server: Usage,
    load: Usage,
    soft_interrupts_s: f64,
    machine_s: f64,
}

/// Where the load is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Counts nothing yet, or counts on.
    Same,
    /// The window has just opened: forget all counts.
    Opens,
    /// The window has just shut.
    Shuts,
}

impl Meter {
    fn new(arguments: &cli::Load) -> Self {
        let pids = Pids {
            relay: arguments.relay,
            server: arguments.server,
            load: i32::try_from(std::process::id()).unwrap_or(i32::MAX),
            soft_interrupts: soft_interrupt_threads(),
        };
        let (warmup, window) = (arguments.work.warmup_ms, arguments.work.window_ms);
        Self {
            clock: Clock::start(),
            base: pids.read(),
            pids,
            quarter: None,
            opened: None,
            opens: u64::MAX,
            shuts: u64::MAX,
            warmup: warmup * MILLISECOND,
            window: window * MILLISECOND,
        }
    }

    /// All connections are made: the warm-up begins.
    fn begin(&mut self) -> u64 {
        let now = self.clock.now();
        self.opens = now + self.warmup;
        now
    }

    fn phase(&mut self, now: u64) -> Phase {
        if now >= self.opens {
            let reading = self.pids.read();
            let now = self.clock.now();
            (self.opens, self.shuts) = (u64::MAX, now + self.window);
            self.opened = Some((now, reading));
            Phase::Opens
        } else if now >= self.shuts {
            Phase::Shuts
        } else {
            Phase::Same
        }
    }

    /// Seconds since the window opened; nothing before.
    fn second(&self, now: u64) -> Option<usize> {
        let (began, _) = self.opened.as_ref()?;
        usize::try_from((now - began) / SECOND).ok()
    }

    /// What was used in the window, which ends now.
    fn outcome(&self) -> Outcome {
        let ended = self.clock.now();
        let last = self.pids.read();
        let Some((began, first)) = &self.opened else { return Outcome::default() };
        let between =
            |now: &Option<Usage>, then: &Option<Usage>| Some(now.as_ref()?.since(then.as_ref()?));
        Outcome {
            window_s: float(ended - began) / float(SECOND),
            relay: between(&last.relay, &first.relay),
            relay_grown: between(&last.relay, &self.base.relay),
            relay_grown_later: self
                .quarter
                .as_ref()
                .and_then(|quarter| between(&last.relay, &quarter.relay)),
            server: last.server.since(&first.server),
            load: last.load.since(&first.load),
            soft_interrupts_s: last.soft_interrupts_s - first.soft_interrupts_s,
            machine_s: last.machine_s - first.machine_s,
            ..Outcome::default()
        }
    }
}

impl Pids {
    /// The relay first: what is read after it costs only the load.
    fn read(&self) -> Reading {
        Reading {
            relay: self.relay.map(Usage::of),
            server: Usage::of(self.server),
            load: Usage::of(self.load),
            soft_interrupts_s: soft_interrupt_threads_s(&self.soft_interrupts),
            machine_s: machine_busy_s(),
        }
    }
}

/// Three digits, as long as it may take.
fn histogram() -> Result<Histogram<u64>, Error> {
    Histogram::new_with_bounds(1, LATENCY_MAX, 3).map_err(Error::at("histogram"))
}

fn latency(histogram: &Histogram<u64>) -> Option<Latency> {
    let at = |quantile| float(histogram.value_at_quantile(quantile)) / 1e3;
    (!histogram.is_empty()).then(|| Latency {
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        max: float(histogram.max()) / 1e3,
    })
}

/// Makes `count` connections that are kept, one after the other, to the targets in turn.
fn connect(count: usize, targets: &[SocketAddr]) -> Result<Vec<TcpStream>, Error> {
    let one = |target: &SocketAddr| {
        let stream = Blocking::connect_timeout(target, CONNECT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(TcpStream::from_std(stream))
    };
    (0..count)
        .map(|n| {
            let target = &targets[n % targets.len()];
            one(target).map_err(Error::at(format!("connection {n} of {count} to {target}")))
        })
        .collect()
}
