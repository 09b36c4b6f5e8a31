//! `Bitmap` beside a vector of booleans: what it does, and a model of it. The model knows granules as ranges of items and
//! nothing of words or levels; of its change bitmap, sets of numbers.

use dirtymap::{Bitmap, Error};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

struct Model {
    len: u64,
    granule: u128,
    dirty: Vec<bool>,
    changes: Option<Changes>,
}

/// What the change bitmap must say: chunks of `1 << shift` granules.
struct Changes {
    shift: u32,
    chunks: BTreeSet<usize>,
    /// Granules that were cut off with changes, and have changed if they come back.
    cut: BTreeSet<usize>,
}

impl Changes {
    fn chunk(&self, granule: usize) -> usize {
        granule.checked_shr(self.shift).unwrap_or(0)
    }
}

impl Model {
    fn new(len: u64, granularity: u32) -> Model {
        let granule = 1u128 << granularity;
        Model { len, granule, dirty: vec![false; (u128::from(len)).div_ceil(granule) as usize], changes: None }
    }

    /// The items of granule `b`.
    fn granule(&self, b: usize) -> Range<u64> {
        let start = b as u128 * self.granule;
        start as u64..(start + self.granule).min(u128::from(self.len)) as u64
    }

    fn legal(&self, r: &Range<u64>) -> bool {
        r.start <= r.end && r.end <= self.len
    }

    /// The granules that share an item with the range.
    fn touched(&self, r: &Range<u64>) -> Vec<usize> {
        let r = r.clone();
        let touches = |g: Range<u64>| g.start.max(r.start) < g.end.min(r.end);
        (0..self.dirty.len()).filter(|&b| touches(self.granule(b))).collect()
    }

    /// The granules that lie in the range with all of their items.
    fn inside(&self, r: &Range<u64>) -> Vec<usize> {
        let inside = |b: &usize| r.start <= self.granule(*b).start && self.granule(*b).end <= r.end;
        self.touched(r).into_iter().filter(inside).collect()
    }

    /// Changes a range of granules, all of which have changed if one has.
    fn put(&mut self, granules: Vec<usize>, dirty: bool) -> u64 {
        let mut new = self.dirty.clone();
        granules.iter().for_each(|&b| new[b] = dirty);
        let changed = self.change(new, Some(granules));
        changed.len() as u64
    }

    /// Changes granules; as far as the change bitmap is concerned, `all` if any, else just those that did.
    fn change(&mut self, new: Vec<bool>, all: Option<Vec<usize>>) -> Vec<usize> {
        let changed: Vec<usize> = (0..new.len()).filter(|&b| new[b] != self.dirty[b]).collect();
        self.dirty = new;
        if let Some(c) = &mut self.changes
            && !changed.is_empty()
        {
            let marked: Vec<usize> = all.unwrap_or(changed.clone()).into_iter().map(|b| c.chunk(b)).collect();
            c.chunks.extend(marked);
        }
        changed
    }

    /// Every granule that is dirty in another model, of any granularity.
    fn covering(&self, other: &Model) -> Vec<bool> {
        let mut new = vec![false; self.dirty.len()];
        for area in other.runs(&(0..other.len), true) {
            self.touched(&area).into_iter().for_each(|b| new[b] = true);
        }
        new
    }

    fn truncate(&mut self, len: u64) -> u64 {
        let (old, new) = (self.dirty.len(), u128::from(len).div_ceil(self.granule) as usize);
        let lost = self.dirty.iter().skip(new).filter(|&&d| d).count() as u64;
        self.dirty.resize(new, false);
        self.len = len;
        if let Some(c) = &mut self.changes {
            let first = c.chunk(new);
            if lost > 0 {
                c.chunks.extend((new..old).map(|b| b.checked_shr(c.shift).unwrap_or(0)));
            }
            if new < old && (!c.cut.is_empty() || c.chunks.last().is_some_and(|&last| last >= first)) {
                c.cut.extend(new..old);
            }
            let back: Vec<usize> = c.cut.iter().copied().filter(|&b| b < new).map(|b| c.chunk(b)).collect();
            c.chunks.extend(back);
            c.cut.retain(|&b| b >= new);
            let chunks = if new == 0 { 0 } else { c.chunk(new - 1) + 1 };
            c.chunks.retain(|&chunk| chunk < chunks);
        }
        lost
    }

    /// Whether the range is a chunk that can be serialised.
    fn chunk(&self, r: &Range<u64>) -> Result<(), &'static str> {
        match self.granule.checked_mul(64).filter(|&align| align < 1 << 64) {
            None => Err("not-serializable"),
            _ if !self.legal(r) => Err("out-of-range"),
            Some(align) => {
                let whole = |item: u64| u128::from(item) % align == 0;
                let fine = r.is_empty() || whole(r.start) && (whole(r.end) || r.end == self.len);
                if fine { Ok(()) } else { Err("unaligned") }
            }
        }
    }

    /// The words of a chunk.
    fn chunk_bytes(&self, r: &Range<u64>) -> Vec<u8> {
        let touched = self.touched(r);
        let words = touched.chunks(64).map(|of| (0..of.len()).fold(0, |w, i| w | u64::from(self.dirty[of[i]]) << i));
        words.flat_map(u64::to_le_bytes).collect()
    }

    /// What `state` makes of the range: maximal runs of it, clamped.
    fn runs(&self, r: &Range<u64>, state: bool) -> VecDeque<Range<u64>> {
        let mut runs: VecDeque<Range<u64>> = VecDeque::new();
        for b in self.touched(r).into_iter().filter(|&b| self.dirty[b] == state) {
            let g = self.granule(b);
            let part = g.start.max(r.start)..g.end.min(r.end);
            match runs.back_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => runs.push_back(part),
            }
        }
        runs
    }

    fn words(&self) -> Vec<u64> {
        let mut words = vec![0; self.dirty.len().div_ceil(64).max(1)];
        (0..self.dirty.len()).filter(|&b| self.dirty[b]).for_each(|b| words[b / 64] |= 1 << (b % 64));
        words
    }
}

/// A position near a granule's edge: granule number (wrapped to those there are and one more), and where in it.
pub type Spot = (u16, u8);

fn item(m: &Model, (b, place): Spot) -> u64 {
    let start = u128::from(b) % (m.dirty.len() as u128 + 1) * m.granule;
    let within = [0, 0, 1, m.granule / 2, m.granule - 1][usize::from(place) % 5];
    u64::try_from(start + within).unwrap_or(u64::MAX)
}

/// Mostly legal ranges, some past the end, some backwards.
fn range(m: &Model, (a, b, wild): (Spot, Spot, u8)) -> Range<u64> {
    let (a, b) = (item(m, a), item(m, b));
    match wild {
        0 => a..b,
        1 => a..u64::MAX,
        2 => a.min(m.len)..a.min(m.len),
        3 => 0..m.len,
        _ => a.min(b).min(m.len)..a.max(b).min(m.len),
    }
}

pub type Where = (Spot, Spot, u8);

#[derive(Clone, Debug)]
pub enum Op {
    Set(Where),
    Reset(Where),
    ResetWithin(Where),
    ResetCovering(Where),
    SetAll,
    ResetAll,
    Merge(Other),
    Union(Other, Other),
    Subtract(Other),
    Intersect(Other),
    Truncate((u64, u64)),
    Load(Vec<(Where, u8, Vec<u64>)>),
    Attach(u32),
    Take,
    Detach,
}

/// Another map of the same length: how much coarser it is, and what is set in it.
#[derive(Clone, Debug)]
pub struct Other(pub i32, pub Vec<Where>);

impl Other {
    /// With a granularity that is possible, and leaves not too many granules.
    fn make(&self, m: &Model, granularity: u32) -> (Bitmap, Model) {
        let mut other = granularity.saturating_add_signed(self.0).min(63);
        while m.len >> other > 20_000 {
            other += 1;
        }
        let (mut map, mut model) = (Bitmap::new(m.len, other).unwrap(), Model::new(m.len, other));
        for r in self.1.iter().map(|&w| range(&model, w)).collect::<Vec<_>>() {
            if model.legal(&r) {
                map.set(r.clone()).unwrap();
                model.put(model.touched(&r), true);
            }
        }
        (map, model)
    }

    fn same(&self, m: &Model, granularity: u32) -> (Bitmap, Model) {
        Other(0, self.1.clone()).make(m, granularity)
    }
}

/// Loads chunks, mostly well-formed ones.
fn load(map: &mut Bitmap, m: &mut Model, parts: Vec<(Where, u8, Vec<u64>)>) {
    let taken = std::mem::replace(map, Bitmap::new(0, 0).unwrap());
    let mut loading = taken.begin_load();
    for (place, kind, seed) in parts {
        let mut r = range(m, place);
        if kind > 1 {
            // Outward to whole words, where there is such a thing.
            let align = m.granule.saturating_mul(64);
            let start = u128::from(r.start) / align * align;
            r.start = start as u64;
            r.end = (u128::from(r.end).div_ceil(align) * align).min(u128::from(m.len)) as u64;
        }
        let allowed = m.chunk(&r);
        let (granules, clean) = (if m.legal(&r) { m.touched(&r) } else { Vec::new() }, m.dirty.clone());
        let mut new = clean;
        let done = match kind {
            0 | 2 => {
                granules.iter().for_each(|&b| new[b] = false);
                loading.zeroes(r)
            }
            1 | 3 => {
                granules.iter().for_each(|&b| new[b] = true);
                loading.ones(r)
            }
            _ => {
                let random = |i: usize| seed[i / 64 % seed.len()].rotate_left(i as u32 / 64) >> (i % 64) & 1 != 0;
                granules.iter().enumerate().for_each(|(i, &b)| new[b] = random(i));
                let mut bytes =
                    Model { len: m.len, granule: m.granule, dirty: new.clone(), changes: None }.chunk_bytes(&r);
                if kind == 4 && allowed.is_ok() && !bytes.is_empty() {
                    // What is refused changes nothing.
                    let short = loading.part(r.clone(), &bytes[1..]).map_err(|e| e.kind());
                    assert_eq!(short, Err("chunk-size"));
                    if granules.len() % 64 != 0 {
                        *bytes.last_mut().unwrap() |= 128;
                        let stray = loading.part(r.clone(), &bytes).map_err(|e| e.kind());
                        assert_eq!(stray, Err("stray-bits"));
                        *bytes.last_mut().unwrap() &= 127;
                    }
                }
                loading.part(r, &bytes)
            }
        };
        assert_eq!(done.map_err(|e| e.kind()), allowed);
        if allowed.is_ok() {
            m.change(new, Some(granules));
        }
    }
    *map = loading.finish();
}

/// The marks that are taken are those of the model.
fn check_taken(map: &mut Bitmap, m: &mut Model) {
    let taken = map.take_changes().unwrap();
    assert_eq!(taken.is_some(), m.changes.is_some());
    if let (Some(taken), Some(c)) = (taken, &mut m.changes) {
        taken.check_invariants().unwrap();
        assert_eq!((taken.len(), taken.granularity()), (m.len, map.granularity() + c.shift));
        let chunk = m.granule << c.shift;
        let marked: Vec<usize> =
            taken.granules(0..taken.len()).unwrap().map(|item| (u128::from(item) / chunk) as usize).collect();
        assert_eq!(marked, std::mem::take(&mut c.chunks).into_iter().collect::<Vec<_>>());
        c.cut.clear();
    }
}

/// Attaches a change bitmap; the marks of one that was there are rounded outward.
fn attach(map: &mut Bitmap, m: &mut Model, shift: u32) {
    let possible = map.granularity() + shift <= 63;
    assert_eq!(map.attach_changes(shift).map_err(|e| e.kind()), if possible { Ok(()) } else { Err("geometry") });
    if possible {
        let mut new = Changes { shift, chunks: BTreeSet::new(), cut: BTreeSet::new() };
        if let Some(old) = m.changes.take() {
            let marked: Vec<usize> =
                (0..m.dirty.len()).filter(|&b| old.chunks.contains(&old.chunk(b))).map(|b| new.chunk(b)).collect();
            new.chunks.extend(marked);
            new.cut = old.cut;
        }
        m.changes = Some(new);
    }
}

fn outcome(done: Result<u64, Error>) -> Result<u64, &'static str> {
    done.map_err(|e| e.kind())
}

/// What was done, and what should have been.
type Outcome = (Result<u64, &'static str>, Result<u64, &'static str>);
/// Two ways to take bits out: into a new map, and in place.
type Filters = (fn(&Bitmap, &Bitmap) -> Result<Bitmap, Error>, fn(&mut Bitmap, &Bitmap) -> Result<u64, Error>);

fn filter(
    map: &mut Bitmap,
    m: &mut Model,
    other: Other,
    keep: fn(bool, bool) -> bool,
    (to_new, in_place): Filters,
) -> Outcome {
    let (other, theirs) = other.same(m, map.granularity());
    let new: Vec<bool> = (0..m.dirty.len()).map(|b| keep(m.dirty[b], theirs.dirty[b])).collect();
    let third = to_new(map, &other).unwrap();
    let done = outcome(in_place(map, &other));
    assert_eq!(&third, &*map);
    third.check_invariants().unwrap();
    (done, Ok(m.change(new, None).len() as u64))
}

fn apply(map: &mut Bitmap, m: &mut Model, op: Op) {
    let (got, wanted): Outcome = match op {
        Op::Set(w) => {
            let r = range(m, w);
            let wanted = if m.legal(&r) { Ok(m.put(m.touched(&r), true)) } else { Err("out-of-range") };
            (outcome(map.set(r)), wanted)
        }
        Op::Reset(w) => {
            let r = range(m, w);
            let wanted = match () {
                () if !m.legal(&r) => Err("out-of-range"),
                () if m.inside(&r) != m.touched(&r) => Err("unaligned"),
                () => Ok(m.put(m.inside(&r), false)),
            };
            (outcome(map.reset(r)), wanted)
        }
        Op::ResetWithin(w) => {
            let r = range(m, w);
            let wanted = if m.legal(&r) { Ok(m.put(m.inside(&r), false)) } else { Err("out-of-range") };
            (outcome(map.reset_within(r)), wanted)
        }
        Op::ResetCovering(w) => {
            let r = range(m, w);
            let wanted = if m.legal(&r) { Ok(m.put(m.touched(&r), false)) } else { Err("out-of-range") };
            (outcome(map.reset_covering(r)), wanted)
        }
        Op::SetAll => (Ok(map.set_all()), Ok(m.put((0..m.dirty.len()).collect(), true))),
        Op::ResetAll => (Ok(map.reset_all()), Ok(m.put((0..m.dirty.len()).collect(), false))),
        Op::Merge(other) => {
            let (other, theirs) = other.make(m, map.granularity());
            let covered = m.covering(&theirs);
            let new = (0..covered.len()).map(|b| m.dirty[b] || covered[b]).collect();
            assert!(map.can_merge(&other));
            (outcome(map.merge(&other)), Ok(m.change(new, None).len() as u64))
        }
        Op::Union(a, b) => {
            let ((a, a_model), (b, b_model)) = (a.make(m, map.granularity()), b.make(m, map.granularity()));
            let (a_dirty, b_dirty) = (m.covering(&a_model), m.covering(&b_model));
            let new = (0..a_dirty.len()).map(|i| a_dirty[i] || b_dirty[i]).collect();
            (outcome(map.set_to_union(&a, &b)), Ok(m.change(new, None).len() as u64))
        }
        Op::Subtract(other) => {
            filter(map, m, other, |here, there| here && !there, (Bitmap::difference, Bitmap::subtract))
        }
        Op::Intersect(other) => {
            filter(map, m, other, |here, there| here && there, (Bitmap::intersection, Bitmap::intersect))
        }
        Op::Truncate(shape) => {
            let len = fit(map.granularity(), shape);
            let done = (outcome(map.truncate(len)), Ok(m.truncate(len)));
            assert_eq!((map.len(), map.geometry().bits()), (len, m.dirty.len() as u64));
            done
        }
        Op::Load(parts) => {
            load(map, m, parts);
            (Ok(0), Ok(0))
        }
        Op::Attach(shift) => {
            attach(map, m, shift);
            (Ok(0), Ok(0))
        }
        Op::Take => {
            check_taken(map, m);
            (Ok(0), Ok(0))
        }
        Op::Detach => {
            map.detach_changes();
            m.changes = None;
            (Ok(0), Ok(0))
        }
    };
    assert_eq!(got, wanted);
    map.check_invariants().unwrap();
    assert_eq!(map.bottom_words(), &m.words()[..]);
}

/// What does not depend on a range.
fn check_whole(map: &Bitmap, m: &Model) {
    let dirty = m.dirty.iter().filter(|&&d| d).count() as u64;
    assert_eq!(map.count(), dirty);
    assert_eq!(map.is_empty(), dirty == 0);
    assert_eq!(map.is_full(), dirty as usize == m.dirty.len());
    let areas = m.runs(&(0..m.len), true);
    assert_eq!(map.dirty_len(), areas.iter().map(|a| a.end - a.start).sum::<u64>());
    assert!(map.into_iter().eq(areas));
    let bytes: Vec<u8> = m.words().into_iter().flat_map(u64::to_le_bytes).collect();
    assert_eq!(map.sha256(), <[u8; 32]>::from(Sha256::digest(bytes)));
    let copy = map.try_clone().unwrap();
    copy.check_invariants().unwrap();
    assert_eq!(&copy, map);
}

/// Every reader that takes a range.
fn check_range(map: &Bitmap, m: &Model, r: Range<u64>, max_len: u64) {
    if !m.legal(&r) {
        let refused = |kind: Option<Error>| kind.is_some_and(|e| e.kind() == "out-of-range");
        assert!(refused(map.count_range(r.clone()).err()) && refused(map.any(r.clone()).err()));
        assert!(refused(map.all(r.clone()).err()) && refused(map.next_dirty(r.clone()).err()));
        assert!(refused(map.next_clean(r.clone()).err()) && refused(map.next_extent(r.clone(), 1).err()));
        assert!(refused(map.run(r.clone()).err()) && refused(map.granules(r.clone()).err()));
        assert!(refused(map.extents(r.clone()).err()) && refused(map.words(r).err()));
        return;
    }
    let (dirty, clean) = (m.runs(&r, true), m.runs(&r, false));
    let touched: Vec<usize> = m.touched(&r).into_iter().filter(|&b| m.dirty[b]).collect();
    assert_eq!(map.count_range(r.clone()).unwrap(), touched.len() as u64);
    assert_eq!(map.any(r.clone()).unwrap(), !dirty.is_empty());
    assert_eq!(map.all(r.clone()).unwrap(), clean.is_empty());
    assert_eq!(map.next_dirty(r.clone()).unwrap(), dirty.front().map(|a| a.start));
    assert_eq!(map.next_clean(r.clone()).unwrap(), clean.front().map(|a| a.start));
    let cut = |a: &Range<u64>| a.start..a.end.min(a.start.saturating_add(max_len));
    assert_eq!(map.next_extent(r.clone(), max_len).unwrap(), dirty.front().map(cut));
    assert_eq!(map.next_extent(r.clone(), u64::MAX).unwrap(), dirty.front().cloned());
    let run = match (dirty.front(), clean.front()) {
        (Some(a), _) if a.start == r.start => Some((true, a.end - a.start)),
        (_, Some(a)) => Some((false, a.end - a.start)),
        _ => None,
    };
    assert_eq!(map.run(r.clone()).unwrap(), run);
    assert_eq!(map.extents(r.clone()).unwrap().collect::<VecDeque<_>>(), dirty);
    let firsts: Vec<u64> = touched.iter().map(|&b| m.granule(b).start).collect();
    assert_eq!(map.granules(r.clone()).unwrap().collect::<Vec<_>>(), firsts);
    let mut words = vec![0; m.words().len()];
    touched.iter().for_each(|b| words[b / 64] |= 1 << (b % 64));
    let words = words.into_iter().enumerate().map(|(i, w)| (i as u64, w)).filter(|&(_, w)| w != 0);
    assert!(map.words(r).unwrap().eq(words));
}

fn check_item(map: &Bitmap, m: &Model, item: u64) {
    let wanted = m.touched(&(item..item.saturating_add(1))).first().map(|&b| m.dirty[b]);
    assert_eq!(map.get(item).ok(), wanted);
}

#[derive(Clone, Debug)]
pub enum Step {
    Next,
    Peek,
    AdvanceTo(Spot),
}

fn hint_holds(hint: (usize, Option<usize>), left: usize) -> bool {
    hint.0 <= left && hint.1.is_none_or(|most| left <= most)
}

/// The word of the first of these granules, and the granules of the others.
fn first_word(left: &VecDeque<usize>) -> (Option<(u64, u64)>, VecDeque<usize>) {
    let Some(i) = left.front().map(|b| b / 64) else { return (None, VecDeque::new()) };
    let word = left.iter().filter(|&b| b / 64 == i).fold(0, |word, b| word | 1 << (b % 64));
    (Some((i as u64, word)), left.iter().copied().filter(|b| b / 64 > i).collect())
}

/// The iterators, walked in steps of all kinds.
fn check_walk(map: &Bitmap, m: &Model, r: Range<u64>, steps: Vec<Step>) {
    if !m.legal(&r) {
        return;
    }
    let (mut granules, mut areas) = (map.granules(r.clone()).unwrap(), map.extents(r.clone()).unwrap());
    let mut g_left: VecDeque<usize> = m.touched(&r).into_iter().filter(|&b| m.dirty[b]).collect();
    let mut a_left = m.runs(&r, true);
    let (mut words, mut w_left) = (map.words(r.clone()).unwrap(), g_left.clone());
    for step in steps {
        match step {
            Step::Next => {
                assert_eq!(granules.next(), g_left.pop_front().map(|b| m.granule(b).start));
                assert_eq!(areas.next(), a_left.pop_front());
                let (expected, rest) = first_word(&w_left);
                assert_eq!(words.next(), expected);
                w_left = rest;
            }
            Step::Peek => {
                assert_eq!(granules.peek(), g_left.front().map(|&b| m.granule(b).start));
                assert_eq!(areas.peek(), a_left.front().cloned());
                assert_eq!(words.peek(), first_word(&w_left).0);
            }
            Step::AdvanceTo(spot) => {
                let item = item(m, spot);
                granules.advance_to(item);
                areas.advance_to(item);
                words.advance_to(item);
                w_left.retain(|&b| m.granule(b).end > item);
                g_left.retain(|&b| m.granule(b).end > item);
                a_left.retain(|a| a.end > item);
                a_left.iter_mut().for_each(|a| a.start = a.start.max(item));
            }
        }
        assert!(hint_holds(granules.size_hint(), g_left.len()));
        assert!(hint_holds(areas.size_hint(), a_left.len()));
        assert!(hint_holds(words.size_hint(), words.clone().count()));
    }
    assert!(granules.clone().eq(g_left.into_iter().map(|b| m.granule(b).start)));
    assert!(areas.clone().eq(a_left));
    let (next, _) = first_word(&w_left);
    assert_eq!(words.next(), next);
}

/// What is saved in chunks and loaded in any order is what it was.
fn check_saved(map: &Bitmap, m: &Model, mut cuts: Vec<u64>) {
    let Ok(align) = map.serialization_align() else {
        assert!(map.granularity() >= 58);
        return;
    };
    assert_eq!(u128::from(align), m.granule * 64);
    cuts = cuts.into_iter().map(|c| c % (m.len / align + 1) * align).chain([0, m.len]).collect();
    cuts.sort();
    let chunks: Vec<_> = cuts.windows(2).map(|c| c[0]..c[1]).rev().collect();
    // Into a map that is full, and into one that was something else.
    let mut full = Bitmap::new(m.len, map.granularity()).unwrap();
    full.set_all();
    for into in [full, Bitmap::new(m.len, map.granularity()).unwrap()] {
        let mut loading = into.begin_load();
        for chunk in &chunks {
            let size = map.serialized_size(chunk.clone()).unwrap() as usize;
            let mut bytes = vec![0xa5; size];
            map.serialize_part(chunk.clone(), &mut bytes).unwrap();
            assert_eq!(&bytes, &m.chunk_bytes(chunk));
            loading.part(chunk.clone(), &bytes).unwrap();
            let longer = map.serialize_part(chunk.clone(), &mut vec![0; size + 1]).map_err(|e| e.kind());
            assert_eq!(longer, Err("chunk-size"));
        }
        let loaded = loading.finish();
        loaded.check_invariants().unwrap();
        assert_eq!(&loaded, map);
    }
}

fn fit(granularity: u32, (granules, short): (u64, u64)) -> u64 {
    let granule = 1u128 << granularity;
    let short = u128::from(short) % granule;
    let len = (u128::from(granules) * granule).saturating_sub(short);
    len.min(u128::from(dirtymap::MAX_LEN)) as u64
}

/// A map of some shape, and after each operation what to ask; then walks and cuts for the map as it is at the end.
#[derive(Clone, Debug)]
pub struct Story {
    pub granularity: u32,
    /// `(granules, items less than whole in the last one)`; both are fitted to the granularity.
    pub shape: (u64, u64),
    pub ops: Vec<(Op, Where, Spot, u64)>,
    pub walk: Where,
    pub steps: Vec<Step>,
    pub cuts: Vec<u64>,
}

pub fn play(story: Story) {
    let len = fit(story.granularity, story.shape);
    let mut map = Bitmap::new(len, story.granularity).unwrap();
    let mut m = Model::new(len, story.granularity);
    for (op, place, at, max_len) in story.ops {
        apply(&mut map, &mut m, op);
        let max_len = if max_len % 2 == 0 { max_len % 9 + 1 } else { item(&m, at).max(1) };
        check_range(&map, &m, range(&m, place), max_len);
        check_item(&map, &m, item(&m, at));
    }
    check_whole(&map, &m);
    check_saved(&map, &m, story.cuts);
    check_taken(&mut map, &mut m);
    let r = range(&m, story.walk);
    check_walk(&map, &m, r, story.steps);
}
