//! PURE: what one thread saw. Threads never share one; the main thread adds them up at the end.
//!
//! Every latency is kept twice: from the *intended* start, which a stalled target cannot hide
//! (coordinated omission), and from the actual send, which is the service time alone.

use crate::clock::Nanos;
use crate::failure::Failure;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::ops::Range;

/// Microseconds, three significant digits, growing as needed.
pub(crate) type Micros = Histogram<u64>;

/// Digits that a histogram keeps: 0.1 % of the value.
const DIGITS: u8 = 3;

/// The start of an exchange, planned and real.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// When the plan wanted it.
    pub(crate) intended: Nanos,
    /// When the agent began with the connect, or with the write on a held connection.
    pub(crate) began: Nanos,
}

/// One latency from both starts.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    /// From the intended start.
    pub(crate) from_intended: Micros,
    /// From the actual start.
    pub(crate) from_send: Micros,
}

impl Latency {
    fn new() -> Self {
        Self { from_intended: histogram(), from_send: histogram() }
    }

    fn record(&mut self, timing: Timing, now: Nanos) {
        record(&mut self.from_intended, now.saturating_sub(timing.intended));
        record(&mut self.from_send, now.saturating_sub(timing.began));
    }

    fn add(&mut self, other: &Self) {
        add(&mut self.from_intended, &other.from_intended);
        add(&mut self.from_send, &other.from_send);
    }
}

/// Numbers of exchanges, either of the warm-up or of the measured window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Begun by their agent.
    pub(crate) begun: u64,
    /// Ended with a good reply.
    pub(crate) answered: u64,
    /// Begun again after a failure, as the agents' forwarders do.
    pub(crate) retried: u64,
    /// Begun late because the agent's previous exchange was still running.
    pub(crate) queued: u64,
    /// Connections made.
    pub(crate) connects: u64,
    /// Request bytes of answered exchanges.
    pub(crate) bytes_up: u64,
    /// Failed exchanges by kind.
    pub(crate) failures: [u64; Failure::COUNT],
}

impl Counts {
    /// All failed exchanges.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.answered += other.answered;
        self.queued += other.queued;
        self.retried += other.retried;
        self.connects += other.connects;
        self.bytes_up += other.bytes_up;
        for (mine, theirs) in self.failures.iter_mut().zip(other.failures) {
            *mine += theirs;
        }
    }
}

/// What happened since the last progress line.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    /// Whole exchanges from the intended start.
    pub(crate) exchange: Micros,
    /// Those of them that belong to the measured window.
    pub(crate) measured: Micros,
    /// Exchanges that ended with a good reply.
    pub(crate) answered: u64,
    /// Exchanges that failed.
    pub(crate) failed: u64,
}

impl Interval {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { exchange: histogram(), measured: histogram(), answered: 0, failed: 0 }
    }

    /// Adds another thread's interval.
    pub(crate) fn add(&mut self, other: &Self) {
        add(&mut self.exchange, &other.exchange);
        add(&mut self.measured, &other.measured);
        self.answered += other.answered;
        self.failed += other.failed;
    }
}

/// All that one thread measured.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    /// The measured window; exchanges intended before it are warm-up.
    span: Range<Nanos>,
    /// Begin of the exchange to the established connection; not for reused connections.
    pub(crate) connect: Latency,
    /// Begin of the exchange to the end of its connection's TLS handshake.
    pub(crate) handshake: Latency,
    /// Begin of the exchange to the reply's first byte.
    pub(crate) first_byte: Latency,
    /// Begin of the exchange to the reply's last byte; those that waited in vain count with
    /// their age.
    pub(crate) exchange: Latency,
    /// Actual start minus the moment at which the agent was free and the plan wanted it: the
    /// generator's own lateness, which no target can cause.
    pub(crate) send_lag: Micros,
    /// How late the thread's own heartbeats were. A generator at its limit is late with replies
    /// too, which frees its agents late and hides from the send lag; this it cannot hide from.
    pub(crate) loop_lag: Micros,
    /// The measured window.
    pub(crate) window: Counts,
    /// Before it.
    pub(crate) warm_up: Counts,
    /// Good replies that came while the window lasted: what the achieved rate is made of. Those
    /// that came later belong to the window's exchanges, but not to its rate.
    pub(crate) answered_in_time: u64,
    /// How often each errno was met.
    pub(crate) errnos: BTreeMap<i32, u64>,
    /// Agents whose plan has anything to do before the end.
    pub(crate) agents_due: u64,
    /// Agents that began an exchange.
    pub(crate) agents_begun: u64,
    /// Agents that got a good reply.
    pub(crate) agents_answered: u64,
    /// Connections open now.
    pub(crate) open: u64,
    /// Since the last progress line.
    pub(crate) interval: Interval,
}

impl Recorder {
    /// Nothing measured yet, in a window that is measured.
    pub(crate) fn new(span: Range<Nanos>) -> Self {
        Self {
            span,
            connect: Latency::new(),
            handshake: Latency::new(),
            first_byte: Latency::new(),
            exchange: Latency::new(),
            send_lag: histogram(),
            loop_lag: histogram(),
            window: Counts::default(),
            warm_up: Counts::default(),
            answered_in_time: 0,
            errnos: BTreeMap::new(),
            agents_due: 0,
            agents_begun: 0,
            agents_answered: 0,
            open: 0,
            interval: Interval::new(),
        }
    }

    /// An exchange began at `timing.began`; `ready` is when the agent was free and it was due.
    pub(crate) fn began(&mut self, timing: Timing, ready: Nanos, again: bool) {
        let counts = self.counts(timing);
        counts.begun += 1;
        counts.retried += u64::from(again);
        counts.queued += u64::from(ready > timing.intended);
        if self.measures(timing) {
            record(&mut self.send_lag, timing.began.saturating_sub(ready));
        }
    }

    /// The exchange's own connection stands.
    pub(crate) fn connected(&mut self, timing: Timing, now: Nanos) {
        self.counts(timing).connects += 1;
        self.open += 1;
        if self.measures(timing) {
            self.connect.record(timing, now);
        }
    }

    /// The TLS of the exchange's own connection stands.
    pub(crate) fn shaken(&mut self, timing: Timing, now: Nanos) {
        if self.measures(timing) {
            self.handshake.record(timing, now);
        }
    }

    /// Failed exchanges by kind so far, warm-up included.
    pub(crate) fn failures(&self) -> [u64; Failure::COUNT] {
        let both = self.window.failures.iter().zip(self.warm_up.failures);
        let mut sums = [0; Failure::COUNT];
        for (sum, (window, warm_up)) in sums.iter_mut().zip(both) {
            *sum = window + warm_up;
        }
        sums
    }

    /// A connection is gone.
    pub(crate) fn closed(&mut self) {
        self.open -= 1;
    }

    /// The first bytes of the reply are here.
    pub(crate) fn first_byte(&mut self, timing: Timing, now: Nanos) {
        if self.measures(timing) {
            self.first_byte.record(timing, now);
        }
    }

    /// The reply is complete and good.
    pub(crate) fn answered(&mut self, timing: Timing, now: Nanos, bytes_up: u64) {
        let counts = self.counts(timing);
        counts.answered += 1;
        counts.bytes_up += bytes_up;
        self.answered_in_time += u64::from(self.span.contains(&now));
        self.interval.answered += 1;
        self.ended(timing, now);
    }

    /// Whole exchanges, in the run's histogram and in the second's.
    fn ended(&mut self, timing: Timing, now: Nanos) {
        let latency = now.saturating_sub(timing.intended);
        record(&mut self.interval.exchange, latency);
        if self.measures(timing) {
            record(&mut self.interval.measured, latency);
            self.exchange.record(timing, now);
        }
    }

    /// The exchange ended without a good reply.
    pub(crate) fn failed(&mut self, timing: Timing, now: Nanos, why: Failure, errno: Option<i32>) {
        self.counts(timing).failures[why.index()] += 1;
        self.interval.failed += 1;
        if let Some(errno) = errno {
            *self.errnos.entry(errno).or_insert(0) += 1;
        }
        if why.age_counts() {
            self.ended(timing, now);
        }
    }

    /// A heartbeat due at `intended` came now.
    pub(crate) fn beat(&mut self, intended: Nanos, now: Nanos) {
        if intended >= self.span.start {
            record(&mut self.loop_lag, now.saturating_sub(intended));
        }
    }

    /// An exchange that was due at `intended` never began.
    pub(crate) fn unsent(&mut self, intended: Nanos, now: Nanos) {
        self.failed(Timing { intended, began: intended }, now, Failure::TimeUnsent, None);
    }

    /// The window ends early.
    pub(crate) fn end_at(&mut self, end: Nanos) {
        self.span.end = self.span.end.min(end);
    }

    /// Hands over the interval and begins the next.
    pub(crate) fn take_interval(&mut self) -> Interval {
        std::mem::replace(&mut self.interval, Interval::new())
    }

    /// Adds another thread's measurements.
    pub(crate) fn add(&mut self, other: &Self) {
        self.connect.add(&other.connect);
        self.handshake.add(&other.handshake);
        self.first_byte.add(&other.first_byte);
        self.exchange.add(&other.exchange);
        add(&mut self.send_lag, &other.send_lag);
        add(&mut self.loop_lag, &other.loop_lag);
        self.window.add(&other.window);
        self.warm_up.add(&other.warm_up);
        self.answered_in_time += other.answered_in_time;
        for (errno, count) in &other.errnos {
            *self.errnos.entry(*errno).or_insert(0) += count;
        }
        self.agents_due += other.agents_due;
        self.agents_begun += other.agents_begun;
        self.agents_answered += other.agents_answered;
        self.open += other.open;
        self.interval.add(&other.interval);
    }

    fn measures(&self, timing: Timing) -> bool {
        timing.intended >= self.span.start
    }

    fn counts(&mut self, timing: Timing) -> &mut Counts {
        if self.measures(timing) { &mut self.window } else { &mut self.warm_up }
    }
}

/// An empty histogram of microseconds.
pub(crate) fn histogram() -> Micros {
    Histogram::new(DIGITS).expect("three digits are allowed")
}

fn record(into: &mut Micros, latency: Nanos) {
    // A histogram that resizes itself refuses nothing (`saturating_record` would clip instead).
    let recorded = into.record(latency / 1000);
    debug_assert!(recorded.is_ok(), "{recorded:?}");
}

fn add(into: &mut Micros, other: &Micros) {
    // Both resize and have the same digits, which is all that `add` can refuse.
    let added = into.add(other);
    debug_assert!(added.is_ok(), "{added:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MILLISECOND;

    #[test]
    fn a_late_start_shows_from_the_intended_time_only() {
        let mut recorder = Recorder::new(0..Nanos::MAX);
        let timing = Timing { intended: 0, began: 900 * MILLISECOND };
        recorder.began(timing, 900 * MILLISECOND, false);
        recorder.answered(timing, 901 * MILLISECOND, 10);
        assert!(recorder.exchange.from_intended.max() >= 900_000);
        assert!(recorder.exchange.from_send.max() < 1_010);
        assert_eq!(recorder.send_lag.max(), 0, "the agent was busy, the generator was not late");
        assert_eq!(recorder.window.queued, 1);
    }

    #[test]
    fn warm_up_is_counted_apart_and_not_measured() {
        let mut recorder = Recorder::new(100..150);
        let early = Timing { intended: 99, began: 99 };
        recorder.began(early, 99, false);
        recorder.answered(early, 200, 1);
        recorder.failed(early, 200, Failure::IoReset, Some(104));
        assert_eq!((recorder.warm_up.answered, recorder.warm_up.failed()), (1, 1));
        assert_eq!((recorder.window.answered, recorder.window.failed()), (0, 0));
        assert_eq!(recorder.answered_in_time, 0, "the reply came after the window");
        assert!(recorder.exchange.from_intended.is_empty());
        assert!(recorder.send_lag.is_empty());
    }

    #[test]
    fn waiting_in_vain_counts_as_latency_and_a_refusal_does_not() {
        let mut recorder = Recorder::new(0..Nanos::MAX);
        let timing = Timing { intended: 0, began: 0 };
        recorder.failed(timing, 5_000, Failure::ConnectRefused, Some(111));
        assert!(recorder.exchange.from_intended.is_empty());
        recorder.failed(timing, 20_000 * MILLISECOND, Failure::TimeReplyTimeout, None);
        recorder.unsent(0, 30_000 * MILLISECOND);
        assert_eq!(recorder.exchange.from_intended.len(), 2);
        assert!(recorder.exchange.from_intended.max() >= 30_000_000);
        assert_eq!(recorder.window.failed(), 3);
    }

    #[test]
    fn threads_add_up_exactly() {
        let one = |value: u64| {
            let mut recorder = Recorder::new(0..Nanos::MAX);
            let timing = Timing { intended: 0, began: 0 };
            recorder.connected(timing, value);
            recorder.answered(timing, value, 7);
            recorder.failed(timing, value, Failure::IoReset, Some(104));
            recorder
        };
        let mut sum = one(1_000_000);
        sum.add(&one(60_000_000_000));
        assert_eq!(sum.window.answered, 2);
        assert_eq!(sum.window.bytes_up, 14);
        assert_eq!(sum.errnos, BTreeMap::from([(104, 2)]));
        assert_eq!(sum.exchange.from_send.len(), 2);
        assert_eq!(sum.exchange.from_send.min(), 1_000);
        assert!(sum.exchange.from_send.max() >= 60_000_000);
    }
}
