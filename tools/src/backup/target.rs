//! Where a backup goes: what the engine asks of it, in this order.

use super::copy::Copied;
use super::{Job, Outcome, Work};
use crate::exit::Result;
use crate::files::Content;
use crate::terminal::pass::Pass;
use dirtymap::{DirtyMap, ImageStamp, checkpoint::Checkpoint, info::Info};
use std::ops::Range;

/// What has to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Everything: nothing is known of what the target has.
    Everything,
    /// What was frozen: the target is the map's last.
    Last,
    /// What was written since the point of this name.
    Since(String),
}

/// What an outcome says of a target.
#[derive(Clone, Debug)]
pub struct Described {
    pub target: String,
    /// Why everything is copied to it; `None` if it is not.
    pub why_full: Option<String>,
    /// Whether it was not there before.
    pub new: bool,
}

/// The target of a backup.
pub trait Target {
    /// Refuses what can be no target by what the map says. Asked before the map is opened for writing.
    fn acceptable(&self, info: &Info, size: u64) -> Result<()>;
    /// Settles what a backup has left that was killed, of which the map knows as well. The map is claimed. If that is all that
    /// was asked for, how that backup ended.
    fn settle(&mut self, job: &Job<'_>) -> Result<Option<Outcome>>;
    /// The name to freeze with.
    fn point(&self) -> &str;
    /// What it is now, for the checkpoint to name it. Asked when it is prepared.
    fn stamp(&self) -> Option<ImageStamp>;
    /// Whether a checkpoint that is outstanding was left by a backup to this target that was killed, by its name.
    fn has_left(&self, _stale: &Checkpoint) -> bool {
        false
    }
    /// Looks at what is there, decides what to copy, and makes sure that it can be written. Nothing is overwritten.
    fn prepare(&mut self, job: &Job<'_>, info: &Info) -> Result<Base>;
    /// Whether more of the source is read than what is to be copied.
    fn reads_all(&self, map: &DirtyMap) -> bool;
    /// Proves that it has what will not be copied, where nothing else does; says how many bytes were compared.
    fn prove(&mut self, job: &Job<'_>, work: &Work, info: &Info) -> Result<u64>;
    /// From here on it is written.
    fn begin(&mut self, job: &Job<'_>, work: &Work) -> Result<()>;
    /// Copies areas of the source, which ascend, to a disk of `len` bytes.
    fn copy(
        &mut self,
        job: &Job<'_>,
        len: u64,
        areas: &mut dyn Iterator<Item = Range<u64>>,
        pass: &Pass,
    ) -> Result<Copied>;
    /// Makes everything durable that was copied, and has it read from the device from here on.
    fn complete(&mut self) -> Result<()>;
    /// What it holds, to be read back.
    fn content(&self) -> Result<&dyn Content>;
    /// Whether some of what was not copied is to be compared.
    fn to_audit(&self) -> bool;
    /// It is verified: makes it a backup that can be relied upon. What the map is to know of it.
    fn publish(&mut self, job: &Job<'_>, work: &Work, outcome: &mut Outcome) -> Result<ImageStamp>;
    /// Whether it is a backup whatever happens to the map: then the checkpoint must not be put back.
    fn is_published(&self) -> bool;
    /// The checkpoint is committed, and no other one of the backup is frozen any more. Best effort: the backup is complete.
    fn committed(&mut self, job: &Job<'_>, outcome: &mut Outcome);
    /// The backup has failed. Best effort: the next one settles what is left. Whether that goes on with what was copied.
    fn abandon(&mut self) -> bool;
    /// What the outcome says of it.
    fn describe(&self) -> Described;
}
