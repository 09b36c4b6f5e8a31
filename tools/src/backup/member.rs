//! Writing a member of a set: what a disk has, and the chain below does not.
//!
//! Invariants kept here: after it
//! - every cluster that an area touches reads, through the file and what it rests upon, as it was read from the source: stored, or
//!   as zeros, or left out because what is below has the same;
//! - what the disk has behind the source's end, up to a whole sector, reads as zeros: QEMU sees it, and so does whatever rests upon
//!   this file.

use super::ahead::{Ahead, Piece};
use super::copy::Copied;
use crate::exit::{Failure, Result};
use crate::files::{Content, PIECE, durable, is_zero};
use crate::terminal::pass::Pass;
use dirtymap_cli::qcow2::data::{Shape, Writer};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

type Write = Box<dyn FnMut(&[u8], u64) -> Result<()>>;

/// A member's file that is being written.
pub struct MemberWriter {
    writer: Writer<Write>,
    file: File,
    path: PathBuf,
    /// Bytes of the source; the disk in the file may have some more, which are zeros.
    len: u64,
    /// Up to here everything is decided.
    done: u64,
    /// For what is below a piece.
    buffer: Vec<u8>,
    /// Bytes of clusters that are in the file, and that read as zeros by it.
    pub data: u64,
    pub zeros: u64,
}

/// What becomes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stored,
    /// Zeros, and what is below has something else.
    Zeros,
    /// Zeros, as what is below has them, or nothing is.
    Hole,
    /// What is below has the same.
    Equal,
}

impl MemberWriter {
    /// Begins a file for a disk of `len` bytes. `path`: what it will be called.
    pub fn new(file: &File, path: &Path, len: u64, cluster_bits: u32, backing: Option<&str>) -> Result<MemberWriter> {
        let shape = Shape::new(len, cluster_bits, backing.map(str::as_bytes));
        let shape = shape.map_err(|e| crate::sets::failed(&path.display().to_string(), &e))?;
        let failed = |what: &str, e: &std::io::Error| Failure::io(format_args!("{}: {what}", path.display()), e);
        let file = file.try_clone().map_err(|e| failed("open", &e))?;
        let out = file.try_clone().map_err(|e| failed("open", &e))?;
        let name = path.to_path_buf();
        let write: Write = Box::new(move |bytes, offset| {
            let what = || format!("{}: write {} bytes at {offset}", name.display(), bytes.len());
            out.write_all_at(bytes, offset).map_err(|e| Failure::io(what(), &e))
        });
        let room = PIECE.max(shape.cluster()) as usize;
        Ok(MemberWriter {
            writer: Writer::new(shape, write),
            file,
            path: path.into(),
            len,
            done: 0,
            buffer: vec![0; room],
            data: 0,
            zeros: 0,
        })
    }

    /// Bytes of the source.
    pub fn len(&self) -> u64 {
        self.len
    }

    fn cluster(&self) -> u64 {
        self.writer.shape().cluster()
    }

    /// Takes over areas of `source`, rounded to whole clusters; they ascend. `below`: what the file rests upon. `equal`: store also
    /// what that has already.
    pub fn copy(
        &mut self,
        source: &dyn Content,
        below: Option<&dyn Content>,
        areas: impl Iterator<Item = Range<u64>>,
        equal: bool,
        pass: &Pass,
    ) -> Result<Copied> {
        let mut copied = Copied::default();
        let ahead = Ahead { source, len: self.len, whole: self.writer.shape().len(), unit: self.cluster(), pass };
        ahead.read(areas, |piece| match piece {
            Piece::Hole(range) => {
                self.done = range.end;
                self.hole(below, range, &mut copied)
            }
            Piece::Data(offset, bytes) => {
                self.done = (offset + bytes.len() as u64).min(self.len);
                self.piece(bytes, offset, below, equal, &mut copied)
            }
        })?;
        Ok(copied)
    }

    /// An area that is zeros: it needs an entry only where something is below.
    fn hole(&mut self, below: Option<&dyn Content>, area: Range<u64>, copied: &mut Copied) -> Result<()> {
        let cluster = self.cluster();
        copied.holes += area.end - area.start;
        let Some(below) = below else { return Ok(()) };
        let mut at = area.start;
        while let Some(data) = below.next_data(at..area.end)? {
            let clusters = data.start / cluster..data.end.div_ceil(cluster);
            self.writer.zeros(clusters.start, clusters.end - clusters.start)?;
            self.zeros += (clusters.end - clusters.start) * cluster;
            at = clusters.end * cluster;
        }
        Ok(())
    }

    /// A piece that was read, from the start of a cluster on, with the zeros behind the source's end.
    fn piece(
        &mut self,
        bytes: &[u8],
        offset: u64,
        below: Option<&dyn Content>,
        equal: bool,
        copied: &mut Copied,
    ) -> Result<()> {
        let cluster = self.cluster() as usize;
        // What is counted is the source's.
        let length = bytes.len().min((self.len - offset) as usize);
        let old = &mut self.buffer[..bytes.len()];
        let below = match below {
            Some(below) if below.next_data(offset..offset + bytes.len() as u64)?.is_some() => {
                below.read(old, offset)?;
                true
            }
            _ => false,
        };
        let fate = |new: &[u8], old: &[u8]| match (is_zero(new), below) {
            (true, true) if !is_zero(old) => Fate::Zeros,
            (true, _) => Fate::Hole,
            (false, true) if !equal && new == old => Fate::Equal,
            (false, _) => Fate::Stored,
        };
        let fates: Vec<Fate> =
            bytes.chunks(cluster).zip(old.chunks(cluster)).map(|(new, old)| fate(new, old)).collect();
        let mut index = 0;
        for run in fates.chunk_by(|a, b| a == b) {
            let stored = index * cluster..((index + run.len()) * cluster).min(bytes.len());
            let range = stored.start..stored.end.min(length);
            let first = offset / cluster as u64 + index as u64;
            let clusters = (run.len() * cluster) as u64;
            match run[0] {
                Fate::Stored => {
                    self.writer.data(first, &bytes[stored])?;
                    self.data += clusters;
                    copied.data += range.len() as u64;
                }
                Fate::Zeros => {
                    self.writer.zeros(first, run.len() as u64)?;
                    self.zeros += clusters;
                    copied.holes += range.len() as u64;
                }
                Fate::Hole => copied.holes += range.len() as u64,
                Fate::Equal => copied.equal += range.len() as u64,
            }
            index += run.len();
        }
        Ok(())
    }

    /// Makes zeros of what the disk has behind the source's end, where the last cluster was not taken over: it is what is below,
    /// with other bytes there.
    fn zero_tail(&mut self, below: Option<&dyn Content>) -> Result<()> {
        let (end, start) = (self.writer.shape().len(), self.len / self.cluster() * self.cluster());
        let Some(below) = below.filter(|_| self.len < end && self.done < self.len) else { return Ok(()) };
        let mut bytes = vec![0; (end - start) as usize];
        below.read(&mut bytes, start)?;
        let tail = (self.len - start) as usize;
        if is_zero(&bytes[tail..]) {
            return Ok(());
        }
        bytes[tail..].fill(0);
        let cluster = start / self.cluster();
        if is_zero(&bytes) {
            self.zeros += self.cluster();
            return self.writer.zeros(cluster, 1);
        }
        self.data += self.cluster();
        self.writer.data(cluster, &bytes)
    }

    /// Writes the tables, and makes everything durable. From here on it is read from the device. `below`: what the file rests upon.
    pub fn finish(mut self, below: Option<&dyn Content>) -> Result<()> {
        self.zero_tail(below)?;
        let failed = |what: &str, e: &std::io::Error| Failure::io(format_args!("{}: {what}", self.path.display()), e);
        let length = self.writer.finish()?;
        self.file.set_len(length).map_err(|e| failed("set its size", &e))?;
        durable::bytes(&self.file).map_err(|e| failed("sync", &e))?;
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }
}
