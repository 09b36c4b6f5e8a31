//! A device that cannot write back what it took: every client hears of it, whichever server it has by then.

mod common;

use common::serving::{Control, Server};
use common::{Cleanup, Dir, MIB, loop_device, skipped};
use dirtymap_nbd::client::{Client, Error};
use dirtymap_nbd::codec::values::flag;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

const SIZE: u64 = 16 * MIB;

/// A device of 16 MiB with room for one, and what takes it away; none where there can be none.
fn small_device(dir: &Dir) -> Option<(PathBuf, [Cleanup; 2])> {
    let memory = dir.path("memory");
    std::fs::create_dir(&memory).expect("make");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1M", "none"]).arg(&memory).output().ok()?;
    if !mounted.status.success() {
        return None;
    }
    let unmount = Cleanup::new("umount", &[memory.as_os_str()]);
    let under = memory.join("under");
    std::fs::File::create(&under).and_then(|file| file.set_len(SIZE)).expect("create");
    let (device, detach) = loop_device(&under)?;
    Some((device, [detach, unmount]))
}

/// Whether what a client asks to be durable is said to be.
fn is_durable(done: Result<(), Error>) -> bool {
    match done {
        Ok(()) => true,
        Err(Error::Failed(_)) => false,
        Err(e) => panic!("{e}"),
    }
}

/// One failure, and then all is as if nothing had been.
#[track_caller]
fn hears_once(client: &mut Client) {
    assert!(!is_durable(client.flush()), "nobody tells what is lost");
    assert!(is_durable(client.flush()) && is_durable(client.flush()));
}

#[test]
fn each_client_hears_of_a_write_back_that_failed_also_of_the_next_server() {
    let dir = Dir::new();
    let Some((device, _cleanup)) = small_device(&dir) else {
        return skipped("a device that fails: needs root, tmpfs and loop devices");
    };
    let (map, control) = (dir.path("disk.map"), dir.path("control"));
    let line = [device.as_os_str(), OsStr::new("--map"), map.as_os_str(), OsStr::new("--create")];
    let line = || line.into_iter().chain([OsStr::new("--control"), control.as_os_str()]);
    let start = || Server::of(&dir, line());
    let fill = |client: &mut Client| client.write(0, &vec![1; 4 << 20], 0).expect("taken");
    let server = start();
    let (mut writes, mut other) = (server.client(), server.client());
    fill(&mut writes);
    hears_once(&mut writes);
    hears_once(&mut other);
    // One that comes to the same server may have been here.
    hears_once(&mut server.client());
    server.kill();
    // The kernel has told all that it knows, and the clients of the next server cannot be told apart.
    let server = start();
    assert_eq!(Control::connect(&control).status()["disks"][0]["dirty_bytes"], SIZE);
    hears_once(&mut server.client());
    let mut durable = server.client();
    assert!(!is_durable(durable.write(SIZE - 512, &[2; 512], flag::FUA)), "as a write that has to be durable");
    assert!(is_durable(durable.flush()));
    let created = common::run(["snapshot".as_ref(), "create".as_ref(), "--server".as_ref(), control.as_os_str()]);
    created.exits(8).says("sync");
    server.stop().exits(0);
    // That was told, and looked after.
    let server = start();
    assert!(is_durable(server.client().flush()));
    // It dies before anybody has asked: the kernel tells the next one, and that all of its clients.
    fill(&mut server.client());
    server.kill();
    let server = start();
    let (mut first, mut second) = (server.client(), server.client());
    hears_once(&mut first);
    hears_once(&mut second);
    fill(&mut first);
    // What the server's own sync fails with at its end, the next one's clients hear.
    server.end().exits(8);
    hears_once(&mut start().client());
}
