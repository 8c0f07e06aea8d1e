//! What a relay process gives up before it serves anybody, so that whoever takes it over has little
//! of it: another user's rights, root's capabilities, most system calls, nearly all files and ports.
//!
//! In two steps, both before any other thread is there, since threads inherit what theirs has given
//! up. [`step_down`] comes first: whatever the start needs is then tried with the rights that a reload
//! will have. The parent stays outside: it starts the next relay process, with what that one needs.

mod calls;
mod identity;
mod reach;

use std::path::Path;

use nix::errno::Errno;
use serde::Serialize;

use crate::config::{Config, Global, Mode};
use crate::sys::{confine, process};

use reach::Reach;

pub use calls::{Narrow, Narrowing};
pub use identity::ConfineError;

/// What is in force of the confinement, for those who ask.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sandbox {
    /// Whether it was asked for.
    pub on: bool,
    /// Whom the process runs as.
    pub user: String,
    pub parts: Vec<Part>,
}

/// One thing that was given up, or should have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// As metrics call it.
    pub name: &'static str,
    pub in_force: bool,
    /// How far; or why not.
    pub detail: Option<String>,
}

impl Sandbox {
    fn add(&mut self, name: &'static str, outcome: Outcome) {
        let in_force = outcome.is_ok();
        let detail = outcome.unwrap_or_else(Some);
        self.parts.push(Part { name, in_force, detail });
    }

    /// In a line: `as nobody; no capabilities, seccomp`.
    pub fn summary(&self) -> String {
        let parts: Vec<_> = self.parts.iter().filter(|part| part.in_force).map(told).collect();
        match self.on {
            true => format!("as {}; {}", self.user, parts.join(", ")),
            false => format!("OFF (--no-sandbox or [global] sandbox = false); as {}", self.user),
        }
    }

    /// What an operator should know: a line each.
    pub fn warnings(&self) -> Vec<String> {
        let missing = self.parts.iter().filter(|part| !part.in_force);
        let mut warnings: Vec<_> =
            missing.map(|part| format!("not in force: {}", told(part))).collect();
        if self.user == identity::ROOT {
            let remedy = "start fanin as another user, or name one in [global] user";
            warnings.push(format!("the relay process runs as root: {remedy}"));
        }
        warnings
    }
}

#[cfg(test)]
impl Sandbox {
    /// For the tests of what is said of it.
    pub fn example() -> Self {
        let part = |name, in_force, detail: Option<&str>| Part {
            name,
            in_force,
            detail: detail.map(str::to_owned),
        };
        let parts = vec![
            part("no_capabilities", true, None),
            part("files", true, Some("Landlock ABI 3")),
            part("ports", false, Some("Linux 6.7 or newer has it")),
        ];
        Self { on: true, user: "fanin".to_owned(), parts }
    }
}

/// Whether a process that is confined for one configuration may do all that another takes.
pub fn covers(confined_for: &Config, other: &Config) -> bool {
    !confined_for.global.sandbox || Reach::of(confined_for, None).covers(&Reach::of(other, None))
}

fn told(part: &Part) -> String {
    let name = part.name.replace('_', " ");
    part.detail.as_ref().map_or_else(|| name.clone(), |detail| format!("{name} ({detail})"))
}

/// Becomes the user that is meant, and gives up what no relay process needs: capabilities, the chance
/// to gain any, and that others look into its memory. To be called while there is one thread. What cannot
/// be given up is said, and hinders nobody.
///
/// # Errors
/// When the user is not known or may not be become.
pub fn step_down(global: &Global) -> Result<Sandbox, ConfineError> {
    if global.sandbox {
        // As long as there are the capabilities to.
        process::raise_locked_memory_limit();
        confine::empty_bounding_set();
    }
    let user = identity::become_configured(global)?;
    let mut sandbox = Sandbox { on: global.sandbox, user, parts: Vec::new() };
    if !global.sandbox {
        return Ok(sandbox);
    }
    sandbox.add("no_capabilities", no_capabilities());
    sandbox.add("no_new_privileges", confine::gain_nothing().map(|()| None).map_err(refused));
    sandbox.add("not_dumpable", confine::hide_memory().map(|()| None).map_err(refused));
    Ok(sandbox)
}

/// Gives up all capabilities, and reads back whether that is so.
fn no_capabilities() -> Outcome {
    let left = confine::drop_capabilities().and_then(|()| confine::capabilities());
    let left = left.map_err(refused)?;
    if left != (confine::Capabilities { bounding: left.bounding, ..Default::default() }) {
        return Err(format!("some are left: {left:?}"));
    }
    Ok((left.bounding != 0)
        .then(|| "but for the bounding set, an ordinary user's to keep".to_owned()))
}

/// How far something is in force, if not wholly; or why it is not.
type Outcome = Result<Option<String>, String>;

fn refused(errno: Errno) -> String {
    format!("the kernel, or a filter of the service manager, refuses: {}", errno.desc())
}

/// Gives up all that serving does not take. What the start needed more than that has been done by now,
/// and there is still one thread. `rings` is whether workers have any.
///
/// `file` is what a reload reads. Best effort: a kernel that lacks a part does without, and the sandbox says so. The result is what
/// threads are to be narrowed to, each kind by itself, if to anything.
pub fn close(
    sandbox: &mut Sandbox,
    config: &Config,
    file: Option<&Path>,
    rings: bool,
) -> Option<Narrowing> {
    if !sandbox.on {
        return None;
    }
    sandbox.parts.extend(Reach::of(config, file).enforce());
    if rings {
        // By every ring, as it is made (`sys::ring`).
        sandbox.add("ring_restrictions", Ok(None));
    }
    let needs = calls::Needs {
        rings,
        writes_files: config.log.file.is_some(),
        doors_look_up: config.listeners.iter().any(|listener| listener.mode == Mode::Proxy),
    };
    let filtered = calls::apply(needs);
    sandbox.add("seccomp", filtered.map(|()| None).map_err(refused));
    filtered.is_ok().then(|| calls::narrowing(needs))
}
