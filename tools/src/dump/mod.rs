//! The text form of a map: a line per fact, for people, `diff` and `undump`; and reading the JSON form. docs/cli.md, in
//! code.
//!
//! Invariants kept here: everything is a pure function of its arguments. Nothing panics whatever the text is, memory is
//! bounded by a line and not by the text, a text is no longer than what it says, and what is written can be read. An area
//! is handed out only when everything in front of it was found right.

mod json;
mod line;
mod parse;
#[cfg(test)]
mod tests;

pub use parse::{Error, Failed, Head, Parser, read};

use dirtymap::format::{
    self, COPIES, CheckpointState, Disagreement, Durability, Header, HeaderProblem, HeaderSelection, PointRole, Stamp,
    StampKind, State,
};
use std::fmt;
use std::io::{self, Write};
use std::ops::Range;

/// Version of the text form.
pub const VERSION: u64 = 1;
/// The first word of the text.
const MAGIC: &str = "dirtymap-dump";
/// What is said of a first line without it.
const NO_DUMP: &str = "`dirtymap-dump 1`: this is no dump of a map";

/// Characters at most of what is said of an invalid header copy.
const MOST_WHY: usize = 300;

/// What a field's value looks like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Without a sign, and at most so large.
    Number(u64),
    /// Seconds or nanoseconds since 1970.
    Time,
    /// One of these.
    Word(&'static [&'static str]),
    /// 16 bytes in hexadecimal digits, with hyphens.
    Uuid,
    /// So many numbers.
    Numbers(usize),
    /// `none`, or an image as it was.
    Stamp,
    /// In quotation marks.
    Text,
}

const ANY: Kind = Kind::Number(u64::MAX);
const STATES: [&str; 2] = ["CLEAN", "OPEN"];
const DURABILITIES: [&str; 2] = ["PowerLoss", "Process"];
const CHECKPOINT_STATES: [&str; 4] = ["NORMAL", "FREEZING", "FROZEN", "ABORTING"];

/// Fields that make the map, and so have to be there: the first ones of [`FIELDS`].
const NEEDED: usize = 4;

/// The fields in their order, by the names that FORMAT.md gives them.
const FIELDS: [(&str, Kind); 46] = [
    ("len", Kind::Number(dirtymap::MAX_LEN)),
    ("granularity", Kind::Number(dirtymap::MAX_GRANULARITY as u64)),
    ("durability", Kind::Word(&DURABILITIES)),
    ("label", Kind::Text),
    ("format_version", ANY),
    ("compatible", ANY),
    ("ro_compatible", ANY),
    ("incompatible", ANY),
    ("uuid", Kind::Uuid),
    ("sequence", ANY),
    ("nonce", Kind::Uuid),
    ("state", Kind::Word(&STATES)),
    ("level_words", Kind::Numbers(dirtymap::LEVELS)),
    ("table_offset", ANY),
    ("table_length", ANY),
    ("bottom_offset", ANY),
    ("bottom_length", ANY),
    ("volatile_offset", ANY),
    ("volatile_length", ANY),
    ("volatile_layout", ANY),
    ("file_length", ANY),
    ("checkpoint_state", Kind::Word(&CHECKPOINT_STATES)),
    ("checkpoint_uuid", Kind::Uuid),
    ("committed_uuid", Kind::Uuid),
    ("committed_time", Kind::Time),
    ("image", Kind::Stamp),
    ("target", Kind::Stamp),
    ("begun", Kind::Stamp),
    ("backup_time", Kind::Time),
    ("dirt_reasons", ANY),
    ("dirt_time", Kind::Time),
    ("created", Kind::Time),
    ("last_clean", Kind::Time),
    ("last_open", Kind::Time),
    ("clean_dirty_bits", ANY),
    ("boot_id", Kind::Uuid),
    ("session_device", ANY),
    ("session_inode", ANY),
    ("session_mount", ANY),
    ("session_flags", ANY),
    ("session_birth", Kind::Time),
    ("audited", ANY),
    ("audit_missed", ANY),
    ("audit_time", Kind::Time),
    ("intent", Kind::Uuid),
    ("intent_unit", Kind::Number(format::MAX_UNIT as u64)),
];

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(u64),
    Time(i64),
    Word(&'static str),
    Uuid(format::Uuid),
    Numbers(Vec<u64>),
    Stamp(Option<Stamp>),
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(n) => write!(f, "{n}"),
            Value::Time(t) => write!(f, "{t}"),
            Value::Word(word) => f.write_str(word),
            Value::Uuid(uuid) => write!(f, "{uuid}"),
            Value::Numbers(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
                f.write_str(&numbers.join(" "))
            }
            Value::Stamp(None) => f.write_str("none"),
            Value::Stamp(Some(s)) => {
                let (kind, exact) = (stamp_kind(s), if s.exact { "exact" } else { "inexact" });
                let Stamp { size, inode, device, birth, disk_sequence, boot_id, .. } = s;
                write!(f, "{kind} {size} {} {} ", s.mtime_seconds, s.mtime_nanos)?;
                write!(f, "{} {} {inode} {device} {birth} ", s.ctime_seconds, s.ctime_nanos)?;
                let (filesystem, identity) = (format::Uuid(s.filesystem), format::Uuid(s.identity));
                write!(f, "{filesystem} {identity} {disk_sequence} {boot_id} {exact}")
            }
            Value::Text(text) => write!(f, "\"{}\"", text.escape_debug()),
        }
    }
}

/// The word for what a stamp is of.
pub fn stamp_kind(stamp: &Stamp) -> &'static str {
    match stamp.kind {
        StampKind::File => "file",
        StampKind::BlockDevice => "block-device",
    }
}

/// The word for what a map survives.
fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::PowerLoss => DURABILITIES[0],
        Durability::Process => DURABILITIES[1],
    }
}

/// The fields of a header with their values, in order.
pub fn fields(h: &Header) -> impl Iterator<Item = (&'static str, Value)> {
    let (layout, session) = (&h.layout, &h.session);
    let length = |r: &Range<u64>| Value::Number(r.end - r.start);
    let values: [Value; FIELDS.len()] = [
        Value::Number(h.geometry.len()),
        Value::Number(h.geometry.granularity().into()),
        Value::Word(durability(h.durability)),
        Value::Text(h.label.clone()),
        Value::Number(format::VERSION.into()),
        Value::Number(h.compatible),
        Value::Number(h.ro_compatible),
        Value::Number(h.incompatible),
        Value::Uuid(h.uuid),
        Value::Number(h.sequence),
        Value::Uuid(h.nonce),
        Value::Word(match h.state {
            State::Clean => STATES[0],
            State::Open => STATES[1],
        }),
        Value::Numbers(h.geometry.level_words().into()),
        Value::Number(layout.table.start),
        length(&layout.table),
        Value::Number(layout.bottom.start),
        length(&layout.bottom),
        Value::Number(layout.volatile.start),
        length(&layout.volatile),
        Value::Number(h.volatile_layout.into()),
        Value::Number(h.file_length()),
        Value::Word(match h.checkpoint_state {
            CheckpointState::Normal => CHECKPOINT_STATES[0],
            CheckpointState::Freezing => CHECKPOINT_STATES[1],
            CheckpointState::Frozen => CHECKPOINT_STATES[2],
            CheckpointState::Aborting => CHECKPOINT_STATES[3],
        }),
        Value::Uuid(h.checkpoint_uuid),
        Value::Uuid(h.committed_uuid),
        Value::Time(h.committed_time),
        Value::Stamp(h.image),
        Value::Stamp(h.target),
        Value::Stamp(h.begun),
        Value::Time(h.backup_time),
        Value::Number(h.dirt_reasons.0.into()),
        Value::Time(h.dirt_time),
        Value::Time(h.created),
        Value::Time(h.last_clean),
        Value::Time(h.last_open),
        Value::Number(h.clean_dirty_bits),
        Value::Uuid(session.boot_id),
        Value::Number(session.device),
        Value::Number(session.inode),
        Value::Number(session.mount),
        Value::Number(session.flags.into()),
        Value::Time(session.birth),
        Value::Number(h.audited),
        Value::Number(h.audit_missed),
        Value::Time(h.audit_time),
        Value::Uuid(h.intent.map_or(format::Uuid::NIL, |intent| intent.point)),
        Value::Number(h.intent.map_or(0, |intent| intent.unit.into())),
    ];
    FIELDS.iter().map(|(name, _)| *name).zip(values)
}

/// What a header copy turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyIs {
    /// The map's: the header, the same again, or an older commit. Its sequence number.
    Valid(u64),
    /// Another commit with the header's sequence number.
    Conflicting(u64),
    /// Another map's, with this identity.
    Foreign(format::Uuid),
    /// No header; why.
    Invalid(String),
}

/// The copies of a file, in order.
pub fn copies(copies: &[Result<Header, HeaderProblem>; COPIES], choice: &HeaderSelection<'_>) -> [CopyIs; COPIES] {
    std::array::from_fn(|i| {
        let disagrees = choice.disagreements.iter().find(|d| match **d {
            Disagreement::Foreign { copy, .. } | Disagreement::Conflicting { copy, .. } => copy == i,
        });
        match (&copies[i], disagrees) {
            (_, Some(Disagreement::Foreign { uuid, .. })) => CopyIs::Foreign(*uuid),
            (_, Some(Disagreement::Conflicting { sequence, .. })) => CopyIs::Conflicting(*sequence),
            (Ok(header), None) => CopyIs::Valid(header.sequence),
            (Err(problem), None) => CopyIs::Invalid(problem.to_string().chars().take(MOST_WHY).collect()),
        }
    })
}

/// What a point can be.
const ROLES: [PointRole; 4] = [PointRole::Outstanding, PointRole::Snapshot, PointRole::Kept, PointRole::Intent];

/// The word for the role of a point.
pub fn role(role: PointRole) -> &'static str {
    match role {
        PointRole::Outstanding => "outstanding",
        PointRole::Snapshot => "snapshot",
        PointRole::Kept => "kept",
        PointRole::Intent => "intent",
    }
}

/// Writes everything in front of the areas.
pub fn write_head(out: &mut dyn Write, file: &[CopyIs; COPIES], choice: &HeaderSelection<'_>) -> io::Result<()> {
    writeln!(out, "{MAGIC} {VERSION}")?;
    for (name, value) in fields(choice.header) {
        writeln!(out, "{name} {value}")?;
    }
    for (i, copy) in file.iter().enumerate() {
        match copy {
            CopyIs::Valid(sequence) => writeln!(out, "copy {i} valid {sequence}")?,
            CopyIs::Conflicting(sequence) => writeln!(out, "copy {i} rival {sequence}")?,
            CopyIs::Foreign(uuid) => writeln!(out, "copy {i} foreign {uuid}")?,
            CopyIs::Invalid(why) => writeln!(out, "copy {i} invalid \"{}\"", why.escape_debug())?,
        }
    }
    for p in &choice.header.points {
        let (uuid, time, role, name) = (p.uuid, p.time, role(p.role), p.name.escape_debug());
        let (table, bottom, granules, reasons) = (p.table_offset, p.bottom_offset, p.granules, p.reasons.0);
        let target = Value::Stamp(p.target);
        writeln!(out, "point {uuid} {time} {role} {table} {bottom} {granules} {reasons} {target} \"{name}\"")?;
    }
    for run in choice.armed.iter() {
        writeln!(out, "armed {} {}", run.first, run.count)?;
    }
    Ok(())
}

/// Dirty items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Whole granules, or up to the end of the map.
    pub items: Range<u64>,
    /// Dirty only because nobody knows better.
    pub assumed: bool,
}

/// Writes an area.
pub fn write_area(out: &mut dyn Write, area: &Area) -> io::Result<()> {
    let word = if area.assumed { "assumed" } else { "dirty" };
    writeln!(out, "{word} {} {}", area.items.start, area.items.end - area.items.start)
}

/// Writes the end, after so many areas.
pub fn write_end(out: &mut dyn Write, areas: u64) -> io::Result<()> {
    writeln!(out, "end {areas}")
}
