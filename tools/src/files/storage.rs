//! What an image or a target lies on: whether two of them are the same bytes under different names.
//!
//! Invariant kept here: what sysfs does not say is not guessed; two are called one only where a chain of loop devices, partitions
//! and mapped devices leads from the one to the other, or both to the same bytes.

use crate::exit::{Failure, Result};
use crate::files::Image;
use dirtymap_cli::shown::shown;
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Something that holds bytes, and which of them an image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// A block device, or the one of a file's file system.
    major: u32,
    minor: u32,
    /// Of a file.
    inode: Option<u64>,
    /// Where the image begins in it and where it ends, if that is known.
    bytes: Option<(u64, u64)>,
}

impl Layer {
    fn is_at(&self, place: &Layer) -> bool {
        (self.major, self.minor, self.inode) == (place.major, place.minor, place.inode)
    }
}

/// How deep devices are looked through: more than anybody stacks, and an end where sysfs goes round.
const DEEPEST: usize = 16;

/// Refuses a target that is the image itself by another name, or that the image lies on, or that lies on the image, which is at
/// `path` where it was looked at.
pub fn apart(path: &Path, image: &[Layer], target: &Image) -> Result<()> {
    if one(image, &layers(target)?) {
        let (image, target) = (shown(path), target.path.display());
        let message = format!(
            "{image} and {target} are the same storage (two names of a file, a loop device and its file, a partition and its \
             disk, or a mapped device and what it is made of); a backup goes elsewhere"
        );
        return Err(Failure::new("same-file", message));
    }
    Ok(())
}

/// Whether writing to one of two changes the other.
fn one(a: &[Layer], b: &[Layer]) -> bool {
    let meets = |(top, beneath): (&Layer, &[Layer])| beneath.iter().any(|layer| layer.is_at(top));
    let tops = a.first().zip(b.first());
    if tops.is_some_and(|(top_a, top_b)| meets((top_a, b)) || meets((top_b, a))) {
        return true;
    }
    // Two loop devices over one file, or two partitions of one disk: only where their bytes meet.
    a.iter().any(|layer| {
        b.iter().any(|other| match (layer.bytes, other.bytes) {
            (Some((start, end)), Some((from, to))) => layer.is_at(other) && start < to && from < end,
            _ => false,
        })
    })
}

/// The image itself, and everything that it lies on.
pub fn layers(image: &Image) -> Result<Vec<Layer>> {
    let m = image.file.metadata().map_err(|e| image.failed("look at it", &e))?;
    let mut found = Vec::new();
    beneath(Path::new("/sys/dev/block"), top(&m, Some((0, image.size()))), &mut found);
    Ok(found)
}

fn top(m: &fs::Metadata, bytes: Option<(u64, u64)>) -> Layer {
    let block = m.file_type().is_block_device();
    let (device, inode) = if block { (m.rdev(), None) } else { (m.dev(), Some(m.ino())) };
    Layer { major: rustix::fs::major(device), minor: rustix::fs::minor(device), inode, bytes }
}

fn beneath(devices: &Path, layer: Layer, found: &mut Vec<Layer>) {
    let Layer { major, minor, inode, bytes } = layer;
    found.push(layer);
    if inode.is_some() || found.len() > DEEPEST {
        return;
    }
    let Ok(node) = fs::canonicalize(devices.join(format!("{major}:{minor}"))) else { return };
    // Bytes `by` further into what is beneath.
    let moved = |by: u64| bytes.map(|(start, end)| (start.saturating_add(by), end.saturating_add(by)));
    let number = |name: &str| text(&node.join(name)).and_then(|text| text.parse::<u64>().ok());
    if node.join("partition").exists() {
        let start = number("start").and_then(|sectors| moved(sectors.saturating_mul(512)));
        if let Some(disk) = node.parent().and_then(|disk| device(disk, start)) {
            beneath(devices, disk, found);
        }
    } else if let Some(file) = text(&node.join("loop/backing_file")) {
        if let Ok(m) = Path::new(&file).metadata() {
            beneath(devices, top(&m, number("loop/offset").and_then(moved)), found);
        }
    } else if let Ok(slaves) = fs::read_dir(node.join("slaves")) {
        for slave in slaves.flatten().filter_map(|slave| device(&slave.path(), None)) {
            beneath(devices, slave, found);
        }
    }
}

/// The block device whose directory this is.
fn device(node: &Path, bytes: Option<(u64, u64)>) -> Option<Layer> {
    let number = text(&node.join("dev"))?;
    let (major, minor) = number.split_once(':')?;
    Some(Layer { major: major.parse().ok()?, minor: minor.parse().ok()?, inode: None, bytes })
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
        let bytes = Some((0, 1 << 20));
        let of = |layer| {
            let mut found = Vec::new();
            beneath(&nodes, layer, &mut found);
            found
        };
        let device = |major, minor| of(Layer { major, minor, inode: None, bytes });
        let file = of(top(&file.metadata().unwrap(), bytes));
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
