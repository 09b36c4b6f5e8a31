//! The header is written by hand, and compared here with what it is of: names and types of functions, the layout of structs,
//! codes, versions of symbols.

mod common;

use common::{Declared, Functions, HEADER, code, functions_of, has, made, root, run, stdout};
use dirtymap_capi::layout::{OPAQUE, POINTING, STRUCTS};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::Command;

/// What a type of this crate is in the header.
fn in_c(rust: &str) -> String {
    if let Some((of, inner)) = rust.strip_suffix('>').and_then(|rust| rust.split_once('<')) {
        let inner = in_c(inner);
        return match of {
            "Const" => format!("const {inner}"),
            "Array" => format!("const {inner}*"),
            "Kept" | "Opaque" | "Out" | "Struct" | "Structs" => format!("{inner}*"),
            "New" => format!("{inner}**"),
            _ => panic!("what is {rust} in the header?"),
        };
    }
    let known = match rust {
        "()" => "void",
        "bool" | "Flag" => "bool",
        "c_int" => "int",
        "u64" => "uint64_t",
        "u32" => "uint32_t",
        "usize" => "size_t",
        "*const c_char" | "Text" => "const char*",
        // Of bytes in an array.
        "u8" => "void",
        "*mut c_void" | "Buffer" => "void*",
        "[u8; 32]" => "uint8_t",
        "[u8; 16]" => "dirtymap_uuid_t",
        "Identity" => "const dirtymap_uuid_t*",
        "Map" => "dirtymap_t*",
        "NewMap" => "dirtymap_t**",
        "Handle" => "dirtymap_options_t*",
        "Options" => "dirtymap_options_t",
        "NewFile" => "dirtymap_new_file_t",
        "Queue" => "dirtymap_queue_t",
        "Told" => "dirtymap_report_t",
        "Write" => "dirtymap_write_t",
        "Place" => "dirtymap_cursor_t",
        "ProgressFn" => "dirtymap_progress_fn",
        "SettleFn" => "dirtymap_settle_fn",
        "EventFn" => "dirtymap_event_fn",
        described => return format!("dirtymap_{}", described.trim_start_matches("layout::").to_lowercase()),
    };
    known.into()
}

/// The sources of the functions of the header, from the name of each on.
fn sources() -> Vec<String> {
    let files = std::fs::read_dir(root().join("src")).unwrap();
    let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let functions = |text: String| {
        // A macro writes some.
        let made = text.split("made_of!(").skip(1).map(|made| made.split(',').next().unwrap().to_string());
        let made: Vec<String> = made.collect();
        let found = text.split("extern \"C\" fn ").skip(1).flat_map(|found| match found.strip_prefix("$name") {
            Some(rest) => made.iter().map(|name| format!("{name}{rest}")).collect(),
            None => vec![found.to_string()],
        });
        found.filter(|found| found.starts_with("dirtymap_")).collect::<Vec<_>>()
    };
    texts.flat_map(functions).collect()
}

fn functions_of_the_library() -> Functions {
    let argument = |argument: &str| -> Option<Declared> {
        let (name, of_type) = argument.split_once(": ")?;
        Some((in_c(of_type), name.trim().to_string()))
    };
    let function = |source: String| {
        let (name, rest) = source.split_once('(').unwrap();
        let (arguments, rest) = rest.split_once(')').unwrap();
        let result = rest.trim_start().strip_prefix("-> ").map_or("()", |rest| rest.split(" {").next().unwrap());
        let mut types = vec![(in_c(result), String::new())];
        types.extend(arguments.split(',').filter_map(argument));
        (name.to_string(), types)
    };
    sources().into_iter().map(function).collect()
}

#[test]
fn functions_have_the_types_and_names_that_the_header_says() {
    let (header, library) = (functions_of(HEADER), functions_of_the_library());
    assert!(header.len() > 120, "{} functions", header.len());
    let names = |functions: &Functions| functions.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&header), names(&library));
    let differing: Vec<_> = header.iter().filter(|(name, types)| library[*name] != **types).collect();
    for (name, types) in &differing {
        println!("{name}:\n  header  {types:?}\n  library {:?}", library[*name]);
    }
    assert!(differing.is_empty(), "{} differ", differing.len());
}

/// `const` in the header is a promise to threads that read a map in memory at once.
#[test]
fn a_map_that_is_const_is_not_changed() {
    let mut n = 0;
    for source in sources()
        .iter()
        .filter(|source| source.contains("(map: Const<Map>") || source.contains("\n    map: Const<Map>"))
    {
        let body = source.split("\n}\n").next().unwrap();
        let changes = ["change!(", "call_alone(", ".write()"].iter().find(|call| body.contains(**call));
        assert_eq!(changes, None, "{body}");
        n += 1;
    }
    assert!(n > 40, "{n} functions");
}

#[test]
fn the_library_exports_what_the_header_says_with_its_version_and_nothing_else() {
    let expected: BTreeSet<String> =
        functions_of(HEADER).into_keys().map(|name| format!("{name}@@DIRTYMAP_0")).collect();
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
