//! Writes what a package brings beside the binaries: the manual pages of both commands and of each
//! of their subcommands, `fanin.toml(5)`, the completions of three shells, and the documents.
//!
//! Commands are described by the definitions that parse them, the file by docs/CONFIG.md, which a
//! test of the relay compares with its reader: nothing here can go stale, and nothing of it is in
//! the binaries.

mod command;
mod documents;
mod markdown;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

/// The reference of the configuration file.
const CONFIG: &str = include_str!("../../../../docs/CONFIG.md");

/// A file to be written: its path under the root of a file system, and what is in it.
type Written = (PathBuf, Vec<u8>);

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!(
            "usage: manual FOLDER    writes manual pages, completions and documents under FOLDER/usr"
        );
        return ExitCode::from(2);
    };
    match all().and_then(|files| write(&folder, &files)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: cannot write to {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn all() -> io::Result<Vec<Written>> {
    let (fanin, loadgen) = (fanin::cli::Cli::command(), loadgen::command());
    let mut files = command::pages(&fanin, 8, command::FANIN)?;
    files.extend(command::pages(&loadgen, 1, command::LOADGEN)?);
    files.push((PathBuf::from("usr/share/man/man5/fanin.toml.5"), markdown::page(CONFIG)));
    files.extend(completions(fanin, "fanin"));
    files.extend(completions(loadgen, "loadgen"));
    files.extend(documents::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.."))?);
    Ok(files)
}

fn completions(mut command: clap::Command, name: &str) -> Vec<Written> {
    let shells = [
        (Shell::Bash, format!("usr/share/bash-completion/completions/{name}")),
        (Shell::Zsh, format!("usr/share/zsh/vendor-completions/_{name}")),
        (Shell::Fish, format!("usr/share/fish/vendor_completions.d/{name}.fish")),
    ];
    let written = |(shell, path): (Shell, String)| {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, name, &mut text);
        (PathBuf::from(path), text)
    };
    shells.into_iter().map(written).collect()
}

fn write(folder: &Path, files: &[Written]) -> io::Result<()> {
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
