//! The section `[jobqueue]` of bots.ini.

use std::path::PathBuf;
use std::time::Duration;

use super::Error;
use super::environment::Environment;
use super::ini_check;
use crate::config::Config;
use crate::model::ServiceName;
use crate::pycompat::configparser::{parse_boolean, parse_integer};

/// The job queue settings of bots.ini.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BotsJobQueueIni {
    /// Whether the job queue is enabled.
    pub enabled: bool,
    /// Its port on loopback.
    pub port: u16,
    /// The number of jobs that run in parallel.
    pub threads: usize,
    /// The time limit of a job.
    pub max_runtime: Duration,
    /// The port on loopback that engines of Bots use as a lock.
    pub engine_port: u16,
    /// Whether a job is stopped at its time limit.
    pub has_kill_on_timeout: bool,
    /// First words of allowed tasks, besides the engine.
    pub authorised: Vec<String>,
    /// The bots.ini with these settings.
    pub file: PathBuf,
}

impl BotsJobQueueIni {
    /// The default port.
    pub const PORT: u16 = ini_check::QUEUE_PORT;

    /// Reads the effective bots.ini. A job queue in another container counts as enabled.
    ///
    /// # Errors
    /// If it cannot be read; each error with file and line.
    pub fn read(config: &Config, environment: &Environment) -> Result<Self, Error> {
        let ini = environment.read_ini()?;
        let value = |section, key| ini.get(section, key).map(|entry| entry.value);
        let is_true = |key| value("jobqueue", key).and_then(parse_boolean).unwrap_or(false);
        let number = |section, key| value(section, key).and_then(parse_integer);
        let words = value("jobqueue", "authorized_tasks").unwrap_or_default().split([' ', ',', ';', '\t', '\n']);
        let minutes: u64 = number("settings", "maxruntime").map_or(60, |minutes| minutes.try_into().unwrap_or(0));
        Ok(Self {
            enabled: is_true("enabled") || config.jobqueue.url.is_some(),
            port: number("jobqueue", "port").and_then(|port| port.try_into().ok()).unwrap_or(Self::PORT),
            threads: number("jobqueue", "nr_threads").and_then(|count| count.try_into().ok()).unwrap_or(1).max(1),
            max_runtime: Duration::from_secs(minutes.saturating_mul(60)),
            engine_port: number("settings", "port")
                .and_then(|port| port.try_into().ok())
                .unwrap_or(ini_check::ENGINE_PORT),
            has_kill_on_timeout: is_true("killjobsintimeout"),
            authorised: words.filter(|word| !word.is_empty()).map(str::to_owned).collect(),
            file: environment.ini_file(),
        })
    }

    /// The error if a service needs the disabled job queue.
    pub fn disabled_error(&self, service: ServiceName) -> Error {
        let (file, name) = (self.file.display(), service.as_str());
        Error::fault(format!("{file}: [jobqueue] enabled is not True, so {name} would end at once: set enabled = True"))
    }
}
