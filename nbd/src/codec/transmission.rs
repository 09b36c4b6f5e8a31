//! Messages of the transmission.

use super::values::{self, chunk};
use super::{Bytes, Malformed};

/// The form of requests and replies, as the handshake agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Simple replies only.
    Simple,
    /// Replies in chunks.
    Structured,
    /// Replies in chunks, and headers with lengths of 64 bits.
    Extended,
}

/// A request, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Flags of the command.
    pub flags: u16,
    /// The command.
    pub command: u16,
    /// What the client knows the request by; replies repeat it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes: of the range, or of the payload. Without extended headers it has 32 bits.
    pub length: u64,
}

impl Request {
    /// Its length in bytes.
    pub const fn bytes(mode: Mode) -> usize {
        if matches!(mode, Mode::Extended) { 32 } else { 28 }
    }

    /// To bytes. Without extended headers, a length of more than 32 bits cannot be said.
    pub fn encode(&self, mode: Mode) -> Result<Vec<u8>, Malformed> {
        let magic = if mode == Mode::Extended { values::EXTENDED_REQUEST_MAGIC } else { values::REQUEST_MAGIC };
        let mut out = Vec::with_capacity(Self::bytes(mode));
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.command.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        if mode == Mode::Extended {
            out.extend_from_slice(&self.length.to_be_bytes());
        } else {
            let length = u32::try_from(self.length).map_err(|_| Malformed("a length of more than 32 bits"))?;
            out.extend_from_slice(&length.to_be_bytes());
        }
        Ok(out)
    }

    /// From bytes.
    #[inline]
    pub fn parse(bytes: &[u8], mode: Mode) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        let extended = mode == Mode::Extended;
        bytes.magic32(if extended { values::EXTENDED_REQUEST_MAGIC } else { values::REQUEST_MAGIC })?;
        let request = Self {
            flags: bytes.u16()?,
            command: bytes.u16()?,
            cookie: bytes.u64()?,
            offset: bytes.u64()?,
            length: if extended { bytes.u64()? } else { bytes.u32()?.into() },
        };
        bytes.end()?;
        Ok(request)
    }
}

/// What a reply, or a chunk of one, begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHeader {
    /// A simple reply. The data of a read follows if there is no error.
    Simple {
        /// 0, or an error.
        error: u32,
        /// That of the request.
        cookie: u64,
    },
    /// A chunk.
    Chunk {
        /// [`chunk::DONE`] or not.
        flags: u16,
        /// The type of the chunk.
        kind: u16,
        /// That of the request.
        cookie: u64,
        /// That of the request; only extended headers say it.
        offset: u64,
        /// Bytes of payload that follow. Without extended headers it has 32 bits.
        length: u64,
    },
}

impl ReplyHeader {
    /// Bytes that tell how long the rest of the header is: all of a simple reply.
    pub const FIRST: usize = 16;

    /// To bytes, at the end of `out`.
    #[inline]
    pub fn encode(&self, mode: Mode, out: &mut Vec<u8>) {
        match *self {
            Self::Simple { error, cookie } => {
                out.extend_from_slice(&values::SIMPLE_REPLY_MAGIC.to_be_bytes());
                out.extend_from_slice(&error.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
            }
            Self::Chunk { flags, kind, cookie, offset, length } => {
                let extended = mode == Mode::Extended;
                let magic = if extended { values::EXTENDED_REPLY_MAGIC } else { values::STRUCTURED_REPLY_MAGIC };
                out.extend_from_slice(&magic.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
                out.extend_from_slice(&kind.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
                if extended {
                    out.extend_from_slice(&offset.to_be_bytes());
                    out.extend_from_slice(&length.to_be_bytes());
                } else {
                    out.extend_from_slice(&(length as u32).to_be_bytes());
                }
            }
        }
    }

    /// Length of the whole header, from its [first](Self::FIRST) bytes; refuses what the mode does not allow.
    pub fn bytes(first: &[u8], mode: Mode) -> Result<usize, Malformed> {
        match (Bytes(first).u32()?, mode) {
            (values::SIMPLE_REPLY_MAGIC, Mode::Simple | Mode::Structured) => Ok(16),
            (values::STRUCTURED_REPLY_MAGIC, Mode::Structured) => Ok(20),
            (values::EXTENDED_REPLY_MAGIC, Mode::Extended) => Ok(32),
            _ => Err(Malformed("the magic number of a reply is wrong")),
        }
    }

    /// From bytes: the whole header.
    pub fn parse(bytes: &[u8], mode: Mode) -> Result<Self, Malformed> {
        let whole = Self::bytes(bytes, mode)?;
        let mut bytes = Bytes(bytes);
        bytes.u32()?;
        let header = match whole {
            16 => Self::Simple { error: bytes.u32()?, cookie: bytes.u64()? },
            20 => {
                let (flags, kind, cookie) = (bytes.u16()?, bytes.u16()?, bytes.u64()?);
                Self::Chunk { flags, kind, cookie, offset: 0, length: bytes.u32()?.into() }
            }
            _ => Self::Chunk {
                flags: bytes.u16()?,
                kind: bytes.u16()?,
                cookie: bytes.u64()?,
                offset: bytes.u64()?,
                length: bytes.u64()?,
            },
        };
        bytes.end()?;
        Ok(header)
    }
}

/// The payload of a chunk that is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoleChunk {
    /// First byte.
    pub offset: u64,
    /// Bytes, not 0.
    pub length: u32,
}

impl HoleChunk {
    /// To bytes.
    pub fn encode(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..8].copy_from_slice(&self.offset.to_be_bytes());
        out[8..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// From bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        let hole = Self { offset: bytes.u64()?, length: bytes.u32()? };
        bytes.end()?;
        if hole.length == 0 { Err(Malformed("an empty hole")) } else { Ok(hole) }
    }
}

/// The payload of a chunk that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorChunk {
    /// The error, not 0.
    pub error: u32,
    /// For people; may be empty.
    pub message: String,
    /// Where it happened, in a chunk of type [`chunk::ERROR_OFFSET`].
    pub offset: Option<u64>,
}

impl ErrorChunk {
    /// The type of its chunk.
    pub fn kind(&self) -> u16 {
        if self.offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR }
    }

    /// To bytes. A message longer than a string may be is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut most = self.message.len().min(values::MAX_STRING);
        while !self.message.is_char_boundary(most) {
            most -= 1;
        }
        let mut out = self.error.to_be_bytes().to_vec();
        out.extend_from_slice(&(most as u16).to_be_bytes());
        out.extend_from_slice(&self.message.as_bytes()[..most]);
        out.extend(self.offset.iter().flat_map(|offset| offset.to_be_bytes()));
        out
    }

    /// From bytes. Of an error type that is not known, only what all types have is read.
    pub fn parse(bytes: &[u8], kind: u16) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        let error = bytes.u32()?;
        let length = bytes.u16()?.into();
        let message = bytes.text(length)?;
        let offset = if kind == chunk::ERROR_OFFSET { Some(bytes.u64()?) } else { None };
        if [chunk::ERROR, chunk::ERROR_OFFSET].contains(&kind) {
            bytes.end()?;
        }
        if error == 0 { Err(Malformed("an error that is none")) } else { Ok(Self { error, message, offset }) }
    }
}

/// A stretch with one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, not 0.
    pub length: u64,
    /// The state, as the context defines it.
    pub flags: u32,
}

/// The payload of a chunk with extents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChunk {
    /// The context.
    pub context: u32,
    /// One after the other, from the offset of the request on.
    pub extents: Vec<Extent>,
}

impl StatusChunk {
    /// The type of its chunk.
    pub fn kind(mode: Mode) -> u16 {
        if mode == Mode::Extended { chunk::BLOCK_STATUS_EXT } else { chunk::BLOCK_STATUS }
    }

    /// To bytes. Without extended headers the extents end before the first byte that 32 bits cannot say.
    pub fn encode(&self, mode: Mode) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.extents.len() * 16);
        out.extend_from_slice(&self.context.to_be_bytes());
        if mode == Mode::Extended {
            out.extend_from_slice(&(self.extents.len() as u32).to_be_bytes());
        }
        for extent in &self.extents {
            if mode == Mode::Extended {
                out.extend_from_slice(&extent.length.to_be_bytes());
                out.extend_from_slice(&u64::from(extent.flags).to_be_bytes());
            } else {
                // A multiple of every block size that there is.
                let length = u32::try_from(extent.length).unwrap_or(!0xffff);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(&extent.flags.to_be_bytes());
                if u64::from(length) < extent.length {
                    break;
                }
            }
        }
        out
    }

    /// From bytes: a chunk of type `kind`.
    pub fn parse(bytes: &[u8], kind: u16) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        let context = bytes.u32()?;
        let wide = kind == chunk::BLOCK_STATUS_EXT;
        let said = if wide { bytes.u32()? as usize } else { 0 };
        let each = if wide { 16 } else { 8 };
        let count = bytes.0.len() / each;
        if count == 0 || !bytes.0.len().is_multiple_of(each) || (said != 0 && said != count) {
            return Err(Malformed("the number of extents is wrong"));
        }
        let extent = |_| {
            let (length, flags) =
                if wide { (bytes.u64()?, bytes.u64()?) } else { (bytes.u32()?.into(), bytes.u32()?.into()) };
            let flags = u32::try_from(flags).map_err(|_| Malformed("the padding of an extent is not zero"))?;
            if length == 0 { Err(Malformed("an empty extent")) } else { Ok(Extent { length, flags }) }
        };
        Ok(Self { context, extents: (0..count).map(extent).collect::<Result<_, _>>()? })
    }
}

/// The payload of a request `BLOCK_STATUS` that has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusPayload {
    /// Bytes that the request asks about.
    pub length: u64,
    /// The contexts that it asks for.
    pub contexts: Vec<u32>,
}

impl StatusPayload {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.length.to_be_bytes().to_vec();
        self.contexts.iter().for_each(|id| out.extend_from_slice(&id.to_be_bytes()));
        out
    }

    /// From bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        let length = bytes.u64()?;
        if !bytes.0.len().is_multiple_of(4) {
            return Err(Malformed("a piece of a context's number"));
        }
        let contexts = (0..bytes.0.len() / 4).map(|_| bytes.u32()).collect::<Result<_, _>>()?;
        Ok(Self { length, contexts })
    }
}
