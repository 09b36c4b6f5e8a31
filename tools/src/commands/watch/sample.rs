//! What is looked at, and what was seen.
//!
//! Invariant kept here: a map is not kept open between two looks: whoever wants it alone may have it.

use crate::control::{Client, DiskStatus, Latency, Request, RequestStatus, Status, is_socket};
use crate::exit::Result;
use crate::map::open;
use crate::terminal::output::Output;
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One look; docs/cli.md describes the fields.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Since the first look.
    pub seconds: f64,
    pub disks: Vec<Seen>,
}

/// What was seen of one disk. What only a server knows is null of a map.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    pub name: String,
    pub size: u64,
    pub dirty_bytes: u64,
    /// Since the look before; null at the first one.
    pub dirty_bytes_per_second: Option<f64>,
    pub armed_bytes: u64,
    pub intent_bytes: u64,
    pub checkpoint: Option<String>,
    /// Dirty bytes in parts of equal length.
    pub areas: Vec<u64>,
    pub connections: Option<usize>,
    pub reads: Option<Rates>,
    pub writes: Option<Rates>,
}

/// Requests of a kind since the look before.
#[derive(Clone, Debug, Serialize)]
pub struct Rates {
    pub requests_per_second: f64,
    pub bytes_per_second: f64,
    /// In seconds: a bound that 99 of 100 took no longer than; null if there were none, or they took longer than all bounds.
    pub p99: Option<f64>,
}

/// Where looks come from.
pub struct Source {
    place: Place,
    begun: Instant,
    before: Option<(Instant, Vec<DiskStatus>)>,
}

enum Place {
    Map { path: PathBuf, wait: Duration, output: Output },
    Server(Client),
}

impl Source {
    /// A map, or the control socket of a server.
    pub fn open(path: &Path, wait: Duration, output: Output) -> Result<Source> {
        let place = if is_socket(path) {
            Place::Server(Client::connect(path)?.telling(output))
        } else {
            Place::Map { path: path.to_path_buf(), wait, output }
        };
        Ok(Source { place, begun: Instant::now(), before: None })
    }

    pub fn look(&mut self) -> Result<Sample> {
        let disks = match &mut self.place {
            Place::Server(client) => client.ask::<Status>(&Request::Status {})?.disks,
            Place::Map { path, wait, output } => {
                let seen = look_at(path, *wait, *output)?;
                // What was recovered in memory was said.
                *output = output.without_notes();
                vec![seen]
            }
        };
        let now = Instant::now();
        let from_map = matches!(self.place, Place::Map { .. });
        let seconds = match &self.before {
            Some(_) => now.duration_since(self.begun).as_secs_f64(),
            None => {
                self.begun = now;
                0.0
            }
        };
        let before = self.before.as_ref();
        let seen = disks.iter().map(|disk| {
            let then = before.and_then(|(at, disks)| {
                let then = disks.iter().find(|then| then.export == disk.export)?;
                Some((now.duration_since(*at).as_secs_f64(), then))
            });
            Seen::of(disk, then, from_map)
        });
        let sample = Sample { seconds, disks: seen.collect() };
        self.before = Some((now, disks));
        Ok(sample)
    }
}

/// A map as a server would tell of it.
fn look_at(path: &Path, wait: Duration, output: Output) -> Result<DiskStatus> {
    let (map, _) = open::for_reading(path, wait, output)?;
    let seen = DiskStatus { export: shown(path).to_string(), ..DiskStatus::of_map(&map)? };
    map.verify_session()?;
    Ok(seen)
}

impl Seen {
    fn of(disk: &DiskStatus, then: Option<(f64, &DiskStatus)>, from_map: bool) -> Seen {
        let rates = |kind: fn(&DiskStatus) -> &RequestStatus| {
            let (seconds, then) = then.filter(|(seconds, _)| *seconds > 0.0 && !from_map)?;
            let (then, now) = (kind(then), kind(disk));
            let counts =
                now.latency.counts.iter().zip(&then.latency.counts).map(|(now, then)| now.saturating_sub(*then));
            let latency = Latency { sum: 0.0, counts: counts.collect() };
            Some(Rates {
                requests_per_second: now.requests.saturating_sub(then.requests) as f64 / seconds,
                bytes_per_second: now.bytes.saturating_sub(then.bytes) as f64 / seconds,
                p99: latency.quantile(0.99).map(|bound| bound.as_secs_f64()),
            })
        };
        let grown = |(seconds, then): (f64, &DiskStatus)| {
            (seconds > 0.0).then(|| (disk.dirty_bytes as f64 - then.dirty_bytes as f64) / seconds)
        };
        Seen {
            name: disk.export.clone(),
            size: disk.size,
            dirty_bytes: disk.dirty_bytes,
            dirty_bytes_per_second: then.and_then(grown),
            armed_bytes: disk.armed_bytes,
            intent_bytes: disk.intent_bytes,
            checkpoint: disk.checkpoint.clone(),
            areas: disk.areas.clone(),
            connections: (!from_map).then_some(disk.connections),
            reads: rates(|disk| &disk.requests.read),
            writes: rates(|disk| &disk.requests.write),
        }
    }
}
