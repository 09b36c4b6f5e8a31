//! What proves that a disk image or a backup target is the one that was recorded, unchanged, and how sure that is.
//!
//! Invariant kept here: [`Comparison::Same`] is said only when everything that was recorded is equal, and no write since
//! can have left all of it equal, but for those that docs/design.md names. What cannot be proved is [`Comparison::Unproven`].
//! docs/design.md, "Identity of images and targets".

pub(crate) mod settle;

use crate::error::{Error, Result};
use crate::format::{Reserved, Stamp, StampKind, Uuid};
use crate::sys::{image, os};
use crate::time;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// What the system says of a disk image at one moment: what it is, and when it was last changed.
///
/// Of a regular file: size, inode, time of birth, the file system's identity, modification and change time. Two that are equal, and
/// were taken in one boot of the machine, prove that nothing was written in between, unless the clock was set back, or a program
/// has written by a mapping that the system has not written back yet (a sync of the image first rules that out). Of a block
/// device: size, and what identifies it (serial number, UUID, backing file); writes to it leave no trace, so nothing proves that
/// there were none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageStamp(pub(crate) Stamp);

/// How an image or a target compares with what was [recorded](ImageStamp::compare) of it. The text says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It is the recorded one, and nothing was written to it since.
    Same,
    /// It is the recorded one as far as can be known, but nothing proves that it was not written to since.
    Unproven(String),
    /// It is the recorded one, and something has changed it since, or may have put another file system in its place.
    Changed(String),
    /// It is another one.
    Another(String),
}

impl Comparison {
    /// The reason for taking everything for dirty; `None` where nothing speaks for a change.
    pub fn difference(self) -> Option<String> {
        match self {
            Comparison::Same | Comparison::Unproven(_) => None,
            Comparison::Changed(why) | Comparison::Another(why) => Some(why),
        }
    }

    /// Why it is not the recorded one, unchanged; `None` for the same.
    pub fn why(&self) -> Option<&str> {
        match self {
            Comparison::Same => None,
            Comparison::Unproven(why) | Comparison::Changed(why) | Comparison::Another(why) => Some(why),
        }
    }
}

impl ImageStamp {
    /// Takes the stamp of the image at `path`, a regular file or a block device, as [`of`](Self::of) does.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened for reading or is neither.
    pub fn of_path(path: &Path) -> Result<ImageStamp> {
        let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
        // A FIFO is refused, not waited for.
        let file = os::open_unblocked(path).map_err(io("open the image"))?;
        ImageStamp::of(&file).map_err(io("look at the image"))
    }

    /// Takes the stamp of an open image, such that a later write cannot leave it as it is.
    ///
    /// A write in the same step of the file system's clock would. So this waits until a file that was written just now is
    /// older than such a step: mostly 25 ms, up to 2.5 s where times count seconds. Of a file that something goes on writing to,
    /// the stamp is not [exact](Self::is_exact): its times prove nothing.
    ///
    /// # Errors
    /// Whatever the system says when asked, or `InvalidInput` for neither a regular file nor a block device.
    pub fn of(file: &File) -> io::Result<ImageStamp> {
        settle::settled(|| image::image(file).map(seen), &mut settle::System::new()).map(ImageStamp)
    }

    /// Takes the stamp without waiting. It is exact only if the file was not written to for a moment.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn glance(file: &File) -> io::Result<ImageStamp> {
        let seen = seen(image::image(file)?);
        Ok(ImageStamp(settle::at_once(&seen, &mut settle::System::new())))
    }

    /// The stamp as FORMAT.md has it, for another process of this machine that records it: one that [commits](crate::DirtyMap::commit_backup)
    /// a checkpoint for who made the backup.
    pub fn to_bytes(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        self.0.encode(&mut bytes, 0);
        bytes
    }

    /// The stamp that such bytes are; `None` if they are none.
    pub fn from_bytes(bytes: &[u8; 128]) -> Option<ImageStamp> {
        Stamp::parse(bytes, 0).ok().flatten().map(ImageStamp)
    }

    /// Size of the image in bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Whether it is a block device, and no regular file.
    pub fn is_block_device(&self) -> bool {
        self.0.kind == StampKind::BlockDevice
    }

    /// Whether the times count: a later write changes them.
    pub fn is_exact(&self) -> bool {
        self.0.exact
    }

    /// When it was modified; `None` for a block device.
    pub fn modified(&self) -> Option<SystemTime> {
        (!self.is_block_device()).then(|| time::at(self.0.mtime_seconds, self.0.mtime_nanos))
    }

    /// Inode number; 0 for a block device.
    pub fn inode(&self) -> u64 {
        self.0.inode
    }

    /// The device that holds the file, or the block device itself.
    pub fn device(&self) -> u64 {
        self.0.device
    }

    /// Whether anything beside its number identifies a block device. A regular file is identified by its inode.
    pub fn is_identified(&self) -> bool {
        !self.is_block_device() || self.0.identity != UNKNOWN
    }

    /// Whether nothing has changed between two looks at one file, which need not be exact.
    pub fn equals(&self, other: &ImageStamp) -> bool {
        Stamp { exact: false, ..self.0 } == Stamp { exact: false, ..other.0 }
    }

    /// Whether this is what was recorded, and how sure that is.
    pub fn compare(&self, recorded: &ImageStamp) -> Comparison {
        twin!(CompareImage => return Comparison::Same);
        let (was, is) = (&recorded.0, &self.0);
        let mut found = changes(was, is);
        if let Some(why) = another(was, is) {
            found.insert(0, why);
            return Comparison::Another(found.join("; "));
        }
        if !found.is_empty() {
            return Comparison::Changed(found.join("; "));
        }
        unproven(was, is).map_or(Comparison::Same, Comparison::Unproven)
    }

    /// Why this image is not the recorded one, or not as it was; `None` where nothing says so.
    pub(crate) fn changed_since(&self, recorded: Option<Stamp>) -> Option<String> {
        self.compare(&ImageStamp(recorded?)).difference()
    }
}

/// What identifies nothing.
const UNKNOWN: [u8; 16] = [0; 16];

/// What the system says, as a stamp that is not exact yet, and what is known of its times.
fn seen(f: image::ImageFacts) -> settle::Seen {
    let mut identity = UNKNOWN;
    if !f.known_by.is_empty() {
        identity.copy_from_slice(&Sha256::digest(&f.known_by)[..16]);
    }
    let stamp = Stamp {
        kind: if f.block_device { StampKind::BlockDevice } else { StampKind::File },
        exact: false,
        size: f.size,
        mtime_seconds: f.modified.0,
        mtime_nanos: f.modified.1,
        ctime_seconds: f.changed.0,
        ctime_nanos: f.changed.1,
        inode: f.inode,
        device: f.device,
        birth: f.birth,
        filesystem: f.filesystem,
        identity,
        disk_sequence: f.disk_sequence,
        boot_id: Uuid(f.boot_id),
        reserved: Reserved::default(),
    };
    settle::Seen { stamp, coarse: f.coarse, own_clock: f.own_clock }
}

/// A stamp that says which image it is, and nothing of when it was changed: of a map that was made for a size.
pub(crate) fn timeless(stamp: Stamp) -> Stamp {
    Stamp { exact: false, mtime_seconds: 0, mtime_nanos: 0, ctime_seconds: 0, ctime_nanos: 0, ..stamp }
}

/// Whether a recorded stamp is [`timeless`].
pub(crate) fn is_timeless(recorded: &Stamp) -> bool {
    *recorded == timeless(*recorded) && recorded.kind == StampKind::File
}

/// What both know, and is not the same.
fn differ<T: PartialEq + Default>(was: T, is: T) -> bool {
    was != T::default() && is != T::default() && was != is
}

fn one_boot(was: &Stamp, is: &Stamp) -> bool {
    was.boot_id == is.boot_id && !is.boot_id.is_nil()
}

/// Why it is another one.
fn another(was: &Stamp, is: &Stamp) -> Option<String> {
    let differs = |what: &str, was: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
        Some(format!("{what} was {was}, is {is}"))
    };
    if was.kind != is.kind {
        let name = |kind| if kind == StampKind::File { "a regular file" } else { "a block device" };
        return Some(format!("it was {}, is {}", name(was.kind), name(is.kind)));
    }
    if is.kind == StampKind::BlockDevice {
        return match (was.identity == UNKNOWN, is.identity == UNKNOWN) {
            (false, false) if was.identity == is.identity => None,
            (false, false) => Some("the block device's serial number, UUID or backing file is another one".into()),
            _ if was.device != is.device => differs("block device", &was.device, &is.device),
            _ if one_boot(was, is) && differ(was.disk_sequence, is.disk_sequence) => {
                Some("another disk was attached with the block device's number".into())
            }
            _ => None,
        };
    }
    if was.inode != is.inode {
        return differs("inode", &was.inode, &is.inode);
    }
    if differ(was.birth, is.birth) {
        return Some("the file was made at another time, and has got the inode of the recorded one".into());
    }
    let has_uuid = |stamp: &Stamp| stamp.filesystem[8..] != [0; 8];
    if has_uuid(was) && has_uuid(is) && was.filesystem != is.filesystem {
        return Some("it is on another file system".into());
    }
    // A snapshot or a copy of a whole file system has the same identity and inodes, on another device.
    let moved = was.device != is.device && was.device >> 8 != 0 && is.device >> 8 != 0;
    let known = was.identity != UNKNOWN && is.identity != UNKNOWN;
    let elsewhere = if known { was.identity != is.identity } else { one_boot(was, is) };
    (moved && elsewhere)
        .then(|| "its file system is on another device, as a copy or a snapshot of the recorded one is".into())
}

/// How the recorded one has changed.
fn changes(was: &Stamp, is: &Stamp) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, was: String, is: String| {
        if was != is {
            found.push(format!("{what} was {was}, is {is}"));
        }
    };
    compare("size", was.size.to_string(), is.size.to_string());
    let files = was.kind == StampKind::File && is.kind == StampKind::File;
    if files && was.exact {
        compare("modification time", utc(was.mtime_seconds, was.mtime_nanos), utc(is.mtime_seconds, is.mtime_nanos));
        compare("change time", utc(was.ctime_seconds, was.ctime_nanos), utc(is.ctime_seconds, is.ctime_nanos));
    }
    // Without a UUID there is only what statfs says, and without that the device's number, which may be given anew at boot.
    let known = was.filesystem != UNKNOWN && is.filesystem != UNKNOWN;
    let same = if known { was.filesystem == is.filesystem } else { was.device == is.device };
    if files && !same {
        found.push("it seems to be on another file system".into());
    }
    found
}

/// A time since 1970 as RFC 3339 has it: equal for equal times only, and right for any that a file may claim.
fn utc(seconds: i64, nanos: u32) -> String {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The Gregorian calendar repeats after 400 years, which have 146,097 days. Counted from March on, a leap day is a
    // year's last, and months have 31 days and 30 in turn: five have 153.
    let (era, day) = ((day + 719_468).div_euclid(146_097), (day + 719_468).rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let day = day - (153 * from_march + 2) / 5 + 1;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Why it is not certain that an image without [`changes`] has none.
fn unproven(was: &Stamp, is: &Stamp) -> Option<String> {
    if is.kind == StampKind::BlockDevice {
        let known = was.identity != UNKNOWN && is.identity != UNKNOWN;
        let only = if known { "" } else { ", and nothing identifies this one but its number" };
        return Some(format!("writes to a block device leave no trace{only}"));
    }
    if !was.exact {
        return Some("no times were recorded that count".into());
    }
    let other_boot = step!(CompareImageBoot => !one_boot(was, is));
    other_boot.then(|| "its times are of an earlier boot; a crash may have undone a later one".into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Comparison::{Another, Changed, Same, Unproven};
    use super::*;

    fn file() -> Stamp {
        Stamp {
            exact: true,
            mtime_seconds: 100,
            ctime_seconds: 200,
            inode: 7,
            device: 0x801,
            birth: 5,
            filesystem: [9; 16],
            identity: [8; 16],
            boot_id: Uuid([1; 16]),
            ..Stamp::of(StampKind::File, 1 << 20)
        }
    }

    fn device() -> Stamp {
        let stamp = Stamp::of(StampKind::BlockDevice, 1 << 20);
        Stamp { device: 0x700, identity: [8; 16], disk_sequence: 3, boot_id: Uuid([1; 16]), ..stamp }
    }

    fn compare(was: Stamp, is: Stamp) -> Comparison {
        ImageStamp(is).compare(&ImageStamp(was))
    }

    #[test]
    fn a_stamp_is_the_same_from_its_bytes() {
        for stamp in [file(), device(), Stamp { exact: false, ..file() }].map(ImageStamp) {
            assert_eq!(ImageStamp::from_bytes(&stamp.to_bytes()), Some(stamp));
        }
        assert_eq!([[0; 128], [0xff; 128]].map(|bytes| ImageStamp::from_bytes(&bytes)), [None, None]);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
            (951_782_399, 0, "2000-02-28T23:59:59.000000000Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
            (1_700_000_050, 123_456_789, "2023-11-14T22:14:10.123456789Z"),
            (1_709_251_200, 1, "2024-03-01T00:00:00.000000001Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59.000000000Z"),
        ];
        for (seconds, nanos, text) in cases {
            assert_eq!(utc(seconds, nanos), text);
        }
        // What no calendar has is a text all the same.
        assert_ne!(utc(i64::MIN, u32::MAX), utc(i64::MAX, 0));
    }

    #[test]
    fn a_file_is_the_same_when_all_that_was_recorded_is_equal() {
        assert_eq!(compare(file(), file()), Same);
        assert!(
            matches!(compare(file(), Stamp { mtime_nanos: 1, ..file() }), Changed(why) if why.contains("modification"))
        );
        assert!(
            matches!(compare(file(), Stamp { ctime_nanos: 1, ..file() }), Changed(why) if why.contains("change time"))
        );
        assert!(matches!(compare(file(), Stamp { size: 1, ..file() }), Changed(why) if why.contains("size")));
        assert!(matches!(compare(file(), Stamp { inode: 8, ..file() }), Another(why) if why.contains("inode")));
        assert!(matches!(compare(file(), Stamp { birth: 6, ..file() }), Another(_)));
        assert!(matches!(compare(file(), device()), Another(why) if why.contains("block device")));
    }

    #[test]
    pub(crate) fn times_prove_nothing_unless_they_were_settled_and_of_this_boot() {
        let later = Stamp { boot_id: Uuid([2; 16]), ..file() };
        assert!(matches!(compare(file(), later), Unproven(why) if why.contains("boot")));
        assert!(matches!(
            compare(Stamp { boot_id: Uuid::NIL, ..file() }, Stamp { boot_id: Uuid::NIL, ..file() }),
            Unproven(_)
        ));
        let open = Stamp { exact: false, ..file() };
        assert!(matches!(compare(open, Stamp { mtime_seconds: 101, ..file() }), Unproven(_)));
        assert!(matches!(compare(open, Stamp { size: 1, ..file() }), Changed(_)));
        // A change is a change, in whichever boot.
        assert!(matches!(compare(file(), Stamp { mtime_seconds: 101, ..later }), Changed(_)));
    }

    #[test]
    fn a_file_system_is_known_again_after_a_remount_and_its_copy_is_not_taken_for_it() {
        let on = |filesystem, device, identity| Stamp { filesystem, device, identity, ..file() };
        let anonymous = |device| on([9; 16], device, UNKNOWN);
        assert_eq!(compare(anonymous(0x21), anonymous(0x2f)), Same);
        assert!(matches!(compare(file(), on([7; 16], 0x801, [8; 16])), Another(_)));
        // The disk got another number, and it is the same disk.
        assert_eq!(compare(file(), on([9; 16], 0x811, [8; 16])), Same);
        // An LVM snapshot of the volume, and one on a device of which nothing is known.
        assert!(matches!(compare(file(), on([9; 16], 0xfd03, [6; 16])), Another(why) if why.contains("snapshot")));
        assert!(matches!(compare(file(), on([9; 16], 0xfd03, UNKNOWN)), Another(_)));
        // Only statfs tells, or nothing does.
        let mut statfs = [0; 16];
        statfs[0] = 5;
        assert_eq!(compare(on(statfs, 0x21, UNKNOWN), on(statfs, 0x2f, UNKNOWN)), Same);
        assert!(matches!(compare(on(statfs, 0x21, UNKNOWN), on([9; 16], 0x21, UNKNOWN)), Changed(_)));
        assert!(matches!(compare(on(UNKNOWN, 0x21, UNKNOWN), on(UNKNOWN, 0x2f, UNKNOWN)), Changed(_)));
    }

    #[test]
    fn a_block_device_is_never_proved_to_be_unchanged() {
        assert!(matches!(compare(device(), device()), Unproven(why) if why.contains("no trace")));
        // Its number does not count where it is known by something else.
        let moved = Stamp { device: 0x710, disk_sequence: 4, ..device() };
        assert!(matches!(compare(device(), moved), Unproven(_)));
        assert!(matches!(compare(device(), Stamp { identity: [7; 16], ..device() }), Another(_)));
        let nameless = Stamp { identity: UNKNOWN, ..device() };
        assert!(matches!(compare(nameless, nameless), Unproven(why) if why.contains("number")));
        assert!(matches!(compare(nameless, Stamp { disk_sequence: 4, ..nameless }), Another(_)));
        assert!(matches!(compare(nameless, Stamp { device: 0x710, ..nameless }), Another(_)));
        // Sequence numbers begin anew with each boot.
        let later = Stamp { disk_sequence: 4, boot_id: Uuid([2; 16]), ..nameless };
        assert!(matches!(compare(nameless, later), Unproven(_)));
        assert!(!ImageStamp(nameless).is_identified() && ImageStamp(device()).is_identified());
        assert!(matches!(compare(device(), Stamp { size: 1, ..device() }), Changed(_)));
    }

    #[test]
    fn a_file_that_is_renamed_over_another_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "same").unwrap();
        std::fs::write(&two, "same").unwrap();
        let recorded = ImageStamp::of_path(&one).unwrap();
        assert!(recorded.is_exact());
        assert_eq!(ImageStamp::of_path(&one).unwrap().compare(&recorded), Same);
        std::fs::rename(&two, &one).unwrap();
        assert!(matches!(ImageStamp::of_path(&one).unwrap().compare(&recorded), Another(_)));
    }

    #[test]
    fn a_modification_time_that_is_put_back_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, "one").unwrap();
        let recorded = ImageStamp::of_path(&path).unwrap();
        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
        assert!(matches!(ImageStamp::of_path(&path).unwrap().compare(&recorded), Changed(_)));
    }
}
