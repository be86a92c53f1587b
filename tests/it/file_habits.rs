//! Writers of files with different habits, while the directory monitor and a schedule run real Bots: each order is sent
//! exactly once, byte for byte.
//!
//! The actions and their times follow from a seed, which the test prints: `BOTS_CTL_TEST_SEED=4711 tests/run.sh
//! file_habits::` replays it.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::support::arrivals::{Arrivals, CACHED, Storage};
use crate::support::fuse::Fuse;
use crate::support::pods::{Amiss, message};
use crate::support::random::Random;
use crate::support::sandbox::{python, some_or_all, wait_until};

/// Routes, each with a separate directory. That of the last one is a share.
const ROUTES: usize = 5;

/// Between two parts of a file.
const PAUSE: Duration = Duration::from_millis(100);

/// A pause of a writer that has something else to do. It is shorter than a file has to stay as it is on a share.
const LONG_PAUSE: Duration = Duration::from_millis(1200);

/// Makes the other routes, which are like the first one.
const MAKE_ROUTES: &str = "
import os, sys
from bots import botsinit
botsinit.generalinit(sys.argv[1])
from bots import models
channel = models.channel.objects.get(idchannel='demo_in')
route = models.routes.objects.get(idroute='demo_orders')
first = channel.path
for number in range(1, int(sys.argv[2])):
    channel.idchannel, channel.path = 'demo_in%d' % number, first + str(number)
    os.mkdir(channel.path)
    channel.save(force_insert=True)
    route.pk, route.idroute, route.fromchannel = None, 'demo_orders%d' % number, channel
    route.save(force_insert=True)
";

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Append,
    Pause,
    Rename,
    CopyAndSetTimes,
    EmptyFirst,
    Rewrite,
    TwoHardLinks,
    Sparse,
    Slow,
    OtherMount,
}

const HABITS: [Habit; 10] = [
    Habit::Append,
    Habit::Pause,
    Habit::Rename,
    Habit::CopyAndSetTimes,
    Habit::EmptyFirst,
    Habit::Rewrite,
    Habit::TwoHardLinks,
    Habit::Sparse,
    Habit::Slow,
    Habit::OtherMount,
];

impl Habit {
    /// Writes a file with the text. The name of a processed file is not reused.
    fn write(self, path: &Path, text: &[u8]) {
        match self {
            Self::Append | Self::OtherMount => append(&create(path), text, 6, PAUSE),
            Self::Pause => append(&create(path), text, 2, LONG_PAUSE),
            Self::Slow => append(&create(path), text, 16, PAUSE * 4),
            Self::Rename => {
                let part = path.with_extension("part");
                append(&create(&part), text, 4, PAUSE);
                fs::rename(part, path).expect("renamed");
            }
            Self::CopyAndSetTimes => {
                let file = create(path);
                for part in text.chunks(text.len().div_ceil(4)) {
                    append(&file, part, 1, PAUSE);
                    let day_before = SystemTime::now() - Duration::from_secs(24 * 3600);
                    file.set_times(FileTimes::new().set_modified(day_before)).expect("set");
                }
            }
            Self::EmptyFirst => {
                drop(create(path));
                thread::sleep(LONG_PAUSE);
                append(&OpenOptions::new().append(true).open(path).expect("it is still there"), text, 2, PAUSE);
            }
            Self::Rewrite => {
                let mut file = create(path);
                append(&file, &text[text.len() / 2..], 2, PAUSE);
                file.set_len(0).expect("cut");
                file.rewind().expect("at its beginning");
                append(&file, text, 2, PAUSE);
            }
            Self::TwoHardLinks => {
                let other = path.with_extension("other");
                let file = create(&other);
                fs::hard_link(&other, path).expect("linked");
                append(&file, text, 4, PAUSE);
                drop(file);
                fs::remove_file(other).expect("removed");
            }
            Self::Sparse => {
                let (file, half) = (create(path), text.len() / 2);
                file.set_len(text.len() as u64).expect("set");
                thread::sleep(PAUSE);
                file.write_all_at(&text[half..], half as u64).expect("written");
                thread::sleep(PAUSE);
                file.write_all_at(&text[..half], 0).expect("written");
            }
        }
    }
}

fn create(path: &Path) -> File {
    OpenOptions::new().write(true).create_new(true).open(path).expect("made")
}

fn append(mut file: &File, text: &[u8], parts: usize, pause: Duration) {
    for part in text.chunks(text.len().div_ceil(parts)) {
        file.write_all(part).expect("written");
        thread::sleep(pause);
    }
}

/// An order, and how it comes.
#[derive(Debug, Clone, Copy)]
struct Planned {
    order: usize,
    route: usize,
    habit: Habit,
    pause_before: Duration,
}

/// Each habit as often as each other one.
fn plan(seed: u32, count: usize) -> Vec<Planned> {
    let mut random = Random(seed);
    let mut orders: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        orders.swap(last, random.below(last + 1));
    }
    let planned = |order: usize| {
        let habit = HABITS[order % HABITS.len()];
        let route = if habit == Habit::OtherMount { ROUTES - 1 } else { random.below(ROUTES) };
        Planned { order, route, habit, pause_before: Duration::from_millis(random.below(1200) as u64) }
    };
    orders.into_iter().map(planned).collect()
}

fn seed() -> u32 {
    let of_now = || UNIX_EPOCH.elapsed().expect("it is later").subsec_nanos();
    std::env::var("BOTS_CTL_TEST_SEED").map_or_else(|_| of_now(), |seed| seed.parse().expect("a number"))
}

/// The routes, and the directory behind the share.
struct Routes {
    inputs: Vec<PathBuf>,
    // The share is gone before the directory that it is mounted in.
    share: Fuse,
    place: Arrivals,
}

impl Routes {
    fn new() -> Self {
        let mut place = Arrivals::new(&Storage::Ext4);
        place.set("BOTS_CTL_ENGINE_INTERVAL", "3s");
        let (python, config, demo) =
            (python().display().to_string(), place.system.demo.config_dir(), &place.system.demo);
        let make = ["exec", "--", &python, "-c", MAKE_ROUTES, &config, &ROUTES.to_string()];
        demo.sandbox.run(&make).expect_code(0);
        let number = |route: usize| if route == 0 { String::new() } else { route.to_string() };
        let input = |route| PathBuf::from(demo.input().display().to_string() + &number(route));
        let inputs: Vec<PathBuf> = (0..ROUTES).map(input).collect();
        demo.sandbox.set_ini("jobqueue", "enabled", "True");
        for (route, input) in inputs.iter().enumerate() {
            let section = format!("dirmonitor{}", route + 1);
            demo.sandbox.set_ini(&section, "path", &input.display().to_string());
            demo.sandbox.set_ini(&section, "route", &format!("demo_orders{}", number(route)));
        }
        let share = Fuse::over(&inputs[ROUTES - 1], demo.sandbox.home.path(), CACHED);
        Self { inputs, share, place }
    }

    fn path(&self, planned: &Planned) -> PathBuf {
        let is_other = planned.habit == Habit::OtherMount;
        let directory = if is_other { &self.share.behind } else { &self.inputs[planned.route] };
        directory.join(format!("{}.edi", planned.order))
    }

    /// Two writers for each route, each with one file after the other: between them, a run may begin.
    fn write(&self, planned: &[Planned]) {
        thread::scope(|scope| {
            for (route, writer) in (0..ROUTES).flat_map(|route| [(route, 0), (route, 1)]) {
                scope.spawn(move || {
                    let of_route = planned.iter().filter(|planned| planned.route == route);
                    for planned in of_route.skip(writer).step_by(2) {
                        thread::sleep(planned.pause_before);
                        planned.habit.write(&self.path(planned), message(planned.order).as_bytes());
                    }
                });
            }
        });
    }
}

#[apply(test)]
fn each_order_is_sent_once_for_every_writer_habit() {
    let (seed, count) = (seed(), some_or_all(20, 200));
    println!("BOTS_CTL_TEST_SEED={seed}");
    let (routes, planned) = (Routes::new(), plan(seed, count));
    let system = &routes.place.system;
    let mut up = system.start(&["up", "--services", "jobqueue,dirmonitor,engine"]);
    up.wait_stderr("the directory monitor is ready");
    routes.write(&planned);
    let report = |up: &crate::support::sandbox::Running| format!("seed {seed}: {planned:#?}\n{}", up.report());
    let are_taken = || {
        let is_empty = |input: &PathBuf| fs::read_dir(input).is_ok_and(|mut files| files.next().is_none());
        routes.inputs.iter().all(is_empty).then_some(())
    };
    wait_until("all files are taken", are_taken, || report(&up));
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", report(&up));
    assert_eq!(system.collect(count), Amiss::default(), "{}", report(&up));
}
