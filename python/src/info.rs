//! What is known of a map, as dictionaries.

use crate::call::call;
use crate::error::Result;
use dirtymap::Durability;
use dirtymap::checkpoint::{CountedPoint, NamedPoint};
use dirtymap::info::{self, FileState, Info, Recovery, Stats, Verdict};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
fn seconds(time: Option<SystemTime>) -> Option<f64> {
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs_f64())
}

/// A dictionary of what stands there.
macro_rules! dict {
    ($py:expr, { $($key:literal: $value:expr,)* }) => {{
        let dict = PyDict::new($py);
        $(dict.set_item($key, $value)?;)*
        dict
    }};
}

pub(crate) use dict;

pub(crate) fn of_info<'py>(py: Python<'py>, info: &Info) -> Result<Bound<'py, PyDict>> {
    let durability = match info.durability {
        Durability::PowerLoss => "power-loss",
        Durability::Process => "process",
    };
    let state = match info.state {
        FileState::Clean => "clean",
        FileState::Open => "open",
        FileState::Unclean => "unclean",
    };
    let verdict = match info.verdict {
        Verdict::Exact => "exact",
        Verdict::Superset => "superset",
        Verdict::Damaged => "damaged",
    };
    Ok(dict!(py, {
        "uuid": info.uuid.to_string(),
        "label": &info.label,
        "len": info.geometry.len(),
        "granule": info.geometry.granule(),
        "durability": durability,
        "state": state,
        "verdict": verdict,
        "reasons": info.reasons.clone(),
        "dirty_granules": info.dirty.map(|dirty| dirty.0),
        "dirty_len": info.dirty.map(|dirty| dirty.1),
        "armed_len": info.armed_items,
        "intent_len": info.intent_items,
        "sequence": info.sequence,
        "created": seconds(info.created),
        "last_clean": seconds(info.last_clean),
        "last_open": seconds(info.last_open),
        "dirt_time": seconds(info.dirt_time),
        "backup_time": seconds(info.backup_time),
        "audit_time": seconds(info.audit_time),
        "audited": info.audited,
        "audit_missed": info.audit_missed,
        "has_image": info.image.is_some(),
        "has_target": info.target.is_some(),
        "has_begun": info.begun.is_some(),
        "committed": info.committed.as_ref().map(|committed| committed.uuid.to_string()),
        "committed_time": seconds(info.committed.as_ref().map(|committed| committed.time)),
        "checkpoint": info.checkpoint.as_ref().map(|checkpoint| checkpoint.uuid.to_string()),
        "points": info.points.iter().map(|point| point.name.clone()).collect::<Vec<_>>(),
        "format_version": info.format_version,
    }))
}

pub(crate) fn of_recovery<'py>(py: Python<'py>, found: &Recovery) -> Result<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        "unclean": found.unclean,
        "added_dirt": found.added_dirt(),
        "damaged": found.damaged(),
        "armed_len": found.armed_items,
        "intent_len": found.intent_items,
        "interrupted_pages": found.interrupted_pages,
        "damaged_pages": found.damaged_pages,
        "damaged_headers": found.damaged_headers,
        "lost_granules": found.lost_granules.map_or(0, |(verified, counted)| counted - verified),
        "lost_commit": found.lost_commit,
        "image_changed": &found.image_changed,
        "cache_trusted": found.cache_trusted,
        "aborted_checkpoint": found.aborted_checkpoint.map(|uuid| uuid.to_string()),
    }))
}

pub(crate) fn of_stats<'py>(py: Python<'py>, stats: &Stats) -> Result<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        "arms": stats.arms,
        "syncs": stats.syncs,
        "flushes": stats.flushes,
        "bytes_written": stats.bytes_written,
        "slow_sets": stats.slow_sets,
        "recovered_len": stats.recovered_items,
        "failed_pages": stats.failed_pages,
        "damaged_headers": stats.damaged_headers,
    }))
}

fn of_point<'py>(py: Python<'py>, point: &NamedPoint) -> Result<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        "name": &point.name,
        "uuid": point.uuid.to_string(),
        "time": seconds(Some(point.time)),
        "has_target": point.target.is_some(),
    }))
}

pub(crate) fn of_points<'py>(py: Python<'py>, points: &[NamedPoint]) -> Result<Vec<Bound<'py, PyDict>>> {
    points.iter().map(|point| of_point(py, point)).collect()
}

pub(crate) fn of_counted<'py>(py: Python<'py>, points: &[CountedPoint]) -> Result<Vec<Bound<'py, PyDict>>> {
    let counted = |counted: &CountedPoint| {
        let dict = of_point(py, &counted.point)?;
        dict.set_item("since_granules", counted.since.0)?;
        dict.set_item("since_len", counted.since.1)?;
        dict.set_item("until_next_granules", counted.until_next.0)?;
        dict.set_item("until_next_len", counted.until_next.1)?;
        dict.set_item("damaged", counted.damaged)?;
        Ok(dict)
    };
    points.iter().map(counted).collect()
}

/// What is in the file of a map, which may be open elsewhere.
#[pyfunction]
pub fn inspect(py: Python<'_>, path: PathBuf) -> Result<Bound<'_, PyDict>> {
    of_info(py, &call(py, || Ok(info::inspect(path)?))?)
}
