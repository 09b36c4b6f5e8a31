//! The claim of a backup on a map that it lets go of in between.
//!
//! Invariant kept here: this is the claim that the library takes ([`DirtyMap::claim_backup`](dirtymap::DirtyMap::claim_backup); in
//! FORMAT.md, "Locks"), so that of all backups one at a time has it; it lasts for as long as the file is open.

use crate::exit::{Failure, Result};
use dirtymap::error::InUse;
use dirtymap::format::BACKUP_LOCK;
use dirtymap::{DirtyMap, Error};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::File;

/// A map that is claimed, until this is dropped.
#[derive(Debug)]
pub struct Claim {
    _file: File,
}

impl Claim {
    /// Claims a map, also for when it is closed.
    pub fn of(map: &DirtyMap) -> Result<Claim> {
        let path = map.path();
        let file = File::options().read(true).write(true).open(path).map_err(|e| Failure::open(path, &e))?;
        let byte = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: BACKUP_LOCK as i64,
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)) {
            Ok(_) => Ok(Claim { _file: file }),
            Err(Errno::EAGAIN | Errno::EACCES) => {
                // Which says who has it.
                map.claim_backup()?;
                Err(Error::Locked { path: path.to_path_buf(), what: InUse::Backup, holder: None }.into())
            }
            Err(e) => Err(Failure::io(format_args!("{}: take the backup lock", path.display()), &e.into())),
        }
    }
}
