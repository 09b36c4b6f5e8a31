//! Requests that come together: their answers go together, and wait for nothing else.

mod common;

use common::{KIB, MIB, Probe, pattern};
use dirtymap_nbd::client::Negotiation;
use dirtymap_nbd::codec::values::command;
use dirtymap_nbd::codec::{InfoRequest, Mode, OptionHeader, Request};
use dirtymap_nbd::{FixedExports, Limits, Stream, serve};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

const SIZE: usize = MIB;

/// A stream that counts its calls.
struct Counted(UnixStream, Arc<[AtomicUsize; 2]>);

impl Stream for Counted {
    fn receive(&self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.1[0].fetch_add(1, SeqCst);
        self.0.receive(into)
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.1[1].fetch_add(1, SeqCst);
        self.0.send(parts)
    }

    fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        Stream::set_patience(&self.0, patience)
    }

    fn stop_receiving(&self) {
        self.0.stop_receiving();
    }

    fn close(&self) {
        self.0.close();
    }
}

/// A connection with simple replies, after so many requests that were quick that the reader handles the next ones itself.
struct Quick {
    stream: UnixStream,
    probe: Arc<Probe>,
    calls: Arc<[AtomicUsize; 2]>,
}

fn request(command: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    Request { flags: 0, command, cookie, offset, length }.encode(Mode::Simple).expect("encode")
}

impl Quick {
    fn new() -> Quick {
        Quick::within(Limits::default())
    }

    fn within(limits: Limits) -> Quick {
        let (mut stream, theirs) = UnixStream::pair().expect("a pair");
        // What never comes is a failure, and no test that hangs.
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let (probe, calls) = (Arc::new(Probe::new(SIZE)), Arc::<[AtomicUsize; 2]>::default());
        let exports = FixedExports::new().with("", probe.clone());
        let counted = Counted(theirs, calls.clone());
        std::thread::spawn(move || serve(&counted, &exports, limits));
        let go = InfoRequest { name: String::new(), wanted: vec![] }.encode();
        let options = [&3u32.to_be_bytes()[..], &OptionHeader { option: 7, length: go.len() as u32 }.encode(), &go];
        stream.write_all(&options.concat()).expect("write");
        // Greeting, size, block sizes, acknowledgement.
        stream.read_exact(&mut [0; 18 + 32 + 34 + 20]).expect("read");
        let mut quick = Quick { stream, probe, calls };
        quick.warm();
        quick
    }

    fn warm(&mut self) {
        for i in 0..100 {
            self.stream.write_all(&request(command::READ, i, 0, 1)).expect("write");
            assert_eq!(self.answer(1), i);
        }
    }

    /// The number of the request that is answered next, with so many bytes.
    fn answer(&mut self, length: usize) -> u64 {
        let mut answer = vec![0; 16 + length];
        self.stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[4..8], [0; 4], "it failed");
        u64::from_be_bytes(answer[8..16].try_into().expect("8 bytes"))
    }

    fn counted(&self) -> [usize; 2] {
        [0, 1].map(|which| self.calls[which].load(SeqCst))
    }
}

#[test]
fn answers_to_requests_that_came_together_go_together() {
    const MANY: u64 = 20;
    let mut quick = Quick::new();
    // A machine with other work may take its time for each of them, now and then.
    let mut sends = (0..1000).map(|_| {
        let before = quick.counted()[1];
        let all: Vec<u8> = (0..MANY).flat_map(|i| request(command::READ, i, 512 * i, 8)).collect();
        quick.stream.write_all(&all).expect("write");
        let mut answers: Vec<u64> = (0..MANY).map(|_| quick.answer(8)).collect();
        answers.sort_unstable();
        assert!(answers.into_iter().eq(0..MANY));
        quick.counted()[1] - before
    });
    assert!(sends.any(|sends| sends < MANY as usize / 2), "never fewer than {MANY} / 2 sends for {MANY} answers");
}

#[test]
fn no_answer_waits_for_a_request_that_is_slow_after_all() {
    let mut quick = Quick::new();
    for _ in 0..20 {
        quick.probe.gate.close(4096);
        let read = |cookie, offset| request(command::READ, cookie, offset, 8);
        // What opens the gate is the answers to the others, or nothing.
        quick.stream.write_all(&[read(1, 0), read(2, 4096), read(3, 0)].concat()).expect("write");
        let mut answers = [quick.answer(8), quick.answer(8)];
        answers.sort_unstable();
        assert_eq!(answers, [1, 3]);
        quick.probe.gate.open();
        assert_eq!(quick.answer(8), 2);
        quick.warm();
    }
}

#[test]
fn the_only_thread_keeps_no_answer() {
    let mut quick = Quick::within(Limits { threads: 1, ..Limits::default() });
    for _ in 0..20 {
        quick.probe.gate.close(4096);
        let (first, slow) = (request(command::READ, 1, 0, 8), request(command::READ, 2, 4096, 8));
        quick.stream.write_all(&[first, slow].concat()).expect("write");
        assert_eq!(quick.answer(8), 1);
        quick.probe.gate.open();
        assert_eq!(quick.answer(8), 2);
        quick.warm();
    }
}

#[test]
fn no_answer_waits_for_a_request_of_which_a_part_came() {
    let mut quick = Quick::new();
    for length in [8, 20 * KIB] {
        let write = [request(command::WRITE, 2, 0, length as u64), pattern(0, length)].concat();
        for cut in [1, 27, 28, 30] {
            let first = request(command::READ, 1, 0, 8);
            quick.stream.write_all(&[&first, &write[..cut]].concat()).expect("write");
            assert_eq!(quick.answer(8), 1);
            quick.stream.write_all(&write[cut..]).expect("write");
            assert_eq!(quick.answer(0), 2);
            quick.warm();
        }
    }
}

#[test]
fn no_answer_waits_for_memory() {
    const LONG: u32 = 512 << 10;
    let mut quick = Quick::within(Limits { payload: LONG, memory: LONG as usize + 8 * KIB, ..Limits::default() });
    for _ in 0..10 {
        quick.probe.gate.close(4096);
        quick.stream.write_all(&request(command::READ, 1, 4096, LONG.into())).expect("write");
        // The second one has the memory of those before, and the third has to wait for that of the first.
        let (second, third) = (request(command::READ, 2, 0, 8), request(command::READ, 3, 8192, LONG.into()));
        quick.stream.write_all(&[second, third].concat()).expect("write");
        assert_eq!(quick.answer(8), 2);
        quick.probe.gate.open();
        assert_eq!([quick.answer(LONG as usize), quick.answer(LONG as usize)], [1, 3]);
        quick.warm();
    }
}

#[test]
fn an_answer_before_the_end_of_the_session_is_sent() {
    for _ in 0..20 {
        let mut quick = Quick::new();
        let last = [request(command::READ, 1, 0, 8), request(command::DISC, 0, 0, 0)].concat();
        quick.stream.write_all(&last).expect("write");
        assert_eq!(quick.answer(8), 1);
        assert_eq!(quick.stream.read(&mut [0]).expect("the end"), 0);
    }
}

#[test]
fn what_follows_a_long_write_comes_with_its_end() {
    const LONG: usize = 64 * KIB;
    const ROUNDS: usize = 100;
    let mut quick = Quick::new();
    let before = quick.counted()[0];
    for i in 0..ROUNDS {
        let at = i % 15 * LONG;
        let write = [request(command::WRITE, 1, at as u64, LONG as u64), pattern(i, LONG)].concat();
        quick.stream.write_all(&[write, request(command::FLUSH, 2, 0, 0)].concat()).expect("write");
        let mut answers = [quick.answer(0), quick.answer(0)];
        answers.sort_unstable();
        assert_eq!(answers, [1, 2]);
        assert!(quick.probe.memory.bytes()[at..at + LONG] == pattern(i, LONG), "{i}");
    }
    // The first bytes, the last ones of the write, and what follows would be three at least.
    let received = quick.counted()[0] - before;
    assert!(received < ROUNDS * 3 - ROUNDS / 10, "{received}");
}

/// Whatever the lengths are, and wherever the stream is cut, each request gets its own bytes.
#[test]
fn requests_of_all_lengths_one_behind_the_other() {
    let (stream, theirs) = UnixStream::pair().expect("a pair");
    let probe = Arc::new(Probe::new(SIZE));
    let exports = FixedExports::new().with("", probe.clone());
    let server = std::thread::spawn(move || serve(&theirs, &exports, Limits::default()));
    let mut raw = stream.try_clone().expect("clone");
    let client = Negotiation::start(Box::new(stream)).expect("greet").go("").expect("go");
    let lengths = [1, 4096, 16384, 20_000, 65_536, 70_000, 100, 4095, 16_383, 4097, 28, 65_508, 3000];
    let (mut bytes, mut expected, mut at) = (Vec::new(), vec![0; SIZE], 0);
    for (i, length) in lengths.into_iter().enumerate() {
        let data = pattern(i * 1000 + 7, length);
        bytes.extend(request(command::WRITE, i as u64, at as u64, length as u64));
        bytes.extend(&data);
        expected[at..at + length].copy_from_slice(&data);
        at += length + 11;
    }
    let mut reader = raw.try_clone().expect("clone");
    let answers = std::thread::spawn(move || reader.read_exact(&mut vec![0; 16 * lengths.len()]));
    for (i, piece) in bytes.chunks(9_973).enumerate() {
        raw.write_all(piece).expect("write");
        if i % 3 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    answers.join().expect("no panic").expect("answers");
    assert!(probe.memory.bytes() == expected);
    drop(client);
    drop(raw);
    server.join().expect("no panic").expect("it ends");
}
