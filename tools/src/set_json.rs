//! `set.json`: what belongs to a backup set, and what a command that changes it is about to do.
//!
//! Invariant kept here: of any bytes only what could be a set's is taken. Names of files are numbers, so none leads out of the
//! folder; a member's backing file is the member before it or none, so no chain goes round; lengths are such as files have.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// The one version that there is.
pub const FORMAT: u32 = 1;
/// Most bytes of the file.
pub const MAX_BYTES: u64 = 16 << 20;
/// Most members.
pub const MAX_MEMBERS: usize = 10_000;
/// Most members that one may rest upon, with itself: what a program that opens it has open at once.
pub const MAX_CHAIN: usize = 250;
/// Most bytes of a name: as of a map's points.
pub const MAX_NAME: usize = 64;

/// A set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// [`FORMAT`].
    pub format: u32,
    /// Eight hexadecimal digits that tell this set from others: in the names of points.
    pub id: String,
    /// The oldest first.
    pub members: Vec<Member>,
    /// The member that is being made, or that a killed backup has left.
    pub begun: Option<Begun>,
    /// The full member of which a file is being written, beside the name that it will have, or that a backup has left that was stopped: the next one goes on with it.
    pub part: Option<String>,
    /// The member whose file is being replaced by one that rests on no other, or that a killed prune has left.
    pub merging: Option<Merging>,
    /// Files that belong to no member any more, and are removed next.
    pub leftover: Vec<String>,
}

/// One backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub file: String,
    pub name: Option<String>,
    /// The file that this one rests upon: that of the member before; none for a full one.
    pub backing: Option<String>,
    /// Why it is full, if it was made so.
    pub why_full: Option<String>,
    /// The moment that it is of: when it was frozen. RFC 3339, in UTC and whole seconds.
    pub time: String,
    pub consistency: Consistency,
    /// Bytes of the image.
    pub size: u64,
    /// What the file holds: bytes of data, and bytes that are zeros where the one below has something else.
    pub data: u64,
    pub zeros: u64,
    pub image: String,
    /// What this one has in common with members of other sets that were made at the same moment.
    pub group: Option<String>,
    /// The commands that were run around the freeze, if any were.
    pub hooks: Option<Hooks>,
    /// Identity of the map and of the checkpoint, and the point by which the map keeps what was written since.
    pub map: String,
    pub checkpoint: String,
    pub point: Option<Point>,
    pub content: Content,
}

/// Commands that were run around a freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    pub pre: Option<Hook>,
    pub post: Option<Hook>,
}

/// What came of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    pub ended: HookEnd,
    pub milliseconds: u64,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookEnd {
    Done,
    Failed,
    /// It took too long.
    Late,
}

impl Hook {
    /// What is to be said of it.
    fn said(self) -> String {
        let word = match self.ended {
            HookEnd::Done => "done",
            HookEnd::Failed => "failed",
            HookEnd::Late => "ended for being late",
        };
        format!("{word} after {}.{:03} s", self.milliseconds / 1000, self.milliseconds % 1000)
    }
}

impl fmt::Display for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = [("pre-hook", self.pre), ("post-hook", self.post)];
        let said = said.into_iter().filter_map(|(which, hook)| hook.map(|hook| format!("{which} {}", hook.said())));
        f.write_str(&said.collect::<Vec<_>>().join(", "))
    }
}

/// By what a map's point is known again, together with its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    pub name: String,
    /// Length of the file that the map has recorded with it.
    pub bytes: u64,
}

/// A file as it was when it was complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Its length.
    pub bytes: u64,
    pub sha256: String,
    /// By which it is known again without being read.
    pub seen: Seen,
}

/// What the system says of a file. Whatever writes to it changes that, unless a power cut takes that back and leaves the bytes: so it
/// tells something as long as the machine runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    pub inode: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
    pub changed: (i64, i64),
    /// Since when the machine runs; none where nothing tells.
    pub boot: Option<String>,
}

impl Seen {
    /// Whether nothing has written to the file between the two.
    pub fn proves(&self, then: &Seen) -> bool {
        self.boot.is_some() && self == then
    }
}

/// What a member is good for when it is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The image as a power cut would have left it.
    Crash,
    /// As programs leave it that were told to finish first.
    App,
    /// Not of one moment: something wrote meanwhile.
    None,
    /// Nothing tells whether it is of one moment.
    Unknown,
}

impl Consistency {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Consistency::Crash => "crash",
            Consistency::App => "app",
            Consistency::None => "none",
            Consistency::Unknown => "unknown",
        }
    }
}

/// A member that is being made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    pub file: String,
    /// What is frozen with, in which map; none for a checkpoint that was frozen before.
    pub point: Option<String>,
    pub map: String,
    /// What the file is that has the name by now, or is about to have it.
    pub content: Option<Content>,
}

/// A member's file that is being replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merging {
    pub file: String,
    /// What the new one holds, beside its length and the rest.
    pub data: u64,
    pub content: Content,
}

/// Why bytes are no set: what was found, and what should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong(pub String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Eight hexadecimal digits, others each time.
pub fn new_id() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!("{:08x}", RandomState::new().build_hasher().finish() as u32)
}

/// The name of the file of a member.
pub fn file_name(number: u32) -> String {
    format!("{number:04}.qcow2")
}

/// The number of a member by the name of its file.
pub fn number(file: &str) -> Option<u32> {
    let number = file.strip_suffix(".qcow2")?.parse().ok()?;
    (number > 0 && file_name(number) == file).then_some(number)
}

/// The name of the file that will take the place of a member's.
pub fn merged_name(file: &str) -> String {
    format!("{file}.merged")
}

/// The name of the file of a member that is being written, if others can go on with it.
pub fn part_name(file: &str) -> String {
    format!("{file}.part")
}

/// The name that the point of a member has in a map unless another was given; `again`: how many have it already, of other copies of
/// the set.
pub fn point_name(file: &str, id: &str, again: usize) -> String {
    let number = file.strip_suffix(".qcow2").unwrap_or(file);
    if again == 0 { format!("{number}-{id}") } else { format!("{number}-{id}-{}", again + 1) }
}

/// The member's file and the set's id that such a name has.
pub fn point_of(name: &str) -> Option<(String, &str)> {
    let (number, rest) = name.split_once('-')?;
    let (id, again) = rest.split_once('-').map_or((rest, None), |(id, again)| (id, Some(again)));
    let file = format!("{number}.qcow2");
    let is = self::number(&file).is_some() && is_id(id) && again.is_none_or(|again| number_of(again).is_some());
    is.then_some((file, id))
}

impl Set {
    /// A set without members.
    pub fn new(id: String) -> Set {
        Set { format: FORMAT, id, members: Vec::new(), begun: None, part: None, merging: None, leftover: Vec::new() }
    }

    /// Takes bytes apart.
    ///
    /// # Errors
    /// What could be no set's.
    pub fn parse(bytes: &[u8]) -> Result<Set, Wrong> {
        let set: Set = serde_json::from_slice(bytes).map_err(|e| Wrong(e.to_string()))?;
        set.check().map(|()| set).map_err(Wrong)
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A struct of numbers and text has a form in JSON.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    fn check(&self) -> Result<(), String> {
        let expect = |right: bool, what: &dyn Fn() -> String| if right { Ok(()) } else { Err(what()) };
        expect(self.format == FORMAT, &|| format!("found format {}, expected {FORMAT}", self.format))?;
        expect(is_id(&self.id), &|| format!("found id {:?}, expected eight hexadecimal digits", self.id))?;
        expect(self.members.len() <= MAX_MEMBERS, &|| format!("found more than {MAX_MEMBERS} members"))?;
        let mut names = BTreeSet::new();
        let mut before: Option<&Member> = None;
        let mut height = 0;
        for member in &self.members {
            height = if member.backing.is_some() { height + 1 } else { 1 };
            expect(height <= MAX_CHAIN, &|| format!("found more than {MAX_CHAIN} members that rest upon one another"))?;
            member.check(before).map_err(|e| format!("member {:?}: {e}", member.file))?;
            if let Some(name) = &member.name {
                expect(names.insert(name), &|| format!("found two members named {name:?}"))?;
            }
            before = Some(member);
        }
        let files = self.begun.iter().map(|begun| &begun.file);
        let files = files.chain(&self.part);
        let files = files.chain(self.merging.iter().map(|merging| &merging.file)).chain(&self.leftover);
        for file in files {
            expect(number(file).is_some(), &|| format!("found a file {file:?}, expected a number and .qcow2"))?;
        }
        self.begun.iter().flat_map(|begun| &begun.content).try_for_each(Content::check)?;
        if let Some(merging) = &self.merging {
            merging.content.check()?;
            let there = self.members.iter().any(|member| member.file == merging.file);
            expect(there, &|| format!("found {:?} being merged, expected a member", merging.file))?;
        }
        let mut others = self.leftover.iter().chain(self.begun.iter().map(|begun| &begun.file));
        let member = others.find(|file| self.members.iter().any(|member| member.file == **file));
        expect(member.is_none(), &|| format!("found {member:?} to be removed, expected no member"))
    }

    /// The members that one rests upon, from the full one to itself.
    pub fn chain(&self, index: usize) -> &[Member] {
        let first = self.members[..=index].iter().rposition(|member| member.backing.is_none()).unwrap_or(0);
        &self.members[first..=index]
    }
}

impl Member {
    fn check(&self, before: Option<&Member>) -> Result<(), String> {
        let expect = |right: bool, what: &str| if right { Ok(()) } else { Err(format!("expected {what}")) };
        let this = number(&self.file).ok_or_else(|| "expected a number and .qcow2".to_string())?;
        let last = before.and_then(|before| number(&before.file)).unwrap_or(0);
        expect(this > last, "files in ascending order")?;
        let backing = self.backing.is_none() || self.backing.as_ref() == before.map(|before| &before.file);
        expect(backing, "the member before it as the backing file, or none")?;
        let named = |name: &String| (1..=MAX_NAME).contains(&name.len());
        expect(self.name.as_ref().is_none_or(named), "a name of 1 to 64 bytes")?;
        expect(self.name.as_ref().is_none_or(|name| number_of(name).is_none()), "a name that is no number")?;
        expect(self.point.as_ref().is_none_or(|point| named(&point.name)), "a point's name of 1 to 64 bytes")?;
        expect(self.time.parse::<jiff::Timestamp>().is_ok(), "a time as RFC 3339 has it")?;
        expect(i64::try_from(self.size).is_ok(), "a size that a file can have")?;
        self.content.check()
    }

    /// What it is called: its name, or its number.
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(self.number())
    }

    /// Its number, as the file has it.
    pub fn number(&self) -> &str {
        self.file.strip_suffix(".qcow2").unwrap_or(&self.file)
    }

    /// Whether `text` is its name or its number.
    pub fn is_called(&self, text: &str) -> bool {
        self.name.as_deref() == Some(text) || number_of(text).is_some_and(|n| number(&self.file) == Some(n))
    }
}

/// The number that a text is, if it is one.
pub fn number_of(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl Content {
    fn check(&self) -> Result<(), String> {
        if self.sha256.len() != 64 || !is_hex(&self.sha256) {
            return Err(format!("found sha256 {:?}, expected 64 hexadecimal digits", self.sha256));
        }
        i64::try_from(self.bytes).map(|_| ()).map_err(|_| "expected a length that a file can have".into())
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 8 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u32, backing: Option<u32>) -> Member {
        Member {
            file: file_name(number),
            name: (number == 2).then(|| "monday".into()),
            backing: backing.map(file_name),
            why_full: None,
            time: "2026-11-29T10:00:00Z".into(),
            consistency: Consistency::Crash,
            size: 1 << 20,
            data: 65536,
            zeros: 0,
            image: "disk.raw".into(),
            group: None,
            hooks: None,
            map: "map".into(),
            checkpoint: "checkpoint".into(),
            point: Some(Point { name: "point".into(), bytes: 1 << 19 }),
            content: Content {
                bytes: 1 << 19,
                sha256: "0123456789abcdef".repeat(4),
                seen: Seen { inode: 1, modified: (2, 3), changed: (4, 5), boot: None },
            },
        }
    }

    fn set() -> Set {
        let members = vec![member(1, None), member(2, Some(1)), member(5, None), member(6, Some(5))];
        let begun = Begun { file: file_name(7), point: None, map: "map".into(), content: None };
        let merging = Merging { file: file_name(2), data: 1, content: member(2, None).content };
        let leftover = vec![file_name(4)];
        let part = Some(file_name(7));
        Set { members, begun: Some(begun), part, merging: Some(merging), leftover, ..Set::new("0123abcd".into()) }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(Set::parse(&set().to_bytes()), Ok(set()));
        let files = |index| set().chain(index).iter().map(|member| member.file.clone()).collect::<Vec<_>>();
        assert_eq!(
            (files(1), files(2), files(3)),
            (vec![file_name(1), file_name(2)], vec![file_name(5)], vec![file_name(5), file_name(6)],)
        );
        assert!(
            member(2, None).is_called("monday") && member(2, None).is_called("2") && member(2, None).is_called("0002")
        );
        assert!(!member(2, None).is_called("12") && !member(12, None).is_called("monday"));
    }

    /// A set of one member, of which nothing but the name of its file can be wrong.
    fn alone(set: &mut Set, file: &str) {
        set.members.truncate(1);
        (set.begun, set.part, set.merging, set.leftover) = (None, None, None, Vec::new());
        set.members[0].file = file.into();
    }

    #[test]
    fn the_name_of_a_point_says_of_which_member_it_is() {
        for again in [0, 1, 12] {
            let name = point_name("0007.qcow2", "0123abcd", again);
            assert_eq!(point_of(&name), Some(("0007.qcow2".into(), "0123abcd")), "{name}");
        }
        for other in ["monday", "0007", "0007-0123abc", "7-0123abcd", "0007-0123abcd-x", "0007-0123abcd-", "-0123abcd"]
        {
            assert_eq!(point_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_could_be_no_set_s_is_refused() {
        let mut good = set();
        alone(&mut good, "0001.qcow2");
        assert_eq!(Set::parse(&good.to_bytes()), Ok(good));
        type Change = fn(&mut Set);
        let bad: [(&str, Change); 22] = [
            ("format", |set| set.format = 2),
            ("id", |set| set.id = "../../..".into()),
            ("a path", |set| alone(set, "../0001.qcow2")),
            ("an absolute path", |set| alone(set, "/etc/passwd")),
            ("no number", |set| alone(set, "0000.qcow2")),
            ("another form", |set| alone(set, "1.qcow2")),
            ("a sign", |set| alone(set, "+001.qcow2")),
            ("not ascending", |set| set.members[3].file = file_name(5)),
            ("resting on itself", |set| set.members[1].backing = Some(file_name(2))),
            ("resting on a later one", |set| set.members[1].backing = Some(file_name(5))),
            ("resting on one before the last", |set| set.members[2].backing = Some(file_name(1))),
            ("the first rests on something", |set| set.members[0].backing = Some(file_name(1))),
            ("a time", |set| set.members[0].time = "yesterday".into()),
            ("a size", |set| set.members[0].size = u64::MAX),
            ("a length", |set| set.members[0].content.bytes = 1 << 63),
            ("a hash", |set| set.members[0].content.sha256 = "0".repeat(63)),
            ("two names", |set| set.members[2].name = Some("monday".into())),
            ("a name that is a number", |set| set.members[2].name = Some("0001".into())),
            ("leftover outside", |set| set.leftover[0] = "../image.raw".into()),
            ("a part outside", |set| set.part = Some("../image.raw".into())),
            ("leftover is a member", |set| set.leftover[0] = file_name(1)),
            ("merging none", |set| set.merging.as_mut().expect("some").file = file_name(9)),
        ];
        for (what, change) in bad {
            let mut set = set();
            change(&mut set);
            assert!(Set::parse(&set.to_bytes()).is_err(), "{what}");
        }
        let high =
            |most| (1..=most).map(|n| member(n, (n > 1).then(|| n - 1))).map(|m| Member { name: None, ..m }).collect();
        for (most, fine) in [(MAX_CHAIN as u32, true), (MAX_CHAIN as u32 + 1, false)] {
            let set = Set { members: high(most), ..Set::new("0123abcd".into()) };
            assert_eq!(Set::parse(&set.to_bytes()).is_ok(), fine, "{most} members");
        }
        assert!(Set::parse(b"").is_err() && Set::parse(b"{}").is_err());
        let unknown = String::from_utf8(set().to_bytes()).expect("text").to_string();
        for place in ["\"format\"", "\"file\"", "\"bytes\"", "\"inode\""] {
            let later = unknown.replacen(place, &format!("\"later\":1,{place}"), 1);
            assert!(Set::parse(later.as_bytes()).is_err(), "a field beside {place} that a newer version may rely upon");
        }
    }
}
