//! [`Error`], with the kind and the code of each.
//!
//! Invariant kept here: kinds and codes never change.

use super::causes::{Corruption, Holder, InUse, Refusal, Unusable};
use crate::progress::Step;
use crate::uuid::Uuid;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

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
    /// A granule of so many items, which is no power of two.
    Granule {
        /// Items asked for.
        items: u64,
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
        /// What of it.
        what: Corruption,
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
        /// What holds it.
        what: InUse,
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
    /// The map cannot be used any more: drop it, and open it again.
    Unusable {
        /// Why.
        why: Unusable,
    },
    /// A checkpoint is outstanding, and there can be only one.
    Outstanding {
        /// The file.
        path: PathBuf,
        /// How far it has come.
        state: &'static str,
        /// Its identity.
        uuid: Uuid,
        /// The name that it was frozen with, or nothing.
        name: String,
        /// When it was frozen.
        time: SystemTime,
    },
    /// The checkpoint that was asked for is not outstanding, or not in a state for what was to be done.
    NoCheckpoint {
        /// The file.
        path: PathBuf,
        /// Which one was asked for.
        uuid: Uuid,
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
        why: Refusal,
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
            Error::Granule { .. } => ("geometry", 3),
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
        let source = include_str!("kinds.rs");
        let (before, after) = source.split_once("fn kind_and_code(").unwrap();
        let (code, _) = after.split_once("impl std::error::Error for Error").unwrap();
        let documented = table(before, '`', true);
        assert_eq!(table(code, '"', false), documented);
        assert!(documented.iter().map(|row| row.0).eq(1..=27), "{documented:?}");
    }
}
