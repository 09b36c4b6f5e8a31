//! Whether every reference of a file is as [`Writer`](super::Writer) makes it.
//!
//! Invariant kept here: what passes has no cluster that is used twice, out of order, not at all or behind the end, and a refcount
//! of 1 for each; that takes no memory, for each cluster has only one place where it can be.

use super::super::parse::read;
use super::super::spec;
use super::super::{Error, ReadAt, Result, be64};
use super::disk::{Disk, Extent};
use super::write::refcounts;
use std::fmt;

/// What a file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Clusters of data.
    pub data: u64,
    /// Clusters that read as zeros.
    pub zeros: u64,
}

/// Walks all references. `goes_on` is asked at each table whether to go on; where it says no, nothing is known.
///
/// # Errors
/// [`Error::Corrupt`] for the first that is not where it belongs; [`Error::Io`].
pub fn check<S: ReadAt>(disk: &Disk<S>, mut goes_on: impl FnMut() -> bool) -> Result<Option<Counted>> {
    let cluster = disk.cluster();
    let entries = cluster / spec::TABLE_ENTRY;
    let l1_entries = (disk.l1.end - disk.l1.start) / spec::TABLE_ENTRY;
    let at_home = |place: fmt::Arguments<'_>, found: u64, next: u64| {
        if found == next * cluster {
            return Ok(());
        }
        Err(Error::corrupt(
            place,
            format!("offset {found:#x}"),
            format!("{:#x}, where the next cluster is", next * cluster),
        ))
    };
    at_home(format_args!("L1 table"), disk.l1.start, 1)?;
    let mut next = 1 + (l1_entries * spec::TABLE_ENTRY).div_ceil(cluster);
    let mut counted = Counted::default();
    for index in 0..l1_entries {
        let l2 = disk.l2(index)?;
        if l2 == 0 {
            continue;
        }
        if !goes_on() {
            return Ok(None);
        }
        for c in index * entries..(index + 1) * entries {
            match disk.mapping(l2, c)? {
                Extent::Absent => {}
                Extent::Zeros => counted.zeros += 1,
                Extent::Data(offset) => {
                    at_home(format_args!("cluster {c} of the disk"), offset, next)?;
                    counted.data += 1;
                    next += 1;
                }
            }
            let behind = c >= disk.size().div_ceil(cluster);
            if behind && disk.mapping(l2, c)? != Extent::Absent {
                return Err(Error::corrupt(
                    format!("cluster {c} of the disk"),
                    "something",
                    "nothing: the disk ends before",
                ));
            }
        }
        at_home(format_args!("L2 table {index}"), l2, next)?;
        next += 1;
    }
    let (table, blocks) = refcounts(next, cluster);
    at_home(format_args!("refcount table"), disk.refcount_table.start, next)?;
    if disk.refcount_table.end - disk.refcount_table.start != table * cluster {
        let found = format!("a refcount table up to {:#x}", disk.refcount_table.end);
        return Err(Error::corrupt("qcow2 header", found, format!("{table} clusters of it")));
    }
    let total = next + table + blocks;
    if disk.source.size() != total * cluster {
        let expected = format!("{} for {total} clusters", total * cluster);
        return Err(Error::corrupt("file", format!("{} bytes", disk.source.size()), expected));
    }
    for block in 0..blocks {
        if !goes_on() {
            return Ok(None);
        }
        let entry = disk.refcount_table.start + block * spec::TABLE_ENTRY;
        let offset = be64(&read(&disk.source, "refcount table", entry..entry + spec::TABLE_ENTRY)?, 0);
        at_home(format_args!("refcount block {block}"), offset, next + table + block)?;
        let counts = read(&disk.source, "refcount block", offset..offset + cluster)?;
        let first = block * cluster / spec::REFCOUNT_BYTES;
        let right = |(i, count): (u64, &[u8])| count == u16::from(first + i < total).to_be_bytes();
        if let Some(wrong) = (0..).zip(counts.chunks_exact(2)).position(|counted| !right(counted)) {
            let place = format!("refcount of cluster {}", first + wrong as u64);
            return Err(Error::corrupt(place, "another one", "1 for each cluster of the file, else 0"));
        }
    }
    Ok(Some(counted))
}
