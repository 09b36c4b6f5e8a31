//! `dirtymap dump`: everything that is in a map, as text to read, to compare and to make a map of again.
//!
//! Invariants kept here: the dirty areas are those that every reader answers with; one is called assumed unless a page
//! that verifies has its bits. Nothing is printed before it is known that all of it is of one moment.

use crate::cli;
use crate::exit::{Exit, Failure, Result};
use crate::files::Image;
use crate::map::open;
use crate::terminal::output::{self, Output};
use dirtymap::format::{self, COPIES, COPY_BYTES, ENTRY_BYTES, HEADER_REGION, Header, PageBytes, Stamp, Uuid};
use dirtymap::{DirtyMap, Geometry};
use dirtymap_cli::dump::{self, Area, CopyIs, Value};
use serde::Serialize;
use serde_json::json;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// What devices give back as a whole or not at all.
const SECTOR: usize = 512;
const PAGE_BITS: u64 = SECTOR as u64 * 8;
/// Pages that are read together.
const CHUNK_PAGES: u64 = 2048;

pub fn run(args: &cli::File, wait: Duration, output: Output) -> Result<Exit> {
    let (map, exit) = open::for_reading(&args.file, wait, output)?;
    let file = Image::open(&args.file, false)?;
    let region = header_region(&file);
    let copies: [_; COPIES] =
        std::array::from_fn(|i| Header::parse(&region[format::copy_offset(i) as usize..][..COPY_BYTES]));
    let info = map.info()?;
    let chosen = format::select(&copies).ok();
    let chosen = chosen.filter(|c| c.header.sequence == info.sequence && c.header.uuid == info.uuid);
    let Some(choice) = chosen else { return Err(changed(&file)) };
    let copies = dump::copies(&copies, &choice);
    let mut areas = Areas { json: output.is_json(), count: 0 };
    // Of a map that was closed nothing more is read.
    let aside = if map.recovery().added_dirt() {
        let aside = split_aside(&map, &Proofs::of(&file, choice.header), &mut areas)?;
        if header_region(&file) != region {
            return Err(changed(&file));
        }
        Some(aside)
    } else {
        None
    };
    output.stream(|out, json| {
        if json {
            write_json_head(out, &copies, &choice)?
        } else {
            dump::write_head(out, &copies, &choice)?
        }
        match aside {
            None => map_areas(&map)?.try_for_each(|items| areas.write(out, &Area { items, assumed: false }))?,
            Some(mut file) => io::copy(&mut file, out).map(drop)?,
        }
        areas.end(out)
    })?;
    Ok(exit)
}

/// Writes areas one by one.
struct Areas {
    json: bool,
    count: u64,
}

impl Areas {
    fn write(&mut self, out: &mut dyn Write, area: &Area) -> io::Result<()> {
        self.count += 1;
        if !self.json {
            return dump::write_area(out, area);
        }
        let Area { items, assumed } = area;
        let separator = if self.count == 1 { "" } else { "," };
        let (offset, length) = (items.start, items.end - items.start);
        write!(out, "{separator}\n    {}", json!({"offset": offset, "length": length, "assumed": assumed}))
    }

    fn end(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.json {
            true => writeln!(out, "{}]\n}}", if self.count == 0 { "" } else { "\n  " }),
            false => dump::write_end(out, self.count),
        }
    }
}

/// Keeps areas of both kinds in a temporary file, as they are to be printed: that all of them are of one moment is known
/// only afterwards.
fn split_aside(map: &DirtyMap, proofs: &Proofs<'_>, areas: &mut Areas) -> Result<File> {
    let mut kept = || {
        let mut out = BufWriter::new(tempfile::tempfile()?);
        split(map, proofs, |area| areas.write(&mut out, &area))?;
        let mut file = out.into_inner()?;
        file.rewind()?;
        Ok(file)
    };
    kept().map_err(|e| Failure::io("keep the areas in a temporary file", &e))
}

fn changed(file: &Image) -> Failure {
    let message = format!("{}: was opened and changed while it was read; try again", file.path.display());
    Failure::new("map-changed", message)
}

fn map_areas(map: &DirtyMap) -> io::Result<impl Iterator<Item = Range<u64>> + '_> {
    map.extents(0..map.len()).map_err(io::Error::other)
}

/// Reads what can be read; the rest is zeros.
fn read(file: &Image, buffer: &mut [u8], offset: u64) {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.file.read_at(rest, offset + filled as u64) {
            Ok(0) => return rest.fill(0),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                let bad = rest.len().min(SECTOR);
                let sector = &mut rest[..bad];
                if file.file.read_exact_at(sector, offset + filled as u64).is_err() {
                    sector.fill(0);
                }
                filled += bad;
            }
        }
    }
}

fn header_region(file: &Image) -> Vec<u8> {
    let mut region = vec![0; HEADER_REGION as usize];
    for copy in 0..COPIES {
        let at = format::copy_offset(copy);
        read(file, &mut region[at as usize..][..format::MAX_USED], at);
    }
    region
}

/// What is known to be dirty: the bits of pages that verify, of the map and of the checkpoint that is outstanding.
struct Proofs<'a> {
    file: &'a Image,
    geometry: Geometry,
    sources: Vec<Source>,
}

/// A bottom and its page table.
struct Source {
    uuid: Uuid,
    table: u64,
    bottom: Range<u64>,
}

impl<'a> Proofs<'a> {
    fn of(file: &'a Image, header: &Header) -> Proofs<'a> {
        let geometry = header.geometry;
        let layout = &header.layout;
        let mut sources = vec![Source { uuid: header.uuid, table: layout.table.start, bottom: layout.bottom.clone() }];
        if let Some(point) = header.outstanding().filter(|point| point.has_regions()) {
            let (table, bottom) = (point.table_offset, point.bottom(&geometry));
            sources.push(Source { uuid: point.uuid, table, bottom });
        }
        Proofs { file, geometry, sources }
    }

    /// The words of some pages with what is known to be dirty; empty where that is nothing.
    fn words(&self, pages: Range<u64>) -> Vec<u64> {
        let mut words = Vec::new();
        for source in &self.sources {
            let (size, count) = (SECTOR as u64, (pages.end - pages.start) as usize);
            let at = source.bottom.start + pages.start * size;
            if self.file.next_data(at..at + count as u64 * size).is_none() {
                continue;
            }
            words.resize(count * SECTOR / 8, 0);
            let mut bytes = vec![0; count * SECTOR];
            let mut table = vec![0; count * ENTRY_BYTES as usize];
            read(self.file, &mut bytes, at);
            read(self.file, &mut table, source.table + pages.start * ENTRY_BYTES);
            let known = bytes.as_chunks::<SECTOR>().0.iter().zip(words.chunks_exact_mut(SECTOR / 8));
            for (i, (page, known)) in known.enumerate() {
                let index = pages.start + i as u64;
                let page: &PageBytes = page;
                let entry = format::entry_at(&table, i as u64);
                let read = format::words_from_page(page);
                if format::page_matches(&source.uuid, index, page, entry)
                    && !format::stray_bits(&self.geometry, index, &read)
                {
                    known.iter_mut().zip(read).for_each(|(known, word)| *known |= word);
                }
            }
        }
        words
    }
}

/// Gives every dirty area, cut where what is known ends and what is assumed begins.
fn split(map: &DirtyMap, proofs: &Proofs<'_>, mut each: impl FnMut(Area) -> io::Result<()>) -> io::Result<()> {
    let geometry = map.geometry();
    let mut last: Option<(Range<u64>, bool)> = None;
    let mut push = |bits: Range<u64>, assumed: bool| match &mut last {
        Some((run, kind)) if run.end == bits.start && *kind == assumed => {
            run.end = bits.end;
            Ok(())
        }
        _ => match last.replace((bits, assumed)) {
            Some((bits, assumed)) => each(Area { items: geometry.items_of(&bits), assumed }),
            None => Ok(()),
        },
    };
    const CHUNK: u64 = CHUNK_PAGES * PAGE_BITS;
    let mut held: (u64, Vec<u64>) = (u64::MAX, Vec::new());
    for items in map_areas(map)? {
        let bits = geometry.touched(&items);
        let mut at = bits.start;
        while at < bits.end {
            let chunk = at / CHUNK;
            if held.0 != chunk {
                let pages = chunk * CHUNK_PAGES..((chunk + 1) * CHUNK_PAGES).min(geometry.pages());
                held = (chunk, proofs.words(pages));
            }
            let end = bits.end.min((chunk + 1) * CHUNK);
            if held.1.is_empty() {
                push(at..end, true)?;
                at = end;
                continue;
            }
            // From here on the bits of one word that are alike.
            let word = held.1[((at % CHUNK) / 64) as usize] >> (at % 64);
            let known = word & 1 == 1;
            let alike = if known { word.trailing_ones() } else { word.trailing_zeros() };
            let stop = end.min(at + u64::from(alike).min(64 - at % 64));
            push(at..stop, !known)?;
            at = stop;
        }
    }
    match last {
        Some((bits, assumed)) => each(Area { items: geometry.items_of(&bits), assumed }),
        None => Ok(()),
    }
}

/// The JSON of a header copy.
#[derive(Serialize)]
struct Copy<'a> {
    state: &'static str,
    sequence: Option<u64>,
    uuid: Option<String>,
    problem: Option<&'a str>,
}

impl<'a> Copy<'a> {
    fn of(copy: &'a CopyIs) -> Copy<'a> {
        let none = Copy { state: "", sequence: None, uuid: None, problem: None };
        match copy {
            CopyIs::Valid(sequence) => Copy { state: "valid", sequence: Some(*sequence), ..none },
            CopyIs::Conflicting(sequence) => Copy { state: "rival", sequence: Some(*sequence), ..none },
            CopyIs::Foreign(uuid) => Copy { state: "foreign", uuid: Some(uuid.to_string()), ..none },
            CopyIs::Invalid(why) => Copy { state: "invalid", problem: Some(why), ..none },
        }
    }
}

fn json_value(value: Value) -> serde_json::Value {
    match value {
        Value::Number(n) => json!(n),
        Value::Time(t) => json!(t),
        Value::Word(word) => json!(word),
        Value::Uuid(uuid) => json!(uuid.to_string()),
        Value::Numbers(numbers) => json!(numbers),
        Value::Text(text) => json!(text),
        Value::Stamp(stamp) => json_stamp(stamp.as_ref()),
    }
}

fn json_stamp(stamp: Option<&Stamp>) -> serde_json::Value {
    json!(stamp.map(|s| {
        json!({"kind": dump::stamp_kind(s), "size": s.size, "mtime_seconds": s.mtime_seconds,
               "mtime_nanos": s.mtime_nanos, "ctime_seconds": s.ctime_seconds, "ctime_nanos": s.ctime_nanos,
               "inode": s.inode, "device": s.device, "birth": s.birth,
               "filesystem": Uuid(s.filesystem).to_string(), "identity": Uuid(s.identity).to_string(),
               "disk_sequence": s.disk_sequence, "boot_id": s.boot_id.to_string(), "exact": s.exact})
    }))
}

/// The JSON up to the areas.
fn write_json_head(
    out: &mut dyn Write,
    copies: &[CopyIs; COPIES],
    choice: &format::HeaderSelection<'_>,
) -> io::Result<()> {
    let copies: Vec<Copy<'_>> = copies.iter().map(Copy::of).collect();
    let points: Vec<_> = choice
        .header
        .points
        .iter()
        .map(|p| {
            json!({"uuid": p.uuid.to_string(), "time": p.time, "role": dump::role(p.role), "name": p.name,
                   "table_offset": p.table_offset, "bottom_offset": p.bottom_offset,
                   "granules": p.granules, "dirt_reasons": p.reasons.0, "target": json_stamp(p.target.as_ref())})
        })
        .collect();
    let armed: Vec<_> = choice.armed.iter().map(|run| json!({"first": run.first, "count": run.count})).collect();
    writeln!(out, "{{\n  \"dump_version\": {},", dump::VERSION)?;
    for (name, value) in dump::fields(choice.header) {
        writeln!(out, "  \"{name}\": {},", output::json(&json_value(value), false)?)?;
    }
    for (name, list) in [("copies", json!(copies)), ("points", json!(points)), ("armed", json!(armed))] {
        writeln!(out, "  \"{name}\": {},", output::json(&list, false)?)?;
    }
    write!(out, "  \"areas\": [")
}
