//! What a scenario showed: a table for people, JSON with every round, a chart.

mod chart;
mod figures;
mod table;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::Error;
use crate::load::Outcome;
use crate::manifest::Manifest;
use crate::run::Measured;
use crate::scenario::Scenario;
use figures::{Figure, Row};

/// One round of one subject in a line.
pub(crate) fn line(outcome: &Outcome, scenario: &Scenario) -> String {
    let words =
        figures::of(scenario).into_iter().filter(|figure| figure.in_line).filter_map(|figure| {
            let value = (figure.of)(outcome)?;
            Some(format!("{} {}", figures::number(value), figure.head))
        });
    let mut line = words.collect::<Vec<_>>().join(", ");
    if outcome.failures > 0 {
        line.push_str(&format!(", {} FAILURES", outcome.failures));
    }
    line
}

/// Prints the table and writes `NAME.json`, `NAME.md` and `NAME.svg` into the folder.
///
/// # Errors
/// When they cannot be written.
pub(crate) fn write(
    scenario: &Scenario,
    measured: &[Measured],
    manifest: &Manifest,
    folder: &Path,
) -> Result<(), Error> {
    let mut figures = figures::of(scenario);
    // A column that nobody fills is none, but for the one that subjects are judged by.
    let judge = figures[0].key;
    figures.retain(|figure| figure.key == judge || figures::is_told(figure, measured));
    let rows = figures::rows(&figures, measured);
    let table = table::markdown(&figures, &rows, false);
    println!("\n{}", table::markdown(&figures, &rows, true));
    let notes = table::notes(scenario, &rows, measured);
    notes.iter().for_each(|note| println!("- {note}"));
    fs::create_dir_all(folder).map_err(Error::at(format!("{}", folder.display())))?;
    let put = |ending: &str, text: String| {
        let path = folder.join(format!("{}.{ending}", scenario.name));
        fs::write(&path, text).map_err(Error::at(format!("{}", path.display())))
    };
    let json = json(scenario, &figures, &rows, measured, manifest);
    let mut text = serde_json::to_string_pretty(&json).map_err(Error::at("results"))?;
    text.push('\n');
    put("json", text)?;
    put("md", table::document(scenario, &table, &notes, measured, manifest))?;
    put("svg", chart::svg(scenario, &figures[0], &rows, manifest))
}

fn json(
    scenario: &Scenario,
    figures: &[Figure],
    rows: &[Row],
    measured: &[Measured],
    manifest: &Manifest,
) -> Value {
    let subjects: Vec<Value> = rows
        .iter()
        .zip(measured)
        .map(|(row, measured)| {
            let summaries: serde_json::Map<String, Value> = figures
                .iter()
                .zip(&row.summaries)
                .filter_map(|(figure, summary)| {
                    let summary = summary.as_ref()?;
                    Some((figure.key.to_owned(), json!(summary)))
                })
                .collect();
            let rounds: Vec<Value> = measured
                .outcomes
                .iter()
                .map(|(round, outcome)| json!({ "round": round + 1, "outcome": outcome }))
                .collect();
            json!({
                "name": row.name,
                "figures": summaries,
                "to_best_peer": row.to_peer,
                "path_to_direct": row.to_direct,
                "failures": row.failures,
                "rounds": rounds,
                "failed_rounds": measured.failed,
            })
        })
        .collect();
    json!({ "scenario": scenario, "manifest": manifest, "subjects": subjects })
}
