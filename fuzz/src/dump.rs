//! Any bytes as a dump of a map, text or JSON: a map or an error with its place, no panic, and the same however the bytes
//! come. Whatever is read ascends inside the map; written again as text, and read again, it is the same.

use dirtymap::format::{Header, HeaderSelection, Uuid, WordRanges};
use dirtymap_cli::dump::{self, Area, CopyIs, Error, Failed, Head};
use std::io::BufReader;

/// Reads a dump that comes in pieces of a size.
fn read(bytes: &[u8], size: usize) -> Result<(Head, Vec<Area>), Error> {
    let mut areas = Vec::new();
    let head = dump::read(BufReader::with_capacity(size, bytes), |area| {
        areas.push(area);
        Ok::<(), ()>(())
    });
    match head {
        Ok(head) => Ok((head, areas)),
        Err(Failed::Wrong(e)) => Err(e),
        Err(e) => panic!("neither bytes nor a vector fail: {e:?}"),
    }
}

fn written(head: &Head, areas: &[Area]) -> Vec<u8> {
    let mut header = Header::new(Uuid([7; 16]), head.geometry, head.durability);
    header.label.clone_from(&head.label);
    let choice = HeaderSelection { copy: 0, header: &header, armed: WordRanges::new(), disagreements: Vec::new() };
    let copies = std::array::from_fn(|i| CopyIs::Invalid(format!("\"{i}\"\n{}", head.label)));
    let mut text = Vec::new();
    dump::write_head(&mut text, &copies, &choice).expect("a vector takes it");
    areas.iter().for_each(|area| dump::write_area(&mut text, area).expect("a vector takes it"));
    dump::write_end(&mut text, areas.len() as u64).expect("a vector takes it");
    text
}

pub fn run(bytes: &[u8]) {
    let parsed = read(bytes, bytes.len() + 1);
    let size = bytes.last().map_or(1, |b| usize::from(*b) % 19 + 1);
    assert_eq!(parsed, read(bytes, size));
    let (head, areas) = match parsed {
        Ok(parsed) => parsed,
        Err(e) => {
            let lines = bytes.iter().filter(|b| **b == b'\n').count() as u64 + 1;
            assert!((1..=lines).contains(&e.line) && e.column > 0 && e.to_string().len() < 1000, "{e}");
            return;
        }
    };
    let len = head.geometry.len();
    let mut end = 0;
    for area in &areas {
        assert!(area.items.start >= end && area.items.start < area.items.end && area.items.end <= len);
        // Whole granules.
        assert_eq!(head.geometry.items_of(&head.geometry.touched(&area.items)), area.items);
        end = area.items.end;
    }
    let again = read(&written(&head, &areas), 4096).expect("our own text");
    assert_eq!(again, (Head { had_image: false, ..head }, areas));
}
