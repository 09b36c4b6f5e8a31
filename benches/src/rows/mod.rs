//! The rows of the table.

pub mod arms;
pub mod backups;
pub mod file;
pub mod latency;
pub mod memory;
pub mod processes;
pub mod scale;
pub mod steps;
pub mod writes;

use crate::harness::{Against, Row};

/// How large and how often.
pub struct Scale {
    /// Bits of a map, where the row's name does not say otherwise.
    pub bits: u64,
    pub rounds: usize,
    /// Only rows whose names contain this.
    pub filter: String,
}

impl Scale {
    pub fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }
}

/// What most rows need to say.
pub fn row(name: &'static str, state: impl Into<String>, ops: u64, unit: &'static str) -> Row {
    Row { name, state: state.into(), ops, unit, target: None }
}

impl Row {
    pub fn at_most(mut self, times: f64, of: &'static str) -> Row {
        self.target = Some((times, Against::Named(of)));
        self
    }

    pub fn at_most_best(mut self, times: f64) -> Row {
        self.target = Some((times, Against::BestPeer));
        self
    }

    pub fn at_most_ns(mut self, ns: f64) -> Row {
        self.target = Some((ns, Against::Clock));
        self
    }
}

/// Measures a row: `$of` is what each contender starts from, `$run` one run of it, `$more` another contender.
#[macro_export]
macro_rules! contest {
    ($scale:expr, $out:expr, $row:expr, [$($who:ty),*], $of:expr, |$bits:ident| $run:expr $(, $more:expr)?) => {
        if $scale.wants($row.name) {
            let contenders = vec![$({
                #[allow(unused_mut, reason = "not every run changes it")]
                let mut $bits = <$who as Bits>::of($of);
                Contender::new(<$who as Bits>::NAME, <$who as Bits>::KIND, move || $run)
            },)* $($more)?];
            $out.push(measure($row, $scale.rounds, contenders));
        }
    };
}
