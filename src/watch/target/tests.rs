//! Names, masks and paths.

use super::*;

pub fn watch_target(directory: &Path, mask: &str) -> WatchTarget {
    WatchTarget {
        origin: "[dirmonitor1]".into(),
        route: "a_route".into(),
        directory: PathPattern::new(directory),
        mask: FnMatch::new(mask),
        is_recursive: false,
        takes_existing: true,
        locks: Vec::new(),
        watch_by: WatchMethod::Auto,
        poll_interval: Duration::from_secs(1),
        stable_after: Duration::from_secs(1),
        file_wait: Duration::from_secs(60),
        is_channel: false,
    }
}

#[test]
fn incomplete_names_match_only_explicit_masks() {
    let matches = |mask: &str, name: &str| watch_target(Path::new("/in"), mask).matches(OsStr::new(name));
    for (mask, name) in [("*", "a.xml"), ("*.tmp", "a.tmp"), (".*", ".a"), ("a.part", "a.part"), ("*.part", "b.part")] {
        assert!(matches(mask, name), "{mask} {name}");
    }
    for (mask, name) in
        [("*", ".a"), ("*", "a.tmp"), ("*", "a.part"), ("a*", "a.filepart"), (".*", ".a.tmp"), ("*.tmp", ".a.tmp")]
    {
        assert!(!matches(mask, name), "{mask} {name}");
    }
}

#[test]
fn channel_matches_same_names_as_glob() {
    let channel = |mask: &str| WatchTarget { is_channel: true, ..watch_target(Path::new("/in"), mask) };
    for (mask, name, is_taken, is_unfinished) in [
        ("*", "a.xml", true, false),
        ("*", "a.tmp", true, true),
        ("*", ".a", false, true),
        (".*", ".a", true, false),
        ("*.tmp", "a.tmp", true, false),
        ("*.xml", "a.tmp", false, true),
    ] {
        let (channel, name) = (channel(mask), OsStr::new(name));
        assert_eq!((channel.matches(name), channel.is_unfinished(name)), (is_taken, is_unfinished), "{mask} {name:?}");
    }
    for (mask, names) in [
        ("*", &INCOMPLETE_SUFFIXES[..]),
        ("ORD*", &INCOMPLETE_SUFFIXES),
        ("*.*", &INCOMPLETE_SUFFIXES),
        ("*.part", &[]),
        ("*.xml", &[]),
    ] {
        assert_eq!(channel(mask).unfinished_names(), names, "{mask}");
    }
}

#[test]
fn channel_lock_file_does_not_match() {
    let watch_target = WatchTarget { locks: vec!["in.lock".into()], ..watch_target(Path::new("/in"), "*") };
    assert!(!watch_target.matches(OsStr::new("in.lock")) && watch_target.matches(OsStr::new("in.lock2")));
}

#[test]
fn path_is_split_at_first_mask() {
    let pattern = PathPattern::new(Path::new("/in/*/orders"));
    assert_eq!((pattern.root.as_path(), pattern.rest.len()), (Path::new("/in"), 2));
    assert_eq!(pattern.to_string(), "/in/*/orders");
    let plain = PathPattern::new(Path::new("/in/orders"));
    assert_eq!((plain.root.as_path(), plain.rest.len()), (Path::new("/in/orders"), 0));
    assert_eq!(PathPattern::new(Path::new("/*")).root, Path::new("/"));
}

#[test]
fn hidden_directory_needs_explicit_mask() {
    assert!(!matches_dir(&FnMatch::new("*"), OsStr::new(".git")));
    assert!(matches_dir(&FnMatch::new(".*"), OsStr::new(".git")) && matches_dir(&FnMatch::new("*"), OsStr::new("git")));
}
