//! The runtime page: what the processes of a session tell each other, word by word.
//!
//! Invariant kept here: a word of the page is named by a [`Word`], and there is none for what FORMAT.md does not name.

use crate::format::fields::{Field, runtime as f, slot};
use std::ops::Range;

/// A word of the runtime page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(usize);

impl Word {
    const fn of(field: Field) -> Word {
        assert!(field.size == 8 && field.offset.is_multiple_of(8));
        Word(field.offset / 8)
    }

    const fn in_slot(slot: u64, field: Field) -> Word {
        Word(Word::slot(slot).start + field.offset / 8)
    }

    const fn slot(slot: u64) -> Range<usize> {
        let start = (f::SLOTS.offset + slot as usize * slot::SIZE) / 8;
        start..start + slot::SIZE / 8
    }

    /// Which word of the page it is.
    pub(super) const fn index(self) -> usize {
        self.0
    }

    /// Where it is, in bytes from the start of the page.
    pub(crate) const fn offset(self) -> usize {
        self.0 * 8
    }
}

/// Both words of the nonce.
pub(crate) const NONCE: [Word; 2] = [Word(f::NONCE.offset / 8), Word(f::NONCE.offset / 8 + 1)];
pub(crate) const PUBLISHED: Word = Word::of(f::PUBLISHED);
pub(crate) const DEGRADED: Word = Word::of(f::DEGRADED);
pub(crate) const RESET_FIRST: Word = Word::of(f::RESET_FIRST);
pub(crate) const RESET_END: Word = Word::of(f::RESET_END);
pub(crate) const ATTEMPTED: Word = Word::of(f::ATTEMPTED);
pub(crate) const FLUSHING: Word = Word::of(f::FLUSHING);
pub(crate) const SHARED: Word = Word::of(f::SHARED);
pub(crate) const IMAGE: Word = Word::of(f::IMAGE);
pub(crate) const ADDING: Word = Word::of(f::ADDING);
pub(crate) const CHECKPOINT: Word = Word::of(f::CHECKPOINT);
pub(crate) const EPOCH: Word = Word::of(f::EPOCH);

/// A bit of `IMAGE`: at the close the recorded modification time counts again.
pub(crate) const IMAGE_EXACT: u64 = 1;
/// A bit of `IMAGE`: a process of the session has compared the image with what was recorded, and may write to it.
pub(crate) const IMAGE_TRACKED: u64 = 2;

/// The words of a slot.
pub(crate) fn slot(slot: u64) -> impl Iterator<Item = Word> {
    Word::slot(slot).map(Word)
}

/// Where a slot counts the writes under way that registered in an epoch of this parity: in one of these, by the thread.
pub(crate) fn in_flight(slot: u64, parity: u64) -> [Word; 3] {
    let even = parity.is_multiple_of(2);
    let fields = if even { [slot::EVEN, slot::EVEN_1, slot::EVEN_2] } else { [slot::ODD, slot::ODD_1, slot::ODD_2] };
    fields.map(|field| Word::in_slot(slot, field))
}

/// Which words the process of a slot waits to have armed: [`pack_wanted`] of them.
pub(crate) fn wanted(slot: u64) -> Word {
    Word::in_slot(slot, slot::WANTED)
}

/// Some words, or the first of them if they are very many, as `wanted` has them.
pub(crate) fn pack_wanted(words: &Range<u64>) -> u64 {
    words.start << WANTED_BITS | (words.end - words.start).min((1 << WANTED_BITS) - 1)
}

/// The words of `wanted` that a map with so many has. No process need have written what is there.
pub(crate) fn unpack_wanted(wanted: u64, words: u64) -> Range<u64> {
    let start = (wanted >> WANTED_BITS).min(words);
    start..(start + wanted % (1 << WANTED_BITS)).min(words)
}

const WANTED_BITS: u32 = 24;
const _: () = assert!(crate::MAX_BITS / 64 <= 1 << (64 - WANTED_BITS));

/// The flags of a slot.
pub(crate) fn slot_flags(slot: u64) -> Word {
    Word::in_slot(slot, slot::FLAGS)
}
