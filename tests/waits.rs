//! Locks that another process keeps: a reader of the file, and one that is stopped. Nothing waits for ever, an error names the
//! process, and no looker keeps a map from being closed.

use dirtymap::{
    Access, CloseError, DirtyMap, Error, Options,
    error::InUse,
    fsck::{Severity, check, check_after_power_loss},
    info::{FileState, inspect},
};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Opens the file for reading, locks bytes of it as far as a reader can, and stops itself if asked to. It ends with the test.
const KEEPER: &str = r"
import ctypes, fcntl, os, signal, struct, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
fd = os.open(sys.argv[1], os.O_RDONLY)
first, count, how = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
fcntl.fcntl(fd, 37, struct.pack('hhqqi', fcntl.F_RDLCK, 0, first, count, 0))
if how == 'whole':
    fcntl.flock(fd, fcntl.LOCK_SH)
print('locked', flush=True)
if how == 'stop':
    os.kill(os.getpid(), signal.SIGSTOP)
sys.stdin.read()
";

const GATE: u64 = 1 << 62;
const UPDATE: u64 = (1 << 62) + 1;
const SLOTS: u64 = (1 << 62) + 64;

/// Another process that keeps locks until it is dropped.
struct Keeper(Child);

impl Keeper {
    /// `None`, after saying so, where there is no Python.
    fn of(path: &Path, first: u64, count: u64, how: &str) -> Option<Keeper> {
        let mut python = Command::new("python3");
        python.args(["-c", KEEPER]).arg(path).args([first.to_string(), count.to_string(), how.to_string()]);
        let Ok(mut child) = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            eprintln!("SKIPPED: there is no python3");
            return None;
        };
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        let keeper = Keeper(child);
        while how == "stop" && !keeper.is_stopped() {
            thread::yield_now();
        }
        Some(keeper)
    }

    fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Runs a test that would not end where a wait does not. The limit is no measure: many times what its waits take together.
fn ends(test: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel::<()>();
    let tested = thread::spawn(move || {
        let _done = done;
        test();
    });
    match is_done.recv_timeout(Duration::from_secs(120)) {
        Err(RecvTimeoutError::Timeout) => panic!("a wait has no end"),
        _ => tested.join().unwrap_or_else(|why| resume_unwind(why)),
    }
}

fn options() -> Options {
    Options::new().flush_interval(None).lock_timeout(Duration::from_millis(100))
}

fn new_map(options: &Options) -> (tempfile::TempDir, PathBuf, DirtyMap) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let map = options.create(&path, 1 << 40).unwrap();
    (dir, path, map)
}

/// What is said of a lock that this process keeps: the update lock and is stopped, or the gate and is not.
fn is_told(error: &Error, keeper: &Keeper, expected: InUse) {
    let stopped = expected == InUse::Update;
    let Error::Locked { holder: Some(holder), what, .. } = error else { panic!("{error:?}") };
    assert_eq!((*what, holder.pid, holder.stopped), (expected, keeper.0.id(), stopped), "{error}");
    assert!(error.to_string().contains(&format!("process {}, python3", keeper.0.id())), "{error}");
    assert_eq!(error.to_string().contains("which is stopped"), stopped, "{error}");
}

#[test]
fn a_process_that_is_stopped_with_the_update_lock_stops_nobody_for_ever() {
    ends(|| {
        for access in [Access::Exclusive, Access::Shared] {
            // With a flusher, which wants the lock as well when the map is dropped.
            let (_dir, path, map) = new_map(&options().access(access).flush_interval(Some(Duration::from_millis(10))));
            map.set(0..1).unwrap();
            let Some(keeper) = Keeper::of(&path, UPDATE, 1, "stop") else { return };
            is_told(&map.set(1 << 30..(1 << 30) + 1).unwrap_err(), &keeper, InUse::Update);
            assert!(!map.get(1 << 30).unwrap());
            is_told(&map.flush().unwrap_err(), &keeper, InUse::Update);
            is_told(&map.freeze(None).unwrap_err(), &keeper, InUse::Update);
            let closed = map.close().unwrap_err();
            is_told(closed.error(), &keeper, InUse::Update);
            drop(closed);
            drop(keeper);
            assert!(options().open(&path).unwrap().get(0).unwrap());
        }
    });
}

#[test]
fn threads_that_wait_for_one_lock_give_up_together() {
    ends(|| {
        const THREADS: u64 = 16;
        let options = options().access(Access::Shared).lock_timeout(Duration::from_millis(500));
        let (_dir, path, map) = new_map(&options);
        let other = options.open(&path).unwrap();
        let Some(keeper) = Keeper::of(&path, UPDATE, 1, "") else { return };
        let mut waits = 0u64;
        thread::scope(|scope| {
            let map = &map;
            let set = |n: u64| move || assert_eq!(map.set(n << 30..(n << 30) + 1).unwrap_err().kind(), "locked");
            let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(set(n))).collect();
            // Another one that waits as long, again and again, is the clock: one after the other, they would take that many waits.
            while threads.iter().any(|thread| !thread.is_finished()) {
                assert_eq!(other.flush().unwrap_err().kind(), "locked");
                waits += 1;
            }
        });
        assert!(waits < THREADS / 2, "one after the other: {waits} waits for {THREADS} threads");
        drop(keeper);
        map.set(0..1).unwrap();
    });
}

#[test]
fn a_close_that_cannot_get_the_gate_gives_the_map_back() {
    ends(|| {
        for access in [Access::Exclusive, Access::Shared] {
            let (_dir, path, map) = new_map(&options().access(access));
            map.set(0..1).unwrap();
            let Some(keeper) = Keeper::of(&path, GATE, 1, "") else { return };
            let closed: CloseError = map.close().unwrap_err();
            is_told(closed.error(), &keeper, InUse::Gate);
            let map = closed.into_map();
            map.set(1 << 30..(1 << 30) + 1).unwrap();
            drop(keeper);
            if access == Access::Shared {
                assert!(
                    options().access(access).open(&path).unwrap().get(1 << 30).unwrap(),
                    "others cannot join any more"
                );
            }
            map.close().unwrap();
            let info = inspect(&path).unwrap();
            assert_eq!((info.state, info.dirty.unwrap().0), (FileState::Clean, 2));
        }
    });
}

#[test]
fn locks_of_a_reader_do_not_pass_for_a_session() {
    ends(|| {
        let (_dir, path, map) = new_map(&options().access(Access::Shared));
        map.set(0..1).unwrap();
        let Some(_keeper) = Keeper::of(&path, SLOTS + 1, 255, "whole") else { return };
        map.close().unwrap();
        let info = inspect(&path).unwrap();
        assert_eq!((info.state, info.dirty.unwrap().0), (FileState::Clean, 1));
        assert!(Options::new().read_only(true).open(&path).unwrap().get(0).unwrap());
        // A page is damaged, and check says so.
        let file = File::options().write(true).open(&path).unwrap();
        let bottom = dirtymap::format::Header::parse(&fs::read(&path).unwrap()).unwrap().layout.bottom.start;
        file.write_all_at(&[0x55; 8], bottom).unwrap();
        let report = check(&path, |_, _| {}).unwrap();
        assert_eq!((report.live, report.severity()), (false, Some(Severity::Damage)));
    });
}

#[test]
fn a_look_that_takes_long_keeps_nobody_from_closing() {
    ends(|| {
        let (_dir, path, map) = new_map(&options().access(Access::Shared));
        map.set(0..1).unwrap();
        map.flush().unwrap();
        let ((looks, looking), (closed, is_closed)) = (mpsc::channel(), mpsc::channel::<()>());
        thread::scope(|scope| {
            let path = &path;
            let checked = scope.spawn(move || {
                check_after_power_loss(path, |_, _| {
                    let _ = looks.send(());
                    let _ = is_closed.recv();
                })
            });
            looking.recv().unwrap();
            map.close().unwrap();
            drop(closed);
            let report = checked.join().unwrap().unwrap();
            // Looked at again, since it was closed meanwhile.
            assert_eq!((report.live, report.info.state, report.severity()), (false, FileState::Clean, None));
        });
    });
}
