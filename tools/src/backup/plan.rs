//! What is at the target's name, and so what has to be copied to it, and what has to be proved first.
//!
//! Invariant kept here: a target is overwritten without a full copy only if it is the recorded one, and without a comparison only
//! if its stamp proves that it is as it was recorded.

use super::Wanted;
use crate::exit::{Failure, Result};
use crate::files::Image;
use dirtymap::{Comparison, ImageStamp, info::Info};
use dirtymap_cli::set_json;
use std::path::Path;

/// What to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// There is nothing, or a file without content: everything is copied.
    New,
    /// There is something of unknown content that may be overwritten: everything is copied.
    Full,
    /// It is a backup of this image: what is dirty is copied.
    Incremental {
        /// Nothing proves that it is unchanged since: what is not copied is compared, before anything is overwritten.
        compare: bool,
        /// It is not the recorded one, but may be a copy of it: only a comparison tells.
        stranger: bool,
    },
}

impl Plan {
    pub fn is_full(self) -> bool {
        !matches!(self, Plan::Incremental { .. })
    }

    /// Why everything is copied, if it is.
    pub fn why_full(self, args: &Wanted) -> Option<&'static str> {
        match self {
            Plan::Incremental { .. } => None,
            Plan::New => Some("the target is new, or empty"),
            Plan::Full if args.how.full => Some("it was asked for (--full)"),
            Plan::Full if args.how.force => Some("it was asked for (--force)"),
            Plan::Full => Some("the last backup to this target was not completed"),
        }
    }
}

/// Decides, or refuses. `size`: that of the image.
pub fn plan(args: &Wanted, path: &Path, info: &Info, target: Option<&Image>, size: u64) -> Result<Plan> {
    let name = path.display();
    if let Some(target) = target
        && target.stamp.is_block_device()
        && target.size() < size
    {
        let message = format!("{name} has {} bytes, too few for an image of {size}", target.size());
        return Err(Failure::new("size-differs", message));
    }
    if let Some(since) = &args.how.since {
        return plan_since(path, info, target, size, since);
    }
    let Some(target) = target else { return Ok(Plan::New) };
    let begun = info.begun.as_ref().is_some_and(|begun| is_it(target, begun));
    let last = info.target.as_ref().map(|recorded| (target.stamp.compare(recorded), recorded.size()));
    let why = match last {
        Some((Comparison::Another(why), _)) => why,
        // A backup that was begun may have given it another size already.
        Some((_, recorded)) if recorded != target.size() && !begun => {
            format!("size was {recorded}, is {}", target.size())
        }
        Some((compared, _)) if args.how.full || (args.how.force && compared != Comparison::Same) => {
            return Ok(Plan::Full);
        }
        Some((compared, recorded)) => {
            // The image's length has changed, or it is no copy of that: the last backup may have gone to a set.
            let other = recorded != size && !target.stamp.is_block_device();
            return Ok(Plan::Incremental { compare: begun || other || compared != Comparison::Same, stranger: false });
        }
        None => "this map has not written any backup so far".into(),
    };
    if target.is_blank() {
        return Ok(Plan::New);
    }
    // What an interrupted full backup has left is this map's own.
    if begun || args.how.force {
        return Ok(Plan::Full);
    }
    let give = if went_to_a_set(info) { "that is a member of a set; give" } else { "give that backup, or" };
    let message = format!(
        "{name} is not the backup that this map last wrote ({why}), so copying what is dirty would not make it one; \
         {}{give} a new file; or bring {name} up to date since the name that it was complete with (--since \
         NAME); or overwrite it with a full copy (--force)",
        args.same_server()
    );
    Err(Failure::new("wrong-target", message))
}

/// Whether the last backup made a member of a set, by the name of the point that it left.
fn went_to_a_set(info: &Info) -> bool {
    let last = |target: &ImageStamp| info.target.as_ref().is_some_and(|last| last.equals(target));
    let member = |name: &str| set_json::point_of(name).is_some();
    info.points.iter().any(|point| member(&point.name) && point.target.as_ref().is_some_and(last))
}

/// A target that was complete when a point was frozen: any copy of it will do, as all that is not copied is compared.
fn plan_since(path: &Path, info: &Info, target: Option<&Image>, size: u64, since: &str) -> Result<Plan> {
    let name = path.display();
    let Some(target) = target else {
        let message = format!("{name}: not found; --since needs the backup that was complete at {since:?}");
        return Err(Failure::new("not-found", message));
    };
    if target.size() > size && !target.stamp.is_block_device() {
        let message = format!("{name} has {} bytes, more than the image, which has {size}", target.size());
        return Err(Failure::new("size-differs", message));
    }
    let point = info.points.iter().find(|point| point.name == *since);
    let recorded = point.and_then(|point| point.target.as_ref());
    let compared = recorded.map(|recorded| target.stamp.compare(recorded));
    Ok(Plan::Incremental {
        compare: compared != Some(Comparison::Same),
        stranger: compared.is_none_or(|compared| matches!(compared, Comparison::Another(_))),
    })
}

/// Whether a target is what was recorded, whatever was written to it since.
fn is_it(target: &Image, recorded: &ImageStamp) -> bool {
    !matches!(target.stamp.compare(recorded), Comparison::Another(_))
}
