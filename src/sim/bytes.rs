//! The two contents of a file, on the device and in the page cache, and how a write gets from one to the other.

use crate::format::{ALIGN, COPY_BYTES, Header};
use crate::sim::content::{CHUNK, Call, Fault, Image, Pick, Rng, SECTOR, Sector, Trouble};
use crate::sim::states::States;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

#[derive(Debug, Default)]
pub(super) struct Bytes {
    pub(super) device: Image,
    pub(super) cache: Image,
    pub(super) writes: usize,
    /// What to do in which write.
    pub(super) faults: Vec<(usize, Fault)>,
    /// The machine or the process is gone: nothing works any more.
    pub(super) dead: bool,
    pub(super) pending_sectors: usize,
    /// A durable write has failed.
    pub(super) failed: bool,
    pub(super) write_back_failed: bool,
    /// Calls so far, by [`Call`].
    pub(super) calls: [usize; Call::ALL.len()],
    pub(super) troubles: Vec<Trouble>,
    /// The file cannot be mapped: the type of its file system.
    pub(super) unmappable: Option<i64>,
    /// Sectors that cannot be read until they are written.
    pub(super) bad: Vec<usize>,
    /// System calls so far.
    pub(super) system_calls: Cell<u64>,
    pub(super) states: States,
    /// Which boot of the machine this is, and which file.
    pub(super) boot: u64,
    pub(super) file: u64,
    /// What has been mapped, and what of the file has space, in units of [`ALIGN`] bytes.
    pub(super) mapped: BTreeSet<usize>,
    pub(super) allocated: BTreeSet<usize>,
}

pub(super) const UNIT: usize = ALIGN as usize;

/// The units that a range touches.
pub(super) fn units(range: &Range<u64>) -> Range<usize> {
    range.start as usize / UNIT..(range.end as usize).div_ceil(UNIT)
}

pub(super) fn gone() -> io::Error {
    io::Error::other("simulated: gone")
}

impl Bytes {
    /// Lets the picked ones of some new sectors through to `to`.
    pub(super) fn let_through(to: &mut Image, new: &[(usize, Sector)], pick: Pick) {
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
    pub(super) fn let_pending_through(&mut self, written: &[(usize, Sector)], pick: Pick) {
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
    pub(super) fn cut_length(&mut self, before: usize, pick: Pick) {
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
    pub(super) fn is_named(&self, sectors: &[usize]) -> bool {
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
    pub(super) fn write(&mut self, next: Image, mut touched: Vec<usize>, synced: bool) -> io::Result<()> {
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
pub(super) struct Calls<'a> {
    pub(super) image: RefCell<&'a mut Image>,
    pub(super) so_far: &'a Cell<u64>,
}

impl Calls<'_> {
    pub(super) fn some(&self, wanted: usize) -> io::Result<usize> {
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
