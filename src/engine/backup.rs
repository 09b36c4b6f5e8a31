//! What a commit records of a backup, and what it forgets then.
//!
//! Invariant kept here: the completed target and what is dirty change in one commit.

use super::core::Core;
use crate::error::{InUse, Result};
use crate::file::locks::locked;
use crate::file::reasons::forget;
use crate::format::{Header, Stamp};
use crate::sys::Lock;
use crate::sys::os;

/// A backup that is complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completed {
    pub(crate) target: Stamp,
    pub(crate) audited: u64,
}

impl Completed {
    /// Has the header name it.
    pub(crate) fn record(&self, header: &mut Header) {
        header.target = Some(self.target);
        header.begun = None;
        header.backup_time = os::now();
        count_audit(header, self.audited, 0);
    }
}

pub(crate) fn count_audit(header: &mut Header, audited: u64, missed: u64) {
    if audited > 0 {
        header.audited = header.audited.saturating_add(audited);
        header.audit_missed = header.audit_missed.saturating_add(missed);
        header.audit_time = os::now();
    }
}

impl Core {
    /// Claims the map for a backup of this process.
    pub(crate) fn claim_backup(&self) -> Result<()> {
        if self.disk.try_lock(Lock::Backup).map_err(self.io("take the backup lock"))? {
            return Ok(());
        }
        Err(locked(self.file(), Lock::Backup, InUse::Backup))
    }

    /// Changes the header for a backup that begins.
    pub(crate) fn begin_backup(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let lock = self.lock()?;
        let mut header = lock.refresh_header()?;
        let seen = lock.seen(&header);
        // Not begun until the header says so: whoever is refused resets nothing, and completes nothing.
        self.backup_began.set(None);
        change(&mut header);
        lock.commit(&mut header)?;
        self.backup_began.set(seen);
        Ok(())
    }

    /// Changes the header for a backup that is complete, and has it forget what had been added when this process began it.
    pub(crate) fn complete_backup(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let lock = self.lock()?;
        let mut header = lock.refresh_header()?;
        change(&mut header);
        if lock.nothing_added_since(self.backup_began.get()) {
            forget(&mut header);
        }
        lock.commit(&mut header)?;
        self.backup_began.set(None);
        Ok(())
    }
}
