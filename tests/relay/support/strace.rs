//! System calls that fail when the test says so: strace attached to one thread of the relay.

use std::process::{Child, Command, Stdio};

use super::relay::Task;
use super::{Folder, await_that, run_well};

/// strace, attached until it is asked what it did.
pub struct Strace {
    task: Task,
    child: Child,
    folder: Folder,
}

impl Strace {
    /// Makes `call` of a thread fail with `errno` as often as `when` says (`FIRST+STEP` or
    /// `FIRST..LAST+STEP`).
    /// `None`, said loudly, where strace may not attach.
    pub fn inject(task: &Task, call: &str, errno: &str, when: &str) -> Option<Self> {
        let folder = Folder::new(&format!("strace-{}", task.id()));
        let inject = format!("inject={call}:error={errno}:when={when}");
        let mut child = Command::new("strace")
            .args(["-q", "-p", &task.id(), "-e", &format!("trace={call}"), "-e", &inject])
            .args(["-e", "signal=none", "-o", folder.path("trace").to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("strace: {error}; scripts/test installs it"));
        let mut refused = false;
        await_that("strace is attached", || {
            refused = child.try_wait().unwrap().is_some();
            refused || task.is_traced()
        });
        if refused {
            eprintln!("SKIPPED: strace may not attach to {call} here");
            return None;
        }
        Some(Self { task: task.clone(), child, folder })
    }

    /// Detaches, and returns how many calls it made fail.
    pub fn end(mut self) -> usize {
        // A call that is being made to fail while strace lets go would return ENOSYS.
        let mut asleep = 0;
        await_that("the thread waits for something", || {
            asleep = if self.task.is_asleep() { asleep + 1 } else { 0 };
            asleep == 3
        });
        run_well("kill", &["-INT", &self.child.id().to_string()]);
        self.child.wait().unwrap();
        let trace = std::fs::read_to_string(self.folder.path("trace")).unwrap();
        trace.lines().filter(|line| line.ends_with("(INJECTED)")).count()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
