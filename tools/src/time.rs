//! Times for people and programs.

use std::fs::File;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

/// What stands for a time that no clock could tell.
pub const EPOCH: &str = "1970-01-01T00:00:00Z";

/// A time as RFC 3339 in UTC, in whole seconds; `None` for "never", and for what no calendar has.
pub fn time(at: impl Into<Option<SystemTime>>) -> Option<String> {
    let seconds = match at.into()?.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).ok()?,
        // The second that it is in began earlier.
        Err(before) => {
            let before = before.duration();
            let whole = before.as_secs() + u64::from(before.subsec_nanos() > 0);
            -i64::try_from(whole).ok()?
        }
    };
    (seconds != 0).then(|| jiff::Timestamp::from_second(seconds).ok()).flatten().map(|t| t.to_string())
}

/// Which boot of the machine this is, by the kernel; `None` where that cannot be had from a real procfs.
pub fn boot() -> Option<String> {
    boot_by("/proc/sys/kernel/random/boot_id")
}

fn boot_by(path: &str) -> Option<String> {
    let mut file = File::open(path).ok()?;
    if rustix::fs::fstatfs(&file).ok()?.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return None;
    }
    let mut id = String::new();
    file.read_to_string(&mut id).ok()?;
    Some(id.trim().to_string()).filter(|id| !id.is_empty())
}

/// A time as people write it: RFC 3339, in whatever zone.
pub fn parse(text: &str) -> Result<SystemTime, String> {
    let found = text.parse::<jiff::Timestamp>().map_err(|_| {
        format!(
            "{text:?} is no time: give date, time of day and zone, as 2026-11-29T10:00:00Z (UTC, as lists of members have it) \
             or 2026-11-29T11:00:00+01:00"
        )
    })?;
    Ok(found.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_only_believed_of_the_kernel() {
        let real = boot().expect("a boot");
        let other = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(other.path(), real).expect("write");
        assert_eq!(boot_by(other.path().to_str().expect("text")), None);
    }
}
