//! Setting, resetting and flushing.

use crate::file::headers::LastDurable;
use crate::format::Durability;
use crate::sim::regressions::*;

#[test]
pub(crate) fn a_flush_untouches_when_nobody_can_return_any_more() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = Arc::new(opened(&disk));
    // In order, so that words are armed ahead that nobody has touched.
    (0..4).for_each(|w| assert_eq!(core.set_bits(w * 64..w * 64 + 64).unwrap(), 64));
    let ahead = |core: &Core| -> Vec<u64> {
        (0..core.geometry().words())
            .filter(|&w| core.view().armed()[w as usize].load(SeqCst) != 0 && !flag(core.view().unflushed(), w))
            .collect()
    };
    assert!(!ahead(&core).is_empty());
    let set = Arc::new(Mutex::new(Vec::new()));
    let (c, bits) = (Arc::downgrade(&core), set.clone());
    once_at(SyncPoint::Untouched, move || {
        let c = c.upgrade().unwrap();
        for w in ahead(&c) {
            c.set_bits(w * 64..w * 64 + 1).unwrap();
            bits.lock().unwrap().push(w * 64);
        }
    });
    core.flush().unwrap();
    testing::visit(None);
    let left = after_a_cut(&disk);
    let lost = set.lock().unwrap().iter().copied().find(|&bit| !dirty(&both(&left), bit));
    assert_eq!(lost, None, "a set had returned");
}

/// Of a checkpoint that is over nobody reads the point.
#[test]
pub(crate) fn what_a_dead_one_has_committed_is_told_to_those_who_read() {
    let (_disk, first, other) = two_of(Durability::PowerLoss);
    first.set_bits(3..4).unwrap();
    let uuid = first.freeze(None, Duration::ZERO).unwrap().uuid;
    other.flush().unwrap();
    killed_at(SyncPoint::Committed, || drop(first.commit_checkpoint(&uuid, false)));
    drop(first);
    // Whatever takes the lock next; commits tell it anyway.
    drop(other.lock().unwrap().refresh_header().unwrap());
    assert!(!all_dirty(&other).contains(&true));
}

#[test]
pub(crate) fn a_set_after_a_reset_that_was_killed_sets() {
    let (_disk, resetter, other) = two_of(Durability::PowerLoss);
    resetter.set_bits(3..4).unwrap();
    resetter.flush().unwrap();
    killed_at(SyncPoint::ResetDurable, || drop(resetter.reset_bits(3..4)));
    drop(resetter);
    other.set_bits(3..4).unwrap();
    assert!(all_dirty(&other)[3]);
}

#[test]
pub(crate) fn who_was_replaced_is_refused() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let first = opened(&disk);
    first.set_bits(0..1).unwrap();
    let _second = opened(&disk);
    assert_eq!(first.set_bits(6400..6401).unwrap_err().kind(), "unusable");
}

/// A commit of a new length that failed may have come so far.
#[test]
pub(crate) fn nothing_is_set_by_a_header_with_other_regions() {
    let mut in_doubt = 0;
    for at in 0.. {
        let disk = SimDisk::new(fresh(), vec![(at, Fault::Fail(Pick::All, true))]);
        let Ok((core, _)) = opened_with(&disk, &options()) else { continue };
        let _ = core.set_bits(0..1);
        match core.truncate(geometry(BITS + 1)) {
            Ok(_) if disk.writes() <= at => break,
            Err(Failure::InDoubt(_)) => in_doubt += 1,
            _ => continue,
        }
        assert_eq!(core.set_bits(6400..6401).unwrap_err().kind(), "unusable");
    }
    assert_eq!(in_doubt, 2);
}

#[test]
pub(crate) fn the_list_stays_within_its_bound() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    for word in (0..BITS / 64).step_by(3) {
        core.set_bits(word * 64..word * 64 + 1).unwrap();
        assert!(header_on(&disk).runs.words() <= 24, "after word {word}");
    }
}

/// A copy of the header has many sectors then, of which a power cut leaves any: its checksum tells.
#[test]
fn a_commit_of_a_long_list_that_is_torn_leaves_the_old_one_or_the_new_one() {
    let mut rng = Rng(1);
    for words in [600, 40_000] {
        let disk = SimDisk::new(Image::default(), Vec::new());
        create::write_new(disk.file(), geometry(1 << 28), &Options { granularity: 0, ..options() }).unwrap();
        let Newest { mut header, pair, .. } = headers::newest(disk.file()).unwrap();
        let known = LastDurable { sequence: header.sequence, pair };
        (header.state, header.nonce) = (State::Open, format::Uuid([1; 16]));
        let mut end = 0;
        let mut next = |_| {
            end += 2 + rng.below(60);
            end
        };
        header.runs = (0..words).map(&mut next).collect();
        let known = headers::commit(&*disk, &mut header, known).unwrap();
        let before = disk.device();
        let mut more = header.clone();
        // Behind it, all bytes are moved by one.
        more.runs.insert(0..1);
        let sectors = 2 * more.used().div_ceil(SECTOR);
        let subsets = 0..if sectors <= 12 { 1 << sectors } else { 0 };
        let tried = picks(sectors, &mut rng).into_iter().chain(subsets.map(|mask| Pick::Mask(mask, mask % 3 == 0)));
        let mut found = [0, 0];
        for pick in tried {
            let cut = SimDisk::new(before.clone(), vec![(0, Fault::Cut(pick))]);
            headers::commit(&*cut, &mut more.clone(), known).expect_err("the power went");
            let left = headers::newest(SimDisk::new(cut.device(), Vec::new()).file()).unwrap().header;
            let new = left.sequence > header.sequence;
            assert_eq!(left.runs, if new { more.runs.clone() } else { header.runs.clone() }, "{words}: {pick:?}");
            found[usize::from(new)] += 1;
        }
        assert!(found[0] > 3 && found[1] > 0, "{words}: {found:?}");
    }
}

/// A map that is larger than what is set aside together.
#[test]
pub(crate) fn space_is_set_aside_before_it_is_stored_into() {
    let disk = SimDisk::new(Image::default(), Vec::new());
    let options = Options { granularity: 0, durability: Durability::Process, ..options() };
    create::write_new(disk.file(), geometry(1 << 20), &options).unwrap();
    let core = opened(&disk);
    core.set_bits(1 << 19..(1 << 19) + 1).unwrap();
    core.flush().unwrap();
    assert_eq!(disk.wrong(), Ok(()));
}

/// Another process waits for words that there is no space for.
#[test]
fn what_another_process_waits_for_makes_no_set_fail() {
    let disk = SimDisk::new(Image::default(), Vec::new());
    let options = Options { granularity: 0, ..options() };
    create::write_new(disk.file(), geometry(1 << 22), &options).unwrap();
    let (first, _other) = two_on(&disk);
    first.set_bits(0..1).unwrap();
    first.view().runtime()[runtime::wanted(1)].store(runtime::pack_wanted(&(1 << 15..(1 << 15) + 1)), SeqCst);
    disk.trouble(&[(Call::Allocate, 0..1000)]);
    first.set_bits(640..641).unwrap();
    assert!(flag(first.view().armed(), 640) && !flag(first.view().armed(), 1 << 21));
    assert!(first.set_bits(1 << 21..(1 << 21) + 1).is_err(), "there is no space");
}

/// More stretches of pages with resets than a list has room for: each takes two bytes.
#[test]
pub(crate) fn a_flush_of_resets_all_over_a_map_takes_as_many_rounds_as_it_needs() {
    let pages = format::MAX_LIST as u64 + 2;
    let disk = SimDisk::new(Image::default(), Vec::new());
    let options = Options { granularity: 0, armed_bound: Some(1 << 40), ..options() };
    create::write_new(disk.file(), geometry(pages * PAGE_BITS), &options).unwrap();
    let core = opened_with(&disk, &options).unwrap().0;
    core.set_bits(0..pages * PAGE_BITS).unwrap();
    core.flush().unwrap();
    let reset = |page: u64| page * PAGE_BITS..page * PAGE_BITS + 64;
    (0..pages).step_by(2).for_each(|page| assert_ne!(core.reset_bits(reset(page)).unwrap(), 0));
    core.flush().unwrap();
    let left = after_a_cut(&disk);
    let back = (0..pages).step_by(2).find(|&page| dirty(&both(&left), reset(page).start));
    assert_eq!(back, None, "a reset that was flushed came back");
}

/// What is to be listed, as it was reset and not set, cannot be.
#[test]
pub(crate) fn a_flush_that_failed_forgets_no_reset() {
    // Opening takes four writes; setting and flushing three.
    let disk = SimDisk::new(fresh(), vec![(7, Fault::Fail(Pick::None, false))]);
    let core = opened(&disk);
    core.set_bits(0..2).unwrap();
    core.flush().unwrap();
    core.reset_bits(0..1).unwrap();
    core.flush().unwrap_err();
    core.flush().unwrap();
    let left = after_a_cut(&disk);
    assert_eq!([0, 1].map(|bit| dirty(&both(&left), bit)), [false, true]);
}
