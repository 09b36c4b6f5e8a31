//! Messages of the handshake.

use super::values::{IHAVEOPT, NBDMAGIC, OPTION_REPLY_MAGIC, info};
use super::{Bytes, Malformed, put_text};

/// What a server says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Handshake flags.
    pub flags: u16,
}

impl Greeting {
    /// Its length in bytes.
    pub const BYTES: usize = 18;

    /// To bytes.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&NBDMAGIC.to_be_bytes());
        out[8..16].copy_from_slice(&IHAVEOPT.to_be_bytes());
        out[16..].copy_from_slice(&self.flags.to_be_bytes());
        out
    }

    /// From bytes; an oldstyle greeting is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        bytes.magic64(NBDMAGIC)?;
        bytes.magic64(IHAVEOPT).map_err(|_| Malformed("the server does not speak newstyle"))?;
        let flags = bytes.u16()?;
        bytes.end()?;
        Ok(Self { flags })
    }
}

/// What stands before the data of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option.
    pub option: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Its length in bytes.
    pub const BYTES: usize = 16;

    /// To bytes.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&IHAVEOPT.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.to_be_bytes());
        out[12..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// From bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        bytes.magic64(IHAVEOPT)?;
        let header = Self { option: bytes.u32()?, length: bytes.u32()? };
        bytes.end()?;
        Ok(header)
    }
}

/// What stands before the data of a reply to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReply {
    /// The option that is replied to.
    pub option: u32,
    /// The type of the reply.
    pub kind: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionReply {
    /// Its length in bytes.
    pub const BYTES: usize = 20;

    /// To bytes.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.to_be_bytes());
        out[12..16].copy_from_slice(&self.kind.to_be_bytes());
        out[16..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// From bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        bytes.magic64(OPTION_REPLY_MAGIC)?;
        let header = Self { option: bytes.u32()?, kind: bytes.u32()?, length: bytes.u32()? };
        bytes.end()?;
        Ok(header)
    }
}

/// The data of `INFO` and `GO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoRequest {
    /// The export; empty is the default one.
    pub name: String,
    /// Pieces of information that are asked for.
    pub wanted: Vec<u16>,
}

impl InfoRequest {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, &self.name);
        out.extend_from_slice(&(self.wanted.len() as u16).to_be_bytes());
        self.wanted.iter().for_each(|wanted| out.extend_from_slice(&wanted.to_be_bytes()));
        out
    }

    /// From bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        let name = bytes.counted_text()?;
        let count = usize::from(bytes.u16()?);
        let mut list = Bytes(bytes.take(count * 2)?);
        bytes.end()?;
        let wanted = (0..count).map(|_| list.u16()).collect::<Result<_, _>>()?;
        Ok(Self { name, wanted })
    }
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaRequest {
    /// The export.
    pub name: String,
    /// Names of contexts, or what a namespace takes for a query.
    pub queries: Vec<String>,
}

impl MetaRequest {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, &self.name);
        out.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        self.queries.iter().for_each(|query| put_text(&mut out, query));
        out
    }

    /// From bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        let name = bytes.counted_text()?;
        let count = bytes.u32()? as usize;
        // Each query has at least its length.
        if count > bytes.0.len() / 4 {
            return Err(Malformed("more queries than the option has room for"));
        }
        let queries = (0..count).map(|_| bytes.counted_text()).collect::<Result<_, _>>()?;
        bytes.end()?;
        Ok(Self { name, queries })
    }
}

/// The data of a reply to `LIST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerEntry {
    /// The export.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

impl ServerEntry {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, &self.name);
        out.extend_from_slice(self.description.as_bytes());
        out
    }

    /// From bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        let name = bytes.counted_text()?;
        let description = bytes.rest_as_text()?;
        Ok(Self { name, description })
    }
}

/// The data of a reply to `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaContext {
    /// What `BLOCK_STATUS` calls it.
    pub id: u32,
    /// Its name, with the namespace.
    pub name: String,
}

impl MetaContext {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.id.to_be_bytes().to_vec();
        out.extend_from_slice(self.name.as_bytes());
        out
    }

    /// From bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        Ok(Self { id: bytes.u32()?, name: bytes.rest_as_text()? })
    }
}

/// What lengths and offsets an export takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// All offsets and lengths are multiples of it; a power of two, 64 KiB at most.
    pub minimum: u32,
    /// Multiples of it are quick; a power of two, at least 512.
    pub preferred: u32,
    /// Longest payload of a request or reply.
    pub maximum: u32,
}

impl Default for BlockSizes {
    /// What holds where nothing was said: any byte, 4 KiB, 32 MiB.
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: super::values::DEFAULT_MAX_PAYLOAD }
    }
}

/// The data of a reply `INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    /// Size in bytes, and transmission flags.
    Export {
        /// Bytes.
        size: u64,
        /// Transmission flags.
        flags: u16,
    },
    /// The name by which the export is listed.
    Name(String),
    /// A description for people.
    Description(String),
    /// Block sizes.
    BlockSizes(BlockSizes),
    /// A piece that this crate does not know.
    Unknown(u16),
}

impl Info {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
        match self {
            Self::Export { size, flags } => {
                put(&[&info::EXPORT.to_be_bytes(), &size.to_be_bytes(), &flags.to_be_bytes()]);
            }
            Self::Name(name) => put(&[&info::NAME.to_be_bytes(), name.as_bytes()]),
            Self::Description(text) => put(&[&info::DESCRIPTION.to_be_bytes(), text.as_bytes()]),
            Self::BlockSizes(sizes) => put(&[
                &info::BLOCK_SIZE.to_be_bytes(),
                &sizes.minimum.to_be_bytes(),
                &sizes.preferred.to_be_bytes(),
                &sizes.maximum.to_be_bytes(),
            ]),
            Self::Unknown(kind) => put(&[&kind.to_be_bytes()]),
        }
        out
    }

    /// From bytes. What follows an unknown type is left out.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        let parsed = match bytes.u16()? {
            info::EXPORT => Self::Export { size: bytes.u64()?, flags: bytes.u16()? },
            info::NAME => Self::Name(bytes.rest_as_text()?),
            info::DESCRIPTION => Self::Description(bytes.rest_as_text()?),
            info::BLOCK_SIZE => {
                Self::BlockSizes(BlockSizes { minimum: bytes.u32()?, preferred: bytes.u32()?, maximum: bytes.u32()? })
            }
            other => return Ok(Self::Unknown(other)),
        };
        bytes.end()?;
        Ok(parsed)
    }
}

/// The reply to `EXPORT_NAME`: size in bytes, transmission flags, and 124 zeroes if the client wants them.
pub fn export_name_reply(size: u64, flags: u16, zeroes: bool) -> Vec<u8> {
    let mut out = size.to_be_bytes().to_vec();
    out.extend_from_slice(&flags.to_be_bytes());
    out.resize(if zeroes { 134 } else { 10 }, 0);
    out
}

/// Size in bytes and transmission flags, from the first 10 bytes of the reply to `EXPORT_NAME`.
pub fn parse_export_name_reply(bytes: &[u8]) -> Result<(u64, u16), Malformed> {
    let mut bytes = Bytes(bytes);
    let parsed = (bytes.u64()?, bytes.u16()?);
    bytes.end()?;
    Ok(parsed)
}
