//! Model of points: names, and what was written after each was frozen.
//!
//! The regions of a name hold what was written after it was frozen and before the next one was. A freeze writes what is dirty
//! here to a region of the outstanding point and resets it; a commit gives that to the newest name, by the header alone where
//! that has no region, else by a union of both in a new region; dropping a name gives what it has to the next older one in the
//! same way. One granule; a writer; two operators, each with one operation after the other: freeze, commit, commit and keep the
//! name, abort, drop a name. Any interleaving; kills between any two steps; power cuts, after which what was not synced is gone,
//! and a region may fail and be repaired: its name, or what is outstanding, holds everything then, in no region. Each pair of
//! headers may be the only one that is left.
//!
//! Checked in every state, for the header of either pair: for each name in it, what was written after that was frozen is dirty
//! in a region of that name or of a newer one, in the outstanding point, or here; the newest header names no region that is
//! gone, and as long as no operator was killed the other one does not, either. (A region that was overwritten is no lie: its pages
//! do not match, and everything counts as dirty.)
//!
//! Not modelled: what one bit of the map takes (`model_coverage.rs`), writers under way (`model_freeze.rs`), how the commit to
//! one pair becomes durable (`model_header.rs`), more than one granule, and resets, which forget for every name.

#[path = "model/explore.rs"]
mod explore;

use explore::{Model, Packing, State, Steps, breaks, holds, program_counter};

/// One thing done wrong, or left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    /// The protocol.
    Ok,
    /// What was frozen is dropped with its commit.
    NoJoin,
    /// What was frozen goes to the oldest name.
    JoinOldest,
    /// The newest name gets what was frozen in place of what it had.
    Replace,
    /// What a dropped name had is dropped with it.
    DropNoJoin,
    /// A union is named before it is durable.
    Unsynced,
    /// Regions are given up when one pair does not name them any more.
    OnePair,
    /// Regions are given up before a header is committed that does not name them.
    FreeFirst,
    /// Space for a union is chosen and written without the space lock.
    NoSpace,
    /// One that holds everything is joined as if it held nothing.
    ForgetEverything,
}

program_counter! {
    enum Pc {
        Idle,
        Choose, Write, Sync, Lock, FirstPair, SecondPair, GiveUp,
        /// A freeze: FREEZING is in both pairs, and what was written is reset here; then FROZEN is committed.
        Reset, Promote,
        /// An abort: ABORTING is in a pair.
        PutBack,
    }
}

program_counter! {
    enum What { Freeze, Commit, Keep, Abort, Drop }
}

program_counter! {
    enum Checkpoint { Normal, Freezing, Frozen, Aborting }
}

program_counter! {
    /// What is in a region on the disk.
    enum Content { Gone, Clean, Dirty }
}

/// Names that there are in all, and so freezes; a name is as old as its number is low.
const NAMES: usize = 3;
/// One for each name, one for what is outstanding, one for a union.
const REGIONS: usize = 4;
/// In place of a region: everything.
const EVERYTHING: u8 = 7;
const OPERATORS: usize = 2;
/// Nobody holds the lock.
const FREE: u8 = 3;
const WHO: [&str; OPERATORS] = ["operator 0", "operator 1"];

/// What the headers of a pair say. Regions are numbered from 1; 0 is none: it holds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Header {
    /// The names that are kept, a bit each.
    kept: u8,
    /// The region of each.
    regions: [u8; NAMES],
    state: Checkpoint,
    /// The number and the region of the outstanding point.
    name: u8,
    region: u8,
    /// A region that this names was overwritten: everything is dirty.
    spoilt: bool,
}

impl Header {
    fn fields<P: Packing>(&mut self, p: &mut P) {
        p.field(&mut self.kept, NAMES as u32);
        self.regions.iter_mut().for_each(|region| p.field(region, 3));
        p.field(&mut self.state, 2);
        p.field(&mut self.name, 2);
        p.field(&mut self.region, 3);
        p.field(&mut self.spoilt, 1);
    }

    fn is_kept(&self, name: usize) -> bool {
        self.kept >> name & 1 != 0
    }

    fn newest(&self) -> Option<usize> {
        (0..NAMES).rev().find(|&name| self.is_kept(name))
    }

    fn older(&self, name: usize) -> Option<usize> {
        (0..name).rev().find(|&older| self.is_kept(older))
    }

    fn names_region(&self, region: u8) -> bool {
        region != 0 && (self.region == region || self.regions.contains(&region))
    }

    fn normal(self) -> Header {
        Header { state: Checkpoint::Normal, name: 0, region: 0, ..self }
    }
}

/// What an operator is at.
#[derive(Clone, Copy, Default)]
struct Operator {
    pc: Pc,
    what: What,
    /// The name that it drops, or the number of the checkpoint that it ends or begins.
    name: u8,
    /// The region that it writes, and what it writes there.
    region: u8,
    dirty: bool,
    /// What both pairs say when it is done; only while it holds the update lock.
    header: Header,
}

#[derive(Clone, Copy, Default)]
struct Points {
    pairs: [Header; 2],
    /// The pair that has the newest header.
    newest: u8,
    regions: [Content; REGIONS],
    /// What was written to a region and not synced.
    unsynced: u8,
    /// The bit here.
    here: bool,
    /// Written after the name was frozen.
    owed: u8,
    /// Numbers that were given to freezes.
    frozen: u8,
    operators: [Operator; OPERATORS],
    space: u8,
    update: u8,
    kills_left: u8,
    cuts_left: u8,
    killed: bool,
    /// Somebody wrote to, or gave up, a region that a header names.
    trespassed: bool,
}

impl State for Points {
    type Key = u128;

    fn fields<P: Packing>(&mut self, p: &mut P) {
        self.pairs.iter_mut().for_each(|pair| pair.fields(p));
        p.field(&mut self.newest, 1);
        self.regions.iter_mut().for_each(|region| p.field(region, 2));
        p.field(&mut self.unsynced, REGIONS as u32);
        p.field(&mut self.here, 1);
        p.field(&mut self.owed, NAMES as u32);
        p.field(&mut self.frozen, 2);
        for operator in &mut self.operators {
            p.field(&mut operator.pc, 4);
            p.field(&mut operator.what, 3);
            p.field(&mut operator.name, 2);
            p.field(&mut operator.region, 3);
            p.field(&mut operator.dirty, 1);
        }
        // Only one of them can hold the update lock.
        let mut header = self.operators.iter().find(|o| o.holds_header()).map_or(Header::default(), |o| o.header);
        header.fields(p);
        if let Some(operator) = self.operators.iter_mut().find(|o| o.holds_header()) {
            operator.header = header;
        }
        p.field(&mut self.space, 2);
        p.field(&mut self.update, 2);
        p.field(&mut self.kills_left, 2);
        p.field(&mut self.cuts_left, 1);
        p.field(&mut self.killed, 1);
        p.field(&mut self.trespassed, 1);
    }
}

impl Operator {
    fn holds_header(&self) -> bool {
        matches!(self.pc, Pc::FirstPair | Pc::SecondPair | Pc::GiveUp)
    }
}

impl Points {
    fn header(&self) -> &Header {
        &self.pairs[usize::from(self.newest)]
    }

    fn content(&self, region: u8) -> Content {
        match region {
            0 => Content::Clean,
            EVERYTHING => Content::Dirty,
            _ => self.regions[usize::from(region) - 1],
        }
    }

    fn dirty_in(&self, region: u8) -> bool {
        self.content(region) == Content::Dirty
    }

    /// Something becomes of a region: nothing that the newest header says rests on it any more, or it is trespassed on.
    fn change(&mut self, region: u8, content: Content) {
        if region == 0 || region == EVERYTHING {
            return;
        }
        self.trespassed |= self.header().names_region(region) || !self.killed && self.names(region);
        self.pairs.iter_mut().filter(|pair| pair.names_region(region)).for_each(|pair| pair.spoilt = true);
        self.regions[usize::from(region) - 1] = content;
    }

    fn names(&self, region: u8) -> bool {
        self.pairs.iter().any(|pair| pair.names_region(region))
    }

    /// What is dirty since a name, by a header.
    fn since(&self, header: &Header, name: usize) -> bool {
        let kept = (name..NAMES).any(|name| header.is_kept(name) && self.dirty_in(header.regions[name]));
        header.spoilt || kept || self.dirty_in(header.region) || self.here
    }

    /// The operator is done, and lets go of its locks.
    fn done(&mut self, who: usize) {
        self.operators[who] = Operator::default();
        self.space = if self.space == who as u8 { FREE } else { self.space };
        self.update = if self.update == who as u8 { FREE } else { self.update };
    }

    /// Regions that the newest header named before, and does not name any more.
    fn give_up(&mut self, before: &Header, after: &Header) {
        let named = before.regions.into_iter().chain([before.region]);
        for region in named.filter(|&region| region != 0 && !after.names_region(region)) {
            self.change(region, Content::Gone);
        }
    }
}

/// Names, with so many kills and power cuts.
#[derive(Clone, Copy)]
struct Names {
    variant: Variant,
    kills: u8,
    cuts: u8,
}

const OK: Names = Names { variant: Variant::Ok, kills: 1, cuts: 1 };

impl Names {
    fn begin(&self, s: &Points, who: usize, to: &mut Steps<Points>) {
        let header = *s.header();
        let mut add = |what: What, name: u8, label: &'static str, pc: Pc| {
            let mut n = *s;
            n.operators[who] = Operator { what, name, pc, ..Operator::default() };
            let space = !(self.variant == Variant::NoSpace && matches!(what, What::Commit | What::Keep));
            if space && pc == Pc::Choose {
                if s.space != FREE {
                    return;
                }
                n.space = who as u8;
            }
            to.add(WHO[who], label, n);
        };
        if header.state == Checkpoint::Normal && usize::from(s.frozen) < NAMES {
            add(What::Freeze, s.frozen, "begins to freeze", Pc::Choose);
        }
        if header.state == Checkpoint::Frozen {
            add(What::Commit, header.name, "begins to commit", Pc::Choose);
            add(What::Keep, header.name, "begins to commit and to keep", Pc::Choose);
        }
        if header.state != Checkpoint::Normal {
            add(What::Abort, header.name, "begins to abort", Pc::Lock);
        }
        for name in (0..NAMES).filter(|&name| header.is_kept(name)) {
            add(What::Drop, name as u8, "begins to drop a name", Pc::Choose);
        }
    }

    /// The name that gets what was frozen.
    fn heir(&self, header: &Header) -> Option<usize> {
        match self.variant {
            Variant::JoinOldest => (0..NAMES).find(|&name| header.is_kept(name)),
            _ => header.newest(),
        }
    }

    /// The two regions that become one, if both are some.
    fn union(&self, header: &Header, what: What, name: u8) -> Option<(u8, u8)> {
        let (older, newer) = match what {
            What::Commit | What::Keep => (self.heir(header)?, header.region),
            What::Drop => (header.older(usize::from(name))?, header.regions[usize::from(name)]),
            _ => return None,
        };
        let left_out = match self.variant {
            Variant::NoJoin | Variant::Replace => what != What::Drop,
            Variant::DropNoJoin => what == What::Drop,
            _ => false,
        };
        let both = (header.regions[older], newer);
        let regions = 1..=REGIONS as u8;
        (regions.contains(&both.0) && regions.contains(&both.1) && !left_out).then_some(both)
    }

    /// The header that ends it; `None` when there is nothing to end any more.
    fn ended(&self, s: &Points, o: &Operator) -> Option<Header> {
        use Checkpoint::{Aborting, Freezing, Frozen, Normal};
        let header = *s.header();
        let mut n = header;
        let give = |n: &mut Header, older: Option<usize>, newer: u8| {
            let Some(older) = older.filter(|_| newer != 0) else { return };
            let everything = n.regions[older] == EVERYTHING && self.variant != Variant::ForgetEverything;
            n.regions[older] = match o.region {
                0 if everything => EVERYTHING,
                0 => newer,
                union => union,
            };
        };
        match o.what {
            What::Freeze => {
                if header.state != Normal {
                    return None;
                }
                (n.state, n.name, n.region) = (Freezing, o.name, o.region);
            }
            What::Commit | What::Keep => {
                if header.name != o.name || header.state != Frozen {
                    return None;
                }
                if self.variant != Variant::NoJoin {
                    give(&mut n, self.heir(&header), header.region);
                }
                n = n.normal();
                if o.what == What::Keep {
                    n.kept |= 1 << o.name;
                }
            }
            What::Abort => {
                if header.name != o.name || header.state != Aborting {
                    return None;
                }
                n = n.normal();
            }
            What::Drop => {
                let name = usize::from(o.name);
                if !header.is_kept(name) {
                    return None;
                }
                if self.variant != Variant::DropNoJoin {
                    give(&mut n, header.older(name), header.regions[name]);
                }
                n.kept &= !(1 << name);
                n.regions[name] = 0;
            }
        }
        n.spoilt = false;
        Some(n)
    }

    fn operator(&self, s: &Points, who: usize, to: &mut Steps<Points>) {
        let o = s.operators[who];
        let mut n = *s;
        let header = *s.header();
        let name = WHO[who];
        let locked = s.update != FREE && s.update != who as u8;
        match o.pc {
            Pc::Idle => self.begin(s, who, to),
            Pc::Choose => {
                let union = self.union(&header, o.what, o.name);
                if o.what != What::Freeze && union.is_none() {
                    n.operators[who].pc = Pc::Lock;
                    return to.add(name, "needs no region", n);
                }
                let free = (1..=REGIONS as u8).find(|&region| !header.names_region(region));
                n.operators[who].region = free.expect("one more than can be named");
                n.operators[who].dirty = match union {
                    Some((older, newer)) => s.dirty_in(older) || s.dirty_in(newer),
                    None => s.here,
                };
                n.operators[who].pc = Pc::Write;
                to.add(name, "chooses a region, and reads", n);
            }
            Pc::Write => {
                n.change(o.region, if o.dirty { Content::Dirty } else { Content::Clean });
                n.unsynced |= 1 << (o.region - 1);
                let unsynced = self.variant == Variant::Unsynced && o.what != What::Freeze;
                n.operators[who].pc = if unsynced { Pc::Lock } else { Pc::Sync };
                to.add(name, "writes the region", n);
            }
            Pc::Sync => {
                n.unsynced &= !(1 << (o.region - 1));
                n.operators[who].pc = Pc::Lock;
                to.add(name, "syncs the region", n);
            }
            Pc::Lock if locked => {}
            Pc::Lock if o.what == What::Abort => {
                if header.name != o.name || header.state == Checkpoint::Normal {
                    n.done(who);
                    return to.add(name, "finds nothing to abort", n);
                }
                let other = 1 - s.newest;
                n.pairs[usize::from(other)] = Header { state: Checkpoint::Aborting, spoilt: false, ..header };
                n.newest = other;
                n.operators[who].pc = Pc::PutBack;
                to.add(name, "commits ABORTING", n);
            }
            Pc::Lock => {
                let Some(ended) = self.ended(s, &o) else {
                    n.done(who);
                    return to.add(name, "finds that it is over", n);
                };
                n.update = who as u8;
                (n.operators[who].header, n.operators[who].pc) = (ended, Pc::FirstPair);
                if self.variant == Variant::FreeFirst {
                    n.give_up(&header, &ended);
                }
                to.add(name, "locks, and looks again", n);
            }
            Pc::PutBack if locked || s.space != FREE => {}
            Pc::PutBack => match self.ended(s, &o) {
                None => {
                    n.done(who);
                    to.add(name, "finds that it was aborted", n);
                }
                Some(ended) => {
                    n.here |= s.dirty_in(header.region);
                    (n.update, n.space) = (who as u8, who as u8);
                    (n.operators[who].header, n.operators[who].pc) = (ended, Pc::FirstPair);
                    to.add(name, "puts back what was frozen", n);
                }
            },
            Pc::FirstPair => {
                let other = 1 - s.newest;
                n.pairs[usize::from(other)] = o.header;
                n.newest = other;
                if o.what == What::Keep {
                    // What was written while it was being frozen is in the point or here, and not owed to this name.
                    n.frozen = n.frozen.max(o.name + 1);
                }
                if o.what == What::Freeze {
                    n.frozen = o.name + 1;
                }
                n.operators[who].pc = Pc::SecondPair;
                if self.variant == Variant::OnePair {
                    n.give_up(&header, &o.header);
                    n.operators[who].pc = Pc::GiveUp;
                }
                to.add(name, "commits to one pair", n);
            }
            Pc::SecondPair => {
                let other = 1 - s.newest;
                n.give_up_after(other, &o.header);
                n.newest = other;
                n.operators[who].pc = Pc::GiveUp;
                to.add(name, "commits to the other pair, and gives up", n);
            }
            Pc::GiveUp => {
                let freezes = o.what == What::Freeze;
                n.done(who);
                if freezes {
                    n.operators[who] = Operator { pc: Pc::Reset, what: o.what, name: o.name, dirty: o.dirty, ..o };
                    n.operators[who].region = 0;
                    n.operators[who].header = Header::default();
                }
                to.add(name, "unlocks", n);
            }
            Pc::Reset | Pc::Promote if locked => {}
            Pc::Reset | Pc::Promote if header.state != Checkpoint::Freezing || header.name != o.name => {
                n.done(who);
                to.add(name, "finds that it was aborted", n);
            }
            Pc::Reset => {
                n.here &= !o.dirty;
                n.operators[who].pc = Pc::Promote;
                to.add(name, "resets what it has frozen", n);
            }
            Pc::Promote => {
                let other = 1 - s.newest;
                n.pairs[usize::from(other)] = Header { state: Checkpoint::Frozen, spoilt: false, ..header };
                n.newest = other;
                // What is written from here on was written after it was frozen.
                n.owed &= !(1 << o.name);
                n.done(who);
                to.add(name, "commits FROZEN", n);
            }
        }
    }
}

impl Points {
    /// The second pair has this header now; what it named before and the first one did not is given up.
    fn give_up_after(&mut self, pair: u8, header: &Header) {
        let before = self.pairs[usize::from(pair)];
        self.pairs[usize::from(pair)] = *header;
        self.give_up(&before, header);
    }
}

impl Model for Names {
    type State = Points;

    fn starts(&self) -> Vec<Points> {
        let none =
            Points { space: FREE, update: FREE, kills_left: self.kills, cuts_left: self.cuts, ..Points::default() };
        vec![none]
    }

    fn steps(&self, s: &Points, to: &mut Steps<Points>) {
        if !s.here || s.owed != (1 << NAMES) - 1 {
            to.add("writer", "writes", Points { here: true, owed: (1 << NAMES) - 1, ..*s });
        }
        for (who, name) in WHO.into_iter().enumerate() {
            self.operator(s, who, to);
            if s.kills_left > 0 && s.operators[who].pc != Pc::Idle {
                let mut n = Points { kills_left: s.kills_left - 1, killed: true, ..*s };
                n.done(who);
                to.add(name, "KILLED", n);
            }
        }
        if s.cuts_left > 0 {
            let mut n = Points { cuts_left: s.cuts_left - 1, killed: true, ..*s };
            (0..OPERATORS).for_each(|who| n.done(who));
            for region in (1..=REGIONS as u8).filter(|region| s.unsynced >> (region - 1) & 1 != 0) {
                n.regions[usize::from(region) - 1] = Content::Gone;
            }
            n.unsynced = 0;
            to.add("power", "CUT", n);
            for region in (1..=REGIONS as u8).filter(|&region| n.header().names_region(region)) {
                let mut header = *n.header();
                let named = header.regions.iter_mut().chain([&mut header.region]);
                named.filter(|named| **named == region).for_each(|named| *named = EVERYTHING);
                to.add("power", "CUT, and a region is repaired that fails", Points { pairs: [header; 2], ..n });
            }
        }
    }

    fn check(&self, s: &Points) -> Result<(), String> {
        if s.trespassed {
            return Err("a region changed that a header names".into());
        }
        for header in &s.pairs {
            for name in (0..NAMES).filter(|&name| header.is_kept(name) && s.owed >> name & 1 != 0) {
                if !s.since(header, name) {
                    return Err(format!("what was written after name {name} was frozen is clean since then"));
                }
            }
        }
        let header = s.header();
        let named = (0..NAMES).map(|name| header.regions[name]).chain([header.region]);
        match named.into_iter().find(|&region| region != 0 && s.content(region) == Content::Gone) {
            Some(region) => Err(format!("the newest header names region {region}, which is gone")),
            None => Ok(()),
        }
    }

    fn show(&self, s: &Points) -> String {
        let h = s.header();
        format!(
            "here {} owed {:03b} | names {:03b} {:?}, {:?} of {} in {} | regions {:?}",
            u8::from(s.here),
            s.owed,
            h.kept,
            h.regions,
            h.state,
            h.name,
            h.region,
            s.regions
        )
    }
}

#[test]
fn since_a_name_is_all_that_was_written_after_it_was_frozen() {
    holds("no fault", &Names { kills: 0, cuts: 0, ..OK }, 71_372);
    holds("a kill", &Names { cuts: 0, ..OK }, 329_712);
    holds("a power cut", &Names { kills: 0, ..OK }, 335_739);
    holds("a kill and a power cut", &OK, 1_219_213);
}

/// 100 MB, 10 s.
#[test]
#[ignore = "large"]
fn since_a_name_is_all_that_was_written_after_it_was_frozen_whoever_dies() {
    holds("two kills and a power cut", &Names { kills: 2, ..OK }, 2_506_747);
}

#[test]
fn each_rule_is_needed() {
    for (variant, steps) in [
        (Variant::NoJoin, 30),
        (Variant::JoinOldest, 45),
        (Variant::Replace, 45),
        (Variant::DropNoJoin, 51),
        (Variant::Unsynced, 47),
        (Variant::OnePair, 11),
        (Variant::FreeFirst, 13),
        (Variant::NoSpace, 17),
        (Variant::ForgetEverything, 45),
    ] {
        breaks(&format!("{variant:?}"), &Names { variant, ..OK }, steps);
    }
}
