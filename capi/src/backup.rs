//! What a map records of backups. A target is given by its descriptor.

use crate::checkpoint::{Identity, uuid};
use crate::failure::Failure;
use crate::ffi::{Const, Flag, Map, Out};
use crate::options::stamp;
use dirtymap::Comparison;
use std::ffi::c_int;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_claim_backup(map: Map) -> c_int {
    map.call(|map| Ok(map.file()?.claim_backup()?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_begin_backup(map: Map, target: c_int) -> c_int {
    map.call(|map| Ok(map.file()?.begin_backup(&stamp(target)?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_commit_backup(map: Map, checkpoint: Identity, keep: Flag, target: c_int, audited: u64) -> c_int {
    map.call(|map| Ok(map.file()?.commit_backup(uuid(checkpoint)?, keep.is_set(), &stamp(target)?, audited)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_complete_backup(map: Map, target: c_int) -> c_int {
    map.call(|map| Ok(map.file()?.complete_backup(&stamp(target)?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_bind_image(map: Map, image: c_int) -> c_int {
    map.call(|map| Ok(map.file()?.bind_image(&stamp(image)?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_record_miss(map: Map, audited: u64) -> c_int {
    map.call(|map| Ok(map.file()?.record_miss(audited)?))
}

/// Which of the files that a map records is asked for.
#[unsafe(no_mangle)]
extern "C" fn dirtymap_compare(map: Const<Map>, recorded: u32, fd: c_int, comparison: Out<u32>) -> c_int {
    map.answer(comparison, |map| {
        let info = map.file()?.info()?;
        let recorded = match recorded {
            1 => info.image,
            2 => info.target,
            3 => info.begun,
            _ => return Err(Failure::Argument("no such record")),
        };
        let now = stamp(fd)?;
        Ok(match recorded.map(|recorded| now.compare(&recorded)) {
            None => 0,
            Some(Comparison::Same) => 1,
            Some(Comparison::Unproven(_)) => 2,
            Some(Comparison::Changed(_)) => 3,
            Some(Comparison::Another(_)) => 4,
        })
    })
}
