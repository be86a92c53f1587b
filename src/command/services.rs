//! What `webserver`, `jobqueue`, `dirmonitor` and `up` have in common: prepare, start, watch, stop, and say how it went.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::bots::django::{Context, Facts as DjangoFacts};
use crate::bots::service::{Ground, JobQueue, Service, Sign};
use crate::config::{Config, RestartPolicy, ServiceName, StopTimes};
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::health::checks;
use crate::health::report::{Fact, Facts, Service as ServiceFacts};
use crate::health::server::{self, Pages, Scrape};
use crate::health::sign_of_life::{HttpService, SignOfLife};
use crate::health::{results, watchdog};
use crate::metrics::Exporter;
use crate::process::reaper::Reaper;
use crate::process::tree;
use crate::supervisor::fleet::{self, Ended, Member};
use crate::supervisor::state::{End, Plan, Policy, Restart};
use crate::supervisor::task;
use crate::telemetry::counters::Counters;
use crate::telemetry::lines::LineSink;

use super::native_monitor::NativeMonitor;
use super::native_queue::NativeQueue;
use super::relay;
use super::requests::{Requests, note};
use super::{Session, child_variables, find_bots, health_targets, init_db, prepare, until_stopped};

/// What a command asks for before it knows what is configured.
pub(super) struct Choice {
    /// The services that probes are told of until the real ones are known.
    pub expected: Vec<ServiceName>,
    /// Whether the database is completed first.
    pub initialise: bool,
    /// Whether a hung service is replaced, unless the configuration says otherwise.
    pub restart_hung: bool,
}

/// A service and how this command runs it.
pub(super) struct Launch {
    pub name: ServiceName,
    pub times: StopTimes,
    pub work: Work,
}

/// What a service is.
pub(super) enum Work {
    /// A process of Bots.
    Process(Box<Process>),
    /// The job queue of our own.
    Queue(Box<NativeQueue>),
    /// The directory monitor of our own.
    Monitor(Box<NativeMonitor>),
}

/// A service that is a process of Bots.
pub(super) struct Process {
    service: Service,
    /// How often, for a service that is meant to end.
    every: Option<Duration>,
    /// How long what it leaves may delay the next process: another job queue beside an engine would lose jobs.
    settle: Duration,
}

impl Launch {
    pub fn new(service: Service, config: &Config) -> Self {
        let (name, times) = (service.name, times(service.name, config));
        let settle = if name == ServiceName::Jobqueue { times.timeout } else { Duration::ZERO };
        Self { name, times, work: Work::Process(Box::new(Process { service, every: None, settle })) }
    }

    /// A service that is meant to end, and is run so often.
    pub fn every(service: Service, every: Duration, config: &Config) -> Self {
        let (name, times) = (service.name, times(service.name, config));
        let process = Process { service, every: Some(every), settle: Duration::ZERO };
        Self { name, times, work: Work::Process(Box::new(process)) }
    }

    pub fn queue(queue: NativeQueue, config: &Config) -> Self {
        let name = ServiceName::Jobqueue;
        Self { name, times: times(name, config), work: Work::Queue(Box::new(queue)) }
    }

    pub fn monitor(monitor: NativeMonitor, config: &Config) -> Self {
        let name = ServiceName::Dirmonitor;
        Self { name, times: times(name, config), work: Work::Monitor(Box::new(monitor)) }
    }

    fn sign(&self) -> &Sign {
        match &self.work {
            Work::Process(process) => &process.service.sign,
            Work::Queue(_) | Work::Monitor(_) => &Sign::None,
        }
    }

    fn facts(&self) -> ServiceFacts {
        let takes_work = !matches!(self.work, Work::Process(_)) || *self.sign() != Sign::None;
        ServiceFacts::new(self.name.as_str(), takes_work)
    }
}

fn times(name: ServiceName, config: &Config) -> StopTimes {
    match name {
        ServiceName::Webserver => config.stop.webserver,
        ServiceName::Jobqueue => config.stop.jobqueue,
        ServiceName::Dirmonitor => config.stop.dirmonitor,
        ServiceName::Engine => config.stop.engine,
    }
}

/// Runs services from the preparations to the end: `choose` says which, once it is known what Bots is configured with.
///
/// # Errors
/// Whatever keeps them from starting.
pub(super) async fn serve(
    mut session: Session,
    choice: Choice,
    choose: impl FnOnce(&Config, &Ground<'_>, &DjangoFacts) -> Result<Vec<Launch>, Error>,
) -> Result<Outcome, Error> {
    let started = Instant::now();
    let facts = start_health(&session, &choice.expected).await?;
    let critical = Cell::new(false);
    let Session { config, reaper, signals, counters, .. } = &mut session;
    let preparation = Preparation { config, reaper, counters, facts: &facts, initialise: choice.initialise };
    let preparing = preparation.run(&critical, choose);
    let Ok(prepared) = until_stopped(signals, &critical, preparing).await else {
        // What was asked of Python no longer matters.
        tree::end_all(reaper, signals, &[], config.stop.timeout).await;
        info!("stopped before anything was started");
        return Ok(Outcome::Success);
    };
    let (launches, targets) = prepared?;
    facts.send_modify(|facts| {
        facts.config = Fact::Good;
        facts.services = launches.iter().map(Launch::facts).collect();
    });
    check_grace_period(config, &launches);
    let (database, time_zone) = (targets.database.clone(), targets.time_zone.clone());
    tokio::spawn(results::watch(database, time_zone, config.health.results_interval, facts.clone()));
    tokio::spawn(checks::watch(targets, Arc::clone(counters), facts.clone()));
    let restart_hung = config.watchdog.restart.unwrap_or(choice.restart_hung);
    run(session, launches, facts, restart_hung, started).await
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

/// What comes before any service is started.
struct Preparation<'a> {
    config: &'a Config,
    reaper: &'a Reaper,
    counters: &'a Arc<Counters>,
    facts: &'a watch::Sender<Facts>,
    /// Whether the database is completed.
    initialise: bool,
}

impl Preparation<'_> {
    async fn run(
        self,
        critical: &Cell<bool>,
        choose: impl FnOnce(&Config, &Ground<'_>, &DjangoFacts) -> Result<Vec<Launch>, Error>,
    ) -> Result<(Vec<Launch>, checks::Targets), Error> {
        let Self { config, reaper, counters, .. } = self;
        let bots = find_bots(config, reaper).await?;
        let variables = child_variables(config, Some(&bots.bin_dir));
        let environment = prepare(config, &bots).await?;
        let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
        let django = if self.initialise && !config.database.init_skip {
            self.initialise(&context, critical).await?
        } else {
            known_facts(&context).await?
        };
        self.facts.send_modify(|facts| facts.bots_version = Some(django.bots_version.clone()));
        let ground = Ground { bots: &bots, environment: &environment, variables: &variables };
        let launches = choose(config, &ground, &django)?;
        if launches.iter().all(|launch| launch.name != ServiceName::Jobqueue) {
            relay::start(config, &environment, counters).await;
        }
        Ok((launches, health_targets(config, &django)?))
    }

    async fn initialise(&self, context: &Context<'_>, critical: &Cell<bool>) -> Result<DjangoFacts, Error> {
        let begin = Instant::now();
        let settled = init_db::settle(self.config, context, critical).await;
        let is_success = settled.is_ok();
        self.facts.send_modify(|facts| facts.initialised = Some((begin.elapsed(), is_success)));
        settled
    }
}

/// What Django is configured with, from an earlier start if nothing has changed since.
pub(super) async fn known_facts(context: &Context<'_>) -> Result<DjangoFacts, Error> {
    match DjangoFacts::kept(context) {
        Some(kept) => Ok(kept),
        None => Ok(DjangoFacts::ask(context).await?),
    }
}

/// Bots itself would only find out after its start-up, and print a traceback.
pub(super) fn check_web_port(config: &Config, ground: &Ground<'_>, django: &DjangoFacts) -> Result<(), Error> {
    let ini = ground.environment.config.join("bots.ini");
    let place = format!("[webserver] port in {}, or PORT, or --port", ini.display());
    check_port(config, Ipv4Addr::UNSPECIFIED, django.web_port, "serve the web UI", &place)
}

/// Bots's job queue would print a traceback and stay alive without a listener.
pub(super) fn check_queue_port(config: &Config, queue: &JobQueue) -> Result<(), Error> {
    let place = format!("[jobqueue] port in {}", queue.file.display());
    check_port(config, Ipv4Addr::LOCALHOST, queue.port, "serve the job queue", &place)
}

fn check_port(config: &Config, address: Ipv4Addr, port: u16, what: &str, place: &str) -> Result<(), Error> {
    let Err(error) = StdListener::bind((address, port)) else { return Ok(()) };
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse if port == config.health.addr.port() => "the health listener has it".to_owned(),
        io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
        _ => error.to_string(),
    };
    Err(Error::new(Kind::Unavailable, format!("cannot {what} on port {port}: {reason}; set {place}")))
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
    launches: Vec<Launch>,
    facts: watch::Sender<Facts>,
    restart_hung: bool,
    started: Instant,
) -> Result<Outcome, Error> {
    let Session { config, reaper, signals, lines, counters, .. } = &mut { session };
    let names: Vec<&'static str> = launches.iter().map(|launch| launch.name.as_str()).collect();
    let urls = launches.iter().map(|launch| place(launch.sign())).collect();
    for (index, launch) in launches.iter().enumerate() {
        if let Some(sign) = sign_of_life(launch.sign()) {
            tokio::spawn(watchdog::watch(index, sign, config.health.interval, facts.clone()));
        }
    }
    let members = launches.into_iter().enumerate();
    let members =
        members.map(|(index, launch)| member(index, launch, config, reaper, lines, counters, &facts)).collect();
    let mut requests = Requests::new(signals, facts.subscribe(), urls, restart_hung, started);
    let stopping = || {
        facts.send_modify(|facts| facts.stopping = true);
    };
    let ends = fleet::run(members, reaper, async || requests.next().await, stopping).await;
    // What has left the groups of the services, a daemon for instance, is below us all the same.
    tree::end_all(reaper, signals, &[], config.stop.timeout).await;
    outcome(&names, ends)
}

fn member(
    index: usize,
    launch: Launch,
    config: &Config,
    reaper: &Reaper,
    lines: &LineSink,
    counters: &Arc<Counters>,
    facts: &watch::Sender<Facts>,
) -> Member {
    let name = launch.name.as_str();
    let lines = if launch.name == ServiceName::Engine { lines.of_runs(name) } else { lines.of(name) };
    let mut turn = facts.subscribe();
    Member {
        name,
        work: match launch.work {
            Work::Process(service) => {
                fleet::Work::Process(Box::new(process(index, *service, launch.times, config, lines, facts.clone())))
            }
            Work::Queue(queue) => fleet::Work::Task(queue.task(index, reaper, &lines, facts)),
            Work::Monitor(monitor) => fleet::Work::Task(monitor.task(index, facts, counters)),
        },
        turn: Box::pin(async move {
            let _ = turn.wait_for(|facts| facts.services[..index].iter().all(|service| service.answered)).await;
        }),
    }
}

fn process(
    index: usize,
    process: Process,
    times: StopTimes,
    config: &Config,
    lines: LineSink,
    facts: watch::Sender<Facts>,
) -> fleet::Process {
    let Process { service, every, settle } = process;
    let restart = if every.is_some() { never(config) } else { restart(config) };
    let plan = Plan { drain: times.drain, timeout: times.timeout, stop_signal: service.stop_signal, settle, restart };
    let is_watched = service.sign != Sign::None;
    fleet::Process {
        service: task::Service { name: service.name.as_str(), spec: service.spec, plan, lines, is_watched },
        every,
        observe: Box::new(move |snapshot| {
            facts.send_modify(|facts| note(&mut facts.services[index], snapshot, is_watched, every.is_some()));
        }),
    }
}

/// The restart rules of the configuration, in the supervisor's terms.
pub(super) fn restart(config: &Config) -> Restart {
    let policy = match config.restart.policy {
        RestartPolicy::Never => Policy::Never,
        RestartPolicy::OnFailure => Policy::OnFailure,
        RestartPolicy::Always => Policy::Always,
    };
    let crate::config::Restart { limit, delay, longest_delay, reset_after, .. } = config.restart;
    Restart { policy, limit, delay, longest_delay, reset_after }
}

/// For a service that ends by itself. Want of processes is waited for all the same.
pub(super) fn never(config: &Config) -> Restart {
    Restart { policy: Policy::Never, ..restart(config) }
}

fn sign_of_life(sign: &Sign) -> Option<SignOfLife> {
    match sign {
        Sign::Web { port, path, https } => {
            Some(SignOfLife::Http(HttpService { port: *port, path: path.clone(), tls: *https }))
        }
        Sign::JobQueue { port } => Some(SignOfLife::JobQueue(*port)),
        Sign::Inotify => Some(SignOfLife::Inotify),
        Sign::None => None,
    }
}

/// Where a person on this machine finds it.
fn place(sign: &Sign) -> String {
    match sign {
        Sign::Web { port, https, .. } => {
            format!("the web UI answers on {}://localhost:{port}", if *https { "https" } else { "http" })
        }
        Sign::JobQueue { port } => format!("the job queue answers on port {port}"),
        Sign::Inotify => "the directory monitor watches".to_owned(),
        Sign::None => String::new(),
    }
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
pub(super) fn outcome_of(name: &str, end: Ended) -> Result<Outcome, Error> {
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
