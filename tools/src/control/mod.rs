//! The control socket of `serve`: one JSON object on a line asks, one on a line answers; `GET /metrics` is answered as HTTP.
//!
//! Invariant kept here: a request is answered once, with the answer or with `error`, as `--output json` has it; no client can
//! make the server keep more than a line, nor more than a few threads.

mod listener;
mod status;

pub use listener::{Answers, Listener};
pub use status::{DiskStatus, Latency, RequestStatus, Requests, Status, areas};

use crate::exit::{ErrorAnswer, Failure, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

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
    },
    /// Gives it up: what was frozen is dirty again.
    SnapshotAbort { name: Option<String>, id: Option<String> },
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
}

impl Client {
    /// Connects to the control socket of a server.
    pub fn connect(socket: &Path) -> Result<Client> {
        let name = socket.display().to_string();
        let stream = UnixStream::connect(socket).map_err(|e| Failure::io(format_args!("{name}: connect"), &e))?;
        Ok(Client { stream: BufReader::new(stream), socket: name })
    }

    /// Asks, and waits for the answer as long as it takes.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        let failed = |e: std::io::Error| Failure::io(format_args!("{}: ask", self.socket), &e);
        let mut line = serde_json::to_string(request).map_err(|e| failed(e.into()))?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).map_err(failed)?;
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
