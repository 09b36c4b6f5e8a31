//! Whether every reference of a file is as [`Writer`](super::Writer) makes it.
//!
//! Invariant kept here: what passes has no cluster that is used twice, not at all or behind the end, and a refcount of 1 for each; that
//! takes no memory, for each cluster has only few places where it can be.

use super::super::parse::read;
use super::super::spec;
use super::super::{Error, ReadAt, Result, be64};
use super::disk::{Disk, Extent};
use super::write::{Shape, refcounts};
use std::fmt;
use std::ops::Range;

/// What a file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Clusters of data.
    pub data: u64,
    /// Clusters that read as zeros.
    pub zeros: u64,
}

/// Most stretches that a file's clusters are taken from side by side: one, and one more for each time that its writing was gone on with.
const MOST_RUNS: usize = 16;

/// Stretches of clusters that are in use. Each is taken from front to back; which comes next is open.
#[derive(Clone, Debug, Default)]
struct Runs(Vec<Range<u64>>);

impl Runs {
    /// Takes the next cluster of one, or the first of another one.
    fn take(&mut self, place: impl fmt::Display, cluster: u64) -> Result<()> {
        if let Some(run) = self.0.iter_mut().find(|run| run.end == cluster) {
            run.end += 1;
        } else if self.0.len() < MOST_RUNS {
            self.0.push(cluster..cluster + 1);
        } else {
            let next: Vec<String> = self.0.iter().map(|run| run.end.to_string()).collect();
            return Err(Error::corrupt(place, format_args!("cluster {cluster} of the file"), next.join(" or ")));
        }
        Ok(())
    }

    /// The first cluster behind them, if from `first` on they have every one, and once.
    fn end(mut self, first: u64) -> Result<u64> {
        self.0.sort_unstable_by_key(|run| run.start);
        self.0.iter().try_fold(first, |next, run| {
            let (found, expected) = (format!("{run:?} in use behind {next}"), "each in use once");
            if run.start == next { Ok(run.end) } else { Err(Error::corrupt("clusters of the file", found, expected)) }
        })
    }
}

/// Takes what one L2 table maps, and the table itself.
fn table<S: ReadAt>(disk: &Disk<S>, index: u64, l2: u64, runs: &mut Runs, counted: &mut Counted) -> Result<()> {
    let (cluster, entries) = (disk.cluster(), disk.cluster() / spec::TABLE_ENTRY);
    for c in index * entries..(index + 1) * entries {
        let found = disk.mapping(l2, c)?;
        match found {
            Extent::Absent => continue,
            Extent::Zeros => counted.zeros += 1,
            Extent::Data(offset) => {
                runs.take(format_args!("cluster {c} of the disk"), offset / cluster)?;
                counted.data += 1;
            }
        }
        if c >= disk.size().div_ceil(cluster) {
            let (place, expected) = (format_args!("cluster {c} of the disk"), "nothing: the disk ends before");
            return Err(Error::corrupt(place, "something", expected));
        }
    }
    runs.take(format_args!("L2 table {index}"), l2 / cluster)
}

/// What a writer that was stopped has left: the offsets of L2 tables, 0 for none, and the first cluster behind all that is in use.
#[derive(Debug)]
pub struct Left {
    pub(super) tables: Vec<u64>,
    pub(super) next: u64,
}

impl Left {
    /// Bytes of the file up to which anything is in use.
    pub fn bytes(&self, shape: &Shape) -> u64 {
        self.next * shape.cluster()
    }

    /// Finds it in an [unfinished](Disk::unfinished) file: as many tables, from the first on, as have every cluster up to the last of
    /// them in use, and once. What is in the clusters nobody knows. `None` if there is nothing that can be gone on with.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of<S: ReadAt>(disk: &Disk<S>, shape: &Shape) -> Result<Option<Left>> {
        let (mut runs, mut counted) = (Runs::default(), Counted::default());
        let (mut tables, mut left) = (Vec::new(), None);
        for index in 0..shape.l1_entries() {
            let before = counted.data;
            let taken = disk.l2(index).and_then(|l2| match l2 {
                0 => Ok(0),
                _ => table(disk, index, l2, &mut runs, &mut counted).map(|()| l2),
            });
            match taken {
                Err(e @ Error::Io { .. }) => return Err(e),
                // No table is written without data.
                Ok(l2) if l2 == 0 || counted.data > before => tables.push(l2),
                _ => break,
            }
            // Whoever goes on takes one more.
            if let Some(Ok(next)) = (1..MOST_RUNS).contains(&runs.0.len()).then(|| runs.clone().end(shape.first())) {
                left = Some((tables.len(), next));
            }
        }
        Ok(left.map(|(whole, next)| {
            tables.truncate(whole);
            Left { tables, next }
        }))
    }
}

/// Walks all references. `goes_on` is asked at each table whether to go on; where it says no, nothing is known.
///
/// # Errors
/// [`Error::Corrupt`] for one that is not where it belongs; [`Error::Io`].
pub fn check<S: ReadAt>(disk: &Disk<S>, mut goes_on: impl FnMut() -> bool) -> Result<Option<Counted>> {
    let cluster = disk.cluster();
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
    let (mut runs, mut counted) = (Runs::default(), Counted::default());
    for index in 0..l1_entries {
        let l2 = disk.l2(index)?;
        if l2 == 0 {
            continue;
        }
        if !goes_on() {
            return Ok(None);
        }
        table(disk, index, l2, &mut runs, &mut counted)?;
    }
    let next = runs.end(1 + (l1_entries * spec::TABLE_ENTRY).div_ceil(cluster))?;
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
