//! Backups to a set by the command, beside what copies and checks the same bytes without it.
//!
//! Invariant kept here: by turns and by the wall clock, as both wait for a disk; each starts with the image in memory and from nothing on the
//! disk. What a contender does beside copying is in its name: the command always syncs, reads back, compares and hashes. A contender's
//! parts are of one run of all of it.

use super::Scale;
use super::latency;
use crate::harness::median;
use crate::inputs::Rng;
use dirtymap::{DirtyMap, ImageStamp, Options};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One job, beside one way to do it, or a part of it.
pub struct BackedUp {
    pub what: &'static str,
    pub state: String,
    pub file_system: String,
    /// What it is compared with, its seconds, and its time as a multiple of the command's: medians. Or what it takes of the command's
    /// time, by parts.
    pub beside: String,
    pub seconds: f64,
    pub speed: Option<f64>,
    /// The least that the latter should be.
    pub least: Option<f64>,
}

const NAME: &str = "backups to a set";
const GRANULE: u64 = 64 << 10;
const PIECE: usize = 1 << 20;

/// The command, as `cargo build --release` leaves it, or as the environment says.
fn command() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/dirtymap");
    let named = std::env::var_os("DIRTYMAP").map_or(built, PathBuf::from);
    named.exists().then_some(named)
}

pub fn rows(scale: &Scale, dir: &Path) -> Vec<BackedUp> {
    if !scale.wants(NAME) {
        return Vec::new();
    }
    let Some(dirtymap) = command() else {
        eprintln!("SKIPPED: {NAME}: no command; cargo build --release in the folder above, or DIRTYMAP=PATH");
        return Vec::new();
    };
    if Command::new("qemu-img").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: {NAME}: no qemu-img");
        return Vec::new();
    }
    let (mib, rounds) = if scale.rounds < 11 { (64, 3) } else { (1024, 11) };
    let memory = Path::new("/dev/shm");
    let in_memory = memory.is_dir().then(|| tempfile::tempdir_in(memory).expect("a place for files"));
    let mut rows = Vec::new();
    for dir in std::iter::once(dir).chain(in_memory.as_ref().map(tempfile::TempDir::path)) {
        rows.extend(on(&Place { dirtymap: dirtymap.clone(), dir, len: mib << 20 }, rounds));
    }
    rows
}

/// The rows of one file system.
fn on<'a>(place: &Place<'a>, rounds: usize) -> Vec<BackedUp> {
    place.make_image();
    let mib = place.len >> 20;
    let image = format!("{mib} MiB, half of it data");
    let eighth = format!("{} MiB in granules all over it", mib / 16);
    let of = |what, state: String, contenders: [Run<'a>; 2], beside: [&str; 3]| {
        eprintln!("{NAME}: {what}");
        let turns = by_turns(rounds, place, &contenders);
        let row = |what, beside: String, seconds: f64, speed, least| {
            let file_system = latency::file_system(place.dir);
            BackedUp { what, state: state.clone(), file_system, beside, seconds, speed, least }
        };
        let middle = |of: &dyn Fn(&[Turn; 2]) -> f64| median(turns.iter().map(of).collect());
        // Up to which of its parts.
        let up_to = |turn: &Turn, parts: usize| turn.parts[..parts].iter().sum::<Duration>().as_secs_f64();
        let against = |what, beside: &str, part: usize, ours: usize, least| {
            let seconds = middle(&|turns| up_to(&turns[1], part));
            let speed = middle(&|turns| up_to(&turns[1], part) / up_to(&turns[0], ours));
            row(what, beside.into(), seconds, Some(speed), least)
        };
        let share = |part: usize| middle(&|turns| turns[0].parts[part].as_secs_f64() / up_to(&turns[0], 4)) * 100.0;
        let parts = format!(
            "copying {:.0} %, waiting for the disk {:.0} %, reading back, comparing and hashing {:.0} %, all else {:.0} %",
            share(0),
            share(1),
            share(2),
            share(3)
        );
        vec![
            against("its copying alone", beside[0], 1, 1, Some(0.9)),
            against("all of it", beside[0], 1, 4, None),
            against("all of it", beside[1], 2, 4, None),
            against("all of it", beside[2], 3, 4, Some(0.9)),
            row("all of it", parts, middle(&|turns| up_to(&turns[0], 4)), None, None),
        ]
    };
    let full = of(
        "full",
        format!("full: {image}"),
        [Place::full, Place::convert],
        ["qemu-img convert", "qemu-img convert, sync", "qemu-img convert, sync, qemu-img compare"],
    );
    let incremental = of(
        "incremental",
        format!("incremental: {eighth}"),
        [Place::incremental, Place::copy],
        ["plain reads and writes", "the same, synced", "the same, synced and compared"],
    );
    full.into_iter().chain(incremental).collect()
}

/// How long the parts of something took: copying, waiting for the disk, comparing, and what else there is.
struct Turn {
    parts: [Duration; 4],
}

type Run<'a> = fn(&Place<'a>, &[u64]) -> Turn;

/// Both contenders in each round, each round from the other one on.
fn by_turns<'a>(rounds: usize, place: &Place<'a>, contenders: &[Run<'a>; 2]) -> Vec<[Turn; 2]> {
    let mut turns = Vec::new();
    for round in 0..=rounds {
        let changed = place.change(round as u64);
        let run = |which: usize| {
            place.begin();
            contenders[which](place, &changed)
        };
        let turn = if round % 2 == 0 {
            let ours = run(0);
            [ours, run(1)]
        } else {
            let other = run(1);
            [run(0), other]
        };
        // The first one warms up.
        if round > 0 {
            turns.push(turn);
        }
    }
    turns
}

struct Place<'a> {
    dirtymap: PathBuf,
    dir: &'a Path,
    len: u64,
}

impl Place<'_> {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Bytes that do not compress, and as much of holes, in stretches of 8 MiB.
    fn make_image(&self) {
        let file = File::create_new(self.at("image")).expect("an image");
        file.set_len(self.len).expect("its length");
        let mut rng = Rng(1);
        for at in (0..self.len).step_by(16 << 20) {
            file.write_all_at(&noise(8 << 20, &mut rng), at).expect("write");
        }
        file.sync_all().expect("sync");
    }

    /// Writes granules all over the image's data; says where.
    fn change(&self, round: u64) -> Vec<u64> {
        let (file, mut rng) = (File::options().write(true).open(self.at("image")).expect("open"), Rng(round + 99));
        let mut changed: Vec<u64> = (0..self.len / GRANULE / 16)
            .map(|_| rng.below(self.len / (16 << 20)) * (16 << 20) + rng.below((8 << 20) / GRANULE) * GRANULE)
            .collect();
        changed.sort_unstable();
        changed.dedup();
        for at in &changed {
            file.write_all_at(&noise(GRANULE as usize, &mut rng), *at).expect("write");
        }
        file.sync_all().expect("sync");
        changed
    }

    /// Removes what a turn has made, has nothing wait to be written, and the image in memory.
    fn begin(&self) {
        for name in ["map", "out", "out.qcow2"] {
            let _ = fs::remove_file(self.at(name));
        }
        let _ = fs::remove_dir_all(self.at("set"));
        rustix::fs::sync();
        let (file, mut buffer) = (File::open(self.at("image")).expect("open"), vec![0; PIECE]);
        (0..self.len).step_by(PIECE).for_each(|at| file.read_exact_at(&mut buffer, at).expect("read"));
    }

    fn map(&self) -> DirtyMap {
        let stamp = ImageStamp::of_path(&self.at("image")).expect("a stamp");
        Options::new().image(stamp).dirty(true).create(self.at("map"), self.len).expect("a map")
    }

    /// Runs a backup.
    fn back_up(&self) -> Turn {
        let begun = Instant::now();
        let ran = Command::new(&self.dirtymap)
            .arg("backup")
            .arg(self.at("image"))
            .arg("--set")
            .arg(self.at("set"))
            .arg("--map")
            .arg(self.at("map"))
            .args(["--audit", "0", "--output", "json"])
            .output()
            .expect("run dirtymap");
        let all = begun.elapsed();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let told = String::from_utf8(ran.stdout).expect("text");
        let part = |name: &str| {
            let rest = told.split_once(&format!("\"{name}_milliseconds\": ")).map(|(_, rest)| rest);
            let number = rest.and_then(|rest| rest.split([',', '\n']).next()).and_then(|number| number.parse().ok());
            Duration::from_millis(number.expect("how long it took"))
        };
        let [copied, synced, verified] = ["copy", "sync", "verify"].map(part);
        Turn { parts: [copied, synced, verified, all.saturating_sub(copied + synced + verified)] }
    }

    fn full(&self, _: &[u64]) -> Turn {
        self.map().close().expect("close");
        self.back_up()
    }

    fn incremental(&self, changed: &[u64]) -> Turn {
        self.full(changed);
        let map = DirtyMap::open(self.at("map")).expect("open");
        let (file, mut rng) = (File::options().write(true).open(self.at("image")).expect("open"), Rng(changed[0]));
        for at in changed {
            map.set(*at..at + GRANULE).expect("set");
            file.write_all_at(&noise(GRANULE as usize, &mut rng), *at).expect("write");
        }
        file.sync_all().expect("sync");
        map.close_with_image(&ImageStamp::of(&file).expect("a stamp")).expect("close");
        rustix::fs::sync();
        self.back_up()
    }

    /// Runs a command; how long it took.
    fn qemu_img(&self, args: &[&str]) -> Duration {
        let begun = Instant::now();
        let status = Command::new("qemu-img").args(args).current_dir(self.dir).stdout(Stdio::null()).status();
        assert!(status.expect("run qemu-img").success());
        begun.elapsed()
    }

    fn convert(&self, _: &[u64]) -> Turn {
        let copied = self.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "image", "out.qcow2"]);
        let synced = self.sync("out.qcow2");
        let compared = self.qemu_img(&["compare", "-f", "raw", "-F", "qcow2", "image", "out.qcow2"]);
        Turn { parts: [copied, synced, compared, Duration::ZERO] }
    }

    /// Has a file be on the device, and read from there.
    fn sync(&self, name: &str) -> Duration {
        let begun = Instant::now();
        let out = File::open(self.at(name)).expect("open");
        out.sync_all().expect("sync");
        let _ = rustix::fs::fadvise(&out, 0, None, rustix::fs::Advice::DontNeed);
        begun.elapsed()
    }

    /// Copies what was changed to the same places of another file.
    fn copy(&self, changed: &[u64]) -> Turn {
        let begun = Instant::now();
        let image = File::open(self.at("image")).expect("open");
        let out = File::options().read(true).write(true).create_new(true).open(self.at("out")).expect("a file");
        let mut buffers = [vec![0; GRANULE as usize], vec![0; GRANULE as usize]];
        for at in changed {
            image.read_exact_at(&mut buffers[0], *at).expect("read");
            out.write_all_at(&buffers[0], *at).expect("write");
        }
        let copied = begun.elapsed();
        let synced = self.sync("out");
        let begun = Instant::now();
        for at in changed {
            image.read_exact_at(&mut buffers[0], *at).expect("read");
            out.read_exact_at(&mut buffers[1], *at).expect("read");
            assert!(buffers[0] == buffers[1], "they differ at {at}");
        }
        Turn { parts: [copied, synced, begun.elapsed(), Duration::ZERO] }
    }
}

fn noise(bytes: usize, rng: &mut Rng) -> Vec<u8> {
    (0..bytes / 8).flat_map(|_| rng.next().to_le_bytes()).collect()
}
