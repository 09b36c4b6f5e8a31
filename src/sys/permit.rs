//! [`Permit`]: who may use a new file.
//!
//! Invariant kept here: nobody gets a permission by a new file that the other file does not give.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

/// Permissions that let their owner read and write, and nobody else do anything.
pub(super) const PRIVATE: u32 = 0o600;

/// Who may use a new file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Permit {
    /// Its owner only.
    #[default]
    Owner,
    /// Whom the process lets by its umask, as with files of other programs.
    Umask,
    /// The users of another file: mode, owner and group.
    Like(u32, u32, u32),
}

impl Permit {
    /// The users of a file. Its owner only, where that cannot be found out.
    pub(crate) fn like(file: &File) -> Permit {
        let like = |m: Metadata| Permit::Like(without_acl(file, m.mode()), m.uid(), m.gid());
        file.metadata().map_or(Permit::Owner, like)
    }

    /// Gives them to a new file, which its owner alone may use. What this process may not give away makes the file's
    /// permissions narrower.
    pub(super) fn give(self, file: &File) -> io::Result<()> {
        let Permit::Like(mode, uid, gid) = self else { return Ok(()) };
        let now = file.metadata()?;
        let group = now.gid() == gid || fchown(file, None, Some(gid)).is_ok();
        let owner = now.uid() == uid || fchown(file, Some(uid), None).is_ok();
        file.set_permissions(Permissions::from_mode(without_acl(file, narrowed(mode, owner, group))))
    }
}

/// A mode without the permissions of the group, if the file has an access control list: its mode does not tell them then.
fn without_acl(file: &File, mode: u32) -> u32 {
    const NAME: &std::ffi::CStr = c"system.posix_acl_access";
    // SAFETY: an open descriptor, a C string, and no place for the value, of which only the length is asked.
    let length = unsafe { libc::fgetxattr(file.as_raw_fd(), NAME.as_ptr(), std::ptr::null_mut(), 0) };
    if length > 0 { mode & !0o070 } else { mode }
}

/// The mode of a file that is to be used by the users of another one, which has `mode`, and may have got its owner and its
/// group or not. A class of users gets no more than each of the classes of the other file in which they may be there. The
/// owner may always read and write.
fn narrowed(mode: u32, owner: bool, group: bool) -> u32 {
    let (u, g, o) = (mode >> 6 & 6, mode >> 3 & 6, mode & 6);
    let all = if owner { 6 } else { u };
    let (g, o) = if group { (g & all, o & all) } else { (g & o & all, g & o & all) };
    PRIVATE | g << 3 | o
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_class_of_users_gets_what_one_of_those_that_they_may_be_in_had_not() {
        assert_eq!(narrowed(0o664, true, false), 0o644);
        assert_eq!(narrowed(0o660, true, false), 0o600);
        assert_eq!(narrowed(0o646, true, false), 0o644);
        assert_eq!(narrowed(0o066, false, true), 0o600);
        assert_eq!(narrowed(0o466, false, true), 0o644);
        assert_eq!(narrowed(0o660, false, true), 0o660);
        assert_eq!(narrowed(0o664, false, false), 0o644);
    }
}
