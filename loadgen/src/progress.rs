//! What all threads have told, once a second: on the screen of a terminal, else a line each; and the
//! same figures kept for the report.

use crate::agent::Phase;
use crate::clock::{Nanos, SECOND};
use crate::failure::Failure;
use crate::procfs::Usage;
use crate::recorder::Interval;
use crate::report::series::{Packed, Second};
use crate::report::{per, seconds};
use crate::thread::{Progress, Standing};
use crate::view::View;
use std::io::Write;

/// What all threads have told so far.
#[derive(Debug)]
pub(crate) struct Board {
    standing: Vec<Standing>,
    interval: Interval,
    failed: u64,
    relay: Option<Usage>,
    series: Vec<Second>,
    last: Nanos,
    view: Option<View>,
}

/// The run at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    /// Since the run began.
    pub(crate) at: Nanos,
    /// What the run is at.
    pub(crate) phase: &'static str,
    /// Agents of the plan.
    pub(crate) agents_asked: u32,
    /// Those that have begun.
    pub(crate) agents: u64,
    /// Connections open.
    pub(crate) open: u64,
    /// Lanes by where they stand.
    pub(crate) phases: [u64; Phase::COUNT],
    /// Good replies per second since the last moment.
    pub(crate) rate: u64,
    /// Failed exchanges so far.
    pub(crate) failed: u64,
    /// The same by kind.
    pub(crate) failures: [u64; Failure::COUNT],
    /// Whole exchanges since the last moment, from the intended start.
    pub(crate) p50_us: u64,
    /// As `p50_us`.
    pub(crate) p99_us: u64,
    /// As `p50_us`.
    pub(crate) max_us: u64,
    /// How late the generator itself has been so far.
    pub(crate) lag_p99_us: u64,
    /// The relay's process, where it is known.
    pub(crate) relay: Option<RelayUse>,
}

/// What the relay takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RelayUse {
    /// Processors since the last moment.
    pub(crate) processors: Option<f64>,
    /// Resident bytes.
    pub(crate) resident: u64,
}

impl Board {
    /// A board for so many threads, shown on a screen if there is one.
    pub(crate) fn new(threads: u32, view: Option<View>) -> Self {
        Self {
            standing: vec![Standing::default(); threads as usize],
            interval: Interval::new(),
            failed: 0,
            relay: None,
            series: Vec::new(),
            last: 0,
            view,
        }
    }

    /// Takes a thread's last second.
    pub(crate) fn take(&mut self, progress: &Progress) {
        self.standing[progress.thread as usize] = progress.standing;
        self.take_rest(&progress.interval);
    }

    /// Takes what a thread saw after its last progress.
    pub(crate) fn take_rest(&mut self, interval: &Interval) {
        self.failed += interval.failed;
        self.interval.add(interval);
    }

    /// Shows the time since the last one.
    pub(crate) fn show(
        &mut self,
        now: Nanos,
        agents: u32,
        phase: &'static str,
        relay: Option<Usage>,
    ) {
        let moment = self.moment(now, agents, phase, relay);
        match &mut self.view {
            Some(view) => view.show(&moment, &self.series),
            // A closed standard error must not end the run.
            None => drop(writeln!(std::io::stderr(), "{}", moment.line())),
        }
    }

    /// The seconds, with what came after the last one that was shown. The screen is gone.
    pub(crate) fn finish(mut self, now: Nanos, relay: Option<Usage>) -> Vec<Second> {
        self.close(now, relay);
        self.series
    }

    fn standing(&self) -> Standing {
        let mut all = Standing::default();
        self.standing.iter().for_each(|thread| all.add(thread));
        all
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
            agents: self.standing().agents,
            open: self.standing().open,
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

    /// Ends the second, and tells of it.
    fn moment(
        &mut self,
        now: Nanos,
        agents_asked: u32,
        phase: &'static str,
        relay: Option<Usage>,
    ) -> Moment {
        let span = now.saturating_sub(self.last).max(1);
        let rate = u128::from(self.interval.answered) * u128::from(SECOND) / u128::from(span);
        self.close(now, relay);
        let second = self.series.last().cloned().unwrap_or_default();
        let Standing { agents, open, phases, failures, lag_p99_us } = self.standing();
        Moment {
            at: now,
            phase,
            agents_asked,
            agents,
            open,
            phases,
            rate: u64::try_from(rate).unwrap_or(u64::MAX),
            failed: self.failed,
            failures,
            p50_us: second.p50_us,
            p99_us: second.p99_us,
            max_us: second.max_us,
            lag_p99_us,
            relay: relay
                .map(|usage| RelayUse { processors: second.relay_cpu, resident: usage.resident }),
        }
    }
}

impl Moment {
    fn line(&self) -> String {
        format!(
            "{:>4} s {:<7}  agents {}/{}  open {}  {}/s  errors {}  p50 {}  p99 {}",
            self.at / SECOND,
            self.phase,
            self.agents,
            self.agents_asked,
            self.open,
            self.rate,
            self.failed,
            millis(self.p50_us),
            millis(self.p99_us),
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
        let mut board = Board::new(2, None);
        for thread in 0..2 {
            let mut interval = Interval::new();
            interval.answered = 50;
            interval.failed = 1;
            interval.exchange.record(2_000).unwrap();
            let standing = Standing { agents: 10, open: 3, ..Standing::default() };
            board.take(&Progress { thread, standing, interval });
        }
        let line = board.moment(SECOND, 20, "load", None).line();
        assert!(line.contains("agents 20/20  open 6  100/s  errors 2"), "{line}");
        assert!(line.contains("p50 2.00 ms"), "{line}");
        assert!(board.moment(2 * SECOND, 20, "load", None).line().contains("  0/s  errors 2"));
    }

    #[test]
    fn times_are_written_in_the_unit_people_read() {
        assert_eq!(millis(1), "0.00 ms");
        assert_eq!(millis(1_239), "1.23 ms");
        assert_eq!(millis(250_000), "250 ms");
        assert_eq!(millis(12_340_000), "12.3 s");
    }
}
