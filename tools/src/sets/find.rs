//! Which member of a set is asked for.

use super::Folder;
use crate::exit::{Failure, Result};
use crate::time;
use dirtymap_cli::set_json::Member;
use std::path::{Path, PathBuf};

/// A set, and what was said of the member.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub folder: PathBuf,
    pub member: Option<String>,
}

impl Asked {
    /// Takes `DIR` or `DIR@MEMBER` apart. A folder that is called so is just that.
    pub fn parse(path: &Path) -> Asked {
        let text = path.to_str().filter(|_| !path.is_dir());
        match text.and_then(|text| text.rsplit_once('@')) {
            Some((folder, member)) => Asked { folder: folder.into(), member: Some(member.into()) },
            None => Asked { folder: path.into(), member: None },
        }
    }
}

impl Folder {
    /// The failure of who wants a member of a set that has none.
    pub fn no_member(&self) -> Failure {
        Failure::new("no-member", format!("{}: the set has no member yet; a backup makes one", self.path.display()))
    }
}

/// The index of the member that is asked for: by its name or number, by a time, or the newest.
pub fn find(folder: &Folder, member: Option<&str>, until: Option<&str>) -> Result<usize> {
    let members = &folder.set.members;
    let path = folder.path.display();
    let Some(last) = members.len().checked_sub(1) else {
        return Err(folder.no_member());
    };
    if let Some(member) = member {
        let found = members.iter().position(|there| there.is_called(member));
        return found.ok_or_else(|| {
            let message = format!("{path}: there is no member {member:?} in it; it has {}", listing(members));
            Failure::new("no-member", message)
        });
    }
    let Some(until) = until else { return Ok(last) };
    let until = time::parse(until).map_err(|e| Failure::usage(format!("--until: {e}")))?;
    // Up to the first younger one: where a clock was put back, what was made later is of a later state whatever it says.
    let old = |member: &&Member| time::parse(&member.time).is_ok_and(|time| time <= until);
    members.iter().take_while(old).count().checked_sub(1).ok_or_else(|| {
        let message = format!(
            "{path}: no member is that old; the oldest is of {}: give that time or a later one",
            members[0].time
        );
        Failure::new("no-member", message)
    })
}

/// The members for a message: the first and the last ones.
fn listing(members: &[Member]) -> String {
    let names: Vec<&str> = members.iter().map(Member::title).collect();
    match &names[..] {
        [first, _, .., _, last] if names.len() > 6 => format!("{first} to {last}"),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_follows_the_last_at_sign_unless_a_folder_is_called_so() {
        let asked = |path: &str| Asked::parse(Path::new(path));
        let is = |folder: &str, member: Option<&str>| Asked { folder: folder.into(), member: member.map(Into::into) };
        assert_eq!(asked("backups"), is("backups", None));
        assert_eq!(asked("a@b/backups@monday"), is("a@b/backups", Some("monday")));
        let dir = tempfile::tempdir().expect("a directory");
        let odd = dir.path().join("odd@name");
        std::fs::create_dir(&odd).expect("made");
        let odd = odd.to_str().expect("text");
        assert_eq!(asked(odd), is(odd, None));
        assert_eq!(asked(&format!("{odd}@3")), is(odd, Some("3")));
    }
}
