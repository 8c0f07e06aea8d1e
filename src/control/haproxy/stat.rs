//! HAProxy's `show stat`, `;csv`, `;json` and `;typed` (management guide, 9.1), for proxies in TCP mode.
//!
//! A listener of ours is a frontend there, and our backends and servers are what they are called. A
//! column that would need something that is not there (HTTP, agents, caches) is empty, as it is there
//! in TCP mode.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::backend::board::{Admin, Tally};
use crate::control::observer::{Rate, Subject};
use crate::control::standing::Past;
use crate::control::status::{ListenerState, ListenerStatus, ServerStatus};
use crate::control::{Health, Snapshot};
use crate::metrics::CloseReason;

use super::typed;

/// The static columns, in the order of `ST_I_PX_*` of HAProxy's stats-t.h; `src_ilim` is how 2.x
/// spells the limit of used connections.
pub(super) const COLUMNS: &str = "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,rate_max,check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate,req_rate_max,req_tot,cli_abrt,srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,qtime,ctime,rtime,ttime,agent_status,agent_code,agent_duration,check_desc,agent_desc,check_rise,check_fall,check_health,agent_rise,agent_fall,agent_health,addr,cookie,mode,algo,conn_rate,conn_rate_max,conn_tot,intercepted,dcon,dses,wrew,connect,reuse,cache_lookups,cache_hits,srv_icur,src_ilim,qtime_max,ctime_max,rtime_max,ttime_max,eint,idle_conn_cur,safe_conn_cur,used_conn_cur,need_conn_est,uweight,agg_server_status,agg_server_check_status,agg_check_status,srid,sess_other,h1sess,h2sess,h3sess,req_other,h1req,h2req,h3req,proto,-";

pub(in crate::control) const FRONTEND: u8 = 0;
pub(in crate::control) const BACKEND: u8 = 1;
pub(in crate::control) const SERVER: u8 = 2;

/// Where each column stands.
static PLACES: LazyLock<HashMap<&str, usize>> =
    LazyLock::new(|| COLUMNS.split(',').zip(0..).collect());

/// One line of the table.
pub(in crate::control) struct Row {
    pub(in crate::control) kind: u8,
    /// The numbers of its proxy, and of its server there; that is 0 for the proxy itself.
    pub(super) proxy: u64,
    pub(super) server: u64,
    pub(super) cells: Vec<String>,
}

impl Row {
    fn new(proxy: &str, name: &str, kind: u8) -> Self {
        let cells = vec![String::new(); PLACES.len()];
        let mut row = Self { kind, proxy: 0, server: 0, cells };
        row.text("pxname", proxy);
        row.text("svname", name);
        row.set("type", u64::from(kind));
        row.set("pid", 1);
        row.text("mode", "tcp");
        row.text("proto", "tcp");
        row.set("eint", 0);
        row
    }

    fn numbered(mut self, proxy: u64, server: u64) -> Self {
        self.sets(&[("iid", proxy), ("sid", server)]);
        Self { proxy, server, ..self }
    }

    fn text(&mut self, column: &str, value: &str) {
        value.clone_into(&mut self.cells[PLACES[column]]);
    }

    fn set(&mut self, column: &str, value: u64) {
        self.text(column, &value.to_string());
    }

    fn sets(&mut self, values: &[(&str, u64)]) {
        for (column, value) in values {
            self.set(column, *value);
        }
    }

    /// Requests are understood here.
    fn asked(&mut self) {
        self.text("mode", "http");
        self.text("proto", "http");
    }

    /// The names of its proxy and of itself.
    fn identity(&self) -> (String, String) {
        (self.cells[PLACES["pxname"]].clone(), self.cells[PLACES["svname"]].clone())
    }

    /// Leaves out what had been counted before.
    fn count_from(&mut self, cleared: &Counted) {
        let Some(before) = cleared.get(&self.identity()) else { return };
        for (column, before) in COUNTERS.split(',').zip(before) {
            if let Ok(count) = self.cells[PLACES[column]].parse::<u64>() {
                self.set(column, count.saturating_sub(*before));
            }
        }
    }

    /// What it has been through. One without a check says nothing of checks, but of the rest.
    fn past(&mut self, past: &Past) {
        self.sets(&[
            ("lastchg", past.seconds),
            ("downtime", past.down_seconds),
            ("qtime", past.waits.millis()),
            ("ctime", past.connects.millis()),
            ("ttime", past.durations.millis()),
            ("qtime_max", past.waits.max_millis()),
            ("ctime_max", past.connects.max_millis()),
            ("ttime_max", past.durations.max_millis()),
        ]);
        let last = past.last_session_seconds.map_or_else(|| "-1".to_owned(), |it| it.to_string());
        self.text("lastsess", &last);
    }

    /// The cell of a column; empty where there is nothing to say.
    pub(in crate::control) fn cell(&self, column: &str) -> &str {
        &self.cells[PLACES[column]]
    }

    fn rate(&mut self, rate: Rate) {
        self.sets(&[("rate", rate.now), ("rate_max", rate.max)]);
    }
}

/// RFC 4180's quotes, where they are needed.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

/// How the table is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    Csv,
    Typed,
    Json,
}

/// The rows of one proxy, kind and server, by number; `None` is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub(super) proxy: Option<u64>,
    /// The proxy by its name.
    pub(super) name: Option<String>,
    /// Part of the proxy's name.
    pub(super) scope: Option<String>,
    /// A sum of 1 (frontends), 2 (backends), 4 (servers).
    pub(super) kind: Option<u64>,
    pub(super) server: Option<u64>,
    /// Of servers, those that are up.
    pub(super) only_up: bool,
    /// Of servers, those that are not in maintenance.
    pub(super) no_maintenance: bool,
}

impl Selection {
    /// What the options of HAProxy's page select.
    pub(in crate::control) fn on_the_page(
        scope: Option<&str>,
        only_up: bool,
        no_maintenance: bool,
    ) -> Self {
        let scope = scope.map(str::to_owned);
        Self { scope, only_up, no_maintenance, ..Self::default() }
    }
}

/// What begins anew where somebody clears it.
const COUNTERS: &str = "stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,chkfail,chkdown,lbtot,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,req_tot,cli_abrt,srv_abrt,conn_tot,intercepted,dcon,dses,wrew,connect,reuse,eint";

/// What was counted at one time: by proxy and name, the [`COUNTERS`] in their order.
pub(in crate::control) type Counted = HashMap<(String, String), Vec<u64>>;

/// What is counted so far.
pub(in crate::control) fn counted(snapshot: &Snapshot) -> Counted {
    let count = |row: &Row, column| row.cells[PLACES[column]].parse().unwrap_or(0);
    let rows = rows(snapshot).into_iter();
    rows.map(|row| (row.identity(), COUNTERS.split(',').map(|c| count(&row, c)).collect()))
        .collect()
}

/// What is selected of the table.
pub(in crate::control) fn show(snapshot: &Snapshot, form: Form, wanted: &Selection) -> String {
    let is_wanted = |row: &&Row| {
        let status = &row.cells[PLACES["status"]];
        // Frontends are type 0 and bit 1, backends 1 and 2, servers 2 and 4.
        wanted.proxy.is_none_or(|proxy| proxy == row.proxy)
            && wanted.kind.is_none_or(|kind| kind & (1 << row.kind) != 0)
            && wanted.name.as_ref().is_none_or(|name| *name == row.cells[PLACES["pxname"]])
            && wanted.scope.as_ref().is_none_or(|part| row.cells[PLACES["pxname"]].contains(part))
            && wanted.server.is_none_or(|server| server == row.server)
            && (row.kind != SERVER || !wanted.no_maintenance || !status.starts_with("MAINT"))
            && (row.kind != SERVER || !wanted.only_up || !is_out(status))
    };
    let mut rows = rows(snapshot);
    rows.iter_mut().for_each(|row| row.count_from(&snapshot.cleared));
    let rows = rows.iter().filter(is_wanted);
    match form {
        Form::Csv => csv(rows),
        Form::Typed => typed::lines(rows),
        Form::Json => typed::json(rows),
    }
}

/// Whether a server's status says that it is not up.
fn is_out(status: &str) -> bool {
    status.starts_with("DOWN") || status.starts_with("MAINT")
}

/// The header and a line each, all ending with a comma.
fn csv<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let mut out = format!("# {COLUMNS},\n");
    for row in rows {
        let cells: Vec<_> = row.cells.iter().map(|cell| quoted(cell)).collect();
        out.push_str(&cells.join(","));
        out.push_str(",\n");
    }
    out
}

/// Every line.
pub(in crate::control) fn rows(snapshot: &Snapshot) -> Vec<Row> {
    let relay = &snapshot.status.relay;
    let mut rows = Vec::new();
    for (listener, id) in relay.listeners.iter().zip(1..) {
        rows.push(frontend(snapshot, listener).numbered(id, 0));
    }
    for (ours, id) in relay.backends().zip(relay.listeners.len() as u64 + 1..) {
        for (server, place) in ours.iter().zip(1..) {
            rows.push(self::server(snapshot, server).numbered(id, place));
        }
        rows.push(backend(snapshot, ours).numbered(id, 0));
    }
    rows
}

fn frontend(snapshot: &Snapshot, listener: &ListenerStatus) -> Row {
    let mut row = Row::new(&listener.name, "FRONTEND", FRONTEND);
    let traffic = &listener.traffic;
    let before_a_server = |reason| {
        matches!(
            reason,
            CloseReason::BadGreeting | CloseReason::GreetingTimeout | CloseReason::BadRequest
        )
    };
    row.sets(&[
        ("scur", listener.sessions),
        ("smax", traffic.sessions_max.into()),
        ("slim", listener.maxconn.unwrap_or(snapshot.status.relay.maxconn)),
        ("stot", traffic.sessions_total),
        ("bin", traffic.bytes_to_server),
        ("bout", traffic.bytes_from_server),
        ("dreq", 0),
        ("dresp", 0),
        ("ereq", traffic.ended_by(before_a_server)),
        ("rate_lim", 0),
        ("conn_tot", traffic.accepted),
        ("dcon", traffic.denied),
        ("dses", traffic.source_limited),
        ("intercepted", traffic.own_answers),
        ("wrew", 0),
    ]);
    let rate = snapshot.rates.of(&Subject::Listener(listener.name.clone()));
    if listener.is_door() {
        row.asked();
        row.sets(&[
            ("req_tot", traffic.sessions_total),
            ("req_rate", rate.now),
            ("req_rate_max", rate.max),
            ("hrsp_other", 0),
        ]);
        let classes = ["hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx"];
        classes.iter().zip(traffic.answers).for_each(|(class, count)| row.set(class, count));
    }
    row.rate(rate);
    row.sets(&[("conn_rate", rate.now), ("conn_rate_max", rate.max)]);
    row.text(
        "status",
        match listener.state {
            ListenerState::Accepting => "OPEN",
            ListenerState::Paused => "FULL",
            ListenerState::Disabled => "PAUSED",
            ListenerState::Ended => "STOP",
        },
    );
    row
}

/// The words of HAProxy for a server of ours.
pub(in crate::control) fn status(server: &ServerStatus) -> String {
    let Health { up, against, changes_at, .. } = match server {
        ServerStatus { admin: Admin::Maint, .. } => return "MAINT".to_owned(),
        ServerStatus { admin: Admin::Drain, .. } => return "DRAIN".to_owned(),
        ServerStatus { resolved, .. } if resolved.is_empty() => {
            return "MAINT (resolution)".to_owned();
        }
        ServerStatus { weight: 0, .. } => return "DRAIN".to_owned(),
        ServerStatus { check: None, .. } => return "no check".to_owned(),
        ServerStatus { check: Some(health), .. } => health,
    };
    match (up, against) {
        (true, 0) => "UP".to_owned(),
        (false, 0) => "DOWN".to_owned(),
        // On its way down what is left counts, on its way up what has been.
        (true, against) => format!("UP {}/{changes_at}", changes_at - against),
        (false, against) => format!("DOWN {against}/{changes_at}"),
    }
}

fn server(snapshot: &Snapshot, server: &ServerStatus) -> Row {
    let mut row = Row::new(&server.backend, &server.name, SERVER);
    if snapshot.status.relay.is_asked(&server.backend) {
        row.asked();
    }
    balanced(&mut row, std::slice::from_ref(server));
    if let Some(limit) = server.maxconn {
        row.set("slim", limit);
    }
    row.sets(&[
        ("smax", server.tally.sessions_max),
        ("weight", effective(server).into()),
        ("uweight", server.weight.into()),
        ("act", u64::from(!server.backup)),
        ("bck", u64::from(server.backup)),
        ("srid", 0),
        // Connections that are kept for the next request, which agent doors alone do.
        ("srv_icur", server.tally.kept),
        ("idle_conn_cur", 0),
        ("safe_conn_cur", server.tally.kept),
        ("used_conn_cur", server.tally.sessions),
        ("need_conn_est", server.tally.sessions_max),
    ]);
    row.text("status", &status(server));
    if let Some(percent) = server.slow_start_percent {
        row.set("throttle", percent.into());
    }
    if let Some(health) = &server.check {
        checked(&mut row, health);
    }
    let subject = Subject::server(server);
    row.past(&snapshot.pasts.of(&subject));
    row.text("addr", server.resolved.first().map_or("", String::as_str));
    row.rate(snapshot.rates.of(&subject));
    row
}

/// What its checks found.
fn checked(row: &mut Row, health: &Health) {
    let (rise, fall) = (u64::from(health.rise), u64::from(health.fall));
    row.sets(&[
        ("chkfail", health.failures),
        ("chkdown", health.downs),
        ("check_duration", health.millis),
        ("check_rise", rise),
        ("check_fall", fall),
        ("check_health", vigour(health)),
    ]);
    if let Some(status) = health.http_status {
        row.set("check_code", status.into());
    }
    row.text("check_status", health.code);
    row.text("check_desc", described(health.code));
    row.text("last_chk", health.failure.as_deref().unwrap_or_default());
}

/// Their measure of a server's health: 0 to rise + fall - 1, up from `rise` on.
pub(super) fn vigour(health: &Health) -> u64 {
    let (rise, fall) = (u64::from(health.rise), u64::from(health.fall));
    match health.up {
        true => (rise + fall - 1).saturating_sub(health.against.into()),
        false => health.against.into(),
    }
}

/// What a word for the end of a check means (check.c).
pub(super) fn described(code: &str) -> &'static str {
    match code {
        "INI" => "Initializing",
        "SOCKERR" => "Socket error",
        "L4OK" => "Layer4 check passed",
        "L4TOUT" => "Layer4 timeout",
        "L4CON" => "Layer4 connection problem",
        "L7OK" => "Layer7 check passed",
        "L7TOUT" => "Layer7 timeout",
        "L7RSP" => "Layer7 invalid response",
        "L7STS" => "Layer7 wrong status",
        _ => "Unknown",
    }
}

/// Its weight as it counts now: less while it grows into its share, and never nothing.
fn effective(server: &ServerStatus) -> u32 {
    let weight = u32::from(server.weight);
    server.slow_start_percent.map_or(weight, |percent| (weight * percent).div_ceil(100))
}

fn backend(snapshot: &Snapshot, servers: &[ServerStatus]) -> Row {
    let name = servers.first().map_or("", |server| server.backend.as_str());
    let mut row = Row::new(name, "BACKEND", BACKEND);
    if snapshot.status.relay.is_asked(name) {
        row.asked();
    }
    balanced(&mut row, servers);
    let usable = || servers.iter().filter(|server| server.is_usable());
    let backups = usable().filter(|server| server.backup).count() as u64;
    let actives = usable().count() as u64 - backups;
    // Of those that sessions go to: backups where there is no other.
    let serving = || usable().filter(|server| server.backup == (actives == 0));
    let weight: u64 = serving().map(|server| u64::from(effective(server))).sum();
    let uweight: u64 = serving().map(|server| u64::from(server.weight)).sum();
    let past = snapshot.pasts.of(&Subject::Backend(name.to_owned()));
    let highest = servers.iter().map(|server| server.tally.sessions_max).max().unwrap_or(0);
    // Their default `fullconn` is a tenth of what may come in at one time (manual, 4.2).
    let full = snapshot.status.relay.maxconn.div_ceil(10);
    row.sets(&[
        ("smax", past.sessions_max.max(highest)),
        ("slim", full),
        ("weight", weight),
        ("uweight", uweight),
        ("act", actives),
        ("bck", backups),
        ("chkdown", past.downs),
        ("dreq", 0),
        ("agg_server_status", 0),
        ("agg_server_check_status", 0),
        ("agg_check_status", 0),
    ]);
    row.past(&past);
    if let Some(queue) = snapshot.status.relay.queue(name) {
        row.sets(&[("qcur", queue.waiting), ("qmax", queue.waiting_max)]);
    }
    row.text("status", if usable().next().is_some() { "UP" } else { "DOWN" });
    row.text("algo", servers.first().map_or("roundrobin", |server| server.balance.as_str()));
    row.rate(snapshot.rates.of(&Subject::Backend(name.to_owned())));
    row
}

/// What servers and backends have in common.
fn balanced(row: &mut Row, servers: &[ServerStatus]) {
    let sum = |of: fn(&Tally) -> u64| servers.iter().map(|server| of(&server.tally)).sum::<u64>();
    let established = sum(|tally| tally.sessions_total);
    row.sets(&[
        ("qcur", 0),
        ("qmax", 0),
        ("scur", sum(|tally| tally.sessions)),
        ("stot", established),
        ("bin", sum(|tally| tally.bytes_to_server)),
        ("bout", sum(|tally| tally.bytes_from_server)),
        ("dresp", 0),
        ("econ", sum(|tally| tally.connect_failures)),
        ("eresp", sum(|tally| tally.server_aborts)),
        ("wretr", sum(|tally| tally.retries)),
        ("wredis", sum(|tally| tally.redispatches)),
        ("cli_abrt", sum(|tally| tally.client_aborts)),
        ("srv_abrt", sum(|tally| tally.server_aborts)),
        ("lbtot", established),
        ("rtime", 0),
        ("rtime_max", 0),
        // A request that goes over a kept connection is a session, and no attempt to connect.
        ("connect", established + sum(|tally| tally.connect_failures) - sum(|tally| tally.reuses)),
        ("reuse", sum(|tally| tally.reuses)),
        ("wrew", 0),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::snapshot;

    /// By column, the cell of the row of this proxy and name.
    fn cell(csv: &str, proxy: &str, name: &str, column: &str) -> String {
        let mut lines = csv.lines();
        let header: Vec<&str> = lines.next().unwrap().trim_start_matches("# ").split(',').collect();
        let row: Vec<&str> = lines
            .map(|line| line.split(',').collect::<Vec<_>>())
            .find(|row| row[0] == proxy && row[1] == name)
            .unwrap_or_else(|| panic!("no row {proxy}/{name}:\n{csv}"));
        assert_eq!(row.len(), header.len());
        row[header.iter().position(|known| *known == column).unwrap()].to_owned()
    }

    /// The positions by which haproxy_exporter reads (its `csvField` constants), and the shape that
    /// Telegraf insists on.
    #[test]
    fn columns_stand_where_programs_look_for_them() {
        let csv = show(&snapshot(), Form::Csv, &Selection::default());
        let header = csv.lines().next().unwrap();
        assert!(header.starts_with("# pxname,svname,") && header.ends_with(",-,"), "{header}");
        let columns: Vec<&str> = header.trim_start_matches("# ").split(',').collect();
        for (at, name) in [
            (2, "qcur"),
            (4, "scur"),
            (5, "smax"),
            (6, "slim"),
            (7, "stot"),
            (8, "bin"),
            (9, "bout"),
            (13, "econ"),
            (17, "status"),
            (18, "weight"),
            (21, "chkfail"),
            (24, "downtime"),
            (32, "type"),
            (33, "rate"),
            (35, "rate_max"),
            (38, "check_duration"),
            (48, "req_tot"),
            (49, "cli_abrt"),
            (58, "qtime"),
            (61, "ttime"),
            (79, "conn_tot"),
        ] {
            assert_eq!(columns[at], name, "{at}");
        }
        for line in csv.lines() {
            assert!(line.ends_with(','), "{line}");
            assert_eq!(line.split(',').count(), columns.len(), "{line}");
        }
    }

    #[test]
    fn rows_come_as_there_with_the_numbers_that_are_ours() {
        let csv = show(&snapshot(), Form::Csv, &Selection::default());
        let names: Vec<String> = csv
            .lines()
            .skip(1)
            .map(|line| line.split(',').take(2).collect::<Vec<_>>().join("/"))
            .collect();
        assert_eq!(names, ["agents/FRONTEND", "intake/a", "intake/BACKEND"]);
        for (proxy, name, column, expected) in [
            ("agents", "FRONTEND", "status", "OPEN"),
            ("agents", "FRONTEND", "scur", "34"),
            ("agents", "FRONTEND", "type", "0"),
            ("intake", "a", "stot", "1234567"),
            ("intake", "a", "slim", "10000"),
            ("intake", "a", "cli_abrt", "3"),
            ("intake", "a", "status", "no check"),
            ("intake", "BACKEND", "status", "UP"),
            ("intake", "BACKEND", "econ", "2"),
            ("intake", "BACKEND", "act", "1"),
        ] {
            assert_eq!(cell(&csv, proxy, name, column), expected, "{proxy}/{name} {column}");
        }
    }

    #[test]
    fn what_holds_a_comma_is_quoted() {
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(quoted("plain"), "plain");
    }
}
