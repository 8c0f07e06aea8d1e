//! Statistics over HTTP, as a scraper, a load balancer and a browser meet them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use crate::support::relay::Relay;
use crate::support::{Folder, await_some, await_that, cells, peers, run_well, text};

fn file(server: SocketAddr, extra: &str) -> String {
    format!(
        "[stats]\nbind = [\"127.0.0.1:0\"]\n{extra}\n\
         [[listener]]\nname = \"agents\"\nbind = [\"127.0.0.1:0\"]\n\
         [[backend.intake.server]]\nname = \"a\"\naddress = \"{server}\"\n"
    )
}

/// A relay with statistics, and where they are.
pub fn start(folder: &Folder, server: SocketAddr, extra: &str) -> (Relay, String) {
    let path = folder.write("f.toml", &file(server, extra));
    let mut relay = Relay::start(&["-c", path.to_str().unwrap()]);
    let line = relay.await_line("statistics on ");
    let url = line.split("statistics on ").nth(1).unwrap().trim_end_matches('/').to_owned();
    (relay, url)
}

pub fn get(url: &str) -> String {
    run_well("curl", &["--silent", "--show-error", "--fail", "--max-time", "10", url])
}

/// The status code, whatever it is.
fn code(url: &str, arguments: &[&str]) -> String {
    let mut all = vec!["--silent", "--max-time", "10", "--output", "/dev/null"];
    all.extend(["--write-out", "%{http_code}", url]);
    all.extend(arguments);
    run_well("curl", &all)
}

/// The cell of this proxy, name and column.
pub fn cell(csv: &str, proxy: &str, name: &str, column: &str) -> String {
    cells(csv)[&format!("{proxy}/{name} {column}")].clone()
}

#[test]
fn what_was_relayed_is_counted_alike_in_the_csv_the_metrics_and_the_status() {
    let server = peers::echo();
    let folder = Folder::new("stats-counts");
    let (relay, url) = start(&folder, server.address, "");
    for _ in 0..20 {
        assert_eq!(peers::exchange(relay.address(), &[7; 1000]).unwrap().len(), 1000);
    }
    let csv = await_some("all have ended", || {
        let csv = get(&format!("{url}/;csv"));
        (cell(&csv, "intake", "a", "bin") == "20000").then_some(csv)
    });
    for (proxy, name, column, expected) in [
        ("agents", "FRONTEND", "stot", "20"),
        ("agents", "FRONTEND", "conn_tot", "20"),
        ("agents", "FRONTEND", "bin", "20000"),
        ("agents", "FRONTEND", "bout", "20000"),
        ("agents", "FRONTEND", "scur", "0"),
        ("agents", "FRONTEND", "status", "OPEN"),
        ("intake", "a", "stot", "20"),
        ("intake", "a", "econ", "0"),
        ("intake", "BACKEND", "bout", "20000"),
        ("intake", "BACKEND", "status", "UP"),
    ] {
        assert_eq!(cell(&csv, proxy, name, column), expected, "{proxy}/{name} {column}");
    }
    // Wherever HAProxy's page is configured to be, and with options behind.
    for path in ["/haproxy?stats;csv", "/;csv;norefresh"] {
        assert!(get(&format!("{url}{path}")).starts_with("# pxname,svname,"), "{path}");
    }
    let metrics = get(&format!("{url}/metrics"));
    for line in [
        "fanin_listener_connections_total{listener=\"agents\"} 20",
        "fanin_sessions_ended_total{listener=\"agents\",reason=\"completed\"} 20",
        "fanin_server_sessions_total{backend=\"intake\",server=\"a\"} 20",
        "fanin_server_bytes_total{backend=\"intake\",server=\"a\",direction=\"to_server\"} 20000",
        "fanin_server_connect_seconds_count{backend=\"intake\",server=\"a\"} 20",
        "fanin_session_duration_seconds_count{listener=\"agents\"} 20",
        "fanin_ready 1",
    ] {
        assert!(metrics.lines().any(|known| known == line), "{line}\n{metrics}");
    }
    let theirs = get(&format!("{url}/metrics?compat=haproxy"));
    let line = "haproxy_server_sessions_total{proxy=\"intake\",server=\"a\"} 20";
    assert!(theirs.lines().any(|known| known == line), "{theirs}");
    let status: serde_json::Value =
        serde_json::from_str(&get(&format!("{url}/api/v1/status"))).unwrap();
    assert_eq!(status["total"]["ended"]["completed"], 20);
    assert_eq!(status["ready"], true);
}

#[test]
fn health_is_told_apart_from_readiness() {
    let server = peers::echo();
    let folder = Folder::new("stats-health");
    let (mut relay, url) = start(&folder, server.address, "");
    assert_eq!(code(&format!("{url}/healthz"), &[]), "200");
    assert_eq!(code(&format!("{url}/readyz"), &[]), "200");
    // A session that stays keeps the relay from ending.
    let mut client = peers::connect(relay.address());
    client.write_all(b"here").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    relay.signal("TERM");
    relay.await_line("draining");
    assert_eq!(code(&format!("{url}/healthz"), &[]), "200");
    assert_eq!(code(&format!("{url}/readyz"), &[]), "503");
    let csv = get(&format!("{url}/;csv"));
    assert_eq!(cell(&csv, "agents", "FRONTEND", "status"), "STOP");
    drop(client);
    assert!(relay.await_end().success());
}

#[test]
fn nothing_can_be_changed_and_what_is_not_there_is_said() {
    let server = peers::echo();
    let folder = Folder::new("stats-errors");
    let (_relay, url) = start(&folder, server.address, "");
    assert_eq!(code(&url, &["--request", "POST", "--data", "x"]), "405");
    assert_eq!(code(&format!("{url}/nonsense"), &[]), "404");
    let headers = run_well("curl", &["--silent", "--head", "--max-time", "10", &url]);
    for header in ["content-security-policy: default-src 'none'", "cache-control: no-store"] {
        assert!(headers.to_lowercase().contains(header), "{headers}");
    }
}

/// Mute clients, endless heads and pages that nobody reads.
#[test]
fn clients_of_the_statistics_hold_up_neither_sessions_nor_each_other() {
    let server = peers::echo();
    let folder = Folder::new("stats-mute");
    let (relay, url) = start(&folder, server.address, "");
    let address: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
    let mut held: Vec<TcpStream> = (0..10).map(|_| peers::connect(address)).collect();
    for stream in &mut held {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Endless: ").unwrap();
    }
    let mut watchers: Vec<TcpStream> = (0..16).map(|_| peers::connect(address)).collect();
    for stream in &mut watchers {
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    await_that("there are as many watchers as may be", || {
        code(&format!("{url}/events"), &["--max-time", "1"]) == "503"
    });
    for _ in 0..20 {
        assert_eq!(peers::exchange(relay.address(), b"on").unwrap(), b"on");
        assert!(get(&format!("{url}/metrics")).contains("fanin_build_info"));
    }
    let mut event = vec![0; 4000];
    watchers[0].read_exact(&mut event).unwrap();
    let event = text(&event);
    assert!(event.contains("text/event-stream") && event.contains("data: {\"version\""), "{event}");
}

#[test]
fn statistics_stay_where_they_are_over_reload_renewal_and_a_crash() {
    let server = peers::echo();
    let folder = Folder::new("stats-stay");
    let (mut relay, url) = start(&folder, server.address, "");
    let first = relay.pid();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(first).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    // Nobody accepts for a moment; whoever asks then is answered by the next process.
    assert!(get(&format!("{url}/metrics")).contains("fanin_generation 2"));
    relay.await_line("restarted");
    folder.write("f.toml", &file(server.address, "[global]\nworkers = 1\n"));
    assert!(relay.ask("reload").status.success());
    await_that("the next generation answers", || {
        get(&format!("{url}/metrics")).contains("fanin_generation 3")
    });
    assert_eq!(peers::exchange(relay.address(), b"still").unwrap(), b"still");
}

/// The hash of "correct horse".
pub fn hash() -> String {
    let mut child = Command::new(crate::support::relay::BINARY)
        .arg("passwd")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse\n").unwrap();
    text(&child.wait_with_output().unwrap().stdout).trim().to_owned()
}

#[test]
fn servers_are_changed_by_those_who_are_named_and_by_nobody_else() {
    let server = peers::echo();
    let folder = Folder::new("stats-admin");
    let admins = format!("admins = {{ alice = \"{}\" }}\n", hash());
    let (mut relay, url) = start(&folder, server.address, &admins);
    let form = "s=a&action=drain&b=intake";
    let right = ["--user", "alice:correct horse", "--data", form];
    let status = || cell(&get(&format!("{url}/;csv")), "intake", "a", "status");
    for arguments in [
        &["--data", form][..],
        &["--user", "alice:wrong", "--data", form],
        &["--user", "bob:correct horse", "--data", form],
        &[&right[..], &["--header", "Origin: http://evil.example"]].concat(),
        &[&right[..], &["--header", "Sec-Fetch-Site: cross-site"]].concat(),
    ] {
        assert_eq!(code(&url, arguments), "403", "{arguments:?}");
        assert_eq!(status(), "no check");
    }
    // No browser is asked for what it would send along for others.
    let refused =
        run_well("curl", &["--silent", "--include", "--max-time", "10", "--data", form, &url]);
    assert!(!refused.to_lowercase().contains("www-authenticate"), "{refused}");
    assert_eq!(code(&url, &["--get", "--user", "alice:correct horse", "--data", form]), "200");
    assert_eq!(status(), "no check", "a question changes nothing");

    let done = run_well(
        "curl",
        &[&["--silent", "--include", "--max-time", "10", &url][..], &right].concat(),
    );
    assert!(done.starts_with("HTTP/1.1 303") && done.contains("location: /;st=DONE"), "{done}");
    assert_eq!(status(), "DRAIN");
    relay.await_line("alice from 127.0.0.1:");
    relay.await_line("server intake/a is set to drain");
    assert_eq!(code(&format!("{url}/;st=DONE"), &[]), "200", "it leads to the page");
    let ask = |form: &str| {
        let arguments = ["--user", "alice:correct horse", "--header", "Accept: text/plain"];
        run_well(
            "curl",
            &[&arguments[..], &["--silent", "--max-time", "10", "--data", form, &url]].concat(),
        )
    };
    assert_eq!(ask("s=a&action=ready&b=%232"), "done\n");
    assert_eq!(status(), "no check");
    assert_eq!(ask("s=a&action=weight&weight=7&b=intake"), "done\n");
    assert_eq!(cell(&get(&format!("{url}/;csv")), "intake", "a", "weight"), "7");
    assert_eq!(ask("s=b&action=drain&b=intake"), "No such server.\n");
    assert!(ask("s=a&action=explode&b=intake").contains("actions: ready, drain"));
    let shown: serde_json::Value =
        serde_json::from_str(&get(&format!("{url}/api/v1/status"))).unwrap();
    assert_eq!(shown["administered"], true);
    let counts = shown["workers"][0]["turns"]["counts"].as_array().unwrap();
    assert!(counts.iter().any(|count| count.as_u64() > Some(0)), "{shown}");
}

#[test]
fn where_viewers_are_named_others_see_whether_it_is_well_and_nothing_else() {
    let server = peers::echo();
    let folder = Folder::new("stats-viewers");
    let users = format!(
        "viewers = {{ bob = \"{hash}\" }}\nadmins = {{ alice = \"{hash}\" }}\n",
        hash = hash()
    );
    let (_relay, url) = start(&folder, server.address, &users);
    let bob = ["--user", "bob:correct horse"];
    for path in ["/", "/metrics", "/;csv", "/;st=;csv", "/api/v1/status", "/events", "/nowhere"] {
        assert_eq!(code(&format!("{url}{path}"), &[]), "401", "{path}");
    }
    for wrong in ["bob:wrong", "carol:correct horse"] {
        assert_eq!(code(&format!("{url}/metrics"), &["--user", wrong]), "401", "{wrong}");
    }
    for path in ["/healthz", "/readyz", "/readyz?;csv", "/readyz?;json"] {
        assert_eq!(code(&format!("{url}{path}"), &[]), "200", "{path}");
    }
    assert_eq!(get(&format!("{url}/readyz?;csv")), "ready\n", "and nothing else");
    for path in ["/", "/metrics", "/;csv", "/api/v1/status"] {
        assert_eq!(code(&format!("{url}{path}"), &bob), "200", "{path}");
    }
    assert_eq!(code(&format!("{url}/;csv"), &["--user", "alice:correct horse"]), "200");
    let asked = run_well("curl", &["--silent", "--include", "--max-time", "10", &url]);
    assert!(asked.to_lowercase().contains("www-authenticate: basic realm="), "{asked}");
    let form = [&bob[..], &["--data", "s=a&action=drain&b=intake"]].concat();
    assert_eq!(code(&url, &form), "403", "who may look may not change");
}

#[test]
fn the_options_of_haproxys_page_select_rows() {
    let server = peers::echo();
    let folder = Folder::new("stats-options");
    let (_relay, url) = start(&folder, server.address, "");
    let names = |option: &str| -> Vec<String> {
        let csv = get(&format!("{url}/{option}"));
        csv.lines()
            .skip(1)
            .map(|row| row.split(',').take(2).collect::<Vec<_>>().join("/"))
            .collect()
    };
    assert_eq!(names(";csv"), ["agents/FRONTEND", "intake/a", "intake/BACKEND"]);
    assert_eq!(names(";csv?scope=age"), ["agents/FRONTEND"]);
    assert_eq!(names(";csv;norefresh;up"), ["agents/FRONTEND", "intake/a", "intake/BACKEND"]);
}
