//! Model of live snapshots: which rules a server needs so that a snapshot is one moment of the image, survives SIGKILL of
//! the server without a sync, and is dropped, and never wrong, when a page cache was lost.
//!
//! Whoever writes the image copies old bytes to *scratch* first, then an entry to its *index*, then writes the image. Two
//! granules of two sectors; two writer threads with guest writes that clients repeat after a restart; a control thread
//! that creates, commits and aborts; a backup that reads the snapshot and says that it is done with a granule; SIGKILL
//! between any two steps; a power cut, an image or scratch file system that is mounted anew, failed write-back of scratch;
//! other processes that freeze or abort on the shared map.
//!
//! Checked in every state: what is frozen is a moment; base and increments restore to one; each read of the snapshot returns
//! it, whichever server answers; what differs from the last backup is dirty here or in the point; somebody can move; no
//! checkpoint is left that nobody serves.
//!
//! Not modelled: entering an era in two steps; writes over several granules; the order of calls inside of one copy; torn
//! entries; write-back of the image that fails; several maps.

#[path = "model/explore.rs"]
mod explore;

use explore::{Model, Packing, State, Steps, breaks, holds, program_counter};

/// Steps of a writer. Those of the copy are passed over where none is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum W {
    Register,
    Mark,
    Load,
    Check,
    Copy0,
    Copy1,
    Index,
    Image0,
    Image1,
    Leave,
}

/// Steps of the control thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum C {
    Prepare,
    On,
    DrainAll,
    Capture0,
    Capture1,
    Freezing,
    Reset0,
    Reset1,
    Drain,
    Remark,
    Ready,
    Frozen,
    Return,
    SyncImage,
    Normal,
    Off,
    Remove,
    Aborting,
    PutBack,
}

use C::*;
use W::*;

const WRITER: &[W] = &[Register, Mark, Load, Check, Copy0, Copy1, Index, Image0, Image1, Leave];
const CREATE: &[C] = &[Prepare, On, Capture0, Capture1, Freezing, Reset0, Reset1, Drain, Remark, Ready, Frozen, Return];
const COMMIT: &[C] = &[SyncImage, Normal, Off, Remove];
const ABORT: &[C] = &[Aborting, PutBack, Off, Remove];

/// What keeps a copy and a write that began before the moment out of each other's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Old {
    /// A copy waits until no old writer runs.
    Barrier,
    /// Old writers take the granule's lock, too.
    Locks,
    Nothing,
    /// Nothing; and a copy may have half of a write.
    TornIsFine,
}

/// What writers that begin after the moment wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pause {
    Nothing,
    UntilReset,
    UntilFrozen,
    /// For FROZEN, after they have registered.
    Inside,
}

/// What keeps a reader and a writer out of each other's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// The reader looks again.
    After,
    /// The granule's lock.
    Exclude,
    Before,
}

/// How a backup says that it is done with a granule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trim {
    /// In the index, then scratch is freed, under the granule's lock.
    Recorded,
    InMemory,
    FreesFirst,
    NoLock,
}

program_counter! {
    /// What the map says of its checkpoint.
    enum Map { Normal, Freezing, Frozen, Aborting }
}

program_counter! {
    /// What the header of scratch says.
    enum Head { None, Prepared, Ready, Broken }
}

program_counter! {
    enum Entry { None, Copied, Done }
}

program_counter! {
    /// What the control thread is at.
    enum Task { Idle, Create, Commit, Abort }
}

program_counter! {
    enum ReadPc { Idle, Sector0, Sector1, Look, Free }
}

/// Somebody else's checkpoint; ours are 1 and 2.
const FOREIGN: u8 = 3;
/// A scratch sector without old bytes. Guest writes are 1 to 3, and 0 is what image and base had at first.
const HOLE: u8 = 4;

// Evidence of lost pages that a server that takes over looks at.
const BOOT: u8 = 1;
const IMAGE_MOUNT: u8 = 2;
const SCRATCH_MOUNT: u8 = 4;
const WRITE_BACK: u8 = 8;

const NO_MOMENT: u8 = 1;
const RESTORES_WRONG: u8 = 2;
const MISREAD: u8 = 3;
const OVERLAPS: u8 = 4;
const STUCK: u8 = 5;
const DIFFER: u8 = 6;
const WHY: [&str; 7] = [
    "",
    "the snapshot is no consistent moment",
    "base and increments restore to no consistent moment",
    "a snapshot read returns something else than the moment",
    "a copy overlaps a write of the granule",
    "nobody can move",
    "the snapshot and the restored backup differ",
];

/// The protocol, what happens to it, and what is wrong with a variant.
#[derive(Clone, Copy)]
struct Snapshots {
    writer: &'static [W],
    create: &'static [C],
    commit: &'static [C],
    abort: &'static [C],
    /// The whole image is asked for, not only what is frozen dirty.
    whole: bool,
    old: Old,
    look: Look,
    trim: Trim,
    pause: Pause,
    /// A granule is copied by one writer at a time, who looks again.
    copy_lock: bool,
    /// Up to this step of a creation everything is copied, as nobody knows yet what will be frozen.
    window: Option<C>,
    /// A copy that fails is recorded before the image is written.
    record_broken: bool,
    /// A write may reach the image after its process is dead.
    outlive: bool,
    /// Evidence of lost pages that is not looked at.
    trust: u8,
    /// The uuid in the header of scratch is compared with the map's.
    compare_uuid: bool,
    /// The map's point says itself that it is a snapshot's.
    owned: bool,
    /// From looking for NORMAL until FREEZING the space lock is held, which other freezers take.
    space: bool,
    /// Others have the map open all the time, so nobody who opens it aborts what is FREEZING.
    joins: bool,
    /// Reads of scratch verify the entry's checksum over the data.
    checksum: bool,
    /// A server that takes over says so in the header before it asks for failed write-back.
    ask_marked: bool,
    /// It also marks what has an entry.
    remark_on_takeover: bool,
    /// What is dirty at first: nothing, and with 2 also one granule.
    starts: usize,
    writes: u8,
    kills: u8,
    cuts: u8,
    snaps: u8,
    /// Copies that fail.
    fails: u8,
    /// Steps of other processes.
    foreign: u8,
    /// Pages of scratch that are lost.
    losses: u8,
}

const OK: Snapshots = Snapshots {
    writer: WRITER,
    create: CREATE,
    commit: COMMIT,
    abort: ABORT,
    whole: false,
    old: Old::Barrier,
    look: Look::After,
    trim: Trim::Recorded,
    pause: Pause::Nothing,
    copy_lock: true,
    window: Some(Freezing),
    record_broken: true,
    outlive: false,
    trust: 0,
    compare_uuid: true,
    owned: true,
    space: true,
    joins: false,
    checksum: false,
    ask_marked: true,
    remark_on_takeover: false,
    starts: 2,
    writes: 2,
    kills: 1,
    cuts: 0,
    snaps: 1,
    fails: 0,
    foreign: 0,
    losses: 0,
};

type Sectors = [[u8; 2]; 2];

#[derive(Clone, Copy, Default)]
struct World {
    // The guests.
    /// Writes begun.
    begun: u8,
    /// Of each, its granule, and which were complete when it began.
    granule: [u8; 4],
    before: [u8; 4],
    /// Which are complete; which of those a lost page cache may have taken back; those complete when the snapshot was asked
    /// for.
    complete: u8,
    void: u8,
    must: u8,
    // Writer threads.
    /// The next step: 0 idle, 1 waits for a server, then that of the list.
    pc: [u8; 2],
    id: [u8; 2],
    /// It saw a snapshot.
    sees: [bool; 2],
    /// Its bracket; 2: a freeze waits for it.
    bracket: [u8; 2],
    copying: [bool; 2],
    // Files as the page cache has them; for the image also what the disk may have; evidence of lost pages.
    image: Sectors,
    disk: Sectors,
    scratch: Sectors,
    index: [Entry; 2],
    head: Head,
    head_uuid: u8,
    lost: u8,
    // The map.
    here: [bool; 2],
    frozen: [bool; 2],
    state: Map,
    uuid: u8,
    // The server's memory.
    up: bool,
    /// Copying is on.
    on: bool,
    served: bool,
    broken: bool,
    known: [Entry; 2],
    lock: [u8; 2],
    captured: [bool; 2],
    /// The checkpoint that it takes for its own.
    own: u8,
    task: Task,
    task_pc: u8,
    // The backup: its granule and source, whether all was as it should be; granules it has.
    reader: ReadPc,
    reads: u8,
    from_scratch: bool,
    right: bool,
    read: [bool; 2],
    /// A dead process's write on its way.
    late: u8,
    /// What the snapshot is, by the history; what base and increments restore to.
    moment: Sectors,
    base: Sectors,
    kills: u8,
    cuts: u8,
    snaps: u8,
    fails: u8,
    foreign: u8,
    losses: u8,
    /// What is wrong, as an index of `WHY`.
    bad: u8,
}

impl State for World {
    type Key = [u64; 3];

    fn fields<P: Packing>(&mut self, p: &mut P) {
        p.field(&mut self.begun, 2);
        for i in 1..4 {
            p.field(&mut self.granule[i], 1);
            p.field(&mut self.before[i], 4);
        }
        p.field(&mut self.complete, 4);
        p.field(&mut self.void, 4);
        p.field(&mut self.must, 4);
        for i in 0..2 {
            p.field(&mut self.pc[i], 4);
            p.field(&mut self.id[i], 2);
            p.field(&mut self.sees[i], 1);
            p.field(&mut self.bracket[i], 2);
            p.field(&mut self.copying[i], 1);
            p.field(&mut self.index[i], 2);
            p.field(&mut self.here[i], 1);
            p.field(&mut self.frozen[i], 1);
            p.field(&mut self.known[i], 2);
            p.field(&mut self.lock[i], 2);
            p.field(&mut self.captured[i], 1);
            p.field(&mut self.read[i], 1);
            for h in 0..2 {
                p.field(&mut self.image[i][h], 2);
                p.field(&mut self.disk[i][h], 4);
                p.field(&mut self.scratch[i][h], 3);
                p.field(&mut self.moment[i][h], 2);
                p.field(&mut self.base[i][h], 2);
            }
        }
        p.field(&mut self.head, 2);
        p.field(&mut self.head_uuid, 2);
        p.field(&mut self.lost, 4);
        p.field(&mut self.state, 2);
        p.field(&mut self.uuid, 2);
        p.field(&mut self.up, 1);
        p.field(&mut self.on, 1);
        p.field(&mut self.served, 1);
        p.field(&mut self.broken, 1);
        p.field(&mut self.own, 2);
        p.field(&mut self.task, 2);
        p.field(&mut self.task_pc, 4);
        p.field(&mut self.reader, 3);
        p.field(&mut self.reads, 1);
        p.field(&mut self.from_scratch, 1);
        p.field(&mut self.right, 1);
        p.field(&mut self.late, 2);
        p.field(&mut self.kills, 2);
        p.field(&mut self.cuts, 1);
        p.field(&mut self.snaps, 2);
        p.field(&mut self.fails, 1);
        p.field(&mut self.foreign, 2);
        p.field(&mut self.losses, 1);
        p.field(&mut self.bad, 3);
    }
}

/// A bit of what a byte holds.
fn has(set: u8, i: u8) -> bool {
    set >> i & 1 == 1
}

impl World {
    fn fail(&mut self, why: u8) {
        if self.bad == 0 {
            self.bad = why;
        }
    }

    /// Whether these contents hold a set of writes that is closed: with a write also each that was complete when it began, and
    /// all that were complete when the snapshot was asked for. Of a write that is concurrent with the moment each sector may be
    /// in or out. `looked`: the granules that count.
    fn closed(&self, contents: &Sectors, looked: [bool; 2]) -> bool {
        let seen = (0..2).filter(|&g| looked[g]).flat_map(|g| contents[g]);
        let needed = seen.fold(self.must, |n, v| n | self.before[usize::from(v)]) & !self.void;
        (1..4).filter(|&w| has(needed, w)).all(|w| {
            let g = usize::from(self.granule[usize::from(w)]);
            let later = |v: u8| v == w || v != 0 && !has(self.before[usize::from(w)], v);
            !looked[g] || contents[g].iter().all(|&v| later(v))
        })
    }

    /// What a reader of the snapshot gets of a granule.
    fn seen(&self, g: usize) -> [u8; 2] {
        if self.known[g] == Entry::Copied { self.scratch[g] } else { self.image[g] }
    }

    /// The server dies.
    fn die(&mut self, m: &Snapshots) {
        for i in 0..2 {
            let writes = self.pc[i] > 1 && matches!(m.writer[usize::from(self.pc[i]) - 2], Image0 | Image1);
            if m.outlive && self.late == 0 && writes {
                self.late = self.id[i];
            }
            self.pc[i] = self.pc[i].min(1);
        }
        (self.sees, self.bracket, self.copying, self.known, self.lock, self.captured) = Default::default();
        (self.up, self.on, self.served, self.broken, self.own, self.task, self.task_pc) = Default::default();
        self.forget_read();
        self.must = 0;
    }

    fn forget_read(&mut self) {
        (self.reader, self.reads, self.from_scratch, self.right) = Default::default();
    }

    fn put_back(&mut self) {
        for g in 0..2 {
            self.here[g] |= self.frozen[g];
        }
        (self.state, self.uuid, self.frozen) = Default::default();
    }

    fn forget_snapshot(&mut self) {
        (self.head, self.head_uuid, self.index, self.read) = Default::default();
        (self.moment, self.must, self.lost) = Default::default();
        self.scratch = [[HOLE; 2]; 2];
    }

    fn ours(&self) -> bool {
        self.own != 0 && self.uuid == self.own
    }
}

impl Snapshots {
    fn at(&self, step: C) -> u8 {
        self.create.iter().position(|x| *x == step).expect("a step of the creation") as u8
    }

    fn creates(&self, s: &World, from: C, to: C) -> bool {
        s.task == Task::Create && s.task_pc > self.at(from) && s.task_pc <= self.at(to)
    }

    /// Whether the snapshot needs the old bytes of a granule. What is frozen is known from FREEZING on.
    fn needs(&self, s: &World, g: usize) -> bool {
        let window = self.window.is_some_and(|last| s.task == Task::Create && s.task_pc <= self.at(last));
        s.on && !s.broken && s.known[g] == Entry::None && (self.whole || window || s.captured[g])
    }

    /// The writer goes on behind step `at`.
    fn passed(&self, mut t: World, i: usize, at: usize) -> World {
        let mut next = at + 1;
        while matches!(self.writer[next], Copy0 | Copy1 | Index) && !t.copying[i] {
            next += 1;
        }
        t.pc[i] = next as u8 + 2;
        t
    }

    fn submits(&self, s: &World, i: usize, to: &mut Steps<World>) {
        if s.begun == self.writes {
            return;
        }
        for g in 0..2 {
            let mut t = World { begun: s.begun + 1, ..*s };
            (t.id[i], t.pc[i]) = (t.begun, 1);
            let id = usize::from(t.begun);
            (t.granule[id], t.before[id]) = (g, s.complete);
            to.add(WRITERS[i], ["guest submits, granule 0", "guest submits, granule 1"][usize::from(g)], t);
        }
    }

    fn writer(&self, s: &World, i: usize, to: &mut Steps<World>) {
        if s.pc[i] == 0 {
            return self.submits(s, i, to);
        }
        if !s.up {
            return;
        }
        let (mut t, who, other) = (*s, WRITERS[i], 1 - i);
        let at = usize::from(s.pc[i].max(2)) - 2;
        let id = s.id[i];
        let g = usize::from(s.granule[usize::from(id)]);
        // The other thread writes, and saw no snapshot; it is half-way in this granule.
        let loaded = self.writer.iter().position(|w| *w == Load).expect("a step of the writer") + 2;
        let old_runs = usize::from(s.pc[other]) > loaded && !s.sees[other];
        let half = usize::from(s.granule[usize::from(s.id[other])]) == g
            && s.pc[other] > 1
            && self.writer[usize::from(s.pc[other]) - 2] == Image1;
        let op = self.writer[at];
        let creating = s.task == Task::Create && s.on;
        let what = match op {
            Register => {
                let waits =
                    self.pause == Pause::UntilFrozen || self.pause == Pause::UntilReset && s.task_pc <= self.at(Reset1);
                if waits && creating {
                    return;
                }
                t.bracket[i] = 1;
                "registers"
            }
            Load => {
                t.sees[i] = s.on;
                if s.on { "sees the snapshot" } else { "sees no snapshot" }
            }
            Mark => {
                if self.pause == Pause::Inside && creating {
                    return;
                }
                t.here[g] = true;
                "marks here"
            }
            Check => {
                if self.copy_lock && s.sees[i] && s.lock[g] != 0 {
                    return;
                }
                if s.sees[i] && self.needs(s, g) {
                    if old_runs && (self.old == Old::Barrier || self.old == Old::Locks && half) {
                        return;
                    }
                    if self.copy_lock {
                        t.lock[g] = 1 + i as u8;
                    }
                    t.copying[i] = true;
                    "must copy"
                } else {
                    "need not copy"
                }
            }
            Copy0 | Copy1 => {
                if s.fails > 0 {
                    let failed = self.copy_failed(&t, i, g);
                    to.add(who, "copy fails: the snapshot is broken", self.passed(failed, i, at));
                }
                let h = usize::from(op == Copy1);
                t.scratch[g][h] = s.image[g][h];
                if half && self.old != Old::TornIsFine && s.on {
                    t.fail(OVERLAPS);
                }
                ["copies sector 0", "copies sector 1"][h]
            }
            Index => {
                (t.index[g], t.known[g], t.copying[i]) = (Entry::Copied, Entry::Copied, false);
                if self.copy_lock {
                    t.lock[g] = 0;
                }
                "index entry"
            }
            Image0 | Image1 => {
                if self.old == Old::Locks && op == Image0 && !s.sees[i] && s.lock[g] != 0 {
                    return;
                }
                let h = usize::from(op == Image1);
                t.image[g][h] = id;
                if self.cuts > 0 {
                    t.disk[g][h] |= 1 << id;
                }
                ["writes sector 0 of the image", "writes sector 1 of the image"][h]
            }
            Leave => {
                (t.bracket[i], t.sees[i], t.pc[i], t.id[i]) = Default::default();
                t.complete |= 1 << id;
                return to.add(who, "leaves; the guest's write is complete", t);
            }
        };
        to.add(who, what, self.passed(t, i, at));
    }

    fn copy_failed(&self, s: &World, i: usize, g: usize) -> World {
        let mut t = World { fails: 0, broken: true, ..*s };
        t.copying[i] = false;
        if self.record_broken {
            t.head = Head::Broken;
        }
        if self.copy_lock {
            t.lock[g] = 0;
        }
        t
    }

    fn control(&self, s: &World, to: &mut Steps<World>) {
        let who = "control";
        let program = match s.task {
            Task::Idle => return self.asked(s, to),
            Task::Create => self.create,
            Task::Commit => self.commit,
            Task::Abort => self.abort,
        };
        let op = program[usize::from(s.task_pc)];
        let mut t = *s;
        let Some(done) = self.control_step(op, s, &mut t) else { return };
        let Ok(what) = done else {
            // Who fails aborts, which needs no checkpoint of ours.
            (t.task, t.task_pc) = (Task::Abort, 0);
            return to.add(who, "fails, and aborts", t);
        };
        let last = usize::from(s.task_pc) + 1 == program.len();
        (t.task, t.task_pc) = if last { (Task::Idle, 0) } else { (s.task, s.task_pc + 1) };
        to.add(who, what, t);
    }

    fn asked(&self, s: &World, to: &mut Steps<World>) {
        let begin = |task: Task| World { task, task_pc: 0, ..*s };
        if s.snaps > 0 && s.own == 0 && s.state == Map::Normal {
            let must = s.complete & !s.void;
            to.add("control", "asked for a snapshot", World { must, ..begin(Task::Create) });
        }
        let all = (0..2).all(|g| s.read[g] || !s.captured[g] && !self.whole);
        if s.served && !s.broken && all {
            to.add("control", "asked to commit", begin(Task::Commit));
        }
        if s.own != 0 {
            to.add("control", "asked to abort", begin(Task::Abort));
        }
    }

    /// One step, done in `t`: `None` if it has to wait, an error if it fails.
    fn control_step(&self, op: C, s: &World, t: &mut World) -> Option<Result<&'static str, ()>> {
        let when = |right: bool| if right { Ok(()) } else { Err(()) };
        let done = match op {
            Prepare => {
                t.forget_snapshot();
                (t.must, t.snaps, t.own, t.head) = (s.must, s.snaps - 1, self.snaps - s.snaps + 1, Head::Prepared);
                t.known = Default::default();
                Ok("makes the files of scratch")
            }
            On => {
                t.on = true;
                Ok("copying is on: the moment")
            }
            DrainAll => {
                if s.bracket != [0; 2] {
                    return None;
                }
                Ok("nobody is in a bracket")
            }
            Capture0 => {
                let right = !self.space || s.state == Map::Normal;
                t.captured[0] = s.here[0] && right;
                when(right).map(|()| "writes granule 0 to the point")
            }
            Capture1 => {
                t.captured[1] = s.here[1];
                Ok("writes granule 1 to the point")
            }
            Freezing => when(s.state == Map::Normal).map(|()| {
                (t.state, t.uuid, t.frozen) = (Map::Freezing, s.own, s.captured);
                "FREEZING"
            }),
            Reset0 | Reset1 => {
                let g = usize::from(op == Reset1);
                when(s.ours() && s.state == Map::Freezing).map(|()| {
                    t.here[g] &= !s.frozen[g];
                    if g == 1 {
                        t.bracket = s.bracket.map(|bracket| if bracket == 1 { 2 } else { bracket });
                    }
                    ["resets granule 0 here", "resets granule 1 here"][g]
                })
            }
            Drain => {
                if s.bracket.contains(&2) {
                    return None;
                }
                Ok("nobody is in a bracket from before the reset")
            }
            Remark => {
                (0..2).filter(|&g| s.known[g] != Entry::None).for_each(|g| t.here[g] = true);
                Ok("marks here what has an entry")
            }
            Ready => {
                let head = if s.head == Head::Broken { Head::Broken } else { Head::Ready };
                (t.head, t.head_uuid) = (head, s.own);
                Ok("scratch says READY, with the uuid")
            }
            Frozen => when(s.ours() && s.state == Map::Freezing && !s.broken).map(|()| {
                self.freeze(s, t);
                "FROZEN"
            }),
            Return => {
                t.served = true;
                Ok("the snapshot is served")
            }
            SyncImage => {
                if self.cuts > 0 {
                    t.disk = s.image.map(|g| g.map(|v| 1 << v));
                }
                Ok("syncs the image")
            }
            Normal => when(s.ours() && s.state == Map::Frozen && !s.broken).map(|()| {
                (0..2).filter(|&g| s.frozen[g]).for_each(|g| t.base[g] = s.moment[g]);
                (t.state, t.uuid, t.frozen) = Default::default();
                "NORMAL: the backup is committed"
            }),
            Aborting => {
                if s.ours() {
                    t.state = Map::Aborting;
                }
                Ok("ABORTING")
            }
            PutBack => {
                if s.ours() && s.state == Map::Aborting {
                    t.put_back();
                }
                Ok("puts back, NORMAL")
            }
            Off => {
                (t.on, t.served) = (false, false);
                Ok("copying is off")
            }
            Remove => {
                self.remove(t);
                Ok("removes the files of scratch")
            }
        };
        Some(done)
    }

    /// FROZEN is committed: what is the moment?
    fn freeze(&self, s: &World, t: &mut World) {
        t.state = Map::Frozen;
        if (0..2).any(|g| s.seen(g).contains(&HOLE)) {
            return t.fail(MISREAD);
        }
        let wanted = s.frozen.map(|frozen| self.whole || frozen);
        t.moment = [0, 1].map(|g| if wanted[g] { s.seen(g) } else { [0; 2] });
        let restored = [0, 1].map(|g| if s.frozen[g] { s.seen(g) } else { s.base[g] });
        if self.whole && restored != t.moment {
            t.fail(DIFFER);
        }
        if !s.closed(&t.moment, wanted) {
            t.fail(NO_MOMENT);
        }
        if !s.closed(&restored, [true; 2]) {
            t.fail(RESTORES_WRONG);
        }
        t.must = 0;
    }

    fn remove(&self, t: &mut World) {
        t.forget_snapshot();
        (t.own, t.broken, t.known, t.captured) = Default::default();
        (t.sees, t.copying, t.lock) = Default::default();
        t.forget_read();
        // Who still copies does so into a file without a name. For the next snapshot they are old writers.
        for i in 0..2 {
            if t.pc[i] > 2 {
                *t = self.passed(*t, i, usize::from(t.pc[i]) - 3);
            }
        }
    }

    fn backup(&self, s: &World, to: &mut Steps<World>) {
        if !s.up {
            return;
        }
        let (mut t, who, g) = (*s, "backup", usize::from(s.reads));
        match s.reader {
            ReadPc::Idle if s.served && !s.broken => (0..2).for_each(|g| self.begin_read(s, g, to)),
            ReadPc::Idle => {}
            ReadPc::Sector0 | ReadPc::Sector1 => {
                let h = usize::from(s.reader == ReadPc::Sector1);
                let found = if s.from_scratch { s.scratch[g][h] } else { s.image[g][h] };
                if s.from_scratch && found == HOLE && self.checksum && s.known[g] == Entry::Copied {
                    (t.broken, t.head) = (true, Head::Broken);
                    t.forget_read();
                    return to.add(who, "the checksum does not match: broken", t);
                }
                t.right &= found == s.moment[g][h];
                t.reader = [ReadPc::Sector1, ReadPc::Look][h];
                to.add(who, ["reads sector 0", "reads sector 1"][h], t);
            }
            ReadPc::Look => {
                if self.look == Look::Exclude && !s.from_scratch {
                    t.lock[g] = 0;
                }
                t.forget_read();
                let moved = self.look == Look::After && s.known[g] as u8 != u8::from(s.from_scratch);
                if moved || s.broken || !s.served {
                    return to.add(who, "looks again: it has moved", t);
                }
                t.read[g] = true;
                if !s.right {
                    t.fail(MISREAD);
                }
                to.add(who, "looks again: it has it", t);
            }
            ReadPc::Free => {
                if self.trim == Trim::FreesFirst {
                    t.index[g] = Entry::Done;
                } else {
                    t.scratch[g] = [HOLE; 2];
                }
                t.forget_read();
                to.add(who, "frees its scratch", t);
            }
        }
    }

    /// The backup looks where a granule is, and is refused what is done or not frozen. It may read again what it has, or say
    /// that it is done with it.
    fn begin_read(&self, s: &World, g: usize, to: &mut Steps<World>) {
        let from_scratch = s.known[g] == Entry::Copied;
        let mut t = World { reads: g as u8, right: true, reader: ReadPc::Sector0, from_scratch, ..*s };
        let excludes = self.look == Look::Exclude && !from_scratch;
        if excludes {
            t.lock[g] = 3;
        }
        let refused = s.known[g] == Entry::Done || !s.captured[g] && !self.whole || excludes && s.lock[g] != 0;
        if !refused {
            to.add("backup", if from_scratch { "will read scratch" } else { "will read the image" }, t);
        }
        if !s.read[g] || s.known[g] == Entry::Done || s.lock[g] != 0 && self.trim != Trim::NoLock {
            return;
        }
        let mut t = World { reader: ReadPc::Free, reads: g as u8, ..*s };
        t.known[g] = Entry::Done;
        match self.trim {
            Trim::InMemory => t.forget_read(),
            Trim::FreesFirst => t.scratch[g] = [HOLE; 2],
            Trim::Recorded | Trim::NoLock => t.index[g] = Entry::Done,
        }
        to.add("backup", "TRIM: done with it", t);
    }

    /// A server that takes over: opens the map, which aborts what is not FROZEN; then serves the snapshot or drops it.
    fn take_over(&self, s: &World) -> World {
        let mut t = World { up: true, ..*s };
        if matches!(t.state, Map::Freezing | Map::Aborting) && !self.joins {
            t.put_back();
        }
        let same = t.uuid == t.head_uuid || !self.compare_uuid;
        if t.state == Map::Frozen && t.head == Head::Ready && same && t.lost & !self.trust == 0 {
            (t.on, t.served, t.own, t.known, t.captured) = (true, true, t.uuid, t.index, t.frozen);
            for g in 0..2 {
                t.here[g] |= self.remark_on_takeover && t.index[g] != Entry::None;
                let caught = t.known[g] == Entry::Copied && t.scratch[g].contains(&HOLE) && self.checksum;
                let wanted = (self.whole || t.frozen[g]) && t.known[g] != Entry::Done;
                if wanted && !caught && t.seen(g) != t.moment[g] {
                    t.fail(MISREAD);
                }
            }
            return t;
        }
        let ours = t.uuid != FOREIGN && (self.owned || t.head != Head::None && t.head_uuid == t.uuid);
        if t.state != Map::Normal && ours {
            t.put_back();
        }
        t.forget_snapshot();
        t
    }

    /// A power cut, or one of the two file systems mounted anew while no server runs.
    fn lose(&self, s: &World, to: &mut Steps<World>) {
        const KINDS: [(u8, &str); 3] = [
            (BOOT, "power cut"),
            (IMAGE_MOUNT, "the image's file system is mounted anew"),
            (SCRATCH_MOUNT, "scratch's file system is mounted anew"),
        ];
        for (kind, name) in KINDS.into_iter().filter(|kind| kind.0 == BOOT || !s.up) {
            let mut t = World { cuts: s.cuts - 1, lost: s.lost | kind, ..*s };
            if kind == BOOT {
                t.die(self);
            }
            if kind != SCRATCH_MOUNT {
                t.void |= s.complete;
            }
            let mut left = vec![t];
            for (g, h) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().filter(|_| kind != SCRATCH_MOUNT) {
                let had = |t: World| (0..4).filter(|&v| has(s.disk[g][h], v)).map(move |v| (t, v));
                left = left
                    .into_iter()
                    .flat_map(had)
                    .map(|(mut t, v)| {
                        (t.image[g][h], t.disk[g][h]) = (v, 1 << v);
                        t
                    })
                    .collect();
            }
            let (scratch, trusted) = (kind != IMAGE_MOUNT, self.trust & kind != 0);
            for t in left {
                // What is trusted may have lost any page.
                for gone in 0..if scratch && trusted { 16 } else { 1 } {
                    let mut t = t;
                    for g in 0..2 {
                        if has(gone, g) {
                            t.index[usize::from(g)] = Entry::None;
                        }
                        if has(gone, 2 + g) {
                            t.scratch[usize::from(g)] = [HOLE; 2];
                        }
                    }
                    if scratch && !trusted {
                        (t.head, t.head_uuid, t.index, t.scratch) = (Head::None, 0, Default::default(), [[HOLE; 2]; 2]);
                    }
                    to.add("kernel", name, t);
                }
            }
        }
    }

    fn kernel(&self, s: &World, to: &mut Steps<World>) {
        if s.up && s.kills > 0 {
            let mut t = World { kills: s.kills - 1, ..*s };
            t.die(self);
            to.add("kernel", "SIGKILL of the server", t);
        }
        if !s.up {
            to.add("server", "takes over", self.take_over(s));
        }
        if !s.up && s.kills > 0 && s.lost & WRITE_BACK != 0 {
            let head = if self.ask_marked { Head::Broken } else { s.head };
            let t = World { kills: s.kills - 1, lost: s.lost & !WRITE_BACK, head, ..*s };
            to.add("server", "asks, is told of failed write-back, and is killed", t);
        }
        if s.late != 0 {
            let mut t = World { late: 0, ..*s };
            t.image[usize::from(s.granule[usize::from(s.late)])] = [s.late; 2];
            to.add("kernel", "the dead server's write arrives", t);
        }
        if s.cuts > 0 {
            self.lose(s, to);
        }
        for g in 0..2 {
            if s.losses == 0 || s.state != Map::Frozen || s.uuid != s.own {
                continue;
            }
            let t = World { losses: 0, lost: s.lost | WRITE_BACK, ..*s };
            let (mut data, mut index) = (t, t);
            (data.scratch[g], index.index[g]) = ([HOLE; 2], Entry::None);
            if data.scratch != s.scratch {
                to.add("kernel", "scratch data lost: write-back failed", data);
            }
            if index.index != s.index {
                to.add("kernel", "index page lost: write-back failed", index);
            }
        }
    }

    fn others(&self, s: &World, to: &mut Steps<World>) {
        let space = self.space && self.creates(s, Capture0, Freezing);
        if s.foreign == 0 || space {
            return;
        }
        let mut t = World { foreign: s.foreign - 1, ..*s };
        if s.state == Map::Normal {
            (t.frozen, t.here, t.state, t.uuid) = (s.here, [false; 2], Map::Frozen, FOREIGN);
            return to.add("another process", "freezes the shared map", t);
        }
        t.put_back();
        to.add("another process", "aborts the checkpoint", t);
    }
}

const WRITERS: [&str; 2] = ["writer 0", "writer 1"];

impl Model for Snapshots {
    type State = World;

    fn starts(&self) -> Vec<World> {
        let start = World {
            up: true,
            kills: self.kills,
            cuts: self.cuts,
            snaps: self.snaps,
            fails: self.fails,
            foreign: self.foreign,
            losses: self.losses,
            scratch: [[HOLE; 2]; 2],
            disk: [[u8::from(self.cuts > 0); 2]; 2],
            ..World::default()
        };
        let dirty = [[false; 2], [true, false]];
        dirty.into_iter().take(self.starts).map(|here| World { here, ..start }).collect()
    }

    fn steps(&self, s: &World, to: &mut Steps<World>) {
        let mut moves = Steps::new();
        for i in 0..2 {
            self.writer(s, i, if s.pc[i] > 0 { &mut moves } else { to });
        }
        if s.up {
            self.control(s, if s.task == Task::Idle { to } else { &mut moves });
        }
        self.backup(s, if s.reader == ReadPc::Idle { to } else { &mut moves });
        let mut stuck = s.up && (s.pc != [0, 0] || s.task != Task::Idle);
        for ((who, what), t) in moves.drain() {
            stuck = false;
            to.add(who, what, t);
        }
        if stuck {
            let mut t = *s;
            t.fail(STUCK);
            to.add("everybody", "waits", t);
        }
        // A freeze that waits too long gives up.
        if s.task == Task::Create && self.create[usize::from(s.task_pc)] == Drain {
            to.add("control", "gives up, and aborts", World { task: Task::Abort, task_pc: 0, ..*s });
        }
        self.kernel(s, to);
        self.others(s, to);
    }

    fn check(&self, s: &World) -> Result<(), String> {
        if s.bad != 0 {
            return Err(WHY[usize::from(s.bad)].into());
        }
        for g in 0..2 {
            let differs = (0..2).any(|h| s.image[g][h] != s.base[g][h] || s.disk[g][h] & !(1 << s.base[g][h]) != 0);
            if differs && !s.here[g] && !(s.state != Map::Normal && s.frozen[g]) {
                return Err(format!("a change of granule {g} is forgotten"));
            }
        }
        let idle = s.up && s.task == Task::Idle && !s.served && !s.broken;
        if idle && s.state != Map::Normal && s.uuid != FOREIGN {
            return Err("a checkpoint is left that nobody serves, commits or aborts".into());
        }
        Ok(())
    }

    fn show(&self, s: &World) -> String {
        let set = |bits: [bool; 2]| bits.map(u8::from);
        format!(
            "image {:?} scratch {:?} index {:?} {:?} of {} | {:?} of {} here {:?} frozen {:?} | writers {:?} see {:?}{}",
            s.image,
            s.scratch,
            s.index,
            s.head,
            s.head_uuid,
            s.state,
            s.uuid,
            set(s.here),
            set(s.frozen),
            s.pc,
            set(s.sees),
            if s.broken { " broken" } else { "" }
        )
    }
}

/// The protocol, and forms of it that hold as well.
mod forms {
    use super::*;

    const MARK_LAST: &[W] = &[Register, Load, Check, Copy0, Copy1, Index, Mark, Image0, Image1, Leave];
    const PAUSED: Snapshots = Snapshots { create: super::PAUSED, window: None, ..OK };
    const NO_KILL: Snapshots = Snapshots { kills: 0, ..OK };

    #[test]
    fn a_snapshot_is_one_moment_without_a_kill() {
        holds("2 snapshots", &Snapshots { snaps: 2, ..NO_KILL }, 861_160);
        holds("2 steps of other processes", &Snapshots { foreign: 2, ..NO_KILL }, 2_405_466);
    }

    /// What `serve` does: nobody tells it when FREEZING is committed.
    #[test]
    fn everything_may_be_copied_until_the_snapshot_is_served() {
        holds("copied until it is served", &Snapshots { window: Some(Return), ..NO_KILL }, 470_744);
    }

    /// 0.4 GB, half a minute.
    #[test]
    #[ignore = "large"]
    fn a_snapshot_survives_a_kill() {
        holds("2 writes, 1 kill", &OK, 6_149_268);
        holds("others have the map open", &Snapshots { joins: true, ..OK }, 6_149_268);
    }

    /// 1 GB, minutes.
    #[test]
    #[ignore = "large"]
    fn a_snapshot_survives_more() {
        holds("the whole image", &Snapshots { whole: true, ..OK }, 18_390_203);
        holds("scratch full", &Snapshots { fails: 1, ..OK }, 10_456_139);
        holds("1 loss of a page cache, no kill", &Snapshots { cuts: 1, ..NO_KILL }, 11_099_225);
        holds("a step of another process", &Snapshots { foreign: 1, ..OK }, 21_112_513);
        holds("scratch loses pages, checksum", &Snapshots { losses: 1, checksum: true, ..OK }, 18_581_033);
    }

    /// Half a GB, a minute or two.
    #[test]
    #[ignore = "large"]
    fn other_forms_of_a_rule() {
        holds("reader excludes writers", &Snapshots { look: Look::Exclude, ..OK }, 4_496_158);
        holds("granule locks for old writers", &Snapshots { old: Old::Locks, ..OK }, 6_134_442);
        holds("mark after the copy", &Snapshots { writer: MARK_LAST, ..OK }, 7_121_613);
        holds("writers wait until FROZEN", &Snapshots { pause: Pause::UntilFrozen, ..PAUSED }, 5_266_211);
        holds("writers wait until the reset", &Snapshots { pause: Pause::UntilReset, ..PAUSED }, 5_328_107);
        let late = Snapshots { create: REMARK_LAST, remark_on_takeover: true, ..OK };
        holds("marked again after FROZEN and at takeover", &late, 6_192_737);
        holds("READY after FROZEN", &Snapshots { create: READY_LAST, ..OK }, 6_148_182);
        holds("copied until it is served", &Snapshots { window: Some(Return), ..OK }, 7_274_609);
    }

    /// 5 GB, half an hour.
    #[test]
    #[ignore = "large"]
    fn a_snapshot_survives_most() {
        holds("2 kills", &Snapshots { kills: 2, ..OK }, 33_704_244);
        holds("1 kill, 1 loss of a page cache", &Snapshots { cuts: 1, starts: 1, ..OK }, 89_607_488);
        holds("2 snapshots, 1 kill", &Snapshots { snaps: 2, ..OK }, 13_498_986);
        holds("3 writes, no kill", &Snapshots { writes: 3, ..NO_KILL }, 8_957_894);
        let full = Snapshots { cuts: 1, fails: 1, ..NO_KILL };
        holds("1 loss of a page cache, scratch full", &full, 21_135_275);
        let lossy = Snapshots { losses: 1, checksum: true, kills: 2, starts: 1, ..OK };
        holds("scratch loses pages, checksum, 2 kills", &lossy, 97_282_526);
        holds("3 writes, 1 kill", &Snapshots { writes: 3, starts: 1, ..OK }, 63_988_075);
    }
}

/// New writers wait before they register, and the older ones have left before anything is captured.
const PAUSED: &[C] =
    &[Prepare, On, DrainAll, Capture0, Capture1, Freezing, Reset0, Reset1, Drain, Ready, Frozen, Return];
const READY_LAST: &[C] =
    &[Prepare, On, Capture0, Capture1, Freezing, Reset0, Reset1, Drain, Remark, Frozen, Ready, Return];
const REMARK_LAST: &[C] =
    &[Prepare, On, Capture0, Capture1, Freezing, Reset0, Reset1, Drain, Ready, Frozen, Remark, Return];

/// Each rule is needed.
mod rules {
    use super::*;

    /// Only what is known to be frozen is copied.
    const KNOWN: Snapshots = Snapshots { window: None, old: Old::TornIsFine, ..OK };
    const CUT: Snapshots = Snapshots { cuts: 1, ..OK };

    fn created(name: &str, create: &'static [C], steps: usize) {
        breaks(name, &Snapshots { create, ..OK }, steps);
    }

    fn written(name: &str, writer: &'static [W], steps: usize) {
        breaks(name, &Snapshots { writer, ..OK }, steps);
    }

    #[test]
    fn copying_is_on_before_the_freeze_looks_at_anything() {
        const RESET: &[C] =
            &[Prepare, Capture0, Capture1, Freezing, Reset0, Reset1, On, Drain, Remark, Ready, Frozen, Return];
        const WAITED: &[C] =
            &[Prepare, Capture0, Capture1, Freezing, Reset0, Reset1, On, DrainAll, Remark, Ready, Frozen, Return];
        const FROZEN: &[C] =
            &[Prepare, Capture0, Capture1, Freezing, Reset0, Reset1, Drain, Remark, Ready, Frozen, On, Return];
        const CAPTURED: &[C] =
            &[Prepare, Capture0, Capture1, On, Freezing, Reset0, Reset1, Drain, Remark, Ready, Frozen, Return];
        created("on after the reset", RESET, 20);
        created("on after the reset, all waited for", WAITED, 28);
        created("on after FROZEN", FROZEN, 19);
        created("captured before the moment", CAPTURED, 28);
        breaks("copies only what is known to be frozen", &KNOWN, 28);
    }

    #[test]
    fn what_was_copied_is_marked_again_between_drain_and_frozen() {
        const NEVER: &[C] = &[Prepare, On, Capture0, Capture1, Freezing, Reset0, Reset1, Drain, Ready, Frozen, Return];
        const EARLY: &[C] =
            &[Prepare, On, Capture0, Capture1, Freezing, Reset0, Reset1, Remark, Drain, Ready, Frozen, Return];
        created("not marked again", NEVER, 30);
        created("marked again before the drain", EARLY, 31);
        created("marked again after FROZEN only", REMARK_LAST, 31);
    }

    #[test]
    fn a_writer_registers_marks_and_looks_in_this_order() {
        const LOADS_FIRST: &[W] = &[Load, Register, Mark, Check, Copy0, Copy1, Index, Image0, Image1, Leave];
        const MARK_LAST: &[W] = &[Register, Load, Check, Copy0, Copy1, Index, Mark, Image0, Image1, Leave];
        const IMAGE_FIRST: &[W] = &[Register, Load, Check, Copy0, Copy1, Index, Image0, Image1, Mark, Leave];
        const NO_DRAIN: &[C] =
            &[Prepare, On, Capture0, Capture1, Freezing, Reset0, Reset1, Remark, Ready, Frozen, Return];
        written("looks for a snapshot before it registers", LOADS_FIRST, 20);
        created("nobody is waited for", NO_DRAIN, 19);
        breaks("whole image, mark after the copy", &Snapshots { whole: true, writer: MARK_LAST, ..OK }, 20);
        written("image before the mark", IMAGE_FIRST, 5);
    }

    #[test]
    fn a_copy_waits_for_older_writers_and_nobody_waits_inside_a_bracket() {
        breaks("old writers unwaited for", &Snapshots { old: Old::Nothing, ..OK }, 15);
        breaks("the same, torn sectors are fine", &Snapshots { old: Old::TornIsFine, ..OK }, 30);
        breaks("new writers wait inside their bracket", &Snapshots { pause: Pause::Inside, ..OK }, 11);
        const UNWAITED: &[C] =
            &[Prepare, On, Capture0, Capture1, Freezing, Reset0, Reset1, Drain, Ready, Frozen, Return];
        let paused = Snapshots { pause: Pause::UntilReset, create: UNWAITED, ..KNOWN };
        breaks("writers wait, older ones are not waited for", &paused, 29);
    }

    #[test]
    fn data_then_entry_then_image() {
        const ENTRY_FIRST: &[W] = &[Register, Mark, Load, Check, Index, Copy0, Copy1, Image0, Image1, Leave];
        const IMAGE_FIRST: &[W] = &[Register, Mark, Load, Check, Copy0, Copy1, Image0, Image1, Index, Leave];
        written("index entry before the data", ENTRY_FIRST, 18);
        written("image before the index entry", IMAGE_FIRST, 22);
        breaks("two may copy a granule", &Snapshots { copy_lock: false, old: Old::TornIsFine, ..OK }, 29);
    }

    #[test]
    fn readers_look_again_and_done_is_recorded_first() {
        breaks("reader does not look again", &Snapshots { look: Look::Before, ..OK }, 26);
        breaks("TRIM in memory only", &Snapshots { trim: Trim::InMemory, ..OK }, 26);
        breaks("TRIM frees scratch first", &Snapshots { trim: Trim::FreesFirst, ..OK }, 26);
        breaks("TRIM beside a copy", &Snapshots { trim: Trim::NoLock, ..OK }, 29);
    }

    #[test]
    fn a_failed_copy_is_recorded_before_the_image_is_written() {
        breaks("a failed copy is not recorded", &Snapshots { fails: 1, record_broken: false, ..OK }, 21);
    }

    #[test]
    fn the_map_says_that_it_is_over_before_copying_ends() {
        const OFF_FIRST: &[C] = &[SyncImage, Off, Normal, Remove];
        const ABORT_OFF_FIRST: &[C] = &[Off, Aborting, PutBack, Remove];
        breaks("commit: copying off before NORMAL", &Snapshots { commit: OFF_FIRST, ..OK }, 28);
        breaks("abort: copying off before ABORTING", &Snapshots { abort: ABORT_OFF_FIRST, ..OK }, 23);
    }

    #[test]
    fn the_image_is_synced_between_frozen_and_normal() {
        const UNSYNCED: &[C] = &[Normal, Off, Remove];
        const EARLY: &[C] = &[
            Prepare, On, Capture0, Capture1, Freezing, Reset0, Reset1, SyncImage, Drain, Remark, Ready, Frozen, Return,
        ];
        breaks("image not synced before NORMAL", &Snapshots { commit: UNSYNCED, ..CUT }, 27);
        breaks("image synced before the drain", &Snapshots { commit: UNSYNCED, create: EARLY, ..CUT }, 28);
    }

    #[test]
    fn all_evidence_of_lost_pages_counts() {
        breaks("another boot is trusted", &Snapshots { trust: BOOT, ..CUT }, 22);
        breaks("another mount of the image is trusted", &Snapshots { trust: IMAGE_MOUNT, ..CUT }, 23);
        breaks("another mount of scratch is trusted", &Snapshots { trust: SCRATCH_MOUNT, ..CUT }, 23);
        let lossy = Snapshots { losses: 1, checksum: true, ..OK };
        breaks("failed write-back is not asked for", &Snapshots { trust: WRITE_BACK, ..lossy }, 24);
        breaks("asking is not recorded", &Snapshots { ask_marked: false, kills: 2, ..lossy }, 25);
        breaks("scratch loses pages, no checksum", &Snapshots { checksum: false, ..lossy }, 26);
        breaks("a write outlives its process", &Snapshots { outlive: true, ..OK }, 25);
    }

    #[test]
    fn the_map_says_whose_the_checkpoint_is() {
        let unowned = Snapshots { owned: false, ..OK };
        breaks("only scratch says whose", &Snapshots { cuts: 1, ..unowned }, 14);
        breaks("the same, READY after FROZEN", &Snapshots { create: READY_LAST, ..unowned }, 13);
        breaks("the same, others have the map open", &Snapshots { joins: true, ..unowned }, 8);
        breaks("uuid not compared", &Snapshots { foreign: 1, compare_uuid: false, ..OK }, 25);
        breaks("no space lock", &Snapshots { foreign: 2, space: false, ..OK }, 22);
    }
}
