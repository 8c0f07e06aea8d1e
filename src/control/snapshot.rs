//! The relay at one moment, as statistics show it.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::Serialize;
use tokio::time::Instant;

use crate::metrics::Counts;

use super::haproxy::stat::Counted;
use super::log::Event;
use super::observer::{Point, Rates, Subject};
use super::standing::Pasts;
use super::status::{ListenerState, ServerStatus, Status};
use super::{ConfigurationStatus, Loop, Phase, PhaseName, Relay, log, prober};

/// Everything that can be asked for.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) status: Status,
    /// When this relay process began, in Unix time.
    pub(super) started: u64,
    pub(super) rates: Rates,
    pub(super) pasts: Pasts,
    /// The last minutes, a point a second.
    pub(super) history: Vec<Point>,
    pub(super) events: Vec<Event>,
    /// What HAProxy's statistics begin from.
    pub(super) cleared: Arc<Counted>,
    /// How much of the last second the workers had nothing to do, in hundredths.
    pub(super) idle_percent: u64,
}

/// What programs are told that ask for the status.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    #[serde(flatten)]
    status: &'a Status,
    ready: bool,
    events: &'a [Event],
}

/// What the page is told.
#[derive(Debug, Serialize)]
pub(super) struct View<'a> {
    #[serde(flatten)]
    told: Told<'a>,
    /// Whether servers can be changed from the page.
    administered: bool,
    /// How long each server has been what it is, in seconds, in the order of the servers.
    servers_since: Vec<u64>,
    sessions_per_second: u64,
    sessions_per_second_max: u64,
    /// The last whole second.
    point: Option<Point>,
}

impl<'a> Told<'a> {
    pub(super) fn new(status: &'a Status, events: &'a [Event]) -> Self {
        Self { status, ready: status.is_ready(), events }
    }
}

impl Snapshot {
    /// `administered` is whether servers can be changed from the page.
    pub(super) fn view(&self, administered: bool) -> View<'_> {
        let rate = self.rates.of(&Subject::Process);
        let since = |server: &ServerStatus| self.pasts.of(&Subject::server(server)).seconds;
        View {
            told: Told::new(&self.status, &self.events),
            administered,
            servers_since: self.status.relay.servers.iter().map(since).collect(),
            sessions_per_second: rate.now,
            sessions_per_second_max: rate.max,
            point: self.history.last().copied(),
        }
    }
}

impl<R: Relay> Loop<R> {
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            status: self.status(),
            started: self.began.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            rates: self.observer.rates().clone(),
            pasts: self.standings.pasts(),
            history: self.observer.points(),
            events: self.log.recent(),
            cleared: Arc::clone(&self.cleared),
            idle_percent: self.observer.idle_percent(),
        }
    }

    pub(super) fn status(&self) -> Status {
        let mut relay = self.relay.status();
        for (server, place) in relay.servers.iter_mut().zip(prober::places(&self.config)) {
            server.check = self.prober.health(&self.config, place);
            let is_down = server.check.as_ref().is_some_and(|check| !check.up);
            // That it has no address says more than that its check fails.
            if is_down && !server.resolved.is_empty() {
                "down".clone_into(&mut server.state);
            }
        }
        for listener in &mut relay.listeners {
            match self.closed.iter().find(|closed| closed.name == listener.name) {
                Some(closed) if closed.for_good => listener.state = ListenerState::Ended,
                Some(_) => listener.state = ListenerState::Disabled,
                None => {}
            }
        }
        let mut total = Counts::default();
        for counts in relay.counts() {
            total += counts;
        }
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: self.parent.process,
            relay_pid: std::process::id(),
            generation: self.parent.generation,
            retiring: self.retiring.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            phase: match self.phase {
                Phase::Serving => PhaseName::Serving,
                Phase::Draining { .. } => PhaseName::Draining,
                Phase::Stopping { .. } => PhaseName::Stopping,
            },
            agents: self.agents.status(Instant::now()),
            configuration: ConfigurationStatus {
                path: self.origin.path().map(|path| path.display().to_string()),
                loaded: log::rfc3339(self.loaded),
                reload: self.last_reload.clone(),
            },
            total,
            relay,
            names: self.lookups.names.status(Instant::now()),
            log_lines_dropped: self.log.lines_dropped(),
        }
    }
}
