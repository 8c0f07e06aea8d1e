//! What the tables say: one content for the screen and for plain text. PURE.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::control::text::{Table, grouped, percent, size, span};

use super::look::{Look, Pair, bytes, number, rows, word};

/// What a cell wants the reader to feel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Careful,
    Bad,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: Tone::Plain }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        grouped(number).into()
    }
}

fn toned(text: impl Into<String>, tone: Tone) -> Cell {
    Cell { text: text.into(), tone }
}

/// A column: its heading, whether it is of numbers, and whether it is left out where there is no
/// room, those at the right first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) heading: &'static str,
    pub(super) right: bool,
    pub(super) spare: bool,
}

/// Reads `?>HEADING`: `>` is of numbers, `?` is spare.
fn column(text: &'static str) -> Column {
    let spare = text.starts_with('?');
    let rest = text.trim_start_matches('?');
    Column { heading: rest.trim_start_matches('>'), right: rest.starts_with('>'), spare }
}

/// A table.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Sheet {
    fn new(headings: &[&'static str]) -> Self {
        Self { columns: headings.iter().map(|heading| column(heading)).collect(), rows: Vec::new() }
    }

    fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// As text, whatever its width.
    pub(super) fn plain(&self) -> String {
        let heading =
            |column: &Column| format!("{}{}", if column.right { ">" } else { "" }, column.heading);
        let headings: Vec<String> = self.columns.iter().map(heading).collect();
        let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
        for row in &self.rows {
            table.row(row.iter().map(|cell| cell.text.clone()).collect::<Vec<_>>());
        }
        table.render()
    }
}

/// What servers are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Name,
    Sessions,
    Rate,
    Failures,
}

impl Sort {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Name => Self::Sessions,
            Self::Sessions => Self::Rate,
            Self::Rate => Self::Failures,
            Self::Failures => Self::Name,
        }
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Sessions => "sessions",
            Self::Rate => "new a second",
            Self::Failures => "failures",
        }
    }
}

/// `backend/server`.
pub(super) fn server_name(server: &Value) -> String {
    format!("{}/{}", word(server, "backend"), word(server, "name"))
}

/// The servers in this order, each with itself as it was before, if it was there.
pub(super) fn sorted<'a>(pair: &Pair<'a>, sort: Sort) -> Vec<(&'a Value, &'a Value)> {
    let mut known: BTreeMap<_, _> =
        rows(&pair.before.status, "servers").iter().map(|one| (server_name(one), one)).collect();
    let mut servers: Vec<_> = rows(&pair.now.status, "servers")
        .iter()
        // A new one has no rate yet.
        .map(|server| (known.remove(&server_name(server)).unwrap_or(server), server))
        .collect();
    servers.sort_by_cached_key(|(past, server)| {
        let first = match sort {
            Sort::Name => 0,
            Sort::Sessions => number(server, "sessions"),
            Sort::Rate => pair.rate_of(past, server, "sessions_total"),
            Sort::Failures => number(server, "connect_failures"),
        };
        (Reverse(first), server_name(server))
    });
    servers
}

pub(super) fn servers(pair: &Pair<'_>, sort: Sort) -> Sheet {
    let mut sheet = Sheet::new(&[
        "SERVER",
        "STATE",
        "?>SINCE",
        ">SESSIONS",
        ">NEW/s",
        ">FAILED/s",
        ">SENT/s",
        ">RECEIVED/s",
        "?>FAILED",
        "?WHY",
    ]);
    for (past, server) in sorted(pair, sort) {
        let rate = |key| pair.rate_of(past, server, key);
        let failing = rate("connect_failures");
        let check = &server["check"];
        let since = check["seconds"].as_u64().map(|seconds| span(Duration::from_secs(seconds)));
        sheet.row([
            server_name(server).into(),
            toned(word(server, "state"), tone_of(server)),
            since.unwrap_or_else(|| "-".to_owned()).into(),
            number(server, "sessions").into(),
            rate("sessions_total").into(),
            toned(grouped(failing), if failing > 0 { Tone::Bad } else { Tone::Plain }),
            size(rate("bytes_to_server")).into(),
            size(rate("bytes_from_server")).into(),
            number(server, "connect_failures").into(),
            check["failure"].as_str().unwrap_or_default().into(),
        ]);
    }
    sheet
}

fn tone_of(server: &Value) -> Tone {
    match word(server, "state") {
        "down" | "no address yet" => Tone::Bad,
        _ if word(server, "admin") != "ready" || number(server, "weight") == 0 => Tone::Careful,
        _ => Tone::Good,
    }
}

/// All that is known of one server, in a line.
pub(super) fn server_line(server: &Value) -> String {
    let resolved: Vec<_> = rows(server, "resolved").iter().filter_map(Value::as_str).collect();
    let mut line = format!("{} at {}", server_name(server), word(server, "address"));
    if resolved != [word(server, "address")] {
        line += &format!(" ({})", resolved.join(" "));
    }
    line += &format!(": {}", word(server, "state"));
    let check = &server["check"];
    if let Some(seconds) = check["seconds"].as_u64() {
        line += &format!(" for {}", span(Duration::from_secs(seconds)));
    }
    if let Some(failure) = check["failure"].as_str() {
        line += &format!(", {failure}");
    }
    format!("{line}; weight {}", number(server, "weight"))
}

pub(super) fn listeners(pair: &Pair<'_>) -> Sheet {
    let mut sheet = Sheet::new(&[
        "LISTENER",
        "STATE",
        "BACKEND",
        ">SESSIONS",
        ">MAX",
        ">NEW/s",
        ">REFUSED",
        "?ADDRESS",
    ]);
    for listener in rows(&pair.now.status, "listeners") {
        let same = |other: &&Value| other["name"] == listener["name"];
        let past = rows(&pair.before.status, "listeners").iter().find(same).unwrap_or(listener);
        let addresses: Vec<_> =
            rows(listener, "addresses").iter().filter_map(Value::as_str).collect();
        let traffic = &listener["traffic"];
        let refused: u64 =
            ["refused", "denied", "source_limited"].iter().map(|key| number(traffic, key)).sum();
        let state = word(listener, "state");
        let tone = match state {
            "accepting" => Tone::Good,
            "paused" | "disabled" => Tone::Careful,
            _ => Tone::Bad,
        };
        sheet.row([
            word(listener, "name").into(),
            toned(state, tone),
            word(listener, "backend").into(),
            number(listener, "sessions").into(),
            crate::control::text::limit(listener["maxconn"].as_u64()).into(),
            pair.rate_of(&past["traffic"], traffic, "sessions_total").into(),
            refused.into(),
            addresses.join(" ").into(),
        ]);
    }
    sheet
}

/// The workers, and the threads of doors.
pub(super) fn workers(pair: &Pair<'_>) -> Sheet {
    let mut sheet = Sheet::new(&[
        "WORKER",
        "ENGINE",
        ">SESSIONS",
        ">NEW/s",
        ">ENDED/s",
        ">SENT/s",
        ">RECEIVED/s",
        ">SPLICED",
        "?>CPU",
        "?>PIPES",
    ]);
    for (kind, label) in [("workers", ""), ("doors", "door ")] {
        let past = rows(&pair.before.status, kind);
        for (place, thread) in rows(&pair.now.status, kind).iter().enumerate() {
            let past = past.get(place).unwrap_or(thread);
            let flow = |flow| pair.rate(bytes(past, flow), bytes(thread, flow));
            let (sent, received) = (flow("bytes_to_backend"), flow("bytes_to_client"));
            let spliced = |flow: &str| pair.rate_of(&past[flow], &thread[flow], "spliced");
            let spliced = spliced("bytes_to_backend") + spliced("bytes_to_client");
            let cpu = thread["cpu"].as_u64().map_or_else(|| "any".to_owned(), |n| n.to_string());
            let (used, open) = (number(thread, "pipes_used"), number(thread, "pipes_open"));
            sheet.row([
                format!("{label}{}", number(thread, "index")).into(),
                word(thread, "engine").into(),
                number(thread, "sessions").into(),
                pair.rate_of(past, thread, "sessions_total").into(),
                pair.rate(ended(past), ended(thread)).into(),
                size(sent).into(),
                size(received).into(),
                percent(spliced, sent + received).into(),
                cpu.into(),
                format!("{used}/{open}").into(),
            ]);
        }
    }
    sheet
}

/// Sessions that have ended, for whatever reason.
pub(super) fn ended(counts: &Value) -> u64 {
    counts["ended"].as_object().map_or(0, |ended| ended.values().filter_map(Value::as_u64).sum())
}

/// Reasons for which sessions have ended, those of the last second first.
pub(super) fn endings(pair: &Pair<'_>) -> Sheet {
    let (past, now) = (&pair.before.status["total"], &pair.now.status["total"]);
    let mut reasons: Vec<_> = now["ended"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(reason, count)| {
            let count = count.as_u64().unwrap_or_default();
            (pair.rate(number(&past["ended"], reason), count), count, reason)
        })
        .filter(|(_, count, _)| *count > 0)
        .collect();
    reasons.sort_by_key(|(rate, count, _)| Reverse((*rate, *count)));
    let mut sheet = Sheet::new(&["ENDED", ">PER SECOND", ">SO FAR", "?>SHARE"]);
    for (rate, count, reason) in reasons {
        sheet.row([
            toned(reason.clone(), tone_of_end(reason)),
            rate.into(),
            count.into(),
            percent(count, ended(now)).into(),
        ]);
    }
    sheet
}

fn tone_of_end(reason: &str) -> Tone {
    if reason == "completed" { Tone::Good } else { Tone::Careful }
}

/// What happened of late, the latest first: events of the relay, and sessions that failed.
pub(super) fn latest(now: &Look) -> Sheet {
    let mut found: Vec<[Cell; 3]> = Vec::new();
    for event in rows(&now.status, "events") {
        let level = word(event, "level");
        let tone = match level {
            "error" => Tone::Bad,
            "warn" => Tone::Careful,
            _ => Tone::Plain,
        };
        let message = word(event, "message").into();
        found.push([word(event, "time").into(), toned(level, tone), message]);
    }
    for end in &now.ends {
        let (client, server) = (word(end, "client"), word(end, "server"));
        let text = format!(
            "{client} to {server}, {} ms, {} sent, {} received",
            number(end, "total_ms"),
            size(number(end, "bytes_to_backend")),
            size(number(end, "bytes_to_client"))
        );
        let reason = word(end, "reason");
        found.push([word(end, "time").into(), toned(reason, tone_of_end(reason)), text.into()]);
    }
    // Moments in UTC, written alike, sort as text.
    found.sort_by(|one, other| other[0].text.cmp(&one[0].text));
    let mut sheet = Sheet::new(&["TIME (UTC)", "WHAT", "OF IT"]);
    for [mut time, what, text] in found {
        time.text = time_of_day(&time.text);
        sheet.row([time, what, text]);
    }
    sheet
}

/// `09:30:00` of `2026-08-21T09:30:00.250Z`.
fn time_of_day(time: &str) -> String {
    time.split('T').nth(1).and_then(|rest| rest.split('.').next()).unwrap_or(time).to_owned()
}
