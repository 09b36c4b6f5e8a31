//! What is wrong with a file, how it is mended, and how that is taken back.

pub(crate) mod check;
pub(crate) mod findings;
pub(crate) mod plan;
pub(crate) mod repair;
pub(crate) mod survey;
pub(crate) mod undo;
