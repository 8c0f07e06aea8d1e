//! `fanin top`: the relay's status once a second, with what a second adds. PURE but for the loop.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::client::{self, ClientError};
use super::text::{Table, grouped, size};

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);
/// To the upper left corner; what is not written over is erased line by line, and below the last.
const HOME: &str = "\x1b[H";
const ERASE_LINE: &str = "\x1b[K\n";
const ERASE_BELOW: &str = "\x1b[J";

/// Shows the relay at `socket` until it ends or nobody looks; so many times, if `times` says so.
///
/// # Errors
/// When the relay does not answer.
pub fn top(socket: &Path, times: Option<u32>) -> Result<(), ClientError> {
    let mut before = look(socket)?;
    let mut out = io::stdout();
    let mut shown = 0;
    if write!(out, "{HOME}{ERASE_BELOW}").is_err() {
        return Ok(());
    }
    while times.is_none_or(|times| shown < times) {
        std::thread::park_timeout(EVERY);
        let now = look(socket)?;
        let screen = screen(&before, &now);
        let lines: String = screen.lines().map(|line| format!("{line}{ERASE_LINE}")).collect();
        if write!(out, "{HOME}{lines}{ERASE_BELOW}").and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        before = now;
        shown += 1;
    }
    Ok(())
}

fn look(socket: &Path) -> Result<Value, ClientError> {
    let answer = client::ask(socket, "status json")?;
    serde_json::from_str(&answer).map_err(|error| ClientError::Refused(error.to_string()))
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

fn rows<'a>(status: &'a Value, key: &str) -> &'a [Value] {
    status[key].as_array().map_or(&[], Vec::as_slice)
}

/// What a second has added.
fn added(before: &Value, now: &Value, key: &str) -> u64 {
    number(now, key).saturating_sub(number(before, key))
}

fn screen(before: &Value, now: &Value) -> String {
    let mut out = format!(
        "fanin {}  pid {}  up {} s  {} sessions of {}\n",
        now["version"].as_str().unwrap_or("-"),
        number(now, "pid"),
        number(now, "uptime_seconds"),
        grouped(rows(now, "workers").iter().map(|worker| number(worker, "sessions")).sum()),
        grouped(number(now, "maxconn")),
    );
    out += &workers(before, now);
    out += &servers(before, now);
    out += &endings(before, now);
    out + "\nCtrl-C ends this view, not the relay\n"
}

fn workers(before: &Value, now: &Value) -> String {
    let mut table = Table::new(&[
        "WORKER",
        "ENGINE",
        ">SESSIONS",
        ">NEW/s",
        ">ENDED/s",
        ">SENT/s",
        ">RECEIVED/s",
        ">SPLICED",
    ]);
    let nothing = Value::Null;
    for (number_of, worker) in rows(now, "workers").iter().enumerate() {
        let past = rows(before, "workers").get(number_of).unwrap_or(&nothing);
        let ended = |worker: &Value| -> u64 {
            let by_reason = worker["ended"].as_object();
            by_reason.map_or(0, |ended| ended.values().filter_map(Value::as_u64).sum())
        };
        let bytes = |to: &str, path: &str| added(&past[to], &worker[to], path);
        let spliced = bytes("bytes_to_backend", "spliced") + bytes("bytes_to_client", "spliced");
        let sent = bytes("bytes_to_backend", "copied") + bytes("bytes_to_backend", "spliced");
        let received = bytes("bytes_to_client", "copied") + bytes("bytes_to_client", "spliced");
        table.row([
            number(worker, "index").to_string(),
            worker["engine"].as_str().unwrap_or("-").to_owned(),
            grouped(number(worker, "sessions")),
            grouped(added(past, worker, "sessions_total")),
            grouped(ended(worker).saturating_sub(ended(past))),
            size(sent),
            size(received),
            super::text::percent(spliced, sent + received),
        ]);
    }
    table.render()
}

fn servers(before: &Value, now: &Value) -> String {
    let mut table = Table::new(&[
        "SERVER",
        "STATE",
        ">SESSIONS",
        ">NEW/s",
        ">FAILED/s",
        ">SENT/s",
        ">RECEIVED/s",
    ]);
    let name = |server: &Value| {
        let part = |key: &str| server[key].as_str().unwrap_or("-").to_owned();
        format!("{}/{}", part("backend"), part("name"))
    };
    let nothing = Value::Null;
    for server in rows(now, "servers") {
        let same = |other: &&Value| name(other) == name(server);
        let past = rows(before, "servers").iter().find(same).unwrap_or(&nothing);
        table.row([
            name(server),
            server["state"].as_str().unwrap_or("-").to_owned(),
            grouped(number(server, "sessions")),
            grouped(added(past, server, "sessions_total")),
            grouped(added(past, server, "connect_failures")),
            size(added(past, server, "bytes_to_server")),
            size(added(past, server, "bytes_from_server")),
        ]);
    }
    table.render()
}

/// Reasons for which sessions have ended, those of the last second first.
fn endings(before: &Value, now: &Value) -> String {
    let sums = |status: &Value| {
        let mut sums = std::collections::BTreeMap::<String, u64>::new();
        for worker in rows(status, "workers") {
            for (reason, count) in worker["ended"].as_object().into_iter().flatten() {
                *sums.entry(reason.clone()).or_default() += count.as_u64().unwrap_or_default();
            }
        }
        sums
    };
    let past = sums(before);
    let mut ended: Vec<_> = sums(now).into_iter().filter(|(_, count)| *count > 0).collect();
    let rate = |(reason, count): &(String, u64)| {
        count.saturating_sub(past.get(reason).copied().unwrap_or_default())
    };
    ended.sort_by_key(|one| std::cmp::Reverse((rate(one), one.1)));
    let mut table = Table::new(&["ENDED", ">PER SECOND", ">SO FAR"]);
    for one in &ended {
        table.row([one.0.clone(), grouped(rate(one)), grouped(one.1)]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::snapshot;

    #[test]
    fn a_second_shows_what_it_has_added() {
        let mut status = snapshot().status;
        let as_json = |status: &_| serde_json::to_value(status).unwrap();
        let before = as_json(&status);
        status.relay.workers[0].counts.sessions_total += 1234;
        status.relay.servers[0].tally.bytes_to_server += 4096;
        status.relay.workers[0].counts.ended[0] += 77;
        let screen = screen(&before, &as_json(&status));
        for part in ["1,234", "4.0 KiB", "completed", "77", "intake/a", " up "] {
            assert!(screen.contains(part), "no {part} in\n{screen}");
        }
    }
}
