//! `dirtymap completions` and `dirtymap manual`: what a package installs beside the command, made from the one definition of
//! the command line.
//!
//! Invariant kept here: no manual page is written if one of them is there already, and none replaces a file.

use crate::cli::{self, Completions, Manual};
use crate::exit::{Exit, Failure, Result};
use crate::files::publish;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::signals;
use crate::terminal::text::say;
use clap::Command;
use clap_mangen::Man;
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

const NAME: &str = "dirtymap";
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize)]
struct Script {
    shell: String,
    script: String,
}

pub fn completions(args: &Completions, output: Output) -> Result<Exit> {
    let mut script = Vec::new();
    let all = cli::command();
    let visible = all.get_subcommands().filter(|command| !command.is_hide_set());
    // It would complete hidden ones as well.
    let mut root = Command::new(NAME).version(VERSION).args(all.get_arguments()).subcommands(visible);
    clap_complete::generate(args.shell, &mut root, NAME, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    output.answer(&Script { shell: args.shell.to_string(), script }, |out, a| write!(out, "{}", a.script))?;
    Ok(Exit::Fine)
}

#[derive(Serialize)]
struct Pages {
    directory: String,
    pages: Vec<String>,
}

pub fn manual(args: &Manual, output: Output) -> Result<Exit> {
    let directory = &args.directory;
    let mut root = cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    with_inner(&root, None, &mut pages);
    let names: Vec<String> = pages.iter().map(|(command, _)| format!("{}.1", name(command))).collect();
    let paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
    paths.iter().try_for_each(|path| publish::vacant(path))?;
    fs::create_dir_all(directory).map_err(|e| Failure::io(format_args!("{}: create", directory.display()), &e))?;
    for ((command, outer), path) in pages.iter().zip(&paths) {
        signals::check("not all pages were written")?;
        let text = page(command, *outer).map_err(|e| Failure::io(path.display(), &e))?;
        publish::write(path, &text)?;
    }
    output.answer(&Pages { directory: directory.display().to_string(), pages: names }, |out, a| {
        let pages = size::count(a.pages.len() as u64, "manual page");
        say!(out, "wrote {pages} to {}; read one with man -l FILE", shown(directory))
    })?;
    Ok(Exit::Fine)
}

/// What the page of a command is called.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(NAME)
}

/// A command and those inside it, each with the one that it is inside of.
fn with_inner<'a>(command: &'a Command, outer: Option<&'a Command>, all: &mut Vec<(&'a Command, Option<&'a Command>)>) {
    all.push((command, outer));
    let visible = command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help");
    visible.for_each(|inner| with_inner(inner, Some(command), all));
}

/// The manual page of a command.
fn page(command: &Command, outer: Option<&Command>) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).source(format!("{NAME} {VERSION}")).manual("Dirty bitmaps of disk images");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    for paragraph in help.split("\n\n") {
        let (first, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        match first {
            "Example:" => section(&mut out, "EXAMPLES", rest)?,
            _ if first.starts_with("Exit codes") => section(&mut out, "EXIT STATUS", rest)?,
            _ => section(&mut out, "NOTES", paragraph)?,
        }
    }
    if let Some(outer) = outer {
        writeln!(out, ".SH \"SEE ALSO\"\n\\fB{}\\fR(1)", name(outer).replace('-', "\\-"))?;
    }
    Ok(out)
}

/// A section of lines that stay as they are.
fn section(out: &mut impl Write, heading: &str, text: &str) -> io::Result<()> {
    writeln!(out, ".SH \"{heading}\"\n.nf")?;
    for line in text.lines() {
        // Nothing in it is an instruction, and hyphens stay what can be copied and typed.
        let line =
            line.strip_prefix("  ").unwrap_or(line).replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        writeln!(out, "{}{line}", if line.starts_with('.') { "\\&" } else { "" })?;
    }
    writeln!(out, ".fi")
}
