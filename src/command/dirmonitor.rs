//! `dirmonitor`: the directory monitor, of our own or Bots's own.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;

use crate::bots::dirmonitor_config::trigger_file;
use crate::bots::django_settings::Context;
use crate::bots::environment::Environment;
use crate::cli::{self, Global};
use crate::config::{Backend, Config, Override, ServiceName};
use crate::exit::{Error, Kind, Outcome};
use crate::process::blocking;
use crate::telemetry::escape::shown;
use crate::watch::events::Events;
use crate::watch::observation::Clock;
use crate::watch::scan::{Condition, Directories, Extent, Found};
use crate::watch::target::Entry;

use super::{health_override, load_config, print, read_config};
use crate::runtime::bots_environment::{child_variables, find_bots, prepare};
use crate::runtime::dirmonitor_service::NativeMonitor;
use crate::runtime::init_db;
use crate::runtime::serve::{known_facts, serve_one};
use crate::runtime::service_spec::{Launch, Scene};
use crate::runtime::session::{Session, with_session};
use crate::runtime::watch_targets::Sources;

/// Runs the command.
///
/// # Errors
/// Whatever keeps the monitor from starting.
pub fn run(global: &Global, flags: &cli::Dirmonitor) -> Result<Outcome, Error> {
    let backend = flags.backend.clone();
    let backend = backend.map(|value| Override { path: "dirmonitor.backend", flag: "--backend", value });
    let given: Vec<Override> = health_override(flags.health_addr.as_ref()).into_iter().chain(backend).collect();
    let config = load_config(global, given.clone())?;
    if flags.reload {
        return reload(&config);
    }
    with_session(config, async |session| {
        if flags.dry_run {
            return rehearse(session, flags.json).await;
        }
        let read = || read_config(global, given.clone());
        serve_one(session, ServiceName::Dirmonitor, &read, &|scene| launch(scene, &flags.args)).await
    })
}

/// The monitor, when it can work.
pub(super) fn launch(scene: &Scene<'_>, args: &[OsString]) -> Result<Launch, Error> {
    let Scene { config, ground, django, queue, .. } = scene;
    if !queue.enabled {
        return Err(queue.disabled(ServiceName::Dirmonitor).into());
    }
    match config.dirmonitor.backend {
        Backend::Native if !args.is_empty() => {
            let text = "arguments after -- are for bots-dirmonitor, which --backend python runs";
            Err(Error::new(Kind::Usage, text))
        }
        Backend::Native => {
            let database = init_db::settings(config, django)?;
            Ok(Launch::monitor(NativeMonitor::new(config, ground, queue, database)?, config))
        }
        Backend::Python => Ok(Launch::new(ground.dirmonitor(args), config)),
    }
}

/// Asks a running monitor, in this container or in another one on the same volume, to look at everything anew.
fn reload(config: &Config) -> Result<Outcome, Error> {
    let trigger = trigger_file(&Environment::prepared(config)?);
    std::fs::write(&trigger, "reload").map_err(|error| {
        let text = format!("cannot ask the directory monitor to reload: cannot write {}: {error}", trigger.display());
        Error::new(Kind::Failed, text)
    })?;
    print("the directory monitor of this environment reads its configuration and looks at all files anew\n");
    Ok(Outcome::Success)
}

/// One entry, and what a first look at it shows.
struct Rehearsed {
    entry: Entry,
    found: Found,
}

/// Says what would be watched and which routes would be started now.
async fn rehearse(session: Session, json: bool) -> Result<Outcome, Error> {
    let Session { config, reaper, .. } = &session;
    let bots = find_bots(config, reaper).await?;
    let variables = child_variables(config, Some(&bots.bin_dir));
    let environment = prepare(config, &bots).await?;
    let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
    let database = init_db::settings(config, &known_facts(&context).await?)?;
    let mut sources = Sources::new(config, &bots, &environment, database)?;
    sources.read_database().await?;
    let entries = sources.entries();
    let look = move || {
        let events = Arc::new(Events::start().0);
        let look = |(place, entry): (u64, Entry)| {
            let mut directories = Directories::new(Arc::new(entry.clone()), place, Arc::clone(&events), Clock::Local);
            let found = directories.look(Vec::new(), Extent::All);
            Rehearsed { entry, found }
        };
        (0..).zip(entries).map(look).collect::<Vec<_>>()
    };
    let rehearsed = blocking::run(look).await.map_err(|error| Error::new(Kind::Unavailable, error.to_string()))?;
    print(&if json { format!("{}\n", in_json(&rehearsed)) } else { rehearsed.iter().map(in_words).collect() });
    Ok(Outcome::Success)
}

fn in_words(rehearsed: &Rehearsed) -> String {
    let Rehearsed { entry, found } = rehearsed;
    let mut text = format!("{} for route {}, by {}\n", entry.files(), entry.route, entry.origin);
    let _ = match found.condition.as_ref() {
        Some(Condition::Watched { directories, backend, .. }) => {
            writeln!(text, "  watched: {directories} directories, by {} ({})", backend.name(), backend.why)
        }
        Some(Condition::Trouble { why, .. }) => writeln!(text, "  not watched: {}", shown(why)),
        None => Ok(()),
    };
    if let Some(example) = &found.complete.example {
        let example = example.to_string_lossy();
        let _ = writeln!(text, "  starts the route now: {} files, such as {}", found.complete.count, shown(&example));
    }
    if let Some((example, oldest)) = &found.waiting.pending.oldest {
        let (count, why, example) = (found.waiting.pending.count, oldest.reason.as_str(), example.to_string_lossy());
        let _ = writeln!(text, "  not complete yet: {count} files, such as {}: {why}", shown(&example));
    }
    if found.waiting.pending.held > 0 {
        let _ = writeln!(text, "  starts the route when those are complete: {} files", found.waiting.pending.held);
    }
    text
}

fn in_json(rehearsed: &[Rehearsed]) -> serde_json::Value {
    let one = |Rehearsed { entry, found }: &Rehearsed| {
        let (watched, trouble) = match found.condition.as_ref() {
            Some(Condition::Watched { directories, backend, .. }) => {
                (Some(json!({ "directories": directories, "by": backend.name(), "why": backend.why })), None)
            }
            Some(Condition::Trouble { why, .. }) => (None, Some(why)),
            None => (None, None),
        };
        json!({
            "files": entry.files(),
            "route": entry.route,
            "origin": entry.origin,
            "watched": watched,
            "trouble": trouble,
            "complete": found.complete.count + found.waiting.pending.held,
            "unfinished": found.waiting.pending.count,
        })
    };
    rehearsed.iter().map(one).collect()
}
