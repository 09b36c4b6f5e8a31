//! Signals, which are the program's.
//!
//! Invariant kept here: a thread that the library starts takes no signal that was sent to the process.

use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// What a thread does to itself: blocked, these would end the process and ask no handler.
const OWN: [libc::c_int; 6] = [libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

/// Runs `start` with signals blocked, which a thread that it starts inherits. Else that would take signals that the program
/// blocks in its own threads, to wait for them.
pub(crate) fn without_signals<R>(start: impl FnOnce() -> R) -> R {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: each has a place for a set, which the first call fills; none fails for these numbers.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        OWN.iter().for_each(|signal| _ = libc::sigdelset(all.as_mut_ptr(), *signal));
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let done = start();
    // SAFETY: the call above has filled the set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), null_mut()) };
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether this thread blocks a signal.
    fn blocks(signal: libc::c_int) -> bool {
        let mut now = MaybeUninit::uninit();
        // SAFETY: asks for the set, and then looks at it.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), now.as_mut_ptr());
            libc::sigismember(now.as_ptr(), signal) == 1
        }
    }

    #[test]
    fn a_thread_takes_no_signal_but_its_own() {
        let seen = || [libc::SIGTERM, libc::SIGINT, libc::SIGSEGV].map(blocks);
        assert_eq!(without_signals(|| std::thread::spawn(seen)).join().unwrap(), [true, true, false]);
        assert_eq!(seen(), [false; 3]);
    }
}
