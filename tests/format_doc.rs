//! FORMAT.md is the contract, and the code keeps it: every row of its tables has a constant with the same
//! offset and size, every constant has a row, its numbers are the code's, and the file that it shows is what the
//! encoder makes, byte for byte.

use dirtymap::format::fields::{self, Field};
use dirtymap::format::{self, Durability, Header, Uuid};
use dirtymap::{Geometry, LEVELS, MAX_BITS, MAX_GRANULARITY, MAX_LEN};

const FORMAT: &str = include_str!("../FORMAT.md");

/// The text under a heading, up to the next one of any level.
fn section(heading: &str) -> &'static str {
    let start = format!("\n{heading}\n");
    let at = FORMAT.find(&start).unwrap_or_else(|| panic!("FORMAT.md has no heading {heading:?}"));
    let text = &FORMAT[at + start.len()..];
    text.split("\n#").next().unwrap_or(text)
}

/// The cells of the rows of the (only) table in a text, without its head.
fn rows(text: &'static str) -> Vec<Vec<&'static str>> {
    let rows = text.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// Name, offset and size of every row, as FORMAT.md has them.
fn documented(heading: &str) -> Vec<(String, usize, usize)> {
    let number = |cell: &str| cell.parse().unwrap_or_else(|_| panic!("{heading}: {cell:?} is not a number"));
    let row = |row: &Vec<&str>| (row[3].trim_matches('`').to_string(), number(row[0]), number(row[1]));
    rows(section(heading)).iter().map(row).collect()
}

#[track_caller]
fn same(heading: &str, fields: &[Field], size: usize) {
    let coded: Vec<_> = fields.iter().map(|field| (field.name.to_string(), field.offset, field.size)).collect();
    let documented = documented(heading);
    assert_eq!(documented, coded, "{heading}: FORMAT.md on the left, the code on the right");
    let (_, offset, last) = documented[documented.len() - 1];
    assert_eq!(offset + last, size, "{heading}: the last row ends the table");
}

#[test]
fn every_field_is_where_format_md_says() {
    same("## Header copy", fields::header::ALL, format::FIXED_BYTES);
    same("### Stamp", fields::stamp::ALL, 128);
    same("### Point", fields::point::ALL, 256);
    same("### Runtime page", fields::runtime::ALL, 53248);
    same("### Slot", fields::slot::ALL, 192);
}

#[test]
fn types_have_the_sizes_of_their_fields() {
    for heading in ["## Header copy", "### Stamp", "### Point", "### Runtime page", "### Slot"] {
        for row in rows(section(heading)) {
            let size = match row[2] {
                "u32" => "4",
                "u64" | "i64" => "8",
                "7 u64" => "56",
                "stamp" => "128",
                "256 slots" => "49152",
                "bytes" | "UTF-8" => row[1],
                other => panic!("{heading}: unknown type {other:?} of {}", row[3]),
            };
            assert_eq!(row[1], size, "{heading}: {}", row[3]);
        }
    }
}

#[test]
fn every_number_is_the_codes() {
    let coded = [
        ("VERSION", format::VERSION.into()),
        ("COPIES", format::COPIES as u64),
        ("PAIRS", format::PAIRS as u64),
        ("COPY_BYTES", format::COPY_BYTES as u64),
        ("HEADER_REGION", format::HEADER_REGION),
        ("FIXED_BYTES", format::FIXED_BYTES as u64),
        ("MAX_USED", format::MAX_USED as u64),
        ("ALIGN", format::ALIGN),
        ("MAX_LIST", format::MAX_LIST as u64),
        ("MAX_POINTS", format::MAX_POINTS as u64),
        ("MAX_LABEL", format::MAX_LABEL as u64),
        ("MAX_POINT_NAME", format::MAX_POINT_NAME as u64),
        ("MAX_UNIT", format::MAX_UNIT.into()),
        ("MAX_SEQUENCE", format::MAX_SEQUENCE),
        ("MAX_FILE_LENGTH", format::MAX_FILE_LENGTH),
        ("MAX_LEN", MAX_LEN),
        ("MAX_GRANULARITY", MAX_GRANULARITY.into()),
        ("MAX_BITS", MAX_BITS),
        ("LEVELS", LEVELS as u64),
        ("VOLATILE_LAYOUT", format::VOLATILE_LAYOUT.into()),
        ("ENTRY_BYTES", format::ENTRY_BYTES),
        ("GATE_LOCK", format::GATE_LOCK),
        ("UPDATE_LOCK", format::UPDATE_LOCK),
        ("TURN_LOCK", format::TURN_LOCK),
        ("READERS_LOCK", format::READERS_LOCK),
        ("SPACE_LOCK", format::SPACE_LOCK),
        ("BACKUP_LOCK", format::BACKUP_LOCK),
        ("CREATOR_LOCK", format::CREATOR_LOCK),
        ("UPDATE_TURN_LOCK", format::UPDATE_TURN_LOCK),
        ("SLOT_LOCKS", format::SLOT_LOCKS),
        ("SLOTS", format::SLOTS),
    ];
    let value = |text: &str| -> u64 {
        let parse = |text: &str| -> u64 { text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number")) };
        let power = |text: &str| text.strip_prefix("2^").map_or_else(|| parse(text), |n| 1u64 << parse(n));
        match (text.split_once(" + "), text.split_once(" - ")) {
            (Some((a, b)), _) => power(a) + power(b),
            (_, Some((a, b))) => power(a) - power(b),
            _ => power(text),
        }
    };
    let documented: Vec<_> =
        rows(section("## Numbers")).iter().map(|row| (row[0].trim_matches('`'), value(row[1]))).collect();
    assert_eq!(documented, coded);
}

/// Every public constant of the sizes and the fields is in the table of numbers: read from their sources.
#[test]
fn no_number_is_missing() {
    let names = rows(section("## Numbers")).iter().map(|row| row[0].trim_matches('`')).collect::<Vec<_>>();
    let sources = [include_str!("../src/format/sizes.rs"), include_str!("../src/format/fields.rs")];
    for line in sources.iter().flat_map(|text| text.lines()) {
        let Some((name, _)) = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(": ")) else { continue };
        // Functions, the magic, and feature bits: FORMAT.md has them elsewhere.
        let elsewhere = name == "MAGIC" || ["fn ", "KNOWN_"].iter().any(|s| name.starts_with(s));
        assert!(elsewhere || names.contains(&name), "{name} is not in FORMAT.md");
    }
    assert_eq!(format::KNOWN_COMPATIBLE | format::KNOWN_RO_COMPATIBLE | format::KNOWN_INCOMPATIBLE, 0);
}

#[test]
fn the_magic_is_the_documented_one() {
    let row = &rows(section("## Header copy"))[0];
    let hex: Vec<_> = format::MAGIC.iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(row[4], format!("`{}`", hex.join(" ")));
}

/// The file that FORMAT.md shows.
fn whole_file() -> Vec<u8> {
    let geometry = Geometry::new(1 << 20, 16).unwrap();
    let mut header = Header::new(Uuid(std::array::from_fn(|i| 0x10 + i as u8)), geometry, Durability::PowerLoss);
    header.sequence = 5;
    header.created = 1_700_000_000;
    header.last_clean = 1_700_000_060;
    header.clean_dirty_bits = 1;
    header.label = "example".into();
    let copy = header.encode().unwrap();
    let mut words = [0; 64];
    words[0] = 1 << 3;
    let page = format::page_from_words(&words);
    let entry = format::page_entry(&header.uuid, 0, &page);

    let mut file = vec![0; header.file_length() as usize];
    let mut write = |at: u64, bytes: &[u8]| file[at as usize..][..bytes.len()].copy_from_slice(bytes);
    for i in 0..format::COPIES {
        write(format::copy_offset(i), &copy);
    }
    write(header.layout.table.start, &entry.to_le_bytes());
    write(header.layout.bottom.start, &page);
    file
}

#[test]
fn the_dump_is_what_the_encoder_makes() {
    let file = whole_file();
    assert_eq!(file.len(), 0xc_0000);
    let copies = format::COPY_BYTES..format::HEADER_REGION as usize;
    let mut dump = String::new();
    for (i, line) in file.chunks(16).enumerate() {
        if line.iter().any(|byte| *byte != 0) && !copies.contains(&(i * 16)) {
            let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            dump.push_str(&format!("{:05x}  {}\n", i * 16, hex.join(" ")));
        }
    }
    for copy in 1..format::COPIES {
        let at = format::copy_offset(copy) as usize;
        assert_eq!(file[..format::COPY_BYTES], file[at..at + format::COPY_BYTES]);
    }
    let shown = section("## A whole file").split("```text\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(shown, Some(dump.as_str()), "the dump in FORMAT.md should be:\n{dump}");
}
