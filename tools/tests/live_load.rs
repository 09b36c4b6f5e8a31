//! Live snapshots under load: writers go on, the server is killed at any moment of a backup, and each backup is the image as it
//! was frozen, byte for byte.
//!
//! `DIRTYMAP_LIVE_KILLS` says how often (4).

mod common;

use common::live::{Gone, Place, Server, takes_over, to_do, until};
use common::{GRANULE, Ran, dirtymap};
use dirtymap_nbd::client::Client;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

const SIZE: u64 = 64 << 20;
const BLOCK: u64 = 4096;
const WRITERS: u64 = 2;
/// Blocks that each writer has for itself, every second one.
const BLOCKS: u64 = SIZE / BLOCK / WRITERS;

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// What a writer has written: the blocks, one after the other.
#[derive(Default)]
struct Written {
    blocks: Mutex<Vec<u64>>,
    /// Writes that were sent, and that were answered.
    sent: AtomicU64,
    complete: AtomicU64,
}

/// The content of a block after the n-th write of its writer.
fn content(writer: u64, n: u64) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK as usize);
    while block.len() < BLOCK as usize {
        block.extend((writer << 56 | n).to_le_bytes());
    }
    block
}

/// Where a block of a writer is.
fn place_of(writer: u64, block: u64) -> u64 {
    (block * WRITERS + writer) * BLOCK
}

/// Writes until it is told to stop; what was not answered is written again.
fn keep_writing(place: &Place, writer: u64, written: &Written, stop: &AtomicBool) {
    let mut random = Random(0x9e37_79b9 + writer);
    let mut client: Option<Client> = None;
    while !stop.load(SeqCst) {
        let n = written.sent.load(SeqCst) + 1;
        // Half of them in a small part.
        let block = if n.is_multiple_of(2) { random.next(BLOCKS) } else { random.next(BLOCKS / 16) };
        written.blocks.lock().expect("no panic").push(block);
        written.sent.store(n, SeqCst);
        let data = content(writer, n);
        until("a write", || {
            if client.is_none() {
                client = place.client("").ok();
            }
            let sent = client.as_mut()?.write(place_of(writer, block), &data, 0);
            if sent.is_err() {
                client = None;
            }
            sent.ok()
        });
        written.complete.store(n, SeqCst);
    }
}

/// Asserts that this is the image after so many writes of each writer, and that these are enough and not too many.
fn is_moment(image: &[u8], written: &[Written], least: &[u64], most: &[u64]) {
    for (writer, log) in (0..).zip(written) {
        let blocks = log.blocks.lock().expect("no panic");
        let at = |block: u64| &image[place_of(writer, block) as usize..][..BLOCK as usize];
        let number = |block: u64| u64::from_le_bytes(at(block)[..8].try_into().expect("8 bytes")) & ((1 << 56) - 1);
        let last = (0..BLOCKS).map(number).max().expect("a block");
        let (least, most) = (least[writer as usize], most[writer as usize]);
        assert!((least..=most).contains(&last), "writer {writer}: {last} writes are in, not {least} to {most}");
        let mut expected = vec![0; BLOCKS as usize];
        for (n, block) in (1..=last).zip(blocks.iter()) {
            expected[*block as usize] = n;
        }
        for block in 0..BLOCKS {
            let n = expected[block as usize];
            let right = if n == 0 { at(block).iter().all(|b| *b == 0) } else { at(block) == content(writer, n) };
            assert!(right, "writer {writer}, block {block}: not as after write {n}, the last one before {last}");
        }
    }
}

/// The server, which some other thread kills and starts again.
struct Killed<'a> {
    place: &'a Place,
    server: RwLock<Option<Server>>,
    kills: AtomicU64,
    /// Backups are those of the command.
    of_command: bool,
}

impl Killed<'_> {
    fn kills(&self) -> u64 {
        self.kills.load(SeqCst)
    }

    /// Kills it, and starts the next one, which goes on with a snapshot if that was frozen.
    fn kill(&self) {
        let mut server = self.server.write().expect("no panic");
        server.take().expect("a server").kill();
        let (outstanding, said) = (self.place.outstanding(), self.place.log().len());
        *server = self.place.start(&[]);
        let log = self.place.log();
        assert!(server.is_some(), "{log}");
        // It says so before it serves: from then on a backup may have another snapshot made, or end this one.
        let goes_on = log[said..].contains("going on with snapshot");
        let frozen = outstanding.filter(|(frozen, _)| *frozen);
        // A command that finds no server puts back what an earlier one has left.
        let put_back = self.of_command && frozen.is_some() && self.place.outstanding() != frozen;
        assert!(goes_on == frozen.is_some() || put_back, "{outstanding:?}: {log}");
        self.kills.fetch_add(1, SeqCst);
    }
}

/// Copies what is frozen to the target, as a backup does; says of each granule that it is done.
fn copy(place: &Place, target: &fs::File, random: &mut Random) -> Result<(), Gone> {
    let gone = |e: dirtymap_nbd::client::Error| match e {
        dirtymap_nbd::client::Error::Failed(failure) => panic!("a frozen granule cannot be read: {failure}"),
        other => Gone(other.to_string()),
    };
    let mut client = place.client("@now")?;
    for g in to_do(&mut client, SIZE)? {
        let data = client.read(g * GRANULE, GRANULE as u32, 0).map_err(gone)?;
        target.write_all_at(&data, g * GRANULE).expect("write");
        if random.next(2) == 0 {
            client.trim(g * GRANULE, GRANULE, 0).map_err(gone)?;
        }
    }
    Ok(())
}

/// A snapshot that was asked for until there is one; what was complete and sent around the call.
fn create(killed: &Killed<'_>, written: &[Written]) -> [Vec<u64>; 2] {
    let counts = |which: fn(&Written) -> &AtomicU64| written.iter().map(|log| which(log).load(SeqCst)).collect();
    let mut least: Vec<u64> = counts(|log| &log.complete);
    until("a snapshot", || {
        let ran = killed.place.snapshot(&["create", "--name", "now"]);
        if ran.code == 0 || ran.out.contains("snapshot-exists") {
            return Some(());
        }
        // It may have been made, and the answer was lost: then it is older than the next call.
        let _server = killed.server.read().expect("no panic");
        let there = killed.place.outstanding().is_some_and(|(frozen, _)| frozen);
        if !there {
            least = counts(|log| &log.complete);
        }
        there.then_some(())
    });
    [least, counts(|log| &log.sent)]
}

/// A backup as a program makes one, step by step. What was complete before its moment, and sent by then.
fn by_hand(killed: &Killed<'_>, written: &[Written]) -> [Vec<u64>; 2] {
    let place = killed.place;
    let target = fs::File::options().write(true).create(true).truncate(false).open(place.dir.path("target"));
    let target = target.expect("open");
    target.set_len(SIZE).expect("set the length");
    let [least, most] = create(killed, written);
    let mut random = Random(88 + most[0]);
    until("a backup", || {
        // The same bytes as often as they are read.
        copy(place, &target, &mut random).ok()?;
        let ran = place.snapshot(&["commit"]);
        let ended = ran.code == 0 || {
            let _server = killed.server.read().expect("no panic");
            place.outstanding().is_none()
        };
        ended.then_some(())
    });
    [least, most]
}

/// The same by `dirtymap backup`. It may fail if the server was killed meanwhile; then it is begun anew.
fn by_command(killed: &Killed<'_>, written: &[Written]) -> [Vec<u64>; 2] {
    let place = killed.place;
    let counts = |which: fn(&Written) -> &AtomicU64| written.iter().map(|log| which(log).load(SeqCst)).collect();
    let uri = format!("nbd+unix:///?socket={}", place.dir.path("socket").display());
    until("a backup", || {
        let (least, kills) = (counts(|log| &log.complete), killed.kills());
        let mut command = dirtymap();
        command.args(["--output", "json", "backup", &uri]).arg(place.dir.path("target"));
        let ran: Ran = command.arg("--control").arg(place.control()).output().expect("run dirtymap").into();
        if ran.code == 0 {
            assert_eq!((&ran.json()["one_moment"], place.outstanding()), (&true.into(), None));
            return Some([least, counts(|log| &log.sent)]);
        }
        let _server = killed.server.read().expect("no panic");
        assert!(ran.code == 8 && killed.kills() > kills, "nothing was killed: {ran:?}");
        None
    })
}

#[test]
fn each_backup_is_the_image_as_it_was_frozen_however_often_the_server_is_killed() {
    under_load(by_hand, false);
}

#[test]
fn each_backup_of_the_command_is_the_image_as_it_was_frozen_however_often_the_server_is_killed() {
    under_load(by_command, true);
}

/// Makes one backup after the other while writers write and the server is killed.
fn under_load(back_up: fn(&Killed<'_>, &[Written]) -> [Vec<u64>; 2], of_command: bool) {
    if !takes_over() {
        return;
    }
    let kills = std::env::var("DIRTYMAP_LIVE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let place = Place::of_zeros(SIZE);
    let killed = Killed { place: &place, server: RwLock::new(place.start(&[])), kills: AtomicU64::new(0), of_command };
    let written: Vec<Written> = (0..WRITERS).map(|_| Written::default()).collect();
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (writer, written) in (0..).zip(&written) {
            let (place, stop) = (&place, &stop);
            scope.spawn(move || keep_writing(place, writer, written, stop));
        }
        let backups = scope.spawn(|| {
            while !stop.load(SeqCst) {
                let [least, most] = back_up(&killed, &written);
                let backup = fs::read(place.dir.path("target")).expect("read");
                is_moment(&backup, &written, &least, &most);
                rounds.fetch_add(1, SeqCst);
            }
        });
        let mut random = Random(7);
        for _ in 0..kills {
            std::thread::sleep(Duration::from_millis(20 + random.next(400)));
            if backups.is_finished() {
                break;
            }
            killed.kill();
        }
        let done = rounds.load(SeqCst);
        until("one backup more", || (backups.is_finished() || rounds.load(SeqCst) > done).then_some(()));
        stop.store(true, SeqCst);
        backups.join().expect("the backups");
    });
    let (kills, rounds) = (killed.kills(), rounds.load(SeqCst));
    let writes: u64 = written.iter().map(|log| log.complete.load(SeqCst)).sum();
    println!("{kills} kills, {rounds} backups, {writes} writes");
    assert!(rounds > 0);
}
