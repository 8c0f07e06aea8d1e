//! Keeps docs/CONFIG.md true: every key that a file may have, and no other, with the default that
//! the code gives it. The keys are asked of the reader itself, which lists them when it is given one
//! that it does not know.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// No key is called so.
const UNKNOWN: &str = "no_such_key";

/// A table of the file: its name in the document, and the text that leads into it.
#[derive(Clone, Debug)]
struct Table {
    name: String,
    /// As in a header of TOML, `backend.x.server`.
    path: String,
    lead: String,
}

/// The keys of a table, if there is such a table.
fn keys(lead: &str) -> Option<Vec<String>> {
    let error = read(&format!("{lead}{UNKNOWN} = 1\n")).err()?.to_string();
    let (_, rest) = error.split_once(&format!("unknown key `{UNKNOWN}`"))?;
    let (_, listed) = rest.split_once("allowed here: ")?;
    let listed = listed.split("\n\n").next()?.replace('\n', " ");
    Some(listed.split(',').map(|key| key.split_whitespace().collect()).collect())
}

/// All tables and their keys, found by trying.
fn tables() -> Vec<(Table, Vec<String>)> {
    let root = Table { name: String::new(), path: String::new(), lead: String::new() };
    let mut open = vec![root];
    let mut found = Vec::new();
    while let Some(table) = open.pop() {
        let Some(keys_here) = keys(&table.lead) else { panic!("{table:?} is no table") };
        for key in &keys_here {
            let dot = if table.name.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{key}", table.path);
            let name = format!("{}{dot}{key}", table.name);
            let forms = [
                (format!("[{path}]\n"), path.clone(), name.clone()),
                (format!("[[{path}]]\n"), path.clone(), name.clone()),
                (format!("[{path}.x]\n"), format!("{path}.x"), format!("{name}.NAME")),
            ];
            let form = forms
                .into_iter()
                .find(|(header, ..)| keys(&format!("{}{header}", table.lead)).is_some());
            if let Some((header, path, name)) = form {
                open.push(Table { name, path, lead: format!("{}{header}", table.lead) });
            }
        }
        found.push((table, keys_here));
    }
    found
}

/// The rows of the document: by heading, by key, the cell of the default.
fn rows(document: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut rows: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut heading = String::new();
    for line in document.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            heading = name.trim_matches('`').to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let (key, rest) = row.split_once('`').unwrap();
            let default = rest.split('|').nth(1).unwrap_or_default().trim().to_owned();
            rows.entry(heading.clone()).or_default().insert(key.to_owned(), default);
        }
    }
    rows
}

/// What is printed for a key when nothing sets it.
fn default_of(printed: &toml::Table, table: &Table, key: &str) -> Option<String> {
    let mut here = toml::Value::Table(printed.clone());
    for part in table.path.split('.').filter(|part| !part.is_empty()) {
        let part = if part == "x" { "intake" } else { part };
        here = here.get(part)?.clone();
        if let toml::Value::Array(list) = here {
            here = list.first()?.clone();
        }
    }
    here.get(key).map(ToString::to_string)
}

#[test]
fn the_reference_has_every_key_with_its_default_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIG.md");
    let document = fs::read_to_string(path).unwrap();
    let mut rows = rows(&document);
    let printed: toml::Table = read(SMALL).unwrap().render().parse().unwrap();
    let mut wrong = Vec::new();
    let tables = tables();
    assert!(tables.len() > 6, "the tables were not found: {tables:?}");
    let names: BTreeSet<String> = tables.iter().map(|(table, _)| table.name.clone()).collect();
    for (table, keys) in tables.iter().filter(|(table, _)| !table.name.is_empty()) {
        let mut documented = rows.remove(&table.name).unwrap_or_default();
        for key in keys {
            let as_table = format!("{}.{key}", table.name);
            if names.contains(&as_table) || names.contains(&format!("{as_table}.NAME")) {
                documented.remove(key);
                continue;
            }
            let Some(written) = documented.remove(key) else {
                wrong.push(format!(
                    "## `{}` lacks a row | `{key}` | default | meaning |",
                    table.name
                ));
                continue;
            };
            let default = default_of(&printed, table, key).map(|value| format!("`{value}`"));
            if let Some(default) =
                default.filter(|_| !written.is_empty() && written.starts_with('`'))
                && written != default
            {
                wrong
                    .push(format!("{}.{key} has the default {default}, not {written}", table.name));
            }
        }
        wrong.extend(documented.keys().map(|key| format!("{}.{key} is no key", table.name)));
    }
    wrong.extend(rows.keys().map(|heading| format!("## `{heading}` is no table")));
    assert!(wrong.is_empty(), "docs/CONFIG.md:\n{}", wrong.join("\n"));
}
