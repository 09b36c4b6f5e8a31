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
        return Ok(Exit::Fine);
    }
    let (Some(image), Some(map)) = (&args.image, &args.map) else {
        return Err(Failure::usage("give an image and its map"));
    };
    let (image, map, how) = (image.clone(), map.clone(), args.how.clone());
    let (target, set) = (args.target.clone(), args.set.clone());
    let outcome = backup::back_up(&Wanted { image, map, target, set, how, ..Wanted::default() }, wait, output)?;
    output.answer(&outcome, Outcome::human)?;
    Ok(Exit::Fine)
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
        target: None,
        set: Some(folder.join(&disk.name)),
        how: args.how.clone(),
    };
    Ok(args.disk.iter().map(wanted).collect())
}
