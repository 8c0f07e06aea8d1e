//! One line a second while the load runs: rewritten in place on a terminal, else a line each.

use crate::clock::{Nanos, SECOND};
use crate::recorder::Interval;
use crate::thread::Progress;
use std::io::{IsTerminal, Write};

/// What all threads have told so far.
#[derive(Debug)]
pub(crate) struct Board {
    agents: Vec<u64>,
    open: Vec<u64>,
    interval: Interval,
    failed: u64,
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
            last: 0,
            in_place: std::io::stderr().is_terminal(),
        }
    }

    /// Takes a thread's last second.
    pub(crate) fn take(&mut self, progress: &Progress) {
        let thread = progress.thread as usize;
        self.agents[thread] = progress.agents;
        self.open[thread] = progress.open;
        self.failed += progress.interval.failed;
        self.interval.add(&progress.interval);
    }

    /// Shows the line for the time since the last one.
    pub(crate) fn show(&mut self, now: Nanos, agents: u32, phase: &str) {
        let line = self.line(now, agents, phase);
        let mut out = std::io::stderr().lock();
        // A closed terminal must not end the run.
        let _ = match self.in_place {
            true => write!(out, "\r\x1b[K{line}"),
            false => writeln!(out, "{line}"),
        };
        let _ = out.flush();
    }

    /// Leaves the line for good.
    pub(crate) fn finish(&self) {
        if self.in_place {
            eprintln!();
        }
    }

    fn line(&mut self, now: Nanos, agents: u32, phase: &str) -> String {
        let interval = std::mem::replace(&mut self.interval, Interval::new());
        let span = now.saturating_sub(self.last).max(1);
        self.last = now;
        let rate = u128::from(interval.answered) * u128::from(SECOND) / u128::from(span);
        let quantile = |q| millis(interval.exchange.value_at_quantile(q));
        format!(
            "{:>4} s {phase:<7}  agents {}/{agents}  open {}  {rate}/s  errors {}  p50 {}  p99 {}",
            now / SECOND,
            self.agents.iter().sum::<u64>(),
            self.open.iter().sum::<u64>(),
            self.failed,
            quantile(0.5),
            quantile(0.99),
        )
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
        let line = board.line(SECOND, 20, "load");
        assert!(line.contains("agents 20/20  open 6  100/s  errors 2"), "{line}");
        assert!(line.contains("p50 2.00 ms"), "{line}");
        assert!(board.line(2 * SECOND, 20, "load").contains("  0/s  errors 2"));
    }

    #[test]
    fn times_are_written_in_the_unit_people_read() {
        assert_eq!(millis(1), "0.00 ms");
        assert_eq!(millis(1_239), "1.23 ms");
        assert_eq!(millis(250_000), "250 ms");
        assert_eq!(millis(12_340_000), "12.3 s");
    }
}
