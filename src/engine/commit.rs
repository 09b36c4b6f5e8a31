//! The header of an open map: reading it back, committing it, and what the runtime page says of it.
//!
//! Invariant kept here: a commit rests on the newest header that is durable, and nothing rests on an older one while a commit that
//! was begun may be on the device (rule 5). The runtime page's `checkpoint` word follows every header.

use super::core::{Core, Locked};
use crate::error::{Corruption, Error, Result, Unusable};
use crate::file::headers::{self, LastDurable};
use crate::file::points::no_checkpoint;
use crate::format::{CheckpointState, Header, Session, State, Uuid};
use crate::shm::runtime;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

impl Core {
    pub(crate) fn last_durable(&self) -> LastDurable {
        LastDurable::unpack(self.view.runtime()[runtime::PUBLISHED].load(SeqCst))
    }

    /// The runtime page's `checkpoint` word.
    pub(crate) fn checkpoint_word(&self) -> u64 {
        self.view.runtime()[runtime::CHECKPOINT].load(SeqCst)
    }

    /// Brings the word in line with the header that is durable now. Under the update lock.
    ///
    /// It follows every commit and every adoption: so it says FREEZING before anything is reset here, and NORMAL only
    /// when a header does and before the region is given up, also when the one who committed has died in between.
    pub(crate) fn say_checkpoint(&self, state: CheckpointState) {
        let old = self.checkpoint_word();
        if step!(PublishCheckpoint => old & 3 != state as u64) {
            self.view.runtime()[runtime::CHECKPOINT].store(((old >> 2) + 1) << 2 | state as u64, SeqCst);
        }
    }

    /// Whether the header says that this checkpoint is outstanding, in one of these states.
    pub(crate) fn expect(&self, header: &Header, uuid: &Uuid, states: &[CheckpointState]) -> Result<()> {
        let other = step!(CompareUuid => header.checkpoint_uuid != *uuid);
        if !other && !step!(CheckState => !states.contains(&header.checkpoint_state)) {
            return Ok(());
        }
        Err(no_checkpoint(header, uuid, &self.path))
    }

    /// Changes the header outside of arming and flushing.
    pub(crate) fn update_header(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let lock = self.lock()?;
        let mut header = lock.refresh_header()?;
        change(&mut header);
        lock.commit(&mut header)
    }
}

impl Locked<'_> {
    /// The newest valid header of the file, made durable if its writer died or failed before it was (rule 5).
    pub(crate) fn refresh_header(&self) -> Result<Header> {
        let core = self.core;
        let headers::Newest { mut header, conflicting, .. } = headers::newest(core.file())?;
        let known = core.last_durable();
        if step!(RefuseOlder => header.sequence < known.sequence) {
            let found = format!("sequence number {} as the newest", header.sequence);
            let expected = format!("at least {}, which was written durably", known.sequence);
            return Err(core.file().corrupt(Corruption::Changed, "header copies", found, expected));
        }
        let ours = header.uuid == core.uuid && header.nonce == core.nonce && header.state == State::Open;
        if step!(CheckSession => !ours) {
            return Err(Error::Unusable { why: Unusable::SessionEnded });
        }
        let same = header.layout == core.layout && header.geometry == *core.geometry();
        if step!(CheckRegions => !same) {
            return Err(Error::Unusable { why: Unusable::Moved });
        }
        // Two lists joined may be longer than one can be; naming more only adds dirt.
        header.runs.fit(crate::format::MAX_LIST);
        // A commit that was begun and is not known to be durable may be on the device all the same, and be valid there
        // although it cannot be read back now. Nothing may rest on an older header until it is overwritten.
        let begun = core.view.runtime()[runtime::ATTEMPTED].load(SeqCst);
        let last = header.sequence.max(step!(RememberAttempt => begun));
        if step!(DoubtNewest => conflicting || last != known.sequence) {
            self.commit(&mut header)?;
        }
        step!(PublishRefreshed => core.say_checkpoint(header.checkpoint_state));
        Ok(header)
    }

    /// Commits `header`, which must come from [`refresh_header`](Self::refresh_header) in this hold of the lock.
    pub(crate) fn commit(&self, header: &mut Header) -> Result<()> {
        let core = self.core;
        if step!(RecordFailureInHeader => core.write_failed()) {
            header.session.flags |= Session::DEGRADED;
        }
        core.counters.syncs.fetch_add(1, Relaxed);
        core.counters.bytes_written.fetch_add(2 * header.used() as u64, Relaxed);
        let last_attempted = &core.view.runtime()[runtime::ATTEMPTED];
        header.sequence = header.sequence.max(step!(RememberAttempt => last_attempted.load(SeqCst)));
        step!(AttemptThenWrite => last_attempted.store(header.sequence + 1, SeqCst));
        twin!(WriteThenKnow => {
            let early = LastDurable { sequence: header.sequence + 1, pair: 1 - core.last_durable().pair };
            core.view.runtime()[runtime::PUBLISHED].store(early.pack(), SeqCst)
        });
        match headers::commit(&*core.disk, header, core.last_durable()) {
            Ok(last_durable) => {
                core.view.runtime()[runtime::PUBLISHED].store(last_durable.pack(), SeqCst);
                twin!(AttemptThenWrite => last_attempted.store(last_durable.sequence, SeqCst));
                sync_point!(Committed);
                core.say_checkpoint(header.checkpoint_state);
                Ok(())
            }
            Err(e) => {
                core.record_write_failure();
                Err(core.io("write the header")(e))
            }
        }
    }
}

/// Whether a `checkpoint` word of the runtime page says NORMAL.
pub(crate) fn is_normal(word: u64) -> bool {
    word & 3 == CheckpointState::Normal as u64
}

/// Why a map still has its old length, or is still open.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It goes on as before.
    Unchanged(Error),
    /// The commit failed, and nobody knows which of two headers the device has: nothing may rest on either before the
    /// file is opened again.
    InDoubt(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Unchanged(e)
    }
}
