//! `dirtymap serve`: an image for NBD clients, their writes tracked.
//!
//! Invariant kept here: however it ends in order, requests under way are answered, the image is synced, and then the map is
//! closed with the image as it is.

mod tracked;

use crate::cli::Serve;
use crate::exit::{Exit, Failure, Result};
use crate::files::{self, Image};
use crate::map::open::{self, With};
use crate::map::relation;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::signals;
use crate::terminal::text::say;
use dirtymap::{DirtyMap, Options, info::Info};
use dirtymap_nbd::{FileBackend, FixedExports, Limits, Server, ServerOptions};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;
use tracked::Tracked;

#[derive(Serialize)]
struct Answer {
    image: String,
    map: String,
    export: String,
    read_only: bool,
    connections_finished: usize,
    connections_cut: usize,
    dirty_bits: u64,
    dirty_bytes: u64,
}

/// How often it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);
/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(10);

pub fn run(args: &Serve, wait: Duration, output: Output) -> Result<Exit> {
    if args.socket.is_none() && args.listen.is_none() && args.run.is_none() {
        return Err(Failure::usage("give --socket, --listen or --run: where to serve"));
    }
    let image = Image::open(&args.image, !args.read_only)?;
    files::distinct(&[("image", &args.image), ("map", &args.map)])?;
    if args.create && !args.map.exists() {
        create(&image, args)?;
    }
    let map = open_map(args, &image, wait, output)?;
    let backend =
        || -> std::io::Result<FileBackend> { FileBackend::from_file(image.file.try_clone()?, !args.read_only) };
    let backend = backend().map_err(|e| Failure::io(args.image.display(), &e))?;
    let tracked = Arc::new(Tracked { image: backend, map });
    let served = serve(args, Arc::clone(&tracked), output);
    // No thread of the server is left that could have it.
    let Some(Tracked { map, .. }) = Arc::into_inner(tracked) else {
        return Err(Failure::new("internal", "the export is still in use"));
    };
    let (dirty_bits, dirty_bytes) = (map.count(), map.dirty_len());
    open::cost(&map, output);
    // Also after a failure.
    let closed = if args.read_only { Ok(map.close()?) } else { open::close_with(map, &image) };
    let drained = served?;
    closed?;
    let answer = Answer {
        image: args.image.display().to_string(),
        map: args.map.display().to_string(),
        export: args.name.clone(),
        read_only: args.read_only,
        connections_finished: drained.finished,
        connections_cut: drained.cut,
        dirty_bits,
        dirty_bytes,
    };
    output.answer(&answer, |out, a| say!(out, "stopped; now {} are dirty", size::human(a.dirty_bytes)))?;
    Ok(Exit::Fine)
}

/// Makes the map as `create --image` does: all dirty, bound to the image.
fn create(image: &Image, args: &Serve) -> Result<()> {
    if !args.raw {
        image.is_raw()?;
    }
    image.sync()?;
    let options = Options::new().dirty(true).flush_interval(None).image(image.stamp_now()?).like(&image.file);
    Ok(options.create_closed(&args.map, image.size())?)
}

fn open_map(args: &Serve, image: &Image, wait: Duration, output: Output) -> Result<DirtyMap> {
    let acceptable = |info: &Info| {
        relation::fits(info, &args.map, image)?;
        relation::belongs(info, &args.map, image, &relation::another(&args.map, image))?;
        // Who made the map for the image was asked.
        if info.image.is_none() && !args.raw {
            image.is_raw()?;
        }
        Ok(())
    };
    if args.read_only {
        acceptable(&dirtymap::info::inspect(&args.map)?)?;
        return Ok(open::for_reading(&args.map, wait, output)?.0);
    }
    let (map, _) = open::for_writing_of(&args.map, With::Anybody, image, wait, output, acceptable)?;
    map.bind_image(&image.stamp)?;
    Ok(map)
}

/// Serves until a signal comes or the command of `--run` has ended.
fn serve(args: &Serve, tracked: Arc<Tracked>, output: Output) -> Result<dirtymap_nbd::Drained> {
    let exports = FixedExports::new().with(args.name.as_str(), tracked);
    let limits = Limits { threads: args.threads.into(), ..Limits::default() };
    let options = ServerOptions { limits, allow_plain_tcp: args.allow_plain_tcp, ..ServerOptions::default() };
    let mut server = Server::new(Arc::new(exports), options);
    // A socket that nobody else knows of, for the command alone.
    let private = tempfile::tempdir().map_err(|e| Failure::io("a directory for the socket", &e))?;
    let mut uris = Vec::new();
    let socket = args.socket.clone().or_else(|| args.listen.is_none().then(|| private.path().join("socket")));
    if let Some(socket) = socket {
        server.listen_unix(&socket).map_err(|e| Failure::io(format_args!("{}: listen", socket.display()), &e))?;
        uris.push(unix_uri(&args.name, &socket));
    }
    if let Some(address) = args.listen {
        let bound = server.listen_tcp(address);
        let bound = bound.map_err(|e| {
            let advice = "a unix socket and ssh keep others out; --allow-plain-tcp lets them in";
            let failure = Failure::io(format_args!("{address}: listen"), &e);
            if e.kind() == std::io::ErrorKind::PermissionDenied { failure.and(advice) } else { failure }
        })?;
        uris.push(format!("nbd://{bound}/{}", encoded(&args.name)));
    }
    let ended = match &args.run {
        Some(command) => run_command(command, &uris[0], output),
        None => {
            output.note(format_args!("serving {}", uris.join(" and ")));
            while !signals::requested() {
                std::thread::sleep(LOOK);
            }
            Ok(())
        }
    };
    let drained = server.shutdown(DRAIN);
    ended.map(|()| drained)
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
