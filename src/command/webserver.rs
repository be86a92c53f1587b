//! `webserver`: everything from an empty machine to a web UI that answers, and its orderly end.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::bots;
use crate::bots::django::{Context, Facts as DjangoFacts};
use crate::bots::environment::Environment;
use crate::bots::service::{self, Service};
use crate::cli::{self, Global};
use crate::config::{Config, Override};
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::health::checks::{self, Targets};
use crate::health::report::{Fact, Facts, Phase};
use crate::health::server;
use crate::process::child::stop_own_group;
use crate::process::reaper::{Child, Reaper};
use crate::process::signals;
use crate::supervisor::output::carry;
use crate::supervisor::state::{End, Plan};
use crate::supervisor::task::{Control, supervise};
use crate::telemetry::lines::Stream;

use super::{
    Session, child_variables, find_bots, health_targets, init_db, install, load_config, prepare, until_stopped,
    with_session,
};

/// How long the last lines of a service may take to arrive after its end: they are in a pipe already.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs the command.
///
/// # Errors
/// Whatever keeps the web UI from starting.
pub fn run(global: &Global, flags: &cli::Webserver) -> Result<Outcome, Error> {
    let given = [("webserver.port", "--port", &flags.port), ("health.addr", "--health-addr", &flags.health_addr)];
    let given =
        given.into_iter().filter_map(|(path, flag, value)| Some(Override { path, flag, value: value.clone()? }));
    with_session(load_config(global, given.collect())?, async |mut session| {
        if flags.install
            && let Some(interrupted) = install_if_missing(&mut session).await?
        {
            return Ok(interrupted);
        }
        let started = Instant::now();
        let facts = start_health(&session).await?;
        let critical = Cell::new(false);
        let preparing = prepare_start(&session.config, &session.reaper, flags, &facts, &critical);
        let Ok(prepared) = until_stopped(&mut session.signals, &critical, preparing).await else {
            info!("stopped before the web UI was started");
            return Ok(Outcome::Success);
        };
        let (service, targets) = prepared?;
        serve(session, service, targets, facts, started).await
    })
}

async fn install_if_missing(session: &mut Session) -> Result<Option<Outcome>, Error> {
    match find_bots(&session.config, &session.reaper).await {
        Err(bots::Error::NotInstalled(_)) => install::interruptible(session, &[]).await,
        found => Ok(found.map(|_| None)?),
    }
}

/// Binds and serves the health listener. It comes first: from here on probes see how far the start has come.
async fn start_health(session: &Session) -> Result<watch::Sender<Facts>, Error> {
    let health = session.config.health;
    let facts = Facts { service: "webserver", database_only: health.database_only, ..Facts::default() };
    let sender = watch::Sender::new(facts);
    let listener = server::bind(health.addr).await.map_err(|error| {
        let text = format!("cannot listen on {} for health probes: {error}", health.addr);
        Error::new(Kind::Unavailable, format!("{text}; set BOTS_CTL_HEALTH_ADDR to a free address"))
    })?;
    tokio::spawn(server::serve(listener, sender.subscribe()));
    Ok(sender)
}

async fn prepare_start(
    config: &Config,
    reaper: &Reaper,
    flags: &cli::Webserver,
    facts: &watch::Sender<Facts>,
    critical: &Cell<bool>,
) -> Result<(Service, Targets), Error> {
    let bots = find_bots(config, reaper).await?;
    let variables = child_variables(config, Some(&bots.bin_dir));
    let environment = prepare(config, &bots).await?;
    let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
    let django = if config.database.init_skip {
        match DjangoFacts::kept(&context) {
            Some(kept) => kept,
            None => DjangoFacts::ask(&context).await?,
        }
    } else {
        init_db::settle(config, &context, critical).await?
    };
    check_web_port(&environment, django.web_port, config.health.addr.port())?;
    facts.send_modify(|facts| facts.config = Fact::Good);
    let targets = health_targets(config, &django)?;
    Ok((service::webserver(&bots, &environment, &variables, &flags.args), targets))
}

/// Bots itself would only find out after its start-up, and print a traceback.
fn check_web_port(environment: &Environment, port: u16, health_port: u16) -> Result<(), Error> {
    match StdListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Ok(()),
        Err(error) => {
            let reason = match error.kind() {
                io::ErrorKind::AddrInUse if port == health_port => "the health listener has it".to_owned(),
                io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
                _ => error.to_string(),
            };
            let ini = environment.config.join("bots.ini");
            let place = format!("[webserver] port in {}, or PORT, or --port", ini.display());
            Err(Error::new(Kind::Unavailable, format!("cannot serve the web UI on port {port}: {reason}; set {place}")))
        }
    }
}

async fn serve(
    session: Session,
    service: Service,
    targets: Targets,
    facts: watch::Sender<Facts>,
    started: Instant,
) -> Result<Outcome, Error> {
    let Session { config, reaper, signals, lines, .. } = &mut { session };
    let mut child = reaper.spawn(&service.spec)?;
    let output = carry_output(&mut child, &lines.of(service.name));
    let url = targets.service.url();
    tokio::spawn(checks::watch(targets, facts.clone()));
    let plan = Plan { drain: config.stop.drain, timeout: config.stop.timeout, stop_signal: service.stop_signal };
    let (sender, mut control) = mpsc::channel(16);
    let unready = || {
        facts.send_modify(|facts| facts.phase = Phase::Draining);
    };
    let answered = answered(facts.subscribe(), url, started);
    let supervised = supervise(service.name, child, &plan, reaper, &mut control, answered, unready);
    let end = tokio::select! {
        end = supervised => end,
        never = pass_on(signals, sender) => match never {},
    };
    facts.send_modify(|facts| facts.phase = Phase::Ended);
    for task in output {
        let _ = tokio::time::timeout(LAST_LINES, task).await;
    }
    Ok(outcome(service.name, end))
}

fn carry_output(child: &mut Child, lines: &crate::telemetry::lines::LineSink) -> Vec<JoinHandle<()>> {
    let streams = [(child.stdout.take(), Stream::Stdout), (child.stderr.take(), Stream::Stderr)];
    let carried = streams.into_iter().filter_map(|(fd, stream)| Some(carry(fd?, stream, lines.clone())));
    carried.collect()
}

/// Signals never end, so neither does passing them on.
async fn pass_on(signals: &mut signals::Signals, control: mpsc::Sender<Control>) -> Infallible {
    loop {
        let number = signals.next().await;
        if number == nix::libc::SIGTSTP {
            // Ctrl-Z gives the prompt back; the web UI goes on.
            stop_own_group();
            continue;
        }
        let told = if signals::asks_to_stop(number) { Control::Stop } else { Control::Forward(number) };
        if told == Control::Stop {
            info!("asked to stop by {}", signals::name(number));
        }
        if control.send(told).await.is_err() {
            std::future::pending::<Infallible>().await;
        }
    }
}

/// Resolves when the web UI has given its first sign of life, and never if it gives none.
async fn answered(mut facts: watch::Receiver<Facts>, url: String, started: Instant) {
    if facts.wait_for(|facts| facts.phase == Phase::Running).await.is_err() {
        std::future::pending::<()>().await;
    }
    info!("the web UI answers on {url} after {:.2} s", started.elapsed().as_secs_f64());
}

fn outcome(name: &str, end: End) -> Outcome {
    match end {
        End::Stopped => {
            info!("{name} has stopped");
            Outcome::Success
        }
        End::Killed => {
            warn!("{name} was killed");
            Outcome::Child(Exit::Signal(nix::libc::SIGKILL).code())
        }
        End::Exited(exit) => {
            error!("{name} ended by itself with {exit}");
            Outcome::Child(exit.code())
        }
    }
}
