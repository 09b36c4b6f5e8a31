//! Files with an intent.

use dirtymap::format::{
    self, COPIES, COPY_BYTES, Durability, Header, Intent, Point, PointRole, Reasons, Reserved, Uuid, copy_offset,
};

/// Gives every valid copy of a file an intent: a point that is only that, of which `words` are the words. Says whether there
/// was one that can have it.
pub fn add(file: &mut Vec<u8>, words: &[u64], unit: u32) -> bool {
    let copy = |i: usize| Header::parse(file.get(copy_offset(i) as usize..).unwrap_or_default()).ok();
    let copies: Vec<Option<Header>> = (0..COPIES).map(copy).collect();
    // Where one has an intent already, that will do.
    let fit =
        |h: &Header| h.durability == Durability::PowerLoss && h.intent.is_none() && h.points.len() < format::MAX_POINTS;
    let Some(geometry) = copies.iter().flatten().max_by_key(|h| h.sequence).filter(|h| fit(h)).map(|h| h.geometry)
    else {
        return false;
    };
    // Behind the last region of each.
    let end = copies.iter().flatten().map(Header::file_length).max().unwrap_or(0);
    let uuid = Uuid([0xd7; 16]);
    let (table_offset, bottom_offset) = (end, end + format::table_length(&geometry));
    let point = Point {
        uuid,
        time: 0,
        role: PointRole::Intent,
        name: String::new(),
        table_offset,
        bottom_offset,
        granules: words.iter().map(|word| u64::from(word.count_ones())).sum(),
        reasons: Reasons::NONE,
        target: None,
        reserved: Reserved::default(),
    };
    for (i, mut header) in copies.into_iter().enumerate().filter_map(|(i, copy)| Some((i, copy?))) {
        if !fit(&header) || header.geometry != geometry {
            continue;
        }
        let at = header.points.len() - usize::from(header.outstanding().is_some());
        header.points.insert(at, point.clone());
        header.intent = Some(Intent { point: uuid, unit });
        let bytes = header.encode().unwrap();
        let place = &mut file[copy_offset(i) as usize..][..COPY_BYTES];
        place[..bytes.len()].copy_from_slice(&bytes);
    }
    file.resize((bottom_offset + format::bottom_length(&geometry)) as usize, 0);
    for (page, words) in words.chunks(64).enumerate() {
        let mut all = [0; 64];
        all[..words.len()].copy_from_slice(words);
        let bytes = format::page_from_words(&all);
        let entry = format::page_entry(&uuid, page as u64, &bytes);
        file[table_offset as usize + 4 * page..][..4].copy_from_slice(&entry.to_le_bytes());
        file[bottom_offset as usize + 512 * page..][..512].copy_from_slice(&bytes);
    }
    true
}
