//! Rounds: every subject in turn, then again the other way round, so that what drifts on the
//! machine meets all alike.

use std::path::PathBuf;

use crate::cli;
use crate::error::Error;
use crate::load::Outcome;
use crate::manifest::Manifest;
use crate::report;
use crate::scenario::Scenario;
use crate::stage::Stage;
use crate::subject::{self, Subject};

/// What became of one subject.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) subject: Subject,
    /// One for each round that succeeded.
    pub(crate) outcomes: Vec<(u32, Outcome)>,
    /// Rounds that did not, with the reason.
    pub(crate) failed: Vec<(u32, String)>,
}

/// Runs all scenarios; true when nothing failed.
///
/// # Errors
/// When there is nothing to measure or results cannot be written.
pub(crate) fn run(arguments: &cli::Run) -> Result<bool, Error> {
    let scenarios: Vec<_> =
        arguments.scenarios.iter().map(|path| Scenario::read(path)).collect::<Result<_, _>>()?;
    let mut stage = Stage::new(arguments.relay_cpu, arguments.load_cpus.clone())?;
    let fanin = subject::fanin(arguments.fanin.as_deref())?;
    let all = subject::all(&fanin, arguments.rival.as_deref());
    // A misspelt word must not measure nothing for an hour.
    let words: Vec<String> = arguments
        .only
        .iter()
        .map(|word| word.split('+').next().unwrap_or_default().to_owned())
        .collect();
    subject::chosen(all.clone(), &words).map_err(Error::at("--only"))?;
    let mut well = true;
    let mut folder = arguments.out.clone();
    for scenario in &scenarios {
        let (subjects, versions) = installed(subject::of(scenario, &all, &arguments.only)?);
        if subjects.is_empty() {
            eprintln!("bench: SKIPPED {}: none of its subjects is here", scenario.name);
            continue;
        }
        let manifest = Manifest::new(&stage, versions, arguments);
        let folder =
            folder.get_or_insert_with(|| PathBuf::from("bench/results").join(manifest.folder()));
        println!("{}: {}", scenario.name, scenario.title);
        let before = Manifest::load_average();
        let measured = rounds(scenario, &subjects, arguments.rounds, &mut stage);
        well &= measured.iter().all(|measured| measured.failed.is_empty());
        report::write(scenario, &measured, &manifest.with_load(before), folder)?;
    }
    match folder {
        Some(folder) => println!("results are in {}", folder.display()),
        None => return Err(Error("nothing to measure: no subject is installed".to_owned())),
    }
    Ok(well)
}

/// Those that can be run, and their versions; says loudly which cannot.
pub(crate) fn installed(subjects: Vec<Subject>) -> (Vec<Subject>, Vec<(String, String)>) {
    let mut versions = Vec::new();
    let mut kept = Vec::new();
    for subject in subjects {
        match subject.version() {
            Ok(version) => {
                versions.extend(version.map(|version| (subject.name.clone(), version)));
                kept.push(subject);
            }
            Err(error) => eprintln!("bench: SKIPPED {}: {error}", subject.name),
        }
    }
    (kept, versions)
}

fn rounds(
    scenario: &Scenario,
    subjects: &[Subject],
    rounds: u32,
    stage: &mut Stage,
) -> Vec<Measured> {
    let mut measured: Vec<_> = subjects
        .iter()
        .map(|subject| Measured {
            subject: subject.clone(),
            outcomes: Vec::new(),
            failed: Vec::new(),
        })
        .collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let entry = &mut measured[index];
            match stage.measure(&entry.subject, scenario) {
                Ok(outcome) => {
                    println!(
                        "  round {} {:<22} {}",
                        round + 1,
                        entry.subject.name,
                        report::line(&outcome, scenario)
                    );
                    entry.outcomes.push((round, outcome));
                }
                Err(error) => {
                    eprintln!("bench: round {} {} FAILED: {error}", round + 1, entry.subject.name);
                    entry.failed.push((round, error.to_string()));
                }
            }
        }
    }
    measured
}
