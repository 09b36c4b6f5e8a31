//! Model of arming that outlasts a flush: words that a flush keeps listed, and a point that is the write intent.
//!
//! One word of two granules. A header *covers* it if it lists the word, and covers the granules that the point holds which
//! it names as the intent, rounded to the unit. Armed means covered by a durable header.
//!
//! Everything happens any number of times: sets of either granule, resets of the first, flushes that keep the word or drop
//! it (also for another word's sake, which write the page of this one), freezes with all their steps, commits, aborts, the
//! end of the intent, closes and opens; a kill of a setter, of a freezer between two holds, or of the holder of the update
//! lock between any two steps; failing syncs of pages and headers; a page of the intent's point that cannot be read now and
//! can later; a power cut, or the death of all, in every state, also while opening, closing and recovering. Points live in two
//! regions, so that one may be the intent while the next one is being written.
//!
//! Checked in every state, for every header and page that a power cut may leave: a bit whose `set` has returned is dirty
//! after recovery, until it is reset or backed up; and it reads dirty now. With `strict`: armed is covered, and a reset does
//! not come back at a clean close.
//!
//! Each rule has a variant that breaks it, and each must lose a bit.
//!
//! Not modelled: weak memory; more than one word; summaries; pairs of headers and rivals; torn pages (they are all dirty);
//! points that are kept and joined (`model_points.rs`); brackets (`model_epoch.rs`); two freezers (`model_freeze.rs`). An
//! abort puts back in one hold with its flush. A new length ends the intent as [`Op::EndIntent`] does, with no setter there.

#[path = "model/explore.rs"]
mod explore;

use explore::{Field, Model, Packing, State, Steps, breaks, holds, program_counter};

program_counter! {
    enum SetterPc { Idle, CheckDurable, CheckArmed, Lock, Arming, Store, Touch, Recheck }
}

program_counter! {
    /// Where the holder of the update lock is.
    enum HolderPc {
        Free, Decide, SyncHeader, Arm,
        ResetTouch, ResetDurable, ResetLive,
        Disarm, Untouch, Snapshot, Write, SyncPage, SetDurable, Commit, Rearm, End,
        // Nobody has the map from here on.
        Closed, RecoverWrite, RecoverSync, RecoverCommit, Recovered, Opened,
    }
}

program_counter! {
    /// What the lock is held for.
    enum Op {
        Arm, Reset, Flush,
        /// A flush that writes the page for another word's sake.
        Neighbour,
        /// FREEZING, the end of a flush that makes the new point the intent.
        Freeze, FreezeReset, FreezeEnd,
        Backup, Abort, PutBack,
        /// A flush after which there is no intent.
        EndIntent,
        Close, Open,
    }
}

program_counter! {
    enum Checkpoint { Normal, Freezing, Frozen, Aborting }
}

program_counter! {
    /// How far a freezer is, between two holds of the lock.
    enum Task { None, Written, Named, Emptied }
}

/// What a header says. A region is 1 or 2, or 0 for none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Header {
    listed: bool,
    intent: u8,
    checkpoint: Checkpoint,
    point: u8,
    clean: bool,
}

impl Field for Header {
    fn code(self) -> u8 {
        u8::from(self.listed)
            | self.intent << 1
            | self.checkpoint.code() << 3
            | self.point << 5
            | u8::from(self.clean) << 7
    }
    fn decode(code: u8) -> Header {
        Header {
            listed: code & 1 != 0,
            intent: code >> 1 & 3,
            checkpoint: Checkpoint::decode(code >> 3 & 3),
            point: code >> 5 & 3,
            clean: code >> 7 != 0,
        }
    }
}

impl Header {
    fn with_checkpoint(self, checkpoint: Checkpoint, point: u8) -> Header {
        Header { checkpoint, point, ..self }
    }
}

#[derive(Clone, Copy, Default)]
struct Word {
    live: u8,
    durable: u8,
    armed: u8,
    touched: bool,
    /// Bits that the page has on the disk for certain, and possibly.
    sure: u8,
    may: u8,
    /// The header that is known to be durable; one whose commit was begun since, and whether that can be read.
    base: Header,
    begun: bool,
    ghost: Header,
    read: bool,
    /// What the points in the two regions hold; whether they were given up; whether a page of theirs fails.
    region: [u8; 2],
    gone: [bool; 2],
    failing: [bool; 2],
    /// Bits that must not be lost: set; and frozen, and not backed up yet.
    owed: u8,
    old: u8,
    setter: [SetterPc; 2],
    void: [bool; 2],
    /// The holder of the lock: where it is, what for, which setter it is, and what it does once a header is synced.
    pc: HolderPc,
    op: Op,
    by: u8,
    next: HolderPc,
    snapshot: u8,
    redo: bool,
    header: Header,
    /// It cannot read the point that is the intent.
    unsure: bool,
    task: Task,
    slot: u8,
}

impl State for Word {
    type Key = u128;

    fn fields<P: Packing>(&mut self, p: &mut P) {
        p.field(&mut self.live, 2);
        p.field(&mut self.durable, 2);
        p.field(&mut self.armed, 2);
        p.field(&mut self.touched, 1);
        p.field(&mut self.sure, 2);
        p.field(&mut self.may, 2);
        p.field(&mut self.base, 8);
        p.field(&mut self.begun, 1);
        p.field(&mut self.ghost, 8);
        p.field(&mut self.read, 1);
        for r in 0..2 {
            p.field(&mut self.region[r], 2);
            p.field(&mut self.gone[r], 1);
            p.field(&mut self.failing[r], 1);
        }
        p.field(&mut self.owed, 2);
        p.field(&mut self.old, 2);
        for t in 0..2 {
            p.field(&mut self.setter[t], 3);
            p.field(&mut self.void[t], 1);
        }
        p.field(&mut self.pc, 5);
        p.field(&mut self.op, 4);
        p.field(&mut self.by, 2);
        p.field(&mut self.next, 5);
        p.field(&mut self.snapshot, 2);
        p.field(&mut self.redo, 1);
        p.field(&mut self.header, 8);
        p.field(&mut self.unsure, 1);
        p.field(&mut self.task, 2);
        p.field(&mut self.slot, 2);
    }
}

/// One thing done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    /// The protocol.
    Ok,
    /// Rule 2: a setter does not look at armed again.
    NoRecheck,
    /// A flush leaves armed what it keeps.
    KeepArmed,
    /// It disarms when it has untouched.
    DisarmLate,
    /// It arms again before the pages are synced; before `durable` says so; before the header without the word is durable;
    /// after an error.
    RearmUnsynced,
    RearmBeforeDurable,
    RearmBeforeCommit,
    RearmOnError,
    /// What is covered and not armed is not written again.
    SkipUnarmed,
    /// Who arms such a word does not touch it.
    ArmNoTouch,
    /// A flush writes what was reset and is not covered without listing it.
    WriteUncovered,
    /// A flush untouches, at a switch, what is not covered.
    UntouchUncovered,
    /// The switch flushes nothing; flushes in a hold of its own; is committed before the pages are written; arms before it is
    /// durable.
    SwitchNoFlush,
    SwitchTwoHolds,
    SwitchCommitFirst,
    SwitchEarlyArm,
    /// What is dirty by now is armed, and not what the point holds.
    ArmByLive,
    /// The old region is given up before the switch is durable; at an abort; when the checkpoint is committed.
    FreeEarly,
    AbortFrees,
    BackupFrees,
    /// A clean close looks at listed words only.
    CloseListOnly,
    /// The opener arms before OPEN is durable.
    OpenNoCommit,
    /// Recovery forgets the list before its page is durable.
    ForgetEarly,
    /// Recovery does not round what the point holds.
    Unrounded,
    /// Recovery leaves what the intent covers to a flush without touching it; with `durable` saying that it is there; or to no
    /// flush, since it ends the intent.
    RecoverUntouched,
    RecoverDurable,
    RecoverEndsIntent,
    /// Who opens ends a checkpoint that was half done, and puts nothing back.
    HalfForgotten,
    /// A commit that failed, and cannot be read, is forgotten.
    ForgetAttempt,
    /// Who cannot read the point takes it for empty; for everything, and arms that; recovery takes it for empty.
    FailingIsEmpty,
    FailingArms,
    RecoverFailingEmpty,
}

/// A configuration to explore.
#[derive(Clone, Copy, Debug)]
struct Intent {
    variant: Variant,
    setters: usize,
    /// A point is rounded to the whole word, or not at all.
    rounded: bool,
    points: bool,
    faults: bool,
    kills: bool,
    resets: bool,
    closes: bool,
    failing: bool,
    strict: bool,
}

/// Words that are kept, and no points.
const KEPT: Intent = Intent {
    variant: Variant::Ok,
    setters: 2,
    rounded: true,
    points: false,
    faults: true,
    kills: true,
    resets: true,
    closes: true,
    failing: false,
    strict: true,
};

/// Points as well, with one setter: who is killed, what fails and what ends comes on top.
const POINTS: Intent =
    Intent { setters: 1, points: true, faults: false, kills: false, resets: false, closes: false, ..KEPT };

/// Who else holds the lock: no setter; and who opened the map, before others have it.
const NOBODY: u8 = 2;
const OPENER: u8 = 3;

impl Word {
    fn at(self, pc: HolderPc) -> Word {
        Word { pc, ..self }
    }

    fn setter_at(mut self, t: usize, pc: SetterPc) -> Word {
        self.setter[t] = pc;
        self.void[t] &= pc != SetterPc::Idle;
        self
    }

    /// What the point in a region holds, as the processes know it; and what is on the disk.
    fn held(&self, region: u8) -> u8 {
        if region == 0 { 0 } else { self.region[usize::from(region) - 1] }
    }

    fn on_disk(&self, region: u8) -> u8 {
        if region == 0 || self.gone[usize::from(region) - 1] { 0 } else { self.held(region) }
    }

    fn fails(&self, region: u8) -> bool {
        region != 0 && self.failing[usize::from(region) - 1]
    }

    fn region_is(mut self, region: u8, bits: u8) -> Word {
        let r = usize::from(region) - 1;
        (self.region[r], self.gone[r], self.failing[r]) = (bits, false, false);
        self
    }

    fn give_up(mut self, region: u8) -> Word {
        if region != 0 {
            self.gone[usize::from(region) - 1] = true;
        }
        self
    }

    /// The header that can be read now.
    fn readable(&self) -> Header {
        if self.begun && self.read { self.ghost } else { self.base }
    }

    /// The headers of which one is found after a power cut.
    fn headers(&self) -> impl Iterator<Item = Header> {
        [Some(self.base), self.begun.then_some(self.ghost)].into_iter().flatten()
    }

    /// What a header says is frozen. All of it, if a page fails.
    fn frozen(&self, h: Header) -> u8 {
        match h.checkpoint {
            Checkpoint::Normal => 0,
            _ if self.fails(h.point) => 3,
            _ => self.on_disk(h.point),
        }
    }

    /// Nobody has the map, or it is just being opened or closed.
    fn down(&self) -> bool {
        let opens = self.op >= Op::Close || self.by == OPENER;
        self.pc >= HolderPc::Closed || self.pc != HolderPc::Free && opens
    }

    /// Begins to write a header, unless there is nothing to change.
    fn commit(self, header: Header, next: HolderPc) -> Word {
        if header == self.base && !self.begun {
            return self.at(next);
        }
        Word { ghost: header, begun: true, read: false, header, next, ..self.at(HolderPc::SyncHeader) }
    }

    /// Lets go of the lock; the setter that had it goes on there. A region that no header names is given up.
    fn unlock(self, setter: SetterPc) -> Word {
        let mut n = if self.by < NOBODY { self.setter_at(self.by.into(), setter) } else { self };
        let (pc, op, next) = Default::default();
        n = Word { pc, op, next, by: 0, snapshot: 0, redo: false, header: Header::default(), unsure: false, ..n };
        for region in 1..=2 {
            let named = n.headers().any(|h| h.intent == region || h.point == region);
            let written = n.task == Task::Written && n.slot == region;
            if !named && !written {
                n = n.region_is(region, 0);
            }
        }
        if n.task == Task::None {
            n.slot = 0;
        }
        n
    }

    /// The operation failed, or its process is dead. One of an opener or closer ends with the session.
    fn failed(self) -> Word {
        let freezes = matches!(self.op, Op::Freeze | Op::FreezeReset | Op::FreezeEnd);
        Word { task: if freezes { Task::None } else { self.task }, ..self }.unlock(SetterPc::Idle)
    }
}

impl Intent {
    fn is(&self, variant: Variant) -> bool {
        self.variant == variant
    }

    fn round(&self, bits: u8) -> u8 {
        if self.rounded && bits != 0 { 3 } else { bits }
    }

    /// What a header covers, as its readers know it.
    fn cover(&self, s: &Word, h: Header) -> u8 {
        match h {
            Header { clean: true, .. } => 0,
            Header { listed: true, .. } => 3,
            _ if s.unsure && self.is(Variant::FailingIsEmpty) => 0,
            _ if s.unsure && self.is(Variant::FailingArms) && h.intent != 0 => 3,
            _ => self.round(s.held(h.intent)),
        }
    }

    /// What recovery finds that it covers.
    fn recovers(&self, s: &Word, h: Header) -> u8 {
        let named = s.on_disk(h.intent);
        match h {
            Header { clean: true, .. } => 0,
            Header { listed: true, .. } => 3,
            _ if s.fails(h.intent) && self.is(Variant::RecoverFailingEmpty) => 0,
            _ if s.fails(h.intent) => 3,
            _ if self.is(Variant::Unrounded) => named,
            _ => self.round(named),
        }
    }

    /// Arms what a header covers.
    fn arm(&self, s: Word, h: Header) -> Word {
        let by_live = self.is(Variant::ArmByLive) && h.intent != 0 && !h.listed;
        Word { armed: if by_live { self.round(s.live) } else { self.cover(&s, h) }, ..s }
    }

    /// Something is covered and not armed: left by who died or failed while it was being written.
    fn left(&self, s: &Word) -> bool {
        self.cover(s, s.base) & !s.armed != 0
    }

    fn setter(&self, s: &Word, t: usize, to: &mut Steps<Word>) {
        use SetterPc::*;
        let (bit, mut n) = (1 << t, *s);
        let returned = |mut n: Word| {
            n.owed |= if n.void[t] { 0 } else { bit };
            n.setter_at(t, Idle)
        };
        let armed = s.armed & bit != 0;
        let (what, n) = match s.setter[t] {
            Idle => {
                let resets = matches!(s.op, Op::Reset | Op::FreezeReset);
                let under_way = (HolderPc::ResetTouch..=HolderPc::ResetLive).contains(&s.pc);
                if resets && under_way && s.snapshot & bit != 0 {
                    n.void[t] = true;
                    n.old |= if s.op == Op::FreezeReset { bit } else { 0 };
                }
                ("set begins", n.setter_at(t, CheckDurable))
            }
            CheckDurable if s.durable & bit != 0 => ("durable, set returns", returned(n)),
            CheckDurable => ("not durable", n.setter_at(t, CheckArmed)),
            CheckArmed if armed => ("armed", n.setter_at(t, Store)),
            CheckArmed => ("not armed", n.setter_at(t, Lock)),
            Lock if s.pc == HolderPc::Free => {
                self.lock(&n.setter_at(t, Arming), Op::Arm, t as u8, "setter", to);
                return self.kill(s, t, to);
            }
            Lock | Arming => return self.kill(s, t, to),
            Store => {
                n.live |= bit;
                ("live |= bit", n.setter_at(t, Touch))
            }
            Touch => {
                n.touched = true;
                ("touched = 1", n.setter_at(t, Recheck))
            }
            Recheck if armed || self.is(Variant::NoRecheck) => ("still armed, set returns", returned(n)),
            Recheck => ("not armed any more", n.setter_at(t, CheckArmed)),
        };
        to.add(["setter 0", "setter 1"][t], what, n);
        self.kill(s, t, to);
    }

    fn kill(&self, s: &Word, t: usize, to: &mut Steps<Word>) {
        if self.kills && !matches!(s.setter[t], SetterPc::Idle | SetterPc::Arming) {
            to.add("setter", "KILLED", s.setter_at(t, SetterPc::Idle));
        }
    }

    /// Takes the lock and adopts: what can be read is committed again if a commit was begun that is not known to be durable.
    fn lock(&self, s: &Word, op: Op, by: u8, who: &'static str, to: &mut Steps<Word>) {
        let mut n = Word { op, by, ..s.at(HolderPc::Decide) };
        if n.begun && op != Op::Reset && (n.read || !self.is(Variant::ForgetAttempt)) {
            (n.header, n.next, n.pc) = (n.readable(), HolderPc::Decide, HolderPc::SyncHeader);
        }
        to.add(who, LOCKS[op as usize], n);
        if s.fails(s.readable().intent) {
            to.add(who, "lock, cannot read the intent", Word { unsure: true, ..n });
        }
    }

    /// The flush that ends in `header`, with the word or without it.
    fn flush(&self, s: &Word, header: Header, to: &mut Steps<Word>) {
        let b = s.base;
        let uncovered = self.cover(s, b) == 0 && !self.is(Variant::WriteUncovered);
        if s.touched && uncovered {
            // That is the trace of who dies in this flush.
            return to.add("holder", "lists what was reset", s.commit(Header { listed: true, ..b }, HolderPc::Decide));
        }
        let switch = matches!(s.op, Op::Freeze | Op::EndIntent);
        if switch && self.is(Variant::SwitchTwoHolds) && (s.touched || self.left(s)) {
            return;
        }
        let skip = uncovered && !self.is(Variant::UntouchUncovered)
            || switch && (self.is(Variant::SwitchNoFlush) || self.is(Variant::SwitchTwoHolds))
            || s.op == Op::Close && !b.listed && self.is(Variant::CloseListOnly);
        let keeps = b.listed && s.op != Op::Close;
        for listed in [Some(false), keeps.then_some(true)].into_iter().flatten() {
            let intent = if s.unsure && self.sees_failing() { 0 } else { header.intent };
            let n = Word { header: Header { listed, intent, ..header }, ..*s };
            let what = if listed { "keeps the word" } else { "drops the word" };
            to.add("holder", what, n.at(if skip { HolderPc::Commit } else { HolderPc::Disarm }));
        }
    }

    fn sees_failing(&self) -> bool {
        !self.is(Variant::FailingIsEmpty) && !self.is(Variant::FailingArms)
    }

    /// Whether the holder relies on what the header covers.
    fn needs_cover(op: Op) -> bool {
        !matches!(op, Op::Reset | Op::FreezeReset | Op::Neighbour | Op::FreezeEnd | Op::Backup | Op::Abort)
    }

    fn decide(&self, s: &Word, to: &mut Steps<Word>) {
        let (b, mut n) = (s.base, *s);
        let mut add = |what, n| to.add("holder", what, n);
        if s.unsure && self.sees_failing() && b.intent != 0 && Intent::needs_cover(s.op) {
            // Everything is listed, and then the intent ends with a flush.
            if !b.listed {
                return add("lists everything", n.commit(Header { listed: true, ..b }, HolderPc::Decide));
            }
            if s.op == Op::Arm {
                n.op = Op::Flush;
                return self.flush(&n, b, to);
            }
        }
        match s.op {
            Op::Arm => {
                let want = if s.by < NOBODY { 1 << s.by } else { 3 };
                if s.armed & want == want {
                    return add("armed already", n.at(HolderPc::Arm));
                }
                n.touched |= self.left(s) && !self.is(Variant::ArmNoTouch);
                if self.cover(s, b) & want == want {
                    add("covered and not armed: touched = 1", n.commit(b, HolderPc::Arm));
                } else {
                    add("lists the word", n.commit(Header { listed: true, ..b }, HolderPc::Arm));
                }
            }
            Op::Reset | Op::FreezeReset => {
                if s.op == Op::FreezeReset && (b.checkpoint != Checkpoint::Freezing || b.point != s.slot) {
                    return add("aborted meanwhile", n.failed());
                }
                n.snapshot = if s.op == Op::Reset { 1 } else { s.held(s.slot) };
                let mut void = 0;
                for t in 0..2 {
                    n.void[t] |= s.setter[t] != SetterPc::Idle && n.snapshot >> t & 1 != 0;
                    void |= u8::from(n.void[t]) << t;
                }
                if s.op == Op::FreezeReset {
                    n.old |= (s.owed | void) & n.snapshot;
                }
                n.owed &= !n.snapshot;
                add("reset begins", n.at(HolderPc::ResetTouch));
            }
            Op::Flush if s.touched || self.left(s) || b.listed => self.flush(s, b, to),
            Op::Neighbour => {
                n.snapshot = s.durable;
                add("takes the durable word", n.at(HolderPc::Write));
            }
            Op::Freeze if b.checkpoint != Checkpoint::Normal => add("refused", n.failed()),
            // Or it predicts nothing, as a first one of everything.
            Op::Freeze => [s.slot, 0].into_iter().for_each(|intent| {
                let header = Header { intent, ..b }.with_checkpoint(Checkpoint::Freezing, s.slot);
                self.flush(s, header, to);
            }),
            Op::FreezeEnd if b.checkpoint != Checkpoint::Freezing || b.point != s.slot => {
                add("aborted meanwhile", n.failed());
            }
            Op::FreezeEnd => add("FROZEN", n.commit(b.with_checkpoint(Checkpoint::Frozen, b.point), HolderPc::End)),
            Op::Backup if b.checkpoint == Checkpoint::Frozen => {
                n.old = 0;
                n.slot = if self.is(Variant::BackupFrees) { b.point } else { n.slot };
                add("NORMAL", n.commit(b.with_checkpoint(Checkpoint::Normal, 0), HolderPc::End));
            }
            Op::Abort if matches!(b.checkpoint, Checkpoint::Freezing | Checkpoint::Frozen) => {
                add("ABORTING", n.commit(b.with_checkpoint(Checkpoint::Aborting, b.point), HolderPc::End));
            }
            Op::PutBack if b.checkpoint == Checkpoint::Aborting => {
                (n.live, n.touched) = (s.live | s.frozen(b), true);
                self.flush(&n, b.with_checkpoint(Checkpoint::Normal, 0), to);
            }
            Op::EndIntent if b.intent != 0 => self.flush(s, Header { intent: 0, ..b }, to),
            Op::Close if matches!(b.checkpoint, Checkpoint::Normal | Checkpoint::Frozen) => {
                self.flush(s, Header { clean: true, ..b }, to);
            }
            _ => add("nothing to do", n.failed()),
        }
    }

    /// The commit that ends a flush.
    fn end_flush(&self, s: &Word) -> Word {
        let mut n = *s;
        if s.op == Op::PutBack {
            (n.owed, n.old) = (s.owed | s.old, 0);
        }
        if s.op == Op::Freeze && self.is(Variant::SwitchEarlyArm) {
            n = self.arm(n, s.header);
        }
        if matches!(s.op, Op::Freeze | Op::EndIntent) && self.is(Variant::FreeEarly) && s.base.intent != s.base.point {
            n = n.give_up(s.base.intent);
        }
        if s.op == Op::PutBack && self.is(Variant::AbortFrees) {
            n.slot = s.base.point;
        }
        if self.is(Variant::RearmBeforeCommit) {
            n = self.arm(n, s.base);
        }
        n.commit(s.header, if s.op == Op::Close { HolderPc::End } else { HolderPc::Rearm })
    }

    fn holder(&self, s: &Word, to: &mut Steps<Word>) {
        use HolderPc::*;
        let mut n = *s;
        let kept = s.header.listed;
        let (what, n) = match s.pc {
            Free => return,
            Decide => return self.decide(s, to),
            SyncHeader => {
                (n.base, n.begun, n.read, n.ghost, n.next) = (s.header, false, false, Header::default(), Free);
                if s.next != Write && s.next != RecoverWrite {
                    n.header = Header::default();
                }
                for read in [false, true].into_iter().filter(|_| self.faults) {
                    to.add("holder", "header sync FAILS", Word { read, ..*s }.fails_or_goes_on());
                }
                ("header synced", n.at(s.next))
            }
            Arm => {
                if s.armed != 3 {
                    n = self.arm(n, s.base);
                }
                ("armed = 1, unlock", n.unlock(SetterPc::Store))
            }
            ResetTouch => {
                n.touched = true;
                ("touched = 1", n.at(ResetDurable))
            }
            ResetDurable => {
                n.durable &= !s.snapshot;
                ("durable &= !bits", n.at(ResetLive))
            }
            ResetLive => {
                n.live &= !s.snapshot;
                n.task = if s.op == Op::FreezeReset { Task::Emptied } else { n.task };
                ("live &= !bits, unlock", n.unlock(SetterPc::Idle))
            }
            Disarm => {
                n.redo = self.left(s) && !self.is(Variant::SkipUnarmed);
                n.armed = match self.variant {
                    Variant::DisarmLate => s.armed,
                    Variant::KeepArmed => s.armed & self.cover(s, s.header) & self.cover(s, s.base),
                    _ => 0,
                };
                ("disarm", n.at(Untouch))
            }
            Untouch => {
                (n.redo, n.touched) = (s.redo || s.touched, false);
                ("untouch", n.at(Snapshot))
            }
            Snapshot => {
                n.armed = if self.is(Variant::DisarmLate) { 0 } else { s.armed };
                n.snapshot = if s.redo { s.live } else { s.durable };
                if !s.redo {
                    to.add("holder", "nothing to redo", self.end_flush(&n));
                }
                if self.is(Variant::SwitchCommitFirst) && s.op == Op::Freeze {
                    ("snapshot", n.commit(s.header, Write))
                } else {
                    ("snapshot", n.at(Write))
                }
            }
            Write => {
                (n.sure, n.may) = (s.sure & s.snapshot, s.may | s.snapshot);
                if self.is(Variant::RearmUnsynced) && kept {
                    n = self.arm(n, s.base);
                }
                ("writes the page", n.at(SyncPage))
            }
            SyncPage => {
                if self.faults {
                    let rearm = self.is(Variant::RearmOnError) && s.op != Op::Neighbour;
                    let failed = if rearm { self.arm(*s, s.base) } else { *s };
                    to.add("holder", "page sync FAILS", failed.fails_or_goes_on());
                }
                (n.sure, n.may) = (s.snapshot, s.snapshot);
                if self.is(Variant::RearmBeforeDurable) && kept {
                    n = self.arm(n, s.base);
                }
                ("page synced", n.at(if s.op == Op::Neighbour { End } else { SetDurable }))
            }
            SetDurable => {
                n.durable = if s.redo { s.snapshot } else { s.durable };
                (n.redo, n.snapshot) = (false, 0);
                ("durable = snapshot", n.at(Commit))
            }
            Commit => ("writes the header", self.end_flush(s)),
            Rearm => {
                n = self.arm(n, s.base);
                n.task = if s.op == Op::Freeze { Task::Named } else { n.task };
                if s.op == Op::PutBack && self.is(Variant::AbortFrees) {
                    n = n.give_up(s.slot);
                }
                ("arms what is covered, unlock", n.unlock(SetterPc::Lock))
            }
            End if s.op == Op::Close => ("closed", s.only_the_file(Closed)),
            End if s.by == OPENER => return self.lock(&s.unlock(SetterPc::Idle), Op::PutBack, OPENER, "opener", to),
            End => {
                n.task = if s.op == Op::FreezeEnd { Task::None } else { n.task };
                if s.op == Op::Backup && self.is(Variant::BackupFrees) {
                    n = n.give_up(s.slot);
                }
                ("unlock", n.unlock(SetterPc::Idle))
            }
            _ => return self.opener(s, to),
        };
        to.add("holder", what, n);
    }

    /// Opens what was closed, or recovers.
    fn opener(&self, s: &Word, to: &mut Steps<Word>) {
        use HolderPc::*;
        let mut n = *s;
        let (what, n) = match s.pc {
            Closed => {
                (n.live, n.durable, n.op, n.by) = (s.sure, s.sure, Op::Open, NOBODY);
                for intent in [Some(0), (!s.fails(s.base.intent)).then_some(s.base.intent)].into_iter().flatten() {
                    let header = Header { clean: false, intent, ..s.base };
                    if self.is(Variant::OpenNoCommit) {
                        to.add("opener", "OPEN, not committed", self.arm(n, header).unlock(SetterPc::Idle));
                    } else {
                        to.add("opener", "OPEN", n.commit(header, Opened));
                    }
                }
                return;
            }
            Opened => return self.opened("arms what is covered, open", s, to),
            RecoverWrite => {
                self.leaves(s, to);
                (n.sure, n.may) = (s.sure & s.snapshot, s.may | s.snapshot);
                ("recovery writes the page", n.at(RecoverSync))
            }
            RecoverSync => {
                (n.sure, n.may) = (s.snapshot, s.snapshot);
                ("page synced", n.at(if self.is(Variant::ForgetEarly) { Recovered } else { RecoverCommit }))
            }
            RecoverCommit => {
                for intent in [Some(0), (!s.fails(s.base.intent)).then_some(s.base.intent)].into_iter().flatten() {
                    let header = Header { listed: false, intent, ..s.base };
                    let n = Word { op: Op::Open, by: NOBODY, ..*s };
                    let next = if self.is(Variant::ForgetEarly) { RecoverWrite } else { Recovered };
                    to.add("opener", "forgets the list", n.commit(header, next));
                }
                return;
            }
            Recovered => {
                (n.live, n.durable) = (s.snapshot, s.snapshot);
                return self.opened("recovered, open", &n, to);
            }
            _ => unreachable!(),
        };
        to.add("opener", what, n);
    }

    /// Recovery may write nothing of what the intent alone covers: that goes on covering it, and a flush will find it touched.
    fn leaves(&self, s: &Word, to: &mut Steps<Word>) {
        if s.base.listed || s.base.intent == 0 || s.fails(s.base.intent) || s.sure != s.may {
            return;
        }
        let durable = if self.is(Variant::RecoverDurable) { s.snapshot } else { s.sure };
        let touched = s.snapshot & !durable != 0 && !self.is(Variant::RecoverUntouched);
        let n = Word { op: Op::Open, by: NOBODY, live: s.snapshot, durable, touched, ..*s };
        if self.is(Variant::RecoverEndsIntent) {
            let ended = n.commit(Header { intent: 0, ..s.base }, HolderPc::Opened);
            return to.add("opener", "ends the intent", ended);
        }
        self.opened("leaves what the intent covers to a flush, open", &n, to);
    }

    /// A checkpoint that was half done ends before others have the map.
    fn opened(&self, what: &'static str, s: &Word, to: &mut Steps<Word>) {
        let n = self.arm(*s, s.base).unlock(SetterPc::Idle);
        match s.base.checkpoint {
            Checkpoint::Freezing | Checkpoint::Aborting if self.is(Variant::HalfForgotten) => {
                to.add("opener", what, Word { base: s.base.with_checkpoint(Checkpoint::Normal, 0), ..n });
            }
            Checkpoint::Freezing => self.lock(&n, Op::Abort, OPENER, what, to),
            Checkpoint::Aborting => self.lock(&n, Op::PutBack, OPENER, what, to),
            _ => to.add("opener", what, n),
        }
    }

    /// The power goes, or all processes die.
    fn crash(&self, s: &Word, to: &mut Steps<Word>) {
        for h in s.headers() {
            for page in (0..4).filter(|page| page & s.sure == s.sure && page & !s.may == 0) {
                let dirty = page | self.recovers(s, h);
                let first = match h.clean {
                    true => HolderPc::Closed,
                    false if self.is(Variant::ForgetEarly) => HolderPc::RecoverCommit,
                    false => HolderPc::RecoverWrite,
                };
                let snapshot = if h.clean { 0 } else { dirty };
                let n = Word { base: h, sure: page, may: page, snapshot, ..s.only_the_file(first) };
                to.add("power", "CUT", n);
            }
        }
    }
}

impl Word {
    fn fails_or_goes_on(self) -> Word {
        if self.down() { self } else { self.failed() }
    }

    /// What is left when nobody has the map.
    fn only_the_file(&self, pc: HolderPc) -> Word {
        let Word { base, sure, may, region, gone, failing, owed, old, .. } = *self;
        Word { base, sure, may, region, gone, failing, owed, old, pc, ..Word::default() }
    }
}

const LOCKS: [&str; 13] = [
    "lock, to arm",
    "lock, to reset",
    "lock, to flush",
    "lock, to flush another word",
    "lock, to freeze",
    "lock, to reset what is frozen",
    "lock, to end the freeze",
    "lock, the backup is done",
    "lock, to abort",
    "lock, to put back",
    "lock, to end the intent",
    "lock, to close",
    "lock, to open",
];

impl Model for Intent {
    type State = Word;

    fn starts(&self) -> Vec<Word> {
        vec![Word::default()]
    }

    fn steps(&self, s: &Word, to: &mut Steps<Word>) {
        self.holder(s, to);
        if s.pc != HolderPc::Closed {
            self.crash(s, to);
        }
        for region in (1..=2).filter(|&r| self.failing && (s.base.intent == r || s.failing[usize::from(r) - 1])) {
            let mut n = *s;
            n.failing[usize::from(region) - 1] ^= true;
            to.add("disk", "a page of the intent fails, or reads again", n);
        }
        if s.down() {
            return;
        }
        (0..self.setters).for_each(|t| self.setter(s, t, to));
        let at_rest = s.pc == HolderPc::Free;
        let holds_lock = matches!(s.op, Op::Freeze | Op::FreezeReset | Op::FreezeEnd) && !at_rest;
        if self.kills && !at_rest {
            for read in [Some(false), s.begun.then_some(true)].into_iter().flatten() {
                to.add("holder", "KILLED", Word { read, ..*s }.failed());
            }
        }
        if self.kills && s.task != Task::None && !holds_lock {
            to.add("freezer", "KILLED", Word { task: Task::None, slot: if at_rest { 0 } else { s.slot }, ..*s });
        }
        if !at_rest {
            return;
        }
        let h = s.readable();
        let quiet = s.task == Task::None && s.setter == [SetterPc::Idle; 2];
        let (freezing, frozen) = (h.checkpoint == Checkpoint::Freezing, h.checkpoint == Checkpoint::Frozen);
        let possible = [
            (Op::Arm, s.armed != 3),
            (Op::Reset, self.resets),
            (Op::Flush, true),
            (Op::Neighbour, true),
            (Op::Close, self.closes && quiet),
            (Op::Freeze, s.task == Task::Written),
            (Op::FreezeReset, s.task == Task::Named),
            (Op::FreezeEnd, s.task == Task::Emptied),
            (Op::Backup, self.points && frozen),
            (Op::Abort, self.points && (freezing || frozen)),
            (Op::PutBack, self.points && h.checkpoint == Checkpoint::Aborting),
            (Op::EndIntent, self.points && h.intent != 0),
        ];
        for (op, _) in possible.into_iter().filter(|&(_, possible)| possible) {
            self.lock(s, op, NOBODY, "holder", to);
        }
        if self.points && s.task == Task::None && !s.begun && h.checkpoint == Checkpoint::Normal {
            let slot = if h.intent == 1 { 2 } else { 1 };
            let n = Word { task: Task::Written, slot, ..s.region_is(slot, s.live) };
            to.add("freezer", "writes what is dirty to a point", n);
        }
    }

    fn check(&self, s: &Word) -> Result<(), String> {
        for h in s.headers() {
            let lost = (s.owed | s.old) & !(s.sure | self.recovers(s, h) | s.frozen(h));
            if lost != 0 {
                return Err(format!("a power cut here loses {lost:02b}"));
            }
        }
        if !s.down() && s.owed & !s.live != 0 {
            return Err(format!("an owed bit reads clean here: {:02b}", s.owed & !s.live));
        }
        if !self.strict || s.down() {
            return Ok(());
        }
        if s.headers().any(|h| s.armed & !self.cover(s, h) != 0) {
            return Err("armed, and not covered".to_string());
        }
        let settled = s.pc == HolderPc::Free && !s.touched && !s.begun && !self.left(s);
        if settled && s.may & !s.live != 0 {
            return Err("a reset comes back at a clean close".to_string());
        }
        Ok(())
    }

    fn show(&self, s: &Word) -> String {
        let h = |h: Header| {
            let state = if h.clean { "CLEAN ".to_string() } else { String::new() };
            let listed = if h.listed { "listed " } else { "" };
            format!("{state}{listed}intent {} {:?} {}", h.intent, h.checkpoint, h.point)
        };
        format!(
            "live {:02b} durable {:02b} armed {:02b} touched {} | page {:02b} to {:02b} | {}{} | points {:02b} {:02b} | owed {:02b} {:02b}",
            s.live,
            s.durable,
            s.armed,
            u8::from(s.touched),
            s.sure,
            s.may,
            h(s.base),
            if s.begun { format!(", begun: {}", h(s.ghost)) } else { String::new() },
            s.region[0],
            s.region[1],
            s.owed,
            s.old
        )
    }
}

mod kept {
    use super::*;

    #[test]
    fn covers_and_brings_nothing_back() {
        holds("kept words", &KEPT, 500_679);
    }

    fn loses(variant: Variant, steps: usize) {
        breaks(&format!("{variant:?}"), &Intent { variant, closes: false, strict: false, ..KEPT }, steps);
    }

    #[test]
    fn must_look_at_armed_again() {
        loses(Variant::NoRecheck, 15);
    }

    /// A flusher who dies leaves no other trace of a word that it keeps.
    #[test]
    fn must_disarm_also_what_it_keeps() {
        loses(Variant::KeepArmed, 20);
        loses(Variant::DisarmLate, 15);
    }

    #[test]
    fn must_arm_again_last() {
        loses(Variant::RearmUnsynced, 22);
        loses(Variant::RearmBeforeDurable, 27);
        loses(Variant::RearmBeforeCommit, 15);
        loses(Variant::RearmOnError, 22);
    }

    #[test]
    fn must_redo_what_is_covered_and_not_armed() {
        loses(Variant::SkipUnarmed, 20);
        loses(Variant::ArmNoTouch, 23);
    }

    #[test]
    fn must_list_what_was_reset() {
        breaks("WriteUncovered", &Intent { variant: Variant::WriteUncovered, ..KEPT }, 18);
    }
}

mod points {
    use super::*;

    #[test]
    fn hold_as_intent() {
        holds("intent", &POINTS, 1_175_633);
        holds("intent, not rounded", &Intent { rounded: false, ..POINTS }, 1_159_721);
    }

    /// 120 MB, 10 s.
    #[test]
    #[ignore = "large"]
    fn hold_as_intent_when_a_page_of_them_fails() {
        holds("intent, a page fails", &Intent { failing: true, ..POINTS }, 4_186_258);
    }
}

/// With all that may happen.
mod switch {
    use super::*;

    const ALL: Intent = Intent { faults: true, kills: true, resets: true, closes: true, strict: false, ..POINTS };

    fn loses(variant: Variant, steps: usize) {
        breaks(&format!("{variant:?}"), &Intent { variant, ..ALL }, steps);
    }

    #[test]
    fn flushes_what_leaves_the_cover_in_the_same_hold_and_before_the_commit() {
        loses(Variant::SwitchNoFlush, 14);
        loses(Variant::SwitchTwoHolds, 14);
        loses(Variant::SwitchCommitFirst, 16);
        loses(Variant::UntouchUncovered, 32);
    }

    #[test]
    fn arms_what_the_durable_header_covers() {
        loses(Variant::SwitchEarlyArm, 21);
        loses(Variant::ArmByLive, 18);
        loses(Variant::OpenNoCommit, 15);
    }

    #[test]
    fn is_overwritten_if_it_was_begun_and_may_have_failed() {
        loses(Variant::ForgetAttempt, 31);
    }

    #[test]
    fn counts_for_recovery_as_for_setters() {
        loses(Variant::ForgetEarly, 12);
        loses(Variant::Unrounded, 33);
    }

    #[test]
    fn stays_for_what_recovery_leaves_to_a_flush() {
        loses(Variant::RecoverUntouched, 40);
        loses(Variant::RecoverDurable, 36);
        loses(Variant::RecoverEndsIntent, 35);
    }

    #[test]
    fn puts_back_what_was_half_frozen() {
        loses(Variant::HalfForgotten, 23);
    }

    #[test]
    fn ends_with_a_clean_close() {
        loses(Variant::CloseListOnly, 38);
    }

    #[test]
    fn keeps_the_region_when_the_backup_is_done() {
        loses(Variant::BackupFrees, 35);
    }

    /// 4,000,000 states.
    #[test]
    #[ignore = "large"]
    fn keeps_the_region_until_it_is_durable_and_when_the_checkpoint_is_aborted() {
        loses(Variant::FreeEarly, 44);
        loses(Variant::AbortFrees, 41);
    }

    #[test]
    fn arms_nothing_by_a_point_that_cannot_be_read() {
        breaks("FailingArms", &Intent { variant: Variant::FailingArms, failing: true, ..ALL }, 17);
    }

    #[test]
    #[ignore = "large"]
    fn covers_everything_by_a_point_that_cannot_be_read() {
        for (variant, steps) in [(Variant::FailingIsEmpty, 38), (Variant::RecoverFailingEmpty, 34)] {
            breaks(&format!("{variant:?}"), &Intent { variant, failing: true, ..ALL }, steps);
        }
    }

    /// 400 MB, 70 s.
    #[test]
    #[ignore = "large"]
    fn holds_whatever_happens() {
        holds("intent, failing syncs", &Intent { faults: true, ..POINTS }, 4_984_601);
        holds("intent, kills", &Intent { kills: true, ..POINTS }, 9_083_517);
        holds("intent, resets", &Intent { resets: true, ..POINTS }, 2_310_256);
        holds("intent, failing syncs, closes", &Intent { faults: true, closes: true, ..POINTS }, 5_057_528);
    }
}
