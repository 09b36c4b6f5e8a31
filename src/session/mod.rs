//! How a process comes to have a map open: alone, as the first of several, by joining them, or by looking.

pub(crate) mod join;
pub(crate) mod load;
pub(crate) mod locks;
pub(crate) mod open;
pub(crate) mod page_cache;
pub(crate) mod recovery;
pub(crate) mod watch;

pub use recovery::Recovery;
