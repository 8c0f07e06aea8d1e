//! `loadgen find-max`: the most agents that meet the objectives, by trials.

use crate::cli::{FindMax, Relay, Target};
use crate::exit::{Error, INVALID, OBJECTIVE, SUCCESS};
use crate::progress::millis;
use crate::report::{Report, print, save_json};
use crate::run::{Signals, block_on, trial};
use crate::search::{Search, Step, Upper, Verdict};
use crate::usl::{self, Point, Scaling};
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
    /// What each number of workers carried, where several were asked for; the fields above are of the
    /// last of them.
    by_workers: Vec<Point>,
    /// How that grows; null with fewer than four numbers.
    scaling: Option<Scaling>,
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
    let found = block_on(search_all(typed))?;
    if let Some(path) = &typed.json {
        save_json(path, &found)?;
    }
    Ok(found.exit_code)
}

/// A search for each number of workers, or the only one.
async fn search_all(typed: &FindMax) -> Result<Found, Error> {
    let mut signals = Signals::new()?;
    let each = match typed.workers.as_slice() {
        [] => vec![None],
        workers => workers.iter().copied().map(Some).collect(),
    };
    let mut points = Vec::new();
    let mut last = None;
    for workers in each {
        if let Some(workers) = workers {
            print(&format!("\n{workers} worker(s)\n"));
        }
        let (found, interrupted) = search(typed, workers, &mut signals).await?;
        print(&format!("\n{}\n", conclusion(&found)));
        let carried = found.trials.iter().rfind(|trial| Some(trial.agents) == found.agents);
        let rate = carried.map_or(0.0, |trial| trial.rate);
        points.extend(workers.map(|workers| Point { workers, rate }));
        last = Some(found);
        if interrupted {
            break;
        }
    }
    let mut found = last.ok_or_else(|| Error::Usage("--workers: no number".to_owned()))?;
    found.scaling = usl::fit(&points);
    found.by_workers = points;
    if found.by_workers.len() > 1 {
        print(&growth(&found));
    }
    Ok(found)
}

/// One search; and whether it was interrupted.
async fn search(
    typed: &FindMax,
    workers: Option<u32>,
    signals: &mut Signals,
) -> Result<(Found, bool), Error> {
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
        if let (Some(workers), Target::Started(cast)) = (workers, &mut settings.target)
            && let Relay::Fanin { arguments, .. } = &mut cast.relay
        {
            arguments.extend(["--workers".to_owned(), workers.to_string()]);
        }
        let report = trial(&settings, signals).await?;
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
    let found = Found {
        schema: SCHEMA,
        profile: typed.settings.plan.profile.label(),
        objectives: typed.settings.objectives.iter().map(ToString::to_string).collect(),
        agents,
        confirmed: search.is_confirmed(),
        upper: search.upper(),
        trials,
        by_workers: Vec::new(),
        scaling: None,
        exit_code,
    };
    Ok((found, interrupted))
}

/// What more workers brought, with the law that fits and how well it does.
fn growth(found: &Found) -> String {
    let mut text = format!(
        "\n{:>10}  {:>12}  {:>12}  {:>9}\n",
        "workers", "answered/s", "by the law", "off by"
    );
    for (number, point) in found.by_workers.iter().enumerate() {
        let (law, off) = match &found.scaling {
            None => ("-".to_owned(), "-".to_owned()),
            Some(scaling) => (
                format!("{:.1}", scaling.rate(point.workers.into())),
                format!("{:+.1} %", scaling.residuals[number] * 100.0),
            ),
        };
        text += &format!("{:>10}  {:>12.1}  {law:>12}  {off:>9}\n", point.workers, point.rate);
    }
    let Some(scaling) = &found.scaling else {
        return text + "no law is fitted to fewer than four numbers of workers\n";
    };
    let peak = match scaling.peak_workers {
        Some(peak) => format!("more than {peak:.0} workers bring nothing"),
        None => "no peak".to_owned(),
    };
    text + &format!(
        "one worker alone {:.1}/s, contention {:.4}, coherency {:.6}: {peak}; do not read it beyond twice \
         the most workers measured\n",
        scaling.alone, scaling.contention, scaling.coherency
    )
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
