//! `job`: adds, lists, shows and removes jobs, in the queue of this container or of another one.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, json};
use tokio::time::sleep;

use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::cli::{self, AddJob, Global};
use crate::config::Config;
use crate::exit::{Error, Kind, Outcome};
use crate::jobs::client::{self, call};
use crate::jobs::command_line::JobCommand;
use crate::jobs::rpc::{ADD, ADD_NUMBERED, CLEAR, LIST, SHOW, code};
use crate::jobs::xmlrpc::Value;
use crate::model::Endpoint;

use super::{load_config, write_stdout};
use crate::runtime::relay;
use crate::runtime::session::{App, run_until_shutdown, with_app};

/// How often `--wait` looks.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Runs the command.
///
/// # Errors
/// 69 when no queue answers, 1 when it refuses.
pub fn run(global: &Global, job: &cli::Job) -> Result<Outcome, Error> {
    with_app(load_config(global, Vec::new())?, async |mut session| {
        let App { config, signals, .. } = &mut session;
        let target = target(config);
        let asked = async {
            match job {
                cli::Job::Add(flags) => add(&target, flags).await,
                cli::Job::List { json } => list(&target, *json).await,
                cli::Job::Clear { json } => clear(&target, *json).await,
                cli::Job::Show { number, json } => show(&target, *number, *json).await,
            }
        };
        match run_until_shutdown(signals, &Cell::new(false), asked).await {
            Ok(done) => done,
            Err(exit) => Ok(Outcome::Child(exit.code())),
        }
    })
}

/// The queue of another container, else the one on this machine.
fn target(config: &Config) -> Endpoint {
    let port = BotsJobQueueIni::read(&Environment::paths(config)).map_or(BotsJobQueueIni::PORT, |queue| queue.port);
    relay::queue(config, port)
}

async fn add(target: &Endpoint, flags: &AddJob) -> Result<Outcome, Error> {
    let task = JobCommand::new(flags.command.clone()).map_err(|text| Error::new(Kind::Usage, text))?;
    let arguments = vec![task.to_value(), Value::Integer(flags.priority)];
    let (code, number) = match call(target, ADD_NUMBERED, arguments.clone()).await {
        Ok(Value::Struct(response)) => (integer(response.get("code")), response.get("number").cloned()),
        Ok(_) => (None, None),
        // Bots's own server knows nothing of numbers.
        Err(client::Error::Fault(..)) if !flags.wait => (integer(Some(&call(target, ADD, arguments).await?)), None),
        Err(error) => return Err(error.into()),
    };
    let (code, number) = (code.ok_or_else(|| not_a_queue_error(target))?, integer(number.as_ref()));
    let is_there = code == code::ADDED || code == code::DUPLICATE && flags.wait;
    match (number, flags.wait) {
        (Some(number), true) if is_there => return follow(target, number, flags.json).await,
        _ if is_there => {}
        _ => return Err(refused(code, &task, number)),
    }
    match (flags.json, number) {
        (true, number) => write_stdout(&format!("{}\n", json!({ "code": code, "number": number }))),
        (false, Some(number)) => write_stdout(&format!("job {number}\n")),
        (false, None) => write_stdout("the job queue has it\n"),
    }
    Ok(Outcome::Success)
}

fn refused(code: i32, task: &JobCommand, number: Option<i32>) -> Error {
    let text = match code {
        code::EMPTY => "the job queue refuses a job without a task".to_owned(),
        code::NOT_AUTHORISED => format!(
            "the job queue does not run {}: jobs begin with bots-engine, or with what bots.ini names in [jobqueue] \
             authorized_tasks",
            task.argv().first().map_or("", String::as_str)
        ),
        code::DUPLICATE => {
            let which = number.map(|number| format!(", as job {number}")).unwrap_or_default();
            format!("the same job waits already{which}, with the same priority")
        }
        other => format!("the job queue refuses the job with code {other}"),
    };
    Error::new(Kind::Failed, text)
}

/// Waits for the end of a job; the answer is its exit code.
async fn follow(target: &Endpoint, number: i32, json: bool) -> Result<Outcome, Error> {
    loop {
        let job = poll(target, number).await?;
        if job.contains_key("ended") {
            write_stdout(&if json { format!("{}\n", in_json(&job)) } else { output(&job) });
            let code = integer(job.get("exit_code")).and_then(|code| u8::try_from(code).ok());
            return code.map(Outcome::Child).ok_or_else(|| {
                Error::new(Kind::Failed, format!("job {number} did not run; see bots-ctl job show {number}"))
            });
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn list(target: &Endpoint, json: bool) -> Result<Outcome, Error> {
    let jobs = match call(target, LIST, Vec::new()).await? {
        Value::Array(jobs) => jobs,
        _ => Vec::new(),
    };
    let jobs = jobs.iter().filter_map(|job| match job {
        Value::Array(job) => <&[Value; 3]>::try_from(job.as_slice()).ok(),
        _ => None,
    });
    if json {
        let listed = jobs.map(|[priority, number, task]| {
            json!({ "number": to_json(number), "priority": to_json(priority), "task": to_json(task) })
        });
        write_stdout(&format!("{}\n", serde_json::Value::from(listed.collect::<Vec<_>>())));
        return Ok(Outcome::Success);
    }
    let mut text = String::new();
    for [priority, number, task] in jobs {
        if text.is_empty() {
            text += "NUMBER  PRIORITY  TASK\n";
        }
        let (number, priority) = (integer(Some(number)).unwrap_or(0), integer(Some(priority)).unwrap_or(0));
        let _ = writeln!(text, "{number:<6}  {priority:<8}  {}", format_task(task));
    }
    write_stdout(if text.is_empty() { "no job waits\n" } else { &text });
    Ok(Outcome::Success)
}

async fn clear(target: &Endpoint, json: bool) -> Result<Outcome, Error> {
    call(target, CLEAR, Vec::new()).await?;
    write_stdout(if json { "{\"cleared\":true}\n" } else { "no job waits any more\n" });
    Ok(Outcome::Success)
}

async fn show(target: &Endpoint, number: i32, json: bool) -> Result<Outcome, Error> {
    let job = poll(target, number).await?;
    if json {
        write_stdout(&format!("{}\n", in_json(&job)));
        return Ok(Outcome::Success);
    }
    let mut text = String::new();
    for name in ["number", "state", "priority", "attempts", "exit_code"] {
        if let Some(value) = job.get(name) {
            let _ = writeln!(text, "{:<10} {}", name.replace('_', " "), to_json(value).to_string().replace('"', ""));
        }
    }
    let _ = writeln!(text, "{:<10} {}", "task", job.get("task").map(format_task).unwrap_or_default());
    if let (Some(Value::Double(started)), Some(Value::Double(ended))) = (job.get("started"), job.get("ended")) {
        let _ = writeln!(text, "{:<10} {:.1} s", "took", ended - started);
    }
    write_stdout(&(text + &output(&job)));
    Ok(Outcome::Success)
}

type JobRecord = std::collections::BTreeMap<String, Value>;

async fn poll(target: &Endpoint, number: i32) -> Result<JobRecord, Error> {
    match call(target, SHOW, vec![Value::Integer(number)]).await {
        Ok(Value::Struct(job)) => Ok(job),
        Ok(_) => Err(Error::new(Kind::Failed, format!("there is no job {number}, or it was forgotten long ago"))),
        Err(client::Error::Fault(..)) => {
            let text = format!("the job queue on {} keeps no account of its jobs", target.authority);
            Err(Error::new(Kind::Failed, format!("{text}; that of bots-ctl does (BOTS_CTL_JOBQUEUE_BACKEND=native)")))
        }
        Err(error) => Err(error.into()),
    }
}

fn output(job: &JobRecord) -> String {
    match job.get("output") {
        Some(Value::String(output)) if !output.is_empty() => format!("{output}\n"),
        _ => String::new(),
    }
}

fn integer(value: Option<&Value>) -> Option<i32> {
    match value {
        Some(Value::Integer(number)) => Some(*number),
        _ => None,
    }
}

fn format_task(task: &Value) -> String {
    JobCommand::from_value(task).map(|task| task.to_string()).unwrap_or_default()
}

fn in_json(job: &JobRecord) -> serde_json::Value {
    job.iter().map(|(name, value)| (name.clone(), to_json(value))).collect::<Map<_, _>>().into()
}

/// A value as JSON has it.
fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Integer(number) => json!(number),
        Value::Double(number) => json!(number),
        Value::String(text) => json!(text),
        Value::Array(values) => values.iter().map(to_json).collect(),
        _ => serde_json::Value::Null,
    }
}

fn not_a_queue_error(target: &Endpoint) -> Error {
    Error::new(Kind::Unavailable, format!("what answers on {} is no job queue", target.authority))
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        let kind = match error {
            client::Error::Unreachable(..) => Kind::Unavailable,
            client::Error::WrongToken(_) => Kind::Configuration,
            client::Error::Fault(..) => Kind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}
