//! How to create and open maps.
//!
//! Invariant kept here: nothing of ours runs unless it is asked for: options of C begin without a thread.

use crate::failure::{Failure, Result};
use crate::ffi::{Callback, Const, Flag, New, Opaque, ProgressFn, Text, call, first_call, not_seen, with_file};
use crate::layout::Progress;
use dirtymap::format::Reasons;
use dirtymap::{Access, Durability, ImageStamp, IntentBound, Step};
use std::ffi::{c_int, c_void};
use std::ops::ControlFlow;
use std::time::Duration;

/// `dirtymap_options_t`.
#[derive(Clone)]
pub(crate) struct Options {
    options: dirtymap::Options,
    /// The image, by the caller's descriptor. It is looked at when a map is made or opened: options may be used again.
    image: Option<c_int>,
}

type Handle = Opaque<Options>;

/// Those of C, before anything is asked for.
pub(crate) fn defaults() -> dirtymap::Options {
    dirtymap::Options::new().flush_interval(None)
}

/// Those that were given, with the image as it is now; null is the defaults.
pub(crate) fn given(options: Const<Handle>) -> Result<dirtymap::Options> {
    if options.is_null() {
        return Ok(defaults());
    }
    let Options { options, image } = options.get("options")?.clone();
    Ok(match image {
        Some(image) => options.image(stamp(image)?),
        None => options,
    })
}

/// Has the options be others.
fn with(options: Handle, change: impl FnOnce(dirtymap::Options) -> Result<dirtymap::Options>) -> c_int {
    call(|| {
        let options = &mut options.get_mut("options")?.options;
        *options = change(options.clone())?;
        Ok(())
    })
}

/// The stamp of a file that the caller has open.
pub(crate) fn stamp(fd: c_int) -> Result<ImageStamp> {
    with_file(fd, ImageStamp::of)?.map_err(not_seen(fd))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_new(options: New<Options>) -> c_int {
    first_call(|| {
        options.wanted("the place for options")?.put_box(Options { options: defaults(), image: None });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_free(options: Handle) {
    drop(options.take());
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_granule(options: Handle, items: u64) -> c_int {
    with(options, |options| Ok(options.granule_bytes(items)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_label(options: Handle, label: Text) -> c_int {
    with(options, |options| Ok(options.label(label.get("label")?)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_durability(options: Handle, durability: u32) -> c_int {
    with(options, |options| {
        let durability = match durability {
            1 => Durability::PowerLoss,
            2 => Durability::Process,
            _ => return Err(Failure::Argument("no such durability")),
        };
        Ok(options.durability(durability))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_dirty(options: Handle, dirty: Flag) -> c_int {
    with(options, |options| Ok(options.dirty(dirty.is_set())))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_added_dirt(options: Handle, reasons: u32) -> c_int {
    with(options, |options| Ok(options.added_dirt(Reasons(reasons))))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_image(options: Handle, fd: c_int) -> c_int {
    call(|| {
        let options = options.get_mut("options")?;
        with_file(fd, |_| options.image = Some(fd))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_like(options: Handle, fd: c_int) -> c_int {
    with(options, |options| with_file(fd, |file| options.like(file)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_access(options: Handle, access: u32) -> c_int {
    with(options, |options| {
        let access = match access {
            0 => Access::Exclusive,
            1 => Access::Shared,
            2 => Access::ReadOnly,
            _ => return Err(Failure::Argument("no such access")),
        };
        Ok(options.access(access))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_armed_bound(options: Handle, items: u64) -> c_int {
    with(options, |options| Ok(options.armed_bound(items)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_intent_bound(options: Handle, items: u64) -> c_int {
    let bound = match items {
        0 => IntentBound::None,
        crate::read::NONE => IntentBound::Proportional,
        _ => IntentBound::Items(items),
    };
    with(options, |options| Ok(options.intent_bound(bound)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_flush_interval(options: Handle, milliseconds: u64) -> c_int {
    let interval = (milliseconds > 0).then(|| Duration::from_millis(milliseconds));
    with(options, |options| Ok(options.flush_interval(interval)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_wait(options: Handle, milliseconds: u64) -> c_int {
    with(options, |options| Ok(options.wait(Duration::from_millis(milliseconds))))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_freeze_timeout(options: Handle, milliseconds: u64) -> c_int {
    with(options, |options| Ok(options.freeze_timeout(Duration::from_millis(milliseconds))))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_lock_timeout(options: Handle, milliseconds: u64) -> c_int {
    with(options, |options| Ok(options.lock_timeout(Duration::from_millis(milliseconds))))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_writes_outlive(options: Handle, outlive: Flag) -> c_int {
    with(options, |options| Ok(options.writes_outlive(outlive.is_set())))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_beside_snapshot(options: Handle, beside: Flag) -> c_int {
    with(options, |options| Ok(options.beside_snapshot(beside.is_set())))
}

/// The number of a step in the header; 0 is one that this version has no number for.
fn number(step: Step) -> u32 {
    match step {
        Step::Creating => 1,
        Step::Opening => 2,
        Step::Recovering => 3,
        Step::Setting => 4,
        Step::Resetting => 5,
        Step::Freezing => 6,
        Step::Waiting => 7,
        Step::PuttingBack => 8,
        Step::Flushing => 9,
        Step::Resizing => 10,
        _ => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_options_progress(options: Handle, told: ProgressFn, opaque: *mut c_void) -> c_int {
    let callback = Callback::new(told, opaque);
    with(options, |options| {
        Ok(options.progress(move |now| {
            let progress = Progress { step: number(now.step), reserved: 0, done: now.done, total: now.total };
            if callback.tell(&progress) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }))
    })
}
