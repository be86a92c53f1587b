//! Ends the session of a holder that has vanished: the server takes it for a living one, and it keeps the lock.

use tokio::time::{Duration, Instant};

use super::row::{LeaseHolder, LeaseKind};
use crate::database::Error;
use crate::database::advisory_lock::LockSession;
use crate::database::retry::QUERY_TIMEOUT;

/// How long a session is observed before it is terminated. One that has just acquired the lock takes at most this time to
/// write its row, and one that has released its row takes less to release the lock.
const OBSERVATION: Duration = QUERY_TIMEOUT;

/// The session that holds the lock without a valid row, and when it was first observed.
#[derive(Debug, Default)]
pub(in crate::database) struct StaleSession(Option<(String, Instant)>);

impl StaleSession {
    /// Terminates the session that holds the lock, if it has done so for the time of the observation and the row of the holder
    /// has expired. Returns whether it did.
    ///
    /// # Errors
    /// If a query fails, or the account may not terminate the session.
    pub async fn terminate(
        &mut self,
        session: &mut LockSession,
        kind: LeaseKind,
        holder: &LeaseHolder,
    ) -> Result<bool, Error> {
        let observed = self.0.take();
        // With SQLite there is no heartbeat, and no session to end.
        if holder.since_heartbeat.is_none() || !holder.expires_within(kind, OBSERVATION) {
            return Ok(false);
        }
        let Some(id) = session.holder().await? else { return Ok(false) };
        let since = observed.filter(|(known, _)| *known == id).map_or_else(Instant::now, |(_, since)| since);
        if since.elapsed() >= OBSERVATION && holder.expires_within(kind, Duration::ZERO) {
            return session.terminate(&id).await.map(|()| true);
        }
        self.0 = Some((id, since));
        Ok(false)
    }
}
