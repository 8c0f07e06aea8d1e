//! What goes on around the relay: io_uring is barred, the clock runs on while it stands still, nobody
//! reads its log, many ask it many things.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::relay::{BINARY, Relay};
use crate::support::witness::{Load, Witness};
use crate::support::{Folder, PATIENCE, await_passed, await_that, peers, text};

const ENGINES: [&str; 2] = ["epoll", "io_uring"];

/// `fanin run` under strace, which makes each call of a name fail from the first on.
fn barred(call: &str, errno: &str) -> Command {
    let mut command = Command::new("strace");
    let inject = format!("inject={call}:error={errno}");
    // -D: the relay keeps the number that we know it by, and strace ends with it.
    command.args(["-D", "-f", "-q", "--seccomp-bpf", "-o", "/dev/null"]);
    command.args(["-e", &format!("trace={call}"), "-e", &inject, BINARY, "run"]);
    command
}

#[test]
fn where_io_uring_is_barred_epoll_serves_and_the_reason_is_said() {
    let server = peers::name("here");
    let address = server.address.to_string();
    for (call, errno, says) in [
        ("io_uring_setup", "EPERM", "io_uring_setup is not permitted"),
        ("io_uring_setup", "EACCES", "io_uring_setup is not permitted"),
        ("io_uring_setup", "ENOSYS", "no io_uring"),
        ("io_uring_setup", "EINVAL", "lacks"),
        ("io_uring_setup", "ENOMEM", "LimitMEMLOCK="),
        ("io_uring_register", "EINVAL", "Linux 6.1"),
        ("io_uring_register", "EPERM", "io_uring"),
        ("io_uring_enter", "EPERM", "trial"),
    ] {
        let mut command = barred(call, errno);
        command.args(["--listen", "127.0.0.1:0", "--server", &address]);
        let mut relay = Relay::start_by(command);
        assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"here");
        let status = relay.status();
        let why = status["workers"][0]["engine_why"].as_str().unwrap_or_default().to_owned();
        assert_eq!(status["workers"][0]["engine"], "epoll", "{call} {errno}");
        assert!(why.contains(says), "{call} {errno}: {why}");
        assert!(relay.log().contains(&why), "{}", relay.log());
    }
}

#[test]
fn io_uring_that_was_asked_for_and_is_barred_is_refused_with_the_remedy() {
    for (errno, remedy) in [
        ("EPERM", "seccomp"),
        ("ENOSYS", "6.1 or newer"),
        ("EINVAL", "6.1 or newer"),
        ("ENOMEM", "ulimit -l"),
        ("EMFILE", "engine \"auto\" or \"epoll\""),
    ] {
        let mut command = barred("io_uring_setup", errno);
        command.args(["--listen", "127.0.0.1:0", "--server", "127.0.0.1:9"]);
        let output = command.args(["--engine", "io_uring"]).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(71), "{errno}: {said}");
        assert!(said.contains("io_uring") && said.contains(remedy), "{errno}: {said}");
    }
}

#[test]
fn an_ordinary_user_may_run_either_engine() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: to become another user takes root");
        return;
    }
    let witness = Witness::new(1);
    let server = witness.addresses()[0].to_string();
    // A ring counts as locked memory; without any there is still epoll.
    for (engine, memlock, runs) in
        [("epoll", 0, "epoll"), ("io_uring", 8 << 20, "io_uring"), ("auto", 0, "epoll")]
    {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "prlimit"]);
        command.args([&format!("--memlock={memlock}:{memlock}"), BINARY, "run"]);
        command.args(["--engine", engine, "--listen", "127.0.0.1:0", "--server", &server]);
        let relay = Relay::start_by(command);
        let before = relay.descriptors();
        let tally = witness.run(relay.address(), 50, Load { up: 200_000, down: 300_000 });
        assert_eq!((tally.whole, tally.cut), (50, 0), "{engine}");
        assert_eq!(relay.status()["workers"][0]["engine"], runs);
        relay.await_rest(before);
    }
}

/// Sessions of this relay may be idle for four seconds, and no longer.
fn impatient(engine: &str, server: SocketAddr) -> Relay {
    let folder = Folder::new(&format!("impatient-{engine}"));
    let text = format!(
        "[global]\nworkers = 1\nengine = \"{engine}\"\n\
         [[listener]]\nbind = [\"127.0.0.1:0\"]\nclient_idle = \"4s\"\n\
         [backend.b]\nserver_idle = \"4s\"\n[[backend.b.server]]\naddress = \"{server}\"\n"
    );
    Relay::start(&["-c", folder.write("f.toml", &text).to_str().unwrap()])
}

fn stands_still_for_five_seconds(engine: &str) {
    let echo = peers::echo();
    let relay = impatient(engine, echo.address);
    let before = relay.descriptors();
    let mut clients: Vec<_> = (0..500).map(|_| peers::connect(relay.address())).collect();
    for client in &mut clients {
        client.write_all(b"one").unwrap();
    }
    for client in &mut clients {
        client.read_exact(&mut [0; 3]).unwrap();
    }
    relay.signal("STOP");
    let stopped = Instant::now();
    // All but the first fifty have something to say meanwhile.
    for client in &mut clients[50..] {
        client.write_all(b"two").unwrap();
    }
    await_passed(stopped, Duration::from_secs(5));
    relay.signal("CONT");
    for (number, client) in clients[50..].iter_mut().enumerate() {
        let answer = client.read_exact(&mut [0; 3]);
        assert!(answer.is_ok(), "{engine}: client {number} of 450: {answer:?}");
    }
    // The others were idle for five seconds of the monotonic clock, as documented.
    await_that("the idle ones are ended", || {
        let idle = ["ended.client_idle", "ended.server_idle"];
        idle.map(|name| relay.total(name)).iter().sum::<u64>() >= 50
    });
    drop(clients);
    relay.await_rest(before);
}

#[test]
fn what_came_while_it_stood_still_counts_before_any_deadline() {
    std::thread::scope(|scope| {
        for engine in ENGINES {
            scope.spawn(move || stands_still_for_five_seconds(engine));
        }
    });
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_session_and_what_is_lost_is_counted() {
    let witness = Witness::new(1);
    let address = peers::nobody();
    let folder = Folder::new("unread");
    // Long names make long lines: the queue of the log is full sooner.
    let (listener, server) = ("l".repeat(250), "s".repeat(250));
    let file = format!(
        "[[listener]]\nname = \"{listener}\"\nbind = [\"{address}\"]\n\
         [[backend.b.server]]\nname = \"{server}\"\naddress = \"{}\"\n",
        witness.addresses()[0]
    );
    let path = folder.write("f.toml", &file);
    let mut command = Command::new(BINARY);
    command.arg("run").arg("-c").arg(path);
    let mut relay = Relay::start_unread(command);
    let before = relay.descriptors();
    let dropped = |relay: &Relay| relay.status()["log_lines_dropped"].as_u64().unwrap();
    let mut sessions = 0;
    await_that("lines are dropped", || {
        let tally = witness.run(address, 100, Load { up: 100, down: 100 });
        assert_eq!(tally.cut, 0);
        sessions += tally.whole as u64;
        dropped(&relay) > 0
    });
    assert_eq!(witness.run(address, 100, Load { up: 100_000, down: 100_000 }).cut, 0);
    relay.await_rest(before);
    assert_eq!(relay.total("ended.completed"), sessions + 100);
    let said = text(&relay.ask("status").stdout);
    assert!(said.contains("log lines dropped"), "{said}");
    relay.read_the_log();
    relay.await_line("log lines were dropped");
}

#[test]
fn clients_of_the_control_socket_do_not_reach_the_data_path() {
    for engine in ENGINES {
        let witness = Witness::new(1);
        let relay = Relay::between(&witness.addresses(), &["--engine", engine]);
        let before = relay.descriptors();
        let ask = |command: &[u8]| {
            let mut client = UnixStream::connect(relay.control()).unwrap();
            // Whoever is sent away may be so while it still speaks.
            let _ = client.write_all(command);
            client
        };
        let over = AtomicBool::new(false);
        let mut asked = 0;
        std::thread::scope(|scope| {
            let half_open: Vec<_> = (0..60).map(|_| ask(b"stat")).collect();
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(SeqCst) {
                        let mut answer = String::new();
                        let _ = ask(b"status json\n").read_to_string(&mut answer);
                    }
                });
            }
            for _ in 0..10 {
                let tally = witness.run(relay.address(), 40, Load { up: 50_000, down: 50_000 });
                assert_eq!((tally.whole, tally.cut), (40, 0));
                asked += 1;
            }
            over.store(true, SeqCst);
            drop(half_open);
        });
        assert_eq!(asked, 10);
        await_that("who asks properly is answered", || relay.ask("status").status.success());
        relay.await_rest(before);
    }
}

#[test]
fn a_name_server_that_does_not_answer_holds_up_no_session() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a name server of one's own takes root");
        return;
    }
    let mute = UdpSocket::bind("127.77.7.7:53").unwrap();
    mute.set_read_timeout(Some(PATIENCE)).unwrap();
    let witness = Witness::new(1);
    let folder = Folder::new("names");
    let resolver = "nameserver 127.77.7.7\noptions timeout:1 attempts:2\n";
    let resolver = folder.write("resolv.conf", resolver);
    let file = |server: &str| {
        format!(
            "[[listener]]\nbind = [\"127.0.0.1:0\"]\n\
             [[backend.b.server]]\naddress = \"{server}\"\n"
        )
    };
    let path = folder.write("f.toml", &file(&witness.addresses()[0].to_string()));
    let mut command = Command::new("unshare");
    let inside = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    command.args(["--mount", "sh", "-c", inside]).arg(resolver);
    command.args([BINARY, "run", "-c"]).arg(path);
    let mut relay = Relay::start_by(command);
    let before = relay.descriptors();
    folder.write("f.toml", &file("never.example:443"));
    relay.signal("HUP");
    // It has asked, and waits.
    mute.recv(&mut [0; 512]).unwrap();
    for _ in 0..5 {
        let tally = witness.run(relay.address(), 40, Load { up: 50_000, down: 50_000 });
        assert_eq!((tally.whole, tally.cut), (40, 0));
        assert!(!relay.log().contains("reloaded"), "the look-up is over already");
    }
    relay.await_rest(before);
    // Then it goes on without: the name is asked for until it is answered for.
    relay.await_line("reloaded");
    let status = text(&relay.ask("status").stdout);
    assert!(status.contains("never.example") && status.contains("no address yet"), "{status}");
}
