//! Each step of the protocol is switched off in turn, and some suite must then fail: a check that cannot fail is no check.
//!
//! Invariant kept here: [`suite`] names one for every switch, or this does not compile; and docs/design.md names every
//! switch in brackets at its rule, and nothing else, so that a reader can go through the protocol line by line.

use crate::sim::*;
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
    /// A scenario of `threads.rs`, whose own table names the step: it takes a build of its own.
    Loom,
}

fn suite(step: Mutant) -> Suite {
    use Durability::{PowerLoss, Process};
    use Programs::{Checkpointing, Plain};
    use Suite::{Loom, Repairs, Schedules, Seed, Several, Test};
    match step {
        Mutant::ListThenArm => Seed(2, Plain),
        Mutant::RecheckArmed => Seed(2, Plain),
        Mutant::MarkUnflushed => Seed(1, Plain),
        Mutant::StoreThenMark => Schedules,
        Mutant::WriteThenForget => Seed(1, Plain),
        Mutant::WritePages => Seed(1, Plain),
        Mutant::SyncPages => Seed(1, Plain),
        Mutant::SyncHeaders => Seed(1, Plain),
        Mutant::UnmarkThenCopy => Test(a_word_that_was_touched_after_it_was_copied_is_not_forgotten),
        Mutant::ClearDurable => Seed(3, Plain),
        Mutant::MarkThenReset => Test(processes::a_reset_of_one_who_is_killed_does_not_come_back_when_others_close),
        Mutant::DoubtNewest => Seed(19, Plain),
        Mutant::RememberAttempt => Schedules,
        Mutant::RefuseOlder => Schedules,
        Mutant::UniteConflicting => Test(format::conflicting_copies_that_differ_in_their_lists_arm_both),
        Mutant::RewriteUnarmed => Seed(2, Plain),
        Mutant::MarkUnfinished => Seed(2, Plain),
        Mutant::KeepFlushError => Seed(2, Plain),
        Mutant::RecordWriteFailure => Seed(1, Plain),
        Mutant::ResizeKeepsFailure => {
            Test(a_map_in_which_a_write_failed_before_its_length_changed_does_not_close_as_clean)
        }
        Mutant::ResizeKeepsDoubt => {
            Test(a_failed_commit_of_a_new_length_is_remembered_in_the_old_region_and_in_the_new_one)
        }
        Mutant::CheckClean => Seed(1, Plain),
        Mutant::AskKernelAtClose => Test(what_the_kernel_did_not_write_back_keeps_a_process_map_from_closing_as_clean),
        Mutant::ListReset => Schedules,
        Mutant::RememberResets => Seed(8, Plain),
        Mutant::MarkFlush | Mutant::RecoverUnflushed => Test(processes::what_a_dead_flusher_untouched_is_absorbed),
        Mutant::RecheckUnmarked => Loom,
        Mutant::DirtyListed => Seed(1, Plain),
        Mutant::VerifyPage => Seed(1, Plain),
        Mutant::RecoverThenForget => Seed(1, Plain),
        Mutant::RewriteNewest => Seed(8, Plain),
        Mutant::RewriteOneByOne => Seed(2, Plain),
        Mutant::RewriteOldestFirst => Seed(4, Plain),
        Mutant::OpenBothPairs => Seed(1, Plain),
        Mutant::AlternatePairs => Seed(5, Plain),
        Mutant::ResizeThenFree => Seed(1, Plain),
        Mutant::ResizeBothPairs => Seed(1, Plain),
        Mutant::ClearNewRegions => Schedules,
        Mutant::SyncNewRegions => Schedules,
        Mutant::ResizeUnshares => {
            Test(resize::tests::a_reader_does_not_outlive_the_old_length_whenever_the_process_is_killed)
        }
        Mutant::FreezingThenReset => Seed(13, Checkpointing),
        Mutant::FreezeBothPairs => Schedules,
        Mutant::RecheckFreeze => Schedules,
        Mutant::Drain => Test(checkpoint::tests::a_freeze_that_was_aborted_waits_for_no_write),
        Mutant::WritePoint => Seed(1, Checkpointing),
        Mutant::ClearPoint => Schedules,
        Mutant::SyncPointSpace => Schedules,
        Mutant::CountPoint => Test(a_point_of_which_a_page_is_lost_with_its_entry_is_all_dirty),
        Mutant::NormalThenFree => Test(regressions::what_was_frozen_is_there_until_the_commit_is_durable),
        Mutant::JoinOlder => Seed(1, Checkpointing),
        Mutant::CommitBothPairs | Mutant::AbortBothPairs | Mutant::DropBothPairs => Schedules,
        Mutant::PutBackThenNormal => Test(regressions::what_an_abort_puts_back_is_there_before_the_point_goes),
        Mutant::CommitAborting => Schedules,
        Mutant::CompareUuid => Schedules,
        Mutant::PublishCheckpoint => Several(1, PowerLoss),
        Mutant::ReturnArmError => Seed(1, Plain),
        Mutant::DisarmThenUnmark => Test(regressions::a_flush_untouches_when_nobody_can_return_any_more),
        Mutant::DurableThenLive => Test(regressions::a_set_after_a_reset_that_was_killed_sets),
        Mutant::CheckSession => Test(regressions::who_was_replaced_is_refused),
        Mutant::CheckRegions => Test(regressions::nothing_is_set_by_a_header_with_other_regions),
        Mutant::PublishRefreshed => Test(regressions::what_a_dead_one_has_committed_is_told_to_those_who_read),
        Mutant::RecordFailureInHeader => Test(regressions::the_header_knows_of_a_failed_write_as_well),
        Mutant::AttemptThenWrite => Schedules,
        Mutant::WriteThenKnow => Seed(1, Plain),
        Mutant::SpareList => Test(regressions::the_list_spares_what_an_intent_covers_beyond_twice),
        Mutant::BoundList => Test(regressions::the_list_stays_within_its_bound),
        Mutant::AllocateFirst => Test(regressions::space_is_set_aside_before_it_is_stored_into),
        Mutant::FlushInRounds => Test(regressions::a_flush_of_resets_all_over_a_map_takes_as_many_rounds_as_it_needs),
        Mutant::WriteThenForgetResets => Test(regressions::a_flush_that_failed_forgets_no_reset),
        Mutant::ShareResetWindow | Mutant::RememberThenReset => {
            Test(processes::a_reset_of_one_who_is_killed_does_not_come_back_when_others_close)
        }
        Mutant::CompareBoot => Several(1, Process),
        Mutant::AskKernelAtOpen => Test(regressions::a_page_that_the_kernel_has_dropped_is_not_taken_for_zeros),
        Mutant::KnowBoot => Test(regressions::the_page_cache_of_nobody_knows_which_boot_is_not_trusted),
        Mutant::CompareFile => Test(regressions::the_page_cache_of_another_file_is_not_trusted),
        Mutant::CompareNonce => Test(regressions::bits_without_a_nonce_are_not_trusted),
        Mutant::RefuseFailed => Test(regressions::what_a_process_was_told_of_a_lost_page_outlives_it),
        Mutant::MarkThenAsk => Test(regressions::who_asks_the_kernel_says_so_before),
        Mutant::NonceThenFree => Test(regressions::who_opens_takes_the_nonce_away_before_the_bits),
        Mutant::ClearShm => Test(regressions::what_the_dead_have_left_in_the_volatile_part_is_nothing_to_go_by),
        Mutant::RemoveForeignNonce => Test(regressions::a_reader_notices_that_somebody_has_the_map_alone),
        Mutant::CheckLength => Test(regressions::a_file_that_ends_within_its_page_table_is_not_opened),
        Mutant::CheckHeaderCrc => Seed(2, Plain),
        Mutant::RefuseTwoMaps => Test(format::between_two_maps_with_equally_many_copies_nobody_can_tell),
        Mutant::RefuseNewer => Test(format::what_a_newer_version_committed_is_not_passed_over),
        Mutant::CheckStrayBits => Test(regressions::bits_past_the_end_make_a_page_damaged),
        Mutant::MissLostCommit => Test(regressions::a_commit_of_which_both_copies_rot_makes_everything_dirty),
        Mutant::KeepOutlived => Test(regressions::writes_of_the_dead_are_not_forgotten_with_the_last_process),
        Mutant::CountLost | Mutant::CountAtClose => Test(regressions::a_page_that_was_lost_with_its_entry_is_missed),
        Mutant::CompareImage => Test(regressions::another_image_makes_everything_dirty),
        Mutant::CompareImageBoot => {
            Test(crate::image_stamp::tests::times_prove_nothing_unless_they_were_settled_and_of_this_boot)
        }
        Mutant::SettleStamp => {
            Test(crate::image_stamp::settle::tests::a_later_write_never_leaves_an_exact_stamp_as_it_is)
        }
        Mutant::KeepLastTarget => Test(crate::map::backup::tests::a_backup_that_is_begun_leaves_the_last_target_alone),
        Mutant::DoubtLastTarget => {
            Test(crate::map::backup::tests::a_checkpoint_without_a_backup_leaves_the_last_target_unproven)
        }
        Mutant::NameTargetThenForget => {
            Test(crate::map::backup::tests::what_is_clean_and_the_target_that_has_it_change_at_once)
        }
        Mutant::RecordReasons => Test(regressions::the_header_says_that_there_was_a_crash),
        Mutant::CountPointReasons | Mutant::AbortKeepsReasons => {
            Test(verdicts::what_was_added_is_told_of_while_it_is_frozen_and_when_it_comes_back)
        }
        Mutant::CountAdding => Test(verdicts::what_is_added_after_a_backup_began_is_not_forgotten_with_it),
        Mutant::CheckAdding => Test(verdicts::what_is_just_being_added_is_not_forgotten),
        Mutant::CheckAborting => Test(verdicts::what_an_abort_is_putting_back_is_not_forgotten),
        Mutant::LookThenReset => Test(verdicts::what_is_added_behind_a_reset_of_everything_is_not_forgotten_with_it),
        Mutant::PointKnowsForgotten => Test(verdicts::a_point_knows_of_what_was_forgotten_since_it_was_written),
        Mutant::FreezeKeepsLater => Test(verdicts::what_is_added_after_the_point_was_written_is_not_forgotten_with_it),
        Mutant::CountAborting => Test(verdicts::what_came_back_after_a_backup_began_is_not_forgotten_with_it),
        Mutant::AbortHalfFrozen => Test(regressions::a_checkpoint_that_was_not_frozen_does_not_outlive_its_process),
        Mutant::JoinComparesNonce => Test(regressions::the_session_of_the_dead_is_not_joined),
        Mutant::JoinChecksShared => Test(regressions::who_has_a_map_alone_is_not_joined),
        Mutant::JoinChecksSlots => Test(regressions::who_has_the_attach_lock_and_no_slot_has_no_session),
        Mutant::JoinChecksLength => Test(regressions::nobody_maps_what_is_behind_the_end_of_the_file),
        Mutant::ReaderChecksHeader => {
            Test(points::tests::what_was_read_while_a_session_of_the_dead_was_repaired_does_not_count)
        }
        Mutant::ReaderChecksSession => {
            Test(points::tests::what_was_read_of_a_session_that_has_ended_meanwhile_is_an_error)
        }
        Mutant::FlushAtClose => Test(regressions::a_clean_close_flushes_what_others_have_set),
        Mutant::FlushThenCount => Test(regressions::a_clean_close_counts_what_others_have_set),
        Mutant::CleanThenNonce => {
            Test(processes::who_dies_before_a_close_is_committed_leaves_a_page_cache_that_is_trusted)
        }
        Mutant::JoinZeroesSlot => Test(regressions::who_joins_has_no_writes_of_the_dead_under_way),
        Mutant::CompareAtClose => Test(regressions::a_clean_close_looks_whether_all_that_is_live_is_durable),
        Mutant::RemoveNonce => Test(regressions::a_clean_close_takes_the_nonce_away),
        Mutant::CloseKeepsDoubt => Test(regressions::a_map_whose_close_is_in_doubt_takes_no_more_bits),
        Mutant::CheckState => Test(regressions::what_is_not_frozen_is_not_committed),
        Mutant::LockSpace => Test(regressions::two_who_freeze_do_not_write_to_the_same_space),
        Mutant::AbortLocksSpace => Test(regressions::who_aborts_late_sets_nothing_that_was_reset_since),
        Mutant::RecheckAbort => Test(regressions::who_aborts_late_leaves_the_points_of_others_alone),
        Mutant::PutBackAll => Test(regressions::putting_back_a_point_of_which_a_page_fails_makes_everything_dirty),
        Mutant::VerifyPoint => Test(regressions::a_point_of_which_a_page_fails_is_everything),
        Mutant::HoldEverything => {
            Test(regressions::a_point_that_was_repaired_is_everything_and_so_is_what_is_put_back_of_it)
        }
        Mutant::CheckPointLength => Test(regressions::a_point_of_which_the_file_has_not_all_entries_is_everything),
        Mutant::RefreshPoint => Several(6, PowerLoss),
        Mutant::LookUntilStable => Test(regressions::who_reads_looks_again_when_bits_have_moved),
        Mutant::DropJoinsOlder => Test(regressions::the_bits_of_a_point_that_is_dropped_go_to_the_older_one),
        Mutant::RegisterThenSet => Test(regressions::a_bracket_registers_before_it_sets),
        Mutant::DrainBoth => Test(regressions::a_freeze_waits_for_the_writes_that_the_one_before_has_left),
        Mutant::RefuseOutlived | Mutant::KeepOutlivedSlot => {
            Test(regressions::no_freeze_succeeds_while_a_write_of_the_dead_may_arrive)
        }
        Mutant::RefuseOutstanding => Test(regressions::the_length_does_not_change_while_a_checkpoint_is_outstanding),
        Mutant::ResizePoints => Test(regressions::points_go_with_the_length),
        Mutant::NewDirtyInTarget => Test(regressions::what_is_new_is_dirty_where_the_target_reaches_behind_the_old_end),
        Mutant::NewDirtySincePoints => Test(regressions::what_is_new_is_dirty_since_every_point),
        Mutant::ResizeUnjoinable => {
            Test(a_failed_commit_of_a_new_length_is_remembered_in_the_old_region_and_in_the_new_one)
        }
        Mutant::ResizeKeepsSlots => Test(regressions::a_new_length_does_not_forget_writes_of_the_dead),
        Mutant::SyncThenName => Test(regressions::a_new_file_is_all_there_when_it_gets_its_name),
        Mutant::RepairBothPairs => Test(repairs::both_pairs_doubt_what_is_repaired),
        Mutant::DoubtThenRepair => Repairs(25),
        Mutant::DoubtThenUndo => Repairs(44),
        Mutant::SyncRepairedLength => Repairs(1357),
        Mutant::SyncUndoneLength => Repairs(4),
        Mutant::UndoNewestFirst => Repairs(196),
        Mutant::CheckUndoMap => Test(repairs::what_was_set_since_a_repair_is_not_undone),
        Mutant::DisarmKept | Mutant::DurableThenRearm | Mutant::CommitThenRearm => Seed(2, Checkpointing),
        Mutant::SwitchThenArm => Test(regressions::nothing_is_armed_by_an_intent_before_a_header_names_it),
        Mutant::OpenNamesIntent => Seed(1, Checkpointing),
        Mutant::CommitKeepsIntent | Mutant::AbortKeepsIntent => Seed(1, Checkpointing),
        Mutant::SwitchThenFree => Test(regressions::the_old_intent_is_there_until_the_new_one_is_durable),
        Mutant::FlushIntended => Test(regressions::what_was_set_under_an_intent_is_flushed_when_that_ends),
        Mutant::FlushAtSwitch => Test(regressions::what_is_set_under_an_intent_that_has_ended_is_armed_again),
        Mutant::MarkRecovered => Test(regressions::what_an_opener_leaves_to_the_intent_is_flushed_when_that_ends),
        Mutant::OpenEndsDoubt => Test(regressions::an_intent_that_cannot_be_read_does_not_outlive_an_opening),
        Mutant::EndDoubt => Test(regressions::an_intent_that_a_process_cannot_read_ends),
        Mutant::RefreshIntent => Test(regressions::a_process_knows_when_another_has_switched_the_intent),
        Mutant::SummariesThenDurable
        | Mutant::SummariseAlways
        | Mutant::LookAgain
        | Mutant::CheckClearing
        | Mutant::SequentiallyConsistent => Loom,
    }
}

/// Runs what must fail without a step; says what was found.
fn without(step: Mutant) -> Option<String> {
    let count = asked("DIRTYMAP_WEAK_SEEDS", 10);
    let tried =
        |found: Result<Tally, (u64, String)>| found.map(|_| ()).map_err(|(seed, why)| format!("seed {seed}: {why}"));
    let run = || match suite(step) {
        Suite::Seed(from, programs) => tried(seeds(asked("DIRTYMAP_WEAK_FROM", from), count, programs)),
        Suite::Several(from, durability) => {
            tried(processes::seeds_of_several(asked("DIRTYMAP_WEAK_FROM", from), count, durability))
        }
        Suite::Repairs(from) => tried(repairs::seeds_of_repairs(asked("DIRTYMAP_WEAK_FROM", from), count)),
        Suite::Schedules => tried(scenarios()),
        Suite::Test(test) => {
            test();
            Ok(())
        }
        Suite::Loom => {
            let table = include_str!("threads.rs");
            match table.contains(&format!("(Mutant::{step:?}, \"")) {
                true => Err("in the table of threads.rs".into()),
                false => Ok(()),
            }
        }
    };
    let ended = testing::with(Some(step), || catch_unwind(AssertUnwindSafe(run)));
    testing::visit(None);
    ended.unwrap_or_else(|_| Err("it panics".into())).err()
}

#[test]
fn every_weakened_build_fails_a_suite() {
    let only = std::env::var("DIRTYMAP_WEAK_ONLY").unwrap_or_default();
    let steps = Mutant::ALL.iter().filter(|step| format!("{step:?}").contains(&only));
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
    println!("{} weakened builds, {} of them survive", Mutant::ALL.len(), survived.len());
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
    let design = include_str!("../../docs/design.md");
    let (named, all): (Vec<&str>, Vec<String>) =
        (in_brackets(design), Mutant::ALL.iter().map(|step| format!("{step:?}")).collect());
    let missing: Vec<_> = all.iter().filter(|step| !named.contains(&step.as_str())).collect();
    let unknown: Vec<_> = named.iter().filter(|name| !all.iter().any(|step| step == *name)).collect();
    assert!(missing.is_empty(), "docs/design.md does not name {missing:?}");
    assert!(unknown.is_empty(), "docs/design.md names {unknown:?}, which src/testing/mutants.rs does not have");
}

/// Some steps cannot be left out by one thread, or take processes that the simulation has not: models leave them out. Where a name
/// is one of several that a model can have, it is written as there; else it is a variant, or a rule that a configuration breaks.
#[test]
fn the_design_names_variants_that_the_models_have() {
    let design = include_str!("../../docs/design.md");
    let models = concat!(
        include_str!("../../tests/model_coverage.rs"),
        include_str!("../../tests/model_takeover.rs"),
        include_str!("../../tests/model_shmlist.rs"),
        include_str!("../../tests/model_summaries.rs"),
        include_str!("../../tests/model_process_flush.rs"),
        include_str!("../../tests/model_locks.rs"),
        include_str!("../../tests/model_freeze.rs"),
        include_str!("../../tests/model_epoch.rs"),
        include_str!("../../tests/model_points.rs"),
        include_str!("../../tests/model_intent.rs"),
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
