//! On what machine, with what versions, by what command.

use std::fs::read_to_string;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;

use crate::cli;
use crate::stage::Stage;

/// Sysctls that change what is measured.
const SYSCTLS: [&str; 16] = [
    "fs.pipe-max-size",
    "fs.pipe-user-pages-soft",
    "kernel.io_uring_disabled",
    "net.core.busy_poll",
    "net.core.rmem_max",
    "net.core.somaxconn",
    "net.core.wmem_max",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_wmem",
    "net.netfilter.nf_conntrack_count",
];

/// What a result depends on beside the programs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Manifest {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) command: String,
    pub(crate) remark: Option<String>,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) relay_cpu: usize,
    pub(crate) load_cpus: Vec<usize>,
    pub(crate) virtual_machine: bool,
    pub(crate) governor: String,
    pub(crate) mitigations: Vec<String>,
    pub(crate) memory: String,
    pub(crate) kernel: String,
    pub(crate) descriptors: u64,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) versions: Vec<(String, String)>,
    /// /proc/loadavg before and after.
    pub(crate) load_average: (String, String),
}

impl Manifest {
    pub(crate) fn new(
        stage: &Stage,
        versions: Vec<(String, String)>,
        arguments: &cli::Run,
    ) -> Self {
        let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let sysctls = SYSCTLS.iter().filter_map(|name| {
            let text = read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
            Some(((*name).to_owned(), text.split_whitespace().collect::<Vec<_>>().join(" ")))
        });
        Self {
            date: date(),
            commit: commit(),
            command: command(arguments),
            remark: arguments.remark.clone(),
            cpu: field(&cpuinfo, "model name"),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            relay_cpu: stage.relay_cpu,
            load_cpus: stage.load_cpus.clone(),
            virtual_machine: field(&cpuinfo, "flags").contains(" hypervisor"),
            governor: trimmed("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            mitigations: mitigations(),
            memory: field(&read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal"),
            kernel: trimmed("/proc/sys/kernel/osrelease"),
            descriptors: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard),
            sysctls: sysctls.collect(),
            versions,
            load_average: (String::new(), String::new()),
        }
    }

    /// The name of the folder that results belong in.
    pub(crate) fn folder(&self) -> String {
        format!("{}-{}", self.date, self.commit)
    }

    pub(crate) fn load_average() -> String {
        let text = read_to_string("/proc/loadavg").unwrap_or_default();
        text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
    }

    /// The same with the load average before, and now.
    pub(crate) fn with_load(&self, before: String) -> Self {
        Self { load_average: (before, Self::load_average()), ..self.clone() }
    }
}

/// As it can be typed again; programs by name, since where they lie is this machine's affair.
fn command(arguments: &cli::Run) -> String {
    let name = |path: &std::path::Path| {
        path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    };
    let mut words = vec!["bench run".to_owned()];
    words.extend(arguments.scenarios.iter().map(|path| format!("bench/scenarios/{}", name(path))));
    words.push(format!("--rounds {}", arguments.rounds));
    if !arguments.only.is_empty() {
        words.push(format!("--only {}", arguments.only.join(" ")));
    }
    if let Some(rival) = &arguments.rival {
        words.push(format!("--rival {}", name(rival)));
    }
    words.join(" ")
}

fn commit() -> String {
    let git = |words: &[&str]| {
        let output = Command::new("git").args(words).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    // Results of earlier scenarios of the same run are new files, not changes.
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}-changed"),
    }
}

fn mitigations() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return Vec::new();
    };
    let mut lines: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let text = read_to_string(&path).ok()?;
            let name = path.file_name()?.to_string_lossy().into_owned();
            (text.trim() != "Not affected").then(|| format!("{name}: {}", text.trim()))
        })
        .collect();
    lines.sort();
    lines
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value).trim().to_owned()
}

fn trimmed(path: &str) -> String {
    read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn date() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil(i64::try_from(since.as_secs() / 86_400).unwrap_or(0));
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible
/// low-level date algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_088), (2024, 12, 31));
    }
}
