//! Model of set, arm, flush and reset for one bottom word of two bits.
//!
//! Explored: every interleaving of two setters of bit 0, one setter of bit 1, one resetter of bit 0 and
//! one flusher, or two that may take over from each other; the kernel writing back any unsynced part at any moment; a SIGKILL of any thread between
//! any two steps, up to a number; a power cut in every state. The header is reduced to its armed list, which
//! names the word or does not, and the page to the two bits, which reach the disk independently.
//!
//! Checked in every state: a bit whose `set` has returned, and that no reset overlapped or followed, is
//! dirty after recovery from what is on disk at that moment.
//!
//! Each rule of the protocol has a variant that breaks it, and each of those must lose a bit: a model that
//! cannot fail shows nothing. The `unneeded` ones are the exceptions, and say why.
//!
//! Not modelled: weak memory (`src/sim/threads.rs`), how a header commit becomes durable (`model_header.rs`),
//! failing writes and arming ahead (`model_takeover.rs`).

#[path = "model/explore.rs"]
mod explore;
#[path = "model/page.rs"]
mod page;

use explore::{Model, Packing, State, Steps, breaks, holds, program_counter};
use page::Page;

/// One thing done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    /// The protocol.
    Ok,
    /// Rule 1: armed is set before the record is durable.
    PublishEarly,
    /// Rule 1: arming without the update lock.
    NolockArm,
    /// Rule 2: no second look at armed after the store.
    Norecheck,
    /// Rule 2: a set does not touch.
    Untouched,
    /// Rule 2: a set touches before it stores.
    Touchfirst,
    /// Rule 3: the page is synced after the word has left the list.
    Earlydrop,
    /// Rule 3: the page is not synced.
    Noesync,
    /// Rule 3: touched is cleared after the snapshot.
    Clearlate,
    /// Rule 4: reset without the lock.
    UnlockedReset,
    /// Rule 4: reset leaves durable as it is.
    Keepdurable,
    /// Rule 5: the record in the file is taken as durable, whoever wrote it.
    Trustrecord,
    /// Rule 5: a word that is listed but not armed is not done again.
    Skipunarmed,
    /// Rule 5: arming a listed word does not touch it, where there are two flushers.
    ArmNoTouch,
    /// Flush writes touched words that are not listed without listing them first.
    Writeunarmed,
}

program_counter! {
    enum SetterPc { Idle, CheckDurable, CheckArmed, Lock, Decide, SyncRecord, Unlock, Store, StoreSecond, Recheck, Returned }
}

program_counter! {
    enum ResetPc { Idle, ClearDurable, ClearLive, Unlock }
}

program_counter! {
    enum FlushPc {
        Idle, Decide, SyncArming, Disarm, Untouch, Snapshot, WriteBit0, WriteBit1, SyncPage, SetDurable, UntouchLate,
        WriteDrop, SyncDrop, Unlock,
    }
}

const SETTERS: usize = 3;
const BIT: [u8; SETTERS] = [1, 1, 2];
/// Numbers of the others; the setters are 0 to 2, and the flushers come last.
const RESETTER: u8 = 3;
const FLUSHER: u8 = 4;
const FLUSHERS: usize = 2;
const NAMES: [&str; 6] =
    ["setter 0 of bit 0", "setter 1 of bit 0", "setter 2 of bit 1", "resetter", "flusher", "second flusher"];
/// Nobody holds the lock.
const FREE: u8 = 7;

#[derive(Clone, Copy, Default)]
struct Word {
    /// Shared memory: the live and the durable word, the armed and the touched bit.
    live: u8,
    durable: u8,
    armed: bool,
    touched: bool,
    /// The word in the bottom level: in the page cache and on disk.
    page: Page,
    /// Whether the list names the word: in the page cache, on disk, and in the newest header known to be durable.
    list_cache: bool,
    list_disk: bool,
    published: bool,
    /// Who holds the update lock.
    lock: u8,
    /// Bits that must not be lost.
    owed: u8,
    setter: [SetterPc; SETTERS],
    /// Sets that a reset overlaps: their bit may be lost.
    void: [bool; SETTERS],
    resetter: ResetPc,
    resets_left: u8,
    flusher: [FlushPc; FLUSHERS],
    snapshot: [u8; FLUSHERS],
    redo: [bool; FLUSHERS],
    /// Of all flushers together.
    flushes_left: u8,
    /// A bit for each killed thread.
    dead: u8,
}

impl State for Word {
    type Key = u64;

    fn fields<P: Packing>(&mut self, p: &mut P) {
        p.field(&mut self.live, 2);
        p.field(&mut self.durable, 2);
        p.field(&mut self.armed, 1);
        p.field(&mut self.touched, 1);
        self.page.fields(p);
        p.field(&mut self.list_cache, 1);
        p.field(&mut self.list_disk, 1);
        p.field(&mut self.published, 1);
        p.field(&mut self.lock, 3);
        p.field(&mut self.owed, 2);
        for t in 0..SETTERS {
            p.field(&mut self.setter[t], 4);
            p.field(&mut self.void[t], 1);
        }
        p.field(&mut self.resetter, 2);
        p.field(&mut self.resets_left, 1);
        for f in 0..FLUSHERS {
            p.field(&mut self.flusher[f], 4);
            p.field(&mut self.snapshot[f], 2);
            p.field(&mut self.redo[f], 1);
        }
        p.field(&mut self.flushes_left, 2);
        p.field(&mut self.dead, 6);
    }
}

impl Word {
    fn unlock(&mut self, thread: u8) {
        if self.lock == thread {
            self.lock = FREE;
        }
    }

    fn sync_list(&mut self) {
        self.list_disk = self.list_cache;
        self.published = self.list_cache;
    }

    fn set_returns(&mut self, t: usize) {
        self.setter[t] = SetterPc::Returned;
        if !self.void[t] {
            self.owed |= BIT[t];
        }
    }

    /// What a dead thread had of its own matters to nobody.
    fn forget_dead(&mut self) {
        let dead = self.dead;
        let is_dead = |thread: usize| dead >> thread & 1 != 0;
        for t in (0..SETTERS).filter(|&t| is_dead(t)) {
            (self.setter[t], self.void[t]) = (SetterPc::Idle, false);
        }
        for f in (0..FLUSHERS).filter(|&f| is_dead(usize::from(FLUSHER) + f)) {
            (self.flusher[f], self.snapshot[f], self.redo[f]) = (FlushPc::Idle, 0, false);
        }
    }

    /// Two threads change places: `a` becomes `a + 1`.
    fn swap(&mut self, a: u8) {
        let both = self.dead >> a & 3;
        self.dead = self.dead & !(3 << a) | (both >> 1 | both << 1 & 2) << a;
        self.lock = match self.lock {
            lock if lock == a => a + 1,
            lock if lock == a + 1 => a,
            lock => lock,
        };
        if a == FLUSHER {
            self.flusher.swap(0, 1);
            self.snapshot.swap(0, 1);
            self.redo.swap(0, 1);
        } else {
            self.setter.swap(0, 1);
            self.void.swap(0, 1);
        }
    }

    fn reset_begins(&mut self) {
        self.owed &= !1;
        for (t, bit) in BIT.into_iter().enumerate() {
            if bit == 1 && !matches!(self.setter[t], SetterPc::Idle | SetterPc::Returned) {
                self.void[t] = true;
            }
        }
        self.resetter = ResetPc::ClearDurable;
    }
}

/// A configuration to explore.
struct Coverage {
    variant: Variant,
    kills: u32,
    flushes: u8,
    /// Whether the setter of bit 1 takes part.
    third: bool,
    flushers: u8,
    /// States that differ only in who is who of two that do the same, or in what the dead had, count as one.
    symmetric: bool,
}

/// The protocol, with one flusher.
const ONE_FLUSHER: Coverage =
    Coverage { variant: Variant::Ok, kills: 1, flushes: 2, third: false, flushers: 1, symmetric: false };

impl Coverage {
    fn setter(&self, s: &Word, t: usize, to: &mut Steps<Word>) {
        use SetterPc::*;
        let (v, bit, me) = (self.variant, BIT[t], t as u8);
        let mut n = *s;
        let what = match s.setter[t] {
            Idle => {
                n.void[t] = bit == 1 && s.resetter != ResetPc::Idle;
                n.setter[t] = CheckDurable;
                "set begins"
            }
            CheckDurable if s.durable & bit != 0 => {
                n.set_returns(t);
                "durable, set returns"
            }
            CheckDurable => {
                n.setter[t] = CheckArmed;
                "not durable"
            }
            CheckArmed if s.armed => {
                n.setter[t] = Store;
                "armed"
            }
            CheckArmed => {
                n.setter[t] = Lock;
                "not armed"
            }
            Lock if v == Variant::NolockArm => {
                n.setter[t] = Decide;
                "(no lock)"
            }
            Lock if s.lock != FREE => return,
            Lock => {
                n.lock = me;
                n.setter[t] = Decide;
                "lock"
            }
            Decide if s.published != s.list_cache && v != Variant::Trustrecord => {
                n.sync_list();
                "commit the dead writer's list again"
            }
            Decide if s.armed => {
                n.setter[t] = Unlock;
                "armed by somebody else"
            }
            Decide if self.flushers > 1 && s.list_cache && !s.touched && v != Variant::ArmNoTouch => {
                n.touched = true;
                "touched = 1, for who left it listed and not armed"
            }
            Decide => {
                n.list_cache = true;
                n.armed |= v == Variant::PublishEarly;
                n.setter[t] = SyncRecord;
                "write list with the word"
            }
            SyncRecord => {
                n.sync_list();
                n.armed = true;
                n.setter[t] = Unlock;
                "sync list, publish, armed = 1"
            }
            Unlock => {
                n.unlock(me);
                n.setter[t] = Store;
                "unlock"
            }
            Store if v == Variant::Touchfirst => {
                n.touched = true;
                n.setter[t] = StoreSecond;
                "touched = 1"
            }
            Store => {
                n.live |= bit;
                n.setter[t] = StoreSecond;
                "live |= bit"
            }
            StoreSecond if v == Variant::Touchfirst => {
                n.live |= bit;
                n.setter[t] = Recheck;
                "live |= bit"
            }
            StoreSecond => {
                n.touched |= v != Variant::Untouched;
                n.setter[t] = Recheck;
                "touched = 1"
            }
            Recheck if s.armed || v == Variant::Norecheck => {
                n.set_returns(t);
                "set returns"
            }
            Recheck => {
                n.setter[t] = Lock;
                "disarmed meanwhile"
            }
            Returned => return,
        };
        to.add(NAMES[t], what, n);
    }

    fn resetter(&self, s: &Word, to: &mut Steps<Word>) {
        let v = self.variant;
        let mut n = *s;
        let what = match s.resetter {
            ResetPc::Idle if s.resets_left == 0 => return,
            ResetPc::Idle if v == Variant::UnlockedReset => {
                n.reset_begins();
                "reset begins (no lock)"
            }
            ResetPc::Idle if s.lock != FREE => return,
            ResetPc::Idle => {
                n.lock = RESETTER;
                n.reset_begins();
                "lock, reset begins"
            }
            ResetPc::ClearDurable => {
                n.touched = true;
                if v != Variant::Keepdurable {
                    n.durable &= !1;
                }
                n.resetter = ResetPc::ClearLive;
                "touched = 1, durable &= !bit"
            }
            ResetPc::ClearLive => {
                n.live &= !1;
                n.resetter = ResetPc::Unlock;
                "live &= !bit"
            }
            ResetPc::Unlock => {
                n.resets_left -= 1;
                n.unlock(RESETTER);
                n.resetter = ResetPc::Idle;
                "unlock, reset returns"
            }
        };
        to.add("resetter", what, n);
    }

    fn flusher(&self, s: &Word, f: usize, to: &mut Steps<Word>) {
        use FlushPc::*;
        let (v, me) = (self.variant, FLUSHER + f as u8);
        let mut n = *s;
        let what = match s.flusher[f] {
            Idle if s.flushes_left == 0 || s.lock != FREE => return,
            Idle => {
                n.lock = me;
                n.flusher[f] = Decide;
                "lock"
            }
            Decide if s.published != s.list_cache && v != Variant::Trustrecord => {
                n.sync_list();
                "commit the dead writer's list again"
            }
            Decide if s.list_cache => {
                n.flusher[f] = Disarm;
                "the word is listed"
            }
            Decide if s.touched && v == Variant::Writeunarmed => {
                n.flusher[f] = Disarm;
                "(touched, not listed)"
            }
            Decide if s.touched => {
                n.list_cache = true;
                n.flusher[f] = SyncArming;
                "touched, not listed: write list with it"
            }
            Decide => {
                n.unlock(me);
                n.flushes_left -= 1;
                n.flusher[f] = Idle;
                "nothing to do"
            }
            SyncArming => {
                n.sync_list();
                n.flusher[f] = Disarm;
                "sync list, publish"
            }
            Disarm => {
                n.redo[f] = s.touched || (!s.armed && v != Variant::Skipunarmed);
                n.armed = false;
                n.flusher[f] = Untouch;
                "redo = !armed | touched, armed = 0"
            }
            Untouch if v == Variant::Clearlate => {
                n.flusher[f] = Snapshot;
                "(touched is left)"
            }
            Untouch => {
                n.redo[f] |= s.touched;
                n.touched = false;
                n.flusher[f] = Snapshot;
                "redo |= touched, touched = 0"
            }
            Snapshot if s.redo[f] => {
                n.snapshot[f] = s.live;
                n.flusher[f] = WriteBit0;
                "snapshot"
            }
            Snapshot => {
                n.flusher[f] = WriteDrop;
                "nothing to redo"
            }
            WriteBit0 => {
                n.page = s.page.written(1, s.snapshot[f]);
                n.flusher[f] = WriteBit1;
                "write page, bit 0"
            }
            WriteBit1 => {
                n.page = s.page.written(2, s.snapshot[f]);
                n.flusher[f] = SyncPage;
                "write page, bit 1"
            }
            SyncPage if matches!(v, Variant::Noesync | Variant::Earlydrop) => {
                n.flusher[f] = SetDurable;
                "(no sync)"
            }
            SyncPage => {
                n.page = s.page.synced();
                n.flusher[f] = SetDurable;
                "sync page"
            }
            SetDurable => {
                n.durable = s.snapshot[f];
                n.flusher[f] = UntouchLate;
                "durable = snapshot"
            }
            UntouchLate => {
                n.touched &= v != Variant::Clearlate;
                n.flusher[f] = WriteDrop;
                "-"
            }
            WriteDrop => {
                n.list_cache = false;
                n.flusher[f] = SyncDrop;
                "write list without the word"
            }
            SyncDrop => {
                n.sync_list();
                n.flusher[f] = Unlock;
                "sync list, publish"
            }
            Unlock => {
                if v == Variant::Earlydrop {
                    n.page = s.page.synced();
                }
                n.unlock(me);
                n.flushes_left -= 1;
                n.flusher[f] = Idle;
                "unlock"
            }
        };
        to.add(NAMES[usize::from(me)], what, n);
    }
}

impl Model for Coverage {
    type State = Word;

    fn starts(&self) -> Vec<Word> {
        let mut clean = Word { lock: FREE, flushes_left: self.flushes, resets_left: 1, ..Word::default() };
        if !self.third {
            clean.setter[2] = SetterPc::Returned;
        }
        // Also with bit 0 set and durable, so that the reset has something to undo.
        vec![clean, Word { live: 1, durable: 1, page: Page::of(1), ..clean }]
    }

    fn steps(&self, s: &Word, to: &mut Steps<Word>) {
        if s.list_disk != s.list_cache {
            to.add("kernel", "writes back the list", Word { list_disk: s.list_cache, ..*s });
        }
        for page in s.page.written_back() {
            to.add("kernel", "writes back part of the page", Word { page, ..*s });
        }
        for t in 0..FLUSHER + self.flushers {
            let idle = match t {
                RESETTER => s.resetter == ResetPc::Idle,
                FLUSHER.. => s.flusher[usize::from(t - FLUSHER)] == FlushPc::Idle,
                _ if s.setter[usize::from(t)] == SetterPc::Returned => continue,
                _ => s.setter[usize::from(t)] == SetterPc::Idle,
            };
            if s.dead >> t & 1 != 0 {
                continue;
            }
            if s.dead.count_ones() < self.kills && !idle {
                let mut n = Word { dead: s.dead | 1 << t, ..*s };
                n.unlock(t);
                to.add(NAMES[usize::from(t)], "KILLED", n);
            }
            match t {
                RESETTER => self.resetter(s, to),
                FLUSHER.. => self.flusher(s, usize::from(t - FLUSHER), to),
                _ => self.setter(s, usize::from(t), to),
            }
        }
    }

    fn canonical(&self, mut s: Word) -> Word {
        if self.symmetric {
            s.forget_dead();
            for first in [0, FLUSHER] {
                let mut other = s;
                other.swap(first);
                if other.pack() < s.pack() {
                    s = other;
                }
            }
        }
        s
    }

    fn check(&self, s: &Word) -> Result<(), String> {
        let recovered = if s.list_disk { 3 } else { s.page.disk };
        match s.owed & !recovered {
            0 => Ok(()),
            lost => Err(format!("a power cut here loses {lost:02b}")),
        }
    }

    fn show(&self, s: &Word) -> String {
        format!(
            "live {:02b} durable {:02b} armed {} touched {} | {} | listed {}, disk {}, published {} | owed {:02b}",
            s.live,
            s.durable,
            u8::from(s.armed),
            u8::from(s.touched),
            s.page,
            u8::from(s.list_cache),
            u8::from(s.list_disk),
            u8::from(s.published),
            s.owed
        )
    }
}

fn covered(kills: u32, flushes: u8, third: bool, states: usize) {
    let name = format!("covered with {kills} kills, {flushes} flushes, {} setters", 2 + u8::from(third));
    holds(&name, &Coverage { kills, flushes, third, ..ONE_FLUSHER }, states);
}

fn loses(variant: Variant, steps: usize) {
    breaks(&format!("{variant:?}"), &Coverage { variant, ..ONE_FLUSHER }, steps);
}

/// A rule that this model cannot tell from the protocol.
fn unneeded(variant: Variant, states: usize) {
    holds(&format!("{variant:?}"), &Coverage { variant, ..ONE_FLUSHER }, states);
}

/// With two flushers, either of which goes on where the other was killed.
fn covered_by_two(kills: u32, flushes: u8, third: bool, states: usize) {
    let name = format!("covered with {kills} kills, {flushes} flushes by two, {} setters", 2 + u8::from(third));
    holds(&name, &Coverage { kills, flushes, third, flushers: 2, symmetric: true, ..ONE_FLUSHER }, states);
}

#[test]
fn covered_by_two_flushers_with_one_kill() {
    covered_by_two(1, 2, false, 165_827);
}

/// With a second flusher, somebody does go on after a dead one.
#[test]
fn rule_5_not_doing_again_what_a_dead_flusher_left_loses_a_bit() {
    for (variant, steps) in [(Variant::Skipunarmed, 22), (Variant::ArmNoTouch, 29)] {
        let two = Coverage { variant, flushers: 2, symmetric: true, ..ONE_FLUSHER };
        breaks(&format!("{variant:?}, two flushers"), &two, steps);
    }
}

/// Who is who makes no difference: the same with fewer states.
#[test]
fn symmetry_hides_nothing() {
    for (variant, steps) in [(Variant::Untouched, 17), (Variant::Touchfirst, 37), (Variant::Clearlate, 41)] {
        breaks(&format!("{variant:?}, symmetric"), &Coverage { variant, symmetric: true, ..ONE_FLUSHER }, steps);
    }
}

/// 0.4 GB, 30 s.
#[test]
#[ignore = "large"]
fn covered_by_two_flushers_with_two_kills_and_a_setter_of_the_other_bit() {
    covered_by_two(2, 3, true, 14_963_220);
}

#[test]
fn covered_with_one_kill() {
    covered(1, 2, false, 341_922);
}

#[test]
fn covered_with_two_kills() {
    covered(2, 2, false, 848_166);
}

#[test]
fn covered_with_three_flushes() {
    covered(1, 3, false, 585_221);
}

#[test]
fn covered_with_a_setter_of_the_other_bit() {
    covered(0, 2, true, 812_866);
}

#[test]
fn covered_with_a_kill_and_a_setter_of_the_other_bit() {
    covered(1, 2, true, 7_319_445);
}

#[test]
fn rule_1_armed_before_the_list_is_durable_loses_a_bit() {
    loses(Variant::PublishEarly, 11);
}

#[test]
fn rule_1_arming_without_the_lock_loses_a_bit() {
    loses(Variant::NolockArm, 22);
}

#[test]
fn rule_2_not_checking_again_loses_a_bit() {
    loses(Variant::Norecheck, 17);
}

#[test]
fn rule_2_not_touching_loses_a_bit() {
    loses(Variant::Untouched, 17);
}

#[test]
fn rule_2_touching_before_the_store_loses_a_bit() {
    loses(Variant::Touchfirst, 37);
}

#[test]
fn rule_3_leaving_the_list_before_the_sync_loses_a_bit() {
    loses(Variant::Earlydrop, 22);
}

#[test]
fn rule_3_not_syncing_the_page_loses_a_bit() {
    loses(Variant::Noesync, 22);
}

#[test]
fn rule_3_untouching_after_the_snapshot_loses_a_bit() {
    loses(Variant::Clearlate, 41);
}

#[test]
fn rule_4_reset_without_the_lock_loses_a_bit() {
    loses(Variant::UnlockedReset, 39);
}

#[test]
fn rule_4_reset_that_keeps_durable_loses_a_bit() {
    loses(Variant::Keepdurable, 19);
}

/// Every commit writes the whole list, so coverage does not need this part; see `model_takeover.rs` for what does.
#[test]
fn rule_5_trusting_the_record_loses_nothing_here() {
    unneeded(Variant::Trustrecord, 345_754);
}

/// With one flusher, nobody goes on after a dead one; `model_takeover.rs` has others, and loses the bit.
#[test]
fn rule_5_skipping_unarmed_words_loses_nothing_with_one_flusher() {
    unneeded(Variant::Skipunarmed, 342_336);
}

/// Listing a word before its page is written bounds the dirt that a torn page adds; coverage does not need it.
#[test]
fn writing_a_word_that_is_not_listed_loses_nothing() {
    unneeded(Variant::Writeunarmed, 367_978);
}

/// 0.7 GB, 25 s.
#[test]
#[ignore = "large"]
fn covered_with_two_kills_and_a_setter_of_the_other_bit() {
    covered(2, 2, true, 24_371_056);
}

/// 0.4 GB, 10 s.
#[test]
#[ignore = "large"]
fn covered_with_three_flushes_and_a_setter_of_the_other_bit() {
    covered(1, 3, true, 13_040_533);
}

/// 0.8 GB, 50 s.
#[test]
#[ignore = "large"]
fn covered_with_two_kills_and_three_flushes_and_a_setter_of_the_other_bit() {
    covered(2, 3, true, 43_607_189);
}
