//! A small standalone qcow2 file that carries one bitmap and no data.
//!
//! Invariants kept here: the header is written last; every cluster of the file has refcount 1, and none is missing
//! from the refcounts. Clusters in order: header, refcount table, its one refcount block, L1 table (all zeros: no
//! data), bitmap directory, bitmap table, bitmap data.

use super::spec::{self, entry, extension, header};
use super::{Error, Result};
use dirtymap::Geometry;
use std::ops::Range;

const REFCOUNT_TABLE: u64 = 1;
const REFCOUNT_BLOCK: u64 = 2;
const L1_TABLE: u64 = 3;
/// QEMU's default: 64 KiB.
const DEFAULT_CLUSTER_BITS: u32 = 16;

/// A file to be written: what goes where.
#[derive(Clone, Debug)]
pub struct Plan {
    name: Vec<u8>,
    geometry: Geometry,
    cluster_bits: u32,
    l1_entries: u64,
    /// Numbers of clusters.
    directory: u64,
    table: u64,
    data: u64,
    table_entries: u64,
}

impl Plan {
    /// For a disk of `len` bytes, which is rounded up to whole sectors: QEMU would ignore the bytes of half a one.
    /// `granularity` is the log2 of the bytes behind each bit.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name or shape that QEMU does not handle.
    pub fn new(len: u64, granularity: u32, name: impl AsRef<[u8]>) -> Result<Plan> {
        // Larger clusters where the L1 table would become larger than QEMU takes.
        let l1_bytes = |bits: u32| l1_entries(len, bits) * spec::TABLE_ENTRY;
        let bits = (DEFAULT_CLUSTER_BITS..=spec::MAX_CLUSTER_BITS).find(|&bits| l1_bytes(bits) <= spec::QEMU_MAX_L1);
        let too_large = || {
            Error::Unsupported(format!("a qcow2 image cannot have {len} bytes: its tables reach to 2^61 bytes in QEMU"))
        };
        Plan::with_clusters(len, granularity, name, bits.ok_or_else(too_large)?)
    }

    /// The same with clusters of `1 << cluster_bits` bytes.
    ///
    /// # Errors
    /// Also when the file would need more than one refcount block, which happens with small clusters only.
    pub fn with_clusters(len: u64, granularity: u32, name: impl AsRef<[u8]>, cluster_bits: u32) -> Result<Plan> {
        let name = name.as_ref();
        let unsupported = |what: String| Err(Error::Unsupported(what));
        if name.is_empty() || name.len() > spec::MAX_NAME {
            return unsupported(format!(
                "a bitmap's name has 1 to {} bytes; this one has {}",
                spec::MAX_NAME,
                name.len()
            ));
        }
        if !spec::QEMU_GRANULARITY.contains(&granularity) {
            return unsupported(format!(
                "QEMU's bitmaps have 512 B to 2 GiB behind each bit, not 2^{granularity} B; choose a granularity for \
                 the bitmap (--granularity BYTES)"
            ));
        }
        if len == 0 {
            return unsupported("QEMU keeps no bitmap of a disk of 0 bytes".into());
        }
        let rounded = len.checked_next_multiple_of(spec::SECTOR).unwrap_or(u64::MAX);
        let geometry = Geometry::new(rounded, granularity).map_err(|e| Error::Unsupported(e.to_string()))?;
        let bits = geometry.bits();
        if bits > spec::QEMU_MAX_BITS {
            let larger = 1u64 << (granularity + (bits - 1).ilog2() - spec::QEMU_MAX_BITS.ilog2() + 1);
            return unsupported(format!(
                "QEMU's bitmaps have at most 2^32 bits; this one would have {bits}; choose --granularity {larger} \
                 or more"
            ));
        }
        let cluster = 1u64 << cluster_bits;
        let l1_entries = l1_entries(rounded, cluster_bits);
        let directory = L1_TABLE + (l1_entries * spec::TABLE_ENTRY).div_ceil(cluster);
        let table = directory + directory_bytes(name).div_ceil(1 << cluster_bits) as u64;
        let table_entries = bits.div_ceil(8 * cluster);
        let data = table + (table_entries * spec::TABLE_ENTRY).div_ceil(cluster);
        let plan =
            Plan { name: name.into(), geometry, cluster_bits, l1_entries, directory, table, data, table_entries };
        if (data + table_entries) * spec::REFCOUNT_BYTES > cluster {
            return unsupported(format!(
                "one refcount block of {cluster} bytes does not count {} clusters",
                data + table_entries
            ));
        }
        Ok(plan)
    }

    /// The bitmap's shape: the length is that of the virtual disk.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Writes the file. `fill` is asked for the bits of each data cluster in order: which bits, and a buffer of zeros
    /// for them, number `i` of them being bit `i % 8` of byte `i / 8`. `write` writes bytes at an offset of a file that
    /// reads as zeros elsewhere. Returns the length that the file must be given.
    ///
    /// # Errors
    /// What `fill` or `write` returned.
    pub fn write<E>(
        &self,
        mut fill: impl FnMut(Range<u64>, &mut [u8]) -> std::result::Result<(), E>,
        mut write: impl FnMut(&[u8], u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<u64, E> {
        let mut next = self.data;
        let mut table = Vec::with_capacity((self.table_entries * spec::TABLE_ENTRY) as usize);
        let mut buffer = vec![0; self.cluster() as usize];
        let bits_each = 8 * self.cluster();
        for index in 0..self.table_entries {
            let bits = index * bits_each..((index + 1) * bits_each).min(self.geometry.bits());
            buffer.fill(0);
            fill(bits.clone(), &mut buffer)?;
            let entry = if buffer.iter().all(|byte| *byte == 0) {
                0
            } else if buffer.iter().all(|byte| *byte == 0xff) {
                // Never the last cluster of a bitmap that ends inside it: there the rest must be zero.
                spec::TABLE_ONES
            } else {
                let offset = next * self.cluster();
                write(&buffer, offset)?;
                next += 1;
                offset
            };
            table.extend(entry.to_be_bytes());
        }
        write(&table, self.table * self.cluster())?;
        write(&self.directory_entry(), self.directory * self.cluster())?;
        let block = REFCOUNT_BLOCK * self.cluster();
        write(&1u16.to_be_bytes().repeat(next as usize), block)?;
        write(&block.to_be_bytes(), REFCOUNT_TABLE * self.cluster())?;
        write(&self.header(), 0)?;
        Ok(next * self.cluster())
    }

    /// The file in memory: as [`write`](Self::write), for tests and small files.
    ///
    /// # Errors
    /// What `fill` returned.
    pub fn bytes<E>(
        &self,
        fill: impl FnMut(Range<u64>, &mut [u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<Vec<u8>, E> {
        let mut file = Vec::new();
        let length = self.write(fill, |bytes, offset| {
            let range = offset as usize..offset as usize + bytes.len();
            file.resize(file.len().max(range.end), 0);
            file[range].copy_from_slice(bytes);
            Ok(())
        })?;
        file.resize(length as usize, 0);
        Ok(file)
    }

    fn directory_entry(&self) -> Vec<u8> {
        let mut bytes = vec![0; entry::BYTES];
        put(&mut bytes, entry::TABLE_OFFSET, &(self.table * self.cluster()).to_be_bytes());
        put(&mut bytes, entry::TABLE_ENTRIES, &(self.table_entries as u32).to_be_bytes());
        bytes[entry::TYPE] = spec::TYPE_DIRTY_TRACKING;
        bytes[entry::GRANULARITY_BITS] = self.geometry.granularity() as u8;
        put(&mut bytes, entry::NAME_BYTES, &(self.name.len() as u16).to_be_bytes());
        bytes.extend(&self.name);
        bytes.resize(directory_bytes(&self.name), 0);
        bytes
    }

    fn header(&self) -> Vec<u8> {
        let fixed = Fixed {
            cluster_bits: self.cluster_bits,
            size: self.geometry.len(),
            l1: L1_TABLE,
            l1_entries: self.l1_entries,
            refcount_table: REFCOUNT_TABLE,
            refcount_table_clusters: 1,
        };
        let mut bytes = fixed.bytes();
        put(&mut bytes, header::AUTOCLEAR, &spec::AUTOCLEAR_BITMAPS.to_be_bytes());
        bytes.extend(spec::EXTENSION_BITMAPS.to_be_bytes());
        bytes.extend((extension::BYTES as u32).to_be_bytes());
        let mut data = [0; extension::BYTES];
        put(&mut data, extension::COUNT, &1u32.to_be_bytes());
        put(&mut data, extension::DIRECTORY_SIZE, &(directory_bytes(&self.name) as u64).to_be_bytes());
        put(&mut data, extension::DIRECTORY_OFFSET, &(self.directory * self.cluster()).to_be_bytes());
        bytes.extend(data);
        // The end of the extensions: a type and a length of 0.
        bytes.extend([0; spec::EXTENSION_HEAD]);
        bytes
    }
}

/// What the headers of all files here have in common; tables by the numbers of their first clusters.
pub(super) struct Fixed {
    pub cluster_bits: u32,
    pub size: u64,
    pub l1: u64,
    pub l1_entries: u64,
    pub refcount_table: u64,
    pub refcount_table_clusters: u64,
}

impl Fixed {
    /// The header without extensions.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; spec::HEADER_BYTES];
        put(&mut bytes, 0, &spec::MAGIC);
        put(&mut bytes, header::VERSION, &spec::VERSION.to_be_bytes());
        put(&mut bytes, header::CLUSTER_BITS, &self.cluster_bits.to_be_bytes());
        put(&mut bytes, header::SIZE, &self.size.to_be_bytes());
        put(&mut bytes, header::L1_ENTRIES, &(self.l1_entries as u32).to_be_bytes());
        put(&mut bytes, header::L1_OFFSET, &(self.l1 << self.cluster_bits).to_be_bytes());
        put(&mut bytes, header::REFCOUNT_TABLE_OFFSET, &(self.refcount_table << self.cluster_bits).to_be_bytes());
        put(&mut bytes, header::REFCOUNT_TABLE_CLUSTERS, &(self.refcount_table_clusters as u32).to_be_bytes());
        put(&mut bytes, header::REFCOUNT_ORDER, &spec::REFCOUNT_ORDER.to_be_bytes());
        put(&mut bytes, header::HEADER_LENGTH, &(spec::HEADER_BYTES as u32).to_be_bytes());
        bytes
    }
}

/// Entries of the L1 table of a disk of `len` bytes: each for a cluster of 8-byte entries, each of those for a cluster.
pub(super) fn l1_entries(len: u64, cluster_bits: u32) -> u64 {
    len.div_ceil(1 << (2 * cluster_bits - spec::TABLE_ENTRY.ilog2()))
}

/// Bytes of the directory: of its one entry.
fn directory_bytes(name: &[u8]) -> usize {
    (entry::BYTES + name.len()).next_multiple_of(spec::PADDING)
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Sets, in a buffer for bits `of` as [`Plan::write`] hands out, those of `bits` that are in it.
pub fn set_bits(buffer: &mut [u8], of: &Range<u64>, bits: Range<u64>) {
    let (start, end) = (bits.start.max(of.start), bits.end.min(of.end));
    if start >= end {
        return;
    }
    let (start, end) = (start - of.start, end - of.start);
    let (first, last) = ((start / 8) as usize, (end / 8) as usize);
    let (head, tail) = (0xff_u8 << (start % 8), !(0xff_u8 << (end % 8)));
    if first == last {
        buffer[first] |= head & tail;
        return;
    }
    buffer[first] |= head;
    buffer[first + 1..last].fill(0xff);
    if tail != 0 {
        buffer[last] |= tail;
    }
}
