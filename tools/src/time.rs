//! Times for people and programs.

use std::time::{SystemTime, UNIX_EPOCH};

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
