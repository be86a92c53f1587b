//! Submits routes with new files to the job queue: each is pending until the queue has it, however long that takes.
//!
//! A route that gets another file before the queue has answered is submitted again: the running job may have listed its files
//! a moment too early. The queue adds no second job while one waits.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, info, warn};

use super::client::{self, call};
use super::command_line::JobCommand;
use super::rpc::{ADD, code};
use super::xmlrpc::Value;
use crate::model::{Backoff, Endpoint};
use crate::telemetry::escape::escape_control;

/// The priority that all of Bots's programs ask for.
const PRIORITY: i32 = 5;

/// Files that arrive within this time are one run.
const BATCH_DELAY: Duration = Duration::from_millis(10);

/// A route is submitted at most this often, also under a steady stream of files.
const MIN_SUBMIT_INTERVAL: Duration = Duration::from_millis(500);

/// The pauses between two attempts while the queue does not answer.
const BACKOFF: Backoff = Backoff { initial: Duration::from_millis(250), max: Duration::from_secs(5) };

/// A refused task is submitted again, since bots.ini may authorise it later.
const REJECTED_RETRY_DELAY: Duration = Duration::from_secs(30);

/// Limit of the submission of pending routes at the end.
const SHUTDOWN_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Collects pending routes, and submits them.
pub struct JobSubmitter {
    target: Mutex<Endpoint>,
    config: PathBuf,
    pending: Mutex<PendingRoutes>,
    wake: Notify,
}

/// Routes to run. Pure.
#[derive(Debug, Default)]
struct PendingRoutes {
    pending: BTreeMap<String, PendingRoute>,
    sent: HashMap<String, Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PendingRoute {
    files: usize,
    example: PathBuf,
    not_before: Instant,
    /// Changes when another file arrives.
    revision: u64,
    /// Whether the queue has rejected the route, and the log says so.
    is_rejected: bool,
}

/// The queue's reply to a submission.
enum Reply {
    Added,
    /// A job for the route is waiting already.
    Duplicate,
    /// The reason why the queue cannot run this route, which does not concern other routes.
    Rejected(String),
}

/// While the queue does not answer.
struct Outage {
    failures: u32,
    /// The next attempt.
    next: Instant,
}

impl Outage {
    fn after(before: Option<&Self>, now: Instant) -> Self {
        let failures = before.map_or(0, |outage| outage.failures) + 1;
        Self { failures, next: now + BACKOFF.pause(failures) }
    }
}

impl JobSubmitter {
    /// Jobs are for the engine of this configuration directory.
    #[must_use]
    pub fn new(target: Endpoint, config: PathBuf) -> Self {
        Self { target: Mutex::new(target), config, pending: Mutex::default(), wake: Notify::new() }
    }

    /// Changes the address of the queue.
    pub fn set_target(&self, target: Endpoint) {
        *lock(&self.target) = target;
    }

    /// Adds a route with this number of new files, `example` being one of them.
    pub fn add_pending(&self, route: &str, files: usize, example: PathBuf) {
        lock(&self.pending).add(route, files, example, Instant::now());
        self.wake.notify_one();
    }

    /// Submits routes until the task is dropped. `observe` gets the number of pending routes at each change.
    pub async fn run(&self, observe: impl Fn(usize)) {
        let mut outage: Option<Outage> = None;
        let mut reported = 0;
        loop {
            let count = lock(&self.pending).pending.len();
            if std::mem::replace(&mut reported, count) != count {
                observe(count);
            }
            let Some((route, pending_route)) = self.next() else {
                self.wake.notified().await;
                continue;
            };
            let not_before = pending_route.not_before;
            let due = outage.as_ref().map_or(not_before, |outage| outage.next.max(not_before));
            if timeout_at(due, self.wake.notified()).await.is_ok() {
                continue;
            }
            match self.submit(&route).await {
                Ok(reply) => {
                    if outage.take().is_some() {
                        info!("the job queue responds again");
                    }
                    self.handle_reply(&route, &pending_route, reply);
                }
                Err(reason) => {
                    if outage.is_none() {
                        error!("{reason}; keeping the pending routes until the job queue responds");
                    }
                    outage = Some(Outage::after(outage.as_ref(), Instant::now()));
                }
            }
        }
    }

    /// Submits the pending routes if the queue answers at once. Returns those that it has not accepted.
    pub async fn finish(&self) -> Vec<String> {
        let routes = lock(&self.pending).pending.clone();
        let submit_all = async {
            for (route, pending_route) in routes {
                match self.submit(&route).await {
                    Ok(reply) => self.handle_reply(&route, &pending_route, reply),
                    Err(_) => return,
                }
            }
        };
        let _ = timeout(SHUTDOWN_FLUSH_TIMEOUT, submit_all).await;
        lock(&self.pending).pending.keys().cloned().collect()
    }

    fn next(&self) -> Option<(String, PendingRoute)> {
        lock(&self.pending).next()
    }

    /// Fails if the queue does not answer.
    async fn submit(&self, route: &str) -> Result<Reply, client::Error> {
        let target = lock(&self.target).clone();
        let argv = vec!["bots-engine".to_owned(), format!("-c{}", self.config.display()), route.to_owned()];
        let task = match JobCommand::new(argv) {
            Ok(task) => task,
            Err(reason) => return Ok(Reply::Rejected(reason)),
        };
        match call(&target, ADD, vec![task.to_value(), Value::Integer(PRIORITY)]).await {
            Ok(Value::Integer(code::ADDED)) => Ok(Reply::Added),
            Ok(Value::Integer(code::DUPLICATE)) => Ok(Reply::Duplicate),
            Ok(Value::Integer(code)) => Ok(Reply::Rejected(format!("code {code}"))),
            Ok(_) => Ok(Reply::Rejected("the response is not a result code".to_owned())),
            Err(client::Error::Fault(_, reason)) => Ok(Reply::Rejected(reason)),
            Err(error) => Err(error),
        }
    }

    fn handle_reply(&self, route: &str, pending_route: &PendingRoute, reply: Reply) {
        let PendingRoute { files, example, .. } = pending_route;
        let name = escape_control(route);
        let such_as = if *files == 1 { "" } else { "such as " };
        // Partners name files.
        let example = example.to_string_lossy();
        let example = escape_control(&example);
        let now = Instant::now();
        match reply {
            Reply::Added => info!("queued route {name}: {files} new files, {such_as}{example}"),
            Reply::Duplicate => info!("route {name} is already queued: {files} more files, {such_as}{example}"),
            Reply::Rejected(reason) => {
                if !pending_route.is_rejected {
                    warn!("the job queue rejects route {name}: {reason}; its files stay in place");
                }
                return lock(&self.pending).reject(route, now + REJECTED_RETRY_DELAY);
            }
        }
        lock(&self.pending).remove_submitted(route, pending_route, now);
    }
}

impl PendingRoutes {
    fn add(&mut self, route: &str, files: usize, example: PathBuf, now: Instant) {
        if let Some(pending_route) = self.pending.get_mut(route) {
            pending_route.files += files;
            pending_route.revision += 1;
            return;
        }
        let pause = self.sent.get(route).map(|sent| *sent + MIN_SUBMIT_INTERVAL);
        let not_before = pause.map_or(now + BATCH_DELAY, |pause| pause.max(now + BATCH_DELAY));
        let pending_route = PendingRoute { files, example, not_before, revision: 0, is_rejected: false };
        self.pending.insert(route.to_owned(), pending_route);
    }

    /// The route that is due first.
    fn next(&self) -> Option<(String, PendingRoute)> {
        let (route, pending_route) = self.pending.iter().min_by_key(|(_, mark)| mark.not_before)?;
        Some((route.clone(), pending_route.clone()))
    }

    /// The queue has the route. Files that arrived since the call began need another one.
    fn remove_submitted(&mut self, route: &str, as_called: &PendingRoute, now: Instant) {
        self.sent.insert(route.to_owned(), now);
        let Some(pending_route) = self.pending.get_mut(route) else { return };
        if pending_route.revision == as_called.revision {
            self.pending.remove(route);
        } else {
            pending_route.files -= as_called.files.min(pending_route.files);
            pending_route.not_before = now + MIN_SUBMIT_INTERVAL;
            pending_route.is_rejected = false;
        }
    }

    /// The queue does not accept the route, at least until then.
    fn reject(&mut self, route: &str, until: Instant) {
        if let Some(pending_route) = self.pending.get_mut(route) {
            (pending_route.not_before, pending_route.is_rejected) = (until, true);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::Request;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::super::listener::xml_response;
    use super::super::xmlrpc::write_answer;
    use super::*;
    use crate::http::server;

    fn pending(now: Instant) -> PendingRoutes {
        let mut pending = PendingRoutes::default();
        pending.add("a", 1, "/in/1".into(), now);
        pending
    }

    #[test]
    fn files_arriving_together_cause_one_submission() {
        let now = Instant::now();
        let mut pending = pending(now);
        pending.add("a", 2, "/in/2".into(), now + BATCH_DELAY / 2);
        let (route, pending_route) = pending.next().expect("marked");
        assert_eq!((route.as_str(), pending_route.files, pending_route.not_before), ("a", 3, now + BATCH_DELAY));
        pending.remove_submitted("a", &pending_route, now);
        assert!(pending.next().is_none());
    }

    #[test]
    fn route_marked_during_submission_is_submitted_again() {
        let now = Instant::now();
        let mut pending = pending(now);
        let (_, route) = pending.next().expect("marked");
        pending.add("a", 1, "/in/2".into(), now);
        pending.remove_submitted("a", &route, now);
        let (_, again) = pending.next().expect("still marked");
        assert_eq!((again.files, again.not_before), (1, now + MIN_SUBMIT_INTERVAL));
    }

    #[test]
    fn stream_of_files_respects_min_submit_interval() {
        let now = Instant::now();
        let mut pending = pending(now);
        let (_, route) = pending.next().expect("marked");
        pending.remove_submitted("a", &route, now);
        pending.add("a", 1, "/in/2".into(), now + Duration::from_millis(10));
        assert_eq!(pending.next().expect("marked").1.not_before, now + MIN_SUBMIT_INTERVAL);
        pending.add("b", 1, "/in/3".into(), now + Duration::from_millis(20));
        assert_eq!(pending.next().expect("marked").0, "b", "another route does not wait for it");
    }

    #[test]
    fn unreachable_queue_is_retried_with_backoff() {
        let now = Instant::now();
        let mut outage = Outage::after(None, now);
        assert_eq!(outage.next, now + BACKOFF.initial);
        for _ in 0..10 {
            outage = Outage::after(Some(&outage), now);
        }
        assert_eq!(outage.next, now + BACKOFF.max);
    }

    #[test]
    fn rejected_route_does_not_delay_others() {
        let now = Instant::now();
        let mut pending = pending(now);
        pending.add("b", 1, "/in/2".into(), now);
        pending.reject("a", now + REJECTED_RETRY_DELAY);
        assert_eq!(pending.next().expect("marked").0, "b");
    }

    #[tokio::test]
    async fn stop_submits_all_routes_but_the_rejected_ones() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let authority = listener.local_addr().expect("it has one").to_string();
        let accept = |_: Request<Incoming>| async {
            Ok::<_, Infallible>(xml_response(write_answer(Value::Integer(code::ADDED))))
        };
        tokio::spawn(server::serve(listener, "job queue", move |_| service_fn(accept)));
        let submitter =
            JobSubmitter::new(Endpoint { authority, path: "/".to_owned(), token: None }, "/env/config".into());
        // A job cannot have two of these names.
        for route in ["a\u{1}", "b", "c\u{1}", "d"] {
            submitter.add_pending(route, 1, "/in/1".into());
        }
        assert_eq!(submitter.finish().await, ["a\u{1}", "c\u{1}"]);
    }

    #[test]
    fn rejection_is_remembered_for_each_route_until_it_is_accepted() {
        let now = Instant::now();
        let mut pending = pending(now);
        pending.add("b", 1, "/in/2".into(), now);
        pending.reject("a", now + REJECTED_RETRY_DELAY);
        let is_rejected = |pending: &PendingRoutes, route: &str| pending.pending[route].is_rejected;
        assert!(is_rejected(&pending, "a") && !is_rejected(&pending, "b"));
        let route = pending.pending["a"].clone();
        pending.add("a", 1, "/in/3".into(), now);
        assert!(is_rejected(&pending, "a"));
        pending.remove_submitted("a", &route, now);
        assert!(!is_rejected(&pending, "a"));
    }
}
