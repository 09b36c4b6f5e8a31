//! What opening a map found, and mended.

use crate::file::reasons::remember;
use crate::format::{Header, Reasons, Uuid};

/// What opening a map found and, in a map opened for writing, mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The file was not closed cleanly.
    pub unclean: bool,
    /// Items behind the armed words that became dirty because nobody can know whether they were written.
    pub armed_items: u64,
    /// Items beside those that became dirty, or were, because the write intent covers them.
    pub intent_items: u64,
    /// Pages whose rewriting was interrupted; each became all dirty.
    pub interrupted_pages: u64,
    /// Pages that did not verify although nobody was rewriting them; each became all dirty.
    pub damaged_pages: u64,
    /// Header copies that should be valid and are not.
    pub damaged_headers: u64,
    /// A cleanly closed file whose pages all verify, but hold fewer dirty granules (the first number) than were counted
    /// when it was closed (the second): a page and its entry were lost together. Everything became dirty.
    pub lost_granules: Option<(u64, u64)>,
    /// No copy of one header pair is valid in the boot in which the map was opened, so that a crash does not explain it: a newer
    /// header may be lost. Everything became dirty.
    pub lost_commit: bool,
    /// Why everything became dirty: the image is not as it was when the map was closed.
    pub image_changed: Option<String>,
    /// For a `Process` map after an unclean end: whether the page cache could be trusted.
    pub cache_trusted: Option<bool>,
    /// A checkpoint that was not frozen yet, or was being aborted, and was aborted now: its identity.
    pub aborted_checkpoint: Option<Uuid>,
}

impl Recovery {
    /// Whether dirt may have been added beyond what an undisturbed run would hold.
    pub fn added_dirt(&self) -> bool {
        self.reasons() != Reasons::NONE
    }

    /// Items that may have become dirty because they were armed, by the list or by the write intent.
    pub fn added_items(&self) -> u64 {
        self.armed_items + self.intent_items
    }

    /// Whether something was found that a crash does not explain.
    pub fn damaged(&self) -> bool {
        self.damaged_pages > 0 || self.damaged_headers > 0 || self.lost_granules.is_some() || self.lost_commit
    }

    pub(crate) fn reasons(&self) -> Reasons {
        let mut r = Reasons::NONE;
        if self.cache_trusted == Some(false) {
            r |= Reasons::CACHE_NOT_TRUSTED;
        }
        // A list in a file that was closed says that closing did not get to its end.
        if (self.unclean || self.interrupted_pages > 0 || self.armed_items > 0) && self.cache_trusted != Some(true) {
            r |= Reasons::CRASH;
        }
        if self.damaged_pages > 0 || self.lost_granules.is_some() {
            r |= Reasons::DAMAGED_PAGE;
        }
        if self.lost_commit {
            r |= Reasons::LOST_COMMIT;
        }
        if self.image_changed.is_some() {
            r |= Reasons::IMAGE_CHANGED;
        }
        r
    }

    /// Has the header say why there is more dirt than was set.
    pub(crate) fn remember(&self, header: &mut Header) {
        step!(RecordReasons => remember(header, self.reasons()));
    }
}
