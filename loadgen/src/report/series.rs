//! PURE: the run second by second, and its view as CSV.

use crate::recorder::{Micros, histogram};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The time between two progress lines. The JSON's `series[]` has the same fields.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Second {
    /// Begin, seconds since the run began.
    pub(crate) at_s: f64,
    /// Length in seconds; the last one takes as long as the ending does.
    pub(crate) span_s: f64,
    /// Agents that have begun an exchange so far.
    pub(crate) agents: u64,
    /// Connections open at the end.
    pub(crate) open: u64,
    /// Good replies, warm-up included.
    pub(crate) answered: u64,
    /// Failed exchanges, warm-up included.
    pub(crate) failed: u64,
    /// Whole exchanges from the intended start, warm-up included, microseconds.
    pub(crate) p50_us: u64,
    /// As `p50_us`.
    pub(crate) p99_us: u64,
    /// As `p50_us`.
    pub(crate) max_us: u64,
    /// Processors that the relay used, where its process is known.
    pub(crate) relay_cpu: Option<f64>,
    /// The relay's resident memory in bytes.
    pub(crate) relay_resident_bytes: Option<u64>,
    /// Exchanges of the measured window that ended here.
    #[serde(skip)]
    pub(crate) measured: Packed,
}

/// A histogram without its empty places: an hour of full ones would be hundreds of megabytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed(Vec<(u64, u64)>);

impl Packed {
    /// Packs what was counted.
    pub(crate) fn new(full: &Micros) -> Self {
        let places = full.iter_recorded();
        Self(places.map(|at| (at.value_iterated_to(), at.count_since_last_iteration())).collect())
    }

    /// The same histogram again: each value falls into the place that it came from.
    pub(crate) fn unpack(&self) -> Micros {
        let mut full = histogram();
        for &(value, count) in &self.0 {
            let recorded = full.record_n(value, count);
            debug_assert!(recorded.is_ok(), "it resizes: {recorded:?}");
        }
        full
    }
}

/// One line for each second, with a heading; an unknown figure is an empty field.
pub(crate) fn csv(series: &[Second]) -> String {
    let mut text = String::from(
        "at_s,span_s,agents,open,answered,failed,p50_us,p99_us,max_us,relay_cpu,\
         relay_resident_bytes\n",
    );
    for s in series {
        let cpu = s.relay_cpu.map(|cpu| format!("{cpu:.3}")).unwrap_or_default();
        let resident = s.relay_resident_bytes.map(|b| b.to_string()).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:.3},{:.3},{},{},{},{},{},{},{},{cpu},{resident}",
            s.at_s, s.span_s, s.agents, s.open, s.answered, s.failed, s.p50_us, s.p99_us, s.max_us,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_loses_nothing() {
        let mut full = histogram();
        for value in [0, 1, 1, 999, 20_011, 20_012, 7_654_321] {
            full.record(value).unwrap();
        }
        let again = Packed::new(&full).unpack();
        assert_eq!(again, full);
    }
}
