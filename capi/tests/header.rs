//! The header is written by hand, and compared here with what it is of: names and types of functions, the layout of structs,
//! codes, versions of symbols.

mod common;

use common::{HEADER, has, made, root, run, stdout};
use dirtymap_capi::layout::{OPAQUE, POINTING, STRUCTS};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::Command;

/// Result and argument types of functions, by their names.
type Functions = BTreeMap<String, Vec<String>>;

/// A text without its comments.
fn code(text: &str) -> String {
    let mut parts = text.split("/*");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |code, part| code + part.split_once("*/").map_or("", |(_, behind)| behind))
}

/// Types of C without const and struct, and without names.
fn c_type(argument: &str) -> String {
    let argument = argument.replace("const ", "").replace("struct ", "");
    let name = argument.rfind([' ', '*']).map_or(0, |i| i + 1);
    let bare = if argument.trim() == "void" { "" } else { &argument[..name] };
    bare.split_whitespace().collect::<String>()
}

fn functions_of_the_header() -> Functions {
    let text = code(HEADER);
    let mut functions = Functions::new();
    for statement in text.split(';').filter(|statement| statement.contains('(') && !statement.contains("typedef")) {
        let statement = statement.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" ");
        let (before, arguments) = statement.split_once('(').unwrap();
        let before = before.rsplit(['{', '}']).next().unwrap_or_default().replace("DIRTYMAP_CHECKED", "");
        let name = before.rsplit([' ', '*']).next().unwrap().to_string();
        let mut types = vec![c_type(&before)];
        types.extend(arguments.trim_end_matches(')').split(',').map(c_type).filter(|t| !t.is_empty()));
        functions.insert(name, types);
    }
    functions
}

/// What a type of this crate is in the header.
fn in_c(rust: &str) -> String {
    let known = match rust {
        "c_int" => "int",
        "u64" => "uint64_t",
        "u32" => "uint32_t",
        "usize" => "size_t",
        "Flag" | "bool" | "ProgressFn" | "EventFn" | "()" => {
            return match rust {
                "ProgressFn" => "dirtymap_progress_fn",
                "EventFn" => "dirtymap_event_fn",
                "()" => "void",
                "Flag" => "bool",
                other => other,
            }
            .into();
        }
        "*const c_char" | "Text" => "char*",
        "*mut c_void" | "Array<u8>" | "Buffer" => "void*",
        "Map" => "dirtymap_t*",
        "NewMap" => "dirtymap_t**",
        "Out<[u8; 16]>" | "Identity" => "dirtymap_uuid_t*",
        "Out<[u8; 32]>" => "uint8_t*",
        "Array<Range>" | "Out<Range>" => "dirtymap_range*",
        "Kept<Write>" => "dirtymap_write_t*",
        "Cursors" => "dirtymap_cursor_t*",
        "Queues" => "dirtymap_queue_t*",
        "Handle" | "Opaque<Options>" => "dirtymap_options_t*",
        "Opaque<NewFile>" => "dirtymap_new_file_t*",
        "Reports" => "dirtymap_report_t*",
        "NewReport" => "dirtymap_report_t**",
        "Out<Option<NonNull<Options>>>" => "dirtymap_options_t**",
        "Out<Option<NonNull<NewFile>>>" => "dirtymap_new_file_t**",
        "Out<Option<std::ptr::NonNull<Queue>>>" => "dirtymap_queue_t**",
        _ => "",
    };
    if !known.is_empty() {
        return known.into();
    }
    let inner = |kind: &str| rust.strip_prefix(kind).and_then(|rest| rest.strip_suffix('>'));
    match (inner("Out<"), inner("Struct<").or_else(|| inner("Structs<"))) {
        (_, Some(name)) => format!("dirtymap_{}*", name.trim_start_matches("layout::").to_lowercase()),
        (Some(number), _) => format!("{}*", in_c(number)),
        _ => panic!("what is {rust} in the header?"),
    }
}

fn functions_of_the_library() -> Functions {
    let mut functions = Functions::new();
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for found in text.split("extern \"C\" fn ").skip(1).filter(|found| found.starts_with("dirtymap_")) {
            let (name, rest) = found.split_once('(').unwrap();
            let (arguments, rest) = rest.split_once(')').map(|(a, r)| (a, r.trim_start())).unwrap();
            // The unit type among arguments there is not.
            let result = rest.strip_prefix("-> ").map_or("()", |rest| rest.split(" {").next().unwrap());
            let mut types = vec![in_c(result)];
            let arguments = arguments.split(", ").flat_map(|a| a.split(",\n")).map(str::trim);
            types.extend(arguments.filter_map(|a| a.split_once(": ")).map(|(_, t)| in_c(t.trim_end_matches(','))));
            functions.insert(name.into(), types);
        }
        for made in text.split("made_of!(").skip(1) {
            let types = ["int", "dirtymap_t*", "dirtymap_t*", "dirtymap_t**"].map(String::from);
            functions.insert(made.split(',').next().unwrap().into(), types.into());
        }
    }
    functions
}

#[test]
fn functions_have_the_types_that_the_header_says() {
    let (header, library) = (functions_of_the_header(), functions_of_the_library());
    assert!(header.len() > 120, "{} functions", header.len());
    let names = |functions: &Functions| functions.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&header), names(&library));
    for (name, types) in header {
        assert_eq!(types, library[&name], "{name}");
    }
}

#[test]
fn the_library_exports_what_the_header_says_with_its_version_and_nothing_else() {
    let expected: BTreeSet<String> =
        functions_of_the_header().into_keys().map(|name| format!("{name}@@DIRTYMAP_0")).collect();
    let listed = stdout(Command::new("nm").args(["-D", "--defined-only"]).arg(made().join("libdirtymap.so")));
    // Of whatever kind they are, and without that which stands for the version itself.
    let symbols = listed.lines().filter_map(|line| line.split_whitespace().last());
    let exported = symbols.filter(|name| !name.starts_with("DIRTYMAP_0")).map(String::from);
    assert_eq!(exported.collect::<BTreeSet<_>>(), expected);
    let dynamic = stdout(Command::new("readelf").arg("-d").arg(made().join("libdirtymap.so")));
    assert!(dynamic.contains("soname: [libdirtymap.so.0]"), "{dynamic}");
    let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    let system = |line: &&&str| ["libc.so", "libgcc_s.so", "ld-linux"].iter().any(|name| line.contains(name));
    assert_eq!(needed.iter().filter(system).count(), needed.len(), "{needed:?}");
}

#[test]
fn structs_lie_in_memory_as_the_header_says() {
    let mut program = String::from("#include <stddef.h>\n#include \"dirtymap.h\"\n");
    let mut say = |what: String| writeln!(program, "_Static_assert({what}, \"{}\");", what.replace('"', "")).unwrap();
    for (name, size, fields) in STRUCTS.iter().chain(POINTING) {
        say(format!("sizeof({name}) == {size}"));
        for (field, offset, size) in *fields {
            say(format!("offsetof({name}, {field}) == {offset}"));
            say(format!("sizeof((({name} *)0)->{field}) == {size}"));
        }
        // And the header has no field that the library does not know.
        let body = code(HEADER);
        let body = body.split(&format!("{name} {{")).nth(1).and_then(|rest| rest.split('}').next()).unwrap();
        let unknown = |field: &&str| !fields.iter().any(|(known, ..)| known == field);
        let declared = body.split(';').filter_map(|line| line.split('[').next()?.trim().rsplit([' ', '*']).next());
        let missing: Vec<&str> =
            declared.filter(|field| !field.is_empty() && *field != "reserved").filter(unknown).collect();
        assert!(missing.is_empty(), "{name}: {missing:?}");
    }
    for name in ["dirtymap_cursor_t", "dirtymap_write_t"] {
        say(format!("sizeof({name}) == {OPAQUE}"));
    }
    check_syntax("cc", &["-std=c11", "-xc"], &program);
}

fn check_syntax(compiler: &str, options: &[&str], program: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("program");
    std::fs::write(&file, program).unwrap();
    let mut command = Command::new(compiler);
    command.args(["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"]).arg(root()).args(options);
    run(command.arg(&file));
}

#[test]
fn the_header_is_c99_and_cpp11() {
    let program = "#include \"dirtymap.h\"\n#include \"dirtymap.h\"\nint main(void) { return 0; }\n";
    check_syntax("cc", &["-std=c99", "-xc"], program);
    if !has("c++") {
        println!("SKIPPED: no C++ compiler");
        return;
    }
    let program = "#include \"dirtymap.h\"\nint main() {\n    dirtymap_t *map = nullptr;\n    struct dirtymap_info info;\n\
                   \x20   if (dirtymap_new(100, 1, &map) || !dirtymap_info(map, &info, sizeof info)) return 1;\n\
                   \x20   dirtymap_range range = {0, 5};\n    return dirtymap_set_ranges(map, &range, 1, nullptr) || dirtymap_close(map);\n}\n";
    check_syntax("c++", &["-std=c++11", "-xc++"], program);
    let dir = tempfile::tempdir().unwrap();
    let (source, binary) = (dir.path().join("program.cc"), dir.path().join("program"));
    std::fs::write(&source, program).unwrap();
    let mut command = Command::new("c++");
    command.arg(&source).arg("-o").arg(&binary).arg("-I").arg(root()).arg(made().join("libdirtymap.so"));
    run(command.arg(format!("-Wl,-rpath,{}", made().display())));
    run(&mut Command::new(binary));
}

/// A result that is not looked at is a warning: after an error of `set` the data must not be written.
#[test]
fn an_error_that_is_not_looked_at_is_a_warning() {
    let program = "#include \"dirtymap.h\"\nvoid f(dirtymap_t *map) { dirtymap_set(map, 0, 1, NULL); }\n";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f.c"), program).unwrap();
    let mut command = Command::new("cc");
    command.args(["-c", "-o", "/dev/null", "-Wall", "-I"]).arg(root()).arg(dir.path().join("f.c"));
    let said = command.output().unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains("warn_unused_result"), "{said:?}");
}

/// Codes and kinds of the library, as its source has them.
fn kinds_of_the_library() -> BTreeMap<u32, String> {
    let source = std::fs::read_to_string(root().join("../src/error/kinds.rs")).unwrap();
    let (_, source) = source.split_once("fn kind_and_code(").unwrap();
    let (source, _) = source.split_once("impl std::error::Error").unwrap();
    let pairs = source.split("(\"").skip(1).filter_map(|rest| rest.split_once("\", "));
    pairs.map(|(kind, rest)| (rest.split(')').next().unwrap().parse().unwrap(), kind.to_string())).collect()
}

#[test]
fn codes_are_those_of_the_library() {
    let kinds = kinds_of_the_library();
    assert_eq!(kinds.len(), 27);
    let text = code(HEADER);
    let body = text.split("enum dirtymap_error {").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
    let codes: BTreeMap<u32, &str> = body
        .split(',')
        .filter_map(|entry| entry.trim().split_once(" = "))
        .map(|(name, code)| (code.parse().unwrap(), name))
        .collect();
    let mut program = String::from("#include \"dirtymap.h\"\n#include <stdio.h>\nint main(void) {\n");
    for code in codes.keys() {
        writeln!(program, "    puts(dirtymap_error_kind({code}));").unwrap();
    }
    program += "}\n";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("codes.c"), program).unwrap();
    common::compile(&dir.path().join("codes.c"), &dir.path().join("codes"), common::Linked::Shared);
    let said = stdout(&mut Command::new(dir.path().join("codes")));
    assert_eq!(codes.len(), said.lines().count());
    for ((code, name), said) in codes.iter().zip(said.lines()) {
        // Where the name of the kind has no more to say.
        let expected = match said {
            "checkpoint-outstanding" => "DIRTYMAP_E_OUTSTANDING".into(),
            "ok" | "again" => format!("DIRTYMAP_{}", said.to_uppercase()),
            kind => format!("DIRTYMAP_E_{}", kind.to_uppercase().replace('-', "_")),
        };
        assert_eq!(*name, expected, "code {code}");
        if (1..100).contains(code) {
            assert_eq!(kinds[code], said, "code {code}");
        }
    }
}

/// All unsafe code is in one file; names that C links are no such code.
#[test]
fn unsafe_code_is_in_one_file() {
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let uses = text.matches("unsafe").count() - text.matches("#[unsafe(no_mangle)]").count();
        let comments =
            text.lines().filter(|line| line.trim_start().starts_with("//") && line.contains("unsafe")).count();
        assert!(path.ends_with("ffi.rs") || uses == comments, "{}", path.display());
    }
}
