//! The three examples side by side, as the processes that they are: after the last backup the copy is the image.

use dirtymap::{
    Access, ImageStamp, Options,
    info::{FileState, inspect},
};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

const LEN: u64 = 64 << 20;
/// Longer than anything takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// An example that runs: killed when the test ends before it does.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(name: &str, args: &[&Path]) -> Running {
        // target/<profile>/deps/examples-*, and target/<profile>/examples/*.
        let program = std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples").join(name);
        let command = Command::new(&program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let why = "(`cargo test` builds it; with `cargo test --test examples`, run `cargo build --examples` before)";
        let mut child = command.unwrap_or_else(|e| panic!("{}: {e} {why}", program.display()));
        let (out, (send, lines)) = (BufReader::new(child.stdout.take().unwrap()), channel());
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Running { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it says something")
    }

    /// Reads on until it says this.
    fn until(&self, said: &str) {
        let begun = Instant::now();
        while self.line() != said {
            assert!(begun.elapsed() < PATIENCE, "it does not say {said:?}");
        }
    }

    /// Ends its input and waits for it; the last line that it said.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let mut last = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            last = line;
        }
        assert!(self.child.wait().unwrap().success());
        last
    }
}

#[test]
fn a_backup_beside_a_writer_misses_nothing_and_a_monitor_sees_it() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let [image, map, target]: [PathBuf; 3] = ["image", "map", "target"].map(|name| dir.path().join(name));
    let (image, map, target) = (image.as_path(), map.as_path(), target.as_path());
    let file = File::create_new(image).unwrap();
    file.set_len(LEN).unwrap();
    let options = Options::new().granularity(12).image(ImageStamp::of(&file).unwrap());
    options.create(map, LEN).unwrap().close().unwrap();
    let start = || Running::start("backup", &[image, map, target]);
    let backup = || start().end();

    let writer = Running::start("writer", &[image, map]);
    assert_eq!(writer.line(), "writing");
    let monitor = Running::start("monitor", &[map]);
    assert_eq!(monitor.line(), "open by others");
    // A target that is not there yet gets everything, although the map was made clean.
    assert_eq!(backup(), format!("copied {LEN} of {LEN} bytes"));
    backup();
    assert!(writer.end().starts_with("wrote "));
    monitor.until("open by nobody");

    // A backup that ends half-way: what it has frozen belongs to the next one.
    let stamp = || ImageStamp::of(&file).unwrap();
    let half = Options::new().access(Access::Shared).image(stamp()).open(map).unwrap();
    let write = half.begin_write(0..1).unwrap();
    file.write_all_at(b"!", 0).unwrap();
    drop(write);
    half.freeze(None).unwrap();
    half.close_with_image(&stamp()).unwrap();
    let next = start();
    assert!(next.line().starts_with("putting back"));
    assert_ne!(next.end(), format!("copied 0 of {LEN} bytes"));
    assert_eq!(backup(), format!("copied 0 of {LEN} bytes"));
    monitor.until(&format!("0 of {LEN} bytes are dirty"));
    assert!(std::fs::read(image).unwrap() == std::fs::read(target).unwrap(), "the copy is another one");
    assert_eq!(inspect(map).unwrap().state, FileState::Clean);
}
