//! Other implementations: their clients against our server, and our client against their servers. What is not installed is
//! skipped, and says so: on Debian, `apt-get install qemu-utils nbdkit libnbd-bin`.

mod common;

use common::{KIB, MIB, pattern};
use dirtymap_nbd::client::{Client, ConnectOptions, Uri};
use dirtymap_nbd::codec::values::{flag, transmission};
use dirtymap_nbd::codec::{Extent, Mode};
use dirtymap_nbd::{Backend, Extents, Failure, Features, FileBackend, FixedExports, Server, ServerOptions, Zeroes};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;

const SIZE: usize = 4 * MIB;

/// Whether all of these programs are there; says so if not.
fn have(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|p| Command::new(p).arg("--version").output().is_err()).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED, not installed: {missing:?}");
    }
    missing.is_empty()
}

/// A file with a context that says where it is dirty.
struct Image(FileBackend);

const DIRTY: Range<u64> = 1 << 20..(1 << 20) + (64 << 10);

impl Backend for Image {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn features(&self) -> Features {
        self.0.features()
    }

    fn contexts(&self) -> Vec<String> {
        vec!["base:allocation".into(), common::DIRTY.into()]
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        self.0.read(offset, into)
    }

    fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.0.holes(range)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Failure> {
        self.0.write(offset, data, fua)
    }

    fn flush(&self) -> Result<(), Failure> {
        self.0.flush()
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), Failure> {
        self.0.trim(offset, length, fua)
    }

    fn write_zeroes(&self, offset: u64, length: u64, how: Zeroes) -> Result<(), Failure> {
        self.0.write_zeroes(offset, length, how)
    }

    fn block_status(&self, context: usize, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        if context == 0 {
            return self.0.block_status(0, offset, length, extents);
        }
        let mut at = offset;
        for (end, flags) in [(DIRTY.start, 0), (DIRTY.end, 1), (self.size(), 0)] {
            extents.push(end.saturating_sub(at), flags);
            at = at.max(end);
        }
        Ok(())
    }
}

/// Our server, with an image that has data at 1 MiB, 64 KiB of it.
struct Served {
    _server: Server,
    dir: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        image(&path);
        let file = FileBackend::open(&path, true).expect("open");
        let exports = FixedExports::new().with("disk", Arc::new(Image(file)));
        let mut server = Server::new(Arc::new(exports), ServerOptions::default());
        server.listen_unix(&dir.path().join("s")).expect("listen");
        Self { _server: server, dir }
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.dir.path().join("s").display())
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(name)).expect("read")
    }
}

fn image(path: &Path) {
    let mut bytes = vec![0; SIZE];
    bytes[MIB..MIB + 64 * KIB].copy_from_slice(&pattern(0, 64 * KIB));
    let file = std::fs::File::create(path).expect("create");
    file.set_len(SIZE as u64).expect("size");
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes[MIB..MIB + 64 * KIB], MIB as u64).expect("write");
}

/// Runs a program that has to succeed, and returns what it says.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(program).args(arguments).output().expect("run");
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{program} {arguments:?}: {said}");
    said
}

#[test]
fn qemu_img_copies_and_compares() {
    if !have(&["qemu-img"]) {
        return;
    }
    let served = Served::new();
    let uri = served.uri();
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, &served.path("out")]);
    assert_eq!(served.bytes("out"), served.bytes("image"));
    assert!(run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, &served.path("out")]).contains("identical"));
    // The other way, over what is there.
    std::fs::write(served.path("in"), pattern(7, SIZE)).expect("write");
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &served.path("in"), &uri]);
    assert_eq!(served.bytes("image"), pattern(7, SIZE));
}

#[test]
fn qemu_img_maps_holes_and_bitmaps() {
    if !have(&["qemu-img"]) {
        return;
    }
    let served = Served::new();
    let socket = served.path("s");
    let map = |more: &str| {
        let options = format!("driver=nbd,export=disk,server.type=unix,server.path={socket}{more}");
        run("qemu-img", &["map", "--output=json", "--image-opts", &options])
    };
    let holes = map("");
    assert_eq!(holes.matches("\"start\"").count(), 3, "{holes}");
    // With x-dirty-bitmap, qemu shows what is dirty as what has no data.
    let dirty = map(&format!(",x-dirty-bitmap={}", common::DIRTY));
    let lines: Vec<&str> = dirty.lines().filter(|line| line.contains("\"data\": false")).collect();
    assert_eq!(lines.len(), 1, "{dirty}");
    assert!(lines[0].contains("\"start\": 1048576, \"length\": 65536"), "{dirty}");
}

#[test]
fn qemu_img_benches_with_many_requests_at_once() {
    if !have(&["qemu-img"]) {
        return;
    }
    let served = Served::new();
    for direction in [&[][..], &["-w"], &["-w", "--flush-interval=50"]] {
        let fixed = ["bench", "-f", "raw", "-c", "2000", "-d", "16", "-s", "4096", "-t", "none"];
        let arguments: Vec<&str> = fixed.iter().chain(direction).copied().collect();
        run("qemu-img", &[&arguments[..], &[&served.uri()]].concat());
    }
}

#[test]
fn qemu_io_writes_reads_and_discards() {
    if !have(&["qemu-io"]) {
        return;
    }
    let served = Served::new();
    let commands = [
        "write -P 7 0 4096",
        "write -f -P 8 4096 512",
        "read -P 7 0 4096",
        "read -P 8 4096 512",
        "write -z 0 2048",
        "write -z -u 2048 1024",
        "read -P 0 0 3072",
        "read -P 7 3072 1024",
        "discard 8192 8192",
        "aio_write -P 9 64k 64k",
        "aio_flush",
        "flush",
        "read -P 9 64k 64k",
    ];
    let arguments: Vec<&str> = commands.iter().flat_map(|command| ["-c", command]).collect();
    let said = run("qemu-io", &[&["-f", "raw"], &arguments[..], &[&served.uri()]].concat());
    assert!(!said.contains("failed") && !said.contains("error"), "{said}");
    assert_eq!(served.bytes("image")[4096..4608], [8; 512]);
}

#[test]
fn nbdinfo_lists_and_maps_every_context() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let served = Served::new();
    let said = run("nbdinfo", &["--list", &served.uri()]);
    assert!(said.contains("export=\"disk\"") && said.contains(common::DIRTY), "{said}");
    assert!(said.contains("can_multi_conn: true") && said.contains("can_fast_zero: true"), "{said}");
    let map = run("nbdinfo", &[&format!("--map={}", common::DIRTY), &served.uri()]);
    let lines: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(lines, [["0", "1048576", "0"], ["1048576", "65536", "1"], ["1114112", "3080192", "0"]], "{map}");
    assert!(run("nbdinfo", &["--map", "--totals", &served.uri()]).contains("hole,zero"));
}

#[test]
fn nbdcopy_copies_both_ways() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let served = Served::new();
    run("nbdcopy", &[&served.uri(), &served.path("out")]);
    assert_eq!(served.bytes("out"), served.bytes("image"));
    std::fs::write(served.path("in"), pattern(3, SIZE)).expect("write");
    run("nbdcopy", &["--flush", &served.path("in"), &served.uri()]);
    assert_eq!(served.bytes("image"), pattern(3, SIZE));
}

/// A server of somebody else, killed at the end.
struct Theirs {
    child: Child,
    dir: tempfile::TempDir,
}

impl Theirs {
    /// Starts it with `SOCKET` and `IMAGE` in its arguments replaced, and waits for it.
    fn start(program: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (socket, path) = (dir.path().join("s"), dir.path().join("image"));
        image(&path);
        let place = |text: &str| {
            text.replace("SOCKET", &socket.display().to_string()).replace("IMAGE", &path.display().to_string())
        };
        let mut child = Command::new(program).args(arguments.iter().map(|text| place(text))).spawn().expect("start");
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(child.try_wait().expect("wait").is_none(), "{program} does not run");
            std::thread::yield_now();
        }
        Self { child, dir }
    }

    fn uri(&self) -> Uri {
        format!("nbd+unix:///?socket={}", self.dir.path().join("s").display()).parse().expect("a URI")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What every server should do for our client.
fn use_it(theirs: &Theirs, options: &ConnectOptions) -> Client {
    let mut client = Client::connect(&theirs.uri(), options).expect("connect");
    assert_eq!(client.info().size, SIZE as u64);
    let whole = client.read(0, SIZE as u32, 0).expect("read");
    assert_eq!(whole, std::fs::read(theirs.image()).expect("read"));
    client.write(4096, &[5; 4096], flag::FUA).expect("write");
    client.trim(1 << 20, 4096, 0).expect("trim");
    client.write_zeroes(4096, 512, flag::NO_HOLE).expect("zeroes");
    client.flush().expect("flush");
    assert_eq!(client.read(4096, 4096, 0).expect("read"), [&[0; 512][..], &[5; 3584]].concat());
    let cookies: Vec<u64> = (0..20).map(|i| client.submit(0, 0, i * 512, 512, &[]).expect("submit")).collect();
    let mut answered: Vec<u64> = cookies.iter().map(|_| client.receive().expect("receive").cookie).collect();
    answered.sort_unstable();
    assert_eq!(answered, cookies);
    client
}

fn wishes() -> [(ConnectOptions, Mode); 3] {
    let contexts = vec!["base:allocation".to_string()];
    [
        (ConnectOptions { structured: false, extended: false, contexts: contexts.clone() }, Mode::Simple),
        (ConnectOptions { structured: true, extended: false, contexts: contexts.clone() }, Mode::Structured),
        (ConnectOptions { structured: true, extended: true, contexts }, Mode::Extended),
    ]
}

#[test]
fn our_client_uses_qemu_nbd() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    for (options, mode) in wishes() {
        let theirs =
            Theirs::start("qemu-nbd", &["--persistent", "--socket=SOCKET", "--format=raw", "--discard=unmap", "IMAGE"]);
        let mut client = use_it(&theirs, &options);
        // Before 9.0, qemu has no extended headers.
        assert!(client.mode() == mode || mode == Mode::Extended);
        if mode != Mode::Simple {
            let states = client.block_status(2 << 20, 2 << 20, 0).expect("states");
            assert_eq!(states[0].1, [Extent { length: 2 << 20, flags: 3 }]);
        }
        if client.info().flags & transmission::BLOCK_STATUS_PAYLOAD != 0 {
            let id = client.contexts()[0].id;
            let states = client.block_status_of(&[id], 2 << 20, 4096, flag::REQ_ONE).expect("states");
            assert_eq!(states, [(id, vec![Extent { length: 4096, flags: 3 }])]);
        }
    }
}

#[test]
fn our_client_uses_nbdkit() {
    if !have(&["nbdkit"]) {
        return;
    }
    for (options, mode) in wishes() {
        let theirs = Theirs::start("nbdkit", &["--foreground", "--unix", "SOCKET", "file", "IMAGE"]);
        let mut client = use_it(&theirs, &options);
        assert!(client.mode() == mode || mode == Mode::Extended);
        if mode != Mode::Simple {
            let states = client.block_status(2 << 20, 2 << 20, flag::REQ_ONE).expect("states");
            assert_eq!(states[0].1, [Extent { length: 2 << 20, flags: 3 }]);
        }
    }
}
