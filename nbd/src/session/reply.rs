//! How answers are sent: each whole, before another one begins, and short ones together if more come soon.
//!
//! Invariant kept here: nothing is marked as the end of a reply that an error could still follow; all data of a read is there
//! before the first byte of its reply is sent. What waits for more answers has a fixed size, and [`Replies::flush`] sends it.

use crate::codec::values::{chunk, command};
use crate::codec::{ErrorChunk, HoleChunk, Mode, ReplyHeader, Request, StatusChunk};
use crate::failure::Failure;
use crate::stream::{Stream, send_all};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Mutex, PoisonError, TryLockError};

pub(super) struct Replies<'a> {
    stream: &'a dyn Stream,
    mode: Mode,
    /// Answers that are to be sent with the next ones. Its lock is held by who sends.
    waiting: Mutex<Vec<u8>>,
}

/// Bytes of answers that wait at most.
const MOST_WAITING: usize = 16 << 10;

impl<'a> Replies<'a> {
    pub(super) fn new(stream: &'a dyn Stream, mode: Mode) -> Self {
        Self { stream, mode, waiting: Mutex::default() }
    }

    /// Sends an answer and those that wait; if `more` come soon, a short one waits as well.
    fn send(&self, parts: &[IoSlice<'_>], more: bool) -> io::Result<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if more && waiting.len() + length <= MOST_WAITING {
            parts.iter().for_each(|part| waiting.extend_from_slice(part));
            return Ok(());
        }
        let mut all = Vec::with_capacity(1 + parts.len());
        all.push(IoSlice::new(&waiting));
        all.extend_from_slice(parts);
        send_all(self.stream, &mut all)?;
        waiting.clear();
        Ok(())
    }

    /// Sends the answers that wait. Not if somebody sends, or adds to them: the one sends all, the other calls this later.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut waiting = match self.waiting.try_lock() {
            Ok(waiting) => waiting,
            Err(TryLockError::Poisoned(waiting)) => waiting.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        if !waiting.is_empty() {
            send_all(self.stream, &mut [IoSlice::new(&waiting)])?;
            waiting.clear();
        }
        Ok(())
    }

    fn chunk(&self, of: &Request, flags: u16, kind: u16, length: usize, out: &mut Vec<u8>) {
        let header = ReplyHeader::Chunk { flags, kind, cookie: of.cookie, offset: of.offset, length: length as u64 };
        header.encode(self.mode, out);
    }

    /// A request without data in its answer is done. `more`: other answers come soon.
    pub(super) fn done(&self, of: &Request, more: bool) -> io::Result<()> {
        let mut head = Vec::with_capacity(32);
        match self.mode {
            Mode::Extended => self.chunk(of, chunk::DONE, chunk::NONE, 0, &mut head),
            _ => ReplyHeader::Simple { error: 0, cookie: of.cookie }.encode(self.mode, &mut head),
        }
        self.send(&[IoSlice::new(&head)], more)
    }

    /// A request failed.
    pub(super) fn failed(&self, of: &Request, failure: &Failure, more: bool) -> io::Result<()> {
        let mut head = Vec::with_capacity(64);
        if self.mode == Mode::Simple {
            ReplyHeader::Simple { error: failure.errno as u32, cookie: of.cookie }.encode(self.mode, &mut head);
        } else {
            let error = ErrorChunk { error: failure.errno as u32, message: failure.message.to_string(), offset: None };
            let payload = error.encode();
            self.chunk(of, chunk::DONE, error.kind(), payload.len(), &mut head);
            head.extend_from_slice(&payload);
        }
        self.send(&[IoSlice::new(&head)], more)
    }

    /// A read is done: `data` from the request's offset on, but for the holes. Those of the first bytes of a longer request
    /// only, as long as `data` is.
    pub(super) fn data(&self, of: &Request, data: &[u8], holes: &[Range<u64>], more: bool) -> io::Result<()> {
        debug_assert_eq!(of.command, command::READ);
        let mut head = Vec::with_capacity(64);
        if self.mode == Mode::Simple {
            ReplyHeader::Simple { error: 0, cookie: of.cookie }.encode(self.mode, &mut head);
            return self.send(&[IoSlice::new(&head), IoSlice::new(data)], more);
        }
        if data.is_empty() {
            self.chunk(of, chunk::DONE, chunk::NONE, 0, &mut head);
            return self.send(&[IoSlice::new(&head)], more);
        }
        let end = of.offset + data.len() as u64;
        if holes.is_empty() {
            self.data_head(of, of.offset..end, end, &mut head);
            return self.send(&[IoSlice::new(&head), IoSlice::new(data)], more);
        }
        // The heads of all chunks, and for each where it ends and what data follows it.
        const CHUNK: usize = 44;
        let most = 2 * holes.len() + 1;
        head.reserve_exact(most * CHUNK);
        let mut pieces = Vec::with_capacity(most);
        let mut at = of.offset;
        for hole in holes.iter().cloned().chain(std::iter::once(end..end)) {
            if at < hole.start {
                self.data_head(of, at..hole.start, end, &mut head);
                pieces.push((head.len(), (at - of.offset) as usize..(hole.start - of.offset) as usize));
            }
            if !hole.is_empty() {
                let flags = if hole.end == end { chunk::DONE } else { 0 };
                self.chunk(of, flags, chunk::OFFSET_HOLE, 12, &mut head);
                let length = (hole.end - hole.start) as u32;
                head.extend_from_slice(&HoleChunk { offset: hole.start, length }.encode());
                pieces.push((head.len(), 0..0));
            }
            at = hole.end;
        }
        let mut from = 0;
        let mut parts = Vec::with_capacity(pieces.len() * 2);
        for (to, range) in pieces {
            parts.extend([IoSlice::new(&head[from..to]), IoSlice::new(&data[range])]);
            from = to;
        }
        self.send(&parts, more)
    }

    fn data_head(&self, of: &Request, range: Range<u64>, end: u64, head: &mut Vec<u8>) {
        let flags = if range.end == end { chunk::DONE } else { 0 };
        self.chunk(of, flags, chunk::OFFSET_DATA, 8 + (range.end - range.start) as usize, head);
        head.extend_from_slice(&range.start.to_be_bytes());
    }

    /// The extents of one context; `last` if no other one follows.
    pub(super) fn status(&self, of: &Request, status: &StatusChunk, last: bool) -> io::Result<()> {
        let payload = status.encode(self.mode);
        let mut head = Vec::with_capacity(32);
        let flags = if last { chunk::DONE } else { 0 };
        self.chunk(of, flags, StatusChunk::kind(self.mode), payload.len(), &mut head);
        self.send(&[IoSlice::new(&head), IoSlice::new(&payload)], false)
    }
}
