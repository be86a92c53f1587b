//! Files that are still being written are not taken: by the directory monitor, by the schedule of `up`, and by `engine`. Real
//! Bots; on ext4, and on a share whose clients keep attributes for three seconds, or not at all.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::Write;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use crate::support::arrivals::{Arrivals, CACHED, PART_INTERVAL, Starter, Storage, append, parts, write_whole};
use crate::support::fuse::UNCACHED;
use crate::support::needs::in_network_of;
use crate::support::pods::{Amiss, System, message};
use crate::support::sandbox::{Running, python, wait_until};
use crate::support::servers::Engine;

/// A writer that appends every half second, and has begun.
fn slowly(place: &Arrivals) -> JoinHandle<()> {
    let mut parts = parts(0);
    let mut file = File::create(place.file(0)).expect("made");
    file.write_all(&parts.remove(0)).expect("written");
    append(file, parts)
}

/// A file that is made empty, and filled four seconds later.
fn empty_first(place: &Arrivals) -> JoinHandle<()> {
    let path = place.file(0);
    drop(File::create(&path).expect("made"));
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(4));
        // A file that was processed in the meantime is not recreated.
        let mut file = OpenOptions::new().write(true).open(&path).expect("it is still there");
        file.write_all(message(0).as_bytes()).expect("written");
    })
}

/// A complete file that comes while another one is being written.
fn beside_another(place: &Arrivals) -> JoinHandle<()> {
    let writer = slowly(place);
    let part = place.file(1).with_extension("part");
    fs::write(&part, message(1)).expect("written");
    fs::rename(part, place.file(1)).expect("renamed");
    writer
}

fn each_writer_is_waited_for(starter: Starter, storage: &Storage) {
    let place = Arrivals::new(storage);
    place.expect_whole(starter, 1, slowly);
    place.expect_whole(starter, 1, empty_first);
    place.expect_whole(starter, 2, beside_another);
}

macro_rules! on_each_storage {
    ($($name:ident $starter:ident $storage:expr;)*) => {$(
        #[apply(test)]
        fn $name() {
            each_writer_is_waited_for(Starter::$starter, &$storage);
        }
    )*};
}

on_each_storage! {
    the_monitor_waits_for_writers_on_ext4 Monitor Storage::Ext4;
    the_monitor_waits_for_writers_on_a_share Monitor Storage::Share(UNCACHED);
    the_monitor_waits_for_writers_on_a_share_with_a_cache Monitor Storage::Share(CACHED);
    the_schedule_waits_for_writers_on_ext4 Schedule Storage::Ext4;
    the_schedule_waits_for_writers_on_a_share Schedule Storage::Share(UNCACHED);
    the_schedule_waits_for_writers_on_a_share_with_a_cache Schedule Storage::Share(CACHED);
    the_engine_waits_for_writers_on_ext4 Engine Storage::Ext4;
    the_engine_waits_for_writers_on_a_share Engine Storage::Share(UNCACHED);
    the_engine_waits_for_writers_on_a_share_with_a_cache Engine Storage::Share(CACHED);
}

/// With nothing configured.
#[apply(test)]
fn default_wait_exceeds_attribute_cache_of_share() {
    let mut place = Arrivals::new(&Storage::Share(CACHED));
    place.system.demo.sandbox.unset("BOTS_CTL_DIRMONITOR_STABLE_AFTER");
    place.expect_whole(Starter::Engine, 1, slowly);
    place.expect_whole(Starter::Monitor, 1, empty_first);
}

/// A file system may report times of the writer's clock. A clock that is an hour or a day behind makes each file look
/// old; one that is ahead makes it look as if it were from the future.
#[apply(test)]
fn engine_waits_for_writer_despite_clock_skew() {
    let place = Arrivals::new(&Storage::Share("attr_timeout=0,entry_timeout=0,ctime-from-mtime"));
    let hour = Duration::from_secs(3600);
    let clocks = [SystemTime::now() - hour, SystemTime::now() - hour * 25, SystemTime::now() + hour];
    for clock in clocks {
        place.expect_whole(Starter::Engine, 1, |place| {
            let (path, mut parts) = (place.file(0), parts(0));
            let mut file = File::create(&path).expect("made");
            file.write_all(&parts.remove(0)).expect("written");
            let set = move |file: &File, part: u32| {
                let modified = clock + PART_INTERVAL * part;
                file.set_times(FileTimes::new().set_modified(modified)).expect("it can be set");
            };
            set(&file, 0);
            thread::spawn(move || {
                for (number, part) in (1..).zip(parts) {
                    thread::sleep(PART_INTERVAL);
                    file.write_all(&part).expect("written");
                    set(&file, number);
                }
            })
        });
    }
}

#[apply(test)]
fn engine_does_not_wait_for_old_or_closed_files() {
    let mut place = Arrivals::new(&Storage::Share("attr_timeout=3,entry_timeout=3,ctime-from-mtime"));
    // A run that waited would not end.
    place.set("BOTS_CTL_DIRMONITOR_STABLE_AFTER", "1h");
    place.set("BOTS_CTL_FILE_WAIT", "1h");
    let file = File::create(place.file(0)).expect("made");
    (&file).write_all(message(0).as_bytes()).expect("written");
    let days = Duration::from_secs(3 * 24 * 3600);
    file.set_times(FileTimes::new().set_modified(SystemTime::now() - days)).expect("it can be set");
    let mut engine = place.engine(&[]);
    assert_eq!(engine.wait_code(), 0, "{}", engine.report());
    assert!(!engine.stderr().contains("waiting up to"), "{}", engine.report());
    assert_eq!(place.system.collect(1), Amiss::default());

    // On this machine a file is known to be closed, however young it is.
    let mut local = Arrivals { share: None, system: System::new(Engine::Sqlite) };
    local.system.demo.sandbox.set("BOTS_CTL_FILE_WAIT", "1h");
    local.system.fill(3);
    let mut engine = local.engine(&[]);
    assert_eq!(engine.wait_code(), 0, "{}", engine.report());
    assert!(!engine.stderr().contains("waiting up to"), "{}", engine.report());
    assert_eq!(local.system.collect(3), Amiss::default());
}

#[apply(test)]
fn engine_processes_open_file_after_file_wait_limit() {
    let mut place = Arrivals::new(&Storage::Ext4);
    place.set("BOTS_CTL_FILE_WAIT", "2s");
    let mut open = File::create(place.file(0)).expect("made");
    open.write_all(message(0).as_bytes()).expect("written");
    let mut engine = place.engine(&[]);
    assert_eq!(engine.wait_code(), 0, "{}", engine.report());
    let (log, file) = (engine.stderr(), place.file(0).display().to_string());
    let told = format!("no longer waiting for {file} after 2 s: open for writing; the run processes it as it is");
    assert!(log.contains(&told), "{log}");
    drop(open);
    assert_eq!(place.system.collect(1), Amiss::default(), "it was whole");
}

/// Other runs proceed during the wait, which can be cancelled.
#[apply(test)]
fn waiting_run_holds_no_lease() {
    let place = Arrivals::new(&Storage::Ext4);
    let open = File::create(place.file(0)).expect("made");
    let mut waiting = place.engine(&["demo_orders"]);
    waiting.wait_stderr("waiting up to 300 s");
    let other = place.system.run(&["engine", "--lease-wait", "0s", "--allow-unknown-routes", "another"]);
    assert_eq!(other.code(), 0, "{other:?}");
    let resend = place.system.run(&["engine", "--lease-wait", "0s", "--resend"]);
    assert_eq!(resend.code(), 0, "what takes no files waits for none: {resend:?}");
    waiting.signal(Signal::SIGTERM);
    assert_eq!(waiting.wait_code(), 143, "{}", waiting.report());
    assert!(place.file(0).exists());
    drop(open);
}

/// A channel that takes all names takes those as well that a partner's program gives to files that are not complete.
#[apply(test)]
fn engine_waits_for_incomplete_names_and_check_notes_them() {
    const ALL: &str = "
import sys
from bots import botsinit
botsinit.generalinit(sys.argv[1])
from bots import models
models.channel.objects.filter(idchannel='demo_in').update(filename='*')
";
    let place = Arrivals::new(&Storage::Ext4);
    let quiet = place.system.run(&["config", "check"]);
    let told = "note: channel demo_in of route demo_orders matches names ending in .tmp, .part, .filepart";
    assert!(quiet.code() == 0 && !quiet.stdout.contains(told), "{quiet:?}");
    let (python, config) = (python().display().to_string(), place.system.demo.config_dir());
    place.system.demo.sandbox.run(&["exec", "--", &python, "-c", ALL, &config]).expect_code(0);
    let check = place.system.run(&["config", "check"]);
    assert!(check.code() == 0 && check.stdout.contains(told), "{check:?}");

    let part = place.file(0).with_extension("part");
    fs::write(&part, message(0)).expect("written");
    let mut engine = place.engine(&[]);
    engine.wait_stderr("(its name marks it as incomplete)");
    fs::rename(&part, place.file(0)).expect("it is still there");
    assert_eq!(engine.wait_code(), 0, "{}", engine.report());
    assert_eq!(place.system.collect(1), Amiss::default());
}

/// In the monitor an open file delays its route up to the limit, and log, status and metrics show it.
#[apply(test)]
fn log_status_and_metrics_report_held_file() {
    let mut place = Arrivals::new(&Storage::Ext4);
    place.set("BOTS_CTL_FILE_WAIT", "6s");
    let up = place.monitor();
    let open = File::create(place.file(0)).expect("made");
    write_whole(&place.file(1), 1);
    let ask = |path: &str| ask(&up, place.system.demo.sandbox.health_port, path);
    wait_until("it is told", || ask("/status").contains("\"held\":1").then_some(()), || ask("/status"));
    let status = ask("/status");
    assert!(status.contains("/0.edi\",\"why\":\"open for writing") && status.contains("\"given_up\":0"), "{status}");
    assert!(ask("/metrics").contains("botsctl_dirmonitor_unfinished_files{"), "{}", ask("/metrics"));
    up.wait_stderr("no longer waiting for");
    wait_until("it is told", || ask("/status").contains("\"given_up\":1").then_some(()), || ask("/status"));
    let metrics = ask("/metrics");
    assert!(metrics.contains("botsctl_dirmonitor_files_given_up_total 1"), "{metrics}");
    // The output of the queue's jobs is output of a service.
    let is_named = || up.stdout().contains("the run processes it as it is").then_some(());
    wait_until("the run names it", is_named, || up.report());
    place.wait_orders(1, &up);
    drop(open);
}

/// The health listener of a pod answers in its network namespace alone.
fn ask(pod: &Running, port: u16, path: &str) -> String {
    const GET: &str = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())";
    let mut get = Command::new(python());
    get.args(["-c", GET, &format!("http://127.0.0.1:{port}{path}")]).current_dir("/");
    String::from_utf8_lossy(&in_network_of(pod.pid(), &get).output().expect("nsenter runs").stdout).into_owned()
}
