//! Any bytes as a `set.json`: a set or an error, no panic. No name in it leads out of the folder, every chain begins with a full
//! member and ends, and written and read again it is the same.

use dirtymap_cli::set_json::{Set, file_name, number};

pub fn run(bytes: &[u8]) {
    let Ok(set) = Set::parse(bytes) else { return };
    assert!(Set::parse(&set.to_bytes()).as_ref() == Ok(&set));
    let files = set.members.iter().map(|member| &member.file).chain(&set.leftover);
    let files = files.chain(set.begun.iter().map(|begun| &begun.file));
    for file in files.chain(set.merging.iter().map(|merging| &merging.file)) {
        assert!(number(file).is_some_and(|n| file_name(n) == *file) && !file.contains('/'));
    }
    for (index, member) in set.members.iter().enumerate() {
        let chain = set.chain(index);
        assert!(chain[0].backing.is_none() && chain.last() == Some(member));
        assert!(chain.windows(2).all(|pair| pair[1].backing.as_ref() == Some(&pair[0].file)));
        assert!(member.is_called(member.number()) && member.name.as_ref().is_none_or(|name| member.is_called(name)));
    }
}
