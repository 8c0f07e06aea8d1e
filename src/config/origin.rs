//! Where a configuration comes from: a file, with flags that override parts of it, or flags alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::op::SpliceMode;

use super::{
    Config, ConfigError, EngineChoice, Global, LogFormat, Pin, Report, ServerAddress, file,
};

/// Where a configuration comes from, kept so that a reload can read it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file, with flags that override parts of it.
    File { path: PathBuf, overrides: Overrides },
    /// The command line alone.
    Flags { listen: Vec<SocketAddr>, servers: Vec<ServerAddress>, overrides: Overrides },
}

impl Origin {
    /// Reads and checks the configuration.
    pub fn load(&self) -> Result<Config, ConfigError> {
        self.read().map(|(config, _)| config)
    }

    /// The same, and what became of its lines if it is in HAProxy's format, which is what a name
    /// ending in `.cfg` says.
    pub fn read(&self) -> Result<(Config, Option<Report>), ConfigError> {
        match self {
            Self::File { path, overrides } => {
                let text = file::text(path)?;
                if path.extension().is_some_and(|extension| extension == "cfg") {
                    let (config, report) = Config::from_haproxy(path, &text, overrides)?;
                    return Ok((config, Some(report)));
                }
                Ok((Config::from_text(path, &text, overrides)?, None))
            }
            Self::Flags { listen, servers, overrides } => {
                Ok((Config::from_flags(listen, servers, overrides)?, None))
            }
        }
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Flags { .. } => None,
        }
    }
}

/// Flags that override what the file says. `None` is a flag that was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `Some(None)` is `--workers auto`.
    pub workers: Option<Option<u16>>,
    pub engine: Option<EngineChoice>,
    pub splice: Option<SpliceMode>,
    pub pin: Option<Pin>,
    /// `Some(None)` is `--maxconn auto`.
    pub maxconn: Option<Option<u32>>,
    pub control: Option<PathBuf>,
    pub log_format: Option<LogFormat>,
    pub sandbox: Option<bool>,
}

impl Overrides {
    pub(super) fn over(&self, global: Global) -> Global {
        let mut global = Global {
            workers: self.workers.unwrap_or(global.workers),
            engine: self.engine.unwrap_or(global.engine),
            splice: self.splice.unwrap_or(global.splice),
            pin: self.pin.clone().unwrap_or(global.pin),
            maxconn: self.maxconn.unwrap_or(global.maxconn),
            sandbox: self.sandbox.unwrap_or(global.sandbox),
            ..global
        };
        // A list of CPUs says how many workers there are, unless that is said too.
        if let (Pin::List(cpus), None) = (&global.pin, global.workers) {
            global.workers = u16::try_from(cpus.len()).ok();
        }
        global
    }
}
