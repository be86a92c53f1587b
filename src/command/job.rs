//! `job`: adds, lists, shows and removes jobs, in the queue of this container or of another one.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, json};
use tokio::time::sleep;

use crate::bots::environment::Environment;
use crate::bots::services::JobQueue;
use crate::cli::{self, AddJob, Global};
use crate::config::Config;
use crate::exit::{Error, Kind, Outcome};
use crate::http::client::Target;
use crate::jobs::client::{self, call};
use crate::jobs::command_line::Task;
use crate::jobs::rpc::{ADD, ADD_NUMBERED, CLEAR, LIST, SHOW, code};
use crate::jobs::xmlrpc::Value;

use super::{load_config, print};
use crate::runtime::relay;
use crate::runtime::session::{Session, until_stopped, with_session};

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the command.
///
/// # Errors
/// 69 when no queue answers, 1 when it refuses.
pub fn run(global: &Global, job: &cli::Job) -> Result<Outcome, Error> {
    with_session(load_config(global, Vec::new())?, async |mut session| {
        let Session { config, signals, .. } = &mut session;
        let target = target(config);
        let asked = async {
            match job {
                cli::Job::Add(flags) => add(&target, flags).await,
                cli::Job::List { json } => list(&target, *json).await,
                cli::Job::Clear { json } => clear(&target, *json).await,
                cli::Job::Show { number, json } => show(&target, *number, *json).await,
            }
        };
        match until_stopped(signals, &Cell::new(false), asked).await {
            Ok(done) => done,
            Err(exit) => Ok(Outcome::Child(exit.code())),
        }
    })
}

/// The queue of another container, else the one on this machine.
fn target(config: &Config) -> Target {
    let port = JobQueue::read(&Environment::layout(config)).map_or(JobQueue::PORT, |queue| queue.port);
    relay::queue(config, port)
}

async fn add(target: &Target, flags: &AddJob) -> Result<Outcome, Error> {
    let task = Task::new(flags.command.clone()).map_err(|text| Error::new(Kind::Usage, text))?;
    let arguments = vec![task.to_value(), Value::Integer(flags.priority)];
    let (code, number) = match call(target, ADD_NUMBERED, arguments.clone()).await {
        Ok(Value::Struct(answer)) => (integer(answer.get("code")), answer.get("number").cloned()),
        Ok(_) => (None, None),
        // Bots's own server knows nothing of numbers.
        Err(client::Error::Fault(..)) if !flags.wait => (integer(Some(&call(target, ADD, arguments).await?)), None),
        Err(error) => return Err(error.into()),
    };
    let (code, number) = (code.ok_or_else(|| nonsense(target))?, integer(number.as_ref()));
    let is_there = code == code::ADDED || code == code::DUPLICATE && flags.wait;
    match (number, flags.wait) {
        (Some(number), true) if is_there => return follow(target, number, flags.json).await,
        _ if is_there => {}
        _ => return Err(refused(code, &task, number)),
    }
    match (flags.json, number) {
        (true, number) => print(&format!("{}\n", json!({ "code": code, "number": number }))),
        (false, Some(number)) => print(&format!("job {number}\n")),
        (false, None) => print("the job queue has it\n"),
    }
    Ok(Outcome::Success)
}

fn refused(code: i32, task: &Task, number: Option<i32>) -> Error {
    let text = match code {
        code::EMPTY => "the job queue refuses a job without a task".to_owned(),
        code::NOT_AUTHORISED => format!(
            "the job queue does not run {}: jobs begin with bots-engine, or with what bots.ini names in [jobqueue] \
             authorized_tasks",
            task.words().first().map_or("", String::as_str)
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
async fn follow(target: &Target, number: i32, json: bool) -> Result<Outcome, Error> {
    loop {
        let job = look(target, number).await?;
        if job.contains_key("ended") {
            print(&if json { format!("{}\n", in_json(&job)) } else { output(&job) });
            let code = integer(job.get("exit_code")).and_then(|code| u8::try_from(code).ok());
            return code.map(Outcome::Child).ok_or_else(|| {
                Error::new(Kind::Failed, format!("job {number} did not run; see bots-ctl job show {number}"))
            });
        }
        sleep(LOOK).await;
    }
}

async fn list(target: &Target, json: bool) -> Result<Outcome, Error> {
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
            json!({ "number": plain(number), "priority": plain(priority), "task": plain(task) })
        });
        print(&format!("{}\n", serde_json::Value::from(listed.collect::<Vec<_>>())));
        return Ok(Outcome::Success);
    }
    let mut text = String::new();
    for [priority, number, task] in jobs {
        if text.is_empty() {
            text += "NUMBER  PRIORITY  TASK\n";
        }
        let (number, priority) = (integer(Some(number)).unwrap_or(0), integer(Some(priority)).unwrap_or(0));
        let _ = writeln!(text, "{number:<6}  {priority:<8}  {}", words(task));
    }
    print(if text.is_empty() { "no job waits\n" } else { &text });
    Ok(Outcome::Success)
}

async fn clear(target: &Target, json: bool) -> Result<Outcome, Error> {
    call(target, CLEAR, Vec::new()).await?;
    print(if json { "{\"cleared\":true}\n" } else { "no job waits any more\n" });
    Ok(Outcome::Success)
}

async fn show(target: &Target, number: i32, json: bool) -> Result<Outcome, Error> {
    let job = look(target, number).await?;
    if json {
        print(&format!("{}\n", in_json(&job)));
        return Ok(Outcome::Success);
    }
    let mut text = String::new();
    for name in ["number", "state", "priority", "attempts", "exit_code"] {
        if let Some(value) = job.get(name) {
            let _ = writeln!(text, "{:<10} {}", name.replace('_', " "), plain(value).to_string().replace('"', ""));
        }
    }
    let _ = writeln!(text, "{:<10} {}", "task", job.get("task").map(words).unwrap_or_default());
    if let (Some(Value::Double(started)), Some(Value::Double(ended))) = (job.get("started"), job.get("ended")) {
        let _ = writeln!(text, "{:<10} {:.1} s", "took", ended - started);
    }
    print(&(text + &output(&job)));
    Ok(Outcome::Success)
}

type Job = std::collections::BTreeMap<String, Value>;

async fn look(target: &Target, number: i32) -> Result<Job, Error> {
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

fn output(job: &Job) -> String {
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

fn words(task: &Value) -> String {
    Task::from_value(task).map(|task| task.to_string()).unwrap_or_default()
}

fn in_json(job: &Job) -> serde_json::Value {
    job.iter().map(|(name, value)| (name.clone(), plain(value))).collect::<Map<_, _>>().into()
}

/// A value as JSON has it.
fn plain(value: &Value) -> serde_json::Value {
    match value {
        Value::Integer(number) => json!(number),
        Value::Double(number) => json!(number),
        Value::String(text) => json!(text),
        Value::Array(values) => values.iter().map(plain).collect(),
        _ => serde_json::Value::Null,
    }
}

fn nonsense(target: &Target) -> Error {
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
