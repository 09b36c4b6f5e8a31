//! What a header says of dirt that nobody has set: why it was added, and when last.
//!
//! Invariant kept here: nobody forgets what was added after he had looked. So what a header says is another thing after every
//! addition, also of two in one second.

use crate::format::{Header, Reasons};
use crate::sys::facts;
use crate::weak::{Weak, weak};
use std::sync::{Mutex, PoisonError};

/// What a header says of it.
pub(super) type Added = (Reasons, i64);

/// What the header says of it.
pub(super) fn added(header: &Header) -> Added {
    (header.dirt_reasons, header.dirt_time)
}

/// Has the header say why there is more dirt than was set.
pub(super) fn remember(header: &mut Header, reasons: Reasons) {
    let later = if header.dirt_reasons.is_empty() { i64::MIN } else { header.dirt_time.saturating_add(1) };
    header.dirt_reasons |= reasons;
    // Never before an outstanding point, whatever the clock says now: this dirt is not in it.
    let frozen = header.outstanding().filter(|_| !weak(Weak::ReasonsByClock));
    let point = frozen.map_or(i64::MIN, |point| point.time);
    header.dirt_time = facts::now().max(point).max(later);
}

/// Has the header forget it.
pub(super) fn forget(header: &mut Header) {
    header.dirt_reasons = Reasons::NONE;
    header.dirt_time = 0;
}

/// What this process has seen of it when it began something that takes it away.
#[derive(Default)]
pub(super) struct Seen(Mutex<Option<Added>>);

impl Seen {
    pub(super) fn get(&self) -> Option<Added> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, seen: Option<Added>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}
