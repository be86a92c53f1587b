//! Scans of directories that change, and that cannot be read for a time.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::watch::target::tests::watch_target;

/// A scanner of the directory behind the link `in`, for files in the directories that a path names.
struct Scanned {
    place: TempDir,
    scanner: TargetScanner,
}

impl Scanned {
    fn new(below: &str, takes_existing: bool) -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(place.path().join("real")).expect("made");
        let directory = place.path().join("in").join(below);
        let target = WatchTarget { takes_existing, stable_after: Duration::ZERO, ..watch_target(&directory, "*") };
        let scanner = TargetScanner::new(Arc::new(target), 1, Arc::new(Watcher::none()), ClockSource::Local);
        let scanned = Self { place, scanner };
        scanned.link("in", "real");
        scanned
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn write(&self, name: &str) {
        fs::create_dir_all(self.path(name).parent().expect("it has one")).expect("made");
        fs::write(self.path(name), "content").expect("written");
    }

    /// Replaces a link. One to itself cannot be followed, but something is there.
    fn link(&self, name: &str, to: &str) {
        let _ = fs::remove_file(self.path(name));
        symlink(to, self.path(name)).expect("linked");
    }

    /// The number of new files.
    fn scan(&mut self, scope: ScanScope) -> usize {
        self.scanner.scan(Vec::new(), scope).complete.count
    }
}

#[test]
fn reset_reports_new_file_even_if_existing_ones_do_not_count() {
    let mut scanned = Scanned::new("", false);
    scanned.write("real/existing");
    assert_eq!(scanned.scan(ScanScope::Full), 0);
    scanned.write("real/new");
    assert_eq!(scanned.scan(ScanScope::Reset), 1);
    assert_eq!(scanned.scan(ScanScope::Reset), 0);
    let mut scanned = Scanned::new("", true);
    scanned.write("real/existing");
    assert_eq!(scanned.scan(ScanScope::Full), 1);
    assert_eq!(scanned.scan(ScanScope::Reset), 1);
}

#[test]
fn root_that_cannot_be_read_keeps_its_files() {
    let mut scanned = Scanned::new("", true);
    scanned.write("real/file");
    assert_eq!(scanned.scan(ScanScope::Full), 1);
    scanned.link("in", "in");
    let found = scanned.scanner.scan(Vec::new(), ScanScope::Full);
    assert!(matches!(found.watch_state, Some(WatchState::Failed { .. })), "{:?}", found.watch_state);
    scanned.link("in", "real");
    scanned.write("real/other");
    assert_eq!(scanned.scan(ScanScope::Full), 1, "the other one");
    fs::remove_file(scanned.path("in")).expect("removed");
    assert_eq!(scanned.scan(ScanScope::Full), 0);
    scanned.link("in", "real");
    assert_eq!(scanned.scan(ScanScope::Full), 2, "the directory was gone");
}

#[test]
fn existing_files_do_not_count_after_a_first_scan_that_failed() {
    let mut scanned = Scanned::new("", false);
    scanned.write("real/existing");
    scanned.link("in", "in");
    assert_eq!(scanned.scan(ScanScope::Full), 0);
    scanned.link("in", "real");
    assert_eq!(scanned.scan(ScanScope::Full), 0);
    scanned.write("real/new");
    assert_eq!(scanned.scan(ScanScope::Full), 1);
}

#[test]
fn subdirectory_that_cannot_be_read_keeps_its_files() {
    for below in ["part", "p*"] {
        let mut scanned = Scanned::new(below, true);
        scanned.write("elsewhere/file");
        scanned.link("real/part", "../elsewhere");
        assert_eq!(scanned.scan(ScanScope::Full), 1);
        scanned.link("real/part", "part");
        assert_eq!(scanned.scan(ScanScope::Full), 0);
        scanned.link("real/part", "../elsewhere");
        assert_eq!(scanned.scan(ScanScope::Full), 0, "{below}");
        fs::remove_file(scanned.path("real/part")).expect("removed");
        assert_eq!(scanned.scan(ScanScope::Full), 0);
        scanned.link("real/part", "../elsewhere");
        assert_eq!(scanned.scan(ScanScope::Full), 1, "{below}: it was gone");
    }
}

#[test]
fn file_that_cannot_be_read_is_not_new_afterwards() {
    let mut scanned = Scanned::new("", true);
    scanned.write("elsewhere");
    scanned.link("real/file", "../elsewhere");
    assert_eq!(scanned.scan(ScanScope::Full), 1);
    scanned.link("real/file", "file");
    assert_eq!(scanned.scan(ScanScope::Full), 0);
    scanned.link("real/file", "../elsewhere");
    assert_eq!(scanned.scan(ScanScope::Full), 0);
}
