//! Exit codes, and failures that carry them.
//!
//! Invariant kept here: every way out of the command has one of these codes; where several apply, the highest.

use crate::time::time;
use dirtymap::{CloseError, Error, error::Corruption};
use dirtymap_cli::shown::shown;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;

/// How a command ended. Ordered: the highest applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Fine.
    Fine = 0,
    /// Something was wrong and is corrected now.
    Corrected = 1,
    /// Unclean, but only extra dirt.
    Unclean = 2,
    /// Damage.
    Damage = 4,
    /// An operational error, or arguments that do not fit this file.
    Operational = 8,
    /// Arguments that are wrong by themselves.
    Usage = 16,
    /// Interrupted by a signal.
    Interrupted = 32,
}

impl Exit {
    /// Two maps differ. Shares its code with [`Exit::Corrected`]: no command can end with both.
    pub const DIFFERENT: Exit = Exit::Corrected;

    /// The code that the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command failed: what a person reads and what a program reads.
#[derive(Debug)]
pub struct Failure {
    /// Short, stable, machine-readable.
    pub kind: Cow<'static, str>,
    /// What was found, where, what was expected and what to do.
    pub message: String,
    /// The code to exit with.
    pub exit: Exit,
}

/// `Result` of a command or a part of one.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// An operational error.
    pub fn new(kind: &'static str, message: impl Into<String>) -> Failure {
        Failure { kind: kind.into(), message: message.into(), exit: Exit::Operational }
    }

    /// Arguments that are wrong whatever the file.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { kind: "usage".into(), message: message.into(), exit: Exit::Usage }
    }

    /// Stopped by a signal.
    pub fn interrupted(message: impl Into<String>) -> Failure {
        Failure { kind: "interrupted".into(), message: message.into(), exit: Exit::Interrupted }
    }

    /// What the system said about `what`, which is a file and what was done with it.
    pub fn io(what: impl fmt::Display, e: &std::io::Error) -> Failure {
        use std::io::ErrorKind as K;
        let kind = match e.kind() {
            K::NotFound => "not-found",
            K::PermissionDenied => "permission",
            K::StorageFull | K::QuotaExceeded => "no-space",
            K::IsADirectory => "is-a-directory",
            K::AlreadyExists => "exists",
            _ => "io",
        };
        Failure::new(kind, format!("{what}: {e}")).advised()
    }

    /// What to do about what the system refuses, whatever it was.
    fn advised(self) -> Failure {
        match &*self.kind {
            "permission" => self.and("run it as a user who may, or give this one permission"),
            "no-space" => self.and("make room there, or give another place, and start it again"),
            "is-a-directory" => self.and("give a file"),
            _ => self,
        }
    }

    /// What the system said when a file was opened.
    pub fn open(path: &Path, e: &std::io::Error) -> Failure {
        Failure::at(path, "open", e)
    }

    /// What the system said when something was done with a name, and what to look at next.
    pub fn at(path: &Path, what: &str, e: &std::io::Error) -> Failure {
        let failure = Failure::io(format_args!("{}: {what}", path.display()), e);
        if failure.kind == "not-found" { failure.of_nothing(path) } else { failure }
    }

    /// The failure of a name behind which nothing is: which part of it is there. A link that leads nowhere is called that.
    pub fn of_nothing(self, path: &Path) -> Failure {
        if let Some(message) = leads_nowhere(path) {
            return Failure { message, ..self };
        }
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let folder = whole.parent().unwrap_or(&whole);
        match whole.ancestors().skip(1).find(|above| above.exists()) {
            Some(there) if there != folder => {
                let (folder, there) = (folder.display(), there.display());
                self.and(format_args!("look at the name: there is no folder {folder}, of which only {there} is there"))
            }
            _ => self
                .and(format_args!("look at the name: the folder {} has nothing that is called so", folder.display())),
        }
    }

    /// The same failure, with more to say at the end.
    pub fn and(mut self, more: impl fmt::Display) -> Failure {
        self.message = format!("{}; {more}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The JSON of a failure.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorAnswer {
    error: ErrorFields,
}

#[derive(Debug, Serialize, Deserialize)]
struct ErrorFields {
    kind: Cow<'static, str>,
    message: String,
    exit: u8,
}

impl From<Failure> for ErrorAnswer {
    fn from(Failure { kind, message, exit }: Failure) -> ErrorAnswer {
        ErrorAnswer { error: ErrorFields { kind, message, exit: exit.code() } }
    }
}

impl From<ErrorAnswer> for Failure {
    /// What another process failed with. Who reads it has answered nothing either: whatever the code, it is an error.
    fn from(ErrorAnswer { error }: ErrorAnswer) -> Failure {
        Failure { kind: error.kind, message: error.message, exit: Exit::Operational }
    }
}

impl From<CloseError> for Failure {
    fn from(e: CloseError) -> Failure {
        Error::from(e).into()
    }
}

/// What to say of a symbolic link to something that is not there.
pub fn leads_nowhere(path: &Path) -> Option<String> {
    let to = path.read_link().ok().filter(|_| !path.exists())?;
    let (link, to) = (shown(path), shown(&to));
    Some(format!("{link}: is a symbolic link to {to}, which is not there; make that, or give another name"))
}

/// Whether nothing in a file says what map it is: then no command has an answer, as with a file that is no map.
pub fn is_without_header(e: &Error) -> bool {
    matches!(e, Error::Corrupt { what: Corruption::Headers, .. })
}

/// What to do with a map that nothing can be read from.
pub fn make_anew(map: impl fmt::Display, image: &str) -> String {
    format!(
        "move this file away, make a new map for the image (dirtymap create {map} --image {image}), which starts all \
         dirty, and take a full backup"
    )
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        let message = match &e {
            // The library names its functions; here they are options.
            Error::Unaligned { start, end, granule, len } => format!(
                "reset of bytes {start} to {end} would clear granules of {granule} bytes that it covers only in part, \
                 and forget dirt; offset and end must be multiples of {granule} (the end may be {len}), or use \
                 --within or --covering"
            ),
            Error::OutOfRange { start, end, len } => {
                format!("bytes {start} to {end} reach past the map's end; it covers bytes 0 to {len}")
            }
            Error::Corrupt { path, place, found, expected, .. } if is_without_header(&e) => format!(
                "{path}: {place}: found {found}, expected {expected}; there is nothing to go by: {}",
                make_anew(path.display(), "IMAGE"),
                path = path.display()
            ),
            Error::Locked { .. } => format!("{e} (--wait SECS)"),
            Error::Outstanding { path, state, uuid, name, time: begun } => {
                let name = if name.is_empty() { String::new() } else { format!(" named {name:?}") };
                format!(
                    "{}: checkpoint {uuid}{name} is outstanding ({state}, begun {}); commit it if all that it froze was \
                     copied, else abort it",
                    path.display(),
                    time(*begun).as_deref().unwrap_or("at a time not known")
                )
            }
            Error::Exists { path } => leads_nowhere(path).unwrap_or_else(|| e.to_string()),
            _ => e.to_string(),
        };
        let exit = if matches!(e, Error::Interrupted { .. }) { Exit::Interrupted } else { Exit::Operational };
        let failure = Failure { kind: e.kind().into(), message, exit };
        match &e {
            Error::Io { op, path, .. } if failure.kind == "not-found" => {
                let is_map = *op == "open" && leads_nowhere(path).is_none();
                let failure = failure.of_nothing(path);
                let make = format!("a map is made by `dirtymap create {} --image IMAGE`", path.display());
                if is_map { failure.and(make) } else { failure }
            }
            _ => failure.advised(),
        }
    }
}
