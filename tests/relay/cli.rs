//! HAProxy's CLI on our control socket, with HAProxy beside it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use crate::haproxy::{Haproxy, file};
use crate::support::relay::Relay;
use crate::support::{Folder, await_some, await_that, cells, cli, peers};

/// The value of a line `name: value`.
fn info(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).to_owned()
}

/// What both count of the same traffic. `iid` and what depends on checks is not in it.
const ALIKE: &[&str] = &[
    "forwarder/FRONTEND status",
    "forwarder/FRONTEND scur",
    "forwarder/FRONTEND stot",
    "forwarder/FRONTEND bin",
    "forwarder/FRONTEND bout",
    "forwarder/FRONTEND slim",
    "forwarder/FRONTEND conn_tot",
    "forwarder/FRONTEND dreq",
    "forwarder/FRONTEND ereq",
    "forwarder/FRONTEND type",
    "forwarder/FRONTEND mode",
    "stackstate/mothership stot",
    "stackstate/mothership bin",
    "stackstate/mothership bout",
    "stackstate/mothership econ",
    "stackstate/mothership wretr",
    "stackstate/mothership wredis",
    "stackstate/mothership weight",
    "stackstate/mothership act",
    "stackstate/mothership bck",
    "stackstate/mothership lbtot",
    "stackstate/mothership type",
    "stackstate/mothership sid",
    "stackstate/BACKEND status",
    "stackstate/BACKEND stot",
    "stackstate/BACKEND bin",
    "stackstate/BACKEND bout",
    "stackstate/BACKEND econ",
    "stackstate/BACKEND act",
    "stackstate/BACKEND slim",
    "stackstate/BACKEND type",
    "stackstate/mothership status",
    "stackstate/mothership scur",
    "stackstate/mothership check_status",
    "stackstate/mothership check_code",
    "stackstate/mothership check_desc",
    "stackstate/mothership check_rise",
    "stackstate/mothership check_fall",
    "stackstate/mothership check_health",
    "stackstate/mothership chkfail",
    "stackstate/mothership chkdown",
    "stackstate/mothership downtime",
    "stackstate/mothership qcur",
    "stackstate/mothership qmax",
    "stackstate/mothership qtime",
    "stackstate/mothership qtime_max",
    "stackstate/mothership rtime",
    "stackstate/mothership connect",
    "stackstate/mothership reuse",
    "stackstate/mothership eresp",
    "stackstate/mothership cli_abrt",
    "stackstate/mothership srv_abrt",
    "stackstate/mothership uweight",
    "stackstate/mothership throttle",
    "stackstate/mothership srv_icur",
    "stackstate/mothership addr",
    "stackstate/BACKEND chkdown",
    "stackstate/BACKEND downtime",
    "stackstate/BACKEND weight",
    "stackstate/BACKEND uweight",
    "stackstate/BACKEND bck",
    "stackstate/BACKEND qmax",
    "stackstate/BACKEND algo",
];

/// Headers, names and fields are theirs.
fn shapes_agree(theirs: &Path, ours: &Path) {
    // Both headers agree as far as ours goes.
    let header = |socket: &Path| {
        let stat = cli(socket, "show stat");
        stat.lines().next().unwrap().split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    let (theirs_header, ours_header) = (header(theirs), header(ours));
    assert_eq!(ours_header[..93], theirs_header[..93]);
    let (said, says) = (cli(theirs, "show info"), cli(ours, "show info"));
    for name in ["Name", "Nbproc", "Process_num", "Maxconn", "CurrConns"] {
        assert_eq!(info(&says, name), info(&said, name), "{name}");
    }
    // Every name that we give is one of theirs. (Their order differs from version to version.)
    let names = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
    };
    let known = names(&said);
    // Of later versions, of builds with zlib, and what a configuration may set.
    let later = [
        "ZlibMemUsage",
        "MaxZlibMemUsage",
        "TotalSplicedBytesOut",
        "TotalWarnings",
        "MaxconnReached",
        "description",
    ];
    for name in names(&says).into_iter().filter(|name| !later.contains(&name.as_str())) {
        assert!(known.contains(&name), "{name} is not theirs: {known:?}");
    }
    // A field that both have is of the same nature and type in both.
    let typed = |socket: &Path| -> BTreeMap<(char, String), String> {
        let stat = cli(socket, "show stat typed");
        let field = |line: &str| {
            let (place, rest) = line.split_once(':')?;
            let (nature, _) = rest.rsplit_once(':')?;
            Some(((line.chars().next()?, place.split('.').nth(4)?.to_owned()), nature.to_owned()))
        };
        stat.lines().filter_map(field).collect()
    };
    let (said, says) = (typed(theirs), typed(ours));
    let both = says.iter().filter(|(field, _)| said.contains_key(field));
    assert!(both.clone().count() > 60, "{says:?}");
    for (field, nature) in both {
        let natures = [nature, &said[field]].map(|nature| nature[..7].to_owned());
        assert_eq!(natures[0], natures[1], "{field:?}");
    }
    let json = |socket: &Path| -> serde_json::Value {
        let answer = cli(socket, "show stat -1 4 -1 json");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}:\n{answer}"))
    };
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let (theirs_json, ours_json) = (json(theirs), json(ours));
    let (one, other) = (&theirs_json[0][0], &ours_json[0][0]);
    assert_eq!(keys(one), keys(other));
    assert_eq!((&one["value"], &one["tags"]), (&other["value"], &other["tags"]));
    let fields = |socket: &Path| -> Vec<String> {
        let state = cli(socket, "show servers state");
        state.lines().nth(1).unwrap().split(' ').map(str::to_owned).collect()
    };
    assert_eq!(fields(ours), fields(theirs));
    // And the values, but for the number of the backend and how long it has been so.
    let state = |socket: &Path| -> Vec<String> {
        let state = cli(socket, "show servers state stackstate");
        let line = state.lines().nth(2).unwrap().split(' ').map(str::to_owned);
        line.enumerate().filter(|(at, _)| ![0, 9].contains(at)).map(|(_, value)| value).collect()
    };
    assert_eq!(state(ours), state(theirs));
}

/// The same traffic through HAProxy and through us, by the same file: what both count is the same.
#[test]
fn the_cli_says_of_the_same_traffic_what_haproxy_says() {
    let server = peers::echo();
    let folder = Folder::new("haproxy-cli");
    let (theirs, ours) = (peers::nobody(), peers::nobody());
    let beside = Haproxy::start(&file(&folder, "theirs", theirs, peers::nobody(), server.address));
    await_that("HAProxy answers", || peers::exchange(theirs, b"x").is_ok_and(|a| a == b"x"));
    let relay =
        Relay::start(&["-c", &file(&folder, "ours", ours, peers::nobody(), server.address)]);
    assert_eq!(peers::exchange(ours, b"x").unwrap(), b"x");
    for _ in 0..9 {
        for address in [theirs, ours] {
            assert_eq!(peers::exchange(address, &[7; 500]).unwrap().len(), 500);
        }
    }
    let theirs = folder.path("theirs.sock");
    let ended = |socket: &Path| {
        let csv = cells(&cli(socket, "show stat"));
        (csv["stackstate/mothership bin"] == "4501").then_some(csv)
    };
    // When both have checked their server, too.
    let is_checked =
        |csv: &BTreeMap<String, String>| csv["stackstate/mothership check_status"] == "L4OK";
    let both = |socket: &Path| ended(socket).filter(is_checked);
    let counted = await_some("HAProxy has counted", || both(&theirs));
    let ours = await_some("we have counted", || both(relay.control()));
    let differing: Vec<String> = ALIKE
        .iter()
        .filter(|cell| ours[**cell] != counted[**cell])
        .map(|cell| format!("{cell}: {} here, {} there", ours[*cell], counted[*cell]))
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
    shapes_agree(&theirs, relay.control());
    drop(beside);
}

#[test]
fn a_client_with_a_prompt_is_answered_line_after_line_and_several_commands_go_in_one() {
    let server = peers::echo();
    let relay = Relay::between(&[server.address], &[]);
    let both = cli(relay.control(), "show info;show stat\r");
    let parts: Vec<&str> = both.trim_end().split("\n\n").collect();
    assert_eq!(parts.len(), 2, "Datadog's check splits at the empty line:\n{both}");
    assert!(parts[0].starts_with("Name: ") && parts[1].starts_with("# pxname,"), "{both}");
    let session = cli(
        relay.control(),
        "prompt\nset timeout cli 60\nshow version\nshow nonsense\nshow stat -1 2 -1\nquit",
    );
    let answers: Vec<&str> = session.split("> ").collect();
    assert_eq!(answers.len(), 6, "{session}");
    assert!(answers[2].ends_with("\n\n"), "{session}");
    assert!(answers[3].starts_with("error: unknown command"), "{session}");
    assert!(answers[4].contains("default,BACKEND,"), "{session}");
}

/// The tool itself, on a terminal of its own.
#[test]
fn hatop_shows_the_relay() {
    if std::process::Command::new("hatop").arg("--help").output().is_err() {
        eprintln!("SKIPPED: no hatop here (apt-get install hatop)");
        return;
    }
    let server = peers::echo();
    let relay = Relay::between(&[server.address], &[]);
    let folder = Folder::new("hatop");
    let shown = folder.path("terminal");
    let command = format!("stty rows 40 cols 150; exec hatop -s {}", relay.control().display());
    let mut terminal = std::process::Command::new("script")
        .args(["-qefc", &command, shown.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    await_that("hatop has drawn its table", || {
        let drawn = std::fs::read(&shown).unwrap_or_default();
        let drawn = String::from_utf8_lossy(&drawn);
        ["2.6.0-fanin", "FRONTEND", "BACKEND", &server.address.to_string()]
            .iter()
            .all(|part| drawn.contains(part))
    });
    terminal.stdin.take().unwrap().write_all(b"q").unwrap();
    assert!(terminal.wait().unwrap().success());
}
