//! What collectors of HAProxy's log read goes on: the same lines to the same syslog server.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;

use crate::haproxy::Haproxy;
use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, PATIENCE, await_that, peers, run, text};

/// A syslog server.
fn collector() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The next line about a session.
fn session_line(socket: &UdpSocket) -> String {
    let mut buffer = [0; 2048];
    loop {
        let length = socket.recv(&mut buffer).unwrap();
        let line = String::from_utf8(buffer[..length].to_vec()).unwrap();
        if line.contains("/s1") || line.contains("<NOSRV>") {
            return line.trim_end().to_owned();
        }
    }
}

fn file(
    folder: &Folder,
    name: &str,
    at: SocketAddr,
    log: SocketAddr,
    server: SocketAddr,
) -> String {
    let text = format!(
        "global\n    log {log} local1\ndefaults\n    mode tcp\n    log global\n    option tcplog\n    \
         retries 1\n    timeout connect 2s\n    timeout client 20s\n    timeout server 20s\n\
         listen agents\n    bind {at}\n    server s1 {server}\n"
    );
    folder.write(&format!("{name}.cfg"), &text).to_str().unwrap().to_owned()
}

/// The parts of a line that do not depend on the moment: what stands before the time, frontend, server,
/// bytes, code, counts and queues.
fn lasting(line: &str) -> Vec<String> {
    let (head, rest) = line.split_once("]: ").unwrap_or_else(|| panic!("no tag: {line}"));
    let priority = head.split_once('>').unwrap().0.to_owned();
    let tag = head.rsplit(' ').next().unwrap().split('[').next().unwrap().to_owned();
    let fields: Vec<_> = rest.split(' ').collect();
    assert_eq!(fields.len(), 9, "{line}");
    let client = fields[0].rsplit_once(':').unwrap().0.to_owned();
    let time_is_whole = fields[1].len() == "[26/Nov/2026:23:00:00.000]".len();
    assert!(time_is_whole, "{line}");
    let timers = fields[4].split('/').count().to_string();
    let lasting = [2, 3, 5, 6, 7, 8].map(|at| fields[at].to_owned());
    [&[priority, tag, client, timers][..], &lasting].concat()
}

#[test]
fn sessions_have_the_line_that_haproxy_gives_them() {
    let server = peers::http();
    for engine in ["epoll", "io_uring"] {
        for (name, server) in [("served", server.address), ("refused", peers::nobody())] {
            let folder = Folder::new(&format!("tcplog-{name}-{engine}"));
            let (theirs, ours) = (collector(), collector());
            let (at, beside) = (peers::nobody(), peers::nobody());
            let log = |socket: &UdpSocket| socket.local_addr().unwrap();
            let _haproxy = Haproxy::start(&file(&folder, "theirs", beside, log(&theirs), server));
            let file = file(&folder, "ours", at, log(&ours), server);
            let relay = Relay::start(&["-c", &file, "--engine", engine]);
            await_that("HAProxy listens", || std::net::TcpStream::connect(beside).is_ok());
            // The look at it is a session of its own.
            session_line(&theirs);
            for address in [beside, relay.address()] {
                let path = format!("http://{address}/bytes/1000");
                run("curl", &["-sS", "--max-time", "20", "-o", "/dev/null", &path]);
            }
            let (said, says) = (session_line(&theirs), session_line(&ours));
            assert_eq!(lasting(&says), lasting(&said), "{name}\n{said}\n{says}");
        }
    }
}

#[test]
fn a_socket_of_this_host_gets_lines_too_and_standard_error_those_of_no_session() {
    let folder = Folder::new("syslog-socket");
    let path = folder.path("log");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = peers::http();
    let text = format!(
        "[log]\nsyslog = \"{}\"\nfacility = \"daemon\"\ntag = \"relay\"\n\
         [[listener]]\nbind = [\"127.0.0.1:0\"]\n[[backend.b.server]]\naddress = \"{}\"\n",
        path.display(),
        server.address
    );
    let mut relay = Relay::start(&["-c", folder.write("f.toml", &text).to_str().unwrap()]);
    run("curl", &["-sS", "--max-time", "20", &format!("http://{}/", relay.address())]);
    let mut buffer = [0; 2048];
    let line = loop {
        let length = socket.recv(&mut buffer).unwrap();
        let line = String::from_utf8(buffer[..length].to_vec()).unwrap();
        if line.contains("session listener=") {
            break line;
        }
    };
    // daemon.info is 3 * 8 + 6.
    assert!(line.starts_with("<30>") && line.contains(" relay["), "{line}");
    assert!(line.contains("]: session listener=") && line.contains("reason=completed"), "{line}");
    assert!(relay.log().contains("listening on") && !relay.log().contains("reason=completed"));
}

/// As logrotate does it, with and without the signal of its scripts.
#[test]
fn a_log_file_that_is_moved_away_is_made_anew_and_syslog_gets_the_newer_form_beside_it() {
    let (folder, server, collector) = (Folder::new("logfile"), peers::http(), collector());
    let path = folder.path("sessions.log");
    let text = format!(
        "[log]\nfile = \"{}\"\nsyslog = \"{}\"\nsyslog_format = \"rfc5424\"\n\
         [[listener]]\nbind = [\"127.0.0.1:0\"]\n[[backend.b.server]]\naddress = \"{}\"\n",
        path.display(),
        collector.local_addr().unwrap(),
        server.address
    );
    let mut relay = Relay::start(&["-c", folder.write("f.toml", &text).to_str().unwrap()]);
    let sessions = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.matches("reason=completed").count()
    };
    for round in 1..=3 {
        let moved = folder.path(&format!("sessions.log.{round}"));
        run("curl", &["-sS", "--max-time", "20", &format!("http://{}/", relay.address())]);
        await_that("the session is told of", || sessions(&path) == 1);
        std::fs::rename(&path, &moved).unwrap();
        relay.signal("USR1");
    }
    assert!(relay.is_running() && !relay.log().contains("reason=completed"));
    let mut buffer = [0; 2048];
    let length = collector.recv(&mut buffer).unwrap();
    let line = String::from_utf8_lossy(&buffer[..length]);
    // local0.info, version 1, a time of the day in UTC.
    let (head, rest) = line.split_once(' ').unwrap();
    let time = rest.split(' ').next().unwrap();
    assert!(head == "<134>1" && time.ends_with('Z') && rest.contains(" - - "), "{line}");
    let nowhere = text.replace("sessions.log", "nowhere/sessions.log");
    let nowhere = folder.write("g.toml", &nowhere);
    let output = run(BINARY, &["run", "-c", nowhere.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("nowhere/sessions.log"), "{said}");
}

#[test]
fn the_place_of_a_syslog_server_is_checked() {
    let folder = Folder::new("syslog-wrong");
    let file = "[log]\nsyslog = \"logs.example.com\"\n[[listener]]\nbind = [\":3834\"]\n\
                [[backend.b.server]]\naddress = \"192.0.2.1:443\"\n";
    let output = run(BINARY, &["check", "-c", folder.write("f.toml", file).to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("\"/dev/log\""), "{}", text(&output.stderr));
}

#[test]
fn alerts_that_look_for_servers_that_go_find_the_lines_of_haproxy() {
    let folder = Folder::new("logs-servers");
    let log = collector();
    let text = format!(
        "global\n log {} local1\ndefaults\n mode tcp\n timeout connect 2s\n timeout client 20s\n \
         timeout server 20s\nlisten agents\n bind {}\n server s1 {} check inter 50ms\n",
        log.local_addr().unwrap(),
        peers::nobody(),
        peers::nobody(),
    );
    let _relay = Relay::start(&["-c", folder.write("f.cfg", &text).to_str().unwrap()]);
    let next = |part: &str| {
        let mut buffer = [0; 2048];
        loop {
            let length = log.recv(&mut buffer).unwrap();
            let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if line.contains(part) {
                return line;
            }
        }
    };
    let down = next("Server agents/s1 is DOWN");
    assert!(down.contains(", reason: Layer4 connection problem, info: \""), "{down}");
    assert!(down.contains("0 active and 0 backup servers left. 0 sessions active, 0 requeued"));
    next("backend agents has no server available!");
}

/// What systemd's journal reads has priorities, and what a container's manager reads goes where it looks.
#[test]
fn lines_go_to_the_stream_that_is_read_in_the_form_that_its_reader_takes() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = Folder::new("logs-streams");
    let text = format!(
        "[log]\noutput = \"OUTPUT\"\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n\
         [[backend.b.server]]\naddress = \"{}\"\n",
        peers::nobody()
    );
    for (output, first) in [("stderr", "<6>info "), ("stdout", "20")] {
        let config = folder.write("f.toml", &text.replace("OUTPUT", output));
        let path = folder.path(output);
        let file = std::fs::File::create(&path).unwrap();
        let found = file.metadata().unwrap();
        let socket = folder.path(&format!("{output}.sock"));
        let mut command = std::process::Command::new(BINARY);
        command.args(["run", "-c", config.to_str().unwrap()]);
        command.args(["--control", socket.to_str().unwrap()]);
        command.env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino()));
        match output {
            "stdout" => command.stdout(file).stderr(std::process::Stdio::null()),
            _ => command.stderr(file).stdout(std::process::Stdio::null()),
        };
        let mut child = command.spawn().unwrap();
        await_that("it says where it listens", || {
            let said = std::fs::read_to_string(&path).unwrap_or_default();
            said.lines().any(|line| line.starts_with(first) && line.contains("listening on"))
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
