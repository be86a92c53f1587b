//! The private virtual environment with a pinned Bots, for machines without Bots.
//!
//! The package list, with versions and hashes, is embedded in the binary. A stamp is written last, so that an
//! interrupted installation is detected: the next attempt starts over.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::{Error, find_package_in_venv};
use crate::fs::atomic::{describe_io_error, lock, make_dir, write_atomically};
use crate::fs::regular;
use crate::model::{BotsVersion, Driver};
use crate::process::Exit;
use crate::process::blocking;
use crate::process::capture::{CapturedOutput, capture};
use crate::process::child::ProcessSpec;
use crate::process::reaper::Reaper;

const BUILD: &str = include_str!("requirements/build.txt");
const BOTS: &str = include_str!("requirements/bots-3.3.1.txt");
const MYSQL: &str = include_str!("requirements/mysql.txt");
const POSTGRESQL: &str = include_str!("requirements/postgresql.txt");
const BUILD_4: &str = include_str!("requirements/build-4.txt");
const BOTS_4: &str = include_str!("requirements/bots-4.txt");
const POSTGRESQL_4: &str = include_str!("requirements/postgresql-4.txt");

/// Written after everything is installed.
const STAMP: &str = "bots-ctl-complete";

/// Written first: marks the directory as one that bots-ctl may delete.
const UNFINISHED: &str = "bots-ctl-unfinished";

/// The name of the packages of Bots 4.x, which is in the stamp of such an installation.
const BOTS_4_FILE: &str = "bots-4.txt";

/// Python versions (3.x) that run each version of Bots, and the last with everything that 3.3.1 uses.
const PYTHON_RANGE: RangeInclusive<u32> = 10..=13;
const PYTHON_RANGE_4: RangeInclusive<u32> = 11..=13;
const PYTHON_WITH_OLD_TLS: u32 = 11;

/// The reason to upgrade from Bots 3.3.1.
pub const DJANGO_2_WARNING: &str = "Bots 3.3.1 runs on Django 2.2, which has had no security fixes since April 2022; bots-ctl \
                                    install --from DIR|WHEEL installs Bots 4.x, which runs on a maintained one";

/// User settings of pip that are needed to reach an index. All others could redirect the installation.
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

/// Python variables that change the import path.
const PYTHON_REMOVED: [&str; 6] =
    ["PYTHONPATH", "PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONPYCACHEPREFIX", "PYTHONUSERBASE", "SETUPTOOLS_USE_DISTUTILS"];

impl Driver {
    fn requirements(self, version: BotsVersion) -> (&'static str, &'static str) {
        match (self, version) {
            (Self::Mysql, _) => ("mysql.txt", MYSQL),
            (Self::Postgresql, BotsVersion::V3) => ("postgresql.txt", POSTGRESQL),
            (Self::Postgresql, BotsVersion::V4) => ("postgresql-4.txt", POSTGRESQL_4),
        }
    }
}

/// Whether a finished installation is there, of whatever version.
pub fn is_complete(dir: &Path) -> bool {
    dir.join(STAMP).is_file()
}

/// Installs Bots into `dir`, with these drivers in addition to the installed ones. Does nothing if the installation is
/// complete. `from` is a source tree or a wheel of Bots 4.x, whose content may have changed since the last installation;
/// without it the installed version stays, and a new installation is Bots 3.3.1.
///
/// # Errors
/// The error of pip or Python, with a remedy.
pub async fn install(
    dir: &Path,
    python: &Path,
    drivers: &[Driver],
    from: Option<&Path>,
    reaper: &Reaper,
) -> Result<(), Error> {
    let from = from.map(check_source).transpose()?;
    let parent = dir.parent().unwrap_or(Path::new("/"));
    make_dir(parent)?;
    let lock_file = parent.join(format!(".{}.lock", dir.file_name().unwrap_or_default().display()));
    // The wait for another installation must not delay the handling of signals.
    let locked = blocking::run(move || lock(&lock_file)).await;
    let _lock = locked.map_err(|error| Error::Unavailable(error.to_string()))??;
    let current = regular::read_to_string(&dir.join(STAMP)).unwrap_or_default();
    let version = version(from.is_some(), &current, dir)?;
    let files = requirement_files(drivers, &current, version);
    let stamp = stamp(&files);
    if version == BotsVersion::V3 {
        warn!("{DJANGO_2_WARNING}");
    }
    if current == stamp && from.is_none() {
        info!("Bots is installed in {}", dir.display());
        return Ok(());
    }
    let started = Instant::now();
    let installer = Installer { dir, version, reaper };
    installer.check_python(python).await?;
    installer.mark_incomplete(&current)?;
    if current.is_empty() {
        installer.make_environment(python).await?;
    }
    installer.install_packages(&files).await?;
    if let Some(from) = &from {
        installer.install_source(from).await?;
    }
    installer.check_packages().await?;
    installer.mark_complete(&stamp)?;
    info!("installed Bots in {} after {:.0?}", dir.display(), started.elapsed());
    Ok(())
}

/// The source tree or wheel, with its whole path.
fn check_source(from: &Path) -> Result<PathBuf, Error> {
    let whole = from.canonicalize().map_err(|error| describe_io_error("find", from, &error))?;
    let is_wheel = whole.is_file() && whole.extension().is_some_and(|extension| extension == "whl");
    let is_tree = whole.join("pyproject.toml").is_file() && whole.join("bots/migrations").is_dir();
    if is_wheel || is_tree {
        return Ok(whole);
    }
    let text = "no source tree of Bots 4.x, with pyproject.toml and bots/migrations in it, and no wheel of it";
    Err(Error::fault(format!("--from {}: it is {text}", from.display())))
}

/// The version of Bots to install, beside what the stamp of an earlier installation names.
fn version(has_source: bool, current: &str, dir: &Path) -> Result<BotsVersion, Error> {
    let was_4 = current.contains(BOTS_4_FILE);
    if has_source && !was_4 && !current.is_empty() {
        return Err(Error::fault(format!(
            "{} holds Bots 3.3.1: remove it, or set BOTS_CTL_INSTALL_DIR to a directory for Bots 4.x",
            dir.display()
        )));
    }
    Ok(if has_source || was_4 { BotsVersion::V4 } else { BotsVersion::V3 })
}

/// The requirement files for these drivers and for those of an earlier installation with this stamp.
fn requirement_files(drivers: &[Driver], current: &str, version: BotsVersion) -> Vec<(&'static str, &'static str)> {
    let wanted = |driver: &Driver| drivers.contains(driver) || current.contains(driver.requirements(version).0);
    let extra = [Driver::Mysql, Driver::Postgresql].into_iter().filter(wanted);
    let bots = match version {
        BotsVersion::V3 => ("bots-3.3.1.txt", BOTS),
        BotsVersion::V4 => (BOTS_4_FILE, BOTS_4),
    };
    std::iter::once(bots).chain(extra.map(|driver| driver.requirements(version))).collect()
}

/// The names of the installed packages, so that another binary, or another set of drivers, gets another stamp.
fn stamp(files: &[(&str, &str)]) -> String {
    let line = |(name, text): &(&str, &str)| {
        let hash = Sha256::digest(text.as_bytes());
        format!("{name} {:02x}{:02x}{:02x}{:02x}\n", hash[0], hash[1], hash[2], hash[3])
    };
    files.iter().map(line).collect()
}

struct Installer<'a> {
    dir: &'a Path,
    version: BotsVersion,
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
        let (name, range) = match self.version {
            BotsVersion::V3 => ("Bots 3.3.1", PYTHON_RANGE),
            BotsVersion::V4 => ("Bots 4.x", PYTHON_RANGE_4),
        };
        if !range.contains(&minor) {
            return Err(Error::fault(format!(
                "{} is Python {}.{}, but {name} needs 3.{} to 3.{}: set BOTS_CTL_PYTHON to a supported Python",
                python.display(),
                version / 1000,
                version % 1000,
                range.start(),
                range.end(),
            )));
        }
        if self.version == BotsVersion::V3 && minor > PYTHON_WITH_OLD_TLS {
            warn!(
                "on Python 3.{minor} the mail and FTP channels of Bots 3.3.1 that use TLS do not work; \
                 use 3.{PYTHON_WITH_OLD_TLS} (BOTS_CTL_PYTHON) if you need them"
            );
        }
        Ok(())
    }

    /// Marks the directory as unfinished, before it has other content, and deletes the old stamp. An interrupted
    /// installation is deleted; a directory without a mark of bots-ctl is never changed.
    fn mark_incomplete(&self, stamp: &str) -> Result<(), Error> {
        let marker = self.dir.join(UNFINISHED);
        if stamp.is_empty() && marker.exists() {
            fs::remove_dir_all(self.dir)
                .map_err(|error| describe_io_error("remove the unfinished installation", self.dir, &error))?;
        } else if stamp.is_empty() && fs::read_dir(self.dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::fault(format!(
                "{} is not an installation of bots-ctl; set BOTS_CTL_INSTALL_DIR to a directory that does not exist yet",
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
        info!("creating a virtual environment in {} (1/3)", self.dir.display());
        let spec = python_spec(python).arg("-I").arg("-m").arg("venv").arg(self.dir);
        let made = self.run(&spec).await?;
        if made.exit == Exit::Code(0) {
            return Ok(());
        }
        let said = output(&made);
        let reason = match said.contains("ensurepip") || said.contains("No module named venv") {
            true => {
                format!("{} cannot create virtual environments; run: apt-get install python3-venv", python.display())
            }
            false => last_line(&said),
        };
        Err(Error::fault(format!("cannot create a virtual environment in {}: {reason}", self.dir.display())))
    }

    async fn install_packages(&self, files: &[(&str, &str)]) -> Result<(), Error> {
        info!("installing build tools (2/3)");
        let build = [("build.txt", BUILD), ("build-4.txt", BUILD_4)];
        let build = if self.version == BotsVersion::V4 { &build[..] } else { &build[..1] };
        self.pip_install(build, &["--only-binary", ":all:"]).await?;
        let names: Vec<&str> = files.iter().map(|(name, _)| name.trim_end_matches(".txt")).collect();
        info!("installing {} (3/3)", names.join(", "));
        self.pip_install(files, &["--no-build-isolation", "--use-pep517", "--only-binary", "psycopg2-binary"]).await
    }

    /// Installs Bots 4.x itself, which is built with the pinned tools.
    async fn install_source(&self, from: &Path) -> Result<(), Error> {
        info!("installing Bots from {}", from.display());
        let flags = ["-m", "pip", "install", "--no-input", "--no-user", "--progress-bar", "off", "--quiet"];
        let spec = self.venv_python().args(flags).args(["--no-deps", "--no-build-isolation", "--force-reinstall"]);
        let installed = self.run(&spec.arg(from)).await?;
        if installed.exit != Exit::Code(0) {
            return Err(pip_failure(&installed));
        }
        let package = find_package_in_venv(&self.dir.join("bin"));
        match package.is_some_and(|package| package.join("migrations").is_dir()) {
            true => Ok(()),
            false => Err(Error::fault(format!("{} is not Bots 4.x: it has no bots/migrations", from.display()))),
        }
    }

    async fn check_packages(&self) -> Result<(), Error> {
        let check = self.run(&self.venv_python().args(["-m", "pip", "check"])).await?;
        if check.exit != Exit::Code(0) {
            return Err(Error::fault(format!("the installed packages conflict: {}", output(&check))));
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

/// A Python without PYTHON* variables, and without pip settings except those needed to reach an index.
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
        "a package differs from the one this version of bots-ctl was tested with; check PIP_INDEX_URL and PIP_FIND_LINKS"
    } else if said.contains("pkg-config") || said.contains("gcc") {
        "the MySQL driver has to be compiled; run: apt-get install gcc pkg-config libmariadb-dev python3-dev"
    } else if unreachable {
        "the package index is unreachable; set PIP_INDEX_URL, PIP_PROXY or PIP_CERT for another index, a proxy or a private CA"
    } else {
        "reported by pip"
    };
    let text = format!("cannot install Bots: {}: {hint}", first_error(&said));
    if unreachable { Error::Unavailable(text) } else { Error::Failed(text) }
}

fn first_error(said: &str) -> String {
    let error = said.lines().find_map(|line| line.trim().strip_prefix("ERROR: "));
    error.map_or_else(|| last_line(said), str::to_owned)
}

fn last_line(said: &str) -> String {
    said.trim().lines().last().unwrap_or("no output").trim().to_owned()
}

fn output(captured: &CapturedOutput) -> String {
    format!("{}{}", String::from_utf8_lossy(&captured.stdout), captured.stderr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_is_pinned_and_hashed() {
        for text in [BUILD, BOTS, MYSQL, POSTGRESQL, BUILD_4, BOTS_4, POSTGRESQL_4] {
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
    fn reinstall_keeps_drivers_and_version() {
        let dir = Path::new("/venv");
        for (has_source, version_before, count) in [(false, BotsVersion::V3, 3), (true, BotsVersion::V4, 3)] {
            assert_eq!(version(has_source, "", dir).expect("nothing is there"), version_before);
            let before = stamp(&requirement_files(&[Driver::Mysql], "", version_before));
            assert_eq!(version(false, &before, dir).expect("it stays"), version_before);
            let files = requirement_files(&[Driver::Postgresql], &before, version_before);
            assert_eq!(files.len(), count);
            assert_ne!(stamp(&files), before);
        }
        let bots_3 = stamp(&requirement_files(&[], "", BotsVersion::V3));
        assert!(version(true, &bots_3, dir).expect_err("refused").to_string().contains("holds Bots 3.3.1"));
    }
}
