//! Standard input.
//!
//! Invariants kept here: a signal ends the reading also while there is no input; what is kept of it has no name, and needs no
//! more room than it has data.

use super::image::{Image, PIECE};
use crate::exit::{Failure, Result};
use crate::terminal::signals;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What it is called in messages.
pub const NAME: &str = "standard input";

/// Reads until `buffer` is full or the input ends; stops for a signal, also while there is no input.
pub fn fill(buffer: &mut [u8]) -> Result<&mut [u8]> {
    let stdin = rustix::stdio::stdin();
    let mut filled = 0;
    while filled < buffer.len() {
        signals::check("stopped reading standard input")?;
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        let patience = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match rustix::event::poll(&mut fds, Some(&patience)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            _ => {} // An error is met by reading as well.
        }
        match rustix::io::read(stdin, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(e) => return Err(Failure::io("standard input: read", &e.into())),
        }
    }
    Ok(&mut buffer[..filled])
}

/// Reads all of it to a temporary file, for what is read more than once or not from front to back. `fits` is asked for each
/// length that is reached.
pub fn spool(fits: impl Fn(u64) -> Result<()>) -> Result<Image> {
    let io = |e: &io::Error| Failure::io("keep standard input in a temporary file", e);
    let file = tempfile::tempfile().map_err(|e| io(&e))?;
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    loop {
        let piece = &*fill(&mut buffer)?;
        if piece.is_empty() {
            break;
        }
        fits(at + piece.len() as u64)?;
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all_at(piece, at).map_err(|e| io(&e))?;
        }
        at += piece.len() as u64;
    }
    file.set_len(at).map_err(|e| io(&e))?;
    Image::of(file, Path::new(NAME))
}
