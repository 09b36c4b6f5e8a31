//! What a test knows of a map: what is owed, what may be dirty, and which points there are.

use crate::engine::round::Keep;
use crate::sim::*;
use std::sync::atomic::Ordering::Relaxed;

/// Sets of bits as the test keeps them, shared with those who act in between.
#[derive(Clone)]
pub(super) struct Truth(pub(super) Arc<Mutex<Bits>>);

#[derive(Clone)]
pub(super) struct Bits {
    /// How long the map is, in bits.
    pub(super) len: u64,
    /// How long it may be instead, after a change of length that went wrong.
    pub(super) or_len: Option<u64>,
    /// Set, and not reset since: must read dirty.
    pub(super) owed: Vec<bool>,
    /// May read dirty: owed, being set when something went wrong, or reset and not flushed since.
    pub(super) may: Vec<bool>,
    /// Of those: reset, and not flushed since.
    pub(super) unflushed: Vec<bool>,
    /// A caller has begun to set it, and has not reset it since: what else is dirty was added.
    pub(super) mine: Vec<bool>,
    /// The checkpoint that was begun and is not over.
    pub(super) checkpoint: Option<Checkpointed>,
    /// Set since it was frozen, and not reset since then.
    pub(super) since: Vec<bool>,
    /// The points that are kept, with what was frozen since then and before the next; and the one that is being dropped.
    pub(super) kept: Vec<(&'static str, Vec<bool>)>,
    pub(super) dropping: Option<&'static str>,
}

/// A checkpoint as the test knows it.
#[derive(Clone)]
pub(super) struct Checkpointed {
    pub(super) name: Option<&'static str>,
    /// What the point may hold.
    pub(super) may: Vec<bool>,
    /// Set while the freeze was under way: there or here, as it happens.
    pub(super) during: Vec<bool>,
    /// What it must hold: owed when the freeze began.
    pub(super) must: Vec<bool>,
    /// What of it callers had set, and not recovery.
    pub(super) mine: Vec<bool>,
    /// The freeze has not returned.
    pub(super) freezing: bool,
    /// The states that the file may be in.
    pub(super) states: &'static [CheckpointState],
}

impl Truth {
    pub(super) fn new() -> Truth {
        let none = vec![false; MOST as usize];
        let (len, or_len) = (BITS, None);
        let (owed, may, unflushed, mine, since) = (none.clone(), none.clone(), none.clone(), none.clone(), none);
        let (checkpoint, kept, dropping) = (None, Vec::new(), None);
        let bits = Bits { len, or_len, owed, may, unflushed, mine, checkpoint, since, kept, dropping };
        Truth(Arc::new(Mutex::new(bits)))
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Bits) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    pub(super) fn set(&self, bits: Range<u64>, core: &Core) -> bool {
        self.set_by(bits.clone(), || core.set_bits(bits))
    }

    /// Bits that an operation sets.
    pub(super) fn set_by<T>(
        &self,
        bits: impl Iterator<Item = u64> + Clone,
        set: impl FnOnce() -> crate::Result<T>,
    ) -> bool {
        self.with(|b| {
            for i in bits.clone() {
                (b.may[i as usize], b.mine[i as usize]) = (true, true);
                // Here, whatever becomes of an outstanding point; also if this is killed half-way.
                b.checkpoint.iter_mut().for_each(|c| c.during[i as usize] = true);
            }
        });
        let ok = set().is_ok();
        self.with(|b| {
            for i in bits {
                // Again: a flush may have come in between.
                (b.may[i as usize], b.mine[i as usize]) = (true, true);
                b.owed[i as usize] |= ok;
                b.since[i as usize] |= ok;
                if let Some(c) = b.checkpoint.as_mut().filter(|c| c.freezing) {
                    (c.may[i as usize], c.during[i as usize], c.mine[i as usize]) = (true, true, true);
                }
                // Also after an error: what was reset before may be set again, and a flush does not take that away.
                b.unflushed[i as usize] = false;
            }
        });
        ok
    }

    pub(super) fn reset(&self, bits: Range<u64>, core: &Core) {
        self.reset_by(bits.clone(), || core.reset_bits(bits));
    }

    pub(super) fn reset_all(&self, core: &Core) {
        let done = catch_unwind(AssertUnwindSafe(|| self.reset_by(0..core.geometry().bits(), || core.reset_all())));
        // What others have set in a commit of it may be reset with the rest, or not; also when it is killed.
        self.with(|b| (b.owed.fill(false), b.since.fill(false)));
        if let Err(end) = done {
            resume_unwind(end);
        }
    }

    /// Bits that an operation resets.
    pub(super) fn reset_by<T>(&self, bits: Range<u64>, reset: impl FnOnce() -> crate::Result<T>) {
        let mine = self.with(|b| {
            for i in bits.clone() {
                b.owed[i as usize] = false;
                b.since[i as usize] = false;
                b.unflushed[i as usize] = b.may[i as usize];
            }
            let mine = b.mine.clone();
            b.mine[bits.start as usize..bits.end as usize].fill(false);
            mine
        });
        let done = catch_unwind(AssertUnwindSafe(reset));
        if !matches!(done, Ok(Ok(_))) {
            // It may have reset nothing, and then no flush makes that durable; and what others had set is theirs still.
            self.still_mine(&mine);
            self.with(|b| bits.for_each(|i| b.unflushed[i as usize] = false));
        }
        if let Err(end) = done {
            resume_unwind(end);
        }
    }

    /// What was to be reset may be there still.
    pub(super) fn still_mine(&self, before: &[bool]) {
        self.with(|b| b.mine.iter_mut().zip(before).for_each(|(mine, before)| *mine |= before));
    }

    /// Dirt is added, as by a process that joins with another image.
    pub(super) fn add_dirt(&self, core: &Core) {
        let all = 0..core.geometry().bits() as usize;
        self.with(|b| {
            b.may[all.clone()].fill(true);
            b.unflushed[all.clone()].fill(false);
            b.checkpoint.iter_mut().for_each(|c| c.during[all.clone()].fill(true));
        });
        let _ = core.add_dirt(format::Reasons::IMAGE_CHANGED, || core.set_bits(0..core.geometry().bits()));
        self.with(|b| {
            b.may[all.clone()].fill(true);
            b.unflushed[all.clone()].fill(false);
            if let Some(c) = b.checkpoint.as_mut().filter(|c| c.freezing) {
                c.may[all].fill(true);
            }
        });
    }

    /// All that is dirty is copied and reset, but for what is in a point; and the backup is complete some time later.
    pub(super) fn back_up(&self, core: &Core) {
        if core.begin_backup(|_| ()).is_ok() {
            self.reset(0..core.geometry().bits(), core);
        }
    }

    /// Freezes, if nothing is outstanding and the name is free.
    pub(super) fn freeze(&self, name: Option<&'static str>, core: &Core) -> Verdict {
        if self.with(|b| b.checkpoint.is_some() || name.is_some_and(|name| b.kept.iter().any(|k| k.0 == name))) {
            return Ok(());
        }
        self.with(|b| {
            let (may, must, mine) = (b.may.clone(), b.owed.clone(), b.mine.clone());
            let during = vec![false; MOST as usize];
            b.checkpoint = Some(Checkpointed { name, may, during, must, mine, freezing: true, states: &ALL_STATES });
        });
        let done = core.freeze(name, Duration::ZERO);
        self.freeze_ended(done.is_ok());
        self.settle_in(core)
    }

    /// What recovery made dirty while a checkpoint was outstanding is dirty here, whatever becomes of the point.
    pub(super) fn reopened(&self, core: &Core) {
        let current = all_of(&UnionView { current: Dirt::of(core.view()), point: None });
        self.with(|b| {
            let Some(c) = b.checkpoint.as_mut() else { return };
            c.during.iter_mut().zip(current).for_each(|(during, dirty)| *during |= dirty);
        });
    }

    pub(super) fn freeze_ended(&self, frozen: bool) {
        self.with(|b| {
            let Some(c) = b.checkpoint.as_mut().filter(|c| c.freezing) else { return };
            c.freezing = false;
            if frozen {
                c.states = &[CheckpointState::Frozen];
            }
            b.since.fill(false);
        });
    }

    pub(super) fn commit(&self, core: &Core) -> Verdict {
        let Ok(Newest { header, .. }) = headers::newest(core.file()) else { return Ok(()) };
        let Some(point) = header.outstanding().filter(|_| header.checkpoint_state == CheckpointState::Frozen) else {
            return Ok(());
        };
        self.with(|b| {
            let Some(c) = &mut b.checkpoint else { return };
            c.states = &[CheckpointState::Frozen, CheckpointState::Normal];
        });
        let done = core.commit_checkpoint(&point.uuid, !point.name.is_empty());
        self.settle_in(core)?;
        match done.is_ok() && self.with(|b| b.checkpoint.is_some()) {
            true => Err("committed, and still outstanding".into()),
            false => Ok(()),
        }
    }

    pub(super) fn abort(&self, core: &Core) -> Verdict {
        let Ok(Newest { header, .. }) = headers::newest(core.file()) else { return Ok(()) };
        let Some(point) = header.outstanding() else { return Ok(()) };
        self.with(|b| {
            let Some(c) = &mut b.checkpoint else { return };
            c.states = &ALL_STATES;
        });
        let done = core.abort(&point.uuid);
        self.settle_in(core)?;
        match done.is_ok() && self.with(|b| b.checkpoint.is_some()) {
            true => Err("aborted, and still outstanding".into()),
            false => Ok(()),
        }
    }

    pub(super) fn drop_point(&self, name: &'static str, core: &Core) -> Verdict {
        self.with(|b| b.dropping = Some(name));
        let _ = core.drop_point(name);
        self.settle_in(core)
    }

    /// Sees how far what was begun has come, in a map that is open.
    pub(super) fn settle_in(&self, core: &Core) -> Verdict {
        match core.lock().and_then(|lock| lock.refresh_header()) {
            Ok(header) => self.settle(&header, true),
            Err(_) => Ok(()),
        }
    }

    /// Sees by a header how far a checkpoint has come. `over`: what it was in the middle of has ended.
    pub(super) fn settle(&self, header: &Header, over: bool) -> Verdict {
        self.with(|b| b.settle(header, over))
    }

    /// Changes the length; `None` when the map must be opened again.
    pub(super) fn truncate(&self, len: u64, core: Arc<Core>) -> Option<Arc<Core>> {
        self.with(|b| b.or_len = Some(len));
        match core.truncate(geometry(len)) {
            Ok(new) => {
                self.with(|b| {
                    b.flushed();
                    b.has_length(len);
                });
                Some(Arc::new(new))
            }
            Err(Failure::Unchanged(_)) => {
                self.with(|b| b.or_len = None);
                Some(core)
            }
            Err(Failure::InDoubt(_)) => None,
        }
    }

    /// Bits all over the map, ascending.
    pub(super) fn merge(&self, bits: &[u64], core: &Core) {
        let bits: Vec<u64> = bits.iter().copied().filter(|&i| i < core.geometry().bits()).collect();
        let words =
            bits.chunk_by(|a, b| a / 64 == b / 64).map(|of| (of[0] / 64, of.iter().fold(0, |w, b| w | 1 << (b % 64))));
        self.set_by(bits.iter().copied(), || core.or_words(words, |_| Ok(()), |_, _| ()));
    }

    /// What a chunk has is owed all the time if it was owed before.
    pub(super) fn load(&self, first: u64, words: &[u64], core: &Core) {
        let geometry = core.geometry();
        let word = |w: u64| words[(w - first) as usize] & geometry.word_mask(w);
        let all = first..(first + words.len() as u64).min(geometry.words()).max(first);
        let bits = all.start * 64..(all.end * 64).min(geometry.bits()).max(all.start * 64);
        let (ones, zeros): (Vec<u64>, Vec<u64>) = bits.clone().partition(|i| word(i / 64) >> (i % 64) & 1 != 0);
        self.with(|b| zeros.iter().for_each(|&i| b.owed[i as usize] = false));
        if self.set_by(ones.into_iter(), || core.load_words(bits, word)) {
            self.with(|b| {
                for &i in &zeros {
                    // Again: another setter may have come in between, before the reset.
                    b.owed[i as usize] = false;
                    b.unflushed[i as usize] = b.may[i as usize];
                }
            });
        }
    }

    pub(super) fn flush(&self, core: &Core) {
        // By turns one that empties the list, and one that leaves on it what is hot.
        let keep = if core.counters().flushes.load(Relaxed).is_multiple_of(2) { Keep::Nothing } else { Keep::Hot };
        if core.lock().and_then(|mut lock| lock.flush_to(keep, None)).is_ok() {
            self.with(Bits::flushed);
        }
    }
}

pub(super) const ALL_STATES: [CheckpointState; 4] =
    [CheckpointState::Normal, CheckpointState::Freezing, CheckpointState::Frozen, CheckpointState::Aborting];

impl Bits {
    pub(super) fn settle(&mut self, header: &Header, over: bool) -> Verdict {
        let state = header.checkpoint_state;
        if let Some(dropped) = self.dropping.filter(|_| over) {
            self.dropping = None;
            let at = self.kept.iter().position(|k| k.0 == dropped);
            if let Some(at) = at.filter(|_| header.points.iter().all(|point| point.name != dropped)) {
                let (_, must) = self.kept.remove(at);
                if let Some((_, older)) = at.checked_sub(1).map(|older| &mut self.kept[older]) {
                    older.iter_mut().zip(must).for_each(|(older, must)| *older |= must);
                }
            }
        }
        let Some(c) = self.checkpoint.clone() else {
            let normal = state == CheckpointState::Normal;
            return if normal { Ok(()) } else { Err(format!("{state:?}, and nobody has begun that")) };
        };
        if !c.states.contains(&state) {
            return Err(format!("{state:?}, and not one of {:?}", c.states));
        }
        if state != CheckpointState::Normal {
            return Ok(());
        }
        let committing = c.states == [CheckpointState::Frozen, CheckpointState::Normal];
        for i in 0..MOST as usize {
            if committing {
                // Reset, as it were, when it was frozen; and maybe not flushed since.
                if !self.since[i] && c.may[i] {
                    self.owed[i] = false;
                    self.unflushed[i] = self.may[i] && !c.during[i];
                    self.mine[i] &= c.during[i];
                }
            } else {
                // Some of it may have been put back.
                self.may[i] |= c.may[i];
                self.mine[i] |= c.mine[i];
                self.unflushed[i] &= !c.may[i];
            }
        }
        if committing {
            if let Some((_, newest)) = self.kept.last_mut() {
                newest.iter_mut().zip(c.must).for_each(|(newest, must)| *newest |= must);
            }
            self.kept.extend(c.name.map(|name| (name, vec![false; MOST as usize])));
        }
        self.checkpoint = None;
        Ok(())
    }

    /// The map has this length now, and what lay behind it is forgotten.
    pub(super) fn has_length(&mut self, len: u64) {
        if let Some((_, newest)) = self.kept.last_mut() {
            // What is new is dirty since every name.
            newest[self.len.min(len) as usize..len as usize].fill(true);
        }
        self.kept.iter_mut().for_each(|(_, must)| must[len as usize..].fill(false));
        (self.len, self.or_len) = (len, None);
        for bits in [&mut self.owed, &mut self.may, &mut self.unflushed, &mut self.mine] {
            bits[len as usize..].fill(false);
        }
    }

    pub(super) fn flushed(&mut self) {
        for i in 0..MOST as usize {
            if std::mem::take(&mut self.unflushed[i]) {
                self.may[i] = self.owed[i];
            }
        }
    }
}
