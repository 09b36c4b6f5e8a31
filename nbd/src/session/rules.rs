//! Which requests a backend is asked: pure functions of the request and of what was agreed.
//!
//! Invariant kept here: what passes is inside of the export, aligned, offered, and has no flags that its command does not
//! have. Everything else is refused with the error that the protocol gives for it.

use super::handshake::Agreed;
use crate::codec::values::{command, flag, transmission};
use crate::codec::{Mode, Request};
use crate::failure::{Errno, Failure};

/// Bytes of payload that follow the header of a request.
///
/// With extended headers a write should say that it has a payload. QEMU's client (10.0) does not, and sends it all the same.
pub(super) fn payload(request: &Request, mode: Mode) -> u64 {
    let says_so = mode == Mode::Extended && request.flags & flag::PAYLOAD_LEN != 0;
    if says_so || request.command == command::WRITE { request.length } else { 0 }
}

/// Whether a request can be handed to the backend.
pub(super) fn check(request: &Request, agreed: &Agreed) -> Result<(), Failure> {
    let offers = |wanted| agreed.flags & wanted != 0;
    let offered = match request.command {
        command::READ | command::WRITE => true,
        command::FLUSH => offers(transmission::SEND_FLUSH),
        command::TRIM => offers(transmission::SEND_TRIM | transmission::READ_ONLY),
        command::WRITE_ZEROES => offers(transmission::SEND_WRITE_ZEROES | transmission::READ_ONLY),
        command::CACHE => offers(transmission::SEND_CACHE),
        command::BLOCK_STATUS => !agreed.contexts.is_empty(),
        _ => return Err(Failure::invalid("unknown command")),
    };
    if !offered {
        return Err(Failure::invalid("the export does not offer this command"));
    }
    if request.flags & !allowed_flags(request.command, agreed) != 0 {
        return Err(Failure::invalid("a flag that the command does not have"));
    }
    let writes = matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
    if writes && offers(transmission::READ_ONLY) {
        return Err(Failure::new(Errno::Perm, "the export is read-only"));
    }
    match request.command {
        command::FLUSH if request.offset != 0 || request.length != 0 => Err(Failure::invalid("a flush has no range")),
        command::FLUSH => Ok(()),
        // The payload says the length.
        command::BLOCK_STATUS if request.flags & flag::PAYLOAD_LEN != 0 => Ok(()),
        _ => check_range(request, request.length, agreed),
    }
}

fn allowed_flags(of: u16, agreed: &Agreed) -> u16 {
    let when = |offered: u16, flag: u16| if agreed.flags & offered != 0 { flag } else { 0 };
    let own = match of {
        command::READ => when(transmission::SEND_DF, flag::DF),
        command::WRITE if agreed.mode == Mode::Extended => flag::PAYLOAD_LEN,
        command::WRITE_ZEROES => flag::NO_HOLE | when(transmission::SEND_FAST_ZERO, flag::FAST_ZERO),
        command::BLOCK_STATUS => flag::REQ_ONE | when(transmission::BLOCK_STATUS_PAYLOAD, flag::PAYLOAD_LEN),
        _ => 0,
    };
    // Clients set it on commands that write nothing, too.
    own | when(transmission::SEND_FUA, flag::FUA)
}

/// Whether `length` bytes at the request's offset are a range of the export.
pub(super) fn check_range(request: &Request, length: u64, agreed: &Agreed) -> Result<(), Failure> {
    let carries = matches!(request.command, command::READ | command::WRITE);
    if carries && length > agreed.sizes.maximum.into() {
        return Err(Failure::invalid("longer than the largest block"));
    }
    if request.offset.checked_add(length).is_none_or(|end| end > agreed.backend.size()) {
        let errno = match request.command {
            command::WRITE | command::WRITE_ZEROES => Errno::NoSpace,
            _ => Errno::Invalid,
        };
        return Err(Failure::new(errno, "past the end of the export"));
    }
    let minimum = u64::from(agreed.sizes.minimum.max(1));
    if !request.offset.is_multiple_of(minimum) || !length.is_multiple_of(minimum) {
        return Err(Failure::invalid("not a multiple of the smallest block"));
    }
    Ok(())
}
