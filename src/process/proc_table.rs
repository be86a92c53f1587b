//! The kernel's process table, from `/proc`.
//!
//! As PID 1 or subreaper bots-ctl adopts every process whose parent has exited, even one in another session: all
//! processes started by services are its descendants.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use nix::unistd::{Pid, getpid, getppid};

/// The inits that container runtimes and images put before an entrypoint, by the names that the kernel gives them.
const CONTAINER_INITS: [&str; 6] = ["docker-init", "tini", "tini-static", "dumb-init", "catatonit", "podman-init"];

/// `python3 -I -u program`: the number of words of a command line searched for the program.
const MAX_WORDS_BEFORE_PROGRAM: usize = 4;

/// A process.
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
    /// Its state, as shown by `ps`; `Z` for a zombie.
    pub state: char,
    /// The first characters of its program's name.
    pub name: String,
    /// Its CPU time and that of its children that have ended, in ticks of the clock.
    pub ticks: u64,
    /// Its pages in memory.
    pub pages: u64,
    /// When it started, in ticks of the clock: another process with the same number has another time.
    pub started: u64,
}

/// All processes; `None` if `/proc` is missing, or belongs to another PID namespace.
#[must_use]
pub fn list() -> Option<Vec<Process>> {
    if fs::read_link("/proc/self").ok()? != Path::new(&getpid().to_string()) {
        return None;
    }
    let names = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.file_name());
    // Processes that exit during the scan are skipped.
    Some(names.filter_map(|name| read(Pid::from_raw(name.to_str()?.parse().ok()?))).collect())
}

/// One process, if it is there.
#[must_use]
pub fn read(pid: Pid) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(pid, &String::from_utf8_lossy(&stat))
}

/// Whether this process is the entrypoint of a container: PID 1, or the child of an init that is PID 1.
#[must_use]
pub fn is_entrypoint() -> bool {
    let init = Pid::from_raw(1);
    getpid() == init
        || (getppid() == init && read(init).is_some_and(|init| CONTAINER_INITS.contains(&init.name.as_str())))
}

/// Whether a process runs this program, directly or through an interpreter with options.
#[must_use]
pub fn is_program(pid: Pid, name: &str) -> bool {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command_line.split(|byte| *byte == 0).take(MAX_WORDS_BEFORE_PROGRAM);
    words.any(|word| word.rsplit(|byte| *byte == b'/').next() == Some(name.as_bytes()))
}

/// Whether a process runs the executable of this one, under any name.
#[must_use]
pub fn is_own_executable(pid: Pid) -> bool {
    executable(pid).is_some_and(|name| Some(name) == executable(getpid()))
}

/// The name of its executable. The kernel marks a file that was replaced since the start.
fn executable(pid: Pid) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_string_lossy();
    Some(name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned())
}

/// Whether a process is stopped at this moment; the state known to the reaper may be older than the last SIGCONT.
#[must_use]
pub fn is_stopped(pid: Pid) -> bool {
    read(pid).is_some_and(|process| process.state == 'T')
}

/// All processes below this one, parents before their children; `None` as for [`list`].
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

/// The same from the kernel's lists of children, independent of the number of other processes. A process that was just started
/// may be missing.
///
/// # Errors
/// When the kernel has no such lists.
pub fn walk_descendants() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    let mut open = children(getpid())?;
    while let Some(pid) = open.pop() {
        let Some(process) = read(pid) else { continue };
        open.extend(children(pid).unwrap_or_default());
        found.push(process);
    }
    Ok(found)
}

fn children(pid: Pid) -> io::Result<Vec<Pid>> {
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let listed = fs::read_to_string(thread?.path().join("children"))?;
        all.extend(listed.split_ascii_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw));
    }
    Ok(all)
}

/// `pid (name) state parent group session …`, where the name may contain any character. Missing fields are 0.
fn parse(pid: Pid, stat: &str) -> Option<Process> {
    let (start, rest) = stat.rsplit_once(") ")?;
    let (_, name) = start.split_once('(')?;
    let mut words = rest.split_ascii_whitespace();
    let state = words.next()?.chars().next()?;
    let mut number = || Some(Pid::from_raw(words.next()?.parse().ok()?));
    let (parent, group, session) = (number()?, number()?, number()?);
    // From the seventh field on: after seven others, two times of the process and of its children; after four more, the
    // time of its start; after another, its pages.
    let rest: Vec<u64> = words.map(|word| word.parse().unwrap_or_default()).collect();
    let ticks = rest.get(7..11).map_or(0, |times| times.iter().sum());
    let pages = rest.get(17).copied().unwrap_or_default();
    let started = rest.get(15).copied().unwrap_or_default();
    Some(Process { pid, parent, group, session, state, name: name.to_owned(), ticks, pages, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_name_may_contain_any_character() {
        let pid = Pid::from_raw(7);
        let process = parse(pid, "7 (a ) Z 9 (b)) S 3 7 7 0 -1").expect("it is a line of /proc");
        assert_eq!((process.name.as_str(), process.state, process.parent), ("a ) Z 9 (b)", 'S', Pid::from_raw(3)));
        assert_eq!(parse(pid, ""), None);
    }
}
