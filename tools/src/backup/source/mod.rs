//! Where a backup comes from: what the engine asks of it, in this order.

mod export;
mod file;
mod nbd;
mod server;

pub use file::FileSource;
pub use nbd::NbdSource;
pub use server::Server;

use super::target::Base;
use crate::exit::Result;
use crate::files::{Content, Image};
use crate::terminal::output::Output;
use dirtymap::{DirtyMap, ImageStamp, ReadMap, checkpoint::Checkpoint, info::Info};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What is to be frozen.
pub struct Wish<'a> {
    /// The name to freeze with.
    pub point: &'a str,
    /// What the target is now, if the checkpoint is to name it.
    pub target: Option<ImageStamp>,
    pub base: Base,
    /// The rest will be read as well.
    pub all: bool,
}

/// What was frozen, and what is to be copied of it.
pub struct Frozen {
    pub checkpoint: Checkpoint,
    /// `None`: everything.
    pub bits: Option<Arc<dyn ReadMap>>,
}

/// What looking back at a source tells of the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meanwhile {
    /// What was read was changed while it was read.
    pub changed: bool,
    /// Whether nothing was written to it; `None` where the system does not tell.
    pub one_moment: Option<bool>,
}

/// The source of a backup: the bytes, and the map that says which of them are to be copied.
pub trait Source {
    /// What it is called.
    fn name(&self) -> String;
    /// What it is called wherever one stands: a set records it of each member.
    fn origin(&self) -> String;
    /// Bytes of it.
    fn size(&self) -> u64;
    /// What kind of file it is, if its bytes are not where a disk has them.
    fn container(&self) -> Option<&'static str>;
    /// The file whose users may use the backup as well; without one its owner alone.
    fn like(&self) -> Option<&File>;
    /// Refuses a target that is the source itself, or what belongs to it. `found`: what is at that name.
    fn apart(&self, target: &Path, found: Option<&Image>) -> Result<()>;
    /// The file of its map.
    fn map(&self) -> &Path;
    /// Opens the map, if what it says fits the source and is `acceptable` to the target.
    fn open_map(
        &mut self,
        wait: Duration,
        output: Output,
        acceptable: &dyn Fn(&Info) -> Result<()>,
    ) -> Result<DirtyMap>;
    /// Makes what was written so far durable, so that less is left to do while it is frozen; says what is not known of it.
    fn prepare(&self, output: Output) -> Result<()>;
    /// It is going to be frozen as is wished, with all others of the backup: lets go of what would keep them from that.
    fn let_go(&mut self, _map: &mut DirtyMap, _wish: &Wish<'_>) -> Result<()> {
        Ok(())
    }
    /// A snapshot was there already (`snapshot-exists`): ends what a backup that was killed has of it here. Whether there was such.
    fn make_way(&mut self, _map: &mut DirtyMap) -> Result<bool> {
        Ok(false)
    }
    /// Freezes what is dirty, and says what is to be copied. If it fails, nothing is frozen, nor will be, unless it
    /// [is unanswered](Source::is_unanswered).
    fn freeze(&mut self, map: &mut DirtyMap, wish: Wish<'_>) -> Result<Frozen>;
    /// All writes that what was frozen stands for have ended: makes them durable.
    fn sync(&self) -> Result<()>;
    /// From here on it is read.
    fn begin(&self) -> Result<()>;
    /// What is to be copied is read here.
    fn content(&self) -> &dyn Content;
    /// Whether writers may change that while it is read; then what they change is set in the map.
    fn is_live(&self, info: &Info) -> bool;
    /// Where clean granules are read, if not there as well. Writers may change them meanwhile.
    fn clean(&self) -> Option<&dyn Content> {
        None
    }
    /// A range is copied and verified, and not needed any more. Advice.
    fn done(&self, _range: Range<u64>) {}
    /// What has happened since it was begun to be read.
    fn look_back(&self, map: &DirtyMap, output: Output) -> Result<Meanwhile>;
    /// The target is going to be a backup: has the map belong to the source, if it belongs to nothing.
    fn bind(&self, _map: &DirtyMap, _info: &Info) -> Result<()> {
        Ok(())
    }
    /// Forgets what was frozen, and records the target and how many granules were audited. `keep`: the point is kept.
    fn commit(
        &self,
        map: &DirtyMap,
        checkpoint: &Checkpoint,
        keep: bool,
        target: &ImageStamp,
        audited: u64,
    ) -> Result<()>;
    /// Puts back what was frozen.
    fn abort(&self, map: &DirtyMap, checkpoint: &Checkpoint) -> Result<()>;
    /// Whether what it has failed with last may be done yet, by a server that has not answered.
    fn is_unanswered(&self) -> bool {
        false
    }
    /// Closes the map. `complete`: the backup is one, and whether the source was changed while it was read.
    fn close(&self, map: DirtyMap, complete: Option<bool>) -> Result<()>;
}
