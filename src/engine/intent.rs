//! The write intent of an open map: reading it, arming by it, and ending it.
//!
//! Invariant kept here: nothing is armed by an intent that the newest durable header does not name.

use super::core::{Core, Locked};
use super::intent_set::IntentSet;
use super::point_set::PointSet;
use super::round::Keep;
use crate::error::Result;
use crate::format::{Durability, Header, Point, PointRole, Reasons};
use crate::hierarchy::{Shared, WordsMut};
use std::sync::{Arc, PoisonError};

impl Core {
    /// The intent of a header, if that names one. Cost: as reading the point, if this process has not read it.
    pub(crate) fn intent(&self, header: &Header) -> Result<Option<Arc<IntentSet>>> {
        let Some(named) = header.intent else { return Ok(None) };
        let mut known = self.intent.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(set) if !step!(RefreshIntent => set.named() != named) => {}
            _ => *known = IntentSet::read(self.file(), header)?.map(Arc::new),
        }
        Ok(known.clone())
    }

    /// Arms what the intent of the header covers that was just committed; its space is allocated.
    pub(super) fn arm_by(&self, intent: Option<Arc<IntentSet>>) {
        for (w, word) in intent.iter().flat_map(|intent| intent.words()) {
            Shared(self.view.armed()).or(w as usize, word);
        }
        *self.intent.lock().unwrap_or_else(PoisonError::into_inner) = intent;
    }

    /// What a point that was just written predicts.
    pub(super) fn predicted(&self, header: &Header, point: &Point) -> Result<Option<Arc<IntentSet>>> {
        let mut limit = self.bounds.intended(self.geometry(), point.granules);
        if header.dirt_reasons.contains(Reasons::CRASH) {
            // What a crash has added is not rounded out once more, or each crash would multiply it.
            limit = limit.min(point.granules);
        }
        let most = point.granules > self.geometry().bits() / 2;
        // A first full backup, and one after a doubt, say nothing of what is written.
        let unwritten = most && (header.committed_uuid.is_nil() || !Reasons::CRASH.contains(header.dirt_reasons));
        if self.durability == Durability::Process || point.granules == 0 || point.granules > limit || unwritten {
            return Ok(None);
        }
        let set = PointSet::of_points(self.file(), header, [point])?;
        Ok(IntentSet::choose(point.uuid, set, limit).map(Arc::new))
    }

    /// Most words on the list beside an intent.
    pub(super) fn list_bound(&self, intent: Option<&IntentSet>) -> u64 {
        step!(SpareList => self.bounds.beside(intent.map_or(0, IntentSet::beyond_twice)), else self.bounds.armed)
    }
}

impl Locked<'_> {
    /// Allocates the volatile space behind what an intent covers.
    pub(super) fn allocate_for(&mut self, intent: &IntentSet) -> Result<()> {
        if !self.core.in_file {
            return Ok(());
        }
        intent.chunks().try_for_each(|words| self.allocate(words))
    }

    /// Arms, in a map that was just opened, what the intent of its header covers.
    pub(crate) fn arm_all_by(&mut self, intent: Option<Arc<IntentSet>>) -> Result<()> {
        intent.iter().try_for_each(|intent| self.allocate_for(intent))?;
        self.core.arm_by(intent);
        Ok(())
    }

    /// The newest header, and its intent. One that cannot be read is ended first.
    pub(super) fn header_and_intent(&mut self) -> Result<(Header, Option<Arc<IntentSet>>)> {
        let header = self.refresh_header()?;
        match self.core.intent(&header)? {
            Some(intent) if intent.in_doubt() => Ok((self.flush_to(Keep::Nothing, None)?, None)),
            intent => Ok((header, intent)),
        }
    }
}

/// A point that a header does not name any more, of those before, stays in it as long as it is the intent, and for nothing else.
pub(super) fn keep_intent(header: &mut Header, before: &[Point]) {
    let Some(intent) = header.intent.filter(|_| header.intent_point().is_none()) else { return };
    let only = |point: &Point| Point {
        role: PointRole::Intent,
        name: String::new(),
        reasons: Reasons::NONE,
        target: None,
        ..point.clone()
    };
    header.points.extend(before.iter().find(|point| point.uuid == intent.point).map(only));
    // In the order in which a header has them.
    header.points.sort_by_key(|point| match point.role {
        PointRole::Kept => 0,
        PointRole::Intent => 1,
        PointRole::Outstanding | PointRole::Snapshot => 2,
    });
}
