//! The methods of the job queue: those of Bots's own programs, and further ones of bots-ctl.

use std::collections::BTreeMap;

use tracing::{debug, warn};

use super::command_line::JobCommand;
use super::queue::{Queue, Unavailable};
use super::request_id::RequestId;
use super::xmlrpc::{Call, Value};
use crate::database::jobs::{AddOutcome, Job, QueuedJob};

/// Adds a job; returns a code.
pub const ADD: &str = "addjob";
/// Lists the waiting jobs.
pub const LIST: &str = "listjobs";
/// Lists jobs in any state, or those that have failed.
pub const HISTORY: &str = "botsctl.listjobs";
/// Removes the waiting jobs.
pub const CLEAR: &str = "clearjobq";
/// Takes a job out of the queue.
const TAKE: &str = "getjob";
/// Adds a job; returns a code and its number.
pub const ADD_NUMBERED: &str = "botsctl.addjob";
/// Returns a job in any state; that with the number 0 is the newest.
pub const SHOW: &str = "botsctl.showjob";

/// A task that runs nothing: it tests whether the queue answers.
const IS_UP: &str = "isup";

/// Results of `addjob`, as Bots's own programs know them. They use 1 themselves when no queue answers.
pub mod code {
    /// The job is added.
    pub const ADDED: i32 = 0;
    /// The task is empty.
    pub const EMPTY: i32 = 2;
    /// bots.ini does not authorise the task.
    pub const NOT_AUTHORISED: i32 = 3;
    /// The same job waits already.
    pub const DUPLICATE: i32 = 4;
}

/// Reasons for a call without a result.
#[derive(Debug)]
pub enum RpcError {
    /// The call is wrong.
    Fault(String),
    /// The queue cannot reach its database. Bots's programs understand a closed connection only.
    Unavailable,
}

impl From<Unavailable> for RpcError {
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}

/// Performs a call, and logs the ID of the request.
///
/// # Errors
/// See [`RpcError`].
pub async fn perform(queue: &Queue, call: &Call, request_id: &RequestId) -> Result<Value, RpcError> {
    match (call.method.as_str(), call.arguments.as_slice()) {
        (ADD, [task, priority]) => Ok(Value::Integer(add(queue, task, priority, request_id).await?.code)),
        (ADD_NUMBERED, [task, priority]) => Ok(add(queue, task, priority, request_id).await?.to_value()),
        (LIST, []) => Ok(list(&queue.list().await?)),
        (HISTORY, [Value::Boolean(only_failed)]) => {
            Ok(Value::Array(queue.history(*only_failed).await?.iter().map(job).collect()))
        }
        (CLEAR, []) => {
            let cleared = queue.clear().await?;
            tracing::info!(%request_id, "removed {cleared} waiting jobs from the job queue");
            Ok(Value::Integer(0))
        }
        (TAKE, []) => Ok(queue.take().await?.as_ref().map_or(Value::Integer(0), waiting)),
        (SHOW, [Value::Integer(number)]) => {
            Ok(queue.show(i64::from(*number)).await?.as_ref().map_or(Value::Integer(0), job))
        }
        (ADD | ADD_NUMBERED | LIST | HISTORY | CLEAR | TAKE | SHOW, _) => {
            Err(RpcError::Fault(format!("{}: wrong arguments", call.method)))
        }
        (other, _) => Err(RpcError::Fault(format!("method {other:?} is not supported"))),
    }
}

/// The result of adding a job.
struct AddReply {
    /// One of [`code`].
    code: i32,
    /// The number of the job that waits; `None` if none was added.
    number: Option<i64>,
}

async fn add(queue: &Queue, task: &Value, priority: &Value, request_id: &RequestId) -> Result<AddReply, RpcError> {
    let without_job = |code| Ok(AddReply { code, number: None });
    let Value::Integer(priority) = priority else {
        return Err(RpcError::Fault("the priority is not an integer".to_owned()));
    };
    let task = JobCommand::from_value(task).map_err(RpcError::Fault)?;
    match task.argv() {
        [] => {
            warn!(%request_id, "rejected a job without a task");
            return without_job(code::EMPTY);
        }
        [first, ..] if first == IS_UP => {
            debug!(%request_id, "received a ping of the job queue");
            return without_job(code::ADDED);
        }
        _ if !queue.is_authorised(&task) => {
            warn!(%request_id, "rejected a job whose program is not allowed: {task}");
            return without_job(code::NOT_AUTHORISED);
        }
        _ => {}
    }
    let (code, number) = match queue.add(&task, *priority, request_id.clone()).await? {
        AddOutcome::Added(number) | AddOutcome::PriorityChanged(number) => (code::ADDED, number),
        AddOutcome::Duplicate(number) => (code::DUPLICATE, number),
    };
    Ok(AddReply { code, number: Some(number) })
}

impl AddReply {
    fn to_value(&self) -> Value {
        structure([("code", Some(Value::Integer(self.code))), ("number", self.number.map(integer))])
    }
}

fn list(jobs: &[QueuedJob]) -> Value {
    match jobs.is_empty() {
        true => Value::Integer(0),
        false => Value::Array(jobs.iter().map(waiting).collect()),
    }
}

fn waiting(job: &QueuedJob) -> Value {
    Value::Array(vec![integer(job.priority), integer(job.number), JobCommand::from_json(&job.task).to_value()])
}

fn job(job: &Job) -> Value {
    structure([
        ("number", Some(integer(job.number))),
        ("state", Some(Value::String(job.state.clone()))),
        ("priority", Some(integer(job.priority))),
        ("task", Some(JobCommand::from_json(&job.task).to_value())),
        ("submitted", Some(seconds(job.submitted))),
        ("started", job.started.map(seconds)),
        ("ended", job.ended.map(seconds)),
        ("attempts", Some(integer(job.attempts))),
        ("exit_code", job.exit_code.map(integer)),
        ("output", job.output.clone().map(Value::String)),
    ])
}

fn structure<const COUNT: usize>(members: [(&str, Option<Value>); COUNT]) -> Value {
    let present = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Struct(present.collect::<BTreeMap<_, _>>())
}

/// Integers of XML-RPC have 32 bits, which numbers and priorities of jobs fit.
fn integer(number: i64) -> Value {
    Value::Integer(i32::try_from(number).unwrap_or(i32::MAX))
}

/// Seconds since 1970.
#[allow(clippy::cast_precision_loss, reason = "milliseconds of this millennium are exact")]
fn seconds(milliseconds: i64) -> Value {
    Value::Double(milliseconds as f64 / 1000.0)
}
