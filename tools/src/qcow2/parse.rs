//! From the bytes of a qcow2 file to the bits of one of its bitmaps.
//!
//! Invariant kept here: an offset, size or count from the file is used only after it was checked against the file's
//! length and the specification. Structures that overlap are read as they are: nothing is written.

use super::spec::{self, entry, extension, header};
use super::{Error, ReadAt, Result, be32, be64, listing};
use crate::bits::{find, runs};
use dirtymap::Geometry;
use std::ffi::OsStr;
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// Table entries read at once.
const BATCH: u64 = 512;
/// Bytes of bits read at once; a multiple of the smallest cluster.
const PIECE: u64 = 64 << 10;

/// A qcow2 file, its header read and checked as far as bitmaps need it.
#[derive(Debug)]
pub struct Image<S> {
    source: S,
    cluster_bits: u32,
    size: u64,
    consistent: bool,
    directory: Option<Directory>,
}

/// Where the bitmap directory is.
#[derive(Debug)]
struct Directory {
    count: u32,
    range: Range<u64>,
}

/// A bitmap as the directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    name: Vec<u8>,
    table_offset: u64,
    table_entries: u32,
    flags: u32,
    kind: u8,
    granularity: u8,
    extra_bytes: u32,
}

impl Entry {
    /// The name: any bytes.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Whether it was not saved.
    pub fn in_use(&self) -> bool {
        self.flags & spec::FLAG_IN_USE != 0
    }

    /// Whether QEMU records no writes in it.
    pub fn disabled(&self) -> bool {
        self.flags & spec::FLAG_AUTO == 0
    }

    /// log2 of the bytes behind each bit.
    pub fn granularity(&self) -> u32 {
        self.granularity.into()
    }
}

/// Reads bytes after checking that they are there, so that none are allocated for what is not.
pub(super) fn read<S: ReadAt>(source: &S, place: impl fmt::Display, range: Range<u64>) -> Result<Vec<u8>> {
    let size = source.size();
    if range.start > range.end || range.end > size {
        let found = format!("it at bytes {} to {}", range.start, range.end);
        return Err(Error::corrupt(place, found, format!("it inside the file, which has {size} bytes")));
    }
    let mut bytes = vec![0; (range.end - range.start) as usize];
    match source.read_at(&mut bytes, range.start) {
        Ok(()) => Ok(bytes),
        Err(source) => Err(Error::Io { bytes: bytes.len(), offset: range.start, source }),
    }
}

/// Refuses an offset at which no cluster begins.
pub(super) fn aligned(place: impl fmt::Display, offset: u64, cluster: u64) -> Result<()> {
    if offset.is_multiple_of(cluster) && offset != 0 {
        return Ok(());
    }
    let expected = format!("a multiple of the cluster size {cluster}, not 0");
    Err(Error::corrupt(place, format!("offset {offset:#x}"), expected))
}

/// `offset` and the end of `bytes` from there on.
pub(super) fn span(place: impl fmt::Display, offset: u64, bytes: u64) -> Result<Range<u64>> {
    let end = offset.checked_add(bytes);
    end.map(|end| offset..end).ok_or_else(|| Error::corrupt(place, format!("offset {offset:#x}"), "it inside the file"))
}

impl<S: ReadAt> Image<S> {
    /// Reads the header and its extensions.
    ///
    /// # Errors
    /// All but [`Error::NoSuchBitmap`].
    pub fn open(source: S) -> Result<Image<S>> {
        const PLACE: &str = "qcow2 header";
        if source.size() < 8 || read(&source, PLACE, 0..4)? != spec::MAGIC {
            return Err(Error::NotQcow2);
        }
        let version = be32(&read(&source, PLACE, 0..8)?, header::VERSION);
        if version == 2 {
            let why = "a qcow2 image of version 2 (compat=0.10) has no bitmaps; give one of version 3";
            return Err(Error::Unsupported(why.into()));
        }
        if version != spec::VERSION {
            return Err(Error::Unsupported(format!("found a qcow2 image of version {version}, expected version 3")));
        }
        let fixed = read(&source, PLACE, 0..spec::HEADER_BYTES as u64)?;
        let cluster_bits = be32(&fixed, header::CLUSTER_BITS);
        if !(spec::MIN_CLUSTER_BITS..=spec::MAX_CLUSTER_BITS).contains(&cluster_bits) {
            return Err(Error::corrupt(PLACE, format!("cluster_bits {cluster_bits}"), "9 to 21"));
        }
        check_features(be64(&fixed, header::INCOMPATIBLE))?;
        let length = be32(&fixed, header::HEADER_LENGTH);
        let cluster = 1u64 << cluster_bits;
        if (length as usize) < spec::HEADER_BYTES || !length.is_multiple_of(8) || u64::from(length) > cluster {
            let expected = format!("a multiple of 8 from {} to {cluster}", spec::HEADER_BYTES);
            return Err(Error::corrupt(PLACE, format!("header_length {length}"), expected));
        }
        // The name of a backing file lies behind the extensions.
        let end = match be64(&fixed, header::BACKING_FILE_OFFSET) {
            0 => cluster,
            offset => offset.min(cluster),
        };
        let area = read(&source, "header extensions", length.into()..end.min(source.size()).max(length.into()))?;
        let mut image = Image {
            source,
            cluster_bits,
            size: be64(&fixed, header::SIZE),
            consistent: be64(&fixed, header::AUTOCLEAR) & spec::AUTOCLEAR_BITMAPS != 0,
            directory: None,
        };
        image.directory = image.find_directory(&area)?;
        Ok(image)
    }

    /// Bytes of the virtual disk.
    pub fn virtual_size(&self) -> u64 {
        self.size
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn aligned(&self, place: impl fmt::Display, offset: u64) -> Result<()> {
        aligned(place, offset, self.cluster())
    }

    fn find_directory(&self, mut area: &[u8]) -> Result<Option<Directory>> {
        const PLACE: &str = "header extensions";
        let mut found = None;
        while area.len() >= spec::EXTENSION_HEAD {
            let (kind, length) = (be32(area, 0), be32(area, 4) as usize);
            area = &area[spec::EXTENSION_HEAD..];
            if kind == spec::EXTENSION_END {
                break;
            }
            let Some(data) = area.get(..length) else {
                let what = format!("extension {kind:#010x} of {length} bytes");
                return Err(Error::corrupt(PLACE, what, format!("at most the {} that are left", area.len())));
            };
            if kind == spec::EXTENSION_BITMAPS && found.replace(self.directory_of(data)?).is_some() {
                return Err(Error::corrupt(PLACE, "two bitmaps extensions", "one"));
            }
            area = area.get(length.next_multiple_of(spec::PADDING)..).unwrap_or_default();
        }
        if found.is_none() && self.consistent {
            return Err(Error::corrupt(PLACE, "no bitmaps extension", "one, as autoclear feature bit 0 is set"));
        }
        Ok(found)
    }

    fn directory_of(&self, data: &[u8]) -> Result<Directory> {
        const PLACE: &str = "bitmaps extension";
        if data.len() != extension::BYTES {
            return Err(Error::corrupt(PLACE, format!("{} bytes", data.len()), extension::BYTES));
        }
        let count = be32(data, extension::COUNT);
        if count == 0 || count > spec::MAX_BITMAPS {
            return Err(Error::corrupt(PLACE, format!("{count} bitmaps"), format!("1 to {}", spec::MAX_BITMAPS)));
        }
        if be32(data, extension::RESERVED) != 0 {
            return Err(Error::corrupt(PLACE, "reserved bytes in use", "zeros"));
        }
        let offset = be64(data, extension::DIRECTORY_OFFSET);
        self.aligned(PLACE, offset)?;
        let range = span(PLACE, offset, be64(data, extension::DIRECTORY_SIZE))?;
        if range.end > self.source.size() {
            let found = format!("a directory at bytes {} to {}", range.start, range.end);
            return Err(Error::corrupt(PLACE, found, format!("it in the {} bytes of the file", self.source.size())));
        }
        Ok(Directory { count, range })
    }

    /// All bitmaps.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub fn entries(&self) -> Result<Vec<Entry>> {
        const PLACE: &str = "bitmap directory";
        let Some(Directory { count, range }) = &self.directory else { return Ok(Vec::new()) };
        let mut at = range.start;
        let mut entries = Vec::new();
        let inside = |n: u32, end: u64| {
            let found = format!("entry {n} up to byte {end}");
            let expected = || format!("it in the directory, which ends at {}", range.end);
            if end > range.end { Err(Error::corrupt(PLACE, found, expected())) } else { Ok(()) }
        };
        for n in 0..*count {
            let fixed_end = at + entry::BYTES as u64;
            inside(n, fixed_end)?;
            let fixed = read(&self.source, PLACE, at..fixed_end)?;
            let name_bytes = usize::from(u16::from_be_bytes([fixed[entry::NAME_BYTES], fixed[entry::NAME_BYTES + 1]]));
            let extra_bytes = be32(&fixed, entry::EXTRA_BYTES);
            let name_start = fixed_end + u64::from(extra_bytes);
            let end = (name_start + name_bytes as u64).next_multiple_of(spec::PADDING as u64);
            inside(n, end)?;
            if name_bytes == 0 || name_bytes > spec::MAX_NAME {
                let expected = format!("1 to {}", spec::MAX_NAME);
                return Err(Error::corrupt(PLACE, format!("a name of {name_bytes} bytes"), expected));
            }
            entries.push(Entry {
                name: read(&self.source, PLACE, name_start..name_start + name_bytes as u64)?,
                table_offset: be64(&fixed, entry::TABLE_OFFSET),
                table_entries: be32(&fixed, entry::TABLE_ENTRIES),
                flags: be32(&fixed, entry::FLAGS),
                kind: fixed[entry::TYPE],
                granularity: fixed[entry::GRANULARITY_BITS],
                extra_bytes,
            });
            at = end;
        }
        if at != range.end {
            let found = format!("{} bytes behind the last entry", range.end - at);
            return Err(Error::corrupt(PLACE, found, "its size to be that of its entries"));
        }
        Ok(entries)
    }

    /// The bitmap of this name, if it is one that may be read: of a known type, with nothing in it that only a newer
    /// version understands. Its bits may be out of date all the same: see [`unreliable`](Self::unreliable).
    ///
    /// # Errors
    /// All but [`Error::NotQcow2`].
    pub fn find(&self, name: impl AsRef<[u8]>) -> Result<Entry> {
        let (name, entries) = (name.as_ref(), self.entries()?);
        let mut named = entries.iter().filter(|entry| entry.name == name);
        let Some(entry) = named.next() else {
            return Err(Error::NoSuchBitmap { name: name.into(), there: listing(&entries) });
        };
        let name = OsStr::from_bytes(name);
        if named.next().is_some() {
            return Err(Error::corrupt("bitmap directory", format!("two bitmaps {name:?}"), "one"));
        }
        let unsupported = |what: String| Err(Error::Unsupported(format!("bitmap {name:?} has {what}")));
        if entry.kind != spec::TYPE_DIRTY_TRACKING {
            return unsupported(format!("type {}; only dirty tracking bitmaps (type 1) can be read", entry.kind));
        }
        if entry.flags & !spec::FLAGS_KNOWN != 0 {
            return unsupported(format!("flags {:#x}, of which only {:#x} are known", entry.flags, spec::FLAGS_KNOWN));
        }
        if entry.extra_bytes > 0 && entry.flags & spec::FLAG_EXTRA_DATA_COMPATIBLE == 0 {
            return unsupported("extra data without which it must not be used, and which is not known here".into());
        }
        if entry.granularity > spec::MAX_GRANULARITY_BITS {
            let found = format!("granularity_bits {} of bitmap {name:?}", entry.granularity);
            return Err(Error::corrupt("bitmap directory", found, "0 to 63"));
        }
        self.geometry(entry)?;
        Ok(entry.clone())
    }

    /// Why no bitmap of the image can be relied upon, if so.
    pub fn inconsistent(&self) -> Option<&'static str> {
        (self.directory.is_some() && !self.consistent).then_some(
            "the image's bitmaps are marked inconsistent, so it was changed by a program that does not know of them",
        )
    }

    /// Why the bits of a bitmap cannot be relied upon, if so.
    pub fn unreliable(&self, entry: &Entry) -> Option<&'static str> {
        let in_use = "it is marked in use, so a program has the image open, or ended without saving the bitmap";
        self.inconsistent().or(entry.in_use().then_some(in_use))
    }

    /// The shape of a bitmap.
    fn geometry(&self, entry: &Entry) -> Result<Geometry> {
        Geometry::new(self.size, entry.granularity()).map_err(|e| Error::Unsupported(e.to_string()))
    }

    /// The bits of a bitmap, piece by piece.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when its table cannot be one of a bitmap of this image; [`Error::Unsupported`].
    pub fn chunks(&self, entry: &Entry) -> Result<Chunks<'_, S>> {
        const PLACE: &str = "bitmap directory";
        let bits = self.geometry(entry)?.bits();
        let expected = bits.div_ceil(8 * self.cluster());
        if u64::from(entry.table_entries) != expected {
            let found = format!("a bitmap table of {} entries", entry.table_entries);
            return Err(Error::corrupt(PLACE, found, format!("{expected} for {bits} bits")));
        }
        if expected > 0 {
            self.aligned("bitmap table", entry.table_offset)?;
        }
        let table = span("bitmap table", entry.table_offset, expected * spec::TABLE_ENTRY)?;
        if expected > 0 && table.end > self.source.size() {
            let found = format!("it at bytes {} to {}", table.start, table.end);
            let expected = format!("it in the {} bytes of the file", self.source.size());
            return Err(Error::corrupt("bitmap table", found, expected));
        }
        Ok(Chunks { image: self, bits, table: table.start, batch: Vec::new(), at: 0, failed: false })
    }
}

/// Refuses what an implementation must not open, and what says that nothing can be relied upon.
pub(super) fn check_features(incompatible: u64) -> Result<()> {
    let unknown = incompatible & !spec::INCOMPATIBLE_KNOWN;
    if unknown != 0 {
        let message = format!("the image has incompatible features {unknown:#x}, which are not known here");
        return Err(Error::Unsupported(message));
    }
    if incompatible & spec::INCOMPATIBLE_CORRUPT != 0 {
        let message = "the image is marked corrupt; repair it first (qemu-img check -r all)";
        return Err(Error::Unsupported(message.into()));
    }
    Ok(())
}

/// What a piece of a bitmap holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All clean, without any bytes for it.
    Zeros,
    /// All dirty, without any bytes for it.
    Ones,
    /// Bits: number `i` of the piece is bit `i % 8` of byte `i / 8`.
    Data(Vec<u8>),
}

/// A piece of a bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which bits of the bitmap.
    pub bits: Range<u64>,
    /// And what they are.
    pub content: Content,
}

impl Chunk {
    /// Calls `dirty` with the runs of dirty bits, ascending.
    ///
    /// # Errors
    /// What `dirty` returned first.
    pub fn runs<E>(
        &self,
        mut dirty: impl FnMut(Range<u64>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let start = self.bits.start;
        match &self.content {
            Content::Zeros => Ok(()),
            Content::Ones => dirty(self.bits.clone()),
            Content::Data(bytes) => {
                runs(bytes, self.bits.end - start).try_for_each(|run| dirty(start + run.start..start + run.end))
            }
        }
    }
}

/// Iterates over the pieces of a bitmap: ascending, without gaps, of at most 64 KiB if they hold data. Ends with the
/// first error.
#[derive(Debug)]
pub struct Chunks<'a, S> {
    image: &'a Image<S>,
    bits: u64,
    table: u64,
    /// Entries of the table from a multiple of [`BATCH`] on.
    batch: Vec<u8>,
    /// The next bit.
    at: u64,
    failed: bool,
}

impl<S> Chunks<'_, S> {
    /// How many bits there are in all.
    pub fn bits(&self) -> u64 {
        self.bits
    }
}

impl<S: ReadAt> Iterator for Chunks<'_, S> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Result<Chunk>> {
        if self.failed || self.at >= self.bits {
            return None;
        }
        let chunk = self.read();
        match &chunk {
            Ok(chunk) => self.at = chunk.bits.end,
            Err(_) => self.failed = true,
        }
        Some(chunk)
    }
}

impl<S: ReadAt> Chunks<'_, S> {
    /// The piece at `self.at`, which is the first bit of a cluster or of a piece of one.
    fn read(&mut self) -> Result<Chunk> {
        let cluster = self.image.cluster();
        let index = self.at / (8 * cluster);
        let cluster_end = ((index + 1) * 8 * cluster).min(self.bits);
        let offset = match self.entry(index)? {
            0 => return Ok(Chunk { bits: self.at..cluster_end, content: Content::Zeros }),
            spec::TABLE_ONES => return Ok(Chunk { bits: self.at..cluster_end, content: Content::Ones }),
            offset => offset,
        };
        let bits = self.at..(self.at + 8 * PIECE).min(cluster_end);
        let skip = self.at / 8 % cluster;
        let used = (bits.end - bits.start).div_ceil(8);
        let place = "bitmap data";
        let mut range = span(place, offset, skip)?.end..span(place, offset, skip + used)?.end;
        if bits.end == self.bits {
            // All of the cluster that is there: what is not used must be zero.
            range.end = span(place, offset, cluster)?.end.min(self.image.source.size()).max(range.end);
        }
        let mut bytes = read(&self.image.source, place, range)?;
        if let Some(bit) = find(&bytes, bits.end - bits.start, 8 * bytes.len() as u64, true) {
            let found = format!("bit {} set", self.at + bit);
            return Err(Error::corrupt(place, found, format!("none: the bitmap has {} bits", self.bits)));
        }
        bytes.truncate(used as usize);
        Ok(Chunk { bits, content: Content::Data(bytes) })
    }

    /// Entry `index` of the bitmap table: 0, [`spec::TABLE_ONES`], or the offset of a cluster.
    fn entry(&mut self, index: u64) -> Result<u64> {
        let place = format_args!("bitmap table entry {index}");
        if self.batch.is_empty() || (index.is_multiple_of(BATCH) && self.at.is_multiple_of(8 * self.image.cluster())) {
            let entries = self.bits.div_ceil(8 * self.image.cluster());
            let first = index - index % BATCH;
            let range = first * spec::TABLE_ENTRY..entries.min(first + BATCH) * spec::TABLE_ENTRY;
            self.batch = read(&self.image.source, "bitmap table", self.table + range.start..self.table + range.end)?;
        }
        let entry = be64(&self.batch, (index % BATCH * spec::TABLE_ENTRY) as usize);
        let offset = entry & spec::TABLE_OFFSET;
        let allowed = if offset == 0 { spec::TABLE_ONES } else { spec::TABLE_OFFSET };
        if entry & !allowed != 0 {
            return Err(Error::corrupt(place, format_args!("{entry:#x}"), "no reserved bits"));
        }
        if offset != 0 {
            self.image.aligned(place, offset)?;
        }
        Ok(entry)
    }
}
