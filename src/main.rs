//! The fanin command: what was typed is carried out, and the result is the exit code.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process;

use fanin::cli::{
    self, Check, Cli, Command, Doctor, ExitCode, Import, Plan, Profile, Status, Target, Upgrade,
};
use fanin::config::{Config, ConfigError, Origin};
use fanin::control::client::ClientError;
use fanin::control::{client, directory, top};
use fanin::doctor::{self, Measured};
use fanin::handover::Handover;
use fanin::parent;
use fanin::password::{Hash, PASSWORD_BYTES_MAX};
use fanin::supervisor::{self, StartError};
use fanin::sys::terminal::Hidden;

fn main() -> process::ExitCode {
    let code = match Cli::from_process() {
        Err(code) => code,
        Ok(cli) => match cli.command {
            Command::Run(arguments) => run(arguments.origin()),
            Command::Check(arguments) => check(&arguments),
            Command::Import(arguments) => import(&arguments),
            Command::Doctor(arguments) => examine(&arguments),
            Command::Plan(arguments) => plan(&arguments),
            Command::Passwd => passwd(),
            Command::Status(Status { target, agents, json }) => {
                let what = if agents { "agents" } else { "status" };
                ask(&target, &if json { format!("{what} json") } else { what.to_owned() })
            }
            Command::Top(arguments) => with_socket(&arguments.target, |path| {
                top::top(path, arguments.times).map(|()| String::new())
            }),
            Command::Ends(arguments) => ask(&arguments.target, &arguments.command()),
            Command::Reload(target) => ask(&target, "reload"),
            Command::Upgrade(arguments) => upgrade(&arguments),
            Command::Drain(target) => ask(&target, "drain"),
        },
    };
    code.into()
}

/// As the parent; or, where another process has left something to this one, as what it is meant to be.
fn run(origin: Origin) -> ExitCode {
    let result = match Handover::take() {
        Ok(None) => parent::start(&origin),
        Ok(Some(Handover::Parent(left))) => parent::resume(&origin, *left),
        // Whatever happens is told to the parent.
        Ok(Some(Handover::Relay(left))) => {
            return supervisor::run(origin, left)
                .map_or_else(|error| error.exit_code(), |()| ExitCode::Success);
        }
        Err(error) => Err(StartError::Host { what: "what was handed over", error }),
    };
    match result {
        Ok(code) => code,
        Err(StartError::Config(error)) => complain(&error),
        Err(error) => {
            eprintln!("fanin: {error}");
            error.exit_code()
        }
    }
}

fn check(arguments: &Check) -> ExitCode {
    let file = arguments.config.display();
    match arguments.origin().read() {
        Ok((config, _)) if arguments.print => print(&config.render()),
        Ok((_, None)) => print(&format!("{file} is valid\n")),
        Ok((_, Some(report))) => print(&format!(
            "{file} is valid, read as HAProxy's format: {}; `fanin import {file}` says what and why\n",
            report.summary()
        )),
        Err(error) => complain(&error),
    }
}

fn import(arguments: &Import) -> ExitCode {
    let file = arguments.file.display();
    match Config::import(&arguments.file) {
        Ok((config, report)) => {
            eprint!("fanin import {file}: {}\n{report}", report.summary());
            print(&format!(
                "# Made by `fanin import {file}`. Every setting is written out.\n\n{}",
                config.render()
            ))
        }
        Err(error) => complain(&error),
    }
}

fn examine(arguments: &Doctor) -> ExitCode {
    let config = match arguments.origin(Path::exists).load() {
        Ok(config) => config,
        Err(error) => return complain(&error),
    };
    let agents = arguments.agents.or(config.global.maxconn).unwrap_or(doctor::AGENTS_DEFAULT);
    let diagnosis = doctor::judge(&config, agents, &doctor::Host::look());
    print(&if arguments.json { diagnosis.json() } else { diagnosis.text() });
    if diagnosis.ok { ExitCode::Success } else { ExitCode::Runtime }
}

fn plan(arguments: &Plan) -> ExitCode {
    let measured = match arguments.measured.as_deref().map(Measured::read).transpose() {
        Ok(measured) => measured,
        Err(error) => {
            eprintln!("fanin: {error}");
            return ExitCode::Usage;
        }
    };
    let of_measured = measured.as_ref().map(|measured| measured.profile);
    let profile = arguments.profile.or(of_measured).unwrap_or(Profile::V5Churn);
    if let Some(other) = of_measured.filter(|&other| other != profile) {
        eprintln!(
            "fanin: --profile {profile}, but the measurement is of {other}: leave --profile away, or \
             measure with: loadgen find-max --profile {profile}"
        );
        return ExitCode::Usage;
    }
    let config = match cli::usual().load() {
        Ok(config) => config,
        Err(error) => return complain(&error),
    };
    let Plan { agents, cores, servers, sources, .. } = *arguments;
    let wanted = doctor::Wanted { agents, profile, cores, servers, sources, measured };
    let plan = doctor::plan(&wanted, &config);
    print(&if arguments.json { plan.json() } else { plan.text() })
}

/// The hash of the password that standard input begins with: a line; typed twice at a terminal.
fn passwd() -> ExitCode {
    let read = || -> io::Result<String> {
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    let ask = |what: &str| {
        eprint!("{what}: ");
        let typed = read();
        eprintln!();
        typed
    };
    let password = match Hidden::at(io::stdin()) {
        Err(_) => read(),
        Ok(_hidden) => ask("Password").and_then(|once| match ask("Again")? == once {
            true => Ok(once),
            false => Err(io::Error::other("the two are not the same")),
        }),
    };
    let hash = password.map_err(|error| error.to_string()).and_then(|password| {
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            let bytes = password.len();
            return Err(format!("it has {bytes} bytes; allowed: 1 to {PASSWORD_BYTES_MAX}"));
        }
        Hash::of(password.as_bytes()).map_err(|_| "the system gives no random numbers".to_owned())
    });
    match hash {
        Ok(hash) => print(hash.as_str()),
        Err(why) => {
            eprintln!("fanin: no password was read from standard input: {why}");
            ExitCode::Usage
        }
    }
}

fn ask(target: &Target, command: &str) -> ExitCode {
    with_socket(target, |path| client::ask(path, command))
}

/// Does something with the control socket that is meant, and prints what comes of it.
fn with_socket(
    target: &Target,
    act: impl FnOnce(&Path) -> Result<String, ClientError>,
) -> ExitCode {
    let socket = match socket(target) {
        Ok(socket) => socket,
        Err(error) => return complain(&error),
    };
    match socket.map_or_else(client::find, Ok).and_then(|path| act(&path)) {
        Ok(answer) => print(&answer),
        Err(error) => {
            eprintln!("fanin: {error}");
            ExitCode::Runtime
        }
    }
}

/// The relay has a working directory of its own, so the path is made whole here.
fn upgrade(arguments: &Upgrade) -> ExitCode {
    let Some(binary) = &arguments.binary else { return ask(&arguments.target, "upgrade") };
    match binary.canonicalize() {
        Ok(path) => ask(&arguments.target, &format!("upgrade {}", path.display())),
        Err(error) => {
            eprintln!(
                "fanin: cannot upgrade to {}: {error}; give the path of a fanin binary",
                binary.display()
            );
            ExitCode::Usage
        }
    }
}

/// The control socket that is meant; `None` is that of the only relay that runs.
fn socket(target: &Target) -> Result<Option<PathBuf>, ConfigError> {
    let Some(file) = &target.config else { return Ok(target.control.clone()) };
    let origin = Origin::File { path: file.clone(), overrides: Default::default() };
    let config = origin.load()?;
    let port = config.listeners[0].bind[0].port();
    Ok(Some(config.control.socket.unwrap_or_else(|| directory::socket(port))))
}

fn complain(error: &ConfigError) -> ExitCode {
    eprintln!("{}", error.render(io::stderr().is_terminal()));
    error.into()
}

/// A reader that has gone (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(io::stdout(), "{text}{newline}");
    ExitCode::Success
}
