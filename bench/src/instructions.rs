//! How many instructions a relay does, in user mode, for one exchange and for one connection.
//!
//! The ends are played here, one step at a time: a byte comes only when the relay's thread sleeps, so
//! that it meets the same events in the same order each time, whatever else the machine does.
//! What differs still (a timer that fires, a table that grows) is one exchange in many, and the
//! median leaves it out.

use std::collections::BTreeMap;
use std::fs::{read_dir, read_to_string};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::account::children;
use crate::cli;
use crate::clock::float;
use crate::error::Error;
use crate::process::Process;
use crate::run::installed;
use crate::stage::{Scratch, Stage};
use crate::stepper::Stepper;
use crate::subject::{self, Place, Role, Subject};

/// What is sent and answered.
const REQUEST: [u8; 200] = [b'q'; 200];
const ANSWER: [u8; 200] = [b'a'; 200];
/// Before anything is counted: memory is touched, tables have grown, symbols are bound.
const WARM_UP: usize = 50;
/// Of how many the median is taken.
const COUNTED: usize = 9;
/// How long an end waits for what the relay must have sent.
const PATIENCE: Duration = Duration::from_secs(5);
/// A count may differ by so much from the one that is kept: another processor takes other paths
/// through the C library.
const TOLERANCE_PERCENT: u64 = 3;

/// Instructions in user mode, medians.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Counts {
    /// Over a connection that is kept: 200 bytes up, 200 down.
    exchange: u64,
    /// A connection made, with one such exchange, ended by the client.
    connection: u64,
}

/// What is kept, to be held against.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Who made the binary: another compiler makes other instructions.
    compiler: String,
    counts: BTreeMap<String, Counts>,
}

/// Counts, prints, and compares if that is asked for; true when nothing grew.
///
/// # Errors
/// When a relay cannot be counted, or what is kept cannot be read or written.
pub(crate) fn run(arguments: &cli::Instructions) -> Result<bool, Error> {
    let mut stage = Stage::new(None, Vec::new())?;
    stage.join_relay()?;
    let fanin = subject::fanin(arguments.fanin.as_deref())?;
    let subjects = subject::chosen(subject::all(&fanin, None), &arguments.only)?;
    let (subjects, _) = installed(subjects);
    let mut counts = BTreeMap::new();
    println!("instructions in user mode      one exchange    one connection with one exchange");
    for subject in subjects.iter().filter(|subject| subject.role != Role::Direct) {
        let counted =
            count(subject, &mut stage).map_err(Error::at(format!("counting {}", subject.name)))?;
        println!("  {:<24} {:>16} {:>19}", subject.name, counted.exchange, counted.connection);
        counts.insert(subject.name.clone(), counted);
    }
    let path = &arguments.kept;
    if arguments.keep {
        counts.retain(|name, _| name.starts_with("fanin"));
        let kept = Kept { compiler: compiler()?, counts };
        let text = toml::to_string(&kept).map_err(Error::at("counts"))?;
        std::fs::write(path, format!("# Written by `bench instructions --keep`.\n{text}"))
            .map_err(Error::at(format!("{}", path.display())))?;
        return Ok(true);
    }
    if arguments.check { check(path, &counts) } else { Ok(true) }
}

/// Says what has grown, and what has shrunk so far that the file should be told.
fn check(path: &Path, counts: &BTreeMap<String, Counts>) -> Result<bool, Error> {
    let remedy = format!("{} (written by `bench instructions --keep`)", path.display());
    let text = read_to_string(path).map_err(Error::at(remedy.clone()))?;
    let kept: Kept = toml::from_str(&text).map_err(Error::at(remedy))?;
    let differences = differences(&kept.counts, counts);
    for (difference, _) in &differences {
        println!("{difference}");
    }
    let compiler = compiler()?;
    if !differences.is_empty() && kept.compiler != compiler {
        println!("what is kept was made by {}, this by {compiler}", kept.compiler);
    }
    let grew = differences.iter().any(|(_, grew)| *grew);
    if grew {
        println!(
            "find what costs more; where it is worth that, `bench instructions --keep` writes {} anew",
            path.display()
        );
    }
    Ok(!grew)
}

/// In words, and whether it grew, for each count beyond the tolerance.
fn differences(
    kept: &BTreeMap<String, Counts>,
    counts: &BTreeMap<String, Counts>,
) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for (name, now) in counts {
        let Some(then) = kept.get(name) else { continue };
        let pairs = [
            ("exchange", then.exchange, now.exchange),
            ("connection", then.connection, now.connection),
        ];
        for (what, then, now) in pairs {
            let grew = now * 100 > then * (100 + TOLERANCE_PERCENT);
            if grew || now * 100 < then * (100 - TOLERANCE_PERCENT) {
                let percent = (float(now) / float(then.max(1)) - 1.0) * 100.0;
                let text = format!(
                    "{name}: one {what} takes {now} instructions, kept are {then} ({percent:+.1} %; \
                     {TOLERANCE_PERCENT} % are allowed)"
                );
                found.push((text, grew));
            }
        }
    }
    found
}

fn count(subject: &Subject, stage: &mut Stage) -> Result<Counts, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(Error::at("the server"))?;
    let servers = [listener.local_addr().map_err(Error::at("the server"))?];
    let listens = stage.free_addresses(1)?;
    let scratch = Scratch::new()?;
    let place = Place {
        listens: &listens,
        servers: &servers,
        directory: &scratch.0,
        buffer_bytes: 16 * 1024,
    };
    let relay = stage.start_relay(subject, &place)?;
    let mut ends = Ends { listener, relay: listens[0], stepper: None };
    // What asked whether the relay listens was connected through to the server.
    ends.accept()?;
    for _ in 0..WARM_UP {
        ends.connection()?;
    }
    let mut pair = ends.connect()?.0;
    for _ in 0..WARM_UP {
        ends.exchange(&mut pair)?;
    }
    ends.stepper = Some(Stepper::attach(data_thread(&relay)?)?);
    ends.settle()?;
    let mut median = |one: &mut dyn FnMut(&mut Ends) -> Result<u64, Error>| {
        let mut counts =
            (0..COUNTED).map(|_| one(&mut ends)).collect::<Result<Vec<u64>, Error>>()?;
        counts.sort_unstable();
        Ok::<_, Error>(counts[COUNTED / 2])
    };
    let exchange = median(&mut |ends| ends.exchange(&mut pair))?;
    let connection = median(&mut Ends::connection)?;
    Ok(Counts { exchange, connection })
}

/// The thread that moves bytes: fanin's worker, in a child of the process that was started; of the
/// others the last process's only one.
fn data_thread(relay: &Process) -> Result<i32, Error> {
    let mut pid = relay.pid();
    while let Some(child) = children(pid).last() {
        pid = *child;
    }
    let threads =
        read_dir(format!("/proc/{pid}/task")).map_err(Error::at("the relay's threads"))?;
    let threads: Vec<(i32, String)> = threads
        .filter_map(|entry| {
            let thread = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((thread, read_to_string(format!("/proc/{pid}/task/{thread}/comm")).ok()?))
        })
        .collect();
    let worker = threads.iter().find(|(_, name)| name.starts_with("worker"));
    worker
        .or_else(|| threads.iter().min())
        .map(|(thread, _)| *thread)
        .ok_or_else(|| Error(format!("process {pid} has no thread")))
}

/// Client and server.
struct Ends {
    listener: TcpListener,
    relay: SocketAddr,
    /// None in the warm-up, when the relay runs as it likes.
    stepper: Option<Stepper>,
}

/// A session as the ends see it: the client's connection and the server's.
type Pair = [TcpStream; 2];

impl Ends {
    /// The relay does what there is to do; how many instructions that took.
    fn settle(&mut self) -> Result<u64, Error> {
        self.stepper.as_mut().map_or(Ok(0), Stepper::run_until_it_sleeps)
    }

    fn accept(&self) -> Result<TcpStream, Error> {
        let (server, _) = self.listener.accept().map_err(Error::at("the server's end"))?;
        prepare(server)
    }

    fn connect(&mut self) -> Result<(Pair, u64), Error> {
        let client = TcpStream::connect(self.relay).map_err(Error::at("the client's end"))?;
        let client = prepare(client)?;
        // The kernel takes the connection for us, so that the relay hears that it is made.
        let count = self.settle()?;
        Ok(([client, self.accept()?], count))
    }

    fn exchange(&mut self, [client, server]: &mut Pair) -> Result<u64, Error> {
        client.write_all(&REQUEST).map_err(Error::at("the client's end"))?;
        let up = self.settle()?;
        server.read_exact(&mut [0; REQUEST.len()]).map_err(Error::at("the server's end"))?;
        server.write_all(&ANSWER).map_err(Error::at("the server's end"))?;
        let down = self.settle()?;
        client.read_exact(&mut [0; ANSWER.len()]).map_err(Error::at("the client's end"))?;
        Ok(up + down)
    }

    fn connection(&mut self) -> Result<u64, Error> {
        let (mut pair, connecting) = self.connect()?;
        let exchanging = self.exchange(&mut pair)?;
        let [client, mut server] = pair;
        drop(client);
        let ending = self.settle()?;
        let bytes = server.read(&mut [0; 1]).map_err(Error::at("the server's end"))?;
        if bytes != 0 {
            return Err(Error("the server's end: bytes that nobody sent".to_owned()));
        }
        drop(server);
        Ok(connecting + exchanging + ending + self.settle()?)
    }
}

fn prepare(stream: TcpStream) -> Result<TcpStream, Error> {
    stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
        .map_err(Error::at("an end"))?;
    Ok(stream)
}

/// The compiler that is called for here, in its own words.
fn compiler() -> Result<String, Error> {
    let output = Command::new("rustc").arg("--version").output().map_err(Error::at("rustc"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_is_named_and_what_shrank_does_not_fail() {
        let of = |exchange, connection| {
            BTreeMap::from([("fanin-epoll-auto".to_owned(), Counts { exchange, connection })])
        };
        assert!(differences(&of(1000, 9000), &of(1030, 8730)).is_empty());
        let found = differences(&of(1000, 9000), &of(1031, 8000));
        assert_eq!(found.iter().map(|(_, grew)| *grew).collect::<Vec<_>>(), [true, false]);
        assert!(found[0].0.contains("one exchange takes 1031 instructions, kept are 1000"));
        assert!(differences(&BTreeMap::new(), &of(1, 1)).is_empty(), "a new subject is none");
    }
}
