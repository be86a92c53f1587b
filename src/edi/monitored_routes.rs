//! What the database says of files that start routes: routes that ask to be monitored, and the locks of channels.

use super::runs;
use crate::database::query::Connection;
use crate::database::{DatabaseConfig, Error};

/// A route that runs when a file comes to its channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitoredRoute {
    /// Its name.
    pub route: String,
    /// Its channel.
    pub channel: String,
    /// The directory of the channel, as it is written.
    pub path: String,
    /// The mask of its files.
    pub filename: String,
    /// Whether the channel removes what it has read.
    pub removes: bool,
}

/// A file by which channels keep each other out of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelLock {
    /// The directory, as it is written.
    pub path: String,
    /// The file.
    pub name: String,
}

/// A channel from which an active route receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InChannel {
    /// The route.
    pub route: String,
    /// The channel.
    pub channel: String,
    /// Whether it takes files from a directory of this machine.
    pub is_directory: bool,
    /// Its directory, as it is written.
    pub path: String,
    /// The mask of its files.
    pub filename: String,
    /// The file by which it keeps others out; empty where it has none.
    pub lock: String,
    /// Whether the route runs when none is named.
    pub is_in_default_run: bool,
}

/// Channels from which active routes receive.
///
/// # Errors
/// As [`routes`].
pub async fn in_channels(connection: &mut Connection, settings: &DatabaseConfig) -> Result<Vec<InChannel>, Error> {
    const QUERY: &str = "SELECT DISTINCT r.idroute, c.idchannel, c.path, c.filename, c.lockname, \
                         CASE WHEN c.type IN ('file', 'mimefile') THEN 1 ELSE 0 END, \
                         CASE WHEN r.notindefaultrun THEN 0 ELSE 1 END \
                         FROM routes r JOIN channel c ON c.idchannel = r.fromchannel_id \
                         WHERE r.active ORDER BY r.idroute, c.idchannel";
    let rows = connection.fetch_text(QUERY).await.map_err(|error| runs::failed(settings, &error))?;
    let channel = |row: Vec<Option<String>>| {
        let mut row = row.into_iter();
        let mut next = || row.next().flatten();
        let (route, channel) = (next()?, next()?);
        let [path, filename, lock] = [(); 3].map(|()| next().unwrap_or_default());
        let [is_directory, is_in_default_run] = [(); 2].map(|()| next().as_deref() == Some("1"));
        Some(InChannel { route, channel, is_directory, path, filename, lock, is_in_default_run })
    };
    Ok(rows.into_iter().filter_map(channel).collect())
}

/// Active routes whose files are to be monitored, each with each of its channels. Only Bots 4 has such.
///
/// # Errors
/// When the database cannot be read, or was never initialised.
pub async fn routes(connection: &mut Connection, settings: &DatabaseConfig) -> Result<Vec<MonitoredRoute>, Error> {
    // A route of several parts may name a channel more than once.
    const QUERY: &str = "SELECT DISTINCT r.idroute, c.idchannel, c.path, c.filename, \
                         CASE WHEN c.remove THEN 1 ELSE 0 END \
                         FROM routes r JOIN channel c ON c.idchannel = r.fromchannel_id \
                         WHERE r.active AND r.dirmonitor AND c.type = 'file' ORDER BY r.idroute, c.idchannel";
    let rows = connection.fetch_text(QUERY).await.map_err(|error| runs::failed(settings, &error))?;
    let route = |row: Vec<Option<String>>| {
        let mut row = row.into_iter();
        let mut next = || row.next().flatten();
        let (route, channel) = (next()?, next()?);
        let (path, filename) = (next().unwrap_or_default(), next().unwrap_or_default());
        Some(MonitoredRoute { route, channel, path, filename, removes: next().as_deref() == Some("1") })
    };
    Ok(rows.into_iter().filter_map(route).collect())
}

/// The locks of all channels that have one.
///
/// # Errors
/// As [`routes`].
pub async fn locks(connection: &mut Connection, settings: &DatabaseConfig) -> Result<Vec<ChannelLock>, Error> {
    const QUERY: &str = "SELECT path, lockname FROM channel WHERE type = 'file' AND lockname <> '' ORDER BY idchannel";
    let rows = connection.fetch_text(QUERY).await.map_err(|error| runs::failed(settings, &error))?;
    let lock = |row: Vec<Option<String>>| {
        let mut row = row.into_iter();
        Some(ChannelLock { path: row.next()??, name: row.next()?? })
    };
    Ok(rows.into_iter().filter_map(lock).collect())
}
