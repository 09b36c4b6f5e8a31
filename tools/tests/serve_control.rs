//! The control socket of `serve`: what it says is so, and no client of it does harm.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::documented::compare;
use common::serving::{Control, Server, dirty};
use common::{Dir, GRANULE, MIB, pattern};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

const SIZE: u64 = 8 * MIB;

/// A server of an image with a clean map, and its control socket.
fn controlled(dir: &Dir, more: &[&str]) -> (Server, PathBuf) {
    let (image, map, control) = (dir.image("disk.raw", SIZE), dir.path("disk.map"), dir.path("control"));
    dm!("create", map, "--image", image).exits(0);
    dm!("reset", map, "--all").exits(0);
    let control_text = control.display().to_string();
    let server = Server::start(dir, &[&["--control", &control_text], more].concat());
    (server, control)
}

/// The samples of metrics, each line that is no comment, and the families that have a type.
fn samples(text: &str) -> (BTreeMap<String, f64>, Vec<String>) {
    let (comments, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('#'));
    let samples = lines.iter().map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a sample");
        (name.to_string(), value.parse().expect("a number"))
    });
    let typed = comments.iter().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(String::from));
    (samples.collect(), typed.collect())
}

#[test]
fn status_and_metrics_say_what_was_done() {
    let dir = Dir::new();
    let (server, control) = controlled(&dir, &["--name", "a\"b"]);
    let mut client = server.client();
    for i in 0..10 {
        client.write(i * MIB / 2, &pattern(4096, i), 0).expect("write");
    }
    client.read(0, MIB as u32, 0).expect("read");
    client.trim(2 * MIB, GRANULE, 0).expect("trim");
    client.write_zeroes(3 * MIB, GRANULE, 0).expect("zeroes");
    client.flush().expect("flush");
    let mut asking = Control::connect(&control);
    let status = asking.status();
    const KINDS: [&str; 5] = ["read", "write", "flush", "trim", "zero"];
    let closed = KINDS.map(|kind| format!("disks[].requests.{kind}"));
    compare("The control socket", &closed.each_ref().map(String::as_str), std::slice::from_ref(&status));
    assert_eq!(status["pid"], server.child.id());
    assert_eq!(status["read_only"], false);
    let disk = &status["disks"][0];
    assert_eq!((&disk["export"], &disk["connections"], &disk["size"]), (&"a\"b".into(), &1.into(), &SIZE.into()));
    assert_eq!(disk["dirty_bytes"], 10 * GRANULE);
    assert!(disk["arms"].as_u64() >= Some(1) && disk["syncs"].as_u64() >= disk["arms"].as_u64(), "{disk}");
    let counts = |kind: &str| {
        let of = &disk["requests"][kind];
        compare("# Requests of one kind", &[], std::slice::from_ref(of));
        let places: u64 = of["latency"]["counts"].as_array().expect("places").iter().filter_map(|n| n.as_u64()).sum();
        assert_eq!(of["requests"], places);
        (of["requests"].as_u64().expect("a number"), of["bytes"].as_u64().expect("a number"))
    };
    let all = KINDS.map(counts);
    assert_eq!(all, [(1, MIB), (10, 40960), (1, 0), (1, GRANULE), (1, GRANULE)]);
    // The same as metrics: over HTTP, and without.
    for request in ["GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n", "GET /metrics\n"] {
        let answer = Control::connect(&control).raw(request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        let (samples, typed) = samples(body);
        let documented = include_str!("../../docs/cli.md");
        typed.iter().for_each(|family| assert!(documented.contains(family.as_str()), "{family} is not documented"));
        let of = |name: &str, more: &str| samples[&format!("{name}{{disk=\"a\\\"b\"{more}}}")];
        assert_eq!(of("dirtymap_dirty_bytes", ""), (10 * GRANULE) as f64);
        assert_eq!(of("dirtymap_requests_total", ",kind=\"write\""), 10.0);
        assert_eq!(of("dirtymap_bytes_total", ",kind=\"read\""), MIB as f64);
        assert_eq!(of("dirtymap_latency_seconds_count", ",kind=\"write\""), 10.0);
        assert_eq!(of("dirtymap_latency_seconds_bucket", ",kind=\"write\",le=\"+Inf\""), 10.0);
        for name in samples.keys() {
            let family = name.split('{').next().expect("a name");
            let known = |typed: &String| {
                family.strip_prefix(typed.as_str()).is_some_and(|s| ["", "_bucket", "_sum", "_count"].contains(&s))
            };
            assert!(typed.iter().any(known), "{name} has no type");
        }
    }
    drop(client);
    server.stop().exits(0);
    assert!(!control.exists());
}

#[test]
fn what_makes_no_sense_is_answered_with_an_error_and_harms_nobody() {
    let dir = Dir::new();
    let (server, control) = controlled(&dir, &[]);
    let mut asking = Control::connect(&control);
    let wrong = ["", "{}", "no JSON", r#"{"request":"x"}"#, r#"{"request":"status","more":1}"#, "[1]", "\"status\""];
    for line in wrong {
        let error = &asking.ask(line)["error"];
        assert_eq!((&error["kind"], &error["exit"]), (&"usage".into(), &16.into()), "{line}");
    }
    assert!(asking.status()["disks"].is_array());
    assert!(Control::connect(&control).raw(b"GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404"));
    // Without an end of the line, or without an end at all: no answer.
    assert_eq!(Control::connect(&control).raw(b"{\"request\":\"status\"}"), "");
    assert_eq!(Control::connect(&control).raw(&vec![b'x'; 1 << 20]), "");
    assert!(Control::connect(&control).raw(b"\xff\xfe\n").contains("usage"));
    // Many connections that say nothing are not all kept, and those that are do not hold up the end.
    let idle: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&control).expect("connect")).collect();
    let mut client = server.client();
    client.write(0, b"x", 0).expect("write");
    assert_eq!(dirty(&mut client), [0..GRANULE]);
    drop(client);
    server.stop().exits(0);
    drop(idle);
}

#[test]
fn a_control_socket_is_taken_over_from_the_dead_and_from_nobody_else() {
    let dir = Dir::new();
    let (server, control) = controlled(&dir, &[]);
    let text = control.display().to_string();
    let line = |socket: &str| {
        let (image, map) = (dir.image("other.raw", MIB), dir.path("other.map"));
        dm!("serve", image, "--map", map, "--create", "--socket", dir.path(socket), "--control", text)
    };
    // It is in use; and a file that is no socket is nobody's.
    line("other").exits(8).says("control");
    assert!(!dir.path("other").exists());
    server.kill();
    assert!(control.exists());
    let server = Server::start(&dir, &["--control", &text]);
    assert_eq!(Control::connect(&control).status()["pid"], server.child.id());
    server.stop().exits(0);
    fs::write(&control, "mine").expect("write");
    line("other").exits(8);
    assert_eq!(fs::read(&control).expect("read"), b"mine");
}

#[test]
fn a_client_that_takes_no_answers_does_not_hold_up_the_stop() {
    use std::io::Write;
    let dir = Dir::new();
    let (server, control) = controlled(&dir, &[]);
    let mut deaf = UnixStream::connect(&control).expect("connect");
    deaf.set_write_timeout(Some(std::time::Duration::from_millis(500))).expect("set");
    // Until the server waits for it.
    while deaf.write_all(b"{\"request\":\"status\"}\n").is_ok() {}
    let begun = std::time::Instant::now();
    server.stop().exits(0);
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "it was waited for");
}
