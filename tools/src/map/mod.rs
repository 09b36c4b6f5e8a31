//! Maps as commands use them: opened, claimed, loaded, as raw bits, and beside their image.

pub mod claim;
pub mod load;
pub mod open;
pub mod points;
pub mod raw;
pub mod relation;
