//! Servers that are killed under load, again and again: clients that connect anew go on as if nothing had been, and what the
//! backup lacks is dirty at every moment.
//!
//! `DIRTYMAP_SERVE_KILLS` is how many kills; 200 is a long run.

mod common;

use common::serving::{Control, Server};
use common::{Dir, KIB, MIB, Ran, areas, dirtymap, pattern, skipped};
use dirtymap_nbd::client::{Client, ConnectOptions};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

const SIZE: u64 = 16 * MIB;
/// Small, so that few are dirty for another reason than the last write.
const GRANULE: u64 = 4 * KIB;
const CLIENTS: u64 = 3;

fn kills() -> u64 {
    std::env::var("DIRTYMAP_SERVE_KILLS").ok().and_then(|v| v.parse().ok()).unwrap_or(8)
}

/// An image with a map, and a backup that equals it.
fn backed_up(dir: &Dir) -> (PathBuf, PathBuf, PathBuf) {
    let (image, map, backup) = (dir.image("disk.raw", SIZE), dir.path("disk.map"), dir.path("backup.raw"));
    dm!("create", map, "--image", image, "-g", "4K").exits(0);
    dm!("backup", image, backup, "--map", map).exits(0);
    (image, map, backup)
}

/// Numbers that look like chance.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A client with a part of the image to itself, which does each request until it is answered, and verifies what it reads.
struct Writer<'a> {
    socket: &'a Path,
    part: Range<u64>,
    /// What the part holds by what was answered.
    expected: Vec<u8>,
    chance: Chance,
    client: Option<Client>,
}

impl Writer<'_> {
    /// Does a request until it is answered, or everything ends.
    fn insist<T>(
        &mut self,
        end: &AtomicBool,
        mut request: impl FnMut(&mut Client) -> Result<T, dirtymap_nbd::client::Error>,
    ) -> Option<T> {
        loop {
            if let Some(client) = &mut self.client {
                match request(client) {
                    Ok(answer) => return Some(answer),
                    // A server that is killed answers nothing wrong.
                    Err(dirtymap_nbd::client::Error::Failed(e)) => panic!("a request failed: {e}"),
                    Err(_) => self.client = None,
                }
            }
            // The last server listens before it is said to be the end.
            let last = end.load(Relaxed);
            let uri = format!("nbd+unix:///?socket={}", self.socket.display()).parse().expect("a URI");
            self.client = Client::connect(&uri, &ConnectOptions::default()).ok();
            if self.client.is_none() && last {
                return None;
            }
        }
    }

    /// Writes, trims, zeroes, flushes and reads until the end, and counts what was answered.
    fn run(mut self, answered: &AtomicU64, end: &AtomicBool) -> Vec<u8> {
        while !end.load(Relaxed) {
            let length = 1 + self.chance.below(3 * GRANULE);
            let at = self.chance.below(self.part.end - self.part.start - length);
            let here = at as usize..(at + length) as usize;
            let (offset, seed) = (self.part.start + at, self.chance.below(1 << 40));
            let done = match self.chance.below(10) {
                0 => self.insist(end, Client::flush),
                1 => {
                    self.expected[here].fill(0);
                    self.insist(end, |client| client.write_zeroes(offset, length, 0))
                }
                2..5 => {
                    let read = self.insist(end, |client| client.read(offset, length as u32, 0));
                    if let Some(read) = read.as_ref() {
                        assert!(read[..] == self.expected[here], "bytes at {offset} are not what was written last");
                    }
                    read.map(drop)
                }
                _ => {
                    let data = pattern(length, seed);
                    self.expected[here].copy_from_slice(&data);
                    self.insist(end, |client| client.write(offset, &data, 0))
                }
            };
            if done.is_some() {
                answered.fetch_add(1, Relaxed);
            }
        }
        self.expected
    }
}

/// Asserts that each granule in which image and backup differ is dirty.
fn nothing_is_missing(image: &Path, backup: &Path, map: &Path, when: &str) {
    let (image, backup, dirty) = (fs::read(image).expect("read"), fs::read(backup).expect("read"), areas(map));
    let granules = (0..SIZE).step_by(GRANULE as usize);
    for at in
        granules.filter(|at| image[*at as usize..][..GRANULE as usize] != backup[*at as usize..][..GRANULE as usize])
    {
        assert!(dirty.iter().any(|area| area.contains(&at)), "{when}: {at} differs from the backup and is not dirty");
    }
}

#[test]
fn killed_under_load_nothing_is_forgotten_and_no_client_notices() {
    let dir = Dir::new();
    let (image, map, backup) = backed_up(&dir);
    let (answered, end) = (AtomicU64::new(0), AtomicBool::new(false));
    let socket = dir.path("socket");
    let part = SIZE / CLIENTS;
    let before = fs::read(&image).expect("read");
    let mut chance = Chance(0x1234_5678_9abc_def1);
    let last = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..CLIENTS)
            .map(|i| {
                let part = i * part..(i + 1) * part;
                let expected = before[part.start as usize..part.end as usize].to_vec();
                let writer = Writer { socket: &socket, part, expected, chance: Chance(i * 77 + 1), client: None };
                let (answered, end) = (&answered, &end);
                scope.spawn(move || writer.run(answered, end))
            })
            .collect();
        // Whatever fails here, the clients end.
        let _ends = Ends(&end);
        for round in 0..kills() {
            let server = Server::start(&dir, &[]);
            let mut progress = |requests: u64| {
                let until = answered.load(Relaxed) + 1 + chance.below(requests);
                while answered.load(Relaxed) < until && !writers.iter().any(|writer| writer.is_finished()) {
                    std::thread::yield_now();
                }
            };
            progress(200);
            // Every other time while a backup is made of what was written so far.
            let backing = (round % 2 == 1).then(|| {
                let mut command = dirtymap();
                command.arg("backup").args([&image, &backup]).arg("--map").arg(&map);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run dirtymap")
            });
            progress(100);
            server.kill();
            if let Some(child) = backing {
                Ran::from(child.wait_with_output().expect("wait")).exits(0);
            }
            nothing_is_missing(&image, &backup, &map, &format!("after kill {round}"));
        }
        let server = Server::start(&dir, &[]);
        end.store(true, Relaxed);
        let expected: Vec<u8> = writers.into_iter().flat_map(|writer| writer.join().expect("no panic")).collect();
        server.stop().exits(0);
        expected
    });
    assert!(fs::read(&image).expect("read")[..last.len()] == last, "the image is not what was written to it");
    nothing_is_missing(&image, &backup, &map, "at the end");
    dm!("check", map).exits(0);
    dm!("backup", image, backup, "--map", map).exits(0);
    assert!(fs::read(&image).expect("read") == fs::read(&backup).expect("read"));
    println!("{} kills, {} requests", kills(), answered.load(Relaxed));
}

/// Ends the clients when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// QEMU's own client, with `reconnect-delay`: none of its requests fails.
#[test]
fn qemu_with_a_reconnect_delay_does_not_notice_kills() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        return skipped("qemu-img is not installed");
    }
    let dir = Dir::new();
    let (image, map, backup) = backed_up(&dir);
    let options = format!(
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={},file.reconnect-delay=60",
        dir.path("socket").display()
    );
    let bench = || {
        let mut command = Command::new("qemu-img");
        command.args(["bench", "-w", "-c", "4000", "-d", "8", "-s", "16k", "--pattern", "77"]);
        command.args(["--image-opts", &options]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("run qemu-img")
    };
    let (mut killed, mut under_way) = (0, 0);
    // One connection to each: a server has not room for many at once.
    let start = || {
        let server = Server::start(&dir, &["--control", dir.path("control").to_str().expect("text")]);
        (server, Control::connect(&dir.path("control")))
    };
    let (mut server, mut control) = start();
    let mut running = bench();
    while killed < kills() {
        // When it has written something, and again.
        let mut written = || {
            let status = control.status();
            status["disks"][0]["requests"]["write"]["requests"].as_u64().expect("a number")
        };
        let mut ended = running.try_wait().expect("wait").is_some();
        while !ended && written() < 50 {
            ended = running.try_wait().expect("wait").is_some();
        }
        if ended {
            Ran::from(running.wait_with_output().expect("wait")).exits(0);
            running = bench();
            continue;
        }
        server.kill();
        under_way += u64::from(running.try_wait().expect("wait").is_none());
        killed += 1;
        nothing_is_missing(&image, &backup, &map, &format!("after kill {killed}"));
        (server, control) = start();
    }
    Ran::from(running.wait_with_output().expect("wait")).exits(0);
    assert!(under_way > 0, "no kill came while requests were under way");
    server.stop().exits(0);
    println!("{killed} kills, {under_way} while requests were under way");
    dm!("backup", image, backup, "--map", map).exits(0);
    assert!(fs::read(&image).expect("read") == fs::read(&backup).expect("read"));
}
