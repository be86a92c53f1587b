//! `engine`: one run of the translation engine, which is let finish.

use std::cell::Cell;
use std::ffi::OsString;

use tokio::sync::mpsc;
use tracing::info;

use crate::bots::service::{self, Ground};
use crate::cli::{self, Global};
use crate::config::Config;
use crate::exit::{Error, Exit, Outcome};
use crate::process::reaper::Reaper;
use crate::process::signals::{self, Signals};
use crate::process::tree;
use crate::supervisor::state::{End, Plan};
use crate::supervisor::task::{Control, Service, supervise};

use super::services::{never, outcome_of};
use super::{Session, child_variables, find_bots, load_config, prepare, until_stopped, with_session};

/// Runs the command.
///
/// # Errors
/// Whatever keeps the engine from starting.
pub fn run(global: &Global, flags: &cli::Engine) -> Result<Outcome, Error> {
    with_session(load_config(global, Vec::new())?, async |mut session| {
        let Session { config, reaper, signals, .. } = &mut session;
        let prepared = until_stopped(signals, &Cell::new(false), prepare_run(config, reaper, flags)).await;
        let service = match prepared {
            Ok(service) => service?,
            Err(exit) => {
                tree::end_all(reaper, signals, &[], config.stop.timeout).await;
                return Ok(Outcome::Child(exit.code()));
            }
        };
        follow(session, service).await
    })
}

async fn prepare_run(config: &Config, reaper: &Reaper, flags: &cli::Engine) -> Result<service::Service, Error> {
    let bots = find_bots(config, reaper).await?;
    let variables = child_variables(config, Some(&bots.bin_dir));
    let environment = prepare(config, &bots).await?;
    let ground = Ground { bots: &bots, environment: &environment, variables: &variables };
    Ok(ground.engine(&arguments(flags)))
}

/// As Bots's own engine takes them.
fn arguments(flags: &cli::Engine) -> Vec<OsString> {
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
