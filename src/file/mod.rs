//! The durable part of the file: header copies, table and bottom, and how a file comes to be.

pub(crate) mod bottom;
pub(crate) mod create;
pub(crate) mod headers;
pub(crate) mod locks;
pub(crate) mod pages;
pub(crate) mod points;
pub(crate) mod reasons;
pub(crate) mod scan;
