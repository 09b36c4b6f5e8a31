//! What is written is read again; whatever else is there is an error that says where.

use super::*;
use dirtymap::Geometry;
use dirtymap::format::{MAX_LABEL, MAX_POINTS, Point, Reserved, Uuid, WordRanges};

/// A header of which every field says something.
fn rich() -> Header {
    let geometry = Geometry::new(10_000_000, 12).unwrap();
    let mut header = Header::new(Uuid([0xa1; 16]), geometry, Durability::Process);
    let stamp = Stamp {
        kind: StampKind::File,
        exact: true,
        mtime_seconds: -7,
        mtime_nanos: 999_999_999,
        ctime_seconds: -8,
        ctime_nanos: 3,
        inode: 8,
        device: 9,
        birth: -1,
        filesystem: [0xf5; 16],
        boot_id: Uuid([0xb0; 16]),
        ..Stamp::of(StampKind::File, 5)
    };
    header.state = State::Open;
    header.nonce = Uuid([0x0f; 16]);
    header.image = Some(stamp);
    header.target = Some(Stamp { identity: [0xd1; 16], ..Stamp::of(StampKind::BlockDevice, 5) });
    header.begun = header.target;
    (header.audited, header.audit_missed, header.audit_time) = (1, u64::MAX, -2);
    header.label = "Platte \"ä\" \\ \u{301}\u{7}\n'\u{202e}".into();
    header.checkpoint_state = CheckpointState::Frozen;
    header.dirt_time = i64::MIN;
    header.session.inode = u64::MAX;
    header.intent = Some(format::Intent { point: Uuid([3; 16]), unit: 6 });
    header.points.push(Point {
        uuid: Uuid([3; 16]),
        time: i64::MAX,
        role: PointRole::Kept,
        name: "mon \"day\"".into(),
        table_offset: 65536,
        bottom_offset: 131072,
        granules: 17,
        reasons: format::Reasons::REPAIR,
        target: Some(stamp),
        reserved: Reserved::default(),
    });
    header
}

fn written(header: &Header, areas: &[Area]) -> String {
    let armed: WordRanges = [0..1, 3..10].into_iter().collect();
    let choice = HeaderSelection { copy: 0, header, armed, disagreements: Vec::new() };
    let copies = [
        CopyIs::Valid(7),
        CopyIs::Conflicting(8),
        CopyIs::Foreign(Uuid([9; 16])),
        CopyIs::Invalid("not \"so\"".into()),
    ];
    let mut out = Vec::new();
    write_head(&mut out, &copies, &choice).unwrap();
    areas.iter().for_each(|area| write_area(&mut out, area).unwrap());
    write_end(&mut out, areas.len() as u64).unwrap();
    String::from_utf8(out).unwrap()
}

fn areas() -> Vec<Area> {
    [(0..4096, false), (4096..8192, true), (9_998_336..10_000_000, false)]
        .map(|(items, assumed)| Area { items, assumed })
        .into()
}

/// Reads a text in pieces of a size.
fn parse_in(text: &[u8], size: usize) -> Result<(Head, Vec<Area>), Error> {
    let (mut parser, mut areas) = (Parser::new(), Vec::new());
    for piece in text.chunks(size) {
        parser.feed(piece, |area| {
            areas.push(area);
            Ok::<(), Error>(())
        })?;
    }
    Ok((parser.finish()?, areas))
}

fn parse(text: &str) -> Result<(Head, Vec<Area>), Error> {
    parse_in(text.as_bytes(), usize::MAX)
}

#[test]
fn what_is_written_is_read_whatever_the_pieces() {
    let (header, areas) = (rich(), areas());
    let text = written(&header, &areas);
    let head = Head {
        geometry: header.geometry,
        durability: Durability::Process,
        label: header.label.clone(),
        had_image: true,
    };
    for size in [1, 2, 7, 64, 4096, usize::MAX] {
        assert_eq!(parse_in(text.as_bytes(), size), Ok((head.clone(), areas.clone())), "{size}");
    }
    for role in [PointRole::Outstanding, PointRole::Snapshot, PointRole::Intent] {
        let mut header = header.clone();
        header.points[0].role = role;
        assert!(parse(&written(&header, &areas)).is_ok(), "{role:?}");
    }
    let plain = Header::new(Uuid([1; 16]), Geometry::new(0, 63).unwrap(), Durability::PowerLoss);
    let (head, none) = parse(&written(&plain, &[])).unwrap();
    assert!(!head.had_image && none.is_empty() && head.durability == Durability::PowerLoss);
}

#[test]
fn every_line_is_one_line_whatever_the_label() {
    let mut header = rich();
    let lines = written(&header, &areas()).lines().count();
    for c in ('\u{1}'..='\u{10ffff}').step_by(251).chain(['"', '\\', '\'', '\n', '\r', '\t', '\u{85}', '\u{2028}']) {
        header.label = c.to_string().repeat(MAX_LABEL / c.len_utf8());
        let text = written(&header, &areas());
        assert_eq!(text.lines().count(), lines, "{c:?}");
        assert_eq!(parse(&text).map(|(head, _)| head.label), Ok(header.label.clone()), "{c:?}");
    }
}

const SMALL: &str = "dirtymap-dump 1\nlen 100\ngranularity 3\ndurability PowerLoss\nlabel \"\"\n";

#[test]
fn the_four_needed_lines_are_enough_in_any_order() {
    let (head, areas) = parse(&format!("{SMALL}dirty 8 8\nassumed 96 4\nend 2\n")).unwrap();
    assert_eq!((head.geometry.len(), head.geometry.granularity()), (100, 3));
    assert_eq!(areas, [Area { items: 8..16, assumed: false }, Area { items: 96..100, assumed: true }]);
    let other = "dirtymap-dump 1\nlabel \"\"\ndurability PowerLoss\ngranularity 3\nlen 100\nend 0\n";
    assert_eq!(parse(other).unwrap().0, head);
}

#[test]
fn an_error_names_line_and_column() {
    let after = |rest: &str| format!("{SMALL}{rest}");
    let long = format!("label \"{}\"\n", "x".repeat(253));
    let cases: &[(String, u64, usize, &str)] = &[
        ("".into(), 1, 1, "dirtymap-dump 1"),
        ("\n".into(), 1, 1, "no dump of a map"),
        ("dirtymap-dump 2\n".into(), 1, 15, "version 1"),
        ("dirtymap-dump\n".into(), 1, 14, "found nothing"),
        ("dirtymap-dump 1".into(), 1, 16, "the line's end"),
        ("dirtymap-dump 1\r\n".into(), 1, 15, "a whole number"),
        ("dirtymap-dump 1\nlen 100\nend 0\n".into(), 3, 1, "granularity before it"),
        ("dirtymap-dump 1\nlen 100\n".into(), 3, 1, "granularity"),
        ("dirtymap-dump 1\nlen 9223372036854775808\n".into(), 2, 5, "9223372036854775807"),
        ("dirtymap-dump 1\nlen +5\n".into(), 2, 5, "\"+5\""),
        ("dirtymap-dump 1\nlen 5 \n".into(), 2, 6, "the line's end"),
        ("dirtymap-dump 1\nlen  5\n".into(), 2, 5, "found nothing"),
        ("dirtymap-dump 1\ngranularity 64\n".into(), 2, 13, "to 63"),
        ("dirtymap-dump 1\ndurability none\n".into(), 2, 12, "PowerLoss, Process"),
        ("dirtymap-dump 1\nlabel x\n".into(), 2, 7, "quotation marks"),
        ("dirtymap-dump 1\nlabel \"ä\\x\"\n".into(), 2, 9, "no backslash"),
        ("dirtymap-dump 1\nlabel \"a\"b\"\n".into(), 2, 9, "quotation mark"),
        ("dirtymap-dump 1\nlabel \"\\u{d800}\"\n".into(), 2, 8, "no backslash"),
        ("dirtymap-dump 1\nlabel \"\\0\"\n".into(), 2, 7, "at most 252"),
        (format!("dirtymap-dump 1\n{long}"), 2, 7, "at most 252"),
        (format!("dirtymap-dump 1\nlabel \"{}\n", "x".repeat(5000)), 2, 4097, "at most 4096"),
        (after("len 100\n"), 6, 1, "only once"),
        (after("colour 3\n"), 6, 1, "\"colour\""),
        (after("\n"), 6, 1, "name of a field"),
        (after("uuid a1\n"), 6, 6, "hexadecimal"),
        (after("copy 4 valid 1\n"), 6, 6, "from 0 to 3"),
        (after("copy 1 valid 1\ncopy 1 valid 1\n"), 7, 6, "only once"),
        (after("copy 1 sound 1\n"), 6, 8, "invalid"),
        (after("armed 3 0\n"), 6, 9, "at least one"),
        (after("armed 3 2\narmed 4 1\n"), 7, 7, "at least 5"),
        (after("image file 1 2 1000000000 3 4 5 6 7\n"), 6, 16, "999999999"),
        (after("begun file 1 2 3 4 1000000000 5 6 7\n"), 6, 20, "999999999"),
        (after("dirty 1 8\n"), 6, 7, "multiple of 8"),
        (after("dirty 8 9\n"), 6, 9, "multiple of 8"),
        (after("dirty 8 0\n"), 6, 9, "not 0"),
        (after("dirty 96 8\n"), 6, 10, "found \"8\", expected 4"),
        (after("dirty 104 8\n"), 6, 7, "before 100"),
        (after("dirty 8 18446744073709551615\n"), 6, 9, "expected 92"),
        (after("dirty 8 8\ndirty 8 8\n"), 7, 7, "from 16"),
        (after("dirty 8 8 8\n"), 6, 10, "the line's end"),
        (after("dirty 8 8\nuuid 3\n"), 7, 1, "`end`"),
        (after("dirty 8 8\nend 2\n"), 7, 5, "1, the areas above"),
        (after("end 0\nend 0\n"), 7, 1, "nothing after"),
        (after("dirty 8 8\n"), 7, 1, "`end`"),
    ];
    for (text, line, column, says) in cases {
        let e = parse(text).expect_err(text);
        assert!((e.line, e.column) == (*line, *column) && e.to_string().contains(says), "{text}\n{e}");
        // The same, but for the end of the text, wherever it is cut.
        assert_eq!(parse_in(text.as_bytes(), 3).expect_err(text), e, "{text}");
    }
    let impossible = "dirtymap-dump 1\nlen 9223372036854775807\ngranularity 0\ndurability Process\nlabel \"\"\nend 0\n";
    assert!(parse(impossible).unwrap_err().to_string().contains("impossible map"));
    let e = parse_in(b"dirtymap-dump 1\nlabel \"\xff\"\n", 99).unwrap_err();
    assert_eq!((e.line, e.column), (2, 8));
}

#[test]
fn no_text_that_was_cut_is_taken() {
    let text = written(&rich(), &areas());
    for length in 0..text.len() {
        assert!(parse_in(&text.as_bytes()[..length], usize::MAX).is_err(), "{length}");
    }
}

#[test]
fn lines_of_a_kind_are_limited() {
    let many = |line: &str, n: usize| parse(&format!("{SMALL}{}end 0\n", line.repeat(n)));
    let point = format!("point {} 0 kept 0 0 17 4294967295 none \"x\"\n", Uuid([1; 16]));
    assert!(many(&point, MAX_POINTS).is_ok());
    assert!(many(&point.replace("4294967295", "4294967296"), 1).is_err());
    assert!(many(&point.replace(" none", ""), 1).is_err());
    assert!(many(&point, MAX_POINTS + 1).unwrap_err().to_string().contains("at most 64"));
}

/// Every byte of a text changed, left out and doubled: an error or another map, never a panic, and areas that ascend.
#[test]
fn a_damaged_text_is_an_error_or_a_map() {
    let text = written(&rich(), &areas());
    let mut taken = 0;
    for at in 0..text.len() {
        for byte in [b' ', b'\n', b'0', b'9', b'"', b'\\', 0, 0xff] {
            for (skip, bytes) in [(1, &[byte][..]), (0, &[byte]), (1, &[])] {
                let mut bad = text.as_bytes()[..at].to_vec();
                bad.extend_from_slice(bytes);
                bad.extend_from_slice(&text.as_bytes()[at + skip..]);
                let Ok((head, areas)) = parse_in(&bad, usize::MAX) else { continue };
                taken += 1;
                let ascend = areas.windows(2).all(|w| w[0].items.end <= w[1].items.start);
                let inside = areas.iter().all(|a| a.items.start < a.items.end && a.items.end <= head.geometry.len());
                assert!(ascend && inside);
            }
        }
    }
    assert!(taken > 0);
}

/// Reads JSON, or text, as `undump` does.
fn parse_json(json: &str) -> Result<(Head, Vec<Area>), Error> {
    let mut areas = Vec::new();
    let head = read(io::BufReader::with_capacity(3, json.as_bytes()), |area| {
        areas.push(area);
        Ok::<(), ()>(())
    });
    match head {
        Ok(head) => Ok((head, areas)),
        Err(Failed::Wrong(e)) => Err(e),
        Err(e) => panic!("{e:?}"),
    }
}

const JSON: &str = r#"{ "dump_version": 1, "len": 100, "granularity": 3, "durability": "Process", "label": "a\n\u00e4",
"later": [{"x": null}], "image": {"kind": "file"}, "areas": [
{"offset": 0, "length": 16, "assumed": true, "more": 1}, {"assumed": false, "length": 4, "offset": 96}
] }
"#;

#[test]
fn json_says_what_the_text_says() {
    let nil = Uuid::NIL;
    let stamp = format!("image file 1 2 3 4 5 6 7 8 {nil} {nil} 9 {nil} exact");
    let text = &format!(
        "dirtymap-dump 1\nlen 100\ngranularity 3\ndurability Process\nlabel \"a\\nä\"\n{stamp}\n\
                assumed 0 16\ndirty 96 4\nend 2\n"
    );
    assert_eq!(parse_json(JSON).unwrap(), parse_json(text).unwrap());
    let (head, areas) = parse_json(&JSON.replace(r#"{"kind": "file"}"#, "null")).unwrap();
    assert!(!head.had_image && areas.len() == 2);
    let json = r#"{"areas":[],"#;
    assert!(
        parse_json(&JSON.replacen('{', json, 1))
            .unwrap_err()
            .to_string()
            .contains("no dump_version, expected it in front")
    );
}

#[test]
fn wrong_json_is_refused_with_its_place() {
    let cases = [
        (("\"dump_version\": 1", "\"dump_version\": 2"), "found version 2, expected version 1"),
        (("\"len\": 100, ", ""), "no len, expected it in front of the areas"),
        (("100", "-100"), "line 1, column 33: found invalid value: integer `-100`, expected u64"),
        (("100", "9223372036854775808"), "impossible map"),
        (("\"Process\"", "\"process\""), "expected PowerLoss or Process"),
        (("\"a", "\"\\u0000"), "none of them zero"),
        (("\"later\"", "\"len\""), "expected u64"),
        (("\"later\": [{\"x\": null}]", "\"len\": 100"), "for the second time"),
        (
            ("\"offset\": 0", "\"offset\": 1"),
            "line 3, column 58: found offset 1, expected a multiple of 8 from 0 to before 100",
        ),
        (("\"offset\": 96", "\"offset\": 8"), "found offset 8, expected a multiple of 8 from 16 to before 100"),
        (("16", "8.0"), "expected u64"),
        (("16", "18446744073709551615"), "found length 18446744073709551615, expected 100, or a smaller"),
        (("\"assumed\": false, ", ""), "missing field `assumed`"),
        (("] }", "], \"later\": 1}"), "nothing after the areas"),
        (("] }", "] } }"), "trailing characters"),
        (("\"later\"", "'later'"), "line 2"),
    ];
    for ((from, to), says) in cases {
        let json = JSON.replacen(from, to, 1);
        let e = parse_json(&json).expect_err(&json).to_string();
        assert!(json != JSON && e.contains(says), "{json}\n{e}");
    }
    for length in 0..JSON.trim_end().len() {
        if JSON.is_char_boundary(length) {
            assert!(parse_json(&JSON[..length]).is_err(), "{length}");
        }
    }
    let deep = format!("{{\"later\": {}", "[".repeat(100_000));
    assert!(parse_json(&deep).is_err());
}

#[test]
fn whose_taker_fails_goes_no_further() {
    for dump in
        [JSON, "dirtymap-dump 1\nlen 9\ngranularity 0\ndurability Process\nlabel \"\"\ndirty 0 1\ndirty 2 1\nend 2\n"]
    {
        let mut taken = 0;
        let failed = read(dump.as_bytes(), |_| {
            taken += 1;
            Err("full")
        });
        assert!(matches!(failed, Err(Failed::Taker("full"))), "{failed:?}");
        assert_eq!(taken, 1);
    }
}
