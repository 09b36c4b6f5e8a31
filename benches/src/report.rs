//! The results as Markdown tables and as JSON.

use crate::harness::{Against, Kind, Measured};
use crate::rows::arms::Arm;
use crate::rows::backups::BackedUp;
use crate::rows::file::Counted;
use crate::rows::latency::Latency;
use crate::rows::processes::Scaled;
use crate::rows::scale::{Panel, Unit};
use crate::rows::writes::Written;
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
pub fn table(found: &Found) -> String {
    let Found { measured: results, counted, scaled, .. } = found;
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
        let limit = cells(Kind::Limit).into_iter().map(|(_, ns, ratio)| format!("{ns} ({ratio:.2})"));
        let by_hand = cells(Kind::ByHand).into_iter().map(|(name, ns, ratio)| format!("{name} {ns} ({ratio:.2})"));
        let limit = limit.chain(by_hand).collect::<Vec<_>>().join("; ");
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

/// A figure of a panel, in the unit that suits it.
pub fn figure(value: f64, unit: Unit) -> String {
    let scaled = |step: f64, names: [&str; 5]| {
        let i = (0..4).rev().find(|&i| value >= step.powi(i + 1)).map_or(0, |i| i + 1);
        let value = value / step.powi(i);
        format!("{value:.*} {}", if value < 10.0 && i > 0 { 1 } else { 0 }, names[i as usize])
    };
    match unit {
        Unit::Time => time(value),
        Unit::Bytes => scaled(1024.0, ["B", "KiB", "MiB", "GiB", "TiB"]),
        Unit::Rate => format!("{:.1} M", value / 1e6),
        Unit::Times | Unit::Count if value >= 10.0 => format!("{value:.0}"),
        Unit::Times | Unit::Count => format!("{value:.2}"),
    }
}

/// A table for each panel.
pub fn panels(panels: &[Panel]) -> String {
    let mut out = Vec::new();
    for Panel { title, x, unit, lines } in panels {
        let mut table = format!("**{title}**\n\n| {} | {} |\n|", x.0, x.1.join(" | "));
        table += &" --- |".repeat(x.1.len() + 1);
        for (name, values) in lines {
            let cell = |value: &Option<f64>| value.map_or("–".into(), |value| figure(value, *unit));
            let _ = write!(table, "\n| {name} | {} |", values.iter().map(cell).collect::<Vec<_>>().join(" | "));
        }
        out.push(table + "\n");
    }
    out.join("\n")
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

/// A table of its own: one arm, beside other ways to write two blocks durably.
pub fn arms(rows: &[Arm]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let mut out = format!("| on {} | median | as a multiple of ours |\n| --- | --- | --- |\n", first.file_system);
    for Arm { what, ns, times, .. } in rows {
        let _ = writeln!(out, "| {what} | {} | {times:.2} |", time(*ns));
    }
    out
}

/// A table of its own: writes to a disk, with a map and without.
pub fn written(rows: &[Written]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let mut out = format!("| on {} | state | untracked | tracked | target | wait, p99 | of |\n", first.file_system);
    out += "| --- | --- | --- | --- | --- | --- | --- |\n";
    for Written { what, state, plain, ratio, least, p99, writes, waited, syncs, .. } in rows {
        let target = least.map_or(String::new(), |least| {
            format!("at least {least:.2}: {}", if *ratio >= least { "met" } else { "**missed**" })
        });
        let (p99, of) = (time(*p99 as f64), format!("{writes} writes, {waited} waited; {syncs} syncs"));
        let _ = writeln!(out, "| {what} | {state} | {plain:.0}/s | {ratio:.2} × | {target} | {p99} | {of} |");
    }
    out
}

/// A table of its own: backups to a set, beside other ways to copy and check the same.
pub fn backed_up(rows: &[BackedUp]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out =
        String::from("| backup to a set | on | of it | beside, or its parts | that takes | our speed | target |\n");
    out += "| --- | --- | --- | --- | --- | --- | --- |\n";
    for BackedUp { what, state, file_system, beside, seconds, speed, least } in rows {
        let target = least.zip(*speed).map_or(String::new(), |(least, speed)| {
            format!("at least {least:.2}: {}", if speed >= least { "met" } else { "**missed**" })
        });
        let speed = speed.map_or(String::new(), |speed| format!("{speed:.2} ×"));
        let _ = writeln!(out, "| {state} | {file_system} | {what} | {beside} | {seconds:.2} s | {speed} | {target} |");
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

/// The rows of a run as JSON, after those of an older one that it has not run again.
pub fn with_old(new: &str, old: &str) -> String {
    let of = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("  {")).map(|line| line.trim_end_matches(',').into()).collect()
    };
    // A row begins with its name.
    let name = |line: &str| line.split("\", \"").next().map(str::to_owned);
    let new = of(new);
    let mut lines = of(old);
    lines.retain(|line| new.iter().all(|other| name(other) != name(line)));
    lines.extend(new);
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// Everything that one run has found.
#[derive(Default)]
pub struct Found {
    pub measured: Vec<Measured>,
    pub counted: Vec<Counted>,
    pub scaled: Vec<Scaled>,
    pub latencies: Vec<Latency>,
    pub arms: Vec<Arm>,
    pub written: Vec<Written>,
    pub backed_up: Vec<BackedUp>,
    pub panels: Vec<Panel>,
}

pub fn json(found: &Found) -> String {
    let Found { measured, counted, scaled, latencies, arms, written, backed_up, panels } = found;
    let mut lines = Vec::new();
    for measured in measured {
        let row = &measured.row;
        let times = measured.times.iter().map(|(name, kind, ns, ratio)| {
            let kind = ["ours", "peer", "by hand", "limit"][*kind as usize];
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
    for Arm { what, file_system, ns, times } in arms {
        lines.push(format!(
            r#"  {{"operation": "one arm", "state": "{what}", "file_system": "{file_system}", "ns": {ns:.0}, "is_times_ours": {times:.4}}}"#
        ));
    }
    for w in written {
        lines.push(format!(
            concat!(
                r#"  {{"operation": "{}", "state": "{}", "file_system": "{}", "plain_per_second": {:.1}, "tracked_is_times": {:.4}, "#,
                r#""at_least": {}, "wait_p99_ns": {}, "writes": {}, "waited": {}, "syncs": {}}}"#
            ),
            w.what,
            w.state,
            w.file_system,
            w.plain,
            w.ratio,
            w.least.map_or("null".into(), |least| least.to_string()),
            w.p99,
            w.writes,
            w.waited,
            w.syncs
        ));
    }
    for BackedUp { what, state, file_system, beside, seconds, speed, least } in backed_up {
        let least = least.map_or("null".into(), |least| least.to_string());
        let speed = speed.map_or("null".into(), |speed| format!("{speed:.4}"));
        lines.push(format!(
            r#"  {{"operation": "backup to a set: {what}", "state": "{state}", "file_system": "{file_system}", "beside": "{beside}", "its_seconds": {seconds:.3}, "speed_is_times": {speed}, "at_least": {least}}}"#
        ));
    }
    for Panel { title, x, unit, lines: of } in panels {
        let unit = ["ns", "bytes", "times", "per second", "count"][*unit as usize];
        for (name, values) in of {
            let points = x.1.iter().zip(values).filter_map(|(x, value)| Some(format!(r#""{x}": {:.4}"#, (*value)?)));
            lines.push(format!(
                r#"  {{"scale": "{title}", "line": "{name}", "over": "{}", "unit": "{unit}", "points": {{{}}}}}"#,
                x.0,
                points.collect::<Vec<_>>().join(", ")
            ));
        }
    }
    format!("[\n{}\n]\n", lines.join(",\n"))
}
