//! Numbers from the bytes that a fuzzer gives. Where they end, zeros follow.

pub fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (head, rest) = bytes.split_at(bytes.len().min(N));
    *bytes = rest;
    std::array::from_fn(|i| head.get(i).copied().unwrap_or(0))
}

pub fn byte(bytes: &mut &[u8]) -> u8 {
    let [byte] = take(bytes);
    byte
}

/// A number of `N` bytes, little-endian.
pub fn number<const N: usize>(bytes: &mut &[u8]) -> u64 {
    let taken: [u8; N] = take(bytes);
    taken.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Fewer than `most` things.
pub fn some<T>(bytes: &mut &[u8], most: u8, mut one: impl FnMut(&mut &[u8]) -> T) -> Vec<T> {
    (0..byte(bytes) % most).map(|_| one(bytes)).collect()
}

/// A directory for a file: in memory, where there is such a place.
pub fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("dirtymap-fuzz").tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    dir.expect("a temporary directory")
}
