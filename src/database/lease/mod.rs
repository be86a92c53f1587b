//! The engine lease: which bots-ctl, of all pods, may run the engine.
//!
//! A lock of the session alone is lost too early, when its connection is cut while the engine still works, and too late,
//! when a node vanishes without a word. So a row with a heartbeat stands beside it, and whoever wants the lease needs
//! both: the lock, and a row that was released or has not been renewed for its lifetime. The server's clock counts.
//! Beside SQLite the lock of a file is enough: the system frees it when its holder dies, and never before.

pub(super) mod row;

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::database::advisory_lock::{LockName, LockSession, is_file_locked};
use crate::database::own_schema::{self, OwnTables};
use crate::database::query::Connection;
use crate::database::retry::{QUERY_TIMEOUT, with_timeout};
use crate::database::{DatabaseConfig, Error, retry};

pub use row::LeaseHolder;
use row::LeaseKind;

/// How often its holder renews it.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// Without a renewal for so long the holder gives the lease up: its engine is gone before the row has run out.
const FENCING_DEADLINE: Duration = Duration::from_secs(45);

/// How often to try again, for the lease or for a connection.
const RETRY: Duration = Duration::from_millis(250);

/// Longer than a holder needs to let go of the lock after it has released its row.
const RELEASE_GRACE: Duration = Duration::from_secs(5);

/// What came of the wish for the lease.
#[derive(Debug)]
pub enum Acquire {
    /// It is ours.
    Granted(Box<Lease>),
    /// It was not to be had in time.
    Busy(LeaseHolder),
}

/// Held until it is given back, or lost.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    settings: DatabaseConfig,
    owner: String,
    /// None while there is no connection.
    session: Option<LockSession>,
    /// The server's number of the session that has the lock.
    locked_by: Option<String>,
    /// When the last renewal was begun that came through.
    renewed: Duration,
}

/// Takes the lease, waiting for it at most for `limit`, and at most for `retry_window` for a server that cannot be reached;
/// `name` says who we are.
///
/// # Errors
/// When the database is away, has no table for it, or cannot keep a lock for us.
pub async fn acquire(
    settings: &DatabaseConfig,
    name: &str,
    limit: Duration,
    retry_window: Duration,
) -> Result<Acquire, Error> {
    let owner = random_owner()?;
    let mut line = LeaseRequest { settings, owner: &owner, name, limit, begin: Instant::now(), logged: false };
    let mut connect_window = retry_window;
    loop {
        let session = retry::retry_while_unavailable(settings, connect_window, async || {
            LockSession::open(settings, LockName::Engine).await
        })
        .await?;
        match line.wait(session).await {
            // Nobody else knows that we wait, so another connection waits as well as the one that was cut.
            Err(Error::Unavailable(text)) if line.begin.elapsed() < limit.max(QUERY_TIMEOUT) => {
                debug!("waiting for the engine lease over another connection: {text}");
                connect_window = connect_window.max(QUERY_TIMEOUT);
            }
            value => return value,
        }
    }
}

/// A place among those who want the lease.
struct LeaseRequest<'a> {
    settings: &'a DatabaseConfig,
    owner: &'a str,
    name: &'a str,
    limit: Duration,
    begin: Instant,
    logged: bool,
}

impl LeaseRequest<'_> {
    /// Over one connection.
    async fn wait(&mut self, mut session: LockSession) -> Result<Acquire, Error> {
        with_timeout(self.settings, own_schema::ensure(&mut session.connection, self.settings, OwnTables::LEASE))
            .await?;
        loop {
            let renewed = boot_time();
            let attempt = try_acquire(self.settings, &mut session, self.owner, self.name);
            let holder = with_timeout(self.settings, attempt).await?;
            if holder.owner == self.owner {
                return self.take(session, renewed).await;
            }
            if !std::mem::replace(&mut self.logged, true) && !self.limit.is_zero() {
                let limit = self.limit.as_secs_f64();
                info!("an engine runs already, that of {}: waiting for at most {limit} s", holder.name);
            }
            // Who has missed two renewals will most likely be gone in a moment: that is worth a longer wait.
            let is_fading = holder.since_heartbeat.is_some_and(|since_heartbeat| since_heartbeat >= RENEW_INTERVAL * 2)
                && !self.limit.is_zero();
            if self.begin.elapsed() >= self.limit && !is_fading {
                return Ok(Acquire::Busy(holder));
            }
            sleep(RETRY).await;
        }
    }

    async fn take(&self, mut session: LockSession, renewed: Duration) -> Result<Acquire, Error> {
        match with_timeout(self.settings, session.reject_transaction_pooler()).await {
            Err(Error::Unavailable(text)) => return Err(Error::Unavailable(text)),
            Err(error) => {
                let giving_back = async {
                    row::release(&mut session.connection, self.settings, LeaseKind::ENGINE, self.owner).await?;
                    session.release().await
                };
                with_timeout(self.settings, giving_back).await?;
                return Err(error);
            }
            Ok(()) => {}
        }
        let locked_by = with_timeout(self.settings, session.id()).await?;
        let (settings, owner) = (self.settings.clone(), self.owner.to_owned());
        Ok(Acquire::Granted(Box::new(Lease { settings, owner, session: Some(session), locked_by, renewed })))
    }
}

/// Who runs an engine now, if anybody does.
///
/// # Errors
/// What the database says, also when nobody has ever taken the lease.
pub async fn current_holder(
    connection: &mut Connection,
    settings: &DatabaseConfig,
) -> Result<Option<LeaseHolder>, Error> {
    let holder = row::read(connection, settings, LeaseKind::ENGINE)
        .await?
        .filter(|holder| !holder.expired_for(LeaseKind::ENGINE, Duration::ZERO));
    Ok(match settings {
        // The row of one that was killed is never renewed, but its lock is free.
        DatabaseConfig::Sqlite(database) => holder.filter(|_| is_file_locked(database, LockName::Engine)),
        DatabaseConfig::Mysql(_) | DatabaseConfig::Postgres(_) => holder,
    })
}

/// One try; the answer is who has the lease now, perhaps we.
async fn try_acquire(
    settings: &DatabaseConfig,
    session: &mut LockSession,
    owner: &str,
    name: &str,
) -> Result<LeaseHolder, Error> {
    let is_server = !matches!(settings, DatabaseConfig::Sqlite(_));
    if session.try_acquire().await? {
        let lifetime = is_server.then_some(LeaseKind::ENGINE.ttl);
        let holder =
            row::claim_row(&mut session.connection, settings, LeaseKind::ENGINE, (owner, name), lifetime).await?;
        if holder.owner != owner {
            // The row of one who has lost only its connection: it must be able to have the lock back.
            session.release().await?;
        }
        return Ok(holder);
    }
    let Some(holder) = row::read(&mut session.connection, settings, LeaseKind::ENGINE).await? else {
        return Ok(LeaseHolder::unknown());
    };
    if holder.owner == owner {
        // Taken over a connection that was cut since: the server has not noticed yet.
        if let Some(stale) = session.holder().await? {
            session.terminate(&stale).await?;
        }
        return Err(Error::Unavailable("the lock is still with a connection that was cut".to_owned()));
    }
    if terminate_stale(session, LeaseKind::ENGINE, &holder, RELEASE_GRACE).await? {
        let since_heartbeat = holder.since_heartbeat.unwrap_or_default().as_secs();
        warn!("ended the session of {}, silent for {since_heartbeat} s", holder.name);
    }
    Ok(holder)
}

/// Ends the session that has the lock when the row ran out so long ago: a node that vanishes leaves a session behind that
/// the server takes for a living one. Whether there was one.
pub(super) async fn terminate_stale(
    session: &mut LockSession,
    kind: LeaseKind,
    holder: &LeaseHolder,
    grace: Duration,
) -> Result<bool, Error> {
    // Beside SQLite there is no heartbeat, and no session to end.
    if holder.since_heartbeat.is_none() || !holder.expired_for(kind, grace) {
        return Ok(false);
    }
    let Some(id) = session.holder().await? else { return Ok(false) };
    session.terminate(&id).await.map(|()| true)
}

impl Lease {
    /// The database it is for.
    #[must_use]
    pub fn settings(&self) -> &DatabaseConfig {
        &self.settings
    }

    /// What tells it from every other one, now and later.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.owner
    }

    /// Asks something over its connection, and again over another one when that was cut.
    ///
    /// # Errors
    /// What the answer is, or that the database is away.
    pub async fn query_with_retry<T>(
        &mut self,
        question: impl AsyncFn(&mut Connection, &DatabaseConfig) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (settings, begin) = (self.settings.clone(), Instant::now());
        loop {
            let queried = async { question(&mut self.session().await?.connection, &settings).await };
            match with_timeout(&settings, queried).await {
                Err(Error::Unavailable(text)) if !self.is_file() => {
                    self.session = None;
                    if begin.elapsed() >= QUERY_TIMEOUT {
                        return Err(Error::Unavailable(text));
                    }
                    sleep(RETRY).await;
                }
                value => return value,
            }
        }
    }

    async fn session(&mut self) -> Result<&mut LockSession, Error> {
        Ok(match &mut self.session {
            Some(session) => session,
            empty => empty.insert(LockSession::open(&self.settings, LockName::Engine).await?),
        })
    }

    /// Renews the lease until it is `enough`; the answer is why it was lost before.
    pub async fn renew_until(&mut self, stop: &Notify) -> Option<String> {
        if self.is_file() {
            stop.notified().await;
            return None;
        }
        let (mut pause, mut logged) = (RENEW_INTERVAL, false);
        loop {
            // Never in the middle of an exchange.
            if timeout(pause, stop.notified()).await.is_ok() {
                return None;
            }
            match self.try_to_renew(&mut logged).await {
                Ok(is_renewed) => pause = if is_renewed { RENEW_INTERVAL } else { RETRY },
                Err(lost) => return Some(lost),
            }
        }
    }

    /// Renews the lease before something begins that needs it, unless that is no longer wanted, which `enough` says. The
    /// answer is why it is lost.
    pub async fn renew_once(&mut self, stop: &Notify) -> Option<String> {
        let mut logged = false;
        while !self.is_file() {
            match self.try_to_renew(&mut logged).await {
                Ok(true) => break,
                Ok(false) if timeout(RETRY, stop.notified()).await.is_ok() => break,
                Ok(false) => {}
                Err(lost) => return Some(lost),
            }
        }
        None
    }

    /// Beside SQLite the lock of a file is all there is.
    fn is_file(&self) -> bool {
        matches!(self.settings, DatabaseConfig::Sqlite(_))
    }

    /// Says whether it is renewed; or why it is lost. A first failure is `told`.
    async fn try_to_renew(&mut self, logged: &mut bool) -> Result<bool, String> {
        let since_heartbeat = boot_time().saturating_sub(self.renewed);
        if since_heartbeat >= FENCING_DEADLINE {
            return Err(format!("it could not be renewed for {} s", since_heartbeat.as_secs()));
        }
        match with_timeout(&self.settings.clone(), self.renew()).await {
            Ok(None) => {
                *logged = false;
                Ok(true)
            }
            Ok(Some(other)) => Err(format!("{} has it now", other.name)),
            Err(error) => {
                if !std::mem::replace(logged, true) {
                    warn!("cannot renew the engine lease, trying again: {error}");
                }
                self.session = None;
                Ok(false)
            }
        }
    }

    /// The answer is whoever has taken it, if it is no longer ours.
    async fn renew(&mut self) -> Result<Option<LeaseHolder>, Error> {
        let begin = boot_time();
        let (settings, owner) = (self.settings.clone(), self.owner.clone());
        let session = self.session().await?;
        let holder = row::renew(&mut session.connection, &settings, LeaseKind::ENGINE, &owner).await?;
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

    /// After a cut: the lock may be free, held for a moment by one who looks at the row, or held by our own old session,
    /// of which the server does not know yet that nobody uses it.
    async fn reacquire_lock(&mut self, id: Option<String>) -> Result<(), Error> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let holder = session.holder().await?;
        if holder.is_some() && holder == self.locked_by {
            session.terminate(&holder.unwrap_or_default()).await?;
        }
        if session.try_acquire().await? {
            info!("the engine lease has its lock back after a cut of its connection");
            self.locked_by = id;
        }
        Ok(())
    }

    /// Gives it back; a database that is away learns of it when the row has run out.
    pub async fn release(mut self) {
        let owner = self.owner.clone();
        let released = self
            .query_with_retry(async |connection, settings| {
                row::release(connection, settings, LeaseKind::ENGINE, &owner).await
            })
            .await;
        if let Err(error) = released {
            warn!("cannot give the engine lease back, so it runs out: {error}");
        } else if let Some(session) = self.session {
            let _ = timeout(QUERY_TIMEOUT, session.connection.close()).await;
        }
    }
}

/// The clock that goes on while the machine sleeps: for everybody else the time has passed as well.
fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

fn random_owner() -> Result<String, Error> {
    let random = getrandom::u64().and_then(|high| Ok((high, getrandom::u64()?)));
    let (high, low) = random.map_err(|error| Error::Failed(format!("cannot get random numbers: {error}")))?;
    Ok(format!("{high:016x}{low:016x}"))
}
