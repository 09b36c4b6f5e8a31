//! Names as people and programs get to see them.
//!
//! Invariant kept here: no byte of a name acts on a terminal, and none is lost.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;

/// A name or text from elsewhere, for a message: characters that act on a terminal or on the order of text are escaped
/// as Rust writes them (`\u{1b}`), bytes that are no UTF-8 as `\xHH`.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(&'a [u8]);

/// Shows a path, a name or a text.
pub fn shown<T: AsRef<OsStr> + ?Sized>(name: &T) -> Shown<'_> {
    Shown(name.as_ref().as_bytes())
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(f, self.0, acts)
    }
}

/// A name of any bytes as unambiguous text, for JSON: a backslash is doubled, a byte that is no UTF-8 is `\xHH`.
pub fn text_of(name: &[u8]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_name(&mut text, name, |c| c == '\\');
    text
}

fn write_name(out: &mut impl Write, name: &[u8], escaped: impl Fn(char) -> bool) -> fmt::Result {
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if escaped(c) { write!(out, "{}", c.escape_default())? } else { out.write_char(c)? }
        }
        chunk.invalid().iter().try_for_each(|byte| write!(out, "\\x{byte:02x}"))?;
    }
    Ok(())
}

/// Whether a character does something else than to appear: control characters, line and paragraph separators, and those
/// that turn the direction of text.
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_escaped_and_nothing_else() {
        let name = |bytes: &[u8]| shown(OsStr::from_bytes(bytes)).to_string();
        assert_eq!(name(b"/dev/disk/by-label/a\\x20b 'c' \"d\""), "/dev/disk/by-label/a\\x20b 'c' \"d\"");
        assert_eq!(name("käse 木 \u{1f4be}".as_bytes()), "käse 木 \u{1f4be}");
        assert_eq!(name(b"a\x1b[31m\n\r\t\x07\x7f"), "a\\u{1b}[31m\\n\\r\\t\\u{7}\\u{7f}");
        assert_eq!(
            name("\u{9b}31m \u{202e}gpj \u{2066} \u{2028}".as_bytes()),
            "\\u{9b}31m \\u{202e}gpj \\u{2066} \\u{2028}"
        );
        // As a byte alone it is a control character of an 8-bit terminal.
        assert_eq!(name(b"caf\xe9 \x9b31m"), "caf\\xe9 \\x9b31m");
    }

    #[test]
    fn different_names_are_different_texts() {
        assert_eq!(text_of("käse".as_bytes()), "käse");
        assert_eq!(text_of(b"caf\xe9"), "caf\\xe9");
        assert_eq!(text_of(b"caf\\xe9"), "caf\\\\xe9");
    }
}
