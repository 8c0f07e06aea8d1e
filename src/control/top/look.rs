//! One look at a relay, and what two of them tell.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::control::client::{self, ClientError};
use crate::control::log::must_escape;
use crate::metrics::CloseReason;

/// So many of the latest sessions that ended for each reason.
const ENDS_EACH: usize = 10;

/// What a relay said of itself.
#[derive(Clone, Debug)]
pub(super) struct Look {
    at: Instant,
    pub(super) status: Value,
    /// How the latest sessions ended that failed.
    pub(super) ends: Vec<Value>,
}

impl Look {
    /// Asks the relay at `socket`, which was like this before.
    ///
    /// # Errors
    /// When it does not answer, or not as a relay does.
    pub(super) fn take(socket: &Path, before: Option<&Self>) -> Result<Self, ClientError> {
        let answer = client::ask(socket, &question(before))?;
        Self::read(&answer, Instant::now()).map_err(|error| {
            ClientError::Refused(format!(
                "the answer at {} is not a status as JSON: {error}; see what is there with: fanin \
                 status --control {}",
                socket.display(),
                socket.display()
            ))
        })
    }

    /// An answer that came at `at`.
    pub(super) fn read(answer: &str, at: Instant) -> Result<Self, serde_json::Error> {
        let mut lines = answer.lines();
        let status = clean(serde_json::from_str(lines.next().unwrap_or_default())?);
        // A relay that cannot tell has none.
        let ends = lines.filter_map(|line| serde_json::from_str::<Vec<Value>>(line).ok());
        Ok(Self { at, status, ends: ends.flat_map(each_clean).collect() })
    }

    pub(super) fn is_ready(&self) -> Option<bool> {
        self.status["ready"].as_bool()
    }

    /// One of the sums over all threads.
    pub(super) fn total(&self, key: &str) -> u64 {
        number(&self.status["total"], key)
    }
}

/// All that is asked in one connection. Sessions that completed are many and alike; of those that
/// did not, each reason that has occurred is asked for, so that none pushes out the others.
fn question(before: Option<&Look>) -> String {
    let mut question = "status json".to_owned();
    for reason in CloseReason::ALL.into_iter().filter(|reason| *reason != CloseReason::Completed) {
        let label = reason.label();
        if before.is_some_and(|look| number(&look.status["total"]["ended"], label) > 0) {
            question += &format!("; ends {label} {ENDS_EACH} json");
        }
    }
    question
}

/// A look and the one before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    pub(super) before: &'a Look,
    pub(super) now: &'a Look,
}

impl Pair<'_> {
    /// How fast a count has grown. One that began anew, as those of another process do, has not.
    pub(super) fn rate(&self, before: u64, now: u64) -> u64 {
        let time = self.now.at.saturating_duration_since(self.before.at);
        per_second(now.saturating_sub(before), time)
    }

    /// The same for a count under this key of two values.
    pub(super) fn rate_of(&self, before: &Value, now: &Value, key: &str) -> u64 {
        self.rate(number(before, key), number(now, key))
    }

    /// Sessions that begin, of the whole relay.
    pub(super) fn sessions(&self) -> u64 {
        self.rate_of(&self.before.status["total"], &self.now.status["total"], "sessions_total")
    }

    /// Bytes of the whole relay: `bytes_to_backend`, `bytes_to_client`.
    pub(super) fn bytes(&self, flow: &str) -> u64 {
        let bytes = |look: &Look| bytes(&look.status["total"], flow);
        self.rate(bytes(self.before), bytes(self.now))
    }
}

/// Rounded to the nearest; two looks are a second apart and a little.
fn per_second(count: u64, time: Duration) -> u64 {
    let micros = time.as_micros().max(1);
    let rate = (u128::from(count) * 1_000_000 + micros / 2) / micros;
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Copied and spliced together.
pub(super) fn bytes(counts: &Value, flow: &str) -> u64 {
    number(&counts[flow], "copied") + number(&counts[flow], "spliced")
}

pub(super) fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

pub(super) fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

pub(super) fn rows<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Names come from a configuration, and whatever answers at the socket may have any: no terminal is
/// to take them for commands.
fn clean(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(harmless(text)),
        Value::Array(values) => Value::Array(each_clean(values)),
        Value::Object(values) => {
            let cleaned = values.into_iter().map(|(key, value)| (harmless(key), clean(value)));
            Value::Object(cleaned.collect::<Map<_, _>>())
        }
        other => other,
    }
}

fn each_clean(values: Vec<Value>) -> Vec<Value> {
    values.into_iter().map(clean).collect()
}

/// `\u{1b}` in place of the character.
pub(super) fn harmless(text: String) -> String {
    if !text.contains(must_escape) {
        return text;
    }
    let mut out = String::new();
    for c in text.chars() {
        match must_escape(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_time_that_has_really_passed() {
        for (count, millis, expected) in [(1234, 1000, 1234), (1, 1003, 1), (500, 2000, 250)] {
            assert_eq!(per_second(count, Duration::from_millis(millis)), expected);
        }
        assert_eq!(per_second(0, Duration::ZERO), 0, "the first look has none before it");
        let at = Instant::now();
        let look = Look::read("{}", at).unwrap();
        let later = Look { at: at + Duration::from_secs(1), ..look.clone() };
        assert_eq!(Pair { before: &look, now: &later }.rate(7, 3), 0, "another process");
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        let answer = "{\"a\\u001b[2J\": [\"b\\u001b]0;x\\u0007\", \"\\u202ec\"]}\n[\"\\r\"]\n[1]\n";
        let look = Look::read(answer, Instant::now()).unwrap();
        let expected = serde_json::json!({"a\\u{1b}[2J": ["b\\u{1b}]0;x\\u{7}", "\\u{202e}c"]});
        assert_eq!(look.status, expected);
        assert_eq!(look.ends, [Value::from("\\u{d}"), 1.into()]);
    }

    #[test]
    fn how_sessions_ended_is_asked_for_each_reason_that_has_occurred() {
        assert_eq!(question(None), "status json");
        let status = "{\"total\": {\"ended\": {\"completed\": 9, \"no_port\": 1, \"no_server\": 0, \"x;drain\": 1}}}";
        let look = Look::read(status, Instant::now()).unwrap();
        assert_eq!(question(Some(&look)), "status json; ends no_port 10 json");
    }

    #[test]
    fn a_relay_that_cannot_tell_how_sessions_ended_has_no_ends() {
        let look = Look::read("{\"pid\": 7}\nerror: what is that?\n", Instant::now()).unwrap();
        assert_eq!((number(&look.status, "pid"), look.ends.len()), (7, 0));
        assert!(Look::read("fine\n", Instant::now()).is_err());
    }
}
