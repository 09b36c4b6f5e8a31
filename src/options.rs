//! How to create and open maps.
//!
//! Invariant kept here: an option that does not apply to an operation has no effect on it.

use crate::error::{Error, Result};
use crate::format::{Durability, Reasons};
use crate::geometry::{Geometry, WORD_BITS};
use crate::image_stamp::ImageStamp;
use crate::progress::Progress;
use crate::sys::Permit;
use crate::watcher::Watcher;
use std::fs::File;
use std::ops::ControlFlow;
use std::time::Duration;

/// Items per granule of a new map unless told otherwise: 2^16, 64 KiB for a disk image.
pub(crate) const DEFAULT_GRANULARITY: u32 = 16;
/// Most dirt that the armed list may name unless told otherwise: a sixteenth of the map, and at least 32 GiB of a disk image.
const ARMED_PART: u64 = 16;
const LEAST_ARMED_BOUND: u64 = 32 << 30;
/// Most items that are armed ahead of a sequential writer: 512 MiB of a disk image, and at most a quarter of the bound.
const AHEAD: u64 = 512 << 20;
/// How often the flusher thread flushes unless told otherwise.
const DEFAULT_FLUSH_INTERVAL: Duration = Duration::from_secs(30);
/// How long a freeze waits for writes under way unless told otherwise.
const DEFAULT_FREEZE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait for a lock of an open map unless told otherwise.
const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Who else may have the map open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// For writing, alone. Whoever else wants it gets [`Error::Locked`](crate::Error::Locked).
    #[default]
    Exclusive,
    /// For writing, together with any number (up to 256) of others who open it the same way. The first one recovers the
    /// map if need be, the last one to close it leaves it clean. Others can read it meanwhile.
    ///
    /// **What kills a process.** Those who share a map, readers of it, and whoever has a [`Durability::Process`] map, have part of
    /// the file mapped. If another program truncates the file meanwhile, or the device cannot read a page of it
    /// that is not in memory, the kernel ends them by a signal (SIGBUS) the next time they look there: no library can prevent
    /// that. Whoever may write to the file can do it, so a map is for [users who trust each other](Options::like). No bit
    /// that was acknowledged and is still in the file is lost thereby. This library never truncates what others have mapped.
    Shared,
    /// For reading. Of a map that others have open shared, what they set is seen as it happens.
    ReadOnly,
}

/// How much the write intent may cover: what a crash may add as dirt beside what is armed word by word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IntentBound {
    /// Up to four times what the last checkpoint has frozen; just that, if a crash had added to it. What is beyond twice counts
    /// toward [`armed_bound`](Options::armed_bound) and takes at most half of it: so both together are at most that bound and
    /// twice what was frozen, as long as all who open the map have the same bounds.
    #[default]
    Proportional,
    /// So many items.
    Items(u64),
    /// Nothing.
    None,
}

/// How much is armed at most, in a map of one length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Words on the list.
    pub armed: u64,
    /// Words that are armed ahead of a sequential writer.
    pub ahead: u64,
    pub intent: IntentBound,
    /// What was asked for, in items.
    pub asked: Option<u64>,
}

impl Bounds {
    pub(crate) fn new(asked: Option<u64>, intent: IntentBound, geometry: &Geometry) -> Bounds {
        let words = |items: u64| items >> geometry.granularity() >> 6;
        let armed = words(asked.unwrap_or((geometry.len() / ARMED_PART).max(LEAST_ARMED_BOUND))).max(1);
        Bounds { armed, ahead: words(AHEAD).min(armed / 4), intent, asked }
    }

    /// The same of another length.
    pub(crate) fn of_length(&self, geometry: &Geometry) -> Bounds {
        Bounds::new(self.asked, self.intent, geometry)
    }

    /// Granules that the intent may cover, of a checkpoint that has frozen so many.
    pub(crate) fn intended(&self, geometry: &Geometry, frozen: u64) -> u64 {
        match self.intent {
            IntentBound::Proportional => {
                let twice = frozen.saturating_mul(2);
                twice.saturating_add(twice.min((self.armed / 2).saturating_mul(WORD_BITS)))
            }
            IntentBound::Items(items) => items >> geometry.granularity(),
            IntentBound::None => 0,
        }
    }

    /// Words on the list beside an intent that covers so many words beyond twice what was frozen. Half of them stay: it may have
    /// been chosen by other bounds.
    pub(crate) fn beside(&self, beyond: u64) -> u64 {
        match self.intent {
            IntentBound::Items(_) => self.armed,
            _ => self.armed.saturating_sub(beyond.min(self.armed / 2)),
        }
    }
}

/// How to create or open a map. All settings have defaults; see each method.
///
/// ```
/// # use dirtymap::{Access, Options};
/// # use std::time::Duration;
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("map");
/// // For creating: what is kept in the file.
/// let new = Options::new().granularity(12).label("disk 1").create(&path, 1 << 30)?;
/// new.close()?;
/// // For opening: how this process uses it. One that is in use is waited for.
/// let alone = Options::new().wait(Duration::from_secs(5)).armed_bound(4 << 30).open(&path)?;
/// let refused = Options::new().access(Access::Shared).open(&path);
/// assert_eq!(refused.unwrap_err().kind(), "locked");
/// # drop(alone);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a map is created or opened with them"]
pub struct Options {
    pub(crate) granularity: u32,
    pub(crate) label: String,
    pub(crate) durability: Durability,
    pub(crate) dirty: bool,
    pub(crate) added: Reasons,
    pub(crate) image: Option<ImageStamp>,
    pub(crate) permit: Permit,
    pub(crate) access: Access,
    pub(crate) armed_bound: Option<u64>,
    pub(crate) intent_bound: IntentBound,
    pub(crate) flush_interval: Option<Duration>,
    pub(crate) wait: Duration,
    pub(crate) freeze_timeout: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) writes_outlive: bool,
    pub(crate) beside_snapshot: bool,
    pub(crate) watcher: Watcher,
}

impl Default for Options {
    fn default() -> Self {
        Options::new()
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Options {
        Options {
            granularity: DEFAULT_GRANULARITY,
            label: String::new(),
            durability: Durability::PowerLoss,
            dirty: false,
            added: Reasons::NONE,
            image: None,
            permit: Permit::Owner,
            access: Access::Exclusive,
            armed_bound: None,
            intent_bound: IntentBound::default(),
            flush_interval: Some(DEFAULT_FLUSH_INTERVAL),
            wait: Duration::ZERO,
            freeze_timeout: DEFAULT_FREEZE_TIMEOUT,
            lock_timeout: DEFAULT_LOCK_TIMEOUT,
            writes_outlive: false,
            beside_snapshot: false,
            watcher: Watcher::default(),
        }
    }

    /// log2 of the items behind each bit, 0 to 63; 16 (64 KiB) by default. For creating.
    pub fn granularity(mut self, granularity: u32) -> Options {
        self.granularity = granularity;
        self
    }

    /// The same in items, bytes for a disk image: a power of two.
    ///
    /// ```
    /// # use dirtymap::Options;
    /// # let dir = tempfile::tempdir()?;
    /// let map = Options::new().granule_bytes(64 << 10)?.create(dir.path().join("map"), 1 << 40)?;
    /// assert_eq!((map.granularity(), map.granule_bytes()), (16, 65536));
    /// assert_eq!(Options::new().granule_bytes(3000).unwrap_err().kind(), "geometry");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Granule`](crate::Error::Granule).
    pub fn granule_bytes(self, items: u64) -> Result<Options> {
        if !items.is_power_of_two() {
            return Err(Error::Granule { items });
        }
        Ok(self.granularity(items.trailing_zeros()))
    }

    /// Free text that is kept in the file: at most 252 bytes of UTF-8. Empty by default. For creating.
    pub fn label(mut self, label: impl Into<String>) -> Options {
        self.label = label.into();
        self
    }

    /// What the map survives: everything ([`Durability::PowerLoss`], the default), or only the death of the
    /// process ([`Durability::Process`]): then no `set` ever waits for a sync, and a power cut makes everything
    /// dirty. For creating.
    pub fn durability(mut self, durability: Durability) -> Options {
        self.durability = durability;
        self
    }

    /// Whether a new map starts all dirty. Not by default. For creating.
    pub fn dirty(mut self, dirty: bool) -> Options {
        self.dirty = dirty;
        self
    }

    /// Why a new map may say something else than what was written, if it is made of something that may: its verdict is
    /// [`Superset`](crate::info::Verdict::Superset) until a full reset or a completed backup. Nothing by default. For creating.
    pub fn added_dirt(mut self, reasons: Reasons) -> Options {
        self.added = reasons;
        self
    }

    /// The image that the map belongs to, as it is now.
    ///
    /// When creating, it is recorded, and the map belongs to that image from then on. When opening, it is
    /// compared with what was recorded at the last clean close: if the image is another one or was changed since,
    /// everything becomes dirty ([`Recovery::image_changed`](crate::info::Recovery::image_changed) says why). None by
    /// default: then nothing is compared.
    pub fn image(mut self, image: ImageStamp) -> Options {
        self.image = Some(image);
        self
    }

    /// Whose permissions a new map gets: those of `file`, which is the image as a rule: its mode, owner and group. What this
    /// process may not give away makes the map's permissions narrower than the file's, never wider; so does an access
    /// control list. By default only the owner may use a new map. **Permission to read a map is permission to lock it**: a
    /// reader can keep writers waiting. For creating.
    pub fn like(mut self, file: &File) -> Options {
        self.permit = Permit::like(file);
        self
    }

    /// Who else may have the map open: nobody by default. For opening and creating (where [`Access::ReadOnly`] means
    /// [`Access::Exclusive`]).
    ///
    /// [`Access::Shared`] keeps the volatile part in the file, which takes space there: about 3 bits per granule where the
    /// map is not all clean. It is kept in memory besides, since a failing disk could
    /// take pages of a file away: that takes, and counts against the limit on locked memory (`ulimit -l`), 3 bits per
    /// granule of the whole map, clean or not. Where that is not allowed, a [`Durability::PowerLoss`] map is refused; a
    /// [`Durability::Process`] map is opened all the same, and [`info`](crate::DirtyMap::info) says `damaged` if its memory could not be
    /// written back. A set costs what it costs in a map that is opened alone.
    pub fn access(mut self, access: Access) -> Options {
        self.access = access;
        self
    }

    /// Whether to open for reading only, which is short for [`Access::ReadOnly`]: nothing is written, recovery happens in
    /// memory, and nobody is kept from writing. Memory: the dirty part of a map that nobody has open. For opening.
    pub fn read_only(self, read_only: bool) -> Options {
        self.access(if read_only { Access::ReadOnly } else { Access::Exclusive })
    }

    /// Most items that a crash may add as dirt for words that were armed one by one: by default a sixteenth of the map (64 GiB
    /// of an image of 1 TiB), and at least 2^35 (32 GiB). Only a writer all over the image gets there; what is not written
    /// any more is taken off within minutes ([`flush_interval`](Self::flush_interval)). At least one word (64 granules)
    /// is always armed. A larger bound means fewer syncs for such writers. No effect on [`Durability::Process`]. For opening and creating.
    pub fn armed_bound(mut self, items: u64) -> Options {
        self.armed_bound = Some(items);
        self
    }

    /// How much of what the last checkpoint has frozen counts as armed, rounded out: in proportion to it by default. What
    /// is written in one cycle is likely to be written in the next: then no set of it waits for a sync. A crash makes it
    /// dirty, beside what is armed word by word ([`armed_bound`](Self::armed_bound)). For checkpoints that this process
    /// freezes. No effect on [`Durability::Process`]. For opening and creating.
    pub fn intent_bound(mut self, bound: IntentBound) -> Options {
        self.intent_bound = bound;
        self
    }

    /// How often a small thread flushes, so that what is no longer written leaves the armed list: every 30 s by
    /// default. What was set in its last eight flushes stays armed. `None`: no thread; flush when you like. For opening and creating.
    pub fn flush_interval(mut self, interval: Option<Duration>) -> Options {
        self.flush_interval = interval;
        self
    }

    /// How long to wait for somebody else who has the file open: not at all by default. For opening.
    pub fn wait(mut self, wait: Duration) -> Options {
        self.wait = wait;
        self
    }

    /// How long a [freeze](crate::DirtyMap::freeze) waits for [writes](crate::DirtyMap::begin_write) that had begun before it: 60 s by
    /// default. For opening and creating.
    pub fn freeze_timeout(mut self, timeout: Duration) -> Options {
        self.freeze_timeout = timeout;
        self
    }

    /// How long an operation on an open map waits for a lock that another process holds: 30 s by default. A healthy process holds
    /// one for moments, or for as long as its disk takes to sync. One that is stopped (SIGSTOP, a debugger, a paused container)
    /// keeps its locks, and whoever may read the file can lock any byte of it. After that time the operation fails
    /// with [`Error::Locked`](crate::Error::Locked), which names the process where the system tells. Then nothing is lost: what `set` did not
    /// acknowledge must not be written, and a [close](crate::DirtyMap::close) gives the map back. For opening and creating.
    pub fn lock_timeout(mut self, timeout: Duration) -> Options {
        self.lock_timeout = timeout;
        self
    }

    /// Whether data writes of this process may reach the image after its death: because a device, the kernel or another
    /// process carries them out (asynchronous or remote I/O). Not by default: a plain write system call is over when the process
    /// is gone. If so, and the process dies inside a [bracket](crate::DirtyMap::begin_write), or the last process dies before it closed the map, no
    /// checkpoint can be frozen until the map was closed by all who have it open. For opening and creating.
    pub fn writes_outlive(mut self, outlive: bool) -> Options {
        self.writes_outlive = outlive;
        self
    }

    /// Whether to open a map for writing while a [snapshot](crate::DirtyMap::freeze_snapshot) is outstanding in it: not by default
    /// ([`Error::Outstanding`](crate::Error::Outstanding)), as a write of the image beside the program that copies old data would spoil what
    /// it keeps. For who goes on with the snapshot, ends it, or does not write the image.
    pub fn beside_snapshot(mut self, beside: bool) -> Options {
        self.beside_snapshot = beside;
        self
    }

    /// Who is told how far long work is, and says whether it goes on: nobody by default. Long work is what goes through much of a
    /// large map: making it all dirty, setting, resetting, merging, freezing and the wait of a freeze, putting back,
    /// flushing, changing the length. It asks between pieces that take moments. When the answer is
    /// [`ControlFlow::Break`], it ends with [`Error::Interrupted`](crate::Error::Interrupted), which says what is left; nothing is lost by it. Short work does not
    /// ask. For opening and creating.
    ///
    /// ```
    /// # use dirtymap::Options;
    /// # use std::ops::ControlFlow;
    /// # use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
    /// # let dir = tempfile::tempdir().unwrap();
    /// let stop = Arc::new(AtomicBool::new(false));
    /// let asked = stop.clone();
    /// let options = Options::new().progress(move |_| match asked.load(Ordering::Relaxed) {
    ///     true => ControlFlow::Break(()),
    ///     false => ControlFlow::Continue(()),
    /// });
    /// let map = options.create(dir.path().join("map"), 1 << 40)?;
    /// let write = map.begin_write(0..4096)?;
    /// stop.store(true, Ordering::Relaxed);
    /// // This would wait for the write.
    /// let freeze = std::thread::scope(|s| s.spawn(|| map.freeze(None)).join().unwrap());
    /// assert_eq!(freeze.unwrap_err().kind(), "interrupted");
    /// # drop(write);
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    pub fn progress(mut self, told: impl Fn(Progress) -> ControlFlow<()> + Send + Sync + 'static) -> Options {
        self.watcher = Watcher::new(told);
        self
    }

    pub(crate) fn bounds(&self, geometry: &Geometry) -> Bounds {
        Bounds::new(self.armed_bound, self.intent_bound, geometry)
    }
}
