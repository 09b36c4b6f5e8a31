//! `dirtymap backup`: freezes what is dirty, copies it, verifies it, and only then forgets it.

use crate::backup::{self, Outcome, Wanted};
use crate::cli::{Backup, DiskArg};
use crate::exit::{Exit, Failure, Result};
use crate::files;
use crate::terminal::output::Output;
use dirtymap_cli::set_json;
use std::collections::BTreeSet;
use std::path::Path;
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
    match (is_uri(image), &args.map, &args.control) {
        (true, None, None) => {
            return Err(Failure::usage("give the control socket of the export's server (--control PATH)"));
        }
        (true, Some(_), _) => return Err(Failure::usage("the server of an export has its map: leave --map out")),
        (false, _, Some(_)) => return Err(Failure::usage("--control goes with an export: nbd+unix:///?socket=PATH")),
        (false, None, None) => return Err(Failure::usage("give the image's map (--map FILE)")),
        (true, None, Some(_)) | (false, Some(_), None) => {}
    }
    let (image, map, control) = (image.clone(), args.map.clone().unwrap_or_default(), args.control.clone());
    let (target, set, how) = (args.target.clone(), args.set.clone(), args.how.clone());
    let wanted = Wanted { image, map, control, target, set, how, ..Wanted::default() };
    let outcome = backup::back_up(&wanted, wait, output)?;
    output.answer(&outcome, Outcome::human)?;
    Ok(exit(outcome.hook_failed()))
}

/// The backup is complete.
fn exit(hook_failed: bool) -> Exit {
    if hook_failed { Exit::Operational } else { Exit::Fine }
}

/// Whether an export is meant. A file of such a name is given as `./nbd:...`.
fn is_uri(image: &Path) -> bool {
    let image = image.to_string_lossy();
    image.split_once("://").is_some_and(|(scheme, _)| ["nbd", "nbds", "nbd+unix", "nbds+unix"].contains(&scheme))
}

/// Several images, each with a set of its own in the folder.
fn several(args: &Backup, folder: &Path) -> Result<Vec<Wanted>> {
    let mut names = BTreeSet::new();
    for DiskArg { name, .. } in &args.disk {
        let plain = !name.is_empty() && !name.contains('/') && ![".", ".."].contains(&&**name);
        if !plain || !names.insert(name) {
            let what = if plain { "is given twice" } else { "is no name of a folder" };
            return Err(Failure::usage(format!(
                "--disk: {name:?} {what}; each disk has a set of its own in {}",
                folder.display()
            )));
        }
    }
    let roles = args.disk.iter().flat_map(|disk| [("image", &*disk.image), ("map", &*disk.map)]);
    files::distinct(&roles.collect::<Vec<_>>())?;
    crate::sets::make_folder(folder)?;
    let group = set_json::new_id();
    let wanted = |disk: &DiskArg| Wanted {
        disk: Some(disk.name.clone()),
        group: Some(group.clone()),
        image: disk.image.clone(),
        map: disk.map.clone(),
        control: None,
        target: None,
        set: Some(folder.join(&disk.name)),
        how: args.how.clone(),
    };
    Ok(args.disk.iter().map(wanted).collect())
}
