//! The locks on bytes of an image by which QEMU's programs keep out of each other's way, so that they keep out of ours.
//!
//! Seen of qemu-io, qemu-img, qemu-nbd and qemu-storage-daemon 10.0.2 (`strace -e fcntl`): each use of a file that a program
//! makes has a shared lock (of the open file) on byte 100 + use, and each use that it allows nobody else one on byte 200 + use.
//! Then it asks whether others hold what contradicts: who writes asks for byte 201, who lets nobody write for byte 101. Uses
//! are 0, to read what makes sense; 1, to write; 3, to change the length.
//!
//! Invariant kept here: a lock is taken before others are asked for, so that of two who begin at once one is refused.

use super::Image;
use super::image::{is_claimed, open_claiming};
use crate::exit::{Failure, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, flock};
use std::fs::File;
use std::io;
use std::path::Path;

const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;
const USED: i64 = 100;
const FORBIDDEN: i64 = 200;

impl Image {
    /// Opens an image to be used for long, by nobody else who writes to it without its map: no program of QEMU's, and no other
    /// server. A block device is claimed.
    pub fn open_locked(path: &Path, write: bool) -> Result<Image> {
        let file = open_claiming(path, write).map_err(|e| match is_claimed(&e) {
            true => in_use(path, "mounted, or part of another device, or claimed by another program"),
            false => Failure::open(path, &e),
        })?;
        let image = Image::of(file, path)?;
        lock(&image.file, write).map_err(|e| match e {
            Refused::By(what) => in_use(path, what),
            Refused::Because(e) => image.failed("lock", &e),
        })?;
        Ok(image)
    }
}

fn in_use(path: &Path, how: &str) -> Failure {
    Failure::new("in-use", format!("{}: is in use: {how}; end that first", path.display()))
}

enum Refused {
    By(&'static str),
    Because(io::Error),
}

/// Takes the locks of a use that lets nobody else write, for as long as the file is open.
fn lock(file: &File, write: bool) -> std::result::Result<(), Refused> {
    let because = |e: Errno| Refused::Because(e.into());
    let uses: &[i64] = if write { &[READ, WRITE] } else { &[READ] };
    let taken = uses.iter().map(|used| USED + used).chain([FORBIDDEN + WRITE, FORBIDDEN + RESIZE]);
    for byte in taken {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&one_byte(byte, libc::F_RDLCK))) {
            Ok(_) => {}
            // Where a file system has no locks, nobody has any.
            Err(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => return Ok(()),
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(Refused::By("another program has it to itself")),
            Err(e) => return Err(because(e)),
        }
    }
    let asked = [
        (USED + WRITE, "another program writes to it: a running VM, a QEMU tool or another `dirtymap serve`"),
        (USED + RESIZE, "another program changes its length"),
        (FORBIDDEN + READ, "another program lets nobody read it"),
        (FORBIDDEN + WRITE, "another program lets nobody write to it: a QEMU tool that copies it, perhaps"),
    ];
    for (byte, who) in asked.iter().filter(|(byte, _)| write || *byte != FORBIDDEN + WRITE) {
        let mut found = one_byte(*byte, libc::F_WRLCK);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(because)?;
        if found.l_type != libc::F_UNLCK as i16 {
            return Err(Refused::By(who));
        }
    }
    Ok(())
}

fn one_byte(byte: i64, kind: i32) -> flock {
    flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: byte, l_len: 1, l_pid: 0 }
}
