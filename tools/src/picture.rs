//! Pictures of maps: cells of equal length in rows, for a terminal and as SVG.
//!
//! Invariants kept here: a cell that has any dirt never looks clean, and only one that is dirty throughout looks full.
//! Both kinds of picture show the same numbers. What it costs goes with the cells, not with the map.

use crate::size;
use dirtymap::Geometry;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::Range;

/// Rows at most.
const ROWS: u64 = 16;
/// Columns from one mark of the lower axis to the next; the number of columns is a multiple of half of it.
const TICK: u64 = 16;
/// What stands for how much of a cell is dirty, and what that means.
const SHADES: [(char, &str); 5] =
    [('·', "none"), ('░', "under 1/3"), ('▒', "under 2/3"), ('▓', "more"), ('█', "all of it")];

/// How a map is cut into cells.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    geometry: Geometry,
    /// Granules of a cell; a power of two.
    granules: u64,
    pub columns: u64,
}

impl Grid {
    /// A grid for a picture of `width` columns, with the axis.
    pub fn new(geometry: Geometry, width: u64) -> Grid {
        let axis = digits(geometry.len()) as u64 + 3;
        let columns = width.saturating_sub(axis).max(TICK / 2) / (TICK / 2) * (TICK / 2);
        let granules = geometry.bits().div_ceil(columns * ROWS).max(1).next_power_of_two();
        Grid { geometry, granules, columns }
    }

    /// Bytes that all cells cover.
    pub fn len(&self) -> u64 {
        self.geometry.len()
    }

    /// Bytes of a cell; the last one may be shorter.
    pub fn cell_bytes(&self) -> u64 {
        // More than the whole map is no more than that.
        self.granules.saturating_mul(self.geometry.granule())
    }

    /// How many cells there are.
    pub fn cells(&self) -> u64 {
        self.geometry.bits().div_ceil(self.granules)
    }

    /// The items of a cell.
    pub fn items(&self, cell: u64) -> Range<u64> {
        let end = (cell + 1).saturating_mul(self.granules);
        self.geometry.items_of(&(cell * self.granules..end))
    }

    /// The cell that an item is in.
    pub fn cell_of(&self, item: u64) -> u64 {
        self.geometry.bit_of(item) / self.granules
    }

    /// The rows, as cells.
    fn rows(&self) -> impl Iterator<Item = Range<u64>> {
        let (cells, columns) = (self.cells(), self.columns);
        (0..cells.div_ceil(columns)).map(move |row| row * columns..((row + 1) * columns).min(cells))
    }

    /// How much of a cell `dirty` bytes are: an index into [`SHADES`].
    fn shade(&self, cell: u64, dirty: u64) -> usize {
        let items = self.items(cell);
        let (all, dirty) = (u128::from(items.end - items.start), u128::from(dirty));
        match dirty {
            0 => 0,
            d if d >= all => 4,
            d if d * 3 < all => 1,
            d if d * 3 < all * 2 => 2,
            _ => 3,
        }
    }

    /// The marks of the lower axis: columns, and what they say.
    fn marks(&self) -> impl Iterator<Item = (u64, String)> {
        let cell = self.cell_bytes();
        let used = self.columns.min(self.cells());
        (0..used).step_by(TICK as usize).map(move |column| (column, format!("+{}", size::human(column * cell))))
    }
}

fn digits(n: u64) -> usize {
    n.to_string().len()
}

/// One set of bits over the cells.
#[derive(Debug)]
pub struct Panel {
    pub title: String,
    /// For a terminal: the number of a colour.
    pub terminal: u8,
    /// For SVG.
    pub colour: &'static str,
    /// Dirty bytes of each cell.
    pub dirty: Vec<u64>,
}

/// Draws panels with block characters.
pub fn draw(out: &mut dyn Write, grid: &Grid, panels: &[Panel], colours: bool) -> io::Result<()> {
    let axis = digits(grid.geometry.len());
    for panel in panels {
        writeln!(out, "{}", panel.title)?;
        for row in grid.rows() {
            write!(out, "{:>axis$} |", grid.items(row.start).start)?;
            let shades: Vec<usize> =
                row.map(|cell| grid.shade(cell, panel.dirty.get(cell as usize).copied().unwrap_or(0))).collect();
            for run in shades.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
                let text: String = run.iter().map(|&shade| SHADES[shade].0).collect();
                match (colours, run[0]) {
                    (false, _) => write!(out, "{text}")?,
                    (true, 0) => write!(out, "\x1b[2m{text}\x1b[0m")?,
                    (true, _) => write!(out, "\x1b[{}m{text}\x1b[0m", panel.terminal)?,
                }
            }
            writeln!(out, "|")?;
        }
        let mut line = String::new();
        for (column, mark) in grid.marks() {
            let column = column as usize;
            // One that does not fit is left out.
            if column + mark.len() <= grid.columns as usize && (line.is_empty() || line.len() < column) {
                let _ = write!(line, "{:column$}{mark}", "", column = column - line.len());
            }
        }
        if !line.is_empty() {
            writeln!(out, "{:axis$}  {line}", "")?;
        }
    }
    let legend: Vec<String> = SHADES.iter().map(|(shade, means)| format!("{shade} {means}")).collect();
    writeln!(out, "dirty of each {}: {}", size::human(grid.cell_bytes()), legend.join(", "))
}

/// Pixels of the SVG picture.
const ROW_HEIGHT: u64 = 20;
const LINE_HEIGHT: u64 = 22;
const DIGIT_WIDTH: u64 = 8;
const CELLS_WIDTH: u64 = 960;

/// The panels as an SVG picture.
pub fn svg(grid: &Grid, heading: &str, panels: &[Panel]) -> String {
    let left = (digits(grid.geometry.len()) as u64 + 2) * DIGIT_WIDTH;
    let cell_width = (CELLS_WIDTH / grid.columns).clamp(1, 16);
    let (right, rows) = (left + grid.columns * cell_width, grid.cells().div_ceil(grid.columns));
    // With room for a mark at the right end, and for the last line.
    let width = right.max(left + 900) + 8 * DIGIT_WIDTH;
    let panel_height = LINE_HEIGHT * 3 + rows * ROW_HEIGHT;
    let height = LINE_HEIGHT * 3 + panel_height * panels.len() as u64;
    // Writing to a string does not fail.
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{left}\" y=\"{LINE_HEIGHT}\" font-size=\"15\">{}</text>\n",
        escaped(heading)
    );
    let mut top = LINE_HEIGHT;
    for panel in panels {
        let base = top + LINE_HEIGHT;
        let _ =
            writeln!(out, "<text x=\"{left}\" y=\"{base}\" fill=\"{}\">{}</text>", panel.colour, escaped(&panel.title));
        let first = base + LINE_HEIGHT / 2;
        for (i, row) in (0..).zip(grid.rows()) {
            let y = first + i * ROW_HEIGHT;
            let bar = ROW_HEIGHT - 3;
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#444444\">{}</text>\n\
                 <rect x=\"{left}\" y=\"{y}\" width=\"{}\" height=\"{bar}\" fill=\"#eeeeee\"/>",
                left - DIGIT_WIDTH,
                y + bar - 4,
                grid.items(row.start).start,
                (row.end - row.start) * cell_width
            );
            out += &svg_row(grid, panel, row, |column| left + column * cell_width, y, bar);
        }
        out += &svg_marks(grid, |column| left + column * cell_width, first + rows * ROW_HEIGHT, cell_width);
        top += panel_height;
    }
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"{}\" font-size=\"11\" fill=\"#444444\">bytes from the start of the image at the left, within \
         the row below; a cell is {} ({} bytes); grey: clean, the fuller the colour the more of a cell is dirty</text>\n</svg>",
        top + LINE_HEIGHT,
        size::human(grid.cell_bytes()),
        grid.cell_bytes()
    );
    out
}

/// The marks below the rows.
fn svg_marks(grid: &Grid, x: impl Fn(u64) -> u64, y: u64, cell_width: u64) -> String {
    let mut out = String::new();
    for (column, mark) in grid.marks() {
        let x = x(column);
        // Where it would run into the next one it is left out.
        if column % (4 * TICK) == 0 || TICK * cell_width >= 80 {
            let _ = writeln!(
                out,
                "<line x1=\"{x}\" y1=\"{y}\" x2=\"{x}\" y2=\"{}\" stroke=\"#444444\"/>\n\
                 <text x=\"{x}\" y=\"{}\" font-size=\"11\" fill=\"#444444\">{mark}</text>",
                y + 5,
                y + 16
            );
        }
    }
    out
}

/// The dirty cells of a row; neighbours that are alike are one rectangle.
fn svg_row(grid: &Grid, panel: &Panel, row: Range<u64>, x: impl Fn(u64) -> u64, y: u64, height: u64) -> String {
    let mut out = String::new();
    let first = row.start;
    let of = |cell: u64| {
        let (items, dirty) = (grid.items(cell), panel.dirty.get(cell as usize).copied().unwrap_or(0));
        // In hundredths, for the opacity; any dirt is seen, and only all of it is all.
        let part = dirty as f64 / (items.end - items.start).max(1) as f64;
        let part = if grid.shade(cell, dirty) == 4 { 100 } else { 30 + (part * 65.0) as u64 };
        (dirty > 0).then_some(part)
    };
    let parts: Vec<(u64, Option<u64>)> = row.map(|cell| (cell, of(cell))).collect();
    for run in parts.chunk_by(|a, b| a.1 == b.1) {
        let ((start, Some(part)), (last, _)) = (run[0], run[run.len() - 1]) else { continue };
        let bytes: u64 = (start..=last).filter_map(|cell| panel.dirty.get(cell as usize)).sum();
        let (from, to) = (grid.items(start).start, grid.items(last).end);
        let (x, end) = (x(start - first), x(last + 1 - first));
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{height}\" fill=\"{}\" fill-opacity=\"{}.{:02}\">\
             <title>{from} to {to}: {bytes} bytes</title></rect>",
            end - x,
            panel.colour,
            part / 100,
            part % 100
        );
    }
    out
}

/// Text for XML, which has no way to write most control characters.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cover_every_map_without_gaps_and_fit_the_width() {
        for (len, granularity) in [
            (0, 0),
            (1, 0),
            (1, 63),
            (100, 3),
            (10 << 30, 16),
            (1 << 41, 0),
            (i64::MAX as u64, 22),
            (i64::MAX as u64, 63),
        ] {
            for width in [40, 80, 81, 200, 1000] {
                let grid = Grid::new(Geometry::new(len, granularity).unwrap(), width);
                assert!(digits(len) as u64 + 3 + grid.columns <= width && grid.columns.is_multiple_of(8));
                assert!(grid.cells() <= grid.columns * ROWS);
                let mut at = 0;
                for cell in 0..grid.cells() {
                    let items = grid.items(cell);
                    assert!(items.start == at && items.start < items.end, "{len} {granularity} {width}");
                    assert_eq!((grid.cell_of(items.start), grid.cell_of(items.end - 1)), (cell, cell));
                    at = items.end;
                }
                assert_eq!(at, len);
                // And both pictures can be drawn of it.
                let panel =
                    Panel { title: "x".into(), terminal: 33, colour: "#000", dirty: vec![1; grid.cells() as usize] };
                let mut text = Vec::new();
                draw(&mut text, &grid, std::slice::from_ref(&panel), false).unwrap();
                let text = String::from_utf8(text).unwrap();
                let picture = text.lines().take_while(|line| !line.starts_with("dirty of each"));
                assert!(picture.clone().all(|line| line.chars().count() as u64 <= width), "{text}");
                assert!(svg(&grid, "x", &[panel]).ends_with("</svg>\n"));
            }
        }
    }

    #[test]
    fn a_little_dirt_is_seen_and_only_all_of_it_is_all() {
        let grid = Grid::new(Geometry::new(1 << 40, 0).unwrap(), 80);
        let cell = grid.cell_bytes();
        let shades = [0, 1, cell / 3 + 1, cell / 3 * 2 + 2, cell - 1, cell].map(|dirty| grid.shade(0, dirty));
        assert_eq!(shades, [0, 1, 2, 3, 3, 4]);
    }

    #[test]
    fn names_are_no_markup() {
        assert_eq!(escaped("<a&\"b\">\u{1b}"), "&lt;a&amp;&quot;b&quot;&gt;\u{fffd}");
    }
}
