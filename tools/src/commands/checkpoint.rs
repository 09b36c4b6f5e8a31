//! `dirtymap checkpoint`: freezing what is dirty under live writers, and the points that are kept.
//!
//! Invariant kept here: none of its own; the library compares what is outstanding before each step.

use crate::cli::{Checkpoint, CheckpointAction, Commit, ExportPoint, File, Freeze, Named, Outstanding};
use crate::exit::{Exit, Failure, Result};
use crate::files::publish;
use crate::map::open::{self, With};
use crate::map::points::keep_last;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::text::{fold, say};
use crate::time::time;
use dirtymap::checkpoint::{CheckpointState, CountedPoint};
use dirtymap::info::{Info, inspect};
use dirtymap::{DirtyMap, Options};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::time::Duration;

/// The outstanding checkpoint: its JSON, which docs/cli.md describes.
#[derive(Serialize)]
struct Item {
    state: &'static str,
    name: Option<String>,
    uuid: String,
    time: Option<String>,
    /// It is a live snapshot's, which its server ends.
    snapshot: bool,
    /// It is a backup's.
    backup: bool,
}

/// The last checkpoint that was committed.
#[derive(Serialize)]
struct Committed {
    uuid: String,
    time: Option<String>,
}

/// A point that is kept.
#[derive(Serialize)]
struct Kept {
    name: String,
    uuid: String,
    time: Option<String>,
    since_bits: u64,
    since_bytes: u64,
    until_next_bits: u64,
    until_next_bytes: u64,
}

#[derive(Serialize)]
struct Frozen {
    name: Option<String>,
    uuid: String,
    dirty_bits: u64,
    dirty_bytes: u64,
}

#[derive(Serialize)]
struct Ended {
    uuid: String,
    name: Option<String>,
    kept: bool,
    dropped: Vec<String>,
    dirty_bits: u64,
    dirty_bytes: u64,
}

#[derive(Serialize)]
struct Status {
    outstanding: Option<Item>,
    committed: Option<Committed>,
}

#[derive(Serialize)]
struct Dropped {
    name: String,
}

#[derive(Serialize)]
struct Exported {
    out: String,
    dirty_bits: u64,
    dirty_bytes: u64,
}

pub fn run(args: &Checkpoint, wait: Duration, output: Output) -> Result<Exit> {
    match &args.action {
        CheckpointAction::Freeze(args) => freeze(args, wait, output),
        CheckpointAction::Commit(args) => commit(args, wait, output),
        CheckpointAction::Abort(args) => abort(args, wait, output),
        CheckpointAction::Status(args) => status(args, wait, output),
        CheckpointAction::List(args) => list(args, wait, output),
        CheckpointAction::Drop(args) => drop_point(args, wait, output),
        CheckpointAction::Export(args) => export(args, wait, output),
    }
}

fn any(_: &Info) -> Result<()> {
    Ok(())
}

fn outstanding(map: &DirtyMap) -> Result<Option<Item>> {
    let item = |c: dirtymap::checkpoint::Checkpoint| Item {
        state: c.state.name(),
        name: c.name,
        uuid: c.uuid.to_string(),
        time: time(c.time),
        snapshot: c.snapshot,
        backup: c.target.is_some(),
    };
    Ok(map.checkpoint()?.map(item))
}

fn freeze(args: &Freeze, wait: Duration, output: Output) -> Result<Exit> {
    let options = Options::new().freeze_timeout(Duration::from_secs(args.timeout));
    let map = open::for_writing_by(&args.file, With::Anybody, wait, output, any, options)?;
    let frozen = map.freeze(args.name.as_deref()).and_then(|checkpoint| {
        let (dirty_bits, dirty_bytes) = map.frozen_len(checkpoint.uuid)?;
        Ok(Frozen { name: checkpoint.name, uuid: checkpoint.uuid.to_string(), dirty_bits, dirty_bytes })
    });
    let closed = open::close(map, output);
    let answer = frozen?;
    closed?;
    output.answer(&answer, |out, a| {
        let (bytes, granules) = (size::human(a.dirty_bytes), size::count(a.dirty_bits, "granule"));
        say!(out, "froze {bytes} in {granules} as {}; commit or abort it when they are copied", a.uuid)
    })?;
    Ok(Exit::Fine)
}

/// The outstanding checkpoint, if it is the one that is meant.
fn meant(map: &DirtyMap, name: Option<&str>) -> Result<dirtymap::checkpoint::Checkpoint> {
    let path = map.path().display();
    let Some(found) = map.checkpoint()? else {
        return Err(Failure::new(
            "no-checkpoint",
            format!("{path}: no checkpoint is outstanding, so none can be ended"),
        ));
    };
    if name.is_none() || name == found.name.as_deref() {
        return Ok(found);
    }
    let is = found.name.as_deref().map_or("has no name".into(), |name| format!("is named {name:?}"));
    let message = format!("{path}: the outstanding checkpoint {} {is}, expected {:?}", found.uuid, name.unwrap_or(""));
    Err(Failure::new("no-checkpoint", message))
}

fn commit(args: &Commit, wait: Duration, output: Output) -> Result<Exit> {
    let map = open::for_writing(&args.outstanding.file, With::NoSnapshot, wait, output, any)?;
    end(map, &args.outstanding, output, args.keep, "committed", |map, uuid| {
        map.commit_checkpoint(uuid, args.keep)?;
        args.keep_last.map_or(Ok(Vec::new()), |most| keep_last(map, most))
    })
}

/// That of a live snapshot is given up only if its server is gone: with the map alone.
fn abort(args: &Outstanding, wait: Duration, output: Output) -> Result<Exit> {
    let of_snapshot = inspect(&args.file)?.checkpoint.is_some_and(|found| found.snapshot);
    let with = if of_snapshot { With::Nobody } else { With::NoSnapshot };
    let map = open::for_writing(&args.file, with, wait, output, any).map_err(|failure| match of_snapshot {
        true if failure.kind == "locked" => failure.and(
            "the checkpoint is of a live snapshot, and another program has the map: if that is its server, end the snapshot \
             there (dirtymap snapshot abort), or the server",
        ),
        _ => failure,
    })?;
    end(map, args, output, false, "aborted", |map, uuid| map.abort_checkpoint(uuid).map(|()| Vec::new()))
}

fn end(
    map: DirtyMap,
    args: &Outstanding,
    output: Output,
    keep: bool,
    done: &'static str,
    how: impl FnOnce(&DirtyMap, dirtymap::format::Uuid) -> dirtymap::Result<Vec<String>>,
) -> Result<Exit> {
    let ended = meant(&map, args.name.as_deref()).and_then(|found| {
        let dropped = how(&map, found.uuid)?;
        let (dirty_bits, dirty_bytes) = (map.count(), map.dirty_len());
        let (uuid, kept) = (found.uuid.to_string(), keep);
        Ok(Ended { uuid, name: found.name, kept, dropped, dirty_bits, dirty_bytes })
    });
    let closed = open::close(map, output);
    let answer = ended?;
    closed?;
    output.answer(&answer, |out, a| {
        let kept = if a.kept { ", kept by its name" } else { "" };
        say!(out, "{done} {}{kept}; now {} are dirty", a.uuid, size::human(a.dirty_bytes))?;
        a.dropped.iter().try_for_each(|name| say!(out, "dropped {name:?}"))
    })?;
    Ok(Exit::Fine)
}

fn status(args: &File, wait: Duration, output: Output) -> Result<Exit> {
    let (map, exit) = open::for_reading(&args.file, wait, output)?;
    let committed = map.last_committed()?.map(|c| Committed { uuid: c.uuid.to_string(), time: time(c.time) });
    let answer = Status { outstanding: outstanding(&map)?, committed };
    output.answer(&answer, |out, a| {
        let when = |time: &Option<String>| time.clone().unwrap_or_else(|| "no time".into());
        let outstanding = a.outstanding.as_ref().map_or("none".into(), |i| {
            let name = i.name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
            format!("{}{name} {}, {}", i.state, i.uuid, when(&i.time))
        });
        let last = a.committed.as_ref().map_or("none".into(), |c| format!("committed {}, {}", c.uuid, when(&c.time)));
        fold(out, "outstanding  ", &outstanding)?;
        if let Some(item) = &a.outstanding {
            fold(out, "             ", &whose(item, &shown(&args.file).to_string()))?;
        }
        fold(out, "last         ", &last)
    })?;
    Ok(exit)
}

/// Whose the outstanding checkpoint is, and who ends it.
fn whose(item: &Item, file: &str) -> String {
    if item.state != CheckpointState::Frozen.name() {
        return "the next command that writes the map puts it back".into();
    }
    let by = if item.backup { "; a backup under way ends it, and if that was killed, the next one" } else { "" };
    match item.snapshot {
        true => format!(
            "a live snapshot's: its server ends it (dirtymap snapshot commit, or abort){by}; if the server is gone for good: \
             dirtymap checkpoint abort {file}"
        ),
        false if item.backup => "a backup's: if it was killed, the next one puts back what was frozen".into(),
        false => format!(
            "dirtymap checkpoint commit {file} if all that it froze was copied, or dirtymap backup --frozen does both; else \
             dirtymap checkpoint abort {file}"
        ),
    }
}

fn list(args: &File, wait: Duration, output: Output) -> Result<Exit> {
    let (map, exit) = open::for_reading(&args.file, wait, output)?;
    let counted = map.count_points()?;
    let damaged = counted.iter().any(|point| point.damaged);
    let listed = counted.into_iter().map(|counted| {
        let CountedPoint { point, since: (since_bits, since_bytes), until_next, .. } = counted;
        let ((until_next_bits, until_next_bytes), uuid) = (until_next, point.uuid.to_string());
        let time = time(point.time);
        Kept { name: point.name, uuid, time, since_bits, since_bytes, until_next_bits, until_next_bytes }
    });
    output.list(listed.map(Ok), |out, p| {
        let (time, h) = (p.time.as_deref().unwrap_or("no time"), size::human);
        let (since, next) = (h(p.since_bytes), h(p.until_next_bytes));
        say!(out, "{time}  {since:>10} since, {next:>10} until the next  {}", shown(&p.name))
    })?;
    Ok(open::say_points(damaged, exit, output))
}

fn drop_point(args: &Named, wait: Duration, output: Output) -> Result<Exit> {
    let map = open::for_writing(&args.file, With::Anybody, wait, output, any)?;
    let dropped = map.drop_point(&args.name);
    let closed = open::close(map, output);
    dropped?;
    closed?;
    output.answer(&Dropped { name: args.name.clone() }, |out, a| say!(out, "dropped {:?}", a.name))?;
    Ok(Exit::Fine)
}

fn export(args: &ExportPoint, wait: Duration, output: Output) -> Result<Exit> {
    publish::vacant(&args.out)?;
    let (map, exit) = open::for_reading(&args.file, wait, output)?;
    match (&args.from, &args.to) {
        (Some(from), Some(to)) => map.export_between(from, to, &args.out)?,
        _ => map.export_since(args.since.as_deref().unwrap_or_default(), &args.out)?,
    }
    let (made, _) = open::for_reading(&args.out, wait, output)?;
    let answer =
        Exported { out: args.out.display().to_string(), dirty_bits: made.count(), dirty_bytes: made.dirty_len() };
    output.answer(&answer, |out, a| {
        let (bytes, granules) = (size::human(a.dirty_bytes), size::count(a.dirty_bits, "granule"));
        say!(out, "made {}: {bytes} in {granules} are dirty", shown(&a.out))
    })?;
    Ok(exit)
}
