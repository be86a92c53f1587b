//! Several services as one: started one after the other, stopped in reverse, and ended together.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info};

use super::periodic::run_every;
use super::state::Termination;
use super::task::{ServiceCommand, ServiceSnapshot, SupervisedService, supervise};
use crate::process::child::SpawnError;
use crate::process::reaper::Reaper;

/// Messages that may wait for a service; it reads them at once.
const MAX_QUEUED_COMMANDS: usize = 64;

/// One service of the fleet.
pub struct GroupMember {
    /// Its name in the log.
    pub name: &'static str,
    /// What it does.
    pub work: MemberKind,
    /// Resolves when its turn to start has come.
    pub turn: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What a service does, and where.
pub enum MemberKind {
    /// It is a process.
    Process(Box<ChildMember>),
    /// It is a part of this program, which is told the same things.
    Task(InProcessService),
}

/// A service that is a process.
pub struct ChildMember {
    /// What runs.
    pub service: SupervisedService,
    /// Set for a service that is meant to end, and is run so often.
    pub every: Option<Duration>,
    /// Told at every change of its life.
    pub observe: Box<dyn FnMut(ServiceSnapshot) + Send>,
}

/// A service that is a part of this program.
pub type InProcessService =
    Box<dyn FnOnce(mpsc::Receiver<ServiceCommand>) -> Pin<Box<dyn Future<Output = ServiceResult> + Send>> + Send>;

/// What the fleet is asked from outside.
pub enum GroupCommand {
    /// Stop everything in order; once more: all at once; and once more: now.
    Stop,
    /// Stop everything in order, and let finish what runs, since bots-ctl starts again.
    StopForReload,
    /// Pass this signal on to every service.
    Forward(i32),
    /// Something for the service at this place.
    ToService(usize, ServiceCommand),
}

/// How a service ended: as asked, by itself, or it was never started.
pub type ServiceResult = Result<Termination, SpawnError>;

/// Runs the services until all have ended. The first that ends by itself takes the others with it: a system with a
/// missing part is not whole. The answer holds the service's place and its end, in the order of the ends.
///
/// `next` gives the requests; `stopping` is called before anything is stopped, and with whether that is for a reload.
pub async fn run(
    members: Vec<GroupMember>,
    reaper: &Reaper,
    mut next: impl AsyncFnMut() -> GroupCommand,
    stopping: impl Fn(bool),
) -> Vec<(usize, ServiceResult)> {
    let mut fleet = ServiceGroup::start(members, reaper);
    let mut ends = Vec::new();
    while !fleet.tasks.is_empty() {
        tokio::select! {
            request = next() => fleet.dispatch(request).await,
            Some(joined) = fleet.tasks.join_next() => {
                // A panic aborts the process, and nothing cancels these tasks.
                ends.extend(joined);
                fleet.is_stopping = true;
            }
        }
        if fleet.is_stopping {
            stopping(fleet.is_reload);
            fleet.stop_next().await;
        }
    }
    ends
}

struct ServiceGroup {
    controls: Vec<mpsc::Sender<ServiceCommand>>,
    tasks: JoinSet<(usize, ServiceResult)>,
    /// Which of them were asked to stop.
    requested: Vec<bool>,
    is_stopping: bool,
    /// Whether that is for a reload.
    is_reload: bool,
    requests: u32,
}

impl ServiceGroup {
    fn start(members: Vec<GroupMember>, reaper: &Reaper) -> Self {
        let mut fleet = Self {
            controls: Vec::new(),
            tasks: JoinSet::new(),
            requested: Vec::new(),
            is_stopping: false,
            is_reload: false,
            requests: 0,
        };
        for (index, member) in members.into_iter().enumerate() {
            let (sender, control) = mpsc::channel(MAX_QUEUED_COMMANDS);
            fleet.controls.push(sender);
            fleet.requested.push(false);
            let reaper = reaper.clone();
            fleet.tasks.spawn(async move { (index, run_member(member, &reaper, control).await) });
        }
        fleet
    }

    async fn dispatch(&mut self, request: GroupCommand) {
        match request {
            GroupCommand::Forward(number) => {
                for control in &self.controls {
                    let _ = control.send(ServiceCommand::Forward(number)).await;
                }
            }
            GroupCommand::ToService(index, command) => {
                let _ = self.controls[index].send(command).await;
            }
            GroupCommand::StopForReload => {
                self.is_reload |= !self.is_stopping;
                self.is_stopping = true;
            }
            GroupCommand::Stop => {
                (self.is_stopping, self.requests) = (true, self.requests + 1);
                if std::mem::take(&mut self.is_reload) {
                    for member in (0..self.controls.len()).filter(|member| self.requested[*member]).collect::<Vec<_>>()
                    {
                        self.stop(member).await;
                    }
                } else if self.requests > 1 {
                    info!("asked to stop again: not waiting any longer");
                    for member in (0..self.controls.len()).rev() {
                        self.stop(member).await;
                    }
                }
            }
        }
    }

    /// Stops the last one that was started, unless one is being stopped: each may still need those before it.
    async fn stop_next(&mut self) {
        let is_alive = |index: &usize| !self.controls[*index].is_closed();
        let alive: Vec<usize> = (0..self.controls.len()).rev().filter(is_alive).collect();
        if alive.iter().any(|member| self.requested[*member]) {
            return;
        }
        if let Some(member_index) = alive.first() {
            self.stop(*member_index).await;
        }
    }

    async fn stop(&mut self, index: usize) {
        self.requested[index] = true;
        let command = if self.is_reload { ServiceCommand::StopForReload } else { ServiceCommand::Stop };
        let _ = self.controls[index].send(command).await;
    }
}

/// One service from its turn to its end.
async fn run_member(
    mut member: GroupMember,
    reaper: &Reaper,
    mut control: mpsc::Receiver<ServiceCommand>,
) -> ServiceResult {
    let Some(pending_signals) = wait_for_turn(&mut member, &mut control).await else { return Ok(Termination::Stopped) };
    let end = match member.work {
        MemberKind::Task(task) => task(control).await,
        MemberKind::Process(process) => run_process(*process, reaper, control, pending_signals).await,
    };
    if let Err(error) = &end {
        error!(service = member.name, "{error}");
    }
    end
}

async fn run_process(
    process: ChildMember,
    reaper: &Reaper,
    mut control: mpsc::Receiver<ServiceCommand>,
    pending_signals: Vec<i32>,
) -> ServiceResult {
    let ChildMember { service, every, mut observe } = process;
    match every {
        Some(every) => run_every(every, &service, reaper, &mut control, &mut observe).await,
        None => supervise(&service, reaper, &mut control, pending_signals, &mut observe).await,
    }
}

/// Waits for the turn. The answer is the signals that came meanwhile; none when a stop was asked for.
async fn wait_for_turn(member: &mut GroupMember, control: &mut mpsc::Receiver<ServiceCommand>) -> Option<Vec<i32>> {
    let mut pending_signals = Vec::new();
    loop {
        tokio::select! {
            () = &mut member.turn => return Some(pending_signals),
            command = control.recv() => match command {
                Some(ServiceCommand::Forward(number)) => pending_signals.push(number),
                Some(ServiceCommand::MarkAlive(_) | ServiceCommand::MarkUnresponsive(_)) => {}
                Some(ServiceCommand::Stop | ServiceCommand::StopForReload) | None => return None,
            },
        }
    }
}
