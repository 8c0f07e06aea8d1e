//! PURE: objectives such as `p99<20ms`, read from the command line and judged at the end.

use super::{Both, Report};
use crate::cli::duration;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// One objective.
#[derive(Clone, Debug)]
pub(crate) struct Objective {
    text: String,
    metric: Metric,
    relation: Relation,
    bound: f64,
}

/// An objective after the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Judged {
    /// As typed.
    pub(crate) objective: String,
    /// The value, in microseconds where it is a time.
    pub(crate) value: f64,
    /// Whether it holds.
    pub(crate) met: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Metric {
    Time(Of, At),
    Errors,
    Rate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Connect,
    Handshake,
    FirstByte,
    Exchange,
    SendLag,
    LoopLag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    P50,
    P90,
    P99,
    P99_9,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Below,
    AtMost,
    Equal,
    AtLeast,
    Above,
}

impl Objective {
    /// Judges a run; times count from the intended start.
    pub(crate) fn judge(&self, report: &Report) -> Judged {
        let value = match self.metric {
            Metric::Errors => super::number(report.achieved.failed()),
            Metric::Rate => report.achieved.rate,
            Metric::Time(of, at) => {
                let intended = |both: &Both| both.from_intended;
                let quantiles = match of {
                    Of::Connect => intended(&report.latency_us.connect),
                    Of::Handshake => intended(&report.latency_us.handshake),
                    Of::FirstByte => intended(&report.latency_us.first_byte),
                    Of::Exchange => intended(&report.latency_us.exchange),
                    Of::SendLag => report.send_lag_us,
                    Of::LoopLag => report.loop_lag_us,
                };
                super::number(match at {
                    At::P50 => quantiles.p50,
                    At::P90 => quantiles.p90,
                    At::P99 => quantiles.p99,
                    At::P99_9 => quantiles.p99_9,
                    At::Max => quantiles.max,
                })
            }
        };
        let met = match self.relation {
            Relation::Below => value < self.bound,
            Relation::AtMost => value <= self.bound,
            #[expect(clippy::float_cmp, reason = "both are whole numbers, or the user wants it")]
            Relation::Equal => value == self.bound,
            Relation::AtLeast => value >= self.bound,
            Relation::Above => value > self.bound,
        };
        Judged { objective: self.text.clone(), value, met }
    }
}

impl std::fmt::Display for Objective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const RELATIONS: [(&str, Relation); 5] = [
            ("<=", Relation::AtMost),
            (">=", Relation::AtLeast),
            ("==", Relation::Equal),
            ("<", Relation::Below),
            (">", Relation::Above),
        ];
        let refuse = || {
            format!(
                "'{text}': write a metric, a relation and a value, such as 'p99<20ms'. Metrics: \
                 errors, rate, and p50, p90, p99, p99.9, max of the exchange, or of another \
                 latency: connect.p99, handshake.p99, first_byte.p99, send_lag.p99. Relations: < <= == >= >"
            )
        };
        let (name, relation, value) = RELATIONS
            .iter()
            .find_map(|(sign, relation)| {
                let (name, value) = text.split_once(sign)?;
                Some((name.trim(), *relation, value.trim()))
            })
            .ok_or_else(refuse)?;
        let metric = metric(name).ok_or_else(refuse)?;
        let bound = match metric {
            Metric::Time(..) => duration(value)?.as_secs_f64() * 1e6,
            Metric::Errors | Metric::Rate => {
                value.parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(refuse)?
            }
        };
        Ok(Self { text: text.to_owned(), metric, relation, bound })
    }
}

fn metric(name: &str) -> Option<Metric> {
    let (of, at) = match name.split_once('.') {
        _ if name == "errors" => return Some(Metric::Errors),
        _ if name == "rate" => return Some(Metric::Rate),
        Some(("connect", at)) => (Of::Connect, at),
        Some(("handshake", at)) => (Of::Handshake, at),
        Some(("first_byte", at)) => (Of::FirstByte, at),
        Some(("exchange", at)) => (Of::Exchange, at),
        Some(("send_lag", at)) => (Of::SendLag, at),
        Some(("loop_lag", at)) => (Of::LoopLag, at),
        _ => (Of::Exchange, name),
    };
    let at = match at {
        "p50" => At::P50,
        "p90" => At::P90,
        "p99" => At::P99,
        "p99.9" => At::P99_9,
        "max" => At::Max,
        _ => return None,
    };
    Some(Metric::Time(of, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Metric, Relation, f64) {
        let objective: Objective = text.parse().unwrap();
        (objective.metric, objective.relation, objective.bound)
    }

    #[test]
    fn objectives_are_read_as_people_write_them() {
        let p99 = Metric::Time(Of::Exchange, At::P99);
        assert_eq!(read("p99<20ms"), (p99, Relation::Below, 20_000.0));
        let connect = Metric::Time(Of::Connect, At::P99_9);
        assert_eq!(read("connect.p99.9 <= 1.5s"), (connect, Relation::AtMost, 1_500_000.0));
        assert_eq!(read("errors==0"), (Metric::Errors, Relation::Equal, 0.0));
        assert_eq!(read("rate>=1400"), (Metric::Rate, Relation::AtLeast, 1400.0));
    }

    #[test]
    fn what_is_no_objective_is_refused_with_the_choice() {
        for bad in ["p98<1s", "p99", "p99<20", "errors<x", "loss==0", "<1s", "rate>nan"] {
            assert!(bad.parse::<Objective>().is_err(), "{bad}");
        }
        assert!("p98<1s".parse::<Objective>().unwrap_err().contains("p99.9"));
    }
}
