//! The control socket of `serve`: one JSON object on a line asks, one on a line answers; `GET /metrics` is answered as HTTP.
//!
//! Invariant kept here: a request is answered once, with the answer or with `error`, as `--output json` has it; no client can
//! make the server keep more than a line, nor more than a few threads.

mod listener;
mod status;

pub use listener::{Answers, Listener};
pub use status::{DiskStatus, Latency, RequestStatus, Requests, Status};

use crate::exit::{ErrorAnswer, Failure, Result};
use dirtymap::ImageStamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

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
        /// The backup, for the map to know it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backup: Option<Completed>,
    },
    /// Gives it up: what was frozen is dirty again.
    SnapshotAbort { name: Option<String>, id: Option<String> },
}

/// A backup of a disk that is complete, which its map records in the moment of the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completed {
    /// The disk's.
    pub export: String,
    /// The target as maps record it, in hexadecimal digits.
    target: String,
    /// Clean granules that were compared in disk and target, and were equal.
    pub audited: u64,
}

impl Completed {
    pub fn new(export: &str, target: &ImageStamp, audited: u64) -> Completed {
        let target = target.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        Completed { export: export.into(), target, audited }
    }

    /// The target.
    pub fn target(&self) -> Result<ImageStamp> {
        let mut bytes = [0; 128];
        let digits = self.target.as_bytes();
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
        stamp.ok_or_else(|| Failure::usage("no request: the target of the backup is no stamp"))
    }
}

/// Longest line of a request, in bytes.
const LONGEST_REQUEST: u64 = 64 << 10;
/// Longest line of an answer that is believed.
const LONGEST_ANSWER: u64 = 16 << 20;

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    /// For messages.
    socket: String,
    /// How long an answer may take.
    limit: Option<Duration>,
}

impl Client {
    /// Connects to the control socket of a server.
    pub fn connect(socket: &Path) -> Result<Client> {
        let name = socket.display().to_string();
        let stream = UnixStream::connect(socket).map_err(|e| Failure::io(format_args!("{name}: connect"), &e))?;
        Ok(Client { stream: BufReader::new(stream), socket: name, limit: None })
    }

    /// The same, with a limit to how long the server may be silent.
    pub fn within(self, limit: Duration) -> Client {
        Client { limit: Some(limit), ..self }
    }

    /// Asks, and waits for the answer as long as it takes, or as the limit is.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        let failed = |e: std::io::Error| Failure::io(format_args!("{}: ask", self.socket), &e);
        let mut line = serde_json::to_string(request).map_err(|e| failed(e.into()))?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).map_err(failed)?;
        // A limit of nothing would be none.
        let limit = self.limit.map(|limit| limit.max(Duration::from_millis(1)));
        self.stream.get_ref().set_read_timeout(limit).map_err(failed)?;
        let mut answer = String::new();
        (&mut self.stream).take(LONGEST_ANSWER).read_line(&mut answer).map_err(failed)?;
        if !answer.ends_with('\n') {
            return Err(Failure::new("no-answer", format!("{}: the server went away without an answer", self.socket)));
        }
        let strange = |e| Failure::new("no-answer", format!("{}: the answer makes no sense: {e}", self.socket));
        let value: Value = serde_json::from_str(&answer).map_err(strange)?;
        if value.get("error").is_some() {
            return Err(serde_json::from_value::<ErrorAnswer>(value).map_err(strange)?.into());
        }
        serde_json::from_value(value).map_err(strange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_backup_comes_as_it_was_sent() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let stamp = ImageStamp::glance(file.as_file()).expect("a stamp");
        let backup = Some(Completed::new("a", &stamp, 3));
        let request = Request::SnapshotCommit { name: None, id: None, keep: true, backup };
        let line = serde_json::to_string(&request).expect("JSON");
        let Request::SnapshotCommit { backup: Some(came), .. } = serde_json::from_str(&line).expect("a request") else {
            panic!("{line}");
        };
        assert_eq!(came.target().unwrap_or_else(|e| panic!("{e}")), stamp);
        for target in ["", "0", &"0".repeat(256), &"f".repeat(256), &"+f".repeat(128), &"ü".repeat(128)] {
            let wrong = Completed { target: target.into(), ..came.clone() };
            assert!(wrong.target().is_err(), "{target:?}");
        }
    }
}
