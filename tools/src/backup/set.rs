//! A target that is the next member of a set.
//!
//! Invariants kept here:
//! - a member rests upon the one before it only if that is proved to be what it was, and the map has kept what was written since;
//! - `set.json` names what is begun before anything is frozen, and the member before the checkpoint is committed: so whatever a
//!   kill leaves, the next backup knows whether to commit or to abort;
//! - the map keeps the point of the newest member, and drops those of the others after that one is committed.

use super::copy::Copied;
use super::member::MemberWriter;
use super::outcome::MemberOutcome;
use super::prune;
use super::source::Source;
use super::target::{Base, Described, Target};
use super::{INTERRUPTED, Job, Outcome, Wanted, Work, keeps};
use crate::cli::Consistency as Told;
use crate::exit::{Failure, Result};
use crate::files::{self, Content};
use crate::sets::{Folder, Hashing, Layered, Stored, Unfinished, seen, step};
use crate::terminal::pass::Pass;
use crate::time::{self, time};
use dirtymap::format::CheckpointState;
use dirtymap::{DirtyMap, ImageStamp, checkpoint::Checkpoint, checkpoint::NamedPoint, info::Info};
use dirtymap_cli::set_json::{self, Begun, Consistency, Content as Recorded, Member};
use dirtymap_cli::shown::shown;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// log2 of the bytes of a cluster: those of a granule, but no fewer than a sector of most disks and no more than QEMU's default.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 12..=16;

/// The next member of a set.
pub struct SetTarget<'a> {
    args: &'a Wanted,
    /// Where the member comes from.
    origin: String,
    folder: Folder,
    file: String,
    /// What is frozen with, unless a checkpoint was frozen before.
    point: String,
    why_full: Option<String>,
    /// What it rests upon; with itself, once it is complete.
    disk: Option<Layered>,
    new: Option<Unfinished>,
    writer: Option<MemberWriter>,
    /// The SHA-256 of the file, as it is being computed.
    hashing: Option<Hashing>,
    /// Bytes that are stored, and that are zeros by an entry.
    stored: (u64, u64),
    equal: u64,
    /// A backup that was stopped has left something in the file; and bytes that were kept of it.
    goes_on: bool,
    kept: u64,
    /// `set.json` names this backup as begun.
    begun: bool,
    published: bool,
    /// The set's disk has no room.
    full: bool,
}

impl<'a> SetTarget<'a> {
    /// Opens the set, or makes its folder.
    pub fn open(args: &'a Wanted, path: &Path, source: &dyn Source, wait: Duration) -> Result<SetTarget<'a>> {
        if let Some(name) = &args.how.name {
            usable(name)?;
        }
        let folder = Folder::open_or_new(path, wait)?;
        if let Some(name) = &args.how.name
            && let Some(member) = folder.set.members.iter().find(|member| member.is_called(name))
        {
            let message = format!("{}: member {} is named {name:?} already", path.display(), member.number());
            return Err(Failure::new("exists", message));
        }
        Ok(SetTarget {
            args,
            origin: source.origin(),
            folder,
            file: String::new(),
            point: String::new(),
            why_full: None,
            disk: None,
            new: None,
            writer: None,
            hashing: None,
            stored: (0, 0),
            equal: 0,
            goes_on: false,
            kept: 0,
            begun: false,
            published: false,
            full: false,
        })
    }

    /// Of a set that was copied, or that is an older state of itself, the map may have a point for that number already.
    fn choose_point(&mut self, points: &[NamedPoint]) {
        let names = (0..).map(|again| set_json::point_name(&self.file, &self.folder.set.id, again));
        let free = names.into_iter().find(|name| !points.iter().any(|point| point.name == *name));
        self.point = self.args.how.name.clone().or(free).unwrap_or_default();
    }

    fn path(&self) -> PathBuf {
        self.folder.at(&self.file)
    }

    /// What the next member may rest upon, and since which point the map knows what was written; or why not.
    fn rests_upon(&mut self, job: &Job<'_>, info: &Info) -> Result<std::result::Result<(Layered, String), String>> {
        let Some(last) = self.folder.set.members.len().checked_sub(1) else {
            return Ok(Err("it is the first one".into()));
        };
        let member = &self.folder.set.members[last];
        let number = member.number().to_string();
        if self.args.how.full {
            return Ok(Err("it was asked for (--full)".into()));
        }
        if member.map != info.uuid.to_string() {
            return Ok(Err(format!("{number} was made by another map")));
        }
        let Some(set_json::Point { name, bytes }) = &member.point else {
            return Ok(Err(format!("the map kept nothing for {number}, whose checkpoint was frozen without a name")));
        };
        // Of another backup's point of this name the target would be another one.
        let is = |target: &ImageStamp| target.size() == *bytes;
        let known = info.points.iter().find(|point| point.name == *name && point.target.as_ref().is_some_and(is));
        if known.is_none_or(|point| time(point.time).as_ref() != Some(&member.time)) {
            return Ok(Err(format!("the map does not know any more what was written since {number} (point {name:?})")));
        }
        if self.folder.set.chain(last).len() >= set_json::MAX_CHAIN {
            return Ok(Err(format!("{} members rest upon one another already", set_json::MAX_CHAIN)));
        }
        let name = name.clone();
        match self.folder.prove_newest() {
            Ok(disk) => Ok(Ok((disk, name))),
            Err(failure) if failure.kind == "interrupted" => Err(failure),
            Err(failure) => {
                job.output.note(format_args!("{failure}; nothing can rest upon it; the others: dirtymap set verify"));
                Ok(Err(format!("what it would rest upon is damaged: {failure}")))
            }
        }
    }

    /// The newest member was complete, and nothing but the map did not know it yet.
    fn commit_whole(&mut self, job: &Job<'_>) -> Result<bool> {
        let outstanding = job.map.checkpoint()?.filter(|found| found.state == CheckpointState::Frozen);
        let newest = self.folder.set.members.last();
        let (Some(found), Some(newest)) = (outstanding, newest) else { return Ok(false) };
        if found.uuid.to_string() != newest.checkpoint {
            return Ok(false);
        }
        let path = self.folder.at(&newest.file);
        let stamp = ImageStamp::of(&Stored::open(&path)?.file).map_err(|e| Failure::io(path.display(), &e))?;
        let number = newest.number();
        match job.source.commit(&job.map, &found, keeps(&found), &stamp, 0) {
            // It was whole until then, but whether the image is durable nobody can say: nothing rests upon it.
            Err(failure) if failure.kind == "snapshot-broken" => {
                job.output.note(format_args!("the map cannot be told of member {number}, which is whole: {failure}"));
                job.source.abort(&job.map, &found)?;
                return Ok(false);
            }
            done => done?,
        }
        job.output.note(format_args!("member {number} was complete when its backup was ended; the map knows it now"));
        // It may have been merged since.
        if let Some(point) = self.folder.set.members.last_mut().and_then(|newest| newest.point.as_mut())
            && point.bytes != stamp.size()
        {
            point.bytes = stamp.size();
            self.folder.save()?;
        }
        Ok(true)
    }

    /// Drops the points of all members but the newest. Best effort: the next backup tries again.
    fn drop_points(&self, job: &Job<'_>) {
        let Some((_, older)) = self.folder.set.members.split_last() else { return };
        let Ok(points) = job.map.points() else { return };
        for member in older {
            let Some(set_json::Point { name, .. }) = &member.point else { continue };
            if points.iter().any(|point| point.name == *name && time(point.time).as_ref() == Some(&member.time))
                && let Err(e) = job.map.drop_point(name)
            {
                job.output.note(format_args!("{e}; the point {name:?} of member {} is still there", member.number()));
            }
        }
        // A kill between the commit and this, and then a prune: nothing else tells that it was a member's.
        let oldest = self.folder.set.members.first().map(|member| set_json::number(&member.file));
        let gone = |name: &str| {
            set_json::point_of(name).is_some_and(|(file, id)| {
                let plain = set_json::point_name(&file, id, 0) == name && id == self.folder.set.id;
                plain && Some(set_json::number(&file)) < oldest
            })
        };
        for point in points.iter().filter(|point| gone(&point.name)) {
            if let Err(e) = job.map.drop_point(&point.name) {
                job.output
                    .note(format_args!("{e}; the point {:?} of a member that is gone is still there", point.name));
            }
        }
    }

    fn outcome(&self, member: &Member, settled: bool) -> MemberOutcome {
        MemberOutcome {
            set: self.folder.path.display().to_string(),
            number: member.number().into(),
            name: member.name.clone(),
            why_full: member.why_full.clone(),
            consistency: member.consistency,
            group: member.group.clone(),
            bytes: member.content.bytes,
            bytes_equal: self.equal,
            bytes_kept: self.kept,
            goes_on: self.goes_on,
            settled,
            pruned: Vec::new(),
        }
    }

    /// What the member can be called good for.
    fn consistency(&self, one_moment: Option<bool>) -> Consistency {
        match (self.args.how.consistency, one_moment) {
            (_, Some(false)) => Consistency::None,
            (Some(Told::App), _) => Consistency::App,
            (Some(Told::Crash), _) | (None, Some(true)) => Consistency::Crash,
            (None, None) => Consistency::Unknown,
        }
    }
}

impl Target for SetTarget<'_> {
    fn acceptable(&self, info: &Info, _: u64) -> Result<()> {
        let newest = self.folder.set.members.last();
        let Some(other) = newest.filter(|newest| !self.args.how.force && !self.is_ours(newest, &info.uuid.to_string()))
        else {
            return Ok(());
        };
        let (set, image) = (self.folder.path.display(), &self.origin);
        let message = format!(
            "{set} is the set of another image: member {} is of {}, by another map than that of {image}; give \
             the set of this image, or a new folder; or go on in this one all the same, with a full member (--force)",
            other.number(),
            shown(&other.image)
        );
        Err(Failure::new("wrong-target", message))
    }

    fn settle(&mut self, job: &Job<'_>) -> Result<Option<Outcome>> {
        let whole = self.commit_whole(job)?;
        if let Some(begun) = &self.folder.set.begun
            && begun.map == job.map.info()?.uuid.to_string()
            && let Some(left) = job.map.checkpoint()?.filter(|left| begun.point.is_some() && left.name == begun.point)
        {
            job.give_up(&left)?;
        }
        told(&mut self.full, self.folder.settle())?;
        self.drop_points(job);
        self.file = self.folder.next_file()?;
        self.choose_point(&job.map.points()?);
        let newest = self.folder.set.members.last().filter(|_| whole && self.args.how.frozen);
        let Some(newest) = newest else { return Ok(None) };
        let described = Described {
            target: self.folder.at(&newest.file).display().to_string(),
            why_full: newest
                .backing
                .is_none()
                .then(|| newest.why_full.clone().unwrap_or_else(|| "it was merged".into())),
            new: true,
        };
        let outcome = Outcome::new(job, newest.size, 0, described);
        Ok(Some(Outcome { member: Some(self.outcome(newest, true)), ..outcome }))
    }

    fn point(&self) -> &str {
        &self.point
    }

    fn stamp(&self) -> Option<ImageStamp> {
        // Without one, its own next backup knows what it has left by the name all the same.
        self.new.as_ref().and_then(|new| ImageStamp::glance(new.file()).ok())
    }

    fn has_left(&self, stale: &Checkpoint) -> bool {
        let name = stale.name.as_deref().and_then(set_json::point_of);
        name.is_some_and(|(_, id)| id == self.folder.set.id)
    }

    fn prepare(&mut self, job: &Job<'_>, info: &Info) -> Result<Base> {
        let base = match self.rests_upon(job, info)? {
            Ok((disk, point)) => {
                self.disk = Some(disk);
                Base::Since(point)
            }
            Err(why) => {
                self.why_full = Some(why);
                Base::Everything
            }
        };
        let new = self.folder.begin_member(&self.file, base == Base::Everything, job.source.like());
        self.new = Some(told(&mut self.full, new)?);
        let point = (!self.args.how.frozen).then(|| self.point.clone());
        self.folder.set.begun =
            Some(Begun { file: self.file.clone(), point, map: info.uuid.to_string(), content: None });
        self.begun = true;
        told(&mut self.full, self.folder.save())?;
        step("begun");
        Ok(base)
    }

    /// Whole clusters.
    fn reads_all(&self, map: &DirtyMap) -> bool {
        map.geometry().granularity() < cluster_bits(map)
    }

    fn prove(&mut self, _: &Job<'_>, _: &Work, _: &Info) -> Result<u64> {
        step("frozen");
        Ok(0)
    }

    fn begin(&mut self, job: &Job<'_>, work: &Work) -> Result<()> {
        let Some(new) = &self.new else { return Err(out_of_order()) };
        self.goes_on = new.file().metadata().is_ok_and(|m| m.len() > 0);
        let bits = cluster_bits(&job.map);
        let below = self.folder.set.members.last().filter(|_| self.disk.is_some());
        let below = below.map(|member| member.file.as_str());
        self.writer = Some(match below {
            None => MemberWriter::go_on(new.file(), &self.path(), work.len, bits)?,
            below => MemberWriter::new(new.file(), &self.path(), work.len, bits, below)?,
        });
        Ok(())
    }

    fn copy(
        &mut self,
        job: &Job<'_>,
        _: u64,
        areas: &mut dyn Iterator<Item = Range<u64>>,
        pass: &Pass,
    ) -> Result<Copied> {
        let Some(writer) = &mut self.writer else { return Err(out_of_order()) };
        let below = self.disk.as_ref().map(|disk| disk as &dyn Content);
        let copied = writer.copy(job.source.content(), below, areas, self.args.how.store_equal, pass);
        let copied = told(&mut self.full, copied)?;
        (self.equal, self.kept) = (copied.equal, copied.kept);
        Ok(copied)
    }

    fn complete(&mut self) -> Result<()> {
        let (Some(writer), Some(new)) = (self.writer.take(), &self.new) else { return Err(out_of_order()) };
        let (path, len) = (self.path(), writer.len());
        self.stored = (writer.data, writer.zeros);
        let finished = writer.finish(self.disk.as_ref().map(|disk| disk as &dyn Content));
        told(&mut self.full, finished)?;
        step("written");
        // While it is read back anyway.
        let (stored, hashing) = Hashing::of(Stored::again(new.file(), &path)?, &path, INTERRUPTED)?;
        self.hashing = Some(hashing);
        self.disk = Some(Layered::written(stored, &path, self.disk.take(), len)?);
        Ok(())
    }

    fn content(&self) -> Result<&dyn Content> {
        self.disk.as_ref().map(|disk| disk as &dyn Content).ok_or_else(out_of_order)
    }

    fn to_audit(&self) -> bool {
        self.why_full.is_none()
    }

    fn publish(&mut self, job: &Job<'_>, work: &Work, outcome: &mut Outcome) -> Result<ImageStamp> {
        let path = self.path();
        let io = |e: &std::io::Error| Failure::io(path.display(), e);
        let stored = Stored::again(self.new.as_ref().ok_or_else(out_of_order)?.file(), &path)?;
        // Nothing more is read of it.
        self.disk = None;
        let sha256 = self.hashing.take().ok_or_else(out_of_order)?.finish()?;
        let unnamed = seen(&stored.file).map_err(|e| io(&e))?;
        if let Some(begun) = &mut self.folder.set.begun {
            begun.content = Some(Recorded { bytes: stored.bytes, sha256: sha256.clone(), seen: unnamed });
        }
        told(&mut self.full, self.folder.save())?;
        let named = self.new.take().ok_or_else(out_of_order)?.publish(&path);
        told(&mut self.full, named)?;
        step("named");
        // Waits until a later write would change what is seen of it.
        let stamp = ImageStamp::of(&stored.file).map_err(|e| io(&e))?;
        let content = Recorded { bytes: stored.bytes, sha256, seen: seen(&stored.file).map_err(|e| io(&e))? };
        let below = self.folder.set.members.last().filter(|_| self.why_full.is_none());
        let member = Member {
            file: self.file.clone(),
            name: self
                .args
                .how
                .name
                .clone()
                .or_else(|| work.checkpoint.name.clone().filter(|name| self.may_be_named(name))),
            backing: below.map(|member| member.file.clone()),
            why_full: self.why_full.clone(),
            time: time(work.checkpoint.time).unwrap_or_else(|| time::EPOCH.into()),
            consistency: self.consistency(outcome.one_moment),
            group: self.args.group.clone(),
            hooks: outcome.hooks,
            size: work.len,
            data: self.stored.0,
            zeros: self.stored.1,
            image: self.origin.clone(),
            map: job.map.info()?.uuid.to_string(),
            checkpoint: work.checkpoint.uuid.to_string(),
            point: work
                .checkpoint
                .name
                .clone()
                .filter(|_| keeps(&work.checkpoint))
                .map(|name| set_json::Point { name, bytes: content.bytes }),
            content,
        };
        (outcome.full, outcome.why_full) = (member.backing.is_none(), member.why_full.clone());
        outcome.member = Some(self.outcome(&member, false));
        let before = self.folder.set.clone();
        (self.folder.set.begun, self.folder.set.part) = (None, None);
        self.folder.set.members.push(member);
        if let Err(failure) = self.folder.save() {
            self.folder.set = before;
            return told(&mut self.full, Err(failure));
        }
        self.published = true;
        step("listed");
        Ok(stamp)
    }

    fn is_published(&self) -> bool {
        self.published
    }

    fn committed(&mut self, job: &Job<'_>, outcome: &mut Outcome) {
        step("committed");
        self.drop_points(job);
        let Some(keep) = self.args.how.keep else { return };
        let (members, ours) = (&self.folder.set.members, job.map.info().map(|info| info.uuid.to_string()));
        let beyond = members.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        if let Some(other) = members[..beyond].iter().find(|m| !ours.as_ref().is_ok_and(|ours| self.is_ours(m, ours))) {
            let (number, image) = (other.number(), shown(&other.image));
            let how = "the set was not pruned; if it is not needed any more: dirtymap set prune";
            return job.output.note(format_args!("member {number} is of another image, {image}; {how}"));
        }
        match prune::prune(&mut self.folder, keep) {
            Ok(pruned) => outcome.member.iter_mut().for_each(|member| member.pruned.clone_from(&pruned.members)),
            Err(failure) => job.output.note(format_args!("{failure}; the set is whole, and was not pruned")),
        }
    }

    fn abandon(&mut self) -> bool {
        // What an earlier one has left, the map has to settle as well: that is for the next backup. But for room.
        if !std::mem::take(&mut self.begun) {
            if self.full {
                let _ = self.folder.remove_part();
            }
            return false;
        }
        // Where there is no room, nothing is kept to go on with: others may need it, and `set.json` does.
        let stopped = self.writer.take().is_none_or(|writer| writer.stop().is_ok()) && !self.full;
        let filled = |file: &File| file.metadata().is_ok_and(|m| m.len() > 0);
        let stays = matches!(&self.new.take(), Some(Unfinished::Part(file, _)) if stopped && filled(file));
        if !stays {
            let _ = self.folder.remove_part();
        }
        let _ = self.folder.settle();
        stays
    }

    fn describe(&self) -> Described {
        Described { target: self.path().display().to_string(), why_full: self.why_full.clone(), new: true }
    }
}

impl SetTarget<'_> {
    /// Whether a member is of the image that is backed up: made by its map, or of what has that name.
    fn is_ours(&self, member: &Member, map: &str) -> bool {
        member.map == map
            || member.image == self.origin
            || files::same(Path::new(&member.image), Path::new(&self.origin))
    }

    /// Whether the name of a checkpoint that was frozen before can be a member's as well.
    fn may_be_named(&self, name: &str) -> bool {
        self.args.how.frozen
            && usable(name).is_ok()
            && !self.folder.set.members.iter().any(|member| member.is_called(name))
    }
}

/// Remembers of what has failed whether it was for want of room.
fn told<T>(full: &mut bool, done: Result<T>) -> Result<T> {
    done.inspect_err(|failure| *full |= failure.kind == "no-space")
}

/// log2 of the bytes of a cluster, for a member that a map goes with.
fn cluster_bits(map: &DirtyMap) -> u32 {
    map.geometry().granularity().clamp(*CLUSTER_BITS.start(), *CLUSTER_BITS.end())
}

/// Refuses a name that a member cannot have.
fn usable(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > set_json::MAX_NAME || name.contains('@') || set_json::number_of(name).is_some() {
        let most = set_json::MAX_NAME;
        let message = format!("{name:?} cannot be a member's name: that has 1 to {most} bytes, no @, and is no number");
        return Err(Failure::new("refused", message));
    }
    Ok(())
}

/// The engine asks in its order.
fn out_of_order() -> Failure {
    Failure::new("refused", "the member is not being written")
}
