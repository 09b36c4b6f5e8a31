//! Which of the four header copies is the header.
//!
//! Invariants kept here: a copy of another map is never taken for this one's; nothing that a newer version may
//! have committed is passed over; and where two copies both have a claim, everything that either of
//! them calls armed is armed.

use super::{COPIES, Header, HeaderProblem, ProblemClass, Uuid, WordRanges};
use std::fmt;

/// The header of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSelection<'a> {
    /// The copy that it was found in: the first one, if several are the same.
    pub copy: usize,
    /// What that copy says.
    pub header: &'a Header,
    /// The words to treat as armed: the header's list. Where another copy has the same sequence number
    /// and a different content: both lists if they differ in nothing else (which can be more than a header
    /// holds, see [`WordRanges::coarsen`]), and all words if they do. Whoever opens such a file for writing commits this
    /// list, with a new sequence number, to the other pair before anything else.
    pub armed: WordRanges,
    /// Copies that do not agree with it, other than by being older or invalid. Empty unless something went wrong.
    pub disagreements: Vec<Disagreement>,
}

/// A valid copy that should not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disagreement {
    /// A copy that belongs to another map.
    Foreign {
        /// The copy.
        copy: usize,
        /// The map that it belongs to.
        uuid: Uuid,
    },
    /// A copy with the header's sequence number and another content.
    Conflicting {
        /// The copy.
        copy: usize,
        /// The sequence number of both.
        sequence: u64,
    },
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disagreement::Foreign { copy, uuid } => write!(f, "header copy {copy} belongs to another map, {uuid}"),
            Disagreement::Conflicting { copy, sequence } => {
                write!(f, "header copy {copy} is a different commit with the same sequence number, {sequence}")
            }
        }
    }
}

/// Why no copy is the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoHeader<'a> {
    /// No copy is valid. This is the most telling problem: a newer version before nonsense, rot, somebody
    /// else's file and zeros.
    Invalid {
        /// The copy that has it.
        copy: usize,
        /// What is wrong.
        problem: &'a HeaderProblem,
    },
    /// A newer version has committed something that no valid copy is newer than.
    Newer {
        /// The copy that says so.
        copy: usize,
        /// What is not known here.
        problem: &'a HeaderProblem,
    },
    /// As many copies belong to one map as to another.
    TwoMaps {
        /// One of them.
        first: Uuid,
        /// The other.
        second: Uuid,
    },
}

impl fmt::Display for NoHeader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoHeader::Invalid { copy, problem } => write!(f, "no valid header; copy {copy}: {problem}"),
            NoHeader::Newer { copy, problem } => write!(f, "header copy {copy} is newer: {problem}"),
            NoHeader::TwoMaps { first, second } => {
                write!(f, "as many header copies belong to map {first} as to map {second}")
            }
        }
    }
}

impl std::error::Error for NoHeader<'_> {}

/// The header among the four copies of a file, in the order that they have there.
///
/// The map is the one that most copies belong to (of those whose checksum holds); of its copies, the one with
/// the highest sequence number is the header. If that is a newer version's, it is not passed over.
///
/// # Errors
/// No valid copy; the newest is a newer version's; two maps with equally many copies.
pub fn select(copies: &[Result<Header, HeaderProblem>; COPIES]) -> Result<HeaderSelection<'_>, NoHeader<'_>> {
    // Map and sequence number of every copy that has a say: the valid ones, and those of newer versions.
    let claims: [Option<(Uuid, u64)>; COPIES] = std::array::from_fn(|i| match &copies[i] {
        Ok(header) => Some((header.uuid, header.sequence)),
        Err(problem) if step!(RefuseNewer => problem.is_newer()) => problem.identity,
        Err(_) => None,
    });
    let votes = |uuid: Uuid| claims.iter().flatten().filter(|claim| claim.0 == uuid).count();
    let Some(&(uuid, _)) = claims.iter().flatten().max_by_key(|claim| votes(claim.0)) else {
        return Err(most_telling(copies));
    };
    let tie = |claim: &&(Uuid, u64)| claim.0 != uuid && step!(RefuseTwoMaps => votes(claim.0) == votes(uuid));
    if let Some(&(other, _)) = claims.iter().flatten().find(tie) {
        return Err(NoHeader::TwoMaps { first: uuid.min(other), second: uuid.max(other) });
    }
    let newest = claims.iter().flatten().filter(|claim| claim.0 == uuid).map(|claim| claim.1).max().unwrap_or(0);
    let mut choice: Option<HeaderSelection<'_>> = None;
    let mut disagreements = Vec::new();
    for (copy, (content, claim)) in copies.iter().zip(claims).enumerate() {
        match (content, claim) {
            (_, None) => {}
            (_, Some((foreign, _))) if foreign != uuid => {
                disagreements.push(Disagreement::Foreign { copy, uuid: foreign });
            }
            (_, Some((_, sequence))) if sequence < newest => {}
            (Err(problem), _) => step!(RefuseNewer => return Err(NoHeader::Newer { copy, problem })),
            (Ok(header), Some((_, sequence))) => match &mut choice {
                None => {
                    choice =
                        Some(HeaderSelection { copy, header, armed: header.runs.clone(), disagreements: Vec::new() });
                }
                Some(chosen) if chosen.header == header => {}
                Some(chosen) => {
                    disagreements.push(Disagreement::Conflicting { copy, sequence });
                    step!(UniteConflicting => join(&mut chosen.armed, chosen.header, header));
                }
            },
        }
    }
    match choice {
        Some(choice) => Ok(HeaderSelection { disagreements, ..choice }),
        None => Err(most_telling(copies)),
    }
}

/// Adds to `armed` what a conflicting copy calls for.
fn join(armed: &mut WordRanges, header: &Header, other: &Header) {
    let as_other = Header { runs: other.runs.clone(), ..header.clone() };
    if as_other == *other {
        armed.union(&other.runs);
    } else {
        armed.insert(0..header.geometry.words());
    }
}

/// The problem to report when no copy is valid.
fn most_telling(copies: &[Result<Header, HeaderProblem>; COPIES]) -> NoHeader<'_> {
    let rank = |class| match class {
        ProblemClass::Feature | ProblemClass::Version => 4,
        ProblemClass::Invalid => 3,
        ProblemClass::Checksum => 2,
        ProblemClass::NotDirtymap => 1,
        ProblemClass::Blank => 0,
    };
    const NOTHING: &HeaderProblem = &HeaderProblem {
        class: ProblemClass::Blank,
        place: String::new(),
        offset: 0,
        found: String::new(),
        expected: String::new(),
        identity: None,
    };
    let (copy, problem) = copies
        .iter()
        .enumerate()
        .filter_map(|(copy, content)| content.as_ref().err().map(|problem| (copy, problem)))
        .rev() // the first of equals
        .max_by_key(|(_, problem)| rank(problem.class))
        .unwrap_or((0, NOTHING));
    NoHeader::Invalid { copy, problem }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Intent;
    use super::super::codec::{crc32, put_u32, put_u64};
    use super::super::fields::header as h;
    use super::super::header_tests::rich;
    use super::*;

    type Copies = [Result<Header, HeaderProblem>; COPIES];

    fn with(sequence: u64) -> Result<Header, HeaderProblem> {
        Ok(Header { sequence, ..rich() })
    }

    fn foreign(sequence: u64) -> Result<Header, HeaderProblem> {
        Ok(Header { sequence, uuid: Uuid([8; 16]), ..rich() })
    }

    fn bad(edit: impl FnOnce(&mut Vec<u8>), sealed: bool) -> Result<Header, HeaderProblem> {
        let mut bytes = with(50).unwrap().encode().unwrap();
        edit(&mut bytes);
        if sealed {
            put_u32(&mut bytes, h::CRC.offset, 0);
            let crc = crc32(&[&bytes]);
            put_u32(&mut bytes, h::CRC.offset, crc);
        }
        Header::parse(&bytes)
    }

    fn blank() -> Result<Header, HeaderProblem> {
        Header::parse(&[])
    }

    fn torn() -> Result<Header, HeaderProblem> {
        bad(|bytes| bytes[600] ^= 1, false)
    }

    fn newer(sequence: u64) -> Result<Header, HeaderProblem> {
        bad(
            |bytes| {
                put_u64(bytes, h::SEQUENCE.offset, sequence);
                put_u64(bytes, h::INCOMPATIBLE.offset, 1);
            },
            true,
        )
    }

    #[track_caller]
    fn chosen(copies: &Copies, copy: usize, sequence: u64) -> HeaderSelection<'_> {
        let choice = select(copies).unwrap();
        assert_eq!((choice.copy, choice.header.sequence), (copy, sequence));
        choice
    }

    #[track_caller]
    fn plain(copies: &Copies, copy: usize, sequence: u64) {
        let choice = chosen(copies, copy, sequence);
        assert!(choice.disagreements.is_empty());
        assert_eq!(choice.armed, choice.header.runs);
    }

    #[test]
    fn the_highest_sequence_number_is_the_header() {
        plain(&[with(8), with(9), with(8), with(9)], 1, 9);
        plain(&[with(10), with(9), with(10), with(9)], 0, 10);
        plain(&[with(8), with(7), with(8), with(9)], 3, 9);
        plain(&[with(1), with(1), with(1), with(1)], 0, 1);
    }

    #[test]
    fn one_valid_copy_is_enough_wherever_it_is() {
        for copy in 0..COPIES {
            let mut copies = [torn(), blank(), torn(), bad(|bytes| bytes[0] = 0, false)];
            copies[copy] = with(5);
            plain(&copies, copy, 5);
        }
    }

    #[test]
    fn without_a_valid_copy_the_most_telling_problem_is_reported() {
        let told = |copies: &Copies| match select(copies) {
            Err(NoHeader::Invalid { copy, problem }) => (copy, problem.class),
            other => panic!("{other:?}"),
        };
        let other = || bad(|bytes| bytes[0] = 0, false);
        let nonsense = || bad(|bytes| bytes[h::STATE.offset] = 9, true);
        assert_eq!(told(&[blank(), blank(), blank(), blank()]), (0, ProblemClass::Blank));
        assert_eq!(told(&[blank(), other(), other(), blank()]), (1, ProblemClass::NotDirtymap));
        assert_eq!(told(&[blank(), other(), torn(), blank()]), (2, ProblemClass::Checksum));
        assert_eq!(told(&[blank(), other(), torn(), nonsense()]), (3, ProblemClass::Invalid));
        // Rot, whatever version it says.
        let version = || bad(|bytes| bytes[h::FORMAT_VERSION.offset] = 9, false);
        assert_eq!(told(&[blank(), other(), version(), torn()]), (2, ProblemClass::Checksum));
    }

    #[test]
    pub(crate) fn what_a_newer_version_committed_is_not_passed_over() {
        for copies in [
            [with(9), newer(10), with(9), newer(10)],
            [with(9), newer(9), with(9), torn()],
            [newer(2), blank(), blank(), blank()],
        ] {
            assert!(
                matches!(select(&copies), Err(NoHeader::Newer { problem, .. }) if problem.is_newer()),
                "{copies:?}"
            );
        }
        plain(&[with(9), newer(8), with(9), newer(8)], 0, 9);
        // A flipped bit in the version of one copy does not take the map away.
        plain(&[with(9), bad(|bytes| bytes[h::FORMAT_VERSION.offset] = 3, false), with(9), with(8)], 0, 9);
        let certain = || bad(|bytes| bytes[h::FORMAT_VERSION.offset] = 2, true);
        assert!(matches!(select(&[with(49), certain(), with(49), certain()]), Err(NoHeader::Newer { copy: 1, .. })));
        plain(&[with(51), certain(), with(51), certain()], 0, 51);
    }

    #[test]
    fn a_misplaced_copy_of_another_map_is_outvoted() {
        let copies = [with(8), foreign(99), with(8), with(9)];
        let choice = chosen(&copies, 3, 9);
        assert_eq!(choice.disagreements, [Disagreement::Foreign { copy: 1, uuid: Uuid([8; 16]) }]);
        let copies = [torn(), foreign(99), with(8), with(7)];
        chosen(&copies, 2, 8);
    }

    #[test]
    pub(crate) fn between_two_maps_with_equally_many_copies_nobody_can_tell() {
        let two = NoHeader::TwoMaps { first: Uuid([7; 16]), second: Uuid([8; 16]) };
        assert_eq!(select(&[with(8), foreign(99), with(8), foreign(99)]), Err(two.clone()));
        assert_eq!(select(&[foreign(1), torn(), with(8), blank()]), Err(two));
    }

    #[test]
    pub(crate) fn conflicting_copies_that_differ_in_their_lists_arm_both() {
        let mut other = with(9).unwrap();
        other.runs = [3..4, 100..110].into_iter().collect();
        let copies = [with(8), with(9), with(8), Ok(other.clone())];
        let choice = chosen(&copies, 1, 9);
        assert_eq!(choice.disagreements, [Disagreement::Conflicting { copy: 3, sequence: 9 }]);
        let mut both = rich().runs;
        both.union(&other.runs);
        assert_eq!(choice.armed, both);
    }

    #[test]
    fn conflicting_copies_that_differ_in_more_arm_everything() {
        let differences: [fn(&mut Header); 3] = [
            |other| other.dirt_time += 1,
            |other| other.intent = None,
            |other| other.intent = other.intent.map(|intent| Intent { unit: 5, ..intent }),
        ];
        for differ in differences {
            let mut other = with(9).unwrap();
            differ(&mut other);
            other.runs = WordRanges::new();
            let copies = [with(9), torn(), Ok(other), with(9)];
            let choice = chosen(&copies, 0, 9);
            assert_eq!(choice.disagreements, [Disagreement::Conflicting { copy: 2, sequence: 9 }]);
            assert_eq!(choice.armed, WordRanges::one(0..choice.header.geometry.words()));
        }
    }
}
