//! Backups to a set by the command, beside what copies and checks the same bytes without it.
//!
//! Invariant kept here: by turns and by the wall clock, as both wait for a disk; each starts with the image in memory and from nothing on the
//! disk. What a contender does beside copying is in its name: the command always syncs, reads back, compares and hashes.

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
    /// What it is compared with, its seconds, and its time as a multiple of the command's: medians.
    pub beside: &'static str,
    pub seconds: f64,
    pub speed: f64,
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
    let place = Place { dirtymap, dir, len: mib << 20 };
    place.make_image();
    eprintln!("{NAME}: full");
    let full = by_turns(rounds, &place, &[Place::full, Place::convert, Place::convert_and_compare]);
    eprintln!("{NAME}: incremental");
    let incremental = by_turns(rounds, &place, &[Place::incremental, Place::copy, Place::copy_and_compare]);
    let file_system = latency::file_system(dir);
    let row = |what, state: String, (beside, least), turns: &[Vec<Turn>], which: usize, part: fn(&Turn) -> Duration| {
        let ours = |turn: &Vec<Turn>| part(&turn[0]).as_secs_f64();
        let theirs = |turn: &Vec<Turn>| turn[which].all.as_secs_f64();
        BackedUp {
            what,
            state,
            file_system: file_system.clone(),
            beside,
            seconds: median(turns.iter().map(theirs).collect()),
            speed: median(turns.iter().map(|turn| theirs(turn) / ours(turn)).collect()),
            least,
        }
    };
    let image = format!("{mib} MiB, half of it data");
    let eighth = format!("{} MiB in granules all over it", mib / 16);
    let copied = ("qemu-img convert, which neither syncs nor reads back", Some(0.9));
    let plain = ("plain reads and writes, neither synced nor read back", Some(0.9));
    vec![
        row("full, its copying alone", image.clone(), copied, &full, 1, |turn| turn.copied),
        row("full", image.clone(), (copied.0, None), &full, 1, |turn| turn.all),
        row("full", image, ("qemu-img convert, sync, qemu-img compare", Some(0.9)), &full, 2, |turn| turn.all),
        row("incremental, its copying alone", eighth.clone(), plain, &incremental, 1, |turn| turn.copied),
        row("incremental", eighth.clone(), (plain.0, None), &incremental, 1, |turn| turn.all),
        row("incremental", eighth, ("the same, synced and compared", Some(0.9)), &incremental, 2, |turn| turn.all),
    ]
}

/// How long something took, and how long of that it copied.
struct Turn {
    all: Duration,
    copied: Duration,
}

/// Each contender in each round, each round from another one on.
fn by_turns<'a>(rounds: usize, place: &Place<'a>, contenders: &[fn(&Place<'a>, &[u64]) -> Turn]) -> Vec<Vec<Turn>> {
    let mut turns = Vec::new();
    for round in 0..=rounds {
        let changed = place.change(round as u64);
        let mut turn: Vec<Option<Turn>> = contenders.iter().map(|_| None).collect();
        for i in 0..contenders.len() {
            let i = (i + round) % contenders.len();
            place.begin();
            turn[i] = Some(contenders[i](place, &changed));
        }
        // The first one warms up.
        if round > 0 {
            turns.push(turn.into_iter().flatten().collect());
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
        let number = told.split_once("\"copy_milliseconds\": ").map(|(_, rest)| rest.split([',', '\n']).next());
        let milliseconds = number.flatten().and_then(|number| number.parse().ok()).expect("how long it copied");
        Turn { all, copied: Duration::from_millis(milliseconds) }
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
        let all = self.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "image", "out.qcow2"]);
        Turn { all, copied: all }
    }

    fn convert_and_compare(&self, changed: &[u64]) -> Turn {
        let (begun, copied) = (Instant::now(), self.convert(changed).all);
        let out = File::open(self.at("out.qcow2")).expect("open");
        out.sync_all().expect("sync");
        let _ = rustix::fs::fadvise(&out, 0, None, rustix::fs::Advice::DontNeed);
        self.qemu_img(&["compare", "-f", "raw", "-F", "qcow2", "image", "out.qcow2"]);
        Turn { all: begun.elapsed(), copied }
    }

    /// Copies what was changed to the same places of another file.
    fn copy(&self, changed: &[u64]) -> Turn {
        let (image, begun) = (File::open(self.at("image")).expect("open"), Instant::now());
        let out = File::options().read(true).write(true).create_new(true).open(self.at("out")).expect("a file");
        let mut buffer = vec![0; GRANULE as usize];
        for at in changed {
            image.read_exact_at(&mut buffer, *at).expect("read");
            out.write_all_at(&buffer, *at).expect("write");
        }
        let all = begun.elapsed();
        Turn { all, copied: all }
    }

    fn copy_and_compare(&self, changed: &[u64]) -> Turn {
        let (begun, copied) = (Instant::now(), self.copy(changed).all);
        let [image, out] = ["image", "out"].map(|name| File::open(self.at(name)).expect("open"));
        out.sync_all().expect("sync");
        let _ = rustix::fs::fadvise(&out, 0, None, rustix::fs::Advice::DontNeed);
        let mut buffers = [vec![0; GRANULE as usize], vec![0; GRANULE as usize]];
        for at in changed {
            image.read_exact_at(&mut buffers[0], *at).expect("read");
            out.read_exact_at(&mut buffers[1], *at).expect("read");
            assert!(buffers[0] == buffers[1], "they differ at {at}");
        }
        Turn { all: begun.elapsed(), copied }
    }
}

fn noise(bytes: usize, rng: &mut Rng) -> Vec<u8> {
    (0..bytes / 8).flat_map(|_| rng.next().to_le_bytes()).collect()
}
