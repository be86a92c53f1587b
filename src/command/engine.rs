//! `engine` and `bots-engine`: one run of the translation engine.

use std::ffi::OsString;

use tracing::info;

use crate::bots::engine_args::EngineArgs;
use crate::cli::{self, Global};
use crate::config::FlagOverride;
use crate::exit::{Error, Kind, Outcome};
use crate::process::forked::ForkedProcess;

use super::{load_config, overrides, write_stdout};
use crate::runtime::engine;
use crate::runtime::session::with_session;

/// The output for `?` and `--help` among the arguments of the engine, as of `bots-engine --help`.
const HELP: &str = "\
Runs Bots's translation engine once, as `bots-ctl engine` does.

Usage: bots-engine [-cDIRECTORY] [--new] [--resend] [--rereceive] [--automaticretrycommunication] [--cleanup] [ROUTE…]

Without options, new files are received and translated; without routes, all active ones run.
";

/// Runs the command.
///
/// # Errors
/// The faults of the arguments, and all errors that keep the engine from starting.
pub fn run(global: &Global, flags: &cli::Engine) -> Result<Outcome, Error> {
    let arguments = read(&engine_argv(flags))?;
    if let Some(directory) = arguments.config_dir {
        let text = format!("-c{} belongs to bots-engine: use --config-dir here", directory.display());
        return Err(Error::new(Kind::Usage, text));
    }
    let codes = Some(flags.success_exit_codes.join(",")).filter(|codes| !codes.is_empty());
    let allow_unknown = flags.allow_unknown_routes.then(|| "true".to_owned());
    let given = overrides([
        ("engine.success_exit_codes", "--success-exit-codes", codes),
        ("engine.lease_wait", "--lease-wait", flags.lease_wait.clone()),
        ("engine.allow_unknown_routes", "--allow-unknown-routes", allow_unknown),
    ]);
    run_with(global, given, arguments, None)
}

/// Runs the engine for a caller of `bots-engine`. The output is forwarded unchanged, since the caller expects that of Bots.
///
/// # Errors
/// As [`run()`].
pub fn as_bots_engine(argv: &[OsString]) -> Result<Outcome, Error> {
    let forked = ForkedProcess::take();
    let arguments = read(argv)?;
    if let Some(directory) = arguments.config_dir.as_ref().filter(|directory| !directory.is_dir()) {
        let text = format!("-c{}: there is no such directory", directory.display());
        return Err(Error::new(Kind::Configuration, text));
    }
    let global = Global { config_dir: arguments.config_dir.clone(), ..Global::default() };
    let output = [("log.format", "text"), ("log.child_output", "raw")];
    let given = overrides(output.map(|(path, value)| (path, "bots-engine", Some(value.to_owned()))));
    run_with(&global, given, arguments, forked)
}

fn read(argv: &[OsString]) -> Result<EngineArgs, Error> {
    EngineArgs::read(argv).map_err(|text| Error::new(Kind::Usage, text))
}

/// The arguments of `bots-engine` for these flags.
fn engine_argv(flags: &cli::Engine) -> Vec<OsString> {
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

fn run_with(
    global: &Global,
    given: Vec<FlagOverride>,
    arguments: EngineArgs,
    forked: Option<ForkedProcess>,
) -> Result<Outcome, Error> {
    if arguments.help {
        write_stdout(HELP);
        return Ok(Outcome::Success);
    }
    with_session(load_config(global, given)?, async |session| {
        let success_exit_codes = session.config.engine.success_exit_codes.clone();
        Ok(match engine::run(session, &arguments, forked).await? {
            Outcome::Child(code) if success_exit_codes.contains(&code) => {
                info!("exit code {code} of the engine counts as 0");
                Outcome::Success
            }
            outcome => outcome,
        })
    })
}
