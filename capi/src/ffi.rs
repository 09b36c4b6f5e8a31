//! What C hands over: pointers, texts, descriptors, callbacks; and the catching of panics.
//!
//! Invariant kept here: all unsafe code of this crate is in this file. Each type below can only be made by a caller in C, has
//! the layout of the pointer that the header names, and is used as the header allows: a pointer is null or points to what it
//! says, a handle is used until it is closed or freed and not after, and calls that ask to be alone are.

use crate::failure::{Failure, Result, keep_panics, panicked};
use crate::handle::{Handle, Kind};
use dirtymap::DirtyMap;
use std::cell::UnsafeCell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::NonNull;

/// Runs what a function of the header does; the code that it returns.
#[inline(always)]
pub(crate) fn call(f: impl FnOnce() -> Result<()>) -> c_int {
    call_or(f, || ())
}

/// The same, with something to do after a panic.
#[inline(always)]
fn call_or(f: impl FnOnce() -> Result<()>, after_panic: impl FnOnce()) -> c_int {
    // The error is recorded inside: what is caught is a number then.
    let done = catch_unwind(AssertUnwindSafe(|| match f() {
        Ok(()) => 0,
        Err(failure) => failure.record(),
    }));
    done.unwrap_or_else(|panic| {
        after_panic();
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref().map(String::as_str));
        let code = panicked(text.unwrap_or_default());
        // What a panic carries may panic when it is dropped.
        std::mem::forget(panic);
        code
    })
}

/// Runs a function of the header that a program may call first: from there on panics are kept, instead of printed.
pub(crate) fn first_call(f: impl FnOnce() -> Result<()>) -> c_int {
    keep_panics();
    call(f)
}

/// A pointer to what the function does not change: `const` in the header, which `tests/header.rs` compares.
pub(crate) type Const<T> = T;

/// `dirtymap_t *`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Map(Option<NonNull<Handle>>);

impl Map {
    /// Whether both are the same handle.
    pub(crate) fn is(self, other: Map) -> bool {
        self.0 == other.0
    }

    /// The handle, which other calls may be using, if there is one that is sound.
    #[inline(always)]
    pub(crate) fn glance<'a>(self) -> Option<&'a Handle> {
        // SAFETY: a handle that C has got from this library and has not given back. Calls that need it alone are alone.
        self.0.map(|handle| unsafe { handle.as_ref() }).filter(|handle| handle.is_sound())
    }

    /// Its map, if it is one in a file and sound.
    #[inline(always)]
    pub(crate) fn quick<'a>(self) -> Option<&'a DirtyMap> {
        // SAFETY: the handle as in `glance`; and what it says is the map that it holds, or null.
        self.0.and_then(|handle| unsafe { handle.as_ref().quick().as_ref() })
    }

    /// The handle, or why there is none.
    #[inline(always)]
    pub(crate) fn get<'a>(self) -> Result<&'a Handle> {
        self.glance().ok_or_else(|| self.0.map_or(Failure::Null("map"), |_| Failure::Poisoned))
    }

    /// Runs a function of the header that may run beside others of the same handle.
    #[inline(always)]
    pub(crate) fn call(self, f: impl FnOnce(&Handle) -> Result<()>) -> c_int {
        call_or(|| f(self.get()?), || self.poison())
    }

    /// Runs one that has an answer.
    #[inline(always)]
    pub(crate) fn answer<T>(self, place: Out<T>, f: impl FnOnce(&Handle) -> Result<T>) -> c_int {
        self.call(|map| {
            place.put(f(map)?);
            Ok(())
        })
    }

    /// Runs one that is alone.
    pub(crate) fn call_alone(self, f: impl FnOnce(&mut Handle) -> Result<()>) -> c_int {
        let run = || {
            self.get()?;
            let mut handle = self.0.ok_or(Failure::Null("map"))?;
            // SAFETY: as in `glance`, and the header says that no other call of this handle may run meanwhile.
            let handle = unsafe { handle.as_mut() };
            let done = f(handle);
            handle.find_quick();
            done
        };
        call_or(run, || self.poison())
    }

    fn poison(self) {
        if let Some(handle) = self.0 {
            // SAFETY: as in `glance`; no reference of the call that panicked is left.
            unsafe { handle.as_ref() }.poison();
        }
    }

    /// Gives the handle back. Null is nothing.
    pub(crate) fn free(self) {
        if let Some(handle) = self.0 {
            // SAFETY: made by `NewMap::make` in a box, given back once, and by a call that is alone.
            drop(unsafe { Box::from_raw(handle.as_ptr()) });
        }
    }
}

/// A pointer to an opaque thing other than a map.
#[repr(transparent)]
pub struct Opaque<T>(Option<NonNull<T>>);

impl<T> Clone for Opaque<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Opaque<T> {}

impl<T> Opaque<T> {
    pub(crate) fn is_null(self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn get<'a>(self, what: &'static str) -> Result<&'a T> {
        let thing = self.0.ok_or(Failure::Null(what))?;
        // SAFETY: C has got it from this library and has not given it back.
        Ok(unsafe { thing.as_ref() })
    }

    /// For calls that the header wants alone.
    pub(crate) fn get_mut<'a>(self, what: &'static str) -> Result<&'a mut T> {
        let mut thing = self.0.ok_or(Failure::Null(what))?;
        // SAFETY: as in `glance`, and the header says that no other call with it may run meanwhile.
        Ok(unsafe { thing.as_mut() })
    }

    /// Takes it back; `None` for null.
    pub(crate) fn take(self) -> Option<Box<T>> {
        // SAFETY: made by `Out::put_box`, and given back once.
        self.0.map(|thing| unsafe { Box::from_raw(thing.as_ptr()) })
    }
}

/// A place for an answer.
#[repr(transparent)]
pub struct Out<T>(Option<NonNull<T>>);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Puts the answer there, if it is wanted.
    #[inline(always)]
    pub(crate) fn put(self, answer: T) {
        if let Some(place) = self.0 {
            // SAFETY: C has memory for it there; it may hold nothing yet, and so is not dropped.
            unsafe { place.write(answer) };
        }
    }

    /// For answers that must not get lost.
    pub(crate) fn wanted(self, what: &'static str) -> Result<Self> {
        if self.0.is_some() { Ok(self) } else { Err(Failure::Null(what)) }
    }
}

/// A place for something that C gives back later.
pub(crate) type New<T> = Out<Option<NonNull<T>>>;

/// `dirtymap_t **`.
pub(crate) type NewMap = New<Handle>;

fn boxed<T>(thing: T) -> NonNull<T> {
    NonNull::from(Box::leak(Box::new(thing)))
}

impl<T> New<T> {
    /// Gives it to C, in a place that was found to be wanted.
    pub(crate) fn put_box(self, thing: T) {
        self.put(Some(boxed(thing)));
    }
}

impl NewMap {
    /// Gives C a handle of what is made, if there is a place for it.
    pub(crate) fn make(self, kind: impl FnOnce() -> Result<Kind>) -> Result<()> {
        self.make_if_any(|| kind().map(Some))
    }

    /// The same, or null.
    pub(crate) fn make_if_any(self, kind: impl FnOnce() -> Result<Option<Kind>>) -> Result<()> {
        let place = self.wanted("the place for a map")?;
        place.put(kind()?.map(|kind| boxed(Handle::new(kind))));
        Ok(())
    }
}

/// A place for a struct that may be longer, or shorter, in the header that the caller was compiled with.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Struct<T>(Out<T>);

impl<T> Struct<T> {
    /// Puts as much of it there as the caller knows of; zeros where the caller knows more.
    pub(crate) fn put(self, answer: &T, size: usize) -> Result<()> {
        if size == 0 {
            return Err(Failure::Argument("the size of the struct is 0"));
        }
        fits(1, size)?;
        let to = self.0.0.ok_or(Failure::Null("the place for the answer"))?.cast::<u8>().as_ptr();
        let known = size.min(size_of::<T>());
        // SAFETY: C has `size` bytes there. All structs that are used here are made of numbers, without gaps between
        // them, which `layout.rs` asserts.
        unsafe {
            to.copy_from_nonoverlapping(std::ptr::from_ref(answer).cast(), known);
            to.add(known).write_bytes(0, size - known);
        }
        Ok(())
    }
}

/// An array of structs with a size of the caller's.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Structs<T>(Out<T>);

impl<T> Structs<T> {
    /// Fills as many as there are places.
    pub(crate) fn put(self, answers: &[T], size: usize, places: usize) -> Result<()> {
        for (i, answer) in answers.iter().take(places).enumerate() {
            let (first, behind) = (self.0.0.ok_or(Failure::Null("the array"))?, fits(i, size)?);
            // SAFETY: C has `places` elements of `size` bytes there, and i is below that number.
            let place = unsafe { first.cast::<u8>().add(behind).cast::<T>() };
            Struct(Out(Some(place))).put(answer, size)?;
        }
        Ok(())
    }
}

/// Whether memory can hold so many elements of a size; nothing is behind its half.
fn fits(n: usize, size: usize) -> Result<usize> {
    let bytes = n.checked_mul(size).filter(|bytes| isize::try_from(*bytes).is_ok());
    bytes.ok_or(Failure::Argument("no memory is as large"))
}

/// So many elements that the caller has put somewhere.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Array<T>(Option<NonNull<T>>);

impl<T> Array<T> {
    pub(crate) fn get<'a>(self, n: usize, what: &'static str) -> Result<&'a [T]> {
        fits(n, size_of::<T>())?;
        match self.0 {
            // SAFETY: C has n elements there, all of numbers, and leaves them alone for the time of the call.
            Some(first) => Ok(unsafe { std::slice::from_raw_parts(first.as_ptr(), n) }),
            None if n == 0 => Ok(&[]),
            None => Err(Failure::Null(what)),
        }
    }
}

/// Bytes to be filled.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Buffer(Option<NonNull<u8>>);

impl Buffer {
    pub(crate) fn get<'a>(self, n: usize) -> Result<&'a mut [u8]> {
        fits(n, 1)?;
        match self.0 {
            // SAFETY: C has n bytes there. That they may hold nothing yet does not matter to who only writes to them; they are
            // zeroed first all the same, which makes them something that a slice may have.
            Some(first) => Ok(unsafe {
                first.write_bytes(0, n);
                std::slice::from_raw_parts_mut(first.as_ptr(), n)
            }),
            None if n == 0 => Ok(&mut []),
            None => Err(Failure::Null("the buffer")),
        }
    }
}

/// Something plain that the caller keeps, and the library changes in place.
#[repr(transparent)]
pub struct Kept<T>(Option<NonNull<T>>);

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Kept<T> {}

impl<T: Copy> Kept<T> {
    #[inline(always)]
    pub(crate) fn get(self, what: &'static str) -> Result<T> {
        let place = self.0.ok_or(Failure::Null(what))?;
        // SAFETY: C has one there, made of numbers, for which any bytes are right.
        Ok(unsafe { place.read() })
    }

    #[inline(always)]
    pub(crate) fn put(self, new: T) {
        Out(self.0).put(new);
    }
}

/// `bool` of C as an argument: whatever byte a caller passes, all but 0 is true.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Flag(u8);

impl Flag {
    pub(crate) fn is_set(self) -> bool {
        self.0 != 0
    }
}

/// A text that ends with a zero byte.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(Option<NonNull<c_char>>);

impl Text {
    fn bytes<'a>(self) -> Option<&'a [u8]> {
        // SAFETY: C has a text there that ends with a zero byte, and leaves it alone for the time of the call.
        self.0.map(|text| unsafe { CStr::from_ptr(text.as_ptr()) }.to_bytes())
    }

    /// `None` for null.
    pub(crate) fn optional<'a>(self, what: &'static str) -> Result<Option<&'a str>> {
        let read = |bytes| std::str::from_utf8(bytes).map_err(|_| Failure::Text(what));
        self.bytes().map(read).transpose()
    }

    pub(crate) fn get<'a>(self, what: &'static str) -> Result<&'a str> {
        self.optional(what)?.ok_or(Failure::Null(what))
    }

    /// Any bytes are a path.
    pub(crate) fn optional_path<'a>(self) -> Option<&'a Path> {
        self.bytes().map(|bytes| Path::new(OsStr::from_bytes(bytes)))
    }

    pub(crate) fn path<'a>(self) -> Result<&'a Path> {
        self.optional_path().ok_or(Failure::Null("path"))
    }
}

/// Runs something with the file of a descriptor, which stays the caller's, and stays open for the time of the call.
pub(crate) fn with_file<R>(fd: c_int, f: impl FnOnce(&File) -> R) -> Result<R> {
    if fd < 0 {
        return Err(Failure::Argument("a descriptor is not negative"));
    }
    dirtymap::with_descriptor(fd, f).map_err(not_seen(fd))
}

/// The error of a descriptor whose file could not be looked at.
pub(crate) fn not_seen(fd: c_int) -> impl FnOnce(io::Error) -> Failure {
    move |source| dirtymap::Error::Io { op: "look at", path: format!("descriptor {fd}").into(), source }.into()
}

/// A function of the caller's and what it wants to be called with.
#[derive(Clone, Copy)]
pub(crate) struct Callback<F> {
    pub(crate) function: F,
    opaque: *mut c_void,
}

// SAFETY: the header says that callbacks may be called from any thread.
unsafe impl<F> Send for Callback<F> {}
// SAFETY: and from several at once.
unsafe impl<F> Sync for Callback<F> {}

impl<F: Copy> Callback<F> {
    pub(crate) fn new(function: F, opaque: *mut c_void) -> Callback<F> {
        Callback { function, opaque }
    }

    pub(crate) fn opaque(&self) -> *mut c_void {
        self.opaque
    }
}

/// `int (*)(const struct dirtymap_progress *, void *)`, or null.
pub(crate) type ProgressFn = Option<unsafe extern "C" fn(*const crate::layout::Progress, *mut c_void) -> c_int>;

/// `int (*)(const dirtymap_uuid_t *, void *)`, or null.
pub(crate) type SettleFn = Option<unsafe extern "C" fn(*const [u8; 16], *mut c_void) -> c_int>;

/// `void (*)(const struct dirtymap_event *, void *)`, or null.
pub(crate) type EventFn = Option<unsafe extern "C" fn(*const crate::layout::Event, *mut c_void)>;

impl Callback<ProgressFn> {
    /// Whether the work is to stop.
    pub(crate) fn tell(&self, progress: &crate::layout::Progress) -> bool {
        // SAFETY: a function of this type that C keeps for as long as it is called.
        self.function.is_some_and(|function| unsafe { function(progress, self.opaque()) } != 0)
    }
}

impl Callback<SettleFn> {
    /// Whether the freeze is to fail.
    pub(crate) fn tell(&self, checkpoint: &[u8; 16]) -> bool {
        // SAFETY: as above.
        self.function.is_some_and(|function| unsafe { function(checkpoint, self.opaque()) } != 0)
    }
}

impl Callback<EventFn> {
    pub(crate) fn tell(&self, event: &crate::layout::Event) {
        if let Some(function) = self.function {
            // SAFETY: as above.
            unsafe { function(event, self.opaque()) }
        }
    }
}

/// What only one thread at a time changes, and none reads meanwhile: the header says so of maps in memory.
pub(crate) struct OneWriter<T>(UnsafeCell<T>);

impl<T> OneWriter<T> {
    pub(crate) fn new(value: T) -> OneWriter<T> {
        OneWriter(UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn read(&self) -> &T {
        // SAFETY: nobody changes it meanwhile. Within a call a map is never the one that is changed and one that is read:
        // callers compare handles first.
        unsafe { &*self.0.get() }
    }

    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "by the contract of the header, as above")]
    pub(crate) fn write(&self) -> &mut T {
        // SAFETY: as in `read`, and nobody else reads or changes it.
        unsafe { &mut *self.0.get() }
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

/// What the header lets threads share, and what it lets one thread have after another.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    const fn passed_on<T: Send>() {}
    shared::<(DirtyMap, dirtymap::Bitmap, dirtymap::checkpoint::PointSet, crate::options::Options, crate::queue::Queue)>(
    );
    passed_on::<(dirtymap::serialize::Loading, dirtymap::serialize::MapLoading, dirtymap::OwnedWriteGuard)>();
    passed_on::<(dirtymap::NewFile, crate::fsck::Told)>();
};

/// `dirtymap_write_t`: eight words that the caller keeps, with a guard of the library in them.
#[repr(C)]
pub struct Slot<T> {
    /// [`BEGUN`] when there is one.
    begun: u64,
    guard: MaybeUninit<T>,
}

/// No number that memory holds by chance.
const BEGUN: u64 = 0x4d44_2e57_5249_5445;

impl<T> Slot<T> {
    pub(crate) fn new(guard: T) -> Slot<T> {
        Slot { begun: BEGUN, guard: MaybeUninit::new(guard) }
    }
}

impl<T> Kept<Slot<T>> {
    /// Has it hold none, for a call that may fail.
    #[inline(always)]
    pub(crate) fn clear(self) {
        Out(self.0.map(NonNull::cast::<[u8; crate::layout::OPAQUE]>)).put([0; crate::layout::OPAQUE]);
    }

    pub(crate) fn wanted(self) -> Result<Self> {
        if self.0.is_some() { Ok(self) } else { Err(Failure::Null("write")) }
    }

    /// Whatever was there is not looked at.
    pub(crate) fn fill(self, guard: T) {
        Out(self.0).put(Slot::new(guard));
    }

    /// Takes the guard out; `None` if there is none.
    pub(crate) fn take(self) -> Result<Option<T>> {
        let mut place = self.0.ok_or(Failure::Null("write"))?;
        // SAFETY: C has one there that a begin has filled, or zeros; it may have moved it as bytes, which a guard survives.
        let slot = unsafe { place.as_mut() };
        if std::mem::take(&mut slot.begun) != BEGUN {
            return Ok(None);
        }
        // SAFETY: it was filled, and the mark that said so is gone.
        Ok(Some(unsafe { slot.guard.assume_init_read() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirtymap::Bitmap;

    /// A handle as C has it.
    fn handle() -> Map {
        let mut place: Option<NonNull<Handle>> = None;
        let new: NewMap = Out(Some(NonNull::from(&mut place)));
        assert!(new.make(|| Ok(Kind::memory(Bitmap::new(100, 0)?))).is_ok());
        Map(place)
    }

    fn message() -> String {
        // SAFETY: what the function returns is a text until the next error of this thread.
        unsafe { CStr::from_ptr(crate::failure::dirtymap_error_message()) }.to_str().unwrap().into()
    }

    #[test]
    fn a_panic_becomes_an_error_and_poisons_its_handle_only() {
        let (map, other) = (handle(), handle());
        keep_panics();
        assert_eq!(map.call(|_| panic!("thirteen")), 107);
        assert!(message().contains("thirteen") && message().contains("src/ffi.rs"), "{}", message());
        assert_eq!((map.call(|_| Ok(())), map.call_alone(|_| Ok(()))), (108, 108));
        assert_eq!(other.call_alone(|_| panic!("fourteen")), 107);
        assert_eq!((map.call(|_| Ok(())), other.call(|_| Ok(()))), (108, 108));
        map.free();
        other.free();
        assert_eq!(call(|| panic!("fifteen")), 107);
        // One of another thread, which goes on here.
        let elsewhere = std::thread::spawn(|| panic!("sixteen")).join();
        assert_eq!(call(|| std::panic::resume_unwind(elsewhere.unwrap_err())), 107);
        assert!(message().contains("sixteen"), "{}", message());
        assert_eq!(handle().call(|_| Ok(())), 0);
    }

    #[test]
    fn what_a_panic_carries_may_panic_itself() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("twice");
            }
        }
        keep_panics();
        assert_eq!(call(|| std::panic::panic_any(Bomb)), 107);
    }
}
