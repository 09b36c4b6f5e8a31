//! Why there is dirt that no caller has set, as the header records it.

use crate::format::{Header, Reasons, State};
use crate::sys::os;

/// Why there is dirt that was not set, here or in the outstanding point.
pub(crate) fn reasons(header: &Header) -> Reasons {
    let frozen = step!(CountPointReasons => header.outstanding());
    header.dirt_reasons | frozen.map_or(Reasons::NONE, |point| point.reasons)
}

/// Has the header say why there is more dirt than was set.
pub(crate) fn remember(header: &mut Header, reasons: Reasons) {
    if !reasons.is_empty() {
        header.dirt_reasons |= reasons;
        header.dirt_time = os::now();
    }
}

/// Has the header forget it.
pub(crate) fn forget(header: &mut Header) {
    header.dirt_reasons = Reasons::NONE;
    header.dirt_time = 0;
}

/// Whether the list of a header is what a repair has left there as dirty, since it was too much to be written.
pub(crate) fn left_on_list(header: &Header) -> bool {
    header.state == State::Clean && !header.runs.is_empty() && header.dirt_reasons.contains(Reasons::REPAIR)
}
