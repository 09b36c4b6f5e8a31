//! A backup set: a folder of qcow2 images, and `set.json`, which says what they are.
//!
//! Invariants kept here:
//! - who changes a set has it alone, and `set.json` is replaced as a whole: it says at any moment what is true, or what is to be
//!   settled;
//! - a file is removed, or replaced by another name's, only if `set.json` says so, durably, before: that it is no member any more,
//!   that it is the one that a backup was about to name, or that it will be replaced by just that content;
//! - only names that `set.json` may have are opened, in this folder, and never through a link.

mod chain;
mod find;
mod hashing;
mod part;
mod proof;
mod settle;

pub use chain::{Layered, Stored, failed};
pub use find::{Asked, find};
pub use hashing::Hashing;
pub use part::Unfinished;
pub use proof::{seen, verify_file};

use crate::exit::{Failure, Result};
use crate::files::{durable, permit_like};
use crate::terminal::signals;
use dirtymap_cli::set_json::{self, Set};
use rustix::fs::{FlockOperation, OFlags};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The name of the file that says what the others are.
pub const FILE: &str = "set.json";
/// What it is written to before it gets its name.
const TEMPORARY: &str = ".set.json.tmp";

/// A set that is open.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub set: Set,
    /// Locked while it is open.
    directory: File,
}

impl Folder {
    /// Opens a set to look at it. Nobody changes it meanwhile; let go of it as soon as the files are open.
    pub fn open(path: &Path, wait: Duration) -> Result<Folder> {
        let mut folder = Folder::open_locked(path, FlockOperation::NonBlockingLockShared, wait)?;
        folder.adopt_merged()?;
        Ok(folder)
    }

    /// Opens a set to change it, alone.
    pub fn open_to_change(path: &Path, wait: Duration) -> Result<Folder> {
        Folder::open_locked(path, FlockOperation::NonBlockingLockExclusive, wait)
    }

    fn open_locked(path: &Path, operation: FlockOperation, wait: Duration) -> Result<Folder> {
        let directory = open_directory(path)?;
        lock(&directory, path, operation, wait)?;
        let set = read(path)?.ok_or_else(|| no_set(path))?;
        Ok(Folder { path: path.into(), set, directory })
    }

    /// The same, of a set that may not be there yet: then it has no member, and nothing is written.
    pub fn open_or_new(path: &Path, wait: Duration) -> Result<Folder> {
        make_folder(path)?;
        let directory = open_directory(path)?;
        lock(&directory, path, FlockOperation::NonBlockingLockExclusive, wait)?;
        let set = match read(path)? {
            Some(set) => set,
            None => {
                refuse_members(path)?;
                Set::new(set_json::new_id())
            }
        };
        Ok(Folder { path: path.into(), set, directory })
    }

    /// Where a file of the set is.
    pub fn at(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// Replaces `set.json` by what is known now, durably.
    pub fn save(&self) -> Result<()> {
        let (temporary, path) = (self.at(TEMPORARY), self.at(FILE));
        let bytes = self.set.to_bytes();
        if bytes.len() as u64 > set_json::MAX_BYTES {
            let message =
                format!("{}: would have more than {} bytes; prune the set", path.display(), set_json::MAX_BYTES);
            return Err(Failure::new("refused", message));
        }
        let io = |e: &io::Error| Failure::io(format_args!("{}: write", path.display()), e);
        disk_fails(false).map_err(|e| io(&e))?;
        settle::remove(&temporary)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        // Who may read a member may know of it.
        let newest = self.set.members.last().and_then(|newest| Stored::open(&self.at(&newest.file)).ok());
        let saved = file.and_then(|mut file| {
            newest.map_or(Ok(()), |newest| permit_like(&file, Some(&newest.file)))?;
            file.write_all(&bytes)?;
            durable::bytes(&file)?;
            fs::rename(&temporary, &path)?;
            disk_fails(true)?;
            durable::names(&self.directory, &self.path)
        });
        saved.map_err(|e| {
            // On a disk that is full even this takes room.
            let _ = settle::remove(&temporary);
            io(&e)
        })
    }

    /// The name of the next member's file: a number that no member had and under which there is nothing but what a backup has left.
    pub fn next_file(&self) -> Result<String> {
        let last = self.set.members.last().and_then(|member| set_json::number(&member.file)).unwrap_or(0);
        let mut free = (last.saturating_add(1)..u32::MAX).map(set_json::file_name);
        let vacant = |file: &String| self.at(file).symlink_metadata().is_err();
        if self.set.members.len() >= set_json::MAX_MEMBERS {
            let message = format!("{} has as many members as a set can have; prune it", self.path.display());
            return Err(Failure::new("refused", message));
        }
        free.find(|file| vacant(file) && self.may_begin(file))
            .ok_or_else(|| Failure::new("refused", "no number is left for another member"))
    }
}

/// Opens the folder of a set; what is none is not waited for.
fn open_directory(path: &Path) -> Result<File> {
    let flags = (OFlags::DIRECTORY | OFlags::NONBLOCK).bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotADirectory if path.exists() => {
            let message = format!("{}: is no folder, and so no backup set; give the folder of one", path.display());
            Failure::new("not-a-set", message)
        }
        _ => Failure::open(path, &e),
    })
}

/// The failure of a folder that is no set. Those of several disks are in one that is none itself.
fn no_set(path: &Path) -> Failure {
    let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut sets: Vec<String> =
        entries.filter(|path| path.join(FILE).exists()).map(|path| path.display().to_string()).collect();
    sets.sort();
    let next = match &sets[..] {
        [] => "give the folder that backups went to (dirtymap backup --set)".into(),
        sets => format!("each disk has a set of its own in it: {}", sets.join(", ")),
    };
    Failure::new("not-a-set", format!("{}: is no backup set: there is no {FILE} in it; {next}", path.display()))
}

/// Makes a folder, if there is none.
pub fn make_folder(path: &Path) -> Result<()> {
    let made = fs::create_dir(path);
    let there = matches!(&made, Err(e) if e.kind() == io::ErrorKind::AlreadyExists);
    if !there {
        made.map_err(|e| Failure::at(path, "make the folder", &e))?;
    }
    match durable::name_of(path) {
        // Whoever made it may have been killed before. What is in the directory above may be for others.
        Err(failure) if there && failure.kind == "permission" => Ok(()),
        synced => synced,
    }
}

/// Waits for the lock.
fn lock(directory: &File, path: &Path, operation: FlockOperation, wait: Duration) -> Result<()> {
    let deadline = Instant::now() + wait;
    loop {
        match rustix::fs::flock(directory, operation) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                signals::check("nothing was changed")?;
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let message = format!("{}: another program uses the set; wait for it (--wait SECS)", path.display());
                return Err(Failure::new("locked", message));
            }
            Err(e) => return Err(Failure::io(format_args!("{}: lock", path.display()), &e.into())),
        }
    }
}

/// What `set.json` says; `None` if there is none.
fn read(folder: &Path) -> Result<Option<Set>> {
    let path = folder.join(FILE);
    let io = |e: &io::Error| Failure::io(format_args!("{}: read", path.display()), e);
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(&e)),
    };
    let mut bytes = Vec::new();
    file.take(set_json::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| io(&e))?;
    if bytes.len() as u64 > set_json::MAX_BYTES {
        let message = format!("{}: has more than {} bytes", path.display(), set_json::MAX_BYTES);
        return Err(damaged(message));
    }
    Set::parse(&bytes).map(Some).map_err(|e| {
        damaged(format!(
            "{}: {e}; the images can be restored without it (qemu-img convert); for new backups give another folder",
            path.display()
        ))
    })
}

/// The failure of a set that is not as it should be.
pub fn damaged(message: String) -> Failure {
    Failure { kind: "set-damaged".into(), message, exit: crate::exit::Exit::Damage }
}

/// Refuses a folder with members of which nothing says what they are.
fn refuse_members(path: &Path) -> Result<()> {
    let entries = fs::read_dir(path).map_err(|e| Failure::io(path.display(), &e))?;
    let mut names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let Some(member) = names.find(|name| set_json::number(name).is_some()) else { return Ok(()) };
    let message = format!(
        "{}: has {member} and no {FILE}; give the folder of a set, or an empty one for a new set",
        path.display()
    );
    Err(Failure::new("not-a-set", message))
}

/// What a test does at each step.
#[cfg(test)]
pub type AtStep = Option<Box<dyn FnMut(&'static str)>>;

#[cfg(test)]
thread_local! {
    pub static AT_STEP: std::cell::RefCell<AtStep> = const { std::cell::RefCell::new(None) };
}

/// A place at which a kill leaves something to settle. Tests look at what is there; of a build with debug assertions the process
/// kills itself at the N-th that it comes to, with `DIRTYMAP_TEST_KILL_SET_AT=N`.
pub fn step(_name: &'static str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::{LazyLock, atomic};
        static KILL_AT: LazyLock<Option<u64>> =
            LazyLock::new(|| std::env::var("DIRTYMAP_TEST_KILL_SET_AT").ok()?.parse().ok());
        static STEPS: atomic::AtomicU64 = atomic::AtomicU64::new(0);
        if KILL_AT.is_some_and(|at| STEPS.fetch_add(1, atomic::Ordering::SeqCst) + 1 == at) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // It takes effect before anything else is done.
            loop {
                std::thread::park();
            }
        }
    }
    #[cfg(test)]
    AT_STEP.with_borrow_mut(|at| {
        if let Some(at) = at {
            at(_name);
        }
    });
}

#[cfg(test)]
thread_local! {
    /// Which save from now on is in doubt. Those that follow fail as well, and without effect.
    pub static DOUBTFUL: std::cell::Cell<u32> = const { std::cell::Cell::new(u32::MAX) };
}

/// Where a save can fail: before anything is written, and when what was written has its name and may not have it after a power cut.
fn disk_fails(_renamed: bool) -> io::Result<()> {
    #[cfg(test)]
    {
        let left = DOUBTFUL.get().saturating_sub(_renamed.into());
        DOUBTFUL.set(left);
        if left == 0 {
            return Err(io::Error::other("a disk that fails"));
        }
    }
    Ok(())
}
