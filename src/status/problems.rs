//! Problems and their remedies. The status and the status page begin with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::edi::stats::model::{Failures, FileState, MAX_FILES, ProcessError, ReceivedFile, Route};
use crate::exit::{Exit, job_exit_in_words};
use crate::health::rules::{BOTSSYS, DATABASE, ProbeResponse, SPACE, TABLES, USERSYS};
use crate::health::state::{
    CachedEdiStats, ChannelFault, HealthState, IncompleteFiles, MountedPlugin, ServiceHealth, WatchStatus,
};
use crate::model::{ServiceName, counted};

/// Files that are named of a route.
const MAX_NAMED_FILES: usize = 5;

/// Maximum length of Bots's reason for a file, in characters.
const MAX_REASON: usize = 200;

/// Maximum plausible wait of a job for the previous run, in seconds.
const MAX_JOB_WAIT: i64 = 1800;

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub kind: ProblemKind,
    /// The problem.
    pub problem: String,
    /// If known, the time since when the problem exists, or when it last occurred: seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<i64>,
    /// The remedy.
    pub action: String,
    /// The newest affected files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ProblemFile>,
}

/// A file that was not processed completely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemFile {
    pub name: String,
    /// When it was received: seconds since 1970.
    pub received: i64,
    /// The beginning of Bots's own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// The subject of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    NotReady,
    Configuration,
    FileErrors,
    FilesStuck,
    ProcessError,
    LostRuns,
    Engine,
    Route,
    Directory,
    Job,
    Results,
}

impl Problem {
    fn new(kind: ProblemKind, problem: String, action: impl Into<String>) -> Self {
        Self { kind, problem, at: None, action: action.into(), files: Vec::new() }
    }

    fn at(self, at: i64) -> Self {
        Self { at: Some(at), ..self }
    }
}

/// All problems, those of services first. `ready` is the answer to that probe; `now` is in seconds since 1970.
pub(super) fn problems(health: &HealthState, ready: &ProbeResponse, now: i64) -> Vec<Problem> {
    let failed = ready.checks.iter().filter(|(_, is_good)| !is_good).zip(&ready.errors);
    let not_ready = failed
        .map(|((check, _), why)| Problem::new(ProblemKind::NotReady, format!("not ready: {why}"), action_for(check)));
    let refused = health.refused.iter().map(|fault| {
        let problem = format!("mounted configuration rejected: {fault}");
        Problem::new(ProblemKind::Configuration, problem, "correct that file; the previous configuration stays in use")
    });
    let rejected = match &health.plugin {
        MountedPlugin::Rejected(fault) => Some(fault),
        MountedPlugin::NotTried | MountedPlugin::Applied => None,
    };
    let plugin = rejected.map(|fault| {
        let problem = format!("plugin rejected: {fault}");
        Problem::new(
            ProblemKind::Configuration,
            problem,
            "correct it at its source; routes and scripts stay as they are",
        )
    });
    let mut found: Vec<Problem> = not_ready.chain(refused).chain(plugin).collect();
    found.extend(health.services.iter().filter_map(engine));
    found.extend(directories(health));
    match &health.results {
        Some(results) => found.extend(of_results(results, health, now)),
        None if health.services.is_empty() || !ready.healthy => {}
        None => {
            let why = health.results_error.as_deref().unwrap_or("not read yet");
            let problem = format!("runs and files have not been read from the database: {why}");
            found.push(Problem::new(ProblemKind::Results, problem, "wait some seconds after a start"));
        }
    }
    found
}

/// The remedy for a failed check or service of this name. After a start a check takes some seconds.
fn action_for(check: &str) -> String {
    match check {
        DATABASE => {
            "check that the database is running and reachable; bots-ctl config show prints its address".to_owned()
        }
        TABLES => "run bots-ctl init-db to complete the database".to_owned(),
        BOTSSYS | USERSYS => "mount the directory, or make it writable for this user".to_owned(),
        SPACE => {
            "free space on the volume; maxdays and maxdaysarchive in bots.ini set how long files are kept".to_owned()
        }
        service => format!("see the log lines of {service}"),
    }
}

fn of_results(results: &CachedEdiStats, health: &HealthState, now: i64) -> Vec<Problem> {
    let stats = &results.stats;
    let mut found = Vec::new();
    if let Some(error) = &results.error {
        let problem = format!("cannot update runs and routes from the database: {error}");
        found.push(Problem::new(
            ProblemKind::Results,
            problem,
            "runs and files shown here are outdated; check the database",
        ));
    }
    if stats.lost_runs > 0 {
        let were = if stats.lost_runs == 1 { "was" } else { "were" };
        let problem = format!("{} {were} interrupted and not recovered", counted(stats.lost_runs, "run"));
        let action = "find files that they received but did not send in Bots's web UI, and send them again";
        found.push(Problem::new(ProblemKind::LostRuns, problem, action));
    }
    found.extend(files(&stats.failures));
    found.extend(stats.failures.processes.iter().map(process));
    let watched = health.monitor.iter().flat_map(|monitor| monitor.directories.iter());
    found.extend(watched.filter_map(|watched| route(watched, &stats.all_routes)));
    found.extend(jobs(&stats.failures, now));
    found
}

/// Files with errors and files that are stuck, by route.
fn files(failures: &Failures) -> Vec<Problem> {
    let mut routes: BTreeMap<(bool, &str), Vec<&ReceivedFile>> = BTreeMap::new();
    for file in &failures.files {
        routes.entry((file.state == FileState::Stuck, &file.route)).or_default().push(file);
    }
    let or_more = if failures.files.len() == MAX_FILES { " or more" } else { "" };
    let problem = |((is_stuck, route), files): ((bool, &str), Vec<&ReceivedFile>)| {
        let count = format!("{}{or_more} {}", files.len(), if files.len() == 1 { "file" } else { "files" });
        let (kind, state, remedy) = match is_stuck {
            true => (
                ProblemKind::FilesStuck,
                "stuck: no step of the route processed them further",
                "complete the route, or the channel or partner it needs; then receive them again under Incoming in the web UI",
            ),
            false => (
                ProblemKind::FileErrors,
                "with errors",
                "correct the mapping and receive them again under Incoming in the web UI, or ask the partner for correct files",
            ),
        };
        let action = format!("{remedy}; bots-ctl files --errors --route {route} lists all");
        let newest = files.iter().take(MAX_NAMED_FILES).map(|file| ProblemFile {
            name: file.name.clone(),
            received: file.received,
            reason: first_line(&file.error),
        });
        let problem = Problem::new(kind, format!("route {route}: {count} {state}"), action);
        Problem { at: files.first().map(|file| file.received), files: newest.collect(), ..problem }
    };
    routes.into_iter().map(problem).collect()
}

fn process(error: &ProcessError) -> Problem {
    let route = if error.route.is_empty() { String::new() } else { format!(", route {}", error.route) };
    let problem = format!("error in run {}{route}: {}", error.run, first_line(&error.reason));
    let action = "fix the cause; Process errors in the web UI shows the full text, and the next run retries";
    Problem::new(ProblemKind::ProcessError, problem, action).at(error.at)
}

/// A problem of the scheduled engine. Exit code 2, errors in files, is reported separately.
fn engine(service: &ServiceHealth) -> Option<Problem> {
    let exit = service.last_exit.filter(|exit| !matches!(exit, Exit::Code(0 | 2)))?;
    (service.name == ServiceName::Engine.as_str()).then(|| {
        let end = job_exit_in_words("bots-engine", exit.code());
        let problem = format!("the last engine run ended with {end}");
        Problem::new(ProblemKind::Engine, problem, "see the log lines of the engine; the next run retries")
    })
}

/// Directories from which files are not taken.
fn directories(health: &HealthState) -> Vec<Problem> {
    let watched = health.monitor.iter().flat_map(|monitor| monitor.directories.iter());
    let not_watched = watched.filter_map(|WatchStatus { files, route, error, .. }| {
        let problem = format!("not watched: {files} for route {route}: {}", error.as_ref()?);
        let action = "create or mount the directory, or correct the path in bots.ini or in the channel";
        Some(Problem::new(ProblemKind::Directory, problem, action))
    });
    let watched = health.monitor.iter().flat_map(|monitor| monitor.directories.iter());
    let given_up = watched.filter_map(|WatchStatus { route, unfinished, .. }| {
        let IncompleteFiles { given_up, example, reason, .. } =
            unfinished.as_ref().filter(|files| files.given_up > 0)?;
        let problem =
            format!("route {route}: {} never became complete, such as {example}: {reason}", counted(*given_up, "file"));
        Some(Problem::new(ProblemKind::Directory, problem, "complete, rename or remove the file"))
    });
    not_watched.chain(given_up).chain(health.channels.iter().map(channel)).collect()
}

fn channel(fault: &ChannelFault) -> Problem {
    let ChannelFault { channel, route, files, error, waiting } = fault;
    match error {
        Some(error) => Problem::new(
            ProblemKind::Directory,
            format!("channel {channel} of route {route} cannot read files: {error}"),
            "create or mount the directory, or correct the path of the channel in the web UI",
        ),
        None => Problem::new(
            ProblemKind::Route,
            format!(
                "route {route} is not active: {} wait{} in {files}",
                counted(*waiting, "file"),
                if *waiting == 1 { "s" } else { "" }
            ),
            "activate the route in the web UI, or move the files away",
        ),
    }
}

/// A watched directory whose route no engine runs.
fn route(watched: &WatchStatus, all: &[Route]) -> Option<Problem> {
    let WatchStatus { files, route, oldest, .. } = watched;
    let (fault, action) = match all.iter().find(|known| known.name == *route) {
        Some(known) if known.is_active => return None,
        Some(_) => ("is not active", "activate the route in the web UI"),
        None => ("does not exist", "create the route in the web UI, or correct its name in bots.ini"),
    };
    let oldest = oldest.and_then(|oldest| oldest.duration_since(std::time::UNIX_EPOCH).ok());
    let wait = if oldest.is_some() { "files wait" } else { "files would wait" };
    let problem = Problem::new(ProblemKind::Route, format!("route {route} {fault}: {wait} in {files}"), action);
    Some(Problem { at: oldest.and_then(|oldest| i64::try_from(oldest.as_secs()).ok()), ..problem })
}

fn jobs(failures: &Failures, now: i64) -> Vec<Problem> {
    let failed = failures.jobs.failed.iter().map(|failed| {
        let (number, task) = (failed.number, &failed.task);
        let end = failed
            .exit_code
            .map_or("did not run".to_owned(), |code| format!("ended with {}", job_exit_in_words(task, code)));
        let more = match failed.count {
            ..=1 => String::new(),
            2 => "; the earlier job of this task failed too".to_owned(),
            count => format!("; the {} earlier jobs of this task failed too", count - 1),
        };
        let action =
            format!("bots-ctl job show {number} prints the end of its output; bots-ctl job add -- {task} reruns it");
        Problem::new(ProblemKind::Job, format!("job {number} ({task}) {end}{more}"), action).at(failed.ended)
    });
    let waiting = failures.jobs.oldest.iter().filter(|job| job.submitted < now - MAX_JOB_WAIT).map(|job| {
        let (number, task) = (job.number, &job.task);
        let problem = format!("job {number} ({task}) has been waiting for more than {} minutes", MAX_JOB_WAIT / 60);
        let action =
            "check that a job queue is running (bots-ctl jobqueue), and which engine it waits for (bots-ctl status)";
        Problem::new(ProblemKind::Job, problem, action).at(job.submitted)
    });
    failed.chain(waiting).collect()
}

/// The first line with text, cut.
fn first_line(reason: &str) -> String {
    let line = reason.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    match line.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::edi::stats::model::{EdiStats, FailedTask, JobFailures, WaitingJob};
    use crate::health::rules::{CONFIG, evaluate};
    use crate::health::state::CheckResult;
    use crate::model::Check;

    const NOW: i64 = 1_000_000;

    fn health(failures: Failures) -> HealthState {
        let stats = EdiStats { failures, ..EdiStats::default() };
        let results = CachedEdiStats { stats, read: Instant::now(), took: Duration::ZERO, error: None };
        let mut health = HealthState { results: Some(Arc::new(results)), ..HealthState::default() };
        health.checks.set(CONFIG, CheckResult::Ok);
        health
    }

    fn told(health: &HealthState) -> Vec<String> {
        problems(health, &evaluate(Check::Live, health), NOW).into_iter().map(|problem| problem.problem).collect()
    }

    #[test]
    fn failed_or_long_waiting_job_is_a_problem() {
        let waiting = |submitted| Some(WaitingJob { number: 9, task: "bots-engine r".to_owned(), submitted });
        let task = "/opt/report".to_owned();
        let failed = FailedTask { task, number: 7, ended: NOW, exit_code: Some(2), count: 3 };
        let of = |oldest, failed| health(Failures { jobs: JobFailures { failed, oldest }, ..Failures::default() });
        assert_eq!(told(&of(waiting(NOW - MAX_JOB_WAIT), vec![])), Vec::<String>::new());
        let both = told(&of(waiting(NOW - MAX_JOB_WAIT - 1), vec![failed]));
        let expected = [
            "job 7 (/opt/report) ended with exit code 2; the 2 earlier jobs of this task failed too",
            "job 9 (bots-engine r) has been waiting for more than 30 minutes",
        ];
        assert_eq!(both, expected);
    }

    #[test]
    fn last_engine_exit_is_a_problem_unless_about_files() {
        let ended = |code| {
            let engine = ServiceHealth { last_exit: Some(Exit::Code(code)), ..ServiceHealth::new("engine", false) };
            told(&HealthState { services: vec![engine], ..health(Failures::default()) })
        };
        assert!(ended(0).is_empty() && ended(2).is_empty());
        let taken =
            "the last engine run ended with exit code 3: no run: another engine is running, or its port is in use";
        assert_eq!(ended(3), [taken]);
    }

    #[test]
    fn interrupted_runs_and_incomplete_files_are_counted() {
        let mut health = health(Failures::default());
        let stats = EdiStats { lost_runs: 1, ..EdiStats::default() };
        let results = CachedEdiStats { stats, read: Instant::now(), took: Duration::ZERO, error: None };
        health.results = Some(Arc::new(results));
        assert_eq!(told(&health), ["1 run was interrupted and not recovered"]);
        let fault = ChannelFault {
            channel: "in".to_owned(),
            route: "r".to_owned(),
            files: "/in/*".to_owned(),
            error: None,
            waiting: 1,
        };
        assert_eq!(channel(&fault).problem, "route r is not active: 1 file waits in /in/*");
    }

    #[test]
    fn reason_is_limited_to_one_short_line() {
        assert_eq!(first_line("\n  a\nb"), "a");
        assert_eq!(first_line(&"é".repeat(300)).chars().count(), MAX_REASON + 1);
    }
}
