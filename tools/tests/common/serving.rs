//! A server that runs, and who asks it.

use super::{Dir, Ran, dirtymap};
use dirtymap_nbd::client::{Client, ConnectOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub const DIRTY: &str = "qemu:dirty-bitmap:dirty";

/// A server that runs, and its socket.
pub struct Server {
    pub child: Child,
    pub socket: PathBuf,
}

impl Server {
    /// Serves `disk.raw` by `disk.map`.
    pub fn start(dir: &Dir, more: &[&str]) -> Server {
        let (image, map) = (dir.path("disk.raw"), dir.path("disk.map"));
        let line = [image.as_os_str(), OsStr::new("--map"), map.as_os_str()];
        Server::of(dir, line.into_iter().chain(more.iter().map(OsStr::new)))
    }

    /// Serves what the line says.
    pub fn of(dir: &Dir, line: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Server {
        let socket = dir.path("socket");
        let mut command = dirtymap();
        command.arg("serve").args(line).arg("--socket").arg(&socket);
        Server::run(command, socket)
    }

    /// Runs a command that serves at `socket`, until it listens there.
    pub fn run(mut command: Command, socket: PathBuf) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run dirtymap");
        while UnixStream::connect(&socket).is_err() {
            if child.try_wait().expect("wait").is_some() {
                panic!("the server does not run: {:?}", Ran::from(child.wait_with_output().expect("wait")));
            }
            std::thread::yield_now();
        }
        Server { child, socket }
    }

    pub fn uri(&self) -> String {
        self.uri_of("")
    }

    pub fn uri_of(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    pub fn client(&self) -> Client {
        self.client_of("", &[DIRTY]).expect("connect")
    }

    /// A client of an export that asks for contexts.
    pub fn client_of(&self, export: &str, contexts: &[&str]) -> std::io::Result<Client> {
        let contexts = contexts.iter().map(|name| (*name).into()).collect();
        let options = ConnectOptions { contexts, ..ConnectOptions::default() };
        Client::connect(&self.uri_of(export).parse().expect("a URI"), &options)
            .map_err(|e| std::io::Error::other(e.to_string()))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal");
    }

    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("wait");
    }

    pub fn stop(self) -> Ran {
        let socket = self.socket.clone();
        let ran = self.end();
        assert!(!socket.exists(), "the socket is still there");
        ran
    }

    /// Has it end in order.
    pub fn end(self) -> Ran {
        self.signal(Signal::TERM);
        self.finish()
    }

    /// Waits until it has ended.
    pub fn finish(mut self) -> Ran {
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.take().expect("piped").read_to_string(&mut out).expect("text");
        self.child.stderr.take().expect("piped").read_to_string(&mut err).expect("text");
        Ran { code: self.child.wait().expect("wait").code().unwrap_or(-1), out, err }
    }
}

/// Whatever a test has failed with, no server is left.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a context says is dirty, as ranges; none if it is not among those of the client.
pub fn dirty_by(client: &mut Client, context: &str) -> Option<Vec<Range<u64>>> {
    let id = client.contexts().iter().find(|known| known.name == context)?.id;
    let size = client.info().size;
    let mut at = 0;
    let mut found = Vec::new();
    let statuses = client.block_status(0, size, 0).expect("states");
    for extent in &statuses.iter().find(|(of, _)| *of == id).expect("the context's states").1 {
        if extent.flags == 1 {
            found.push(at..at + extent.length);
        }
        at += extent.length;
    }
    assert_eq!(at, size);
    Some(found)
}

/// What the server calls dirty.
pub fn dirty(client: &mut Client) -> Vec<Range<u64>> {
    dirty_by(client, DIRTY).expect("it was asked for")
}

/// A connection to a control socket.
pub struct Control(BufReader<UnixStream>);

impl Control {
    pub fn connect(path: &Path) -> Control {
        Control(BufReader::new(UnixStream::connect(path).expect("connect")))
    }

    /// The answer to a line.
    pub fn ask(&mut self, line: &str) -> Value {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("ask");
        let mut answer = String::new();
        self.0.read_line(&mut answer).expect("an answer");
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer:?}"))
    }

    pub fn status(&mut self) -> Value {
        self.ask(r#"{"request":"status"}"#)
    }

    /// Everything that comes back for some bytes.
    pub fn raw(mut self, bytes: &[u8]) -> String {
        // It may be closed before all is sent.
        let _ = self.0.get_mut().write_all(bytes);
        let _ = self.0.get_mut().shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = self.0.read_to_string(&mut answer);
        answer
    }
}
