//! A small explicit-state explorer: breadth first over every state a model can reach, so the first
//! counterexample found is a shortest one.
//!
//! A model says which states it starts in, which steps leave a state and what must be true in each.
//! States are kept packed in 64, 128 or 192 bits each, with the index of their predecessor (about 20, 30 or 40 bytes a
//! state, all told). Step labels are not stored: a trace finds them again by repeating the steps along the path.

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

    /// The state that stands for all those which differ from `s` in nothing but who is who.
    fn canonical(&self, s: Self::State) -> Self::State {
        s
    }

    /// What must be true in every reachable state; the error says what is not.
    fn check(&self, s: &Self::State) -> Result<(), String>;

    /// The shared part of a state, for one line of a trace.
    fn show(&self, s: &Self::State) -> String;
}

/// What a state is packed into.
pub trait Key: Copy + Eq + Default {
    const BITS: u32;

    /// The value in the bits from `at` on.
    fn with(self, at: u32, value: u8) -> Self;

    /// The lowest `bits` bits; the others move down to their place.
    fn take(&mut self, bits: u32) -> u8;

    fn hash(self) -> u64;
}

macro_rules! key {
    ($type:ty, $hash:expr) => {
        impl Key for $type {
            const BITS: u32 = <$type>::BITS;

            #[inline]
            fn with(self, at: u32, value: u8) -> Self {
                self | <$type>::from(value) << at
            }

            #[inline]
            fn take(&mut self, bits: u32) -> u8 {
                let value = *self & ((1 << bits) - 1);
                *self >>= bits;
                value as u8
            }

            #[inline]
            fn hash(self) -> u64 {
                $hash(self)
            }
        }
    };
}

key!(u64, |key: u64| {
    let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24
});
key!(u128, |key: u128| (key as u64 ^ ((key >> 64) as u64).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29)).hash());

/// For states that do not fit in 128 bits.
impl Key for [u64; 3] {
    const BITS: u32 = 192;

    #[inline]
    fn with(mut self, at: u32, value: u8) -> Self {
        let (word, bit) = ((at / 64) as usize, at % 64);
        self[word] |= u64::from(value) << bit;
        if bit > 56 && word < 2 {
            self[word + 1] |= u64::from(value) >> (64 - bit);
        }
        self
    }

    #[inline]
    fn take(&mut self, bits: u32) -> u8 {
        let value = self[0] & ((1 << bits) - 1);
        let [low, middle, high] = *self;
        *self = [low >> bits | middle << (64 - bits), middle >> bits | high << (64 - bits), high >> bits];
        value as u8
    }

    fn hash(self) -> u64 {
        let high = self[2].wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(31);
        (u128::from(self[0]) | u128::from(self[1] ^ high) << 64).hash()
    }
}

/// A plain struct that fits in a `Key`. `fields` names every field with its width, for both directions.
pub trait State: Copy + Default {
    type Key: Key;

    fn fields<P: Packing>(&mut self, p: &mut P);

    fn pack(mut self) -> Self::Key {
        let mut w = Writer { key: Self::Key::default(), at: 0 };
        self.fields(&mut w);
        w.key
    }

    fn unpack(key: Self::Key) -> Self {
        let mut s = Self::default();
        s.fields(&mut Reader { key });
        s
    }
}

/// A direction: into a key or out of one.
pub trait Packing {
    fn field<F: Field>(&mut self, f: &mut F, bits: u32);
}

struct Writer<K> {
    key: K,
    at: u32,
}

impl<K: Key> Packing for Writer<K> {
    #[inline]
    fn field<F: Field>(&mut self, f: &mut F, bits: u32) {
        let v = f.code();
        assert!(u32::from(v) < 1 << bits && self.at + bits <= K::BITS, "value {v} in {bits} bits at {}", self.at);
        self.key = self.key.with(self.at, v);
        self.at += bits;
    }
}

struct Reader<K> {
    key: K,
}

impl<K: Key> Packing for Reader<K> {
    #[inline]
    fn field<F: Field>(&mut self, f: &mut F, bits: u32) {
        *f = F::decode(self.key.take(bits));
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
    pub fn new() -> Steps<S> {
        Steps { list: Vec::new() }
    }

    /// Takes them all out.
    pub fn drain(&mut self) -> impl Iterator<Item = (Label, S)> {
        self.list.drain(..)
    }

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
    /// Of memory for the states.
    bytes: usize,
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
    let mut steps = Steps::new();
    for s in model.starts() {
        seen.insert(s.pack(), NONE);
    }
    let mut next = 0;
    while next < seen.keys.len() {
        let s = M::State::unpack(seen.keys[next]);
        if let Err(why) = model.check(&s) {
            let broken = Some(Trace { lines: trace(model, &seen, next), why });
            return Outcome { states: next + 1, broken, time: begin.elapsed(), bytes: seen.bytes() };
        }
        model.steps(&s, &mut steps);
        for (_, to) in steps.drain() {
            seen.insert(model.canonical(to).pack(), next as u32);
        }
        next += 1;
        assert!(next <= MAX_STATES, "more than {MAX_STATES} states");
    }
    Outcome { states: next, broken: None, time: begin.elapsed(), bytes: seen.bytes() }
}

/// Explores and expects the property to hold in exactly `states` states.
pub fn holds<M: Model>(name: &str, model: &M, states: usize) {
    let o = explore(model);
    println!("{name}: {} states, {:.1} s, {} MB", o.states, o.time.as_secs_f64(), o.bytes / 1_000_000);
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

fn trace<M: Model>(model: &M, seen: &Seen<<M::State as State>::Key>, end: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut at = end;
    while seen.from[at] != NONE {
        let before = seen.from[at] as usize;
        let mut steps = Steps::new();
        model.steps(&M::State::unpack(seen.keys[before]), &mut steps);
        let ((who, what), s) = steps
            .list
            .iter()
            .find(|(_, s)| model.canonical(*s).pack() == seen.keys[at])
            .expect("the step that led here");
        let mut line = String::new();
        write!(line, "{:<44} {}", format!("{who}: {what}"), model.show(s)).expect("a string takes it");
        lines.push(line);
        at = before;
    }
    lines.reverse();
    lines
}

/// No index of a state.
const NONE: u32 = u32::MAX;

/// The states seen, in the order in which they were found, and a hash table of their indices.
struct Seen<K> {
    keys: Vec<K>,
    from: Vec<u32>,
    table: Vec<u32>,
}

impl<K: Key> Seen<K> {
    fn new() -> Seen<K> {
        Seen { keys: Vec::new(), from: Vec::new(), table: vec![NONE; 1 << 16] }
    }

    fn insert(&mut self, key: K, from: u32) {
        let slot = self.slot(key);
        if self.table[slot] != NONE {
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
    fn slot(&self, key: K) -> usize {
        let mask = self.table.len() - 1;
        let mut at = key.hash() as usize & mask;
        while self.table[at] != NONE && self.keys[self.table[at] as usize] != key {
            at = (at + 1) & mask;
        }
        at
    }

    fn bytes(&self) -> usize {
        self.keys.capacity() * size_of::<K>() + (self.from.capacity() + self.table.len()) * size_of::<u32>()
    }

    fn grow(&mut self) {
        self.table = vec![NONE; self.table.len() * 2];
        for i in 0..self.keys.len() {
            let slot = self.slot(self.keys[i]);
            self.table[slot] = i as u32;
        }
    }
}
