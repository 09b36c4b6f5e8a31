//! The golden files are kept as `xxd` dumps, so that a change shows in a diff and zeros take no space: lines of 16
//! bytes, those of zeros left out but for the last one. `xxd -r NAME.xxd FILE` makes the file.

/// The dump of a file.
#[allow(dead_code, reason = "not all who read these files write them")]
pub fn dump(file: &[u8]) -> String {
    let mut out = String::new();
    let last = file.len().div_ceil(16).saturating_sub(1);
    for (i, line) in file.chunks(16).enumerate().filter(|(i, line)| *i == last || line.iter().any(|&byte| byte != 0)) {
        let hex: Vec<String> =
            line.chunks(2).map(|pair| pair.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        let shown = |byte: &u8| if (b' '..=b'~').contains(byte) { *byte as char } else { '.' };
        let text: String = line.iter().map(shown).collect();
        out.push_str(&format!("{:08x}: {:<39}  {text}\n", i * 16, hex.join(" ")));
    }
    out
}

/// The file of a dump.
pub fn undump(dump: &str) -> Vec<u8> {
    let mut file = Vec::new();
    for line in dump.lines() {
        let (offset, rest) = line.split_once(": ").expect("an offset");
        let offset = usize::from_str_radix(offset, 16).expect("a hexadecimal offset");
        let digits: Vec<u8> = rest[..39].bytes().filter(|byte| *byte != b' ').collect();
        assert!(offset >= file.len() && digits.len().is_multiple_of(2), "{line}");
        file.resize(offset, 0);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
        file.extend(digits.chunks(2).map(byte));
    }
    file
}
