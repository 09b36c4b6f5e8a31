//! What was written since each kept name, as all connections of a disk ask for it.
//!
//! Invariant kept here: a set is used only if it and the map, together, had all of it at one moment while the client waited.
//! There is one of each name, however many connections there are, and none where there are no connections.

use dirtymap::{DirtyMap, ReadMap, Uuid, checkpoint::PointSet};
use dirtymap_nbd::Extents;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Changes whenever bits go from the map to a point, or points change.
type Moment = (Option<(Uuid, &'static str)>, Vec<Uuid>);

fn moment(map: &DirtyMap) -> dirtymap::Result<Moment> {
    let checkpoint = map.checkpoint()?.map(|checkpoint| (checkpoint.uuid, checkpoint.state.name()));
    Ok((checkpoint, map.points()?.into_iter().map(|point| point.uuid).collect()))
}

/// What was written since each name was kept, but for what is set in the map by now: of those names that were asked for at the
/// moment.
#[derive(Default)]
pub struct Since(Mutex<(Moment, HashMap<String, Arc<PointSet>>)>);

impl Since {
    /// Pushes what was written since a name.
    pub fn extents(&self, map: &DirtyMap, name: &str, range: Range<u64>, one: &mut Extents) -> dirtymap::Result<()> {
        loop {
            let at = moment(map)?;
            let set = self.set(map, name, &at)?;
            let mut found = one.clone();
            runs(range.clone(), &mut found, |range| {
                Ok([set.run(range.clone())?.unwrap_or((false, 0)), map.run(range)?.unwrap_or((false, 0))])
            })?;
            // Bits that went to a point meanwhile may be in neither.
            if moment(map)? == at {
                *one = found;
                return Ok(());
            }
        }
    }

    fn set(&self, map: &DirtyMap, name: &str, at: &Moment) -> dirtymap::Result<Arc<PointSet>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != *at {
            *known = (at.clone(), HashMap::new());
        }
        if let Some(set) = known.1.get(name) {
            return Ok(Arc::clone(set));
        }
        // One of a later moment has more, and not less.
        let set = map.since_set(name)?;
        known.1.insert(name.into(), Arc::clone(&set));
        Ok(set)
    }

    /// Nobody asks any more.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }
}

/// Pushes the runs of a range: where one of `states`, each as far as it goes, is dirty, it is dirty.
pub fn runs<const N: usize>(
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

#[cfg(test)]
mod tests {
    use super::*;
    use dirtymap::Options;

    #[test]
    fn a_set_is_there_once_for_all_and_only_of_its_moment() {
        let dir = tempfile::tempdir().expect("a directory");
        let map = Options::new().create(dir.path().join("map"), 1 << 20).expect("create");
        let keep = |name: &str| {
            let uuid = map.freeze(Some(name)).expect("freeze").uuid;
            map.commit_checkpoint(uuid, true).expect("commit");
        };
        keep("a");
        map.set(0..1).expect("set");
        keep("b");
        let since = Since::default();
        let dirty = |name: &str| {
            let mut extents = Extents::new(1 << 20, false);
            since.extents(&map, name, 0..1 << 20, &mut extents).expect("told");
            extents.into_list().iter().filter(|extent| extent.flags == 1).map(|extent| extent.length).sum::<u64>()
        };
        let sets = || since.0.lock().expect("no panic").1.len();
        assert_eq!((dirty("a"), dirty("a"), dirty("b"), sets()), (65536, 65536, 0, 2));
        map.set(1 << 19..(1 << 19) + 1).expect("set");
        // By a freeze it goes from the map to a point, of which those sets know nothing.
        map.freeze(None).expect("freeze");
        assert_eq!((dirty("b"), sets()), (65536, 1));
        since.forget();
        assert_eq!(sets(), 0);
    }
}
