//! Brackets around data writes, and the wait of a freeze for those that had begun.
//!
//! Invariant kept here: a writer that a freeze does not wait for set its bit after the freeze had reset here. It
//! registers before it sets, in one of two counts, and a freeze sees both at zero after the reset. The epoch, by whose
//! parity a writer chooses, only keeps newcomers out of the count that is waited for. (tests/model_epoch.rs)

use super::core::Core;
use crate::error::{Error, Refusal, Result};
use crate::format::{CheckpointState, SLOTS, Uuid};
use crate::progress::Step;
use crate::shm::runtime::{self, Word};
use crate::shm::view::ShmView;
use std::cell::{Cell, RefCell};
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

/// `flags` of a slot: writes of this process may arrive after its death.
const OUTLIVE: u64 = 1;

static NEXT_LANE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// What each bracket holds that this thread has begun and that has not ended, by [`Core::id`].
    static BEGUN: RefCell<Vec<(u64, Arc<()>)>> = const { RefCell::new(Vec::new()) };
    /// In which of the counts of a slot this thread counts, once it has.
    static LANE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Threads that begin their first write one after the other count in different places.
#[inline]
fn lane() -> usize {
    LANE.get().unwrap_or_else(|| {
        let lane = NEXT_LANE.fetch_add(1, Relaxed) % 3;
        LANE.set(Some(lane));
        lane
    })
}

/// Whether a slot says that there are writes under way which may arrive although the process is dead. Nobody else may take
/// such a slot: it is all that tells of them.
pub(crate) fn outlived(view: &ShmView, slot: u64) -> bool {
    let rt = view.runtime();
    let flags = rt[runtime::slot_flags(slot)].load(SeqCst);
    step!(KeepOutlivedSlot => flags & OUTLIVE != 0)
        && (0..2).flat_map(|parity| runtime::in_flight(slot, parity)).any(|count| rt[count].load(SeqCst) != 0)
}

/// A data write under way, of one range or several, from [`DirtyMap::begin_write`](crate::DirtyMap::begin_write) until this is
/// dropped, by whichever thread.
#[must_use = "the write counts as ended when this is dropped"]
pub struct WriteGuard<'a> {
    _write: InFlight<&'a Core>,
}

/// What registers a write until it is dropped.
pub(crate) struct InFlight<C: Deref<Target = Core>> {
    core: C,
    /// Where it is counted.
    count: Word,
    /// What tells the thread that has begun it, if that has to end it.
    _begun: Option<Arc<()>>,
}

impl<C: Deref<Target = Core>> Drop for InFlight<C> {
    fn drop(&mut self) {
        // In a forked child the memory is not there, and the write is the parent's.
        if self.core.usable().is_ok() {
            self.core.view.runtime()[self.count].fetch_sub(1, SeqCst);
        }
    }
}

impl<C: Deref<Target = Core> + Clone> InFlight<C> {
    #[inline]
    pub(super) fn begin(core: &C, ranges: &[Range<u64>], mut begun: Option<Arc<()>>) -> Result<InFlight<C>> {
        let mut register = || InFlight::register(core.clone(), begun.take());
        // In this order: a bit that is set before the write is registered may be frozen, and nobody waits.
        let write = step!(RegisterThenSet => Some(register()));
        core.set_ranges(ranges)?;
        Ok(write.unwrap_or_else(register))
    }

    /// The same without waiting; `None` where something has to be armed.
    pub(crate) fn try_begin(core: C, ranges: &[Range<u64>]) -> Option<InFlight<C>> {
        let write = InFlight::register(core, None);
        write.core.try_set_ranges(ranges).then_some(write)
    }

    #[inline]
    fn register(core: C, begun: Option<Arc<()>>) -> InFlight<C> {
        let rt = core.view.runtime();
        // By the time that it is counted the epoch may be another one: any of the two counts will do.
        let parity = rt[runtime::EPOCH].load(SeqCst) % 2;
        let count = runtime::in_flight(core.slot, parity)[lane()];
        rt[count].fetch_add(1, SeqCst);
        InFlight { core, count, _begun: begun }
    }
}

impl std::fmt::Debug for WriteGuard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteGuard").finish_non_exhaustive()
    }
}

impl Core {
    #[inline]
    fn begun_here(&self) -> Arc<()> {
        let key = self.id;
        let begun = BEGUN.try_with(|all| {
            let mut all = all.borrow_mut();
            if let Some((_, begun)) = all.iter().find(|(map, _)| *map == key) {
                return begun.clone();
            }
            // Nobody holds a bracket of those with no other owner.
            all.retain(|(_, begun)| Arc::strong_count(begun) > 1);
            let begun = Arc::new(());
            all.push((key, begun.clone()));
            begun
        });
        // A thread that ends has no place for it any more: a freeze there would wait for a write of its own.
        begun.unwrap_or_default()
    }

    /// Marks what a data write is about to touch, and registers the write.
    pub(crate) fn begin_write(&self, bits: Range<u64>) -> Result<WriteGuard<'_>> {
        self.begin_writes(std::slice::from_ref(&bits))
    }

    /// The same of several ranges, which are armed together.
    pub(crate) fn begin_writes(&self, ranges: &[Range<u64>]) -> Result<WriteGuard<'_>> {
        Ok(WriteGuard { _write: InFlight::begin(&self, ranges, Some(self.begun_here()))? })
    }

    /// The same of a write that another thread may end: a freeze by this one may wait for it.
    pub(crate) fn begin_writes_owned(self: &Arc<Self>, ranges: &[Range<u64>]) -> Result<InFlight<Arc<Core>>> {
        InFlight::begin(self, ranges, None)
    }

    /// Says in this process's slot whether its writes may arrive after its death. The slot holds zeros.
    pub(crate) fn mark_slot(&self, writes_outlive: bool) {
        let flags = if writes_outlive { OUTLIVE } else { 0 };
        if let Some(word) = self.view.runtime().get(runtime::slot_flags(self.slot)) {
            word.store(flags, SeqCst);
        }
    }

    /// A freeze by a thread that is inside a bracket would wait for itself.
    pub(super) fn not_in_own_bracket(&self) -> Result<()> {
        // The thread's own, and the one asked with.
        if Arc::strong_count(&self.begun_here()) <= 2 {
            return Ok(());
        }
        Err(self.file().refused(Refusal::WithinWrite))
    }

    /// The error of a freeze beside writes of which nobody knows when they are over.
    pub(super) fn may_arrive(&self) -> Error {
        self.file().refused(Refusal::WritesMayArrive)
    }

    /// Raises the epoch and waits until every write that had registered before has ended. Without the update lock: who
    /// writes may need it.
    ///
    /// The count of the epoch to come is waited for first: a freeze that was given up may have left writes there, and who
    /// loaded the epoch long ago may have registered there since.
    pub(crate) fn drain(&self, uuid: &Uuid, patience: Duration) -> Result<()> {
        twin!(Drain => return Ok(()));
        let begun = Instant::now();
        let epoch = self.view.runtime()[runtime::EPOCH].load(SeqCst);
        step!(DrainBoth => self.wait(uuid, (epoch + 1) % 2, begun, patience))?;
        {
            let lock = self.lock()?;
            self.expect(&lock.refresh_header()?, uuid, &[CheckpointState::Freezing])?;
            // Only who is FREEZING raises it.
            self.view.runtime()[runtime::EPOCH].store(epoch + 1, SeqCst);
        }
        self.wait(uuid, epoch % 2, begun, patience)
    }

    fn wait(&self, uuid: &Uuid, parity: u64, begun: Instant, patience: Duration) -> Result<()> {
        // The state is looked at once in any case: it may have been aborted just before.
        let mut seen = None;
        let mut pause = Duration::from_micros(50);
        loop {
            let writes = self.in_flight(parity)?;
            if writes == 0 {
                return Ok(());
            }
            let word = Some(self.checkpoint_word());
            if word != seen {
                let lock = self.lock()?;
                self.expect(&lock.refresh_header()?, uuid, &[CheckpointState::Freezing])?;
                seen = word;
            }
            let waited = begun.elapsed();
            self.watcher.tell(Step::Waiting, waited.as_secs(), patience.as_secs())?;
            if waited >= patience {
                return Err(Error::Busy { path: self.path.clone(), writes, waited: waited.as_secs() });
            }
            std::thread::sleep(pause.min(patience - waited));
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Writes under way, of all processes, that registered in epochs of a parity.
    ///
    /// A slot that nobody holds was left by a process that died. Its writes were over when its lock was let go of; unless
    /// it has said that they may arrive later, and then nobody can know when they are over.
    fn in_flight(&self, parity: u64) -> Result<u64> {
        let rt = self.view.runtime();
        let mut writes = 0u64;
        for slot in 0..SLOTS {
            let counts = runtime::in_flight(slot, parity).map(|count| rt[count].load(SeqCst));
            let count = counts.into_iter().fold(0, u64::saturating_add);
            if count == 0 {
                continue;
            }
            let held = slot == self.slot
                || self.disk.slot_held(slot..slot + 1).map_err(self.io("ask whether a process lives"))?;
            if held {
                writes = writes.saturating_add(count);
            } else if step!(RefuseOutlived => rt[runtime::slot_flags(slot)].load(SeqCst) & OUTLIVE != 0) {
                return Err(self.may_arrive());
            }
        }
        Ok(writes)
    }
}
