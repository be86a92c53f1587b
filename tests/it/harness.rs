//! The runner of the integration tests.
//!
//! It differs from Rust's own in three ways: a test that calls [`needs`](crate::support::needs::needs) for something that the
//! machine does not have is skipped and counted under that name; each result is printed, with the message of a failure,
//! when it happens; and a further test is started whenever a processor is idle, since most tests mostly wait.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use linkme::distributed_slice;

use crate::support::needs::{Need, Scope, set_scope};

/// All integration tests; `#[apply(test)]` adds a function.
#[distributed_slice]
pub static TESTS: [TestCase];

/// One integration test.
#[derive(Clone, Copy)]
pub struct TestCase {
    pub module: &'static str,
    pub function: &'static str,
    pub run: fn(),
}

/// Registers a function as a test: `#[apply(test)]`.
macro_rules! test {
    ($(#[$attribute:meta])* fn $name:ident() $body:block) => {
        $(#[$attribute])*
        fn $name() $body

        const _: () = {
            #[linkme::distributed_slice(crate::harness::TESTS)]
            static TEST: crate::harness::TestCase = crate::harness::TestCase {
                module: module_path!(),
                function: stringify!($name),
                run: $name,
            };
        };
    };
}

/// Runs the integration tests whose names contain one of the filters.
#[derive(Parser)]
struct Arguments {
    /// Parts of names; without any, a selection that takes some minutes
    filters: Vec<String>,
    /// Leave out tests whose names contain this
    #[arg(long, value_name = "FILTER")]
    skip: Vec<String>,
    /// Filters are whole names
    #[arg(long)]
    exact: bool,
    /// Print the names and run nothing
    #[arg(long)]
    list: bool,
    /// Run every test but those of the image; one that needs something the machine does not have fails
    #[arg(long)]
    all: bool,
    /// As --all, and the tests of the image
    #[arg(long)]
    image: bool,
    /// Never run more tests at once [default: as many as keep the processors busy, 16 at most]
    #[arg(long, value_name = "N", default_value_t = 16)]
    test_threads: usize,
    /// Tests that passed before these, for the closing line
    #[arg(long, value_name = "N", default_value_t = 0)]
    passed_before: usize,
    /// Print the ten tests that took longest
    #[arg(long)]
    slowest: bool,
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped(Need),
}

struct Finished {
    name: String,
    outcome: Outcome,
    duration: Duration,
}

/// The result of a whole run.
#[derive(Default)]
struct Summary {
    passed: usize,
    failures: Vec<(String, String)>,
    skipped: BTreeMap<Need, usize>,
    durations: Vec<(Duration, String)>,
}

impl TestCase {
    /// The path of the test without the name of this crate, as `cargo test` prints it.
    fn name(&self) -> String {
        let module = self.module.split_once("::").map_or("", |(_, module)| module);
        format!("{module}::{}", self.function)
    }
}

impl Arguments {
    fn scope(&self) -> Scope {
        match self {
            Self { image: true, .. } => Scope::Image,
            Self { all: true, .. } => Scope::All,
            Self { filters, .. } if !filters.is_empty() => Scope::Whole,
            _ => Scope::Short,
        }
    }

    fn selects(&self, name: &str) -> bool {
        let matches = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skip.iter().any(matches)
    }
}

/// The entry point of the test binary.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut tests: Vec<TestCase> = TESTS.iter().copied().filter(|test| arguments.selects(&test.name())).collect();
    tests.sort_by_key(|test| (!starts_early(&test.name()), test.name()));
    if arguments.list {
        tests.iter().for_each(|test| println!("{}: test", test.name()));
        return ExitCode::SUCCESS;
    }
    set_scope(arguments.scope());
    let started = Instant::now();
    let mut summary = run(&tests, arguments.test_threads);
    summary.passed += arguments.passed_before;
    summary.print(started.elapsed(), arguments.slowest);
    if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// Runs the tests, at most `limit` at once, and prints each result.
fn run(tests: &[TestCase], limit: usize) -> Summary {
    let (sender, receiver) = channel();
    let (mut waiting, mut running) = (VecDeque::from(tests.to_vec()), 0);
    let mut processors = Processors::new();
    let mut summary = Summary::default();
    println!("running {} tests", tests.len());
    while running > 0 || !waiting.is_empty() {
        let may_start = running < limit.max(1) && (running < processors.count || processors.are_idle());
        if may_start && let Some(test) = waiting.pop_front() {
            running += 1;
            start(test, sender.clone());
            continue;
        }
        if let Some(finished) = next(&receiver) {
            running -= 1;
            summary.add(finished, tests.len());
        }
    }
    summary
}

/// The next result; `None` when it is time to see whether the processors are idle.
fn next(results: &Receiver<Finished>) -> Option<Finished> {
    results.recv_timeout(Processors::INTERVAL / 2).ok()
}

/// Runs a test in a thread of its name, which the message of a panic shows.
fn start(test: TestCase, results: Sender<Finished>) {
    let name = test.name();
    let thread = thread::Builder::new().name(name.clone());
    let work = move || {
        let started = Instant::now();
        let outcome = match catch_unwind(AssertUnwindSafe(test.run)) {
            Ok(()) => Outcome::Passed,
            Err(payload) => failed_or_skipped(payload.as_ref()),
        };
        // The receiver lives until every test that was started has sent its result.
        let _ = results.send(Finished { name, outcome, duration: started.elapsed() });
    };
    thread.spawn(work).expect("a thread can be started");
}

fn failed_or_skipped(payload: &(dyn Any + Send)) -> Outcome {
    if let Some(need) = payload.downcast_ref::<Need>() {
        return Outcome::Skipped(*need);
    }
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message");
    Outcome::Failed(text.to_owned())
}

impl Summary {
    fn add(&mut self, finished: Finished, total: usize) {
        let Finished { name, outcome, duration } = finished;
        let number = self.passed + self.failures.len() + self.skipped.values().sum::<usize>() + 1;
        let seconds = duration.as_secs_f64();
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("{number} of {total}: {name} ... ok ({seconds:.1} s)");
            }
            Outcome::Failed(message) => {
                println!("{number} of {total}: {name} ... FAILED ({seconds:.1} s)");
                self.failures.push((name.clone(), message));
            }
            Outcome::Skipped(need) => {
                *self.skipped.entry(need).or_default() += 1;
                println!("{number} of {total}: {name} ... skipped, needs {need}");
            }
        }
        self.durations.push((duration, name));
    }

    /// How many tests were skipped for which of these needs.
    fn skipped(&self, is_meant: impl Fn(Need) -> bool) -> String {
        let meant = self.skipped.iter().filter(|(need, _)| is_meant(**need));
        meant.map(|(need, count)| format!("{count} need {need}")).collect::<Vec<_>>().join("; ")
    }

    /// Prints the failures once more, and the closing lines.
    fn print(&mut self, elapsed: Duration, slowest: bool) {
        if slowest {
            self.durations.sort_by(|a, b| b.cmp(a));
            println!("\nslowest:");
            self.durations.iter().take(10).for_each(|(time, name)| println!("{:>8.1} s  {name}", time.as_secs_f64()));
        }
        if !self.failures.is_empty() {
            println!("\nfailed:");
            self.failures.iter().for_each(|(name, message)| println!("{name}\n{}", indented(message)));
        }
        let skipped: usize = self.skipped.values().sum();
        println!("\ntests took {:.0} s", elapsed.as_secs_f64());
        println!("{} passed, {} failed, {skipped} skipped", self.passed, self.failures.len());
        let installs = "installs the missing programs and runs these tests";
        for (needs, remedy) in [
            (self.skipped(|need| need != Need::Image && !need.is_version()), format!("tests/run.sh --all {installs}")),
            (self.skipped(|need| need == Need::Image), format!("tests/run.sh --image {installs}")),
            (self.skipped(Need::is_version), "BOTS_BIN_DIR selects the programs of another version".to_owned()),
        ] {
            if !needs.is_empty() {
                println!("skipped: {needs}; {remedy}");
            }
        }
    }
}

fn indented(message: &str) -> String {
    message.lines().map(|line| format!("    {line}\n")).collect()
}

/// Watches how busy the processors are, so that as many tests run as keep them busy: a fixed number is too small for tests
/// that wait and too large for tests that compute.
struct Processors {
    count: usize,
    sampled: Instant,
    /// Ticks of all processors since the boot: without work (or with work of low priority), and in all.
    ticks: (u64, u64),
}

impl Processors {
    /// Long enough for a test that was just started to show its load.
    const INTERVAL: Duration = Duration::from_millis(100);

    fn new() -> Self {
        let count = thread::available_parallelism().map_or(2, usize::from);
        Self { count, sampled: Instant::now(), ticks: ticks() }
    }

    /// Whether a third of one processor was idle in the last interval; a second question within the same one gets `false`.
    fn are_idle(&mut self) -> bool {
        if self.sampled.elapsed() < Self::INTERVAL {
            return false;
        }
        let (idle, total) = ticks();
        let (idle_before, total_before) = std::mem::replace(&mut self.ticks, (idle, total));
        self.sampled = Instant::now();
        (idle - idle_before) * self.count as u64 * 3 > total - total_before
    }
}

/// See `Processors::ticks`; proc(5), `/proc/stat`: user nice system idle iowait irq softirq steal.
fn ticks() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").expect("/proc is mounted");
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let idle = [1, 3, 4].iter().filter_map(|index| ticks.get(*index)).sum();
    (idle, ticks.iter().sum())
}

/// Whether a test is among those that take a minute: begun last, they would run alone.
fn starts_early(name: &str) -> bool {
    const SLOW: [&str; 9] = [
        "instructions::",
        "faults::",
        "lease_network::",
        "summer_time",
        "install::interrupted",
        "environment::init_db_completes_killed",
        "environment::init_db_completes_interrupted",
        "bad_input::secrets",
        "output::service_survives",
    ];
    SLOW.iter().any(|part| name.contains(part))
}
