//! New files that appear under their name when they are complete.
//!
//! Invariant kept here: a name appears when all that is behind it is durable, and never in place of another file. What
//! is not published is removed again, as far as that is possible.

use crate::exit::{Failure, Result};
use dirtymap::{Error, NewFile};
use std::io::Write;
use std::path::Path;

/// Refuses a name that is taken.
pub fn vacant(path: &Path) -> Result<()> {
    // Also a link that leads nowhere.
    if path.symlink_metadata().is_ok() { Err(taken(path)) } else { Ok(()) }
}

fn taken(path: &Path) -> Failure {
    Error::Exists { path: path.to_path_buf() }.into()
}

/// Makes a file of these bytes.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = NewFile::beside(path)?;
    let written = new.file().write_all(bytes).and_then(|()| new.file().sync_all());
    written.map_err(|e| Failure::io(format_args!("{}: write", path.display()), &e))?;
    Ok(new.publish()?)
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
        let file = NewFile::beside(&path).expect("a file");
        fs::write(&path, "somebody else's").expect("write");
        assert_eq!(file.publish().expect_err("taken").kind(), "exists");
        assert_eq!(vacant(&path).expect_err("taken").kind, "exists");
        assert_eq!(fs::read(&path).expect("read"), b"somebody else's");
        assert_eq!(fs::read_dir(directory.path()).expect("read").count(), 1);
    }
}
