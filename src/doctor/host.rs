//! What is found on this host, read in one place; [`judge`](super::judge) works on the snapshot alone.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::engine::uring;
use crate::sys::process;

/// One network card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    pub name: String,
    pub receive_queues: usize,
    /// Whether packets of any queue are spread over CPUs (`rps_cpus`).
    pub is_spread: bool,
}

/// A snapshot of a host. What cannot be read is `None`, and not judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub is_root: bool,
    pub processors: usize,
    /// RLIMIT_NOFILE, soft and hard.
    pub descriptors: Option<(u64, u64)>,
    /// `fs.nr_open`
    pub descriptors_max: Option<u64>,
    /// `fs.file-max`, and how many are open (`fs.file-nr`).
    pub files_max: Option<u64>,
    pub files_open: Option<u64>,
    /// `net.core.somaxconn`
    pub queue_max: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`
    pub handshakes_max: Option<u64>,
    pub local_ports: Option<RangeInclusive<u16>>,
    pub reserved_ports: Vec<RangeInclusive<u16>>,
    /// `net.ipv4.tcp_timestamps`
    pub timestamps: Option<u64>,
    /// `net.ipv4.tcp_tw_reuse`
    pub reuse: Option<u64>,
    /// `net.ipv4.tcp_migrate_req`
    pub migrate: Option<u64>,
    /// `net.ipv4.ip_unprivileged_port_start`
    pub first_free_port: Option<u64>,
    /// `fs.pipe-user-pages-soft`
    pub pipe_pages: Option<u64>,
    /// Pages: `net.ipv4.tcp_mem`, low, pressure, high.
    pub tcp_pages: Option<[u64; 3]>,
    /// Bytes: `MemAvailable`.
    pub memory: Option<u64>,
    /// Connections tracked, and the most that may be; `None` where none are tracked.
    pub tracked: Option<(u64, u64)>,
    pub clock: Option<String>,
    /// Why io_uring cannot run here.
    pub ring_unfit: Option<String>,
    /// Ports of TCP that somebody listens on.
    pub ports_taken: BTreeSet<u16>,
    /// Connections lost to full queues since the start (`ListenOverflows`).
    pub overflows: Option<u64>,
    pub cards: Vec<Card>,
}

impl Host {
    /// Looks at this host.
    pub fn look() -> Self {
        let sysctl = |name: &str| number(&format!("/proc/sys/{name}"));
        let files = text("/proc/sys/fs/file-nr");
        Self {
            is_root: process::is_root(),
            processors: process::processors_allowed().map_or(1, |cpus| cpus.len()),
            descriptors: process::descriptor_limits().ok(),
            descriptors_max: sysctl("fs/nr_open"),
            files_max: sysctl("fs/file-max"),
            files_open: files.split_whitespace().next().and_then(|open| open.parse().ok()),
            queue_max: sysctl("net/core/somaxconn"),
            handshakes_max: sysctl("net/ipv4/tcp_max_syn_backlog"),
            local_ports: process::local_port_range().ok(),
            reserved_ports: process::reserved_ports().unwrap_or_default(),
            timestamps: sysctl("net/ipv4/tcp_timestamps"),
            reuse: sysctl("net/ipv4/tcp_tw_reuse"),
            migrate: sysctl("net/ipv4/tcp_migrate_req"),
            first_free_port: sysctl("net/ipv4/ip_unprivileged_port_start"),
            pipe_pages: process::pipe_pages_soft().ok(),
            tcp_pages: pages(&text("/proc/sys/net/ipv4/tcp_mem")),
            memory: memory(&text("/proc/meminfo")),
            tracked: sysctl("net/netfilter/nf_conntrack_count")
                .zip(sysctl("net/netfilter/nf_conntrack_max")),
            clock: some(text("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
            ring_unfit: uring::probe().err().map(|why| why.to_string()),
            ports_taken: ["/proc/net/tcp", "/proc/net/tcp6"]
                .into_iter()
                .flat_map(|path| listening(&text(path)))
                .collect(),
            overflows: overflows(&text("/proc/net/netstat")),
            cards: cards(Path::new("/sys/class/net")),
        }
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn some(text: String) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number(path: &str) -> Option<u64> {
    text(path).split_whitespace().next()?.parse().ok()
}

fn pages(text: &str) -> Option<[u64; 3]> {
    let pages: Vec<u64> = text.split_whitespace().map_while(|word| word.parse().ok()).collect();
    pages.try_into().ok()
}

fn memory(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The ports of `/proc/net/tcp` whose state is 0A, LISTEN.
fn listening(text: &str) -> Vec<u16> {
    let port = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next()?;
        (words.nth(1)? == "0A").then_some(())?;
        u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
    };
    text.lines().skip(1).filter_map(port).collect()
}

/// A line of names and a line of numbers, for each group.
fn overflows(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let names = lines.find(|line| line.starts_with("TcpExt:"))?;
    let at = names.split_whitespace().position(|name| name == "ListenOverflows")?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

fn cards(folder: &Path) -> Vec<Card> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    // What has no device behind it (loopback, bridges, veth) has no interrupts of its own.
    let mut cards: Vec<_> = entries
        .filter(|entry| entry.path().join("device").exists())
        .map(|entry| {
            let queues = fs::read_dir(entry.path().join("queues")).into_iter().flatten();
            let receive: Vec<_> = queues
                .filter_map(Result::ok)
                .filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-"))
                .collect();
            let spreads = |path: &Path| {
                let mask = fs::read_to_string(path.join("rps_cpus")).unwrap_or_default();
                mask.contains(|c: char| c.is_ascii_hexdigit() && c != '0')
            };
            Card {
                name: entry.file_name().to_string_lossy().into_owned(),
                receive_queues: receive.len(),
                is_spread: receive.iter().any(|queue| spreads(&queue.path())),
            }
        })
        .collect();
    cards.sort_by(|one, other| one.name.cmp(&other.name));
    cards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood() {
        let tcp = "  sl  local_address rem_address   st tx_queue\n\
                   0: 0100007F:0EFA 00000000:0000 0A 00000000:00000000\n\
                   1: 0100007F:0EFB 0100007F:1234 01 00000000:00000000\n";
        assert_eq!(listening(tcp), [3834]);
        let netstat =
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 17 18\nIpExt: X\n";
        assert_eq!(overflows(netstat), Some(17));
        assert_eq!(memory("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(pages("1\t2\t3\n"), Some([1, 2, 3]));
        assert_eq!((pages("1 2"), overflows(""), memory("")), (None, None, None));
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let host = Host::look();
        assert!(host.processors > 0 && host.descriptors.is_some() && host.queue_max.is_some());
    }
}
