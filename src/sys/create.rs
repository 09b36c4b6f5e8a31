//! Making a file that gets its name when it is complete.
//!
//! Invariants kept here: a name appears only when all that is behind it is durable, never in place of another file, and never
//! with wider permissions than were asked for. A creator that is killed leaves nothing; where the file system has no files
//! without a name, it leaves one with a temporary name, which the next creator in that directory removes.

use super::lock::{Lock, lock_now};
use super::os;
use super::permit::{PRIVATE, Permit};
use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What temporary names start and end with. In between are 16 hexadecimal digits.
const TEMPORARY: (&str, &str) = (".dirtymap-", ".tmp");

/// A new file. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    /// Open from the beginning, so that what can be refused is refused in time.
    directory: File,
    path: PathBuf,
    /// Where the file system has no files without a name.
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// An empty file that is to be at `path`, where there must be nothing.
    pub(crate) fn at(path: &Path, permit: Permit) -> io::Result<NewFile> {
        path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        if os::exists(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mode = if permit == Permit::Umask { 0o666 } else { PRIVATE };
        let directory = File::open(directory_of(path))?;
        let (file, temporary) = match nameless(directory_of(path), mode) {
            Some(file) => (file, None),
            None => named(path, mode).map(|(file, name)| (file, Some(name)))?,
        };
        let new = NewFile { file, directory, path: path.to_path_buf(), temporary };
        permit.give(&new.file)?;
        Ok(new)
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, which nothing may have, and makes the name durable. The caller has made the content durable.
    /// After an error there is no such name.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        match self.temporary.take() {
            None => link(&fd_path(&self.file), &self.path)?,
            Some(temporary) => {
                if let Err(e) = rename(&temporary, &self.path) {
                    self.temporary = Some(temporary);
                    return Err(e);
                }
            }
        }
        // The file once more: of one without a name, btrfs makes nothing durable but the data.
        let durable = self.file.sync_all().and_then(|()| self.directory.sync_all());
        if durable.is_err() && is_the_same(&self.file, self.path.symlink_metadata()) {
            // A name that may be gone after a crash is none that a caller could rely on.
            let _ = std::fs::remove_file(&self.path);
        }
        durable
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Best effort: the next creator here tries again.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// The directory that `path` is in.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name of an open file that has none.
fn fd_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// A file without a name, where there can be one, and where it can be given one later.
fn nameless(directory: &Path, mode: u32) -> Option<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).mode(mode).custom_flags(libc::O_TMPFILE).open(directory).ok()?;
    is_the_same(&file, fd_path(&file).metadata()).then_some(file)
}

/// Whether what was found somewhere is this file.
fn is_the_same(file: &File, found: io::Result<Metadata>) -> bool {
    let identity = |m: Metadata| (m.dev(), m.ino());
    matches!((file.metadata().map(identity), found.map(identity)), (Ok(this), Ok(found)) if this == found)
}

/// A file beside `path` with a temporary name, locked for as long as it is open. Removes those whose creators are gone.
fn named(path: &Path, mode: u32) -> io::Result<(File, PathBuf)> {
    let (first, last) = TEMPORARY;
    tidy(directory_of(path));
    for _ in 0..16 {
        // Not made of the name, which may be as long as names can be.
        let name = path.with_file_name(format!("{first}{:016x}{last}", u64::from_le_bytes(os::random()?)));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&name) {
            // Another creator may have taken it for one that was left, just before it was locked.
            Ok(file) if lock_now(&file, Lock::Creator)? && file.metadata()?.nlink() > 0 => return Ok((file, name)),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Removes files with temporary names whose creators are gone. Best effort: they only take space.
fn tidy(directory: &Path) {
    let is_temporary = |name: &str| {
        let digits = name.strip_prefix(TEMPORARY.0).and_then(|rest| rest.strip_suffix(TEMPORARY.1));
        digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(is_temporary) {
            continue;
        }
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(entry.path());
        if let Ok(file) = file
            && matches!(lock_now(&file, Lock::Creator), Ok(true))
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Gives a file without a name one.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    let here = libc::AT_FDCWD;
    // SAFETY: both are valid C strings; the flag is plain.
    match unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives a file another name, which nothing may have.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let (c_from, c_to) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    let here = libc::AT_FDCWD;
    // SAFETY: both are valid C strings; the flag is plain.
    let renamed = unsafe {
        libc::syscall(libc::SYS_renameat2, here, c_from.as_ptr(), here, c_to.as_ptr(), libc::RENAME_NOREPLACE)
    };
    if renamed == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    if !matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) {
        return Err(e);
    }
    // A file system without the flag: a hard link does not replace either. The name is there then, whatever becomes of the
    // temporary one, which the next creator removes.
    std::fs::hard_link(from, to)?;
    let _ = std::fs::remove_file(from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::refuse::{Refused, refusing};
    use super::*;
    use std::fs::{self, Permissions};
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// What a file system says that has no files without a name.
    const NO_NAMELESS: Refused = Refused {
        call: libc::SYS_openat,
        argument: Some((2, libc::O_TMPFILE as u32, libc::O_TMPFILE as u32)),
        error: libc::EOPNOTSUPP,
    };

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    fn make(path: &Path, permit: Permit) -> io::Result<()> {
        let new = NewFile::at(path, permit)?;
        new.file().write_all(b"new")?;
        new.publish()
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_published_and_leaves_nothing_else() {
        let in_both_ways = |what: &(dyn Fn() + Sync)| {
            what();
            refusing(&[NO_NAMELESS], what);
        };
        in_both_ways(&|| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("new");
            let new = NewFile::at(&path, Permit::Owner).unwrap();
            assert!(!path.exists());
            new.file().write_all(b"new").unwrap();
            new.publish().unwrap();
            assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o600));
            drop(NewFile::at(&directory.path().join("dropped"), Permit::Owner).unwrap());
            assert_eq!(names(directory.path()), ["new"]);
        });
    }

    #[test]
    fn a_name_that_is_taken_or_was_taken_meanwhile_is_not_replaced() {
        let taken = |what: &dyn Fn(&Path), late: bool| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("name");
            let new = late.then(|| NewFile::at(&path, Permit::Owner).unwrap());
            what(&path);
            let refused = match new {
                Some(new) => new.publish(),
                None => NewFile::at(&path, Permit::Owner).map(drop),
            };
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(names(directory.path()), ["name"]);
        };
        let all = || {
            for late in [false, true] {
                taken(&|path| fs::write(path, "another's").unwrap(), late);
                taken(&|path| symlink("nowhere", path).unwrap(), late);
            }
        };
        all();
        refusing(&[NO_NAMELESS], all);
    }

    #[test]
    fn what_a_killed_creator_has_left_is_removed_by_the_next_one_and_what_is_in_use_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        refusing(&[NO_NAMELESS], || {
            let in_use = NewFile::at(&at("a"), Permit::Owner).unwrap();
            let left = ".dirtymap-0123456789abcdef.tmp";
            let link = ".dirtymap-fedcba9876543210.tmp";
            let others =
                [".dirtymap-0123456789abcdef", ".dirtymap-0123456789abcdeg.tmp", "dirtymap-0123456789abcdef.tmp"];
            others.iter().chain([&left]).for_each(|name| fs::write(at(name), "").unwrap());
            symlink("a", at(link)).unwrap();
            make(&at("b"), Permit::Owner).unwrap();
            let found = names(directory.path());
            assert!(!found.iter().any(|name| name == left), "{found:?}");
            assert!(others.iter().chain([&link]).all(|name| found.iter().any(|f| f == name)), "{found:?}");
            in_use.publish().unwrap();
            assert_eq!(names(directory.path()).len(), found.len(), "the name has changed, and nothing else");
        });
    }

    /// Without either sync, of the file and of its directory, a crash may take the name away again, or what is behind it.
    #[test]
    fn a_name_that_cannot_be_made_durable_is_an_error_and_is_not_there() {
        for of_directory in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let new = NewFile::at(&directory.path().join("new"), Permit::Owner).unwrap();
            let number = if of_directory { &new.directory } else { &new.file }.as_raw_fd() as u32;
            let refused = Refused { call: libc::SYS_fsync, argument: Some((0, u32::MAX, number)), error: libc::EIO };
            if let Some(published) = refusing(&[refused], || new.publish()) {
                assert_eq!(published.unwrap_err().raw_os_error(), Some(libc::EIO));
                assert!(names(directory.path()).is_empty());
            }
        }
    }

    #[test]
    fn a_file_like_another_gets_its_mode_and_never_a_wider_one() {
        let directory = tempfile::tempdir().unwrap();
        let (image, path) = (directory.path().join("image"), directory.path().join("map"));
        fs::write(&image, "").unwrap();
        for (of_image, of_map) in [(0o600, 0o600), (0o640, 0o640), (0o664, 0o664), (0o7777, 0o666), (0o444, 0o644)] {
            fs::set_permissions(&image, Permissions::from_mode(of_image)).unwrap();
            make(&path, Permit::like(&File::open(&image).unwrap())).unwrap();
            assert_eq!(mode(&path), of_map, "of {of_image:o}");
            fs::remove_file(&path).unwrap();
        }
    }
}
