//! What an image or a target lies on: whether two of them are the same bytes under different names.
//!
//! Invariant kept here: what sysfs does not say is not guessed; two are called one only where a chain of loop devices, partitions
//! and mapped devices leads from the one to the other, or both to the same bytes.

use crate::exit::{Failure, Result};
use crate::files::Image;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Something that holds bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A file, by device and inode.
    File(u64, u64),
    /// A block device, by major and minor number.
    Device(u32, u32),
}

/// A place beneath an image, and which bytes of it the image is; `None` where that is not known.
type Layer = (Place, Option<Range<u64>>);

/// How deep devices are looked through: more than anybody stacks, and an end where sysfs goes round.
const DEEPEST: usize = 16;

/// Refuses a target that is the image itself by another name, or that the image lies on, or that lies on the image.
pub fn apart(image: &Image, target: &Image) -> Result<()> {
    if one(&layers(image)?, &layers(target)?) {
        let (image, target) = (image.path.display(), target.path.display());
        let message = format!(
            "{image} and {target} are the same storage (a loop device and its file, a partition and its disk, or a \
             mapped device and what it is made of); a backup goes elsewhere"
        );
        return Err(Failure::new("same-file", message));
    }
    Ok(())
}

/// Whether writing to one of two changes the other.
fn one(a: &[Layer], b: &[Layer]) -> bool {
    let meets = |(top, beneath): (&Layer, &[Layer])| beneath.iter().any(|(place, _)| *place == top.0);
    let tops = a.first().zip(b.first());
    if tops.is_some_and(|(top_a, top_b)| meets((top_a, b)) || meets((top_b, a))) {
        return true;
    }
    // Two loop devices over one file, or two partitions of one disk: only where their bytes meet.
    a.iter().any(|(place, range)| {
        b.iter().any(|(other, others)| match (range, others) {
            (Some(range), Some(others)) => place == other && range.start < others.end && others.start < range.end,
            _ => false,
        })
    })
}

/// The image itself, and everything that it lies on.
fn layers(image: &Image) -> Result<Vec<Layer>> {
    let m = image.file.metadata().map_err(|e| image.failed("look at it", &e))?;
    let mut found = Vec::new();
    beneath(Path::new("/sys/dev/block"), place_of(&m), Some(0..image.size()), &mut found);
    Ok(found)
}

fn place_of(m: &fs::Metadata) -> Place {
    if m.file_type().is_block_device() {
        let device = m.rdev();
        Place::Device(rustix::fs::major(device), rustix::fs::minor(device))
    } else {
        Place::File(m.dev(), m.ino())
    }
}

fn beneath(devices: &Path, place: Place, range: Option<Range<u64>>, found: &mut Vec<Layer>) {
    found.push((place, range.clone()));
    let Place::Device(major, minor) = place else { return };
    if found.len() > DEEPEST {
        return;
    }
    let Ok(node) = fs::canonicalize(devices.join(format!("{major}:{minor}"))) else { return };
    // Bytes `by` further into what is beneath.
    let moved = |by: u64| range.as_ref().map(|r| r.start.saturating_add(by)..r.end.saturating_add(by));
    let number = |name: &str| text(&node.join(name)).and_then(|text| text.parse::<u64>().ok());
    if node.join("partition").exists() {
        if let Some(disk) = node.parent().and_then(device) {
            beneath(devices, disk, number("start").and_then(|sectors| moved(sectors.saturating_mul(512))), found);
        }
    } else if let Some(file) = text(&node.join("loop/backing_file")) {
        if let Ok(m) = Path::new(&file).metadata() {
            beneath(devices, place_of(&m), number("loop/offset").and_then(moved), found);
        }
    } else if let Ok(slaves) = fs::read_dir(node.join("slaves")) {
        for slave in slaves.flatten().filter_map(|slave| device(&slave.path())) {
            beneath(devices, slave, None, found);
        }
    }
}

/// The block device whose directory this is.
fn device(node: &Path) -> Option<Place> {
    let number = text(&node.join("dev"))?;
    let (major, minor) = number.split_once(':')?;
    Some(Place::Device(major.parse().ok()?, minor.parse().ok()?))
}

/// What a file of sysfs holds. The library reads some for its stamps, and has no reason to offer that.
fn text(path: &PathBuf) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory as sysfs has one of block devices: `8:0` is a disk, `8:1` and `8:2` are its partitions, `253:0` is made of
    /// `8:2`, and `7:0` to `7:2` are loop devices over a file.
    fn devices(dir: &Path) -> (PathBuf, PathBuf) {
        let file = dir.join("file");
        fs::write(&file, "").unwrap();
        let at = |name: &str, text: &str| {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::write(dir.join(name), format!("{text}\n")).unwrap();
        };
        at("sda/dev", "8:0");
        for (part, number, start) in [("sda1", "1", "0"), ("sda2", "2", "2048")] {
            at(&format!("sda/{part}/dev"), &format!("8:{number}"));
            at(&format!("sda/{part}/partition"), number);
            at(&format!("sda/{part}/start"), start);
        }
        at("dm-0/dev", "253:0");
        fs::create_dir_all(dir.join("dm-0/slaves")).unwrap();
        std::os::unix::fs::symlink("../../sda/sda2", dir.join("dm-0/slaves/sda2")).unwrap();
        for (minor, offset) in [(0, 0), (1, 0), (2, 1 << 20)] {
            at(&format!("loop{minor}/dev"), &format!("7:{minor}"));
            at(&format!("loop{minor}/loop/backing_file"), &file.display().to_string());
            at(&format!("loop{minor}/loop/offset"), &offset.to_string());
        }
        let nodes = dir.join("by-number");
        fs::create_dir(&nodes).unwrap();
        let names = [
            ("8:0", "sda"),
            ("8:1", "sda/sda1"),
            ("8:2", "sda/sda2"),
            ("253:0", "dm-0"),
            ("7:0", "loop0"),
            ("7:1", "loop1"),
            ("7:2", "loop2"),
        ];
        for (number, node) in names {
            std::os::unix::fs::symlink(dir.join(node), nodes.join(number)).unwrap();
        }
        (nodes, file)
    }

    #[test]
    fn a_device_and_what_it_is_made_of_are_one_and_neighbours_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, file) = devices(dir.path());
        let of = |place| {
            let mut found = Vec::new();
            beneath(&nodes, place, Some(0..1 << 20), &mut found);
            found
        };
        let device = |major, minor| of(Place::Device(major, minor));
        let file = of(place_of(&file.metadata().unwrap()));
        assert!(one(&device(8, 0), &device(8, 1)) && one(&device(8, 2), &device(8, 0)), "a partition and its disk");
        assert!(!one(&device(8, 1), &device(8, 2)), "two partitions");
        assert!(one(&device(253, 0), &device(8, 2)) && one(&device(8, 0), &device(253, 0)), "a mapped device");
        assert!(!one(&device(253, 0), &device(8, 1)));
        assert!(one(&device(7, 0), &file) && one(&file, &device(7, 2)), "a loop device and its file");
        assert!(one(&device(7, 0), &device(7, 1)), "two loop devices over the same bytes");
        assert!(!one(&device(7, 0), &device(7, 2)), "two loop devices over other bytes of one file");
        assert!(!one(&device(7, 0), &device(8, 0)));
    }
}
