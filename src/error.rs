//! The one error type of the library.
//!
//! Invariant kept here: every message says what was found, where, what was expected and what to do
//! next. Library code returns these and never panics on input.

use crate::progress::Step;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A process that holds a lock which another one waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name, as the kernel has it: at most 15 bytes. Empty when it is not known.
    pub name: String,
    /// It is stopped: by SIGSTOP, a debugger or a paused container. It keeps its locks until it goes on or dies.
    pub stopped: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if !self.name.is_empty() {
            write!(f, ", {}", self.name.escape_debug())?;
        }
        f.write_str(if self.stopped { ", which is stopped" } else { "" })
    }
}

/// A number of things, for a message: "1 page", "2 pages".
pub(crate) fn counted(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// What went wrong. Positions and lengths are in items unless said otherwise.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A range or item lies outside `0..=len`, or starts after its end.
    OutOfRange {
        /// First item asked for.
        start: u64,
        /// End of the range asked for (exclusive).
        end: u64,
        /// Length of the map, in items.
        len: u64,
    },
    /// A reset that would clear a partly covered granule, and so forget dirt.
    Unaligned {
        /// First item asked for.
        start: u64,
        /// End of the range asked for (exclusive).
        end: u64,
        /// Items per granule.
        granule: u64,
        /// Length of the map, in items.
        len: u64,
    },
    /// A length or granularity that no map can have.
    Geometry {
        /// Length asked for, in items.
        len: u64,
        /// log2 of the items per granule asked for.
        granularity: u32,
        /// Which limit it breaks.
        why: &'static str,
    },
    /// A chunk to serialise or load that does not start and end at word boundaries.
    Chunk {
        /// First item asked for.
        start: u64,
        /// End of the range asked for (exclusive).
        end: u64,
        /// What start and end must be multiples of, in items.
        align: u64,
        /// Length of the map, in items.
        len: u64,
    },
    /// A map with too large a granularity to be serialised: the alignment of chunks does not fit 64 bits.
    NotSerializable {
        /// log2 of the items per granule.
        granularity: u32,
    },
    /// A serialised chunk that is not as long as its range demands.
    ChunkSize {
        /// Bytes that the range takes.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// A serialised chunk with bits past the end of the map.
    StrayBits {
        /// The last word of the map.
        word: u64,
        /// The bits of it that must be clear and are not.
        bits: u64,
    },
    /// `max_len` was zero.
    ZeroLength,
    /// Two maps that cannot be combined.
    Mismatch {
        /// What differs: `"len"` or `"granularity"`.
        what: &'static str,
        /// The destination's value.
        ours: u64,
        /// The source's value.
        theirs: u64,
    },
    /// Memory for the map could not be had.
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The operating system refused an operation.
    Io {
        /// What was being done, for instance `"open"`.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a dirtymap.
    NotDirtymap {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// A dirtymap that this version must not touch: its version or feature bits are newer.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What this version handles.
        expected: String,
    },
    /// The file is a dirtymap, but no usable state could be derived from it.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// Another process (or another map of this process) has the file open.
    Locked {
        /// The file.
        path: PathBuf,
        /// Which lock was not to be had.
        what: &'static str,
        /// Which process has it, where the kernel tells.
        holder: Option<Holder>,
    },
    /// The file exists already; creating never overwrites.
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A write to a map that was opened read-only.
    ReadOnly,
    /// The map cannot be used any more: inherited by a forked child, or its session was taken over.
    Unusable {
        /// Why.
        why: &'static str,
    },
    /// A checkpoint is outstanding, and there can be only one.
    Outstanding {
        /// The file.
        path: PathBuf,
        /// How far it has come.
        state: &'static str,
        /// Its identity.
        uuid: String,
        /// The name that it was frozen with, or nothing.
        name: String,
        /// When it was frozen, in seconds since 1970.
        time: i64,
    },
    /// The checkpoint that was asked for is not outstanding, or not in a state for what was to be done.
    NoCheckpoint {
        /// The file.
        path: PathBuf,
        /// Which one was asked for.
        uuid: String,
        /// What is outstanding instead.
        found: String,
    },
    /// There is no point of that name.
    NoPoint {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// The names that there are, oldest first.
        known: Vec<String>,
    },
    /// Data writes that had begun before a freeze did not end in time.
    Busy {
        /// The file.
        path: PathBuf,
        /// How many.
        writes: u64,
        /// How long the freeze has waited, in seconds.
        waited: u64,
    },
    /// [Who is told of the progress](crate::Options::progress) of long work had it stopped.
    Interrupted {
        /// What was being done.
        step: Step,
    },
    /// What was asked for cannot be done on this file system or system.
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do instead.
        why: String,
    },
}

impl Error {
    /// A short, stable, machine-readable name for the kind of error.
    pub fn kind(&self) -> &'static str {
        self.kind_and_code().0
    }

    /// The same as a number, which never changes either and is never zero:
    ///
    /// | code | kind | code | kind | code | kind |
    /// | --- | --- | --- | --- | --- | --- |
    /// | 1 | `out-of-range` | 10 | `io` | 19 | `exists` |
    /// | 2 | `unaligned` | 11 | `not-found` | 20 | `read-only` |
    /// | 3 | `geometry` | 12 | `permission` | 21 | `unusable` |
    /// | 4 | `not-serializable` | 13 | `no-space` | 22 | `checkpoint-outstanding` |
    /// | 5 | `chunk-size` | 14 | `is-a-directory` | 23 | `no-checkpoint` |
    /// | 6 | `stray-bits` | 15 | `not-a-dirtymap` | 24 | `no-point` |
    /// | 7 | `zero-length` | 16 | `unsupported` | 25 | `busy` |
    /// | 8 | `mismatch` | 17 | `corrupt` | 26 | `interrupted` |
    /// | 9 | `out-of-memory` | 18 | `locked` | 27 | `refused` |
    pub fn code(&self) -> u32 {
        self.kind_and_code().1
    }

    fn kind_and_code(&self) -> (&'static str, u32) {
        match self {
            Error::OutOfRange { .. } => ("out-of-range", 1),
            Error::Unaligned { .. } => ("unaligned", 2),
            Error::Geometry { .. } => ("geometry", 3),
            Error::Chunk { .. } => ("unaligned", 2),
            Error::NotSerializable { .. } => ("not-serializable", 4),
            Error::ChunkSize { .. } => ("chunk-size", 5),
            Error::StrayBits { .. } => ("stray-bits", 6),
            Error::ZeroLength => ("zero-length", 7),
            Error::Mismatch { .. } => ("mismatch", 8),
            Error::OutOfMemory { .. } => ("out-of-memory", 9),
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ("not-found", 11),
                io::ErrorKind::PermissionDenied => ("permission", 12),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ("no-space", 13),
                io::ErrorKind::IsADirectory => ("is-a-directory", 14),
                _ => ("io", 10),
            },
            Error::NotDirtymap { .. } => ("not-a-dirtymap", 15),
            Error::Unsupported { .. } => ("unsupported", 16),
            Error::Corrupt { .. } => ("corrupt", 17),
            Error::Locked { .. } => ("locked", 18),
            Error::Exists { .. } => ("exists", 19),
            Error::ReadOnly => ("read-only", 20),
            Error::Unusable { .. } => ("unusable", 21),
            Error::Outstanding { .. } => ("checkpoint-outstanding", 22),
            Error::NoCheckpoint { .. } => ("no-checkpoint", 23),
            Error::NoPoint { .. } => ("no-point", 24),
            Error::Busy { .. } => ("busy", 25),
            Error::Interrupted { .. } => ("interrupted", 26),
            Error::Refused { .. } => ("refused", 27),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::OutOfRange { start, end, len } if start > end => {
                write!(f, "range {start}..{end} starts after its end; give a range inside 0..{len}")
            }
            Error::OutOfRange { start, end, len } => {
                write!(f, "range {start}..{end} reaches past the map's end; give a range inside 0..{len}")
            }
            Error::Unaligned { start, end, granule, len } => write!(
                f,
                "reset of {start}..{end} would clear granules of {granule} that it covers only in part; \
                 start and end must be multiples of {granule} (the end may be {len}), or use reset_within or \
                 reset_covering"
            ),
            Error::Geometry { len, granularity, why } => {
                write!(f, "no map can have length {len} with granularity 2^{granularity}: {why}")
            }
            Error::Chunk { start, end, align, len } => write!(
                f,
                "chunk {start}..{end} does not consist of whole words; start and end must be multiples of {align}, \
                 but the end may be {len}"
            ),
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
            Error::NotDirtymap { path, found } => {
                write!(
                    f,
                    "{}: not a dirtymap file: {found}; give the map, or if this was one, make a new map and a full backup",
                    path.display()
                )
            }
            Error::Unsupported { path, found, expected } => write!(
                f,
                "{}: made by a newer dirtymap: found {found}, this version handles {expected}; use a newer version",
                path.display()
            ),
            Error::Corrupt { path, place, found, expected } => write!(
                f,
                "{}: {place}: found {found}, expected {expected}; nothing was changed; run `dirtymap check` for \
                 all findings, and take a full backup with a new map if it cannot be repaired",
                path.display()
            ),
            Error::Locked { path, what, holder } => {
                write!(f, "{}: in use: {what}", path.display())?;
                match holder {
                    Some(holder) => write!(f, " ({holder})")?,
                    None => write!(f, " (the system does not tell which)")?,
                }
                let stopped = holder.as_ref().is_some_and(|holder| holder.stopped);
                write!(f, "; {}", if stopped { "let it go on (SIGCONT) or end it, and " } else { "" })?;
                write!(f, "try again when it has ended, or wait for it")
            }
            Error::Exists { path } => {
                write!(f, "{}: exists already and is not overwritten; choose another name", path.display())
            }
            Error::ReadOnly => write!(f, "the map was opened read-only; open it for writing to change it"),
            Error::Unusable { why } => write!(f, "the map cannot be used any more: {why}; open it again"),
            Error::Outstanding { path, state, uuid, name, time } => {
                let name = if name.is_empty() { String::new() } else { format!(" named {name:?}") };
                write!(
                    f,
                    "{}: checkpoint {uuid}{name} is outstanding ({state}, begun {time} seconds after 1970-01-01); \
                     commit it if all that it froze was copied, else abort it",
                    path.display()
                )
            }
            Error::NoCheckpoint { path, uuid, found } => write!(
                f,
                "{}: checkpoint {uuid} cannot be gone on with: found {found}; nothing was changed, look which one is \
                 outstanding",
                path.display()
            ),
            Error::NoPoint { path, name, known } => {
                write!(f, "{}: there is no point named {name:?}", path.display())?;
                match &known[..] {
                    [] => write!(f, ", and no other; a checkpoint is kept by name when it is committed"),
                    known => {
                        let known: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
                        write!(f, "; those that are kept are {}", known.join(", "))
                    }
                }
            }
            Error::Busy { path, writes, waited } => write!(
                f,
                "{}: {} begun before the freeze did not end in {waited} s; the freeze was given up, and nothing is lost; try \
                 again later",
                path.display(),
                counted(*writes, "data write")
            ),
            Error::Interrupted { step } => write!(f, "interrupted while {}; {}", step.name(), step.left()),
            Error::Refused { path, why } => write!(f, "{}: {why}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// With the system's kind of error, or the nearest there is; what it says stays, and the error itself can be had back by
/// [`downcast`](io::Error::downcast).
///
/// ```
/// # use dirtymap::{Bitmap, Error};
/// fn write(map: &mut Bitmap) -> std::io::Result<u64> {
///     Ok(map.set(5..6)?)
/// }
/// let error = write(&mut Bitmap::default()).unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
/// assert_eq!(error.downcast::<Error>().unwrap().kind(), "out-of-range");
/// ```
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        use io::ErrorKind as Kind;
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::OutOfMemory { .. } => Kind::OutOfMemory,
            Error::NotDirtymap { .. } | Error::Corrupt { .. } | Error::StrayBits { .. } => Kind::InvalidData,
            Error::Unsupported { .. } | Error::Refused { .. } => Kind::Unsupported,
            Error::Locked { .. } | Error::Outstanding { .. } => Kind::ResourceBusy,
            Error::Busy { .. } => Kind::TimedOut,
            Error::Exists { .. } => Kind::AlreadyExists,
            Error::ReadOnly => Kind::PermissionDenied,
            Error::NoCheckpoint { .. } | Error::NoPoint { .. } => Kind::NotFound,
            // Not `Interrupted`, after which callers try again.
            Error::Unusable { .. } | Error::Interrupted { .. } => Kind::Other,
            _ => Kind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    /// Codes and kinds that stand side by side in a text, the code `before` the kind.
    fn table(text: &str, quote: char, before: bool) -> Vec<(u32, &str)> {
        let cells: Vec<&str> = text.split(['|', '(', ')', ',']).map(str::trim).collect();
        let mut found = Vec::new();
        for pair in cells.windows(2) {
            let [code, kind] = if before { [pair[0], pair[1]] } else { [pair[1], pair[0]] };
            if let (Ok(code), Some(kind)) = (code.parse(), kind.strip_prefix(quote)) {
                found.push((code, kind.trim_end_matches(quote)));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn codes_are_those_of_the_table() {
        let source = include_str!("error.rs");
        let (before, after) = source.split_once("fn kind_and_code(").unwrap();
        let (code, _) = after.split_once("impl fmt::Display for Error").unwrap();
        let documented = table(before, '`', true);
        assert_eq!(table(code, '"', false), documented);
        assert!(documented.iter().map(|row| row.0).eq(1..=27), "{documented:?}");
    }
}
