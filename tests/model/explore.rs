//! A small explicit-state explorer: breadth first over every state a model can reach, so the first
//! counterexample found is a shortest one.
//!
//! A model says which states it starts in, which steps leave a state and what must be true in each.
//! States are kept packed in a `u64` each, with the index of their predecessor (about 20 bytes a state, all
//! told). Step labels are not stored: a trace finds them again by repeating the steps along the path.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// More states than this would not fit the memory that the tests allow themselves.
const MAX_STATES: usize = 150_000_000;

/// A transition system with a safety property.
pub trait Model {
    type State: State;

    /// The states it starts in.
    fn starts(&self) -> Vec<Self::State>;

    /// Adds every step that is possible in `s`.
    fn steps(&self, s: &Self::State, to: &mut Steps<Self::State>);

    /// What must be true in every reachable state; the error says what is not.
    fn check(&self, s: &Self::State) -> Result<(), String>;

    /// The shared part of a state, for one line of a trace.
    fn show(&self, s: &Self::State) -> String;
}

/// A plain struct that fits in a `u64`. `fields` names every field with its width, for both directions.
pub trait State: Copy + Default {
    fn fields<P: Packing>(&mut self, p: &mut P);

    fn pack(mut self) -> u64 {
        let mut w = Writer { word: 0, at: 0 };
        self.fields(&mut w);
        w.word
    }

    fn unpack(word: u64) -> Self {
        let mut s = Self::default();
        s.fields(&mut Reader { word });
        s
    }
}

/// A direction: into a `u64` or out of one.
pub trait Packing {
    fn field<F: Field>(&mut self, f: &mut F, bits: u32);
}

struct Writer {
    word: u64,
    at: u32,
}

impl Packing for Writer {
    #[inline]
    fn field<F: Field>(&mut self, f: &mut F, bits: u32) {
        let v = u64::from(f.code());
        assert!(v < 1 << bits && self.at + bits <= 64, "value {v} in {bits} bits at {}", self.at);
        self.word |= v << self.at;
        self.at += bits;
    }
}

struct Reader {
    word: u64,
}

impl Packing for Reader {
    #[inline]
    fn field<F: Field>(&mut self, f: &mut F, bits: u32) {
        *f = F::decode((self.word & ((1 << bits) - 1)) as u8);
        self.word >>= bits;
    }
}

/// Something a state is made of.
pub trait Field: Copy {
    fn code(self) -> u8;
    fn decode(code: u8) -> Self;
}

impl Field for u8 {
    fn code(self) -> u8 {
        self
    }
    fn decode(code: u8) -> u8 {
        code
    }
}

impl Field for bool {
    fn code(self) -> u8 {
        u8::from(self)
    }
    fn decode(code: u8) -> bool {
        code != 0
    }
}

/// Declares a program counter: an enum that starts at its first value and can be a field.
macro_rules! program_counter {
    ($(#[$meta:meta])* enum $name:ident {
        $(#[$first_meta:meta])* $first:ident, $($(#[$rest_meta:meta])* $rest:ident),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
        enum $name { $(#[$first_meta])* #[default] $first, $($(#[$rest_meta])* $rest),* }

        impl $crate::explore::Field for $name {
            fn code(self) -> u8 {
                self as u8
            }
            fn decode(code: u8) -> Self {
                const ALL: &[$name] = &[$name::$first, $($name::$rest),*];
                ALL[usize::from(code)]
            }
        }
    };
}
pub(crate) use program_counter;

/// What a step is called in a trace: who does what.
pub type Label = (&'static str, &'static str);

/// The steps that leave one state.
pub struct Steps<S> {
    list: Vec<(Label, S)>,
}

impl<S> Steps<S> {
    pub fn add(&mut self, who: &'static str, what: &'static str, to: S) {
        self.list.push(((who, what), to));
    }
}

/// What an exploration found.
pub struct Outcome {
    /// States visited: all of them if the property holds, else up to the first violation.
    pub states: usize,
    /// The shortest way to a violation, if there is one.
    pub broken: Option<Trace>,
    time: Duration,
}

/// A shortest counterexample.
pub struct Trace {
    /// Steps from the start, with the state after each.
    pub lines: Vec<String>,
    /// What is not true at the end.
    pub why: String,
}

/// Visits every reachable state, or as many as it takes to find a violation.
pub fn explore<M: Model>(model: &M) -> Outcome {
    let begin = Instant::now();
    let mut seen = Seen::new();
    let mut steps = Steps { list: Vec::new() };
    for s in model.starts() {
        seen.insert(s.pack(), Seen::NONE);
    }
    let mut next = 0;
    while next < seen.keys.len() {
        let s = M::State::unpack(seen.keys[next]);
        if let Err(why) = model.check(&s) {
            let lines = trace(model, &seen, next);
            return Outcome { states: next + 1, broken: Some(Trace { lines, why }), time: begin.elapsed() };
        }
        model.steps(&s, &mut steps);
        for (_, to) in steps.list.drain(..) {
            seen.insert(to.pack(), next as u32);
        }
        next += 1;
        assert!(next <= MAX_STATES, "more than {MAX_STATES} states");
    }
    Outcome { states: next, broken: None, time: begin.elapsed() }
}

/// Explores and expects the property to hold in exactly `states` states.
pub fn holds<M: Model>(name: &str, model: &M, states: usize) {
    let o = explore(model);
    println!("{name}: {} states, {:.1} s", o.states, o.time.as_secs_f64());
    if let Some(t) = &o.broken {
        panic!("{name}: {} after {} states:\n{}", t.why, o.states, t);
    }
    assert_eq!(o.states, states, "{name}: holds, but in {} states instead of {states}", o.states);
}

/// Explores and expects a violation whose shortest trace has exactly `length` steps.
pub fn breaks<M: Model>(name: &str, model: &M, length: usize) {
    let o = explore(model);
    let Some(t) = &o.broken else {
        panic!("{name}: must break, but holds in all {} states", o.states);
    };
    println!("{name}: {} after {} states, {:.1} s:\n{t}", t.why, o.states, o.time.as_secs_f64());
    let found = t.lines.len();
    assert_eq!(found, length, "{name}: breaks, but in {found} steps instead of {length}:\n{t}");
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, line) in self.lines.iter().enumerate() {
            writeln!(f, "  {:>2}. {line}", i + 1)?;
        }
        Ok(())
    }
}

fn trace<M: Model>(model: &M, seen: &Seen, end: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut at = end;
    while seen.from[at] != Seen::NONE {
        let before = seen.from[at] as usize;
        let mut steps = Steps { list: Vec::new() };
        model.steps(&M::State::unpack(seen.keys[before]), &mut steps);
        let ((who, what), s) =
            steps.list.iter().find(|(_, s)| s.pack() == seen.keys[at]).expect("the step that led here");
        let mut line = String::new();
        write!(line, "{:<44} {}", format!("{who}: {what}"), model.show(s)).expect("a string takes it");
        lines.push(line);
        at = before;
    }
    lines.reverse();
    lines
}

/// The states seen, in the order in which they were found, and a hash table of their indices.
struct Seen {
    keys: Vec<u64>,
    from: Vec<u32>,
    table: Vec<u32>,
}

impl Seen {
    const NONE: u32 = u32::MAX;

    fn new() -> Seen {
        Seen { keys: Vec::new(), from: Vec::new(), table: vec![Seen::NONE; 1 << 16] }
    }

    fn insert(&mut self, key: u64, from: u32) {
        let slot = self.slot(key);
        if self.table[slot] != Seen::NONE {
            return;
        }
        self.table[slot] = self.keys.len() as u32;
        self.keys.push(key);
        self.from.push(from);
        if self.keys.len() * 3 > self.table.len() * 2 {
            self.grow();
        }
    }

    /// Where `key` is, or the free place where it belongs.
    fn slot(&self, key: u64) -> usize {
        let mask = self.table.len() - 1;
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut at = ((hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) as usize & mask;
        while self.table[at] != Seen::NONE && self.keys[self.table[at] as usize] != key {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        self.table = vec![Seen::NONE; self.table.len() * 2];
        for i in 0..self.keys.len() {
            let slot = self.slot(self.keys[i]);
            self.table[slot] = i as u32;
        }
    }
}
