//! Opening a map for a command, and telling the user what opening found.
//!
//! Invariant kept here: what can be refused is refused before the file is opened for writing, so that a refused
//! command leaves it byte for byte as it was.

use crate::exit::{Exit, Failure, Result};
use crate::files::Image;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::progress;
use crate::terminal::signals;
use dirtymap::format::COPIES;
use dirtymap::{
    Access, DirtyMap, Error, ImageStamp, Options,
    info::{FileState, Info, Recovery, inspect},
};
use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

/// Opens the map for reading, and says on stderr what had to be recovered. The code is that of the answer.
pub fn for_reading(path: &Path, wait: Duration, output: Output) -> Result<(DirtyMap, Exit)> {
    let since = Instant::now();
    let map = patiently(wait, || Ok(Options::new().read_only(true).open(path)))?;
    detail(&map, "reading", since, output);
    let exit = say(map.recovery(), false, output);
    Ok((map, exit))
}

/// Who else may have a map open that a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Nobody: the command needs it alone.
    Nobody,
    /// Anybody who shares it. Where it cannot be shared, the command says why and has it alone.
    Anybody,
    /// The same, of a command that writes the image, or freezes and ends what is frozen: not beside a live snapshot, whose server
    /// would copy nothing, and alone may end it.
    NoSnapshot,
}

/// Opens the map for writing, after `acceptable` has accepted what is in it, and says what was recovered.
pub fn for_writing(
    path: &Path,
    with: With,
    wait: Duration,
    output: Output,
    acceptable: impl Fn(&Info) -> Result<()>,
) -> Result<DirtyMap> {
    for_writing_by(path, with, wait, output, acceptable, Options::new())
}

/// As [`for_writing`], with other options.
pub fn for_writing_by(
    path: &Path,
    with: With,
    wait: Duration,
    output: Output,
    acceptable: impl Fn(&Info) -> Result<()>,
    options: Options,
) -> Result<DirtyMap> {
    opened(path, with, wait, output, acceptable, || Ok(options.clone()))
}

/// As [`for_writing`], for a command that uses the image: everything becomes dirty if that is not as the map last saw
/// it. Also gives the image's stamp of just before.
pub fn for_writing_of(
    path: &Path,
    with: With,
    image: &Image,
    wait: Duration,
    output: Output,
    acceptable: impl Fn(&Info) -> Result<()>,
) -> Result<(DirtyMap, ImageStamp)> {
    let stamp = Cell::new(image.stamp);
    let map = opened(path, with, wait, output, acceptable, || {
        // Whoever had the map until now may have written to the image.
        stamp.set(image.stamp_now()?);
        Ok(Options::new().image(stamp.get()))
    })?;
    Ok((map, stamp.get()))
}

/// What opening a map for writing would be refused for at once. Whether another program has it open, which may change what was
/// asked about.
pub fn may_open(path: &Path, with: With, acceptable: &dyn Fn(&Info) -> Result<()>) -> Result<bool> {
    let info = inspect(path)?;
    let in_use = info.state == FileState::Open;
    if with == With::NoSnapshot {
        no_snapshot(&info, path)?;
    }
    if !in_use {
        acceptable(&info)?;
    }
    Ok(in_use)
}

fn opened(
    path: &Path,
    with: With,
    wait: Duration,
    output: Output,
    acceptable: impl Fn(&Info) -> Result<()>,
    options: impl Fn() -> Result<Options>,
) -> Result<DirtyMap> {
    let deadline = Instant::now() + wait;
    let in_use = may_open(path, with, &acceptable)?;
    let since = Instant::now();
    // Why it cannot be shared.
    let refusal = Cell::new(None);
    let open = || {
        // For the others the library asks again, when it is settled who has the map.
        let options = options()?.progress(progress::show()).beside_snapshot(with != With::NoSnapshot);
        Ok(match with {
            With::Nobody => options.open(path),
            With::Anybody | With::NoSnapshot => match options.clone().access(Access::Shared).open(path) {
                Err(Error::Refused { path: at, why }) if why.is_of_sharing() => {
                    refusal.set(Some(Error::Refused { path: at, why }));
                    options.open(path)
                }
                opened => {
                    refusal.set(None);
                    opened
                }
            },
        })
    };
    let opened = patiently(deadline.saturating_duration_since(Instant::now()), open);
    let map = match (opened, refusal.take()) {
        (Ok(map), None) => map,
        (Ok(map), Some(refused)) => {
            output.note(format_args!("{refused}; this command has the map alone until it ends"));
            map
        }
        (Err(failure), Some(refused)) if failure.kind == "locked" => {
            return Err(failure.and(format_args!("nor can it be shared: {refused}")));
        }
        (Err(failure), _) => return Err(failure),
    };
    detail(&map, "writing", since, output);
    if in_use {
        // Whoever had it may have changed what was asked about.
        if let Err(failure) = map.info().map_err(Into::into).and_then(|info| acceptable(&info)) {
            map.close()?;
            return Err(failure);
        }
    }
    say(map.recovery(), true, output);
    Ok(map)
}

fn no_snapshot(info: &Info, path: &Path) -> Result<()> {
    if info.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.snapshot) {
        let message = format!(
            "{}: a live snapshot of the image is outstanding, which only its server may write beside, and end (dirtymap \
             snapshot); a backup goes by that server (dirtymap backup nbd+unix:///EXPORT?socket=PATH); if it is gone, start it \
             again, or give the snapshot up (dirtymap checkpoint abort {0})",
            path.display()
        );
        return Err(Failure::new("snapshot-outstanding", message));
    }
    Ok(())
}

/// Closes a map that a command has changed; for `-v` says what that took.
pub fn close(map: DirtyMap, output: Output) -> Result<()> {
    cost(&map, output);
    let closed = map.close();
    progress::clear();
    Ok(closed?)
}

/// Closes a map by which an image was written, with the image as it is now. If that has not its length any more, the map does
/// not know it as its own: the next one that opens it with the image takes everything for dirty.
pub fn close_with(map: DirtyMap, image: &Image) -> Result<()> {
    image.sync()?;
    let stamp = image.stamp_now()?;
    if stamp.size() != image.size() {
        map.close()?;
        let (name, was, is) = (image.path.display(), image.size(), stamp.size());
        let message = format!("{name}: its size was changed from {was} to {is} bytes while it was written");
        return Err(Failure::new("image-changed", message).and("everything in it counts as dirty"));
    }
    Ok(map.close_with_image(&stamp)?)
}

/// For `-v`: what the work on a map took so far.
pub fn cost(map: &DirtyMap, output: Output) {
    output.detail(|| {
        let s = map.stats();
        format!(
            "{}, before closing: {} of {} in all, {} to arm; {} waited for that; {}",
            map.path().display(),
            size::count(s.syncs, "durable write"),
            size::count(s.bytes_written, "byte"),
            s.arms,
            size::count(s.slow_sets, "set"),
            if s.flushes == 1 { "1 flush".into() } else { format!("{} flushes", s.flushes) }
        )
    });
}

/// For `-v`: what was opened.
fn detail(map: &DirtyMap, how: &str, since: Instant, output: Output) {
    output.detail(|| {
        let g = map.geometry();
        let left = if map.recovery().unclean { "not closed cleanly" } else { "closed cleanly" };
        format!(
            "{}: opened for {how} in {} ms; {}, {} of {}, {left}",
            map.path().display(),
            since.elapsed().as_millis(),
            size::count(g.len(), "byte"),
            size::count(g.bits(), "bit"),
            size::human(g.granule())
        )
    });
}

/// Tries until the file is free, the time is over, or somebody interrupts.
pub fn patiently<T>(wait: Duration, open: impl Fn() -> Result<dirtymap::Result<T>>) -> Result<T> {
    let deadline = Instant::now() + wait;
    loop {
        match open()? {
            Err(Error::Locked { .. }) if Instant::now() < deadline => {
                signals::check("nothing was changed")?;
                std::thread::sleep(Duration::from_millis(50));
            }
            done => return Ok(done?),
        }
    }
}

/// Says what opening found. Damage that was only looked at decides the exit code; damage that was mended does not.
pub fn say(recovery: &Recovery, mended: bool, output: Output) -> Exit {
    for note in notes(recovery, mended) {
        output.note(note);
    }
    if recovery.damaged() && !mended { Exit::Damage } else { Exit::Fine }
}

/// Says so if a point that was asked for is damaged, which the exit code tells as well.
pub fn say_points(damaged: bool, exit: Exit, output: Output) -> Exit {
    if !damaged {
        return exit;
    }
    output.note(
        "a point of the map is damaged: what was written since is not known, and everything counts; `dirtymap check` says \
         which one, and `dirtymap repair` mends it",
    );
    Exit::Damage
}

fn notes(r: &Recovery, mended: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let done = if mended { "recovered" } else { "recovered in memory, the file is as it was" };
    if r.unclean {
        let added = match r.cache_trusted {
            Some(true) => "no dirt was added, the page cache is as the writer left it".to_string(),
            Some(false) => "the page cache cannot be trusted, so everything counts as dirty".to_string(),
            None if r.added_items() == 0 => {
                "nothing was armed, so that only what was reset last may be dirty again".into()
            }
            None => {
                let intent = match r.intent_items {
                    0 => String::new(),
                    items => format!(", {items} of them as the last checkpoint froze them (write intent)"),
                };
                format!("up to {} that were armed count as dirty{intent}", size::count(r.added_items(), "byte"))
            }
        };
        notes.push(format!("the map was not closed cleanly; {done}: {added}; nothing that was set is lost"));
    }
    if r.interrupted_pages > 0 {
        let pages = size::count(r.interrupted_pages, "page");
        notes.push(format!("taken for all dirty: {pages} in which a crash came upon a rewrite"));
    }
    if r.damaged_pages > 0 {
        let advice = if mended {
            "this was written, but for what is frozen, which `dirtymap repair` mends"
        } else {
            "run `dirtymap check`; the next command that writes mends the map, but for what is frozen, which `dirtymap repair` mends"
        };
        notes.push(format!("taken for all dirty: {}; {advice}", size::count(r.damaged_pages, "damaged page")));
    }
    if r.damaged_headers > 0 {
        let advice = if mended { "they were renewed" } else { "the next writer renews them" };
        let copies = if r.damaged_headers == 1 { "copy" } else { "copies" };
        notes.push(format!("{} damaged header {copies} of {COPIES}; another one is good; {advice}", r.damaged_headers));
    }
    if let Some((found, recorded)) = r.lost_granules {
        notes.push(format!(
            "pages were lost together with their entries ({} dirty, and {recorded} when the map was closed); everything counts \
             as dirty",
            size::count(found, "granule")
        ));
    }
    if r.lost_commit {
        notes.push("a header was lost that may have been newer; everything counts as dirty".into());
    }
    if let Some(why) = &r.image_changed {
        notes.push(format!("the image is not as this map last saw it ({why}); everything counts as dirty"));
    }
    notes
}
