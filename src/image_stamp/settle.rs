//! When the times of a file count: a write that comes later must give it other ones.
//!
//! Invariant kept here: a stamp is exact only if it was the same one step of the file system's clock before, or its times
//! are older than a step by this machine's clock, and the file system takes its times from that.

use crate::format::{Stamp, StampKind};
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A few ticks of the kernel's clock, by which file systems tell the time unless theirs is coarser.
const TICKS: Duration = Duration::from_millis(25);
/// By how much the times step of file systems that keep no nanoseconds.
const SECOND: Duration = Duration::from_secs(1);
/// How many halves of a step are waited for a file to come to rest: enough for one that was written just now.
const PATIENCE: u32 = 5;
/// How long at most.
const LONGEST: Duration = Duration::from_millis(2500);

/// A stamp, and what is known of its times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Not exact.
    pub stamp: Stamp,
    /// The file system's times step by this much at least.
    pub coarse: Duration,
    /// They come from this machine's clock.
    pub own_clock: bool,
}

/// What tells the time, and lets it pass.
pub(super) trait Clock {
    /// Time that only goes forward, since the clock was made.
    fn elapsed(&mut self) -> Duration;
    /// Time since 1970, as this machine believes; `None` before.
    fn since_1970(&mut self) -> Option<Duration>;
    /// Waits.
    fn sleep(&mut self, time: Duration);
}

/// This machine's.
pub(super) struct System(Instant);

impl System {
    pub(super) fn new() -> System {
        System(Instant::now())
    }
}

impl Clock for System {
    fn elapsed(&mut self) -> Duration {
        self.0.elapsed()
    }

    fn since_1970(&mut self) -> Option<Duration> {
        SystemTime::now().duration_since(UNIX_EPOCH).ok()
    }

    fn sleep(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// How long it takes until a write gets other times for certain: a step of them, and what the kernel's clock lags behind.
fn step(seen: &Seen) -> Duration {
    // The kernel sets the change time: where that has no nanoseconds, the file system has none.
    let whole = seen.stamp.ctime_nanos == 0 && seen.stamp.mtime_nanos == 0;
    TICKS + seen.coarse.max(if whole { SECOND } else { Duration::ZERO })
}

/// Whether the times are older than a step by this machine's clock.
fn is_old(seen: &Seen, now: Option<Duration>) -> bool {
    let s = &seen.stamp;
    let Some(now) = now.filter(|_| seen.own_clock) else { return false };
    let older = |seconds: i64, nanos: u32| {
        let Ok(seconds) = u64::try_from(seconds) else { return true };
        Duration::new(seconds, nanos).checked_add(step(seen)).is_some_and(|next| next < now)
    };
    older(s.mtime_seconds, s.mtime_nanos) && older(s.ctime_seconds, s.ctime_nanos)
}

/// The stamp, exact if its times count already.
pub(super) fn at_once(seen: &Seen, clock: &mut impl Clock) -> Stamp {
    let file = seen.stamp.kind == StampKind::File;
    Stamp { exact: file && step!(SettleStamp => is_old(seen, clock.since_1970()), else true), ..seen.stamp }
}

/// Takes stamps until one is exact; gives up on a file that does not come to rest.
pub(super) fn settled(mut take: impl FnMut() -> io::Result<Seen>, clock: &mut impl Clock) -> io::Result<Stamp> {
    let mut seen = take()?;
    let mut since = clock.elapsed();
    loop {
        let stamp = at_once(&seen, clock);
        if stamp.exact || stamp.kind == StampKind::BlockDevice {
            return Ok(stamp);
        }
        let step = step(&seen);
        if since + step > (step * PATIENCE / 2).min(LONGEST) {
            return Ok(stamp);
        }
        clock.sleep(step);
        let waited = clock.elapsed() - since;
        let again = take()?;
        if again.stamp == seen.stamp && waited >= step {
            return Ok(Stamp { exact: true, ..stamp });
        }
        if again.stamp != seen.stamp {
            since = clock.elapsed();
        }
        seen = again;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    const NOW: Duration = Duration::from_secs(1_000_000);

    /// A clock that stands still but for sleeping.
    struct Still(Rc<Cell<Duration>>);

    impl Clock for Still {
        fn elapsed(&mut self) -> Duration {
            self.0.get()
        }

        fn since_1970(&mut self) -> Option<Duration> {
            Some(NOW + self.0.get())
        }

        fn sleep(&mut self, time: Duration) {
            self.0.set(self.0.get() + time);
        }
    }

    /// A file last written at `at` of the same clock, on a file system whose times step by `step`.
    fn written(at: Duration, step: Duration) -> Seen {
        let steps = (NOW + at).as_nanos() / step.as_nanos();
        let time = Duration::from_nanos((steps * step.as_nanos()) as u64);
        let (seconds, nanos) = (time.as_secs() as i64, time.subsec_nanos());
        let stamp = Stamp {
            mtime_seconds: seconds,
            mtime_nanos: nanos,
            ctime_seconds: seconds,
            ctime_nanos: nanos,
            ..Stamp::of(StampKind::File, 1)
        };
        Seen { stamp, coarse: Duration::ZERO, own_clock: true }
    }

    const MILLI: Duration = Duration::from_millis(1);

    /// Settles a file that is written at each of `writes`; gives the stamp, and the time that it took.
    fn settle(writes: &[Duration], step: Duration, own_clock: bool) -> (Stamp, Duration) {
        let now = Rc::new(Cell::new(Duration::from_secs(10)));
        let begun = now.get();
        let mut clock = Still(now.clone());
        // As the system's clock: what has passed since it was made.
        struct Since(Still, Duration);
        impl Clock for Since {
            fn elapsed(&mut self) -> Duration {
                self.0.elapsed() - self.1
            }
            fn since_1970(&mut self) -> Option<Duration> {
                self.0.since_1970()
            }
            fn sleep(&mut self, time: Duration) {
                self.0.sleep(time);
            }
        }
        let take = || {
            let last = writes.iter().copied().filter(|at| *at <= now.get()).max().unwrap_or_default();
            Ok(Seen { own_clock, ..written(last, step) })
        };
        clock.sleep(Duration::ZERO);
        let stamp = settled(take, &mut Since(clock, begun)).unwrap();
        (stamp, now.get() - begun)
    }

    #[test]
    fn an_old_file_is_settled_at_once_where_its_times_are_of_this_clock() {
        let old = [Duration::from_secs(5)];
        assert_eq!(settle(&old, MILLI, true), (Stamp { exact: true, ..written(old[0], MILLI).stamp }, Duration::ZERO));
        let (stamp, took) = settle(&old, MILLI, false);
        assert!(stamp.exact && took >= TICKS);
    }

    /// Whenever a write comes after an exact stamp was taken, it gives the file other times.
    #[test]
    pub(crate) fn a_later_write_never_leaves_an_exact_stamp_as_it_is() {
        for (step, own_clock) in
            [(MILLI, true), (10 * MILLI, true), (10 * MILLI, false), (SECOND, true), (SECOND, false)]
        {
            for written_at in [10_000, 9_999, 9_990, 9_950, 9_500, 9_001, 8_000] {
                let write = Duration::from_millis(written_at);
                let (stamp, took) = settle(&[write], step, own_clock);
                assert!(stamp.exact, "{step:?} {written_at}");
                let later = Duration::from_secs(10) + took;
                assert_ne!(
                    written(later, step).stamp,
                    Stamp { exact: false, ..stamp },
                    "{step:?} {written_at} {took:?}"
                );
            }
        }
    }

    #[test]
    fn a_file_that_is_written_all_the_time_has_no_exact_stamp_and_is_not_waited_for_long() {
        for step in [MILLI, SECOND] {
            let busy: Vec<Duration> = (0..20_000).map(Duration::from_millis).collect();
            let (stamp, took) = settle(&busy, step, true);
            assert!(!stamp.exact && took <= LONGEST, "{step:?}: {took:?}");
        }
    }

    #[test]
    fn a_block_device_has_no_times() {
        let device = Seen { stamp: Stamp::of(StampKind::BlockDevice, 1), coarse: Duration::ZERO, own_clock: true };
        let mut clock = Still(Rc::default());
        assert!(!settled(|| Ok(device), &mut clock).unwrap().exact);
        assert_eq!(clock.elapsed(), Duration::ZERO);
    }
}
