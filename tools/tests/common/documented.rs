//! docs/cli.md, as a table of fields and types for each section.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const DOCS: &str = include_str!("../../../docs/cli.md");

/// The fields that a section documents, and their types.
fn documented(section: &str) -> BTreeMap<String, String> {
    let heading = format!("\n## {section}\n").replace("## # ", "### ");
    let text = DOCS.split_once(&heading).unwrap_or_else(|| panic!("no section {section}")).1;
    let text = text.split("\n#").next().expect("a first part");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_string(), cells[2].to_string())
    })
    .collect()
}

/// The fields of a value, dotted, with their values; objects that other sections document are not opened.
fn fields<'a>(value: &'a Value, name: &str, closed: &[&str], found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(map) if !closed.contains(&name) => {
            for (key, value) in map {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                found.push((name.clone(), value));
                fields(value, &name, closed, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, &format!("{name}[]"), closed, found)),
        _ => {}
    }
}

fn has_type(value: &Value, documented: &str) -> bool {
    let one = |t: &str| match t {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "object" => value.is_object(),
        "time" => value.as_str().is_some_and(|t| t.len() == 20 && t.ends_with('Z') && &t[10..11] == "T"),
        "list" => value.is_array(),
        "list of numbers" => value.as_array().is_some_and(|list| list.iter().all(Value::is_number)),
        "list of strings" => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
        _ => panic!("docs/cli.md uses a type that this test does not know: {t}"),
    };
    documented.split(" or ").any(one)
}

/// Compares answers of one kind with their section; together they must show every field.
pub fn compare(section: &str, closed: &[&str], answers: &[Value]) {
    let seen = shown(section, closed, answers);
    let missing: Vec<_> = documented(section).into_keys().filter(|name| !seen.contains(name)).collect();
    assert!(missing.is_empty(), "{section}: documented and never printed: {missing:?}");
}

/// The fields that answers of one kind show, all of them documented in its section with the types that they have.
pub fn shown(section: &str, closed: &[&str], answers: &[Value]) -> BTreeSet<String> {
    let documented = documented(section);
    let mut seen = BTreeSet::new();
    for answer in answers {
        let mut found = Vec::new();
        fields(answer, "", closed, &mut found);
        for (name, value) in found {
            // What contains other fields may be there for those alone.
            let Some(t) = documented.get(&name) else {
                let inside = documented.keys().any(|key| key.starts_with(&format!("{name}.")));
                assert!(inside, "{section}: {name} is not documented");
                continue;
            };
            assert!(has_type(value, t), "{section}: {name} is {value}, documented as {t}");
            seen.insert(name);
        }
    }
    seen
}
