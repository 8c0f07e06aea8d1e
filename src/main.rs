//! The fanin command.

use std::io::IsTerminal as _;
use std::process;

use fanin::cli::{Check, Cli, Command, ExitCode};

fn main() -> process::ExitCode {
    let code = match Cli::from_process() {
        Err(code) => code,
        Ok(cli) => match cli.command {
            Command::Check(arguments) => check(&arguments),
            _ => ExitCode::Runtime,
        },
    };
    code.into()
}

fn check(arguments: &Check) -> ExitCode {
    match arguments.origin().load() {
        Ok(config) => {
            if arguments.print {
                print!("{}", config.render());
            } else {
                println!("{} is valid", arguments.config.display());
            }
            ExitCode::Success
        }
        Err(error) => {
            eprintln!("{}", error.render(std::io::stderr().is_terminal()));
            ExitCode::from(&error)
        }
    }
}
