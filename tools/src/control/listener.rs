//! The server's side of the control socket: connections, lines, HTTP.
//!
//! Invariant kept here: after [`Listener::stop`] no thread of it is left.

use super::{LONGEST_REQUEST, NO_REQUEST, Request, is_socket};
use crate::exit::{ErrorAnswer, Failure, Result};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Who knows the answers. Called by several threads at once.
pub trait Answers: Send + Sync {
    /// Answers a request: with an object that has no field `error`.
    fn answer(&self, request: Request) -> Result<Value>;

    /// The metrics as Prometheus reads them.
    fn metrics(&self) -> String;
}

/// Connections at once; further ones are closed.
const CONNECTIONS: usize = 16;
/// How long a client may take over one line, or to take one.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same once the server is to stop.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// A control socket that is listened on.
pub struct Listener {
    socket: Arc<UnixListener>,
    /// To be removed.
    path: PathBuf,
    accepting: JoinHandle<()>,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    stopping: bool,
    connections: Vec<Connection>,
}

struct Connection {
    stream: Arc<UnixStream>,
    /// What it has asked for is being done.
    busy: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// The failure of a socket that cannot be had.
pub fn cannot_listen(path: &Path, e: &io::Error) -> Failure {
    let failure = Failure::at(path, "listen", e);
    match e.kind() {
        io::ErrorKind::AddrInUse if is_socket(path) => {
            failure.and("another server listens there: end that one, or give another name")
        }
        io::ErrorKind::AddrInUse => failure.and("a file has that name, which is no socket: give another name"),
        _ => failure,
    }
}

impl Listener {
    /// Listens on a new socket. One that nobody listens on any more is replaced.
    pub fn new(path: &Path, answers: Arc<dyn Answers>) -> Result<Listener> {
        let failed = |e: io::Error| cannot_listen(path, &e);
        let socket = Arc::new(dirtymap_nbd::bind_unix(path).map_err(failed)?);
        let open = Arc::new(Mutex::new(Open::default()));
        let (listens, kept) = (Arc::clone(&socket), Arc::clone(&open));
        let accepting = thread::Builder::new().name("control".into());
        let accepting = accepting.spawn(move || accept(&listens, &kept, &answers)).map_err(failed)?;
        Ok(Listener { socket, path: path.to_path_buf(), accepting, open })
    }

    /// Answers what was asked, and no more.
    pub fn stop(self) {
        let mut open = lock(&self.open);
        open.stopping = true;
        let connections = std::mem::take(&mut open.connections);
        drop(open);
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
        let _ = self.accepting.join();
        let _ = std::fs::remove_file(&self.path);
        for connection in &connections {
            let _ = connection.stream.shutdown(Shutdown::Read);
        }
        // What was asked for is done, and who takes the answer gets it.
        let mut until = Instant::now() + LAST_PATIENCE;
        while connections.iter().any(|connection| !connection.thread.is_finished()) && Instant::now() < until {
            if connections.iter().any(|connection| connection.busy.load(SeqCst)) {
                until = Instant::now() + LAST_PATIENCE;
            }
            thread::sleep(Duration::from_millis(5));
        }
        for Connection { stream, thread, .. } in connections {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

fn lock(open: &Mutex<Open>) -> std::sync::MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(socket: &UnixListener, open: &Mutex<Open>, answers: &Arc<dyn Answers>) {
    loop {
        let accepted = socket.accept();
        let mut open = lock(open);
        if open.stopping {
            return;
        }
        open.connections.retain(|connection| !connection.thread.is_finished());
        match accepted {
            Ok((stream, _)) if open.connections.len() < CONNECTIONS => {
                let stream = Arc::new(stream);
                let (serves, answers, busy) =
                    (Arc::clone(&stream), Arc::clone(answers), Arc::new(AtomicBool::new(false)));
                let works = Arc::clone(&busy);
                let thread = thread::Builder::new().name("control".into());
                let thread = thread.spawn(move || {
                    // A client that goes, or says nothing for long, ends its connection.
                    let _ = serve(&serves, &*answers, &works);
                    let _ = serves.shutdown(Shutdown::Both);
                });
                open.connections.extend(thread.map(|thread| Connection { stream, busy, thread }));
            }
            Ok(_) => {}
            Err(_) => {
                // Too many files are open, which passes.
                drop(open);
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Answers the lines of one client.
fn serve(stream: &UnixStream, answers: &dyn Answers, busy: &AtomicBool) -> io::Result<()> {
    let in_time = || InTime { stream, until: Instant::now() + PATIENCE };
    let (mut reader, mut writer) = (BufReader::new(in_time()), in_time());
    loop {
        reader.get_mut().until = Instant::now() + PATIENCE;
        let Some(line) = line(&mut reader)? else { return Ok(()) };
        busy.store(true, SeqCst);
        if let Some(request) = line.strip_prefix("GET ") {
            let answer = http(request, &mut reader, answers);
            busy.store(false, SeqCst);
            writer.until = Instant::now() + PATIENCE;
            return writer.write_all(answer?.as_bytes());
        }
        let answer =
            serde_json::from_str(&line).map_err(|e| no_request(&e)).and_then(|request| answers.answer(request));
        let mut text = match answer {
            Ok(value) => value.to_string(),
            Err(failure) => serde_json::to_string(&ErrorAnswer::from(failure))?,
        };
        text.push('\n');
        busy.store(false, SeqCst);
        writer.until = Instant::now() + PATIENCE;
        writer.write_all(text.as_bytes())?;
    }
}

/// What is said of a line that is none. If it is JSON, who asks may be of another version.
fn no_request(e: &serde_json::Error) -> Failure {
    let version = env!("CARGO_PKG_VERSION");
    let server = if e.is_data() { format!("; this server is dirtymap {version}") } else { String::new() };
    Failure::usage(format!("{NO_REQUEST}{e}{server}"))
}

/// A stream whose reads and writes fail when a time is over, however many there are.
struct InTime<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl InTime<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for InTime<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(into)
    }
}

impl Write for InTime<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line without its end; none at the end, and where there is only part of one.
fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    reader.take(LONGEST_REQUEST).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Ok(None);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    // What is no text is no request either.
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

/// The answer to an HTTP request that begins `GET `, whose header lines are read and mean nothing.
fn http(request: &str, reader: &mut impl BufRead, answers: &dyn Answers) -> io::Result<String> {
    // A bare `GET /metrics` has no header.
    if request.contains(" HTTP/") {
        let mut left = 100;
        while line(reader)?.is_some_and(|line| !line.is_empty()) {
            left -= 1;
            if left == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
    let (status, body) = match request.split(' ').next() {
        Some("/metrics") => ("200 OK", answers.metrics()),
        _ => ("404 Not Found", "only /metrics is here\n".into()),
    };
    let length = body.len();
    Ok(format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ))
}
