//! The steps of a snapshot by name: tests kill the server at each of them, hold it there, or have it leave one out.
//!
//! Invariant kept here: a build without debug assertions has nothing of this. A build with them does nothing but what the
//! environment asks for, and nobody asks but a test.
//!
//! | variable | what happens |
//! | --- | --- |
//! | `DIRTYMAP_TEST_KILL_AT=N` | the process kills itself at the N-th step that it comes to |
//! | `DIRTYMAP_TEST_HOLD_AT=STEP@PATH` | the first time at this step it makes the file PATH, and waits until that is gone |
//! | `DIRTYMAP_TEST_LEAVE_OUT=RULE` | it goes on without this rule |

/// A step; named after what was done when it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A writer has come.
    Came,
    /// It is in its bracket, and has not looked for a snapshot.
    Marked,
    /// It has entered the era and copied what it must, and writes the image now.
    Entered,
    /// It has found that it must copy.
    MustCopy,
    /// The old bytes are read.
    OldRead,
    /// The old bytes are in scratch.
    DataWritten,
    /// The entry is in the index.
    EntryWritten,
    /// BROKEN is in the header.
    BrokenWritten,
    /// A reader has looked where a granule is.
    Looked,
    /// DONE is in the index.
    DoneWritten,
    /// Scratch is freed.
    Freed,
    /// The files of scratch are there.
    Prepared,
    /// Copying is on.
    CopyingOn,
    /// The freeze has waited for older writers.
    Drained,
    /// What was copied is marked again.
    MarkedAgain,
    /// The header says READY.
    ReadyWritten,
    /// The map says FROZEN.
    Frozen,
    /// Of disks that end by themselves: each header says that all maps have said so.
    MadeWritten,
    /// The image is synced for a commit, and all checkpoints are there.
    ImageSynced,
    /// COMMITTING is in the headers of all disks.
    CommittingWritten,
    /// The map of a disk says NORMAL, after a commit.
    DiskCommitted,
    /// All maps say NORMAL, after a commit.
    Committed,
    /// The map says NORMAL, after an abort.
    Aborted,
    /// Copying is off.
    CopyingOff,
    /// The index is gone.
    IndexRemoved,
    /// The data is gone.
    DataRemoved,
    /// A server that takes over has written ASKING.
    AskingWritten,
    /// It has found all evidence right.
    Asked,
    /// It serves what it found.
    TakenOver,
}

/// A rule that a test may have left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Copying is on before the freeze looks at anything.
    CopyBeforeFreeze,
    /// What has an entry is marked again before FROZEN.
    MarkAgain,
    /// A writer looks for a snapshot after it has registered.
    RegisterThenLook,
    /// A copy waits for older writers.
    WaitForOlder,
    /// The data is in scratch before the entry is in the index.
    DataThenEntry,
    /// The entry is in the index before the image is written.
    EntryThenImage,
    /// A writer that has the granule's lock looks again.
    LookUnderLock,
    /// A reader looks again.
    ReadThenLook,
    /// DONE is in the index.
    RecordDone,
    /// A failed copy is in the header before the image is written.
    RecordBroken,
    /// The map says NORMAL before copying is off.
    NormalThenOff,
    /// A commit waits for syncs that are under way.
    WaitForSyncs,
    /// COMMITTING is in the headers of several disks before the first map says NORMAL.
    CommitAll,
    /// READY is in the header before FROZEN.
    ReadyThenFrozen,
    /// A disk without its checkpoint has ended by itself only if all were frozen.
    MadeThenEnded,
    /// A server that takes over serves only with all evidence.
    CompareEvidence,
    /// And only the checkpoint that the header names.
    CompareUuid,
    /// And only if nobody asked before.
    RefuseAsking,
    /// What cannot be served any more is aborted.
    AbortOwn,
    /// Reads of scratch verify its checksum.
    VerifyData,
}

#[cfg(debug_assertions)]
mod armed {
    use super::{Rule, Step};
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    struct Armed {
        kill_at: Option<u64>,
        hold_at: Vec<(String, PathBuf, AtomicBool)>,
        leave_out: Option<String>,
        steps: AtomicU64,
    }

    static ARMED: LazyLock<Armed> = LazyLock::new(|| {
        let asked = |name: &str| std::env::var(format!("DIRTYMAP_TEST_{name}")).ok();
        let hold = asked("HOLD_AT").unwrap_or_default();
        let holds = hold.split(',').filter_map(|hold| hold.split_once('@'));
        Armed {
            kill_at: asked("KILL_AT").and_then(|n| n.parse().ok()),
            hold_at: holds.map(|(step, path)| (step.into(), path.into(), AtomicBool::new(false))).collect(),
            leave_out: asked("LEAVE_OUT"),
            steps: AtomicU64::new(0),
        }
    });

    pub fn at(step: Step) {
        let armed = &*ARMED;
        // Reads leave nothing behind.
        if let Some(kill_at) = armed.kill_at
            && step != Step::Looked
            && armed.steps.fetch_add(1, SeqCst) + 1 == kill_at
        {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // It takes effect before anything else is done.
            loop {
                std::thread::park();
            }
        }
        for (name, path, held) in &armed.hold_at {
            if *name == format!("{step:?}") && !held.swap(true, SeqCst) {
                let _ = std::fs::write(path, "");
                while path.exists() {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        }
    }

    pub fn keeps(rule: Rule) -> bool {
        ARMED.leave_out.as_ref().is_none_or(|out| *out != format!("{rule:?}"))
    }
}

#[cfg(debug_assertions)]
pub use armed::{at, keeps};

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline]
pub fn at(_step: Step) {}

/// Every rule is kept.
#[cfg(not(debug_assertions))]
#[inline]
pub fn keeps(_rule: Rule) -> bool {
    true
}
