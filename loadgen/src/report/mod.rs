//! PURE: the result of a run. Text, JSON, CSV and HdrHistogram's files are views of this one value.
//!
//! `docs/loadgen-report.md` describes the JSON; a change of meaning changes `SCHEMA`.

mod chart;
pub(crate) mod claim;
pub(crate) mod hdr;
pub(crate) mod html;
pub(crate) mod series;
pub(crate) mod slo;
pub(crate) mod text;

use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::exit::Error;
use crate::failure::Failure;
use crate::limits::Finding;
use crate::procfs::{Machine, Usage};
use crate::progress::millis;
use crate::recorder::{Counts, Latency, Micros, Recorder};
use claim::Claim;
use serde::{Deserialize, Serialize};
use series::Second;
use slo::Judged;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

/// Name and version of the JSON's meaning.
pub(crate) const SCHEMA: &str = "loadgen-report/1";

/// What a run came to.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// `SCHEMA`.
    pub(crate) schema: &'static str,
    /// What made the run.
    pub(crate) made_by: MadeBy,
    /// What was wanted.
    pub(crate) asked: Asked,
    /// What the limits said before the start.
    pub(crate) checks: Vec<Finding>,
    /// What was done.
    pub(crate) achieved: Achieved,
    /// Microseconds.
    pub(crate) latency_us: Latencies,
    /// The generator's own lateness, microseconds.
    pub(crate) send_lag_us: Quantiles,
    /// The lateness of its threads' heartbeats, microseconds.
    pub(crate) loop_lag_us: Quantiles,
    /// Failed exchanges of the window by kind; every kind is there.
    pub(crate) errors: BTreeMap<&'static str, u64>,
    /// Failed exchanges of the warm-up by kind; only those that occurred.
    pub(crate) warm_up_errors: BTreeMap<&'static str, u64>,
    /// How often each errno was met, warm-up included.
    pub(crate) errnos: BTreeMap<i32, u64>,
    /// The generator itself.
    pub(crate) generator: Generator,
    /// The relay, where its process is known.
    pub(crate) relay: Option<Relay>,
    /// The whole machine during the window.
    pub(crate) machine: Machine,
    /// Processor microseconds of the whole machine per answered exchange.
    pub(crate) machine_us_per_exchange: f64,
    /// What the started sink counted.
    pub(crate) sink: Option<serde_json::Value>,
    /// The objectives and whether they were met.
    pub(crate) objectives: Vec<Judged>,
    /// The claim of 1000 agents.
    pub(crate) claim: Claim,
    /// The run second by second.
    pub(crate) series: Vec<Second>,
    /// `latency_us.exchange.from_intended` as pairs of quantile and microseconds.
    pub(crate) percentiles: Vec<(f64, u64)>,
    /// `latency_us.exchange.from_intended`, whole.
    #[serde(skip)]
    pub(crate) distribution: Micros,
    /// How loadgen ends.
    pub(crate) exit_code: u8,
}

/// What made the run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MadeBy {
    /// Version of loadgen.
    pub(crate) version: &'static str,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Processors that loadgen may use.
    pub(crate) processors: u32,
    /// When the run began, seconds since 1970.
    pub(crate) began_unix_s: u64,
}

/// What was wanted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Asked {
    /// Number of agents.
    pub(crate) agents: u32,
    /// How they behave.
    pub(crate) profile: &'static str,
    /// Where to.
    pub(crate) target: String,
    /// True when loadgen started the relay itself.
    pub(crate) target_started: bool,
    /// Length of the warm-up.
    pub(crate) ramp_s: f64,
    /// Length of the measured window.
    pub(crate) duration_s: f64,
    /// How much faster than life the timers run.
    pub(crate) speedup: f64,
    /// How the agents' timers stand to each other.
    pub(crate) phases: &'static str,
    /// Whether agents speak TLS with the upstream.
    pub(crate) tls: bool,
    /// Decides the plan.
    pub(crate) seed: u64,
    /// Fingerprint of the plan.
    pub(crate) plan_digest: String,
    /// Exchanges per second that the plan has.
    pub(crate) rate: f64,
    /// How long an agent waits for an exchange.
    pub(crate) timeout_s: f64,
}

/// What was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Achieved {
    /// Agents whose plan had anything to do.
    pub(crate) agents_due: u64,
    /// Agents that began an exchange.
    pub(crate) agents_begun: u64,
    /// Agents that got a good reply.
    pub(crate) agents_answered: u64,
    /// Length of the window, shorter than asked when interrupted.
    pub(crate) measured_s: f64,
    /// Whether the run was ended early.
    pub(crate) interrupted: bool,
    /// Good replies per second while the window lasted.
    pub(crate) rate: f64,
    /// Exchanges of the window.
    pub(crate) window: Tally,
    /// Exchanges of the warm-up.
    pub(crate) warm_up: Tally,
}

/// Numbers of exchanges.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Begun by their agent.
    pub(crate) begun: u64,
    /// Ended with a good reply.
    pub(crate) answered: u64,
    /// Ended otherwise, or never began.
    pub(crate) failed: u64,
    /// Begun again after a failure; counted in `begun` too.
    #[serde(default)]
    pub(crate) retried: u64,
    /// Begun late because the agent's previous exchange still ran.
    pub(crate) queued: u64,
    /// Connections made.
    pub(crate) connects: u64,
    /// Request bytes.
    pub(crate) bytes_up: u64,
}

/// The latencies of an exchange's steps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// To the established connection.
    pub(crate) connect: Both,
    /// To the end of the TLS handshake; none without TLS.
    #[serde(default)]
    pub(crate) handshake: Both,
    /// To the reply's first byte.
    pub(crate) first_byte: Both,
    /// To the reply's last byte.
    pub(crate) exchange: Both,
}

/// A latency from both starts.
#[derive(Default, Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Both {
    /// From the moment the plan wanted.
    pub(crate) from_intended: Quantiles,
    /// From the moment it was done.
    pub(crate) from_send: Quantiles,
}

/// A histogram in brief, microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    #[serde(rename = "p99.9")]
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
}

/// The generator itself.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Generator {
    /// How sockets were driven.
    pub(crate) io: &'static str,
    /// Why not by io_uring, if that was wished.
    pub(crate) io_note: Option<String>,
    /// Load threads.
    pub(crate) threads: u32,
    /// Source addresses given out; zero when the kernel chose.
    pub(crate) sources: usize,
    /// Processor time of the load threads, whole run.
    pub(crate) cpu_s: f64,
    /// Share of its processor that the busiest thread used, whole run.
    pub(crate) busiest_thread: f64,
    /// The send lag at p99 from which a run is invalid, microseconds.
    pub(crate) max_send_lag_us: u64,
    /// Why the run is invalid; empty when it is valid.
    pub(crate) invalid: Vec<String>,
}

/// The relay under load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Relay {
    /// Its process.
    pub(crate) pid: i32,
    /// Seconds in user mode during the window.
    pub(crate) user_s: f64,
    /// Seconds in the kernel during the window.
    pub(crate) system_s: f64,
    /// Processor microseconds per answered exchange.
    pub(crate) us_per_exchange: f64,
    /// Resident memory at the window's end.
    pub(crate) resident_bytes: u64,
    /// Most resident memory ever.
    pub(crate) resident_peak_bytes: u64,
    /// Where its standard error went.
    pub(crate) log: Option<String>,
    /// How it ended, if it did not last.
    pub(crate) fallen: Option<String>,
}

impl Report {
    /// Processors that the relay used during the window, where its process is known.
    pub(crate) fn relay_processors(&self) -> Option<f64> {
        let relay = self.relay.as_ref()?;
        Some(per(relay.user_s + relay.system_s, self.achieved.measured_s))
    }
}

impl Achieved {
    /// From the measurements, over `measured` of window.
    pub(crate) fn new(record: &Recorder, measured: Nanos, interrupted: bool) -> Self {
        let measured_s = seconds(measured);
        Self {
            agents_due: record.agents_due,
            agents_begun: record.agents_begun,
            agents_answered: record.agents_answered,
            measured_s,
            interrupted,
            rate: per(number(record.answered_in_time), measured_s),
            window: Tally::new(&record.window),
            warm_up: Tally::new(&record.warm_up),
        }
    }

    /// Failed exchanges, those of the warm-up included.
    pub(crate) fn failed(&self) -> u64 {
        self.window.failed + self.warm_up.failed
    }
}

impl Tally {
    fn new(counts: &Counts) -> Self {
        Self {
            begun: counts.begun,
            answered: counts.answered,
            failed: counts.failed(),
            retried: counts.retried,
            queued: counts.queued,
            connects: counts.connects,
            bytes_up: counts.bytes_up,
        }
    }
}

impl Latencies {
    /// From the measurements.
    pub(crate) fn new(record: &Recorder) -> Self {
        let both = |latency: &Latency| Both {
            from_intended: Quantiles::new(&latency.from_intended),
            from_send: Quantiles::new(&latency.from_send),
        };
        Self {
            connect: both(&record.connect),
            handshake: both(&record.handshake),
            first_byte: both(&record.first_byte),
            exchange: both(&record.exchange),
        }
    }
}

impl Quantiles {
    /// From a histogram.
    pub(crate) fn new(of: &Micros) -> Self {
        if of.is_empty() {
            return Self::default();
        }
        Self {
            count: of.len(),
            mean: of.mean(),
            p50: of.value_at_quantile(0.5),
            p90: of.value_at_quantile(0.9),
            p99: of.value_at_quantile(0.99),
            p99_9: of.value_at_quantile(0.999),
            max: of.max(),
        }
    }

    /// The times as every table has them: p50, p90, p99, p99.9 and the greatest.
    pub(crate) fn times(&self) -> [u64; 5] {
        [self.p50, self.p90, self.p99, self.p99_9, self.max]
    }
}

impl Relay {
    /// From the process's usage at the window's begin and end.
    pub(crate) fn new(pid: i32, before: &Usage, after: &Usage, answered: u64) -> Self {
        let user_s = after.user.saturating_sub(before.user).as_secs_f64();
        let system_s = after.system.saturating_sub(before.system).as_secs_f64();
        Self {
            pid,
            user_s,
            system_s,
            us_per_exchange: per((user_s + system_s) * 1e6, number(answered)),
            resident_bytes: after.resident,
            resident_peak_bytes: after.resident_peak,
            log: None,
            fallen: None,
        }
    }
}

/// The failures of one part of the run by name; all of them, or only those that occurred.
pub(crate) fn failures(counts: &Counts, all: bool) -> BTreeMap<&'static str, u64> {
    let named = Failure::ALL.iter().map(|kind| (kind.label(), counts.failures[kind.index()]));
    named.filter(|(_, count)| all || *count > 0).collect()
}

/// Why the generator's load was not what was asked; empty when it was.
pub(crate) fn invalid(achieved: &Achieved, record: &Recorder, max_lag: Nanos) -> Vec<String> {
    let bound = max_lag / 1000;
    let lags = [("send", &record.send_lag), ("loop", &record.loop_lag)];
    let late = lags.into_iter().filter_map(|(name, lag)| {
        let p99 = Quantiles::new(lag).p99;
        (p99 >= bound && !lag.is_empty()).then(|| {
            format!(
                "its {name} lag at p99 is {}, {} is the bound: use fewer agents, more --threads, an \
                 idle machine, or another one than the relay's",
                millis(p99),
                millis(bound),
            )
        })
    });
    let mut why: Vec<_> = late.collect();
    if achieved.agents_begun < achieved.agents_due && !achieved.interrupted {
        why.push(format!(
            "{} of {} agents never began",
            achieved.agents_due - achieved.agents_begun,
            achieved.agents_due
        ));
    }
    why
}

/// Seconds of a time.
#[expect(clippy::cast_precision_loss, reason = "for people; microseconds of days are exact")]
pub(crate) fn seconds(time: Nanos) -> f64 {
    (time / MILLISECOND * MILLISECOND) as f64 / SECOND as f64
}

/// A count for arithmetic.
#[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

/// A ratio; zero when there is nothing to divide by.
pub(crate) fn per(amount: f64, of: f64) -> f64 {
    if of > 0.0 { amount / of } else { 0.0 }
}

/// Prints to standard output. A closed pipe (`| head`) is no reason to lose files and the exit code.
pub(crate) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Writes a file of a run.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn save(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::write(path, bytes).map_err(|error| refused(path, error))
}

/// Writes a result as JSON.
///
/// # Errors
/// As [`save`].
pub(crate) fn save_json(path: &Path, result: &impl Serialize) -> Result<(), Error> {
    let json = serde_json::to_string_pretty(result).map_err(|error| refused(path, error))?;
    save(path, (json + "\n").as_bytes())
}

/// The error of a file that could not be written.
pub(crate) fn refused(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::Run(format!("cannot write {}: {why}", path.display()))
}
