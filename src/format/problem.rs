//! What can be wrong with a header copy.
//!
//! Invariant kept here: a problem says where, what was found and what was expected, and its class tells apart
//! what a caller must tell apart: somebody else's file, rot, a newer version, and nonsense.

use super::fields::{Field, point_at};
use super::values::Uuid;
use std::fmt;

/// What kind of trouble a header copy is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemClass {
    /// Nothing but zeros: never written, or zeroed.
    Blank,
    /// Something else begins here.
    NotDirtymap,
    /// The checksum does not hold: torn, rotten, or cut short.
    Checksum,
    /// A newer version of the format, whose checksum holds.
    Version,
    /// A feature that must not be ignored and is not known.
    Feature,
    /// The checksum holds, and the content cannot be. A defect of the writer, or made by hand.
    Invalid,
}

/// What is wrong with a header copy: the first rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderProblem {
    /// What kind of trouble.
    pub class: ProblemClass,
    /// The field, for instance `points[2].name`.
    pub place: String,
    /// Its first byte within the copy.
    pub offset: usize,
    /// What it holds.
    pub found: String,
    /// What it should hold.
    pub expected: String,
    /// Map and sequence number, where the checksum holds.
    pub identity: Option<(Uuid, u64)>,
}

impl HeaderProblem {
    /// Whether the copy was written by a newer version, so that what it says may not be passed over.
    pub fn is_newer(&self) -> bool {
        matches!(self.class, ProblemClass::Version | ProblemClass::Feature)
    }
}

impl fmt::Display for HeaderProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HeaderProblem { place, offset, found, expected, .. } = self;
        write!(f, "{place} (byte {offset}): found {found}, expected {expected}")
    }
}

impl std::error::Error for HeaderProblem {}

/// A field of the header that breaks a rule.
pub(super) fn invalid(field: Field, found: impl fmt::Display, expected: impl fmt::Display) -> HeaderProblem {
    problem(ProblemClass::Invalid, field.name.into(), field.offset, found, expected)
}

/// A field of a point that breaks a rule.
pub(super) fn invalid_in(
    i: usize,
    field: Field,
    found: impl fmt::Display,
    expected: impl fmt::Display,
) -> HeaderProblem {
    let place = format!("points[{i}].{}", field.name);
    problem(ProblemClass::Invalid, place, point_at(i) + field.offset, found, expected)
}

pub(super) fn problem(
    class: ProblemClass,
    place: String,
    offset: usize,
    found: impl fmt::Display,
    expected: impl fmt::Display,
) -> HeaderProblem {
    HeaderProblem { class, place, offset, found: found.to_string(), expected: expected.to_string(), identity: None }
}
