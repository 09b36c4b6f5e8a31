//! Zeroed memory that may be refused.
//!
//! Invariant kept here: running out of memory is an answer (`None`) and never an abort, and words that
//! nobody wrote cost no memory: they come as untouched zero pages from the operating system.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};

/// A vector of `n` zero words, or `None` if the memory cannot be had.
///
/// `vec![0; n]` would abort the process when refused; `try_reserve` and `resize` would touch every page.
pub(crate) fn zeroed_words(n: usize) -> Option<Vec<u64>> {
    if n == 0 {
        return Some(Vec::new());
    }
    let layout = Layout::array::<u64>(n).ok()?;
    // SAFETY: the layout's size is not zero, because n is not.
    let words = unsafe { alloc_zeroed(layout) }.cast::<u64>();
    if words.is_null() {
        return None;
    }
    // SAFETY: the pointer comes from the global allocator with exactly the layout of n words, which is
    // what a vector of capacity n frees; all n words are initialised, for zero is a valid u64.
    Some(unsafe { Vec::from_raw_parts(words, n, n) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_zero() {
        for n in [0, 1, 2, 1000] {
            let words = zeroed_words(n).unwrap();
            assert_eq!(words.len(), n);
            assert!(words.iter().all(|&w| w == 0));
        }
    }

    #[test]
    fn too_much_is_an_answer() {
        assert!(zeroed_words(usize::MAX).is_none());
        assert!(zeroed_words(usize::MAX / 16).is_none());
    }
}
