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
use crate::files::{Content, PIECE, WriteBehind, durable, is_zero};
use crate::sets::{Stored, failed, step};
use crate::terminal::pass::Pass;
use dirtymap_cli::qcow2::data::{Disk, Extent, Left, Shape, Writer};
use std::fs::File;
use std::io;
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
    /// For what is below a piece, or was there before.
    buffer: Vec<u8>,
    /// What a backup that was stopped has left in the file.
    left: Option<Disk<Stored>>,
    /// Bytes of clusters that are in the file, and that read as zeros by it.
    pub data: u64,
    pub zeros: u64,
}

/// Bytes of a cluster that are compared with what is below before the others are read.
const START: usize = 4096;

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

/// How the disk in a file is laid out. `path`: what it will be called.
fn shape(path: &Path, len: u64, cluster_bits: u32, backing: Option<&str>) -> Result<Shape> {
    let shape = Shape::new(len, cluster_bits, backing.map(str::as_bytes));
    shape.map_err(|e| failed(&path.display().to_string(), &e))
}

fn put(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
    let what = || format!("{}: write {} bytes at {offset}", path.display(), bytes.len());
    file.write_all_at(bytes, offset).map_err(|e| Failure::io(what(), &e))
}

impl MemberWriter {
    /// Begins a file for a disk of `len` bytes. `path`: what it will be called.
    pub fn new(file: &File, path: &Path, len: u64, cluster_bits: u32, backing: Option<&str>) -> Result<MemberWriter> {
        let shape = shape(path, len, cluster_bits, backing)?;
        MemberWriter::of(file, path, len, |write| Ok(Writer::new(shape, write)))
    }

    /// The same for a file that rests upon none, and of which one that was stopped may have written a part: where that stores
    /// something it stays, and is written only where it is not what the source has.
    pub fn go_on(file: &File, path: &Path, len: u64, cluster_bits: u32) -> Result<MemberWriter> {
        let io = |e: &io::Error| Failure::io(path.display(), e);
        let shape = shape(path, len, cluster_bits, None)?;
        let stored = Stored::again(file, path)?;
        if stored.bytes == 0 {
            return MemberWriter::new(file, path, len, cluster_bits, None);
        }
        // What is read of it from here on counts as read back.
        durable::bytes(file).map_err(|e| io(&e))?;
        forget(file);
        // What cannot be read is of no use either.
        let left = Disk::unfinished(stored, &shape).and_then(|disk| Left::of(&disk, &shape)).ok().flatten();
        let Some(left) = left else {
            file.set_len(0).map_err(|e| io(&e))?;
            return MemberWriter::new(file, path, len, cluster_bits, None);
        };
        file.set_len(left.bytes(&shape)).map_err(|e| io(&e))?;
        let writer = MemberWriter::of(file, path, len, |write| Writer::go_on(shape.clone(), write, &left))?;
        let disk = Disk::unfinished(Stored::again(file, path)?, &shape);
        let disk = disk.map_err(|e| failed(&path.display().to_string(), &e))?;
        Ok(MemberWriter { left: Some(disk), ..writer })
    }

    fn of(
        file: &File,
        path: &Path,
        len: u64,
        writer: impl FnOnce(Write) -> Result<Writer<Write>>,
    ) -> Result<MemberWriter> {
        let clone = || file.try_clone().map_err(|e| Failure::io(format_args!("{}: open", path.display()), &e));
        let (file, out, name, mut behind) = (clone()?, clone()?, path.to_path_buf(), WriteBehind::default());
        let writer = writer(Box::new(move |bytes, offset| {
            put(&out, &name, bytes, offset)?;
            behind.wrote(&out, offset, bytes.len() as u64);
            Ok(())
        }))?;
        Ok(MemberWriter {
            file,
            path: path.into(),
            len,
            done: 0,
            buffer: vec![0; PIECE.max(writer.shape().cluster()) as usize],
            left: None,
            data: 0,
            zeros: 0,
            writer,
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
                self.piece(bytes, offset, below, equal, &mut copied)?;
                step("piece");
                Ok(())
            }
        })?;
        Ok(copied)
    }

    /// An area that is zeros: it needs an entry only where something is below.
    fn hole(&mut self, below: Option<&dyn Content>, area: Range<u64>, copied: &mut Copied) -> Result<()> {
        let cluster = self.cluster();
        copied.holes += area.end - area.start;
        self.still_stored(&area)?;
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
        let mut at = 0;
        while at < bytes.len() {
            let (found, end) = self.left_at(offset + at as u64..offset + bytes.len() as u64)?;
            let end = (end - offset) as usize;
            let (part, from) = (&bytes[at..end], offset + at as u64);
            match found {
                Extent::Data(place) => self.stored_before(part, from, place, copied)?,
                _ => self.new_piece(part, from, below, equal, copied)?,
            }
            at = end;
        }
        Ok(())
    }

    /// What a backup that was stopped has stored for the start of a range, and up to where that is so.
    fn left_at(&self, range: Range<u64>) -> Result<(Extent, u64)> {
        let Some(left) = &self.left else { return Ok((Extent::Absent, range.end)) };
        left.extent(range).map_err(|e| failed(&self.path.display().to_string(), &e))
    }

    /// A part of a piece for which the file has room at `place`: what is there may be right.
    fn stored_before(&mut self, bytes: &[u8], offset: u64, place: u64, copied: &mut Copied) -> Result<()> {
        let cluster = self.cluster() as usize;
        let old = &mut self.buffer[..bytes.len()];
        // What cannot be read is written anew.
        let is_read = self.file.read_exact_at(old, place).is_ok();
        let is_right: Vec<bool> =
            bytes.chunks(cluster).zip(old.chunks(cluster)).map(|(new, old)| is_read && new == old).collect();
        for (is_right, part) in runs(&is_right, cluster, bytes.len()) {
            let (from, there) = (offset + part.start as u64, place + part.start as u64);
            let range = from..(offset + part.end as u64).min(self.len);
            if is_right {
                copied.kept += range.end - range.start;
            } else {
                put(&self.file, &self.path, &bytes[part], there)?;
                copied.data += range.end - range.start;
            }
        }
        self.data += (is_right.len() * cluster) as u64;
        self.writer.placed(offset / cluster as u64, is_right.len() as u64, place)
    }

    /// What was stored by a backup that was stopped is stored still, also where the source has nothing by now: or clusters of the
    /// file would belong to nothing.
    fn still_stored(&mut self, area: &Range<u64>) -> Result<()> {
        if self.left.is_none() {
            return Ok(());
        }
        let end = if area.end == self.len { self.writer.shape().len() } else { area.end };
        let (mut zeros, mut at) = (Vec::new(), area.start);
        while at < end {
            let (found, mut until) = self.left_at(at..end)?;
            if let Extent::Data(place) = found {
                zeros.resize(self.buffer.len(), 0);
                until = until.min(at + zeros.len() as u64);
                self.stored_before(&zeros[..(until - at) as usize], at, place, &mut Copied::default())?;
            }
            at = until;
        }
        Ok(())
    }

    /// A piece for which the file has nothing yet.
    fn new_piece(
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
        // Where it has nothing, no cluster is asked about.
        let below = match below {
            Some(below) if below.next_data(offset..offset + bytes.len() as u64)?.is_some() => Some(below),
            _ => None,
        };
        let mut fates = Vec::with_capacity(bytes.len().div_ceil(cluster));
        for (i, new) in bytes.chunks(cluster).enumerate() {
            fates.push(self.fate(new, offset + (i * cluster) as u64, below, equal)?);
        }
        for (fate, stored) in runs(&fates, cluster, bytes.len()) {
            let range = stored.start..stored.end.min(length);
            let (first, count) = ((offset as usize + stored.start) / cluster, stored.len().div_ceil(cluster));
            let clusters = (count * cluster) as u64;
            match fate {
                Fate::Stored => {
                    self.writer.data(first as u64, &bytes[stored])?;
                    self.data += clusters;
                    copied.data += range.len() as u64;
                }
                Fate::Zeros => {
                    self.writer.zeros(first as u64, count as u64)?;
                    self.zeros += clusters;
                    copied.holes += range.len() as u64;
                }
                Fate::Hole => copied.holes += range.len() as u64,
                Fate::Equal => copied.equal += range.len() as u64,
            }
        }
        Ok(())
    }

    /// What becomes of a cluster of a piece. Of what is below no more is read than is needed to tell.
    fn fate(&mut self, new: &[u8], offset: u64, below: Option<&dyn Content>, equal: bool) -> Result<Fate> {
        let is_zero_here = is_zero(new);
        let Some(below) = below else { return Ok(if is_zero_here { Fate::Hole } else { Fate::Stored }) };
        let old = &mut self.buffer[..new.len()];
        if is_zero_here {
            below.read(old, offset)?;
            return Ok(if is_zero(old) { Fate::Hole } else { Fate::Zeros });
        }
        if equal {
            return Ok(Fate::Stored);
        }
        // Most of what was written is different from its start on.
        let start = new.len().min(START);
        for part in [0..start, start..new.len()] {
            below.read(&mut old[part.clone()], offset + part.start as u64)?;
            if new[part.clone()] != old[part] {
                return Ok(Fate::Stored);
            }
        }
        Ok(Fate::Equal)
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

    /// Nothing follows for now: has it be gone on with. What the table at hand knew of before, it goes on knowing.
    pub fn stop(mut self) -> Result<()> {
        let cluster = self.cluster();
        let rest = self.writer.rest();
        let (mut at, end) = (rest.start * cluster, (rest.end * cluster).min(self.writer.shape().len()));
        while at < end {
            let (found, until) = self.left_at(at..end)?;
            if let Extent::Data(place) = found {
                self.writer.placed(at / cluster, (until - at).div_ceil(cluster), place)?;
            }
            at = until;
        }
        self.writer.stop()
    }

    /// Writes the tables, and makes everything durable. From here on it is read from the device. `below`: what the file rests upon.
    pub fn finish(mut self, below: Option<&dyn Content>) -> Result<()> {
        self.zero_tail(below)?;
        let failed = |what: &str, e: &io::Error| Failure::io(format_args!("{}: {what}", self.path.display()), e);
        let length = self.writer.finish()?;
        self.file.set_len(length).map_err(|e| failed("set its size", &e))?;
        durable::bytes(&self.file).map_err(|e| failed("sync", &e))?;
        forget(&self.file);
        Ok(())
    }
}

/// Has it be read from the device from here on. Best effort.
fn forget(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// Neighbouring clusters of one kind, and where they are in a piece of `len` bytes.
fn runs<T: Copy + PartialEq>(kinds: &[T], cluster: usize, len: usize) -> impl Iterator<Item = (T, Range<usize>)> {
    let mut next = 0;
    kinds.chunk_by(PartialEq::eq).map(move |run| {
        let start = next;
        next = (start + run.len() * cluster).min(len);
        (run[0], start..next)
    })
}
