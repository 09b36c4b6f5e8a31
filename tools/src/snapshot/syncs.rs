//! Syncs of an image, and which clients were told of one that failed.
//!
//! What the kernel could not write back it tells once, to whoever asks first. From then on syncs succeed, although bytes are
//! lost. So a failure is kept here, and in a file beside scratch that outlives the process, until each client was told.
//!
//! Invariant kept here: no client hears that something is durable before it has heard of each sync that failed until then.

use super::format::boot;
use super::steps::{Rule, keeps};
use dirtymap::Uuid;
use rustix::fs::OFlags;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Not what a link leads to, and not what has to be waited for: others may make files in the directory as well.
fn opening() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32).mode(0o600);
    options
}

/// The syncs of an image.
#[derive(Default)]
pub struct Syncs {
    state: Mutex<State>,
    ended: Condvar,
    /// The file that says that one has failed. A server that is read-only has none.
    record: Option<PathBuf>,
    /// What the server before has left there.
    left: Option<Left>,
}

#[derive(Default)]
struct State {
    begun: u64,
    /// Those that run, by their numbers.
    running: BTreeSet<u64>,
    /// How many have failed, that of an earlier server included.
    failed: u64,
    /// How many of them some client was told.
    told: u64,
    /// A client that had written has gone.
    away: bool,
    /// One had gone without a word of the last one that failed.
    untold: bool,
}

/// What a server has left of a sync that had failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It died.
    Failed,
    /// It was stopped in good order, and not every client had been told.
    Untold,
}

/// What a client was told.
pub struct Client {
    failed: AtomicU64,
    wrote: AtomicBool,
}

impl Client {
    /// It has something to lose.
    pub fn writes(&self) {
        self.wrote.store(true, SeqCst);
    }
}

/// A sync that runs, until this is dropped.
struct Running<'s>(&'s Syncs, u64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().running.remove(&self.1);
        self.0.ended.notify_all();
    }
}

impl Syncs {
    /// Of the image of a map whose snapshots have their files in this directory. What a server has left there of this boot
    /// is owed to all clients: who of them was told is not known.
    pub fn new(dir: &Path, map: Uuid) -> io::Result<Syncs> {
        let record = dir.join(format!("dirtymap-{map}.failed"));
        let mut bytes = Vec::new();
        let left = match opening().read(true).open(&record).and_then(|file| file.take(18).read_to_end(&mut bytes)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
            // What a server was killed in the writing of counts.
            Ok(_) => match bytes.strip_prefix(&boot()) {
                Some([1]) => Some(Left::Untold),
                None if bytes.len() == 17 => None,
                _ => Some(Left::Failed),
            },
        };
        let state = State { failed: u64::from(left.is_some()), ..State::default() };
        Ok(Syncs { state: Mutex::new(state), record: Some(record), left, ..Syncs::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server before has left of one that had failed.
    pub fn left(&self) -> Option<Left> {
        self.left
    }

    /// Has the image synced; `fails` does what is to be done if that fails. Waits for those that run meanwhile: the kernel may
    /// have told one of them what this one asks for.
    pub fn run<E>(&self, sync: impl FnOnce() -> Result<(), E>, fails: impl FnOnce()) -> Result<(), E> {
        let mut state = self.state();
        state.begun += 1;
        let number = state.begun;
        state.running.insert(number);
        let running = Running(self, number);
        drop(state);
        let done = sync();
        if done.is_err() {
            self.fail(fails);
        }
        drop(running);
        let mut state = self.state();
        let begun = state.begun;
        while keeps(Rule::WaitForSyncs) && state.running.first().is_some_and(|first| *first <= begun) {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        done
    }

    /// One has failed: recorded before anything else is done.
    pub fn fail(&self, then: impl FnOnce()) {
        self.write(Left::Failed);
        then();
        let mut state = self.state();
        state.failed += 1;
        state.untold |= state.away;
    }

    /// Best effort: it is for a kill before the clients were told.
    fn write(&self, left: Left) {
        let bytes = [&boot()[..], &[left as u8]].concat();
        let write = |path| {
            let file = opening().write(true).create(true).open(path)?;
            file.write_all_at(&bytes, 0)?;
            file.set_len(bytes.len() as u64)
        };
        let _: Option<io::Result<()>> = self.record.as_ref().map(write);
    }

    /// Whether there is anything to tell.
    pub fn owes(&self) -> bool {
        self.state().failed > 0
    }

    /// A client that comes: it may be one that has lost its connection, and an answer with it. So it is told of all that have
    /// failed, as long as this server lives.
    pub fn client(&self) -> Client {
        Client { failed: 0.into(), wrote: false.into() }
    }

    /// Whether a client, of which a sync has ended, was told of all that have failed. From now on it is.
    pub fn tell(&self, client: &Client) -> bool {
        let mut state = self.state();
        state.told = state.failed;
        client.failed.swap(state.failed, SeqCst) == state.failed
    }

    /// A client goes.
    pub fn leaves(&self, client: &Client) {
        let mut state = self.state();
        let wrote = client.wrote.load(SeqCst);
        state.away |= wrote;
        state.untold |= wrote && client.failed.load(SeqCst) < state.failed;
    }

    /// The server stops in good order, and all clients have gone: what one of them was not told, the next server has to.
    pub fn stop(&self) {
        let state = self.state();
        match (&self.record, state.told == state.failed && !state.untold) {
            (Some(record), true) => drop(std::fs::remove_file(record)),
            _ => self.write(Left::Untold),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: fn() -> Result<(), ()> = || Ok(());
    const BAD: fn() -> Result<(), ()> = || Err(());

    /// What a client hears of a sync: whether it and all before it were good.
    fn hears(syncs: &Syncs, client: &Client, sync: fn() -> Result<(), ()>) -> bool {
        let done = syncs.run(sync, || ());
        syncs.tell(client) && done.is_ok()
    }

    #[test]
    fn each_client_hears_of_a_sync_that_failed_once() {
        let syncs = Syncs::default();
        let [first, second, idle] = [(); 3].map(|()| syncs.client());
        assert!(hears(&syncs, &first, GOOD));
        assert!(!hears(&syncs, &first, BAD) && hears(&syncs, &first, GOOD));
        assert!(!hears(&syncs, &second, GOOD) && hears(&syncs, &second, GOOD));
        // One that no client has asked for.
        assert!(syncs.run(BAD, || ()).is_err());
        // Whoever comes now may be one that was here and has lost its connection.
        let come = syncs.client();
        assert!(!hears(&syncs, &come, GOOD));
        let lost = syncs.client();
        assert!(!hears(&syncs, &lost, GOOD), "the answer may not have come");
        assert!(hears(&syncs, &come, GOOD));
        let later = syncs.client();
        assert!(!hears(&syncs, &later, GOOD) && hears(&syncs, &later, GOOD));
        assert!(!hears(&syncs, &idle, GOOD) && !hears(&syncs, &first, GOOD) && !hears(&syncs, &second, GOOD));
    }

    #[test]
    fn a_good_sync_waits_for_those_that_may_have_heard_what_it_asked_for() {
        let syncs = Syncs::default();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (fail, is_to_fail) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let syncs = &syncs;
            let client = syncs.client();
            scope.spawn(move || {
                let sync = || {
                    begun.send(()).expect("tell");
                    is_to_fail.recv().expect("hear");
                    Err(())
                };
                syncs.run(sync, || ())
            });
            has_begun.recv().expect("hear");
            let hears = scope.spawn(move || hears(syncs, &client, GOOD));
            // Time enough to be wrong.
            std::thread::sleep(std::time::Duration::from_millis(100));
            fail.send(()).expect("tell");
            assert!(!hears.join().expect("it ends"), "the kernel had told the other one");
        });
    }

    #[test]
    fn the_next_server_tells_every_client_and_one_that_was_told_in_full_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let start = || {
            let syncs = Syncs::new(dir.path(), Uuid::NIL).expect("read");
            (syncs.owes(), syncs)
        };
        let files = || dir.path().read_dir().expect("list").count();
        let (owes, syncs) = start();
        assert!(!owes && syncs.left().is_none());
        let mut recorded = 0;
        let client = syncs.client();
        assert!(syncs.run(BAD, || recorded = files()).is_err());
        assert_eq!(recorded, 1, "a kill now would leave nothing");
        assert!(!syncs.tell(&client));
        drop(syncs);
        // It was killed.
        let (owes, syncs) = start();
        assert!(owes && syncs.left() == Some(Left::Failed));
        let first = syncs.client();
        assert!(!hears(&syncs, &first, GOOD) && hears(&syncs, &first, GOOD));
        let late = syncs.client();
        late.writes();
        syncs.leaves(&late);
        syncs.stop();
        // It was stopped, and a client that had written has gone without a word.
        let (owes, syncs) = start();
        assert!(owes && syncs.left() == Some(Left::Untold));
        let first = syncs.client();
        assert!(!hears(&syncs, &first, GOOD) && hears(&syncs, &first, GOOD));
        // One that has written nothing loses nothing.
        syncs.leaves(&syncs.client());
        syncs.stop();
        assert!(!start().0 && files() == 0);
    }

    /// It does not know that what it had written is gone, and may come back to the next server.
    #[test]
    fn a_client_that_was_away_when_a_sync_failed_is_told_by_this_server_and_the_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let syncs = Syncs::new(dir.path(), Uuid::NIL).expect("read");
        let [writer, other] = [(); 2].map(|()| syncs.client());
        writer.writes();
        syncs.leaves(&writer);
        assert!(!hears(&syncs, &other, BAD) && hears(&syncs, &other, GOOD));
        let back = syncs.client();
        assert!(!hears(&syncs, &back, GOOD) && hears(&syncs, &back, GOOD));
        syncs.stop();
        let next = Syncs::new(dir.path(), Uuid::NIL).expect("read");
        assert!(next.owes() && !hears(&next, &next.client(), GOOD));
    }

    /// Its second request may have been on its way before the answer to the first one, which it never got.
    #[test]
    fn one_that_has_asked_twice_and_lost_its_connection_is_told_again() {
        let syncs = Syncs::default();
        let client = syncs.client();
        assert!(!hears(&syncs, &client, BAD) && hears(&syncs, &client, GOOD));
        syncs.leaves(&client);
        assert!(!hears(&syncs, &syncs.client(), GOOD));
    }

    #[test]
    fn a_record_of_another_boot_is_none_and_half_a_record_is_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(format!("dirtymap-{}.failed", Uuid::NIL));
        let other = boot().map(|byte| byte ^ 1);
        for (bytes, left) in [
            ([&other[..], &[0]].concat(), None),
            ([&boot()[..], &[0]].concat(), Some(Left::Failed)),
            ([&boot()[..], &[1]].concat(), Some(Left::Untold)),
            (Vec::new(), Some(Left::Failed)),
        ] {
            std::fs::write(&path, bytes).expect("write");
            assert_eq!(Syncs::new(dir.path(), Uuid::NIL).expect("read").left(), left);
        }
    }
}
