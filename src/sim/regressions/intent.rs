//! The write intent.

use crate::format::WordRanges;
use crate::sim::regressions::*;

/// A map whose last checkpoint had a bit. It is durable that it and its neighbour are likely to be set again.
fn map_that_expects(bit: u64) -> (Arc<SimDisk>, Arc<Core>) {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(bit..bit + 1).unwrap();
    check_in(&core);
    core.flush().unwrap();
    assert!(flag(core.view().armed(), bit) && flag(core.view().armed(), bit ^ 1));
    (disk, Arc::new(core))
}

/// A checkpoint from its freeze to its commit.
fn check_in(core: &Core) {
    let uuid = core.freeze(None, Duration::ZERO).unwrap().uuid;
    core.commit_checkpoint(&uuid, false).unwrap();
}

/// A page of the point that is the intent of a map, and where it is.
fn page_of_intent(disk: &SimDisk) -> (u64, [u8; PAGE_BYTES as usize]) {
    let offset = header_on(disk).intent_point().unwrap().bottom_offset;
    let mut page = [0; PAGE_BYTES as usize];
    disk.read_at(&mut page, offset).unwrap();
    (offset, page)
}

fn write(disk: &SimDisk, offset: u64, bytes: &[u8]) {
    disk.write_durable(&[WriteSegment { offset, bytes }]).unwrap();
}

/// It is set when the next point has been written, and that does not have it.
#[test]
pub(crate) fn what_was_set_under_an_intent_is_flushed_when_that_ends() {
    let (disk, core) = map_that_expects(64);
    core.set_bits(200..201).unwrap();
    let c = Arc::downgrade(&core);
    once_at(SyncPoint::Unnamed, move || _ = c.upgrade().unwrap().set_bits(64..65).unwrap());
    check_in(&core);
    testing::visit(None);
    assert!(dirty(&both(&after_a_cut(&disk)), 64), "lost");
}

/// It is seen to be armed before the intent ends, and stored after that.
#[test]
pub(crate) fn what_is_set_under_an_intent_that_has_ended_is_armed_again() {
    let (disk, core) = map_that_expects(64);
    core.set_bits(200..201).unwrap();
    let c = Arc::downgrade(&core);
    once_at(SyncPoint::SeenArmed, move || check_in(&c.upgrade().unwrap()));
    core.set_bits(64..65).unwrap();
    testing::visit(None);
    assert!(dirty(&both(&after_a_cut(&disk)), 64), "lost");
}

/// What a crash adds is frozen with the next checkpoint: it is not rounded out once more.
#[test]
fn crashes_do_not_make_an_intent_grow() {
    let (disk, core) = map_that_expects(64);
    drop(core);
    let sizes: Vec<u64> = (0..5)
        .map(|_| {
            let core = opened(&disk);
            check_in(&core);
            core.intent(&header_on(&disk)).unwrap().unwrap().items_beside(&WordRanges::new())
        })
        .collect();
    assert_eq!(sizes, [4; 5]);
}

/// A checkpoint of everything that was written is an intent; a first one is not, nor one after a doubt.
#[test]
fn what_a_doubt_has_made_dirty_predicts_nothing() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    let intended = |reason: Reasons| {
        core.add_dirt(reason, || core.set_bits(0..BITS)).unwrap();
        check_in(&core);
        core.intent(&header_on(&disk)).unwrap().map(|intent| intent.items_beside(&WordRanges::new()))
    };
    assert_eq!(intended(Reasons::NONE), None, "a first full backup");
    assert_eq!(intended(Reasons::NONE), Some(BITS));
    assert_eq!(intended(Reasons::IMAGE_CHANGED), None);
    assert_eq!(intended(Reasons::CRASH), Some(BITS));
}

#[test]
fn an_intent_may_be_bounded_in_items() {
    let geometry = Geometry::new(1 << 40, 16).unwrap();
    let bounds = |intent, words: u64| Bounds::new(Some(words << 22), intent, &geometry);
    let granules = |intent, words| bounds(intent, words).intended(&geometry, 1000);
    assert_eq!(granules(IntentBound::Items(10 << 16), 64), 10);
    assert_eq!(granules(IntentBound::None, 64), 0);
    assert_eq!([1, 2, 3, 1000].map(|words| granules(IntentBound::Proportional, words)), [2000, 2064, 2064, 4000]);
    // What was frozen by other bounds leaves half of the list.
    assert_eq!([0, 3, 10, u64::MAX].map(|beyond| bounds(IntentBound::Proportional, 10).beside(beyond)), [10, 7, 5, 5]);
    assert_eq!(bounds(IntentBound::Proportional, 1).beside(1), 1);
}

/// So a crash adds no more than the armed bound and twice what was frozen.
#[test]
pub(crate) fn the_list_spares_what_an_intent_covers_beyond_twice() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let (core, _) = opened_with(&disk, &options().armed_bound(8 * 64)).unwrap();
    (0..128).for_each(|i| _ = core.set_bits(i * 4..i * 4 + 1).unwrap());
    check_in(&core);
    let covered = core.intent(&header_on(&disk)).unwrap().unwrap().items_beside(&WordRanges::new());
    assert_eq!(covered, 512, "units of four");
    let listed = (20..60).map(|w| {
        core.set_bits(w * 64..w * 64 + 1).unwrap();
        header_on(&disk).runs.words()
    });
    let most = listed.max().unwrap();
    assert!(most > 2 && most * 64 + covered <= 8 * 64 + 2 * 128, "{most} words are listed");
}

/// A page that is covered whole takes no memory of a reader.
#[test]
fn a_reader_keeps_full_pages_of_an_intent_as_runs() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    (0..2).for_each(|_| {
        core.set_bits(0..BITS).unwrap();
        check_in(&core);
    });
    drop(core);
    let loaded = after_a_cut(&disk);
    assert!(all_of(&both(&loaded)).into_iter().all(|dirty| dirty));
    assert_eq!((loaded.view.live()[0].load(SeqCst), loaded.whole.contains(0)), (0, true));
}

/// What it covers of a page that is known to be full is no dirt for want of knowledge.
#[test]
fn a_reader_of_a_full_page_asks_no_intent() {
    let (disk, core) = map_that_expects(64);
    core.set_bits(0..PAGE_BITS).unwrap();
    core.flush().unwrap();
    drop(core);
    let loaded = after_a_cut(&disk);
    assert_eq!((loaded.view.live()[1].load(SeqCst), loaded.whole.contains(1)), (0, true));
    assert_eq!(both(&loaded).certain_word(1), u64::MAX);
}

/// Nothing is armed by it, and it ends.
#[test]
pub(crate) fn an_intent_that_cannot_be_read_does_not_outlive_an_opening() {
    for closes in [true, false] {
        let (disk, core) = map_that_expects(64);
        assert!(!closes || close(&core));
        drop(core);
        let (offset, page) = page_of_intent(&disk);
        write(&disk, offset, &[0xa5; PAGE_BYTES as usize]);
        let core = opened(&disk);
        assert_eq!(header_on(&disk).intent, None);
        assert!(closes || all_dirty(&core).into_iter().all(|dirty| dirty), "nobody knows what was set");
        core.set_bits(5000..5001).unwrap();
        write(&disk, offset, &page);
        assert!(dirty(&both(&after_a_cut(&disk)), 5000), "lost");
    }
}

/// One process has read it when it could be read, and one cannot now.
#[test]
pub(crate) fn an_intent_that_a_process_cannot_read_ends() {
    let (disk, first, other) = two_of(Durability::PowerLoss);
    first.set_bits(64..65).unwrap();
    check_in(&first);
    first.set_bits(65..66).unwrap();
    let (offset, page) = page_of_intent(&disk);
    write(&disk, offset, &[0xa5; PAGE_BYTES as usize]);
    other.set_bits(5000..5001).unwrap();
    first.set_bits(64..65).unwrap();
    write(&disk, offset, &page);
    let left = after_a_cut(&disk);
    for bit in [64, 65, 5000] {
        assert!(dirty(&both(&left), bit), "bit {bit} is lost");
    }
}

/// An opener writes nothing of what the intent alone covers. Who ends the intent writes it first.
#[test]
pub(crate) fn what_an_opener_leaves_to_the_intent_is_flushed_when_that_ends() {
    let (disk, first, other) = two_of(Durability::PowerLoss);
    // A whole word: of another one that is armed in part, the flush could tell that it is behind.
    first.set_bits(64..128).unwrap();
    check_in(&first);
    first.flush().unwrap();
    first.set_bits(64..128).unwrap();
    drop((first, other));
    let (first, other) = two_on(&disk);
    assert!(flag(first.view().armed(), 64) && all_dirty(&first)[64]);
    assert_eq!(first.view().durable()[1].load(SeqCst), 0, "it was written at once");
    let (offset, page) = page_of_intent(&disk);
    write(&disk, offset, &[0xa5; PAGE_BYTES as usize]);
    other.set_bits(5000..5001).unwrap();
    write(&disk, offset, &page);
    assert_eq!(header_on(&disk).intent, None);
    assert!(dirty(&both(&after_a_cut(&disk)), 64), "lost");
}

/// The space of what an intent arms is set aside before a header says OPEN.
#[test]
fn who_opens_on_a_full_disk_leaves_a_closed_map_closed() {
    let options = Options { granularity: 0, access: Access::Shared, ..options() };
    let closed = SimDisk::new(Image::default(), Vec::new());
    create::write_new(closed.file(), geometry(1 << 22), &options).unwrap();
    let (core, _) = opened_with(&closed, &options).unwrap();
    core.set_bits(1 << 21..(1 << 21) + 1).unwrap();
    check_in(&core);
    assert!(close(&core));
    let failed = (0..).find(|&calls| {
        let disk = SimDisk::new(closed.device(), Vec::new());
        disk.trouble(&[(Call::Allocate, calls..1000)]);
        let opened = opened_with(&disk, &options).is_ok();
        assert!(opened || header_on(&disk).state == State::Clean, "{calls}: not opened, and not closed");
        opened
    });
    assert!(failed > Some(1));
}

/// Until a header without it is durable, what was set is covered by it.
#[test]
pub(crate) fn the_old_intent_is_there_until_the_new_one_is_durable() {
    let (disk, core) = map_that_expects(64);
    core.set_bits(200..201).unwrap();
    let looked = Rc::new(Cell::new(false));
    let (left, seen) = (Arc::downgrade(&disk), looked.clone());
    once_at(SyncPoint::Disarmed, move || {
        let loaded = load_in_memory(left.upgrade().unwrap().after_death().file(), None).unwrap();
        assert_eq!(loaded.recovery.damaged_pages, 0, "its regions were given up");
        seen.set(true);
    });
    check_in(&core);
    testing::visit(None);
    assert!(looked.get());
}

/// It has read the one before.
#[test]
pub(crate) fn a_process_knows_when_another_has_switched_the_intent() {
    let (disk, first, other) = two_of(Durability::PowerLoss);
    first.set_bits(64..65).unwrap();
    check_in(&first);
    other.set_bits(5000..5001).unwrap();
    check_in(&first);
    other.set_bits(64..65).unwrap();
    assert!(dirty(&both(&after_a_cut(&disk)), 64), "lost");
}

/// Without an intent nothing else keeps the point.
#[test]
pub(crate) fn what_was_frozen_is_there_until_the_commit_is_durable() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let (core, _) = opened_with(&disk, &Options { intent_bound: IntentBound::None, ..options() }).unwrap();
    core.set_bits(0..1).unwrap();
    let uuid = core.freeze(None, Duration::ZERO).unwrap().uuid;
    let (left, looks) = (Arc::downgrade(&disk), Arc::new(Mutex::new(0)));
    let looked = looks.clone();
    disk.interlope(Some(Box::new(move || {
        let loaded = load_in_memory(left.upgrade().unwrap().after_death().file(), None).unwrap();
        assert_eq!(loaded.recovery.damaged_pages, 0, "its regions were given up");
        *looked.lock().unwrap() += 1;
    })));
    core.commit_checkpoint(&uuid, false).unwrap();
    disk.interlope(None);
    assert_eq!(*looks.lock().unwrap(), 2, "to both pairs");
}

/// And without one a crash in an abort finds the bits in the point, or here.
#[test]
pub(crate) fn what_an_abort_puts_back_is_there_before_the_point_goes() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let (core, _) = opened_with(&disk, &Options { intent_bound: IntentBound::None, ..options() }).unwrap();
    core.set_bits(0..1).unwrap();
    let uuid = core.freeze(None, Duration::ZERO).unwrap().uuid;
    core.flush().unwrap();
    let left = Arc::downgrade(&disk);
    disk.interlope(Some(Box::new(move || {
        let loaded = load_in_memory(left.upgrade().unwrap().after_death().file(), None).unwrap();
        assert!(dirty(&both(&loaded), 0), "lost");
    })));
    core.abort(&uuid).unwrap();
    disk.interlope(None);
}

/// It was dirty and flushed, and so nothing covers its neighbour before the new intent does.
#[test]
pub(crate) fn nothing_is_armed_by_an_intent_before_a_header_names_it() {
    let (disk, core) = map_that_expects(64);
    core.set_bits(200..201).unwrap();
    core.flush().unwrap();
    let (c, looks) = (Arc::downgrade(&core), Arc::new(Mutex::new(0)));
    let looked = looks.clone();
    disk.interlope(Some(Box::new(move || {
        assert!(!flag(c.upgrade().unwrap().view().armed(), 201), "armed, and covered by no durable header");
        *looked.lock().unwrap() += 1;
    })));
    core.freeze_begin(None).unwrap();
    disk.interlope(None);
    assert!(flag(core.view().armed(), 201) && *looks.lock().unwrap() > 2);
}
