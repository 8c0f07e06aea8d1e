//! PURE: one run, or several over each other, as one self-contained page: no script, no request.
//!
//! It is made from the JSON of the report alone, so that `compare` draws what `--html` draws.

use super::chart::{Chart, Line, Scale, escape, short};
use super::series::Second;
use super::slo::Judged;
use super::{Achieved, Latencies, Quantiles, Relay, number};
use crate::limits::Finding;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write;

/// What the page shows of a run; see `docs/loadgen-report.md`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Run {
    schema: String,
    made_by: MadeBy,
    asked: Asked,
    achieved: Achieved,
    latency_us: Latencies,
    send_lag_us: Quantiles,
    loop_lag_us: Quantiles,
    generator: Generator,
    relay: Option<Relay>,
    machine_us_per_exchange: f64,
    errors: std::collections::BTreeMap<String, u64>,
    objectives: Vec<Judged>,
    claim: Claim,
    checks: Vec<Finding>,
    series: Vec<Second>,
    percentiles: Vec<(f64, u64)>,
}

#[derive(Clone, Debug, Deserialize)]
struct MadeBy {
    version: String,
    kernel: String,
    processors: u32,
}

#[derive(Clone, Debug, Deserialize)]
struct Asked {
    agents: u32,
    profile: String,
    target: String,
    rate: f64,
    ramp_s: f64,
    seed: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Generator {
    invalid: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Claim {
    rule: String,
    shown: bool,
    why_not: Vec<String>,
}

impl Run {
    /// Reads a report.
    ///
    /// # Errors
    /// What is missing or of another kind, in words.
    pub(crate) fn read(report: Value) -> Result<Self, String> {
        let run: Self = serde_json::from_value(report)
            .map_err(|error| format!("not a report of this loadgen ({error})"))?;
        match run.schema == super::SCHEMA {
            true => Ok(run),
            false => Err(format!("its schema is {}, {} is known here", run.schema, super::SCHEMA)),
        }
    }

    fn verdict(&self) -> &'static str {
        if !self.generator.invalid.is_empty() {
            "invalid: the generator was the limit"
        } else if self.objectives.iter().any(|judged| !judged.met) {
            "an objective was missed"
        } else if self.achieved.window.failed > 0 {
            "with errors"
        } else if self.achieved.interrupted {
            "interrupted"
        } else {
            "valid"
        }
    }
}

/// The page. Each run has a name to tell it by.
pub(crate) fn page(runs: &[(String, Run)]) -> String {
    let title = match runs {
        [(_, run)] => format!("{} {} agents", run.asked.agents, run.asked.profile),
        _ => format!("{} runs compared", runs.len()),
    };
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>loadgen: {0}</title><style>{1}</style></head><body><h1>{0}</h1>\n",
        escape(&title),
        include_str!("report.css")
    );
    summary(&mut out, runs);
    out.push_str("<main>");
    charts(runs).iter().filter_map(Chart::figure).for_each(|figure| out.push_str(&figure));
    out.push_str("</main>\n");
    for (name, run) in runs {
        details(&mut out, (runs.len() > 1).then_some(name), run);
    }
    out.push_str("</body></html>\n");
    out
}

/// The same figures as text, each run's ratio to the first behind its latencies and costs.
pub(crate) fn table(runs: &[(String, Run)]) -> String {
    let mut out = format!(
        "{:<24}{:>8}{:>12}{:>8}{:>18}{:>18}{:>18}{:>20}  verdict\n",
        "run", "agents", "answered/s", "failed", "p50 ms", "p99 ms", "p99.9 ms", "relay us each"
    );
    let Some((_, first)) = runs.first() else { return out };
    let figures = |run: &Run| {
        let q = run.latency_us.exchange.from_intended;
        let relay = run.relay.as_ref().map(|relay| relay.us_per_exchange);
        [Some(ms(q.p50)), Some(ms(q.p99)), Some(ms(q.p99_9)), relay]
    };
    let base = figures(first);
    for (name, run) in runs {
        let cells = figures(run).into_iter().zip(base).map(|(value, base)| match (value, base) {
            (Some(value), Some(base)) if base > 0.0 => format!("{value:.2} (x{:.2})", value / base),
            (Some(value), _) => format!("{value:.2}"),
            (None, _) => "-".to_owned(),
        });
        let cells: Vec<_> = cells.collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{name:<24}{:>8}{:>12.1}{:>8}{:>18}{:>18}{:>18}{:>20}  {}",
            run.asked.agents,
            run.achieved.rate,
            run.achieved.window.failed,
            cells[0],
            cells[1],
            cells[2],
            cells[3],
            run.verdict(),
        );
    }
    out
}

/// One row a run.
fn summary(out: &mut String, runs: &[(String, Run)]) {
    out.push_str(
        "<div class=\"wide\"><table><tr><th>run</th><th>verdict</th><th>agents</th><th>profile</th>\
         <th>asked/s</th><th>answered/s</th><th>failed</th><th>p50</th><th>p90</th><th>p99</th>\
         <th>p99.9</th><th>max</th><th>relay &micro;s each</th><th>relay MB</th></tr>",
    );
    for (place, (name, run)) in runs.iter().enumerate() {
        let q = run.latency_us.exchange.from_intended;
        let relay = |what: fn(&Relay) -> f64| {
            run.relay.as_ref().map_or_else(|| "-".to_owned(), |relay| format!("{:.1}", what(relay)))
        };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "<tr><td><b class=\"t{}\">&#9632;</b> {}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{:.0}</td><td>{:.1}</td><td>{}</td>{}<td>{}</td><td>{}</td></tr>",
            place % super::chart::COLOURS,
            escape(name),
            run.verdict(),
            run.asked.agents,
            escape(&run.asked.profile),
            run.asked.rate,
            run.achieved.rate,
            run.achieved.window.failed,
            cells(q),
            relay(|relay| relay.us_per_exchange),
            relay(|relay| number(relay.resident_peak_bytes) / 1e6),
        );
    }
    out.push_str(
        "</table></div><p>Latency of whole exchanges from the moment that the plan wanted \
        them, in milliseconds. Failed exchanges that waited count with their age.</p>\n",
    );
}

fn cells(q: Quantiles) -> String {
    q.times().map(|us| format!("<td>{}</td>", short(ms(us)))).concat()
}

/// A figure of each second, with its name.
type Figure<'a> = (&'a str, &'a dyn Fn(&Second) -> Option<f64>);

const SECONDS: (&str, Scale) = ("seconds since the start, warm-up included", Scale::Linear);

/// One line for each run and figure.
fn over_time(runs: &[(String, Run)], figures: &[Figure<'_>]) -> Vec<Line> {
    let several = runs.len() > 1;
    let mut lines = Vec::new();
    for (colour, (name, run)) in runs.iter().enumerate() {
        for (dash, (figure, value)) in figures.iter().enumerate() {
            let point = |second: &Second| Some((second.at_s + second.span_s, value(second)?));
            let points: Vec<_> = run.series.iter().filter_map(point).collect();
            let name = if several { format!("{name}: {figure}") } else { (*figure).to_owned() };
            lines.push(Line { name, colour: if several { colour } else { dash }, dash, points });
        }
    }
    lines.retain(|line| !line.points.is_empty());
    lines
}

fn ms(us: u64) -> f64 {
    number(us) / 1e3
}

fn charts(runs: &[(String, Run)]) -> Vec<Chart> {
    let [latency, rate] = [latency_over_time(runs), rate_over_time(runs)];
    let linear = |title, unit, figure: Figure<'_>| Chart {
        title,
        x: SECONDS,
        y: (unit, Scale::Linear),
        lines: over_time(runs, &[figure]),
    };
    vec![
        by_percentile(runs),
        latency,
        rate,
        linear("Connections open", "connections", ("open", &|second| Some(number(second.open)))),
        linear(
            "Processors that the relay used",
            "processors",
            ("relay", &|second| second.relay_cpu),
        ),
        linear(
            "Resident memory of the relay",
            "MB",
            ("relay", &|second| Some(number(second.relay_resident_bytes?) / 1e6)),
        ),
    ]
}

fn by_percentile(runs: &[(String, Run)]) -> Chart {
    let lines = runs.iter().enumerate().map(|(colour, (name, run))| {
        let points = run.percentiles.iter().map(|&(quantile, us)| (quantile, ms(us))).collect();
        Line { name: name.clone(), colour, dash: 0, points }
    });
    Chart {
        title: "Latency by percentile",
        x: ("percentile", Scale::Percentile),
        y: ("ms", Scale::Log),
        lines: lines.collect(),
    }
}

fn latency_over_time(runs: &[(String, Run)]) -> Chart {
    let figures: [Figure<'_>; 3] = [
        ("p50", &|second| Some(ms(second.p50_us))),
        ("p99", &|second| Some(ms(second.p99_us))),
        ("max", &|second| Some(ms(second.max_us))),
    ];
    Chart {
        title: "Latency over time",
        x: SECONDS,
        y: ("ms", Scale::Log),
        lines: over_time(runs, &figures),
    }
}

fn rate_over_time(runs: &[(String, Run)]) -> Chart {
    let each = |count: u64, second: &Second| Some(number(count) / second.span_s.max(1e-3));
    let figures: [Figure<'_>; 2] = [
        ("answered", &|second| each(second.answered, second)),
        ("failed", &|second| each(second.failed, second)),
    ];
    Chart {
        title: "Exchanges per second",
        x: SECONDS,
        y: ("per second", Scale::Linear),
        lines: over_time(runs, &figures),
    }
}

fn details(out: &mut String, name: Option<&String>, run: &Run) {
    let heading = name.map_or_else(|| "Details".to_owned(), |name| escape(name));
    let (made_by, asked) = (&run.made_by, &run.asked);
    let _ = write!(
        out,
        "<section><h2>{heading}</h2><p>loadgen {}, kernel {}, {} processors; target {}; {:.1} s \
         measured after {} s of warm-up; seed {}; {} answered; {:.1} &micro;s of processor per exchange \
         on the whole machine, generator included.</p>",
        escape(&made_by.version),
        escape(&made_by.kernel),
        made_by.processors,
        escape(&asked.target),
        run.achieved.measured_s,
        asked.ramp_s,
        asked.seed,
        run.achieved.window.answered,
        run.machine_us_per_exchange,
    );
    out.push_str(
        "<div class=\"wide\"><table><tr><th>ms</th><th>p50</th><th>p90</th><th>p99</th>\
        <th>p99.9</th><th>max</th><th>count</th></tr>",
    );
    let latency = &run.latency_us;
    let rows = [
        ("connect, from intended", latency.connect.from_intended),
        ("connect, from send", latency.connect.from_send),
        ("handshake, from intended", latency.handshake.from_intended),
        ("handshake, from send", latency.handshake.from_send),
        ("first byte, from intended", latency.first_byte.from_intended),
        ("first byte, from send", latency.first_byte.from_send),
        ("exchange, from intended", latency.exchange.from_intended),
        ("exchange, from send", latency.exchange.from_send),
        ("generator's send lag", run.send_lag_us),
        ("generator's loop lag", run.loop_lag_us),
    ];
    let shown = |(name, q): &(&str, Quantiles)| q.count > 0 || !name.starts_with("handshake");
    for (name, q) in rows.into_iter().filter(shown) {
        let _ = write!(out, "<tr><td>{name}</td>{}<td>{}</td></tr>", cells(q), q.count);
    }
    out.push_str("</table></div><ul>");
    let mut item = |class: &str, text: String| {
        let _ = write!(out, "<li class=\"{class}\">{}</li>", escape(&text));
    };
    for why in &run.generator.invalid {
        item("bad", format!("invalid: the generator could not offer the load: {why}"));
    }
    for (kind, count) in run.errors.iter().filter(|(_, count)| **count > 0) {
        item("bad", format!("{count} x {kind}"));
    }
    for judged in &run.objectives {
        let verdict = if judged.met { "met" } else { "missed" };
        item(if judged.met { "good" } else { "bad" }, format!("{}: {verdict}", judged.objective));
    }
    match run.claim.shown {
        true => item("good", format!("claim of 1000 agents shown: {}", run.claim.rule)),
        false => item("", format!("claim of 1000 agents: {}", run.claim.why_not.join("; "))),
    }
    for finding in &run.checks {
        item(if finding.fits { "" } else { "bad" }, finding.text.clone());
    }
    out.push_str("</ul></section>\n");
}
