//! The bytes of scratch: the header and the entries of an index (docs/snapshot.md, "Files").
//!
//! Invariant kept here: nothing is taken from a header or an entry whose checksum does not match.

use crate::time;
use dirtymap::Uuid;
use rustix::fs::StatxFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Bytes of a header.
pub const HEADER: usize = 4096;
/// Bytes of an entry.
pub const ENTRY: usize = 16;
/// The byte of an entry that says DONE.
const DONE_AT: usize = 15;
/// Shortest block, in bytes, but where granules are shorter.
const MIN_BLOCK: u64 = 4096;
/// Longest block, in bytes.
const MAX_BLOCK: u64 = 1 << 20;
/// Most blocks of an image, where blocks of that length are short enough: a byte of memory each, and 16 of the index.
const MAX_BLOCKS: u64 = 1 << 26;
/// Longest name of a snapshot, in bytes.
pub const MAX_NAME: usize = 64;

const MAGIC: &[u8; 8] = b"dmapsnap";
const VERSION: u32 = 2;

/// How far the files of a snapshot have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is frozen yet.
    Prepared = 1,
    /// They hold all that a server needs.
    Ready = 2,
    /// A copy is missing: nothing may be served.
    Broken = 3,
    /// A server asks whether pages were lost, and has not got the answer.
    Asking = 4,
    /// The backup is complete, and the checkpoints of all disks are being committed: that can only go forward.
    Committing = 5,
    /// The same, and the name is kept.
    Keeping = 6,
}

impl State {
    /// Whether a commit is to go forward, and then whether the name is kept.
    pub fn committing(self) -> Option<bool> {
        match self {
            State::Committing => Some(false),
            State::Keeping => Some(true),
            _ => None,
        }
    }
}

/// Who a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
    /// The unique identity of its mount; of a block device, the number of its attachment.
    pub mount: u64,
    /// When it was made, in nanoseconds since 1970.
    pub birth: i64,
}

/// The header of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub state: State,
    /// Everything is copied, not only what is frozen.
    pub whole: bool,
    /// The caller says that programs in the guest were ready for it.
    pub app: bool,
    /// Each disk is ended by itself: one without its checkpoint has been, and the others stay.
    pub each: bool,
    /// Then: the maps of all of them have said FROZEN.
    pub made: bool,
    /// The snapshot; the same for all disks that are in it.
    pub id: Uuid,
    pub map: Uuid,
    /// Nil before READY.
    pub checkpoint: Uuid,
    /// Bytes of a block: what is copied at once. A granule has a whole number of them.
    pub block: u64,
    pub blocks: u64,
    /// How many disks are in the snapshot.
    pub disks: u32,
    /// Seconds since 1970.
    pub created: i64,
    pub boot: [u8; 16],
    pub image: Identity,
    pub data: Identity,
    pub index: Identity,
    /// When the image was changed last, as a server in good order left it, in nanoseconds since 1970; 0 while one runs.
    pub left: i64,
    /// Of the checkpoint; that of the first disk is the snapshot's.
    pub name: String,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = Vec::with_capacity(HEADER);
        out.extend(MAGIC);
        for word in [VERSION, self.state as u32, u32::from(self.whole), u32::from(self.app)] {
            out.extend(word.to_le_bytes());
        }
        for uuid in [self.id, self.map, self.checkpoint] {
            out.extend(uuid.0);
        }
        out.extend(self.boot);
        for identity in [self.image, self.data, self.index] {
            for word in [identity.device, identity.inode, identity.mount, identity.birth as u64] {
                out.extend(word.to_le_bytes());
            }
        }
        for word in [self.block, self.blocks, self.created as u64, self.left as u64] {
            out.extend(word.to_le_bytes());
        }
        for word in [self.disks, self.each.into(), self.made.into(), self.name.len() as u32] {
            out.extend(word.to_le_bytes());
        }
        out.extend(self.name.as_bytes());
        out.resize(HEADER - 4, 0);
        out.extend(crc32fast::hash(&out).to_le_bytes());
        out.try_into().expect("the length of a header")
    }

    /// What these bytes say; `None` if they are no header of this version, or not all of one.
    pub fn parse(bytes: &[u8; HEADER]) -> Option<Header> {
        let (content, crc) = bytes.split_at(HEADER - 4);
        if crc32fast::hash(content).to_le_bytes() != crc {
            return None;
        }
        let mut rest = content;
        let mut take = |n: usize| {
            let (taken, left) = rest.split_at(n);
            rest = left;
            taken
        };
        if take(8) != MAGIC || u32_of(take(4)) != VERSION {
            return None;
        }
        let state = match u32_of(take(4)) {
            1 => State::Prepared,
            2 => State::Ready,
            3 => State::Broken,
            4 => State::Asking,
            5 => State::Committing,
            6 => State::Keeping,
            _ => return None,
        };
        let (whole, app) = (u32_of(take(4)) != 0, u32_of(take(4)) != 0);
        let [id, map, checkpoint, boot] = [(); 4].map(|()| <[u8; 16]>::try_from(take(16)).expect("16 bytes"));
        let [image, data, index] = [(); 3].map(|()| Identity {
            device: u64_of(take(8)),
            inode: u64_of(take(8)),
            mount: u64_of(take(8)),
            birth: u64_of(take(8)) as i64,
        });
        let [block, blocks, created, left] = [(); 4].map(|()| u64_of(take(8)));
        let [disks, each, made, length] = [(); 4].map(|()| u32_of(take(4)));
        let (each, made, length) = (each != 0, made != 0, length as usize);
        if length > MAX_NAME {
            return None;
        }
        let name = String::from_utf8(take(length).to_vec()).ok()?;
        let (id, map, checkpoint) = (Uuid(id), Uuid(map), Uuid(checkpoint));
        let (created, left) = (created as i64, left as i64);
        Some(Header {
            state,
            whole,
            app,
            each,
            made,
            id,
            map,
            checkpoint,
            block,
            blocks,
            disks,
            created,
            boot,
            image,
            data,
            index,
            left,
            name,
        })
    }
}

/// Whether these bytes begin as those of a header of another version do.
pub fn is_of_another_version(bytes: &[u8; HEADER]) -> bool {
    bytes.starts_with(MAGIC) && u32_of(&bytes[8..12]) != VERSION
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("4 bytes"))
}

fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

/// More blocks than that are too many for memory: of a map with short granules, or of an image of hundreds of TiB.
pub const TOO_MANY: u64 = 1 << 28;

/// The length of a block: as short as the number of blocks allows, for a write has all that it touches copied.
pub fn block_of(size: u64, granule: u64) -> u64 {
    size.div_ceil(MAX_BLOCKS).next_power_of_two().clamp(MIN_BLOCK, MAX_BLOCK).min(granule)
}

/// Where the old bytes of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In scratch.
    Copied = 1,
    /// Nowhere: they are zeros.
    Zeros = 2,
}

/// What an index says of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Entry {
    /// With the checksum of the old bytes. `None`: they are in the image.
    pub copy: Option<(Kind, u32)>,
    /// The backup is done with it.
    pub done: bool,
}

/// The bytes of an entry of a copy that the backup is not done with.
pub fn encode_entry(id: Uuid, kind: Kind, data_crc: u32) -> [u8; ENTRY] {
    let mut out = [0; ENTRY];
    out[..4].copy_from_slice(&id.0[..4]);
    out[4] = kind as u8;
    out[8..12].copy_from_slice(&data_crc.to_le_bytes());
    let crc = crc32fast::hash(&out[..12]).to_le_bytes();
    out[12..15].copy_from_slice(&crc[..3]);
    out
}

/// Says in the bytes of an entry that the backup is done with the block.
pub fn set_done(entry: &mut [u8; ENTRY]) {
    entry[DONE_AT] = 1;
}

/// What these bytes say; `None` if they are neither zeros nor an entry of this snapshot.
pub fn parse_entry(id: Uuid, bytes: &[u8; ENTRY]) -> Option<Entry> {
    let done = match bytes[DONE_AT] {
        0 => false,
        1 => true,
        _ => return None,
    };
    if bytes[..DONE_AT].iter().all(|b| *b == 0) {
        return Some(Entry { copy: None, done });
    }
    let kind = match bytes[4] {
        1 => Kind::Copied,
        2 => Kind::Zeros,
        _ => return None,
    };
    let crc = u32_of(&bytes[8..12]);
    let same = encode_entry(id, kind, crc)[..DONE_AT] == bytes[..DONE_AT];
    same.then_some(Entry { copy: Some((kind, crc)), done })
}

/// Who a file is, on this machine, now. What cannot be had is 0.
pub fn identity(file: &File) -> io::Result<Identity> {
    const MOUNT_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let plain = file.metadata()?;
    if plain.file_type().is_block_device() {
        let (major, minor) = (rustix::fs::major(plain.rdev()), rustix::fs::minor(plain.rdev()));
        // A partition has that of its disk.
        let of = |way: &str| std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{way}diskseq"));
        let mount = of("").or_else(|_| of("../")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        return Ok(Identity { device: plain.rdev(), inode: 0, mount, birth: 0 });
    }
    let flags = MOUNT_UNIQUE | StatxFlags::BTIME;
    let more = rustix::fs::statx(file, c"", rustix::fs::AtFlags::EMPTY_PATH, flags)?;
    let has = |flag: StatxFlags| more.stx_mask & flag.bits() != 0;
    Ok(Identity {
        device: plain.dev(),
        inode: plain.ino(),
        mount: if has(MOUNT_UNIQUE) { more.stx_mnt_id } else { 0 },
        birth: if has(StatxFlags::BTIME) {
            more.stx_btime.tv_sec.saturating_mul(1_000_000_000).saturating_add(more.stx_btime.tv_nsec.into())
        } else {
            0
        },
    })
}

/// When a file was changed last, in nanoseconds since 1970.
pub fn changed(file: &File) -> io::Result<i64> {
    let m = file.metadata()?;
    Ok(m.ctime().saturating_mul(1_000_000_000).saturating_add(m.ctime_nsec()))
}

/// The boot of this machine; zeros if it cannot be had from a real procfs.
pub fn boot() -> [u8; 16] {
    time::boot().and_then(|id| id.parse::<Uuid>().ok()).unwrap_or(Uuid::NIL).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let identity = |n: u64| Identity { device: n, inode: n + 1, mount: n + 2, birth: -(n as i64) };
        Header {
            state: State::Asking,
            whole: true,
            app: false,
            each: true,
            made: true,
            id: Uuid([1; 16]),
            map: Uuid([2; 16]),
            checkpoint: Uuid([3; 16]),
            block: 16384,
            blocks: 1 << 26,
            disks: 2,
            created: 1_800_000_000,
            boot: [4; 16],
            image: identity(10),
            data: identity(20),
            index: identity(30),
            left: 7,
            name: "monday é".into(),
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_and_not_with_a_wrong_byte() {
        let bytes = header().encode();
        assert_eq!(Header::parse(&bytes), Some(header()));
        for at in (0..HEADER).step_by(7).chain([HEADER - 1]) {
            let mut wrong = bytes;
            wrong[at] ^= 1;
            assert_eq!(Header::parse(&wrong), None, "byte {at}");
        }
        assert_eq!(Header::parse(&[0; HEADER]), None);
        assert!(!is_of_another_version(&bytes) && !is_of_another_version(&[0; HEADER]));
        let mut other = bytes;
        other[8] += 1;
        assert!(is_of_another_version(&other));
    }

    #[test]
    fn a_block_is_short_and_there_are_not_too_many_of_them() {
        const GIB: u64 = 1 << 30;
        assert_eq!([1, 100 * GIB, 256 * GIB].map(|size| block_of(size, 65536)), [4096; 3]);
        assert_eq!([1024 * GIB, 2000 * GIB].map(|size| block_of(size, 65536)), [16384, 32768]);
        assert_eq!([512, 8192].map(|granule| block_of(64 << 40, granule)), [512, 8192]);
        assert_eq!([1 << 50, 1 << 60].map(|size| block_of(size, 1 << 30)), [1 << 20; 2]);
    }

    #[test]
    fn an_entry_is_of_its_snapshot_and_whole_or_none() {
        let id = Uuid([9; 16]);
        for kind in [Kind::Copied, Kind::Zeros] {
            let mut bytes = encode_entry(id, kind, 0xdead_beef);
            assert_eq!(parse_entry(id, &bytes), Some(Entry { copy: Some((kind, 0xdead_beef)), done: false }));
            assert_eq!(parse_entry(Uuid([8; 16]), &bytes), None);
            for at in 0..ENTRY {
                let mut wrong = bytes;
                wrong[at] ^= 2;
                assert_eq!(parse_entry(id, &wrong), None, "byte {at}");
            }
            set_done(&mut bytes);
            assert!(parse_entry(id, &bytes).expect("an entry").done);
        }
        assert_eq!(parse_entry(id, &[0; ENTRY]), Some(Entry::default()));
        let mut done = [0; ENTRY];
        done[DONE_AT] = 1;
        assert_eq!(parse_entry(id, &done), Some(Entry { copy: None, done: true }));
    }

    #[test]
    fn a_file_has_an_identity_that_no_other_has() {
        let (a, b) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        assert_eq!(identity(&a).expect("known"), identity(&a.try_clone().expect("the same")).expect("known"));
        assert_ne!(identity(&a).expect("known"), identity(&b).expect("known"));
        assert_ne!(boot(), [0; 16]);
    }

    #[test]
    fn a_partition_has_the_identity_of_its_disk() {
        let all = std::fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
        let part = all.filter(|entry| entry.path().join("partition").exists()).find_map(|entry| {
            let of_disk = std::fs::read_to_string(entry.path().join("../diskseq")).ok()?;
            Some((
                of_disk.trim().parse::<u64>().ok()?,
                File::open(format!("/dev/{}", entry.file_name().display())).ok()?,
            ))
        });
        let Some((of_disk, file)) = part else { return println!("SKIPPED: no partition is there that can be read") };
        assert_eq!(identity(&file).expect("known").mount, of_disk);
    }
}
