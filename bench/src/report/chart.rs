//! PURE: one bar a subject, with a line from the least to the most round; needs no other file.

use std::fmt::Write as _;

use super::figures::{Figure, Row, Summary, number};
use crate::clock::float;
use crate::manifest::Manifest;
use crate::scenario::Scenario;
use crate::subject::Role;

const WIDTH: f64 = 820.0;
const NAMES_WIDTH: f64 = 180.0;
const NUMBERS_WIDTH: f64 = 110.0;
const BAR: f64 = 18.0;
const STEP: f64 = 28.0;
const TOP: f64 = 64.0;

/// The figure that subjects are judged by; shorter is better.
pub(super) fn svg(
    scenario: &Scenario,
    figure: &Figure,
    rows: &[Row],
    manifest: &Manifest,
) -> String {
    let bars: Vec<(&Row, &Summary)> =
        rows.iter().filter_map(|row| Some((row, row.summaries[0].as_ref()?))).collect();
    let most = bars.iter().map(|(_, summary)| summary.max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - NAMES_WIDTH - NUMBERS_WIDTH) / most;
    let height = TOP + STEP * float(bars.len() as u64) + 28.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\" font-weight=\"600\" fill=\"#1b1f24\">{title}</text>\n\
         <text x=\"12\" y=\"46\" fill=\"#57606a\">{head}, less is better: median, and least to most \
         round</text>\n",
        title = escaped(&scenario.title),
        head = escaped(figure.head),
    );
    for (number, (row, summary)) in bars.iter().enumerate() {
        let y = TOP + STEP * float(number as u64);
        bar(&mut text, row, summary, y, scale);
    }
    let _ = writeln!(
        text,
        "<text x=\"12\" y=\"{}\" font-size=\"11\" fill=\"#57606a\">{}</text>\n</svg>",
        height - 10.0,
        escaped(&format!(
            "{} {}; {}; Linux {}{}",
            manifest.date,
            manifest.commit,
            manifest.cpu,
            manifest.kernel,
            manifest.remark.as_ref().map_or_else(String::new, |remark| format!("; {remark}")),
        )),
    );
    text
}

fn bar(text: &mut String, row: &Row, summary: &Summary, y: f64, scale: f64) {
    let colour = match row.role {
        Role::Fanin => "#1f6feb",
        Role::Peer => "#bf8700",
        Role::Direct => "#8c959f",
    };
    let end = |value: f64| NAMES_WIDTH + value.max(0.0) * scale;
    let (middle, base) = (y + BAR / 2.0, y + BAR - 4.5);
    let _ = writeln!(
        text,
        "<text x=\"{x:.1}\" y=\"{base:.1}\" text-anchor=\"end\" fill=\"#1b1f24\">{name}</text>\n\
         <rect x=\"{NAMES_WIDTH}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" \
         fill=\"{colour}\"/>\n\
         <path d=\"M{from:.1} {middle:.1}H{to:.1}\" stroke=\"#1b1f24\" stroke-width=\"1.5\"/>\n\
         <text x=\"{label:.1}\" y=\"{base:.1}\" fill=\"#1b1f24\">{value}{ratio}</text>",
        x = NAMES_WIDTH - 8.0,
        name = escaped(&row.name),
        width = end(summary.median) - NAMES_WIDTH,
        from = end(summary.min),
        to = end(summary.max),
        label = end(summary.max) + 8.0,
        value = number(summary.median),
        ratio = row
            .to_peer
            .as_ref()
            .map_or_else(String::new, |ratio| format!(" (x{:.2})", ratio.median)),
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
