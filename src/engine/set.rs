//! `set` off its fast path, and arming: naming words in a durable header before their bits are set.
//!
//! Invariant kept here: `armed[w]` is set only under the update lock and after a header that lists
//! *w* is durable (rule 1), and a setter looks at it again after its store (rule 2).

use super::core::{Core, Locked, Update};
use super::intent_set::IntentSet;
use super::round::{Keep, covered, those};
use crate::error::Result;
use crate::format::Durability;
use crate::format::{Header, MAX_LIST, SLOTS, WordRanges};
use crate::geometry::{PAGE_WORDS, mask_in, words_of};
use crate::hierarchy::{Shared, WordsMut};
use crate::progress::Step;
use crate::shm::runtime;
use crate::shm::space::{CHUNK_WORDS, Place};
use crate::shm::view::flag;
use crate::trace::event;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// Most ranges announced at once. What a list has room for is more.
pub(super) const ANNOUNCED: usize = 128;
/// Most ranges of requests that wait for whoever arms next.
const MOST_WAITING: usize = 8 * ANNOUNCED;
/// Words of a long range that are armed together, and flushed together when there is no room for more: 8 MiB of the bottom.
const PIECE_WORDS: u64 = 1 << 20;

impl Core {
    /// Whether a bit is set and durable, so that nothing is left to do.
    #[inline]
    pub(crate) fn is_durable(&self, bit: u64) -> bool {
        flag(self.view.durable(), bit)
    }

    /// Marks a range of items; says how many bits were clear here, as all of these do.
    #[inline(never)]
    pub(crate) fn set_range(&self, range: Range<u64>) -> Result<u64> {
        self.geometry().check(&range)?;
        self.set_bits(self.geometry().touched(&range))
    }

    /// Marks one bit.
    pub(crate) fn set_bit(&self, bit: u64) -> Result<u64> {
        let (mut new, w) = (0, bit / 64);
        let done = self.set_word(w, 1 << (bit % 64), w + 1, &mut new);
        if new != 0 {
            self.changes.mark(bit..bit + 1);
        }
        match done {
            // Not `done`: an error is large, and nothing of it need be copied where there is none.
            Ok(()) => Ok(u64::from(new != 0)),
            Err(e) => Err(e),
        }
    }

    /// Marks a range of bits. One load per word for those that are durable already.
    #[inline]
    pub(crate) fn set_bits(&self, bits: Range<u64>) -> Result<u64> {
        match self.first_not_durable(bits.clone()) {
            Some(w) => self.set_from(w, bits),
            None => Ok(0),
        }
    }

    /// The first word that has some of these bits not set and durable.
    #[inline]
    fn first_not_durable(&self, bits: Range<u64>) -> Option<u64> {
        let durable = self.view.durable();
        words_of(bits).find(|&(w, mask)| durable[w as usize].load(SeqCst) & mask != mask).map(|(w, _)| w)
    }

    /// Marks several ranges of bits, of which the first word that is not armed has all armed together.
    pub(crate) fn set_ranges(&self, ranges: &[Range<u64>]) -> Result<u64> {
        if let [one] = ranges {
            return self.set_bits(one.clone());
        }
        let mut changed = 0;
        for some in ranges.chunks(ANNOUNCED) {
            for (i, bits) in some.iter().enumerate() {
                // Again, where what was armed with the first has left the list since.
                let announced = if i == 0 || self.is_cold(bits) { self.cold(&some[i..]) } else { Vec::new() };
                self.announcing(&announced, || {
                    changed += self.set_bits(bits.clone())?;
                    Ok(())
                })?;
            }
        }
        Ok(changed)
    }

    /// Whether the first word that has some of these bits not set and durable has to be armed for them.
    fn is_cold(&self, bits: &Range<u64>) -> bool {
        let first = self.first_not_durable(bits.clone());
        first.is_some_and(|w| !self.view.armed()[w as usize].load(SeqCst) & mask_in(w, bits) != 0)
    }

    /// The words of some ranges from the first on that has bits which are not set and durable.
    fn cold(&self, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        let cold = |bits: &Range<u64>| Some(self.first_not_durable(bits.clone())?..bits.end.div_ceil(64));
        ranges.iter().filter_map(cold).collect()
    }

    /// Has whoever arms next arm what these ranges need as well.
    pub(super) fn announce(&self, ranges: &[Range<u64>]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Of requests that were given up something may be left until the next arming: a hint, which is not to grow.
        let room = MOST_WAITING.saturating_sub(waiting.len());
        waiting.extend(self.cold(ranges).into_iter().take(room));
    }

    /// Marks several ranges of bits if that needs no arming. Otherwise some of them may be marked: nothing is owed for those.
    pub(super) fn try_set_ranges(&self, ranges: &[Range<u64>]) -> bool {
        let durable = self.view.durable();
        ranges.iter().all(|bits| {
            let mut new = 0;
            let done = words_of(bits.clone()).all(|(w, mask)| {
                durable[w as usize].load(SeqCst) & mask == mask
                    || self.view.armed()[w as usize].load(SeqCst) & mask == mask && self.set_armed(w, mask, &mut new)
            });
            if new != 0 {
                self.changes.mark(bits.clone());
            }
            done
        })
    }

    /// Sets what lies in some words, which are announced as if threads waited for them: the first one that is not armed has
    /// them armed together, as far as the bound and the list have room.
    pub(super) fn announcing(&self, words: &[Range<u64>], set: impl FnOnce() -> Result<()>) -> Result<()> {
        if words.is_empty() {
            return set();
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(words);
        let done = set();
        // Whoever armed them has taken them out, unless there was no room or nothing to arm.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|range| !words.contains(range));
        done
    }

    /// The same, from word `first` on: those before are durable.
    #[cold]
    fn set_from(&self, first: u64, bits: Range<u64>) -> Result<u64> {
        let mut changed = 0;
        let done = self.set_words(first, bits.clone(), &mut changed);
        // Also after an error: what was set before it is set.
        if changed != 0 {
            self.changes.mark(bits);
        }
        done.map(|()| changed)
    }

    /// Marks bits from word `first` on, and adds to `changed` how many were clear, which the caller has to
    /// [mark](super::changes). Piece by piece: so what is flushed at once, and the memory that takes, are bounded.
    pub(super) fn set_words(&self, first: u64, bits: Range<u64>, changed: &mut u64) -> Result<()> {
        let durable = self.view.durable();
        let end = bits.end.div_ceil(64);
        for from in (first..end).step_by(PIECE_WORDS as usize) {
            if from != first {
                self.tell(Step::Setting, from)?;
            }
            let to = (from + PIECE_WORDS).min(end);
            for (w, mask) in words_of(bits.start.max(from * 64)..bits.end.min(to * 64)) {
                if durable[w as usize].load(SeqCst) & mask != mask {
                    let mut new = 0;
                    let done = self.set_word(w, mask, to, &mut new);
                    *changed += u64::from(new.count_ones());
                    done?;
                }
            }
        }
        Ok(())
    }

    /// Sets the bits of one word, and adds those that were clear to `changed`, which the caller has to
    /// [mark](super::changes). `end` is the word behind the last one that the caller will need.
    #[inline]
    pub(super) fn set_word(&self, w: u64, mask: u64, end: u64, changed: &mut u64) -> Result<()> {
        loop {
            if self.view.armed()[w as usize].load(SeqCst) & mask != mask
                && let Err(e) = self.arm(w..end, mask)
            {
                return step!(ReturnArmError => Err(e));
            }
            if self.set_armed(w, mask, changed) {
                return Ok(());
            }
        }
    }

    /// The same of bits that were seen armed; `false` if they are not armed any more, and so nothing covers them.
    #[inline]
    fn set_armed(&self, w: u64, mask: u64, changed: &mut u64) -> bool {
        sync_point!(SeenArmed);
        twin!(StoreThenMark => {
            self.view.mark_unflushed(w);
            sync_point!(Touched);
        });
        let old = self.view.live()[w as usize].fetch_or(mask, SeqCst);
        *changed |= mask & !old;
        sync_point!(Stored);
        if old & mask != mask || step!(SummariseAlways => true) {
            self.view.levels().summarise(w);
        }
        step!(StoreThenMark => step!(MarkUnflushed => self.view.mark_unflushed(w)));
        sync_point!(Touched);
        // A flush may have taken the word off the list between the look at armed and the store. If it is
        // still armed now, that flush is yet to come, and will find the word touched.
        !step!(RecheckArmed => self.view.armed()[w as usize].load(SeqCst) & mask != mask)
    }

    /// Makes sure that some bits of the first wanted word are armed, and the others if they have to be listed for that or are not
    /// covered. They may be more than the bound, which is on dirt that nobody asked for.
    #[cold]
    fn arm(&self, wanted: Range<u64>, mask: u64) -> Result<()> {
        self.counters.slow_sets.fetch_add(1, Relaxed);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(wanted.clone());
        let armed = self.arm_waiting(wanted.clone(), mask);
        // Whoever armed it has taken it out, unless nobody did.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|range| *range != wanted);
        armed
    }

    fn arm_waiting(&self, wanted: Range<u64>, mask: u64) -> Result<()> {
        let Some((mut lock, ahead)) = self.lock_to_arm(&wanted, mask)? else {
            return Ok(()); // Another thread or process has armed it.
        };
        let (mut header, intent) = lock.header_and_intent()?;
        let intent = intent.as_deref();
        let cover = covered(&header.runs, intent, wanted.start);
        if self.view.armed()[wanted.start as usize].load(SeqCst) & cover & mask == mask {
            return Ok(()); // Somebody armed it for us while we waited.
        }
        let bound = self.list_bound(intent);
        let mut add = self.select(&header, (&wanted, ahead), bound);
        if add.iter().try_for_each(|run| lock.allocate(run.range())).is_err() {
            // There is no space for what others wait for, or for what lies ahead: they are told themselves.
            add = WordRanges::one(wanted.start..wanted.end.min(self.geometry().words()));
            add.iter().try_for_each(|run| lock.allocate(run.range()))?;
        }

        let mut listed = unlisted(&add, intent, (wanted.start, mask & !cover));
        if listed.encoded_len() > MAX_LIST / 4 {
            // The intent cuts it into too many runs. Naming what is covered as well only adds dirt.
            listed = add.clone();
        }
        if !self.fits(&header.runs, &listed, bound) {
            // Leaves room for what was chosen, or an empty list.
            header = lock.flush_to(Keep::Room(listed.words()), None)?;
        }
        let rewrites = self.unfinished_words(&header.runs, intent, &add);
        let words = || add.iter().flat_map(|run| run.range());
        twin!(ListThenArm => self.arm_covered(words(), &add, None));
        let mut list = header.runs.clone();
        list.union(&listed);
        if list != header.runs {
            header.runs = list;
            lock.commit(&mut header)?;
            self.counters.arms.fetch_add(1, Relaxed);
            event!(DEBUG, "armed", words = add.words(), listed = header.runs.words(), runs = header.runs.len());
        }
        sync_point!(Listed);
        for (i, mask) in rewrites {
            step!(MarkUnfinished => Shared(self.view.unflushed()).or(i, mask));
        }
        sync_point!(LeftTouched);
        self.arm_covered(words(), &header.runs, intent);
        lock.state.lately.armed(&listed);
        Ok(())
    }

    /// Words that are covered and not armed: left by a flush that died or failed after it had disarmed and
    /// untouched them. Once they are armed again nothing else tells that they must be redone, so the caller
    /// touches them first (found by the model with two flushers, docs/verification-models.md).
    fn unfinished_words(&self, list: &WordRanges, intent: Option<&IntentSet>, add: &WordRanges) -> Vec<(usize, u64)> {
        if self.durability == Durability::Process {
            return Vec::new(); // A flush of such a map disarms nothing.
        }
        let mut rewrites = Vec::new();
        let unarmed = |w| covered(list, intent, w) & !self.view.armed()[w as usize].load(SeqCst) != 0;
        for (i, mask) in add.iter().flat_map(|run| words_of(run.range())) {
            let left = those((i, mask), unarmed);
            if left != 0 {
                rewrites.push((i as usize, left));
            }
        }
        rewrites
    }

    fn fits(&self, list: &WordRanges, add: &WordRanges, bound: u64) -> bool {
        if self.durability == Durability::Process {
            return true;
        }
        let mut all = list.clone();
        all.union(add);
        // A quarter of the room is left to flushes, which list what was reset and not set.
        all.encoded_len() <= MAX_LIST / 4 * 3 && !step!(BoundList => all.words() > bound)
    }

    /// What to arm: the caller's words, those that other threads and processes wait for, and words ahead of a
    /// writer that goes through the map in order; within the bound.
    fn select(&self, header: &Header, (wanted, ahead): (&Range<u64>, u64), bound: u64) -> WordRanges {
        let words = self.geometry().words();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.durability == Durability::Process {
            // Everything is listed: arming only means that the space is allocated.
            waiting.clear();
            let chunks = wanted.start / CHUNK_WORDS..wanted.end.div_ceil(CHUNK_WORDS);
            return WordRanges::one(chunks.start * CHUNK_WORDS..(chunks.end * CHUNK_WORDS).min(words));
        }
        let own = wanted.start..wanted.end.min(words);
        let room = bound.max(own.end - own.start);
        let fits = |words: &WordRanges| words.words() <= room && words.encoded_len() <= MAX_LIST / 4;
        // Also once more the caller's own, and what is listed.
        let new = |range: &Range<u64>| *range != *wanted && !header.runs.contains(range.start);
        let others = self.wanted_by_others().into_iter().filter(new);
        let mut add: WordRanges = others.chain([own.clone()]).collect();
        if !fits(&add) {
            add = WordRanges::one(own.clone());
        }
        waiting.retain(new);
        let mut some = waiting.len();
        add = loop {
            let all: WordRanges = waiting[..some].iter().cloned().chain(add.iter().map(|run| run.range())).collect();
            if some == 0 || fits(&all) {
                break all;
            }
            some /= 2;
        };
        // What has no room waits for whoever arms next, as nothing else says that it is wanted; but for what has none at all.
        let done = some.max(1).min(waiting.len());
        waiting.drain(..done);
        if ahead > 0 && add.words() + ahead <= room {
            add.union(&WordRanges::one(own.end..(own.end + ahead).min(words)));
        }
        add
    }

    /// Words that other processes of the session wait to have armed. They are named once.
    fn wanted_by_others(&self) -> Vec<Range<u64>> {
        let take = |slot| {
            let wanted = self.view.runtime().get(runtime::wanted(slot))?;
            let taken = if wanted.load(SeqCst) == 0 { 0 } else { wanted.fetch_and(0, SeqCst) };
            Some(runtime::unpack_wanted(taken, self.geometry().words())).filter(|words| !words.is_empty())
        };
        let others = (0..SLOTS).filter(|&slot| self.shared && slot != self.slot);
        others.filter_map(take).collect()
    }
}

/// Which words have to be listed, so that some are covered: not those of which the intent covers all, and the first one only if
/// it lacks something there.
fn unlisted(words: &WordRanges, intent: Option<&IntentSet>, (first, lacks): (u64, u64)) -> WordRanges {
    let Some(intent) = intent else { return words.clone() };
    let uncovered = |&w: &u64| if w == first { lacks != 0 } else { !intent.covers(w) };
    words.iter().flat_map(|run| run.range()).filter(uncovered).collect()
}

impl Update {
    /// How many words to arm ahead, at most `bound`: none for a writer seen for the first time, and four times as many each time
    /// it needs the word behind what was armed for it last.
    pub(super) fn ahead_of(&mut self, own: &Range<u64>, bound: u64) -> u64 {
        let known = self.streams.iter().position(|&(next, _)| next == own.start && next != 0);
        let (slot, ahead) = match known {
            Some(i) => (i, (self.streams[i].1 * 4).clamp(1, bound.max(1))),
            None => {
                let i = self.next_stream;
                self.next_stream = (i + 1) % self.streams.len();
                (i, 0)
            }
        };
        let ahead = ahead.min(bound);
        self.streams[slot] = (own.end + ahead, ahead);
        ahead
    }
}

impl Locked<'_> {
    /// Allocates the volatile space behind some words, so that storing there cannot fail for want of space.
    pub(crate) fn allocate(&mut self, words: Range<u64>) -> Result<()> {
        let core = self.core;
        if !core.in_file {
            return Ok(()); // Its volatile part is in no file.
        }
        twin!(AllocateFirst => return Ok(()));
        let place = Place { layout: &core.layout, geometry: core.geometry() };
        self.state.allocated.ensure(core.file(), place, Some(&core.view), words)
    }
}

// A page's words are the bits of one word of the armed and touched arrays.
const _: () = assert!(PAGE_WORDS == 64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, DirtyMap, Options};

    /// As two processes have it.
    fn two() -> (tempfile::TempDir, DirtyMap, DirtyMap) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let shared = Options::new().access(Access::Shared).flush_interval(None);
        let first = shared.create(&path, 1 << 30).unwrap();
        let other = shared.open(&path).unwrap();
        (dir, first, other)
    }

    const WORD: u64 = 64 << 16;

    #[test]
    fn what_a_process_waits_for_is_armed_by_the_one_that_has_the_lock() {
        let (_dir, first, other) = two();
        let wanted = |map: &DirtyMap| map.engine().view.runtime()[runtime::wanted(map.engine().slot)].load(SeqCst);
        std::thread::scope(|threads| {
            let lock = first.engine().lock().unwrap();
            let waits = threads.spawn(|| other.set(3 * WORD..5 * WORD));
            let begun = std::time::Instant::now();
            while wanted(&other) == 0 {
                assert!(begun.elapsed().as_secs() < 20, "it says nothing");
                std::thread::yield_now();
            }
            assert_eq!(runtime::unpack_wanted(wanted(&other), 256), 3..5);
            drop(lock);
            waits.join().unwrap().unwrap();
        });
        assert_eq!((wanted(&first), wanted(&other)), (0, 0));
        first.engine().view.runtime()[runtime::wanted(other.engine().slot)]
            .store(runtime::pack_wanted(&(10..12)), SeqCst);
        first.set(9 * WORD..9 * WORD + 1).unwrap();
        let arms = other.stats().arms;
        other.set(10 * WORD..12 * WORD).unwrap();
        assert_eq!(other.stats().arms, arms, "it committed what was armed for it");
        assert_eq!(wanted(&other), 0, "it is armed once");
    }

    /// They find the word armed when they have the lock: only the one that armed it needs the next.
    #[test]
    fn threads_that_wait_for_the_same_word_are_no_writers_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let map = Options::new().flush_interval(None).create(dir.path().join("map"), 1 << 40).unwrap();
        let mut next = 0;
        while next < 1 << 12 {
            map.set(next * WORD..next * WORD + 1).unwrap();
            // As if others had looked before it was armed.
            for _ in 0..20 {
                assert!(map.engine().lock_to_arm(&(next..next + 1), 1).unwrap().is_none());
            }
            next += 1;
        }
        let arms = map.stats().arms;
        assert!(arms < (1 << 12) / 128 + 8, "{arms} arms");
    }

    #[test]
    fn what_finds_no_room_in_a_commit_is_armed_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let map = Options::new().flush_interval(None).create(dir.path().join("map"), 1 << 48).unwrap();
        let core = map.engine();
        let waits = |i: u64| i * 8000..i * 8000 + 1;
        core.waiting.lock().unwrap().extend((1..8192).map(waits));
        map.set(0..1).unwrap();
        let left = core.waiting.lock().unwrap().len();
        assert!((1..8000).contains(&left), "{left}");
        let last = waits(8191).start * WORD;
        map.set(last..last + 1).unwrap();
        assert!(core.waiting.lock().unwrap().is_empty());
        assert_eq!(map.stats().arms, 2);
        assert!((0..8192).all(|i| core.view.armed()[waits(i).start as usize].load(SeqCst) != 0));
    }

    #[test]
    fn what_has_left_the_list_before_it_was_set_is_armed_together_again() {
        use crate::testing::{SyncPoint, visit};
        let dir = tempfile::tempdir().unwrap();
        let map = Options::new().flush_interval(None).create(dir.path().join("map"), 1 << 40).unwrap();
        let core = map.engine().clone();
        let mut first = true;
        visit(Some(Box::new(move |at| {
            if at == SyncPoint::SeenArmed && std::mem::take(&mut first) {
                core.flush().unwrap();
            }
        })));
        let scattered: Vec<_> = (0..128).map(|i| i << 32..(i << 32) + 1).collect();
        let set = map.set_ranges(&scattered);
        visit(None);
        assert_eq!(set.unwrap(), 128);
        // All of them, the one that was being set, and the others.
        assert_eq!(map.stats().arms, 3);
    }

    #[test]
    fn words_that_the_map_has_not_are_wanted_for_nothing() {
        let (_dir, first, other) = two();
        let core = first.engine();
        for junk in [u64::MAX, 1 << 63, 5 << 24, (256 << 24) | 7, (250 << 24) | 100] {
            core.view.runtime()[runtime::wanted(other.engine().slot)].store(junk, SeqCst);
            assert!(
                core.wanted_by_others().iter().all(|words| words.start < words.end && words.end <= 256),
                "{junk:x}"
            );
        }
        assert_eq!(runtime::unpack_wanted(runtime::pack_wanted(&(7..1 << 30)), 1 << 36), 7..7 + (1 << 24) - 1);
    }
}
