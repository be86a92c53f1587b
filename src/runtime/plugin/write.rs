//! Makes a change: its rows in one transaction, then its files, under the engine lease.

use std::path::Path;
use std::sync::Arc;

use tracing::debug;

use crate::config::Config;
use crate::database::applied_plugin;
use crate::database::lease::Lease;
use crate::exit::{Error, Kind};
use crate::plugin;
use crate::plugin::diff::{FileChange, Plan};
use crate::runtime::bots_environment::blocking;
use crate::runtime::engine::acquire::{self, RunAttempt};

use super::recover::{recover, settle_pending};
use super::target::Target;

/// The name of the lease holder, in addition to that of the machine.
const HOLDER: &str = "plugin";

/// Acquires the engine lease.
///
/// # Errors
/// When an engine runs longer than the configuration lets it be waited for.
pub(super) async fn lease(config: &Config, target: &Target) -> Result<Box<Lease>, Error> {
    let name =
        nix::unistd::gethostname().map_or_else(|_| HOLDER.to_owned(), |host| format!("{HOLDER} on {}", host.display()));
    match acquire::acquire(&target.database, config, &name).await? {
        RunAttempt::Acquired(acquired) => Ok(acquired.lease),
        RunAttempt::Busy(busy) => Err(Error::new(
            Kind::Unavailable,
            format!("nothing was changed: {busy}; try again, or set BOTS_CTL_LEASE_WAIT"),
        )),
    }
}

/// Completes or takes back a change that was cut off.
///
/// # Errors
/// Those of the lease and of the change.
pub(super) async fn settle_earlier(config: &Config, target: &Target) -> Result<(), Error> {
    let journal = target.journal.clone();
    if blocking(move || journal.pending()).await??.is_none() {
        return Ok(());
    }
    let mut lease = lease(config, target).await?;
    let recovered = recover(&mut lease, &target.journal).await;
    lease.release().await;
    recovered
}

/// Makes a change, whole or not at all. `undoes` names the backup that it undoes.
///
/// # Errors
/// When nothing was changed: why. When its files could not be written: it is completed by the next change, and before the next run.
pub(super) async fn write(
    config: &Config,
    target: &mut Target,
    plan: &Arc<Plan>,
    undoes: Option<String>,
) -> Result<(), Error> {
    let mut lease = lease(config, target).await?;
    let written = write_under(&mut lease, target, plan, undoes).await;
    lease.release().await;
    written
}

async fn write_under(
    lease: &mut Lease,
    target: &mut Target,
    plan: &Arc<Plan>,
    undoes: Option<String>,
) -> Result<(), Error> {
    recover(lease, &target.journal).await?;
    let base = lease.query_with_retry(applied_plugin::last_change).await?;
    let id = applied_plugin::new_change_id();
    let (journal, usersys) = (target.journal.clone(), target.django.directories.usersys.clone());
    let (recorded, name) = (Arc::clone(plan), id.clone());
    let record = move || {
        check_files(&usersys, &recorded)?;
        journal.check_writable(&recorded)?;
        journal.begin(&name, &recorded, undoes)
    };
    blocking(record).await??;
    let result = target.python.write_configuration(&base, &id, &plan.writes()).await;
    if let Err(error) = &result {
        debug!("{error}");
    }
    // Only the database knows whether the transaction was committed when its connection was cut.
    match settle_pending(lease, &target.journal).await {
        Ok(Some(true)) => Ok(()),
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

/// The files may have changed while the scripts were checked.
fn check_files(usersys: &Path, plan: &Plan) -> Result<(), plugin::Error> {
    let is_same = |change: &&FileChange| {
        let path = usersys.join(&change.path);
        match &change.before {
            None => !path.exists(),
            Some(before) => crate::fs::regular::read(&path).is_ok_and(|content| content == *before),
        }
    };
    let changed = plan.files.iter().filter(|change| !is_same(change));
    let changed: Vec<String> = changed
        .map(|change| format!("usersys/{} has changed in the meantime: run the command again", change.path))
        .collect();
    plugin::Error::from_faults(changed)
}
