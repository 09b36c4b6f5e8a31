//! Any bytes as what the other end of an NBD connection says. The first byte chooses the end: a client that goes on from
//! the beginning, a client behind a whole handshake of one of the three forms, or a server. Sessions and clients end, and
//! do not panic; what the codec parses it encodes to the same bytes; what a session answers, our own client's codec parses.

use dirtymap_nbd::client::Negotiation;
use dirtymap_nbd::codec::values::{chunk, flag, option, reply};
use dirtymap_nbd::codec::{
    ErrorChunk, Greeting, Info, InfoRequest, MetaContext, MetaRequest, Mode, OptionHeader, OptionReply, ReplyHeader,
    Request, ServerEntry, StatusChunk, StatusPayload,
};
use dirtymap_nbd::{FixedExports, Limits, MemoryBackend, Stream, serve};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Says what it was given, and keeps what it is told.
struct Script {
    says: Mutex<(Vec<u8>, usize)>,
    told: Arc<Mutex<Vec<u8>>>,
}

impl Script {
    fn new(says: Vec<u8>) -> Self {
        Self { says: Mutex::new((says, 0)), told: Arc::default() }
    }
}

impl Stream for Script {
    fn receive(&self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut says = self.says.lock().expect("lock");
        let (bytes, at) = &mut *says;
        let n = (&bytes[*at..]).read_vectored(into)?;
        *at += n;
        Ok(n)
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut told = self.told.lock().expect("lock");
        let before = told.len();
        parts.iter().for_each(|part| told.extend_from_slice(part));
        Ok(told.len() - before)
    }

    fn set_patience(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn stop_receiving(&self) {}

    fn close(&self) {}
}

const SIZE: usize = 64 << 10;

/// A handshake up to `GO`, for a form: 0 simple, 1 structured, 2 extended.
fn handshake(form: u8) -> Vec<u8> {
    let option =
        |option, data: &[u8]| [&OptionHeader { option, length: data.len() as u32 }.encode()[..], data].concat();
    let mut bytes = 3u32.to_be_bytes().to_vec();
    if form > 0 {
        bytes.extend(option(if form == 1 { option::STRUCTURED_REPLY } else { option::EXTENDED_HEADERS }, &[]));
        let meta = MetaRequest { name: String::new(), queries: vec!["base:allocation".into()] };
        bytes.extend(option(option::SET_META_CONTEXT, &meta.encode()));
    }
    bytes.extend(option(option::GO, &InfoRequest { name: String::new(), wanted: vec![] }.encode()));
    bytes
}

/// What a session answered: whole messages, each of which our codec knows.
fn understood(mut told: &[u8], mode: Mode) {
    let mut take = |n: usize| {
        let (taken, rest) = told.split_at(n);
        told = rest;
        taken
    };
    Greeting::parse(take(Greeting::BYTES)).expect("a greeting");
    loop {
        let header = OptionReply::parse(take(OptionReply::BYTES)).expect("a reply to an option");
        take(header.length as usize);
        if (header.option, header.kind) == (option::GO, reply::ACK) {
            break;
        }
    }
    while !told.is_empty() {
        let length = ReplyHeader::bytes(told, mode).expect("the header of a reply");
        let header = ReplyHeader::parse(&told[..length], mode).expect("the header of a reply");
        told = &told[length..];
        let ReplyHeader::Chunk { kind, length, .. } = header else { continue };
        let payload = &told[..length as usize];
        told = &told[length as usize..];
        match kind {
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => {
                let status = StatusChunk::parse(payload, kind).expect("states");
                assert!(status.extents.iter().map(|extent| extent.length).sum::<u64>() <= SIZE as u64);
            }
            chunk::ERROR | chunk::ERROR_OFFSET => drop(ErrorChunk::parse(payload, kind).expect("an error")),
            chunk::NONE => assert!(payload.is_empty()),
            _ => assert!(payload.len() > 8),
        }
    }
}

fn session(bytes: &[u8], form: Option<u8>) {
    let says = [form.map(handshake).unwrap_or_default(), bytes.to_vec()].concat();
    let stream = Script::new(says);
    let exports = FixedExports::new().with("x", Arc::new(MemoryBackend::new(SIZE)));
    let limits = Limits { threads: 1, payload: 16 << 10, memory: 16 << 10, ..Limits::default() };
    let _ = serve(&stream, &exports, limits);
    // Simple replies do not say how long they are.
    if let Some(mode) = [None, Some(Mode::Structured), Some(Mode::Extended)][form.unwrap_or(0) as usize] {
        understood(&stream.told.lock().expect("lock"), mode);
    }
}

fn client(bytes: &[u8]) {
    let Ok(mut negotiation) = Negotiation::start(Box::new(Script::new(bytes.to_vec()))) else { return };
    let _ = negotiation.list();
    let _ = negotiation.extended_headers().or_else(|_| negotiation.structured_reply());
    let _ = negotiation.set_meta_context("", &["base:allocation".into()]).map(drop);
    let Ok(mut client) = negotiation.go("") else { return };
    if let Ok(data) = client.read(0, 1000, 0) {
        assert_eq!(data.len(), 1000);
    }
    let _ = client.block_status(0, 1000, flag::REQ_ONE);
    let _ = client.flush();
}

fn codec(bytes: &[u8]) {
    fn same<T: std::fmt::Debug>(parsed: Result<T, impl std::fmt::Debug>, encode: impl Fn(&T) -> Vec<u8>, bytes: &[u8]) {
        if let Ok(value) = parsed {
            assert_eq!(encode(&value), bytes, "{value:?}");
        }
    }
    same(Greeting::parse(bytes), |m| m.encode().to_vec(), bytes);
    same(OptionHeader::parse(bytes), |m| m.encode().to_vec(), bytes);
    same(OptionReply::parse(bytes), |m| m.encode().to_vec(), bytes);
    same(InfoRequest::parse(bytes), InfoRequest::encode, bytes);
    same(MetaRequest::parse(bytes), MetaRequest::encode, bytes);
    same(ServerEntry::parse(bytes), ServerEntry::encode, bytes);
    same(MetaContext::parse(bytes), MetaContext::encode, bytes);
    same(StatusPayload::parse(bytes), StatusPayload::encode, bytes);
    if !matches!(Info::parse(bytes), Ok(Info::Unknown(_))) {
        same(Info::parse(bytes), Info::encode, bytes);
    }
    for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
        same(Request::parse(bytes, mode), |m| m.encode(mode).expect("as it came"), bytes);
    }
    for kind in [chunk::ERROR, chunk::ERROR_OFFSET] {
        same(ErrorChunk::parse(bytes, kind), ErrorChunk::encode, bytes);
    }
    same(StatusChunk::parse(bytes, chunk::BLOCK_STATUS), |m| m.encode(Mode::Structured), bytes);
}

pub fn run(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    match first % 6 {
        0 => session(rest, None),
        form @ 1..=3 => session(rest, Some(form - 1)),
        4 => client(rest),
        _ => codec(rest),
    }
}
