//! The status as text, for a terminal.

use super::edi::{ResultsStatus, RouteStatus};
use super::model::{ServiceStatus, Status};
use super::problems::Problem;
use crate::edi::stats::model::{EngineRunStats, FileCounts, FileState};
use crate::health::state::{IncompleteFiles, MonitorStatus, WatchStatus};
use crate::model::counted;
use crate::telemetry::escape::escape_control;

/// Directories without errors that are named.
const MAX_LISTED_DIRECTORIES: usize = 20;

/// Runs that are listed.
const MAX_LISTED_RUNS: usize = 10;

/// Maximum number of listed routes; those with errors come first.
const MAX_LISTED_ROUTES: usize = 20;

/// The whole status as text. Control characters are escaped, since names in the database may contain some that move a
/// terminal's cursor or forge a line.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut lines = problems(&status.problems);
    lines.push(String::new());
    lines.extend(services(&status.services));
    if let Some(engine) = &status.engine {
        lines.push(format!("engine running: {} for {}", engine.holder, in_words(engine.seconds)));
    }
    lines.extend(engine_times(status));
    let queues = status.services.iter().filter_map(|service| Some((&service.name, service.jobs?)));
    lines.extend(queues.map(|(name, jobs)| format!("{name}: {} waiting, {} running", jobs.waiting, jobs.running)));
    lines.extend(status.monitor.as_ref().map(directories).unwrap_or_default());
    lines.extend(status.results.as_ref().map(|last| results(last, status.now)).unwrap_or_default());
    lines.iter().map(|line| format!("{}\n", escape_control(line))).collect()
}

fn problems(problems: &[Problem]) -> Vec<String> {
    let mut lines = vec![match problems.len() {
        0 => "no problems".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    }];
    for (number, Problem { problem, at, action, files, .. }) in (1..).zip(problems) {
        let at = at.map(|at| format!(" ({})", utc(at))).unwrap_or_default();
        lines.push(format!("{number}. {problem}{at}"));
        lines.extend(files.iter().map(|file| format!("   {}  {}: {}", utc(file.received), file.name, file.reason)));
        lines.push(format!("   {action}"));
    }
    lines
}

/// The time of the last engine run, and of the next one if there is a schedule.
fn engine_times(status: &Status) -> Option<String> {
    let results = status.results.as_ref()?;
    let last = match results.runs.first() {
        Some(run) => format!("the last engine run was {} (run {})", ago(run.started, status.now), run.id),
        // Results are read at intervals, so the first run appears late.
        None => format!("no engine run yet, as of {} ago", in_words(results.age)),
    };
    let next = status.services.iter().find_map(|service| service.next);
    Some(format!("{last}{}", next.map(|next| format!("; the next is in {}", in_words(next))).unwrap_or_default()))
}

fn services(services: &[ServiceStatus]) -> Vec<String> {
    const HEAD: [&str; 7] = ["SERVICE", "STATE", "READY", "PID", "UPTIME", "RESTARTS", "LAST EXIT"];
    table(HEAD, services.iter().map(service))
}

fn service(service: &ServiceStatus) -> [String; 7] {
    let ready = service.ready.map(|ready| if ready { "yes" } else { "no" }.to_owned());
    [
        service.name.clone(),
        service.state.clone(),
        or_dash(ready),
        or_dash(service.pid.map(|pid| pid.to_string())),
        or_dash(service.uptime.map(in_words)),
        service.restarts.to_string(),
        or_dash(service.last_exit.clone()),
    ]
}

/// The watched directories; failed ones are listed as problems. Beyond a limit they are only counted.
fn directories(monitor: &MonitorStatus) -> Vec<String> {
    let well: Vec<_> = monitor.directories.iter().filter(|directory| directory.error.is_none()).collect();
    let named = well.iter().take(MAX_LISTED_DIRECTORIES);
    let named = named
        .map(|WatchStatus { files, route, method, .. }| format!("watched: {files} for route {route}, by {method}"));
    let mut lines: Vec<String> = named.collect();
    if let Some(more) = well.len().checked_sub(MAX_LISTED_DIRECTORIES).filter(|more| *more > 0) {
        lines.push(format!("watched: {more} more"));
    }
    let unfinished = monitor.directories.iter().filter_map(|one| Some(in_line(&one.route, one.unfinished.as_ref()?)));
    lines.extend(unfinished);
    if monitor.pending_routes > 0 {
        lines.push(format!("waiting for the job queue: {}", counted(monitor.pending_routes, "route")));
    }
    lines
}

/// Incomplete files that delay a route, or no longer do.
fn in_line(route: &str, unfinished: &IncompleteFiles) -> String {
    let IncompleteFiles { count, example, reason, since, held, given_up } = unfinished;
    let more = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
    let effect = match (given_up, held) {
        (0, 0) => String::new(),
        (0, 1) => "; 1 complete file waits for it".to_owned(),
        (0, held) => format!("; {held} complete files wait for it"),
        (given_up, _) => format!("; {given_up} never became complete"),
    };
    let time = in_words(since.elapsed().as_secs());
    format!("not complete: {example}{more} for route {route}, for {time}: {reason}{effect}")
}

fn results(last: &ResultsStatus, now: u64) -> Vec<String> {
    const RUNS: [&str; 8] = ["RUN", "STARTED", "TYPE", "TOOK", "FILES IN", "SENT", "ERRORS", "STUCK"];
    const ROUTES: [&str; 6] = ["ROUTE", "LAST FILE", "FILES IN", "SENT", "ERRORS", "STUCK"];
    let mut lines = Vec::new();
    if !last.runs.is_empty() {
        lines.push(String::new());
        lines.extend(table(RUNS, last.runs.iter().take(MAX_LISTED_RUNS).map(|listed| run(listed, now))));
    }
    if !last.routes.is_empty() {
        let mut routes: Vec<&RouteStatus> = last.routes.iter().collect();
        routes.sort_by_key(|route| (!route.has_errors(), std::cmp::Reverse(route.last)));
        lines.extend([String::new(), format!("files since {}:", ago(last.since, now))]);
        lines.extend(table(ROUTES, routes.iter().take(MAX_LISTED_ROUTES).map(|listed| route(listed, now))));
    }
    let all = last.routes.len() as u64 + last.more_routes;
    if let Some(more) = all.checked_sub(MAX_LISTED_ROUTES as u64).filter(|more| *more > 0) {
        lines.push(format!("{more} more routes"));
    }
    if let Some(error) = &last.error {
        lines.push(format!("runs and routes are as of {} ago: {error}", in_words(last.age)));
    }
    lines
}

fn run(run: &EngineRunStats, now: u64) -> [String; 8] {
    [
        run.id.to_string(),
        ago(run.started, now),
        run.kind.clone(),
        or_dash(run.seconds.map(in_words)),
        run.files.received.to_string(),
        run.files.sent.to_string(),
        (run.files.errors + run.process_errors).to_string(),
        run.files.stuck.to_string(),
    ]
}

fn route(route: &RouteStatus, now: u64) -> [String; 6] {
    let FileCounts { received, errors, stuck, sent, .. } = route.files;
    let state = match route.state {
        Some(FileState::Error) => ", error",
        Some(FileState::Stuck) => ", stuck",
        Some(FileState::Done) | None => "",
    };
    [
        format!("{}{}", route.name, if route.inactive { " (not active)" } else { "" }),
        or_dash(route.last.map(|at| format!("{}{state}", ago(at, now)))),
        received.to_string(),
        sent.to_string(),
        errors.to_string(),
        stuck.to_string(),
    ]
}

/// Columns with the width of their content.
pub(crate) fn table<const COLUMNS: usize>(
    head: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> Vec<String> {
    let rows = rows.map(|row| row.map(|cell| escape_control(&cell).into_owned()));
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A moment, in seconds since 1970, as `2026-02-03T04:05:06Z`.
pub(crate) fn utc(at: i64) -> String {
    let Ok(time) = tz::UtcDateTime::from_timespec(at, 0) else { return at.to_string() };
    let (day, month, year) = (time.month_day(), time.month(), time.year());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second())
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn ago(at: i64, now: u64) -> String {
    let seconds = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(at);
    format!("{} ago", in_words(u64::try_from(seconds).unwrap_or_default()))
}

/// The two largest units: `3d 4h`, `12m 5s`.
fn in_words(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::QueueCounts;
    use crate::status::model::EngineStatus;

    fn empty() -> Status {
        serde_json::from_str(r#"{"version":"1","ready":true,"errors":[],"services":[],"now":100000}"#)
            .expect("a status")
    }

    #[test]
    fn durations_show_two_units() {
        let table = [(5, "5s"), (125, "2m 5s"), (7_260, "2h 1m"), (100_000, "1d 3h")];
        for (seconds, words) in table {
            assert_eq!(in_words(seconds), words);
        }
    }

    #[test]
    fn status_text_aligns_table_and_lists_problems() {
        let service = ServiceStatus {
            name: "webserver".into(),
            state: "restarting".into(),
            pid: None,
            uptime: None,
            restarts: 2,
            last_exit: Some("signal SIGKILL".into()),
            ready: Some(false),
            next: None,
            jobs: None,
        };
        let queue = ServiceStatus {
            name: "jobqueue".into(),
            state: "standby".into(),
            restarts: 0,
            last_exit: None,
            jobs: Some(QueueCounts { waiting: 3, running: 1, ..QueueCounts::default() }),
            ..service.clone()
        };
        let status = Status {
            ready: false,
            problems: serde_json::from_str(
                r#"[{"kind":"not_ready","problem":"not ready: webserver is being restarted","action":"see the log"},
                {"kind":"file_errors","problem":"route r: 1 file with errors","at":100,"action":"mend it",
                "files":[{"name":"a\u001b[2J.edi","received":100,"reason":"bad"}]}]"#,
            )
            .expect("problems"),
            services: vec![service, queue],
            engine: Some(EngineStatus { holder: "bots-engine-1 (process 7)".into(), seconds: 65 }),
            ..empty()
        };
        let expected = "\
2 problems
1. not ready: webserver is being restarted
   see the log
2. route r: 1 file with errors (1970-01-01T00:01:40Z)
   1970-01-01T00:01:40Z  a\\u{1b}[2J.edi: bad
   mend it

SERVICE    STATE       READY  PID  UPTIME  RESTARTS  LAST EXIT
webserver  restarting  no     -    -       2         signal SIGKILL
jobqueue   standby     no     -    -       0         -
engine running: bots-engine-1 (process 7) for 1m 5s
jobqueue: 3 waiting, 1 running
";
        assert_eq!(text(&status), expected);
    }

    #[test]
    fn healthy_directories_beyond_limit_are_only_counted() {
        let directory = WatchStatus {
            files: "/in/*".into(),
            route: "r".into(),
            backend: "inotify",
            method: "inotify (ext4)".into(),
            error: None,
            oldest: None,
            unfinished: None,
        };
        let failed = WatchStatus { error: Some("/in is not there".to_owned()), ..directory.clone() };
        let all = [vec![failed], vec![directory; MAX_LISTED_DIRECTORIES + 2]].concat();
        let lines = directories(&MonitorStatus { directories: all.into(), pending_routes: 1 });
        assert_eq!(lines[0], "watched: /in/* for route r, by inotify (ext4)");
        assert_eq!(lines[MAX_LISTED_DIRECTORIES..], ["watched: 2 more", "waiting for the job queue: 1 route"]);
    }

    #[test]
    fn runs_and_routes_are_listed_with_errors_first() {
        let rendered = r#"{"age":90,"error":"the server is away","since":13600,"locked":false,"lost_runs":1,"runs":[
            {"id":7,"kind":"new","started":99990,"seconds":3,"received":3,"done":2,"errors":1,"sent":4,"process_errors":1,
             "failed":true},
            {"id":2,"kind":"crashrecovery","started":90000}],"routes":[
            {"name":"quiet"},{"name":"fine","last":99990,"state":"done","received":2,"done":2,"sent":2},
            {"name":"b\u001b[2J\na\u202ed","inactive":true,"last":50000,"state":"error","received":1,"errors":1}]}"#;
        let status = Status { results: Some(serde_json::from_str(rendered).expect("results")), ..empty() };
        let expected = "\
no problems

SERVICE  STATE  READY  PID  UPTIME  RESTARTS  LAST EXIT
the last engine run was 10s ago (run 7)

RUN  STARTED     TYPE           TOOK  FILES IN  SENT  ERRORS  STUCK
7    10s ago     new            3s    3         4     2       0
2    2h 46m ago  crashrecovery  -     0         0     0       0

files since 1d 0h ago:
ROUTE                                LAST FILE           FILES IN  SENT  ERRORS  STUCK
b\\u{1b}[2J\\na\\u{202e}d (not active)  13h 53m ago, error  1         0     1       0
fine                                 10s ago             2         2     0       0
quiet                                -                   0         0     0       0
runs and routes are as of 1m 30s ago: the server is away
";
        assert_eq!(text(&status), expected);
    }

    #[test]
    fn routes_beyond_limit_are_only_counted() {
        let routes: Vec<_> = (0..MAX_LISTED_ROUTES + 5).map(|number| format!("{{\"name\":\"r{number}\"}}")).collect();
        let rendered = format!(
            "{{\"age\":1,\"runs\":[],\"since\":0,\"more_routes\":2,\"locked\":false,\"routes\":[{}]}}",
            routes.join(",")
        );
        let status = Status { results: Some(serde_json::from_str(&rendered).expect("results")), ..empty() };
        assert!(text(&status).ends_with("\n7 more routes\n"), "{}", text(&status));
    }

    #[test]
    fn a_status_without_a_run_says_when_the_runs_were_read() {
        let results = r#"{"age":20,"runs":[],"since":13600,"locked":false,"routes":[]}"#;
        let status = Status { results: Some(serde_json::from_str(results).expect("results")), ..empty() };
        assert_eq!(engine_times(&status).as_deref(), Some("no engine run yet, as of 20s ago"));
    }
}
