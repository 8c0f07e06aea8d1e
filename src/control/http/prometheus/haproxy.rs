//! The names of HAProxy's exporter (addons/promex), as far as a relay of bytes has them.

use crate::control::Snapshot;
use crate::control::observer::Subject;
use crate::control::status::{ListenerState, ListenerStatus, PhaseName, RelayStatus, ServerStatus};

use super::{Exposition, Family, counter, gauge, labelled};

const PROCESS: [Family<Snapshot>; 15] = [
    gauge("nbthread", "Number of started threads", |s| s.status.relay.workers.len() as u64),
    gauge("start_time_seconds", "Start time in seconds", |s| s.started),
    gauge("uptime_seconds", "How long ago this worker process was started (seconds)", |s| {
        s.status.uptime_seconds
    }),
    gauge("max_connections", "Hard limit on the number of per-process connections", |s| {
        s.status.relay.maxconn
    }),
    gauge("current_connections", "Current number of connections on this worker process", |s| {
        s.status.total.sessions
    }),
    counter("connections_total", "Total number of connections since started", |s| {
        s.status.total.sessions_total
    }),
    gauge("pipes_used_total", "Current number of pipes in use in this worker process", |s| {
        s.status.total.engine.pipes_used
    }),
    gauge("pipes_free_total", "Current number of allocated and available pipes", |s| {
        let engine = &s.status.total.engine;
        engine.pipes_open.saturating_sub(engine.pipes_used)
    }),
    gauge("current_session_rate", "Number of sessions created over the last second", |s| {
        s.rates.of(&Subject::Process).now
    }),
    gauge("max_session_rate", "Highest number of sessions created in a second", |s| {
        s.rates.of(&Subject::Process).max
    }),
    gauge("stopping", "1 if the worker process is currently stopping", |s| {
        (s.status.phase != PhaseName::Serving).into()
    }),
    counter("dropped_logs_total", "Total number of dropped logs", |s| s.status.log_lines_dropped),
    gauge("failed_resolutions", "Names that nobody answers for", |s| {
        s.status.names.iter().filter(|name| name.failure.is_some()).count() as u64
    }),
    counter("bytes_out_total", "Total number of bytes emitted by current worker process", |s| {
        s.status.total.engine.bytes().total()
    }),
    counter(
        "spliced_bytes_out_total",
        "Total number of bytes emitted through a kernel pipe",
        |s| s.status.total.engine.bytes().spliced,
    ),
];

const FRONTEND: [Family<ListenerStatus>; 8] = [
    gauge("current_sessions", "Number of current sessions on the frontend", |l| l.sessions),
    gauge("max_sessions", "Highest value of current sessions since process started", |l| {
        l.traffic.sessions_max.into()
    }),
    counter("sessions_total", "Total number of sessions since process started", |l| {
        l.traffic.sessions_total
    }),
    counter("connections_total", "Total number of new connections accepted", |l| {
        l.traffic.accepted
    }),
    counter("bytes_in_total", "Total amount of request bytes since process started", |l| {
        l.traffic.bytes_to_server
    }),
    counter("bytes_out_total", "Total amount of response bytes since process started", |l| {
        l.traffic.bytes_from_server
    }),
    counter("denied_connections_total", "Total number of connections blocked by a rule", |l| {
        l.traffic.denied
    }),
    counter("denied_sessions_total", "Total number of sessions blocked by a rule", |l| {
        l.traffic.source_limited
    }),
];

const SERVER: [Family<ServerStatus>; 11] = [
    gauge("current_sessions", "Number of current sessions", |s| s.tally.sessions),
    gauge(MAX_SESSIONS, "Highest value of current sessions since process started", |s| {
        s.tally.sessions_max
    }),
    counter("sessions_total", "Total number of sessions since process started", |s| {
        s.tally.sessions_total
    }),
    counter("bytes_in_total", "Total amount of request bytes since process started", |s| {
        s.tally.bytes_to_server
    }),
    counter("bytes_out_total", "Total amount of response bytes since process started", |s| {
        s.tally.bytes_from_server
    }),
    counter("connection_errors_total", "Total number of failed connections to server", |s| {
        s.tally.connect_failures
    }),
    counter("connection_attempts_total", "Total number of outgoing connection attempts", |s| {
        s.tally.sessions_total + s.tally.connect_failures
    }),
    counter("retry_warnings_total", "Total number of server connection retries", |s| {
        s.tally.retries
    }),
    counter("redispatch_warnings_total", "Total number of server redispatches", |s| {
        s.tally.redispatches
    }),
    counter("client_aborts_total", "Total number of connections aborted by the client", |s| {
        s.tally.client_aborts
    }),
    counter("server_aborts_total", "Total number of connections aborted by the server", |s| {
        s.tally.server_aborts
    }),
];

/// Of these a backend has the highest of its servers', of all others the sum.
const MAX_SESSIONS: &str = "max_sessions";

pub(in crate::control::http) fn haproxy(snapshot: &Snapshot) -> String {
    let mut out = Exposition::default();
    out.singles("haproxy_process_", &PROCESS, snapshot);
    frontends(&mut out, snapshot);
    servers(&mut out, &snapshot.status.relay);
    out.out
}

fn frontends(out: &mut Exposition, snapshot: &Snapshot) {
    let listeners = &snapshot.status.relay.listeners;
    let all = labelled(listeners, |one| vec![("proxy", one.name.as_str())]);
    out.each("haproxy_frontend_", &FRONTEND, &all);
    out.family("gauge", "haproxy_frontend_limit_sessions", "Frontend's maxconn");
    for (labels, listener) in &all {
        out.sample(labels, listener.maxconn.unwrap_or(snapshot.status.relay.maxconn));
    }
    out.family("gauge", "haproxy_frontend_max_session_rate", "Highest session rate");
    for (labels, listener) in &all {
        let rate = snapshot.rates.of(&Subject::Listener(listener.name.clone()));
        out.sample(labels, rate.max);
    }
    out.family("gauge", "haproxy_frontend_status", "Current status, per state label value.");
    for (labels, listener) in &all {
        let up = listener.state != ListenerState::Ended;
        for (state, value) in [("DOWN", !up), ("UP", up)] {
            out.sample(&[labels.as_slice(), &[("state", state)]].concat(), u8::from(value));
        }
    }
}

fn servers(out: &mut Exposition, relay: &RelayStatus) {
    let all = labelled(&relay.servers, |one| {
        vec![("proxy", one.backend.as_str()), ("server", one.name.as_str())]
    });
    out.each("haproxy_server_", &SERVER, &all);
    out.family("gauge", "haproxy_server_weight", "Server's effective weight");
    for (labels, server) in &all {
        out.sample(labels, server.weight);
    }
    out.family("gauge", "haproxy_server_status", "Current status, per state label value.");
    for (labels, server) in &all {
        let down = server.check.as_ref().is_some_and(|check| !check.up);
        let state = match (server.resolved.is_empty(), server.weight) {
            (true, _) => "MAINT",
            (false, 0) => "DRAIN",
            (false, _) if down => "DOWN",
            (false, _) => "UP",
        };
        for known in ["DOWN", "UP", "MAINT", "DRAIN", "NOLB"] {
            let labels = [labels.as_slice(), &[("state", known)]].concat();
            out.sample(&labels, u8::from(known == state));
        }
    }
    for family in &SERVER {
        out.family(family.kind, &format!("haproxy_backend_{}", family.name), family.help);
        for ours in relay.backends() {
            let values = ours.iter().map(family.of);
            let value =
                if family.name == MAX_SESSIONS { values.max().unwrap_or(0) } else { values.sum() };
            out.sample(&[("proxy", &ours[0].backend)], value);
        }
    }
}
