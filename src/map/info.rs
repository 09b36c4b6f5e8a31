//! What is in a map and how it was left. Nothing is written, and no lock outlives a call.

use super::dirty_map::{DirtyMap, Inner};
use crate::engine::core::Core;
use crate::engine::intent_set::IntentSet;
use crate::engine::point_set::TRIES;
use crate::error::{Error, Result};
use crate::file::bottom::items_in;
use crate::file::points::{Checkpoint, Committed, NamedPoint, committed, kept, of_header};
use crate::file::{headers, reasons};
use crate::format::{self, Durability, Header, Reasons, State, Uuid};
use crate::geometry::{Geometry, LEVELS};
use crate::image_stamp::ImageStamp;
use crate::map_file::MapFile;
use crate::query::{ReadMap, Search};
use crate::session::locks;
use crate::session::recovery::Recovery;
use crate::session::watch::{self, Reading};
use crate::time;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// Work that a map has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Headers committed to arm words.
    pub arms: u64,
    /// Durable writes after opening, each of which costs a device sync.
    pub syncs: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes written durably after opening.
    pub bytes_written: u64,
    /// Times that a `set` found a word not armed, and waited for the update lock to have it armed: mostly for a commit.
    pub slow_sets: u64,
    /// Items that opening the map made dirty because they were armed, one by one or by the write intent.
    pub recovered_items: u64,
    /// Pages that opening it found interrupted or damaged, and made dirty.
    pub failed_pages: u64,
    /// Header copies that opening it found damaged.
    pub damaged_headers: u64,
}

impl DirtyMap {
    /// What is known of the map and its file now.
    ///
    /// ```
    /// # use dirtymap::{Options, info::{FileState, Verdict, inspect}};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("map");
    /// let map = Options::new().label("disk 1").create(&path, 1 << 30)?;
    /// map.set(0..1)?;
    /// let info = map.info()?;
    /// assert_eq!((info.label.as_str(), info.dirty, info.verdict), ("disk 1", Some((1, 65536)), Verdict::Exact));
    /// println!("made {:?}, last closed {:?}", info.created, info.last_clean);
    /// assert_eq!((map.stats().arms, map.recovery().added_dirt()), (1, false));
    /// map.close()?;
    /// // The same of a file, without opening it for writing.
    /// assert_eq!(inspect(&path)?.state, FileState::Clean);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`] when the header cannot be read back.
    pub fn info(&self) -> Result<Info> {
        self.readable()?;
        let open = !matches!(self.inner, Inner::Loaded(_));
        let header = self.header()?;
        let mut info = Info::of_map(self, &header, open);
        match &self.inner {
            Inner::Live(live) => info.add_intent(&header, live.core.intent(&header)?.as_deref()),
            Inner::Watching(watch) => info.read_intent(MapFile::new(&*watch.disk, &self.path), &header)?,
            // That is in what loading found.
            Inner::Loaded(_) => {}
        }
        Ok(info)
    }

    /// Work done since the map was opened, and what opening it found. A map that is open for reading does no work.
    pub fn stats(&self) -> Stats {
        let found = Stats {
            recovered_items: self.recovery.added_items(),
            failed_pages: self.recovery.interrupted_pages + self.recovery.damaged_pages,
            damaged_headers: self.recovery.damaged_headers,
            ..Stats::default()
        };
        match &self.inner {
            Inner::Live(live) => {
                let c = live.core.counters();
                Stats {
                    arms: c.arms.load(Relaxed),
                    syncs: c.syncs.load(Relaxed),
                    flushes: c.flushes.load(Relaxed),
                    bytes_written: c.bytes_written.load(Relaxed),
                    slow_sets: c.slow_sets.load(Relaxed),
                    ..found
                }
            }
            Inner::Loaded(_) | Inner::Watching(_) => found,
        }
    }
}

/// How a file was left, or that it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    /// Closed cleanly.
    Clean,
    /// Somebody has it open for writing.
    Open,
    /// Whoever had it open died, or the machine did. The next open for writing recovers it.
    Unclean,
}

/// How much the dirty bits can be relied upon. They never say too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Exactly what an undisturbed run would hold.
    Exact,
    /// Recovery or repair added dirt since the last full reset or completed backup.
    Superset,
    /// A page or header copy fails and is not repaired yet; the page counts as all dirty. Or a
    /// [`Process`](Durability::Process) map is open whose memory the kernel could neither write back nor be made to keep (see
    /// [`Access::Shared`](crate::Access::Shared)): then answers may lack bits. The next open makes everything dirty.
    Damaged,
}

/// What is in a map and how it was left. Times are `None` for never.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Info {
    /// Version of the file format.
    pub format_version: u32,
    /// Identity of the map.
    pub uuid: Uuid,
    /// The user's text.
    pub label: String,
    /// Length and granularity.
    pub geometry: Geometry,
    /// Words of each level, top first.
    pub level_words: [u64; LEVELS],
    /// What it survives.
    pub durability: Durability,
    /// How it was left.
    pub state: FileState,
    /// How much it can be relied upon.
    pub verdict: Verdict,
    /// Why it is a superset, in words.
    pub reasons: Vec<&'static str>,
    /// When dirt was last added so.
    pub dirt_time: Option<SystemTime>,
    /// Dirty granules and the items in them; not known of a file that somebody else has open.
    pub dirty: Option<(u64, u64)>,
    /// Items that a crash now would make dirty, or has made, for being armed: word by word, or by the write intent.
    pub armed_items: u64,
    /// Those of them that only the [write intent](crate::Options::intent_bound) covers.
    pub intent_items: u64,
    /// Number of the newest commit.
    pub sequence: u64,
    /// When the map was made.
    pub created: Option<SystemTime>,
    /// When it was last closed cleanly.
    pub last_clean: Option<SystemTime>,
    /// When it was last opened for writing.
    pub last_open: Option<SystemTime>,
    /// The image that it belongs to.
    pub image: Option<ImageStamp>,
    /// What the last completed backup wrote.
    pub target: Option<ImageStamp>,
    /// The target of a backup that was begun and is not complete: it is under way, failed or was interrupted.
    pub begun: Option<ImageStamp>,
    /// When the last backup completed.
    pub backup_time: Option<SystemTime>,
    /// Clean granules that were compared in image and target by audits.
    pub audited: u64,
    /// Of those, how many differed.
    pub audit_missed: u64,
    /// When the last audit was.
    pub audit_time: Option<SystemTime>,
    /// The outstanding checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The last checkpoint that was committed.
    pub committed: Option<Committed>,
    /// The points that are kept, oldest first.
    pub points: Vec<NamedPoint>,
    /// What loading found. All zeros for a file that somebody else has open.
    pub recovery: Recovery,
}

impl Info {
    pub(crate) fn of_header(header: &Header, state: FileState, recovery: &Recovery) -> Info {
        let reasons = reasons::reasons(header) | recovery.reasons();
        Info {
            format_version: format::VERSION,
            uuid: header.uuid,
            label: header.label.clone(),
            geometry: header.geometry,
            level_words: header.geometry.level_words(),
            durability: header.durability,
            state,
            verdict: verdict(reasons, recovery),
            reasons: names(reasons),
            dirt_time: time::unless_never(header.dirt_time),
            dirty: None,
            armed_items: items_in(&header.geometry, &header.runs) + recovery.intent_items,
            intent_items: recovery.intent_items,
            sequence: header.sequence,
            created: time::unless_never(header.created),
            last_clean: time::unless_never(header.last_clean),
            last_open: time::unless_never(header.last_open),
            image: header.image.map(ImageStamp),
            target: header.target.map(ImageStamp),
            begun: header.begun.map(ImageStamp),
            backup_time: time::unless_never(header.backup_time),
            audited: header.audited,
            audit_missed: header.audit_missed,
            audit_time: time::unless_never(header.audit_time),
            checkpoint: of_header(header),
            committed: committed(header),
            points: kept(header),
            recovery: recovery.clone(),
        }
    }

    /// Of a map that is open for writing: a crash now would make dirty what the intent covers.
    fn add_intent(&mut self, header: &Header, intent: Option<&IntentSet>) {
        self.intent_items = intent.map_or(0, |intent| intent.items_beside(&header.runs));
        self.armed_items += self.intent_items;
    }

    /// The same of what others have open, as they may commit meanwhile.
    pub(crate) fn read_intent(&mut self, file: MapFile<'_>, header: &Header) -> Result<()> {
        let mut header = header.clone();
        for _ in 0..TRIES {
            let intent = IntentSet::read(file, &header)?;
            let newest = headers::newest(file)?.header;
            if newest.intent == header.intent {
                self.add_intent(&header, intent.as_ref());
                break;
            }
            header = newest;
        }
        Ok(())
    }

    /// Of a map that this process has open. `live`: for writing.
    fn of_map(map: &DirtyMap, header: &Header, live: bool) -> Info {
        let state = match header.state {
            _ if live => FileState::Open,
            State::Clean => FileState::Clean,
            State::Open => FileState::Unclean,
        };
        // What opening for writing found is mended, and recorded in the header.
        let mended = Recovery { damaged_pages: map.point_failed(), ..Recovery::default() };
        let found = if live { mended } else { map.recovery().clone() };
        let mut info = Info::of_header(header, state, &found);
        info.recovery = map.recovery().clone();
        let (count, last) = map.tally(0..map.geometry().bits());
        info.dirty = Some((count, map.items_in(count, last)));
        if map.core().is_ok_and(Core::may_lack_bits) {
            info.verdict = Verdict::Damaged;
            info.reasons = names(reasons::reasons(header) | Reasons::CACHE_NOT_TRUSTED);
        }
        info
    }
}

fn verdict(reasons: Reasons, recovery: &Recovery) -> Verdict {
    if recovery.damaged() {
        Verdict::Damaged
    } else if reasons.is_empty() {
        Verdict::Exact
    } else {
        Verdict::Superset
    }
}

fn names(reasons: Reasons) -> Vec<&'static str> {
    Reasons::NAMES.iter().filter(|(r, _)| reasons.contains(*r)).map(|(_, name)| *name).collect()
}

/// What is in the file at `path`, without opening it for writing. If others have it open
/// ([`FileState::Open`]) and share it, the dirty count is that of this moment; if they do not share it, there is none, only
/// what the header says. Cost: as opening for reading; waits for nobody but for the
/// moments in which somebody opens or closes it.
///
/// # Errors
/// As [`Options::open`](crate::Options::open), but a file in use is no error.
pub fn inspect(path: impl AsRef<Path>) -> Result<Info> {
    let path = path.as_ref();
    loop {
        match look(path) {
            // Those who had it open closed it meanwhile: there is something else to be seen.
            Err(Error::Unusable { .. }) => {}
            found => return found,
        }
    }
}

fn look(path: &Path) -> Result<Info> {
    let disk = Arc::new(locks::open_file(path, false)?);
    match watch::read(&disk, path, None, Duration::ZERO)? {
        Reading::Shared(watch) => {
            let map = DirtyMap::watching(path, *watch);
            let info = map.info()?;
            map.verify_session()?;
            Ok(info)
        }
        Reading::Locked => {
            let file = MapFile::new(&*disk, path);
            let header = headers::newest(file)?.header;
            let mut info = Info::of_header(&header, FileState::Open, &Recovery::default());
            info.read_intent(file, &header)?;
            Ok(info)
        }
        Reading::Loaded(loaded) => DirtyMap::loaded(path, *loaded).info(),
    }
}
