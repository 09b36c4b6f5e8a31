//! A disk that is served: an image and its map.
//!
//! Invariant kept here: a map is only used with an image that it may belong to, and closed with the image as it is then.

use super::tracked::Tracked;
use crate::cli::{DiskArg, Serve};
use crate::control::DiskStatus;
use crate::exit::{Failure, Result};
use crate::files::{Image, storage};
use crate::map::open::{self, With};
use crate::map::relation;
use crate::snapshot::{Snapshots, Source};
use crate::terminal::output::Output;
use dirtymap::{DirtyMap, Options, info::Info};
use dirtymap_nbd::FileBackend;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A disk that is served.
pub struct Disk {
    pub image: Image,
    map_path: PathBuf,
    read_only: bool,
    pub tracked: Arc<Tracked>,
}

/// What is said of a disk at the end.
#[derive(Serialize)]
pub struct DiskAnswer {
    export: String,
    image: String,
    map: String,
    dirty_bits: u64,
    pub dirty_bytes: u64,
}

impl Disk {
    /// Opens a disk, and makes its map if that is asked for.
    pub fn open(
        disk: &DiskArg,
        place: usize,
        snapshots: &Arc<Snapshots>,
        args: &Serve,
        wait: Duration,
        output: Output,
    ) -> Result<Disk> {
        let image = Image::open_locked(&disk.image, !args.read_only)?;
        if args.create && !disk.map.exists() {
            create(&image, disk, args)?;
        }
        let backend = image.file.try_clone().and_then(|file| FileBackend::from_file(file, !args.read_only));
        let mut backend = backend.map_err(|e| Failure::io(disk.image.display(), &e))?;
        if args.direct {
            let what = format_args!("{}: open past the page cache (--direct)", disk.image.display());
            backend = backend.directly().map_err(|e| Failure::io(what, &e))?;
        }
        let map = open_map(disk, args, &image, wait, output)?;
        let syncs = match snapshots.syncs(&map) {
            Ok(syncs) => syncs,
            Err(failure) => {
                // Left open, it would not know of what is written before it is opened again.
                return Err(match close(map, &image, args.read_only) {
                    Ok(()) => failure,
                    Err(worse) => failure.and(worse),
                });
            }
        };
        Ok(Disk {
            image,
            map_path: disk.map.clone(),
            read_only: args.read_only,
            tracked: Arc::new(Tracked::new(
                disk.name.clone(),
                backend,
                map,
                syncs,
                Arc::clone(snapshots),
                place,
                output,
            )),
        })
    }

    /// Of its export.
    pub fn name(&self) -> &str {
        &self.tracked.name
    }

    /// What snapshots have to know of it.
    pub fn source(&self) -> Source<'_> {
        Source { map: &self.tracked.map, image: &self.image.file, syncs: &self.tracked.syncs }
    }

    pub fn status(&self, scratch_bytes: u64) -> Result<DiskStatus> {
        Ok(DiskStatus {
            export: self.name().into(),
            image: anywhere(&self.image.path),
            storage: storage::layers(&self.image)?,
            map: anywhere(&self.map_path),
            connections: self.tracked.connections.load(Relaxed),
            scratch_bytes,
            requests: self.tracked.counters.now(),
            ..DiskStatus::of_map(&self.tracked.map)?
        })
    }

    /// Closes the map with the image as it is now. Nobody else may have the disk any more.
    pub fn close(self, output: Output) -> Result<DiskAnswer> {
        let Some(Tracked { name, map, .. }) = Arc::into_inner(self.tracked) else {
            return Err(Failure::new("internal", "the export is still in use"));
        };
        let answer = DiskAnswer {
            export: name,
            image: self.image.path.display().to_string(),
            map: self.map_path.display().to_string(),
            dirty_bits: map.count(),
            dirty_bytes: map.dirty_len(),
        };
        open::cost(&map, output);
        close(map, &self.image, self.read_only)?;
        Ok(answer)
    }
}

fn close(map: DirtyMap, image: &Image, read_only: bool) -> Result<()> {
    if read_only { Ok(map.close()?) } else { open::close_with(map, image) }
}

/// A path for programs that were started elsewhere.
fn anywhere(path: &Path) -> String {
    std::path::absolute(path).as_deref().unwrap_or(path).display().to_string()
}

/// Makes the map as `create --image` does: all dirty, bound to the image.
fn create(image: &Image, disk: &DiskArg, args: &Serve) -> Result<()> {
    if !args.raw {
        image.is_raw()?;
    }
    image.sync()?;
    let options = Options::new().dirty(true).flush_interval(None).image(image.stamp_now()?).like(&image.file);
    Ok(options.create_closed(&disk.map, image.size())?)
}

fn open_map(disk: &DiskArg, args: &Serve, image: &Image, wait: Duration, output: Output) -> Result<DirtyMap> {
    let acceptable = |info: &Info| {
        relation::fits(info, &disk.map, image)?;
        relation::belongs(info, &disk.map, image, &relation::another(&disk.map, image))?;
        // Who made the map for the image was asked.
        if info.image.is_none() && !args.raw {
            image.is_raw()?;
        }
        Ok(())
    };
    if args.read_only {
        acceptable(&dirtymap::info::inspect(&disk.map)?)?;
        return Ok(open::for_reading(&disk.map, wait, output)?.0);
    }
    let (map, _) = open::for_writing_of(&disk.map, With::Anybody, image, wait, output, acceptable)?;
    map.bind_image(&image.stamp)?;
    Ok(map)
}
