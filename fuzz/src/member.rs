//! Any bytes as one or two files of a set: what is on the disk or an error, no panic. What a chain says of a disk covers it without
//! gaps and is what reading gives; written into a file of our own it is the same, and every reference in that is right.

use dirtymap_cli::qcow2::data::{Chain, Disk, Shape, Writer, check};
use std::convert::Infallible;

/// Extents looked at of one disk at most; a table may say a lot in few bytes.
const EXTENTS: usize = 2048;
/// Bytes read at one place at most.
const PIECE: u64 = 8192;
/// Bytes of disks that are written again.
const SMALL: u64 = 1 << 18;

/// The disk that the files are, the lower one first.
fn chain<'a>(files: &[&'a [u8]]) -> Option<Chain<&'a [u8]>> {
    let disks = files.iter().map(|file| Disk::open(*file)).collect::<Result<Vec<_>, _>>().ok()?;
    for disk in &disks {
        let mut steps = 0;
        let _ = check(disk, || {
            steps += 1;
            true
        });
        assert!(steps <= 1 << 20);
    }
    Chain::new(disks).ok()
}

/// Walks over the disk; whether all of it could be read.
fn walk(chain: &Chain<&[u8]>, files: &[&[u8]]) -> bool {
    let size = chain.size();
    let mut at = 0;
    for _ in 0..EXTENTS {
        if at == size {
            return true;
        }
        let Ok((found, end)) = chain.extent(at..size) else { return false };
        assert!(end > at && end <= size);
        let mut bytes = vec![1; (end - at).min(PIECE) as usize];
        chain.read(&mut bytes, at).expect("what was told is there");
        match found {
            None => assert!(bytes.iter().all(|byte| *byte == 0)),
            Some((file, offset)) => assert!(files[file][offset as usize..][..bytes.len()] == bytes[..]),
        }
        let data = chain.next_data(at..size);
        assert!(found.is_none() || data.is_ok_and(|data| data == Some(at..end)));
        at = end;
    }
    false
}

fn rewritten(content: &[u8]) -> Vec<u8> {
    let shape = Shape::new(content.len() as u64, 9, None).expect("a small disk");
    let mut bytes: Vec<u8> = Vec::new();
    let write = |piece: &[u8], offset: u64| {
        let end = offset as usize + piece.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset as usize..end].copy_from_slice(piece);
        Ok::<(), Infallible>(())
    };
    let mut writer = Writer::new(shape, write);
    for (cluster, piece) in content.chunks(512).enumerate() {
        let cluster = cluster as u64;
        let Ok(()) = match piece.iter().all(|byte| *byte == 0) {
            true => writer.zeros(cluster, 1),
            false => writer.data(cluster, piece),
        };
    }
    let Ok(length) = writer.finish();
    bytes.resize(length as usize, 0);
    bytes
}

pub fn run(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (first, second) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    for files in [&[first, second][..], &[first], &[second]] {
        let Some(chain) = chain(files) else { continue };
        if !walk(&chain, files) || chain.size() > SMALL {
            continue;
        }
        let mut content = vec![0; chain.size() as usize];
        chain.read(&mut content, 0).expect("all of it was read before");
        let again = rewritten(&content);
        let disk = Disk::open(&again[..]).expect("our own file is readable");
        check(&disk, || true).expect("and right");
        let mut read = vec![1; content.len()];
        Chain::new(vec![disk]).expect("a chain of one").read(&mut read, 0).expect("readable");
        assert!(read == content);
    }
}
