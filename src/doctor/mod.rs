//! What so many agents take: on this host, with the command that cures what stops them, and on paper.
//!
//! `host` looks, `judge` judges the snapshot against a configuration, `plan` reckons for hosts that
//! are still to be bought. Nothing is changed here.

mod host;
mod judge;
mod plan;

use std::fmt::Write as _;

use serde::Serialize;

pub use host::{Card, Host};
pub use judge::{AGENTS_DEFAULT, judge};
pub use plan::{Measured, MeasuredError, Plan, PortBudget, Scaling, Wanted, plan};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// So many agents cannot be served.
    Stops,
    /// They can, worse than need be, or not at every moment.
    Warns,
    Fine,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// What: a name that stays the same.
    pub topic: &'static str,
    /// What was found.
    pub found: String,
    /// What is needed, and why.
    pub needed: String,
    /// The command that cures it; `None` where nothing is wrong.
    pub cure: Option<String>,
}

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// How many agents were asked about.
    pub agents: u32,
    pub workers: u16,
    /// Whether nothing stops them.
    pub ok: bool,
    /// The worst first.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// For people; one more line each for what is needed and what cures it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} agents, {} workers", self.agents, self.workers);
        for finding in &self.findings {
            let word = match finding.severity {
                Severity::Stops => "STOPS",
                Severity::Warns => "warns",
                Severity::Fine => "fine",
            };
            let _ = writeln!(out, "  {word:<6} {:<14} {}", finding.topic, finding.found);
            if finding.severity != Severity::Fine {
                let _ = writeln!(out, "         needed: {}", finding.needed);
                for (number, line) in finding.cure.iter().flat_map(|cure| cure.lines()).enumerate()
                {
                    let label = if number == 0 { "cure:  " } else { "       " };
                    let _ = writeln!(out, "         {label} {line}");
                }
            }
        }
        let verdict = if self.ok { "nothing stops" } else { "something stops" };
        let _ = writeln!(out, "{verdict} {} agents on this host", self.agents);
        out
    }

    /// For programs.
    pub fn json(&self) -> String {
        // Strings and numbers alone: that cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}
