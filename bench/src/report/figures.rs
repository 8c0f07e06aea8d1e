//! PURE: the figures of a round, and what several rounds make of them.

use serde::Serialize;

use crate::clock::float;
use crate::load::Outcome;
use crate::run::Measured;
use crate::scenario::{Kind, Scenario};
use crate::subject::Role;

/// Bytes of a GB, as streams are counted.
const GIGABYTE: f64 = 1e9;
/// From so many seconds on, beginning and end are told apart.
const LONG_S: usize = 20;

/// One thing that is measured.
#[derive(Clone, Copy)]
pub(super) struct Figure {
    /// In JSON.
    pub(super) key: &'static str,
    /// Over a column, with its unit.
    pub(super) head: &'static str,
    /// Whether it is printed; the files have all.
    pub(super) in_line: bool,
    pub(super) of: fn(&Outcome) -> Option<f64>,
}

/// Several rounds of one figure.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// A subject's summaries, in the order of the figures; the first is what it is judged by.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) summaries: Vec<Option<Summary>>,
    /// First figure against that of the peer with the best median, round by round.
    pub(super) to_peer: Option<Summary>,
    /// Whole path against the direct path, round by round.
    pub(super) to_direct: Option<Summary>,
    pub(super) failures: u64,
}

/// What a scenario measures; the first is what subjects are judged by, less is better.
pub(super) fn of(scenario: &Scenario) -> Vec<Figure> {
    let mut figures = of_kind(scenario.work.kind);
    let judge = scenario.judged_by.as_deref();
    // Stable: the others stay in their order.
    figures.sort_by_key(|figure| Some(figure.key) != judge);
    figures
}

/// What is measured for a kind of load.
fn of_kind(kind: Kind) -> Vec<Figure> {
    match kind {
        Kind::Idle => of_idle(),
        Kind::Storm => of_storm(),
        bulk if bulk.is_bulk() => [of_bulk(), of_window()].concat(),
        exchanges => [of_exchanges(exchanges), of_window()].concat(),
    }
}

const fn figure(
    key: &'static str,
    head: &'static str,
    in_line: bool,
    of: fn(&Outcome) -> Option<f64>,
) -> Figure {
    Figure { key, head, in_line, of }
}

fn of_idle() -> Vec<Figure> {
    vec![
        // What is held however many there are (warm buffers, say) falls out.
        figure("further_per_session", "B/further session", true, |o| {
            Some(o.relay_grown_later?.pss_bytes / (float(o.sessions) * 0.75))
        }),
        figure("pss_per_session", "Pss B/session", true, |o| {
            per_session(o, o.relay_grown?.pss_bytes)
        }),
        figure("rss_per_session", "Rss B/session", true, |o| {
            per_session(o, o.relay_grown?.rss_bytes)
        }),
        figure("private_dirty_per_session", "own B/session", true, |o| {
            per_session(o, o.relay_grown?.private_dirty_bytes)
        }),
        figure("relay_cpu_ms_per_s", "relay CPU ms/s at rest", true, |o| {
            Some(o.relay?.cpu_s * 1e3 / o.window_s)
        }),
        figure("sessions", "sessions", true, |o| Some(float(o.sessions))),
    ]
}

fn of_storm() -> Vec<Figure> {
    vec![
        figure("recovered_s", "all served after s", true, |o| o.recovered_s),
        figure("p50_us", "p50 us", true, |o| Some(o.latency_us?.p50)),
        figure("p99_us", "p99 us", true, |o| Some(o.latency_us?.p99)),
        figure("failures", "failed connections", true, |o| Some(float(o.failures))),
        figure("relay_cpu_s", "relay CPU s", true, |o| Some(o.relay?.cpu_s)),
        figure("sessions", "sessions", true, |o| Some(float(o.sessions))),
        figure("skew", "most/mean of workers", true, skew),
    ]
}

fn of_bulk() -> Vec<Figure> {
    vec![
        figure("relay_cpu", "relay CPU s/GB", true, |o| Some(o.relay?.cpu_s / gigabytes(o)?)),
        figure("path_cpu", "path CPU s/GB", true, |o| Some(path_s(o) / gigabytes(o)?)),
        figure("rate", "GB/s", true, |o| Some(gigabytes(o)? / o.window_s)),
        figure("switches", "switches/GB", true, |o| Some(switches(o)? / gigabytes(o)?)),
    ]
}

fn of_exchanges(kind: Kind) -> Vec<Figure> {
    let mut figures = vec![
        figure("relay_cpu", "relay CPU us", true, |o| Some(o.relay?.cpu_s * 1e6 / exchanges(o)?)),
        figure("path_cpu", "path CPU us", true, |o| Some(path_s(o) * 1e6 / exchanges(o)?)),
        figure("rate", "exchanges/s", true, |o| Some(exchanges(o)? / o.window_s)),
        figure("p50_us", "p50 us", true, |o| Some(o.latency_us?.p50)),
        figure("p99_us", "p99 us", true, |o| Some(o.latency_us?.p99)),
        figure("p999_us", "p99.9 us", true, |o| Some(o.latency_us?.p999)),
        figure("switches", "switches", true, |o| Some(switches(o)? / exchanges(o)?)),
    ];
    if kind == Kind::Paced {
        figures.push(figure("lateness_p99_us", "late p99 us", false, |o| o.lateness_p99_us));
    }
    if kind.is_churn() {
        figures.push(figure("failures", "failed connections", true, |o| Some(float(o.failures))));
        figures.push(figure("first_rate", "first 10 s: /s", true, |o| {
            (o.seconds.len() >= LONG_S).then(|| mean(&o.seconds[..10]))
        }));
        figures.push(figure("last_rate", "last 10 s: /s", true, |o| {
            // The last second is not whole.
            let whole = o.seconds.len().checked_sub(1).filter(|whole| *whole >= LONG_S)?;
            Some(mean(&o.seconds[whole - 10..whole]))
        }));
    }
    figures
}

/// What is told of every load that lasts as long as its window.
fn of_window() -> Vec<Figure> {
    vec![
        figure("skew", "most/mean of workers", true, skew),
        figure("relay_user", "user share", false, |o| {
            let relay = o.relay?;
            (relay.cpu_s > 0.0).then(|| (relay.user_s / relay.cpu_s).min(1.0))
        }),
        figure("relay_busy", "relay busy", false, |o| Some(o.relay?.cpu_s / o.window_s)),
        figure("ends_busy", "ends busy", false, |o| {
            Some((o.load.cpu_s + o.server.cpu_s) / o.window_s)
        }),
        figure("strangers_busy", "strangers busy", false, |o| {
            Some((o.machine_s - path_s(o)).max(0.0) / o.window_s)
        }),
    ]
}

/// Whether there is a round of which it can be told.
pub(super) fn is_told(figure: &Figure, measured: &[Measured]) -> bool {
    measured.iter().any(|measured| !values(measured, figure).is_empty())
}

/// Summaries and ratios of all subjects.
pub(super) fn rows(figures: &[Figure], measured: &[Measured]) -> Vec<Row> {
    let judged = |measured: &Measured| summary(&values(measured, &figures[0]));
    let peer = measured
        .iter()
        .filter(|measured| measured.subject.role == Role::Peer)
        .filter_map(|measured| Some((measured, judged(measured)?.median)))
        .min_by(|(_, mine), (_, other)| mine.total_cmp(other))
        .map(|(measured, _)| measured);
    let direct = measured.iter().find(|measured| measured.subject.role == Role::Direct);
    let path = figures.iter().find(|figure| figure.key == "path_cpu");
    measured
        .iter()
        .map(|measured| Row {
            name: measured.subject.name.clone(),
            role: measured.subject.role,
            summaries: figures.iter().map(|figure| summary(&values(measured, figure))).collect(),
            to_peer: peer.and_then(|peer| ratio(measured, peer, &figures[0])),
            to_direct: path.and_then(|path| ratio(measured, direct?, path)),
            failures: measured.outcomes.iter().map(|(_, outcome)| outcome.failures).sum(),
        })
        .collect()
}

/// Four digits that mean something.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn values(measured: &Measured, figure: &Figure) -> Vec<(u32, f64)> {
    let of = |(round, outcome): &(u32, Outcome)| {
        (figure.of)(outcome).filter(|value| value.is_finite()).map(|value| (*round, value))
    };
    measured.outcomes.iter().filter_map(of).collect()
}

/// One against the other in the same round, so that what drifts falls out.
fn ratio(mine: &Measured, other: &Measured, figure: &Figure) -> Option<Summary> {
    let others = values(other, figure);
    let ratios: Vec<_> = values(mine, figure)
        .into_iter()
        .filter_map(|(round, value)| {
            let (_, theirs) = others.iter().find(|(theirs, _)| *theirs == round)?;
            (*theirs > 0.0).then_some((round, value / theirs))
        })
        .collect();
    summary(&ratios)
}

fn summary(values: &[(u32, f64)]) -> Option<Summary> {
    let mut sorted: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = match sorted.len() % 2 {
        0 => f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, *sorted.get(middle)?),
        _ => sorted[middle],
    };
    Some(Summary { median, min: *sorted.first()?, max: *sorted.last()? })
}

/// How much more than its share the busiest worker has accepted; nothing where there is only one.
fn skew(outcome: &Outcome) -> Option<f64> {
    let accepted = &outcome.accepted_by_worker;
    let (most, sum) = (accepted.iter().max()?, accepted.iter().sum::<u64>());
    (accepted.len() > 1 && sum > 0)
        .then(|| float(*most) * float(accepted.len() as u64) / float(sum))
}

/// Exchanges a second.
fn mean(seconds: &[[u64; 2]]) -> f64 {
    float(seconds.iter().map(|second| second[0]).sum()) / float(seconds.len() as u64)
}

fn exchanges(outcome: &Outcome) -> Option<f64> {
    (outcome.exchanges > 0).then(|| float(outcome.exchanges))
}

fn gigabytes(outcome: &Outcome) -> Option<f64> {
    (outcome.bytes > 0).then(|| float(outcome.bytes) / GIGABYTE)
}

fn per_session(outcome: &Outcome, bytes: f64) -> Option<f64> {
    (outcome.sessions > 0).then(|| bytes / float(outcome.sessions))
}

fn switches(outcome: &Outcome) -> Option<f64> {
    outcome.relay.map(|relay| relay.switches_voluntary + relay.switches_forced)
}

/// Everything between the client's call and the server's, both ends included.
fn path_s(outcome: &Outcome) -> f64 {
    let relay = outcome.relay.map_or(0.0, |relay| relay.cpu_s);
    relay + outcome.server.cpu_s + outcome.load.cpu_s + outcome.soft_interrupts_s
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::account::Usage;
    use crate::subject;

    fn round(cpu_s: f64) -> Outcome {
        let relay = Some(Usage { cpu_s, ..Usage::default() });
        Outcome { window_s: 1.0, exchanges: 1_000_000, relay, ..Outcome::default() }
    }

    fn measured(name: &str, costs: &[f64]) -> Measured {
        let subject = subject::all(Path::new("fanin"), None)
            .into_iter()
            .find(|subject| subject.name == name)
            .unwrap();
        let outcomes = (0..).zip(costs.iter().map(|cost| round(*cost))).collect();
        Measured { subject, outcomes, failed: Vec::new() }
    }

    #[test]
    fn the_best_peer_is_the_one_with_the_best_median_and_ratios_pair_the_rounds() {
        let figures = of_kind(Kind::Saturated);
        let all = [
            measured("fanin-epoll-auto", &[6.0, 9.0, 10.0]),
            measured("haproxy", &[10.0, 12.0, 40.0]),
            measured("nginx", &[8.0, 20.0, 30.0]),
        ];
        let rows = rows(&figures, &all);
        let cost = rows[0].summaries[0].as_ref().unwrap();
        assert_eq!(number(cost.median), "9.000");
        let ratio = rows[0].to_peer.as_ref().unwrap();
        assert_eq!([ratio.median, ratio.min, ratio.max].map(number), ["0.600", "0.250", "0.750"]);
    }

    #[test]
    fn an_even_number_of_rounds_has_its_median_between_two() {
        let summary = summary(&[(0, 4.0), (1, 1.0), (2, 2.0), (3, 100.0)]).unwrap();
        assert_eq!(number(summary.median), "3.000");
        assert!(super::summary(&[]).is_none());
    }

    #[test]
    fn a_round_that_did_nothing_has_no_cost() {
        let idle = Outcome { window_s: 1.0, ..Outcome::default() };
        assert!(
            of_kind(Kind::Churn)
                .iter()
                .all(|figure| { (figure.of)(&idle).is_none_or(|value| value == 0.0) })
        );
    }
}
