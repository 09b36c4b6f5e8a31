//! How far the library's long work is.
//!
//! Invariant kept here: whatever is printed, no bar stands in its way.

use crate::terminal::output::Output;
use crate::terminal::signals;
use dirtymap::{Progress, Step};
use indicatif::ProgressBar;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

/// The bar of the step that the library is at.
static SHOWN: Mutex<Option<(Step, ProgressBar)>> = Mutex::new(None);

/// For [`dirtymap::Options::progress`]: shows how far the work is, and stops it when somebody wants the command to stop.
pub fn show(output: Output) -> impl Fn(Progress) -> ControlFlow<()> + Send + Sync + 'static {
    move |Progress { step, done, total, .. }| {
        if signals::requested() {
            clear();
            return ControlFlow::Break(());
        }
        let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref().is_none_or(|(before, _)| *before != step) {
            if let Some((_, bar)) = shown.take() {
                bar.finish_and_clear();
            }
            *shown = Some((step, output.progress_count(step.name(), total)));
        }
        if let Some((_, bar)) = &*shown {
            bar.set_position(done);
        }
        ControlFlow::Continue(())
    }
}

/// Takes away what is shown.
pub fn clear() {
    if let Some((_, bar)) = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bar.finish_and_clear();
    }
}
