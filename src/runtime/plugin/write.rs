//! Makes a change: its rows in one transaction, then its files, under the engine lease.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::bots;
use crate::config::Config;
use crate::database::applied_plugin;
use crate::database::connect::ConnectMode;
use crate::database::lease::Lease;
use crate::database::retry::{connect_with_retry, with_timeout};
use crate::exit::{Error, Kind};
use crate::plugin::diff::{FileChange, Plan};
use crate::runtime::bots_environment::blocking;
use crate::runtime::engine::acquire::{self, RunAttempt};
use crate::runtime::engine::run_metrics::holder_name;

use super::recover::{recover, settle_pending};
use super::target::{Target, warn_of_pending_change};

/// Acquires the engine lease.
///
/// # Errors
/// If another engine still runs after `engine.lease_wait`.
pub(super) async fn lease(config: &Config, target: &Target) -> Result<Box<Lease>, Error> {
    let name = format!("plugin on {}", holder_name());
    let mut held = None;
    let running = match acquire::acquire(&target.database, config, &name, &mut held).await? {
        RunAttempt::Busy(running) => running,
        RunAttempt::Acquired { .. } => String::new(),
    };
    held.ok_or_else(|| {
        let text = format!("nothing was changed: {running}; try again, or set BOTS_CTL_LEASE_WAIT");
        Error::new(Kind::Unavailable, text)
    })
}

/// Completes or reverts an interrupted change, and returns the ID of the last one, for [`write()`]: it is read before the
/// rows and files with which a plan is made. A mere check changes nothing, and needs no ID.
///
/// # Errors
/// Those of the lease and of the change.
pub(super) async fn begin(
    config: &Config,
    target: &Target,
    check: bool,
    critical: &TaskTracker,
) -> Result<Option<String>, Error> {
    let journal = target.journal.clone();
    let is_pending = blocking(move || journal.pending()).await??.is_some();
    if check {
        if is_pending {
            warn_of_pending_change();
        }
        return Ok(None);
    }
    if is_pending {
        let mut lease = lease(config, target).await?;
        let _uncancelled = critical.token();
        let recovered = recover(&mut lease, &target.journal).await;
        lease.release().await;
        recovered?;
    }
    let settings = &target.database;
    let mut connection = connect_with_retry(settings, ConnectMode::ReadWrite, config.database.retry_window()).await?;
    let base = with_timeout(settings, applied_plugin::last_change(&mut connection)).await?;
    connection.close().await;
    Ok(Some(base))
}

/// Makes a change, whole or not at all. `base` is the ID of the change that was the last one when the plan was made;
/// `undoes` names the backup that it undoes. A token of `critical` is held together with the lease.
///
/// # Errors
/// If nothing was changed, the reason. If its files could not be written, the next change or run completes it.
pub(super) async fn write(
    config: &Config,
    target: &mut Target,
    plan: &Arc<Plan>,
    base: &str,
    undoes: Option<String>,
    critical: &TaskTracker,
) -> Result<(), Error> {
    let mut lease = lease(config, target).await?;
    let _uncancelled = critical.token();
    let written = write_under(&mut lease, target, plan, base, undoes).await;
    lease.release().await;
    written
}

async fn write_under(
    lease: &mut Lease,
    target: &mut Target,
    plan: &Arc<Plan>,
    base: &str,
    undoes: Option<String>,
) -> Result<(), Error> {
    recover(lease, &target.journal).await?;
    if lease.query_with_retry(applied_plugin::last_change).await? != base {
        return Err(conflict("the configuration"));
    }
    let id = applied_plugin::new_change_id();
    let (journal, usersys) = (target.journal.clone(), target.django.directories.usersys.clone());
    let (recorded, name) = (Arc::clone(plan), id.clone());
    let record = move || {
        check_files(&usersys, &recorded)?;
        journal.check_writable(&recorded)?;
        Ok::<_, Error>(journal.begin(&name, &recorded, undoes)?)
    };
    blocking(record).await??;
    let result = write_rows(lease, target, plan, base, &id).await;
    if let Err(error) = &result {
        debug!("{error}");
    }
    // Only the database knows whether the transaction was committed when its connection was cut.
    match settle_pending(lease, &target.journal).await {
        Ok(Some(true)) => Ok(()),
        // A process that had acquired the expired lease has completed the change.
        Ok(None) if result.is_ok() => Ok(()),
        Ok(_) => {
            Err(result.err().map_or_else(|| Error::new(Kind::Internal, "the change was not recorded"), Error::from))
        }
        Err(error) => {
            let later = "the next change or engine run completes or reverts it";
            let faults = error.faults().iter().map(|fault| format!("{fault}; {later}"));
            Err(Error::all(error.kind(), faults.collect()))
        }
    }
}

/// Commits the rows, and renews the lease meanwhile. Without the lease the change goes on: until it is committed, the next
/// holder of the lease can revert it.
async fn write_rows(
    lease: &mut Lease,
    target: &mut Target,
    plan: &Plan,
    base: &str,
    id: &str,
) -> Result<(), bots::Error> {
    let (ended, rows) = (CancellationToken::new(), plan.writes());
    let writing = async {
        let written = target.python.write_configuration(base, id, &rows).await;
        ended.cancel();
        written
    };
    let (written, lost) = tokio::join!(writing, lease.keep_renewed(&ended));
    if let Some(reason) = lost {
        warn!("lost the engine lease while the configuration was written: {reason}");
    }
    written
}

/// The files may have changed while the scripts were checked.
fn check_files(usersys: &Path, plan: &Plan) -> Result<(), Error> {
    let is_same = |change: &&FileChange| {
        let path = usersys.join(&change.path);
        match &change.before {
            None => !path.exists(),
            Some(before) => crate::fs::regular::read(&path).is_ok_and(|content| content == *before),
        }
    };
    match plan.files.iter().find(|change| !is_same(change)) {
        None => Ok(()),
        Some(change) => Err(conflict(&format!("usersys/{}", change.path))),
    }
}

/// A change that another process has overtaken. Another try may succeed.
fn conflict(changed: &str) -> Error {
    let text = format!("nothing was changed: {changed} has changed in the meantime: run the command again");
    Error::new(Kind::Unavailable, text)
}
