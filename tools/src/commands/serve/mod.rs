//! `dirtymap serve`: images for NBD clients, their writes tracked.
//!
//! Invariant kept here: however it ends in order, requests under way are answered, the images are synced, and then the maps
//! are closed with the images as they are.

mod counters;
mod disk;
mod export;
mod frozen_export;
mod manager;
mod metrics;
mod served;
mod since;
mod tracked;

use crate::cli::{DiskArg, Serve};
use crate::control::{Listener, cannot_listen};
use crate::exit::{Exit, Failure, Result};
use crate::files;
use crate::size;
use crate::snapshot::Snapshots;
use crate::terminal::output::Output;
use crate::terminal::signals;
use crate::terminal::text::say;
use dirtymap_nbd::client::{Address, Uri};
use dirtymap_nbd::{Limits, OnEnd, Server, ServerOptions};
use disk::{Disk, DiskAnswer};
use manager::{PidFile, Socket};
use serde::Serialize;
use served::Served;
use std::io;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

#[derive(Serialize)]
struct Answer {
    read_only: bool,
    connections_finished: usize,
    connections_cut: usize,
    disks: Vec<DiskAnswer>,
}

/// How often it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);
/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(10);

pub fn run(args: &Serve, wait: Duration, output: Output) -> Result<Exit> {
    let passed = manager::sockets()?;
    if args.socket.is_none() && args.listen.is_none() && args.run.is_none() && passed.is_empty() {
        return Err(Failure::usage("give --socket, --listen or --run: where to serve"));
    }
    let first = args.image.iter().zip(&args.map);
    let first = first.map(|(image, map)| DiskArg { name: args.name.clone(), image: image.clone(), map: map.clone() });
    let disks: Vec<DiskArg> = first.chain(args.disk.iter().cloned()).collect();
    for (i, disk) in disks.iter().enumerate() {
        if disk.name.contains('@') {
            return Err(Failure::usage(format!(
                "the name {:?} has an '@', behind which snapshots have theirs",
                disk.name
            )));
        }
        if disks[..i].iter().any(|other| other.name == disk.name) {
            return Err(Failure::usage(format!("the name {:?} is given twice", disk.name)));
        }
    }
    if let Some(dir) = args.scratch.as_deref().filter(|dir| !dir.is_dir()) {
        let message = format!("--scratch {}: there is no such folder; make it, or give another one", dir.display());
        return Err(Failure::new("not-found", message));
    }
    let roles = disks.iter().flat_map(|disk| [("image", &*disk.image), ("map", &*disk.map)]);
    files::distinct(&roles.collect::<Vec<_>>())?;
    let snapshots = Arc::new(snapshots(args, &disks).telling(output));
    let (mut opened, mut failed) = (Vec::new(), None);
    for (place, disk) in disks.iter().enumerate() {
        match Disk::open(disk, place, &snapshots, args, wait, output) {
            Ok(disk) => opened.push(disk),
            Err(failure) => {
                failed = Some(failure);
                break;
            }
        }
    }
    let served = Arc::new(Served::new(opened, args.read_only, snapshots));
    let drained = failed.map_or_else(|| begin(args, &served, passed, output), Err);
    // No thread of the server is left that could have it.
    let served = Arc::into_inner(served).ok_or_else(|| Failure::new("internal", "an export is still in use"))?;
    // Also after a failure.
    let closed = served.close(output);
    let (drained, disks) = (drained?, closed?);
    let answer = Answer {
        read_only: args.read_only,
        connections_finished: drained.finished,
        connections_cut: drained.cut,
        disks,
    };
    output.answer(&answer, |out, a| {
        let dirty = a.disks.iter().map(|disk| disk.dirty_bytes).sum();
        say!(out, "stopped; now {} are dirty", size::human(dirty))
    })?;
    Ok(Exit::Fine)
}

/// Takes over, and serves.
fn begin(args: &Serve, served: &Arc<Served>, passed: Vec<Socket>, output: Output) -> Result<dirtymap_nbd::Drained> {
    for said in served.take_over()? {
        output.note(said);
    }
    serve(args, served, passed, output)
}

/// Snapshots have their files beside the first map, unless it is said where.
fn snapshots(args: &Serve, disks: &[DiskArg]) -> Snapshots {
    let beside = disks.first().map_or(Path::new("."), |disk| files::directory_of(&disk.map));
    let dir = args.scratch.as_deref().unwrap_or(beside);
    if args.read_only { Snapshots::default() } else { Snapshots::new(dir.to_path_buf(), args.scratch_limit) }
}

/// Serves until a signal comes or the command of `--run` has ended.
fn serve(args: &Serve, served: &Arc<Served>, passed: Vec<Socket>, output: Output) -> Result<dirtymap_nbd::Drained> {
    let limits = Limits { threads: args.threads.into(), ..Limits::default() };
    let on_end: OnEnd = Arc::new(move |end| match end {
        Ok(_) => output.detail(|| "a client has gone"),
        Err(e) => output.note(format_args!("a client was cut off: {e}")),
    });
    let options = ServerOptions {
        limits,
        allow_plain_tcp: args.allow_plain_tcp,
        on_end: Some(on_end),
        ..ServerOptions::default()
    };
    let mut server = Server::new(Arc::clone(served) as _, options);
    let control = args.control.as_ref().map(|path| Listener::new(path, Arc::clone(served) as _)).transpose()?;
    let listening = listen(args, served.default_name(), &mut server, passed);
    let ended = listening.and_then(|listening| wait(args, &listening, output));
    // There is nobody to tell, or it does not matter any more.
    let _ = manager::tell("STOPPING=1");
    // Before the exports go, which its answers are about.
    control.into_iter().for_each(Listener::stop);
    let drained = server.shutdown(DRAIN);
    ended.map(|()| drained)
}

/// Where it listens.
struct Listening {
    uris: Vec<String>,
    /// Of a socket that nobody else knows of, for the command of `--run` alone.
    _private: Option<TempDir>,
}

fn listen(args: &Serve, name: &str, server: &mut Server, passed: Vec<Socket>) -> Result<Listening> {
    let mut uris = Vec::new();
    let unix_failed = |path: &Path, e: io::Error| cannot_listen(path, &e);
    let tcp_failed = |e: io::Error| {
        let advice = "a unix socket and ssh keep others out; --allow-plain-tcp lets them in";
        match e.kind() {
            io::ErrorKind::PermissionDenied => Failure::new("permission", format!("listen on TCP: {e}; {advice}")),
            _ => Failure::io("listen on TCP", &e),
        }
    };
    let tcp_uri = |at: std::net::SocketAddr| {
        Uri { address: Address::Tcp(at.ip().to_string(), at.port()), export: name.into() }.to_string()
    };
    for socket in passed {
        match socket {
            Socket::Unix(socket) => {
                let address = socket.local_addr().ok();
                let path = address.as_ref().and_then(SocketAddr::as_pathname).unwrap_or(Path::new("?"));
                server.adopt_unix(socket).map_err(|e| unix_failed(path, e))?;
                uris.push(unix_uri(name, path));
            }
            Socket::Tcp(socket) => uris.push(tcp_uri(server.adopt_tcp(socket).map_err(tcp_failed)?)),
        }
    }
    if let Some(socket) = &args.socket {
        server.listen_unix(socket).map_err(|e| unix_failed(socket, e))?;
        uris.push(unix_uri(name, socket));
    }
    if let Some(address) = args.listen {
        uris.push(tcp_uri(server.listen_tcp(address).map_err(tcp_failed)?));
    }
    let mut private = None;
    if uris.is_empty() {
        let made = tempfile::tempdir().map_err(|e| Failure::io("a directory for the socket", &e))?;
        let socket = private.insert(made).path().join("socket");
        server.listen_unix(&socket).map_err(|e| unix_failed(&socket, e))?;
        uris.push(unix_uri(name, &socket));
    }
    Ok(Listening { uris, _private: private })
}

/// Waits until it is to stop, and tells everybody that it serves before that.
fn wait(args: &Serve, listening: &Listening, output: Output) -> Result<()> {
    let _pid_file = args.pid_file.as_deref().map(PidFile::write).transpose()?;
    manager::tell(&format!("READY=1\nSTATUS=serving {}", listening.uris.join(" and ")))?;
    if let Some(command) = &args.run {
        return run_command(command, &listening.uris[0], output);
    }
    output.note(format_args!("serving {}", listening.uris.join(" and ")));
    while !signals::requested() {
        std::thread::sleep(LOOK);
    }
    output.note("stopping: requests under way are answered");
    Ok(())
}

/// Runs a command with the URI in its environment, until it ends or a signal comes.
fn run_command(command: &str, uri: &str, output: Output) -> Result<()> {
    let failed = |e: io::Error| Failure::io("sh", &e);
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env("uri", uri);
    if output.is_json() {
        // Standard output is for the one JSON value.
        shell.stdout(std::io::stderr());
    }
    let mut child: Child = shell.spawn().map_err(failed)?;
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                return Err(Failure::new("command-failed", format!("the command of --run failed: {status}")));
            }
            None if signals::requested() => return Ok(()),
            None => std::thread::sleep(LOOK),
        }
    }
}

/// The URI of an export behind a socket.
pub fn unix_uri(name: &str, socket: &Path) -> String {
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_path_buf());
    Uri { address: Address::Unix(socket), export: name.into() }.to_string()
}
