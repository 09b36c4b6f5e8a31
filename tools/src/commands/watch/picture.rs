//! What was seen, in words and characters.

use super::sample::{Rates, Sample, Seen};
use crate::size;
use dirtymap_cli::shown::shown;
use std::time::Duration;

/// One line of text for a disk.
pub fn line(sample: &Sample, disk: &Seen) -> String {
    let mut parts = vec![format!("{:>6.1} s", sample.seconds)];
    if !disk.name.is_empty() {
        parts.push(shown(&disk.name).to_string());
    }
    let percent = size::percent(disk.dirty_bytes, disk.size);
    parts.push(format!("dirty {} ({percent:.1}%){}", size::human(disk.dirty_bytes), growth(disk)));
    parts.push(armed(disk));
    if let Some(connections) = disk.connections {
        parts.push(size::count(connections as u64, "connection"));
    }
    for (name, rates) in [("writes", &disk.writes), ("reads", &disk.reads)] {
        parts.extend(rates.as_ref().map(|rates| format!("{name} {}", requests(rates))));
    }
    parts.extend(disk.checkpoint.as_ref().map(|state| format!("checkpoint {state}")));
    parts.join(", ")
}

/// How fast dirt grows, or shrinks.
pub fn growth(disk: &Seen) -> String {
    match disk.dirty_bytes_per_second {
        Some(rate) if rate > 0.0 => format!(" +{}/s", size::human(rate as u64)),
        Some(rate) if rate < 0.0 => format!(" -{}/s", size::human(-rate as u64)),
        _ => String::new(),
    }
}

/// What a crash would make dirty.
pub fn armed(disk: &Seen) -> String {
    let intent = match disk.intent_bytes {
        0 => String::new(),
        bytes => format!(" ({} by the write intent)", size::human(bytes)),
    };
    format!("armed {}{intent}", size::human(disk.armed_bytes))
}

pub fn requests(rates: &Rates) -> String {
    let p99 = match rates.p99 {
        Some(seconds) => format!(", 99% in {}", brief(Duration::from_secs_f64(seconds))),
        None => String::new(),
    };
    let bytes = size::human(rates.bytes_per_second as u64);
    format!("{:.0}/s {bytes}/s{p99}", rates.requests_per_second)
}

/// A time in three digits or so.
fn brief(time: Duration) -> String {
    match time.as_micros() {
        micros @ ..1000 => format!("{micros} µs"),
        micros @ ..1_000_000 => format!("{} ms", micros / 1000),
        micros => format!("{:.1} s", micros as f64 / 1e6),
    }
}

/// How full a part is, as a block of eighths; nothing where nothing is dirty.
pub fn block(part: u64, of: u64) -> char {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if part == 0 || of == 0 {
        return ' ';
    }
    BLOCKS[((u128::from(part) * 8).div_ceil(u128::from(of)) as usize).clamp(1, 8)]
}

/// The parts of a disk over so many columns: bytes that are dirty in each.
pub fn over(areas: &[u64], columns: usize) -> Vec<u64> {
    // A column shows the part that its middle lies in.
    (0..columns).filter_map(|column| areas.get((2 * column + 1) * areas.len() / (2 * columns)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_dirty_at_all_is_seen_and_a_full_one_is_full() {
        assert_eq!(
            [(0, 8), (1, 1000), (500, 1000), (1000, 1000), (5, 0)].map(|(a, b)| block(a, b)),
            [' ', '▁', '▄', '█', ' ']
        );
        assert_eq!(block(u64::MAX, u64::MAX), '█');
    }

    #[test]
    fn parts_are_spread_over_columns() {
        assert_eq!(over(&[1, 2], 4), [1, 1, 2, 2]);
        assert_eq!(over(&[1, 2, 3, 4], 2), [2, 4]);
        assert!(over(&[], 4).is_empty() && over(&[1], 0).is_empty());
    }

    #[test]
    fn times_are_brief() {
        assert_eq!(
            [16, 4096, 8_388_608].map(|micros| brief(Duration::from_micros(micros))),
            ["16 µs", "4 ms", "8.4 s"]
        );
    }
}
