//! Model of header commits: two pairs of two copies, SIGKILL and power cuts anywhere.
//!
//! Four copies in the order pair 0, pair 0, pair 1, pair 1 (the file interleaves the pairs, which makes no
//! difference here). A copy whose write was not synced holds after a power cut the old header, the new one,
//! or garbage. A commit writes both copies of the pair that does not hold the newest header known to be
//! durable; whoever opens writes the newest header that it finds again in place first.
//!
//! Checked at every instant and for every such outcome: some valid copy is at least as new as the newest
//! header whose commit has returned.
//!
//! `Commits` knows kills between steps and power cuts. `Faults` adds writes that a kill tears in the page
//! cache, write-backs that fail unnoticed until the next sync, and syncs that fail and leave the page clean,
//! either as written or as it was on disk.
//!
//! Not modelled: what the headers say (`model_coverage.rs`), rot of a copy (its twin has the same bytes).

#[path = "model/explore.rs"]
mod explore;

use explore::{Field, Model, Packing, State, Steps, breaks, holds, program_counter};

/// A sequence number; 0 is a copy never written.
type Seq = i8;
/// Garbage: what a torn write leaves.
const TORN: Seq = -1;
const COPIES: usize = 4;
type Copies = [Seq; COPIES];

impl Field for Seq {
    fn code(self) -> u8 {
        (self + 1) as u8
    }
    fn decode(code: u8) -> Seq {
        code as Seq - 1
    }
}

program_counter! {
    enum Pc {
        /// Nobody knows which header is durable; the next step opens.
        Open,
        /// Writing the newest header again, in place.
        RewriteFirst, RewriteSecond, RewriteSync,
        /// Open, with a header known to be durable.
        Idle,
        /// Committing.
        WriteFirst, WriteSecond, WriteSync,
    }
}

#[derive(Clone, Copy, Default)]
struct Header {
    /// Each copy in the page cache and on disk, and whether the cache still has to write it.
    cache: Copies,
    disk: Copies,
    dirty: [bool; COPIES],
    /// The newest header whose commit has returned.
    owed: Seq,
    /// Shared memory: the newest header known to be durable and its pair; `TORN` if nobody alive knows.
    known: Seq,
    known_pair: u8,
    pc: Pc,
    /// The pair being written and the sequence number that it gets.
    target: u8,
    seq: Seq,
    /// Faults that may still happen, and whether one waits to be reported.
    fails_left: u8,
    error_pending: bool,
}

impl State for Header {
    type Key = u64;

    fn fields<P: Packing>(&mut self, p: &mut P) {
        for i in 0..COPIES {
            p.field(&mut self.cache[i], 3);
            p.field(&mut self.disk[i], 3);
            p.field(&mut self.dirty[i], 1);
        }
        p.field(&mut self.owed, 3);
        p.field(&mut self.known, 3);
        p.field(&mut self.known_pair, 1);
        p.field(&mut self.pc, 3);
        p.field(&mut self.target, 1);
        p.field(&mut self.seq, 3);
        p.field(&mut self.fails_left, 2);
        p.field(&mut self.error_pending, 1);
    }
}

impl Header {
    /// Created: the first header in pair 0.
    fn created(fails_left: u8) -> Header {
        let copies = [1, 1, 0, 0];
        Header { cache: copies, disk: copies, owed: 1, known: TORN, fails_left, ..Header::default() }
    }

    fn at(mut self, pc: Pc, target: u8, seq: Seq) -> Header {
        (self.pc, self.target, self.seq) = (pc, target, seq);
        self
    }

    /// The writer is gone. Its peers go on with what shared memory says, if there are any.
    fn abandoned(self) -> Header {
        if self.known == TORN { self.reopened() } else { self.at(Pc::Idle, 0, 0) }
    }

    /// Nobody is left; the next one opens.
    fn reopened(mut self) -> Header {
        (self.known, self.known_pair) = (TORN, 0);
        self.at(Pc::Open, 0, 0)
    }

    /// Everything dirty is on disk now.
    fn synced(mut self) -> Header {
        for i in 0..COPIES {
            if self.dirty[i] {
                self.disk[i] = self.cache[i];
            }
        }
        self
    }

    /// A commit of `seq` to the pair `target` has returned.
    fn returned(mut self) -> Header {
        self.owed = self.owed.max(self.seq);
        (self.known, self.known_pair) = (self.seq, self.target);
        self.at(Pc::Idle, 0, 0)
    }

    fn written(mut self, copy: usize, value: Seq) -> Header {
        self.cache[copy] = value;
        self.dirty[copy] = true;
        self
    }

    /// What the disk may hold after a power cut.
    fn outcomes(&self) -> Vec<Copies> {
        let mut all = vec![self.disk];
        for i in 0..COPIES {
            if self.dirty[i] && self.cache[i] != self.disk[i] {
                for k in 0..all.len() {
                    for v in [self.cache[i], TORN] {
                        let mut o = all[k];
                        o[i] = v;
                        all.push(o);
                    }
                }
            }
        }
        all
    }

    /// The promise, for a power cut now, and that somebody who opens finds a header.
    fn check(&self) -> Result<(), String> {
        for o in self.outcomes() {
            if newest(&o).0 < self.owed {
                return Err(format!("a power cut here leaves {o:?}, {} owed", self.owed));
            }
        }
        if newest(&self.cache).0 <= 0 {
            return Err(format!("no header in {:?}", self.cache));
        }
        Ok(())
    }

    fn show(&self) -> String {
        let known = if self.known == TORN { "nothing".to_string() } else { self.known.to_string() };
        format!("cache {:?} disk {:?} owed {} known {known}", self.cache, self.disk, self.owed)
    }
}

/// The newest header and the pair that holds it.
fn newest(copies: &Copies) -> (Seq, u8) {
    let s = *copies.iter().max().expect("four copies");
    (s, (copies.iter().position(|&c| c == s).expect("the maximum") / 2) as u8)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    /// The protocol.
    Ok,
    /// The pair is chosen by the parity of the sequence number.
    Parity,
    /// The opener believes that the newest header it finds is durable.
    Norewrite,
    /// A commit takes its number from the newest header known to be durable, not from the newest one in the file.
    Sameseq,
}

struct Commits {
    variant: Variant,
    last: Seq,
}

impl Model for Commits {
    type State = Header;

    fn starts(&self) -> Vec<Header> {
        // Without failing syncs a copy is dirty whenever cache and disk differ.
        vec![Header { dirty: [true; COPIES], ..Header::created(0) }]
    }

    fn steps(&self, s: &Header, to: &mut Steps<Header>) {
        let (first, second) = (usize::from(s.target) * 2, usize::from(s.target) * 2 + 1);
        let (seq, pair) = newest(&s.cache);
        match s.pc {
            Pc::Open if self.variant == Variant::Norewrite => {
                to.add("opener", "adopts", Header { known: seq, known_pair: pair, ..s.at(Pc::Idle, 0, 0) });
            }
            Pc::Open => {
                let n = Header { known: TORN, known_pair: 0, ..s.at(Pc::RewriteFirst, pair, seq) };
                to.add("opener", "rewrites newest in place", n);
            }
            Pc::RewriteFirst => {
                to.add("opener", "rewrites first copy", s.written(first, s.seq).at(Pc::RewriteSecond, s.target, s.seq));
            }
            Pc::RewriteSecond => {
                to.add("opener", "rewrites second copy", s.written(second, s.seq).at(Pc::RewriteSync, s.target, s.seq));
            }
            Pc::Idle if seq < self.last => {
                let target = if self.variant == Variant::Parity { (seq as u8 + 1) % 2 } else { 1 - s.known_pair };
                to.add("writer", "begins a commit", s.at(Pc::WriteFirst, target, seq + 1));
            }
            Pc::Idle => {}
            Pc::WriteFirst => {
                to.add("writer", "writes first copy", s.written(first, s.seq).at(Pc::WriteSecond, s.target, s.seq));
            }
            Pc::WriteSecond => {
                to.add("writer", "writes second copy", s.written(second, s.seq).at(Pc::WriteSync, s.target, s.seq));
            }
            Pc::RewriteSync | Pc::WriteSync => to.add("writer", "syncs, returns", s.synced().returned()),
        }
        to.add("writer", "KILLED, a peer goes on", s.abandoned());
        to.add("writer", "KILLED, reopen", s.reopened());
        for i in 0..COPIES {
            let mut n = *s;
            n.disk[i] = s.cache[i];
            to.add("kernel", "writes back a copy", n);
        }
        for o in s.outcomes() {
            to.add("power", "CUT, reopen", Header { cache: o, disk: o, ..s.reopened() });
        }
    }

    fn check(&self, s: &Header) -> Result<(), String> {
        s.check()
    }

    fn show(&self, s: &Header) -> String {
        s.show()
    }
}

struct Faults {
    variant: Variant,
    last: Seq,
    fails: u8,
}

impl Faults {
    /// A write of one copy, which a kill may tear.
    fn write(&self, s: &Header, copy: usize, next: Pc, to: &mut Steps<Header>) {
        to.add("writer", "writes a copy", s.written(copy, s.seq).at(next, s.target, s.seq));
        if s.cache[copy] != s.seq {
            to.add("writer", "KILLED tearing a copy", s.written(copy, TORN).abandoned());
        }
    }

    fn sync(&self, s: &Header, to: &mut Steps<Header>) {
        let done = Header { dirty: [false; COPIES], ..s.synced() };
        if s.error_pending {
            to.add("writer", "sync reports an earlier error", Header { error_pending: false, ..done.abandoned() });
            return;
        }
        to.add("writer", "syncs, returns", done.returned());
        if s.fails_left > 0 {
            for disk in s.outcomes() {
                let n = Header { disk, dirty: [false; COPIES], fails_left: s.fails_left - 1, ..s.abandoned() };
                to.add("writer", "sync FAILS, page kept", n);
                to.add("writer", "sync FAILS, page reverted", Header { cache: disk, ..n });
            }
        }
    }
}

impl Model for Faults {
    type State = Header;

    fn starts(&self) -> Vec<Header> {
        vec![Header::created(self.fails)]
    }

    fn steps(&self, s: &Header, to: &mut Steps<Header>) {
        let (first, second) = (usize::from(s.target) * 2, usize::from(s.target) * 2 + 1);
        let (seq, pair) = newest(&s.cache);
        match s.pc {
            Pc::Open => {
                let n = Header { known: TORN, known_pair: 0, ..s.at(Pc::RewriteFirst, pair, seq) };
                to.add("opener", "rewrites newest in place", n);
            }
            Pc::RewriteFirst => self.write(s, first, Pc::RewriteSecond, to),
            Pc::RewriteSecond => self.write(s, second, Pc::RewriteSync, to),
            Pc::Idle => {
                let next = if self.variant == Variant::Sameseq { s.known + 1 } else { seq + 1 };
                if next <= self.last {
                    to.add("writer", "begins a commit", s.at(Pc::WriteFirst, 1 - s.known_pair, next));
                }
            }
            Pc::WriteFirst => self.write(s, first, Pc::WriteSecond, to),
            Pc::WriteSecond => self.write(s, second, Pc::WriteSync, to),
            Pc::RewriteSync | Pc::WriteSync => self.sync(s, to),
        }
        to.add("writer", "KILLED, a peer goes on", s.abandoned());
        to.add("writer", "KILLED, reopen", s.reopened());
        for i in 0..COPIES {
            if s.dirty[i] {
                let mut n = *s;
                n.dirty[i] = false;
                if s.fails_left > 0 && s.cache[i] != s.disk[i] {
                    let failed = Header { fails_left: s.fails_left - 1, error_pending: true, ..n };
                    to.add("kernel", "FAILS to write back a copy", failed);
                }
                n.disk[i] = s.cache[i];
                to.add("kernel", "writes back a copy", n);
            }
        }
        for o in s.outcomes() {
            let n = Header { cache: o, disk: o, dirty: [false; COPIES], error_pending: false, ..s.reopened() };
            to.add("power", "CUT, reopen", n);
        }
    }

    fn check(&self, s: &Header) -> Result<(), String> {
        if newest(&s.cache).0 < s.owed {
            return Err(format!("the cache has {:?}, {} owed", s.cache, s.owed));
        }
        s.check()
    }

    fn show(&self, s: &Header) -> String {
        s.show()
    }
}

#[test]
fn some_header_is_as_new_as_owed() {
    holds("four commits", &Commits { variant: Variant::Ok, last: 4 }, 1321);
}

#[test]
fn choosing_the_pair_by_parity_breaks() {
    breaks("Parity", &Commits { variant: Variant::Parity, last: 4 }, 7);
}

#[test]
fn believing_the_newest_header_found_breaks() {
    breaks("Norewrite", &Commits { variant: Variant::Norewrite, last: 4 }, 8);
}

#[test]
fn some_header_is_as_new_as_owed_with_a_failed_sync() {
    holds("three commits, one fault", &Faults { variant: Variant::Ok, last: 3, fails: 1 }, 5102);
    holds("four commits, one fault", &Faults { variant: Variant::Ok, last: 4, fails: 1 }, 15_543);
}

#[test]
fn some_header_is_as_new_as_owed_with_two_failed_syncs() {
    holds("three commits, two faults", &Faults { variant: Variant::Ok, last: 3, fails: 2 }, 9211);
}

#[test]
fn some_header_is_as_new_as_owed_with_three_failed_syncs() {
    holds("six commits, three faults", &Faults { variant: Variant::Ok, last: 6, fails: 3 }, 250_915);
}

/// Numbering from the known header gives the number of a failed commit away a second time, in the same pair. The
/// promise is kept, which is about numbers. The protocol numbers from the newest header in the file all the same:
/// a number that has been seen is then never another header's.
#[test]
fn numbering_from_the_known_header_keeps_the_promise() {
    holds("Sameseq", &Faults { variant: Variant::Sameseq, last: 4, fails: 1 }, 4366);
}
