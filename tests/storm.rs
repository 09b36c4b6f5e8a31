//! A storm: real processes share one map, and SIGKILL meets them at any moment: in a set, a reset, a flush, a truncation,
//! a freeze, a commit, an abort, while they open, recover, join or leave. Whatever was set and not reset is dirty for everybody who
//! looks, at any time and in the end; nobody is kept waiting by the dead; and who closes in order leaves a clean file.
//!
//! What is owed is kept outside of the map, in a ledger of atomic words that all processes map: a granule is owed from the moment
//! its set has returned until its reset begins, or until somebody is about to commit a checkpoint that has frozen it, if it was not
//! set again since. Each granule belongs to one writer, who alone sets and resets it; all sets are in brackets, so whoever
//! freezes knows which of them it has frozen. The seed chooses what happens; the moments are the kernel's.
//!
//! `DIRTYMAP_ROUNDS=1000` is a long run, `DIRTYMAP_SEED` chooses the seed, `DIRTYMAP_DIR` where the maps are. Numbers are told with
//! `--nocapture`.

use dirtymap::{
    Access, Bitmap, DirtyMap, Durability, Error, ImageStamp, Options, Uuid,
    checkpoint::{Checkpoint, CheckpointState},
    fsck::{Severity, check},
    info::{FileState, Verdict, inspect},
};
use memmap2::MmapRaw;
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::process::{ExitStatusExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

const GRANULE: u64 = 4096;
/// The length that maps have and never fall below; they may be longer.
const LEN: u64 = 1 << 30;
/// Processes that write, each with granules of its own.
const WRITERS: usize = 5;
const READERS: usize = 2;
/// Entries of the ledger. The first half are neighbours with different owners, the second half blocks all over the map.
const ENTRIES: usize = 8192;
const BLOCK: usize = 50;
/// Far more than anything takes on the slowest machine; only what hangs for good is found by it.
const FOR_GOOD: Duration = Duration::from_secs(600);

/// Numbers that look random, the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What is known of a granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing: something is being done to it, or a crash may have added dirt.
    Nothing,
    /// It is dirty.
    Owed,
    /// It was reset, or found clean, and nobody has set it since.
    Clean,
}

/// A word of the ledger: what is known, and since when by the ledger's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    fn known(self) -> Known {
        match self.0 & 3 {
            0 => Known::Nothing,
            1 => Known::Owed,
            _ => Known::Clean,
        }
    }

    fn since(self) -> u64 {
        self.0 >> 2
    }
}

/// What processes tell each other, behind the entries.
#[derive(Clone, Copy)]
enum Tell {
    /// Sets that have returned.
    Acknowledged,
    /// Times that a reader found what was owed, in a file at rest or in a live session.
    LoadedLooks,
    LiveLooks,
    /// Lengths changed.
    Truncated,
    /// Maps opened that nobody had closed.
    Recovered,
    /// 1 when everybody is to verify everything, close, and go.
    Finish,
    /// Goes up with every change of an entry.
    Clock,
    /// Freezes and aborts that have begun: who resets something meanwhile does not know whether it comes back.
    Moves,
    /// The last freeze that has returned: which checkpoint, and what the clock said then.
    FrozenAt,
    /// Checkpoints frozen, committed, and aborted by somebody.
    Frozen,
    Committed,
    Aborted,
    /// Points dropped.
    DroppedPoints,
    /// Drops that have begun: while there is none, a name is that of one point.
    Drops,
    /// 1 when a process has panicked, which may be killed before it has told.
    Panicked,
    /// The first of a word for each writer: 1 while it freezes or aborts.
    Moving,
}

/// Words behind the entries.
const TOLD: usize = Tell::Moving as usize + WRITERS;
/// Bits of the clock beside those that tell one checkpoint from another.
const CLOCK_BITS: u32 = 40;

fn tag(uuid: &Uuid) -> u64 {
    u64::from_le_bytes(uuid.0[..8].try_into().unwrap()) >> CLOCK_BITS << CLOCK_BITS
}

struct Ledger(MmapRaw);

impl Ledger {
    fn create(path: &Path) -> Ledger {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(((ENTRIES + TOLD) as u64) * 8).unwrap();
        Ledger(MmapRaw::map_raw(&file).unwrap())
    }

    fn open(path: &Path) -> Ledger {
        Ledger(MmapRaw::map_raw(&File::options().read(true).write(true).open(path).unwrap()).unwrap())
    }

    fn word(&self, i: usize) -> &AtomicU64 {
        assert!(i < ENTRIES + TOLD);
        // SAFETY: the mapping has so many words, is aligned to a page, lives as long as self, and everybody uses it as
        // atomic words only.
        #[allow(unsafe_code, reason = "memory that outlives a killed process")]
        unsafe {
            &*self.0.as_ptr().cast::<AtomicU64>().add(i)
        }
    }

    fn tell(&self, what: Tell) -> &AtomicU64 {
        self.word(ENTRIES + what as usize)
    }

    fn count(&self, what: Tell) {
        self.tell(what).fetch_add(1, SeqCst);
    }

    fn told(&self, what: Tell) -> u64 {
        self.tell(what).load(SeqCst)
    }

    fn entry(&self, i: usize) -> Entry {
        Entry(self.word(i).load(SeqCst))
    }

    fn now(&self, known: Known) -> Entry {
        Entry((self.tell(Tell::Clock).fetch_add(1, SeqCst) + 1) << 2 | known as u64)
    }

    /// Only for the owner of the entry.
    fn mark(&self, i: usize, known: Known) {
        self.word(i).store(self.now(known).0, SeqCst);
    }

    /// What was frozen is backed up and no longer owed, but for what was set since the freeze had returned.
    fn forgive(&self, uuid: &Uuid, frozen: &Bitmap) {
        let (clock, last) = (self.told(Tell::Clock), self.told(Tell::FrozenAt));
        // Who froze it may have died before it could tell; then nobody has to have set anything since.
        let until = if last ^ tag(uuid) < 1 << CLOCK_BITS { last ^ tag(uuid) } else { clock };
        for i in (0..ENTRIES).filter(|&i| frozen.get(granule(i) * GRANULE).unwrap()) {
            let was = self.entry(i);
            if was.known() == Known::Owed && was.since() <= until {
                // If this fails it was set or reset again.
                let _ = self.word(i).compare_exchange(was.0, self.now(Known::Nothing).0, SeqCst, SeqCst);
            }
        }
    }

    fn moving(&self, writer: usize) -> &AtomicU64 {
        self.word(ENTRIES + Tell::Moving as usize + writer)
    }

    /// Runs what moves bits to a point or back.
    fn while_moving<R>(&self, writer: usize, f: impl FnOnce() -> R) -> R {
        self.moving(writer).store(1, SeqCst);
        self.count(Tell::Moves);
        let done = f();
        self.moving(writer).store(0, SeqCst);
        done
    }

    /// How often bits were moved until now, if none are moved now and none are in a point.
    fn still(&self, map: &DirtyMap) -> Option<u64> {
        let moves = self.told(Tell::Moves);
        let nobody = (0..WRITERS).all(|writer| self.moving(writer).load(SeqCst) == 0);
        (nobody && map.checkpoint().unwrap().is_none()).then_some(moves)
    }

    fn owed(&self) -> Vec<(usize, Entry)> {
        let entries = (0..ENTRIES).map(|i| (i, self.entry(i)));
        entries.filter(|(_, entry)| entry.known() == Known::Owed).collect()
    }

    /// Fails if an entry that is as it was is not what `dirty` says of its granule.
    fn expect_dirty(&self, who: &str, (i, was): (usize, Entry), dirty: bool) {
        assert!(dirty || self.entry(i) != was, "LOST: {who} finds granule {} clean, which is owed", granule(i));
    }
}

/// The granule of an entry.
fn granule(i: usize) -> u64 {
    if i < ENTRIES / 2 {
        return i as u64;
    }
    let (block, within) = block_of(i);
    // Neither at words nor at pages, from behind the first half to the end.
    (ENTRIES / 2) as u64 + (block * 3001 + within) as u64
}

fn block_of(i: usize) -> (usize, usize) {
    ((i - ENTRIES / 2) / BLOCK, (i - ENTRIES / 2) % BLOCK)
}

fn owner(i: usize) -> usize {
    if i < ENTRIES / 2 { i % WRITERS } else { block_of(i).0 % WRITERS }
}

/// The neighbours of an entry that make one range with it and have its owner.
fn block(i: usize) -> Range<usize> {
    if i < ENTRIES / 2 {
        return i..i + 1;
    }
    let first = i - block_of(i).1;
    first..(first + BLOCK).min(ENTRIES)
}

fn items(entries: &Range<usize>) -> Range<u64> {
    granule(entries.start) * GRANULE..(granule(entries.end - 1) + 1) * GRANULE
}

/// What a writer can do next.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Set,
    Reset,
    Flush,
    /// Looks at what it owns, of which it knows everything since it opened the map.
    Own,
    /// Looks at what anybody is owed.
    Others,
    /// Goes through the whole map.
    Iterate,
    Truncate,
    Freeze,
    /// Commits or aborts a checkpoint, whoever has frozen it.
    Settle,
    /// Looks at the points that are kept, and drops one.
    Points,
    Close,
    Drop,
}

/// How often each is done.
const OFTEN: [(Operation, u64); 12] = [
    (Operation::Set, 400),
    (Operation::Reset, 250),
    (Operation::Flush, 40),
    (Operation::Own, 120),
    (Operation::Others, 150),
    (Operation::Iterate, 4),
    (Operation::Truncate, 6),
    (Operation::Freeze, 30),
    (Operation::Settle, 40),
    (Operation::Points, 10),
    (Operation::Close, 8),
    (Operation::Drop, 8),
];

fn choose(numbers: &mut Numbers) -> Operation {
    let mut at = numbers.below(OFTEN.iter().map(|(_, often)| often).sum());
    for (operation, often) in OFTEN {
        match at.checked_sub(often) {
            Some(left) => at = left,
            None => return operation,
        }
    }
    Operation::Set
}

/// A process, as seen from inside.
struct Process {
    path: PathBuf,
    ledger: Ledger,
    numbers: Numbers,
    parent: u32,
}

impl Process {
    /// Whether to end; at once if the test is gone.
    fn finished(&self) -> bool {
        if parent_id() != self.parent {
            std::process::exit(0);
        }
        self.ledger.told(Tell::Finish) == 1
    }

    /// Everything that is owed is dirty, seen by going through the map and by asking for each.
    fn everything(&self, who: &str, map: &DirtyMap, owed: &[(usize, Entry)]) -> dirtymap::Result<()> {
        let dirty: HashSet<u64> = map.granules(0..LEN)?.map(|item| item / GRANULE).collect();
        for &(i, was) in owed {
            self.ledger.expect_dirty(who, (i, was), dirty.contains(&granule(i)));
            self.ledger.expect_dirty(who, (i, was), map.get(granule(i) * GRANULE)?);
        }
        Ok(())
    }

    /// Everything that is owed is dirty since any point that is kept.
    fn since(&mut self, who: &str, map: &DirtyMap) -> dirtymap::Result<()> {
        let points = map.points()?;
        if points.is_empty() {
            return Ok(());
        }
        let owed = self.ledger.owed();
        match map.since(&points[self.numbers.below(points.len() as u64) as usize].name) {
            Ok(since) => {
                owed.iter().for_each(|&was| {
                    let dirty = since.get(granule(was.0) * GRANULE).unwrap();
                    self.ledger.expect_dirty(&format!("{who}, since a point,"), was, dirty);
                });
                Ok(())
            }
            // It was dropped meanwhile, or others come and go all the time.
            Err(Error::NoPoint { .. } | Error::Locked { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

struct Writer {
    process: Process,
    me: usize,
    /// What was known of its granules after what this process last did to them since it opened the map.
    done: Vec<Option<Entry>>,
}

impl Writer {
    fn options(&mut self) -> Options {
        let bound = 1 + self.process.numbers.below(24);
        let often = Duration::from_millis(20);
        let interval = self.process.numbers.one_in(2).then_some(often);
        // Small, so that there is always something to arm and to flush.
        let patience = Duration::from_millis(self.process.numbers.below(30));
        shared().armed_bound(bound * 64 * GRANULE).flush_interval(interval).freeze_timeout(patience)
    }

    fn open(&mut self) -> DirtyMap {
        let options = self.options();
        let owed = self.process.ledger.owed();
        let alone = options.clone().access(Access::Exclusive).wait(Duration::ZERO);
        let map = match self.process.numbers.one_in(3).then(|| alone.open(&self.process.path)) {
            Some(Ok(map)) => map,
            Some(Err(error)) if error.kind() != "locked" => panic!("{error}"),
            _ => options.open(&self.process.path).unwrap(),
        };
        if map.recovery().unclean {
            self.process.ledger.count(Tell::Recovered);
        }
        self.process.everything("who opens it", &map, &owed).unwrap();
        self.done = vec![None; ENTRIES];
        map
    }

    fn run(&mut self) {
        let mut open: Option<DirtyMap> = None;
        while !self.process.finished() {
            let map = open.take().unwrap_or_else(|| self.open());
            let operation = choose(&mut self.process.numbers);
            open = self.act(map, operation);
        }
        // Until it is closed: who waited for the gate in vain has not.
        loop {
            let map = open.take().unwrap_or_else(|| self.open());
            let owed = self.process.ledger.owed();
            self.process.everything("who closes it", &map, &owed).unwrap();
            if closed(map) {
                return;
            }
        }
    }

    fn act(&mut self, mut map: DirtyMap, operation: Operation) -> Option<DirtyMap> {
        let one = self.process.numbers.below(ENTRIES as u64) as usize;
        let mine = (one..ENTRIES).find(|&i| owner(i) == self.me).unwrap_or(self.me);
        match operation {
            Operation::Set => self.set(&map, mine),
            Operation::Reset => self.reset(&map, mine),
            Operation::Flush => map.flush().unwrap(),
            Operation::Own => {
                // Others have changed it if they have committed what it was frozen in.
                if let Some(was) = self.done[mine].filter(|&was| was == self.process.ledger.entry(mine)) {
                    let dirty = map.get(granule(mine) * GRANULE).unwrap();
                    match was.known() {
                        Known::Owed => self.process.ledger.expect_dirty("its owner", (mine, was), dirty),
                        Known::Clean => assert!(!dirty, "granule {} was reset and is dirty", granule(mine)),
                        Known::Nothing => {}
                    }
                }
            }
            Operation::Others => {
                let (was, item) = (self.process.ledger.entry(one), granule(one) * GRANULE);
                if was.known() == Known::Owed {
                    let dirty = match self.process.numbers.below(3) {
                        0 => map.get(item).unwrap(),
                        1 => map.next_dirty(item..LEN).unwrap() == Some(item),
                        _ => map.all(item..item + GRANULE).unwrap(),
                    };
                    self.process.ledger.expect_dirty("another writer", (one, was), dirty);
                }
            }
            Operation::Iterate => {
                let owed = self.process.ledger.owed();
                self.process.everything("a writer", &map, &owed).unwrap();
            }
            Operation::Truncate => match map.truncate(LEN + self.process.numbers.below(3) * (64 << 20)) {
                Ok(()) => self.process.ledger.count(Tell::Truncated),
                // Not alone, or a checkpoint is outstanding.
                Err(error) => assert!(matches!(error.kind(), "locked" | "refused"), "{error}"),
            },
            Operation::Freeze => self.freeze(&map),
            Operation::Settle => self.settle(&map),
            Operation::Points => self.points(&map),
            Operation::Close => {
                closed(map);
                return None;
            }
            Operation::Drop => return None,
        }
        Some(map)
    }

    fn set(&mut self, map: &DirtyMap, i: usize) {
        let Process { ledger, numbers, .. } = &mut self.process;
        let entries = block(i);
        // What is owed stays so.
        entries
            .clone()
            .filter(|&i| ledger.entry(i).known() == Known::Clean)
            .for_each(|i| ledger.mark(i, Known::Nothing));
        let write = if numbers.one_in(2) {
            map.begin_write(items(&entries)).unwrap()
        } else {
            let write = map.begin_write(items(&(entries.start..entries.start + 1))).unwrap();
            map.set(items(&entries)).unwrap();
            write
        };
        // Before the end of the write: whoever freezes waits for it, and then knows of it.
        for i in entries {
            ledger.mark(i, Known::Owed);
            self.done[i] = Some(ledger.entry(i));
        }
        if numbers.one_in(20) {
            thread::sleep(Duration::from_micros(numbers.below(5000)));
        }
        drop(write);
        ledger.count(Tell::Acknowledged);
    }

    fn reset(&mut self, map: &DirtyMap, i: usize) {
        let (ledger, entries) = (&self.process.ledger, block(i));
        entries.clone().for_each(|i| ledger.mark(i, Known::Nothing));
        let still = ledger.still(map);
        map.reset(items(&entries)).unwrap();
        // Not if it may be in a point, which a reset takes nothing out of.
        let known = match still {
            Some(moves) if moves == ledger.told(Tell::Moves) => Known::Clean,
            _ => Known::Nothing,
        };
        for i in entries {
            ledger.mark(i, known);
            self.done[i] = Some(ledger.entry(i));
        }
    }

    fn freeze(&mut self, map: &DirtyMap) {
        let Process { ledger, numbers, .. } = &mut self.process;
        let name = numbers.one_in(2).then(|| format!("point {}", numbers.below(5)));
        let owed = ledger.owed();
        match ledger.while_moving(self.me, || map.freeze(name.as_deref())) {
            Ok(Checkpoint { uuid, state, .. }) => {
                assert_eq!(state, CheckpointState::Frozen);
                let clock = ledger.told(Tell::Clock);
                ledger.tell(Tell::FrozenAt).store(tag(&uuid) | clock, SeqCst);
                ledger.count(Tell::Frozen);
                let Some(frozen) = unless_settled(map.frozen(uuid)) else { return };
                for was in owed {
                    let dirty = frozen.get(granule(was.0) * GRANULE).unwrap();
                    ledger.expect_dirty("a freeze", was, dirty);
                }
            }
            // Others have a checkpoint; others have aborted this one; a write did not end in time; the name is taken.
            Err(error) => {
                let expected = ["checkpoint-outstanding", "no-checkpoint", "busy", "refused"];
                assert!(expected.contains(&error.kind()), "{error}");
            }
        }
    }

    fn settle(&mut self, map: &DirtyMap) {
        let Process { ledger, numbers, .. } = &mut self.process;
        let Some(Checkpoint { uuid, state, name, .. }) = map.checkpoint().unwrap() else { return };
        if state == CheckpointState::Frozen && numbers.below(3) > 0 {
            let Some(frozen) = unless_settled(map.frozen(uuid)) else { return };
            ledger.forgive(&uuid, &frozen);
            let keep = name.is_some() && numbers.one_in(2);
            let (drops, mut names) = (ledger.told(Tell::Drops), map.points().unwrap());
            // Others may have committed it already, and kept that name.
            names.retain(|point| Some(&point.name) != name.as_ref());
            if unless_settled(map.commit_checkpoint(uuid, keep)).is_some() {
                ledger.count(Tell::Committed);
                // It was written since all names that there were.
                let some = names.get(numbers.below(names.len().max(1) as u64) as usize);
                match some.map(|point| map.since(&point.name)) {
                    Some(Ok(since)) => {
                        let lost = frozen.difference(&since).unwrap().next_dirty(0..LEN).unwrap();
                        let same = ledger.told(Tell::Drops) == drops;
                        assert!(lost.is_none() || !same, "LOST: {lost:?} was committed, and is clean since {some:?}");
                    }
                    None | Some(Err(Error::NoPoint { .. } | Error::Locked { .. })) => {}
                    Some(Err(error)) => panic!("{error}"),
                }
            }
        // Who freezes it may live, and had better come to an end now and then.
        } else if state != CheckpointState::Freezing || numbers.one_in(3) {
            let aborted = ledger.while_moving(self.me, || unless_settled(map.abort_checkpoint(uuid)));
            if aborted.is_some() {
                ledger.count(Tell::Aborted);
            }
        }
    }

    fn points(&mut self, map: &DirtyMap) {
        self.process.since("a writer", map).unwrap();
        let points = map.points().unwrap();
        let Process { ledger, numbers, .. } = &mut self.process;
        if !points.is_empty() {
            ledger.count(Tell::Drops);
            match map.drop_point(&points[numbers.below(points.len() as u64) as usize].name) {
                Ok(()) => ledger.count(Tell::DroppedPoints),
                Err(error) => assert_eq!(error.kind(), "no-point", "{error}"),
            }
        }
    }
}

/// What was done to a checkpoint, unless others have committed or aborted it meanwhile.
fn unless_settled<R>(done: dirtymap::Result<R>) -> Option<R> {
    match done {
        Ok(done) => Some(done),
        Err(Error::NoCheckpoint { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Closes the map. Not if others had the gate for as long as one waits for it.
fn closed(map: DirtyMap) -> bool {
    match map.close() {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.error().kind(), "locked", "{error}");
            false
        }
    }
}

/// Looks at the map as it is, at rest or in use, again and again.
fn read(process: &mut Process) {
    while !process.finished() {
        let owed = process.ledger.owed();
        let map = Options::new().access(Access::ReadOnly).wait(FOR_GOOD).open(&process.path).unwrap();
        // Also if the session ends meanwhile: what cannot be known any more is dirty.
        let looked = process.everything("a reader", &map, &owed).and_then(|()| {
            let live = map.info()?.state == FileState::Open;
            process.ledger.count(if live { Tell::LiveLooks } else { Tell::LoadedLooks });
            while live && !process.finished() {
                let i = process.numbers.below(ENTRIES as u64) as usize;
                let was = process.ledger.entry(i);
                if was.known() == Known::Owed {
                    process.ledger.expect_dirty("a reader", (i, was), map.get(granule(i) * GRANULE)?);
                    process.ledger.count(Tell::LiveLooks);
                }
                if process.numbers.one_in(100) {
                    let owed = process.ledger.owed();
                    process.everything("a reader", &map, &owed)?;
                    process.since("a reader", &map)?;
                }
            }
            Ok(())
        });
        if let Err(error) = looked {
            assert_eq!(error.kind(), "unusable", "{error}");
        }
    }
}

fn shared() -> Options {
    Options::new().access(Access::Shared).wait(FOR_GOOD)
}

const ROLE: &str = "DIRTYMAP_STORM_ROLE";
const SEED: &str = "DIRTYMAP_SEED";
const MAP: &str = "DIRTYMAP_STORM_MAP";
const LEDGER: &str = "DIRTYMAP_STORM_LEDGER";

/// The main function of the processes of a storm.
#[test]
#[ignore = "what the processes of a storm run; nothing by itself"]
fn a_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let var = |name| std::env::var_os(name).unwrap();
    let seed = var(SEED).to_str().unwrap().parse().unwrap();
    let (path, ledger) = (PathBuf::from(var(MAP)), Ledger::open(Path::new(&var(LEDGER))));
    let (told, tells) = (Ledger::open(Path::new(&var(LEDGER))), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        told.tell(Tell::Panicked).store(1, SeqCst);
        tells(panic);
    }));
    let mut process = Process { path, ledger, numbers: Numbers(seed), parent: parent_id() };
    match role.parse() {
        Ok(me) if me < WRITERS => {
            // Who was this writer before is dead, and moves nothing any more.
            process.ledger.moving(me).store(0, SeqCst);
            Writer { process, me, done: vec![None; ENTRIES] }.run()
        }
        _ => read(&mut process),
    }
}

/// A storm, as seen from outside.
struct Storm {
    seed: u64,
    numbers: Numbers,
    path: PathBuf,
    ledger_path: PathBuf,
    ledger: Ledger,
    processes: Vec<Option<Child>>,
    kills: u64,
    /// Most sets between two kills.
    calm: u64,
    /// Process ids for the watchdog.
    alive: Arc<Mutex<HashSet<u32>>>,
}

impl Storm {
    fn start(&mut self, role: usize) {
        let seed = self.numbers.below(u64::MAX);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["a_process", "--exact", "--ignored", "--nocapture", "--quiet"]);
        command.env(ROLE, role.to_string()).env(SEED, seed.to_string()).env(MAP, &self.path);
        command.env(LEDGER, &self.ledger_path).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        self.alive.lock().unwrap().insert(child.id());
        self.processes[role] = Some(child);
    }

    /// Waits for the end of a process, which must be a good one or SIGKILL.
    fn reap(&mut self, role: usize) {
        let Some(mut child) = self.processes[role].take() else { return };
        let status = child.wait().unwrap();
        self.alive.lock().unwrap().remove(&child.id());
        assert!(status.success() || status.signal() == Some(9), "process {role}: {status}, seed {}", self.seed);
        assert_eq!(self.ledger.told(Tell::Panicked), 0, "a process has panicked, seed {}", self.seed);
    }

    fn kill(&mut self, roles: &[usize]) {
        // All are hit before the first one is waited for.
        for &role in roles {
            if let Some(child) = &mut self.processes[role] {
                child.kill().unwrap();
                self.kills += 1;
            }
        }
        roles.iter().for_each(|&role| self.reap(role));
    }

    /// Lets time pass: very little, which meets those who are just starting, or until something was set.
    fn wait(&mut self) {
        if self.numbers.one_in(2) {
            // How long starting takes is the machine's; this is anywhere in it and in opening.
            thread::sleep(Duration::from_micros(self.numbers.below(20_000)));
            return;
        }
        let until = self.ledger.told(Tell::Acknowledged) + 1 + self.numbers.below(self.calm);
        while self.ledger.told(Tell::Acknowledged) < until && self.all_live() {
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Whether nobody has ended, which who waits for something to be set had better know.
    fn all_live(&mut self) -> bool {
        let live = |child: &mut Option<Child>| child.as_mut().is_none_or(|c| c.try_wait().unwrap().is_none());
        self.processes.iter_mut().all(live)
    }

    fn round(&mut self) {
        let seed = self.seed;
        self.ledger.tell(Tell::Finish).store(0, SeqCst);
        let all: Vec<usize> = (0..WRITERS + READERS).collect();
        all.iter().for_each(|&role| self.start(role));
        for _ in 0..1 + self.numbers.below(8) {
            self.wait();
            let mut victims = all.clone();
            match self.numbers.below(12) {
                0 => {}
                // Who looks on stays, and must notice.
                1 => victims.truncate(WRITERS),
                _ => {
                    for _ in 0..all.len() - 1 - self.numbers.below(3) as usize {
                        victims.swap_remove(self.numbers.below(victims.len() as u64) as usize);
                    }
                }
            }
            self.kill(&victims);
            victims.iter().for_each(|&role| self.start(role));
        }
        self.wait();
        match self.numbers.below(3) {
            0 => self.kill(&all),
            end => {
                if end == 1 {
                    // Some die for good; the others must see what these have set.
                    self.kill(&[0, 1, WRITERS]);
                }
                self.ledger.tell(Tell::Finish).store(1, SeqCst);
                all.iter().for_each(|&role| self.reap(role));
                assert_eq!(inspect(&self.path).unwrap().state, FileState::Clean, "all have closed it, seed {seed}");
                let report = check(&self.path, |_, _| {}).unwrap();
                // A note is that the file is longer than need be, which readers and the dead are the reason of.
                assert!(report.severity() <= Some(Severity::Note), "{:#?}, seed {seed}", report.findings);
            }
        }
        self.verify();
    }

    /// Everything that is owed is in the file, and nothing else if the file says so.
    fn verify(&mut self) {
        let exact = inspect(&self.path).unwrap().verdict == Verdict::Exact;
        let at_rest = Options::new().access(Access::ReadOnly).open(&self.path).unwrap();
        let access = if self.numbers.one_in(2) { Access::Shared } else { Access::Exclusive };
        let map = Options::new().access(access).flush_interval(None).open(&self.path).unwrap();
        let outstanding = map.checkpoint().unwrap();
        let frozen = outstanding.as_ref().is_none_or(|checkpoint| checkpoint.state == CheckpointState::Frozen);
        assert!(frozen, "{outstanding:?} after an open, seed {}", self.seed);
        let is_dirty = |map: &DirtyMap, i| map.get(granule(i) * GRANULE).unwrap();
        for i in 0..ENTRIES {
            let (dirty, recovered) = (is_dirty(&at_rest, i), is_dirty(&map, i));
            match self.ledger.entry(i).known() {
                Known::Owed => assert!(dirty && recovered, "LOST: granule {}, seed {}", granule(i), self.seed),
                Known::Clean if exact => {
                    assert!(!dirty && !recovered, "granule {} came back, seed {}", granule(i), self.seed)
                }
                _ => self.ledger.mark(i, if recovered { Known::Nothing } else { Known::Clean }),
            }
        }
        if let Some(Checkpoint { uuid, .. }) = outstanding {
            match self.numbers.below(3) {
                0 => {}
                1 => {
                    self.ledger.forgive(&uuid, &map.frozen(uuid).unwrap());
                    map.commit_checkpoint(uuid, false).unwrap();
                }
                _ => map.abort_checkpoint(uuid).unwrap(),
            }
            for was in self.ledger.owed() {
                self.ledger.expect_dirty("who goes on with a checkpoint", was, is_dirty(&map, was.0));
            }
        }
        if self.numbers.one_in(4) && map.checkpoint().unwrap().is_none() {
            map.reset_all().unwrap();
            (0..ENTRIES).for_each(|i| self.ledger.mark(i, Known::Clean));
        } else {
            // What recovery has added here is known now.
            let target = ImageStamp::of_path(&self.ledger_path).unwrap();
            map.begin_backup(&target).and_then(|()| map.complete_backup(&target)).unwrap();
        }
        map.close().unwrap();
        let info = inspect(&self.path).unwrap();
        assert_eq!(info.state, FileState::Clean, "seed {}", self.seed);
        // A checkpoint may have some that was added before it was frozen.
        assert!(info.verdict == Verdict::Exact || info.checkpoint.is_some(), "{:?}, seed {}", info.reasons, self.seed);
    }
}

/// Says what hangs, and ends it, if something does for good.
fn watch(alive: Arc<Mutex<HashSet<u32>>>, pulse: Arc<AtomicU64>, over: Arc<AtomicBool>, seed: u64) {
    let (mut seen, mut since) = (0, Instant::now());
    while !over.load(SeqCst) {
        thread::sleep(Duration::from_millis(50));
        let now = pulse.load(SeqCst);
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > FOR_GOOD * 2 {
            eprintln!("the storm hangs: seed {seed}, round {now}, processes {:?}", alive.lock().unwrap());
            for &pid in &*alive.lock().unwrap() {
                // SAFETY: plain integers; these are children that nobody has waited for.
                #[allow(unsafe_code, reason = "the children are in the hands of who hangs")]
                unsafe {
                    libc::kill(pid as libc::pid_t, libc::SIGKILL)
                };
            }
            std::process::abort();
        }
    }
}

/// Ends the watchdog and, when a test fails, those who are left.
struct Ending(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
        let _ = self.1.take().map(thread::JoinHandle::join);
    }
}

fn storm(name: &str, durability: Durability, dir: Option<PathBuf>, rounds: u64, calm: u64) {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().unwrap());
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into();
    let seed: u64 = number(SEED).unwrap_or_else(clock);
    let rounds = number("DIRTYMAP_ROUNDS").unwrap_or(rounds);
    let in_memory = || tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let beside = in_memory();
    let dir = dir.map_or_else(in_memory, |dir| tempfile::tempdir_in(dir).unwrap());
    let ledger_path = beside.path().join("ledger");
    let mut storm = Storm {
        seed,
        numbers: Numbers(seed),
        path: dir.path().join("map"),
        ledger: Ledger::create(&ledger_path),
        ledger_path,
        processes: (0..WRITERS + READERS).map(|_| None).collect(),
        kills: 0,
        calm,
        alive: Arc::default(),
    };
    let new = Options::new().granularity(12).flush_interval(None).durability(durability);
    new.create(&storm.path, LEN).unwrap().close().unwrap();
    (0..ENTRIES).for_each(|i| storm.ledger.mark(i, Known::Clean));
    let (pulse, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let watchdog = {
        let (alive, pulse, over) = (storm.alive.clone(), pulse.clone(), over.clone());
        thread::spawn(move || watch(alive, pulse, over, seed))
    };
    let _ending = Ending(over, Some(watchdog));
    eprintln!("{name}: seed {seed}, {rounds} rounds");
    for round in 0..rounds {
        storm.round();
        pulse.store(round + 1, SeqCst);
    }
    let told = |what| storm.ledger.told(what);
    eprintln!(
        "{name}: {rounds} rounds, {} kills, {} sets acknowledged, {} recoveries, {} truncations, {} freezes, \
         {} commits, {} aborts, {} points dropped, looks of readers: {} at rest, {} at what others had open",
        storm.kills,
        told(Tell::Acknowledged),
        told(Tell::Recovered),
        told(Tell::Truncated),
        told(Tell::Frozen),
        told(Tell::Committed),
        told(Tell::Aborted),
        told(Tell::DroppedPoints),
        told(Tell::LoadedLooks),
        told(Tell::LiveLooks)
    );
    assert!(told(Tell::Acknowledged) > 0 && told(Tell::LiveLooks) > 0 && storm.kills > 0);
}

impl Drop for Storm {
    fn drop(&mut self) {
        for child in self.processes.iter_mut().flatten() {
            // A failure is told already.
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

fn chosen_dir() -> Option<PathBuf> {
    std::env::var_os("DIRTYMAP_DIR").map(PathBuf::from)
}

#[test]
fn a_map_that_survives_power_cuts() {
    storm("power loss", Durability::PowerLoss, chosen_dir(), 6, 300);
}

#[test]
fn a_map_that_survives_processes() {
    storm("process", Durability::Process, chosen_dir(), 6, 300);
}

#[test]
fn a_map_on_a_disk() {
    let dir = chosen_dir().unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    storm("on a disk", Durability::PowerLoss, Some(dir), 2, 40);
}
