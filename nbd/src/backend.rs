//! What an export is to a session: the trait that storage implements.

use crate::codec::{BlockSizes, Extent};
use crate::failure::{Errno, Failure};
use std::ops::Range;
use std::sync::Arc;

/// What an export offers. A client uses nothing that is not offered, and the session refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// No writes, trims, zeroes.
    pub read_only: bool,
    /// [`Backend::flush`] makes durable what was acknowledged.
    pub flush: bool,
    /// Writes can be durable before they are acknowledged.
    pub fua: bool,
    /// [`Backend::trim`].
    pub trim: bool,
    /// [`Backend::write_zeroes`].
    pub write_zeroes: bool,
    /// [`Zeroes::fast`]: refused at once where it is not quicker than a write.
    pub fast_zero: bool,
    /// [`Backend::cache`].
    pub cache: bool,
    /// What one connection has flushed, all connections see and have durable. True of every backend that several
    /// connections share and that keeps no cache for each.
    pub multi_conn: bool,
    /// A disk that turns.
    pub rotational: bool,
}

/// How zeroes are to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Zeroes {
    /// Durable before it returns.
    pub fua: bool,
    /// Stay allocated: no hole.
    pub no_hole: bool,
    /// Only if that is quicker than writing; else fail at once with [`Errno::NotSupported`] and change nothing.
    pub fast: bool,
}

/// Storage behind an export.
///
/// Sessions call it from several threads at once, and in no order. Ranges are inside of the size and aligned to the
/// smallest block: a session has checked that. All offsets and lengths are bytes. A call may block as long as it likes:
/// other requests of the connection go on in other threads.
pub trait Backend: Send + Sync {
    /// Size in bytes; does not change.
    fn size(&self) -> u64;

    /// What it offers; does not change.
    fn features(&self) -> Features;

    /// Block sizes; do not change.
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::default()
    }

    /// For people; may be empty.
    fn description(&self) -> String {
        String::new()
    }

    /// Names of the contexts, each with its namespace, as `base:allocation`. Do not change: the number of a context is its
    /// place here.
    fn contexts(&self) -> Vec<String> {
        Vec::new()
    }

    /// Fills `into` from `offset`.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure>;

    /// Stretches of `range` that surely read as zeroes, ascending: they are not read, and not sent as data. Only asked where
    /// the client can be told of holes; none is always right.
    fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let _ = range;
        Vec::new()
    }

    /// Writes `data` at `offset`; with `fua` it is durable before this returns.
    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Failure> {
        let _ = (offset, data, fua);
        Err(Failure::new(Errno::Perm, "the export is read-only"))
    }

    /// Makes durable every write that was acknowledged before, on any connection.
    fn flush(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// What is there is not needed any more; afterwards it may read as anything.
    fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), Failure> {
        let _ = (offset, length, fua);
        Err(Failure::invalid("no trim"))
    }

    /// Makes a range read as zeroes.
    fn write_zeroes(&self, offset: u64, length: u64, how: Zeroes) -> Result<(), Failure> {
        let _ = (offset, length, how);
        Err(Failure::invalid("no zeroes"))
    }

    /// It will be read soon.
    fn cache(&self, offset: u64, length: u64) -> Result<(), Failure> {
        let _ = (offset, length);
        Ok(())
    }

    /// Gives the states of a context, by its place in [`contexts`](Self::contexts), from `offset` on, one after the other
    /// and without gaps, until they cover `length` or `extents` takes no more. The last one may go further.
    fn block_status(&self, context: usize, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        let _ = (context, offset, length, extents);
        Err(Failure::invalid("no such context"))
    }
}

/// Collects extents: joins neighbours of one state, and takes no more than a reply may have.
#[derive(Debug, Clone)]
pub struct Extents {
    list: Vec<Extent>,
    /// Bytes until it is enough.
    missing: u64,
    /// Extents at most.
    most: usize,
    /// None may go past what was asked.
    exact: bool,
}

impl Extents {
    /// Extents of one reply at most: what bounds its memory.
    pub const MOST: usize = 1 << 15;

    /// For a reply about `length` bytes; with `one`, of one extent that goes no further.
    pub fn new(length: u64, one: bool) -> Self {
        Self { list: Vec::new(), missing: length, most: if one { 1 } else { Self::MOST }, exact: one }
    }

    /// Adds a stretch; one of no bytes is left out. False when no more are needed.
    pub fn push(&mut self, length: u64, flags: u32) -> bool {
        if length == 0 || self.missing == 0 {
            return self.missing > 0;
        }
        let length = if self.exact { length.min(self.missing) } else { length };
        let full = self.list.len() == self.most;
        match self.list.last_mut() {
            Some(last) if last.flags == flags => last.length += length,
            _ if full => self.missing = 0,
            _ => self.list.push(Extent { length, flags }),
        }
        self.missing = self.missing.saturating_sub(length);
        self.missing > 0
    }

    /// What was collected.
    pub fn into_list(self) -> Vec<Extent> {
        self.list
    }
}

/// A line of the list of exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// The exports of a server. They may come and go while it runs.
pub trait Exports: Send + Sync {
    /// Those that a client may know of.
    fn list(&self) -> Vec<Listed>;

    /// The export of a name, and the name by which it is listed. The empty name is the default export.
    fn open(&self, name: &str) -> Option<(String, Arc<dyn Backend>)>;
}

/// Exports that stay as they are; the first one is the default.
#[derive(Clone, Default)]
pub struct FixedExports(Vec<(String, Arc<dyn Backend>)>);

impl FixedExports {
    /// No exports yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, backend: Arc<dyn Backend>) -> Self {
        self.0.push((name.into(), backend));
        self
    }
}

impl Exports for FixedExports {
    fn list(&self) -> Vec<Listed> {
        let listed = |(name, backend): &(String, Arc<dyn Backend>)| Listed {
            name: name.clone(),
            description: backend.description(),
        };
        self.0.iter().map(listed).collect()
    }

    fn open(&self, name: &str) -> Option<(String, Arc<dyn Backend>)> {
        let named = self.0.iter().find(|(known, _)| known == name);
        named.or_else(|| self.0.first().filter(|_| name.is_empty())).cloned()
    }
}
