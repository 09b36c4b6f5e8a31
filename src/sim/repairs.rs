//! Repair on the simulated disk: damaged maps, and the power going in every durable write of the repair, of a second one,
//! and of putting back what it changed.
//!
//! Asked after each: what counted as dirty before the repair, in the map and since each point, does so still, whoever
//! reads the file; repairing it again ends as it should; and putting back gives the very bytes.

use crate::file::pages;
use crate::format::{ENTRY_BYTES, Intent, Point};
use crate::fsck::check::at_rest;
use crate::fsck::plan::plan;
use crate::fsck::repair::apply;
use crate::fsck::survey::{Survey, point_survey};
use crate::fsck::undo::put_back_from;
use crate::fsck::undo_file::write;
use crate::geometry::PAGE_BYTES;
use crate::session::load::load_in_memory;
use crate::sim::*;
use std::io::Cursor;

/// What counts as dirty in a file; nothing says so where it cannot be opened.
struct Counts {
    map: Option<Vec<bool>>,
    /// How much of each point, by its identity; all of it where a page of it fails.
    points: Vec<(String, u64)>,
}

fn point_counts(disk: &SimDisk, header: &Header, point: &Point) -> u64 {
    if !point.has_regions() {
        return point.granules;
    }
    let bottom = BottomRef::of_point(&header.geometry, point);
    let found = point_survey(disk.file(), disk.len().unwrap(), &bottom).unwrap();
    let whole = |found: &Survey| found.failures() == 0 && found.lost(&bottom).is_none();
    found.filter(whole).map_or(header.geometry.bits(), |found| found.good.granules)
}

fn counts(content: &Image) -> Counts {
    let disk = SimDisk::new(content.clone(), Vec::new());
    let Ok(loaded) = load_in_memory(disk.file(), None) else {
        return Counts { map: None, points: Vec::new() };
    };
    let both = both(&loaded);
    let map = bits_of(&loaded.view).map(|i| dirty(&both, i)).collect();
    let header = &loaded.header;
    // A point that is only the intent goes when it has been made dirty.
    let points = header.points.iter().filter(|point| point.role != PointRole::Intent);
    let points = points.map(|point| {
        // A kept one that repair mends has another identity from then on.
        let key = if point.role == PointRole::Kept { point.name.clone() } else { point.uuid.to_string() };
        (key, point_counts(&disk, header, point))
    });
    let points = points.collect();
    Counts { map: Some(map), points }
}

impl Counts {
    /// Whether all of this counts as dirty in `after`, a file that may be opened unless `cut_off`.
    fn kept_in(&self, after: &Counts, cut_off: bool) -> Verdict {
        let Some(map) = &after.map else {
            return if cut_off { Ok(()) } else { Err("it cannot be opened".into()) };
        };
        let all = vec![true; map.len()];
        if let Some(i) = self.map.as_ref().unwrap_or(&all).iter().zip(map).position(|(was, is)| *was && !is) {
            return Err(format!("bit {i} became clean"));
        }
        match self.points.iter().find(|p| !after.points.iter().any(|q| q.0 == p.0 && q.1 >= p.1)) {
            Some(point) => Err(format!("the point {} had {} dirty bits, and has {:?}", point.0, point.1, after.points)),
            None => Ok(()),
        }
    }
}

/// Gives a file that has none an intent, which counts where it was not closed: a point that is only that.
fn with_intent(content: Image, rng: &mut Rng) -> Image {
    let disk = SimDisk::new(content, Vec::new());
    let copies = headers::read_copies(&*disk);
    let Newest { header, .. } = headers::newest(disk.file()).unwrap();
    let same = |copy: &Header| copy.geometry == header.geometry && copy.intent.is_none();
    if header.durability == Durability::Process || !copies.iter().flatten().all(same) {
        return disk.device();
    }
    let g = &header.geometry;
    let table_offset = copies.iter().flatten().map(Header::file_length).max().unwrap();
    let point = Point {
        uuid: format::Uuid([0xd7; 16]),
        time: 0,
        role: PointRole::Intent,
        name: String::new(),
        table_offset,
        bottom_offset: table_offset + format::table_length(g),
        granules: rng.below(2),
        reasons: format::Reasons::NONE,
        target: None,
        reserved: format::Reserved::default(),
    };
    disk.extend(point.bottom(g).end).unwrap();
    let bit = rng.below(g.bits());
    let word = |w: u64| if w == bit / 64 { 1 << (bit % 64) } else { 0 };
    let page = |_, index: u64| std::array::from_fn(|i| word(index * 64 + i as u64));
    pages::write(&*disk, &BottomRef::of_point(g, &point), &[bit / PAGE_BITS], page).unwrap();
    let intent = Intent { point: point.uuid, unit: rng.below(7) as u32 };
    for (i, mut header) in copies.into_iter().enumerate().filter_map(|(i, copy)| Some((i, copy.ok()?))) {
        header.points.insert(header.points.len() - usize::from(header.outstanding().is_some()), point.clone());
        header.intent = Some(intent);
        let bytes = header.encode().unwrap();
        disk.write_durable(&[WriteSegment { offset: format::copy_offset(i), bytes: &bytes }]).unwrap();
    }
    disk.sync_all().unwrap();
    disk.device()
}

/// Damages a file: sectors of headers, page tables, bottoms and points become something else, or its end is lost.
fn damage(content: Image, rng: &mut Rng) -> Image {
    let disk = SimDisk::new(content, Vec::new());
    let header = headers::newest(disk.file()).unwrap().header;
    let g = &header.geometry;
    // Of each header copy what most use.
    let copy = |copy| format::copy_offset(copy)..format::copy_offset(copy) + 4096;
    let mut places: Vec<Range<u64>> = (0..format::COPIES).map(copy).collect();
    let mut bottom = |table: u64, bottom: u64| {
        places.push(table..table + ENTRY_BYTES * g.pages());
        places.push(bottom..bottom + PAGE_BYTES * g.pages());
    };
    bottom(header.layout.table.start, header.layout.bottom.start);
    header.points.iter().filter(|p| p.has_regions()).for_each(|point| bottom(point.table_offset, point.bottom_offset));
    let spare = rng.below(4);
    for _ in 0..rng.below(4) {
        let place = &places[rng.below(places.len() as u64) as usize];
        let offset = (place.start + rng.below(place.end - place.start)) / 512 * 512;
        if offset / format::COPY_BYTES as u64 == spare {
            continue; // One header copy stays.
        }
        let mut bytes = [0; 512];
        if rng.below(3) > 0 {
            bytes.iter_mut().for_each(|b| *b = rng.next() as u8);
        }
        disk.write_durable(&[WriteSegment { offset, bytes: &bytes }]).unwrap();
    }
    if rng.below(3) == 0 {
        let place = &places[format::COPIES + rng.below((places.len() - format::COPIES) as u64) as usize];
        disk.truncate((place.start + rng.below(place.end - place.start)) / 4096 * 4096).unwrap();
    }
    disk.sync_all().unwrap();
    disk.device()
}

fn planned(disk: &SimDisk) -> Result<crate::fsck::RepairPlan, String> {
    plan(disk.file(), &mut |_, _| {}).map_err(|e| format!("no plan: {e}"))
}

/// Repairs, and asks what must be so afterwards.
fn repaired(content: &Image, before: &Counts) -> Result<usize, String> {
    let disk = SimDisk::new(content.clone(), Vec::new());
    let plan = planned(&disk)?;
    apply(disk.file(), &plan).map_err(|e| format!("repair: {e}"))?;
    let report = at_rest(disk.file(), &mut |_, _| {}).map_err(|e| format!("check after the repair: {e}"))?;
    if !report.findings.is_empty() {
        return Err(format!("check after the repair: {:?}", report.findings));
    }
    before.kept_in(&counts(&disk.device()), false)?;
    let again = planned(&disk)?;
    if again.is_needed() { Err(format!("a second repair: {:?}", again.actions)) } else { Ok(disk.writes()) }
}

fn put_back(disk: &SimDisk, undo: &[u8]) -> crate::Result<crate::fsck::UndoReport> {
    put_back_from(disk.file(), &mut Cursor::new(undo), Path::new("undo"))
}

/// The file is as it was before the repair, also if putting back is cut short and done again.
fn undone(content: &Image, before: &Image, undo: &[u8], counted: &Counts, rng: &mut Rng) -> Verdict {
    let same = |disk: &SimDisk| {
        let now = disk.device();
        let length = SimDisk::new(before.clone(), Vec::new()).len().unwrap();
        if disk.len().unwrap() == length && now.differing(before).is_empty() {
            Ok(())
        } else {
            Err(format!("{} bytes, not {length}; sectors {:?}", disk.len().unwrap(), now.differing(before)))
        }
    };
    let disk = SimDisk::new(content.clone(), Vec::new());
    put_back(&disk, undo).map_err(|e| format!("undo: {e}"))?;
    same(&disk).map_err(|e| format!("undone: {e}"))?;
    for at in 0..disk.writes() {
        let pick = some_pick(rng);
        let cut = SimDisk::new(content.clone(), vec![(at, Fault::Cut(pick))]);
        put_back(&cut, undo).expect_err("the power went");
        let left = cut.device();
        let when = |e| format!("after a cut in write {at} of putting back ({pick:?}): {e}");
        counted.kept_in(&counts(&left), counted.map.is_none()).map_err(when)?;
        let disk = SimDisk::new(left, Vec::new());
        put_back(&disk, undo).map_err(|e| when(format!("again: {e}")))?;
        same(&disk).map_err(when)?;
    }
    Ok(())
}

fn one_seed(seed: u64) -> Result<usize, String> {
    let mut rng = Rng(seed);
    let ops = tree(program(Programs::Checkpointing), seed).current();
    let durability = if rng.below(6) == 0 { Durability::Process } else { Durability::PowerLoss };
    let faults =
        if rng.below(2) == 0 { vec![(rng.below(30) as usize, Fault::Cut(some_pick(&mut rng)))] } else { Vec::new() };
    let left = run(&ops, fresh_of(durability), faults, None)?.disk.device();
    let left = if seed.is_multiple_of(3) { with_intent(left, &mut Rng(!seed)) } else { left };
    let content = damage(left, &mut rng);
    let disk = SimDisk::new(content.clone(), Vec::new());
    let plan = planned(&disk)?;
    let before = counts(&content);
    let cut_off = before.map.is_none();
    let mut undo = Cursor::new(Vec::new());
    write(&*disk, &plan.kept(), &mut undo).map_err(|e| e.to_string())?;
    let undo = undo.into_inner();
    let writes = repaired(&content, &before)?;
    let mut crashes = 0;
    for at in 0..writes {
        for _ in 0..3 {
            crashes += 1;
            let fault = Fault::Cut(some_pick(&mut rng));
            let cut = SimDisk::new(content.clone(), vec![(at, fault)]);
            apply(cut.file(), &plan).expect_err("the power went");
            let left = cut.device();
            let when = |e: String| format!("after {fault:?} in write {at} of {writes}: {e}");
            let counted = counts(&left);
            before.kept_in(&counted, cut_off).map_err(when)?;
            repaired(&left, &before).map_err(when)?;
            if rng.below(4) == 0 {
                undone(&left, &content, &undo, &before, &mut rng).map_err(when)?;
            }
        }
    }
    let done = SimDisk::new(content.clone(), Vec::new());
    apply(done.file(), &plan).map_err(|e| e.to_string())?;
    if plan.is_needed() {
        undone(&done.device(), &content, &undo, &before, &mut rng)?;
    }
    Ok(crashes)
}

pub(super) fn seeds_of_repairs(from: u64, count: u64) -> Result<Tally, (u64, String)> {
    let mut tally = Tally::default();
    for seed in from..from + count {
        tally.programs += 1;
        verdict(|| one_seed(seed).map(|crashes| tally.crashes += crashes)).map_err(|e| (seed, e))?;
    }
    Ok(tally)
}

#[test]
fn no_crash_in_a_repair_or_in_undoing_it_makes_anything_clean() {
    let from = asked("DIRTYMAP_SIM_FROM", 1);
    let found = seeds_of_repairs(from, asked("DIRTYMAP_SIM_SEEDS", 20));
    report(name_of(no_crash_in_a_repair_or_in_undoing_it_makes_anything_clean), from, found);
}

/// Or the loss of a pair would bring back a header by which a page is clean that is about to be written.
#[test]
pub(super) fn both_pairs_doubt_what_is_repaired() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let layout = headers::newest(disk.file()).unwrap().header.layout;
    disk.write_durable(&[WriteSegment { offset: layout.bottom.start, bytes: &[0x55; 512] }]).unwrap();
    let plan = planned(&disk).unwrap();
    // A sync, two copies that are written again, and two commits come before the page.
    let cut = SimDisk::new(disk.device(), vec![(5, Fault::Cut(Pick::None))]);
    apply(cut.file(), &plan).expect_err("the power went");
    assert!(copies_on(&cut).all(|header| header.state == State::Open && header.runs.contains(0)));
}

#[test]
pub(super) fn what_was_set_since_a_repair_is_not_undone() {
    let disk = SimDisk::new(fresh(), Vec::new());
    drop(open_alone(disk.shared(), path(), &options(), 0).unwrap());
    let plan = planned(&disk).unwrap();
    let mut undo = Cursor::new(Vec::new());
    write(&*disk, &plan.kept(), &mut undo).unwrap();
    apply(disk.file(), &plan).unwrap();
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).unwrap();
    core.set_bits(3..4).unwrap();
    drop(core);
    let _ = put_back(&disk, &undo.into_inner());
    assert!(dirty(&both(&load_in_memory(disk.file(), None).unwrap()), 3));
}
