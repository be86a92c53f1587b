//! The cost of bots-ctl's hot paths in instructions: an increase of ten percent fails.
//!
//! valgrind counts what `tests/bench/hot_paths.rs` executes in N and in 2 N rounds. The difference is the cost of N
//! rounds, without one-time costs, and is independent of load and memory layout. It depends on the compiler, the C
//! library and the processor's vector instructions, so a baseline is valid for one set of these.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use serde::Deserialize;

use crate::support::needs::{Need, needs};

/// How much dearer a path may become, in percent.
const TOLERATED: u64 = 10;

/// The paths, each with enough rounds to be more than the start.
const PATHS: [(&str, u64); 5] = [("probe", 100), ("health", 200), ("log", 40), ("xmlrpc", 100), ("bots_ini", 40)];

/// The packages whose code runs on these paths. All others stay as the tests have built them, or are built in no time.
const OPTIMISED: [&str; 28] = [
    "axum",
    "axum-core",
    "bytes",
    "dxr",
    "futures-channel",
    "futures-task",
    "futures-util",
    "http",
    "http-body",
    "http-body-util",
    "httparse",
    "httpdate",
    "hyper",
    "hyper-util",
    "itoa",
    "matchit",
    "memchr",
    "mio",
    "nix",
    "percent-encoding",
    "quick-xml",
    "serde_json",
    "sha2",
    "tokio",
    "tower",
    "tracing",
    "tracing-core",
    "tracing-subscriber",
];

/// The response of the health listener.
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
    content-length: 124\r\nconnection: close\r\ndate: Mon, 23 Nov 2026 05:17:34 GMT\r\n\r\n\
    {\"status\":\"ready\",\"check\":\"readiness\",\"checks\":{\"database\":true,\"botssys\":true,\"usersys\":true,\
    \"webserver\":true},\"errors\":[]}";

/// The committed figures.
#[derive(Debug, Deserialize)]
struct Baseline {
    /// What they hold for.
    counted_with: String,
    /// Instructions of a round.
    rounds: BTreeMap<String, u64>,
}

/// The result of one path.
#[derive(Debug, PartialEq)]
enum Verdict {
    Same,
    /// The baseline is too high to notice the next change.
    Cheaper(String),
    Dearer(String),
}

#[apply(test)]
fn hot_paths_stay_within_10_percent_of_baseline() {
    let baseline: Baseline = toml::from_str(&fs::read_to_string(baseline_file()).expect("there is a baseline"))
        .unwrap_or_else(|error| panic!("{}: {error}", baseline_file().display()));
    let (here, is_update) = (counted_with(), std::env::var_os("UPDATE_INSTRUCTIONS").is_some());
    if here != baseline.counted_with && !is_update {
        let there = &baseline.counted_with;
        return tell(&format!("instructions are not compared: the baseline is for {there}, this is {here}"));
    }
    let program = build();
    let counted: BTreeMap<String, u64> =
        PATHS.into_iter().map(|(path, rounds)| (path.to_owned(), per_round(&program, path, rounds))).collect();
    if is_update {
        return write_baseline(&here, &counted);
    }
    let known: Vec<&String> = baseline.rounds.keys().collect();
    assert_eq!(known, counted.keys().collect::<Vec<_>>(), "paths of the baseline, and paths; {}", remedy());
    let mut dearer = String::new();
    for (path, now) in &counted {
        match judge(path, baseline.rounds[path], *now) {
            Verdict::Same => {}
            Verdict::Cheaper(text) => tell(&text),
            Verdict::Dearer(text) => writeln!(dearer, "{text}").expect("text takes text"),
        }
    }
    assert!(dearer.is_empty(), "{dearer}");
}

#[apply(test)]
fn judge_detects_change_over_10_percent_both_ways() {
    assert_eq!(judge("probe", 1000, 1100), Verdict::Same);
    assert_eq!(judge("probe", 1000, 900), Verdict::Same);
    let Verdict::Dearer(text) = judge("probe", 1000, 1101) else { panic!("it is dearer") };
    assert!(
        ["probe", "1101", "1000", "10.1 %", "UPDATE_INSTRUCTIONS=1"].iter().all(|part| text.contains(part)),
        "{text}"
    );
    assert!(matches!(judge("probe", 1000, 899), Verdict::Cheaper(text) if text.contains("899")));
}

fn judge(path: &str, baseline: u64, now: u64) -> Verdict {
    let tenths = (now.abs_diff(baseline) * 1000).checked_div(baseline).unwrap_or_default();
    let text = |word| {
        let percent = format!("{}.{} %", tenths / 10, tenths % 10);
        let place = "(tests/bench/hot_paths.rs)";
        format!(
            "{path} {place} costs {now} instructions a round, {percent} {word} than the {baseline} of the baseline; {}",
            remedy()
        )
    };
    match tenths > TOLERATED * 10 {
        true if now > baseline => Verdict::Dearer(text("more")),
        true => Verdict::Cheaper(text("less")),
        false => Verdict::Same,
    }
}

fn remedy() -> &'static str {
    "if that is as it should be, write a new one: UPDATE_INSTRUCTIONS=1 tests/run.sh instructions::"
}

/// Bypasses the harness, which drops the output of passing tests.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn baseline_file() -> PathBuf {
    project().join("tests/bench/instructions.toml")
}

fn write_baseline(here: &str, counted: &BTreeMap<String, u64>) {
    let mut text = format!(
        "# Instructions of a round of each path of hot_paths.rs. Written by:\n\
         # UPDATE_INSTRUCTIONS=1 tests/run.sh instructions::\ncounted_with = \"{here}\"\n\n[rounds]\n"
    );
    for (path, count) in counted {
        writeln!(text, "{path} = {count}").expect("text takes text");
    }
    fs::write(baseline_file(), text).expect("written");
}

/// All inputs of the counts besides the code.
fn counted_with() -> String {
    let rustc = printed(Command::new("rustc").arg("--version"));
    let minor: Vec<&str> = rustc.split(['.', ' ']).skip(1).take(2).collect();
    let libc = printed(Command::new("getconf").arg("GNU_LIBC_VERSION"));
    let cpu = fs::read_to_string("/proc/cpuinfo").expect("readable");
    // valgrind knows none that is newer.
    let vectors = if cpu.split_whitespace().any(|flag| flag == "avx2") { ", avx2" } else { "" };
    format!("rustc {}, {}, {}{vectors}", minor.join("."), libc.trim(), std::env::consts::ARCH)
}

/// Builds the program, with one job, since other tests run meanwhile. It is a package of its own, made from ours, in the target
/// directory of the tests: what they have built is not built again.
fn build() -> PathBuf {
    needs(Need::Time);
    needs(Need::Valgrind);
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (place, target) = (temporary.join("hot-paths"), temporary.parent().expect("it is below the target directory"));
    fs::create_dir_all(&place).expect("made");
    fs::write(place.join("Cargo.toml"), manifest()).expect("written");
    fs::copy(project().join("Cargo.lock"), place.join("Cargo.lock")).expect("copied");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--offline", "--quiet", "-j1", "--target-dir"]).arg(target).current_dir(&place);
    // What cargo tells to tests would have some packages built again, and what a developer has set changes what is counted.
    let of_cargo = |name: &OsStr| name.as_bytes().starts_with(b"CARGO") && name != "CARGO_HOME" || name == "RUSTFLAGS";
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_cargo(name)) {
        cargo.env_remove(name);
    }
    printed(cargo.env("CARGO_INCREMENTAL", "0"));
    target.join("debug/hot-paths")
}

/// The dependencies are ours, and the profile, for what was built with another would be built again; what runs on the paths is
/// optimised.
fn manifest() -> String {
    let ours = fs::read_to_string(project().join("Cargo.toml")).expect("readable");
    let after = ours.split_once("\n[dependencies]\n").expect("it has dependencies").1;
    let dependencies = after.split("\n[").next().expect("a split has a first part");
    let profile = ours.split_once("\n[profile.dev]\n").expect("it has a profile, at its end").1.lines();
    let is_optimised = |line: &str| line.split_once('.').is_some_and(|(name, _)| OPTIMISED.contains(&name));
    let profile: Vec<&str> = profile.filter(|line| !is_optimised(line)).collect();
    let source = project().join("tests/bench/hot_paths.rs");
    // Not at the release's level s, at which rustc takes generic functions from other packages, as those were built.
    let optimised = "opt-level = 2\ndebug = false\ndebug-assertions = false\noverflow-checks = false\n";
    let names = ["hot-paths"].iter().chain(&OPTIMISED);
    let profiles = names.map(|name| format!("\n[profile.dev.package.{name}]\n{optimised}"));
    format!(
        "[package]\nname = \"hot-paths\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[[bin]]\n\
         name = \"hot-paths\"\npath = {source:?}\n\n[dependencies]\n{dependencies}\n\n\
         [profile.dev]\n{}\n{}",
        profile.join("\n"),
        profiles.collect::<String>()
    )
}

/// Instructions of one round.
fn per_round(program: &Path, path: &str, rounds: u64) -> u64 {
    let [few, many] = [rounds, 2 * rounds].map(|rounds| instructions(program, path, rounds));
    (many - few) / rounds
}

fn instructions(program: &Path, path: &str, rounds: u64) -> u64 {
    let home = tempfile::tempdir().expect("a temporary directory");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let addr = listener.local_addr().expect("it has one").to_string();
    thread::spawn(move || respond(&listener));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    valgrind.arg(program).args([path, &rounds.to_string(), &addr]);
    // Where the environment is, and how long it is, shall not matter either.
    valgrind.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", home.path());
    valgrind.current_dir(home.path());
    let done = valgrind.output().expect("valgrind is installed");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{path}: {said}");
    let counted = said.lines().find_map(|line| line.split_once("refs:")?.1.trim().replace(',', "").parse().ok());
    counted.unwrap_or_else(|| panic!("valgrind tells no number for {path}: {said}"))
}

/// Answers probes like the health listener, outside the measured program.
fn respond(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let (mut asked, mut part) = (Vec::new(), [0; 1024]);
        while !asked.ends_with(b"\r\n\r\n") {
            match stream.read(&mut part) {
                Ok(length @ 1..) => asked.extend_from_slice(&part[..length]),
                Ok(0) | Err(_) => break,
            }
        }
        let _ = stream.write_all(ANSWER.as_bytes());
    }
}

/// The output of a command, if it succeeds.
fn printed(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}
