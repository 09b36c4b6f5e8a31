//! Writes random blocks to an image while others write, look and back it up: each in a bracket, which a backup that
//! freezes waits for. Ends with its input, or after COUNT blocks.
//!
//! Side by side, each in a terminal of its own:
//!
//!     cargo run --example track -- /tmp/disk.img /tmp/disk.map       once: makes both
//!     cargo run --example writer -- /tmp/disk.img /tmp/disk.map      as many as you like; Ctrl-D ends one
//!     cargo run --example monitor -- /tmp/disk.map
//!     cargo run --example backup -- /tmp/disk.img /tmp/disk.map /tmp/copy.img

use dirtymap::{Access, ImageStamp, Options};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, SystemTime};

const BLOCK: u64 = 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(image_path), Some(map_path), count) = (args.next(), args.next(), args.next()) else {
        return Err("usage: writer IMAGE MAP [COUNT]".into());
    };
    let count = count.map_or(Ok(u64::MAX), |count| count.to_string_lossy().parse())?;
    let image = OpenOptions::new().read(true).write(true).open(image_path)?;
    let stamp = ImageStamp::of(&image)?;
    let shared = Options::new().access(Access::Shared).image(stamp).wait(Duration::from_secs(10));
    let map = shared.open(map_path)?;

    let ended = Arc::new(AtomicBool::new(false));
    if count == u64::MAX {
        let ended = ended.clone();
        thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            ended.store(true, SeqCst);
        });
    }
    let time = SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
    let mut random = (time ^ u64::from(std::process::id()) << 32) | 1;
    let mut written = 0;
    while written < count && !ended.load(SeqCst) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let offset = random % (map.len() / BLOCK).max(1) * BLOCK;
        let block = random.to_le_bytes().repeat(BLOCK as usize / 8);
        let write = map.begin_write(offset..offset + BLOCK)?; // on an error: do not write
        image.write_all_at(&block, offset)?;
        drop(write);
        written += 1;
        if written == 1 {
            println!("writing");
        }
        thread::sleep(Duration::from_millis(1));
    }
    println!("wrote {written} blocks");

    // The last one to close leaves the map clean, and the image as it is now belongs to it.
    image.sync_all()?;
    map.close_with_image(&ImageStamp::of(&image)?)?;
    Ok(())
}
