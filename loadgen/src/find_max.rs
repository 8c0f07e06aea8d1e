//! `loadgen find-max`: the most agents that meet the objectives, by trials.

use crate::cli::FindMax;
use crate::exit::{Error, INVALID, OBJECTIVE, SUCCESS};
use crate::progress::millis;
use crate::report::{Report, print, save_json};
use crate::run::{Signals, block_on, trial};
use crate::search::{Search, Step, Upper, Verdict};
use serde::Serialize;

/// Name and version of the JSON's meaning (docs/loadgen-report.md).
const SCHEMA: &str = "loadgen-find-max/1";

/// What the search came to.
#[derive(Debug, Serialize)]
struct Found {
    schema: &'static str,
    profile: &'static str,
    objectives: Vec<String>,
    /// The most agents that met them; null when none did.
    agents: Option<u32>,
    /// As many whole trials as were asked for met them, and none failed.
    confirmed: bool,
    /// Why not more.
    upper: Upper,
    trials: Vec<Trial>,
    exit_code: u8,
}

/// One trial in brief.
#[derive(Debug, Serialize)]
struct Trial {
    agents: u32,
    verdict: Verdict,
    /// A whole one, to confirm.
    confirming: bool,
    rate: f64,
    failed: u64,
    p50_us: u64,
    p99_us: u64,
    send_lag_p99_us: u64,
    loop_lag_p99_us: u64,
    relay_us_per_exchange: Option<f64>,
    relay_processors: Option<f64>,
    relay_resident_peak_bytes: Option<u64>,
    /// What was missed, or why the trial is invalid.
    why: Vec<String>,
}

/// Searches; the exit code.
///
/// # Errors
/// When a trial could not be made at all.
pub(crate) fn run(typed: &FindMax) -> Result<u8, Error> {
    let found = block_on(search(typed))?;
    print(&format!("\n{}\n", conclusion(&found)));
    if let Some(path) = &typed.json {
        save_json(path, &found)?;
    }
    Ok(found.exit_code)
}

async fn search(typed: &FindMax) -> Result<Found, Error> {
    let mut signals = Signals::new()?;
    let mut search = Search::new(typed.bounds);
    let mut trials = Vec::new();
    print(&format!("{HEADING}\n"));
    let mut interrupted = false;
    while !interrupted {
        let (agents, confirming) = match search.step() {
            Step::Try(agents) => (agents, false),
            Step::Confirm(agents) => (agents, true),
            Step::Done => break,
        };
        let mut settings = typed.settings.clone();
        settings.plan.agents = agents;
        if !confirming {
            settings.plan.duration = typed.trial.min(settings.plan.duration);
        }
        let report = trial(&settings, &mut signals).await?;
        interrupted = report.achieved.interrupted;
        let trial = Trial::new(&report, confirming);
        print(&format!("{}\n", trial.row()));
        if !interrupted {
            search.note(trial.verdict);
        }
        trials.push(trial);
    }
    let agents = search.lower();
    let exit_code = match (agents, search.upper()) {
        (_, Upper::Generator(_)) => INVALID,
        (None, _) => OBJECTIVE,
        (Some(_), _) if !search.is_confirmed() => OBJECTIVE,
        _ => SUCCESS,
    };
    Ok(Found {
        schema: SCHEMA,
        profile: typed.settings.plan.profile.label(),
        objectives: typed.settings.objectives.iter().map(ToString::to_string).collect(),
        agents,
        confirmed: search.is_confirmed(),
        upper: search.upper(),
        trials,
        exit_code,
    })
}

const HEADING: &str = "    agents  trial    verdict     answered/s   failed        p50        p99   \
    send lag  relay us each  relay CPUs";

impl Trial {
    fn new(report: &Report, confirming: bool) -> Self {
        let missed = report.objectives.iter().filter(|judged| !judged.met);
        let missed: Vec<_> =
            missed.map(|judged| format!("{} (value {})", judged.objective, judged.value)).collect();
        let invalid = &report.generator.invalid;
        let (verdict, why) = if !invalid.is_empty() {
            (Verdict::Invalid, invalid.clone())
        } else if missed.is_empty() {
            (Verdict::Passed, missed)
        } else {
            (Verdict::Failed, missed)
        };
        let exchange = report.latency_us.exchange.from_intended;
        let relay = report.relay.as_ref();
        Self {
            agents: report.asked.agents,
            verdict,
            confirming,
            rate: report.achieved.rate,
            failed: report.achieved.failed(),
            p50_us: exchange.p50,
            p99_us: exchange.p99,
            send_lag_p99_us: report.send_lag_us.p99,
            loop_lag_p99_us: report.loop_lag_us.p99,
            relay_us_per_exchange: relay.map(|relay| relay.us_per_exchange),
            relay_processors: report.relay_processors(),
            relay_resident_peak_bytes: relay.map(|relay| relay.resident_peak_bytes),
            why,
        }
    }

    fn row(&self) -> String {
        let or_dash = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.2}"));
        let mut row = format!(
            "{:>10}  {:<7}  {:<8}  {:>12.1} {:>8} {:>10} {:>10} {:>10} {:>14} {:>11}",
            self.agents,
            if self.confirming { "whole" } else { "short" },
            format!("{:?}", self.verdict).to_lowercase(),
            self.rate,
            self.failed,
            millis(self.p50_us),
            millis(self.p99_us),
            millis(self.send_lag_p99_us.max(self.loop_lag_p99_us)),
            or_dash(self.relay_us_per_exchange),
            or_dash(self.relay_processors),
        );
        for why in &self.why {
            row.push_str("\n            ");
            row.push_str(why);
        }
        row
    }
}

fn conclusion(found: &Found) -> String {
    let objectives = found.objectives.join(", ");
    let Some(agents) = found.agents else {
        return format!("no number of {} agents met {objectives}", found.profile);
    };
    let confirmed = if found.confirmed { "confirmed" } else { "NOT confirmed" };
    let why = match found.upper {
        Upper::Target(upper) => format!("{upper} did not"),
        Upper::Generator(upper) => format!(
            "{upper} could not be offered: the generator was the limit, the target may carry more \
             (--threads, more machines and --start-at help)"
        ),
        Upper::Most(most) => format!("more than {most} were not to be tried (--most)"),
    };
    format!("{agents} {} agents meet {objectives}: {confirmed}; {why}", found.profile)
}
