//! `dirmonitor` with real Bots and a real job queue: files come, routes run, and none is forgotten.
//!
//! `FILES=10000 tests/run.sh dirmonitor::every_file` is the long form of the test in which files come all the time.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::demo_translation::Demo;
use crate::support::needs::{Need, needs};
use crate::support::process::wrapped;
use crate::support::queue::with_queue;
use crate::support::sandbox::{DEADLINE, Running, Sandbox, free_port, python, wait_until};

/// Makes a route that passes files on as they are, from a channel with masks in its path.
const PASS_ON: &str = "
import sys
from bots import botsinit, botsglobal
botsinit.generalinit(sys.argv[1])
from bots import models
def channel(name, way, path, filename, remove):
    made, _ = models.channel.objects.update_or_create(idchannel=name, defaults=dict(
        inorout=way, type='file', path=path, filename=filename, remove=remove))
    return made
models.routes.objects.update_or_create(idroute='pass_on', seq=1, defaults=dict(
    active=True, fromchannel=channel('pass_in', 'in', sys.argv[2] + '/*', '*.txt', True), fromeditype='raw',
    frommessagetype='raw', tochannel=channel('pass_out', 'out', sys.argv[3], '*', False), translateind=2))
";

/// A directory for each route of bots.ini, and the queue that the routes are handed to.
struct Monitored {
    sandbox: Sandbox,
    watched: PathBuf,
}

impl Monitored {
    /// Watches one directory for a route that does not exist: its jobs are real, and end at once.
    fn new() -> Self {
        let (sandbox, _) = with_queue();
        let watched = sandbox.home.path().join("watched");
        fs::create_dir(&watched).expect("made");
        let monitored = Self { sandbox, watched };
        monitored.add("dirmonitor1", &monitored.watched, "a_route");
        monitored
    }

    fn add(&self, section: &str, path: &Path, route: &str) {
        self.sandbox.set_ini(section, "path", &path.display().to_string());
        self.sandbox.set_ini(section, "route", route);
    }

    /// A separate service, with a separate health port.
    fn start(&self, service: &str) -> Running {
        let health_port = free_port();
        let mut command = self.sandbox.command(&[service]);
        command.env("BOTS_CTL_HEALTH_ADDR", format!("127.0.0.1:{health_port}"));
        let running = Running::start(command, self.sandbox.home.path(), health_port);
        running.wait_ready();
        running
    }

    fn up(&self) -> Running {
        let up = self.sandbox.start(&["up", "--services", "jobqueue,dirmonitor"]);
        up.wait_ready();
        up
    }

    fn drop_in(&self, name: &str) {
        fs::write(self.watched.join(name), "content").expect("written");
    }

    /// Waits until a job of this route has ended.
    fn wait_job(&self, route: &str, running: &Running) {
        let has_run = || jobs(&self.sandbox).into_iter().find(|job| job["task"][2] == route && job["ended"].is_f64());
        wait_until(&format!("a job of {route} has ended"), has_run, || {
            format!("{:#?}\n{}", jobs(&self.sandbox), running.report())
        });
    }
}

/// All jobs the queue knows of.
fn jobs(sandbox: &Sandbox) -> Vec<Value> {
    let show = |number: usize| {
        let shown = sandbox.run(&["job", "show", &number.to_string(), "--json"]);
        (shown.code() == 0).then(|| serde_json::from_str(&shown.stdout).expect("JSON"))
    };
    (1..).map_while(show).collect()
}

/// Whether the process has inotify watches, see `proc_pid_fdinfo(5)`.
fn has_watches(pid: Pid) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let mut infos = descriptors.filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok());
    infos.any(|info| info.contains("inotify wd:"))
}

/// The status reported by the monitor.
fn status(running: &Running) -> Value {
    let body = running.health("/status").map(|answer| answer.body).unwrap_or_default();
    serde_json::from_str::<Value>(&body).map(|status| status["monitor"].clone()).unwrap_or_default()
}

fn wait_status(running: &Running, what: &str, is: impl Fn(&Value) -> bool) {
    let look = || Some(status(running)).filter(&is);
    wait_until(what, look, || format!("{:#}\n{}", status(running), running.report()));
}

/// Runs a script with Bots's Python in the environment.
fn python_in(sandbox: &Sandbox, script: &str, arguments: &[&str]) {
    let (python, config) = (python().display().to_string(), sandbox.root().join("config").display().to_string());
    let command = ["exec", "--", &python, "-c", script, &config].into_iter().chain(arguments.iter().copied());
    sandbox.run(&command.collect::<Vec<_>>()).expect_code(0);
}

/// The demo's route, its channel's directory watched, with a queue in use.
fn demo() -> Demo {
    let demo = Demo::install(with_queue().0);
    demo.sandbox.set_ini("dirmonitor1", "path", &demo.input().display().to_string());
    demo.sandbox.set_ini("dirmonitor1", "route", "demo_orders");
    demo
}

fn wait_output(demo: &Demo, running: &Running) {
    let has_all = || (names(&demo.output()).len() == 5).then_some(());
    wait_until("five orders are out", has_all, || format!("{:?}\n{}", names(&demo.output()), running.report()));
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("readable").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[apply(test)]
fn monitor_translates_dropped_order() {
    let demo = demo();
    let mut up = demo.sandbox.start(&["up", "--services", "jobqueue,dirmonitor"]);
    up.wait_ready();
    demo.drop_in("input");
    wait_output(&demo, &up);
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", up.report());
    assert!(names(&demo.input()).is_empty());
}

/// A writer of files can choose neither the program that runs nor its arguments.
#[apply(test)]
fn job_commands_never_contain_file_names() {
    let monitored = Monitored::new();
    for name in ["--cleanup", "-c..", "$(touch forged)", "; touch forged", "a\ttab and \"quotes\"", "..."] {
        monitored.drop_in(name);
    }
    let up = monitored.up();
    monitored.wait_job("a_route", &up);
    let config = format!("-c{}", monitored.sandbox.root().join("config").display());
    for job in jobs(&monitored.sandbox) {
        assert_eq!(job["task"], serde_json::json!(["bots-engine", config, "a_route"]));
    }
    assert_eq!(names(&monitored.watched).len(), 6, "they are the engine's to take");
}

/// The engine makes the lock of a channel in the very directory that is watched.
#[apply(test)]
fn channel_lock_file_does_not_trigger_its_route() {
    const LOCK: &str = "
import sys
from bots import botsinit
botsinit.generalinit(sys.argv[1])
from bots import models
models.channel.objects.filter(idchannel='demo_in').update(lockname='channel.lock')
";
    let demo = demo();
    python_in(&demo.sandbox, LOCK, &[]);
    let marker = demo.sandbox.home.path().join("marker");
    fs::create_dir(&marker).expect("made");
    demo.sandbox.set_ini("dirmonitor2", "path", &marker.display().to_string());
    demo.sandbox.set_ini("dirmonitor2", "route", "a_route");
    let up = demo.sandbox.start(&["up", "--services", "jobqueue,dirmonitor"]);
    up.wait_ready();
    demo.drop_in("input");
    wait_output(&demo, &up);
    // A job that comes after the run, and after whatever that has started.
    fs::write(marker.join("file"), "content").expect("written");
    let ended = || jobs(&demo.sandbox).into_iter().find(|job| job["task"][2] == "a_route" && job["ended"].is_f64());
    wait_until("the other job has ended", ended, || up.report());
    let runs = jobs(&demo.sandbox).iter().filter(|job| job["task"][2] == "demo_orders").count();
    assert!(runs <= 2, "{runs} runs: the files may come in two bursts, no more\n{}", up.report());
}

#[apply(test)]
fn monitor_follows_dirmonitor_flag_of_route() {
    const FLAG: &str = "
import sys
from bots import botsinit
botsinit.generalinit(sys.argv[1])
from bots import models
part = models.routes.objects.get(idroute='demo_orders', seq=1)
# A second part that reads the same channel is no second directory.
models.routes.objects.update_or_create(idroute=part.idroute, seq=2, defaults=dict(
    active=True, fromchannel=part.fromchannel, fromeditype='edifact', frommessagetype='edifact', translateind=0))
models.routes.objects.filter(idroute=part.idroute).update(dirmonitor=sys.argv[2] == 'on')
";
    needs(Need::Bots4);
    let demo = Demo::install(with_queue().0);
    let up = demo.sandbox.start(&["up", "--services", "jobqueue,dirmonitor"]);
    up.wait_ready();
    let watches =
        |count| move |monitor: &Value| monitor["directories"].as_array().is_some_and(|all| all.len() == count);
    wait_status(&up, "nothing is watched", watches(0));
    demo.drop_in("input");
    python_in(&demo.sandbox, FLAG, &["on"]);
    // Nobody has asked for a reload.
    wait_status(&up, "the route's directory is watched", watches(1));
    wait_output(&demo, &up);
    python_in(&demo.sandbox, FLAG, &["off"]);
    let trigger = demo.sandbox.root().join("botssys/.dirmonitor.trigger");
    fs::write(&trigger, "reload").expect("written");
    wait_status(&up, "nothing is watched again", watches(0));
    assert!(!trigger.exists());
}

#[apply(test)]
fn reload_reports_existing_files_again() {
    let monitored = Monitored::new();
    monitored.drop_in("stays");
    let up = monitored.up();
    monitored.wait_job("a_route", &up);
    let count = || jobs(&monitored.sandbox).len();
    let before = count();
    monitored.sandbox.run(&["reload"]).expect_code(0);
    wait_until("it runs again", || (count() > before).then_some(()), || up.report());
    monitored.sandbox.set_ini("dirmonitor1", "route", "");
    let refused = monitored.sandbox.run(&["reload"]);
    assert!(refused.expect_code(78).stderr.contains("[dirmonitor1]"), "{refused:?}");
}

#[apply(test)]
fn monitor_applies_only_valid_changes_of_bots_ini() {
    let mut monitored = Monitored::new();
    let source = monitored.sandbox.home.path().join("mounted");
    fs::create_dir(&source).expect("made");
    monitored.sandbox.set("BOTS_CTL_CONFIG_SOURCE", source.display().to_string());
    let up = monitored.up();
    let second = monitored.sandbox.home.path().join("second");
    fs::create_dir(&second).expect("made");
    monitored.add("dirmonitor2", &second, "b_route");
    let watches = |path: &Path| {
        let start = path.join("*").display().to_string();
        move |monitor: &Value| {
            let all = monitor["directories"].as_array().cloned().unwrap_or_default();
            all.iter().any(|directory| directory["files"] == start.as_str() && directory["error"].is_null())
        }
    };
    wait_status(&up, "the second directory is watched", watches(&second));
    fs::write(second.join("file"), "content").expect("written");
    monitored.wait_job("b_route", &up);

    monitored.sandbox.set_ini("dirmonitor3", "path", "/nowhere");
    let fault = || up.stderr().contains("[dirmonitor3] route is missing or empty").then_some(());
    wait_until("the fault is told", fault, || up.report());
    assert!(watches(&second)(&status(&up)), "{:#}", status(&up));
    monitored.add("dirmonitor3", &monitored.watched.join("deeper"), "c_route");
    wait_status(&up, "the third is known", |monitor| {
        monitor["directories"].as_array().is_some_and(|all| all.len() == 3)
    });

    // As Kubernetes replaces a ConfigMap that is mounted as a directory.
    let mut text = fs::read_to_string(monitored.sandbox.root().join("config/bots.ini")).expect("readable");
    text.push_str(&format!("[dirmonitor4]\npath = {}\nroute = d_route\n", source.display()));
    fs::write(source.join("bots.ini.new"), text).expect("written");
    fs::rename(source.join("bots.ini.new"), source.join("bots.ini")).expect("renamed");
    wait_status(&up, "the mounted one is in use", watches(&source));
}

#[apply(test)]
fn monitor_submits_jobs_once_queue_is_available() {
    let monitored = Monitored::new();
    let mut monitor = monitored.start("dirmonitor");
    monitored.drop_in("one");
    wait_status(&monitor, "the route is marked", |monitor| monitor["pending_routes"] == 1);
    let table = monitor.health("/health/ready").expect("it listens");
    assert_eq!(table.status, 200, "the queue is no part of it: {}", table.body);
    let queue = monitored.start("jobqueue");
    monitored.wait_job("a_route", &queue);
    wait_status(&monitor, "no route is marked", |monitor| monitor["pending_routes"] == 0);
    drop(queue);

    // Nobody knows of the second file but a monitor that is killed, and one that is stopped.
    for (name, signal) in [("two", Signal::SIGKILL), ("three", Signal::SIGTERM)] {
        monitored.drop_in(name);
        wait_status(&monitor, "the route is marked", |monitor| monitor["pending_routes"] == 1);
        monitor.signal(signal);
        monitor.wait();
        monitor = monitored.start("dirmonitor");
        wait_status(&monitor, "the route is marked again", |monitor| monitor["pending_routes"] == 1);
    }
    let before = jobs(&monitored.sandbox).len();
    let queue = monitored.start("jobqueue");
    let comes = || (jobs(&monitored.sandbox).len() > before).then_some(());
    wait_until("the job comes", comes, || format!("{}\n{}", monitor.report(), queue.report()));
}

/// Files come all the time, while the monitor is killed, and the queue with the engine that it runs, over and over. A file
/// that is being sent at that moment may go out twice.
#[apply(test)]
fn every_file_is_processed_despite_crashes() {
    const DIRECTORIES: usize = 100;
    let files: usize = std::env::var("FILES").map_or(300, |count| count.parse().expect("a number"));
    let sandbox = with_queue().0;
    let [input, output] = ["in", "out"].map(|name| sandbox.home.path().join(name));
    for number in 0..DIRECTORIES {
        fs::create_dir_all(input.join(number.to_string())).expect("made");
    }
    fs::create_dir(&output).expect("made");
    python_in(&sandbox, PASS_ON, &[&input.display().to_string(), &output.display().to_string()]);
    let monitored = Monitored { sandbox, watched: input.clone() };
    monitored.add("dirmonitor1", &input.join("*"), "pass_on");
    monitored.sandbox.set_ini("dirmonitor1", "filemask", "*.txt");

    let (mut monitor, mut queue) = (monitored.start("dirmonitor"), monitored.start("jobqueue"));
    let mut is_down = false;
    let file = |number: usize| input.join((number % DIRECTORIES).to_string()).join(format!("{number}.txt"));
    for number in 0..files {
        let (part, whole) = (file(number).with_extension("part"), file(number));
        fs::write(&part, format!("content of {number}\n")).expect("written");
        fs::rename(part, whole).expect("renamed");
        let part = files / 6;
        match number % part {
            0 if number > 0 => {
                monitor.signal(Signal::SIGKILL);
                monitor.wait();
                monitor = monitored.start("dirmonitor");
            }
            1 if number > part => {
                kill_all(&mut queue);
                is_down = true;
            }
            place if place == part / 2 && is_down => {
                queue = monitored.start("jobqueue");
                is_down = false;
            }
            _ => {}
        }
    }
    if is_down {
        queue = monitored.start("jobqueue");
    }
    let contents = || -> BTreeSet<String> {
        let read = |entry: fs::DirEntry| fs::read_to_string(entry.path()).expect("readable");
        fs::read_dir(&output).expect("readable").flatten().map(read).collect()
    };
    let expected: BTreeSet<String> = (0..files).map(|number| format!("content of {number}\n")).collect();
    let is_at_work = || queue.descendants().iter().any(|(_, command)| command.contains("bots-engine"));
    // Ten thousand files take one run of the engine minutes, in which nothing is to be seen of it but itself.
    let mut last_seen = Instant::now();
    while names(&output).len() < files || contents() != expected {
        if is_at_work() {
            last_seen = Instant::now();
        }
        let (taken, out) = (files - (0..files).filter(|number| file(*number).exists()).count(), names(&output).len());
        let report = || format!("{taken} taken, {out} out\n{}\n{}", monitor.report(), queue.report());
        assert!(last_seen.elapsed() < DEADLINE, "{}", report());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// As when its node loses power.
fn kill_all(service: &mut Running) {
    let all = service.descendants();
    service.signal(Signal::SIGKILL);
    for (pid, _) in all {
        let _ = kill(pid, Signal::SIGKILL);
    }
    service.wait();
}

/// In a separate user namespace, to which the limit applies.
#[apply(test)]
fn monitor_polls_if_inotify_limit_is_reached() {
    for (limit, number, why) in [
        ("max_inotify_watches", "0", "limit fs.inotify.max_user_watches reached"),
        ("max_inotify_instances", "0", "limit fs.inotify.max_user_instances reached"),
    ] {
        let monitored = Monitored::new();
        let plain = monitored.sandbox.command(&["up", "--services", "jobqueue,dirmonitor"]);
        let script = format!("echo {number} > /proc/sys/user/{limit} && exec \"$0\" \"$@\"");
        needs(Need::Namespaces);
        let command = wrapped(&plain, "unshare", &["--user", "--map-root-user", "sh", "-c", &script]);
        let up = Running::start(command, monitored.sandbox.home.path(), monitored.sandbox.health_port);
        up.wait_ready();
        wait_status(&up, "it is polled, and why", |monitor| {
            monitor["directories"][0]["by"] == format!("poll ({why})").as_str()
        });
        monitored.drop_in("file");
        monitored.wait_job("a_route", &up);
    }
}

#[apply(test)]
fn route_rejected_by_queue_does_not_block_others() {
    let monitored = Monitored::new();
    let other = monitored.sandbox.home.path().join("other");
    fs::create_dir(&other).expect("made");
    monitored.add("dirmonitor2", &other, "a\u{1}");
    monitored.add("dirmonitor3", &other, "b\u{1}");
    for directory in [&other, &monitored.watched] {
        fs::write(directory.join("file"), "x").expect("written");
    }
    let up = monitored.up();
    up.wait_stderr("the job queue rejects route a\\u{1}: ");
    up.wait_stderr("the job queue rejects route b\\u{1}: ");
    monitored.wait_job("a_route", &up);
    up.signal(Signal::SIGTERM);
    up.wait_stderr(
        "stopped with routes that the job queue did not accept: a\\u{1}, b\\u{1}; their files stay in place",
    );
}

#[apply(test)]
fn missing_directory_is_reported_and_keeps_monitor_ready() {
    let monitored = Monitored::new();
    fs::remove_dir(&monitored.watched).expect("removed");
    let up = monitored.up();
    let why = format!("{} does not exist", monitored.watched.display());
    wait_status(&up, "it is told", |monitor| monitor["directories"][0]["error"] == why.as_str());
    let table = monitored.sandbox.run(&["status"]);
    table.expect_code(0);
    let line = format!("not watched: {}/* for route a_route: {why}\n", monitored.watched.display());
    assert!(table.stdout.contains(&line), "{}", table.stdout);
    fs::create_dir(&monitored.watched).expect("made");
    wait_status(&up, "it is watched", |monitor| monitor["directories"][0]["error"].is_null());
    monitored.drop_in("file");
    monitored.wait_job("a_route", &up);
}

#[apply(test)]
fn invalid_section_is_reported_and_others_are_watched() {
    let monitored = Monitored::new();
    let faulty = [
        ("dirmonitor2", "path", "/nowhere", "[dirmonitor2] route is missing or empty"),
        ("dirmonitor3", "filemsk", "*.edi", "[dirmonitor3] filemsk = *.edi is unknown; did you mean filemask?"),
        ("dirmonitor4", "recursive", "deep", "[dirmonitor4] recursive = deep is neither True nor False"),
        ("dirmonitor5", "path", "D:\\in", "[dirmonitor5] path = D:\\in is a Windows path"),
    ];
    for (section, key, value, _) in &faulty[1..] {
        monitored.add(section, &monitored.watched.join(section), "b_route");
        monitored.sandbox.set_ini(section, key, value);
    }
    monitored.sandbox.set_ini("dirmonitor2", "path", "/nowhere");
    let checked = monitored.sandbox.run(&["config", "check"]);
    checked.expect_code(78);
    let service = monitored.start("dirmonitor");
    let up = monitored.up();
    for (.., fault) in &faulty {
        assert!(checked.stderr.contains(fault), "{fault} is not in {}", checked.stderr);
        for running in [&service, &up] {
            running.wait_stderr(fault);
        }
    }
    wait_status(&up, "the sound one is watched", |monitor| {
        monitor["directories"].as_array().is_some_and(|all| all.len() == 1)
    });
    monitored.drop_in("one");
    monitored.wait_job("a_route", &up);
    drop(up);
    let monitors = monitored.sandbox.run(&["dirmonitor", "--backend", "python"]);
    monitors.expect_code(78);
    assert!(monitors.stderr.contains(faulty[0].3), "{}", monitors.stderr);
}

#[apply(test)]
fn config_check_rejects_section_without_active_route() {
    let monitored = Monitored::new();
    let checked = monitored.sandbox.run(&["config", "check"]);
    checked.expect_code(78);
    let fault = "bots.ini: no active route a_route; its files stay unprocessed until the route is active";
    assert!(checked.stderr.contains(fault), "{}", checked.stderr);
}

#[apply(test)]
fn dirmonitor_rejects_invalid_flags() {
    let monitored = Monitored::new();
    monitored.sandbox.run(&["dirmonitor", "--backend", "neither"]).expect_code(64);
    monitored.sandbox.run(&["dirmonitor", "--", "-x"]).expect_code(64);
    monitored.sandbox.run(&["dirmonitor", "--json"]).expect_code(64);
}

#[apply(test)]
fn dry_run_lists_directories_and_waiting_files() {
    let monitored = Monitored::new();
    monitored.drop_in("one");
    monitored.drop_in("two.tmp");
    monitored.add("dirmonitor2", Path::new("/nowhere"), "b_route");
    let rehearsed = monitored.sandbox.run(&["dirmonitor", "--dry-run"]);
    rehearsed.expect_code(0);
    let files = monitored.watched.join("*").display().to_string();
    for part in
        [format!("{files} for route a_route, by [dirmonitor1]").as_str(), "not watched: /nowhere does not exist"]
    {
        assert!(rehearsed.stdout.contains(part), "{part} is not in {}", rehearsed.stdout);
    }
    assert!(rehearsed.stderr.contains("no active route b_route"), "{}", rehearsed.stderr);
    let json = monitored.sandbox.run(&["dirmonitor", "--dry-run", "--json"]);
    let rehearsed: Value = serde_json::from_str(&json.stdout).expect("JSON");
    // The file may be too new to be complete.
    let seen = |key: &str| rehearsed[0][key].as_u64().unwrap_or_default();
    assert_eq!((&rehearsed[0]["files"], seen("complete") + seen("unfinished")), (&files.as_str().into(), 1));
    assert_eq!(rehearsed[1]["error"], "/nowhere does not exist");
    assert!(monitored.watched.join("one").exists());
}

#[apply(test)]
fn names_of_files_and_tasks_cannot_forge_log_lines() {
    let mut monitored = Monitored::new();
    monitored.sandbox.set("LOG_FORMAT", "text");
    monitored.drop_in("file\n2026-01-01T00:00:00Z ERROR forged \u{1b}[31m");
    monitored.drop_in("file \u{202e}\u{9b}2J");
    monitored.add("dirmonitor2", Path::new("/nowhere"), "route \u{1b}[31m");
    let rehearsed = monitored.sandbox.run(&["dirmonitor", "--dry-run"]);
    assert!(rehearsed.stdout.contains("for route route \\u{1b}[31m"), "{}", rehearsed.stdout);
    let up = monitored.up();
    up.wait_stderr("queued route a_route");
    monitored.sandbox.run(&["job", "add", "--", "no\n2026-01-01T00:00:00Z ERROR forged"]);
    up.wait_stderr("rejected a job whose program is not allowed");
    let trigger = monitored.sandbox.root().join("botssys/.dirmonitor.trigger");
    fs::write(trigger, "reload\n2026-01-01T00:00:00Z ERROR forged").expect("written");
    up.wait_stderr("requests: reload");
    for text in [rehearsed.stdout, up.stderr()] {
        let is_raw = |c: char| ['\u{1b}', '\u{9b}', '\u{202e}'].contains(&c);
        assert!(!text.contains("\n2026-01-01T00") && !text.contains(is_raw), "{text}");
    }
}

#[apply(test)]
fn python_backend_runs_under_supervision() {
    let mut monitored = Monitored::new();
    monitored.sandbox.set("BOTS_CTL_DIRMONITOR_BACKEND", "python");
    let mut up = monitored.up();
    let monitor = || up.descendants().into_iter().find(|(_, command)| command.contains("bots-dirmonitor"));
    // The process exists shortly before its watch, and misses files that arrive in between. But files must not be
    // dropped continuously either, since it waits until none has arrived for two seconds.
    let watches = || monitor().is_some_and(|(pid, _)| has_watches(pid)).then_some(());
    wait_until("the monitor watches", watches, || up.report());
    monitored.drop_in("file");
    let names_route = |job: &Value| job["task"].as_array().is_some_and(|words| words.last() == Some(&"a_route".into()));
    let comes = || jobs(&monitored.sandbox).into_iter().find(names_route);
    wait_until("its job comes", comes, || up.report());
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", up.report());
}
