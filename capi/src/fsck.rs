//! Checking a file, repairing it, and taking that back.

use crate::failure::{Failure, Result};
use crate::ffi::{Callback, Const, Flag, New, Opaque, Out, ProgressFn, Struct, Text, call, first_call};
use crate::layout::{Finding, Progress, Summary};
use crate::read::NONE;
use dirtymap::fsck::{self, RepairPlan, Report, Severity};
use std::ffi::{CString, c_int, c_void};
use std::time::Duration;

/// `dirtymap_report_t`.
pub struct Told {
    summary: Summary,
    items: Vec<Item>,
}

/// Texts of a finding in the order of the header.
struct Item {
    severity: u32,
    all_dirty: bool,
    count: u64,
    texts: [CString; 5],
}

fn severity(severity: Option<Severity>) -> u32 {
    match severity {
        None => 0,
        Some(Severity::Note) => 1,
        Some(Severity::Unclean) => 2,
        Some(Severity::Damage) => 3,
    }
}

fn text(text: &str) -> CString {
    CString::new(text.replace('\0', "\\0")).unwrap_or_default()
}

fn of_check(report: &Report) -> Told {
    let mut items: Vec<Item> = report.findings.iter().map(of_finding).collect();
    // What could not be looked at is no finding, and must not be overlooked.
    items.extend(report.unchecked.iter().chain(&report.not_writable).map(|what| Item {
        severity: severity(Some(Severity::Note)),
        all_dirty: false,
        count: 1,
        texts: [text("not checked"), text(what), text(""), text(""), text("")],
    }));
    let (verified_granules, verified_len) = report.verified.unwrap_or((NONE, NONE));
    let (dirty_granules, dirty_len) = report.info.dirty.unwrap_or((NONE, NONE));
    let summary = Summary {
        items: items.len() as u64,
        severity: severity(report.severity()),
        in_use: report.live.into(),
        omitted: report.omitted.findings,
        pages_checked: report.pages_checked,
        verified_granules,
        verified_len,
        length_before: NONE,
        length_after: NONE,
        dirty_granules,
        dirty_len,
        needless_len: NONE,
    };
    Told { summary, items }
}

fn of_finding(found: &fsck::Finding) -> Item {
    Item {
        severity: severity(Some(found.severity)),
        all_dirty: found.all_dirty,
        count: found.count,
        texts: [&found.place, &found.found, &found.expected, &found.consequence, &found.repair].map(|t| text(t)),
    }
}

fn of_plan(plan: &RepairPlan) -> Told {
    let action =
        |action: &String| Item { severity: 0, all_dirty: false, count: 1, texts: ["", "", "", "", action].map(text) };
    let items: Vec<Item> = plan.actions.iter().map(action).collect();
    let (verified_granules, verified_len) = plan.verified.unwrap_or((NONE, NONE));
    let summary = Summary {
        items: items.len() as u64,
        severity: 0,
        in_use: 0,
        omitted: 0,
        pages_checked: NONE,
        verified_granules,
        verified_len,
        length_before: plan.length.0,
        length_after: plan.length.1,
        dirty_granules: plan.dirty.0,
        dirty_len: plan.dirty.1,
        needless_len: plan.needless,
    };
    Told { summary, items }
}

/// Tells C how many pages were passed.
fn pages(told: ProgressFn, opaque: *mut c_void) -> impl FnMut(u64, u64) {
    let callback = Callback::new(told, opaque);
    move |done, total| {
        callback.tell(&Progress { step: 0, reserved: 0, done, total });
    }
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_check(
    path: Text,
    after_power_loss: Flag,
    told: ProgressFn,
    opaque: *mut c_void,
    report: New<Told>,
) -> c_int {
    first_call(|| {
        let (path, report) = (path.path()?, report.wanted("the place for a report")?);
        let progress = pages(told, opaque);
        let found = if after_power_loss.is_set() {
            fsck::check_after_power_loss(path, progress)
        } else {
            fsck::check(path, progress)
        };
        report.put_box(of_check(&found?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_plan_repair(path: Text, told: ProgressFn, opaque: *mut c_void, report: New<Told>) -> c_int {
    first_call(|| {
        let report = report.wanted("the place for a report")?;
        report.put_box(of_plan(&fsck::plan_repair(path.path()?, pages(told, opaque))?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_repair(
    path: Text,
    undo: Text,
    wait_milliseconds: u64,
    told: ProgressFn,
    opaque: *mut c_void,
    report: New<Told>,
) -> c_int {
    first_call(|| {
        let report = report.wanted("the place for a report")?;
        let wait = Duration::from_millis(wait_milliseconds);
        let done = fsck::repair(path.path()?, undo.optional_path(), wait, pages(told, opaque))?;
        report.put_box(of_plan(&done));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_undo_repair(path: Text, undo: Text, wait_milliseconds: u64, bytes: Out<u64>) -> c_int {
    first_call(|| {
        let undone = fsck::undo_repair(path.path()?, undo.path()?, Duration::from_millis(wait_milliseconds))?;
        bytes.put(undone.bytes);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_report_summary(report: Const<Opaque<Told>>, summary: Struct<Summary>, size: usize) -> c_int {
    call(|| summary.put(&report.get("report")?.summary, size))
}

fn item(report: Opaque<Told>, i: u64) -> Result<Finding> {
    let items = &report.get("report")?.items;
    let item = usize::try_from(i).ok().and_then(|i| items.get(i));
    let item = item.ok_or(Failure::Argument("the report has no such item"))?;
    let [place, found, expected, consequence, repair] = item.texts.each_ref().map(|text| text.as_ptr());
    let Item { severity, count, .. } = *item;
    let all_dirty = item.all_dirty.into();
    Ok(Finding { severity, all_dirty, count, place, found, expected, consequence, repair })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_report_item(
    report: Const<Opaque<Told>>,
    i: u64,
    finding: Struct<Finding>,
    size: usize,
) -> c_int {
    call(|| finding.put(&item(report, i)?, size))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_report_free(report: Opaque<Told>) {
    drop(report.take());
}
