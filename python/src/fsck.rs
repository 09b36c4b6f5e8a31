//! Checking, repairing, and taking that back.

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

/// Checks the file of a map without changing it. after_power_loss: what would be true of it if the power went now.
#[pyfunction]
#[pyo3(signature = (path, *, after_power_loss=false))]
pub fn check(py: Python<'_>, path: PathBuf, after_power_loss: bool) -> Result<Bound<'_, PyDict>> {
    let report = py.detach(|| match after_power_loss {
        true => fsck::check_after_power_loss(path, |_, _| {}),
        false => fsck::check(path, |_, _| {}),
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
pub fn plan_repair(py: Python<'_>, path: PathBuf) -> Result<Bound<'_, PyDict>> {
    of_plan(py, &py.detach(|| fsck::plan_repair(path, |_, _| {}))?)
}

/// Repairs the file of a map; nothing that counts as dirty becomes clean. undo: a new file that keeps what is changed.
#[pyfunction]
#[pyo3(signature = (path, *, undo=None, wait=0.0))]
pub fn repair(py: Python<'_>, path: PathBuf, undo: Option<PathBuf>, wait: f64) -> Result<Bound<'_, PyDict>> {
    let wait = seconds(wait)?;
    of_plan(py, &py.detach(|| fsck::repair(path, undo.as_deref(), wait, |_, _| {}))?)
}

/// Puts back what a repair has changed; how many bytes.
#[pyfunction]
#[pyo3(signature = (path, undo, *, wait=0.0))]
pub fn undo_repair(py: Python<'_>, path: PathBuf, undo: PathBuf, wait: f64) -> Result<u64> {
    let wait = seconds(wait)?;
    Ok(py.detach(|| fsck::undo_repair(path, undo, wait))?.bytes)
}
