//! One pass over bytes, piece by piece: it shows how far it is, is no faster than it may be, and ends when somebody wants the command to
//! stop.
//!
//! Invariant kept here: what ends it says what that means for the command, whichever has the bytes read.

use super::{progress, signals};
use crate::exit::Result;
use indicatif::ProgressBar;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many bytes a second may be read by all passes that share it.
#[derive(Clone, Debug)]
pub struct Rate(Arc<Limit>);

#[derive(Debug)]
struct Limit {
    bytes: NonZeroU64,
    begun: Instant,
    bucket: Mutex<Bucket>,
}

/// What may be read at once: as much as comes in a moment, and no more than that is saved up.
#[derive(Debug, Default)]
struct Bucket {
    /// When all that was taken has come in.
    due: Duration,
}

impl Bucket {
    const SAVED: Duration = Duration::from_millis(100);

    /// How long to wait at `now` before so many bytes are read.
    fn take(&mut self, now: Duration, bytes: u64, rate: NonZeroU64) -> Duration {
        let wait = self.due.saturating_sub(now);
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        let time = Duration::from_nanos(nanoseconds.try_into().unwrap_or(u64::MAX));
        self.due = self.due.max(now.saturating_sub(Bucket::SAVED)).saturating_add(time);
        wait
    }
}

impl Rate {
    /// So many bytes a second.
    pub fn new(bytes: NonZeroU64) -> Rate {
        Rate(Arc::new(Limit { bytes, begun: Instant::now(), bucket: Mutex::default() }))
    }

    /// Waits until so many bytes may be read, or somebody wants the command to stop.
    fn wait(&self, bytes: u64) {
        const LOOK: Duration = Duration::from_millis(50);
        let Limit { bytes: rate, begun, bucket } = &*self.0;
        let mut left = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(begun.elapsed(), bytes, *rate);
        while !left.is_zero() && !signals::requested() {
            let now = left.min(LOOK);
            std::thread::sleep(now);
            left -= now;
        }
    }
}

/// A pass over bytes.
#[derive(Debug)]
pub struct Pass {
    bar: ProgressBar,
    rate: Option<Rate>,
    stopped: &'static str,
}

impl Pass {
    /// `what` is done to `bytes`; `stopped`: what it means if that is not done to all of them.
    pub fn new(what: &'static str, bytes: u64, stopped: &'static str) -> Pass {
        Pass { bar: progress::bytes(what, bytes), rate: None, stopped }
    }

    /// One that shows nothing.
    pub fn silent(stopped: &'static str) -> Pass {
        Pass { bar: ProgressBar::hidden(), rate: None, stopped }
    }

    /// The same, no faster than that.
    pub fn at(mut self, rate: Option<&Rate>) -> Pass {
        if let Some(rate) = rate {
            progress::limited(&self.bar, rate.0.bytes.get());
        }
        self.rate = rate.cloned();
        self
    }

    /// Fails if somebody wants the command to stop.
    pub fn check(&self) -> Result<()> {
        signals::check(self.stopped)
    }

    /// The same, once so many bytes may be read.
    pub fn read(&self, bytes: u64) -> Result<()> {
        if let Some(rate) = &self.rate {
            rate.wait(bytes);
        }
        self.check()
    }

    /// So many more bytes are done with.
    pub fn inc(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_the_rate_and_a_moment_allow() {
        let rate = NonZeroU64::new(1 << 20).expect("a rate");
        let at = |millis| Duration::from_millis(millis);
        let mut bucket = Bucket::default();
        // A second each; the first may begin.
        assert_eq!(bucket.take(at(0), 1 << 20, rate), at(0));
        assert_eq!(bucket.take(at(0), 1 << 20, rate), at(1000));
        assert_eq!(bucket.take(at(1500), 1 << 19, rate), at(500));
        // What was not taken for long is not made up for.
        assert_eq!(bucket.take(at(60_000), 1 << 20, rate), at(0));
        assert_eq!(bucket.take(at(60_000), 0, rate), at(900));
        // Whatever is asked of it, and however fast or slow.
        assert_eq!(bucket.take(at(70_000), u64::MAX, NonZeroU64::MAX), at(0));
        assert_eq!(bucket.take(at(80_000), u64::MAX, NonZeroU64::MIN), at(0));
        assert!(bucket.take(at(90_000), u64::MAX, NonZeroU64::MIN) > Duration::from_secs(1 << 33));
        assert!(bucket.take(at(100_000), 1, NonZeroU64::MIN) > Duration::from_secs(1 << 34));
    }

    #[test]
    fn a_pass_that_waits_for_its_rate_is_stopped() {
        let pass = Pass::silent("half of it is done").at(Some(&Rate::new(NonZeroU64::MIN)));
        pass.read(u64::MAX).unwrap_or_else(|e| panic!("{e}"));
        signals::IN_TEST.set(true);
        let stopped = pass.read(1).expect_err("stopped");
        signals::IN_TEST.set(false);
        assert_eq!(stopped.message, "interrupted; half of it is done");
    }
}
