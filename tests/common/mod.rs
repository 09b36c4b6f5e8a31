//! What several test programs share.

/// Runs this when it is dropped: tells the other threads of a scope that something is over, also when what comes before
/// panics. They would be waited for forever, and the message of the panic would never be seen.
pub struct Finally<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
