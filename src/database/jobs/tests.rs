//! The line, and the life of a job.

use super::*;

fn new(task: &str, priority: i64) -> New {
    New { priority, task: task.to_owned(), digest: task.to_owned() }
}

async fn jobs(dir: &tempfile::TempDir) -> Jobs {
    let settings = Settings::Sqlite(dir.path().join("db"));
    std::fs::write(dir.path().join("db"), "").expect("made");
    Jobs::open(&settings, "me", || {}).await.expect("opened")
}

#[tokio::test]
async fn the_line_is_ordered_and_holds_nothing_twice() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut jobs = jobs(&dir).await;
    let wanted = [new("a", 5), new("b", 5), new("c", 1), new("b", 5), new("a", 9)];
    let added = jobs.add(&wanted, 7).await.expect("added");
    let expected = [Added::New(1), Added::New(2), Added::New(3), Added::Duplicate(2), Added::Changed(1)];
    assert_eq!(added, expected);
    let line: Vec<i64> = jobs.list().await.expect("listed").iter().map(|job| job.number).collect();
    assert_eq!(line, [3, 2, 1]);
    assert_eq!(jobs.first().await.expect("read").map(|job| job.task), Some("c".to_owned()));
    jobs.start(3, 8).await.expect("started");
    assert_eq!(jobs.add(&[new("c", 1)], 9).await.expect("added"), [Added::New(4)]);
    assert_eq!(jobs.count().await.expect("counted"), (3, Some(7)));
    assert_eq!(jobs.clear().await.expect("cleared"), 3);
    assert_eq!(jobs.count().await.expect("counted"), (0, None));
    assert_eq!(jobs.running().await.expect("read"), [3]);
}

#[tokio::test]
async fn a_job_is_known_from_its_submission_to_its_end() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut jobs = jobs(&dir).await;
    jobs.add(&[new("a", 5)], 7).await.expect("added");
    jobs.start(1, 8).await.expect("started");
    jobs.put_back(1).await.expect("put back");
    assert_eq!(jobs.first().await.expect("read").map(|job| job.number), Some(1));
    jobs.start(1, 9).await.expect("started");
    let ended = Ended { state: State::Failed, exit_code: Some(2), output: "the end".to_owned() };
    jobs.end(1, &ended, 10).await.expect("ended");
    let job = jobs.show(1).await.expect("read").expect("it is there");
    assert_eq!((job.state, job.attempts, job.exit_code), (State::Failed, 2, Some(2)));
    assert_eq!((job.submitted, job.started, job.ended), (7, Some(9), Some(10)));
    assert_eq!(job.output.as_deref(), Some("the end"));
    assert_eq!(jobs.show(2).await.expect("read"), None);
    jobs.prune(1).await.expect("pruned");
    assert!(jobs.show(1).await.expect("read").is_some());
    jobs.prune(0).await.expect("pruned");
    assert_eq!(jobs.show(1).await.expect("read"), None);
}
