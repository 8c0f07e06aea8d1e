//! Processor time and memory of the relay and of the whole machine, from /proc.

use serde::Serialize;
use std::fs::read_to_string;
use std::time::Duration;

/// The unit of processor times in /proc: USER_HZ is 100 wherever Linux runs today.
const TICK: Duration = Duration::from_millis(10);

/// What a process and its descendants have used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Processor time in user mode.
    pub(crate) user: Duration,
    /// Processor time in the kernel.
    pub(crate) system: Duration,
    /// Resident memory now, in bytes.
    pub(crate) resident: u64,
    /// Most resident memory ever, in bytes.
    pub(crate) resident_peak: u64,
}

/// What all processors have done since the machine started.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Machine {
    /// Seconds in user mode.
    pub(crate) user_s: f64,
    /// Seconds in the kernel for processes.
    pub(crate) system_s: f64,
    /// Seconds in hard and soft interrupts, which no process is charged for.
    pub(crate) interrupts_s: f64,
    /// Seconds taken by other guests of the host.
    pub(crate) stolen_s: f64,
    /// Seconds idle.
    pub(crate) idle_s: f64,
}

impl Machine {
    /// The machine now; zeros where /proc cannot be read.
    pub(crate) fn now() -> Self {
        let text = read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> =
            line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        let of = |place: usize| ticks.get(place).copied().unwrap_or(0.0) * TICK.as_secs_f64();
        Self {
            user_s: of(0) + of(1),
            system_s: of(2),
            interrupts_s: of(5) + of(6),
            stolen_s: of(7),
            idle_s: of(3) + of(4),
        }
    }

    /// What has been done since.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            user_s: self.user_s - earlier.user_s,
            system_s: self.system_s - earlier.system_s,
            interrupts_s: self.interrupts_s - earlier.interrupts_s,
            stolen_s: self.stolen_s - earlier.stolen_s,
            idle_s: self.idle_s - earlier.idle_s,
        }
    }

    /// Seconds at work.
    pub(crate) fn busy_s(&self) -> f64 {
        self.user_s + self.system_s + self.interrupts_s
    }
}

/// Usage of a process and all its descendants; nothing when it does not exist.
pub(crate) fn usage(pid: i32) -> Option<Usage> {
    let mut total = usage_of_one(pid)?;
    for child in children(pid) {
        if let Some(usage) = usage(child) {
            total.user += usage.user;
            total.system += usage.system;
            total.resident += usage.resident;
            total.resident_peak += usage.resident_peak;
        }
    }
    Some(total)
}

fn usage_of_one(pid: i32) -> Option<Usage> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
    let (user, system) = processor_ticks(&stat)?;
    Some(Usage {
        user: TICK * user,
        system: TICK * system,
        resident: kilobytes(&status, "VmRSS:") * 1024,
        resident_peak: kilobytes(&status, "VmHWM:") * 1024,
    })
}

/// Fields 14 and 15. The name in field 2 may hold spaces and brackets: count from its end.
fn processor_ticks(stat: &str) -> Option<(u32, u32)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn kilobytes(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = tasks.filter_map(|task| read_to_string(task.ok()?.path().join("children")).ok());
    let pids = lists.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    });
    pids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 17 23 0 0 20 0 3 0 9 9 9";
        assert_eq!(processor_ticks(stat), Some((17, 23)));
    }

    #[test]
    fn this_process_has_memory_and_one_that_never_was_has_no_usage() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let usage = usage(pid).unwrap();
        assert!(usage.resident > 0 && usage.resident_peak >= usage.resident);
        assert!(super::usage(i32::MAX).is_none());
    }

    #[test]
    fn the_machine_has_been_running() {
        let now = Machine::now();
        assert!(now.busy_s() > 0.0 && now.idle_s >= 0.0);
        assert!(now.since(&now).busy_s() == 0.0);
    }
}
