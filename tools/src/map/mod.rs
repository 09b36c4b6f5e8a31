//! Maps as commands use them: opened, loaded, as raw bits, and beside their image.

pub mod load;
pub mod open;
pub mod points;
pub mod raw;
pub mod relation;
