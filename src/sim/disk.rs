//! A simulated disk under the real store.
//!
//! Between two durable writes only freed space and the length of the file are pending, since everything else that the
//! store writes is durable when it goes on. So all that can go wrong happens inside a [`Disk::write_durable`] or a
//! [`Disk::sync_all`]: power goes, the process is killed, or the device fails. Which of the written sectors are then
//! new, old or garbage, on the device and in the page cache, is chosen by the test; so is how much of what is pending
//! reached the device. Other calls fail as the test says, sectors are unreadable until they are written, and every few
//! system calls one does less than it was asked for, or is interrupted.
//!
//! What is mapped is page cache too: it is read by reading the file, stays when processes die and goes when the power does,
//! and now and then the kernel writes a page of it back, so that the device has pages of different moments. The machine has
//! another boot id after a power cut, and the same after a kill.
//!
//! The disk looks at what is written: a header whose checkpoint state is no step from one that was there before it, or a
//! store into mapped space that was not set aside before, is remembered as [wrong](SimDisk::wrong).

use crate::error::Holder;
use crate::format::{ALIGN, COPY_BYTES, CheckpointState, HEADER_REGION, Header, Uuid};
use crate::sys::file::fill_from;
use crate::sys::{Disk, Identity, Lock, Mapping, Part};
use crate::testing::{Mutant, mutant};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

pub(crate) const SECTOR: usize = 512;

/// What happens inside a durable write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes. The page cache is gone, the device keeps what was picked.
    Cut(Pick),
    /// The process is killed. The page cache keeps what was picked first, the device of that what was picked second.
    Kill(Pick, Pick),
    /// The device keeps what was picked and reports an error: that it is full, if it took the first sectors, else EIO. The
    /// page cache keeps the new content, or is reverted to what the device has.
    Fail(Pick, bool),
}

/// Calls that write nothing durably, and fail as the test says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Allocate,
    Punch,
    Grow,
}

impl Call {
    pub(crate) const ALL: [Call; 4] = [Call::Read, Call::Allocate, Call::Punch, Call::Grow];

    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(if self == Call::Read { libc::EIO } else { libc::ENOSPC })
    }
}

/// Which calls of a kind fail, counted from the first one on.
pub(crate) type Trouble = (Call, Range<usize>);

/// Which of the sectors that are being written become new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    None,
    All,
    First(usize),
    Only(usize),
    AllBut(usize),
    /// By the bits of a pseudo-random sequence.
    Random(u64),
    /// All but one sector in each four, as many as the fixed part of a header has, which becomes garbage.
    Rot(usize),
    /// Each sector by its bit; the others are old, or garbage.
    Mask(u64, bool),
    /// As `Random`, but some of the others become garbage.
    Garbage(u64),
}

/// Pseudo-random numbers (splitmix64): small, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

type Sector = [u8; SECTOR];

const CHUNK: usize = 8 * SECTOR;

/// The bytes of a file, in chunks that copies share until they are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    chunks: Vec<Option<Arc<[u8; CHUNK]>>>,
    len: usize,
}

impl Image {
    /// A hole for the bytes that are new.
    fn grow(&mut self, len: usize) {
        self.len = self.len.max(len);
        self.chunks.resize(self.chunks.len().max(len.div_ceil(CHUNK)), None);
    }

    /// Bytes past the end read as zeros.
    fn sector(&self, index: usize) -> Sector {
        match self.chunks.get(index / 8) {
            Some(Some(chunk)) => chunk[index % 8 * SECTOR..][..SECTOR].try_into().unwrap(),
            _ => [0; SECTOR],
        }
    }

    fn set_sector(&mut self, index: usize, new: &Sector) {
        self.grow((index + 1) * SECTOR);
        let chunk = self.chunks[index / 8].get_or_insert_with(|| Arc::new([0; CHUNK]));
        Arc::make_mut(chunk)[index % 8 * SECTOR..][..SECTOR].copy_from_slice(new);
    }

    fn read(&self, buf: &mut [u8], offset: usize) {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done;
            let n = (CHUNK - at % CHUNK).min(buf.len() - done);
            match self.chunks.get(at / CHUNK) {
                Some(Some(chunk)) => buf[done..done + n].copy_from_slice(&chunk[at % CHUNK..][..n]),
                _ => buf[done..done + n].fill(0),
            }
            done += n;
        }
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done;
            let n = (CHUNK - at % CHUNK).min(bytes.len() - done);
            let chunk = self.chunks[at / CHUNK].get_or_insert_with(|| Arc::new([0; CHUNK]));
            Arc::make_mut(chunk)[at % CHUNK..][..n].copy_from_slice(&bytes[done..done + n]);
            done += n;
        }
    }

    /// One of the chunks.
    fn chunk(&self, index: usize) -> Option<&Arc<[u8; CHUNK]>> {
        self.chunks.get(index).and_then(Option::as_ref)
    }

    fn set_chunk(&mut self, index: usize, chunk: Option<Arc<[u8; CHUNK]>>) {
        self.grow((index + 1) * CHUNK);
        self.chunks[index] = chunk;
    }

    /// Zeros for whole sectors.
    fn clear(&mut self, range: Range<usize>) {
        for index in range.start.div_ceil(SECTOR)..range.end.min(self.len) / SECTOR {
            if matches!(self.chunks.get(index / 8), Some(Some(_))) {
                self.set_sector(index, &[0; SECTOR]);
            }
        }
    }

    /// Forgets what lies behind `len`, which is a multiple of the chunks.
    fn cut(&mut self, len: usize) {
        self.chunks.truncate(len.div_ceil(CHUNK));
        self.len = self.len.min(len);
    }

    /// The sectors in which this differs from another.
    pub(crate) fn differing(&self, other: &Image) -> Vec<usize> {
        let same = |i: usize| match (self.chunks.get(i).unwrap_or(&None), other.chunks.get(i).unwrap_or(&None)) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        let chunks = (0..self.chunks.len().max(other.chunks.len())).filter(|&i| !same(i));
        chunks.flat_map(|i| i * 8..i * 8 + 8).filter(|&s| self.sector(s) != other.sector(s)).collect()
    }

    /// Shares the chunks that are equal, so that they are found equal quickly.
    fn share(&mut self, with: &Image) {
        for (mine, other) in self.chunks.iter_mut().zip(&with.chunks) {
            if let (Some(a), Some(b)) = (&*mine, other)
                && !Arc::ptr_eq(a, b)
                && a == b
            {
                *mine = other.clone();
            }
        }
    }
}

#[derive(Debug, Default)]
struct Bytes {
    device: Image,
    cache: Image,
    writes: usize,
    /// What to do in which write.
    faults: Vec<(usize, Fault)>,
    /// The machine or the process is gone: nothing works any more.
    dead: bool,
    pending_sectors: usize,
    /// A durable write has failed.
    failed: bool,
    write_back_failed: bool,
    /// Calls so far, by [`Call`].
    calls: [usize; Call::ALL.len()],
    troubles: Vec<Trouble>,
    /// The file cannot be mapped: the type of its file system.
    unmappable: Option<i64>,
    /// Sectors that cannot be read until they are written.
    bad: Vec<usize>,
    /// System calls so far.
    system_calls: Cell<u64>,
    states: States,
    /// Which boot of the machine this is, and which file.
    boot: u64,
    file: u64,
    /// What has been mapped, and what of the file has space, in units of [`ALIGN`] bytes.
    mapped: BTreeSet<usize>,
    allocated: BTreeSet<usize>,
}

const UNIT: usize = ALIGN as usize;

/// The units that a range touches.
fn units(range: &Range<u64>) -> Range<usize> {
    range.start as usize / UNIT..(range.end as usize).div_ceil(UNIT)
}

/// The checkpoint as headers say it: the state, and of which one.
type Checkpoint = (CheckpointState, Uuid);

/// What headers have said of the checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct States {
    /// What the last header says that was written durably, and those say of which nobody knows.
    possible: Vec<Checkpoint>,
    wrong: Option<String>,
}

impl States {
    /// Whether a header that a crash leaves may say that.
    pub(crate) fn may_be(&self, header: &Header) -> bool {
        self.possible.is_empty() || self.possible.contains(&(header.checkpoint_state, header.checkpoint_uuid))
    }

    /// A header is being written.
    fn written(&mut self, to: Checkpoint, durably: bool) {
        if !self.possible.is_empty() && !self.possible.iter().any(|&from| is_step(from, to)) {
            self.wrong.get_or_insert_with(|| format!("{to:?} is written after {:?}", self.possible));
        }
        if durably {
            self.possible.clear();
        }
        if !self.possible.contains(&to) {
            self.possible.push(to);
        }
    }
}

/// The arrows: NORMAL to FREEZING to FROZEN to NORMAL, and from any that is outstanding to ABORTING to NORMAL.
fn is_step(from: Checkpoint, to: Checkpoint) -> bool {
    use CheckpointState::*;
    let same = from.1 == to.1;
    match (from.0, to.0) {
        (Normal, Freezing) => true,
        (Freezing, Frozen) | (Freezing | Frozen, Aborting) => same,
        (Frozen | Aborting, Normal) => true,
        (a, b) => a == b && same,
    }
}

type Interloper = Box<dyn FnMut() + Send>;

pub(crate) struct SimDisk {
    bytes: Mutex<Bytes>,
    /// Called inside every durable write, before anything is written.
    interloper: Mutex<Option<Interloper>>,
    /// The page cache of what has been mapped.
    mapped: OnceLock<File>,
    me: Weak<SimDisk>,
}

impl SimDisk {
    /// A disk with this content, durably.
    pub(crate) fn new(content: Image, faults: Vec<(usize, Fault)>) -> Arc<SimDisk> {
        SimDisk::with_cache(content.clone(), content, faults)
    }

    /// A disk with this content on the device, and that in the page cache, of a machine that was just booted.
    pub(crate) fn with_cache(device: Image, cache: Image, faults: Vec<(usize, Fault)>) -> Arc<SimDisk> {
        static BOOTS: AtomicU64 = AtomicU64::new(1);
        let boot = BOOTS.fetch_add(1, Relaxed);
        Arc::new_cyclic(|me| SimDisk {
            bytes: Mutex::new(Bytes { device, cache, faults, boot, file: 1, ..Bytes::default() }),
            interloper: Mutex::new(None),
            mapped: OnceLock::new(),
            me: me.clone(),
        })
    }

    pub(crate) fn shared(&self) -> Arc<dyn Disk> {
        self.me.upgrade().expect("alive")
    }

    pub(crate) fn interlope(&self, f: Option<Interloper>) {
        *self.interloper.lock().unwrap() = f;
    }

    /// Durable writes so far.
    pub(crate) fn writes(&self) -> usize {
        self.bytes.lock().unwrap().writes
    }

    /// Sectors that the last write wrote.
    pub(crate) fn sectors(&self) -> usize {
        self.bytes.lock().unwrap().pending_sectors
    }

    /// The file that holds what is mapped.
    pub(crate) fn mapped(&self) -> &File {
        self.mapped.get_or_init(|| tempfile::tempfile().expect("a temporary file"))
    }

    /// Goes on for others, after one process was killed.
    pub(crate) fn survive(&self) {
        self.bytes.lock().unwrap().dead = false;
    }

    pub(crate) fn dead(&self) -> bool {
        self.bytes.lock().unwrap().dead
    }

    /// The bytes, unless the machine or the process is gone.
    fn alive(&self) -> io::Result<MutexGuard<'_, Bytes>> {
        let bytes = self.bytes.lock().unwrap();
        if bytes.dead { Err(gone()) } else { Ok(bytes) }
    }

    /// Has calls fail, from here on.
    pub(crate) fn trouble(&self, troubles: &[Trouble]) {
        let mut b = self.bytes.lock().unwrap();
        let so_far = b.calls;
        let later = |(call, at): &Trouble| (*call, at.start + so_far[*call as usize]..at.end + so_far[*call as usize]);
        b.troubles.extend(troubles.iter().map(later));
    }

    /// Has a later write go wrong.
    pub(crate) fn fail(&self, write: usize, fault: Fault) {
        self.bytes.lock().unwrap().faults.push((write, fault));
    }

    /// Calls of a kind so far.
    pub(crate) fn calls(&self, call: Call) -> usize {
        self.bytes.lock().unwrap().calls[call as usize]
    }

    /// The kernel could not write something back that is mapped, and tells whoever syncs first.
    pub(crate) fn fail_write_back(&self) {
        self.bytes.lock().unwrap().write_back_failed = true;
    }

    /// Makes a sector unreadable until it is written.
    pub(crate) fn spoil(&self, sector: usize) {
        self.bytes.lock().unwrap().bad.push(sector);
    }

    /// Whether a durable write has failed since the last [`forgive`](Self::forgive).
    pub(crate) fn failed(&self) -> bool {
        self.bytes.lock().unwrap().failed
    }

    pub(crate) fn forgive(&self) {
        self.bytes.lock().unwrap().failed = false;
    }

    /// What the headers said that were written.
    pub(crate) fn states(&self) -> States {
        self.bytes.lock().unwrap().states.clone()
    }

    /// What was written that must not be.
    pub(crate) fn wrong(&self) -> Result<(), String> {
        self.states().wrong.map_or(Ok(()), Err)
    }

    /// The same disk for a new process, after the one before was killed. With the faults that are still to come.
    pub(crate) fn carry_on(&self) -> Arc<SimDisk> {
        let disk = self.after_death();
        let (b, mut new) = (self.bytes.lock().unwrap(), disk.bytes.lock().unwrap());
        new.faults = b.faults.iter().filter(|f| f.0 >= b.writes).map(|f| (f.0 - b.writes, f.1)).collect();
        (new.calls, new.troubles, new.states) = (b.calls, b.troubles.clone(), b.states.clone());
        drop(new);
        disk
    }

    /// The same disk after all processes were killed, and with nothing that goes wrong any more.
    pub(crate) fn after_death(&self) -> Arc<SimDisk> {
        let cache = self.cache();
        let b = self.bytes.lock().unwrap();
        let disk = SimDisk::with_cache(b.device.clone(), cache, Vec::new());
        let mut new = disk.bytes.lock().unwrap();
        (new.boot, new.file, new.write_back_failed) = (b.boot, b.file, b.write_back_failed);
        new.allocated = b.allocated.clone();
        drop(new);
        disk
    }

    /// From here on nobody knows which boot this is, as without a procfs.
    pub(crate) fn forget_boot(&self) {
        self.bytes.lock().unwrap().boot = 0;
    }

    /// From here on the file is on a file system of this type, of which nothing is known.
    pub(crate) fn become_unmappable(&self, number: i64) {
        self.bytes.lock().unwrap().unmappable = Some(number);
    }

    /// From here on this is another file, with the same content.
    pub(crate) fn become_another_file(&self) {
        self.bytes.lock().unwrap().file += 1;
    }

    /// A page of what is mapped, as it is now. Maps are small here: nothing but the first page of each unit is used.
    fn mapped_page(&self, unit: usize) -> Option<Arc<[u8; CHUNK]>> {
        let mut page = [0; CHUNK];
        self.mapped().read_exact_at(&mut page, (unit * UNIT) as u64).expect("it was made long enough");
        (page != [0; CHUNK]).then(|| Arc::new(page))
    }

    /// The kernel writes some pages back of what is mapped.
    fn write_back(&self, b: &mut Bytes, some: impl Fn(usize) -> bool) {
        for unit in b.mapped.clone() {
            let page = self.mapped_page(unit);
            if page.is_some() && !b.allocated.contains(&unit) {
                b.states
                    .wrong
                    .get_or_insert_with(|| format!("stored into unit {unit}, and there was no space set aside"));
            }
            if some(unit) {
                b.cache.set_chunk(unit * UNIT / CHUNK, page.clone());
                b.device.set_chunk(unit * UNIT / CHUNK, page);
            }
        }
    }

    /// The kernel fails to write a mapped page back, drops it, and tells whoever syncs first: it reads as the device has it.
    pub(crate) fn lose_a_mapped_page(&self, which: u64) {
        let mut b = self.bytes.lock().unwrap();
        let Some(&unit) = b.mapped.iter().nth(which as usize % b.mapped.len().max(1)) else { return };
        b.write_back_failed = true;
        let page = b.device.chunk(unit * UNIT / CHUNK).cloned();
        b.cache.set_chunk(unit * UNIT / CHUNK, page.clone());
        self.mapped()
            .write_all_at(&*page.unwrap_or_else(|| Arc::new([0; CHUNK])), (unit * UNIT) as u64)
            .expect("written");
    }

    /// What the page cache has of some sectors is what who maps them sees.
    fn show(&self, b: &mut Bytes, sectors: &[usize]) {
        for &sector in sectors {
            let unit = sector * SECTOR / UNIT;
            if b.mapped.contains(&unit) {
                self.mapped().write_all_at(&b.cache.sector(sector), (sector * SECTOR) as u64).expect("written");
                b.allocated.insert(unit);
            }
        }
    }

    /// Counts a call, which fails if the test says so.
    fn call(&self, call: Call) -> io::Result<MutexGuard<'_, Bytes>> {
        let mut b = self.alive()?;
        let this = b.calls[call as usize];
        b.calls[call as usize] += 1;
        match b.troubles.iter().any(|(kind, at)| *kind == call && at.contains(&this)) {
            true => Err(call.error()),
            false => Ok(b),
        }
    }

    /// What the device holds.
    pub(crate) fn device(&self) -> Image {
        self.bytes.lock().unwrap().device.clone()
    }

    /// What the page cache holds, also of what is mapped.
    pub(crate) fn cache(&self) -> Image {
        let b = self.bytes.lock().unwrap();
        let mut cache = b.cache.clone();
        b.mapped.iter().for_each(|&unit| cache.set_chunk(unit * UNIT / CHUNK, self.mapped_page(unit)));
        cache
    }
}

fn gone() -> io::Error {
    io::Error::other("simulated: gone")
}

impl Bytes {
    /// Lets the picked ones of some new sectors through to `to`.
    fn let_through(to: &mut Image, new: &[(usize, Sector)], pick: Pick) {
        let mut rng = Rng(match pick {
            Pick::Random(seed) | Pick::Garbage(seed) => seed,
            _ => 0,
        });
        for (i, (at, sector)) in new.iter().enumerate() {
            let through = match pick {
                Pick::None => false,
                Pick::All => true,
                Pick::First(n) => i < n,
                Pick::Only(n) => i == n,
                Pick::AllBut(n) => i != n,
                Pick::Rot(n) => i % 4 != n,
                Pick::Random(_) => rng.below(2) == 0,
                Pick::Garbage(_) => rng.below(2) == 0,
                Pick::Mask(mask, _) => mask >> (i % 64) & 1 != 0,
            };
            if through {
                to.set_sector(*at, sector);
            } else if matches!(pick, Pick::Rot(_) | Pick::Mask(_, true))
                || matches!(pick, Pick::Garbage(_)) && rng.below(2) == 0
            {
                to.set_sector(*at, &std::array::from_fn(|_| rng.next() as u8));
            }
        }
    }

    /// What is pending on the device beside the sectors that are being written: as much of it as is picked.
    fn let_pending_through(&mut self, written: &[(usize, Sector)], pick: Pick) {
        let pending: Vec<(usize, Sector)> = (self.cache.differing(&self.device).into_iter())
            .filter(|s| !written.iter().any(|(w, _)| w == s))
            .map(|s| (s, self.cache.sector(s)))
            .collect();
        // No garbage here: freeing space is not writing sectors.
        let pick = match pick {
            Pick::Garbage(seed) => Pick::Random(seed),
            Pick::Rot(_) => Pick::None,
            Pick::Mask(mask, _) => Pick::Mask(mask, false),
            pick => pick,
        };
        Bytes::let_through(&mut self.device, &pending, pick);
    }

    /// The length of the file that a power cut leaves: as it was before what was written, or with it.
    fn cut_length(&mut self, before: usize, pick: Pick) {
        let short = match pick {
            Pick::Random(seed) | Pick::Garbage(seed) => seed & 8 != 0,
            Pick::Mask(..) | Pick::AllBut(_) => true,
            _ => false,
        };
        if short && before < self.device.len {
            self.device.cut(before.div_ceil(CHUNK) * CHUNK);
        }
    }

    /// Whether any of some sectors belongs to the header or to what it names. What fails elsewhere was given up.
    fn is_named(&self, sectors: &[usize]) -> bool {
        let copy = |copy: usize| -> Option<Header> {
            let mut bytes = vec![0; COPY_BYTES];
            self.cache.read(&mut bytes, crate::format::copy_offset(copy) as usize);
            Header::parse(&bytes).ok()
        };
        let newest = (0..crate::format::COPIES).filter_map(copy).max_by_key(|header| header.sequence);
        let regions = newest.map_or(Vec::new(), |header| header.regions());
        let named = |&at: &usize| regions.iter().any(|(_, region)| region.contains(&((at * SECTOR) as u64)));
        regions.is_empty() || sectors.iter().any(named)
    }

    /// Writes what is in `next` at some sectors, with whatever is to go wrong in this write.
    fn write(&mut self, next: Image, mut touched: Vec<usize>, synced: bool) -> io::Result<()> {
        touched.sort_unstable();
        touched.dedup();
        let new: Vec<(usize, Sector)> = touched.iter().map(|&s| (s, next.sector(s))).collect();
        let fault = self.faults.iter().find(|(at, _)| *at == self.writes).map(|(_, fault)| *fault);
        self.writes += 1;
        self.pending_sectors = new.len();
        self.bad.retain(|bad| !touched.contains(bad));
        match fault {
            None if !synced => {
                self.cache = next;
                Ok(())
            }
            None => {
                Bytes::let_through(&mut self.device, &new, Pick::All);
                self.cache = next;
                self.device.share(&self.cache);
                Ok(())
            }
            Some(Fault::Cut(pick)) => {
                let before = self.device.len;
                self.let_pending_through(&new, pick);
                Bytes::let_through(&mut self.device, &new, pick);
                self.cut_length(before, pick);
                self.cache = self.device.clone();
                self.dead = true;
                Err(gone())
            }
            Some(Fault::Kill(cached, written)) => {
                let old = self.cache.clone();
                Bytes::let_through(&mut self.cache, &new, cached);
                // Only what is in the page cache can be written back.
                let back: Vec<(usize, Sector)> = (new.iter())
                    .map(|&(at, _)| (at, self.cache.sector(at)))
                    .filter(|(at, s)| *s != old.sector(*at))
                    .collect();
                Bytes::let_through(&mut self.device, &back, written);
                self.dead = true;
                Err(gone())
            }
            Some(Fault::Fail(pick, keep)) => {
                self.failed |= self.is_named(&touched);
                Bytes::let_through(&mut self.device, &new, pick);
                if keep {
                    self.cache = next;
                } else {
                    for (at, _) in &new {
                        let device = self.device.sector(*at);
                        self.cache.set_sector(*at, &device);
                    }
                }
                let full = matches!(pick, Pick::First(_));
                Err(io::Error::from_raw_os_error(if full { libc::ENOSPC } else { libc::EIO }))
            }
        }
    }
}

/// The system calls on an image: now and then one does less than it is asked for, or is interrupted.
struct Calls<'a> {
    image: RefCell<&'a mut Image>,
    so_far: &'a Cell<u64>,
}

impl Calls<'_> {
    fn some(&self, wanted: usize) -> io::Result<usize> {
        self.so_far.set(self.so_far.get() + 1);
        match self.so_far.get() % 7 {
            2 => Err(io::ErrorKind::Interrupted.into()),
            5 => Ok(wanted.div_ceil(3)),
            _ => Ok(wanted),
        }
    }
}

impl FileExt for Calls<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let image = self.image.borrow();
        let n = self.some(buf.len())?.min(image.len.saturating_sub(offset as usize));
        image.read(&mut buf[..n], offset as usize);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let n = self.some(buf.len())?;
        self.image.borrow_mut().write(&buf[..n], offset as usize);
        Ok(n)
    }
}

/// What headers among some parts say of the checkpoint.
fn checkpoints<'a>(parts: &'a [Part<'_>]) -> impl Iterator<Item = Checkpoint> + 'a {
    let header = |part: &Part<'_>| {
        let whole = part.offset < HEADER_REGION && part.bytes.len() <= COPY_BYTES;
        whole.then(|| Header::parse(part.bytes).ok()).flatten()
    };
    parts.iter().filter_map(header).map(|header| (header.checkpoint_state, header.checkpoint_uuid))
}

impl Disk for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().cache.len as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut b = self.call(Call::Read)?;
        let at = offset as usize;
        let wanted = at / SECTOR..(at + buf.len()).div_ceil(SECTOR);
        if b.bad.iter().any(|bad| wanted.contains(bad)) {
            return Err(Call::Read.error());
        }
        let Bytes { cache, system_calls, .. } = &mut *b;
        fill_from(&Calls { image: RefCell::new(cache), so_far: system_calls }, buf, offset)?;
        for unit in units(&(offset..offset + buf.len() as u64)).filter(|unit| b.mapped.contains(unit)) {
            let seen = at.max(unit * UNIT)..(at + buf.len()).min((unit + 1) * UNIT);
            self.mapped().read_exact_at(&mut buf[seen.start - at..seen.end - at], seen.start as u64)?;
        }
        Ok(())
    }

    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        Ok((range.start < range.end).then_some(range))
    }

    fn write_durable(&self, parts: &[Part<'_>]) -> io::Result<()> {
        if let Some(f) = &mut *self.interloper.lock().unwrap() {
            f();
        }
        let mut b = self.alive()?;
        let some = Rng(b.writes as u64).next();
        self.write_back(&mut b, |unit| some >> (unit % 32 * 2) & 3 == 0);
        // Who writes a part of a sector leaves the rest of it as it is mapped.
        for unit in parts.iter().flat_map(|part| units(&(part.offset..part.offset + part.bytes.len() as u64))) {
            if b.mapped.contains(&unit) {
                let page = self.mapped_page(unit);
                b.cache.set_chunk(unit * UNIT / CHUNK, page);
            }
        }
        let mut next = b.cache.clone();
        let mut touched = Vec::new();
        for part in parts {
            let at = part.offset as usize;
            assert!(at + part.bytes.len() <= next.len, "a durable write past the end of the file");
            let calls = Calls { image: RefCell::new(&mut next), so_far: &b.system_calls };
            calls.write_all_at(part.bytes, part.offset)?;
            touched.extend(at / SECTOR..(at + part.bytes.len()).div_ceil(SECTOR));
        }
        let headers = parts.iter().any(|part| part.offset < HEADER_REGION);
        let step = if headers { Mutant::SyncHeaders } else { Mutant::SyncPages };
        let done = b.write(next, touched.clone(), !mutant(step));
        self.show(&mut b, &touched);
        checkpoints(parts).for_each(|to| b.states.written(to, done.is_ok()));
        done
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.call(Call::Allocate)?.allocated.extend(units(&range));
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let mut b = self.call(Call::Punch)?;
        b.cache.clear(range.start as usize..range.end as usize);
        for unit in units(&range) {
            b.allocated.remove(&unit);
            if b.mapped.contains(&unit) {
                self.mapped().write_all_at(&[0; CHUNK], (unit * UNIT) as u64)?;
            }
        }
        Ok(())
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let mut b = self.call(Call::Grow)?;
        b.cache.grow(len as usize);
        Ok(())
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        let mut b = self.alive()?;
        b.cache.cut(len as usize);
        Ok(())
    }

    fn reading_allocates(&self) -> bool {
        false
    }

    fn unmappable(&self) -> io::Result<Option<i64>> {
        Ok(self.bytes.lock().unwrap().unmappable)
    }

    fn map(&self, range: Range<u64>) -> io::Result<Mapping> {
        let file = self.mapped();
        file.set_len(range.end.max(file.metadata()?.len()))?;
        let mut b = self.alive()?;
        for unit in units(&range) {
            let page = b.cache.chunk(unit * UNIT / CHUNK).cloned();
            if let (true, Some(page)) = (b.mapped.insert(unit), page) {
                file.write_all_at(&*page, (unit * UNIT) as u64)?;
            }
        }
        Mapping::of_file(file, range)
    }

    fn keep_off(&self, _: Range<u64>) {}

    fn try_lock(&self, _: Lock) -> io::Result<bool> {
        Ok(true)
    }

    fn holder(&self, _: Lock, _: Lock) -> Option<Holder> {
        None
    }

    fn slot_held(&self, _: Range<u64>) -> io::Result<bool> {
        Ok(false) // One process, and nobody else.
    }

    fn has_readers(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn unlock(&self, _: Lock) {}

    fn sync_all(&self) -> io::Result<()> {
        let mut b = self.alive()?;
        if std::mem::take(&mut b.write_back_failed) {
            b.failed = true;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.write_back(&mut b, |_| true);
        let (next, pending) = (b.cache.clone(), b.cache.differing(&b.device));
        let len = next.len;
        let done = b.write(next, pending.clone(), true);
        self.show(&mut b, &pending);
        done?;
        b.device.grow(len);
        b.device.cut(len);
        Ok(())
    }

    fn identity(&self) -> io::Result<Identity> {
        let b = self.bytes.lock().unwrap();
        let mut boot_id = [0; 16];
        boot_id[..8].copy_from_slice(&b.boot.to_le_bytes());
        Ok(Identity { boot_id, device: 1, inode: b.file, mount: 1, birth: 1 })
    }
}
