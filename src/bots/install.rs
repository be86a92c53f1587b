//! The private virtual environment with a pinned Bots, for machines without Bots.
//!
//! The package list, with versions and hashes, is embedded in the binary. A stamp is written last, so that an
//! interrupted installation is detected: the next attempt starts over, with the same version and drivers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::{info, warn};
use walkdir::WalkDir;

use super::install_record::{BUILD, Recorded, Requirements, STAMP, UNFINISHED, requirement_files, stamp, version};
use super::{Error, find_package_in_venv};
use crate::fs::atomic::{describe_io_error, lock, make_dir, write_atomically};
use crate::fs::open_file::FileStamp;
use crate::model::{BotsVersion, Driver};
use crate::process::Exit;
use crate::process::blocking;
use crate::process::capture::{CapturedOutput, capture};
use crate::process::child::ProcessSpec;
use crate::process::reaper::Reaper;

/// Python versions (3.x) that run each version of Bots, and the last with everything that 3.3.1 uses.
const PYTHON_RANGE: RangeInclusive<u32> = 10..=13;
const PYTHON_RANGE_4: RangeInclusive<u32> = 11..=13;
const PYTHON_WITH_OLD_TLS: u32 = 11;

/// The reason to upgrade from Bots 3.3.1.
pub const DJANGO_2_WARNING: &str = "Bots 3.3.1 runs on Django 2.2, which has had no security fixes since April 2022; bots-ctl \
                                    install --from DIR|WHEEL installs Bots 4.x, which runs on a maintained one";

/// Variables of pip that are needed to reach an index. All others could redirect the installation; files such as pip.conf
/// apply, since the user has written them for this machine.
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
    let current = Recorded::read(dir);
    let version = version(from.is_some(), &current, dir)?;
    let files = requirement_files(drivers, &current.stamp, version);
    let stamp = stamp(&files);
    if version == BotsVersion::V3 {
        warn!("{DJANGO_2_WARNING}");
    }
    if current.is_complete && current.stamp == stamp && from.is_none() {
        info!("Bots is installed in {}", dir.display());
        return Ok(());
    }
    let started = Instant::now();
    let installer = Installer { dir, version, reaper };
    installer.check_python(python).await?;
    match current.is_complete {
        true => installer.change(&current.stamp, &files, from.as_deref()).await?,
        false => installer.create(python, &current.stamp, &files, from.as_deref()).await?,
    }
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

struct Installer<'a> {
    dir: &'a Path,
    version: BotsVersion,
    reaper: &'a Reaper,
}

impl Installer<'_> {
    async fn check_python(&self, python: &Path) -> Result<(), Error> {
        const QUESTION: &str = "import sys; print(sys.version_info[0] * 1000 + sys.version_info[1])";
        let spec = python_spec(python).arg("-I").arg("-c").arg(QUESTION);
        let unusable = |text: String| format!("{text}; install Python 3.11, or set BOTS_CTL_PYTHON to one");
        let reply = capture(self.reaper, &spec).await.map_err(|error| match Error::from(error) {
            Error::Faults(faults) => Error::fault(unusable(faults.join("; "))),
            other => other,
        })?;
        let version: Option<u32> = String::from_utf8_lossy(&reply.stdout).trim().parse().ok();
        let Some(version) = version.filter(|_| reply.exit == Exit::Code(0)) else {
            let reason = format!("it ended with {}: {}", reply.exit, last_line(&reply.stderr));
            return Err(Error::fault(unusable(format!("{} is not a usable Python: {reason}", python.display()))));
        };
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

    /// Creates the virtual environment and installs Bots in it. The files of an unfinished installation are deleted; a directory without a mark of
    /// bots-ctl is never changed.
    async fn create(
        &self,
        python: &Path,
        stamp: &str,
        files: &[Requirements],
        from: Option<&Path>,
    ) -> Result<(), Error> {
        if self.dir.join(UNFINISHED).exists() {
            self.remove_unfinished()
                .map_err(|error| describe_io_error("remove the unfinished installation", self.dir, &error))?;
        } else if fs::read_dir(self.dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::fault(format!(
                "{} is not an installation of bots-ctl; set BOTS_CTL_INSTALL_DIR to a directory that does not exist yet",
                self.dir.display()
            )));
        }
        make_dir(self.dir)?;
        // The drivers of an earlier one, and the version of this one.
        self.mark_incomplete(&self::stamp(&requirement_files(&[], stamp, self.version)))?;
        self.make_environment(python).await?;
        self.install_packages(files, from).await
    }

    /// Changes a complete installation, which stays complete if pip fails before it has changed a file: without a
    /// network, for example.
    async fn change(&self, stamp: &str, files: &[Requirements], from: Option<&Path>) -> Result<(), Error> {
        let before = self.installed_files();
        self.mark_incomplete(stamp)?;
        remove(&self.dir.join(STAMP))?;
        let changed = self.install_packages(files, from).await;
        if changed.is_err() && before.is_some() && self.installed_files() == before {
            self.mark_complete(stamp)?;
            warn!("the installation in {} is as it was before", self.dir.display());
        }
        changed
    }

    /// All files of the virtual environment, except compiled ones, which any start of Python may write. `None` if one
    /// cannot be read.
    fn installed_files(&self) -> Option<BTreeMap<PathBuf, FileStamp>> {
        let entries = WalkDir::new(self.dir).min_depth(2).into_iter();
        let files = entries.filter_entry(|entry| entry.file_name() != "__pycache__");
        let files = files.filter(|entry| entry.as_ref().map_or(true, |entry| !entry.file_type().is_dir()));
        let stamped = files.map(|entry| {
            let entry = entry.ok()?;
            let stamp = FileStamp::from(&entry.metadata().ok()?);
            Some((entry.into_path(), stamp))
        });
        stamped.collect()
    }

    fn mark_incomplete(&self, stamp: &str) -> Result<(), Error> {
        let text = format!("bots-ctl install was interrupted; run it again\n{stamp}");
        write_atomically(&self.dir.join(UNFINISHED), text.as_bytes(), 0o644)?;
        Ok(())
    }

    /// Deletes all but the mark, so that an interrupted deletion is repeated.
    fn remove_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false if entry.file_name() == UNFINISHED => {}
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
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

    async fn install_packages(&self, files: &[Requirements], from: Option<&Path>) -> Result<(), Error> {
        info!("installing build tools (2/3)");
        let build = if self.version == BotsVersion::V4 { &BUILD[..] } else { &BUILD[..1] };
        self.pip_install(build, &["--only-binary", ":all:"]).await?;
        let names: Vec<&str> = files.iter().map(|file| file.name.trim_end_matches(".txt")).collect();
        info!("installing {} (3/3)", names.join(", "));
        self.pip_install(files, &["--no-build-isolation", "--use-pep517", "--only-binary", "psycopg2-binary"]).await?;
        if let Some(from) = from {
            self.install_source(from).await?;
        }
        self.check_packages().await
    }

    /// Installs Bots 4.x itself, which is built with the pinned tools.
    async fn install_source(&self, from: &Path) -> Result<(), Error> {
        info!("installing Bots from {}", from.display());
        let spec = self.pip_install_spec().args(["--no-build-isolation", "--force-reinstall"]).arg(from);
        self.run_pip(&spec).await?;
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

    async fn pip_install(&self, files: &[Requirements], flags: &[&str]) -> Result<(), Error> {
        let mut spec = self.pip_install_spec().args(["--require-hashes", "--compile"]).args(flags.iter().copied());
        for file in files {
            let path = self.dir.join(file.name);
            write_atomically(&path, file.text.as_bytes(), 0o644)?;
            spec = spec.arg("-r").arg(path);
        }
        self.run_pip(&spec).await
    }

    fn pip_install_spec(&self) -> ProcessSpec {
        let flags = ["--no-input", "--no-user", "--progress-bar", "off", "--quiet", "--no-deps"];
        self.venv_python().args(["-m", "pip", "install"]).args(flags)
    }

    async fn run_pip(&self, spec: &ProcessSpec) -> Result<(), Error> {
        let installed = self.run(spec).await?;
        if installed.exit == Exit::Code(0) { Ok(()) } else { Err(pip_failure(&installed)) }
    }

    fn venv_python(&self) -> ProcessSpec {
        python_spec(&self.dir.join("bin/python")).arg("-I")
    }

    async fn run(&self, spec: &ProcessSpec) -> Result<CapturedOutput, Error> {
        Ok(capture(self.reaper, spec).await?)
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
