//! Events of all maps of the process, for a function of the caller's.
//!
//! Invariant kept here: as long as nobody has asked for events, none is made up.

use crate::failure::Failure;
use crate::ffi::{Callback, EventFn, first_call};
use crate::layout;
use std::ffi::{CString, c_int, c_void};
use std::fmt::{Debug, Write};
use std::sync::{Once, PoisonError, RwLock};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Whom events are told, and the highest level of those.
static TOLD: RwLock<Option<(c_int, Callback<EventFn>)>> = RwLock::new(None);

/// The number of a level in the header: the higher, the less it matters.
fn number(level: &Level) -> c_int {
    match *level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// What an event is called, and what else it says.
#[derive(Default)]
struct Said {
    name: String,
    text: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written = match field.name() {
            "message" => write!(self.name, "{value:?}"),
            name if self.text.is_empty() => write!(self.text, "{name}={value:?}"),
            name => write!(self.text, " {name}={value:?}"),
        };
        // A text takes whatever is written to it.
        written.unwrap_or_default();
    }
}

/// Hands events on.
struct Teller;

impl Teller {
    fn told(level: &Level) -> Option<Callback<EventFn>> {
        let told = TOLD.read().unwrap_or_else(PoisonError::into_inner);
        told.as_ref().filter(|(most, _)| number(level) <= *most).map(|(_, callback)| *callback)
    }
}

impl Subscriber for Teller {
    fn enabled(&self, what: &Metadata<'_>) -> bool {
        what.is_event() && what.target() == "dirtymap" && Teller::told(what.level()).is_some()
    }

    fn event(&self, event: &Event<'_>) {
        // The lock is not held while the caller's function runs, which may ask for other events.
        let Some(callback) = Teller::told(event.metadata().level()) else { return };
        let mut said = Said::default();
        event.record(&mut said);
        let [name, text] =
            [said.name, said.text].map(|text| CString::new(text.replace('\0', "\\0")).unwrap_or_default());
        let level = number(event.metadata().level());
        callback.tell(&layout::Event { level, reserved: 0, name: name.as_ptr(), text: text.as_ptr() });
    }

    // There are no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_events(level: c_int, told: EventFn, opaque: *mut c_void) -> c_int {
    first_call(|| {
        if !(0..=4).contains(&level) {
            return Err(Failure::Argument("a level is 0 to 4"));
        }
        static ONCE: Once = Once::new();
        // Fails only where this library is a part of a Rust program that has a subscriber of its own.
        ONCE.call_once(|| drop(tracing::subscriber::set_global_default(Teller)));
        let told = told.map(|function| (level, Callback::new(Some(function), opaque)));
        *TOLD.write().unwrap_or_else(PoisonError::into_inner) = told.filter(|_| level > 0);
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    })
}
