//! FUSE file systems: the kernel does not see writes to the underlying directory, and the process controls the
//! responses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::needs::{Need, needs};
use crate::support::sandbox::wait_until;

/// A directory seen through a FUSE file system, which does not know of other writes to it.
pub struct Fuse {
    pub behind: PathBuf,
    pub mounted: PathBuf,
    process: Child,
}

/// Nothing is cached, so that other writes are visible at once.
pub const UNCACHED: &str = "attr_timeout=0,entry_timeout=0";

impl Fuse {
    pub fn mount(dir: &Path) -> Self {
        let mounted = dir.join("mounted");
        fs::create_dir(&mounted).expect("made");
        Self::over(&mounted, dir, UNCACHED)
    }

    /// Mounts a new directory below `dir` over a directory.
    pub fn over(mounted: &Path, dir: &Path, options: &str) -> Self {
        let behind = dir.join("behind");
        fs::create_dir(&behind).expect("made");
        let process = Self::start(&behind, mounted, options);
        Self { behind, mounted: mounted.to_owned(), process }
    }

    /// Mounts a directory like a file server that squashes root.
    pub fn root_squash(behind: &Path, mounted: &Path) -> Self {
        let mut server = Command::new("/usr/bin/python3");
        server.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/root_squash.py")).arg(behind).arg(mounted);
        Self { behind: behind.to_owned(), mounted: mounted.to_owned(), process: serve(&mut server, mounted) }
    }

    fn start(behind: &Path, mounted: &Path, options: &str) -> Child {
        needs(Need::Bindfs);
        serve(Command::new("bindfs").args(["-f", "-o", options]).arg(behind).arg(mounted), mounted)
    }

    pub fn write_from_elsewhere(&self, name: &str) {
        fs::write(self.behind.join(name), "content").expect("written");
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).expect("it is there");
    }

    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.process.wait().expect("it ends");
    }

    pub fn remount(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
        self.process = Self::start(&self.behind, &self.mounted, UNCACHED);
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts the process of a file system, which is mounted then.
fn serve(command: &mut Command, mounted: &Path) -> Child {
    let mut process = command.spawn().expect("it can be run");
    let is_mounted = || {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("readable");
        let ended = process.try_wait().expect("ours");
        assert!(ended.is_none(), "{command:?} ended: {ended:?}");
        mounts.contains(&format!(" {} fuse", mounted.display())).then_some(())
    };
    wait_until("it is mounted", is_mounted, String::new);
    process
}
