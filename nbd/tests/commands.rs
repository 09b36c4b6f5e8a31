//! Every command with every flag, in every form of replies, against the session.

mod common;

use common::{FORMS, Form, KIB, MIB, Probe, Session, chunks, client, pattern, raw_of};
use dirtymap_nbd::client::{Client, Error};
use dirtymap_nbd::codec::values::{chunk, command, flag};
use dirtymap_nbd::codec::{BlockSizes, Extent, Mode, Request};
use dirtymap_nbd::{Backend, End, Errno, Failure, Limits};
use std::io::Write;
use std::os::unix::net::UnixStream;

const SIZE: usize = MIB;

/// The error of a failed request.
#[track_caller]
fn failed<T: std::fmt::Debug>(asked: Result<T, Error>) -> Errno {
    match asked {
        Err(Error::Failed(failure)) => failure.errno,
        other => panic!("not a failed request: {other:?}"),
    }
}

fn each_form(test: impl Fn(&mut Client, &Session, Form)) {
    for form in FORMS {
        let (mut client, session) = client(Probe::new(SIZE), form);
        test(&mut client, &session, form);
        // Whatever was asked, the connection goes on.
        client.read(0, 1, 0).expect("read");
        drop(client);
        assert!(matches!(session.end(), Ok(End::Asked)), "{form:?}");
    }
}

#[test]
fn write_and_read() {
    each_form(|client, session, form| {
        let data = pattern(0, 300 * KIB);
        client.write(1000, &data, 0).expect("write");
        assert_eq!(client.read(1000, 300 * KIB as u32, 0).expect("read"), data, "{form:?}");
        assert_eq!(client.read(999, 2, 0).expect("read"), [0, data[0]]);
        assert_eq!(session.probe.memory.bytes()[1000..1000 + data.len()], data);
        let calls = session.probe.calls();
        assert_eq!(calls[0], "write 1000 307200 false");
        client.write(SIZE as u64 - 1, &[9], 0).expect("the last byte");
        assert_eq!(client.read(SIZE as u64 - 1, 1, 0).expect("read"), [9]);
    });
}

#[test]
fn write_fua_reaches_the_backend() {
    each_form(|client, session, _| {
        client.write(0, &[1; 512], flag::FUA).expect("write");
        client.trim(0, 512, flag::FUA).expect("trim");
        client.write_zeroes(0, 512, flag::FUA).expect("zeroes");
        let calls = ["write 0 512 true", "trim 0 512 true", "zeroes 0 512 true false false"];
        assert_eq!(session.probe.calls(), calls);
        // Ignored where nothing is written.
        client.read(0, 512, flag::FUA).expect("read");
    });
}

#[test]
fn fua_is_refused_where_it_is_not_offered() {
    let mut probe = Probe::new(SIZE);
    probe.features.fua = false;
    let (mut client, session) = client(probe, Form::Structured);
    assert_eq!(failed(client.write(0, &[1; 512], flag::FUA)), Errno::Invalid);
    assert_eq!(failed(client.read(0, 512, flag::FUA)), Errno::Invalid);
    assert!(session.probe.calls().is_empty());
    client.write(0, &[1; 512], 0).expect("the payload was skipped");
}

#[test]
fn flush_reaches_the_backend() {
    each_form(|client, session, _| {
        client.flush().expect("flush");
        assert_eq!(session.probe.calls(), ["flush"]);
        for (offset, length) in [(1, 0), (0, 1)] {
            client.submit(command::FLUSH, 0, offset, length, &[]).expect("submit");
            assert_eq!(client.receive().expect("receive").done.expect_err("a flush of a range").errno, Errno::Invalid);
        }
    });
}

#[test]
fn trim_reaches_the_backend() {
    each_form(|client, session, _| {
        client.write(0, &pattern(0, 64 * KIB), 0).expect("write");
        client.trim(4096, 8192, 0).expect("trim");
        assert_eq!(session.probe.calls()[1], "trim 4096 8192 false");
        assert_eq!(client.read(4096, 8192, 0).expect("read"), [0; 8192]);
    });
}

#[test]
fn write_zeroes_with_no_hole_and_fast_zero() {
    each_form(|client, session, _| {
        for (flags, call) in [
            (0, "zeroes 0 4096 false false false"),
            (flag::NO_HOLE, "zeroes 0 4096 false true false"),
            (flag::FAST_ZERO, "zeroes 0 4096 false false true"),
            (flag::NO_HOLE | flag::FAST_ZERO | flag::FUA, "zeroes 0 4096 true true true"),
        ] {
            client.write(0, &[1; 4096], 0).expect("write");
            session.probe.calls();
            client.write_zeroes(0, 4096, flags).expect("zeroes");
            assert_eq!(session.probe.calls(), [call]);
            assert_eq!(client.read(0, 4096, 0).expect("read"), [0; 4096]);
        }
        *session.probe.fails.lock().expect("lock") = Some(Failure::new(Errno::NotSupported, "slow"));
        assert_eq!(failed(client.write_zeroes(0, 4096, flag::FAST_ZERO)), Errno::NotSupported);
        *session.probe.fails.lock().expect("lock") = None;
    });
    let mut probe = Probe::new(SIZE);
    probe.features.fast_zero = false;
    let (mut client, _session) = client(probe, Form::Simple);
    assert_eq!(failed(client.write_zeroes(0, 4096, flag::FAST_ZERO)), Errno::Invalid);
}

#[test]
fn cache_reaches_the_backend() {
    each_form(|client, session, _| {
        client.cache(0, SIZE as u64).expect("cache");
        assert_eq!(session.probe.calls(), [format!("cache 0 {SIZE}")]);
    });
}

#[test]
fn disc_ends_the_session_after_the_answers() {
    for form in FORMS {
        let (mut client, session) = client(Probe::new(SIZE), form);
        session.probe.gate.close(4096);
        client.submit(command::READ, 0, 4096, 512, &[]).expect("submit");
        client.submit(command::DISC, 0, 0, 0, &[]).expect("submit");
        session.probe.gate.open();
        assert_eq!(client.receive().expect("answered").done.expect("read").len(), 512);
        assert!(client.receive().is_err(), "the connection is closed");
        assert!(matches!(session.end(), Ok(End::Asked)));
    }
}

#[test]
fn read_sends_holes_as_holes() {
    for form in FORMS {
        let (mut client, session) = client(Probe::new(SIZE), form);
        client.write(64 * KIB as u64, &pattern(0, 32 * KIB), 0).expect("write");
        client.write(200 * KIB as u64, &pattern(0, 4 * KIB), 0).expect("write");
        session.probe.calls();
        let whole = client.read(0, SIZE as u32, 0).expect("read");
        assert_eq!(whole, session.probe.memory.bytes(), "{form:?}");
        let calls = session.probe.calls();
        if form == Form::Simple {
            assert_eq!(calls, [format!("read 0 {SIZE}")]);
        } else {
            assert_eq!(calls, ["read 65536 32768", "read 204800 4096"]);
        }
        // All of it a hole, and one that the range cuts.
        assert_eq!(client.read(512 * KIB as u64, 100 * KIB as u32, 0).expect("read"), vec![0; 100 * KIB]);
        assert_eq!(
            client.read(64 * KIB as u64 - 100, 90 * KIB as u32, 0).expect("read")[100..32 * KIB + 100],
            pattern(0, 32 * KIB)
        );
    }
}

/// A stream in transmission, with the first 64 KiB written.
fn raw(form: Form) -> (UnixStream, Mode, Session) {
    raw_of(SIZE, form)
}

#[test]
fn read_df_is_one_chunk() {
    for form in [Form::Structured, Form::Extended] {
        let (mut stream, mode, _session) = raw(form);
        for (flags, wanted) in [
            (0, vec![(chunk::OFFSET_DATA, 8 + 60 * KIB as u64), (chunk::OFFSET_HOLE, 12)]),
            (flag::DF, vec![(chunk::OFFSET_DATA, 8 + 128 * KIB as u64)]),
        ] {
            let request = Request { flags, command: command::READ, cookie: 1, offset: 4096, length: 128 * KIB as u64 };
            stream.write_all(&request.encode(mode).expect("encode")).expect("write");
            assert_eq!(chunks(&mut stream, mode), wanted, "{form:?} {flags}");
        }
    }
    let (mut client, _session) = client(Probe::new(SIZE), Form::Simple);
    assert_eq!(failed(client.read(0, 512, flag::DF)), Errno::Invalid, "not offered with simple replies");
}

#[test]
fn structured_replies_are_chunks_where_they_have_to_be() {
    for form in [Form::Structured, Form::Extended] {
        let (mut stream, mode, _session) = raw(form);
        // A read of nothing, one that fails, and one past the end: never a simple reply.
        let big = SIZE as u64;
        for (flags, length, wanted) in [(0, 0, chunk::NONE), (1 << 9, 512, chunk::ERROR), (0, big, chunk::ERROR)] {
            let request = Request { flags, command: command::READ, cookie: 1, offset: 4096, length };
            stream.write_all(&request.encode(mode).expect("encode")).expect("write");
            let chunks = chunks(&mut stream, mode);
            assert_eq!((chunks.len(), chunks[0].0), (1, wanted), "{form:?} {flags} {length}");
        }
    }
}

#[test]
fn extended_writes_are_taken_with_and_without_the_payload_flag() {
    let (mut client, session) = client(Probe::new(SIZE), Form::Extended);
    for (at, flags) in [(0, flag::PAYLOAD_LEN), (512, 0)] {
        client.submit(command::WRITE, flags, at, 512, &[7; 512]).expect("submit");
        client.receive().expect("receive").done.expect("written");
    }
    assert_eq!(session.probe.memory.bytes()[..1025], [&[7; 1024][..], &[0]].concat());
    // On a command that has none, it is skipped.
    client.submit(command::TRIM, flag::PAYLOAD_LEN, 0, 100, &[1; 100]).expect("submit");
    assert_eq!(client.receive().expect("receive").done.expect_err("refused").errno, Errno::Invalid);
    client.read(0, 10, 0).expect("the session goes on");
}

#[test]
fn extended_lengths_have_64_bits() {
    struct Huge(Probe);
    impl Backend for Huge {
        fn size(&self) -> u64 {
            1 << 40
        }
        fn features(&self) -> dirtymap_nbd::Features {
            self.0.features
        }
        fn contexts(&self) -> Vec<String> {
            vec!["x-test:huge".into()]
        }
        fn read(&self, _: u64, into: &mut [u8]) -> Result<(), Failure> {
            into.fill(1);
            Ok(())
        }
        fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), Failure> {
            assert_eq!((offset, length, fua), (1 << 39, 1 << 39, false));
            Ok(())
        }
        fn block_status(
            &self,
            _: usize,
            offset: u64,
            _: u64,
            extents: &mut dirtymap_nbd::Extents,
        ) -> Result<(), Failure> {
            extents.push((1 << 40) - offset, 5);
            Ok(())
        }
    }
    for form in [Form::Structured, Form::Extended] {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let exports = dirtymap_nbd::FixedExports::new().with("", std::sync::Arc::new(Huge(Probe::new(0))));
        let _server = std::thread::spawn(move || dirtymap_nbd::serve(&theirs, &exports, Limits::default()));
        let mut negotiation = dirtymap_nbd::client::Negotiation::start(Box::new(ours)).expect("greet");
        if form == Form::Extended { negotiation.extended_headers() } else { negotiation.structured_reply() }
            .expect("form");
        negotiation.set_meta_context("", &["x-test:huge".into()]).expect("contexts");
        let mut client = negotiation.go("").expect("go");
        let states = client.block_status(0, 512, 0).expect("states");
        let length = if form == Form::Extended { 1 << 40 } else { 0xffff_0000 };
        assert_eq!(states[0].1, [Extent { length, flags: 5 }]);
        if form == Form::Extended {
            client.trim(1 << 39, 1 << 39, 0).expect("trim");
            // Longer than a payload may be.
            assert_eq!(failed(client.trim(1 << 39, (1 << 39) + 1, 0)), Errno::Invalid);
            client.submit(command::READ, 0, 0, 1 << 33, &[]).expect("submit");
            assert_eq!(client.receive().expect("receive").done.expect_err("too long").errno, Errno::Invalid);
        }
        assert_eq!(client.read((1 << 40) - 5, 5, 0).expect("read"), [1; 5]);
    }
}

#[test]
fn block_status_by_context() {
    for form in [Form::Structured, Form::Extended] {
        let (mut client, session) = client(Probe::new(SIZE), form);
        client.write(100 * KIB as u64, &[1; 4096], 0).expect("write");
        let extent = |kib: usize, flags| Extent { length: (kib * KIB) as u64, flags };
        let states = client.block_status(0, SIZE as u64, 0).expect("states");
        let allocation = vec![extent(100, 3), extent(4, 0), extent(920, 3)];
        let dirty = vec![extent(64, 0), extent(64, 1), extent(896, 0)];
        assert_eq!(states, [(0, allocation), (1, dirty), (2, vec![extent(1024, 7)])], "{form:?}");
        // From the middle of an extent; it may go further than asked.
        let states = client.block_status(70 * KIB as u64, 1024, 0).expect("states");
        assert_eq!(states[1].1, [extent(58, 1)]);
        session.probe.calls();
    }
}

#[test]
fn block_status_req_one() {
    for form in [Form::Structured, Form::Extended] {
        let (mut client, _session) = client(Probe::new(SIZE), form);
        let states = client.block_status(70 * KIB as u64, 1024, flag::REQ_ONE).expect("states");
        for (_, extents) in &states {
            assert_eq!(extents.len(), 1);
            assert_eq!(extents[0].length, 1024, "no further than asked");
        }
        let states = client.block_status(0, SIZE as u64, flag::REQ_ONE).expect("states");
        assert_eq!(states[1].1, [Extent { length: 64 * KIB as u64, flags: 0 }]);
    }
}

#[test]
fn block_status_payload_chooses_contexts() {
    let (mut client, session) = client(Probe::new(SIZE), Form::Extended);
    let ids: Vec<u32> = client.contexts().iter().map(|context| context.id).collect();
    let states = client.block_status_of(&[ids[2], ids[1]], 0, 4096, flag::REQ_ONE).expect("states");
    assert_eq!(states.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [ids[2], ids[1]]);
    assert_eq!(session.probe.calls().len(), 2);
    for wrong in [&[][..], &[99], &[ids[1], ids[1]]] {
        assert_eq!(failed(client.block_status_of(wrong, 0, 4096, 0)), Errno::Invalid, "{wrong:?}");
    }
    assert_eq!(failed(client.block_status_of(&ids, 0, SIZE as u64 + 1, 0)), Errno::Invalid);
    // A piece of a number.
    client.submit(command::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, 13, &[0; 13]).expect("submit");
    assert_eq!(client.receive().expect("receive").done.expect_err("refused").errno, Errno::Invalid);
    client.read(0, 10, 0).expect("the session goes on");
}

#[test]
fn block_status_needs_contexts() {
    let (mut stream, mode, _session) = raw(Form::Structured);
    let request = Request { flags: 0, command: command::BLOCK_STATUS, cookie: 1, offset: 4096, length: 512 };
    stream.write_all(&request.encode(mode).expect("encode")).expect("write");
    assert_eq!(chunks(&mut stream, mode)[0].0, chunk::ERROR);
}

#[test]
fn a_reply_has_no_more_extents_than_its_limit() {
    struct Striped;
    impl Backend for Striped {
        fn size(&self) -> u64 {
            1 << 30
        }
        fn features(&self) -> dirtymap_nbd::Features {
            Default::default()
        }
        fn contexts(&self) -> Vec<String> {
            vec!["x-test:striped".into()]
        }
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Failure> {
            Ok(())
        }
        fn block_status(
            &self,
            _: usize,
            offset: u64,
            length: u64,
            extents: &mut dirtymap_nbd::Extents,
        ) -> Result<(), Failure> {
            let mut at = offset;
            while at < offset + length && extents.push(512, (at / 512 % 2) as u32) {
                at += 512;
            }
            assert!(at < offset + length, "it was never enough");
            Ok(())
        }
    }
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let exports = dirtymap_nbd::FixedExports::new().with("", std::sync::Arc::new(Striped));
    let _server = std::thread::spawn(move || dirtymap_nbd::serve(&theirs, &exports, Limits::default()));
    let mut negotiation = dirtymap_nbd::client::Negotiation::start(Box::new(ours)).expect("greet");
    negotiation.structured_reply().expect("form");
    negotiation.set_meta_context("", &["x-test:striped".into()]).expect("contexts");
    let states = negotiation.go("").expect("go").block_status(0, 1 << 30, 0).expect("states");
    assert_eq!(states[0].1.len(), dirtymap_nbd::Extents::MOST);
}

#[test]
fn ranges_outside_of_the_export_are_refused() {
    each_form(|client, session, form| {
        let end = SIZE as u64;
        for (offset, length) in [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2)] {
            assert_eq!(failed(client.read(offset, length, 0)), Errno::Invalid);
            let data = vec![1; length as usize];
            assert_eq!(failed(client.write(offset, &data, 0)), Errno::NoSpace);
            assert_eq!(failed(client.trim(offset, length.into(), 0)), Errno::Invalid);
            assert_eq!(failed(client.write_zeroes(offset, length.into(), 0)), Errno::NoSpace);
            assert_eq!(failed(client.cache(offset, length.into())), Errno::Invalid);
            if form != Form::Simple {
                assert_eq!(failed(client.block_status(offset, length.into(), 0)), Errno::Invalid);
            }
        }
        assert!(session.probe.calls().is_empty(), "{form:?}");
    });
}

#[test]
fn requests_of_nothing_do_nothing() {
    each_form(|client, session, form| {
        client.write(0, &[], 0).expect("write");
        client.trim(0, 0, 0).expect("trim");
        client.write_zeroes(SIZE as u64, 0, 0).expect("zeroes");
        client.cache(0, 0).expect("cache");
        assert!(client.read(0, 0, 0).expect("read").is_empty());
        if form != Form::Simple {
            assert_eq!(failed(client.block_status(0, 0, 0)), Errno::Invalid);
        }
        assert!(session.probe.calls().is_empty());
    });
}

#[test]
fn a_read_only_export_refuses_what_writes() {
    for form in FORMS {
        let (mut client, session) = client(Probe::new(SIZE).read_only(), form);
        assert_eq!(failed(client.write(0, &[1; 100], 0)), Errno::Perm);
        assert_eq!(failed(client.trim(0, 100, 0)), Errno::Perm);
        assert_eq!(failed(client.write_zeroes(0, 100, 0)), Errno::Perm);
        assert!(session.probe.calls().is_empty());
        client.read(0, 100, 0).expect("read");
        client.flush().expect("flush");
    }
}

#[test]
fn what_is_not_offered_is_refused() {
    let mut probe = Probe::new(SIZE);
    probe.features = Default::default();
    let (mut client, session) = client(probe, Form::Simple);
    assert_eq!(failed(client.flush()), Errno::Invalid);
    assert_eq!(failed(client.trim(0, 512, 0)), Errno::Invalid);
    assert_eq!(failed(client.write_zeroes(0, 512, 0)), Errno::Invalid);
    assert_eq!(failed(client.cache(0, 512)), Errno::Invalid);
    assert!(session.probe.calls().is_empty());
}

#[test]
fn unknown_commands_and_flags_are_refused() {
    each_form(|client, session, form| {
        let mut refused = |command, flags| {
            client.submit(command, flags, 0, 0, &[]).expect("submit");
            let done = client.receive().expect("receive").done;
            assert_eq!(done.expect_err("refused").errno, Errno::Invalid, "{form:?} {command} {flags}");
        };
        for command in [8, 9, 0xffff] {
            refused(command, 0);
        }
        let of_others = [
            (command::READ, flag::NO_HOLE | flag::REQ_ONE | flag::FAST_ZERO),
            (command::WRITE, flag::NO_HOLE | flag::DF | flag::REQ_ONE | flag::FAST_ZERO),
            (command::FLUSH, flag::NO_HOLE | flag::DF | flag::REQ_ONE | flag::FAST_ZERO),
            (command::TRIM, flag::NO_HOLE | flag::DF | flag::REQ_ONE | flag::FAST_ZERO),
            (command::CACHE, flag::NO_HOLE | flag::DF | flag::REQ_ONE | flag::FAST_ZERO),
            (command::WRITE_ZEROES, flag::DF | flag::REQ_ONE),
            (command::BLOCK_STATUS, flag::NO_HOLE | flag::DF | flag::FAST_ZERO),
        ];
        for (command, flags) in of_others {
            for bit in (0..16).map(|bit| 1 << bit).filter(|bit| flags & bit != 0 || *bit > flag::PAYLOAD_LEN) {
                refused(command, bit);
            }
        }
        assert!(session.probe.calls().is_empty());
    });
}

#[test]
fn block_sizes_are_enforced() {
    for form in FORMS {
        let mut probe = Probe::new(SIZE);
        probe.sizes = BlockSizes { minimum: 512, preferred: 4096, maximum: 64 << 10 };
        let (mut client, session) = client(probe, form);
        assert_eq!(client.max_payload(), 64 << 10);
        for (offset, length) in [(1, 512), (512, 100), (0, (64 << 10) + 512)] {
            assert_eq!(failed(client.read(offset, length, 0)), Errno::Invalid);
            assert_eq!(failed(client.write(offset, &vec![1; length as usize], 0)), Errno::Invalid);
        }
        assert_eq!(failed(client.trim(512, 100, 0)), Errno::Invalid);
        assert!(session.probe.calls().is_empty());
        // Without a payload, the largest block is no limit.
        client.trim(0, SIZE as u64, 0).expect("trim");
        client.write_zeroes(0, SIZE as u64, 0).expect("zeroes");
        client.read(512, 64 << 10, 0).expect("read");
    }
}

#[test]
fn errors_of_the_backend_reach_the_client() {
    each_form(|client, session, form| {
        let fails = |failure| *session.probe.fails.lock().expect("lock") = failure;
        for errno in [Errno::Perm, Errno::Io, Errno::NoMem, Errno::Invalid, Errno::NoSpace, Errno::Shutdown] {
            fails(Some(Failure::new(errno, "it is broken")));
            assert_eq!(failed(client.read(0, 512, 0)), errno);
            assert_eq!(failed(client.write(0, &[1; 512], 0)), errno);
            assert_eq!(failed(client.flush()), errno);
            let failure = match client.trim(0, 512, 0) {
                Err(Error::Failed(failure)) => failure,
                other => panic!("{other:?}"),
            };
            assert_eq!(failure.message, if form == Form::Simple { "" } else { "it is broken" });
            if form != Form::Simple {
                assert_eq!(failed(client.block_status(0, 512, 0)), errno);
            }
        }
        fails(None);
    });
    let os = |errno: rustix::io::Errno| Failure::from(std::io::Error::from(errno)).errno;
    use rustix::io::Errno as Os;
    assert_eq!([Os::NOSPC, Os::DQUOT, Os::FBIG].map(os), [Errno::NoSpace; 3]);
    assert_eq!([Os::PERM, Os::ACCESS, Os::ROFS].map(os), [Errno::Perm; 3]);
    assert_eq!(
        [Os::NOMEM, Os::INVAL, Os::IO, Os::TIMEDOUT].map(os),
        [Errno::NoMem, Errno::Invalid, Errno::Io, Errno::Io]
    );
}

#[test]
fn answers_come_as_they_are_ready() {
    each_form(|client, session, _| {
        // Long enough for the reader to handle requests itself.
        for _ in 0..200 {
            client.read(0, 512, 0).expect("read");
        }
        session.probe.gate.close(4096);
        let slow = client.submit(command::READ, 0, 4096, 512, &[]).expect("submit");
        let quick: Vec<u64> = (0..5).map(|_| client.submit(command::FLUSH, 0, 0, 0, &[]).expect("submit")).collect();
        let mut answers: Vec<u64> = Vec::new();
        if session.probe.calls().is_empty() {
            unreachable!("calls were noted");
        }
        // The gate is opened by the answer to a request that came later, or never.
        for _ in 0..5 {
            answers.push(client.receive().expect("receive").cookie);
        }
        session.probe.gate.open();
        answers.sort_unstable();
        assert_eq!(answers, quick);
        assert_eq!(client.receive().expect("receive").cookie, slow);
    });
}

#[test]
fn many_requests_at_once_all_get_their_own_answer() {
    each_form(|client, session, _| {
        let data = pattern(0, SIZE);
        session.probe.memory.write(0, &data, false).expect("write");
        let mut random = 1u64;
        for _ in 0..20 {
            let mut asked = std::collections::HashMap::new();
            for _ in 0..40 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (at, length) = ((random >> 33) % (SIZE as u64 - 70_000), (random >> 20) % 70_000);
                let cookie = client.submit(command::READ, 0, at, length, &[]).expect("submit");
                asked.insert(cookie, (at as usize, length as usize));
            }
            while !asked.is_empty() {
                let answer = client.receive().expect("receive");
                let (at, length) = asked.remove(&answer.cookie).expect("asked");
                assert_eq!(answer.done.expect("read"), data[at..at + length]);
            }
        }
    });
}
