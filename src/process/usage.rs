//! Memory and CPU time of a service and its descendants.

use std::collections::HashMap;

use nix::unistd::{Pid, SysconfVar, getpid, sysconf};

use super::proc_table::{self, Process, descendants, walk_descendants};

/// The usage of some processes together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Their number.
    pub processes: usize,
    /// Resident memory, in bytes. Shared pages count for each.
    pub resident: u64,
    /// CPU time in seconds, with that of children that have ended.
    pub cpu: f64,
}

/// The usage of this process alone.
#[must_use]
pub fn current_process() -> Option<Usage> {
    Some(usage(&[proc_table::read(getpid())?]))
}

/// The usage of each of these processes with all below it and in its group, and last that of the other descendants of this
/// process.
#[must_use]
pub fn per_root(roots: &[Pid]) -> Vec<Usage> {
    let mut shares: Vec<Vec<Process>> = vec![Vec::new(); roots.len() + 1];
    let mut owners: HashMap<Pid, usize> = HashMap::new();
    // A parent comes before its children.
    for process in walk_descendants().ok().or_else(descendants).unwrap_or_default() {
        let is_root = roots.iter().position(|root| *root == process.pid);
        let in_group = || roots.iter().position(|root| *root == process.group);
        let owner = is_root.or_else(|| owners.get(&process.parent).copied()).or_else(in_group).unwrap_or(roots.len());
        if owner < roots.len() {
            owners.insert(process.pid, owner);
        }
        shares[owner].push(process);
    }
    shares.iter().map(|share| usage(share)).collect()
}

fn usage(processes: &[Process]) -> Usage {
    let sum = |value: fn(&Process) -> u64| processes.iter().map(value).sum::<u64>();
    let unit = |name, usual| sysconf(name).ok().flatten().and_then(|unit| u32::try_from(unit).ok()).unwrap_or(usual);
    #[allow(clippy::cast_precision_loss, reason = "a float tells ticks apart for a million years")]
    let ticks = sum(|process| process.ticks) as f64;
    Usage {
        processes: processes.len(),
        resident: sum(|process| process.pages) * u64::from(unit(SysconfVar::PAGE_SIZE, 4096)),
        cpu: ticks / f64::from(unit(SysconfVar::CLK_TCK, 100)),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "there is no reaper here")]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn usage_includes_descendants_of_service() {
        let mut shell = Command::new("sh");
        // The child prints a line when it has started.
        shell.args(["-c", "sleep 1000 & echo there; read -r _; kill $!"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().expect("sh starts");
        let mut there = [0; 5];
        std::io::Read::read_exact(shell.stdout.as_mut().expect("piped"), &mut there).expect("it says so");
        let root = Pid::from_raw(shell.id().cast_signed());
        let used = per_root(&[root]);
        let [one, _] = used.as_slice() else { panic!("{used:?}") };
        assert!(one.processes == 2 && one.resident > 0 && one.cpu < 60.0, "{used:?}");
        let walked = walk_descendants().map(|all| all.iter().filter(|process| process.parent == root).count());
        assert!(walked.is_ok_and(|count| count == 1));
        drop(shell.stdin.take());
        shell.wait().expect("it ends");
        assert!(current_process().is_some_and(|usage| usage.processes == 1 && usage.resident > 1_000_000));
    }
}
