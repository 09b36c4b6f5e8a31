//! `dirtymap show`: a picture of a map, or of what differs between two.
//!
//! Invariant kept here: the terminal, the SVG and the JSON show the same numbers. What it costs goes with the dirt.

use super::diff::{Side, differences};
use crate::cli::Show;
use crate::exit::{Exit, Failure, Result};
use crate::files::publish;
use crate::map::open;
use crate::map::relation;
use crate::picture::{self, Grid, Panel};
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::text::say;
use dirtymap::{DirtyMap, Geometry};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

/// Columns where there is no terminal to ask.
const WIDTH: u64 = 80;

#[derive(Serialize)]
struct Answer {
    file: String,
    other: Option<String>,
    size: u64,
    cell_bytes: u64,
    columns: u64,
    cells: Vec<Cell>,
    svg: Option<String>,
}

#[derive(Serialize)]
struct Cell {
    offset: u64,
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dirty_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    only_in_a: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    only_in_b: Option<u64>,
}

pub fn run(args: &Show, wait: Duration, output: Output) -> Result<Exit> {
    let to_stdout = args.svg.as_deref() == Some(Path::new("-"));
    if to_stdout && output.is_json() {
        return Err(Failure::usage(
            "standard output cannot hold both the picture and the JSON; give a file for the picture",
        ));
    }
    if let Some(svg) = args.svg.as_ref().filter(|_| !to_stdout) {
        publish::vacant(svg)?;
    }
    let width = args.width.map_or_else(terminal_width, u64::from);
    let (map, mut exit) = open::for_reading(&args.file, wait, output)?;
    let (grid, heading, panels) = match &args.other {
        None => {
            let (grid, panel) = one(&map, width)?;
            (grid, heading(&args.file, map.geometry()), vec![panel])
        }
        Some(other) => {
            let (b, exit_b) = open::for_reading(other, wait, output)?;
            relation::equally_long((&args.file, map.len()), (other, b.len()))?;
            let names = (shown(&args.file).to_string(), shown(other).to_string());
            let (grid, panels) = two(&map, &b, &names, width)?;
            b.verify_session()?;
            let different = panels.iter().any(|panel| panel.dirty.iter().any(|&bytes| bytes > 0));
            exit = exit.max(exit_b).max(if different { Exit::DIFFERENT } else { Exit::Fine });
            (grid, format!("{} and {}: {}", names.0, names.1, size::human(map.len())), panels.into())
        }
    };
    map.verify_session()?;
    if let Some(path) = &args.svg {
        let picture = picture::svg(&grid, &heading, &panels);
        if to_stdout {
            output.stream(|out, _| out.write_all(picture.as_bytes()))?;
            return Ok(exit);
        }
        publish::write(path, picture.as_bytes())?;
    }
    let colours = colours();
    output.answer(&answer(args, &grid, &panels), |out, a| match &a.svg {
        Some(svg) => {
            let cells = size::count(a.cells.len() as u64, "cell");
            say!(out, "drew {heading}, in {cells}, to {}", shown(svg))
        }
        None => {
            say!(out, "{heading}")?;
            picture::draw(out, &grid, &panels, colours)
        }
    })?;
    Ok(exit)
}

/// As wide as the terminal that the picture goes to.
fn terminal_width() -> u64 {
    let stdout = rustix::stdio::stdout();
    let size = rustix::termios::tcgetwinsize(stdout).ok().map(|size| u64::from(size.ws_col));
    size.filter(|&columns| columns > 0).map_or(WIDTH, |columns| columns.clamp(40, 1000))
}

/// Whether whoever looks wants colours (https://no-color.org).
fn colours() -> bool {
    let unset = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    unset && io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn heading(file: &Path, geometry: &Geometry) -> String {
    let (size, granule) = (size::human(geometry.len()), size::human(geometry.granule()));
    format!("{}: {size}, {} of {granule}", shown(file), size::count(geometry.bits(), "granule"))
}

/// One map: its dirty bytes, counted by words.
fn one(map: &DirtyMap, width: u64) -> Result<(Grid, Panel)> {
    let geometry = map.geometry();
    let grid = Grid::new(*geometry, width);
    let mut dirty = Vec::new();
    for cell in 0..grid.cells() {
        let items = grid.items(cell);
        let mut bytes = map.count_range(items.clone())?.saturating_mul(geometry.granule());
        if items.end == map.len() && map.get(items.end - 1)? {
            // The last granule may be partial.
            bytes -= geometry.bits() * geometry.granule() - geometry.len();
        }
        dirty.push(bytes);
    }
    let sum: u64 = dirty.iter().sum();
    let title = format!("dirty: {} ({:.1}%)", size::human(sum), size::percent(sum, map.len()));
    Ok((grid, Panel { title, terminal: 33, colour: "#b35900", dirty }))
}

/// Two maps: what is dirty in only one of them.
fn two(a: &DirtyMap, b: &DirtyMap, names: &(String, String), width: u64) -> Result<(Grid, [Panel; 2])> {
    let granularity = a.granularity().max(b.granularity());
    let grid = Grid::new(Geometry::new(a.len(), granularity)?, width);
    let mut dirty = [(); 2].map(|()| vec![0u64; grid.cells() as usize]);
    for difference in differences(a, b) {
        let difference = difference?;
        let side = &mut dirty[difference.only_in as usize];
        let (start, end) = (difference.offset, difference.offset + difference.length);
        for cell in grid.cell_of(start)..=grid.cell_of(end - 1) {
            let items = grid.items(cell);
            if let Some(bytes) = side.get_mut(cell as usize) {
                *bytes += items.end.min(end) - items.start.max(start);
            }
        }
    }
    let title = |sign: &str, name: &str, dirty: &[u64]| {
        format!("{sign} dirty only in {name}: {}", size::human(dirty.iter().sum()))
    };
    let [in_a, in_b] = dirty;
    let a = Panel { title: title("-", &names.0, &in_a), terminal: 31, colour: "#a31515", dirty: in_a };
    let b = Panel { title: title("+", &names.1, &in_b), terminal: 32, colour: "#1a6b1a", dirty: in_b };
    debug_assert_eq!((Side::A as usize, Side::B as usize), (0, 1));
    Ok((grid, [a, b]))
}

fn answer(args: &Show, grid: &Grid, panels: &[Panel]) -> Answer {
    let name = |path: &Path| path.display().to_string();
    let bytes = |panel: usize, cell: u64| panels.get(panel).and_then(|p| p.dirty.get(cell as usize)).copied();
    let cell = |cell: u64| {
        let items = grid.items(cell);
        let (offset, length, single) = (items.start, items.end - items.start, panels.len() == 1);
        Cell {
            offset,
            length,
            dirty_bytes: bytes(0, cell).filter(|_| single),
            only_in_a: bytes(0, cell).filter(|_| !single),
            only_in_b: bytes(1, cell),
        }
    };
    Answer {
        file: name(&args.file),
        other: args.other.as_deref().map(name),
        size: grid.len(),
        cell_bytes: grid.cell_bytes(),
        columns: grid.columns,
        cells: (0..grid.cells()).map(cell).collect(),
        svg: args.svg.as_deref().map(name),
    }
}
