//! How a request fails: an error of the protocol, and a message for people.

use std::borrow::Cow;
use std::{fmt, io};

/// The errors of the protocol, with their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Not allowed: a write to an export that is read-only.
    Perm = 1,
    /// The storage failed.
    Io = 5,
    /// No memory.
    NoMem = 12,
    /// The request makes no sense.
    Invalid = 22,
    /// No space, or past the end.
    NoSpace = 28,
    /// Too long for one chunk.
    Overflow = 75,
    /// Not quicker than a write.
    NotSupported = 95,
    /// The server is stopping.
    Shutdown = 108,
}

impl Errno {
    /// The error of a number. One that the protocol does not have counts as [`Errno::Invalid`].
    pub fn from_number(number: u32) -> Self {
        let all = [
            Self::Perm,
            Self::Io,
            Self::NoMem,
            Self::Invalid,
            Self::NoSpace,
            Self::Overflow,
            Self::NotSupported,
            Self::Shutdown,
        ];
        all.into_iter().find(|errno| *errno as u32 == number).unwrap_or(Self::Invalid)
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error that the client gets.
    pub errno: Errno,
    /// For people. A client gets it where replies come in chunks; may be empty.
    pub message: Cow<'static, str>,
}

impl Failure {
    /// A failure with a message.
    pub fn new(errno: Errno, message: impl Into<Cow<'static, str>>) -> Self {
        Self { errno, message: message.into() }
    }

    pub(crate) fn invalid(message: &'static str) -> Self {
        Self::new(Errno::Invalid, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() { write!(f, "{:?}", self.errno) } else { f.write_str(&self.message) }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    /// A full disk, a quota and a file size limit are [`Errno::NoSpace`], as the protocol wants it.
    fn from(e: io::Error) -> Self {
        use io::ErrorKind as Kind;
        // By its kind, an error that says more than the system's number is known as well.
        let errno = match e.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Errno::NoSpace,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Errno::Perm,
            Kind::OutOfMemory => Errno::NoMem,
            Kind::InvalidInput => Errno::Invalid,
            _ => Errno::Io,
        };
        Self::new(errno, e.to_string())
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(e: rustix::io::Errno) -> Self {
        io::Error::from(e).into()
    }
}
