//! What people and programs get to see.
//!
//! Invariants kept here: results go to stdout, notes and messages to stderr; with `--output json` stdout holds
//! exactly one JSON value, also when the command fails; one that fails while it prints its answer says so on stderr only.
//! A reader that went away is no error. No name acts on a terminal: messages and JSON are escaped here, names in answers for
//! people where they are written.

use crate::cli::Format;
use crate::exit::{Exit, Failure, Result};
use crate::terminal::progress;
use dirtymap_cli::shown::{acts, shown};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use serde::Serialize;
use std::fmt::Debug;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
        let _ = writeln!(io::stderr().lock(), "dirtymap: note: {}", shown(&text.to_string()));
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
        let _ = writeln!(io::stderr().lock(), "dirtymap: {message}");
        if self.is_json() && !BEGUN.load(Ordering::SeqCst) {
            let error = ErrorAnswer { error: ErrorFields { kind, message, exit: exit.code() } };
            let _ = self.answer(&error, |_, _| Ok(()));
        }
    }

    /// A progress bar over bytes on stderr; silent where that is no terminal.
    pub fn progress(self, what: &'static str, total: u64) -> ProgressBar {
        let template = "{msg:9} [{bar:20}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        bar(what, total, template)
    }

    /// Shows that something is under way of which nothing tells how far it is.
    pub fn busy(self, what: &'static str) -> ProgressBar {
        let bar = bar(what, 0, "{msg:9} for {elapsed}");
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }

    /// A progress bar over things to count.
    pub fn progress_count(self, what: &'static str, total: u64) -> ProgressBar {
        bar(what, total, "{msg:9} [{bar:30}] {percent}%, {eta} left")
    }
}

/// The JSON of a failure.
#[derive(Serialize)]
struct ErrorAnswer<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    kind: &'a str,
    message: &'a str,
    exit: u8,
}

fn bar(what: &'static str, total: u64, template: &str) -> ProgressBar {
    let target = if !io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else if std::env::var_os("TERM").is_none_or(|term| term == "dumb") {
        ProgressDrawTarget::term_like(Box::new(Lines::new(io::stderr())))
    } else {
        ProgressDrawTarget::stderr()
    };
    styled(ProgressBar::with_draw_target(Some(total), target), what, template)
}

fn styled(bar: ProgressBar, what: &'static str, template: &str) -> ProgressBar {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what);
    bar
}

/// A terminal that cannot move its cursor: progress is a plain line now and then.
#[derive(Debug)]
struct Lines<W>(Mutex<(W, String, Option<Instant>)>);

impl<W: Write> Lines<W> {
    /// Between two lines.
    const PAUSE: Duration = Duration::from_secs(5);

    fn new(out: W) -> Lines<W> {
        Lines(Mutex::new((out, String::new(), None)))
    }

    /// Keeps text for the next line.
    fn keep(&self, text: &str) -> io::Result<()> {
        let mut inner = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
        inner.1.push_str(text);
        Ok(())
    }
}

impl<W: Write + Debug + Send> TermLike for Lines<W> {
    fn width(&self) -> u16 {
        COLUMNS as u16
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.keep(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.keep(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut inner = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
        let (out, text, last) = &mut *inner;
        let text = std::mem::take(text);
        if text.trim().is_empty() || last.is_some_and(|last| last.elapsed() < Self::PAUSE) {
            return Ok(());
        }
        *last = Some(Instant::now());
        writeln!(out, "{}", text.trim_end())
    }
}

/// Columns that every terminal has.
const COLUMNS: usize = 80;

/// A line of a table that is not wider than a terminal: words that do not fit go below the first one.
pub fn fold(out: &mut dyn Write, head: &str, text: &str) -> io::Result<()> {
    let indent = head.chars().count();
    let (mut line, mut columns) = (head.to_string(), indent);
    for (i, word) in text.split(' ').enumerate() {
        let width = word.chars().count();
        if i > 0 && columns + 1 + width > COLUMNS {
            writeln!(out, "{line}")?;
            (line, columns) = (" ".repeat(indent.max(2)), indent.max(2));
        } else if i > 0 {
            line.push(' ');
            columns += 1;
        }
        line.push_str(word);
        columns += width;
    }
    writeln!(out, "{line}")
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

/// A time as RFC 3339 in UTC; `None` for "never", and for what no calendar has.
pub fn time(seconds: i64) -> Option<String> {
    (seconds != 0).then(|| jiff::Timestamp::from_second(seconds).ok()).flatten().map(|t| t.to_string())
}

/// Ends the process at once, saying that it was interrupted. For commands that have nothing to finish.
pub fn die_interrupted(output: Output) -> ! {
    output.failure(&Failure::interrupted("interrupted; nothing was changed"));
    std::process::exit(Exit::Interrupted.code().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn progress_without_a_cursor_is_plain_lines_and_few_of_them() {
        let kept = Kept::default();
        let target = ProgressDrawTarget::term_like(Box::new(Lines::new(kept.clone())));
        let bar = styled(ProgressBar::with_draw_target(Some(100), target), "copying", "{msg} {pos} of {len}");
        for position in 0..=100 {
            bar.set_position(position);
            bar.tick();
        }
        bar.finish_and_clear();
        let text = String::from_utf8(kept.0.lock().expect("not poisoned").clone()).expect("text");
        assert!(text.starts_with("copying ") && text.ends_with(" of 100\n"), "{text:?}");
        assert!(text.lines().count() < 10 && !text.contains(['\r', '\u{1b}']), "{text:?}");
    }

    #[test]
    fn folded_lines_are_no_wider_than_a_terminal() {
        let mut out = Vec::new();
        fold(&mut out, "found  ", &"word ".repeat(40)).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().count() == 3 && text.lines().all(|line| line.len() <= COLUMNS), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("       word")), "{text}");
    }
}
