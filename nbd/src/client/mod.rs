//! A client: the handshake step by step ([`Negotiation`]), and an export in use ([`Client`]).
//!
//! One thread uses it at a time. For more requests at once, [`Client::submit`] some and [`Client::receive`] their answers.

mod negotiation;
mod reply;
mod uri;

pub use negotiation::{ExportInfo, Negotiation};
pub use reply::{Answer, Client};
pub use uri::{Address, Uri, UriError};

use crate::codec::Malformed;
use crate::failure::Failure;
use crate::stream::Stream;
use std::{fmt, io};

/// Why a call of the client failed.
#[derive(Debug)]
pub enum Error {
    /// The connection failed. Nothing more can be done with it.
    Io(io::Error),
    /// The server sent what the protocol does not allow. Nothing more can be done with the connection.
    Protocol(&'static str),
    /// The server refused an option.
    Refused {
        /// The option.
        option: u32,
        /// The type of the reply.
        kind: u32,
        /// Why, if the server said so.
        message: String,
    },
    /// The request failed; the connection goes on.
    Failed(Failure),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "the connection failed: {e}"),
            Self::Protocol(what) => write!(f, "the server broke the protocol: {what}"),
            Self::Refused { option, kind, message } => {
                write!(f, "the server refused option {option} ({:#x}): {message}", kind)
            }
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Malformed> for Error {
    fn from(e: Malformed) -> Self {
        Self::Protocol(e.0)
    }
}

/// How to come to an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Ask for replies in chunks.
    pub structured: bool,
    /// Ask for extended headers.
    pub extended: bool,
    /// Contexts to choose. Those that the export does not have are left out.
    pub contexts: Vec<String>,
}

impl Default for ConnectOptions {
    /// All that the server has, and no contexts.
    fn default() -> Self {
        Self { structured: true, extended: true, contexts: Vec::new() }
    }
}

impl Client {
    /// Connects to an export. What the server does not have of the wishes is done without: see [`Client::info`] and
    /// [`Client::contexts`].
    pub fn connect(uri: &Uri, options: &ConnectOptions) -> Result<Self, Error> {
        Self::over(uri.address.connect()?, &uri.export, options)
    }

    /// The same over a stream that leads to the server.
    pub fn over(stream: Box<dyn Stream>, export: &str, options: &ConnectOptions) -> Result<Self, Error> {
        let mut negotiation = Negotiation::start(stream)?;
        let unless_refused = |asked: Result<(), Error>| match asked {
            Ok(()) => Ok(true),
            Err(Error::Refused { .. }) => Ok(false),
            Err(e) => Err(e),
        };
        let extended = options.extended && unless_refused(negotiation.extended_headers())?;
        let chunks = extended || (options.structured && unless_refused(negotiation.structured_reply())?);
        if chunks && !options.contexts.is_empty() {
            unless_refused(negotiation.set_meta_context(export, &options.contexts).map(drop))?;
        }
        negotiation.go(export)
    }
}
