//! A simulated disk under the real store.
//!
//! Between two durable writes nothing is pending, since every write of the store is one. So all that can go
//! wrong happens inside a [`Disk::write_durable`]: power goes, the process is killed, or the device fails. Which
//! of the written sectors are then new, old or garbage, on the device and in the page cache, is chosen by the test.

use crate::store::view::View;
use crate::sys::disk::Identity;
use crate::sys::{Disk, Lock, Mapping, Part};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

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

#[derive(Debug, Default)]
struct Bytes {
    device: Vec<u8>,
    cache: Vec<u8>,
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
    me: Weak<SimDisk>,
}

impl SimDisk {
    /// A disk with this content, durably.
    pub(super) fn new(content: Vec<u8>, faults: Vec<(usize, Fault)>) -> Arc<SimDisk> {
        SimDisk::with_cache(content.clone(), content, faults)
    }

    /// A disk with this content on the device, and that in the page cache.
    pub(super) fn with_cache(device: Vec<u8>, cache: Vec<u8>, faults: Vec<(usize, Fault)>) -> Arc<SimDisk> {
        Arc::new_cyclic(|me| SimDisk {
            bytes: Mutex::new(Bytes { device, cache, faults, ..Bytes::default() }),
            interloper: Mutex::new(None),
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

    pub(super) fn dead(&self) -> bool {
        self.bytes.lock().unwrap().dead
    }

    /// What the device holds.
    pub(super) fn device(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().device.clone()
    }

    /// What the page cache holds.
    pub(super) fn cache(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().cache.clone()
    }
}

fn gone() -> io::Error {
    io::Error::other("simulated: gone")
}

impl Bytes {
    /// Lets the picked ones of some new sectors through to `to`.
    fn let_through(to: &mut [u8], new: &[(usize, Sector)], pick: Pick) {
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
            let place = &mut to[*at..at + SECTOR];
            if through {
                place.copy_from_slice(sector);
            } else if matches!(pick, Pick::Rot(_)) || matches!(pick, Pick::Garbage(_)) && rng.below(2) == 0 {
                place.fill_with(|| rng.next() as u8);
            }
        }
    }
}

impl Disk for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().cache.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let b = self.bytes.lock().unwrap();
        if b.dead {
            return Err(gone());
        }
        buf.fill(0);
        let start = (offset as usize).min(b.cache.len());
        let end = (offset as usize + buf.len()).min(b.cache.len());
        buf[..end - start].copy_from_slice(&b.cache[start..end]);
        Ok(())
    }

    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        Ok((range.start < range.end).then_some(range))
    }

    fn write_durable(&self, parts: &[Part<'_>]) -> io::Result<()> {
        if let Some(f) = &mut *self.interloper.lock().unwrap() {
            f();
        }
        let mut b = self.bytes.lock().unwrap();
        if b.dead {
            return Err(gone());
        }
        let mut next = b.cache.clone();
        let mut touched = Vec::new();
        for part in parts {
            let at = part.offset as usize;
            assert!(at + part.bytes.len() <= next.len(), "a durable write into the volatile part or past the end");
            next[at..at + part.bytes.len()].copy_from_slice(part.bytes);
            touched.extend(at / SECTOR..(at + part.bytes.len()).div_ceil(SECTOR));
        }
        touched.sort_unstable();
        touched.dedup();
        let new: Vec<(usize, Sector)> =
            touched.iter().map(|s| (s * SECTOR, next[s * SECTOR..][..SECTOR].try_into().unwrap())).collect();
        let fault = b.faults.iter().find(|(at, _)| *at == b.writes).map(|(_, fault)| *fault);
        b.writes += 1;
        b.pending_sectors = new.len();
        match fault {
            None => {
                Bytes::let_through(&mut b.device, &new, Pick::All);
                b.cache = next;
                Ok(())
            }
            Some(Fault::Cut(pick)) => {
                Bytes::let_through(&mut b.device, &new, pick);
                b.cache = b.device.clone();
                b.dead = true;
                Err(gone())
            }
            Some(Fault::Kill(cached, written)) => {
                let old = b.cache.clone();
                Bytes::let_through(&mut b.cache, &new, cached);
                // Only what is in the page cache can be written back.
                let cache = b.cache.clone();
                let back: Vec<(usize, Sector)> = new
                    .iter()
                    .map(|(at, _)| (*at, cache[*at..at + SECTOR].try_into().unwrap()))
                    .filter(|(at, s): &(usize, Sector)| s[..] != old[*at..at + SECTOR])
                    .collect();
                Bytes::let_through(&mut b.device, &back, written);
                b.dead = true;
                Err(gone())
            }
            Some(Fault::Fail(pick, keep)) => {
                Bytes::let_through(&mut b.device, &new, pick);
                if keep {
                    b.cache = next;
                } else {
                    for (at, _) in &new {
                        let device = b.device[*at..at + SECTOR].to_vec();
                        b.cache[*at..at + SECTOR].copy_from_slice(&device);
                    }
                }
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
    }

    fn allocate(&self, _: Range<u64>) -> io::Result<()> {
        if self.dead() { Err(gone()) } else { Ok(()) }
    }

    fn punch(&self, _: Range<u64>) -> io::Result<()> {
        Ok(()) // Only the volatile part is ever punched, and that is fresh memory here.
    }

    fn grow(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn reading_allocates(&self) -> bool {
        false
    }

    fn map(&self, range: Range<u64>) -> io::Result<Mapping> {
        Mapping::anonymous(range.end - range.start)
    }

    fn lock(&self, _: Lock) -> io::Result<()> {
        Ok(()) // One process: the mutex in front of the lock is enough.
    }

    fn unlock(&self, _: Lock) {}

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::default())
    }
}

/// Whether a bit of a view is set.
pub(super) fn bit(view: &View, bit: u64) -> bool {
    super::view::flag(view.live(), bit)
}
