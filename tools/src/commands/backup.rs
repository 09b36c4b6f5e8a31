//! `dirtymap backup`: freezes what is dirty, copies it, verifies it, and only then forgets it.

use crate::backup::{self, Outcome};
use crate::cli::Backup;
use crate::exit::{Exit, Result};
use crate::terminal::output::Output;
use std::time::Duration;

pub fn run(args: &Backup, wait: Duration, output: Output) -> Result<Exit> {
    let outcome = backup::back_up(args, wait, output)?;
    output.answer(&outcome, Outcome::human)?;
    Ok(Exit::Fine)
}
