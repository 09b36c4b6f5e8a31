//! Bytes become a header.
//!
//! Invariant kept here: a [`Header`] that came from [`Header::parse`] obeys every rule of FORMAT.md, and encodes to exactly the
//! bytes that it came from.

use super::codec::{array_at, crc32, i64_at, u32_at, u64_at};
use super::fields::{Field, header as h, point as p, point_at};
use super::header::{Header, HeaderReserved, RegionName};
use super::layout::{Layout, VolatileLayout, bottom_length, region, table_length};
use super::list::BadRun;
use super::page::is_zeros;
use super::point::{INTENT_ONLY, Intent, KEPT, OUTSTANDING, Point, PointRole, SNAPSHOT};
use super::problem::{HeaderProblem, ProblemClass, invalid, invalid_in, problem};
use super::runs::WordRanges;
use super::sizes::{
    ALIGN, COPY_BYTES, FIXED_BYTES, KNOWN_INCOMPATIBLE, MAGIC, MAX_FILE_LENGTH, MAX_LIST, MAX_POINTS, MAX_SEQUENCE,
    MAX_UNIT, VERSION, VOLATILE_LAYOUT,
};
use super::stamp::Stamp;
use super::values::{CheckpointState, Durability, Reasons, Reserved, Session, State, Uuid};
use crate::geometry::{Geometry, LEVELS};
use std::fmt;

impl Header {
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
        // Magic, version, used, uuid, sequence and checksum are where they are in all versions, so that what fails here is rot.
        let used = u32_at(bytes, h::USED.offset) as usize;
        let expected = format_args!("{FIXED_BYTES} to {COPY_BYTES}");
        let crc = u32_at(bytes, h::CRC.offset);
        let covered = if used >= FIXED_BYTES { bytes.get(..used) } else { None };
        let actual = covered.map(|all| crc32(&[&all[..h::CRC.offset], &[0; h::CRC.size], &all[h::CRC.end()..]]));
        match actual {
            None => return fail(ProblemClass::Checksum, h::USED, &used, &expected),
            Some(actual) if step!(CheckHeaderCrc => actual != crc) => {
                return fail(
                    ProblemClass::Checksum,
                    h::CRC,
                    &format_args!("{crc:#010x}"),
                    &format_args!("{actual:#010x}"),
                );
            }
            Some(_) => {}
        }
        let uuid = Uuid(array_at(bytes, h::UUID.offset));
        let sequence = u64_at(bytes, h::SEQUENCE.offset);
        let known = |problem: HeaderProblem| HeaderProblem { identity: Some((uuid, sequence)), ..problem };
        let version = u32_at(bytes, h::FORMAT_VERSION.offset);
        if version < VERSION {
            return Err(known(invalid(h::FORMAT_VERSION, version, VERSION)));
        }
        if version > VERSION {
            return fail(ProblemClass::Version, h::FORMAT_VERSION, &version, &VERSION).map_err(known);
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
        self.identity()?;
        let (state, nonce) = self.state()?;
        let durability = self.durability()?;
        let geometry = self.geometry()?;
        let clean_dirty_bits = self.clean_dirty_bits(&geometry)?;
        let volatile_layout = self.u32(h::VOLATILE_LAYOUT);
        let layout = self.layout(&geometry, volatile_layout)?;
        let counts = self.counts()?;
        let points = self.points(&geometry, counts.0)?;
        let checkpoint_state = self.checkpoint(&points)?;
        let intent = self.intent(durability, &points)?;
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
            session: self.session(),
            audited: self.u64(h::AUDITED),
            audit_missed: self.u64(h::AUDIT_MISSED),
            audit_time: self.i64(h::AUDIT_TIME),
            label: text(b, h::LABEL_LENGTH, h::LABEL, 0).map_err(|(field, found, want)| invalid(field, found, want))?,
            points,
            intent,
            runs: self.runs(&geometry, counts)?,
            reserved: HeaderReserved {
                first: Reserved::at(b, h::RESERVED_1.offset),
                second: Reserved::at(b, h::RESERVED_2.offset),
            },
        };
        self.regions(&header)?;
        Ok(header)
    }

    fn identity(&self) -> Result<(), HeaderProblem> {
        if self.uuid.is_nil() {
            return Err(invalid(h::UUID, "zeros", "an identity"));
        }
        if !(1..=MAX_SEQUENCE).contains(&self.sequence) {
            return Err(invalid(h::SEQUENCE, self.sequence, format_args!("1 to {MAX_SEQUENCE}")));
        }
        Ok(())
    }

    /// Whether the map was closed, and the session that has it open if not.
    fn state(&self) -> Result<(State, Uuid), HeaderProblem> {
        let nonce = self.uuid(h::NONCE);
        let state = match self.u32(h::STATE) {
            1 => State::Clean,
            2 => State::Open,
            found => return Err(invalid(h::STATE, found, "1 (CLEAN) or 2 (OPEN)")),
        };
        match (state, nonce.is_nil()) {
            (State::Clean, false) => Err(invalid(h::NONCE, nonce, "zeros in state CLEAN")),
            (State::Open, true) => Err(invalid(h::NONCE, "zeros", "a session in state OPEN")),
            _ => Ok((state, nonce)),
        }
    }

    fn durability(&self) -> Result<Durability, HeaderProblem> {
        Ok(match self.u32(h::DURABILITY) {
            1 => Durability::PowerLoss,
            2 => Durability::Process,
            found => return Err(invalid(h::DURABILITY, found, "1 (PowerLoss) or 2 (Process)")),
        })
    }

    fn clean_dirty_bits(&self, geometry: &Geometry) -> Result<u64, HeaderProblem> {
        let found = self.u64(h::CLEAN_DIRTY_BITS);
        if found > geometry.bits() {
            return Err(invalid(h::CLEAN_DIRTY_BITS, found, format_args!("at most {} bits", geometry.bits())));
        }
        Ok(found)
    }

    fn session(&self) -> Session {
        Session {
            boot_id: self.uuid(h::BOOT_ID),
            device: self.u64(h::SESSION_DEVICE),
            inode: self.u64(h::SESSION_INODE),
            mount: self.u64(h::SESSION_MOUNT),
            birth: self.i64(h::SESSION_BIRTH),
            flags: self.u32(h::SESSION_FLAGS),
        }
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
            problem(ProblemClass::Invalid, place, field.offset + inner.offset, found, expected)
        })
    }

    fn geometry(&self) -> Result<Geometry, HeaderProblem> {
        let (len, granularity) = (self.u64(h::LEN), self.u32(h::GRANULARITY));
        let geometry = Geometry::new(len, granularity).map_err(|error| match error {
            crate::Error::Geometry { why, .. } => invalid(
                h::LEN,
                format_args!("{len} with granularity {granularity}"),
                format_args!("a possible map: {why}"),
            ),
            other => invalid(h::LEN, len, other),
        })?;
        let levels = self.u32(h::LEVEL_COUNT);
        if levels as usize != LEVELS {
            return Err(invalid(h::LEVEL_COUNT, levels, LEVELS));
        }
        let expected = geometry.level_words();
        let found: [u64; LEVELS] = std::array::from_fn(|k| u64_at(self.bytes, h::LEVEL_WORDS.offset + 8 * k));
        if found != expected {
            return Err(invalid(h::LEVEL_WORDS, format_args!("{found:?}"), format_args!("{expected:?}")));
        }
        Ok(geometry)
    }

    /// The lengths, which the geometry gives. The offsets are checked with all other regions.
    fn layout(&self, geometry: &Geometry, volatile_layout: u32) -> Result<Layout, HeaderProblem> {
        let part = |offset: Field, length: Field, expected: Option<u64>| {
            let found = self.u64(length);
            match expected {
                Some(expected) if expected != found => Err(invalid(length, found, expected)),
                _ => Ok(region(self.u64(offset), found)),
            }
        };
        // What a volatile region of another layout takes is not known here; its end is checked all the same.
        let volatile = (volatile_layout == VOLATILE_LAYOUT).then(|| VolatileLayout::new(geometry).length);
        if volatile.is_none() && !self.u64(h::VOLATILE_LENGTH).is_multiple_of(ALIGN) {
            let found = self.u64(h::VOLATILE_LENGTH);
            return Err(invalid(h::VOLATILE_LENGTH, found, format_args!("a multiple of {ALIGN}")));
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
                RegionName::Headers => invalid(h::MAGIC, found, expected),
                RegionName::Table => invalid(h::TABLE_OFFSET, found, expected),
                RegionName::Bottom => invalid(h::BOTTOM_OFFSET, found, expected),
                RegionName::Volatile => invalid(h::VOLATILE_OFFSET, found, expected),
                RegionName::PointTable(i) => invalid_in(i, p::TABLE_OFFSET, found, expected),
                RegionName::PointBottom(i) => invalid_in(i, p::BOTTOM_OFFSET, found, expected),
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
            return Err(invalid(h::FILE_LENGTH, found, format_args!("{expected}, the end of the last region")));
        }
        Ok(())
    }

    /// How many points and runs there are, for which what is in use behind the fixed part is enough and not too much.
    fn counts(&self) -> Result<(usize, usize), HeaderProblem> {
        let (points, runs) = (self.u32(h::POINT_COUNT) as usize, self.u32(h::RUN_COUNT) as usize);
        if points > MAX_POINTS {
            return Err(invalid(h::POINT_COUNT, points, format_args!("at most {MAX_POINTS}")));
        }
        if runs > MAX_LIST {
            return Err(invalid(h::RUN_COUNT, runs, format_args!("at most {MAX_LIST}")));
        }
        let (used, least) = (self.bytes.len(), point_at(points));
        if !(least..=least + MAX_LIST).contains(&used) {
            let expected = format_args!("{least} to {} with {points} points", least + MAX_LIST);
            return Err(invalid(h::USED, used, expected));
        }
        Ok((points, runs))
    }

    fn points(&self, geometry: &Geometry, count: usize) -> Result<Vec<Point>, HeaderProblem> {
        let mut points: Vec<Point> = Vec::with_capacity(count);
        for i in 0..count {
            let point = self.point(geometry, i)?;
            let fail = |field, found: &dyn fmt::Display, expected| Err(invalid_in(i, field, found, expected));
            if points.iter().any(|other| other.uuid == point.uuid) {
                return fail(p::UUID, &point.uuid, "an identity that no other point has");
            }
            if !point.name.is_empty() && points.iter().any(|other| other.name == point.name) {
                return fail(p::NAME, &format_args!("{:?}", point.name), "a name that no other point has");
            }
            if point.role.is_outstanding() && i + 1 != count {
                return fail(p::FLAGS, &point.role.flags(), "the outstanding checkpoint as the last point");
            }
            let behind_intent = points.last().is_some_and(|last| last.role == PointRole::Intent);
            if behind_intent && !point.role.is_outstanding() {
                return fail(p::FLAGS, &point.role.flags(), "1 (outstanding) behind a point that is only the intent");
            }
            points.push(point);
        }
        Ok(points)
    }

    fn point(&self, geometry: &Geometry, i: usize) -> Result<Point, HeaderProblem> {
        let (b, at) = (self.bytes, point_at(i));
        let uuid = Uuid(array_at(b, at + p::UUID.offset));
        if uuid.is_nil() {
            return Err(invalid_in(i, p::UUID, "zeros", "an identity"));
        }
        let role = match u32_at(b, at + p::FLAGS.offset) {
            OUTSTANDING => PointRole::Outstanding,
            SNAPSHOT => PointRole::Snapshot,
            KEPT => PointRole::Kept,
            INTENT_ONLY => PointRole::Intent,
            found => {
                return Err(invalid_in(
                    i,
                    p::FLAGS,
                    found,
                    "1 (outstanding), 9 (a snapshot's), 2 (kept by name) or 4 (only the intent)",
                ));
            }
        };
        let name = text(b, p::NAME_LENGTH, p::NAME, at)
            .map_err(|(field, found, expected)| invalid_in(i, field, found, expected))?;
        if name.is_empty() && role == PointRole::Kept {
            return Err(invalid_in(i, p::NAME_LENGTH, 0, "a name for a point that is kept by name"));
        }
        if !name.is_empty() && role == PointRole::Intent {
            return Err(invalid_in(i, p::NAME_LENGTH, name.len(), "no name for a point that is only the intent"));
        }
        let target = Stamp::parse(b, at + p::TARGET.offset).map_err(|(inner, found, expected)| {
            let place = format!("points[{i}].target.{}", inner.name);
            problem(ProblemClass::Invalid, place, at + p::TARGET.offset + inner.offset, found, expected)
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
        let nothing = role == PointRole::Kept && point.granules == 0;
        if !point.has_regions() && !nothing && point.granules != geometry.bits() {
            let none = if role == PointRole::Kept { "0 or " } else { "" };
            let expected = format_args!("{none}all {} bits in a point without regions", geometry.bits());
            return Err(invalid_in(i, p::GRANULES, point.granules, expected));
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
            found => return Err(invalid(h::CHECKPOINT_STATE, found, "0 to 3")),
        };
        let uuid = self.uuid(h::CHECKPOINT_UUID);
        let outstanding = points.last().filter(|point| point.role.is_outstanding());
        match (state, outstanding) {
            (CheckpointState::Normal, Some(point)) => {
                let found = format_args!("NORMAL with outstanding point {}", point.uuid);
                Err(invalid(h::CHECKPOINT_STATE, found, "another state, or no such point"))
            }
            (CheckpointState::Normal, None) if !uuid.is_nil() => {
                Err(invalid(h::CHECKPOINT_UUID, uuid, "zeros in state NORMAL"))
            }
            (CheckpointState::Normal, None) => Ok(state),
            (_, None) => {
                let found = format_args!("{state:?} with no outstanding point");
                Err(invalid(h::CHECKPOINT_STATE, found, "state NORMAL, or such a point"))
            }
            (_, Some(point)) if point.uuid != uuid => {
                Err(invalid(h::CHECKPOINT_UUID, uuid, format_args!("{}, the outstanding point's", point.uuid)))
            }
            (_, Some(_)) => Ok(state),
        }
    }

    /// The intent, which names a point that has something to say.
    fn intent(&self, durability: Durability, points: &[Point]) -> Result<Option<Intent>, HeaderProblem> {
        let (uuid, unit) = (self.uuid(h::INTENT), self.u32(h::INTENT_UNIT));
        if unit > if uuid.is_nil() { 0 } else { MAX_UNIT } {
            return Err(invalid(h::INTENT_UNIT, unit, format_args!("at most {MAX_UNIT}, and 0 without an intent")));
        }
        if let Some(i) = points.iter().position(|point| point.role == PointRole::Intent && point.uuid != uuid) {
            return Err(invalid_in(i, p::FLAGS, INTENT_ONLY, "the point that the intent names, or another role"));
        }
        if uuid.is_nil() {
            return Ok(None);
        }
        if durability == Durability::Process {
            return Err(invalid(h::INTENT, uuid, "zeros in a Process map"));
        }
        match points.iter().any(|point| point.uuid == uuid && point.has_regions()) {
            true => Ok(Some(Intent { point: uuid, unit })),
            false => Err(invalid(h::INTENT, uuid, "a point that has regions")),
        }
    }

    /// The armed list, which ends where what is in use does.
    fn runs(&self, geometry: &Geometry, (points, count): (usize, usize)) -> Result<WordRanges, HeaderProblem> {
        let start = point_at(points);
        let bytes = self.bytes.get(start..).unwrap_or_default();
        let (runs, end) = WordRanges::decode(bytes, count, geometry.words()).map_err(|bad| {
            let BadRun { index, at, found, expected } = bad;
            problem(ProblemClass::Invalid, format!("runs[{index}]"), start + at, found, expected)
        })?;
        if end != bytes.len() {
            let expected = format_args!("{}, the end of {count} runs", start + end);
            return Err(invalid(h::USED, self.bytes.len(), expected));
        }
        Ok(runs)
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
