//! What processes have used, read by the load itself at the moments its window opens and shuts,
//! so that cost and work are counted over the same time to within a millisecond.

use std::fs::read_to_string;
use std::path::Path;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::clock::float;

/// The unit of processor times in /proc: USER_HZ is 100 wherever Linux runs today.
const TICKS_PER_S: f64 = 100.0;

/// What a process and its descendants have used, or used between two readings.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Usage {
    /// Seconds of processor, user and system, of all threads there ever were, to the nanosecond
    /// (the process's CPU clock).
    pub(crate) cpu_s: f64,
    /// The part in user mode, in ticks of 10 ms: only good as a share.
    pub(crate) user_s: f64,
    /// Times that a thread waited.
    pub(crate) switches_voluntary: f64,
    /// Times that a thread was made to wait.
    pub(crate) switches_forced: f64,
    /// Resident bytes.
    pub(crate) rss_bytes: f64,
    /// Resident bytes, shared ones by share.
    pub(crate) pss_bytes: f64,
    /// Resident bytes that are its own and were written to.
    pub(crate) private_dirty_bytes: f64,
}

impl Usage {
    /// All of it, up to now; zeros for what has ended.
    pub(crate) fn of(pid: i32) -> Self {
        let mut usage = Self::of_one(pid);
        for child in children(pid) {
            usage = usage.combine(&Self::of(child), |mine, theirs| mine + theirs);
        }
        usage
    }

    /// What was used since.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        self.combine(earlier, |now, then| now - then)
    }

    fn of_one(pid: i32) -> Self {
        let mut usage = Self { cpu_s: cpu_clock(pid), ..Self::default() };
        let stat = read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Field 14; the name in field 2 may hold spaces and brackets.
        let ticks = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(11));
        usage.user_s = ticks.and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / TICKS_PER_S;
        for task in entries(format!("/proc/{pid}/task")) {
            let status = read_to_string(task.join("status")).unwrap_or_default();
            usage.switches_voluntary += number(&status, "voluntary_ctxt_switches:");
            usage.switches_forced += number(&status, "nonvoluntary_ctxt_switches:");
        }
        let memory = read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        usage.rss_bytes = number(&memory, "Rss:") * 1024.0;
        usage.pss_bytes = number(&memory, "Pss:") * 1024.0;
        usage.private_dirty_bytes = number(&memory, "Private_Dirty:") * 1024.0;
        usage
    }

    fn combine(&self, other: &Self, with: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            cpu_s: with(self.cpu_s, other.cpu_s),
            user_s: with(self.user_s, other.user_s),
            switches_voluntary: with(self.switches_voluntary, other.switches_voluntary),
            switches_forced: with(self.switches_forced, other.switches_forced),
            rss_bytes: with(self.rss_bytes, other.rss_bytes),
            pss_bytes: with(self.pss_bytes, other.pss_bytes),
            private_dirty_bytes: with(self.private_dirty_bytes, other.private_dirty_bytes),
        }
    }
}

/// Seconds that the kernel's soft interrupt threads have used: network work that was deferred from
/// whoever caused it.
pub(crate) fn soft_interrupt_threads_s(pids: &[i32]) -> f64 {
    pids.iter()
        .map(|pid| {
            let text = read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
            text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0)
        })
        .sum::<f64>()
        / 1e9
}

/// The kernel's soft interrupt threads, one a CPU.
pub(crate) fn soft_interrupt_threads() -> Vec<i32> {
    entries("/proc".to_owned())
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with("ksoftirqd/"))
        })
        .collect()
}

/// Seconds that all CPUs were at work for anyone.
pub(crate) fn machine_busy_s() -> f64 {
    let text = read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq
    [0, 1, 2, 5, 6].iter().filter_map(|place| ticks.get(*place)).sum::<f64>() / TICKS_PER_S
}

fn cpu_clock(pid: i32) -> f64 {
    clock_getcpuclockid(Pid::from_raw(pid)).and_then(clock_gettime).map_or(0.0, |time| {
        float(u64::try_from(time.tv_sec()).unwrap_or(0))
            + float(u64::try_from(time.tv_nsec()).unwrap_or(0)) / 1e9
    })
}

fn number(text: &str, key: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

/// The processes that a process has started.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    entries(format!("/proc/{pid}/task"))
        .iter()
        .filter_map(|task| read_to_string(task.join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
        })
        .collect()
}

fn entries(folder: String) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(Path::new(&folder))
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_processor_and_memory_and_none_uses_nothing() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = Usage::of(pid);
        let mut sum = 0_u64;
        for n in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(n));
        }
        let used = Usage::of(pid).since(&before);
        assert!(used.cpu_s > 0.0, "{used:?}");
        assert!(before.rss_bytes >= before.private_dirty_bytes && before.pss_bytes > 0.0);
        // Above the kernel's PID_MAX_LIMIT, so never anyone's.
        assert!(Usage::of(4_194_305).cpu_s == 0.0);
        assert!(machine_busy_s() > 0.0);
    }

    #[test]
    fn voluntary_and_forced_switches_are_not_confused() {
        let status = "voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n";
        assert!((number(status, "voluntary_ctxt_switches:") - 7.0).abs() < f64::EPSILON);
        assert!((number(status, "nonvoluntary_ctxt_switches:") - 3.0).abs() < f64::EPSILON);
    }
}
