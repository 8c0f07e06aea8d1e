//! What this machine allows, held against what the plan needs, before anything starts.
//!
//! Descriptors and source ports end long before processors do, and a generator at its own limit
//! looks like a slow target.

use crate::exit::Error;
use crate::plan::{Phases, Plan};
use crate::profile::Profile;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Descriptors that a thread needs beside its agents' sockets.
const OWN_DESCRIPTORS: u64 = 100;
/// Sockets are counted as open this long per exchange, in seconds; a slow target needs more.
const EXCHANGE_SECONDS: f64 = 0.5;
/// The same in a brownout.
const SLOW_EXCHANGE_SECONDS: f64 = 12.0;
/// How long a closed connection keeps its port pair (TCP_TIMEWAIT_LEN), in seconds.
const TIME_WAIT_SECONDS: f64 = 60.0;
/// The same where tcp_tw_reuse lets a new connection take the pair, in seconds.
const TIME_WAIT_REUSED_SECONDS: f64 = 1.0;
/// Share of the ports that may be planned for; near the end the search for a free one is slow.
const PORTS_USABLE: f64 = 0.5;

/// The limits as they stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Descriptors per table: RLIMIT_NOFILE.
    pub(crate) descriptors: u64,
    /// Size of net.ipv4.ip_local_port_range.
    pub(crate) ports: u32,
    /// net.ipv4.tcp_tw_reuse: 0 off, 1 on, 2 on loopback.
    pub(crate) tw_reuse: u8,
    /// Processors that we may use.
    pub(crate) processors: u32,
}

/// One line of the check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// Whether the plan fits.
    pub(crate) fits: bool,
    /// What was held against what, and the remedy if it does not fit.
    pub(crate) text: String,
}

/// What follows from the limits.
#[derive(Clone, Debug)]
pub(crate) struct Fit {
    /// Load threads to start.
    pub(crate) threads: u32,
    /// Source addresses to use.
    pub(crate) sources: Vec<IpAddr>,
    /// What was checked.
    pub(crate) findings: Vec<Finding>,
}

impl Limits {
    /// Reads the limits, after raising the soft descriptor limit to the hard one.
    pub(crate) fn raised() -> Self {
        if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
            && soft < hard
        {
            // Refused means that the soft limit stays, which is read next.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let range = sysctl("net/ipv4/ip_local_port_range").unwrap_or_default();
        let mut range = range.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
        let ports = match (range.next(), range.next()) {
            (Some(first), Some(last)) if last >= first => last - first + 1,
            _ => 28_232,
        };
        Self {
            descriptors,
            ports,
            tw_reuse: sysctl("net/ipv4/tcp_tw_reuse").and_then(|v| v.parse().ok()).unwrap_or(0),
            processors: std::thread::available_parallelism()
                .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        }
    }

    /// Holds a plan against the limits.
    ///
    /// # Errors
    /// When the threads given cannot carry the agents' descriptors.
    pub(crate) fn fit(
        &self,
        plan: &Plan,
        target: IpAddr,
        threads: Option<u32>,
        sources: &[IpAddr],
    ) -> Result<Fit, Error> {
        let (threads, descriptors) = self.fit_descriptors(plan, threads)?;
        let (sources, ports) = self.fit_ports(plan, target, sources);
        Ok(Fit { threads, sources, findings: vec![descriptors, ports] })
    }

    /// Threads that a sink needs: its listeners share the connections evenly, but not exactly.
    pub(crate) fn sink_threads(&self, plan: &Plan) -> u32 {
        let needed = connections(plan).saturating_mul(5) / 4;
        self.threads_for(needed).max(self.processors).max(2)
    }

    fn threads_for(&self, connections: u64) -> u32 {
        u32::try_from(connections.div_ceil(self.each_thread()).max(1)).unwrap_or(u32::MAX)
    }

    fn each_thread(&self) -> u64 {
        self.descriptors.saturating_sub(OWN_DESCRIPTORS).max(1)
    }

    fn fit_descriptors(&self, plan: &Plan, given: Option<u32>) -> Result<(u32, Finding), Error> {
        let needed = connections(plan);
        let (each, least) = (self.each_thread(), self.threads_for(needed));
        let threads = given.unwrap_or(least);
        if threads < least {
            return Err(Error::Usage(format!(
                "--threads {threads}: {needed} connections at once do not fit; a thread holds \
                 {each} (RLIMIT_NOFILE {}); give --threads {least} or more, or raise the limit",
                self.descriptors
            )));
        }
        let text = format!(
            "descriptors: about {needed} connections at once, {threads} thread(s) with a table \
             of {} each",
            self.descriptors
        );
        Ok((threads, Finding { fits: true, text }))
    }

    fn fit_ports(&self, plan: &Plan, target: IpAddr, given: &[IpAddr]) -> (Vec<IpAddr>, Finding) {
        let reused = self.tw_reuse == 1 || (self.tw_reuse == 2 && target.is_loopback());
        let hold = if reused { TIME_WAIT_REUSED_SECONDS } else { TIME_WAIT_SECONDS };
        let held = f64::from(plan.agents) * plan.profile.held_connections();
        let churn = if held > 0.0 { 0.0 } else { plan.peak_rate() };
        let needed = held + churn * hold;
        let each = f64::from(self.ports) * PORTS_USABLE;
        let least = ceiling(needed / each).max(1);
        let mut sources = given.to_vec();
        if given.is_empty() && least > 1 && target.is_loopback() && target.is_ipv4() {
            // All of 127.0.0.0/8 is ours: further source addresses cost nothing.
            let more = (1..=least.min(250)).filter_map(|n| u8::try_from(n).ok());
            sources = more.map(|n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, n))).collect();
        }
        let fits = sources.len().max(1) as u64 >= least;
        let mut text = format!(
            "source ports: {churn:.0} new connections/s, each pair held {hold:.0} s (TIME_WAIT, \
             tcp_tw_reuse={}), {held:.0} connections kept: {needed:.0} of {} x {} ports",
            self.tw_reuse,
            sources.len().max(1),
            self.ports,
        );
        if !fits {
            text.push_str(&format!(
                "; not enough: give {least} addresses with --source{}",
                if reused { "" } else { ", or sysctl -w net.ipv4.tcp_tw_reuse=1" }
            ));
        }
        (sources, Finding { fits, text })
    }
}

/// Connections that a plan has open at once, about.
fn connections(plan: &Plan) -> u64 {
    let held = f64::from(plan.agents) * plan.profile.held_connections();
    // An agent has one exchange under way at most per lane.
    let each = match plan.profile {
        Profile::Brownout => SLOW_EXCHANGE_SECONDS,
        _ => EXCHANGE_SECONDS,
    };
    let busy = (plan.peak_rate() * each).min(2.0 * f64::from(plan.agents));
    let burst = if plan.phases == Phases::Aligned { f64::from(plan.agents) } else { 0.0 };
    ceiling(held + busy.max(burst))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of connections, positive and far below 2^53"
)]
fn ceiling(number: f64) -> u64 {
    number.ceil() as u64
}

fn sysctl(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    const LIMITS: Limits =
        Limits { descriptors: 20_000, ports: 28_232, tw_reuse: 2, processors: 2 };
    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn plan(agents: u32, profile: Profile) -> Plan {
        Plan {
            agents,
            profile,
            seed: 1,
            ramp: 0,
            duration: SECOND,
            speedup: 1.0,
            phases: Phases::Uniform,
        }
    }

    #[test]
    fn threads_follow_from_the_descriptor_limit() {
        let threads = |agents, profile| {
            LIMITS.fit(&plan(agents, profile), LOOPBACK, None, &[]).unwrap().threads
        };
        assert_eq!(threads(5000, Profile::V5Churn), 1);
        assert_eq!(threads(5000, Profile::GoKeepalive), 1);
        assert_eq!(threads(50_000, Profile::GoKeepalive), 4);
        let refused = LIMITS.fit(&plan(50_000, Profile::GoKeepalive), LOOPBACK, Some(2), &[]);
        assert_eq!(LIMITS.sink_threads(&plan(5000, Profile::V5Churn)), 2);
        assert_eq!(LIMITS.sink_threads(&plan(50_000, Profile::GoKeepalive)), 5);
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("--threads 4") && text.contains("20000"), "{text}");
    }

    #[test]
    fn loopback_gets_more_sources_by_itself_and_others_get_the_remedy() {
        let fit = LIMITS.fit(&plan(100_000, Profile::V5Churn), LOOPBACK, None, &[]).unwrap();
        assert!(fit.sources.len() > 1, "{fit:?}");
        assert!(fit.findings.iter().all(|finding| finding.fits));
        let far = LIMITS.fit(&plan(5000, Profile::V5Churn), FAR, None, &[]).unwrap();
        let text = &far.findings[1].text;
        assert!(!far.findings[1].fits && text.contains("--source"), "{text}");
        assert!(text.contains("tcp_tw_reuse=1"), "{text}");
    }

    #[test]
    fn the_usual_run_needs_nothing_special() {
        let fit = LIMITS.fit(&plan(5000, Profile::V5Churn), LOOPBACK, None, &[]).unwrap();
        assert!(fit.sources.is_empty());
        assert!(fit.findings.iter().all(|finding| finding.fits), "{fit:?}");
    }
}
