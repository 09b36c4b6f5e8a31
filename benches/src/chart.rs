//! The charts.

use crate::harness::{Against, Kind, Measured};
use crate::report::figure;
use crate::rows::scale::{Panel, Unit};
use std::fmt::Write;

const LEFT: f64 = 330.0;
const WIDTH: f64 = 560.0;
const STEP: f64 = 24.0;
/// The ends of the scale: our time as a multiple.
const SCALE: (f64, f64) = (1.0 / 64.0, 16.0);

/// A dot for each peer and a ring for the limit: how many times its time ours is, on a logarithmic scale.
pub fn ratios(results: &[Measured]) -> String {
    let rows: Vec<_> = results.iter().filter(|m| m.times.len() > 1).collect();
    let bottom = 60.0 + STEP * rows.len() as f64;
    let x = |ratio: f64| {
        let at = ratio.clamp(SCALE.0, SCALE.1).ln();
        LEFT + WIDTH * (at - SCALE.0.ln()) / (SCALE.1.ln() - SCALE.0.ln())
    };
    let mut out = format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12">"#,
            "\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            "<text x=\"10\" y=\"20\">our time as a multiple of each contender's; left of 1 we are faster</text>\n"
        ),
        LEFT + WIDTH + 40.0,
        bottom + 40.0
    );
    let mut mark = SCALE.0;
    while mark <= SCALE.1 {
        let (at, colour) = (x(mark), if mark == 1.0 { "black" } else { "#ddd" });
        let label = if mark < 1.0 { format!("1/{}", 1.0 / mark) } else { format!("{mark}") };
        let _ = writeln!(out, r#"<line x1="{at:.1}" x2="{at:.1}" y1="45" y2="{bottom}" stroke="{colour}"/>"#);
        let _ = writeln!(out, r#"<text x="{at:.1}" y="40" text-anchor="middle">{label}</text>"#);
        mark *= 2.0;
    }
    let colours = [
        ("fixedbitset", "#1f77b4"),
        ("roaring", "#ff7f0e"),
        ("croaring", "#2ca02c"),
        ("hibitset", "#9467bd"),
        ("vm-memory", "#8c564b"),
        ("by hand", "#bbb"),
    ];
    let mut y = 60.0;
    for measured in rows {
        let state = measured.row.state.split([',', ';']).take(2).collect::<Vec<_>>().join(",");
        let label: String = format!("{}: {state}", measured.row.name).chars().take(56).collect();
        let _ = writeln!(out, r#"<text x="{}" y="{y}" text-anchor="end" font-size="10">{label}</text>"#, LEFT - 8.0);
        let middle = y - 4.0;
        if let (Some((_, most, _)), Some((_, against))) = (measured.verdict(), measured.row.target)
            && !matches!(against, Against::Clock)
        {
            let at = x(most);
            let (top, foot) = (middle - 9.0, middle + 9.0);
            let _ = writeln!(out, r#"<line x1="{at:.1}" x2="{at:.1}" y1="{top}" y2="{foot}" stroke="red"/>"#);
        }
        for &(name, kind, _, ratio) in &measured.times[1..] {
            let at = x(ratio);
            let name_of = if kind == Kind::ByHand { "by hand" } else { name };
            let colour = colours.iter().find(|c| c.0 == name_of).map_or("none", |c| c.1);
            let edge = if kind == Kind::Limit { "black" } else { colour };
            let title = format!("<title>{name}: {ratio:.2}</title>");
            let _ = writeln!(
                out,
                r#"<circle cx="{at:.1}" cy="{middle}" r="5" fill="{colour}" stroke="{edge}">{title}</circle>"#
            );
        }
        y += STEP;
    }
    let mut at = LEFT - 100.0;
    for (name, colour) in colours.iter().copied().chain([("limit", "none"), ("target", "red")]) {
        let y = bottom + 20.0;
        let edge = if colour == "none" { "black" } else { colour };
        if name == "target" {
            let _ = writeln!(out, r#"<line x1="{at}" x2="{at}" y1="{}" y2="{}" stroke="red"/>"#, y - 9.0, y + 9.0);
        } else {
            let _ = writeln!(out, r#"<circle cx="{at}" cy="{y}" r="5" fill="{colour}" stroke="{edge}"/>"#);
        }
        let _ = writeln!(out, r#"<text x="{}" y="{}">{name}</text>"#, at + 9.0, y + 4.0);
        at += 88.0;
    }
    out + "</svg>\n"
}

/// Size of one panel, and of what is drawn in it.
const PANEL: (f64, f64) = (600.0, 330.0);
const PLOT: (f64, f64) = (330.0, 230.0);
const COLOURS: [&str; 8] = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf"];

/// A chart for each panel, two side by side: columns in order, figures on a logarithmic scale.
pub fn panels(panels: &[Panel]) -> String {
    let (width, height) = (2.0 * PANEL.0, PANEL.1 * panels.len().div_ceil(2) as f64);
    let mut out = format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="11">"#,
            "\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        ),
        width, height
    );
    for (i, panel) in panels.iter().enumerate() {
        let _ = writeln!(
            out,
            r#"<g transform="translate({},{})">{}</g>"#,
            (i % 2) as f64 * PANEL.0 + 60.0,
            (i / 2) as f64 * PANEL.1 + 40.0,
            draw(panel)
        );
    }
    out + "</svg>\n"
}

fn draw(panel: &Panel) -> String {
    let Panel { title, x: (over, columns), unit, lines } = panel;
    let values = || lines.iter().flat_map(|line| &line.1).flatten().copied().filter(|value| *value > 0.0);
    // Whole powers of ten, or for bytes of 32.
    let base: f64 = if *unit == Unit::Bytes { 32.0 } else { 10.0 };
    let first = values().fold(f64::MAX, f64::min).log(base).floor();
    let last = values().fold(f64::MIN_POSITIVE, f64::max).log(base).ceil().max(first + 1.0);
    let y = |value: f64| PLOT.1 * (1.0 - (value.max(base.powf(first)).log(base) - first) / (last - first));
    let x = |i: usize| PLOT.0 * (i as f64 + 0.5) / columns.len() as f64;
    let mut out = format!("\n<text x=\"-50\" y=\"-18\" font-size=\"12\" font-weight=\"bold\">{title}</text>\n");
    for power in first as i32..=last as i32 {
        let (at, label) = (y(base.powi(power)), figure(base.powi(power), *unit));
        let _ = writeln!(out, r##"<line x1="0" x2="{}" y1="{at:.1}" y2="{at:.1}" stroke="#ddd"/>"##, PLOT.0);
        let _ = writeln!(out, r#"<text x="-6" y="{:.1}" text-anchor="end" font-size="9">{label}</text>"#, at + 3.0);
    }
    for (i, column) in columns.iter().enumerate() {
        let (at, y) = (x(i), PLOT.1 + 14.0);
        let _ = writeln!(out, r#"<text x="{at:.1}" y="{y}" text-anchor="middle" font-size="9">{column}</text>"#);
    }
    let (middle, foot) = (PLOT.0 / 2.0, PLOT.1 + 30.0);
    let _ = writeln!(out, r#"<text x="{middle}" y="{foot}" text-anchor="middle" font-size="10">{over}</text>"#);
    for (i, (name, values)) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<_> =
            values.iter().enumerate().filter_map(|(i, value)| Some((x(i), y((*value)?), (*value)?))).collect();
        let path: Vec<_> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(out, r#"<polyline points="{}" fill="none" stroke="{colour}"/>"#, path.join(" "));
        for (x, y, value) in points {
            let title = format!("<title>{name}: {}</title>", figure(value, *unit));
            let _ = writeln!(out, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}">{title}</circle>"#);
        }
        let (at, y) = (PLOT.0 + 12.0, 10.0 + 16.0 * i as f64);
        let _ = writeln!(out, r#"<circle cx="{at}" cy="{}" r="4" fill="{colour}"/>"#, y - 4.0);
        let _ = writeln!(out, r#"<text x="{}" y="{y}" font-size="10">{name}</text>"#, at + 9.0);
    }
    out
}
