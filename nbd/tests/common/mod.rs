//! Sessions over socket pairs, and a backend that notes what it is asked.
#![allow(dead_code)]

use dirtymap_nbd::client::{Client, Negotiation};
use dirtymap_nbd::codec::values::chunk;
use dirtymap_nbd::codec::{BlockSizes, InfoRequest, Mode, OptionHeader, ReplyHeader};
use dirtymap_nbd::{
    Backend, End, Extents, Failure, Features, FixedExports, Limits, MemoryBackend, SessionError, Zeroes, serve,
};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// The context of [`Probe`] that is dirty from 64 KiB to 128 KiB.
pub const DIRTY: &str = "qemu:dirty-bitmap:dirty";
/// The context of [`Probe`] that has one extent, all of it 7.
pub const WHOLE: &str = "x-test:whole";

/// All that an export can offer, in memory; notes each call, and can be told to fail or to wait.
pub struct Probe {
    pub memory: MemoryBackend,
    pub features: Features,
    pub sizes: BlockSizes,
    pub calls: Mutex<Vec<String>>,
    pub fails: Mutex<Option<Failure>>,
    pub gate: Gate,
}

/// Reads at this offset wait until the gate is opened.
#[derive(Default)]
pub struct Gate {
    closed: Mutex<Option<u64>>,
    changed: Condvar,
}

impl Gate {
    pub fn close(&self, at: u64) {
        *self.closed.lock().expect("lock") = Some(at);
    }

    pub fn open(&self) {
        *self.closed.lock().expect("lock") = None;
        self.changed.notify_all();
    }

    fn pass(&self, at: u64) {
        let closed = self.closed.lock().expect("lock");
        drop(self.changed.wait_while(closed, |closed| *closed == Some(at)).expect("lock"));
    }
}

impl Probe {
    pub fn new(size: usize) -> Self {
        let memory = MemoryBackend::new(size);
        let features = memory.features();
        let sizes = BlockSizes::default();
        Self { memory, features, sizes, calls: Mutex::default(), fails: Mutex::default(), gate: Gate::default() }
    }

    pub fn read_only(mut self) -> Self {
        self.features.read_only = true;
        self
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().expect("lock"))
    }

    fn note(&self, call: String) -> Result<(), Failure> {
        self.calls.lock().expect("lock").push(call);
        self.fails.lock().expect("lock").clone().map_or(Ok(()), Err)
    }
}

impl Backend for Probe {
    fn size(&self) -> u64 {
        self.memory.size()
    }

    fn features(&self) -> Features {
        self.features
    }

    fn block_sizes(&self) -> BlockSizes {
        self.sizes
    }

    fn description(&self) -> String {
        "for tests".into()
    }

    fn contexts(&self) -> Vec<String> {
        ["base:allocation", DIRTY, WHOLE].map(String::from).into()
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        self.gate.pass(offset);
        self.note(format!("read {offset} {}", into.len()))?;
        self.memory.read(offset, into)
    }

    fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        assert!(range.end - range.start <= MIB as u64, "a list of holes without a bound");
        self.memory.holes(range)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Failure> {
        self.note(format!("write {offset} {} {fua}", data.len()))?;
        self.memory.write(offset, data, fua)
    }

    fn flush(&self) -> Result<(), Failure> {
        self.note("flush".into())
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), Failure> {
        self.note(format!("trim {offset} {length} {fua}"))?;
        self.memory.trim(offset, length, fua)
    }

    fn write_zeroes(&self, offset: u64, length: u64, how: Zeroes) -> Result<(), Failure> {
        self.note(format!("zeroes {offset} {length} {} {} {}", how.fua, how.no_hole, how.fast))?;
        self.memory.write_zeroes(offset, length, how)
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), Failure> {
        self.note(format!("cache {offset} {length}"))
    }

    fn block_status(&self, context: usize, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        self.note(format!("status {context} {offset} {length}"))?;
        match context {
            0 => return self.memory.block_status(0, offset, length, extents),
            1 => {
                let mut at = offset;
                for (end, flags) in [(64 * KIB as u64, 0), (128 * KIB as u64, 1), (self.size(), 0)] {
                    extents.push(end.saturating_sub(at), flags);
                    at = at.max(end);
                }
            }
            _ => drop(extents.push(self.size() - offset, 7)),
        }
        Ok(())
    }
}

/// A server of one export, `disk`, for one client.
pub struct Session {
    pub probe: Arc<Probe>,
    pub thread: JoinHandle<Result<End, SessionError>>,
}

impl Session {
    /// How the session ended.
    pub fn end(self) -> Result<End, SessionError> {
        self.thread.join().expect("the session did not panic")
    }
}

/// Serves `probe` to the other end of the returned stream.
pub fn session(probe: Probe, limits: Limits) -> (UnixStream, Session) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let probe = Arc::new(probe);
    let exports = FixedExports::new().with("disk", probe.clone());
    let thread = std::thread::spawn(move || serve(&theirs, &exports, limits));
    (ours, Session { probe, thread })
}

/// A client whose options are open.
pub fn negotiate(probe: Probe) -> (Negotiation, Session) {
    let (stream, session) = session(probe, Limits::default());
    (Negotiation::start(Box::new(stream)).expect("greet"), session)
}

/// The three forms of replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Simple,
    Structured,
    Extended,
}

pub const FORMS: [Form; 3] = [Form::Simple, Form::Structured, Form::Extended];

/// A client in transmission, with all contexts where there can be any.
pub fn client(probe: Probe, form: Form) -> (Client, Session) {
    let (mut negotiation, session) = negotiate(probe);
    match form {
        Form::Simple => {}
        Form::Structured => negotiation.structured_reply().expect("structured"),
        Form::Extended => negotiation.extended_headers().expect("extended"),
    }
    if form != Form::Simple {
        let contexts = session.probe.contexts();
        let found = negotiation.set_meta_context("disk", &contexts).expect("contexts");
        assert_eq!(found.len(), contexts.len());
    }
    (negotiation.go("disk").expect("go"), session)
}

/// Bytes that tell where they are.
pub fn pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|at| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0] | 1).collect()
}

/// The chunks of one answer, as type and length of the payload.
pub fn chunks(stream: &mut UnixStream, mode: Mode) -> Vec<(u16, u64)> {
    let mut chunks = Vec::new();
    loop {
        let mut header = vec![0; if mode == Mode::Extended { 32 } else { 20 }];
        stream.read_exact(&mut header).expect("a header");
        let Ok(ReplyHeader::Chunk { flags, kind, length, offset, .. }) = ReplyHeader::parse(&header, mode) else {
            panic!("no chunk: {header:x?}");
        };
        assert_eq!(offset, if mode == Mode::Extended { 4096 } else { 0 });
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).expect("a payload");
        chunks.push((kind, length));
        if flags & chunk::DONE != 0 {
            return chunks;
        }
    }
}

/// A stream in transmission of so many bytes, the first 64 KiB written.
pub fn raw_of(size: usize, form: Form) -> (UnixStream, Mode, Session) {
    let (mut stream, session) = session(Probe::new(size), Limits::default());
    session.probe.memory.write(0, &pattern(0, 64 * KIB), false).expect("write");
    let go = InfoRequest { name: String::new(), wanted: vec![] }.encode();
    let (option, mode) = if form == Form::Extended { (11, Mode::Extended) } else { (8, Mode::Structured) };
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(OptionHeader { option, length: 0 }.encode());
    bytes.extend(OptionHeader { option: 7, length: go.len() as u32 }.encode());
    bytes.extend(go);
    stream.write_all(&bytes).expect("write");
    // Greeting, acknowledgement, size, block sizes, acknowledgement.
    stream.read_exact(&mut [0; 18 + 20 + 32 + 34 + 20]).expect("read");
    (stream, mode, session)
}
