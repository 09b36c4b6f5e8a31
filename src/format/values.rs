//! The small types of a header: states, reasons, and what is known of a session.
//!
//! Invariant kept here: a value of one of these types is one that the format knows. What bytes may carry beyond
//! that (bits for diagnosis, reserved bytes) is kept as it was found.

use super::codec::{array_at, put};
pub use crate::uuid::{NotUuid, Uuid};
use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// Bytes that this version gives no meaning. They are kept as they were found, because a feature that this
/// version may ignore can live in them; new ones are zeros (`Default`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reserved<const N: usize>([u8; N]);

impl<const N: usize> Reserved<N> {
    pub(super) fn at(bytes: &[u8], at: usize) -> Reserved<N> {
        Reserved(array_at(bytes, at))
    }

    pub(super) fn put(&self, bytes: &mut [u8], at: usize) {
        put(bytes, at, &self.0);
    }

    /// Whether they are all zeros, as this version makes them.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

impl<const N: usize> Default for Reserved<N> {
    fn default() -> Reserved<N> {
        Reserved([0; N])
    }
}

impl<const N: usize> fmt::Debug for Reserved<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() { f.write_str("zeros") } else { write!(f, "{:02x?}", self.0) }
    }
}

/// Whether the map was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Closed: the bottom holds everything, except what the armed list names.
    Clean = 1,
    /// In use, or left behind by a crash.
    Open = 2,
}

/// What the map promises to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Everything, a power cut included.
    PowerLoss = 1,
    /// The death of processes; after anything worse, everything is dirty.
    Process = 2,
}

/// How far the outstanding checkpoint has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckpointState {
    /// There is none.
    Normal = 0,
    /// The bits are being moved to the point; it is no backup's work list yet.
    Freezing = 1,
    /// The backup works.
    Frozen = 2,
    /// The bits are being put back.
    Aborting = 3,
}

impl CheckpointState {
    /// Its name in FORMAT.md, in small letters.
    pub fn name(self) -> &'static str {
        match self {
            CheckpointState::Normal => "normal",
            CheckpointState::Freezing => "freezing",
            CheckpointState::Frozen => "frozen",
            CheckpointState::Aborting => "aborting",
        }
    }
}

/// Why dirt was added that nobody asked for: a set of bits. Unknown ones are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reasons(pub u32);

impl Reasons {
    /// Recovery after a crash made the armed words dirty.
    pub const CRASH: Reasons = Reasons(1);
    /// A page did not match its entry or could not be read.
    pub const DAMAGED_PAGE: Reasons = Reasons(2);
    /// The image was changed while no tracker had the map open.
    pub const IMAGE_CHANGED: Reasons = Reasons(4);
    /// The page cache could not be trusted after an unclean end.
    pub const CACHE_NOT_TRUSTED: Reasons = Reasons(8);
    /// A repair made everything dirty.
    pub const REPAIR: Reasons = Reasons(16);
    /// It was made of a bitmap in which another program had not recorded everything.
    pub const NOT_KEPT_UP: Reasons = Reasons(32);
    /// A header that was durable was lost, and may have been newer.
    pub const LOST_COMMIT: Reasons = Reasons(64);

    /// The names that FORMAT.md gives the bits.
    pub const NAMES: [(Reasons, &'static str); 7] = [
        (Reasons::CRASH, "crash"),
        (Reasons::DAMAGED_PAGE, "damaged page"),
        (Reasons::IMAGE_CHANGED, "image changed untracked"),
        (Reasons::CACHE_NOT_TRUSTED, "page cache not trusted"),
        (Reasons::REPAIR, "repair"),
        (Reasons::LOST_COMMIT, "header lost"),
        (Reasons::NOT_KEPT_UP, "imported from a bitmap that was not kept up"),
    ];

    /// No reason.
    pub const NONE: Reasons = Reasons(0);

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Reasons::NONE
    }

    /// Whether all of `other` are among these.
    pub fn contains(self, other: Reasons) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Reasons {
    type Output = Reasons;
    fn bitor(self, other: Reasons) -> Reasons {
        Reasons(self.0 | other.0)
    }
}

impl BitOrAssign for Reasons {
    fn bitor_assign(&mut self, other: Reasons) {
        self.0 |= other.0;
    }
}

/// Where and by which boot of which machine the file was last opened for writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The boot; nil when unknown.
    pub boot_id: Uuid,
    /// Device of the file.
    pub device: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Unique mount id; 0 when unknown.
    pub mount: u64,
    /// When the file was made, in nanoseconds since 1970; 0 when unknown.
    pub birth: i64,
    /// [`Session::DEGRADED`], [`Session::OUTLIVE`], [`Session::OUTLIVED`], and bits of later versions, which mean
    /// the same as the first.
    pub flags: u32,
}

impl Session {
    /// A durable write failed in this session.
    pub const DEGRADED: u32 = 1;
    /// A process of this session has said that its data writes may arrive after its death.
    pub const OUTLIVE: u32 = 2;
    /// A process of an earlier session had said so, and that session was not closed by all.
    pub const OUTLIVED: u32 = 4;

    /// Whether the page cache is not to be trusted after this session.
    pub fn write_failed(&self) -> bool {
        self.flags & !(Session::OUTLIVE | Session::OUTLIVED) != 0
    }
}
