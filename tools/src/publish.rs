//! New files that appear under their name when they are complete.
//!
//! Invariant kept here: a name appears when all that is behind it is durable, and never in place of another file. What
//! is not published is removed again, as far as that is possible.

use crate::exit::{Failure, Result};
use crate::files;
use dirtymap::Error;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::{Builder, NamedTempFile, TempDir, TempPath};

/// What temporary names start with.
const PREFIX: &str = ".dirtymap-";

/// Refuses a name that is taken.
pub fn vacant(path: &Path) -> Result<()> {
    // Also a link that leads nowhere.
    if path.symlink_metadata().is_ok() { Err(taken(path)) } else { Ok(()) }
}

fn taken(path: &Path) -> Failure {
    Error::Exists { path: path.to_path_buf() }.into()
}

fn beside<T>(path: &Path, make: impl FnOnce(&Builder<'_, '_>, &Path) -> io::Result<T>) -> Result<T> {
    let mut builder = Builder::new();
    let made = make(builder.prefix(PREFIX), files::directory_of(path));
    made.map_err(|e| Failure::io(format_args!("{}: create beside it", path.display()), &e))
}

/// A new file on the file system where `path` is to be.
pub fn file_beside(path: &Path) -> Result<NamedTempFile> {
    // As any new file: what the umask leaves.
    beside(path, |builder, directory| {
        let mut builder = builder.clone();
        builder.permissions(Permissions::from_mode(0o666)).tempfile_in(directory)
    })
}

/// A directory on the file system where `path` is to be, for what makes its file by itself.
pub fn directory_beside(path: &Path) -> Result<TempDir> {
    beside(path, |builder, directory| builder.tempdir_in(directory))
}

/// Makes a file of these bytes.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut temp = file_beside(path)?;
    let written = temp.write_all(bytes).and_then(|()| temp.as_file().sync_all());
    written.map_err(|e| Failure::io(format_args!("{}: write", path.display()), &e))?;
    publish(temp.into_temp_path(), path)
}

/// Gives a file that is complete and durable its name, durably.
pub fn publish(file: TempPath, path: &Path) -> Result<()> {
    file.persist_noclobber(path).map_err(|e| match e.error.kind() {
        io::ErrorKind::AlreadyExists => taken(path),
        _ => Failure::io(format_args!("{}: give the new file its name", path.display()), &e.error),
    })?;
    files::sync_directory_of(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_name_that_was_taken_meanwhile_is_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("name");
        vacant(&path).expect("vacant");
        let file = file_beside(&path).expect("a file");
        fs::write(&path, "somebody else's").expect("write");
        assert_eq!(publish(file.into_temp_path(), &path).expect_err("taken").kind, "exists");
        assert_eq!(vacant(&path).expect_err("taken").kind, "exists");
        assert_eq!(fs::read(&path).expect("read"), b"somebody else's");
        assert_eq!(fs::read_dir(directory.path()).expect("read").count(), 1);
    }
}
