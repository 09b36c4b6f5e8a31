//! `dirtymap set list`, `info`, `verify` and `prune`: looking after backup sets.
//!
//! Invariant kept here: "as it was" is said of a member whose every byte was read.

use crate::backup::compare::{Equal, compare};
use crate::backup::prune;
use crate::cli::{SetAction, SetFolder, SetPrune, SetVerify};
use crate::exit::{Exit, Result};
use crate::files::{Content, Image};
use crate::sets::{Folder, Stored, verify_file};
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::pass::Pass;
use crate::terminal::text::say;
use dirtymap_cli::set_json::{Consistency, Hooks, Member};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;

pub fn run(action: &SetAction, wait: Duration, output: Output) -> Result<Exit> {
    match action {
        SetAction::List(args) => list(args, wait, output),
        SetAction::Info(args) => info(args, wait, output),
        SetAction::Verify(args) => verify(args, wait, output),
        SetAction::Prune(args) => pruned(args, wait, output),
    }
}

/// A member as `list` and `info` tell it; docs/cli.md describes it.
#[derive(Serialize)]
struct Listed<'a> {
    number: &'a str,
    name: Option<&'a str>,
    time: &'a str,
    consistency: Consistency,
    /// The number of the member that it rests upon.
    rests_upon: Option<&'a str>,
    why_full: Option<&'a str>,
    size: u64,
    bytes: u64,
    bytes_data: u64,
    bytes_zeros: u64,
}

impl<'a> Listed<'a> {
    fn of(member: &'a Member) -> Listed<'a> {
        Listed {
            number: member.number(),
            name: member.name.as_deref(),
            time: &member.time,
            consistency: member.consistency,
            rests_upon: member.backing.as_deref().map(|file| file.trim_end_matches(".qcow2")),
            why_full: member.why_full.as_deref(),
            size: member.size,
            bytes: member.content.bytes,
            bytes_data: member.data,
            bytes_zeros: member.zeros,
        }
    }
}

fn list(args: &SetFolder, wait: Duration, output: Output) -> Result<Exit> {
    let folder = Folder::open(&args.folder, wait)?;
    let members: Vec<Listed<'_>> = folder.set.members.iter().map(Listed::of).collect();
    output.answer(&members, |out, members| members.iter().try_for_each(|member| line(out, member)))?;
    if members.is_empty() {
        output.note(folder.no_member().message);
    }
    if let Some(bytes) = folder.unfinished() {
        output.note(stopped(bytes));
    }
    Ok(Exit::Fine)
}

/// One line for a member.
fn line(out: &mut dyn Write, m: &Listed<'_>) -> io::Result<()> {
    let kind = if m.rests_upon.is_some() { "incremental" } else { "full" };
    let name = m.name.map_or_else(String::new, |name| shown(name).to_string());
    let (number, time, data, consistency) = (m.number, m.time, size::human(m.bytes_data), m.consistency.name());
    let line = format!("{number}  {time}  {kind:11}  {data:>9}  {consistency:7}  {name}");
    writeln!(out, "{}", line.trim_end())
}

/// A set and its members.
#[derive(Serialize)]
struct Info<'a> {
    set: String,
    id: &'a str,
    /// Bytes of all files.
    bytes: u64,
    /// A backup or a prune was killed; the next command that changes the set settles it.
    unsettled: bool,
    /// Bytes of what a full backup has left that was stopped.
    unfinished_bytes: Option<u64>,
    members: Vec<InfoMember<'a>>,
}

#[derive(Serialize)]
struct InfoMember<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    file: String,
    image: &'a str,
    group: Option<&'a str>,
    hooks: Option<Hooks>,
    map: &'a str,
    checkpoint: &'a str,
    point: Option<&'a str>,
    sha256: &'a str,
}

fn info(args: &SetFolder, wait: Duration, output: Output) -> Result<Exit> {
    let folder = Folder::open(&args.folder, wait)?;
    let member = |member: &'_ Member| member.content.bytes;
    let answer = Info {
        set: folder.path.display().to_string(),
        id: &folder.set.id,
        bytes: folder.set.members.iter().map(member).fold(0, u64::saturating_add),
        unsettled: folder.is_unsettled(),
        unfinished_bytes: folder.unfinished(),
        members: folder.set.members.iter().map(|member| of(&folder, member)).collect(),
    };
    output.answer(&answer, told)?;
    Ok(Exit::Fine)
}

fn of<'a>(folder: &Folder, member: &'a Member) -> InfoMember<'a> {
    InfoMember {
        listed: Listed::of(member),
        file: folder.at(&member.file).display().to_string(),
        image: &member.image,
        group: member.group.as_deref(),
        hooks: member.hooks,
        map: &member.map,
        checkpoint: &member.checkpoint,
        point: member.point.as_ref().map(|point| point.name.as_str()),
        sha256: &member.content.sha256,
    }
}

fn told(out: &mut dyn Write, a: &Info<'_>) -> io::Result<()> {
    let (members, bytes) = (size::count(a.members.len() as u64, "member"), size::human(a.bytes));
    say!(out, "{}: {members} in {bytes}, set {}", shown(&a.set), a.id)?;
    left(out, a.unsettled, a.unfinished_bytes)?;
    for InfoMember { listed: m, image, map, hooks, .. } in &a.members {
        line(out, m)?;
        let (disk, data, zeros) = (size::human(m.size), size::human(m.bytes_data), size::human(m.bytes_zeros));
        say!(out, "  of {} ({disk}), map {}", shown(image), shown(map))?;
        let rests = m.rests_upon.map_or("rests upon no other".into(), |number| format!("rests upon {number}"));
        say!(out, "  holds {data} of data and {zeros} of zeros, {rests}")?;
        m.why_full.map_or(Ok(()), |why| say!(out, "  full because {}", shown(why)))?;
        hooks.map_or(Ok(()), |hooks| say!(out, "  {hooks}"))?;
    }
    Ok(())
}

/// What is not a member's.
fn left(out: &mut dyn Write, unsettled: bool, unfinished: Option<u64>) -> io::Result<()> {
    if unsettled {
        say!(out, "a backup or a prune was ended; the next one settles what it has left")?;
    }
    let Some(bytes) = unfinished else { return Ok(()) };
    say!(out, "{}", stopped(bytes))
}

/// What a full backup has left.
fn stopped(bytes: u64) -> String {
    format!(
        "a full backup was stopped, and has left {}, of which nothing can be restored; the next full one goes on with it",
        size::human(bytes)
    )
}

/// What `verify` found.
#[derive(Serialize)]
struct Verified {
    set: String,
    /// Members that are as they were.
    members: u64,
    /// Bytes that were read for that.
    bytes: u64,
    unsettled: bool,
    unfinished_bytes: Option<u64>,
    findings: Vec<Finding>,
    against: Option<Against>,
}

#[derive(Serialize)]
struct Finding {
    number: String,
    found: String,
    /// Numbers of the members that cannot be restored for that.
    spoils: Vec<String>,
}

#[derive(Serialize)]
struct Against {
    image: String,
    /// Number of the member that was compared.
    number: String,
    /// Where they first differ.
    differs_at: Option<u64>,
    bytes_equal: u64,
}

fn verify(args: &SetVerify, wait: Duration, output: Output) -> Result<Exit> {
    let mut folder = Folder::open(&args.folder, wait)?;
    let mut verified = Verified {
        set: folder.path.display().to_string(),
        members: 0,
        bytes: 0,
        unsettled: folder.is_unsettled(),
        unfinished_bytes: folder.unfinished(),
        findings: Vec::new(),
        against: None,
    };
    every_member(&mut folder, &mut verified)?;
    let newest = folder.set.members.last().map(Member::number);
    let spoiled = verified.findings.iter().any(|finding| finding.spoils.iter().any(|number| Some(&**number) == newest));
    if let Some(path) = args.against.as_ref().filter(|_| !spoiled) {
        verified.against = Some(against(&folder, path)?);
    }
    let differs = verified.against.as_ref().is_some_and(|against| against.differs_at.is_some());
    let exit = [
        (differs, Exit::DIFFERENT),
        (verified.unsettled, Exit::Unclean),
        (!verified.findings.is_empty(), Exit::Damage),
    ]
    .into_iter()
    .filter_map(|(is, exit)| is.then_some(exit))
    .max();
    output.answer(&verified, found)?;
    Ok(exit.unwrap_or(Exit::Fine))
}

/// Reads all members.
fn every_member(folder: &mut Folder, verified: &mut Verified) -> Result<()> {
    for index in 0..folder.set.members.len() {
        let member = &folder.set.members[index];
        let found = Stored::open(&folder.at(&member.file)).and_then(|stored| verify_file(folder, member, stored));
        match found {
            Ok(seen) => {
                verified.members += 1;
                verified.bytes += member.content.bytes;
                // It need not be read once more to be compared.
                folder.set.members[index].content.seen = seen;
            }
            Err(failure) if failure.kind == "interrupted" => return Err(failure),
            Err(failure) => {
                let spoils = (index..folder.set.members.len())
                    .filter(|on| folder.set.chain(*on).iter().any(|below| below.file == member.file));
                let spoils = spoils.map(|on| folder.set.members[on].number().into()).collect();
                verified.findings.push(Finding { number: member.number().into(), found: failure.message, spoils });
            }
        }
    }
    Ok(())
}

/// Compares the newest member with an image.
fn against(folder: &Folder, path: &std::path::Path) -> Result<Against> {
    let image = Image::open(path, false)?;
    let Some(last) = folder.set.members.len().checked_sub(1) else {
        return Err(folder.no_member());
    };
    let member = &folder.set.members[last];
    let disk = folder.prove(last, false)?;
    let mut equal = Equal::default();
    let common = disk.len().min(image.size());
    let pass = Pass::new("comparing", common, "not everything was read");
    let differs = compare(&disk, &image, 0..common, &pass, &mut equal)?;
    drop(pass);
    let differs = differs.or((disk.len() != image.size()).then_some(common));
    Ok(Against {
        image: path.display().to_string(),
        number: member.number().into(),
        differs_at: differs,
        bytes_equal: equal.read + equal.holes,
    })
}

fn found(out: &mut dyn Write, a: &Verified) -> io::Result<()> {
    let (members, bytes) = (size::count(a.members, "member"), size::human(a.bytes));
    for Finding { number, found, spoils } in &a.findings {
        say!(out, "damage   {number}: {}; cannot be restored: {}", shown(found), spoils.join(", "))?;
    }
    match (a.members, a.findings.len()) {
        (0, 0) => say!(out, "nothing to verify: the set has no member yet")?,
        (0, _) => say!(out, "no member is as it was when it was complete")?,
        (_, 0) => say!(out, "verified {members} in {bytes}: each is as it was when it was complete")?,
        (_, damaged) => {
            let all = a.members + damaged as u64;
            say!(
                out,
                "verified {members} of {all} in {bytes}: the others are not as they were when they were complete"
            )?;
        }
    }
    left(out, a.unsettled, a.unfinished_bytes)?;
    let Some(Against { image, number, differs_at, .. }) = &a.against else { return Ok(()) };
    match differs_at {
        None => say!(out, "member {number} is what {} is now", shown(image)),
        Some(offset) => say!(out, "member {number} differs from {} at {offset}", shown(image)),
    }
}

/// What `prune` did.
#[derive(Serialize)]
struct Pruned {
    set: String,
    /// Numbers of the members that are gone, the oldest first.
    pruned: Vec<String>,
    /// How many are kept.
    kept: u64,
    /// Bytes of data that were written anew, for the oldest that is kept.
    bytes_written: u64,
}

fn pruned(args: &SetPrune, wait: Duration, output: Output) -> Result<Exit> {
    let mut folder = Folder::open_to_change(&args.folder, wait)?;
    let prune::Pruned { members, bytes_written } = prune::prune(&mut folder, args.keep)?;
    let kept = folder.set.members.len() as u64;
    let answer = Pruned { set: folder.path.display().to_string(), pruned: members, kept, bytes_written };
    output.answer(&answer, |out, a| {
        let kept = size::count(a.kept, "member");
        if a.pruned.is_empty() {
            return say!(out, "{} has {kept}; nothing to prune", shown(&a.set));
        }
        let (set, pruned, written) = (shown(&a.set), a.pruned.join(", "), size::human(a.bytes_written));
        say!(out, "pruned {pruned} from {set}, which has {kept} now; {written} were written anew")
    })?;
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::set_tests::World;
    use crate::sets::seen;
    use crate::terminal::signals;

    #[test]
    fn what_was_read_need_not_be_read_again_to_be_compared_which_can_be_stopped() {
        let world = World::new();
        world.keep(|_| ());
        let mut folder = Folder::open(&world.set, Duration::ZERO).expect("open");
        // As after a reboot: nothing but the bytes tells that it is what it was.
        folder.set.members[0].content.seen.boot = Some("another".into());
        let mut verified = Verified {
            set: String::new(),
            members: 0,
            bytes: 0,
            unsettled: false,
            unfinished_bytes: None,
            findings: Vec::new(),
            against: None,
        };
        every_member(&mut folder, &mut verified).unwrap_or_else(|e| panic!("{e}"));
        let file = Stored::open(&folder.at("0001.qcow2")).expect("open").file;
        let now = seen(&file).expect("look");
        assert!(verified.members == 1 && now.proves(&folder.set.members[0].content.seen));
        let against = || against(&folder, &world.image());
        assert_eq!(against().unwrap_or_else(|e| panic!("{e}")).differs_at, None);
        signals::IN_TEST.set(true);
        let stopped = against().map(drop).expect_err("stopped");
        signals::IN_TEST.set(false);
        assert_eq!(stopped.message, "interrupted; not everything was read");
    }
}
