//! The header: encode, parse, validate.
//!
//! Invariants kept here: a [`Header`] that came from [`Header::parse`] obeys every rule of FORMAT.md, and
//! encodes to exactly the bytes that it came from. [`Header::encode`] yields nothing that
//! [`Header::parse`] would not take.

use super::codec::{array_at, crc32, i64_at, put, put_i64, put_u32, put_u64, u32_at, u64_at};
use super::fields::{Field, header as h, point as p, point_at, run as r, run_at};
use super::layout::region;
use super::{
    ALIGN, COPY_BYTES, CheckpointState, Durability, FIXED_BYTES, HEADER_REGION, HeaderProblem, KNOWN_INCOMPATIBLE,
    KNOWN_RO_COMPATIBLE, Layout, MAGIC, MAX_FILE_LENGTH, MAX_LABEL, MAX_POINT_NAME, MAX_POINTS, MAX_RUNS, MAX_SEQUENCE,
    Point, PointRole, ProblemClass, Reasons, Reserved, Run, Runs, Session, Stamp, State, Uuid, VERSION,
    VOLATILE_LAYOUT, VolatileLayout, bottom_length, is_zeros, table_length,
};
use crate::geometry::{Geometry, LEVELS};
use crate::weak::{Weak, weak};
use std::fmt;
use std::ops::Range;

const OUTSTANDING: u32 = 1;
const KEPT: u32 = 2;

/// What a header copy says. Times are seconds since 1970-01-01 00:00 UTC, 0 for never.
///
/// Fields that follow from others (level sizes, region lengths, file length, counts) are methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Feature bits that an older version may ignore.
    pub compatible: u64,
    /// Feature bits that an older version may ignore as long as it only reads.
    pub ro_compatible: u64,
    /// Feature bits that nobody may ignore.
    pub incompatible: u64,
    /// Identity of the map. Never changes while the file lives.
    pub uuid: Uuid,
    /// Number of this commit: from 1 to [`MAX_SEQUENCE`].
    pub sequence: u64,
    /// The session that has the file open: nil exactly when `state` is CLEAN.
    pub nonce: Uuid,
    /// Whether the map was closed.
    pub state: State,
    /// What the map promises to survive.
    pub durability: Durability,
    /// Length and granularity.
    pub geometry: Geometry,
    /// Where the map's own regions are.
    pub layout: Layout,
    /// Version of the layout inside the volatile region.
    pub volatile_layout: u32,
    /// How far the outstanding checkpoint has come.
    pub checkpoint_state: CheckpointState,
    /// The outstanding checkpoint; nil exactly when there is none.
    pub checkpoint_uuid: Uuid,
    /// The last committed checkpoint; nil before the first.
    pub committed_uuid: Uuid,
    /// When that was.
    pub committed_time: i64,
    /// The image that this map belongs to.
    pub image: Option<Stamp>,
    /// The target that the last completed backup wrote.
    pub target: Option<Stamp>,
    /// The target of a backup that was begun and is not complete.
    pub begun: Option<Stamp>,
    /// When the last backup completed.
    pub backup_time: i64,
    /// Why dirt was added since the last full reset or completed backup.
    pub dirt_reasons: Reasons,
    /// When dirt was last added so.
    pub dirt_time: i64,
    /// When the map was made.
    pub created: i64,
    /// Last clean close.
    pub last_clean: i64,
    /// Last open for writing.
    pub last_open: i64,
    /// Bits set at the last clean close.
    pub clean_dirty_bits: u64,
    /// Where the file was last opened for writing.
    pub session: Session,
    /// Clean granules that backups have compared with their targets, at random.
    pub audited: u64,
    /// Those of them that differed.
    pub audit_missed: u64,
    /// When that was last done.
    pub audit_time: i64,
    /// Free text of the user; at most 252 bytes.
    pub label: String,
    /// Sets beside the map's own, oldest first; the outstanding one, if any, last. At most 64.
    pub points: Vec<Point>,
    /// The armed list: words of the bottom whose bits may have been set since it was brought up to date. At most
    /// 768 runs.
    pub runs: Runs,
    /// Bytes without a meaning in this version.
    pub reserved: HeaderReserved,
}

/// The reserved bytes of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderReserved {
    first: Reserved<{ h::RESERVED_1.size }>,
    second: Reserved<{ h::RESERVED_2.size }>,
}

/// What a region of the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionName {
    /// The header copies.
    Headers,
    /// The map's page table.
    Table,
    /// The map's bottom.
    Bottom,
    /// What is mapped and shared.
    Volatile,
    /// The page table of a point.
    PointTable(usize),
    /// The bottom of a point.
    PointBottom(usize),
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegionName::Headers => f.write_str("headers"),
            RegionName::Table => f.write_str("table"),
            RegionName::Bottom => f.write_str("bottom"),
            RegionName::Volatile => f.write_str("volatile"),
            RegionName::PointTable(i) => write!(f, "points[{i}].table"),
            RegionName::PointBottom(i) => write!(f, "points[{i}].bottom"),
        }
    }
}

/// Why a map that may be read must not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotWritable {
    /// What the header says.
    pub found: String,
    /// What this version handles.
    pub expected: String,
}

impl fmt::Display for NotWritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found {}, this version can write to {}", self.found, self.expected)
    }
}

impl Header {
    /// The header of a new, clean and empty map: sequence number 1, everything else zero, none or empty.
    pub fn new(uuid: Uuid, geometry: Geometry, durability: Durability) -> Header {
        Header {
            compatible: 0,
            ro_compatible: 0,
            incompatible: 0,
            uuid,
            sequence: 1,
            nonce: Uuid::NIL,
            state: State::Clean,
            durability,
            geometry,
            layout: Layout::initial(&geometry),
            volatile_layout: VOLATILE_LAYOUT,
            checkpoint_state: CheckpointState::Normal,
            checkpoint_uuid: Uuid::NIL,
            committed_uuid: Uuid::NIL,
            committed_time: 0,
            image: None,
            target: None,
            begun: None,
            backup_time: 0,
            dirt_reasons: Reasons::NONE,
            dirt_time: 0,
            created: 0,
            last_clean: 0,
            last_open: 0,
            clean_dirty_bits: 0,
            session: Session::default(),
            audited: 0,
            audit_missed: 0,
            audit_time: 0,
            label: String::new(),
            points: Vec::new(),
            runs: Runs::new(),
            reserved: HeaderReserved::default(),
        }
    }

    /// The bytes of the copy that this header takes.
    pub fn used(&self) -> usize {
        run_at(self.points.len(), self.runs.len())
    }

    /// All regions of the file, the header copies first: at most 2 · 64 + 4.
    pub fn regions(&self) -> Vec<(RegionName, Range<u64>)> {
        let Layout { table, bottom, volatile } = self.layout.clone();
        let mut all = vec![
            (RegionName::Headers, 0..HEADER_REGION),
            (RegionName::Table, table),
            (RegionName::Bottom, bottom),
            (RegionName::Volatile, volatile),
        ];
        for (i, point) in self.points.iter().enumerate().filter(|(_, point)| point.has_regions()) {
            all.push((RegionName::PointTable(i), point.table(&self.geometry)));
            all.push((RegionName::PointBottom(i), point.bottom(&self.geometry)));
        }
        all
    }

    /// End of the last region: the length that the file has at least, in bytes.
    pub fn file_length(&self) -> u64 {
        self.regions().iter().map(|(_, range)| range.end).max().unwrap_or(HEADER_REGION)
    }

    /// Whether this version may write to the map.
    ///
    /// # Errors
    /// Why not: unknown read-only-compatible features, another layout of the volatile region, or sequence
    /// numbers that have come near their end (which no honest file does).
    pub fn writable(&self) -> Result<(), NotWritable> {
        let unknown = self.ro_compatible & !KNOWN_RO_COMPATIBLE;
        let no = |found, expected| Err(NotWritable { found, expected });
        if unknown != 0 {
            no(format!("ro_compatible features {unknown:#x}"), "maps without them; open it read-only".into())
        } else if self.volatile_layout != VOLATILE_LAYOUT {
            no(format!("volatile layout {}", self.volatile_layout), format!("volatile layout {VOLATILE_LAYOUT}"))
        } else if self.sequence > MAX_SEQUENCE / 2 {
            no(format!("sequence number {}", self.sequence), format!("at most {}", MAX_SEQUENCE / 2))
        } else {
            Ok(())
        }
    }

    /// The outstanding checkpoint.
    pub fn outstanding(&self) -> Option<&Point> {
        self.points.last().filter(|point| point.role == PointRole::Outstanding)
    }

    /// Exactly the bytes in use, [`used`](Self::used) many. What follows them in the copy means nothing. Unknown
    /// compatible features and reserved bytes are as they were parsed.
    ///
    /// # Errors
    /// The first rule of the format that this header breaks: nothing that [`parse`](Self::parse) would refuse is
    /// ever encoded.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderProblem> {
        self.fits()?;
        let mut out = vec![0; self.used()];
        let b = out.as_mut_slice();
        put(b, h::MAGIC.offset, &MAGIC);
        put_u32(b, h::FORMAT_VERSION.offset, VERSION);
        put_u32(b, h::USED.offset, self.used() as u32);
        put_u64(b, h::COMPATIBLE.offset, self.compatible);
        put_u64(b, h::RO_COMPATIBLE.offset, self.ro_compatible);
        put_u64(b, h::INCOMPATIBLE.offset, self.incompatible);
        put(b, h::UUID.offset, &self.uuid.0);
        put_u64(b, h::SEQUENCE.offset, self.sequence);
        put(b, h::NONCE.offset, &self.nonce.0);
        put_u32(b, h::STATE.offset, self.state as u32);
        put_u32(b, h::DURABILITY.offset, self.durability as u32);
        put_u64(b, h::LEN.offset, self.geometry.len());
        put_u32(b, h::GRANULARITY.offset, self.geometry.granularity());
        put_u32(b, h::LEVEL_COUNT.offset, LEVELS as u32);
        for (k, words) in self.geometry.level_words().into_iter().enumerate() {
            put_u64(b, h::LEVEL_WORDS.offset + 8 * k, words);
        }
        let Layout { table, bottom, volatile } = &self.layout;
        for (offset, length, range) in [
            (h::TABLE_OFFSET, h::TABLE_LENGTH, table),
            (h::BOTTOM_OFFSET, h::BOTTOM_LENGTH, bottom),
            (h::VOLATILE_OFFSET, h::VOLATILE_LENGTH, volatile),
        ] {
            put_u64(b, offset.offset, range.start);
            put_u64(b, length.offset, range.end.saturating_sub(range.start));
        }
        put_u32(b, h::VOLATILE_LAYOUT.offset, self.volatile_layout);
        put_u64(b, h::FILE_LENGTH.offset, self.file_length());
        put_u32(b, h::CHECKPOINT_STATE.offset, self.checkpoint_state as u32);
        put(b, h::CHECKPOINT_UUID.offset, &self.checkpoint_uuid.0);
        put(b, h::COMMITTED_UUID.offset, &self.committed_uuid.0);
        put_i64(b, h::COMMITTED_TIME.offset, self.committed_time);
        for (field, stamp) in [(h::IMAGE, &self.image), (h::TARGET, &self.target), (h::BEGUN, &self.begun)] {
            if let Some(stamp) = stamp {
                stamp.encode(b, field.offset);
            }
        }
        put_i64(b, h::BACKUP_TIME.offset, self.backup_time);
        put_u32(b, h::DIRT_REASONS.offset, self.dirt_reasons.0);
        put_i64(b, h::DIRT_TIME.offset, self.dirt_time);
        put_i64(b, h::CREATED.offset, self.created);
        put_i64(b, h::LAST_CLEAN.offset, self.last_clean);
        put_i64(b, h::LAST_OPEN.offset, self.last_open);
        put_u64(b, h::CLEAN_DIRTY_BITS.offset, self.clean_dirty_bits);
        put(b, h::BOOT_ID.offset, &self.session.boot_id.0);
        put_u64(b, h::SESSION_DEVICE.offset, self.session.device);
        put_u64(b, h::SESSION_INODE.offset, self.session.inode);
        put_u64(b, h::SESSION_MOUNT.offset, self.session.mount);
        put_i64(b, h::SESSION_BIRTH.offset, self.session.birth);
        put_u32(b, h::SESSION_FLAGS.offset, self.session.flags);
        put_u64(b, h::AUDITED.offset, self.audited);
        put_u64(b, h::AUDIT_MISSED.offset, self.audit_missed);
        put_i64(b, h::AUDIT_TIME.offset, self.audit_time);
        put_u32(b, h::LABEL_LENGTH.offset, self.label.len() as u32);
        put(b, h::LABEL.offset, self.label.as_bytes());
        put_u32(b, h::POINT_COUNT.offset, self.points.len() as u32);
        put_u32(b, h::RUN_COUNT.offset, self.runs.len() as u32);
        self.reserved.first.put(b, h::RESERVED_1.offset);
        self.reserved.second.put(b, h::RESERVED_2.offset);
        for (i, point) in self.points.iter().enumerate() {
            encode_point(point, b, point_at(i));
        }
        for (i, run) in self.runs.iter().enumerate() {
            let at = run_at(self.points.len(), i);
            put_u64(b, at + r::FIRST.offset, run.first);
            put_u64(b, at + r::COUNT.offset, run.count);
        }
        let crc = crc32(&[b]);
        put_u32(b, h::CRC.offset, crc);
        // What goes to the disk is read back before it does.
        let back = Header::parse(&out)?;
        debug_assert_eq!(&back, self, "encoding changed the header");
        Ok(out)
    }

    /// What cannot even be put into bytes.
    fn fits(&self) -> Result<(), HeaderProblem> {
        let limit = |field: Field, found: usize, max: usize| {
            if found <= max { Ok(()) } else { Err(impossible(field, found, format_args!("at most {max}"))) }
        };
        limit(h::RUN_COUNT, self.runs.len(), MAX_RUNS)?;
        limit(h::POINT_COUNT, self.points.len(), MAX_POINTS)?;
        limit(h::LABEL_LENGTH, self.label.len(), MAX_LABEL)?;
        self.points.iter().try_for_each(|point| limit(p::NAME_LENGTH, point.name.len(), MAX_POINT_NAME))
    }

    /// Reads a header copy, of which missing bytes count as zeros and bytes behind those in use are ignored. Cost:
    /// a checksum over the bytes used.
    ///
    /// # Errors
    /// The first rule of the format, in the order that FORMAT.md gives, that the bytes break.
    pub fn parse(copy: &[u8]) -> Result<Header, HeaderProblem> {
        let wanted = used_by(copy);
        match copy.get(..wanted) {
            Some(bytes) => Checked::of(bytes)?.header(),
            None => {
                let mut bytes = copy.to_vec();
                bytes.resize(wanted, 0);
                Checked::of(&bytes)?.header()
            }
        }
    }
}

/// How many bytes of a header copy are to be looked at, as its first bytes say: what it has in use if that is possible, else
/// the fixed part.
pub(crate) fn used_by(start: &[u8]) -> usize {
    let used = u32_at(start, h::USED.offset) as usize;
    if (FIXED_BYTES..=COPY_BYTES).contains(&used) { used } else { FIXED_BYTES }
}

fn encode_point(point: &Point, b: &mut [u8], at: usize) {
    put(b, at + p::UUID.offset, &point.uuid.0);
    put_i64(b, at + p::TIME.offset, point.time);
    let flags = match point.role {
        PointRole::Outstanding => OUTSTANDING,
        PointRole::Kept => KEPT,
    };
    put_u32(b, at + p::FLAGS.offset, flags);
    put_u32(b, at + p::NAME_LENGTH.offset, point.name.len() as u32);
    put_u64(b, at + p::TABLE_OFFSET.offset, point.table_offset);
    put_u64(b, at + p::BOTTOM_OFFSET.offset, point.bottom_offset);
    put_u64(b, at + p::GRANULES.offset, point.granules);
    put_u32(b, at + p::DIRT_REASONS.offset, point.reasons.0);
    point.reserved.put(b, at + p::RESERVED.offset);
    put(b, at + p::NAME.offset, point.name.as_bytes());
    if let Some(stamp) = &point.target {
        stamp.encode(b, at + p::TARGET.offset);
    }
}

/// A field of the header that breaks a rule.
fn impossible(field: Field, found: impl fmt::Display, expected: impl fmt::Display) -> HeaderProblem {
    problem(ProblemClass::Impossible, field.name.into(), field.offset, found, expected)
}

/// A field of a point that breaks a rule.
fn impossible_in(i: usize, field: Field, found: impl fmt::Display, expected: impl fmt::Display) -> HeaderProblem {
    let place = format!("points[{i}].{}", field.name);
    problem(ProblemClass::Impossible, place, point_at(i) + field.offset, found, expected)
}

fn problem(
    class: ProblemClass,
    place: String,
    offset: usize,
    found: impl fmt::Display,
    expected: impl fmt::Display,
) -> HeaderProblem {
    HeaderProblem { class, place, offset, found: found.to_string(), expected: expected.to_string(), identity: None }
}

/// A copy whose checksum holds and whose version and features are known: its bytes are what a writer wrote, and
/// mean what this version thinks. Whether they make sense is not known yet.
struct Checked<'a> {
    bytes: &'a [u8],
    uuid: Uuid,
    sequence: u64,
}

impl<'a> Checked<'a> {
    fn of(bytes: &'a [u8]) -> Result<Checked<'a>, HeaderProblem> {
        let fail = |class, field: Field, found: &dyn fmt::Display, expected: &dyn fmt::Display| {
            Err(problem(class, field.name.into(), field.offset, found, expected))
        };
        let magic: [u8; 8] = array_at(bytes, h::MAGIC.offset);
        let expected = format_args!("{}", MAGIC.escape_ascii());
        if magic != MAGIC {
            if is_zeros(&bytes[..FIXED_BYTES]) {
                return fail(ProblemClass::Blank, h::MAGIC, &"zeros", &expected);
            }
            return fail(ProblemClass::NotDirtymap, h::MAGIC, &magic.escape_ascii(), &expected);
        }
        let version = u32_at(bytes, h::FORMAT_VERSION.offset);
        // Magic, version, used, uuid, sequence and checksum are where they are in all versions.
        let used = u32_at(bytes, h::USED.offset) as usize;
        let expected = format_args!("{FIXED_BYTES} to {COPY_BYTES}");
        let crc = u32_at(bytes, h::CRC.offset);
        let covered = if used >= FIXED_BYTES { bytes.get(..used) } else { None };
        let actual = covered.map(|all| crc32(&[&all[..h::CRC.offset], &[0; h::CRC.size], &all[h::CRC.end()..]]));
        let uuid = Uuid(array_at(bytes, h::UUID.offset));
        let sequence = u64_at(bytes, h::SEQUENCE.offset);
        let identity = (actual == Some(crc)).then_some((uuid, sequence));
        let known = |problem: HeaderProblem| HeaderProblem { identity, ..problem };
        if version < VERSION && identity.is_some() {
            return Err(known(impossible(h::FORMAT_VERSION, version, VERSION)));
        }
        if version > VERSION {
            return fail(ProblemClass::Version, h::FORMAT_VERSION, &version, &VERSION).map_err(known);
        }
        match actual {
            None => return fail(ProblemClass::Checksum, h::USED, &used, &expected),
            Some(actual) if actual != crc && !weak(Weak::IgnoreChecksum) => {
                return fail(
                    ProblemClass::Checksum,
                    h::CRC,
                    &format_args!("{crc:#010x}"),
                    &format_args!("{actual:#010x}"),
                );
            }
            Some(_) => {}
        }
        let unknown = u64_at(bytes, h::INCOMPATIBLE.offset) & !KNOWN_INCOMPATIBLE;
        if unknown != 0 {
            let found = format_args!("unknown features {unknown:#x}");
            return fail(ProblemClass::Feature, h::INCOMPATIBLE, &found, &format_args!("none")).map_err(known);
        }
        Ok(Checked { bytes, uuid, sequence })
    }

    /// All rules about values.
    fn header(self) -> Result<Header, HeaderProblem> {
        let identity = Some((self.uuid, self.sequence));
        self.values().map_err(|problem| HeaderProblem { identity, ..problem })
    }

    fn values(&self) -> Result<Header, HeaderProblem> {
        let b = self.bytes;
        if self.uuid.is_nil() {
            return Err(impossible(h::UUID, "zeros", "an identity"));
        }
        if !(1..=MAX_SEQUENCE).contains(&self.sequence) {
            return Err(impossible(h::SEQUENCE, self.sequence, format_args!("1 to {MAX_SEQUENCE}")));
        }
        let nonce = self.uuid(h::NONCE);
        let state = match self.u32(h::STATE) {
            1 => State::Clean,
            2 => State::Open,
            found => return Err(impossible(h::STATE, found, "1 (CLEAN) or 2 (OPEN)")),
        };
        match (state, nonce.is_nil()) {
            (State::Clean, false) => return Err(impossible(h::NONCE, nonce, "zeros in state CLEAN")),
            (State::Open, true) => return Err(impossible(h::NONCE, "zeros", "a session in state OPEN")),
            _ => {}
        }
        let durability = match self.u32(h::DURABILITY) {
            1 => Durability::PowerLoss,
            2 => Durability::Process,
            found => return Err(impossible(h::DURABILITY, found, "1 (PowerLoss) or 2 (Process)")),
        };
        let geometry = self.geometry()?;
        let clean_dirty_bits = self.u64(h::CLEAN_DIRTY_BITS);
        if clean_dirty_bits > geometry.bits() {
            let expected = format_args!("at most {} bits", geometry.bits());
            return Err(impossible(h::CLEAN_DIRTY_BITS, clean_dirty_bits, expected));
        }
        let volatile_layout = self.u32(h::VOLATILE_LAYOUT);
        let layout = self.layout(&geometry, volatile_layout)?;
        let counts = self.counts()?;
        let points = self.points(counts.0)?;
        let checkpoint_state = self.checkpoint(&points)?;
        let header = Header {
            compatible: self.u64(h::COMPATIBLE),
            ro_compatible: self.u64(h::RO_COMPATIBLE),
            incompatible: self.u64(h::INCOMPATIBLE),
            uuid: self.uuid,
            sequence: self.sequence,
            nonce,
            state,
            durability,
            geometry,
            layout,
            volatile_layout,
            checkpoint_state,
            checkpoint_uuid: self.uuid(h::CHECKPOINT_UUID),
            committed_uuid: self.uuid(h::COMMITTED_UUID),
            committed_time: self.i64(h::COMMITTED_TIME),
            image: self.stamp(h::IMAGE)?,
            target: self.stamp(h::TARGET)?,
            begun: self.stamp(h::BEGUN)?,
            backup_time: self.i64(h::BACKUP_TIME),
            dirt_reasons: Reasons(self.u32(h::DIRT_REASONS)),
            dirt_time: self.i64(h::DIRT_TIME),
            created: self.i64(h::CREATED),
            last_clean: self.i64(h::LAST_CLEAN),
            last_open: self.i64(h::LAST_OPEN),
            clean_dirty_bits,
            session: Session {
                boot_id: self.uuid(h::BOOT_ID),
                device: self.u64(h::SESSION_DEVICE),
                inode: self.u64(h::SESSION_INODE),
                mount: self.u64(h::SESSION_MOUNT),
                birth: self.i64(h::SESSION_BIRTH),
                flags: self.u32(h::SESSION_FLAGS),
            },
            audited: self.u64(h::AUDITED),
            audit_missed: self.u64(h::AUDIT_MISSED),
            audit_time: self.i64(h::AUDIT_TIME),
            label: text(b, h::LABEL_LENGTH, h::LABEL, 0)
                .map_err(|(field, found, want)| impossible(field, found, want))?,
            points,
            runs: self.runs(&geometry, counts)?,
            reserved: HeaderReserved {
                first: Reserved::at(b, h::RESERVED_1.offset),
                second: Reserved::at(b, h::RESERVED_2.offset),
            },
        };
        self.regions(&header)?;
        Ok(header)
    }

    fn u32(&self, field: Field) -> u32 {
        debug_assert_eq!(field.size, 4);
        u32_at(self.bytes, field.offset)
    }

    fn u64(&self, field: Field) -> u64 {
        debug_assert_eq!(field.size, 8);
        u64_at(self.bytes, field.offset)
    }

    fn i64(&self, field: Field) -> i64 {
        debug_assert_eq!(field.size, 8);
        i64_at(self.bytes, field.offset)
    }

    fn uuid(&self, field: Field) -> Uuid {
        debug_assert_eq!(field.size, 16);
        Uuid(array_at(self.bytes, field.offset))
    }

    fn stamp(&self, field: Field) -> Result<Option<Stamp>, HeaderProblem> {
        Stamp::parse(self.bytes, field.offset).map_err(|(inner, found, expected)| {
            let place = format!("{}.{}", field.name, inner.name);
            problem(ProblemClass::Impossible, place, field.offset + inner.offset, found, expected)
        })
    }

    fn geometry(&self) -> Result<Geometry, HeaderProblem> {
        let (len, granularity) = (self.u64(h::LEN), self.u32(h::GRANULARITY));
        let geometry = Geometry::new(len, granularity).map_err(|error| match error {
            crate::Error::Geometry { why, .. } => impossible(
                h::LEN,
                format_args!("{len} with granularity {granularity}"),
                format_args!("a possible map: {why}"),
            ),
            other => impossible(h::LEN, len, other),
        })?;
        let levels = self.u32(h::LEVEL_COUNT);
        if levels as usize != LEVELS {
            return Err(impossible(h::LEVEL_COUNT, levels, LEVELS));
        }
        let expected = geometry.level_words();
        let found: [u64; LEVELS] = std::array::from_fn(|k| u64_at(self.bytes, h::LEVEL_WORDS.offset + 8 * k));
        if found != expected {
            return Err(impossible(h::LEVEL_WORDS, format_args!("{found:?}"), format_args!("{expected:?}")));
        }
        Ok(geometry)
    }

    /// The lengths, which the geometry gives. The offsets are checked with all other regions.
    fn layout(&self, geometry: &Geometry, volatile_layout: u32) -> Result<Layout, HeaderProblem> {
        let part = |offset: Field, length: Field, expected: Option<u64>| {
            let found = self.u64(length);
            match expected {
                Some(expected) if expected != found => Err(impossible(length, found, expected)),
                _ => Ok(region(self.u64(offset), found)),
            }
        };
        // What a volatile region of another layout takes is not known here; its end is checked all the same.
        let volatile = (volatile_layout == VOLATILE_LAYOUT).then(|| VolatileLayout::new(geometry).length);
        if volatile.is_none() && !self.u64(h::VOLATILE_LENGTH).is_multiple_of(ALIGN) {
            let found = self.u64(h::VOLATILE_LENGTH);
            return Err(impossible(h::VOLATILE_LENGTH, found, format_args!("a multiple of {ALIGN}")));
        }
        Ok(Layout {
            table: part(h::TABLE_OFFSET, h::TABLE_LENGTH, Some(table_length(geometry)))?,
            bottom: part(h::BOTTOM_OFFSET, h::BOTTOM_LENGTH, Some(bottom_length(geometry)))?,
            volatile: part(h::VOLATILE_OFFSET, h::VOLATILE_LENGTH, volatile)?,
        })
    }

    /// Every region is aligned, within bounds, and overlaps no other; the file ends with the last one.
    fn regions(&self, header: &Header) -> Result<(), HeaderProblem> {
        let fail = |name: RegionName, found: &dyn fmt::Display, expected: &dyn fmt::Display| {
            Err(match name {
                RegionName::Headers => impossible(h::MAGIC, found, expected),
                RegionName::Table => impossible(h::TABLE_OFFSET, found, expected),
                RegionName::Bottom => impossible(h::BOTTOM_OFFSET, found, expected),
                RegionName::Volatile => impossible(h::VOLATILE_OFFSET, found, expected),
                RegionName::PointTable(i) => impossible_in(i, p::TABLE_OFFSET, found, expected),
                RegionName::PointBottom(i) => impossible_in(i, p::BOTTOM_OFFSET, found, expected),
            })
        };
        let mut all = header.regions();
        for (name, range) in &all {
            if !range.start.is_multiple_of(ALIGN) {
                return fail(*name, &range.start, &format_args!("a multiple of {ALIGN}"));
            }
            if range.end > MAX_FILE_LENGTH {
                let expected = format_args!("an offset that lets it end at or before {MAX_FILE_LENGTH}");
                return fail(*name, &range.start, &expected);
            }
        }
        // A volatile region of another layout may be empty, and then it is nowhere.
        all.retain(|(_, range)| !range.is_empty());
        // Stable, and the headers come first: it is the region behind that is at fault.
        all.sort_by_key(|(_, range)| range.start);
        for pair in all.windows(2) {
            if let [(before, first), (name, second)] = pair
                && second.start < first.end
            {
                let expected = format_args!("{} or more, the end of {before}", first.end);
                return fail(*name, &second.start, &expected);
            }
        }
        let found = self.u64(h::FILE_LENGTH);
        let expected = header.file_length();
        if found != expected {
            return Err(impossible(h::FILE_LENGTH, found, format_args!("{expected}, the end of the last region")));
        }
        Ok(())
    }

    /// How many points and runs there are; they take what is in use behind the fixed part.
    fn counts(&self) -> Result<(usize, usize), HeaderProblem> {
        let (points, runs) = (self.u32(h::POINT_COUNT) as usize, self.u32(h::RUN_COUNT) as usize);
        if points > MAX_POINTS {
            return Err(impossible(h::POINT_COUNT, points, format_args!("at most {MAX_POINTS}")));
        }
        if runs > MAX_RUNS {
            return Err(impossible(h::RUN_COUNT, runs, format_args!("at most {MAX_RUNS}")));
        }
        let (used, expected) = (self.u32(h::USED) as usize, run_at(points, runs));
        if used != expected {
            let expected = format_args!("{expected} with {points} points and {runs} runs");
            return Err(impossible(h::USED, used, expected));
        }
        Ok((points, runs))
    }

    fn points(&self, count: usize) -> Result<Vec<Point>, HeaderProblem> {
        let mut points: Vec<Point> = Vec::with_capacity(count);
        for i in 0..count {
            let point = self.point(i)?;
            let fail = |field, found: &dyn fmt::Display, expected| Err(impossible_in(i, field, found, expected));
            if points.iter().any(|other| other.uuid == point.uuid) {
                return fail(p::UUID, &point.uuid, "an identity that no other point has");
            }
            if !point.name.is_empty() && points.iter().any(|other| other.name == point.name) {
                return fail(p::NAME, &format_args!("{:?}", point.name), "a name that no other point has");
            }
            if point.role == PointRole::Outstanding && i + 1 != count {
                return fail(p::FLAGS, &OUTSTANDING, "the outstanding checkpoint as the last point");
            }
            points.push(point);
        }
        Ok(points)
    }

    fn point(&self, i: usize) -> Result<Point, HeaderProblem> {
        let (b, at) = (self.bytes, point_at(i));
        let uuid = Uuid(array_at(b, at + p::UUID.offset));
        if uuid.is_nil() {
            return Err(impossible_in(i, p::UUID, "zeros", "an identity"));
        }
        let role = match u32_at(b, at + p::FLAGS.offset) {
            OUTSTANDING => PointRole::Outstanding,
            KEPT => PointRole::Kept,
            found => return Err(impossible_in(i, p::FLAGS, found, "1 (outstanding) or 2 (kept by name)")),
        };
        let name = text(b, p::NAME_LENGTH, p::NAME, at)
            .map_err(|(field, found, expected)| impossible_in(i, field, found, expected))?;
        if name.is_empty() && role == PointRole::Kept {
            return Err(impossible_in(i, p::NAME_LENGTH, 0, "a name for a point that is kept by name"));
        }
        let target = Stamp::parse(b, at + p::TARGET.offset).map_err(|(inner, found, expected)| {
            let place = format!("points[{i}].target.{}", inner.name);
            problem(ProblemClass::Impossible, place, at + p::TARGET.offset + inner.offset, found, expected)
        })?;
        let point = Point {
            uuid,
            time: i64_at(b, at + p::TIME.offset),
            role,
            name,
            table_offset: u64_at(b, at + p::TABLE_OFFSET.offset),
            bottom_offset: u64_at(b, at + p::BOTTOM_OFFSET.offset),
            granules: u64_at(b, at + p::GRANULES.offset),
            reasons: Reasons(u32_at(b, at + p::DIRT_REASONS.offset)),
            target,
            reserved: Reserved::at(b, at + p::RESERVED.offset),
        };
        if !point.has_regions() && role == PointRole::Outstanding {
            return Err(impossible_in(i, p::TABLE_OFFSET, 0, "regions of the outstanding checkpoint"));
        }
        if !point.has_regions() && point.granules != 0 {
            return Err(impossible_in(i, p::GRANULES, point.granules, "0 in a point without regions"));
        }
        Ok(point)
    }

    /// The state, which agrees with the identity beside it and with the points.
    fn checkpoint(&self, points: &[Point]) -> Result<CheckpointState, HeaderProblem> {
        let state = match self.u32(h::CHECKPOINT_STATE) {
            0 => CheckpointState::Normal,
            1 => CheckpointState::Freezing,
            2 => CheckpointState::Frozen,
            3 => CheckpointState::Aborting,
            found => return Err(impossible(h::CHECKPOINT_STATE, found, "0 to 3")),
        };
        let uuid = self.uuid(h::CHECKPOINT_UUID);
        let outstanding = points.last().filter(|point| point.role == PointRole::Outstanding);
        match (state, outstanding) {
            (CheckpointState::Normal, Some(point)) => {
                let found = format_args!("NORMAL with outstanding point {}", point.uuid);
                Err(impossible(h::CHECKPOINT_STATE, found, "another state, or no such point"))
            }
            (CheckpointState::Normal, None) if !uuid.is_nil() => {
                Err(impossible(h::CHECKPOINT_UUID, uuid, "zeros in state NORMAL"))
            }
            (CheckpointState::Normal, None) => Ok(state),
            (_, None) => {
                let found = format_args!("{state:?} with no outstanding point");
                Err(impossible(h::CHECKPOINT_STATE, found, "state NORMAL, or such a point"))
            }
            (_, Some(point)) if point.uuid != uuid => {
                Err(impossible(h::CHECKPOINT_UUID, uuid, format_args!("{}, the outstanding point's", point.uuid)))
            }
            (_, Some(_)) => Ok(state),
        }
    }

    fn runs(&self, geometry: &Geometry, (points, count): (usize, usize)) -> Result<Runs, HeaderProblem> {
        let run = |i| {
            let at = run_at(points, i);
            Run { first: u64_at(self.bytes, at + r::FIRST.offset), count: u64_at(self.bytes, at + r::COUNT.offset) }
        };
        let fail = |i, expected: &dyn fmt::Display| {
            let (Run { first, count }, place) = (run(i), format!("runs[{i}].{}", r::FIRST.name));
            let found = format_args!("{count} words from {first}");
            Err(problem(ProblemClass::Impossible, place, run_at(points, i) + r::FIRST.offset, found, expected))
        };
        let runs = match Runs::from_sorted((0..count).map(run).collect()) {
            Ok(runs) => runs,
            Err(i) => return fail(i, &"at least one word, behind the run before and a gap"),
        };
        match runs.iter().position(|run| run.end() > geometry.words()) {
            Some(i) => fail(i, &format_args!("words below {}", geometry.words())),
            None => Ok(runs),
        }
    }
}

/// A text with its length in front, in a table that starts at `at`; or the field that is wrong with it.
fn text(bytes: &[u8], length: Field, text: Field, at: usize) -> Result<String, (Field, String, String)> {
    let count = u32_at(bytes, at + length.offset) as usize;
    let all = bytes.get(at + text.offset..at + text.end()).unwrap_or_default();
    let Some((used, rest)) = all.split_at_checked(count) else {
        return Err((length, count.to_string(), format!("at most {}", text.size)));
    };
    if rest.iter().any(|byte| *byte != 0) {
        let found = format!("{:?}", String::from_utf8_lossy(all));
        return Err((text, found, format!("zeros behind its {count} bytes")));
    }
    match std::str::from_utf8(used) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err((text, format!("{:?}", String::from_utf8_lossy(used)), "UTF-8".into())),
    }
}
