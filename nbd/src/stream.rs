//! The way bytes take: sockets, and what is read ahead from them.
//!
//! Invariant kept here: what is read ahead has a fixed size, and what is said is said whole or the stream counts as broken.

use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A connection. Several threads use it at once: one receives, one sends, and any may close it.
pub trait Stream: Send + Sync {
    /// Receives some bytes, the first ones into the first slice; 0 at the end.
    fn receive(&self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Sends some bytes.
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// How long a receive waits, from now on; `None` is forever.
    fn set_patience(&self, patience: Option<Duration>) -> io::Result<()>;

    /// Nothing more comes in; who waits for it is woken. Sending goes on.
    fn stop_receiving(&self);

    /// Ends both directions; who waits is woken.
    fn close(&self);
}

macro_rules! socket {
    ($socket:ty) => {
        impl Stream for $socket {
            fn receive(&self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                let mut socket = self;
                // The kernel takes one slice in less time than a list of one.
                if let [into] = into { socket.read(into) } else { socket.read_vectored(into) }
            }

            fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
                if let [part] = parts {
                    return Ok(rustix::net::send(self, part, SendFlags::NOSIGNAL)?);
                }
                let mut nothing = SendAncillaryBuffer::default();
                Ok(rustix::net::sendmsg(self, parts, &mut nothing, SendFlags::NOSIGNAL)?)
            }

            fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
                self.set_read_timeout(patience)
            }

            fn stop_receiving(&self) {
                let _ = rustix::net::shutdown(self, Shutdown::Read);
            }

            fn close(&self) {
                let _ = rustix::net::shutdown(self, Shutdown::Both);
            }
        }
    };
}

socket!(UnixStream);
socket!(TcpStream);

/// Slices that one call may send; the kernel takes no more than 1024.
const MOST_PARTS: usize = 1024;

/// Sends all of it, in one call if the kernel takes it so.
pub(crate) fn send_all(stream: &dyn Stream, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match stream.send(&parts[..parts.len().min(MOST_PARTS)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => IoSlice::advance_slices(&mut parts, sent),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What came in and was not read yet.
pub(crate) struct Incoming {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
    large: bool,
    deadline: Option<Instant>,
}

impl Incoming {
    /// Most bytes that [`next`](Self::next) can be asked for.
    pub(crate) const AHEAD: usize = 16 << 10;
    /// Bytes that are read ahead: many requests, or many small writes with their data, in one call.
    const ROOM: usize = 64 << 10;
    /// Bytes that are read behind a long payload: the next requests.
    const BEHIND: usize = 4 << 10;

    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; Self::ROOM].into(), from: 0, to: 0, large: false, deadline: None }
    }

    /// Bytes that are here already.
    pub(crate) fn ready(&self) -> usize {
        self.to - self.from
    }

    /// From now on, what comes in after the deadline is too late.
    pub(crate) fn set_deadline(&mut self, stream: &dyn Stream, deadline: Option<Instant>) -> io::Result<()> {
        self.deadline = deadline;
        if deadline.is_none() { stream.set_patience(None) } else { Ok(()) }
    }

    /// Whether what follows the next headers is so long that it is better read straight to where it belongs.
    pub(crate) fn expect_large(&mut self, large: bool) {
        self.large = large;
    }

    /// Receives into `first`, and then into the buffer up to `ahead`. Returns how many bytes came.
    fn receive(&mut self, stream: &dyn Stream, first: &mut [u8], ahead: usize) -> io::Result<usize> {
        let mut into = [IoSliceMut::new(first), IoSliceMut::new(&mut self.buffer[self.to..ahead])];
        // A call with one slice is the quicker one.
        let into = if into[0].is_empty() { &mut into[1..] } else { &mut into };
        loop {
            if let Some(deadline) = self.deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                stream.set_patience(Some(left))?;
            }
            match stream.receive(into) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                done => return done,
            }
        }
    }

    /// The next `n` bytes, no more than are read ahead. `None` if the stream ends before the first one.
    pub(crate) fn next(&mut self, stream: &dyn Stream, n: usize) -> io::Result<Option<&[u8]>> {
        if self.ready() < n && self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        while self.ready() < n {
            let ahead = if self.large { self.from + n } else { self.buffer.len() };
            match self.receive(stream, &mut [], ahead)? {
                0 if self.to == self.from => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                got => self.to += got,
            }
        }
        self.from += n;
        Ok(Some(&self.buffer[self.from - n..self.from]))
    }

    /// The next `n` bytes, which have to be there.
    pub(crate) fn must(&mut self, stream: &dyn Stream, n: usize) -> io::Result<&[u8]> {
        self.next(stream, n)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Fills `into`; with the last of it, what follows may come as well.
    pub(crate) fn fill(&mut self, stream: &dyn Stream, into: &mut [u8]) -> io::Result<()> {
        let ready = into.len().min(self.ready());
        into[..ready].copy_from_slice(&self.buffer[self.from..self.from + ready]);
        self.from += ready;
        let mut filled = ready;
        while filled < into.len() {
            (self.from, self.to) = (0, 0);
            let missing = into.len() - filled;
            match self.receive(stream, &mut into[filled..], Self::BEHIND)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                got => {
                    filled += got.min(missing);
                    self.to = got.saturating_sub(missing);
                }
            }
        }
        Ok(())
    }

    /// Leaves out the next `n` bytes.
    pub(crate) fn skip(&mut self, stream: &dyn Stream, mut n: u64) -> io::Result<()> {
        while n > 0 {
            let piece = n.min(Self::AHEAD as u64);
            self.must(stream, piece as usize)?;
            n -= piece;
        }
        Ok(())
    }
}
