//! What is measured, as data.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A scenario file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The file's name without its ending; not in the file.
    #[serde(skip_deserializing)]
    pub(crate) name: String,
    /// One line for the head of the table.
    pub(crate) title: String,
    /// What load and servers do.
    pub(crate) work: Work,
    /// Subjects, by name or by the beginning of names; none is every one that can do the work.
    #[serde(default)]
    pub(crate) subjects: Vec<String>,
    /// The figure by which subjects are judged, less being better, if not the first of its kind.
    #[serde(default)]
    pub(crate) judged_by: Option<String>,
    /// What lies between relay and servers; without it, nothing but loopback.
    #[serde(default)]
    pub(crate) link: Option<Distance>,
    /// Settings of `[global]` that fanin gets beside one worker, splice mode and engine.
    #[serde(default)]
    pub(crate) fanin: toml::Table,
    /// Each fanin is measured as it is, and once more with each of these, as `NAME+VARIANT`.
    #[serde(default)]
    pub(crate) variants: BTreeMap<String, Settings>,
}

/// Two network namespaces, joined.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Distance {
    /// Added to each round trip; with zero the two are joined by veth.
    pub(crate) round_trip_ms: u64,
}

/// Settings of fanin, as in its configuration file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    #[serde(default)]
    pub(crate) global: toml::Table,
    #[serde(default)]
    pub(crate) backend: toml::Table,
}

/// What load and servers do.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Work {
    pub(crate) kind: Kind,
    /// Kept connections, or connections at a time.
    pub(crate) connections: usize,
    /// Addresses that servers and relay listen on, 127.0.0.1 and following.
    #[serde(default = "one")]
    pub(crate) addresses: u8,
    /// Exchanges due per second over all connections; only `paced` has it.
    #[serde(default)]
    pub(crate) rate_per_s: u64,
    /// Bytes that the client sends per exchange.
    #[serde(default)]
    pub(crate) request_bytes: usize,
    /// Bytes that the server answers.
    #[serde(default)]
    pub(crate) response_bytes: usize,
    /// Buffer that peers which copy are given.
    #[serde(default = "buffer")]
    pub(crate) peer_buffer_bytes: usize,
    /// Load before the window opens; for `idle`, the silence before it.
    pub(crate) warmup_ms: u64,
    /// How long it is measured.
    pub(crate) window_ms: u64,
}

/// The shapes of load.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Each connection asks again as soon as it is answered (a closed loop).
    Saturated,
    /// Exchanges fall due evenly, connections take turns; latency counts from when it was due.
    Paced,
    /// Connect, one exchange, close; then again.
    Churn,
    /// The same through a web proxy that is asked for a tunnel first (CONNECT).
    Tunnel,
    /// The same as a POST with an absolute URI through a web proxy.
    Forward,
    /// All connections have had an exchange; then all are reset, and all come again at once.
    Storm,
    /// Clients send, servers discard.
    BulkUp,
    /// Servers send, clients discard.
    BulkDown,
    /// Both send, both discard.
    BulkBoth,
    /// One exchange each, then silence.
    Idle,
}

impl Kind {
    /// Whether cost is per GB instead of per exchange.
    pub(crate) fn is_bulk(self) -> bool {
        matches!(self, Self::BulkUp | Self::BulkDown | Self::BulkBoth)
    }

    /// Whether each exchange has a connection of its own.
    pub(crate) fn is_churn(self) -> bool {
        matches!(self, Self::Churn | Self::Tunnel | Self::Forward)
    }

    /// Whether it takes a web proxy.
    pub(crate) fn is_of_web_proxies(self) -> bool {
        matches!(self, Self::Tunnel | Self::Forward)
    }
}

fn one() -> u8 {
    1
}

/// What HAProxy and nginx take by themselves.
fn buffer() -> usize {
    16 * 1024
}

impl Scenario {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Says what is wrong and where.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(Error::at(format!("{}", path.display())))?;
        let mut scenario: Self =
            toml::from_str(&text).map_err(Error::at(format!("{}", path.display())))?;
        scenario.name =
            path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        scenario.work.check().map_err(Error::at(format!("{}", path.display())))?;
        if scenario.link.is_some_and(|link| link.round_trip_ms > 1000) {
            return Err(Error(format!("{}: round_trip_ms: at most 1000", path.display())));
        }
        Ok(scenario)
    }
}

impl Work {
    fn check(&self) -> Result<(), String> {
        let ask = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        // What one process without privileges may have, but for a few.
        ask((1..=19_900).contains(&self.connections), "connections: 1 to 19900")?;
        ask((1..=16).contains(&self.addresses), "addresses: 1 to 16")?;
        ask((100..=600_000).contains(&self.window_ms), "window_ms: 100 to 600000")?;
        ask(self.warmup_ms <= 60_000, "warmup_ms: at most 60000")?;
        ask(
            (self.kind == Kind::Paced) == (self.rate_per_s > 0),
            "rate_per_s: needed for kind \"paced\", and for no other",
        )?;
        ask(self.rate_per_s <= 200_000, "rate_per_s: at most 200000")?;
        let sized = self.request_bytes > 0 && self.response_bytes > 0;
        ask(
            sized != self.kind.is_bulk(),
            "request_bytes and response_bytes: needed unless the kind is bulk-*, which has neither",
        )?;
        ask(
            self.request_bytes.max(self.response_bytes) <= 1 << 20,
            "request_bytes, response_bytes: at most 1 MiB",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_in_the_repository_is_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| Scenario::read(&entry.unwrap().path()).unwrap().name)
            .collect();
        assert!(names.len() >= 9 && names.contains(&"churn".to_owned()), "{names:?}");
    }

    #[test]
    fn a_rate_without_pace_and_a_paced_load_without_rate_are_refused() {
        let text = "kind = \"paced\"\nconnections = 1\nrequest_bytes = 1\nresponse_bytes = 1\n\
                    warmup_ms = 0\nwindow_ms = 100\n";
        let mut work: Work = toml::from_str(text).unwrap();
        assert!(work.check().unwrap_err().contains("rate_per_s"));
        work.rate_per_s = 10;
        work.check().unwrap();
        work.kind = Kind::Churn;
        assert!(work.check().is_err());
    }
}
