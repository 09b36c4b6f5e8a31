//! The image that an open map belongs to: compared by a process that joins, recorded by one that leaves.

use super::core::Core;
use crate::error::Result;
use crate::format::{Header, Reasons, Stamp};
use crate::image_stamp::{ImageStamp, is_timeless, timeless};
use crate::shm::runtime;
use std::sync::atomic::Ordering::SeqCst;

/// What a clean close records beside the bits.
pub(crate) enum Image {
    /// The image was not looked at: its stamp becomes what it was when the map was opened.
    AsBefore,
    /// The image as it is now.
    Now(Stamp),
}

/// Records the image as it is; only which it is, in a map that was made for a size.
pub(super) fn record_image(header: &mut Header, now: Stamp) {
    let only_which = header.image.as_ref().is_some_and(is_timeless);
    header.image = Some(if only_which { timeless(now) } else { now });
}

impl Core {
    /// Records the image for those who stay, the last of whom may not have it.
    pub(crate) fn leave_image(&self, image: Image) -> Result<()> {
        let Image::Now(stamp) = image else { return Ok(()) };
        self.update_header(|header| record_image(header, Stamp { exact: false, ..stamp }))?;
        let told = &self.view.runtime()[runtime::IMAGE];
        if stamp.exact {
            told.fetch_or(runtime::IMAGE_EXACT, SeqCst);
        } else {
            told.fetch_and(!runtime::IMAGE_EXACT, SeqCst);
        }
        Ok(())
    }

    /// For who joins others: if the map does not belong to the image that this process has, everything becomes dirty; says why.
    /// The modification time counts for the first in the session who has the image: the others write to it. The caller holds
    /// the gate.
    pub(crate) fn compare_image(&self, image: Option<&ImageStamp>) -> Result<Option<String>> {
        let Some(now) = image else { return Ok(None) };
        let told = &self.view.runtime()[runtime::IMAGE];
        let exact = told.load(SeqCst) & (runtime::IMAGE_EXACT | runtime::IMAGE_TRACKED) == runtime::IMAGE_EXACT;
        let changed = now.changed_since(self.image_before.map(|stamp| Stamp { exact, ..stamp }));
        if changed.is_some() {
            self.add_dirt(Reasons::IMAGE_CHANGED, || self.set_bits(0..self.geometry().bits()))?;
        }
        told.fetch_or(runtime::IMAGE_TRACKED, SeqCst);
        Ok(changed)
    }
}
