//! Model of opening, closing, joining and truncating a file that several processes have open.
//!
//! The attach lock is a flock: converting it lets go first and then acquires, and somebody else may be faster. The gate
//! is what makes every decision about it one. Any number of writers hold attach shared; who gets it exclusively, holding
//! the gate, is alone: the first in recovers and rebuilds the volatile part, the last out leaves CLEAN. Who is not
//! alone joins, if the runtime page has the nonce of the header.
//!
//! One granule; commits of the header and flushes are atomic here. Any interleaving of opens, sets, closes, truncations and
//! readers, with kills between any two steps, and power cuts in every state, after which the volatile part in the file is
//! what was written back of it: the nonce or none, the live bit or none.
//!
//! Checked in every state: when `set` has returned, a power cut now recovers the bit; no process that is
//! attached reads it clean. With readers that hold no lock: no reader believes a read that missed the bit, the last
//! writer out leaves CLEAN, and a writer that comes when no other is attached is the first in.

#[path = "model/explore.rs"]
mod explore;

use explore::{Model, Packing, State, Steps, breaks, holds, program_counter};

/// How readers attach to a map that is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reading {
    /// Broken: they take attach shared without the gate, and keep it.
    Ungated,
    /// They look under the gate; when somebody has the map, they take attach shared and keep it.
    Attached,
    /// They look under the gate and keep no lock. A read counts if the nonce of the runtime page is the same after it.
    Checking(Look),
    /// Broken: the same, but the nonce is compared before the read.
    CheckingBefore,
}

/// How a reader that keeps no lock finds out whether a writer is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// Holds the gate, and tries to get attach exclusively.
    Alone,
    /// Broken: the same, but several readers hold the gate at once, and mistake each other for a writer.
    Together,
    /// Several readers hold the gate at once; a writer is noticed by a lock that is tested and not taken.
    Tested,
}

/// How a map is truncated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Truncate {
    /// Broken: without the gate, and carrying on when the lock could not be had.
    Ungated,
    /// Without the gate, but looking whether the session is still the same.
    Verified,
    /// Holding the gate; the nonce is taken away before the volatile part, and a new one is given after it.
    Gated,
    /// Broken: the same, but with the nonce that it had.
    SameNonce,
}

program_counter! {
    enum Pc {
        Out,
        // Opening for writing.
        Gate, TryExclusive, TakeShared, CompareNonce,
        Recover, Forget, ZeroLive, LoadLive, CommitOpen, WriteNonce, LetGo, BackToShared,
        Attached, Arming,
        // Truncating without the gate, and with it.
        TruncateTry, TruncateBack, TruncateGate, TruncateLetGo, TruncateNonce, TruncatePunch, TruncateNew, TruncateCommit,
        TruncateShare,
        // Closing.
        CloseGate, Flush, CloseLetGo, CloseTry, FlushAlone, CommitClean, ClearNonce, Punch, Leave,
        // Reading.
        ReadGate, ReadLook, ReadShared, ReadAttached, ReadLoad, Reader, ReadDone, Misread,
    }
}

const PROCESSES: usize = 4;
const NAMES: [&str; PROCESSES] = ["process 0", "process 1", "process 2", "process 3"];
/// As often as they like.
const EVER: u8 = 7;
/// Nobody holds the gate.
const FREE: u8 = 7;

/// The attach lock, as a process holds it.
const NONE: u8 = 0;
const SHARED: u8 = 1;
const EXCLUSIVE: u8 = 2;

#[derive(Clone, Copy, Default)]
struct File {
    /// The header: OPEN, its nonce, whether the granule is listed; and the bottom.
    open: bool,
    nonce: u8,
    listed: bool,
    bottom: bool,
    /// The volatile part: the nonce of the runtime page, the live and the armed bit.
    runtime: u8,
    live: bool,
    armed: bool,
    attach: [u8; PROCESSES],
    /// Who holds the gate, and the readers that share it.
    gate: u8,
    gate_readers: u8,
    pc: [Pc; PROCESSES],
    /// The session that each process believes to be in.
    session: [u8; PROCESSES],
    owed: bool,
    /// A reader has believed a read that missed the bit; a reader was in the way of a writer.
    misread: bool,
    hindered: bool,
    opens_left: u8,
    kills_left: u8,
    cuts_left: u8,
    sets_left: u8,
}

impl State for File {
    type Key = u128;

    fn fields<P: Packing>(&mut self, p: &mut P) {
        p.field(&mut self.open, 1);
        p.field(&mut self.nonce, 4);
        p.field(&mut self.listed, 1);
        p.field(&mut self.bottom, 1);
        p.field(&mut self.runtime, 4);
        p.field(&mut self.live, 1);
        p.field(&mut self.armed, 1);
        p.field(&mut self.gate, 3);
        p.field(&mut self.gate_readers, 4);
        for t in 0..PROCESSES {
            p.field(&mut self.attach[t], 2);
            p.field(&mut self.pc[t], 6);
            p.field(&mut self.session[t], 4);
        }
        p.field(&mut self.owed, 1);
        p.field(&mut self.misread, 1);
        p.field(&mut self.hindered, 1);
        p.field(&mut self.opens_left, 3);
        p.field(&mut self.kills_left, 3);
        p.field(&mut self.cuts_left, 3);
        p.field(&mut self.sets_left, 3);
    }
}

impl File {
    fn at(mut self, t: usize, pc: Pc) -> File {
        self.pc[t] = pc;
        self
    }

    fn attach(mut self, t: usize, lock: u8) -> File {
        self.attach[t] = lock;
        self
    }

    fn ungate(mut self, t: usize) -> File {
        if self.gate == t as u8 {
            self.gate = FREE;
        }
        self.gate_readers &= !(1 << t);
        self
    }

    fn leave(self, t: usize) -> File {
        self.ungate(t).attach(t, NONE).at(t, Pc::Out)
    }

    fn can_have(&self, t: usize, lock: u8) -> bool {
        let allowed = if lock == EXCLUSIVE { NONE } else { SHARED };
        self.attach.iter().enumerate().all(|(other, &held)| other == t || held <= allowed)
    }

    /// Writes what is set to the bottom.
    fn flush(&mut self) {
        self.bottom = self.live && (self.listed || self.bottom);
        (self.armed, self.listed) = (false, false);
    }

    /// Gives the sessions other numbers, so that as many as can be told apart have some.
    fn renumbered(mut self) -> File {
        let mut known = [0; PROCESSES + 2];
        let mut number = |nonce: &mut u8| {
            let free = known.iter().position(|&k| k == *nonce || k == 0).expect("room for all that there are");
            if *nonce != 0 {
                known[free] = *nonce;
                *nonce = free as u8 + 1;
            }
        };
        number(&mut self.nonce);
        number(&mut self.runtime);
        for (session, pc) in self.session.iter_mut().zip(self.pc) {
            *session = if pc == Pc::Out { 0 } else { *session };
            number(session);
        }
        self
    }

    fn new_nonce(&self) -> u8 {
        self.session.iter().fold(self.nonce.max(self.runtime), |most, &s| most.max(s)) + 1
    }

    fn same_session(&self, t: usize) -> bool {
        self.open && self.runtime == self.nonce && self.nonce == self.session[t]
    }
}

/// One less, of a budget.
fn less(left: u8) -> u8 {
    if left == EVER { EVER } else { left - 1 }
}

/// A configuration to explore.
#[derive(Clone, Copy)]
struct Locks {
    processes: usize,
    /// How many of them, the last ones, only read.
    readers: usize,
    reading: Reading,
    truncate: Truncate,
    /// Whether opening and closing hold the gate.
    gate: bool,
    /// Whether the first in begins by taking the nonce away.
    invalidate: bool,
    /// Whether who joins demands that the state is OPEN.
    check_state: bool,
    /// Whether the last out looks at the session, and flushes again when it has the lock.
    alone_flush: bool,
    /// Whether a list in a CLEAN file is recovered too.
    list_always: bool,
    /// Whether anything happens without end. Sessions are told apart, and not counted, then.
    endless: bool,
    /// Whether readers must be in no writer's way.
    unhindered: bool,
    /// Whether the last out takes the nonce away, and then frees the volatile part; `Some(false)`: the other way round.
    punch: Option<bool>,
    opens: u8,
    kills: u8,
    cuts: u8,
    sets: u8,
}

/// Truncation without the gate, and readers that keep attach shared: what was explored first.
const FIRST: Locks = Locks {
    processes: 2,
    readers: 1,
    reading: Reading::Attached,
    truncate: Truncate::Verified,
    gate: true,
    invalidate: true,
    check_state: true,
    alone_flush: true,
    list_always: false,
    endless: false,
    unhindered: false,
    punch: None,
    opens: 4,
    kills: 1,
    cuts: 1,
    sets: 2,
};

const THREE: Locks = Locks { processes: 3, opens: 5, ..FIRST };

/// As it shall be: everything is decided under the gate, and readers are in nobody's way.
const SHARING: Locks = Locks {
    reading: Reading::Checking(Look::Alone),
    truncate: Truncate::Gated,
    list_always: true,
    punch: Some(true),
    endless: true,
    unhindered: true,
    opens: EVER,
    kills: EVER,
    cuts: EVER,
    sets: EVER,
    ..THREE
};

impl Locks {
    fn reads(&self, t: usize) -> bool {
        t >= self.processes - self.readers
    }

    fn another_writer(&self, s: &File, t: usize) -> bool {
        (0..self.processes - self.readers).any(|other| other != t && s.attach[other] != NONE)
    }

    /// Whether it is a reader that keeps a writer from being alone.
    fn hinders(&self, s: &File, t: usize) -> bool {
        self.unhindered && !self.another_writer(s, t)
    }

    fn open(&self, s: &File, t: usize) -> Option<(&'static str, File)> {
        let mut n = *s;
        let first = if self.gate { Pc::Gate } else { Pc::TryExclusive };
        Some(match s.pc[t] {
            Pc::Out if s.opens_left == 0 => return None,
            Pc::Out => {
                n.opens_left = less(s.opens_left);
                ("opens", n.at(t, if self.reads(t) { Pc::ReadGate } else { first }))
            }
            Pc::Gate if s.gate != FREE || s.gate_readers != 0 => return None,
            Pc::Gate => {
                n.gate = t as u8;
                ("gate", n.at(t, Pc::TryExclusive))
            }
            Pc::TryExclusive if s.can_have(t, EXCLUSIVE) => ("alone", n.attach(t, EXCLUSIVE).at(t, Pc::Recover)),
            Pc::TryExclusive => {
                n.hindered |= self.hinders(s, t);
                ("not alone", n.at(t, Pc::TakeShared))
            }
            Pc::TakeShared if !s.can_have(t, SHARED) => return None,
            Pc::TakeShared => ("attach, shared", n.attach(t, SHARED).at(t, Pc::CompareNonce)),
            Pc::CompareNonce if s.runtime == s.nonce && (s.open || !self.check_state) => {
                n.session[t] = s.nonce;
                ("the nonce is right, joined", n.ungate(t).at(t, Pc::Attached))
            }
            Pc::CompareNonce => ("the nonce is wrong, again", n.ungate(t).attach(t, NONE).at(t, first)),
            Pc::Recover => {
                if self.invalidate {
                    n.runtime = 0;
                }
                if s.open || self.list_always && s.listed {
                    n.bottom |= s.listed;
                    ("recovers the bottom", n.at(t, Pc::Forget))
                } else {
                    ("it was clean", n.at(t, Pc::ZeroLive))
                }
            }
            Pc::Forget => {
                n.listed = false;
                ("forgets the list", n.at(t, Pc::ZeroLive))
            }
            Pc::ZeroLive => {
                (n.live, n.armed) = (false, false);
                ("live = 0", n.at(t, Pc::LoadLive))
            }
            Pc::LoadLive => {
                n.live = s.bottom;
                ("live = bottom", n.at(t, Pc::CommitOpen))
            }
            Pc::CommitOpen => {
                n.nonce = n.new_nonce();
                n.open = true;
                n.session[t] = n.nonce;
                ("commits OPEN, new nonce", n.at(t, Pc::WriteNonce))
            }
            Pc::WriteNonce => {
                n.runtime = s.nonce;
                ("writes the runtime nonce", n.at(t, Pc::LetGo))
            }
            Pc::LetGo => ("exclusive to shared: lets go", n.attach(t, NONE).at(t, Pc::BackToShared)),
            Pc::BackToShared if !s.can_have(t, SHARED) => return None,
            Pc::BackToShared => ("exclusive to shared: has it", n.attach(t, SHARED).ungate(t).at(t, Pc::Attached)),
            _ => unreachable!("not opening"),
        })
    }

    fn attached(&self, s: &File, t: usize, to: &mut Steps<File>) {
        let name = NAMES[t];
        let mut n = *s;
        if s.pc[t] == Pc::Arming {
            if s.armed {
                (n.live, n.owed) = (true, true);
                to.add(name, "live |= bit, set returns", n.at(t, Pc::Attached));
            } else {
                (n.listed, n.armed) = (true, true);
                to.add(name, "disarmed meanwhile, arms again", n);
            }
            return;
        }
        if s.sets_left > 0 {
            n.sets_left = less(s.sets_left);
            if s.live && s.bottom {
                to.add(name, "durable, set returns", File { owed: true, ..n });
            } else if s.armed {
                to.add(name, "armed, set returns", File { live: true, owed: true, ..n });
            } else {
                to.add(name, "arms", File { listed: true, armed: true, ..n }.at(t, Pc::Arming));
            }
        }
        to.add(name, "closes", s.at(t, if self.gate { Pc::CloseGate } else { Pc::Flush }));
        match self.truncate {
            Truncate::Ungated | Truncate::Verified => {
                to.add(name, "truncate: shared to exclusive, lets go", s.attach(t, NONE).at(t, Pc::TruncateTry));
            }
            Truncate::Gated | Truncate::SameNonce => to.add(name, "truncates", s.at(t, Pc::TruncateGate)),
        }
    }

    fn truncate(&self, s: &File, t: usize) -> Option<(&'static str, File)> {
        let verified = self.truncate == Truncate::Verified;
        let mut n = *s;
        Some(match s.pc[t] {
            Pc::TruncateTry if s.can_have(t, EXCLUSIVE) && (!verified || s.same_session(t)) => {
                ("truncates alone, lets go", n.attach(t, NONE).at(t, Pc::TruncateBack))
            }
            Pc::TruncateTry if s.can_have(t, EXCLUSIVE) => ("its session is gone", n.leave(t)),
            Pc::TruncateTry if verified => ("not alone", n.at(t, Pc::TruncateBack)),
            Pc::TruncateTry => ("not alone, carries on without the lock", n.at(t, Pc::Attached)),
            Pc::TruncateBack if !s.can_have(t, SHARED) => return None,
            Pc::TruncateBack if verified && !s.same_session(t) => ("its session is gone", n.leave(t)),
            Pc::TruncateBack => ("shared again", n.attach(t, SHARED).at(t, Pc::Attached)),
            Pc::TruncateGate if s.gate != FREE || s.gate_readers != 0 => return None,
            Pc::TruncateGate => {
                n.gate = t as u8;
                ("gate", n.at(t, Pc::TruncateLetGo))
            }
            Pc::TruncateLetGo => ("shared to exclusive: lets go", n.attach(t, NONE).at(t, Pc::TruncateNonce)),
            Pc::TruncateNonce if !s.can_have(t, EXCLUSIVE) => ("not alone", n.at(t, Pc::TruncateShare)),
            Pc::TruncateNonce => {
                n.attach[t] = EXCLUSIVE;
                n.flush();
                n.runtime = if self.truncate == Truncate::Gated { 0 } else { s.runtime };
                ("alone: flushes, takes the nonce away", n.at(t, Pc::TruncatePunch))
            }
            Pc::TruncatePunch => {
                n.live = false;
                ("frees the old volatile part", n.at(t, Pc::TruncateNew))
            }
            Pc::TruncateNew => {
                n.live = s.bottom;
                ("has a new one", n.at(t, Pc::TruncateCommit))
            }
            Pc::TruncateCommit => {
                if self.truncate == Truncate::Gated {
                    n.nonce = n.new_nonce();
                    (n.runtime, n.session[t]) = (n.nonce, n.nonce);
                }
                ("commits it with its nonce, lets go", n.attach(t, NONE).at(t, Pc::TruncateShare))
            }
            Pc::TruncateShare if !s.can_have(t, SHARED) => return None,
            Pc::TruncateShare => ("shared again", n.attach(t, SHARED).ungate(t).at(t, Pc::Attached)),
            _ => unreachable!("not truncating"),
        })
    }

    fn close(&self, s: &File, t: usize) -> Option<(&'static str, File)> {
        let mut n = *s;
        Some(match s.pc[t] {
            Pc::CloseGate if s.gate != FREE || s.gate_readers != 0 => return None,
            Pc::CloseGate => {
                n.gate = t as u8;
                ("gate", n.at(t, Pc::Flush))
            }
            Pc::Flush => {
                n.flush();
                ("flushes", n.at(t, Pc::CloseLetGo))
            }
            Pc::CloseLetGo => ("shared to exclusive: lets go", n.attach(t, NONE).at(t, Pc::CloseTry)),
            Pc::CloseTry if s.can_have(t, EXCLUSIVE) => ("alone", n.attach(t, EXCLUSIVE).at(t, Pc::FlushAlone)),
            Pc::CloseTry => {
                n.hindered |= self.hinders(s, t);
                ("not alone, leaves", n.leave(t))
            }
            Pc::FlushAlone if !self.alone_flush => ("-", n.at(t, Pc::CommitClean)),
            Pc::FlushAlone if !s.same_session(t) => ("not its session any more, leaves", n.leave(t)),
            Pc::FlushAlone => {
                n.flush();
                ("flushes again", n.at(t, Pc::CommitClean))
            }
            Pc::CommitClean => {
                (n.open, n.listed) = (false, false);
                let next = match self.punch {
                    None => Pc::Leave,
                    Some(true) => Pc::ClearNonce,
                    Some(false) => Pc::Punch,
                };
                ("commits CLEAN", n.at(t, next))
            }
            Pc::ClearNonce => {
                n.runtime = 0;
                ("takes the nonce away", n.at(t, if self.punch == Some(true) { Pc::Punch } else { Pc::Leave }))
            }
            Pc::Punch => {
                (n.live, n.armed) = (false, false);
                ("frees the volatile part", n.at(t, if self.punch == Some(true) { Pc::Leave } else { Pc::ClearNonce }))
            }
            Pc::Leave => ("leaves", n.leave(t)),
            _ => unreachable!("not closing"),
        })
    }

    fn read(&self, s: &File, t: usize) -> Option<(&'static str, File)> {
        let mut n = *s;
        let shares = matches!(self.reading, Reading::Checking(Look::Together | Look::Tested));
        let tests = self.reading == Reading::Checking(Look::Tested);
        Some(match s.pc[t] {
            Pc::ReadGate if self.reading == Reading::Ungated && !s.can_have(t, SHARED) => return None,
            Pc::ReadGate if self.reading == Reading::Ungated => {
                ("attach, shared", n.attach(t, SHARED).at(t, Pc::ReadShared))
            }
            Pc::ReadGate if s.gate != FREE || s.gate_readers != 0 && !shares => return None,
            Pc::ReadGate if shares => {
                n.gate_readers |= 1 << t;
                ("gate, with other readers", n.at(t, Pc::ReadLook))
            }
            Pc::ReadGate => {
                n.gate = t as u8;
                ("gate", n.at(t, Pc::ReadLook))
            }
            Pc::ReadShared => ("loads", n.at(t, Pc::ReadAttached)),
            Pc::ReadAttached => ("closes", n.leave(t)),
            Pc::ReadLook if self.reading == Reading::Attached && s.can_have(t, EXCLUSIVE) => {
                ("nobody has it: loads", n.leave(t))
            }
            Pc::ReadLook if self.reading == Reading::Attached => {
                ("attach, shared", n.attach(t, SHARED).ungate(t).at(t, Pc::ReadAttached))
            }
            Pc::ReadLook if tests && !self.another_writer(s, t) => ("no writer has it", n.at(t, Pc::ReadLoad)),
            Pc::ReadLook if !tests && s.can_have(t, EXCLUSIVE) => {
                ("nobody has it", n.attach(t, EXCLUSIVE).at(t, Pc::ReadLoad))
            }
            Pc::ReadLoad => ("loads and leaves", n.leave(t)),
            Pc::ReadLook if s.open && s.runtime == s.nonce => {
                n.session[t] = s.nonce;
                ("the nonce is right, keeps no lock", n.ungate(t).at(t, Pc::Reader))
            }
            Pc::ReadLook => ("the nonce is wrong", n.leave(t)),
            Pc::Reader if self.reading == Reading::CheckingBefore && s.runtime != s.session[t] => {
                ("the session has ended", n.leave(t))
            }
            Pc::Reader if self.reading == Reading::CheckingBefore => ("the nonce is right", n.at(t, Pc::ReadDone)),
            Pc::ReadDone if self.reading == Reading::CheckingBefore => {
                n.misread |= s.owed && !s.live;
                ("reads", n.at(t, Pc::Reader))
            }
            Pc::Reader => ("reads", n.at(t, if s.owed && !s.live { Pc::Misread } else { Pc::ReadDone })),
            Pc::ReadDone | Pc::Misread if s.runtime != s.session[t] => ("the session has ended", n.leave(t)),
            Pc::ReadDone => ("the nonce is right: believes it", n.at(t, Pc::Reader)),
            Pc::Misread => {
                n.misread = true;
                ("the nonce is right: believes it", n.at(t, Pc::Reader))
            }
            _ => unreachable!("not reading"),
        })
    }
}

impl Model for Locks {
    type State = File;

    fn starts(&self) -> Vec<File> {
        vec![File {
            nonce: 1,
            runtime: 1,
            gate: FREE,
            opens_left: self.opens,
            kills_left: self.kills,
            cuts_left: self.cuts,
            sets_left: self.sets,
            ..File::default()
        }]
    }

    fn steps(&self, s: &File, all: &mut Steps<File>) {
        let to = &mut Steps::new();
        for (t, name) in NAMES.into_iter().enumerate().take(self.processes) {
            let step = match s.pc[t] {
                Pc::Attached | Pc::Arming => {
                    self.attached(s, t, to);
                    None
                }
                pc if pc < Pc::Attached => self.open(s, t),
                pc if pc < Pc::CloseGate => self.truncate(s, t),
                pc if pc < Pc::ReadGate => self.close(s, t),
                _ => self.read(s, t),
            };
            if let Some((what, n)) = step {
                to.add(name, what, n);
            }
            if s.kills_left > 0 && s.pc[t] != Pc::Out {
                to.add(name, "KILLED", File { kills_left: less(s.kills_left), ..s.leave(t) });
            }
        }
        if s.cuts_left > 0 {
            for (runtime, live) in [(0, false), (0, s.live), (s.runtime, false), (s.runtime, s.live)] {
                let (attach, pc, gate, gate_readers) = ([NONE; PROCESSES], [Pc::Out; PROCESSES], FREE, 0);
                let cuts_left = less(s.cuts_left);
                let n = File { runtime, live, armed: false, attach, pc, gate, gate_readers, cuts_left, ..*s };
                to.add("power", "CUT", n);
            }
        }
        for ((who, what), n) in to.drain() {
            all.add(who, what, if self.endless { n.renumbered() } else { n });
        }
    }

    fn check(&self, s: &File) -> Result<(), String> {
        let recovered = s.bottom || s.listed && (s.open || self.list_always);
        if s.owed && !recovered {
            return Err("a power cut here recovers clean".to_string());
        }
        if s.owed && !s.live && s.pc.contains(&Pc::Attached) {
            return Err("an attached process reads clean".to_string());
        }
        if s.misread {
            return Err("a reader believes that it is clean".to_string());
        }
        if s.hindered {
            return Err("a reader is in the way of a writer".to_string());
        }
        Ok(())
    }

    fn show(&self, s: &File) -> String {
        format!(
            "{} nonce {} listed {} bottom {} | runtime {} live {} armed {} | attach {:?} gate {} | owed {}",
            if s.open { "OPEN" } else { "CLEAN" },
            s.nonce,
            u8::from(s.listed),
            u8::from(s.bottom),
            s.runtime,
            u8::from(s.live),
            u8::from(s.armed),
            s.attach,
            if s.gate == FREE { "free".to_string() } else { s.gate.to_string() },
            u8::from(s.owed)
        )
    }
}

/// As explored first: truncation looks at the session instead of holding the gate, readers stay attached.
mod first {
    use super::*;

    #[test]
    fn nothing_is_lost() {
        holds("first, 2 processes, 4 opens", &FIRST, 11_134);
        holds("first, 3 processes, 4 opens", &Locks { opens: 4, ..THREE }, 148_768);
        holds("first, 3 processes, 5 opens", &THREE, 354_175);
    }

    #[test]
    fn opening_and_closing_without_the_gate_lets_a_dead_session_be_joined() {
        breaks("no gate, 2 processes", &Locks { gate: false, ..FIRST }, 22);
        breaks("no gate", &Locks { gate: false, ..THREE }, 19);
    }

    #[test]
    fn a_first_in_that_leaves_the_nonce_lets_others_in_half_way() {
        breaks("nonce left", &Locks { invalidate: false, ..THREE }, 22);
    }

    #[test]
    fn a_last_out_that_does_not_flush_again_forgets_what_was_set_meanwhile() {
        breaks("not flushed alone", &Locks { alone_flush: false, ..THREE }, 25);
    }

    #[test]
    fn readers_that_attach_without_the_gate_make_a_dead_session_look_alive() {
        breaks("readers ungated", &Locks { reading: Reading::Ungated, ..THREE }, 20);
    }

    #[test]
    fn a_truncation_that_carries_on_without_its_lock_is_in_nobodys_session() {
        breaks("truncate ungated", &Locks { truncate: Truncate::Ungated, ..THREE }, 19);
    }

    /// The nonce alone tells as long as the first in takes it away.
    #[test]
    fn joining_need_not_look_at_the_state() {
        holds("state not checked", &Locks { check_state: false, ..THREE }, 354_175);
    }
}

mod sharing {
    use super::*;

    #[test]
    fn nothing_is_lost_and_readers_are_in_nobodys_way() {
        holds("sharing, 2 writers 1 reader", &SHARING, 9_070);
        let m = Locks { readers: 2, reading: Reading::Checking(Look::Tested), ..SHARING };
        holds("sharing, 1 writer 2 readers, lock tested", &m, 10_690);
    }

    #[test]
    fn nothing_is_lost_among_four() {
        let m = Locks { processes: 4, ..SHARING };
        holds("sharing, 3 writers 1 reader", &m, 52_805);
        holds("sharing, 4 writers", &Locks { readers: 0, ..m }, 55_313);
        let m = Locks { readers: 2, reading: Reading::Checking(Look::Tested), ..m };
        holds("sharing, 2 writers 2 readers, lock tested", &m, 64_793);
    }

    /// The first in has taken the nonce away, and so has the last out.
    #[test]
    fn joining_need_not_look_at_the_state() {
        holds("sharing, state not checked", &Locks { check_state: false, ..SHARING }, 9_070);
    }

    /// Nothing is lost, but the last writer out leaves the file unclean, and the next one joins a session of nobody.
    #[test]
    fn readers_that_keep_the_lock_are_in_the_way() {
        let m = Locks { reading: Reading::Attached, ..SHARING };
        breaks("sharing, readers attached", &m, 17);
        holds("sharing, readers attached and in the way", &Locks { unhindered: false, ..m }, 4_166);
    }

    #[test]
    fn readers_that_share_the_gate_take_each_other_for_writers() {
        let m = Locks { readers: 2, reading: Reading::Checking(Look::Together), ..SHARING };
        breaks("readers together", &m, 21);
    }

    #[test]
    fn a_read_must_be_checked_after_it() {
        breaks("checked before", &Locks { reading: Reading::CheckingBefore, ..SHARING }, 22);
    }

    #[test]
    fn the_nonce_goes_before_the_volatile_part() {
        breaks("punched first", &Locks { punch: Some(false), ..SHARING }, 25);
        breaks("truncated with the same nonce", &Locks { truncate: Truncate::SameNonce, ..SHARING }, 22);
    }

    #[test]
    fn each_rule_is_needed() {
        breaks("sharing, no gate", &Locks { gate: false, unhindered: false, ..SHARING }, 19);
        breaks("sharing, nonce left", &Locks { invalidate: false, ..SHARING }, 24);
        breaks("sharing, not flushed alone", &Locks { alone_flush: false, ..SHARING }, 25);
    }
}
