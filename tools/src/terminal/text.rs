//! Lines that fit a terminal.
//!
//! Invariant kept here: no line is wider than [`COLUMNS`], unless a single word is.

use std::io::{self, IsTerminal, Write};

/// Columns that every terminal has.
pub const COLUMNS: usize = 80;

/// Writes a sentence of an answer as `format!` makes it: on a terminal on as many lines as it needs, else on one.
macro_rules! say {
    ($out:expr, $($sentence:tt)*) => {
        $crate::terminal::text::sentence($out, &format!($($sentence)*))
    };
}
pub(crate) use say;

/// See [`say!`].
pub fn sentence(out: &mut dyn Write, text: &str) -> io::Result<()> {
    if io::stdout().is_terminal() { fold(out, "", text) } else { writeln!(out, "{text}") }
}

/// Tells something on stderr: folded on a terminal, else each line as it is, for a log.
pub fn tell(text: &str) -> io::Result<()> {
    let mut lines = Vec::new();
    for line in text.lines() {
        if io::stderr().is_terminal() { fold(&mut lines, "", line)? } else { writeln!(lines, "{line}")? }
    }
    io::stderr().lock().write_all(&lines)
}

/// A line of a table that is not wider than a terminal: words that do not fit go below the first one.
pub fn fold(out: &mut dyn Write, head: &str, text: &str) -> io::Result<()> {
    let indent = head.chars().count();
    let (mut line, mut columns) = (head.to_string(), indent);
    for (i, word) in text.split(' ').enumerate() {
        let width = word.chars().count();
        if i > 0 && columns + 1 + width > COLUMNS {
            writeln!(out, "{line}")?;
            (line, columns) = (" ".repeat(indent.max(2)), indent.max(2));
        } else if i > 0 {
            line.push(' ');
            columns += 1;
        }
        line.push_str(word);
        columns += width;
    }
    writeln!(out, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_lines_are_no_wider_than_a_terminal() {
        let mut out = Vec::new();
        fold(&mut out, "found  ", &"word ".repeat(40)).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().count() == 3 && text.lines().all(|line| line.len() <= COLUMNS), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("       word")), "{text}");
    }
}
