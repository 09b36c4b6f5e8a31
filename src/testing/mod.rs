//! What tests do to the protocol: [mutants] leave a step of it out, [sync_points] let a test act between two.
//!
//! Invariant kept here: a normal build has nothing of either. `step!` is the step alone there, `twin!` and
//! `sync_point!` are nothing.

#[cfg(test)]
mod mutants;
#[cfg(test)]
mod sync_points;

#[cfg(test)]
pub(crate) use mutants::{LeftOut, Mutant, mutant, with};
#[cfg(test)]
pub(crate) use sync_points::{SyncPoint, pass, unvisited, visit};

/// A step of the protocol, under the label that docs/design.md gives to it. The mutant of that name leaves it out: the
/// step is then `()`, `false`, `None`, zero or `Ok` of these, or what stands behind `else`.
macro_rules! step {
    ($label:ident => $step:expr) => {{
        #[cfg(not(test))]
        {
            $step
        }
        #[cfg(test)]
        {
            if $crate::testing::mutant($crate::testing::Mutant::$label) {
                $crate::testing::LeftOut::left_out()
            } else {
                $step
            }
        }
    }};
    ($label:ident => $step:expr, else $instead:expr) => {{
        #[cfg(not(test))]
        {
            $step
        }
        #[cfg(test)]
        {
            if $crate::testing::mutant($crate::testing::Mutant::$label) { $instead } else { $step }
        }
    }};
}

/// The twin of a step at a wrong place: only the mutant of that name has it.
macro_rules! twin {
    ($label:ident => $step:expr) => {
        #[cfg(test)]
        {
            if $crate::testing::mutant($crate::testing::Mutant::$label) {
                $step;
            }
        }
    };
}

/// A place between two steps where a test lets another process act, or kills this one.
macro_rules! sync_point {
    ($point:ident) => {
        #[cfg(test)]
        $crate::testing::pass($crate::testing::SyncPoint::$point);
    };
}
