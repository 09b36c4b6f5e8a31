//! What could take a backup from a set, or have it hold something else: none of it does.

mod common;

use common::sets::{assert_qemu_agrees, qemu_img};
use common::{Set, skipped};
use std::fs;
use std::os::unix::fs::FileExt;

impl Set {
    /// Has the image and its map be of another length.
    fn resize(&self, size: u64) {
        let grown = size > fs::metadata(&self.image).expect("stat").len();
        if !grown {
            fs::File::options().write(true).open(&self.image).expect("open").set_len(size).expect("cut");
        }
        let (image, size) = (self.image.as_os_str(), size.to_string());
        let more: &[_] = if grown { &["--image".as_ref(), image] } else { &[] };
        common::run([&["resize".as_ref(), self.map.as_os_str(), size.as_ref()], more].concat()).exits(0);
    }
}

/// Half a sector behind the end of an image is in its members as well: as zeros, whatever the member below has there.
#[test]
fn nothing_old_is_behind_the_end_of_an_image_that_was_cut_inside_of_a_sector() {
    const LONG: u64 = (1 << 20) + 324;
    for (cut, more) in [((1 << 20) + 5, &[][..]), ((1 << 20) + 5, &["--store-equal"]), ((1 << 20) - 7, &[])] {
        let set = Set::of_image(LONG);
        let old = fs::read(&set.image).expect("read");
        set.keep(1, &[]);
        set.resize(cut);
        set.keep(2, more);
        set.resize(LONG);
        // The same bytes as of old.
        set.write(cut, &old[cut as usize..]);
        set.keep(3, more);
        let check = |numbers: &[u32]| {
            for number in numbers {
                set.assert_restores(*number);
                if qemu_img() {
                    assert_qemu_agrees(&set.member(*number), &set.dir.path(&format!("reference-{number}")));
                }
            }
        };
        check(&[1, 2, 3]);
        dm!("set", "prune", set.folder(), "--keep", "2").exits(0);
        dm!("set", "verify", set.folder(), "--against", set.image).exits(0);
        check(&[2, 3]);
    }
    if !qemu_img() {
        skipped("what QEMU reads behind the end: no qemu-img");
    }
}

/// Also where all that was left of the last cluster is zeros, or the whole cluster is a hole.
#[test]
fn nothing_old_is_behind_an_end_of_zeros() {
    let set = Set::of_image(65536 + 300);
    set.write(65536, &[0; 100]);
    set.keep(1, &[]);
    set.resize(65536 + 50);
    set.keep(2, &[]);
    set.resize(65536 + 300);
    let image = fs::File::open(&set.image).expect("open");
    let mut tail = [1; 250];
    image.read_exact_at(&mut tail, 65536 + 50).expect("read");
    assert_eq!(tail, [0; 250], "what was cut off is gone");
    set.keep(3, &[]);
    for number in 1..4 {
        set.assert_restores(number);
        if qemu_img() {
            assert_qemu_agrees(&set.member(number), &set.dir.path(&format!("reference-{number}")));
        }
    }
    dm!("set", "prune", set.folder(), "--keep", "1").exits(0);
    set.assert_restores(3);
}
