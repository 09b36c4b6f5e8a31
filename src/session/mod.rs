//! How a process comes to have a map open: alone, as the first of several, by joining them, or by looking.

pub(crate) mod attach;
pub(crate) mod open;
pub(crate) mod watch;

pub use open::Recovery;
