//! Tracks writes to a disk image: set first, then write; sync the image before anything is forgotten.
//!
//!     cargo run --example track -- /tmp/disk.img /tmp/disk.map

use dirtymap::{DirtyMap, ImageStamp, Options};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(image_path), Some(map_path)) = (args.next(), args.next()) else {
        return Err("usage: track IMAGE MAP".into());
    };
    let image = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&image_path)?;
    if image.metadata()?.len() == 0 {
        image.set_len(1 << 30)?;
    }
    let stamp = ImageStamp::of(&image)?;

    // The map belongs to this image. If somebody wrote to it untracked since the last clean close, opening makes
    // everything dirty and says why.
    let options = Options::new().image(stamp);
    let map: DirtyMap = if map_path.exists() {
        options.open(&map_path)?
    } else {
        options.dirty(true).create(&map_path, stamp.size())?
    };
    if let Some(why) = &map.recovery().image_changed {
        eprintln!("everything is dirty: {why}");
    }

    for (offset, data) in [(4096, &b"first"[..]), (700 << 20, b"second")] {
        map.set(offset..offset + data.len() as u64)?; // on an error: do not write
        image.write_all_at(data, offset)?;
    }
    println!("{} of {} bytes are dirty:", map.dirty_len(), map.len());
    for area in map.extents(0..map.len())?.take(10) {
        println!("  {} bytes from {}", area.end - area.start, area.start);
    }

    image.sync_all()?;
    map.close_with_image(&ImageStamp::of(&image)?)?;
    Ok(())
}
