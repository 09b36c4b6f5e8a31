//! The raw bottom level: the bits of a map as little-endian words in a file of their own.
//!
//! Invariant kept here: memory is bounded whatever the size, and neither time nor space is spent on long stretches of
//! zeros where the file can have holes.

use crate::exit::{Failure, Result};
use crate::files::{self, Image};
use crate::size;
use crate::terminal::signals;
use dirtymap::{DirtyMap, Geometry};
use dirtymap_cli::bits;
use dirtymap_cli::shown::shown;
use indicatif::ProgressBar;
use std::ops::Range;

/// Bytes handed out together; a multiple of what file systems make holes of.
const BLOCK: u64 = 64 << 10;

/// Bytes of the raw form.
pub fn length(geometry: &Geometry) -> u64 {
    geometry.words() * 8
}

/// The aligned blocks that are not all zeros, ascending, each with its offset.
pub fn blocks(map: &DirtyMap) -> Result<impl Iterator<Item = (u64, Vec<u8>)>> {
    let all = length(map.geometry());
    let mut words = map.words(0..map.len())?.peekable();
    Ok(std::iter::from_fn(move || {
        let &(first, _) = words.peek()?;
        let offset = first * 8 / BLOCK * BLOCK;
        let end = all.min(offset + BLOCK);
        let mut block = vec![0; (end - offset) as usize];
        while let Some((i, word)) = words.next_if(|&(i, _)| i * 8 < end) {
            let at = (i * 8 - offset) as usize;
            block[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        Some((offset, block))
    }))
}

/// A file that holds the raw form of a map with this geometry.
pub struct Raw {
    file: Image,
    geometry: Geometry,
}

impl Raw {
    /// Takes a file of the right size; its content is not looked at.
    pub fn new(file: Image, geometry: Geometry) -> Result<Raw> {
        let (found, expected) = (file.size(), length(&geometry));
        if file.stamp.is_block_device() || found == expected {
            return Ok(Raw { file, geometry });
        }
        Err(wrong_size(&file.path.display().to_string(), &found.to_string(), &geometry))
    }

    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        length(&self.geometry)
    }

    /// Fails if somebody has changed the file since it was opened.
    pub fn unchanged(&self) -> Result<()> {
        if self.file.glance()?.equals(&self.file.stamp) {
            return Ok(());
        }
        let message = format!("{}: was changed while it was read; try again", self.file.path.display());
        Err(Failure::new("image-changed", message))
    }

    /// Gives every maximal run of ones to `each`, ascending. Reads all of the file; refuses bits past the end of the map.
    pub fn ones(&self, bar: &ProgressBar, mut each: impl FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        let (all, bits) = (self.bytes(), self.geometry.bits());
        let mut take = |run: Range<u64>| match run {
            run if run.is_empty() => Ok(()),
            run if run.end <= bits => each(run),
            run => Err(stray(&self.file, run.start.max(bits), bits)),
        };
        let mut buffer = vec![0; files::PIECE as usize];
        let reading = format!("stopped reading {}", self.file.path.display());
        let mut run = 0..0;
        let mut at = 0;
        while let Some(data) = self.file.next_data(at..all) {
            // Whole words, wherever the file system thinks that data begins.
            let data = data.start / 8 * 8..data.end.next_multiple_of(8).min(all);
            for piece in files::pieces(data.clone()) {
                signals::check(&reading)?;
                let bytes = &mut buffer[..(piece.end - piece.start) as usize];
                self.file.read(bytes, piece.start)?;
                let first = piece.start * 8;
                for ones in bits::runs(bytes, bytes.len() as u64 * 8) {
                    if first + ones.start != run.end {
                        take(std::mem::replace(&mut run, first + ones.start..first))?;
                    }
                    run.end = first + ones.end;
                }
                bar.set_position(piece.end);
            }
            at = data.end;
        }
        take(run)?;
        bar.set_position(all);
        Ok(())
    }
}

/// Refuses a raw file for its size.
pub fn wrong_size(name: &str, found: &str, geometry: &Geometry) -> Failure {
    let message = format!(
        "{name} has {found} bytes; expected {}: one bit for each granule of the map, which has {}, in words of 8 bytes",
        length(geometry),
        geometry.bits()
    );
    Failure::new("size-differs", message)
}

fn stray(file: &Image, found: u64, bits: u64) -> Failure {
    let message = format!(
        "{}: found bit {found} set, expected none from {bits} on, for the map has {}; this is not the raw \
         form of such a map",
        shown(&file.path),
        size::count(bits, "granule")
    );
    Failure::new("stray-bits", message)
}
