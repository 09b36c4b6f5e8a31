//! What every command promises (common/promises.rs has the table): help with an example and the exit codes; files that are
//! only read stay as they are; what is made is never written over something; JSON that is one value, documented and
//! the same each time; and nothing but an end in order when nobody listens.

mod common;

use common::Ran;
use common::documented::shown;
use common::promises::{PROMISES, Promise, World, listed};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

/// The commands that the helps list, also inside of others.
fn commands(prefix: &[&str]) -> BTreeSet<String> {
    let help = common::run(prefix.iter().chain(&["--help"])).exits(0).out;
    let mut found = BTreeSet::new();
    for name in listed(&help) {
        let words = [prefix, &[name.as_str()]].concat();
        let inside = commands(&words);
        // What has arguments of its own is a command beside those in it.
        let own = common::run(words.iter().chain(&["--help"])).exits(0).out.contains("\nArguments:\n");
        if inside.is_empty() || own {
            found.insert(words.join(" "));
        }
        found.extend(inside);
    }
    found
}

/// Runs each line of the table in files of its own, with more words.
fn each(more: &[&str], mut look: impl FnMut(&Promise, &World, Ran, &str)) {
    let world = World::new();
    for promise in &PROMISES {
        let world = world.again();
        let words: Vec<&str> = promise.words().chain(more.iter().copied()).collect();
        let ran = world.run(&words, Stdio::piped());
        look(promise, &world, ran, &words.join(" "));
    }
}

#[test]
fn the_table_has_all_commands() {
    let table: BTreeSet<String> = PROMISES.iter().map(|promise| promise.command.to_string()).collect();
    assert_eq!(commands(&[]), table, "left: the helps, right: common/promises.rs");
}

#[test]
fn every_help_has_an_example_and_the_exit_codes() {
    let groups = PROMISES.iter().filter_map(|promise| promise.command.split_once(' ')).map(|(group, _)| group);
    let all: BTreeSet<&str> = PROMISES.iter().map(|promise| promise.command).chain(groups).collect();
    for command in all {
        let help = common::run(command.split(' ').chain(["--help"])).exits(0);
        let example = help.out.split_once("Example:\n  dirtymap ").map(|(_, example)| example.strip_prefix(command));
        assert!(example.flatten().is_some_and(|rest| rest.starts_with([' ', '\n'])), "{command}: {}", help.out);
        assert!(help.err.is_empty(), "{command}: {}", help.err);
        for code in
            ["0   fine", "1   corrected", "2   unclean", "4   damage", "8   operational", "16  ", "32  interrupted"]
        {
            assert!(help.out.contains(code), "{command} says nothing of {code}");
        }
        for option in ["--output <FORMAT>", "--wait <SECS>", "-v, --verbose"] {
            assert!(help.out.contains(option), "{command} says nothing of {option}");
        }
    }
    assert!(!dm!("--help").exits(0).out.contains("demo-writer"));
    assert_eq!(dm!("--version").exits(0).out, format!("dirtymap {}\n", env!("CARGO_PKG_VERSION")));
}

/// `-h` is for a look, `--help` for reading; both fit the narrowest terminal there is.
#[test]
fn helps_fit_80_columns_and_the_short_one_is_short() {
    let groups = PROMISES.iter().filter_map(|promise| promise.command.split_once(' ')).map(|(group, _)| group);
    let all: BTreeSet<&str> = PROMISES.iter().map(|promise| promise.command).chain(groups).chain([""]).collect();
    for command in all {
        let help = |option| common::run(command.split_terminator(' ').chain([option])).exits(0).out;
        let (short, long) = (help("-h"), help("--help"));
        for line in short.lines().chain(long.lines()) {
            assert!(line.chars().count() <= 80, "{command}: {line}");
        }
        assert!(short.contains("Example:\n  dirtymap") && !short.contains("Exit codes"), "{command}: {short}");
        assert!(short.lines().count() < long.lines().count(), "{command}");
    }
}

/// Answers, notes and what went wrong. `dump` and `completions` are for programs.
#[test]
fn what_people_read_fits_80_columns() {
    let first = World::new();
    let mut wide = Vec::new();
    let mut look = |words: &[&str], exits: Option<i32>| {
        let world = first.again();
        let mut command = world.command(words);
        command.stdin(Stdio::null());
        let ran = common::run_on_a_terminal(command);
        let line = words.join(" ");
        assert!(exits.is_none_or(|code| ran.code == code), "{line}: {ran:?}");
        assert!(!ran.out.is_empty() || words.contains(&"-q"), "{line}");
        let too_wide = ran.out.lines().filter(|shown| shown.chars().count() > 80);
        wide.extend(too_wide.map(|shown| format!("{line}: {shown}")));
    };
    for promise in PROMISES.iter().filter(|promise| !["dump", "completions"].contains(&promise.command)) {
        let words: Vec<&str> = promise.words().collect();
        look(&words, Some(promise.exits));
        look(&[&words[..], &["-v"]].concat(), Some(promise.exits));
    }
    for line in [
        // Wrong by themselves.
        "reset disk.map",
        "create new.map",
        "create - --size 1M",
        "create new.map --size 1.5G",
        "info disk.map disk.map",
        "import-qcow2 disk.qcow2 new.map",
        "completions tcsh",
        "frobnicate",
        "-v",
        // Wrong given these files.
        "info none.map",
        "info disk.raw",
        "set disk.map 5M 1",
        "reset disk.map 1 2",
        "resize disk.map 3M --image disk.bits",
        "merge disk.map disk.map",
        "backup disk.raw disk.dump --map disk.map",
        "backup disk.raw new.raw --map disk.map --since monday",
        "backup disk.raw new.raw --map disk.map --frozen",
        "backup disk.bits new.raw --map disk.map",
        "backup disk.bits --set backups --map disk.map",
        "backup disk.raw --set backups --map disk.map --name 0001",
        "restore backups@monday new.raw",
        "restore backups new.raw --until 1999-12-31T00:00:00Z",
        "restore backups new.raw --until yesterday",
        "restore disk.raw new.raw",
        "set verify disk.raw",
        "set list disk.map 0",
        "checkpoint commit disk.map",
        "checkpoint freeze frozen.map",
        "checkpoint abort frozen.map --name monday",
        "import-qcow2 disk.qcow2 new.map --bitmap c",
        "import-qcow2 disk.qcow2 new.map --bitmap b",
        "import disk.map disk.raw",
        "undump disk.raw new.map",
        // With notes.
        "count unclean.map",
        "info unclean.map",
        "set unclean.map 0 1",
        "check disk.map --image disk.raw",
        "check unclean.map --assume-power-loss",
        "info disk.map --image disk.bits",
        "import-qcow2 disk.qcow2 new.map --bitmap b --disabled dirty",
    ] {
        look(&line.split(' ').collect::<Vec<_>>(), None);
    }
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

/// Where standard input and output make no sense, `-` is no name of a file either.
#[test]
fn standard_input_and_output_are_taken_where_they_make_sense_only() {
    const TAKEN: [&str; 6] = [
        "show disk.map --svg -",
        "export disk.map -",
        "import disk.map -",
        "undump - new.map",
        "import-qcow2 - --bitmap b new.map --disabled take",
        "export-qcow2 disk.map - --bitmap b",
    ];
    let first = World::new();
    let mut refused = 0;
    for promise in &PROMISES {
        let words: Vec<&str> = promise.words().collect();
        for i in promise.command.split(' ').count()..words.len() {
            let is_file = words[i].contains('.') || ["pages", "place"].contains(&words[i]);
            let mut line = words.clone();
            line[i] = "-";
            if !is_file || TAKEN.contains(&line.join(" ").as_str()) {
                continue;
            }
            refused += 1;
            let world = first.again();
            let ran = world.run(&line, Stdio::piped());
            assert!(ran.code == 16 && ran.err.contains("./-"), "{line:?}: {ran:?}");
            world.is_untouched_but([], &line.join(" "));
        }
    }
    assert!(refused > 40, "{refused}");
    // The name can be had all the same.
    let world = first.again();
    assert_eq!(world.run(["create", "./-", "--size", "1M"], Stdio::piped()).code, 0);
    assert_eq!(world.run(["count", "./-"], Stdio::piped()).code, 0);
}

#[test]
fn every_command_exits_as_promised_and_touches_nothing_else() {
    each(&[], |promise, world, ran, line| {
        assert_eq!(ran.code, promise.exits, "{line}: {ran:?}");
        world.is_untouched_but(promise.changes.iter().chain(&promise.makes).copied(), line);
        let made = promise.makes.is_none_or(|name| world.path(name).exists());
        assert!(made, "{line} did not make {:?}", promise.makes);
        // Nobody is left who has one of the files.
        for name in ["disk.map", "other.map", "unclean.map", "mended.map", "frozen.map"] {
            dirtymap::DirtyMap::open(world.path(name)).unwrap_or_else(|e| panic!("after {line}: {e}"));
        }
    });
}

#[test]
fn nothing_is_written_over() {
    let first = World::new();
    for promise in &PROMISES {
        let Some(name) = promise.makes else { continue };
        let here = first.again();
        let path = here.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make the directory");
        // Something that is somebody's: not empty, and nothing that the command would have made.
        fs::write(&path, b"precious").expect("write");
        for more in [&[][..], &["--output", "json"]] {
            let words: Vec<&str> = promise.words().chain(more.iter().copied()).collect();
            let line = words.join(" ");
            let ran = here.run(&words, Stdio::piped());
            assert_eq!(ran.code, 8, "{line}: {ran:?}");
            assert_eq!(fs::read(&path).expect("read"), b"precious", "{line}");
            // Also what it would have changed is as it was.
            here.is_untouched_but([name], &line);
        }
    }
}

/// Names of fields and what kinds of values they have: what stays the same however often a command is run.
fn outline(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), outline(value))).collect(),
        Value::Array(list) => list.iter().take(1).map(outline).collect(),
        Value::String(_) => "string".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Null => Value::Null,
    }
}

#[test]
fn json_is_one_value_documented_and_the_same_each_time() {
    let mut before = Vec::new();
    each(&["--output", "json"], |promise, _, ran, line| {
        let value = ran.exits(promise.exits).json();
        let inside: &[&str] = match promise.section {
            "info" => &["target", "checkpoint"],
            "demo" => &["first", "rounds[].backup"],
            "repair" => &["before.findings[]", "after.findings[]"],
            _ => &[],
        };
        let fields = shown(promise.section, inside, std::slice::from_ref(&value));
        assert!(!fields.is_empty() || value.as_array().is_some_and(Vec::is_empty), "{line}: {value}");
        before.push((line.to_string(), outline(&value)));
    });
    let mut before = before.into_iter();
    each(&["--output", "json"], |promise, world, ran, line| {
        assert_eq!(before.next(), Some((line.to_string(), outline(&ran.json()))));
        if promise.only_reads() {
            let again = world.run(line.split(' '), Stdio::piped());
            assert_eq!(again.out, ran.out, "{line}: another answer");
        }
    });
}

/// Names of files and points, and labels, are anybody's choice.
#[test]
fn no_name_acts_on_a_terminal() {
    const NAME: &str = "\u{1b}[31m\u{9b}31m\u{202e}\r\nFORGED";
    let first = World::new();
    let check = |ran: &Ran, line: &str| {
        for text in [&ran.out, &ran.err] {
            let harmless = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
            assert!(text.chars().all(harmless) && !text.contains("\nFORGED"), "{line}: {ran:?}");
        }
    };
    for promise in &PROMISES {
        for more in [&[][..], &["-v"], &["--output", "json"]] {
            let world = first.again();
            // The way to a file, and the way to none.
            std::os::unix::fs::symlink(".", world.path(NAME)).expect("link");
            for way in [NAME.to_string(), format!("{NAME}/none")] {
                let is_file =
                    |word: &&str| world.path(word).exists() || promise.makes == Some(word) || word.contains('.');
                let named = |word: &str| if is_file(&word) { format!("{way}/{word}") } else { word.to_string() };
                let words: Vec<String> =
                    promise.words().map(named).chain(more.iter().map(ToString::to_string)).collect();
                let ran = world.run(&words, Stdio::piped());
                assert!(ran.code == promise.exits || way != NAME, "{words:?}: {ran:?}");
                check(&ran, promise.command);
                if more.len() == 2 {
                    ran.json();
                }
            }
        }
    }
    let world = first.again();
    for line in [
        &["create", "new.map", "--size", "1M", "--label", NAME][..],
        &["info", "new.map"],
        &["dump", "new.map"],
        &["checkpoint", "freeze", "disk.map", "--name", NAME],
        &["checkpoint", "freeze", "disk.map"],
        &["checkpoint", "status", "disk.map"],
        &["checkpoint", "commit", "disk.map", "--keep"],
        &["checkpoint", "list", "disk.map"],
        &["info", "disk.map"],
        &["dump", "disk.map"],
        &["map", "disk.map", "--since", "none"],
        &["checkpoint", "drop", "disk.map", "--name", NAME],
        &["export-qcow2", "disk.map", "new.qcow2", "--bitmap", NAME],
        &["import-qcow2", "new.qcow2", "back.map"],
        &["import-qcow2", "new.qcow2", "back.map", "--bitmap", NAME, "--disabled", "take"],
        // What clap says of what it does not know.
        &[NAME],
        &["create", NAME, "--size", NAME],
        &["create", NAME, &format!("--size={NAME}")],
        &["info", NAME, NAME],
    ] {
        for more in [&[][..], &["--output", "json"]] {
            check(&world.run(line.iter().chain(more), Stdio::piped()), &line.join(" "));
        }
    }
}

#[test]
fn a_reader_that_went_away_is_no_error_and_a_full_disk_is_one() {
    let first = World::new();
    let mut lines: Vec<(Vec<&str>, i32)> = vec![(vec!["--version"], 0), (vec!["--help"], 0)];
    for promise in &PROMISES {
        lines.push((promise.words().collect(), promise.exits));
        lines.push((promise.words().chain(["--output", "json"]).collect(), promise.exits));
        lines.push((promise.command.split(' ').chain(["--help"]).collect(), 0));
    }
    for (words, exits) in lines {
        let line = words.join(" ");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ran = first.again().run(&words, writer);
        assert_eq!(ran.code, exits, "{line}, into a closed pipe: {ran:?}");
        assert!(!ran.err.contains("panicked") && !ran.err.contains("Broken pipe"), "{line}: {}", ran.err);
        let full = fs::File::options().write(true).open("/dev/full").expect("open");
        let ran = first.again().run(&words, full);
        assert_eq!(ran.code, 8, "{line}, into a full disk: {ran:?}");
        assert!(!ran.err.contains("panicked"), "{line}: {}", ran.err);
    }
}

/// Who may read a map may lock it, and so keep its writers waiting.
#[test]
fn a_new_map_is_for_the_users_of_its_image_and_else_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let mode = |name: &str| fs::metadata(at(name)).expect("a file").permissions().mode() & 0o7777;
    fs::write(at("image"), [0; 65536]).expect("write");
    fs::set_permissions(at("image"), fs::Permissions::from_mode(0o660)).expect("chmod");
    dm!("create", at("map"), "--image", at("image")).exits(0);
    assert_eq!(mode("map"), 0o660);
    dm!("create", at("alone"), "--size", "1M").exits(0);
    assert_eq!(mode("alone"), 0o600);
    fs::write(at("dump"), dm!("dump", at("map")).exits(0).out).expect("write");
    dm!("undump", at("dump"), at("restored")).exits(0);
    assert_eq!(mode("restored"), 0o600);
}
