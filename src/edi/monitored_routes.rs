//! Files that start routes, by the database: routes that are to be monitored, and the locks of channels.

use super::{fetch, is_set, text_or_empty};
use crate::database::Error;
use crate::database::query::{Connection, Row};

/// A route that runs when a file arrives in its channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitoredRoute {
    /// Its name.
    pub route: String,
    /// Its channel.
    pub channel: String,
    /// The directory of the channel, as configured.
    pub path: String,
    /// The mask of its files.
    pub filename: String,
    /// Whether the channel deletes files after reading.
    pub removes: bool,
}

/// A file by which channels keep each other out of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelLock {
    /// The directory, as configured.
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
    /// The directory, as configured.
    pub path: String,
    /// The mask of its files.
    pub filename: String,
    /// The lock file of the channel; empty if it has none.
    pub lock: String,
    /// Whether the route runs when none is named.
    pub is_in_default_run: bool,
}

/// A channel that takes files from a directory of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChannel {
    pub channel: String,
    /// A route that receives from it.
    pub route: String,
    /// Whether an active route does.
    pub is_active: bool,
    /// The directory, as configured.
    pub path: String,
    /// The mask of its files.
    pub filename: String,
}

/// Channels from which any route receives files.
///
/// # Errors
/// As [`routes`].
pub async fn file_channels(connection: &mut Connection) -> Result<Vec<FileChannel>, Error> {
    const QUERY: &str = "SELECT c.idchannel, MIN(r.idroute), MAX(CASE WHEN r.active THEN 1 ELSE 0 END), c.path, c.filename \
                         FROM routes r JOIN channel c ON c.idchannel = r.fromchannel_id \
                         WHERE c.type IN ('file', 'mimefile') GROUP BY c.idchannel, c.path, c.filename ORDER BY 1";
    let channel = |row: &Row| FileChannel {
        channel: text_or_empty(row, 0),
        route: text_or_empty(row, 1),
        is_active: is_set(row, 2),
        path: text_or_empty(row, 3),
        filename: text_or_empty(row, 4),
    };
    Ok(fetch(connection, QUERY).await?.iter().map(channel).collect())
}

/// Channels from which active routes receive.
///
/// # Errors
/// As [`routes`].
pub async fn in_channels(connection: &mut Connection) -> Result<Vec<InChannel>, Error> {
    const QUERY: &str = "SELECT DISTINCT r.idroute, c.idchannel, c.path, c.filename, c.lockname, \
                         CASE WHEN c.type IN ('file', 'mimefile') THEN 1 ELSE 0 END, \
                         CASE WHEN r.notindefaultrun THEN 0 ELSE 1 END \
                         FROM routes r JOIN channel c ON c.idchannel = r.fromchannel_id \
                         WHERE r.active ORDER BY r.idroute, c.idchannel";
    let channel = |row: &Row| InChannel {
        route: text_or_empty(row, 0),
        channel: text_or_empty(row, 1),
        path: text_or_empty(row, 2),
        filename: text_or_empty(row, 3),
        lock: text_or_empty(row, 4),
        is_directory: is_set(row, 5),
        is_in_default_run: is_set(row, 6),
    };
    Ok(fetch(connection, QUERY).await?.iter().map(channel).collect())
}

/// Active routes whose files are to be monitored, each with each of its channels. Only Bots 4 has such.
///
/// # Errors
/// When the database cannot be read, or was never initialised.
pub async fn routes(connection: &mut Connection) -> Result<Vec<MonitoredRoute>, Error> {
    // A route of several parts may name a channel more than once.
    const QUERY: &str = "SELECT DISTINCT r.idroute, c.idchannel, c.path, c.filename, \
                         CASE WHEN c.remove THEN 1 ELSE 0 END \
                         FROM routes r JOIN channel c ON c.idchannel = r.fromchannel_id \
                         WHERE r.active AND r.dirmonitor AND c.type = 'file' ORDER BY r.idroute, c.idchannel";
    let route = |row: &Row| MonitoredRoute {
        route: text_or_empty(row, 0),
        channel: text_or_empty(row, 1),
        path: text_or_empty(row, 2),
        filename: text_or_empty(row, 3),
        removes: is_set(row, 4),
    };
    Ok(fetch(connection, QUERY).await?.iter().map(route).collect())
}

/// The locks of all channels that have one.
///
/// # Errors
/// As [`routes`].
pub async fn locks(connection: &mut Connection) -> Result<Vec<ChannelLock>, Error> {
    const QUERY: &str = "SELECT path, lockname FROM channel WHERE type = 'file' AND lockname <> '' ORDER BY idchannel";
    let lock = |row: &Row| ChannelLock { path: text_or_empty(row, 0), name: text_or_empty(row, 1) };
    Ok(fetch(connection, QUERY).await?.iter().map(lock).collect())
}
