//! Mutants: builds of the protocol that leave one step out, or take two in the wrong order.
//!
//! Invariant kept here: every mutant fails a suite. A check that cannot fail is no check, so the crash tests, or loom's,
//! run once with each of these and must then fail.

macro_rules! mutants {
    ($($(#[$doc:meta])* $label:ident,)*) => {
        /// The step that a mutant lacks, under the label that it has in docs/design.md. Each says what the mutant does instead.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(loom), allow(dead_code))]
        pub(crate) enum Mutant { $($(#[$doc])* $label),* }

        impl Mutant {
            pub(crate) const ALL: &[Mutant] = &[$(Mutant::$label),*];
        }
    };
}

mutants! {
    /// Rule 1: `armed` is set before the header that lists the word is durable.
    ListThenArm,
    /// Rule 2: no second look at `armed` after the store.
    RecheckArmed,
    /// Rule 2: `touched` is not set.
    MarkUnflushed,
    /// Rule 2: `touched` is set before the bits are stored.
    StoreThenMark,
    /// Rule 3: the list forgets words before their pages are written.
    WriteThenForget,
    /// Rule 3: pages are not written at all before the list forgets them.
    WritePages,
    /// Rule 4: a reset leaves the durable level as it was.
    ClearDurable,
    /// Rule 5: a newest header that is not known to be durable is taken as it is.
    DoubtNewest,
    /// Rule 5: a commit that was begun and failed is forgotten when it cannot be read back.
    RememberAttempt,
    /// Rule 5: an unarmed word of the list is not redone.
    RewriteUnarmed,
    /// Rule 5: arming a listed word does not touch it.
    MarkUnfinished,
    /// Rule 7: a failed page write is taken for a success.
    KeepFlushError,
    /// Recovery does not make listed words dirty.
    DirtyListed,
    /// Recovery takes a page that does not match its entry as it is.
    VerifyPage,
    /// Recovery forgets the list before the pages are written.
    RecoverThenForget,
    /// Opening does not write the newest header again.
    RewriteNewest,
    /// OPEN is not committed before the first change.
    OpenBothPairs,
    /// Commits alternate by the parity of the sequence number.
    AlternatePairs,
    /// A clean close does not look whether the list is empty and no write has failed.
    CheckClean,
    /// Changing the length frees the old regions before a header names the new ones.
    ResizeThenFree,
    /// The header with the new length is committed to one pair only.
    ResizeBothPairs,
    /// What was left in the space of the new regions is not cleared.
    ClearNewRegions,
    /// Clearing the new regions, and the length of the file, is not made durable.
    SyncNewRegions,
    /// A freeze resets before FREEZING is committed.
    FreezingThenReset,
    /// A freeze commits FREEZING with a point that was not written.
    WritePoint,
    /// What was left in the space of a new point is not cleared.
    ClearPoint,
    /// A commit gives up the point before NORMAL is durable.
    NormalThenFree,
    /// What was frozen is not dirty since any name once it is committed.
    JoinOlder,
    /// A commit gives up regions when one pair does not name them any more.
    CommitBothPairs,
    /// An abort gives up the point when one pair does not name it any more.
    AbortBothPairs,
    /// An abort commits NORMAL before the bits are back.
    PutBackThenNormal,
    /// An abort does not commit ABORTING before it puts bits back.
    CommitAborting,
    /// Only the state of a checkpoint is compared, and not which one it is.
    CompareUuid,
    /// Rule 6: a flush says that words are durable before it sets their summaries.
    SummariesThenDurable,
    /// Rule 6: setting a bit that is set already leaves the summaries alone.
    SummariseAlways,
    /// A cleared summary is not looked at again.
    LookAgain,
    /// A search does not look whether summaries were being cleared.
    CheckClearing,
    /// A flush of a `Process` map does not look again at what it untouched.
    RecheckUnmarked,
    /// Under loom: sequentially consistent accesses only acquire and release.
    SequentiallyConsistent,
    /// Rule 3: pages and entries are written and not synced. The simulated disk leaves the sync out.
    SyncPages,
    /// Headers are written and not synced. The simulated disk leaves the sync out.
    SyncHeaders,
    /// Rule 3: words are untouched after they were copied.
    UnmarkThenCopy,
    /// Rule 4: a reset touches the word last.
    MarkThenReset,
    /// A flush writes pages of words that were reset and that the list does not name.
    ListReset,
    /// A flush does not know where something was reset.
    RememberResets,
    /// A flush of a `Process` map sets no mark before it untouches.
    MarkFlush,
    /// The mark of a dead flusher is not looked at.
    RecoverUnflushed,
    /// Rule 5: a newest header that is older than the published one is taken as it is.
    RefuseOlder,
    /// Of two headers with one sequence number only the list of the first counts.
    UniteConflicting,
    /// Opening writes both copies of the newest header again at once.
    RewriteOneByOne,
    /// Opening writes a copy that is the newest header again before one that is not.
    RewriteOldestFirst,
    /// Rule 7: nobody remembers that a durable write has failed.
    RecordWriteFailure,
    /// Rule 7: a map of a new length does not know that a write had failed.
    ResizeKeepsFailure,
    /// Rule 7: a commit of a new length that fails is not remembered in the new region.
    ResizeKeepsDoubt,
    /// Changing the length leaves the mark of sharing in the old volatile part.
    ResizeUnshares,
    /// Closing a `Process` map does not ask whether the kernel failed to write something back.
    AskKernelAtClose,
    /// FREEZING is committed to one pair only.
    FreezeBothPairs,
    /// A freeze does not look, batch by batch, whether it was aborted.
    RecheckFreeze,
    /// A freeze does not wait for writes that had begun.
    Drain,
    /// Clearing the space of a new point, and the length of the file, is not made durable.
    SyncPointSpace,
    /// Nobody compares how much is in a point with what was counted.
    CountPoint,
    /// Dropping a point gives up its region when one pair does not name it any more.
    DropBothPairs,
    /// The runtime page does not say that the checkpoint's state has changed.
    PublishCheckpoint,
    /// Rule 2: `set` says that it has, although arming failed.
    ReturnArmError,
    /// Rule 3: words are untouched before the last of them is disarmed.
    DisarmThenUnmark,
    /// Rule 4: a reset clears live before durable.
    DurableThenLive,
    /// Rule 5: a session that somebody else has begun is gone on with.
    CheckSession,
    /// Rule 5: a header with other regions is gone on with.
    CheckRegions,
    /// What a dead holder of the lock has committed is not told to those who read.
    PublishRefreshed,
    /// The header that is committed after a failed write does not say so.
    RecordFailureInHeader,
    /// A commit is known to have been begun when it has ended.
    AttemptThenWrite,
    /// A commit is taken for durable before it is.
    WriteThenKnow,
    /// The list names more than the bound.
    BoundList,
    /// What an intent covers beyond twice what was frozen leaves the list no less room.
    SpareList,
    /// The space of the volatile part is not set aside before it is stored into.
    AllocateFirst,
    /// A flush for which the list has not room is over after one round.
    FlushInRounds,
    /// A flush forgets where something was reset before it has written that.
    WriteThenForgetResets,
    /// Where something was reset is known to this process only.
    ShareResetWindow,
    /// A reset remembers where it was when it has been there.
    RememberThenReset,
    /// The page cache is trusted that was another boot's.
    CompareBoot,
    /// The page cache is trusted although nobody knows which boot this is.
    KnowBoot,
    /// The page cache is trusted although the file is another one.
    CompareFile,
    /// The page cache is trusted although the session in it is another one, or over.
    CompareNonce,
    /// The page cache is trusted although a write had failed.
    RefuseFailed,
    /// The page cache is trusted without asking whether the kernel failed to write something back.
    AskKernelAtOpen,
    /// Who asks that does not say so in the file before.
    MarkThenAsk,
    /// The page cache is freed before the nonce is taken away by which it is trusted.
    NonceThenFree,
    /// The volatile part is taken as others have left it.
    ClearShm,
    /// Who needs no volatile part of the file leaves the nonce there.
    RemoveForeignNonce,
    /// A map in a file that ends within its page table is opened.
    CheckLength,
    /// A header copy is taken whatever its checksum.
    CheckHeaderCrc,
    /// Of two maps whose copies are as many, one wins.
    RefuseTwoMaps,
    /// A copy that a newer version wrote is passed over.
    RefuseNewer,
    /// A page is good that has bits past the end of the map.
    CheckStrayBits,
    /// A page that was lost with its entry is not missed.
    CountLost,
    /// A pair of headers of which no copy is valid is taken for one that the power went in, always.
    MissLostCommit,
    /// The next session does not know that writes of a process may arrive after its death.
    KeepOutlived,
    /// A clean close does not count what is dirty.
    CountAtClose,
    /// An image that is not as it was recorded is taken for the same.
    CompareImage,
    /// Times of an image that were recorded in an earlier boot prove that nothing was written to it since.
    CompareImageBoot,
    /// Times of an image count although a write in the same step of the clock would leave them as they are.
    SettleStamp,
    /// A backup that is begun takes the place of the last one that was completed.
    KeepLastTarget,
    /// What was frozen is forgotten before the header names the target that has it.
    NameTargetThenForget,
    /// The header does not say why there is more dirt than was set.
    RecordReasons,
    /// Why there is added dirt in the outstanding point does not count.
    CountPointReasons,
    /// Whoever adds dirt does not say that it does.
    CountAdding,
    /// What was seen while dirt was being added counts.
    CheckAdding,
    /// What was seen while an abort was putting bits back counts.
    CheckAborting,
    /// A reset of everything looks what was added when it has reset.
    LookThenReset,
    /// The point does not know of added dirt that was forgotten since it was written.
    PointKnowsForgotten,
    /// A freeze forgets dirt that was added after the point was written.
    FreezeKeepsLater,
    /// An abort does not say why there is added dirt in what it puts back.
    AbortKeepsReasons,
    /// An abort does not say that dirt comes back.
    CountAborting,
    /// A checkpoint that was not frozen outlives its processes.
    AbortHalfFrozen,
    /// A session is joined whose processes are gone.
    JoinComparesNonce,
    /// A session is joined of one who has the map alone.
    JoinChecksShared,
    /// A session is joined by the attach lock alone.
    JoinChecksSlots,
    /// A volatile part is mapped behind the end of the file.
    JoinChecksLength,
    /// A process that joins leaves the counts in its slot that a dead one had.
    JoinZeroesSlot,
    /// What a reader found counts although the session has ended.
    ReaderChecksSession,
    /// What is read of points while a session of the dead is repaired counts.
    ReaderChecksHeader,
    /// A clean close does not flush what others have set since.
    FlushAtClose,
    /// A clean close counts what is dirty before it flushes what others have set since.
    FlushThenCount,
    /// A clean close takes the nonce away before CLEAN is committed.
    CleanThenNonce,
    /// A clean close does not look whether all that is live is durable.
    CompareAtClose,
    /// A clean close leaves the nonce in the volatile part.
    RemoveNonce,
    /// A map goes on although the commit of its close has failed and may be in the file.
    CloseKeepsDoubt,
    /// What is done to a checkpoint does not depend on its state.
    CheckState,
    /// Space for a point is chosen and written without the space lock.
    LockSpace,
    /// An abort puts bits back without the space lock.
    AbortLocksSpace,
    /// An abort does not look whether somebody else has ended it.
    RecheckAbort,
    /// An abort of a point of which a page fails puts back the others.
    PutBackAll,
    /// A point of which a page fails holds what the others say.
    VerifyPoint,
    /// A point that holds everything, in no regions, is taken for one that holds nothing.
    HoldEverything,
    /// A point of which the file has not all entries holds what the others say.
    CheckPointLength,
    /// A point that was read is taken for the next one.
    RefreshPoint,
    /// Who reads here and in the point does not look whether bits have moved meanwhile.
    LookUntilStable,
    /// Dropping a point does not give its bits to the older one.
    DropJoinsOlder,
    /// A bracket registers after it has set.
    RegisterThenSet,
    /// A freeze waits for one of the two counts.
    DrainBoth,
    /// A freeze does not mind writes that may arrive after the death of their process.
    RefuseOutlived,
    /// The slot of a process that died with such writes is given to another one.
    KeepOutlivedSlot,
    /// The length is changed although a checkpoint is outstanding.
    RefuseOutstanding,
    /// Points of a new length hold nothing.
    ResizePoints,
    /// What is new is not dirty since a point that is kept.
    NewDirtySincePoints,
    /// What is new is clean also where the last backup's target reaches behind the old end.
    NewDirtyInTarget,
    /// The session of a length that never came to be can be joined.
    ResizeUnjoinable,
    /// The new volatile part does not know of writes under way, also of the dead.
    ResizeKeepsSlots,
    /// A new file is not made durable before it has its name.
    SyncThenName,
    /// A repair does not commit what is in doubt before it writes pages.
    DoubtThenRepair,
    /// A repair commits that to one pair only.
    RepairBothPairs,
    /// A repair does not make the length of the file durable, and what it found.
    SyncRepairedLength,
    /// Putting back does not make the length of the file durable, and what is cleared.
    SyncUndoneLength,
    /// An undo file is used for whatever map.
    CheckUndoMap,
    /// Putting back does not commit that everything is in doubt.
    DoubtThenUndo,
    /// A flush leaves armed what it keeps on the list.
    DisarmKept,
    /// A flush arms again before pages are durable.
    DurableThenRearm,
    /// A flush arms what it drops from the list until that is durable.
    CommitThenRearm,
    /// A flush looks at listed words only.
    FlushIntended,
    /// The intent is switched without a flush of what the new one does not cover.
    FlushAtSwitch,
    /// The new intent is armed before a header names it.
    SwitchThenArm,
    /// The old intent's regions are given up before the new one is durable.
    SwitchThenFree,
    /// A commit gives up the regions of the intent.
    CommitKeepsIntent,
    /// An abort gives up the regions of the intent.
    AbortKeepsIntent,
    /// An opener arms by an intent that its header does not name.
    OpenNamesIntent,
    /// A checkpoint that is committed without a backup leaves the last target as it was recorded.
    DoubtLastTarget,
    /// An opener leaves what the intent covers to a flush that does not know of it.
    MarkRecovered,
    /// An opener goes on with an intent whose point cannot be read.
    OpenEndsDoubt,
    /// An intent whose point a process cannot read goes on.
    EndDoubt,
    /// An intent that was read is taken for the next one.
    RefreshIntent,
    /// Putting back the headers does not begin with the newest.
    UndoNewestFirst,
}

thread_local! {
    static ON: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this (test) thread runs the mutant.
pub(crate) fn mutant(label: Mutant) -> bool {
    ON.with(|on| on.get() == Some(label))
}

/// Runs `f` in a mutant.
pub(crate) fn with<R>(label: Option<Mutant>, f: impl FnOnce() -> R) -> R {
    ON.with(|on| on.set(label));
    let r = f();
    ON.with(|on| on.set(None));
    r
}

/// What a step that was left out comes to.
pub(crate) trait LeftOut {
    fn left_out() -> Self;
}

macro_rules! left_out {
    ($($of:ty: $value:expr),*) => { $(impl LeftOut for $of { fn left_out() -> Self { $value } })* };
}

left_out!((): (), bool: false, u64: 0, usize: 0);

impl<T> LeftOut for Option<T> {
    fn left_out() -> Self {
        None
    }
}

impl<T: LeftOut, E> LeftOut for Result<T, E> {
    fn left_out() -> Self {
        Ok(T::left_out())
    }
}
