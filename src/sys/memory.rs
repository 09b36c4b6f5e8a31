//! How much memory this process may lock without being killed for it.
//!
//! Invariant kept here: of the machine and of each control group that the process is in, at most half of the memory is
//! taken, and no more than what is left of it.

use std::path::{Path, PathBuf};

/// Where control groups are found.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Bytes that may be locked: beyond that the machine would have nothing left, or the kernel would kill a process of the group.
pub(crate) fn lockable() -> u64 {
    // SAFETY: plain integers.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let machine = u64::try_from(pages).unwrap_or(0).saturating_mul(u64::try_from(size).unwrap_or(0));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    (machine / 2).min(of_groups(Path::new(CGROUPS), &groups))
}

/// The same of the groups that a process is in, by what the kernel tells of it. No limit is `u64::MAX`.
fn of_groups(root: &Path, groups: &str) -> u64 {
    let group = |line: &str| -> Option<u64> {
        // A hierarchy's number, its controllers, and the group in it. The second version has one without a list.
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (places, files): (&[&str], &Files) = match controllers {
            "" => (&["", "unified"], &SECOND),
            list if list.split(',').any(|name| name == "memory") => (&["memory"], &FIRST),
            _ => return None,
        };
        let of = |place: &&str| of_group(root.join(place), group, files);
        places.iter().map(of).min()
    };
    groups.lines().filter_map(group).min().unwrap_or(u64::MAX)
}

/// What the files of a control group are called: its limit, what is used, and facts; and what of the used memory are pages of
/// files, and of these, pages of files that are in memory only.
struct Files {
    limit: &'static str,
    used: &'static str,
    files: &'static str,
    memory_files: &'static str,
}

const FIRST: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    files: "total_cache",
    memory_files: "total_shmem",
};
const SECOND: Files = Files { limit: "memory.max", used: "memory.current", files: "file", memory_files: "shmem" };

/// The least that a group and those it is in allow. In a container the group's name may be one of outside: then that of
/// the container counts, which is the first one there.
fn of_group(root: PathBuf, group: &str, files: &Files) -> u64 {
    let number = |directory: &Path, name: &str| -> Option<u64> {
        std::fs::read_to_string(directory.join(name)).ok()?.trim().parse().ok()
    };
    let room = |directory: &Path| {
        // Not a number: there is no limit, or no such group.
        let Some(limit) = number(directory, files.limit) else { return u64::MAX };
        let facts = std::fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
        let fact = |name: &str| -> u64 {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
            facts.lines().find_map(value).unwrap_or(0)
        };
        // Pages of files are given up when memory is wanted.
        let given_up = fact(files.files).saturating_sub(fact(files.memory_files));
        let used = number(directory, files.used).unwrap_or(0).saturating_sub(given_up);
        (limit / 2).min(limit.saturating_sub(used))
    };
    let within = Path::new(group).ancestors().map(|group| room(&root.join(group)));
    within.min().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_tightest_limit_of_all_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let allowed = |groups: &str| of_groups(root.path(), groups);
        assert_eq!(allowed(""), u64::MAX);
        assert_eq!(allowed("0::/a/b\n"), u64::MAX, "there is no such group");
        write("a/b/memory.max", "max\n");
        assert_eq!(allowed("0::/a/b\n"), u64::MAX);
        // That of a group around it.
        write("a/memory.max", "104857600\n");
        assert_eq!(allowed("0::/a/b\n"), 50 * MIB);
        // Pages of files that are on a disk are no use of it.
        write("a/memory.current", "94371840\n");
        write("a/memory.stat", "anon 1\nfile 52428800\nfile_dirty 0\nshmem 10485760\n");
        assert_eq!(allowed("0::/a/b\n"), 50 * MIB);
        write("a/memory.stat", "file 20971520\nshmem 10485760\n");
        assert_eq!(allowed("0::/a/b\n"), 20 * MIB);
        // The first version beside it.
        write("memory/c/memory.limit_in_bytes", "8388608\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(allowed("9:cpu:/c\n4:memory:/c/d\n0::/a/b\n"), 4 * MIB);
        assert_eq!(allowed("9:cpu,memory:/c\n"), 4 * MIB);
        assert_eq!(allowed("9:cpu:/c\n0::/\n"), u64::MAX);
        write("unified/e/memory.max", "2097152\n");
        assert_eq!(allowed("0::/e\n"), MIB);
    }
}
