//! One line a second while the load runs: rewritten in place on a terminal, else a line each; and
//! the same figures kept for the report.

use crate::clock::{Nanos, SECOND};
use crate::procfs::Usage;
use crate::recorder::Interval;
use crate::report::series::{Packed, Second};
use crate::report::{per, seconds};
use crate::thread::Progress;
use std::io::{IsTerminal, Write};

/// What all threads have told so far.
#[derive(Debug)]
pub(crate) struct Board {
    agents: Vec<u64>,
    open: Vec<u64>,
    interval: Interval,
    failed: u64,
    relay: Option<Usage>,
    series: Vec<Second>,
    last: Nanos,
    in_place: bool,
}

impl Board {
    /// A board for so many threads.
    pub(crate) fn new(threads: u32) -> Self {
        let zeros = vec![0; threads as usize];
        Self {
            agents: zeros.clone(),
            open: zeros,
            interval: Interval::new(),
            failed: 0,
            relay: None,
            series: Vec::new(),
            last: 0,
            in_place: std::io::stderr().is_terminal(),
        }
    }

    /// Takes a thread's last second.
    pub(crate) fn take(&mut self, progress: &Progress) {
        let thread = progress.thread as usize;
        self.agents[thread] = progress.agents;
        self.open[thread] = progress.open;
        self.take_rest(&progress.interval);
    }

    /// Takes what a thread saw after its last progress.
    pub(crate) fn take_rest(&mut self, interval: &Interval) {
        self.failed += interval.failed;
        self.interval.add(interval);
    }

    /// Shows the line for the time since the last one.
    pub(crate) fn show(&mut self, now: Nanos, agents: u32, phase: &str, relay: Option<Usage>) {
        let line = self.line(now, agents, phase, relay);
        let mut out = std::io::stderr().lock();
        // A closed terminal must not end the run.
        let _ = match self.in_place {
            true => write!(out, "\r\x1b[K{line}"),
            false => writeln!(out, "{line}"),
        };
        let _ = out.flush();
    }

    /// Leaves the line for good; the seconds, with what came after the last line.
    pub(crate) fn finish(mut self, now: Nanos, relay: Option<Usage>) -> Vec<Second> {
        if self.in_place {
            eprintln!();
        }
        self.close(now, relay);
        self.series
    }

    /// Ends the second.
    fn close(&mut self, now: Nanos, relay: Option<Usage>) {
        let interval = std::mem::replace(&mut self.interval, Interval::new());
        let span_s = seconds(now.saturating_sub(self.last));
        let cpu = |usage: Usage| (usage.user + usage.system).as_secs_f64();
        let used = relay.zip(self.relay).map(|(now, then)| (cpu(now) - cpu(then)).max(0.0));
        self.series.push(Second {
            at_s: seconds(self.last),
            span_s,
            agents: self.agents.iter().sum(),
            open: self.open.iter().sum(),
            answered: interval.answered,
            failed: interval.failed,
            p50_us: interval.exchange.value_at_quantile(0.5),
            p99_us: interval.exchange.value_at_quantile(0.99),
            max_us: interval.exchange.max(),
            relay_cpu: used.map(|used| per(used, span_s)),
            relay_resident_bytes: relay.map(|usage| usage.resident),
            measured: Packed::new(&interval.measured),
        });
        self.relay = relay;
        self.last = now;
    }

    fn line(&mut self, now: Nanos, agents: u32, phase: &str, relay: Option<Usage>) -> String {
        let span = now.saturating_sub(self.last).max(1);
        let rate = u128::from(self.interval.answered) * u128::from(SECOND) / u128::from(span);
        let quantile = |q| millis(self.interval.exchange.value_at_quantile(q));
        let line = format!(
            "{:>4} s {phase:<7}  agents {}/{agents}  open {}  {rate}/s  errors {}  p50 {}  p99 {}",
            now / SECOND,
            self.agents.iter().sum::<u64>(),
            self.open.iter().sum::<u64>(),
            self.failed,
            quantile(0.5),
            quantile(0.99),
        );
        self.close(now, relay);
        line
    }
}

/// Microseconds as people read them.
pub(crate) fn millis(micros: u64) -> String {
    match micros {
        0..100_000 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        100_000..10_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_sums_threads_and_begins_anew_each_time() {
        let mut board = Board::new(2);
        for thread in 0..2 {
            let mut interval = Interval::new();
            interval.answered = 50;
            interval.failed = 1;
            interval.exchange.record(2_000).unwrap();
            board.take(&Progress { thread, agents: 10, open: 3, interval });
        }
        let line = board.line(SECOND, 20, "load", None);
        assert!(line.contains("agents 20/20  open 6  100/s  errors 2"), "{line}");
        assert!(line.contains("p50 2.00 ms"), "{line}");
        assert!(board.line(2 * SECOND, 20, "load", None).contains("  0/s  errors 2"));
    }

    #[test]
    fn times_are_written_in_the_unit_people_read() {
        assert_eq!(millis(1), "0.00 ms");
        assert_eq!(millis(1_239), "1.23 ms");
        assert_eq!(millis(250_000), "250 ms");
        assert_eq!(millis(12_340_000), "12.3 s");
    }
}
