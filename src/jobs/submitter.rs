//! Hands routes that are to run to the job queue: each is marked until the queue has it, however long that takes.
//!
//! A route that is marked again before the queue has answered is handed over again: the job that runs may have looked for
//! files a moment too early. A job that waits already is the queue's concern, which keeps no second one.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::client::{self, call};
use super::command_line::Task;
use super::rpc::{ADD, code};
use super::xmlrpc::Value;
use crate::http::client::Target;
use crate::telemetry::escape::shown;

/// The priority that all of Bots's programs ask for.
const PRIORITY: i32 = 5;

/// Files that come together are one run: this long is waited for others.
const GATHER: Duration = Duration::from_millis(30);

/// A route is handed over at most this often. Under a steady stream of files that is how often the queue is asked.
const PAUSE: Duration = Duration::from_millis(500);

/// Time to the first new try, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// A task that the queue does not run today is offered again, since somebody may authorise it.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

/// How long the end waits for routes that are marked.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// Marks routes, and hands them over.
pub struct Submitter {
    target: Mutex<Target>,
    config: PathBuf,
    marks: Mutex<Marks>,
    wake: Notify,
}

/// Routes that are to run. Pure.
#[derive(Debug, Default)]
struct Marks {
    marked: BTreeMap<String, Mark>,
    sent: HashMap<String, Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    files: usize,
    example: PathBuf,
    not_before: Instant,
    /// Tells whether it was marked again meanwhile.
    count: u64,
}

/// The queue does not answer.
struct Outage {
    pause: Duration,
    /// When it is tried again.
    next: Instant,
}

impl Outage {
    fn after(before: Option<&Self>, now: Instant) -> Self {
        let pause = before.map_or(FIRST_RETRY, |outage| (outage.pause * 2).min(LONGEST_RETRY));
        Self { pause, next: now + pause }
    }
}

impl Submitter {
    /// Jobs are for the engine of this configuration directory.
    #[must_use]
    pub fn new(target: Target, config: PathBuf) -> Self {
        Self { target: Mutex::new(target), config, marks: Mutex::default(), wake: Notify::new() }
    }

    /// The queue is elsewhere now.
    pub fn aim(&self, target: Target) {
        *lock(&self.target) = target;
    }

    /// A route is to run, since so many files came, such as this one.
    pub fn mark(&self, route: &str, files: usize, example: PathBuf) {
        lock(&self.marks).mark(route, files, example, Instant::now());
        self.wake.notify_one();
    }

    /// Routes that the queue does not have yet.
    #[must_use]
    pub fn marked(&self) -> Vec<String> {
        lock(&self.marks).marked.keys().cloned().collect()
    }

    /// Hands routes over until the task is dropped. `observe` is told how many are marked whenever that has changed.
    pub async fn run(&self, observe: impl Fn(usize)) {
        let mut outage: Option<Outage> = None;
        let mut has_refused = false;
        let mut told = 0;
        loop {
            let (count, next) = {
                let marks = lock(&self.marks);
                (marks.marked.len(), marks.next())
            };
            if count != told {
                told = count;
                observe(count);
            }
            let Some((route, mark)) = next else {
                self.wake.notified().await;
                continue;
            };
            let due = outage.as_ref().map_or(mark.not_before, |outage| outage.next.max(mark.not_before));
            if due > Instant::now() {
                tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.wake.notified() => {}
                }
                continue;
            }
            match self.hand_over(&route).await {
                Ok(answer) => {
                    if outage.take().is_some() {
                        info!("the job queue answers again");
                    }
                    has_refused = self.settle(&route, &mark, answer, has_refused);
                }
                Err(why) => {
                    if outage.is_none() {
                        error!("{why}; routes whose files have come stay marked and are handed over when it answers");
                    }
                    outage = Some(Outage::after(outage.as_ref(), Instant::now()));
                }
            }
        }
    }

    /// Hands over what is marked, if the queue answers at once. What is left is told.
    pub async fn finish(&self) -> Vec<String> {
        let hand_over_all = async {
            while let Some((route, mark)) = self.next() {
                match self.hand_over(&route).await {
                    Ok(Ok(code::ADDED | code::DUPLICATE)) => lock(&self.marks).done(&route, &mark, Instant::now()),
                    Ok(_) | Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(LAST_CHANCE, hand_over_all).await;
        self.marked()
    }

    fn next(&self) -> Option<(String, Mark)> {
        lock(&self.marks).next()
    }

    /// The queue's code, or why it takes this route for none that can be run: others are none the worse for that.
    async fn hand_over(&self, route: &str) -> Result<Result<i32, String>, client::Error> {
        let target = lock(&self.target).clone();
        let words = vec!["bots-engine".to_owned(), format!("-c{}", self.config.display()), route.to_owned()];
        let task = match Task::new(words) {
            Ok(task) => task,
            Err(why) => return Ok(Err(why)),
        };
        match call(&target, ADD, vec![task.to_value(), Value::Integer(PRIORITY)]).await {
            Ok(Value::Integer(code)) => Ok(Ok(code)),
            Ok(_) => Ok(Err("it answers something that is no code".to_owned())),
            Err(client::Error::Fault(_, why)) => Ok(Err(why)),
            Err(error) => Err(error),
        }
    }

    /// Whether the last answer was a refusal.
    fn settle(&self, route: &str, mark: &Mark, answer: Result<i32, String>, has_refused: bool) -> bool {
        let Mark { files, example, .. } = mark;
        let name = shown(route);
        let such_as = if *files == 1 { "" } else { "such as " };
        // Partners name files.
        let example = example.to_string_lossy();
        let example = shown(&example);
        let now = Instant::now();
        match answer {
            Ok(code::ADDED) => info!("route {name} is to run: {files} new, {such_as}{example}"),
            Ok(code::DUPLICATE) => info!("route {name} waits to be run already: {files} more, {such_as}{example}"),
            refusal => {
                if !has_refused {
                    let why = refusal.map_or_else(|why| why, |code| format!("code {code}"));
                    warn!("the job queue refuses to run route {name} ({why}); it is offered again and again");
                }
                lock(&self.marks).postpone(route, now + REFUSED_RETRY);
                return true;
            }
        }
        lock(&self.marks).done(route, mark, now);
        false
    }
}

impl Marks {
    fn mark(&mut self, route: &str, files: usize, example: PathBuf, now: Instant) {
        if let Some(mark) = self.marked.get_mut(route) {
            mark.files += files;
            mark.count += 1;
            return;
        }
        let pause = self.sent.get(route).map(|sent| *sent + PAUSE);
        let not_before = pause.map_or(now + GATHER, |pause| pause.max(now + GATHER));
        self.marked.insert(route.to_owned(), Mark { files, example, not_before, count: 0 });
    }

    /// The one that is due first.
    fn next(&self) -> Option<(String, Mark)> {
        let (route, mark) = self.marked.iter().min_by_key(|(_, mark)| mark.not_before)?;
        Some((route.clone(), mark.clone()))
    }

    /// The queue has it. What came since the call began needs another one.
    fn done(&mut self, route: &str, as_called: &Mark, now: Instant) {
        self.sent.insert(route.to_owned(), now);
        let Some(mark) = self.marked.get_mut(route) else { return };
        if mark.count == as_called.count {
            self.marked.remove(route);
        } else {
            mark.files -= as_called.files.min(mark.files);
            mark.not_before = now + PAUSE;
        }
    }

    fn postpone(&mut self, route: &str, to: Instant) {
        self.marked.get_mut(route).into_iter().for_each(|mark| mark.not_before = to);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(now: Instant) -> Marks {
        let mut marks = Marks::default();
        marks.mark("a", 1, "/in/1".into(), now);
        marks
    }

    #[test]
    fn files_that_come_together_are_one_run() {
        let now = Instant::now();
        let mut marks = marked(now);
        marks.mark("a", 2, "/in/2".into(), now + GATHER / 2);
        let (route, mark) = marks.next().expect("marked");
        assert_eq!((route.as_str(), mark.files, mark.not_before), ("a", 3, now + GATHER));
        marks.done("a", &mark, now);
        assert!(marks.next().is_none());
    }

    #[test]
    fn a_route_that_is_marked_during_the_call_is_handed_over_again() {
        let now = Instant::now();
        let mut marks = marked(now);
        let (_, mark) = marks.next().expect("marked");
        marks.mark("a", 1, "/in/2".into(), now);
        marks.done("a", &mark, now);
        let (_, again) = marks.next().expect("still marked");
        assert_eq!((again.files, again.not_before), (1, now + PAUSE));
    }

    #[test]
    fn a_stream_of_files_asks_the_queue_no_more_often_than_needed() {
        let now = Instant::now();
        let mut marks = marked(now);
        let (_, mark) = marks.next().expect("marked");
        marks.done("a", &mark, now);
        marks.mark("a", 1, "/in/2".into(), now + Duration::from_millis(10));
        assert_eq!(marks.next().expect("marked").1.not_before, now + PAUSE);
        marks.mark("b", 1, "/in/3".into(), now + Duration::from_millis(20));
        assert_eq!(marks.next().expect("marked").0, "b", "another route does not wait for it");
    }

    #[test]
    fn a_queue_that_is_away_is_asked_less_and_less() {
        let now = Instant::now();
        let mut outage = Outage::after(None, now);
        assert_eq!(outage.next, now + FIRST_RETRY);
        for _ in 0..10 {
            outage = Outage::after(Some(&outage), now);
        }
        assert_eq!(outage.next, now + LONGEST_RETRY);
    }

    #[test]
    fn a_refused_route_waits_for_itself_alone() {
        let now = Instant::now();
        let mut marks = marked(now);
        marks.mark("b", 1, "/in/2".into(), now);
        marks.postpone("a", now + REFUSED_RETRY);
        assert_eq!(marks.next().expect("marked").0, "b");
    }
}
