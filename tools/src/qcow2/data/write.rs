//! A qcow2 image with data, and perhaps a backing file, that is written from front to back.
//!
//! Invariants kept here: clusters are taken one after the other and each once, so that every refcount is 1 and none is missing;
//! the header is written last. Clusters in order: header, L1 table; for each part of the disk that one L2 table maps, its data
//! and then that table; refcount table, refcount blocks. What is gone on with keeps its clusters, and what they lack follows
//! behind all of them in the same order. [`check`](super::check) relies on that.

use super::super::spec::{self, header};
use super::super::write::{Fixed, l1_entries, put};
use super::super::{Error, Result, be64};
use super::dense::Left;
use std::ops::Range;

/// The format that the header says a backing file has.
const BACKING_FORMAT: &[u8] = b"qcow2";
/// The cluster in which the L1 table begins.
const L1_TABLE: u64 = 1;

/// What an image is like: the length of its disk, its clusters, and its backing file.
#[derive(Clone, Debug)]
pub struct Shape {
    len: u64,
    cluster_bits: u32,
    backing: Option<Vec<u8>>,
}

impl Shape {
    /// For a disk of `len` bytes, which is rounded up to whole sectors: QEMU would ignore the bytes of half a one. Clusters of
    /// `1 << cluster_bits` bytes, or larger where QEMU would not take so many.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a disk, or the name of a backing file, that QEMU does not handle.
    pub fn new(len: u64, cluster_bits: u32, backing: Option<&[u8]>) -> Result<Shape> {
        let too_long = || Error::Unsupported(format!("a qcow2 image cannot have a disk of {len} bytes"));
        let rounded = len.checked_next_multiple_of(spec::SECTOR).filter(|len| i64::try_from(*len).is_ok());
        let rounded = rounded.ok_or_else(too_long)?;
        let fits = |bits: &u32| l1_entries(rounded, *bits) * spec::TABLE_ENTRY <= spec::QEMU_MAX_L1;
        let bits = (cluster_bits.max(spec::MIN_CLUSTER_BITS)..=spec::MAX_CLUSTER_BITS).find(fits);
        if let Some(name) = backing
            && (name.is_empty() || name.len() > spec::MAX_BACKING_NAME)
        {
            let message = format!("the name of a backing file has 1 to {} bytes", spec::MAX_BACKING_NAME);
            return Err(Error::Unsupported(message));
        }
        let shape = Shape { len: rounded, cluster_bits: bits.ok_or_else(too_long)?, backing: backing.map(Into::into) };
        if shape.header(0, 0).len() as u64 > shape.cluster() {
            return Err(Error::Unsupported("the name of the backing file does not fit the first cluster".into()));
        }
        Ok(shape)
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the disk: a multiple of a sector.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the disk has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries of the L1 table: one at least, as a table of none would be a cluster without a reference.
    pub(super) fn l1_entries(&self) -> u64 {
        l1_entries(self.len, self.cluster_bits).max(1)
    }

    /// Where the L1 table is in the file.
    pub(super) fn l1(&self) -> Range<u64> {
        let start = L1_TABLE * self.cluster();
        start..start + self.l1_entries() * spec::TABLE_ENTRY
    }

    /// Entries of an L2 table.
    pub(super) fn l2_entries(&self) -> u64 {
        self.cluster() / spec::TABLE_ENTRY
    }

    /// The first cluster behind the L1 table.
    pub(super) fn first(&self) -> u64 {
        L1_TABLE + (self.l1_entries() * spec::TABLE_ENTRY).div_ceil(self.cluster())
    }

    /// The header, its extensions and the backing file's name.
    fn header(&self, refcount_table: u64, refcount_table_clusters: u64) -> Vec<u8> {
        let fixed = Fixed {
            cluster_bits: self.cluster_bits,
            size: self.len,
            l1: L1_TABLE,
            l1_entries: self.l1_entries(),
            refcount_table,
            refcount_table_clusters,
        };
        let mut bytes = fixed.bytes();
        if let Some(name) = &self.backing {
            bytes.extend(spec::EXTENSION_BACKING_FORMAT.to_be_bytes());
            bytes.extend((BACKING_FORMAT.len() as u32).to_be_bytes());
            bytes.extend(BACKING_FORMAT);
            bytes.resize(bytes.len().next_multiple_of(spec::PADDING), 0);
            bytes.extend([0; spec::EXTENSION_HEAD]);
            let offset = bytes.len() as u64;
            put(&mut bytes, header::BACKING_FILE_OFFSET, &offset.to_be_bytes());
            put(&mut bytes, header::BACKING_FILE_BYTES, &(name.len() as u32).to_be_bytes());
            bytes.extend(name);
        } else {
            bytes.extend([0; spec::EXTENSION_HEAD]);
        }
        bytes
    }
}

/// The refcount table and its blocks behind `used` clusters: how many clusters each takes.
pub(super) fn refcounts(used: u64, cluster: u64) -> (u64, u64) {
    let (mut table, mut blocks) = (1, 1);
    // They count themselves. Both only grow, and a few turns are enough.
    loop {
        let needed = ((used + table + blocks) * spec::REFCOUNT_BYTES).div_ceil(cluster);
        let table_needed = (needed * spec::TABLE_ENTRY).div_ceil(cluster);
        if (needed, table_needed) == (blocks, table) {
            return (table, blocks);
        }
        (table, blocks) = (table_needed.max(table), needed.max(blocks));
    }
}

/// An image that is being written. `write` writes bytes at an offset of a file that reads as zeros elsewhere. Memory: the L1
/// table, at most 32 MiB, and one L2 table.
pub struct Writer<W> {
    shape: Shape,
    write: W,
    /// The next cluster of the file.
    next: u64,
    /// The next cluster of the disk that may be given.
    at: u64,
    l1: Vec<u8>,
    /// The L2 table that is being filled, and for which entry of the L1 table.
    l2: Vec<u8>,
    l2_index: u64,
    l2_used: bool,
}

impl<E, W: FnMut(&[u8], u64) -> std::result::Result<(), E>> Writer<W> {
    /// Begins an image.
    pub fn new(shape: Shape, write: W) -> Writer<W> {
        let (l1, l2) = (vec![0; (shape.l1_entries() * spec::TABLE_ENTRY) as usize], vec![0; shape.cluster() as usize]);
        Writer { next: shape.first(), at: 0, l1, l2, l2_index: 0, l2_used: false, shape, write }
    }

    /// Goes on with a file whose writer was stopped, from behind what that one has left. All that is [there](super::Disk::unfinished)
    /// still has to be [given](Self::placed) again, in its turn.
    ///
    /// # Errors
    /// What `write` returned.
    pub fn go_on(shape: Shape, write: W, left: &Left) -> std::result::Result<Writer<W>, E> {
        let mut writer = Writer { next: left.next, ..Writer::new(shape, write) };
        for (at, table) in (0..).step_by(spec::TABLE_ENTRY as usize).zip(&left.tables) {
            let entry = if *table == 0 { 0 } else { table | spec::MAPPING_COPIED };
            put(&mut writer.l1, at, &entry.to_be_bytes());
        }
        (writer.write)(&writer.l1, writer.shape.l1().start)?;
        Ok(writer)
    }

    /// What it is like.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Data of the clusters from number `cluster` of the disk on; if it ends inside of a cluster, zeros follow. Clusters are
    /// given in ascending order.
    ///
    /// # Errors
    /// What `write` returned.
    ///
    /// # Panics
    /// For clusters behind the disk's end, or before one that was given.
    pub fn data(&mut self, mut cluster: u64, mut bytes: &[u8]) -> std::result::Result<(), E> {
        let size = self.shape.cluster();
        while !bytes.is_empty() {
            let left = self.shape.l2_entries() - cluster % self.shape.l2_entries();
            let n = (bytes.len() as u64).div_ceil(size).min(left);
            let (now, later) = bytes.split_at(bytes.len().min((n * size) as usize));
            self.turn_to(cluster, n)?;
            (self.write)(now, self.next * size)?;
            for i in 0..n {
                self.map(cluster + i, ((self.next + i) * size) | spec::MAPPING_COPIED);
            }
            self.next += n;
            (cluster, bytes) = (cluster + n, later);
        }
        Ok(())
    }

    /// The data of `count` clusters from number `cluster` of the disk on is at `offset` of the file, where the writer that was
    /// stopped has put it.
    ///
    /// # Errors
    /// What `write` returned.
    ///
    /// # Panics
    /// As [`data`](Self::data), or if one L2 table does not map all of them.
    pub fn placed(&mut self, cluster: u64, count: u64, offset: u64) -> std::result::Result<(), E> {
        assert!(cluster % self.shape.l2_entries() + count <= self.shape.l2_entries(), "more than one table's clusters");
        self.turn_to(cluster, count)?;
        (0..count).for_each(|i| self.map(cluster + i, (offset + i * self.shape.cluster()) | spec::MAPPING_COPIED));
        Ok(())
    }

    /// Has `count` clusters from number `cluster` on read as zeros, whatever a backing file has there.
    ///
    /// # Errors
    /// What `write` returned.
    ///
    /// # Panics
    /// As [`data`](Self::data).
    pub fn zeros(&mut self, mut cluster: u64, count: u64) -> std::result::Result<(), E> {
        let end = cluster + count;
        while cluster < end {
            let n = (self.shape.l2_entries() - cluster % self.shape.l2_entries()).min(end - cluster);
            self.turn_to(cluster, n)?;
            (cluster..cluster + n).for_each(|cluster| self.map(cluster, spec::MAPPING_ZEROS));
            cluster += n;
        }
        Ok(())
    }

    /// Gets ready for `count` clusters that one L2 table maps.
    fn turn_to(&mut self, cluster: u64, count: u64) -> std::result::Result<(), E> {
        let index = cluster / self.shape.l2_entries();
        assert!(cluster >= self.at && index < self.shape.l1_entries(), "cluster {cluster} is out of order");
        self.at = cluster + count;
        if index != self.l2_index {
            self.put_l2()?;
            self.l2_index = index;
        }
        Ok(())
    }

    fn map(&mut self, cluster: u64, entry: u64) {
        let at = (cluster % self.shape.l2_entries() * spec::TABLE_ENTRY) as usize;
        put(&mut self.l2, at, &entry.to_be_bytes());
        self.l2_used = true;
    }

    /// Where the L2 table is that is being filled, if it was written by one that was stopped; else 0.
    fn known(&self) -> u64 {
        be64(&self.l1, (self.l2_index * spec::TABLE_ENTRY) as usize) & spec::MAPPING_OFFSET
    }

    /// Writes the L2 table behind what it maps, and says at once where it is: that is what can be gone on with.
    fn put_l2(&mut self) -> std::result::Result<(), E> {
        if !self.l2_used {
            return Ok(());
        }
        let known = self.known();
        let offset = if known == 0 { self.next * self.shape.cluster() } else { known };
        (self.write)(&self.l2, offset)?;
        if known == 0 {
            let (at, entry) = (self.l2_index * spec::TABLE_ENTRY, (offset | spec::MAPPING_COPIED).to_be_bytes());
            put(&mut self.l1, at as usize, &entry);
            (self.write)(&entry, self.shape.l1().start + at)?;
            self.next += 1;
        }
        self.l2.fill(0);
        self.l2_used = false;
        Ok(())
    }

    /// The clusters of the table that is being filled of which nothing was said yet.
    pub fn rest(&self) -> Range<u64> {
        let end = ((self.l2_index + 1) * self.shape.l2_entries()).min(self.shape.len().div_ceil(self.shape.cluster()));
        self.at..end.max(self.at)
    }

    /// Nothing follows for now: has what was given so far be found by who goes on. Of a table that is there already, all that it
    /// knew of is to be given before.
    ///
    /// # Errors
    /// What `write` returned.
    pub fn stop(mut self) -> std::result::Result<(), E> {
        self.put_l2()
    }

    /// Writes the tables, and the header last. Returns the length that the file must be given.
    ///
    /// # Errors
    /// What `write` returned.
    pub fn finish(mut self) -> std::result::Result<u64, E> {
        self.put_l2()?;
        let cluster = self.shape.cluster();
        let (table, blocks) = refcounts(self.next, cluster);
        let total = self.next + table + blocks;
        let mut entries = Vec::with_capacity((blocks * spec::TABLE_ENTRY) as usize);
        let per_block = cluster / spec::REFCOUNT_BYTES;
        for block in 0..blocks {
            let offset = (self.next + table + block) * cluster;
            entries.extend(offset.to_be_bytes());
            let count = (total - block * per_block).min(per_block);
            (self.write)(&1u16.to_be_bytes().repeat(count as usize), offset)?;
        }
        (self.write)(&entries, self.next * cluster)?;
        (self.write)(&self.l1, self.shape.l1().start)?;
        (self.write)(&self.shape.header(self.next, table), 0)?;
        Ok(total * cluster)
    }
}
