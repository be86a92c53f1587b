//! A whole system of Bots: two of every service in pods, a schedule, a plugin of which one version after the other is applied, a
//! database that is reached over a link, a volume.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::demo_translation::Demo;
use crate::support::fake_kubelet::Pod;
use crate::support::network::run;
use crate::support::pods::message;
use crate::support::process::write_program;
use crate::support::queue::add_with;
use crate::support::servers::{Database, Engine, Server};
use crate::support::tcp_proxy::Link;

/// Where the job queue's service is reached, and its pods listen.
const QUEUE_PORT: u16 = 28083;

const TOKEN: &str = "a-token-that-nobody-knows";

/// The volume, in MiB.
const VOLUME: usize = 64;

/// The interval of jobs of a user, and of probes of each pod.
const PAUSE: Duration = Duration::from_millis(300);

/// One of this number of files is invalid.
const BAD: usize = 10;

/// Notes that its job runs.
const TASK: &str = "#!/bin/sh\necho \"$1\" >> \"$(dirname \"$0\")/ran\"\n";

/// A translation holds a lock until its end, and records if another process has it.
const ALONE: &str = r"
import fcntl
_lock = open('PLACE.lock', 'w')
try:
    fcntl.flock(_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    with open('PLACE', 'a') as _file:
        _file.write('two engines at once\n')
";

/// Pods that run a command again and again. The plugin also names its directory.
pub const SCHEDULE: &str = "schedule";
pub const PLUGIN: &str = "plugin";

/// What stands around the version at the begin of the mapping.
const VERSION: &str = "# version ";
const VERSION_END: &str = " of the plugin\n";

const MAPPING: &str = "usersys/mappings/edifact/orders_d96a_to_flat.py";

/// How long health may not have noticed that the database is down.
const UNNOTICED: Duration = Duration::from_secs(3);

pub struct World {
    pub begin: Instant,
    pub demo: Demo,
    pub database: Database,
    /// The way to the database's server.
    pub link: Option<Link>,
    pub pods: Vec<Pod>,
    /// When the database went down, in milliseconds since the begin; 0 while it is up.
    down: AtomicU64,
    is_over: AtomicBool,
    /// The jobs that the queue has confirmed.
    jobs: Mutex<Vec<String>>,
    amiss: Mutex<Vec<String>>,
}

impl World {
    /// All pods run; none needs to be ready.
    pub fn start(engine: Engine) -> Arc<Self> {
        let server = (engine != Engine::Sqlite).then(|| Arc::new(Server::start_durable(engine)));
        let database = server.as_ref().map_or_else(|| Database::fresh(engine), Database::on);
        let link = server.map(|server| {
            let to = (Ipv4Addr::LOCALHOST, server.port).into();
            Link::listen(0, move || Some(to))
        });
        let demo = install(&database, link.as_ref());
        let pod = |name, args: &[&'static str]| Pod::new(&demo.sandbox, name, args);
        let pods = vec![
            pod("web-1", &["webserver"]),
            pod("web-2", &["webserver"]),
            pod("queue-1", &["jobqueue"]),
            pod("queue-2", &["jobqueue"]),
            pod("monitor-1", &["dirmonitor"]),
            pod("monitor-2", &["dirmonitor"]),
            pod(SCHEDULE, &["engine", "--new", "--lease-wait", "5s"]),
            pod(PLUGIN, &["plugin", "apply", PLUGIN]),
        ];
        let world = Arc::new(Self {
            begin: Instant::now(),
            demo,
            database,
            link,
            pods,
            down: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            jobs: Mutex::default(),
            amiss: Mutex::default(),
        });
        world.lead_to_queue();
        world.services().for_each(|pod| pod.start(&world.demo.sandbox));
        world
    }

    /// As a Service does: to a pod that is ready.
    fn lead_to_queue(self: &Arc<Self>) {
        let known = Arc::downgrade(self);
        Link::listen(QUEUE_PORT, move || {
            let world = known.upgrade()?;
            let queue = world.services().find(|pod| pod.name.starts_with("queue") && pod.is_ready())?;
            Some((queue.node.address().parse::<IpAddr>().expect("an address"), QUEUE_PORT).into())
        });
    }

    /// All pods but those that run a command.
    pub fn services(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| ![SCHEDULE, PLUGIN].contains(&pod.name))
    }

    /// Writes this version into the plugin: into the rows of the channels, and into the mapping.
    pub fn set_plugin(&self, version: usize) {
        let plugin = self.demo.sandbox.home.path().join(PLUGIN);
        let (index, mapping) = (plugin.join("botsindex.json"), plugin.join(MAPPING));
        let mut rows: Value = serde_json::from_slice(&fs::read(&index).expect("readable")).expect("JSON");
        for row in rows["plugins"]["channel"].as_array_mut().expect("there are channels") {
            row["testpath"] = version.to_string().into();
        }
        fs::write(index, rows.to_string()).expect("written");
        let text = fs::read_to_string(&mapping).expect("readable");
        let script = text.split_once(VERSION_END).map_or(text.as_str(), |(_, script)| script);
        fs::write(&mapping, format!("{VERSION}{version}{VERSION_END}{script}")).expect("written");
    }

    /// The versions of the plugin that the channels and the mapping have.
    pub fn plugin_versions(&self) -> Vec<String> {
        let mut versions = self.database.sql("SELECT DISTINCT testpath FROM channel WHERE idchannel LIKE 'demo_%'");
        let mapping = fs::read_to_string(self.demo.sandbox.root().join(MAPPING)).expect("readable");
        let version = mapping.strip_prefix(VERSION).and_then(|text| text.split_once(VERSION_END));
        versions.push(version.map(|(version, _)| version.to_owned()).unwrap_or_default());
        versions
    }

    /// A partner's file; not there when the disk is full.
    pub fn send_file(&self, number: usize) -> bool {
        let content = if is_bad(number) { message(number).replace("UNT+16+", "UNT+17+") } else { message(number) };
        let whole = self.demo.input().join(format!("{number}.edi"));
        let part = whole.with_extension("part");
        let sent = fs::write(&part, content).and_then(|()| fs::rename(&part, whole)).is_ok();
        let _ = fs::remove_file(part);
        sent
    }

    /// A user who continuously adds jobs.
    pub fn add_jobs(self: &Arc<Self>) -> std::thread::JoinHandle<()> {
        let world = Arc::clone(self);
        std::thread::spawn(move || {
            let task = world.demo.sandbox.home.path().join("task").display().to_string();
            for number in 0.. {
                let name = format!("job-{number}");
                // No answer may also be one that was lost on its way.
                match add_with(TOKEN, QUEUE_PORT, &[&task, &name], 5).as_deref() {
                    Some("0") => world.jobs.lock().expect("not poisoned").push(name),
                    Some(code) => world.is_amiss(format!("{name} is refused with {code}")),
                    None => {}
                }
                std::thread::sleep(PAUSE);
                if world.is_over() {
                    return;
                }
            }
        })
    }

    /// Confirmed jobs that have not run.
    pub fn open_jobs(&self) -> Vec<String> {
        let ran = fs::read_to_string(self.demo.sandbox.home.path().join("ran")).unwrap_or_default();
        let ran: std::collections::HashSet<&str> = ran.lines().collect();
        let jobs = self.jobs.lock().expect("not poisoned");
        jobs.iter().filter(|job| !ran.contains(job.as_str())).cloned().collect()
    }

    /// Asks a pod how it is, again and again, and notes what must not be.
    pub fn observe(self: &Arc<Self>, pod: usize) -> std::thread::JoinHandle<()> {
        let world = Arc::clone(self);
        std::thread::spawn(move || {
            let pod = &world.pods[pod];
            while !world.is_over() {
                let is_down = world.is_noticed();
                if pod.ask("/health/ready") == Ok(200) && is_down && world.is_noticed() {
                    world.is_amiss(format!("{} says it is ready while the database is down", pod.name));
                }
                let was_excused = pod.is_excused();
                if pod.ask("/health/live") == Ok(503) && !was_excused && !pod.is_excused() {
                    world.is_amiss(format!("{} says it is not live", pod.name));
                }
                std::thread::sleep(PAUSE);
            }
        })
    }

    /// Whether the database has been down long enough for all to have noticed.
    fn is_noticed(&self) -> bool {
        let down = self.down.load(Ordering::Relaxed);
        down > 0 && self.now() - down > u64::try_from(UNNOTICED.as_millis()).expect("small")
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).expect("small")
    }

    /// Kills the database's server, or starts it again.
    pub fn set_database(&self, is_up: bool) {
        let Some(server) = &self.database.server else { return };
        if is_up {
            self.down.store(0, Ordering::Relaxed);
            server.resume();
        } else {
            server.stop();
            self.down.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Fills the volume, or makes room again.
    pub fn set_volume(&self, has_room: bool) {
        let ballast = self.demo.sandbox.root().join("botssys/ballast");
        // It is truncated at the end of the volume.
        let _ = if has_room { fs::remove_file(ballast) } else { fs::write(ballast, vec![0; VOLUME << 20]) };
    }

    /// Nothing can be written into the out-channel's directory any more, by root neither; or again.
    pub fn set_output(&self, is_writable: bool) {
        let output = self.demo.output();
        let away = output.with_extension("away");
        if is_writable {
            fs::remove_file(&output).and_then(|()| fs::rename(away, output)).expect("it was put away");
        } else {
            fs::rename(&output, away).and_then(|()| fs::write(output, "")).expect("it is there");
        }
    }

    /// Breaks the mounted bots.ini, or mends it.
    pub fn set_config(&self, is_whole: bool) {
        let mounted = self.demo.sandbox.home.path().join("mounted/bots.ini");
        let whole = fs::read_to_string(mounted.with_extension("whole")).expect("readable");
        let text = if is_whole { whole } else { whole.replace("[settings]", "[settings\n]nothing = ") };
        let next = mounted.with_extension("next");
        fs::write(&next, text).expect("written");
        fs::rename(next, mounted).expect("renamed");
    }

    pub fn is_amiss(&self, what: String) {
        let mut amiss = self.amiss.lock().expect("not poisoned");
        amiss.push(format!("{:6.1} s {what}", self.begin.elapsed().as_secs_f64()));
    }

    /// What must not be, and was.
    pub fn amiss(&self) -> Vec<String> {
        self.amiss.lock().expect("not poisoned").clone()
    }

    /// Nobody has to look any more.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Whether a partner's file of this number cannot be translated.
pub fn is_bad(number: usize) -> bool {
    number % BAD == BAD - 1
}

/// The demo on a separate volume, with an enabled job queue.
fn install(database: &Database, link: Option<&Link>) -> Demo {
    let mut sandbox = database.sandbox();
    if let Some(link) = link {
        sandbox.set("DB_PORT", link.port.to_string());
    }
    sandbox.set("BOTS_CTL_JOBQUEUE_ADDR", format!("0.0.0.0:{QUEUE_PORT}")).set("BOTS_CTL_JOBQUEUE_TOKEN", TOKEN);
    let volume = sandbox.root().join("botssys");
    fs::create_dir_all(&volume).expect("made");
    run(&format!("mount -t tmpfs -o size={VOLUME}m volume '{}'", volume.display()));
    let mut demo = Demo::install(sandbox);
    let home = demo.sandbox.home.path().to_owned();
    let (task, input) = (home.join("task"), demo.input().display().to_string());
    write_program(&task, TASK, 0o755);
    for (section, key, value) in [
        ("jobqueue", "enabled", "True"),
        ("jobqueue", "port", "28082"),
        ("jobqueue", "authorized_tasks", &task.display().to_string()),
        ("dirmonitor1", "path", &input),
        ("dirmonitor1", "filemask", "*.edi"),
        ("dirmonitor1", "route", "demo_orders"),
    ] {
        demo.sandbox.set_ini(section, key, value);
    }
    let script = demo.sandbox.root().join(MAPPING);
    let mapping = fs::read_to_string(&script).expect("the demo is installed");
    fs::write(script, mapping + &ALONE.replace("PLACE", &home.join("overlaps").display().to_string()))
        .expect("written");
    demo.sandbox.run(&["plugin", "export", PLUGIN]).expect_code(0);
    let mounted = home.join("mounted");
    fs::create_dir(&mounted).expect("made");
    for name in ["bots.ini", "bots.whole"] {
        fs::copy(demo.sandbox.root().join("config/bots.ini"), mounted.join(name)).expect("copied");
    }
    demo.sandbox.set("BOTS_CTL_CONFIG_SOURCE", mounted.display().to_string());
    demo
}
