//! `loadgen compare a.json b.json`: several runs over each other.

use crate::cli::Compare;
use crate::exit::{Error, SUCCESS};
use crate::report::html::{self, Run};
use crate::report::{print, save};
use std::path::Path;

/// Reads, prints what differs, draws.
///
/// # Errors
/// A file that is no report, or cannot be read or written.
pub(crate) fn run(compare: &Compare) -> Result<u8, Error> {
    let runs: Vec<_> = compare.files.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    print(&html::table(&runs));
    if let Some(path) = &compare.html {
        save(path, html::page(&runs).as_bytes())?;
        print(&format!("\ncharts: {}\n", path.display()));
    }
    Ok(SUCCESS)
}

fn read(path: &Path) -> Result<(String, Run), Error> {
    let refuse = |why: String| Error::Run(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path)
        .map_err(|error| refuse(format!("{error}; give files of --json")))?;
    let value = serde_json::from_str(&text).map_err(|error| refuse(format!("no JSON: {error}")))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, Run::read(value).map_err(refuse)?))
}
