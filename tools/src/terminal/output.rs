//! What people and programs get to see.
//!
//! Invariants kept here: results go to stdout, notes and messages to stderr; with `--output json` stdout holds
//! exactly one JSON value, also when the command fails; one that fails while it prints its answer says so on stderr only.
//! A reader that went away is no error. No name acts on a terminal: messages and JSON are escaped here, names in answers for
//! people where they are written.

use super::progress;
use super::text::tell;
use crate::cli::Format;
use crate::exit::{ErrorAnswer, Exit, Failure, Result};
use dirtymap_cli::shown::{acts, shown};
use serde::Serialize;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Something is being printed on stdout, or was. Whoever prints holds its lock, perhaps waiting for a reader.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// Where a command writes.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    quiet: bool,
    silent: bool,
    verbose: u8,
}

impl Output {
    /// `verbose`: how often `-v` was given.
    pub fn new(format: Format, verbose: u8) -> Output {
        Output { format, quiet: false, silent: false, verbose }
    }

    /// The same without notes, for a step whose notes another step tells better.
    pub fn without_notes(self) -> Output {
        Output { quiet: true, ..self }
    }

    /// The same, but not even failures are said, for whom the exit code is enough.
    pub fn silent(self) -> Output {
        Output { quiet: true, silent: true, ..self }
    }

    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Something that the user should know, and that is not the answer.
    pub fn note(self, text: impl std::fmt::Display) {
        if self.quiet {
            return;
        }
        progress::clear();
        // A lost note is not worth failing for.
        let _ = tell(&format!("dirtymap: note: {}", shown(&text.to_string())));
    }

    /// What happened, for those who ask for it with `-v`. `text` is made only for them.
    pub fn detail<T: std::fmt::Display>(self, text: impl FnOnce() -> T) {
        if self.verbose > 0 {
            self.note(text());
        }
    }

    /// Has the library's events written to stderr if `-v` was given twice.
    pub fn show_events(self) {
        if self.verbose > 1 {
            let events = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG);
            // Nobody else sets a subscriber; and events are not worth failing for. Without the second setting an event
            // that cannot be written would be a panic, in the middle of whatever it tells of.
            let _ = events.with_ansi(false).log_internal_errors(false).with_writer(io::stderr).try_init();
        }
    }

    /// Prints the answer: as JSON, or as `human` writes it.
    pub fn answer<T: Serialize>(
        self,
        answer: &T,
        human: impl FnOnce(&mut dyn Write, &T) -> io::Result<()>,
    ) -> Result<()> {
        self.stream(|out, is_json| if is_json { writeln!(out, "{}", json(answer, true)?) } else { human(out, answer) })
    }

    /// Lets `write` print the answer piece by piece; it is told whether as JSON.
    pub fn stream(self, write: impl FnOnce(&mut dyn Write, bool) -> io::Result<()>) -> Result<()> {
        progress::clear();
        BEGUN.store(true, Ordering::SeqCst);
        let mut out = BufWriter::new(io::stdout().lock());
        match write(&mut out, self.is_json()).and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                // What is left in the buffer has nowhere to go.
                let _ = out.into_parts();
                Ok(())
            }
            Err(e) => {
                let _ = out.into_parts();
                Err(Failure::io("standard output", &e))
            }
            Ok(()) => Ok(()),
        }
    }

    /// Prints a list as its elements come: a JSON list, or each as `human` writes it. An element that fails ends it, and
    /// is how the command fails.
    pub fn list<T: Serialize>(
        self,
        elements: impl Iterator<Item = dirtymap::Result<T>>,
        mut human: impl FnMut(&mut dyn Write, &T) -> io::Result<()>,
    ) -> Result<()> {
        let mut failed = None;
        self.stream(|out, is_json| {
            let mut separator = "[\n  ";
            for element in elements {
                let element = match element {
                    Ok(element) => element,
                    Err(e) => {
                        failed = Some(e);
                        break;
                    }
                };
                if is_json {
                    write!(out, "{separator}{}", json(&element, false)?)?;
                    separator = ",\n  ";
                } else {
                    human(out, &element)?;
                }
            }
            match (is_json, separator) {
                (false, _) => Ok(()),
                (true, ",\n  ") => writeln!(out, "\n]"),
                (true, _) => writeln!(out, "[]"),
            }
        })?;
        failed.map_or(Ok(()), |e| Err(e.into()))
    }

    /// Says why the command failed.
    pub fn failure(self, failure: &Failure) {
        if self.silent {
            return;
        }
        progress::clear();
        let Failure { kind, message, exit } = failure;
        // Lines are those of a usage error; a name with a line end in it begins none.
        let lines = message.split('\n').map(|line| shown(line).to_string());
        let message =
            &if *exit == Exit::Usage { lines.collect::<Vec<_>>().join("\n") } else { shown(message).to_string() };
        let _ = tell(&format!("dirtymap: {message}"));
        if self.is_json() && !BEGUN.load(Ordering::SeqCst) {
            let error = ErrorAnswer::from(Failure { kind: kind.clone(), message: message.clone(), exit: *exit });
            let _ = self.answer(&error, |_, _| Ok(()));
        }
    }
}

/// JSON text in which nothing acts on a terminal.
pub fn json(value: &impl Serialize, pretty: bool) -> io::Result<String> {
    let text = if pretty { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? };
    if !text.chars().any(|c| acts(c) && c != '\n') {
        return Ok(text);
    }
    // Such characters are inside strings only: elsewhere JSON has ASCII.
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) && c != '\n' {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    Ok(escaped)
}

/// Ends the process at once, saying that it was interrupted. For commands that have nothing to finish.
pub fn die_interrupted(output: Output) -> ! {
    output.failure(&Failure::interrupted("interrupted; nothing was changed"));
    std::process::exit(Exit::Interrupted.code().into())
}
