//! What a server says of itself: the answer to `status`; docs/cli.md describes the fields.
//!
//! Invariant kept here: client and server may be of two versions, so what is not known is passed over, and what came later has a
//! default.

use crate::files::storage::Layer;
use dirtymap::DirtyMap;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// Seconds since it began to serve.
    pub uptime: f64,
    pub read_only: bool,
    /// The name of the live snapshot, if there is one.
    pub snapshot: Option<String>,
    pub disks: Vec<DiskStatus>,
}

/// One of its disks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskStatus {
    pub export: String,
    pub image: String,
    /// What the image is, and what it lies on.
    #[serde(default)]
    pub storage: Vec<Layer>,
    pub map: String,
    /// Identity of the map.
    pub uuid: String,
    /// NBD connections that use it.
    pub connections: usize,
    pub size: u64,
    pub granule_bytes: u64,
    pub dirty_bytes: u64,
    /// See [`areas`].
    pub areas: Vec<u64>,
    pub armed_bytes: u64,
    pub intent_bytes: u64,
    /// The state of the outstanding checkpoint, if there is one.
    pub checkpoint: Option<String>,
    /// Names that are kept.
    pub points: Vec<String>,
    pub arms: u64,
    pub syncs: u64,
    pub flushes: u64,
    pub map_bytes_written: u64,
    pub waits: u64,
    /// Bytes that the live snapshot keeps of the disk.
    pub scratch_bytes: u64,
    pub requests: Requests,
}

impl DiskStatus {
    /// What its map says; the rest is empty.
    pub fn of_map(map: &DirtyMap) -> dirtymap::Result<DiskStatus> {
        let (info, stats) = (map.info()?, map.stats());
        Ok(DiskStatus {
            map: map.path().display().to_string(),
            uuid: info.uuid.to_string(),
            size: map.len(),
            granule_bytes: map.granule_bytes(),
            dirty_bytes: info.dirty.map_or_else(|| map.dirty_len(), |(_, bytes)| bytes),
            areas: areas(map)?,
            armed_bytes: info.armed_items,
            intent_bytes: info.intent_items,
            checkpoint: info.checkpoint.map(|checkpoint| checkpoint.state.name().into()),
            points: info.points.into_iter().map(|point| point.name).collect(),
            arms: stats.arms,
            syncs: stats.syncs,
            flushes: stats.flushes,
            map_bytes_written: stats.bytes_written,
            waits: stats.slow_sets,
            ..DiskStatus::default()
        })
    }
}

/// Where a map is dirty: bytes in dirty granules, of 64 parts of equal length; of fewer where there are fewer granules.
fn areas(map: &DirtyMap) -> dirtymap::Result<Vec<u64>> {
    let (bits, granule, len) = (map.geometry().bits(), map.granule_bytes(), map.len());
    let parts = bits.min(64);
    let start = |part: u64| (u128::from(bits) * u128::from(part) / u128::from(parts)) as u64;
    let of = |part: u64| {
        let bytes = start(part) * granule..start(part + 1).saturating_mul(granule).min(len);
        Ok((map.count_range(bytes.clone())?.saturating_mul(granule)).min(bytes.end - bytes.start))
    };
    (0..parts).map(of).collect()
}

/// Requests that reached the disk, by kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    pub read: RequestStatus,
    pub write: RequestStatus,
    pub flush: RequestStatus,
    pub trim: RequestStatus,
    pub zero: RequestStatus,
}

impl Requests {
    /// Each kind with its name.
    pub fn each(&self) -> [(&'static str, &RequestStatus); 5] {
        let Requests { read, write, flush, trim, zero } = self;
        [("read", read), ("write", write), ("flush", flush), ("trim", trim), ("zero", zero)]
    }
}

/// Requests of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestStatus {
    pub requests: u64,
    pub failed: u64,
    pub bytes: u64,
    pub latency: Latency,
}

/// How long requests took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// All together, in seconds.
    pub sum: f64,
    /// Requests that took at most [`Latency::bound`] of the place, and longer than that of the place before; in the last
    /// place those that took longer than all bounds.
    pub counts: Vec<u64>,
}

impl Latency {
    /// Places with a bound.
    pub const BOUNDS: usize = 20;

    /// The upper bound of a place: 16 µs, and twice as long from place to place, up to 8.4 seconds.
    pub fn bound(place: usize) -> Duration {
        Duration::from_micros(16 << place)
    }

    /// The place of a time.
    pub fn place(took: Duration) -> usize {
        (0..Self::BOUNDS).find(|place| took <= Self::bound(*place)).unwrap_or(Self::BOUNDS)
    }

    /// A bound that this part of the requests took no longer than; none if there were none, or they took longer than all
    /// bounds.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let all: u64 = self.counts.iter().sum();
        let wanted = (all as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        (place < Self::BOUNDS).then(|| Self::bound(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_has_its_place() {
        for place in 0..Latency::BOUNDS {
            let bound = Latency::bound(place);
            assert_eq!(Latency::place(bound), place);
            assert_eq!(Latency::place(bound + Duration::from_nanos(1)), place + 1);
        }
        assert_eq!(Latency::place(Duration::ZERO), 0);
        assert_eq!(Latency::place(Duration::MAX), Latency::BOUNDS);
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_place() {
        let mut counts = vec![0; Latency::BOUNDS + 1];
        assert_eq!(Latency { sum: 0.0, counts: counts.clone() }.quantile(0.5), None);
        (counts[0], counts[3]) = (99, 1);
        let latency = Latency { sum: 0.0, counts: counts.clone() };
        assert_eq!(latency.quantile(0.5), Some(Latency::bound(0)));
        assert_eq!(latency.quantile(0.99), Some(Latency::bound(0)));
        assert_eq!(latency.quantile(0.999), Some(Latency::bound(3)));
        counts[Latency::BOUNDS] = 1000;
        assert_eq!(Latency { sum: 0.0, counts }.quantile(0.5), None);
    }
}
