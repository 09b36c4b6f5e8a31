//! The part of the file that lives as long as a session: processes that share a map map it.
//!
//! Invariant kept here: nothing of it is trusted by a process that did not see the session begin.

pub(crate) mod runtime;
pub(crate) mod space;
pub(crate) mod view;
