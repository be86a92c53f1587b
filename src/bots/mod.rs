//! Everything about Bots: its installation, files, programs and versions.

pub mod child_env;
pub mod config_source;
pub mod config_watcher;
pub mod context;
pub mod dirmonitor_config;
pub mod django_settings;
pub mod engine_args;
pub mod engine_command;
pub mod engine_shim;
pub mod environment;
mod ini_check;
pub mod install;
mod install_record;
pub mod job_policy;
pub mod jobqueue_config;
pub mod loaded_files;
pub mod log_format;
pub mod migrate;
pub mod plugin_session;
mod python_fault;
pub mod python_session;
pub mod replaced_files;
pub mod seed_usersys;
pub mod services;
pub mod settings_cache_key;
pub mod settings_py;
pub mod versions;
pub mod volume_names;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::model::BotsVersion;
use crate::process::capture::capture;
use crate::process::child::{ProcessSpec, SpawnError};
use crate::process::reaper::Reaper;
use crate::{config, fs};

/// The program that identifies an installation of Bots.
const MAIN_PROGRAM: &str = "bots-webserver";

/// An error of Bots or its files. Each text has the location and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bots is not installed.
    #[error("{0}")]
    NotInstalled(String),
    /// Errors of the configuration or of directories, all together.
    #[error("{}", .0.join("\n"))]
    Faults(Vec<String>),
    /// A program failed.
    #[error("{0}")]
    Failed(String),
    /// A server cannot be reached.
    #[error("{0}")]
    Unavailable(String),
}

impl From<SpawnError> for Error {
    fn from(error: SpawnError) -> Self {
        match error {
            SpawnError::NoResources(..) => Self::Unavailable(error.to_string()),
            SpawnError::NotFound(_) | SpawnError::NotExecutable(..) => Self::fault(error.to_string()),
        }
    }
}

impl From<fs::Error> for Error {
    fn from(error: fs::Error) -> Self {
        Self::fault(error.to_string())
    }
}

impl Error {
    /// Returns an error with all of these texts, if there are any.
    pub(crate) fn fail_if_any(faults: Vec<String>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self::Faults(faults)) }
    }

    /// One fault.
    pub fn fault(text: impl Into<String>) -> Self {
        Self::Faults(vec![text.into()])
    }
}

/// An installed Bots.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Directory of its programs.
    pub bin_dir: PathBuf,
    /// The Python that runs it.
    pub python: PathBuf,
    /// The installed package: `…/site-packages/bots`.
    pub package: PathBuf,
}

impl Installation {
    /// Searches `BOTS_BIN_DIR`, else PATH, else the installation of `install`.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] with the commands that help; an error if `BOTS_BIN_DIR` is set but contains no Bots.
    pub async fn find(config: &config::BotsConfig, path: Option<&OsStr>, reaper: &Reaper) -> Result<Self, Error> {
        let bin_dir = bin_dir(config, path)?;
        let python = find_python(&bin_dir)?;
        let package = match find_package_in_venv(&bin_dir) {
            Some(package) => package,
            None => query_package_dir(&python, &bin_dir, reaper).await?,
        };
        Ok(Self { bin_dir, python, package })
    }

    /// The version family. Version strings do not help: a 4.x built from source may have any.
    pub fn bots_version(&self) -> BotsVersion {
        if self.package.join("migrations").is_dir() { BotsVersion::V4 } else { BotsVersion::V3 }
    }

    /// A program of this Bots.
    pub fn program(&self, name: &str) -> OsString {
        self.bin_dir.join(name).into_os_string()
    }
}

/// The directory of Bots's programs.
///
/// # Errors
/// As [`Installation::find`].
pub fn bin_dir(config: &config::BotsConfig, path: Option<&OsStr>) -> Result<PathBuf, Error> {
    if let Some(dir) = &config.bin_dir {
        return match has_bots(dir) {
            true => Ok(dir.clone()),
            false => Err(Error::fault(format!("BOTS_BIN_DIR={}: there is no {MAIN_PROGRAM} in it", dir.display()))),
        };
    }
    let on_path = path.map(std::env::split_paths).into_iter().flatten().find(|dir| has_bots(dir));
    if let Some(dir) = on_path {
        return Ok(dir);
    }
    if install_record::is_complete(&config.install_dir) {
        return Ok(config.install_dir.join("bin"));
    }
    Err(Error::NotInstalled(format!(
        "cannot find Bots: there is no {MAIN_PROGRAM} on PATH, BOTS_BIN_DIR is not set, and {} holds no complete \
         installation; run `bots-ctl install`, or set BOTS_BIN_DIR to the directory of {MAIN_PROGRAM}",
        config.install_dir.display()
    )))
}

fn has_bots(dir: &Path) -> bool {
    dir.is_absolute() && dir.join(MAIN_PROGRAM).is_file()
}

/// The interpreter in the same directory, else the one named in the first line of the program.
fn find_python(bin_dir: &Path) -> Result<PathBuf, Error> {
    let beside = ["python3", "python"].map(|name| bin_dir.join(name));
    if let Some(python) = beside.into_iter().find(|python| python.is_file()) {
        return Ok(python);
    }
    let program = bin_dir.join(MAIN_PROGRAM);
    let text = crate::fs::regular::read(&program)
        .map_err(|error| Error::fault(format!("cannot read {}: {error}", program.display())))?;
    let first = String::from_utf8_lossy(text.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned();
    let interpreter = first.strip_prefix("#!").map(str::trim).filter(|line| line.contains("python"));
    let interpreter = interpreter.and_then(|line| line.split_whitespace().find(|word| word.contains("python")));
    interpreter.map(PathBuf::from).ok_or_else(|| {
        Error::fault(format!(
            "cannot determine the Python of {}: its first line names no interpreter",
            program.display()
        ))
    })
}

/// In a virtual environment the path of the package follows from that of the programs.
fn find_package_in_venv(bin_dir: &Path) -> Option<PathBuf> {
    let lib = bin_dir.parent()?.join("lib");
    let mut versions: Vec<PathBuf> = std::fs::read_dir(lib).ok()?.flatten().map(|entry| entry.path()).collect();
    versions.sort();
    versions.into_iter().map(|version| version.join("site-packages/bots")).find(|package| is_package(package))
}

fn is_package(dir: &Path) -> bool {
    dir.join("botsinit.py").is_file()
}

async fn query_package_dir(python: &Path, bin_dir: &Path, reaper: &Reaper) -> Result<PathBuf, Error> {
    const QUESTION: &str = "import bots, os; print(os.path.dirname(os.path.abspath(bots.__file__)))";
    let spec =
        ProcessSpec { directory: Some(bin_dir.to_path_buf()), ..ProcessSpec::new(python).arg("-c").arg(QUESTION) };
    let reply = capture(reaper, &spec).await?;
    let package = PathBuf::from(String::from_utf8_lossy(&reply.stdout).trim());
    if is_package(&package) {
        return Ok(package);
    }
    let reason = reply.stderr.lines().last().unwrap_or("the package is not Bots").to_owned();
    Err(Error::fault(format!("cannot import Bots with {}: {reason}", python.display())))
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::libc;

    use super::*;

    #[test]
    fn lack_of_processes_is_no_error_of_the_configuration() {
        let no_processes = SpawnError::NoResources("python".to_owned(), io::Error::from_raw_os_error(libc::EAGAIN));
        assert!(matches!(Error::from(no_processes), Error::Unavailable(text) if text.contains("cannot start python")));
        assert!(matches!(Error::from(SpawnError::NotFound("python".to_owned())), Error::Faults(_)));
    }
}
