//! Who reads requests and who handles them.
//!
//! One thread at a time reads. With a request in hand it leaves the reading to another one, handles the request, and sends
//! the answer as soon as it has it: a slow request holds up none that came later. Threads are made when a request would
//! find none to read on, up to the limit. No lock is held while a backend works. As long as requests are small and most
//! are answered quickly, the reader goes on reading itself, which saves waking another thread for each request, and answers
//! those that are here already together; `turn` has what happens when one of them is slow all the same.
//!
//! Invariant kept here: each request gets one answer, or the connection ends; nothing is read once the session is ending.

use super::handshake::Agreed;
use super::memory::{Buffer, Memory};
use super::reply::Replies;
use super::rules;
use super::turn::{For, Turn};
use super::{End, Limits, SessionError};
use crate::backend::{Extents, Zeroes};
use crate::codec::values::{command, flag};
use crate::codec::{Mode, Request, StatusChunk, StatusPayload};
use crate::failure::Failure;
use crate::stream::{Incoming, Stream};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

struct Transmission<'a> {
    stream: &'a dyn Stream,
    agreed: Agreed,
    limits: Limits,
    memory: Memory,
    replies: Replies<'a>,
    turn: Turn,
    threads: AtomicUsize,
    /// Grows with each request that was quick, and shrinks with each that was not.
    quickness: AtomicU32,
    end: Mutex<Option<Result<End, SessionError>>>,
}

struct Job<'m> {
    request: Request,
    /// The payload of the request, or room for what is read.
    data: Buffer<'m>,
    checked: Result<(), Failure>,
}

/// A request is quick if it took no longer.
const QUICK: Duration = Duration::from_micros(100);
/// So many quick ones, and the next one should be, too.
const QUICK_ENOUGH: u32 = 32;
/// More of them do not count.
const QUICKEST: u32 = 64;
/// What is lost with one that was not. A thread that loses its processor for a while is no slow request.
const NOT_QUICK: u32 = 16;
/// A longer request may not be quick.
const QUICK_LENGTH: u64 = 256 << 10;
/// A shorter one is done before another thread has begun with the next.
const WORTH_A_HELPER: u64 = 32 << 10;
/// A shorter hole is sent as data.
const SHORTEST_HOLE: u64 = 4096;
/// Shorter reads are not worth asking for holes.
const SHORTEST_READ_WITH_HOLES: u64 = 32 << 10;
/// Holes of one answer at most: what bounds the memory for its chunks. What is behind the last one is sent as data.
const MOST_HOLES: usize = 128;
/// Bytes of which holes are asked at once: what bounds the list of a backend.
const HOLES_AT_ONCE: u64 = 1 << 20;
/// Longest payload that is neither a write's nor chooses contexts; a longer one ends the session.
const MOST_CHOSEN: u64 = 64 << 10;

pub(super) fn run(
    stream: &dyn Stream,
    incoming: Incoming,
    agreed: Agreed,
    limits: Limits,
) -> Result<End, SessionError> {
    let session = Transmission {
        stream,
        memory: Memory::new(limits.memory.max(limits.payload as usize)),
        replies: Replies::new(stream, agreed.mode),
        agreed,
        limits,
        turn: Turn::new(incoming),
        threads: AtomicUsize::new(1),
        quickness: AtomicU32::new(0),
        end: Mutex::new(None),
    };
    thread::scope(|scope| session.work(scope));
    let end = session.end.into_inner().unwrap_or_else(PoisonError::into_inner);
    end.unwrap_or(Ok(End::Closed))
}

/// Ends the session if a backend panics: other threads would wait for the connection for ever.
struct Panics<'s, 'a>(&'s Transmission<'a>);

impl Drop for Panics<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.turn.end();
            self.0.stream.close();
        }
    }
}

impl<'a> Transmission<'a> {
    /// What each thread does.
    fn work<'scope, 'env>(&'env self, scope: &'scope Scope<'scope, 'env>) {
        let _panics = Panics(self);
        let mut mine = None;
        while let Some(mut incoming) = mine.take().or_else(|| self.wait()) {
            let job = match self.next(&mut incoming) {
                Ok(Ok(job)) => job,
                Ok(Err(end)) => {
                    self.flush();
                    return self.finish(Ok(end));
                }
                Err(e) => return self.finish(Err(e)),
            };
            let (quick, ready) = (self.is_quick(&job), incoming.ready() >= Request::bytes(self.agreed.mode));
            let whom = match quick {
                true if ready && job.request.length >= WORTH_A_HELPER => For::Helper,
                true => For::Done,
                false => For::Another,
            };
            let others = self.turn.lay_down(incoming, whom);
            if !others {
                self.make_thread(scope);
            }
            // Answers wait for quick requests only. If one is not quick after all, another thread reads what is here, and
            // sends them when it has to wait for more; the last thread has nobody who would do that.
            let more = quick && others;
            if !more {
                self.flush();
            }
            self.handle(job, more && ready);
            mine = self.turn.take_up();
        }
    }

    /// Waits for the turn; no answer does.
    fn wait(&self) -> Option<Incoming> {
        self.flush();
        self.turn.wait()
    }

    /// Sends the answers that wait.
    fn flush(&self) {
        if let Err(e) = self.replies.flush() {
            self.is_gone(e);
        }
    }

    /// The client is gone, or takes nothing.
    fn is_gone(&self, e: io::Error) {
        self.finish(Err(e.into()));
        // The reader waits for it.
        self.stream.close();
    }

    fn make_thread<'scope, 'env>(&'env self, scope: &'scope Scope<'scope, 'env>) {
        let room = |threads| (threads < self.limits.threads).then_some(threads + 1);
        if self.threads.fetch_update(Relaxed, Relaxed, room).is_err() {
            return;
        }
        let made = thread::Builder::new().name("nbd".into()).spawn_scoped(scope, || self.work(scope));
        if made.is_err() {
            // Those that are there do it.
            self.threads.fetch_sub(1, Relaxed);
        }
    }

    fn finish(&self, how: Result<End, SessionError>) {
        self.turn.end();
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(how);
    }

    /// Whether the reader reads on itself afterwards.
    fn is_quick(&self, job: &Job<'_>) -> bool {
        self.quickness.load(Relaxed) >= QUICK_ENOUGH
            && matches!(job.request.command, command::READ | command::WRITE)
            && job.request.flags & flag::FUA == 0
            && job.request.length <= QUICK_LENGTH
    }

    /// Reads the next request, or how the session ends.
    fn next<'m>(&'m self, incoming: &mut Incoming) -> Result<Result<Job<'m>, End>, SessionError> {
        let mode = self.agreed.mode;
        self.before(incoming, Request::bytes(mode) as u64)?;
        let Some(header) = incoming.next(self.stream, Request::bytes(mode))? else { return Ok(Err(End::Closed)) };
        let request = Request::parse(header, mode)?;
        if request.command == command::DISC {
            return Ok(Err(End::Asked));
        }
        let payload = rules::payload(&request, mode);
        incoming.expect_large(payload >= Incoming::AHEAD as u64);
        self.before(incoming, payload)?;
        let most = if request.command == command::WRITE { self.limits.payload.into() } else { MOST_CHOSEN };
        if payload > most {
            return Err(SessionError::Protocol("a payload that is longer than this server takes"));
        }
        let checked = rules::check(&request, &self.agreed);
        let room = match request.command {
            command::READ if checked.is_ok() => request.length,
            _ if checked.is_ok() => payload,
            _ => {
                incoming.skip(self.stream, payload)?;
                0
            }
        };
        let mut data = self.memory.take(room as usize, || self.flush());
        if checked.is_ok() && payload > 0 {
            incoming.fill(self.stream, &mut data)?;
        }
        Ok(Ok(Job { request, data, checked }))
    }

    /// Before so many bytes are read: if they have to be waited for, no answer waits.
    fn before(&self, incoming: &Incoming, n: u64) -> io::Result<()> {
        if (incoming.ready() as u64) < n { self.replies.flush() } else { Ok(()) }
    }

    /// Has a request done, and answers it: with the next ones if `more` come soon.
    fn handle(&self, mut job: Job<'_>, more: bool) {
        let begun = Instant::now();
        let checked = std::mem::replace(&mut job.checked, Ok(()));
        let done = checked.and_then(|()| self.ask(&mut job));
        let known = self.quickness.load(Relaxed);
        let now = match begun.elapsed() > QUICK {
            true => known.saturating_sub(NOT_QUICK),
            false => (known + 1).min(QUICKEST),
        };
        // Of two at once, one may count.
        self.quickness.store(now, Relaxed);
        let request = &job.request;
        let sent = match done {
            Ok(Answer::Done) => self.replies.done(request, more),
            Ok(Answer::Data(holes)) => self.replies.data(request, &job.data, &holes, more),
            Ok(Answer::Status { length, contexts }) => self.tell(request, length, &contexts),
            Err(failure) => self.replies.failed(request, &failure, more),
        };
        if let Err(e) = sent {
            self.is_gone(e);
        }
    }

    /// Asks the backend.
    fn ask(&self, job: &mut Job<'_>) -> Result<Answer, Failure> {
        let Request { flags, offset, length, .. } = job.request;
        let backend = &*self.agreed.backend;
        let fua = flags & flag::FUA != 0;
        match job.request.command {
            command::READ if length == 0 => return Ok(Answer::Data(Vec::new())),
            command::WRITE | command::TRIM | command::CACHE | command::WRITE_ZEROES if length == 0 => {}
            command::READ => return self.read(&job.request, &mut job.data),
            command::BLOCK_STATUS => return self.status(&job.request, &job.data),
            command::WRITE => backend.write(offset, &job.data, fua)?,
            command::FLUSH => backend.flush()?,
            command::TRIM => backend.trim(offset, length, fua)?,
            command::CACHE => backend.cache(offset, length)?,
            command::WRITE_ZEROES => {
                let (no_hole, fast) = (flags & flag::NO_HOLE != 0, flags & flag::FAST_ZERO != 0);
                backend.write_zeroes(offset, length, Zeroes { fua, no_hole, fast })?;
            }
            _ => return Err(Failure::invalid("unknown command")),
        }
        Ok(Answer::Done)
    }

    fn read(&self, request: &Request, into: &mut [u8]) -> Result<Answer, Failure> {
        let Request { flags, offset, length, .. } = *request;
        let whole = self.agreed.mode == Mode::Simple || flags & flag::DF != 0 || length < SHORTEST_READ_WITH_HOLES;
        let holes = if whole { Vec::new() } else { self.holes(offset..offset + length) };
        let mut at = offset;
        for hole in holes.iter().cloned().chain(std::iter::once(offset + length..offset + length)) {
            if at < hole.start {
                let range = (at - offset) as usize..(hole.start - offset) as usize;
                self.agreed.backend.read(at, &mut into[range])?;
            }
            at = hole.end;
        }
        Ok(Answer::Data(holes))
    }

    /// The holes of a read that are worth a chunk of their own, as many as an answer may have.
    fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end && found.len() < MOST_HOLES {
            let piece = at..range.end.min(at + HOLES_AT_ONCE);
            at = piece.end;
            for hole in worthwhile(self.agreed.backend.holes(piece.clone()), piece) {
                match found.last_mut().filter(|last| last.end == hole.start) {
                    Some(last) => last.end = hole.end,
                    None => found.push(hole),
                }
            }
        }
        found.truncate(MOST_HOLES);
        found
    }

    fn status(&self, request: &Request, payload: &[u8]) -> Result<Answer, Failure> {
        let (length, contexts) = if request.flags & flag::PAYLOAD_LEN != 0 {
            let payload = StatusPayload::parse(payload).map_err(|e| Failure::invalid(e.0))?;
            rules::check_range(request, payload.length, &self.agreed)?;
            (payload.length, payload.contexts)
        } else {
            (request.length, self.agreed.contexts.clone())
        };
        let mut sorted = contexts.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.is_empty()
            || sorted.len() != contexts.len()
            || !sorted.iter().all(|id| self.agreed.contexts.contains(id))
        {
            return Err(Failure::invalid("not contexts that were chosen, each once"));
        }
        if length == 0 {
            return Err(Failure::invalid("the state of no bytes"));
        }
        Ok(Answer::Status { length, contexts })
    }

    /// Tells the states of each context, before the next one is asked for: there is one list at a time. An error ends the reply.
    fn tell(&self, request: &Request, length: u64, contexts: &[u32]) -> io::Result<()> {
        let one = request.flags & flag::REQ_ONE != 0;
        for (i, &context) in contexts.iter().enumerate() {
            let mut extents = Extents::new(length, one);
            let told = self.agreed.backend.block_status(context as usize, request.offset, length, &mut extents);
            let extents = extents.into_list();
            let failure = match told {
                Ok(()) if !extents.is_empty() => {
                    self.replies.status(request, &StatusChunk { context, extents }, i + 1 == contexts.len())?;
                    continue;
                }
                Ok(()) => Failure::new(crate::Errno::Io, "the export did not say the state"),
                Err(failure) => failure,
            };
            return self.replies.failed(request, &failure, false);
        }
        Ok(())
    }
}

/// An answer that is no failure.
enum Answer {
    Done,
    /// What was read is in the request's buffer, but for these holes.
    Data(Vec<Range<u64>>),
    /// The states of so many bytes, for each context.
    Status {
        length: u64,
        contexts: Vec<u32>,
    },
}

/// The holes inside of a range that are long enough. What a backend says wrongly is left out.
fn worthwhile(holes: Vec<Range<u64>>, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut from = range.start;
    holes.into_iter().filter_map(move |hole| {
        let hole = hole.start.max(from)..hole.end.min(range.end);
        let worth = hole.start < hole.end && hole.end - hole.start >= SHORTEST_HOLE;
        worth.then(|| {
            from = hole.end;
            hole
        })
    })
}
