//! Checking, repairing, and taking that back.

use crate::call::{call, call_back};
use crate::error::Result;
use crate::info::{dict, of_info};
use crate::options::seconds;
use dirtymap::fsck::{self, Finding, RepairPlan, Severity};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;

fn severity(severity: Option<Severity>) -> Option<&'static str> {
    severity.map(|severity| match severity {
        Severity::Note => "note",
        Severity::Unclean => "unclean",
        Severity::Damage => "damage",
    })
}

fn of_finding<'py>(py: Python<'py>, finding: &Finding) -> Result<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        "severity": severity(Some(finding.severity)),
        "place": &finding.place,
        "found": &finding.found,
        "expected": &finding.expected,
        "consequence": &finding.consequence,
        "repair": &finding.repair,
        "all_dirty": finding.all_dirty,
        "count": finding.count,
    }))
}

/// Does work that tells how many pages it has passed, if somebody is to be told. What that raises comes out when the work is done.
fn telling<R: Send>(
    py: Python<'_>,
    told: Option<Py<PyAny>>,
    work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> dirtymap::Result<R> + Send,
) -> Result<R> {
    let mut told = told;
    let mut tell = |passed, total| {
        if let Some(function) = &told
            && call_back(true, |py| function.call1(py, (passed, total))).is_none()
        {
            told = None;
        }
    };
    call(py, || Ok(work(&mut tell)?))
}

/// Checks the file of a map without changing it. after_power_loss: what would be true of it if the power went now. progress is told
/// pages passed and pages in all, here and below.
#[pyfunction]
#[pyo3(signature = (path, *, after_power_loss=false, progress=None))]
pub fn check(
    py: Python<'_>,
    path: PathBuf,
    after_power_loss: bool,
    progress: Option<Py<PyAny>>,
) -> Result<Bound<'_, PyDict>> {
    let report = telling(py, progress, |told| match after_power_loss {
        true => fsck::check_after_power_loss(path, told),
        false => fsck::check(path, told),
    })?;
    let findings: Result<Vec<_>> = report.findings.iter().map(|finding| of_finding(py, finding)).collect();
    Ok(dict!(py, {
        "severity": severity(report.severity()),
        "findings": findings?,
        "omitted": report.omitted.findings,
        "in_use": report.live,
        "unchecked": report.unchecked.clone(),
        "not_writable": &report.not_writable,
        "pages_checked": report.pages_checked,
        "info": of_info(py, &report.info)?,
    }))
}

fn of_plan<'py>(py: Python<'py>, plan: &RepairPlan) -> Result<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        "actions": plan.actions.clone(),
        "length_before": plan.length.0,
        "length_after": plan.length.1,
        "dirty_granules": plan.dirty.0,
        "dirty_len": plan.dirty.1,
        "needless_len": plan.needless,
    }))
}

/// What repair() would do.
#[pyfunction]
#[pyo3(signature = (path, *, progress=None))]
pub fn plan_repair(py: Python<'_>, path: PathBuf, progress: Option<Py<PyAny>>) -> Result<Bound<'_, PyDict>> {
    of_plan(py, &telling(py, progress, |told| fsck::plan_repair(path, told))?)
}

/// Repairs the file of a map; nothing that counts as dirty becomes clean. undo: a new file that keeps what is changed.
#[pyfunction]
#[pyo3(signature = (path, *, undo=None, wait=0.0, progress=None))]
pub fn repair(
    py: Python<'_>,
    path: PathBuf,
    undo: Option<PathBuf>,
    wait: f64,
    progress: Option<Py<PyAny>>,
) -> Result<Bound<'_, PyDict>> {
    let wait = seconds(wait)?;
    of_plan(py, &telling(py, progress, |told| fsck::repair(path, undo.as_deref(), wait, told))?)
}

/// Puts back what a repair has changed; how many bytes.
#[pyfunction]
#[pyo3(signature = (path, undo, *, wait=0.0))]
pub fn undo_repair(py: Python<'_>, path: PathBuf, undo: PathBuf, wait: f64) -> Result<u64> {
    let wait = seconds(wait)?;
    call(py, || Ok(fsck::undo_repair(path, undo, wait)?.bytes))
}
