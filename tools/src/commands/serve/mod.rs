//! `dirtymap serve`: images for NBD clients, their writes tracked.
//!
//! Invariant kept here: however it ends in order, requests under way are answered, the images are synced, and then the maps
//! are closed with the images as they are.

mod counters;
mod disk;
mod export;
mod metrics;
mod served;
mod tracked;

use crate::cli::{DiskArg, Serve};
use crate::control::Listener;
use crate::exit::{Exit, Failure, Result};
use crate::files;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::signals;
use crate::terminal::text::say;
use dirtymap_nbd::{Limits, Server, ServerOptions};
use disk::{Disk, DiskAnswer};
use serde::Serialize;
use served::Served;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

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
    if args.socket.is_none() && args.listen.is_none() && args.run.is_none() {
        return Err(Failure::usage("give --socket, --listen or --run: where to serve"));
    }
    let first = args.image.iter().zip(&args.map);
    let first = first.map(|(image, map)| DiskArg { name: args.name.clone(), image: image.clone(), map: map.clone() });
    let disks: Vec<DiskArg> = first.chain(args.disk.iter().cloned()).collect();
    for (i, disk) in disks.iter().enumerate() {
        if disks[..i].iter().any(|other| other.name == disk.name) {
            return Err(Failure::usage(format!("the name {:?} is given twice", disk.name)));
        }
    }
    let roles = disks.iter().flat_map(|disk| [("image", &*disk.image), ("map", &*disk.map)]);
    files::distinct(&roles.collect::<Vec<_>>())?;
    let disks = disks.iter().map(|disk| Disk::open(disk, args, wait, output)).collect::<Result<_>>()?;
    let served = Arc::new(Served::new(disks, args.read_only));
    let drained = serve(args, &served, output);
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

/// Serves until a signal comes or the command of `--run` has ended.
fn serve(args: &Serve, served: &Arc<Served>, output: Output) -> Result<dirtymap_nbd::Drained> {
    let limits = Limits { threads: args.threads.into(), ..Limits::default() };
    let options = ServerOptions { limits, allow_plain_tcp: args.allow_plain_tcp, ..ServerOptions::default() };
    let mut server = Server::new(Arc::clone(served) as _, options);
    let control = args.control.as_ref().map(|path| Listener::new(path, Arc::clone(served) as _)).transpose()?;
    let ended = listen_and_wait(args, served, &mut server, output);
    // Before the exports go, which its answers are about.
    control.into_iter().for_each(Listener::stop);
    let drained = server.shutdown(DRAIN);
    ended.map(|()| drained)
}

fn listen_and_wait(args: &Serve, served: &Served, server: &mut Server, output: Output) -> Result<()> {
    // A socket that nobody else knows of, for the command alone.
    let private = tempfile::tempdir().map_err(|e| Failure::io("a directory for the socket", &e))?;
    let name = served.default_name();
    let mut uris = Vec::new();
    let socket = args.socket.clone().or_else(|| args.listen.is_none().then(|| private.path().join("socket")));
    if let Some(socket) = socket {
        server.listen_unix(&socket).map_err(|e| Failure::io(format_args!("{}: listen", socket.display()), &e))?;
        uris.push(unix_uri(name, &socket));
    }
    if let Some(address) = args.listen {
        let bound = server.listen_tcp(address);
        let bound = bound.map_err(|e| {
            let advice = "a unix socket and ssh keep others out; --allow-plain-tcp lets them in";
            let failure = Failure::io(format_args!("{address}: listen"), &e);
            if e.kind() == std::io::ErrorKind::PermissionDenied { failure.and(advice) } else { failure }
        })?;
        uris.push(format!("nbd://{bound}/{}", encoded(name)));
    }
    if let Some(command) = &args.run {
        return run_command(command, &uris[0], output);
    }
    output.note(format_args!("serving {}", uris.join(" and ")));
    while !signals::requested() {
        std::thread::sleep(LOOK);
    }
    Ok(())
}
/// Runs a command with the URI in its environment, until it ends or a signal comes.
fn run_command(command: &str, uri: &str, output: Output) -> Result<()> {
    let failed = |e: std::io::Error| Failure::io("sh", &e);
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

fn unix_uri(name: &str, socket: &Path) -> String {
    let socket: PathBuf = std::path::absolute(socket).unwrap_or_else(|_| socket.to_path_buf());
    format!("nbd+unix:///{}?socket={}", encoded(name), encoded(&socket.display().to_string()))
}

/// As it stands in a URI.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
