//! One round through a server: a client writes, the server is killed; then a live snapshot is backed up while the client writes,
//! and the server is killed again in the middle.
//!
//! Invariant kept here: nothing is written between the last write that the reference has and the moment of the snapshot, so the
//! backup must equal the reference.

use super::guest::{Guest, Written};
use super::round::{Round, back_up, checked, owed, rng};
use super::server::Server;
use super::{Place, compare_files};
use crate::backup::Outcome;
use crate::exit::{Failure, Result};
use crate::rng::Rng;
use crate::terminal::output::Output;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// What a copy of the image is called that has every write.
pub const REFERENCE: &str = "reference.raw";

/// The server, and who writes.
pub struct Served {
    pub server: Server,
    pub guest: Guest,
    /// What was written since the moment of the last backup.
    pub since: Vec<Range<u64>>,
}

impl Served {
    pub fn round(&mut self, place: &Place, number: u32, seed: u64, output: Output) -> Result<Round> {
        let mut rng = rng(seed, number);
        let written = self.write_and_kill(place, &mut rng)?;
        if written.is_empty() && !self.guest.has_nothing() {
            return Err(Failure::new("writer-failed", format!("round {number}: nothing was written")));
        }
        self.guest.refer(&written)?;
        let recovery_ms = self.server.started_ms;
        let mut ranges = std::mem::take(&mut self.since);
        ranges.extend(written.iter().map(|one| one.range.clone()));
        let owed = owed(place, number, &ranges)?;
        let report = checked(place, number)?;
        let (backup, meanwhile, killed) = self.back_up_and_kill(place, &mut rng, output)?;
        let reference = place.dir().join(REFERENCE);
        compare_files(&reference, &place.target, &format!("round {number} backup and image as it was frozen"))?;
        self.guest.refer(&meanwhile)?;
        self.since = meanwhile.iter().map(|one| one.range.clone()).collect();
        Ok(Round {
            writes_meanwhile: meanwhile.len() as u64,
            killed_meanwhile: killed,
            ..Round::new(number, &ranges, (&report, recovery_ms), owed, backup)
        })
    }

    /// Has the guest write, and kills the server at a random moment; the guest goes on with the next one.
    fn write_and_kill(&mut self, place: &Place, rng: &mut Rng) -> Result<Vec<Written>> {
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let Served { server, guest, .. } = self;
        std::thread::scope(|scope| {
            let writes = scope.spawn(|| guest.write(&stop, &count));
            let enough = 1 + rng.below(150);
            while count.load(SeqCst) < enough && !writes.is_finished() {
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(Duration::from_micros(rng.below(20_000)));
            let killed = server.kill(place);
            stop.store(true, SeqCst);
            let written = writes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            killed.and(written)
        })
    }

    /// Backs up; once the snapshot is there the guest writes, and the server is killed. Also what was written, and whether the
    /// backup has survived the kill.
    fn back_up_and_kill(
        &mut self,
        place: &Place,
        rng: &mut Rng,
        output: Output,
    ) -> Result<(Outcome, Vec<Written>, bool)> {
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let Served { server, guest, .. } = self;
        let (done, written, killed) = std::thread::scope(|scope| {
            let backup = scope.spawn(|| back_up(place, output));
            while !server.has_snapshot() && !backup.is_finished() {
                std::thread::sleep(Duration::from_micros(200));
            }
            let mut killed = Ok(false);
            let writes = scope.spawn(|| guest.write(&stop, &count));
            if !backup.is_finished() {
                std::thread::sleep(Duration::from_micros(rng.below(10_000)));
                killed = server.kill(place).map(|()| !backup.is_finished());
            }
            let done = backup.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            stop.store(true, SeqCst);
            (done, writes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), killed)
        });
        let (killed, written) = (killed?, written?);
        match done {
            // This kernel cannot tell whether pages were lost, so the snapshot was dropped: no bit was.
            Err(failure) if failure.kind == "snapshot-gone" => {
                self.guest.refer(&written)?;
                Ok((back_up(place, output)?, Vec::new(), false))
            }
            done => Ok((done?, written, killed)),
        }
    }
}
