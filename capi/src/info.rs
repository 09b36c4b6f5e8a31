//! What is in a map, how it was left, and what it has done.

use crate::checkpoint::{number, seconds};
use crate::ffi::{Const, Map, Struct, Text, first_call};
use crate::layout;
use crate::read::NONE;
use dirtymap::Durability;
use dirtymap::info::{FileState, Info, Recovery, Verdict, inspect};
use std::ffi::c_int;

fn of_info(found: &Info) -> layout::Info {
    let (dirty_granules, dirty_len) = found.dirty.unwrap_or((NONE, NONE));
    layout::Info {
        uuid: found.uuid.0,
        len: found.geometry.len(),
        granularity: found.geometry.granularity(),
        durability: match found.durability {
            Durability::PowerLoss => 1,
            Durability::Process => 2,
        },
        state: match found.state {
            FileState::Clean => 0,
            FileState::Open => 1,
            FileState::Unclean => 2,
        },
        verdict: match found.verdict {
            Verdict::Exact => 0,
            Verdict::Superset => 1,
            Verdict::Damaged => 2,
        },
        dirty_granules,
        dirty_len,
        armed_len: found.armed_items,
        intent_len: found.intent_items,
        sequence: found.sequence,
        created: seconds(found.created),
        last_clean: seconds(found.last_clean),
        last_open: seconds(found.last_open),
        dirt_time: seconds(found.dirt_time),
        backup_time: seconds(found.backup_time),
        audit_time: seconds(found.audit_time),
        audited: found.audited,
        audit_missed: found.audit_missed,
        committed: found.committed.map_or([0; 16], |committed| committed.uuid.0),
        committed_time: seconds(found.committed.map(|committed| committed.time)),
        checkpoint_state: number(found.checkpoint.as_ref()),
        points: found.points.len() as u32,
        has_image: found.image.is_some().into(),
        has_target: found.target.is_some().into(),
        has_begun: found.begun.is_some().into(),
        format_version: found.format_version,
        label: found.label.as_str().into(),
        reasons: found.reasons.join(", ").as_str().into(),
    }
}

fn of_recovery(found: &Recovery) -> layout::Recovery {
    layout::Recovery {
        unclean: found.unclean.into(),
        added_dirt: found.added_dirt().into(),
        damaged: found.damaged().into(),
        cache_trusted: found.cache_trusted.map_or(0, |trusted| if trusted { 1 } else { 2 }),
        armed_len: found.armed_items,
        intent_len: found.intent_items,
        interrupted_pages: found.interrupted_pages,
        damaged_pages: found.damaged_pages,
        damaged_headers: found.damaged_headers,
        lost_granules: found.lost_granules.map_or(0, |(verified, counted)| counted - verified),
        lost_commit: found.lost_commit.into(),
        image_changed: found.image_changed.is_some().into(),
        aborted: found.aborted_checkpoint.map_or([0; 16], |uuid| uuid.0),
        why_image_changed: found.image_changed.as_deref().unwrap_or_default().into(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_info(map: Const<Map>, info: Struct<layout::Info>, size: usize) -> c_int {
    map.call(|map| info.put(&of_info(&map.file()?.info()?), size))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_inspect(path: Text, info: Struct<layout::Info>, size: usize) -> c_int {
    first_call(|| info.put(&of_info(&inspect(path.path()?)?), size))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_recovery(map: Const<Map>, recovery: Struct<layout::Recovery>, size: usize) -> c_int {
    map.call(|map| {
        map.verified()?;
        recovery.put(&of_recovery(map.file()?.recovery()), size)
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_stats(map: Const<Map>, stats: Struct<layout::Stats>, size: usize) -> c_int {
    map.call(|map| {
        map.verified()?;
        let found = map.file()?.stats();
        let answer = layout::Stats {
            arms: found.arms,
            syncs: found.syncs,
            flushes: found.flushes,
            bytes_written: found.bytes_written,
            slow_sets: found.slow_sets,
            recovered_len: found.recovered_items,
            failed_pages: found.failed_pages,
            damaged_headers: found.damaged_headers,
        };
        stats.put(&answer, size)
    })
}
