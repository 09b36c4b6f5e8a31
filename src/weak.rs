//! Switches that turn single steps of the protocol off, in tests only.
//!
//! Invariant kept here: outside `cfg(test)` every switch is a constant `false`. A check that cannot
//! fail is no check, so the crash tests, or loom's, run once with each of these on and must then fail.

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident,)*) => {
        /// A step that a weakened build leaves out. Those of the protocol's rules bear their names in docs/design.md.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(all(test, loom)), allow(dead_code))]
        pub(crate) enum Weak { $($(#[$doc])* $step),* }

        #[cfg(test)]
        impl Weak {
            pub(crate) const ALL: &[Weak] = &[$(Weak::$step),*];
        }
    };
}

steps! {
    /// Rule 1: `armed` is set before the header that lists the word is durable.
    PublishEarly,
    /// Rule 2: no second look at `armed` after the store.
    NoRecheck,
    /// Rule 2: `touched` is not set.
    Untouched,
    /// Rule 2: `touched` is set before the bits are stored.
    TouchFirst,
    /// Rule 3: the list forgets words before their pages are written.
    EarlyDrop,
    /// Rule 3: pages are not written at all before the list forgets them.
    NoPageWrite,
    /// Rule 4: a reset leaves the durable level as it was.
    KeepDurable,
    /// Rule 5: a newest header that is not known to be durable is taken as it is.
    TrustNewest,
    /// Rule 5: a commit that was begun and failed is forgotten when it cannot be read back.
    ForgetAttempt,
    /// Rule 5: an unarmed word of the list is not redone.
    SkipUnarmed,
    /// Rule 5: arming a listed word does not touch it.
    ArmNoTouch,
    /// Rule 7: a failed page write is taken for a success.
    ForgetError,
    /// Recovery does not make listed words dirty.
    IgnoreList,
    /// Recovery takes a page that does not match its entry as it is.
    IgnoreMismatch,
    /// Recovery forgets the list before the pages are written.
    RecoverEarlyDrop,
    /// Opening does not write the newest header again.
    NoRewrite,
    /// OPEN is not committed before the first change.
    NoOpen,
    /// Commits alternate by the parity of the sequence number.
    Parity,
    /// A clean close does not look whether the list is empty and no write has failed.
    CleanAnyway,
    /// Changing the length frees the old regions before a header names the new ones.
    TruncateEarlyFree,
    /// The header with the new length is committed to one pair only.
    TruncateOnePair,
    /// What was left in the space of the new regions is not cleared.
    TruncateNoClear,
    /// Clearing the new regions, and the length of the file, is not made durable.
    TruncateNoSync,
    /// A freeze resets before FREEZING is committed.
    FreezeEarlyReset,
    /// A freeze commits FREEZING with a point that was not written.
    PointNoWrite,
    /// What was left in the space of a new point is not cleared.
    PointNoClear,
    /// A commit gives up the point before NORMAL is durable.
    PointEarlyFree,
    /// What was frozen is not dirty since any name once it is committed.
    CommitNoJoin,
    /// A commit gives up regions when one pair does not name them any more.
    CommitOnePair,
    /// An abort gives up the point when one pair does not name it any more.
    AbortOnePair,
    /// An abort commits NORMAL before the bits are back.
    AbortEarly,
    /// An abort does not commit ABORTING before it puts bits back.
    NoAborting,
    /// Only the state of a checkpoint is compared, and not which one it is.
    NoUuid,
    /// Rule 6: a flush says that words are durable before it sets their summaries.
    SummariesLate,
    /// Rule 6: setting a bit that is set already leaves the summaries alone.
    SkipSummaries,
    /// A cleared summary is not looked at again.
    NoSecondLook,
    /// A search does not look whether summaries were being cleared.
    Unsteady,
    /// A flush of a map that lists all does not look again at what it untouched.
    UntouchBlindly,
    /// Under loom: sequentially consistent accesses only acquire and release.
    AcquireRelease,
    /// Rule 3: pages and entries are written and not synced. The simulated disk leaves the sync out.
    UnsyncedPages,
    /// Headers are written and not synced. The simulated disk leaves the sync out.
    UnsyncedHeaders,
    /// Rule 3: words are untouched after they were copied.
    ClearLate,
    /// Rule 4: a reset touches the word last.
    ResetTouchLast,
    /// A flush writes pages of words that were reset and that the list does not name.
    WriteUnlisted,
    /// A flush does not know where something was reset.
    ForgetResets,
    /// A flush of a map that lists all sets no mark before it untouches.
    NoMark,
    /// The mark of a dead flusher is not looked at.
    NoAbsorb,
    /// Rule 5: a newest header that is older than the published one is taken as it is.
    TrustOlder,
    /// Of two headers with one sequence number only the list of the first counts.
    IgnoreRivals,
    /// Opening writes both copies of the newest header again at once.
    RenewBoth,
    /// Opening writes a copy that is the newest header again before one that is not.
    RenewNewestFirst,
    /// Rule 7: nobody remembers that a durable write has failed.
    NoDegrade,
    /// Rule 7: a map of a new length does not know that a write had failed.
    TruncateForgetError,
    /// Rule 7: a commit of a new length that fails is not remembered in the new region.
    TruncateForgetDoubt,
    /// Changing the length leaves the mark of sharing in the old volatile part.
    TruncateKeepShared,
    /// Closing a `Process` map does not ask whether the kernel failed to write something back.
    CloseNoAsk,
    /// FREEZING is committed to one pair only.
    FreezeOnePair,
    /// A freeze does not look, batch by batch, whether it was aborted.
    FreezeNoRecheck,
    /// A freeze does not wait for writes that had begun.
    NoDrain,
    /// Clearing the space of a new point, and the length of the file, is not made durable.
    PointNoSync,
    /// Nobody compares how much is in a point with what was counted.
    PointNoCount,
    /// Dropping a point gives up its region when one pair does not name it any more.
    DropOnePair,
    /// The runtime page does not say that the checkpoint's state has changed.
    SilentCheckpoint,
    /// Rule 2: `set` says that it has, although arming failed.
    SetForgetError,
    /// Rule 3: words are untouched before the last of them is disarmed.
    UntouchFirst,
    /// Rule 4: a reset clears live before durable.
    ResetLiveFirst,
    /// Rule 5: a session that somebody else has begun is gone on with.
    AdoptAnySession,
    /// Rule 5: a header with other regions is gone on with.
    AdoptAnyRegions,
    /// What a dead holder of the lock has committed is not told to those who read.
    SilentAdoption,
    /// The header that is committed after a failed write does not say so.
    HeaderForgetsError,
    /// A commit is known to have been begun when it has ended.
    AttemptLate,
    /// A commit is taken for durable before it is.
    KnownEarly,
    /// The list names more than the bound.
    NoBound,
    /// The space of the volatile part is not set aside before it is stored into.
    NoAllocate,
    /// A flush for which the list has not room is over after one round.
    OneRound,
    /// A flush forgets where something was reset before it has written that.
    ForgetResetsEarly,
    /// Where something was reset is known to this process only.
    NoWindow,
    /// A reset remembers where it was when it has been there.
    RememberLate,
    /// The page cache is trusted that was another boot's.
    TrustOtherBoot,
    /// The page cache is trusted although nobody knows which boot this is.
    TrustUnknown,
    /// The page cache is trusted although the file is another one.
    TrustOtherFile,
    /// The page cache is trusted although the session in it is another one, or over.
    TrustAnyNonce,
    /// The page cache is trusted although a write had failed.
    TrustDegraded,
    /// The page cache is trusted without asking whether the kernel failed to write something back.
    TrustUnasked,
    /// Who asks that does not say so in the file before.
    AskUnmarked,
    /// The page cache is freed before the nonce is taken away by which it is trusted.
    NonceLast,
    /// The volatile part is taken as others have left it.
    KeepVolatile,
    /// Who needs no volatile part of the file leaves the nonce there.
    KeepNonce,
    /// A map in a file that ends within its page table is opened.
    IgnoreLength,
    /// A header copy is taken whatever its checksum.
    IgnoreChecksum,
    /// Of two maps whose copies are as many, one wins.
    AnyOfTwoMaps,
    /// A copy that a newer version wrote is passed over.
    PassOverNewer,
    /// A page is good that has bits past the end of the map.
    IgnoreStray,
    /// A page that was lost with its entry is not missed.
    IgnoreLost,
    /// A pair of headers of which no copy is valid is taken for one that the power went in, always.
    IgnoreLostCommit,
    /// The next session does not know that writes of a process may arrive after its death.
    OutlivedForgotten,
    /// A clean close does not count what is dirty.
    CloseNoCount,
    /// An image that is not as it was recorded is taken for the same.
    IgnoreImage,
    /// Times of an image that were recorded in an earlier boot prove that nothing was written to it since.
    TimesOfOtherBoot,
    /// Times of an image count although a write in the same step of the clock would leave them as they are.
    YoungStamp,
    /// A backup that is begun takes the place of the last one that was completed.
    BeginForgetsTarget,
    /// What was frozen is forgotten before the header names the target that has it.
    NameTargetLate,
    /// The header does not say why there is more dirt than was set.
    NoReasons,
    /// Why there is added dirt in the outstanding point does not count.
    ReasonsOfPoint,
    /// Whoever adds dirt does not say that it does.
    AddUncounted,
    /// What was seen while dirt was being added counts.
    SeenAdding,
    /// What was seen while an abort was putting bits back counts.
    SeenAborting,
    /// A reset of everything looks what was added when it has reset.
    SeenLate,
    /// The point does not know of added dirt that was forgotten since it was written.
    FreezeReasonsLate,
    /// A freeze forgets dirt that was added after the point was written.
    FreezeForgetsLater,
    /// An abort does not say why there is added dirt in what it puts back.
    AbortForgetsReasons,
    /// An abort does not say that dirt comes back.
    AbortUncounted,
    /// A checkpoint that was not frozen outlives its processes.
    OpenNoAbort,
    /// A session is joined whose processes are gone.
    JoinAnyNonce,
    /// A session is joined of one who has the map alone.
    JoinUnshared,
    /// A session is joined by the attach lock alone.
    JoinWithoutSlots,
    /// A volatile part is mapped behind the end of the file.
    JoinCutOff,
    /// A process that joins leaves the counts in its slot that a dead one had.
    JoinKeepSlot,
    /// What a reader found counts although the session has ended.
    WatchEnded,
    /// What is read of points while a session of the dead is repaired counts.
    WatchRepaired,
    /// A clean close does not flush what others have set since.
    CloseNoFlush,
    /// A clean close counts what is dirty before it flushes what others have set since.
    CloseCountEarly,
    /// A clean close takes the nonce away before CLEAN is committed.
    CloseNonceEarly,
    /// A clean close does not look whether all that is live is durable.
    CloseNoCompare,
    /// A clean close leaves the nonce in the volatile part.
    CloseKeepNonce,
    /// A map goes on although the commit of its close has failed and may be in the file.
    CloseForgetDoubt,
    /// What is done to a checkpoint does not depend on its state.
    AnyState,
    /// Space for a point is chosen and written without the space lock.
    NoSpace,
    /// An abort puts bits back without the space lock.
    AbortNoSpace,
    /// An abort does not look whether somebody else has ended it.
    AbortNoRecheck,
    /// An abort of a point of which a page fails puts back the others.
    PutBackIgnoreFailed,
    /// A point of which a page fails holds what the others say.
    PointIgnoreFailed,
    /// A point of which the file has not all entries holds what the others say.
    PointIgnoreLength,
    /// A point that was read is taken for the next one.
    StalePoint,
    /// Who reads here and in the point does not look whether bits have moved meanwhile.
    LookOnce,
    /// Dropping a point does not give its bits to the older one.
    DropNoMerge,
    /// A bracket registers after it has set.
    RegisterLate,
    /// A freeze waits for one of the two counts.
    DrainOne,
    /// A freeze does not mind writes that may arrive after the death of their process.
    ForgetOutlived,
    /// The slot of a process that died with such writes is given to another one.
    TakeOutlived,
    /// The length is changed although a checkpoint is outstanding.
    TruncateOutstanding,
    /// Points of a new length hold nothing.
    TruncateForgetPoints,
    /// What is new is not dirty since a point that is kept.
    TruncateForgetNew,
    /// What is new is clean also where the last backup's target reaches behind the old end.
    TruncateTargetReaches,
    /// The session of a length that never came to be can be joined.
    TruncateJoinable,
    /// The new volatile part does not know of writes under way, also of the dead.
    TruncateForgetSlots,
    /// A new file is not made durable before it has its name.
    CreateUnsynced,
    /// A repair does not commit what is in doubt before it writes pages.
    RepairNoDoubt,
    /// A repair commits that to one pair only.
    RepairOnePair,
    /// A repair makes a file longer that ended within a point, whose missing entries are zeros then.
    RepairNoSpoil,
    /// A repair fills a point in order, the page that fails not last.
    RepairFillInOrder,
    /// A repair does not make the length of the file durable, and what it found.
    RepairUnsynced,
    /// Putting back does not make the length of the file durable, and what is cleared.
    UndoUnsynced,
    /// An undo file is used for whatever map.
    UndoAnyMap,
    /// Putting back does not commit that everything is in doubt.
    UndoNoDoubt,
    /// Putting back the headers does not begin with the newest.
    UndoInOrder,
}

#[cfg(test)]
thread_local! {
    static OFF: std::cell::Cell<Option<Weak>> = const { std::cell::Cell::new(None) };
}

/// Whether the step is switched off in this (test) thread.
#[inline(always)]
pub(crate) fn weak(_step: Weak) -> bool {
    #[cfg(test)]
    {
        OFF.with(|off| off.get() == Some(_step))
    }
    #[cfg(not(test))]
    {
        false
    }
}

/// A place where a test lets somebody else act, or kills the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Point {
    /// The word was seen armed; nothing is stored yet.
    SeenArmed,
    /// The bits are stored; the word is not touched yet.
    Stored,
    /// The word is touched; it is not known yet whether it is still armed.
    Touched,
    /// Arming: the list is durable; what was left behind is not touched yet.
    Listed,
    /// Arming: it is touched, and nothing armed yet.
    LeftTouched,
    /// Resetting: the words are remembered, and not touched.
    Remembered,
    /// Resetting: a word is touched, and what it had still durable.
    ResetTouched,
    /// Resetting: a word is not durable any more, and still live.
    ResetDurable,
    /// Resetting: a word is not live any more, and its summaries are still set.
    ResetLive,
    /// Flushing: disarmed, and still touched.
    Disarmed,
    /// Flushing: untouched, and not looked at.
    Untouched,
    /// Flushing: the pages are durable, and not known to be.
    Written,
    /// Flushing: known to be durable, and still listed.
    Durable,
    /// Flushing a map that lists all: the mark is set, and nothing untouched.
    Marked,
    /// Flushing a map that lists all: untouched, and not looked at again.
    UntouchedLast,
    /// The header with a new length is committed next, to the first pair or to the second.
    NewLength,
    /// A commit is known to be durable, and readers do not know the checkpoint's state.
    Published,
    /// Opening: one part of what the dead have left is freed, and the other is not; the nonce is in one of them.
    Freed,
    /// Space for a point was chosen, and nothing is written there.
    Chosen,
    /// A batch of the point was read, and is to be reset.
    Resetting,
    /// An abort has committed ABORTING, and nothing is put back.
    Aborting,
    /// The header says why dirt is added, and none of it is there.
    Adding,
    /// A reset of everything has reset it.
    ResetAll,
    /// A freeze has written the point, and no header names it.
    Unnamed,
    /// An abort has put everything back, and NORMAL is not committed.
    PutBack,
}

/// What a test does at a [`Point`].
#[cfg(test)]
pub(crate) type Visitor = Box<dyn FnMut(Point)>;

#[cfg(test)]
thread_local! {
    static VISITOR: std::cell::RefCell<Option<Visitor>> = const { std::cell::RefCell::new(None) };
}

/// Lets a test act in between.
#[inline(always)]
pub(crate) fn at(_point: Point) {
    #[cfg(test)]
    {
        // Taken out meanwhile: what the visitor does is not visited.
        if let Some(mut visitor) = VISITOR.with(|v| v.borrow_mut().take()) {
            visitor(_point);
            VISITOR.with(|v| {
                v.borrow_mut().get_or_insert(visitor);
            });
        }
    }
}

/// Runs `f` without calling the visitor.
#[cfg(test)]
pub(crate) fn unvisited<R>(f: impl FnOnce() -> R) -> R {
    let visitor = VISITOR.with(|v| v.borrow_mut().take());
    let r = f();
    if visitor.is_some() {
        visit(visitor);
    }
    r
}

/// Has `visitor` called at every [`Point`] that this thread passes.
#[cfg(test)]
pub(crate) fn visit(visitor: Option<Visitor>) {
    VISITOR.with(|v| *v.borrow_mut() = visitor);
}

/// Runs `f` with a step switched off in this thread.
#[cfg(test)]
pub(crate) fn with<R>(step: Option<Weak>, f: impl FnOnce() -> R) -> R {
    OFF.with(|off| off.set(step));
    let r = f();
    OFF.with(|off| off.set(None));
    r
}
