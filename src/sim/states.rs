//! What headers say of the checkpoint, and whether it goes along its arrows.

use crate::format::{COPY_BYTES, CheckpointState, HEADER_REGION, Header, Uuid};
use crate::sys::WriteSegment;

/// The checkpoint as headers say it: the state, and of which one.
pub(super) type Checkpoint = (CheckpointState, Uuid);

/// What headers have said of the checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct States {
    /// What the last header says that was written durably, and those say of which nobody knows.
    pub(super) possible: Vec<Checkpoint>,
    pub(super) wrong: Option<String>,
}

impl States {
    /// Whether a header that a crash leaves may say that.
    pub(crate) fn may_be(&self, header: &Header) -> bool {
        self.possible.is_empty() || self.possible.contains(&(header.checkpoint_state, header.checkpoint_uuid))
    }

    /// A header is being written.
    pub(super) fn written(&mut self, to: Checkpoint, durably: bool) {
        if !self.possible.is_empty() && !self.possible.iter().any(|&from| is_step(from, to)) {
            self.wrong.get_or_insert_with(|| format!("{to:?} is written after {:?}", self.possible));
        }
        if durably {
            self.possible.clear();
        }
        if !self.possible.contains(&to) {
            self.possible.push(to);
        }
    }
}

/// The arrows: NORMAL to FREEZING to FROZEN to NORMAL, and from any that is outstanding to ABORTING to NORMAL.
pub(super) fn is_step(from: Checkpoint, to: Checkpoint) -> bool {
    use CheckpointState::*;
    let same = from.1 == to.1;
    match (from.0, to.0) {
        (Normal, Freezing) => true,
        (Freezing, Frozen) | (Freezing | Frozen, Aborting) => same,
        (Frozen | Aborting, Normal) => true,
        (a, b) => a == b && same,
    }
}

/// What headers among some parts say of the checkpoint.
pub(super) fn checkpoints<'a>(parts: &'a [WriteSegment<'_>]) -> impl Iterator<Item = Checkpoint> + 'a {
    let header = |part: &WriteSegment<'_>| {
        let whole = part.offset < HEADER_REGION && part.bytes.len() <= COPY_BYTES;
        whole.then(|| Header::parse(part.bytes).ok()).flatten()
    };
    parts.iter().filter_map(header).map(|header| (header.checkpoint_state, header.checkpoint_uuid))
}
