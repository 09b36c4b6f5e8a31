//! Each step of the protocol is switched off in turn, and some suite must then fail: a check that cannot fail is no check.
//!
//! Invariant kept here: [`suite`] names one for every switch, or this does not compile; and docs/design.md names every
//! switch in brackets at its rule, and nothing else, so that a reader can go through the protocol line by line.

use crate::store::sim_tests::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What fails without a step. A seed is the first that does, so that the test is quick. Programs change with the code: so
/// ten seeds are tried from there on. `DIRTYMAP_WEAK_SEEDS=100` looks further, `DIRTYMAP_WEAK_ONLY=NoOpen` at one step only.
enum Suite {
    /// Random programs of one process.
    Seed(u64, Programs),
    /// Random programs of several.
    Several(u64, Durability),
    /// Repairs of damaged maps.
    Repairs(u64),
    /// [`scenarios`].
    Schedules,
    /// A test of its own.
    Test(fn()),
    /// A scenario of `loom_tests.rs`, whose own table names the step: it takes a build of its own.
    Loom,
}

fn suite(step: Weak) -> Suite {
    use Durability::{PowerLoss, Process};
    use Programs::{Checkpointing, Plain};
    use Suite::{Loom, Repairs, Schedules, Seed, Several, Test};
    match step {
        Weak::PublishEarly => Seed(2, Plain),
        Weak::NoRecheck => Seed(2, Plain),
        Weak::Untouched => Seed(1, Plain),
        Weak::TouchFirst => Schedules,
        Weak::EarlyDrop => Seed(1, Plain),
        Weak::NoPageWrite => Seed(1, Plain),
        Weak::UnsyncedPages => Seed(1, Plain),
        Weak::UnsyncedHeaders => Seed(1, Plain),
        Weak::ClearLate => Test(a_word_that_was_touched_after_it_was_copied_is_not_forgotten),
        Weak::KeepDurable => Seed(3, Plain),
        Weak::ResetTouchLast => Test(sharing::a_reset_of_one_who_is_killed_does_not_come_back_when_others_close),
        Weak::TrustNewest => Seed(18, Plain),
        Weak::ForgetAttempt => Schedules,
        Weak::TrustOlder => Schedules,
        Weak::IgnoreRivals => Test(format::rivals_that_differ_in_their_lists_arm_both),
        Weak::SkipUnarmed => Seed(2, Plain),
        Weak::ArmNoTouch => Seed(2, Plain),
        Weak::ForgetError => Seed(2, Plain),
        Weak::NoDegrade => Seed(1, Plain),
        Weak::TruncateForgetError => {
            Test(a_map_in_which_a_write_failed_before_its_length_changed_does_not_close_as_clean)
        }
        Weak::TruncateForgetDoubt => {
            Test(a_failed_commit_of_a_new_length_is_remembered_in_the_old_region_and_in_the_new_one)
        }
        Weak::CleanAnyway => Seed(1, Plain),
        Weak::CloseNoAsk => Test(what_the_kernel_did_not_write_back_keeps_a_process_map_from_closing_as_clean),
        Weak::WriteUnlisted => Schedules,
        Weak::ForgetResets => Seed(8, Plain),
        Weak::NoMark | Weak::NoAbsorb => Test(sharing::what_a_dead_flusher_untouched_is_absorbed),
        Weak::UntouchBlindly => Loom,
        Weak::IgnoreList => Seed(1, Plain),
        Weak::IgnoreMismatch => Seed(1, Plain),
        Weak::RecoverEarlyDrop => Seed(1, Plain),
        Weak::NoRewrite => Seed(8, Plain),
        Weak::RenewBoth => Seed(1, Plain),
        Weak::RenewNewestFirst => Seed(2, Plain),
        Weak::NoOpen => Seed(1, Plain),
        Weak::Parity => Seed(5, Plain),
        Weak::TruncateEarlyFree => Seed(1, Plain),
        Weak::TruncateOnePair => Seed(1, Plain),
        Weak::TruncateNoClear => Schedules,
        Weak::TruncateNoSync => Schedules,
        Weak::TruncateKeepShared => {
            Test(resize::tests::a_reader_does_not_outlive_the_old_length_whenever_the_process_is_killed)
        }
        Weak::FreezeEarlyReset => Seed(13, Checkpointing),
        Weak::FreezeOnePair => Schedules,
        Weak::FreezeNoRecheck => Schedules,
        Weak::NoDrain => Test(checkpoint::tests::a_freeze_that_was_aborted_waits_for_no_write),
        Weak::PointNoWrite => Seed(1, Checkpointing),
        Weak::PointNoClear => Schedules,
        Weak::PointNoSync => Schedules,
        Weak::PointNoCount => Test(a_point_of_which_a_page_is_lost_with_its_entry_is_all_dirty),
        Weak::PointEarlyFree => Seed(1, Checkpointing),
        Weak::CommitNoJoin => Seed(1, Checkpointing),
        Weak::CommitOnePair | Weak::AbortOnePair | Weak::DropOnePair => Schedules,
        Weak::AbortEarly => Seed(3, Checkpointing),
        Weak::NoAborting => Schedules,
        Weak::NoUuid => Schedules,
        Weak::SilentCheckpoint => Several(1, PowerLoss),
        Weak::SetForgetError => Seed(1, Plain),
        Weak::UntouchFirst => Test(steps::a_flush_untouches_when_nobody_can_return_any_more),
        Weak::ResetLiveFirst => Test(steps::a_set_after_a_reset_that_was_killed_sets),
        Weak::AdoptAnySession => Test(steps::who_was_replaced_is_refused),
        Weak::AdoptAnyRegions => Test(steps::nothing_is_set_by_a_header_with_other_regions),
        Weak::SilentAdoption => Test(steps::what_a_dead_one_has_committed_is_told_to_those_who_read),
        Weak::HeaderForgetsError => Test(steps::the_header_knows_of_a_failed_write_as_well),
        Weak::AttemptLate => Schedules,
        Weak::KnownEarly => Seed(1, Plain),
        Weak::NoBound => Test(steps::the_list_stays_within_its_bound),
        Weak::NoAllocate => Test(steps::space_is_set_aside_before_it_is_stored_into),
        Weak::OneRound => Test(steps::a_flush_of_resets_all_over_a_map_takes_as_many_rounds_as_it_needs),
        Weak::ForgetResetsEarly => Test(steps::a_flush_that_failed_forgets_no_reset),
        Weak::NoWindow | Weak::RememberLate => {
            Test(sharing::a_reset_of_one_who_is_killed_does_not_come_back_when_others_close)
        }
        Weak::TrustOtherBoot => Several(1, Process),
        Weak::TrustUnasked => Several(13, Process),
        Weak::TrustUnknown => Test(steps::the_page_cache_of_nobody_knows_which_boot_is_not_trusted),
        Weak::TrustOtherFile => Test(steps::the_page_cache_of_another_file_is_not_trusted),
        Weak::TrustAnyNonce => Test(steps::bits_without_a_nonce_are_not_trusted),
        Weak::TrustDegraded => Test(steps::what_a_process_was_told_of_a_lost_page_outlives_it),
        Weak::AskUnmarked => Test(steps::who_asks_the_kernel_says_so_before),
        Weak::NonceLast => Test(steps::who_opens_takes_the_nonce_away_before_the_bits),
        Weak::KeepVolatile => Test(steps::what_the_dead_have_left_in_the_volatile_part_is_nothing_to_go_by),
        Weak::KeepNonce => Test(steps::a_reader_notices_that_somebody_has_the_map_alone),
        Weak::IgnoreLength => Test(steps::a_file_that_ends_within_its_page_table_is_not_opened),
        Weak::IgnoreChecksum => Seed(2, Plain),
        Weak::AnyOfTwoMaps => Test(format::between_two_maps_with_equally_many_copies_nobody_can_tell),
        Weak::PassOverNewer => Test(format::what_a_newer_version_committed_is_not_passed_over),
        Weak::IgnoreStray => Test(steps::bits_past_the_end_make_a_page_damaged),
        Weak::IgnoreLostCommit => Test(steps::a_commit_of_which_both_copies_rot_makes_everything_dirty),
        Weak::OutlivedForgotten => Test(steps::writes_of_the_dead_are_not_forgotten_with_the_last_process),
        Weak::IgnoreLost | Weak::CloseNoCount => Test(steps::a_page_that_was_lost_with_its_entry_is_missed),
        Weak::IgnoreImage => Test(steps::another_image_makes_everything_dirty),
        Weak::TimesOfOtherBoot => {
            Test(crate::image_stamp::tests::times_prove_nothing_unless_they_were_settled_and_of_this_boot)
        }
        Weak::YoungStamp => Test(crate::image_stamp::settle::tests::a_later_write_never_leaves_an_exact_stamp_as_it_is),
        Weak::BeginForgetsTarget => {
            Test(crate::map::backup::tests::a_backup_that_is_begun_leaves_the_last_target_alone)
        }
        Weak::NameTargetLate => {
            Test(crate::map::backup::tests::what_is_clean_and_the_target_that_has_it_change_at_once)
        }
        Weak::NoReasons => Test(steps::the_header_says_that_there_was_a_crash),
        Weak::ReasonsOfPoint | Weak::AbortForgetsReasons => {
            Test(verdicts::what_was_added_is_told_of_while_it_is_frozen_and_when_it_comes_back)
        }
        Weak::AddUncounted => Test(verdicts::what_is_added_after_a_backup_began_is_not_forgotten_with_it),
        Weak::SeenAdding => Test(verdicts::what_is_just_being_added_is_not_forgotten),
        Weak::SeenAborting => Test(verdicts::what_an_abort_is_putting_back_is_not_forgotten),
        Weak::SeenLate => Test(verdicts::what_is_added_behind_a_reset_of_everything_is_not_forgotten_with_it),
        Weak::FreezeReasonsLate => Test(verdicts::a_point_knows_of_what_was_forgotten_since_it_was_written),
        Weak::FreezeForgetsLater => Test(verdicts::what_is_added_after_the_point_was_written_is_not_forgotten_with_it),
        Weak::AbortUncounted => Test(verdicts::what_came_back_after_a_backup_began_is_not_forgotten_with_it),
        Weak::OpenNoAbort => Test(steps::a_checkpoint_that_was_not_frozen_does_not_outlive_its_process),
        Weak::JoinAnyNonce => Test(steps::the_session_of_the_dead_is_not_joined),
        Weak::JoinUnshared => Test(steps::who_has_a_map_alone_is_not_joined),
        Weak::JoinWithoutSlots => Test(steps::who_has_the_attach_lock_and_no_slot_has_no_session),
        Weak::JoinCutOff => Test(steps::nobody_maps_what_is_behind_the_end_of_the_file),
        Weak::WatchRepaired => {
            Test(points::tests::what_was_read_while_a_session_of_the_dead_was_repaired_does_not_count)
        }
        Weak::WatchEnded => Test(points::tests::what_was_read_of_a_session_that_has_ended_meanwhile_is_an_error),
        Weak::CloseNoFlush => Test(steps::a_clean_close_flushes_what_others_have_set),
        Weak::CloseCountEarly => Test(steps::a_clean_close_counts_what_others_have_set),
        Weak::CloseNonceEarly => {
            Test(sharing::who_dies_before_a_close_is_committed_leaves_a_page_cache_that_is_trusted)
        }
        Weak::JoinKeepSlot => Test(steps::who_joins_has_no_writes_of_the_dead_under_way),
        Weak::CloseNoCompare => Test(steps::a_clean_close_looks_whether_all_that_is_live_is_durable),
        Weak::CloseKeepNonce => Test(steps::a_clean_close_takes_the_nonce_away),
        Weak::CloseForgetDoubt => Test(steps::a_map_whose_close_is_in_doubt_takes_no_more_bits),
        Weak::AnyState => Test(steps::what_is_not_frozen_is_not_committed),
        Weak::NoSpace => Test(steps::two_who_freeze_do_not_write_to_the_same_space),
        Weak::AbortNoSpace => Test(steps::who_aborts_late_sets_nothing_that_was_reset_since),
        Weak::AbortNoRecheck => Test(steps::who_aborts_late_leaves_the_points_of_others_alone),
        Weak::PutBackIgnoreFailed => Test(steps::putting_back_a_point_of_which_a_page_fails_makes_everything_dirty),
        Weak::PointIgnoreFailed => Test(steps::a_point_of_which_a_page_fails_is_everything),
        Weak::PointIgnoreLength => Test(steps::a_point_of_which_the_file_has_not_all_entries_is_everything),
        Weak::StalePoint => Several(1, PowerLoss),
        Weak::LookOnce => Test(steps::who_reads_looks_again_when_bits_have_moved),
        Weak::DropNoMerge => Test(steps::the_bits_of_a_point_that_is_dropped_go_to_the_older_one),
        Weak::RegisterLate => Test(steps::a_bracket_registers_before_it_sets),
        Weak::DrainOne => Test(steps::a_freeze_waits_for_the_writes_that_the_one_before_has_left),
        Weak::ForgetOutlived | Weak::TakeOutlived => {
            Test(steps::no_freeze_succeeds_while_a_write_of_the_dead_may_arrive)
        }
        Weak::TruncateOutstanding => Test(steps::the_length_does_not_change_while_a_checkpoint_is_outstanding),
        Weak::TruncateForgetPoints => Test(steps::points_go_with_the_length),
        Weak::TruncateTargetReaches => Test(steps::what_is_new_is_dirty_where_the_target_reaches_behind_the_old_end),
        Weak::TruncateForgetNew => Test(steps::what_is_new_is_dirty_since_every_point),
        Weak::TruncateJoinable => {
            Test(a_failed_commit_of_a_new_length_is_remembered_in_the_old_region_and_in_the_new_one)
        }
        Weak::TruncateForgetSlots => Test(steps::a_new_length_does_not_forget_writes_of_the_dead),
        Weak::CreateUnsynced => Test(steps::a_new_file_is_all_there_when_it_gets_its_name),
        Weak::RepairOnePair => Test(repair::both_pairs_doubt_what_is_repaired),
        Weak::RepairNoDoubt => Repairs(6),
        Weak::RepairNoSpoil => Repairs(47),
        Weak::UndoNoDoubt => Repairs(44),
        Weak::RepairUnsynced => Repairs(1357),
        Weak::UndoUnsynced => Repairs(4),
        Weak::UndoInOrder => Repairs(196),
        Weak::UndoAnyMap => Test(repair::what_was_set_since_a_repair_is_not_undone),
        Weak::RepairFillInOrder => Test(repair::a_point_seems_whole_only_when_all_of_it_is_dirty),
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
        Suite::Repairs(from) => tried(repair::seeds_of_repairs(asked("DIRTYMAP_WEAK_FROM", from), count)),
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
            None => {
                println!("{step:?}: {:.1?}: survives", began.elapsed());
                survived.push(step);
            }
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

/// Some steps cannot be left out by one thread, or take processes that the simulation has not: models leave them out. Where a name
/// is one of several that a model can have, it is written as there; else it is a variant, or a rule that a configuration breaks.
#[test]
fn the_design_names_variants_that_the_models_have() {
    let design = include_str!("../../../docs/design.md");
    let models = concat!(
        include_str!("../../../tests/model_coverage.rs"),
        include_str!("../../../tests/model_takeover.rs"),
        include_str!("../../../tests/model_shmlist.rs"),
        include_str!("../../../tests/model_summaries.rs"),
        include_str!("../../../tests/model_process_flush.rs"),
        include_str!("../../../tests/model_locks.rs"),
        include_str!("../../../tests/model_freeze.rs"),
        include_str!("../../../tests/model_epoch.rs"),
        include_str!("../../../tests/model_points.rs"),
    );
    let design = design.split_whitespace().collect::<Vec<_>>().join(" ");
    let lists: Vec<&str> = design.split("[model: ").skip(1).filter_map(|rest| rest.split(']').next()).collect();
    assert!(lists.len() > 10);
    for name in lists.iter().flat_map(|list| list.split(',')).map(str::trim) {
        let written = match name {
            _ if name.contains("::") => name.to_string(),
            _ if name.starts_with(char::is_uppercase) => format!("Variant::{name}"),
            rule => format!("{{ {rule}: "),
        };
        assert!(models.contains(&written), "no model has {name}");
    }
}
