//! Model of how a freeze waits for the writers that registered before it.
//!
//! A writer brackets its data write: it loads the epoch, registers with it, sets its bit, writes its data, and leaves.
//! A freeze takes the dirty bit as frozen, resets it, bumps the epoch, and waits until nobody is registered with an
//! older one; only then does the backup read the image, and then the frozen bit is dropped. One granule, any
//! interleaving, several freezes in a row.
//!
//! Checked in every state: an image that is not what was backed up last reads dirty, here or in the frozen set.
//!
//! Loading the epoch and registering are two steps, so a registration may be late: by then the epoch is older than the
//! one that a freeze is at. That is harmless if each writer has a slot of its own (the bit is set after the reset
//! then), and not if the writers of even and of odd epochs are counted and a freeze waits for one of the counts. If, after
//! the reset, it waits for the count to come, raises the epoch, and waits for the other one, it is harmless again.
//!
//! Beyond that: writers that die inside the bracket, with a data write that may still be under way (a device or another
//! process has it). What a freeze has to do about their slots depends on when such writes are over.

#[path = "model/explore.rs"]
mod explore;

use explore::{Model, Packing, State, Steps, breaks, holds, program_counter};

/// How the writers that are to be waited for are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    /// Each has a slot with its epoch.
    Slots,
    /// Two counters for each, for even and for odd epochs. What the library does, with `leftovers`.
    Parity,
    /// The same, and who has registered looks at the epoch again: if it is another one, he leaves and begins anew.
    LookAgain,
}

/// What a dead writer means to a freeze that finds its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dead {
    /// Nobody dies.
    Never,
    /// Its write has ended.
    Ended,
    /// The freeze fails, and the slot is free afterwards.
    FailsOnce,
    /// The freeze fails, and so does every other one while the write may be under way.
    FailsWhileUnderWay,
}

program_counter! {
    enum WriterPc { Load, Register, Set, Data, Leave, Left, Look, Undo }
}

program_counter! {
    enum FreezePc { Idle, Reset, Bump, Drain, Commit, PutBack, Leftover }
}

const WRITERS: usize = 3;
const NAMES: [&str; WRITERS] = ["writer 0", "writer 1", "writer 2"];

#[derive(Clone, Copy, Default)]
struct Granule {
    live: bool,
    epoch: u8,
    count: [u8; 2],
    slot: [u8; WRITERS],
    writer: [WriterPc; WRITERS],
    /// The epoch that a writer has loaded.
    loaded: [u8; WRITERS],
    /// Dead writers, and those of their data writes that may still be under way.
    dead: u8,
    under_way: u8,
    /// Versions of the image: as it is, as the last complete backup has it, as the backup that runs has read it.
    image: u8,
    backed_up: u8,
    seen: u8,
    frozen: bool,
    freezer: FreezePc,
    freezes_left: u8,
}

impl State for Granule {
    type Key = u128;

    fn fields<P: Packing>(&mut self, p: &mut P) {
        p.field(&mut self.live, 1);
        p.field(&mut self.epoch, 3);
        self.count.iter_mut().for_each(|c| p.field(c, 2));
        for t in 0..WRITERS {
            p.field(&mut self.slot[t], 3);
            p.field(&mut self.writer[t], 3);
            p.field(&mut self.loaded[t], 3);
        }
        p.field(&mut self.dead, 3);
        p.field(&mut self.under_way, 3);
        p.field(&mut self.image, 3);
        p.field(&mut self.backed_up, 3);
        p.field(&mut self.seen, 3);
        p.field(&mut self.frozen, 1);
        p.field(&mut self.freezer, 3);
        p.field(&mut self.freezes_left, 3);
    }
}

/// A configuration to explore.
#[derive(Clone, Copy)]
struct Epoch {
    register: Register,
    dead: Dead,
    /// Whether data writes of dead writers may reach the image later.
    late_writes: bool,
    writers: usize,
    freezes: u8,
    kills: u32,
    /// A freeze may stop waiting at any time, and is aborted then.
    gives_up: bool,
    /// Before a freeze raises the epoch, and after the reset, it waits until nobody is counted with the parity to come.
    leftovers: bool,
}

const OK: Epoch = Epoch {
    register: Register::Slots,
    dead: Dead::Never,
    late_writes: false,
    writers: 2,
    freezes: 2,
    kills: 0,
    gives_up: false,
    leftovers: false,
};

impl Epoch {
    fn writer(&self, s: &Granule, t: usize, to: &mut Steps<Granule>) {
        let mut n = *s;
        let parity = usize::from(s.loaded[t] & 1);
        let what = match s.writer[t] {
            WriterPc::Load => {
                n.loaded[t] = s.epoch;
                n.writer[t] = WriterPc::Register;
                "load epoch"
            }
            WriterPc::Register => {
                n.count[parity] += 1;
                n.slot[t] = s.loaded[t];
                n.writer[t] = if self.register == Register::LookAgain { WriterPc::Look } else { WriterPc::Set };
                "register"
            }
            WriterPc::Look => {
                n.writer[t] = if s.epoch == s.loaded[t] { WriterPc::Set } else { WriterPc::Undo };
                "look at the epoch again"
            }
            WriterPc::Undo => {
                n.count[parity] -= 1;
                n.slot[t] = 0;
                n.writer[t] = WriterPc::Load;
                "begin anew"
            }
            WriterPc::Set => {
                n.live = true;
                n.writer[t] = WriterPc::Data;
                "set"
            }
            WriterPc::Data => {
                n.image += 1;
                n.writer[t] = WriterPc::Leave;
                "DATA"
            }
            WriterPc::Leave => {
                n.count[parity] -= 1;
                n.slot[t] = 0;
                n.writer[t] = WriterPc::Left;
                "end"
            }
            WriterPc::Left => return,
        };
        to.add(NAMES[t], what, n);
        if registered(s, t) && s.dead.count_ones() < self.kills {
            let mut n = *s;
            n.dead |= 1 << t;
            if self.late_writes && s.writer[t] == WriterPc::Data {
                n.under_way |= 1 << t;
            }
            to.add(NAMES[t], "KILLED", n);
        }
    }

    /// What a freeze has to do about writers that are `old`: `Some(true)` go on, `Some(false)` wait, `None` fail.
    fn drained(&self, s: &Granule, old: impl Fn(usize) -> bool) -> Option<bool> {
        let died = |t: usize| s.dead >> t & 1 != 0;
        if self.dead != Dead::Ended && (0..WRITERS).any(|t| old(t) && died(t)) {
            return None;
        }
        Some(!(0..WRITERS).any(|t| old(t) && !died(t)))
    }

    /// Writers that are counted with this parity.
    fn counted(s: &Granule, parity: u8) -> impl Fn(usize) -> bool {
        move |t| registered(s, t) && s.slot[t] & 1 == parity
    }

    fn freezer(&self, s: &Granule, to: &mut Steps<Granule>) {
        let mut n = *s;
        let what = match s.freezer {
            FreezePc::Idle if s.freezes_left == 0 => return,
            FreezePc::Idle => {
                n.frozen = s.live;
                n.freezes_left -= 1;
                n.freezer = FreezePc::Reset;
                "freeze: frozen = live"
            }
            FreezePc::Reset => {
                n.live &= !s.frozen;
                n.freezer = if self.leftovers { FreezePc::Leftover } else { FreezePc::Bump };
                "reset"
            }
            FreezePc::Leftover => match self.drained(s, Epoch::counted(s, (s.epoch + 1) & 1)) {
                Some(true) => {
                    n.freezer = FreezePc::Bump;
                    "nobody is counted with the parity to come"
                }
                Some(false) => return self.give_up(s, to),
                None => return died(s, to),
            },
            FreezePc::Bump => {
                n.epoch += 1;
                n.freezer = FreezePc::Drain;
                "bump"
            }
            FreezePc::Drain => {
                let drained = match self.register {
                    Register::Slots => self.drained(s, |t| s.slot[t] != 0 && s.slot[t] < s.epoch),
                    _ => self.drained(s, Epoch::counted(s, (s.epoch - 1) & 1)),
                };
                match drained {
                    Some(true) => {}
                    Some(false) => return self.give_up(s, to),
                    None => return died(s, to),
                }
                if s.frozen {
                    n.seen = s.image;
                } else {
                    n.seen = s.backed_up;
                }
                n.freezer = FreezePc::Commit;
                "drained, backup reads"
            }
            FreezePc::Commit => {
                n.backed_up = s.seen;
                (n.seen, n.frozen) = (0, false);
                n.freezer = FreezePc::Idle;
                "commit"
            }
            FreezePc::PutBack => {
                n.live |= s.frozen;
                n.frozen = false;
                for t in (0..WRITERS).filter(|t| s.dead >> t & 1 != 0) {
                    if self.dead == Dead::FailsOnce || s.under_way >> t & 1 == 0 {
                        n.slot[t] = 0;
                    }
                }
                n.freezer = FreezePc::Idle;
                "abort"
            }
        };
        to.add("freezer", what, n);
    }
}

/// Whether a writer is counted. A dead one stays so.
fn registered(s: &Granule, t: usize) -> bool {
    s.slot[t] != 0
}

fn died(s: &Granule, to: &mut Steps<Granule>) {
    to.add("freezer", "a writer died in its bracket", Granule { freezer: FreezePc::PutBack, ..*s });
}

impl Epoch {
    fn give_up(&self, s: &Granule, to: &mut Steps<Granule>) {
        if self.gives_up {
            to.add("freezer", "gives up", Granule { freezer: FreezePc::PutBack, ..*s });
        }
    }
}

impl Model for Epoch {
    type State = Granule;

    fn starts(&self) -> Vec<Granule> {
        let mut s = Granule { epoch: 1, freezes_left: self.freezes, ..Granule::default() };
        s.writer[self.writers..].fill(WriterPc::Left);
        vec![s]
    }

    fn steps(&self, s: &Granule, to: &mut Steps<Granule>) {
        for t in 0..WRITERS {
            if s.dead >> t & 1 == 0 {
                self.writer(s, t, to);
            } else if s.under_way >> t & 1 != 0 {
                let n = Granule { image: s.image + 1, under_way: s.under_way & !(1 << t), ..*s };
                to.add("a dead writer's", "DATA arrives", n);
            }
        }
        self.freezer(s, to);
    }

    fn check(&self, s: &Granule) -> Result<(), String> {
        if s.image != s.backed_up && !s.live && !s.frozen {
            return Err(format!("image version {}, backed up {}, reads clean", s.image, s.backed_up));
        }
        Ok(())
    }

    fn show(&self, s: &Granule) -> String {
        format!(
            "live {} frozen {} | epoch {} slots {:?} counts {:?} | image {} backed up {}",
            u8::from(s.live),
            u8::from(s.frozen),
            s.epoch,
            s.slot,
            s.count,
            s.image,
            s.backed_up
        )
    }
}

#[test]
fn waiting_for_older_slots_holds() {
    holds("slots, 2 writers, 2 freezes", &OK, 2_398);
    holds("slots, 3 writers, 2 freezes", &Epoch { writers: 3, ..OK }, 37_671);
    holds("slots, 3 writers, 4 freezes", &Epoch { writers: 3, freezes: 4, ..OK }, 293_990);
}

#[test]
fn counting_by_parity_misses_a_late_registration() {
    breaks("parity", &Epoch { register: Register::Parity, ..OK }, 14);
}

const COUNTERS: Epoch = Epoch { register: Register::Parity, leftovers: true, ..OK };

/// Whoever set before the reset had registered before that, and both counts are seen at zero after it. The epoch only
/// keeps newcomers out of the count that is waited for.
#[test]
fn counting_by_parity_and_waiting_for_both_holds() {
    holds("both, 2 writers, 2 freezes", &COUNTERS, 2_653);
    holds("both, 3 writers, 4 freezes", &Epoch { writers: 3, freezes: 4, ..COUNTERS }, 329_355);
    let gives_up = Epoch { gives_up: true, ..COUNTERS };
    holds("both, freezes are given up", &Epoch { writers: 3, freezes: 4, ..gives_up }, 522_945);
    let kills = Epoch { writers: 3, freezes: 3, kills: 2, ..gives_up };
    holds("both, dead have ended", &Epoch { dead: Dead::Ended, ..kills }, 1_360_821);
    let late = Epoch { dead: Dead::FailsWhileUnderWay, late_writes: true, ..kills };
    holds("both, dead keep their slots, late writes", &late, 1_401_852);
}

/// A second look at the epoch mends a late registration, and not what a freeze that was given up leaves: writers of the
/// epoch before the one that the next freeze waits for.
#[test]
fn looking_at_the_epoch_again_is_not_enough() {
    let m = Epoch { register: Register::LookAgain, ..OK };
    holds("look again, 3 writers, 4 freezes", &Epoch { writers: 3, freezes: 4, ..m }, 235_258);
    let gives_up = Epoch { gives_up: true, ..m };
    breaks("look again, given up", &gives_up, 15);
    breaks("parity, given up", &Epoch { register: Register::Parity, ..gives_up }, 14);
    let died = Epoch { dead: Dead::FailsWhileUnderWay, late_writes: true, kills: 1, ..m };
    breaks("look again, a late write", &died, 16);
}

/// The lock of a slot is let go of when the process has left the kernel: a plain write is over by then.
#[test]
fn a_dead_writer_whose_write_has_ended_is_like_one_that_left() {
    let m = Epoch { writers: 3, freezes: 3, kills: 2, ..OK };
    holds("dead have ended", &Epoch { dead: Dead::Ended, ..m }, 515_760);
    holds("dead fail one freeze", &Epoch { dead: Dead::FailsOnce, ..m }, 758_142);
}

/// A write that a device or somebody else has taken over may reach the image after its writer died. Then its slot must
/// stay in use until it is known to be over; one failed freeze is not enough.
#[test]
fn a_write_that_outlives_its_writer_needs_the_slot_until_it_is_over() {
    let m = Epoch { late_writes: true, kills: 1, ..OK };
    breaks("dead have ended, late write", &Epoch { dead: Dead::Ended, ..m }, 10);
    breaks("dead fail one freeze, late write", &Epoch { dead: Dead::FailsOnce, ..m }, 15);
    let m = Epoch { dead: Dead::FailsWhileUnderWay, writers: 3, freezes: 3, kills: 2, ..m };
    holds("dead keep their slots, late writes", &m, 1_027_131);
}
