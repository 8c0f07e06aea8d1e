//! The rules of the house, as tests: who may import whom (the table of docs/ARCHITECTURE.md is the
//! law), where unsafe may stand, how long things may be, what documents may promise.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;

/// A Rust source file of the workspace.
struct Source {
    path: String,
    lines: Vec<String>,
}

impl Source {
    /// The lines before the unit tests, without comments and string contents.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines
            .iter()
            .take_while(|line| !line.starts_with("mod tests {"))
            .enumerate()
            .map(|(number, line)| (number + 1, without_comment_and_strings(line)))
    }

    /// The room of `src/` that it belongs to.
    fn room(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(rest.split('/').next()?.trim_end_matches(".rs"))
    }

    fn is_test(&self) -> bool {
        self.path.contains("tests/") || self.path.ends_with("tests.rs")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(ending: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = entry.file_name().into_string().unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, ending, found);
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), ending, &mut found);
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

fn sources() -> Vec<Source> {
    let read = |path: PathBuf| Source {
        path: relative(&path),
        lines: fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect(),
    };
    files(".rs").into_iter().map(read).collect()
}

fn without_comment_and_strings(line: &str) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut previous = ' ';
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if previous != '\\' && previous != '\'' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if !in_string => out.push(c),
            _ => {}
        }
        previous = c;
    }
    out
}

/// The words after each `crate::` (or `fanin::`) in a line.
fn rooms_named(line: &str, prefix: &str) -> Vec<String> {
    let word = |rest: &str| {
        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let mut rooms = Vec::new();
    for (at, _) in line.match_indices(prefix) {
        let rest = &line[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => rooms.extend(list.split(',').map(|item| word(item.trim()))),
            None => rooms.push(word(rest)),
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

/// The rows of the first table under a heading that contains `heading`, cells trimmed.
fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let cells = |line: &str| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    text.lines()
        .skip_while(|line| !(line.starts_with('#') && line.contains(heading)))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(cells)
        .collect()
}

fn words(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn assert_none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let rows = table("docs/ARCHITECTURE.md", "Import table");
    let allowed: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> = rows
        .iter()
        .map(|row| {
            let room = words(&row[0]).into_iter().next().unwrap();
            (room, (words(&row[1]), words(&row[2])))
        })
        .collect();
    assert!(allowed.len() > 10, "the table was not found");
    let mut found = Vec::new();
    for source in sources() {
        let Some(room) = source.room().filter(|room| *room != "lib") else { continue };
        if source.is_test() {
            continue;
        }
        let Some((may, never)) = allowed.get(room) else {
            found.push(format!("{}: the room `{room}` is not in the table", source.path));
            continue;
        };
        for (number, line) in source.code() {
            let named =
                rooms_named(&line, "crate::").into_iter().chain(rooms_named(&line, "fanin::"));
            for other in named.filter(|other| other != room && !may.contains(other)) {
                found.push(format!("{}:{number} imports `{other}`", source.path));
            }
            for word in never.iter().filter(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{number} must never say `{word}`", source.path));
            }
        }
    }
    assert_none("imports against docs/ARCHITECTURE.md", found);
}

#[test]
fn the_import_table_has_no_cycle() {
    let mut left: BTreeMap<String, BTreeSet<String>> =
        table("docs/ARCHITECTURE.md", "Import table")
            .iter()
            .map(|row| (words(&row[0]).into_iter().next().unwrap(), words(&row[1])))
            .collect();
    while !left.is_empty() {
        let ground: Vec<_> = left
            .iter()
            .filter(|(_, may)| !may.iter().any(|other| left.contains_key(other)))
            .map(|(room, _)| room.clone())
            .collect();
        assert!(!ground.is_empty(), "these rooms go round in a circle: {:?}", left.keys());
        for room in ground {
            left.remove(&room);
        }
    }
}

#[test]
fn unsafe_stands_only_in_sys() {
    let mut found = Vec::new();
    for source in sources() {
        let at_home = source.path.starts_with("src/sys/") || source.path.contains("/sys");
        for (number, line) in source.code().filter(|_| !at_home) {
            if ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{number}", source.path));
            }
        }
    }
    assert_none("unsafe outside sys", found);
}

#[test]
fn functions_fit_a_screen_and_files_hold_one_thing() {
    let mut found = Vec::new();
    for source in sources() {
        let code: Vec<_> = source.code().collect();
        if code.len() > FILE_LINES_MAX && !source.is_test() {
            found.push(format!("{} has {} lines before its tests", source.path, code.len()));
        }
        let mut start: Option<(usize, usize)> = None;
        for (number, line) in code {
            let indent = line.len() - line.trim_start().len();
            let first = line.trim_start();
            let opens =
                ["fn ", "pub fn ", "async fn ", "pub async fn ", "const fn ", "pub const fn "];
            let declares = opens.iter().any(|open| first.starts_with(open))
                || (first.starts_with("pub(") && first.contains(" fn "));
            if declares {
                start = Some((number, indent));
            } else if let Some((from, at)) = start
                && line.trim_end() == format!("{}}}", " ".repeat(at))
            {
                if number - from > FUNCTION_LINES_MAX {
                    found.push(format!("{}:{from} is {} lines long", source.path, number - from));
                }
                start = None;
            }
        }
    }
    assert_none("too long", found);
}

#[test]
fn nothing_is_left_unfinished_and_no_test_sleeps() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.path.ends_with("tidy.rs")) {
        for (number, line) in source.lines.iter().enumerate() {
            let code = without_comment_and_strings(line);
            for word in ["todo!(", "unimplemented!(", "dbg!("] {
                if code.contains(word) {
                    found.push(format!("{}:{} {word}", source.path, number + 1));
                }
            }
            if source.is_test() && code.contains("thread::sleep(") && !code.contains("POLL") {
                found.push(format!("{}:{} sleeps", source.path, number + 1));
            }
            if code.contains("#[ignore") && !line.contains('"') {
                found.push(format!("{}:{} ignored without a reason", source.path, number + 1));
            }
        }
    }
    assert_none("unfinished", found);
}

#[test]
fn every_counter_is_counted_somewhere() {
    let sources = sources();
    let metrics = sources.iter().find(|source| source.path == "src/metrics/mod.rs").unwrap();
    let mut fields: Vec<_> = metrics
        .code()
        .filter(|(_, line)| line.contains(": Counter,") && !line.contains('$'))
        .filter_map(|(_, line)| {
            line.trim().trim_start_matches("pub ").split(':').next().map(str::to_owned)
        })
        .collect();
    // The list that the macro declares them from: a name a line.
    let listed = metrics.code().skip_while(|(_, line)| !line.starts_with("counts! {")).skip(1);
    let listed = listed.take_while(|(_, line)| line != "}");
    let names = listed.map(|(_, line)| line.trim().trim_end_matches(',').to_owned());
    fields.extend(names.filter(|name| !name.is_empty()));
    assert!(fields.len() > 15, "the counters were not found: {fields:?}");
    let counted = |field: &String| {
        let (add, set) = (format!("{field}.add("), format!("{field}.set("));
        sources
            .iter()
            .filter(|source| source.path.starts_with("src/"))
            .any(|source| source.code().any(|(_, line)| line.contains(&add) || line.contains(&set)))
    };
    assert_none(
        "counters that nothing counts",
        fields.into_iter().filter(|field| !counted(field)).collect(),
    );
}

#[test]
fn documents_link_only_to_what_exists() {
    let mut found = Vec::new();
    for path in files(".md") {
        let text = fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty()
                && !file.contains("://")
                && !path.parent().unwrap().join(file).exists()
            {
                found.push(format!("{} links to {target}", relative(&path)));
            }
        }
    }
    assert_none("dead links", found);
}

#[test]
fn every_guarantee_names_a_test_that_exists_or_says_pending() {
    let tests: BTreeSet<String> = sources()
        .iter()
        .flat_map(|source| source.lines.iter())
        .filter_map(|line| {
            let rest = line.trim_start().strip_prefix("fn ")?;
            Some(rest.split('(').next()?.to_owned())
        })
        .collect();
    let rows = table("docs/GUARANTEES.md", "guarantee");
    assert_eq!(rows.len(), 20, "G1 to G20");
    let mut found = Vec::new();
    for row in rows {
        let named = words(&row[2]);
        if named.is_empty() && !row[2].contains("pending") {
            found.push(format!("{} names no test and does not say pending", row[0]));
        }
        for test in named.into_iter().filter(|test| !tests.contains(test)) {
            found.push(format!("{} names `{test}`, which is no test", row[0]));
        }
    }
    assert_none("guarantees", found);
}

#[test]
fn nothing_tells_where_it_was_built() {
    let mut found = Vec::new();
    for ending in [".rs", ".md", ".toml", ".sh", ".html", ".lock"] {
        for path in files(ending).iter().filter(|path| !path.ends_with("tidy.rs")) {
            let text = fs::read_to_string(path).unwrap();
            for (number, line) in text.lines().enumerate() {
                if ["/work/", "/root/"].iter().any(|word| line.contains(word)) {
                    found.push(format!("{}:{}", relative(path), number + 1));
                }
            }
        }
    }
    assert_none("paths of a machine", found);
}
