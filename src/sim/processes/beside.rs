//! What goes on beside the process whose turn it is.

use super::*;

impl Session {
    /// Another process sets something inside every durable write of this one: bits of words that are armed, since this one
    /// has the lock that it would wait for.
    pub(super) fn meddle(&mut self, process: usize, truth: &Truth) {
        let other = self.cores.iter().enumerate().find_map(|(i, core)| core.as_ref().filter(|_| i != process));
        let Some(other) = other.map(Arc::downgrade) else { return };
        let (truth, mut rng) = (truth.clone(), Rng(self.disk.writes() as u64));
        self.disk.interlope(Some(Box::new(move || {
            let Some(other) = other.upgrade() else { return };
            let len = other.geometry().bits();
            for _ in 0..4 {
                let i = if rng.below(2) == 0 { rng.below(300) } else { rng.below(len) };
                if i >= len {
                    continue;
                }
                if flag(other.view().armed(), i) || flag(other.view().durable(), i) {
                    testing::unvisited(|| truth.set(i..i + 1, &other));
                }
            }
        })));
    }

    /// Another process waits for the lock, to arm some words. It may be gone when they are.
    pub(super) fn want(&self, process: usize) {
        let mut rng = Rng(!(self.disk.writes() as u64));
        let first = rng.below(MOST / 64);
        if let Some(core) = self.cores[process].as_ref().filter(|_| rng.below(3) == 0) {
            let wanted = runtime::wanted((process + 1) as u64 % PROCESSES as u64);
            let words = runtime::pack_wanted(&(first..first + 1 + rng.below(4)));
            core.view().runtime()[wanted].store(words, SeqCst);
        }
    }

    /// A sector that cannot be read in a turn, and can afterwards: of a point that is only the intent, if what is done has to do
    /// with no other point.
    pub(super) fn fails_in(&self, turn: &Turn) -> Option<usize> {
        let mut rng = Rng(self.disk.writes() as u64 ^ 0x1A7E);
        if let Turn::Op(op) | Turn::Dying(op, _) = turn
            && !matches!(op, Op::Set(_) | Op::Reset(_) | Op::ResetAll | Op::Merge(_) | Op::Load(..) | Op::Flush)
        {
            return None;
        }
        let header = headers::newest(self.disk.file()).ok()?.header;
        let point = header.intent_point().filter(|point| point.role == PointRole::Intent && rng.below(3) == 0)?;
        let page = point.bottom_offset + rng.below(header.geometry.pages()) * PAGE_BYTES;
        let offset = if rng.below(2) == 0 { page } else { point.table_offset };
        Some(offset as usize / SECTOR)
    }
}
