//! `version`: the versions of bots-ctl, Bots, Python and Django.

use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::bots;
use crate::bots::versions::InstalledVersions;
use crate::cli::Global;
use crate::exit::{Error, Outcome};
use crate::runtime::bots_environment::find_bots;

use super::{for_one_shot, read_config, run_one_shot_with, write_line};

/// Prints the versions; if Bots is missing or cannot be imported, that of bots-ctl and the reason.
///
/// # Errors
/// When the home directory is unknown. Other errors of the configuration are ignored.
pub fn run(global: &Global, json: bool) -> Result<Outcome, Error> {
    let (config, _) = read_config(global, Vec::new())?;
    run_one_shot_with(for_one_shot(config), &TaskTracker::new(), async |config, reaper| {
        let found = async { find_bots(config, reaper).await?.versions(reaper).await };
        print(&found.await, json);
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
