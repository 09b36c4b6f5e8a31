//! A guest boots from an export and writes to it, while its server is killed and started anew.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::serving::Server;
use common::{Dir, GRANULE, MIB, areas, have, pattern};
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SECTOR: u64 = 512;
/// Where it writes: to 256 sectors, again and again.
const FIRST: u64 = 128;
/// Writes in all.
const WRITES: u16 = 0x400;

/// The boot sector, by the BIOS: reads sector 1, and writes it `WRITES` times with a number in its first two bytes, each number
/// to sector `FIRST` + number modulo 256. Then ends the emulator with 33, or with 35 if the BIOS calls something failed.
///
/// ```text
/// 00  xor ax,ax; mov ds,ax; mov ss,ax; mov sp,0x7c00; mov [drive],dl
/// 0d  mov ah,0x42; call disk                      ; read into 0x8000
/// 12  again: mov ax,[count]; mov [0x8000],ax
/// 18  xor ah,ah; add ax,128; mov [sector],ax
/// 20  mov ax,0x4300; call disk                    ; write
/// 26  inc word [count]; cmp word [count],0x400; jb again
/// 32  mov al,0x10; jmp exit
/// 36  disk: mov dl,[drive]; mov si,packet; int 0x13; jc failed; ret
/// 42  failed: mov al,0x11
/// 44  exit: mov dx,0xf4; out dx,al; halt: hlt; jmp halt
/// 4b  drive: db 0; count: dw 0
/// 4e  packet: db 16,0; dw 1,0x8000,0; sector: dq 1
/// ```
const BOOT: [u8; 94] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0x88, 0x16, 0x4b, 0x7c, 0xb4, 0x42, 0xe8, 0x24, 0x00, 0xa1,
    0x4c, 0x7c, 0xa3, 0x00, 0x80, 0x30, 0xe4, 0x05, 0x80, 0x00, 0xa3, 0x56, 0x7c, 0xb8, 0x00, 0x43, 0xe8, 0x10, 0x00,
    0xff, 0x06, 0x4c, 0x7c, 0x81, 0x3e, 0x4c, 0x7c, 0x00, 0x04, 0x72, 0xe0, 0xb0, 0x10, 0xeb, 0x0e, 0x8a, 0x16, 0x4b,
    0x7c, 0xbe, 0x4e, 0x7c, 0xcd, 0x13, 0x72, 0x01, 0xc3, 0xb0, 0x11, 0xba, 0xf4, 0x00, 0xee, 0xf4, 0xeb, 0xfd, 0x00,
    0x00, 0x00, 0x10, 0x00, 0x01, 0x00, 0x00, 0x80, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];

/// Ends with the test, however that ends.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_guest_boots_and_does_not_see_that_its_server_is_killed() {
    if !have("qemu-system-x86_64") {
        return;
    }
    let dir = Dir::new();
    let (image, map) = (dir.path("disk.raw"), dir.path("disk.map"));
    let mut content = pattern(4 * MIB, 1);
    content[..SECTOR as usize].fill(0);
    content[..BOOT.len()].copy_from_slice(&BOOT);
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&image, &content).expect("write");
    dm!("create", map, "--image", image).exits(0);
    dm!("reset", map, "--all").exits(0);
    let mut server = Server::start(&dir, &[]);
    let nbd = format!(
        "driver=nbd,node-name=disk,server.type=unix,server.path={},reconnect-delay=60",
        dir.path("socket").display()
    );
    let mut guest = Command::new("qemu-system-x86_64");
    guest.args(["-machine", "pc,accel=kvm:tcg", "-nodefaults", "-display", "none", "-no-reboot"]);
    guest.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-blockdev", &nbd]);
    guest.args(["-device", "virtio-blk-pci,drive=disk"]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut guest = Guest(guest.spawn().expect("run qemu"));
    // What the guest has written by now.
    let written = || {
        let mut bytes = [0; 2];
        let image = fs::File::open(&image).expect("open");
        image.read_exact_at(&mut bytes, FIRST * SECTOR).expect("read");
        u16::from_le_bytes(bytes)
    };
    let untouched = written();
    let mut kills = 0;
    let ended = loop {
        if let Some(ended) = guest.0.try_wait().expect("wait") {
            break ended;
        }
        // Each time that it has got on.
        if written() != untouched && kills < 2 {
            let before = written();
            server.kill();
            server = Server::start(&dir, &[]);
            kills += 1;
            while written() == before && guest.0.try_wait().expect("wait").is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let mut said = String::new();
    guest.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(ended.code(), Some(33), "{said}");
    assert!(kills > 0, "the guest was done before anything could be killed");
    let sector = content[SECTOR as usize..2 * SECTOR as usize].to_vec();
    for number in WRITES - 256..WRITES {
        let at = ((FIRST + u64::from(number % 256)) * SECTOR) as usize;
        content[at..at + SECTOR as usize].copy_from_slice(&sector);
        content[at..at + 2].copy_from_slice(&number.to_le_bytes());
    }
    server.stop().exits(0);
    assert!(fs::read(&image).expect("read") == content);
    // What a kill leaves armed is dirty as well.
    let dirty = areas(&map);
    assert!(dirty.iter().any(|area| area.start <= GRANULE && 3 * GRANULE <= area.end), "{dirty:?}");
}
