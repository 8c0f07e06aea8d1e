//! The names of HAProxy's exporter (addons/promex of 2.6), as far as a relay of bytes has them. As there, each
//! is what a column of `show stat` or a line of `show info` says: there is one truth of both.

use crate::control::Snapshot;
use crate::control::haproxy::info;
use crate::control::haproxy::stat::{self, BACKEND, FRONTEND, Row, SERVER};

use super::Exposition;

/// A family, and where its values are.
struct Family {
    kind: &'static str,
    /// Without the prefix of what it is of.
    name: &'static str,
    help: &'static str,
    /// The column, or the line.
    from: &'static str,
    unit: Unit,
}

#[derive(Clone, Copy)]
enum Unit {
    AsItIs,
    /// Milliseconds there, and seconds here.
    Millis,
}

const fn gauge(name: &'static str, from: &'static str, help: &'static str) -> Family {
    Family { kind: "gauge", name, help, from, unit: Unit::AsItIs }
}

const fn counter(name: &'static str, from: &'static str, help: &'static str) -> Family {
    Family { kind: "counter", name, help, from, unit: Unit::AsItIs }
}

const fn millis(name: &'static str, from: &'static str, help: &'static str) -> Family {
    Family { kind: "gauge", name, help, from, unit: Unit::Millis }
}

const PROCESS: &[Family] = &[
    gauge("nbthread", "Nbthread", "Number of started threads"),
    gauge("nbproc", "Nbproc", "Number of started worker processes"),
    gauge("relative_process_id", "Process_num", "Relative worker process number"),
    gauge("uptime_seconds", "Uptime_sec", "How long ago this worker process was started"),
    gauge("start_time_seconds", "Start_time_sec", "Start time in seconds"),
    gauge("max_fds", "Ulimit-n", "Hard limit on the number of per-process file descriptors"),
    gauge("max_sockets", "Maxsock", "Hard limit on the number of per-process sockets"),
    gauge("max_connections", "Maxconn", "Hard limit on the number of per-process connections"),
    gauge("hard_max_connections", "Hard_maxconn", "Hard limit on the number of connections"),
    gauge("current_connections", "CurrConns", "Current number of connections"),
    counter("connections_total", "CumConns", "Total number of connections since started"),
    counter("requests_total", "CumReq", "Total number of requests since started"),
    gauge("max_pipes", "Maxpipes", "Hard limit on the number of pipes for splicing"),
    gauge("pipes_used_total", "PipesUsed", "Current number of pipes in use"),
    gauge("pipes_free_total", "PipesFree", "Current number of allocated and available pipes"),
    gauge("current_connection_rate", "ConnRate", "Connections created over the last second"),
    gauge("limit_connection_rate", "ConnRateLimit", "Hard limit for ConnRate"),
    gauge("max_connection_rate", "MaxConnRate", "Highest ConnRate reached since started"),
    gauge("current_session_rate", "SessRate", "Sessions created over the last second"),
    gauge("limit_session_rate", "SessRateLimit", "Hard limit for SessRate"),
    gauge("max_session_rate", "MaxSessRate", "Highest SessRate reached since started"),
    gauge("current_tasks", "Tasks", "Total number of tasks"),
    gauge("current_run_queue", "Run_queue", "Tasks in the run queue"),
    gauge("idle_time_percent", "Idle_pct", "Idle time of the last second, in percent"),
    gauge("stopping", "Stopping", "1 if the process is currently stopping"),
    gauge("jobs", "Jobs", "Current number of active jobs"),
    gauge("unstoppable_jobs", "Unstoppable Jobs", "Active jobs that can not be stopped"),
    gauge("listeners", "Listeners", "Current number of active listeners"),
    counter("dropped_logs_total", "DroppedLogs", "Total number of dropped logs"),
    gauge("busy_polling_enabled", "BusyPolling", "1 if busy-polling is in use"),
    counter("failed_resolutions", "FailedResolutions", "Names that nobody answers for"),
    counter("bytes_out_total", "TotalBytesOut", "Total number of bytes emitted"),
    counter("spliced_bytes_out_total", "TotalSplicedBytesOut", "Bytes emitted through a pipe"),
    gauge("bytes_out_rate", "BytesOutRate", "Bytes emitted over the last second"),
];

const CURRENT: Family = gauge("current_sessions", "scur", "Number of current sessions");
const HIGHEST: Family = gauge("max_sessions", "smax", "Highest value of current sessions");
const LIMIT: Family = gauge("limit_sessions", "slim", "maxconn, or a backend's fullconn");
const SESSIONS: Family = counter("sessions_total", "stot", "Total number of sessions");
const BYTES_IN: Family = counter("bytes_in_total", "bin", "Total number of request bytes");
const BYTES_OUT: Family = counter("bytes_out_total", "bout", "Total number of response bytes");
const RATE_MAX: Family = gauge("max_session_rate", "rate_max", "Highest sessions per second");
const DENIED: Family = counter("requests_denied_total", "dreq", "Total number of denied requests");
const INTERNAL: Family =
    counter("internal_errors_total", "eint", "Total number of internal errors");

const OF_FRONTENDS: &[Family] = &[
    CURRENT,
    HIGHEST,
    LIMIT,
    SESSIONS,
    gauge("limit_session_rate", "rate_lim", "Limit on the number of sessions in a second"),
    RATE_MAX,
    gauge("connections_rate_max", "conn_rate_max", "Highest connections per second"),
    counter("connections_total", "conn_tot", "Total number of new connections accepted"),
    BYTES_IN,
    BYTES_OUT,
    DENIED,
    counter("request_errors_total", "ereq", "Total number of invalid requests"),
    counter("intercepted_requests_total", "intercepted", "Requests answered by the relay itself"),
    counter("denied_connections_total", "dcon", "Connections blocked by a rule"),
    counter("denied_sessions_total", "dses", "Sessions blocked by a rule"),
    INTERNAL,
];

/// What backends and servers have in common.
const OF_BOTH: &[Family] = &[
    CURRENT,
    HIGHEST,
    LIMIT,
    SESSIONS,
    RATE_MAX,
    BYTES_IN,
    BYTES_OUT,
    INTERNAL,
    gauge("last_session_seconds", "lastsess", "How long ago the last session began"),
    gauge("current_queue", "qcur", "Number of current queued connections"),
    gauge("max_queue", "qmax", "Highest value of queued connections"),
    counter("connection_attempts_total", "connect", "Outgoing connection attempts"),
    counter("connection_reuses_total", "reuse", "Connections used again"),
    counter("connection_errors_total", "econ", "Total number of failed connections to server"),
    counter("response_errors_total", "eresp", "Total number of invalid responses"),
    counter("retry_warnings_total", "wretr", "Total number of server connection retries"),
    counter("redispatch_warnings_total", "wredis", "Total number of server redispatches"),
    counter("client_aborts_total", "cli_abrt", "Connections aborted by the client"),
    counter("server_aborts_total", "srv_abrt", "Connections aborted by the server"),
    gauge("weight", "weight", "Effective weight, or the sum of those of active servers"),
    gauge("uweight", "uweight", "Configured weight, or the sum of those of active servers"),
    counter("check_up_down_total", "chkdown", "Transitions from UP to DOWN"),
    gauge("check_last_change_seconds", "lastchg", "How long ago the state changed"),
    counter("downtime_seconds_total", "downtime", "Total time that it could not be used"),
    counter("loadbalanced_total", "lbtot", "Sessions routed by load balancing"),
    millis("queue_time_average_seconds", "qtime", "Avg. queue time for last 1024 connections."),
    millis("connect_time_average_seconds", "ctime", "Avg. connect time for last 1024 connections."),
    millis("response_time_average_seconds", "rtime", "Avg. response time; 0 where bytes pass."),
    millis("total_time_average_seconds", "ttime", "Avg. total time for last 1024 connections."),
    millis("max_queue_time_seconds", "qtime_max", "Maximum observed time in the queue"),
    millis("max_connect_time_seconds", "ctime_max", "Maximum observed time to connect"),
    millis("max_response_time_seconds", "rtime_max", "Maximum observed time of a response"),
    millis("max_total_time_seconds", "ttime_max", "Maximum observed total time"),
];

const OF_BACKENDS: &[Family] = &[
    DENIED,
    gauge("active_servers", "act", "Number of active UP servers with a non-zero weight"),
    gauge("backup_servers", "bck", "Number of backup UP servers with a non-zero weight"),
];

const OF_SERVERS: &[Family] = &[
    gauge("active", "act", "1 if it is an active server"),
    gauge("backup", "bck", "1 if it is a backup server"),
    gauge("queue_limit", "qlimit", "Limit on the number of connections in queue"),
    gauge("current_throttle", "throttle", "Share of its weight while it comes back, in percent"),
    counter("check_failures_total", "chkfail", "Failed individual health checks"),
    gauge("check_code", "check_code", "Status of HTTP of the last health check"),
    millis("check_duration_seconds", "check_duration", "Duration of the last health check"),
    gauge("used_connections_current", "used_conn_cur", "Connections in use"),
    gauge("idle_connections_current", "srv_icur", "Connections kept for the next request"),
    gauge("need_connections_current", "need_conn_est", "Estimated needed number of connections"),
];

/// The states of a check's end, each a series.
const CHECKS: [&str; 9] =
    ["INI", "SOCKERR", "L4OK", "L4TOUT", "L4CON", "L7OK", "L7TOUT", "L7RSP", "L7STS"];
const STATES: [&str; 5] = ["DOWN", "UP", "MAINT", "DRAIN", "NOLB"];

/// Which of it somebody wants, by the query of the exporter (promex, README).
#[derive(Clone, Debug, Default)]
pub(in crate::control::http) struct Wanted {
    /// `scope=`, any number of times: none is all.
    scopes: Vec<String>,
    no_maintenance: bool,
}

impl Wanted {
    /// Reads `scope=global|frontend|backend|server|*` and `no-maint`.
    pub(in crate::control::http) fn read(query: &str) -> Self {
        let parts = || query.split('&');
        let scopes = parts().filter_map(|part| part.strip_prefix("scope="));
        let scopes: Vec<_> = scopes.map(str::to_owned).collect();
        let all = scopes.iter().any(|scope| scope == "*");
        Self {
            scopes: if all { Vec::new() } else { scopes },
            no_maintenance: parts().any(|part| part == "no-maint"),
        }
    }

    fn has(&self, scope: &str) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|wanted| wanted == scope)
    }
}

pub(in crate::control::http) fn haproxy(snapshot: &Snapshot, wanted: &Wanted) -> String {
    let mut out = Exposition::default();
    if wanted.has("global") {
        process(&mut out, &info::lines(snapshot));
    }
    let rows = stat::rows(snapshot);
    let of = |kind| rows.iter().filter(|row| row.kind == kind).collect::<Vec<_>>();
    if wanted.has("frontend") {
        let frontends = of(FRONTEND);
        each(&mut out, "haproxy_frontend_", OF_FRONTENDS, &frontends);
        states(&mut out, "haproxy_frontend_status", &frontends, &STATES[..2], |row| {
            if row.cell("status") == "STOP" { "DOWN" } else { "UP" }
        });
    }
    if wanted.has("backend") {
        let backends = of(BACKEND);
        each(&mut out, "haproxy_backend_", OF_BOTH, &backends);
        each(&mut out, "haproxy_backend_", OF_BACKENDS, &backends);
        states(&mut out, "haproxy_backend_status", &backends, &STATES[..2], |row| {
            row.cell("status")
        });
        together(&mut out, &backends, &of(SERVER));
    }
    if wanted.has("server") {
        let mut servers = of(SERVER);
        servers.retain(|row| !wanted.no_maintenance || state(row) != "MAINT");
        each(&mut out, "haproxy_server_", OF_BOTH, &servers);
        each(&mut out, "haproxy_server_", OF_SERVERS, &servers);
        states(&mut out, "haproxy_server_status", &servers, &STATES, state);
        let checked: Vec<_> =
            servers.into_iter().filter(|row| !row.cell("check_status").is_empty()).collect();
        states(&mut out, "haproxy_server_check_status", &checked, &CHECKS, |row| {
            row.cell("check_status")
        });
    }
    out.out
}

fn process(out: &mut Exposition, lines: &[(&'static str, String)]) {
    for Family { kind, name, help, from, .. } in PROCESS {
        let value = lines.iter().find(|(known, _)| known == from);
        let Some((_, value)) = value else { continue };
        out.family(kind, &format!("haproxy_process_{name}"), help);
        out.sample(&[], value);
    }
    out.family("gauge", "haproxy_process_build_info", "Build info");
    out.sample(&[("version", info::VERSION)], 1);
}

/// The proxy, and the server if it is one.
fn labels(row: &Row) -> Vec<(&str, &str)> {
    let mut labels = vec![("proxy", row.cell("pxname"))];
    if row.kind == SERVER {
        labels.push(("server", row.cell("svname")));
    }
    labels
}

/// A cell that is empty is no sample, and a family without samples is none.
fn each(out: &mut Exposition, prefix: &str, families: &[Family], rows: &[&Row]) {
    for Family { kind, name, help, from, unit } in families {
        let mut filled = rows.iter().filter(|row| !row.cell(from).is_empty()).peekable();
        if filled.peek().is_some() {
            out.family(kind, &format!("{prefix}{name}"), help);
        }
        for row in filled {
            let cell = row.cell(from);
            match (unit, cell.parse::<u64>()) {
                (Unit::Millis, Ok(millis)) => {
                    out.sample(&labels(row), super::seconds(millis * 1000));
                }
                _ => out.sample(&labels(row), cell),
            }
        }
    }
}

/// One series for each state that there may be.
fn states<'a>(
    out: &mut Exposition,
    name: &str,
    rows: &[&'a Row],
    known: &[&str],
    is: impl Fn(&'a Row) -> &'a str,
) {
    if !rows.is_empty() {
        out.family("gauge", name, "Current status, per state label value.");
    }
    for row in rows {
        for state in known {
            let labels = [labels(row).as_slice(), &[("state", state)]].concat();
            out.sample(&labels, u8::from(is(row) == *state));
        }
    }
}

/// The state of a server, of [`STATES`]: one that is not checked is up.
fn state(row: &Row) -> &str {
    match row.cell("status").split(' ').next().unwrap_or_default() {
        "no" => "UP",
        state => state,
    }
}

/// How many servers of each backend are in each state.
fn together(out: &mut Exposition, backends: &[&Row], servers: &[&Row]) {
    if !backends.is_empty() {
        let help = "Backend's aggregated gauge of servers' status";
        out.family("gauge", "haproxy_backend_agg_server_status", help);
    }
    for backend in backends {
        let name = backend.cell("pxname");
        let of = || servers.iter().filter(|row| row.cell("pxname") == name);
        for known in STATES {
            let count = of().filter(|row| state(row) == known).count();
            out.sample(&[("proxy", name), ("state", known)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::board::Admin;
    use crate::control::tests::snapshot;

    #[test]
    fn a_server_is_in_the_state_that_an_administrator_wants_and_scopes_leave_out_the_rest() {
        let mut snapshot = snapshot();
        let all = haproxy(&snapshot, &Wanted::default());
        let server = "{proxy=\"intake\",server=\"a\"";
        assert!(
            all.contains(&format!("haproxy_server_status{server},state=\"UP\"}} 1\n")),
            "{all}"
        );
        assert!(all.contains("haproxy_backend_active_servers{proxy=\"intake\"} 1\n"), "{all}");
        assert!(all.contains("haproxy_process_max_fds 20000\n"), "{all}");
        snapshot.status.relay.servers[0].admin = Admin::Maint;
        let only = haproxy(&snapshot, &Wanted::read("compat=haproxy&scope=server"));
        assert!(only.contains(&format!("haproxy_server_status{server},state=\"MAINT\"}} 1\n")));
        assert!(only.contains(&format!("haproxy_server_status{server},state=\"UP\"}} 0\n")));
        assert!(!only.contains("haproxy_process_") && !only.contains("haproxy_backend_"));
        let none = haproxy(&snapshot, &Wanted::read("scope=server&no-maint"));
        assert_eq!(none, "");
        let all = haproxy(&snapshot, &Wanted::read("scope=*"));
        assert!(
            all.contains("haproxy_backend_agg_server_status{proxy=\"intake\",state=\"MAINT\"} 1\n")
        );
    }
}
