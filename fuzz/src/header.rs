//! Any bytes as a header copy, twice: as they are, and with the checksum set right, because hardly any input would
//! get past it otherwise. No panic; what parses encodes to the bytes that it came from; and the choice among copies
//! of which some are damaged picks one that is valid.

use dirtymap::format::fields::header as h;
use dirtymap::format::{self, COPY_BYTES, FIXED_BYTES, Header, MAX_FILE_LENGTH, select};

fn check(bytes: &[u8]) -> bool {
    let parsed = Header::parse(bytes);
    match &parsed {
        Ok(header) => {
            let back = header.encode().expect("what parses can be encoded");
            let padded = |i: usize| bytes.get(i).copied().unwrap_or(0);
            assert!(back.iter().enumerate().all(|(i, byte)| *byte == padded(i)), "other bytes came back");
            assert_eq!(Header::parse(&back).as_ref(), Ok(header));
            assert!(header.file_length() <= MAX_FILE_LENGTH);
            let mut regions = header.regions();
            regions.sort_by_key(|(_, range)| range.start);
            assert!(regions.windows(2).all(|pair| pair[0].1.end <= pair[1].1.start));
            assert!(header.runs.iter().all(|run| run.end() <= header.geometry.words()));
            let _ = header.writable();
        }
        Err(problem) => assert!(!problem.to_string().is_empty()),
    }
    let valid = parsed.is_ok();
    // The same copy among older, newer, rival and missing ones.
    let variant = |edit: fn(&mut Header)| {
        parsed.clone().map(|mut header| {
            edit(&mut header);
            header
        })
    };
    let copies = [
        Header::parse(&[]),
        parsed.clone(),
        variant(|header| header.sequence -= 1),
        variant(|header| header.label.clear()),
    ];
    if let Ok(choice) = select(&copies) {
        assert!(valid && choice.copy == 1);
        let mut left = choice.header.runs.clone();
        left.subtract(&choice.armed);
        assert!(left.is_empty(), "a rival took words off the list");
    } else {
        assert!(!valid);
    }
    valid
}

pub fn run(bytes: &[u8]) {
    check(bytes);
    let mut sealed = bytes.to_vec();
    sealed.resize(COPY_BYTES, 0);
    sealed[..8].copy_from_slice(&format::MAGIC);
    let used = u32::from_le_bytes(sealed[h::USED.offset..h::USED.end()].try_into().unwrap()) as usize;
    if (FIXED_BYTES..=COPY_BYTES).contains(&used) {
        sealed[h::CRC.offset..h::CRC.end()].fill(0);
        let mut crc = plain_crc(&sealed[..used]);
        sealed[h::CRC.offset..h::CRC.end()].copy_from_slice(&crc.to_le_bytes());
        check(&sealed);
        // Torn anywhere, it is noticed.
        crc ^= 1 << (bytes.len() % 32);
        sealed[h::CRC.offset..h::CRC.end()].copy_from_slice(&crc.to_le_bytes());
        assert!(!check(&sealed));
    }
}

/// CRC-32, by a table of its own: not the implementation under test.
fn plain_crc(bytes: &[u8]) -> u32 {
    static TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc: u32, byte| crc >> 8 ^ TABLE[((crc ^ u32::from(*byte)) & 255) as usize])
}
