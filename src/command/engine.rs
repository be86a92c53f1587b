//! `engine` and `bots-engine`: one run of the translation engine, which is let finish.

use std::cell::Cell;
use std::ffi::OsString;

use tokio::sync::mpsc;
use tracing::info;

use crate::bots::arguments::EngineArguments;
use crate::bots::service::{self, Ground};
use crate::cli::{self, Global};
use crate::config::{Config, Override};
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::process::reaper::Reaper;
use crate::process::signals::{self, Signals};
use crate::process::tree;
use crate::supervisor::state::{End, Plan};
use crate::supervisor::task::{Control, Service, supervise};

use super::services::{never, outcome_of};
use super::{Session, child_variables, find_bots, load_config, prepare, print, until_stopped, with_session};

/// What `bots-engine --help` prints.
const HELP: &str = "\
Runs Bots's translation engine once, as `bots-ctl engine` does.

Usage: bots-engine [-cDIRECTORY] [--new] [--resend] [--rereceive] [--automaticretrycommunication] [--cleanup] [ROUTE…]

Without an option new files are received and translated; without a route all active ones are run.
";

/// Runs the command.
///
/// # Errors
/// What is wrong with the arguments, or whatever else keeps the engine from starting.
pub fn run(global: &Global, flags: &cli::Engine) -> Result<Outcome, Error> {
    let arguments = read(&words(flags))?;
    if let Some(directory) = arguments.config_dir {
        let text = format!("-c{} belongs to bots-engine: use --config-dir here", directory.display());
        return Err(Error::new(Kind::Usage, text));
    }
    let ok_exits = Some(flags.ok_exits.join(",")).filter(|codes| !codes.is_empty());
    let given = ok_exits.map(|value| Override { path: "engine.ok_exit", flag: "--ok-exit", value });
    start(global, given.into_iter().collect(), arguments)
}

/// Runs the engine for whoever called us by its name. What it prints passes unchanged: the caller expects Bots.
///
/// # Errors
/// As [`run`].
pub fn as_bots_engine(words: &[OsString]) -> Result<Outcome, Error> {
    let arguments = read(words)?;
    if arguments.help {
        print(HELP);
        return Ok(Outcome::Success);
    }
    if let Some(directory) = arguments.config_dir.as_ref().filter(|directory| !directory.is_dir()) {
        let text = format!("-c{}: there is no such directory", directory.display());
        return Err(Error::new(Kind::Configuration, text));
    }
    let global = Global { config_dir: arguments.config_dir.clone(), ..Global::default() };
    let shape = |path, value: &str| Override { path, flag: "bots-engine", value: value.to_owned() };
    start(&global, vec![shape("log.format", "text"), shape("log.child_output", "raw")], arguments)
}

fn read(words: &[OsString]) -> Result<EngineArguments, Error> {
    EngineArguments::read(words).map_err(|text| Error::new(Kind::Usage, text))
}

/// As Bots's own engine takes them.
fn words(flags: &cli::Engine) -> Vec<OsString> {
    let given = [
        (flags.new, "--new"),
        (flags.resend, "--resend"),
        (flags.rereceive, "--rereceive"),
        (flags.automaticretrycommunication, "--automaticretrycommunication"),
        (flags.cleanup, "--cleanup"),
    ];
    let options = given.into_iter().filter(|(is_given, _)| *is_given).map(|(_, option)| option.into());
    options.chain(flags.routes.iter().map(Into::into)).chain(flags.args.iter().cloned()).collect()
}

fn start(global: &Global, given: Vec<Override>, arguments: EngineArguments) -> Result<Outcome, Error> {
    with_session(load_config(global, given)?, async |mut session| {
        let Session { config, reaper, signals, .. } = &mut session;
        let prepared = until_stopped(signals, &Cell::new(false), prepare_run(config, reaper, &arguments)).await;
        let service = match prepared {
            Ok(service) => service?,
            Err(exit) => {
                tree::end_all(reaper, signals, &[], config.stop.timeout).await;
                return Ok(Outcome::Child(exit.code()));
            }
        };
        let ok_exits = session.config.engine.ok_exits.clone();
        Ok(match follow(session, service).await? {
            Outcome::Child(code) if ok_exits.contains(&code) => {
                info!("exit code {code} of the engine counts as 0 (--ok-exit)");
                Outcome::Success
            }
            outcome => outcome,
        })
    })
}

async fn prepare_run(config: &Config, reaper: &Reaper, arguments: &EngineArguments) -> Result<service::Service, Error> {
    let bots = find_bots(config, reaper).await?;
    let variables = child_variables(config, Some(&bots.bin_dir));
    let environment = prepare(config, &bots).await?;
    let ground = Ground { bots: &bots, environment: &environment, variables: &variables };
    Ok(ground.engine(&arguments.words()))
}

async fn follow(session: Session, service: service::Service) -> Result<Outcome, Error> {
    let Session { config, reaper, signals, lines, .. } = &mut { session };
    let name = service.name.as_str();
    let times = config.stop.engine;
    let plan = Plan {
        drain: times.drain,
        timeout: times.timeout,
        stop_signal: service.stop_signal,
        settle: times.drain,
        restart: never(config),
    };
    let service = Service { name, spec: service.spec, plan, lines: lines.of(name), is_watched: false };
    let (sender, mut control) = mpsc::channel(64);
    let end = tokio::select! {
        end = supervise(&service, reaper, &mut control, Vec::new(), |_| {}) => end?,
        never = pass_on(&mut *signals, sender) => match never {},
    };
    tree::end_all(reaper, signals, &[], times.timeout).await;
    match end {
        // The engine's own code is its answer, also when it was asked to stop.
        End::Exited(exit) => Ok(Outcome::Child(exit.code())),
        End::Stopped => Ok(Outcome::Child(Exit::Code(0).code())),
        End::Killed | End::NotStarted => outcome_of(name, Ok(end)),
    }
}

/// Signals never end, so neither does passing them on. Of those that ask to stop, none reaches the engine: it would
/// leave a crash behind, or lose the files it has taken.
async fn pass_on(signals: &mut Signals, control: mpsc::Sender<Control>) -> std::convert::Infallible {
    loop {
        let number = signals.next().await;
        let told = if signals::asks_to_stop(number) { Control::Stop } else { Control::Forward(number) };
        if told == Control::Stop {
            info!("asked to stop by {}: the engine finishes its run", signals::name(number));
        }
        if control.send(told).await.is_err() {
            std::future::pending::<std::convert::Infallible>().await;
        }
    }
}
