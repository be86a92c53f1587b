//! The requests of clients.

use tokio::time::Instant;
use tracing::info;

use super::super::command_line::JobCommand;
use super::super::request_id::RequestId;
use super::batch_window::BatchWindow;
use super::worker::{JobUpdate, Worker, now_ms};
use super::{Reply, Request, Unavailable};
use crate::database::jobs::{AddOutcome, NewJob, QueuedJob};

impl Worker {
    pub(super) async fn handle_requests(&mut self, requests: Vec<Request>) {
        let (mut jobs, mut clients) = (Vec::new(), Vec::new());
        for request in requests {
            match request {
                Request::Add(job, request_id, reply) => {
                    jobs.push(job);
                    clients.push((request_id, reply));
                }
                Request::List(reply) => send_reply(reply, self.db.with(async |jobs| jobs.list().await).await),
                Request::History(only_failed, reply) => {
                    send_reply(reply, self.db.with(async |jobs| jobs.history(only_failed).await).await);
                }
                // The client has been told that the queue is unavailable, so nothing may be removed for it.
                Request::Clear(reply) if reply.is_closed() => {}
                Request::Take(reply) if reply.is_closed() => {}
                Request::Clear(reply) => {
                    let cleared = self.db.with(async |jobs| jobs.clear().await).await;
                    if cleared.is_ok() {
                        self.status.send_modify(|status| status.counts.waiting = 0);
                    }
                    send_reply(reply, cleared);
                }
                Request::Take(reply) => self.take(reply).await,
                Request::Show(number, reply) => {
                    send_reply(reply, self.db.with(async |jobs| jobs.show(number).await).await);
                }
            }
        }
        if !jobs.is_empty() {
            self.add(&jobs, clients).await;
        }
    }

    async fn add(&mut self, jobs: &[NewJob], clients: Vec<(RequestId, Reply<AddOutcome>)>) {
        let (now, begin) = (now_ms(), Instant::now());
        let Ok(added) = self.db.with(async |rows| rows.add(jobs, now).await).await else {
            clients.into_iter().for_each(|(_, reply)| send_reply(reply, Err(Unavailable)));
            return;
        };
        self.window = BatchWindow::after_commit(jobs.len(), self.requests.len(), begin);
        for ((new, added), (request_id, reply)) in jobs.iter().zip(added).zip(clients) {
            let (task, priority) = (JobCommand::from_json(&new.task), new.priority);
            match added {
                AddOutcome::Added(job) => {
                    self.status.send_modify(|status| status.counts.waiting += 1);
                    info!(job, %request_id, "job {job} with priority {priority}: {task}");
                }
                AddOutcome::PriorityChanged(job) => {
                    info!(job, %request_id, "job {job} now has priority {priority}: {task}");
                }
                AddOutcome::Duplicate(job) => {
                    info!(job, %request_id, "job {job} is already waiting, not added again: {task}");
                }
            }
            send_reply(reply, Ok(added));
        }
    }

    /// Removes the first job, unless the client is gone by then: it would be lost.
    async fn take(&mut self, reply: Reply<Option<QueuedJob>>) {
        let first = match self.start_first().await {
            Ok(Some(first)) => first,
            other => return send_reply(reply, other),
        };
        let number = first.number;
        let update = match reply.send(Ok(Some(first))) {
            Ok(()) => {
                info!(job = number, "getjob took job {number}");
                JobUpdate::finished(true, None, "removed by getjob".to_owned())
            }
            Err(_) => JobUpdate::Postpone,
        };
        self.record(number, update).await;
    }
}

/// The client may have disconnected.
fn send_reply<T>(reply: Reply<T>, response: Result<T, Unavailable>) {
    let _ = reply.send(response);
}
