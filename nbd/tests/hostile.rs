//! Clients that do what they should not: they are cut off or refused, nothing panics, nothing grows, and others are served.

mod common;

use common::{Form, KIB, MIB, Probe, chunks, client, pattern, raw_of, session};
use dirtymap_nbd::client::Negotiation;
use dirtymap_nbd::codec::values::{chunk, command, option};
use dirtymap_nbd::codec::{InfoRequest, MetaRequest, Mode, OptionHeader, Request};
use dirtymap_nbd::{Backend, End, Errno, Extents, Failure, Features, FixedExports, Limits, SessionError, serve};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

const SIZE: usize = 256 * KIB;

/// Sends bytes and says that no more come; returns all that came back, and how the session ended.
fn sent(bytes: &[u8]) -> (Vec<u8>, common::Session) {
    let (mut stream, session) = session(Probe::new(SIZE), Limits::default());
    let mut answers = stream.try_clone().expect("clone");
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = answers.read_to_end(&mut all);
        all
    });
    // The server may hang up in the middle.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    (reader.join().expect("no panic"), session)
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    [&OptionHeader { option, length: data.len() as u32 }.encode()[..], data].concat()
}

/// A handshake of all options up to `GO`, and where in it one message ends and the next one begins.
fn handshake(form: Form) -> (Vec<u8>, Vec<usize>) {
    let meta = MetaRequest { name: "disk".into(), queries: vec!["base:allocation".into()] }.encode();
    let info = InfoRequest { name: "disk".into(), wanted: vec![3] }.encode();
    let form = match form {
        Form::Extended => option::EXTENDED_HEADERS,
        _ => option::STRUCTURED_REPLY,
    };
    let messages = [
        3u32.to_be_bytes().to_vec(),
        option(option::LIST, &[]),
        option(form, &[]),
        option(option::LIST_META_CONTEXT, &meta),
        option(option::SET_META_CONTEXT, &meta),
        option(option::INFO, &info),
        option(option::GO, &info),
    ];
    let mut bytes = Vec::new();
    let mut ends = vec![0];
    for message in messages {
        bytes.extend(message);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

#[test]
fn a_disconnect_at_every_byte_of_the_handshake() {
    let (bytes, ends) = handshake(Form::Structured);
    for n in 0..=bytes.len() {
        let (_, session) = sent(&bytes[..n]);
        let end = session.end();
        // Between two messages it is a client that has gone; else it is one that failed.
        match ends.contains(&n) {
            true => assert!(matches!(end, Ok(End::Closed)), "{n}: {end:?}"),
            false => assert!(matches!(end, Err(SessionError::Io(_))), "{n}: {end:?}"),
        }
    }
}

#[test]
fn a_disconnect_at_every_byte_of_a_request() {
    for (form, mode) in [(Form::Structured, Mode::Structured), (Form::Extended, Mode::Extended)] {
        let (start, _) = handshake(form);
        let flags = if form == Form::Extended { 1 << 5 } else { 0 };
        let request = Request { flags, command: command::WRITE, cookie: 1, offset: 0, length: 100 };
        let bytes = [start.clone(), request.encode(mode).expect("encode"), vec![7; 100]].concat();
        for n in start.len()..=bytes.len() {
            let (_, session) = sent(&bytes[..n]);
            let probe = Arc::clone(&session.probe);
            let end = session.end();
            let whole = n == bytes.len();
            assert_eq!(matches!(end, Ok(End::Closed)), whole || n == start.len(), "{n}: {end:?}");
            // All of a write, or nothing.
            assert_eq!(probe.memory.bytes()[..100], if whole { [7; 100] } else { [0; 100] });
        }
    }
}

#[test]
fn a_disconnect_does_not_take_back_what_was_acknowledged() {
    let (mut client, session) = client(Probe::new(SIZE), Form::Structured);
    client.write(0, &[5; 100], 0).expect("acknowledged");
    // Answers nobody will read.
    for _ in 0..10 {
        client.submit(command::READ, 0, 0, SIZE as u64, &[]).expect("submit");
    }
    drop(client);
    let probe = Arc::clone(&session.probe);
    let _ = session.end();
    assert_eq!(probe.memory.bytes()[..100], [5; 100]);
}

#[test]
fn huge_lengths_make_nothing_grow() {
    let (start, ends) = handshake(Form::Extended);
    let go = ends[ends.len() - 2];
    let header = |option, length| OptionHeader { option, length }.encode().to_vec();
    for (bytes, what) in [
        (header(option::LIST, u32::MAX), "an option of 4 GiB"),
        (header(option::GO, (1 << 20) + 1), "an option of more than 1 MiB"),
        (option(option::GO, &[0xff; 100]), "a name of 4 GiB"),
        (option(option::SET_META_CONTEXT, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), "4 Gi queries"),
    ] {
        let (_, session) = sent(&[&start[..go], &bytes].concat());
        let end = session.end();
        assert!(!matches!(end, Ok(End::Asked)), "{what}: {end:?}");
    }
    let request = |command, flags, length| {
        let request = Request { flags, command, cookie: 1, offset: 0, length };
        request.encode(Mode::Extended).expect("encode")
    };
    for (command, flags, length) in [
        (command::WRITE, 1 << 5, u64::MAX),
        (command::WRITE, 1 << 5, (32 << 20) + 1),
        (command::WRITE, 0, 1 << 40),
        (command::TRIM, 1 << 5, 1 << 20),
        (command::BLOCK_STATUS, 1 << 5, 1 << 20),
    ] {
        let (_, session) = sent(&[start.clone(), request(command, flags, length)].concat());
        assert!(matches!(session.end(), Err(SessionError::Protocol(_))), "{command} {length}");
    }
    // Without a payload, it is only refused.
    let ranges = [command::READ, command::TRIM, command::CACHE, command::WRITE_ZEROES, command::BLOCK_STATUS];
    let bytes = [start, ranges.iter().flat_map(|command| request(*command, 0, u64::MAX)).collect()].concat();
    let (answers, session) = sent(&bytes);
    assert!(session.probe.calls().is_empty());
    assert!(matches!(session.end(), Ok(End::Closed)));
    let errors = answers.windows(4).filter(|window| *window == 0x6e8a_278c_u32.to_be_bytes()).count();
    assert_eq!(errors, ranges.len());
}

#[test]
fn a_wrong_magic_number_ends_the_session() {
    let (start, ends) = handshake(Form::Structured);
    for at in ends.iter().skip(1).copied() {
        let mut bytes = [&start[..at], &[0x5a; 32]].concat();
        bytes.extend([0; 100]);
        let (_, session) = sent(&bytes);
        assert!(matches!(session.end(), Err(SessionError::Protocol(_))), "{at}");
    }
}

#[test]
fn a_slow_reader_holds_up_nobody_else() {
    let probe = Arc::new(Probe::new(4 * MIB));
    let exports = Arc::new(FixedExports::new().with("disk", probe));
    let connect = || {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let exports = Arc::clone(&exports);
        let thread = std::thread::spawn(move || serve(&theirs, &*exports, Limits::default()));
        let closer = ours.try_clone().expect("clone");
        (Negotiation::start(Box::new(ours)).expect("greet").go("disk").expect("go"), closer, thread)
    };
    // More answers than any socket holds, and none of them is read.
    let (mut slow, closer, slow_thread) = connect();
    for _ in 0..100 {
        slow.submit(command::READ, 0, 0, 4 << 20, &[]).expect("submit");
    }
    let (mut other, _, _) = connect();
    for _ in 0..20 {
        assert_eq!(other.read(0, 4 << 20, 0).expect("read").len(), 4 << 20);
    }
    // It gets them all when it reads at last.
    for _ in 0..50 {
        slow.receive().expect("receive");
    }
    // And when it goes, nothing waits for it.
    closer.shutdown(Shutdown::Both).expect("shutdown");
    assert!(slow_thread.join().expect("no panic").is_err());
}

/// An export whose reads wait until they are let go.
#[derive(Default)]
struct Crowded {
    inside: std::sync::Mutex<usize>,
    most: std::sync::atomic::AtomicUsize,
    open: std::sync::atomic::AtomicBool,
    changed: std::sync::Condvar,
}

impl Backend for Crowded {
    fn size(&self) -> u64 {
        64 << 20
    }

    fn features(&self) -> Features {
        Features::default()
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Failure> {
        let mut inside = self.inside.lock().expect("lock");
        *inside += 1;
        self.most.fetch_max(*inside, SeqCst);
        self.changed.notify_all();
        inside = self.changed.wait_while(inside, |_| !self.open.load(SeqCst)).expect("lock");
        *inside -= 1;
        Ok(())
    }
}

fn most_at_once(limits: Limits, length: u64, most: usize) {
    let backend = Arc::new(Crowded::default());
    let exports = FixedExports::new().with("", backend.clone());
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let server = std::thread::spawn(move || serve(&theirs, &exports, limits));
    let mut client = Negotiation::start(Box::new(ours)).expect("greet").go("").expect("go");
    for _ in 0..40 {
        client.submit(command::READ, 0, 0, length, &[]).expect("submit");
    }
    // So many come in; the rest would come now, too, if nothing kept it.
    let inside = backend.inside.lock().expect("lock");
    drop(backend.changed.wait_while(inside, |inside| *inside < most).expect("lock"));
    std::thread::sleep(std::time::Duration::from_millis(50));
    let inside = backend.inside.lock().expect("lock");
    backend.open.store(true, SeqCst);
    backend.changed.notify_all();
    drop(inside);
    for _ in 0..40 {
        client.receive().expect("receive").done.expect("read");
    }
    drop(client);
    server.join().expect("no panic").expect("served");
    assert_eq!(backend.most.load(SeqCst), most, "requests at once");
}

#[test]
fn requests_at_once_are_bounded_by_threads_and_by_memory() {
    // As many as may be, and not one more.
    most_at_once(Limits { threads: 5, ..Limits::default() }, 512, 5);
    most_at_once(Limits { threads: 1, ..Limits::default() }, 512, 1);
    most_at_once(Limits { memory: 3 << 20, payload: 1 << 20, ..Limits::default() }, 1 << 20, 3);
    // At least one, however long it is.
    most_at_once(Limits { memory: 1, payload: 1 << 20, ..Limits::default() }, 1 << 20, 1);
}

#[test]
fn a_backend_that_panics_takes_its_session_along_and_no_other() {
    struct Panics;
    impl Backend for Panics {
        fn size(&self) -> u64 {
            4096
        }
        fn features(&self) -> Features {
            Features::default()
        }
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Failure> {
            panic!("as the test wants it")
        }
    }
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let exports = FixedExports::new().with("", Arc::new(Panics));
    let server = std::thread::spawn(move || serve(&theirs, &exports, Limits::default()));
    let mut client = Negotiation::start(Box::new(ours)).expect("greet").go("").expect("go");
    assert!(client.read(0, 512, 0).is_err(), "no answer can come");
    assert!(server.join().is_err());
}

#[test]
fn what_a_backend_says_wrongly_breaks_no_reply() {
    struct Wrong;
    impl Backend for Wrong {
        fn size(&self) -> u64 {
            1 << 20
        }
        fn features(&self) -> Features {
            Features::default()
        }
        fn contexts(&self) -> Vec<String> {
            vec!["x-test:empty".into()]
        }
        fn read(&self, _: u64, into: &mut [u8]) -> Result<(), Failure> {
            into.fill(1);
            Ok(())
        }
        #[expect(clippy::reversed_empty_ranges)]
        fn holes(&self, range: std::ops::Range<u64>) -> Vec<std::ops::Range<u64>> {
            // Outside, overlapping, turned round.
            vec![0..8192, 4096..16384, 9000..100, range.end - 4096..u64::MAX]
        }
        fn block_status(&self, _: usize, _: u64, _: u64, extents: &mut Extents) -> Result<(), Failure> {
            extents.push(0, 1);
            Ok(())
        }
    }
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let exports = FixedExports::new().with("", Arc::new(Wrong));
    let _server = std::thread::spawn(move || serve(&theirs, &exports, Limits::default()));
    let mut negotiation = Negotiation::start(Box::new(ours)).expect("greet");
    negotiation.structured_reply().expect("structured");
    negotiation.set_meta_context("", &["x-test:empty".into()]).expect("contexts");
    let mut client = negotiation.go("").expect("go");
    let data = client.read(1024, 100 * KIB as u32, 0).expect("a reply that is whole");
    let zeroes = data.iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeroes, (8192 - 1024) + 8192 + 4096);
    assert!(client.block_status(0, 512, 0).is_err());
    client.read(0, 512, 0).expect("the session goes on");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn garbage_ends_sessions_and_nothing_else(
        upto in 0..8usize,
        extended in any::<bool>(),
        garbage in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(0xff)], 0..400),
    ) {
        let (start, ends) = handshake(if extended { Form::Extended } else { Form::Structured });
        let at = ends.get(upto).copied().unwrap_or(start.len());
        let (_, session) = sent(&[&start[..at], &garbage].concat());
        // Whatever it is: it ends, and does not panic.
        let _ = session.end();
    }

    #[test]
    fn requests_of_any_kind_are_answered_once(
        extended in any::<bool>(),
        asked in prop::collection::vec((0..10u16, any::<u16>(), 0..300u64, prop_oneof![0..300u64, Just(u64::MAX)]), 1..20),
    ) {
        let (start, _) = handshake(if extended { Form::Extended } else { Form::Structured });
        let mode = if extended { Mode::Extended } else { Mode::Structured };
        let mut bytes = start;
        let mut wanted = 0;
        for (cookie, (command, flags, offset, length)) in asked.into_iter().enumerate() {
            if command == command::DISC {
                continue;
            }
            let payload = command == command::WRITE || (extended && flags & 1 << 5 != 0);
            let length = if payload { length.min(300) } else if extended { length } else { length.min(u32::MAX.into()) };
            let cookie = cookie as u64 + 1;
            bytes.extend(Request { flags, command, cookie, offset: offset * 1000, length }.encode(mode).unwrap());
            bytes.extend(pattern(0, if payload { length as usize } else { 0 }));
            wanted += 1;
        }
        let (answers, session) = sent(&bytes);
        let end = session.end();
        prop_assert!(matches!(end, Ok(End::Closed)), "{:?}", end);
        prop_assert_eq!(finished(&answers, mode), wanted);
    }
}

/// Counts the answers that are whole, behind the handshake.
fn finished(answers: &[u8], mode: Mode) -> usize {
    use dirtymap_nbd::codec::ReplyHeader;
    use dirtymap_nbd::codec::values::{chunk, reply};
    let mut at = 18;
    loop {
        let header = dirtymap_nbd::codec::OptionReply::parse(&answers[at..at + 20]).expect("a reply");
        at += 20 + header.length as usize;
        if (header.option, header.kind) == (option::GO, reply::ACK) {
            break;
        }
    }
    let mut done = 0;
    while at < answers.len() {
        let length = ReplyHeader::bytes(&answers[at..], mode).expect("a header");
        let header = ReplyHeader::parse(&answers[at..at + length], mode).expect("a header");
        at += length;
        match header {
            ReplyHeader::Simple { .. } => done += 1,
            ReplyHeader::Chunk { flags, length, .. } => {
                at += length as usize;
                done += usize::from(flags & chunk::DONE != 0);
            }
        }
    }
    done
}

#[test]
fn a_read_has_no_more_holes_than_its_limit() {
    for form in [Form::Structured, Form::Extended] {
        let (mut stream, mode, session) = raw_of(4 * MIB, form);
        for at in (68 * KIB as u64..4 * MIB as u64).step_by(8192) {
            session.probe.memory.write(at, &[7; 4096], false).expect("write");
        }
        let request = Request { flags: 0, command: command::READ, cookie: 1, offset: 4096, length: 3 * MIB as u64 };
        stream.write_all(&request.encode(mode).expect("encode")).expect("write");
        let chunks = chunks(&mut stream, mode);
        let count = |wanted: u16| chunks.iter().filter(|(kind, _)| *kind == wanted).count();
        assert_eq!((count(chunk::OFFSET_HOLE), count(chunk::OFFSET_DATA)), (128, 129), "{form:?}");
    }
    let (mut client, session) = client(Probe::new(4 * MIB), Form::Extended);
    for at in (0..4 * MIB as u64).step_by(8192) {
        session.probe.memory.write(at, &[7; 4096], false).expect("write");
    }
    assert!(client.read(0, 4 * MIB as u32, 0).expect("read") == session.probe.memory.bytes());
}

/// An export whose second context is told when it is let go, and fails then.
struct Slow(Probe);

impl Backend for Slow {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    fn features(&self) -> Features {
        self.0.features
    }

    fn contexts(&self) -> Vec<String> {
        ["x-test:first", "x-test:second"].map(String::from).into()
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        self.0.read(offset, into)
    }

    fn block_status(&self, context: usize, _: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        extents.push(length, 1);
        if context == 0 { Ok(()) } else { self.0.read(0, &mut [0]).and(Err(Failure::new(Errno::Io, "it fails"))) }
    }
}

/// So that there is one list at a time, however many contexts a client has chosen.
#[test]
fn each_context_is_told_before_the_next_is_asked_for() {
    let (mut stream, theirs) = UnixStream::pair().expect("a pair");
    let slow = Arc::new(Slow(Probe::new(SIZE)));
    slow.0.gate.close(0);
    let exports = FixedExports::new().with("", Arc::clone(&slow) as _);
    let _server = std::thread::spawn(move || serve(&theirs, &exports, Limits::default()));
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a limit");
    let mut negotiation = Negotiation::start(Box::new(stream.try_clone().expect("clone"))).expect("greet");
    negotiation.structured_reply().expect("form");
    negotiation.set_meta_context("", &["x-test:first".into(), "x-test:second".into()]).expect("contexts");
    let mut client = negotiation.go("").expect("go");
    client.submit(command::BLOCK_STATUS, 0, 0, 4096, &[]).expect("submit");
    let mut first = [0; 20 + 12];
    stream.read_exact(&mut first).expect("what the first context is");
    slow.0.gate.open();
    // An error, which is the last.
    assert_eq!(chunks(&mut stream, Mode::Structured).len(), 1);
    client.submit(command::BLOCK_STATUS, 0, 0, 4096, &[]).expect("submit");
    assert_eq!(client.receive().expect("an answer").done.expect_err("it fails").errno, Errno::Io);
    client.submit(command::READ, 0, 0, 4096, &[]).expect("submit");
    assert!(client.receive().expect("the session goes on").done.is_ok());
}
