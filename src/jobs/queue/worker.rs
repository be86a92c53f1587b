//! What does the queue's work: the one task that owns the connection, the line and the running jobs.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use super::super::command_line::JobCommand;
use super::super::runner::{self, RunEnd};
use super::db_link::DbLink;
use super::retry::Retries;
use super::{
    JobSpec, MAX_BATCH, QueueCommand, QueueConfig, REQUEST_TIMEOUT, Reply, ReplyTo, Request, Role, Status, Unavailable,
};
use crate::database::Error;
use crate::database::jobs::{self as rows, AddOutcome, JobState, JobStore, NewJob, QueuedJob};
use crate::exit::{Exit, Kind};
use crate::supervisor::state::Termination;
use crate::telemetry::correlation;

/// How often to look at the line without being told to, for what somebody else has written there; to notice a database
/// that is gone; and to give a sign of life to those who stand by.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(2);

/// How long to wait before the database is tried again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// How many jobs that have ended are remembered.
const MAX_FINISHED_JOBS: i64 = 1000;

/// The engine's exit code for "another engine runs".
const ENGINE_BUSY: u8 = 3;

/// Codes above this are those of signals, as in a shell.
const SIGNALS: u8 = 128;

/// What is to be written of a job that ran.
#[derive(Debug, Clone)]
enum JobUpdate {
    /// And when that was.
    Finished(rows::JobResult, i64),
    Requeue,
}

struct RunFinished {
    number: i64,
    run: String,
    is_engine: bool,
    ended: RunEnd,
    output: String,
    took: Duration,
}

enum Event {
    Requests(Vec<Request>),
    Connected(Box<Result<JobStore, Error>>),
    Reconnect,
    RunFinished(RunFinished),
    Command(Option<QueueCommand>),
    StopDeadline,
    Tick,
}

/// Does the queue's work.
pub struct Worker {
    setup: QueueConfig,
    requests: mpsc::Receiver<Request>,
    status: watch::Sender<Status>,
    link: DbLink,
    runs: JoinSet<RunFinished>,
    running: BTreeSet<i64>,
    /// What could not be written yet.
    unrecorded: Vec<(i64, JobUpdate)>,
    retries: Retries,
    ends_until_pruning: i64,
    next_sweep: Instant,
    /// No job is started before.
    has_begun: bool,
    /// Another queue takes this one's place once no job runs any more.
    is_finishing: bool,
    /// Set when the queue was asked to stop: until when running jobs are waited for.
    stopping: Option<Instant>,
    kill: watch::Sender<bool>,
    was_killed: bool,
}

impl Worker {
    /// With nothing begun yet.
    pub(super) fn new(setup: QueueConfig, requests: mpsc::Receiver<Request>, status: watch::Sender<Status>) -> Self {
        Self {
            link: DbLink::open(&setup, &status),
            setup,
            requests,
            status,
            runs: JoinSet::new(),
            running: BTreeSet::new(),
            unrecorded: Vec::new(),
            retries: Retries::default(),
            ends_until_pruning: 0,
            next_sweep: Instant::now() + HOUSEKEEPING_INTERVAL,
            has_begun: false,
            is_finishing: false,
            stopping: None,
            kill: watch::Sender::new(false),
            was_killed: false,
        }
    }

    /// Works until it was asked to stop and no job runs any more.
    pub async fn run(mut self, orders: &mut mpsc::Receiver<QueueCommand>) -> Termination {
        while !self.is_done() {
            match self.next(orders).await {
                Event::Requests(requests) => self.handle_request(requests).await,
                Event::Connected(opened) => match *opened {
                    Ok(jobs) => self.activate(jobs).await,
                    Err(error) => self.disconnect(&error),
                },
                Event::Reconnect => self.link = DbLink::open(&self.setup, &self.status),
                Event::RunFinished(finished) => self.on_run_finished(finished).await,
                Event::Command(Some(QueueCommand::Start)) => self.has_begun = true,
                Event::Command(Some(QueueCommand::Drain)) => self.finish(),
                Event::Command(Some(QueueCommand::Stop) | None) => self.stop(),
                Event::StopDeadline => self.kill_running(),
                Event::Tick => self.housekeeping().await,
            }
            self.start_jobs().await;
        }
        if self.was_killed { Termination::Killed } else { Termination::Stopped }
    }

    fn is_done(&self) -> bool {
        // Who takes this one's place would run a job again whose end was not written yet.
        let is_finished = self.is_finishing && self.unrecorded.is_empty();
        (self.stopping.is_some() || is_finished) && self.runs.is_empty()
    }

    async fn next(&mut self, orders: &mut mpsc::Receiver<QueueCommand>) -> Event {
        let tick = self.retries.until().map_or(self.next_sweep, |until| until.min(self.next_sweep));
        let deadline = self.stopping.filter(|_| !*self.kill.borrow());
        let mut batch = Vec::new();
        tokio::select! {
            Some(Ok(finished)) = self.runs.join_next() => Event::RunFinished(finished),
            opened = self.link.changed() => opened.map_or(Event::Reconnect, |opened| Event::Connected(Box::new(opened))),
            count = self.requests.recv_many(&mut batch, MAX_BATCH), if !self.requests.is_closed() => {
                debug!("{count} requests at once");
                Event::Requests(batch)
            }
            logged = orders.recv() => Event::Command(logged),
            () = sleep_until(deadline.unwrap_or(tick)), if deadline.is_some() => Event::StopDeadline,
            () = sleep_until(tick) => Event::Tick,
        }
    }

    async fn handle_request(&mut self, requests: Vec<Request>) {
        let (mut new_jobs, mut askers) = (Vec::new(), Vec::new());
        for request in requests {
            match request {
                Request::Add(new, asker) => {
                    new_jobs.push(new);
                    askers.push(asker);
                }
                Request::List(reply) => send_reply(reply, self.with(async |jobs| jobs.list().await).await),
                Request::Clear(reply) => {
                    let cleared = self.with(async |jobs| jobs.clear().await).await;
                    if cleared.is_ok() {
                        self.status.send_modify(|status| status.waiting = 0);
                    }
                    send_reply(reply, cleared);
                }
                Request::Take(reply) => send_reply(reply, self.take().await),
                Request::Show(number, reply) => {
                    send_reply(reply, self.with(async |jobs| jobs.show(number).await).await)
                }
            }
        }
        if !new_jobs.is_empty() {
            self.add(new_jobs, askers).await;
        }
    }

    async fn add(&mut self, new_jobs: Vec<NewJob>, askers: Vec<ReplyTo>) {
        let now = milliseconds();
        let Ok(added) = self.with(async |jobs| jobs.add(&new_jobs, now).await).await else {
            askers.into_iter().for_each(|(_, reply)| send_reply(reply, Err(Unavailable)));
            return;
        };
        for ((new, added), (request_id, reply)) in new_jobs.iter().zip(added).zip(askers) {
            let (task, priority) = (JobCommand::from_json(&new.task), new.priority);
            match added {
                AddOutcome::Added(job) => {
                    self.status.send_modify(|status| status.waiting += 1);
                    info!(job, %request_id, "job {job} with priority {priority}: {task}");
                }
                AddOutcome::PriorityChanged(job) => {
                    info!(job, %request_id, "job {job} now has priority {priority}: {task}")
                }
                AddOutcome::Duplicate(job) => {
                    info!(job, %request_id, "job {job} waits already and is not added again: {task}");
                }
            }
            send_reply(reply, Ok(added));
        }
    }

    async fn take(&mut self) -> Result<Option<QueuedJob>, Unavailable> {
        let Some(first) = self.with(async |jobs| jobs.first().await).await? else { return Ok(None) };
        let (number, now) = (first.number, milliseconds());
        let ended = rows::JobResult { state: JobState::Done, exit_code: None, output: "taken by getjob".to_owned() };
        self.with(async |jobs| {
            jobs.start(number, now).await?;
            jobs.end(number, &ended, now).await
        })
        .await?;
        info!(job = number, "job {number} was taken by getjob");
        self.status.send_modify(|status| status.waiting = status.waiting.saturating_sub(1));
        Ok(Some(first))
    }

    /// Does something with the rows, if they can be reached.
    async fn with<T>(&mut self, act: impl AsyncFnOnce(&mut JobStore) -> Result<T, Error>) -> Result<T, Unavailable> {
        let DbLink::Connected(jobs) = &mut self.link else { return Err(Unavailable) };
        let late = || Error::Unavailable(format!("the database did not answer within {} s", REQUEST_TIMEOUT.as_secs()));
        match timeout(REQUEST_TIMEOUT, act(jobs)).await.unwrap_or_else(|_| Err(late())) {
            Ok(done) => Ok(done),
            Err(error) => {
                self.disconnect(&error);
                Err(Unavailable)
            }
        }
    }

    /// The connection is given up, and with it the right to change anything, until there is a new one.
    fn disconnect(&mut self, error: &Error) {
        let was = self.status.borrow().activity;
        if was == Role::Unavailable {
            debug!("{error}");
        } else {
            error!("the job queue waits for its database: {error}");
        }
        self.status.send_modify(|status| status.activity = Role::Unavailable);
        self.link = DbLink::Backoff(Instant::now() + RECONNECT_DELAY);
    }

    /// This queue is the active one from here on.
    async fn activate(&mut self, jobs: JobStore) {
        self.link = DbLink::Connected(Box::new(jobs));
        for (number, verdict) in std::mem::take(&mut self.unrecorded) {
            self.record(number, verdict).await;
        }
        let running = self.running.clone();
        let recovered = self.with(async |jobs| {
            let mut recovered = Vec::new();
            for number in jobs.running().await? {
                if running.contains(&number) {
                    jobs.reclaim(number).await?;
                } else {
                    jobs.requeue(number).await?;
                    recovered.push(number);
                }
            }
            jobs.prune(MAX_FINISHED_JOBS).await?;
            Ok((recovered, jobs.count().await?))
        });
        let Ok((recovered, (waiting, oldest))) = recovered.await else { return };
        for job in recovered {
            warn!(job, "job {job} was running when its queue ended: it runs again");
        }
        info!("the job queue is active; {waiting} jobs wait");
        self.status.send_modify(|status| {
            status.activity = Role::Active;
            (status.waiting, status.oldest) = (waiting, oldest);
        });
    }

    async fn start_jobs(&mut self) {
        if !self.has_begun || self.is_finishing || !self.retries.may_start() {
            return;
        }
        while self.stopping.is_none() && self.runs.len() < self.setup.slots && self.status.borrow().waiting > 0 {
            let now = milliseconds();
            let started = self.with(async |jobs| {
                let Some(first) = jobs.first().await? else { return Ok(None) };
                jobs.start(first.number, now).await?;
                Ok(Some(first))
            });
            let Ok(first) = started.await else { return };
            let remaining =
                |status: &mut Status| status.waiting = first.as_ref().map_or(0, |_| status.waiting.saturating_sub(1));
            self.status.send_modify(remaining);
            let Some(first) = first else { return };
            // One that another queue had put back meanwhile, and that runs here still.
            if self.running.insert(first.number) {
                self.start(first).await;
            }
        }
    }

    async fn start(&mut self, first: QueuedJob) {
        let (number, task) = (first.number, JobCommand::from_json(&first.task));
        let Some(JobSpec { spec, is_engine }) = (self.setup.launcher)(task.argv()) else {
            error!(job = number, "job {number} is not started: {task} is not authorised");
            self.running.remove(&number);
            let output = "not authorised".to_owned();
            let ended = rows::JobResult { state: JobState::Failed, exit_code: None, output };
            return self.record(number, JobUpdate::Finished(ended, milliseconds())).await;
        };
        let run = correlation::new_id();
        info!(job = number, run_id = run, "starting job {number}: {task}");
        let QueueConfig { limits, reaper, lines, .. } = &self.setup;
        let (limits, reaper, lines, kill) = (*limits, reaper.clone(), lines.clone(), self.kill.subscribe());
        self.runs.spawn(async move {
            let started = Instant::now();
            let (ended, output) = runner::run(number, &run, &spec, limits, &reaper, &lines, kill).await;
            RunFinished { number, run, is_engine, ended, output, took: started.elapsed() }
        });
        let running = self.running.len() as u64;
        self.status.send_modify(|status| status.running = running);
    }

    async fn on_run_finished(&mut self, finished: RunFinished) {
        let RunFinished { number, run, is_engine, ended, output, took } = finished;
        self.running.remove(&number);
        let running = self.running.len() as u64;
        self.status.send_modify(|status| status.running = running);
        let took = took.as_secs_f64();
        let verdict = match ended {
            RunEnd::Exited(Exit::Code(ENGINE_BUSY)) if is_engine => self.postpone(number, "another engine runs"),
            RunEnd::Exited(exit) if is_engine && is_retryable(exit) && self.retries.record_interruption(number) => {
                warn!(job = number, run_id = run, "job {number} has not done its work after {took:.1} s: {exit}");
                self.postpone(number, "the next run recovers what this one had begun")
            }
            RunEnd::NoResources => self.postpone(number, "there is no room for another process"),
            RunEnd::KilledAtStop => {
                warn!(job = number, run_id = run, "job {number} was killed after {took:.1} s; it runs again");
                JobUpdate::Requeue
            }
            RunEnd::SpawnFailed(reason) => {
                error!(job = number, run_id = run, "job {number} cannot be started: {reason}");
                let ended = rows::JobResult { state: JobState::Failed, exit_code: None, output };
                JobUpdate::Finished(ended, milliseconds())
            }
            RunEnd::Exited(exit) | RunEnd::TimedOut(exit) => {
                self.retries.reset();
                let is_good = exit == Exit::Code(0);
                match is_good {
                    true => info!(job = number, run_id = run, "job {number} has ended after {took:.1} s: {exit}"),
                    false => warn!(job = number, run_id = run, "job {number} has ended after {took:.1} s: {exit}"),
                }
                let state = if is_good { JobState::Done } else { JobState::Failed };
                let ended = rows::JobResult { state, exit_code: Some(i64::from(exit.code())), output };
                JobUpdate::Finished(ended, milliseconds())
            }
        };
        if let JobUpdate::Finished(..) = verdict {
            self.retries.forget(number);
        }
        let outcome = |status: &mut Status| match &verdict {
            JobUpdate::Finished(rows::JobResult { state: JobState::Done, .. }, _) => status.done += 1,
            JobUpdate::Finished(..) => status.failed += 1,
            JobUpdate::Requeue => status.requeued += 1,
        };
        self.status.send_modify(outcome);
        self.record(number, verdict).await;
    }

    /// The job keeps its place, and nothing is started for a while.
    fn postpone(&mut self, number: i64, reason: &str) -> JobUpdate {
        let pause = self.retries.pause();
        info!(job = number, "{reason}: job {number} is tried again in {} s", pause.as_secs());
        JobUpdate::Requeue
    }

    /// Writes what became of a job, now or as soon as the database is back.
    async fn record(&mut self, number: i64, verdict: JobUpdate) {
        self.ends_until_pruning -= 1;
        let is_time = self.ends_until_pruning < 0;
        if is_time {
            self.ends_until_pruning = MAX_FINISHED_JOBS / 10;
        }
        let written = self.with(async |jobs| {
            match &verdict {
                JobUpdate::Finished(ended, at) => jobs.end(number, ended, *at).await?,
                JobUpdate::Requeue => jobs.requeue(number).await?,
            }
            if is_time { jobs.prune(MAX_FINISHED_JOBS).await } else { Ok(()) }
        });
        match (written.await, &verdict) {
            (Ok(()), JobUpdate::Requeue) => self.status.send_modify(|status| status.waiting += 1),
            (Ok(()), JobUpdate::Finished(..)) => {}
            (Err(Unavailable), _) => self.unrecorded.push((number, verdict)),
        }
    }

    async fn housekeeping(&mut self) {
        self.next_sweep = Instant::now() + HOUSEKEEPING_INTERVAL;
        let counting = self.with(async |jobs| {
            jobs.heartbeat().await?;
            jobs.count().await
        });
        if let Ok(counted) = counting.await {
            self.status.send_modify(|status| (status.waiting, status.oldest) = counted);
        }
    }

    fn finish(&mut self) {
        self.is_finishing = true;
        if !self.runs.is_empty() {
            info!("waiting for job {} to end, and starting no other one", self.format_running());
        }
    }

    fn format_running(&self) -> String {
        self.running.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
    }

    fn stop(&mut self) {
        if self.stopping.is_some() {
            return self.kill_running();
        }
        self.stopping = Some(Instant::now() + self.setup.stop_timeout);
        if !self.runs.is_empty() {
            let limit = self.setup.stop_timeout.as_secs_f64();
            info!("waiting for job {} to end, for at most {limit} s", self.format_running());
        }
    }

    fn kill_running(&mut self) {
        self.was_killed = !self.runs.is_empty();
        self.kill.send_replace(true);
    }
}

/// Whether an engine ended without having done its work: its database was away, or a signal has ended it.
fn is_retryable(exit: Exit) -> bool {
    exit == Exit::Code(Kind::Unavailable.code()) || exit.code() > SIGNALS
}

/// The requester may have disconnected.
fn send_reply<T>(reply: Reply<T>, response: Result<T, Unavailable>) {
    let _ = reply.send(response);
}

fn milliseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
