//! The commands of HAProxy's CLI (management guide, 9.3) that ask for something.

use std::time::SystemTime;

use crate::backend::board::Admin;
use crate::config::value;
use crate::control::observer::Subject;
use crate::control::status::{RelayStatus, ServerStatus};
use crate::control::{Health, Snapshot};

use super::info;
use super::stat::{self, Form, Selection};
use crate::control::tcplog::haproxy_time;

/// A command of theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    Stat(Form, Selection),
    Info(Form),
    /// Of one backend or all.
    ServersState(Option<String>),
    ServersConn(Option<String>),
    /// Of requests that were not understood: there are none where bytes pass unchanged.
    Errors,
    /// The environment, or one variable of it.
    Env(Option<String>),
    /// Stick tables, of which there are none: all of them, or one.
    Table {
        named: bool,
    },
    Version,
    Backends,
}

impl Show {
    /// The command that these words are, if it is one of theirs.
    ///
    /// # Errors
    /// What is wrong with it, for the client.
    pub(in crate::control) fn parse(words: &[&str]) -> Result<Option<Self>, String> {
        Ok(Some(match words {
            ["show", "stat", rest @ ..] => {
                let (selection, form) = selection(rest)?;
                Self::Stat(form, selection)
            }
            ["show", "info", rest @ ..] => Self::Info(form(rest)),
            ["show", "servers", "state", rest @ ..] => {
                Self::ServersState(rest.first().map(|name| (*name).to_owned()))
            }
            ["show", "servers", "conn", rest @ ..] => {
                Self::ServersConn(rest.first().map(|name| (*name).to_owned()))
            }
            ["show", "errors", ..] => Self::Errors,
            ["show", "env", rest @ ..] => Self::Env(rest.first().map(|name| (*name).to_owned())),
            ["show", "table", rest @ ..] => Self::Table { named: !rest.is_empty() },
            ["show", "version"] => Self::Version,
            ["show", "backend"] => Self::Backends,
            _ => return Ok(None),
        }))
    }

    /// The answer, which ends with an empty line as every answer of theirs.
    pub(in crate::control) fn answer(&self, snapshot: &Snapshot) -> String {
        let text = match self {
            Self::Stat(form, selection) => stat::show(snapshot, *form, selection),
            Self::Info(form) => info::show(snapshot, *form),
            Self::ServersState(backend) => servers_state(snapshot, backend.as_deref()),
            Self::ServersConn(backend) => servers_conn(snapshot, backend.as_deref()),
            Self::Errors => {
                format!("Total events captured on [{}] : 0\n", haproxy_time(SystemTime::now()))
            }
            Self::Env(name) => environment(name.as_deref()),
            Self::Table { named: true } => "No such table\n".to_owned(),
            Self::Table { named: false } => String::new(),
            Self::Version => format!("{}\n", info::VERSION),
            Self::Backends => {
                let backends = snapshot.status.relay.backends();
                let names: Vec<&str> = backends.map(|of| of[0].backend.as_str()).collect();
                format!("# name\n{}\n", names.join("\n"))
            }
        };
        format!("{text}\n")
    }
}

/// In which form somebody wants an answer.
fn form(words: &[&str]) -> Form {
    let mut forms = words.iter().rev().filter_map(|word| match *word {
        "typed" => Some(Form::Typed),
        "json" => Some(Form::Json),
        _ => None,
    });
    forms.next().unwrap_or_default()
}

/// `IID TYPE SID`, where IID may be a name; then `typed` or `json`, and `up` or `no-maint`. What is not
/// there, or -1 ("any", as hatop says it), is all.
fn selection(words: &[&str]) -> Result<(Selection, Form), String> {
    let is_option = |word: &&str| matches!(*word, "typed" | "json" | "desc" | "up" | "no-maint");
    let (options, words): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| is_option(word));
    let refuse = |word: &str| {
        let word = word.escape_debug();
        format!(
            "`show stat` takes three numbers or a proxy, a kind and a server, then typed, json, up or \
             no-maint, not \"{word}\""
        )
    };
    let number = |at: usize| match words.get(at) {
        None | Some(&"-1") => Ok(None),
        Some(word) => word.parse().map(Some).map_err(|_| refuse(word)),
    };
    let (proxy, name) = match words.first() {
        Some(word) if words.len() >= 3 && word.parse::<i64>().is_err() => {
            (None, Some((*word).to_owned()))
        }
        _ => (number(0)?, None),
    };
    if let Some(word) = words.get(3) {
        return Err(refuse(word));
    }
    let selection = Selection {
        proxy,
        name,
        scope: None,
        kind: number(1)?,
        server: number(2)?,
        only_up: options.contains(&"up"),
        no_maintenance: options.contains(&"no-maint"),
    };
    Ok((selection, form(&options)))
}

/// `show env`: what this process was started with.
fn environment(name: Option<&str>) -> String {
    let all = std::env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    });
    let wanted = all.filter(|(known, _)| name.is_none_or(|name| name == known));
    let lines: String = wanted.map(|(name, value)| format!("{name}={value}\n")).collect();
    match lines.is_empty() {
        true => "Variable not found\n".to_owned(),
        false => lines,
    }
}

const NO_BACKEND: &str = "Can't find backend.\n";

/// The servers of each backend, or of the one that is wanted, with the number of it; `None` if there is no
/// such backend.
fn backends<'a>(
    relay: &'a RelayStatus,
    wanted: Option<&str>,
) -> Option<Vec<(&'a [ServerStatus], usize)>> {
    let numbered = relay.backends().zip(relay.listeners.len() + 1..);
    let is_wanted = |servers: &[ServerStatus]| wanted.is_none_or(|it| it == servers[0].backend);
    let found: Vec<_> = numbered.filter(|(servers, _)| is_wanted(servers)).collect();
    (wanted.is_none() || !found.is_empty()).then_some(found)
}

/// `show servers conn`: who keeps connections to servers for the next request, which is agent doors
/// alone.
fn servers_conn(snapshot: &Snapshot, wanted: Option<&str>) -> String {
    let relay = &snapshot.status.relay;
    let workers = relay.workers.len();
    let mut out = format!(
        "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb \
         safe_nb idle_lim idle_cur idle_per_thr[{workers}]\n"
    );
    let Some(backends) = backends(relay, wanted) else { return NO_BACKEND.to_owned() };
    for (servers, id) in backends {
        for (server, place) in servers.iter().zip(1..) {
            let address = server.resolved.first().map_or("-", String::as_str);
            let (ip, port) = address.rsplit_once(':').unwrap_or((address, "0"));
            let tally = &server.tally;
            out += &format!(
                "{}/{} {id}/{place} {} {port} - 5000 {used} {} {used} 0 {kept} -1 {kept}{}\n",
                server.backend,
                server.name,
                ip.trim_start_matches('[').trim_end_matches(']'),
                tally.sessions_max,
                " 0".repeat(workers),
                used = tally.sessions,
                kept = tally.kept,
            );
        }
    }
    out
}

/// `show servers state` (version 1 of its format).
fn servers_state(snapshot: &Snapshot, wanted: Option<&str>) -> String {
    const FIELDS: &str = "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state \
                          srv_uweight srv_iweight srv_time_since_last_change srv_check_status \
                          srv_check_result srv_check_health srv_check_state srv_agent_state \
                          bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl \
                          srv_check_port srv_check_addr srv_agent_addr srv_agent_port";
    let relay = &snapshot.status.relay;
    let mut out = format!("1\n# {FIELDS}\n");
    let Some(backends) = backends(relay, wanted) else { return NO_BACKEND.to_owned() };
    for (servers, id) in backends {
        for (server, place) in servers.iter().zip(1..) {
            let address = server.resolved.first().map_or("-", String::as_str);
            let (ip, _) = address.rsplit_once(':').unwrap_or((address, ""));
            let (host, port) = server.address.rsplit_once(':').unwrap_or((&server.address, "0"));
            let is_service = value::is_service(&server.address);
            let is_name =
                !is_service && host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[');
            // Forced maintenance, forced drain, and 0x20: the name has no address yet.
            let admin = match server.admin {
                Admin::Maint => 1,
                Admin::Drain => 8,
                Admin::Ready if server.resolved.is_empty() => 0x20,
                Admin::Ready => 0,
            };
            // `port` is that of agents' checks too, there.
            let checked = server.check.as_ref().and_then(|check| check.port).unwrap_or(0);
            let at = server.check.as_ref().and_then(|check| check.address);
            let at = at.map_or_else(|| "-".to_owned(), |address| address.to_string());
            let [status, result, health, state] = check_state(server.check.as_ref());
            out += &format!(
                "{id} {} {place} {} {} {} {admin} {} {} {} {status} {result} {health} {state} 0 0 0 {} \
                 {port} {} 0 {checked} {at} - {checked}\n",
                server.backend,
                server.name,
                ip.trim_start_matches('[').trim_end_matches(']'),
                operation(server),
                server.weight,
                server.weight_configured,
                snapshot.pasts.of(&Subject::server(server)).seconds,
                if is_name { host } else { "-" },
                if is_service { server.address.as_str() } else { "-" },
            );
        }
    }
    out
}

/// `srv_op_state` (server-t.h): 0 stopped, 1 growing into its share, 2 running, also where it only lets
/// sessions end.
fn operation(server: &ServerStatus) -> u8 {
    match server.admin {
        Admin::Drain => 2,
        _ if !server.is_usable() => 0,
        _ if server.slow_start_percent.is_some() => 1,
        _ => 2,
    }
}

/// `srv_check_status`, `_result`, `_health` and `_state` by their numbers (check-t.h).
fn check_state(health: Option<&Health>) -> [u64; 4] {
    // Initialising, unknown, none, configured.
    let Some(health) = health else { return [1, 0, 0, 2] };
    let status = match health.code {
        "INI" => 1,
        "SOCKERR" => 5,
        "L4OK" => 6,
        "L4TOUT" => 7,
        "L4CON" => 8,
        "L7TOUT" => 12,
        "L7RSP" => 13,
        "L7OK" => 15,
        "L7STS" => 17,
        _ => 0,
    };
    let result = match (health.code, &health.failure) {
        ("INI", _) => 0,
        (_, Some(_)) => 2,
        (_, None) => 3,
    };
    // Configured and enabled.
    [status, result, stat::vigour(health), 6]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::snapshot;

    fn ask(line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        Show::parse(&words).unwrap().expect("a command").answer(&snapshot())
    }

    #[test]
    fn rows_are_selected_as_hatop_asks_for_them() {
        let names = |line: &str| -> Vec<String> {
            let answer = ask(line);
            assert!(answer.ends_with(",\n\n"), "{answer}");
            let rows = answer.lines().skip(1).filter(|line| !line.is_empty());
            rows.map(|row| row.split(',').take(2).collect::<Vec<_>>().join("/")).collect()
        };
        assert_eq!(names("show stat").len(), 3);
        assert_eq!(names("show stat -1 -1 -1").len(), 3);
        assert_eq!(names("show stat -1 1 -1"), ["agents/FRONTEND"]);
        assert_eq!(names("show stat 2 4 1"), ["intake/a"]);
        assert!(Show::parse(&["show", "stat", "x"]).is_err());
        assert_eq!(Show::parse(&["show", "nonsense"]), Ok(None));
    }

    #[test]
    fn info_has_what_programs_insist_on() {
        let info = ask("show info");
        for name in [
            "Name",
            "Version",
            "Release_date",
            "Nbproc",
            "Process_num",
            "Pid",
            "Uptime",
            "Maxconn",
            "CurrConns",
            "Maxpipes",
            "PipesUsed",
            "Tasks",
            "Run_queue",
            "node",
        ] {
            let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            assert!(line.is_some_and(|value| !value.is_empty()), "{name}\n{info}");
        }
        // Datadog's check splits each line before Uptime_sec at its one colon.
        for line in info.lines().take_while(|line| !line.starts_with("Uptime_sec")) {
            assert_eq!(line.matches(':').count(), 1, "{line}");
        }
        assert!(info.contains("\nUptime: 0d 3h12m00s\n"), "{info}");
    }

    /// What collectd's plugins for HAProxy and Datadog's check take, each a number where it is not empty.
    #[test]
    fn what_collectors_take_by_name_is_there_and_a_number() {
        let info = ask("show info");
        for name in [
            "CurrConns",
            "PipesUsed",
            "PipesFree",
            "Tasks",
            "Run_queue",
            "Uptime_sec",
            "ConnRate",
            "SessRate",
            "Idle_pct",
            "CumReq",
            "CumConns",
            "MaxConnRate",
        ] {
            let value = info.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            assert!(value.is_some_and(|value| value.parse::<u64>().is_ok()), "{name}\n{info}");
        }
        let stat = ask("show stat");
        let rows: Vec<Vec<&str>> = stat
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| line.trim_start_matches("# ").split(',').collect())
            .collect();
        let names = "bin bout chkfail downtime dresp dreq econ ereq eresp hrsp_1xx hrsp_2xx hrsp_3xx \
                     hrsp_4xx hrsp_5xx hrsp_other qcur rate req_rate stot scur wredis wretr lbtot act bck \
                     slim throttle cli_abrt srv_abrt lastchg req_tot qtime ctime rtime ttime conn_rate \
                     conn_tot intercepted";
        for name in names.split_whitespace() {
            let at = rows[0].iter().position(|known| *known == name);
            let at = at.unwrap_or_else(|| panic!("no column {name}"));
            for row in &rows[1..] {
                assert!(row[at].is_empty() || row[at].parse::<u64>().is_ok(), "{name}: {row:?}");
            }
            let filled = rows[1..].iter().any(|row| !row[at].is_empty());
            let of_http = name.starts_with("hrsp") || name.starts_with("req_");
            assert!(filled || of_http || matches!(name, "chkfail" | "throttle"), "{name} is empty");
        }
    }

    #[test]
    fn the_state_of_servers_has_as_many_fields_as_its_header() {
        let state = ask("show servers state");
        let lines: Vec<&str> = state.lines().collect();
        assert_eq!(lines[0], "1");
        let fields = lines[1].trim_start_matches("# ").split(' ').count();
        assert_eq!(lines[2].split(' ').count(), fields, "{state}");
        assert!(lines[2].starts_with("2 intake 1 a 192.0.2.7 2 0 1 1 "), "{state}");
        assert!(ask("show servers state nowhere").contains("Can't find backend"));
    }
}
