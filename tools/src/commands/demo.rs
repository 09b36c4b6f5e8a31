//! `dirtymap demo`: the main job on a real image. A writer is killed again and again, and after every kill the
//! incremental backup must equal the image. Through a server (`--serve`) it is that which is killed, also in the middle of a
//! backup, which must equal the image as it was frozen.
//!
//! Invariant kept here: nothing is taken on trust. What the writer reported as written must be dirty after the kill,
//! and image and backup are compared byte for byte, also where the map says clean.

mod guest;
mod history;
mod image;
mod report;
mod round;
mod served;
mod server;
pub mod writer;

use crate::backup::Wanted;
use crate::backup::compare::{self, Equal};
use crate::cli::Demo;
use crate::exit::{Exit, Failure, Result};
use crate::files::{self, Image};
use crate::terminal::output::Output;
use crate::terminal::pass::Pass;
use crate::terminal::progress;
use crate::terminal::signals;
use dirtymap::Options;
use guest::Guest;
use report::Answer;
use served::Served;
use server::Server;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// log2 of the demo's bytes per bit: 4 KiB, so that on a small image the over-copy is of the size of its writes.
const GRANULARITY: u32 = 12;

/// Where the demo works.
struct Place {
    image: PathBuf,
    map: PathBuf,
    target: PathBuf,
    /// Rounds go through a server.
    serve: bool,
    /// Removed when dropped.
    temporary: Option<TempDir>,
}

pub fn run(args: &Demo, output: Output) -> Result<Exit> {
    let place = Place::new(args)?;
    let done = show(args, &place, output);
    if args.keep || args.dir.is_some() {
        let dir = place.keep();
        output.note(format_args!("image, map and backups are in {}", dir.display()));
    }
    let answer = done?;
    output.answer(&answer, report::ending)?;
    Ok(Exit::Fine)
}

impl Place {
    fn new(args: &Demo) -> Result<Place> {
        let (dir, temporary) = match &args.dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).map_err(|e| Failure::io(dir.display(), &e))?;
                (dir.clone(), None)
            }
            None => {
                let made = tempfile::Builder::new().prefix("dirtymap-demo-").tempdir();
                let made = made.map_err(|e| Failure::io("make a temporary directory", &e))?;
                (made.path().to_path_buf(), Some(made))
            }
        };
        let [image, map, target] = ["image.raw", "image.map", "backup.raw"].map(|name| dir.join(name));
        let backups = dir.join(history::SET);
        let of_servers = server::FILES.map(|name| dir.join(name));
        for path in [&image, &map, &target, &backups].into_iter().chain(&of_servers) {
            if path.symlink_metadata().is_ok() {
                let message = format!("{}: exists already; give the demo a directory of its own", path.display());
                return Err(Failure::new("exists", message));
            }
        }
        Ok(Place { image, map, target, serve: args.serve, temporary })
    }

    fn dir(&self) -> &Path {
        self.image.parent().unwrap_or(Path::new("."))
    }

    fn socket(&self) -> PathBuf {
        self.dir().join("socket")
    }

    fn control(&self) -> PathBuf {
        self.dir().join("control")
    }

    /// The export of the server.
    fn uri(&self) -> String {
        crate::commands::serve::unix_uri("", &self.socket())
    }

    fn keep(self) -> PathBuf {
        let dir = self.dir().to_path_buf();
        match self.temporary {
            Some(temporary) => temporary.keep(),
            None => dir,
        }
    }
}

fn show(args: &Demo, place: &Place, output: Output) -> Result<Answer> {
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let origin = match &args.image {
        Some(from) => image::copy(from, &place.image)?,
        None => image::make(&place.image, place.dir())?,
    };
    let image = Image::open(&place.image, false)?;
    let mut answer = Answer::new(place, &origin, image.size(), seed);
    report::announce(output, |out| report::beginning(out, &answer));

    image.sync()?;
    let options = Options::new().granularity(GRANULARITY).label("demo").dirty(true).image(image.stamp_now()?);
    options.create(&place.map, image.size())?.close()?;
    let mut served = if args.serve { Some(serve(place, &image, seed)?) } else { None };
    history::begin(place, output)?;
    let first = round::back_up(place, output)?;
    compare(place, "the first, full backup")?;
    report::announce(output, |out| report::full(out, &first));
    answer.first = Some(first);

    for number in 1..=args.kills {
        signals::check("the demo is not complete")?;
        let round = match &mut served {
            Some(served) => served.round(place, number, seed, output)?,
            None => {
                let round = round::run(place, number, seed, output)?;
                compare(place, &format!("round {number}"))?;
                round
            }
        };
        report::announce(output, |out| report::round(out, &round, args.serve));
        answer.rounds.push(round);
    }
    answer.members = history::end(place, output)?;
    if let Some(served) = served {
        served.server.stop()?;
        let reference = place.dir().join(served::REFERENCE);
        compare_files(&reference, &place.image, "the last stop of the server what was acknowledged and the image")?;
    }
    answer.identical = true;
    Ok(answer)
}

/// Starts the server, and a client of it.
fn serve(place: &Place, image: &Image, seed: u64) -> Result<Served> {
    let reference = Image::create(&place.dir().join(served::REFERENCE), Some(&image.file))?;
    reference.file.set_len(image.size()).map_err(|e| reference.failed("set its size", &e))?;
    copy_file(image, &reference)?;
    let reference = reference.refreshed()?;
    Ok(Served { server: Server::start(place)?, guest: Guest::new(place, reference, seed)?, since: Vec::new() })
}

/// Compares all of the image and the backup, byte for byte.
fn compare(place: &Place, when: &str) -> Result<()> {
    compare_files(&place.image, &place.target, &format!("{when} image and backup"))
}

/// Compares all of two files.
fn compare_files(one: &Path, other: &Path, when: &str) -> Result<()> {
    let (image, target) = (Image::open(one, false)?, Image::open(other, false)?);
    if image.size() != target.size() {
        return Err(differs(when, format!("sizes differ: {} and {}", image.size(), target.size())));
    }
    let pass = Pass::new("comparing", image.size(), "the demo is not complete");
    let found = compare::compare(&image, &target, 0..image.size(), &pass, &mut Equal::default())?;
    found.map_or(Ok(()), |offset| Err(differs(when, format!("they differ at offset {offset}"))))
}

/// What must never happen.
fn differs(when: &str, what: String) -> Failure {
    let message = format!("after {when} are not identical: {what}; --dir keeps the files");
    Failure { kind: "difference".into(), message, exit: Exit::Damage }
}

fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |t| t.as_nanos() as u64) ^ u64::from(std::process::id()) << 32
}

/// The arguments of the backup that every round takes.
fn backup_args(place: &Place) -> Wanted {
    let (image, control) = match place.serve {
        true => (place.uri().into(), Some(place.control())),
        false => (place.image.clone(), None),
    };
    Wanted { image, map: place.map.clone(), control, target: Some(place.target.clone()), ..Wanted::default() }
}

/// Nobody else has the demo's files.
const NO_WAIT: Duration = Duration::ZERO;

/// Copies all of an image, holes as holes.
fn copy_file(from: &Image, to: &Image) -> Result<()> {
    let bar = progress::bytes("copying", from.size());
    let mut buffer = vec![0; files::PIECE as usize];
    let mut at = 0;
    while let Some(data) = from.next_data(at..from.size()) {
        for piece in files::pieces(data.clone()) {
            signals::check("the demo is not complete")?;
            let bytes = &mut buffer[..(piece.end - piece.start) as usize];
            from.read(bytes, piece.start)?;
            to.write(bytes, piece.start)?;
            bar.set_position(piece.end);
        }
        at = data.end;
    }
    bar.finish_and_clear();
    Ok(())
}
