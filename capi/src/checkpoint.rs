//! Checkpoints: freezing, committing, aborting, and what is frozen.

use crate::failure::Result;
use crate::ffi::{Callback, Const, Flag, Kept, Map, NewMap, Out, SettleFn, Struct, Text};
use crate::handle::Kind;
use crate::layout;
use dirtymap::checkpoint::{Checkpoint, CheckpointState};
use dirtymap::{Error, Step, Uuid};
use std::ffi::{c_int, c_void};
use std::time::{SystemTime, UNIX_EPOCH};

/// `const dirtymap_uuid_t *`.
pub(crate) type Identity = Const<Kept<[u8; 16]>>;

pub(crate) fn uuid(checkpoint: Identity) -> Result<Uuid> {
    Ok(Uuid(checkpoint.get("uuid")?))
}

/// Seconds since 1970; 0 is never.
pub(crate) fn seconds(time: Option<SystemTime>) -> i64 {
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| since.as_secs().try_into().ok()).unwrap_or(0)
}

/// The number of a state in the header.
pub(crate) fn number(checkpoint: Option<&Checkpoint>) -> u32 {
    match checkpoint.map(|checkpoint| checkpoint.state) {
        None | Some(CheckpointState::Normal) => 0,
        Some(CheckpointState::Freezing) => 1,
        Some(CheckpointState::Frozen) => 2,
        Some(CheckpointState::Aborting) => 3,
    }
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_freeze(map: Map, name: Text, checkpoint: Out<[u8; 16]>) -> c_int {
    map.call(|map| {
        let checkpoint = checkpoint.wanted("the place for a uuid")?;
        checkpoint.put(map.file()?.freeze(name.optional("name")?)?.uuid.0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_freeze_snapshot(
    map: Map,
    name: Text,
    settle: SettleFn,
    opaque: *mut c_void,
    checkpoint: Out<[u8; 16]>,
) -> c_int {
    map.call(|map| {
        let checkpoint = checkpoint.wanted("the place for a uuid")?;
        let callback = Callback::new(settle, opaque);
        let settled = |uuid: Uuid| match callback.tell(&uuid.0) {
            false => Ok(()),
            true => Err(Error::Interrupted { step: Step::Freezing }),
        };
        // Has a part of its own in the map, which the callback then cannot close, cut or free.
        let map = map.file()?.clone();
        checkpoint.put(map.freeze_snapshot(name.optional("name")?, settled)?.uuid.0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_can_freeze(map: Map, name: Text) -> c_int {
    map.call(|map| Ok(map.file()?.can_freeze(name.optional("name")?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_commit(map: Map, checkpoint: Identity, keep: Flag) -> c_int {
    map.call(|map| Ok(map.file()?.commit_checkpoint(uuid(checkpoint)?, keep.is_set())?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_abort(map: Map, checkpoint: Identity) -> c_int {
    map.call(|map| Ok(map.file()?.abort_checkpoint(uuid(checkpoint)?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_checkpoint(map: Const<Map>, checkpoint: Struct<layout::Checkpoint>, size: usize) -> c_int {
    map.call(|map| {
        map.verified()?;
        let found = map.file()?.checkpoint()?;
        let answer = layout::Checkpoint {
            state: number(found.as_ref()),
            uuid: found.as_ref().map_or([0; 16], |found| found.uuid.0),
            time: seconds(found.as_ref().map(|found| found.time)),
            snapshot: found.as_ref().is_some_and(|found| found.snapshot).into(),
            name: found.and_then(|found| found.name).as_deref().unwrap_or_default().into(),
        };
        checkpoint.put(&answer, size)
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_frozen(map: Const<Map>, checkpoint: Identity, set: NewMap) -> c_int {
    map.call(|map| set.make(|| Ok(Kind::Set(map.file()?.frozen_set(uuid(checkpoint)?)?))))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_frozen_len(map: Const<Map>, checkpoint: Identity, granules: Out<u64>, items: Out<u64>) -> c_int {
    map.answer(items, |map| {
        let (found, len) = map.file()?.frozen_len(uuid(checkpoint)?)?;
        granules.put(found);
        Ok(len)
    })
}
