//! Channels that take files under names which say that a file is not complete: a note of `config check`.

use tracing::debug;

use crate::bots::dirmonitor_config::DirmonitorConfig;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::config::Config;
use crate::database::connect::{ConnectMode, connect};
use crate::database::retry::with_timeout;
use crate::edi::monitored_routes;
use crate::edi::monitored_routes::InChannel;
use crate::exit::Error;
use crate::process::reaper::Reaper;
use crate::watch::target::WatchTarget;

use super::bots_environment::find_bots;
use super::init_db;
use super::watch_targets::target;

/// A note for each such channel; none where the database is away, or not there yet.
pub(crate) async fn warnings(config: &Config, reaper: &Reaper, django: &DjangoSettings) -> Vec<String> {
    check(config, reaper, django).await.unwrap_or_else(|error| {
        debug!("masks of channels are not looked at: {error}");
        Vec::new()
    })
}

async fn check(config: &Config, reaper: &Reaper, django: &DjangoSettings) -> Result<Vec<String>, Error> {
    let bots = find_bots(config, reaper).await?;
    let settings = init_db::database_config(config, django)?;
    let channels = with_timeout(&settings, async {
        let mut connection = connect(&settings, ConnectMode::Probe).await?;
        monitored_routes::in_channels(&mut connection, &settings).await
    });
    let channels = channels.await?;
    let monitored = DirmonitorConfig::without_sections(&Environment::paths(config), &bots);
    let warning = |channel: &InChannel| {
        let files = monitored.files(&channel.path, &channel.filename)?;
        let name = (channel.channel.clone(), channel.route.clone());
        let entry = target(config, &monitored, name, &files, monitored.way, std::iter::empty());
        let names = WatchTarget { is_channel: true, ..entry }.unfinished_names().join(", ");
        (!names.is_empty()).then(|| {
            format!(
                "channel {} of route {} takes names that end in {names}, which many programs give to a file while they \
                 write it: a run waits for such a file, at most for BOTS_CTL_FILE_WAIT; a mask such as *.edi leaves it out",
                channel.channel, channel.route
            )
        })
    };
    Ok(channels.iter().filter(|channel| channel.is_directory).filter_map(warning).collect())
}
