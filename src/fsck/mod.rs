//! What is wrong with a file, how it is mended, and how that is taken back.
//!
//! ```
//! # use dirtymap::{Options, fsck::{check, plan_repair, repair, undo_repair}};
//! # use std::{os::unix::fs::FileExt, time::Duration};
//! # let dir = tempfile::tempdir()?;
//! # let [path, undo] = ["map", "undo"].map(|name| dir.path().join(name));
//! Options::new().create(&path, 1 << 30)?.close()?;
//! assert!(check(&path, |_, _| {})?.findings.is_empty());
//!
//! # let byte = 100;
//! std::fs::File::options().write(true).open(&path)?.write_all_at(b"x", byte)?; // damage
//! for finding in check(&path, |_, _| {})?.findings {
//!     println!("{}: {}; {}", finding.place, finding.found, finding.consequence);
//! }
//! assert!(plan_repair(&path, |_, _| {})?.is_needed());
//! repair(&path, Some(&undo), Duration::ZERO, |_, _| {})?;
//! assert!(check(&path, |_, _| {})?.findings.is_empty());
//! undo_repair(&path, &undo, Duration::ZERO)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
