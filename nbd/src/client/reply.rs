//! An export in use: requests and their answers.
//!
//! Invariant kept here: nothing grows by what a server says. An answer is never longer than what was asked for, and an
//! answer that leaves bytes out, or brings some twice, is refused.

use super::Error;
use super::negotiation::ExportInfo;
use crate::codec::values::{self, chunk, command, flag};
use crate::codec::{
    ErrorChunk, Extent, HoleChunk, MetaContext, Mode, ReplyHeader, Request, StatusChunk, StatusPayload,
};
use crate::failure::{Errno, Failure};
use crate::stream::{Incoming, Stream, send_all};
use std::collections::HashMap;
use std::io::IoSlice;

/// An export in use. Dropping it says goodbye.
pub struct Client {
    stream: Box<dyn Stream>,
    incoming: Incoming,
    mode: Mode,
    info: ExportInfo,
    contexts: Vec<MetaContext>,
    next: u64,
    pending: HashMap<u64, Pending>,
}

/// A request whose answer has not come, or not all of it.
struct Pending {
    request: Request,
    data: Vec<u8>,
    /// Bytes of the data that came, as ranges in the request.
    came: Vec<(u64, u64)>,
    statuses: Vec<(u32, Vec<Extent>)>,
    failure: Option<Failure>,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// What [`Client::submit`] returned.
    pub cookie: u64,
    /// How it went; for a read, the data.
    pub done: Result<Vec<u8>, Failure>,
    /// Of a block status: the extents by the number of the context.
    pub statuses: Vec<(u32, Vec<Extent>)>,
}

/// Longest payload of a chunk that is neither data nor extents.
const MOST_ERROR: u64 = 8 << 10;
/// Longest payload of a chunk of extents.
const MOST_STATUS: u64 = 64 << 20;
/// Parts of a read that do not come in order, at most.
const MOST_PARTS: usize = 1 << 16;

impl Client {
    pub(super) fn new(
        stream: Box<dyn Stream>,
        incoming: Incoming,
        mode: Mode,
        info: ExportInfo,
        contexts: Vec<MetaContext>,
    ) -> Self {
        Self { stream, incoming, mode, info, contexts, next: 1, pending: HashMap::new() }
    }

    /// What the server said of the export.
    pub fn info(&self) -> &ExportInfo {
        &self.info
    }

    /// The contexts that are chosen.
    pub fn contexts(&self) -> &[MetaContext] {
        &self.contexts
    }

    /// The form of requests and replies.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Bytes that one read or write may have.
    pub fn max_payload(&self) -> u32 {
        self.info.block_sizes.map_or(values::DEFAULT_MAX_PAYLOAD, |sizes| sizes.maximum)
    }

    /// Sends a request, with a payload or none, and returns its cookie. Flags and lengths are sent as they are given.
    pub fn submit(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> Result<u64, Error> {
        let cookie = self.next;
        let request = Request { flags, command, cookie, offset, length };
        let header = request.encode(self.mode)?;
        send_all(&*self.stream, &mut [IoSlice::new(&header), IoSlice::new(payload)])?;
        self.next += 1;
        if command != command::DISC {
            let pending = Pending { request, data: Vec::new(), came: Vec::new(), statuses: Vec::new(), failure: None };
            self.pending.insert(cookie, pending);
        }
        Ok(cookie)
    }

    /// Waits for the next answer to come in whole, to any request.
    pub fn receive(&mut self) -> Result<Answer, Error> {
        loop {
            let first = self.incoming.must(&*self.stream, ReplyHeader::FIRST)?;
            let length = ReplyHeader::bytes(first, self.mode)?;
            let mut header = [0; 32];
            header[..ReplyHeader::FIRST].copy_from_slice(first);
            self.incoming.fill(&*self.stream, &mut header[ReplyHeader::FIRST..length])?;
            let header = ReplyHeader::parse(&header[..length], self.mode)?;
            let (ReplyHeader::Simple { cookie, .. } | ReplyHeader::Chunk { cookie, .. }) = header;
            let mut pending = self.pending.remove(&cookie).ok_or(Error::Protocol("an answer to no request"))?;
            let last = match header {
                ReplyHeader::Simple { error, .. } => self.simple(&mut pending, error).map(|()| true)?,
                ReplyHeader::Chunk { flags, kind, length, offset, .. } => {
                    if self.mode == Mode::Extended && offset != pending.request.offset {
                        return Err(Error::Protocol("an answer with the offset of another request"));
                    }
                    self.chunk(&mut pending, kind, length)?;
                    flags & chunk::DONE != 0
                }
            };
            if last {
                return pending.answer();
            }
            self.pending.insert(cookie, pending);
        }
    }

    fn simple(&mut self, pending: &mut Pending, error: u32) -> Result<(), Error> {
        let read = pending.request.command == command::READ;
        if self.mode == Mode::Structured && (read || pending.request.command == command::BLOCK_STATUS) && error == 0 {
            return Err(Error::Protocol("a simple reply where chunks have to come"));
        }
        if error != 0 {
            pending.failure = Some(Failure::new(Errno::from_number(error), ""));
        } else if read {
            let length = pending.request.length;
            pending.add(length, 0)?;
            self.incoming.fill(&*self.stream, &mut pending.data)?;
        }
        Ok(())
    }

    fn chunk(&mut self, pending: &mut Pending, kind: u16, length: u64) -> Result<(), Error> {
        let read = pending.request.command == command::READ;
        match kind {
            chunk::NONE if length == 0 => {}
            chunk::OFFSET_DATA if read && length > 8 => {
                let mut offset = [0; 8];
                self.incoming.fill(&*self.stream, &mut offset)?;
                let at = pending.add(length - 8, u64::from_be_bytes(offset).wrapping_sub(pending.request.offset))?;
                self.incoming.fill(&*self.stream, &mut pending.data[at..at + (length - 8) as usize])?;
            }
            chunk::OFFSET_HOLE if read && length == 12 => {
                let hole = HoleChunk::parse(self.incoming.must(&*self.stream, 12)?)?;
                pending.add(hole.length.into(), hole.offset.wrapping_sub(pending.request.offset))?;
            }
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT
                if pending.request.command == command::BLOCK_STATUS && length <= MOST_STATUS =>
            {
                let wide = kind == chunk::BLOCK_STATUS_EXT;
                if wide && self.mode != Mode::Extended {
                    return Err(Error::Protocol("wide extents without extended headers"));
                }
                let mut payload = vec![0; length as usize];
                self.incoming.fill(&*self.stream, &mut payload)?;
                let status = StatusChunk::parse(&payload, kind)?;
                if pending.statuses.iter().any(|(id, _)| *id == status.context) {
                    return Err(Error::Protocol("two chunks for one context"));
                }
                pending.statuses.push((status.context, status.extents));
            }
            _ if kind & chunk::IS_ERROR != 0 && length <= MOST_ERROR => {
                let mut payload = vec![0; length as usize];
                self.incoming.fill(&*self.stream, &mut payload)?;
                let error = ErrorChunk::parse(&payload, kind)?;
                pending.failure.get_or_insert(Failure::new(Errno::from_number(error.error), error.message));
            }
            _ => return Err(Error::Protocol("a chunk that the request cannot have")),
        }
        Ok(())
    }

    fn one(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> Result<Answer, Error> {
        if !self.pending.is_empty() {
            return Err(Error::Protocol("answers to submitted requests have to be received first"));
        }
        self.submit(command, flags, offset, length, payload)?;
        self.receive()
    }

    fn plain(&mut self, command: u16, flags: u16, offset: u64, length: u64) -> Result<(), Error> {
        self.one(command, flags, offset, length, &[])?.done.map(drop).map_err(Error::Failed)
    }

    /// Reads. Flags are those of [`values::flag`].
    pub fn read(&mut self, offset: u64, length: u32, flags: u16) -> Result<Vec<u8>, Error> {
        self.one(command::READ, flags, offset, length.into(), &[])?.done.map_err(Error::Failed)
    }

    /// Writes.
    pub fn write(&mut self, offset: u64, data: &[u8], flags: u16) -> Result<(), Error> {
        let payload = if self.mode == Mode::Extended { flag::PAYLOAD_LEN } else { 0 };
        let answer = self.one(command::WRITE, flags | payload, offset, data.len() as u64, data)?;
        answer.done.map(drop).map_err(Error::Failed)
    }

    /// Makes durable what was acknowledged.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.plain(command::FLUSH, 0, 0, 0)
    }

    /// Says that a range is not needed any more.
    pub fn trim(&mut self, offset: u64, length: u64, flags: u16) -> Result<(), Error> {
        self.plain(command::TRIM, flags, offset, length)
    }

    /// Writes zeroes.
    pub fn write_zeroes(&mut self, offset: u64, length: u64, flags: u16) -> Result<(), Error> {
        self.plain(command::WRITE_ZEROES, flags, offset, length)
    }

    /// Says that a range will be read soon.
    pub fn cache(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.plain(command::CACHE, 0, offset, length)
    }

    /// The states of a range, by the number of the context, for all that are chosen. Extents may end before the range does,
    /// or behind it.
    pub fn block_status(&mut self, offset: u64, length: u64, flags: u16) -> Result<Vec<(u32, Vec<Extent>)>, Error> {
        let answer = self.one(command::BLOCK_STATUS, flags, offset, length, &[])?;
        answer.done.map_err(Error::Failed)?;
        Ok(answer.statuses)
    }

    /// The states of a range for some of the chosen contexts. Only where the server offers it
    /// ([`BLOCK_STATUS_PAYLOAD`](values::transmission::BLOCK_STATUS_PAYLOAD)).
    pub fn block_status_of(
        &mut self,
        contexts: &[u32],
        offset: u64,
        length: u64,
        flags: u16,
    ) -> Result<Vec<(u32, Vec<Extent>)>, Error> {
        let payload = StatusPayload { length, contexts: contexts.to_vec() }.encode();
        let flags = flags | flag::PAYLOAD_LEN;
        let answer = self.one(command::BLOCK_STATUS, flags, offset, payload.len() as u64, &payload)?;
        answer.done.map_err(Error::Failed)?;
        Ok(answer.statuses)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.submit(command::DISC, 0, 0, 0, &[]);
        self.stream.close();
    }
}

impl Pending {
    /// Notes that a part of a read came, and returns where it is in the data.
    fn add(&mut self, length: u64, at: u64) -> Result<usize, Error> {
        let end = at.checked_add(length).filter(|end| *end <= self.request.length);
        let end = end.ok_or(Error::Protocol("data outside of what was asked for"))?;
        if self.came.iter().any(|(from, to)| at < *to && *from < end) {
            return Err(Error::Protocol("data that came before"));
        }
        if self.came.len() > MOST_PARTS {
            return Err(Error::Protocol("an answer in more parts than a client takes"));
        }
        // As a rule parts come in order, and this stays one range.
        match self.came.last_mut() {
            Some((_, to)) if *to == at => *to = end,
            _ => self.came.push((at, end)),
        }
        if self.data.is_empty() {
            self.data = vec![0; self.request.length as usize];
        }
        Ok(at as usize)
    }

    fn answer(self) -> Result<Answer, Error> {
        let came: u64 = self.came.iter().map(|(from, to)| to - from).sum();
        if self.failure.is_none() && self.request.command == command::READ && came != self.request.length {
            return Err(Error::Protocol("an answer that leaves data out"));
        }
        let done = self.failure.map_or(Ok(self.data), Err);
        Ok(Answer { cookie: self.request.cookie, done, statuses: self.statuses })
    }
}
