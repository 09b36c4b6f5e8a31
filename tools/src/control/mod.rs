//! The control socket of `serve`: one JSON object on a line asks, one on a line answers; `GET /metrics` is answered as HTTP.
//!
//! Invariant kept here: a request is answered once, with the answer or with `error`, as `--output json` has it; no client can
//! make the server keep more than a line, nor more than a few threads.

mod listener;
mod status;

pub use listener::{Answers, Listener, cannot_listen};
pub use status::{DiskStatus, Latency, RequestStatus, Requests, Status};

use crate::exit::{ErrorAnswer, Failure, Result};
use crate::terminal::output::Output;
use crate::terminal::signals;
use dirtymap::ImageStamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What is served, and how it goes: a [`Status`].
    Status {},
    /// Makes a snapshot of all disks.
    SnapshotCreate {
        name: Option<String>,
        /// Everything can be read, not only what is dirty.
        #[serde(default)]
        whole: bool,
        /// Programs in the guest were made ready for it.
        #[serde(default)]
        app: bool,
        /// The backups that it is made for: none, or one of each disk.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        backups: Vec<Intended>,
    },
    /// The snapshots that are there, as a list.
    SnapshotList {},
    /// What was frozen is backed up.
    SnapshotCommit {
        name: Option<String>,
        /// Its identity.
        id: Option<String>,
        /// Keep the name in the maps.
        #[serde(default)]
        keep: bool,
        /// The backup, for the map to know it. Of several disks that of one, and it is committed alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backup: Option<Completed>,
    },
    /// Gives it up: what was frozen is dirty again.
    SnapshotAbort {
        name: Option<String>,
        id: Option<String>,
        /// Only this disk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        export: Option<String>,
    },
}

impl Request {
    /// What the server is to do, for messages.
    fn what(&self) -> &'static str {
        match self {
            Request::Status {} => "say what it serves",
            Request::SnapshotCreate { .. } => "make a snapshot",
            Request::SnapshotList {} => "list its snapshots",
            Request::SnapshotCommit { .. } => "commit the snapshot",
            Request::SnapshotAbort { .. } => "give the snapshot up",
        }
    }
}

/// A backup of a disk that a snapshot is made for: its checkpoint names the target, so that the next backup knows what this one
/// has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intended {
    /// The disk's.
    pub export: String,
    /// What its checkpoint is called.
    pub name: String,
    /// All of it can be read, not only what is dirty.
    #[serde(default)]
    pub whole: bool,
    pub target: Option<Stamp>,
}

/// A backup of a disk that is complete, which its map records in the moment of the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completed {
    /// The disk's.
    pub export: String,
    pub target: Stamp,
    /// Clean granules that were compared in disk and target, and were equal.
    pub audited: u64,
}

/// A target as maps record it, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(String);

impl Stamp {
    pub fn new(target: &ImageStamp) -> Stamp {
        Stamp(target.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The target, if these digits are one.
    pub fn target(&self) -> Result<ImageStamp> {
        let mut bytes = [0; 128];
        let digits = self.0.as_bytes();
        let filled = digits.len() == 2 * bytes.len()
            && bytes.iter_mut().zip(digits.chunks(2)).all(|(byte, two)| {
                let digit = |i: usize| char::from(two[i]).to_digit(16);
                let value = digit(0).zip(digit(1)).map(|(high, low)| (high * 16 + low) as u8);
                value.is_some_and(|value| {
                    *byte = value;
                    true
                })
            });
        let stamp = Some(bytes).filter(|_| filled).and_then(|bytes| ImageStamp::from_bytes(&bytes));
        stamp.ok_or_else(|| Failure::usage(format!("{NO_REQUEST}the target of the backup is no stamp")))
    }
}

/// With what the answer to a line begins that is no request.
const NO_REQUEST: &str = "no request: ";
/// Longest line of a request, in bytes.
const LONGEST_REQUEST: u64 = 64 << 10;
/// Longest line of an answer that is believed.
const LONGEST_ANSWER: u64 = 16 << 20;

/// How a server greets NBD clients.
const NBD: &[u8] = b"NBDMAGIC";

/// How often a wait for an answer looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// A wait that takes longer is told of.
const SILENCE: Duration = Duration::from_secs(3);

/// Whether a name is that of a socket, whoever listens.
pub fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.file_type().is_socket())
}

/// A connection to a server. A wait for it ends with a signal.
pub struct Client {
    stream: BufReader<UnixStream>,
    /// For messages.
    socket: String,
    /// How long an answer may take.
    limit: Option<Duration>,
    /// Where a long wait is told of.
    output: Option<Output>,
    /// Signals that came before do not end it.
    after_signals: bool,
}

impl Client {
    /// Connects to the control socket of a server.
    pub fn connect(socket: &Path) -> Result<Client> {
        let name = socket.display().to_string();
        let failed = |e: io::Error| Failure::io(format_args!("{name}: connect"), &e);
        let stream = UnixStream::connect(socket).map_err(|e| {
            let advice = match e.kind() {
                io::ErrorKind::NotFound => "no control socket is there; give that of the server, or start it",
                io::ErrorKind::ConnectionRefused if is_socket(socket) => {
                    "the server has ended, and left its control socket; start it again"
                }
                io::ErrorKind::ConnectionRefused => "that is no socket; give the control socket of the server",
                _ => return failed(e),
            };
            failed(e).and(format_args!("{advice} (dirtymap serve ... --control {name})"))
        })?;
        stream.set_read_timeout(Some(LOOK)).map_err(failed)?;
        Ok(Client { stream: BufReader::new(stream), socket: name, limit: None, output: None, after_signals: false })
    }

    /// The same, with a limit to how long the server may be silent, or none.
    pub fn within(self, limit: Option<Duration>) -> Client {
        Client { limit, ..self }
    }

    /// The same, which tells of a long wait.
    pub fn telling(self, output: Output) -> Client {
        Client { output: Some(output), ..self }
    }

    /// The same, for what is to be done although a signal came; with a limit.
    pub fn after_signals(self, limit: Duration) -> Client {
        Client { after_signals: true, limit: Some(limit), ..self }
    }

    /// Asks, and waits for the answer as long as it takes, or as the limit is.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        let mut line = serde_json::to_string(request).map_err(|e| self.ended(&[], Some(e.into())))?;
        line.push('\n');
        if let Err(e) = self.stream.get_mut().write_all(line.as_bytes()) {
            return Err(self.ended(&[], Some(e)));
        }
        let answer = self.answer(request.what())?;
        let strange = |e| Failure::new("no-answer", format!("{}: the answer makes no sense: {e}", self.socket));
        let value: Value = serde_json::from_slice(&answer).map_err(strange)?;
        if value.get("error").is_some() {
            return Err(self.refused(serde_json::from_value::<ErrorAnswer>(value).map_err(strange)?.into()));
        }
        serde_json::from_value(value).map_err(strange)
    }

    /// What the server has failed with. What this command asks is a request, for a server of its version.
    fn refused(&self, failure: Failure) -> Failure {
        if !failure.message.starts_with(NO_REQUEST) {
            return failure;
        }
        let (socket, version) = (&self.socket, env!("CARGO_PKG_VERSION"));
        let message = format!(
            "{socket}: the server is of another version of dirtymap than this command, which is {version}, and does not \
             understand it ({}); stop the server, and start it with this version, or run the command with that of the server",
            failure.message
        );
        Failure::new("other-version", message)
    }

    /// Why there is no more than this of an answer.
    fn ended(&self, answer: &[u8], e: Option<io::Error>) -> Failure {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        let why = match e {
            _ if answer.starts_with(NBD) => {
                "is the socket for NBD clients; give the control socket of the server (dirtymap \
                                             serve ... --control PATH)"
                    .into()
            }
            Some(e) if ![BrokenPipe, ConnectionReset].contains(&e.kind()) => format!("ask: {e}"),
            _ => "the server has ended, or closed the connection".to_string(),
        };
        Failure::new("no-answer", format!("{}: {why}", self.socket))
    }

    /// The line that answers.
    fn answer(&mut self, what: &str) -> Result<Vec<u8>> {
        let (begun, mut answer) = (Instant::now(), Vec::new());
        loop {
            let left = LONGEST_ANSWER.saturating_sub(answer.len() as u64);
            match (&mut self.stream).take(left).read_until(b'\n', &mut answer) {
                Ok(_) if answer.last() == Some(&b'\n') => return Ok(answer),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                end => return Err(self.ended(&answer, end.err())),
            }
            if signals::requested() && !self.after_signals {
                let message = format!("interrupted; {}: the server, which is to {what}, has not answered", self.socket);
                return Err(Failure::interrupted(message));
            }
            if let Some(limit) = self.limit.filter(|limit| begun.elapsed() >= *limit) {
                let seconds = limit.as_secs();
                let message =
                    format!("{}: the server, which is to {what}, has not answered in {seconds} s", self.socket);
                return Err(Failure::new("no-answer", message));
            }
            if let Some(output) = self.output.take_if(|_| begun.elapsed() >= SILENCE) {
                output.note(format_args!(
                    "{}: waiting for the server, which is to {what}; Ctrl-C ends the wait",
                    self.socket
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_another_version_is_told_as_that() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("listen");
        let answers = [
            (r#"{"kind":"usage","message":"no request: unknown field `backups`","exit":16}"#, "other-version"),
            (r#"{"kind":"no-snapshot","message":"none is there","exit":8}"#, "no-snapshot"),
        ];
        // Of its own: if a question is not answered as it should be, nothing waits for it.
        std::thread::spawn(move || {
            for (error, _) in answers {
                let (stream, _) = listener.accept().expect("accept");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a line");
                writeln!(&stream, "{{\"error\":{error}}}").expect("answer");
            }
        });
        for (_, kind) in answers {
            let mut client = Client::connect(&path).unwrap_or_else(|e| panic!("{e}"));
            let failure = client.ask::<Value>(&Request::SnapshotList {}).expect_err("refused");
            assert_eq!(failure.kind, kind);
            let advised = failure.message.contains("start it with this version");
            assert_eq!(advised, kind == "other-version", "{failure}");
        }
    }

    #[test]
    fn the_target_of_a_backup_comes_as_it_was_sent() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let stamp = ImageStamp::glance(file.as_file()).expect("a stamp");
        let backup = Some(Completed { export: "a".into(), target: Stamp::new(&stamp), audited: 3 });
        let request = Request::SnapshotCommit { name: None, id: None, keep: true, backup };
        let line = serde_json::to_string(&request).expect("JSON");
        let Request::SnapshotCommit { backup: Some(came), .. } = serde_json::from_str(&line).expect("a request") else {
            panic!("{line}");
        };
        assert_eq!(came.target.target().unwrap_or_else(|e| panic!("{e}")), stamp);
        for target in ["", "0", &"0".repeat(256), &"f".repeat(256), &"+f".repeat(128), &"ü".repeat(128)] {
            assert!(Stamp(target.into()).target().is_err(), "{target:?}");
        }
    }
}
