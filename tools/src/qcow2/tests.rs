//! What is written is read back; what breaks the specification is refused.

use super::spec::{self, entry, extension, header};
use super::*;
use crate::bits::runs;
use std::convert::Infallible;
use std::ops::Range;

/// Clusters of the files here: the smallest, 4096 bits each.
const BITS: u32 = 9;
const CLUSTER: usize = 1 << BITS;
/// Where the bitmaps extension's data is.
const EXTENSION: usize = spec::HEADER_BYTES + spec::EXTENSION_HEAD;

/// A file of 512-byte clusters with granules of 512 bytes; `dirty` in bits.
fn file(len: u64, name: &str, dirty: &[Range<u64>]) -> Vec<u8> {
    let plan = Plan::with_clusters(len, 9, name, BITS).expect("possible");
    let Ok(bytes) = plan.bytes(|bits, buffer| {
        dirty.iter().for_each(|run| set_bits(buffer, &bits, run.clone()));
        Ok::<(), Infallible>(())
    });
    bytes
}

/// The dirty runs of a bitmap, neighbours joined.
fn bits(bytes: &[u8], name: &str) -> Result<Vec<Range<u64>>> {
    let image = Image::open(bytes)?;
    let entry = image.find(name)?;
    let mut all: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    for chunk in image.chunks(&entry)? {
        let chunk = chunk?;
        assert_eq!(chunk.bits.start, at);
        at = chunk.bits.end;
        let Ok(()) = chunk.runs(|run| {
            match all.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => all.push(run),
            }
            Ok::<(), Infallible>(())
        });
    }
    Ok(all)
}

/// Where the directory is.
fn directory(bytes: &[u8]) -> usize {
    be64(bytes, EXTENSION + extension::DIRECTORY_OFFSET) as usize
}

/// Changes bytes of a file.
fn patched(bytes: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

#[test]
fn what_is_written_is_read_back() {
    let len = |bits: u64| bits * 512;
    let cases: [(u64, &[Range<u64>]); 7] = [
        (1, &[]),
        (len(1), &[0..1]),
        (len(4096), &[0..4096]),
        (len(4097), &[0..4097]),
        (len(3 * 4096), &[0..1, 7..9, 63..65, 4095..8192, 12287..12288]),
        (len(3 * 4096) - 511, &[4096..8192]),
        (len(70 * 4096 + 9), &[64 * 4096..64 * 4096 + 1, 70 * 4096..70 * 4096 + 9]),
    ];
    for (len, dirty) in cases {
        let bytes = file(len, "b", dirty);
        assert_eq!(bytes.len() % CLUSTER, 0);
        assert_eq!(bits(&bytes, "b").expect("readable"), dirty, "{len}");
        assert_eq!(Image::open(&bytes[..]).expect("readable").virtual_size(), len.next_multiple_of(512));
    }
}

#[test]
fn every_cluster_is_counted_once() {
    let bytes = file(512 * 3 * 4096, "b", &[0..1, 4096..8192, 9000..9001]);
    let block = be64(&bytes, CLUSTER) as usize;
    let clusters = bytes.len() / CLUSTER;
    let counts: Vec<_> = bytes[block..block + CLUSTER].chunks(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
    assert_eq!(counts.iter().filter(|count| **count == 1).count(), clusters);
    assert!(counts[..clusters].iter().all(|count| *count == 1));
    // Of three data clusters one needs no bytes.
    assert_eq!(clusters, 3 + 3 + 1 + 1 + 2, "header, refcounts, L1, directory, table, data");
}

#[test]
fn setting_and_finding_bits_agree_with_one_bit_at_a_time() {
    for start in 0..70 {
        for end in start..80 {
            let mut fast = [0; 10];
            // As a buffer for later bits, and more asked for than it has.
            set_bits(&mut fast, &(1000..1080), start + 1000..end + 1000);
            let bit = |bytes: &[u8], i: u64| bytes[i as usize / 8] >> (i % 8) & 1 == 1;
            assert!((0..80).all(|i| bit(&fast, i) == (start..end).contains(&i)), "{start}..{end}");
            let expected: Vec<_> = [start..end].into_iter().filter(|run| !run.is_empty()).collect();
            assert_eq!(runs(&fast, 80).collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn a_bitmap_that_was_not_saved_is_told_apart() {
    let bytes = file(1 << 20, "b", &[0..1]);
    let why = |bytes: &[u8]| {
        let image = Image::open(bytes).expect("readable");
        image.unreliable(&image.find("b").expect("there"))
    };
    assert_eq!(why(&bytes), None);
    let directory = directory(&bytes);
    assert!(why(&patched(&bytes, directory + entry::FLAGS, &[0, 0, 0, 1])).is_some_and(|why| why.contains("in use")));
    assert!(why(&patched(&bytes, header::AUTOCLEAR, &[0; 8])).is_some_and(|why| why.contains("inconsistent")));
}

#[test]
fn the_names_that_there_are_are_listed() {
    let error = bits(&file(1 << 20, "monday", &[]), "tuesday").unwrap_err();
    assert_eq!(error.kind(), "no-such-bitmap");
    assert!(error.to_string().contains("\"monday\" (disabled)"), "{error}");
    // However many there are.
    let entry = Image::open(&file(1 << 20, "monday", &[])[..]).and_then(|image| image.find("monday")).expect("there");
    assert_eq!(listing(&[(); 1000].map(|()| entry.clone())).matches("monday").count(), 1000);
    assert_eq!(listing(&[]), "none");
}

#[test]
fn what_breaks_the_specification_is_refused() {
    let good = file(512 * 3 * 4096 - 512, "b", &[0..1, 4096..4100, 9000..9001]);
    assert!(bits(&good, "b").is_ok());
    let directory = directory(&good);
    let table = be64(&good, directory) as usize;
    let data = be64(&good, table + 16) as usize;
    let cases: [(&str, usize, &[u8], &str); 31] = [
        ("magic", 0, b"QFI", ""),
        ("magic", 3, b"\xfa", "not-qcow2"),
        ("version 2", header::VERSION, &[0, 0, 0, 2], "unsupported"),
        ("version 4", header::VERSION, &[0, 0, 0, 4], "unsupported"),
        ("cluster_bits 8", header::CLUSTER_BITS, &[0, 0, 0, 8], "corrupt"),
        ("cluster_bits 22", header::CLUSTER_BITS, &[0, 0, 0, 22], "corrupt"),
        ("other clusters", header::CLUSTER_BITS, &[0, 0, 0, 10], "corrupt"),
        ("dirty refcounts", header::INCOMPATIBLE + 7, &[1], ""),
        ("marked corrupt", header::INCOMPATIBLE + 7, &[2], "unsupported"),
        ("data file, compression, extended L2", header::INCOMPATIBLE + 7, &[0b1_1100], ""),
        ("unknown feature", header::INCOMPATIBLE + 7, &[32], "unsupported"),
        ("header_length 96", header::HEADER_LENGTH, &[0, 0, 0, 96], "corrupt"),
        ("header_length 108", header::HEADER_LENGTH, &[0, 0, 0, 108], "corrupt"),
        ("header_length 520", header::HEADER_LENGTH, &[0, 0, 2, 8], "corrupt"),
        ("extension too long", EXTENSION - 4, &[0, 0, 2, 0], "corrupt"),
        ("extension of 16 bytes", EXTENSION - 4, &[0, 0, 0, 16], "corrupt"),
        ("no bitmaps extension", EXTENSION - 8, &[1], "corrupt"),
        ("no bitmaps", EXTENSION, &[0, 0, 0, 0], "corrupt"),
        ("more bitmaps than entries", EXTENSION, &[0, 0, 0, 2], "corrupt"),
        ("reserved", EXTENSION + 4, &[1], "corrupt"),
        ("directory too small", EXTENSION + 15, &[24], "corrupt"),
        ("directory too large", EXTENSION + 15, &[40], "corrupt"),
        ("directory beside a cluster", EXTENSION + 23, &[1], "corrupt"),
        ("directory past the end", EXTENSION + 16, &[0x7f], "corrupt"),
        ("directory past 2^64", EXTENSION + 8, &[0xff; 8], "corrupt"),
        ("size needs another table", header::SIZE + 4, &[1], "corrupt"),
        ("more than 2^63", header::SIZE, &[0xff], "unsupported"),
        ("table past the end", directory, &[0x7f], "corrupt"),
        ("table beside a cluster", directory + 7, &[8], "corrupt"),
        ("a bit past the end", data + CLUSTER - 1, &[0x80], "corrupt"),
        ("the last bit", data + CLUSTER - 1, &[0x40], ""),
    ];
    let more: [(&str, usize, &[u8], &str); 16] = [
        ("table of 2 entries", directory + entry::TABLE_ENTRIES + 3, &[2], "corrupt"),
        ("table of 4 entries", directory + entry::TABLE_ENTRIES + 3, &[4], "corrupt"),
        ("auto", directory + entry::FLAGS + 3, &[2], ""),
        ("unknown flag", directory + entry::FLAGS + 3, &[8], "unsupported"),
        ("type 2", directory + entry::TYPE, &[2], "unsupported"),
        ("granularity 2^64", directory + entry::GRANULARITY_BITS, &[64], "corrupt"),
        ("another granularity", directory + entry::GRANULARITY_BITS, &[12], "corrupt"),
        ("no name", directory + entry::NAME_BYTES + 1, &[0], "corrupt"),
        ("name too long", directory + entry::NAME_BYTES, &[0xff], "corrupt"),
        ("extra data too long", directory + entry::EXTRA_BYTES, &[0xff], "corrupt"),
        ("entry: reserved low bit", table + 7, &[2], "corrupt"),
        ("entry: ones with an offset", table + 7, &[1], "corrupt"),
        ("entry: reserved high bit", table, &[1], "corrupt"),
        ("entry: past the end", table + 1, &[0x7f], "corrupt"),
        ("entry: zeros", table, &[0; 8], ""),
        ("entry: ones", table, &[0, 0, 0, 0, 0, 0, 0, 1], ""),
    ];
    for (what, at, value, kind) in cases.into_iter().chain(more) {
        let read = bits(&patched(&good, at, value), "b");
        assert_eq!(read.as_ref().err().map_or("", Error::kind), kind, "{what}: {read:?}");
    }
}

#[test]
fn the_unused_end_of_the_last_cluster_is_zero() {
    let good = file(1 << 20, "b", &[3..5]);
    let data = good.len() - CLUSTER;
    assert_eq!(bits(&patched(&good, data + 255, &[0x80]), "b").expect("readable"), [3..5, 2047..2048]);
    for at in [256, 300, 511] {
        assert_eq!(bits(&patched(&good, data + at, &[1]), "b").unwrap_err().kind(), "corrupt", "{at}");
    }
    // It need not be there at all.
    assert_eq!(bits(&good[..data + 256], "b").expect("readable"), [3..5]);
}

#[test]
fn a_file_that_ends_anywhere_is_refused() {
    let good = file(512 * 3 * 4096, "b", &[0..1, 4096..4100, 12287..12288]);
    for length in 0..good.len() {
        assert!(bits(&good[..length], "b").is_err(), "{length}");
    }
}

#[test]
fn a_disk_of_no_bytes_has_no_bits() {
    let bytes = file(1, "b", &[0..1]);
    let empty = patched(&bytes, header::SIZE, &[0; 8]);
    assert_eq!(bits(&empty, "b").unwrap_err().kind(), "corrupt", "a table of one entry for no bits");
    let fixed = directory(&bytes);
    let empty = patched(&patched(&empty, fixed + entry::TABLE_ENTRIES, &[0; 4]), fixed, &[0; 8]);
    assert_eq!(bits(&empty, "b").expect("readable"), []);
}

#[test]
fn the_name_of_a_backing_file_is_no_extension() {
    let good = file(1 << 20, "b", &[3..5]);
    let end = EXTENSION + extension::BYTES;
    let named = patched(&good, end, b"\x23\x85\x28\x75 is a name that looks like an extension");
    assert_eq!(bits(&named, "b").unwrap_err().kind(), "corrupt");
    let named = patched(&named, header::BACKING_FILE_OFFSET, &(end as u64).to_be_bytes());
    assert_eq!(bits(&named, "b").expect("readable"), [3..5]);
}

#[test]
fn extra_data_needs_its_flag() {
    let mut bytes = file(1 << 20, "b", &[3..5]);
    let directory = directory(&bytes);
    // Eight bytes of it before the name.
    bytes.copy_within(directory + 24..directory + 32, directory + 32);
    bytes[directory + entry::EXTRA_BYTES + 3] = 8;
    bytes[EXTENSION + extension::DIRECTORY_SIZE + 7] = 40;
    assert_eq!(bits(&bytes, "b").unwrap_err().kind(), "unsupported");
    assert_eq!(bits(&patched(&bytes, directory + entry::FLAGS + 3, &[4]), "b").expect("readable"), [3..5]);
}

#[test]
fn names_and_shapes_that_qemu_does_not_take_are_refused() {
    let refused = |len, granularity, name: &str| Plan::new(len, granularity, name).unwrap_err().to_string();
    assert!(refused(1 << 20, 16, "").contains("1 to 1023"));
    assert!(refused(1 << 20, 16, &"x".repeat(1024)).contains("has 1024"));
    assert!(refused(1 << 20, 8, "b").contains("512 B to 2 GiB"));
    assert!(refused(1 << 20, 32, "b").contains("512 B to 2 GiB"));
    assert!(refused(0, 16, "b").contains("0 bytes"));
    assert!(refused((1 << 41) + 1, 9, "b").contains("--granularity 1024"));
    assert!(refused(1 << 43, 9, "b").contains("--granularity 2048"));
    assert!(refused((1 << 61) + 1, 31, "b").contains("2^61"));
    // The largest of each.
    assert_eq!(Plan::new(1 << 41, 9, "b").expect("possible").geometry().bits(), spec::QEMU_MAX_BITS);
    assert_eq!(Plan::new(1 << 61, 31, "x".repeat(1023)).expect("possible").cluster(), 2 << 20);
    for exponent in 41..=61 {
        let least = exponent - 32;
        assert!(Plan::new(1 << exponent, least, "b").is_ok(), "2^{exponent} at 2^{least}");
    }
}
