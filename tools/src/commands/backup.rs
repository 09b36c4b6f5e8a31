//! `dirtymap backup`: freezes what is dirty, copies it, verifies it, and only then forgets it.

use crate::backup::{self, Outcome, Wanted};
use crate::cli::{Backup, BackupDisk, is_uri};
use crate::exit::{Exit, Failure, Result};
use crate::files;
use crate::terminal::output::Output;
use dirtymap_cli::set_json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn run(args: &Backup, wait: Duration, output: Output) -> Result<Exit> {
    if let (Some(set), [_, ..]) = (&args.set, &*args.disk) {
        let outcomes = backup::back_up_all(&several(args, set)?, wait, output)?;
        output
            .answer(&outcomes, |out, outcomes| outcomes.iter().try_for_each(|outcome| Outcome::human(out, outcome)))?;
        return Ok(exit(outcomes.iter().any(Outcome::hook_failed)));
    }
    let Some(image) = &args.image else {
        return Err(Failure::usage("give an image, or an export"));
    };
    if is_uri(image) && args.map.is_some() {
        return Err(Failure::usage("the server of an export has its map: leave --map out"));
    }
    if !served(is_uri(image), &args.control)? && args.map.is_none() {
        return Err(Failure::usage("give the image's map (--map FILE)"));
    }
    let (image, map, control) = (image.clone(), args.map.clone().unwrap_or_default(), args.control.clone());
    let (target, set, how) = (args.target.clone(), args.set.clone(), args.how.clone());
    let wanted = Wanted { image, map, control, target, set, how, ..Wanted::default() };
    let outcome = backup::back_up(&wanted, wait, output)?;
    output.answer(&outcome, Outcome::human)?;
    Ok(exit(outcome.hook_failed()))
}

/// Whether a server is to make the snapshot, of which the control socket has to be known.
fn served(export: bool, control: &Option<PathBuf>) -> Result<bool> {
    match (export, control) {
        (true, None) => Err(Failure::usage("give the control socket of the export's server (--control PATH)")),
        (false, Some(_)) => Err(Failure::usage("--control goes with an export: nbd+unix:///?socket=PATH")),
        _ => Ok(export),
    }
}

/// The backup is complete.
fn exit(hook_failed: bool) -> Exit {
    if hook_failed { Exit::Operational } else { Exit::Fine }
}

/// Several images, each with a set of its own in the folder.
fn several(args: &Backup, folder: &Path) -> Result<Vec<Wanted>> {
    let mut names = BTreeSet::new();
    for BackupDisk { name, .. } in &args.disk {
        let plain = !name.is_empty() && !name.contains('/') && ![".", ".."].contains(&&**name);
        if !plain || !names.insert(name) {
            let what = if plain { "is given twice" } else { "is no name of a folder" };
            return Err(Failure::usage(format!(
                "--disk: {name:?} {what}; each disk has a set of its own in {}",
                folder.display()
            )));
        }
    }
    let exports = args.disk.iter().filter(|disk| disk.map.is_none()).count();
    if ![0, args.disk.len()].contains(&exports) {
        return Err(Failure::usage(
            "--disk: give images, or exports of one server; not some of these and some of those",
        ));
    }
    if !served(exports > 0, &args.control)? {
        let images = args.disk.iter().map(|disk| ("image", &*disk.image));
        let maps = args.disk.iter().filter_map(|disk| Some(("map", disk.map.as_deref()?)));
        files::distinct(&images.chain(maps).collect::<Vec<_>>())?;
    }
    let group = set_json::new_id();
    let wanted = |disk: &BackupDisk| Wanted {
        disk: Some(disk.name.clone()),
        group: Some(group.clone()),
        image: disk.image.clone(),
        map: disk.map.clone().unwrap_or_default(),
        control: args.control.clone(),
        target: None,
        set: Some(folder.join(&disk.name)),
        how: args.how.clone(),
    };
    Ok(args.disk.iter().map(wanted).collect())
}
