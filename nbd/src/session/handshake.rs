//! The handshake: options until one enters transmission.
//!
//! Invariant kept here: each option gets its final reply before the next one is read, and a refused option changes nothing,
//! except that a refused choice of contexts leaves none chosen.

use super::{End, Limits, SessionError};
use crate::backend::{Backend, Exports};
use crate::codec::values::{handshake, info, option, reply, transmission};
use crate::codec::{
    BlockSizes, Greeting, Info, InfoRequest, MetaContext, MetaRequest, Mode, OptionHeader, OptionReply, ServerEntry,
    export_name_reply,
};
use crate::stream::{Incoming, Stream, send_all};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// What was agreed.
pub(super) struct Agreed {
    pub backend: Arc<dyn Backend>,
    pub mode: Mode,
    /// Numbers of the chosen contexts, ascending.
    pub contexts: Vec<u32>,
    pub flags: u16,
    pub sizes: BlockSizes,
}

pub(super) enum Outcome {
    Enter(Agreed),
    End(End),
}

/// Longest data of an option that is looked at; a longer one is left out and refused.
const MOST_DATA: u32 = Incoming::AHEAD as u32;
/// Longest data of an option that is left out; the client of a longer one is cut off.
const MOST_LEFT_OUT: u32 = 1 << 20;

struct Handshake<'a> {
    stream: &'a dyn Stream,
    exports: &'a dyn Exports,
    limits: Limits,
    mode: Mode,
    /// The export that contexts were chosen of, by the name that the client has for it.
    chosen: Option<(String, Arc<dyn Backend>, Vec<u32>)>,
    zeroes: bool,
}

/// A refused option: the type of the reply, and why.
type Refused = (u32, &'static str);

pub(super) fn run(
    stream: &dyn Stream,
    incoming: &mut Incoming,
    exports: &dyn Exports,
    limits: Limits,
) -> Result<Outcome, SessionError> {
    let known = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
    send_all(stream, &mut [IoSlice::new(&Greeting { flags: known }.encode())])?;
    let Some(flags) = incoming.next(stream, 4)? else { return Ok(Outcome::End(End::Closed)) };
    let flags = u32::from_be_bytes([flags[0], flags[1], flags[2], flags[3]]);
    if flags & !u32::from(known) != 0 {
        return Err(SessionError::Protocol("unknown client flags"));
    }
    let zeroes = flags & u32::from(handshake::NO_ZEROES) == 0;
    let mut state = Handshake { stream, exports, limits, mode: Mode::Simple, chosen: None, zeroes };
    loop {
        let Some(header) = incoming.next(stream, OptionHeader::BYTES)? else { return Ok(Outcome::End(End::Closed)) };
        let OptionHeader { option, length } = OptionHeader::parse(header)?;
        if length > MOST_LEFT_OUT {
            return Err(SessionError::Protocol("an option with more than 1 MiB of data"));
        }
        if length > MOST_DATA {
            incoming.skip(stream, length.into())?;
            if option == option::EXPORT_NAME {
                return Err(SessionError::Protocol("the name of an export is too long"));
            }
            state.refuse(option, (reply::ERR_TOO_BIG, "the option has more than 16 KiB of data"))?;
            continue;
        }
        let data = incoming.must(stream, length as usize)?;
        if let Some(outcome) = state.option(option, data)? {
            return Ok(outcome);
        }
    }
}

impl Handshake<'_> {
    fn reply(&self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let header = OptionReply { option, kind, length: data.len() as u32 }.encode();
        send_all(self.stream, &mut [IoSlice::new(&header), IoSlice::new(data)])
    }

    fn refuse(&self, option: u32, (kind, why): Refused) -> io::Result<()> {
        self.reply(option, kind, why.as_bytes())
    }

    /// Answers one option; an outcome ends the handshake.
    fn option(&mut self, option: u32, data: &[u8]) -> Result<Option<Outcome>, SessionError> {
        let done: Result<(), Refused> = match option {
            option::EXPORT_NAME => return self.export_name(data).map(Some),
            option::ABORT => {
                // The client may have gone without waiting.
                let _ = self.reply(option, reply::ACK, &[]);
                return Ok(Some(Outcome::End(End::Asked)));
            }
            option::INFO | option::GO => match self.info(option, data)? {
                Ok(Some(agreed)) => return Ok(Some(Outcome::Enter(agreed))),
                Ok(None) => return Ok(None),
                Err(refused) => Err(refused),
            },
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_contexts(option, data)?,
            option::LIST | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS | option::STARTTLS
                if !data.is_empty() =>
            {
                Err((reply::ERR_INVALID, "the option has no data"))
            }
            option::LIST => {
                for listed in self.exports.list() {
                    let entry = ServerEntry { name: listed.name, description: listed.description };
                    self.reply(option, reply::SERVER, &entry.encode())?;
                }
                Ok(())
            }
            option::STRUCTURED_REPLY if self.mode == Mode::Extended => {
                Err((reply::ERR_EXT_HEADER_REQD, "extended headers are in use"))
            }
            option::STRUCTURED_REPLY => {
                self.mode = Mode::Structured;
                Ok(())
            }
            option::EXTENDED_HEADERS => {
                self.mode = Mode::Extended;
                Ok(())
            }
            option::STARTTLS => Err((reply::ERR_POLICY, "this server has no TLS")),
            _ => Err((reply::ERR_UNSUP, "unknown option")),
        };
        match done {
            Ok(()) => self.reply(option, reply::ACK, &[])?,
            Err(refused) => self.refuse(option, refused)?,
        }
        Ok(None)
    }

    fn export_name(&mut self, data: &[u8]) -> Result<Outcome, SessionError> {
        // No errors can be told here: the connection ends.
        if self.mode == Mode::Extended {
            return Err(SessionError::Protocol("EXPORT_NAME with extended headers"));
        }
        let name = std::str::from_utf8(data).map_err(|_| SessionError::Protocol("a name that is not UTF-8"))?;
        let (_, backend) = self.open(name).ok_or(SessionError::Protocol("there is no such export"))?;
        let agreed = self.agree(name, backend);
        let reply = export_name_reply(agreed.backend.size(), agreed.flags, self.zeroes);
        send_all(self.stream, &mut [IoSlice::new(&reply)])?;
        Ok(Outcome::Enter(agreed))
    }

    /// The export of a name: the very one that contexts were chosen of, if there is.
    fn open(&self, name: &str) -> Option<(String, Arc<dyn Backend>)> {
        let (listed, opened) = self.exports.open(name)?;
        let chosen = self.chosen.as_ref().filter(|(chosen, ..)| chosen == name);
        Some((listed, chosen.map_or(opened, |(_, backend, _)| Arc::clone(backend))))
    }

    fn agree(&self, name: &str, backend: Arc<dyn Backend>) -> Agreed {
        let chosen = self.chosen.as_ref().filter(|(chosen, ..)| chosen == name);
        let contexts = chosen.map(|(.., contexts)| contexts.clone()).unwrap_or_default();
        let features = backend.features();
        let mut flags = transmission::HAS_FLAGS;
        let writable = !features.read_only;
        for (offered, flag) in [
            (features.read_only, transmission::READ_ONLY),
            (features.flush, transmission::SEND_FLUSH),
            (features.fua, transmission::SEND_FUA),
            (features.rotational, transmission::ROTATIONAL),
            (writable && features.trim, transmission::SEND_TRIM),
            (writable && features.write_zeroes, transmission::SEND_WRITE_ZEROES),
            (writable && features.write_zeroes && features.fast_zero, transmission::SEND_FAST_ZERO),
            (features.cache, transmission::SEND_CACHE),
            (features.multi_conn, transmission::CAN_MULTI_CONN),
            (self.mode >= Mode::Structured, transmission::SEND_DF),
            (self.mode == Mode::Extended && !contexts.is_empty(), transmission::BLOCK_STATUS_PAYLOAD),
        ] {
            flags |= if offered { flag } else { 0 };
        }
        let mut sizes = backend.block_sizes();
        let most = self.limits.payload / sizes.minimum.max(1) * sizes.minimum.max(1);
        sizes.maximum = sizes.maximum.min(most);
        Agreed { backend, mode: self.mode, contexts, flags, sizes }
    }

    fn info(&self, option: u32, data: &[u8]) -> io::Result<Result<Option<Agreed>, Refused>> {
        let Ok(request) = InfoRequest::parse(data) else {
            return Ok(Err((reply::ERR_INVALID, "the data of the option makes no sense")));
        };
        let Some((listed, backend)) = self.open(&request.name) else {
            return Ok(Err((reply::ERR_UNKNOWN, "there is no such export")));
        };
        let agreed = self.agree(&request.name, backend);
        let mut pieces = vec![Info::Export { size: agreed.backend.size(), flags: agreed.flags }];
        if request.wanted.contains(&info::NAME) {
            pieces.push(Info::Name(listed));
        }
        if request.wanted.contains(&info::DESCRIPTION) {
            pieces.push(Info::Description(agreed.backend.description()));
        }
        // Of use to a client that did not ask as well.
        pieces.push(Info::BlockSizes(agreed.sizes));
        for piece in pieces {
            self.reply(option, reply::INFO, &piece.encode())?;
        }
        self.reply(option, reply::ACK, &[])?;
        Ok(Ok((option == option::GO).then_some(agreed)))
    }

    fn meta_contexts(&mut self, option: u32, data: &[u8]) -> io::Result<Result<(), Refused>> {
        let set = option == option::SET_META_CONTEXT;
        if set {
            self.chosen = None;
        }
        if self.mode == Mode::Simple {
            return Ok(Err((reply::ERR_INVALID, "contexts need structured replies or extended headers")));
        }
        let Ok(request) = MetaRequest::parse(data) else {
            return Ok(Err((reply::ERR_INVALID, "the data of the option makes no sense")));
        };
        if !request.queries.iter().all(|query| query.contains(':')) {
            return Ok(Err((reply::ERR_INVALID, "a context has no namespace")));
        }
        let Some((_, backend)) = self.exports.open(&request.name) else {
            return Ok(Err((reply::ERR_UNKNOWN, "there is no such export")));
        };
        let mut found = Vec::new();
        for (id, name) in backend.contexts().into_iter().enumerate() {
            let asked =
                |query: &String| *query == name || (!set && query.ends_with(':') && name.starts_with(query.as_str()));
            if request.queries.iter().any(asked) || (!set && request.queries.is_empty()) {
                let id = id as u32;
                // In a list, the number means nothing.
                let context = MetaContext { id: if set { id } else { 0 }, name };
                self.reply(option, reply::META_CONTEXT, &context.encode())?;
                found.push(id);
            }
        }
        if set {
            self.chosen = Some((request.name, backend, found));
        }
        Ok(Ok(()))
    }
}
