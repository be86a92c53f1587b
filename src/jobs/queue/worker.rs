//! The queue's worker: the task that owns the connection, the waiting and the running jobs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::super::command_line::JobCommand;
use super::super::runner::{self, JobRun, RunEnd};
use super::batch_window::BatchWindow;
use super::db_link::DbLink;
use super::retry::Retries;
use super::{MAX_BATCH, Queue, QueueCommand, QueueConfig, QueueStatus, Request, Role, Unavailable};
use crate::bots::job_policy::JobProcess;
use crate::database::jobs::{JobResult, QueuedJob, WaitingJobs};
use crate::exit::{Exit, Kind};
use crate::model::QueueCounts;
use crate::supervisor::state::Termination;
use crate::telemetry::correlation;

/// Time between two queries without a request: for a database that is gone, and for the heartbeat to standbys.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(2);

/// The jobs that have ended and are kept. Removing the others is part of the end of every hundredth job.
const MAX_FINISHED_JOBS: i64 = 1000;
const PRUNE_EVERY: i64 = 100;

/// Attempts of a job that is interrupted each time: one that exceeds the memory limit, and ends the queue with it, must not
/// block all other jobs. The row of a job counts them, so that they are known after a restart.
const MAX_ATTEMPTS: i64 = 4;

/// The engine's exit code for "another engine is running".
const ENGINE_BUSY: u8 = 3;

/// Codes above this are those of signals, as in a shell.
const SIGNALS: u8 = 128;

/// A change of the row of a job that ran.
#[derive(Debug, Clone)]
pub(super) enum JobUpdate {
    Finished(JobResult),
    /// It was interrupted, and this was one of its attempts.
    Requeue,
    /// It has not done anything that counts as an attempt.
    Postpone,
}

impl JobUpdate {
    pub fn finished(is_success: bool, exit_code: Option<i64>, output: String) -> Self {
        Self::Finished(JobResult { is_success, ended: now_ms(), exit_code, output })
    }
}

struct RunFinished {
    number: i64,
    /// How many attempts this makes.
    attempts: i64,
    run: String,
    is_engine: bool,
    result: JobRun,
    took: Duration,
}

/// Runs the jobs of the queue.
pub struct Worker {
    config: QueueConfig,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) window: BatchWindow,
    pub(super) status: watch::Sender<QueueStatus>,
    pub(super) db: DbLink,
    runs: JoinSet<RunFinished>,
    running: BTreeSet<i64>,
    /// Changes that could not be written yet.
    unrecorded: Vec<(i64, JobUpdate)>,
    retries: Retries,
    next_housekeeping: Instant,
    /// Set by `Start`; no job starts before it.
    has_begun: bool,
    /// The queue ends once no job runs any more.
    is_finishing: bool,
    /// Set by a stop: until when running jobs are waited for.
    stopping: Option<Instant>,
    /// Cancelled when running jobs are killed.
    kill: CancellationToken,
    was_killed: bool,
}

impl Worker {
    /// Creates a queue: its clients' handle, its state, and its worker.
    #[must_use]
    pub fn new(config: QueueConfig) -> (Queue, watch::Receiver<QueueStatus>, Self) {
        let (sender, requests) = mpsc::channel(MAX_BATCH);
        let (status, receiver) = watch::channel(QueueStatus::default());
        let queue = Queue { requests: sender, policy: Arc::clone(&config.policy) };
        let worker = Self {
            db: DbLink::new(config.database.clone(), config.owner.clone(), status.clone()),
            config,
            requests,
            window: BatchWindow::default(),
            status,
            runs: JoinSet::new(),
            running: BTreeSet::new(),
            unrecorded: Vec::new(),
            retries: Retries::default(),
            next_housekeeping: Instant::now() + HOUSEKEEPING_INTERVAL,
            has_begun: false,
            is_finishing: false,
            stopping: None,
            kill: CancellationToken::new(),
            was_killed: false,
        };
        (queue, receiver, worker)
    }

    /// Works until a command ends the queue and no job runs any more.
    pub async fn run(mut self, commands: &mut mpsc::Receiver<QueueCommand>) -> Termination {
        while !self.is_done() {
            let tick = self.retries.until().map_or(self.next_housekeeping, |until| until.min(self.next_housekeeping));
            let deadline = self.stopping.filter(|_| !self.kill.is_cancelled());
            let mut batch = Vec::new();
            tokio::select! {
                Some(Ok(finished)) = self.runs.join_next() => self.on_run_finished(finished).await,
                () = self.db.connected() => self.activate().await,
                _ = self.requests.recv_many(&mut batch, MAX_BATCH), if !self.requests.is_closed() => {
                    self.window.fill(&mut batch, &mut self.requests).await;
                    debug!("{} requests at once", batch.len());
                    self.handle_requests(batch).await;
                }
                command = commands.recv() => match command {
                    Some(QueueCommand::Start) => self.has_begun = true,
                    Some(QueueCommand::Drain) => self.drain(),
                    Some(QueueCommand::Stop) | None => self.stop(),
                },
                () = sleep_until(deadline.unwrap_or(tick)), if deadline.is_some() => self.kill_running(),
                () = sleep_until(tick) => self.housekeeping().await,
            }
            self.start_jobs().await;
        }
        if self.was_killed { Termination::Killed } else { Termination::Stopped }
    }

    fn is_done(&self) -> bool {
        // The next queue would run a job again whose end is not recorded.
        let is_finished = self.is_finishing && self.unrecorded.is_empty();
        (self.stopping.is_some() || is_finished) && self.runs.is_empty()
    }

    /// This queue has just become the active one.
    async fn activate(&mut self) {
        for (number, update) in std::mem::take(&mut self.unrecorded) {
            self.record(number, update).await;
        }
        let Ok(waiting) = self.take_over().await else { return };
        info!("the job queue is active with {} waiting jobs", waiting.count);
        self.status.send_modify(|status| {
            status.role = Role::Active;
            set_waiting(&mut status.counts, waiting);
        });
    }

    /// Takes over the jobs of the previous active queue; returns the number of waiting jobs and the age of the oldest.
    async fn take_over(&mut self) -> Result<WaitingJobs, Unavailable> {
        for number in self.running.clone() {
            self.db.with(async |jobs| jobs.reclaim(number).await).await?;
        }
        self.recover_interrupted().await?;
        self.db
            .with(async |jobs| {
                jobs.prune(MAX_FINISHED_JOBS).await?;
                jobs.count().await
            })
            .await
    }

    /// Records the interruption of each job that runs according to the table, but not here.
    async fn recover_interrupted(&mut self) -> Result<(), Unavailable> {
        for (number, attempts) in self.db.with(async |jobs| jobs.running().await).await? {
            if self.running.contains(&number) {
                continue;
            }
            let update = if attempts < MAX_ATTEMPTS {
                warn!(job = number, "job {number} was interrupted with its job queue; rerunning it");
                JobUpdate::Requeue
            } else {
                error!(job = number, "job {number} failed: interrupted {attempts} times");
                JobUpdate::finished(false, None, format!("interrupted {attempts} times"))
            };
            self.db.with(async |jobs| jobs.reclaim(number).await).await?;
            self.record(number, update).await;
        }
        Ok(())
    }

    async fn start_jobs(&mut self) {
        if !self.has_begun || self.is_finishing || !self.retries.may_start() {
            return;
        }
        while self.stopping.is_none() && self.runs.len() < self.config.slots && self.status.borrow().counts.waiting > 0
        {
            let Ok(Some(first)) = self.start_first().await else { return };
            // A job that another queue has requeued may still be running here.
            if self.running.insert(first.number) {
                self.start(first).await;
            }
        }
    }

    /// Marks the first waiting job as running.
    pub(super) async fn start_first(&mut self) -> Result<Option<QueuedJob>, Unavailable> {
        let now = now_ms();
        let started = self.db.with(async |jobs| {
            let Some(first) = jobs.first().await? else { return Ok(None) };
            jobs.start(first.number, now).await?;
            Ok(Some(first))
        });
        let first = started.await?;
        let remaining = |waiting: u64| first.as_ref().map_or(0, |_| waiting.saturating_sub(1));
        self.status.send_modify(|status| status.counts.waiting = remaining(status.counts.waiting));
        Ok(first)
    }

    async fn start(&mut self, first: QueuedJob) {
        let (number, task) = (first.number, JobCommand::from_json(&first.task));
        let Some(JobProcess { process, is_engine }) = self.config.policy.process(task.argv()) else {
            error!(job = number, "cannot start job {number}: {task} is not an allowed program");
            self.running.remove(&number);
            return self.record(number, JobUpdate::finished(false, None, "not authorised".to_owned())).await;
        };
        let (run, attempts) = (correlation::new_id(), first.attempts + 1);
        info!(job = number, run_id = run, "starting job {number}: {task}");
        let QueueConfig { limits, reaper, host, lines, .. } = &self.config;
        let (limits, lines, kill) = (*limits, lines.clone(), self.kill.clone());
        let (reaper, host) = (reaper.clone(), host.clone());
        self.runs.spawn(async move {
            let started = Instant::now();
            let child = if is_engine { host.spawn(&process).await } else { reaper.spawn(&process) };
            let result = runner::run(number, &run, child, limits, &lines, kill).await;
            if is_engine {
                host.prepare();
            }
            RunFinished { number, attempts, run, is_engine, result, took: started.elapsed() }
        });
        self.publish_running();
    }

    fn publish_running(&self) {
        self.status.send_modify(|status| status.counts.running = self.running.len() as u64);
    }

    async fn on_run_finished(&mut self, finished: RunFinished) {
        let number = finished.number;
        self.running.remove(&number);
        self.publish_running();
        let update = self.job_update(finished);
        self.record(number, update).await;
    }

    fn job_update(&mut self, finished: RunFinished) -> JobUpdate {
        let RunFinished { number, attempts, run, is_engine, result: JobRun { end, output }, took } = finished;
        let took = took.as_secs_f64();
        match end {
            RunEnd::Exited(Exit::Code(ENGINE_BUSY)) if is_engine => {
                self.pause(number, "another engine is running");
                JobUpdate::Postpone
            }
            RunEnd::Exited(exit) if is_engine && is_retryable(exit) && attempts < MAX_ATTEMPTS => {
                warn!(job = number, run_id = run, "job {number} failed after {took:.1} s: {exit}");
                self.pause(number, "the next run recovers the unfinished files");
                JobUpdate::Requeue
            }
            RunEnd::NoResources => {
                self.pause(number, "the process limit is reached");
                JobUpdate::Postpone
            }
            RunEnd::KilledAtStop => {
                warn!(job = number, run_id = run, "job {number} was killed after {took:.1} s; rerunning it");
                JobUpdate::Postpone
            }
            RunEnd::SpawnFailed(reason) => {
                error!(job = number, run_id = run, "cannot start job {number}: {reason}");
                JobUpdate::finished(false, None, output)
            }
            RunEnd::Exited(exit) | RunEnd::TimedOut(exit) => {
                self.retries.reset();
                let is_success = exit == Exit::Code(0);
                match is_success {
                    true => info!(job = number, run_id = run, "job {number} finished after {took:.1} s: {exit}"),
                    false => warn!(job = number, run_id = run, "job {number} finished after {took:.1} s: {exit}"),
                }
                JobUpdate::finished(is_success, Some(i64::from(exit.code())), output)
            }
        }
    }

    /// No job is started for a while; this one keeps its position.
    fn pause(&mut self, number: i64, reason: &str) {
        let pause = self.retries.pause();
        info!(job = number, "{reason}: retrying job {number} in {} s", pause.as_secs());
    }

    /// Writes the change, now or as soon as the database is back, and counts it.
    pub(super) async fn record(&mut self, number: i64, update: JobUpdate) {
        let written = self.db.with(async |jobs| {
            match &update {
                JobUpdate::Finished(result) => jobs.end(number, result).await?,
                JobUpdate::Requeue => jobs.requeue(number).await?,
                JobUpdate::Postpone => jobs.postpone(number).await?,
            }
            if number % PRUNE_EVERY == 0 { jobs.prune(MAX_FINISHED_JOBS).await } else { Ok(()) }
        });
        if written.await.is_err() {
            return self.unrecorded.push((number, update));
        }
        self.status.send_modify(|QueueStatus { counts, .. }| match &update {
            JobUpdate::Finished(result) if result.is_success => counts.done += 1,
            JobUpdate::Finished(_) => counts.failed += 1,
            JobUpdate::Requeue | JobUpdate::Postpone => {
                counts.waiting += 1;
                counts.requeued += 1;
            }
        });
    }

    async fn housekeeping(&mut self) {
        self.next_housekeeping = Instant::now() + HOUSEKEEPING_INTERVAL;
        if self.db.with(async |jobs| jobs.heartbeat().await).await.is_err() {
            return;
        }
        // A statement that was given up at its time limit may still have marked a job as running.
        if self.recover_interrupted().await.is_err() {
            return;
        }
        if let Ok(waiting) = self.db.with(async |jobs| jobs.count().await).await {
            self.status.send_modify(|status| set_waiting(&mut status.counts, waiting));
        }
    }

    fn drain(&mut self) {
        self.is_finishing = true;
        if !self.runs.is_empty() {
            info!("waiting for job {} to finish; starting no further jobs", self.running_numbers());
        }
    }

    fn stop(&mut self) {
        if self.stopping.is_some() {
            return self.kill_running();
        }
        self.stopping = Some(Instant::now() + self.config.limits.stop_timeout);
        if !self.runs.is_empty() {
            let limit = self.config.limits.stop_timeout.as_secs_f64();
            info!("waiting up to {limit} s for job {} to finish", self.running_numbers());
        }
    }

    fn kill_running(&mut self) {
        self.was_killed = !self.runs.is_empty();
        self.kill.cancel();
    }

    fn running_numbers(&self) -> String {
        self.running.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Whether an engine ended without having done its work: its database was away, or a signal ended it.
fn is_retryable(exit: Exit) -> bool {
    exit == Exit::Code(Kind::Unavailable.code()) || exit.code() > SIGNALS
}

/// `oldest` is in milliseconds since 1970.
fn set_waiting(counts: &mut QueueCounts, waiting: WaitingJobs) {
    let oldest = waiting.oldest.and_then(|oldest| u64::try_from(oldest).ok());
    counts.waiting = waiting.count;
    counts.oldest = oldest.map(|oldest| UNIX_EPOCH + Duration::from_millis(oldest));
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
