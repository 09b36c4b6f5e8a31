//! A header becomes bytes.
//!
//! Invariant kept here: [`Header::encode`] yields nothing that [`Header::parse`] would not take, and what it yields is parsed to
//! the same header.

use super::codec::{crc32, put, put_i64, put_u32, put_u64};
use super::fields::{Field, header as h, point as p, point_at};
use super::header::Header;
use super::layout::Layout;
use super::point::Point;
use super::problem::{HeaderProblem, invalid};
use super::sizes::{MAGIC, MAX_LABEL, MAX_LIST, MAX_POINT_NAME, MAX_POINTS, VERSION};
use crate::geometry::LEVELS;

impl Header {
    /// Exactly the bytes in use, [`used`](Self::used) many. What follows them in the copy means nothing. Unknown
    /// compatible features and reserved bytes are as they were parsed.
    ///
    /// # Errors
    /// The first rule of the format that this header breaks: nothing that [`parse`](Self::parse) would refuse is
    /// ever encoded.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderProblem> {
        self.fits()?;
        let mut out = Vec::with_capacity(self.used());
        out.resize(point_at(self.points.len()), 0);
        self.runs.encode(&mut out);
        let used = out.len() as u32;
        let b = out.as_mut_slice();
        put(b, h::MAGIC.offset, &MAGIC);
        put_u32(b, h::FORMAT_VERSION.offset, VERSION);
        put_u32(b, h::USED.offset, used);
        put_u64(b, h::COMPATIBLE.offset, self.compatible);
        put_u64(b, h::RO_COMPATIBLE.offset, self.ro_compatible);
        put_u64(b, h::INCOMPATIBLE.offset, self.incompatible);
        put(b, h::UUID.offset, &self.uuid.0);
        put_u64(b, h::SEQUENCE.offset, self.sequence);
        put(b, h::NONCE.offset, &self.nonce.0);
        put_u32(b, h::STATE.offset, self.state as u32);
        put_u32(b, h::DURABILITY.offset, self.durability as u32);
        self.put_shape(b);
        self.put_backups(b);
        self.put_history(b);
        put_u32(b, h::LABEL_LENGTH.offset, self.label.len() as u32);
        put(b, h::LABEL.offset, self.label.as_bytes());
        put_u32(b, h::POINT_COUNT.offset, self.points.len() as u32);
        if let Some(intent) = &self.intent {
            put(b, h::INTENT.offset, &intent.point.0);
            put_u32(b, h::INTENT_UNIT.offset, intent.unit);
        }
        put_u32(b, h::RUN_COUNT.offset, self.runs.len() as u32);
        self.reserved.first.put(b, h::RESERVED_1.offset);
        self.reserved.second.put(b, h::RESERVED_2.offset);
        for (i, point) in self.points.iter().enumerate() {
            encode_point(point, b, point_at(i));
        }
        let crc = crc32(&[b]);
        put_u32(b, h::CRC.offset, crc);
        // What goes to the disk is read back before it does.
        let back = Header::parse(&out)?;
        debug_assert_eq!(&back, self, "encoding changed the header");
        Ok(out)
    }

    /// Length, levels and regions.
    fn put_shape(&self, b: &mut [u8]) {
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
    }

    /// What checkpoints and backups left.
    fn put_backups(&self, b: &mut [u8]) {
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
    }

    /// When and where the map was used.
    fn put_history(&self, b: &mut [u8]) {
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
    }

    /// What cannot even be put into bytes.
    fn fits(&self) -> Result<(), HeaderProblem> {
        let limit = |field: Field, found: usize, max: usize| {
            if found <= max { Ok(()) } else { Err(invalid(field, found, format_args!("at most {max}"))) }
        };
        limit(h::USED, self.runs.encoded_len(), MAX_LIST)?;
        let (words, end) = (self.geometry.words(), self.runs.as_slice().last().map_or(0, |run| run.end()));
        if end > words {
            return Err(invalid(h::RUN_COUNT, format_args!("words up to {end}"), format_args!("words below {words}")));
        }
        limit(h::POINT_COUNT, self.points.len(), MAX_POINTS)?;
        limit(h::LABEL_LENGTH, self.label.len(), MAX_LABEL)?;
        self.points.iter().try_for_each(|point| limit(p::NAME_LENGTH, point.name.len(), MAX_POINT_NAME))
    }
}

fn encode_point(point: &Point, b: &mut [u8], at: usize) {
    put(b, at + p::UUID.offset, &point.uuid.0);
    put_i64(b, at + p::TIME.offset, point.time);
    put_u32(b, at + p::FLAGS.offset, point.role.flags());
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
