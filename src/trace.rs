//! Events for whoever watches a map at work, with the `tracing` feature; nothing without it.
//!
//! Invariant kept here: without the feature an event costs nothing, and its fields are not even computed.

/// Emits an event; `event!(INFO, "opened", len = 5, path = %path)`, with the fields as `tracing` takes them.
macro_rules! event {
    ($level:ident, $what:literal, $($fields:tt)+) => {
        #[cfg(feature = "tracing")]
        ::tracing::event!(target: "dirtymap", ::tracing::Level::$level, $($fields)+, $what);
    };
}

pub(crate) use event;
