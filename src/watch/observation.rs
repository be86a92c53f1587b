//! One observation of a file: its attributes, whether a process has it open, and how long it has not changed.
//!
//! Attributes that `stat(2)` gives may come from a cache, which NFS, SMB and FUSE keep for seconds. So a file that is judged is
//! opened, and the kernel is asked for attributes that are not from there.

use std::cell::OnceCell;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::libc;

use super::backend::{Stamps, WatchBackend, Writers, is_gone};
use super::stability::{Observation, StampClock, unchanged_for};
use crate::fs::open_file::{attributes, has_writer};

/// Granularity of servers' file times.
const MAX_SERVER_CLOCK_STEP: Duration = Duration::from_secs(2);

/// Clocks of machines that may stamp a file differ by no more than this: the widest time zones are 26 hours apart.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(2 * 24 * 3600);

/// By which clock stamps are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSource {
    /// The clock of this machine, only if it sets the file times. All other files have to be observed.
    Local,
    /// Also the clock of the file system, read from a temporary file. For an observer that scans once.
    Probed,
}

/// The clock of one directory. A file is created only when it is needed.
pub struct DirectoryClock<'a> {
    clock: ClockSource,
    directory: &'a Path,
    stamps: Stamps,
    /// Read at most once; `None` inside if the clock is unknown.
    known: OnceCell<Option<StampClock>>,
}

impl ClockSource {
    /// For files of a directory.
    #[must_use]
    pub fn begin<'a>(self, directory: &'a Path, backend: &WatchBackend) -> DirectoryClock<'a> {
        DirectoryClock { clock: self, directory, stamps: backend.stamps, known: OnceCell::new() }
    }
}

impl DirectoryClock<'_> {
    fn now(&self) -> Option<StampClock> {
        *self.known.get_or_init(|| match (self.stamps, self.clock) {
            (Stamps::Ours, _) => Some(StampClock { now: our_time(), error: Duration::ZERO }),
            (_, ClockSource::Local) => None,
            (stamps, ClockSource::Probed) => Some(match (probe(self.directory), stamps) {
                (Ok(now), Stamps::Server) => StampClock { now, error: MAX_SERVER_CLOCK_STEP },
                (Ok(now), _) => StampClock { now, error: MAX_CLOCK_SKEW },
                (Err(_), _) => StampClock { now: our_time(), error: MAX_CLOCK_SKEW },
            }),
        })
    }
}

/// Observes a file, whose `meta` was just read. A file that cannot be opened is judged only by its metadata.
pub fn observe(
    path: &Path,
    meta: &Metadata,
    backend: &WatchBackend,
    clock: &DirectoryClock<'_>,
    is_named_unfinished: bool,
) -> Observation {
    // Without the flag, a pipe that has taken the name of the file would be waited for.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok();
    let attributes = file.as_ref().and_then(|file| attributes(file).ok());
    let stamp = attributes.unwrap_or_else(|| meta.into());
    let has_writer = file.as_ref().and_then(|file| writer(file, backend.writers));
    Observation { stamp, quiet: unchanged_for(&stamp, clock.now()), has_writer, is_named_unfinished }
}

fn writer(file: &File, writers: Writers) -> Option<bool> {
    match writers {
        Writers::All => has_writer(file),
        Writers::Some => has_writer(file).filter(|has_writer| *has_writer),
        Writers::None => None,
    }
}

/// The attributes of a file, or of one behind a link; `None` if there is none, and for a directory and the like.
///
/// # Errors
/// If it may be there.
pub fn file(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta).filter(Metadata::is_file)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn our_time() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The time at which the file system stamps a new file. Neither channels nor monitors match the name of that file.
fn probe(directory: &Path) -> io::Result<i64> {
    let path = directory.join(format!(".bots-ctl-clock-{:016x}.tmp", getrandom::u64().map_err(io::Error::other)?));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let found = attributes(&file);
    fs::remove_file(&path)?;
    found.map(|found| found.changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_returns_clock_and_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (before, told, after) = (our_time(), probe(dir.path()).expect("it can be made"), our_time());
        // The kernel stamps by a clock that goes in steps of some milliseconds.
        assert!(told > before - 1_000_000_000 && told <= after, "{before} {told} {after}");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
        assert!(probe(&dir.path().join("nowhere")).is_err());
    }

    #[test]
    fn remote_clock_is_known_only_by_probe() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let backend =
            |stamps| WatchBackend { events: false, polls: true, stamps, writers: Writers::None, reason: String::new() };
        let known =
            |clock: ClockSource, stamps| clock.begin(dir.path(), &backend(stamps)).now().map(|clock| clock.error);
        assert_eq!(known(ClockSource::Local, Stamps::Ours), Some(Duration::ZERO));
        for stamps in [Stamps::Server, Stamps::Any] {
            assert_eq!(known(ClockSource::Local, stamps), None);
        }
        assert_eq!(known(ClockSource::Probed, Stamps::Server), Some(MAX_SERVER_CLOCK_STEP));
        assert_eq!(known(ClockSource::Probed, Stamps::Any), Some(MAX_CLOCK_SKEW));
        let gone = dir.path().join("nowhere");
        let clock = ClockSource::Probed.begin(&gone, &backend(Stamps::Server)).now();
        assert_eq!(clock.map(|clock| clock.error), Some(MAX_CLOCK_SKEW), "no file can be made there");
    }
}
