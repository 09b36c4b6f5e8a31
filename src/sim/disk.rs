//! A simulated disk under the real code.
//!
//! Between two durable writes only freed space and the length of the file are pending, since everything else that a
//! map writes is durable when it goes on. So all that can go wrong happens inside a [`Storage::write_durable`] or a
//! [`Storage::sync_all`]: power goes, the process is killed, or the device fails. Which of the written sectors are then
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
use crate::format::HEADER_REGION;
use crate::map_file::MapFile;
use crate::sim::bytes::{Bytes, Calls, UNIT, gone, units};
use crate::sim::content::{CHUNK, Call, Fault, Image, Rng, SECTOR, Trouble};
use crate::sim::states::{States, checkpoints};
use crate::sys::file::fill_from;
use crate::sys::{Identity, Lock, Mapping, Storage, WriteSegment};
use crate::testing::{Mutant, mutant};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

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

    /// It as the file of a map.
    pub(crate) fn file(&self) -> MapFile<'_> {
        MapFile::new(self, super::path())
    }

    pub(crate) fn shared(&self) -> Arc<dyn Storage> {
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

    /// It can be read again.
    pub(crate) fn heal(&self, sector: usize) {
        self.bytes.lock().unwrap().bad.retain(|bad| *bad != sector);
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
        (new.allocated, new.bad) = (b.allocated.clone(), b.bad.clone());
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

impl Storage for SimDisk {
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

    fn write_durable(&self, parts: &[WriteSegment<'_>]) -> io::Result<()> {
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

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
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

    fn extend(&self, len: u64) -> io::Result<()> {
        let mut b = self.call(Call::Grow)?;
        b.cache.grow(len as usize);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
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

    fn exclude_from_sync(&self, _: Range<u64>) {}

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
