//! The demo's image: an ext4 file system with real files, a pattern, or a copy of the user's.

use super::copy_file;
use crate::exit::{Failure, Result};
use crate::files::{self, Image};
use crate::rng::Rng;
use crate::terminal::signals;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Size of the image that is made.
const SIZE: u64 = 256 << 20;
/// Most bytes and files that go into its file system, so that they fit with their metadata.
const MOST_BYTES: u64 = 96 << 20;
const MOST_FILES: usize = 8000;

/// Copies the user's image; says what it is.
pub fn copy(from: &Path, to: &Path) -> Result<String> {
    let from = Image::open(from, false)?;
    let to = new_file(to, from.size())?;
    copy_file(&from, &to)?;
    Ok(format!("a copy of {}", from.path.display()))
}

/// Makes an image; says what it is.
pub fn make(path: &Path, dir: &Path) -> Result<String> {
    let mke2fs = ["mke2fs", "/sbin/mke2fs", "/usr/sbin/mke2fs"].into_iter().find(|name| {
        let mut version = Command::new(name);
        version.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    });
    if let Some(mke2fs) = mke2fs
        && let Some(origin) = ext4(mke2fs, path, dir)?
    {
        return Ok(origin);
    }
    let image = new_file(path, SIZE)?;
    pattern(&image)?;
    Ok("a pattern, for want of mke2fs".into())
}

fn new_file(path: &Path, size: u64) -> Result<Image> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = file.map_err(|e| Failure::io(format_args!("{}: create", path.display()), &e))?;
    file.set_len(size).map_err(|e| Failure::io(format_args!("{}: set its size", path.display()), &e))?;
    Image::of(file, path)
}

/// An ext4 file system with files of this machine; `None` if mke2fs does not manage.
fn ext4(mke2fs: &str, path: &Path, dir: &Path) -> Result<Option<String>> {
    let stage = tempfile::Builder::new().prefix("files-").tempdir_in(dir);
    let stage = stage.map_err(|e| Failure::io("make a temporary directory", &e))?;
    let Some(source) = sources().into_iter().find(|source| source.is_dir()) else { return Ok(None) };
    let mut taken = Taken::default();
    // A source that cannot be read to its end has given what it could.
    let _ = taken.take(&source, stage.path());
    signals::check("the demo is not complete")?;
    let made = Command::new(mke2fs)
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .arg(stage.path())
        .arg(path)
        .arg(format!("{}K", SIZE >> 10))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if made.is_ok_and(|status| status.success()) {
        let Taken { files, bytes } = taken;
        return Ok(Some(format!("ext4 with {files} files, {} of {}", crate::size::human(bytes), source.display())));
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Failure::io(path.display(), &e)),
        _ => Ok(None),
    }
}

/// Trees of real files, the best first.
fn sources() -> Vec<PathBuf> {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let registry = cargo.into_iter().chain(home).map(|cargo| cargo.join("registry/src"));
    let system = ["/usr/include", "/usr/share/doc", "/usr/share", "/etc"].map(PathBuf::from);
    registry.chain(system).collect()
}

#[derive(Default)]
struct Taken {
    files: usize,
    bytes: u64,
}

impl Taken {
    /// Copies a tree's regular files, up to the limits; follows no links.
    fn take(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            if self.files >= MOST_FILES || signals::requested() {
                return Ok(());
            }
            let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
            if kind.is_dir() {
                fs::create_dir(&to)?;
                // What cannot be read is left out.
                let _ = self.take(&entry.path(), &to);
            } else if kind.is_file() && self.bytes + entry.metadata()?.len() <= MOST_BYTES {
                let copied = File::open(entry.path()).and_then(|mut f| io::copy(&mut f, &mut File::create(&to)?));
                self.bytes += copied.unwrap_or(0);
                self.files += 1;
            }
        }
        Ok(())
    }
}

/// Some data, some zeros, some holes.
fn pattern(image: &Image) -> Result<()> {
    let mut rng = Rng::new(1);
    let mut bytes = vec![0; files::PIECE as usize];
    for (i, piece) in files::pieces(0..image.size()).enumerate() {
        match i % 4 {
            0 | 1 => rng.fill(&mut bytes),
            2 => bytes.fill(0),
            _ => continue,
        }
        image.write(&bytes[..(piece.end - piece.start) as usize], piece.start)?;
    }
    Ok(())
}
