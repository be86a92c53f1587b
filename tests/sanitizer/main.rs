//! Children of every kind, started, signalled and waited for, again and again: for a run under a sanitizer, since most of what is
//! `unsafe` in bots-ctl is in `src/process`.
#![allow(dead_code, unused_imports, reason = "src/process has more than is tried here")]

#[path = "../../src/exit.rs"]
pub mod exit;
#[path = "../../src/process/mod.rs"]
pub mod process;

use std::time::Duration;

use exit::Exit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use process::ChildStatus;
use process::capture::capture;
use process::child::{Output, ProcessGroup, ProcessSpec};
use process::reaper::Reaper;
use process::signals::{Signals, group_exists, inherited_signals, signal_group, signal_process};

const ROUNDS: u8 = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut signals = Signals::install().expect("signals can be read");
    let reaper = Reaper::start().expect("children can be waited for");
    for round in 0..ROUNDS {
        talk_to_each_kind(&reaper, round).await;
        refuse_what_cannot_be_run(&reaper);
        end_many_by_signals(&reaper).await;
        stop_and_continue(&reaper).await;
        kill(Pid::this(), Signal::SIGTERM).expect("sent");
        assert_eq!(signals.next().await, Signal::SIGTERM as i32);
        assert!(!inherited_signals().ignores(Signal::SIGTERM as i32) && process::usage::current_process().is_some());
        assert!(process::proc_table::descendants().is_some());
    }
    process::terminate::terminate_all(&reaper, &mut signals, &[], Duration::from_secs(5)).await;
    assert!(!reaper.has_children());
    println!("{ROUNDS} rounds, nothing wrong");
}

async fn talk_to_each_kind(reaper: &Reaper, code: u8) {
    let printed = vec![b'x'; 100_000];
    for is_isolated in [true, false] {
        for kill_on_parent_death in [true, false] {
            for group in [ProcessGroup::New, ProcessGroup::Inherit, ProcessGroup::NewForeground] {
                let script = format!("printf '%0100000d' 0 | tr 0 x; echo $SAID >&2; exit {code}");
                let mut spec = ProcessSpec {
                    is_isolated,
                    kill_on_parent_death,
                    group,
                    ..ProcessSpec::new("sh").arg("-c").arg(script)
                };
                spec.environment.push(("SAID".to_owned(), "it".into()));
                spec.env_remove.push("HOME".to_owned());
                let said = capture(reaper, &spec).await.expect("sh is there");
                assert_eq!(said.exit, Exit::Code(code));
                assert!(said.stdout == printed && said.stderr == "it\n");
            }
        }
    }
}

fn refuse_what_cannot_be_run(reaper: &Reaper) {
    for program in ["/nowhere/at/all", "/etc/passwd"] {
        assert!(reaper.spawn(&ProcessSpec::new(program)).is_err());
    }
}

async fn end_many_by_signals(reaper: &Reaper) {
    let spec = ProcessSpec { output: Output::Inherit, ..ProcessSpec::new("sleep").arg("1000") };
    let mut children: Vec<_> = (0..20).map(|_| reaper.spawn(&spec).expect("sleep is there")).collect();
    for (number, child) in children.iter().enumerate() {
        assert!(group_exists(child.pid));
        if number % 2 == 0 { signal_group(child.pid, 15) } else { signal_process(child.pid, 9) }
    }
    for child in &mut children {
        assert!(matches!(child.exited().await, Exit::Signal(15 | 9)));
    }
    // One that leaves another behind, which becomes ours.
    let leaving = ProcessSpec::new("sh").arg("-c").arg("sleep 0.01 & exit 0");
    assert_eq!(reaper.spawn(&leaving).expect("sh is there").exited().await, Exit::Code(0));
}

async fn stop_and_continue(reaper: &Reaper) {
    let stopping = ProcessSpec::new("sh").arg("-c").arg("kill -STOP $$; exit 4");
    let mut child = reaper.spawn(&stopping).expect("sh is there");
    while child.changed().await != ChildStatus::Stopped {}
    signal_group(child.pid, Signal::SIGCONT as i32);
    assert_eq!(child.exited().await, Exit::Code(4));
}
