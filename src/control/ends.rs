//! How the latest sessions ended: so many of each reason, so that what is rare is not pushed out by
//! what is not. "Why did it end?" has an answer after the fact, with the log off too.

use std::collections::VecDeque;
use std::time::SystemTime;

use serde::Serialize;

use crate::metrics::{Asked, CloseReason, Link, SessionRecord};
use crate::op::Side;

use super::log::rfc3339;
use super::text::{Table, size};

/// Kept of each reason.
const KEPT_MAX: usize = 100;
/// Told unless more are asked for.
pub(super) const TOLD: usize = 50;

/// The latest ends, by reason.
#[derive(Debug)]
pub(super) struct Ends {
    kept: [VecDeque<End>; CloseReason::COUNT],
}

#[derive(Debug)]
struct End {
    at: SystemTime,
    record: SessionRecord,
}

/// One of them, for programs.
#[derive(Debug, Serialize)]
struct Told<'a> {
    time: String,
    listener: &'a str,
    client: String,
    server: Option<&'a str>,
    /// The host that a TLS client asked for, where that is read.
    sni: Option<&'a str>,
    reason: &'static str,
    queued_ms: u128,
    attempts: u16,
    connect_ms: Option<u128>,
    first_byte_ms: Option<u128>,
    last_byte_ms: Option<u128>,
    total_ms: u128,
    /// Of a session that failed, when it began to.
    client_link: Option<Link>,
    server_link: Option<Link>,
    bytes_to_backend: u64,
    bytes_to_client: u64,
}

/// What is asked about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Of this reason only.
    pub(super) reason: Option<CloseReason>,
    /// At most so many, the latest.
    pub(super) last: usize,
    pub(super) json: bool,
}

impl Question {
    /// Reads `ends [json] [REASON] [NUMBER]`.
    ///
    /// # Errors
    /// What is wrong with it, for the client.
    pub(super) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut question = Self { reason: None, last: TOLD, json: false };
        for word in words {
            let reason = CloseReason::ALL.into_iter().find(|reason| reason.label() == *word);
            match (word.parse(), reason) {
                _ if *word == "json" => question.json = true,
                (Ok(number), _) => question.last = number,
                (_, Some(reason)) => question.reason = Some(reason),
                _ => {
                    let all = CloseReason::ALL.map(CloseReason::label).join(", ");
                    let word = word.escape_debug();
                    return Err(format!("sessions do not end with \"{word}\"; allowed: {all}"));
                }
            }
        }
        Ok(question)
    }
}

impl Ends {
    pub(super) fn new() -> Self {
        Self { kept: [const { VecDeque::new() }; CloseReason::COUNT] }
    }

    /// A session has ended.
    pub(super) fn note(&mut self, at: SystemTime, record: SessionRecord) {
        let kept = &mut self.kept[record.report.reason.index()];
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(End { at, record });
    }

    /// The answer; `listeners` are the names by number.
    pub(super) fn answer(&self, question: &Question, listeners: &[String]) -> String {
        let wanted = |reason: &CloseReason| question.reason.is_none_or(|only| only == *reason);
        let reasons = CloseReason::ALL.into_iter().filter(wanted);
        let mut ends: Vec<&End> = reasons.flat_map(|reason| &self.kept[reason.index()]).collect();
        ends.sort_by_key(|end| end.at);
        let latest = &ends[ends.len().saturating_sub(question.last)..];
        let told: Vec<_> = latest.iter().map(|end| end.told(listeners)).collect();
        if question.json {
            // Strings and numbers alone: that cannot fail.
            return serde_json::to_string(&told).unwrap_or_default() + "\n";
        }
        match told.is_empty() {
            true => "no session has ended so yet\n".to_owned(),
            false => table(&told).trim_start().to_owned(),
        }
    }
}

impl End {
    fn told<'a>(&'a self, listeners: &'a [String]) -> Told<'a> {
        let SessionRecord { listener, client, server, asked, queued, links, report, .. } =
            &self.record;
        let link = |side: Side| links.as_ref().and_then(|links| links[side.index()]);
        Told {
            time: rfc3339(self.at),
            listener: listeners.get(usize::from(listener.0)).map_or("-", String::as_str),
            client: client.to_string(),
            server: server.as_ref().map(|server| server.name()),
            sni: match asked.as_deref() {
                Some(Asked::Host(host)) => Some(host),
                _ => None,
            },
            reason: report.reason.label(),
            queued_ms: queued.time.as_millis(),
            attempts: report.attempts,
            connect_ms: report.connect_time.map(|time| time.as_millis()),
            first_byte_ms: report.first_byte.map(|time| time.as_millis()),
            last_byte_ms: report.last_byte.map(|time| time.as_millis()),
            total_ms: report.total_time.as_millis(),
            client_link: link(Side::Client),
            server_link: link(Side::Backend),
            bytes_to_backend: report.bytes[0],
            bytes_to_client: report.bytes[1],
        }
    }
}

fn table(told: &[Told<'_>]) -> String {
    let mut table = Table::new(&[
        "TIME",
        "REASON",
        "LISTENER",
        "CLIENT",
        "SERVER",
        "SNI",
        ">QUEUED",
        ">TRIES",
        ">CONNECT",
        ">FIRST",
        ">LAST",
        ">TOTAL",
        "CLIENT LINK",
        "SERVER LINK",
        ">SENT",
        ">RECEIVED",
    ]);
    for end in told {
        table.row([
            end.time.clone(),
            end.reason.to_owned(),
            end.listener.to_owned(),
            end.client.clone(),
            end.server.unwrap_or("-").to_owned(),
            end.sni.unwrap_or("-").to_owned(),
            millis(Some(end.queued_ms)),
            end.attempts.to_string(),
            millis(end.connect_ms),
            millis(end.first_byte_ms),
            millis(end.last_byte_ms),
            millis(Some(end.total_ms)),
            shown(end.client_link),
            shown(end.server_link),
            size(end.bytes_to_backend),
            size(end.bytes_to_client),
        ]);
    }
    table.render()
}

fn millis(time: Option<u128>) -> String {
    time.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"))
}

/// `0.3 ms, 2 resent, 1 unanswered`: the round trip, segments sent again, segments nobody has acknowledged.
fn shown(link: Option<Link>) -> String {
    let Some(link) = link else { return "-".to_owned() };
    let mut shown = format!("{}.{} ms", link.rtt_micros / 1000, link.rtt_micros % 1000 / 100);
    if link.resent > 0 {
        shown += &format!(", {} resent", link.resent);
    }
    if link.unacknowledged > 0 {
        shown += &format!(", {} unanswered", link.unacknowledged);
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Queued, Report};
    use crate::op::ListenerId;

    fn record(port: u16, reason: CloseReason) -> SessionRecord {
        SessionRecord {
            listener: ListenerId(0),
            client: ([192, 0, 2, 9], port).into(),
            server: None,
            queued: Queued::default(),
            asked: None,
            links: None,
            report: Report {
                reason,
                bytes: [2048, 7],
                bytes_discarded: [0; 2],
                attempts: 1,
                connect_time: None,
                first_byte: None,
                last_byte: None,
                total_time: Duration::from_millis(12),
            },
        }
    }

    #[test]
    fn what_is_rare_is_kept_however_much_else_ends() {
        let mut ends = Ends::new();
        let mut at = SystemTime::UNIX_EPOCH;
        ends.note(at, record(1, CloseReason::NoPort));
        for port in 1000..3000 {
            at += Duration::from_millis(1);
            ends.note(at, record(port, CloseReason::Completed));
        }
        let names = ["agents".to_owned()];
        let all = ends.answer(&Question::parse(&["1000"]).unwrap(), &names);
        assert_eq!(all.lines().count(), 1 + 1 + KEPT_MAX, "{all}");
        assert!(all.lines().nth(1).unwrap().contains("no_port"), "the earliest first: {all}");
        assert!(all.lines().last().unwrap().contains("192.0.2.9:2999"), "{all}");
        let latest = ends.answer(&Question::parse(&[]).unwrap(), &names);
        assert_eq!(latest.lines().count(), 1 + TOLD);
        let only = ends.answer(&Question::parse(&["no_port", "json"]).unwrap(), &names);
        let only: serde_json::Value = serde_json::from_str(&only).unwrap();
        assert_eq!(
            (&only[0]["client"], only.as_array().unwrap().len()),
            (&"192.0.2.9:1".into(), 1)
        );
        let none = ends.answer(&Question::parse(&["no_server"]).unwrap(), &names);
        assert!(none.contains("no session has ended so"));
        assert!(Question::parse(&["asleep"]).unwrap_err().contains("client_reset"));
    }
}
