//! A simulated disk under the real store.
//!
//! Between two durable writes only freed space and the length of the file are pending, since everything else that the
//! store writes is durable when it goes on. So all that can go wrong happens inside a [`Disk::write_durable`] or a
//! [`Disk::sync_all`]: power goes, the process is killed, or the device fails. Which of the written sectors are then
//! new, old or garbage, on the device and in the page cache, is chosen by the test; so is how much of what is pending
//! reached the device.

use crate::sys::disk::Identity;
use crate::sys::{Disk, Lock, Mapping, Part};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

pub(super) const SECTOR: usize = 512;

/// What happens inside a durable write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The power goes. The page cache is gone, the device keeps what was picked.
    Cut(Pick),
    /// The process is killed. The page cache keeps what was picked first, the device of that what was picked second.
    Kill(Pick, Pick),
    /// The device keeps what was picked and reports an error. The page cache keeps the new content, or is
    /// reverted to what the device has.
    Fail(Pick, bool),
}

/// Which of the sectors that are being written become new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    None,
    All,
    First(usize),
    Only(usize),
    AllBut(usize),
    /// By the bits of a pseudo-random sequence.
    Random(u64),
    /// All but one sector in each eight, which becomes garbage.
    Rot(usize),
    /// As `Random`, but some of the others become garbage.
    Garbage(u64),
}

/// Pseudo-random numbers (splitmix64): small, and the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Rng(pub u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

type Sector = [u8; SECTOR];

const CHUNK: usize = 8 * SECTOR;

/// The bytes of a file, in chunks that copies share until they are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
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
    pub(super) fn differing(&self, other: &Image) -> Vec<usize> {
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
}

type Interloper = Box<dyn FnMut() + Send>;

pub(super) struct SimDisk {
    bytes: Mutex<Bytes>,
    /// Called inside every durable write, before anything is written.
    interloper: Mutex<Option<Interloper>>,
    /// What is mapped, which is not part of the simulation: nothing is lost of it.
    mapped: OnceLock<File>,
    me: Weak<SimDisk>,
}

impl SimDisk {
    /// A disk with this content, durably.
    pub(super) fn new(content: Image, faults: Vec<(usize, Fault)>) -> Arc<SimDisk> {
        SimDisk::with_cache(content.clone(), content, faults)
    }

    /// A disk with this content on the device, and that in the page cache.
    pub(super) fn with_cache(device: Image, cache: Image, faults: Vec<(usize, Fault)>) -> Arc<SimDisk> {
        Arc::new_cyclic(|me| SimDisk {
            bytes: Mutex::new(Bytes { device, cache, faults, ..Bytes::default() }),
            interloper: Mutex::new(None),
            mapped: OnceLock::new(),
            me: me.clone(),
        })
    }

    pub(super) fn shared(&self) -> Arc<dyn Disk> {
        self.me.upgrade().expect("alive")
    }

    pub(super) fn interlope(&self, f: Option<Interloper>) {
        *self.interloper.lock().unwrap() = f;
    }

    /// Durable writes so far.
    pub(super) fn writes(&self) -> usize {
        self.bytes.lock().unwrap().writes
    }

    /// Sectors that the last write wrote.
    pub(super) fn sectors(&self) -> usize {
        self.bytes.lock().unwrap().pending_sectors
    }

    /// The file that holds what is mapped.
    pub(super) fn mapped(&self) -> &File {
        self.mapped.get_or_init(|| tempfile::tempfile().expect("a temporary file"))
    }

    /// Goes on for others, after one process was killed.
    pub(super) fn survive(&self) {
        self.bytes.lock().unwrap().dead = false;
    }

    pub(super) fn dead(&self) -> bool {
        self.bytes.lock().unwrap().dead
    }

    /// The bytes, unless the machine or the process is gone.
    fn alive(&self) -> io::Result<MutexGuard<'_, Bytes>> {
        let bytes = self.bytes.lock().unwrap();
        if bytes.dead { Err(gone()) } else { Ok(bytes) }
    }

    /// What the device holds.
    pub(super) fn device(&self) -> Image {
        self.bytes.lock().unwrap().device.clone()
    }

    /// What the page cache holds.
    pub(super) fn cache(&self) -> Image {
        self.bytes.lock().unwrap().cache.clone()
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
                Pick::Rot(n) => i % 8 != n,
                Pick::Random(_) => rng.below(2) == 0,
                Pick::Garbage(_) => rng.below(2) == 0,
            };
            if through {
                to.set_sector(*at, sector);
            } else if matches!(pick, Pick::Rot(_)) || matches!(pick, Pick::Garbage(_)) && rng.below(2) == 0 {
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
        let pick = if let Pick::Garbage(seed) = pick { Pick::Random(seed) } else { pick };
        Bytes::let_through(&mut self.device, &pending, if let Pick::Rot(_) = pick { Pick::None } else { pick });
    }

    /// Writes what is in `next` at some sectors, with whatever is to go wrong in this write.
    fn write(&mut self, next: Image, mut touched: Vec<usize>) -> io::Result<()> {
        touched.sort_unstable();
        touched.dedup();
        let new: Vec<(usize, Sector)> = touched.iter().map(|&s| (s, next.sector(s))).collect();
        let fault = self.faults.iter().find(|(at, _)| *at == self.writes).map(|(_, fault)| *fault);
        self.writes += 1;
        self.pending_sectors = new.len();
        match fault {
            None => {
                Bytes::let_through(&mut self.device, &new, Pick::All);
                self.cache = next;
                self.device.share(&self.cache);
                Ok(())
            }
            Some(Fault::Cut(pick)) => {
                self.let_pending_through(&new, pick);
                Bytes::let_through(&mut self.device, &new, pick);
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
                Bytes::let_through(&mut self.device, &new, pick);
                if keep {
                    self.cache = next;
                } else {
                    for (at, _) in &new {
                        let device = self.device.sector(*at);
                        self.cache.set_sector(*at, &device);
                    }
                }
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
    }
}

impl Disk for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().cache.len as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let b = self.alive()?;
        b.cache.read(buf, offset as usize);
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
        let mut next = b.cache.clone();
        let mut touched = Vec::new();
        for part in parts {
            let at = part.offset as usize;
            assert!(at + part.bytes.len() <= next.len, "a durable write past the end of the file");
            next.write(part.bytes, at);
            touched.extend(at / SECTOR..(at + part.bytes.len()).div_ceil(SECTOR));
        }
        b.write(next, touched)
    }

    fn allocate(&self, _: Range<u64>) -> io::Result<()> {
        if self.dead() { Err(gone()) } else { Ok(()) }
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let mut b = self.alive()?;
        b.cache.clear(range.start as usize..range.end as usize);
        if let Some(mapped) = self.mapped.get() {
            mapped.write_all_at(&vec![0; (range.end - range.start) as usize], range.start)?;
        }
        Ok(())
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let mut b = self.alive()?;
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

    fn map(&self, range: Range<u64>) -> io::Result<Mapping> {
        let file = self.mapped();
        file.set_len(range.end.max(file.metadata()?.len()))?;
        Mapping::of_file(file, range)
    }

    fn keep_off(&self, _: Range<u64>) {}

    fn lock(&self, _: Lock) -> io::Result<()> {
        Ok(()) // One process: the mutex in front of the lock is enough.
    }

    fn try_lock(&self, _: Lock) -> io::Result<bool> {
        Ok(true)
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
        let (next, pending) = (b.cache.clone(), b.cache.differing(&b.device));
        let len = next.len;
        b.write(next, pending)?;
        b.device.grow(len);
        b.device.cut(len);
        Ok(())
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::default())
    }
}
