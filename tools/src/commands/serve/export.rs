//! A disk as one NBD connection sees it.
//!
//! Invariant kept here: the contexts of a connection stay as they were when it began. What one says is dirty is all that was
//! when the client asked.

use super::tracked::Tracked;
use dirtymap::{ReadMap, Uuid, checkpoint::PointSet};
use dirtymap_nbd::codec::values::allocation;
use dirtymap_nbd::{Backend, Extents, Failure, Features, Zeroes};
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

/// What QEMU's clients look for.
const DIRTY: &str = "qemu:dirty-bitmap:dirty";
/// Before the name that is kept.
const SINCE: &str = "qemu:dirty-bitmap:since:";

/// A disk for one connection.
pub struct Export {
    disk: Arc<Tracked>,
    /// The names that were kept at the beginning, each with what its points held when it was last asked.
    names: Vec<(String, Mutex<Option<Since>>)>,
}

/// What was written since a name was kept, but for what is set in the map by now.
struct Since {
    at: Moment,
    set: Arc<PointSet>,
}

/// Changes whenever bits go from the map to a point, or points change.
type Moment = (Option<(Uuid, &'static str)>, Vec<Uuid>);

impl Export {
    pub fn new(disk: Arc<Tracked>) -> Export {
        // Of a map that cannot be read, requests will fail.
        let names = disk.map.points().unwrap_or_default().into_iter();
        let names = names.map(|point| (point.name, Mutex::new(None))).collect();
        disk.connections.fetch_add(1, Relaxed);
        Export { disk, names }
    }

    fn moment(&self) -> dirtymap::Result<Moment> {
        let checkpoint = self.disk.map.checkpoint()?.map(|checkpoint| (checkpoint.uuid, checkpoint.state.name()));
        Ok((checkpoint, self.disk.map.points()?.into_iter().map(|point| point.uuid).collect()))
    }

    /// Tells what was written since a name, which is `set` and what is in the map.
    fn since(&self, context: usize, range: Range<u64>, one: &mut Extents) -> dirtymap::Result<()> {
        let map = &self.disk.map;
        let (name, kept) = &self.names[context];
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let at = self.moment()?;
            let set = match kept.take().filter(|since| since.at == at) {
                Some(since) => since.set,
                None => map.since_set(name)?,
            };
            let mut found = one.clone();
            runs(range.clone(), &mut found, |range| {
                Ok([set.run(range.clone())?.unwrap_or((false, 0)), map.run(range)?.unwrap_or((false, 0))])
            })?;
            // Bits that went to a point meanwhile may be in neither.
            if self.moment()? == at {
                *kept = Some(Since { at, set });
                *one = found;
                return Ok(());
            }
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.disk.connections.fetch_sub(1, Relaxed);
    }
}

/// Pushes the runs of a range: where one of `states`, each as far as it goes, is dirty, it is dirty.
fn runs<const N: usize>(
    mut range: Range<u64>,
    extents: &mut Extents,
    states: impl Fn(Range<u64>) -> dirtymap::Result<[(bool, u64); N]>,
) -> dirtymap::Result<()> {
    while !range.is_empty() {
        let states = states(range.clone())?;
        let longest = states.iter().filter(|(dirty, _)| *dirty).map(|(_, length)| *length).max();
        let clean = || states.iter().map(|(_, length)| *length).min().unwrap_or(0);
        let length = longest.unwrap_or_else(clean).clamp(1, range.end - range.start);
        if !extents.push(length, longest.is_some().into()) {
            break;
        }
        range.start += length;
    }
    Ok(())
}

impl Backend for Export {
    fn size(&self) -> u64 {
        self.disk.image.size()
    }

    fn features(&self) -> Features {
        self.disk.image.features()
    }

    fn contexts(&self) -> Vec<String> {
        let since = self.names.iter().map(|(name, _)| format!("{SINCE}{name}"));
        [allocation::NAME.into(), DIRTY.into()].into_iter().chain(since).collect()
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        self.disk.read(offset, into)
    }

    fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.disk.image.holes(range)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Failure> {
        self.disk.write(offset, data, fua)
    }

    fn flush(&self) -> Result<(), Failure> {
        self.disk.flush()
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), Failure> {
        self.disk.trim(offset, length, fua)
    }

    fn write_zeroes(&self, offset: u64, length: u64, how: Zeroes) -> Result<(), Failure> {
        self.disk.write_zeroes(offset, length, how)
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), Failure> {
        self.disk.image.cache(offset, length)
    }

    fn block_status(&self, context: usize, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        let range = offset..offset + length;
        let told = match context {
            0 => return self.disk.image.block_status(0, offset, length, extents),
            1 => runs(range, extents, |range| Ok([self.disk.map.run(range)?.unwrap_or((false, 0))])),
            _ => self.since(context - 2, range, extents),
        };
        Ok(told.map_err(io::Error::from)?)
    }
}
