//! The results as a Markdown table, as JSON, and as a chart.

use crate::harness::{Against, Kind, Measured};
use crate::rows::file::Counted;
use crate::rows::latency::Latency;
use crate::rows::processes::Scaled;
use std::fmt::Write;

/// A time in the unit that suits it.
fn time(ns: f64) -> String {
    match ns {
        ns if ns >= 1e6 => format!("{:.2} ms", ns / 1e6),
        ns if ns >= 1e3 => format!("{:.2} µs", ns / 1e3),
        ns if ns >= 10.0 => format!("{ns:.1} ns"),
        ns => format!("{ns:.2} ns"),
    }
}

fn verdict(measured: &Measured) -> String {
    let Some((ratio, most, met)) = measured.verdict() else { return String::new() };
    let met = if met { "met" } else { "**missed**" };
    match measured.row.target {
        Some((_, Against::Clock)) => format!("{} at most: {met}", time(most)),
        Some((_, Against::Named(who))) => format!("{ratio:.2} of {most:.2} × {who}: {met}"),
        _ => format!("{ratio:.2} of {most:.2} × best peer: {met}"),
    }
}

/// One table: what, ours, the peers, the limit, the target.
pub fn table(results: &[Measured], counted: &[Counted], scaled: &[Scaled]) -> String {
    if results.is_empty() && counted.is_empty() && scaled.is_empty() {
        return String::new();
    }
    let mut out =
        String::from("| operation | state | ours | peers (ours is so many times theirs) | limit | target |\n");
    out += "| --- | --- | --- | --- | --- | --- |\n";
    for measured in results {
        let row = &measured.row;
        let cells = |kind| {
            let of_kind = measured.times.iter().filter(|t| t.1 == kind);
            of_kind.map(|&(name, _, ns, ratio)| (name, time(ns), ratio)).collect::<Vec<_>>()
        };
        let ours = cells(Kind::Ours).into_iter().map(|(_, ns, _)| format!("{ns} per {}", row.unit)).collect::<String>();
        let peers = cells(Kind::Peer).into_iter().map(|(name, ns, ratio)| format!("{name} {ns} ({ratio:.2})"));
        let peers = peers.collect::<Vec<_>>().join("; ");
        let limit = cells(Kind::Limit).iter().map(|(_, ns, ratio)| format!("{ns} ({ratio:.2})")).collect::<String>();
        let _ = writeln!(out, "| {} | {} | {ours} | {peers} | {limit} | {} |", row.name, row.state, verdict(measured));
    }
    for Counted { what, state, found, unit, most } in counted {
        let target = most.map_or(String::new(), |most| {
            format!("{most} {unit}: {}", if *found <= most { "met" } else { "**missed**" })
        });
        let _ = writeln!(out, "| {what} | {state} | {found:.3} {unit} | | | {target} |");
    }
    for Scaled { what, state, ns, times, in_rounds, limit, least } in scaled {
        let ns = time(*ns);
        let target = least.map_or(String::new(), |least| {
            format!("at least {least:.2}: {}", if *times >= least { "met" } else { "**missed**" })
        });
        let ours = format!("{times:.2} × one, which takes {ns}; {in_rounds:.2} median of rounds");
        let _ = writeln!(out, "| {what} | {state} | {ours} | | {limit:.2} × one ({:.2}) | {target} |", times / limit);
    }
    out
}

/// A table of its own: how long single sets take.
pub fn latencies(latencies: &[Latency]) -> String {
    let Some(first) = latencies.first() else { return String::new() };
    let mut out = format!("| on {} | state | p50 | p99 | p99.9 | worst | of |\n", first.file_system);
    out += "| --- | --- | --- | --- | --- | --- | --- |\n";
    for Latency { what, state, p50, p99, p999, worst, operations, slow, flushes, fsyncs, .. } in latencies {
        let times = [p50, p99, p999, worst].map(|&ns| time(ns as f64)).join(" | ");
        let load = format!("{operations} operations, {slow} waited to be armed; {flushes} flushes, {fsyncs} fsyncs");
        let _ = writeln!(out, "| {what} | {state} | {times} | {load} |");
    }
    out
}

/// A text with what stands between `<!-- table NAME -->` and the next `<!-- end -->` replaced, for each name that it has.
pub fn with_tables(mut text: String, tables: &[(&str, String)]) -> String {
    for (name, table) in tables.iter().filter(|(_, table)| !table.is_empty()) {
        let begin = format!("<!-- table {name} -->\n");
        if let Some(start) = text.find(&begin).map(|at| at + begin.len())
            && let Some(len) = text[start..].find("<!-- end -->")
        {
            text.replace_range(start..start + len, table);
        }
    }
    text
}

pub fn json(results: &[Measured], counted: &[Counted], scaled: &[Scaled], latencies: &[Latency]) -> String {
    let mut lines = Vec::new();
    for measured in results {
        let row = &measured.row;
        let times = measured.times.iter().map(|(name, kind, ns, ratio)| {
            let kind = ["ours", "peer", "limit"][*kind as usize];
            format!(r#"{{"name": "{name}", "kind": "{kind}", "ns": {ns:.4}, "ours_is_times": {ratio:.4}}}"#)
        });
        let times = times.collect::<Vec<_>>().join(", ");
        let target = measured.verdict().map_or("null".into(), |(found, most, met)| {
            format!(r#"{{"found": {found:.4}, "at_most": {most:.4}, "met": {met}}}"#)
        });
        let (name, state, unit) = (row.name, &row.state, row.unit);
        lines.push(format!(
            r#"  {{"operation": "{name}", "state": "{state}", "unit": "{unit}", "times": [{times}], "target": {target}}}"#
        ));
    }
    for Counted { what, state, found, unit, most } in counted {
        let most = most.map_or("null".into(), |most| most.to_string());
        lines.push(format!(
            r#"  {{"operation": "{what}", "state": "{state}", "unit": "{unit}", "counted": {found:.4}, "at_most": {most}}}"#
        ));
    }
    for Scaled { what, state, ns, times, in_rounds, limit, least } in scaled {
        let least = least.map_or("null".into(), |least| least.to_string());
        lines.push(format!(
            concat!(
                r#"  {{"operation": "{}", "state": "{}", "one_ns": {:.4}, "two_is_times": {:.4}, "#,
                r#""two_is_times_in_rounds": {:.4}, "limit": {:.4}, "at_least": {}}}"#
            ),
            what, state, ns, times, in_rounds, limit, least
        ));
    }
    for l in latencies {
        lines.push(format!(
            concat!(
                r#"  {{"operation": "latency of set: {}", "state": "{}", "file_system": "{}", "operations": {}, "#,
                r#""p50_ns": {}, "p99_ns": {}, "p999_ns": {}, "worst_ns": {}, "slow_sets": {}, "flushes": {}, "fsyncs": {}}}"#
            ),
            l.what, l.state, l.file_system, l.operations, l.p50, l.p99, l.p999, l.worst, l.slow, l.flushes, l.fsyncs
        ));
    }
    format!("[\n{}\n]\n", lines.join(",\n"))
}

const LEFT: f64 = 330.0;
const WIDTH: f64 = 560.0;
const STEP: f64 = 24.0;
/// The ends of the scale: our time as a multiple.
const SCALE: (f64, f64) = (1.0 / 64.0, 16.0);

/// A dot for each peer and a ring for the limit: how many times its time ours is, on a logarithmic scale.
pub fn chart(results: &[Measured]) -> String {
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
            let colour = colours.iter().find(|c| c.0 == name).map_or("none", |c| c.1);
            let edge = if kind == Kind::Limit { "black" } else { colour };
            let title = format!("<title>{name}: {ratio:.2}</title>");
            let _ = writeln!(
                out,
                r#"<circle cx="{at:.1}" cy="{middle}" r="5" fill="{colour}" stroke="{edge}">{title}</circle>"#
            );
        }
        y += STEP;
    }
    let mut at = LEFT;
    for (name, colour) in colours.iter().copied().chain([("limit", "none"), ("target", "red")]) {
        let y = bottom + 20.0;
        let edge = if colour == "none" { "black" } else { colour };
        if name == "target" {
            let _ = writeln!(out, r#"<line x1="{at}" x2="{at}" y1="{}" y2="{}" stroke="red"/>"#, y - 9.0, y + 9.0);
        } else {
            let _ = writeln!(out, r#"<circle cx="{at}" cy="{y}" r="5" fill="{colour}" stroke="{edge}"/>"#);
        }
        let _ = writeln!(out, r#"<text x="{}" y="{}">{name}</text>"#, at + 9.0, y + 4.0);
        at += 85.0;
    }
    out + "</svg>\n"
}
