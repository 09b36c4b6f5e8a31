//! `dirtymap undump`: a new map of what `dump` wrote, text or JSON.
//!
//! Invariant kept here: all of the dump is read and found right before anything is made of it, and the map appears
//! when all of it is durable.

use crate::cli::Undump;
use crate::exit::{Exit, Failure, Result};
use crate::files::publish;
use crate::files::stdin;
use crate::files::{Image, PIECE};
use crate::map::load::{Loader, Made, New};
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::progress;
use crate::terminal::signals;
use crate::terminal::text::say;
use dirtymap::Options;
use dirtymap_cli::dump::{self, Area, Failed, Head};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

#[derive(Serialize)]
struct Answer {
    dump: String,
    #[serde(flatten)]
    made: Made,
    assumed_bytes: u64,
}

pub fn run(args: &Undump, output: Output) -> Result<Exit> {
    publish::vacant(&args.file)?;
    let name = &args.dump;
    let (text, head) = if name == Path::new("-") {
        spool(name)?
    } else {
        let text = Image::open(name, false).map_err(|e| match &*e.kind {
            "not-an-image" => e.and("a dump that comes from elsewhere is read from standard input (-)"),
            _ => e,
        })?;
        let head = parse(&text, "checking", |_| Ok(()))?;
        (text, head)
    };
    let options = Options::new().granularity(head.geometry.granularity()).durability(head.durability);
    let new = New::create(&args.file, options.label(&head.label), head.geometry.len())?;
    let mut assumed_bytes = 0;
    let mut loader = Loader::new(&new.map)?;
    let again = parse(&text, "restoring", |area| {
        assumed_bytes += if area.assumed { area.items.end - area.items.start } else { 0 };
        loader.add(head.geometry.touched(&area.items))
    })?;
    if again != head {
        let message = format!("{}: was changed while it was read; no map was made", name.display());
        return Err(Failure::new("dump-changed", message));
    }
    loader.finish()?;
    let answer = Answer { dump: name.display().to_string(), made: new.publish(output)?, assumed_bytes };
    if head.had_image {
        output.note("the map belonged to an image; the new one belongs to none, and notices no untracked change of it");
    }
    output.answer(&answer, |out, Answer { made: m, .. }| {
        let (size, granule, dirty) = (size::human(m.size), size::human(m.granule_bytes), size::human(m.dirty_bytes));
        let (bits, granules) = (size::count(m.bits, "bit"), size::count(m.dirty_bits, "granule"));
        say!(out, "created {} for {size}, {bits} of {granule}; {dirty} in {granules} are dirty", shown(&m.file))
    })?;
    Ok(Exit::Fine)
}

/// Reads all of a dump that is in a file.
fn parse(text: &Image, what: &'static str, each: impl FnMut(Area) -> Result<()>) -> Result<Head> {
    let bar = progress::bytes(what, text.size());
    let mut at = 0;
    let head = read(&text.path, each, |buffer| {
        signals::check("no map was made")?;
        let length = (buffer.len() as u64).min(text.size() - at) as usize;
        let piece = &mut buffer[..length];
        text.read(piece, at)?;
        at += piece.len() as u64;
        bar.set_position(at);
        Ok(piece.len())
    });
    bar.finish_and_clear();
    head
}

/// Standard input in a temporary file, checked as it comes.
fn spool(name: &Path) -> Result<(Image, Head)> {
    let io = |e: &io::Error| Failure::io("keep standard input in a temporary file", e);
    let mut file = tempfile::tempfile().map_err(|e| io(&e))?;
    let head = read(
        name,
        |_| Ok(()),
        |buffer| {
            let piece = &*stdin::fill(buffer)?;
            file.write_all(piece).map_err(|e| io(&e))?;
            Ok(piece.len())
        },
    )?;
    Ok((Image::of(file, name)?, head))
}

/// Reads all of a dump, in pieces that `fill` gets.
fn read(
    name: &Path,
    each: impl FnMut(Area) -> Result<()>,
    fill: impl FnMut(&mut [u8]) -> Result<usize>,
) -> Result<Head> {
    let mut pieces = Pieces { fill, failure: None };
    let read = dump::read(BufReader::with_capacity(PIECE as usize, &mut pieces), each);
    read.map_err(|failed| match (failed, pieces.failure) {
        (_, Some(failure)) | (Failed::Taker(failure), _) => failure,
        (Failed::Io(e), _) => Failure::io(name.display(), &e),
        (Failed::Wrong(e), _) => {
            let name = if name == Path::new("-") { "standard input".into() } else { name.display().to_string() };
            Failure::new("bad-dump", format!("{name}: {e}; no map was made"))
        }
    })
}

/// What `fill` gets, as a reader; why it failed is kept aside.
struct Pieces<F> {
    fill: F,
    failure: Option<Failure>,
}

impl<F: FnMut(&mut [u8]) -> Result<usize>> Read for Pieces<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.fill)(buffer).map_err(|failure| {
            self.failure = Some(failure);
            io::ErrorKind::Other.into()
        })
    }
}
