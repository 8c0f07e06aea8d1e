//! HAProxy's `show info` (management guide, 9.3): `Name: value`, in its order. What a relay of bytes
//! does not have (TLS, compression, peers) is 0, which is what it is.

use std::fmt::Display;

use crate::control::observer::Subject;
use crate::control::{PhaseName, Snapshot};

use super::stat::Form;
use super::typed;

/// The version of the interface that is spoken here. Programs compare it with what they know; our
/// own stands in `description`.
pub(in crate::control) const VERSION: &str = "2.6.0-fanin";
const RELEASE_DATE: &str = "2022/05/31";

/// Names and values, in their order.
struct Lines(Vec<(&'static str, String)>);

impl Lines {
    fn say(&mut self, name: &'static str, value: impl Display) {
        self.0.push((name, value.to_string()));
    }

    fn nothing(&mut self, names: &[&'static str]) {
        for name in names {
            self.say(name, 0);
        }
    }
}

/// `0d 0h00m04s`
fn uptime(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    format!("{days}d {hours}h{:02}m{:02}s", seconds / 60 % 60, seconds % 60)
}

/// Every line: its name and its value.
pub(in crate::control) fn lines(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    let mut out = Lines(Vec::new());
    identity(&mut out, snapshot);
    connections(&mut out, snapshot);
    rest(&mut out, snapshot);
    out.0
}

pub(super) fn show(snapshot: &Snapshot, form: Form) -> String {
    let lines = lines(snapshot);
    match form {
        Form::Csv => lines.iter().map(|(name, value)| format!("{name}: {value}\n")).collect(),
        Form::Typed => typed::info_lines(&lines),
        Form::Json => typed::info_json(&lines),
    }
}

fn identity(out: &mut Lines, snapshot: &Snapshot) {
    let status = &snapshot.status;
    out.say("Name", "HAProxy");
    out.say("Version", VERSION);
    out.say("Release_date", RELEASE_DATE);
    out.say("Nbthread", status.relay.workers.len());
    out.say("Nbproc", 1);
    out.say("Process_num", 1);
    out.say("Pid", status.pid);
    out.say("Uptime", uptime(status.uptime_seconds));
    out.say("Uptime_sec", status.uptime_seconds);
    out.say("Start_time_sec", snapshot.started);
    out.nothing(&[
        "Memmax_MB",
        "Memmax_bytes",
        "PoolAlloc_MB",
        "PoolAlloc_bytes",
        "PoolUsed_MB",
        "PoolUsed_bytes",
        "PoolFailed",
    ]);
    out.say("Ulimit-n", status.relay.descriptors);
    out.say("Maxsock", status.relay.descriptors);
    out.say("Maxconn", status.relay.maxconn);
    out.say("Hard_maxconn", status.relay.maxconn);
}

fn connections(out: &mut Lines, snapshot: &Snapshot) {
    let (total, engine) = (&snapshot.status.total, &snapshot.status.total.engine);
    let rate = snapshot.rates.of(&Subject::Process);
    out.say("CurrConns", total.sessions);
    out.say("CumConns", total.accepted);
    out.say("CumReq", total.sessions_total);
    out.nothing(&["MaxSslConns", "CurrSslConns", "CumSslConns"]);
    out.say("Maxpipes", snapshot.status.relay.pipes_max);
    out.say("PipesUsed", engine.pipes_used);
    out.say("PipesFree", engine.pipes_open.saturating_sub(engine.pipes_used));
    out.say("ConnRate", rate.now);
    out.say("ConnRateLimit", 0);
    out.say("MaxConnRate", rate.max);
    out.say("SessRate", rate.now);
    out.say("SessRateLimit", 0);
    out.say("MaxSessRate", rate.max);
    out.nothing(&[
        "SslRate",
        "SslRateLimit",
        "MaxSslRate",
        "SslFrontendKeyRate",
        "SslFrontendMaxKeyRate",
        "SslFrontendSessionReuse_pct",
        "SslBackendKeyRate",
        "SslBackendMaxKeyRate",
        "SslCacheLookups",
        "SslCacheMisses",
        "CompressBpsIn",
        "CompressBpsOut",
        "CompressBpsRateLim",
        "ZlibMemUsage",
        "MaxZlibMemUsage",
    ]);
}

fn rest(out: &mut Lines, snapshot: &Snapshot) {
    let status = &snapshot.status;
    let bytes = status.total.engine.bytes();
    out.say("Tasks", status.total.sessions);
    out.say("Run_queue", 0);
    out.say("Idle_pct", snapshot.idle_percent);
    out.say("node", &status.relay.host);
    out.say("description", format_args!("fanin {}", status.version));
    out.say("Stopping", u8::from(status.phase != PhaseName::Serving));
    out.say("Jobs", status.total.sessions + status.relay.listeners.len() as u64);
    out.say("Unstoppable Jobs", 0);
    out.say("Listeners", status.relay.listeners.len());
    out.nothing(&["ActivePeers", "ConnectedPeers"]);
    out.say("DroppedLogs", status.log_lines_dropped);
    out.say("BusyPolling", 0);
    let failed = status.names.iter().filter(|name| name.failure.is_some()).count();
    out.say("FailedResolutions", failed);
    out.say("TotalBytesOut", bytes.total());
    out.say("TotalSplicedBytesOut", bytes.spliced);
    out.say("BytesOutRate", snapshot.history.last().map_or(0, |point| point.bytes));
    out.nothing(&["DebugCommandsIssued", "CumRecvLogs"]);
    out.say("Build info", format_args!("{VERSION} {RELEASE_DATE}"));
    out.nothing(&["Tainted", "TotalWarnings", "MaxconnReached"]);
}
