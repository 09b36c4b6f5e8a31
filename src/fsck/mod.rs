//! What is wrong with a file, how it is mended, and how that is taken back.

pub(crate) mod check;
pub(crate) mod findings;
pub(crate) mod plan;
pub(crate) mod repair;
pub(crate) mod survey;
pub(crate) mod undo;
pub(crate) mod undo_file;

pub use check::{Report, Truncated, check, check_after_power_loss};
pub use findings::{Finding, Severity};
pub use plan::{FilePart, RepairPlan};
pub use repair::{plan_repair, repair, undo_repair};
pub use undo::UndoReport;
