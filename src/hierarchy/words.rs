//! Arrays of `u64` as the level algorithms see them, in two flavours: plain (exclusive, for
//! [`Bitmap`](crate::Bitmap)) and atomic (shared between threads and processes, for
//! [`DirtyMap`](crate::DirtyMap)).
//!
//! Invariant kept here: every atomic access is sequentially consistent, except those of [`store_unseen`] and of those who only
//! look at what others change (`session/watch.rs`). The crash and sharing protocol is proved for that order and for no weaker one.

pub(crate) use crate::sync::AtomicU64;
use crate::sys::ReadWords;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// An array of words that can be read.
pub trait Words {
    /// How many words there are.
    fn len(&self) -> usize;
    /// The word at `i`, which must be less than `len()`.
    fn load(&self, i: usize) -> u64;
    /// All of them, where nobody else can change them.
    #[inline]
    fn plain(&self) -> Option<&[u64]> {
        None
    }
}

/// An array of words that can be changed.
pub trait WordsMut: Words {
    /// Replaces word `i`.
    fn store(&mut self, i: usize, value: u64);
    /// Sets the bits of `mask` in word `i`; returns the word as it was.
    fn or(&mut self, i: usize, mask: u64) -> u64;
    /// Keeps only the bits of `mask` in word `i`; returns the word as it was.
    fn and(&mut self, i: usize, mask: u64) -> u64;
}

impl Words for Vec<u64> {
    #[inline]
    fn len(&self) -> usize {
        Vec::len(self)
    }
    #[inline]
    fn load(&self, i: usize) -> u64 {
        self[i]
    }
    #[inline]
    fn plain(&self) -> Option<&[u64]> {
        Some(self)
    }
}

impl WordsMut for Vec<u64> {
    #[inline]
    fn store(&mut self, i: usize, value: u64) {
        self[i] = value;
    }
    #[inline]
    fn or(&mut self, i: usize, mask: u64) -> u64 {
        let old = self[i];
        self[i] = old | mask;
        old
    }
    #[inline]
    fn and(&mut self, i: usize, mask: u64) -> u64 {
        let old = self[i];
        self[i] = old & mask;
        old
    }
}

/// Stores words of a map that is being opened, from the first of `to` on. Nobody relies on them before the nonce of the new
/// session is stored, or the map is handed to the caller, and that orders them. So each of them need not wait for the
/// one before it, which is what would take most of the time of opening a full map.
///
/// Who still watches the session before, whose processes are dead, may see one, but finds that session's nonce gone when
/// he looks at it afterwards: each word was made zero after the nonce was, by the kernel or by a sequentially consistent
/// store, and who sees what was stored over that zero comes later than both.
#[inline]
pub(crate) fn store_unseen(to: &[AtomicU64], words: impl IntoIterator<Item = u64>) {
    to.iter().zip(words).for_each(|(to, word)| to.store(word, Relaxed));
}

/// Words that several threads and processes may change at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'a>(pub(crate) &'a [AtomicU64]);

impl Words for Shared<'_> {
    #[inline]
    fn len(&self) -> usize {
        self.0.len()
    }
    #[inline]
    fn load(&self, i: usize) -> u64 {
        self.0[i].load(SeqCst)
    }
}

impl WordsMut for Shared<'_> {
    #[inline]
    fn store(&mut self, i: usize, value: u64) {
        self.0[i].store(value, SeqCst);
    }
    /// A read-modify-write only when it would change something: a hot word stays shared between
    /// caches. Reading the bits as set orders like setting them: both are sequentially consistent.
    #[inline]
    fn or(&mut self, i: usize, mask: u64) -> u64 {
        let old = self.0[i].load(SeqCst);
        if old & mask == mask { old } else { self.0[i].fetch_or(mask, SeqCst) }
    }
    #[inline]
    fn and(&mut self, i: usize, mask: u64) -> u64 {
        let old = self.0[i].load(SeqCst);
        if old & !mask == 0 { old } else { self.0[i].fetch_and(mask, SeqCst) }
    }
}

impl Words for &ReadWords {
    #[inline]
    fn len(&self) -> usize {
        ReadWords::len(self)
    }
    #[inline]
    fn load(&self, i: usize) -> u64 {
        ReadWords::load(self, i)
    }
}

/// Words that a search or a loop over many of them looks at. Only tests count them.
#[inline(always)]
pub(super) fn looked_at(words: u64) {
    #[cfg(test)]
    LOOKED_AT.set(LOOKED_AT.get() + words);
    #[cfg(not(test))]
    let _ = words;
}

#[cfg(test)]
thread_local! {
    static LOOKED_AT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Words looked at while `f` runs, and what it answers.
#[cfg(test)]
pub(crate) fn counted<R>(f: impl FnOnce() -> R) -> (u64, R) {
    let before = LOOKED_AT.get();
    let answer = f();
    (LOOKED_AT.get() - before, answer)
}
