//! Bytes to messages and back: pure functions, no I/O.
//!
//! Invariant kept here: no length that a peer sent makes anything grow. What is parsed is a slice that the caller has read
//! already, within limits of its own; what is kept of it is never larger than the slice.

mod handshake;
mod transmission;
pub mod values;

pub use handshake::{
    BlockSizes, Greeting, Info, InfoRequest, MetaContext, MetaRequest, OptionHeader, OptionReply, ServerEntry,
    export_name_reply, parse_export_name_reply,
};
pub use transmission::{ErrorChunk, Extent, HoleChunk, Mode, ReplyHeader, Request, StatusChunk, StatusPayload};

/// Bytes that are no message of the protocol; says what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// What is left of a message.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Malformed("the message ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn magic32(&mut self, magic: u32) -> Result<(), Malformed> {
        if self.u32()? == magic { Ok(()) } else { Err(Malformed("the magic number is wrong")) }
    }

    fn magic64(&mut self, magic: u64) -> Result<(), Malformed> {
        if self.u64()? == magic { Ok(()) } else { Err(Malformed("the magic number is wrong")) }
    }

    /// A string of `n` bytes.
    fn text(&mut self, n: usize) -> Result<String, Malformed> {
        if n > values::MAX_STRING {
            return Err(Malformed("a string is longer than 4096 bytes"));
        }
        let text = std::str::from_utf8(self.take(n)?).map_err(|_| Malformed("a string is not UTF-8"))?;
        if text.contains('\0') { Err(Malformed("a string contains NUL")) } else { Ok(text.to_owned()) }
    }

    /// A string behind its length.
    fn counted_text(&mut self) -> Result<String, Malformed> {
        let n = self.u32()? as usize;
        self.text(n)
    }

    fn rest_as_text(&mut self) -> Result<String, Malformed> {
        self.text(self.0.len())
    }

    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("the message goes on after its end")) }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
