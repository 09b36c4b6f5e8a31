//! The `dirtymap` command.
//!
//! Everything about bits and crashes is the library's. What is here stands in layers; a file imports only from its own layer
//! and from those below (tools/tests/layers.rs):
//!
//! ```text
//! commands   one file per command: what it asks, does and answers
//! backup     the engine of `backup`, which the demo uses as well; restoring and pruning go by parts of it
//! sets       folders of backups: what is in them, and whether it is what it was
//! control    the control socket of `serve`, both ends
//! map        maps as commands use them: opened, loaded, as raw bits, beside their image
//! snapshot   live snapshots: copies before writes, and what is left of them by a server that dies
//! files      images, targets, new files, standard input
//! hooks      commands that are run around a freeze
//! terminal   answers, notes, progress, signals: output > pass > progress > signals
//! cli        what can be typed
//! exit       how it ended
//! picture    maps as drawings
//! rng | size | time
//! lib.rs     useful without the command: dump, qcow2 > bits, set_json, shown
//! ```

mod backup;
mod cli;
mod commands;
mod control;
mod exit;
mod files;
mod hooks;
mod map;
mod picture;
mod rng;
mod sets;
mod size;
mod snapshot;
mod terminal;
mod time;

use clap::error::ErrorKind;
use cli::{Command, Format};
use exit::{Exit, Failure};
use std::io::Write;
use std::process::ExitCode;
use terminal::output::{Output, die_interrupted};
use terminal::signals;

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e).into(),
    };
    let mut output = Output::new(cli.output, cli.verbose);
    if matches!(&cli.command, Command::Check(check) if check.quiet) && !output.is_json() {
        output = output.silent();
    }
    output.show_events();
    // The demo's victim just dies.
    let listening = match &cli.command {
        Command::DemoWriter(_) => Ok(()),
        command => signals::listen((!command.finishes()).then_some(move || die_interrupted(output))),
    };
    let done = listening.and_then(|()| commands::run(&cli, output));
    done.unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.exit
    })
    .into()
}

/// Help and version are answers; anything else is a usage error.
fn usage(e: &clap::Error) -> Exit {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match e.print() {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Exit::Operational,
            _ => Exit::Fine,
        };
    }
    if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && format_asked_for() == Format::Human {
        let _ = write!(std::io::stderr(), "{}", e.render());
        return Exit::Usage;
    }
    let text = e.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    Output::new(format_asked_for(), 0).failure(&Failure::usage(text.trim_end()));
    Exit::Usage
}

/// The output format that a command line asks for which clap could not make sense of.
fn format_asked_for() -> Format {
    let args: Vec<_> = std::env::args_os().collect();
    let spaced = args.windows(2).any(|w| w[0] == "--output" && w[1] == "json");
    if spaced || args.iter().any(|a| a == "--output=json") { Format::Json } else { Format::Human }
}
