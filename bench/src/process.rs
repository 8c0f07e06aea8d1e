//! Processes of a round: pinned, tied to us, heard with a deadline, ended for certain.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getppid};

use crate::cli;
use crate::clock::within;
use crate::error::Error;

/// How long a process may take to end after each SIGTERM, before SIGKILL.
const END: Duration = Duration::from_millis(1500);
/// Most of what is kept of a process's words on standard error.
const WORDS_BYTES: u64 = 4096;

/// A process that ends, with all its children, when this is dropped or when we end.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    words: Option<std::thread::JoinHandle<String>>,
}

impl Process {
    /// Starts `command` on `cpus`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(
        name: &str,
        cpus: &[usize],
        program: &Path,
        arguments: &[OsString],
    ) -> Result<Self, Error> {
        let own = std::env::current_exe().map_err(Error::at("cannot find my own program"))?;
        let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
        let mut child = Command::new(own)
            .args(["tether", "--parent", &std::process::id().to_string()])
            .args(["--cpus", &cpus.join(","), "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(Error::at(format!("cannot start {name}")))?;
        let (sender, lines) = sync_channel(16);
        let output = child.stdout.take();
        // Both threads end when the process and its children have closed their ends.
        std::thread::spawn(move || {
            let Some(output) = output else { return };
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = child.stderr.take();
        let words = std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut errors) = errors {
                // What is beyond the limit is read and dropped: a full pipe would stop the process.
                let _ = errors.by_ref().take(WORDS_BYTES).read_to_string(&mut text);
                let _ = std::io::copy(&mut errors, &mut std::io::sink());
            }
            text
        });
        Ok(Self { name: name.to_owned(), child, lines, words: Some(words) })
    }

    /// Its pid; its children are found from it.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// When there is none in time; with its last words.
    pub(crate) fn line(mut self, limit: Duration) -> Result<(Self, String), Error> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok((self, line)),
            Err(_) => {
                let words = self.last_words();
                Err(Error(format!("{} said nothing in {limit:?}; {words}", self.name)))
            }
        }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it and tells what it wrote to its standard error.
    pub(crate) fn last_words(&mut self) -> String {
        self.end();
        let words = self.words.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let words = words.trim();
        format!("its last words: {}", if words.is_empty() { "(none)" } else { words })
    }

    /// SIGTERM, once more after a while (fanin then ends at once), SIGKILL for the whole group.
    fn end(&mut self) {
        let pid = Pid::from_raw(self.pid());
        for _ in 0..2 {
            if self.has_ended() {
                break;
            }
            // It may end by itself at this very moment.
            let _ = kill(pid, Signal::SIGTERM);
            if within(END, || self.has_ended().then_some(())).is_some() {
                break;
            }
        }
        // What is left of its group, if anything is.
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Becomes the command: pinned, ended with its parent, with as many descriptors as it may have.
///
/// The detour through a process of our own sets all this without code between fork and exec.
///
/// # Errors
/// When it cannot be pinned or run, or the parent has ended already.
pub(crate) fn become_tethered(tether: &cli::Tether) -> Result<(), Error> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(Error::at("tether"))?;
    if getppid().as_raw() != tether.parent {
        return Err(Error("the parent has ended".to_owned()));
    }
    let mut cpus = CpuSet::new();
    for cpu in &tether.cpus {
        cpus.set(*cpu).map_err(Error::at(format!("CPU {cpu}")))?;
    }
    sched_setaffinity(Pid::from_raw(0), &cpus)
        .map_err(Error::at(format!("cannot run on CPUs {:?}", tether.cpus)))?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Error::at("RLIMIT_NOFILE"))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(Error::at("RLIMIT_NOFILE"))?;
    let Some((program, arguments)) = tether.command.split_first() else {
        return Err(Error("no command".to_owned()));
    };
    let error = Command::new(program).args(arguments).exec();
    Err(Error(format!("cannot run {}: {error}", program.display())))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_question_without_answer_ends() {
        let limit = std::time::Duration::from_millis(20);
        assert!(super::within(limit, || None::<()>).is_none());
        assert_eq!(super::within(limit, || Some(3)), Some(3));
    }
}
