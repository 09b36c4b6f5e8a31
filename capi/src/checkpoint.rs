//! Checkpoints: freezing, committing, aborting, and what is frozen.

use crate::combine::NewMap;
use crate::failure::Result;
use crate::ffi::{Flag, Kept, Map, Out, Struct, Text};
use crate::handle::Kind;
use crate::layout;
use dirtymap::Uuid;
use dirtymap::checkpoint::{Checkpoint, CheckpointState};
use std::ffi::c_int;
use std::time::{SystemTime, UNIX_EPOCH};

/// `const dirtymap_uuid *`.
pub(crate) type Identity = Kept<[u8; 16]>;

pub(crate) fn uuid(identity: Identity) -> Result<Uuid> {
    Ok(Uuid(identity.get("uuid")?))
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
extern "C" fn dirtymap_freeze(map: Map, name: Text, frozen: Out<[u8; 16]>) -> c_int {
    map.call(|map| {
        let frozen = frozen.wanted("the place for a uuid")?;
        frozen.put(map.file()?.freeze(name.optional("name")?)?.uuid.0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_can_freeze(map: Map, name: Text) -> c_int {
    map.call(|map| Ok(map.file()?.can_freeze(name.optional("name")?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_commit(map: Map, identity: Identity, keep: Flag) -> c_int {
    map.call(|map| Ok(map.file()?.commit_checkpoint(uuid(identity)?, keep.is_set())?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_abort(map: Map, identity: Identity) -> c_int {
    map.call(|map| Ok(map.file()?.abort_checkpoint(uuid(identity)?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_checkpoint(map: Map, found: Struct<layout::Checkpoint>, size: usize) -> c_int {
    map.call(|map| {
        map.verified()?;
        let checkpoint = map.file()?.checkpoint()?;
        let answer = layout::Checkpoint {
            state: number(checkpoint.as_ref()),
            uuid: checkpoint.as_ref().map_or([0; 16], |checkpoint| checkpoint.uuid.0),
            time: seconds(checkpoint.as_ref().map(|checkpoint| checkpoint.time)),
            name: checkpoint.and_then(|checkpoint| checkpoint.name).as_deref().unwrap_or_default().into(),
            reserved: 0,
        };
        found.put(&answer, size)
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_frozen(map: Map, identity: Identity, made: NewMap) -> c_int {
    map.call(|map| {
        let made = made.wanted("the place for a map")?;
        made.put_handle(Kind::Set(map.file()?.frozen_set(uuid(identity)?)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_frozen_len(map: Map, identity: Identity, granules: Out<u64>, items: Out<u64>) -> c_int {
    map.call(|map| {
        let (found, len) = map.file()?.frozen_len(uuid(identity)?)?;
        granules.put(found);
        items.put(len);
        Ok(())
    })
}
