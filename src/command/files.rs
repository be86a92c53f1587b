//! `files`: the files that Bots has received, with the result of each and the reason of each failure.

use tokio_util::task::TaskTracker;

use crate::cli::{Files, Global};
use crate::config::parse;
use crate::edi::files::{FileFilter, received};
use crate::edi::stats::model::{FileState, ReceivedFile};
use crate::exit::{Error, Kind, Outcome};
use crate::runtime::bots_environment::django_settings;
use crate::runtime::init_db::database_config;
use crate::runtime::session::{App, run_until_shutdown, with_app};
use crate::status::text::{table, utc};

use super::{load_config, write_line};

/// Runs the command.
///
/// # Errors
/// 69 when the database cannot be read.
pub fn run(global: &Global, flags: &Files) -> Result<Outcome, Error> {
    let age = parse::age(&flags.since);
    let age = age.map_err(|text| Error::new(Kind::Usage, format!("--since {}: {text}", flags.since)))?;
    let filter = FileFilter {
        max_age: i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
        route: flags.route.clone(),
        failed: flags.errors,
        limit: flags.limit,
    };
    with_app(load_config(global, Vec::new())?, async |mut app| {
        let App { config, reaper, signals, .. } = &mut app;
        let reading = async {
            let django = django_settings(config, reaper).await?;
            let database = database_config(config, &django)?;
            received(&database, django.time_zone.as_deref(), &filter).await.map_err(Error::from)
        };
        match run_until_shutdown(signals, &TaskTracker::new(), reading).await {
            Ok(files) => print(&files?, flags),
            Err(exit) => return Ok(Outcome::Child(exit.code())),
        }
        Ok(Outcome::Success)
    })
}

fn print(files: &[ReceivedFile], flags: &Files) {
    match files {
        _ if flags.json => write_line(&serde_json::json!(files)),
        [] => write_line(&format!("no such files in the last {}", flags.since)),
        _ => {
            let lines = table(["RECEIVED", "ROUTE", "FILE", "RESULT", "SENT OR REASON"], files.iter().map(row));
            lines.iter().for_each(write_line);
        }
    }
}

fn row(file: &ReceivedFile) -> [String; 5] {
    let (result, rest) = match file.state {
        FileState::Done => ("done", file.output.as_str()),
        FileState::Error => ("error", file.error.lines().next().unwrap_or_default()),
        FileState::Stuck => ("stuck", "no step of a route took it further"),
    };
    [utc(file.received), file.route.clone(), file.name.clone(), result.to_owned(), rest.to_owned()]
}
