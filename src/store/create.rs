//! Making a new map file.
//!
//! Invariant kept here: the name appears only when everything behind it is durable, and never in
//! place of another file.

use super::Options;
use super::points::some_pages;
use super::{headers, pages};
use crate::error::{Error, Result};
use crate::format::{HEADER_REGION, Header, Uuid};
use crate::geometry::{Geometry, PAGE_WORDS};
use crate::read::Search;
use crate::sys::{Disk, FileDisk, Part, facts};
use crate::weak::{Weak, weak};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file under its temporary name, removed again unless it is published.
pub(super) struct Unnamed {
    pub file: File,
    temp: PathBuf,
    published: bool,
}

impl Unnamed {
    pub(super) fn beside(path: &Path) -> Result<Unnamed> {
        let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
        if facts::exists(path) {
            return Err(Error::Exists { path: path.to_path_buf() });
        }
        let (file, temp) = facts::create_beside(path).map_err(io("create a file beside it"))?;
        let unnamed = Unnamed { file, temp, published: false };
        if facts::fs_kind(&unnamed.file).map_err(io("look at the file system"))? == facts::FsKind::Btrfs {
            facts::set_nocow(&unnamed.file).map_err(io("switch copy-on-write off (needed on btrfs)"))?;
        }
        Ok(unnamed)
    }

    pub(super) fn publish(mut self, path: &Path) -> Result<()> {
        match facts::publish(&self.temp, path) {
            Ok(()) => {
                self.published = true;
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::Exists { path: path.to_path_buf() }),
            Err(source) => Err(Error::Io { op: "give the new file its name", path: path.to_path_buf(), source }),
        }
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: a file with a temporary name is in nobody's way.
            let _ = std::fs::remove_file(&self.temp);
        }
    }
}

/// Makes a closed map at `path` that holds what `map` does.
pub(super) fn create_filled(path: &Path, map: &impl Search, options: &Options) -> Result<()> {
    let io = |source| Error::Io { op: "write the new map", path: path.to_path_buf(), source };
    let unnamed = Unnamed::beside(path)?;
    let disk = FileDisk::new(unnamed.file.try_clone().map_err(io)?, true);
    let fill = |disk: &dyn Disk, header: &mut Header| {
        header.clean_dirty_bits = map.count();
        let (mut at, end) = (0, map.geometry().words());
        while at < end {
            let (batch, next) = some_pages(map, at);
            let indices: Vec<u64> = batch.iter().map(|&(index, _)| index).collect();
            if !indices.is_empty() {
                pages::write(disk, &header.uuid, &header.layout, &indices, |k, _| batch[k].1)?;
            }
            at = next;
        }
        Ok(())
    };
    write_parts(&disk, *map.geometry(), options, fill).map_err(io)?;
    unnamed.publish(path)
}

/// Writes a whole new map, closed cleanly, into an empty file, durably.
pub(super) fn write_new(disk: &dyn Disk, path: &Path, geometry: Geometry, options: &Options) -> Result<()> {
    let io = |source| Error::Io { op: "write the new map", path: path.to_path_buf(), source };
    let fill = |disk: &dyn Disk, header: &mut Header| {
        if options.dirty {
            header.clean_dirty_bits = geometry.bits();
            write_all_dirty(disk, header)?;
        }
        Ok(())
    };
    write_parts(disk, geometry, options, fill).map_err(io)
}

fn write_parts(
    disk: &dyn Disk,
    geometry: Geometry,
    options: &Options,
    fill: impl Fn(&dyn Disk, &mut Header) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut header = Header::new(random_uuid()?, geometry, options.durability);
    disk.grow(header.file_length())?;
    header.label.clone_from(&options.label);
    header.created = facts::now();
    header.image = options.image.map(|i| i.0);
    fill(disk, &mut header)?;
    // All of the region, so that no commit ever needs space.
    disk.write_durable(&[Part { offset: 0, bytes: &vec![0; HEADER_REGION as usize] }])?;
    for (sequence, pair) in [(1, 0), (2, 1)] {
        header.sequence = sequence;
        headers::write_pair(disk, &header, pair)?;
    }
    if weak(Weak::CreateUnsynced) { Ok(()) } else { disk.sync_all() }
}

/// A random identity, marked as such (RFC 9562, version 4).
pub(super) fn random_uuid() -> std::io::Result<Uuid> {
    let mut bytes: [u8; 16] = facts::random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(Uuid(bytes))
}

fn write_all_dirty(disk: &dyn Disk, header: &Header) -> std::io::Result<()> {
    const BATCH: usize = 16384;
    let geometry = &header.geometry;
    let content = |_, index| std::array::from_fn(|i| geometry.word_mask(index * PAGE_WORDS + i as u64));
    for first in (0..geometry.pages()).step_by(BATCH) {
        let batch: Vec<u64> = (first..geometry.pages()).take(BATCH).collect();
        pages::write(disk, &header.uuid, &header.layout, &batch, content)?;
    }
    Ok(())
}
