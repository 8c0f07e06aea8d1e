//! A page for a command and for each of its subcommands.

use std::io;
use std::path::PathBuf;

use clap::Command;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

use super::Written;

/// What is said of a command that its definition does not know: heading, text. Lines that are
/// indented stay as they are.
pub(crate) type Further = &'static [(&'static str, &'static str)];

pub(crate) const FANIN: Further = &[
    (
        "FILES",
        "  /etc/fanin/fanin.toml      the configuration, see fanin.toml(5)\n  \
           /run/fanin/PORT.sock       the control socket, named after the first port that is listened on\n  \
           /var/log/fanin             for `[log] file`\n  \
           /usr/share/doc/fanin       documents and examples: sysctl, dashboard, alerts, keepalived, bird",
    ),
    ("SEE ALSO", "fanin.toml(5), loadgen(1), systemd.service(5)"),
];

pub(crate) const LOADGEN: Further = &[("SEE ALSO", "fanin(8), fanin-plan(8)")];

/// # Errors
/// None that can happen: pages are written to memory.
pub(crate) fn pages(command: &Command, section: u8, further: Further) -> io::Result<Vec<Written>> {
    let mut pages = Vec::new();
    // Each subcommand then knows how it is called.
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    collect(&command, None, section, further, &mut pages)?;
    Ok(pages)
}

fn collect(
    command: &Command,
    above: Option<&str>,
    section: u8,
    further: Further,
    pages: &mut Vec<Written>,
) -> io::Result<()> {
    let name = above
        .map_or_else(|| command.get_name().to_owned(), |a| format!("{a}-{}", command.get_name()));
    let path = PathBuf::from(format!("usr/share/man/man{section}/{name}.{section}"));
    pages.push((path, page(command, above, &name, section, further)?));
    let wanted = |inner: &&Command| !inner.is_hide_set();
    for inner in command.get_subcommands().filter(wanted) {
        collect(inner, Some(&name), section, further, pages)?;
    }
    Ok(())
}

fn page(
    command: &Command,
    above: Option<&str>,
    name: &str,
    section: u8,
    further: Further,
) -> io::Result<Vec<u8>> {
    let version = env!("CARGO_PKG_VERSION");
    // The name of the page; what is typed has a space where it has a dash. clap wants names for good.
    let typed: &str = command.get_bin_name().unwrap_or(name).to_owned().leak();
    let called: &str = name.to_owned().leak();
    let shown = command.clone().name(called).bin_name(typed);
    let product = name.split('-').next().unwrap_or(name);
    let man = Man::new(shown)
        .title(name.to_uppercase())
        .section(section.to_string())
        .source(format!("{product} {version}"))
        .manual(format!("{product} manual"));
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.get_subcommands().any(|inner| !inner.is_hide_set()) {
        man.render_subcommands_section(&mut out)?;
    }
    let mut roff = Roff::new();
    if let Some(text) = command.get_after_help() {
        let text = text.to_string();
        match text.split_once("Examples:\n") {
            Some((before, examples)) => {
                prose(&mut roff, "NOTES", before);
                prose(&mut roff, "EXAMPLES", examples);
            }
            None => prose(&mut roff, "NOTES", &text),
        }
    }
    match above {
        None => further.iter().for_each(|(heading, text)| prose(&mut roff, heading, text)),
        Some(above) => prose(&mut roff, "SEE ALSO", &format!("{above}({section})")),
    }
    out.extend_from_slice(roff.to_roff().as_bytes());
    Ok(out)
}

/// A section of paragraphs; lines that are indented stay as they are.
fn prose(roff: &mut Roff, heading: &str, text: &str) {
    if text.trim().is_empty() {
        return;
    }
    roff.control("SH", [heading]);
    let mut verbatim = false;
    for line in text.trim_matches('\n').lines() {
        let indented = line.starts_with("  ");
        if indented != verbatim {
            roff.control(if indented { "PP" } else { "fi" }, []);
            roff.control(if indented { "nf" } else { "PP" }, []);
            verbatim = indented;
        }
        let line = line.trim();
        if line.is_empty() {
            roff.control("PP", []);
        } else {
            roff.text([if indented { bold(line) } else { roman(line) }]);
        }
    }
    if verbatim {
        roff.control("fi", []);
    }
}
