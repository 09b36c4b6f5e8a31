//! The numbers of the protocol, by the names that its document gives them.

/// What a server says first: `NBDMAGIC`.
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// What opens an option: `IHAVEOPT`.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// What opens the reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// What opens a request with a length of 32 bits.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// What opens a request with a length of 64 bits.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// What opens a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// What opens a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// What opens a chunk with an extended header.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Longest string of the protocol, in bytes.
pub const MAX_STRING: usize = 4096;
/// Longest payload that a peer takes who was told nothing else, in bytes.
pub const DEFAULT_MAX_PAYLOAD: u32 = 32 << 20;
/// The port that is NBD's.
pub const PORT: u16 = 10809;

/// Handshake flags: of the server (16 bits), and the same bits of the client (32 bits).
pub mod handshake {
    /// Options have replies.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// No 124 bytes of zeroes after `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Options of the handshake.
pub mod option {
    /// Enter transmission; no errors can be told.
    pub const EXPORT_NAME: u32 = 1;
    /// End the session.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Go on inside TLS.
    pub const STARTTLS: u32 = 5;
    /// Tell about an export.
    pub const INFO: u32 = 6;
    /// Tell about an export and enter transmission.
    pub const GO: u32 = 7;
    /// Replies come in chunks.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List the contexts of an export.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose contexts for `BLOCK_STATUS`.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Lengths have 64 bits.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export.
    pub const SERVER: u32 = 2;
    /// A piece of information on an export.
    pub const INFO: u32 = 3;
    /// A context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in all errors.
    pub const ERROR: u32 = 1 << 31;
    /// The server does not know the option.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// The server's rules forbid it.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// The option makes no sense.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// Not on this platform.
    pub const ERR_PLATFORM: u32 = ERROR | 4;
    /// Only inside TLS.
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// The server is stopping.
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// The client has to ask for block sizes.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR | 8;
    /// The option's data is too long.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
    /// Extended headers are in use, or are needed.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
}

/// Pieces of information on an export.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The name by which it is listed.
    pub const NAME: u16 = 1;
    /// A description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Smallest, preferred and largest block.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export offers.
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// No writes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH`.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The flag `FUA`.
    pub const SEND_FUA: u16 = 1 << 3;
    /// A disk that turns.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// `TRIM`.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` and the flag `NO_HOLE`.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The flag `DF`.
    pub const SEND_DF: u16 = 1 << 7;
    /// Several connections see one cache.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `CACHE`.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The flag `FAST_ZERO`.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// `BLOCK_STATUS` with a payload that chooses contexts.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Commands of the transmission.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// End the session.
    pub const DISC: u16 = 2;
    /// Make durable what was acknowledged.
    pub const FLUSH: u16 = 3;
    /// What is there is not needed any more.
    pub const TRIM: u16 = 4;
    /// It will be read soon.
    pub const CACHE: u16 = 5;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// The state of a range, by contexts.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of commands.
pub mod flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// Zeroes are written as data.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One chunk of content at most.
    pub const DF: u16 = 1 << 2;
    /// One extent for each context.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zeroes only if that is quicker than a write.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// With extended headers: the length is that of a payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Chunks of replies.
pub mod chunk {
    /// The flag of the last chunk.
    pub const DONE: u16 = 1 << 0;
    /// Nothing more to say.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of a context, lengths of 32 bits.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents of a context, lengths of 64 bits.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Set in all errors.
    pub const IS_ERROR: u16 = 1 << 15;
    /// An error.
    pub const ERROR: u16 = IS_ERROR | 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = IS_ERROR | 2;
}

/// States of extents in the context [`ALLOCATION`](allocation::NAME).
pub mod allocation {
    /// The name of the context.
    pub const NAME: &str = "base:allocation";
    /// Nothing is allocated there.
    pub const HOLE: u32 = 1 << 0;
    /// It reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}
