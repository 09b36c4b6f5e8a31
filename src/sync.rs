//! What threads share, from std, or under `--cfg loom` from loom, which tries their interleavings.
//!
//! Invariant kept here: what the protocol's correctness hangs on (words, the update lock, the counter of
//! clearings) comes from here. Counters for statistics and flags that are only ever raised need not.

#[cfg(not(loom))]
pub(crate) use std::{
    hint::spin_loop,
    sync::{Mutex, MutexGuard, atomic::AtomicU64},
};

#[cfg(loom)]
pub(crate) use self::model::AtomicU64;
#[cfg(loom)]
pub(crate) use loom::{
    hint::spin_loop,
    sync::{Mutex, MutexGuard},
};

#[cfg(loom)]
mod model {
    use loom::sync::atomic::{Ordering, Ordering::*, fence};

    /// Loom takes a sequentially consistent access for little more than one that acquires and releases. So a fence,
    /// which it takes for what it is, follows each of them: with one between any two, they are sequentially consistent.
    #[derive(Debug)]
    pub(crate) struct AtomicU64(loom::sync::atomic::AtomicU64);

    impl AtomicU64 {
        pub(crate) fn new(value: u64) -> AtomicU64 {
            AtomicU64(loom::sync::atomic::AtomicU64::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            fenced(order, Acquire, |order| self.0.load(order))
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            fenced(order, Release, |order| self.0.store(value, order));
        }

        pub(crate) fn fetch_or(&self, mask: u64, order: Ordering) -> u64 {
            fenced(order, AcqRel, |order| self.0.fetch_or(mask, order))
        }

        pub(crate) fn fetch_and(&self, mask: u64, order: Ordering) -> u64 {
            fenced(order, AcqRel, |order| self.0.fetch_and(mask, order))
        }

        pub(crate) fn fetch_add(&self, n: u64, order: Ordering) -> u64 {
            fenced(order, AcqRel, |order| self.0.fetch_add(n, order))
        }

        pub(crate) fn fetch_sub(&self, n: u64, order: Ordering) -> u64 {
            fenced(order, AcqRel, |order| self.0.fetch_sub(n, order))
        }
    }

    /// An access in its order, `weaker` if that is to be shown not to do.
    fn fenced<R>(order: Ordering, weaker: Ordering, access: impl FnOnce(Ordering) -> R) -> R {
        if order != SeqCst {
            return access(order);
        }
        twin!(SequentiallyConsistent => return access(weaker));
        let done = access(order);
        fence(order);
        done
    }
}
