//! The order of waiting jobs, and the life cycle of a job.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn new(task: &str, priority: i64) -> NewJob {
    NewJob { priority, task: task.to_owned(), digest: task.to_owned() }
}

async fn jobs(dir: &tempfile::TempDir) -> JobStore {
    let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
    std::fs::write(dir.path().join("db"), "").expect("made");
    JobStore::open(&settings, "me", &Notify::new()).await.expect("opened")
}

#[tokio::test]
async fn waiting_jobs_are_ordered_and_unique() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut jobs = jobs(&dir).await;
    let wanted = [new("a", 5), new("b", 5), new("c", 1), new("b", 5), new("a", 9)];
    let added = jobs.add(&wanted, 7).await.expect("added");
    let expected = [
        AddOutcome::Added(1),
        AddOutcome::Added(2),
        AddOutcome::Added(3),
        AddOutcome::Duplicate(2),
        AddOutcome::PriorityChanged(1),
    ];
    assert_eq!(added, expected);
    let line: Vec<i64> = jobs.list().await.expect("listed").iter().map(|job| job.number).collect();
    assert_eq!(line, [3, 2, 1]);
    assert_eq!(jobs.first().await.expect("read").map(|job| job.task), Some("c".to_owned()));
    jobs.start(3, 8).await.expect("started");
    assert_eq!(jobs.add(&[new("c", 1)], 9).await.expect("added"), [AddOutcome::Added(4)]);
    assert_eq!(jobs.count().await.expect("counted"), WaitingJobs { count: 3, oldest: Some(7) });
    assert_eq!(jobs.clear().await.expect("cleared"), 3);
    assert_eq!(jobs.count().await.expect("counted"), WaitingJobs::default());
    assert_eq!(jobs.running().await.expect("read"), [(3, 1)]);
}

#[tokio::test]
async fn job_record_covers_submission_to_end() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut jobs = jobs(&dir).await;
    jobs.add(&[new("a", 5)], 7).await.expect("added");
    jobs.start(1, 8).await.expect("started");
    jobs.requeue(1).await.expect("put back");
    assert_eq!(jobs.first().await.expect("read").map(|job| job.number), Some(1));
    jobs.start(1, 9).await.expect("started");
    jobs.postpone(1).await.expect("put back");
    assert_eq!(jobs.first().await.expect("read").map(|job| job.attempts), Some(1));
    jobs.start(1, 9).await.expect("started");
    let result = JobResult { is_success: false, ended: 10, exit_code: Some(2), output: "the end".to_owned() };
    jobs.end(1, &result).await.expect("ended");
    let job = jobs.show(1).await.expect("read").expect("it is there");
    assert_eq!((job.state.as_str(), job.attempts, job.exit_code), ("failed", 2, Some(2)));
    assert_eq!((job.submitted, job.started, job.ended), (7, Some(9), Some(10)));
    assert_eq!(job.output.as_deref(), Some("the end"));
    assert_eq!(jobs.show(2).await.expect("read"), None);
    jobs.prune(1).await.expect("pruned");
    assert!(jobs.show(1).await.expect("read").is_some());
    jobs.prune(0).await.expect("pruned");
    assert_eq!(jobs.show(1).await.expect("read"), None);
}

#[tokio::test]
async fn duplicate_refers_to_older_of_two_equal_jobs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut jobs = jobs(&dir).await;
    jobs.add(&[new("a", 5)], 7).await.expect("added");
    jobs.start(1, 8).await.expect("started");
    jobs.add(&[new("a", 5)], 9).await.expect("added");
    jobs.requeue(1).await.expect("put back");
    assert_eq!(jobs.add(&[new("a", 5)], 10).await.expect("added"), [AddOutcome::Duplicate(1)]);
    assert_eq!(jobs.add(&[new("a", 4)], 10).await.expect("added"), [AddOutcome::PriorityChanged(1)]);
}

#[tokio::test]
async fn of_jobs_that_are_added_together_all_are_written_or_none() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut jobs = jobs(&dir).await;
    jobs.add(&[new("a", 5)], 7).await.expect("added");
    let index = "CREATE UNIQUE INDEX one_job_each ON botsctl_job (priority)";
    jobs.change("change", index, &[]).await.expect("created");
    for rejected in [&[new("b", 6), new("c", 5)][..], &[new("b", 6), new("a", 7), new("c", 7)]] {
        jobs.add(rejected, 8).await.expect_err("two jobs have the same priority");
        let line = jobs.list().await.expect("listed");
        assert_eq!(line, [QueuedJob { number: 1, priority: 5, task: "a".to_owned(), attempts: 0 }]);
    }
    assert_eq!(
        jobs.add(&[new("b", 6), new("a", 7)], 9).await.expect("added"),
        [AddOutcome::Added(2), AddOutcome::PriorityChanged(1)]
    );
}

/// The operations on waiting jobs.
#[derive(Debug, Clone)]
enum Step {
    Add(Vec<(u8, i64)>),
    Start,
    PutBack(prop::sample::Index),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => vec((0..6_u8, 0..10_i64), 1..4).prop_map(Step::Add),
        2 => Just(Step::Start),
        1 => any::<prop::sample::Index>().prop_map(Step::PutBack),
        1 => Just(Step::Clear),
    ]
}

/// The expected waiting jobs: the priority and the task of each by its number.
#[derive(Default)]
struct Line {
    waiting: BTreeMap<i64, (i64, String)>,
    running: BTreeMap<i64, (i64, String)>,
    last: i64,
}

impl Line {
    fn add(&mut self, job: &NewJob) -> AddOutcome {
        match self.waiting.iter_mut().find(|(_, (_, task))| *task == job.task) {
            Some((number, (priority, _))) if *priority == job.priority => AddOutcome::Duplicate(*number),
            Some((number, (priority, _))) => {
                *priority = job.priority;
                AddOutcome::PriorityChanged(*number)
            }
            None => {
                self.last += 1;
                self.waiting.insert(self.last, (job.priority, job.task.clone()));
                AddOutcome::Added(self.last)
            }
        }
    }

    fn order(&self) -> Vec<(i64, i64, String)> {
        let mut order: Vec<_> = self.waiting.iter().map(|(number, (p, task))| (*p, *number, task.clone())).collect();
        order.sort();
        order
    }
}

proptest! {
    /// The lowest priority first, the oldest of the same priority first, each task once, after any sequence of
    /// operations.
    #[test]
    fn waiting_jobs_stay_ordered_after_any_operations(steps in vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let (mut jobs, mut line) = (jobs(&dir).await, Line::default());
            for step in steps {
                match step {
                    Step::Add(wanted) => {
                        let wanted: Vec<NewJob> =
                            wanted.iter().map(|(task, priority)| new(&format!("task {task}"), *priority)).collect();
                        let added = jobs.add(&wanted, 7).await.expect("added");
                        let expected: Vec<AddOutcome> = wanted.iter().map(|job| line.add(job)).collect();
                        prop_assert_eq!(added, expected);
                    }
                    Step::Start => {
                        let first = jobs.first().await.expect("read");
                        let expected = line.order().into_iter().next().map(|(_, number, _)| number);
                        prop_assert_eq!(first.map(|job| job.number), expected);
                        if let Some((number, job)) = expected.and_then(|number| line.waiting.remove_entry(&number)) {
                            jobs.start(number, 8).await.expect("started");
                            line.running.insert(number, job);
                        }
                    }
                    Step::PutBack(index) if !line.running.is_empty() => {
                        let number = *index.get(&line.running.keys().copied().collect::<Vec<_>>());
                        jobs.requeue(number).await.expect("put back");
                        line.waiting.extend(line.running.remove_entry(&number));
                    }
                    Step::PutBack(_) => {}
                    Step::Clear => {
                        prop_assert_eq!(jobs.clear().await.expect("cleared"), line.waiting.len() as u64);
                        line.waiting.clear();
                    }
                }
                let found = jobs.list().await.expect("listed");
                let found: Vec<_> = found.into_iter().map(|job| (job.priority, job.number, job.task)).collect();
                prop_assert_eq!(found, line.order());
            }
            Ok(())
        })?;
    }
}
