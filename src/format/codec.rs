//! Every integer and byte string that goes to or comes from a file.
//!
//! Invariants kept here: integers are little-endian whatever the host is; nothing panics. Bytes that are
//! missing read as zeros, which is also what the format says of a file that is too short; bytes that do
//! not fit are not written (and fail an assertion in debug builds, as no caller may rely on that).

/// `N` bytes from `at` on; missing ones are zeros.
#[inline]
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let there = bytes.get(at..).unwrap_or_default();
    if let Some(all) = there.first_chunk() {
        return *all;
    }
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(there) {
        *to = *from;
    }
    out
}

/// The `u32` at byte `at`.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

/// The `u64` at byte `at`.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// The `i64` at byte `at`.
#[inline]
pub(crate) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(array_at(bytes, at))
}

/// Writes `value` at byte `at`.
#[inline]
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let place = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end));
    debug_assert!(place.is_some(), "{} bytes at {at} do not fit", value.len());
    if let Some(place) = place {
        place.copy_from_slice(value);
    }
}

/// Writes a `u32` at byte `at`.
#[inline]
pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, &value.to_le_bytes());
}

/// Writes a `u64` at byte `at`.
#[inline]
pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    put(bytes, at, &value.to_le_bytes());
}

/// Writes an `i64` at byte `at`.
#[inline]
pub(crate) fn put_i64(bytes: &mut [u8], at: usize, value: i64) {
    put(bytes, at, &value.to_le_bytes());
}

/// CRC-32 (ISO-HDLC, as in zlib and gzip) of the parts, one after the other.
pub(crate) fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for part in parts {
        crc.update(part);
    }
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_little_endian() {
        let mut bytes = [0; 24];
        put_u32(&mut bytes, 0, 0x0403_0201);
        put_u64(&mut bytes, 8, 0x0807_0605_0403_0201);
        put_i64(&mut bytes, 16, -2);
        assert_eq!(bytes[..4], [1, 2, 3, 4]);
        assert_eq!(bytes[8..16], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[16..], [0xfe, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(
            (u32_at(&bytes, 0), u64_at(&bytes, 8), i64_at(&bytes, 16)),
            (0x0403_0201, 0x0807_0605_0403_0201, -2)
        );
    }

    #[test]
    fn missing_bytes_are_zeros() {
        assert_eq!(u32_at(&[1, 2], 0), 0x0201);
        assert_eq!(u64_at(&[1, 2], 5), 0);
        assert_eq!(u64_at(&[1, 2], usize::MAX), 0);
    }

    #[test]
    fn the_checksum_is_the_one_of_zlib() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc32(&[b"12345", b"6789"]), 0xcbf4_3926);
    }
}
