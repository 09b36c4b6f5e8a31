//! Which process holds a lock, as far as the kernel tells.
//!
//! Invariant kept here: a process is named only when procfs shows a lock of it on this very byte of this file.

use crate::error::Holder;
use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

/// How long to look at most: on a machine with very many open files an answer is not worth more.
const BUDGET: Duration = Duration::from_millis(250);

/// Which process holds a lock on one of these bytes of the file with this inode. `own`: a descriptor of this process that does
/// not count. `None` when procfs does not tell: it shows locks of processes of the same user only, unless root asks.
pub(crate) fn holder(inode: u64, bytes: &Range<u64>, own: i32) -> Option<Holder> {
    let end = Instant::now() + BUDGET;
    let me = std::process::id();
    let names = |dir: String| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let number = |name: std::ffi::OsString| name.to_str().and_then(|name| name.parse::<u32>().ok());
    for pid in names("/proc".into()).filter_map(number) {
        for fd in names(format!("/proc/{pid}/fdinfo")).filter_map(number) {
            if Instant::now() >= end {
                return None;
            }
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
            let counts = pid != me || i64::from(fd) != i64::from(own);
            if counts && info.lines().any(|line| locks(line, inode, bytes)) {
                return Some(describe(pid));
            }
        }
    }
    None
}

/// Whether a line of `fdinfo` is about a lock on one of these bytes, as in
/// `lock:  1: OFDLCK  ADVISORY  WRITE -1 00:2a:1234 4611686018427387904 4611686018427387904`.
fn locks(line: &str, inode: u64, bytes: &Range<u64>) -> bool {
    let Some(fields) = line.strip_prefix("lock:") else { return false };
    let mut last = fields.split_ascii_whitespace().rev();
    let (Some(end), Some(start), Some(file)) = (last.next(), last.next(), last.next()) else { return false };
    let number = |text: &str| text.parse::<u64>().ok();
    let same = file.rsplit(':').next().and_then(number) == Some(inode);
    let kind = !fields.contains("FLOCK") && !fields.contains("LEASE");
    let end = if end == "EOF" { Some(u64::MAX) } else { number(end) };
    match (number(start), end) {
        (Some(start), Some(end)) => kind && same && start < bytes.end && end >= bytes.start,
        _ => false,
    }
}

/// What procfs says of a process.
pub(crate) fn describe(pid: u32) -> Holder {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in brackets, and may have brackets in it.
    let (name, rest) = stat.rsplit_once(')').unwrap_or_default();
    let name = name.split_once('(').map_or("", |(_, name)| name).to_string();
    Holder { pid, name, stopped: matches!(rest.trim_start().chars().next(), Some('T' | 't')) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_fdinfo_is_about_a_byte_or_not() {
        let line = "lock:\t1: OFDLCK  ADVISORY  WRITE -1 00:2a:1234 4611686018427387904 4611686018427387905";
        assert!(locks(line, 1234, &((1 << 62)..(1 << 62) + 1)) && locks(line, 1234, &((1 << 62) + 1..(1 << 62) + 2)));
        assert!(!locks(line, 1235, &((1 << 62)..(1 << 62) + 1)) && !locks(line, 1234, &((1 << 62) + 2..(1 << 62) + 3)));
        let whole = "lock:\t1: POSIX  ADVISORY  READ 77 00:2a:1234 0 EOF";
        assert!(locks(whole, 1234, &(5..6)));
        assert!(!locks(&whole.replace("POSIX", "FLOCK"), 1234, &(5..6)) && !locks("pos:\t0", 0, &(0..1)));
    }

    #[test]
    fn this_process_is_described() {
        let me = describe(std::process::id());
        assert!(!me.name.is_empty() && !me.stopped);
        assert_eq!(me.to_string(), format!("process {}, {}", std::process::id(), me.name));
    }
}
