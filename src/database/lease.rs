//! The engine lease: which bots-ctl, of all pods, may run the engine.
//!
//! A lock of the session alone is lost too early, when its connection is cut while the engine still works, and too late,
//! when a node vanishes without a word. So a row with a heartbeat stands beside it, and whoever wants the lease needs
//! both: the lock, and a row that was released or has not been renewed for its lifetime. The server's clock counts.
//! Beside SQLite the lock of a file is enough: the system frees it when its holder dies, and never before.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::advisory_lock::{Name, beside};
use super::connection::Connection;
use super::lease_row::{self, Holder};
use super::lock_session::Session;
use super::retry::{PATIENCE, for_answer};
use super::{Error, Settings, retry};
use crate::fs::lock;

/// How long a row counts that nobody renews.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// How often its holder renews it.
const RENEWAL: Duration = Duration::from_secs(10);

/// Without a renewal for so long the holder gives the lease up: its engine is gone before the row has run out.
const FENCE: Duration = Duration::from_secs(45);

/// How often to try again, for the lease or for a connection.
const RETRY: Duration = Duration::from_millis(250);

/// Longer than a holder needs to let go of the lock after it has released its row.
const AFTERGLOW: Duration = Duration::from_secs(5);

/// What came of the wish for the lease.
#[derive(Debug)]
pub enum Acquired {
    /// It is ours.
    Taken(Box<Lease>),
    /// It was not to be had in time.
    Busy(Holder),
}

/// Held until it is given back, or lost.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    settings: Settings,
    owner: String,
    /// None while there is no connection.
    session: Option<Session>,
    /// The server's number of the session that has the lock.
    locked_by: Option<String>,
    /// When the last renewal was begun that came through.
    renewed: Duration,
}

/// Takes the lease, waiting for it at most for `limit`, and at most for `patience` for a server that cannot be reached;
/// `name` says who we are.
///
/// # Errors
/// When the database is away, has no table for it, or cannot keep a lock for us.
pub async fn acquire(settings: &Settings, name: &str, limit: Duration, patience: Duration) -> Result<Acquired, Error> {
    let owner = random_owner()?;
    let mut line = Line { settings, owner: &owner, name, limit, begin: Instant::now(), told: false };
    let mut patience = patience;
    loop {
        let session =
            retry::until_open(settings, patience, async || Session::open(settings, Name::EngineLease).await).await?;
        match line.wait(session).await {
            // Nobody else knows that we wait, so another connection waits as well as the one that was cut.
            Err(Error::Unavailable(text)) if line.begin.elapsed() < limit.max(PATIENCE) => {
                debug!("waiting for the engine lease over another connection: {text}");
                patience = patience.max(PATIENCE);
            }
            answer => return answer,
        }
    }
}

/// A place among those who want the lease.
struct Line<'a> {
    settings: &'a Settings,
    owner: &'a str,
    name: &'a str,
    limit: Duration,
    begin: Instant,
    told: bool,
}

impl Line<'_> {
    /// Over one connection.
    async fn wait(&mut self, mut session: Session) -> Result<Acquired, Error> {
        for_answer(self.settings, lease_row::ensure_table(&mut session.connection, self.settings)).await?;
        loop {
            let renewed = now();
            let attempt = attempt(self.settings, &mut session, self.owner, self.name);
            let holder = for_answer(self.settings, attempt).await?;
            if holder.owner == self.owner {
                return self.take(session, renewed).await;
            }
            if !std::mem::replace(&mut self.told, true) && !self.limit.is_zero() {
                let limit = self.limit.as_secs_f64();
                info!("an engine runs already, that of {}: waiting for at most {limit} s", holder.name);
            }
            // Who has missed two renewals will most likely be gone in a moment: that is worth a longer wait.
            let is_fading = holder.silent.is_some_and(|silent| silent >= RENEWAL * 2) && !self.limit.is_zero();
            if self.begin.elapsed() >= self.limit && !is_fading {
                return Ok(Acquired::Busy(holder));
            }
            sleep(RETRY).await;
        }
    }

    async fn take(&self, mut session: Session, renewed: Duration) -> Result<Acquired, Error> {
        match for_answer(self.settings, session.refuse_pooler()).await {
            Err(Error::Unavailable(text)) => return Err(Error::Unavailable(text)),
            Err(error) => {
                let giving_back = async {
                    lease_row::release(&mut session.connection, self.settings, self.owner).await?;
                    session.give_back().await
                };
                for_answer(self.settings, giving_back).await?;
                return Err(error);
            }
            Ok(()) => {}
        }
        let locked_by = for_answer(self.settings, session.id()).await?;
        let (settings, owner) = (self.settings.clone(), self.owner.to_owned());
        Ok(Acquired::Taken(Box::new(Lease { settings, owner, session: Some(session), locked_by, renewed })))
    }
}

/// Who runs an engine now, if anybody does.
///
/// # Errors
/// What the database says, also when nobody has ever taken the lease.
pub async fn current(connection: &mut Connection, settings: &Settings) -> Result<Option<Holder>, Error> {
    let holder = lease_row::read(connection, settings).await?.filter(|holder| !holder.is_gone_since(Duration::ZERO));
    Ok(match settings {
        // The row of one that was killed is never renewed, but its lock is free.
        Settings::Sqlite(database) => holder.filter(|_| is_locked(database)),
        Settings::Mysql(_) | Settings::Postgres(_) => holder,
    })
}

fn is_locked(database: &Path) -> bool {
    let file = File::open(beside(database, Name::EngineLease));
    file.is_ok_and(|file| lock::try_lock_shared(&file).is_ok_and(|is_free| !is_free))
}

/// One try; the answer is who has the lease now, perhaps we.
async fn attempt(settings: &Settings, session: &mut Session, owner: &str, name: &str) -> Result<Holder, Error> {
    let is_server = !matches!(settings, Settings::Sqlite(_));
    if session.try_take().await? {
        let lifetime = is_server.then_some(LIFETIME);
        let holder = lease_row::take(&mut session.connection, settings, owner, name, lifetime).await?;
        if holder.owner != owner {
            // The row of one who has lost only its connection: it must be able to have the lock back.
            session.give_back().await?;
        }
        return Ok(holder);
    }
    let Some(holder) = lease_row::read(&mut session.connection, settings).await? else {
        return Ok(Holder::unknown());
    };
    if holder.owner == owner {
        // Taken over a connection that was cut since: the server has not noticed yet.
        if let Some(ghost) = session.holder().await? {
            session.end(&ghost).await?;
        }
        return Err(Error::Unavailable("the lock is still with a connection that was cut".to_owned()));
    }
    if is_server
        && holder.is_gone_since(AFTERGLOW)
        && let Some(ghost) = session.holder().await?
    {
        session.end(&ghost).await?;
        let silent = holder.silent.unwrap_or_default().as_secs();
        warn!("ended the session of {}, silent for {silent} s", holder.name);
    }
    Ok(holder)
}

impl Lease {
    /// The database it is for.
    #[must_use]
    pub fn settings(&self) -> &Settings {
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
    pub async fn ask<T>(
        &mut self,
        question: impl AsyncFn(&mut Connection, &Settings) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (settings, begin) = (self.settings.clone(), Instant::now());
        loop {
            let asked = async { question(&mut self.session().await?.connection, &settings).await };
            match for_answer(&settings, asked).await {
                Err(Error::Unavailable(text)) if !self.is_file() => {
                    self.session = None;
                    if begin.elapsed() >= PATIENCE {
                        return Err(Error::Unavailable(text));
                    }
                    sleep(RETRY).await;
                }
                answer => return answer,
            }
        }
    }

    async fn session(&mut self) -> Result<&mut Session, Error> {
        Ok(match &mut self.session {
            Some(session) => session,
            empty => empty.insert(Session::open(&self.settings, Name::EngineLease).await?),
        })
    }

    /// Renews the lease until it is `enough`; the answer is why it was lost before.
    pub async fn keep(&mut self, enough: &Notify) -> Option<String> {
        if self.is_file() {
            enough.notified().await;
            return None;
        }
        let (mut pause, mut told) = (RENEWAL, false);
        loop {
            // Never in the middle of an exchange.
            if timeout(pause, enough.notified()).await.is_ok() {
                return None;
            }
            match self.try_to_renew(&mut told).await {
                Ok(is_renewed) => pause = if is_renewed { RENEWAL } else { RETRY },
                Err(lost) => return Some(lost),
            }
        }
    }

    /// Renews the lease before something begins that needs it, unless that is no longer wanted, which `enough` says. The
    /// answer is why it is lost.
    pub async fn confirm(&mut self, enough: &Notify) -> Option<String> {
        let mut told = false;
        while !self.is_file() {
            match self.try_to_renew(&mut told).await {
                Ok(true) => break,
                Ok(false) if timeout(RETRY, enough.notified()).await.is_ok() => break,
                Ok(false) => {}
                Err(lost) => return Some(lost),
            }
        }
        None
    }

    /// Beside SQLite the lock of a file is all there is.
    fn is_file(&self) -> bool {
        matches!(self.settings, Settings::Sqlite(_))
    }

    /// Says whether it is renewed; or why it is lost. A first failure is `told`.
    async fn try_to_renew(&mut self, told: &mut bool) -> Result<bool, String> {
        let silent = now().saturating_sub(self.renewed);
        if silent >= FENCE {
            return Err(format!("it could not be renewed for {} s", silent.as_secs()));
        }
        match for_answer(&self.settings.clone(), self.renew()).await {
            Ok(None) => {
                *told = false;
                Ok(true)
            }
            Ok(Some(other)) => Err(format!("{} has it now", other.name)),
            Err(error) => {
                if !std::mem::replace(told, true) {
                    warn!("cannot renew the engine lease, trying again: {error}");
                }
                self.session = None;
                Ok(false)
            }
        }
    }

    /// The answer is whoever has taken it, if it is no longer ours.
    async fn renew(&mut self) -> Result<Option<Holder>, Error> {
        let begin = now();
        let (settings, owner) = (self.settings.clone(), self.owner.clone());
        let session = self.session().await?;
        let holder = lease_row::renew(&mut session.connection, &settings, &owner).await?;
        if holder.owner != owner || holder.released {
            return Ok(Some(holder));
        }
        let id = session.id().await?;
        self.renewed = begin;
        if id != self.locked_by {
            self.lock_again(id).await?;
        }
        Ok(None)
    }

    /// After a cut: the lock may be free, held for a moment by one who looks at the row, or held by our own old session,
    /// of which the server does not know yet that nobody uses it.
    async fn lock_again(&mut self, id: Option<String>) -> Result<(), Error> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let holder = session.holder().await?;
        if holder.is_some() && holder == self.locked_by {
            session.end(&holder.unwrap_or_default()).await?;
        }
        if session.try_take().await? {
            info!("the engine lease has its lock back after a cut of its connection");
            self.locked_by = id;
        }
        Ok(())
    }

    /// Gives it back; a database that is away learns of it when the row has run out.
    pub async fn release(mut self) {
        let owner = self.owner.clone();
        let released =
            self.ask(async |connection, settings| lease_row::release(connection, settings, &owner).await).await;
        if let Err(error) = released {
            warn!("cannot give the engine lease back, so it runs out: {error}");
        } else if let Some(session) = self.session {
            let _ = timeout(PATIENCE, session.connection.close()).await;
        }
    }
}

/// The clock that goes on while the machine sleeps: for everybody else the time has passed as well.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

fn random_owner() -> Result<String, Error> {
    let random = getrandom::u64().and_then(|high| Ok((high, getrandom::u64()?)));
    let (high, low) = random.map_err(|error| Error::Failed(format!("cannot get random numbers: {error}")))?;
    Ok(format!("{high:016x}{low:016x}"))
}
