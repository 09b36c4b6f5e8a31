//! An image whose writes are tracked.
//!
//! Invariant kept here: no byte of the image changes before its range is set, in a bracket that a freeze waits for, and then
//! copied if a snapshot needs it. A range that cannot be set is not written, and the client gets the error.

use super::counters::Counters;
use super::since::Since;
use crate::snapshot::{self, Client, Rule, Snapshots, Step, Syncs, keeps};
use crate::terminal::output::Output;
use dirtymap::DirtyMap;
use dirtymap_nbd::{Backend, Errno, Failure, FileBackend, Zeroes};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// An image with its map. A map that is open for reading goes with an image that is, too.
pub struct Tracked {
    /// Of its export.
    pub name: String,
    pub image: FileBackend,
    pub map: DirtyMap,
    pub syncs: Syncs,
    pub counters: Counters,
    /// NBD connections that use it, and what they share.
    pub connections: AtomicUsize,
    pub since: Since,
    /// The last change failed.
    failing: AtomicBool,
    output: Output,
    /// Of the server, and the place of this disk among its disks.
    snapshots: Arc<Snapshots>,
    place: usize,
}

impl Tracked {
    pub fn new(
        name: String,
        image: FileBackend,
        map: DirtyMap,
        syncs: Syncs,
        snapshots: Arc<Snapshots>,
        place: usize,
        output: Output,
    ) -> Tracked {
        let (counters, connections, since, failing) = Default::default();
        Tracked { name, image, map, syncs, counters, connections, since, failing, output, snapshots, place }
    }

    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        self.counters.read.count(into.len() as u64, || self.image.read(offset, into))
    }

    pub fn write(&self, offset: u64, data: &[u8], fua: Option<&Client>) -> Result<(), Failure> {
        let length = data.len() as u64;
        let write = || self.change(offset..offset + length, fua, || self.image.write(offset, data, false));
        self.counters.write.count(length, write)
    }

    pub fn flush(&self, client: &Client) -> Result<(), Failure> {
        self.counters.flush.count(0, || self.sync(client))
    }

    pub fn trim(&self, offset: u64, length: u64, fua: Option<&Client>) -> Result<(), Failure> {
        let trim = || self.change(offset..offset + length, fua, || self.image.trim(offset, length, false));
        self.counters.trim.count(length, trim)
    }

    pub fn write_zeroes(&self, offset: u64, length: u64, how: Zeroes, fua: Option<&Client>) -> Result<(), Failure> {
        // What fails is a write then, or a sync, and not one of the two.
        let plain = Zeroes { fua: false, ..how };
        let zero = || self.change(offset..offset + length, fua, || self.image.write_zeroes(offset, length, plain));
        self.counters.zero.count(length, zero)
    }

    /// Has a change done, and synced if a client is to know that it is durable. Of failures one after the other the first one is
    /// told here: the client is told of each.
    fn change(
        &self,
        range: Range<u64>,
        fua: Option<&Client>,
        change: impl Fn() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (start, end) = (range.start, range.end);
        let done = self.in_bracket(range, fua, change);
        if done.is_err() != self.failing.load(Relaxed) && done.is_err() != self.failing.swap(done.is_err(), Relaxed) {
            let name = &self.name;
            match &done {
                Ok(()) => self.output.note(format_args!("{name:?}: writes succeed again")),
                Err(e) => self.output.note(format_args!("{name:?}: a write of bytes {start} to {end} failed: {e}")),
            }
        }
        done
    }

    /// Has a change done in a bracket, and in the era of a snapshot.
    fn in_bracket(
        &self,
        range: Range<u64>,
        fua: Option<&Client>,
        change: impl Fn() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let early = (!keeps(Rule::RegisterThenLook)).then(|| self.snapshots.enter());
        snapshot::at(Step::Came);
        let _write = self.map.begin_write(range.clone()).map_err(io::Error::from)?;
        snapshot::at(Step::Marked);
        // Left before the bracket ends.
        let writer = early.unwrap_or_else(|| self.snapshots.enter());
        writer.copy(self.place, range, &self.map)?;
        let mut done = change();
        if done.as_ref().is_err_and(|failure| failure.errno == Errno::NoSpace) && self.snapshots.give_room(&writer) {
            done = change();
        }
        done?;
        fua.map_or(Ok(()), |client| self.sync(client))
    }

    /// An error as well if a sync has failed of which the client has not heard.
    fn sync(&self, client: &Client) -> Result<(), Failure> {
        let done = self.snapshots.sync(self.place, &self.map, &self.syncs, || self.image.flush());
        let knew = self.syncs.tell(client);
        done?;
        let untold =
            || Failure::new(Errno::Io, "a sync before this one has failed: what was written before it may be lost");
        if knew { Ok(()) } else { Err(untold()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirtymap::Options;

    #[test]
    fn what_cannot_be_set_is_not_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let (image, map) = (dir.path().join("image"), dir.path().join("map"));
        std::fs::write(&image, [7; 1 << 16]).expect("write");
        Options::new().create_closed(&map, 1 << 16).expect("create");
        // The image takes writes, the map does not.
        let tracked = Tracked::new(
            "".into(),
            FileBackend::open(&image, true).expect("open"),
            Options::new().read_only(true).open(&map).expect("open"),
            Syncs::default(),
            Arc::default(),
            0,
            Output::new(crate::cli::Format::Human, 0).silent(),
        );
        let failures = [
            tracked.write(0, &[1; 512], None),
            tracked.trim(0, 4096, None),
            tracked.write_zeroes(0, 4096, Zeroes::default(), None),
        ];
        for failure in failures {
            assert_eq!(failure.expect_err("refused").errno, dirtymap_nbd::Errno::Perm);
        }
        assert_eq!(std::fs::read(&image).expect("read"), [7; 1 << 16]);
        let requests = tracked.counters.now();
        assert_eq!((requests.write.requests, requests.write.failed, requests.write.bytes), (1, 1, 0));
    }

    /// A disk in a directory, and its server's snapshots.
    fn tracked(dir: &std::path::Path) -> (Tracked, Arc<Snapshots>) {
        let (image, map) = (dir.join("image"), dir.join("map"));
        std::fs::write(&image, [7; 1 << 20]).expect("write");
        let snapshots = Arc::new(Snapshots::new(dir.to_path_buf(), None));
        let tracked = Tracked::new(
            "".into(),
            FileBackend::open(&image, true).expect("open"),
            Options::new().create(&map, 1 << 20).expect("create"),
            Syncs::default(),
            Arc::clone(&snapshots),
            0,
            Output::new(crate::cli::Format::Human, 0).silent(),
        );
        (tracked, snapshots)
    }

    const NOW: snapshot::Wish<'static> = snapshot::Wish { name: "now", whole: true, app: false, backups: &[] };

    #[test]
    fn a_write_that_finds_no_room_has_that_of_scratch() {
        let dir = tempfile::tempdir().expect("a directory");
        let (tracked, snapshots) = tracked(dir.path());
        let image = std::fs::File::open(dir.path().join("image")).expect("open");
        let tries = std::cell::Cell::new(0);
        let full = || {
            tries.set(tries.get() + 1);
            if tries.get() == 1 { Err(Failure::new(Errno::NoSpace, "full")) } else { Ok(()) }
        };
        // Without a snapshot there is no room to be had.
        assert_eq!(tracked.change(0..512, None, full).expect_err("no room").errno, Errno::NoSpace);
        let made =
            snapshots.create(&[snapshot::Source { map: &tracked.map, image: &image, syncs: &tracked.syncs }], &NOW);
        let made = made.unwrap_or_else(|e| panic!("{e}"));
        let uuid = tracked.map.info().expect("known").uuid;
        let kept = || dir.path().join(format!("dirtymap-{uuid}.data")).metadata().expect("look").len();
        assert!(kept() > 0);
        tries.set(0);
        tracked.change(0..512, None, full).expect("room");
        assert!(made.why_broken().expect("it is").contains("no room"));
        assert_eq!(kept(), 0, "it has the room still");
        // Another one may have found none at the same time.
        tries.set(0);
        tracked.change(0..512, None, full).expect("room");
    }

    #[test]
    fn a_sync_that_fails_within_a_change_is_remembered_and_a_change_that_fails_is_no_sync() {
        type Change = fn(&Tracked, &Client) -> Result<(), Failure>;
        let changes: [Change; 3] = [
            |tracked, client| tracked.write(0, &[1; 512], Some(client)),
            |tracked, client| tracked.trim(0, 4096, Some(client)),
            |tracked, client| tracked.write_zeroes(0, 4096, Zeroes { fua: true, ..Zeroes::default() }, Some(client)),
        ];
        for (change, fails) in changes.iter().flat_map(|change| [(change, false), (change, true)]) {
            let dir = tempfile::tempdir().expect("a directory");
            let (tracked, snapshots) = tracked(dir.path());
            // The one takes everything and cannot be synced, the other takes nothing.
            let image = match fails {
                true => std::fs::File::open(dir.path().join("image")),
                false => std::fs::File::options().read(true).write(true).open("/dev/zero"),
            };
            let image = FileBackend::from_file(image.expect("open"), true).expect("take");
            let tracked = Tracked { image, ..tracked };
            change(&tracked, &tracked.syncs.client()).expect_err("as it has to be");
            assert_eq!(tracked.map.dirty_len() == 1 << 20, !fails);
            let image = std::fs::File::open(dir.path().join("image")).expect("open");
            let made =
                snapshots.create(&[snapshot::Source { map: &tracked.map, image: &image, syncs: &tracked.syncs }], &NOW);
            assert_eq!(made.err().map(|failure| failure.kind == "sync-failed"), (!fails).then_some(true));
        }
    }

    #[test]
    fn a_commit_waits_for_a_sync_that_is_to_fail_and_what_failed_is_remembered() {
        let dir = tempfile::tempdir().expect("a directory");
        let (tracked, snapshots) = tracked(dir.path());
        let image = std::fs::File::open(dir.path().join("image")).expect("open");
        let sources = [snapshot::Source { map: &tracked.map, image: &image, syncs: &tracked.syncs }];
        snapshots.create(&sources, &NOW).unwrap_or_else(|e| panic!("{e}"));
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (fail, is_to_fail) = std::sync::mpsc::channel();
        let committed = std::thread::scope(|scope| {
            let (snapshots, sources, tracked) = (&snapshots, &sources, &tracked);
            scope.spawn(move || {
                let sync = || -> Result<(), ()> {
                    begun.send(()).expect("tell");
                    is_to_fail.recv().expect("hear");
                    Err(())
                };
                snapshots.sync(0, &tracked.map, &tracked.syncs, sync)
            });
            has_begun.recv().expect("hear");
            let commits = scope.spawn(move || snapshots.commit(sources, snapshot::Which::default(), false, None));
            // Time enough to be wrong.
            std::thread::sleep(std::time::Duration::from_millis(200));
            fail.send(()).expect("tell");
            commits.join().expect("it ends")
        });
        assert_eq!(committed.expect_err("refused").kind, "sync-failed");
        assert_eq!(tracked.map.dirty_len(), 1 << 20);
        // That of another disk as well.
        let other = Options::new().create(dir.path().join("other"), 1 << 20).expect("create");
        snapshots.sync(0, &other, &Syncs::default(), || Err(())).expect_err("failed");
        assert_eq!(other.dirty_len(), 1 << 20);
        snapshots.abort(&sources, snapshot::Which::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(snapshots.create(&sources, &NOW).err().expect("refused").kind, "sync-failed");
    }

    #[test]
    fn a_stop_whose_sync_fails_fails_and_everything_is_dirty() {
        let dir = tempfile::tempdir().expect("a directory");
        let (tracked, snapshots) = tracked(dir.path());
        // It cannot be synced.
        let image = std::fs::File::open("/dev/zero").expect("open");
        let sources = [snapshot::Source { map: &tracked.map, image: &image, syncs: &tracked.syncs }];
        snapshots.create(&sources, &NOW).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(tracked.map.dirty_len(), 0);
        let failure = snapshots.stop(&sources).expect_err("not synced");
        assert!(failure.message.contains("sync"), "{failure}");
        assert_eq!(tracked.map.dirty_len(), 1 << 20);
        assert!(tracked.map.checkpoint().expect("known").is_none());
    }
}
