//! The same seeded connections through the relay in each of its modes and through HAProxy: each
//! connection must come to the same class of end everywhere, but for what is known of HAProxy.

#![allow(clippy::cast_possible_truncation, reason = "a program of its own, of small numbers")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "threads that block, on a clock, with locks: plain is what a witness should be"
)]
#![allow(unreachable_pub, missing_debug_implementations, reason = "a program, not a library")]
#![allow(dead_code, reason = "the chaos program's parts, not all of which are needed here")]

#[path = "../chaos/end.rs"]
mod end;
#[path = "../chaos/plan.rs"]
mod plan;
mod relay;
#[path = "../chaos/servers.rs"]
mod servers;
#[path = "../chaos/stream.rs"]
mod stream;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use clap::Parser;

use end::{Report, Seen};
use plan::Plan;
use relay::{MODES, Relay};
use servers::{Desk, Expected, header, key};
use stream::Dice;

/// The same connections through each mode of fanin and through HAProxy
#[derive(Debug, Parser)]
struct Arguments {
    /// The relay's binary
    #[arg(long)]
    fanin: PathBuf,
    /// Connections through each
    #[arg(long, default_value_t = 600)]
    connections: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Connections under way at one time.
const TOGETHER: u64 = 16;
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer plans run into timers, which are not compared.
const LASTS_MAX: Duration = Duration::from_secs(2);

/// What the end that did not break anything was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Everything and a clean end, on both sides.
    Complete,
    /// The survivor had an error, or everything and a clean end before it.
    Told,
    /// A clean end on a cut stream: the survivor cannot know.
    CutCleanly,
    /// A byte that was not sent there.
    WrongByte,
    /// Anything else: an error that nobody made, silence.
    Failed,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    println!("seed {}, {} connections each", arguments.seed, arguments.connections);
    match compare(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("differential: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> io::Result<bool> {
    let desk = Arc::new(Desk::default());
    let server = servers::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()?;
    let serving = Arc::clone(&desk);
    thread::spawn(move || servers::run(&serving, server, None));
    let mut results = Vec::new();
    for mode in MODES {
        let relay = Relay::start(&arguments.fanin, mode, server)?;
        results.push(run(arguments, &desk, relay.address)?);
        println!("{mode}: done");
    }
    Ok(judge(arguments, &results))
}

/// The class of each connection through one relay.
fn run(arguments: &Arguments, desk: &Desk, relay: SocketAddr) -> io::Result<Vec<Class>> {
    let classes = Mutex::new(vec![Class::Failed; arguments.connections as usize]);
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, SeqCst);
                    if number >= arguments.connections {
                        return;
                    }
                    let class = play(desk, relay, &plan_of(arguments, number));
                    classes.lock().expect("no holder panics")[number as usize] = class;
                }
            });
        }
    });
    let mut strange = desk.strange.lock().expect("no holder panics");
    match strange.pop() {
        Some(what) => Err(io::Error::other(what)),
        None => Ok(classes.into_inner().expect("no holder panics")),
    }
}

fn plan_of(arguments: &Arguments, number: u64) -> Plan {
    Plan::draw(&mut Dice::new(arguments.seed, number), LASTS_MAX)
}

fn play(desk: &Desk, relay: SocketAddr, plan: &Plan) -> Class {
    let Ok(stream) = TcpStream::connect_timeout(&relay, PATIENCE) else { return Class::Failed };
    let (sender, reports) = channel();
    let id = desk.expect(Expected { part: plan.server.clone(), report: sender });
    let client = end::play(stream, &plan.client, &header(id), [key(id, true), key(id, false)]);
    if desk.take(id).is_some() {
        // Broken off before any server saw it.
        return if client.seen == Seen::BrokeOff { Class::Told } else { Class::Failed };
    }
    let Ok(server) = reports.recv_timeout(PATIENCE) else { return Class::Failed };
    class(plan, &client, &server)
}

fn class(plan: &Plan, client: &Report, server: &Report) -> Class {
    if client.wrong_at.is_some() || server.wrong_at.is_some() {
        return Class::WrongByte;
    }
    let survivor = match (plan.client.breaks(), plan.server.breaks()) {
        (false, false) => {
            let whole =
                |report: &Report, bytes| report.seen == Seen::Fin && report.received == bytes;
            let complete = whole(client, plan.server.bytes) && whole(server, plan.client.bytes);
            return if complete { Class::Complete } else { Class::Failed };
        }
        (true, _) => (server, client),
        (_, true) => (client, server),
    };
    let (told, breaker) = survivor;
    match told.seen {
        Seen::Error(_) => Class::Told,
        // Its close(2) was a FIN, after everything that it had sent.
        Seen::Fin if breaker.ended == end::Ended::Close && told.received >= breaker.sent => {
            Class::Told
        }
        Seen::Fin => Class::CutCleanly,
        Seen::BrokeOff | Seen::Nothing => Class::Failed,
    }
}

/// What HAProxy is known to do otherwise: by plan, what a connection comes to there.
const KNOWN_OF_HAPROXY: &[(&str, Class, &str)] = &[
    ("server resets", Class::CutCleanly, "turns a server's reset into a clean end for the client"),
    (
        "client resets",
        Class::CutCleanly,
        "does the same the other way, when it has bytes to pass on",
    ),
    ("server closes early", Class::CutCleanly, "the same, when a close with unread bytes resets"),
    ("urgent bytes of a client", Class::WrongByte, "takes urgent bytes out of the stream"),
    ("urgent bytes of a server", Class::WrongByte, "takes urgent bytes out of the stream"),
    ("urgent bytes of a client", Class::Failed, "the same, when it was the last byte"),
    ("urgent bytes of a server", Class::Failed, "the same, when it was the last byte"),
];

fn judge(arguments: &Arguments, results: &[Vec<Class>]) -> bool {
    let mut table: BTreeMap<(&str, Class), [u64; MODES.len()]> = BTreeMap::new();
    let mut good = true;
    let mut known = [0; KNOWN_OF_HAPROXY.len()];
    for number in 0..arguments.connections {
        let name = plan_of(arguments, number).name;
        for (place, mode) in MODES.iter().enumerate() {
            let class = results[place][number as usize];
            table.entry((name, class)).or_default()[place] += 1;
            if class == results[0][number as usize] && class <= Class::Told {
                continue;
            }
            let like = |(plan, other, _): &(&str, Class, &str)| *plan == name && *other == class;
            match KNOWN_OF_HAPROXY.iter().position(like) {
                Some(line) if *mode == "haproxy" => known[line] += 1,
                _ => {
                    good = false;
                    println!("DIFFERENCE connection {number}, {name}: {class:?} through {mode}");
                }
            }
        }
    }
    println!("\n{:28} {:12} {}", "plan", "class", MODES.map(|mode| format!("{mode:>14}")).join(""));
    for ((name, class), counts) in table {
        let counts = counts.map(|count| format!("{count:>14}")).join("");
        println!("{name:28} {:12} {counts}", format!("{class:?}"));
    }
    println!();
    for ((plan, _, what), count) in KNOWN_OF_HAPROXY.iter().zip(known) {
        println!("known of HAProxy, {count:4} times: {plan}: {what}");
    }
    if known[0] == 0 {
        println!("HAProxy passes a server's reset on now: take it off the list of what is known");
        good = false;
    }
    println!("{}", if good { "no other difference" } else { "DIFFERENT" });
    good
}
