//! Channels that take files under names which say that a file is not complete: told by `config check`.

use tracing::debug;

use crate::bots::dirmonitor_config::Monitored;
use crate::bots::django_settings::Facts;
use crate::bots::environment::Environment;
use crate::config::Config;
use crate::database::connect::{Purpose, connect};
use crate::database::retry::for_answer;
use crate::edi::monitored_routes;
use crate::edi::monitored_routes::InChannel;
use crate::exit::Error;
use crate::process::reaper::Reaper;
use crate::watch::target::Entry;

use super::bots_environment::find_bots;
use super::init_db;
use super::watch_targets::entry;

/// A note for each such channel; none where the database is away, or not there yet.
pub(crate) async fn notes(config: &Config, reaper: &Reaper, facts: &Facts) -> Vec<String> {
    look(config, reaper, facts).await.unwrap_or_else(|error| {
        debug!("masks of channels are not looked at: {error}");
        Vec::new()
    })
}

async fn look(config: &Config, reaper: &Reaper, facts: &Facts) -> Result<Vec<String>, Error> {
    let bots = find_bots(config, reaper).await?;
    let settings = init_db::settings(config, facts)?;
    let channels = for_answer(&settings, async {
        let mut connection = connect(&settings, Purpose::Probe).await?;
        monitored_routes::in_channels(&mut connection, &settings).await
    });
    let channels = channels.await?;
    let monitored = Monitored::without_sections(&Environment::layout(config), &bots);
    let note = |channel: &InChannel| {
        let files = monitored.files(&channel.path, &channel.filename)?;
        let name = (channel.channel.clone(), channel.route.clone());
        let entry = entry(config, &monitored, name, &files, monitored.way, std::iter::empty());
        let names = Entry { is_channel: true, ..entry }.unfinished_names().join(", ");
        (!names.is_empty()).then(|| {
            format!(
                "channel {} of route {} takes names that end in {names}, which many programs give to a file while they \
                 write it: a run waits for such a file, at most for BOTS_CTL_FILE_WAIT; a mask such as *.edi leaves it out",
                channel.channel, channel.route
            )
        })
    };
    Ok(channels.iter().filter(|channel| channel.is_directory).filter_map(note).collect())
}
