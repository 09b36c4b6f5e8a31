//! The client against servers that do what they should not.

mod common;

use common::KIB;
use dirtymap_nbd::client::{Client, Error, Negotiation};
use dirtymap_nbd::codec::values::{chunk, command, info, reply};
use dirtymap_nbd::codec::{Greeting, Info, Mode, OptionReply, ReplyHeader};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// The other end has said these bytes, and will say no more.
fn says(bytes: &[u8]) -> Box<UnixStream> {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    theirs.write_all(bytes).expect("write");
    theirs.shutdown(Shutdown::Write).expect("shutdown");
    std::thread::spawn(move || theirs.read_to_end(&mut Vec::new()));
    Box::new(ours)
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    [&OptionReply { option, kind, length: data.len() as u32 }.encode()[..], data].concat()
}

fn greeting() -> Vec<u8> {
    Greeting { flags: 3 }.encode().to_vec()
}

/// A client in transmission with a server that says these bytes.
fn in_transmission(mode: Mode, bytes: &[u8]) -> Client {
    let option = if mode == Mode::Extended { 11 } else { 8 };
    let chosen = if mode == Mode::Simple { Vec::new() } else { option_reply(option, reply::ACK, &[]) };
    let size = Info::Export { size: 1 << 40, flags: 0xffff }.encode();
    let go = [option_reply(7, reply::INFO, &size), option_reply(7, reply::ACK, &[])].concat();
    let mut negotiation = Negotiation::start(says(&[greeting(), chosen, go, bytes.to_vec()].concat())).expect("greet");
    match mode {
        Mode::Simple => {}
        Mode::Structured => negotiation.structured_reply().expect("structured"),
        Mode::Extended => negotiation.extended_headers().expect("extended"),
    }
    negotiation.go("").expect("go")
}

#[test]
fn other_servers_are_refused() {
    let oldstyle =
        [&0x4e42_444d_4147_4943_u64.to_be_bytes()[..], &0x0000_4202_8186_1253_u64.to_be_bytes(), &[0; 136]].concat();
    for bytes in [&b""[..], b"SSH-2.0-OpenSSH_9.2p1", &oldstyle, &Greeting { flags: 0 }.encode()] {
        assert!(Negotiation::start(says(bytes)).is_err());
    }
}

#[test]
fn wrong_replies_to_options_are_refused() {
    let entry = [0, 0, 0, 1, b'x'];
    for bytes in [
        option_reply(4, reply::ACK, &[]),
        option_reply(3, reply::INFO, &[]),
        option_reply(3, reply::SERVER, &[0, 0, 0, 9]),
        OptionReply { option: 3, kind: reply::SERVER, length: u32::MAX }.encode().to_vec(),
        option_reply(3, reply::SERVER, &entry),
        vec![0; 20],
    ] {
        let mut negotiation = Negotiation::start(says(&[greeting(), bytes].concat())).expect("greet");
        assert!(matches!(negotiation.list(), Err(Error::Protocol(_) | Error::Io(_))));
    }
    // An acknowledgement without the size.
    let name = Info::Name("x".into()).encode();
    let bytes = [greeting(), option_reply(6, reply::INFO, &name), option_reply(6, reply::ACK, &[])].concat();
    let mut negotiation = Negotiation::start(says(&bytes)).expect("greet");
    assert!(matches!(negotiation.info(""), Err(Error::Protocol(_))));
    // Pieces that are not known are left out.
    let size = Info::Export { size: 5, flags: 1 }.encode();
    let odd = [&99u16.to_be_bytes()[..], b"what"].concat();
    let replies =
        [option_reply(6, reply::INFO, &odd), option_reply(6, reply::INFO, &size), option_reply(6, reply::ACK, &[])];
    let mut negotiation = Negotiation::start(says(&[greeting(), replies.concat()].concat())).expect("greet");
    assert_eq!(negotiation.info("").expect("info").size, 5);
    assert_eq!(info::EXPORT, 0);
}

/// A chunk in an answer to the first request.
fn part(mode: Mode, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let header = ReplyHeader::Chunk { flags, kind, cookie: 1, offset: 0, length: payload.len() as u64 };
    header.encode(mode, &mut out);
    [out, payload.to_vec()].concat()
}

fn data(at: u64, bytes: usize) -> Vec<u8> {
    [&at.to_be_bytes()[..], &vec![1; bytes]].concat()
}

#[test]
fn wrong_answers_to_a_read_are_refused() {
    for mode in [Mode::Structured, Mode::Extended] {
        let done = |kind, payload: &[u8]| part(mode, chunk::DONE, kind, payload);
        let more = |kind, payload: &[u8]| part(mode, 0, kind, payload);
        let hole = |at: u64, length: u32| [&at.to_be_bytes()[..], &length.to_be_bytes()].concat();
        let mut huge = Vec::new();
        let header = ReplyHeader::Chunk { flags: 1, kind: 1, cookie: 1, offset: 0, length: 0xffff_ffff };
        header.encode(mode, &mut huge);
        for (bytes, what) in [
            (done(chunk::OFFSET_DATA, &data(0, 511)), "too little"),
            (done(chunk::OFFSET_DATA, &data(0, 513)), "too much"),
            (done(chunk::OFFSET_DATA, &data(1, 512)), "too far"),
            (done(chunk::OFFSET_DATA, &data(u64::MAX, 512)), "before it"),
            (done(chunk::OFFSET_DATA, &data(0, 0)), "no data"),
            (done(chunk::NONE, &[]), "nothing"),
            (done(chunk::NONE, &[1]), "nothing with a payload"),
            ([more(1, &data(0, 300)), done(1, &data(299, 213))].concat(), "twice"),
            ([more(1, &data(0, 300)), done(2, &hole(0, 512))].concat(), "data and a hole"),
            (done(chunk::OFFSET_HOLE, &hole(0, 0)), "an empty hole"),
            (done(chunk::OFFSET_HOLE, &hole(0, u32::MAX)), "a large hole"),
            (done(chunk::BLOCK_STATUS, &[0; 12]), "states"),
            (done(77, &[]), "an unknown chunk"),
            (huge, "a huge chunk"),
            (done(chunk::ERROR, &[0; 6]), "an error that is none"),
            (done(chunk::ERROR, &vec![1; 10 * KIB]), "a long error"),
            (vec![0; 40], "no chunk"),
            (Vec::new(), "the end"),
        ] {
            let mut client = in_transmission(mode, &bytes);
            let read = client.read(0, 512, 0);
            assert!(matches!(read, Err(Error::Protocol(_) | Error::Io(_))), "{mode:?}: {what}: {read:?}");
        }
        // In any order, with a hole, and the end for itself.
        let good = [more(1, &data(400, 112)), more(2, &hole(100, 300)), more(1, &data(0, 100)), done(0, &[])].concat();
        let wanted = [&[1; 100][..], &[0; 300], &[1; 112]].concat();
        assert_eq!(in_transmission(mode, &good).read(0, 512, 0).expect("read"), wanted);
        // An error of a type that is not known is an error of the request, and the connection goes on.
        let odd = [&5u32.to_be_bytes()[..], &2u16.to_be_bytes(), b"no", b"more"].concat();
        let mut client = in_transmission(mode, &done(chunk::IS_ERROR | 50, &odd));
        assert!(matches!(client.read(0, 512, 0), Err(Error::Failed(failure)) if failure.message == "no"));
    }
}

#[test]
fn answers_to_other_requests_are_refused() {
    let simple = |error, cookie| {
        let mut out = Vec::new();
        ReplyHeader::Simple { error, cookie }.encode(Mode::Simple, &mut out);
        out
    };
    assert!(matches!(in_transmission(Mode::Simple, &simple(0, 2)).flush(), Err(Error::Protocol(_))));
    assert!(in_transmission(Mode::Simple, &simple(0, 1)).flush().is_ok());
    // Twice.
    let mut client = in_transmission(Mode::Simple, &[simple(0, 1), simple(0, 1)].concat());
    assert!(client.flush().is_ok() && matches!(client.flush(), Err(Error::Protocol(_))));
    // A simple reply where it has to be chunks, and chunks where they were not agreed.
    assert!(matches!(in_transmission(Mode::Structured, &simple(0, 1)).read(0, 1, 0), Err(Error::Protocol(_))));
    let status = in_transmission(Mode::Structured, &simple(0, 1)).block_status(0, 1, 0);
    assert!(matches!(status, Err(Error::Protocol(_))));
    let bytes = part(Mode::Structured, chunk::DONE, chunk::NONE, &[]);
    assert!(matches!(in_transmission(Mode::Simple, &bytes).flush(), Err(Error::Protocol(_))));
    // With extended headers, the offset says it too.
    let bytes = part(Mode::Extended, chunk::DONE, chunk::NONE, &[]);
    assert!(matches!(in_transmission(Mode::Extended, &bytes).trim(512, 512, 0), Err(Error::Protocol(_))));
    // Data without having been asked for any.
    let bytes = part(Mode::Structured, chunk::DONE, chunk::OFFSET_DATA, &data(0, 10));
    assert!(matches!(in_transmission(Mode::Structured, &bytes).flush(), Err(Error::Protocol(_))));
    // An error that the protocol does not have.
    let mut client = in_transmission(Mode::Simple, &simple(9999, 1));
    assert!(matches!(client.flush(), Err(Error::Failed(f)) if f.errno == dirtymap_nbd::Errno::Invalid));
}

#[test]
fn wrong_states_are_refused() {
    let mode = Mode::Structured;
    let state = |id: u32| [&id.to_be_bytes()[..], &512u32.to_be_bytes(), &0u32.to_be_bytes()].concat();
    let twice = [part(mode, 0, chunk::BLOCK_STATUS, &state(1)), part(mode, 1, chunk::BLOCK_STATUS, &state(1))].concat();
    let wide = part(
        mode,
        1,
        chunk::BLOCK_STATUS_EXT,
        &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    for bytes in [twice, wide] {
        assert!(matches!(in_transmission(mode, &bytes).block_status(0, 512, 0), Err(Error::Protocol(_))));
    }
}

#[test]
fn a_length_that_cannot_be_said_is_not_sent() {
    let mut client = in_transmission(Mode::Simple, &[]);
    assert!(matches!(client.submit(command::TRIM, 0, 0, 1 << 32, &[]), Err(Error::Protocol(_))));
}
