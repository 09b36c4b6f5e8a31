//! Lines that fit a terminal.

use std::io::{self, Write};

/// Columns that every terminal has.
pub const COLUMNS: usize = 80;

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
