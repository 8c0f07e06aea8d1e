//! Our own names; docs/METRICS.md explains them.

use crate::backend::histogram::TURN_BOUNDS_MICROS;
use crate::control::Snapshot;
use crate::control::status::{
    ListenerState, ListenerStatus, QueueStatus, ServerStatus, WorkerStatus,
};
use crate::metrics::{CloseReason, Counts};

use super::{Exposition, Family, Labels, counter, gauge, labelled};

const PROCESS: [Family<Snapshot>; 10] = [
    gauge("start_time_seconds", "When this relay process began, in Unix time.", |s| s.started),
    gauge("generation", "Which relay process this is since the start of the service.", |s| {
        s.status.generation
    }),
    gauge("ready", "Whether sessions that come now find a server.", |s| s.status.is_ready().into()),
    gauge("retiring_processes", "Earlier relay processes that let their sessions end.", |s| {
        s.status.retiring.len() as u64
    }),
    gauge("config_last_reload_successful", "Whether the last reload took effect.", |s| {
        s.status.configuration.reload.as_ref().is_none_or(|reload| reload.ok).into()
    }),
    gauge("sessions_limit", "Sessions at one time that the process takes.", |s| {
        s.status.relay.maxconn
    }),
    gauge("agents_seen", "Sources of sessions that are known.", |s| s.status.agents.seen),
    gauge("agents_silent", "Those that no longer come.", |s| s.status.agents.silent),
    counter("agents_forgotten_total", "Those that are no longer known.", |s| {
        s.status.agents.forgotten
    }),
    counter("log_lines_dropped_total", "Log lines that nobody read in time.", |s| {
        s.status.log_lines_dropped
    }),
];

const LISTENER: [Family<ListenerStatus>; 5] = [
    gauge("sessions", "Sessions now.", |l| l.sessions),
    gauge("accepting", "Whether it accepts; 0 is paused at a limit, or ended.", |l| {
        (l.state == ListenerState::Accepting).into()
    }),
    counter("connections_total", "Connections accepted.", |l| l.traffic.accepted),
    counter("sessions_total", "Sessions begun.", |l| l.traffic.sessions_total),
    counter("named_total", "TLS clients that named their server, where that is read.", |l| {
        l.traffic.named
    }),
];

const QUEUE: [Family<QueueStatus>; 2] = [
    gauge("queue_sessions", "Sessions that wait for a place at a server.", |q| q.waiting),
    gauge("queue_sessions_max", "The most that have waited at one time.", |q| q.waiting_max),
];

const DOOR: [Family<ListenerStatus>; 2] = [
    gauge("connections", "Agents that are connected.", |l| l.connections),
    counter("status_answers_total", "Questions for the status of the door itself.", |l| {
        l.traffic.own_answers
    }),
];

const SERVER: [Family<ServerStatus>; 12] = [
    gauge("usable", "Whether sessions may go there.", |s| s.is_usable().into()),
    counter("check_failures_total", "Checks that failed.", |s| {
        s.check.as_ref().map_or(0, |check| check.failures)
    }),
    counter("check_downs_total", "Times that checks found it down.", |s| {
        s.check.as_ref().map_or(0, |check| check.downs)
    }),
    gauge("weight", "Its share relative to the others'.", |s| s.weight.into()),
    gauge("addresses", "Addresses that its name has.", |s| s.resolved.len() as u64),
    gauge("sessions", "Sessions being connected or established.", |s| s.tally.sessions),
    counter("sessions_total", "Sessions established.", |s| s.tally.sessions_total),
    counter("connect_failures_total", "Attempts to connect that failed.", |s| {
        s.tally.connect_failures
    }),
    counter("retries_total", "Attempts that were not a session's first.", |s| s.tally.retries),
    counter(
        "redispatches_total",
        "Sessions that went elsewhere after a failed attempt here.",
        |s| s.tally.redispatches,
    ),
    counter("reuses_total", "Requests over a connection that an earlier one had left.", |s| {
        s.tally.reuses
    }),
    gauge("kept", "Connections that are kept for the next request.", |s| s.tally.kept),
];

const WORKER: [Family<WorkerStatus>; 2] = [
    gauge("sessions", "Sessions now.", |w| w.counts.sessions),
    counter("accepted_total", "Connections accepted.", |w| w.counts.accepted),
];

const TOTAL: [Family<Counts>; 16] = [
    counter("bytes_discarded_total", "Bytes of which who they were for had gone.", |t| {
        t.engine.bytes_discarded
    }),
    counter("pipes_missed_total", "Times no pipe was free and bytes were copied.", |t| {
        t.engine.pipes_missed
    }),
    counter("pipes_small_total", "Pipes given up, because the kernel made them too small.", |t| {
        t.engine.pipes_small
    }),
    gauge("buffers_used", "Copy buffers that hold something.", |t| t.engine.buffers_used),
    counter("buffers_missed_total", "Times no copy buffer was free.", |t| t.engine.buffers_missed),
    counter("queue_overflows_total", "Times a completion queue overflowed.", |t| {
        t.engine.queue_overflows
    }),
    counter("accept_failures_total", "Times accepting failed for want of descriptors.", |t| {
        t.accept_failures
    }),
    gauge("source_ports", "Source ports towards the servers' addresses.", |t| t.source_ports),
    gauge("source_ports_used", "Those in use by sessions.", |t| t.source_ports_used),
    counter("port_conflicts_total", "Source ports that another program had.", |t| t.port_conflicts),
    counter("connect_attempts_total", "Attempts to connect to servers.", |t| t.connect_attempts),
    gauge("spare_connections", "Connections to servers that wait for a session.", |t| t.spares),
    counter("spare_used_total", "Sessions that found one.", |t| t.spares_used),
    counter("spare_missed_total", "Sessions that found none.", |t| t.spares_missed),
    counter("spare_dropped_total", "Those that ended without a session.", |t| t.spares_dropped),
    counter("records_dropped_total", "Sessions without a log line, the log being behind.", |t| {
        t.records_dropped
    }),
];

pub(in crate::control::http) fn native(snapshot: &Snapshot) -> String {
    let mut out = Exposition::default();
    let (status, relay) = (&snapshot.status, &snapshot.status.relay);
    out.family("gauge", "fanin_build_info", "What runs.");
    out.sample(&[("version", status.version)], 1);
    out.singles("fanin_", &PROCESS, snapshot);
    out.family("gauge", "fanin_sandbox_part", "Whether this part of the sandbox is in force.");
    for part in &relay.sandbox.parts {
        out.sample(&[("part", part.name)], u8::from(part.in_force));
    }
    out.family("gauge", "fanin_name_resolved", "Whether the last question for it was answered.");
    for name in &status.names {
        out.sample(&[("name", &name.name)], u8::from(name.failure.is_none()));
    }
    listeners(&mut out, &relay.listeners);
    servers(&mut out, &relay.servers);
    let queues = labelled(&relay.queues, |one| vec![("backend", one.backend.as_str())]);
    out.each("fanin_backend_", &QUEUE, &queues);
    workers(&mut out, &relay.workers);
    out.singles("fanin_", &TOTAL, &status.total);
    out.family("gauge", "fanin_pipes", "Pipes for splicing.");
    out.sample(&[("state", "open")], status.total.engine.pipes_open);
    out.sample(&[("state", "used")], status.total.engine.pipes_used);
    out.out
}

fn listeners(out: &mut Exposition, listeners: &[ListenerStatus]) {
    let all = labelled(listeners, |one| vec![("listener", one.name.as_str())]);
    out.each("fanin_listener_", &LISTENER, &all);
    let rejected = "Connections that became no session.";
    out.family("counter", "fanin_listener_rejected_total", rejected);
    for (labels, ListenerStatus { traffic, .. }) in &all {
        for (reason, count) in [
            ("denied", traffic.denied),
            ("source_limit", traffic.source_limited),
            ("no_place", traffic.refused),
        ] {
            out.sample(&[labels.as_slice(), &[("reason", reason)]].concat(), count);
        }
    }
    out.family(
        "counter",
        "fanin_listener_routed_total",
        "Sessions that asked for the name of a route.",
    );
    for (labels, listener) in &all {
        for route in &listener.routes {
            let of = [("sni", route.sni.as_str()), ("backend", route.backend.as_str())];
            out.sample(&[labels.as_slice(), &of].concat(), route.sessions_total);
        }
    }
    let doors: Vec<_> = all.iter().filter(|(_, listener)| listener.is_door()).cloned().collect();
    out.each("fanin_door_", &DOOR, &doors);
    out.family("counter", "fanin_door_answers_total", "Requests answered, by class of the status.");
    for (labels, door) in &doors {
        for (class, count) in
            ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(door.traffic.answers)
        {
            out.sample(&[labels.as_slice(), &[("class", class)]].concat(), count);
        }
    }
    out.family("counter", "fanin_sessions_ended_total", "Sessions ended, by the first cause.");
    for (labels, listener) in &all {
        for reason in CloseReason::ALL {
            let labels = [labels.as_slice(), &[("reason", reason.label())]].concat();
            out.sample(&labels, listener.traffic.ended[reason.index()]);
        }
    }
    out.family("counter", "fanin_listener_bytes_total", "Bytes delivered by ended sessions.");
    for (labels, ListenerStatus { traffic, .. }) in &all {
        directions(out, labels, [traffic.bytes_to_server, traffic.bytes_from_server]);
    }
    out.family("histogram", "fanin_session_duration_seconds", "How long sessions lasted.");
    for (labels, listener) in &all {
        out.histogram(labels, &listener.traffic.durations);
    }
}

fn directions(out: &mut Exposition, labels: &[(&str, &str)], bytes: [u64; 2]) {
    for (direction, bytes) in ["to_server", "to_client"].into_iter().zip(bytes) {
        out.sample(&[labels, &[("direction", direction)]].concat(), bytes);
    }
}

fn servers(out: &mut Exposition, servers: &[ServerStatus]) {
    let all = labelled(servers, |one| {
        vec![("backend", one.backend.as_str()), ("server", one.name.as_str())]
    });
    out.each("fanin_server_", &SERVER, &all);
    out.family("counter", "fanin_server_handshakes_total", "TLS handshakes with it.");
    for (labels, ServerStatus { tally, .. }) in &all {
        for (result, count) in [
            ("full", tally.handshakes_full),
            ("resumed", tally.handshakes_resumed),
            ("failed", tally.handshakes_failed),
        ] {
            out.sample(&[labels.as_slice(), &[("result", result)]].concat(), count);
        }
    }
    let aborts = "Established sessions that one side ended before they were whole.";
    out.family("counter", "fanin_server_aborts_total", aborts);
    for (labels, server) in &all {
        for (by, count) in
            [("client", server.tally.client_aborts), ("server", server.tally.server_aborts)]
        {
            out.sample(&[labels.as_slice(), &[("by", by)]].concat(), count);
        }
    }
    out.family("counter", "fanin_server_bytes_total", "Bytes delivered by ended sessions.");
    for (labels, server) in &all {
        directions(out, labels, [server.tally.bytes_to_server, server.tally.bytes_from_server]);
    }
    out.family("histogram", "fanin_server_connect_seconds", "How long connects took.");
    for (labels, server) in &all {
        out.histogram(labels, &server.tally.connects);
    }
    let first = "How long clients waited for the first byte once their server was connected.";
    out.family("histogram", "fanin_server_first_byte_seconds", first);
    for (labels, server) in &all {
        out.histogram(labels, &server.tally.first_bytes);
    }
}

fn workers(out: &mut Exposition, workers: &[WorkerStatus]) {
    let indexes: Vec<String> = workers.iter().map(|worker| worker.index.to_string()).collect();
    let mut all: Vec<(Labels<'_>, &WorkerStatus)> = Vec::new();
    for (worker, index) in workers.iter().zip(&indexes) {
        all.push((vec![("worker", index.as_str())], worker));
    }
    out.family("gauge", "fanin_worker_info", "The engine of each worker.");
    for (labels, worker) in &all {
        out.sample(&[labels.as_slice(), &[("engine", &worker.engine)]].concat(), 1);
    }
    out.each("fanin_worker_", &WORKER, &all);
    let turns = "How long a worker took from its wake to its next wait.";
    out.family("histogram", "fanin_worker_turn_seconds", turns);
    for (labels, worker) in &all {
        out.histogram_by(&TURN_BOUNDS_MICROS, labels, &worker.counts.turns);
    }
    out.family("counter", "fanin_bytes_total", "Bytes delivered, as they are.");
    for (labels, worker) in &all {
        let engine = &worker.counts.engine;
        for (path, bytes) in [
            ("copied", [engine.bytes_to_backend.copied, engine.bytes_to_client.copied]),
            ("spliced", [engine.bytes_to_backend.spliced, engine.bytes_to_client.spliced]),
        ] {
            directions(out, &[labels.as_slice(), &[("path", path)]].concat(), bytes);
        }
    }
}
