//! Ctrl-C, SIGTERM and SIGHUP.
//!
//! Invariant kept here: a command that has something to finish looks at [`requested`] between pieces and ends in
//! order; one that only reads ends at once. A second signal ends either.

use crate::exit::{Exit, Failure, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static GOES_ON: AtomicBool = AtomicBool::new(false);

/// Starts to listen. `end`: what a signal does at once, for a command that does not look at [`requested`] by itself.
pub fn listen(end: Option<impl Fn() + Send + 'static>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|e| Failure::io("listen for signals", &e))?;
    let wait = move || {
        for _ in signals.forever() {
            if let Some(end) = &end {
                end();
            }
            if REQUESTED.swap(true, Ordering::SeqCst) && !GOES_ON.load(Ordering::SeqCst) {
                std::process::exit(Exit::Interrupted.code().into());
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .map(drop)
        .map_err(|e| Failure::io("listen for signals", &e))
}

/// While there is one, no second signal ends the command.
#[must_use]
pub struct Held(());

/// Has the command go on, whatever the signals, until the answer is dropped.
pub fn hold() -> Held {
    GOES_ON.store(true, Ordering::SeqCst);
    Held(())
}

impl Drop for Held {
    fn drop(&mut self) {
        GOES_ON.store(false, Ordering::SeqCst);
    }
}

/// Whether somebody wants the command to stop.
pub fn requested() -> bool {
    #[cfg(test)]
    if IN_TEST.get() {
        return true;
    }
    REQUESTED.load(Ordering::SeqCst)
}

#[cfg(test)]
thread_local! {
    /// Whether a test wants what it calls to stop.
    pub static IN_TEST: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Fails if somebody wants the command to stop.
pub fn check(consequence: &str) -> Result<()> {
    if requested() { Err(Failure::interrupted(format!("interrupted; {consequence}"))) } else { Ok(()) }
}
