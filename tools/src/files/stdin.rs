//! Standard input.
//!
//! Invariant kept here: a signal ends the reading also while there is no input.

use crate::exit::{Failure, Result};
use crate::terminal::signals;
use rustix::event::{PollFd, PollFlags, Timespec};

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
