//! The private virtual environment with a pinned Bots, for a machine that has none.
//!
//! The list of packages is embedded in the binary, version by version and hash by hash. A stamp is written last, so
//! an installation that was interrupted does not count: the next attempt starts over.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::Error;
use crate::fs::atomic::{describe_io_error, lock, make_dir, write_atomically};
use crate::fs::regular;
use crate::model::Driver;
use crate::process::Exit;
use crate::process::blocking;
use crate::process::capture::{CapturedOutput, capture};
use crate::process::child::ProcessSpec;
use crate::process::reaper::Reaper;

const BUILD: &str = include_str!("requirements/build.txt");
const BOTS: &str = include_str!("requirements/bots-3.3.1.txt");
const MYSQL: &str = include_str!("requirements/mysql.txt");
const POSTGRESQL: &str = include_str!("requirements/postgresql.txt");

/// Written when everything is in place.
const STAMP: &str = "bots-ctl-complete";

/// Written before anything else: what is in the directory is ours to remove.
const UNFINISHED: &str = "bots-ctl-unfinished";

/// Python versions (3.x) that run Bots 3.3.1, and the last with everything it uses.
const PYTHON_RANGE: std::ops::RangeInclusive<u32> = 10..=13;
const PYTHON_WITH_OLD_TLS: u32 = 11;

/// Settings of the user's pip that say how to reach an index. All others could redirect the installation.
const PIP_KEPT: [&str; 13] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_NO_INDEX",
    "PIP_FIND_LINKS",
    "PIP_TRUSTED_HOST",
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_PROXY",
    "PIP_TIMEOUT",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_RETRIES",
    "PIP_CACHE_DIR",
    "PIP_CONFIG_FILE",
];

/// Python's own variables that would have it look elsewhere.
const PYTHON_REMOVED: [&str; 6] =
    ["PYTHONPATH", "PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONPYCACHEPREFIX", "PYTHONUSERBASE", "SETUPTOOLS_USE_DISTUTILS"];

impl Driver {
    fn requirements(self) -> (&'static str, &'static str) {
        match self {
            Self::Mysql => ("mysql.txt", MYSQL),
            Self::Postgresql => ("postgresql.txt", POSTGRESQL),
        }
    }
}

/// Whether a finished installation is there, of whatever version.
pub fn is_complete(dir: &Path) -> bool {
    dir.join(STAMP).is_file()
}

/// Installs Bots into `dir`, with these drivers beside those it already has. Does nothing when all is in place.
///
/// # Errors
/// What pip or Python said, with what helps.
pub async fn install(dir: &Path, python: &Path, drivers: &[Driver], reaper: &Reaper) -> Result<(), Error> {
    let parent = dir.parent().unwrap_or(Path::new("/"));
    make_dir(parent)?;
    let lock_file = parent.join(format!(".{}.lock", dir.file_name().unwrap_or_default().display()));
    // Waiting for another installation must not keep us from hearing a signal.
    let locked = blocking::run(move || lock(&lock_file)).await;
    let _lock = locked.map_err(|error| Error::Unavailable(error.to_string()))??;
    let files = requirement_files(drivers, dir);
    let stamp = stamp(&files);
    let current = regular::read_to_string(&dir.join(STAMP)).unwrap_or_default();
    if current == stamp {
        info!("Bots is installed in {}", dir.display());
        return Ok(());
    }
    let started = Instant::now();
    let installer = Installer { dir, reaper };
    installer.check_python(python).await?;
    installer.mark_incomplete(&current)?;
    if current.is_empty() {
        installer.make_environment(python).await?;
    }
    installer.install_packages(&files).await?;
    installer.mark_complete(&stamp)?;
    info!("installed Bots in {} after {:.0?}", dir.display(), started.elapsed());
    Ok(())
}

/// The requirement files for these drivers and those an earlier installation had.
fn requirement_files(drivers: &[Driver], dir: &Path) -> Vec<(&'static str, &'static str)> {
    let before = regular::read_to_string(&dir.join(STAMP)).unwrap_or_default();
    let wanted = |driver: &Driver| drivers.contains(driver) || before.contains(driver.requirements().0);
    let extra = [Driver::Mysql, Driver::Postgresql].into_iter().filter(wanted);
    std::iter::once(("bots-3.3.1.txt", BOTS)).chain(extra.map(Driver::requirements)).collect()
}

/// Names the installed packages, so that those of another binary, or another choice of drivers, differ.
fn stamp(files: &[(&str, &str)]) -> String {
    let line = |(name, text): &(&str, &str)| {
        let hash = Sha256::digest(text.as_bytes());
        format!("{name} {:02x}{:02x}{:02x}{:02x}\n", hash[0], hash[1], hash[2], hash[3])
    };
    files.iter().map(line).collect()
}

struct Installer<'a> {
    dir: &'a Path,
    reaper: &'a Reaper,
}

impl Installer<'_> {
    async fn check_python(&self, python: &Path) -> Result<(), Error> {
        const QUESTION: &str = "import sys; print(sys.version_info[0] * 1000 + sys.version_info[1])";
        let spec = python_spec(python).arg("-I").arg("-c").arg(QUESTION);
        let reply = capture(self.reaper, &spec)
            .await
            .map_err(|error| Error::fault(format!("{error}; install Python 3.11, or set BOTS_CTL_PYTHON to one")))?;
        let version: u32 = String::from_utf8_lossy(&reply.stdout).trim().parse().unwrap_or(0);
        let minor = version.wrapping_sub(3000);
        if !PYTHON_RANGE.contains(&minor) {
            return Err(Error::fault(format!(
                "{} is Python {}.{}, but Bots 3.3.1 runs on 3.{} to 3.{}: set BOTS_CTL_PYTHON to such a one",
                python.display(),
                version / 1000,
                version % 1000,
                PYTHON_RANGE.start(),
                PYTHON_RANGE.end(),
            )));
        }
        if minor > PYTHON_WITH_OLD_TLS {
            warn!(
                "on Python 3.{minor} the mail and FTP channels of Bots 3.3.1 that use TLS do not work; \
                 use 3.{PYTHON_WITH_OLD_TLS} (BOTS_CTL_PYTHON) if you need them"
            );
        }
        Ok(())
    }

    /// Makes the directory ours: marked as unfinished before anything else is in it, without the stamp of what was
    /// there. What an interrupted installation left is removed; what is not marked as ours is never touched.
    fn mark_incomplete(&self, stamp: &str) -> Result<(), Error> {
        let marker = self.dir.join(UNFINISHED);
        if stamp.is_empty() && marker.exists() {
            fs::remove_dir_all(self.dir)
                .map_err(|error| describe_io_error("remove the unfinished installation", self.dir, &error))?;
        } else if stamp.is_empty() && fs::read_dir(self.dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::fault(format!(
                "{} holds something else; set BOTS_CTL_INSTALL_DIR to a directory that does not exist yet",
                self.dir.display()
            )));
        }
        make_dir(self.dir)?;
        write_atomically(&marker, b"bots-ctl install was interrupted; run it again\n", 0o644)?;
        remove(&self.dir.join(STAMP))
    }

    fn mark_complete(&self, stamp: &str) -> Result<(), Error> {
        write_atomically(&self.dir.join(STAMP), stamp.as_bytes(), 0o644)?;
        remove(&self.dir.join(UNFINISHED))
    }

    async fn make_environment(&self, python: &Path) -> Result<(), Error> {
        info!("making a virtual environment in {} (1/3)", self.dir.display());
        let spec = python_spec(python).arg("-I").arg("-m").arg("venv").arg(self.dir);
        let made = self.run(&spec).await?;
        if made.exit == Exit::Code(0) {
            return Ok(());
        }
        let said = output(&made);
        let reason = match said.contains("ensurepip") || said.contains("No module named venv") {
            true => format!("{} cannot make virtual environments; run: apt-get install python3-venv", python.display()),
            false => last_line(&said),
        };
        Err(Error::fault(format!("cannot make a virtual environment in {}: {reason}", self.dir.display())))
    }

    async fn install_packages(&self, files: &[(&str, &str)]) -> Result<(), Error> {
        info!("installing build tools (2/3)");
        self.pip_install(&[("build.txt", BUILD)], &["--only-binary", ":all:"]).await?;
        let names: Vec<&str> = files.iter().map(|(name, _)| name.trim_end_matches(".txt")).collect();
        info!("installing {} (3/3)", names.join(", "));
        self.pip_install(files, &["--no-build-isolation", "--use-pep517", "--only-binary", "psycopg2-binary"]).await?;
        let check = self.run(&self.venv_python().args(["-m", "pip", "check"])).await?;
        if check.exit != Exit::Code(0) {
            return Err(Error::fault(format!("the installed packages do not fit together: {}", output(&check))));
        }
        Ok(())
    }

    async fn pip_install(&self, files: &[(&str, &str)], flags: &[&str]) -> Result<(), Error> {
        let common = ["-m", "pip", "install", "--no-input", "--no-user", "--progress-bar", "off", "--quiet"];
        let mut spec = self
            .venv_python()
            .args(common)
            .args(["--require-hashes", "--no-deps", "--compile"])
            .args(flags.iter().copied());
        for (name, text) in files {
            let path = self.dir.join(name);
            write_atomically(&path, text.as_bytes(), 0o644)?;
            spec = spec.arg("-r").arg(path);
        }
        let installed = self.run(&spec).await?;
        if installed.exit == Exit::Code(0) { Ok(()) } else { Err(pip_failure(&installed)) }
    }

    fn venv_python(&self) -> ProcessSpec {
        python_spec(&self.dir.join("bin/python")).arg("-I")
    }

    async fn run(&self, spec: &ProcessSpec) -> Result<CapturedOutput, Error> {
        capture(self.reaper, spec).await.map_err(|error| Error::fault(error.to_string()))
    }
}

/// A Python that listens neither to PYTHON* nor to settings of pip beyond those that say how to reach an index.
fn python_spec(python: &Path) -> ProcessSpec {
    let mut spec = ProcessSpec::new(python);
    let pip = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    spec.env_remove = pip.filter(|name| name.starts_with("PIP_") && !PIP_KEPT.contains(&name.as_str())).collect();
    spec.env_remove.extend(PYTHON_REMOVED.map(str::to_owned));
    spec.environment.push(("PIP_DISABLE_PIP_VERSION_CHECK".to_owned(), OsString::from("1")));
    spec
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(describe_io_error("remove", path, &error).into()),
        _ => Ok(()),
    }
}

fn pip_failure(failed: &CapturedOutput) -> Error {
    let said = output(failed);
    let unreachable = said.contains("from versions: none") || said.contains("Failed to establish a new connection");
    let hint = if said.contains("DO NOT MATCH THE HASHES") {
        "a package is not the one this version of bots-ctl was tested with; look at PIP_INDEX_URL and PIP_FIND_LINKS"
    } else if said.contains("pkg-config") || said.contains("gcc") {
        "the MySQL driver is compiled; run: apt-get install gcc pkg-config libmariadb-dev python3-dev"
    } else if unreachable {
        "the package index cannot be reached; pip's own settings (PIP_INDEX_URL, PIP_PROXY, PIP_CERT) are honoured"
    } else {
        "pip said so"
    };
    let text = format!("cannot install Bots: {}: {hint}", first_error(&said));
    if unreachable { Error::Unavailable(text) } else { Error::Failed(text) }
}

fn first_error(said: &str) -> String {
    let error = said.lines().find_map(|line| line.trim().strip_prefix("ERROR: "));
    error.map_or_else(|| last_line(said), str::to_owned)
}

fn last_line(said: &str) -> String {
    said.trim().lines().last().unwrap_or("it said nothing").trim().to_owned()
}

fn output(captured: &CapturedOutput) -> String {
    format!("{}{}", String::from_utf8_lossy(&captured.stdout), captured.stderr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_is_pinned_and_hashed() {
        for text in [BUILD, BOTS, MYSQL, POSTGRESQL] {
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
            let pins = lines.iter().filter(|line| line.contains("==") && !line.starts_with(' ')).count();
            assert!(pins > 0);
            for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.starts_with(' ') && !line.is_empty()) {
                assert!(line.contains("=="), "{line}");
                assert!(lines[at + 1].trim().starts_with("--hash=sha256:"), "{line}");
            }
        }
    }

    #[test]
    fn drivers_of_an_earlier_installation_stay() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let with_mysql = requirement_files(&[Driver::Mysql], dir.path());
        fs::write(dir.path().join(STAMP), stamp(&with_mysql)).expect("written");
        let files = requirement_files(&[Driver::Postgresql], dir.path());
        assert_eq!(files.len(), 3);
        assert_ne!(stamp(&files), stamp(&with_mysql));
    }
}
