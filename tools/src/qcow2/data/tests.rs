//! What is written is read back, through any chain; what breaks the specification is refused.

use super::super::spec::{self, header};
use super::super::{Error, Result, be64};
use super::{Chain, Counted, Disk, Extent, Left, Shape, Writer, check};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;

/// log2 of the clusters here: the smallest, with 64 entries in a table of 32 KiB of the disk.
const BITS: u32 = 9;
const CLUSTER: u64 = 1 << BITS;

/// What a file says of its clusters: data of this byte, zeros, or nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Byte(u8),
    Zeros,
    Nothing,
}

/// A file for a disk of `len` bytes.
fn file(len: u64, backing: Option<&[u8]>, clusters: &[(u64, Is)]) -> Vec<u8> {
    let shape = Shape::new(len, BITS, backing).expect("a shape");
    let mut bytes: Vec<u8> = Vec::new();
    let write = |piece: &[u8], offset: u64| {
        let range = offset as usize..offset as usize + piece.len();
        bytes.resize(bytes.len().max(range.end), 0);
        bytes[range].copy_from_slice(piece);
        Ok::<(), Infallible>(())
    };
    let mut writer = Writer::new(shape, write);
    for (cluster, is) in clusters {
        let Ok(()) = match is {
            Is::Byte(byte) => writer.data(*cluster, &[*byte; CLUSTER as usize]),
            Is::Zeros => writer.zeros(*cluster, 1),
            Is::Nothing => Ok(()),
        };
    }
    let Ok(length) = writer.finish();
    assert!(bytes.len() as u64 <= length);
    bytes.resize(length as usize, 0);
    bytes
}

fn chain(files: &[Vec<u8>]) -> Result<Chain<&[u8]>> {
    Chain::new(files.iter().map(|file| Disk::open(&file[..])).collect::<Result<_>>()?)
}

fn content(files: &[Vec<u8>]) -> Vec<u8> {
    let chain = chain(files).expect("a chain");
    let mut bytes = vec![1; chain.size() as usize];
    chain.read(&mut bytes, 0).expect("read");
    bytes
}

/// A random number below `n`.
fn below(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    (*seed >> 33) % n
}

/// Files over one another, of any lengths, against an array of bytes.
#[test]
fn a_chain_reads_as_arrays_laid_over_one_another_do() {
    for mut seed in 0..300 {
        let mut files: Vec<Vec<u8>> = Vec::new();
        let mut model: Vec<u8> = Vec::new();
        for i in 0..1 + below(&mut seed, 4) {
            let clusters = below(&mut seed, 150);
            let full = i == 0;
            let all: Vec<(u64, Is)> = (0..clusters)
                .map(|c| match below(&mut seed, 6) {
                    0 | 1 => (c, Is::Byte(below(&mut seed, 255) as u8 + 1)),
                    2 => (c, Is::Zeros),
                    _ => (c, Is::Nothing),
                })
                .collect();
            files.push(file(clusters * CLUSTER, (!full).then_some(&b"below"[..]), &all));
            model.resize((clusters * CLUSTER) as usize, 0);
            for (c, is) in &all {
                let at = (c * CLUSTER) as usize..((c + 1) * CLUSTER) as usize;
                match is {
                    Is::Byte(byte) => model[at].fill(*byte),
                    Is::Zeros => model[at].fill(0),
                    Is::Nothing => {}
                }
            }
            let counted = check(&Disk::open(&files[i as usize][..]).expect("opens"), || true);
            let counted = counted.expect("dense").expect("to the end");
            let count = |f: fn(&Is) -> bool| all.iter().filter(|(_, is)| f(is)).count() as u64;
            assert_eq!(counted.data, count(|is| matches!(is, Is::Byte(_))));
            assert_eq!(counted.zeros, count(|is| matches!(is, Is::Zeros)));
        }
        assert!(content(&files) == model, "seed {seed}");
        // From any place to any other one, and behind the end.
        let chain = chain(&files).expect("a chain");
        let (at, len) = (below(&mut seed, 60_000), below(&mut seed, 40_000) + 1);
        let mut bytes = vec![7; len as usize];
        chain.read(&mut bytes, at).expect("read");
        let expected: Vec<u8> = (at..at + len).map(|i| model.get(i as usize).copied().unwrap_or(0)).collect();
        assert!(bytes == expected, "seed {seed}");
    }
}

#[test]
fn what_has_data_is_told_and_the_rest_is_zeros() {
    let base = file(200 * CLUSTER, None, &[(3, Is::Byte(1)), (4, Is::Byte(2)), (150, Is::Byte(3))]);
    let top = file(200 * CLUSTER, Some(b"base"), &[(4, Is::Zeros), (151, Is::Byte(4))]);
    let files = [base, top];
    let chain = chain(&files).expect("a chain");
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(data) = chain.next_data(at..chain.size()).expect("no error") {
        at = data.end;
        found.push(data.start / CLUSTER..data.end / CLUSTER);
    }
    assert_eq!(found, [3..4, 150..151, 151..152]);
}

#[test]
fn neighbours_of_one_file_are_one_extent() {
    let bytes = file(64 * CLUSTER, None, &(0..64).map(|c| (c, Is::Byte(1))).collect::<Vec<_>>());
    let disk = Disk::open(&bytes[..]).expect("opens");
    // Up to the end of what one L2 table maps: here all.
    let first = 2 * CLUSTER;
    assert_eq!(disk.extent(5..64 * CLUSTER).expect("no error"), (Extent::Data(first + 5), 64 * CLUSTER));
    assert_eq!(disk.extent(5..700).expect("no error"), (Extent::Data(first + 5), 700));
}

#[test]
fn an_end_inside_of_a_sector_is_padded() {
    let shape = Shape::new(5 * CLUSTER + 7, BITS, None).expect("a shape");
    assert_eq!(shape.len(), 6 * CLUSTER);
    assert_eq!(Shape::new(0, 16, None).expect("a shape").len(), 0);
    assert!(Shape::new(u64::MAX, 16, None).is_err() && Shape::new(1 << 62, 16, None).is_err());
    // Larger clusters where an L1 table would be too large for QEMU.
    assert_eq!(Shape::new(1 << 50, 9, None).expect("a shape").cluster(), 64 << 10);
    assert!(Shape::new(9, 9, Some(&[b'x'; 1023])).is_err() && Shape::new(9, 16, Some(&[b'x'; 1023])).is_ok());
    assert!(Shape::new(9, 16, Some(&[b'x'; 1024])).is_err() && Shape::new(9, 16, Some(b"")).is_err());
}

#[test]
fn a_backing_file_is_named_and_a_chain_without_it_refused() {
    let (base, top) = (file(CLUSTER, None, &[]), file(CLUSTER, Some(b"0001.qcow2"), &[]));
    assert_eq!(Disk::open(&top[..]).expect("opens").backing(), Some(&b"0001.qcow2"[..]));
    assert_eq!(Disk::open(&base[..]).expect("opens").backing(), None);
    assert!(
        chain(std::slice::from_ref(&top)).is_err()
            && chain(&[base.clone(), base.clone()]).is_err()
            && chain(&[base, top]).is_ok()
    );
}

/// Changes bytes of a file.
fn patched(bytes: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

fn kind(bytes: &[u8]) -> &'static str {
    let read = Disk::open(bytes).and_then(|disk| {
        let chain = Chain::new(vec![disk])?;
        let mut buffer = vec![0; chain.size() as usize];
        chain.read(&mut buffer, 0)
    });
    read.err().map_or("fine", |e| e.kind())
}

#[test]
fn what_breaks_the_specification_or_is_not_known_is_refused() {
    let good = file(70 * CLUSTER, None, &[(0, Is::Byte(1)), (69, Is::Byte(2))]);
    assert_eq!(kind(&good), "fine");
    let l1 = CLUSTER as usize;
    let l2 = be64(&good, l1) as usize & spec::MAPPING_OFFSET as usize;
    let far = good.len() as u64;
    for (at, value, expected) in [
        (0, &b"XYZ!"[..], "not-qcow2"),
        (header::VERSION, &2u32.to_be_bytes(), "unsupported"),
        (header::CLUSTER_BITS, &8u32.to_be_bytes(), "corrupt"),
        (header::CLUSTER_BITS, &22u32.to_be_bytes(), "corrupt"),
        (header::SIZE, &u64::MAX.to_be_bytes(), "corrupt"),
        (header::SIZE, &(200 * CLUSTER).to_be_bytes(), "corrupt"),
        (header::CRYPT_METHOD, &1u32.to_be_bytes(), "unsupported"),
        (header::SNAPSHOTS, &1u32.to_be_bytes(), "unsupported"),
        (header::REFCOUNT_ORDER, &6u32.to_be_bytes(), "unsupported"),
        (header::L1_ENTRIES, &u32::MAX.to_be_bytes(), "corrupt"),
        (header::L1_OFFSET, &0u64.to_be_bytes(), "corrupt"),
        (header::L1_OFFSET, &far.to_be_bytes(), "corrupt"),
        (header::L1_OFFSET, &(u64::MAX << BITS).to_be_bytes(), "corrupt"),
        (header::REFCOUNT_TABLE_CLUSTERS, &u32::MAX.to_be_bytes(), "corrupt"),
        (header::BACKING_FILE_OFFSET, &200u64.to_be_bytes(), "corrupt"),
        // External data, extended L2 entries, compression, and what nobody knows yet.
        (header::INCOMPATIBLE, &4u64.to_be_bytes(), "unsupported"),
        (header::INCOMPATIBLE, &1u64.to_be_bytes(), "unsupported"),
        (header::INCOMPATIBLE, &(1u64 << 40).to_be_bytes(), "unsupported"),
        (l1, &far.to_be_bytes(), "corrupt"),
        (l1, &(l2 as u64 + 8).to_be_bytes(), "corrupt"),
        (l1, &(l2 as u64 | 1 << 60).to_be_bytes(), "corrupt"),
        (l2, &far.to_be_bytes(), "corrupt"),
        (l2, &(CLUSTER + 2).to_be_bytes(), "corrupt"),
        (l2, &(CLUSTER | spec::MAPPING_COMPRESSED).to_be_bytes(), "unsupported"),
    ] {
        assert_eq!(kind(&patched(&good, at, value)), expected, "at {at}");
    }
    for length in 0..good.len() {
        assert_ne!(kind(&good[..length.min(l2 + 100)]), "fine", "cut to {length}");
    }
}

/// Of each reference, another value is noticed by [`check`].
#[test]
fn every_reference_that_is_not_as_it_was_written_is_found() {
    let clusters = [(0, Is::Byte(1)), (1, Is::Byte(1)), (3, Is::Zeros), (69, Is::Byte(2))];
    let good = file(70 * CLUSTER, None, &clusters);
    let found = |bytes: &[u8]| Disk::open(bytes).and_then(|disk| check(&disk, || true));
    assert_eq!(found(&good).ok(), Some(Some(Counted { data: 3, zeros: 1 })));
    let l1 = CLUSTER as usize;
    let l2 = be64(&good, l1) as usize & spec::MAPPING_OFFSET as usize;
    let table = be64(&good, header::REFCOUNT_TABLE_OFFSET) as usize;
    let block = be64(&good, table) as usize;
    // One used twice; one lost; one behind the disk's end.
    let one = good[l2..l2 + 8].to_vec();
    let bad = [
        patched(&good, l2 + 8, &one),
        patched(&good, l2, &[0; 8]),
        patched(&good, l1, &[0; 8]),
        patched(&good, block + 3, &[2]),
        patched(&good, block + 2 * (good.len() / CLUSTER as usize) + 1, &[1]),
        patched(&good, table, &(table as u64).to_be_bytes()),
        good[..good.len() - CLUSTER as usize].to_vec(),
        [&good[..], &[0; CLUSTER as usize]].concat(),
    ];
    for (i, bytes) in bad.iter().enumerate() {
        assert!(matches!(found(bytes), Err(Error::Corrupt { .. })), "{i}: {:?}", found(bytes));
    }
    let last_l2 = be64(&good, l1 + 8) as usize & spec::MAPPING_OFFSET as usize;
    assert!(found(&patched(&good, last_l2 + 8 * 6, &1u64.to_be_bytes())).is_err(), "behind the disk's end");
}

#[test]
fn many_clusters_have_refcounts_in_several_blocks() {
    let all: Vec<(u64, Is)> = (0..1000).map(|c| (c, Is::Byte(c as u8))).collect();
    let bytes = file(1000 * CLUSTER, None, &all);
    let disk = Disk::open(&bytes[..]).expect("opens");
    assert_eq!(check(&disk, || true).expect("dense").expect("to the end").data, 1000);
    // It can be stopped at each of its tables, and says nothing then.
    let tables = 1000u64.div_ceil(CLUSTER / 8) + (bytes.len() as u64 / CLUSTER * 2).div_ceil(CLUSTER);
    for most in [0, 1, tables - 1, tables] {
        let mut asked = 0;
        let found = check(&disk, || (asked < most, asked += 1).0).expect("dense");
        assert_eq!((found.is_some(), asked), (most == tables, tables.min(most + 1)), "{most}");
    }
}

/// Writes a disk of whole clusters, each of one byte, until so many writes have been made; zeros are left out. It goes on with what is in
/// `file`, if that can be. Whether it came to the end, and how many clusters it went on with.
fn write(file: &RefCell<Vec<u8>>, disk: &[u8], most: usize) -> (bool, usize) {
    let shape = Shape::new(disk.len() as u64 * CLUSTER, BITS, None).expect("a shape");
    let bytes = file.borrow().clone();
    let open = || Disk::unfinished(&bytes[..], &shape);
    let left = open().and_then(|disk| Left::of(&disk, &shape)).ok().flatten();
    file.borrow_mut().resize(left.as_ref().map_or(0, |left| left.bytes(&shape)) as usize, 0);
    let writes = Cell::new(0);
    let put = |piece: &[u8], offset: u64| {
        writes.set(writes.get() + 1);
        if writes.get() > most {
            return Err(());
        }
        let (mut file, range) = (file.borrow_mut(), offset as usize..offset as usize + piece.len());
        let length = file.len().max(range.end);
        file.resize(length, 0);
        file[range].copy_from_slice(piece);
        Ok(())
    };
    let mut kept = 0;
    let mut end = || -> std::result::Result<(), ()> {
        let mut writer = match &left {
            Some(left) => Writer::go_on(shape.clone(), &put, left)?,
            None => Writer::new(shape.clone(), &put),
        };
        let before = left.as_ref().map(|_| open().expect("opens"));
        for (cluster, byte) in (0..).zip(disk) {
            let at = cluster * CLUSTER..(cluster + 1) * CLUSTER;
            let found = before.as_ref().map(|before| before.extent(at).expect("no error").0);
            if let Some(Extent::Data(offset)) = found {
                put(&[*byte; CLUSTER as usize], offset)?;
                writer.placed(cluster, 1, offset)?;
                kept += 1;
            } else if *byte != 0 {
                writer.data(cluster, &[*byte; CLUSTER as usize])?;
            }
        }
        let length = writer.finish()?;
        file.borrow_mut().resize(length as usize, 0);
        Ok(())
    };
    (end().is_ok(), kept)
}

/// Stopped at any write, again and again, while the disk changes: what its tables know stays where it is, and the rest comes behind.
#[test]
fn a_writer_that_was_stopped_is_gone_on_with() {
    let mut most = 0;
    for mut seed in 0..400 {
        let mut disk: Vec<u8> = (0..150 + below(&mut seed, 100)).map(|_| below(&mut seed, 3) as u8).collect();
        let file = RefCell::default();
        for _ in 0..below(&mut seed, 24) {
            let (ended, _) = write(&file, &disk, below(&mut seed, 300) as usize);
            if ended {
                break;
            }
            for _ in 0..below(&mut seed, 4) {
                let cluster = below(&mut seed, disk.len() as u64) as usize;
                disk[cluster] = below(&mut seed, 3) as u8;
            }
        }
        let (ended, kept) = write(&file, &disk, usize::MAX);
        assert!(ended);
        most = most.max(kept);
        let bytes = file.take();
        let counted = check(&Disk::open(&bytes[..]).expect("opens"), || true).expect("whole").expect("to the end");
        assert!(counted.data >= disk.iter().filter(|byte| **byte != 0).count() as u64 && counted.zeros == 0);
        let expected: Vec<u8> = disk.iter().flat_map(|byte| [*byte; CLUSTER as usize]).collect();
        assert!(content(&[bytes]) == expected, "seed {seed}");
    }
    assert!(most > 100, "{most}");
}

/// Whatever is in the file, no two clusters of the disk are taken to be at one place.
#[test]
fn what_was_left_is_taken_only_if_each_cluster_has_a_place_of_its_own() {
    let shape = Shape::new(200 * CLUSTER, BITS, None).expect("a shape");
    let good = file(200 * CLUSTER, None, &(0..200).map(|c| (c, Is::Byte(1))).collect::<Vec<_>>());
    let left = |bytes: &[u8]| {
        let left = Disk::unfinished(bytes, &shape).and_then(|disk| Left::of(&disk, &shape)).expect("no error");
        left.map_or((0, 0), |left| (left.tables.iter().filter(|table| **table != 0).count(), left.next))
    };
    let l1 = CLUSTER as usize;
    let l2 = |index: usize| (be64(&good, l1 + 8 * index) & spec::MAPPING_OFFSET) as usize;
    let first = shape.first();
    assert_eq!(left(&good), (4, first + 200 + 4));
    // Up to the first table that is not right: without an entry, twice the same, outside, a cluster that is its own table.
    for entry in [0, be64(&good, l2(1)), good.len() as u64, l2(2) as u64, 7] {
        assert_eq!(left(&patched(&good, l2(2) + 8 * 5, &entry.to_be_bytes())), (2, first + 128 + 2), "{entry:#x}");
    }
    assert_eq!(left(&patched(&good, l1 + 16, &be64(&good, l1 + 8).to_be_bytes())), (2, first + 128 + 2));
    assert_eq!(left(&patched(&good, l2(0), &[0; 8])), (0, 0));
    // A table without data, and no table at all.
    assert_eq!(left(&patched(&good, l2(3), &[0; CLUSTER as usize])), (3, first + 192 + 3));
    assert!(Disk::unfinished(&good[..l1 + 8], &shape).is_err());
}
