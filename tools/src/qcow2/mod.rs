//! Persistent bitmaps in qcow2 files, by the published specification (QEMU's docs/interop/qcow2); and in [`data`] the disk
//! itself.
//!
//! Invariants kept here: whatever the bytes, reading ends in bits or an error, and takes memory for the bitmap
//! directory (below 70 MiB, of bytes that are there) and one piece of bits. What the specification calls
//! inconsistent is never taken for bits.

pub mod data;
mod parse;
pub mod spec;
mod write;

pub use parse::{Chunk, Chunks, Content, Entry, Image};
pub use write::{Plan, set_bits};

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

/// Bytes that can be read anywhere.
pub trait ReadAt {
    /// How many there are.
    fn size(&self) -> u64;
    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// What the system said, also when there is less.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// The same, of bytes of the disk in the file, and not of a table.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    fn read_data(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(buffer, offset)
    }
}

impl ReadAt for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let bytes = start.and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// An open file or block device and its size.
impl ReadAt for (&File, u64) {
    fn size(&self) -> u64 {
        self.1
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

/// Why there is no bitmap to be had from a file, or none to be put into one.
#[derive(Debug)]
pub enum Error {
    /// The system could not read.
    Io {
        /// Bytes asked for.
        bytes: usize,
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// No qcow2 file at all.
    NotQcow2,
    /// Something that this version, or QEMU, does not handle: what was found, and what to do.
    Unsupported(String),
    /// The file breaks the specification.
    Corrupt {
        /// Where in the file.
        place: String,
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
    /// There is no bitmap of that name.
    NoSuchBitmap {
        /// The name asked for.
        name: Vec<u8>,
        /// Those that there are: [`listing`].
        there: String,
    },
}

/// `Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A short, stable, machine-readable name for the kind of error.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Io { .. } => "io",
            Error::NotQcow2 => "not-qcow2",
            Error::Unsupported(_) => "unsupported",
            Error::Corrupt { .. } => "corrupt",
            Error::NoSuchBitmap { .. } => "no-such-bitmap",
        }
    }

    fn corrupt(place: impl fmt::Display, found: impl fmt::Display, expected: impl fmt::Display) -> Error {
        Error::Corrupt { place: place.to_string(), found: found.to_string(), expected: expected.to_string() }
    }
}

/// All bitmaps for a message: their names, and which of them were not saved or not kept up.
pub fn listing(entries: &[Entry]) -> String {
    let mut listed = entries.iter().map(|entry| {
        let more = match (entry.in_use(), entry.disabled()) {
            (true, _) => " (in use)",
            (_, true) => " (disabled)",
            _ => "",
        };
        format!("{:?}{more}", OsStr::from_bytes(entry.name()))
    });
    let first = listed.next().unwrap_or_else(|| "none".into());
    listed.fold(first, |all, name| all + ", " + &name)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { bytes, offset, source } => write!(f, "read {bytes} bytes at {offset}: {source}"),
            Error::NotQcow2 => write!(f, "not a qcow2 image: it does not start with \"QFI\\xfb\""),
            Error::Unsupported(what) => f.write_str(what),
            Error::Corrupt { place, found, expected } => write!(
                f,
                "{place}: found {found}, expected {expected}; the file breaks the qcow2 specification, and what it holds \
                 cannot be relied upon: take a full backup"
            ),
            Error::NoSuchBitmap { name, there } => {
                write!(f, "there is no bitmap {:?} in it; it has {there}", OsStr::from_bytes(name))
            }
        }
    }
}

impl std::error::Error for Error {}

/// The big-endian integers of a file. Panics past the end of `bytes`, which are fixed parts of known length.
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]
mod tests;
