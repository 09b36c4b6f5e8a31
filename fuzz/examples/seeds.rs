//! Writes the seeds: `cargo run --example seeds`, in this directory. The same files every time.

use dirtymap::Geometry;
use dirtymap::format::{
    ALIGN, CheckpointState, Durability, Header, HeaderSelection, Intent, Point, PointRole, Reasons, Reserved, Stamp,
    StampKind, State, Uuid, WordRanges, page_entry,
};
use dirtymap_cli::dump::{self, CopyIs};
use dirtymap_cli::qcow2::Plan;
use dirtymap_cli::qcow2::data::{Shape, Writer};
use dirtymap_cli::set_json::{
    self, Begun, Consistency, Content, Hook, HookEnd, Hooks, Member, Merging, Seen, Set, file_name,
};
use std::{convert::Infallible, fs, io, path::Path};

fn header(len: u64, granularity: u32) -> Header {
    let geometry = Geometry::new(len, granularity).expect("a possible map");
    Header::new(Uuid([0x11; 16]), geometry, Durability::PowerLoss)
}

fn headers() -> Vec<(&'static str, Header)> {
    let small = header(1 << 20, 16);
    let mut open = header(100 << 30, 16);
    open.state = State::Open;
    open.nonce = Uuid([0x22; 16]);
    open.sequence = 7;
    open.runs = [0..1, 3..10, 100..101].into_iter().collect();
    let stamp = Stamp {
        exact: true,
        mtime_seconds: 1_700_000_000,
        mtime_nanos: 5,
        ctime_seconds: 1_700_000_001,
        inode: 17,
        device: 3,
        ..Stamp::of(StampKind::File, 100 << 30)
    };
    open.image = Some(stamp);
    open.target = Some(Stamp { identity: [7; 16], ..Stamp::of(StampKind::BlockDevice, 100 << 30) });
    open.begun = open.image;
    let mut points = open.clone();
    points.checkpoint_state = CheckpointState::Frozen;
    points.checkpoint_uuid = Uuid([3; 16]);
    points.label = "Platte ä".into();
    let stamp_of = |uuid: u8| open.target.filter(|_| uuid == 1);
    for (uuid, role, name) in
        [(1, PointRole::Kept, "monday"), (2, PointRole::Kept, "x"), (3, PointRole::Outstanding, "")]
    {
        let at = points.file_length();
        points.points.push(Point {
            uuid: Uuid([uuid; 16]),
            time: 9,
            role,
            name: name.into(),
            table_offset: at,
            bottom_offset: at + 16 * ALIGN,
            granules: 7,
            reasons: Reasons::CRASH,
            target: stamp_of(uuid),
            reserved: Reserved::default(),
        });
    }
    let mut everything = points.clone();
    for point in &mut everything.points[1..] {
        (point.table_offset, point.bottom_offset, point.granules) = (0, 0, points.geometry.bits());
    }
    let mut intent = points.clone();
    intent.intent = Some(Intent { point: Uuid([2; 16]), unit: 4 });
    (intent.points[1].role, intent.points[1].name) = (PointRole::Intent, String::new());
    let mut long = open.clone();
    long.runs = (0..800).map(|i| 16 * i + i % 5..16 * i + 6).collect();
    let mut whole = header(1 << 40, 12);
    whole.durability = Durability::Process;
    whole.state = State::Open;
    whole.nonce = Uuid([4; 16]);
    whole.runs = WordRanges::one(0..whole.geometry.words());
    let mut newer = small.clone();
    newer.ro_compatible = 1;
    newer.compatible = 2;
    vec![
        ("small", small),
        ("open", open),
        ("points", points),
        ("everything", everything),
        ("intent", intent),
        ("long-list", long),
        ("whole", whole),
        ("newer", newer),
        ("empty", header(0, 0)),
        ("largest", header(1 << 41, 0)),
    ]
}

fn page_tables() -> Vec<(&'static str, Vec<u8>)> {
    let uuid = Uuid([0x11; 16]);
    let page = |first: u8| -> [u8; 512] { std::array::from_fn(|i| if i < 9 { first } else { 0 }) };
    let mut table = vec![0];
    table.extend(uuid.0);
    table.extend((4096u64 * 2 + 70).to_le_bytes());
    table.extend([0, 3, 3]);
    let pages = [page(0), page(0x5a), page(0x3f)];
    for (i, page) in pages.iter().enumerate() {
        table.extend(page_entry(&uuid, i as u64, page).to_le_bytes());
    }
    table.extend(pages.concat());
    // insert, remove, swap, insert, union, subtract, clip, coarsen
    let sets =
        [1, 0, 3, 5, 0, 40, 9, 2, 4, 2, 3, 0, 0, 0, 41, 3, 4, 0, 0, 3, 0, 0, 5, 0, 0, 6, 200, 0, 7, 0, 2].to_vec();
    vec![("table", table), ("sets", sets)]
}

/// The names of the golden files, as they are numbered.
fn golden_files() -> Vec<String> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/files");
    let entries = fs::read_dir(golden).expect("the golden files");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name().into_string().expect("a name");
    let mut names: Vec<String> = entries.map(name).map(|name| name.trim_end_matches(".xxd").to_string()).collect();
    names.sort_by_key(|name| format!("{name}.xxd"));
    names
}

/// The number of a golden file.
fn golden(name: &str) -> u8 {
    golden_files().iter().position(|file| file == name).expect("a golden file of that name") as u8
}

/// Every golden file, closed after a flush or left as it is; and one edit of each kind.
fn files() -> Vec<(String, Vec<u8>)> {
    let set = [0, 0, 8, 0, 0, 0, 0, 80, 0, 0, 0, 0];
    let each = |(base, name)| (format!("golden-{name}"), [&[base, base], &set[..]].concat());
    let mut files: Vec<_> = (0..).zip(golden_files()).map(each).collect();
    let edits: [(&str, &[u8]); 7] = [
        ("edit-bytes", &[0, 2, 0, 2, 2, 9, 9]),
        ("edit-field", &[1, 15, 15, 0, 0, 0, 0, 2]),
        ("edit-list", &[3, 10, 2, 3, 6, 1, 1]),
        ("edit-page", &[4, 0, 70, 255]),
        ("edit-page-only", &[5, 0, 70, 255]),
        ("edit-copy", &[6, 5, 1, 2]),
        ("edit-length", &[7, 0, 0, 0, 2]),
    ];
    files.extend(edits.map(|(name, edit)| (name.into(), [&[golden("clean-dirty"), 3], &set[..], edit].concat())));
    files
}

/// The same files, to be checked and repaired, with damage of each kind; and files that are none.
fn repairs() -> Vec<(String, Vec<u8>)> {
    let each = |(base, name)| (format!("golden-{name}"), vec![base]);
    let mut files: Vec<(String, Vec<u8>)> = (0..).zip(golden_files()).map(each).collect();
    let one = golden("clean-dirty");
    let edits: [(&str, &[u8]); 12] = [
        ("no-bytes", &[255]),
        ("no-map", &[255, 1, 2, 3]),
        ("page-flipped", &[one, 5, 0, 70, 255]),
        ("sector-lost", &[one, 8, 0, 0, 80, 0]),
        ("pages-and-entries-lost", &[one, 8, 0, 0, 80, 2, 8, 0, 0, 64, 0]),
        ("disk-lost-sectors", &[128 + one, 1, 0, 80, 2, 1, 0, 64, 0]),
        ("disk-moved-sectors", &[128 + one, 2, 80, 81, 0]),
        ("disk-cut-short", &[128 + one, 0, 0, 0, 2]),
        ("sectors-moved", &[one, 15, 0, 80, 81, 1]),
        ("copy-flipped", &[one, 0, 2, 0, 2, 2, 9, 9]),
        ("copy-over-another", &[one, 6, 5, 1, 2]),
        ("cut-short", &[one, 7, 0, 0, 0, 2]),
    ];
    files.extend(edits.map(|(name, bytes)| (name.into(), bytes.into())));
    files
}

/// Something set, then each of the operations, an end of either kind, and something more.
fn operations(shapes: &[u8], kinds: u8, ends: [u8; 2]) -> Vec<(String, Vec<u8>)> {
    let each = |kind| {
        let shape = shapes[usize::from(kind) % shapes.len()];
        let (set, end) = ([0, 1, 10, 0, 200, 1, 2, 0, 90], ends[usize::from(kind) % 2]);
        let bytes =
            [&[shape, 0x40, 0x1f], &set[..], &[kind, 1, 9, 0, 60, 2, 3, 4], &set, &[end, 0, 0, 0], &set].concat();
        (format!("op-{kind:02}"), bytes)
    };
    (0..kinds).map(each).collect()
}

/// Images with clusters of 512 bytes: without data, with some, with all-ones clusters, and with all of these.
fn images() -> Vec<(&'static str, Vec<u8>)> {
    let image = |len: u64, name: &str, byte: fn(u64, u64) -> u8| {
        let plan = Plan::with_clusters(len, 9, name, 9).expect("a possible image");
        let Ok(file) = plan.bytes(|bits, buffer| {
            let cluster = bits.start / 4096;
            // Whole bytes only, so that none of the bits is past the end.
            let bytes = buffer.iter_mut().take(((bits.end - bits.start) / 8) as usize);
            bytes.enumerate().for_each(|(i, b)| *b = byte(cluster, i as u64));
            Ok::<(), Infallible>(())
        });
        file
    };
    vec![
        ("zeros", image(1 << 20, "b", |_, _| 0)),
        ("some", image(1 << 20, "some", |_, i| if i % 50 == 3 { 0x5a } else { 0 })),
        ("ones", image(4 << 20, "ones", |_, _| 0xff)),
        ("mixed", image((6 << 20) + 512, "mixed", |cluster, i| [0, 0xff, i as u8][cluster as usize % 3])),
    ]
}

const JSON: &str = r#"{
  "dump_version": 1,
  "len": 100,
  "granularity": 3,
  "durability": "Process",
  "label": "a\n\u00e4",
  "image": {"kind": "file", "size": 100},
  "areas": [
    {"offset": 0, "length": 16, "assumed": true},
    {"offset": 96, "length": 4, "assumed": false}
  ]
}
"#;

/// Texts of the headers, with armed words, all kinds of copies and areas; and JSON.
fn dumps() -> io::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut texts = vec![("json", JSON.into())];
    for (name, header) in headers() {
        let choice =
            HeaderSelection { copy: 0, header: &header, armed: header.runs.clone(), disagreements: Vec::new() };
        let copies =
            [CopyIs::Valid(7), CopyIs::Conflicting(7), CopyIs::Foreign(Uuid([9; 16])), CopyIs::Invalid("\"".into())];
        let mut text = Vec::new();
        dump::write_head(&mut text, &copies, &choice)?;
        let (len, granule) = (header.geometry.len(), header.geometry.granule());
        let areas = [(0, false), (granule, true), (granule * 5, false)].map(|(start, assumed)| {
            let items = start.min(len)..(start + granule).min(len);
            dump::Area { items, assumed }
        });
        let areas = areas.iter().filter(|area| !area.items.is_empty());
        areas.clone().try_for_each(|area| dump::write_area(&mut text, area))?;
        dump::write_end(&mut text, areas.count() as u64)?;
        texts.push((name, text));
    }
    Ok(texts)
}

/// What ends of NBD connections say; the first byte chooses the end.
fn conversations() -> Vec<(String, Vec<u8>)> {
    use dirtymap_nbd::codec::values::{chunk, command, flag, option, reply};
    use dirtymap_nbd::codec::{
        ErrorChunk, Extent, Greeting, Info, InfoRequest, MetaContext, MetaRequest, Mode, OptionHeader, OptionReply,
        ReplyHeader, Request, StatusChunk, StatusPayload,
    };
    let option =
        |option, data: &[u8]| [&OptionHeader { option, length: data.len() as u32 }.encode()[..], data].concat();
    let meta = MetaRequest { name: "x".into(), queries: vec!["base:".into(), "base:allocation".into()] }.encode();
    let info = InfoRequest { name: "x".into(), wanted: vec![1, 2, 3] }.encode();
    let mut seeds = Vec::new();
    for (name, chosen) in [("structured", option::STRUCTURED_REPLY), ("extended", option::EXTENDED_HEADERS)] {
        let options = [
            (option::LIST, &[][..]),
            (option::STARTTLS, &[]),
            (chosen, &[]),
            (option::LIST_META_CONTEXT, &meta),
            (option::SET_META_CONTEXT, &meta),
            (option::INFO, &info),
            (99, b"unknown"),
            (option::GO, &info),
        ];
        let said: Vec<u8> = options.iter().flat_map(|(number, data)| option(*number, data)).collect();
        seeds.push((format!("options_{name}"), [&[0, 0, 0, 0, 3][..], &said].concat()));
    }
    seeds.push(("options_name".into(), [&[0, 0, 0, 0, 0][..], &option(option::EXPORT_NAME, b"x")].concat()));
    seeds.push(("options_abort".into(), [&[0, 0, 0, 0, 1][..], &option(option::ABORT, &[])].concat()));
    for (form, mode) in [(1, Mode::Simple), (2, Mode::Structured), (3, Mode::Extended)] {
        let mut said = vec![form];
        let wide = if mode == Mode::Extended { flag::PAYLOAD_LEN } else { 0 };
        for (cookie, (command, flags, offset, length, payload)) in [
            (command::WRITE, flag::FUA | wide, 4096, 600, 600),
            (command::READ, flag::DF, 0, 16 << 10, 0),
            (command::READ, 0, 4000, 5000, 0),
            (command::TRIM, 0, 0, 8192, 0),
            (command::WRITE_ZEROES, flag::NO_HOLE | flag::FAST_ZERO, 0, 512, 0),
            (command::CACHE, 0, 0, 512, 0),
            (command::FLUSH, 0, 0, 0, 0),
            (command::BLOCK_STATUS, flag::REQ_ONE, 0, 65536, 0),
            (command::READ, 0, 1 << 40, 9, 0),
            (9, 0xffff, 0, 0, 0),
        ]
        .into_iter()
        .enumerate()
        {
            let request = Request { flags, command, cookie: cookie as u64, offset, length };
            said.extend(request.encode(mode).expect("32 bits"));
            said.extend(vec![0x5a; payload]);
        }
        if mode == Mode::Extended {
            let chosen = StatusPayload { length: 512, contexts: vec![0] }.encode();
            let length = chosen.len() as u64;
            let request = Request { flags: wide, command: command::BLOCK_STATUS, cookie: 1, offset: 0, length };
            said.extend(request.encode(mode).expect("64 bits"));
            said.extend(chosen);
        }
        let end = Request { flags: 0, command: command::DISC, cookie: 0, offset: 0, length: 0 };
        said.extend(end.encode(mode).expect("32 bits"));
        seeds.push((format!("requests_{mode:?}").to_lowercase(), said));
    }
    // A server for our client: it has extended headers, and one context.
    let answer = |option, kind, data: &[u8]| {
        [&OptionReply { option, kind, length: data.len() as u32 }.encode()[..], data].concat()
    };
    let mut said = vec![4];
    said.extend(Greeting { flags: 3 }.encode());
    said.extend(answer(option::LIST, reply::ACK, &[]));
    said.extend(answer(option::EXTENDED_HEADERS, reply::ACK, &[]));
    let context = MetaContext { id: 5, name: "base:allocation".into() };
    said.extend(answer(option::SET_META_CONTEXT, reply::META_CONTEXT, &context.encode()));
    said.extend(answer(option::SET_META_CONTEXT, reply::ACK, &[]));
    said.extend(answer(option::GO, reply::INFO, &Info::Export { size: 1 << 20, flags: 0x1fff }.encode()));
    said.extend(answer(option::GO, reply::ACK, &[]));
    let mut part = |cookie, flags, kind, payload: &[u8]| {
        let header = ReplyHeader::Chunk { flags, kind, cookie, offset: 0, length: payload.len() as u64 };
        header.encode(Mode::Extended, &mut said);
        said.extend_from_slice(payload);
    };
    part(1, 0, chunk::OFFSET_DATA, &[&[0; 8][..], &[7; 400]].concat());
    part(1, chunk::DONE, chunk::OFFSET_HOLE, &[&400u64.to_be_bytes()[..], &600u32.to_be_bytes()].concat());
    let status = StatusChunk { context: 5, extents: vec![Extent { length: 1000, flags: 3 }] };
    part(2, chunk::DONE, chunk::BLOCK_STATUS_EXT, &status.encode(Mode::Extended));
    part(3, chunk::DONE, chunk::ERROR, &ErrorChunk { error: 5, message: "no".into(), offset: None }.encode());
    seeds.push(("server".into(), said));
    seeds.push(("codec_info".into(), [&[5][..], &info].concat()));
    seeds.push(("codec_meta".into(), [&[5][..], &meta].concat()));
    seeds
}

/// A file of a set with 512-byte clusters: which are data, and which are zeros.
fn member(clusters: u64, backing: Option<&str>, data: &[u64], zeros: &[u64]) -> Vec<u8> {
    let shape = Shape::new(clusters * 512, 9, backing.map(str::as_bytes)).expect("a small disk");
    let mut bytes: Vec<u8> = Vec::new();
    let write = |piece: &[u8], offset: u64| {
        let end = offset as usize + piece.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset as usize..end].copy_from_slice(piece);
        Ok::<(), Infallible>(())
    };
    let mut writer = Writer::new(shape, write);
    for cluster in 0..clusters {
        let Ok(()) = match (data.contains(&cluster), zeros.contains(&cluster)) {
            (true, _) => writer.data(cluster, &[cluster as u8 + 1; 512]),
            (false, true) => writer.zeros(cluster, 1),
            _ => Ok(()),
        };
    }
    let Ok(length) = writer.finish();
    bytes.resize(length as usize, 0);
    bytes
}

/// The length of the first file, and both.
fn members() -> Vec<(&'static str, Vec<u8>)> {
    let pair = |first: Vec<u8>, second: Vec<u8>| [&(first.len() as u16).to_le_bytes()[..], &first, &second].concat();
    vec![
        ("empty", pair(member(0, None, &[], &[]), Vec::new())),
        ("full", pair(member(70, None, &[0, 1, 2, 69], &[]), Vec::new())),
        ("chain", pair(member(70, None, &[1, 2], &[]), member(70, Some("0001.qcow2"), &[2, 3], &[1, 64]))),
        ("grown", pair(member(3, None, &[1, 2], &[]), member(130, Some("0001.qcow2"), &[129], &[]))),
        ("cut", pair(member(130, None, &[1, 129], &[]), member(2, Some("0001.qcow2"), &[], &[0]))),
    ]
}

fn sets() -> Vec<(&'static str, Set)> {
    let content = |bytes: u64| Content {
        bytes,
        sha256: "0123456789abcdef".repeat(4),
        seen: Seen { inode: 1, modified: (2, 3), changed: (4, 5), boot: Some("a boot".into()) },
    };
    let hook = Hook { ended: HookEnd::Late, milliseconds: 1 };
    let one = |number: u32, backing: Option<u32>| Member {
        file: file_name(number),
        name: (number == 2).then(|| "monday".into()),
        backing: backing.map(file_name),
        why_full: backing.is_none().then(|| "it is the first one".into()),
        time: "2026-11-29T10:00:00Z".into(),
        consistency: Consistency::Crash,
        size: 1 << 20,
        data: 65536,
        zeros: 0,
        image: "disk.raw".into(),
        group: None,
        hooks: backing.map(|_| Hooks { pre: Some(hook), post: None }),
        map: "00000000-0000-0000-0000-000000000001".into(),
        checkpoint: "00000000-0000-0000-0000-000000000002".into(),
        point: Some(set_json::Point { name: "0001-0123abcd".into(), bytes: 1 << 19 }),
        content: content(1 << 19),
    };
    let empty = Set::new("0123abcd".into());
    let chain = Set { members: vec![one(1, None), one(2, Some(1)), one(5, None)], ..empty.clone() };
    let unsettled = Set {
        begun: Some(Begun { file: file_name(6), point: None, map: "x".into(), content: None }),
        merging: Some(Merging { file: file_name(2), data: 1, content: content(9) }),
        leftover: vec![file_name(4)],
        ..chain.clone()
    };
    vec![("empty", empty), ("chain", chain), ("unsettled", unsettled)]
}

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(root.join(target))?;
        fs::write(root.join(target).join(name), bytes)
    };
    for (name, header) in headers() {
        write("header", name, &header.encode().map_err(io::Error::other)?)?;
    }
    for (name, bytes) in page_tables() {
        write("page_table", name, &bytes)?;
    }
    for (name, text) in dumps()? {
        write("dump", name, &text)?;
    }
    for (name, bytes) in images() {
        write("qcow2", name, &bytes)?;
    }
    for (name, bytes) in members() {
        write("member", name, &bytes)?;
    }
    for (name, set) in sets() {
        write("set_json", name, &set.to_bytes())?;
    }
    for (name, bytes) in files() {
        write("open", &name, &bytes)?;
    }
    for (name, bytes) in repairs() {
        write("check_repair", &name, &bytes)?;
    }
    for (name, bytes) in conversations() {
        write("nbd", &name, &bytes)?;
    }
    // At granularities 0 to 63; with both durabilities, alone and shared.
    for (name, bytes) in operations(&[0, 4, 16, 57, 63], 20, [18, 14]) {
        write("bitmap_ops", &name, &bytes)?;
    }
    for (name, bytes) in operations(&[0, 12, 131, 14, 168], 24, [15, 16]) {
        write("map_ops", &name, &bytes)?;
    }
    Ok(())
}
