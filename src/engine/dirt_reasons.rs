//! Dirt that no caller has set: why it was added, and when that may be forgotten.
//!
//! Invariant kept here: as long as added dirt is there, the map is not called exact. Why there is such dirt here is in the
//! header, and why there is in the outstanding point is with the point. An operation that takes everything away forgets the
//! former only if nothing was added since it has looked, under the update lock, when nothing was being added.

use super::core::{Core, Locked};
use crate::error::Result;
use crate::file::reasons::{self, remember};
use crate::format::{CheckpointState, Header, Reasons};
use crate::shm::runtime;
use std::sync::atomic::Ordering::SeqCst;

/// The word `adding` of the runtime page counts those that add dirt now in its low half. The high half goes up when one begins.
const BEGUN: u64 = 1 << 32;

impl Core {
    /// Adds dirt, and has the header say why before any of it is there. A process that dies in this leaves its count, and then
    /// nothing is forgotten until the session ends.
    pub(crate) fn add_dirt<T>(&self, reasons: Reasons, add: impl FnOnce() -> Result<T>) -> Result<T> {
        let adding = &self.view.runtime()[runtime::ADDING];
        let counted = step!(CountAdding => true);
        if counted {
            adding.fetch_add(BEGUN + 1, SeqCst);
        }
        let done = self.update_header(|header| remember(header, reasons)).and_then(|()| {
            sync_point!(Adding);
            add()
        });
        if counted {
            adding.fetch_sub(1, SeqCst);
        }
        done
    }
}

impl Locked<'_> {
    /// What was added until now; `None` when something is being added or put back. To be asked before the first bit is taken away.
    pub(crate) fn seen(&self, header: &Header) -> Option<u64> {
        let seen = self.core.view.runtime()[runtime::ADDING].load(SeqCst);
        let adding = step!(CheckAdding => !seen.is_multiple_of(BEGUN));
        let aborting = header.checkpoint_state == CheckpointState::Aborting;
        let aborting = step!(CheckAborting => aborting);
        (!adding && !aborting).then_some(seen)
    }

    /// Whether all that was added is what was seen.
    pub(super) fn nothing_added_since(&self, seen: Option<u64>) -> bool {
        seen == Some(self.core.view.runtime()[runtime::ADDING].load(SeqCst))
    }

    /// What is in the outstanding point comes back here: says why, before it does.
    pub(super) fn dirt_comes_back(&self, header: &mut Header) {
        step!(AbortKeepsReasons => remember(header, reasons::reasons(header)));
        let adding = &self.core.view.runtime()[runtime::ADDING];
        adding.fetch_add(step!(CountAborting => BEGUN), SeqCst);
    }
}
