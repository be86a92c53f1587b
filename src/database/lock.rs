//! One initialiser at a time per database: a lock that dies with its holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::info;

use super::{Error, Settings};

/// How often to look whether the lock has become free. Locking itself has no way to be given up again.
const RETRY: Duration = Duration::from_millis(50);

/// Held until it is dropped, or its process dies.
#[derive(Debug)]
#[must_use]
pub struct InitLock(#[allow(dead_code, reason = "held for its drop")] File);

/// Waits for the initialisation lock of this database.
///
/// # Errors
/// When the lock file beside the database cannot be made.
pub async fn for_initialisation(settings: &Settings) -> Result<InitLock, Error> {
    let Settings::Sqlite(database) = settings;
    if let Some(missing) = database.parent().filter(|dir| !dir.is_dir()) {
        return Err(Error::Unavailable(format!(
            "cannot make the {}: the directory {} does not exist; make it, or change NAME in settings.py (DB_NAME)",
            settings.describe(),
            missing.display()
        )));
    }
    let path = beside(database);
    let failed = |error: std::io::Error| Error::Unavailable(format!("cannot lock {}: {error}", path.display()));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(InitLock(file)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    info!("another bots-ctl initialises {}: waiting for it", settings.describe());
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Not the database itself: SQLite has locks of its own on that.
fn beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".init-lock");
    PathBuf::from(name)
}
