//! `loadgen claim`: does one relay on an m3.xlarge carry upwards of 1000 agents, as the proxy page
//! says of HAProxy? Each relay is measured as it comes and within a budget of processors that stands
//! for that machine; the figure for the machine itself is a conversion, and is called one.

use crate::cli::{Cast, Claim, Peer, Relay, Settings, Target};
use crate::exit::{Error, INVALID, OBJECTIVE, SUCCESS};
use crate::profile::Profile;
use crate::progress::millis;
use crate::report::{Report, print, save_json};
use crate::run::{Signals, block_on, trial};
use crate::stage::confine;
use serde::Serialize;

/// Name and version of the JSON's meaning (docs/loadgen-report.md).
const SCHEMA: &str = "loadgen-claim/1";
/// The m3.xlarge: four hyperthreads of two cores of a Xeon E5-2670 v2, together worth so many of its
/// threads alone (geometric mean of seven Geekbench 3 pairs of such an instance).
const THREADS: f64 = 2.42;
/// What mitigations and Xen's network take: a kernel of today costs that processor more than this one.
const SAFETY: f64 = 0.75;
/// Where the ratio of one thread to the other may lie.
const RATIO_BAND: [f64; 2] = [1.6, 2.1];
/// How full a relay is planned.
const HEADROOM: f64 = 0.65;

/// What it came to.
#[derive(Debug, Serialize)]
struct Judgement {
    schema: &'static str,
    /// What had to hold, within the budget.
    rule: &'static str,
    /// Processors of this machine that stand for an m3.xlarge, and the band of that guess.
    budget: f64,
    budget_band: [f64; 2],
    ratio: f64,
    runs: Vec<Line>,
    verdicts: Vec<Conclusion>,
    exit_code: u8,
}

/// One run.
#[derive(Debug, Serialize)]
struct Line {
    relay: &'static str,
    agents: u32,
    /// Within the budget, or as it comes.
    within_budget: bool,
    rate: f64,
    failed: u64,
    p50_us: u64,
    p99_us: u64,
    relay_us_per_exchange: f64,
    relay_processors: f64,
    relay_resident_peak_bytes: u64,
    /// The generator was not the limit.
    valid: bool,
    shown: bool,
    why_not: Vec<String>,
}

/// What all runs of one relay say together.
#[derive(Debug, Serialize)]
struct Conclusion {
    relay: &'static str,
    /// With every number of agents, within the budget.
    shown: bool,
    /// Agents that an m3.xlarge would carry at 65 % of its budget, with the band of the ratio.
    converted_agents: Option<f64>,
    converted_band: Option<[f64; 2]>,
}

/// Makes all runs; the exit code.
///
/// # Errors
/// When one of them could not be made at all.
pub(crate) fn run(claim: &Claim) -> Result<u8, Error> {
    let budget = Budget::new(claim.ratio, claim.budget);
    let cpus = Processors::split(budget.processors)?;
    print(&format!(
        "claim: one relay on an m3.xlarge carries upwards of 1000 agents\n  {}\n",
        budget.text()
    ));
    print(&format!(
        "  within it the relay has processor(s) {:?}, generator and sink the others\n\n{HEADING}\n",
        cpus.relay
    ));
    let runs = block_on(runs(claim, &budget, &cpus))?;
    let conclude = |relay: Relay| conclude(relay.label(), &runs, &budget);
    let verdicts: Vec<_> = relays(claim).into_iter().map(conclude).collect();
    print("\n");
    for verdict in &verdicts {
        print(&format!("{}\n", verdict.text()));
    }
    let exit_code = match &verdicts[..] {
        _ if runs.iter().any(|line| !line.valid) => INVALID,
        [fanin, ..] if fanin.shown => SUCCESS,
        _ => OBJECTIVE,
    };
    let judgement = Judgement {
        schema: SCHEMA,
        rule: crate::report::claim::RULE,
        budget: budget.processors,
        budget_band: budget.band,
        ratio: claim.ratio,
        runs,
        verdicts,
        exit_code,
    };
    if let Some(path) = &claim.json {
        save_json(path, &judgement)?;
    }
    Ok(exit_code)
}

/// Relays in turn for each number of agents, so that no part of the day belongs to one of them.
async fn runs(claim: &Claim, budget: &Budget, cpus: &Processors) -> Result<Vec<Line>, Error> {
    let mut signals = Signals::new()?;
    let mut lines = Vec::new();
    let relays = relays(claim);
    for &agents in &claim.agents {
        for within_budget in [false, true] {
            for relay in &relays {
                let cast = Cast {
                    relay: relay.clone(),
                    cpus: if within_budget { cpus.relay.clone() } else { Vec::new() },
                };
                let mut settings =
                    Settings { target: Target::Started(cast), ..claim.settings.clone() };
                settings.plan.agents = agents;
                confine(if within_budget { &cpus.others } else { &cpus.all })?;
                let report = trial(&settings, &mut signals).await?;
                let line = Line::new(relay, &report, within_budget.then_some(budget.processors));
                print(&format!("{}\n", line.row()));
                lines.push(line);
                if report.achieved.interrupted {
                    return Ok(lines);
                }
            }
        }
    }
    Ok(lines)
}

/// Who is judged: fanin first.
fn relays(claim: &Claim) -> Vec<Relay> {
    let fanin = match &claim.settings.target {
        Target::Started(cast) => Some(cast.relay.clone()),
        Target::Given { .. } => None,
    };
    let peer = claim.peer.map(|Peer::Haproxy| Relay::Haproxy);
    fanin.into_iter().chain(peer).collect()
}

/// Processors of this machine that stand for an m3.xlarge.
#[derive(Debug)]
struct Budget {
    processors: f64,
    band: [f64; 2],
    ratio: f64,
    typed: bool,
}

impl Budget {
    fn new(ratio: f64, typed: Option<f64>) -> Self {
        let of = |ratio: f64| THREADS / ratio * SAFETY;
        let processors = typed.unwrap_or_else(|| of(ratio));
        // The band scales with what was typed: the guess is in the ratio.
        let band = RATIO_BAND.map(|other| processors * ratio / other);
        Self { processors, band: [band[1], band[0]], ratio, typed: typed.is_some() }
    }

    fn text(&self) -> String {
        let whence = if self.typed {
            "as given".to_owned()
        } else {
            format!("{THREADS} of its threads, each 1/{} of one here, less a quarter", self.ratio)
        };
        format!(
            "{:.2} processors of this machine stand for it ({whence}); {:.2} to {:.2} if the ratio is \
             {} to {}",
            self.processors, self.band[0], self.band[1], RATIO_BAND[1], RATIO_BAND[0]
        )
    }
}

/// Who runs where.
#[derive(Debug)]
struct Processors {
    all: Vec<usize>,
    relay: Vec<usize>,
    others: Vec<usize>,
}

impl Processors {
    fn split(budget: f64) -> Result<Self, Error> {
        let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
        let set =
            set.map_err(|errno| Error::System(format!("cannot ask for processors: {errno}")))?;
        let usable = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
        let all: Vec<_> = (0..nix::sched::CpuSet::count()).filter(usable).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 1000")]
        let wanted = budget.ceil() as usize;
        if wanted >= all.len() {
            return Err(Error::System(format!(
                "a budget of {budget:.2} takes {wanted} processor(s), and generator and sink need one \
                 more; there are {}: give a smaller --budget, or use a larger machine",
                all.len()
            )));
        }
        let (others, relay) = all.split_at(all.len() - wanted);
        Ok(Self { others: others.to_vec(), relay: relay.to_vec(), all })
    }
}

const HEADING: &str = "  relay    agents  where             answered/s   failed        p50        p99  \
    relay us each  relay CPUs  verdict";

impl Line {
    fn new(relay: &Relay, report: &Report, budget: Option<f64>) -> Self {
        let mut why_not = report.claim.why_not.clone();
        let used = report.relay_processors().unwrap_or_default();
        if let Some(budget) = budget.filter(|budget| used > *budget) {
            why_not.push(format!("it used {used:.2} processors of a budget of {budget:.2}"));
        }
        let exchange = report.latency_us.exchange.from_intended;
        Self {
            relay: relay.label(),
            agents: report.asked.agents,
            within_budget: budget.is_some(),
            rate: report.achieved.rate,
            failed: report.achieved.failed(),
            p50_us: exchange.p50,
            p99_us: exchange.p99,
            relay_us_per_exchange: report.relay.as_ref().map_or(0.0, |relay| relay.us_per_exchange),
            relay_processors: used,
            relay_resident_peak_bytes: report
                .relay
                .as_ref()
                .map_or(0, |relay| relay.resident_peak_bytes),
            valid: report.generator.invalid.is_empty(),
            shown: why_not.is_empty(),
            why_not,
        }
    }

    fn row(&self) -> String {
        format!(
            "  {:<8} {:>6}  {:<15} {:>12.1} {:>8} {:>10} {:>10} {:>14.1} {:>11.3}  {}",
            self.relay,
            self.agents,
            if self.within_budget { "in the budget" } else { "as it comes" },
            self.rate,
            self.failed,
            millis(self.p50_us),
            millis(self.p99_us),
            self.relay_us_per_exchange,
            self.relay_processors,
            match self.shown {
                true => "shown".to_owned(),
                false => format!("not shown: {}", self.why_not.join("; ")),
            },
        )
    }
}

fn conclude(relay: &'static str, runs: &[Line], budget: &Budget) -> Conclusion {
    let within = || runs.iter().filter(|line| line.relay == relay && line.within_budget);
    // The fullest run is nearest to what is asked: cost falls as a relay fills.
    let fullest = within().filter(|line| line.relay_us_per_exchange > 0.0);
    let fullest = fullest.max_by_key(|line| line.agents);
    let carried = |processors: f64, line: &Line| {
        let exchanges = HEADROOM * processors * 1e6 / line.relay_us_per_exchange;
        exchanges / Profile::V5Churn.posts_per_second()
    };
    Conclusion {
        relay,
        shown: within().count() > 0 && within().all(|line| line.shown),
        converted_agents: fullest.map(|line| carried(budget.processors, line)),
        converted_band: fullest.map(|line| budget.band.map(|band| carried(band, line))),
    }
}

impl Conclusion {
    fn text(&self) -> String {
        let verdict = if self.shown { "SHOWN" } else { "not shown" };
        let mut text = format!("{}: {verdict} within the budget", self.relay);
        if let (Some(agents), Some([least, most])) = (self.converted_agents, self.converted_band) {
            text.push_str(&format!(
                "; converted, not measured: an m3.xlarge at {:.0} % would carry about {agents:.0} agents \
                 ({least:.0} to {most:.0})",
                HEADROOM * 100.0
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(agents: u32, us: f64, shown: bool) -> Line {
        Line {
            relay: "fanin",
            agents,
            within_budget: true,
            rate: 0.0,
            failed: 0,
            p50_us: 0,
            p99_us: 0,
            relay_us_per_exchange: us,
            relay_processors: 0.0,
            relay_resident_peak_bytes: 0,
            valid: true,
            shown,
            why_not: Vec::new(),
        }
    }

    #[test]
    fn the_budget_and_its_band_follow_from_the_ratio() {
        let budget = Budget::new(1.85, None);
        assert!((budget.processors - 0.981).abs() < 0.001, "{budget:?}");
        assert!((budget.band[0] - 0.864).abs() < 0.001, "{budget:?}");
        assert!((budget.band[1] - 1.134).abs() < 0.001, "{budget:?}");
        assert!((Budget::new(1.85, Some(2.0)).processors - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_conversion_rests_on_the_fullest_run_and_the_verdict_on_all() {
        let budget = Budget::new(1.85, Some(1.0));
        let runs = [line(1000, 200.0, true), line(5000, 100.0, true)];
        let conclusion = conclude("fanin", &runs, &budget);
        assert!(conclusion.shown);
        // 6500 exchanges a second, of which an agent makes 0.2858.
        assert!((conclusion.converted_agents.unwrap() - 22_746.0).abs() < 10.0, "{conclusion:?}");
        let runs = [line(1000, 200.0, true), line(5000, 100.0, false)];
        assert!(!conclude("fanin", &runs, &budget).shown);
        assert!(!conclude("haproxy", &runs, &budget).shown);
    }
}
