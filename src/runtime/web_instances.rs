//! Web UIs of one environment: one per machine, any number per volume.
//!
//! On this machine an abstract socket enforces this. Its name belongs to the network namespace, so pods that share a
//! volume count as several machines. On the volume each web UI holds a shared lock, which shows whether there are
//! others.

use std::fs::File;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use tokio::net::UnixListener;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::debug;

use crate::exit::{Error, Kind};
use crate::fs::{atomic, lock};

/// Pause after an error of a connection, for example when all file descriptors are in use.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// The web UI of this machine, until it is dropped.
pub(crate) struct WebInstance {
    accepting: AbortHandle,
    /// A shared lock on the volume; `None` if it does not support locks.
    shared: Option<File>,
}

impl WebInstance {
    /// Claims the role of the only web UI of this environment on this machine. `None` if the environment does not exist
    /// yet.
    ///
    /// # Errors
    /// The process that already has it.
    pub fn take(environment_root: &Path) -> Result<Option<Self>, Error> {
        let Ok(root) = std::fs::metadata(environment_root) else { return Ok(None) };
        let name = format!("bots-ctl/webserver/{}/{}", root.dev(), root.ino());
        let address = SocketAddr::from_abstract_name(name).map_err(unexpected)?;
        let listener = StdListener::bind_addr(&address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => occupied(environment_root, &address),
            _ => unexpected(error),
        })?;
        listener.set_nonblocking(true).map_err(unexpected)?;
        let listener = UnixListener::from_std(listener).map_err(unexpected)?;
        // A connection only asks for our PID, which the kernel gives. The socket must stay open whatever happens.
        let accept = async move {
            loop {
                if listener.accept().await.is_err() {
                    sleep(ACCEPT_RETRY).await;
                }
            }
        };
        let accepting = tokio::spawn(accept).abort_handle();
        Ok(Some(Self { accepting, shared: None }))
    }

    /// Announces this web UI to those that share the volume.
    pub fn announce(&mut self, environment_root: &Path) {
        let shared = atomic::open_lock(&environment_root.join(".bots-ctl-web.lock")).and_then(|file| {
            lock::try_lock_shared(&file)?;
            Ok(file)
        });
        self.shared = shared.map_err(|error| debug!("cannot detect other web UIs on this volume: {error}")).ok();
    }

    /// Whether no other web UI shares the volume.
    pub fn is_alone(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| {
            let is_alone = lock::try_lock(shared).unwrap_or(false);
            // A failed upgrade to an exclusive lock releases the shared one.
            let _ = lock::try_lock_shared(shared);
            is_alone
        })
    }
}

impl Drop for WebInstance {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn unexpected(error: io::Error) -> Error {
    Error::new(Kind::Internal, format!("cannot detect whether a web UI is already running: {error}"))
}

fn occupied(environment_root: &Path, address: &SocketAddr) -> Error {
    let peer = UnixStream::connect_addr(address).ok().and_then(|stream| getsockopt(&stream, PeerCredentials).ok());
    // For a process in another PID namespace the kernel returns 0.
    let who = peer.map(|peer| peer.pid()).filter(|pid| *pid > 0).map_or_else(String::new, |pid| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        format!(": process {pid} ({})", words.join(" ").trim())
    });
    let root = environment_root.display();
    let text = format!(
        "a web UI of {root} is already running on this machine{who}; stop it, or set BOTSENV for \
         another environment; `bots-ctl status` shows it"
    );
    Error::new(Kind::Unavailable, text)
}
