//! The client's side of the handshake.

use super::Error;
use super::reply::Client;
use crate::codec::values::{handshake, info, option, reply};
use crate::codec::{
    BlockSizes, Greeting, Info, InfoRequest, MetaContext, MetaRequest, Mode, OptionHeader, OptionReply, ServerEntry,
    parse_export_name_reply,
};
use crate::stream::{Incoming, Stream, send_all};
use std::io::IoSlice;

/// What a server says of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Block sizes, if the server said them.
    pub block_sizes: Option<BlockSizes>,
    /// The name by which it is listed, if the server said it.
    pub name: Option<String>,
    /// For people, if the server said it.
    pub description: Option<String>,
}

/// A connection whose options are still open.
pub struct Negotiation {
    stream: Box<dyn Stream>,
    incoming: Incoming,
    mode: Mode,
    contexts: Vec<MetaContext>,
}

/// Longest data of a reply to an option that a client takes.
const MOST_DATA: u32 = Incoming::AHEAD as u32;
/// Replies to one option at most.
const MOST_REPLIES: usize = 1 << 16;

impl Negotiation {
    /// Greets the server. A server that knows no options that have replies is refused.
    pub fn start(stream: Box<dyn Stream>) -> Result<Self, Error> {
        let mut incoming = Incoming::new();
        let greeting = Greeting::parse(incoming.must(&*stream, Greeting::BYTES)?)?;
        if greeting.flags & handshake::FIXED_NEWSTYLE == 0 {
            return Err(Error::Protocol("the server does not speak fixed newstyle"));
        }
        let flags = u32::from(greeting.flags & (handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES));
        send_all(&*stream, &mut [IoSlice::new(&flags.to_be_bytes())])?;
        Ok(Self { stream, incoming, mode: Mode::Simple, contexts: Vec::new() })
    }

    fn send(&self, option: u32, data: &[u8]) -> Result<(), Error> {
        let header = OptionHeader { option, length: data.len() as u32 }.encode();
        Ok(send_all(&*self.stream, &mut [IoSlice::new(&header), IoSlice::new(data)])?)
    }

    /// Sends an option and gives `each` the replies of one type until the last one.
    fn ask(
        &mut self,
        option: u32,
        data: &[u8],
        wanted: u32,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.send(option, data)?;
        for _ in 0..MOST_REPLIES {
            let header = OptionReply::parse(self.incoming.must(&*self.stream, OptionReply::BYTES)?)?;
            if header.option != option {
                return Err(Error::Protocol("a reply to another option"));
            }
            if header.length > MOST_DATA {
                return Err(Error::Protocol("a reply with more than 16 KiB of data"));
            }
            let data = self.incoming.must(&*self.stream, header.length as usize)?;
            match header.kind {
                reply::ACK => return Ok(()),
                kind if kind & reply::ERROR != 0 => {
                    let message = String::from_utf8_lossy(data).into_owned();
                    return Err(Error::Refused { option, kind, message });
                }
                kind if kind == wanted => each(data)?,
                _ => return Err(Error::Protocol("a reply of a type that the option does not have")),
            }
        }
        Err(Error::Protocol("more replies than a client takes"))
    }

    /// Any option, with any data, without replies that bring anything.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Result<(), Error> {
        self.ask(option, data, reply::ACK, |_| Ok(()))
    }

    /// The exports, by name, and what is said of each for people.
    pub fn list(&mut self) -> Result<Vec<ServerEntry>, Error> {
        let mut entries = Vec::new();
        self.ask(option::LIST, &[], reply::SERVER, |data| {
            entries.push(ServerEntry::parse(data)?);
            Ok(())
        })?;
        Ok(entries)
    }

    /// Asks for replies in chunks.
    pub fn structured_reply(&mut self) -> Result<(), Error> {
        self.option(option::STRUCTURED_REPLY, &[])?;
        self.mode = self.mode.max(Mode::Structured);
        Ok(())
    }

    /// Asks for extended headers.
    pub fn extended_headers(&mut self) -> Result<(), Error> {
        self.option(option::EXTENDED_HEADERS, &[])?;
        self.mode = Mode::Extended;
        Ok(())
    }

    fn meta(&mut self, option: u32, export: &str, queries: &[String]) -> Result<Vec<MetaContext>, Error> {
        let request = MetaRequest { name: export.into(), queries: queries.to_vec() };
        let mut found = Vec::new();
        self.ask(option, &request.encode(), reply::META_CONTEXT, |data| {
            found.push(MetaContext::parse(data)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// The contexts that an export has, of those that are asked for; of all, if none are. `qemu:` asks for all of a
    /// namespace.
    pub fn list_meta_context(&mut self, export: &str, queries: &[String]) -> Result<Vec<MetaContext>, Error> {
        self.meta(option::LIST_META_CONTEXT, export, queries)
    }

    /// Chooses contexts for [`Client::block_status`]. Returns those that the export has; earlier ones are forgotten.
    pub fn set_meta_context(&mut self, export: &str, contexts: &[String]) -> Result<&[MetaContext], Error> {
        self.contexts.clear();
        self.contexts = self.meta(option::SET_META_CONTEXT, export, contexts)?;
        Ok(&self.contexts)
    }

    fn info_or_go(&mut self, option: u32, export: &str) -> Result<ExportInfo, Error> {
        let wanted = vec![info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
        let request = InfoRequest { name: export.into(), wanted };
        let mut found = ExportInfo::default();
        let mut has_size = false;
        self.ask(option, &request.encode(), reply::INFO, |data| {
            match Info::parse(data)? {
                Info::Export { size, flags } => (found.size, found.flags, has_size) = (size, flags, true),
                Info::Name(name) => found.name = Some(name),
                Info::Description(text) => found.description = Some(text),
                Info::BlockSizes(sizes) => found.block_sizes = Some(sizes),
                Info::Unknown(_) => {}
            }
            Ok(())
        })?;
        if has_size { Ok(found) } else { Err(Error::Protocol("the server did not say the size of the export")) }
    }

    /// What the server says of an export.
    pub fn info(&mut self, export: &str) -> Result<ExportInfo, Error> {
        self.info_or_go(option::INFO, export)
    }

    /// Enters transmission.
    pub fn go(mut self, export: &str) -> Result<Client, Error> {
        let info = self.info_or_go(option::GO, export)?;
        Ok(Client::new(self.stream, self.incoming, self.mode, info, self.contexts))
    }

    /// Enters transmission by the old option, which tells no errors: the server closes the connection instead.
    pub fn export_name(mut self, export: &str) -> Result<Client, Error> {
        self.send(option::EXPORT_NAME, export.as_bytes())?;
        let (size, flags) = parse_export_name_reply(self.incoming.must(&*self.stream, 10)?)?;
        let info = ExportInfo { size, flags, ..ExportInfo::default() };
        Ok(Client::new(self.stream, self.incoming, self.mode, info, self.contexts))
    }

    /// Ends the session.
    pub fn abort(mut self) -> Result<(), Error> {
        let asked = self.option(option::ABORT, &[]);
        self.stream.close();
        asked
    }
}
