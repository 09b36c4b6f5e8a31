//! What writes in the demo's rounds through a server: an NBD client, as a virtual machine is one.
//!
//! Invariant kept here: the reference has every write that was acknowledged, in order, and no other.

use super::Place;
use super::writer::pick;
use crate::exit::{Failure, Result};
use crate::files::Image;
use crate::rng::Rng;
use crate::terminal::signals;
use dirtymap_nbd::client::{self, ConnectOptions, Uri};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// A client that writes, and what the image must be by now.
pub struct Guest {
    uri: Uri,
    client: Option<client::Client>,
    rng: Rng,
    sequential: u64,
    size: u64,
    reference: Image,
}

/// A write that was acknowledged.
pub struct Written {
    pub range: Range<u64>,
    bytes: Vec<u8>,
}

/// How long a server may be away.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most bytes that are kept until the reference has them.
const MOST: u64 = 32 << 20;

impl Guest {
    /// `reference`: a copy of the image.
    pub fn new(place: &Place, reference: Image, seed: u64) -> Result<Guest> {
        let uri = place.uri();
        let uri = uri.parse().map_err(|e| Failure::new("writer-failed", format!("{uri}: {e}")))?;
        let (rng, size) = (Rng::new(seed), reference.size());
        Ok(Guest { uri, client: None, rng, sequential: 0, size, reference })
    }

    /// Whether there is nothing to write to.
    pub fn has_nothing(&self) -> bool {
        self.size == 0
    }

    /// Writes until it is told to stop; counts what was acknowledged.
    pub fn write(&mut self, stop: &AtomicBool, count: &AtomicU64) -> Result<Vec<Written>> {
        let (mut all, mut bytes) = (Vec::new(), 0);
        while self.size > 0 && !stop.load(SeqCst) {
            signals::check("the demo is not complete")?;
            if bytes > MOST {
                // Enough was written; it is up to the others now.
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let range = pick(&mut self.rng, self.size, &mut self.sequential);
            let mut data = vec![0; (range.end - range.start) as usize];
            self.rng.fill(&mut data);
            self.insist(range.start, &data)?;
            count.fetch_add(1, SeqCst);
            bytes += data.len() as u64;
            all.push(Written { range, bytes: data });
        }
        Ok(all)
    }

    /// Sends a write until a server acknowledges it, as a VM does that may reconnect.
    fn insist(&mut self, at: u64, data: &[u8]) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let connected = self.client.take().map_or_else(|| self.connect(), Ok);
            let failed = match connected.and_then(|mut client| client.write(at, data, 0).map(|()| client)) {
                Ok(client) => {
                    self.client = Some(client);
                    return Ok(());
                }
                Err(failed) => failed,
            };
            signals::check("the demo is not complete")?;
            if matches!(failed, client::Error::Failed(_)) || Instant::now() > until {
                return Err(Failure::new("writer-failed", format!("a write through the server failed: {failed}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn connect(&self) -> std::result::Result<client::Client, client::Error> {
        client::Client::connect(&self.uri, &ConnectOptions::default())
    }

    /// What was written is in the reference from here on.
    pub fn refer(&self, written: &[Written]) -> Result<()> {
        written.iter().try_for_each(|one| self.reference.write(&one.bytes, one.range.start))
    }
}
