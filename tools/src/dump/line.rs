//! One line of a dump: words, numbers and texts, with single spaces between them.
//!
//! Invariant kept here: an error names the first character of what is wrong.

use super::Error;
use std::fmt;

/// Bytes of a line at most. Escaped, a label or a name takes ten bytes for one at worst.
pub const MAX_LINE: usize = 4096;
/// Characters that a message shows of what it found.
const SHOWN: usize = 60;

/// What a message shows of what it found.
pub fn shown(mut found: String) -> String {
    if let Some((end, _)) = found.char_indices().nth(SHOWN) {
        found.truncate(end);
        found += "...";
    }
    found
}

/// A place in a line.
#[derive(Debug)]
pub struct Cursor<'a> {
    line: &'a str,
    number: u64,
    /// Where the last item starts.
    item: usize,
    /// Behind the last item.
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The beginning of line `number`.
    pub fn new(line: &'a [u8], number: u64) -> Result<Cursor<'a>, Error> {
        match std::str::from_utf8(line) {
            Ok(line) => Ok(Cursor { line, number, item: 0, at: 0 }),
            Err(e) => {
                let before = String::from_utf8_lossy(&line[..e.valid_up_to()]);
                Err(Error {
                    line: number,
                    column: before.chars().count() + 1,
                    found: "bytes that are no UTF-8".into(),
                    expected: "text".into(),
                })
            }
        }
    }

    /// The last item is wrong.
    pub fn wrong(&self, found: impl fmt::Display, expected: impl fmt::Display) -> Error {
        let found = shown(found.to_string());
        let before = self.line.get(..self.item).unwrap_or(self.line);
        Error { line: self.number, column: before.chars().count() + 1, found, expected: expected.to_string() }
    }

    /// The last item is wrong, and shown as it is there.
    pub fn wrong_item(&self, expected: impl fmt::Display) -> Error {
        match self.line.get(self.item..self.at).unwrap_or_default() {
            "" => self.wrong("nothing", expected),
            item => self.wrong(format_args!("{item:?}"), expected),
        }
    }

    /// What is left of the line.
    fn rest(&self) -> &'a str {
        self.line.get(self.at..).unwrap_or_default()
    }

    /// Goes over the space in front of an item.
    fn space(&mut self) {
        self.at += usize::from(self.at > 0 && self.rest().starts_with(' '));
        self.item = self.at;
    }

    /// The next word; empty where there is none.
    pub fn word(&mut self) -> &'a str {
        self.space();
        let rest = self.rest();
        let word = rest.split(' ').next().unwrap_or_default();
        self.at += word.len();
        word
    }

    /// A decimal number.
    pub fn number(&mut self, most: u64) -> Result<u64, Error> {
        let word = self.word();
        let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        let number = word.parse().ok().filter(|n| digits && *n <= most);
        number.ok_or_else(|| self.wrong_item(format_args!("a whole number from 0 to {most}")))
    }

    /// A time, before or after 1970.
    pub fn time(&mut self) -> Result<i64, Error> {
        let word = self.word();
        let digits = word.strip_prefix('-').unwrap_or(word).bytes().all(|b| b.is_ascii_digit());
        let number = word.parse().ok().filter(|_| digits);
        number.ok_or_else(|| self.wrong_item("a time as a whole number"))
    }

    /// One of these words.
    pub fn one_of(&mut self, words: &[&'static str]) -> Result<&'static str, Error> {
        let word = self.word();
        let found = words.iter().find(|w| **w == word);
        found.copied().ok_or_else(|| self.wrong_item(format_args!("one of: {}", words.join(", "))))
    }

    /// An identity.
    pub fn uuid(&mut self) -> Result<(), Error> {
        let word = self.word().as_bytes();
        let right = |(i, b): (usize, &u8)| match i {
            8 | 13 | 18 | 23 => *b == b'-',
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        };
        if word.len() == 36 && word.iter().enumerate().all(right) {
            return Ok(());
        }
        Err(self.wrong_item("32 hexadecimal digits in groups of 8, 4, 4, 4 and 12, with hyphens between them"))
    }

    /// A text in quotation marks, which is the last item.
    pub fn text(&mut self) -> Result<String, Error> {
        self.space();
        let inside = match self.rest().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(inside) => inside,
            None => {
                self.at = self.line.len();
                return Err(self.wrong_item("a text in quotation marks at the end of the line"));
            }
        };
        self.at = self.line.len();
        let first = self.item + 1;
        let mut text = String::new();
        let mut rest = inside;
        while let Some(c) = rest.chars().next() {
            let taken = match c {
                '\\' => unescape(rest),
                '"' => None,
                c => Some((c, c.len_utf8())),
            };
            let Some((c, length)) = taken else {
                self.item = first + (inside.len() - rest.len());
                return Err(
                    self.wrong_item(r#"one of \" \' \\ \n \r \t \0 \u{HEX}, or no backslash or quotation mark"#)
                );
            };
            text.push(c);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(text)
    }

    /// Counts lines of a kind, of which there may be `most`.
    pub fn one_more(&self, count: usize, most: usize) -> Result<usize, Error> {
        if count < most { Ok(count + 1) } else { Err(self.wrong_item(format_args!("at most {most} such lines"))) }
    }

    /// Nothing more.
    pub fn end(&mut self) -> Result<(), Error> {
        if self.rest().is_empty() {
            return Ok(());
        }
        self.item = self.at;
        self.at = self.line.len();
        Err(self.wrong_item("the line's end"))
    }
}

/// The character that an escape sequence at the start of a text stands for, and the bytes of the sequence.
fn unescape(text: &str) -> Option<(char, usize)> {
    let c = match text.as_bytes().get(1)? {
        b'"' => '"',
        b'\'' => '\'',
        b'\\' => '\\',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'0' => '\0',
        b'u' => {
            let (hex, _) = text.get(2..)?.strip_prefix('{')?.split_once('}')?;
            let digits = (1..=6).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit());
            let value = u32::from_str_radix(hex, 16).ok().filter(|_| digits)?;
            return Some((char::from_u32(value)?, hex.len() + 4));
        }
        _ => return None,
    };
    Some((c, 2))
}
