//! File systems on images, mounted through loop devices: needs root and the tools that make them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether a program ran and was content.
pub fn run(program: &str, args: &[&OsStr]) -> bool {
    let ran = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

/// Runs a program with these arguments.
macro_rules! sh {
    ($program:expr $(, $arg:expr)* $(,)?) => { $crate::mounted::run($program, &[$(std::ffi::OsStr::new(&$arg)),*]) };
}
pub(crate) use sh;

/// A mounted image; unmounted at the end, whatever happens.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn new(image: &Path, at: &Path) -> Option<Mounted> {
        fs::create_dir_all(at).expect("mount point");
        sh!("mount", "-o", "loop", image, at).then(|| Mounted(at.to_path_buf()))
    }

    /// What its loop device was told to do until now.
    pub fn work(&self) -> Option<Work> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let device = mounts.lines().find_map(|line| {
            let (device, rest) = line.split_once(' ')?;
            rest.starts_with(&format!("{} ", self.0.display())).then(|| device.strip_prefix("/dev/"))?
        })?;
        let stat = fs::read_to_string(format!("/sys/block/{device}/stat")).ok()?;
        let numbers: Vec<u64> = stat.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        // Sectors are of 512 bytes; kernels before 5.5 do not count flushes.
        Some(Work { written: numbers.get(6)? * 512, flushes: *numbers.get(15)? })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A file that was just closed may be in use for a moment more.
        for _ in 0..50 {
            if sh!("umount", self.0) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        sh!("umount", "-l", self.0);
    }
}

/// What a device was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Bytes.
    pub written: u64,
    pub flushes: u64,
}

/// Makes a file system of some size in a new file.
pub fn make(kind: &str, image: &Path, megabytes: u64) -> bool {
    fs::File::create(image).and_then(|f| f.set_len(megabytes << 20)).expect("image");
    match kind {
        "ext2" | "ext4" => sh!(&format!("mkfs.{kind}"), "-q", "-F", image),
        "xfs" => sh!("mkfs.xfs", "-q", "-f", image),
        _ => sh!("mkfs.btrfs", "-q", "-f", image),
    }
}
