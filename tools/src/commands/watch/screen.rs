//! The picture on a terminal.
//!
//! Invariant kept here: the terminal is given back as it was, whatever happens; a panic is told afterwards.

use super::LOOK;
use super::picture;
use super::sample::{Sample, Seen, Source};
use crate::exit::{Failure, Result};
use crate::size;
use crate::terminal::signals;
use dirtymap_cli::shown::shown;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline};
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

/// Looks that the curve of growth shows at most.
const KEPT: usize = 512;
/// Lines for each disk.
const HEIGHT: u16 = 9;

/// What is shown.
#[derive(Default)]
struct Picture {
    sample: Option<Sample>,
    /// For each disk, by its place: growth in bytes a second, the newest first; and the parts at the look before.
    history: Vec<(VecDeque<u64>, Vec<u64>)>,
}

/// Shows it until somebody wants it to end.
pub fn show(source: &mut Source, interval: Duration) -> Result<()> {
    let failed = |e: io::Error| Failure::io("the terminal", &e);
    let mut picture = Picture::default();
    picture.take(source.look()?);
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let shown = loop {
        if let Err(e) = terminal.draw(|frame| picture.draw(frame)) {
            break Err(failed(e));
        }
        match wait_for_key(interval) {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(e) => break Err(failed(e)),
        }
        match source.look() {
            Ok(sample) => picture.take(sample),
            Err(failure) => break Err(failure),
        }
    };
    ratatui::restore();
    shown
}

/// Waits for the next look; true if it is to end.
fn wait_for_key(interval: Duration) -> io::Result<bool> {
    let until = Instant::now() + interval;
    while !signals::requested() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        if event::poll(left.min(LOOK))? {
            match event::read()? {
                Event::Key(key) => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(true),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(true),
                    _ => {}
                },
                // It is drawn anew at once.
                Event::Resize(..) => return Ok(false),
                _ => {}
            }
        }
    }
    Ok(true)
}

impl Picture {
    fn take(&mut self, sample: Sample) {
        self.history.resize_with(sample.disks.len(), Default::default);
        for (i, disk) in sample.disks.iter().enumerate() {
            let (growth, areas) = &mut self.history[i];
            if let Some(before) = self.sample.as_ref().and_then(|sample| sample.disks.get(i)) {
                areas.clone_from(&before.areas);
            }
            growth.push_front(disk.dirty_bytes_per_second.unwrap_or(0.0).max(0.0) as u64);
            growth.truncate(KEPT);
        }
        self.sample = Some(sample);
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let Some(sample) = &self.sample else { return };
        let [disks, help] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
        let fitting = usize::from(disks.height / HEIGHT).max(1);
        let rows = Layout::vertical(vec![Constraint::Length(HEIGHT); fitting]).split(disks);
        for ((disk, history), row) in sample.disks.iter().zip(&self.history).zip(rows.iter()) {
            draw_disk(frame, *row, disk, history);
        }
        let more = match sample.disks.len().saturating_sub(fitting) {
            0 => String::new(),
            more => format!("; {} more that would need a higher terminal", size::count(more as u64, "disk")),
        };
        frame.render_widget(Line::from(format!("q ends; {:.0} s{more}", sample.seconds)).dim(), help);
    }
}

fn draw_disk(frame: &mut Frame<'_>, area: Rect, disk: &Seen, (growth, before): &(VecDeque<u64>, Vec<u64>)) {
    let name = if disk.name.is_empty() { "disk".into() } else { shown(&disk.name).to_string() };
    let block = Block::bordered().title(format!(" {name}, {} ", size::human(disk.size)));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let heights = [1, 1, 2, 1, 1, 1].map(Constraint::Length);
    let [dirty, place, curve, armed, writes, reads] = Layout::vertical(heights).areas(inner);
    let ratio = (disk.dirty_bytes as f64 / disk.size.max(1) as f64).clamp(0.0, 1.0);
    let label = format!("{} dirty, {:.1}%{}", size::human(disk.dirty_bytes), ratio * 100.0, picture::growth(disk));
    frame.render_widget(Gauge::default().ratio(ratio).label(label).gauge_style(Color::Yellow), dirty);
    draw_place(frame, place, disk, before);
    let curve_data: Vec<u64> = growth.iter().take(usize::from(curve.width)).copied().collect();
    frame.render_widget(Sparkline::default().data(&curve_data).style(Color::Red), curve);
    let checkpoint = disk.checkpoint.as_ref().map(|state| format!("; checkpoint {state}")).unwrap_or_default();
    let connections =
        disk.connections.map(|n| format!("; {}", size::count(n as u64, "connection"))).unwrap_or_default();
    frame.render_widget(Paragraph::new(format!("{}{checkpoint}{connections}", picture::armed(disk))), armed);
    for (name, rates, line) in [("writes", &disk.writes, writes), ("reads", &disk.reads, reads)] {
        let text = rates.as_ref().map(|rates| format!("{name} {}", picture::requests(rates))).unwrap_or_default();
        frame.render_widget(Paragraph::new(text), line);
    }
}

/// Where the disk is dirty; red where that grew since the look before.
fn draw_place(frame: &mut Frame<'_>, area: Rect, disk: &Seen, before: &[u64]) {
    let columns = usize::from(area.width);
    let (now, before) = (picture::over(&disk.areas, columns), picture::over(before, columns));
    let full = disk.size / disk.areas.len().max(1) as u64;
    for (column, part) in now.iter().enumerate() {
        let grew = before.get(column).is_some_and(|before| part > before);
        let style = Style::new().fg(if grew { Color::Red } else { Color::Yellow });
        let x = area.x + column as u16;
        frame.buffer_mut().set_string(x, area.y, picture::block(*part, full).to_string(), style);
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Rates;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn seen(dirty: u64, areas: [u64; 4], growth: Option<f64>) -> Seen {
        let rates = Rates { requests_per_second: 12.0, bytes_per_second: 4096.0, p99: Some(0.000_128) };
        Seen {
            name: "vm\u{1b}[31m".into(),
            size: 400,
            dirty_bytes: dirty,
            dirty_bytes_per_second: growth,
            armed_bytes: 65536,
            intent_bytes: 1024,
            checkpoint: Some("frozen".into()),
            areas: areas.into(),
            connections: Some(2),
            reads: None,
            writes: Some(rates),
        }
    }

    fn drawn(picture: &Picture, width: u16, height: u16) -> (Vec<String>, Terminal<TestBackend>) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| picture.draw(frame)).expect("draw");
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        ((0..height).map(line).collect(), terminal)
    }

    #[test]
    fn everything_is_in_the_picture_and_what_grew_is_red() {
        let mut picture = Picture::default();
        picture.take(Sample { seconds: 0.0, disks: vec![seen(100, [100, 0, 0, 0], None)] });
        picture.take(Sample { seconds: 1.0, disks: vec![seen(150, [100, 0, 50, 0], Some(50.0))] });
        let (lines, terminal) = drawn(&picture, 82, 10);
        assert!(lines[0].contains("vm") && lines[0].contains("400 B") && !lines[0].contains('\u{1b}'), "{lines:#?}");
        assert!(lines[1].contains("150 B dirty, 37.5% +50 B/s"), "{lines:#?}");
        // Eighty columns within the border: twenty for each part.
        let place: Vec<char> = lines[2].chars().skip(1).take(80).collect();
        for (part, block) in ['█', ' ', '▄', ' '].into_iter().enumerate() {
            assert!(place[part * 20..(part + 1) * 20].iter().all(|c| *c == block), "{lines:#?}");
        }
        let buffer = terminal.backend().buffer();
        assert_eq!((buffer[(1, 2)].fg, buffer[(41, 2)].fg), (Color::Yellow, Color::Red));
        assert!(
            lines[5].contains("armed 64 KiB (1 KiB by the write intent); checkpoint frozen; 2 connections"),
            "{lines:#?}"
        );
        assert!(lines[6].contains("writes 12/s 4 KiB/s, 99% in 128 µs"), "{lines:#?}");
        assert!(lines[9].starts_with("q ends; 1 s"), "{lines:#?}");
    }

    #[test]
    fn no_terminal_is_too_small() {
        let mut picture = Picture::default();
        picture.take(Sample { seconds: 0.0, disks: vec![seen(1, [1, 0, 0, 0], None), seen(400, [100; 4], None)] });
        for (width, height) in [(1, 1), (3, 2), (80, 9), (10, 100), (300, 5)] {
            drawn(&picture, width, height);
        }
        let (lines, _) = drawn(&picture, 80, 12);
        assert!(lines[11].contains("1 disk more"), "{lines:#?}");
    }
}
