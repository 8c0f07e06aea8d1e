//! Servers are taken out of service and brought back by the commands that scripts have for HAProxy.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, await_that, cells, cli, peers, run, text};

fn visits(relay: &Relay, count: usize) -> Vec<String> {
    let visit = |_| {
        let mut name = String::new();
        TcpStream::connect(relay.address()).unwrap().read_to_string(&mut name).unwrap();
        name
    };
    (0..count).map(visit).collect()
}

/// The status of a server as collectors of statistics see it.
fn status(socket: &Path, server: &str) -> String {
    cells(&cli(socket, "show stat"))[&format!("b/{server} status")].clone()
}

#[test]
fn a_server_is_drained_kept_out_over_a_reload_and_brought_back() {
    let (one, other) = (peers::name("one"), peers::name("other"));
    for engine in ["epoll", "io_uring"] {
        let folder = Folder::new(&format!("administration-{engine}"));
        let file = format!(
            "[global]\nengine = \"{engine}\"\nworkers = 2\n\
             [[listener]]\nbind = [\"127.0.0.1:0\"]\n[backend.b]\n\
             [[backend.b.server]]\nname = \"one\"\naddress = \"{}\"\n\
             [[backend.b.server]]\nname = \"other\"\naddress = \"{}\"\nweight = 4\n",
            one.address, other.address
        );
        let relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
        let socket = relay.control();
        let is_alone = |names: Vec<String>, name| names.iter().all(|visited| visited == name);

        assert_eq!(cli(socket, "set server b/other state drain"), "\n");
        assert!(is_alone(visits(&relay, 8), "one"));
        assert_eq!(status(socket, "other"), "DRAIN");
        assert_eq!(cli(socket, "disable server b/other"), "\n");
        assert_eq!(status(socket, "other"), "MAINT");
        assert!(cli(socket, "show servers state b").contains(" other 127.0.0.1 0 1 "));
        assert!(relay.ask("reload").status.success());
        assert!(is_alone(visits(&relay, 8), "one"), "kept over a reload");
        folder.write("f.toml", &file.replace("workers = 2", "workers = 1"));
        assert!(relay.ask("reload").status.success());
        assert!(is_alone(visits(&relay, 8), "one"), "kept over one that takes another process");
        assert!(relay.ask("upgrade").status.success());
        assert!(is_alone(visits(&relay, 8), "one"), "kept over an upgrade");
        assert_eq!(status(socket, "other"), "MAINT");
        assert_eq!(cli(socket, "enable server b/other"), "\n");
        assert!(visits(&relay, 20).iter().any(|name| name == "other"));

        assert_eq!(cli(socket, "get weight b/other"), "4 (initial 4)\n\n");
        assert_eq!(cli(socket, "set weight b/other 0%"), "\n");
        assert_eq!(cli(socket, "get weight b/other"), "0 (initial 4)\n\n");
        assert!(is_alone(visits(&relay, 8), "one"));
        assert_eq!(
            cli(socket, "set server b/other weight 100%; get weight b/other"),
            "\n4 (initial 4)\n\n"
        );

        assert_eq!(cli(socket, "set weight b/other 50%"), "\n");
        let weight = || cli(socket, "get weight b/other");
        assert!(relay.ask("upgrade").status.success());
        assert_eq!(weight(), "2 (initial 4)\n\n", "kept over an upgrade");
        assert!(relay.ask("reload").status.success());
        assert_eq!(weight(), "4 (initial 4)\n\n", "the file's again after a reload");
        assert!(relay.ask("upgrade").status.success());
        assert_eq!(weight(), "4 (initial 4)\n\n", "and so it stays");
        assert_eq!(cli(socket, "set weight b/other 50%"), "\n");
        folder.write("f.toml", &file);
        assert!(relay.ask("reload").status.success());
        assert_eq!(weight(), "4 (initial 4)\n\n", "also in another process");

        assert_eq!(cli(socket, "disable server b/nobody"), "No such server.\n\n");
        assert!(cli(socket, "set weight b/other 999").starts_with("Absolute weight can only be"));
        assert_eq!(cli(socket, "show cli level"), "admin\n\n");
    }
}

#[test]
fn how_the_connections_of_a_session_that_failed_had_fared_is_kept() {
    let server = peers::echo();
    for engine in ["epoll", "io_uring"] {
        let relay = Relay::between(&[server.address], &["--engine", engine]);
        let mut client = peers::connect(relay.address());
        client.write_all(b"?").unwrap();
        client.read_exact(&mut [0]).unwrap();
        peers::reset(client);
        let ends = |words: &str| cli(relay.control(), &format!("ends {words}"));
        await_that("the end is known", || ends("").contains("client_reset"));
        let told: serde_json::Value = serde_json::from_str(&ends("client_reset json")).unwrap();
        for link in ["client_link", "server_link"] {
            assert!(told[0][link]["rtt_micros"].as_u64().unwrap() > 0, "{engine}: {told}");
            assert_eq!(told[0][link]["unacknowledged"], 0, "{engine}: {told}");
        }
        assert!(told[0]["first_byte_ms"].is_u64() && told[0]["last_byte_ms"].is_u64(), "{told}");
        let status = relay.status();
        assert_eq!(
            status["servers"][0]["first_bytes"]["counts"]
                .as_array()
                .map(|counts| { counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>() }),
            Some(1),
            "{status}"
        );
    }
}

#[test]
fn why_a_session_ended_can_be_asked_afterwards_and_seen_second_by_second() {
    for engine in ["epoll", "io_uring"] {
        let folder = Folder::new(&format!("ends-{engine}"));
        let file = format!(
            "[global]\nengine = \"{engine}\"\n[log]\nsessions = false\n\
             [[listener]]\nbind = [\"127.0.0.1:0\"]\n[backend.b]\nretries = 0\n\
             [[backend.b.server]]\naddress = \"{}\"\n",
            peers::nobody()
        );
        let relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
        let client = {
            let mut stream = TcpStream::connect(relay.address()).unwrap();
            let client = stream.local_addr().unwrap().to_string();
            let _ = stream.read(&mut [0; 1]);
            client
        };
        let ends = |words: &str| cli(relay.control(), &format!("ends {words}"));
        await_that("the session's end is known", || ends("").contains(&client));
        assert!(ends("connect_refused").contains(&client));
        assert!(!ends("completed").contains(&client));
        let only: serde_json::Value =
            serde_json::from_str(&ends("connect_refused 1 json")).unwrap();
        assert_eq!(only[0]["client"], client);
        assert!(ends("nonsense").contains("allowed: completed"));
        let control = relay.control().to_str().unwrap().to_owned();
        let top = run(BINARY, &["top", "--times", "1", "--control", &control]);
        let screen = text(&top.stdout);
        assert!(top.status.success() && screen.contains("connect_refused"), "{screen}");
        let ends = run(BINARY, &["ends", "--reason", "connect_refused", "--control", &control]);
        assert!(text(&ends.stdout).contains(&client));
    }
}

#[test]
fn agents_that_were_seen_are_told_by_name() {
    let server = peers::echo();
    let relay = Relay::between(&[server.address], &[]);
    let all = |arguments: &[&str]| text(&relay.ask_with(arguments).stdout);
    assert_eq!(all(&["status", "--agents"]), "no session has ended yet\n");
    for _ in 0..3 {
        peers::exchange(relay.address(), b"report").unwrap();
    }
    await_that("their records were read", || relay.status()["agents"]["seen"] == 1);
    await_that("all of them", || {
        let agents = all(&["status", "--agents", "--json"]);
        serde_json::from_str::<serde_json::Value>(&agents).unwrap()[0]["sessions"] == 3
    });
    let table = all(&["status", "--agents"]);
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1]), ("127.0.0.1", "heard"), "{table}");
    assert!(all(&["status"]).contains("agents         1 seen, 0 silent"), "{}", all(&["status"]));
}

/// Commands, in an order in which each finds what it needs.
const ANSWERED: &[&str] = &[
    "set maxconn server b/s 5",
    "set maxconn server b/s",
    "set maxconn server",
    "set maxconn server b/s abc",
    "set maxconn server b/s 5x",
    "set maxconn server b/s 0",
    "set maxconn server nope/s 5",
    "set maxconn server b/nope 5",
    "set maxconn frontend f 10",
    "set maxconn frontend f",
    "set maxconn frontend nope 3",
    "set maxconn frontend",
    "set maxconn global 10",
    "set maxconn global 999999999",
    "set maxconn global",
    "set server b/t addr 127.0.0.2",
    "set server b/t addr 127.0.0.2",
    "set server b/t addr 127.0.0.1 port 81",
    "set server b/t addr 127.0.0.1 port 81",
    "set server b/t addr 127.0.0.3 port abc",
    "set server b/t addr nonsense",
    "set server b/t addr",
    "set server b/s health nope",
    "set server b/s health up",
    "set server b/s health down",
    "set server b/t check-port 80",
    "set server b/s check-port abc",
    "set server b/s check-port 70000",
    "set server b/s check-port",
    "set server b/s check-port 80",
    "set server b/t agent up",
    "set server b/t agent-port 5",
    "set server b/t ssl on",
    "set server b",
    "set server",
    "set server nope/s state ready",
    "set server b/nope state ready",
    "set server b/s state nope",
    "set server b/s state",
    "set server b/s state ready",
    "set server b/s weight",
    "set weight b/s",
    "set weight b/s abc",
    "set weight b/s 300",
    "set weight b/s 10x",
    "set weight b/s -5%",
    "set weight b/s 5",
    "get weight b/s",
    "get weight b",
    "get weight b/nope",
    "disable health b/t",
    "enable health b/t",
    "disable health b/s",
    "enable health b/s",
    "disable agent b/t",
    "enable agent b/t",
    "disable server b",
    "disable server",
    "shutdown session",
    "shutdown session 0x1",
    "shutdown session abc",
    "shutdown sessions server b/nope",
    "shutdown sessions server b",
    "shutdown sessions server b/s",
    "clear counters",
    "clear counters all",
    "set timeout cli",
    "set timeout cli 10",
    "set timeout cli abc",
    "set timeout nope",
    "show sess 0x1",
    "show servers state nope",
    "show servers conn nope",
    "show backend",
    "show table",
    "show table nope",
    "show env NO_SUCH_VARIABLE",
    "show cli level",
];

/// What HAProxy's own answers are to these, its times and numbers apart, is asked of HAProxy itself.
#[test]
fn commands_are_answered_to_the_letter_as_haproxy_answers_them() {
    let server = peers::echo();
    let folder = Folder::new("administration-oracle");
    let port = server.address.port();
    let theirs = folder.path("theirs.sock");
    let text = format!(
        "global\n stats socket {} level admin\ndefaults\n timeout client 50s\n timeout server 50s\n \
         timeout connect 5s\nfrontend f\n bind {}\n default_backend b\nbackend b\n \
         server s 127.0.0.1:{port} check inter 60s\n server t 127.0.0.1:{port}\n",
        theirs.display(),
        peers::nobody()
    );
    let _haproxy = crate::haproxy::Haproxy::start(folder.write("o.cfg", &text).to_str().unwrap());
    let file = format!(
        "[global]\nsandbox = false\n\
         [[listener]]\nname = \"f\"\nbind = [\"127.0.0.1:0\"]\n[backend.b]\n\
         [[backend.b.server]]\nname = \"s\"\naddress = \"127.0.0.1:{port}\"\n\
         check = {{ interval = \"60s\" }}\n\
         [[backend.b.server]]\nname = \"t\"\naddress = \"127.0.0.1:{port}\"\n"
    );
    let relay = Relay::start(&["-c", folder.write("o.toml", &file).to_str().unwrap()]);
    await_that("HAProxy listens", || std::os::unix::net::UnixStream::connect(&theirs).is_ok());
    for &command in ANSWERED {
        let (expected, answer) = (cli(&theirs, command), cli(relay.control(), command));
        assert_eq!(answer, expected, "{command}");
    }
}

#[test]
fn limits_and_addresses_are_changed_while_it_runs_until_the_file_is_read_anew() {
    let (one, other) = (peers::name("one"), peers::name("other"));
    for engine in ["epoll", "io_uring"] {
        let folder = Folder::new(&format!("amended-{engine}"));
        let file = format!(
            "[global]\nengine = \"{engine}\"\nworkers = 2\nsandbox = false\n\
             [[listener]]\nname = \"f\"\nbind = [\"127.0.0.1:0\"]\n[backend.b]\n\
             [[backend.b.server]]\nname = \"s\"\naddress = \"{}\"\n",
            one.address
        );
        let relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
        let socket = relay.control().to_owned();
        assert_eq!(visits(&relay, 2), ["one", "one"]);
        let to = other.address.port();
        let moved = cli(&socket, &format!("set server b/s addr 127.0.0.1 port {to}"));
        assert!(moved.starts_with("no need to change the addr, port changed from"), "{moved}");
        assert_eq!(visits(&relay, 4), ["other"; 4]);
        assert_eq!(cli(&socket, "set maxconn server b/s 7;set maxconn frontend f 9"), "\n\n");
        let limits = || {
            let known = cells(&cli(&socket, "show stat"));
            [&known["b/s slim"], &known["f/FRONTEND slim"]].map(Clone::clone)
        };
        assert_eq!(limits(), ["7", "9"]);
        let known = cells(&cli(&socket, "show stat"));
        assert_eq!(known["b/s stot"], "6", "it is the same server");

        assert!(relay.ask("reload").status.success());
        assert_eq!(visits(&relay, 2), ["one"; 2]);
        assert_eq!(limits()[0], "");
    }
}

#[test]
fn sessions_are_listed_and_one_of_them_is_ended() {
    let server = peers::echo();
    for engine in ["epoll", "io_uring"] {
        let relay = Relay::between(&[server.address], &["--engine", engine, "--workers", "2"]);
        let mut clients: Vec<_> = (0..6).map(|_| peers::connect(relay.address())).collect();
        for client in &mut clients {
            client.write_all(b"?").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        let listed = cli(relay.control(), "show sess");
        assert_eq!(listed.lines().filter(|line| line.starts_with("0x")).count(), 6, "{listed}");
        assert!(listed.ends_with("\n\n"), "{listed:?}");
        let source = clients[3].local_addr().unwrap();
        let line = listed.lines().find(|line| line.contains(&format!(" src={source} "))).unwrap();
        assert!(line.contains(": proto=tcpv4 src=") && line.contains(" srv="), "{line}");
        let id = line.split(':').next().unwrap();
        let one = cli(relay.control(), &format!("show sess {id}"));
        assert!(one.contains("state=relaying") && one.contains("bytes_to_server=1 "), "{one}");
        assert_eq!(cli(relay.control(), &format!("shutdown session {id}")), "\n");
        assert!(clients[3].read(&mut [0]).is_err(), "it ends with a reset");
        await_that("its end is told", || relay.total("ended.shut_down") == 1);
        let gone = cli(relay.control(), &format!("shutdown session {id}"));
        assert_eq!(gone, "No such session (use 'show sess').\n\n");
        for (at, client) in clients.iter_mut().enumerate().filter(|(at, _)| *at != 3) {
            client.write_all(b"?").unwrap();
            client.read_exact(&mut [0]).unwrap_or_else(|error| panic!("{at}: {error}"));
        }
    }
}

#[test]
fn counters_begin_anew_where_somebody_clears_them_and_metrics_go_on() {
    let server = peers::echo();
    let relay = Relay::between(&[server.address], &[]);
    for _ in 0..5 {
        assert_eq!(peers::exchange(relay.address(), &[7; 100]).unwrap().len(), 100);
    }
    let socket = relay.control();
    let known = || cells(&cli(socket, "show stat"));
    let total = |cells: &std::collections::BTreeMap<String, String>, column: &str| {
        let key = cells.keys().find(|key| key.ends_with(&format!("/BACKEND {column}"))).unwrap();
        cells[key].clone()
    };
    await_that("all have ended", || {
        let known = known();
        total(&known, "bin") == "500" && total(&known, "scur") == "0"
    });
    assert_ne!(total(&known(), "smax"), "0");
    assert_eq!(cli(socket, "clear counters"), "\n");
    assert_eq!((total(&known(), "smax"), total(&known(), "stot")), ("0".into(), "5".into()));
    assert_eq!(cli(socket, "clear counters all"), "\n");
    assert_eq!((total(&known(), "bin"), total(&known(), "stot")), ("0".into(), "0".into()));
    assert_eq!(peers::exchange(relay.address(), b"on").unwrap(), b"on");
    await_that("it counts on", || total(&known(), "bin") == "2");
    assert_eq!(relay.total("sessions_total"), 6, "our own are never cleared");
}

/// The sandbox lets a relay process reach the ports of its configuration alone, and so does the parent
/// with every one that follows.
#[test]
fn a_server_does_not_move_to_a_port_that_is_out_of_reach_and_the_remedy_is_told() {
    let (one, other) = (peers::name("one"), peers::name("other"));
    let relay = Relay::between(&[one.address], &[]);
    assert_eq!(visits(&relay, 2), ["one", "one"]);
    let known = cells(&cli(relay.control(), "show stat"));
    let mut servers = known.keys().filter_map(|key| key.strip_suffix(" svname"));
    let server = servers.rfind(|name| !name.ends_with("END")).unwrap();
    let to = other.address.port();
    let refused = cli(relay.control(), &format!("set server {server} addr 127.0.0.1 port {to}"));
    assert!(refused.contains("Write it in the configuration and reload."), "{refused}");
    assert_eq!(visits(&relay, 2), ["one", "one"]);
}

#[test]
fn a_listener_that_is_disabled_refuses_who_comes_and_keeps_who_is_there() {
    let server = peers::echo();
    for engine in ["epoll", "io_uring"] {
        let folder = Folder::new(&format!("disabled-{engine}"));
        let file = format!(
            "[global]\nengine = \"{engine}\"\nworkers = 2\n\
             [[listener]]\nname = \"agents\"\nbind = [\"127.0.0.1:0\"]\n\
             [[backend.b.server]]\naddress = \"{}\"\n",
            server.address
        );
        let relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
        let socket = relay.control();
        let refuses = || TcpStream::connect(relay.address()).is_err();
        let state = || cells(&cli(socket, "show stat"))["agents/FRONTEND status"].clone();
        let mut before = peers::connect(relay.address());
        before.write_all(b"?").unwrap();
        before.read_exact(&mut [0]).unwrap();
        assert_eq!(cli(socket, "disable frontend agents"), "\n");
        await_that("who comes is refused", refuses);
        assert_eq!(state(), "PAUSED");
        before.write_all(b"?").unwrap();
        before.read_exact(&mut [0]).unwrap();
        assert_eq!(cli(socket, "disable frontend agents"), "All sockets are already disabled.\n\n");
        assert_eq!(cli(socket, "enable frontend agents"), "\n");
        await_that("who comes is let in", || !refuses());
        assert_eq!(peers::exchange(relay.address(), b"x").unwrap(), b"x");
        assert_eq!(state(), "OPEN");
        assert_eq!(relay.total("accept_failures"), 0, "that is no failure");
        assert_eq!(cli(socket, "shutdown frontend agents"), "\n");
        await_that("who comes is refused", refuses);
        assert_eq!(state(), "STOP");
        let answer = cli(socket, "enable frontend agents");
        assert_eq!(answer, "Frontend was previously shut down, cannot enable.\n\n");
        assert!(relay.ask("reload").status.success());
        await_that("the file is read anew", || !refuses());
        assert_eq!(cli(socket, "disable frontend agents"), "\n");
        await_that("who comes is refused", refuses);
        assert!(relay.ask("upgrade").status.success());
        assert!(refuses(), "kept over an upgrade");
        assert_eq!(state(), "PAUSED");
        // A relay process that does not start changes nothing of it.
        folder.write("f.toml", &(file.clone() + "[global.nonsense]\n"));
        assert!(!relay.ask("reload").status.success());
        assert!(refuses());
        folder.write("f.toml", &file.replace("workers = 2", "workers = 1"));
        assert!(relay.ask("reload").status.success());
        await_that("a file that is read anew by another process lets in", || !refuses());
        assert_eq!(state(), "OPEN");
        assert_eq!(cli(socket, "disable frontend other"), "No such frontend.\n\n");
    }
}
