//! The server that the demo kills: `dirtymap serve` on the demo's image, as a process of its own.
//!
//! Invariant kept here: no server is left behind, however the demo ends.

use super::Place;
use crate::control::{Client, Request, Status};
use crate::exit::{Failure, Result};
use crate::snapshot::SnapshotList;
use crate::terminal::signals;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that runs.
pub struct Server {
    child: Child,
    control: PathBuf,
    /// How long it took to serve.
    pub started_ms: u64,
}

/// What is in the demo's directory for servers.
pub const FILES: [&str; 3] = ["socket", "control", "serve.log"];

/// How long one may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

impl Server {
    /// Starts one, and waits until it serves.
    pub fn start(place: &Place) -> Result<Server> {
        let failed = |what: &'static str| move |e: io::Error| Failure::io(format_args!("the server: {what}"), &e);
        let log = place.dir().join("serve.log");
        let written = File::options().create(true).append(true).open(&log).map_err(failed("open its log"))?;
        let this = std::env::current_exe().map_err(failed("find this program"))?;
        let mut command = Command::new(this);
        command.arg("serve").arg(&place.image).arg("--map").arg(&place.map);
        command.arg("--socket").arg(place.socket()).arg("--control").arg(place.control());
        let begun = Instant::now();
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(written).spawn().map_err(failed("start"))?;
        let mut server = Server { child, control: place.control(), started_ms: 0 };
        while server.ask::<Status>(&Request::Status {}).is_err() {
            signals::check("the demo is not complete")?;
            if server.child.try_wait().map_err(failed("wait"))?.is_some() || begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it says nothing").to_string();
                return Err(Failure::new("server-failed", format!("the server does not run: {last}")));
            }
            std::thread::sleep(LOOK);
        }
        server.started_ms = begun.elapsed().as_millis() as u64;
        Ok(server)
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, request: &Request) -> Result<T> {
        Client::connect(&self.control)?.within(Some(PATIENCE)).ask(request)
    }

    /// Whether it has a snapshot.
    pub fn has_snapshot(&self) -> bool {
        self.ask::<SnapshotList>(&Request::SnapshotList {}).is_ok_and(|list| !list.snapshots.is_empty())
    }

    /// Kills it, and starts the next one in its place.
    pub fn kill(&mut self, place: &Place) -> Result<()> {
        // It may have died by itself, which starting the next one would hide.
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(Failure::new("server-failed", format!("the server ended by itself: {status}")));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        *self = Server::start(place)?;
        Ok(())
    }

    /// Has it end in good order.
    pub fn stop(mut self) -> Result<()> {
        let failed = |e: io::Error| Failure::io("the server: stop", &e);
        kill_process(Pid::from_child(&self.child), Signal::TERM).map_err(|e| failed(e.into()))?;
        let status = self.child.wait().map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new("server-failed", format!("the server did not stop in order: {status}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
