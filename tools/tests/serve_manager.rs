//! `serve` under a service manager: its sockets, its word when clients may come, its number, its log.

mod common;

use common::serving::{Server, dirty};
use common::{Dir, MIB, Ran, dirtymap, skipped};
use rustix::process::Signal;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

const SIZE: u64 = 8 * MIB;

fn receive(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes).expect("a message");
    String::from_utf8(bytes[..length].to_vec()).expect("text")
}

#[test]
fn the_manager_hears_that_it_serves_when_it_does_and_that_it_stops() {
    let dir = Dir::new();
    dir.image("disk.raw", SIZE);
    let path = dir.path("notify");
    let name = format!("dirtymap-{}", std::process::id());
    let by_path = UnixDatagram::bind(&path).expect("bind");
    let by_name = SocketAddr::from_abstract_name(&name).and_then(|a| UnixDatagram::bind_addr(&a)).expect("bind");
    for (socket, told) in [(by_path, path.display().to_string()), (by_name, format!("@{name}"))] {
        let (nbd, pid_file) = (dir.path("socket"), dir.path("pid"));
        let mut command = dirtymap();
        command.arg("serve").arg(dir.path("disk.raw")).arg("--map").arg(dir.path("disk.map"));
        command.args(["--create", "--socket"]).arg(&nbd).arg("--pid-file").arg(&pid_file);
        // One that is left over.
        fs::write(&pid_file, "1\n").expect("write");
        let child = command.env("NOTIFY_SOCKET", told).stderr(Stdio::piped()).stdout(Stdio::piped());
        let child = child.spawn().expect("run dirtymap");
        let ready = receive(&socket);
        assert!(ready.starts_with("READY=1\nSTATUS=serving nbd+unix:///?socket="), "{ready}");
        UnixStream::connect(&nbd).expect("it serves");
        assert_eq!(fs::read_to_string(&pid_file).expect("read"), format!("{}\n", child.id()));
        let server = Server { child, socket: nbd };
        server.signal(Signal::TERM);
        assert_eq!(receive(&socket), "STOPPING=1");
        let ran = server.finish().exits(0).says("serving nbd+unix").says("stopping");
        assert_eq!(
            ran.err.lines().filter(|line| line.starts_with("dirtymap: note: ")).count(),
            ran.err.lines().count()
        );
        assert!(!pid_file.exists());
    }
}

/// A server that gets a listening socket as a service manager passes it on.
fn activated(dir: &Dir, listener: OwnedFd, more: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let line = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\" 3<&0 </dev/null";
    command.args(["-c", line, "sh", env!("CARGO_BIN_EXE_dirtymap"), "serve"]);
    command.arg(dir.path("disk.raw")).arg("--map").arg(dir.path("disk.map")).args(more);
    command.stdin(listener);
    command
}

#[test]
fn a_socket_of_the_manager_s_outlives_its_servers() {
    let dir = Dir::new();
    dir.image("disk.raw", SIZE);
    let socket = dir.path("socket");
    let listener = UnixListener::bind(&socket).expect("bind");
    let start =
        || Server::run(activated(&dir, listener.try_clone().expect("clone").into(), &["--create"]), socket.clone());
    let server = start();
    server.client().write(MIB, b"x", 0).expect("write");
    server.kill();
    // Who comes now waits for the next one.
    let waits = std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let uri = format!("nbd+unix:///?socket={}", socket.display()).parse().expect("a URI");
            let mut client = dirtymap_nbd::client::Client::connect(&uri, &Default::default()).expect("connect");
            client.read(MIB, 1, 0).expect("read")
        });
        let server = start();
        let read = waits.join().expect("no panic");
        assert!(!dirty(&mut server.client()).is_empty());
        server.end().exits(0);
        read
    });
    assert_eq!(waits, b"x");
    // It is the manager's: it stays, and works.
    assert!(socket.exists());
    start().kill();
}

#[test]
fn what_is_passed_on_and_is_no_socket_is_refused_and_so_is_tcp_for_everybody() {
    let dir = Dir::new();
    dir.image("disk.raw", SIZE);
    let file = fs::File::open(dir.path("disk.raw")).expect("open");
    let ran: Ran = activated(&dir, file.into(), &["--create"]).output().expect("run").into();
    ran.exits(8).says("LISTEN_FDS");
    let tcp = std::net::TcpListener::bind("0.0.0.0:0").expect("bind");
    let ran: Ran = activated(&dir, tcp.into(), &["--create"]).output().expect("run").into();
    ran.exits(8).says("--allow-plain-tcp");
    // Sockets of another process are not ours.
    let mut command = dirtymap();
    command.arg("serve").arg(dir.path("disk.raw")).arg("--map").arg(dir.path("disk.map"));
    let ran: Ran = command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1").output().expect("run").into();
    ran.exits(16);
}

#[test]
fn the_log_tells_of_a_client_that_was_cut_off() {
    let dir = Dir::new();
    dir.image("disk.raw", SIZE);
    let server = Server::start(&dir, &["--create"]);
    use std::io::{Read, Write};
    let mut garbage = UnixStream::connect(&server.socket).expect("connect");
    garbage.write_all(&[0xff; 64]).expect("write");
    let mut rest = Vec::new();
    let _ = garbage.read_to_end(&mut rest);
    server.stop().exits(0).says("a client was cut off: the client broke the protocol");
}

#[test]
fn the_units_are_ones_that_systemd_understands() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/systemd");
    let dir = Dir::new();
    let names =
        ["dirtymap-serve@.service", "dirtymap-serve@.socket", "dirtymap-backup@.service", "dirtymap-backup@.timer"];
    for name in names {
        // The command need not be installed here.
        let text = fs::read_to_string(units.join(name)).expect("read");
        // Live snapshots are taken over where the mounts are the same.
        let mounts = ["Private", "Protect", "ReadOnlyPaths", "RootDirectory", "DynamicUser", "TemporaryFileSystem"];
        let apart = |line: &str| mounts.iter().any(|setting| line.starts_with(setting));
        assert!(!text.lines().any(apart), "{name} gives each start mounts of its own");
        let text = text.replace("/usr/local/bin/dirtymap", env!("CARGO_BIN_EXE_dirtymap"));
        fs::write(dir.path(name), text).expect("write");
    }
    let mut verify = Command::new("systemd-analyze");
    let verified = ["dirtymap-serve@.socket", "dirtymap-backup@.timer"].map(|name| dir.path(name));
    let found = verify.args(["verify", "--man=no"]).args(verified);
    let Ok(output) = found.output() else { return skipped("systemd-analyze is not installed") };
    let ran: Ran = output.into();
    assert!(ran.code == 0 && !ran.err.contains("dirtymap"), "{ran:?}");
}
