//! `status`: how the services of this container fare, as the running bots-ctl tells it.

use std::fmt::Write as _;

use crate::cli::{self, Global};
use crate::exit::{Error, Kind, Outcome};
use crate::health::client;
use crate::health::status::{DirectoryStatus, MonitorStatus, ServiceStatus, Status};

use super::{load_config, print};

/// Directories that are named although they are well.
const NAMED: usize = 20;

/// Runs the command: 0 when all is ready, 1 when something is not.
///
/// # Errors
/// When there is no bots-ctl to ask.
pub fn run(global: &Global, flags: &cli::Status) -> Result<Outcome, Error> {
    let addr = load_config(global, Vec::new())?.health.addr;
    let unavailable = |error: &dyn std::fmt::Display| {
        let text = format!("cannot ask bots-ctl on {addr}: {error}; is it running in this container?");
        Error::new(Kind::Unavailable, format!("{text} BOTS_CTL_HEALTH_ADDR says where it listens"))
    };
    let json = client::status(addr).map_err(|error| unavailable(&error))?;
    let status: Status = serde_json::from_str(&json).map_err(|error| unavailable(&error))?;
    print(&if flags.json { format!("{json}\n") } else { table(&status) });
    Ok(if status.ready { Outcome::Success } else { Outcome::Unhealthy })
}

fn table(status: &Status) -> String {
    const HEAD: [&str; 7] = ["SERVICE", "STATE", "READY", "PID", "UPTIME", "RESTARTS", "LAST EXIT"];
    let rows: Vec<[String; 7]> =
        std::iter::once(HEAD.map(str::to_owned)).chain(status.services.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    if let Some(engine) = &status.engine {
        let _ = writeln!(text, "an engine runs: {} for {}", engine.holder, in_words(engine.seconds));
    }
    for (name, jobs) in status.services.iter().filter_map(|service| Some((&service.name, service.jobs?))) {
        let _ = writeln!(text, "{name}: {} waiting, {} running", jobs.waiting, jobs.running);
    }
    text.push_str(&status.monitor.as_ref().map(directories).unwrap_or_default());
    for error in &status.errors {
        let _ = writeln!(text, "not ready: {error}");
    }
    text
}

/// What is watched. Where that is much, what is well is only counted.
fn directories(monitor: &MonitorStatus) -> String {
    let (troubled, well): (Vec<_>, Vec<_>) =
        monitor.directories.iter().partition(|directory| directory.trouble.is_some());
    let mut text = String::new();
    for DirectoryStatus { files, route, by, .. } in well.iter().take(NAMED) {
        let _ = writeln!(text, "watched: {files} for route {route}, by {by}");
    }
    if let Some(more) = well.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let _ = writeln!(text, "watched: {more} more");
    }
    for DirectoryStatus { files, route, trouble, .. } in troubled {
        let why = trouble.as_deref().unwrap_or_default();
        let _ = writeln!(text, "not watched: {files} for route {route}: {why}");
    }
    if monitor.marked > 0 {
        let _ = writeln!(text, "waiting for the job queue: {} routes", monitor.marked);
    }
    text
}

fn row(service: &ServiceStatus) -> [String; 7] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
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
    use crate::health::status::{EngineStatus, JobsStatus};

    #[test]
    fn spans_have_two_units() {
        let table = [(5, "5s"), (125, "2m 5s"), (7_260, "2h 1m"), (100_000, "1d 3h")];
        for (seconds, words) in table {
            assert_eq!(in_words(seconds), words);
        }
    }

    #[test]
    fn a_table_is_aligned_and_names_what_is_wrong() {
        let service = ServiceStatus {
            name: "webserver".into(),
            state: "restarting".into(),
            pid: None,
            uptime: None,
            restarts: 2,
            last_exit: Some("signal SIGKILL".into()),
            ready: Some(false),
            jobs: None,
        };
        let queue = ServiceStatus {
            name: "jobqueue".into(),
            state: "standby".into(),
            restarts: 0,
            last_exit: None,
            jobs: Some(JobsStatus { waiting: 3, running: 1 }),
            ..service.clone()
        };
        let status = Status {
            version: "1".into(),
            ready: false,
            errors: vec!["webserver is being restarted".into()],
            services: vec![service, queue],
            engine: Some(EngineStatus { holder: "bots-engine-1 (process 7)".into(), seconds: 65 }),
            monitor: None,
        };
        let expected = "\
SERVICE    STATE       READY  PID  UPTIME  RESTARTS  LAST EXIT
webserver  restarting  no     -    -       2         signal SIGKILL
jobqueue   standby     no     -    -       0         -
an engine runs: bots-engine-1 (process 7) for 1m 5s
jobqueue: 3 waiting, 1 running
not ready: webserver is being restarted
";
        assert_eq!(table(&status), expected);
    }

    #[test]
    fn directories_that_are_well_are_only_counted_where_there_are_many() {
        let directory = |trouble: Option<&str>| DirectoryStatus {
            files: "/in/*".into(),
            route: "r".into(),
            by: "inotify (ext4)".into(),
            trouble: trouble.map(str::to_owned),
        };
        let mut all = vec![directory(Some("/in is not there"))];
        all.extend(vec![directory(None); NAMED + 2]);
        let text = directories(&MonitorStatus { directories: all, marked: 1 });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "watched: /in/* for route r, by inotify (ext4)");
        let expected = [
            "watched: 2 more",
            "not watched: /in/* for route r: /in is not there",
            "waiting for the job queue: 1 routes",
        ];
        assert_eq!(lines[NAMED..], expected);
    }
}
