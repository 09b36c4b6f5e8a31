//! The bytes of an NBD export, as content to be read.
//!
//! Invariant kept here: a connection that breaks is made anew, to the same name, and the request is sent again; what the server
//! answers with an error is an error. No wait is longer than the patience, and a signal ends it.

use crate::backup::INTERRUPTED;
use crate::exit::{Failure, Result};
use crate::files::Content;
use crate::terminal::output::Output;
use crate::terminal::signals;
use dirtymap_nbd::Stream;
use dirtymap_nbd::client::{Client, ConnectOptions, Error, Uri};
use dirtymap_nbd::codec::values::{allocation, reply};
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a wait looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// An export that is read.
pub struct Export {
    uri: Uri,
    /// What it is called in messages.
    name: String,
    size: u64,
    patience: Duration,
    output: Output,
    connection: Mutex<Connection>,
}

/// The connection as it is, and what was last asked by it.
#[derive(Default)]
struct Connection {
    client: Option<Client>,
    /// It tells what is zeros.
    knows_holes: bool,
    /// Neighbours, and whether they are zeros. What a snapshot has does not change.
    extents: Vec<(Range<u64>, bool)>,
}

/// A stream of which a wait ends with the patience, and with a signal.
struct Patient {
    stream: Box<dyn Stream>,
    patience: Duration,
}

impl Stream for Patient {
    fn receive(&self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let until = Instant::now() + self.patience;
        loop {
            match self.stream.receive(into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !signals::requested() && Instant::now() < until => {}
                done => return done,
            }
        }
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.send(parts)
    }

    fn set_patience(&self, _patience: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn stop_receiving(&self) {
        self.stream.stop_receiving();
    }

    fn close(&self) {
        self.stream.close();
    }
}

impl Export {
    /// Connects to an export, of which the size is known. `patience`: how long a server may be away, or silent, from then on.
    pub fn open(uri: Uri, name: String, size: u64, patience: Duration, output: Output) -> Result<Export> {
        let mut export = Export::later(uri, name, size, patience, output);
        let name = &export.name;
        let client = export.connect().map_err(|e| match e {
            Error::Io(e) => Failure::io(format_args!("{name}: connect"), &e)
                .and("the server that the control socket is of answers: give an export of that one"),
            Error::Refused { .. } => Failure::new("no-export", format!("{name}: {e}")),
            e => Failure::new("io", format!("{name}: {e}")),
        })?;
        let connection = Connection { knows_holes: !client.contexts().is_empty(), ..Connection::default() };
        export.connection = Mutex::new(Connection { client: Some(client), ..connection });
        Ok(export)
    }

    /// The same, if need be of a server that is started anew.
    pub fn open_patiently(uri: Uri, name: String, size: u64, patience: Duration, output: Output) -> Result<Export> {
        let export = Export::later(uri, name, size, patience, output);
        export.ask(&mut export.locked(), |_| Ok(()))?;
        Ok(export)
    }

    /// Lets go of the connection: of those a server has so many, and the next request makes one anew.
    pub fn rest(&self) {
        self.locked().client = None;
    }

    fn later(uri: Uri, name: String, size: u64, patience: Duration, output: Output) -> Export {
        Export { uri, name, size, patience, output, connection: Mutex::default() }
    }

    /// Has a request answered, by whichever server is there.
    fn ask<T>(
        &self,
        connection: &mut Connection,
        request: impl Fn(&mut Client) -> std::result::Result<T, Error>,
    ) -> Result<T> {
        let mut until = None;
        loop {
            signals::check(INTERRUPTED)?;
            let connected = match connection.client.take() {
                Some(client) => Ok(client),
                None => self.connect(),
            };
            let failed = match connected.map(|mut client| (request(&mut client), client)) {
                Ok((Ok(answer), client)) => {
                    connection.knows_holes = !client.contexts().is_empty();
                    connection.client = Some(client);
                    return Ok(answer);
                }
                // The connection goes on.
                Ok((Err(Error::Failed(refused)), client)) => {
                    connection.client = Some(client);
                    return Err(Failure::new("export-failed", format!("{}: {refused}", self.name)));
                }
                Err(refused @ Error::Refused { kind: reply::ERR_UNKNOWN, .. }) => {
                    let message = format!("{}: the server does not have it any more: {refused}", self.name);
                    return Err(Failure::new("snapshot-gone", message));
                }
                Ok((Err(e), _)) | Err(e) => e,
            };
            signals::check(INTERRUPTED)?;
            if until.is_none() {
                let wait = self.patience.as_secs();
                self.output.note(format_args!("{}: {failed}; waiting up to {wait} s for its server", self.name));
            }
            if Instant::now() >= *until.get_or_insert_with(|| Instant::now() + self.patience) {
                let message = format!(
                    "{}: {failed}; the server did not come back in {} s: start it again, it goes on with what it has, and then \
                     start the backup again",
                    self.name,
                    self.patience.as_secs()
                );
                return Err(Failure::new("server-gone", message));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn connect(&self) -> std::result::Result<Client, Error> {
        let stream = self.uri.address.connect()?;
        stream.set_patience(Some(LOOK))?;
        let options = ConnectOptions { contexts: vec![allocation::NAME.into()], ..ConnectOptions::default() };
        let patient = Patient { stream, patience: self.patience };
        let client = Client::over(Box::new(patient), &self.uri.export, &options)?;
        match client.info().size == self.size {
            true => Ok(client),
            false => Err(Error::Protocol("the export has another size than the server's disk")),
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A range is not needed any more. Advice: if it cannot be told, nothing is lost.
    pub fn trim(&self, range: Range<u64>) {
        if let Some(client) = &mut self.locked().client {
            // Lengths that every server takes.
            let mut at = range.start;
            while at < range.end {
                let length = (range.end - at).min(1 << 30);
                if client.trim(at, length, 0).is_err() {
                    return;
                }
                at += length;
            }
        }
    }

    /// Where the extent at `at` ends, and whether it is zeros.
    fn extent(&self, at: u64, end: u64) -> Result<(u64, bool)> {
        let mut connection = self.locked();
        let found = connection.extents.binary_search_by(|(range, _)| match range {
            range if range.end <= at => std::cmp::Ordering::Less,
            range if range.start > at => std::cmp::Ordering::Greater,
            _ => std::cmp::Ordering::Equal,
        });
        if let Ok(found) = found {
            let (range, zeros) = &connection.extents[found];
            return Ok((range.end, *zeros));
        }
        let length = (end - at).min(1 << 30);
        let statuses = self.ask(&mut connection, |client| client.block_status(at, length, 0))?;
        let mut from = at;
        connection.extents.clear();
        for extent in statuses.into_iter().flat_map(|(_, extents)| extents) {
            let range = from..from.saturating_add(extent.length).min(self.size);
            from = range.end;
            connection.extents.push((range, extent.flags & allocation::ZERO != 0));
        }
        match connection.extents.first() {
            Some((range, zeros)) if range.end > at => Ok((range.end, *zeros)),
            _ => Err(Failure::new("io", format!("{}: the server told nothing of what is at {at}", self.name))),
        }
    }
}

impl Content for Export {
    fn len(&self) -> u64 {
        self.size
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut connection = self.locked();
        let most = connection.client.as_ref().map_or(1 << 20, Client::max_payload).clamp(1 << 12, 1 << 20) as usize;
        let mut at = offset;
        for part in buffer.chunks_mut(most) {
            let read = self.ask(&mut connection, |client| client.read(at, part.len() as u32, 0))?;
            part.copy_from_slice(&read);
            at += read.len() as u64;
        }
        Ok(())
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        if !self.knows_holes() {
            return Ok(Some(range).filter(|range| !range.is_empty()));
        }
        let mut at = range.start;
        while at < range.end {
            let (end, zeros) = self.extent(at, range.end)?;
            if !zeros {
                return Ok(Some(at..end.min(range.end)));
            }
            at = end;
        }
        Ok(None)
    }

    fn knows_holes(&self) -> bool {
        self.locked().knows_holes
    }
}
