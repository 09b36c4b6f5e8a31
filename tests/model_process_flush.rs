//! Model of how a `Process` map is flushed while several processes have it open.
//!
//! Such a map lists everything for as long as it is open, and trusts the page cache when everybody was killed. So its
//! bottom counts only once CLEAN is committed: then every bit must be in it. A flush knows from `touched` what the
//! bottom lacks; it disarms nothing. If it untouches a word, and dies before the page of the word is durable, nothing
//! tells its peers that the word is not in the bottom, and the last of them commits CLEAN.
//!
//! One word of two bits. Everything happens any number of times: sets, resets of bit 0, flushes (also for another
//! word's sake, which write the page of this one), kills of one process between any two steps, kills of all of them with a
//! reopen that trusts the page cache (after one that is killed half-way everything is dirty), failing page writes, power cuts
//! (after which everything is dirty unless CLEAN),
//! closes by the last process, and opens. The update lock has one holder at a time, who may be any process.
//!
//! Checked in every state: a bit whose `set` has returned, and that no reset overlapped or followed, is set in `live`; and
//! in the page, in cache and on disk, once the state is CLEAN. With `exact`: what reads clean at a clean close is clean in
//! the page. With `honest`: a flush that succeeds leaves in the page what was owed when it began.
//!
//! Not modelled: the header (its commits are atomic here), the gate (`model_locks.rs`), space for the volatile part, and
//! pages of the volatile part that the kernel fails to write back.

#[path = "model/explore.rs"]
mod explore;
#[path = "model/page.rs"]
mod page;

use explore::{Model, Packing, State, Steps, breaks, holds, program_counter};
use page::Page;

program_counter! {
    enum SetterPc { Idle, CheckDurable, Store, Touch }
}

program_counter! {
    /// Where the holder of the update lock is.
    enum HolderPc {
        /// Nobody holds the lock.
        Free,
        ResetTouch, ResetDurable, ResetLive, ResetUnlock,
        Begin, SetMark, UntouchFirst, SetMarkLate, Snapshot, WriteBit0, WriteBit1, SyncPage, UnmarkSoon, SetDurable, MarkAgain,
        UntouchLate, LookAgain, Unmark, Compare, Done, Failed, Retouch,
    }
}

/// When a flush untouches the words that it writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Untouch {
    /// Before it takes what it writes.
    Before,
    /// After their pages are durable; then it looks whether a word was set meanwhile, and touches it again.
    After,
    /// Broken: the same without looking.
    AfterBlindly,
}

/// What the runtime page says of a flush that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    /// Nothing.
    None,
    /// It is set before the first word is untouched and cleared when nothing hangs on it any more.
    Before,
    /// Broken: it is set after that.
    After,
    /// Broken: it is cleared before the pages are durable.
    ClearedEarly,
    /// Broken: it is cleared when the pages are durable, but before `durable` says so.
    ClearedSoon,
    /// Broken: who finds it clears it, and redoes the words then.
    ClearedByFinder,
}

/// What is redone by who finds the mark of somebody who died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Redo {
    /// Words whose live and durable words differ.
    Differing,
    /// All words.
    All,
}

/// A configuration to explore.
#[derive(Clone, Copy, Debug)]
struct Process {
    untouch: Untouch,
    mark: Mark,
    redo: Redo,
    /// The clean close compares live and durable words, and redoes those that differ.
    close_compares: bool,
    /// After a failed write the words are touched again.
    retouch: bool,
    /// The bit that each setter sets.
    bits: &'static [u8],
    kills: bool,
    /// Whether somebody may be killed while his peers go on.
    peers: bool,
    faults: bool,
    resets: bool,
    neighbours: bool,
    exact: bool,
    honest: bool,
}

/// As a map that one process has alone is flushed, which is not enough for several.
const NO_MARK: Process = Process {
    untouch: Untouch::Before,
    mark: Mark::None,
    redo: Redo::Differing,
    close_compares: false,
    retouch: true,
    bits: &[1, 2],
    kills: true,
    peers: true,
    faults: true,
    resets: true,
    neighbours: true,
    exact: true,
    honest: true,
};

/// Untouched before, under a mark; all words are redone.
const MARK_ALL: Process = Process { mark: Mark::Before, redo: Redo::All, retouch: false, ..NO_MARK };

/// Untouched after, under a mark; words that differ are redone.
const LATE: Process = Process { untouch: Untouch::After, mark: Mark::Before, retouch: false, ..NO_MARK };

const SETTERS: usize = 3;
const NAMES: [&str; SETTERS] = ["setter 0", "setter 1", "setter 2"];

#[derive(Clone, Copy, Default)]
struct Word {
    /// Shared memory: the live and the durable word, the touched bit, and the mark.
    live: u8,
    durable: u8,
    touched: bool,
    mark: bool,
    /// A durable write has failed in this session.
    degraded: bool,
    /// The word in the bottom level: in the page cache and on disk.
    page: Page,
    /// The state in the header is CLEAN, and nobody has the file open.
    clean: bool,
    /// Bits that must not be lost.
    owed: u8,
    setter: [SetterPc; SETTERS],
    /// Sets that a reset overlaps: their bit may be lost.
    void: [bool; SETTERS],
    holder: HolderPc,
    /// The holder is alone, has the gate, and will commit CLEAN.
    closing: bool,
    /// The flusher's own: what it writes, whether this word is redone, whether it found the mark, what it owes.
    snapshot: u8,
    redo: bool,
    found: bool,
    due: u8,
}

impl State for Word {
    type Key = u64;

    fn fields<P: Packing>(&mut self, p: &mut P) {
        p.field(&mut self.live, 2);
        p.field(&mut self.durable, 2);
        p.field(&mut self.touched, 1);
        p.field(&mut self.mark, 1);
        p.field(&mut self.degraded, 1);
        self.page.fields(p);
        p.field(&mut self.clean, 1);
        p.field(&mut self.owed, 2);
        for t in 0..SETTERS {
            p.field(&mut self.setter[t], 2);
            p.field(&mut self.void[t], 1);
        }
        p.field(&mut self.holder, 5);
        p.field(&mut self.closing, 1);
        p.field(&mut self.snapshot, 2);
        p.field(&mut self.redo, 1);
        p.field(&mut self.found, 1);
        p.field(&mut self.due, 2);
    }
}

impl Word {
    fn at(self, holder: HolderPc) -> Word {
        Word { holder, ..self }
    }

    /// Lets go of the lock, or dies with it.
    fn unlock(self) -> Word {
        Word { closing: false, snapshot: 0, redo: false, found: false, due: 0, ..self.at(HolderPc::Free) }
    }

    fn setter_at(mut self, t: usize, pc: SetterPc) -> Word {
        self.setter[t] = pc;
        self.void[t] &= pc != SetterPc::Idle;
        self
    }

    /// A session that begins with these bits, everywhere.
    fn opened(self, bits: u8) -> Word {
        Word { live: bits, durable: bits, page: Page::of(bits), owed: self.owed, ..Word::default() }
    }
}

impl Process {
    fn setter(&self, s: &Word, t: usize, to: &mut Steps<Word>) {
        let bit = self.bits[t];
        let mut n = *s;
        let returns = |mut n: Word| {
            if !s.void[t] {
                n.owed |= bit;
            }
            n.setter_at(t, SetterPc::Idle)
        };
        let (what, n) = match s.setter[t] {
            SetterPc::Idle if s.clean || s.closing => return,
            SetterPc::Idle => {
                let resetting = (HolderPc::ResetTouch..=HolderPc::ResetUnlock).contains(&s.holder);
                n.void[t] = bit == 1 && resetting;
                ("set begins", n.setter_at(t, SetterPc::CheckDurable))
            }
            SetterPc::CheckDurable if s.durable & bit != 0 => ("durable, set returns", returns(n)),
            SetterPc::CheckDurable => ("not durable", n.setter_at(t, SetterPc::Store)),
            SetterPc::Store => {
                n.live |= bit;
                ("live |= bit", n.setter_at(t, SetterPc::Touch))
            }
            SetterPc::Touch => {
                n.touched = true;
                ("touched = 1, set returns", returns(n))
            }
        };
        to.add(NAMES[t], what, n);
        if self.kills && self.peers && s.setter[t] != SetterPc::Idle {
            to.add(NAMES[t], "KILLED", s.setter_at(t, SetterPc::Idle));
        }
    }

    fn reset_begins(&self, s: &Word) -> Word {
        let mut n = *s;
        n.owed &= !1;
        for (t, &bit) in self.bits.iter().enumerate() {
            n.void[t] |= bit == 1 && s.setter[t] != SetterPc::Idle;
        }
        n.at(HolderPc::ResetTouch)
    }

    /// Begins a write of the page, with `content` for this word.
    fn write(s: &Word, content: u8) -> Word {
        Word { snapshot: content, ..*s }.at(HolderPc::WriteBit0)
    }

    fn sync_may_fail(&self, s: &Word, to: &mut Steps<Word>) {
        if !self.faults {
            return;
        }
        for (_, page) in s.page.sync_failed() {
            let n = Word { page, ..*s };
            to.add("holder", "page sync FAILS", n.at(HolderPc::Failed));
        }
    }

    fn holder(&self, s: &Word, to: &mut Steps<Word>) {
        use HolderPc::*;
        let late = self.untouch != Untouch::Before;
        let marks = self.mark != Mark::None;
        let mut n = *s;
        let (what, n) = match s.holder {
            Free if s.clean => return,
            Free => {
                let due = if self.honest { s.owed } else { 0 };
                to.add("flusher", "lock", Word { due, ..*s }.at(Begin));
                if s.setter.iter().all(|&pc| pc == SetterPc::Idle) {
                    to.add("closer", "alone, lock", Word { due, closing: true, ..*s }.at(Begin));
                }
                if self.resets {
                    to.add("resetter", "lock, reset begins", self.reset_begins(s));
                }
                return;
            }
            ResetTouch => {
                n.touched = true;
                ("touched = 1", n.at(ResetDurable))
            }
            ResetDurable => {
                n.durable &= !1;
                ("durable &= !bit", n.at(ResetLive))
            }
            ResetLive => {
                n.live &= !1;
                ("live &= !bit", n.at(ResetUnlock))
            }
            ResetUnlock => ("unlock, reset returns", n.unlock()),
            Begin => {
                n.found = s.mark && marks;
                if self.mark == Mark::ClearedByFinder {
                    n.mark = false;
                }
                ("looks for a mark", n.at(if late { Snapshot } else { SetMark }))
            }
            SetMark => {
                n.mark |= marks && self.mark != Mark::After;
                (if marks { "mark" } else { "-" }, n.at(UntouchFirst))
            }
            UntouchFirst => {
                n.redo = s.touched;
                n.touched = false;
                ("redo = touched, touched = 0", n.at(SetMarkLate))
            }
            SetMarkLate => {
                n.mark |= self.mark == Mark::After;
                ("-", n.at(Snapshot))
            }
            Snapshot => {
                let found = s.found && (self.redo == Redo::All || s.live != s.durable);
                n.redo = s.redo || late && s.touched || found;
                n.mark &= self.mark != Mark::ClearedEarly;
                if n.redo {
                    let n = Process::write(&n, s.live);
                    ("snapshot", n)
                } else {
                    if self.neighbours {
                        let n = Process::write(&n, s.durable);
                        to.add("holder", "nothing to redo, but the page is written for another word", n);
                    }
                    ("nothing to redo", n.at(if late { MarkAgain } else { Unmark }))
                }
            }
            WriteBit0 => {
                n.page = s.page.written(1, s.snapshot);
                ("write page, bit 0", n.at(WriteBit1))
            }
            WriteBit1 => {
                n.page = s.page.written(2, s.snapshot);
                ("write page, bit 1", n.at(SyncPage))
            }
            SyncPage => {
                self.sync_may_fail(s, to);
                n.page = s.page.synced();
                ("sync page", n.at(UnmarkSoon))
            }
            UnmarkSoon => {
                n.mark &= self.mark != Mark::ClearedSoon;
                ("-", n.at(if s.redo { SetDurable } else { MarkAgain }))
            }
            SetDurable => {
                n.durable = s.snapshot;
                ("durable = snapshot", n.at(if late { MarkAgain } else { Unmark }))
            }
            MarkAgain => {
                n.mark |= late && marks;
                (if late && marks { "mark" } else { "-" }, n.at(if late && s.redo { UntouchLate } else { Unmark }))
            }
            UntouchLate => {
                n.touched = false;
                let next = if self.untouch == Untouch::After { LookAgain } else { Unmark };
                ("touched = 0", n.at(next))
            }
            LookAgain => {
                n.touched |= s.live != s.durable;
                ("touched again if live is not durable", n.at(Unmark))
            }
            Unmark => {
                n.mark = false;
                ("clear the mark", n.at(if s.closing { Compare } else { Done }))
            }
            Compare if s.degraded => ("a write has failed: not closed", n.unlock()),
            Compare if self.close_compares && s.live != s.durable => {
                n.redo = true;
                ("live is not durable: once more", Process::write(&n, s.live))
            }
            // Alone, so what is touched now is a word that was touched while this flush wrote it.
            Compare if s.touched => ("touched: once more", n.at(Begin)),
            Compare => ("CLEAN", Word { clean: true, ..n.at(Done) }),
            Done => ("unlock", n.unlock()),
            Failed => {
                n.degraded = true;
                ("remember that a write failed", n.at(if self.retouch && s.redo { Retouch } else { Done }))
            }
            Retouch => {
                n.touched = true;
                ("touched = 1", n.at(Done))
            }
        };
        let n = if s.holder == Failed || s.holder == Retouch { Word { due: 0, ..n } } else { n };
        to.add("holder", what, n);
        if self.kills && self.peers {
            to.add("holder", "KILLED", s.unlock());
        }
    }
}

impl Model for Process {
    type State = Word;

    fn starts(&self) -> Vec<Word> {
        vec![Word::default()]
    }

    fn steps(&self, s: &Word, to: &mut Steps<Word>) {
        for page in s.page.written_back() {
            to.add("kernel", "writes back part of the page", Word { page, ..*s });
        }
        for t in 0..self.bits.len() {
            self.setter(s, t, to);
        }
        self.holder(s, to);
        if s.clean && s.holder == HolderPc::Free {
            to.add("opener", "opens it", s.opened(s.page.cache));
            to.add("power", "CUT, opened", s.opened(s.page.disk));
        } else if !s.clean {
            if self.kills {
                to.add("all", "KILLED, reopened", s.opened(if s.degraded { 3 } else { s.live }));
            }
            to.add("power", "CUT, reopened, all dirty", s.opened(3));
        }
    }

    fn check(&self, s: &Word) -> Result<(), String> {
        if s.owed & !s.live != 0 {
            return Err(format!("an owed bit reads clean here: {:02b}", s.owed & !s.live));
        }
        if s.durable & !s.live != 0 {
            return Err("durable, but not live".to_string());
        }
        let page = s.page.cache & s.page.disk;
        if s.clean && s.owed & !page != 0 {
            return Err(format!("closed without {:02b}", s.owed & !page));
        }
        let back = (s.page.cache | s.page.disk) & !s.live;
        if self.exact && s.clean && back != 0 {
            return Err(format!("the clean close brings back {back:02b}"));
        }
        if self.honest && s.holder == HolderPc::Done && s.due & !page != 0 {
            return Err(format!("the flush succeeds without {:02b}", s.due & !page));
        }
        Ok(())
    }

    fn show(&self, s: &Word) -> String {
        format!(
            "live {:02b} durable {:02b} touched {} mark {} | {} | {}{} owed {:02b}",
            s.live,
            s.durable,
            u8::from(s.touched),
            u8::from(s.mark),
            s.page,
            if s.clean { "CLEAN" } else { "OPEN" },
            if s.degraded { ", degraded" } else { "" },
            s.owed
        )
    }
}

mod no_mark {
    use super::*;

    #[test]
    fn loses_a_bit_when_a_flusher_is_killed_and_its_peers_go_on() {
        breaks("no mark", &NO_MARK, 16);
        breaks("no mark, no promise of flush", &Process { honest: false, exact: false, ..NO_MARK }, 17);
    }

    /// Alone, a kill is a kill of all, and the opener writes every page.
    #[test]
    fn holds_if_nobody_is_killed_or_nobody_has_peers() {
        holds("no mark, no kills", &Process { kills: false, ..NO_MARK }, 119_305);
        holds("no mark, no peers", &Process { peers: false, ..NO_MARK }, 119_305);
    }

    #[test]
    fn needs_the_touch_after_a_failed_write() {
        let m = Process { retouch: false, kills: false, ..NO_MARK };
        breaks("no mark, no kills, not touched again", &m, 22);
    }
}

/// Untouched before the page is written, as without a mark.
mod mark {
    use super::*;

    const DIFFERING: Process = Process { redo: Redo::Differing, ..MARK_ALL };

    #[test]
    fn covers_whatever_is_redone() {
        holds("mark, all redone", &MARK_ALL, 343_315);
        holds("mark, differing redone, not exact", &Process { exact: false, ..DIFFERING }, 423_911);
    }

    /// What was reset is the same in both words, and not in the page.
    #[test]
    fn brings_resets_back_if_only_differing_words_are_redone() {
        breaks("mark, differing redone", &DIFFERING, 19);
    }

    /// Who writes the page for another word's sake takes `durable` for this one.
    #[test]
    fn must_stay_until_durable_says_so() {
        breaks("cleared soon", &Process { mark: Mark::ClearedSoon, ..MARK_ALL }, 27);
        let m = Process { mark: Mark::ClearedSoon, neighbours: false, ..MARK_ALL };
        holds("cleared soon, no other words in the page", &m, 360_184);
    }

    #[test]
    fn must_be_set_before_untouching() {
        breaks("mark after", &Process { mark: Mark::After, ..MARK_ALL }, 16);
    }

    #[test]
    fn must_stay_until_the_pages_are_durable() {
        breaks("cleared early", &Process { mark: Mark::ClearedEarly, ..MARK_ALL }, 18);
    }

    #[test]
    fn must_stay_while_its_finder_redoes() {
        breaks("cleared by its finder", &Process { mark: Mark::ClearedByFinder, ..MARK_ALL }, 19);
    }
}

/// Untouched after the page is durable.
mod late {
    use super::*;

    #[test]
    fn covers_and_brings_nothing_back() {
        holds("late, mark", &LATE, 263_720);
        holds("late, mark, setters of bits 0 1 1", &Process { bits: &[1, 2, 2], ..LATE }, 1_046_060);
    }

    /// 40 MB, 5 s.
    #[test]
    #[ignore = "large"]
    fn covers_two_setters_of_the_bit_that_is_reset() {
        holds("late, mark, setters of bits 0 0 1", &Process { bits: &[1, 1, 2], ..LATE }, 2_057_424);
    }

    #[test]
    fn must_look_again() {
        breaks("late, blindly", &Process { untouch: Untouch::AfterBlindly, kills: false, ..LATE }, 25);
    }

    #[test]
    fn needs_the_mark_while_it_looks() {
        breaks("late, no mark", &Process { mark: Mark::None, ..LATE }, 23);
        breaks("late, no mark, no promise of flush", &Process { mark: Mark::None, honest: false, ..LATE }, 24);
    }
}

/// No mark, but the last one out compares. A flush of a peer then promises less.
mod comparing_at_the_close {
    use super::*;

    const COMPARE: Process = Process { mark: Mark::None, close_compares: true, honest: false, ..LATE };

    #[test]
    fn covers_and_brings_nothing_back_if_untouched_late() {
        holds("late, close compares", &COMPARE, 146_930);
        breaks("late, close compares, honest", &Process { honest: true, ..COMPARE }, 23);
    }

    #[test]
    fn brings_resets_back_if_untouched_early() {
        let early = Process { untouch: Untouch::Before, ..COMPARE };
        breaks("early, close compares", &early, 19);
        holds("early, close compares, not exact", &Process { exact: false, ..early }, 246_810);
    }
}
