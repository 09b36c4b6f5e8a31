//! One file per command.

mod backup;
mod check;
mod checkpoint;
mod completions;
mod count;
mod create;
mod demo;
mod diff;
mod dump;
mod export;
mod export_qcow2;
mod hash;
mod import;
mod import_qcow2;
mod info;
mod map;
mod merge;
mod repair;
mod resize;
mod restore;
mod serve;
mod set;
mod sets;
mod show;
mod snapshot;
mod undump;
mod watch;
mod write;

use crate::cli::{Cli, Command};
use crate::exit::{Exit, Failure, Result};
use crate::terminal::output::Output;
use std::time::Duration;

/// Does what the command line says.
pub fn run(cli: &Cli, output: Output) -> Result<Exit> {
    // More than a year is for ever, and no time that clocks cannot count to.
    let wait = Duration::from_secs(cli.wait.min(366 * 24 * 3600));
    match &cli.command {
        Command::Create(args) => create::run(args, output),
        Command::Info(args) => info::run(args, output),
        Command::Set(args) => match (&args.action, &args.range) {
            (Some(action), _) => sets::run(action, wait, output),
            (None, Some(range)) => set::set(range, wait, output),
            (None, None) => Err(Failure::usage("give a map, an offset and a length")),
        },
        Command::Reset(args) => set::reset(args, wait, output),
        Command::Checkpoint(args) => checkpoint::run(args, wait, output),
        Command::Map(args) => map::run(args, wait, output),
        Command::Count(args) => count::run(args, wait, output),
        Command::Hash(args) => hash::run(args, wait, output),
        Command::Check(args) => check::run(args, output),
        Command::Diff(args) => diff::run(args, wait, output),
        Command::Show(args) => show::run(args, wait, output),
        Command::Merge(args) => merge::run(args, wait, output),
        Command::Export(args) => export::run(args, wait, output),
        Command::Import(args) => import::run(args, wait, output),
        Command::Dump(args) => dump::run(args, wait, output),
        Command::Restore(args) => restore::run(args, wait, output),
        Command::Undump(args) => undump::run(args, output),
        Command::Resize(args) => resize::run(args, wait, output),
        Command::Repair(args) => repair::run(args, wait, output),
        Command::Watch(args) => watch::run(args, wait, output),
        Command::Write(args) => write::run(args, wait, output),
        Command::Serve(args) => serve::run(args, wait, output),
        Command::Backup(args) => backup::run(args, wait, output),
        Command::Snapshot(args) => snapshot::run(args, output),
        Command::ImportQcow2(args) => import_qcow2::run(args, output),
        Command::ExportQcow2(args) => export_qcow2::run(args, wait, output),
        Command::Completions(args) => completions::completions(args, output),
        Command::Manual(args) => completions::manual(args, output),
        Command::Demo(args) => demo::run(args, output),
        Command::DemoWriter(args) => demo::writer::run(args),
    }
}
