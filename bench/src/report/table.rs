//! PURE: the table, and the document around it.

use std::fmt::Write as _;

use super::figures::{Figure, Row, Summary, number};
use crate::clock::float;
use crate::manifest::Manifest;
use crate::run::Measured;
use crate::scenario::Scenario;

/// From here the ends' CPUs are what limits the rate.
const ENDS_FULL: f64 = 0.95;
/// Below this share of what fell due, the pace was not kept.
const KEPT_UP: f64 = 0.98;

/// Columns padded, so that it reads as it is; all figures, or only those that are printed.
pub(super) fn markdown(figures: &[Figure], rows: &[Row], brief: bool) -> String {
    let shown = |figure: &&Figure| figure.in_line || !brief;
    let mut head = vec!["subject".to_owned()];
    for (place, figure) in figures.iter().filter(shown).enumerate() {
        head.push(figure.head.to_owned());
        head.extend((place == 0).then(|| "to best peer".to_owned()));
        head.extend((figure.key == "path_cpu").then(|| "to direct".to_owned()));
    }
    let mut lines = vec![head];
    for row in rows {
        let mut cells = vec![row.name.clone()];
        let summaries = figures.iter().zip(&row.summaries);
        for (place, (figure, summary)) in summaries.filter(|(f, _)| shown(f)).enumerate() {
            cells.push(cell(summary.as_ref()));
            cells.extend((place == 0).then(|| ratio(row.to_peer.as_ref())));
            cells.extend((figure.key == "path_cpu").then(|| ratio(row.to_direct.as_ref())));
        }
        lines.push(cells);
    }
    pad(&lines)
}

/// The table with what is needed to judge it.
pub(super) fn document(
    scenario: &Scenario,
    table: &str,
    notes: &[String],
    measured: &[Measured],
    manifest: &Manifest,
) -> String {
    let mut text = format!("# {}: {}\n\n", scenario.name, scenario.title);
    if let Some(remark) = &manifest.remark {
        let _ = writeln!(text, "**{remark}**\n");
    }
    let rounds = measured.iter().map(|measured| measured.outcomes.len()).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "Medians (least to most) of {rounds} interleaved rounds of {} s each. Ratios are medians of \
         the ratios within each round. [How it is measured](../../README.md).\n\n![chart]({}.svg)\n\n\
         {table}",
        scenario.work.window_ms as f64 / 1e3,
        scenario.name,
    );
    for note in notes {
        let _ = writeln!(text, "- {note}");
    }
    let _ = writeln!(text, "\n## Environment\n");
    let facts = [
        ("date, commit", format!("{}, {}", manifest.date, manifest.commit)),
        ("command", format!("`{}`", manifest.command)),
        ("CPU", format!("{} x {}", manifest.cpus, manifest.cpu)),
        ("virtual machine", if manifest.virtual_machine { "yes" } else { "no" }.to_owned()),
        ("relay on CPU, ends on", format!("{}, {:?}", manifest.relay_cpu, manifest.load_cpus)),
        ("governor", or_unknown(&manifest.governor)),
        ("memory", manifest.memory.clone()),
        ("kernel", manifest.kernel.clone()),
        ("descriptors", manifest.descriptors.to_string()),
        ("load average before, after", {
            let (before, after) = &manifest.load_average;
            format!("{before}; {after}")
        }),
        ("mitigations", manifest.mitigations.join("; ")),
    ];
    for (name, value) in facts {
        let _ = writeln!(text, "- {name}: {value}");
    }
    for (name, value) in &manifest.versions {
        let _ = writeln!(text, "- {name}: {value}");
    }
    for (name, value) in &manifest.sysctls {
        let _ = writeln!(text, "- `{name}` = {value}");
    }
    text
}

/// What a reader must know before believing a row.
pub(super) fn notes(scenario: &Scenario, rows: &[Row], measured: &[Measured]) -> Vec<String> {
    let mut notes = Vec::new();
    for (row, measured) in rows.iter().zip(measured) {
        if row.failures > 0 {
            notes.push(format!("{}: {} connections FAILED.", row.name, row.failures));
        }
        for (round, why) in &measured.failed {
            notes.push(format!("{}: round {} FAILED: {why}", row.name, round + 1));
        }
    }
    let full = |measured: &&Measured| {
        measured.outcomes.iter().any(|(_, outcome)| {
            (outcome.load.cpu_s + outcome.server.cpu_s) / outcome.window_s > ENDS_FULL
        })
    };
    let named = |which: &dyn Fn(&&Measured) -> bool| {
        let chosen = measured.iter().filter(|measured| which(measured));
        chosen.map(|measured| measured.subject.name.as_str()).collect::<Vec<_>>()
    };
    let asked = float(scenario.work.rate_per_s);
    let behind = |measured: &&Measured| {
        measured
            .outcomes
            .iter()
            .any(|(_, outcome)| float(outcome.exchanges) < KEPT_UP * asked * outcome.window_s)
    };
    let names = named(&behind);
    if !names.is_empty() {
        notes.push(format!(
            "In some round fewer exchanges were done than fell due with {}: that round was an \
             overload, its latency is the length of the queue.",
            names.join(", ")
        ));
    }
    let names = named(&full);
    if !names.is_empty() {
        notes.push(format!(
            "Load and servers were at the limit of one CPU with {}: rates say no more than that, \
             costs hold.",
            names.join(", ")
        ));
    }
    notes
}

fn cell(summary: Option<&Summary>) -> String {
    summary.map_or_else(
        || "-".to_owned(),
        |s| format!("{} ({}-{})", number(s.median), number(s.min), number(s.max)),
    )
}

fn ratio(summary: Option<&Summary>) -> String {
    summary
        .map_or_else(|| "-".to_owned(), |s| format!("{:.2} ({:.2}-{:.2})", s.median, s.min, s.max))
}

fn or_unknown(text: &str) -> String {
    if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }
}

fn pad(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            let _ = writeln!(text, "| {} |", rules.join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = pad(&[vec!["a".into(), "long head".into()], vec!["name".into(), "1".into()]]);
        assert_eq!(text, "| a    | long head |\n| ---- | --------- |\n| name | 1         |\n");
    }
}
