//! A server with live snapshots as its clients see it, and what must be true of it whenever it is killed.

use super::{Dir, GRANULE, Ran, areas, dirtymap, pattern};
use dirtymap::checkpoint::CheckpointState;
use dirtymap::{Access, Options, Uuid, info::inspect};
use dirtymap_nbd::client::{Client, ConnectOptions};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// With a short granule at the end.
pub const GRANULES: u64 = 12;
pub const SIZE: u64 = GRANULES * GRANULE - 8192;
const FROZEN: &str = "qemu:dirty-bitmap:frozen";
/// Nothing here takes as long, if it ends at all.
const FOR_EVER: Duration = Duration::from_secs(120);

/// An error is what went wrong; every test but those of left-out rules panics at it.
pub type Checked<T = ()> = Result<T, String>;

/// The server did not answer: it is dead.
#[derive(Debug)]
pub struct Gone(pub String);

/// Waits until something is there.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < FOR_EVER, "{what}: in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a server can go on with the snapshot of another one here. Says so if not.
pub fn takes_over() -> bool {
    const MOUNT_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let here = fs::File::open(std::env::temp_dir()).expect("open");
    let found = statx(here, c"", AtFlags::EMPTY_PATH, MOUNT_UNIQUE);
    let tells = found.is_ok_and(|found| found.stx_mask & MOUNT_UNIQUE.bits() != 0);
    if !tells {
        super::skipped("this kernel does not tell mounts apart (Linux 6.8), so no server takes a snapshot over");
    }
    tells
}

/// An image, its map, and where the server listens.
pub struct Place {
    pub dir: Dir,
    /// For every server: a rule that it leaves out.
    pub leave_out: Option<&'static str>,
    pub more: Vec<String>,
}

pub struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_dead(&mut self) -> bool {
        self.child.try_wait().expect("look").is_some()
    }

    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Whether it stopped in good order.
    pub fn stop(mut self) -> bool {
        // It may be dead already.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        self.child.wait().expect("wait").success()
    }
}

impl Place {
    /// All clean.
    pub fn new() -> Place {
        Place::of(pattern(SIZE, 1))
    }

    /// The same, of zeros.
    pub fn of_zeros(size: u64) -> Place {
        Place::of(vec![0; size as usize])
    }

    fn of(content: Vec<u8>) -> Place {
        let dir = Dir::new();
        let (image, map) = (dir.path("disk.raw"), dir.path("disk.map"));
        fs::write(&image, content).expect("write the image");
        super::run(["create".as_ref(), map.as_os_str(), "--image".as_ref(), image.as_os_str()]).exits(0);
        super::run(["reset".as_ref(), map.as_os_str(), "--all".as_ref()]).exits(0);
        Place { dir, leave_out: None, more: Vec::new() }
    }

    pub fn image(&self) -> PathBuf {
        self.dir.path("disk.raw")
    }

    pub fn map(&self) -> PathBuf {
        self.dir.path("disk.map")
    }

    pub fn control(&self) -> PathBuf {
        self.dir.path("control")
    }

    /// The index of the snapshot's scratch.
    pub fn index(&self) -> PathBuf {
        self.dir.path(&format!("dirtymap-{}.index", inspect(self.map()).expect("inspect").uuid))
    }

    /// Starts a server, and waits until it serves; `None` if it died before.
    pub fn start(&self, variables: &[(&str, String)]) -> Option<Server> {
        let mut command = dirtymap();
        command.arg("serve").arg(self.image()).arg("--map").arg(self.map());
        command.arg("--socket").arg(self.dir.path("socket")).arg("--control").arg(self.control()).args(&self.more);
        let log = fs::File::options().create(true).append(true).open(self.dir.path("log")).expect("open");
        command.stdout(Stdio::null()).stderr(log);
        for (name, value) in variables {
            command.env(format!("DIRTYMAP_TEST_{name}"), value);
        }
        if let Some(rule) = self.leave_out {
            command.env("DIRTYMAP_TEST_LEAVE_OUT", rule);
        }
        let mut child = command.spawn().expect("run dirtymap");
        until("a server", || {
            if std::os::unix::net::UnixStream::connect(self.dir.path("socket")).is_ok() {
                return Some(true);
            }
            child.try_wait().expect("wait").map(|_| false)
        })
        .then_some(Server { child })
    }

    /// What the servers have said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path("log")).unwrap_or_default()
    }

    pub fn client(&self, export: &str) -> Result<Client, Gone> {
        let uri = format!("nbd+unix:///{export}?socket={}", self.dir.path("socket").display());
        let options = ConnectOptions { contexts: vec![FROZEN.into()], ..ConnectOptions::default() };
        Client::connect(&uri.parse().expect("a URI"), &options).map_err(|e| Gone(e.to_string()))
    }

    pub fn snapshot(&self, words: &[&str]) -> Ran {
        let mut command = dirtymap();
        command.args(["--output", "json", "snapshot"]).args(words).arg("--server").arg(self.control());
        command.stdin(Stdio::null()).output().expect("run dirtymap").into()
    }

    /// The outstanding checkpoint, if it is a snapshot's: whether it is frozen, and its identity.
    pub fn outstanding(&self) -> Option<(bool, Uuid)> {
        let checkpoint = inspect(self.map()).expect("inspect").checkpoint.filter(|found| found.snapshot)?;
        Some((checkpoint.state == CheckpointState::Frozen, checkpoint.uuid))
    }

    /// Puts what is frozen back beside the server, as a program may that says that it knows of the snapshot.
    pub fn put_back(&self) {
        let map = Options::new().access(Access::Shared).beside_snapshot(true).open(self.map()).expect("open");
        let uuid = map.checkpoint().expect("look").expect("a checkpoint").uuid;
        map.abort_checkpoint(uuid).and_then(|()| Ok(map.close()?)).expect("put back");
    }

    pub fn committed(&self) -> Option<Uuid> {
        inspect(self.map()).expect("inspect").committed.map(|committed| committed.uuid)
    }

    /// What differs from `base` and is not dirty.
    pub fn forgotten(&self, base: &[u8]) -> Vec<u64> {
        let (image, areas) = (fs::read(self.image()).expect("read"), areas(&self.map()));
        let dirty = |g: u64| areas.iter().any(|area| area.contains(&(g * GRANULE)));
        (0..GRANULES).filter(|&g| image[bytes(g)] != base[bytes(g)] && !dirty(g)).collect()
    }
}

/// The bytes of a granule.
pub fn bytes(g: u64) -> std::ops::Range<usize> {
    (g * GRANULE) as usize..((g + 1) * GRANULE).min(SIZE) as usize
}

/// Granules that a snapshot has frozen and that are not done with.
pub fn to_do(client: &mut Client, size: u64) -> Result<Vec<u64>, Gone> {
    let mut at = 0;
    let mut found = Vec::new();
    for extent in &client.block_status(0, size, 0).map_err(|e| Gone(e.to_string()))?[0].1 {
        if extent.flags == 1 {
            found.extend(at / GRANULE..(at + extent.length).div_ceil(GRANULE));
        }
        at += extent.length;
    }
    Ok(found)
}

/// One thing that a guest, a backup or an operator does.
#[derive(Clone, Copy, Debug)]
pub enum Do {
    /// Writes so many bytes at a place.
    Write(u64, u64),
    Zero(u64, u64),
    /// A snapshot of what is dirty.
    Create,
    /// The backup reads all that is frozen.
    Read,
    /// It is done with a granule.
    Done(u64),
    Commit,
    Abort,
    /// The server stops in good order, and the next one starts.
    Restart,
    /// It is killed, and the next one starts.
    Kill,
}

/// A snapshot, by what the test knows.
struct Shot {
    checkpoint: Uuid,
    content: Vec<u8>,
    copied: Vec<(u64, Vec<u8>)>,
    done: Vec<u64>,
}

/// A server that is used by one client, and killed.
pub struct Story {
    pub place: Place,
    server: Option<Server>,
    /// As clients wrote it, and as backups have it.
    image: Vec<u8>,
    base: Vec<u8>,
    shot: Option<Shot>,
    /// What servers are told that start on demand.
    pub later: Vec<(&'static str, String)>,
    /// Servers that died.
    pub deaths: u32,
    writes: u64,
}

impl Story {
    pub fn new(place: Place) -> Story {
        let image = fs::read(place.image()).expect("read");
        let base = image.clone();
        Story { place, server: None, image, base, shot: None, later: Vec::new(), deaths: 0, writes: 1 }
    }

    /// Does all of this with a server that is told so; one that comes after a death is told nothing. Checks after each.
    pub fn tell(&mut self, all: &[Do], variables: &[(&str, String)]) -> Checked {
        self.start(variables)?;
        for (i, what) in all.iter().enumerate() {
            self.writes += 1;
            let mut done = self.once(*what);
            while let Err(Gone(_)) = done {
                if self.next_server(Some(*what))? {
                    break;
                }
                done = self.once(*what);
            }
            done.unwrap_or(Ok(())).map_err(|e| format!("{what:?} ({i}): {e}"))?;
            self.check().map_err(|e| format!("after {what:?} ({i}): {e}"))?;
        }
        Ok(())
    }

    /// Starts a server. If it dies before it serves, the next one; that may drop the snapshot, if it aborts the checkpoint.
    fn start(&mut self, variables: &[(&str, String)]) -> Checked {
        self.server = self.place.start(variables);
        if self.server.is_none() {
            self.deaths += 1;
            self.server = self.place.start(&[]);
            if !self.listed()? {
                self.shot = None;
                if self.place.outstanding().is_some() {
                    return Err("a checkpoint is left that no server serves".into());
                }
            }
        }
        Ok(())
    }

    /// A server died while it did something. Whether that is done now, and need not be done again.
    fn next_server(&mut self, during: Option<Do>) -> Checked<bool> {
        self.deaths += 1;
        drop(self.server.take());
        let outstanding = self.place.outstanding();
        self.server = self.place.start(&[]);
        if self.server.is_none() {
            return Err(format!("no server starts any more: {}", self.place.log()));
        }
        let served = self.listed()?;
        if outstanding.is_some_and(|(frozen, _)| frozen) && !served {
            return Err(format!("a frozen snapshot was dropped: {}", self.place.log()));
        }
        if !served && self.place.outstanding().is_some() {
            return Err("a checkpoint is left that no server serves".into());
        }
        match during {
            Some(Do::Create) if served => self.adopt(),
            Some(Do::Commit) if !served => {
                let shot = self.shot.take().ok_or("there was none")?;
                if self.place.committed() != Some(shot.checkpoint) {
                    return Err("a commit was not done, and the snapshot is gone".into());
                }
                self.backed_up(&shot);
            }
            Some(Do::Abort) if !served => {
                let shot = self.shot.take().ok_or("there was none")?;
                if self.place.committed() == Some(shot.checkpoint) {
                    return Err("an abort committed".into());
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn listed(&self) -> Checked<bool> {
        let ran = self.place.snapshot(&["list"]);
        if ran.code != 0 {
            return Err(format!("the server does not answer: {}", ran.out));
        }
        match ran.json()["snapshots"].as_array().expect("a list").first() {
            Some(snapshot) if !snapshot["broken"].is_null() => Err(format!("broken: {}", snapshot["broken"])),
            found => Ok(found.is_some()),
        }
    }

    /// The snapshot that is there is of the image as it is.
    fn adopt(&mut self) {
        let checkpoint = self.place.outstanding().expect("a snapshot").1;
        let (content, copied, done) = (self.image.clone(), Vec::new(), Vec::new());
        self.shot = Some(Shot { checkpoint, content, copied, done });
    }

    fn backed_up(&mut self, shot: &Shot) {
        shot.copied.iter().for_each(|(g, content)| self.base[bytes(*g)].copy_from_slice(content));
    }

    fn once(&mut self, what: Do) -> Result<Checked, Gone> {
        let gone = |e: dirtymap_nbd::client::Error| Gone(e.to_string());
        let asked = |ran: Ran| match ran.code {
            0 => Ok(Ok(())),
            _ if ran.out.contains("no-answer") || ran.out.contains("connect") || ran.out.contains(": ask") => {
                Err(Gone(ran.out))
            }
            _ => Ok(Err(ran.out)),
        };
        if self.shot.is_none() && matches!(what, Do::Read | Do::Done(_) | Do::Commit | Do::Abort) {
            // It was dropped, as it may be.
            return Ok(Ok(()));
        }
        match what {
            Do::Write(at, length) => {
                let data = pattern(length, self.writes);
                self.place.client("")?.write(at, &data, 0).map_err(gone)?;
                self.image[at as usize..][..data.len()].copy_from_slice(&data);
            }
            Do::Zero(at, length) => {
                self.place.client("")?.write_zeroes(at, length, 0).map_err(gone)?;
                self.image[at as usize..][..length as usize].fill(0);
            }
            Do::Create => {
                match asked(self.place.snapshot(&["create", "--name", "now"]))? {
                    // One was killed while it asked whether pages were lost: the operator looks after that.
                    Err(e) if e.contains("sync-failed") && self.deaths > 0 => {
                        if !self.server.take().is_some_and(Server::stop) {
                            return Ok(Err("it does not stop in good order".into()));
                        }
                        return match self.start(&[]) {
                            Ok(()) => self.once(what),
                            failed => Ok(failed),
                        };
                    }
                    Err(e) => return Ok(Err(e)),
                    Ok(()) => self.adopt(),
                }
            }
            Do::Read => {
                let mut client = self.place.client("@now")?;
                let read = to_do(&mut client, SIZE)?.into_iter().map(|g| {
                    let range = bytes(g);
                    Ok((g, client.read(range.start as u64, range.len() as u32, 0).map_err(gone)?))
                });
                let read = read.collect::<Result<_, Gone>>()?;
                self.shot.as_mut().expect("a snapshot").copied = read;
            }
            Do::Done(g) => {
                self.place.client("@now")?.trim(g * GRANULE, GRANULE, 0).map_err(gone)?;
                self.shot.as_mut().expect("a snapshot").done.push(g);
            }
            Do::Commit => {
                if let Err(e) = asked(self.place.snapshot(&["commit"]))? {
                    return Ok(Err(e));
                }
                let shot = self.shot.take().expect("a snapshot");
                self.backed_up(&shot);
            }
            Do::Abort => {
                if let Err(e) = asked(self.place.snapshot(&["abort"]))? {
                    return Ok(Err(e));
                }
                self.shot = None;
            }
            Do::Restart => {
                if !self.server.take().expect("a server").stop() {
                    return Err(Gone("it died before".into()));
                }
                return Ok(self.start(&self.later.clone()));
            }
            Do::Kill => {
                self.server.take().expect("a server").kill();
                return Ok(self.start(&self.later.clone()));
            }
        }
        Ok(Ok(()))
    }

    /// What must be true whenever the server answers. It may have died by now: then there is nothing to be seen.
    fn check(&self) -> Checked {
        let forgotten = self.place.forgotten(&self.base);
        if !forgotten.is_empty() {
            return Err(format!("granules {forgotten:?} were changed and are not dirty"));
        }
        if fs::read(self.place.image()).expect("read") != self.image {
            return Err("the image is not what was written".into());
        }
        let Some(shot) = &self.shot else { return Ok(()) };
        let Ok(mut client) = self.place.client("@now") else { return Ok(()) };
        let Ok(todo) = to_do(&mut client, SIZE) else { return Ok(()) };
        for g in 0..GRANULES {
            let range = bytes(g);
            match client.read(range.start as u64, range.len() as u32, 0) {
                Ok(_) if !todo.contains(&g) => {
                    return Err(format!("granule {g} is no longer kept, and is read all the same"));
                }
                Ok(read) if read != shot.content[range] => return Err(format!("granule {g} is not as it was frozen")),
                Err(dirtymap_nbd::client::Error::Failed(failure)) if todo.contains(&g) => {
                    return Err(format!("granule {g} cannot be read: {failure}"));
                }
                Ok(_) | Err(dirtymap_nbd::client::Error::Failed(_)) => {}
                Err(_) => return Ok(()),
            }
        }
        if let Some(g) = shot.done.iter().find(|g| todo.contains(g)) {
            return Err(format!("granule {g} is done, and to be copied again"));
        }
        Ok(())
    }

    /// The last server, which has to be there.
    pub fn end(mut self) -> Checked {
        let Some(server) = self.server.take() else { return Err("no server is left".into()) };
        if !server.stop() {
            return Err("the last server does not stop in good order".into());
        }
        self.check()
    }
}
