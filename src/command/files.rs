//! `files`: the files that Bots has received, with their results and the reasons for failures.

use tokio_util::task::TaskTracker;

use crate::cli::{Files, Global};
use crate::config::parse;
use crate::edi::files::{FileFilter, received};
use crate::edi::stats::model::{FileState, ReceivedFile};
use crate::exit::{Error, Kind, Outcome};
use crate::runtime::bots_environment::django_settings;
use crate::runtime::init_db::database_config;
use crate::status::text::{table, utc};

use super::{run_one_shot, write_line};

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
    run_one_shot(global, Vec::new(), &TaskTracker::new(), async |config, reaper| {
        let django = django_settings(config, reaper).await?;
        let database = database_config(config, &django)?;
        print(&received(&database, django.time_zone.as_deref(), &filter).await?, flags);
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
        FileState::Stuck => ("stuck", "no step of a route processed it further"),
    };
    [utc(file.received), file.route.clone(), file.name.clone(), result.to_owned(), rest.to_owned()]
}
