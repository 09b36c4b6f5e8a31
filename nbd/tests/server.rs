//! Listeners, limits, and how a server stops.

mod common;

use common::{KIB, Probe, pattern};
use dirtymap_nbd::client::{Client, ConnectOptions, Error, Uri};
use dirtymap_nbd::codec::values::{command, option, transmission};
use dirtymap_nbd::codec::{InfoRequest, Mode, OptionHeader, Request};
use dirtymap_nbd::{
    Backend, Drained, End, Exports, FileBackend, FixedExports, MemoryBackend, Server, ServerOptions, SessionError,
    Zeroes,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn uri(socket: &Path, export: &str) -> Uri {
    format!("nbd+unix:///{export}?socket={}", socket.display()).parse().expect("a URI")
}

fn connect(uri: &Uri) -> Client {
    Client::connect(uri, &ConnectOptions::default()).expect("connect")
}

fn serving(exports: FixedExports, options: ServerOptions) -> (Server, tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let mut server = Server::new(Arc::new(exports), options);
    server.listen_unix(&socket).expect("listen");
    (server, dir, socket)
}

fn one(probe: Arc<Probe>) -> FixedExports {
    FixedExports::new().with("disk", probe)
}

#[test]
fn several_exports_over_unix_and_tcp() {
    let exports = FixedExports::new()
        .with("first", Arc::new(MemoryBackend::from_bytes(vec![1; 8192])))
        .with("second", Arc::new(MemoryBackend::from_bytes(vec![2; 4096])));
    assert_eq!(exports.list().len(), 2);
    let (mut server, _dir, socket) = serving(exports, ServerOptions::default());
    let address = server.listen_tcp("127.0.0.1:0".parse().expect("an address")).expect("listen");
    for (export, byte) in [("first", 1), ("second", 2), ("", 1)] {
        let tcp = format!("nbd://{address}/{export}").parse().expect("a URI");
        for uri in [uri(&socket, export), tcp] {
            let mut client = connect(&uri);
            assert_eq!(client.read(0, 4096, 0).expect("read"), [byte; 4096]);
            let size = if byte == 1 { 8192 } else { 4096 };
            assert_eq!(client.info().size, size);
        }
    }
    let refused = Client::connect(&uri(&socket, "third"), &ConnectOptions::default());
    assert!(matches!(refused, Err(Error::Refused { .. })));
}

#[test]
fn tcp_beyond_loopback_has_to_be_allowed() {
    let everywhere = "0.0.0.0:0".parse().expect("an address");
    let mut server = Server::new(Arc::new(FixedExports::new()), ServerOptions::default());
    let refused = server.listen_tcp(everywhere).expect_err("not allowed");
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    let options = ServerOptions { allow_plain_tcp: true, ..ServerOptions::default() };
    assert!(Server::new(Arc::new(FixedExports::new()), options).listen_tcp(everywhere).is_ok());
}

#[test]
fn a_socket_that_is_left_over_is_replaced_and_one_in_use_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    drop(UnixListener::bind(&socket).expect("bind"));
    assert!(socket.exists());
    let mut server = Server::new(Arc::new(FixedExports::new()), ServerOptions::default());
    server.listen_unix(&socket).expect("replaced");
    let mut second = Server::new(Arc::new(FixedExports::new()), ServerOptions::default());
    assert!(second.listen_unix(&socket).is_err());
    server.shutdown(LONG);
    assert!(!socket.exists(), "the socket is still there");
    // A file that is no socket is nobody's to remove.
    std::fs::write(&socket, b"mine").expect("write");
    assert!(second.listen_unix(&socket).is_err());
    assert_eq!(std::fs::read(&socket).expect("read"), b"mine");
}

#[test]
fn a_listener_from_elsewhere_is_adopted() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let mut server = Server::new(Arc::new(one(Arc::new(Probe::new(64 * KIB)))), ServerOptions::default());
    server.adopt_unix(UnixListener::bind(&socket).expect("bind")).expect("adopt");
    connect(&uri(&socket, "disk")).read(0, 10, 0).expect("read");
    server.shutdown(LONG);
    assert!(socket.exists(), "the socket is its owner's");
}

/// As with a service manager that keeps the socket while a server is started anew.
#[test]
fn who_connects_to_an_adopted_socket_while_nobody_serves_is_served_by_the_next_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).expect("bind");
    for round in 1..4u8 {
        let early = UnixStream::connect(&socket).expect("connect");
        let mut server = Server::new(
            Arc::new(FixedExports::new().with("", Arc::new(MemoryBackend::from_bytes(vec![round; 512])))),
            ServerOptions::default(),
        );
        server.adopt_unix(listener.try_clone().expect("clone")).expect("adopt");
        let mut magic = [0; 8];
        (&early).read_exact(&mut magic).expect("it is greeted");
        assert_eq!(connect(&uri(&socket, "")).read(0, 512, 0).expect("read"), [round; 512]);
        server.shutdown(LONG);
        assert!(socket.exists());
    }
    let address = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut server = Server::new(Arc::new(FixedExports::new()), ServerOptions::default());
    assert!(server.adopt_tcp(address).is_ok());
    let everywhere = std::net::TcpListener::bind("0.0.0.0:0").expect("bind");
    assert!(server.adopt_tcp(everywhere).is_err());
}

#[test]
fn connections_see_each_others_writes() {
    let (server, _dir, socket) = serving(one(Arc::new(Probe::new(64 * KIB))), ServerOptions::default());
    let (mut a, mut b) = (connect(&uri(&socket, "disk")), connect(&uri(&socket, "disk")));
    assert_ne!(a.info().flags & transmission::CAN_MULTI_CONN, 0);
    a.write(100, b"hello", 0).expect("write");
    assert_eq!(b.read(100, 5, 0).expect("read"), b"hello");
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_connection_above_the_limit_waits() {
    let options = ServerOptions { connections: 2, ..ServerOptions::default() };
    let (server, _dir, socket) = serving(one(Arc::new(Probe::new(64 * KIB))), options);
    let (first, mut second) = (connect(&uri(&socket, "disk")), connect(&uri(&socket, "disk")));
    let third = {
        let uri = uri(&socket, "disk");
        std::thread::spawn(move || connect(&uri).read(0, 5, 0).expect("read"))
    };
    second.read(0, 5, 0).expect("those that are in are served");
    assert_eq!(server.connections(), 2);
    drop(first);
    assert_eq!(third.join().expect("no panic"), [0; 5]);
}

#[test]
fn the_end_of_each_session_is_told() {
    let ends: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&ends);
    let on_end = Arc::new(move |end: &Result<End, SessionError>| told.lock().expect("lock").push(format!("{end:?}")));
    let options = ServerOptions { on_end: Some(on_end), ..ServerOptions::default() };
    let (mut server, _dir, socket) = serving(one(Arc::new(Probe::new(64 * KIB))), options);
    drop(connect(&uri(&socket, "disk")));
    let mut wrong = UnixStream::connect(&socket).expect("connect");
    wrong.read_exact(&mut [0; 18]).expect("a greeting");
    wrong.write_all(&[0xff; 4]).expect("write");
    while ends.lock().expect("lock").len() < 2 {
        std::thread::yield_now();
    }
    server.shutdown(LONG);
    let mut ends = ends.lock().expect("lock").clone();
    ends.sort();
    assert_eq!(ends[1], "Ok(Asked)");
    assert!(ends[0].starts_with("Err(Protocol("), "{ends:?}");
}

#[test]
fn a_shutdown_answers_what_is_under_way() {
    let probe = Arc::new(Probe::new(64 * KIB));
    let (mut server, _dir, socket) = serving(one(Arc::clone(&probe)), ServerOptions::default());
    let mut client = connect(&uri(&socket, "disk"));
    probe.gate.close(4096);
    client.submit(command::READ, 0, 4096, 512, &[]).expect("submit");
    // The request is with the backend, not on its way, once a later one was answered.
    client.submit(command::FLUSH, 0, 0, 0, &[]).expect("submit");
    client.receive().expect("receive");
    let stopping = std::thread::spawn(move || server.shutdown(LONG));
    // No new connection comes in while it waits for the old one.
    while UnixStream::connect(&socket).is_ok() {
        std::thread::yield_now();
    }
    assert!(!stopping.is_finished());
    probe.gate.open();
    assert_eq!(client.receive().expect("answered").done.expect("read").len(), 512);
    assert!(client.receive().is_err(), "closed afterwards");
    // Those of the loop that came in before it stopped are finished as well.
    let drained = stopping.join().expect("no panic");
    assert!(drained.finished >= 1 && drained.cut == 0, "{drained:?}");
}

#[test]
fn a_shutdown_waits_no_longer_than_it_should() {
    let (mut server, _dir, socket) = serving(one(Arc::new(Probe::new(4096 * KIB))), ServerOptions::default());
    // A client that takes no answers.
    let mut stuck = connect(&uri(&socket, "disk"));
    for _ in 0..10 {
        stuck.submit(command::READ, 0, 0, 4 << 20, &[]).expect("submit");
    }
    // Until the first of the answer has come, the server may not have begun.
    let mut other = connect(&uri(&socket, "disk"));
    other.flush().expect("flush");
    let drained = server.shutdown(Duration::from_millis(50));
    assert_eq!((drained.finished + drained.cut, server.connections()), (2, 0));
}

#[test]
fn a_shutdown_ends_clients_that_send_more_and_more() {
    let (mut server, _dir, _socket) = serving(one(Arc::new(Probe::new(64 * KIB))), ServerOptions::default());
    let address = server.listen_tcp("127.0.0.1:0".parse().expect("an address")).expect("listen");
    let mut stream = TcpStream::connect(address).expect("connect");
    let go = InfoRequest { name: String::new(), wanted: vec![] }.encode();
    let header = OptionHeader { option: option::GO, length: go.len() as u32 }.encode();
    stream.write_all(&[&3u32.to_be_bytes()[..], &header, &go].concat()).expect("write");
    // More requests than the server can ever have read.
    let flush = Request { flags: 0, command: command::FLUSH, cookie: 1, offset: 0, length: 0 };
    let many = flush.encode(Mode::Simple).expect("compact").repeat(1000);
    let mut writer = stream.try_clone().expect("clone");
    let writing = std::thread::spawn(move || while writer.write_all(&many).is_ok() {});
    let mut answers = vec![0; 1 << 20];
    stream.read_exact(&mut answers).expect("it is served");
    let reading = std::thread::spawn(move || while stream.read(&mut answers).is_ok_and(|n| n > 0) {});
    assert_eq!(server.shutdown(Duration::from_secs(20)), Drained { finished: 1, cut: 0 });
    writing.join().and_then(|()| reading.join()).expect("no panic");
}

#[test]
fn an_idle_server_stops_at_once() {
    let probe = Arc::new(Probe::new(64 * KIB));
    let (mut server, _dir, socket) = serving(one(Arc::clone(&probe)), ServerOptions::default());
    let _in_handshake = UnixStream::connect(&socket).expect("connect");
    let _idle = connect(&uri(&socket, "disk"));
    let drained = server.shutdown(LONG);
    assert_eq!(drained.cut, 0);
    // And again, and without listeners.
    assert_eq!(server.shutdown(LONG), Drained { finished: 0, cut: 0 });
    drop(server);
    assert_eq!(Arc::strong_count(&probe), 1, "the export is still in use");
}

#[test]
fn a_file_is_served_with_its_holes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    std::fs::File::create(&path).expect("create").set_len(1 << 20).expect("size");
    let file = FileBackend::open(&path, true).expect("open").described("an image");
    let (_server, _dir, socket) = serving(FixedExports::new().with("", Arc::new(file)), ServerOptions::default());
    let options = ConnectOptions { contexts: vec!["base:allocation".into()], ..ConnectOptions::default() };
    let mut client = Client::connect(&uri(&socket, ""), &options).expect("connect");
    assert_eq!(client.info().description.as_deref(), Some("an image"));
    let data = pattern(0, 128 * KIB);
    client.write(256 * KIB as u64, &data, 0).expect("write");
    client.flush().expect("flush");
    assert_eq!(std::fs::read(&path).expect("read")[256 * KIB..384 * KIB], data);
    assert_eq!(client.read(0, 1 << 20, 0).expect("read"), std::fs::read(&path).expect("read"));
    let states = client.block_status(0, 1 << 20, 0).expect("states");
    let lengths = |states: &[dirtymap_nbd::codec::Extent]| {
        states.iter().map(|e| (e.length as usize / KIB, e.flags)).collect::<Vec<_>>()
    };
    let found = lengths(&states[0].1);
    // A file system without holes says that all is data.
    assert!(found == [(256, 3), (128, 0), (640, 3)] || found == [(1024, 0)], "{found:?}");
    client.trim(256 * KIB as u64, 64 * KIB as u64, 0).expect("trim");
    client.write_zeroes(320 * KIB as u64, 32 * KIB as u64, 0).expect("zeroes");
    client.write_zeroes(352 * KIB as u64, 8 * KIB as u64, dirtymap_nbd::codec::values::flag::NO_HOLE).expect("zeroes");
    client.cache(0, 4096).expect("cache");
    assert_eq!(
        client.read(320 * KIB as u64, 64 * KIB as u32, 0).expect("read"),
        [&[0; 40 * KIB][..], &data[104 * KIB..]].concat()
    );
}

#[test]
fn holes_are_told_as_soon_as_they_are_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    std::fs::write(&path, pattern(0, 256 * KIB)).expect("write");
    let file = FileBackend::open(&path, true).expect("open");
    let (all, hole) = (0..256 * KIB as u64, 64 * KIB as u64..128 * KIB as u64);
    assert_eq!(file.holes(all.clone()), []);
    for how in [0, 1] {
        match how {
            0 => file.trim(hole.start, hole.end - hole.start, false).expect("trim"),
            _ => file.write_zeroes(hole.start, hole.end - hole.start, Zeroes::default()).expect("zeroes"),
        }
        // By one who has not looked before. A file system without holes has none.
        let fresh = FileBackend::open(&path, false).expect("open").holes(all.clone());
        assert!(fresh == [hole.clone()] || fresh.is_empty(), "{fresh:?}");
        assert_eq!(file.holes(all.clone()), fresh);
        file.write(hole.start, &pattern(0, 64 * KIB), false).expect("write");
        assert_eq!(file.holes(all.clone()), []);
    }
    // One that another program makes reads as zeros, whatever it is called.
    let other = std::fs::File::options().write(true).open(&path).expect("open");
    other.set_len(128 * KIB as u64).expect("cut");
    other.set_len(256 * KIB as u64).expect("grow");
    let mut read = vec![1; 128 * KIB];
    file.read(128 * KIB as u64, &mut read).expect("read");
    assert_eq!(read, vec![0; 128 * KIB]);
}

#[test]
fn a_file_opened_for_reading_is_read_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    std::fs::write(&path, pattern(0, 8192)).expect("write");
    let file = FileBackend::open(&path, false).expect("open");
    assert!(file.features().read_only);
    assert!(file.write(0, &[1], false).is_err() && file.write_zeroes(0, 4096, Zeroes::default()).is_err());
    let (_server, _dir, socket) = serving(FixedExports::new().with("", Arc::new(file)), ServerOptions::default());
    let mut client = connect(&uri(&socket, ""));
    assert!(client.write(0, &[1], 0).is_err());
    assert_eq!(client.read(0, 8192, 0).expect("read"), pattern(0, 8192));
    assert!(FileBackend::open(&dir.path().join("none"), false).is_err());
}
