//! `dirtymap watch`: it says what is so, it only looks, and it leaves the terminal as it was.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::documented::compare;
use common::serving::Server;
use common::{Dir, GRANULE, MIB, Ran, dirtymap, untouched};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};

const SIZE: u64 = 8 * MIB;

fn looks(ran: &Ran) -> Vec<Value> {
    ran.json().as_array().expect("a list").clone()
}

#[test]
fn a_map_is_looked_at_and_kept_from_nobody() {
    let dir = Dir::new();
    let map = dir.map("disk.map", SIZE, &[0..1, 4 * MIB..8 * MIB]);
    let watch = |more: &[&str]| {
        let line = ["watch", map.to_str().expect("text"), "--count", "1"];
        common::run(line.iter().chain(more)).exits(0)
    };
    let (lines, json) = untouched(&map, || (watch(&[]), watch(&["--output", "json"])));
    assert!(lines.out.contains("dirty 4.1 MiB (50.8%)") && lines.out.lines().count() == 1, "{lines:?}");
    let disk = &looks(&json)[0]["disks"][0];
    let areas: Vec<u64> = disk["areas"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect();
    // Two granules each.
    assert_eq!(
        (areas.len(), areas[0], areas[1], areas[31], areas[32], areas[63]),
        (64, GRANULE, 0, 0, 2 * GRANULE, 2 * GRANULE)
    );
    assert_eq!(areas.iter().sum::<u64>(), disk["dirty_bytes"].as_u64().expect("a number"));
    // Somebody has it alone, and then somebody else, between two looks.
    let mut command = dirtymap();
    command.arg("watch").arg(&map).args(["--interval", "0.05", "--wait", "60"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run dirtymap");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    dm!("reset", map, "--all", "--wait", "60").exits(0);
    while !line.contains("dirty 0 B") {
        line.clear();
        assert!(out.read_line(&mut line).expect("a line") > 0);
    }
    dm!("repair", map, "--wait", "60").exits(0);
    kill_process(Pid::from_child(&child), Signal::INT).expect("signal");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
    dm!("watch", dir.path("none"), "--count", "1").exits(8);
    dm!("watch", map, "--interval", "0").exits(16);
}

#[test]
fn a_server_is_looked_at_by_its_control_socket() {
    let dir = Dir::new();
    let control = dir.path("control");
    dir.image("disk.raw", SIZE);
    let more = ["--create", "--name", "vm", "--control", control.to_str().expect("text")];
    let server = Server::start(&dir, &more);
    dm!("reset", dir.path("disk.map"), "--all").exits(0);
    let mut client = server.client();
    let mut command = dirtymap();
    command.arg("watch").arg(&control).args(["--interval", "0.05", "--output", "json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run dirtymap");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    // Until a look saw writes: some come between any two.
    let (mut at, mut text) = (0, String::new());
    while !text.contains("\"writes\":{") || !text.contains("\"reads\":{") {
        client.write(at * GRANULE, b"x", 0).expect("write");
        client.read(0, 1, 0).expect("read");
        at = (at + 1) % (SIZE / GRANULE);
        assert!(out.read_line(&mut text).expect("a line") > 0);
    }
    kill_process(Pid::from_child(&child), Signal::TERM).expect("signal");
    out.read_to_string(&mut text).expect("the rest");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
    let looks: Vec<Value> = serde_json::from_str(&text).expect("a list");
    let map = common::run(["watch", dir.path("disk.map").to_str().expect("text"), "--count", "1", "--output", "json"]);
    dm!("checkpoint", "freeze", dir.path("disk.map")).exits(0);
    let frozen = common::run(["watch", control.to_str().expect("text"), "--count", "1", "--output", "json"]);
    assert_eq!(frozen.json()[0]["disks"][0]["checkpoint"], "frozen");
    compare("watch", &[], &[Value::Array(looks.clone()), map.exits(0).json(), frozen.json()]);
    let seen = looks.iter().map(|look| &look["disks"][0]).find(|disk| disk["writes"]["p99"].is_number());
    let disk = seen.expect("a look that saw writes");
    assert_eq!((&disk["name"], &disk["connections"]), (&"vm".into(), &1.into()));
    assert!(disk["writes"]["requests_per_second"].as_f64() > Some(0.0), "{disk}");
    drop(client);
    // It says so when the server goes.
    let mut command = dirtymap();
    command.arg("watch").arg(&control).args(["--interval", "0.05"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run dirtymap");
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut first).expect("a line");
    assert!(first.contains("vm, dirty "), "{first}");
    server.stop().exits(0);
    Ran::from(child.wait_with_output().expect("wait")).exits(8);
}

/// The command on a terminal that can move its cursor.
fn on_a_screen(line: &[&str]) -> (Child, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags).expect("a terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("a terminal to use");
    let peer = ioctl_tiocgptpeer(&terminal, flags).expect("its other side");
    let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&peer, size).expect("set its size");
    let mut command = dirtymap();
    command.args(line).env("TERM", "xterm-256color").stdin(peer.try_clone().expect("clone"));
    command.stdout(peer.try_clone().expect("clone")).stderr(peer);
    (command.spawn().expect("run dirtymap"), File::from(terminal))
}

/// What comes until some text does.
fn read_until(terminal: &mut File, text: &str) -> String {
    let mut shown = Vec::new();
    let mut bytes = [0; 4096];
    while !String::from_utf8_lossy(&shown).contains(text) {
        let length = terminal.read(&mut bytes).expect("more");
        shown.extend(&bytes[..length]);
    }
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn on_a_terminal_it_is_a_picture_and_the_terminal_is_given_back() {
    let dir = Dir::new();
    let map = dir.map("disk.map", SIZE, &[0..4 * MIB]);
    let signal = |child: &Child| kill_process(Pid::from_child(child), Signal::TERM).expect("signal");
    for by_key in [true, false] {
        let (mut child, mut terminal) = on_a_screen(&["watch", map.to_str().expect("text")]);
        let mode = |terminal: &File| rustix::termios::tcgetattr(terminal).expect("its mode").local_modes;
        // The other screen, and the share that is dirty.
        let shown = read_until(&mut terminal, "50.0%");
        assert!(shown.contains("\u{1b}[?1049h"), "{shown:?}");
        if by_key {
            terminal.write_all(b"q").expect("type")
        } else {
            signal(&child)
        }
        read_until(&mut terminal, "\u{1b}[?1049l");
        assert_eq!(child.wait().expect("wait").code(), Some(0));
        assert!(mode(&terminal).contains(rustix::termios::LocalModes::ICANON));
    }
}
