//! What a user sees and types while a command runs: answers, notes, progress, signals.

pub mod output;
pub mod pass;
pub mod progress;
pub mod signals;
pub mod text;
