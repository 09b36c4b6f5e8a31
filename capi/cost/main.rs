//! What a call costs from C, beside the same call of the library from Rust: in one process, by turns, the best of many rounds
//! each. `make cost` builds and runs it.

use dirtymap::iter::Cursor;
use dirtymap::{Bitmap, DirtyMap, Options};
use std::ffi::{CString, c_char, c_int, c_void};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

type Loop = unsafe extern "C" fn(*mut c_void, *const u64, usize, u64) -> c_int;

/// Calls for each turn, and turns.
const CALLS: usize = 100_000;
const TURNS: usize = 300;
const GRANULE: u64 = 65536;

/// The library of the loops, which brings libdirtymap.so.
struct Loaded(*mut c_void);

impl Loaded {
    fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: a library that was loaded, and a text.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "no {name:?}");
        found
    }

    fn loop_of(&self, name: &str) -> Loop {
        // SAFETY: the loops of loops.c have this type.
        unsafe { std::mem::transmute(self.symbol(name)) }
    }
}

/// The best time of a call, of both, by turns; in nanoseconds.
fn by_turns(mut rust: impl FnMut(), mut c: impl FnMut()) -> (f64, f64) {
    let time = |f: &mut dyn FnMut()| {
        let begin = Instant::now();
        f();
        begin.elapsed().as_secs_f64() * 1e9 / CALLS as f64
    };
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..TURNS {
        best = (best.0.min(time(&mut rust)), best.1.min(time(&mut c)));
    }
    best
}

fn main() {
    let loops = CString::new(std::env::args().nth(1).expect("usage: cost LOOPS.so")).unwrap();
    // SAFETY: a library of this repository.
    let loaded = Loaded(unsafe { libc::dlopen(loops.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) });
    assert!(!loaded.0.is_null(), "cannot load {loops:?}");
    let dir = tempfile::tempdir().unwrap();
    // Scattered over 128 MiB, every second granule: all of it is in the processor's caches.
    let starts: Vec<u64> = (0..CALLS as u64).map(|i| i * 7919 % 1024 * 2 * GRANULE).collect();
    println!("{:34} {:>8} {:>8} {:>6}", "call", "Rust, ns", "C, ns", "ratio");

    let row = |what: &str, name: &str, handle: *mut c_void, rust: &mut dyn FnMut(u64)| {
        let c = loaded.loop_of(name);
        // SAFETY: the handle is one of libdirtymap.so, and starts has CALLS elements.
        let in_c = || assert_eq!(unsafe { c(black_box(handle), starts.as_ptr(), CALLS, 4096) }, 0);
        let (rust, c) = by_turns(|| starts.iter().for_each(|start| rust(*start)), in_c);
        println!("{what:34} {rust:8.2} {c:8.2} {:6.2}", c / rust);
    };

    let map = filled(&dir.path().join("rust"));
    map.flush().unwrap();
    let handle = in_c(&loaded, &dir.path().join("c"));
    let file = &*map;
    row("set, flushed", "loop_set", handle, &mut |at| _ = black_box(file).set(at..at + 4096).unwrap());
    row("get", "loop_get", handle, &mut |at| _ = black_box(black_box(file).get(at).unwrap()));
    let shared = black_box(&map);
    row("begin_write and end", "loop_write", handle, &mut |at| drop(shared.begin_write_owned(at..at + 4096).unwrap()));
    let mut cursor = Cursor::new(0..0);
    row("an area of a map, by a cursor", "loop_extents", handle, &mut |_| {
        while black_box(cursor.next_extent(file)).is_none() {
            cursor = Cursor::new(0..u64::MAX);
        }
    });

    let mut memory = Bitmap::new(1 << 30, 16).unwrap();
    let handle = memory_in_c(&loaded);
    row("set, in memory", "loop_set", handle, &mut |at| _ = black_box(&mut memory).set(at..at + 4096).unwrap());
    row("get, in memory", "loop_get", handle, &mut |at| _ = black_box(black_box(&memory).get(at).unwrap()));
}

/// A map in which is dirty, and flushed, what the loops mark.
fn filled(path: &Path) -> Arc<DirtyMap> {
    let map = Options::new().flush_interval(None).create(path, 1 << 30).unwrap();
    (0..1024).for_each(|i| _ = map.set(2 * i * GRANULE..(2 * i + 1) * GRANULE).unwrap());
    map.flush().unwrap();
    Arc::new(map)
}

/// The same map by a handle of libdirtymap.so.
fn in_c(loaded: &Loaded, path: &Path) -> *mut c_void {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let mut handle = std::ptr::null_mut();
    // SAFETY: the types of the header.
    unsafe {
        type Create = unsafe extern "C" fn(*const c_char, u64, *const c_void, *mut *mut c_void) -> c_int;
        let create: Create = std::mem::transmute(loaded.symbol("dirtymap_create"));
        type Set = unsafe extern "C" fn(*mut c_void, u64, u64, *mut u64) -> c_int;
        let set: Set = std::mem::transmute(loaded.symbol("dirtymap_set"));
        let flush: unsafe extern "C" fn(*mut c_void) -> c_int = std::mem::transmute(loaded.symbol("dirtymap_flush"));
        assert_eq!(create(path.as_ptr(), 1 << 30, std::ptr::null(), &mut handle), 0);
        (0..1024).for_each(|i| assert_eq!(set(handle, 2 * i * GRANULE, GRANULE, std::ptr::null_mut()), 0));
        assert_eq!(flush(handle), 0);
    }
    handle
}

fn memory_in_c(loaded: &Loaded) -> *mut c_void {
    let mut handle = std::ptr::null_mut();
    // SAFETY: the types of the header.
    unsafe {
        type New = unsafe extern "C" fn(u64, u64, *mut *mut c_void) -> c_int;
        let new: New = std::mem::transmute(loaded.symbol("dirtymap_new"));
        assert_eq!(new(1 << 30, GRANULE, &mut handle), 0);
    }
    handle
}
