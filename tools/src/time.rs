//! Times for people and programs.

/// A time as RFC 3339 in UTC; `None` for "never", and for what no calendar has.
pub fn time(seconds: i64) -> Option<String> {
    (seconds != 0).then(|| jiff::Timestamp::from_second(seconds).ok()).flatten().map(|t| t.to_string())
}
