//! The engine lease: which bots-ctl, of all pods, may run the engine.
//!
//! An advisory lock alone is released too early if its connection is lost while the engine still runs, and too late if a
//! node vanishes. So the lease also has a row with a heartbeat. Acquiring it requires both: the lock, and a row that is
//! released or expired, by the server's clock. With SQLite a file lock is sufficient: the kernel releases it exactly when
//! its holder ends. The row then only names the holder, so the run writes it in its own transaction.

pub(super) mod row;
pub(super) mod stale_session;

use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::database::advisory_lock::{LockName, LockSession, is_file_locked};
use crate::database::connect::ConnectMode;
use crate::database::own_schema::{self, OwnTables};
use crate::database::query::Connection;
use crate::database::retry::{QUERY_TIMEOUT, connect_with_retry, with_timeout};
use crate::database::{DatabaseConfig, Error};
use crate::random;

pub use row::LeaseHolder;
use row::{Claim, Claimable, LeaseKind};
use stale_session::StaleSession;

/// Time between two renewals.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// After this time without a renewal the holder gives up the lease, so that its engine has ended before the row expires.
const FENCING_DEADLINE: Duration = Duration::from_secs(45);

/// Time between two attempts to get the lease or a connection.
const RETRY: Duration = Duration::from_millis(250);

/// Held until it is released, or lost.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    settings: DatabaseConfig,
    owner: String,
    /// None while there is no connection.
    session: Option<LockSession>,
    /// The server's number of the session that holds the lock.
    locked_by: Option<String>,
    /// When the last successful renewal was begun.
    renewed: Duration,
    /// Whether the caller knows that it is lost.
    is_lost: bool,
}

/// The result of a request for the lease.
#[derive(Debug)]
#[must_use]
pub enum LeaseAttempt {
    Acquired(Box<Lease>),
    /// This process held it until the limit had passed.
    Held(LeaseHolder),
}

/// Acquires the lease, unless `limit` passes first. `name` is the holder's name in logs, `retry_window` the
/// limit of the wait for a server that cannot be reached.
///
/// # Errors
/// When the database is away, has no table for the lease, or cannot keep a lock.
pub async fn acquire(
    settings: &DatabaseConfig,
    name: &str,
    limit: Duration,
    retry_window: Duration,
) -> Result<LeaseAttempt, Error> {
    let owner = random::alphanumeric(32);
    let (begin, stale) = (Instant::now(), StaleSession::default());
    let mut request = LeaseRequest { owner, name, limit, begin, logged: false, stale };
    let (mut connect_window, mut is_checked) = (retry_window, false);
    loop {
        let connection = connect_with_retry(settings, ConnectMode::ReadWrite, connect_window).await?;
        let mut session = LockSession::new(connection, LockName::Engine)?;
        let acquired = async {
            if !is_checked {
                session.reject_transaction_pooler(retry_window).await?;
                is_checked = true;
            }
            request.wait(session).await
        };
        match acquired.await {
            // The server has no state of this request, so another connection serves as well as the one that was cut.
            Err(Error::Unavailable(text)) if request.begin.elapsed() < limit.max(QUERY_TIMEOUT) => {
                debug!("lost the connection while waiting for the engine lease: {text}; reconnecting");
                connect_window = connect_window.max(QUERY_TIMEOUT);
            }
            result => return result,
        }
    }
}

struct LeaseRequest<'a> {
    owner: String,
    name: &'a str,
    limit: Duration,
    begin: Instant,
    logged: bool,
    stale: StaleSession,
}

impl LeaseRequest<'_> {
    /// Waits over one connection.
    async fn wait(&mut self, mut session: LockSession) -> Result<LeaseAttempt, Error> {
        let settings = session.connection.settings.clone();
        with_timeout(&settings, own_schema::ensure(&mut session.connection, OwnTables::LEASE)).await?;
        loop {
            let renewed = boot_time();
            let holder = with_timeout(&settings, self.try_acquire(&mut session)).await?;
            if holder.owner == self.owner {
                let locked_by = with_timeout(&settings, session.id()).await?;
                let (owner, session) = (self.owner.clone(), Some(session));
                let lease = Lease { settings, owner, session, locked_by, renewed, is_lost: false };
                return Ok(LeaseAttempt::Acquired(Box::new(lease)));
            }
            if !std::mem::replace(&mut self.logged, true) && !self.limit.is_zero() {
                let limit = self.limit.as_secs_f64();
                info!("engine lease is held by {}; waiting up to {limit} s", holder.name);
            }
            if self.begin.elapsed() >= self.limit && !self.outlasts_limit(&holder) {
                return Ok(LeaseAttempt::Held(holder));
            }
            sleep(RETRY).await;
        }
    }

    /// Whether a longer wait is worth it: a holder that missed two renewals has most likely ended, and its row expires soon.
    /// Without a wait, its row must have expired, so that only its session is left.
    fn outlasts_limit(&self, holder: &LeaseHolder) -> bool {
        let Some(since_heartbeat) = holder.since_heartbeat else { return false };
        let is_expiring = match self.limit.is_zero() {
            true => holder.expires_within(LeaseKind::ENGINE, Duration::ZERO),
            false => since_heartbeat >= RENEW_INTERVAL * 2,
        };
        is_expiring && self.begin.elapsed() < self.limit + LeaseKind::ENGINE.ttl
    }

    /// One attempt; returns the holder afterwards.
    async fn try_acquire(&mut self, session: &mut LockSession) -> Result<LeaseHolder, Error> {
        if session.try_acquire().await? {
            if session.connection.settings.is_sqlite() {
                return Ok(LeaseHolder { owner: self.owner.clone(), ..LeaseHolder::unknown() });
            }
            let claim = Claim { owner: &self.owner, holder: self.name };
            let holder = LeaseKind::ENGINE.claim(&mut session.connection, &claim, Claimable::Expired).await?;
            if holder.owner != self.owner {
                // A holder that has lost only its connection must be able to acquire the lock again.
                session.release().await?;
            }
            return Ok(holder);
        }
        let Some(holder) = LeaseKind::ENGINE.read(&mut session.connection).await? else {
            return Ok(LeaseHolder::unknown());
        };
        if holder.owner == self.owner {
            // Acquired on a connection that was lost since, which the server has not detected yet.
            if let Some(stale) = session.holder().await? {
                session.terminate(&stale).await?;
            }
            return Err(Error::Unavailable("a lost connection still holds the lock".to_owned()));
        }
        if self.stale.terminate(session, LeaseKind::ENGINE, &holder).await? {
            let since_heartbeat = holder.since_heartbeat.unwrap_or_default().as_secs();
            warn!("terminated the session of {}: no heartbeat for {since_heartbeat} s", holder.name);
        }
        // A row that is released names an earlier holder. With SQLite the row is written later than the lock, or never.
        Ok(match holder.released {
            true => LeaseHolder { since_heartbeat: holder.since_heartbeat, released: true, ..LeaseHolder::unknown() },
            false => holder,
        })
    }
}

/// Whether an engine can be running: the row of a killed process never expires on SQLite, but its lock is free. Blocks with
/// the file system.
pub fn may_be_held(database: &Path) -> bool {
    is_file_locked(database, LockName::Engine)
}

/// The process that runs an engine now.
///
/// # Errors
/// If the query fails, or the lease was never acquired.
pub async fn current_holder(connection: &mut Connection) -> Result<Option<LeaseHolder>, Error> {
    let holder = LeaseKind::ENGINE.read(connection).await?;
    Ok(holder.filter(|holder| !holder.expires_within(LeaseKind::ENGINE, Duration::ZERO)))
}

impl Lease {
    /// The random name of this hold, which no other one has.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.owner
    }

    /// Queries the database over the connection of the lease, and once more over another one when that was cut.
    ///
    /// # Errors
    /// That of the query, that the database is away, or that the lease was lost with the connection.
    pub async fn query_with_retry<T>(
        &mut self,
        query: impl AsyncFn(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (settings, begin) = (self.settings.clone(), Instant::now());
        loop {
            let queried = async { query(&mut self.valid_session().await?.connection).await };
            match with_timeout(&settings, queried).await {
                Err(Error::Unavailable(text)) if !settings.is_sqlite() => {
                    self.session = None;
                    if begin.elapsed() >= QUERY_TIMEOUT {
                        return Err(Error::Unavailable(text));
                    }
                    sleep(RETRY).await;
                }
                result => return result,
            }
        }
    }

    /// A new connection does not show that the lease is still this one's. After a loss that the caller knows, its queries are
    /// such as need no lease.
    async fn valid_session(&mut self) -> Result<&mut LockSession, Error> {
        if self.session.is_none() && !self.is_lost {
            // Without a result the new connection has shown nothing either.
            let other = self.renew_row().await.inspect_err(|_| self.session = None)?;
            if let Some(other) = other.filter(|holder| holder.owner != self.owner) {
                self.is_lost = true;
                return Err(Error::Rejected(format!("lost the engine lease: {} holds it now", other.name)));
            }
        }
        self.session().await
    }

    async fn session(&mut self) -> Result<&mut LockSession, Error> {
        Ok(match &mut self.session {
            Some(session) => session,
            empty => empty.insert(LockSession::open(&self.settings, LockName::Engine).await?),
        })
    }

    /// Renews the lease before an action that needs it, unless `stop` comes first. Returns the reason when it is lost.
    pub async fn confirm(&mut self, stop: &CancellationToken) -> Option<String> {
        self.renew(stop, Duration::ZERO, true).await
    }

    /// Renews the lease until `stop`. Returns the reason when it is lost.
    pub async fn keep_renewed(&mut self, stop: &CancellationToken) -> Option<String> {
        if self.settings.is_sqlite() {
            stop.cancelled().await;
        }
        self.renew(stop, RENEW_INTERVAL, false).await
    }

    async fn renew(&mut self, stop: &CancellationToken, mut pause: Duration, once: bool) -> Option<String> {
        if self.settings.is_sqlite() {
            return None;
        }
        let mut logged = false;
        // A stop never interrupts an exchange.
        while timeout(pause, stop.cancelled()).await.is_err() {
            match self.try_to_renew(&mut logged).await {
                Ok(true) if once => return None,
                Ok(is_renewed) => pause = if is_renewed { RENEW_INTERVAL } else { RETRY },
                Err(lost) => {
                    self.is_lost = true;
                    return Some(lost);
                }
            }
        }
        None
    }

    /// Returns whether it is renewed, or the reason when it is lost. Of several failures the first is `logged`.
    async fn try_to_renew(&mut self, logged: &mut bool) -> Result<bool, String> {
        let since_heartbeat = boot_time().saturating_sub(self.renewed);
        if since_heartbeat >= FENCING_DEADLINE {
            return Err(format!("no renewal for {} s", since_heartbeat.as_secs()));
        }
        match with_timeout(&self.settings.clone(), self.renew_row()).await {
            Ok(None) => {
                *logged = false;
                Ok(true)
            }
            Ok(Some(other)) => Err(format!("{} holds it now", other.name)),
            Err(error) => {
                if !std::mem::replace(logged, true) {
                    warn!("cannot renew the engine lease: {error}; retrying");
                }
                self.session = None;
                Ok(false)
            }
        }
    }

    /// Returns the other holder when the lease is lost.
    async fn renew_row(&mut self) -> Result<Option<LeaseHolder>, Error> {
        let (begin, owner) = (boot_time(), self.owner.clone());
        let session = self.session().await?;
        LeaseKind::ENGINE.heartbeat(&mut session.connection, &owner).await?;
        let holder = LeaseKind::ENGINE.read(&mut session.connection).await?.unwrap_or_else(LeaseHolder::unknown);
        if holder.owner != owner || holder.released {
            return Ok(Some(holder));
        }
        let id = session.id().await?;
        self.renewed = begin;
        if id != self.locked_by {
            self.reacquire_lock(id).await?;
        }
        Ok(None)
    }

    /// After a cut the lock may be free, held for a moment by a process that inspects the row, or held by the old session of
    /// this one, as long as the server has not noticed the cut.
    async fn reacquire_lock(&mut self, id: Option<String>) -> Result<(), Error> {
        let Some(session) = &mut self.session else { return Ok(()) };
        if let Some(stale) = session.holder().await?.filter(|holder| self.locked_by.as_ref() == Some(holder)) {
            session.terminate(&stale).await?;
        }
        if session.try_acquire().await? {
            info!("reacquired the lock of the engine lease after reconnecting");
            self.locked_by = id;
        }
        Ok(())
    }

    /// Releases the lease; with a database that is away it expires.
    pub async fn release(mut self) {
        let owner = self.owner.clone();
        let released =
            self.query_with_retry(async |connection| LeaseKind::ENGINE.release(connection, &owner).await).await;
        match released {
            Ok(()) => self.close().await,
            Err(error) => warn!("cannot release the engine lease: {error}; it will expire"),
        }
    }

    /// Closes the connection of a lease whose row is released.
    pub async fn close(self) {
        if let Some(session) = self.session {
            let _ = timeout(QUERY_TIMEOUT, session.connection.close()).await;
        }
    }
}

/// CLOCK_BOOTTIME goes on while the machine sleeps, as time does for the server and the other replicas.
fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}
