//! The clean close.
//!
//! Invariant kept here: CLEAN is committed only when everything was flushed, the list is empty and no
//! durable write of the session failed.

use super::commit::Failure;
use super::core::Core;
use super::image::{Image, record_image};
use crate::file::headers::set_exact;
use crate::format::Durability;
use crate::format::{Session, State, Uuid, WordRanges};
use crate::shm::runtime;
use crate::sys::os;
use crate::trace::event;
use std::sync::atomic::Ordering::SeqCst;

impl Core {
    /// Flushes and commits CLEAN. The caller is alone. `Ok(false)`: everything is flushed, but a write of this
    /// session failed earlier, and the file stays to be verified by the next open. After [`Failure::InDoubt`] nobody
    /// knows whether it is closed.
    pub(crate) fn close(&self, image: Image) -> std::result::Result<bool, Failure> {
        let mut lock = self.lock()?;
        let early = step!(FlushThenCount => None, else Some(self.count_durable()));
        // Others may have set something since this process flushed, and be gone.
        let durable = step!(FlushAtClose => lock.flush_and_compare()?, else true);
        let dirty_bits = early.unwrap_or_else(|| self.count_durable());
        let mut header = lock.refresh_header()?;
        // The volatile part of such a map is pages of the file. If the kernel failed to write one back, what the flush
        // read may not be what was set; that has to be asked after the flush has read, and before CLEAN is written.
        if self.durability == Durability::Process && step!(AskKernelAtClose => self.disk.sync_all().is_err()) {
            self.record_write_failure();
        }
        let clean =
            durable && (header.runs.is_empty() || self.durability == Durability::Process) && !self.write_failed();
        if step!(CheckClean => !clean) {
            event!(INFO, "closed", path = %self.path.display(), clean = false);
            return Ok(false);
        }
        header.runs = WordRanges::new();
        header.state = State::Clean;
        header.nonce = Uuid::NIL;
        header.last_clean = os::now();
        header.session.flags &= !(Session::OUTLIVE | Session::OUTLIVED);
        header.clean_dirty_bits = step!(CountAtClose => dirty_bits);
        match image {
            Image::Now(stamp) => record_image(&mut header, stamp),
            Image::AsBefore => {
                let exact = self.view.runtime()[runtime::IMAGE].load(SeqCst) & runtime::IMAGE_EXACT != 0;
                set_exact(&mut header, exact);
            }
        }
        twin!(CleanThenNonce => self.view.set_nonce(&[0; 16]));
        lock.commit(&mut header).map_err(Failure::InDoubt)?;
        step!(RemoveNonce => self.view.set_nonce(&[0; 16]));
        event!(INFO, "closed", path = %self.path.display(), clean = true, dirty_bits = dirty_bits);
        drop(lock);
        if self.in_file {
            // The volatile part means nothing now.
            crate::shm::space::free(&*self.disk, self.layout.volatile.clone());
        }
        // Neither does what a checkpoint left behind the last region: both pairs name the same ones now.
        if matches!(self.disk.has_readers(), Ok(false)) {
            let _ = self.disk.truncate(header.file_length());
        }
        Ok(true)
    }
}
