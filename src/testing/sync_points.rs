//! Sync points: places between two steps where a test acts.

/// A place where a test lets somebody else act, or kills the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncPoint {
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
    /// Flushing a `Process` map: the mark is set, and nothing untouched.
    Marked,
    /// Flushing a `Process` map: untouched, and not looked at again.
    UntouchedLast,
    /// The header with a new length is committed next, to the first pair or to the second.
    NewLength,
    /// A commit is known to be durable, and readers do not know the checkpoint's state.
    Committed,
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
    /// A check has counted what is dirty in a map that others have open, and not asked whether they still have it.
    Counted,
}

/// What a test does at a [`SyncPoint`].
pub(crate) type Visitor = Box<dyn FnMut(SyncPoint)>;

thread_local! {
    static VISITOR: std::cell::RefCell<Option<Visitor>> = const { std::cell::RefCell::new(None) };
}

/// Lets a test act in between.
pub(crate) fn pass(point: SyncPoint) {
    // Taken out meanwhile: what the visitor does is not visited.
    if let Some(mut visitor) = VISITOR.with(|v| v.borrow_mut().take()) {
        visitor(point);
        VISITOR.with(|v| {
            v.borrow_mut().get_or_insert(visitor);
        });
    }
}

/// Runs `f` without calling the visitor.
pub(crate) fn unvisited<R>(f: impl FnOnce() -> R) -> R {
    let visitor = VISITOR.with(|v| v.borrow_mut().take());
    let r = f();
    if visitor.is_some() {
        visit(visitor);
    }
    r
}

/// Has `visitor` called at every [`SyncPoint`] that this thread passes.
pub(crate) fn visit(visitor: Option<Visitor>) {
    VISITOR.with(|v| *v.borrow_mut() = visitor);
}
