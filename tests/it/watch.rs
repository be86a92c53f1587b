//! The directory monitor on real file systems: events, polling, and directories that come, go and hang.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bots_ctl::config::WatchMethod;
use bots_ctl::pycompat::fnmatch::FnMatch;
use bots_ctl::telemetry::counters::Counters;
use bots_ctl::watch::monitor::{self, MonitorCommand};
use bots_ctl::watch::run_check::ChannelFiles;
use bots_ctl::watch::scan::WatchState;
use bots_ctl::watch::status::{MonitorReport, NewFiles};
use bots_ctl::watch::target::{PathPattern, WatchTarget};
use nix::sys::signal::Signal;

use crate::support::fuse::Fuse;
use crate::support::needs::{Need, needs};
use crate::support::sandbox::{DEADLINE, some_or_all, wait_until};

/// Long enough that nothing in these tests is found by it.
const NEVER: Duration = Duration::from_secs(3600);

/// Short, so that tests need not wait long.
const SETTLE: Duration = Duration::from_millis(200);

/// A running monitor, and its reports.
struct Monitor {
    commands: tokio::sync::mpsc::Sender<MonitorCommand>,
    arrivals: Receiver<NewFiles>,
    report: Arc<Mutex<MonitorReport>>,
    /// Held while the monitor may not go on.
    pause: Arc<Mutex<()>>,
    _end: tokio::sync::oneshot::Sender<()>,
}

impl Monitor {
    /// Watches, and waits until each entry has been looked at.
    fn start(entries: Vec<WatchTarget>, rescan: Duration) -> Self {
        let (commands, received) = tokio::sync::mpsc::channel(4);
        let (sender, arrivals) = channel();
        let (end, ended) = tokio::sync::oneshot::channel();
        let (report, pause) = (Arc::new(Mutex::new(MonitorReport::default())), Arc::new(Mutex::new(())));
        let (observed, paused) = (Arc::clone(&report), Arc::clone(&pause));
        std::thread::spawn(move || run(received, rescan, &sender, &observed, &paused, ended));
        let monitor = Self { commands, arrivals, report, pause, _end: end };
        monitor.watch(entries);
        monitor
    }

    fn watch(&self, entries: Vec<WatchTarget>) {
        let count = entries.len();
        self.commands.blocking_send(MonitorCommand::SetTargets(entries)).expect("it runs");
        let is_complete = |report: &MonitorReport| report.is_complete && report.reports.len() == count;
        self.wait("everything has been looked at", is_complete);
    }

    fn wait(&self, what: &str, is: impl Fn(&MonitorReport) -> bool) {
        let look = || is(&self.report.lock().expect("no panic")).then_some(());
        wait_until(what, look, || format!("{:?}", self.report.lock().expect("no panic")));
    }

    fn wait_watch_state(&self, place: usize, what: &str, is: impl Fn(&WatchState) -> bool) {
        self.wait(what, |report| report.reports[place].watch_state.as_ref().is_some_and(&is));
    }

    fn wait_trouble(&self, place: usize, text: &str) {
        self.wait_watch_state(place, text, |watch_state| match watch_state {
            WatchState::Failed { reason: why, .. } => why.contains(text),
            WatchState::Watching { .. } => false,
        });
    }

    fn wait_watched(&self, place: usize, by: &str) {
        self.wait_watch_state(place, by, |watch_state| match watch_state {
            WatchState::Watching { backend, .. } => backend.name() == by,
            WatchState::Failed { .. } => false,
        });
    }

    /// The next files that come are this one alone.
    fn expect(&self, file: &Path) {
        let arrival = self.next();
        assert_eq!((arrival.files, arrival.example.as_path()), (1, file));
    }

    fn next(&self) -> NewFiles {
        self.arrivals.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("nothing came\n{:?}", self.report))
    }

    /// All new files, until there are this many.
    fn expect_count(&self, count: usize) {
        let mut sum = 0;
        while sum < count {
            sum += self.next().files;
        }
        assert_eq!(sum, count);
    }

    fn expect_nothing_yet(&self) {
        let come = self.arrivals.try_recv();
        assert!(come.is_err(), "{come:?}");
    }
}

fn run(
    received: tokio::sync::mpsc::Receiver<MonitorCommand>,
    rescan: Duration,
    sender: &Sender<NewFiles>,
    report: &Mutex<MonitorReport>,
    pause: &Mutex<()>,
    ended: tokio::sync::oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let arrived = |arrival| {
        let _ = sender.send(arrival);
        drop(pause.lock());
    };
    let counters = Counters::default();
    runtime.block_on(async {
        tokio::select! {
            () = monitor::run(received, rescan, &counters, arrived, |new| *report.lock().expect("no panic") = new) => {}
            _ = ended => {}
        }
    });
    // A look may hang with its file system.
    runtime.shutdown_background();
}

fn entry(directory: &Path, mask: &str) -> WatchTarget {
    WatchTarget {
        origin: "[dirmonitor1]".into(),
        route: "r".into(),
        directory: PathPattern::new(directory),
        mask: FnMatch::new(mask),
        is_recursive: false,
        takes_existing: true,
        locks: Vec::new(),
        watch_by: WatchMethod::Auto,
        poll_interval: Duration::from_millis(100),
        stable_after: SETTLE,
        file_wait: NEVER,
        is_channel: false,
    }
}

fn polled(entry: WatchTarget) -> WatchTarget {
    WatchTarget { watch_by: WatchMethod::Poll, ..entry }
}

/// A directory whose real path is known, on a file system where events are had.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().canonicalize().expect("it is there");
    (dir, path)
}

/// Puts a file in place.
type Put = Box<dyn Fn(&Path)>;

/// Each way to put a file in place, by a name.
fn ways(dir: &Path) -> HashMap<&'static str, Put> {
    let (outside, here) = (dir.parent().expect("a parent").to_owned(), dir.to_owned());
    let prepared = move |name: &str| {
        let file = outside.join(format!("outside-{name}"));
        fs::write(&file, "content").expect("written");
        file
    };
    let (one, two, three) = (prepared.clone(), prepared.clone(), prepared);
    let mut ways: HashMap<&'static str, Put> = HashMap::new();
    ways.insert("write", Box::new(|file| fs::write(file, "content").expect("written")));
    ways.insert("touch", Box::new(|file| drop(File::create(file).expect("made"))));
    ways.insert("rename", Box::new(move |file| fs::rename(one("rename"), file).expect("renamed")));
    ways.insert("link", Box::new(move |file| fs::hard_link(two("link"), file).expect("linked")));
    ways.insert("symlink", Box::new(move |file| symlink(three("symlink"), file).expect("linked")));
    ways.insert(
        "rename of a file that does not count",
        Box::new(move |file| {
            fs::write(here.join("hidden.tmp"), "content").expect("written");
            fs::rename(here.join("hidden.tmp"), file).expect("renamed");
        }),
    );
    ways
}

fn each_way_counts_once(change: fn(WatchTarget) -> WatchTarget) {
    let (_kept, dir) = directory();
    let watched = dir.join("in");
    fs::create_dir(&watched).expect("made");
    let monitor = Monitor::start(vec![change(entry(&watched, "*"))], NEVER);
    for (name, put) in ways(&watched) {
        let file = watched.join(name.replace(' ', "-"));
        put(&file);
        monitor.expect(&file);
    }
    // Written again it counts again.
    let again = watched.join("write");
    fs::write(&again, "other content").expect("written");
    monitor.expect(&again);
}

#[apply(test)]
fn inotify_reports_each_kind_of_arrival_once() {
    each_way_counts_once(|entry| entry);
}

#[apply(test)]
fn polling_reports_each_kind_of_arrival_once() {
    each_way_counts_once(polled);
}

#[apply(test)]
fn monitor_reports_only_complete_matching_files() {
    let (_kept, dir) = directory();
    for (number, change) in [polled, |entry| entry].into_iter().enumerate() {
        let watched = dir.join(number.to_string());
        fs::create_dir(&watched).expect("made");
        let entry = WatchTarget { locks: vec!["channel.lock".into()], ..change(entry(&watched, "*.*")) };
        let monitor = Monitor::start(vec![entry], NEVER);
        for name in [".hidden.xml", "a.tmp", "a.part", "a.filepart", "channel.lock", "no-dot"] {
            fs::write(watched.join(name), "content").expect("written");
        }
        fs::create_dir(watched.join("a.directory")).expect("made");
        symlink("nowhere", watched.join("a.broken-link")).expect("linked");
        nix::unistd::mkfifo(&watched.join("a.fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
        let counts = watched.join("a.xml");
        fs::write(&counts, "content").expect("written");
        monitor.expect(&counts);
    }
}

#[apply(test)]
fn inotify_reports_slowly_written_file_once_after_close() {
    let (_kept, dir) = directory();
    let monitor = Monitor::start(vec![entry(&dir, "*")], NEVER);
    let path = dir.join("slow");
    let mut file = File::create(&path).expect("made");
    for _ in 0..5 {
        // Longer than a file has to settle: this writer is known, and waited for.
        std::thread::sleep(SETTLE * 2);
        file.write_all(b"a part").expect("written");
        monitor.expect_nothing_yet();
    }
    drop(file);
    monitor.expect(&path);
}

#[apply(test)]
fn polling_reports_slowly_written_file_once_when_stable() {
    let (_kept, dir) = directory();
    let fuse = Fuse::mount(&dir);
    // With room for a machine that is busy.
    let entry = WatchTarget { stable_after: Duration::from_secs(3), ..entry(&fuse.mounted, "*") };
    let monitor = Monitor::start(vec![entry], NEVER);
    let path = fuse.mounted.join("slow");
    let mut file = File::create(fuse.behind.join("slow")).expect("made");
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(200));
        file.write_all(b"a part").expect("written");
        monitor.expect_nothing_yet();
    }
    monitor.expect(&path);
    drop(file);
}

/// A share responds separately for each file: a scan takes longer than the timeout for a hung one.
#[apply(test)]
fn scan_of_60000_files_on_share_does_not_time_out() {
    needs(Need::Time);
    let (_kept, dir) = directory();
    let fuse = Fuse::mount(&dir);
    for number in 0..60_000 {
        fs::write(fuse.behind.join(number.to_string()), "content").expect("written");
    }
    let mut rest = ChannelFiles::default();
    rest.set_targets(vec![polled(WatchTarget { is_channel: true, ..entry(&fuse.mounted, "*") })]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("made");
    let began = Instant::now();
    let looked = runtime.block_on(rest.scan()).map(|files| files.len());
    assert_eq!(looked, Ok(60_000), "within {:?}", began.elapsed());
}

#[apply(test)]
fn scan_of_many_files_holds_back_only_the_open_one() {
    const REQUEST: usize = 130;
    let (_kept, dir) = directory();
    let files: Vec<PathBuf> = (0..some_or_all(10_000, 100_000)).map(|number| dir.join(number.to_string())).collect();
    files.iter().for_each(|file| fs::write(file, "content").expect("written"));
    let open = File::options().append(true).open(&files[7]).expect("it is there");
    let (mut rest, entry) = (ChannelFiles::default(), polled(WatchTarget { is_channel: true, ..entry(&dir, "*") }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("made");
    let began = Instant::now();
    rest.set_targets(vec![entry.clone()]);
    let looked = runtime.block_on(rest.scan()).map(|files| files.len());
    assert_eq!(looked, Ok(1), "the open one");
    let scan = began.elapsed();
    let mut left = Vec::new();
    for request in files.chunks(REQUEST) {
        let judged = runtime.block_on(rest.judge(entry.clone(), request.to_vec())).expect("the file system answers");
        left.extend(judged.into_iter().flatten().map(|file| file.path));
    }
    println!("{} files: a scan in {scan:?}, the judgements in {:?}", files.len(), began.elapsed() - scan);
    assert_eq!(left, [files[7].clone()]);
    drop(open);
}

#[apply(test)]
fn monitor_reports_existing_files_only_if_configured() {
    let (_kept, dir) = directory();
    fs::write(dir.join("old"), "content").expect("written");
    std::thread::sleep(SETTLE);
    let monitor = Monitor::start(vec![entry(&dir, "*")], NEVER);
    monitor.expect(&dir.join("old"));
    monitor.commands.blocking_send(MonitorCommand::Rescan).expect("it runs");
    monitor.expect(&dir.join("old"));

    let monitor = Monitor::start(vec![WatchTarget { takes_existing: false, ..entry(&dir, "*") }], NEVER);
    monitor.expect_nothing_yet();
    fs::write(dir.join("new"), "content").expect("written");
    monitor.expect(&dir.join("new"));
}

#[apply(test)]
fn unchanged_target_keeps_its_observations_on_reload() {
    let (_kept, dir) = directory();
    let (one, two) = (dir.join("one"), dir.join("two"));
    for watched in [&one, &two] {
        fs::create_dir(watched).expect("made");
        fs::write(watched.join("old"), "content").expect("written");
    }
    std::thread::sleep(SETTLE);
    let monitor = Monitor::start(vec![entry(&one, "*")], NEVER);
    monitor.expect(&one.join("old"));
    monitor.watch(vec![entry(&two, "*"), entry(&one, "*")]);
    monitor.expect(&two.join("old"));
    fs::write(one.join("new"), "content").expect("written");
    monitor.expect(&one.join("new"));
    monitor.watch(vec![entry(&two, "*")]);
    fs::write(one.join("nobody-looks"), "content").expect("written");
    fs::write(two.join("new"), "content").expect("written");
    monitor.expect(&two.join("new"));
}

#[apply(test)]
fn recursive_target_includes_new_subdirectories() {
    let (_kept, dir) = directory();
    for (number, change) in [polled, |entry| entry].into_iter().enumerate() {
        let watched = dir.join(number.to_string());
        fs::create_dir_all(watched.join("a/b")).expect("made");
        let elsewhere = dir.join(format!("elsewhere-{number}"));
        fs::create_dir(&elsewhere).expect("made");
        symlink(&elsewhere, watched.join("link")).expect("linked");
        let entry = WatchTarget { is_recursive: true, ..change(entry(&watched, "*.xml")) };
        let monitor = Monitor::start(vec![entry], NEVER);
        // As Bots does it, links to directories are not followed.
        fs::write(elsewhere.join("not.xml"), "content").expect("written");
        for place in ["", "a", "a/b", ".hidden", "new/deep/er"] {
            fs::create_dir_all(watched.join(place)).expect("made");
            let file = watched.join(place).join("f.xml");
            fs::write(&file, "content").expect("written");
            monitor.expect(&file);
        }
        // A whole tree arrives at once.
        let tree = dir.join(format!("tree-{number}"));
        fs::create_dir_all(tree.join("x/y")).expect("made");
        fs::write(tree.join("x/y/f.xml"), "content").expect("written");
        fs::rename(&tree, watched.join("tree")).expect("renamed");
        monitor.expect(&watched.join("tree/x/y/f.xml"));
    }
}

#[apply(test)]
fn path_pattern_matches_directories_created_later() {
    let (_kept, dir) = directory();
    for (number, change) in [polled, |entry| entry].into_iter().enumerate() {
        let watched = dir.join(number.to_string());
        fs::create_dir_all(watched.join("customer1/orders")).expect("made");
        let pattern = watched.join("customer*/orders");
        let monitor = Monitor::start(vec![change(entry(&pattern, "*.xml"))], NEVER);
        for place in ["customer1/orders", "customer2/orders"] {
            fs::create_dir_all(watched.join(place)).expect("made");
            let file = watched.join(place).join("f.xml");
            fs::write(&file, "content").expect("written");
            monitor.expect(&file);
        }
        fs::write(watched.join("customer1/not.xml"), "content").expect("written");
        fs::create_dir_all(watched.join("other/orders")).expect("made");
        fs::write(watched.join("other/orders/not.xml"), "content").expect("written");
        // Targets of links count, as for Bots's channels.
        let elsewhere = dir.join(format!("elsewhere-{number}"));
        fs::create_dir_all(elsewhere.join("orders")).expect("made");
        symlink(&elsewhere, watched.join("customer3")).expect("linked");
        fs::write(elsewhere.join("orders/f.xml"), "content").expect("written");
        monitor.expect(&elsewhere.join("orders/f.xml"));
        monitor.wait_watch_state(0, "three directories", |watch_state| {
            matches!(watch_state, WatchState::Watching { directories: 3, .. })
        });
    }
}

#[apply(test)]
fn missing_or_replaced_directory_is_watched_once_available() {
    let (_kept, dir) = directory();
    let watched = dir.join("in");
    let monitor = Monitor::start(vec![entry(&watched, "*")], NEVER);
    monitor.wait_trouble(0, "in does not exist");
    let come = || {
        monitor.wait_watched(0, "inotify");
        let file = watched.join("f");
        fs::write(&file, "content").expect("written");
        monitor.expect(&file);
    };
    fs::create_dir(&watched).expect("made");
    come();
    // Renamed, and recreated with a file in it.
    fs::rename(&watched, dir.join("away")).expect("renamed");
    monitor.wait_trouble(0, "in does not exist");
    fs::create_dir(dir.join("next")).expect("made");
    fs::write(dir.join("next/was-there"), "content").expect("written");
    fs::rename(dir.join("next"), &watched).expect("renamed");
    monitor.expect(&watched.join("was-there"));
    come();
    // A link that leads elsewhere from one moment to the next.
    fs::rename(&watched, dir.join("first")).expect("renamed");
    fs::create_dir(dir.join("second")).expect("made");
    symlink(dir.join("first"), &watched).expect("linked");
    monitor.expect_count(2);
    symlink(dir.join("second"), dir.join("link")).expect("linked");
    fs::rename(dir.join("link"), &watched).expect("renamed");
    let second = dir.join("second/f");
    fs::write(&second, "content").expect("written");
    monitor.expect(&second);
    // A file where a directory should be.
    fs::remove_file(&watched).expect("removed");
    fs::write(&watched, "content").expect("written");
    monitor.wait_trouble(0, "is not a directory");
}

#[apply(test)]
fn directory_is_watched_again_after_mount_and_unmount() {
    let (_kept, dir) = directory();
    let watched = dir.join("in");
    fs::create_dir(&watched).expect("made");
    let monitor = Monitor::start(vec![entry(&watched, "*")], NEVER);
    let mount = Mount::new(&["-t", "tmpfs", "none"], &watched);
    let file = watched.join("on-the-mount");
    fs::write(&file, "content").expect("written");
    monitor.expect(&file);
    let file = watched.join("another");
    fs::write(&file, "content").expect("written");
    monitor.expect(&file);
    drop(mount);
    let file = watched.join("below");
    fs::write(&file, "content").expect("written");
    monitor.expect(&file);
}

#[apply(test)]
fn mount_below_target_is_watched_at_once() {
    let (_kept, dir) = directory();
    for (name, directory) in [("recursive", dir.join("in 1")), ("pattern", dir.join("in 2"))] {
        let share = directory.join("partner a");
        fs::create_dir_all(&share).expect("made");
        let watched = if name == "pattern" { directory.join("*") } else { directory.clone() };
        let monitor =
            Monitor::start(vec![WatchTarget { is_recursive: name == "recursive", ..entry(&watched, "*") }], NEVER);
        for round in 0..2 {
            let mount = Mount::new(&["-t", "tmpfs", "none"], &share);
            let file = share.join(format!("mounted-{round}"));
            fs::write(&file, "content").expect("written");
            monitor.expect(&file);
            drop(mount);
        }
        let file = share.join("below");
        fs::write(&file, "content").expect("written");
        monitor.expect(&file);
    }
}

#[apply(test)]
fn non_utf8_file_name_is_skipped_without_blocking_others() {
    let (_kept, dir) = directory();
    let file = dir.join(std::ffi::OsString::from_vec(b"a\xffb".to_vec()));
    fs::write(&file, "content").expect("written");
    let monitor = Monitor::start(vec![entry(&dir, "a?b")], NEVER);
    // The first reported file is the first that Bots can process.
    fs::write(&file, "more content").expect("written");
    let other = dir.join("a-b");
    fs::write(&other, "content").expect("written");
    monitor.expect(&other);
}

#[apply(test)]
fn two_targets_on_one_directory_both_report_files() {
    let (_kept, dir) = directory();
    let watched = dir.join("in");
    fs::create_dir(&watched).expect("made");
    symlink(&watched, dir.join("link")).expect("linked");
    let other = |entry| WatchTarget { route: "s".into(), ..entry };
    let monitor = Monitor::start(vec![entry(&watched, "*"), other(entry(&dir.join("link"), "*.xml"))], NEVER);
    fs::write(watched.join("f.xml"), "content").expect("written");
    let mut routes = [monitor.next().route, monitor.next().route];
    routes.sort();
    assert_eq!(routes, ["r", "s"]);
    // The directory is replaced: both find it again.
    fs::rename(&watched, dir.join("away")).expect("renamed");
    fs::create_dir(&watched).expect("made");
    fs::write(watched.join("g.xml"), "content").expect("written");
    let mut routes = [monitor.next().route, monitor.next().route];
    routes.sort();
    assert_eq!(routes, ["r", "s"]);
}

/// The monitor is held up while more happens than the kernel and it can keep together.
#[apply(test)]
fn event_queue_overflow_loses_no_file() {
    const FILES: usize = 6000;
    let (_kept, dir) = directory();
    let monitor = Monitor::start(vec![entry(&dir, "*")], NEVER);
    let held_up = monitor.pause.lock().expect("no panic");
    fs::write(dir.join("first"), "content").expect("written");
    monitor.expect(&dir.join("first"));
    for number in 0..FILES {
        fs::write(dir.join(number.to_string()), "content").expect("written");
    }
    drop(held_up);
    monitor.expect_count(FILES);
}

/// Writes to a lower layer of an overlay cause no event.
#[apply(test)]
fn polling_finds_writes_to_lower_overlay_layer() {
    let (_kept, dir) = directory();
    // An overlay cannot lie on an overlay.
    let _tmpfs = Mount::new(&["-t", "tmpfs", "none"], &dir);
    let dirs = ["lower", "upper", "work", "merged"].map(|name| dir.join(name));
    dirs.iter().for_each(|dir| fs::create_dir(dir).expect("made"));
    let [lower, upper, work, merged] = dirs;
    fs::create_dir(lower.join("in")).expect("made");
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let _overlay = Mount::new(&["-t", "overlay", "-o", &options, "overlay"], &merged);
    let watched = merged.join("in");
    let monitor = Monitor::start(vec![entry(&watched, "*")], NEVER);
    monitor.wait_watched(0, "inotify and poll");
    fs::write(lower.join("in/f"), "content").expect("written");
    monitor.expect(&watched.join("f"));
    fs::write(watched.join("g"), "content").expect("written");
    monitor.expect(&watched.join("g"));
}

#[apply(test)]
fn a_network_file_system_is_polled() {
    let (_kept, dir) = directory();
    let fuse = Fuse::mount(&dir);
    let monitor = Monitor::start(vec![entry(&fuse.mounted, "*")], NEVER);
    monitor.wait_watched(0, "poll");
    fuse.write_from_elsewhere("f");
    monitor.expect(&fuse.mounted.join("f"));
}

/// inotify is forced where it reports nothing; the full scan finds the files.
#[apply(test)]
fn full_scan_finds_file_without_inotify_event() {
    let (_kept, dir) = directory();
    let fuse = Fuse::mount(&dir);
    let entry = WatchTarget { watch_by: WatchMethod::Inotify, ..entry(&fuse.mounted, "*") };
    let monitor = Monitor::start(vec![entry], Duration::from_millis(500));
    monitor.wait_watched(0, "inotify");
    fuse.write_from_elsewhere("f");
    monitor.expect(&fuse.mounted.join("f"));
}

#[apply(test)]
fn hung_or_dead_file_system_does_not_block_other_targets() {
    let (_kept, dir) = directory();
    let mut fuse = Fuse::mount(&dir);
    let local = dir.join("local");
    fs::create_dir(&local).expect("made");
    let monitor = Monitor::start(vec![entry(&fuse.mounted, "*"), entry(&local, "*")], NEVER);
    fuse.signal(Signal::SIGSTOP);
    monitor.wait_trouble(0, "has not responded");
    fs::write(local.join("f"), "content").expect("written");
    monitor.expect(&local.join("f"));
    fuse.signal(Signal::SIGCONT);
    monitor.wait_watched(0, "poll");
    fuse.write_from_elsewhere("f");
    monitor.expect(&fuse.mounted.join("f"));
    fuse.kill();
    monitor.wait_trouble(0, "Transport endpoint is not connected");
    fuse.remount();
    fuse.write_from_elsewhere("g");
    // The file that was there counts again if the kernel gives the new mount another device number.
    let files = monitor.next().files;
    assert!((1..=2).contains(&files), "{files}");
}

/// A mount that ends with the test.
struct Mount(PathBuf);

impl Mount {
    fn new(arguments: &[&str], on: &Path) -> Self {
        needs(Need::Root);
        let mounted = Command::new("mount").args(arguments).arg(on).output().expect("mount runs");
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self(on.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
