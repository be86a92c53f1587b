//! `job`: adds, lists, shows and removes jobs, in the queue of this container or of another one.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::cli::{self, AddJob, Global};
use crate::config::Config;
use crate::exit::{Error, Kind, Outcome, job_exit_in_words};
use crate::jobs::client::{self, call};
use crate::jobs::command_line::JobCommand;
use crate::jobs::rpc::{ADD, ADD_NUMBERED, CLEAR, HISTORY, LIST, SHOW, code};
use crate::jobs::xmlrpc::{self, Value};
use crate::model::{Endpoint, LATEST_JOB};

use super::{run_one_shot, write_line, write_stdout};
use crate::runtime::relay;
use crate::status::text::{table, utc};

/// How often `--wait` polls.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long `--wait` polls without a response: longer than a standby takes to replace a queue.
const UNAVAILABLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs the command.
///
/// # Errors
/// 69 when no queue answers, 1 when it refuses.
pub fn run(global: &Global, job: &cli::Job) -> Result<Outcome, Error> {
    run_one_shot(global, Vec::new(), &TaskTracker::new(), async |config, _| {
        let target = target(config);
        match job {
            cli::Job::Add(flags) => add(&target, flags).await,
            cli::Job::List { all: false, failed: false, json } => list(&target, *json).await,
            cli::Job::List { failed, json, .. } => list_history(&target, *failed, *json).await,
            cli::Job::Clear { json } => clear(&target, *json).await,
            cli::Job::Show { number, json } => show(&target, *number, *json).await,
        }
    })
}

/// The queue of another container, else the one on this machine.
fn target(config: &Config) -> Endpoint {
    let port =
        BotsJobQueueIni::read(config, &Environment::paths(config)).map_or(BotsJobQueueIni::PORT, |queue| queue.port);
    relay::queue(config, port)
}

async fn add(target: &Endpoint, flags: &AddJob) -> Result<Outcome, Error> {
    let task = JobCommand::new(flags.command.clone()).map_err(|text| Error::new(Kind::Usage, text))?;
    let arguments = vec![task.to_value(), Value::Integer(flags.priority)];
    let response = match call(target, ADD_NUMBERED, arguments.clone()).await {
        // Bots's own server has no numbers.
        Err(client::Error::Fault(..)) if !flags.wait => {
            json!({ "code": xmlrpc::to_json(&call(target, ADD, arguments).await?) })
        }
        Err(error @ client::Error::NoResponse(..)) => {
            let text = format!("{error}; the job may have been added: bots-ctl job list --all shows it");
            return Err(Error::new(Kind::Unavailable, text));
        }
        response => xmlrpc::to_json(&response?),
    };
    let Some(code) = integer(&response["code"]) else {
        return Err(Error::new(Kind::Unavailable, format!("the server on {} is not a job queue", target.authority)));
    };
    let number = integer(&response["number"]);
    if code != code::ADDED && !(code == code::DUPLICATE && flags.wait) {
        return Err(refused(code, &task, number));
    }
    match number {
        Some(number) if flags.wait => return follow(target, number, flags.json).await,
        _ if flags.json => write_line(&json!({ "code": code, "number": number })),
        Some(number) => write_line(&format!("job {number}")),
        None => write_line("job added"),
    }
    Ok(Outcome::Success)
}

fn refused(code: i32, task: &JobCommand, number: Option<i32>) -> Error {
    let text = match code {
        code::EMPTY => "the job queue rejects a job without a program".to_owned(),
        code::NOT_AUTHORISED => format!(
            "the job queue does not run {}: a job must begin with bots-engine, or with one of authorized_tasks in \
             section [jobqueue] of bots.ini",
            task.argv().first().map_or("", String::as_str)
        ),
        code::DUPLICATE => {
            let which = number.map(|number| format!(", as job {number}")).unwrap_or_default();
            format!("the same job is already waiting{which}, with the same priority")
        }
        other => format!("the job queue rejects the job with code {other}"),
    };
    Error::new(Kind::Failed, text)
}

/// Waits for the end of a job and returns its exit code. The job does not depend on this client, and the queue may be restarted
/// in between.
async fn follow(target: &Endpoint, number: i32, json: bool) -> Result<Outcome, Error> {
    info!("job {number} is in the queue");
    let mut unavailable_since: Option<Instant> = None;
    loop {
        match poll(target, number).await {
            Ok(job) if job.get("ended").is_some() => return finish(&job, number, json),
            Ok(_) => unavailable_since = None,
            Err(error) if error.kind() != Kind::Unavailable => return Err(error),
            Err(error) => {
                if unavailable_since.is_none() {
                    warn!("{error}; retrying for {} s", UNAVAILABLE_TIMEOUT.as_secs());
                }
                if unavailable_since.get_or_insert_with(Instant::now).elapsed() >= UNAVAILABLE_TIMEOUT {
                    let text = format!("cannot follow job {number}: {error}; it stays in the queue: ");
                    return Err(Error::new(Kind::Unavailable, format!("{text}bots-ctl job show {number}")));
                }
            }
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Prints a job that has ended, and returns its exit code.
fn finish(job: &Json, number: i32, json: bool) -> Result<Outcome, Error> {
    if json {
        write_line(job);
    } else {
        write_stdout(&output(job));
    }
    let code = integer(&job["exit_code"]).and_then(|code| u8::try_from(code).ok());
    code.map(Outcome::Child)
        .ok_or_else(|| Error::new(Kind::Failed, format!("job {number} did not run; see bots-ctl job show {number}")))
}

async fn list(target: &Endpoint, json: bool) -> Result<Outcome, Error> {
    let jobs = xmlrpc::to_json(&call(target, LIST, Vec::new()).await?);
    let jobs = jobs.as_array().into_iter().flatten().filter(|job| job.get(2).is_some());
    if json {
        let listed = jobs.map(|job| json!({ "number": job[1], "priority": job[0], "task": job[2] }));
        write_line(&listed.collect::<Json>());
        return Ok(Outcome::Success);
    }
    let jobs: Vec<String> = jobs
        .map(|job| format!("{:<6}  {:<8}  {}\n", job[1].to_string(), job[0].to_string(), format_task(&job[2])))
        .collect();
    let head = if jobs.is_empty() { "no job waits\n" } else { "NUMBER  PRIORITY  TASK\n" };
    write_stdout(&(head.to_owned() + &jobs.concat()));
    Ok(Outcome::Success)
}

/// Jobs in any state, or those that have failed.
async fn list_history(target: &Endpoint, only_failed: bool, json: bool) -> Result<Outcome, Error> {
    let jobs = xmlrpc::to_json(&call_native(target, HISTORY, Value::Boolean(only_failed)).await?);
    if json {
        write_line(&jobs);
        return Ok(Outcome::Success);
    }
    let rows: Vec<_> = jobs.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        write_line(if only_failed { "no job has failed" } else { "there are no jobs" });
    } else {
        let head = ["NUMBER", "STATE", "SUBMITTED", "TOOK", "TASK", "RESULT"];
        table(head, rows.into_iter()).iter().for_each(write_line);
    }
    Ok(Outcome::Success)
}

fn row(job: &Json) -> [String; 6] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        job["number"].to_string(),
        job["state"].as_str().unwrap_or_default().to_owned(),
        or_dash(time(&job["submitted"])),
        or_dash(took(job)),
        format_task(&job["task"]),
        or_dash(result(job)),
    ]
}

/// A moment, as `2026-02-03T04:05:06Z`.
#[allow(clippy::cast_possible_truncation, reason = "seconds of this millennium are exact")]
fn time(seconds: &Json) -> Option<String> {
    seconds.as_f64().map(|seconds| utc(seconds as i64))
}

fn took(job: &Json) -> Option<String> {
    Some(format!("{:.1} s", job["ended"].as_f64()? - job["started"].as_f64()?))
}

fn result(job: &Json) -> Option<String> {
    let code = u8::try_from(job["exit_code"].as_i64()?).ok()?;
    Some(job_exit_in_words(&format_task(&job["task"]), code))
}

async fn clear(target: &Endpoint, json: bool) -> Result<Outcome, Error> {
    call(target, CLEAR, Vec::new()).await?;
    write_line(if json { "{\"cleared\":true}" } else { "no job is waiting" });
    Ok(Outcome::Success)
}

async fn show(target: &Endpoint, number: i32, json: bool) -> Result<Outcome, Error> {
    let job = poll(target, number).await?;
    if json {
        write_line(&job);
        return Ok(Outcome::Success);
    }
    let mut text = String::new();
    for name in ["number", "state", "priority", "attempts"] {
        if let Some(value) = job.get(name) {
            let _ = writeln!(text, "{name:<10} {}", value.to_string().replace('"', ""));
        }
    }
    let code = result(&job).map(|result| result.trim_start_matches("exit code ").to_owned());
    let times = ["submitted", "started", "ended"].map(|name| (name, time(&job[name])));
    let rest = [("exit code", code), ("task", Some(format_task(&job["task"])))];
    for (name, value) in rest.into_iter().chain(times).chain([("took", took(&job))]) {
        if let Some(value) = value {
            let _ = writeln!(text, "{name:<10} {value}");
        }
    }
    write_stdout(&(text + &output(&job)));
    Ok(Outcome::Success)
}

async fn poll(target: &Endpoint, number: i32) -> Result<Json, Error> {
    let text = match call_native(target, SHOW, Value::Integer(number)).await? {
        job @ Value::Struct(_) => return Ok(xmlrpc::to_json(&job)),
        _ if number == LATEST_JOB => "there are no jobs".to_owned(),
        _ => format!("there is no job {number}, or its record has expired"),
    };
    Err(Error::new(Kind::Failed, text))
}

/// Calls a method that only the queue of bots-ctl supports.
async fn call_native(target: &Endpoint, method: &str, argument: Value) -> Result<Value, Error> {
    call(target, method, vec![argument]).await.map_err(|error| match error {
        client::Error::Fault(..) => {
            let text = "does not store its jobs; that of bots-ctl does (BOTS_CTL_JOBQUEUE_BACKEND=native)";
            Error::new(Kind::Failed, format!("the job queue on {} {text}", target.authority))
        }
        error => error.into(),
    })
}

fn output(job: &Json) -> String {
    match job["output"].as_str().unwrap_or_default() {
        "" => String::new(),
        output => format!("{output}\n"),
    }
}

fn integer(value: &Json) -> Option<i32> {
    value.as_i64().and_then(|number| i32::try_from(number).ok())
}

fn format_task(task: &Json) -> String {
    JobCommand::deserialize(task).map(|task| task.to_string()).unwrap_or_default()
}
