//! inotify or polling: the events of the kernel are complete only on file systems to which this machine alone writes.

use std::io;
use std::path::Path;

use nix::sys::statfs::statfs;

use crate::config::WatchMethod;
use crate::model::FileId;

/// Other possible writers of a file system, of which this machine's kernel reports no events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Local,
    /// Layers over directories that may be written to directly.
    Overlay,
    /// A process of this machine, which may forward any other storage.
    Fuse,
    /// Other machines; the server stamps the files, by its own clock.
    Server,
    /// Other machines, each of which sets file times by its own clock.
    Shared,
}

/// File systems by the magic numbers of `statfs(2)`. All others count as shared.
const FILE_SYSTEMS: [(i64, &str, Kind); 23] = [
    (0xef53, "ext4", Kind::Local),
    (0x5846_5342, "xfs", Kind::Local),
    (0x9123_683e, "btrfs", Kind::Local),
    (0x0102_1994, "tmpfs", Kind::Local),
    (0x8584_58f6, "ramfs", Kind::Local),
    (0x2fc1_2fc1, "zfs", Kind::Local),
    (0xf2f5_2010, "f2fs", Kind::Local),
    (0x3153_464a, "jfs", Kind::Local),
    (0x5265_4973, "reiserfs", Kind::Local),
    (0x4d44, "vfat", Kind::Local),
    (0x2011_bab0, "exfat", Kind::Local),
    (0xca45_1a4e, "bcachefs", Kind::Local),
    (0x794c_7630, "overlay", Kind::Overlay),
    (0x6573_5546, "fuse", Kind::Fuse),
    (0x6969, "nfs", Kind::Server),
    (0xff53_4d42, "cifs", Kind::Server),
    (0xfe53_4d42, "smb2", Kind::Server),
    (0x0102_1997, "9p", Kind::Shared),
    (0x00c3_6400, "ceph", Kind::Shared),
    (0x0bd0_0bd0, "lustre", Kind::Shared),
    (0x0116_1970, "gfs2", Kind::Shared),
    (0x7461_636f, "ocfs2", Kind::Shared),
    (0x5346_414f, "afs", Kind::Shared),
];

/// How changes in a directory are detected, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBackend {
    /// Whether inotify is used.
    pub events: bool,
    /// Whether the directory is polled.
    pub polls: bool,
    /// The clock that stamps its files.
    pub stamps: Stamps,
    /// Which processes that write a file are known to the kernel.
    pub writers: Writers,
    /// The kind of the file system, or the configured method.
    pub reason: String,
}

/// The clock that stamps the files of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamps {
    /// That of this machine.
    Ours,
    /// That of its server.
    Server,
    /// That of its server, or of the client that writes.
    Any,
}

/// Which processes that have a file open for writing are known to the kernel of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// All there can be.
    All,
    /// Those of this machine that do not go past this file system.
    Some,
    /// `None`: NFS and SMB grant leases according to their server, independently of writers.
    None,
}

impl WatchBackend {
    /// Selects the backend for a directory. May hang with the file system.
    ///
    /// # Errors
    /// If the file system cannot be queried.
    pub fn of(directory: &Path, wanted: WatchMethod) -> nix::Result<Self> {
        Ok(Self::on(magic(directory)?, wanted))
    }

    fn on(magic: i64, wanted: WatchMethod) -> Self {
        let known = FILE_SYSTEMS.iter().find(|(number, ..)| *number == magic);
        let name = known.map_or_else(|| format!("file system 0x{magic:x}"), |(_, name, _)| (*name).to_owned());
        let kind = known.map_or(Kind::Shared, |(.., kind)| *kind);
        let (writers, stamps) = match kind {
            Kind::Local => (Writers::All, Stamps::Ours),
            Kind::Overlay => (Writers::Some, Stamps::Ours),
            Kind::Fuse => (Writers::Some, Stamps::Any),
            Kind::Server => (Writers::None, Stamps::Server),
            Kind::Shared => (Writers::None, Stamps::Any),
        };
        let (events, polls, reason) = match wanted {
            WatchMethod::Auto => (matches!(kind, Kind::Local | Kind::Overlay), kind != Kind::Local, name),
            WatchMethod::Inotify => (true, false, "watch = inotify".into()),
            WatchMethod::Poll => (false, true, "watch = poll".into()),
        };
        Self { events, polls, stamps, writers, reason }
    }

    /// The same without events, for a reason.
    #[must_use]
    pub fn without_events(self, why: &str) -> Self {
        Self { events: false, polls: true, reason: why.to_owned(), ..self }
    }

    /// The name in logs and in the status.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match (self.events, self.polls) {
            (true, false) => "inotify",
            (true, true) => "inotify and poll",
            (false, _) => "poll",
        }
    }
}

/// The kind of the file system of a directory, if it is one to which more than this machine's kernel may write.
#[must_use]
pub fn shared_file_system(directory: &Path) -> Option<&'static str> {
    let magic = magic(directory).ok()?;
    let (_, name, kind) = FILE_SYSTEMS.iter().find(|(number, ..)| *number == magic)?;
    matches!(kind, Kind::Fuse | Kind::Server | Kind::Shared).then_some(name)
}

fn magic(directory: &Path) -> nix::Result<i64> {
    // The type differs between machines, and so does the sign; the numbers have 32 bits.
    #[allow(clippy::unnecessary_cast, reason = "the cast is needed on other targets")]
    Ok(statfs(directory)?.filesystem_type().0 as i64 & 0xffff_ffff)
}

/// The directory that a path resolves to.
///
/// # Errors
/// If it cannot be read, or is not a directory.
pub fn dir_id(path: &Path) -> io::Result<FileId> {
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() { Ok(FileId::from(&meta)) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Whether an error means that the file or directory is not there. Any other error may pass, with everything as it was.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_uses_inotify_alone_only_on_local_file_systems() {
        let auto = |magic| {
            let backend = WatchBackend::on(magic, WatchMethod::Auto);
            (backend.name(), backend.reason)
        };
        assert_eq!(auto(0xef53), ("inotify", "ext4".into()));
        assert_eq!(auto(0x6969), ("poll", "nfs".into()));
        assert_eq!(auto(0x6573_5546), ("poll", "fuse".into()));
        assert_eq!(auto(0x794c_7630), ("inotify and poll", "overlay".into()));
        assert_eq!(auto(0x1234), ("poll", "file system 0x1234".into()));
    }

    #[test]
    fn writer_detection_depends_on_file_system() {
        let known = |magic| {
            let backend = WatchBackend::on(magic, WatchMethod::Poll);
            (backend.writers, backend.stamps)
        };
        assert_eq!(known(0xef53), (Writers::All, Stamps::Ours));
        assert_eq!(known(0x794c_7630), (Writers::Some, Stamps::Ours));
        assert_eq!(known(0x6969), (Writers::None, Stamps::Server));
        assert_eq!(known(0xfe53_4d42), (Writers::None, Stamps::Server));
        assert_eq!(known(0x6573_5546), (Writers::Some, Stamps::Any));
    }

    #[test]
    fn configured_watch_method_overrides_auto() {
        assert_eq!(WatchBackend::on(0x6969, WatchMethod::Inotify).name(), "inotify");
        assert_eq!(WatchBackend::on(0xef53, WatchMethod::Poll).name(), "poll");
        assert_eq!(WatchBackend::on(0xef53, WatchMethod::Auto).without_events("the limit").name(), "poll");
    }
}
