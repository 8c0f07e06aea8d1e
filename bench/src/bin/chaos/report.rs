//! What a run came to: figures, the verdict, and a file of each kind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::relay::Sample;

/// How much the relay may have grown between the first and the last sample at rest that count.
const GROWTH_KIB_MAX: u64 = 1024;
const DESCRIPTORS_MAX: u64 = 1;
/// A relay that holds bytes back for more to come adds 40 ms (delayed acknowledgement) or 200 ms
/// (`MSG_MORE`) to each way of an exchange; without, it takes a few.
const EXCHANGE_MILLISECONDS_MAX: u64 = 75;
/// The samples that count: the last so many seconds, or two thirds of a shorter run.
const WINDOW_SECONDS: f64 = 20.0 * 60.0;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    pub engine: String,
    pub commit: String,
    pub seed: u64,
    pub passed: bool,
    pub failures: Vec<String>,
    pub seconds: f64,
    pub connections: u64,
    pub reloads: u64,
    /// How many of each plan came to what.
    pub results: BTreeMap<String, u64>,
    /// Of the window: the first and the last sample at rest, and the extremes between.
    pub window_seconds: f64,
    pub resident_kib: [u64; 2],
    pub resident_kib_range: [u64; 2],
    pub descriptors: [u64; 2],
    pub threads: [u64; 2],
    /// Half of the exchanges took no longer.
    pub exchange_milliseconds: Option<u64>,
    /// How long the machine stood still.
    pub stalled_seconds: f64,
    pub relay_seconds: f64,
    pub generator_seconds: f64,
    /// The relay's own counts at the end.
    pub counts: Value,
    pub samples: Vec<Sample>,
}

impl Outcome {
    pub fn new(engine: &str, commit: &str, seed: u64) -> Self {
        let (engine, commit) = (engine.to_owned(), commit.to_owned());
        Self { engine, commit, seed, ..Self::default() }
    }

    /// What the relay has counted must add up.
    pub fn check_counts(&mut self, counts: Value) {
        let ended = counts["ended"].as_object().into_iter().flatten();
        let ended: u64 = ended.filter_map(|(_, count)| count.as_u64()).sum();
        let (now, total) = (counts["sessions"].as_u64(), counts["sessions_total"].as_u64());
        if total.is_none() || now.zip(total).map(|(now, total)| total - now) != Some(ended) {
            self.failures.push(format!("{total:?} sessions, {now:?} now, {ended} ended"));
        }
        if counts["pipes_used"] != 0 || counts["buffers_used"] != 0 {
            let (pipes, buffers) = (&counts["pipes_used"], &counts["buffers_used"]);
            self.failures.push(format!("at rest {pipes} pipes and {buffers} buffers are lent"));
        }
        if counts["queue_overflows"] != 0 {
            self.failures.push("the completion queue overflowed".to_owned());
        }
        self.counts = counts;
    }

    /// Bytes must not be held back.
    pub fn check_delay(&mut self, milliseconds: Option<u64>) {
        self.exchange_milliseconds = milliseconds;
        match milliseconds {
            None => self.failures.push("no exchange was made".to_owned()),
            Some(median) if median > EXCHANGE_MILLISECONDS_MAX => {
                self.failures.push(format!("half of the exchanges took more than {median} ms"));
            }
            Some(_) => {}
        }
    }

    /// `warm`: all pools had reached their bounds before.
    pub fn check_samples(&mut self, samples: Vec<Sample>, warm: bool) {
        self.seconds = samples.last().map_or(0.0, |sample| sample.seconds);
        self.connections = samples.last().map_or(0, |sample| sample.sessions_total);
        self.relay_seconds = samples.last().map_or(0.0, |sample| sample.processor_seconds);
        let window = WINDOW_SECONDS.min(self.seconds * 2.0 / 3.0);
        let from = self.seconds - window;
        let counted: Vec<_> =
            samples.iter().filter(|sample| sample.quiet && sample.seconds >= from).collect();
        if let [first, .., last] = counted[..] {
            self.window_seconds = last.seconds - first.seconds;
            self.resident_kib = [first.resident_kib, last.resident_kib];
            self.descriptors = [first.descriptors, last.descriptors];
            self.threads = [first.threads, last.threads];
            let all = || counted.iter().map(|sample| sample.resident_kib);
            self.resident_kib_range = [all().min().unwrap_or(0), all().max().unwrap_or(0)];
            self.check_growth(warm);
        } else {
            self.failures.push("too few samples at rest to compare".to_owned());
        }
        let ring_workers = samples.iter().map(|sample| sample.ring_workers).max().unwrap_or(0);
        if ring_workers > 0 {
            self.failures.push(format!("{ring_workers} iou-wrk threads were seen"));
        }
        self.samples = samples;
    }

    fn check_growth(&mut self, warm: bool) {
        let [first, last] = self.resident_kib;
        if warm && last > first + GROWTH_KIB_MAX {
            self.failures.push(format!("resident memory grew from {first} to {last} KiB"));
        }
        let [first, last] = self.descriptors;
        if last > first + DESCRIPTORS_MAX {
            self.failures.push(format!("descriptors grew from {first} to {last}"));
        }
        let [first, last] = self.threads;
        if warm && last > first {
            self.failures.push(format!("threads grew from {first} to {last}"));
        }
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        let verdict = if self.failures.is_empty() { "PASSED" } else { "FAILED" };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "soak of {} at {}: {verdict}", self.engine, self.commit);
        let _ = writeln!(out, "seed               {}", self.seed);
        let _ = writeln!(out, "duration           {:.0} s, {} reloads", self.seconds, self.reloads);
        let _ = writeln!(out, "connections        {}", self.connections);
        let (first, last) = (self.resident_kib[0], self.resident_kib[1]);
        let _ = writeln!(
            out,
            "resident memory    {first} KiB to {last} KiB at rest, over the last {:.0} s ({} to {})",
            self.window_seconds, self.resident_kib_range[0], self.resident_kib_range[1]
        );
        let (first, last) = (self.descriptors[0], self.descriptors[1]);
        let _ = writeln!(out, "descriptors        {first} to {last}");
        let _ = writeln!(out, "threads            {} to {}", self.threads[0], self.threads[1]);
        if let Some(median) = self.exchange_milliseconds {
            let _ = writeln!(out, "exchanges          {median} ms in the median");
        }
        let per_second = |seconds: f64| 100.0 * seconds / self.seconds.max(1.0);
        let _ = writeln!(
            out,
            "processor          relay {:.1} %, generator {:.1} % of one core",
            per_second(self.relay_seconds),
            per_second(self.generator_seconds)
        );
        let _ = writeln!(out, "machine stood still {:.1} s", self.stalled_seconds);
        for (what, count) in &self.results {
            let _ = writeln!(out, "  {count:8}  {what}");
        }
        for failure in &self.failures {
            let _ = writeln!(out, "FAILURE {failure}");
        }
        out
    }

    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join(format!("soak-{}.txt", self.engine)), self.text())?;
        let outcome = Self { passed: self.failures.is_empty(), ..self.clone() };
        let json = serde_json::to_string_pretty(&outcome).map_err(io::Error::other)?;
        fs::write(folder.join(format!("soak-{}.json", self.engine)), json + "\n")
    }
}
