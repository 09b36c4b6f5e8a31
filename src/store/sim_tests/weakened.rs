//! Each step of the protocol is switched off in turn, and some suite must then fail: a check that cannot fail is no check.
//!
//! Invariant kept here: [`suite`] names one for every switch, or this does not compile; and docs/design.md names every
//! switch in brackets at its rule, and nothing else, so that a reader can go through the protocol line by line.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What fails without a step. A seed is the first that does, so that the test is quick. Programs change with the code: so
/// ten seeds are tried from there on. `DIRTYMAP_WEAK_SEEDS=100` looks further, `DIRTYMAP_WEAK_ONLY=NoOpen` at one step only.
enum Suite {
    /// Random programs of one process.
    Seed(u64, Programs),
    /// Random programs of several.
    Several(u64, Durability),
    /// [`scenarios`].
    Schedules,
    /// A test of its own.
    Test(fn()),
    /// A scenario of `loom_tests.rs`, whose own table names the step: it takes a build of its own.
    Loom,
}

fn suite(step: Weak) -> Suite {
    use Durability::PowerLoss;
    use Programs::{Checkpointing, Plain};
    use Suite::{Loom, Schedules, Seed, Several, Test};
    match step {
        Weak::PublishEarly => Seed(2, Plain),
        Weak::NoRecheck => Seed(2, Plain),
        Weak::Untouched => Seed(2, Plain),
        Weak::TouchFirst => Schedules,
        Weak::EarlyDrop => Seed(2, Plain),
        Weak::NoPageWrite => Seed(2, Plain),
        Weak::UnsyncedPages => Seed(1, Plain),
        Weak::UnsyncedHeaders => Seed(1, Plain),
        Weak::ClearLate => Test(a_word_that_was_touched_after_it_was_copied_is_not_forgotten),
        Weak::KeepDurable => Seed(1, Plain),
        Weak::ResetTouchLast => Test(sharing::a_reset_of_one_who_is_killed_does_not_come_back_when_others_close),
        Weak::TrustNewest => Seed(1, Plain),
        Weak::ForgetAttempt => Schedules,
        Weak::TrustOlder => Schedules,
        Weak::IgnoreRivals => Test(format::rivals_that_differ_in_their_lists_arm_both),
        Weak::SkipUnarmed => Seed(2, Plain),
        Weak::ArmNoTouch => Seed(3, Plain),
        Weak::ForgetError => Seed(2, Plain),
        Weak::NoDegrade => Seed(10, Plain),
        Weak::TruncateForgetError => {
            Test(a_map_in_which_a_write_failed_before_its_length_changed_does_not_close_as_clean)
        }
        Weak::TruncateForgetDoubt => {
            Test(a_failed_commit_of_a_new_length_is_remembered_in_the_old_region_and_in_the_new_one)
        }
        Weak::CleanAnyway => Seed(10, Plain),
        Weak::CloseNoAsk => Test(what_the_kernel_did_not_write_back_keeps_a_process_map_from_closing_as_clean),
        Weak::WriteUnlisted => Schedules,
        Weak::ForgetResets => Seed(1, Plain),
        Weak::NoMark | Weak::NoAbsorb => Test(sharing::what_a_dead_flusher_untouched_is_absorbed),
        Weak::UntouchBlindly => Loom,
        Weak::IgnoreList => Seed(1, Plain),
        Weak::IgnoreMismatch => Seed(2, Plain),
        Weak::RecoverEarlyDrop => Seed(1, Plain),
        Weak::NoRewrite => Seed(9, Plain),
        Weak::RenewBoth => Seed(1, Plain),
        Weak::RenewNewestFirst => Seed(1, Plain),
        Weak::NoOpen => Seed(1, Plain),
        Weak::Parity => Seed(3, Plain),
        Weak::TruncateEarlyFree => Seed(16, Plain),
        Weak::TruncateOnePair => Seed(5, Plain),
        Weak::TruncateNoClear => Schedules,
        Weak::TruncateNoSync => Schedules,
        Weak::TruncateKeepShared => {
            Test(truncate::tests::a_reader_does_not_outlive_the_old_length_whenever_the_process_is_killed)
        }
        Weak::FreezeEarlyReset => Seed(1, Checkpointing),
        Weak::FreezeOnePair => Schedules,
        Weak::FreezeNoRecheck => Schedules,
        Weak::NoDrain => Test(checkpoint::tests::a_freeze_that_was_aborted_waits_for_no_write),
        Weak::PointNoWrite => Seed(1, Checkpointing),
        Weak::PointNoClear => Schedules,
        Weak::PointNoSync => Schedules,
        Weak::PointNoCount => Test(a_point_of_which_a_page_is_lost_with_its_entry_is_all_dirty),
        Weak::PointEarlyFree => Seed(1, Checkpointing),
        Weak::DropOnePair => Schedules,
        Weak::AbortEarly => Seed(1, Checkpointing),
        Weak::NoAborting => Schedules,
        Weak::NoUuid => Schedules,
        Weak::SilentCheckpoint => Several(1, PowerLoss),
        Weak::SummariesLate | Weak::SkipSummaries | Weak::NoSecondLook | Weak::Unsteady | Weak::AcquireRelease => Loom,
    }
}

/// Runs what must fail without a step; says what was found.
fn without(step: Weak) -> Option<String> {
    let count = asked("DIRTYMAP_WEAK_SEEDS", 10);
    let tried =
        |found: Result<Tally, (u64, String)>| found.map(|_| ()).map_err(|(seed, why)| format!("seed {seed}: {why}"));
    let run = || match suite(step) {
        Suite::Seed(from, programs) => tried(seeds(asked("DIRTYMAP_WEAK_FROM", from), count, programs)),
        Suite::Several(from, durability) => {
            tried(sharing::seeds_of_several(asked("DIRTYMAP_WEAK_FROM", from), count, durability))
        }
        Suite::Schedules => tried(scenarios()),
        Suite::Test(test) => {
            test();
            Ok(())
        }
        Suite::Loom => {
            let table = include_str!("../loom_tests.rs");
            match table.contains(&format!("(Weak::{step:?}, \"")) {
                true => Err("in the table of loom_tests.rs".into()),
                false => Ok(()),
            }
        }
    };
    let ended = weak::with(Some(step), || catch_unwind(AssertUnwindSafe(run)));
    weak::visit(None);
    ended.unwrap_or_else(|_| Err("it panics".into())).err()
}

#[test]
fn every_weakened_build_fails_a_suite() {
    let only = std::env::var("DIRTYMAP_WEAK_ONLY").unwrap_or_default();
    let steps = Weak::ALL.iter().filter(|step| format!("{step:?}").contains(&only));
    let mut survived = Vec::new();
    for &step in steps {
        let began = std::time::Instant::now();
        match without(step) {
            Some(why) => println!("{step:?}: {:.1?}: {why}", began.elapsed()),
            None => survived.push(step),
        }
    }
    println!("{} weakened builds, {} of them survive", Weak::ALL.len(), survived.len());
    assert!(survived.is_empty(), "nothing fails without {survived:?}");
}

/// Lists of switches in brackets, as docs/design.md has them. Those that begin with `model:` are variants of models.
fn in_brackets(text: &str) -> Vec<&str> {
    let lists = text.split('[').skip(1).filter_map(|rest| rest.split_once(']')).map(|(list, _)| list);
    let names = |list: &&str| list.split(',').all(|name| name.trim().chars().all(|c| c.is_ascii_alphanumeric()));
    let switch = |name: &&str| name.starts_with(|c: char| c.is_ascii_uppercase());
    lists.filter(names).flat_map(|list| list.split(',').map(str::trim)).filter(switch).collect()
}

#[test]
fn the_design_names_every_switch_at_its_rule() {
    let design = include_str!("../../../docs/design.md");
    let (named, all): (Vec<&str>, Vec<String>) =
        (in_brackets(design), Weak::ALL.iter().map(|step| format!("{step:?}")).collect());
    let missing: Vec<_> = all.iter().filter(|step| !named.contains(&step.as_str())).collect();
    let unknown: Vec<_> = named.iter().filter(|name| !all.iter().any(|step| step == *name)).collect();
    assert!(missing.is_empty(), "docs/design.md does not name {missing:?}");
    assert!(unknown.is_empty(), "docs/design.md names {unknown:?}, which src/weak.rs does not have");
}

/// Some steps cannot be left out by one thread, or take processes that the simulation has not: models leave them out.
#[test]
fn the_design_names_variants_that_the_models_have() {
    let design = include_str!("../../../docs/design.md");
    let models = concat!(
        include_str!("../../../tests/model_coverage.rs"),
        include_str!("../../../tests/model_takeover.rs"),
        include_str!("../../../tests/model_locks.rs"),
        include_str!("../../../tests/model_freeze.rs"),
        include_str!("../../../tests/model_epoch.rs"),
    );
    let lists: Vec<&str> = design.split("[model: ").skip(1).filter_map(|rest| rest.split(']').next()).collect();
    assert!(!lists.is_empty());
    for name in lists.iter().flat_map(|list| list.split(',')).map(str::trim) {
        assert!(models.contains(&format!("Variant::{name}")), "no model has {name}");
    }
}
