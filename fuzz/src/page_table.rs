//! Any bytes as pages and their entries, and as operations on sets of words. No panic; a page matches exactly its
//! own entry; sets of words do what a plain array of booleans does.

use super::input::take;
use dirtymap::Geometry;
use dirtymap::format::{self, PageBytes, Uuid, WordRanges};

const SPACE: usize = 256;

fn pages(mut bytes: &[u8]) {
    let uuid = Uuid(take(&mut bytes));
    let len = u64::from_le_bytes(take(&mut bytes));
    let [granularity, flip, entries] = take(&mut bytes);
    let Ok(geometry) = Geometry::new(len, granularity.into()) else { return };
    let (table, bottom) = bytes.split_at(bytes.len().min(usize::from(entries) * 4));
    for (index, content) in bottom.chunks(512).enumerate() {
        // A page that is cut short reads as if zeros followed.
        let mut page: PageBytes = [0; 512];
        page[..content.len()].copy_from_slice(content);
        let index = index as u64;
        let own = format::page_entry(&uuid, index, &page);
        assert_eq!(own == 0, page.iter().all(|byte| *byte == 0));
        assert!(format::page_matches(&uuid, index, &page, own));
        let stored = format::entry_at(table, index);
        assert_eq!(format::page_matches(&uuid, index, &page, stored), stored == own);
        let words = format::words_from_page(&page);
        assert_eq!(format::page_from_words(&words), page);
        let bits = geometry.bits().saturating_sub(index * 4096);
        let past = |bit: usize| bit as u64 >= bits && page[bit / 8] >> (bit % 8) & 1 == 1;
        assert_eq!(format::stray_bits(&geometry, index, &words), (0..4096).any(past));
        let range = format::page_words(&geometry, index);
        assert!(range.end <= geometry.words() && range.end - range.start <= 64);
        // A flipped bit never matches.
        page[usize::from(flip) * 2] ^= 1;
        assert!(!format::page_matches(&uuid, index, &page, own));
    }
}

fn sets(mut bytes: &[u8]) {
    let (mut runs, mut plain) = (WordRanges::new(), [false; SPACE]);
    let (mut others, mut other_plain) = (WordRanges::new(), [false; SPACE]);
    while !bytes.is_empty() {
        let [op, start, count] = take(&mut bytes);
        let range = u64::from(start)..(u64::from(start) + u64::from(count % 32)).min(SPACE as u64);
        let places = range.start as usize..(range.end as usize).max(range.start as usize);
        match op % 8 {
            0 | 1 => {
                runs.insert(range);
                plain[places].fill(true);
            }
            2 => {
                runs.remove(range);
                plain[places].fill(false);
            }
            3 => {
                std::mem::swap(&mut runs, &mut others);
                std::mem::swap(&mut plain, &mut other_plain);
            }
            4 => {
                runs.union(&others);
                plain.iter_mut().zip(other_plain).for_each(|(bit, other)| *bit |= other);
            }
            5 => {
                runs.subtract(&others);
                plain.iter_mut().zip(other_plain).for_each(|(bit, other)| *bit &= !other);
            }
            6 => {
                runs.clip(start.into());
                plain[start.into()..].fill(false);
            }
            _ => {
                let (before, max) = (runs.clone(), usize::from(count % 16));
                let added = runs.coarsen(max);
                assert!(runs.len() <= max.max(1) && runs.words() == before.words() + added);
                for run in &runs {
                    plain[run.first as usize..run.end() as usize].fill(true);
                }
                let mut lost = before;
                lost.subtract(&runs);
                assert!(lost.is_empty());
            }
        }
        assert_eq!(WordRanges::from_sorted(runs.as_slice().to_vec()).as_ref(), Ok(&runs));
        assert_eq!(runs.words(), plain.iter().filter(|bit| **bit).count() as u64);
        let mut expanded = [false; SPACE];
        for run in &runs {
            expanded[run.first as usize..run.end() as usize].fill(true);
        }
        assert_eq!(expanded, plain);
        assert_eq!(runs.contains(start.into()), plain[usize::from(start)]);
        let (a, b) = (u64::from(start.min(count)), u64::from(start.max(count)));
        let part = &plain[a as usize..b as usize];
        assert_eq!(runs.intersects(a..b), part.contains(&true));
        assert_eq!(runs.covers(a..b), !part.contains(&false));
        assert_eq!(runs.within(a..b).map(|run| run.count).sum::<u64>(), part.iter().filter(|bit| **bit).count() as u64);
    }
}

pub fn run(bytes: &[u8]) {
    let [kind] = take(&mut &bytes[..]);
    let rest = bytes.get(1..).unwrap_or_default();
    if kind & 1 == 0 { pages(rest) } else { sets(rest) }
}
