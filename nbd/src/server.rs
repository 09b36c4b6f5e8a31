//! Listeners, and the connections that they let in.
//!
//! Invariant kept here: no more connections than the limit have threads; a connection that fails takes nothing else along;
//! after a shutdown no thread and no socket file is left.

use crate::backend::Exports;
use crate::session::{End, Limits, SessionError, serve};
use crate::stream::Stream;
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Told how each session ended.
pub type OnEnd = Arc<dyn Fn(&Result<End, SessionError>) + Send + Sync>;

/// How a server behaves.
#[derive(Clone)]
pub struct ServerOptions {
    /// What each connection may take.
    pub limits: Limits,
    /// Connections at once; further ones wait in the kernel's queue. All together have no more memory than this many times
    /// what [`Limits::memory`] says.
    pub connections: usize,
    /// Listen on addresses that are not loopback: whoever reaches them reads and writes the exports, and the network sees
    /// all data.
    pub allow_plain_tcp: bool,
    /// Called by a connection's thread at its end.
    pub on_end: Option<OnEnd>,
}

impl Default for ServerOptions {
    /// 64 connections, loopback only.
    fn default() -> Self {
        Self { limits: Limits::default(), connections: 64, allow_plain_tcp: false, on_end: None }
    }
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections whose requests under way were answered.
    pub finished: usize,
    /// Connections that were cut when the time was over.
    pub cut: usize,
}

/// A server: exports, listeners, connections. Dropping it cuts the connections.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Listening>,
}

struct Shared {
    exports: Arc<dyn Exports>,
    options: ServerOptions,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    next: u64,
    open: HashMap<u64, Arc<Connection>>,
    /// Of all that are open, and some that have ended.
    threads: Vec<JoinHandle<()>>,
}

struct Listening {
    /// Closing it ends the thread. The socket itself is left as it is: others may have it, too.
    wake: UnixStream,
    thread: JoinHandle<()>,
    path: Option<PathBuf>,
}

/// A stream of which the server can stop what comes in, even if the client sends more and more.
struct Connection {
    stream: Box<dyn Stream>,
    stopped: AtomicBool,
}

impl Stream for Connection {
    fn receive(&self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let got = if self.stopped.load(Relaxed) { 0 } else { self.stream.receive(into)? };
        Ok(if self.stopped.load(Relaxed) { 0 } else { got })
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.send(parts)
    }

    fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.stream.set_patience(patience)
    }

    fn stop_receiving(&self) {
        self.stopped.store(true, Relaxed);
        self.stream.stop_receiving();
    }

    fn close(&self) {
        self.stream.close();
    }
}

impl Server {
    /// A server that listens nowhere yet.
    pub fn new(exports: Arc<dyn Exports>, options: ServerOptions) -> Self {
        let shared = Shared { exports, options, state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared), listeners: Vec::new() }
    }

    /// Listens on a new socket at `path`, with the permissions that the umask leaves. A socket there that no server listens
    /// on any more is replaced; it is removed at the end.
    pub fn listen_unix(&mut self, path: &Path) -> io::Result<()> {
        self.listen(bind_unix(path)?.into(), Some(path.to_owned()), accept_unix)
    }

    /// Listens on a unix socket that is there already, as from a service manager. It is left as it is at the end: clients
    /// that connect then wait for whoever listens next.
    pub fn adopt_unix(&mut self, listener: UnixListener) -> io::Result<()> {
        self.listen(listener.into(), None, accept_unix)
    }

    /// The same of a TCP socket. Returns its address.
    pub fn adopt_tcp(&mut self, listener: TcpListener) -> io::Result<SocketAddr> {
        let address = listener.local_addr()?;
        self.may_listen(address)?;
        self.listen(listener.into(), None, accept_tcp)?;
        Ok(address)
    }

    /// Listens on an address; of port 0, on any free port. Returns the address. Others than loopback have to be
    /// [allowed](ServerOptions::allow_plain_tcp).
    pub fn listen_tcp(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        self.may_listen(address)?;
        self.adopt_tcp(TcpListener::bind(address)?)
    }

    fn may_listen(&self, address: SocketAddr) -> io::Result<()> {
        if address.ip().is_loopback() || self.shared.options.allow_plain_tcp {
            return Ok(());
        }
        let why = "TCP without encryption is allowed on loopback addresses only";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }

    fn listen(&mut self, socket: OwnedFd, path: Option<PathBuf>, accept: Accept) -> io::Result<()> {
        // Who is there according to `poll` may have gone again.
        rustix::io::ioctl_fionbio(&socket, true)?;
        let (wake, woken) = UnixStream::pair()?;
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("nbd-listen".into());
        let thread = thread.spawn(move || shared.accept(&socket, &woken, accept))?;
        self.listeners.push(Listening { wake, thread, path });
        Ok(())
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.state().open.len()
    }

    /// Stops: no new connections, no new requests. Requests under way are answered, for as long as `patience`; then the
    /// connections are cut. Returns when all are gone; only a backend that does not return delays that.
    pub fn shutdown(&mut self, patience: Duration) -> Drained {
        let mut state = self.shared.state();
        state.stopping = true;
        let open = state.open.len();
        state.open.values().for_each(|connection| connection.stop_receiving());
        drop(state);
        self.shared.changed.notify_all();
        for listening in self.listeners.drain(..) {
            drop(listening.wake);
            let _ = listening.thread.join();
            if let Some(path) = listening.path {
                let _ = std::fs::remove_file(path);
            }
        }
        let deadline = Instant::now() + patience;
        let mut state = self.shared.state();
        while !state.open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let cut = state.open.len();
        state.open.values().for_each(|connection| connection.close());
        while !state.open.is_empty() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        // Afterwards nothing of the exports is in use any more.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        Drained { finished: open - cut.min(open), cut }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

/// Makes a socket at `path`, with the permissions that the umask leaves. One that no server listens on any more is replaced.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    UnixListener::bind(path).or_else(|e| {
        if e.kind() == io::ErrorKind::AddrInUse && is_left_over(path) {
            std::fs::remove_file(path)?;
            return UnixListener::bind(path);
        }
        Err(e)
    })
}

/// A socket that no server listens on. A connection to a file that is no socket is refused as well.
fn is_left_over(path: &Path) -> bool {
    let socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    socket && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// Accepts one connection.
type Accept = fn(&OwnedFd) -> io::Result<Box<dyn Stream>>;

fn accept_unix(listener: &OwnedFd) -> io::Result<Box<dyn Stream>> {
    let accepted = rustix::net::accept_with(listener.as_fd(), rustix::net::SocketFlags::CLOEXEC)?;
    Ok(Box::new(UnixStream::from(accepted)))
}

fn accept_tcp(listener: &OwnedFd) -> io::Result<Box<dyn Stream>> {
    let accepted = rustix::net::accept_with(listener.as_fd(), rustix::net::SocketFlags::CLOEXEC)?;
    let stream = std::net::TcpStream::from(accepted);
    // Replies are whole when they are sent.
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &OwnedFd, woken: &UnixStream, accept: Accept) {
        loop {
            let mut state = self.state();
            while state.open.len() >= self.options.connections && !state.stopping {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stopping {
                return;
            }
            drop(state);
            // An interruption is no reason to do anything else.
            let _ = poll(&mut [PollFd::new(listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)], None);
            match accept(listener) {
                Ok(stream) => self.admit(stream),
                // It was not that one that woke the thread, or the client has gone again.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // Too many files are open, which passes.
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: Box<dyn Stream>) {
        let connection = Arc::new(Connection { stream, stopped: AtomicBool::new(false) });
        let mut state = self.state();
        if state.stopping {
            return;
        }
        let id = state.next;
        state.next += 1;
        state.open.insert(id, Arc::clone(&connection));
        drop(state);
        let shared = Arc::clone(self);
        let gone = Gone { shared, id };
        let made = thread::Builder::new().name("nbd".into()).spawn(move || {
            let shared = &gone.shared;
            let end = serve(&*connection, &*shared.exports, shared.options.limits);
            if let Some(on_end) = &shared.options.on_end {
                on_end(&end);
            }
        });
        let mut state = self.state();
        state.threads.retain(|thread| !thread.is_finished());
        // If none can be made, the connection is closed.
        state.threads.extend(made);
    }
}

/// Takes a connection off the list, also if its thread panics or was never made.
struct Gone {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.shared.state().open.remove(&self.id);
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_in_after_the_stop_not_even_what_was_there_already() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        theirs.send(&[IoSlice::new(b"request")]).expect("send");
        let connection = Connection { stream: Box::new(ours), stopped: AtomicBool::new(false) };
        assert_eq!(connection.receive(&mut [IoSliceMut::new(&mut [0; 3])]).expect("receive"), 3);
        connection.stop_receiving();
        assert_eq!(connection.receive(&mut [IoSliceMut::new(&mut [0; 3])]).expect("the end"), 0);
        connection.send(&[IoSlice::new(b"answer")]).expect("answers still go out");
    }
}
