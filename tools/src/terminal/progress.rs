//! How far long work is: bars on a terminal, on stderr.
//!
//! Invariant kept here: whatever is printed, no bar stands in its way.

use super::signals;
use super::text::COLUMNS;
use crate::size;
use dirtymap::{Progress, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use std::fmt::Debug;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The bar of the step that the library is at.
static SHOWN: Mutex<Option<(Step, ProgressBar)>> = Mutex::new(None);

/// For [`dirtymap::Options::progress`]: shows how far the work is, and stops it when somebody wants the command to stop.
pub fn show() -> impl Fn(Progress) -> ControlFlow<()> + Send + Sync + 'static {
    move |Progress { step, done, total, .. }| {
        if signals::requested() {
            clear();
            return ControlFlow::Break(());
        }
        let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref().is_none_or(|(before, _)| *before != step) {
            if let Some((_, bar)) = shown.take() {
                bar.finish_and_clear();
            }
            *shown = Some((step, count(step.name(), total)));
        }
        if let Some((_, bar)) = &*shown {
            bar.set_position(done);
        }
        ControlFlow::Continue(())
    }
}

/// Takes away what is shown.
pub fn clear() {
    if let Some((_, bar)) = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bar.finish_and_clear();
    }
}

/// A bar over bytes; silent where stderr is no terminal.
pub fn bytes(what: &'static str, total: u64) -> ProgressBar {
    let template = "{msg:9} [{bar:14}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    bar(what, total, template)
}

/// Has a bar over bytes say how fast it may be.
pub fn limited(bar: &ProgressBar, rate: u64) {
    const TEMPLATE: &str = "{msg:9} {bytes} of {total_bytes}, {bytes_per_sec} of at most {prefix}/s, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
        bar.set_prefix(size::human(rate));
    }
}

/// A bar over things to count.
pub fn count(what: &'static str, total: u64) -> ProgressBar {
    bar(what, total, "{msg:9} [{bar:30}] {percent}%, {eta} left")
}

/// Shows that something is under way of which nothing tells how far it is.
pub fn busy(what: &'static str) -> ProgressBar {
    let bar = bar(what, 0, "{msg:9} for {elapsed}");
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn bar(what: &'static str, total: u64, template: &str) -> ProgressBar {
    let target = if !io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else if std::env::var_os("TERM").is_none_or(|term| term == "dumb") {
        ProgressDrawTarget::term_like(Box::new(Lines::new(io::stderr(), Lines::<io::Stderr>::PAUSE)))
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
struct Lines<W> {
    pause: Duration,
    /// Where they go, what is kept for the next one, and when the last one was written.
    kept: Mutex<(W, String, Instant)>,
}

impl<W> Lines<W> {
    /// Before the first line, as nothing is known of the speed then, and between two.
    const PAUSE: Duration = Duration::from_secs(5);

    fn new(out: W, pause: Duration) -> Lines<W> {
        Lines { pause, kept: Mutex::new((out, String::new(), Instant::now())) }
    }

    /// Keeps text for the next line.
    fn keep(&self, text: &str) -> io::Result<()> {
        let mut inner = self.kept.lock().map_err(|_| io::ErrorKind::Other)?;
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
        let mut inner = self.kept.lock().map_err(|_| io::ErrorKind::Other)?;
        let (out, text, last) = &mut *inner;
        let text = std::mem::take(text);
        if text.trim().is_empty() || last.elapsed() < self.pause {
            return Ok(());
        }
        *last = Instant::now();
        writeln!(out, "{}", text.trim_end())
    }
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

    /// What is said of copying 100 pieces.
    fn said(pause: Duration) -> String {
        let kept = Kept::default();
        let target = ProgressDrawTarget::term_like(Box::new(Lines::new(kept.clone(), pause)));
        let bar = styled(ProgressBar::with_draw_target(Some(100), target), "copying", "{msg} {pos} of {len}");
        for position in 0..=100 {
            bar.set_position(position);
            bar.tick();
        }
        bar.finish_and_clear();
        String::from_utf8(kept.0.lock().expect("not poisoned").clone()).expect("text")
    }

    #[test]
    fn progress_without_a_cursor_is_plain_lines() {
        let text = said(Duration::ZERO);
        assert!(text.starts_with("copying ") && text.ends_with(" of 100\n"), "{text:?}");
        assert!(!text.contains(['\r', '\u{1b}']), "{text:?}");
    }

    #[test]
    fn a_bar_that_may_be_no_faster_says_so() {
        let kept = Kept::default();
        let target = ProgressDrawTarget::term_like(Box::new(Lines::new(kept.clone(), Duration::ZERO)));
        let bar = styled(ProgressBar::with_draw_target(Some(100), target), "copying", "{msg}");
        limited(&bar, 64 << 20);
        bar.tick();
        let text = String::from_utf8(kept.0.lock().expect("not poisoned").clone()).expect("text");
        assert!(text.contains("of at most 64 MiB/s"), "{text:?}");
    }

    #[test]
    fn before_anything_is_known_of_the_speed_no_line_is_written() {
        assert_eq!(said(Duration::from_secs(3600)), "");
    }
}
