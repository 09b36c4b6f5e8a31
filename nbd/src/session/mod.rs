//! The server's side of one connection: the handshake, then requests until the client goes.
//!
//! A file has one of: [`handshake`] what is agreed; [`rules`] which requests a backend is asked; [`transmission`] who reads
//! and handles requests; [`turn`] when; [`reply`] how answers are sent; [`memory`] what requests may hold.

mod handshake;
mod memory;
mod reply;
mod rules;
mod transmission;
mod turn;

use crate::backend::Exports;
use crate::codec::{Malformed, values};
use crate::stream::{Incoming, Stream};
use std::time::{Duration, Instant};
use std::{fmt, io};

/// What one connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that are handled at once; each has a thread. At least 1.
    pub threads: usize,
    /// Longest data of a read or write, in bytes, whatever the backend says. At most 1 GiB.
    pub payload: u32,
    /// Bytes that the data of all requests under way may take together; raised to `payload` if it is less.
    ///
    /// A connection has no more than this; for each thread the extents of one context (1 MiB) or the chunks of one read (64
    /// KiB); and less than 128 KiB.
    pub memory: usize,
    /// How long the handshake may take in all.
    pub handshake: Duration,
}

impl Default for Limits {
    /// 16 threads, 32 MiB, 64 MiB, a minute.
    fn default() -> Self {
        Self { threads: 16, payload: values::DEFAULT_MAX_PAYLOAD, memory: 64 << 20, handshake: Duration::from_secs(60) }
    }
}

/// How a session ended when the peer and the connection did as they should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client said so, in the handshake or after it.
    Asked,
    /// The client closed the connection between two messages, or the server stopped receiving.
    Closed,
}

/// Why a session was broken off.
#[derive(Debug)]
pub enum SessionError {
    /// The connection failed, or ended in the middle of a message, or the handshake took too long.
    Io(io::Error),
    /// The client sent what the protocol does not allow, so that its messages could no longer be told apart.
    Protocol(&'static str),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "the connection failed: {e}"),
            Self::Protocol(what) => write!(f, "the client broke the protocol: {what}"),
        }
    }
}

impl std::error::Error for SessionError {}

impl From<io::Error> for SessionError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Malformed> for SessionError {
    fn from(e: Malformed) -> Self {
        Self::Protocol(e.0)
    }
}

/// Serves one client until it goes: returns when the last request has been answered. The stream is closed.
///
/// To end it from elsewhere: [`Stream::stop_receiving`] lets requests under way end, [`Stream::close`] does not wait for
/// the client to take the answers. A backend's panic ends the session and goes on in the caller.
pub fn serve(stream: &dyn Stream, exports: &dyn Exports, limits: Limits) -> Result<End, SessionError> {
    let mut incoming = Incoming::new();
    let agreed = incoming
        .set_deadline(stream, Some(Instant::now() + limits.handshake))
        .map_err(SessionError::from)
        .and_then(|()| handshake::run(stream, &mut incoming, exports, limits));
    let done = match agreed {
        Ok(handshake::Outcome::Enter(agreed)) => incoming
            .set_deadline(stream, None)
            .map_err(SessionError::from)
            .and_then(|()| transmission::run(stream, incoming, agreed, limits)),
        Ok(handshake::Outcome::End(end)) => Ok(end),
        Err(e) => Err(e),
    };
    stream.close();
    done
}
