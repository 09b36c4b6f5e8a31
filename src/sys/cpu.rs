//! Loops compiled a second time, for the wide instructions that most machines have.
//!
//! Invariant kept here: the wide version runs only where the processor has said that it can, and is the same code.

/// A loop that is worth it. `run` has to be `#[inline(always)]`, or it is compiled only once.
pub(crate) trait Kernel {
    /// What it computes.
    type Output;
    /// The loop.
    fn run(self) -> Self::Output;
}

/// Runs a loop with the widest instructions there are. Costs a load and a call, so not for single words.
#[inline]
pub(crate) fn wide<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if has_wide() {
        // SAFETY: the processor has all features that the function is compiled for.
        return unsafe { compiled_wide(kernel) };
    }
    kernel.run()
}

/// Asked once: the answers to three questions, even remembered by the standard library, are a tenth of a range of 1000 bits.
#[cfg(target_arch = "x86_64")]
#[inline]
fn has_wide() -> bool {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
    static HAS: AtomicU8 = AtomicU8::new(UNKNOWN);
    const UNKNOWN: u8 = 2;
    #[cold]
    fn ask() -> bool {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("popcnt");
        HAS.store(has.into(), Relaxed);
        has
    }
    match HAS.load(Relaxed) {
        UNKNOWN => ask(),
        has => has != 0,
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2,popcnt")]
fn compiled_wide<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

/// Asks for the memory of a word, without waiting for it.
#[inline]
pub(crate) fn fetch(word: &u64) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has it, and it changes nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = word;
}
