//! The whole system while things break: two of everything in pods, schedules, a plugin, a database, a volume; real Bots throughout.
//!
//! In a round faults come at random for half a minute, files and jobs all the time. Then everything has to be well again by
//! itself, every file be sent or its error recorded, every job have run, and the plugin be applied as a whole. What happens
//! in a round, and on which database, follows from its seed: `BOTS_CTL_TEST_SEED=7 tests/run.sh faults::` replays one. With
//! `BOTS_CTL_TEST_SECONDS=3600` those of seed 7, 8, 9 and so on follow each other for an hour.

use std::fmt::Write;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::fake_kubelet::Pod;
use crate::support::needs::{Need, needs};
use crate::support::network::run;
use crate::support::pods::{expected, order};
use crate::support::random::Random;
use crate::support::sandbox::{bots_bin_dir, is_real_engine, processes};
use crate::support::servers::Engine;
use crate::support::simulation::{PLUGIN, SCHEDULE, World, is_bad};

/// How long things break.
const ROUND: Duration = Duration::from_secs(30);

/// When all has to be well again after the last fault.
const WELL: Duration = Duration::from_secs(60);

/// When all has to be done then: the lease of an engine that was killed last lasts a minute, and its work is to be done again.
const DONE: Duration = Duration::from_secs(150);

/// How often the system is looked at. With every second look a file comes, with every fortieth a scheduled engine, and with every
/// seventieth another version of the plugin.
const TICK: Duration = Duration::from_millis(100);
const FILES: usize = 2;
const ENGINES: usize = 40;
const VERSIONS: usize = 70;

#[apply(test)]
fn system_recovers_from_random_faults() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let (seed, seconds) = (number("BOTS_CTL_TEST_SEED").unwrap_or(1), number("BOTS_CTL_TEST_SECONDS").unwrap_or(0));
    let (begin, limit) = (Instant::now(), Duration::from_secs(seconds));
    bots_bin_dir();
    for seed in seed.. {
        let seed = u32::try_from(seed).expect("small");
        // In a thread with separate network and mount namespaces, which end with it.
        let round = std::thread::spawn(move || Round::new(seed).play());
        if let Err(panic) = round.join() {
            std::panic::resume_unwind(panic);
        }
        if begin.elapsed() >= limit {
            break;
        }
    }
}

/// What breaks. Pods and processes are numbers that come to be one of those there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillPod(usize),
    KillProcess(usize, usize),
    KillEngine,
    /// Kills the apply of another version after these milliseconds.
    KillApply(u64),
    StopPod(usize),
    Freeze(usize, usize),
    DatabaseDown,
    DatabaseSlow,
    ConnectionsCut,
    DiskFull,
    OutputUnwritable,
    Clock(usize),
    ConfigBroken,
}

/// A lasting fault, and its effects.
struct Lasting {
    fault: Fault,
    until: Instant,
    frozen: Option<Pid>,
}

struct Round {
    seed: u32,
    random: Random,
    world: Arc<World>,
    lasting: Vec<Lasting>,
    log: String,
    files: usize,
    /// How many versions of the plugin there were.
    versions: usize,
    /// How often an engine may have been cut off in the middle of a file.
    cuts: usize,
}

impl Round {
    fn new(seed: u32) -> Self {
        needs(Need::Time);
        needs(Need::Root);
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may");
        run("mount --make-rprivate / && ip link set lo up");
        let mut random = Random(seed);
        random.below(2);
        let engine = [Engine::Mariadb, Engine::Postgresql, Engine::Sqlite][random.below(3)];
        let world = World::start(engine);
        Self { seed, random, world, lasting: Vec::new(), log: format!("{engine:?}\n"), files: 0, versions: 0, cuts: 0 }
    }

    fn play(mut self) {
        let mut threads: Vec<_> = (0..self.world.services().count()).map(|pod| self.world.observe(pod)).collect();
        self.wait("all are well at the begin", DONE, Self::unwell);
        threads.push(self.world.add_jobs());
        let (mut next, end) = (Instant::now(), Instant::now() + ROUND);
        for tick in 0_usize.. {
            let now = Instant::now();
            if now >= end {
                break;
            }
            if now >= next {
                self.break_something();
                next = now + Duration::from_millis(500 + self.random.below(2500) as u64);
            }
            self.mend(|lasting| lasting.until <= now);
            if tick.is_multiple_of(FILES) && self.world.send_file(self.files) {
                self.files += 1;
            }
            self.look_after(tick);
            std::thread::sleep(TICK);
        }
        self.mend(|_| true);
        self.note("the last fault is over");
        self.wait("all are well again", WELL, Self::unwell);
        self.wait("everything is done", DONE, Self::undone);
        self.world.end();
        threads.into_iter().for_each(|thread| thread.join().expect("it only looks"));
        self.check();
    }

    /// As the kubelet does: starts pods that have ended; and as a schedule does.
    fn look_after(&mut self, tick: usize) {
        let world = Arc::clone(&self.world);
        for pod in &world.pods {
            if let Some(code) = pod.ended() {
                self.note(&format!("{} ended with {code}", pod.name));
                if code == 101 || code == 134 {
                    world.is_amiss(format!("{} panicked", pod.name));
                }
            }
            match pod.name {
                _ if pod.is_there() => {}
                SCHEDULE if !tick.is_multiple_of(ENGINES) => {}
                PLUGIN if !tick.is_multiple_of(VERSIONS) => {}
                PLUGIN => self.next_version(),
                _ => pod.start(&world.demo.sandbox),
            }
        }
        let engines = self.engines();
        if engines.len() > 1 && self.engines().iter().filter(|engine| engines.contains(engine)).count() > 1 {
            world.is_amiss(format!("two engines at once: {engines:?}"));
        }
    }

    /// Writes the next version of the plugin, and starts its apply.
    fn next_version(&mut self) {
        self.versions += 1;
        let plugin = self.world.pods.iter().find(|pod| pod.name == PLUGIN).expect("it is one of them");
        plugin.end();
        self.world.set_plugin(self.versions);
        plugin.start(&self.world.demo.sandbox);
    }

    /// Bots's engines, which only a lease allows to be there.
    fn engines(&self) -> Vec<Pid> {
        let home = self.world.demo.sandbox.home.path().display().to_string();
        let is_engine = |pid, command: &str| command.contains(&home) && is_real_engine(pid, command);
        let engines: Vec<_> = processes().into_iter().filter(|(pid, _, command)| is_engine(*pid, command)).collect();
        // Python's `platform` asks `uname`, and until that is executed there are two of the same command line.
        let is_fork = |parent| engines.iter().any(|(pid, ..)| *pid == parent);
        engines.iter().filter(|(_, parent, _)| !is_fork(*parent)).map(|(pid, ..)| *pid).collect()
    }

    fn note(&mut self, what: &str) {
        let _ = writeln!(self.log, "{:6.1} s {what}", self.world.begin.elapsed().as_secs_f64());
    }

    /// Continues without faults until the list returned by `open` is empty.
    fn wait(&mut self, what: &str, limit: Duration, open: impl Fn(&Self) -> Vec<String>) {
        let begin = Instant::now();
        for tick in 0.. {
            let left = open(self);
            if left.is_empty() {
                return self.note(what);
            }
            if begin.elapsed() > limit {
                self.fail(&format!("{what}, but for: {left:#?}"));
            }
            self.look_after(tick);
            std::thread::sleep(TICK);
        }
    }

    /// Pods that are not as they have to be: of the queues one works and one stands by.
    fn unwell(&self) -> Vec<String> {
        let world = &self.world;
        let working = world.services().filter(|pod| pod.name.starts_with("queue") && pod.is_ready()).count();
        let is_well = |name: &str, ready: bool| ready || (name.starts_with("queue") && working == 1);
        let ill = world.services().filter(|pod| !pod.is_live() || !is_well(pod.name, pod.is_ready()));
        ill.map(|pod| pod.name.to_owned()).collect()
    }

    /// Files without a trace, and jobs that have not run.
    fn undone(&self) -> Vec<String> {
        let mut files: Vec<usize> = (0..self.files).filter(|number| self.copies(*number) == 0).collect();
        if !files.is_empty() {
            let question = "SELECT infilename FROM filereport WHERE statust = 1";
            let errors = self.world.database.sql(question);
            files.retain(|number| !errors.iter().any(|file| file.ends_with(&format!("/{number}.edi"))));
        }
        files.into_iter().map(order).chain(self.world.open_jobs()).collect()
    }

    /// How often this file's order was sent.
    fn copies(&self, number: usize) -> usize {
        let sent =
            fs::read_to_string(self.world.demo.output().join(format!("{}.txt", order(number)))).unwrap_or_default();
        sent.matches(&order(number)).count()
    }

    fn check(self) {
        self.check_files();
        self.check_plugin();
        let world = Arc::clone(&self.world);
        if let Ok(overlaps) = fs::read_to_string(world.demo.sandbox.home.path().join("overlaps")) {
            world.is_amiss(overlaps);
        }
        for pod in world.services() {
            let ended =
                pod.services().into_iter().map(|(pid, _)| pid).filter(|pid| is_zombie(*pid)).collect::<Vec<_>>();
            let begin = Instant::now();
            while ended.iter().any(|pid| is_zombie(*pid)) {
                if begin.elapsed() > WELL {
                    world.is_amiss(format!("{} has zombies", pod.name));
                    break;
                }
                std::thread::sleep(TICK);
            }
        }
        if !world.amiss().is_empty() {
            self.fail("something was amiss");
        }
        println!("seed {}: {} files, {} cuts\n{}", self.seed, self.files, self.cuts, self.log);
    }

    /// Each is sent whole, and no oftener than engines were cut off.
    fn check_files(&self) {
        let mut more = 0;
        for number in (0..self.files).filter(|number| !is_bad(*number)) {
            let copies = self.copies(number);
            let sent = fs::read_to_string(self.world.demo.output().join(format!("{}.txt", order(number))));
            if copies > 0 && sent.unwrap_or_default() != expected(&order(number)).repeat(copies) {
                self.world.is_amiss(format!("{} is damaged", order(number)));
            }
            more += copies.saturating_sub(1);
        }
        let bad = (0..self.files).filter(|number| is_bad(*number) && self.copies(*number) > 0);
        bad.for_each(|number| self.world.is_amiss(format!("{} should not have been sent", order(number))));
        if more > self.cuts {
            self.world.is_amiss(format!("{more} files were sent twice, and an engine cut off {} times", self.cuts));
        }
    }

    /// A run completes or reverts an apply that was killed; the next apply succeeds.
    fn check_plugin(&self) {
        let world = &self.world;
        world.pods.iter().filter(|pod| [PLUGIN, SCHEDULE].contains(&pod.name)).for_each(Pod::end);
        for command in [&["engine", "--new"][..], &["plugin", "apply", PLUGIN]] {
            let finished = world.demo.sandbox.run(command);
            let versions = world.plugin_versions();
            // The end of the schedule may have killed a run: the one that recovers it may end with 2.
            let is_done = finished.code() == 0 || command[0] == "engine" && finished.code() == 2;
            if !is_done || !versions.iter().all(|version| *version == versions[0]) {
                world.is_amiss(format!("channels and mapping have the versions {versions:?} after {finished:?}"));
            }
        }
        if world.plugin_versions()[0] != self.versions.to_string() {
            world.is_amiss(format!("the plugin was not applied: {:?}", world.plugin_versions()));
        }
    }

    fn fail(&self, what: &str) -> ! {
        let reports: Vec<_> = self.world.pods.iter().map(|pod| pod.report()).collect();
        panic!("seed {}: {what}\n{:#?}\n{}\n{}", self.seed, self.world.amiss(), reports.join("\n"), self.log);
    }
}

/// Also when it has failed: the threads that look have their share of the world.
impl Drop for Round {
    fn drop(&mut self) {
        self.world.end();
        self.world.pods.iter().for_each(|pod| pod.end());
    }
}

/// Faults.
impl Round {
    fn draw(&mut self) -> Fault {
        let (pod, process) = (self.random.below(self.world.pods.len()), self.random.below(10));
        match self.random.below(16) {
            0 => Fault::KillPod(pod),
            1 | 2 => Fault::KillProcess(pod, process),
            3 | 4 => Fault::KillEngine,
            5 => Fault::StopPod(pod),
            6 => Fault::Freeze(pod, process),
            7 => Fault::DatabaseDown,
            8 => Fault::DatabaseSlow,
            9 => Fault::ConnectionsCut,
            10 => Fault::DiskFull,
            11 => Fault::OutputUnwritable,
            12 => Fault::Clock(pod),
            13 | 14 => Fault::KillApply(self.random.below(1000) as u64),
            _ => Fault::ConfigBroken,
        }
    }

    fn break_something(&mut self) {
        let fault = self.draw();
        let seconds = 1 + self.random.below(6) as u64;
        if self.lasting.iter().any(|lasting| std::mem::discriminant(&lasting.fault) == std::mem::discriminant(&fault)) {
            return;
        }
        if let Fault::KillApply(_) = fault {
            self.next_version();
        }
        let frozen = self.begin(fault, Duration::from_secs(seconds));
        self.note(&format!("{fault:?} for {seconds} s"));
        let is_harmless =
            matches!(fault, Fault::Clock(_) | Fault::StopPod(_) | Fault::ConfigBroken | Fault::KillApply(_));
        self.cuts += usize::from(!is_harmless);
        self.lasting.push(Lasting { fault, until: Instant::now() + Duration::from_secs(seconds), frozen });
    }

    /// Gives the process that was stopped.
    fn begin(&self, fault: Fault, time: Duration) -> Option<Pid> {
        let world = &self.world;
        let any = |pod: usize, number: usize| {
            let mut all: Vec<Pid> = world.pods[pod].services().into_iter().map(|(pid, _)| pid).collect();
            all.extend(world.pods[pod].init());
            all.get(number % all.len().max(1)).copied()
        };
        if let Fault::KillPod(pod) | Fault::KillProcess(pod, _) | Fault::StopPod(pod) | Fault::Freeze(pod, _) = fault {
            world.pods[pod].excuse(time);
        }
        match fault {
            Fault::KillPod(pod) => world.pods[pod].signal(Signal::SIGKILL),
            Fault::StopPod(pod) => world.pods[pod].signal(Signal::SIGTERM),
            Fault::KillProcess(pod, number) => send(any(pod, number), Signal::SIGKILL),
            Fault::KillEngine => send(self.engines().first().copied(), Signal::SIGKILL),
            Fault::KillApply(milliseconds) => {
                std::thread::sleep(Duration::from_millis(milliseconds));
                world.pods.iter().filter(|pod| pod.name == PLUGIN).for_each(Pod::end);
            }
            Fault::Freeze(pod, number) => {
                let process = any(pod, number);
                send(process, Signal::SIGSTOP);
                return process;
            }
            Fault::DatabaseDown => world.set_database(false),
            Fault::DatabaseSlow => world.link.iter().for_each(|link| link.slow(Duration::from_millis(100))),
            Fault::ConnectionsCut => world.link.iter().for_each(|link| link.cut()),
            Fault::DiskFull => world.set_volume(false),
            Fault::OutputUnwritable => world.set_output(false),
            Fault::Clock(pod) => world.pods[pod].set_clock(if pod % 2 == 0 { 3600 } else { -3600 }),
            Fault::ConfigBroken => world.set_config(false),
        }
        None
    }

    fn mend(&mut self, is_over: impl Fn(&Lasting) -> bool) {
        let (over, lasting) = std::mem::take(&mut self.lasting).into_iter().partition(is_over);
        self.lasting = lasting;
        for Lasting { fault, frozen, .. } in over {
            let world = &self.world;
            match fault {
                Fault::DatabaseDown => world.set_database(true),
                Fault::DatabaseSlow => world.link.iter().for_each(|link| link.slow(Duration::ZERO)),
                Fault::DiskFull => world.set_volume(true),
                Fault::OutputUnwritable => world.set_output(true),
                Fault::Clock(pod) => world.pods[pod].set_clock(0),
                Fault::ConfigBroken => world.set_config(true),
                _ => send(frozen, Signal::SIGCONT),
            }
        }
    }
}

/// The process may already have exited.
fn send(to: Option<Pid>, signal: Signal) {
    let _ = to.map(|pid| kill(pid, signal));
}

fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}
