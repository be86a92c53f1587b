//! The processes below this one, and their end.
//!
//! As PID 1 or subreaper we inherit every process whose parent has died, also one that has a session of its own. So
//! nobody is left exactly when there is no child to wait for, and `/proc` only has to say who they are.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::unistd::{Pid, getpid, getsid};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::child::{signal_group, signal_process, stop_own_group};
use super::reaper::Reaper;
use super::signals::{Signals, is_stop_signal};

/// A wait that is longer than this is explained in the log.
const WAIT_LOG_DELAY: Duration = Duration::from_secs(1);

/// After a death, how long until the rest is looked at: many die together, and a look reads all of `/proc`.
const REFRESH_INTERVAL: Duration = Duration::from_millis(20);

/// How long a killed process may take to be gone; longer only when the kernel cannot end it.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// So many processes are named in one line of the log.
const MAX_LISTED_PROCESSES: usize = 10;

/// A process below this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// Its parent's.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// Its state, as `ps` shows it; `Z` for one that has ended and waits to be reaped.
    pub state: char,
    /// The first characters of its program's name.
    pub name: String,
    /// Its CPU time and that of its children that have ended, in ticks of the clock.
    pub ticks: u64,
    /// Its pages in memory.
    pub pages: u64,
}

/// All processes; `None` when `/proc` is not there, or is that of another PID namespace.
#[must_use]
pub fn list() -> Option<Vec<Process>> {
    if fs::read_link("/proc/self").ok()? != Path::new(&getpid().to_string()) {
        return None;
    }
    let names = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse().ok());
    // A process that ends meanwhile is none to tell of.
    Some(pids.filter_map(|pid| read(Pid::from_raw(pid))).collect())
}

/// One process, if it is there.
#[must_use]
pub fn read(pid: Pid) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(pid.as_raw(), &String::from_utf8_lossy(&stat))
}

/// All processes below this one; `None` as for [`list`].
#[must_use]
pub fn descendants() -> Option<Vec<Process>> {
    let mut children: HashMap<Pid, Vec<Process>> = HashMap::new();
    for process in list()? {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = children.remove(&getpid()).unwrap_or_default();
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let below = children.remove(&process.pid).unwrap_or_default();
        found.extend(below);
        next += 1;
    }
    Some(found)
}

/// `pid (name) state parent group session …`, where the name may hold anything. Words that are missing count for nothing.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let (start, rest) = stat.rsplit_once(") ")?;
    let (_, name) = start.split_once('(')?;
    let mut words = rest.split(' ');
    let state = words.next()?.chars().next()?;
    let mut number = || Some(Pid::from_raw(words.next()?.parse().ok()?));
    let (parent, group, session) = (number()?, number()?, number()?);
    // From the seventh word on: two times of its own and of its children after seven others, the pages after eight more.
    let rest: Vec<u64> = words.map(|word| word.trim().parse().unwrap_or_default()).collect();
    let ticks = rest.get(7..11).map_or(0, |times| times.iter().sum());
    let pages = rest.get(17).copied().unwrap_or_default();
    Some(Process { pid: Pid::from_raw(pid), parent, group, session, state, name: name.to_owned(), ticks, pages })
}

/// Ends every process below this one: asked with SIGTERM first, killed at the `limit` or as soon as a signal asks us
/// to stop. Returns when none is left, at once when there is none; says whether such a signal came.
///
/// `groups` are the process groups to go by where `/proc` cannot be read.
pub async fn terminate_all(reaper: &Reaper, signals: &mut Signals, groups: &[Pid], limit: Duration) -> bool {
    let (mut reaped, mut was_asked) = (reaper.reaped(), false);
    if !reaper.has_children() {
        return was_asked;
    }
    let begin = Instant::now();
    let mut rest = TerminationProgress { groups, signalled: HashSet::new(), killed: HashSet::new(), killing: false };
    let (mut deadline, mut signal, mut refresh) = (begin + limit, Some(begin + WAIT_LOG_DELAY), Some(begin));
    loop {
        reaped.mark_unchanged();
        if !reaper.has_children() {
            return was_asked;
        }
        let kill = tokio::select! {
            biased;
            number = signals.next() => {
                if number == libc::SIGTSTP {
                    stop_own_group();
                }
                was_asked |= is_stop_signal(number);
                is_stop_signal(number)
            }
            () = sleep_until(deadline) => true,
            () = sleep_until_opt(refresh) => {
                refresh = None;
                rest.refresh();
                false
            }
            () = sleep_until_opt(signal) => {
                signal = None;
                info!("waiting for {} to end, for at most {} s", rest.names(), limit.as_secs_f64());
                false
            }
            _ = reaped.changed() => {
                refresh.get_or_insert(Instant::now() + REFRESH_INTERVAL);
                false
            }
        };
        if kill && rest.killing {
            warn!("{} cannot be ended: leaving it behind", rest.names());
            return was_asked;
        }
        if kill {
            (rest.killing, signal, refresh) = (true, None, Some(Instant::now()));
            deadline = Instant::now() + KILL_TIMEOUT;
        }
    }
}

async fn sleep_until_opt(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Who is left, and what they have been told.
struct TerminationProgress<'a> {
    groups: &'a [Pid],
    signalled: HashSet<Pid>,
    killed: HashSet<Pid>,
    killing: bool,
}

impl TerminationProgress<'_> {
    /// Looks at who is left and tells them to end.
    fn refresh(&mut self) {
        match descendants() {
            None => self.signal_groups(),
            Some(remaining) if self.killing => self.kill(&remaining),
            Some(left) => self.terminate(&left),
        }
    }

    /// Asks each process once: at first all of them, later those that have lost their parent since. What a process
    /// starts while it ends in order is its own affair.
    fn terminate(&mut self, remaining: &[Process]) {
        let (us, first) = (getpid(), self.signalled.is_empty());
        for process in remaining.iter().filter(|process| first || process.parent == us) {
            if process.state != 'Z' && self.signalled.insert(process.pid) {
                signal_process(process.pid, libc::SIGTERM);
                // A stopped process acts on nothing but SIGKILL until it is continued.
                signal_process(process.pid, libc::SIGCONT);
            }
        }
    }

    fn kill(&mut self, remaining: &[Process]) {
        let living = remaining.iter().filter(|process| process.state != 'Z');
        let new: Vec<&Process> = living.filter(|process| self.killed.insert(process.pid)).collect();
        let groups: HashSet<Pid> = new.iter().filter(|process| self.is_all_ours(process)).map(|p| p.group).collect();
        // A group is killed as one: what forks faster than we can look is in it as well.
        groups.iter().for_each(|group| signal_group(*group, libc::SIGKILL));
        for process in new.iter().filter(|process| !groups.contains(&process.group)) {
            signal_process(process.pid, libc::SIGKILL);
        }
        if !new.is_empty() {
            warn!("killed {}", format_list(new.iter().copied()));
        }
    }

    /// Whether everything in its group is below us: a group of another session than ours was made there, and so were
    /// those that we know of.
    fn is_all_ours(&self, process: &Process) -> bool {
        process.session != getsid(None).unwrap_or(process.session) || self.groups.contains(&process.group)
    }

    /// Without knowing who is left: as PID 1 everybody is, and `kill` knows them by the number -1.
    fn signal_groups(&self) {
        let everybody = [Pid::from_raw(1)];
        for group in if getpid().as_raw() == 1 { &everybody } else { self.groups } {
            signal_group(*group, if self.killing { libc::SIGKILL } else { libc::SIGTERM });
            signal_group(*group, libc::SIGCONT);
        }
        if self.killing {
            warn!("killed the processes that were left");
        }
    }

    fn names(&self) -> String {
        match descendants() {
            Some(remaining) if !remaining.is_empty() => format_list(remaining.iter()),
            _ => "what was left behind".to_owned(),
        }
    }
}

/// `sleep (12), python (13) and 4 more`.
fn format_list<'a>(processes: impl ExactSizeIterator<Item = &'a Process>) -> String {
    let (count, mut text) = (processes.len(), String::new());
    for (number, process) in processes.take(MAX_LISTED_PROCESSES).enumerate() {
        let between = if number == 0 { "" } else { ", " };
        let _ = write!(text, "{between}{} ({})", process.name, process.pid);
    }
    if count > MAX_LISTED_PROCESSES {
        let _ = write!(text, " and {} more", count - MAX_LISTED_PROCESSES);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let process = parse(7, "7 (a ) Z 9 (b)) S 3 7 7 0 -1").expect("it is a line of /proc");
        assert_eq!((process.name.as_str(), process.state, process.parent), ("a ) Z 9 (b)", 'S', Pid::from_raw(3)));
        assert_eq!(parse(7, ""), None);
    }

    #[test]
    fn a_long_list_is_cut() {
        let one = |pid| parse(pid, &format!("{pid} (sleep) S 1 1 1")).expect("it is a line of /proc");
        let all: Vec<Process> = (1..=12).map(one).collect();
        assert_eq!(format_list(all[..2].iter()), "sleep (1), sleep (2)");
        assert!(format_list(all.iter()).ends_with("sleep (10) and 2 more"));
    }
}
