//! Reading ahead of whoever writes elsewhere: one thread reads a source, and another takes what was read.
//!
//! Invariants kept here: pieces ascend, and are all of the areas, rounded to whole units, each once; no more than a few loads are in memory;
//! a failure of either side, or a signal, ends both.

use crate::exit::{Failure, Result};
use crate::files::{Content, PIECE};
use crate::terminal::pass::Pass;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

/// Loads that are in memory at once, of up to a piece.
const LOADS: usize = 4;
/// Areas that are handed over at once.
const AREAS: usize = 4096;

/// A part of a source.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<B> {
    /// The source has nothing for it.
    Hole(Range<u64>),
    /// Its bytes from an offset on.
    Data(u64, B),
}

/// What is read, and how.
pub struct Ahead<'a> {
    pub source: &'a dyn Content,
    /// Bytes of the source that count, and with the zeros that are taken to be behind them.
    pub len: u64,
    pub whole: u64,
    /// Bytes, a power of two: pieces are whole units, but for the last one.
    pub unit: u64,
    pub pass: &'a Pass,
}

/// Whether the other side is there still.
type GoesOn = bool;

/// What is handed over at once: small pieces together, since to wake the other side takes as long as to read one of them.
struct Load {
    pieces: Vec<Piece<Range<usize>>>,
    /// The bytes of those that are data.
    buffer: Vec<u8>,
    filled: usize,
}

/// Pieces that are handed over at once, at most.
const TOGETHER: usize = 256;

impl Ahead<'_> {
    /// Has `take` get everything in `areas`, which ascend.
    pub fn read(
        &self,
        mut areas: impl Iterator<Item = Range<u64>>,
        mut take: impl FnMut(Piece<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        loop {
            let whole = areas.by_ref().filter_map(|area| self.whole(area, &mut done));
            let some: Vec<Range<u64>> = whole.take(AREAS).collect();
            if some.is_empty() {
                return Ok(());
            }
            thread::scope(|scope| -> Result<()> {
                let (read, taken) = sync_channel(LOADS);
                let (give, empty) = channel();
                let room = (self.room() + self.whole - self.len) as usize;
                let load = || Load { pieces: Vec::new(), buffer: vec![0; room], filled: 0 };
                (0..LOADS).try_for_each(|_| give.send(load())).unwrap_or_default();
                let mut reading = Reading { ahead: self, load: None, read, empty };
                let reader = move || {
                    let ended = some.into_iter().try_for_each(|area| match reading.area(area) {
                        Ok(true) => Ok(()),
                        Ok(false) => Err(None),
                        Err(failure) => Err(Some(failure)),
                    });
                    // What was read before it failed is there. Without one who takes it, nobody asks what failed.
                    reading.hand_over();
                    if let Err(Some(failure)) = ended {
                        let _ = reading.read.send(Err(failure));
                    }
                };
                let reader = thread::Builder::new().name("reader".into()).spawn_scoped(scope, reader);
                reader.map_err(|e| Failure::io("start a thread", &e))?;
                for load in taken {
                    let mut load = load?;
                    for piece in load.pieces.drain(..) {
                        self.pass.check()?;
                        let (piece, bytes) = match piece {
                            Piece::Hole(range) => (Piece::Hole(range.clone()), range.end - range.start),
                            Piece::Data(offset, part) => {
                                (Piece::Data(offset, &load.buffer[part.clone()]), part.len() as u64)
                            }
                        };
                        take(piece)?;
                        self.pass.inc(bytes);
                    }
                    load.filled = 0;
                    // It may have read everything.
                    let _ = give.send(load);
                }
                Ok(())
            })?;
        }
    }

    /// What is read at once.
    fn room(&self) -> u64 {
        PIECE.max(self.unit)
    }

    /// An area as whole units of which none was in the one before, if anything is left of it.
    fn whole(&self, area: Range<u64>, done: &mut u64) -> Option<Range<u64>> {
        let start = (area.start / self.unit * self.unit).max(*done);
        let end = area.end.div_ceil(self.unit).saturating_mul(self.unit).min(self.len);
        *done = end.max(*done);
        (start < end).then_some(start..end)
    }
}

/// The side that reads.
struct Reading<'a> {
    ahead: &'a Ahead<'a>,
    /// What was read, and is not handed over yet.
    load: Option<Load>,
    read: SyncSender<Result<Load>>,
    empty: Receiver<Load>,
}

impl Reading<'_> {
    /// Reads an area.
    fn area(&mut self, area: Range<u64>) -> Result<GoesOn> {
        let (source, unit, room) = (self.ahead.source, self.ahead.unit, self.ahead.room());
        let mut at = area.start;
        while at < area.end {
            self.ahead.pass.check()?;
            let data = source.next_data(at..area.end)?.unwrap_or(area.end..area.end);
            // Of a unit that has some of both, all is read.
            let start = (data.start / unit * unit).max(at);
            let end = data.end.div_ceil(unit).saturating_mul(unit).min(area.end);
            if start > at {
                let Some(load) = self.load(0) else { return Ok(false) };
                load.pieces.push(Piece::Hole(at..start));
            }
            at = start;
            while at < end {
                let piece = at..((at / room + 1) * room).min(end);
                if !self.piece(piece.clone())? {
                    return Ok(false);
                }
                at = piece.end;
            }
        }
        Ok(true)
    }

    /// Reads a piece.
    fn piece(&mut self, piece: Range<u64>) -> Result<GoesOn> {
        let Ahead { source, len, whole, pass, .. } = *self.ahead;
        let length = (piece.end - piece.start) as usize;
        let padding = if piece.end == len { (whole - len) as usize } else { 0 };
        pass.read(piece.end - piece.start)?;
        let Some(load) = self.load(length + padding) else { return Ok(false) };
        let part = load.filled..load.filled + length + padding;
        let (bytes, zeros) = load.buffer[part.clone()].split_at_mut(length);
        source.read(bytes, piece.start)?;
        zeros.fill(0);
        load.filled = part.end;
        load.pieces.push(Piece::Data(piece.start, part));
        Ok(true)
    }

    /// One that has room for so many bytes and one more piece; `None` if the other side is gone.
    fn load(&mut self, length: usize) -> Option<&mut Load> {
        let full = |load: &Load| load.buffer.len() - load.filled < length || load.pieces.len() == TOGETHER;
        if self.load.as_ref().is_some_and(full) && !self.hand_over() {
            return None;
        }
        if self.load.is_none() {
            self.load = Some(self.empty.recv().ok()?);
        }
        self.load.as_mut()
    }

    fn hand_over(&mut self) -> GoesOn {
        self.load.take().is_none_or(|load| self.read.send(Ok(load)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    /// Bytes that say where they are, holes in every second stretch of 3 MiB and a bit, and an offset that cannot be read.
    struct Source {
        len: u64,
        fails_at: u64,
        read: AtomicU64,
    }

    const STRETCH: u64 = 3 * PIECE + 4096;

    impl Source {
        fn new(len: u64, fails_at: u64) -> Source {
            Source { len, fails_at, read: AtomicU64::new(0) }
        }
    }

    fn byte(at: u64) -> u8 {
        if at / STRETCH % 2 == 1 { 0 } else { (at / 512) as u8 | 1 }
    }

    impl Content for Source {
        fn len(&self) -> u64 {
            self.len
        }

        fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
            let range = offset..offset + buffer.len() as u64;
            if range.contains(&self.fails_at) || range.end > self.len {
                return Err(Failure::new("io", "it cannot be read"));
            }
            self.read.fetch_add(buffer.len() as u64, SeqCst);
            (offset..).zip(buffer).for_each(|(at, to)| *to = byte(at));
            Ok(())
        }

        fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
            let stretch = range.start / STRETCH;
            let start = if stretch.is_multiple_of(2) { range.start } else { (stretch + 1) * STRETCH };
            let end = ((start / STRETCH + 1) * STRETCH).min(range.end);
            Ok((start < end).then_some(start..end))
        }

        fn knows_holes(&self) -> bool {
            true
        }
    }

    fn ahead<'a>(source: &'a Source, unit: u64, pass: &'a Pass) -> Ahead<'a> {
        Ahead { source, len: source.len, whole: source.len + 7, unit, pass }
    }

    #[test]
    fn everything_in_the_areas_comes_once_in_order_and_in_whole_units() {
        let source = Source::new(20 * PIECE + 777, u64::MAX);
        let pass = Pass::silent("");
        for unit in [1, 512, 65536, 2 * PIECE] {
            // Touching units of one another, across pieces and holes, and to the end; more of them than go at once.
            let small = (0..20_000u64).map(|i| i * 100..i * 100 + 50);
            let areas: Vec<Range<u64>> =
                small.chain([8 * PIECE..15 * PIECE + 1, 15 * PIECE + 3..20 * PIECE + 777]).collect();
            let mut expected = vec![false; source.len as usize];
            for area in &areas {
                let end = area.end.next_multiple_of(unit).min(source.len);
                expected[(area.start / unit * unit) as usize..end as usize].fill(true);
            }
            let mut at = 0;
            let mut found = vec![false; source.len as usize];
            let done = ahead(&source, unit, &pass).read(areas.into_iter(), |piece| {
                let range = match piece {
                    Piece::Hole(range) => {
                        assert!(range.clone().all(|at| byte(at) == 0));
                        range
                    }
                    Piece::Data(offset, bytes) => {
                        let end = (offset + bytes.len() as u64).min(source.len);
                        let (bytes, behind) = bytes.split_at((end - offset) as usize);
                        assert!((offset..).zip(bytes).all(|(at, found)| byte(at) == *found), "at {offset}");
                        assert_eq!(behind, vec![0; if end == source.len { 7 } else { 0 }]);
                        offset..end
                    }
                };
                assert!(range.start >= at && range.start.is_multiple_of(unit) && range.start < range.end);
                assert!(range.end.is_multiple_of(unit) || range.end == source.len);
                at = range.end;
                found[range.start as usize..range.end as usize].fill(true);
                Ok(())
            });
            done.unwrap_or_else(|e| panic!("{e}"));
            assert!(found == expected, "units of {unit}");
        }
        let nothing = ahead(&source, 1, &pass).read(iter::empty(), |_| panic!("there is nothing"));
        assert!(nothing.is_ok());
    }

    #[test]
    fn a_failure_of_either_side_ends_both() {
        let pass = Pass::silent("");
        let source = Source::new(100 * PIECE, 2 * PIECE + 5);
        let mut taken = 0;
        let failed = ahead(&source, 1, &pass).read(iter::once(0..source.len), |_| {
            taken += 1;
            Ok(())
        });
        assert_eq!((failed.expect_err("it cannot be read").message.as_str(), taken), ("it cannot be read", 2));
        let source = Source::new(100 * PIECE, u64::MAX);
        let mut taken = 0;
        let failed = ahead(&source, 1, &pass).read(iter::once(0..source.len), |_| {
            taken += 1;
            if taken == 3 { Err(Failure::new("io", "it cannot be written")) } else { Ok(()) }
        });
        assert_eq!((failed.expect_err("it cannot be written").message.as_str(), taken), ("it cannot be written", 3));
        // Of what is read ahead there is a bound.
        let read = source.read.load(SeqCst);
        assert!((3 * PIECE..=(3 + LOADS as u64) * PIECE).contains(&read), "{read}");
    }
}
