//! A word of two bits in the bottom: as the page cache has it and as the disk does, which each bit reaches on its own.

use crate::explore::Packing;

#[derive(Clone, Copy, Default)]
pub struct Page {
    pub cache: u8,
    pub disk: u8,
}

impl Page {
    /// One that is written and synced.
    pub fn of(bits: u8) -> Page {
        Page { cache: bits, disk: bits }
    }

    pub fn fields<P: Packing>(&mut self, p: &mut P) {
        p.field(&mut self.cache, 2);
        p.field(&mut self.disk, 2);
    }

    /// With one bit of `content` written.
    pub fn written(self, bit: u8, content: u8) -> Page {
        Page { cache: self.cache & !bit | content & bit, ..self }
    }

    pub fn synced(self) -> Page {
        Page::of(self.cache)
    }

    /// With one bit written back by the kernel: each that is not on the disk yet.
    pub fn written_back(self) -> impl Iterator<Item = Page> {
        [1, 2].into_iter().filter(move |bit| (self.disk ^ self.cache) & bit != 0).map(move |bit| {
            let disk = self.disk & !bit | self.cache & bit;
            Page { disk, ..self }
        })
    }

    /// After a sync that failed: which bits reached the disk is up to the write-backs before it. Each may be kept in the
    /// cache, or be there again as it is on the disk. Says which are kept.
    #[allow(dead_code)] // Not in every model do syncs fail.
    pub fn sync_failed(self) -> impl Iterator<Item = (u8, Page)> {
        (0..4).map(move |kept| (kept, Page { cache: self.cache & kept | self.disk & !kept, ..self }))
    }
}

impl std::fmt::Display for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {:02b}, disk {:02b}", self.cache, self.disk)
    }
}
