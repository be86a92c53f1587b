//! The resources of each service's processes, read for each scrape, and their CPU time as a total that never goes down.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nix::unistd::Pid;

use crate::health::state::ServiceHealth;
use crate::process::usage::{Usage, current_process, per_root};

/// The readings of one scrape.
#[derive(Debug)]
pub(super) struct UsageSample {
    /// Of each service that has processes.
    pub services: Vec<(&'static str, Usage)>,
    /// CPU time of bots-ctl itself.
    pub own: Option<Usage>,
}

/// The CPU time of each service so far.
#[derive(Debug, Default)]
pub(super) struct CpuTotals(Mutex<HashMap<&'static str, CpuTotal>>);

/// The CPU time of a process disappears with the process, unless its parent waits for it; time that was read before still
/// counts.
#[derive(Debug, Default, Clone, Copy)]
struct CpuTotal {
    pid: Option<i32>,
    last: f64,
    total: f64,
}

impl CpuTotals {
    /// Reads the usage of each service. The jobs of a job queue without a process are the rest.
    pub fn read(&self, services: &[ServiceHealth]) -> UsageSample {
        let with_process: Vec<&ServiceHealth> = services.iter().filter(|service| service.pid.is_some()).collect();
        let roots: Vec<Pid> = with_process.iter().filter_map(|service| service.pid).map(Pid::from_raw).collect();
        let mut used = per_root(&roots);
        let rest = used.pop().unwrap_or_default();
        let queue = services.iter().find(|service| service.pid.is_none() && service.jobs.is_some());
        let owners = with_process.into_iter().chain(queue);
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let services = owners.zip(used.into_iter().chain([rest])).map(|(service, usage)| {
            let cpu = totals.entry(service.name).or_default().read(service.pid, usage.cpu);
            (service.name, Usage { cpu, ..usage })
        });
        UsageSample { services: services.collect(), own: current_process() }
    }
}

impl CpuTotal {
    fn read(&mut self, pid: Option<i32>, cpu: f64) -> f64 {
        let before = if pid == self.pid { self.last } else { 0.0 };
        *self = Self { pid, last: cpu, total: self.total + (cpu - before).max(0.0) };
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_total_never_decreases() {
        let mut total = CpuTotal::default();
        let table =
            [(Some(1), 2.0, 2.0), (Some(1), 1.5, 2.0), (Some(1), 3.0, 3.5), (Some(2), 0.5, 4.0), (Some(2), 1.0, 4.5)];
        for (pid, cpu, expected) in table {
            assert_eq!(total.read(pid, cpu), expected);
        }
        let mut jobs = CpuTotal::default();
        assert_eq!([4.0, 5.0, 1.0, 2.0, 0.0].map(|cpu| jobs.read(None, cpu)), [4.0, 5.0, 5.0, 6.0, 6.0]);
    }
}
