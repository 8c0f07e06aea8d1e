//! Churn with every fault mixed at random, for as long as wanted, through a relay that is watched:
//! every byte is checked at both ends, and what the relay holds of the machine must not grow.
//!
//! It shares no code with the relay. `scripts/soak` builds and runs it.

#![allow(clippy::cast_possible_truncation, reason = "a program of its own, of small numbers")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "threads that block, on a clock, with locks: plain is what a witness should be"
)]
#![allow(unreachable_pub, missing_debug_implementations, reason = "a program, not a library")]

mod end;
mod judge;
mod load;
mod plan;
mod relay;
mod report;
mod servers;
mod stalls;
mod stream;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use load::Load;
use relay::{Relay, Sample};
use report::Outcome;
use servers::Desk;
use stream::Dice;

/// Connections with every fault mixed at random through a relay, byte by byte checked
#[derive(Debug, Parser)]
struct Arguments {
    /// The relay's binary
    #[arg(long)]
    fanin: PathBuf,
    /// epoll or io_uring
    #[arg(long)]
    engine: String,
    /// How long
    #[arg(long, default_value_t = 31.0)]
    minutes: f64,
    /// Connections under way at one time
    #[arg(long, default_value_t = 64)]
    connections: u64,
    /// Connections begun a second
    #[arg(long, default_value_t = 45)]
    rate: u64,
    /// auto, always or never
    #[arg(long, default_value = "auto")]
    splice: String,
    /// Times that all is flooded first, so that the relay's pools reach their bounds; with 0 its
    /// memory is not judged
    #[arg(long, default_value_t = 3)]
    floods: u64,
    /// What the dice are made of; without it, the clock
    #[arg(long)]
    seed: Option<u64>,
    /// Folder for the results
    #[arg(long)]
    out: PathBuf,
    /// Said in the results: the commit that the relay was built from
    #[arg(long, default_value = "unknown")]
    commit: String,
}

/// How often a sample is taken under load, and how often at rest.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
const QUIET_INTERVALS: [Duration; 2] = [Duration::from_secs(25), Duration::from_secs(60)];
/// A reload's thread for looking names up stays for 10 s.
const NO_RELOAD_BEFORE_QUIET: Duration = Duration::from_secs(13);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    });
    println!("chaos: seed {seed}, engine {}, {} minutes", arguments.engine, arguments.minutes);
    match run(&arguments, seed) {
        Ok(outcome) => {
            println!("{}", outcome.text());
            if outcome.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, seed: u64) -> io::Result<Outcome> {
    fs::create_dir_all(&arguments.out)?;
    let folder = std::env::temp_dir().join(format!("fanin-chaos-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let desk = Arc::new(Desk::default());
    let servers = start_servers(&desk, seed)?;
    let engine = (arguments.engine.as_str(), arguments.splice.as_str());
    let relay = Relay::start(&arguments.fanin, &folder, engine, servers)?;
    let load = Arc::new(Load::new(Arc::clone(&desk), relay.addresses, arguments.rate, seed));
    let watch = Arc::clone(&load);
    thread::spawn(move || watch.stalls.watch());
    let mut soak = Soak {
        begun: Instant::now(),
        relay,
        load,
        samples: Vec::new(),
        outcome: Outcome::new(&arguments.engine, &arguments.commit, seed),
        dice: Dice::new(seed, u64::MAX),
    };
    if let Err(error) = soak.go(arguments) {
        soak.outcome.failures.push(error.to_string());
    }
    let outcome = soak.finish(&desk, arguments.floods > 0)?;
    outcome.write(&arguments.out)?;
    if outcome.failures.is_empty() {
        let _ = fs::remove_dir_all(&folder);
    } else {
        println!("chaos: the relay's log is in {}", folder.display());
    }
    Ok(outcome)
}

/// Outside of the range where the kernel chooses source ports for 127.0.0.1, so that nobody sits on
/// an address while its server refuses.
fn start_servers(desk: &Arc<Desk>, seed: u64) -> io::Result<[SocketAddr; 3]> {
    let free = || -> io::Result<SocketAddr> {
        servers::listen(SocketAddr::from(([127, 0, 0, 7], 0)))?.local_addr()
    };
    let addresses = [free()?, free()?, free()?];
    for (number, address) in (0..).zip(addresses) {
        let refuses = (number > 0).then(|| Dice::new(seed, 1 << 40 | number));
        let desk = Arc::clone(desk);
        thread::spawn(move || {
            if let Err(error) = servers::run(&desk, address, refuses) {
                let mut strange = desk.strange.lock().expect("no holder panics");
                strange.push(format!("the server at {address} ended: {error}"));
            }
        });
    }
    Ok(addresses)
}

struct Soak {
    begun: Instant,
    relay: Relay,
    load: Arc<Load>,
    samples: Vec<Sample>,
    outcome: Outcome,
    dice: Dice,
}

impl Soak {
    fn go(&mut self, arguments: &Arguments) -> io::Result<()> {
        for _ in 0..arguments.floods {
            self.load.flood(2 * arguments.connections);
        }
        self.begun = Instant::now();
        self.rest()?;
        let total = Duration::from_secs_f64(arguments.minutes * 60.0);
        let [quiet_min, quiet_max] = QUIET_INTERVALS;
        let quiet_interval = (total / 6).clamp(quiet_min.min(total / 2), quiet_max);
        let connections = arguments.connections;
        for slot in 0..connections {
            let load = Arc::clone(&self.load);
            let small = thread::Builder::new().stack_size(512 * 1024);
            small.spawn(move || load.run(slot, connections))?;
        }
        let mut reload_at = self.begun + Duration::from_secs(5);
        let mut sample_at = self.begun;
        while self.begun.elapsed() < total {
            let round = Instant::now() + quiet_interval;
            self.load.resume(round);
            while Instant::now() < round {
                thread::sleep(Duration::from_millis(200));
                if Instant::now() > reload_at && Instant::now() + NO_RELOAD_BEFORE_QUIET < round {
                    self.relay.reload()?;
                    self.outcome.reloads += 1;
                    reload_at = Instant::now() + Duration::from_secs(self.dice.between(5, 40));
                }
                if Instant::now() > sample_at {
                    self.sample(false)?;
                    sample_at += SAMPLE_INTERVAL;
                }
            }
            self.rest()?;
        }
        Ok(())
    }

    /// Lets every connection end, and takes a sample that counts.
    fn rest(&mut self) -> io::Result<()> {
        self.load.pause()?;
        self.relay.await_no_session()?;
        self.sample(true)
    }

    fn sample(&mut self, quiet: bool) -> io::Result<()> {
        if !self.relay.is_running() {
            return Err(io::Error::other("the relay has ended"));
        }
        let mut sample = self.relay.sample()?;
        sample.seconds = self.begun.elapsed().as_secs_f64();
        sample.quiet = quiet;
        println!(
            "{:7.1} s {} {:6} KiB {:4} descriptors {:3} pipes {} threads {:3} sessions, {} so far",
            sample.seconds,
            if quiet { "quiet" } else { "     " },
            sample.resident_kib,
            sample.descriptors,
            sample.pipes_ready,
            sample.threads,
            sample.sessions,
            sample.sessions_total
        );
        self.samples.push(sample);
        Ok(())
    }

    fn finish(mut self, desk: &Desk, warm: bool) -> io::Result<Outcome> {
        self.load.stop();
        desk.over.store(true, SeqCst);
        let status = self.relay.status();
        let end = self.relay.end();
        let outcome = &mut self.outcome;
        match status {
            Ok(status) => outcome.check_counts(status["total"].clone()),
            Err(error) => outcome.failures.push(error.to_string()),
        }
        match end {
            Ok(status) if status.success() => {}
            Ok(status) => outcome.failures.push(format!("the relay ended with {status}")),
            Err(error) => outcome.failures.push(error.to_string()),
        }
        outcome.failures.extend(desk.strange.lock().expect("no holder panics").drain(..));
        outcome.check_samples(self.samples, warm);
        outcome.stalled_seconds = self.load.stalls.since(self.begun).as_secs_f64();
        let (counts, violations) = self.load.results();
        outcome.results = counts;
        outcome.check_delay(self.load.exchange_milliseconds());
        outcome.failures.extend(violations);
        outcome.generator_seconds = relay::processor_seconds("/proc/self".as_ref())?;
        Ok(self.outcome)
    }
}
