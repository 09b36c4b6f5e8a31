//! The codec: bytes as the protocol's document has them, and whatever is encoded is parsed back.

use dirtymap_nbd::codec::values::{chunk, command, flag, info, option, reply};
use dirtymap_nbd::codec::*;
use proptest::prelude::*;

/// `"4e42 44"` as bytes.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("hex") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn the_handshake_has_the_bytes_of_the_document() {
    assert_eq!(Greeting { flags: 3 }.encode().to_vec(), hex("4e42444d41474943 49484156454f5054 0003"));
    let go = InfoRequest { name: "disk".into(), wanted: vec![info::BLOCK_SIZE] };
    let header = OptionHeader { option: option::GO, length: go.encode().len() as u32 };
    assert_eq!(header.encode().to_vec(), hex("49484156454f5054 00000007 0000000c"));
    assert_eq!(go.encode(), hex("00000004 6469736b 0001 0003"));
    let reply = OptionReply { option: option::GO, kind: reply::INFO, length: 12 };
    assert_eq!(reply.encode().to_vec(), hex("0003e889045565a9 00000007 00000003 0000000c"));
    assert_eq!(Info::Export { size: 1 << 20, flags: 0x6d }.encode(), hex("0000 0000000000100000 006d"));
    let sizes = BlockSizes { minimum: 512, preferred: 4096, maximum: 32 << 20 };
    assert_eq!(Info::BlockSizes(sizes).encode(), hex("0003 00000200 00001000 02000000"));
    assert_eq!(Info::Name("a".into()).encode(), hex("0001 61"));
    assert_eq!(Info::Description("b".into()).encode(), hex("0002 62"));
    let meta = MetaRequest { name: "d".into(), queries: vec!["x:y".into()] };
    assert_eq!(meta.encode(), hex("00000001 64 00000001 00000003 783a79"));
    assert_eq!(MetaContext { id: 2, name: "x:y".into() }.encode(), hex("00000002 783a79"));
    assert_eq!(ServerEntry { name: "d".into(), description: "e".into() }.encode(), hex("00000001 64 65"));
    assert_eq!(export_name_reply(5, 1, false), hex("0000000000000005 0001"));
    assert_eq!(export_name_reply(5, 1, true).len(), 134);
    assert_eq!(reply::ERR_EXT_HEADER_REQD, 0x8000_000a);
}

#[test]
fn the_transmission_has_the_bytes_of_the_document() {
    let request = Request { flags: flag::FUA, command: command::TRIM, cookie: 0x0102_0304, offset: 512, length: 1024 };
    let compact = hex("25609513 0001 0004 0000000001020304 0000000000000200 00000400");
    assert_eq!(request.encode(Mode::Simple), Ok(compact.clone()));
    assert_eq!(request.encode(Mode::Structured), Ok(compact));
    let extended = hex("21e41c71 0001 0004 0000000001020304 0000000000000200 0000000000000400");
    assert_eq!(request.encode(Mode::Extended), Ok(extended));
    let encoded = |header: ReplyHeader, mode| {
        let mut out = Vec::new();
        header.encode(mode, &mut out);
        out
    };
    let simple = ReplyHeader::Simple { error: 28, cookie: 7 };
    assert_eq!(encoded(simple, Mode::Structured), hex("67446698 0000001c 0000000000000007"));
    let data = ReplyHeader::Chunk { flags: 1, kind: chunk::OFFSET_DATA, cookie: 7, offset: 9, length: 10 };
    assert_eq!(encoded(data, Mode::Structured), hex("668e33ef 0001 0001 0000000000000007 0000000a"));
    let wide = hex("6e8a278c 0001 0001 0000000000000007 0000000000000009 000000000000000a");
    assert_eq!(encoded(data, Mode::Extended), wide);
    assert_eq!(HoleChunk { offset: 4096, length: 512 }.encode().to_vec(), hex("0000000000001000 00000200"));
    let error = ErrorChunk { error: 5, message: "no".into(), offset: Some(3) };
    assert_eq!(error.encode(), hex("00000005 0002 6e6f 0000000000000003"));
    assert_eq!((error.kind(), chunk::ERROR), (0x8002, 0x8001));
    let status = StatusChunk { context: 1, extents: vec![Extent { length: 512, flags: 3 }] };
    assert_eq!(status.encode(Mode::Structured), hex("00000001 00000200 00000003"));
    assert_eq!(status.encode(Mode::Extended), hex("00000001 00000001 0000000000000200 00000000 00000003"));
    assert_eq!(StatusPayload { length: 512, contexts: vec![4] }.encode(), hex("0000000000000200 00000004"));
}

#[test]
fn what_is_no_message_is_refused() {
    // An oldstyle greeting.
    assert!(Greeting::parse(&hex("4e42444d41474943 0000420281861253 0000")).is_err());
    assert!(OptionHeader::parse(&hex("49484156454f5055 00000007 00000000")).is_err());
    assert!(
        Request::parse(&hex("25609514 0001 0004 0000000001020304 0000000000000200 00000400"), Mode::Simple).is_err()
    );
    // Lengths that lead outside, and counts that would need more than there is.
    assert!(InfoRequest::parse(&hex("ffffffff 6469736b 0000")).is_err());
    assert!(InfoRequest::parse(&hex("00000000 ffff")).is_err());
    assert!(MetaRequest::parse(&hex("00000000 ffffffff")).is_err());
    assert!(MetaRequest::parse(&hex("00000000 00000001 ffffffff")).is_err());
    // Strings: NUL, no UTF-8, too long.
    assert!(InfoRequest::parse(&hex("00000001 00 0000")).is_err());
    assert!(InfoRequest::parse(&hex("00000001 ff 0000")).is_err());
    let long = InfoRequest { name: "x".repeat(4097), wanted: vec![] };
    assert!(InfoRequest::parse(&long.encode()).is_err());
    // Chunks without what they have to have.
    assert!(HoleChunk::parse(&hex("0000000000001000 00000000")).is_err());
    assert!(ErrorChunk::parse(&hex("00000000 0000"), chunk::ERROR).is_err());
    assert!(ErrorChunk::parse(&hex("00000001 0004 61"), chunk::ERROR).is_err());
    assert!(StatusChunk::parse(&hex("00000001"), chunk::BLOCK_STATUS).is_err());
    assert!(StatusChunk::parse(&hex("00000001 00000000 00000001"), chunk::BLOCK_STATUS).is_err());
    let two = hex("00000001 00000002 0000000000000200 00000000 00000003");
    assert!(StatusChunk::parse(&two, chunk::BLOCK_STATUS_EXT).is_err());
    let padded = hex("00000001 00000001 0000000000000200 00000001 00000003");
    assert!(StatusChunk::parse(&padded, chunk::BLOCK_STATUS_EXT).is_err());
    assert!(StatusPayload::parse(&hex("0000000000000200 0000")).is_err());
    // A reply of another mode.
    let chunk = hex("668e33ef 0001 0001 0000000000000007 0000000a");
    assert!(ReplyHeader::parse(&chunk, Mode::Simple).is_err() && ReplyHeader::parse(&chunk, Mode::Extended).is_err());
    let simple = hex("67446698 0000001c 0000000000000007");
    assert!(ReplyHeader::parse(&simple, Mode::Extended).is_err());
}

#[test]
fn what_32_bits_cannot_say_is_not_said_wrongly() {
    let request = Request { flags: 0, command: command::TRIM, cookie: 1, offset: 0, length: 1 << 32 };
    assert!(request.encode(Mode::Structured).is_err() && request.encode(Mode::Extended).is_ok());
    let extents =
        vec![Extent { length: 512, flags: 1 }, Extent { length: 5 << 32, flags: 0 }, Extent { length: 512, flags: 1 }];
    let status = StatusChunk { context: 0, extents };
    let said = StatusChunk::parse(&status.encode(Mode::Structured), chunk::BLOCK_STATUS).expect("extents");
    assert_eq!(said.extents, [Extent { length: 512, flags: 1 }, Extent { length: 0xffff_0000, flags: 0 }]);
    assert_eq!(StatusChunk::parse(&status.encode(Mode::Extended), chunk::BLOCK_STATUS_EXT), Ok(status));
    let long = ErrorChunk { error: 1, message: "ä".repeat(4000), offset: None };
    assert_eq!(ErrorChunk::parse(&long.encode(), chunk::ERROR).expect("cut").message.len(), 4096);
}

fn text() -> impl Strategy<Value = String> {
    "[^\u{0}]{0,40}"
}

proptest! {
    #[test]
    fn what_is_encoded_is_parsed_back(
        numbers in any::<(u16, u16, u64, u64, u64, u32, u32, u32)>(),
        texts in (text(), text(), prop::collection::vec(text(), 0..6)),
        words in prop::collection::vec(any::<u16>(), 0..20),
        extents in prop::collection::vec((1u32.., any::<u32>()), 1..20),
    ) {
        let (flags, kind, cookie, offset, length, a, b, c) = numbers;
        let (name, description, queries) = texts;
        for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
            let length = if mode == Mode::Extended { length } else { a.into() };
            let request = Request { flags, command: kind, cookie, offset, length };
            prop_assert_eq!(Request::parse(&request.encode(mode).unwrap(), mode), Ok(request));
            prop_assert_eq!(request.encode(mode).unwrap().len(), Request::bytes(mode));
            let offset = if mode == Mode::Extended { offset } else { 0 };
            let mut headers = Vec::new();
            if mode != Mode::Extended { headers.push(ReplyHeader::Simple { error: a, cookie }); }
            if mode != Mode::Simple { headers.push(ReplyHeader::Chunk { flags, kind, cookie, offset, length }); }
            for header in headers {
                let mut out = Vec::new();
                header.encode(mode, &mut out);
                prop_assert_eq!(ReplyHeader::bytes(&out[..ReplyHeader::FIRST], mode), Ok(out.len()));
                prop_assert_eq!(ReplyHeader::parse(&out, mode), Ok(header));
            }
            if mode != Mode::Simple {
                let extents = extents.iter().map(|(length, flags)| Extent { length: (*length).into(), flags: *flags }).collect();
                let status = StatusChunk { context: a, extents };
                prop_assert_eq!(StatusChunk::parse(&status.encode(mode), StatusChunk::kind(mode)), Ok(status));
            }
        }
        prop_assert_eq!(Greeting::parse(&Greeting { flags }.encode()), Ok(Greeting { flags }));
        let header = OptionHeader { option: a, length: b };
        prop_assert_eq!(OptionHeader::parse(&header.encode()), Ok(header));
        let header = OptionReply { option: a, kind: b, length: c };
        prop_assert_eq!(OptionReply::parse(&header.encode()), Ok(header));
        let request = InfoRequest { name: name.clone(), wanted: words };
        prop_assert_eq!(InfoRequest::parse(&request.encode()), Ok(request));
        let request = MetaRequest { name: name.clone(), queries };
        prop_assert_eq!(MetaRequest::parse(&request.encode()), Ok(request));
        let entry = ServerEntry { name: name.clone(), description: description.clone() };
        prop_assert_eq!(ServerEntry::parse(&entry.encode()), Ok(entry));
        let context = MetaContext { id: a, name: name.clone() };
        prop_assert_eq!(MetaContext::parse(&context.encode()), Ok(context));
        let sizes = BlockSizes { minimum: a, preferred: b, maximum: c };
        for info in [Info::Export { size: length, flags }, Info::Name(name), Info::Description(description.clone()), Info::BlockSizes(sizes), Info::Unknown(kind | 4)] {
            prop_assert_eq!(Info::parse(&info.encode()), Ok(info));
        }
        prop_assert_eq!(parse_export_name_reply(&export_name_reply(length, flags, true)[..10]), Ok((length, flags)));
        for offset in [None, Some(offset)] {
            let error = ErrorChunk { error: a | 1, message: description.clone(), offset };
            prop_assert_eq!(ErrorChunk::parse(&error.encode(), error.kind()), Ok(error));
        }
        let payload = StatusPayload { length, contexts: vec![a, b, c] };
        prop_assert_eq!(StatusPayload::parse(&payload.encode()), Ok(payload));
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = (Greeting::parse(&bytes), OptionHeader::parse(&bytes), OptionReply::parse(&bytes));
        let _ = (ServerEntry::parse(&bytes), MetaContext::parse(&bytes), Info::parse(&bytes), StatusPayload::parse(&bytes));
        if let Ok(request) = InfoRequest::parse(&bytes) { prop_assert_eq!(request.encode(), &bytes[..]); }
        if let Ok(request) = MetaRequest::parse(&bytes) { prop_assert_eq!(request.encode(), &bytes[..]); }
        for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
            let _ = (Request::parse(&bytes, mode), ReplyHeader::parse(&bytes, mode));
        }
        for kind in [chunk::ERROR, chunk::ERROR_OFFSET, chunk::IS_ERROR | 9] { let _ = ErrorChunk::parse(&bytes, kind); }
        for kind in [chunk::BLOCK_STATUS, chunk::BLOCK_STATUS_EXT] { let _ = StatusChunk::parse(&bytes, kind); }
    }
}
