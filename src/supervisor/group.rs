//! Several services as one: started one after the other, stopped in reverse, and ended together.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info};

use super::periodic::run_every;
use super::state::End;
use super::task::{Control, Service, Snapshot, supervise};
use crate::process::child::SpawnError;
use crate::process::reaper::Reaper;

/// Messages that may wait for a service; it reads them at once.
const CONTROLS: usize = 64;

/// One service of the fleet.
pub struct Member {
    /// Its name in the log.
    pub name: &'static str,
    /// What it does.
    pub work: Work,
    /// Resolves when its turn to start has come.
    pub turn: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What a service does, and where.
pub enum Work {
    /// It is a process.
    Process(Box<Process>),
    /// It is a part of this program, which is told the same things.
    Task(Task),
}

/// A service that is a process.
pub struct Process {
    /// What runs.
    pub service: Service,
    /// Set for a service that is meant to end, and is run so often.
    pub every: Option<Duration>,
    /// Told at every change of its life.
    pub observe: Box<dyn FnMut(Snapshot) + Send>,
}

/// A service that is a part of this program.
pub type Task = Box<dyn FnOnce(mpsc::Receiver<Control>) -> Pin<Box<dyn Future<Output = Ended> + Send>> + Send>;

/// What the fleet is asked from outside.
pub enum Request {
    /// Stop everything in order; once more: all at once; and once more: now.
    Stop,
    /// Pass this signal on to every service.
    Forward(i32),
    /// Something for the service at this place.
    Tell(usize, Control),
}

/// How a service ended: as asked, by itself, or it was never started.
pub type Ended = Result<End, SpawnError>;

/// Runs the services until all have ended. The first that ends by itself takes the others with it: a system with a
/// missing part is not whole. The answer holds the service's place and its end, in the order of the ends.
///
/// `next` gives the requests, `stopping` is called once before anything is stopped.
pub async fn run(
    members: Vec<Member>,
    reaper: &Reaper,
    mut next: impl AsyncFnMut() -> Request,
    stopping: impl FnOnce(),
) -> Vec<(usize, Ended)> {
    let mut fleet = Fleet::start(members, reaper);
    let mut stopping = Some(stopping);
    let mut ends = Vec::new();
    while !fleet.tasks.is_empty() {
        let is_stop = tokio::select! {
            request = next() => {
                let is_stop = matches!(request, Request::Stop);
                fleet.pass(request).await;
                is_stop
            }
            Some(joined) = fleet.tasks.join_next() => {
                // A panic aborts the process, and nothing cancels these tasks.
                ends.extend(joined);
                true
            }
        };
        if let Some(stopping) = stopping.take_if(|_| is_stop) {
            stopping();
        }
        if is_stop {
            fleet.stop_next().await;
        }
    }
    ends
}

struct Fleet {
    names: Vec<&'static str>,
    controls: Vec<mpsc::Sender<Control>>,
    tasks: JoinSet<(usize, Ended)>,
    /// Which of them were asked to stop.
    asked: Vec<bool>,
    requests: u32,
}

impl Fleet {
    fn start(members: Vec<Member>, reaper: &Reaper) -> Self {
        let mut fleet =
            Self { names: Vec::new(), controls: Vec::new(), tasks: JoinSet::new(), asked: Vec::new(), requests: 0 };
        for (place, member) in members.into_iter().enumerate() {
            let (sender, control) = mpsc::channel(CONTROLS);
            fleet.names.push(member.name);
            fleet.controls.push(sender);
            fleet.asked.push(false);
            let reaper = reaper.clone();
            fleet.tasks.spawn(async move { (place, live(member, &reaper, control).await) });
        }
        fleet
    }

    async fn pass(&mut self, request: Request) {
        match request {
            Request::Forward(number) => {
                for control in &self.controls {
                    let _ = control.send(Control::Forward(number)).await;
                }
            }
            Request::Tell(place, told) => {
                let _ = self.controls[place].send(told).await;
            }
            Request::Stop => {
                self.requests += 1;
                if self.requests > 1 {
                    info!("asked to stop again: not waiting any longer");
                    for place in (0..self.controls.len()).rev() {
                        self.stop(place).await;
                    }
                }
            }
        }
    }

    /// Stops the last one that was started, unless one is being stopped: each may still need those before it.
    async fn stop_next(&mut self) {
        let is_alive = |place: &usize| !self.controls[*place].is_closed();
        let alive: Vec<usize> = (0..self.controls.len()).rev().filter(is_alive).collect();
        if alive.iter().any(|place| self.asked[*place]) {
            return;
        }
        if let Some(place) = alive.first() {
            self.stop(*place).await;
        }
    }

    async fn stop(&mut self, place: usize) {
        self.asked[place] = true;
        let _ = self.controls[place].send(Control::Stop).await;
    }
}

/// One service from its turn to its end.
async fn live(mut member: Member, reaper: &Reaper, mut control: mpsc::Receiver<Control>) -> Ended {
    let Some(kept) = turn(&mut member, &mut control).await else { return Ok(End::Stopped) };
    let end = match member.work {
        Work::Task(task) => task(control).await,
        Work::Process(process) => run_process(*process, reaper, control, kept).await,
    };
    if let Err(error) = &end {
        error!(service = member.name, "{error}");
    }
    end
}

async fn run_process(process: Process, reaper: &Reaper, mut control: mpsc::Receiver<Control>, kept: Vec<i32>) -> Ended {
    let Process { mut service, every, mut observe } = process;
    match every {
        Some(every) => run_every(every, &mut service, reaper, &mut control, &mut observe).await,
        None => supervise(&mut service, reaper, &mut control, kept, &mut observe).await,
    }
}

/// Waits for the turn. The answer is the signals that came meanwhile; none when a stop was asked for.
async fn turn(member: &mut Member, control: &mut mpsc::Receiver<Control>) -> Option<Vec<i32>> {
    let mut kept = Vec::new();
    loop {
        tokio::select! {
            () = &mut member.turn => return Some(kept),
            told = control.recv() => match told {
                Some(Control::Forward(number)) => kept.push(number),
                Some(Control::Renew(next)) => {
                    if let Work::Process(process) = &mut member.work {
                        process.service = *next;
                    }
                }
                Some(Control::Answered(_) | Control::Hung(_)) => {}
                Some(Control::Stop) | None => return None,
            },
        }
    }
}
