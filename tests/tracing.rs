//! What somebody who watches a map with `tracing` is told. Runs with the feature only.
#![cfg(feature = "tracing")]

use dirtymap::{DirtyMap, Options};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps events as lines: level, message, fields.
#[derive(Clone, Default)]
struct Watcher(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        self.0 += &if field.name() == "message" { format!(" {value}") } else { format!(" {field}={value}") };
    }
}

impl Subscriber for Watcher {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "dirtymap"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_life_is_told() {
    let watcher = Watcher::default();
    let told = watcher.0.clone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.map");
    tracing::subscriber::with_default(watcher, || {
        let mut map = Options::new().flush_interval(None).create(&path, 1 << 30).unwrap();
        map.set(0..1).unwrap();
        map.set(0..1).unwrap();
        map.flush().unwrap();
        map.truncate(2 << 30).unwrap();
        map.set(1 << 29..(1 << 29) + 1).unwrap();
        drop(map);
        DirtyMap::open(&path).unwrap().close().unwrap();
    });
    let lines = told.lock().unwrap();
    // In this order, each with these words in it; others may lie between.
    let expected = [
        "INFO opened len=1073741824 unclean=false",
        "DEBUG armed words=1 listed=1 runs=1",
        "DEBUG flushed pages=1 listed=0",
        "INFO truncated from=1073741824 to=2147483648",
        "DEBUG armed words=1",
        "INFO opened len=2147483648 unclean=true",
        "WARN recovered armed_items=4194304 damaged_pages=0",
        "INFO closed clean=true dirty_bits=65",
    ];
    let mut rest = lines.iter();
    for wanted in expected {
        let found = |line: &&String| wanted.split(' ').all(|word| line.split(' ').any(|w| w == word));
        assert!(rest.any(|line| found(&line)), "{wanted:?} is missing, or not in order, in {lines:#?}");
    }
}
