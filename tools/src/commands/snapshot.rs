//! `dirtymap snapshot`: live snapshots of a running server.

use crate::cli::{CommitSnapshot, Consistency, CreateSnapshot, EndSnapshot, Snapshot, SnapshotAction};
use crate::control::{Client, Request};
use crate::exit::{Exit, Result};
use crate::hooks;
use crate::size;
use crate::snapshot::{Progress, SnapshotList, SnapshotStatus};
use crate::terminal::output::Output;
use crate::terminal::text::say;
use dirtymap_cli::shown::shown;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

pub fn run(args: &Snapshot, output: Output) -> Result<Exit> {
    match &args.action {
        SnapshotAction::Create(args) => create(args, output),
        SnapshotAction::List(args) => list(&args.server, output),
        SnapshotAction::Commit(args) => commit(args, output),
        SnapshotAction::Abort(args) => abort(args, output),
    }
}

/// Has a server answer.
fn ask<T: DeserializeOwned>(server: &Path, request: &Request, limit: Option<Duration>, output: Output) -> Result<T> {
    let answer = Client::connect(server)?.within(limit).telling(output).ask(request);
    answer.map_err(|failure| match &*failure.kind {
        "interrupted" | "no-answer" => failure
            .and(format_args!("it may do it yet, which `dirtymap snapshot list --server {}` tells", shown(server))),
        _ => failure,
    })
}

fn create(args: &CreateSnapshot, output: Output) -> Result<Exit> {
    // Before a hook is run in vain; not the connection that asks, of which a server does not wait for long.
    drop(Client::connect(&args.served.server)?);
    let request = Request::SnapshotCreate {
        name: args.name.clone(),
        whole: args.whole,
        app: args.consistency == Consistency::App,
        backups: Vec::new(),
    };
    let ask = || ask::<SnapshotStatus>(&args.served.server, &request, args.hooks.limit(), output);
    let ran = hooks::around(&args.hooks, ask);
    let made = match (ran.result, ran.after) {
        (Ok(made), Ok(())) => made,
        (Ok(made), Err(failed)) => return Err(failed.and(format_args!("snapshot {:?} is there", made.name))),
        (Err(failed), Ok(())) => return Err(failed),
        (Err(failed), Err(also)) => return Err(failed.and(also)),
    };
    output.answer(&made, |out, made| {
        let frozen = made.disks.iter().map(|disk| disk.frozen_bytes).sum();
        say!(out, "snapshot {:?} is there, {}; {} are to be copied", made.name, made.id, size::human(frozen))
    })?;
    Ok(Exit::Fine)
}

fn list(server: &Path, output: Output) -> Result<Exit> {
    let all: SnapshotList = ask(server, &Request::SnapshotList {}, None, output)?;
    output.answer(&all, |out, all| {
        for snapshot in &all.snapshots {
            let sum = |of: fn(&Progress) -> u64| size::human(snapshot.disks.iter().map(of).sum());
            let (frozen, done, scratch) =
                (sum(|disk| disk.frozen_bytes), sum(|disk| disk.done_bytes), sum(|disk| disk.scratch_bytes));
            let created = snapshot.created.as_deref().unwrap_or("-");
            say!(
                out,
                "{}  {created}  {}  {done} of {frozen} done  {scratch} of scratch",
                snapshot.name,
                snapshot.consistency
            )?;
            if let Some(why) = &snapshot.broken {
                say!(out, "  broken: {why}; abort it")?;
            }
        }
        Ok(())
    })?;
    Ok(Exit::Fine)
}

fn commit(args: &CommitSnapshot, output: Output) -> Result<Exit> {
    let (name, id) = (args.ends.name.clone(), args.ends.id.clone());
    let request = Request::SnapshotCommit { name, id, keep: args.keep, backup: None };
    let ended: SnapshotStatus = ask(&args.ends.served.server, &request, None, output)?;
    output.answer(&ended, |out, ended| say!(out, "committed; snapshot {:?} is gone", ended.name))?;
    Ok(Exit::Fine)
}

fn abort(args: &EndSnapshot, output: Output) -> Result<Exit> {
    let request = Request::SnapshotAbort { name: args.name.clone(), id: args.id.clone(), export: None };
    let ended: SnapshotStatus = ask(&args.served.server, &request, None, output)?;
    output.answer(&ended, |out, ended| {
        let (all, committed) = (ended.disks.len(), ended.disks.iter().filter(|disk| disk.committed).count());
        let but = match committed {
            0 => String::new(),
            _ => format!(", but for {committed} of its {all} disks, which it was committed for before"),
        };
        say!(out, "aborted; snapshot {:?} is gone, what it had frozen is dirty{but}", ended.name)
    })?;
    Ok(Exit::Fine)
}
