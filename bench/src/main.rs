//! bench: measures fanin beside its peers, interleaved, on the same cores.
//!
//! Modules in reading order:
//!
//! - `cli` what was typed
//! - `scenario` what is measured, as data: `bench/scenarios/*.toml`
//! - `subject` who is measured: fanin in its modes, the peers, the direct path
//! - `run` rounds and their order; `stage` has the processes of one, started through `process`
//! - `server`, `load` the far end and the near end, each a process of this program; `stream` moves
//!   the bytes for both; `account` is what the load reads in /proc when its window opens and shuts
//! - `link` a network between relay and servers
//! - `instructions` counts those of one exchange, through `stepper`
//! - `report` medians, tables, charts; `manifest` on what machine

mod account;
mod cli;
mod clock;
mod error;
mod http;
mod instructions;
mod link;
mod load;
mod manifest;
mod process;
mod report;
mod run;
mod scenario;
mod server;
mod stage;
mod stepper;
mod stream;
mod subject;
mod sys;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let outcome = match cli::Cli::parse().command {
        cli::Command::Run(run) => run::run(&run),
        cli::Command::Instructions(arguments) => instructions::run(&arguments),
        cli::Command::Server(server) => server::serve(&server).map(|()| true),
        cli::Command::Load(load) => load::load(&load).map(|()| true),
        cli::Command::Delay(delay) => link::delay(&delay).map(|()| true),
        cli::Command::Tether(tether) => process::become_tethered(&tether).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
