//! What errors say.
//!
//! Invariant kept here: every message says what was found, where, what was expected and what to do next.

use super::causes::{Holder, InUse, counted, named};
use super::kinds::Error;
use crate::uuid::Uuid;
use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Error::OutOfRange { start, end, len } => out_of_range(f, *start, *end, *len),
            Error::Unaligned { start, end, granule, len } => unaligned(f, *start, *end, *granule, *len),
            Error::Geometry { len, granularity, why } => {
                write!(f, "no map can have length {len} with granularity 2^{granularity}: {why}")
            }
            Error::Granule { items } => write!(f, "a granule of {items} is not possible; it must be a power of two"),
            Error::Chunk { start, end, align, len } => chunk(f, *start, *end, *align, *len),
            Error::NotSerializable { granularity } => write!(
                f,
                "a map of granularity 2^{granularity} cannot be serialised in chunks, it must be less than 2^58; \
                 merge it into one with a smaller granularity first"
            ),
            Error::ChunkSize { expected, found } => {
                write!(f, "the chunk takes {expected} bytes, {found} were given; ask serialized_size")
            }
            Error::StrayBits { word, bits } => write!(
                f,
                "the chunk has bits {bits:#x} of word {word} set, which lie past the map's end; it comes from another \
                 map or is damaged, and was not loaded"
            ),
            Error::ZeroLength => write!(f, "a maximal length of 0 was given; it must be at least 1"),
            Error::Mismatch { what, ours, theirs } => {
                write!(f, "the two maps differ in {what}: {ours} here, {theirs} there; it must be the same")
            }
            Error::OutOfMemory { bytes } => write!(
                f,
                "{bytes} bytes of memory for the map were not to be had; use a larger granularity or a smaller length"
            ),
            Error::Io { op, path, source } => write!(f, "{}: {op}: {source}", path.display()),
            Error::NotDirtymap { path, found } => not_dirtymap(f, path, found),
            Error::Unsupported { path, found, expected } => unsupported(f, path, found, expected),
            Error::Corrupt { path, place, found, expected, .. } => corrupt(f, path, place, found, expected),
            Error::Locked { path, what, holder } => locked(f, path, *what, holder.as_ref()),
            Error::Exists { path } => {
                write!(f, "{}: exists already and is not overwritten; choose another name", path.display())
            }
            Error::ReadOnly => write!(f, "the map was opened read-only; open it for writing to change it"),
            Error::Unusable { why } => write!(f, "the map cannot be used any more: {why}; open it again"),
            Error::Outstanding { path, state, uuid, name, time } => outstanding(f, path, state, uuid, name, *time),
            Error::NoCheckpoint { path, uuid, found } => no_checkpoint(f, path, uuid, found),
            Error::NoPoint { path, name, known } => no_point(f, path, name, known),
            Error::Busy { path, writes, waited } => busy(f, path, *writes, *waited),
            Error::Interrupted { step } => write!(f, "interrupted while {}; {}", step.name(), step.left()),
            Error::Refused { path, why } => write!(f, "{}: {why}", path.display()),
        }
    }
}

// Ranges and chunks.

fn out_of_range(f: &mut Formatter<'_>, start: u64, end: u64, len: u64) -> fmt::Result {
    let wrong = if start > end { "starts after its end" } else { "reaches past the map's end" };
    write!(f, "range {start}..{end} {wrong}; give a range inside 0..{len}")
}

fn unaligned(f: &mut Formatter<'_>, start: u64, end: u64, granule: u64, len: u64) -> fmt::Result {
    write!(
        f,
        "reset of {start}..{end} would clear granules of {granule} that it covers only in part; start and end must be \
         multiples of {granule} (the end may be {len}), or use reset_within or reset_covering"
    )
}

fn chunk(f: &mut Formatter<'_>, start: u64, end: u64, align: u64, len: u64) -> fmt::Result {
    write!(
        f,
        "chunk {start}..{end} does not consist of whole words; start and end must be multiples of {align}, but the end \
         may be {len}"
    )
}

// Files.

fn not_dirtymap(f: &mut Formatter<'_>, path: &Path, found: &str) -> fmt::Result {
    write!(
        f,
        "{}: not a dirtymap file: {found}; give the map, or if this was one, make a new map and a full backup",
        path.display()
    )
}

fn unsupported(f: &mut Formatter<'_>, path: &Path, found: &str, expected: &str) -> fmt::Result {
    write!(
        f,
        "{}: made by a newer dirtymap: found {found}, this version handles {expected}; use a newer version",
        path.display()
    )
}

fn corrupt(f: &mut Formatter<'_>, path: &Path, place: &str, found: &str, expected: &str) -> fmt::Result {
    write!(
        f,
        "{}: {place}: found {found}, expected {expected}; nothing was changed; run `dirtymap check` for all findings, \
         and take a full backup with a new map if it cannot be repaired",
        path.display()
    )
}

fn locked(f: &mut Formatter<'_>, path: &Path, what: InUse, holder: Option<&Holder>) -> fmt::Result {
    write!(f, "{}: in use: {what}", path.display())?;
    match holder {
        Some(holder) => write!(f, " ({holder})")?,
        None => write!(f, " (the system does not tell which)")?,
    }
    let stopped = holder.is_some_and(|holder| holder.stopped);
    write!(f, "; {}", if stopped { "let it go on (SIGCONT) or end it, and " } else { "" })?;
    write!(f, "try again when it has ended, or wait for it")
}

// Checkpoints and points.

fn outstanding(
    f: &mut Formatter<'_>,
    path: &Path,
    state: &str,
    uuid: &Uuid,
    name: &str,
    time: SystemTime,
) -> fmt::Result {
    let time = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    write!(
        f,
        "{}: checkpoint {uuid}{} is outstanding ({state}, begun {time} seconds after 1970-01-01); commit it if all that it \
         froze was copied, else abort it",
        path.display(),
        named(name)
    )
}

fn no_checkpoint(f: &mut Formatter<'_>, path: &Path, uuid: &Uuid, found: &str) -> fmt::Result {
    write!(
        f,
        "{}: checkpoint {uuid} cannot be gone on with: found {found}; nothing was changed, look which one is outstanding",
        path.display()
    )
}

fn no_point(f: &mut Formatter<'_>, path: &Path, name: &str, known: &[String]) -> fmt::Result {
    write!(f, "{}: there is no point named {name:?}", path.display())?;
    if known.is_empty() {
        return write!(f, ", and no other; a checkpoint is kept by name when it is committed");
    }
    let known: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
    write!(f, "; those that are kept are {}", known.join(", "))
}

fn busy(f: &mut Formatter<'_>, path: &Path, writes: u64, waited: u64) -> fmt::Result {
    write!(
        f,
        "{}: {} begun before the freeze did not end in {waited} s; the freeze was given up, and nothing is lost; try again \
         later",
        path.display(),
        counted(writes, "data write")
    )
}
