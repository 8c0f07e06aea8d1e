//! Another binary takes over: first as the next generation, which shows that it runs and understands
//! the configuration, then in the place of this process, which keeps its id and its descriptors.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signalfd::SignalFd;
use nix::unistd::geteuid;

use crate::config::Origin;
use crate::control::ControlSocket;
use crate::handover::{FORMAT, Handover, ToParent, VARIABLE};
use crate::supervisor::StartError;

use super::child::Child;
use super::doors::Doors;
use super::renewal::{BUSY, Reason, parse};
use super::{Parent, later, manager};

impl Parent {
    /// Starts a generation of this binary, or of the one that now has the name under which this one
    /// was started.
    pub(super) fn upgrade(&mut self, asked_by: Option<u64>, binary: Option<PathBuf>) {
        let begun = if self.renewal.is_some() {
            Err(BUSY.to_owned())
        } else if self.ending.is_some() {
            Err("the relay is ending".to_owned())
        } else {
            binary
                .map_or_else(
                    || named_like_us().map_err(|error| error.to_string()),
                    |binary| ours(&binary, self.config.log.file.as_deref()).map(|()| binary),
                )
                .and_then(|binary| {
                    self.log.info(format_args!("upgrading to {}", binary.display()));
                    let config = self.config.clone();
                    let reason = Reason::Upgrade { binary, asked_by };
                    self.renew(reason, config).map_err(|error| error.to_string())
                })
        };
        if let Err(why) = begun {
            self.refuse(asked_by, format!("not upgraded: {why}"));
        }
    }

    /// Puts the binary in the place of this process. Returns if it cannot be: the relay process
    /// serves from the new one all the same.
    pub(super) fn hand_over(&mut self, binary: &Path) {
        let left = ToParent {
            format: FORMAT,
            process: i32::try_from(std::process::id()).unwrap_or_default(),
            config: self.config.render(),
            names: self.names.clone(),
            administered: self.administered.clone(),
            closed: self.closed.clone(),
            sockets: self.doors.shared(),
            pages: self.pages.shared(),
            claims: [self.doors.claims(), self.pages.claims()].concat(),
            control: self.control.as_ref().map(|socket| {
                let (number, path) = socket.leave();
                (number, path, socket.inode())
            }),
            generations: self.children.iter().map(Child::leave).collect(),
        };
        let Err(error) = replace(binary, left);
        self.log.error(format_args!(
            "the parent stays what it was: {} cannot take its place: {error}",
            binary.display()
        ));
    }

    /// The parent that another binary left.
    pub(super) fn inherit(
        signals: SignalFd,
        origin: &Origin,
        left: ToParent,
    ) -> Result<Self, StartError> {
        let unusable = |error| StartError::Host { what: "what the parent before left", error };
        let config = parse(&left.config)
            .ok_or_else(|| unusable(io::Error::other("its configuration is not understood")))?;
        let mut parent = Self::new(signals, config, origin)?;
        parent.names = left.names;
        parent.administered = left.administered;
        parent.closed = left.closed;
        let mut claims = Doors::inherit_claims(left.claims);
        parent.doors = Doors::inherit(left.sockets, &mut claims);
        parent.pages = Doors::inherit(left.pages, &mut claims);
        parent.control =
            left.control.map(|(number, path, inode)| ControlSocket::inherit(number, path, inode));
        for generation in left.generations {
            parent.generations = parent.generations.max(generation.number);
            parent.children.push(Child::inherit(generation).map_err(unusable)?);
        }
        parent.serving_since = later(std::time::Duration::ZERO);
        manager::ready(&parent.describe());
        Ok(parent)
    }
}

/// Executes the binary with the arguments of this process.
fn replace(binary: &Path, left: ToParent) -> Result<Infallible, io::Error> {
    let left = Handover::Parent(Box::new(left)).leave()?;
    let c = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::other);
    let arguments: Vec<_> =
        std::env::args_os().map(|argument| c(argument.into_vec())).collect::<Result<_, _>>()?;
    let mut environment = vec![c(format!("{VARIABLE}={}", left.value()).into_bytes())?];
    for (name, value) in std::env::vars_os().filter(|(name, _)| name != VARIABLE) {
        environment.push(c([name.as_bytes(), b"=", value.as_bytes()].concat())?);
    }
    // Not by the standard library, which would unblock the signals first.
    let path = c(binary.as_os_str().as_bytes().to_vec())?;
    Ok(nix::unistd::execve(&path, &arguments, &environment)?)
}

/// Whether a binary that a relay process names can be nobody's but root's or our own user's: not what
/// that process has made itself.
fn ours(binary: &Path, log: Option<&Path>) -> Result<(), String> {
    let shown = binary.display();
    let failed = |error: io::Error| format!("{shown}: {error}");
    let folder = binary.parent().unwrap_or_else(|| Path::new("/"));
    if log.and_then(Path::parent) == Some(folder) {
        return Err(format!("{shown} is in the folder of the log file; put it elsewhere"));
    }
    let (file, folder) = (binary.metadata().map_err(failed)?, folder.metadata().map_err(failed)?);
    let us = geteuid().as_raw();
    let others_write = |found: &Metadata| found.mode() & 0o022 != 0;
    // In a sticky folder (/tmp) nobody replaces what is another's.
    let replaceable = others_write(&folder) && folder.mode() & 0o1000 == 0;
    if others_write(&file) || replaceable || ![0, us].contains(&file.uid()) {
        return Err(format!(
            "{shown} may be written or replaced by others than root and user {us}; install it with: \
             install -o root -m 755 {shown} /usr/local/bin/fanin"
        ));
    }
    Ok(())
}

/// The path of the running binary; after a package upgrade another file has it.
fn named_like_us() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}
