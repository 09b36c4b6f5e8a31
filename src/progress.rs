//! What long work says of itself.
//!
//! Invariant kept here: every step says what is left when it was stopped.

/// What a map is busy with for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// A new map is being written.
    Creating,
    /// The map is being read, or the memory for it taken.
    Opening,
    /// What was found when the map was opened is being made durable.
    Recovering,
    /// Granules are being marked.
    Setting,
    /// Granules are being cleared.
    Resetting,
    /// A point is being written, by a freeze or where two become one.
    Freezing,
    /// A freeze waits for data writes that had begun before it.
    Waiting,
    /// What was frozen is being marked again.
    PuttingBack,
    /// The durable bottom is being brought up to date.
    Flushing,
    /// The map is being written for another length.
    Resizing,
}

impl Step {
    /// What it is called in a message.
    pub fn name(self) -> &'static str {
        match self {
            Step::Creating => "creating",
            Step::Opening => "opening",
            Step::Recovering => "recovering",
            Step::Setting => "setting",
            Step::Resetting => "resetting",
            Step::Freezing => "writing a point",
            Step::Waiting => "waiting for writes",
            Step::PuttingBack => "putting back what was frozen",
            Step::Flushing => "flushing",
            Step::Resizing => "resizing",
        }
    }

    /// What is left when it was stopped.
    pub(crate) fn left(self) -> &'static str {
        match self {
            Step::Creating => "no map was made",
            Step::Opening => "nothing is lost",
            Step::Recovering => "nothing is lost: the next to open the map recovers it",
            Step::Setting => "some of the granules are marked; do not write the data, or mark them again",
            Step::Resetting => "some of the granules are clear; the others are as they were",
            Step::Freezing => "nothing has changed, and nothing is lost",
            Step::Waiting => "nothing is frozen, and nothing is lost",
            Step::PuttingBack => {
                "the checkpoint is outstanding, and nothing is lost: whoever opens the map alone puts the rest back, and \
                 so does aborting the checkpoint"
            }
            Step::Flushing => "nothing is lost; what was not written stays on the list, and the next flush writes it",
            Step::Resizing => "the map has the length that it had",
        }
    }
}

/// How far long work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Items of the map that it has passed; for [`Step::Waiting`] seconds.
    pub done: u64,
    /// Items of the map; for [`Step::Waiting`] the most seconds that it waits.
    pub total: u64,
}
