//! Live snapshots: a real server is killed at every step that it does for them, and the next one goes on.

mod common;

use common::GRANULE;
use common::live::{Checked, Do, Place, Story, takes_over};

/// Every kind of copy, reads, ranges that are done, a commit, an abort.
const STORY: [Do; 26] = [
    Do::Write(GRANULE + 512, 1024),
    Do::Write(2 * GRANULE, GRANULE),
    Do::Zero(3 * GRANULE, 2 * GRANULE),
    Do::Write(11 * GRANULE, 4096),
    Do::Create,
    Do::Write(2 * GRANULE + 4096, 512),
    Do::Write(5 * GRANULE, 4096),
    Do::Zero(3 * GRANULE + 100, 1000),
    Do::Write(4 * GRANULE, 4096),
    Do::Write(7 * GRANULE - 512, 1024),
    Do::Read,
    Do::Done(2),
    Do::Done(1),
    Do::Write(GRANULE, 4096),
    Do::Write(2 * GRANULE, 4096),
    Do::Write(11 * GRANULE + 512, 512),
    Do::Commit,
    Do::Write(8 * GRANULE, 512),
    Do::Create,
    Do::Write(8 * GRANULE, 1024),
    Do::Abort,
    Do::Write(9 * GRANULE, 512),
    Do::Create,
    Do::Read,
    Do::Write(9 * GRANULE, 512),
    Do::Commit,
];

/// A server goes on with a snapshot of one that was killed, and of one that stopped.
const TAKEN_OVER: [Do; 15] = [
    Do::Write(2 * GRANULE, GRANULE),
    Do::Write(3 * GRANULE, GRANULE),
    Do::Create,
    Do::Write(2 * GRANULE, 512),
    Do::Read,
    Do::Done(2),
    Do::Kill,
    Do::Write(3 * GRANULE, 512),
    Do::Write(2 * GRANULE, 512),
    Do::Restart,
    Do::Write(3 * GRANULE + 512, 512),
    Do::Commit,
    Do::Create,
    Do::Write(2 * GRANULE, 512),
    Do::Restart,
];

/// The variable that has a server kill itself at a step.
fn kill_at(step: u64) -> Vec<(&'static str, String)> {
    vec![("KILL_AT", step.to_string())]
}

/// Whether a server died at this step, and all was well: the first one, or one that takes over.
fn killed_at(step: u64, takes_over: bool, leave_out: Option<&'static str>) -> Checked<bool> {
    let mut story = Story::new(Place { leave_out, ..Place::new() });
    let first = if takes_over { Vec::new() } else { kill_at(step) };
    story.later = if takes_over { kill_at(step) } else { Vec::new() };
    let told = story.tell(if takes_over { &TAKEN_OVER } else { &STORY }, &first);
    told.map_err(|e| format!("killed at step {step}: {e}"))?;
    let died = story.deaths > 0;
    story.end()?;
    Ok(died)
}

/// All steps, one after the other; how many there were.
fn at_each_step(takes_over: bool, leave_out: Option<&'static str>) -> Checked<u64> {
    let mut step = 1;
    while killed_at(step, takes_over, leave_out)? {
        step += 1;
    }
    Ok(step - 1)
}

/// Tests that kill need the steps, which only a build with debug assertions has.
fn has_steps() -> bool {
    if !cfg!(debug_assertions) {
        common::skipped("a build without debug assertions has no steps to be killed at");
    }
    cfg!(debug_assertions) && takes_over()
}

#[test]
fn a_server_that_is_killed_at_any_step_leaves_the_snapshot_to_the_next_one() {
    if has_steps() {
        let steps = at_each_step(false, None).unwrap_or_else(|e| panic!("{e}"));
        assert!(steps > 70, "{steps} steps");
    }
}

#[test]
fn one_that_is_killed_while_it_takes_over_leaves_a_snapshot_that_is_right_or_none() {
    if has_steps() {
        let steps = at_each_step(true, None).unwrap_or_else(|e| panic!("{e}"));
        assert!(steps > 20, "{steps} steps");
    }
}

/// Each of these rules is needed: without it a server that is killed at some step leaves something wrong.
#[test]
fn without_its_rules_some_kill_leaves_something_wrong() {
    if has_steps() {
        for rule in ["DataThenEntry", "EntryThenImage", "RecordDone", "ReadyThenFrozen"] {
            let found = at_each_step(false, Some(rule)).expect_err(rule);
            println!("without {rule}: {found}");
        }
    }
}
