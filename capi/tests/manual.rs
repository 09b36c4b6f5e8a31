//! dirtymap.3 is made of the header: `DIRTYMAP_WRITE_MANUAL=1 cargo test --test manual` writes it anew.

mod common;

use common::{HEADER, has, root};
use std::fmt::Write;
use std::process::Command;

/// A piece of the header.
enum Piece {
    /// The title of a section.
    Title(String),
    /// A declaration, and the comment that stands before it.
    Declared(String, String),
}

/// The lines of a comment, without its marks.
fn comment(text: &str) -> Vec<String> {
    let inner = text.trim().trim_start_matches("/*").trim_end_matches("*/").trim_start();
    let bare = |line: &str| line.strip_prefix(" * ").or(line.strip_prefix(" *")).unwrap_or(line).trim_end().to_string();
    inner.trim().lines().map(bare).collect()
}

/// The comment at the head of the header, and the pieces.
fn pieces() -> (Vec<String>, Vec<Piece>) {
    let (head, rest) = HEADER.split_once("#ifndef DIRTYMAP_H").unwrap();
    let body = rest.split_once("#endif\n\n/*").unwrap().1;
    let body = body.split_once("#ifdef __cplusplus").unwrap().0;
    let body = format!("/*{body}");
    let (mut said, mut pieces) = (String::new(), Vec::new());
    // A blank line stands between pieces, and none within one.
    for block in body.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        if let Some(title) = block.strip_prefix("/* ---") {
            pieces.push(Piece::Title(title.trim_start_matches('-').trim_end_matches("*/").trim().to_string()));
            continue;
        }
        let mut rest = block;
        while rest.starts_with("/*") {
            let end = rest.find("*/").unwrap() + 2;
            said = comment(&rest[..end]).join(" ");
            rest = rest[end..].trim_start_matches('\n');
        }
        let declared = rest.replace("DIRTYMAP_CHECKED ", "");
        pieces.push(Piece::Declared(declared, std::mem::take(&mut said)));
    }
    (comment(head), pieces)
}

/// Text that roff takes as it is.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn lines(out: &mut String, text: &str) {
    text.lines().for_each(|line| writeln!(out, "{}", escaped(line)).unwrap());
}

fn example(out: &mut String, text: &str) {
    *out += ".PP\n.nf\n";
    lines(out, text);
    *out += ".fi\n";
}

fn manual() -> String {
    let (head, pieces) = pieces();
    let mut out =
        String::from(".\\\" Made of dirtymap.h by tests/manual.rs.\n.TH DIRTYMAP 3 \"\" dirtymap \"dirtymap for C\"\n");
    let (name, what) = head[0].trim_start_matches("* ").split_once(": ").unwrap();
    writeln!(out, ".SH NAME\n{name} \\- {}", escaped(what)).unwrap();
    out += ".SH SYNOPSIS\n.nf\n.B #include <dirtymap.h>\n.fi\n.PP\ncc program.c $(pkg\\-config \\-\\-cflags \\-\\-libs dirtymap)\n";
    out += ".SH DESCRIPTION\n";
    for paragraph in head[1..].join("\n").split("\n\n") {
        let paragraph = paragraph.trim_matches('\n');
        if paragraph.starts_with("    ") {
            example(&mut out, paragraph);
        } else if !paragraph.is_empty() {
            out += ".PP\n";
            match paragraph.split_once(". ") {
                Some((title, rest)) if title.len() < 32 => {
                    writeln!(out, ".B {}.", escaped(title)).unwrap();
                    lines(&mut out, rest);
                }
                _ => lines(&mut out, paragraph),
            }
        }
    }
    let mut titled = false;
    for piece in pieces {
        match piece {
            Piece::Title(title) => {
                titled = true;
                writeln!(out, ".SH {}", escaped(&title).to_uppercase()).unwrap();
            }
            Piece::Declared(declared, said) => {
                if !std::mem::replace(&mut titled, true) {
                    out += ".SH TYPES\n";
                }
                out += ".PP\n.nf\n";
                for line in declared.lines() {
                    writeln!(out, "\\fB{}\\fR", escaped(line)).unwrap();
                }
                out += ".fi\n";
                if !said.is_empty() {
                    out += ".RS 4\n";
                    lines(&mut out, &said);
                    out += ".RE\n";
                }
            }
        }
    }
    out += ".SH SEE ALSO\ndirtymap(1); docs/c.md and examples/c of the sources\n";
    out
}

#[test]
fn the_manual_page_is_that_of_the_header() {
    let path = root().join("dirtymap.3");
    if std::env::var_os("DIRTYMAP_WRITE_MANUAL").is_some() {
        std::fs::write(&path, manual()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(written == manual(), "write it anew: DIRTYMAP_WRITE_MANUAL=1 cargo test --test manual");
}

#[test]
fn it_tells_of_every_function() {
    let functions = std::fs::read_to_string(root().join("dirtymap.map")).unwrap();
    let names = functions.lines().filter_map(|line| line.trim().strip_suffix(';')).filter(|name| name.contains('_'));
    let manual = manual();
    let mut n = 0;
    for name in names {
        assert!(manual.contains(&format!("{name}(")), "{name}");
        n += 1;
    }
    assert!(n > 120, "{n} functions");
}

#[test]
fn it_can_be_read() {
    if !has("man") || !has("groff") {
        println!("SKIPPED: no man or no groff");
        return;
    }
    let shown = Command::new("man")
        .args(["--warnings", "-l"])
        .env("MANWIDTH", "120")
        .arg(root().join("dirtymap.3"))
        .output()
        .unwrap();
    assert!(shown.status.success() && shown.stderr.is_empty(), "{}", String::from_utf8_lossy(&shown.stderr));
    // Without its lines, which break where they are full.
    let text = String::from_utf8_lossy(&shown.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("int dirtymap_set(") && text.contains("do not write the data"), "{text}");
}
