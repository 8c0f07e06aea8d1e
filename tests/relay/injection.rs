//! Every system call that a worker makes, with every error that its manual page and the kernel
//! give for it, injected by strace into a relay that carries sessions under an oracle.
//!
//! Method: a row of a table names a call, its errors, how often they strike and what they may cost.
//! For each cell (call x error) strace attaches to the one worker, sessions run, strace detaches
//! and says how often it struck. Then must hold: it struck; at most as many sessions were cut as
//! it struck, none where the row says so, and at least one was not; every stream was whole or an
//! exact prefix with an error after it; nothing of a session is left; the relay serves on.
//!
//! Not here: `close` (a failed close(2) has closed), and EAGAIN where it would be a lie: the kernel
//! says it only when a later event will say that it is over.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::hosts::Hosts;
use crate::support::peers;
use crate::support::relay::Relay;
use crate::support::strace::Strace;
use crate::support::witness::{self, Load, Witness};
use crate::support::{Folder, await_passed};

const LOAD: Load = Load { up: 30_000, down: 40_000 };
const SESSIONS: usize = 10;

/// What an error may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Price {
    /// Nobody a session, and no server its good name.
    Nothing,
    /// Nobody a session; it may look like a server's failure.
    ServersName,
    /// One session each time.
    Session,
}
use Price::{Nothing, ServersName, Session};

/// A call, how often it fails (`FIRST+STEP`, or `FIRST..LAST+STEP` for the call that a worker waits
/// in: it must come to rest before strace lets go), what that may cost, and with which errors.
type Row = (&'static str, &'static str, Price, &'static [&'static str]);

/// What any engine calls, whatever it moves bytes by.
const SETTING_UP: &[Row] = &[
    ("socket", "1+4", Nothing, &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]),
    ("socket", "1+4", ServersName, &["EACCES", "EPERM", "EAFNOSUPPORT", "EPROTONOSUPPORT"]),
    ("setsockopt", "1+13", Nothing, &["ENOBUFS", "ENOMEM"]),
    ("setsockopt", "1+13", ServersName, &["EPERM", "EINVAL", "ENOPROTOOPT"]),
    ("shutdown", "1+5", Session, &["ENOTCONN", "ENOBUFS", "EINVAL"]),
];

/// accept(2) lists these; the first row is want, the second news of a connection that is gone.
const ACCEPT: &[Row] = &[
    ("accept4", "1+4", Nothing, &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]),
    (
        "accept4",
        "1+2",
        Nothing,
        &[
            "ECONNABORTED",
            "EINTR",
            "EPERM",
            "EPROTO",
            "ENETDOWN",
            "ENOPROTOOPT",
            "EHOSTDOWN",
            "ENONET",
            "EHOSTUNREACH",
            "EOPNOTSUPP",
            "ENETUNREACH",
            "ETIMEDOUT",
            "ENOSR",
            "ESOCKTNOSUPPORT",
            "EPROTONOSUPPORT",
        ],
    ),
];

const CONNECT: &[Row] = &[
    ("connect", "1+4", Nothing, &["EADDRINUSE", "EADDRNOTAVAIL", "ENOBUFS", "ENOMEM"]),
    (
        "connect",
        "1+4",
        ServersName,
        &[
            "ECONNREFUSED",
            "ETIMEDOUT",
            "EHOSTUNREACH",
            "ENETUNREACH",
            "ENETDOWN",
            "EHOSTDOWN",
            "ECONNRESET",
            "EACCES",
            "EPERM",
            "EAFNOSUPPORT",
            "EAGAIN",
            "EINTR",
            "EINVAL",
            "ENONET",
        ],
    ),
    ("getsockname", "1+4", Nothing, &["ENOBUFS", "ENOTCONN", "EINVAL"]),
];

/// Asked when a connect has failed: each cell has a relay of its own, which does not know yet that
/// one of its servers is not there.
const FAILING: &[Row] =
    &[("getsockopt", "1+2", ServersName, &["ENOBUFS", "ENOMEM", "EPERM", "EINVAL", "ENOPROTOOPT"])];

const WAITING: &[Row] = &[
    ("epoll_wait", "1..399+2", Nothing, &["EINTR"]),
    ("epoll_ctl", "1+6", Session, &["ENOSPC", "ENOMEM", "EPERM"]),
];

const COPYING: &[Row] = &[
    ("recvfrom", "3+20", Nothing, &["EINTR"]),
    (
        "recvfrom",
        "3+30",
        Session,
        &[
            "ECONNRESET",
            "ETIMEDOUT",
            "EPIPE",
            "ECONNREFUSED",
            "EHOSTUNREACH",
            "ENETUNREACH",
            "ENETDOWN",
            "EHOSTDOWN",
            "ENOMEM",
            "ENOBUFS",
            "ENOTCONN",
            "EPROTO",
            "EINVAL",
        ],
    ),
    ("sendto", "2+9", Nothing, &["EINTR"]),
    (
        "sendto",
        "3+20",
        Session,
        &[
            "ECONNRESET",
            "ETIMEDOUT",
            "EPIPE",
            "ECONNREFUSED",
            "EHOSTUNREACH",
            "ENETUNREACH",
            "ENETDOWN",
            "EHOSTDOWN",
            "ENOMEM",
            "ENOBUFS",
            "ENOTCONN",
            "EPERM",
            "EACCES",
            "EINVAL",
        ],
    ),
];

const SPLICING: &[Row] = &[
    ("splice", "2+9", Nothing, &["EINTR"]),
    (
        "splice",
        "3+30",
        Session,
        &[
            "ECONNRESET",
            "ETIMEDOUT",
            "EPIPE",
            "ECONNREFUSED",
            "EHOSTUNREACH",
            "ENETUNREACH",
            "ENETDOWN",
            "EHOSTDOWN",
            "ENOMEM",
            "ENOBUFS",
            "ENOTCONN",
            "EPERM",
            "EINVAL",
            "EIO",
        ],
    ),
];

/// Only the first flows make pipes: each cell has a relay of its own.
const PIPES: &[Row] = &[
    ("pipe2", "1+2", Nothing, &["EMFILE", "ENFILE", "ENOMEM"]),
    ("fcntl", "1+2", Nothing, &["EPERM", "EBUSY", "ENOMEM", "EINVAL"]),
];

/// Only where the source port is ours.
const BIND: &[Row] = &[
    ("bind", "1+4", Nothing, &["EADDRINUSE", "EADDRNOTAVAIL", "ENOMEM", "ENOBUFS"]),
    ("bind", "1+4", ServersName, &["EACCES", "EPERM", "EINVAL"]),
];

const RING: &[Row] = &[
    ("io_uring_enter", "1..399+2", Nothing, &["EINTR", "EAGAIN", "EBUSY"]),
    ("getsockname", "1+4", Nothing, &["ENOBUFS", "ENOTCONN", "EINVAL"]),
];

fn file(engine: &str, splice: &str, listen: &str, servers: &[SocketAddr]) -> String {
    let mut file = format!(
        "[global]\nworkers = 1\nengine = \"{engine}\"\nsplice = \"{splice}\"\n\
         [[listener]]\nbind = [\"{listen}\"]\nclient_idle = \"5s\"\n\
         [backend.b]\nconnect = \"300ms\"\nhalf_closed = \"300ms\"\nserver_idle = \"5s\"\n"
    );
    for (number, server) in servers.iter().enumerate() {
        file += &format!("[[backend.b.server]]\nname = \"s{number}\"\naddress = \"{server}\"\n");
    }
    file
}

fn start(engine: &str, splice: &str, servers: &[SocketAddr]) -> Relay {
    let folder = Folder::new(&format!("injection-{:x}", witness::key()));
    let text = file(engine, splice, "127.0.0.1:0", servers);
    Relay::start(&["-c", folder.write("f.toml", &text).to_str().unwrap()])
}

/// Runs the cells of a table; `None` where strace may not attach. Returns how many there were.
fn run(relay: &Relay, witness: &Witness, rows: &[Row]) -> Option<usize> {
    let before = relay.descriptors();
    let cells = rows.iter().flat_map(|&(call, when, price, errnos)| {
        errnos.iter().map(move |&errno| (call, when, price, errno))
    });
    let mut count = 0;
    for (call, when, price, errno) in cells {
        let blamed = relay.total("connect_failures");
        // Shown when what follows fails.
        println!("{call} {errno} {when}");
        let strace = Strace::inject(&relay.workers()[0], call, errno, when)?;
        let tally = witness.run(relay.address(), SESSIONS, LOAD);
        let struck = strace.end();
        let cell = format!("{call} {errno}: struck {struck} times, {tally:?}");
        assert!(struck > 0, "{cell}");
        let cut_max = if price == Session { struck } else { 0 };
        let ended = &relay.status()["total"]["ended"];
        assert!(tally.cut <= cut_max && tally.whole > 0, "{cell}; so far {ended}");
        if price == Nothing {
            assert_eq!(relay.total("connect_failures"), blamed, "{cell}");
        }
        let again = witness.run(relay.address(), 1, LOAD);
        assert_eq!((again.whole, again.cut), (1, 0), "{cell}, and afterwards {again:?}");
        relay.await_rest(before);
        count += 1;
    }
    Some(count)
}

/// At least so many cells, or none where strace is barred.
fn cells(engine: &str, splice: &str, tables: &[&[Row]], count_min: usize) {
    let witness = Witness::new(2);
    let relay = start(engine, splice, &witness.addresses());
    let count: Option<usize> = tables.iter().map(|rows| run(&relay, &witness, rows)).sum();
    assert!(count.is_none_or(|count| count >= count_min), "{count:?} cells");
}

/// Each with a relay of its own that splices; `absent` servers are not there.
fn fresh_cells(engine: &str, rows: &[Row], absent: usize) {
    for &(call, when, price, errnos) in rows {
        for number in 0..errnos.len() {
            let witness = Witness::new(2);
            let mut servers: Vec<_> = (0..absent).map(|_| peers::nobody()).collect();
            servers.extend(witness.addresses());
            let relay = start(engine, "always", &servers);
            let one: Row = (call, when, price, &errnos[number..=number]);
            if run(&relay, &witness, &[one]).is_none() {
                return;
            }
        }
    }
}

/// Source ports are ours only towards servers that are not on loopback.
fn bind_cells(engine: &str, hosts: &Hosts) {
    let listen = || TcpListener::bind("10.83.0.2:0").unwrap();
    let witness = Witness::on((0..2).map(|_| Hosts::on(&hosts.server, listen)));
    let folder = Folder::new(&format!("bind-{engine}"));
    let text = file(engine, "never", "127.0.0.1:0", &witness.addresses());
    let relay = hosts.start_relay(&["-c", folder.write("f.toml", &text).to_str().unwrap()]);
    Hosts::on(&hosts.relay, || run(&relay, &witness, BIND));
}

#[test]
fn no_error_of_setting_up_costs_more_than_its_session() {
    cells("epoll", "never", &[SETTING_UP, ACCEPT, WAITING], 38);
}

#[test]
fn no_error_of_connecting_costs_a_client_anything() {
    cells("epoll", "never", &[CONNECT], 21);
    fresh_cells("epoll", FAILING, 1);
}

#[test]
fn no_error_of_copying_costs_more_than_its_session() {
    cells("epoll", "never", &[COPYING], 29);
}

#[test]
fn no_error_of_splicing_costs_more_than_its_session() {
    cells("epoll", "always", &[SPLICING], 15);
}

#[test]
fn no_error_of_making_pipes_costs_anything() {
    fresh_cells("epoll", PIPES, 0);
    fresh_cells("io_uring", PIPES, 0);
}

#[test]
fn no_error_of_binding_a_source_port_costs_a_client_anything() {
    let Some(hosts) = Hosts::new("i") else { return };
    for engine in ["epoll", "io_uring"] {
        bind_cells(engine, &hosts);
    }
}

#[test]
fn no_error_around_the_ring_costs_more_than_its_session() {
    cells("io_uring", "never", &[RING, SETTING_UP, ACCEPT], 41);
    cells("io_uring", "always", &[SPLICING], 15);
}

#[test]
fn a_relay_that_can_set_nothing_on_its_sockets_still_ends_cut_streams_with_a_reset() {
    for engine in ["epoll", "io_uring"] {
        let witness = Witness::new(2);
        let relay = start(engine, "never", &witness.addresses());
        let before = relay.descriptors();
        let strace = Strace::inject(&relay.workers()[0], "setsockopt", "EPERM", "1+1");
        let Some(strace) = strace else { return };
        let tally = witness.run(relay.address(), SESSIONS, LOAD);
        assert!(strace.end() > 0);
        assert_eq!((tally.whole, tally.cut), (0, SESSIONS));
        relay.await_rest(before);
    }
}

#[test]
fn interrupted_calls_are_made_again() {
    for (engine, splice) in [("epoll", "auto"), ("epoll", "always"), ("io_uring", "always")] {
        let witness = Witness::new(1);
        let relay = start(engine, splice, &witness.addresses());
        let before = relay.descriptors();
        let calls = "epoll_wait,recvfrom,sendto,splice,accept4,io_uring_enter";
        let strace = Strace::inject(&relay.workers()[0], calls, "EINTR", "1..999+2");
        let Some(strace) = strace else { return };
        let tally = witness.run(relay.address(), 30, Load { up: 300_000, down: 500_000 });
        let struck = strace.end();
        assert!(struck > 100, "{engine} {splice}: {struck}");
        let ended = &relay.status()["total"]["ended"];
        assert_eq!((tally.whole, tally.cut), (30, 0), "{engine} {splice}: {ended}");
        relay.await_rest(before);
    }
}

#[test]
fn being_stopped_and_continued_many_times_costs_nothing() {
    for engine in ["epoll", "io_uring"] {
        let witness = Witness::new(1);
        let relay = start(engine, "auto", &witness.addresses());
        let before = relay.descriptors();
        let load = Load { up: 20_000_000, down: 30_000_000 };
        std::thread::scope(|scope| {
            let run = scope.spawn(|| witness.run(relay.address(), 10, load));
            // Waiting calls return EINTR after SIGCONT, without any handler (signal(7)).
            while !run.is_finished() {
                relay.signal("STOP");
                relay.signal("CONT");
                await_passed(Instant::now(), Duration::from_millis(1));
            }
            let tally = run.join().unwrap();
            assert_eq!((tally.whole, tally.cut), (10, 0), "{engine}");
        });
        relay.await_rest(before);
    }
}

#[test]
fn an_accept_that_always_fails_costs_hardly_any_processor_time() {
    let server = peers::echo();
    for (engine, errno) in [("epoll", "EMFILE"), ("epoll", "EPERM"), ("io_uring", "ENOSYS")] {
        let relay = Relay::between(&[server.address], &["--engine", engine, "--workers", "1"]);
        let strace = Strace::inject(&relay.workers()[0], "accept4", errno, "1+1");
        let Some(strace) = strace else { return };
        let mut client = peers::connect(relay.address());
        let begun = Instant::now();
        await_passed(begun, Duration::from_millis(600));
        let struck = strace.end();
        assert!((1..=200).contains(&struck), "{errno}: tried {struck} times in 0.6 s");
        std::io::Write::write_all(&mut client, b"ping").unwrap();
        std::io::Read::read_exact(&mut client, &mut [0; 4]).unwrap();
    }
}
