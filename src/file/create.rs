//! Making a new map file.
//!
//! Invariant kept here: the name appears only when everything behind it is durable, and never in
//! place of another file.

use super::bottom::{BATCH_PAGES, BottomRef, full_page};
use super::headers;
use super::pages::{self, PageContent, some_pages};
use crate::error::{Error, Result};
use crate::format::{COPIES, Header, MAX_USED, Uuid, copy_offset};
use crate::geometry::{Geometry, PAGE_BITS};
use crate::map_file::MapFile;
use crate::options::Options;
use crate::progress::Step;
use crate::query::Search;
use crate::sys::{FileDisk, Permit, WriteSegment, create, fs, os};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file that gets its name when it is complete. Dropped before, it leaves nothing behind; killed, the creator leaves nothing
/// behind either, but on file systems that have no files without a name: there the next creator in that directory tidies up.
#[derive(Debug)]
pub struct NewFile {
    new: create::NewFile,
    path: PathBuf,
}

impl NewFile {
    /// An empty file that is to be at `path`, open for reading and writing, with the permissions that the umask leaves.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is anything at `path`, be it only a link that leads nowhere; [`Error::Io`].
    pub fn beside(path: impl AsRef<Path>) -> Result<NewFile> {
        NewFile::at(path.as_ref(), Permit::Umask)
    }

    fn at(path: &Path, permit: Permit) -> Result<NewFile> {
        let new = create::NewFile::at(path, permit).map_err(|e| failed(e, "create it", path))?;
        Ok(NewFile { new, path: path.to_path_buf() })
    }

    /// The same for users of its own, and written in place.
    pub(crate) fn in_place(path: &Path, permit: Permit) -> Result<NewFile> {
        let new = NewFile::at(path, permit)?;
        let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
        if fs::kind(new.file()).map_err(io("look at the file system"))? == fs::FsKind::Btrfs {
            os::set_nocow(new.file()).map_err(io("switch copy-on-write off (needed on btrfs)"))?;
        }
        Ok(new)
    }

    /// The file.
    pub fn file(&self) -> &File {
        self.new.file()
    }

    /// Gives the file its name, durably. The caller has synced what is in it.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is something at that name by now; [`Error::Io`]. After an error there is no such name.
    pub fn publish(self) -> Result<()> {
        self.new.publish().map_err(|e| failed(e, "give the new file its name", &self.path))
    }
}

fn failed(source: std::io::Error, op: &'static str, path: &Path) -> Error {
    match source.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists { path: path.to_path_buf() },
        _ => Error::Io { op, path: path.to_path_buf(), source },
    }
}

/// Makes a closed map at `path` that holds what `map` does.
pub(crate) fn create_filled(path: &Path, map: &impl Search, options: &Options) -> Result<()> {
    let new = NewFile::in_place(path, options.permit)?;
    let file = new.file().try_clone().map_err(writing(path))?;
    let mut at = 0;
    let batches = || {
        let (batch, next) = some_pages(map, at);
        at = next;
        batch
    };
    let disk = FileDisk::new(file, true);
    write_parts(
        MapFile::new(&disk, path),
        (*map.geometry(), map.count_bits(0..map.geometry().bits())),
        options,
        std::iter::repeat_with(batches),
    )?;
    new.publish()
}

/// Writes a whole new map, closed cleanly, into an empty file, durably.
pub(crate) fn write_new(file: MapFile<'_>, geometry: Geometry, options: &Options) -> Result<()> {
    let (dirty, pages) = if options.dirty { (geometry.bits(), geometry.pages()) } else { (0, 0) };
    let batch =
        |first: u64| (first..pages).take(BATCH_PAGES).map(|index| (index, full_page(&geometry, index))).collect();
    write_parts(file, (geometry, dirty), options, (0..pages).step_by(BATCH_PAGES).map(batch))
}

fn writing(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    |source| Error::Io { op: "write the new map", path: path.to_path_buf(), source }
}

/// `batches`: the pages that are not zero, in as many pieces as it takes; none behind an empty one.
fn write_parts(
    file: MapFile<'_>,
    (geometry, dirty_bits): (Geometry, u64),
    options: &Options,
    batches: impl Iterator<Item = Vec<(u64, PageContent)>>,
) -> Result<()> {
    let io = file.io("write the new map");
    let mut header = Header::new(random_uuid().map_err(&io)?, geometry, options.durability);
    file.disk.extend(header.file_length()).map_err(&io)?;
    header.label.clone_from(&options.label);
    header.created = os::now();
    if !options.added.is_empty() {
        (header.dirt_reasons, header.dirt_time) = (options.added, header.created);
    }
    header.image = options.image.map(|i| i.0);
    header.clean_dirty_bits = dirty_bits;
    let bottom = BottomRef::of_map(&header);
    for (i, batch) in batches.take_while(|batch| !batch.is_empty()).enumerate() {
        if i > 0 {
            let at = geometry.item_of(batch[0].0 * PAGE_BITS);
            options.watcher.tell(Step::Creating, at, geometry.len())?;
        }
        let indices: Vec<u64> = batch.iter().map(|&(index, _)| index).collect();
        pages::write(file.disk, &bottom, &indices, |k, _| batch[k].1).map_err(&io)?;
    }
    // All that headers can take, so that no commit ever needs space.
    let zeros = vec![0; MAX_USED.next_multiple_of(4096)];
    let copies: Vec<WriteSegment<'_>> =
        (0..COPIES).map(|i| WriteSegment { offset: copy_offset(i), bytes: &zeros }).collect();
    file.disk.write_durable(&copies).map_err(&io)?;
    for (sequence, pair) in [(1, 0), (2, 1)] {
        header.sequence = sequence;
        headers::write_pair(file.disk, &header, pair).map_err(&io)?;
    }
    step!(SyncThenName => file.disk.sync_all().map_err(io))
}

/// A random identity, marked as such (RFC 9562, version 4).
pub(crate) fn random_uuid() -> std::io::Result<Uuid> {
    let mut bytes: [u8; 16] = os::random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(Uuid(bytes))
}
