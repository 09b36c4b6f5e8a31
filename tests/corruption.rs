//! Whatever happens to the bytes of a map: check never calls a file fine in which a bit was lost; repair ends in a map of
//! which check has nothing to say, in which everything is dirty that the bytes that are left prove dirty, and which a
//! second repair leaves alone; and undoing it gives back the very bytes.
//!
//! Each corruption has a number, from which all of it follows: `DIRTYMAP_CORRUPTION=123` does only that one, and
//! `DIRTYMAP_CORRUPTIONS=10000` is a long run. `DIRTYMAP_DIR` is where the files are.

use dirtymap::format::{self, COPIES, COPY_BYTES, Header, Point, PointRole, State, Uuid};
use dirtymap::{
    DirtyMap, Durability, Geometry, Options,
    fsck::{Report, Severity, check, plan_repair, repair, undo_repair},
    info::FileState,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[path = "common/intents.rs"]
mod intents;
#[path = "common/numbers.rs"]
mod numbers;
use numbers::Numbers;

/// The bits of a map, a word for 64.
type Bits = Vec<u64>;

fn bits_of(map: &DirtyMap) -> Bits {
    collect(map.geometry(), map.words(0..map.len()).unwrap())
}

fn bits_since(map: &DirtyMap, name: &str) -> dirtymap::Result<Bits> {
    let since = map.since(name)?;
    Ok(collect(since.geometry(), since.words(0..since.len())?))
}

fn collect(geometry: &Geometry, words: impl Iterator<Item = (u64, u64)>) -> Bits {
    let mut bits = vec![0; geometry.words() as usize];
    words.for_each(|(w, word)| bits[w as usize] = word);
    bits
}

/// The first bit that `all` has and `some` has not.
fn missing(all: &[u64], some: &[u64]) -> Option<u64> {
    let lost = |(w, (a, s)): (usize, (&u64, &u64))| {
        (a & !s != 0).then(|| w as u64 * 64 + u64::from((a & !s).trailing_zeros()))
    };
    all.iter().zip(some).enumerate().find_map(lost)
}

/// A file as it was left, and what was dirty then.
#[derive(Clone)]
struct Original {
    how: &'static str,
    bytes: Vec<u8>,
    header: Header,
    dirty: Bits,
    /// What was dirty since each kept point.
    since: Vec<(String, Bits)>,
}

fn parse(bytes: &[u8]) -> [Result<Header, format::HeaderProblem>; COPIES] {
    let mut region = bytes[..bytes.len().min(COPIES * COPY_BYTES)].to_vec();
    region.resize(COPIES * COPY_BYTES, 0);
    std::array::from_fn(|copy| Header::parse(&region[copy * COPY_BYTES..][..COPY_BYTES]))
}

impl Original {
    fn of(path: &Path, how: &'static str, map: &DirtyMap) -> Original {
        let bytes = fs::read(path).unwrap();
        let header = format::select(&parse(&bytes)).unwrap().header.clone();
        let points = map.points().unwrap();
        let since = points.iter().map(|p| (p.name.clone(), bits_since(map, &p.name).unwrap())).collect();
        Original { how, bytes, header, dirty: bits_of(map), since }
    }
}

/// The same map with an intent, which counts where the map was not closed.
fn with_intent(o: &Original, rng: &mut Numbers) -> Option<Original> {
    let g = o.header.geometry;
    let some = |w: u64, rng: &mut Numbers| if rng.below(9) == 0 { g.word_mask(w) & rng.next() & rng.next() } else { 0 };
    let words: Bits = (0..g.words()).map(|w| some(w, rng)).collect();
    let mut with = o.clone();
    if !intents::add(&mut with.bytes, &words, rng.below(7) as u32) {
        return None;
    }
    with.header = format::select(&parse(&with.bytes)).unwrap().header.clone();
    let intent = with.header.intent?;
    if with.header.state == State::Open {
        with.how = "in use, with an intent";
        for (w, (all, word)) in with.dirty.iter_mut().zip(words).enumerate() {
            *all |= intent.round(word) & g.word_mask(w as u64);
        }
    }
    Some(with)
}

/// A map with some work done on it, at several times: in use, and so as a crash would leave it, and closed.
fn originals(dir: &Path, number: u64) -> Vec<Original> {
    let rng = &mut Numbers(number ^ 0x6d61_7073);
    let path = dir.join(format!("original-{number}"));
    let bits = match number % 4 {
        0 => 1 + rng.below(200),
        1 => 4096,
        2 => 1 + rng.below(40_000),
        _ => 300_000 + rng.below(300_000),
    };
    let durability = if number % 5 == 4 { Durability::Process } else { Durability::PowerLoss };
    let options = || Options::new().flush_interval(None).granularity(0);
    let mut map = options().durability(durability).armed_bound(64 * 12).create(&path, bits).unwrap();
    let mut all = Vec::new();
    for round in 0..4 {
        for _ in 0..rng.below(12) {
            let start = rng.below(bits);
            let range = start..(start + 1 + rng.below(300)).min(bits);
            match rng.below(8) {
                0..=5 => _ = map.set(range).unwrap(),
                6 => _ = map.reset(range).unwrap(),
                _ => map.flush().unwrap(),
            }
        }
        all.push(Original::of(&path, "in use", &map));
        if round == 1 && !number.is_multiple_of(3) {
            let frozen = map.freeze(Some("a")).unwrap();
            map.set(0..1).unwrap();
            all.push(Original::of(&path, "frozen", &map));
            if number % 3 == 1 {
                map.commit_checkpoint(frozen.uuid, true).unwrap();
                all.push(Original::of(&path, "in use, with a point", &map));
            }
        }
        if rng.below(3) == 0 {
            drop(map);
            map = options().open(&path).unwrap();
            all.push(Original::of(&path, "recovered", &map));
        }
        map.close().unwrap();
        map = options().read_only(true).open(&path).unwrap();
        let how = match (map.points().unwrap().len(), map.checkpoint().unwrap()) {
            (_, Some(_)) => "closed, frozen",
            (0, None) => "closed",
            _ => "closed, with a point",
        };
        all.push(Original::of(&path, how, &map));
        map = options().open(&path).unwrap();
    }
    let more: Vec<Original> =
        all.iter().filter_map(|o| if rng.below(3) == 0 { with_intent(o, rng) } else { None }).collect();
    all.extend(more);
    all
}

/// A place in the file: mostly where something is.
fn place(rng: &mut Numbers, o: &Original, align: u64) -> usize {
    let g = &o.header.geometry;
    // As much of each header copy as it uses, or may.
    let copy = |end: u64| (0..COPIES).map(move |i| format::copy_offset(i)..format::copy_offset(i) + end);
    let mut regions: Vec<_> = copy(o.header.used() as u64).chain(copy(COPY_BYTES as u64)).collect();
    regions.push(0..o.bytes.len() as u64);
    let mut content = |table: u64, bottom: u64| {
        regions.push(table..table + 4 * g.pages());
        regions.push(bottom..bottom + 512 * g.pages());
    };
    content(o.header.layout.table.start, o.header.layout.bottom.start);
    o.header.points.iter().for_each(|p| content(p.table_offset, p.bottom_offset));
    let region = regions[rng.below(regions.len() as u64) as usize].clone();
    let at = region.start + rng.below(region.end - region.start);
    (at / align * align) as usize
}

/// The part of a file that begins somewhere and is so long, as far as there is one.
fn part(bytes: &mut [u8], at: usize, length: usize) -> &mut [u8] {
    let at = at.min(bytes.len());
    let end = (at + length).min(bytes.len());
    &mut bytes[at..end]
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let to = part(bytes, at, new.len());
    let n = to.len();
    to.copy_from_slice(&new[..n]);
}

/// Does something to a file, and says what.
fn corrupt(rng: &mut Numbers, o: &Original, bytes: &mut Vec<u8>, others: &[Original]) -> &'static str {
    let size = rng.of(&[512, 512, 4096, 16384, 65536]);
    match rng.below(12) {
        0 | 1 => {
            for _ in 0..=rng.below(4) {
                let at = place(rng, o, 1);
                part(bytes, at, 1).iter_mut().for_each(|b| *b ^= 1 << rng.below(8));
            }
            "bits flipped"
        }
        2 | 3 => {
            let size = rng.of(&[1, 4, 512, 512, 4096, 16384, 0x1_0000, 0x2_0000]);
            let at = place(rng, o, 1.max(size.min(512)) as u64);
            part(bytes, at, size).fill(0);
            "a range zeroed"
        }
        4 => {
            let at = place(rng, o, 512);
            part(bytes, at, size).iter_mut().for_each(|b| *b = rng.next() as u8);
            "a range of garbage"
        }
        5 => {
            let keep = match rng.below(3) {
                0 => rng.below(bytes.len() as u64) as usize,
                _ => place(rng, o, 1),
            };
            bytes.truncate(keep);
            "cut short"
        }
        6 => {
            let more = rng.of(&[1, 511, 4096, 70_000]);
            bytes.extend((0..more).map(|_| rng.next() as u8));
            "grown by junk"
        }
        7 => {
            let (from, to) = (place(rng, o, 512), place(rng, o, 512));
            let block = part(bytes, from, size).to_vec();
            put(bytes, to, &block);
            "a block duplicated"
        }
        8 => {
            let (a, b) = (place(rng, o, 512), place(rng, o, 512));
            let (one, two) = (part(bytes, a, size).to_vec(), part(bytes, b, size).to_vec());
            put(bytes, a, &two);
            put(bytes, b, &one);
            "blocks swapped"
        }
        9 | 10 => {
            // A header of another map, or of this one at another time, in one place or in several.
            // One of a time to come would be what this map was closed with.
            let to_come = |h: &Header| h.uuid == o.header.uuid && h.sequence > o.header.sequence;
            let others: Vec<&Original> = others.iter().filter(|other| !to_come(&other.header)).collect();
            let other = rng.of(&others);
            let copies = rng.of(&[1, 1, 1, 2, 3]);
            for _ in 0..copies {
                let (from, to) = (rng.below(4) as usize, rng.below(4) as usize);
                put(bytes, to * COPY_BYTES, &other.bytes[from * COPY_BYTES..][..COPY_BYTES]);
            }
            "a header of another file or time"
        }
        _ => {
            let table = o.header.layout.table.start as usize;
            let length = 4 * o.header.geometry.pages() as usize;
            let garbage = rng.below(2) == 1;
            part(bytes, table, length).iter_mut().for_each(|b| *b = if garbage { rng.next() as u8 } else { 0 });
            "the page table lost"
        }
    }
}

/// What bytes prove, by FORMAT.md alone.
struct Proof {
    dirty: Bits,
    /// Header copies of other maps, and of this one.
    foreign: (usize, usize),
}

/// The set of bits that a bottom and its page table say, page by page. `None` when entries are missing.
fn proven(bytes: &[u8], header: &Header, uuid: &Uuid, table: u64, bottom: u64) -> (Option<Bits>, u64) {
    let g = &header.geometry;
    let at = |offset: u64, length: usize| -> Vec<u8> {
        (0..length).map(|i| bytes.get(offset as usize + i).copied().unwrap_or(0)).collect()
    };
    if (bytes.len() as u64) < table + 4 * g.pages() {
        return (None, g.pages());
    }
    let mut bits = Vec::new();
    let mut failed = 0;
    for page in 0..g.pages() {
        let content: [u8; 512] = at(bottom + 512 * page, 512).try_into().unwrap();
        let entry = u32::from_le_bytes(at(table + 4 * page, 4).try_into().unwrap());
        let words = format::words_from_page(&content);
        let good = format::page_entry(uuid, page, &content) == entry && !format::stray_bits(g, page, &words);
        failed += u64::from(!good);
        bits.extend(format::page_words(g, page).zip(words).map(|(w, word)| if good { word } else { g.word_mask(w) }));
    }
    (Some(bits), failed)
}

fn ones(header: &Header) -> Bits {
    (0..header.geometry.words()).map(|w| header.geometry.word_mask(w)).collect()
}

fn count(bits: &[u64]) -> u64 {
    bits.iter().map(|w| u64::from(w.count_ones())).sum()
}

/// What the bytes of a corrupted file prove dirty in the map that it was. `None` when none of its headers is left.
fn proof(o: &Original, bytes: &[u8]) -> Option<Proof> {
    let copies = parse(bytes);
    let own: Vec<&Header> = copies.iter().flatten().filter(|h| h.uuid == o.header.uuid).collect();
    let foreign = (copies.iter().flatten().count() - own.len(), own.len());
    let header = own.iter().copied().max_by_key(|h| h.sequence)?;
    let all = ones(header);
    let (found, failed) = proven(bytes, header, &header.uuid, header.layout.table.start, header.layout.bottom.start);
    let Some(mut dirty) = found else { return Some(Proof { dirty: all, foreign }) };
    let closed = header.state == State::Clean && header.runs.is_empty();
    let good = count(&dirty);
    let mut everything = closed && good + 4096 * failed < header.clean_dirty_bits;
    for w in header.runs.iter().flat_map(|run| run.range()) {
        dirty[w as usize] = all[w as usize];
    }
    for point in header.points.iter().filter(|p| p.role == PointRole::Outstanding) {
        match point_bits(bytes, header, point) {
            (Some(bits), 0) if count(&bits) >= point.granules => {
                dirty.iter_mut().zip(bits).for_each(|(d, b)| *d |= b);
            }
            _ => everything = true,
        }
    }
    if let Some((intent, point)) = header.intent.zip(header.intent_point()).filter(|_| header.state == State::Open) {
        match point_bits(bytes, header, point) {
            (Some(bits), 0) if count(&bits) >= point.granules => {
                let rounded = bits.iter().zip(&all).map(|(word, mask)| intent.round(*word) & mask);
                dirty.iter_mut().zip(rounded).for_each(|(d, b)| *d |= b);
            }
            _ => everything = true,
        }
    }
    if everything {
        dirty = all;
    }
    Some(Proof { dirty, foreign })
}

fn point_bits(bytes: &[u8], header: &Header, point: &Point) -> (Option<Bits>, u64) {
    proven(bytes, header, &point.uuid, point.table_offset, point.bottom_offset)
}

/// What came of all corruptions.
#[derive(Default, Debug)]
struct Tally {
    kinds: BTreeMap<&'static str, u64>,
    states: BTreeMap<&'static str, u64>,
    verdicts: BTreeMap<&'static str, u64>,
    repaired: u64,
    hopeless: u64,
}

fn read(path: &Path) -> Option<DirtyMap> {
    Options::new().read_only(true).open(path).ok()
}

fn fine(report: &Report) -> bool {
    report.severity() <= Some(Severity::Note)
}

/// Says what was lost of an original by what a map reads.
fn lost(o: &Original, map: &DirtyMap) -> Option<String> {
    if map.geometry() != &o.header.geometry {
        return Some("the map has another length".into());
    }
    if let Some(bit) = missing(&o.dirty, &bits_of(map)) {
        return Some(format!("bit {bit}"));
    }
    o.since.iter().find_map(|(name, bits)| match bits_since(map, name) {
        Ok(now) => missing(bits, &now).map(|bit| format!("bit {bit} since {name}")),
        Err(_) => Some(format!("the point {name}")),
    })
}

/// One corruption, and all that is asked of check and repair then.
fn one(dir: &Path, seed: u64, maps: &[Vec<Original>], tally: &mut Tally) -> Result<(), String> {
    let rng = &mut Numbers(seed);
    let family = &maps[rng.below(maps.len() as u64) as usize];
    let o = &family[rng.below(family.len() as u64) as usize];
    let mut bytes = o.bytes.clone();
    let others: &[Original] = if rng.below(2) == 0 { family } else { &maps[rng.below(maps.len() as u64) as usize] };
    let events = rng.of(&[1, 1, 1, 1, 2, 3]);
    for _ in 0..events {
        let kind = corrupt(rng, o, &mut bytes, others);
        *tally.kinds.entry(kind).or_default() += 1;
    }
    *tally.states.entry(o.how).or_default() += 1;
    let (path, undo) = (dir.join("map"), dir.join("undo"));
    let _ = fs::remove_file(&undo);
    fs::write(&path, &bytes).unwrap();
    let proof = proof(o, &bytes);
    let say = |what: String| format!("{what} (of a map {})", o.how);

    // Check.
    let before = read(&path);
    let checked = check(&path, |_, _| {});
    if fs::read(&path).unwrap() != bytes {
        return Err(say("check has written".into()));
    }
    let verdict = match &checked {
        Err(_) => "unusable",
        Ok(report) if fine(report) => "fine",
        Ok(report) if report.severity() == Some(Severity::Unclean) => "unclean",
        Ok(_) => "damage",
    };
    *tally.verdicts.entry(verdict).or_default() += 1;
    if let Ok(report) = &checked {
        let Some(map) = &before else { return Err(say("check reads what cannot be opened".into())) };
        let read = bits_of(map);
        if report.info.dirty.unwrap().0 != count(&read) {
            return Err(say(format!("check counts {:?} dirty bits, of {}", report.info.dirty, count(&read))));
        }
        if fine(report)
            && let Some(lost) = lost(o, map)
        {
            return Err(say(format!("check says fine, and {lost} is lost")));
        }
    }

    let points = before.iter().flat_map(|map| map.points().unwrap()).map(|point| point.name);
    let since: Vec<_> = points.map(|name| (before.as_ref().map(|map| bits_since(map, &name)), name)).collect();

    // Recovery.
    opened(&path, &bytes, before.as_ref().map(bits_of).as_ref()).map_err(say)?;
    fs::write(&path, &bytes).unwrap();

    // Repair.
    let plan = plan_repair(&path, |_, _| {});
    let done = repair(&path, Some(&undo), Duration::ZERO, |_, _| {});
    match (&plan, &done) {
        (Ok(plan), Ok(done)) if plan.actions == done.actions => {}
        (Err(a), Err(b)) if a.kind() == b.kind() => {}
        _ => return Err(say(format!("planned {plan:?}, done {done:?}"))),
    }
    if let Err(e) = &done {
        tally.hopeless += 1;
        let other = proof.as_ref().is_some_and(|p| p.foreign.0 >= p.foreign.1);
        if proof.is_some() && !other && !matches!(e, dirtymap::Error::Unsupported { .. }) {
            return Err(say(format!("a good header copy is left, and repair says {e}")));
        }
        return if fs::read(&path).unwrap() == bytes { Ok(()) } else { Err(say("a failed repair has written".into())) };
    }
    let repaired = fs::read(&path).unwrap();
    if done.as_ref().is_ok_and(|plan| plan.is_needed()) != (repaired != bytes) {
        return Err(say(format!("repair says {done:?}, and the file differs: {}", repaired != bytes)));
    }
    let report = check(&path, |_, _| {}).map_err(|e| say(format!("after the repair: {e}")))?;
    if !report.findings.is_empty() || report.info.state != FileState::Clean {
        return Err(say(format!("after the repair: {:?}", report.findings)));
    }
    let map = read(&path).ok_or_else(|| say("after the repair it cannot be opened".into()))?;
    let after = bits_of(&map);
    if let Some(before) = &before
        && let Some(bit) = missing(&bits_of(before), &after)
    {
        return Err(say(format!("repair has made bit {bit} clean")));
    }
    if let Some(proof) = &proof
        && proof.foreign.0 <= proof.foreign.1
        && let Some(bit) = missing(&proof.dirty, &after)
    {
        return Err(say(format!("bit {bit} was proven dirty, and is clean after the repair")));
    }
    for (bits, name) in since {
        let now = bits_since(&map, &name).map_err(|e| say(format!("the point {name} after the repair: {e}")))?;
        if let Some(bit) = bits.and_then(|bits| missing(&bits.unwrap(), &now)) {
            return Err(say(format!("repair has made bit {bit} clean since {name}")));
        }
    }
    drop((before, map));
    let again = repair(&path, None, Duration::ZERO, |_, _| {}).map_err(|e| say(format!("repaired again: {e}")))?;
    if again.is_needed() || fs::read(&path).unwrap() != repaired {
        return Err(say(format!("a second repair: {:?}", again.actions)));
    }
    if repaired != bytes {
        tally.repaired += 1;
        undo_repair(&path, &undo, Duration::ZERO).map_err(|e| say(format!("undone: {e}")))?;
        if fs::read(&path).unwrap() != bytes {
            return Err(say("undo does not give back the very bytes".into()));
        }
    } else if undo.exists() {
        return Err(say("nothing was done, and an undo file was made".into()));
    }
    Ok(())
}

/// Who opens the file for writing finds what a reader has found; and so do readers, when that one has crashed or has closed it.
fn opened(path: &Path, bytes: &[u8], before: Option<&Bits>) -> Result<(), String> {
    for closes in [false, true] {
        fs::write(path, bytes).unwrap();
        let map = match (Options::new().flush_interval(None).open(path), before) {
            (Ok(map), Some(before)) if bits_of(&map) == *before => map,
            (Ok(map), before) => return Err(format!("opened, it has {:?}, and read {before:?}", bits_of(&map))),
            (Err(_), None) | (Err(dirtymap::Error::Unsupported { .. }), _) => return Ok(()),
            (Err(e), Some(_)) => return Err(format!("it can be read, and not be opened: {e}")),
        };
        let found = bits_of(&map);
        if closes {
            map.close().map_err(|e| format!("closed: {e}"))?;
        } else {
            drop(map);
        }
        let left = bits_of(&read(path).ok_or("nobody can read it afterwards")?);
        // What the intent of a map covers that was closed counts when that is open.
        if missing(&found, &left).is_some() || closes && left != found {
            return Err(format!("closed {closes}: {left:?} is left of {found:?}"));
        }
    }
    Ok(())
}

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn whatever_happens_to_the_bytes() {
    let base = std::env::var_os("DIRTYMAP_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    let maps: Vec<Vec<Original>> = (0..15).map(|number| originals(dir.path(), number)).collect();
    let mut tally = Tally::default();
    let seeds = match asked("DIRTYMAP_CORRUPTION") {
        Some(seed) => seed..seed + 1,
        None => 0..asked("DIRTYMAP_CORRUPTIONS").unwrap_or(120),
    };
    let mut failed = Vec::new();
    for seed in seeds.clone() {
        if let Err(e) = one(dir.path(), seed, &maps, &mut tally) {
            failed.push(format!("DIRTYMAP_CORRUPTION={seed}: {e}"));
        }
    }
    println!("corruptions {seeds:?}: {tally:#?}");
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed[..failed.len().min(20)].join("\n"));
}
