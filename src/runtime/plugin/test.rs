//! `plugin test`: runs the tests of a plugin in a private environment.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::Deserialize;

use crate::config::Config;
use crate::exit::{Error, Kind};
use crate::fs::atomic::{describe_io_error, write_atomically};
use crate::plugin::acceptance::{Case, CaseResult, ChannelFiles, RunOutput, files_in, junit, read_cases};
use crate::process::reaper::Reaper;

use super::private::{PrivateEnvironment, describe_end};

/// More files than fail in all cases together: the list has those of earlier cases too.
const FILE_LIMIT: &str = "10000";

/// A file as in `files --json`.
#[derive(Deserialize)]
struct FailedFile {
    name: String,
    error: String,
}

/// Runs all tests. `show` gets each result as soon as it is available, `report` is a file for all of them.
///
/// # Errors
/// If there is no test, or the plugin cannot be applied.
pub(crate) async fn test(
    config: &Config,
    reaper: &Reaper,
    source: &Path,
    report: Option<&Path>,
    show: impl Fn(&CaseResult),
) -> Result<Vec<CaseResult>, Error> {
    let cases = read_cases(source)?;
    let environment = PrivateEnvironment::new(config, reaper, source).await?;
    let (mut results, mut failed) = (Vec::new(), 0);
    for case in cases {
        let begin = Instant::now();
        let mut differences = Vec::new();
        let channels = environment.channels();
        let unknown = case.inputs.keys().filter(|name| !channels.get(*name).is_some_and(|channel| channel.is_incoming));
        differences.extend(unknown.map(|name| format!("in/{name}: the plugin has no incoming channel {name}")));
        if differences.is_empty() {
            let found = run(&environment, &case, &mut failed).await?;
            differences = case.differences(&found);
        }
        let result = CaseResult { name: case.name, differences, seconds: begin.elapsed().as_secs_f64() };
        show(&result);
        results.push(result);
    }
    if let Some(file) = report {
        write_atomically(file, junit(&results).as_bytes(), 0o644)?;
    }
    Ok(results)
}

/// Runs the engine on the files of a case. `failed` is the number of files that failed before.
async fn run(environment: &PrivateEnvironment<'_>, case: &Case, failed: &mut usize) -> Result<RunOutput, Error> {
    environment.empty_channels()?;
    for (name, files) in &case.inputs {
        let Some(channel) = environment.channels().get(name) else { continue };
        for (name, content) in files {
            let path = channel.directory.join(name);
            fs::write(&path, content).map_err(|error| describe_io_error("write", &path, &error))?;
        }
    }
    let engine = environment.run(&["engine", "--new", "--success-exit-codes", "2"]).await?;
    if engine.exit.code() != 0 {
        return Err(Error::new(Kind::Failed, format!("{}: the engine {}", case.name, describe_end(&engine))));
    }
    let listed = environment.run(&["files", "--errors", "--json", "--limit", FILE_LIMIT]).await?;
    let mut errors: Vec<FailedFile> = serde_json::from_slice(&listed.stdout)
        .map_err(|error| Error::new(Kind::Internal, format!("cannot read the files that failed: {error}")))?;
    // The newest files come first.
    errors.truncate(errors.len().saturating_sub(*failed));
    *failed += errors.len();
    let mut outputs = ChannelFiles::new();
    for (name, channel) in environment.channels().iter().filter(|(_, channel)| !channel.is_incoming) {
        let files = files_in(&channel.directory)?;
        if !files.is_empty() {
            outputs.insert(name.clone(), files);
        }
    }
    let errors = errors.into_iter().map(|file| {
        let name = file.name.rsplit('/').next().unwrap_or_default().to_owned();
        format!("{name}: {}", file.error.lines().next().unwrap_or_default())
    });
    Ok(RunOutput { outputs, errors: errors.collect() })
}
