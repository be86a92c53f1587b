//! `config check`: all errors that would make a start of a service fail, or leave files unprocessed.

use tracing::debug;

use crate::bots::Installation;
use crate::bots::context::BotsContext;
use crate::bots::dirmonitor_config::DirmonitorConfig;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::bots::install::DJANGO_2_WARNING;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::config::Config;
use crate::database::connect::{ConnectMode, connect};
use crate::database::retry::with_timeout;
use crate::edi::monitored_routes;
use crate::edi::monitored_routes::InChannel;
use crate::edi::runs;
use crate::exit::{Error, Kind};
use crate::model::BotsVersion;
use crate::process::reaper::Reaper;
use crate::watch::target::WatchTarget;

use super::bots_environment::{find_bots, mounted_files, open_web_ui_warning};
use super::dry_run::{DryRunResult, dry_run};
use super::init_db;
use super::service_spec::LaunchContext;
use super::watch_targets::{inactive_route, target};

/// The result of a check.
#[derive(Default)]
pub(crate) struct CheckedConfig {
    /// Errors that make a start, or a part of it, fail.
    pub faults: Vec<String>,
    /// Notes: settings that the user may want to change.
    pub notes: Vec<String>,
}

/// Validates the configuration, with the routes in the database if it is reachable. Changes nothing.
///
/// # Errors
/// If it cannot be validated.
pub(crate) async fn check(config: &Config, reaper: &Reaper) -> Result<CheckedConfig, Error> {
    let bots = find_bots(config, reaper).await?;
    let services = |context: &BotsContext<'_>, django: &DjangoSettings| {
        let queue = BotsJobQueueIni::read(config, context.environment)?;
        // Services that run already have these.
        let own_ports = [django.web_port, queue.port];
        let (bots, queue) = (*context, &queue);
        let mut faults = Vec::new();
        if let Err(error) = (LaunchContext { config, bots, django, queue, own_ports: Some(own_ports) }).all_services() {
            faults.extend(error.into_faults());
        }
        if queue.enabled {
            faults.extend(DirmonitorConfig::read(context.environment, context.bots)?.faults);
        }
        faults.dedup();
        if faults.is_empty() { Ok(()) } else { Err(Error::all(Kind::Configuration, faults)) }
    };
    let result = dry_run(config, reaper, &bots, mounted_files(config).await, services).await?;
    let mut notes: Vec<String> = result.django.iter().flat_map(|django| django.warnings.clone()).collect();
    if bots.bots_version() == BotsVersion::V3 {
        notes.push(DJANGO_2_WARNING.to_owned());
        notes.extend(result.django.as_ref().and_then(|django| open_web_ui_warning(config, &bots, django.web_port)));
    }
    let mut checked = CheckedConfig { faults: result.faults.clone(), notes };
    if let Some(django) = result.django.as_ref().filter(|_| result.faults.is_empty())
        && let Err(error) = check_routes(config, &bots, &result, django, &mut checked).await
    {
        debug!("cannot check routes and channels: {error}");
    }
    Ok(checked)
}

async fn check_routes(
    config: &Config,
    bots: &Installation,
    result: &DryRunResult,
    django: &DjangoSettings,
    checked: &mut CheckedConfig,
) -> Result<(), Error> {
    let settings = init_db::database_config(config, django)?;
    let environment = result.environment();
    let queried = with_timeout(&settings, async {
        let mut connection = connect(&settings, ConnectMode::Probe).await?;
        let channels = monitored_routes::in_channels(&mut connection).await?;
        Ok((channels, runs::routes(&mut connection).await?))
    });
    let (channels, routes) = queried.await?;
    if BotsJobQueueIni::read(config, &environment)?.enabled {
        let monitored = DirmonitorConfig::read(&environment, bots)?;
        let is_active = |name: &str| routes.iter().any(|route| route.name == name && route.is_active);
        let idle = monitored.directories.iter().filter(|directory| !is_active(&directory.route));
        let faults = idle.map(|section| result.describe(&inactive_route(&section.origin, &section.route)));
        checked.faults.extend(faults);
    }
    let directories = channels.iter().filter(|channel| channel.is_directory);
    checked.notes.extend(directories.filter_map(|channel| unfinished_names(config, bots, channel)));
    Ok(())
}

/// A note for a channel whose mask matches names of incomplete files.
fn unfinished_names(config: &Config, bots: &Installation, channel: &InChannel) -> Option<String> {
    let monitored = DirmonitorConfig::without_sections(&Environment::paths(config), bots);
    let files = monitored.files(&channel.path, &channel.filename)?;
    let name = (channel.channel.clone(), channel.route.clone());
    let entry = target(config, &monitored, name, &files, monitored.default_options, std::iter::empty());
    let names = WatchTarget { is_channel: true, ..entry }.unfinished_names().join(", ");
    (!names.is_empty()).then(|| {
        format!(
            "channel {} of route {} matches names ending in {names}, which many programs use while \
             they write a file: a run waits up to BOTS_CTL_FILE_WAIT for such a file; use a mask \
             such as *.edi to exclude it",
            channel.channel, channel.route
        )
    })
}
