//! Metrics in Prometheus' text format 0.0.4: our own names ([`native`]), and on request those of
//! HAProxy's exporter, by which dashboards go ([`haproxy`]).

mod haproxy;
mod native;

use std::fmt::{Display, Write as _};

use crate::backend::histogram::{BOUNDS_MICROS, Times};

pub(super) use haproxy::{Wanted, haproxy};
pub(super) use native::native;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A family with one number for each `T`.
struct Family<T> {
    kind: &'static str,
    name: &'static str,
    help: &'static str,
    of: fn(&T) -> u64,
}

const fn gauge<T>(name: &'static str, help: &'static str, of: fn(&T) -> u64) -> Family<T> {
    Family { kind: "gauge", name, help, of }
}

const fn counter<T>(name: &'static str, help: &'static str, of: fn(&T) -> u64) -> Family<T> {
    Family { kind: "counter", name, help, of }
}

/// Names and values.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Each with its labels.
fn labelled<'a, T>(all: &'a [T], labels: impl Fn(&'a T) -> Labels<'a>) -> Vec<(Labels<'a>, &'a T)> {
    all.iter().map(|one| (labels(one), one)).collect()
}

/// The text as it grows. A family is begun once; its samples follow.
#[derive(Default)]
struct Exposition {
    out: String,
    name: String,
}

impl Exposition {
    fn family(&mut self, kind: &str, name: &str, help: &str) {
        name.clone_into(&mut self.name);
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.out, "{}{suffix}{labels} {value}", self.name);
    }

    /// Families with one series each, of `subject` itself.
    fn singles<T>(&mut self, prefix: &str, families: &[Family<T>], subject: &T) {
        self.each(prefix, families, &[(Vec::new(), subject)]);
    }

    /// Families with a series for each of these, which their labels tell apart.
    fn each<T>(&mut self, prefix: &str, families: &[Family<T>], all: &[(Labels<'_>, &T)]) {
        for family in families {
            self.family(family.kind, &format!("{prefix}{}", family.name), family.help);
            for (labels, one) in all {
                self.sample(labels, (family.of)(one));
            }
        }
    }

    fn histogram(&mut self, labels: &[(&str, &str)], times: &Times) {
        self.histogram_by(&BOUNDS_MICROS, labels, times);
    }

    fn histogram_by(&mut self, bounds: &[u64], labels: &[(&str, &str)], times: &Times) {
        let mut seen = 0;
        for (bound, count) in bounds.iter().zip(times.counts) {
            seen += count;
            let bound = seconds(*bound);
            self.suffixed("_bucket", &[labels, &[("le", bound.as_str())]].concat(), seen);
        }
        self.suffixed("_bucket", &[labels, &[("le", "+Inf")]].concat(), times.count());
        self.suffixed("_sum", labels, seconds(times.sum_micros));
        self.suffixed("_count", labels, times.count());
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Microseconds as seconds, without an error of rounding.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::control::tests::snapshot;

    /// The rules of the format: a family's lines stand together under its one HELP and TYPE, and no
    /// series occurs twice.
    #[test]
    fn every_family_is_declared_once_and_every_series_occurs_once() {
        for text in [native(&snapshot()), haproxy(&snapshot(), &Wanted::default())] {
            let (mut declared, mut series) = (HashSet::new(), HashSet::new());
            let mut current = String::new();
            for line in text.lines() {
                if let Some(rest) = line.strip_prefix("# TYPE ") {
                    let (name, kind) = rest.split_once(' ').unwrap();
                    assert!(declared.insert(name.to_owned()), "{name} is declared twice");
                    assert!(
                        kind != "counter"
                            || name.ends_with("_total")
                            || name.contains("failed_resolutions"),
                        "{name}"
                    );
                    name.clone_into(&mut current);
                } else if !line.starts_with('#') {
                    let (name, value) = line.rsplit_once(' ').unwrap();
                    assert!(name.starts_with(&current), "{name} stands under {current}");
                    assert!(value.parse::<f64>().is_ok(), "{line}");
                    assert!(series.insert(name.to_owned()), "{name} occurs twice");
                }
            }
            assert!(series.len() > 50, "{text}");
        }
    }

    #[test]
    fn the_document_has_every_name_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
        let document = std::fs::read_to_string(path).unwrap();
        let row = |line: &str| Some(line.strip_prefix("| `fanin_")?.split('`').next()?.to_owned());
        let documented: HashSet<String> = document.lines().filter_map(row).collect();
        let text = native(&snapshot());
        let family =
            |line: &str| Some(line.strip_prefix("# TYPE fanin_")?.split(' ').next()?.to_owned());
        let there: HashSet<String> = text.lines().filter_map(family).collect();
        assert_eq!(documented, there);
    }

    #[test]
    fn seconds_are_exact_and_labels_escaped() {
        let all =
            [(250, "0.00025"), (1_000_000, "1"), (30_000_000, "30"), (0, "0"), (1_500_000, "1.5")];
        for (micros, expected) in all {
            assert_eq!(seconds(micros), expected);
        }
        assert_eq!(escaped("a\"b\\c"), "a\\\"b\\\\c");
    }

    #[test]
    fn a_histogram_counts_up_to_all() {
        let mut snapshot = snapshot();
        let counts = &mut snapshot.status.relay.servers[0].tally.connects;
        counts.counts[0] = 2;
        counts.counts[14] = 1;
        let text = native(&snapshot);
        let labels = "backend=\"intake\",server=\"a\"";
        for line in [
            format!("fanin_server_connect_seconds_bucket{{{labels},le=\"0.00025\"}} 2"),
            format!("fanin_server_connect_seconds_bucket{{{labels},le=\"300\"}} 2"),
            format!("fanin_server_connect_seconds_bucket{{{labels},le=\"+Inf\"}} 3"),
            format!("fanin_server_connect_seconds_count{{{labels}}} 3"),
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }
}
