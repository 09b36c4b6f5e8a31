//! The NBD protocol: a codec, server sessions over any [`Backend`], listeners, and a small client. Threads, no runtime.
//!
//! What is spoken is fixed newstyle, with structured replies, extended headers and contexts; which option, command and flag
//! is proved by which test stands in `docs/nbd.md` of the repository.
//!
//! ```no_run
//! use dirtymap_nbd::{FileBackend, FixedExports, Server, ServerOptions};
//! use std::sync::Arc;
//!
//! let image = FileBackend::open("disk.img".as_ref(), false)?;
//! let exports = FixedExports::new().with("disk", Arc::new(image));
//! let mut server = Server::new(Arc::new(exports), ServerOptions::default());
//! server.listen_unix("/run/disk.sock".as_ref())?;
//! // ... until it is to stop:
//! server.shutdown(std::time::Duration::from_secs(10));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Layers, from the top down; a file imports from below only: `server` and `client`; `session`; `backends`; `stream`,
//! `backend`; `failure`; [`codec`].

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod codec;

mod backend;
mod backends;
pub mod client;
mod failure;
mod server;
mod session;
mod stream;

pub use backend::{Backend, Exports, Extents, Features, FixedExports, Listed, Zeroes};
pub use backends::{FileBackend, MemoryBackend};
pub use failure::{Errno, Failure};
pub use server::{Drained, OnEnd, Server, ServerOptions, bind_unix};
pub use session::{End, Limits, SessionError, serve};
pub use stream::Stream;
