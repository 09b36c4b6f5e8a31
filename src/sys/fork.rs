//! Notices that the process has forked.
//!
//! Invariant kept here: a [`Generation`] taken before a fork is not current in the child, however
//! the child was made: the kernel wipes the page that holds the current number.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Which side of which fork something was made on. Checking costs one load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Generation {
    number: u64,
    current: &'static AtomicU64,
}

/// Holds the current generation; the kernel replaces it by zeros in a forked child.
static CURRENT: OnceLock<&'static AtomicU64> = OnceLock::new();
/// Generations handed out; inherited by children, so theirs differ from their parents'.
static LAST: AtomicU64 = AtomicU64::new(0);

impl Generation {
    /// Whether this is still the process that took it.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self.current.load(SeqCst) == self.number
    }
}

/// The current generation.
pub(crate) fn generation() -> io::Result<Generation> {
    let current = match CURRENT.get() {
        Some(current) => current,
        None => {
            let word = wiped_on_fork()?;
            CURRENT.get_or_init(|| word)
        }
    };
    let number = match current.load(SeqCst) {
        0 => {
            let fresh = LAST.fetch_add(1, SeqCst) + 1;
            // Two threads may race here: the first number counts for both.
            current.compare_exchange(0, fresh, SeqCst, SeqCst).err().unwrap_or(fresh)
        }
        n => n,
    };
    Ok(Generation { number, current })
}

fn wiped_on_fork() -> io::Result<&'static AtomicU64> {
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
    // SAFETY: the page is mapped for good, aligned, and only ever accessed through this.
    Ok(unsafe { &*p.cast() })
}

/// Whether something ends in a forked child, and without a panic.
#[cfg(test)]
pub(crate) fn ends_in_child(child: impl FnOnce()) -> bool {
    // SAFETY: the child takes no lock that another thread may have had, or a signal ends it after some time. It ends without
    // returning into the test harness.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: this process is the child.
        unsafe { libc::alarm(20) };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(ended.is_err())) };
    }
    let mut status = 0;
    // SAFETY: status is a valid place for the result.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_sees_that_it_is_one() {
        let parent = generation().unwrap();
        assert!(parent.is_current());
        assert!(ends_in_child(|| assert!(!parent.is_current())), "the child took itself for its parent");
        assert!(parent.is_current());
    }
}
