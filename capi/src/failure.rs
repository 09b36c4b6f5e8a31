//! Why a call failed: codes, and what is said of the last failure of each thread.
//!
//! Invariant kept here: codes never change. Those below 100 are the library's, those from 100 on are of this crate.

use dirtymap::Error;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::Once;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a call failed.
pub(crate) enum Failure {
    /// The library says so.
    Library { code: u32, message: String, cause: u32, errno: c_int },
    /// An argument is null that must not be.
    Null(&'static str),
    /// A text that is not UTF-8.
    Text(&'static str),
    /// A map of a kind that cannot do this.
    Kind(&'static str),
    /// The map is being loaded.
    Loading,
    /// Writes have not ended, or queues are not freed.
    InUse,
    /// There is no write that could end.
    NoWrite,
    /// A number that means nothing.
    Argument(&'static str),
    /// A call of this handle has panicked before.
    Poisoned,
    /// Nothing is ready; no message.
    Again,
}

const PANIC: c_int = 107;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::from(&error)
    }
}

impl From<&Error> for Failure {
    #[cold]
    fn from(error: &Error) -> Failure {
        Failure::Library { code: error.code(), message: error.to_string(), cause: cause(error), errno: errno(error) }
    }
}

/// What is kept of the last failure of a thread.
struct Last {
    message: RefCell<Option<CString>>,
    cause: Cell<u32>,
    errno: Cell<c_int>,
    /// What the last panic said, and where.
    panic: RefCell<String>,
}

thread_local! {
    static LAST: Last = const {
        Last {
            message: RefCell::new(None),
            cause: Cell::new(0),
            errno: Cell::new(0),
            panic: RefCell::new(String::new()),
        }
    };
}

impl Failure {
    fn code(&self) -> c_int {
        match self {
            // Codes of the library are below 100.
            Failure::Library { code, .. } => *code as c_int,
            Failure::Null(_) => 100,
            Failure::Text(_) => 101,
            Failure::Kind(_) => 102,
            Failure::Loading => 103,
            Failure::InUse => 104,
            Failure::NoWrite => 105,
            Failure::Argument(_) => 106,
            Failure::Poisoned => 108,
            Failure::Again => 109,
        }
    }

    fn message(self) -> String {
        match self {
            Failure::Library { message, .. } => message,
            Failure::Null(what) => format!("NULL was given for {what}"),
            Failure::Text(what) => format!("{what} is not UTF-8"),
            Failure::Kind(what) => format!("this map cannot do that: {what}"),
            Failure::Loading => "the map is being loaded; finish that first".into(),
            Failure::InUse => "writes of this map have not ended, or a queue of it is not freed; do that first".into(),
            Failure::NoWrite => "no write is under way there: it never began, or has ended".into(),
            Failure::Argument(what) => format!("a wrong argument: {what}"),
            Failure::Poisoned => {
                "an earlier call with this handle ended in a bug of dirtymap; it can only be freed, and the map opened again"
                    .into()
            }
            Failure::Again => "nothing is ready; wait for the descriptor of the queue".into(),
        }
    }

    /// Keeps what there is to say for this thread; the code.
    #[cold]
    pub(crate) fn record(self) -> c_int {
        let code = self.code();
        // Often, and no failure: as cheap as can be.
        if !matches!(self, Failure::Again) {
            let (cause, errno) = match self {
                Failure::Library { cause, errno, .. } => (cause, errno),
                _ => (0, 0),
            };
            keep(self.message(), cause, errno);
        }
        code
    }
}

/// The cause within a kind of error; 0 where there is none.
fn cause(error: &Error) -> u32 {
    match error {
        Error::Locked { what, .. } => what.code(),
        Error::Corrupt { what, .. } => what.code(),
        Error::Unusable { why } => why.code(),
        Error::Refused { why, .. } => why.code(),
        _ => 0,
    }
}

/// The system's number for what it refused.
fn errno(error: &Error) -> c_int {
    match error {
        Error::Io { source, .. } => source.raw_os_error().unwrap_or(0),
        _ => 0,
    }
}

fn keep(message: String, cause: u32, errno: c_int) {
    // At the end of a thread it may be gone.
    let _ = LAST.try_with(|last| {
        *last.message.borrow_mut() = Some(CString::new(message.replace('\0', "\\0")).unwrap_or_default());
        last.cause.set(cause);
        last.errno.set(errno);
    });
}

/// A panic was caught that carries this text, and may be of another thread; the code.
#[cold]
pub(crate) fn panicked(carried: &str) -> c_int {
    let said = LAST.try_with(|last| last.panic.take()).ok().filter(|said| said.contains(carried));
    let said = said.unwrap_or_else(|| carried.into());
    keep(format!("a bug of dirtymap, please report it: {said}"), 0, 0);
    PANIC
}

/// Has panics kept for the message of the call, instead of printed. This copy of Rust's library has one such hook, and is
/// nobody else's.
pub(crate) fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let _ = LAST.try_with(|last| *last.panic.borrow_mut() = panic.to_string());
        }));
    });
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn dirtymap_error_message() -> *const c_char {
    let message = |last: &Last| last.message.borrow().as_ref().map_or(c"".as_ptr(), |message| message.as_ptr());
    LAST.try_with(message).unwrap_or(c"".as_ptr())
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_error_cause() -> u32 {
    LAST.try_with(|last| last.cause.get()).unwrap_or(0)
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_error_errno() -> c_int {
    LAST.try_with(|last| last.errno.get()).unwrap_or(0)
}

/// Kinds, by their codes.
const KINDS: [&CStr; 28] = [
    c"ok",
    c"out-of-range",
    c"unaligned",
    c"geometry",
    c"not-serializable",
    c"chunk-size",
    c"stray-bits",
    c"zero-length",
    c"mismatch",
    c"out-of-memory",
    c"io",
    c"not-found",
    c"permission",
    c"no-space",
    c"is-a-directory",
    c"not-a-dirtymap",
    c"unsupported",
    c"corrupt",
    c"locked",
    c"exists",
    c"read-only",
    c"unusable",
    c"checkpoint-outstanding",
    c"no-checkpoint",
    c"no-point",
    c"busy",
    c"interrupted",
    c"refused",
];

/// The same of this crate's codes, from 100 on.
const OWN_KINDS: [&CStr; 10] =
    [c"null", c"text", c"wrong-kind", c"loading", c"in-use", c"no-write", c"argument", c"panic", c"poisoned", c"again"];

#[unsafe(no_mangle)]
extern "C" fn dirtymap_error_kind(code: c_int) -> *const c_char {
    let at = |kinds: &[&'static CStr], i: c_int| usize::try_from(i).ok().and_then(|i| kinds.get(i)).copied();
    at(&KINDS, code).or_else(|| at(&OWN_KINDS, code.saturating_sub(100))).unwrap_or(c"unknown").as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
