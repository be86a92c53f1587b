//! Files that are begun after a run has looked at its files, and before Bots lists their directory: they stay whole for the next run.
//! Real Bots, whose start is held in between.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::support::arrivals::{Arrivals, CACHED, Starter, Storage, parts, write_whole};
use crate::support::demo_translation::Demo;
use crate::support::pods::{Amiss, message};
use crate::support::sandbox::{Running, bots_bin_dir, wait_until};

/// Bots's engine, held before it starts. The files of its run have been looked at then.
struct Hold {
    held: PathBuf,
    hold: PathBuf,
}

impl Hold {
    /// Holds each engine from now on; `change` is a prefix of the command by which it goes on.
    fn engines(place: &mut Arrivals, change: &str) -> Self {
        let home = place.system.demo.sandbox.home.path();
        let (held, hold, real) =
            (home.join("engine-held"), home.join("engine-hold"), bots_bin_dir().join("bots-engine"));
        fs::write(&hold, "").expect("written");
        let script = format!(
            "#!/bin/sh\n: >'{}'\nwhile [ -e '{}' ]; do sleep 0.05; done\n{change}exec '{}' \"$@\"\n",
            held.display(),
            hold.display(),
            real.display()
        );
        place.system.demo.sandbox.stand_in("bots-engine", &script);
        Self { held, hold }
    }

    fn wait(&self, running: &Running) {
        wait_until("an engine is held", || self.held.exists().then_some(()), || running.report());
    }

    fn end(&self) {
        fs::remove_file(&self.hold).expect("it is there");
    }
}

/// Some ways to start a file, each with the rest of it, and the file if it has to stay open.
struct Begun {
    path: PathBuf,
    rest: Vec<u8>,
    open: Option<File>,
}

impl Begun {
    /// It stays open for writing.
    fn open(place: &Arrivals, number: usize) -> Self {
        let path = place.file(number);
        let mut file = File::create(&path).expect("made");
        let mut parts = parts(number);
        file.write_all(&parts.remove(0)).expect("written");
        Self { path, rest: parts.concat(), open: Some(file) }
    }

    /// It is made empty, and closed.
    fn empty(place: &Arrivals, number: usize) -> Self {
        let path = place.file(number);
        drop(File::create(&path).expect("made"));
        Self { path, rest: message(number).into_bytes(), open: None }
    }

    /// A file that was complete according to all checks is opened again. It is not yet written to.
    fn again(place: &Arrivals, number: usize, first: &[u8]) -> Self {
        let path = place.file(number);
        let open = OpenOptions::new().append(true).open(&path).expect("it is there");
        Self { path, rest: message(number).as_bytes()[first.len()..].to_vec(), open: Some(open) }
    }

    fn finish(self) {
        // A file that was processed in the meantime is not recreated.
        let again = || OpenOptions::new().append(true).open(&self.path).expect("it is still there");
        self.open.unwrap_or_else(again).write_all(&self.rest).expect("written");
    }
}

fn start(place: &Arrivals, starter: Starter) -> Running {
    match starter {
        Starter::Monitor => place.monitor(),
        Starter::Schedule => place.system.start(&["up", "--services", "engine"]),
        Starter::Engine => place.engine(&["--new"]),
    }
}

/// Waits until the whole file is out, and finishes the others when the log has named each of them.
fn finish(place: &Arrivals, starter: Starter, running: &mut Running, begun: Vec<Begun>) {
    if matches!(starter, Starter::Engine) {
        assert_eq!(running.wait_code(), 0, "{}", running.report());
    }
    place.wait_orders(1, running);
    let log = || running.stderr() + &running.stdout();
    for file in &begun {
        let name = file.path.file_name().expect("it has one").display().to_string();
        let is_named = || {
            let of_the_left =
                |line: &&str| line.contains("leaving incomplete files for the next run") && line.contains(&name);
            log().lines().find(of_the_left).map(|_| ())
        };
        wait_until("the log names the file", is_named, || running.report());
    }
    let count = 1 + begun.len();
    begun.into_iter().for_each(Begun::finish);
    match starter {
        Starter::Engine => assert_eq!(place.system.run(&["engine"]).code(), 0),
        Starter::Monitor | Starter::Schedule => {
            place.wait_orders(count, running);
            running.signal(Signal::SIGTERM);
            assert_eq!(running.wait_code(), 0, "{}", running.report());
        }
    }
    assert_eq!(place.system.collect(count), Amiss::default(), "{}", running.report());
}

fn a_file_begun_after_the_look_is_left_whole(starter: Starter, storage: &Storage) {
    let mut place = Arrivals::new(storage);
    place.set("BOTS_CTL_ENGINE_INTERVAL", "1s");
    let hold = Hold::engines(&mut place, "");
    write_whole(&place.file(0), 0);
    // On a share the incomplete state cannot be detected yet, and the file would be processed.
    let first = matches!(storage, Storage::Ext4).then(|| parts(3).remove(0));
    first.iter().for_each(|first| fs::write(place.file(3), first).expect("written"));
    let mut running = start(&place, starter);
    hold.wait(&running);
    let mut begun = vec![Begun::open(&place, 1), Begun::empty(&place, 2)];
    begun.extend(first.map(|first| Begun::again(&place, 3, &first)));
    hold.end();
    finish(&place, starter, &mut running, begun);
}

macro_rules! by_each_starter {
    ($($name:ident $starter:ident $storage:expr;)*) => {$(
        #[apply(test)]
        fn $name() {
            a_file_begun_after_the_look_is_left_whole(Starter::$starter, &$storage);
        }
    )*};
}

by_each_starter! {
    engine_leaves_file_begun_after_scan Engine Storage::Ext4;
    engine_leaves_file_begun_after_scan_on_share Engine Storage::Share(CACHED);
    schedule_leaves_file_begun_after_scan Schedule Storage::Ext4;
    monitor_leaves_file_begun_after_scan Monitor Storage::Ext4;
    monitor_leaves_file_begun_after_scan_on_share Monitor Storage::Share(CACHED);
}

/// The recovery of an earlier run comes first, and takes its time.
#[apply(test)]
fn engine_leaves_file_begun_during_recovery() {
    let mut place = Arrivals::new(&Storage::Ext4);
    place.system.can_be_held();
    write_whole(&place.file(0), 0);
    let mut killed = place.system.start_held(0, &["engine"]);
    let real = crate::support::pods::real_engine(&killed).expect("it is held");
    nix::sys::signal::kill(real, Signal::SIGKILL).expect("it is there");
    assert_eq!(killed.wait_code(), 137, "{}", killed.report());
    let hold = Hold::engines(&mut place, "");
    let mut running = place.engine(&["--new", "demo_orders"]);
    hold.wait(&running);
    place.system.release();
    let begun = vec![Begun::open(&place, 1)];
    hold.end();
    assert!([0, 2].contains(&running.wait_code()), "{}", running.report());
    assert!(running.stderr().contains("leaving incomplete files for the next run"), "{}", running.report());
    begun.into_iter().for_each(Begun::finish);
    assert_eq!(place.system.run(&["engine"]).code(), 0);
    assert_eq!(place.system.collect(2), Amiss::default(), "{}", running.report());
}

/// A channel may be changed while its run begins, and a name need not be text.
#[apply(test)]
fn open_files_in_directory_unknown_to_scan_are_left() {
    let mut place = Arrivals::new(&Storage::Ext4);
    let hold = Hold::engines(&mut place, "");
    let other = place.system.demo.sandbox.home.path().join("other");
    fs::create_dir(&other).expect("made");
    let mut running = place.engine(&[]);
    hold.wait(&running);
    let sql = format!("UPDATE channel SET path = '{}' WHERE idchannel = 'demo_in'", other.display());
    place.system.database.sql(&sql);
    write_whole(&other.join("0.edi"), 0);
    let names = [OsStr::new("1.edi"), OsStr::from_bytes(b"\xff.edi")];
    let open = names.map(|name| File::create(other.join(name)).expect("made"));
    open.iter().for_each(|mut file| file.write_all(&parts(1)[0]).expect("written"));
    hold.end();
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    for name in names {
        assert!(other.join(name).exists(), "{}", running.report());
    }
    assert_eq!(place.system.collect(1), Amiss::default(), "{}", running.report());
}

/// Without the wait, and where bots-ctl cannot be asked, files are taken as they are.
#[apply(test)]
fn open_files_are_processed_if_wait_is_off_or_impossible() {
    for (wait, change, is_told) in [("0s", "", false), ("1h", "BOTS_CTL_FILES_PIPES=999,998 ", true)] {
        let mut place = Arrivals::new(&Storage::Ext4);
        place.set("BOTS_CTL_FILE_WAIT", wait);
        let hold = Hold::engines(&mut place, change);
        let mut running = place.engine(&[]);
        hold.wait(&running);
        let mut open = File::create(place.file(0)).expect("made");
        open.write_all(message(0).as_bytes()).expect("written");
        hold.end();
        assert_eq!(running.wait_code(), 0, "{}", running.report());
        let told = running.report().contains("cannot determine which files are complete");
        assert_eq!(told, is_told, "{}", running.report());
        drop(open);
        assert_eq!(place.system.collect(1), Amiss::default(), "it was whole: {}", running.report());
    }
}

#[apply(test)]
fn non_utf8_file_is_left_and_named() {
    let demo = Demo::new();
    demo.drop_in("input");
    // As a program writes it that does not know UTF-8.
    let file = demo.input().join(OsString::from_vec(b"caf\xe9.edi".to_vec()));
    fs::write(&file, "UNB").expect("written");
    let run = demo.sandbox.engine(&[]);
    assert!(run.expect_code(0).stderr.contains("the run received 3 files, finished 3"), "{run:?}");
    assert!(run.stderr.contains("the file name is not UTF-8"), "{run:?}");
    assert!(file.exists());
}
