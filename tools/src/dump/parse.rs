//! Reading the text form: line by line, and nothing is handed out before all in front of it was found right.

use super::line::{Cursor, MAX_LINE};
use super::{Area, DURABILITIES, FIELDS, Kind, MAGIC, NEEDED, NO_DUMP, ROLES, VERSION, json, role};
use dirtymap::Geometry;
use dirtymap::format::{COPIES, Durability, MAX_LABEL, MAX_LIST, MAX_POINTS};
use std::fmt;
use std::io::{self, BufRead};

/// What a text says of the map that is to be made of it, but for the areas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub geometry: Geometry,
    pub durability: Durability,
    pub label: String,
    /// The map belonged to an image.
    pub had_image: bool,
}

/// Where a text is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// From 1.
    pub line: u64,
    /// The first character that is wrong, from 1.
    pub column: usize,
    pub found: String,
    pub expected: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error { line, column, found, expected } = self;
        write!(f, "line {line}, column {column}: found {found}, expected {expected}")
    }
}

/// Why a dump was not read.
#[derive(Debug)]
pub enum Failed<E> {
    /// What it comes from failed.
    Io(io::Error),
    Wrong(Error),
    /// Who takes the areas failed.
    Taker(E),
}

impl<E> From<Error> for Failed<E> {
    fn from(e: Error) -> Failed<E> {
        Failed::Wrong(e)
    }
}

/// Reads all of a dump, text or JSON, and gives its areas to `each`, ascending.
///
/// # Errors
/// What is wrong with the dump or with what it comes from, or what `each` says.
pub fn read<E>(mut input: impl BufRead, mut each: impl FnMut(Area) -> Result<(), E>) -> Result<Head, Failed<E>> {
    if input.fill_buf().map_err(Failed::Io)?.starts_with(b"{") {
        return json::read(input, each);
    }
    let mut parser = Parser::new();
    loop {
        let bytes = input.fill_buf().map_err(Failed::Io)?;
        let length = bytes.len();
        if length == 0 {
            return Ok(parser.finish()?);
        }
        parser.feed(bytes, |area| each(area).map_err(Failed::Taker))?;
        input.consume(length);
    }
}

/// Reads a text piece by piece.
#[derive(Debug, Default)]
pub struct Parser {
    /// The line that has not ended yet.
    rest: Vec<u8>,
    /// Lines that have ended.
    lines: u64,
    started: bool,
    /// Fields that were there, a bit each.
    seen: u64,
    copies: u32,
    points: usize,
    armed: usize,
    len: u64,
    granularity: u32,
    process: bool,
    label: String,
    had_image: bool,
    armed_end: u64,
    /// Known once everything in front of the areas is.
    geometry: Option<Geometry>,
    dirty_end: u64,
    areas: u64,
    ended: bool,
}

const _: () = assert!(FIELDS.len() < 64 && NEEDED < FIELDS.len());

impl Parser {
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Takes the next bytes of the text, and gives every area in them to `each`.
    ///
    /// # Errors
    /// What is wrong with the text, or what `each` says.
    pub fn feed<E: From<Error>>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Area) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if self.rest.is_empty() && line.len() <= MAX_LINE {
                self.line(line, &mut each)?;
            } else {
                self.keep(line)?;
                let line = std::mem::take(&mut self.rest);
                self.line(&line, &mut each)?;
            }
        }
        Ok(self.keep(bytes)?)
    }

    /// Ends the text.
    ///
    /// # Errors
    /// It is not complete.
    pub fn finish(self) -> Result<Head, Error> {
        let line = self.lines + 1;
        let missing = |column, found: &str| Error { line, column, found: found.into(), expected: self.wanted().into() };
        match self.geometry {
            _ if !self.rest.is_empty() => Err(Error {
                line,
                column: String::from_utf8_lossy(&self.rest).chars().count() + 1,
                found: "the end of the text inside a line".into(),
                expected: "the line's end".into(),
            }),
            Some(geometry) if self.ended => Ok(Head {
                geometry,
                durability: if self.process { Durability::Process } else { Durability::PowerLoss },
                label: self.label,
                had_image: self.had_image,
            }),
            _ => Err(missing(1, "the end of the text")),
        }
    }

    /// What has to come at some time.
    fn wanted(&self) -> &'static str {
        if !self.started {
            return NO_DUMP;
        }
        let missing = FIELDS.iter().take(NEEDED).enumerate().find(|(i, _)| self.seen >> i & 1 == 0);
        missing.map_or("`end` and the number of areas", |(_, (name, _))| name)
    }

    /// Where nothing of a dump was seen, it is likely that this is none.
    fn at_the_start(&self, e: Error) -> Error {
        if self.started { e } else { Error { expected: NO_DUMP.into(), ..e } }
    }

    /// Keeps the beginning of a line.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.rest.len() + bytes.len() > MAX_LINE {
            return Err(self.at_the_start(Error {
                line: self.lines + 1,
                column: MAX_LINE + 1,
                found: "a longer line".into(),
                expected: format!("a line of at most {MAX_LINE} bytes"),
            }));
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    fn line<E: From<Error>>(&mut self, line: &[u8], each: &mut impl FnMut(Area) -> Result<(), E>) -> Result<(), E> {
        self.lines += 1;
        let mut at = Cursor::new(line, self.lines).map_err(|e| self.at_the_start(e))?;
        if let Some(area) = self.fact(&mut at)? {
            each(area)?;
        }
        Ok(())
    }

    /// A line that says something.
    fn fact(&mut self, at: &mut Cursor<'_>) -> Result<Option<Area>, Error> {
        let key = at.word();
        if !self.started {
            if key != MAGIC {
                return Err(at.wrong_item(NO_DUMP));
            }
            let version = at.number(u64::MAX)?;
            if version != VERSION {
                return Err(at.wrong_item("version 1 of the text form, the only one that is known here"));
            }
            self.started = true;
        } else if self.ended {
            return Err(at.wrong_item("nothing after `end`"));
        } else {
            match key {
                "dirty" | "assumed" => return self.area(at, key == "assumed").map(Some),
                "end" => {
                    self.begin_areas(at)?;
                    let said = at.number(u64::MAX)?;
                    if said != self.areas {
                        return Err(at.wrong_item(format!("{}, the areas above", self.areas)));
                    }
                    self.ended = true;
                }
                _ if self.geometry.is_some() => {
                    return Err(at.wrong_item("`dirty`, `assumed` or `end`, after the first of them"));
                }
                "copy" => self.copy(at)?,
                "point" => {
                    self.points = at.one_more(self.points, MAX_POINTS)?;
                    point(at)?;
                }
                "armed" => {
                    self.armed = at.one_more(self.armed, MAX_LIST * COPIES)?;
                    self.armed_run(at)?;
                }
                _ => self.field(at, key)?,
            }
        }
        at.end()?;
        Ok(None)
    }

    fn field(&mut self, at: &mut Cursor<'_>, key: &str) -> Result<(), Error> {
        let Some(i) = FIELDS.iter().position(|(name, _)| *name == key) else {
            return Err(at.wrong_item("the name of a field, `copy`, `point`, `armed`, `dirty`, `assumed` or `end`"));
        };
        if self.seen >> i & 1 == 1 {
            return Err(at.wrong_item("every field only once"));
        }
        self.seen |= 1 << i;
        match FIELDS[i].1 {
            Kind::Number(most) => {
                let number = at.number(most)?;
                match key {
                    "len" => self.len = number,
                    "granularity" => self.granularity = number as u32,
                    _ => {}
                }
            }
            Kind::Time => drop(at.time()?),
            Kind::Word(words) => {
                let word = at.one_of(words)?;
                self.process |= key == "durability" && word == DURABILITIES[1];
            }
            Kind::Uuid => at.uuid()?,
            Kind::Numbers(n) => (0..n).try_for_each(|_| at.number(u64::MAX).map(drop))?,
            Kind::Stamp => self.had_image |= stamp(at)? && key == "image",
            Kind::Text => {
                let label = at.text()?;
                check_label(&label).map_err(|(found, expected)| at.wrong(found, expected))?;
                self.label = label;
            }
        }
        Ok(())
    }

    fn copy(&mut self, at: &mut Cursor<'_>) -> Result<(), Error> {
        let copy = at.number(COPIES as u64 - 1)?;
        if self.copies >> copy & 1 == 1 {
            return Err(at.wrong_item("every copy only once"));
        }
        self.copies |= 1 << copy;
        match at.one_of(&["valid", "rival", "foreign", "invalid"])? {
            "foreign" => at.uuid(),
            "invalid" => at.text().map(drop),
            _ => at.number(u64::MAX).map(drop),
        }
    }

    fn armed_run(&mut self, at: &mut Cursor<'_>) -> Result<(), Error> {
        let first = at.number(dirtymap::MAX_BITS)?;
        if first < self.armed_end {
            return Err(at.wrong_item(format!("at least {}: runs ascend and do not overlap", self.armed_end)));
        }
        let count = at.number(dirtymap::MAX_BITS)?;
        if count == 0 {
            return Err(at.wrong_item("at least one word"));
        }
        self.armed_end = first + count;
        Ok(())
    }

    fn area(&mut self, at: &mut Cursor<'_>, assumed: bool) -> Result<Area, Error> {
        let geometry = self.begin_areas(at)?;
        let start = at.number(u64::MAX)?;
        check_start(&geometry, self.dirty_end, start).map_err(|expected| at.wrong_item(expected))?;
        let length = at.number(u64::MAX)?;
        let end = end_of(&geometry, start, length).map_err(|expected| at.wrong_item(expected))?;
        at.end()?;
        self.dirty_end = end;
        self.areas += 1;
        Ok(Area { items: start..end, assumed })
    }

    /// Sees to it that everything that areas rest on is there.
    fn begin_areas(&mut self, at: &Cursor<'_>) -> Result<Geometry, Error> {
        if let Some(geometry) = self.geometry {
            return Ok(geometry);
        }
        let needed = (1 << NEEDED) - 1;
        if self.seen & needed != needed {
            return Err(at.wrong_item(format!("{} before it", self.wanted())));
        }
        let geometry = geometry(self.len, self.granularity).map_err(|(found, expected)| at.wrong(found, expected))?;
        Ok(*self.geometry.insert(geometry))
    }
}

/// What was found and what was expected.
type Mismatch = (String, String);

pub(super) fn check_label(label: &str) -> Result<(), Mismatch> {
    if label.len() <= MAX_LABEL && !label.contains('\0') {
        return Ok(());
    }
    Err((format!("a label of {} bytes", label.len()), format!("at most {MAX_LABEL} bytes, none of them zero")))
}

pub(super) fn geometry(len: u64, granularity: u32) -> Result<Geometry, Mismatch> {
    Geometry::new(len, granularity).map_err(|e| (format!("an impossible map: {e}"), "one that can be".into()))
}

/// Refuses where an area starts, with what is expected; all before `from` is spoken for.
pub(super) fn check_start(geometry: &Geometry, from: u64, start: u64) -> Result<(), String> {
    let (granule, len) = (geometry.granule(), geometry.len());
    if start >= from && start < len && start.is_multiple_of(granule) {
        return Ok(());
    }
    Err(format!("a multiple of {granule} from {from} to before {len}"))
}

/// The end of an area with this start and length, or what length is expected.
pub(super) fn end_of(geometry: &Geometry, start: u64, length: u64) -> Result<u64, String> {
    let (granule, len) = (geometry.granule(), geometry.len());
    let end = start.checked_add(length).filter(|&end| length > 0 && end <= len);
    end.filter(|&end| end == len || end.is_multiple_of(granule))
        .ok_or_else(|| format!("{}, or a smaller multiple of {granule}, and not 0", len - start))
}

/// A stamp; whether there is one.
fn stamp(at: &mut Cursor<'_>) -> Result<bool, Error> {
    if at.one_of(&["none", "file", "block-device"])? == "none" {
        return Ok(false);
    }
    at.number(u64::MAX)?;
    for _ in ["mtime", "ctime"] {
        at.time()?;
        at.number(999_999_999)?;
    }
    at.number(u64::MAX)?;
    at.number(u64::MAX)?;
    at.time()?;
    at.uuid()?;
    at.uuid()?;
    at.number(u64::MAX)?;
    at.uuid()?;
    at.one_of(&["exact", "inexact"])?;
    Ok(true)
}

fn point(at: &mut Cursor<'_>) -> Result<(), Error> {
    at.uuid()?;
    at.time()?;
    at.one_of(&ROLES.map(role))?;
    for most in [u64::MAX, u64::MAX, u64::MAX, u32::MAX.into()] {
        at.number(most)?;
    }
    stamp(at)?;
    at.text().map(drop)
}
