//! `version`: the versions of bots-ctl, Bots, Python and Django.

use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::bots;
use crate::bots::versions::InstalledVersions;
use crate::cli::Global;
use crate::exit::{Error, Outcome};
use crate::runtime::bots_environment::find_bots;
use crate::runtime::session::{Session, run_until_shutdown, with_session};

use super::{for_one_shot, read_config, write_line};

/// Prints the versions; if Bots is missing or cannot be imported, that of bots-ctl and the reason.
///
/// # Errors
/// When the configuration file cannot be read.
pub fn run(global: &Global, json: bool) -> Result<Outcome, Error> {
    let (config, _) = read_config(global, Vec::new())?;
    with_session(for_one_shot(config), async |mut session| {
        let Session { config, reaper, signals, .. } = &mut session;
        let asking = async { find_bots(config, reaper).await?.versions(reaper).await };
        match run_until_shutdown(signals, &TaskTracker::new(), asking).await {
            Ok(found) => print(&found, json),
            Err(exit) => return Ok(Outcome::Child(exit.code())),
        }
        Ok(Outcome::Success)
    })
}

fn print(found: &Result<InstalledVersions, bots::Error>, json: bool) {
    let own = env!("CARGO_PKG_VERSION");
    match found {
        Ok(InstalledVersions { bots, python, django }) if json => {
            write_line(&json!({ "bots-ctl": own, "bots": bots, "python": python, "django": django }));
        }
        Ok(InstalledVersions { bots, python, django }) => {
            write_line(&format!("bots-ctl {own}\nBots {bots}\nPython {python}\nDjango {django}"));
        }
        Err(error) if json => write_line(&json!({ "bots-ctl": own, "error": error.to_string() })),
        Err(error) => write_line(&format!("bots-ctl {own}\n{error}")),
    }
}
