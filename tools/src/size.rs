//! Sizes and offsets on the command line, and sizes for people.
//!
//! Invariant kept here: a number is taken only if it is exactly representable; nothing is rounded or wraps.

const ACCEPTED: &str =
    "a whole number of bytes, in decimal (65536) or hex (0x10000), or with K, M, G, T or P for powers of 1024 (64K)";

/// Parses plain bytes, hex with `0x`, or a number with a suffix: `K`, `k`, `Ki`, `KiB` and so on up to `P`.
pub fn parse(text: &str) -> Result<u64, String> {
    let junk = || format!("found {text:?}, expected {ACCEPTED}");
    let too_large = || format!("{text} is more than the largest number there is, {}; expected {ACCEPTED}", u64::MAX);
    let parsed = |digits: &str, radix| -> Result<u64, String> {
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(junk());
        }
        u64::from_str_radix(digits, radix).map_err(|_| too_large())
    };
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return parsed(hex, 16);
    }
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(digits_end);
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" | "ki" | "kib" => 10,
        "m" | "mi" | "mib" => 20,
        "g" | "gi" | "gib" => 30,
        "t" | "ti" | "tib" => 40,
        "p" | "pi" | "pib" => 50,
        _ => return Err(junk()),
    };
    parsed(digits, 10)?.checked_mul(1 << shift).ok_or_else(too_large)
}

/// Parses the bytes per granule and gives their log2.
pub fn parse_granularity(text: &str) -> Result<u32, String> {
    let bytes = parse(text)?;
    if bytes.is_power_of_two() {
        return Ok(bytes.trailing_zeros());
    }
    Err(format!("found {bytes} bytes, expected a power of two from 1 to {} (2^63), for instance 64K", 1u64 << 63))
}

/// A size for people: exact where it is a whole number of units, else with one decimal.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut scale = 1u64;
    while unit + 1 < UNITS.len() && bytes / scale >= 1024 {
        unit += 1;
        scale <<= 10;
    }
    if bytes.is_multiple_of(scale) {
        return format!("{} {}", bytes / scale, UNITS[unit]);
    }
    format!("{:.1} {}", bytes as f64 / scale as f64, UNITS[unit])
}

/// A number of things: "1 granule", "2 granules".
pub fn count(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// `part` of `whole` in percent; 0 of nothing.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_people_type() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("0x10000", 65536),
            ("0XfF", 255),
            ("64K", 65536),
            ("64k", 65536),
            ("64KiB", 65536),
            ("3Mi", 3 << 20),
            ("10G", 10 << 30),
            ("2t", 2 << 40),
            ("8191P", 8191 << 50),
            ("8192P", 1 << 63),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_junk_and_overflow_and_says_what_it_takes() {
        for text in ["", "K", "0x", "0xG", "-1", "+1", "1.5G", "64KB", "1 K", "64KK", "1e3", "0x1K", "١", "sixty"] {
            let e = parse(text).unwrap_err();
            assert!(e.contains("found") && e.contains("K, M, G, T or P"), "{text}: {e}");
        }
        for text in ["18446744073709551616", "16384P", "0x10000000000000000", "99999999999999999999999K"] {
            assert!(parse(text).unwrap_err().contains("largest"), "{text}");
        }
    }

    #[test]
    fn granularity_is_a_power_of_two() {
        assert_eq!(parse_granularity("1"), Ok(0));
        assert_eq!(parse_granularity("64K"), Ok(16));
        assert_eq!(parse_granularity("8192P"), Ok(63));
        for text in ["0", "3", "65535", "96K"] {
            assert!(parse_granularity(text).unwrap_err().contains("power of two"), "{text}");
        }
        assert!(parse_granularity("16384P").is_err());
    }

    #[test]
    fn people_read_exact_sizes_where_there_are_any() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(65536), "64 KiB");
        assert_eq!(human(10 << 30), "10 GiB");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(u64::MAX), "16.0 EiB");
    }
}
