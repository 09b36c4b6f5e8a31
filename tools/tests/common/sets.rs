//! Backups to a set, and what QEMU says of one.

use super::{Ran, Set, run, system};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

impl Set {
    pub fn folder(&self) -> PathBuf {
        self.dir.path("backups")
    }

    pub fn member(&self, number: u32) -> PathBuf {
        self.folder().join(format!("{number:04}.qcow2"))
    }

    pub fn to_set(&self, more: &[&str]) -> Ran {
        let mut args: Vec<&OsStr> = vec![OsStr::new("backup"), self.image.as_os_str(), OsStr::new("--set")];
        let folder = self.folder();
        args.extend([folder.as_os_str(), OsStr::new("--map"), self.map.as_os_str()]);
        args.extend(more.iter().map(OsStr::new));
        run(args)
    }

    /// Backs up to the set, and keeps a copy of the image beside.
    pub fn keep(&self, number: u32, more: &[&str]) -> serde_json::Value {
        let told = self.to_set(&[more, &["--output", "json"]].concat()).exits(0).json();
        assert_eq!(told["member"]["number"], format!("{number:04}"));
        self.dir.copy(&self.image, &format!("reference-{number}"));
        told
    }

    /// Restores a member; asserts that it is the image as it was.
    #[track_caller]
    pub fn assert_restores(&self, number: u32) {
        let (out, from) = (self.dir.path("restored.raw"), format!("{}@{number}", self.folder().display()));
        run([OsStr::new("restore"), OsStr::new(&from), out.as_os_str()]).exits(0);
        let reference = self.dir.path(&format!("reference-{number}"));
        assert!(fs::read(&out).expect("read") == fs::read(reference).expect("read"), "member {number} is another one");
        fs::remove_file(out).expect("remove");
    }
}

pub fn qemu_img() -> bool {
    system("qemu-img", &[OsStr::new("--version")])
}

/// Runs qemu-img; what it says, and whether it succeeded.
pub fn qemu(args: &[&OsStr]) -> (bool, String) {
    let ran = Command::new("qemu-img").args(args).output().expect("run qemu-img");
    (ran.status.success(), String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into())
}

/// Asserts that QEMU finds nothing wrong with a member, and reads from it what the image was.
#[track_caller]
pub fn assert_qemu_agrees(member: &Path, reference: &Path) {
    let (fine, said) =
        qemu(&["check", "-f", "qcow2"].map(OsStr::new).iter().copied().chain([member.as_os_str()]).collect::<Vec<_>>());
    assert!(fine && said.contains("No errors"), "{}: {said}", member.display());
    let out = member.with_extension("converted");
    let words = ["convert", "-f", "qcow2", "-O", "raw"].map(OsStr::new);
    let (fine, said) = qemu(&words.iter().copied().chain([member.as_os_str(), out.as_os_str()]).collect::<Vec<_>>());
    assert!(fine, "{said}");
    // QEMU's disks have whole sectors.
    let mut expected = fs::read(reference).expect("read");
    expected.resize(expected.len().next_multiple_of(512), 0);
    assert!(fs::read(&out).expect("read") == expected, "{} is another one for QEMU", member.display());
    fs::remove_file(out).expect("remove");
}
