//! What the demo keeps beside the mirror: a set of backups, one before the first kill and one after the last, of which it restores
//! the older one.
//!
//! Invariant kept here: what is restored is compared with a copy of the image that was made when that member was.

use super::{Place, compare_files, copy_file};
use crate::backup;
use crate::commands::restore;
use crate::exit::Result;
use crate::files::Image;
use crate::sets::Folder;
use crate::terminal::output::Output;
use std::path::PathBuf;

/// What the image was when the first member was made, and what comes back of that.
const REFERENCE: &str = "first.raw";
const RESTORED: &str = "restored.raw";
/// The folder of the set.
pub const SET: &str = "backups";

/// Makes the next member.
fn keep(place: &Place, output: Output) -> Result<()> {
    let args = backup::Wanted { target: None, set: Some(place.dir().join(SET)), ..super::backup_args(place) };
    backup::back_up(&args, super::NO_WAIT, output.without_notes()).map(drop)
}

/// Makes the first member, and a copy of the image.
pub fn begin(place: &Place, output: Output) -> Result<()> {
    keep(place, output)?;
    let image = Image::open(&place.image, false)?;
    let copy = Image::create(&place.dir().join(REFERENCE), Some(&image.file))?;
    copy.file.set_len(image.size()).map_err(|e| copy.failed("set its size", &e))?;
    copy_file(&image, &copy)
}

/// Makes the last member, restores the first, compares it with the copy, and says how many members there are.
pub fn end(place: &Place, output: Output) -> Result<u64> {
    keep(place, output)?;
    let folder = Folder::open(&place.dir().join(SET), super::NO_WAIT)?;
    let [reference, restored]: [PathBuf; 2] = [REFERENCE, RESTORED].map(|name| place.dir().join(name));
    restore::member_to_new(&folder, 0, &restored)?;
    compare_files(&reference, &restored, "restoring the first member of the set, it and what the image was then")?;
    Ok(folder.set.members.len() as u64)
}
