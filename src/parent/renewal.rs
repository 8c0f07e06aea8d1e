//! From one generation to the next: the successor starts beside the one that serves, and takes its
//! place when it serves, or nothing has happened.

use std::path::{Path, PathBuf};

use crate::cli::ExitCode;
use crate::config::{Config, Overrides};
use crate::control::{ControlSocket, directory};
use crate::handover::{Administered, ClosedListener, FORMAT, Order, ToRelay};
use crate::supervisor::{self, StartError};
use crate::sys::process;

use super::child::{Child, Exit, OURSELVES};
use super::doors::Doors;
use super::{PAUSE_FIRST, Parent, START_PATIENCE, later, manager};

/// Why there is to be another generation.
#[derive(Debug)]
pub(super) enum Reason {
    /// There is none yet.
    Start,
    /// The one that served ended unasked.
    Restart,
    /// The one that serves asked for it.
    Renew { why: String },
    /// The binary that is to take over, and which generation asked for it; a signal has no asker.
    Upgrade { binary: PathBuf, asked_by: Option<u64> },
}

/// A generation that is starting.
#[derive(Debug)]
pub(super) struct Renewal {
    pub(super) number: u64,
    reason: Reason,
    config: Config,
    doors: Doors,
    pages: Doors,
    /// Another control socket than before.
    control: Option<Option<ControlSocket>>,
    /// Why it does not start, in its own words, and the exit code for that.
    failure: Option<(String, u8)>,
    pub(super) deadline: u64,
}

impl Parent {
    /// Starts a generation with this configuration.
    ///
    /// # Errors
    /// When that cannot be; everything is as it was.
    pub(super) fn renew(&mut self, reason: Reason, config: Config) -> Result<(), StartError> {
        let workers = supervisor::workers(&config)?;
        let binds = config.listeners.iter().flat_map(|listener| listener.bind.iter().copied());
        let doors = self.doors.next(binds, workers, &mut self.found)?;
        let pages = config.stats.bind.iter().copied();
        let pages = self.pages.next(pages, 1, &mut self.found)?;
        let control = self.control_for(&config, doors.port())?;
        let serving = control.as_ref().unwrap_or(&self.control).as_ref();
        let number = self.generations + 1;
        let left = ToRelay {
            format: FORMAT,
            parent: i32::try_from(std::process::id()).unwrap_or_default(),
            generation: number,
            config: config.render(),
            names: self.names.clone(),
            administered: self.administered_in(&config),
            closed: self.closed_in(&config),
            sockets: doors.shared(),
            pages: pages.shared(),
            control: serving.map(ControlSocket::leave),
            link: -1,
            watched: manager::is_watching(),
        };
        let binary = match &reason {
            Reason::Upgrade { binary, .. } => binary.as_path(),
            _ => Path::new(OURSELVES),
        };
        let child = Child::start(binary, left)
            .map_err(|error| StartError::Spawn { binary: binary.to_owned(), error })?;
        self.generations = number;
        self.children.push(child);
        let deadline = later(START_PATIENCE);
        self.renewal = Some(Renewal {
            number,
            reason,
            config,
            doors,
            pages,
            control,
            failure: None,
            deadline,
        });
        Ok(())
    }

    /// What administrators want of servers, once this configuration is in force: another one has
    /// weights of its own, as after a reload within a process.
    fn administered_in(&self, config: &Config) -> Vec<Administered> {
        let mut administered = self.administered.clone();
        if config.render() != self.config.render() {
            administered.iter_mut().for_each(|server| server.weight = None);
        }
        administered
    }

    /// The listeners that nobody is let in by, likewise: a file that was read anew has all let in.
    fn closed_in(&self, config: &Config) -> Vec<ClosedListener> {
        match config.render() == self.config.render() {
            true => self.closed.clone(),
            false => Vec::new(),
        }
    }

    /// The control socket for a configuration, if it is not the one that is there. One that was
    /// asked for must be had; without the one that nobody asked for the relay still runs.
    fn control_for(
        &self,
        config: &Config,
        port: u16,
    ) -> Result<Option<Option<ControlSocket>>, StartError> {
        let asked = config.control.socket.as_ref();
        let path = asked.cloned().unwrap_or_else(|| directory::socket(port));
        if self.control.as_ref().is_some_and(|control| control.path() == path) {
            return Ok(None);
        }
        match ControlSocket::bind(&path, config.control.mode) {
            Ok(socket) => Ok(Some(Some(socket))),
            Err(error) if asked.is_some() => Err(error.into()),
            Err(error) => {
                self.log.warn(format_args!("`fanin status` will not reach this relay: {error}"));
                Ok(Some(None))
            }
        }
    }

    /// A generation asks for the next.
    pub(super) fn on_renew(&mut self, number: u64, config: &str, why: String) {
        let outcome = match self.believe(config) {
            Err(why) => Err(why),
            Ok(_) if self.renewal.is_some() => Err(BUSY.to_owned()),
            Ok(_) if self.ending.is_some() => Err("the relay is ending".to_owned()),
            Ok(config) => {
                self.renew(Reason::Renew { why }, config).map_err(|error| error.to_string())
            }
        };
        if let Err(why) = outcome {
            self.refuse(Some(number), why);
        }
    }

    /// Says to who asked that it is not done, and why.
    pub(super) fn refuse(&self, asked_by: Option<u64>, why: String) {
        manager::ready(&self.describe());
        let asker = self.children.iter().find(|child| Some(child.number) == asked_by);
        match asker {
            Some(child) => child.tell(&Order::Refused { why }),
            None => self.log.error(format_args!("what ran before runs on: {why}")),
        }
    }

    /// A generation has said why it does not start. The exit follows.
    pub(super) fn on_failed(&mut self, number: u64, message: String, code: u8) {
        if let Some(renewal) = self.renewal.as_mut().filter(|renewal| renewal.number == number) {
            renewal.failure = Some((message, code));
        }
    }

    /// A generation serves: those before it retire.
    pub(super) fn on_ready(&mut self, number: u64, version: &str) {
        let Some(renewal) = self.renewal.take_if(|renewal| renewal.number == number) else {
            return;
        };
        manager::keep(&renewal.doors, &self.doors);
        // What is not a door any more is closed here first, so that the generation that still
        // serves it empties its queue and closes it last.
        self.doors = renewal.doors;
        self.pages = renewal.pages;
        if let Some(control) = renewal.control {
            self.control = control;
        }
        self.administered = self.administered_in(&renewal.config);
        self.closed = self.closed_in(&renewal.config);
        self.adopt(renewal.config);
        let successor = self.children.iter().find(|child| child.number == number);
        let process = successor.map_or(0, |child| child.process.as_raw());
        let answer = format!("relay process {process} (fanin {version}) serves now");
        for child in &mut self.children {
            if std::mem::replace(&mut child.serving, child.number == number) {
                child.tell(&Order::Retire { answer: answer.clone() });
            }
        }
        self.serving_since = process::monotonic_micros();
        self.restart = None;
        self.tell_retiring();
        manager::ready(&self.describe());
        match renewal.reason {
            Reason::Start => {}
            Reason::Restart => self.log.info(format_args!("restarted: {answer}")),
            Reason::Renew { why } => self.log.info(format_args!("renewed ({why}): {answer}")),
            Reason::Upgrade { binary, .. } => self.successor = Some(binary),
        }
        if std::mem::take(&mut self.reload_again) {
            self.reload();
        }
    }

    /// A generation has ended before it served.
    pub(super) fn on_start_failed(&mut self, exit: Exit) {
        let Some(mut renewal) = self.renewal.take() else { return };
        let (why, code) = renewal.failure.take().unwrap_or_else(|| {
            (format!("the relay process ended while it was starting ({exit})"), 1)
        });
        if matches!(renewal.reason, Reason::Start) {
            eprintln!("fanin: {why}");
            self.outcome = Some(ExitCode::of(code));
            return;
        }
        self.give_up(renewal, why);
    }

    fn give_up(&mut self, renewal: Renewal, why: String) {
        self.close_again();
        match renewal.reason {
            Reason::Start => {}
            Reason::Restart => {
                self.log.error(format_args!("the relay process does not start: {why}"));
            }
            Reason::Renew { .. } => {
                self.refuse(self.serving().map(|child| child.number), why);
            }
            Reason::Upgrade { asked_by, .. } => self.refuse(asked_by, why),
        }
        self.reload_again = false;
        if self.serving().is_none() && self.ending.is_none() {
            self.restart_after(self.pause.max(PAUSE_FIRST));
        }
    }
}

/// Why a second one is not begun.
pub(super) const BUSY: &str = "busy: another reload or upgrade is under way; try again";

/// A configuration as a relay process sends it.
pub(super) fn parse(text: &str) -> Option<Config> {
    Config::from_text("the configuration in force".as_ref(), text, &Overrides::default()).ok()
}
