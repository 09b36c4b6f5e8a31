//! Checkpoints: freeze, commit, abort.
//!
//! Invariant kept here: a bit that is dirty is here or in the outstanding point, whatever crashes when. State *and* uuid
//! are compared under the update lock before each step: resetting, promoting, putting back, dropping. Bits are reset
//! only when a durable header says FREEZING and names a point that durably holds them, and the point is given up only
//! when a durable header says NORMAL. An abort commits ABORTING first, so that a freezer who lives resets nothing that is
//! being put back. (tests/model_freeze.rs)

use super::backup::Completed;
use super::commit::is_normal;
use super::core::Core;
use super::intent::keep_intent;
use super::points::{BATCH_WORDS, PointWord};
use super::round::{Keep, Switch};
use crate::error::{Corruption, Error, InUse, Refusal, Result, counted};
use crate::file::create::random_uuid;
use crate::file::locks::no_other_writer;
use crate::file::points::{Checkpoint, no_checkpoint, none_outstanding, of_header};
use crate::file::reasons::forget;
use crate::format::{
    CheckpointState, Header, MAX_POINT_NAME, MAX_POINTS, Point, PointRole, Reasons, Session, Stamp, Uuid,
};
use crate::progress::Step;
use crate::query::WordsIter;
use crate::sys::os;
use crate::trace::event;
use std::time::Duration;

/// Most points that are kept: there is place for one more, that is outstanding or only the intent.
const MOST_KEPT: usize = MAX_POINTS - 1;
/// Most words of a point that are put back together.
const PUT_BACK_WORDS: usize = 1 << 17;
/// So many times that much is put back before the work asks whether to go on.
const MOMENT: usize = 2;

/// What a checkpoint that is to be begun says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) role: PointRole,
    /// The target of the backup that freezes.
    pub(crate) target: Option<Stamp>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn named(name: Option<&'a str>) -> Wanted<'a> {
        Wanted { name, role: PointRole::Outstanding, target: None }
    }
}

impl Core {
    /// Whether a checkpoint with this name may be begun.
    fn may_freeze(&self, header: &Header, name: Option<&str>) -> Result<()> {
        none_outstanding(header, &self.path)?;
        if header.session.flags & Session::OUTLIVED != 0 {
            return Err(self.may_arrive());
        }
        if header.points.iter().filter(|point| point.role == PointRole::Kept).count() >= MOST_KEPT {
            return Err(self.file().refused(Refusal::TooManyPoints { most: MOST_KEPT }));
        }
        match name {
            Some(name) if header.points.iter().any(|point| point.name == name) => {
                Err(self.file().refused(Refusal::PointExists { name: name.into() }))
            }
            _ => Ok(()),
        }
    }

    fn check_name(&self, name: Option<&str>) -> Result<()> {
        match name {
            Some(name) if name.is_empty() || name.len() > MAX_POINT_NAME || name.contains('\0') => {
                Err(self.file().refused(Refusal::PointName { bytes: name.len(), most: MAX_POINT_NAME }))
            }
            _ => Ok(()),
        }
    }

    #[cfg(test)]
    pub(crate) fn freeze(&self, name: Option<&str>, patience: Duration) -> Result<Checkpoint> {
        self.freeze_as(Wanted::named(name), patience, |_| Ok(()))
    }

    /// `settle` runs between the wait for writes and FROZEN; if it fails, so does the freeze.
    pub(crate) fn freeze_as(
        &self,
        wanted: Wanted<'_>,
        patience: Duration,
        settle: impl FnOnce(Uuid) -> Result<()>,
    ) -> Result<Checkpoint> {
        self.not_in_own_bracket()?;
        let point = self.freeze_begin_as(wanted)?;
        let done = self
            .alone_if(wanted.role == PointRole::Snapshot)
            .and_then(|()| self.freeze_reset(&point))
            .and_then(|()| self.drain(&point.uuid, patience))
            .and_then(|()| settle(point.uuid))
            .and_then(|()| self.freeze_end(&point.uuid));
        done.map_err(|e| match self.abort(&point.uuid) {
            Ok(()) | Err(Error::NoCheckpoint { .. }) => e,
            // It is still outstanding, and that is the worse news.
            Err(worse) => worse,
        })
    }

    /// For a snapshot nobody else may have the map open for writing, who would write the image and copy nothing. Asked once
    /// FREEZING is durable: who opens the map takes a slot and then looks for a snapshot, so one of the two sees the other.
    fn alone_if(&self, wanted: bool) -> Result<()> {
        if wanted && !no_other_writer(self.file())? {
            return Err(Error::Locked { path: self.path.clone(), what: InUse::Open, holder: None });
        }
        Ok(())
    }

    /// The header, and what was added until now, if a checkpoint with this name may be begun.
    pub(crate) fn can_freeze(&self, name: Option<&str>) -> Result<(Header, Option<u64>)> {
        self.check_name(name)?;
        let lock = self.lock()?;
        let header = lock.refresh_header()?;
        self.may_freeze(&header, name)?;
        let seen = lock.seen(&header);
        Ok((header, seen))
    }

    #[cfg(test)]
    pub(crate) fn freeze_begin(&self, name: Option<&str>) -> Result<Point> {
        self.freeze_begin_as(Wanted::named(name))
    }

    /// Writes what is dirty here to a new point, and commits FREEZING.
    pub(crate) fn freeze_begin_as(&self, wanted: Wanted<'_>) -> Result<Point> {
        let Wanted { name, role, target } = wanted;
        let space = self.space()?;
        let (header, seen) = self.can_freeze(name)?;
        let before = header.dirt_reasons;
        let mut new = space.select(&header)?;
        (new.point.name, new.point.role, new.point.target) = (name.unwrap_or_default().into(), role, target);
        sync_point!(Chosen);
        // Without the update lock: what is reset is what was written, and not what is here by then.
        let current = self.current();
        let new = space.write(&header, new, &current)?;
        sync_point!(Unnamed);
        twin!(FreezingThenReset => self.reset_frozen(&header, &new.point)?);
        let point = new.point.clone();
        // What is dirty now is what is likely to be written next.
        let intent = self.predicted(&header, &point)?;
        let keep = if intent.is_some() { Keep::Nothing } else { Keep::Hot };
        let mut lock = self.lock()?;
        let now = lock.refresh_header()?;
        self.may_freeze(&now, name)?;
        // Also what was forgotten since the point was written: in there it is not.
        let before = step!(PointKnowsForgotten => before, else Reasons::NONE);
        self.freeze_began.set(seen);
        let change = |header: &mut Header| {
            let point = new.hand_over();
            header.checkpoint_state = CheckpointState::Freezing;
            header.checkpoint_uuid = point.uuid;
            header.points.push(Point { reasons: before | header.dirt_reasons, ..point });
        };
        twin!(SwitchThenFree => now.intent_point().iter().for_each(|point| self.free_regions(point)));
        let committed = lock.flush_to(keep, Some(Switch { intent, change: Box::new(change) }));
        if let Ok(header) = &committed {
            self.give_up_all_but(header, &now.points);
        }
        drop(lock);
        if let Err(e) = committed {
            // Nobody knows whether it is outstanding. If it is, and can be, it is aborted.
            drop(space);
            let _ = self.abort(&point.uuid);
            return Err(e);
        }
        event!(DEBUG, "freezing", uuid = %point.uuid);
        Ok(point)
    }

    /// Resets here what the point holds, batch by batch.
    pub(crate) fn freeze_reset(&self, point: &Point) -> Result<()> {
        let header = self.lock()?.refresh_header()?;
        self.expect(&header, &point.uuid, &[CheckpointState::Freezing])?;
        self.reset_frozen(&header, point)
    }

    fn reset_frozen(&self, header: &Header, point: &Point) -> Result<()> {
        let mut begun = false;
        let failed = self.each_batch(header, point, BATCH_WORDS, &mut |batch| {
            if begun {
                self.tell(Step::Resetting, batch[0].0)?;
            }
            begun = true;
            sync_point!(Resetting);
            let mut lock = self.lock()?;
            let found = lock.refresh_header()?;
            let freezing = self.expect(&found, &point.uuid, &[CheckpointState::Freezing]);
            step!(FreezingThenReset => step!(RecheckFreeze => freezing))?;
            lock.reset_bits_of(batch);
            Ok(())
        })?;
        if failed == 0 {
            return Ok(());
        }
        // Somebody else may have aborted it meanwhile, and what was read is what came after it.
        self.expect(&self.lock()?.refresh_header()?, &point.uuid, &[CheckpointState::Freezing])?;
        let found = format!("{} not as written", counted(failed, "page"));
        Err(self.file().corrupt(Corruption::Point, "the point that was just written", found, "what was written"))
    }

    /// Everything was reset, and every write that had begun has ended: commits FROZEN.
    pub(crate) fn freeze_end(&self, uuid: &Uuid) -> Result<Checkpoint> {
        let lock = self.lock()?;
        let mut header = lock.refresh_header()?;
        self.expect(&header, uuid, &[CheckpointState::Freezing])?;
        header.checkpoint_state = CheckpointState::Frozen;
        // What had been added is in the point now, and not here.
        if step!(FreezeKeepsLater => lock.nothing_added_since(self.freeze_began.get()), else true) {
            forget(&mut header);
        }
        lock.commit(&mut header)?;
        event!(INFO, "frozen", path = %self.path.display(), uuid = %uuid);
        of_header(&header).ok_or_else(|| no_checkpoint(&header, uuid, &self.path))
    }

    /// The point that a commit of this checkpoint ends; `None` when it was committed already.
    fn may_commit<'h>(&self, header: &'h Header, uuid: &Uuid, keep: bool) -> Result<Option<&'h Point>> {
        if header.committed_uuid == *uuid && !uuid.is_nil() {
            // It was, by a commit of which nobody could tell whether it had succeeded. Others may have frozen since.
            return Ok(None);
        }
        self.expect(header, uuid, &[CheckpointState::Frozen])?;
        match header.points.last() {
            Some(point) if keep && point.name.is_empty() => Err(self.file().refused(Refusal::Unnamed)),
            Some(point) => Ok(Some(point)),
            None => Err(no_checkpoint(header, uuid, &self.path)),
        }
    }

    pub(crate) fn commit_checkpoint(&self, uuid: &Uuid, keep: bool) -> Result<()> {
        self.commit_checkpoint_of(uuid, keep, None)
    }

    /// Commits the checkpoint, and in the same header the backup that has copied it.
    pub(crate) fn commit_checkpoint_of(&self, uuid: &Uuid, keep: bool, backup: Option<&Completed>) -> Result<()> {
        // What was frozen is no longer dirty: a change. It is read while it is there.
        let marks = self.changes.wanted().then(|| self.frozen(self.checkpoint_word())).flatten();
        let space = self.space()?;
        let before = self.lock()?.refresh_header()?;
        let Some(point) = self.may_commit(&before, uuid, keep)? else { return Ok(()) };
        // It was written since the newest name that is kept was frozen, and so since all.
        let is_kept = |point: &Point| point.role == PointRole::Kept;
        let newest = step!(JoinOlder => before.points.iter().rfind(|point| is_kept(point)));
        let joined = newest.map(|newest| space.joined(&before, newest, point)).transpose()?;
        let uuid_of_name = random_uuid().map_err(self.io("get random bytes"))?;
        let lock = self.lock()?;
        let mut header = lock.refresh_header()?;
        if self.may_commit(&header, uuid, keep)?.is_none() {
            return Ok(());
        }
        header.points.pop();
        if let (Some(newest), Some(joined)) = (header.points.iter_mut().rfind(|point| is_kept(point)), joined) {
            *newest = joined.hand_over();
        }
        if keep {
            let target = backup.map(|backup| backup.target);
            let (uuid, role) = (uuid_of_name, PointRole::Kept);
            header.points.push(Point { uuid, role, target, ..point.holding_nothing() });
        }
        keep_intent(&mut header, &before.points);
        header.checkpoint_state = CheckpointState::Normal;
        header.checkpoint_uuid = Uuid::NIL;
        header.committed_uuid = *uuid;
        header.committed_time = os::now();
        match (backup, &mut header.target) {
            (Some(backup), _) => backup.record(&mut header),
            // What is clean from here on went elsewhere, or nowhere: the recorded target may lack it.
            (None, Some(target)) => target.exact = step!(DoubtLastTarget => false, else target.exact),
            (None, None) => {}
        }
        twin!(NormalThenFree => self.give_up_all_but(&header, &before.points));
        twin!(CommitKeepsIntent => self.free_regions(point));
        lock.commit(&mut header)?;
        step!(CommitBothPairs => lock.commit(&mut header))?;
        self.give_up_all_but(&header, &before.points);
        drop(lock);
        drop(space);
        self.know_frozen(None);
        if let Some(marks) = marks {
            for (w, word) in WordsIter::over(&*marks, 0..self.geometry().bits()) {
                self.changes.mark_word(w, word);
            }
        }
        event!(INFO, "committed", path = %self.path.display(), uuid = %uuid, kept = keep);
        Ok(())
    }

    /// Puts the bits of the outstanding checkpoint back, whoever began it and however far it is.
    pub(crate) fn abort(&self, uuid: &Uuid) -> Result<()> {
        {
            let lock = self.lock()?;
            let mut header = lock.refresh_header()?;
            let any = [CheckpointState::Freezing, CheckpointState::Frozen, CheckpointState::Aborting];
            self.expect(&header, uuid, &any)?;
            if step!(CommitAborting => header.checkpoint_state != CheckpointState::Aborting) {
                header.checkpoint_state = CheckpointState::Aborting;
                lock.dirt_comes_back(&mut header);
                lock.commit(&mut header)?;
            }
        }
        sync_point!(Aborting);
        // One after the other: who is slow must not go on with what somebody else has put back already and then reset.
        let _space = step!(AbortLocksSpace => Some(self.space()?));
        let header = self.lock()?.refresh_header()?;
        if self.aborted_meanwhile(&header, uuid) {
            return Ok(());
        }
        let Some(point) = header.points.last().cloned() else { return Ok(()) };
        step!(PutBackThenNormal => self.put_back(&header, &point))?;
        sync_point!(PutBack);
        let lock = self.lock()?;
        let mut header = lock.refresh_header()?;
        if self.aborted_meanwhile(&header, uuid) {
            return Ok(());
        }
        header.points.pop();
        header.checkpoint_state = CheckpointState::Normal;
        header.checkpoint_uuid = Uuid::NIL;
        let points = [point];
        keep_intent(&mut header, &points);
        lock.commit(&mut header)?;
        step!(AbortBothPairs => lock.commit(&mut header))?;
        self.give_up_all_but(&header, &points);
        twin!(AbortKeepsIntent => self.free_regions(&points[0]));
        drop(lock);
        self.know_frozen(None);
        twin!(PutBackThenNormal => self.put_back(&header, &points[0])?);
        event!(INFO, "aborted", path = %self.path.display(), uuid = %uuid);
        Ok(())
    }

    fn aborted_meanwhile(&self, header: &Header, uuid: &Uuid) -> bool {
        let state = step!(CommitAborting => CheckpointState::Aborting, else header.checkpoint_state);
        step!(RecheckAbort => self.expect(header, uuid, &[state]).is_err())
    }

    /// Sets what is in the point. If a page of it does not verify, everything.
    fn put_back(&self, header: &Header, point: &Point) -> Result<()> {
        let mut batches = 0;
        let failed = self.each_batch(header, point, PUT_BACK_WORDS, &mut |batch| {
            // What takes a moment is done, also by a freeze that was stopped.
            if batches >= MOMENT {
                self.tell(Step::PuttingBack, batch[0].0)?;
            }
            batches += 1;
            self.put_back_words(batch)
        })?;
        if step!(PutBackAll => failed > 0) {
            self.add_dirt(Reasons::DAMAGED_PAGE, || self.set_bits(0..self.geometry().bits()))?;
        }
        self.flush()
    }

    /// Nothing changes for who reads here and in the point: so these are no changes to mark.
    fn put_back_words(&self, words: &[PointWord]) -> Result<()> {
        let full = |&(w, word): &PointWord| word == self.geometry().word_mask(w);
        let or = |words: &[PointWord]| self.or_words(words.iter().copied(), |_| Ok(()), |_, _| ());
        let (mut from, mut at) = (0, 0);
        for stretch in words.chunk_by(|a, b| full(a) && full(b) && a.0 + 1 == b.0) {
            let end = at + stretch.len();
            // Long stretches are armed at once, as for one call of `set`.
            if stretch.len() >= BATCH_WORDS {
                or(&words[from..at])?;
                let (first, count) = (stretch[0].0, stretch.len() as u64);
                self.set_words(first, first * 64..((first + count) * 64).min(self.geometry().bits()), &mut 0)?;
                from = end;
            }
            at = end;
        }
        or(&words[from..])
    }

    /// Pages of the outstanding point that fail, so that everything counts as dirty.
    pub(crate) fn point_failed(&self) -> u64 {
        let word = self.checkpoint_word();
        if is_normal(word) { 0 } else { self.frozen(word).map_or(0, |point| point.failed()) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::map::DirtyMap;
    use crate::options::IntentBound;

    fn new() -> (tempfile::TempDir, DirtyMap) {
        let dir = tempfile::tempdir().unwrap();
        let map = crate::Options::new().flush_interval(None).create(dir.path().join("map"), 1 << 40).unwrap();
        (dir, map)
    }

    #[test]
    fn a_freeze_whose_space_others_have_meanwhile_was_aborted_and_not_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let options = crate::Options::new().flush_interval(None).intent_bound(IntentBound::None);
        let map = options.create(dir.path().join("map"), 1 << 40).unwrap();
        map.set(0..1).unwrap();
        let core = map.engine();
        let first = core.freeze_begin(None).unwrap();
        let header = core.lock().unwrap().refresh_header().unwrap();
        core.abort(&first.uuid).unwrap();
        let second = core.freeze_begin(None).unwrap();
        assert_eq!(first.table_offset, second.table_offset);
        assert_eq!(core.reset_frozen(&header, &first).unwrap_err().kind(), "no-checkpoint");
        assert!(map.get(0).unwrap());
    }

    #[test]
    fn who_aborts_what_others_have_aborted_meanwhile_sets_nothing() {
        use std::sync::{Arc, mpsc};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let shared = crate::Options::new().access(crate::Access::Shared).flush_interval(None);
        let map = shared.create(&path, 1 << 30).unwrap();
        let other = Arc::new(shared.open(&path).unwrap());
        map.set(0..1).unwrap();
        let uuid = map.freeze(None).unwrap().uuid;
        let (done, finished) = mpsc::channel();
        let mut others = Some(move || {
            other.abort_checkpoint(uuid).unwrap();
            other.reset_all().unwrap();
            done.send(()).unwrap();
        });
        crate::testing::visit(Some(Box::new(move |at| {
            if let Some(others) = others.take_if(|_| at == crate::testing::SyncPoint::SeenArmed) {
                let thread = std::thread::spawn(others);
                // They come in between or have to wait: long enough to see the first.
                let begun = std::time::Instant::now();
                while !thread.is_finished() && begun.elapsed() < Duration::from_millis(300) {
                    std::thread::yield_now();
                }
            }
        })));
        let aborted = map.abort_checkpoint(uuid);
        crate::testing::visit(None);
        aborted.unwrap();
        finished.recv().unwrap();
        assert!(map.is_empty(), "what was reset is dirty again");
    }

    #[test]
    pub(crate) fn a_freeze_that_was_aborted_waits_for_no_write() {
        let (_dir, map) = new();
        let core = map.engine();
        let write = map.begin_write(0..1).unwrap();
        // The first one gives up, and leaves the write to the count that the second one waits for first.
        for kind in ["busy", "no-checkpoint"] {
            let point = core.freeze_begin(None).unwrap();
            core.freeze_reset(&point).unwrap();
            if kind == "no-checkpoint" {
                core.abort(&point.uuid).unwrap();
            }
            let error = core.drain(&point.uuid, Duration::from_millis(1)).unwrap_err();
            assert_eq!(error.kind(), kind);
            let _ = core.abort(&point.uuid);
        }
        drop(write);
    }
}
