//! Ends all descendants: SIGTERM first, SIGKILL at the deadline.
//!
//! No descendant is left exactly when there is no child to wait for; `/proc` only lists which ones there are.

use std::collections::HashSet;
use std::future::pending;
use std::time::Duration;

use nix::libc;
use nix::unistd::{Pid, getpid, getsid};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::proc_table::{self, Process, descendants, is_own_executable};
use super::reaper::Reaper;
use super::signals::{self, Signals, is_stop_signal, signal_group, signal_process, stop_own_group};

/// A wait that is longer than this is explained in the log.
const WAIT_LOG_DELAY: Duration = Duration::from_secs(1);

/// After a death, how long until `/proc` is read again: many die together.
const REFRESH_INTERVAL: Duration = Duration::from_millis(20);

/// How long a killed process may take to be gone; longer only when the kernel cannot end it.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of processes named in one log line.
const MAX_LISTED_PROCESSES: usize = 10;

/// Sends SIGTERM to leftover processes of a service, each once: those in its `groups` and, with `all`, every descendant
/// unless another child is running. Processes of the program `spared`, and all below them, continue.
pub fn terminate_leftovers(reaper: &Reaper, groups: &[Pid], all: bool, spared: &str) {
    if !reaper.has_children() {
        // The common case, in which reading `/proc` would cost a millisecond and more.
        return;
    }
    let all = all && !reaper.has_running_child();
    leftovers(groups, all, spared).iter().for_each(|process| terminate(reaper, process));
}

/// Sends SIGKILL to the processes of [`terminate_leftovers`] in its `groups`.
pub fn kill_leftovers(groups: &[Pid], spared: &str) {
    let left = leftovers(groups, false, spared);
    left.iter().for_each(|process| signal_process(process.pid, libc::SIGKILL));
    if !left.is_empty() {
        warn!("killed {}", format_list(left.iter()));
    }
}

fn leftovers(groups: &[Pid], all: bool, spared: &str) -> Vec<Process> {
    let mut kept = HashSet::new();
    // Where the processes are not known, the spared ones are not either.
    let mut found = descendants().unwrap_or_default();
    found.retain(|process| {
        let is_kept = kept.contains(&process.parent) || proc_table::is_program(process.pid, spared);
        if is_kept {
            kept.insert(process.pid);
        }
        !is_kept && process.state != 'Z' && (all || groups.contains(&process.group))
    });
    found
}

/// The names of the processes in these groups, for the log; empty if they are not known.
pub fn member_names(groups: &[Pid]) -> String {
    let mut members = descendants().unwrap_or_default();
    members.retain(|process| process.state != 'Z' && groups.contains(&process.group));
    format_list(members.iter())
}

/// Records that each bots-ctl in `group` is about to get a stop signal: it would treat that of [`terminate_all`] as a
/// request to hurry.
pub fn record_stop_request(reaper: &Reaper, group: Pid) {
    for process in descendants().unwrap_or_default() {
        if process.group == group && is_own_executable(process.pid) {
            reaper.record_request(&process);
        }
    }
}

fn terminate(reaper: &Reaper, process: &Process) {
    if process.state == 'Z' {
        return;
    }
    let is_first = reaper.record_request(process);
    if is_first {
        signal_process(process.pid, libc::SIGTERM);
    }
    // A stopped process acts on nothing but SIGKILL until it is continued.
    if is_first || process.state == 'T' {
        signal_process(process.pid, libc::SIGCONT);
    }
}

/// The result of [`terminate_all`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminationResult {
    /// Whether a stop signal was received.
    pub stop_requested: bool,
}

/// Ends all descendants: SIGTERM first, SIGKILL at the `limit` or at a stop signal. Returns when none is left, at once
/// if there is none.
///
/// `groups` are the process groups to signal if `/proc` cannot be read.
pub async fn terminate_all(
    reaper: &Reaper,
    signals: &mut Signals,
    groups: &[Pid],
    limit: Duration,
) -> TerminationResult {
    let (mut reaped, mut stop_requested) = (reaper.reaped(), false);
    let mut progress = TerminationProgress::begin(reaper, groups, limit);
    while reaper.has_children() {
        let must_kill = tokio::select! {
            biased;
            number = signals.next() => {
                if number == libc::SIGTSTP {
                    stop_own_group();
                }
                let is_stop = is_stop_signal(number);
                if is_stop {
                    info!("received {}; no longer waiting", signals::name(number));
                }
                stop_requested |= is_stop;
                is_stop
            }
            () = sleep_until(progress.deadline) => true,
            () = at(progress.refresh_at) => {
                progress.refresh();
                false
            }
            () = at(progress.log_at) => {
                progress.log_wait();
                false
            }
            _ = reaped.changed() => {
                progress.refresh_at.get_or_insert(Instant::now() + REFRESH_INTERVAL);
                false
            }
        };
        if must_kill && !progress.begin_kill() {
            break;
        }
    }
    TerminationResult { stop_requested }
}

/// Waits until this time; forever if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// The signals sent to each process, and the times of the next signal and log line.
struct TerminationProgress<'a> {
    reaper: &'a Reaper,
    groups: &'a [Pid],
    limit: Duration,
    /// Whether no process has been asked to end yet.
    is_first: bool,
    killed: HashSet<Pid>,
    is_killing: bool,
    /// When the processes that are left are killed, or given up.
    deadline: Instant,
    /// When `/proc` is read again, if a process has exited.
    refresh_at: Option<Instant>,
    /// When the wait is logged, unless it was.
    log_at: Option<Instant>,
}

impl<'a> TerminationProgress<'a> {
    fn begin(reaper: &'a Reaper, groups: &'a [Pid], limit: Duration) -> Self {
        let begin = Instant::now();
        Self {
            reaper,
            groups,
            limit,
            is_first: true,
            killed: HashSet::new(),
            is_killing: false,
            deadline: begin + limit,
            refresh_at: Some(begin),
            log_at: Some(begin + WAIT_LOG_DELAY),
        }
    }

    /// Has the processes that are left killed; returns false if they were and did not end.
    fn begin_kill(&mut self) -> bool {
        if self.is_killing {
            warn!("{} did not exit after SIGKILL; giving up", remaining_names());
            return false;
        }
        let now = Instant::now();
        (self.is_killing, self.deadline, self.refresh_at, self.log_at) = (true, now + KILL_TIMEOUT, Some(now), None);
        true
    }

    fn log_wait(&mut self) {
        self.log_at = None;
        let limit = (self.limit.as_secs_f64() * 10.0).round() / 10.0;
        info!("waiting up to {limit} s for {} to exit", remaining_names());
    }

    /// Signals the processes that are left.
    fn refresh(&mut self) {
        self.refresh_at = None;
        match descendants() {
            None => self.signal_groups(),
            Some(remaining) if self.is_killing => self.kill(&remaining),
            Some(remaining) => self.terminate(&remaining),
        }
    }

    /// Sends the signal once per process: first to all, later to processes re-parented since. Processes forked during
    /// shutdown are left to their parent, and those below another bots-ctl to that: it lets an engine finish its run.
    fn terminate(&mut self, remaining: &[Process]) {
        let (us, first) = (getpid(), std::mem::take(&mut self.is_first));
        // The processes whose children get no signal from us.
        let mut left_alone = HashSet::new();
        for process in remaining {
            let (is_below, was_requested) = (left_alone.contains(&process.parent), self.reaper.was_requested(process));
            if process.parent == us || first && !is_below {
                terminate(self.reaper, process);
            }
            if first && (is_below || was_requested || is_own_executable(process.pid)) {
                left_alone.insert(process.pid);
            }
        }
    }

    fn kill(&mut self, remaining: &[Process]) {
        let living = remaining.iter().filter(|process| process.state != 'Z');
        let new: Vec<&Process> = living.filter(|process| self.killed.insert(process.pid)).collect();
        let groups: HashSet<Pid> = new.iter().filter(|process| self.is_all_ours(process)).map(|p| p.group).collect();
        // Kills whole groups, to include processes that fork faster than `/proc` is read.
        groups.iter().for_each(|group| signal_group(*group, libc::SIGKILL));
        for process in new.iter().filter(|process| !groups.contains(&process.group)) {
            signal_process(process.pid, libc::SIGKILL);
        }
        if !new.is_empty() {
            warn!("killed {}", format_list(new.iter().copied()));
        }
    }

    /// Whether everything in its group is below us: groups of another session than ours were made there, and so were
    /// `groups`.
    fn is_all_ours(&self, process: &Process) -> bool {
        process.session != getsid(None).unwrap_or(process.session) || self.groups.contains(&process.group)
    }

    /// Where the processes are not known. Below PID 1 are all of its namespace, which `kill` knows by the number -1.
    fn signal_groups(&mut self) {
        let is_first = std::mem::take(&mut self.is_first);
        if !is_first && !self.is_killing {
            return;
        }
        let all = [Pid::from_raw(1)];
        for group in if getpid().as_raw() == 1 { &all } else { self.groups } {
            signal_group(*group, if self.is_killing { libc::SIGKILL } else { libc::SIGTERM });
            signal_group(*group, libc::SIGCONT);
        }
        if self.is_killing {
            warn!("sent SIGKILL to the remaining processes");
        }
    }
}

fn remaining_names() -> String {
    match descendants() {
        Some(remaining) if !remaining.is_empty() => format_list(remaining.iter()),
        _ => "the remaining processes".to_owned(),
    }
}

/// `sleep (12), python (13) and 4 more`.
fn format_list<'a>(processes: impl ExactSizeIterator<Item = &'a Process>) -> String {
    let more = processes.len().saturating_sub(MAX_LISTED_PROCESSES);
    let named = processes.take(MAX_LISTED_PROCESSES).map(|process| format!("{} ({})", process.name, process.pid));
    let text = named.collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::proc_table;
    use super::*;

    #[test]
    fn long_process_list_is_truncated() {
        let us = proc_table::read(getpid()).expect("it runs");
        let one = |pid| Process { pid: Pid::from_raw(pid), name: "sleep".to_owned(), ..us.clone() };
        let all: Vec<Process> = (1..=12).map(one).collect();
        assert_eq!(format_list(all[..2].iter()), "sleep (1), sleep (2)");
        assert!(format_list(all.iter()).ends_with("sleep (10) and 2 more"));
    }
}
