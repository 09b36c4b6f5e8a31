//! A source that is a file or a block device: an image whose writers set what they write in its map, or a snapshot of it.
//!
//! Invariants kept here: what the map records of the image is from before the first byte was copied; and the checkpoint of a live
//! snapshot is left to its server, which alone knows whether that is whole, and the image durable.

use super::{Frozen, Meanwhile, Source, Wish};
use crate::backup::Wanted;
use crate::backup::target::Base;
use crate::exit::Result;
use crate::files::{self, Content, Image, storage};
use crate::map::open::{self, With};
use crate::map::relation;
use crate::terminal::output::Output;
use dirtymap::{Comparison, DirtyMap, ImageStamp, ReadMap, checkpoint::Checkpoint, info::Info};
use std::cell::Cell;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// An image.
pub struct FileSource<'a> {
    args: &'a Wanted,
    image: Image,
    /// As it was when the map was opened.
    stamp: ImageStamp,
    /// As it was before it was known what is to be copied, or before it was read.
    before: Cell<Option<ImageStamp>>,
}

/// What to do with an image that is not the map's own.
const OTHER_IMAGE: &str = "for a snapshot that was taken while a checkpoint was frozen, use --frozen; to take this one for the \
                           map's image from now on, and copy all of it, use --force";

impl<'a> FileSource<'a> {
    /// Opens an image.
    pub fn open(args: &'a Wanted) -> Result<FileSource<'a>> {
        let image = Image::open(&args.image, false)?;
        files::distinct(&[("image", &args.image), ("map", &args.map)])?;
        let stamp = image.stamp;
        Ok(FileSource { args, image, stamp, before: Cell::new(None) })
    }

    fn acceptable(&self, info: &Info) -> Result<()> {
        let Wanted { map, how, .. } = self.args;
        relation::fits(info, map, &self.image)?;
        // Whoever made the map for the image was asked.
        if info.image.is_none() && !how.raw {
            self.image.is_raw()?;
        }
        if how.frozen || how.force { Ok(()) } else { relation::belongs(info, map, &self.image, OTHER_IMAGE) }
    }
}

impl Source for FileSource<'_> {
    fn name(&self) -> String {
        self.args.image.display().to_string()
    }

    fn origin(&self) -> String {
        std::path::absolute(&self.args.image).map_or_else(|_| self.name(), |path| path.display().to_string())
    }

    fn size(&self) -> u64 {
        self.image.size()
    }

    fn container(&self) -> Option<&'static str> {
        self.image.container()
    }

    fn like(&self) -> Option<&File> {
        Some(&self.image.file)
    }

    fn apart(&self, target: &Path, found: Option<&Image>) -> Result<()> {
        files::distinct(&[("image", &self.args.image), ("map", &self.args.map), ("target", target)])?;
        found.map_or(Ok(()), |found| storage::apart(&self.image.path, &storage::layers(&self.image)?, found))
    }

    fn map(&self) -> &Path {
        &self.args.map
    }

    fn open_map(
        &mut self,
        wait: Duration,
        output: Output,
        acceptable: &dyn Fn(&Info) -> Result<()>,
    ) -> Result<DirtyMap> {
        let fits = |info: &Info| self.acceptable(info).and_then(|()| acceptable(info));
        // Of write-back that has failed the kernel tells once, and that may be for a server to hear: what is refused asks nothing.
        open::may_open(&self.args.map, With::NoSnapshot, &fits)?;
        // Before the stamp is taken: writing back what was written through a mapping may change the time.
        self.image.sync()?;
        if self.args.how.frozen {
            // A snapshot is not the image that the map belongs to, and tells nothing of that.
            return open::for_writing(&self.args.map, With::NoSnapshot, wait, output, fits);
        }
        let (map, stamp) = open::for_writing_of(&self.args.map, With::NoSnapshot, &self.image, wait, output, fits)?;
        self.stamp = stamp;
        Ok(map)
    }

    fn prepare(&self, output: Output) -> Result<()> {
        if self.image.stamp.is_block_device() {
            output.note(self.image.untraceable());
        }
        self.image.sync()
    }

    fn freeze(&mut self, map: &mut DirtyMap, wish: Wish<'_>) -> Result<Frozen> {
        let (Wish { point, target, base, .. }, frozen) = (wish, self.args.how.frozen);
        let checkpoint = match (map.checkpoint()?.filter(|_| frozen), target) {
            (Some(frozen), _) => frozen,
            (None, Some(target)) => map.freeze_for(Some(point), &target)?,
            (None, None) => map.freeze(Some(point))?,
        };
        if frozen {
            self.before.set(Some(self.image.glance()?));
        }
        let bits = match base {
            Base::Everything => Ok(None),
            // And what was set since: of that, some was written before the snapshot was taken.
            Base::Last if frozen => map.frozen_set(checkpoint.uuid).and_then(|_| map.dirty_set()).map(Some),
            Base::Last => map.frozen_set(checkpoint.uuid).map(Some),
            Base::Since(since) => map.since_set(&since).map(Some),
        };
        match bits {
            Ok(bits) => Ok(Frozen { checkpoint, bits: bits.map(|bits| bits as Arc<dyn ReadMap>) }),
            Err(e) => {
                if !frozen {
                    map.abort_checkpoint(checkpoint.uuid)?;
                }
                Err(e.into())
            }
        }
    }

    fn sync(&self) -> Result<()> {
        self.image.sync()
    }

    fn begin(&self) -> Result<()> {
        if self.before.get().is_none() {
            self.before.set(Some(self.image.glance()?));
        }
        Ok(())
    }

    fn content(&self) -> &dyn Content {
        &self.image
    }

    /// A snapshot is written by nobody: it differs where the target is not its copy.
    fn is_live(&self, info: &Info) -> bool {
        let of_image = |recorded: &ImageStamp| !matches!(self.stamp.compare(recorded), Comparison::Another(_));
        !self.args.how.frozen || info.image.as_ref().is_none_or(of_image)
    }

    fn look_back(&self, map: &DirtyMap, output: Output) -> Result<Meanwhile> {
        let frozen = self.args.how.frozen;
        let now = self.image.glance()?;
        let before = self.before.get().unwrap_or(self.stamp);
        let set_since = map.any_since_freeze()?;
        let changed = !frozen && !now.equals(&self.stamp);
        let one_moment = match before.equals(&now) {
            _ if set_since && !frozen => Some(false),
            false => Some(false),
            true if before.is_exact() => Some(true),
            true => None,
        };
        if changed && !set_since {
            output.note(format_args!(
                "{} was changed while it was copied; the next command that opens its map makes everything dirty",
                self.image.path.display()
            ));
        }
        Ok(Meanwhile { changed, one_moment })
    }

    fn bind(&self, map: &DirtyMap, info: &Info) -> Result<()> {
        if info.image.is_none() && !self.args.how.frozen {
            map.bind_image(&self.stamp)?;
        }
        Ok(())
    }

    fn commit(
        &self,
        map: &DirtyMap,
        checkpoint: &Checkpoint,
        keep: bool,
        target: &ImageStamp,
        audited: u64,
    ) -> Result<()> {
        Ok(map.commit_backup(checkpoint.uuid, keep, target, audited)?)
    }

    fn abort(&self, map: &DirtyMap, checkpoint: &Checkpoint) -> Result<()> {
        Ok(map.abort_checkpoint(checkpoint.uuid)?)
    }

    fn close(&self, map: DirtyMap, complete: Option<bool>) -> Result<()> {
        // The map was complete for the image as it was at `stamp`; if that is no more, others who track it may have told what
        // it is like since, and this must not take it back.
        let as_it_was = match complete {
            _ if self.args.how.frozen => false,
            Some(changed) => !changed || map.is_empty(),
            None => self.image.glance().is_ok_and(|now| now.equals(&self.stamp)),
        };
        let closed = if as_it_was { map.close_with_image(&self.stamp) } else { map.close() };
        Ok(closed?)
    }
}
