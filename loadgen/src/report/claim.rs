//! PURE: the verdict on the claim that one relay carries upwards of 1000 agents.

use super::{Achieved, Asked, Latencies};
use crate::progress::millis;
use serde::Serialize;

/// The claim in words, printed with the verdict.
pub(crate) const RULE: &str = "1000 v5-churn agents or more at their real rate or above, each \
    answered at least once, no error, send lag (and loop lag) p99 below 1 ms, exchange p99 below 1 s";

const AGENTS: u64 = 1000;
const SEND_LAG_P99_US: u64 = 1_000;
const EXCHANGE_P99_US: u64 = 1_000_000;

/// The verdict.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Claim {
    /// What had to hold.
    pub(crate) rule: &'static str,
    /// Whether it held.
    pub(crate) shown: bool,
    /// What did not hold.
    pub(crate) why_not: Vec<String>,
}

/// Judges a run. `lag_p99_us` is the worse of the generator's two lags.
pub(crate) fn judge(
    asked: &Asked,
    achieved: &Achieved,
    latency: &Latencies,
    lag_p99_us: u64,
    fallen: Option<&str>,
) -> Claim {
    let mut why_not = Vec::new();
    if asked.profile != "v5-churn" {
        why_not.push(format!("the profile was {}", asked.profile));
    }
    if u64::from(asked.agents) < AGENTS {
        why_not.push(format!("only {} agents were asked for", asked.agents));
    }
    if asked.speedup < 1.0 {
        why_not.push(format!("the agents' timers ran at {} of their rate", asked.speedup));
    }
    if achieved.agents_answered < u64::from(asked.agents) {
        let silent = u64::from(asked.agents) - achieved.agents_answered;
        why_not.push(format!("{silent} agents got no answer; measure longer, if they had no turn"));
    }
    let failed = achieved.failed();
    if failed > 0 {
        why_not.push(format!("{failed} errors"));
    }
    if lag_p99_us >= SEND_LAG_P99_US {
        why_not.push(format!("the generator was late: {} at p99", millis(lag_p99_us)));
    }
    let p99 = latency.exchange.from_intended.p99;
    if p99 >= EXCHANGE_P99_US {
        why_not.push(format!("exchange p99 was {}", millis(p99)));
    }
    if achieved.interrupted {
        why_not.push("the run was interrupted".to_owned());
    }
    why_not.extend(fallen.map(str::to_owned));
    Claim { rule: RULE, shown: why_not.is_empty(), why_not }
}
