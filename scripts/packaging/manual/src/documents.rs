//! The documents as they lie on a host: README.md beside those of docs/, and links that lead to what is
//! there. What the sources alone have is named, and not linked to.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::Written;

const FOLDER: &str = "usr/share/doc/fanin";

/// README.md, the documents and the decisions.
pub(crate) fn all(sources: &Path) -> io::Result<Vec<Written>> {
    let mut files = vec![PathBuf::from("README.md")];
    for folder in ["docs", "docs/decisions"] {
        for entry in fs::read_dir(sources.join(folder))? {
            let name = entry?.file_name();
            if Path::new(&name).extension().is_some_and(|end| end == "md") {
                files.push(Path::new(folder).join(name));
            }
        }
    }
    // As folders give them, the order differs from host to host.
    files.sort();
    let written = |file: PathBuf| {
        let text = fs::read_to_string(sources.join(&file))?;
        let to = Path::new(FOLDER).join(installed(&file).unwrap_or_else(|| file.clone()));
        Ok((to, relinked(&text, &file).into_bytes()))
    };
    files.into_iter().map(written).collect()
}

/// Where a file of the sources lies below the folder of documents, if it does.
fn installed(file: &Path) -> Option<PathBuf> {
    match file.to_str()? {
        "README.md" => Some(file.to_owned()),
        "CHANGELOG.md" => Some("changelog.gz".into()),
        "LICENSE" => Some("copyright".into()),
        "docs" => Some(".".into()),
        _ => file.strip_prefix("docs").ok().map(Path::to_owned),
    }
}

/// The text of a document with its links as they are once it is installed.
fn relinked(text: &str, file: &Path) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, after)) = after.split_once(')') else { break };
        match (link(target, file), before.rsplit_once('[')) {
            (Some(link), _) => out.push_str(&format!("{before}]({link})")),
            (None, Some((before, words))) => {
                let path = from(target, file);
                let named = format!("`{}` of the sources", path.display());
                // Where the words are the path, once is enough.
                let is_said = path.ends_with(words.trim_matches('`'));
                let text = if is_said { named } else { format!("{words} ({named})") };
                out.push_str(before);
                out.push_str(&text);
            }
            (None, None) => out.push_str(&format!("{before}]({target})")),
        }
        rest = after;
    }
    out + rest
}

/// The link to this target from an installed document; `None` if that is not installed.
fn link(target: &str, file: &Path) -> Option<String> {
    if target.contains("://") || target.starts_with('#') {
        return Some(target.to_owned());
    }
    let place = target.find('#').map_or("", |at| &target[at..]);
    let to = installed(&from(target, file))?;
    let here = installed(file)?;
    let up = here.components().count() - 1;
    let path: PathBuf = std::iter::repeat_n(Path::new(".."), up).collect::<PathBuf>().join(to);
    Some(format!("{}{place}", path.display()))
}

/// What a link of a file leads to, from the root of the sources.
fn from(target: &str, file: &Path) -> PathBuf {
    let path = target.split('#').next().unwrap_or_default();
    let mut found = file.parent().map(Path::to_owned).unwrap_or_default();
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir => drop(found.pop()),
            other => found.push(other),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
    }

    #[test]
    fn links_lead_to_where_files_are_installed() {
        let of = |file: &str, text: &str| relinked(text, Path::new(file));
        assert_eq!(of("README.md", "see [X](docs/X.md#y), [Z](#z)"), "see [X](X.md#y), [Z](#z)");
        assert_eq!(
            of("docs/A.md", "[b](B.md) [d](decisions/1.md)"),
            "[b](B.md) [d](decisions/1.md)"
        );
        assert_eq!(of("docs/decisions/1.md", "[b](../B.md)"), "[b](../B.md)");
        assert_eq!(
            of("docs/A.md", "([raw](../bench/r.txt))"),
            "(raw (`bench/r.txt` of the sources))"
        );
        let said = of("docs/A.md", "[r.txt](../bench/r.txt)");
        assert_eq!(said, "`bench/r.txt` of the sources");
        assert_eq!(of("docs/A.md", "[c](../CHANGELOG.md)"), "[c](changelog.gz)");
        assert_eq!(of("docs/A.md", "[h](https://h/)"), "[h](https://h/)");
    }

    #[test]
    fn no_link_of_an_installed_document_is_dead() {
        let files = all(&sources()).unwrap();
        let mut known: Vec<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
        let folder = Path::new(FOLDER);
        known.extend(
            ["changelog.gz", "copyright", "decisions", "examples", "."]
                .map(|name| folder.join(name)),
        );
        for entry in fs::read_dir(sources().join("docs/examples")).unwrap() {
            known.push(folder.join("examples").join(entry.unwrap().file_name()));
        }
        let mut links = 0;
        for (path, text) in &files {
            let text = std::str::from_utf8(text).unwrap();
            for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let place = target.split('#').next().unwrap();
                if place.is_empty() || place.contains("://") {
                    continue;
                }
                links += 1;
                let to = from(target, path);
                assert!(known.contains(&to), "{}: {target}", path.display());
            }
        }
        assert!(links > 40, "the links were not found: {links}");
    }
}
