//! Every option of the handshake, against the session.

mod common;

use common::{DIRTY, Form, KIB, Probe, WHOLE, client, negotiate, session};
use dirtymap_nbd::client::{Error, Negotiation};
use dirtymap_nbd::codec::values::{handshake, option, reply, transmission};
use dirtymap_nbd::codec::{BlockSizes, Greeting, InfoRequest, MetaRequest, Mode, OptionHeader, OptionReply};
use dirtymap_nbd::{End, FixedExports, Limits, SessionError, Stream, serve};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SIZE: usize = 256 * KIB;

/// The type of the refusal.
fn refused<T>(asked: Result<T, Error>) -> u32 {
    match asked {
        Err(Error::Refused { kind, message, .. }) => {
            assert!(!message.is_empty(), "a refusal that does not say why");
            kind
        }
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("not refused"),
    }
}

/// Sends the client flags and raw options; returns what came back behind the greeting.
fn raw(flags: u32, options: &[(u32, Vec<u8>)]) -> (Vec<u8>, Result<End, SessionError>) {
    let (mut stream, session) = session(Probe::new(SIZE), Limits::default());
    stream.write_all(&flags.to_be_bytes()).expect("write");
    for (option, data) in options {
        let header = OptionHeader { option: *option, length: data.len() as u32 };
        // The server may have hung up.
        let _ = stream.write_all(&header.encode()).and_then(|()| stream.write_all(data));
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    let greeting = answer.drain(..Greeting::BYTES).collect::<Vec<_>>();
    let flags = Greeting::parse(&greeting).expect("a greeting").flags;
    assert_eq!(flags, handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
    (answer, session.end())
}

#[test]
fn the_greeting_is_fixed_newstyle() {
    let (answer, end) = raw(3, &[]);
    assert!(answer.is_empty());
    assert!(matches!(end, Ok(End::Closed)));
}

#[test]
fn unknown_client_flags_end_the_session() {
    for flags in [4, 1 << 31] {
        assert!(
            matches!(raw(flags, &[(option::LIST, vec![])]), (answer, Err(SessionError::Protocol(_))) if answer.is_empty())
        );
    }
}

#[test]
fn export_name_enters_transmission() {
    for (flags, length) in [(0, 134), (1, 134), (2, 10), (3, 10)] {
        let (answer, end) = raw(flags, &[(option::EXPORT_NAME, b"disk".to_vec())]);
        assert_eq!(answer.len(), length, "flags {flags}");
        assert_eq!(answer[..8], (SIZE as u64).to_be_bytes());
        assert!(matches!(end, Ok(End::Closed)));
    }
    let (negotiation, session) = negotiate(Probe::new(SIZE));
    let mut client = negotiation.export_name("disk").expect("enter");
    client.write(5, b"hello", 0).expect("write");
    assert_eq!(client.read(4, 7, 0).expect("read"), b"\0hello\0");
    drop(client);
    assert!(matches!(session.end(), Ok(End::Asked)));
}

#[test]
fn export_name_cannot_tell_errors_and_hangs_up() {
    for name in [&b"other"[..], b"\xff", &[b'x'; 20 * KIB]] {
        let (answer, end) = raw(3, &[(option::EXPORT_NAME, name.to_vec())]);
        assert!(answer.is_empty() && matches!(end, Err(SessionError::Protocol(_))));
    }
    // Not after extended headers.
    let (answer, end) = raw(3, &[(option::EXTENDED_HEADERS, vec![]), (option::EXPORT_NAME, b"disk".to_vec())]);
    assert_eq!(answer.len(), OptionReply::BYTES);
    assert!(matches!(end, Err(SessionError::Protocol(_))));
}

#[test]
fn abort_is_acknowledged_and_ends_the_session() {
    let (negotiation, session) = negotiate(Probe::new(SIZE));
    negotiation.abort().expect("acknowledged");
    assert!(matches!(session.end(), Ok(End::Asked)));
    // Data with it are ignored.
    let (answer, end) = raw(3, &[(option::ABORT, vec![1, 2, 3])]);
    assert_eq!(answer, OptionReply { option: option::ABORT, kind: reply::ACK, length: 0 }.encode());
    assert!(matches!(end, Ok(End::Asked)));
}

#[test]
fn list_names_the_exports() {
    let (mut negotiation, _session) = negotiate(Probe::new(SIZE));
    let found = negotiation.list().expect("list");
    assert_eq!(found.len(), 1);
    assert_eq!((&*found[0].name, &*found[0].description), ("disk", "for tests"));
    assert_eq!(refused(negotiation.option(option::LIST, b"x")), reply::ERR_INVALID);
    assert_eq!(negotiation.list().expect("list again").len(), 1);
}

#[test]
fn starttls_is_refused_by_policy() {
    let (mut negotiation, _session) = negotiate(Probe::new(SIZE));
    assert_eq!(refused(negotiation.option(option::STARTTLS, &[])), reply::ERR_POLICY);
    assert_eq!(refused(negotiation.option(option::STARTTLS, b"x")), reply::ERR_INVALID);
    assert!(negotiation.info("disk").is_ok(), "the session goes on");
}

#[test]
fn unknown_options_are_refused_and_skipped() {
    let (mut negotiation, _session) = negotiate(Probe::new(SIZE));
    for option in [0, 4, 12, u32::MAX] {
        assert_eq!(refused(negotiation.option(option, &[7; 100])), reply::ERR_UNSUP);
    }
    assert_eq!(refused(negotiation.option(99, &vec![7; 17 * KIB])), reply::ERR_TOO_BIG);
    assert!(negotiation.info("disk").is_ok());
}

#[test]
fn info_tells_all_and_stays_in_the_handshake() {
    let mut probe = Probe::new(SIZE);
    probe.sizes = BlockSizes { minimum: 512, preferred: 8192, maximum: 1 << 20 };
    let (mut negotiation, _session) = negotiate(probe);
    for name in ["disk", ""] {
        let info = negotiation.info(name).expect("info");
        assert_eq!(info.size, SIZE as u64);
        assert_eq!(info.name.as_deref(), Some("disk"));
        assert_eq!(info.description.as_deref(), Some("for tests"));
        assert_eq!(info.block_sizes, Some(BlockSizes { minimum: 512, preferred: 8192, maximum: 1 << 20 }));
    }
    assert_eq!(refused(negotiation.info("other")), reply::ERR_UNKNOWN);
    assert_eq!(refused(negotiation.option(option::INFO, b"abc")), reply::ERR_INVALID);
    assert!(negotiation.go("disk").is_ok());
}

#[test]
fn a_block_is_no_larger_than_the_limit() {
    let mut probe = Probe::new(SIZE);
    probe.sizes.maximum = u32::MAX;
    let (stream, _session) = session(probe, Limits { payload: 100_000, ..Limits::default() });
    let info = Negotiation::start(Box::new(stream)).expect("greet").info("disk").expect("info");
    assert_eq!(info.block_sizes.map(|sizes| sizes.maximum), Some(100_000));
}

#[test]
fn go_refuses_an_unknown_export_and_the_handshake_goes_on() {
    let answers = |data: Vec<u8>| raw(3, &[(option::GO, data), (option::LIST, vec![])]).0;
    let unknown = answers(InfoRequest { name: "other".into(), wanted: vec![] }.encode());
    let reply = OptionReply::parse(&unknown[..OptionReply::BYTES]).expect("a reply");
    assert_eq!((reply.option, reply.kind), (option::GO, reply::ERR_UNKNOWN));
    assert!(unknown.windows(4).any(|window| window == b"disk"), "the list did not come");
    // A length that leads outside.
    let invalid = answers(vec![0xff; 10]);
    assert_eq!(OptionReply::parse(&invalid[..OptionReply::BYTES]).expect("a reply").kind, reply::ERR_INVALID);
}

#[test]
fn transmission_flags_are_what_the_export_offers() {
    let all = transmission::HAS_FLAGS
        | transmission::SEND_FLUSH
        | transmission::SEND_FUA
        | transmission::SEND_TRIM
        | transmission::SEND_WRITE_ZEROES
        | transmission::SEND_FAST_ZERO
        | transmission::SEND_CACHE
        | transmission::CAN_MULTI_CONN;
    for (form, more) in [
        (Form::Simple, 0),
        (Form::Structured, transmission::SEND_DF),
        (Form::Extended, transmission::SEND_DF | transmission::BLOCK_STATUS_PAYLOAD),
    ] {
        assert_eq!(client(Probe::new(SIZE), form).0.info().flags, all | more, "{form:?}");
    }
    let flags = |probe: Probe| negotiate(probe).0.info("disk").expect("info").flags;
    let writing = transmission::SEND_TRIM | transmission::SEND_WRITE_ZEROES | transmission::SEND_FAST_ZERO;
    assert_eq!(flags(Probe::new(SIZE).read_only()), (all & !writing) | transmission::READ_ONLY);
    let mut probe = Probe::new(SIZE);
    probe.features = Default::default();
    assert_eq!(flags(probe), transmission::HAS_FLAGS);
    let mut probe = Probe::new(SIZE);
    probe.features.multi_conn = false;
    probe.features.write_zeroes = false;
    probe.features.rotational = true;
    let fewer = transmission::CAN_MULTI_CONN | transmission::SEND_WRITE_ZEROES | transmission::SEND_FAST_ZERO;
    assert_eq!(flags(probe), (all & !fewer) | transmission::ROTATIONAL);
}

#[test]
fn structured_replies_and_extended_headers_are_agreed() {
    for (form, mode) in
        [(Form::Simple, Mode::Simple), (Form::Structured, Mode::Structured), (Form::Extended, Mode::Extended)]
    {
        let (mut client, session) = client(Probe::new(SIZE), form);
        assert_eq!(client.mode(), mode);
        client.write(0, &[5; 100], 0).expect("write");
        assert_eq!(client.read(0, 100, 0).expect("read"), [5; 100]);
        drop(client);
        assert!(matches!(session.end(), Ok(End::Asked)));
    }
    let (mut negotiation, _session) = negotiate(Probe::new(SIZE));
    for option in [option::STRUCTURED_REPLY, option::EXTENDED_HEADERS] {
        assert_eq!(refused(negotiation.option(option, b"x")), reply::ERR_INVALID);
    }
    negotiation.structured_reply().expect("structured");
    negotiation.structured_reply().expect("again");
    negotiation.extended_headers().expect("then extended");
    // No way back.
    assert_eq!(refused(negotiation.structured_reply()), reply::ERR_EXT_HEADER_REQD);
    assert_eq!(negotiation.go("disk").expect("go").mode(), Mode::Extended);
}

fn names(list: &[dirtymap_nbd::codec::MetaContext]) -> Vec<&str> {
    list.iter().map(|context| &*context.name).collect()
}

#[test]
fn list_meta_context_finds_by_name_and_by_namespace() {
    let (mut negotiation, _session) = negotiate(Probe::new(SIZE));
    let list = |negotiation: &mut Negotiation, queries: &[&str]| {
        let queries: Vec<String> = queries.iter().map(|q| q.to_string()).collect();
        negotiation.list_meta_context("disk", &queries)
    };
    assert_eq!(refused(list(&mut negotiation, &[])), reply::ERR_INVALID);
    negotiation.structured_reply().expect("structured");
    for (queries, found) in [
        (&[][..], &["base:allocation", DIRTY, WHOLE][..]),
        (&["base:"], &["base:allocation"]),
        (&["qemu:"], &[DIRTY]),
        (&["qemu:dirty-bitmap:"], &[DIRTY]),
        (&[DIRTY, "base:allocation"], &["base:allocation", DIRTY]),
        (&["base:other", "y:"], &[]),
    ] {
        let list = list(&mut negotiation, queries).expect("list");
        assert_eq!(names(&list), found, "{queries:?}");
        assert!(list.iter().all(|context| context.id == 0));
    }
    assert_eq!(refused(list(&mut negotiation, &["nonsense"])), reply::ERR_INVALID);
    assert_eq!(refused(negotiation.list_meta_context("other", &[])), reply::ERR_UNKNOWN);
    assert_eq!(refused(negotiation.option(option::LIST_META_CONTEXT, &[0; 9])), reply::ERR_INVALID);
}

#[test]
fn set_meta_context_chooses_by_name_only() {
    let (mut negotiation, _session) = negotiate(Probe::new(SIZE));
    let all = |names: &[&str]| names.iter().map(|q| q.to_string()).collect::<Vec<String>>();
    assert_eq!(refused(negotiation.set_meta_context("disk", &all(&[DIRTY])).map(drop)), reply::ERR_INVALID);
    negotiation.structured_reply().expect("structured");
    for (queries, found) in [
        (&[][..], &[][..]),
        (&["base:", "qemu:"], &[]),
        (&["x-unknown:y"], &[]),
        (&[WHOLE, DIRTY, WHOLE], &[DIRTY, WHOLE]),
    ] {
        let chosen = negotiation.set_meta_context("disk", &all(queries)).expect("set");
        assert_eq!(names(chosen), found, "{queries:?}");
        let mut ids: Vec<u32> = chosen.iter().map(|context| context.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), found.len());
    }
    let mut client = negotiation.go("disk").expect("go");
    let numbers: Vec<u32> = client.contexts().iter().map(|context| context.id).collect();
    let states = client.block_status(0, 4096, 0).expect("states");
    assert_eq!(states.iter().map(|(id, _)| *id).collect::<Vec<_>>(), numbers);
}

#[test]
fn a_later_choice_or_another_export_forgets_the_contexts() {
    for forget in [0, 1, 2] {
        let (mut negotiation, _session) = negotiate(Probe::new(SIZE));
        negotiation.structured_reply().expect("structured");
        assert_eq!(negotiation.set_meta_context("disk", &[DIRTY.into()]).expect("set").len(), 1);
        let mut name = "disk";
        match forget {
            0 => drop(negotiation.set_meta_context("disk", &[])),
            // A refused one, too.
            1 => drop(negotiation.set_meta_context("other", &[DIRTY.into()])),
            // The same export by its other name.
            _ => name = "",
        }
        let mut client = negotiation.go(name).expect("go");
        assert!(client.block_status(0, 4096, 0).is_err(), "{forget}: contexts are still chosen");
        client.read(0, 10, 0).expect("the session goes on");
    }
}

#[test]
fn a_handshake_has_a_deadline() {
    let limits = Limits { handshake: Duration::from_millis(50), ..Limits::default() };
    // A client that says nothing, and one that never comes to an end.
    let (_silent, session_of_silent) = session(Probe::new(SIZE), limits);
    assert!(matches!(session_of_silent.end(), Err(SessionError::Io(_))));
    let (mut slow, session_of_slow) = session(Probe::new(SIZE), limits);
    slow.write_all(&3u32.to_be_bytes()).expect("write");
    let list = OptionHeader { option: option::LIST, length: 0 }.encode();
    let mut drain = slow.try_clone().expect("clone");
    let drained = std::thread::spawn(move || std::io::copy(&mut drain, &mut std::io::sink()));
    while slow.write_all(&list).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(matches!(session_of_slow.end(), Err(SessionError::Io(_))));
    drop(drained.join());
}

/// Notes how long receives may wait.
struct Patience(UnixStream, Mutex<Vec<Option<Duration>>>);

impl Stream for Patience {
    fn receive(&self, into: &mut [std::io::IoSliceMut<'_>]) -> std::io::Result<usize> {
        self.0.receive(into)
    }

    fn send(&self, parts: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        self.0.send(parts)
    }

    fn set_patience(&self, patience: Option<Duration>) -> std::io::Result<()> {
        self.1.lock().expect("lock").push(patience);
        self.0.set_patience(patience)
    }

    fn stop_receiving(&self) {
        self.0.stop_receiving();
    }

    fn close(&self) {
        self.0.close();
    }
}

#[test]
fn transmission_has_no_deadline() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let exports = FixedExports::new().with("disk", Arc::new(Probe::new(SIZE)));
    let server = std::thread::spawn(move || {
        let stream = Patience(theirs, Mutex::default());
        serve(&stream, &exports, Limits::default()).expect("served");
        stream.1.into_inner().expect("lock")
    });
    drop(Negotiation::start(Box::new(ours)).expect("greet").go("disk").expect("go"));
    let asked = server.join().expect("no panic");
    let (last, handshake) = asked.split_last().expect("some");
    assert_eq!(*last, None);
    assert!(handshake.iter().all(|patience| patience.is_some_and(|p| p <= Limits::default().handshake)));
}

#[test]
fn requests_may_follow_the_last_option_at_once() {
    // In one piece: what was read ahead in the handshake belongs to the transmission.
    let (mut stream, session) = session(Probe::new(SIZE), Limits::default());
    let go = InfoRequest { name: "disk".into(), wanted: vec![] }.encode();
    let mut bytes = 3u32.to_be_bytes().to_vec();
    let meta = MetaRequest { name: "disk".into(), queries: vec![] }.encode();
    bytes.extend(OptionHeader { option: option::LIST_META_CONTEXT, length: meta.len() as u32 }.encode());
    bytes.extend(meta);
    bytes.extend(OptionHeader { option: option::GO, length: go.len() as u32 }.encode());
    bytes.extend(go);
    let request = dirtymap_nbd::codec::Request { flags: 0, command: 1, cookie: 9, offset: 3, length: 2 };
    bytes.extend(request.encode(Mode::Simple).expect("compact"));
    bytes.extend(b"ab");
    stream.write_all(&bytes).expect("write");
    end_of(&mut stream);
    assert!(matches!(session.probe.memory.bytes()[..6], [0, 0, 0, b'a', b'b', 0]));
    assert!(matches!(session.end(), Ok(End::Closed)));
}

/// Says that nothing more comes, and waits until the server has said everything.
fn end_of(stream: &mut UnixStream) {
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    stream.read_to_end(&mut Vec::new()).expect("read");
}
