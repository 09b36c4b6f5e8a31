//! Calls of the library from Python, and of Python by the library.
//!
//! Invariant kept here: while the library works, or waits, the interpreter's lock is not held; Python is called back only in a
//! thread that is inside a call, never in the one of a map, for whose end a thread with the interpreter's lock may wait; what is
//! raised there comes out of that call.

use crate::error::{Failure, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::cell::RefCell;

/// What this thread is inside of.
#[derive(Default)]
struct Call {
    /// A call of the library; and whether that looks for signals while it waits.
    of_library: Option<bool>,
    /// And within it a function of Python's that must not call the library, as locks are held.
    holds_locks: bool,
    raised: Option<PyErr>,
}

thread_local! {
    static CALL: RefCell<Call> = RefCell::default();
}

/// Puts back what the thread was inside of.
struct Outer(Call);

impl Outer {
    fn enter(inner: Call) -> Outer {
        Outer(CALL.replace(inner))
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        CALL.set(std::mem::take(&mut self.0));
    }
}

/// Has the library do something.
pub(crate) fn call<R: Send>(py: Python<'_>, f: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    enter(py, false, f)
}

/// The same with something that may wait for long: a signal ends that.
pub(crate) fn wait<R: Send>(py: Python<'_>, f: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    // No other thread handles signals; and one that looks for them while the program ends would not come back.
    let threads = py.import("threading")?;
    let is_main = threads.call_method0("current_thread")?.is(threads.call_method0("main_thread")?);
    enter(py, is_main, f)
}

fn enter<R: Send>(py: Python<'_>, sees_signals: bool, f: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    if CALL.with_borrow(|call| call.holds_locks) {
        return Err(
            PyRuntimeError::new_err("a progress function must not use maps: it is asked while locks are held").into()
        );
    }
    let outer = Outer::enter(Call { of_library: Some(sees_signals), ..Call::default() });
    let done = py.detach(f);
    let raised = CALL.take().raised;
    drop(outer);
    match (done, raised) {
        (done, None) => done,
        // What has ended the work; or what is to be told although the work was done.
        (Ok(_) | Err(Failure::Library { kind: "interrupted", .. }), Some(raised)) => Err(raised.into()),
        // Something worse has come of it.
        (Err(worse), Some(raised)) => {
            let worse = PyErr::from(worse);
            worse.set_cause(py, Some(raised));
            Err(worse.into())
        }
    }
}

/// Runs Python in a call of the library, if this thread is inside of one. `None` if it has raised.
pub(crate) fn call_back<R>(holds_locks: bool, f: impl FnOnce(Python<'_>) -> PyResult<R>) -> Option<R> {
    let outer = Outer::enter(Call { holds_locks, ..Call::default() });
    let done = Python::attach(f);
    drop(outer);
    done.map_err(|raised| CALL.with_borrow_mut(|call| call.raised = Some(raised))).ok()
}

/// Whether the call of the library that this thread is inside of looks for signals while it waits, if it is inside of one.
pub(crate) fn sees_signals() -> Option<bool> {
    CALL.with_borrow(|call| call.of_library)
}
