//! What `webserver`, `jobqueue`, `dirmonitor` and `up` have in common: prepare, start, watch, stop, and say how it went.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::admin::server;
use crate::admin::server::{Pages, Scrape};
use crate::bots::Installation;
use crate::bots::config_source::{Contents, Source};
use crate::bots::django_settings::{Context, Facts as DjangoFacts};
use crate::bots::environment::Environment;
use crate::bots::services::{Ground, JobQueue};
use crate::config::{Config, Fault, ServiceName};
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::health::checks::Targets;
use crate::health::state::{Fact, Facts, Service as ServiceFacts};
use crate::metrics::Exporter;
use crate::process::reaper::Reaper;
use crate::process::tree;
use crate::supervisor::group;
use crate::supervisor::group::Ended;
use crate::supervisor::state::End;

use super::bots_environment::{blocking, find_bots, health_targets, prepare_from, service_variables};
use super::config_reload::{Reloader, Running};
use super::events::Requests;
use super::init_db;
use super::relay::Relays;
use super::service_handle::{House, Seat};
use super::service_spec::{Launch, Scene};
use super::session::{Session, until_stopped};

/// Renewals that may wait; they are passed on at once.
const RENEWALS: usize = 8;

/// What a command asks for before it knows what is configured.
pub(crate) struct Choice<'a> {
    /// The services that probes are told of until the real ones are known.
    pub expected: Vec<ServiceName>,
    /// Whether the database is completed first.
    pub initialise: bool,
    /// Whether a hung service is replaced, unless the configuration says otherwise.
    pub restart_hung: bool,
    /// Reads the configuration of bots-ctl again.
    pub read: &'a dyn Fn() -> Result<(Config, Vec<Fault>), Error>,
    /// Says which services run, once it is known what Bots is configured with.
    pub choose: &'a dyn Fn(&Scene<'_>) -> Result<Vec<Launch>, Error>,
}

/// Runs one service that has a container of its own: when it is hung, the kubelet replaces that.
///
/// # Errors
/// As [`serve`].
pub(crate) async fn serve_one(
    session: Session,
    service: ServiceName,
    read: &dyn Fn() -> Result<(Config, Vec<Fault>), Error>,
    launch: &dyn Fn(&Scene<'_>) -> Result<Launch, Error>,
) -> Result<Outcome, Error> {
    let choice = Choice {
        expected: vec![service],
        // The web UI brings its database along.
        initialise: service == ServiceName::Webserver,
        restart_hung: false,
        read,
        choose: &|scene| Ok(vec![launch(scene)?]),
    };
    serve(session, choice).await
}

/// What a configuration has led to.
pub(crate) struct Ready {
    pub bots: Installation,
    pub environment: Environment,
    pub django: DjangoFacts,
    pub queue: JobQueue,
    /// What was mounted.
    pub contents: Contents,
    pub launches: Vec<Launch>,
    pub targets: Targets,
}

/// Runs services from the preparations to the end.
///
/// # Errors
/// Whatever keeps them from starting.
pub(crate) async fn serve(mut session: Session, choice: Choice<'_>) -> Result<Outcome, Error> {
    let started = Instant::now();
    let facts = start_health(&session, &choice.expected).await?;
    let critical = Cell::new(false);
    let Session { config, reaper, signals, .. } = &mut session;
    let preparing = prepare_all(config, reaper, &choice, &critical, &facts);
    let Ok(prepared) = until_stopped(signals, &critical, preparing).await else {
        // What was asked of Python no longer matters.
        tree::end_all(reaper, signals, &[], config.stop.timeout).await;
        info!("stopped before anything was started");
        return Ok(Outcome::Success);
    };
    let ready = prepared?;
    facts.send_modify(|facts| {
        facts.config = Fact::Good;
        facts.services = ready.launches.iter().map(Launch::facts).collect();
    });
    check_grace_period(config, &ready.launches);
    run(session, ready, &choice, &critical, facts, started).await
}

/// Binds and serves the health listener. It comes first: from here on probes see how far the start has come.
async fn start_health(session: &Session, expected: &[ServiceName]) -> Result<watch::Sender<Facts>, Error> {
    let Session { config, counters, lines, .. } = session;
    let health = config.health;
    let facts = Facts {
        services: expected.iter().map(|name| ServiceFacts::new(name.as_str(), *name != ServiceName::Engine)).collect(),
        misses_allowed: config.watchdog.misses,
        database_only: health.database_only,
        ..Facts::default()
    };
    let sender = watch::Sender::new(facts);
    let listener = server::bind(health.addr).await.map_err(|error| {
        let text = format!("cannot listen on {} for health probes: {error}", health.addr);
        Error::new(Kind::Unavailable, format!("{text}; set BOTS_CTL_HEALTH_ADDR to a free address"))
    })?;
    let exporter = Arc::new(Exporter::new(Arc::clone(counters), lines.clone(), config.metrics.names as usize));
    let metrics: Scrape = Arc::new(move |facts, accept| {
        let exporter = Arc::clone(&exporter);
        Box::pin(async move { exporter.page(facts, &accept).await })
    });
    let pages = Pages { metrics, has_status: health.status_page };
    tokio::spawn(server::serve(listener, sender.subscribe(), Arc::clone(counters), pages));
    Ok(sender)
}

async fn prepare_all(
    config: &Config,
    reaper: &Reaper,
    choice: &Choice<'_>,
    critical: &Cell<bool>,
    facts: &watch::Sender<Facts>,
) -> Result<Ready, Error> {
    let bots = find_bots(config, reaper).await?;
    let variables = service_variables(config, &bots);
    let (own, installed) = (config.clone(), bots.clone());
    let prepare = move || {
        let source = Source::mounted(&own.environment.config_source, &own.environment.config_dir)?;
        prepare_from(&own, &installed, &source).map(|environment| (environment, source.contents()))
    };
    let (environment, contents) = blocking(prepare).await??;
    let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
    let django = if choice.initialise && !config.database.init_skip {
        let begin = Instant::now();
        let settled = init_db::settle(config, &context, critical).await;
        let is_success = settled.is_ok();
        facts.send_modify(|facts| facts.initialised = Some((begin.elapsed(), is_success)));
        settled?
    } else {
        known_facts(&context).await?
    };
    facts.send_modify(|facts| facts.bots_version = Some(django.bots_version.clone()));
    let queue = JobQueue::read(&environment)?;
    let ground = Ground { bots: &bots, environment: &environment, variables: &variables };
    let launches = (choice.choose)(&Scene { config, ground, django: &django, queue: &queue, held: &[] })?;
    let targets = health_targets(config, &django)?;
    Ok(Ready { bots, environment, django, queue, contents, launches, targets })
}

/// What Django is configured with, from an earlier start if nothing has changed since.
pub(crate) async fn known_facts(context: &Context<'_>) -> Result<DjangoFacts, Error> {
    match DjangoFacts::kept(context) {
        Some(kept) => Ok(kept),
        None => Ok(DjangoFacts::ask(context).await?),
    }
}

/// The kubelet kills what takes longer, however long it was told to wait here.
fn check_grace_period(config: &Config, launches: &[Launch]) {
    let needed: Duration = launches.iter().map(|launch| launch.times.drain + launch.times.timeout).sum();
    if let Some(grace) = config.stop.grace_period.filter(|grace| *grace < needed) {
        let (needed, grace) = (needed.as_secs_f64(), grace.as_secs_f64());
        warn!(
            "stopping may take {needed} s (drain and stop timeout), but the grace period is {grace} s, after which \
             everything is killed: raise terminationGracePeriodSeconds and BOTS_CTL_GRACE_PERIOD, or lower \
             BOTS_CTL_DRAIN or BOTS_CTL_STOP_TIMEOUT"
        );
    }
}

async fn run(
    session: Session,
    mut ready: Ready,
    choice: &Choice<'_>,
    critical: &Cell<bool>,
    facts: watch::Sender<Facts>,
    started: Instant,
) -> Result<Outcome, Error> {
    let Session { config, reaper, signals, lines, counters, .. } = &mut { session };
    let launches = std::mem::take(&mut ready.launches);
    let mut relays = Relays::default();
    if launches.iter().all(|launch| launch.name != ServiceName::Jobqueue) {
        relays.begin(config, ready.queue.port, counters).await;
    }
    let names: Vec<&'static str> = launches.iter().map(|launch| launch.name.as_str()).collect();
    let answers = launches.iter().map(Launch::place).collect();
    let house = House { config, reaper, lines, counters, facts: &facts };
    let checking = house.check(&ready.targets);
    let launches = launches.into_iter().enumerate();
    let (seats, members): (Vec<_>, _) = launches.map(|(index, launch)| Seat::fill(index, launch, &house)).unzip();
    let (sender, renewals) = mpsc::channel(RENEWALS);
    let restart_hung = config.watchdog.restart.unwrap_or(choice.restart_hung);
    let mut requests = Requests::new(signals, facts.subscribe(), renewals, answers, restart_hung, started);
    let stopping = || {
        facts.send_modify(|facts| facts.stopping = true);
    };
    let changeable = Running { seats, relays, checking, renewals: sender };
    let reloading = Reloader::new(house, choice, critical, ready, changeable).follow();
    let running = group::run(members, reaper, async || requests.next().await, stopping);
    let (ends, ()) = tokio::join!(running, reloading);
    // What has left the groups of the services, a daemon for instance, is below us all the same.
    tree::end_all(reaper, signals, &[], config.stop.timeout).await;
    outcome(&names, ends)
}

/// How the command ends: as the first service did that did not stop as it was asked to.
fn outcome(names: &[&'static str], ends: Vec<(usize, Ended)>) -> Result<Outcome, Error> {
    let mut outcome = Ok(Outcome::Success);
    for (place, end) in ends {
        let ended = outcome_of(names[place], end);
        if outcome == Ok(Outcome::Success) {
            outcome = ended;
        }
    }
    outcome
}

/// How one service's end is told, and passed on.
pub(crate) fn outcome_of(name: &str, end: Ended) -> Result<Outcome, Error> {
    match end? {
        End::Stopped => {
            info!("{name} has stopped");
            Ok(Outcome::Success)
        }
        End::Killed => {
            warn!("{name} was killed");
            Ok(Outcome::Child(Exit::Signal(nix::libc::SIGKILL).code()))
        }
        End::Exited(exit) => {
            error!("{name} ended by itself with {exit}");
            Ok(Outcome::Child(exit.code()))
        }
        End::NotStarted => {
            let text =
                format!("cannot start {name}: the limit on processes (ulimit -u, pids.max) or memory is reached");
            Err(Error::new(Kind::Unavailable, text))
        }
    }
}
