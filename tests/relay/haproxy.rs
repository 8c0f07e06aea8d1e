//! What an operator had with HAProxy runs here as it did there; HAProxy itself stands beside.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, await_that, peers, run, run_well, text};

const WORKING: &str = include_str!("../fixtures/working-haproxy.cfg");
const PAGE: &str = include_str!("../fixtures/page-haproxy.cfg");

/// The file of a user, its addresses made those of this test.
pub fn file(
    folder: &Folder,
    name: &str,
    relay: SocketAddr,
    page: SocketAddr,
    server: SocketAddr,
) -> String {
    let text = WORKING
        .replace("*:3834", &relay.to_string())
        .replace(":3835", &page.to_string())
        .replace("/tmp/haproxy", folder.path(&format!("{name}.sock")).to_str().unwrap())
        .replace("stackstate.example.com:443", &server.to_string())
        // Nothing listens on port 80 here, and HAProxy would give the server up for it.
        .replace("port 80", &format!("port {}", server.port()));
    folder.write(&format!("{name}.cfg"), &text).to_str().unwrap().to_owned()
}

/// HAProxy, ended when dropped.
pub struct Haproxy(Child);

impl Haproxy {
    pub fn start(file: &str) -> Self {
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", file]).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("haproxy; scripts/test installs it"))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn curl(relay: SocketAddr, path: &str) -> (i32, String) {
    let output = run("curl", &["-sS", "--max-time", "20", &format!("http://{relay}{path}")]);
    (output.status.code().unwrap_or(-1), text(&output.stdout))
}

#[test]
fn the_file_of_a_user_runs_unchanged_and_serves_what_haproxy_serves() {
    let server = peers::http();
    let folder = Folder::new("haproxy-file");
    let (theirs, page) = (peers::nobody(), peers::nobody());
    let beside = Haproxy::start(&file(&folder, "theirs", theirs, page, server.address));
    let ours = peers::nobody();
    let arguments = file(&folder, "ours", ours, peers::nobody(), server.address);
    let mut relay = Relay::start(&["-c", &arguments]);
    relay.await_line("this cuts agents that keep their connections");
    await_that("HAProxy serves", || curl(theirs, "/").0 == 0);
    for path in ["/", "/bytes/100000"] {
        assert_eq!(curl(relay.address(), path), curl(theirs, path), "{path}");
    }
    drop(beside);
}

#[test]
fn the_page_as_it_is_printed_names_what_is_missing() {
    let folder = Folder::new("haproxy-page");
    let path = folder.write("page.cfg", PAGE);
    let path = path.to_str().unwrap();
    for command in [&["run", "-c", path][..], &["check", "-c", path], &["import", path]] {
        let output = run(BINARY, command);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{command:?}: {said}");
        assert!(output.stdout.is_empty());
        for part in ["page.cfg:2:5", "`global`", "page.cfg:7:5", "`defaults`", "page.cfg:38:"] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
    }
}

#[test]
fn what_import_writes_is_the_same_configuration() {
    let folder = Folder::new("haproxy-import");
    let address = "192.0.2.1:443".parse().unwrap();
    let cfg = file(&folder, "x", peers::nobody(), peers::nobody(), address);
    let output = run(BINARY, &["import", &cfg]);
    let report = text(&output.stderr);
    assert!(output.status.success(), "{report}");
    for part in ["taken over:", "ignored, and why:", "to look at:", "cron"] {
        assert!(report.contains(part), "{part} is not in: {report}");
    }
    let toml = folder.write("x.toml", &text(&output.stdout));
    let ours = run_well(BINARY, &["check", "--print", "-c", toml.to_str().unwrap()]);
    let theirs = run_well(BINARY, &["check", "--print", "-c", &cfg]);
    assert_eq!(ours, theirs);
    let socket = format!("socket = \"{}\"", folder.path("x.sock").display());
    assert!(ours.contains(&socket), "{socket} is not in: {ours}");
}

/// Lines of a `listen` section with a server, and whether they can be run at all.
const JUDGED: &[(&str, bool)] = &[
    ("bind 127.0.0.1:3834", true),
    ("bind \"127.0.0.1:${NO_SUCH_VARIABLE-3834}\" # comment", true),
    ("bind 127.0.0.1:3834-3836", true),
    ("bind 127.0.0.1:3834,127.0.0.1:3835", true),
    ("bind :::3834 v4v6", true),
    ("bind 127.0.0.1:3834 backlog 5", true),
    ("bind 127.0.0.1:3834\nmode tcp\nbalance roundrobin\nretries 0\nmaxconn 7", true),
    ("bind 127.0.0.1:3834\ntimeout tunnel 1h\ntimeout client-fin 1500\ntimeout queue 2s", true),
    ("bind 127.0.0.1:3834\nserver t 192.0.2.2:80 check inter 5s rise 2 fall 3 port 81", true),
    ("bind 127.0.0.1:3834\nserver t 192.0.2.2:80 weight 256 backup maxconn 5", true),
    ("bind 127.0.0.1:3834\ndefault-server weight 5\nserver t 2001:db8::1:80", true),
    ("bind 127.0.0.1:3834\nacl x src 10.0.0.0/8\ntcp-request connection reject if !x", true),
    (
        "bind 127.0.0.1:3834\ntcp-request connection reject unless { src 10.0.0.0/8 } or { src ::1 }",
        true,
    ),
    ("bind 127.0.0.1:3834\nno option redispatch\noption splice-auto\noption tcplog", true),
    ("bind 127.0.0.1:3834\noption clitcpka\noption dontlognull\noption tcp-check", true),
    ("bind 127.0.0.1:3834 accept-proxy", true),
    ("bind", false),
    ("bind 127.0.0.1", false),
    ("bind 127.0.0.1:99999", false),
    ("bind 127.0.0.1:3834 nonsense", false),
    ("bind 127.0.0.1:3834\nmode tpc", false),
    ("bind 127.0.0.1:3834\nbalance nonsense", false),
    ("bind 127.0.0.1:3834\nmaxconn 10 11", false),
    ("bind 127.0.0.1:3834\ntimeout nonsense 5s", false),
    ("bind 127.0.0.1:3834\ntimeout client 5x", false),
    ("bind 127.0.0.1:3834\noption nonsense", false),
    ("bind 127.0.0.1:3834\nserver t", false),
    ("bind 127.0.0.1:3834\nserver t 192.0.2.2:80 weight 300", false),
    ("bind 127.0.0.1:3834\nserver t 192.0.2.2:80 nonsense", false),
    ("bind 127.0.0.1:3834\nserver s 192.0.2.2:80", false),
    ("bind 127.0.0.1:3834\nnonsense", false),
    ("bind 127.0.0.1:3834\ntcp-request connection reject if { src 10.0.0.300 }", false),
    ("bind 127.0.0.1:3834\ntcp-request connection reject if no_such_acl", false),
    ("bind 127.0.0.1:3834\nserver \"t 192.0.2.2:80", false),
    ("bind 127.0.0.1:3834\nbalance \\xzz", false),
    ("bind 127.0.0.1:3834\nlisten a\nbind 127.0.0.1:3999\nserver u 192.0.2.3:80", false),
    ("bind 127.0.0.1:3834\nfrontend f\nbind 127.0.0.1:3999\ndefault_backend no_such", false),
];

#[test]
fn what_haproxy_runs_runs_here_and_what_it_refuses_is_refused_here() {
    let folder = Folder::new("haproxy-oracle");
    for (lines, runs) in JUDGED {
        let text = format!(
            "defaults\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
             listen a\n server s 192.0.2.1:80\n {}\n",
            lines.replace('\n', "\n ")
        );
        let path = folder.write("judged.cfg", &text);
        let path = path.to_str().unwrap();
        let theirs = run("haproxy", &["-c", "-f", path]);
        let said = crate::support::text(&theirs.stderr);
        assert_eq!(theirs.status.success(), *runs, "HAProxy: {lines}\n{said}");
        let ours = run(BINARY, &["check", "-c", path]);
        let said = crate::support::text(&ours.stderr);
        assert_eq!(ours.status.code(), Some(if *runs { 0 } else { 78 }), "{lines}\n{said}");
    }
}
