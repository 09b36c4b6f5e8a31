//! The process that the demo kills: random tracked writes until it dies.
//!
//! Invariant kept here: `set` first, then the data, then the report. So what was reported was written, and what was
//! written was set.

use crate::cli::DemoWriter;
use crate::exit::{Exit, Failure, Result};
use crate::files::Image;
use crate::rng::Rng;
use dirtymap::Options;
use std::io::Write;
use std::ops::Range;

/// Longest write.
const MOST: u64 = 1 << 20;

pub fn run(args: &DemoWriter) -> Result<Exit> {
    let image = Image::open(&args.image, true)?;
    let map = Options::new().image(image.stamp).flush_interval(None).open(&args.map)?;
    let mut rng = Rng::new(args.seed);
    let mut buffer = vec![0; MOST as usize];
    let mut out = std::io::stdout().lock();
    let mut sequential = rng.below(image.size());
    loop {
        let range = pick(&mut rng, image.size(), &mut sequential);
        let bytes = &mut buffer[..(range.end - range.start) as usize];
        match rng.below(10) {
            0 => map.flush()?,
            1 => image.read(bytes, range.start)?,
            _ => {
                rng.fill(bytes);
                map.set(range.clone())?;
                image.write(bytes, range.start)?;
                // The parent is gone: nobody would look at more.
                let line = format!("{} {}\n", range.start, range.end);
                out.write_all(line.as_bytes()).map_err(|e| Failure::io("report", &e))?;
            }
        }
    }
}

/// Mostly small ranges near each other, some anywhere, some large, some one after the other: as guests write.
pub fn pick(rng: &mut Rng, size: u64, sequential: &mut u64) -> Range<u64> {
    let length = match rng.below(10) {
        0 => 1 + rng.below(MOST),
        1..=3 => 1 + rng.below(100),
        _ => 4096 * (1 + rng.below(8)),
    };
    let start = match rng.below(8) {
        0 => rng.below(size),
        1 | 2 => *sequential,
        _ => (*sequential / MOST * MOST).saturating_add(rng.below(4 * MOST)),
    };
    let start = start % size.max(1);
    let end = start.saturating_add(length).min(size);
    *sequential = if end < size { end } else { 0 };
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lie_in_the_image() {
        for size in [1, 2, 511, 4096, 1 << 20, (1 << 28) + 3] {
            let (mut rng, mut sequential) = (Rng::new(size), 0);
            for _ in 0..10_000 {
                let range = pick(&mut rng, size, &mut sequential);
                assert!(range.start < range.end && range.end <= size && range.end - range.start <= MOST);
            }
        }
    }
}
