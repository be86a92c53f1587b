//! `demo`: a small translation, to see Bots work.

use tokio_util::task::TaskTracker;

use crate::cli::{Demo, Global};
use crate::exit::{Error, Outcome};
use crate::plugin::{demo::ROUTE, show};
use crate::runtime::plugin::apply_demo;
use crate::telemetry::escape::escape_control;

use super::{run_one_shot, write_line};

/// Runs the command.
///
/// # Errors
/// As `plugin apply`.
pub fn run(global: &Global, flags: &Demo) -> Result<Outcome, Error> {
    let critical = TaskTracker::new();
    run_one_shot(global, Vec::new(), &critical, async |config, reaper| {
        let applied = apply_demo(config, reaper, flags.remove, &critical, |plan, _| {
            show::text(plan).iter().for_each(|line| write_line(&escape_control(line)));
        })
        .await?;
        match flags.remove {
            true if applied.change.is_applied => write_line("the demo is removed"),
            true => write_line("nothing to do"),
            false => write_line(&format!(
                "an order is in {}; translate it with `bots-ctl engine {ROUTE}`, and read {}",
                applied.sample.display(),
                applied.output.display()
            )),
        }
        Ok(Outcome::Success)
    })
}
