//! What does the queue's work: the one task that owns the connection, the line and the running jobs.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use super::super::command_line::Task;
use super::super::runner::{self, Ended};
use super::db_link::Link;
use super::retry::Retries;
use super::{Activity, Asker, BATCH, Launch, Order, PATIENCE, Reply, Request, Setup, Status, Unavailable};
use crate::database::Error;
use crate::database::jobs::{self as rows, Added, Jobs, New, State, Waiting};
use crate::exit::{Exit, Kind};
use crate::supervisor::state::End;
use crate::telemetry::correlation;

/// How often to look at the line without being told to, for what somebody else has written there; to notice a database
/// that is gone; and to give a sign of life to those who stand by.
const SWEEP: Duration = Duration::from_secs(2);

/// How long to wait before the database is tried again.
const RECONNECT: Duration = Duration::from_secs(1);

/// How many jobs that have ended are remembered.
const REMEMBERED: i64 = 1000;

/// The engine's exit code for "another engine runs".
const ENGINE_BUSY: u8 = 3;

/// Codes above this are those of signals, as in a shell.
const SIGNALS: u8 = 128;

/// What is to be written of a job that ran.
#[derive(Debug, Clone)]
enum Verdict {
    /// And when that was.
    Ended(rows::Ended, i64),
    PutBack,
}

struct Finished {
    number: i64,
    run: String,
    is_engine: bool,
    ended: Ended,
    output: String,
    took: Duration,
}

enum Event {
    Asked(Vec<Request>),
    Opened(Box<Result<Jobs, Error>>),
    Reopen,
    Finished(Finished),
    Told(Option<Order>),
    Overdue,
    Tick,
}

/// Does the queue's work.
pub struct Worker {
    setup: Setup,
    requests: mpsc::Receiver<Request>,
    status: watch::Sender<Status>,
    link: Link,
    runs: JoinSet<Finished>,
    running: BTreeSet<i64>,
    /// What could not be written yet.
    unrecorded: Vec<(i64, Verdict)>,
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
    pub(super) fn new(setup: Setup, requests: mpsc::Receiver<Request>, status: watch::Sender<Status>) -> Self {
        Self {
            link: Link::open(&setup, &status),
            setup,
            requests,
            status,
            runs: JoinSet::new(),
            running: BTreeSet::new(),
            unrecorded: Vec::new(),
            retries: Retries::default(),
            ends_until_pruning: 0,
            next_sweep: Instant::now() + SWEEP,
            has_begun: false,
            is_finishing: false,
            stopping: None,
            kill: watch::Sender::new(false),
            was_killed: false,
        }
    }

    /// Works until it was asked to stop and no job runs any more.
    pub async fn run(mut self, orders: &mut mpsc::Receiver<Order>) -> End {
        while !self.is_done() {
            match self.next(orders).await {
                Event::Asked(requests) => self.answer(requests).await,
                Event::Opened(opened) => match *opened {
                    Ok(jobs) => self.activate(jobs).await,
                    Err(error) => self.lose(&error),
                },
                Event::Reopen => self.link = Link::open(&self.setup, &self.status),
                Event::Finished(finished) => self.conclude(finished).await,
                Event::Told(Some(Order::Begin)) => self.has_begun = true,
                Event::Told(Some(Order::Finish)) => self.finish(),
                Event::Told(Some(Order::Stop) | None) => self.stop(),
                Event::Overdue => self.cut_short(),
                Event::Tick => self.sweep().await,
            }
            self.start_jobs().await;
        }
        if self.was_killed { End::Killed } else { End::Stopped }
    }

    fn is_done(&self) -> bool {
        // Who takes this one's place would run a job again whose end was not written yet.
        let is_finished = self.is_finishing && self.unrecorded.is_empty();
        (self.stopping.is_some() || is_finished) && self.runs.is_empty()
    }

    async fn next(&mut self, orders: &mut mpsc::Receiver<Order>) -> Event {
        let tick = self.retries.until().map_or(self.next_sweep, |until| until.min(self.next_sweep));
        let deadline = self.stopping.filter(|_| !*self.kill.borrow());
        let mut batch = Vec::new();
        tokio::select! {
            Some(Ok(finished)) = self.runs.join_next() => Event::Finished(finished),
            opened = self.link.changed() => opened.map_or(Event::Reopen, |opened| Event::Opened(Box::new(opened))),
            count = self.requests.recv_many(&mut batch, BATCH), if !self.requests.is_closed() => {
                debug!("{count} requests at once");
                Event::Asked(batch)
            }
            told = orders.recv() => Event::Told(told),
            () = sleep_until(deadline.unwrap_or(tick)), if deadline.is_some() => Event::Overdue,
            () = sleep_until(tick) => Event::Tick,
        }
    }

    async fn answer(&mut self, requests: Vec<Request>) {
        let (mut news, mut askers) = (Vec::new(), Vec::new());
        for request in requests {
            match request {
                Request::Add(new, asker) => {
                    news.push(new);
                    askers.push(asker);
                }
                Request::List(reply) => tell(reply, self.with(async |jobs| jobs.list().await).await),
                Request::Clear(reply) => {
                    let cleared = self.with(async |jobs| jobs.clear().await).await;
                    self.count(|status| status.waiting = 0, cleared.is_ok());
                    tell(reply, cleared);
                }
                Request::Take(reply) => tell(reply, self.take().await),
                Request::Show(number, reply) => tell(reply, self.with(async |jobs| jobs.show(number).await).await),
            }
        }
        if !news.is_empty() {
            self.add(news, askers).await;
        }
    }

    async fn add(&mut self, news: Vec<New>, askers: Vec<Asker>) {
        let now = milliseconds();
        let Ok(added) = self.with(async |jobs| jobs.add(&news, now).await).await else {
            askers.into_iter().for_each(|(_, reply)| tell(reply, Err(Unavailable)));
            return;
        };
        for ((new, added), (request_id, reply)) in news.iter().zip(added).zip(askers) {
            let (task, priority) = (Task::from_json(&new.task), new.priority);
            match added {
                Added::New(job) => info!(job, %request_id, "job {job} with priority {priority}: {task}"),
                Added::Changed(job) => info!(job, %request_id, "job {job} now has priority {priority}: {task}"),
                Added::Duplicate(job) => {
                    info!(job, %request_id, "job {job} waits already and is not added again: {task}");
                }
            }
            self.count(|status| status.waiting += 1, matches!(added, Added::New(_)));
            tell(reply, Ok(added));
        }
    }

    async fn take(&mut self) -> Result<Option<Waiting>, Unavailable> {
        let Some(first) = self.with(async |jobs| jobs.first().await).await? else { return Ok(None) };
        let (number, now) = (first.number, milliseconds());
        let ended = rows::Ended { state: State::Done, exit_code: None, output: "taken by getjob".to_owned() };
        self.with(async |jobs| {
            jobs.start(number, now).await?;
            jobs.end(number, &ended, now).await
        })
        .await?;
        info!(job = number, "job {number} was taken by getjob");
        self.count(|status| status.waiting = status.waiting.saturating_sub(1), true);
        Ok(Some(first))
    }

    /// Does something with the rows, if they can be reached.
    async fn with<T>(&mut self, act: impl AsyncFnOnce(&mut Jobs) -> Result<T, Error>) -> Result<T, Unavailable> {
        let Link::Up(jobs) = &mut self.link else { return Err(Unavailable) };
        let late = || Error::Unavailable(format!("the database did not answer within {} s", PATIENCE.as_secs()));
        match timeout(PATIENCE, act(jobs)).await.unwrap_or_else(|_| Err(late())) {
            Ok(done) => Ok(done),
            Err(error) => {
                self.lose(&error);
                Err(Unavailable)
            }
        }
    }

    /// The connection is given up, and with it the right to change anything, until there is a new one.
    fn lose(&mut self, error: &Error) {
        let was = self.status.borrow().activity;
        if was == Activity::Unavailable {
            debug!("{error}");
        } else {
            error!("the job queue waits for its database: {error}");
        }
        self.status.send_modify(|status| status.activity = Activity::Unavailable);
        self.link = Link::Down(Instant::now() + RECONNECT);
    }

    /// This queue is the active one from here on.
    async fn activate(&mut self, jobs: Jobs) {
        self.link = Link::Up(Box::new(jobs));
        for (number, verdict) in std::mem::take(&mut self.unrecorded) {
            self.record(number, verdict).await;
        }
        let running = self.running.clone();
        let recovered = self.with(async |jobs| {
            let mut recovered = Vec::new();
            for number in jobs.running().await? {
                if running.contains(&number) {
                    jobs.adopt(number).await?;
                } else {
                    jobs.put_back(number).await?;
                    recovered.push(number);
                }
            }
            jobs.prune(REMEMBERED).await?;
            Ok((recovered, jobs.count().await?))
        });
        let Ok((recovered, (waiting, oldest))) = recovered.await else { return };
        for job in recovered {
            warn!(job, "job {job} was running when its queue ended: it runs again");
        }
        info!("the job queue is active; {waiting} jobs wait");
        self.status.send_modify(|status| {
            status.activity = Activity::Active;
            (status.waiting, status.oldest) = (waiting, oldest);
        });
    }

    async fn start_jobs(&mut self) {
        if !self.has_begun || self.is_finishing || !self.retries.is_over() {
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
            let left =
                |status: &mut Status| status.waiting = first.as_ref().map_or(0, |_| status.waiting.saturating_sub(1));
            self.count(left, true);
            let Some(first) = first else { return };
            // One that another queue had put back meanwhile, and that runs here still.
            if self.running.insert(first.number) {
                self.start(first).await;
            }
        }
    }

    async fn start(&mut self, first: Waiting) {
        let (number, task) = (first.number, Task::from_json(&first.task));
        let Some(Launch { spec, is_engine }) = (self.setup.launcher)(task.words()) else {
            error!(job = number, "job {number} is not started: {task} is not authorised");
            self.running.remove(&number);
            let output = "not authorised".to_owned();
            let ended = rows::Ended { state: State::Failed, exit_code: None, output };
            return self.record(number, Verdict::Ended(ended, milliseconds())).await;
        };
        let run = correlation::fresh();
        info!(job = number, run_id = run, "starting job {number}: {task}");
        let Setup { limits, reaper, lines, .. } = &self.setup;
        let (limits, reaper, lines, kill) = (*limits, reaper.clone(), lines.clone(), self.kill.subscribe());
        self.runs.spawn(async move {
            let started = Instant::now();
            let (ended, output) = runner::run(number, &run, &spec, limits, &reaper, &lines, kill).await;
            Finished { number, run, is_engine, ended, output, took: started.elapsed() }
        });
        let running = self.running.len() as u64;
        self.count(|status| status.running = running, true);
    }

    async fn conclude(&mut self, finished: Finished) {
        let Finished { number, run, is_engine, ended, output, took } = finished;
        self.running.remove(&number);
        let running = self.running.len() as u64;
        self.count(|status| status.running = running, true);
        let took = took.as_secs_f64();
        let verdict = match ended {
            Ended::Exited(Exit::Code(ENGINE_BUSY)) if is_engine => self.postpone(number, "another engine runs"),
            Ended::Exited(exit) if is_engine && was_cut_off(exit) && self.retries.may_try_again(number) => {
                warn!(job = number, run_id = run, "job {number} has not done its work after {took:.1} s: {exit}");
                self.postpone(number, "the next run recovers what this one had begun")
            }
            Ended::NoRoom => self.postpone(number, "there is no room for another process"),
            Ended::CutShort => {
                warn!(job = number, run_id = run, "job {number} was killed after {took:.1} s; it runs again");
                Verdict::PutBack
            }
            Ended::NotStarted(why) => {
                error!(job = number, run_id = run, "job {number} cannot be started: {why}");
                Verdict::Ended(rows::Ended { state: State::Failed, exit_code: None, output }, milliseconds())
            }
            Ended::Exited(exit) | Ended::Overdue(exit) => {
                self.retries.has_run();
                let is_good = exit == Exit::Code(0);
                match is_good {
                    true => info!(job = number, run_id = run, "job {number} has ended after {took:.1} s: {exit}"),
                    false => warn!(job = number, run_id = run, "job {number} has ended after {took:.1} s: {exit}"),
                }
                let state = if is_good { State::Done } else { State::Failed };
                let ended = rows::Ended { state, exit_code: Some(i64::from(exit.code())), output };
                Verdict::Ended(ended, milliseconds())
            }
        };
        if let Verdict::Ended(..) = verdict {
            self.retries.forget(number);
        }
        let outcome = |status: &mut Status| match &verdict {
            Verdict::Ended(rows::Ended { state: State::Done, .. }, _) => status.done += 1,
            Verdict::Ended(..) => status.failed += 1,
            Verdict::PutBack => status.repeated += 1,
        };
        self.count(outcome, true);
        self.record(number, verdict).await;
    }

    /// The job keeps its place, and nothing is started for a while.
    fn postpone(&mut self, number: i64, why: &str) -> Verdict {
        let pause = self.retries.pause();
        info!(job = number, "{why}: job {number} is tried again in {} s", pause.as_secs());
        Verdict::PutBack
    }

    /// Writes what became of a job, now or as soon as the database is back.
    async fn record(&mut self, number: i64, verdict: Verdict) {
        self.ends_until_pruning -= 1;
        let is_time = self.ends_until_pruning < 0;
        if is_time {
            self.ends_until_pruning = REMEMBERED / 10;
        }
        let written = self.with(async |jobs| {
            match &verdict {
                Verdict::Ended(ended, at) => jobs.end(number, ended, *at).await?,
                Verdict::PutBack => jobs.put_back(number).await?,
            }
            if is_time { jobs.prune(REMEMBERED).await } else { Ok(()) }
        });
        match (written.await, &verdict) {
            (Ok(()), Verdict::PutBack) => self.count(|status| status.waiting += 1, true),
            (Ok(()), Verdict::Ended(..)) => {}
            (Err(Unavailable), _) => self.unrecorded.push((number, verdict)),
        }
    }

    async fn sweep(&mut self) {
        self.next_sweep = Instant::now() + SWEEP;
        let looked = self.with(async |jobs| {
            jobs.show_life().await?;
            jobs.count().await
        });
        if let Ok(looked) = looked.await {
            self.count(|status| (status.waiting, status.oldest) = looked, true);
        }
    }

    fn finish(&mut self) {
        self.is_finishing = true;
        if !self.runs.is_empty() {
            info!("waiting for job {} to end, and starting no other one", self.in_words());
        }
    }

    fn in_words(&self) -> String {
        self.running.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
    }

    fn stop(&mut self) {
        if self.stopping.is_some() {
            return self.cut_short();
        }
        self.stopping = Some(Instant::now() + self.setup.stop_timeout);
        if !self.runs.is_empty() {
            let limit = self.setup.stop_timeout.as_secs_f64();
            info!("waiting for job {} to end, for at most {limit} s", self.in_words());
        }
    }

    fn cut_short(&mut self) {
        self.was_killed = !self.runs.is_empty();
        self.kill.send_replace(true);
    }

    fn count(&self, change: impl FnOnce(&mut Status), happened: bool) {
        if happened {
            self.status.send_modify(change);
        }
    }
}

/// Whether an engine ended without having done its work: its database was away, or a signal has ended it.
fn was_cut_off(exit: Exit) -> bool {
    exit == Exit::Code(Kind::Unavailable.code()) || exit.code() > SIGNALS
}

/// Whoever has asked may have gone.
fn tell<T>(reply: Reply<T>, answer: Result<T, Unavailable>) {
    let _ = reply.send(answer);
}

fn milliseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
