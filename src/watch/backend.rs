//! Where events of the kernel tell everything: on file systems that only this machine writes to.

use std::path::Path;

use nix::sys::statfs::statfs;

use crate::config::WatchMethod;
use crate::model::FileId;

/// File systems of this machine alone, by the magic numbers of `statfs(2)`. All others may be written to by another
/// machine, which gives no event here; what is not in this list is looked at again and again.
const LOCAL: [(i64, &str); 12] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0x3153_464a, "jfs"),
    (0x5265_4973, "reiserfs"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0xca45_1a4e, "bcachefs"),
];

/// Names for those that are met most often.
const REMOTE: [(i64, &str); 10] = [
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (FUSE, "fuse"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x5346_414f, "afs"),
];

/// File systems whose server stamps the files, by its own clock. Clients of the others may do that, each by its own.
const STAMPED_BY_SERVER: [i64; 3] = [0x6969, 0xff53_4d42, 0xfe53_4d42];

/// Layers over directories that may be written to directly, without an event here.
const OVERLAY: i64 = 0x794c_7630;

/// File systems of processes.
const FUSE: i64 = 0x6573_5546;

/// How news in a directory are found, and why in this way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBackend {
    /// Whether events are asked for.
    pub events: bool,
    /// Whether it is looked at in short intervals.
    pub polls: bool,
    /// Whose clock the stamps of its files are from.
    pub stamps: Stamps,
    /// Which processes that write a file the kernel tells of.
    pub writers: Writers,
    /// The kind of file system, or what was configured.
    pub reason: String,
}

/// Whose clock stamps the files of a file system.
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
    /// None: NFS and SMB answer for their server, which need not tell.
    None,
}

impl WatchBackend {
    /// Decides for a directory. May hang where the file system does.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn of(directory: &Path, wanted: WatchMethod) -> nix::Result<Self> {
        // The type differs between machines, and so does the sign; the numbers have 32 bits.
        #[allow(clippy::unnecessary_cast, reason = "it is one elsewhere")]
        let magic = statfs(directory)?.filesystem_type().0 as i64 & 0xffff_ffff;
        Ok(Self::on(magic, wanted))
    }

    fn on(magic: i64, wanted: WatchMethod) -> Self {
        let named =
            |table: &[(i64, &'static str)]| table.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name);
        let is_overlay = magic == OVERLAY;
        let is_local = named(&LOCAL).is_some() || is_overlay;
        let writers = match magic {
            OVERLAY | FUSE => Writers::Some,
            _ if is_local => Writers::All,
            _ => Writers::None,
        };
        let stamps = match magic {
            _ if is_local => Stamps::Ours,
            _ if STAMPED_BY_SERVER.contains(&magic) => Stamps::Server,
            _ => Stamps::Any,
        };
        let name = named(&LOCAL).or(named(&REMOTE)).or(is_overlay.then_some("overlay"));
        let name = name.map_or_else(|| format!("file system 0x{magic:x}"), str::to_owned);
        let (events, polls, why) = match wanted {
            WatchMethod::Auto => (is_local, !is_local || is_overlay, name),
            WatchMethod::Inotify => (true, false, "watch = inotify".into()),
            WatchMethod::Poll => (false, true, "watch = poll".into()),
        };
        Self { events, polls, stamps, writers, reason: why }
    }

    /// The same without events, for a reason.
    #[must_use]
    pub fn without_events(self, why: &str) -> Self {
        Self { events: false, polls: true, reason: why.to_owned(), ..self }
    }

    /// In a word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match (self.events, self.polls) {
            (true, false) => "inotify",
            (true, true) => "inotify and poll",
            (false, _) => "poll",
        }
    }
}

/// Which directory a path leads to; none where it leads to no directory.
#[must_use]
pub fn dir_id(path: &Path) -> Option<FileId> {
    let meta = std::fs::metadata(path).ok()?;
    meta.is_dir().then(|| FileId::from(&meta))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_trusted_on_local_file_systems_alone() {
        let auto = |magic| {
            let backend = WatchBackend::on(magic, WatchMethod::Auto);
            (backend.name(), backend.reason)
        };
        assert_eq!(auto(0xef53), ("inotify", "ext4".into()));
        assert_eq!(auto(0x6969), ("poll", "nfs".into()));
        assert_eq!(auto(FUSE), ("poll", "fuse".into()));
        assert_eq!(auto(OVERLAY), ("inotify and poll", "overlay".into()));
        assert_eq!(auto(0x1234), ("poll", "file system 0x1234".into()));
    }

    #[test]
    fn writers_are_seen_where_no_other_machine_and_no_other_layer_is() {
        let known = |magic| {
            let backend = WatchBackend::on(magic, WatchMethod::Poll);
            (backend.writers, backend.stamps)
        };
        assert_eq!(known(0xef53), (Writers::All, Stamps::Ours));
        assert_eq!(known(OVERLAY), (Writers::Some, Stamps::Ours));
        assert_eq!(known(0x6969), (Writers::None, Stamps::Server));
        assert_eq!(known(0xfe53_4d42), (Writers::None, Stamps::Server));
        assert_eq!(known(FUSE), (Writers::Some, Stamps::Any));
    }

    #[test]
    fn what_is_configured_wins() {
        assert_eq!(WatchBackend::on(0x6969, WatchMethod::Inotify).name(), "inotify");
        assert_eq!(WatchBackend::on(0xef53, WatchMethod::Poll).name(), "poll");
        assert_eq!(WatchBackend::on(0xef53, WatchMethod::Auto).without_events("the limit").name(), "poll");
    }
}
