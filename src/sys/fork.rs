//! Notices that the process has forked.
//!
//! Invariant kept here: a [`Generation`] taken before a fork is not current in the child, however
//! the child was made: the kernel wipes the page that holds the current number.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Which side of which fork something was made on. Checking costs two loads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Generation(u64);

struct Page(*const AtomicU64);
// SAFETY: the pointer is to memory that is never unmapped and only accessed atomically.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

/// Holds the current generation; the kernel replaces it by zeros in a forked child.
static PAGE: OnceLock<Page> = OnceLock::new();
/// Generations handed out; inherited by children, so theirs differ from their parents'.
static LAST: AtomicU64 = AtomicU64::new(0);

impl Generation {
    /// Whether this is still the process that took it.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        match PAGE.get() {
            // SAFETY: the page is mapped for good and aligned.
            Some(page) => unsafe { &*page.0 }.load(SeqCst) == self.0,
            None => false,
        }
    }
}

/// The current generation.
pub(crate) fn generation() -> io::Result<Generation> {
    let page = match PAGE.get() {
        Some(page) => page,
        None => {
            let page = wiped_on_fork()?;
            PAGE.get_or_init(|| page)
        }
    };
    // SAFETY: the page is mapped for good and aligned.
    let current = unsafe { &*page.0 };
    match current.load(SeqCst) {
        0 => {
            let fresh = LAST.fetch_add(1, SeqCst) + 1;
            // Two threads may race here: the first number counts for both.
            let kept = current.compare_exchange(0, fresh, SeqCst, SeqCst);
            Ok(Generation(kept.err().unwrap_or(fresh)))
        }
        n => Ok(Generation(n)),
    }
}

fn wiped_on_fork() -> io::Result<Page> {
    const LEN: usize = 65536; // a multiple of every host's page size
    // SAFETY: a fresh anonymous mapping touches no existing memory.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: p is the start of the mapping just made, LEN bytes long.
    if unsafe { libc::madvise(p, LEN, libc::MADV_WIPEONFORK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Page(p.cast()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_sees_that_it_is_one() {
        let parent = generation().unwrap();
        assert!(parent.is_current());
        // SAFETY: the child only loads atomics and exits without running anything else.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let code = if parent.is_current() { 1 } else { 0 };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: status is a valid place for the result.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0, "the child took itself for its parent");
        assert!(parent.is_current());
    }
}
