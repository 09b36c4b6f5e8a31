//! The house: which part of the source may import which. Imports point down only, and no file or folder imports itself in a
//! circle. Read from the source as it is without its tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The rooms of src/, from the top down. A room imports only from lines below its own; rooms on one line know nothing of
/// each other.
const LAYERS: &[&[&str]] = &[
    &["lib"],
    &["fsck"],
    &["map"],
    &["session"],
    &["engine"],
    &["file"],
    &["shm"],
    &["options"],
    &["watcher", "image_stamp", "map_file"],
    &["bitmap", "format"],
    &["query"],
    &["hierarchy"],
    &["sys", "geometry"],
    &["error"],
    &["progress", "sync", "time", "trace", "uuid"],
    &["testing"],
];

/// A path of names, from the root of the crate.
type Names = Vec<String>;

/// What one file has to say of others.
#[derive(Default)]
struct Source {
    /// The file, below src/.
    file: String,
    /// Modules that it declares as files of their own.
    children: Vec<String>,
    /// Modules that it has within itself.
    inline: BTreeSet<String>,
    /// Names that it imports, and what from.
    imports: BTreeMap<String, Names>,
    /// Every path that it names.
    paths: BTreeSet<Names>,
}

/// The source without its comments, texts and characters, of which only their places are left.
fn without_text(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::new();
    let mut i = 0;
    let find = |from: usize, end: &str| {
        let end: Vec<char> = end.chars().collect();
        (from..chars.len()).find(|&at| chars[at..].starts_with(&end)).map_or(chars.len(), |at| at + end.len())
    };
    while i < chars.len() {
        let next = |k: usize| chars.get(i + k).copied().unwrap_or(' ');
        let end = match chars[i] {
            '/' if next(1) == '/' => find(i, "\n") - 1,
            '/' if next(1) == '*' => find(i, "*/"),
            'r' if next(1) == '"' => find(i + 2, "\""),
            'r' if next(1) == '#' && next(2) == '"' => find(i + 3, "\"#"),
            '"' => {
                let mut end = i + 1;
                while end < chars.len() && chars[end] != '"' {
                    end += if chars[end] == '\\' { 2 } else { 1 };
                }
                end + 1
            }
            '\'' if next(1) == '\\' => find(i + 3, "'"),
            '\'' if next(2) == '\'' => i + 3,
            c => {
                out.push(c);
                i += 1;
                continue;
            }
        };
        out.extend(chars[i..end.min(chars.len())].iter().filter(|c| **c == '\n'));
        out.push(' ');
        i = end;
    }
    out
}

/// Names, `::`, and single marks.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let mut token = String::from(c);
        if c.is_alphanumeric() || c == '_' {
            while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                token.push(c);
            }
        } else if c == ':' && chars.next_if_eq(&':').is_some() {
            token.push(':');
        } else if c.is_whitespace() {
            continue;
        }
        tokens.push(token);
    }
    tokens
}

/// Where what begins at `open`, a bracket, ends.
fn closed(tokens: &[String], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// The tokens without the items that only tests have.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if tokens[i] != "#" || tokens.get(i + 1).is_none_or(|t| t != "[") {
            left.push(tokens[i].clone());
            i += 1;
            continue;
        }
        let end = closed(tokens, i + 1);
        let attribute = tokens[i + 2..end - 1].concat();
        i = end;
        if !attribute.starts_with("cfg(") || !attribute.contains("test") || attribute.contains("not(test") {
            continue;
        }
        while tokens.get(i).is_some_and(|t| t == "#") {
            i = closed(tokens, i + 1);
        }
        let is_use = tokens[i..].iter().take(6).any(|t| t == "use");
        loop {
            match tokens.get(i).map(String::as_str) {
                None => break,
                Some(";") => {
                    i += 1;
                    break;
                }
                Some("{") => {
                    i = closed(tokens, i);
                    if !is_use {
                        break;
                    }
                }
                Some("(" | "[") => i = closed(tokens, i),
                Some(_) => i += 1,
            }
        }
    }
    left
}

/// All paths of a tree of imports that begins at `i`, with the names that they get, and where it ends.
fn tree(tokens: &[String], mut i: usize, front: &Names, all: &mut Vec<(Names, String)>) -> usize {
    let mut path = front.clone();
    loop {
        match tokens[i].as_str() {
            "{" => {
                i += 1;
                while tokens[i] != "}" {
                    i = tree(tokens, i, &path, all);
                    if tokens[i] == "," {
                        i += 1;
                    }
                }
                return i + 1;
            }
            "*" => {
                all.push((path, "*".into()));
                return i + 1;
            }
            "self" if !path.is_empty() => {}
            name => path.push(name.into()),
        }
        i += 1;
        match tokens[i].as_str() {
            "::" => i += 1,
            "as" => {
                all.push((path, tokens[i + 1].clone()));
                return i + 2;
            }
            _ => {
                let name = path.last().cloned().unwrap_or_default();
                all.push((path, name));
                return i;
            }
        }
    }
}

/// What a path means in the module `here`: from the root of the crate, if it is of the crate.
fn absolute(here: &Names, path: &[String]) -> Option<Names> {
    let mut base = match path.first()?.as_str() {
        "crate" => Names::new(),
        "self" | "super" => here.clone(),
        _ => return None,
    };
    let mut rest = path.iter().skip(usize::from(path[0] != "super")).peekable();
    while rest.next_if(|name| *name == "super").is_some() {
        base.pop()?;
    }
    base.extend(rest.cloned());
    Some(base)
}

fn read(file: &str, text: &str) -> Source {
    let module = module_of(file);
    let tokens = without_tests(&tokens(&without_text(text)));
    let mut source = Source { file: file.into(), ..Source::default() };
    let mut within: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut i) = (0, 0);
    while i < tokens.len() {
        let here: Names = module.iter().chain(within.iter().map(|(name, _)| name)).cloned().collect();
        let next = |k: usize| tokens.get(i + k).map_or("", String::as_str);
        match next(0) {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                within.pop_if(|(_, at)| *at == depth);
            }
            "mod" if next(2) == ";" => source.children.push(next(1).into()),
            "mod" if next(2) == "{" => {
                source.inline.insert(next(1).into());
                within.push((next(1).into(), depth));
            }
            "use" => {
                let mut all = Vec::new();
                i = tree(&tokens, i + 1, &Names::new(), &mut all);
                for (path, name) in all {
                    // A path without a front is of a module that the file has, or of another crate.
                    let relative = || here.iter().chain(&path).cloned().collect();
                    let path = absolute(&here, &path).unwrap_or_else(relative);
                    source.paths.insert(path.clone());
                    if within.is_empty() {
                        source.imports.insert(name, path);
                    }
                }
                continue;
            }
            first if next(1) == "::" && (i == 0 || ![".", "::"].contains(&tokens[i - 1].as_str())) => {
                let mut path = vec![first.to_string()];
                while tokens.get(i + 1).is_some_and(|t| t == "::")
                    && tokens.get(i + 2).is_some_and(|t| t.starts_with(|c: char| c.is_alphabetic() || c == '_'))
                {
                    path.push(tokens[i + 2].clone());
                    i += 2;
                }
                let imported =
                    source.imports.get(&path[0]).map(|front| front.iter().chain(&path[1..]).cloned().collect());
                let relative = || here.iter().chain(&path).cloned().collect();
                source.paths.insert(absolute(&here, &path).or(imported).unwrap_or_else(relative));
            }
            _ => {}
        }
        i += 1;
    }
    source
}

/// The module that a file below src/ is.
fn module_of(file: &str) -> Names {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" { Names::new() } else { path.split('/').map(String::from).collect() }
}

struct House {
    sources: BTreeMap<Names, Source>,
}

impl House {
    /// All files that are compiled without the tests.
    fn of(root: &Path) -> House {
        let mut house = House { sources: BTreeMap::new() };
        let mut todo = vec!["lib.rs".to_string()];
        while let Some(file) = todo.pop() {
            let text = fs::read_to_string(root.join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            let (module, source) = (module_of(&file), read(&file, &text));
            for child in &source.children {
                let path = module.iter().chain([child]).cloned().collect::<Names>().join("/");
                let [alone, folder] = [format!("{path}.rs"), format!("{path}/mod.rs")];
                todo.push(if root.join(&alone).exists() { alone } else { folder });
            }
            house.sources.insert(module, source);
        }
        house
    }

    /// The file that defines what a path names, behind all re-exports; none for a folder as a whole, and for what is of
    /// another crate.
    fn defines(&self, path: &[String], hops: usize) -> Option<&Source> {
        let mut module = Names::new();
        for (i, name) in path.iter().enumerate() {
            let source = &self.sources[&module];
            module.push(name.clone());
            if self.sources.contains_key(&module) {
                continue;
            }
            return match source.imports.get(name) {
                Some(front) if hops > 0 && *front != module => {
                    let path: Names = front.iter().chain(&path[i + 1..]).cloned().collect();
                    self.defines(&path, hops - 1)
                }
                _ => Some(source),
            };
        }
        self.sources.get(&module).filter(|source| !source.file.ends_with("mod.rs") && source.file != "lib.rs")
    }

    /// Who imports whom, as files.
    fn files(&self) -> BTreeSet<(&str, &str)> {
        let mut arrows = BTreeSet::new();
        for (module, source) in &self.sources {
            let children = source.children.iter().map(|child| module.iter().chain([child]).cloned().collect());
            let declared = children.map(|child: Names| &self.sources[&child]);
            let imported = source.paths.iter().filter_map(|path| self.defines(path, 8));
            for to in declared.chain(imported).filter(|to| to.file != source.file) {
                arrows.insert((source.file.as_str(), to.file.as_str()));
            }
        }
        arrows
    }
}

/// The room that a file is in.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

fn line_of(file: &str) -> usize {
    let is = |line: &&[&str]| line.contains(&room(file));
    LAYERS.iter().position(is).unwrap_or_else(|| panic!("{file} is in no layer of tests/layers.rs"))
}

fn points_down((from, to): (&str, &str)) -> bool {
    room(from) == room(to) || line_of(from) < line_of(to)
}

/// Those arrows that are part of a circle: their end leads back to where they begin.
fn circles<'a>(arrows: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeSet<(&'a str, &'a str)> {
    let mut out: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    arrows.filter(|(from, to)| from != to).for_each(|(from, to)| {
        out.entry(from).or_default().insert(to);
    });
    let leads = |from: &'a str, to: &str| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![from]);
        while let Some(at) = todo.pop() {
            if seen.insert(at) {
                todo.extend(out.get(at).into_iter().flatten());
            }
        }
        seen.contains(to)
    };
    let all = out.iter().flat_map(|(from, ends)| ends.iter().map(|to| (*from, *to)));
    all.filter(|(from, to)| leads(to, from)).collect()
}

fn wrong<'a>(arrows: &BTreeSet<(&'a str, &'a str)>) -> BTreeSet<(&'a str, &'a str)> {
    let up = arrows.iter().copied().filter(|arrow| !points_down(*arrow));
    up.chain(circles(arrows.iter().copied())).collect()
}

#[test]
fn imports_point_down_and_in_no_circle() {
    let house = House::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let arrows = house.files();
    assert!(house.sources.len() > 80 && arrows.len() > 300, "{} arrows", arrows.len());
    let wrong = wrong(&arrows);
    let told: Vec<String> = wrong.iter().map(|(from, to)| format!("{from} -> {to}")).collect();
    assert!(wrong.is_empty(), "point up, or in a circle:\n{}", told.join("\n"));
    assert!(circles(arrows.iter().map(|(from, to)| (room(from), room(to)))).is_empty());
}

#[test]
fn every_room_is_there() {
    let house = House::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let rooms: BTreeSet<&str> = house.sources.values().map(|source| room(&source.file)).collect();
    assert_eq!(LAYERS.iter().copied().flatten().copied().collect::<BTreeSet<_>>(), rooms);
}
