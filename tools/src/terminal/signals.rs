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

/// From here on the command goes on to its end, whatever the signals.
pub fn go_on() {
    GOES_ON.store(true, Ordering::SeqCst);
}

/// Whether somebody wants the command to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// Fails if somebody wants the command to stop.
pub fn check(consequence: &str) -> Result<()> {
    if requested() { Err(Failure::interrupted(format!("interrupted; {consequence}"))) } else { Ok(()) }
}
