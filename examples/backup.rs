//! Copies what was written since the last backup to a target, while others go on writing: freeze, sync the image, copy,
//! sync the target, commit. If anything fails, what was frozen is dirty again.
//!
//! examples/writer.rs says how to run it beside writers and a monitor.

use dirtymap::{Access, DirtyMap, ImageStamp, Options, Uuid};
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

const CHUNK: u64 = 1 << 20;

/// Copies what the checkpoint has frozen, and says how much that was.
fn copy(map: &DirtyMap, uuid: Uuid, image: &File, target: &File) -> Result<u64, Box<dyn Error>> {
    // What is forgotten here may not be lost there: by a power cut the image would fall behind its copy.
    image.sync_data()?;
    let (frozen, mut copied) = (map.frozen(uuid)?, 0);
    let mut buffer = vec![0; CHUNK as usize];
    for area in frozen.extents(0..frozen.len())? {
        for start in area.clone().step_by(CHUNK as usize) {
            let chunk = &mut buffer[..CHUNK.min(area.end - start) as usize];
            // Who writes here meanwhile makes it dirty for the next backup.
            image.read_exact_at(chunk, start)?;
            target.write_all_at(chunk, start)?;
            copied += chunk.len() as u64;
        }
    }
    target.sync_all()?;
    Ok(copied)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(image_path), Some(map_path), Some(target_path)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: backup IMAGE MAP TARGET".into());
    };
    let image = File::open(image_path)?;
    let target = OpenOptions::new().write(true).create(true).truncate(false).open(target_path)?;
    // One backup at a time: so an outstanding checkpoint is of one that died.
    target.try_lock()?;
    let stamp = ImageStamp::of(&image)?;
    let shared = Options::new().access(Access::Shared).image(stamp).wait(Duration::from_secs(10));
    let map = shared.open(map_path)?;
    if let Some(left) = map.checkpoint()? {
        println!("putting back what a backup that did not end had frozen ({})", left.uuid);
        map.abort_checkpoint(left.uuid)?;
    }
    if target.metadata()?.len() != map.len() {
        // Nothing can be said of what is in there. Dirty first: whatever happens now, all of it will be copied.
        map.set_all()?;
        target.set_len(map.len())?;
    }

    let uuid = map.freeze(None)?.uuid;
    match copy(&map, uuid, &image, &target) {
        Ok(copied) => {
            map.commit_checkpoint(uuid, false)?;
            println!("copied {copied} of {} bytes", map.len());
        }
        Err(e) => {
            map.abort_checkpoint(uuid)?;
            return Err(e);
        }
    }
    // Without the image: who writes it says what it is like.
    map.close()?;
    Ok(())
}
