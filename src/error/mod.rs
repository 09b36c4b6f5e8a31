//! The one error type of the library, and the causes that one kind of error can have.
//!
//! Library code returns these and never panics on input. Every message says what to do next. [`Error::kind`] and
//! [`Error::code`] name the kind; where callers do different things for one kind, it says its cause by a type, which has codes
//! of its own:
//!
//! ```
//! # use dirtymap::{Access, Error, Options, error::InUse};
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("map");
//! let map = Options::new().create(&path, 1 << 30)?;
//! match Options::new().open(&path) {
//!     Err(Error::Locked { what: InUse::Open, holder, .. }) => println!("in use, by {holder:?}"),
//!     other => panic!("{other:?}"),
//! }
//! let refused = Options::new().label("x".repeat(300)).create(dir.path().join("other"), 1 << 30);
//! assert!(matches!(refused, Err(Error::Refused { why, .. }) if why.code() == 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod causes;
mod kinds;
mod messages;

pub(crate) use causes::counted;
pub use causes::{Corruption, Holder, InUse, Refusal, Unusable};
pub use kinds::{Error, Result};
