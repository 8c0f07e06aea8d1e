//! `loadgen merge *.hlog`: the latencies of several machines as one, exactly. A percentile of
//! percentiles means nothing; histograms add up.

use crate::cli::Merge;
use crate::exit::{Error, SUCCESS};
use crate::progress::millis;
use crate::recorder::{Micros, histogram};
use crate::report::{Quantiles, hdr, print, save};
use std::path::Path;

/// Reads, adds up, prints and writes.
///
/// # Errors
/// A file that cannot be read or written, with its line.
pub(crate) fn run(merge: &Merge) -> Result<u8, Error> {
    let mut whole = histogram();
    print(&format!("{:<40}{HEADING}\n", "file"));
    for path in &merge.files {
        let part = read(path)?;
        whole.add(&part).map_err(|error| Error::Run(format!("{}: {error}", path.display())))?;
        print(&format!("{:<40}{}\n", path.display(), row(&part)));
    }
    print(&format!("{:<40}{}\n", "together", row(&whole)));
    if let Some(path) = &merge.hgrm {
        save(path, hdr::hgrm(&whole).as_bytes())?;
    }
    Ok(SUCCESS)
}

const HEADING: &str = "       p50       p90       p99     p99.9       max     count";

fn row(of: &Micros) -> String {
    let q = Quantiles::new(of);
    let times = q.times().map(|us| format!("{:>10}", millis(us)));
    format!("{}{:>10}", times.concat(), q.count)
}

fn read(path: &Path) -> Result<Micros, Error> {
    let text = std::fs::read(path).map_err(|error| {
        Error::Run(format!("cannot read {}: {error}; give files of --hlog", path.display()))
    })?;
    hdr::read_hlog(&text).map_err(|why| Error::Run(format!("{}: {why}", path.display())))
}
