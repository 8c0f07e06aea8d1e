//! loadgen: simulates thousands of monitoring agents, measures honestly, judges what a relay
//! carries. It shares no code with the relay: it is the independent witness.
//!
//! Modules in reading order. PURE ones have no sockets, no clock, no waiting; their tests run in
//! virtual time.
//!
//! - `cli` what was typed, and what is meant
//! - `profile`, `plan`, `dice` PURE: who posts what when; `payload` PURE: the requests to the byte
//! - `agent` PURE: one lane of an agent; `reply`, `proxy` PURE: what is read and said; `failure` PURE: the taxonomy
//! - `recorder` PURE: histograms and counts of one thread
//! - `thread`, `pacer`, `io`, `tls`: the tasks that do what `agent` asks, on io_uring or epoll
//! - `run`: one run; `find_max` with `search` and `usl` PURE, and `claim`: many; `compare`, `merge`: what runs
//!   left behind; `stage`: the sink and relay it starts; `limits`, `procfs`: what
//!   this machine allows and uses; `progress`, `view`, `report`: what is printed
//! - `sink`: the upstream

mod agent;
mod claim;
mod cli;
mod clock;
mod compare;
mod dice;
mod exit;
mod failure;
mod find_max;
mod io;
mod limits;
mod merge;
mod pacer;
mod payload;
mod plan;
mod procfs;
mod profile;
mod progress;
mod proxy;
mod recorder;
mod reply;
mod report;
mod run;
mod search;
mod sink;
mod stage;
mod thread;
mod tls;
mod usl;
mod view;

use std::process::ExitCode;

/// The definition of the command line, for its manual pages and completions.
pub use cli::command;

/// What was typed is carried out; the result is the exit code of the process.
pub fn main() -> ExitCode {
    let outcome = match cli::parse() {
        Ok(cli::Command::Run(settings)) => run::run(&settings),
        Ok(cli::Command::FindMax(search)) => find_max::run(&search),
        Ok(cli::Command::Claim(claim)) => claim::run(&claim),
        Ok(cli::Command::Compare(compare)) => compare::run(&compare),
        Ok(cli::Command::Merge(merge)) => merge::run(&merge),
        Ok(cli::Command::Sink(settings)) => sink::serve(&settings),
        Ok(cli::Command::Tether(command)) => stage::tether(&command),
        Ok(cli::Command::Told) => Ok(exit::SUCCESS),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(exit::Error::Told(code)) => ExitCode::from(code),
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::from(error.code())
        }
    }
}
