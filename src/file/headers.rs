//! Reading and committing the header copies.
//!
//! Invariant kept here: a commit writes both copies of the pair that does not hold the newest header
//! known to be durable, and starts from the newest valid header in the file.

use super::bottom;
use crate::error::{Corruption, Error, Result};
use crate::format::{
    self, COPIES, Disagreement, Header, HeaderProblem, NoHeader, NotWritable, ProblemClass, State, pair_of,
};
use crate::image_stamp::is_timeless;
use crate::map_file::MapFile;
use crate::sys::{Storage, WriteSegment};
use std::path::Path;

/// The newest header known to be durable: its sequence number and the pair that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastDurable {
    pub sequence: u64,
    pub pair: usize,
}

impl LastDurable {
    /// As one word of the runtime page.
    pub(crate) fn pack(self) -> u64 {
        self.sequence << 1 | self.pair as u64
    }

    pub(crate) fn unpack(word: u64) -> LastDurable {
        LastDurable { sequence: word >> 1, pair: (word & 1) as usize }
    }
}

/// Bytes of a copy that are read first: all that most have in use.
const COPY_START: usize = 4096;
const SECTOR: usize = 512;

/// All copies, as far as they are valid.
pub(crate) type Copies = [std::result::Result<Header, HeaderProblem>; COPIES];

/// Reads and parses the copies. Bytes that the device does not give back count as zeros. Cost: what the copies use, and
/// a page of each at least.
pub(crate) fn read_copies(disk: &dyn Storage) -> Copies {
    std::array::from_fn(|i| Header::parse(&read_copy(disk, i)))
}

/// The bytes of a copy, as far as they are in use.
fn read_copy(disk: &dyn Storage, copy: usize) -> Vec<u8> {
    let mut bytes = vec![0; COPY_START];
    read_or_zeros(disk, &mut bytes, format::copy_offset(copy));
    let used = format::used_by(&bytes);
    if used > COPY_START {
        bytes.resize(used.next_multiple_of(SECTOR), 0);
        read_or_zeros(disk, &mut bytes, format::copy_offset(copy));
    }
    bytes
}

/// Fills a buffer from what the device gives back, sector by sector where it must be.
pub(crate) fn read_or_zeros(disk: &dyn Storage, buffer: &mut [u8], offset: u64) {
    if disk.read_at(buffer, offset).is_err() {
        for (i, sector) in buffer.chunks_mut(SECTOR).enumerate() {
            if disk.read_at(sector, offset + (i * SECTOR) as u64).is_err() {
                sector.fill(0);
            }
        }
    }
}

/// The header of the file.
#[derive(Clone, Debug)]
pub(crate) struct Newest {
    /// What it says, with the list that is to be taken for armed.
    pub header: Header,
    /// The pair that holds it.
    pub pair: usize,
    /// Another commit with the same sequence number is there as well: write it anew before anything else.
    pub conflicting: bool,
    /// A commit that was durable is lost, and with it what it listed: see [`lost_commit`].
    pub lost_commit: bool,
}

/// The header of the file: the newest valid copy.
pub(crate) fn newest(file: MapFile<'_>) -> Result<Newest> {
    select(file, &read_copies(file.disk))
}

/// The header among the copies of a file, which has all that says what is dirty.
pub(crate) fn select(file: MapFile<'_>, copies: &Copies) -> Result<Newest> {
    let (newest, len) = choose_also_cut_off(file, copies)?;
    let expected = entries_end(&newest.header);
    if step!(CheckLength => len < expected) {
        let (found, expected) = (format!("the file ends at byte {len}"), format!("entries up to byte {expected}"));
        return Err(file.corrupt(Corruption::CutOff, "page table", found, expected));
    }
    Ok(newest)
}

/// The header among the copies of a file, also of one that ends before the last entry of a page table; and the length of
/// the file.
pub(crate) fn choose_also_cut_off(file: MapFile<'_>, copies: &Copies) -> Result<(Newest, u64)> {
    let len = file.len()?;
    let chosen = match format::select(copies) {
        Ok(choice) => Ok(Newest {
            lost_commit: lost_commit(file.disk, copies, choice.copy, choice.header)
                .map_err(file.io("identify the file"))?,
            header: Header { runs: choice.armed.clone(), ..choice.header.clone() },
            pair: format::pair_of(choice.copy),
            conflicting: choice.disagreements.iter().any(|d| matches!(d, Disagreement::Conflicting { .. })),
        }),
        Err(none) => Err(no_header(file, &none, len)),
    };
    if let Err(Error::NotDirtymap { .. }) = chosen {
        // What cannot be read was taken for zeros; that the device fails is what matters then.
        file.disk.read_at(&mut [0; COPY_START], 0).map_err(file.io("read the header"))?;
    }
    Ok((chosen?, len))
}

/// Whether no copy of the pair that does not hold the header is valid, and no crash explains that. A commit spoils both copies
/// of its pair only if the power goes in it: a process that is killed is in the writing of one of them. So in the boot in which
/// the map was opened they have rotted, and one of them may have been newer. In another boot nobody can tell.
fn lost_commit(disk: &dyn Storage, copies: &Copies, copy: usize, header: &Header) -> std::io::Result<bool> {
    let no_other = header.state == State::Open && spoilt(copies, 1 - format::pair_of(copy));
    if !step!(MissLostCommit => no_other) {
        return Ok(false);
    }
    let boot = disk.identity()?.boot_id;
    Ok(boot != [0; 16] && boot == header.session.boot_id.0)
}

/// Whether no copy of a pair is valid.
pub(crate) fn spoilt(copies: &Copies, pair: usize) -> bool {
    format::copies_of(pair).iter().all(|&copy| copies[copy].is_err())
}

/// Where the entries of the page tables end, the map's and the outstanding point's. A file without all of them has lost
/// what says that its pages are dirty: zeros in place of both would pass for clean pages.
fn entries_end(header: &Header) -> u64 {
    let point = header.outstanding().map_or(0, |point| point.table_offset);
    bottom::entries_end(header.layout.table.start.max(point), &header.geometry)
}

/// Says why no copy is usable.
fn no_header(file: MapFile<'_>, none: &NoHeader<'_>, len: u64) -> Error {
    let path = || file.path.to_path_buf();
    let foreign = |found: String| Error::NotDirtymap { path: path(), found };
    let newer = |problem: &HeaderProblem| {
        let found = format!("{} {}", problem.place, problem.found);
        Error::Unsupported { path: path(), found, expected: problem.expected.clone() }
    };
    let (copy, problem) = match none {
        NoHeader::Newer { problem, .. } => return newer(problem),
        NoHeader::TwoMaps { .. } => {
            return file.corrupt(Corruption::TwoMaps, "header copies", none.to_string(), "copies of one map");
        }
        NoHeader::Invalid { copy, problem } => (copy, *problem),
    };
    match problem.class {
        _ if len == 0 => foreign("the file is empty".into()),
        ProblemClass::Blank => foreign("nothing but zeros where a header should be".into()),
        ProblemClass::NotDirtymap => {
            foreign(format!("{} is {}, not {}", problem.place, problem.found, problem.expected))
        }
        ProblemClass::Version | ProblemClass::Feature => newer(problem),
        ProblemClass::Checksum | ProblemClass::Invalid => {
            let place = format!("no header copy is valid; copy {copy}, {}", problem.place);
            file.corrupt(Corruption::Headers, place, problem.found.clone(), problem.expected.clone())
        }
    }
}

/// Makes the newest header durable without knowing whether it is: writes the copies of its pair again, one after the
/// other, each with its own bytes. A copy that is not the newest header goes first and takes its bytes.
///
/// Not both at once, although the bytes are the same: a sector in which the power goes while it is written may be
/// unreadable afterwards whatever it held before, and the other pair may be older or torn.
pub(crate) fn rewrite_in_place(disk: &dyn Storage, copies: &Copies, newest: &Newest) -> std::io::Result<()> {
    let current = |copy: usize| match &copies[copy] {
        Ok(h) if h.uuid == newest.header.uuid && h.sequence == newest.header.sequence => Some(h),
        _ => None,
    };
    let mut pair = format::copies_of(newest.pair);
    pair.sort_by_key(|&copy| step!(RewriteOldestFirst => current(copy).is_some(), else current(copy).is_none()));
    let some = pair.into_iter().find_map(current);
    twin!(RewriteOneByOne => return write_pair(disk, some.unwrap_or(&newest.header), newest.pair));
    for copy in pair {
        let header = current(copy).or(some).unwrap_or(&newest.header);
        let bytes = header.encode().map_err(invalid)?;
        disk.write_durable(&[WriteSegment { offset: format::copy_offset(copy), bytes: &bytes }])?;
    }
    Ok(())
}

fn invalid(problem: HeaderProblem) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, problem)
}

/// Writes a header to both copies of a pair, durably.
pub(crate) fn write_pair(disk: &dyn Storage, header: &Header, pair: usize) -> std::io::Result<()> {
    let bytes = header.encode().map_err(invalid)?;
    let parts = format::copies_of(pair).map(|copy| WriteSegment { offset: format::copy_offset(copy), bytes: &bytes });
    disk.write_durable(&parts)
}

/// Commits `header` with the next sequence number to the pair that does not hold `known`.
pub(crate) fn commit(disk: &dyn Storage, header: &mut Header, known: LastDurable) -> std::io::Result<LastDurable> {
    header.sequence += 1;
    let pair = step!(AlternatePairs => 1 - known.pair, else (header.sequence % 2) as usize);
    write_pair(disk, header, pair)?;
    Ok(LastDurable { sequence: header.sequence, pair })
}

/// Whether the recorded times of the image count.
pub(crate) fn set_exact(header: &mut Header, exact: bool) {
    if let Some(stamp) = &mut header.image {
        stamp.exact = exact && !is_timeless(stamp);
    }
}

/// Whether this version can open a map with this header for writing.
pub(crate) fn writable(header: &Header, path: &Path) -> Result<()> {
    header.writable().map_err(|not| {
        let NotWritable { found, expected } = not;
        Error::Unsupported { path: path.to_path_buf(), found, expected }
    })
}

/// Copies that should be the header, or the one before it, and are neither.
///
/// After an unclean end one pair may be torn: the one that was being written.
pub(crate) fn damaged_copies(copies: &Copies, newest: &Newest) -> Vec<usize> {
    let bad = |copy: &usize| match &copies[*copy] {
        Err(_) => true,
        Ok(header) => {
            header.uuid != newest.header.uuid || !twin_agrees(copies, *copy) || is_conflicting(copies, newest, header)
        }
    };
    let bad: Vec<usize> = (0..COPIES).filter(bad).collect();
    let one_pair = bad.iter().all(|&c| pair_of(c) == pair_of(bad[0]));
    if newest.header.state == State::Open && one_pair && !newest.conflicting && !newest.lost_commit
        || was_closing(copies, newest, &bad)
    {
        Vec::new()
    } else {
        bad
    }
}

/// Whether closing was cut short between the two copies of CLEAN: the second one still is an older commit.
fn was_closing(copies: &Copies, newest: &Newest, bad: &[usize]) -> bool {
    let [copy] = bad else { return false };
    let older = |h: &Header| h.uuid == newest.header.uuid && h.sequence < newest.header.sequence;
    newest.header.state == State::Clean && pair_of(*copy) == newest.pair && copies[*copy].as_ref().is_ok_and(older)
}

/// Whether the other copy of the pair says the same. A stale copy disagrees; the newer one of the two does not.
fn twin_agrees(copies: &Copies, copy: usize) -> bool {
    match (&copies[copy], &copies[(copy + 2) % COPIES]) {
        (Ok(one), Ok(other)) => one.uuid != other.uuid || one.sequence > other.sequence || one == other,
        _ => true,
    }
}

/// Whether `header` has the newest sequence number and is not what the first copy with it says.
pub(crate) fn is_conflicting(copies: &Copies, newest: &Newest, header: &Header) -> bool {
    let same = |h: &&Header| h.uuid == newest.header.uuid && h.sequence == newest.header.sequence;
    same(&header) && copies.iter().flatten().find(same) != Some(header)
}
