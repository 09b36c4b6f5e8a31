//! What a disk has done so far.
//!
//! Invariant kept here: counting waits for nothing, and each request is counted once.

use crate::control::{Latency, RequestStatus, Requests};
use dirtymap_nbd::Failure;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Requests of a disk, by kind.
#[derive(Debug, Default)]
pub struct Counters {
    pub read: Counter,
    pub write: Counter,
    pub flush: Counter,
    pub trim: Counter,
    pub zero: Counter,
}

impl Counters {
    pub fn now(&self) -> Requests {
        Requests {
            read: self.read.now(),
            write: self.write.now(),
            flush: self.flush.now(),
            trim: self.trim.now(),
            zero: self.zero.now(),
        }
    }
}

/// Requests of one kind.
#[derive(Debug, Default)]
pub struct Counter {
    failed: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
    places: [AtomicU64; Latency::BOUNDS + 1],
}

impl Counter {
    /// Has a request of so many bytes done, and counts it.
    pub fn count<T>(&self, bytes: u64, request: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let begun = Instant::now();
        let done = request();
        let took = begun.elapsed();
        match &done {
            Ok(_) => self.bytes.fetch_add(bytes, Relaxed),
            Err(_) => self.failed.fetch_add(1, Relaxed),
        };
        self.nanos.fetch_add(took.as_nanos() as u64, Relaxed);
        self.places[Latency::place(took)].fetch_add(1, Relaxed);
        done
    }

    fn now(&self) -> RequestStatus {
        let counts: Vec<u64> = self.places.iter().map(|place| place.load(Relaxed)).collect();
        RequestStatus {
            requests: counts.iter().sum(),
            failed: self.failed.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            latency: Latency { sum: Duration::from_nanos(self.nanos.load(Relaxed)).as_secs_f64(), counts },
        }
    }
}
