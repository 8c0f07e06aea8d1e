use std::process::Command;

use super::*;

fn text(path: &str) -> String {
    let files = all().unwrap();
    let (_, text) = files.into_iter().find(|(known, _)| known == Path::new(path)).expect(path);
    String::from_utf8(text).unwrap()
}

/// As a reader sees it: without the marks of roff.
fn plain(roff: &str) -> String {
    ["\\fB", "\\fR", "\\fI", "\\&"]
        .into_iter()
        .fold(roff.to_owned(), |text, mark| text.replace(mark, ""))
        .replace("\\-", "-")
        .replace("\\*(Aq", "'")
}

fn visible(command: &clap::Command, above: &str, found: &mut Vec<(String, clap::Command)>) {
    let name = format!("{above}{}", command.get_name());
    found.push((name.clone(), command.clone()));
    let inner = command.get_subcommands().filter(|inner| !inner.is_hide_set());
    inner.for_each(|inner| visible(inner, &format!("{name}-"), found));
}

#[test]
fn every_command_has_a_page_with_each_of_its_options() {
    for (command, section) in [(fanin::cli::Cli::command(), 8), (loadgen::command(), 1)] {
        let mut commands = Vec::new();
        visible(&command, "", &mut commands);
        assert!(commands.len() > 4, "the commands were not found");
        for (name, command) in commands {
            let page = plain(&text(&format!("usr/share/man/man{section}/{name}.{section}")));
            for option in command.get_opts().filter_map(|option| option.get_long()) {
                assert!(
                    page.contains(&format!("--{option}")),
                    "{name}({section}): --{option}\n{page}"
                );
            }
            let about = command.get_about().expect("a sentence").to_string();
            assert!(page.contains(about.lines().next().unwrap()), "{name}({section}): {about}");
        }
    }
}

#[test]
fn the_page_of_the_file_has_every_key_and_every_section() {
    let page = plain(&text("usr/share/man/man5/fanin.toml.5"));
    let rows: Vec<_> = CONFIG.lines().filter_map(|line| line.strip_prefix("| `")).collect();
    assert!(rows.len() > 60, "the keys were not found");
    for key in rows.into_iter().filter_map(|row| row.split('`').next()) {
        assert!(page.contains(&format!("\n.TP\n{key}")), "{key}");
    }
    for heading in CONFIG.lines().filter_map(|line| line.strip_prefix("## ")) {
        assert!(page.contains(&heading.replace('`', "")), "{heading}");
    }
    assert!(!page.contains('`') && !page.contains("](") && !page.contains("| --- |"), "{page}");
}

/// What every word of the document is worth: none is lost on the way.
#[test]
fn the_page_of_the_file_loses_no_word() {
    let page = plain(&text("usr/share/man/man5/fanin.toml.5")).replace("\\(bu", " ");
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric())
            .filter(|word| word.len() > 3)
            .map(str::to_owned)
            .collect()
    };
    let known = words(&page);
    let document = CONFIG.replace("This page is checked against the code by a test.", "");
    // Where a link goes is no word: `](PAGE.md#section)`.
    let document: String = document
        .split("](")
        .enumerate()
        .map(
            |(place, part)| {
                if place == 0 { part } else { part.split_once(')').unwrap_or_default().1 }
            },
        )
        .collect();
    let lost: Vec<_> = words(&document)
        .into_iter()
        .filter(|word| !known.contains(word))
        .filter(|word| !["Configuration", "default", "meaning"].contains(&word.as_str()))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn groff_has_nothing_to_complain_of() {
    let folder = std::env::temp_dir().join(format!("fanin-manual-{}", std::process::id()));
    let files = all().unwrap();
    write(&folder, &files).unwrap();
    for (path, _) in files.iter().filter(|(path, _)| path.starts_with("usr/share/man")) {
        let groff = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-z"])
            .arg(folder.join(path))
            .output()
            .expect("groff, which scripts/test installs");
        let complaints = String::from_utf8_lossy(&groff.stderr);
        assert!(
            groff.status.success() && complaints.is_empty(),
            "{}: {complaints}",
            path.display()
        );
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn completions_know_the_commands() {
    for (path, words) in [
        ("usr/share/bash-completion/completions/fanin", ["upgrade", "--config"]),
        ("usr/share/zsh/vendor-completions/_fanin", ["upgrade", "--config"]),
        ("usr/share/fish/vendor_completions.d/fanin.fish", ["upgrade", "-l config"]),
        ("usr/share/bash-completion/completions/loadgen", ["find-max", "--agents"]),
    ] {
        let text = text(path);
        assert!(words.iter().all(|word| text.contains(word)), "{path}: {words:?}");
    }
}
