//! Several services as one: started one after the other, stopped in reverse, and ended together.

use std::pin::Pin;

use nix::libc::SIGTSTP;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::state::Termination;
use super::task::{ProcessMessage, ServiceResult, StopRequest};
use crate::process::signals::{self, Signals, is_stop_signal, stop_own_group};

/// One service of the group.
pub struct GroupMember {
    /// Its name in the log.
    pub name: &'static str,
    /// Cancelled when its turn to start has come.
    pub turn: CancellationToken,
    /// Requests to stop it.
    pub stop: UnboundedSender<StopRequest>,
    /// Signals to forward, if the service is a process.
    pub messages: Option<UnboundedSender<ProcessMessage>>,
    /// The task of the service; dropped if it is stopped before its turn.
    pub work: Pin<Box<dyn Future<Output = ServiceResult> + Send>>,
}

/// Why the services of a group stop.
#[derive(Default)]
pub struct Shutdown {
    /// bots-ctl will be executed again: running work finishes.
    pub reload: CancellationToken,
    /// The services have to stop, after a signal or because one of them exited. This also ends a reload.
    pub stop: CancellationToken,
    /// A signal has asked for the stop.
    pub signal: CancellationToken,
}

impl Shutdown {
    fn has_begun(&self) -> bool {
        self.reload.is_cancelled() || self.stop.is_cancelled()
    }

    fn is_reload(&self) -> bool {
        !self.stop.is_cancelled()
    }
}

/// Runs the services until all have ended, and forwards signals to them. The first service that exits stops the others:
/// a partial system would hide the failure. The result has each service's index and its end, in order of exit.
pub async fn run(members: Vec<GroupMember>, signals: &mut Signals, shutdown: &Shutdown) -> Vec<(usize, ServiceResult)> {
    let mut group = ServiceGroup::start(members, shutdown);
    let mut ends = Vec::new();
    while !group.tasks.is_empty() {
        tokio::select! {
            number = signals.next() => group.on_signal(number),
            () = shutdown.reload.cancelled(), if !shutdown.has_begun() => {}
            // A panic aborts the process, and these tasks are never cancelled.
            Some(joined) = group.tasks.join_next() => {
                ends.extend(joined);
                if !shutdown.has_begun() {
                    shutdown.stop.cancel();
                }
            }
        }
        if shutdown.has_begun() {
            group.stop_next();
        }
    }
    ends
}

/// A member whose work has been started, or waits for its turn.
struct Member {
    stop: UnboundedSender<StopRequest>,
    messages: Option<UnboundedSender<ProcessMessage>>,
    /// Cancelled by the first request to stop.
    requested: CancellationToken,
}

struct ServiceGroup<'a> {
    shutdown: &'a Shutdown,
    members: Vec<Member>,
    tasks: JoinSet<(usize, ServiceResult)>,
    /// Whether a signal has asked for the stop.
    was_asked: bool,
}

impl<'a> ServiceGroup<'a> {
    fn start(members: Vec<GroupMember>, shutdown: &'a Shutdown) -> Self {
        let mut group = Self { shutdown, members: Vec::new(), tasks: JoinSet::new(), was_asked: false };
        for (index, member) in members.into_iter().enumerate() {
            let GroupMember { name, turn, stop, messages, work } = member;
            let requested = CancellationToken::new();
            group.members.push(Member { stop, messages, requested: requested.clone() });
            group.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = requested.cancelled() => return (index, Ok(Termination::Stopped)),
                    () = turn.cancelled() => {}
                }
                let end = work.await;
                if let Err(error) = &end {
                    error!(service = name, "{error}");
                }
                (index, end)
            });
        }
        group
    }

    fn on_signal(&mut self, number: i32) {
        match number {
            // Ctrl-Z returns the prompt to the user; the services keep running.
            SIGTSTP => stop_own_group(),
            number if is_stop_signal(number) => {
                self.request_stop(&signals::name(number));
            }
            number => {
                for messages in self.members.iter().filter_map(|member| member.messages.as_ref()) {
                    let _ = messages.send(ProcessMessage::Forward(number));
                }
            }
        }
    }

    /// The first request begins the stop; one during a reload sets the usual limits again; a further one does not wait.
    fn request_stop(&mut self, signal: &str) {
        let was_reload = self.shutdown.has_begun() && self.shutdown.is_reload();
        self.shutdown.signal.cancel();
        self.shutdown.stop.cancel();
        let is_repeated = std::mem::replace(&mut self.was_asked, true);
        if is_repeated {
            info!("received {signal} again; no longer waiting");
        } else {
            info!("received {signal}; stopping");
        }
        if was_reload {
            self.members.iter().filter(|member| member.requested.is_cancelled()).for_each(|member| self.stop(member));
        } else if is_repeated {
            self.members.iter().rev().for_each(|member| self.stop(member));
        }
    }

    /// Stops the last started service, unless a stop is in progress: each service may still need those before it.
    fn stop_next(&self) {
        let alive = || self.members.iter().rev().filter(|member| !member.stop.is_closed());
        if !alive().any(|member| member.requested.is_cancelled()) {
            alive().take(1).for_each(|member| self.stop(member));
        }
    }

    fn stop(&self, member: &Member) {
        member.requested.cancel();
        let _ = member.stop.send(StopRequest { for_reload: self.shutdown.is_reload() });
    }
}
