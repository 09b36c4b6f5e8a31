//! The SHA-256 of a file that is read for another reason.
//!
//! Invariants kept here: the hash is of all bytes of the file, each once and in order: of the very bytes that the reader got, where he
//! read on from where he was, and of what is read beside him otherwise. No more than a few pieces are in memory.

use super::Stored;
use crate::exit::{Failure, Result};
use crate::files::pieces;
use crate::terminal::pass::Pass;
use sha2::{Digest, Sha256};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Pieces that wait to be hashed.
const PIECES: usize = 4;

/// A hash that is being computed.
#[derive(Debug)]
pub struct Hashing(JoinHandle<Result<String>>);

/// Where a reader's bytes go.
#[derive(Debug)]
pub struct Follower {
    /// Up to here all is hashed, or is going to be.
    next: Mutex<u64>,
    read: SyncSender<(u64, Vec<u8>)>,
    spare: Mutex<Receiver<Vec<u8>>>,
}

impl Hashing {
    /// Has a thread hash a file while it is read: that which is returned. `stopped`: what it means if it is stopped.
    pub fn of(file: Stored, path: &Path, stopped: &'static str) -> Result<(Stored, Hashing)> {
        let (own, path) = (Stored::again(&file.file, path)?, path.to_path_buf());
        let (read, taken) = sync_channel::<(u64, Vec<u8>)>(PIECES);
        let (give, spare) = channel();
        let hashing = Builder::new().name("hash".into()).spawn(move || {
            let (mut hash, pass, mut at) = (Sha256::new(), Pass::silent(stopped), 0);
            for (offset, bytes) in taken {
                update(&mut hash, &own, &path, at..offset, &pass)?;
                hash.update(&bytes);
                at = offset + bytes.len() as u64;
                // There may be nobody who reads on.
                let _ = give.send(bytes);
            }
            update(&mut hash, &own, &path, at..own.bytes, &pass)?;
            Ok(hex(hash))
        });
        let hashing = hashing.map_err(|e| Failure::io("start a thread", &e))?;
        let follower = Follower { next: Mutex::new(0), read, spare: Mutex::new(spare) };
        Ok((Stored { follower: Some(follower), ..file }, Hashing(hashing)))
    }

    /// The hash, once nobody reads the file any more.
    pub fn finish(self) -> Result<String> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Follower {
    /// These bytes were read at an offset.
    pub fn took(&self, bytes: &[u8], offset: u64) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if offset < *next {
            return;
        }
        *next = offset + bytes.len() as u64;
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut copy = spare.try_recv().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(bytes);
        // If it has ended, it says why.
        let _ = self.read.send((offset, copy));
    }
}

/// The SHA-256 of all bytes of a file.
pub fn hash(stored: &Stored, path: &Path, pass: &Pass) -> Result<String> {
    let mut hash = Sha256::new();
    update(&mut hash, stored, path, 0..stored.bytes, pass)?;
    Ok(hex(hash))
}

fn update(hash: &mut Sha256, stored: &Stored, path: &Path, range: Range<u64>, pass: &Pass) -> Result<()> {
    let mut buffer = Vec::new();
    for piece in pieces(range) {
        pass.check()?;
        buffer.resize((piece.end - piece.start) as usize, 0);
        let read: io::Result<()> = stored.file.read_exact_at(&mut buffer, piece.start);
        read.map_err(|e| Failure::io(format_args!("{}: read", path.display()), &e))?;
        hash.update(&buffer);
        pass.inc(piece.end - piece.start);
    }
    Ok(())
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use dirtymap_cli::qcow2::ReadAt;

    #[test]
    fn however_a_file_is_read_its_hash_is_that_of_all_its_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i / 7) as u8).collect();
        std::fs::write(&path, bytes).expect("write");
        let open = || Stored::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let expected = hash(&open(), &path, &Pass::silent("")).unwrap_or_else(|e| panic!("{e}"));
        for seed in 0..20 {
            let (file, hashing) = Hashing::of(open(), &path, "").unwrap_or_else(|e| panic!("{e}"));
            let (mut rng, mut at) = (Rng::new(seed), 0);
            let mut buffer = vec![0; 300_000];
            for _ in 0..rng.below(60) {
                // On from there, with a gap, or from before.
                let start = [at, at + rng.below(100_000), rng.below(at + 1)][rng.below(3) as usize].min(4_900_000);
                let length = 1 + rng.below((5_000_000 - start).min(300_000)) as usize;
                file.read_data(&mut buffer[..length], start).expect("read");
                at = at.max(start + length as u64);
            }
            drop(file);
            assert_eq!(hashing.finish().unwrap_or_else(|e| panic!("{e}")), expected, "seed {seed}");
        }
    }
}
