//! One qcow2 file, as far as it says what is on the disk.
//!
//! Invariant kept here: an offset, size or count from the file is used only after it was checked against the file's length and
//! the specification; a feature that would have bytes mean something else is refused.

use super::super::parse::{aligned, check_features, read, span};
use super::super::spec::{self, header};
use super::super::{Error, ReadAt, Result, be32, be64};
use super::write::Shape;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Entries of a table that are read at once.
const BATCH: u64 = 4096;

/// What a file says of a part of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The bytes are in the file, from this offset on.
    Data(u64),
    /// All zeros.
    Zeros,
    /// Nothing: the backing file says it; without one it is zeros.
    Absent,
}

/// A qcow2 file, its header read and checked as far as data needs it.
#[derive(Debug)]
pub struct Disk<S> {
    pub(super) source: S,
    pub(super) cluster_bits: u32,
    size: u64,
    pub(super) l1: Range<u64>,
    pub(super) refcount_table: Range<u64>,
    backing: Option<Vec<u8>>,
    /// Entries that were read last, of the L1 table and of an L2 table.
    batches: Mutex<[Batch; 2]>,
}

/// Entries of a table, from an offset of the file on.
#[derive(Debug, Default)]
struct Batch {
    offset: u64,
    entries: Vec<u64>,
}

const PLACE: &str = "qcow2 header";

impl<S: ReadAt> Disk<S> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Error::NotQcow2`], [`Error::Unsupported`], [`Error::Corrupt`], [`Error::Io`].
    pub fn open(source: S) -> Result<Disk<S>> {
        if source.size() < 8 || read(&source, PLACE, 0..4)? != spec::MAGIC {
            return Err(Error::NotQcow2);
        }
        let fixed = read(&source, PLACE, 0..spec::HEADER_BYTES as u64)?;
        let version = be32(&fixed, header::VERSION);
        if version != spec::VERSION {
            return Err(Error::Unsupported(format!("found a qcow2 image of version {version}, expected version 3")));
        }
        let cluster_bits = be32(&fixed, header::CLUSTER_BITS);
        if !(spec::MIN_CLUSTER_BITS..=spec::MAX_CLUSTER_BITS).contains(&cluster_bits) {
            return Err(Error::corrupt(PLACE, format!("cluster_bits {cluster_bits}"), "9 to 21"));
        }
        let incompatible = be64(&fixed, header::INCOMPATIBLE);
        check_features(incompatible)?;
        for (found, what) in [
            (incompatible, format!("features that only QEMU reads ({incompatible:#x})")),
            (be32(&fixed, header::CRYPT_METHOD).into(), "encrypted clusters".into()),
            (be32(&fixed, header::SNAPSHOTS).into(), "snapshots in it".into()),
        ] {
            if found != 0 {
                return Err(Error::Unsupported(format!("the image has {what}; only plain ones are read here")));
            }
        }
        let order = be32(&fixed, header::REFCOUNT_ORDER);
        if order != spec::REFCOUNT_ORDER {
            return Err(Error::Unsupported(format!("found refcount_order {order}, expected {}", spec::REFCOUNT_ORDER)));
        }
        let cluster = 1 << cluster_bits;
        let table = |place: &str, offset: usize, bytes: u64| -> Result<Range<u64>> {
            let offset = be64(&fixed, offset);
            aligned(place, offset, cluster)?;
            let range = span(place, offset, bytes)?;
            inside(&source, place, range)
        };
        let entries = u64::from(be32(&fixed, header::L1_ENTRIES));
        let size = be64(&fixed, header::SIZE);
        let needed = size.div_ceil(cluster).div_ceil(cluster / spec::TABLE_ENTRY);
        if entries < needed || entries * spec::TABLE_ENTRY > spec::QEMU_MAX_L1 || i64::try_from(size).is_err() {
            let found = format!("an L1 table of {entries} entries for {size} bytes");
            return Err(Error::corrupt(PLACE, found, format!("{needed} at least, in 32 MiB at most")));
        }
        let table_clusters = u64::from(be32(&fixed, header::REFCOUNT_TABLE_CLUSTERS));
        Ok(Disk {
            cluster_bits,
            size,
            l1: table("L1 table", header::L1_OFFSET, entries * spec::TABLE_ENTRY)?,
            refcount_table: table("refcount table", header::REFCOUNT_TABLE_OFFSET, table_clusters << cluster_bits)?,
            backing: backing(&source, &fixed, cluster)?,
            batches: Mutex::default(),
            source,
        })
    }

    /// A file whose [`Writer`](super::Writer) was stopped: as far as it says what is on the disk, which has this shape. A header is
    /// neither there nor needed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a file without an L1 table.
    pub fn unfinished(source: S, shape: &Shape) -> Result<Disk<S>> {
        Ok(Disk {
            cluster_bits: shape.cluster().ilog2(),
            size: shape.len(),
            l1: inside(&source, "L1 table", shape.l1())?,
            refcount_table: 0..0,
            backing: None,
            batches: Mutex::default(),
            source,
        })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The name of the backing file, as it stands in the header: any bytes.
    pub fn backing(&self) -> Option<&[u8]> {
        self.backing.as_deref()
    }

    /// What the file says of the disk from `range.start` on, and up to where. Not past `range.end`, and not all that follows
    /// need be told at once.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`] for a compressed cluster, [`Error::Io`].
    ///
    /// # Panics
    /// For a range that is empty or reaches behind the end of the disk.
    pub fn extent(&self, range: Range<u64>) -> Result<(Extent, u64)> {
        assert!(range.start < range.end && range.end <= self.size, "{range:?} is not inside of the disk");
        let entries = self.cluster() / spec::TABLE_ENTRY;
        let (first, last) = (range.start >> self.cluster_bits, (range.end - 1) >> self.cluster_bits);
        let index = first / entries;
        let table_end = ((index + 1) * entries - 1).min(last);
        let l2 = self.l2(index)?;
        if l2 == 0 {
            return Ok((Extent::Absent, ((table_end + 1) << self.cluster_bits).min(range.end)));
        }
        let skip = range.start & (self.cluster() - 1);
        let found = match self.mapping(l2, first)? {
            Extent::Data(offset) => Extent::Data(offset + skip),
            other => other,
        };
        let mut cluster = first + 1;
        while cluster <= table_end {
            let expected = match found {
                Extent::Data(offset) => Extent::Data(offset - skip + ((cluster - first) << self.cluster_bits)),
                other => other,
            };
            if self.mapping(l2, cluster)? != expected {
                break;
            }
            cluster += 1;
        }
        Ok((found, (cluster << self.cluster_bits).min(range.end)))
    }

    /// The offset of the L2 table for an entry of the L1 table; 0 for none.
    pub(super) fn l2(&self, index: u64) -> Result<u64> {
        let entry = self.entry(0, "L1 table", &self.l1, index)?;
        let place = format_args!("L1 table entry {index}");
        if entry & !(spec::MAPPING_OFFSET | spec::MAPPING_COPIED) != 0 {
            return Err(Error::corrupt(place, format_args!("{entry:#x}"), "no reserved bits"));
        }
        self.cluster_at(place, entry & spec::MAPPING_OFFSET)
    }

    /// What an L2 table says of a cluster of the disk.
    pub(super) fn mapping(&self, l2: u64, cluster: u64) -> Result<Extent> {
        let index = cluster & (self.cluster() / spec::TABLE_ENTRY - 1);
        let entry = self.entry(1, "L2 table", &(l2..l2 + self.cluster()), index)?;
        let place = format_args!("L2 table entry for cluster {cluster}");
        if entry & spec::MAPPING_COMPRESSED != 0 {
            return Err(Error::Unsupported(format!("{place}: a compressed cluster, which only QEMU reads")));
        }
        if entry & !(spec::MAPPING_OFFSET | spec::MAPPING_COPIED | spec::MAPPING_ZEROS) != 0 {
            return Err(Error::corrupt(place, format_args!("{entry:#x}"), "no reserved bits"));
        }
        let offset = self.cluster_at(place, entry & spec::MAPPING_OFFSET)?;
        Ok(match (entry & spec::MAPPING_ZEROS, offset) {
            (0, 0) => Extent::Absent,
            (0, offset) => Extent::Data(offset),
            _ => Extent::Zeros,
        })
    }

    /// An offset of a cluster that is whole in the file, or 0.
    fn cluster_at(&self, place: impl fmt::Display, offset: u64) -> Result<u64> {
        if offset != 0 {
            aligned(&place, offset, self.cluster())?;
            inside(&self.source, &place, span(&place, offset, self.cluster())?)?;
        }
        Ok(offset)
    }

    /// An entry of a table that lies inside of the file.
    fn entry(&self, kind: usize, place: &str, table: &Range<u64>, index: u64) -> Result<u64> {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = &mut batches[kind];
        let first = table.start + index / BATCH * BATCH * spec::TABLE_ENTRY;
        if batch.offset != first || batch.entries.is_empty() {
            let end = (first + BATCH * spec::TABLE_ENTRY).min(table.end);
            let bytes = read(&self.source, place, first..end)?;
            batch.entries = bytes.chunks_exact(spec::TABLE_ENTRY as usize).map(|entry| be64(entry, 0)).collect();
            batch.offset = first;
        }
        let found = batch.entries.get((index % BATCH) as usize).copied();
        found.ok_or_else(|| Error::corrupt(place, format!("no entry {index}"), "one"))
    }

    /// Reads bytes of the disk in the file.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let bytes = buffer.len();
        self.source.read_data(buffer, offset).map_err(|source| Error::Io { bytes, offset, source })
    }
}

/// A range of the file, if it is inside of that.
fn inside<S: ReadAt>(source: &S, place: impl fmt::Display, range: Range<u64>) -> Result<Range<u64>> {
    if range.end <= source.size() {
        return Ok(range);
    }
    let found = format!("it at bytes {} to {}", range.start, range.end);
    Err(Error::corrupt(place, found, format!("it in the {} bytes of the file", source.size())))
}

/// The name of the backing file.
fn backing<S: ReadAt>(source: &S, fixed: &[u8], cluster: u64) -> Result<Option<Vec<u8>>> {
    let (offset, bytes) =
        (be64(fixed, header::BACKING_FILE_OFFSET), u64::from(be32(fixed, header::BACKING_FILE_BYTES)));
    if offset == 0 {
        return Ok(None);
    }
    if bytes == 0 || bytes > spec::MAX_BACKING_NAME as u64 || offset > cluster || bytes > cluster - offset {
        let found = format!("a backing file's name of {bytes} bytes at {offset}");
        return Err(Error::corrupt(PLACE, found, "1 to 1023 bytes in the first cluster"));
    }
    read(source, PLACE, offset..offset + bytes).map(Some)
}
