//! [`Uuid`]: what identities are.

use std::fmt;
use std::str::FromStr;

/// The identity of a map, point, boot or session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// All zeros: no identity.
    pub const NIL: Uuid = Uuid([0; 16]);

    /// Whether this is [`Uuid::NIL`].
    pub fn is_nil(&self) -> bool {
        *self == Uuid::NIL
    }
}

/// The usual form, `01234567-89ab-cdef-0123-456789abcdef`: the bytes in the order they have in the file.
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Reads the usual form; hyphens may be left out.
impl FromStr for Uuid {
    type Err = NotUuid;

    fn from_str(text: &str) -> Result<Uuid, NotUuid> {
        let digits: Vec<u8> = text.bytes().filter(|&b| b != b'-').collect();
        let mut uuid = Uuid::NIL;
        let (pairs, rest) = digits.as_chunks::<2>();
        if pairs.len() != uuid.0.len() || !rest.is_empty() {
            return Err(NotUuid);
        }
        let digit = |b: u8| (b as char).to_digit(16).ok_or(NotUuid);
        for (byte, &[high, low]) in uuid.0.iter_mut().zip(pairs) {
            *byte = (digit(high)? << 4 | digit(low)?) as u8;
        }
        Ok(uuid)
    }
}

/// A text that is no [`Uuid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUuid;

impl fmt::Display for NotUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an identity; it has 32 hexadecimal digits, as in 01234567-89ab-cdef-0123-456789abcdef")
    }
}

impl std::error::Error for NotUuid {}
