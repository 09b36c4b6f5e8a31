//! Times: seconds in the file, [`SystemTime`] for whoever asks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time of the file. What the system cannot tell is 1970.
pub(crate) fn at(seconds: i64, nanos: u32) -> SystemTime {
    let away = Duration::from_secs(seconds.unsigned_abs());
    let whole = if seconds < 0 { UNIX_EPOCH.checked_sub(away) } else { UNIX_EPOCH.checked_add(away) };
    whole.and_then(|at| at.checked_add(Duration::from_nanos(nanos.into()))).unwrap_or(UNIX_EPOCH)
}

/// The same, where 0 is "never".
pub(crate) fn unless_never(seconds: i64) -> Option<SystemTime> {
    (seconds != 0).then(|| at(seconds, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_seconds_is_a_time() {
        for seconds in [i64::MIN, -1, 0, 1, 1 << 40, i64::MAX] {
            let away = match at(seconds, 5).duration_since(UNIX_EPOCH) {
                Ok(after) => i128::from(after.as_secs()),
                Err(before) => -i128::from(before.duration().as_secs()) - 1,
            };
            assert_eq!(away, i128::from(seconds));
        }
        assert_eq!((unless_never(0), unless_never(1)), (None, Some(UNIX_EPOCH + Duration::from_secs(1))));
        assert_eq!(at(1, 7), UNIX_EPOCH + Duration::new(1, 7));
    }
}
