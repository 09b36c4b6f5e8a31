//! Causes that callers tell apart within one kind of error.
//!
//! Invariant kept here: every cause has a code of its own, which never changes and is never zero, and a text that says what
//! to do next.

use crate::uuid::Uuid;
use std::fmt;

/// A process that holds a lock which another one waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name, as the kernel has it: at most 15 bytes. Empty when it is not known.
    pub name: String,
    /// It is stopped: by SIGSTOP, a debugger or a paused container. It keeps its locks until it goes on or dies.
    pub stopped: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if !self.name.is_empty() {
            write!(f, ", {}", self.name.escape_debug())?;
        }
        f.write_str(if self.stopped { ", which is stopped" } else { "" })
    }
}

/// What an operation waited for in vain, in [`Error::Locked`](crate::Error::Locked).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InUse {
    /// Another process has the map open, and does not share it or is not shared with.
    Open = 1,
    /// Others have it open, in no session that can be joined: they are leaving, or are another kind of program.
    Session = 2,
    /// Another process is opening, closing or checking it, which takes moments.
    Gate = 3,
    /// Another process is arming, resetting, flushing or committing, which takes moments or what its disk takes to sync.
    Update = 4,
    /// Another process writes or puts back a checkpoint.
    Checkpoint = 5,
    /// Another process has [claimed](crate::DirtyMap::claim_backup) it for a backup.
    Backup = 6,
    /// Other processes share it, and only one that is alone can change its length.
    Shared = 7,
    /// As many processes as can share it do so.
    Full = 8,
    /// Its points change all the time.
    Points = 9,
}

impl InUse {
    /// A number for each, which never changes and is never zero: 1 to 9, in the order above.
    pub fn code(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InUse::Open => "another process has it open",
            InUse::Session => "others have it open, in no session that can be joined; it can be had when they are gone",
            InUse::Gate => "another process is opening, closing or checking it",
            InUse::Update => "another process holds the update lock",
            InUse::Checkpoint => "another process writes or puts back a checkpoint",
            InUse::Backup => "another process is making a backup by it",
            InUse::Shared => "other processes have it open, and only one that is alone can change its length",
            InUse::Full => "as many processes as can have it open",
            InUse::Points => "its points change all the time",
        })
    }
}

/// What of a file cannot be used, in [`Error::Corrupt`](crate::Error::Corrupt).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Corruption {
    /// No header copy is valid, so that there is nothing to go by.
    Headers = 1,
    /// As many header copies are of one map as of another.
    TwoMaps = 2,
    /// The file ends inside its page table: a [repair](crate::fsck::repair()) makes everything dirty.
    CutOff = 3,
    /// The header, or the part that processes share, is not what it was: another program has changed the file.
    Changed = 4,
    /// A point is not as it was just written.
    Point = 5,
    /// An undo file is not as a repair has made it.
    Undo = 6,
}

impl Corruption {
    /// A number for each, which never changes and is never zero: 1 to 6, in the order above.
    pub fn code(self) -> u32 {
        self as u32
    }
}

/// Why a map cannot be used any more, in [`Error::Unusable`](crate::Error::Unusable).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unusable {
    /// A forked child has inherited it. The child opens its own; the parent's goes on.
    Forked = 1,
    /// Another process took its session over, as after a repair.
    SessionEnded = 2,
    /// Another process changed its length.
    Moved = 3,
    /// It was open for reading, and those who had it open for writing have closed it or changed its length.
    WritersLeft = 4,
    /// It was open for reading, and its points are others by now.
    PointsChanged = 5,
    /// The commit of its close failed: nobody knows whether the file is closed.
    CloseInDoubt = 6,
    /// The commit of another length failed: nobody knows which length the file has.
    LengthInDoubt = 7,
    /// A lock that others rely on could not be had again.
    LockLost = 8,
}

impl Unusable {
    /// A number for each, which never changes and is never zero: 1 to 8, in the order above.
    pub fn code(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unusable::Forked => "it was inherited by a forked child",
            Unusable::SessionEnded => "its session was ended by somebody else",
            Unusable::Moved => "its regions were moved by somebody else",
            Unusable::WritersLeft => "those who had it open have closed it or changed its length",
            Unusable::PointsChanged => "its points have changed since it was loaded",
            Unusable::CloseInDoubt => {
                "the commit of its close failed, and the file may be closed or not; drop it, and open it again"
            }
            Unusable::LengthInDoubt => {
                "the commit of a new length failed, and the file may have the old one or the new"
            }
            Unusable::LockLost => "the attach lock could not be had again",
        })
    }
}

/// Why something is not done here, and what to do instead, in [`Error::Refused`](crate::Error::Refused).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A label that is too long or has a zero byte.
    Label {
        /// How many bytes it has.
        bytes: usize,
        /// How many it may have.
        most: usize,
    },
    /// The map is on a file system that is not known to show every change of a mapped file.
    FileSystem {
        /// Its type number, as `statfs` has it.
        number: i64,
        /// Those that are known, for people.
        known: &'static str,
        /// Whether the map can be opened there if it is not shared.
        alone: bool,
    },
    /// Sharing takes more locked memory than this process may have.
    LockedMemory {
        /// How much it takes.
        bytes: u64,
    },
    /// The file is written copy-on-write, so that space cannot be set aside for it.
    CopyOnWrite,
    /// The length cannot change while a checkpoint is outstanding.
    CheckpointOutstanding {
        /// Its identity.
        uuid: Uuid,
        /// The name that it was frozen with, or nothing.
        name: String,
    },
    /// A freeze by a thread that has begun a write which has not ended.
    WithinWrite,
    /// A process died whose writes may still arrive, so that no freeze can tell when the image stands still.
    WritesMayArrive,
    /// A name that no point can have.
    PointName {
        /// How many bytes it has.
        bytes: usize,
        /// How many it may have.
        most: usize,
    },
    /// A point has that name already.
    PointExists {
        /// The name.
        name: String,
    },
    /// There are as many points as there can be.
    TooManyPoints {
        /// How many.
        most: usize,
    },
    /// A checkpoint that was frozen without a name is to be kept.
    Unnamed,
    /// A point that was frozen before the one that is said to be older.
    PointOrder {
        /// What was given as the older one.
        from: String,
        /// What was given as the newer one.
        to: String,
    },
    /// A repair cannot be taken back where it has to ask the page cache.
    AsksPageCache,
    /// A repair cannot be taken back of a map that was written since.
    WrittenSinceRepair {
        /// The number of its newest commit.
        sequence: u64,
    },
    /// An undo file of another map.
    UndoOfAnotherMap {
        /// That one's identity.
        uuid: Uuid,
    },
}

impl Refusal {
    /// A number for each, which never changes and is never zero: 1 to 15, in the order above.
    pub fn code(&self) -> u32 {
        match self {
            Refusal::Label { .. } => 1,
            Refusal::FileSystem { .. } => 2,
            Refusal::LockedMemory { .. } => 3,
            Refusal::CopyOnWrite => 4,
            Refusal::CheckpointOutstanding { .. } => 5,
            Refusal::WithinWrite => 6,
            Refusal::WritesMayArrive => 7,
            Refusal::PointName { .. } => 8,
            Refusal::PointExists { .. } => 9,
            Refusal::TooManyPoints { .. } => 10,
            Refusal::Unnamed => 11,
            Refusal::PointOrder { .. } => 12,
            Refusal::AsksPageCache => 13,
            Refusal::WrittenSinceRepair { .. } => 14,
            Refusal::UndoOfAnotherMap { .. } => 15,
        }
    }

    /// Whether opening for [`Access::Shared`](crate::Access::Shared) is what was refused, and the map can be had alone.
    pub fn is_of_sharing(&self) -> bool {
        matches!(self, Refusal::FileSystem { alone: true, .. } | Refusal::LockedMemory { .. })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Label { bytes, most } => {
                write!(f, "the label has {bytes} bytes; it may have at most {most}, and no zero byte")
            }
            Refusal::FileSystem { number, known, alone } => file_system(f, *number, known, *alone),
            Refusal::LockedMemory { bytes } => write!(
                f,
                "sharing this map takes {bytes} bytes of locked memory, and this process may not have as much \
                 (RLIMIT_MEMLOCK, `ulimit -l`, LimitMEMLOCK= of systemd; at most half of the memory of the machine and \
                 of each control group, and what is left of it); raise the limit, or open the map alone"
            ),
            Refusal::CopyOnWrite => f.write_str(
                "this file on btrfs is written copy-on-write, so that space cannot be set aside for it; create a new \
                 map here, or make a copy with `chattr +C` set on the empty file first",
            ),
            Refusal::CheckpointOutstanding { uuid, name } => outstanding(f, uuid, name),
            Refusal::WithinWrite => f.write_str(
                "this thread has begun a write that has not ended, and a freeze would wait for it; end the write first",
            ),
            Refusal::WritesMayArrive => f.write_str(
                "a process died that may have writes under way which still arrive, so no freeze can tell when the \
                 image stands still; see that they are over, and close the map in all processes",
            ),
            Refusal::PointName { bytes, most } => {
                write!(f, "the name of a point has 1 to {most} bytes and no zero byte; this one has {bytes} bytes")
            }
            Refusal::PointExists { name } => {
                write!(f, "it has a point named {name:?} already; choose another name, or drop that one")
            }
            Refusal::TooManyPoints { most } => write!(f, "it has {most} points, which is the most; drop one first"),
            Refusal::Unnamed => f.write_str("the checkpoint was frozen without a name, and so cannot be kept"),
            Refusal::PointOrder { from, to } => {
                write!(f, "{to:?} was frozen before {from:?}; give the older one first")
            }
            Refusal::AsksPageCache => f.write_str(
                "the page cache may still know what is dirty, and only opening the map can ask it; repair it without \
                 keeping what is changed, or copy it and repair the copy",
            ),
            Refusal::WrittenSinceRepair { sequence } => write!(
                f,
                "the map was written since it was repaired (commit {sequence}), and what was set since would be lost; \
                 keep it as it is"
            ),
            Refusal::UndoOfAnotherMap { uuid } => {
                write!(f, "the undo file is of map {uuid}, and no header copy is; give the undo file of this map")
            }
        }
    }
}

fn file_system(f: &mut fmt::Formatter<'_>, number: i64, known: &str, alone: bool) -> fmt::Result {
    let advice = if alone {
        "open it alone"
    } else {
        "a map that is to survive the process only has to be on one of these; one that is to survive a power cut need not"
    };
    write!(
        f,
        "it is on a file system (type {number:#x}) of which it is not known that this kernel sees every change of a mapped \
         file, as of FUSE and of network file systems; known are {known}; {advice}"
    )
}

fn outstanding(f: &mut fmt::Formatter<'_>, uuid: &Uuid, name: &str) -> fmt::Result {
    write!(
        f,
        "checkpoint {uuid}{} is outstanding, and of what it has frozen a backup may be under way; commit or abort it before \
         the length is changed",
        named(name)
    )
}

/// A number of things, for a message: "1 page", "2 pages".
pub(crate) fn counted(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// How a checkpoint's name follows its identity in a message.
pub(super) fn named(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" named {name:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_causes_never_change() {
        use {Corruption as C, InUse::*, Refusal as R, Unusable as U};
        let locks = [Open, Session, Gate, Update, Checkpoint, Backup, Shared, Full, Points];
        assert!(locks.iter().map(|cause| cause.code()).eq(1..=9));
        let corrupt = [C::Headers, C::TwoMaps, C::CutOff, C::Changed, C::Point, C::Undo];
        assert!(corrupt.iter().map(|cause| cause.code()).eq(1..=6));
        let unusable = [
            U::Forked,
            U::SessionEnded,
            U::Moved,
            U::WritersLeft,
            U::PointsChanged,
            U::CloseInDoubt,
            U::LengthInDoubt,
            U::LockLost,
        ];
        assert!(unusable.iter().map(|cause| cause.code()).eq(1..=8));
        let name = String::new;
        let refusals = [
            R::Label { bytes: 0, most: 0 },
            R::FileSystem { number: 0, known: "", alone: true },
            R::LockedMemory { bytes: 0 },
            R::CopyOnWrite,
            R::CheckpointOutstanding { uuid: Uuid::NIL, name: name() },
            R::WithinWrite,
            R::WritesMayArrive,
            R::PointName { bytes: 0, most: 0 },
            R::PointExists { name: name() },
            R::TooManyPoints { most: 0 },
            R::Unnamed,
            R::PointOrder { from: name(), to: name() },
            R::AsksPageCache,
            R::WrittenSinceRepair { sequence: 0 },
            R::UndoOfAnotherMap { uuid: Uuid::NIL },
        ];
        assert!(refusals.iter().map(Refusal::code).eq(1..=15));
    }
}
