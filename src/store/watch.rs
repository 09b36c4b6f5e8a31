//! Looking at a map that others have open.
//!
//! Invariant kept here: what was read in the volatile part counts only if the nonce there was that of the session
//! afterwards, and the session shared. Nothing is written, and no lock is kept that a writer waits for.

use super::open;
use super::view::{View, runtime};
use crate::error::{Error, Result};
use crate::format::{Durability, Header, Uuid, VolatileLayout};
use crate::sys::FileDisk;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// A session of others, looked at.
pub(super) struct Watch {
    pub(super) disk: Arc<FileDisk>,
    pub(super) view: View,
    pub(super) durability: Durability,
    nonce: Uuid,
}

impl Watch {
    /// Looks at the session that has the file open, if it can be looked at. The caller holds the gate.
    pub(super) fn new(disk: &Arc<FileDisk>, path: &Path) -> Result<Option<Watch>> {
        let io = |source| Error::Io { op: "map the volatile part", path: path.to_path_buf(), source };
        let map = |header: &Header| {
            let v = VolatileLayout::new(&header.geometry);
            let region = header.layout.volatile.clone();
            View::new(header.geometry, &v, disk.map_to_read(region).map_err(io)?)
        };
        let session = open::session(&**disk, path, map)?;
        let watch = |(view, Header { durability, nonce, .. })| Watch { disk: disk.clone(), view, durability, nonce };
        Ok(session.map(watch))
    }

    /// Fails when the session has ended, and in a forked child.
    pub(super) fn usable(&self) -> Result<()> {
        self.view.usable()?;
        let shared = self.view.runtime()[runtime::SHARED].load(SeqCst) == 1;
        if shared && self.view.nonce() == self.nonce.0 {
            Ok(())
        } else {
            Err(Error::Unusable { why: "those who had it open have closed it or changed its length; open it again" })
        }
    }

    /// What `look` finds, if the session lives.
    pub(super) fn read<R>(&self, look: impl Fn(&View) -> R) -> Option<R> {
        self.view.usable().ok()?;
        let found = look(&self.view);
        self.usable().ok().map(|()| found)
    }
}
